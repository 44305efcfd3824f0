//! The links of one core: dial, greet, back off; accept, check, hand over; send and receive.
//!
//! There is one link for each pair of a core here and a core of a peer, dialed by the server with
//! the higher id. What a peer sends after its hello belongs to the link, even if it came with it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use pigeonhole_core::base::id::{CoreId, LinkId, ServerId};
use pigeonhole_core::base::limits::GREETINGS_MAX;
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::peer::hello::Hello;
use pigeonhole_core::worker::Worker;

use crate::config::HostPort;
use crate::os;
use crate::peer::dial::{Dials, Due, Target};
use crate::peer::greeting::{Complaints, Identity, read_hello};
use crate::ring::{Operation, ReceiveEnd, Ring, Token};
use crate::subject::Subject;

/// All links of one core.
pub(crate) struct Links {
    core: CoreId,
    identity: Identity,
    dials: Dials,
    slots: Vec<Slot>,
    free: Vec<u32>,
    restless: Vec<(u32, u32)>,
    incarnations: u32,
    complaints: Complaints,
}

/// What a link has become, for the worker or for another core.
pub(crate) enum LinkNews {
    Up { link: LinkId, peer_cores: u8, rest: Vec<u8> },
    Bytes { link: LinkId },
    Down { link: LinkId },
    HandOver { to: CoreId, stream: OwnedFd, hello: Hello, rest: Vec<u8> },
}

#[derive(Default)]
struct Slot {
    generation: u32,
    link: Option<Link>,
}

struct Link {
    stream: OwnedFd,
    stage: Stage,
    /// Until then the greeting has to be over.
    deadline: Option<Instant>,
    receiving: Option<Operation>,
    sending: bool,
    spare: Vec<u8>,
    /// What was received before the greeting was over.
    early: Vec<u8>,
    /// Our own hello, until it is sent.
    greeting: Vec<u8>,
    restless: bool,
}

enum Stage {
    /// Dialed, not connected yet.
    Connecting {
        peer: ServerId,
        core: CoreId,
    },
    /// The peer's hello is awaited: that of the peer which was dialed, or of anyone.
    Greeting {
        dialed: Option<(ServerId, CoreId)>,
    },
    /// For another core of this node; it goes there when the ring has let go of it.
    Leaving {
        hello: Hello,
    },
    Up {
        id: LinkId,
    },
    /// It is refused, and told who refuses it: a member that has not heard of its cluster learns
    /// of it this way, and its operator what the matter is.
    Parting,
    Gone,
}

impl Links {
    /// `peers` are the other members, with the addresses of those that are dialed from here.
    pub(crate) fn new(
        core: CoreId,
        identity: Identity,
        peers: &[(ServerId, HostPort)],
        now: Instant,
    ) -> Self {
        let dials = Dials::new(identity.server, peers, now);
        Self {
            core,
            identity,
            dials,
            slots: Vec::new(),
            free: Vec::new(),
            restless: Vec::new(),
            incarnations: 0,
            complaints: Complaints::default(),
        }
    }

    /// Someone has connected to the peer port.
    pub(crate) fn on_accepted(&mut self, stream: OwnedFd, now: Instant) {
        let greeting = |slot: &&Slot| {
            slot.link.as_ref().is_some_and(|link| matches!(link.stage, Stage::Greeting { .. }))
        };
        if self.slots.iter().filter(greeting).count() >= GREETINGS_MAX {
            // Whoever is meant to be here dials again.
            return;
        }
        let (slot, _) = self.insert(stream, Stage::Greeting { dialed: None }, now);
        self.stir(slot);
    }

    /// A link that another core has accepted for this one.
    pub(crate) fn on_handed_over(
        &mut self,
        stream: OwnedFd,
        hello: &Hello,
        rest: Vec<u8>,
        now: Instant,
        news: &mut Vec<LinkNews>,
    ) {
        let (slot, _) = self.insert(stream, Stage::Greeting { dialed: None }, now);
        self.establish(slot, hello, false, rest, news);
    }

    /// Dials whom it is time to dial; gives the names that have to be looked up first.
    pub(crate) fn on_time(&mut self, ring: &mut Ring, now: Instant) -> Vec<(ServerId, HostPort)> {
        let mut names = Vec::new();
        for due in self.dials.take_due(now) {
            match due {
                Due::Dial(target, address) => self.dial(target, address, ring, now),
                Due::Resolve(peer, address) => names.push((peer, address)),
            }
        }
        for slot in 0..self.slots.len() {
            let late = |link: &Link| link.deadline.is_some_and(|deadline| deadline <= now);
            if self.slots[slot].link.as_ref().is_some_and(late) {
                self.lose(u32::try_from(slot).expect("slots are few"), now);
            }
        }
        names
    }

    pub(crate) fn on_resolved(
        &mut self,
        peer: ServerId,
        addresses: &[SocketAddr],
        ring: &mut Ring,
        now: Instant,
    ) {
        if addresses.is_empty() {
            self.complaints.cannot_find(peer, now);
        }
        for (target, address) in self.dials.on_resolved(peer, addresses, now) {
            self.dial(target, address, ring, now);
        }
    }

    pub(crate) fn on_connected(&mut self, slot: u32, token: Token, worked: bool, now: Instant) {
        let Some(link) = self.find(slot, token) else {
            return;
        };
        let Stage::Connecting { peer, core } = link.stage else {
            return;
        };
        if !worked {
            self.lose(slot, now);
            return;
        }
        link.stage = Stage::Greeting { dialed: Some((peer, core)) };
        let greeting = self.identity.greeting(self.core, peer, core);
        self.link(slot).greeting = greeting;
        self.stir(slot);
    }

    /// Bytes have arrived. For an established link the caller hands them to the worker.
    pub(crate) fn on_received(
        &mut self,
        slot: u32,
        token: Token,
        bytes: &[u8],
        armed: bool,
        now: Instant,
        news: &mut Vec<LinkNews>,
    ) {
        let Some(link) = self.find(slot, token) else {
            return;
        };
        if !armed {
            link.receiving = None;
        }
        match link.stage {
            Stage::Up { id } => news.push(LinkNews::Bytes { link: id }),
            Stage::Greeting { .. } => {
                link.early.extend_from_slice(bytes);
                self.greet(slot, now, news);
            }
            Stage::Leaving { .. } => link.early.extend_from_slice(bytes),
            Stage::Connecting { .. } | Stage::Parting | Stage::Gone => {}
        }
        if !armed {
            self.stir(slot);
        }
        self.hand_over(slot, news);
    }

    pub(crate) fn on_receive_ended(
        &mut self,
        slot: u32,
        token: Token,
        end: &ReceiveEnd,
        now: Instant,
        news: &mut Vec<LinkNews>,
    ) {
        let Some(link) = self.find(slot, token) else {
            return;
        };
        link.receiving = None;
        match end {
            ReceiveEnd::NoBuffers | ReceiveEnd::Cancelled => {
                if let (ReceiveEnd::NoBuffers, Stage::Up { id }) = (end, &link.stage) {
                    // There is something to receive: the peer is not silent.
                    news.push(LinkNews::Bytes { link: *id });
                }
                self.stir(slot);
                self.hand_over(slot, news);
            }
            ReceiveEnd::Closed | ReceiveEnd::Failed(_) => self.end(slot, now, news),
        }
    }

    pub(crate) fn on_sent(
        &mut self,
        slot: u32,
        token: Token,
        mut buffer: Vec<u8>,
        failed: bool,
        now: Instant,
        news: &mut Vec<LinkNews>,
    ) {
        let Some(link) = self.find(slot, token) else {
            return;
        };
        link.sending = false;
        if buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            link.spare = buffer;
        }
        if failed || matches!(link.stage, Stage::Parting) {
            self.end(slot, now, news);
        } else {
            self.stir(slot);
        }
    }

    /// The worker has put something into the link's output.
    pub(crate) fn on_output(&mut self, id: LinkId) {
        if let Some(slot) = self.slot_of(id) {
            self.stir(slot);
        }
    }

    /// The worker does not want the link any more, and need not hear that it is down by itself.
    pub(crate) fn close(&mut self, id: LinkId, why: &str, now: Instant) -> bool {
        let Some(slot) = self.slot_of(id) else {
            return false;
        };
        tracing::info!("link to core {} of server {} closed: {why}", id.core.0, id.peer);
        self.lose(slot, now);
        true
    }

    /// Sends, receives and closes as the links need it.
    pub(crate) fn settle(&mut self, ring: &mut Ring, worker: &mut Worker) {
        for (slot, generation) in std::mem::take(&mut self.restless) {
            let place = &mut self.slots[slot as usize];
            let Some(link) = place.link.as_mut().filter(|_| place.generation == generation) else {
                continue;
            };
            link.restless = false;
            if matches!(link.stage, Stage::Gone) {
                let gone = place.link.take().expect("it was found just now");
                ring.close(gone.stream);
                self.free.push(slot);
                continue;
            }
            let token = Subject::Link(slot).token(generation);
            link.settle_receiving(token, ring);
            link.settle_sending(token, ring, worker);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let links = self.slots.iter().filter_map(|slot| slot.link.as_ref()?.deadline);
        self.dials.deadline().into_iter().chain(links).min()
    }

    fn dial(&mut self, target: Target, address: SocketAddr, ring: &mut Ring, now: Instant) {
        let Target { peer, core } = target;
        let socket = match os::stream_socket(address) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!("cannot dial server {peer}: {error}");
                self.dials.back_off(target, now);
                return;
            }
        };
        let (slot, generation) = self.insert(socket, Stage::Connecting { peer, core }, now);
        self.dials.on_begun(target, slot);
        let token = Subject::Link(slot).token(generation);
        ring.connect(self.link(slot).stream.as_fd(), token, address);
    }

    /// Reads the peer's hello, once it is complete.
    fn greet(&mut self, slot: u32, now: Instant, news: &mut Vec<LinkNews>) {
        let link = self.slots[slot as usize].link.as_mut().expect("the caller has found it");
        let Stage::Greeting { dialed } = link.stage else {
            return;
        };
        let outcome = match read_hello(&link.early) {
            Ok(None) => return,
            Ok(Some((hello, length))) => match dialed {
                Some((peer, core)) => self.identity.judge_dialed(&hello, peer, core),
                None => self.identity.judge_dialer(&hello),
            }
            .map(|()| (hello, length))
            .map_err(|refusal| (refusal, Some(hello))),
            Err(refusal) => Err((refusal, None)),
        };
        match outcome {
            Ok((hello, length)) => {
                let rest = link.early.split_off(length);
                link.early = Vec::new();
                if hello.to_core == self.core || dialed.is_some() {
                    self.establish(slot, &hello, dialed.is_some(), rest, news);
                } else {
                    link.early = rest;
                    link.stage = Stage::Leaving { hello };
                    self.stir(slot);
                }
            }
            Err((refusal, hello)) => {
                let who = match dialed {
                    Some((peer, _)) => format!("server {peer}"),
                    None => os::peer_address(&link.stream)
                        .map_or_else(|_| "a stranger".to_owned(), |from| from.ip().to_string()),
                };
                self.complaints.refuse(&who, refusal, now);
                match hello.filter(|hello| self.identity.judge_place(hello).is_ok()) {
                    Some(hello) if dialed.is_none() => self.part_politely(slot, &hello),
                    _ => {
                        self.lose(slot, now);
                    }
                }
            }
        }
    }

    /// Answers a refused hello with the own one; the link ends when that is sent.
    fn part_politely(&mut self, slot: u32, hello: &Hello) {
        let greeting = self.identity.greeting(self.core, hello.from, hello.from_core);
        let link = self.link(slot);
        link.stage = Stage::Parting;
        link.greeting = greeting;
        self.stir(slot);
    }

    fn establish(
        &mut self,
        slot: u32,
        hello: &Hello,
        dialed: bool,
        rest: Vec<u8>,
        news: &mut Vec<LinkNews>,
    ) {
        let (peer, core) = (hello.from, hello.from_core);
        // A peer that dials again has lost the link of before, whether we have noticed or not.
        let earlier = self.slots.iter().position(|place| {
            let stage = place.link.as_ref().map(|link| &link.stage);
            matches!(stage, Some(Stage::Up { id }) if (id.peer, id.core) == (peer, core))
        });
        if let Some(earlier) = earlier {
            let earlier = u32::try_from(earlier).expect("slots are few");
            if let Some(id) = self.part(earlier) {
                news.push(LinkNews::Down { link: id });
            }
        }
        self.incarnations = self.incarnations.wrapping_add(1);
        let id = LinkId { peer, core, incarnation: self.incarnations };
        let greeting = self.identity.greeting(self.core, peer, core);
        let link = self.link(slot);
        link.stage = Stage::Up { id };
        link.deadline = None;
        if !dialed {
            link.greeting = greeting;
        }
        self.stir(slot);
        if dialed {
            self.dials.on_linked(peer, hello.cores);
        }
        news.push(LinkNews::Up { link: id, peer_cores: hello.cores, rest });
    }

    /// Gives a link to the core that it is for, when no operation of this ring knows it any more.
    fn hand_over(&mut self, slot: u32, news: &mut Vec<LinkNews>) {
        let place = &mut self.slots[slot as usize];
        let Some(link) = &place.link else { return };
        let Stage::Leaving { hello } = link.stage else {
            return;
        };
        if link.receiving.is_some() {
            return;
        }
        let link = place.link.take().expect("it was looked at just now");
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        let (stream, rest) = (link.stream, link.early);
        news.push(LinkNews::HandOver { to: hello.to_core, stream, hello, rest });
    }

    /// The link has ended by itself.
    fn end(&mut self, slot: u32, now: Instant, news: &mut Vec<LinkNews>) {
        if let Some(id) = self.lose(slot, now) {
            news.push(LinkNews::Down { link: id });
        }
    }

    /// Lets go of a link, and dials again later if it was dialed from here.
    fn lose(&mut self, slot: u32, now: Instant) -> Option<LinkId> {
        let id = self.part(slot);
        self.dials.on_lost(slot, now);
        id
    }

    fn part(&mut self, slot: u32) -> Option<LinkId> {
        let link = self.link(slot);
        let stage = std::mem::replace(&mut link.stage, Stage::Gone);
        link.deadline = None;
        self.stir(slot);
        match stage {
            Stage::Up { id } => Some(id),
            _ => None,
        }
    }

    fn insert(&mut self, stream: OwnedFd, stage: Stage, now: Instant) -> (u32, u32) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("slots are few")
        });
        let place = &mut self.slots[slot as usize];
        assert!(place.link.is_none(), "a free slot has no tenant");
        place.generation = place.generation.wrapping_add(1);
        place.link = Some(Link {
            stream,
            stage,
            deadline: Some(now + GREETING_TIME_MAX),
            receiving: None,
            sending: false,
            spare: Vec::new(),
            early: Vec::new(),
            greeting: Vec::new(),
            restless: false,
        });
        (slot, place.generation)
    }

    fn stir(&mut self, slot: u32) {
        let place = &mut self.slots[slot as usize];
        if let Some(link) = &mut place.link
            && !link.restless
        {
            link.restless = true;
            self.restless.push((slot, place.generation));
        }
    }

    fn find(&mut self, slot: u32, token: Token) -> Option<&mut Link> {
        let place = self.slots.get_mut(slot as usize)?;
        place.link.as_mut().filter(|_| place.generation == token.generation)
    }

    fn link(&mut self, slot: u32) -> &mut Link {
        self.slots[slot as usize].link.as_mut().expect("the slot has a tenant")
    }

    fn slot_of(&self, wanted: LinkId) -> Option<u32> {
        let holds = |slot: &Slot| {
            let stage = slot.link.as_ref().map(|link| &link.stage);
            matches!(stage, Some(Stage::Up { id }) if *id == wanted)
        };
        self.slots.iter().position(holds).map(|slot| u32::try_from(slot).expect("slots are few"))
    }
}

impl Link {
    fn settle_receiving(&mut self, token: Token, ring: &mut Ring) {
        match (&self.stage, self.receiving) {
            (Stage::Greeting { .. } | Stage::Up { .. }, None) => {
                self.receiving = Some(ring.receive(self.stream.as_fd(), token));
            }
            (Stage::Leaving { .. }, Some(operation)) => ring.cancel(operation),
            _ => {}
        }
    }

    /// Sends what there is. How much may wait is for the worker to judge.
    fn settle_sending(&mut self, token: Token, ring: &mut Ring, worker: &mut Worker) {
        if self.sending {
            return;
        }
        let up = match self.stage {
            Stage::Up { id } => Some(id),
            Stage::Greeting { .. } | Stage::Parting => None,
            Stage::Connecting { .. } | Stage::Leaving { .. } | Stage::Gone => return,
        };
        let mut buffer = std::mem::take(&mut self.greeting);
        if buffer.is_empty()
            && let Some(output) = up.and_then(|id| worker.link_output(id))
        {
            buffer = std::mem::take(&mut self.spare);
            std::mem::swap(output, &mut buffer);
        }
        if buffer.is_empty() {
            self.spare = buffer;
        } else {
            self.sending = true;
            ring.send(self.stream.as_fd(), token, buffer);
        }
    }
}

/// Connecting and both hellos; a peer that is there takes a few round trips.
const GREETING_TIME_MAX: Duration = Duration::from_ms(2000);
/// What a quiet link keeps of the memory of a busy one.
const SPARE_BYTES_MAX: usize = 1 << 20;
