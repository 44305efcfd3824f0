//! From bytes to requests: frames are cut, as many as a turn has room for, and taken in.

use alloc::vec::Vec;

use crate::auth::{AuthFailed, authenticate};
use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, ShardId, Zxid};
use crate::base::limits::{OUTPUT_BYTES_PAUSE, REQUESTS_PER_TURN_MAX, TURN_SHARE_BYTES};
use crate::base::met::Limit;
use crate::base::time::Instant;
use crate::gateway::connection::{Slot, SlotState, Stage, TOO_LARGE};
use crate::gateway::issuing::weight_of;
use crate::gateway::{Gateway, Parting, Replicas, Wish};
use crate::mail::What;
use crate::op::{OpCode, Request};
use crate::wire::frame::{Deframer, FrameError, Frames};
use crate::wire::reply;
use crate::wire::request::{RequestError, parse_header, parse_request};

impl Gateway {
    /// Takes bytes from a connection and acts upon the complete frames, within the bounds on one
    /// connection in one turn.
    pub fn receive(
        &mut self,
        now: Instant,
        id: ConnectionId,
        bytes: &[u8],
        replicas: &mut impl Replicas,
    ) {
        let Some(connection) = self.find(id) else {
            return;
        };
        if connection.stage == Stage::Closing {
            return;
        }
        if connection.stage == Stage::Attached && connection.session.may_be_over(now) {
            self.close(id, Parting::Unconfirmed);
            return;
        }
        let stage = connection.stage;
        let output_before = connection.output.len();
        let unused = Deframer::for_requests(0);
        let mut deframer = core::mem::replace(&mut connection.deframer, unused);
        let taken_max = match stage {
            // A word, or a wish for a session: its client may not wait for anything else.
            Stage::Connecting => 1,
            // What comes anew does not overtake those for whom the turn before was too short.
            _ if self.is_behind => 0,
            _ => self.turn_left.min(self.share),
        };
        let (mut taken, mut is_cut) = (0, false);
        let mut rest = bytes;
        loop {
            let frames = deframer.split(rest);
            is_cut |= self.take_frames(now, id, frames, &mut taken, taken_max, replicas);
            if is_cut || !deframer.holds_frame() {
                break;
            }
            rest = &[];
        }
        deframer.on_turn_end();
        let output = self.find(id).map_or(0, |connection| connection.output.len());
        let made_bytes = output.saturating_sub(output_before);
        self.take_of_turn(taken + made_bytes / TURN_SHARE_BYTES);
        self.finish_receiving(now, id, deframer, taken, is_cut);
    }

    /// Acts upon frames; tells whether it stopped before their end.
    fn take_frames(
        &mut self,
        now: Instant,
        id: ConnectionId,
        mut frames: Frames<'_>,
        taken: &mut usize,
        taken_max: usize,
        replicas: &mut impl Replicas,
    ) -> bool {
        loop {
            if *taken >= taken_max || !self.takes_more(id) {
                return true;
            }
            match frames.next() {
                None => return false,
                Some(Ok(frame)) => *taken += self.on_frame(now, id, frame, replicas),
                Some(Err(FrameError::Word(word))) => {
                    self.wishes.push(Wish::Admin { connection: id, word });
                    if let Some(connection) = self.find(id) {
                        connection.stage = Stage::Closing;
                    }
                    return true;
                }
                Some(Err(error @ (FrameError::NoLength | FrameError::TooLong { .. }))) => {
                    if matches!(error, FrameError::TooLong { .. }) {
                        self.met.note(Limit::FrameBytes);
                    }
                    self.close(id, Parting::BadFrame);
                    return true;
                }
            }
        }
    }

    /// What is begun in a turn is bounded for all connections together, too: they share the turn
    /// with the heartbeats.
    pub(super) fn take_of_turn(&mut self, requests: usize) {
        self.turn_left = self.turn_left.saturating_sub(requests);
    }

    fn finish_receiving(
        &mut self,
        now: Instant,
        id: ConnectionId,
        deframer: Deframer,
        taken: usize,
        is_cut: bool,
    ) {
        let takes_more = self.takes_more(id);
        let Some(connection) = self.find(id) else {
            return;
        };
        connection.received_bytes = deframer.carried_bytes();
        connection.deframer = deframer;
        if connection.stage == Stage::Closing {
            return;
        }
        let is_unfinished = is_cut && takes_more && connection.received_bytes > 0;
        let has_output = !connection.output.is_empty();
        if is_unfinished {
            self.unfinished.insert(id);
        }
        if taken > 0 {
            self.hear(now, id);
            if has_output {
                self.wishes.push(Wish::Output { connection: id });
            }
        }
        self.limit(id);
    }

    fn takes_more(&mut self, id: ConnectionId) -> bool {
        self.find(id).is_some_and(|connection| {
            // Until a client has its session, what it sent ahead is not looked at.
            matches!(connection.stage, Stage::Connecting | Stage::Attached)
                && !connection.is_deep()
                && connection.output.len() <= OUTPUT_BYTES_PAUSE
        })
    }

    /// Takes in one frame; tells what it takes of the turn.
    fn on_frame(
        &mut self,
        now: Instant,
        id: ConnectionId,
        frame: &[u8],
        replicas: &mut impl Replicas,
    ) -> usize {
        let Some(connection) = self.find(id) else {
            return 1;
        };
        if connection.stage == Stage::Connecting {
            self.on_connect_request(now, id, frame);
            return 1;
        }
        let Ok((header, body)) = parse_header(frame) else {
            self.close(id, Parting::BadRequest);
            return 1;
        };
        if header.op_code == OpCode::Ping.wire() {
            self.on_ping(now, id);
        } else if header.op_code == OpCode::Auth.wire() {
            self.on_auth(id, header.xid, body);
        } else if connection.queue.is_empty()
            && connection.stage == Stage::Attached
            && let Some(code) =
                self.read_at_once(now, id, header.xid, header.op_code, body, replicas)
        {
            // The common case: nothing waits, and the shard is here.
            if code == TOO_LARGE {
                return REQUESTS_PER_TURN_MAX;
            }
        } else {
            let Some(connection) = self.find(id) else {
                return 1;
            };
            let state = SlotState::Waiting {
                op_code: header.op_code,
                body: body.to_vec(),
                identities: connection.identities.clone(),
            };
            connection.push(Slot {
                xid: header.xid,
                since: now,
                bytes: body.len(),
                state,
                events: Vec::new(),
            });
            self.watch_waiting(now, id);
            return 1 + self.issue_due(now, id, replicas);
        }
        weight_of(header.op_code)
    }

    /// addAuth is answered at once, ahead of what waits, as in ZooKeeper; what waits was asked
    /// without it. A wrong credential ends the connection.
    fn on_auth(&mut self, id: ConnectionId, xid: i32, body: &[u8]) {
        let settings = self.config.auth.clone();
        let request = parse_request(OpCode::Auth.wire(), body);
        if request == Err(RequestError::Malformed) {
            self.close(id, Parting::BadRequest);
            return;
        }
        let Some(connection) = self.find(id) else {
            return;
        };
        let added = match request {
            Ok(Request::Auth { scheme, credential }) => {
                authenticate(scheme, credential, connection.address, &settings)
                    .and_then(|added| connection.identities.with(added))
            }
            _ => Err(AuthFailed),
        };
        let Ok(identities) = added else {
            let code = ErrorCode::AuthFailed;
            reply::header_only(&mut connection.output, xid, Zxid::ZERO, code);
            self.wishes.push(Wish::Output { connection: id });
            self.close(id, Parting::BadCredential);
            return;
        };
        connection.identities = identities;
        reply::header_only(&mut connection.output, xid, Zxid::ZERO, ErrorCode::Ok);
        let reader = connection.reader();
        let watching: Vec<ShardId> = connection.watching.iter().copied().collect();
        for shard in watching {
            self.ask(shard, What::Identify { reader: reader.clone() });
        }
    }
}
