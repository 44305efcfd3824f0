//! A worker alone: a shard with one voter, a disk that is always done, a client that speaks bytes.

use std::net::{IpAddr, Ipv4Addr};

mod ordinary;

use pigeonhole_core::auth::{AuthSettings, Identities, authenticate};
use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{ConnectionId, CoreId, ServerId, SessionId, ShardId};
use pigeonhole_core::base::limits::{
    CONNECT_TIME_MS_MAX, CREDENTIAL_BYTES_MAX, FRAME_BYTES_MAX, PATH_BYTES_MAX,
    REQUESTS_PER_TURN_MAX, REQUESTS_PER_TURN_OF_ALL, RESPONSE_BYTES_MAX, TURN_SHARE_BYTES,
};
use pigeonhole_core::base::met::Limit;
use pigeonhole_core::base::time::{Duration, Instant, Now};
use pigeonhole_core::durable::{Durable, LogMark};
use pigeonhole_core::effect::{Crowd, Effect, Effects, Input};
use pigeonhole_core::gateway::{ClientLimits, Parting};
use pigeonhole_core::mail::{Ask, Mail, Outcome, Reader, Ticket, What};
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, OpCode, Request, permission};
use pigeonhole_core::peer::message::Touched;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::wire::client::{self, MultiResult};
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::log::Restored;

const CONNECTION: ConnectionId = ConnectionId { core: CoreId(0), slot: 0, generation: 1 };

/// A connection of another core.
const AFAR: ConnectionId = ConnectionId { core: CoreId(1), ..CONNECTION };

struct Alone {
    worker: Worker,
    effects: Effects,
    now: Now,
    received: Vec<u8>,
    /// To other cores, which there are none of.
    mail: Vec<(CoreId, Mail)>,
    /// Why the last connection was closed.
    parted: Option<Parting>,
    expired: Vec<SessionId>,
}

impl Alone {
    fn new(shards: u16) -> Self {
        let map = ShardMap::new(shards);
        let config = WorkerConfig {
            client: ClientLimits {
                frame_bytes_max: FRAME_BYTES_MAX,
                connections_per_address_max: 60,
                connections_max: 100,
                writes_outstanding_max: 1000,
            },
            ..ordinary::config(ServerId(1), [ServerId(1)], map)
        };
        let restored = map.shards().map(|shard| (State::new(shard, map), Restored::nothing(shard)));
        let now = Now { instant: Instant(1_000_000), wall_ms: 1_700_000_000_000 };
        let mut effects = Effects::new();
        let worker = Worker::new(config, restored.collect(), now, &mut effects);
        let mut alone = Self::around(worker, effects, now);
        alone.settle();
        alone
    }

    fn around(worker: Worker, effects: Effects, now: Now) -> Self {
        let (received, mail, expired) = (vec![], vec![], vec![]);
        Self { worker, effects, now, received, mail, parted: None, expired }
    }

    fn settle(&mut self) {
        loop {
            self.worker.step(self.now, Input::TurnEnd { share: usize::MAX }, &mut self.effects);
            let effects: Vec<Effect> = self.effects.drain().collect();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Append(append) => {
                        let mark = LogMark { shard: append.shard, sequence: append.sequence };
                        let durable = Input::Durable(Durable::attest(mark));
                        self.worker.step(self.now, durable, &mut self.effects);
                    }
                    Effect::ClientOutput { connection } => {
                        if let Some(output) = self.worker.client_output(connection) {
                            self.received.append(output);
                        }
                    }
                    Effect::ClientClose { connection, why, .. } => {
                        if let Some(output) = self.worker.client_output(connection) {
                            self.received.append(output);
                        }
                        self.parted = Some(why);
                        let closed = Input::ClientClosed { connection };
                        self.worker.step(self.now, closed, &mut self.effects);
                    }
                    Effect::SessionExpired { session, .. } => self.expired.push(session),
                    Effect::Mail { to, mail } => self.mail.push((to, mail)),
                    _ => {}
                }
            }
        }
    }

    /// What each turn comes to until nothing is left to be done in haste.
    fn turns(&mut self, mut result: impl FnMut(&mut Self) -> usize) -> Vec<usize> {
        let mut results = vec![];
        loop {
            self.worker.step(self.now, Input::TurnEnd { share: 60 }, &mut self.effects);
            results.push(result(self));
            if !self.worker.is_in_haste() {
                return results;
            }
        }
    }

    fn advance(&mut self, milliseconds: u64) {
        let end = self.now.instant + Duration::from_ms(milliseconds);
        while let Some(at) = self.worker.deadline(self.now.instant).filter(|&at| at <= end) {
            self.now.instant = at.max(self.now.instant);
            self.worker.step(self.now, Input::Time, &mut self.effects);
            self.settle();
        }
        self.now.instant = end;
    }

    /// Something is asked on another core of this server.
    fn ask_from_afar(&mut self, ticket: u64, what: What) {
        let ask = Ask { core: AFAR.core, ticket: Ticket(ticket), what };
        let mail = Mail::Ask { shard: ShardId(0), ask };
        self.worker.step(self.now, Input::Mail { from: AFAR.core, mail }, &mut self.effects);
    }

    fn open(&mut self, connection: ConnectionId, crowd: Crowd) {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let opened = Input::ClientOpened { connection, address, crowd, entropy: [7; 16] };
        self.worker.step(self.now, opened, &mut self.effects);
        self.parted = None;
    }

    fn send(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let input = Input::ClientBytes { connection: CONNECTION, bytes };
        self.worker.step(self.now, input, &mut self.effects);
        self.settle();
        self.frames()
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut frames = vec![];
        let mut rest = self.received.as_slice();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
            frames.push(frame.to_vec());
            rest = behind;
        }
        self.received.clear();
        frames
    }

    /// A znode whose list of children has at least so many bytes.
    fn fill(&mut self, path: &str, bytes: usize) {
        self.send(&request(1, &create(path, b"", CreateMode::Persistent)));
        let name_bytes = PATH_BYTES_MAX - 100;
        let names = (0..=bytes / name_bytes).map(|at| format!("{path}/{at:0>name_bytes$}"));
        for names in names.collect::<Vec<_>>().chunks(200) {
            let creates = names.iter().map(|name| create(name, b"", CreateMode::Persistent));
            let frames = self.send(&request(2, &Request::Multi(creates.collect())));
            let (_, body) = client::parse_header(&frames[0]).expect("a reply");
            let results = client::parse_multi(body).expect("a reply of results");
            assert!(results.iter().all(|result| matches!(result, MultiResult::Create { .. })));
        }
    }

    fn connect(&mut self) -> SessionId {
        self.open(CONNECTION, Crowd::default());
        let request = ConnectRequest::for_new_session(10_000);
        let mut bytes = vec![];
        client::put_connect(&mut bytes, &request);
        let frames = self.send(&bytes);
        let response = client::parse_connect(&frames[0]).expect("a connect response");
        assert_eq!(response.timeout_ms, 10_000);
        response.session
    }
}

fn reader_afar(identities: Identities) -> Reader {
    Reader { connection: AFAR, session: SessionId(1), identities, later: None }
}

fn read_from_afar(op_code: OpCode, request: &[u8]) -> What {
    let body = request[client::REQUEST_PREFIX_BYTES..].to_vec();
    What::Read { reader: reader_afar(Identities::none()), op_code: op_code.wire(), body }
}

fn request(xid: i32, request: &Request<'_>) -> Vec<u8> {
    let mut bytes = vec![];
    client::put_request(&mut bytes, xid, request);
    bytes
}

fn create<'a>(path: &'a str, data: &'a [u8], mode: CreateMode) -> Request<'a> {
    let acl = vec![Acl { permissions: permission::ALL, scheme: "world", id: "anyone" }];
    Request::Create { path, data: Some(data), acl, mode, with_stat: false }
}

#[test]
fn a_pipeline_of_writes_and_reads_is_answered_in_order() {
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        let mut bytes = request(1, &create("/a", b"one", CreateMode::Persistent));
        bytes.extend(request(2, &Request::GetData { path: "/a", watch: true }));
        bytes.extend(request(3, &create("/b", b"two", CreateMode::Ephemeral)));
        bytes
            .extend(request(4, &Request::SetData { path: "/a", data: Some(b"three"), version: 0 }));
        bytes.extend(request(5, &Request::GetData { path: "/b", watch: false }));
        bytes.extend(request(6, &Request::Delete { path: "/none", version: -1 }));
        bytes.extend(request(7, &Request::Sync { path: "/" }));
        let frames = alone.send(&bytes);
        let headers: Vec<(i32, i32)> = frames
            .iter()
            .map(|frame| client::parse_header(frame).unwrap().0)
            .map(|header| (header.xid, header.error))
            .collect();
        let expected = vec![(1, 0), (2, 0), (3, 0), (-1, 0), (4, 0), (5, 0), (6, -101), (7, 0)];
        assert_eq!(headers, expected, "with {shards} shards");
        let (_, body) = client::parse_header(&frames[5]).unwrap();
        assert_eq!(client::parse_get_data(body).unwrap().0, Some(b"two".as_slice()));
    }
}

#[test]
fn what_arrives_at_once_is_proposed_and_applied_over_several_turns() {
    let paths: Vec<String> = (0..300).map(|number| format!("/node-{number}")).collect();
    let creates = paths.iter().map(|path| create(path, b"", CreateMode::Persistent));
    let creates: Vec<Request<'_>> = creates.collect();
    let multis = creates.chunks(100).map(|some| Request::Multi(some.to_vec())).collect();
    let singles = creates[..100].to_vec();
    let cases: [(Vec<Request<'_>>, &[usize], &[usize]); 2] =
        [(singles, &[60, 40], &[60, 40]), (multis, &[1, 1, 1], &[100, 100, 100])];
    for (requests, proposed, created) in cases {
        let mut alone = Alone::new(1);
        alone.connect();
        let bytes: Vec<u8> = requests.iter().flat_map(|it| request(1, it)).collect();
        let input = Input::ClientBytes { connection: CONNECTION, bytes: &bytes };
        alone.worker.step(alone.now, input, &mut alone.effects);
        let mut last = None;
        let turns = alone.turns(|alone| {
            let appends = alone.effects.drain().filter_map(|effect| match effect {
                Effect::Append(it) => Some(LogMark { shard: it.shard, sequence: it.sequence }),
                _ => None,
            });
            let appends: Vec<_> = appends.collect();
            last = appends.last().copied();
            appends.len()
        });
        assert_eq!(turns, proposed, "the rest waits for nothing");

        let mut before = alone.worker.report().shards[0].znodes;
        let durable = Input::Durable(Durable::attest(last.expect("all are logged")));
        alone.worker.step(alone.now, durable, &mut alone.effects);
        let turns = alone.turns(|alone| {
            let now = alone.worker.report().shards[0].znodes;
            now - core::mem::replace(&mut before, now)
        });
        assert_eq!(turns, created);
        alone.settle();
        assert_eq!(alone.frames().len(), requests.len(), "and every write is answered");
    }
}

/// Other cores may ask for much at once, and in the order in which they ask.
#[test]
fn what_other_cores_read_is_executed_over_several_turns() {
    const READS: u64 = 20;
    let mut alone = Alone::new(1);
    alone.connect();
    let data = [7; 10 * TURN_SHARE_BYTES];
    alone.send(&request(1, &create("/a", &data, CreateMode::Persistent)));
    alone.worker.step(alone.now, Input::TurnEnd { share: 60 }, &mut alone.effects);
    let body = request(0, &Request::GetData { path: "/a", watch: false });
    for ticket in 1..=READS {
        alone.ask_from_afar(ticket, read_from_afar(OpCode::GetData, &body));
    }
    let mut answered = vec![];
    let mut turns = vec![];
    loop {
        let answers = alone.effects.drain().filter_map(|effect| match effect {
            Effect::Mail { to: CoreId(1), mail: Mail::Answer { ticket, outcome, .. } } => {
                let is_found = matches!(outcome, Outcome::Reply { code: ErrorCode::Ok, .. });
                Some((ticket.0, is_found))
            }
            _ => None,
        });
        let before = answered.len();
        answered.extend(answers);
        turns.push(answered.len() - before);
        if !alone.worker.is_in_haste() {
            break;
        }
        alone.worker.step(alone.now, Input::TurnEnd { share: 60 }, &mut alone.effects);
    }
    // Eleven for each: its bytes, and one for itself.
    assert_eq!(turns, [6, 6, 6, 2]);
    assert_eq!(answered, (1..=READS).map(|ticket| (ticket, true)).collect::<Vec<_>>());
}

#[test]
fn a_closed_session_takes_its_ephemerals_along() {
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        for (xid, path) in ["/a", "/b", "/c", "/d", "/e"].into_iter().enumerate() {
            let xid = i32::try_from(xid).unwrap();
            let frames = alone.send(&request(xid, &create(path, b"", CreateMode::Ephemeral)));
            assert_eq!(client::parse_header(&frames[0]).unwrap().0.error, 0);
        }
        let frames = alone.send(&request(9, &Request::CloseSession));
        assert_eq!(client::parse_header(&frames[0]).unwrap().0.xid, 9);
        assert_eq!(alone.parted, Some(Parting::LastReply));
        assert_eq!(alone.expired, [], "nobody waited for it");
        let ephemerals: usize =
            alone.worker.report().shards.iter().map(|shard| shard.ephemerals).sum();
        assert_eq!(ephemerals, 0);
        assert!(alone.worker.report().shards.iter().all(|shard| shard.sessions == 0));
    }
}

#[test]
fn a_silent_session_expires_and_a_talking_one_does_not() {
    let mut alone = Alone::new(8);
    let session = alone.connect();
    alone.send(&request(1, &create("/a", b"", CreateMode::Ephemeral)));
    for _ in 0..10 {
        alone.advance(3000);
        let frames = alone.send(&request(-2, &Request::Ping));
        assert_eq!(client::parse_header(&frames[0]).unwrap().0.xid, -2);
    }
    assert_eq!(alone.parted, None);
    alone.advance(13_000);
    assert_eq!(alone.parted, Some(Parting::SessionOver));
    assert_eq!(alone.expired, [session]);
    let shards = alone.worker.report().shards;
    assert_eq!(shards.iter().map(|shard| shard.ephemerals).sum::<usize>(), 0);
    assert_eq!(shards.iter().find(|shard| shard.shard == ShardId(0)).unwrap().znodes, 5);
}

/// A few bytes of it could keep a core for seconds.
#[test]
fn what_makes_little_of_much_is_done_once_a_turn() {
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        let count = Request::GetAllChildrenNumber { path: "/" };
        let bytes: Vec<u8> = (1..=5).flat_map(|xid| request(xid, &count)).collect();
        let mut replies = alone.send(&bytes).len();
        let mut turns = 1;
        while replies < 5 {
            assert_eq!(alone.worker.deadline(alone.now.instant), Some(alone.now.instant));
            alone.worker.step(alone.now, Input::Time, &mut alone.effects);
            alone.settle();
            replies += alone.frames().len();
            turns += 1;
        }
        assert!(turns >= 5, "{turns} turns with {shards} shards");
    }
}

/// The watches that it would have left tell which reads were executed.
#[test]
fn what_a_multi_read_has_no_room_for_ends_it() {
    let list = |path| Request::GetChildren { path, watch: false, with_stat: false };
    let data = |path, watch| Request::GetData { path, watch };
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        alone.fill("/half", RESPONSE_BYTES_MAX / 2);
        alone.fill("/full", RESPONSE_BYTES_MAX);
        let reads = [
            (vec![data("/", false), list("/half"), data("/", true)], [true, true, true], 1),
            (vec![list("/full"), list("/full"), data("/half", true)], [false, false, false], 1),
            (vec![list("/half"), list("/half"), data("/half", true)], [true, false, false], 1),
            (vec![data("/", false), list("/full"), data("/half", true)], [true, false, false], 1),
            (vec![data("/half", true), list("/full"), data("/", false)], [true, false, false], 2),
        ];
        for (reads, expected, watches) in reads {
            let frames = alone.send(&request(1, &Request::MultiRead(reads)));
            let (header, body) = client::parse_header(&frames[0]).unwrap();
            assert_eq!(header.error, 0);
            let results = client::parse_multi(body).unwrap();
            let too_large = MultiResult::Error(ErrorCode::MarshallingError.wire());
            let is_read: Vec<bool> = results.iter().map(|result| *result != too_large).collect();
            assert_eq!(is_read, expected, "with {shards} shards");
            let left: usize = alone.worker.replicas().map(|it| it.watches().count()).sum();
            assert_eq!(left, watches, "with {shards} shards");
        }
    }
}

/// Otherwise refusals that wait for their turn would keep what was made for them.
#[test]
fn a_refusal_of_what_is_too_large_is_small() {
    let mut alone = Alone::new(1);
    alone.connect();
    alone.fill("/full", RESPONSE_BYTES_MAX);
    let list = Request::GetChildren { path: "/full", watch: false, with_stat: false };
    alone.ask_from_afar(1, read_from_afar(OpCode::GetChildren, &request(0, &list)));
    alone.settle();
    let (_, mail) = alone.mail.pop().unwrap();
    let Mail::Answer { outcome: Outcome::Reply { code, body }, .. } = mail else {
        panic!("{mail:?}");
    };
    assert_eq!((code, body.capacity()), (ErrorCode::MarshallingError, 0));
}

/// What has to wait for a write is read when its answer comes: not all in that one turn.
#[test]
fn long_lists_that_had_to_wait_are_read_over_several_turns() {
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        alone.fill("/long", TURN_SHARE_BYTES * REQUESTS_PER_TURN_MAX);
        let write = Request::SetData { path: "/long", data: None, version: -1 };
        let read = Request::GetChildren { path: "/long", watch: false, with_stat: false };
        let reads = (2..=6).flat_map(|xid| request(xid, &read));
        let bytes: Vec<u8> = request(1, &write).into_iter().chain(reads).collect();
        let mut replies = vec![alone.send(&bytes).len()];
        while alone.worker.deadline(alone.now.instant) == Some(alone.now.instant) {
            alone.worker.step(alone.now, Input::Time, &mut alone.effects);
            alone.settle();
            replies.push(alone.frames().len());
        }
        assert_eq!(replies, [2, 1, 1, 1, 1], "with {shards} shards");
    }
}

/// Heartbeats wait for the end of a turn, however many clients there are.
#[test]
fn many_that_send_ahead_share_the_turns() {
    let mut alone = Alone::new(1);
    let nth = |slot| ConnectionId { slot, ..CONNECTION };
    let mut connect = vec![];
    client::put_connect(&mut connect, &ConnectRequest::for_new_session(10_000));
    for slot in 0..20 {
        alone.open(nth(slot), Crowd::default());
        let connection = nth(slot);
        let input = Input::ClientBytes { connection, bytes: &connect };
        alone.worker.step(alone.now, input, &mut alone.effects);
        alone.settle();
    }
    alone.received.clear();
    let reads = request(1, &Request::Exists { path: "/", watch: false });
    let reads = reads.repeat(REQUESTS_PER_TURN_MAX);
    for slot in 0..20 {
        let input = Input::ClientBytes { connection: nth(slot), bytes: &reads };
        alone.worker.step(alone.now, input, &mut alone.effects);
    }
    alone.settle();
    let mut replies = vec![alone.frames().len()];
    while alone.worker.deadline(alone.now.instant) == Some(alone.now.instant) {
        alone.worker.step(alone.now, Input::Time, &mut alone.effects);
        alone.settle();
        replies.push(alone.frames().len());
    }
    assert_eq!(replies.iter().sum::<usize>(), 20 * REQUESTS_PER_TURN_MAX);
    assert!(replies.iter().all(|&count| count <= REQUESTS_PER_TURN_OF_ALL), "{replies:?}");
}

/// However much the others send in every turn.
#[test]
fn who_was_left_over_goes_on_before_what_comes_anew() {
    let mut alone = Alone::new(1);
    let nth = |slot| ConnectionId { slot, ..CONNECTION };
    let mut connect = vec![];
    client::put_connect(&mut connect, &ConnectRequest::for_new_session(10_000));
    let tell = |alone: &mut Alone, slot, bytes: &[u8]| {
        let input = Input::ClientBytes { connection: nth(slot), bytes };
        alone.worker.step(alone.now, input, &mut alone.effects);
    };
    for slot in 0..5 {
        alone.open(nth(slot), Crowd::default());
        tell(&mut alone, slot, &connect);
        alone.settle();
    }
    let reads = request(1, &Request::Exists { path: "/", watch: false });
    let reads = reads.repeat(REQUESTS_PER_TURN_MAX);
    (0..5).for_each(|slot| tell(&mut alone, slot, &reads));
    alone.settle();
    alone.frames();
    let mut turns = vec![];
    for _ in 0..3 {
        (0..4).for_each(|slot| tell(&mut alone, slot, &reads));
        alone.worker.step(alone.now, Input::Time, &mut alone.effects);
        let is_for_the_last = |effect: Effect| match effect {
            Effect::ClientOutput { connection } => connection == nth(4),
            _ => false,
        };
        turns.push(alone.effects.drain().any(is_for_the_last));
        alone.worker.step(alone.now, Input::TurnEnd { share: usize::MAX }, &mut alone.effects);
        alone.effects.drain().for_each(drop);
    }
    assert_eq!(turns, [false, true, true], "only once does anybody overtake it");
}

/// Otherwise one client could end the sessions of others.
#[test]
fn what_keeps_sessions_alive_does_not_wait_behind_reads_of_other_cores() {
    let mut alone = Alone::new(1);
    let session = alone.connect();
    let count = request(0, &Request::GetAllChildrenNumber { path: "/" });
    for ticket in 1..=1000 {
        alone.ask_from_afar(ticket, read_from_afar(OpCode::GetAllChildrenNumber, &count));
    }
    let touched = Touched { session: session.0, generation: 1, is_alive: true, seen: None };
    alone.ask_from_afar(1001, What::Touch { sessions: vec![touched] });
    alone.worker.step(alone.now, Input::TurnEnd { share: 60 }, &mut alone.effects);
    assert!(alone.worker.is_in_haste(), "most reads have to wait");
    let is_confirmed = |effect| matches!(effect, Effect::Mail { mail: Mail::Touched { .. }, .. });
    assert!(alone.effects.drain().any(is_confirmed));
}

#[test]
fn a_read_that_waits_for_a_leader_does_not_take_back_what_was_proven_since() {
    const PASSWORD: Option<&[u8]> = Some(b"bob:secret");
    let map = ShardMap::new(1);
    let config = WorkerConfig { cores: 2, ..ordinary::config(ServerId(1), [ServerId(1)], map) };
    let restored = vec![(State::new(ShardId(0), map), Restored::nothing(ShardId(0)))];
    let now = Now { instant: Instant(1_000_000), wall_ms: 1_700_000_000_000 };
    let mut effects = Effects::new();
    let worker = Worker::new(config, restored, now, &mut effects);
    let mut alone = Alone::around(worker, effects, now);

    let watch = request(0, &Request::Exists { path: "/x", watch: true });
    alone.ask_from_afar(1, read_from_afar(OpCode::Exists, &watch));
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let settings = AuthSettings::default();
    let bob = authenticate("digest", PASSWORD, address, &settings).expect("it has a name");
    let bob = Identities::none().with(bob).expect("it is the first");
    let identify = What::Identify { reader: reader_afar(bob) };
    alone.ask_from_afar(2, identify);
    alone.settle();

    alone.connect();
    let acl = vec![Acl { permissions: permission::ALL, scheme: "auth", id: "" }];
    let mode = CreateMode::Persistent;
    let of_bob = Request::Create { path: "/x", data: None, acl, mode, with_stat: false };
    let prove = Request::Auth { scheme: "digest", credential: PASSWORD };
    let bytes = [request(-4, &prove), request(1, &of_bob)].concat();
    let input = Input::ClientBytes { connection: CONNECTION, bytes: &bytes };
    alone.worker.step(alone.now, input, &mut alone.effects);
    alone.settle();
    let is_event =
        |(to, mail): &&(CoreId, Mail)| *to == CoreId(1) && matches!(mail, Mail::Event { .. });
    assert_eq!(alone.mail.iter().filter(is_event).count(), 1);
}

#[test]
fn who_meets_a_limit_is_counted() {
    let mut alone = Alone::new(1);
    let met = |alone: &Alone, limit| alone.worker.report().limits_met.count(limit);
    for slot in 1..=61 {
        let crowd = Crowd { from_its_address: slot, in_all: 0 };
        alone.open(ConnectionId { slot, ..CONNECTION }, crowd);
        alone.settle();
        let is_too_many = alone.parted == Some(Parting::TooManyConnections);
        assert_eq!(is_too_many, slot > 60);
    }
    assert_eq!(met(&alone, Limit::ConnectionsPerAddress), 1);
    alone.open(ConnectionId { slot: 62, ..CONNECTION }, Crowd { from_its_address: 1, in_all: 101 });
    alone.settle();
    assert_eq!(alone.parted, Some(Parting::TooManyConnections));
    assert_eq!(met(&alone, Limit::Connections), 1);
    alone.advance(CONNECT_TIME_MS_MAX);
    assert_eq!(met(&alone, Limit::ConnectTime), 60, "none of them ever said a word");

    alone.connect();
    let data = "x".repeat(FRAME_BYTES_MAX);
    alone.send(&request(1, &create("/large", data.as_bytes(), CreateMode::Persistent)));
    assert_eq!(met(&alone, Limit::FrameBytes), 1);
    assert!(Limit::ALL.iter().enumerate().all(|(index, &limit)| limit as usize == index));
}

/// What an operator reads in the log about a client that complains of lost connections.
#[test]
fn every_connection_is_closed_for_a_reason() {
    let mut alone = Alone::new(1);
    let parting = |alone: &mut Alone, bytes: &[u8]| {
        alone.send(bytes);
        alone.parted
    };
    alone.open(CONNECTION, Crowd::default());
    assert_eq!(parting(&mut alone, &[0, 0, 0, 1, 7]), Some(Parting::NoConnectRequest));
    alone.open(CONNECTION, Crowd::default());
    alone.advance(CONNECT_TIME_MS_MAX);
    assert_eq!(alone.parted, Some(Parting::TooLate));

    let first = alone.connect();
    assert_eq!(parting(&mut alone, &[0xff; 4]), Some(Parting::BadFrame));
    let second = alone.connect();
    assert_ne!(first, second);
    assert_eq!(parting(&mut alone, &[0, 0, 0, 1, 7]), Some(Parting::BadRequest));

    // Refused credentials are answered first: a client that is only cut off would try them again.
    let long = [b'x'; CREDENTIAL_BYTES_MAX + 1];
    for (scheme, credential) in [("kerberos", None), ("digest", Some(long.as_slice()))] {
        alone.connect();
        let answers = alone.send(&request(-4, &Request::Auth { scheme, credential }));
        let answer = client::parse_header(&answers[0]).expect("a header").0;
        assert_eq!((answer.xid, answer.error), (-4, ErrorCode::AuthFailed.wire()));
        assert_eq!(alone.parted, Some(Parting::BadCredential));
    }
    assert_eq!(Parting::BadCredential.to_string(), "its credential is refused");
}
