//! A close that comes too late: its session belongs to another connection by then.

mod ensemble;

use ensemble::{Cluster, News, client, connect_request};
use pigeonhole_core::effect::Input;
use pigeonhole_core::op::{ConnectRequest, Request};
use pigeonhole_core::wire::client as wire;

fn sessions(cluster: &Cluster, node: usize) -> usize {
    let mut count = 0;
    let worker = cluster.nodes[node].worker.as_ref().expect("it runs");
    worker.sessions(&mut |_, _| count += 1);
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
            cluster.step(node, Input::TurnEnd { share: usize::MAX });
            let pending = cluster.pending(node);
            if pending > 0 {
                cluster.sync(node, pending);
                cluster.step(node, Input::TurnEnd { share: usize::MAX });
            }
        }
    }
}

/// Refused, it leaves the session as mortal as it was.
#[test]
fn a_session_whose_close_was_refused_still_expires() {
    let mut cluster = Cluster::new(3, 1, 1);
    (0..3).for_each(|node| cluster.start(node));
    cluster.connect_all();
    cluster.run(300);
    let leader = (0..3).find(|&node| cluster.leads(node)).expect("somebody leads by now");
    let follower = (leader + 1) % 3;
    let (former, latter) = (client(0), client(1));
    cluster.open_client(follower, former, [7; 16]);
    let wish = connect_request(4000);
    cluster.step(follower, Input::ClientBytes { connection: former, bytes: &wish });
    cluster.run(500);
    let said = cluster.news.drain(..).filter_map(|(_, news)| match news {
        News::Output(_, bytes) => Some(bytes),
        News::Closed(_) => None,
    });
    let said: Vec<u8> = said.flatten().collect();
    let response = wire::parse_connect(&said[4..]).expect("a connect response");
    assert_eq!(sessions(&cluster, leader), 1);

    let mut goodbye = vec![];
    wire::put_request(&mut goodbye, 1, &Request::CloseSession);
    cluster.step(follower, Input::ClientBytes { connection: former, bytes: &goodbye });
    run_without(&mut cluster, 20, leader, follower);
    // Meanwhile the client has come to the leader.
    cluster.open_client(leader, latter, [8; 16]);
    let again = ConnectRequest {
        session: response.session,
        password: &response.password,
        ..ConnectRequest::for_new_session(4000)
    };
    let mut bytes = vec![];
    wire::put_connect(&mut bytes, &again);
    cluster.step(leader, Input::ClientBytes { connection: latter, bytes: &bytes });
    run_without(&mut cluster, 100, leader, follower);
    cluster.run(100);
    assert_eq!(sessions(&cluster, leader), 1, "the close was refused");
    // It dies without a word.
    cluster.step(leader, Input::ClientClosed { connection: latter });
    cluster.run(10_000);
    assert_eq!(sessions(&cluster, leader), 0);
}
