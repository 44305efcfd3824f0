//! Operation × state → result, error or stat, in ZooKeeper's order of checks.

mod leader;

use leader::{
    Client, Leader, OPEN, Outcome, check, create, delete, entry, ephemeral, plain, sequential, set,
    set_acl,
};
use pigeonhole_core::base::error::ErrorCode::{
    self, BadArguments, BadVersion, InvalidAcl, MarshallingError, NoAuth, NoChildrenForEphemerals,
    NoNode, NodeExists, NotEmpty, Ok as Fine, RuntimeInconsistency, SessionExpired, ThrottledOp,
};
use pigeonhole_core::base::id::{SessionId, ShardId, Zxid};
use pigeonhole_core::base::limits::{
    EPHEMERALS_PER_SESSION_MAX, MULTI_OPERATIONS_MAX, RECORD_BYTES_MAX,
};
use pigeonhole_core::op::{Acl, CreateMode, Request, Stat};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::txn::{Operation, Txn};

const NOBODY: [Acl<'static>; 1] = [Acl { permissions: 31, scheme: "digest", id: "no:body" }];
const WRONG: [Acl<'static>; 1] = [Acl { permissions: 31, scheme: "world", id: "somebody" }];

/// `/a` (version 1), `/a/b`, `/closed` for nobody with `/closed/in`, and the ephemeral `/e`.
fn prepared() -> (Leader, Client) {
    let mut leader = Leader::new();
    let root = leader.client(9).with_auth("super:admin");
    let client = leader.client(1);
    leader.run(&client, &plain("/a")).expect("it is fine");
    leader.run(&client, &set("/a", 0)).expect("it is fine");
    leader.run(&client, &plain("/a/b")).expect("it is fine");
    leader.run(&root, &create("/closed", CreateMode::Persistent, &NOBODY)).expect("it is fine");
    leader.run(&root, &plain("/closed/in")).expect("it is fine");
    leader.run(&client, &ephemeral("/e")).expect("it is fine");
    (leader, client)
}

#[test]
fn a_fresh_shard_is_a_fresh_zookeeper() {
    let leader = Leader::new();
    assert_eq!(leader.children("/"), ["zookeeper"]);
    assert_eq!(leader.children("/zookeeper"), ["config", "nwr", "quota"]);
    // Nothing was ever created as far as stats can tell; cversion is twice that minus the children.
    let root = Stat { children_count: 1, cversion: -1, ..Stat::default() };
    assert_eq!(leader.stat("/"), root);
    assert_eq!(leader.stat("/zookeeper/quota"), Stat::default());
    assert_eq!(leader.stat("/zookeeper/nwr"), Stat::default());
    assert_eq!(leader.stat("/zookeeper/config"), Stat { aversion: -1, ..Stat::default() });
    let tree = leader.state.tree();
    let acl = |path| tree.acl(tree.find(path).unwrap());
    assert_eq!(acl("/zookeeper"), [entry(31, "world", "anyone")]);
    assert_eq!(acl("/zookeeper/config"), [entry(1, "world", "anyone")]);
    // The configuration is shard 0's, the points are everybody's.
    let other = Leader::of(ShardId(2), ShardMap::new(4));
    assert_eq!(other.children("/zookeeper"), ["nwr", "quota"]);
}

/// Every refusal, and for those with two reasons, the one that ZooKeeper gives.
#[test]
fn refusals_in_the_order_of_checks() {
    let wrong = |path| create(path, CreateMode::Persistent, &WRONG);
    let table: Vec<(Request<'_>, ErrorCode)> = vec![
        // create: ACL list, parent, CREATE, path, existence, ephemeral parent.
        (wrong("/a/../b"), InvalidAcl),
        (plain("/a/../b"), NoNode),
        (plain("/no/."), NoNode),
        (plain("/closed/."), NoAuth),
        (plain("/a/."), BadArguments),
        (plain("/a/x\u{7f}"), BadArguments),
        (plain("/a/"), BadArguments),
        (plain("//"), BadArguments),
        (plain("a/b"), NoNode),
        (wrong("/no/parent"), InvalidAcl),
        (create("/a/x", CreateMode::Persistent, &[]), InvalidAcl),
        (plain("/no/parent"), NoNode),
        (wrong("/closed/in"), InvalidAcl),
        (plain("/closed/in"), NoAuth),
        (plain("/a"), NodeExists),
        (plain("/"), NodeExists),
        (plain("/zookeeper"), NodeExists),
        (plain("/e/child"), NoChildrenForEphemerals),
        (sequential("/e/child"), NoChildrenForEphemerals),
        (sequential("/a//"), NoNode),
        (sequential("/no/"), NoNode),
        // delete: what cannot go, parent, DELETE on the parent, the znode, version, children.
        (delete("/", -1), BadArguments),
        (delete("/zookeeper", -1), BadArguments),
        (delete("/zookeeper/quota", -1), BadArguments),
        (delete("/zookeeper/nwr", -1), BadArguments),
        (delete("/zookeeper/config", -1), BadArguments),
        (delete("/no/parent", -1), NoNode),
        (delete("/closed/missing", -1), NoAuth),
        (delete("/closed/in", 7), NoAuth),
        (delete("/missing", -1), NoNode),
        (delete("/a", 7), BadVersion),
        (delete("/a", 1), NotEmpty),
        (delete("/a", -1), NotEmpty),
        // setData: the znode, WRITE, version.
        (set("/missing", -1), NoNode),
        (set("/closed", 7), NoAuth),
        (set("/a", 0), BadVersion),
        (set("/a", 2), BadVersion),
        // Only -1 expects nothing.
        (set("/a", -2), BadVersion),
        // setACL: the list, the znode, ADMIN, version.
        (set_acl("/missing", &WRONG, -1), InvalidAcl),
        (set_acl("/a", &[], -1), InvalidAcl),
        (set_acl("/missing", &OPEN, -1), NoNode),
        (set_acl("/closed", &OPEN, 7), NoAuth),
        (set_acl("/a", &OPEN, 1), BadVersion),
        // What is no write of its own.
        (check("/a", 1), ErrorCode::Unimplemented),
    ];
    for (request, code) in table {
        let (mut leader, client) = prepared();
        let before = leader.state.tree().digest();
        let refusal = leader.write(&client, &request).unwrap_err();
        assert_eq!(refusal.code, code, "{request:?}");
        assert_eq!(refusal.judged_by, leader.state.applied(), "nothing is pending");
        assert_eq!(refusal.multi, None);
        assert!(leader.overlay.is_empty(), "{request:?} leaves nothing");
        assert_eq!(leader.state.tree().digest(), before);
    }
}

#[test]
fn what_a_session_may_not_do_is_told_first() {
    let (mut leader, client) = prepared();
    let mut unknown = client;
    unknown.session = SessionId(77);
    let refusal = leader.write(&unknown, &plain("/no/parent")).unwrap_err();
    assert_eq!(refusal.code, SessionExpired);
    let multi = Request::Multi(vec![plain("/x")]);
    let refusal = leader.write(&unknown, &multi).unwrap_err();
    assert_eq!((refusal.code, refusal.multi), (SessionExpired, None));
}

#[test]
fn create_makes_these_stats() {
    let mut leader = Leader::new();
    let client = leader.client(1);
    let zxid = leader.zxid;
    let request = Request::Create {
        path: "/a",
        data: Some(b"hello"),
        acl: OPEN.to_vec(),
        mode: CreateMode::Ephemeral,
        with_stat: true,
    };
    let outcomes = leader.run(&client, &request).unwrap();
    let stat = Stat {
        czxid: zxid,
        mzxid: zxid,
        pzxid: zxid,
        ctime_ms: leader.time_ms,
        mtime_ms: leader.time_ms,
        ephemeral_owner: client.session,
        data_length: 5,
        ..Stat::default()
    };
    assert_eq!(outcomes, [Outcome::Created("/a".to_string(), Some(stat))]);
    assert_eq!(leader.stat("/a"), stat);
    // One creation and two children: 2·1 − 2.
    let root = leader.stat("/");
    assert_eq!((root.cversion, root.children_count, root.pzxid), (0, 2, zxid));
    assert_eq!((root.version, root.mzxid), (0, Zxid::ZERO), "the parent's data is untouched");
    assert_eq!(leader.run(&client, &delete("/a", 0)).unwrap(), [Outcome::Deleted]);
    let root = leader.stat("/");
    assert_eq!((root.cversion, root.children_count), (1, 1));
    assert_eq!(root.pzxid, leader.state.applied(), "a deletion is a change of the children");
}

#[test]
fn set_data_and_set_acl_make_these_stats() {
    let (mut leader, client) = prepared();
    let before = leader.stat("/a");
    let zxid = leader.zxid;
    let outcomes = leader.run(&client, &set("/a", 1)).unwrap();
    let expected =
        Stat { version: 2, mzxid: zxid, mtime_ms: leader.time_ms, data_length: 3, ..before };
    assert_eq!(outcomes, [Outcome::DataSet(expected)]);
    let outcomes = leader.run(&client, &set_acl("/a", &NOBODY, 0)).unwrap();
    let expected = Stat { aversion: 1, ..expected };
    assert_eq!(outcomes, [Outcome::AclSet(expected)]);
}

/// From the largest version on they are negative, and never -1, which would expect anything.
#[test]
fn versions_wrap_and_skip_minus_one() {
    let (mut leader, client) = prepared();
    for (before, after) in [(i32::MAX, i32::MIN), (-3, -2), (-2, 0), (0, 1)] {
        leader.force(vec![
            Operation::SetData { path: "/a".to_string(), data: Some(vec![]), version: before },
            Operation::SetAcl {
                path: "/a".to_string(),
                acl: vec![entry(31, "world", "anyone")],
                version: before,
            },
        ]);
        leader.run(&client, &set("/a", before)).unwrap();
        leader.run(&client, &set_acl("/a", &OPEN, before)).unwrap();
        let stat = leader.stat("/a");
        assert_eq!((stat.version, stat.aversion), (after, after), "after {before}");
    }
}

#[test]
fn sequence_numbers_are_the_parents_count_of_creations() {
    let (mut leader, client) = prepared();
    let mut name = |request: &Request<'_>| match &leader.run(&client, request).unwrap()[..] {
        [Outcome::Created(path, None)] => path.clone(),
        other => panic!("{other:?}"),
    };
    // `/a/b` was the first creation.
    assert_eq!(name(&sequential("/a/n-")), "/a/n-0000000001");
    assert_eq!(name(&sequential("/a/")), "/a/0000000002");
    assert_eq!(name(&plain("/a/plain")), "/a/plain");
    let mode = CreateMode::EphemeralSequential;
    assert_eq!(name(&create("/a/n-", mode, &OPEN)), "/a/n-0000000004");
    // Deleting takes nothing back.
    leader.run(&client, &delete("/a/plain", -1)).unwrap();
    leader.write(&client, &sequential("/a/n-")).unwrap();
    leader.write(&client, &sequential("/a/n-")).unwrap();
    leader.apply_all();
    assert!(leader.exists("/a/n-0000000005") && leader.exists("/a/n-0000000006"));
    // The root counts as well: `/a`, `/closed` and `/e` came before.
    assert_eq!(
        leader.run(&client, &sequential("/")).unwrap(),
        [Outcome::Created("/0000000003".to_string(), None)]
    );
}

/// Java's signed overflow: the name is negative and still ten characters wide.
#[test]
fn sequence_numbers_overflow_as_in_java() {
    let (mut leader, client) = prepared();
    let forced = |creations| Operation::Create {
        path: format!("/a/c{creations}"),
        data: Some(vec![]),
        acl: vec![entry(31, "world", "anyone")],
        ephemeral_owner: 0,
        parent_cversion: creations,
        with_stat: false,
    };
    leader.force(vec![forced(i32::MAX)]);
    leader.run(&client, &sequential("/a/n")).unwrap();
    leader.run(&client, &sequential("/a/n")).unwrap();
    leader.force(vec![forced(-7)]);
    leader.run(&client, &sequential("/a/n")).unwrap();
    for name in ["/a/n2147483647", "/a/n-2147483648", "/a/n-000000007"] {
        assert!(leader.exists(name), "{name} in {:?}", leader.children("/a"));
    }
}

#[test]
fn a_multi_is_one_transaction_with_a_result_each() {
    let (mut leader, client) = prepared();
    let zxid = leader.zxid;
    let multi = Request::Multi(vec![
        check("/a", 1),
        plain("/m"),
        plain("/m/child"),
        set("/m", 0),
        delete("/a/b", 0),
        delete("/a", 1),
        sequential("/m/s"),
        plain("/a"),
    ]);
    let outcomes = leader.run(&client, &multi).unwrap();
    let m = leader.stat("/m");
    assert_eq!((m.czxid, m.mzxid, m.pzxid, m.version), (zxid, zxid, zxid, 1));
    assert_eq!(outcomes.len(), 8);
    assert_eq!(outcomes[0], Outcome::Checked);
    assert_eq!(outcomes[6], Outcome::Created("/m/s0000000001".to_string(), None));
    // The stat in the middle is the stat at that moment.
    let Outcome::DataSet(stat) = &outcomes[3] else { panic!("{outcomes:?}") };
    assert_eq!((stat.version, stat.children_count), (1, 1));
    assert_eq!(leader.stat("/a").version, 0, "a new one");
    assert_eq!(leader.run(&client, &Request::Multi(vec![])).unwrap(), []);
}

#[test]
fn a_multi_that_fails_changes_nothing_and_tells_which() {
    let table: Vec<(Vec<Request<'_>>, Vec<ErrorCode>)> = vec![
        (
            vec![plain("/m"), set("/m", 5), plain("/n")],
            vec![Fine, BadVersion, RuntimeInconsistency],
        ),
        (vec![check("/a", 0), plain("/m")], vec![BadVersion, RuntimeInconsistency]),
        (vec![check("/missing", -1)], vec![NoNode]),
        (vec![check("/closed", 7)], vec![NoAuth]),
        (vec![plain("/m"), plain("/m")], vec![Fine, NodeExists]),
        (vec![delete("/a/b", -1), delete("/a/b", -1)], vec![Fine, NoNode]),
        (vec![sequential("/a/s"), delete("/a", -1)], vec![Fine, NotEmpty]),
    ];
    for (requests, codes) in table {
        let (mut leader, client) = prepared();
        // Something of the same paths is pending before: rolling back must bring exactly it back.
        leader.write(&client, &set("/a/b", 0)).unwrap();
        let pending = leader.write(&client, &sequential("/a/s")).unwrap();
        let refusal = leader.write(&client, &Request::Multi(requests.clone())).unwrap_err();
        let failed = *codes.iter().find(|code| **code != Fine).unwrap();
        assert_eq!(refusal.code, failed, "{requests:?}");
        assert_eq!(refusal.multi, Some(codes));
        assert!(refusal.judged_by <= pending);
        let next = leader.write(&client, &sequential("/a/s")).unwrap();
        assert_eq!(next, leader.state.applied().next().next().next(), "no zxid was used up");
        assert_eq!(leader.write(&client, &set("/a/b", 0)).unwrap_err().code, BadVersion);
        leader.write(&client, &set("/a/b", 1)).unwrap();
        leader.apply_all();
        let children = ["b", "s0000000001", "s0000000002"];
        assert_eq!(leader.children("/a"), children, "{requests:?}");
        assert!(!leader.exists("/m"));
        let again = Request::Multi(vec![plain("/m"), plain("/m")]);
        leader.write(&client, &again).unwrap_err();
        assert!(leader.overlay.is_empty(), "what is taken back leaves nothing at all");
    }
}

#[test]
fn what_a_multi_cannot_hold() {
    let (mut leader, client) = prepared();
    for request in [set_acl("/a", &OPEN, -1), Request::Ping, Request::Multi(vec![])] {
        let refusal = leader.write(&client, &Request::Multi(vec![request])).unwrap_err();
        assert_eq!((refusal.code, refusal.multi), (MarshallingError, None));
    }
    let many = Request::Multi(vec![check("/a", -1); MULTI_OPERATIONS_MAX + 1]);
    assert_eq!(leader.run(&client, &many), Err(BadArguments));
    let most = Request::Multi(vec![check("/a", -1); MULTI_OPERATIONS_MAX]);
    assert_eq!(leader.run(&client, &most).unwrap().len(), MULTI_OPERATIONS_MAX);
}

/// `auth` turns a few bytes into a list of every identity: what is logged must still be a record.
#[test]
fn no_request_becomes_more_than_a_record() {
    let (mut leader, mut client) = prepared();
    for number in 0..20 {
        client = client.with_auth(&format!("{number}{}:x", "u".repeat(900)));
    }
    let mine = [Acl { permissions: 31, scheme: "auth", id: "" }];
    let names: Vec<_> = (0..MULTI_OPERATIONS_MAX).map(|number| format!("/x{number}")).collect();
    let creates = |count: usize| {
        let create = |name| create(name, CreateMode::Persistent, &mine);
        Request::Multi(names[..count].iter().map(|name| create(name)).collect())
    };
    assert_eq!(leader.run(&client, &creates(MULTI_OPERATIONS_MAX)), Err(BadArguments));
    let fits = (1..MULTI_OPERATIONS_MAX)
        .take_while(|count| {
            leader.overlay.clear();
            leader.pending.clear();
            leader.zxid = leader.state.applied().next();
            leader.write(&client, &creates(*count)).is_ok()
        })
        .last()
        .unwrap();
    assert!(fits > 50, "a bound, not a ban: {fits}");
    leader.overlay.clear();
    leader.pending.clear();
    leader.zxid = leader.state.applied().next();
    leader.write(&client, &creates(fits)).unwrap();
    let bytes = leader.pending[0].1.to_bytes().len();
    assert!(bytes + 64 < RECORD_BYTES_MAX, "{bytes}");
    assert!(Txn::view(&leader.pending[0].1.to_bytes()).is_ok());
    leader.apply_all();
}

#[test]
fn a_session_owns_a_bounded_number_of_ephemerals() {
    let mut leader = Leader::new();
    let client = leader.client(1);
    let owned = |number: usize| Operation::Create {
        path: format!("/e{number}"),
        data: Some(vec![]),
        acl: vec![entry(31, "world", "anyone")],
        ephemeral_owner: client.session.0,
        parent_cversion: 0,
        with_stat: false,
    };
    leader.force((1..EPHEMERALS_PER_SESSION_MAX).map(owned).collect());
    leader.write(&client, &ephemeral("/last")).unwrap();
    assert_eq!(leader.write(&client, &ephemeral("/more")).unwrap_err().code, ThrottledOp);
    leader.write(&client, &delete("/e1", -1)).unwrap();
    leader.write(&client, &ephemeral("/more")).unwrap();
    assert_eq!(leader.write(&client, &ephemeral("/most")).unwrap_err().code, ThrottledOp);
    leader.apply_all();
    assert_eq!(leader.state.sessions().ephemerals_count(), EPHEMERALS_PER_SESSION_MAX);
}

/// A refusal names the newest pending change that it rests on, and no newer one.
#[test]
fn refusals_name_what_they_were_judged_by() {
    let (mut leader, client) = prepared();
    let applied = leader.state.applied();
    leader.write(&client, &plain("/x")).unwrap();
    let grown = leader.write(&client, &plain("/x/y")).unwrap();
    let root = leader.write(&client, &plain("/elsewhere")).unwrap();
    let gone = leader.write(&client, &delete("/a/b", -1)).unwrap();
    let mut judged = |request| leader.write(&client, &request).unwrap_err();
    assert_eq!(judged(set("/missing", -1)).judged_by, applied);
    assert_eq!(judged(set("/e", 5)).judged_by, applied);
    assert_eq!(judged(plain("/x")).judged_by, root, "the parent counts");
    assert_eq!(judged(delete("/x", -1)).judged_by, root);
    assert_eq!(judged(set("/x", 5)).judged_by, grown);
    assert_eq!(judged(set("/a/b", -1)).judged_by, gone);
    // What the multi itself did is not what it was judged by.
    let multi = Request::Multi(vec![set("/e", -1), set("/e", 0)]);
    assert_eq!(judged(multi).judged_by, applied);
    leader.apply_one();
    assert_eq!(leader.write(&client, &set("/x", 5)).unwrap_err().judged_by, grown);
    leader.apply_all();
    let refusal = leader.write(&client, &set("/x", 5)).unwrap_err();
    assert_eq!(refusal.judged_by, leader.state.applied());
}

#[test]
fn a_shard_takes_only_what_lives_in_it() {
    let map = ShardMap::new(4);
    let shard = map.shard_of("/mine");
    assert_ne!(shard, ShardId(0), "the test needs another shard");
    let mut leader = Leader::of(shard, map);
    let mut client = Client::new(SessionId(1));
    client.attachment = Some(Zxid(5));
    // A child of a point is fine in its own shard.
    leader.run(&client, &plain("/mine")).unwrap();
    leader.run(&client, &plain("/zookeeper/quota/mine")).unwrap();
    let foreign = (0..)
        .map(|number| format!("/other{number}"))
        .find(|path| map.shard_of(path) != shard)
        .unwrap();
    for request in [
        plain(&foreign),
        plain("/name-0000000001"),
        sequential("/name-"),
        set("/", -1),
        set_acl("/zookeeper", &OPEN, -1),
        delete("/zookeeper/quota", -1),
        delete(&foreign, -1),
        Request::Multi(vec![check("/", -1)]),
    ] {
        assert_eq!(leader.run(&client, &request), Err(BadArguments), "{request:?}");
    }
    // Shard 0 decides about points, and holds their sequential children.
    let mut first = Leader::of(ShardId(0), map);
    first.run(&client, &set("/", -1)).unwrap();
    first.run(&client, &set_acl("/zookeeper", &OPEN, -1)).unwrap();
    first.run(&client, &sequential("/name-")).unwrap();
}

#[test]
fn points_are_carried_once_and_in_order() {
    let map = ShardMap::new(4);
    let mut leader = Leader::of(ShardId(1), map);
    let closed = [entry(31, "digest", "no:body")];
    let carry = |leader: &mut Leader, point_zxid| {
        let zxid = leader.zxid;
        let acl = &closed;
        let data = [b'0' + u8::try_from(point_zxid).unwrap()];
        let overlay = &mut leader.overlay;
        let made =
            overlay.prepare_point(&leader.state, zxid, "/", Some(&data), acl, Zxid(point_zxid));
        if !made.is_empty() {
            leader.log(SessionId(0), made.clone());
        }
        made.len()
    };
    assert_eq!(carry(&mut leader, 5), 1);
    assert_eq!(carry(&mut leader, 5), 0, "pending already");
    // The pending list binds at once.
    let top = (0..)
        .map(|number| format!("/top{number}"))
        .find(|path| map.shard_of(path) == ShardId(1))
        .unwrap();
    let mut client = Client::new(SessionId(1));
    client.attachment = Some(Zxid(5));
    assert_eq!(leader.write(&client, &plain(&top)).unwrap_err().code, NoAuth);
    leader.apply_all();
    assert_eq!(leader.applied.changes().len(), 0, "watches of a point are shard 0's");
    assert_eq!(carry(&mut leader, 4), 0, "older than known");
    assert_eq!(carry(&mut leader, 6), 1);
    leader.apply_all();
    let tree = leader.state.tree();
    let root = tree.find("/").unwrap();
    assert_eq!((tree.data(root), tree.acl(root)), (Some(b"6".as_slice()), closed.as_slice()));
    assert_eq!(leader.state.point_zxid("/"), Zxid(6));
    // Even if it was logged twice, the older one loses.
    leader.force(vec![Operation::PointSet {
        path: "/".to_string(),
        data: Some(vec![]),
        acl: closed.to_vec(),
        point_zxid: 3,
    }]);
    let tree = leader.state.tree();
    assert_eq!(tree.data(tree.find("/").unwrap()), Some(b"6".as_slice()));
}

#[test]
#[should_panic(expected = "after")]
fn an_entry_is_applied_once() {
    let mut leader = Leader::new();
    let client = leader.client(1);
    leader.write(&client, &plain("/a")).unwrap();
    let entry = leader.pending[0].clone();
    leader.apply_all();
    leader.pending.push_back(entry);
    leader.apply_all();
}
