//! The client connections of one core: sockets ⇄ the worker's buffers.
//!
//! A connection's wishes (to be read, to be sent, to be closed) and what the ring is doing for it
//! are kept apart; once a turn [`Clients::settle`] brings the second in line with the first. One
//! send is in flight at a time: the worker fills one buffer while the other is being sent, and the
//! two change places without a copy.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use pigeonhole_core::base::id::{ConnectionId, CoreId, SessionId};
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::gateway::Parting;
use pigeonhole_core::worker::Worker;

use crate::client::crowd::Seat;
use crate::client::traffic::{ConnectionFigures, CoreTraffic, Traffic};
use crate::ring::{Operation, ReceiveEnd, Ring, Token};
use crate::subject::Subject;

/// All client connections of one core.
pub(crate) struct Clients {
    core: CoreId,
    slots: Vec<Slot>,
    free: Vec<u32>,
    open: usize,
    /// Connections whose wishes may have changed.
    restless: Vec<ConnectionId>,
    /// When a connection that is being closed is given up, oldest first.
    patience: VecDeque<(Instant, ConnectionId)>,
    pub(crate) traffic: CoreTraffic,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

struct Connection {
    stream: OwnedFd,
    address: SocketAddr,
    _seat: Seat,
    since_wall_ms: i64,
    phase: Phase,
    paused: bool,
    receiving: Option<Receiving>,
    sending: bool,
    /// The buffer that the last send has given back.
    spare: Vec<u8>,
    restless: bool,
    traffic: Traffic,
}

enum Phase {
    Open,
    /// A four-letter word is being answered: the client may have closed its side already.
    Asked,
    /// This is sent, then nothing more.
    LastWords(Vec<u8>),
    /// What is in the output is sent, then nothing more.
    Draining,
    /// The other side is gone.
    Gone,
}

struct Receiving {
    operation: Operation,
    cancelled: bool,
}

/// One connection, for those who ask.
#[derive(Clone)]
pub(crate) struct ConnectionLine {
    pub(crate) connection: ConnectionId,
    pub(crate) address: SocketAddr,
    pub(crate) since_wall_ms: i64,
    pub(crate) outstanding: usize,
    pub(crate) reads: bool,
    pub(crate) figures: ConnectionFigures,
}

impl Clients {
    pub(crate) fn new(core: CoreId) -> Self {
        Self {
            core,
            slots: Vec::new(),
            free: Vec::new(),
            open: 0,
            restless: Vec::new(),
            patience: VecDeque::new(),
            traffic: CoreTraffic::default(),
        }
    }

    /// Takes a connection in.
    pub(crate) fn open(
        &mut self,
        stream: OwnedFd,
        address: SocketAddr,
        seat: Seat,
        wall_ms: i64,
    ) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("descriptors are fewer than 2^28")
        });
        let place = &mut self.slots[slot as usize];
        assert!(place.connection.is_none(), "a free slot has no tenant");
        place.generation = place.generation.wrapping_add(1);
        place.connection = Some(Connection {
            stream,
            address,
            _seat: seat,
            since_wall_ms: wall_ms,
            phase: Phase::Open,
            paused: false,
            receiving: None,
            sending: false,
            spare: Vec::new(),
            restless: false,
            traffic: Traffic::default(),
        });
        self.open += 1;
        let connection = ConnectionId { core: self.core, slot, generation: place.generation };
        self.stir(connection);
        connection
    }

    /// How many there are, those included that are being closed.
    pub(crate) fn open_count(&self) -> usize {
        self.open
    }

    /// The connection to which received bytes belong, unless nobody listens to it any more.
    pub(crate) fn on_received(
        &mut self,
        slot: u32,
        token: Token,
        bytes: &[u8],
        armed: bool,
        now: Instant,
    ) -> Option<ConnectionId> {
        let id = self.id(slot, token);
        let connection = find(&mut self.slots, id)?;
        if !armed {
            connection.receiving = None;
        }
        let open = matches!(connection.phase, Phase::Open);
        if open {
            connection.traffic.on_received(bytes, now, &mut self.traffic);
        }
        if !armed {
            self.stir(id);
        }
        open.then_some(id)
    }

    /// The connection that is closed, if that is what the end means and it was open.
    pub(crate) fn on_receive_ended(
        &mut self,
        slot: u32,
        token: Token,
        end: &ReceiveEnd,
    ) -> Option<ConnectionId> {
        let id = self.id(slot, token);
        let connection = find(&mut self.slots, id)?;
        connection.receiving = None;
        self.stir(id);
        let connection = find(&mut self.slots, id).expect("it was there just now");
        match end {
            ReceiveEnd::NoBuffers | ReceiveEnd::Cancelled => return None,
            ReceiveEnd::Closed | ReceiveEnd::Failed(_) => {}
        }
        match connection.phase {
            Phase::Open => {
                connection.phase = Phase::Gone;
                Some(id)
            }
            // Whoever asks with a four-letter word often closes its own side at once.
            Phase::Asked | Phase::LastWords(_) | Phase::Draining => {
                connection.paused = true;
                None
            }
            Phase::Gone => None,
        }
    }

    /// The connection whose send is over; the flag says that it failed, and with it the connection.
    pub(crate) fn on_sent(
        &mut self,
        slot: u32,
        token: Token,
        mut buffer: Vec<u8>,
        failed: bool,
    ) -> Option<(ConnectionId, bool)> {
        let id = self.id(slot, token);
        let connection = find(&mut self.slots, id)?;
        connection.sending = false;
        if buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            connection.spare = buffer;
        }
        let lost = failed && !matches!(connection.phase, Phase::Gone);
        if lost {
            connection.phase = Phase::Gone;
        }
        self.stir(id);
        Some((id, lost))
    }

    /// Makes sure that the connection is looked at before the turn ends.
    pub(crate) fn stir(&mut self, id: ConnectionId) {
        if let Some(connection) = find(&mut self.slots, id)
            && !connection.restless
        {
            connection.restless = true;
            self.restless.push(id);
        }
    }

    pub(crate) fn pause(&mut self, id: ConnectionId, paused: bool) {
        if let Some(connection) = find(&mut self.slots, id) {
            connection.paused = paused;
            self.stir(id);
        }
    }

    /// Closes the connection when its output is sent.
    pub(crate) fn drain(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        why: Parting,
        now: Instant,
    ) {
        if let Some(connection) = find(&mut self.slots, id) {
            let address = connection.address;
            tracing::debug!("closes the connection of {address}, session {session}: {why}");
        }
        self.leave(id, Phase::Draining, now);
    }

    /// A four-letter word has come. False if the connection is gone.
    pub(crate) fn ask(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = find(&mut self.slots, id) else {
            return false;
        };
        if !matches!(connection.phase, Phase::Open) {
            return false;
        }
        connection.phase = Phase::Asked;
        connection.traffic.on_word(&mut self.traffic);
        true
    }

    /// Answers it, and closes the connection.
    pub(crate) fn answer(&mut self, id: ConnectionId, words: Vec<u8>, now: Instant) {
        Traffic::on_answer_to_word(&mut self.traffic);
        self.leave(id, Phase::LastWords(words), now);
    }

    /// Carries out what the connections wish; `closed` gets those that are closed on our own wish.
    pub(crate) fn settle(
        &mut self,
        ring: &mut Ring,
        worker: &mut Worker,
        now: Instant,
        closed: &mut Vec<ConnectionId>,
    ) {
        self.give_up(now);
        for index in 0..self.restless.len() {
            let id = self.restless[index];
            let Some(connection) = find(&mut self.slots, id) else {
                continue;
            };
            connection.restless = false;
            if !matches!(connection.phase, Phase::Gone) {
                connection.settle_receiving(id, ring);
                if !connection.settle_sending(id, ring, worker, now, &mut self.traffic) {
                    continue;
                }
                closed.push(id);
            }
            let slot = &mut self.slots[id.slot as usize];
            let gone = slot.connection.take().expect("it was found just now");
            ring.close(gone.stream);
            self.free.push(id.slot);
            self.open -= 1;
        }
        self.restless.clear();
    }

    /// When a connection that is being closed has to be looked at again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.patience.front().map(|(deadline, _)| *deadline)
    }

    /// Whether any send is in flight.
    pub(crate) fn is_sending(&self) -> bool {
        self.slots.iter().filter_map(|slot| slot.connection.as_ref()).any(|it| it.sending)
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = ConnectionLine> {
        let slots = (0..).zip(&self.slots);
        slots.filter_map(|(slot, place)| {
            let connection = place.connection.as_ref()?;
            let generation = place.generation;
            Some(ConnectionLine {
                connection: ConnectionId { core: self.core, slot, generation },
                address: connection.address,
                since_wall_ms: connection.since_wall_ms,
                outstanding: connection.traffic.outstanding(),
                reads: matches!(connection.phase, Phase::Open) && !connection.paused,
                figures: connection.traffic.figures,
            })
        })
    }

    /// Begins every connection's figures anew.
    pub(crate) fn reset_connections(&mut self) {
        let connections = self.slots.iter_mut().filter_map(|slot| slot.connection.as_mut());
        connections.for_each(|connection| connection.traffic.reset());
    }

    fn leave(&mut self, id: ConnectionId, phase: Phase, now: Instant) {
        let Some(connection) = find(&mut self.slots, id) else {
            return;
        };
        if matches!(connection.phase, Phase::Gone) {
            return;
        }
        connection.phase = phase;
        self.patience.push_back((now + LEAVE_TIME_MAX, id));
        self.stir(id);
    }

    /// Lets go of connections that do not take what is left for them.
    fn give_up(&mut self, now: Instant) {
        while let Some((_, id)) = self.patience.front().filter(|(deadline, _)| *deadline <= now) {
            let id = *id;
            self.patience.pop_front();
            if let Some(connection) = find(&mut self.slots, id) {
                // Closing cancels the send that is stuck.
                connection.phase = Phase::LastWords(Vec::new());
                connection.sending = false;
                self.stir(id);
            }
        }
    }

    fn id(&self, slot: u32, token: Token) -> ConnectionId {
        ConnectionId { core: self.core, slot, generation: token.generation }
    }
}

impl Connection {
    fn settle_receiving(&mut self, id: ConnectionId, ring: &mut Ring) {
        match &mut self.receiving {
            None if !self.paused => {
                let token = Subject::Client(id.slot).token(id.generation);
                let operation = ring.receive(self.stream.as_fd(), token);
                self.receiving = Some(Receiving { operation, cancelled: false });
            }
            Some(receiving) if self.paused && !receiving.cancelled => {
                ring.cancel(receiving.operation);
                receiving.cancelled = true;
            }
            _ => {}
        }
    }

    /// Sends what there is. True if the connection is to be closed now.
    fn settle_sending(
        &mut self,
        id: ConnectionId,
        ring: &mut Ring,
        worker: &mut Worker,
        now: Instant,
        core: &mut CoreTraffic,
    ) -> bool {
        if self.sending {
            return false;
        }
        let mut buffer = std::mem::take(&mut self.spare);
        assert!(buffer.is_empty(), "a spare buffer is empty");
        match &mut self.phase {
            Phase::Open | Phase::Draining => {
                let output = worker.client_output(id);
                if let Some(filled) = output.filter(|filled| !filled.is_empty()) {
                    std::mem::swap(filled, &mut buffer);
                    self.traffic.on_sending(&buffer, now, core);
                }
            }
            Phase::LastWords(words) => buffer = std::mem::take(words),
            Phase::Asked | Phase::Gone => {}
        }
        if !buffer.is_empty() {
            let token = Subject::Client(id.slot).token(id.generation);
            ring.send(self.stream.as_fd(), token, buffer);
            self.sending = true;
            return false;
        }
        self.spare = buffer;
        matches!(self.phase, Phase::Draining | Phase::LastWords(_))
    }
}

fn find(slots: &mut [Slot], id: ConnectionId) -> Option<&mut Connection> {
    let slot = slots.get_mut(id.slot as usize)?;
    slot.connection.as_mut().filter(|_| slot.generation == id.generation)
}

/// A burst must not keep its memory for ever.
const SPARE_BYTES_MAX: usize = 64 << 10;
/// A client that does not take its last bytes for so long does not want them.
const LEAVE_TIME_MAX: Duration = Duration::from_ms(3000);
