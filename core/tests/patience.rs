//! Who waits, for whom, and for how long: clients for replies, sessions for a sign of life,
//! followers for a leader's disk.

mod ensemble;

use pigeonhole_core::base::id::{ConnectionId, CoreId};
use pigeonhole_core::base::limits::REQUESTS_PER_CONNECTION_MAX;
use pigeonhole_core::base::met::Limit;
use pigeonhole_core::base::time::Periods;
use pigeonhole_core::effect::Input;
use pigeonhole_core::op::{ConnectRequest, Request};
use pigeonhole_core::wire::client;
use pigeonhole_core::zab::Event;

use ensemble::{Cluster, News};

const CONNECTION: ConnectionId = ConnectionId { core: CoreId(0), slot: 0, generation: 1 };

const TURN_END: Input<'static> = Input::TurnEnd { share: usize::MAX };

fn connect_for(timeout_ms: i32) -> Vec<u8> {
    let request = ConnectRequest::for_new_session(timeout_ms);
    let mut bytes = vec![];
    client::put_connect(&mut bytes, &request);
    bytes
}

fn connect() -> Vec<u8> {
    connect_for(4000)
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

fn begun(count: usize) -> Cluster {
    let mut cluster = Cluster::new(count, 1, 1);
    (0..count).for_each(|node| cluster.start(node));
    cluster.connect_all();
    cluster
}

fn leader_of(cluster: &Cluster) -> Option<usize> {
    (0..cluster.nodes.len()).find(|&node| cluster.leads(node))
}

fn started(count: usize) -> (Cluster, usize) {
    let mut cluster = begun(count);
    cluster.run(300);
    let leader = leader_of(&cluster).expect("somebody leads by now");
    (cluster, leader)
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
    cluster.step(node, TURN_END);
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
        let sent = Input::ClientSent { connection: CONNECTION };
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
    cluster.step(node, TURN_END);
    let (frames, is_closed) = received(&mut cluster);
    assert!(is_closed && frames.is_empty(), "{frames:?}");
}

/// It is turned away, as ZooKeeper turns away whom it cannot serve, and tries another server. What
/// it asked for here is not done when there is a leader again.
#[test]
fn who_wants_a_session_does_not_wait_for_a_leader() {
    let (mut cluster, leader) = started(3);
    let node = (leader + 1) % 3;
    let others = [leader, 3 - leader - node];
    others.iter().for_each(|&other| cluster.crash(other));
    cluster.open_client(node, CONNECTION, [7; 16]);
    send(&mut cluster, node, &connect());
    cluster.run(100);
    assert!(!received(&mut cluster).1, "a leader may be found at once");
    cluster.run(400);
    assert!(received(&mut cluster).1);
    cluster.open_client(node, CONNECTION, [7; 16]);
    send(&mut cluster, node, &connect());
    cluster.run(5);
    assert!(received(&mut cluster).1, "now it is known");

    others.iter().for_each(|&other| cluster.start(other));
    cluster.connect_all();
    cluster.run(1500);
    assert_eq!(sessions(&cluster, node), 0);
    cluster.open_client(node, CONNECTION, [7; 16]);
    send(&mut cluster, node, &connect());
    cluster.run(100);
    let (frames, is_closed) = received(&mut cluster);
    assert_eq!((frames.len(), is_closed), (1, false));
}

fn sessions(cluster: &Cluster, node: usize) -> usize {
    let mut count = 0;
    let worker = cluster.nodes[node].worker.as_ref().expect("it runs");
    worker.sessions(&mut |_, _, _| count += 1);
    count
}

/// What arrives at `deaf` from `mute` waits.
fn run_without(cluster: &mut Cluster, milliseconds: u64, deaf: usize, mute: usize) {
    let end = cluster.now.0 + milliseconds * 1000;
    while cluster.now.0 < end {
        cluster.advance(200);
        for node in 0..cluster.nodes.len() {
            for from in 0..cluster.nodes.len() {
                while (node, from) != (deaf, mute) && cluster.deliver(node, from) {}
            }
            cluster.step(node, TURN_END);
            let pending = cluster.pending(node);
            if pending > 0 {
                cluster.sync(node, pending);
                cluster.step(node, TURN_END);
            }
        }
    }
}

/// Refused, it leaves the session as mortal as it was.
#[test]
fn a_session_whose_close_was_refused_still_expires() {
    let (mut cluster, leader) = started(3);
    let follower = (leader + 1) % 3;
    let (former, latter) = (CONNECTION, ConnectionId { slot: 1, ..CONNECTION });
    cluster.open_client(follower, former, [7; 16]);
    send(&mut cluster, follower, &connect());
    cluster.run(500);
    let (frames, _) = received(&mut cluster);
    let response = client::parse_connect(&frames[0]).expect("a connect response");
    assert_eq!(sessions(&cluster, leader), 1);

    let mut goodbye = vec![];
    client::put_request(&mut goodbye, 1, &Request::CloseSession);
    send(&mut cluster, follower, &goodbye);
    run_without(&mut cluster, 20, leader, follower);
    // Meanwhile the client has come to the leader.
    cluster.open_client(leader, latter, [8; 16]);
    let again = ConnectRequest {
        session: response.session,
        password: &response.password,
        ..ConnectRequest::for_new_session(4000)
    };
    let mut bytes = vec![];
    client::put_connect(&mut bytes, &again);
    cluster.step(leader, Input::ClientBytes { connection: latter, bytes: &bytes });
    run_without(&mut cluster, 100, leader, follower);
    cluster.run(100);
    assert_eq!(sessions(&cluster, leader), 1, "the close was refused");
    // It dies without a word.
    cluster.step(leader, Input::ClientClosed { connection: latter });
    cluster.run(10_000);
    assert_eq!(sessions(&cluster, leader), 0);
}

/// Everything arrives at once; what a disk has, it has after so long, if ever.
fn run_with_disks(
    cluster: &mut Cluster,
    milliseconds: u64,
    sync_us: impl Fn(usize) -> Option<u64>,
) {
    let end = cluster.now.0 + milliseconds * 1000;
    let count = cluster.nodes.len();
    // When the write that is under way is through, and what it holds.
    let mut writes: Vec<Option<(u64, usize)>> = vec![None; count];
    while cluster.now.0 < end {
        cluster.advance(1000);
        for (node, write) in writes.iter_mut().enumerate() {
            (0..count).for_each(|from| while cluster.deliver(node, from) {});
            cluster.step(node, TURN_END);
            let now = cluster.now.0;
            if let Some((_, records)) = write.take_if(|(at, _)| *at <= now) {
                cluster.sync(node, records);
                cluster.step(node, TURN_END);
            }
            let pending = cluster.pending(node);
            if pending > 0 && write.is_none() {
                *write = sync_us(node).map(|sync_us| (now + sync_us, pending));
            }
        }
    }
}

/// Its links live, so nobody would miss it.
#[test]
fn a_leader_whose_disk_stands_still_is_replaced() {
    let (mut cluster, stalled) = started(3);
    let follower = (stalled + 1) % 3;
    cluster.open_client(follower, CONNECTION, [7; 16]);
    send(&mut cluster, follower, &connect_for(40_000));
    // The session's creation is the first entry that this disk never gets.
    run_with_disks(&mut cluster, Periods::default().sync_limit.as_ms() - 100, |node| {
        (node != stalled).then_some(100)
    });
    assert_eq!(leader_of(&cluster), Some(stalled), "a disk may be slow for so long");
    run_with_disks(&mut cluster, 2000, |node| (node != stalled).then_some(100));
    let successor = leader_of(&cluster).expect("two are a majority");
    assert_ne!(successor, stalled);
    // When the disk goes on, its server follows.
    run_with_disks(&mut cluster, 2000, |_| Some(100));
    assert_eq!(leader_of(&cluster), Some(successor));
    let synchronized = |(node, _, event): &(usize, _, Event)| {
        *node == stalled && matches!(event, Event::Synchronized { .. })
    };
    assert!(cluster.events.iter().any(synchronized));
}

/// An epoch takes two syncs in a row. On a busy volume those may take longer than silence may last.
#[test]
fn slow_disks_elect_a_leader_all_the_same() {
    for sync_ms in [10, 300, 500, 1000, 3000] {
        let mut cluster = begun(3);
        run_with_disks(&mut cluster, 20 * sync_ms + 1000, |_| Some(sync_ms * 1000));
        assert!(leader_of(&cluster).is_some(), "syncs of {sync_ms} ms");
        let founding =
            |(_, _, event): &&(usize, _, Event)| matches!(event, Event::EpochProposed { .. });
        assert!(cluster.events.iter().filter(founding).count() < 8, "syncs of {sync_ms} ms");
    }
}

/// Replies that have come by now, to all and to `one`.
fn count_replies(cluster: &mut Cluster, one: ConnectionId) -> (usize, usize) {
    let (mut all, mut to_one) = (0, 0);
    for (_, news) in cluster.news.drain(..) {
        let News::Output(connection, output) = news else { panic!("nobody is sent away") };
        // A reply to setData is a header and a stat.
        let replies = output.len() / 88;
        assert_eq!(output.len() % 88, 0);
        all += replies;
        to_one += if connection == one { replies } else { 0 };
    }
    (all, to_one)
}

/// More than one replica may have waiting, through a server that has to send it all elsewhere.
#[test]
fn a_crowd_that_sends_far_ahead_is_served_and_keeps_nobody_else_waiting() {
    const CROWD: u32 = 80;
    let (mut cluster, leader) = started(3);
    let node = (leader + 1) % 3;
    let nth = |slot| ConnectionId { slot, ..CONNECTION };
    for slot in 0..=CROWD {
        let connection = nth(slot);
        cluster.open_client(node, connection, [7; 16]);
        cluster.step(node, Input::ClientBytes { connection, bytes: &connect_for(40_000) });
    }
    cluster.run(100);
    cluster.news.clear();
    let mut write = vec![];
    let request = Request::SetData { path: "/", data: Some(b"x"), version: -1 };
    client::put_request(&mut write, 1, &request);
    let ahead = write.repeat(REQUESTS_PER_CONNECTION_MAX);
    for slot in 0..CROWD {
        cluster.step(node, Input::ClientBytes { connection: nth(slot), bytes: &ahead });
    }
    let late = nth(CROWD);
    cluster.step(node, Input::ClientBytes { connection: late, bytes: &write });
    let (mut all, mut to_late) = (0, 0);
    let mut before = None;
    for _ in 0..5000 {
        cluster.run(1);
        let (more, more_to_late) = count_replies(&mut cluster, late);
        (all, to_late) = (all + more, to_late + more_to_late);
        if to_late > 0 {
            before.get_or_insert(all);
        }
    }
    assert_eq!(all, CROWD as usize * REQUESTS_PER_CONNECTION_MAX + 1);
    let before = before.expect("it was answered");
    assert!(before < all / 4, "{before} of {all} came first");
}
