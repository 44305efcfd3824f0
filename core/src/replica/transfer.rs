//! The state on its way from a leader to a learner that is too far behind for anything else.
//!
//! The leader freezes what it has applied and makes one chunk for each that the learner has taken
//! in, so that proposals and heartbeats never wait behind more than a few. Where many shards share
//! the link, their chunks are small. The learner builds a
//! second state beside its own; when that is complete and a file on its disk, it takes the place of
//! the first.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::base::id::{ConnectionId, Epoch, ServerId};
use crate::base::limits::{
    SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_IN_FLIGHT, SNAPSHOT_PART_BYTES_MIN, STORE_AGAIN_MS,
};
use crate::base::time::{Duration, Instant, Now};
use crate::mail::Mail;
use crate::peer::message::PeerMessage;
use crate::replica::snapshot::{Awaited, Discarded, SnapshotJob};
use crate::replica::{Deed, Recipient, Replica};
use crate::state::State;
use crate::state::image::{ImageReader, ImageWriter};
use crate::zab::Action;
use crate::zab::log::Mark;
use crate::zab::transfer::Wanted;

/// An image that is being sent.
pub(super) struct Outgoing {
    attempt: u32,
    epoch: Epoch,
    image: ImageWriter,
    chunks_sent: u32,
    chunks_acked: u32,
    /// The last chunk is sent.
    is_over: bool,
    /// A step of work has ended without a chunk, so that nothing will ask for the next step.
    must_go_on: bool,
}

/// An image that is being received.
pub(super) struct Incoming {
    wanted: Wanted,
    reader: ImageReader,
    chunks: u32,
    /// The whole image, verified, and its file that is being made.
    complete: Option<(State, Awaited)>,
    /// The file could not be made: it is tried again then.
    store_again_at: Option<Instant>,
}

impl Replica {
    /// A learner needs the state: freezes it as it is applied now, and begins to send it.
    pub(super) fn begin_transfer(
        &mut self,
        now: Now,
        learner: ServerId,
        attempt: u32,
        deeds: &mut Vec<Deed>,
    ) {
        let zxid = self.state.applied();
        let hash = self.zab.log().find(zxid);
        let hash = hash.expect("what is applied is in memory, or just before it");
        let at = Mark { zxid, hash };
        let mut actions = Vec::new();
        let begun = self.zab.begin_transfer(now.instant, learner, at, &mut actions);
        deeds.extend(actions.into_iter().map(Deed::Zab));
        let Some(epoch) = begun else {
            return;
        };
        let outgoing = Outgoing {
            attempt,
            epoch,
            image: self.state.freeze().into_image(),
            chunks_sent: 0,
            chunks_acked: 0,
            is_over: false,
            must_go_on: false,
        };
        self.outgoing.insert(learner, outgoing);
        self.send_chunks(learner, deeds);
    }

    /// A learner has taken a chunk in; with the last one, it has installed the whole image.
    pub(super) fn on_chunk_ack(
        &mut self,
        now: Now,
        from: ServerId,
        epoch: Epoch,
        index: u32,
        deeds: &mut Vec<Deed>,
    ) {
        let Some(outgoing) = self.outgoing.get_mut(&from) else {
            return;
        };
        if outgoing.epoch != epoch {
            return;
        }
        if index >= outgoing.chunks_sent {
            let why = "an acknowledgement of a chunk that was never sent";
            self.actions.push(Action::Disconnect { peer: from, why });
            return;
        }
        outgoing.chunks_acked = outgoing.chunks_acked.max(index + 1);
        if outgoing.is_over && outgoing.chunks_acked == outgoing.chunks_sent {
            self.outgoing.remove(&from);
            self.zab.end_transfer(now.instant, from, &mut self.actions);
        } else {
            self.send_chunks(from, deeds);
        }
    }

    /// Goes on with images whose last step made no chunk.
    pub(super) fn go_on_sending(&mut self, deeds: &mut Vec<Deed>) {
        let waiting = self.outgoing.iter().filter(|(_, it)| it.must_go_on);
        let waiting: Vec<ServerId> = waiting.map(|(&learner, _)| learner).collect();
        for learner in waiting {
            self.send_chunks(learner, deeds);
        }
    }

    pub(super) fn sending_deadline(&self) -> Option<Instant> {
        let must_go_on = self.outgoing.values().any(|it| it.must_go_on);
        must_go_on.then(Instant::default)
    }

    /// A part of the image that a leader has announced.
    pub(super) fn on_snapshot_chunk(
        &mut self,
        now: Now,
        from: ServerId,
        chunk: &Chunk<'_>,
        deeds: &mut Vec<Deed>,
    ) {
        let Some(wanted) = self.zab.wanted_snapshot() else {
            return;
        };
        if wanted.leader != from || wanted.epoch != chunk.epoch {
            return;
        }
        if self.incoming.as_ref().is_none_or(|it| it.wanted != wanted) {
            self.incoming = Some(Incoming {
                wanted,
                reader: ImageReader::new(self.config.seed),
                chunks: 0,
                complete: None,
                store_again_at: None,
            });
        }
        match self.take_chunk(chunk) {
            Ok(None) => {
                self.zab.on_image_part(now.instant);
                let (epoch, index) = (wanted.epoch.0, chunk.index);
                let ack = PeerMessage::SnapshotChunkAck { epoch, index };
                self.send(from, ack, deeds);
            }
            Ok(Some(job)) => {
                self.zab.on_image_complete();
                deeds.push(Deed::Snapshot(job));
            }
            Err(why) => self.zab.refuse_image(now.instant, why, &mut self.actions),
        }
    }

    /// Whether a complete image of this point waits for its file, and is still wanted.
    pub(super) fn is_received(&self, at: Mark) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| {
            incoming.complete.is_some()
                && incoming.wanted.at == at
                && self.zab.wanted_snapshot() == Some(incoming.wanted)
        })
    }

    /// The file of a received image could not be made.
    pub(super) fn store_later(&mut self, now: Instant) {
        if let Some(incoming) = &mut self.incoming {
            incoming.store_again_at = Some(now + Duration::from_ms(STORE_AGAIN_MS));
        }
    }

    /// Tries again when it is time.
    pub(super) fn store_again(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        let shard = self.shard();
        if let Some(incoming) = &mut self.incoming
            && incoming.store_again_at.is_some_and(|at| at <= now)
            && let Some((state, awaited)) = &mut incoming.complete
        {
            incoming.store_again_at = None;
            let (again, job) = SnapshotJob::new(shard, awaited.at, state.freeze(), true);
            *awaited = again;
            deeds.push(Deed::Snapshot(job));
        }
    }

    pub(super) fn storing_deadline(&self) -> Option<Instant> {
        self.incoming.as_ref()?.store_again_at
    }

    /// The file of a received image is durable: its state takes the old one's place.
    pub(super) fn install(&mut self, now: Now, digest: u128, deeds: &mut Vec<Deed>) {
        let incoming = self.incoming.take();
        let Incoming { wanted, chunks, complete, .. } =
            incoming.expect("a received image is there");
        let (state, _) = complete.expect("a received image is complete");
        assert_eq!(state.applied(), wanted.at.zxid);
        self.zab.install(now.instant, digest, &mut self.actions);
        let (admitted, at) = (state.admitted(), wanted.at.zxid);
        self.zab.set_admitted(admitted, at, &mut self.actions);
        let ack = PeerMessage::SnapshotChunkAck { epoch: wanted.epoch.0, index: chunks - 1 };
        self.send(wanted.leader, ack, deeds);
        let before = core::mem::replace(&mut self.state, state);
        // A file of the old state that is still being made says nothing any more.
        self.snapshotting = None;
        self.entries_since_point = 0;
        self.forget_given_up_of_the_past();
        self.tell_of_sessions_since(&before, deeds);
        self.close_watching(deeds);
        self.answer_applied(self.state.applied(), deeds);
        deeds.push(Deed::Discard(Discarded(before.into())));
    }

    /// Drops what belongs to links and roles that are over.
    pub(super) fn drop_stale_transfers(&mut self) {
        if !self.outgoing.is_empty() {
            let zab = &self.zab;
            self.outgoing.retain(|&learner, it| zab.is_transferring(learner, it.attempt));
        }
        if let Some(incoming) = &self.incoming
            && self.zab.wanted_snapshot() != Some(incoming.wanted)
        {
            self.incoming = None;
        }
    }

    fn send_chunks(&mut self, learner: ServerId, deeds: &mut Vec<Deed>) {
        // With what all shards send to the same learner, it goes over one link.
        let share = self.config.log.in_flight_bytes / SNAPSHOT_CHUNKS_IN_FLIGHT;
        let part_bytes_max = share.clamp(SNAPSHOT_PART_BYTES_MIN, SNAPSHOT_CHUNK_BYTES);
        let Some(outgoing) = self.outgoing.get_mut(&learner) else {
            return;
        };
        outgoing.must_go_on = false;
        let mut messages = Vec::new();
        while outgoing.has_room() {
            let mut bytes = Vec::new();
            let goes_on = outgoing.image.next_part(part_bytes_max, &mut bytes);
            if bytes.is_empty() && goes_on {
                outgoing.must_go_on = true;
                break;
            }
            outgoing.is_over = !goes_on;
            messages.push(PeerMessage::SnapshotChunk {
                epoch: outgoing.epoch.0,
                index: outgoing.chunks_sent,
                last: !goes_on,
                bytes,
            });
            outgoing.chunks_sent += 1;
        }
        for message in messages {
            self.send(learner, message, deeds);
        }
    }

    /// Takes a chunk in; the last one makes a verified state, and a job to store it.
    fn take_chunk(&mut self, chunk: &Chunk<'_>) -> Result<Option<SnapshotJob>, &'static str> {
        let shard = self.shard();
        let incoming = self.incoming.as_mut().expect("it was begun");
        if chunk.index != incoming.chunks || incoming.complete.is_some() {
            return Err("a chunk out of its order");
        }
        incoming.chunks += 1;
        let read = incoming.reader.on_chunk(chunk.bytes);
        read.map_err(|_| "a chunk that is no part of an image")?;
        if !chunk.is_last {
            return Ok(None);
        }
        let reader = core::mem::replace(&mut incoming.reader, ImageReader::new(0));
        let image = reader.finish().map_err(|_| "an incomplete image")?;
        let at = incoming.wanted.at;
        if image.header.shard != shard || image.header.zxid != at.zxid {
            return Err("an image of something else than was announced");
        }
        let state = State::from_image(image, self.config.map).map_err(|_| "an unsound image")?;
        let (awaited, job) = SnapshotJob::new(shard, at, state.freeze(), true);
        incoming.complete = Some((state, awaited));
        Ok(Some(job))
    }

    /// What the gateways would have been told, had the entries in between been applied.
    fn tell_of_sessions_since(&self, before: &State, deeds: &mut Vec<Deed>) {
        for (session, known) in before.sessions().homes() {
            match self.state.sessions().home(session) {
                None => self.tell_everybody(Mail::Ended { session }, deeds),
                Some(home) if home.generation > known.generation => {
                    let generation = home.generation;
                    let moved = Mail::Moved { session, generation };
                    self.tell_everybody(moved, deeds);
                }
                Some(_) => {}
            }
        }
    }

    /// Nobody knows which watches should have fired in between: their connections are closed, and
    /// the clients that come back say what they have seen.
    fn close_watching(&mut self, deeds: &mut Vec<Deed>) {
        let watching: BTreeSet<ConnectionId> =
            self.watches.by_connection().map(|(it, _)| it).collect();
        for connection in watching {
            self.watches.connection_closed(connection);
            deeds.push(Deed::Mail {
                to: Recipient::Core(connection.core),
                mail: Mail::Close { connection },
            });
        }
    }
}

/// A part of an image, as it came.
pub(super) struct Chunk<'a> {
    pub(super) epoch: Epoch,
    pub(super) index: u32,
    pub(super) is_last: bool,
    pub(super) bytes: &'a [u8],
}

impl Outgoing {
    fn has_room(&self) -> bool {
        let in_flight = self.chunks_sent - self.chunks_acked;
        let in_flight = usize::try_from(in_flight).expect("32 bits fit into usize");
        !self.is_over && in_flight < SNAPSHOT_CHUNKS_IN_FLIGHT
    }
}
