//! The control thread: slow work on files and names, away from the engines.
//!
//! One thread for the process, on a tokio-uring runtime. Engines send [`Task`]s and hear of the
//! outcome as [`News`]; nothing here is on the path of a request. Whatever writes much does so at a
//! bounded pace, because a disk that is kept as busy as it can be makes every sync wait.
//!
//! | module | one line |
//! |---|---|
//! | `segment` | segments of the log: made, zeroed ahead, renamed, removed |
//! | `snapshot` | snapshot files: written, read back, published |
//! | `keeper` | what may go from the disk, and whether there is room on it |
//! | `pace` | how fast all of that may be |

mod keeper;
mod pace;
mod segment;
mod snapshot;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pigeonhole_core::base::id::{CoreId, ServerId};
use pigeonhole_core::effect::{Discarded, SnapshotJob};
use pigeonhole_storage::disk::SegmentId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::keeper::Keeper;
pub(crate) use self::keeper::{CoreHoldings, Keeping};
use self::pace::Pace;
use self::segment::{Preparation, Workshop};
use self::snapshot::{Queue, Subject, Taken};
use crate::config::HostPort;
use crate::exit::{self, Failure};
use crate::mailbox::{House, News};
use crate::os;
use crate::patience::{LastTime, ask_until};
use crate::ring::RingError;

/// One engine's way to the control thread.
#[derive(Clone)]
pub(crate) struct Desk {
    tasks: UnboundedSender<(Sender, Task)>,
    sender: Sender,
    pace: Arc<Pace>,
}

/// The process's control thread. It ends with the process.
pub(crate) struct Control {
    tasks: UnboundedSender<(Sender, Task)>,
    pace: Arc<Pace>,
}

/// How an engine's files are made.
#[derive(Clone)]
pub(crate) struct LogDirectory {
    pub(crate) path: Arc<Path>,
    /// Past the page cache.
    pub(crate) direct: bool,
}

/// Who wants something, and hears of it.
#[derive(Clone)]
struct Sender {
    node: NodeNumber,
    house: Arc<House>,
    core: CoreId,
}

/// Tells the servers of this process apart.
pub(crate) type NodeNumber = usize;

enum Task {
    /// The first of a server.
    Keep(Box<Keeping>),
    Holdings(CoreHoldings),
    Snapshot(Box<SnapshotJob>),
    /// To be dropped.
    Discard(Discarded),
    Prepare {
        directory: LogDirectory,
        segment: SegmentId,
        bytes: u64,
        recycle: Option<SegmentId>,
    },
    StopZeroing {
        path: PathBuf,
    },
    Retire {
        directory: LogDirectory,
        segment: SegmentId,
    },
    Resolve {
        peer: ServerId,
        address: HostPort,
    },
}

impl Control {
    pub(crate) fn start() -> Result<Self, Failure> {
        let (tasks, inbox) = unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let pace = Arc::<Pace>::default();
        let thread_pace = pace.clone();
        let thread = std::thread::Builder::new().name("control".to_owned());
        let spawned = thread.spawn(move || {
            // Snapshots are long work that nobody waits for; requests are short, and somebody does.
            if let Err(error) = os::step_back() {
                tracing::debug!("the control thread takes as much as any other: {error}");
            }
            match open_runtime() {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(serve(inbox, thread_pace));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        });
        spawned.map_err(cannot_start)?;
        match is_ready.recv() {
            Ok(Ok(())) => Ok(Self { tasks, pace }),
            Ok(Err(error)) => Err(cannot_start(error)),
            Err(ended) => Err(cannot_start(io::Error::other(ended))),
        }
    }

    /// The desk of one engine, whose house is told the outcome.
    pub(crate) fn desk(&self, node: NodeNumber, house: Arc<House>, core: CoreId) -> Desk {
        let sender = Sender { node, house, core };
        Desk { tasks: self.tasks.clone(), sender, pace: self.pace.clone() }
    }
}

impl Desk {
    pub(crate) fn prepare(
        &self,
        directory: &LogDirectory,
        segment: SegmentId,
        bytes: u64,
        recycle: Option<SegmentId>,
    ) {
        let directory = directory.clone();
        self.send(Task::Prepare { directory, segment, bytes, recycle });
    }

    /// The log grows faster than its segment is zeroed. What is left of it will do as it is.
    pub(crate) fn stop_zeroing(&self, directory: &LogDirectory, segment: SegmentId) {
        self.send(Task::StopZeroing { path: directory.path_of(segment) });
    }

    pub(crate) fn retire(&self, directory: &LogDirectory, segment: SegmentId) {
        self.send(Task::Retire { directory: directory.clone(), segment });
    }

    /// Looks after a server's disk from now on.
    pub(crate) fn keep(&self, keeping: Keeping) {
        self.send(Task::Keep(Box::new(keeping)));
    }

    pub(crate) fn hold(&self, holdings: CoreHoldings) {
        self.send(Task::Holdings(holdings));
    }

    pub(crate) fn snapshot(&self, job: SnapshotJob) {
        self.send(Task::Snapshot(Box::new(job)));
    }

    pub(crate) fn discard(&self, state: Discarded) {
        self.send(Task::Discard(state));
    }

    pub(crate) fn resolve(&self, peer: ServerId, address: &HostPort) {
        self.send(Task::Resolve { peer, address: address.clone() });
    }

    /// What a log write took: where it rises, zeroing slows down.
    pub(crate) fn note_sync(&self, micros: u64) {
        self.pace.note(micros);
    }

    fn send(&self, task: Task) {
        // The thread lives as long as the process; without it there is nothing to do either.
        let _ = self.tasks.send((self.sender.clone(), task));
    }
}

impl Sender {
    fn tell(&self, news: News) {
        self.house.tell(self.core, news);
    }
}

fn open_runtime() -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag();
    let mut builder = tokio_uring::builder();
    // Few operations are under way at a time, and lockable memory is scarce.
    builder.entries(8).uring_builder(&ring);
    ask_until(UNCHARGE_TIME_MAX, |LastTime(last)| match tokio_uring::Runtime::new(&builder) {
        // A process that has just ended is uncharged by a kernel worker some time later.
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && !last => {
            // Without success it is tried all the same.
            let _ = os::raise_lockable_memory();
            None
        }
        outcome => Some(outcome),
    })
}

fn cannot_start(error: io::Error) -> Failure {
    Failure::environment(RingError::of("the start of the control thread", error))
}

/// Who looks after each server's disk.
type Keepers = Rc<RefCell<BTreeMap<NodeNumber, Keeper>>>;

/// What the thread looks after.
struct Office {
    workshop: Workshop,
    keepers: Keepers,
    snapshots: Queue,
}

async fn serve(mut inbox: UnboundedReceiver<(Sender, Task)>, pace: Arc<Pace>) {
    let office = Office {
        workshop: Workshop::new(pace),
        keepers: Rc::default(),
        snapshots: Queue::default(),
    };
    let mut watch = tokio::time::interval(WATCH_PERIOD);
    loop {
        tokio::select! {
            task = inbox.recv() => match task {
                Some((sender, task)) => office.on_task(sender, task),
                None => return,
            },
            _ = watch.tick() => office.keepers.borrow_mut().values_mut().for_each(Keeper::watch),
        }
    }
}

impl Office {
    fn on_task(&self, sender: Sender, task: Task) {
        match task {
            Task::Keep(keeping) => {
                let keeper = Keeper::new(sender.house, *keeping);
                self.keepers.borrow_mut().insert(sender.node, keeper);
            }
            Task::Holdings(holdings) => {
                let core = sender.core;
                self.with_keeper(&sender, |keeper| keeper.on_holdings(core, holdings));
            }
            Task::Snapshot(job) => self.snapshot(sender, *job),
            Task::Discard(state) => drop(state),
            Task::Prepare { directory, segment, bytes, recycle } => {
                let job = Preparation { sender: sender.clone(), directory, segment, bytes };
                match recycle {
                    Some(recycle) => {
                        segment::rename(job, recycle);
                        self.with_keeper(&sender, |keeper| keeper.on_recycled(sender.core));
                    }
                    None => self.create(sender, job),
                }
            }
            Task::StopZeroing { path } => self.workshop.stop_zeroing(&path),
            Task::Retire { directory, segment } => {
                segment::retire(&sender, &directory, segment);
            }
            Task::Resolve { peer, address } => resolve(sender, peer, address),
        }
    }

    fn create(&self, sender: Sender, job: Preparation) {
        let (workshop, keepers) = (self.workshop.clone(), self.keepers.clone());
        tokio_uring::spawn(async move {
            let has_room = segment::create(job, workshop).await;
            if !has_room {
                with_keeper(&keepers, &sender, |keeper| keeper.on_no_room(sender.core));
            }
        });
    }

    fn snapshot(&self, sender: Sender, job: SnapshotJob) {
        if !self.snapshots.add(sender, job) {
            return;
        }
        let (queue, keepers) = (self.snapshots.clone(), self.keepers.clone());
        let pace = self.workshop.pace.clone();
        tokio_uring::spawn(async move {
            while let Some((sender, job)) = queue.next() {
                take_snapshot(&sender, job, &keepers, &pace).await;
            }
        });
    }

    fn with_keeper<T>(&self, sender: &Sender, act: impl FnOnce(&mut Keeper) -> T) -> T {
        with_keeper(&self.keepers, sender, act)
    }
}

/// Makes a snapshot, and tells those who have to do with it.
async fn take_snapshot(sender: &Sender, job: SnapshotJob, keepers: &Keepers, pace: &Pace) {
    let Subject { shard, zxid, hash, interest } = Subject::of(&job);
    let directory = with_keeper(keepers, sender, |keeper| keeper.snapshots().clone());
    match snapshot::make(job, &directory, pace).await {
        Some(Taken { name, digest }) => {
            with_keeper(keepers, sender, |keeper| keeper.on_published(name));
            sender.tell(News::SnapshotTaken { shard, zxid, hash, digest });
        }
        // The same state may be on its way to the disk again, and that is not abandoned.
        None if !interest.is_alive() => {}
        None => sender.tell(News::SnapshotAbandoned { shard, zxid, hash }),
    }
}

fn with_keeper<T>(keepers: &Keepers, sender: &Sender, act: impl FnOnce(&mut Keeper) -> T) -> T {
    let mut keepers = keepers.borrow_mut();
    act(keepers.get_mut(&sender.node).expect("a server's disk is kept before it has cores"))
}

/// Removes a file that may never have got its name.
fn remove_if_present(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            exit::disk_failed("unlink", path, &error)
        }
        _ => {}
    }
}

/// The resolver blocks for seconds when a name server is away, so it gets a thread of its own.
fn resolve(sender: Sender, peer: ServerId, address: HostPort) {
    let asker = sender.clone();
    let spawned = std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        let addresses = address.resolve().unwrap_or_default();
        asker.tell(News::Resolved { peer, addresses });
    });
    if let Err(error) = spawned {
        // The peer is asked for again soon.
        tracing::warn!("cannot look up server {peer}: cannot start a thread: {error}");
        sender.tell(News::Resolved { peer, addresses: Vec::new() });
    }
}

/// How long to wait for locked memory that the kernel has yet to take off the account.
const UNCHARGE_TIME_MAX: Duration = Duration::from_secs(1);
/// How often to look how much room the disks have.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::cannot_start;

    /// It is the first to need a ring: what the kernel says to it is what an operator reads.
    #[test]
    fn without_io_uring_the_remedy_is_named() {
        let text = |errno| cannot_start(std::io::Error::from_raw_os_error(errno)).text;
        assert!(text(libc::ENOSYS).contains("CONFIG_IO_URING"), "{}", text(libc::ENOSYS));
        let forbidden = text(libc::EPERM);
        let names_it = ["seccomp profile", "kernel.io_uring_disabled"];
        assert!(names_it.iter().any(|it| forbidden.contains(it)), "{forbidden}");
        assert!(text(libc::ENOMEM).contains("LimitMEMLOCK"), "{}", text(libc::ENOMEM));
    }
}
