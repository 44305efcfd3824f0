//! What the cores of one node send each other, and how a sleeping core is woken.
//!
//! Between two cores there is one bounded queue in each direction, so that letters arrive in the
//! order in which they were sent. What does not fit waits with its sender, in order. A core that is
//! about to sleep says so first and then looks into its queues once more; a sender looks the other
//! way round. So no letter is left lying, and no core is woken that is awake anyway.

use std::collections::VecDeque;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use crossbeam::queue::{ArrayQueue, SegQueue};
use pigeonhole_core::base::id::{ChainHash, CoreId, ServerId, ShardId, Zxid};
use pigeonhole_core::mail::Mail;
use pigeonhole_core::peer::hello::Hello;
use pigeonhole_storage::disk::SegmentId;

use crate::client::admin::Figures;
use crate::client::crowd::{Census, Guest};
use crate::ring::{Ring, WakeTarget, Waker};

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
    /// There is no room on the disk for the segment.
    NoRoom {
        segment: SegmentId,
    },
    /// There may be room by now.
    Room,
    Retired {
        segment: SegmentId,
    },
    /// Nobody needs what is in the segment any more.
    Released {
        segment: SegmentId,
        bytes: u64,
    },
    SnapshotTaken {
        shard: ShardId,
        zxid: Zxid,
        hash: ChainHash,
        digest: u128,
    },
    SnapshotAbandoned {
        shard: ShardId,
        zxid: Zxid,
        hash: ChainHash,
    },
    SnapshotWanted {
        shard: ShardId,
    },
    DiskSpace {
        is_low: bool,
    },
    /// The peer's addresses as of now; none if its name is unknown.
    Resolved {
        peer: ServerId,
        addresses: Vec<SocketAddr>,
    },
    /// End in good order.
    Stop,
}

/// From one core of this node to another.
pub(crate) enum Letter {
    Mail(Mail),
    /// A client that the sender has accepted and the receiver serves.
    Client(Guest),
    /// A link whose peer has said whom it wants, and what it said after that.
    Link {
        stream: OwnedFd,
        hello: Hello,
        rest: Vec<u8>,
    },
    /// The figures of this core are wanted.
    FiguresAsked {
        ticket: u64,
        detailed: bool,
    },
    Figures {
        ticket: u64,
        figures: Box<Figures>,
    },
    /// A client has asked for the figures to begin anew.
    Reset {
        connections: bool,
    },
}

/// All doors of one node, shared by its cores and by the threads that serve them.
pub(crate) struct House {
    doors: Vec<Door>,
    census: Arc<Census>,
}

/// Where one core is reached.
struct Door {
    /// By sender.
    letters: Vec<ArrayQueue<Letter>>,
    /// By sender: it has more than fits, and wants to hear when there is room.
    crowded: Vec<AtomicBool>,
    /// From threads that have no ring.
    news: SegQueue<News>,
    /// The core sleeps, or is about to.
    parked: AtomicBool,
    bells: OnceLock<Bells>,
    connections: AtomicUsize,
    /// The core is to stop, and nobody waits for it any more.
    finished: AtomicBool,
}

struct Bells {
    target: WakeTarget,
    waker: Waker,
}

/// One core's view of its house.
pub(crate) struct Post {
    me: CoreId,
    house: Arc<House>,
    /// By receiver: what did not fit.
    waiting: Vec<VecDeque<Letter>>,
}

impl House {
    pub(crate) fn new(cores: u8) -> Arc<Self> {
        let count = usize::from(cores);
        let door = || Door {
            letters: (0..count).map(|_| ArrayQueue::new(LETTERS_MAX)).collect(),
            crowded: (0..count).map(|_| AtomicBool::new(false)).collect(),
            news: SegQueue::new(),
            parked: AtomicBool::new(false),
            bells: OnceLock::new(),
            connections: AtomicUsize::new(0),
            finished: AtomicBool::new(false),
        };
        let doors = (0..count).map(|_| door()).collect();
        Arc::new(Self { doors, census: Arc::default() })
    }

    pub(crate) fn cores(&self) -> u8 {
        u8::try_from(self.doors.len()).expect("a node has at most 64 cores")
    }

    /// Tells a core something, from any thread.
    pub(crate) fn tell(&self, core: CoreId, news: News) {
        let door = self.door(core);
        door.news.push(news);
        // Before the core has a bell it is awake, and looks into its queues before it sleeps.
        if let Some(bells) = door.bells.get() {
            // An eventfd only refuses when its count is full, and then it rings already.
            let _ = bells.waker.wake();
        }
    }

    /// How many clients a core serves, its own count.
    pub(crate) fn set_connections(&self, core: CoreId, connections: usize) {
        self.door(core).connections.store(connections, Ordering::Relaxed);
    }

    /// The clients of all cores.
    pub(crate) fn census(&self) -> &Arc<Census> {
        &self.census
    }

    /// The core with the fewest clients: where the next one goes.
    pub(crate) fn idlest(&self) -> CoreId {
        let counts = self.doors.iter().map(|door| door.connections.load(Ordering::Relaxed));
        let (core, _) = (0..).zip(counts).min_by_key(|(_, count)| *count).expect("a core");
        CoreId(core)
    }

    /// Counts a client for a core that will get it, so that the next one is placed knowing of it.
    pub(crate) fn expect_connection(&self, core: CoreId) {
        self.door(core).connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Says of a core whether anybody waits for it; returns whether that is so of no core.
    pub(crate) fn set_finished(&self, core: CoreId, finished: bool) -> bool {
        // Of two cores that finish in the same moment one has to see the other's flag.
        self.door(core).finished.store(finished, Ordering::SeqCst);
        self.doors.iter().all(|door| door.finished.load(Ordering::SeqCst))
    }

    fn door(&self, core: CoreId) -> &Door {
        &self.doors[usize::from(core.0)]
    }
}

impl Post {
    /// Opens the door of the core whose thread this is.
    pub(crate) fn open(me: CoreId, house: Arc<House>, ring: &mut Ring) -> std::io::Result<Self> {
        let bells = Bells { target: ring.wake_target()?, waker: ring.waker()? };
        assert!(house.door(me).bells.set(bells).is_ok(), "a core opens its door once");
        let waiting = (0..house.cores()).map(|_| VecDeque::new()).collect();
        Ok(Self { me, house, waiting })
    }

    pub(crate) fn house(&self) -> &Arc<House> {
        &self.house
    }

    /// Every other core of this node.
    pub(crate) fn others(&self) -> impl Iterator<Item = CoreId> + use<> {
        let me = self.me;
        (0..self.house.cores()).map(CoreId).filter(move |core| *core != me)
    }

    /// Puts a letter on its way; [`Self::deliver`] makes sure that it is read.
    pub(crate) fn send(&mut self, to: CoreId, letter: Letter) {
        assert_ne!(to, self.me, "a core does not write to itself");
        self.waiting[usize::from(to.0)].push_back(letter);
    }

    /// Hands over what was sent in this turn, and wakes who sleeps.
    pub(crate) fn deliver(&mut self, ring: &mut Ring) {
        let me = usize::from(self.me.0);
        for (door, waiting) in self.house.doors.iter().zip(&mut self.waiting) {
            if waiting.is_empty() {
                continue;
            }
            fill(&door.letters[me], waiting);
            if !waiting.is_empty() {
                door.crowded[me].store(true, Ordering::Relaxed);
                // Either the receiver sees the flag after it has emptied its queue, or the queue
                // is seen to be empty here.
                fence(Ordering::SeqCst);
                fill(&door.letters[me], waiting);
            }
            ring_if_parked(door, ring);
        }
    }

    /// The next letter that has arrived, whoever sent it.
    pub(crate) fn next_letter(&self) -> Option<(CoreId, Letter)> {
        let letters = (0..).map(CoreId).zip(&self.door().letters);
        letters.into_iter().find_map(|(from, queue)| Some((from, queue.pop()?)))
    }

    pub(crate) fn next_news(&self) -> Option<News> {
        self.door().news.pop()
    }

    /// Wakes the senders that had more than fitted, now that there is room.
    pub(crate) fn make_room(&self, ring: &mut Ring) {
        fence(Ordering::SeqCst);
        for (crowded, sender) in self.door().crowded.iter().zip(&self.house.doors) {
            if crowded.swap(false, Ordering::Relaxed) {
                ring_if_parked(sender, ring);
            }
        }
    }

    /// Says that this core is about to sleep. False if something has arrived: then it must not.
    pub(crate) fn park(&self) -> bool {
        let door = self.door();
        door.parked.store(true, Ordering::Relaxed);
        // The flag is seen by every sender whose letter is not seen here.
        fence(Ordering::SeqCst);
        let empty = door.news.is_empty() && door.letters.iter().all(ArrayQueue::is_empty);
        if !empty {
            self.unpark();
        }
        empty
    }

    pub(crate) fn unpark(&self) {
        self.door().parked.store(false, Ordering::Relaxed);
    }

    fn door(&self) -> &Door {
        self.house.door(self.me)
    }
}

/// Moves letters into a queue as long as there is room.
fn fill(queue: &ArrayQueue<Letter>, waiting: &mut VecDeque<Letter>) {
    while let Some(letter) = waiting.pop_front() {
        if let Err(letter) = queue.push(letter) {
            waiting.push_front(letter);
            return;
        }
    }
}

/// Called after something was put where the door's core looks for it.
fn ring_if_parked(door: &Door, ring: &mut Ring) {
    fence(Ordering::SeqCst);
    if door.parked.swap(false, Ordering::Relaxed)
        && let Some(bells) = door.bells.get()
    {
        ring.wake(&bells.target, LETTER);
    }
}

/// What a woken core finds in the wake-up; the letters say the rest.
const LETTER: u32 = 1;
/// A turn's worth of letters from one core to another.
const LETTERS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use pigeonhole_core::base::id::{CoreId, SessionId};
    use pigeonhole_core::mail::Mail;

    use super::{House, LETTERS_MAX, Letter, News, Post};
    use crate::ring::{Completion, Ring, RingConfig};

    fn numbered(number: usize) -> Letter {
        Letter::Mail(Mail::Ended { session: SessionId(number as u64) })
    }

    fn number(letter: &Letter) -> u64 {
        match letter {
            Letter::Mail(Mail::Ended { session }) => session.0,
            _ => panic!("only numbered letters were sent"),
        }
    }

    #[test]
    fn more_than_fits_arrives_in_order() {
        let house = House::new(2);
        let (mut ring, _) = Ring::new(&RingConfig::default()).unwrap();
        let (mut other_ring, _) = Ring::new(&RingConfig::default()).unwrap();
        let mut sender = Post::open(CoreId(0), house.clone(), &mut ring).unwrap();
        let receiver = Post::open(CoreId(1), house, &mut other_ring).unwrap();
        let count = 2 * LETTERS_MAX + 3;
        for letter in 0..count {
            sender.send(CoreId(1), numbered(letter));
        }
        let mut received = Vec::new();
        let mut rounds = 0;
        while received.len() < count {
            sender.deliver(&mut ring);
            let crowded = !sender.waiting[1].is_empty();
            assert_eq!(crowded, received.len() + LETTERS_MAX < count);
            while let Some((from, letter)) = receiver.next_letter() {
                assert_eq!(from, CoreId(0));
                received.push(number(&letter));
            }
            rounds += 1;
        }
        assert_eq!(rounds, 3);
        assert!(received.iter().copied().eq(0..count as u64));
    }

    #[test]
    fn a_core_that_has_something_to_read_does_not_park() {
        let house = House::new(2);
        let (mut ring, _) = Ring::new(&RingConfig::default()).unwrap();
        let (mut other_ring, _) = Ring::new(&RingConfig::default()).unwrap();
        let mut sender = Post::open(CoreId(0), house.clone(), &mut ring).unwrap();
        let receiver = Post::open(CoreId(1), house.clone(), &mut other_ring).unwrap();
        assert!(receiver.park());
        receiver.unpark();
        sender.send(CoreId(1), numbered(7));
        sender.deliver(&mut ring);
        assert!(!receiver.park());
        assert_eq!(receiver.next_letter().map(|(_, letter)| number(&letter)), Some(7));
        house.tell(CoreId(1), News::Stop);
        assert!(!receiver.park());
        assert!(receiver.next_news().is_some());
        assert!(receiver.park());
    }

    #[test]
    fn a_parked_core_is_woken_by_a_letter() {
        let house = House::new(2);
        let (mut ring, _) = Ring::new(&RingConfig::default()).unwrap();
        let mut sender = Post::open(CoreId(0), house.clone(), &mut ring).unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            let (mut ring, _) = Ring::new(&RingConfig::default()).unwrap();
            let receiver = Post::open(CoreId(1), house, &mut ring).unwrap();
            assert!(receiver.park());
            ready.send(()).unwrap();
            ring.submit_and_wait(None).unwrap();
            receiver.unpark();
            assert!(matches!(ring.next_completion(), Some(Completion::Woken { .. })));
            receiver.next_letter().map(|(_, letter)| number(&letter))
        });
        is_ready.recv().unwrap();
        sender.send(CoreId(1), numbered(9));
        sender.deliver(&mut ring);
        ring.submit_and_wait(Some(std::time::Duration::ZERO)).unwrap();
        assert_eq!(other.join().unwrap(), Some(9));
    }
}
