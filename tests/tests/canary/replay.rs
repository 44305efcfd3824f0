//! Faults between what clients were told and what the logs hold, with one shard and with several.

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{SessionId, ShardId, Zxid};
use pigeonhole_core::op::Stat;
use pigeonhole_core::txn::Operation as Step;
use pigeonhole_tests::history::{Answer, Ask, Part};
use pigeonhole_tests::people::AccessList;

use crate::cluster::{Cluster, create, delete, ephemeral, get, path_in, set, sync};
use crate::complains;

/// Two sessions that have done a little of everything; the path that they have in common.
fn ordinary(shards: u16) -> (Cluster, [SessionId; 2], String) {
    let mut cluster = Cluster::new(shards);
    let sessions = [cluster.session(), cluster.session()];
    let [one, other] = sessions;
    let path = path_in(cluster.map, shards - 1);
    cluster.ask(one, create(&path));
    cluster.ask(one, ephemeral(&format!("{path}/mine")));
    cluster.ask(other, set(&path, "first"));
    cluster.ask(other, get(&path));
    cluster.ask(other, create(&path));
    cluster.ask(one, Ask::Multi(vec![set(&path, "second"), create(&format!("{path}/a"))]));
    cluster.ask(one, Ask::Multi(vec![set(&path, "third"), create(&format!("{path}/a"))]));
    cluster.ask(one, delete(&format!("{path}/a")));
    cluster.ask_in_vain(one, set(&path, "lost"), false);
    cluster.ask_in_vain(other, set(&path, "unheard"), true);
    cluster.ask(one, get(&path));
    cluster.ask(one, sync());
    (cluster, sessions, path)
}

/// For any number of shards, the fault must be complained about in these words.
fn planted(expected: &str, plant: impl Fn(&mut Cluster, [SessionId; 2], &str)) {
    for shards in [1, 2] {
        planted_with(shards, expected, &plant);
    }
}

fn planted_with(shards: u16, expected: &str, plant: impl Fn(&mut Cluster, [SessionId; 2], &str)) {
    let (mut cluster, sessions, path) = ordinary(shards);
    plant(&mut cluster, sessions, &path);
    complains(expected, || cluster.check());
}

#[test]
fn an_ordinary_history_passes() {
    for shards in [1, 2] {
        let (mut cluster, [one, other], _) = ordinary(shards);
        cluster.close(one);
        cluster.end(other);
        cluster.check();
    }
}

#[test]
fn a_lost_acknowledged_write() {
    planted("CommittedLogDurability: ", |cluster, [one, _], path| {
        cluster.ask_unlogged(one, set(path, "forgotten"));
    });
}

#[test]
fn a_lost_acknowledged_delete() {
    planted("CommittedLogDurability: ", |cluster, [one, _], path| {
        cluster.ask(one, create(&format!("{path}/b")));
        cluster.ask_unlogged(one, delete(&format!("{path}/b")));
    });
}

#[test]
fn a_write_that_nobody_sent() {
    planted("was sent by nobody, or twice", |cluster, [one, _], path| {
        let _ = cluster.carry_out(one, &set(path, "invented"));
    });
}

#[test]
fn an_unheard_write_that_happens_twice() {
    planted("was sent by nobody, or twice", |cluster, [one, _], path| {
        let write = set(path, "again");
        cluster.ask_in_vain(one, write.clone(), true);
        let _ = cluster.carry_out(one, &write);
    });
}

#[test]
fn a_write_of_somebody_else() {
    planted("is another session's", |cluster, [one, other], path| {
        let index = cluster.ask(one, set(path, "mine"));
        cluster.history.operations[index].session = other;
    });
}

#[test]
fn another_write_than_was_asked_for() {
    planted("is another write", |cluster, [one, _], path| {
        let index = cluster.ask(one, set(path, "what the log holds"));
        cluster.history.operations[index].ask = set(path, "what was asked");
    });
}

#[test]
fn a_write_that_should_have_been_refused() {
    planted("is committed and should be", |cluster, [one, _], path| {
        let (path, data) = (format!("{path}/missing"), Some(b"new".to_vec()));
        let index = cluster.invoke(one, set(&path, "new"));
        let shard = cluster.map.shard_of(&path);
        let at = cluster.commit(shard, one, vec![Step::SetData { path, data, version: 1 }]);
        let stat = Stat { mzxid: at, ..Stat::default() };
        cluster.answer(index, at, Ok(Answer::Stat(stat)));
    });
}

#[test]
fn an_answer_that_the_model_does_not_give() {
    planted("a write was answered otherwise", |cluster, [one, _], path| {
        let index = cluster.ask(one, set(path, "counted"));
        let (_, result) = cluster.outcome(index);
        let Ok(Answer::Stat(stat)) = result else { panic!("{result:?}") };
        stat.version += 1;
    });
}

#[test]
fn two_writes_with_one_zxid() {
    planted("two writes were acknowledged as", |cluster, [one, other], path| {
        let index = cluster.ask(one, set(path, "first"));
        let twin = cluster.ask(other, set(path, "second"));
        let (zxid, result) = cluster.outcome(index);
        let (zxid, result) = (*zxid, result.clone());
        *cluster.outcome(twin).0 = zxid;
        *cluster.outcome(twin).1 = result;
    });
}

#[test]
fn a_read_behind_the_sessions_own_write() {
    let stale = |cluster: &mut Cluster, [one, _]: [SessionId; 2], path: &str| {
        let before = cluster.ask(one, get(path));
        cluster.ask(one, set(path, "newer"));
        let after = cluster.ask(one, get(path));
        let (zxid, result) = cluster.outcome(before);
        let (zxid, result) = (*zxid, result.clone());
        if cluster.map.count() == 1 {
            *cluster.outcome(after).0 = zxid;
        }
        *cluster.outcome(after).1 = result;
    };
    planted_with(1, "MonotonicRead", stale);
    planted_with(2, "no state of shard 1", stale);
}

#[test]
fn a_read_of_data_that_was_never_there() {
    let torn = |cluster: &mut Cluster, [one, _]: [SessionId; 2], path: &str| {
        let index = cluster.ask(one, get(path));
        let (_, result) = cluster.outcome(index);
        let Ok(Answer::Data { data, .. }) = result else { panic!("{result:?}") };
        *data = Some(b"from nowhere".to_vec());
    };
    planted_with(1, "shows something else", torn);
    planted_with(2, "no state of shard 1", torn);
}

#[test]
fn a_read_that_goes_back() {
    // What other sessions wrote and this one has seen must not vanish from its eyes.
    let (mut cluster, [one, other], path) = ordinary(2);
    let old = cluster.ask(one, get(&path));
    cluster.ask(other, set(&path, "newer"));
    cluster.ask(one, get(&path));
    let back = cluster.ask(one, get(&path));
    let result = cluster.outcome(old).1.clone();
    *cluster.outcome(back).1 = result;
    complains("no state of shard 1", || cluster.check());
}

#[test]
fn a_refusal_without_a_reason() {
    let refused = |cluster: &mut Cluster, [one, _]: [SessionId; 2], path: &str| {
        let index = cluster.invoke(one, delete(path));
        let at = cluster.tail(cluster.map.shard_of(path));
        cluster.answer(index, at, Err(ErrorCode::NoNode.wire()));
    };
    planted_with(1, "a write was refused otherwise than at any state", refused);
    planted_with(2, "no state of shard 1", refused);
}

#[test]
fn a_failed_multi_without_a_reason() {
    let refused = |cluster: &mut Cluster, [one, _]: [SessionId; 2], path: &str| {
        let index = cluster.invoke(one, Ask::Multi(vec![set(path, "whole")]));
        let at = cluster.tail(cluster.map.shard_of(path));
        let part = Part::Error(ErrorCode::NoNode.wire());
        cluster.answer(index, at, Ok(Answer::Multi(vec![part])));
    };
    planted_with(1, "a write was refused otherwise than at any state", refused);
    planted_with(2, "no state of shard 1", refused);
}

#[test]
fn half_a_multi() {
    planted("is another write", |cluster, [one, _], path| {
        let whole = Ask::Multi(vec![set(path, "one half"), set(path, "other half")]);
        let index = cluster.ask(one, Ask::Multi(vec![set(path, "one half")]));
        cluster.history.operations[index].ask = whole;
    });
}

#[test]
fn a_write_behind_one_that_was_acknowledged_before_it_was_sent() {
    planted("had been acknowledged", |cluster, [one, other], path| {
        let early = cluster.ask(one, set(path, "early"));
        let late = cluster.ask(other, set(path, "late"));
        // The order of the two in the log is not that in which they happened.
        let done = cluster.history.operations[late].done.unwrap();
        cluster.history.operations[early].invoked = done + 1;
        cluster.history.operations[early].done = Some(done + 2);
    });
}

#[test]
fn a_sync_that_misses_a_write() {
    let (mut cluster, [one, other], path) = ordinary(1);
    let before = cluster.tail(ShardId(0));
    cluster.ask(other, set(&path, "newer"));
    let index = cluster.ask(one, sync());
    *cluster.outcome(index).0 = before;
    complains("misses", || cluster.check());
}

#[test]
fn a_read_behind_a_sync_that_misses_a_write() {
    let (mut cluster, [one, other], path) = ordinary(2);
    let old = cluster.ask(one, get(&path));
    cluster.ask(other, set(&path, "newer"));
    cluster.ask(one, sync());
    let stale = cluster.ask(one, get(&path));
    let result = cluster.outcome(old).1.clone();
    *cluster.outcome(stale).1 = result;
    complains("no state of shard 1", || cluster.check());
}

#[test]
fn a_sync_of_what_never_comes() {
    // A write that was acknowledged before the sync, and that the log does not hold at all.
    let (mut cluster, [one, other], path) = ordinary(2);
    let index = cluster.ask(other, set(&path, "newer"));
    let (_, result) = cluster.outcome(index);
    let Ok(Answer::Stat(stat)) = result else { panic!("{result:?}") };
    stat.mzxid = Zxid(stat.mzxid.0 + 9);
    cluster.ask(one, sync());
    complains("was sent by nobody", || cluster.check());
}

#[test]
fn an_access_list_that_lets_nobody_in() {
    // Ann's znode, written by somebody who is not Ann.
    planted("is committed and should be", |cluster, [one, _], path| {
        cluster.ask(one, own(path));
        let (path, data) = (path.to_owned(), Some(b"new".to_vec()));
        let index = cluster.invoke(one, set(&path, "new"));
        let shard = cluster.map.shard_of(&path);
        let at = cluster.commit(shard, one, vec![Step::SetData { path, data, version: 1 }]);
        let stat = Stat { mzxid: at, ..Stat::default() };
        cluster.answer(index, at, Ok(Answer::Stat(stat)));
    });
}

#[test]
fn a_read_of_what_may_not_be_read() {
    let leak = |cluster: &mut Cluster, [one, _]: [SessionId; 2], path: &str| {
        let before = cluster.ask(one, get(path));
        let result = cluster.outcome(before).1.clone();
        cluster.ask(one, own(path));
        let after = cluster.ask(one, get(path));
        *cluster.outcome(after).1 = result;
    };
    planted_with(1, "shows something else", leak);
    planted_with(2, "no state of shard 1", leak);
}

#[test]
fn a_list_that_was_not_asked_for() {
    let other = |cluster: &mut Cluster, [one, _]: [SessionId; 2], path: &str| {
        let index = cluster.ask(one, own(path));
        let (path, list) = (path.to_owned(), AccessList::AnnsToRead);
        cluster.history.operations[index].ask = Ask::SetAcl { path, list, version: -1 };
    };
    planted_with(1, "is another write", other);
    planted_with(2, "was sent by nobody", other);
}

fn own(path: &str) -> Ask {
    Ask::SetAcl { path: path.to_owned(), list: AccessList::Anns, version: -1 }
}
