//! The simulated network: ordered byte streams between nodes, and between clients and nodes.
//!
//! A stream behaves as TCP does. Its bytes arrive in order or not at all; they arrive late, in
//! other pieces than they were sent in; a stream can be reset with any prefix of what was under way
//! delivered. Only streams overtake each other.
//!
//! Faults: delay with a tail, splitting at any byte, resets, one-way and two-way cuts (what was
//! sent waits as retransmission would make it wait, and the end of a stream is not heard of
//! either), half open streams (the other host has lost its power), readers that stop reading,
//! refused and unanswered connects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::draw::Draw;
use crate::queue::{Event, Moment, Queue};

/// A host: its faults are its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Host {
    Node(u8),
    Client(u32),
}

/// One connection, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// The side that has connected, or the one that has accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    Dialer,
    Acceptor,
}

/// What kind of port the stream was made to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    Peer,
    Client,
}

#[derive(Clone, Debug)]
pub struct NetworkOptions {
    pub delay_min_us: u64,
    pub delay_tail_us: u64,
    /// How many of a million chunks arrive in pieces.
    pub split_rate: u64,
    /// Bytes that a sender can be ahead of its reader.
    pub window_bytes: usize,
}

/// What arrives at one side.
#[derive(Debug)]
pub enum Arrival {
    Bytes(Vec<u8>),
    Closed,
}

pub struct Network {
    options: NetworkOptions,
    draw: Draw,
    streams: BTreeMap<StreamId, Stream>,
    next_stream: u64,
    /// Directions in which nothing arrives.
    cuts: BTreeSet<(Host, Host)>,
    /// Messages that a story waits for.
    holds: Vec<Hold>,
}

struct Hold {
    from: u8,
    to: u8,
    kind: String,
}

struct Stream {
    port: Port,
    dialer: Host,
    acceptor: Host,
    to_dialer: Pipe,
    to_acceptor: Pipe,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    items: VecDeque<Item>,
    bytes: usize,
    /// The arrival of the last item that was sent: nothing overtakes within a stream.
    last: Moment,
    /// An event for the first item is queued.
    scheduled: bool,
    /// The reader has been told not to read.
    paused: bool,
    /// The reader does not read, on its own account.
    stalled: bool,
    /// The sender waits for room in the window.
    full: bool,
    /// Nothing is sent any more.
    closed: bool,
    /// So many items may still arrive.
    gate: Option<usize>,
}

struct Item {
    at: Moment,
    /// `None` is the end of the stream.
    bytes: Option<Vec<u8>>,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Acceptor,
            Self::Acceptor => Self::Dialer,
        }
    }
}

impl Network {
    pub fn new(options: NetworkOptions, draw: Draw) -> Self {
        Self {
            options,
            draw,
            streams: BTreeMap::new(),
            next_stream: 1,
            cuts: BTreeSet::new(),
            holds: Vec::new(),
        }
    }

    /// How long a packet takes now.
    pub fn delay(&mut self) -> u64 {
        self.options.delay_min_us + self.draw.tail(self.options.delay_tail_us)
    }

    /// Makes a stream; both sides may send at once.
    pub fn open(&mut self, port: Port, dialer: Host, acceptor: Host) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let stream = Stream {
            port,
            dialer,
            acceptor,
            to_dialer: Pipe::default(),
            to_acceptor: Pipe::default(),
        };
        self.streams.insert(id, stream);
        id
    }

    /// Sends bytes to the side opposite of `from`; returns whether the sender may go on at once.
    /// Otherwise an [`Event::Sent`] follows when the reader has made room.
    pub fn send(&mut self, id: StreamId, from: Side, bytes: Vec<u8>, queue: &mut Queue) -> bool {
        assert!(!bytes.is_empty(), "a send has bytes");
        let pieces = self.split(bytes);
        let delay = self.delay();
        let Some(stream) = self.streams.get_mut(&id) else {
            return true;
        };
        let (pipe, to) = (stream.pipe(from.other()), from.other());
        if pipe.closed {
            return true;
        }
        for piece in pieces {
            pipe.bytes += piece.len();
            pipe.push(queue.now() + delay, Some(piece));
        }
        pipe.schedule(id, to, queue);
        pipe.full = pipe.bytes > self.options.window_bytes;
        !pipe.full
    }

    /// Ends what `from` sends, and what it reads: the other side gets everything sent before.
    pub fn close(&mut self, id: StreamId, from: Side, queue: &mut Queue) {
        let delay = self.delay();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let ahead = stream.pipe(from.other());
        if !ahead.closed {
            ahead.push(queue.now() + delay, None);
            ahead.closed = true;
            ahead.schedule(id, from.other(), queue);
        }
        stream.pipe(from).discard();
        self.forget_if_over(id);
    }

    /// The process at `from` dies, or the stream breaks: of what was under way to the other side,
    /// any prefix arrives.
    pub fn break_off(&mut self, id: StreamId, from: Side, queue: &mut Queue) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let ahead = stream.pipe(from.other());
        let keep = self.draw.below(ahead.bytes as u64 + 1);
        ahead.keep(usize::try_from(keep).expect("a length fits"));
        self.close(id, from, queue);
    }

    /// The stream breaks in the middle: both sides hear of it.
    pub fn reset(&mut self, id: StreamId, queue: &mut Queue) {
        let delay = self.delay();
        for side in [Side::Dialer, Side::Acceptor] {
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let pipe = stream.pipe(side);
            if pipe.closed {
                continue;
            }
            let keep = self.draw.below(pipe.bytes as u64 + 1);
            pipe.keep(usize::try_from(keep).expect("a length fits"));
            pipe.push(queue.now() + delay, None);
            pipe.closed = true;
            pipe.schedule(id, side, queue);
        }
    }

    /// The host at `from` has lost its power: nobody hears of it.
    pub fn vanish(&mut self, id: StreamId, from: Side) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pipe(from).discard();
            stream.pipe(from.other()).discard();
            stream.pipe(from.other()).closed = true;
            stream.pipe(from.other()).items.clear();
        }
    }

    /// Takes what has arrived at `side`, if it may arrive now.
    pub fn receive(&mut self, id: StreamId, side: Side, queue: &mut Queue) -> Option<Arrival> {
        let stream = self.streams.get_mut(&id)?;
        let path = stream.path(side);
        let cut = self.cuts.contains(&path);
        let pipe = stream.pipe(side);
        pipe.scheduled = false;
        if cut || pipe.paused || pipe.stalled || pipe.gate == Some(0) {
            return None;
        }
        let item = pipe.items.pop_front()?;
        pipe.gate = pipe.gate.map(|gate| gate - 1);
        pipe.bytes -= item.bytes.as_ref().map_or(0, Vec::len);
        pipe.schedule(id, side, queue);
        if pipe.full && pipe.bytes <= self.options.window_bytes {
            pipe.full = false;
            queue.push(queue.now(), Event::Sent { stream: id, side: side.other() });
        }
        match item.bytes {
            Some(bytes) => Some(Arrival::Bytes(bytes)),
            None => {
                // After a reset the other side has an end of its own to hear of.
                stream.pipe(side).closed = true;
                stream.pipe(side.other()).closed = true;
                self.forget_if_over(id);
                Some(Arrival::Closed)
            }
        }
    }

    /// Stops or resumes reading at `side`.
    pub fn pause(&mut self, id: StreamId, side: Side, paused: bool, queue: &mut Queue) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let pipe = stream.pipe(side);
            pipe.paused = paused;
            pipe.schedule(id, side, queue);
        }
    }

    /// The reader at `side` stops reading for a while.
    pub fn slow(&mut self, id: StreamId, side: Side, microseconds: u64, queue: &mut Queue) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pipe(side).stalled = true;
            queue.push_in(microseconds, Event::Read { stream: id, side });
        }
    }

    pub fn read_on(&mut self, id: StreamId, side: Side, queue: &mut Queue) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pipe(side).stalled = false;
            stream.pipe(side).schedule(id, side, queue);
        }
    }

    /// From now on nothing arrives from `from` at `to`.
    pub fn cut(&mut self, from: Host, to: Host) {
        self.cuts.insert((from, to));
    }

    pub fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Everything arrives again, what has waited as well.
    pub fn heal(&mut self, queue: &mut Queue) {
        self.cuts.clear();
        self.resume(queue);
    }

    /// One direction is whole again.
    pub fn mend(&mut self, from: Host, to: Host, queue: &mut Queue) {
        self.cuts.remove(&(from, to));
        self.resume(queue);
    }

    /// The streams of one port that are open.
    pub fn streams(&self, port: Port) -> Vec<StreamId> {
        let open = self.streams.iter().filter(|(_, stream)| stream.port == port);
        open.map(|(&id, _)| id).collect()
    }

    pub fn port(&self, id: StreamId) -> Option<Port> {
        self.streams.get(&id).map(|stream| stream.port)
    }

    /// Who is at one side of a stream.
    pub fn host(&self, id: StreamId, side: Side) -> Option<Host> {
        let stream = self.streams.get(&id)?;
        Some(match side {
            Side::Dialer => stream.dialer,
            Side::Acceptor => stream.acceptor,
        })
    }

    /// The streams that have `host` at one side, with the side.
    pub fn streams_of(&self, host: Host) -> Vec<(StreamId, Side)> {
        let mut found = Vec::new();
        for (&id, stream) in &self.streams {
            if stream.dialer == host {
                found.push((id, Side::Dialer));
            } else if stream.acceptor == host {
                found.push((id, Side::Acceptor));
            }
        }
        found
    }

    /// From the next message of this kind on, nothing that `from` sends arrives at `to`.
    pub fn hold(&mut self, from: u8, to: u8, kind: &str) {
        self.holds.push(Hold { from, to, kind: kind.to_owned() });
    }

    pub fn has_holds(&self) -> bool {
        !self.holds.is_empty()
    }

    /// Whether a message of this kind is to be held; it is asked once for each.
    pub fn is_held(&mut self, from: u8, to: u8, kind: &str) -> bool {
        let wanted = |hold: &Hold| (hold.from, hold.to, hold.kind.as_str()) == (from, to, kind);
        let place = self.holds.iter().position(wanted);
        place.map(|place| self.holds.remove(place)).is_some()
    }

    /// Nothing that is sent from now on arrives at the side opposite of `from`.
    pub fn close_gate(&mut self, id: StreamId, from: Side) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let pipe = stream.pipe(from.other());
            pipe.gate = pipe.gate.or(Some(pipe.items.len()));
        }
    }

    /// What was held arrives, and nothing is held any more.
    pub fn release(&mut self, queue: &mut Queue) {
        self.holds.clear();
        for stream in self.streams.values_mut() {
            stream.to_dialer.gate = None;
            stream.to_acceptor.gate = None;
        }
        self.resume(queue);
    }

    /// The streams between two nodes break; what is held is lost, and all else arrives.
    pub fn lose(&mut self, one: u8, other: u8, queue: &mut Queue) {
        let ends = [Host::Node(one), Host::Node(other)];
        for (id, side) in self.streams_of(ends[0]) {
            if self.host(id, side.other()) != Some(ends[1]) {
                continue;
            }
            let delay = self.delay();
            let stream = self.streams.get_mut(&id).expect("it was listed");
            for side in [Side::Dialer, Side::Acceptor] {
                let pipe = stream.pipe(side);
                if let Some(gate) = pipe.gate.take() {
                    pipe.items.truncate(gate);
                }
                pipe.push(queue.now() + delay, None);
                pipe.closed = true;
                pipe.schedule(id, side, queue);
            }
        }
    }

    /// A host that had lost its power answers again: it knows none of its old streams.
    pub fn reappear(&mut self, host: Host, queue: &mut Queue) {
        let delay = self.delay();
        for (id, side) in self.streams_of(host) {
            let stream = self.streams.get_mut(&id).expect("it was listed");
            let ahead = stream.pipe(side.other());
            if ahead.closed && ahead.items.is_empty() {
                ahead.push(queue.now() + delay, None);
                ahead.schedule(id, side.other(), queue);
            }
        }
    }

    fn resume(&mut self, queue: &mut Queue) {
        for (&id, stream) in &mut self.streams {
            stream.to_dialer.schedule(id, Side::Dialer, queue);
            stream.to_acceptor.schedule(id, Side::Acceptor, queue);
        }
    }

    fn split(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if bytes.len() < 2 || !self.draw.per_million(self.options.split_rate) {
            return vec![bytes];
        }
        let at = 1 + self.draw.index(bytes.len() - 1);
        let (head, tail) = bytes.split_at(at);
        vec![head.to_vec(), tail.to_vec()]
    }

    fn forget_if_over(&mut self, id: StreamId) {
        let over = self.streams.get(&id).is_some_and(|stream| {
            let done = |pipe: &Pipe| pipe.closed && pipe.items.is_empty();
            done(&stream.to_dialer) && done(&stream.to_acceptor)
        });
        if over {
            self.streams.remove(&id);
        }
    }
}

impl Stream {
    /// The direction that ends at `side`.
    fn pipe(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Dialer => &mut self.to_dialer,
            Side::Acceptor => &mut self.to_acceptor,
        }
    }

    fn path(&self, to: Side) -> (Host, Host) {
        match to {
            Side::Dialer => (self.acceptor, self.dialer),
            Side::Acceptor => (self.dialer, self.acceptor),
        }
    }
}

impl Pipe {
    fn push(&mut self, at: Moment, bytes: Option<Vec<u8>>) {
        self.last = self.last.max(at);
        self.items.push_back(Item { at: self.last, bytes });
    }

    fn schedule(&mut self, id: StreamId, side: Side, queue: &mut Queue) {
        if self.scheduled || self.paused || self.stalled || self.gate == Some(0) {
            return;
        }
        if let Some(first) = self.items.front() {
            self.scheduled = true;
            queue.push(first.at.max(queue.now()), Event::Arrive { stream: id, side });
        }
    }

    /// Drops all bytes behind the first `keep`. An end that is under way still arrives: nobody
    /// would send another, and the reader would wait for ever.
    fn keep(&mut self, mut keep: usize) {
        for bytes in self.items.iter_mut().filter_map(|item| item.bytes.as_mut()) {
            bytes.truncate(keep);
            keep -= bytes.len();
        }
        self.items.retain(|item| item.bytes.as_ref().is_none_or(|bytes| !bytes.is_empty()));
        self.bytes = self.items.iter().filter_map(|item| item.bytes.as_ref()).map(Vec::len).sum();
    }

    /// The reader is gone.
    fn discard(&mut self) {
        self.items.clear();
        self.gate = None;
        self.bytes = 0;
        self.closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival, Host, Network, NetworkOptions, Port, Side};
    use crate::draw::Draw;
    use crate::queue::{Event, Queue};

    /// What arrives at the dialer of a stream, until nothing is under way any more.
    fn arrivals_at_dialer(network: &mut Network, queue: &mut Queue) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        while let Some(event) = queue.pop() {
            let Event::Arrive { stream, side } = event else { continue };
            let arrival = network.receive(stream, side, queue);
            arrivals.extend(arrival.filter(|_| side == Side::Dialer));
        }
        arrivals
    }

    #[test]
    fn the_end_of_a_stream_outlives_the_process_that_sent_it() {
        let options =
            NetworkOptions { delay_min_us: 10, delay_tail_us: 0, split_rate: 0, window_bytes: 100 };
        let (mut network, mut queue) = (Network::new(options, Draw::new(1, 1)), Queue::default());
        let (dialer, acceptor) = (Host::Node(1), Host::Node(0));
        let stream = network.open(Port::Peer, dialer, acceptor);

        // The reset is heard of at one side only; then that side's process dies.
        network.cut(acceptor, dialer);
        network.reset(stream, &mut queue);
        assert!(arrivals_at_dialer(&mut network, &mut queue).is_empty());
        network.break_off(stream, Side::Acceptor, &mut queue);

        network.heal(&mut queue);
        let arrivals = arrivals_at_dialer(&mut network, &mut queue);
        assert!(matches!(arrivals[..], [Arrival::Closed]), "{arrivals:?}");
        assert!(network.streams(Port::Peer).is_empty());
    }
}
