//! Ensembles of real processes that found their cluster by themselves, and servers that may not.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::time::{Duration, Instant};

use pigeonhole_core::base::id::{ClusterId, DiskId, ServerId};
use pigeonhole_storage::meta::{Formation, Meta};
use pigeonhole_tests::caller::Caller;
use pigeonhole_tests::servers::{Program, Servers};

#[test]
fn servers_that_are_started_one_by_one_wait_for_the_last() {
    let mut ensemble = PROGRAM.ensemble("one-by-one", 3, "");
    ensemble.start(1);
    ensemble.wait_until_said(1, "waiting for server 2 and server 3;");
    ensemble.start(2);
    ensemble.wait_until_said(2, "waiting for server 3;");
    for server in [1, 2] {
        assert_eq!(ensemble.word(server, "srvr").unwrap(), NOT_SERVING);
        assert_eq!(meta(&ensemble, server), None, "nothing is written yet");
        assert!(Caller::connect(ensemble.port(server)).is_err());
    }
    let begun = Instant::now();
    ensemble.start(3);
    ensemble.client(3).create("/first", b"");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    check_one_cluster(&ensemble);
    assert_eq!(ensemble.terminate(2).code(), Some(0));
    ensemble.start(2);
    find(&mut ensemble.client(2), "/first");
}

#[test]
fn a_kill_while_they_form_changes_nothing() {
    // Each of them is killed as soon as the first trace of a cluster is on somebody's disk.
    for victim in 1..=3 {
        for watched in 1..=3 {
            let mut ensemble = PROGRAM.ensemble("kill", 3, "");
            ensemble.start_all();
            ensemble.wait_until(|ensemble| meta(ensemble, watched).is_some());
            ensemble.kill(victim);
            ensemble.start(victim);
            ensemble.client(victim).create("/first", b"");
            check_one_cluster(&ensemble);
        }
    }
}

#[test]
fn a_server_whose_directory_is_gone_takes_everything_from_the_others() {
    let mut ensemble = PROGRAM.ensemble("gone", 3, "");
    ensemble.start_all();
    ensemble.client(1).create("/kept", b"");
    let before = check_one_cluster(&ensemble);
    ensemble.lose_data(2);
    ensemble.start(2);
    find(&mut ensemble.client(2), "/kept");
    assert_eq!(check_one_cluster(&ensemble), before);
    assert!(!meta(&ensemble, 2).unwrap().is_founder, "others have to admit its new disk");
    // It counts again: with it, the third one is not needed.
    ensemble.client(1).create("/with-three", b"");
    ensemble.kill(3);
    ensemble.client(1).create("/without-the-third", b"");
    assert_eq!(ensemble.terminate(2).code(), Some(0));
}

#[test]
fn a_majority_of_lost_disks_is_no_new_cluster() {
    let mut ensemble = PROGRAM.ensemble("majority", 3, "");
    ensemble.start_all();
    ensemble.client(1).create("/kept", b"");
    let before = check_one_cluster(&ensemble);
    for server in [1, 2] {
        ensemble.lose_data(server);
    }
    for server in [1, 2] {
        ensemble.start(server);
    }
    for server in [1, 2] {
        ensemble.wait_until_said(server, "this server does not take part");
        ensemble.wait_until_said(server, &format!("format <zoo.cfg> --cluster {before}"));
        assert_eq!(ensemble.word(server, "srvr").unwrap(), NOT_SERVING);
    }
    assert_eq!((meta(&ensemble, 1), meta(&ensemble, 2)), (None, None));
    assert_eq!(meta(&ensemble, 3).unwrap().cluster, before);
    assert!(!ensemble.serves(3), "it leads nobody");
}

#[test]
fn an_observer_follows_whatever_the_voters_have_founded() {
    let mut ensemble = PROGRAM.ensemble_with_observers("observer", 3, 1, "");
    ensemble.start(4);
    ensemble.wait_until_said(4, "waiting for server 1, server 2 and server 3;");
    for server in [3, 1, 2] {
        ensemble.start(server);
    }
    ensemble.client(2).create("/first", b"");
    find(&mut ensemble.client(4), "/first");
    check_one_cluster(&ensemble);
}

#[test]
fn an_ensemble_of_one_and_one_of_five_form() {
    for voters in [1, 5] {
        let mut ensemble = PROGRAM.ensemble("size", voters, "");
        ensemble.start_all();
        for server in 1..=voters {
            ensemble.client(server).create(&format!("/by-{server}"), b"");
        }
        check_one_cluster(&ensemble);
    }
}

#[test]
fn a_server_with_other_voters_is_told() {
    let mut ensemble = PROGRAM.ensemble("other", 3, "");
    let config = fs::read_to_string(ensemble.config(2)).unwrap();
    let fewer = config.replace("server.3", "#server.3");
    fs::write(ensemble.config(2), fewer).unwrap();
    ensemble.start(1);
    ensemble.start(2);
    ensemble.wait_until_said(1, "server 2 has other voters in its configuration");
    assert_eq!((meta(&ensemble, 1), meta(&ensemble, 2)), (None, None));
}

#[test]
fn a_nonce_that_was_logged_but_not_formed_may_be_formatted_over() {
    let ensemble = PROGRAM.ensemble("format", 3, "");
    let forming = Meta {
        cluster: ClusterId(7),
        state: Formation::Forming,
        server: ServerId(1),
        disk: DiskId(8),
        is_founder: true,
        shards: 1,
        session_base_ms: 0,
    };
    fs::write(ensemble.data(1).join("meta"), forming.encode()).unwrap();
    let format = |id: &str| ensemble.format(1, &["--cluster", id]).0.code();
    let (one, other) = ("1".repeat(32), "2".repeat(32));
    assert_eq!(format(&one), Some(0));
    assert_eq!(format(&other), Some(3), "it is a member now");
    let formed = meta(&ensemble, 1).unwrap();
    assert_eq!(formed.cluster.to_string(), one);
}

/// All servers are members of one cluster: which one.
fn check_one_cluster(ensemble: &Servers) -> ClusterId {
    ensemble.wait_until(|ensemble| {
        let formed = |id| {
            let meta = meta(ensemble, id);
            meta.is_some_and(|meta| meta.state == Formation::Formed)
        };
        ensemble.ids().all(formed)
    });
    let cluster = meta(ensemble, 1).unwrap().cluster;
    for id in ensemble.ids() {
        assert_eq!(meta(ensemble, id).unwrap().cluster, cluster, "server {id}");
    }
    cluster
}

fn meta(ensemble: &Servers, server: u8) -> Option<Meta> {
    let bytes = fs::read(ensemble.data(server).join("meta")).ok()?;
    Some(Meta::decode(&bytes).unwrap())
}

/// The server has whatever was written before.
fn find(caller: &mut Caller, path: &str) {
    caller.sync();
    assert!(caller.exists(path), "{path}");
}

const PROGRAM: Program =
    Program { path: env!("CARGO_BIN_EXE_server"), directory: env!("CARGO_TARGET_TMPDIR") };
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";
