//! The released bytes of everything that storage writes. A difference here is a broken format: old
//! files must stay readable, so a change needs a new version beside the old one.
//!
//! `PIGEONHOLE_GOLDEN=write cargo test -p pigeonhole-tests --test storage_golden` writes the files
//! anew, for formats that have not been released yet.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fmt::Write as _;
use std::path::PathBuf;

use pigeonhole_core::base::id::{
    ChainHash, ClusterId, CoreId, DiskId, Epoch, Sequence, ServerId, ShardId, Zxid,
};
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::control::{Checkpoint, Control, Seal, SnapshotReference, StreamEnd};
use pigeonhole_core::durable::{Append, Record};
use pigeonhole_core::entry::{Entry, EntryKind};
use pigeonhole_storage::disk::{DiskDone, DiskOp, LogBuffer};
use pigeonhole_storage::meta::{Formation, Meta};
use pigeonhole_storage::snapshot::{SnapshotName, SnapshotWriter};
use pigeonhole_storage::wal::{Released, Wal, WalConfig};

const SHARD: ShardId = ShardId(0x0102);

#[test]
fn the_log_is_as_released() {
    let batches = batches();
    assert_eq!(batches.len(), 3, "an opening, the records, a seal");
    for (name, batch) in ["log_opening", "log_records", "log_seal"].into_iter().zip(&batches) {
        check(name, batch);
    }
}

#[test]
fn meta_is_as_released() {
    let meta = Meta {
        cluster: ClusterId(0x1011_1213_1415_1617_1819_1a1b_1c1d_1e1f),
        state: Formation::Formed,
        server: ServerId(3),
        disk: DiskId(0x2021_2223_2425_2627_2829_2a2b_2c2d_2e2f),
        is_founder: false,
        shards: 8,
        session_base_ms: 0x0001_0203_0405_0607,
    };
    check("meta", &meta.encode());
    // Format 1 said nothing about founders, because there were no others.
    let founder = Meta { is_founder: true, ..meta };
    assert_eq!(Meta::decode(&golden("meta_1")), Ok(founder));
}

#[test]
fn a_snapshot_is_as_released() {
    let mut file = Vec::new();
    let zxid = Zxid::new(Epoch(2), 3);
    let mut writer = SnapshotWriter::new(SHARD, zxid, ChainHash(0x55), &mut file);
    writer.chunk(b"the first chunk", &mut file);
    writer.chunk(b"the second", &mut file);
    let reference = writer.finish(&mut file);
    check("snapshot", &file);
    assert_eq!(
        SnapshotName::new(SHARD, &reference).file_name(),
        "0102-0000000200000003-62ac53008cf2fdd502fc443933e94737.snapshot"
    );
}

/// The first three writes of a log that has something of everything.
fn batches() -> Vec<Vec<u8>> {
    let mut wal = new_wal();
    let mut batches = perform(&mut wal, Instant(0));
    for (sequence, record) in (0x77..).map(Sequence).zip(records()) {
        let riders = Vec::new();
        wal.append(Append { shard: SHARD, sequence, record, riders });
    }
    wal.note_committed(ShardId(4), Zxid(5));
    wal.turn_end(Instant(0));
    batches.extend(perform(&mut wal, Instant(0)));
    wal.turn_end(Instant(5000));
    batches.extend(perform(&mut wal, Instant(5000)));
    batches
}

/// A log of boot 9 on core 2, after older ones.
fn new_wal() -> Wal {
    let reference = |zxid| SnapshotReference {
        zxid,
        hash: 0xa0 + u128::from(zxid),
        digest: 0xd0 + u128::from(zxid),
    };
    let tail = Zxid::new(Epoch(4), 9);
    let checkpoint = Checkpoint {
        shard: SHARD.0,
        next_sequence: 0x77,
        accepted_epoch: 5,
        current_epoch: 4,
        tail_zxid: tail.0,
        tail_hash: 0x99,
        committed_zxid: tail.0 - 1,
        snapshot: reference(7),
        snapshot_before: reference(3),
        unknown: true,
    };
    let seal = Seal { streams: vec![StreamEnd { boot: 8, core: 1, batch: 6, hash: 0xbb }] };
    let config = WalConfig { segment_bytes: 1 << 20, seal_delay: Duration::from_ms(5) };
    let other = Checkpoint { tail_zxid: 6, committed_zxid: 4, ..Checkpoint::empty(ShardId(4)) };
    let secret = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
    let mut wal = Wal::new(config, 9, CoreId(2), secret, vec![checkpoint, other], seal);
    for id in 0..2 {
        let bytes = Box::leak(vec![0xcc; 1 << 16].into_boxed_slice());
        wal.lend(LogBuffer { id, bytes });
    }
    wal
}

/// An epoch, a write that is taken back, and two snapshots.
fn records() -> Vec<Record> {
    let entry =
        Entry::new(EntryKind::EpochStart, SHARD, Zxid::new(Epoch(5), 1), ChainHash(0x99), b"");
    let txn = Entry::new(EntryKind::Txn, SHARD, entry.zxid().next(), entry.hash(), b"payload");
    let (zxid, hash) = (entry.zxid().0, entry.hash().0);
    vec![
        Record::Control(Control::AcceptedEpoch { epoch: 6 }),
        Record::Entry(entry),
        Record::Control(Control::CurrentEpoch { epoch: 5 }),
        Record::Entry(txn),
        Record::Control(Control::Truncate { zxid, hash }),
        Record::Control(Control::SnapshotTaken { zxid, hash, digest: 1 }),
        Record::Control(Control::Install { zxid: zxid + 9, hash: 2, digest: 3 }),
    ]
}

/// Carries everything out and returns what was written.
fn perform(wal: &mut Wal, now: Instant) -> Vec<Vec<u8>> {
    let mut written = Vec::new();
    while let Some(operation) = wal.next_op() {
        let done = match operation {
            DiskOp::Write { segment, offset, length, buffer } => {
                written.push(buffer.bytes[..usize::try_from(length).unwrap()].to_vec());
                DiskDone::Write { segment, offset, buffer }
            }
            DiskOp::PrepareSegment { segment, .. } => DiskDone::PrepareSegment { segment },
            DiskOp::RetireSegment { segment } => DiskDone::RetireSegment { segment },
        };
        wal.on_done(done, now, &mut Released::default());
    }
    written
}

/// The bytes of a golden file.
fn golden(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(path_of(name)).unwrap();
    let (lines, zeros) = text.trim_end().rsplit_once("\nand ").unwrap();
    let digits: Vec<u8> = lines.bytes().filter(|byte| *byte != b'\n').collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    let mut bytes: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    let zeros: usize = zeros.strip_suffix(" zeros").unwrap().parse().unwrap();
    bytes.resize(bytes.len() + zeros, 0);
    bytes
}

fn path_of(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/storage");
    directory.join(name).with_extension("hex")
}

/// Compares with the golden file: 32 bytes a line in hexadecimal, zeros at the end as a count.
fn check(name: &str, bytes: &[u8]) {
    let path = path_of(name);
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut text = String::new();
    for line in bytes[..end].chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    writeln!(text, "and {} zeros", bytes.len() - end).unwrap();
    if std::env::var("PIGEONHOLE_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{} is not what was released", path.display());
}
