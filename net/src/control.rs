//! The control thread: slow work on files and names, away from the engines.
//!
//! One thread for the process, on a tokio-uring runtime. Engines send [`Task`]s and hear of the
//! outcome as [`News`]; nothing here is on the path of a request. Segments are zeroed ahead at a
//! bounded pace, because a disk that zeroes as fast as it can makes every sync wait.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pigeonhole_core::base::id::{CoreId, ServerId};
use pigeonhole_core::base::limits::SEGMENT_BYTES_READY;
use pigeonhole_storage::disk::SegmentId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::config::HostPort;
use crate::engine::mailbox::House;
use crate::exit::{self, Failure, disk_failed};
use crate::os;
use crate::patience::{LastTime, ask_until};
use crate::ring::RingError;

/// What an engine hears of work that it has given away, and from the thread that started it.
pub(crate) enum News {
    /// The segment's file exists under its name, and its first `zeroed` bytes may be written.
    Prepared {
        segment: SegmentId,
        file: File,
        zeroed: u64,
        /// Where the owner says how much of it is in use.
        used: Arc<AtomicU64>,
    },
    /// More of it may be written.
    Zeroed {
        segment: SegmentId,
        upto: u64,
    },
    /// Nobody zeroes it any more: all of it may be written.
    ZeroingStopped {
        segment: SegmentId,
    },
    Retired {
        segment: SegmentId,
    },
    /// The peer's addresses as of now; none if its name is unknown.
    Resolved {
        peer: ServerId,
        addresses: Vec<SocketAddr>,
    },
    /// End in good order.
    Stop,
}

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
    house: Arc<House>,
    core: CoreId,
}

enum Task {
    Prepare { directory: LogDirectory, segment: SegmentId, bytes: u64, recycle: Option<SegmentId> },
    StopZeroing { path: PathBuf },
    Retire { directory: LogDirectory, segment: SegmentId },
    Resolve { peer: ServerId, address: HostPort },
}

/// How fast new segments are zeroed.
#[derive(Default)]
struct Pace {
    /// What a log write took lately, smoothed, and what it takes when nothing disturbs it.
    sync_micros: AtomicU64,
    usual_micros: AtomicU64,
}

impl Control {
    pub(crate) fn start() -> Result<Self, Failure> {
        let (tasks, inbox) = unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let pace = Arc::<Pace>::default();
        let thread_pace = pace.clone();
        let thread = std::thread::Builder::new().name("control".to_owned());
        let spawned = thread.spawn(move || match open_runtime() {
            Ok(runtime) => {
                let _ = ready.send(Ok(()));
                runtime.block_on(serve(inbox, thread_pace));
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        });
        spawned.map_err(|error| cannot_start(&error))?;
        match is_ready.recv() {
            Ok(Ok(())) => Ok(Self { tasks, pace }),
            Ok(Err(error)) => Err(cannot_start(&error)),
            Err(ended) => Err(cannot_start(&io::Error::other(ended))),
        }
    }

    /// The desk of one engine, whose house is told the outcome.
    pub(crate) fn desk(&self, house: Arc<House>, core: CoreId) -> Desk {
        let sender = Sender { house, core };
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

impl LogDirectory {
    pub(crate) fn path_of(&self, segment: SegmentId) -> PathBuf {
        self.path.join(segment.file_name())
    }

    /// Makes names in the directory outlive a power failure.
    pub(crate) fn sync(&self) {
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.unwrap_or_else(|error| disk_failed("fsync", &self.path, &error));
    }

    fn open_for_writes(&self, path: &Path) -> File {
        let opened = if self.direct {
            os::open_direct(path)
        } else {
            OpenOptions::new().read(true).write(true).open(path)
        };
        opened.unwrap_or_else(|error| disk_failed("open", path, &error))
    }
}

impl Sender {
    fn tell(&self, news: News) {
        self.house.tell(self.core, news);
    }
}

impl Pace {
    fn note(&self, micros: u64) {
        let micros = micros.max(1);
        let smooth = |old: u64| {
            if old == 0 { micros } else { (old * 7 + micros) / 8 }
        };
        let recent = smooth(self.sync_micros.load(Ordering::Relaxed));
        self.sync_micros.store(recent, Ordering::Relaxed);
        // Drifts up slowly, so that one quick sync does not set the measure for good.
        let usual = self.usual_micros.load(Ordering::Relaxed);
        let usual = if usual == 0 { micros } else { micros.min(usual + usual / 64 + 1) };
        self.usual_micros.store(usual, Ordering::Relaxed);
    }

    /// How long to wait after each chunk.
    fn pause(&self) -> Duration {
        let recent = self.sync_micros.load(Ordering::Relaxed);
        let usual = self.usual_micros.load(Ordering::Relaxed).max(1);
        let slower = (recent / usual).clamp(1, SLOWER_MAX);
        CHUNK_PAUSE * u32::try_from(slower).expect("it was just bounded")
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

fn cannot_start(error: &io::Error) -> Failure {
    match (error.raw_os_error(), os::lockable_memory()) {
        (Some(libc::ENOMEM), Ok(limit)) => Failure::environment(RingError::LockableMemory(limit)),
        _ => Failure::environment(format_args!("cannot start the control thread: {error}")),
    }
}

/// Which files are being zeroed, and whether they should not be any more.
type Zeroing = Rc<RefCell<HashMap<PathBuf, Rc<Cell<bool>>>>>;

/// When the next chunk may be zeroed: all files share one pace.
type NextChunk = Rc<Cell<Option<tokio::time::Instant>>>;

async fn serve(mut inbox: UnboundedReceiver<(Sender, Task)>, pace: Arc<Pace>) {
    let zeroing = Zeroing::default();
    let next_chunk = NextChunk::default();
    while let Some((sender, task)) = inbox.recv().await {
        match task {
            Task::Prepare { directory, segment, bytes, recycle } => {
                let job = Preparation { sender, directory, segment, bytes };
                let pace = (pace.clone(), next_chunk.clone());
                tokio_uring::spawn(prepare(job, recycle, pace, zeroing.clone()));
            }
            Task::StopZeroing { path } => {
                if let Some(stop) = zeroing.borrow().get(&path) {
                    stop.set(true);
                }
            }
            Task::Retire { directory, segment } => {
                tokio_uring::spawn(retire(sender, directory, segment));
            }
            Task::Resolve { peer, address } => resolve(sender, peer, address),
        }
    }
}

struct Preparation {
    sender: Sender,
    directory: LogDirectory,
    segment: SegmentId,
    bytes: u64,
}

async fn prepare(
    job: Preparation,
    recycle: Option<SegmentId>,
    (pace, next_chunk): (Arc<Pace>, NextChunk),
    zeroing: Zeroing,
) {
    let path = job.directory.path_of(job.segment);
    if let Some(recycle) = recycle {
        let from = job.directory.path_of(recycle);
        let renamed = tokio_uring::fs::rename(&from, &path).await;
        renamed.unwrap_or_else(|error| disk_failed("rename", &from, &error));
        job.directory.sync();
        let file = job.directory.open_for_writes(&path);
        job.sender.tell(News::Prepared {
            segment: job.segment,
            file,
            zeroed: job.bytes,
            used: Arc::default(),
        });
        return;
    }
    // Cached writes, because zeroes need no alignment of ours; each chunk is synced before anybody
    // else may write there.
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let file = file.unwrap_or_else(|error| disk_failed("create", &path, &error));
    os::allocate(&file, job.bytes).unwrap_or_else(|error| disk_failed("fallocate", &path, &error));
    let file = tokio_uring::fs::File::from_std(file);
    let ready = SEGMENT_BYTES_READY.min(job.bytes);
    zero(&file, &path, 0, ready).await;
    let synced = file.sync_all().await;
    synced.unwrap_or_else(|error| disk_failed("fsync", &path, &error));
    job.directory.sync();
    let used = Arc::<AtomicU64>::default();
    let stop = Rc::new(Cell::new(false));
    zeroing.borrow_mut().insert(path.clone(), stop.clone());
    let writable = job.directory.open_for_writes(&path);
    job.sender.tell(News::Prepared {
        segment: job.segment,
        file: writable,
        zeroed: ready,
        used: used.clone(),
    });
    let mut done = ready;
    while done < job.bytes && !stop.get() {
        // A log that comes close would have to write where nothing was written before, which
        // costs every sync far more than zeroes that come quickly.
        let in_use = used.load(Ordering::Relaxed);
        if in_use == 0 || done.saturating_sub(in_use) > ZERO_AHEAD_BYTES {
            let now = tokio::time::Instant::now();
            let turn = next_chunk.get().map_or(now, |next| next.max(now)) + pace.pause();
            next_chunk.set(Some(turn));
            tokio::time::sleep_until(turn).await;
        }
        if stop.get() {
            break;
        }
        let upto = (done + ZERO_CHUNK_BYTES as u64).min(job.bytes);
        zero(&file, &path, done, upto).await;
        done = upto;
        job.sender.tell(News::Zeroed { segment: job.segment, upto });
    }
    zeroing.borrow_mut().remove(&path);
    job.sender.tell(News::ZeroingStopped { segment: job.segment });
}

/// Zeroes a part of the file for good.
async fn zero(file: &tokio_uring::fs::File, path: &Path, from: u64, upto: u64) {
    let mut at = from;
    while at < upto {
        let rest = usize::try_from(upto - at).unwrap_or(usize::MAX);
        let length = rest.min(ZERO_CHUNK_BYTES);
        let (written, _) = file.write_all_at(vec![0; length], at).await;
        written.unwrap_or_else(|error| disk_failed("write", path, &error));
        let synced = file.sync_data().await;
        synced.unwrap_or_else(|error| disk_failed("fdatasync", path, &error));
        at += length as u64;
    }
}

async fn retire(sender: Sender, directory: LogDirectory, segment: SegmentId) {
    let path = directory.path_of(segment);
    let removed = tokio_uring::fs::remove_file(&path).await;
    removed.unwrap_or_else(|error| disk_failed("unlink", &path, &error));
    directory.sync();
    sender.tell(News::Retired { segment });
}

/// The resolver blocks for seconds when a name server is away, so it gets a thread of its own.
fn resolve(sender: Sender, peer: ServerId, address: HostPort) {
    let spawned = std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        let addresses = address.resolve().unwrap_or_default();
        sender.tell(News::Resolved { peer, addresses });
    });
    if let Err(error) = spawned {
        exit::fail(exit::ENVIRONMENT, &format!("cannot start a thread: {error}"));
    }
}

/// How long to wait for locked memory that the kernel has yet to take off the account.
const UNCHARGE_TIME_MAX: Duration = Duration::from_secs(1);
/// How far zeroing stays ahead of a log, at whatever pace.
const ZERO_AHEAD_BYTES: u64 = 8 << 20;
const ZERO_CHUNK_BYTES: usize = 1 << 20;
/// One chunk in so much time is 64 MB a second at most.
const CHUNK_PAUSE: Duration = Duration::from_millis(16);
/// However slow the syncs are, a segment is ready within half a minute.
const SLOWER_MAX: u64 = 32;
