//! Faults of sessions and of the ephemerals that live as long as they do.

use pigeonhole_core::base::id::{SessionId, ShardId};
use pigeonhole_core::txn::Operation as Step;
use pigeonhole_tests::history::{Answer, Ask};

use crate::cluster::{Cluster, TIMEOUT_US, create, ephemeral, get, path_in, set};
use crate::complains;

/// A session with an ephemeral in the last shard, and the path of that.
fn with_ephemeral(shards: u16) -> (Cluster, SessionId, String) {
    let mut cluster = Cluster::new(shards);
    let session = cluster.session();
    let path = path_in(cluster.map, shards - 1);
    cluster.ask(session, ephemeral(&path));
    (cluster, session, path)
}

fn last_shard(cluster: &Cluster) -> ShardId {
    ShardId(cluster.map.count() - 1)
}

fn planted(expected: &str, plant: impl Fn(&mut Cluster, SessionId, &str)) {
    for shards in [1, 2] {
        let (mut cluster, session, path) = with_ephemeral(shards);
        plant(&mut cluster, session, &path);
        complains(expected, || cluster.check());
    }
}

#[test]
fn a_session_that_lives_and_dies_passes() {
    for shards in [1, 2] {
        let (mut cluster, session, path) = with_ephemeral(shards);
        let now = cluster.logs.now;
        cluster.life(session).pings_answered.push(now);
        let other = cluster.session();
        cluster.ask(other, get(&path));
        cluster.logs.now = now + TIMEOUT_US;
        cluster.end(session);
        cluster.pass();
        let now = cluster.logs.now;
        cluster.life(session).expired = Some(now);
        cluster.ask(other, get(&path));
        cluster.ask(other, ephemeral(&path));
        cluster.close(other);
        cluster.check();
    }
}

#[test]
fn an_ephemeral_that_outlives_its_session() {
    planted("S3: ", |cluster, session, _| {
        cluster.begin_end(session);
        cluster.purge_paths(last_shard(cluster), session, Vec::new());
        cluster.finish_end(session);
    });
}

#[test]
fn an_ephemeral_that_nobody_purges() {
    planted("S3: ", |cluster, session, _| {
        cluster.begin_end(session);
        cluster.finish_end(session);
    });
}

#[test]
fn an_ephemeral_that_vanishes_while_its_session_lives() {
    planted("S4: ", |cluster, session, path| {
        cluster.purge_paths(last_shard(cluster), session, vec![path.to_owned()]);
    });
}

#[test]
fn an_ephemeral_that_goes_with_another_session() {
    planted("goes with a", |cluster, session, path| {
        let other = cluster.session();
        let path = path.to_owned();
        cluster.begin_end(other);
        let step = Step::SessionPurge { session: other.0, paths: vec![path], last: true };
        cluster.commit(last_shard(cluster), SessionId(0), vec![step]);
        assert_ne!(session, other);
    });
}

#[test]
fn a_write_after_the_close() {
    planted("S2: ", |cluster, session, path| {
        cluster.begin_end(session);
        cluster.ask_in_vain(session, set(path, "late"), true);
    });
}

#[test]
fn a_session_that_is_created_twice() {
    let (mut cluster, session, _) = with_ephemeral(1);
    let twice = Step::SessionCreate { session: session.0, password: [0; 16], timeout_ms: 400 };
    cluster.commit(ShardId(0), SessionId(0), vec![twice]);
    complains("a session is created once", || cluster.check());
}

#[test]
fn a_session_that_expires_too_early() {
    planted("S1: ", |cluster, session, _| {
        cluster.pass();
        let now = cluster.logs.now;
        cluster.life(session).pings_answered.push(now);
        cluster.logs.now = now + TIMEOUT_US / 2;
        cluster.end(session);
    });
}

#[test]
fn an_answer_to_a_session_that_is_over() {
    planted("S5: ", |cluster, session, path| {
        let other = cluster.session();
        cluster.ask(other, create("/zookeeper/quota/x"));
        cluster.logs.now += TIMEOUT_US;
        cluster.end(session);
        cluster.logs.now += TIMEOUT_US;
        cluster.ask(session, get(path));
    });
}

#[test]
fn a_session_that_is_told_over_while_it_lives() {
    planted("S6: ", |cluster, session, _| {
        cluster.pass();
        let now = cluster.logs.now;
        cluster.life(session).expired = Some(now);
    });
}

#[test]
fn a_close_that_is_answered_before_the_end() {
    planted("S6: ", |cluster, session, _| {
        let index = cluster.invoke(session, Ask::Close);
        cluster.life(session).closing = true;
        cluster.begin_end(session);
        let at = cluster.tail(cluster.map.home_of(session));
        cluster.answer(index, at, Ok(Answer::Nothing));
        let last = last_shard(cluster);
        cluster.purge(last, session);
        cluster.finish_end(session);
    });
}
