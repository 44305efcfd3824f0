//! The largest that clients can make, by whatever they do one after the other: it is refused, or it
//! goes through the log, snapshots, transfers and restarts.

mod cluster;

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::ConnectionId;
use pigeonhole_core::base::limits::{ACL_ENTRIES_MAX, FRAME_BYTES_MAX, RECORD_BYTES_MAX};
use pigeonhole_core::op::{Acl, Request, permission};
use pigeonhole_core::shard::PARTITION_POINTS;
use pigeonhole_core::zab::Event;

use cluster::{Cluster, Options, create};

/// `jute.maxbuffer` may be raised beyond what can be logged.
const FRAME_BYTES_RAISED: usize = 2 * RECORD_BYTES_MAX;
const OPEN: Acl<'static> = Acl { permissions: permission::ALL, scheme: "world", id: "anyone" };

fn cluster(shards: u16, frame_bytes_max: usize) -> (Cluster, usize, ConnectionId) {
    let mut cluster = Cluster::new(Options { shards, frame_bytes_max, ..Options::default() });
    let leader = cluster.await_leader();
    let connection = cluster.client(leader);
    (cluster, leader, connection)
}

fn code(cluster: &mut Cluster, at: usize, connection: ConnectionId, request: &Request<'_>) -> i32 {
    cluster.ask(at, connection, request).expect("the connection stays").0
}

fn set_data<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    Request::SetData { path, data: Some(data), version: -1 }
}

/// As many users as a list may have, with names of so many bytes, and everybody.
fn users(name_bytes: usize) -> Vec<String> {
    (1..ACL_ENTRIES_MAX).map(|number| format!("{number:0>name_bytes$}:hash")).collect()
}

fn set_acl<'a>(path: &'a str, users: &'a [String]) -> Request<'a> {
    let user = |id| Acl { permissions: permission::READ, scheme: "digest", id };
    let acl = users.iter().map(|id| user(id.as_str())).chain([OPEN]).collect();
    Request::SetAcl { path, acl, version: -1 }
}

/// The largest number for which the server says yes; one more is refused as bad arguments.
fn most(low: usize, high: usize, mut ask: impl FnMut(usize) -> i32) -> usize {
    let (mut known, mut refused) = (low, high);
    assert_eq!((ask(known), ask(refused)), (0, ErrorCode::BadArguments.wire()));
    while refused - known > 1 {
        let middle = known.midpoint(refused);
        match ask(middle) {
            0 => known = middle,
            code => {
                assert_eq!(code, ErrorCode::BadArguments.wire());
                refused = middle;
            }
        }
    }
    assert_eq!(ask(known), 0);
    known
}

/// Everything is the same on every server: on one that had been sent it as a state, and on all
/// after they were started again.
fn lose_a_disk_and_start_again(cluster: &mut Cluster) {
    cluster.converge();
    let leader = cluster.await_leader();
    let lost = (leader + 1) % 3;
    cluster.crash(lost);
    cluster.replace_disk(lost);
    let connection = cluster.client(leader);
    cluster.write_many(leader, connection, "between", 30);
    cluster.start(lost);
    cluster.converge();
    assert!(cluster.has_event(lost, |event| matches!(event, Event::Installed { .. })));
    for at in 0..3 {
        cluster.crash(at);
    }
    for at in 0..3 {
        cluster.start(at);
    }
    cluster.await_leader();
    cluster.converge();
}

#[test]
fn a_znode_may_have_the_largest_data_and_the_largest_list() {
    let (mut cluster, at, connection) = cluster(1, FRAME_BYTES_RAISED);
    cluster.write(at, connection, &["/large"], 1);
    let data = vec![7; RECORD_BYTES_MAX];
    let bytes = most(1, data.len(), |bytes| {
        code(&mut cluster, at, connection, &set_data("/large", &data[..bytes]))
    });
    assert!(bytes > RECORD_BYTES_MAX - 1000, "{bytes}");
    let name_bytes = most(5, RECORD_BYTES_MAX / ACL_ENTRIES_MAX, |bytes| {
        code(&mut cluster, at, connection, &set_acl("/large", &users(bytes)))
    });
    assert!(name_bytes > 2000, "{name_bytes}");
    // Each alone is a record; both together have to be created by two.
    let (full, half) = (&data[..bytes - 100], &data[..bytes / 2]);
    assert_eq!(code(&mut cluster, at, connection, &create("/full", full)), 0);
    let multi = Request::Multi(vec![create("/a", half), create("/b", full)]);
    let refused = ErrorCode::BadArguments.wire();
    assert_eq!(code(&mut cluster, at, connection, &multi), refused);
    lose_a_disk_and_start_again(&mut cluster);
}

#[test]
fn a_multi_is_as_large_as_a_record() {
    let (mut cluster, at, connection) = cluster(1, FRAME_BYTES_RAISED);
    let data = vec![7; RECORD_BYTES_MAX];
    let paths: Vec<String> = (0..1000).map(|number| format!("/n{number}")).collect();
    let all = Request::Multi(paths.iter().map(|path| create(path, b"")).collect());
    assert_eq!(code(&mut cluster, at, connection, &all), 0);
    let bytes = most(1, RECORD_BYTES_MAX / 1000, |bytes| {
        let sets = paths.iter().map(|path| set_data(path, &data[..bytes]));
        let (code, body) = cluster.ask(at, connection, &Request::Multi(sets.collect())).unwrap();
        let is_refused = code == 0 && body[..4] == (-1_i32).to_be_bytes();
        if is_refused { ErrorCode::BadArguments.wire() } else { code }
    });
    assert!(bytes > 1900, "{bytes}");
    lose_a_disk_and_start_again(&mut cluster);
}

/// What shard 0 decides about a point goes to every shard in one record, data and list together.
#[test]
fn a_point_may_have_half_a_record_of_data_and_half_a_record_of_list() {
    for frame_bytes_max in [FRAME_BYTES_MAX, FRAME_BYTES_RAISED] {
        let (mut cluster, at, connection) = cluster(3, frame_bytes_max);
        let data = vec![7; frame_bytes_max.min(RECORD_BYTES_MAX) - 40];
        for point in PARTITION_POINTS {
            for request in
                [set_data(point, &data), set_acl(point, &users(FRAME_BYTES_MAX / 1024 - 22))]
            {
                let code = code(&mut cluster, at, connection, &request);
                assert!(
                    [ErrorCode::Ok, ErrorCode::BadArguments].map(ErrorCode::wire).contains(&code)
                );
            }
            cluster.converge();
            let bytes = most(1, data.len(), |bytes| {
                code(&mut cluster, at, connection, &set_data(point, &data[..bytes]))
            });
            assert!(bytes > 1_000_000, "{bytes}");
            let name_bytes = most(5, 1000, |bytes| {
                code(&mut cluster, at, connection, &set_acl(point, &users(bytes)))
            });
            assert!(name_bytes > 950, "{name_bytes}");
        }
        cluster.converge();
        lose_a_disk_and_start_again(&mut cluster);
    }
}
