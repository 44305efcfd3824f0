//! What a worker asks for, carried out; and what checkers and readers of traces learn from it.

use pigeonhole_core::base::id::{ConnectionId, CoreId, LinkId, ShardId};
use pigeonhole_core::effect::Effect;
use pigeonhole_core::zab::{Event as ZabEvent, Plan};

use crate::node::{Around, node_of, server_id};
use crate::process::{Heard, Process};
use crate::sometimes::State;

impl Process {
    pub(super) fn perform(&mut self, id: CoreId, effect: Effect, around: &mut Around<'_>) {
        let (node, at) = (self.config.index, around.queue.now());
        match effect {
            Effect::Append(append) => {
                around.checks.agreement.on_append(node, &append, at);
                around.trace.line(at, || {
                    format!("{:?} appends {:?} {:?}", server_id(node), append.shard, append.record)
                });
                around.trace.fold(append.sequence.0, &[]);
                self.core(id).wal.append(append);
            }
            Effect::Committed { shard, zxid } => {
                let checks = &mut *around.checks;
                checks.agreement.on_committed(node, shard, zxid, at, &mut checks.sometimes);
                self.core(id).wal.note_committed(shard, zxid);
            }
            Effect::Snapshot(job) => self.make_snapshot(job, around),
            Effect::Discard(state) => drop(state),
            Effect::Mail { to, mail } => {
                self.hand_over(to, Heard::Mail { from: id, mail }, around);
            }
            Effect::ClientOutput { connection } => {
                self.core(id).client_outputs.insert(connection);
            }
            Effect::ClientPause { connection, paused } => {
                if let Some(socket) = self.core(id).clients.get(&connection) {
                    let (stream, side) = (socket.stream, socket.side);
                    around.network.pause(stream, side, paused, around.queue);
                }
            }
            Effect::ClientClose { connection, session, why } => {
                around.trace.line(around.queue.now(), || {
                    let me = server_id(node);
                    format!("{me:?} closes the connection of session {session}: {why}")
                });
                self.close_client(id, connection);
            }
            Effect::Admin { connection, .. } => self.close_client(id, connection),
            Effect::SessionExpired { session, .. } => {
                around.trace.line(around.queue.now(), || {
                    format!("{:?} lets session {session} expire", server_id(node))
                });
            }
            Effect::LinkOutput { link } => {
                self.core(id).link_outputs.insert(link);
            }
            Effect::LinkClose { link, why } => self.close_link(id, link, why, around),
            Effect::Diverged { shard, zxid } => {
                panic!("StateDigest: n{node} has diverged in shard {shard} at {zxid}")
            }
            Effect::Event { shard, event } => self.note(shard, event, around),
        }
    }

    fn close_client(&mut self, id: CoreId, connection: ConnectionId) {
        let core = self.core(id);
        if let Some(socket) = core.clients.get_mut(&connection) {
            socket.closing = true;
            core.client_outputs.insert(connection);
        }
    }

    fn close_link(&mut self, id: CoreId, link: LinkId, why: &'static str, around: &mut Around<'_>) {
        around.checks.sometimes.hit(State::LinkDropped);
        around.trace.line(around.queue.now(), || {
            format!("{:?} drops its link to {:?}: {why}", server_id(self.config.index), link.peer)
        });
        let Some(socket) = self.core(id).links.remove(&link) else {
            return;
        };
        around.network.close(socket.stream, socket.side, around.queue);
        let delay = self.retry_delay();
        self.links.on_lost(socket.stream, delay, around);
        self.hand_over(id, Heard::LinkDown { link }, around);
    }

    fn note(&mut self, shard: ShardId, event: ZabEvent, around: &mut Around<'_>) {
        let node = self.config.index;
        around
            .trace
            .line(around.queue.now(), || format!("{:?} {shard:?} {event:?}", server_id(node)));
        let checks = &mut *around.checks;
        match event {
            ZabEvent::Established { epoch, .. } => {
                checks.agreement.on_established(node, shard, epoch.0, &mut checks.sometimes);
            }
            ZabEvent::Plan { plan: Plan::Diff, .. } => checks.sometimes.hit(State::PlanDiff),
            ZabEvent::Plan { plan: Plan::Truncate, .. } => {
                checks.sometimes.hit(State::PlanTruncate);
            }
            ZabEvent::Plan { plan: Plan::Snapshot, learner, .. } => {
                checks.sometimes.hit(State::PlanSnapshot);
                if !checks.transfers.insert((node_of(learner), shard)) {
                    checks.sometimes.hit(State::TransferInterrupted);
                }
            }
            ZabEvent::Installed { .. } => {
                checks.sometimes.hit(State::Installed);
                checks.transfers.remove(&(node, shard));
            }
            ZabEvent::Truncated { .. } => checks.sometimes.hit(State::Truncated),
            ZabEvent::LearnerAhead { .. } => checks.sometimes.hit(State::LearnerAhead),
            ZabEvent::Looking { why: "this server stops", .. } => {
                checks.sometimes.hit(State::HandedOver);
            }
            ZabEvent::Looking { .. } if checks.agreement.has_pending(node, shard) => {
                checks.sometimes.hit(State::ProposalsLeftBehind);
            }
            ZabEvent::TruncationRefused { to, committed } => {
                panic!("n{node} was told to truncate to {to}, and {committed} is committed");
            }
            ZabEvent::DigestsDiffer { at } => {
                panic!("StateDigest: the nodes differ at {at} in shard {shard}")
            }
            ZabEvent::SnapshotRefused { at, committed } => {
                panic!("n{node} was offered a snapshot at {at}, and {committed} is committed");
            }
            _ => {}
        }
    }
}
