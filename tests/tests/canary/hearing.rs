//! Faults on the wire, as a simulated client hears them: the order of replies and of events.

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::{EventType, Stat, WatcherType};
use pigeonhole_core::wire::reply::{self, ConnectResponse};
use pigeonhole_tests::check::Checks;
use pigeonhole_tests::client::Client;
use pigeonhole_tests::draw::Draw;
use pigeonhole_tests::history::{Ask, History};
use pigeonhole_tests::network::{Host, Network, Port, StreamId};
use pigeonhole_tests::node::Around;
use pigeonhole_tests::queue::{Dialer, Event, Queue};
use pigeonhole_tests::swarm::Options;
use pigeonhole_tests::trace::{Mode, Trace};

use crate::cluster::{get, set};
use crate::complains;
use crate::logs::NODES;

/// A client, and a server that says what a test wants it to say.
struct Line {
    client: Client,
    history: History,
    queue: Queue,
    network: Network,
    checks: Checks,
    trace: Trace,
    stream: Option<StreamId>,
}

impl Line {
    fn new() -> Self {
        let options = Options::calm(1, 1);
        let mut client = Client::new(0, 1, options.load, 1);
        client.is_scripted = true;
        let mut line = Self {
            client,
            history: History::default(),
            queue: Queue::default(),
            network: Network::new(options.network, Draw::new(1, 1)),
            checks: Checks::new(NODES, u64::MAX),
            trace: Trace::new(Mode::Silent),
            stream: None,
        };
        line.act(|client, history, around| client.act(history, around));
        line
    }

    /// The client's connect succeeds, and this session is given to it.
    fn attached(session: u64) -> Self {
        let mut line = Self::new();
        line.attach(session);
        line
    }

    fn attach(&mut self, session: u64) {
        let attempt = loop {
            let event = self.queue.pop().expect("the client connects");
            match event {
                Event::Connect { by: Dialer::Client { attempt, .. }, .. } => break attempt,
                Event::Client { wake, .. } => {
                    self.act(|client, history, around| client.on_wake(wake, history, around));
                }
                _ => {}
            }
        };
        let stream = self.network.open(Port::Client, Host::Client(0), Host::Node(0));
        self.stream = Some(stream);
        self.act(|client, history, around| {
            client.on_connected(attempt, Some(stream), history, around);
        });
        let mut bytes = Vec::new();
        let response = ConnectResponse {
            protocol_version: 0,
            timeout_ms: 400,
            session: SessionId(session),
            password: [0; 16],
            read_only: Some(false),
        };
        reply::connect(&mut bytes, &response);
        self.say(&bytes);
    }

    fn ask(&mut self, ask: Ask) {
        self.client.scripted.push_back(ask);
        self.act(|client, history, around| client.act(history, around));
    }

    fn close(&mut self) {
        let stream = self.stream.take().unwrap();
        self.act(|client, history, around| client.on_closed(stream, history, around));
    }

    /// The reply to a getData.
    fn data(&mut self, xid: i32, zxid: u64, data: &str) {
        self.reply(xid, zxid, ErrorCode::Ok, |body| {
            reply::data(body, Some(data.as_bytes()));
            reply::stat(body, &Stat::default());
        });
    }

    fn reply(&mut self, xid: i32, zxid: u64, code: ErrorCode, body: impl Fn(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        let mark = reply::begin(&mut bytes);
        body(&mut bytes);
        reply::finish(&mut bytes, mark, xid, Zxid(zxid), code);
        self.say(&bytes);
    }

    fn event(&mut self, zxid: u64, kind: EventType, path: &str) {
        let mut bytes = Vec::new();
        reply::event(&mut bytes, Zxid(zxid), kind, path);
        self.say(&bytes);
    }

    fn say(&mut self, bytes: &[u8]) {
        let stream = self.stream.unwrap();
        self.act(|client, history, around| client.on_bytes(stream, bytes, history, around));
    }

    fn act(&mut self, act: impl FnOnce(&mut Client, &mut History, &mut Around<'_>)) {
        let mut around = Around {
            queue: &mut self.queue,
            network: &mut self.network,
            checks: &mut self.checks,
            trace: &mut self.trace,
        };
        act(&mut self.client, &mut self.history, &mut around);
    }
}

const CHANGED: EventType = EventType::NodeDataChanged;

fn watch(path: &str) -> Ask {
    Ask::Get { path: path.to_owned(), watch: true }
}

#[test]
fn an_honest_server_passes() {
    let mut line = Line::attached(7);
    line.ask(watch("/a"));
    line.data(1, 5, "old");
    line.ask(get("/b"));
    line.data(2, 8, "other");
    // What the client has seen while its watch stood is what the watch's checker goes by.
    assert_eq!(line.history.watches[0].seen, Zxid(8));
    line.event(9, CHANGED, "/a");
    line.ask(get("/a"));
    line.data(3, 9, "new");
    assert_eq!(line.history.watches[0].fired.as_ref().unwrap().zxid, Some(Zxid(9)));
    assert_eq!(line.history.open, 0);
    line.close();
    line.attach(7);
}

#[test]
fn a_reordered_reply() {
    let mut line = Line::attached(7);
    line.ask(get("/a"));
    line.ask(get("/b"));
    let complaint = "replies come in the order of the requests";
    complains(complaint, || line.data(2, 5, "b"));
}

#[test]
fn a_reply_to_nothing() {
    let mut line = Line::attached(7);
    complains("a reply answers something", || line.data(1, 5, "a"));
}

#[test]
fn a_pong_to_nothing() {
    let mut line = Line::attached(7);
    complains("a ping was sent", || line.reply(-2, 5, ErrorCode::Ok, |_| {}));
}

#[test]
fn a_zxid_that_goes_back() {
    let mut line = Line::attached(7);
    line.ask(get("/a"));
    line.ask(get("/b"));
    line.data(1, 5, "a");
    complains("MonotonicRead: c0 saw", || line.data(2, 4, "b"));
}

#[test]
fn an_event_that_nobody_waits_for() {
    let mut line = Line::attached(7);
    line.ask(get("/a"));
    line.data(1, 5, "a");
    complains("W1: c0 has no watch", || line.event(6, CHANGED, "/a"));
}

#[test]
fn an_event_of_another_kind_than_the_watch() {
    let mut line = Line::attached(7);
    line.ask(watch("/a"));
    line.data(1, 5, "a");
    complains("W1: c0 has no watch", || line.event(6, EventType::NodeChildrenChanged, "/a"));
}

#[test]
fn a_watch_that_fires_twice() {
    let mut line = Line::attached(7);
    line.ask(watch("/a"));
    line.data(1, 5, "a");
    line.event(6, CHANGED, "/a");
    complains("W1: c0 has no watch", || line.event(7, CHANGED, "/a"));
}

#[test]
fn an_event_before_the_reply_that_leaves_its_watch() {
    let mut line = Line::attached(7);
    line.ask(watch("/a"));
    complains("W1: c0 has no watch", || line.event(6, CHANGED, "/a"));
}

#[test]
fn a_watch_of_a_refused_read() {
    let mut line = Line::attached(7);
    line.ask(watch("/a"));
    line.reply(1, 5, ErrorCode::NoNode, |_| {});
    complains("W1: c0 has no watch", || line.event(6, EventType::NodeCreated, "/a"));
}

#[test]
fn a_session_that_becomes_another() {
    let mut line = Line::attached(7);
    line.ask(set("/a", "unheard"));
    line.close();
    complains("a session is re-attached, or is over", || line.attach(8));
}

/// The subtree of `/a` is watched for good.
fn watching_below() -> Line {
    let mut line = Line::attached(7);
    line.ask(Ask::AddWatch { path: "/a".to_owned(), is_recursive: true });
    line.reply(1, 5, ErrorCode::Ok, |body| reply::number(body, 0));
    line
}

fn removal() -> Ask {
    Ask::RemoveWatches { path: "/a".to_owned(), kind: WatcherType::PersistentRecursive }
}

#[test]
fn a_persistent_watch_passes() {
    let mut line = watching_below();
    line.event(6, EventType::NodeCreated, "/a/b");
    line.event(7, CHANGED, "/a/b");
    line.ask(removal());
    line.event(8, CHANGED, "/a");
    line.reply(2, 8, ErrorCode::Ok, |_| {});
    line.ask(removal());
    line.reply(3, 8, ErrorCode::NoWatcher, |_| {});
    assert_eq!(line.history.events.len(), 3);
    assert_eq!(line.history.standing[0].spans[0].seen, Zxid(7));
}

#[test]
fn an_event_beside_the_subtree() {
    let mut line = watching_below();
    complains("W1: c0 has no watch", || line.event(6, CHANGED, "/ab"));
}

#[test]
fn an_event_of_children_in_a_subtree() {
    let mut line = watching_below();
    complains("W1: c0 has no watch", || line.event(6, EventType::NodeChildrenChanged, "/a"));
}

#[test]
fn an_event_after_the_removal() {
    let mut line = watching_below();
    line.ask(removal());
    line.reply(2, 5, ErrorCode::Ok, |_| {});
    complains("W1: c0 has no watch", || line.event(6, CHANGED, "/a"));
}

#[test]
fn a_watch_that_the_server_has_forgotten() {
    let mut line = watching_below();
    line.ask(removal());
    complains("W7: ", || line.reply(2, 5, ErrorCode::NoWatcher, |_| {}));
}

#[test]
fn a_watch_that_nobody_has_left() {
    let mut line = Line::attached(7);
    line.ask(Ask::CheckWatches { path: "/a".to_owned(), kind: WatcherType::Any });
    complains("W7: ", || line.reply(1, 5, ErrorCode::Ok, |_| {}));
}
