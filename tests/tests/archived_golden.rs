//! The released bytes of everything that is archived: transactions in the log, messages to peers.
//! A difference here means that an old log, or a server of another version, is misread: a change
//! needs a new variant behind the old ones.
//!
//! `PIGEONHOLE_GOLDEN=write cargo test -p pigeonhole-tests --test archived_golden` writes the files
//! anew, for formats that have not been released yet.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fmt::{Debug, Write as _};
use std::path::PathBuf;

use pigeonhole_core::base::id::{ClusterId, CoreId, DiskId, ServerId, ShardId};
use pigeonhole_core::peer::codec::{encode_hello, encode_message};
use pigeonhole_core::peer::hello::{Formation, Hello};
use pigeonhole_core::peer::message::{
    EpochEnd, Forward, PeerMessage, PeerState, Refused, Seen, SeenShard, Touched, Vote, WriteAsk,
};
use pigeonhole_core::txn::{AclEntry, Admission, Admissions, Operation, Origin, Txn};

const ORIGIN: Origin =
    Origin { server: 3, core: 1, incarnation: 0x0102_0304_0506_0708, ticket: 0x1112_1314 };
const SESSION: u64 = 0x0300_0000_0000_0009;
const ZXID: u64 = 0x0000_0005_0000_0021;
const END: EpochEnd = EpochEnd { zxid: ZXID, hash: 0xabcd_ef01 << 64 };

#[test]
fn transactions_are_as_released() {
    let mut lines = Vec::new();
    for operation in operations() {
        let name = name_of(&operation);
        let operations = vec![operation];
        let txn = Txn { origin: ORIGIN, session: SESSION, time_ms: 1_700_000_000_123, operations };
        lines.push((name, txn.to_bytes().to_vec()));
    }
    let voters = vec![Admission { server: 2, disk: 0x77 << 100 }];
    lines.push(("Admissions".to_owned(), Admissions { voters }.to_bytes().to_vec()));
    check("transactions", &lines);
}

#[test]
fn messages_are_as_released() {
    let forwards = asks().into_iter().map(|ask| {
        let name = format!("Forward.{}", name_of(&ask));
        let forward = Forward {
            epoch: 5,
            origin: ORIGIN,
            session: SESSION,
            generation: 2,
            attachment_zxid: ZXID,
            identities: vec![1, 2, 3],
            ask,
        };
        (name, PeerMessage::Forward(forward))
    });
    let others = founding().into_iter().chain(serving());
    let others = others.map(|message| (name_of(&message), message));
    let lines: Vec<(String, Vec<u8>)> = others
        .chain(forwards)
        .map(|(name, message)| {
            let mut bytes = Vec::new();
            encode_message(ShardId(7), &message, &mut bytes);
            (name, bytes)
        })
        .collect();
    check("messages", &lines);
}

/// The first frame of a link is no archive: its bytes have fixed places.
#[test]
fn the_hello_is_as_released() {
    let hello = |formation| Hello {
        version_min: 1,
        version_max: 2,
        from: ServerId(3),
        to: ServerId(4),
        from_core: CoreId(5),
        to_core: CoreId(6),
        cores: 7,
        formation,
        shards: 8,
        cluster: ClusterId(0x77 << 100),
        disk: DiskId(0x99 << 100),
        incarnation: 0x0102_0304_0506_0708,
    };
    let stages = [Formation::Empty, Formation::Forming, Formation::Formed];
    let lines = stages.map(|formation| {
        let mut bytes = Vec::new();
        encode_hello(&hello(formation), &mut bytes);
        (format!("Hello.{formation:?}"), bytes)
    });
    check("hello", &lines);
}

/// One of each. A new variant belongs here, and its bytes into the golden file.
fn operations() -> Vec<Operation> {
    let (session, generation, path) = (SESSION, 2, || "/a/b".to_owned());
    let data = || Some(b"data".to_vec());
    vec![
        Operation::Create {
            path: path(),
            data: data(),
            acl: acl(),
            ephemeral_owner: SESSION,
            parent_cversion: 4,
            with_stat: true,
        },
        Operation::Delete { path: path() },
        Operation::SetData { path: path(), data: None, version: 6 },
        Operation::SetAcl { path: path(), acl: acl(), version: 7 },
        Operation::Check,
        Operation::SessionCreate { session, password: [9; 16], timeout_ms: 6000 },
        Operation::SessionRenew { session, generation },
        Operation::SessionAttach { session, shard: 7 },
        Operation::SessionClosing { session },
        Operation::SessionEnd { session },
        Operation::SessionOpen { session, generation, home_zxid: ZXID },
        Operation::SessionAdvance { session, generation },
        Operation::SessionFence { session },
        Operation::SessionPurge { session, paths: vec![path()], last: true },
        Operation::SessionFloor { home: 3, home_zxid: ZXID },
        Operation::PointSet { path: path(), data: data(), acl: acl(), point_zxid: ZXID },
    ]
}

fn asks() -> Vec<WriteAsk> {
    let (session, generation, home_zxid) = (SESSION, 2, ZXID);
    vec![
        WriteAsk::Client { op_code: 5, body: b"body".to_vec() },
        WriteAsk::SessionCreate { session, password: [9; 16], timeout_ms: 6000 },
        WriteAsk::SessionRenew { session, password: vec![9; 16] },
        WriteAsk::SessionAttach { session, generation, shard: 7 },
        WriteAsk::SessionClose { session, generation },
        WriteAsk::SessionOpen { session, generation, home_zxid },
        WriteAsk::SessionFence { session, home_zxid },
        WriteAsk::SessionPurge { session },
        WriteAsk::SessionFloor { home: 3, home_zxid },
        WriteAsk::PointSet { path: "/".to_owned(), data: None, acl: acl(), point_zxid: ZXID },
        WriteAsk::SnapshotPoint,
    ]
}

/// Messages with which a leader is found and learners are brought to its history.
fn founding() -> Vec<PeerMessage> {
    let (attempt, epoch, zxid) = (1, 5, ZXID);
    let vote = Vote {
        round: 8,
        state: PeerState::Following,
        leader: 3,
        epoch,
        zxid,
        established: true,
        counts: true,
        is_willing: false,
    };
    vec![
        PeerMessage::Vote(vote),
        PeerMessage::FollowerInfo {
            attempt,
            accepted_epoch: 4,
            disk: 0x77 << 100,
            is_founder: true,
            is_whole: false,
        },
        PeerMessage::LeaderInfo { attempt, epoch },
        PeerMessage::AckEpoch {
            attempt,
            epoch,
            counted: true,
            current_epoch: 4,
            tail: END,
            committed_zxid: ZXID - 1,
            index: vec![END],
        },
        PeerMessage::SyncDiff { attempt, epoch, tail: END },
        PeerMessage::SyncTruncate { attempt, epoch, to: END },
        PeerMessage::SyncSnapshot { attempt, epoch, at: END },
        PeerMessage::SnapshotChunk { epoch, index: 2, last: true, bytes: b"chunk".to_vec() },
        PeerMessage::SnapshotChunkAck { epoch, index: 2 },
        PeerMessage::NewLeader { epoch, tail: END },
        PeerMessage::AckLeader { epoch, zxid },
        PeerMessage::UpToDate { epoch, committed_zxid: ZXID },
    ]
}

/// Messages of an epoch that has begun.
fn serving() -> Vec<PeerMessage> {
    let (epoch, zxid, origin) = (5, ZXID, ORIGIN);
    let seen = || Seen { counter: 12, shards: vec![SeenShard { shard: 7, zxid }] };
    let touched = Touched { session: SESSION, generation: 2, is_alive: true, seen: Some(seen()) };
    let refused = Refused { origin, code: -101, zxid, multi: vec![0, -101] };
    let recall = PeerMessage::Recall { origin, session: SESSION, generation: 2, counter: 12 };
    vec![
        PeerMessage::Propose { epoch, committed_zxid: ZXID - 1, entries: b"entries".to_vec() },
        PeerMessage::Ack { epoch, zxid },
        PeerMessage::Commit { epoch, zxid },
        PeerMessage::Confirm { epoch, round: 6 },
        PeerMessage::ConfirmAck { epoch, round: 6 },
        PeerMessage::Refused(refused),
        PeerMessage::NotProposed { origin },
        PeerMessage::ReadIndex { origin },
        PeerMessage::ReadIndexAt { origin, zxid },
        PeerMessage::Touch { origin, sessions: vec![touched] },
        PeerMessage::TouchAck { origin, expired: vec![SESSION] },
        recall,
        PeerMessage::Recalled { origin, seen: vec![seen()] },
        PeerMessage::Error { text: "why".to_owned() },
        PeerMessage::CommitOnceDurable { epoch, zxid },
        PeerMessage::Digest { zxid, digest: 0x99 << 100 },
        PeerMessage::Diverged { zxid },
    ]
}

fn acl() -> Vec<AclEntry> {
    let (scheme, id) = ("world".to_owned(), "anyone".to_owned());
    vec![AclEntry { permissions: 31, scheme, id }]
}

/// The variant, as the source names it.
fn name_of(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    let name = text.split(|it: char| !it.is_alphanumeric()).next();
    name.unwrap().to_owned()
}

/// Compares with the golden file, a line for each variant.
fn check(name: &str, lines: &[(String, Vec<u8>)]) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/archived");
    let path = directory.join(name).with_extension("txt");
    let mut text = String::new();
    for (name, bytes) in lines {
        write!(text, "{name} ").unwrap();
        for byte in bytes {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    if std::env::var("PIGEONHOLE_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (ours, released) in text.lines().zip(golden.lines()) {
        assert_eq!(ours, released, "{} is not what was released", path.display());
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "{}", path.display());
}
