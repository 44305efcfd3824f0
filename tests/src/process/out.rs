//! What leaves a process: bytes of links and clients, each watched on its way.

use pigeonhole_core::base::id::{ConnectionId, CoreId, LinkId, ShardId};
use pigeonhole_core::peer::codec::{self, Frame};
use pigeonhole_core::peer::message::ArchivedPeerMessage;
use pigeonhole_core::shard::ShardMap;

use crate::check::durability;
use crate::disk::Disk;
use crate::node::{Around, node_of, server_id};
use crate::process::{Heard, Process};
use crate::say;
use crate::sometimes::State;

impl Process {
    /// Sends what the worker has ready, as far as there is room.
    pub(super) fn flush(&mut self, id: CoreId, disk: &Disk, around: &mut Around<'_>) {
        for link in std::mem::take(&mut self.core(id).link_outputs) {
            self.flush_link(id, link, disk, around);
        }
        for connection in std::mem::take(&mut self.core(id).client_outputs) {
            self.flush_client(id, connection, around);
        }
    }

    fn flush_link(&mut self, id: CoreId, link: LinkId, disk: &Disk, around: &mut Around<'_>) {
        let core = &mut self.cores[usize::from(id.0)];
        let Some(socket) = core.links.get_mut(&link) else {
            return;
        };
        let output = core.worker.link_output(link).filter(|output| !output.is_empty());
        let Some(output) = output.filter(|_| !socket.sending) else {
            return;
        };
        let bytes = std::mem::take(output);
        let (stream, side) = (socket.stream, socket.side);
        let shards: Vec<ShardId> = ShardMap::new(self.config.cluster.shards).shards().collect();
        let (mut sent, mut at) = (0, 0);
        while at < bytes.len() {
            let length = codec::frame_bytes(&bytes[at..]).ok().flatten();
            let length = length.expect("whole frames leave");
            let frame = &bytes[at..at + length];
            if self.is_held(link, frame, around) {
                if at > sent {
                    around.network.send(stream, side, bytes[sent..at].to_vec(), around.queue);
                    sent = at;
                }
                around.network.close_gate(stream, side);
            }
            self.watch_frame(link, frame, disk, &shards, around);
            at += length;
        }
        let rest = if sent == 0 { bytes } else { bytes[sent..].to_vec() };
        let done = around.network.send(stream, side, rest, around.queue);
        let socket = self.core(id).links.get_mut(&link).expect("nothing closes it here");
        socket.sending = !done;
    }

    /// Whether a story holds this frame back, and with it everything behind.
    fn is_held(&self, link: LinkId, frame: &[u8], around: &mut Around<'_>) -> bool {
        if !around.network.has_holds() {
            return false;
        }
        let Ok(Frame::Message { message, .. }) = codec::decode(frame) else {
            return false;
        };
        let kind = say::kind(message);
        let held = !say::is_heartbeat(message)
            && around.network.is_held(self.config.index, node_of(link.peer), &kind);
        if held {
            around.trace.line(around.queue.now(), || {
                format!("held: {kind} of n{} to {:?}", self.config.index + 1, link.peer)
            });
        }
        held
    }

    fn watch_frame(
        &self,
        link: LinkId,
        frame: &[u8],
        disk: &Disk,
        shards: &[ShardId],
        around: &mut Around<'_>,
    ) {
        let Ok(Frame::Message { shard, message }) = codec::decode(frame) else {
            return;
        };
        let node = self.config.index;
        durability::on_message(around.checks, node, shard, message, disk, shards);
        if matches!(message, ArchivedPeerMessage::Digest { .. }) {
            around.checks.sometimes.hit(State::DigestTold);
        }
        if !say::is_heartbeat(message) {
            around.trace.message(around.queue.now(), || {
                let text = say::say(message);
                format!("{:?} -> {:?} {shard:?} {text}", server_id(node), link.peer)
            });
        }
    }

    fn flush_client(&mut self, id: CoreId, connection: ConnectionId, around: &mut Around<'_>) {
        let core = &mut self.cores[usize::from(id.0)];
        let Some(socket) = core.clients.get_mut(&connection) else {
            return;
        };
        if socket.sending {
            return;
        }
        let (stream, side) = (socket.stream, socket.side);
        let bytes = core.worker.client_output(connection).map(std::mem::take).unwrap_or_default();
        if !bytes.is_empty() {
            socket.sending = !around.network.send(stream, side, bytes, around.queue);
            if socket.sending {
                return;
            }
            core.inbox.push_back(Heard::ClientSent { connection });
        }
        if socket.closing {
            around.network.close(stream, side, around.queue);
            self.drop_client(connection, around);
        }
    }
}
