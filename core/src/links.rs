//! One core's links to the cores of its peers: framing, liveness, and what waits to be sent.
//!
//! Liveness is the link's affair, not a shard's: a ping travels once per link and period, however
//! many shards there are, and a silent link is closed, which every replica then hears of.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::base::id::{CoreId, LinkId, ServerId, ShardId};
use crate::base::limits::LINK_OUTPUT_BYTES_MAX;
use crate::base::met::{Limit, LimitsMet};
use crate::base::time::{Duration, Instant};
use crate::peer::codec::{self, Frame};
use crate::peer::message::PeerMessage;

pub struct Links {
    links: BTreeMap<(ServerId, CoreId), Link>,
    /// The number of cores of each peer that has been linked.
    cores: BTreeMap<ServerId, u8>,
    heartbeat: Duration,
    silence: Duration,
    /// When there was last more to hear than had been heard.
    behind_at: Option<Instant>,
    met: LimitsMet,
}

struct Link {
    id: LinkId,
    /// Received, and not yet a whole frame.
    carried: Vec<u8>,
    output: Vec<u8>,
    up_at: Instant,
    heard: Instant,
    ping_at: Instant,
    /// Nothing but pings has travelled since the last one was sent.
    is_quiet: bool,
    is_closing: bool,
}

/// Why a link is to be closed.
pub type Complaint = &'static str;

impl Links {
    pub fn new(heartbeat: Duration, silence: Duration) -> Self {
        assert!(heartbeat < silence, "a peer that lives is never silent for so long");
        let (links, cores, behind_at, met) = Default::default();
        Self { links, cores, heartbeat, silence, behind_at, met }
    }

    pub fn on_up(&mut self, now: Instant, id: LinkId, peer_cores: u8) {
        assert!(id.core.0 < peer_cores, "a hello was checked");
        self.cores.insert(id.peer, peer_cores);
        let link = Link {
            id,
            carried: Vec::new(),
            output: Vec::new(),
            up_at: now,
            heard: now,
            ping_at: next_ping(now, self.heartbeat),
            is_quiet: false,
            is_closing: false,
        };
        self.links.insert((id.peer, id.core), link);
    }

    /// What has arrived by now is more than has been heard. A peer that seems to be silent may have
    /// spoken; it has to be silent for several times as long to be given up.
    pub fn note_behind(&mut self, now: Instant) {
        self.behind_at = Some(now);
    }

    /// Forgets the link; false if another one has taken its place already.
    pub fn on_down(&mut self, id: LinkId) -> bool {
        let key = (id.peer, id.core);
        let known = self.links.get(&key).is_some_and(|link| link.id == id);
        if known {
            self.links.remove(&key);
        }
        known
    }

    /// Takes bytes and hands out whole frames as messages.
    pub fn receive(
        &mut self,
        now: Instant,
        id: LinkId,
        bytes: &[u8],
        mut on_message: impl FnMut(ShardId, PeerMessage),
    ) -> Result<(), Complaint> {
        let Some(link) = self.find(id) else {
            return Ok(());
        };
        link.heard = now;
        let mut is_quiet = link.is_quiet;
        let mut carried = core::mem::take(&mut link.carried);
        let was_empty = carried.is_empty();
        let mut rest = if was_empty {
            bytes
        } else {
            carried.extend_from_slice(bytes);
            &carried
        };
        let result = loop {
            match codec::frame_bytes(rest) {
                Ok(Some(length)) if length <= rest.len() => {
                    let (frame, behind) = rest.split_at(length);
                    rest = behind;
                    match codec::decode(frame) {
                        Ok(Frame::Ping) => {}
                        Ok(Frame::Message { shard, message }) => match codec::to_owned(message) {
                            Ok(message) => {
                                is_quiet = false;
                                on_message(shard, message);
                            }
                            Err(_) => break Err("a message that cannot be read"),
                        },
                        Ok(Frame::Hello(_)) => break Err("a second hello"),
                        Ok(Frame::Formation(_)) => break Err("it has no cluster"),
                        Err(_) => break Err("a frame that cannot be read"),
                    }
                }
                Ok(_) => break Ok(()),
                Err(_) => break Err("a frame of an impossible length"),
            }
        };
        let left = rest.len();
        if was_empty {
            carried.extend_from_slice(&bytes[bytes.len() - left..]);
        } else {
            // The beginning of a long frame stays where it is.
            carried.drain(..carried.len() - left);
        }
        if let Some(link) = self.find(id) {
            link.carried = carried;
            link.is_quiet = is_quiet;
        }
        result
    }

    /// The peer's core that a shard lives on, once the peer has been linked.
    pub fn core_of_peer(&self, peer: ServerId, shard: ShardId) -> Option<CoreId> {
        Some(core_of(shard, *self.cores.get(&peer)?))
    }

    /// The link over which this core talks to a peer about a shard.
    pub fn link_for(&self, peer: ServerId, shard: ShardId) -> Option<LinkId> {
        let cores = self.cores.get(&peer)?;
        let core = core_of(shard, *cores);
        let link = self.links.get(&(peer, core))?;
        (!link.is_closing).then_some(link.id)
    }

    /// Appends a frame; an error means that the peer has stopped reading.
    pub fn send(&mut self, id: LinkId, frame: &[u8]) -> Result<(), Complaint> {
        let Some(link) = self.find(id) else {
            return Ok(());
        };
        if link.output.len() + frame.len() > LINK_OUTPUT_BYTES_MAX {
            self.met.note(Limit::LinkOutputBytes);
            return Err("too much is waiting to be sent");
        }
        link.output.extend_from_slice(frame);
        link.is_quiet = false;
        Ok(())
    }

    /// How often peers stopped reading.
    pub fn limits_met(&self) -> &LimitsMet {
        &self.met
    }

    pub fn output(&mut self, id: LinkId) -> Option<&mut Vec<u8>> {
        Some(&mut self.find(id)?.output)
    }

    /// Pings where nothing is on its way, and names the links that have been silent for too long.
    pub fn on_time(
        &mut self,
        now: Instant,
        mut on_output: impl FnMut(LinkId),
        mut on_silence: impl FnMut(LinkId),
    ) {
        let (heartbeat, silence) = (self.heartbeat, self.silence);
        let quiet_heartbeat = quiet_heartbeat(heartbeat, silence);
        let patience = if self.behind_at == Some(now) { SILENCES_WHILE_BEHIND } else { 1 };
        for link in self.links.values_mut().filter(|link| !link.is_closing) {
            if link.silent_until(Duration(silence.0 * patience)) <= now {
                link.is_closing = true;
                on_silence(link.id);
            } else if link.ping_at <= now {
                let period = if link.is_quiet { quiet_heartbeat } else { heartbeat };
                link.ping_at = next_ping(now, period);
                link.is_quiet = true;
                if link.output.is_empty() {
                    codec::encode_ping(&mut link.output);
                }
                on_output(link.id);
            }
        }
    }

    /// Marks a link that is about to be closed: nothing more is sent over it.
    pub fn closing(&mut self, id: LinkId) {
        if let Some(link) = self.find(id) {
            link.is_closing = true;
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let open = self.links.values().filter(|link| !link.is_closing);
        open.map(|link| link.ping_at.min(link.silent_until(self.silence))).min()
    }

    fn find(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&(id.peer, id.core)).filter(|link| link.id == id)
    }
}

impl Link {
    /// When a peer of which nothing more is heard is given up.
    fn silent_until(&self, silence: Duration) -> Instant {
        (self.heard + silence).max(self.up_at + Duration(silence.0 * SILENCES_OF_A_NEW_LINK))
    }
}

/// Words of a living peer come one heartbeat after the other, from however far away. Only the first
/// takes a round trip, because the peer speaks when it has been answered; and so does the eleventh
/// or so, because a new connection sends ten segments before it has heard that any has arrived.
const SILENCES_OF_A_NEW_LINK: u64 = 5;
/// A server that is always behind still gives up a peer that is gone.
const SILENCES_WHILE_BEHIND: u64 = 8;

/// On a link that carries nothing else, a ping waits behind nothing: fewer are enough to be heard
/// several times before the peer is taken for silent. They are most of what an idle server does.
fn quiet_heartbeat(heartbeat: Duration, silence: Duration) -> Duration {
    Duration(heartbeat.0.max((2 * heartbeat.0).min(silence.0 / 4)))
}

/// Pings of all links are due at the same moments, so that an idle core wakes up once for all.
fn next_ping(now: Instant, heartbeat: Duration) -> Instant {
    Instant((now.0 / heartbeat.0 + 1) * heartbeat.0)
}

/// The core of a node with so many cores that a shard lives on.
pub fn core_of(shard: ShardId, cores: u8) -> CoreId {
    assert!(cores > 0, "a node has a core");
    let core = shard.0 % u16::from(cores);
    CoreId(u8::try_from(core).expect("a remainder is below its divisor"))
}
