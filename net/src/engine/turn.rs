//! The loop of one core: reap, step, perform, submit, sleep.
//!
//! A turn hands everything that has arrived to the worker, carries out what it asks for, gives the
//! log one batch and every connection one send, and goes to sleep in the kernel until something
//! happens or a deadline comes. It never spins: a busy thread would even delay its own log, whose
//! completion a kernel thread of the same processor has to work on.

use std::time::{Duration, Instant};

use pigeonhole_core::base::limits::{SEGMENT_BYTES, TURN_ENDING_MS_MAX, TURN_SHARE};
use pigeonhole_core::base::time;
use pigeonhole_core::effect::Input;
use pigeonhole_storage::disk::SegmentId;

use super::{Engine, Hands, Milestone};
use crate::client::listener::Listener;
use crate::control::CoreHoldings;
use crate::engine::stopping::{DRAIN_TIME_MAX, Stopping};
use crate::exit;
use crate::mailbox::News;
use crate::ring::Ring;

impl Engine {
    /// Turns until the core is told to stop, then ends in good order.
    pub(super) fn live(mut self) {
        // What the worker wants before it has heard anything.
        self.hands.perform();
        loop {
            self.turn();
            if self.hands.may_stop() {
                break;
            }
            self.sleep();
        }
        self.shut_down();
    }

    fn turn(&mut self) {
        let Self { ring, hands } = self;
        hands.now = hands.clock.now();
        hands.pulse.turn_begins();
        // What was closed at the end of the last turn: its slots are free for new connections.
        hands.perform();
        loop {
            if !hands.pulse.takes_more() {
                hands.worker.note_behind(hands.now.instant);
                break;
            }
            let Some(completion) = ring.next_completion() else {
                break;
            };
            hands.pulse.completions += 1;
            hands.on_completion(completion);
        }
        hands.read_news(ring);
        hands.read_letters();
        hands.post.make_room(ring);
        hands.perform();
        hands.close_ended();
        hands.perform();
        // The log hears of its write after what has arrived with it: the next write takes that
        // along.
        hands.settle_log();
        hands.perform();
        // Who is late is judged when everything is known that has happened by now.
        hands.on_time(ring);
        hands.perform();
        hands.end_turn();
        hands.wal.turn_end(hands.now.instant);
        hands.settle_sockets(ring);
        hands.begin_log_operations(ring);
        hands.post.deliver(ring);
        hands.note_start();
        hands.tell_holdings();
        hands.pulse.turn_ends();
    }

    /// Submits what the turn has queued, and sleeps if there is nothing to do.
    fn sleep(&mut self) {
        let Self { ring, hands } = self;
        let mut timeout = hands.timeout();
        let parked = timeout != Some(Duration::ZERO) && hands.post.park();
        if !parked {
            timeout = Some(Duration::ZERO);
        }
        let writing = hands.log.wants_the_processor();
        if writing && hands.was_writing {
            // A disk without a flush of its own has its completion finished by a kernel thread,
            // which a processor that always finds work would not run before the next tick of the
            // scheduler, milliseconds later.
            std::thread::yield_now();
        }
        hands.was_writing = writing;
        let entered = if writing && timeout != Some(Duration::ZERO) {
            // One that sleeps takes long to wake, in a virtual machine nearly as long as the flush.
            ring.submit_and_linger(timeout, FLUSH_AWAKE_MAX)
        } else {
            ring.submit_and_wait(timeout)
        };
        hands.post.unpark();
        if let Err(error) = entered {
            // The log is written through the ring: what was promised to it is lost.
            exit::fail(exit::DISK, &format!("io_uring_enter: {error}"));
        }
    }

    /// Everything is on the disk and sent: lets go of the kernel, then of the memory.
    fn shut_down(self) {
        let Self { ring, hands } = self;
        if let Err(undrained) = ring.shutdown(DRAIN_TIME_MAX) {
            tracing::warn!("{} operations did not end in time", undrained.in_flight);
        }
        drop(hands);
    }
}

impl Hands {
    /// Hands one input to the worker; what it asks for is carried out by [`Self::perform`].
    pub(super) fn step(&mut self, input: Input<'_>) {
        self.worker.step(self.now, input, &mut self.effects);
    }

    /// What the clock leaves over is the next turn's, which comes at once.
    fn end_turn(&mut self) {
        let end = Instant::now() + Duration::from_millis(TURN_ENDING_MS_MAX);
        loop {
            self.step(Input::TurnEnd { share: TURN_SHARE });
            self.perform();
            if !self.worker.is_in_haste() || Instant::now() >= end {
                return;
            }
        }
    }

    fn on_time(&mut self, ring: &mut Ring) {
        let now = self.now.instant;
        if self.worker.deadline(now).is_some_and(|deadline| deadline <= now) {
            self.step(Input::Time);
        }
        for (peer, address) in self.links.on_time(ring, now) {
            self.desk.resolve(peer, &address);
        }
    }

    /// How long this core may sleep; `None` for as long as nothing happens.
    fn timeout(&self) -> Option<Duration> {
        let has_work =
            !self.closed.is_empty() || !self.due.is_empty() || !self.link_news.is_empty();
        if has_work || self.worker.is_in_haste() {
            return Some(Duration::ZERO);
        }
        let now = self.now.instant;
        let listeners = self.listeners.iter().filter_map(Listener::deadline);
        let deadlines = [
            self.worker.deadline(now),
            self.wal.deadline(),
            self.clients.deadline(),
            self.links.deadline(),
            self.stopping.as_ref().map(Stopping::deadline),
        ];
        let first = deadlines.into_iter().flatten().chain(listeners).min()?;
        let time::Duration(micros) = first.since(now);
        Some(Duration::from_micros(micros))
    }

    /// Tells the starter once the log is open: from here on promises are kept.
    fn note_start(&mut self) {
        if self.started || !self.wal.is_open() {
            return;
        }
        self.started = true;
        let (core, ring, registered) = (self.core, self.ring_report, self.registered);
        // The starter may have given up on another core meanwhile.
        let _ = self.milestones.send(Milestone::Started { core, ring, registered });
    }

    /// Tells who keeps the disk, once the log is open and whenever there may be something to give
    /// up.
    fn tell_holdings(&mut self) {
        let changes = self.wal.retention_changes();
        if changes == self.told_changes {
            return;
        }
        self.told_changes = changes;
        self.desk.hold(CoreHoldings {
            checkpoints: self.wal.durable_checkpoints().copied().collect(),
            segments: self.wal.segments().cloned().collect(),
        });
    }

    /// Without a first segment there is nothing that a server could do: nobody should wait for it.
    fn on_no_room(&mut self, segment: SegmentId) {
        self.wal.on_no_room(segment);
        if self.wal.lacks_room() && !self.wal.is_open() {
            let directory = self.log.directory().display();
            let mebibytes = SEGMENT_BYTES >> 20;
            let text = format!(
                "no room in {directory} to begin a log: a start needs {mebibytes} MiB there for \
                 each core"
            );
            exit::fail(exit::DISK, &text);
        }
    }

    /// Takes in what other threads have to say.
    fn read_news(&mut self, ring: &mut Ring) {
        while let Some(news) = self.post.next_news() {
            let now = self.now.instant;
            match self.log.on_news(news, now, ring) {
                Ok(done) => self.log_done.extend(done),
                Err(News::NoRoom { segment }) => self.on_no_room(segment),
                Err(News::Room) => self.wal.on_room(),
                Err(News::Released { segment, bytes }) => self.wal.release_segment(segment, bytes),
                Err(News::SnapshotTaken { shard, zxid, hash, digest }) => {
                    self.step(Input::SnapshotTaken { shard, zxid, hash, digest });
                }
                Err(News::SnapshotAbandoned { shard, zxid, hash }) => {
                    self.step(Input::SnapshotAbandoned { shard, zxid, hash });
                }
                Err(News::SnapshotWanted { shard }) => self.step(Input::SnapshotWanted { shard }),
                Err(News::DiskSpace { is_low }) => self.step(Input::DiskSpace { is_low }),
                Err(News::Stop) => self.begin_to_stop(ring),
                Err(News::Resolved { peer, addresses }) => {
                    self.links.on_resolved(peer, &addresses, ring, now);
                }
                Err(_) => panic!("the log takes the news about its files"),
            }
        }
    }
}

/// A flush of a good disk. What takes longer is slept through.
const FLUSH_AWAKE_MAX: Duration = Duration::from_micros(150);
