//! What one client hears of a worker with one voter.

mod alone;

use std::net::{IpAddr, Ipv4Addr};

use alone::{Alone, CONNECTION, create, ordinary, read_from_afar, reader_afar, request};
use pigeonhole_core::auth::{AuthSettings, Identities, authenticate};
use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{ConnectionId, CoreId, ServerId, ShardId};
use pigeonhole_core::base::limits::{CONNECT_TIME_MS_MAX, CREDENTIAL_BYTES_MAX, FRAME_BYTES_MAX};
use pigeonhole_core::base::met::Limit;
use pigeonhole_core::base::time::{Duration, Instant, Now};
use pigeonhole_core::effect::{Crowd, Effect, Effects, Input};
use pigeonhole_core::gateway::Parting;
use pigeonhole_core::mail::{Mail, What};
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, OpCode, Request, permission};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::wire::client;
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::log::Restored;

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

/// Whatever comes behind the path of a sync is not part of it; a null path comes back as null.
#[test]
fn a_sync_is_answered_with_its_path_and_no_more() {
    let mut alone = Alone::new(8);
    alone.connect();
    for (sent, answered) in [
        (b"\0\0\0\x02/aXYZ".as_slice(), b"\0\0\0\x02/a".as_slice()),
        (b"\xff\xff\xff\xffXYZ", b"\xff\xff\xff\xff"),
    ] {
        let mut frame = request(1, &Request::Sync { path: "" });
        frame.truncate(frame.len() - size_of::<i32>());
        frame.extend_from_slice(sent);
        let length = u32::try_from(frame.len() - size_of::<u32>()).unwrap();
        frame[..size_of::<u32>()].copy_from_slice(&length.to_be_bytes());
        let frames = alone.send(&frame);
        let (header, body) = client::parse_header(&frames[0]).unwrap();
        assert_eq!((header.error, body), (0, answered));
    }
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

/// It has connected in time; how long its home may take is another matter.
#[test]
fn a_client_whose_home_is_slow_is_given_its_timeout() {
    let mut alone = Alone::new(1);
    alone.open(CONNECTION, Crowd::default());
    let mut bytes = vec![];
    client::put_connect(&mut bytes, &ConnectRequest::for_new_session(10_000));
    let input = Input::ClientBytes { connection: CONNECTION, bytes: &bytes };
    alone.worker.step(alone.now, input, &mut alone.effects);
    let mut closed_at_ms = None;
    for elapsed_ms in 0..12_000 {
        // The disk stands still: nothing is ever durable.
        alone.worker.step(alone.now, Input::TurnEnd { share: usize::MAX }, &mut alone.effects);
        alone.worker.step(alone.now, Input::Time, &mut alone.effects);
        let closes = |effect: Effect| matches!(effect, Effect::ClientClose { .. });
        if alone.effects.drain().any(closes) {
            closed_at_ms.get_or_insert(elapsed_ms);
        }
        alone.now.instant = alone.now.instant + Duration::from_ms(1);
    }
    assert_eq!(closed_at_ms, Some(10_000));
    assert_eq!(alone.worker.report().limits_met.count(Limit::ConnectTime), 0);
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
