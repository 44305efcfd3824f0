//! Clients that send ahead, and clients that wait for their cluster to change leaders, or for a
//! leader's disk.

mod ensemble;

use pigeonhole_core::base::id::{ConnectionId, CoreId};
use pigeonhole_core::base::limits::REQUESTS_PER_CONNECTION_MAX;
use pigeonhole_core::base::met::Limit;
use pigeonhole_core::effect::Input;
use pigeonhole_core::op::{ConnectRequest, Request};
use pigeonhole_core::wire::client;

use ensemble::{Cluster, News};

const CONNECTION: ConnectionId = ConnectionId { core: CoreId(0), slot: 0, generation: 1 };

fn connect() -> Vec<u8> {
    let request = ConnectRequest::for_new_session(4000);
    let mut bytes = vec![];
    client::put_connect(&mut bytes, &request);
    bytes
}

fn send(cluster: &mut Cluster, node: usize, bytes: &[u8]) {
    let connection = CONNECTION;
    cluster.step(node, Input::ClientBytes { connection, bytes });
}

/// The frames that have come, and whether the connection is closed.
fn received(cluster: &mut Cluster) -> (Vec<Vec<u8>>, bool) {
    let mut bytes = vec![];
    let mut is_closed = false;
    for (_, news) in cluster.news.drain(..) {
        match news {
            News::Output(connection, output) => {
                assert_eq!(connection, CONNECTION);
                bytes.extend(output);
            }
            News::Closed(connection) => is_closed |= connection == CONNECTION,
        }
    }
    let mut frames = vec![];
    let mut rest = bytes.as_slice();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        frames.push(frame.to_vec());
        rest = behind;
    }
    (frames, is_closed)
}

fn started(count: usize) -> (Cluster, usize) {
    let mut cluster = Cluster::new(count, 1, 1);
    for node in 0..count {
        cluster.start(node);
    }
    cluster.connect_all();
    cluster.run(300);
    let leader = (0..count).find(|&node| cluster.leads(node));
    (cluster, leader.expect("somebody leads by now"))
}

/// A client has a session, for four seconds of silence, at a server that follows: the leader, and
/// that server.
fn with_a_session() -> (Cluster, usize, usize) {
    let (mut cluster, leader) = started(3);
    let node = (leader + 1) % 3;
    cluster.open_client(node, CONNECTION, [7; 16]);
    send(&mut cluster, node, &connect());
    cluster.run(1000);
    assert_eq!(received(&mut cluster).0.len(), 1);
    (cluster, leader, node)
}

#[test]
fn what_is_sent_ahead_of_the_session_is_answered_behind_it() {
    let (mut cluster, leader) = started(3);
    cluster.open_client(leader, CONNECTION, [7; 16]);
    let mut bytes = connect();
    // The Java client sends its credentials and watches without waiting for its session.
    let auth = Request::Auth { scheme: "digest", credential: Some(b"user:secret") };
    client::put_request(&mut bytes, -4, &auth);
    client::put_request(&mut bytes, -2, &Request::Ping);
    let exists = Request::Exists { path: "/", watch: false };
    client::put_request(&mut bytes, 1, &exists);
    send(&mut cluster, leader, &bytes);
    cluster.run(100);
    let (frames, is_closed) = received(&mut cluster);
    assert!(!is_closed);
    let response = client::parse_connect(&frames[0]).unwrap();
    assert_eq!(response.timeout_ms, 4000, "the session comes first");
    let xids: Vec<i32> =
        frames[1..].iter().map(|frame| client::parse_header(frame).unwrap().0.xid).collect();
    assert_eq!(xids, [-4, -2, 1]);
}

#[test]
fn a_ping_outlives_the_leader_that_was_asked_about_it() {
    let (mut cluster, leader, node) = with_a_session();
    let mut ping = vec![];
    client::put_request(&mut ping, -2, &Request::Ping);
    send(&mut cluster, node, &ping);
    cluster.step(node, Input::TurnEnd { share: usize::MAX });
    cluster.crash(leader);
    cluster.run(1500);
    let (frames, is_closed) = received(&mut cluster);
    assert!(!is_closed, "the session is as good as before");
    assert_eq!(frames.len(), 1);
}

/// The others commit without it, and the client hears that it has a session before its leader has
/// applied that.
#[test]
fn a_new_session_outlives_a_short_stall_of_its_leaders_disk() {
    let (mut cluster, leader) = started(3);
    let node = (leader + 1) % 3;
    cluster.stalled = Some(leader);
    cluster.open_client(node, CONNECTION, [7; 16]);
    send(&mut cluster, node, &connect());
    cluster.run(50);
    assert_eq!(received(&mut cluster).0.len(), 1, "the session has begun");
    // It shows often enough that it lives, and longer than its timeout.
    for xid in 1..60 {
        let mut bytes = vec![];
        client::put_request(&mut bytes, xid, &Request::Exists { path: "/", watch: false });
        send(&mut cluster, node, &bytes);
        cluster.run(100);
        let (frames, is_closed) = received(&mut cluster);
        assert!(!is_closed && frames.len() == 1, "it is sent away at {xid}");
    }
    assert!(cluster.leads(leader));
    cluster.stalled = None;
    cluster.run(2000);
    assert!(!received(&mut cluster).1, "and is known when the disk has caught up");
}

/// Each is to be answered, and until then costs memory, like a request.
#[test]
fn pings_that_wait_are_bounded() {
    const PINGS: usize = 3 * REQUESTS_PER_CONNECTION_MAX;
    let (mut cluster, leader, node) = with_a_session();
    cluster.crash(leader);
    let mut pings = vec![];
    for _ in 0..PINGS {
        client::put_request(&mut pings, -2, &Request::Ping);
    }
    send(&mut cluster, node, &pings);
    let mut answered = vec![];
    while answered.iter().sum::<usize>() < PINGS {
        cluster.run(100);
        let (frames, is_closed) = received(&mut cluster);
        assert!(!is_closed && answered.len() < 100, "all are answered: {answered:?}");
        answered.push(frames.len());
        let sent = Input::ClientSent { connection: CONNECTION, unsent_bytes: 0 };
        cluster.step(node, sent);
    }
    let report = cluster.nodes[node].worker.as_ref().unwrap().report();
    let met = report.limits_met.count(Limit::RequestsPerConnection);
    assert_eq!(met, 1, "nothing is read beyond the bound");
}

#[test]
fn a_busy_client_is_not_kept_when_nobody_knows_any_more_that_it_lives() {
    let (mut cluster, leader, node) = with_a_session();
    cluster.crash(leader);
    cluster.crash((leader + 2) % 3);
    // It reads all the time, and sends no pings. Another leader, if there were one, would end the
    // session after four seconds.
    let (mut replies, mut elapsed_ms) = (0, 0);
    loop {
        let mut bytes = vec![];
        let exists = Request::Exists { path: "/", watch: false };
        client::put_request(&mut bytes, elapsed_ms, &exists);
        send(&mut cluster, node, &bytes);
        cluster.run(50);
        elapsed_ms += 50;
        let (frames, is_closed) = received(&mut cluster);
        replies += frames.len();
        if is_closed {
            break;
        }
        assert!(elapsed_ms < 3000, "it goes on reading, {replies} times by now");
    }
    assert!(replies > 20, "{replies}");
}

#[test]
fn a_server_that_stood_still_answers_nobody_whose_session_may_be_over() {
    let (mut cluster, _, node) = with_a_session();
    // What the client has sent meanwhile is the first that the server finds.
    cluster.advance(5_000_000);
    let mut bytes = vec![];
    client::put_request(&mut bytes, 1, &Request::Exists { path: "/", watch: false });
    send(&mut cluster, node, &bytes);
    cluster.step(node, Input::TurnEnd { share: usize::MAX });
    let (frames, is_closed) = received(&mut cluster);
    assert!(is_closed && frames.is_empty(), "{frames:?}");
}
