//! Simulated ZooKeeper clients: real bytes over simulated connections.
//!
//! A client does what ZooKeeper's own do: it opens a session, pings, notices a silent server,
//! reconnects to another one with its session and the newest zxid that it has seen, sets its
//! watches again, and takes what it never got a reply for as unknown.

mod hearing;
mod persistent;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::{ConnectRequest, Request};
use pigeonhole_core::wire::client as wire;
use pigeonhole_core::wire::frame::Deframer;
use pigeonhole_core::wire::reply::{XID_AUTH, XID_PING};

use crate::client::persistent::Persistent;
pub(crate) use crate::client::persistent::covers;
use crate::draw::Draw;
use crate::history::{Ask, History, Operation, Outcome, SessionLife, WatchOn};
use crate::network::{Port, Side, StreamId};
use crate::node::Around;
use crate::people::People;
use crate::queue::{Dialer, Event, Moment};
use crate::sometimes::State;
use crate::speech;
use crate::swarm::Load;
use crate::workload::Workload;

pub struct Client {
    id: u32,
    servers: u8,
    draw: Draw,
    load: Load,
    workload: Workload,
    people: People,
    phase: Phase,
    session: Option<Session>,
    watches: BTreeMap<(WatchOn, String), usize>,
    persistent: Persistent,
    attempt: u64,
    wake: u64,
    next_xid: i32,
    deframer: Deframer,
    /// Asks that a story has put here; a swarm's client draws its own.
    pub scripted: VecDeque<Ask>,
    pub is_scripted: bool,
    /// The only server that it connects to, if a story says so.
    pub fixed_server: Option<u8>,
    server: u8,
    silent_until: Moment,
    stopping: bool,
    refused_in_a_row: u32,
}

enum Phase {
    Idle,
    Connecting,
    /// The connection is there, the session is asked for.
    Greeting(StreamId),
    Attached(Attached),
    Stopped,
}

struct Attached {
    stream: StreamId,
    connection: u64,
    in_flight: VecDeque<Sent>,
    /// Proofs of who it is that have not been answered.
    auths: usize,
    /// Pings are answered when the session's home has been asked, and overtake other replies.
    pings: VecDeque<Moment>,
    sent_at: Moment,
    heard_at: Moment,
    /// The newest zxid of this connection, so that order can be held against it.
    zxid: Zxid,
    /// Watches are being set again: what the server says of them is not complete yet.
    renewing: bool,
    /// The paths whose watches were set again here.
    renewed: BTreeSet<String>,
}

struct Sent {
    xid: i32,
    what: What,
}

enum What {
    SetWatches,
    Operation(usize),
}

/// What it takes to go on with a session.
pub struct SessionTicket(Option<Session>);

#[derive(Clone)]
struct Session {
    id: SessionId,
    password: [u8; 16],
    timeout_us: u64,
    seen: Zxid,
    life: usize,
    server: u8,
}

impl Client {
    pub fn new(id: u32, servers: u8, load: Load, seed: u64) -> Self {
        Self {
            id,
            servers,
            draw: Draw::new(seed, 1000 + u64::from(id)),
            workload: Workload::new(id, load.clone(), Draw::new(seed, 2000 + u64::from(id))),
            people: draw_people(&mut Draw::new(seed, 3000 + u64::from(id))),
            load,
            phase: Phase::Idle,
            session: None,
            watches: BTreeMap::new(),
            persistent: Persistent::default(),
            attempt: 0,
            wake: 0,
            next_xid: 1,
            deframer: replies(),
            scripted: VecDeque::new(),
            is_scripted: false,
            fixed_server: None,
            server: 0,
            silent_until: Moment(0),
            stopping: false,
            refused_in_a_row: 0,
        }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn session(&self) -> Option<SessionId> {
        self.session.as_ref().map(|session| session.id)
    }

    pub fn is_attached(&self) -> bool {
        matches!(self.phase, Phase::Attached(_))
    }

    pub fn is_idle(&self) -> bool {
        match &self.phase {
            Phase::Attached(attached) => attached.in_flight.is_empty() && self.scripted.is_empty(),
            _ => false,
        }
    }

    /// Its session, for another client to go on with.
    pub fn ticket(&self) -> SessionTicket {
        SessionTicket(self.session.clone())
    }

    /// Goes on with the session of another client, whose connection it takes.
    pub fn take_over(&mut self, ticket: SessionTicket) {
        self.session = ticket.0;
    }

    /// The connection breaks; the client connects to this server from now on.
    pub fn go_to(&mut self, server: u8, history: &mut History, around: &mut Around<'_>) {
        self.fixed_server = Some(server);
        if let Phase::Attached(attached) = &self.phase {
            self.lose(attached.stream, "it moves", history, around);
        }
    }

    /// No new operations: what is open is still waited for.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// The client's host has been silent long enough.
    pub fn end_silence(&mut self) {
        self.silent_until = Moment(0);
    }

    /// Sees what there is to do, now that this moment has come.
    pub fn on_wake(&mut self, wake: u64, history: &mut History, around: &mut Around<'_>) {
        if wake != self.wake {
            return;
        }
        self.act(history, around);
    }

    /// Does what is due, and asks to be woken for what is due later.
    pub fn act(&mut self, history: &mut History, around: &mut Around<'_>) {
        let now = around.queue.now();
        if now < self.silent_until {
            self.sleep(self.silent_until - now, around);
            return;
        }
        match &self.phase {
            Phase::Stopped => return,
            Phase::Idle => self.connect(around),
            Phase::Connecting => {}
            Phase::Greeting(stream) => {
                let stream = *stream;
                self.lose(stream, "no answer to the greeting", history, around);
            }
            Phase::Attached(attached) => {
                let session = self.session.as_ref().expect("attached with a session");
                let stream = attached.stream;
                if now - attached.heard_at > session.timeout_us * 2 / 3 {
                    self.lose(stream, "the server is silent", history, around);
                } else {
                    self.work(history, around);
                }
            }
        }
        self.plan(history, around);
    }

    pub fn on_connected(
        &mut self,
        attempt: u64,
        stream: Option<StreamId>,
        history: &mut History,
        around: &mut Around<'_>,
    ) {
        if attempt != self.attempt || !matches!(self.phase, Phase::Connecting) {
            if let Some(stream) = stream {
                around.network.close(stream, Side::Dialer, around.queue);
            }
            return;
        }
        let Some(stream) = stream else {
            self.phase = Phase::Idle;
            self.refused_in_a_row += 1;
            let pause = self.draw.between(RETRY_US_MIN, RETRY_US_MAX);
            self.sleep(pause, around);
            return;
        };
        self.phase = Phase::Greeting(stream);
        self.deframer = replies();
        let low = self.load.session_timeout_ms.0;
        let timeout = self.draw.between(low, self.load.session_timeout_ms.1);
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.session.as_ref().map_or(Zxid::ZERO, |session| session.seen),
            timeout_ms: i32::try_from(timeout).expect("a timeout is short"),
            session: self.session().unwrap_or_default(),
            password: self.session.as_ref().map_or(&[0; 16], |session| &session.password),
            read_only: Some(false),
        };
        let mut bytes = Vec::new();
        wire::put_connect(&mut bytes, &request);
        around.network.send(stream, Side::Dialer, bytes, around.queue);
        // Whoever does not greet within the time that a session lives is given up.
        let patience = self.session.as_ref().map_or(timeout * 1000, |session| session.timeout_us);
        self.sleep(patience, around);
        let _ = history;
    }

    pub fn on_bytes(
        &mut self,
        stream: StreamId,
        bytes: &[u8],
        history: &mut History,
        around: &mut Around<'_>,
    ) {
        let mut deframer = std::mem::replace(&mut self.deframer, replies());
        let mut frames = deframer.split(bytes);
        while let Some(frame) = frames.next() {
            let frame = frame.expect("servers send frames");
            match &self.phase {
                Phase::Greeting(known) if *known == stream => {
                    self.on_greeting(stream, frame, history, around);
                }
                Phase::Attached(attached) if attached.stream == stream => {
                    self.on_reply(frame, history, around);
                }
                _ => break,
            }
        }
        drop(frames);
        self.deframer = deframer;
        self.plan(history, around);
    }

    /// The connection is over.
    pub fn on_closed(&mut self, stream: StreamId, history: &mut History, around: &mut Around<'_>) {
        let mine = match &self.phase {
            Phase::Greeting(known) => *known == stream,
            Phase::Attached(attached) => attached.stream == stream,
            _ => false,
        };
        if mine {
            self.lose(stream, "the connection is closed", history, around);
        }
    }

    fn connect(&mut self, around: &mut Around<'_>) {
        self.attempt += 1;
        self.phase = Phase::Connecting;
        let any = u8::try_from(self.draw.below(u64::from(self.servers))).expect("few servers");
        self.server = self.fixed_server.unwrap_or(any);
        let delay = around.network.delay();
        let by = Dialer::Client { client: self.id, attempt: self.attempt };
        around.queue.push_in(delay, Event::Connect { by, port: Port::Client, node: self.server });
    }

    fn on_greeting(
        &mut self,
        stream: StreamId,
        frame: &[u8],
        history: &mut History,
        around: &mut Around<'_>,
    ) {
        let now = around.queue.now();
        let answer = wire::parse_connect(frame).expect("servers greet in ZooKeeper's words");
        around.trace.fold(answer.session.0, frame);
        if answer.session == SessionId(0) {
            self.on_expired(stream, history, around);
            return;
        }
        let timeout_us = u64::try_from(answer.timeout_ms).expect("a timeout is positive") * 1000;
        match &mut self.session {
            Some(session) => {
                assert_eq!(session.id, answer.session, "a session is re-attached, or is over");
                if session.server != self.server {
                    around.checks.sometimes.hit(State::SessionMoved);
                }
                session.server = self.server;
                session.timeout_us = timeout_us;
                history.sessions[session.life].heard = now;
            }
            None => {
                around.checks.sometimes.hit(State::SessionCreated);
                history.sessions.push(SessionLife {
                    session: answer.session,
                    client: self.id,
                    timeout_us,
                    created: now,
                    heard: now,
                    pings_answered: Vec::new(),
                    closing: false,
                    expired: None,
                });
                self.session = Some(Session {
                    id: answer.session,
                    password: answer.password,
                    timeout_us,
                    seen: Zxid::ZERO,
                    life: history.sessions.len() - 1,
                    server: self.server,
                });
            }
        }
        around.trace.line(now, || {
            format!("c{} has session {} on n{}", self.id, answer.session, self.server + 1)
        });
        self.refused_in_a_row = 0;
        self.phase = Phase::Attached(Attached {
            stream,
            connection: self.attempt,
            in_flight: VecDeque::new(),
            auths: 0,
            pings: VecDeque::new(),
            sent_at: now,
            heard_at: now,
            zxid: Zxid::ZERO,
            renewing: false,
            renewed: BTreeSet::new(),
        });
        self.authenticate(around);
        self.renew_watches(around);
        self.work(history, around);
    }

    fn on_expired(&mut self, stream: StreamId, history: &mut History, around: &mut Around<'_>) {
        let now = around.queue.now();
        around.network.close(stream, Side::Dialer, around.queue);
        self.phase = Phase::Idle;
        let Some(session) = self.session.take() else {
            // A new session was refused: nobody can be asked, or not yet.
            self.sleep(RETRY_US_MAX, around);
            return;
        };
        around.trace.line(now, || format!("c{} is told that {} is over", self.id, session.id));
        history.sessions[session.life].expired = Some(now);
        self.watches.clear();
        self.persistent.clear();
        self.sleep(1, around);
    }

    /// Says who it is, before anything else on a connection.
    fn authenticate(&mut self, around: &mut Around<'_>) {
        let credentials = self.people().credentials();
        let Phase::Attached(attached) = &mut self.phase else {
            return;
        };
        for credential in credentials {
            let credential = Some(credential.as_bytes());
            let mut bytes = Vec::new();
            let request = Request::Auth { scheme: "digest", credential };
            wire::put_request(&mut bytes, XID_AUTH, &request);
            attached.auths += 1;
            around.network.send(attached.stream, Side::Dialer, bytes, around.queue);
        }
    }

    /// Who it proves to be; a story's client is nobody.
    fn people(&self) -> People {
        if self.is_scripted { People::NOBODY } else { self.people }
    }

    /// Sends what may be sent now.
    fn work(&mut self, history: &mut History, around: &mut Around<'_>) {
        let now = around.queue.now();
        loop {
            let Phase::Attached(attached) = &self.phase else {
                return;
            };
            let session = self.session.as_ref().expect("attached with a session");
            let closing = history.sessions[session.life].closing;
            let waiting = attached.in_flight.len();
            let ask = if closing {
                None
            } else if self.is_scripted {
                self.scripted.pop_front()
            } else if self.stopping || waiting >= self.load.pipeline_max {
                None
            } else {
                self.workload.next(now)
            };
            let Some(ask) = ask else { break };
            self.send(ask, history, around);
            if !self.is_scripted && self.draw.per_million(self.load.silences) {
                self.fall_silent(around);
                return;
            }
        }
        self.ping_if_due(around);
    }

    fn send(&mut self, ask: Ask, history: &mut History, around: &mut Around<'_>) {
        let now = around.queue.now();
        let people = self.people();
        let Phase::Attached(attached) = &mut self.phase else {
            return;
        };
        let session = self.session.as_ref().expect("attached with a session");
        let xid = self.next_xid;
        self.next_xid += 1;
        let mut bytes = Vec::new();
        speech::put_ask(&mut bytes, xid, &ask);
        around.trace.line(now, || format!("c{} asks {}", self.id, speech::name(&ask)));
        history.sessions[session.life].closing |= ask == Ask::Close;
        let index = history.invoke(Operation {
            client: self.id,
            people,
            session: session.id,
            connection: attached.connection,
            ask,
            invoked: now,
            seen: session.seen,
            done: None,
            number: 0,
            outcome: Outcome::Open,
        });
        attached.in_flight.push_back(Sent { xid, what: What::Operation(index) });
        attached.sent_at = now;
        around.network.send(attached.stream, Side::Dialer, bytes, around.queue);
    }

    fn ping_if_due(&mut self, around: &mut Around<'_>) {
        let now = around.queue.now();
        let Phase::Attached(attached) = &mut self.phase else {
            return;
        };
        let session = self.session.as_ref().expect("attached with a session");
        if now - attached.sent_at < session.timeout_us / 3 {
            return;
        }
        let mut bytes = Vec::new();
        wire::put_request(&mut bytes, XID_PING, &Request::Ping);
        attached.sent_at = now;
        attached.pings.push_back(now);
        around.network.send(attached.stream, Side::Dialer, bytes, around.queue);
    }

    fn lose(
        &mut self,
        stream: StreamId,
        why: &str,
        history: &mut History,
        around: &mut Around<'_>,
    ) {
        let now = around.queue.now();
        around.trace.line(now, || format!("c{} leaves n{}: {why}", self.id, self.server + 1));
        around.network.close(stream, Side::Dialer, around.queue);
        let before = std::mem::replace(&mut self.phase, Phase::Idle);
        if matches!(before, Phase::Greeting(_)) {
            self.refused_in_a_row += 1;
        }
        if let Phase::Attached(attached) = before {
            for sent in attached.in_flight {
                if let What::Operation(index) = sent.what {
                    around.checks.sometimes.hit(State::UnknownOutcome);
                    history.settle(index, now, Outcome::Unknown);
                }
            }
            for &index in self.watches.values() {
                history.watches[index].renewed = true;
            }
            self.persistent.end(history);
        }
        let closing = self.session.as_ref().is_some_and(|one| history.sessions[one.life].closing);
        if closing {
            self.session_over(history, around);
        }
        // Whoever is turned away again and again tries less often.
        let doublings = self.refused_in_a_row.min(RETRY_DOUBLINGS_MAX);
        let pause = self.draw.below(RETRY_US_MAX << doublings) + 1;
        self.sleep(pause, around);
    }

    /// The client has asked for the end of its session, and goes on with another one.
    fn session_over(&mut self, history: &mut History, around: &mut Around<'_>) {
        let _ = history;
        self.session = None;
        self.watches.clear();
        self.persistent.clear();
        if let Phase::Attached(attached) = std::mem::replace(&mut self.phase, Phase::Idle) {
            around.network.close(attached.stream, Side::Dialer, around.queue);
        }
        if self.is_scripted || self.stopping {
            self.phase = Phase::Stopped;
        } else {
            self.sleep(RETRY_US_MIN, around);
        }
    }

    /// The client's host stands still for longer than its session lives, or nearly so.
    fn fall_silent(&mut self, around: &mut Around<'_>) {
        let session = self.session.as_ref().expect("attached with a session");
        let length = self.draw.between(session.timeout_us / 2, session.timeout_us * 3);
        self.silent_until = around.queue.now() + length;
        if let Phase::Attached(attached) = &self.phase {
            around.network.slow(attached.stream, Side::Dialer, length, around.queue);
        }
        self.sleep(length + 1, around);
    }

    fn plan(&mut self, history: &History, around: &mut Around<'_>) {
        let now = around.queue.now();
        let Phase::Attached(attached) = &self.phase else {
            return;
        };
        if now < self.silent_until {
            return;
        }
        let session = self.session.as_ref().expect("attached with a session");
        let ping = attached.sent_at + session.timeout_us / 3;
        let patience = attached.heard_at + (session.timeout_us * 2 / 3 + 1);
        let work = self.workload.next_at(now);
        let mut next = ping.min(patience);
        let takes_more = attached.in_flight.len() < self.load.pipeline_max
            && !history.sessions[session.life].closing;
        if takes_more && !self.stopping && !self.is_scripted {
            next = next.min(work);
        }
        self.sleep((next - now).max(1), around);
    }

    fn sleep(&mut self, microseconds: u64, around: &mut Around<'_>) {
        self.wake += 1;
        around.queue.push_in(microseconds, Event::Client { client: self.id, wake: self.wake });
    }
}

fn draw_people(draw: &mut Draw) -> People {
    People { ann: draw.chance(1, 2), bob: draw.chance(1, 3) }
}

fn replies() -> Deframer {
    Deframer::for_replies(8 << 20)
}

const RETRY_US_MIN: u64 = 1_000;
const RETRY_US_MAX: u64 = 100_000;
const RETRY_DOUBLINGS_MAX: u32 = 4;
