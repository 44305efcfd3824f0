//! Snapshots, the identity of a directory, and what may be removed.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{
    ChainHash, ClusterId, CoreId, DiskId, Sequence, ServerId, ShardId, Zxid,
};
use pigeonhole_core::base::limits::SNAPSHOT_CHUNK_BYTES;
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::control::{Checkpoint, SnapshotReference};
use pigeonhole_storage::disk::SegmentId;
use pigeonhole_storage::meta::{Formation, Meta, MetaError};
use pigeonhole_storage::retain::{Holdings, Retention, retain};
use pigeonhole_storage::segment::{LiveSegment, ShardSpan};
use pigeonhole_storage::snapshot::{
    PublishStep, SnapshotError, SnapshotName, SnapshotReader, SnapshotWriter, publish,
};

const SHARD: ShardId = ShardId(1);

fn snapshot(chunks: &[Vec<u8>]) -> (Vec<u8>, SnapshotReference) {
    let mut file = Vec::new();
    let mut writer = SnapshotWriter::new(SHARD, Zxid(9), ChainHash(4), &mut file);
    for chunk in chunks {
        writer.chunk(chunk, &mut file);
    }
    let reference = writer.finish(&mut file);
    (file, reference)
}

/// Reads a file in pieces of the given size.
fn read(
    file: &[u8],
    piece: usize,
) -> Result<(Vec<Vec<u8>>, ShardId, SnapshotReference), SnapshotError> {
    let mut reader = SnapshotReader::default();
    let mut chunks = Vec::new();
    for bytes in file.chunks(piece) {
        reader.push(bytes);
        while let Some(chunk) = reader.next_chunk()? {
            chunks.push(chunk.to_vec());
        }
    }
    let (shard, reference) = reader.finish()?;
    Ok((chunks, shard, reference))
}

#[test]
fn a_snapshot_reads_back_in_pieces_of_any_size() {
    let chunks = [vec![1; SNAPSHOT_CHUNK_BYTES], vec![2; 1000], vec![3; 1]];
    let (file, reference) = snapshot(&chunks);
    for piece in [1000, 4096, 100_001, file.len()] {
        let (found, shard, same) = read(&file, piece).unwrap();
        assert_eq!((&found[..], shard, same), (&chunks[..], SHARD, reference));
    }
    let (empty, reference) = snapshot(&[]);
    assert_eq!(read(&empty, 7).unwrap(), (Vec::new(), SHARD, reference));
}

#[test]
fn no_changed_byte_of_a_snapshot_goes_unnoticed() {
    let (file, _) = snapshot(&[vec![1; 300], vec![2; 100]]);
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 0x10;
        assert!(read(&changed, 64).is_err(), "byte {at}");
    }
    for length in 0..file.len() {
        assert!(read(&file[..length], 64).is_err(), "cut to {length}");
    }
    let longer = [&file[..], b"x"].concat();
    assert_eq!(read(&longer, longer.len()).unwrap_err(), SnapshotError::Damaged);
    assert_eq!(read(&longer, 1).unwrap_err(), SnapshotError::Damaged);
}

#[test]
fn noise_is_not_a_snapshot() {
    let mut random = Prng::new(5);
    let (file, _) = snapshot(&[vec![1; 3000]]);
    for _ in 0..2000 {
        let mut noise = file.clone();
        let from = usize::try_from(random.below(file.len() as u64)).unwrap();
        noise[from..].fill_with(|| u8::try_from(random.below(256)).unwrap());
        assert!(read(&noise, 512).is_err() || noise == file);
    }
}

#[test]
fn a_snapshot_is_published_after_it_was_read_back() {
    let (_, reference) = snapshot(&[vec![1; 10]]);
    let name = SnapshotName::new(SHARD, &reference);
    assert_eq!(SnapshotName::from_file_name(&name.file_name()), Some(name));
    assert_eq!(SnapshotName::from_file_name("1-2-3.snapshot"), None);
    let steps = publish(SHARD, &reference);
    assert!(matches!(&steps[0], PublishStep::SyncFile { .. }));
    assert!(matches!(&steps[1], PublishStep::ReadBack { expected, .. } if *expected == reference));
    assert!(matches!(&steps[2], PublishStep::Rename { to, .. } if *to == name.file_name()));
    assert_eq!(steps[3], PublishStep::SyncDirectory);
}

fn meta() -> Meta {
    Meta {
        cluster: ClusterId(1 << 100),
        state: Formation::Forming,
        server: ServerId(254),
        disk: DiskId(7),
        is_founder: true,
        shards: 8,
        session_base_ms: 1 << 40,
    }
}

/// The ids of a boot may have run ahead of the clock, and the clock may be put back.
#[test]
fn a_boot_begins_beyond_the_session_ids_of_the_last_one() {
    const SESSIONS: u64 = 1 << 32;
    let clock_ms = 1_700_000_000_000;
    let first = Meta { session_base_ms: clock_ms, ..meta() };
    for later_ms in [0, clock_ms - 1, clock_ms, clock_ms + 1] {
        // 65,536 ids for each millisecond.
        let ids = (first.next_session_base_ms(later_ms) - clock_ms) << 16;
        assert!(ids >= SESSIONS, "{ids} at {later_ms}");
    }
    assert_eq!(first.next_session_base_ms(clock_ms + 86_400_000), clock_ms + 86_400_000);
}

#[test]
fn no_changed_byte_of_meta_goes_unnoticed() {
    let meta = meta();
    let bytes = meta.encode();
    assert_eq!(Meta::decode(&bytes), Ok(meta));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(Meta::decode(&changed).is_err(), "byte {at}");
    }
    for length in 0..bytes.len() {
        assert!(Meta::decode(&bytes[..length]).is_err(), "cut to {length}");
    }
    let later = Meta { is_founder: false, ..meta };
    assert_eq!(Meta::decode(&later.encode()), Ok(later));
    let mut newer = bytes;
    newer[6] = 3;
    let hash = xxhash_rust::xxh3::xxh3_128(&newer[..64]);
    newer[64..80].copy_from_slice(&hash.to_le_bytes());
    let refused = MetaError::Newer { found: 3, supported: 2 };
    assert_eq!(Meta::decode(&newer), Err(refused));
}

fn segment(boot: u64, number: u64, entries: &[(u16, u64)]) -> LiveSegment {
    let span = |&(shard, zxid): &(u16, u64)| {
        let span = ShardSpan { first: Sequence(1), last: Sequence(1), zxid_max: Zxid(zxid) };
        (ShardId(shard), span)
    };
    LiveSegment {
        id: SegmentId { boot, core: CoreId(0), number },
        bytes: 100,
        spans: entries.iter().map(span).collect::<BTreeMap<_, _>>(),
    }
}

fn checkpoint(shard: u16, before: u64, newest: u64) -> Checkpoint {
    let reference = |zxid| SnapshotReference { zxid, hash: 0, digest: u128::from(zxid) };
    Checkpoint {
        snapshot: reference(newest),
        snapshot_before: reference(before),
        ..Checkpoint::empty(ShardId(shard))
    }
}

fn decide(checkpoints: &[Checkpoint], segments: &[LiveSegment], log_bytes_max: u64) -> Retention {
    retain(&Holdings { boot: 5, checkpoints, segments, snapshots: &[], log_bytes_max })
}

fn numbers(retention: &Retention) -> Vec<(u64, u64)> {
    retention.segments.iter().map(|(id, _)| (id.boot, id.number)).collect()
}

#[test]
fn segments_go_in_order_back_to_the_older_snapshot() {
    let log = [
        segment(5, 1, &[(0, 10)]),
        segment(5, 2, &[(0, 20), (1, 5)]),
        segment(5, 3, &[(0, 25)]),
        segment(5, 4, &[]),
    ];
    let both = [checkpoint(0, 30, 40), checkpoint(1, 5, 6)];
    assert_eq!(numbers(&decide(&both, &log, 0)), [(5, 1), (5, 2), (5, 3)], "the last one stays");
    let pinned = decide(&[checkpoint(0, 30, 40), checkpoint(1, 4, 6)], &log, 200);
    assert_eq!(numbers(&pinned), [(5, 1)]);
    assert_eq!(pinned.pinned_by, Some(ShardId(1)), "300 bytes are kept");
    assert_eq!(decide(&[checkpoint(0, 30, 40), checkpoint(1, 4, 6)], &log, 300).pinned_by, None);
    assert_eq!(numbers(&decide(&[checkpoint(0, 30, 40)], &log, 0)), [(5, 1)], "shard 1 is unclear");
}

#[test]
fn the_seal_stays_while_older_streams_do() {
    let log = [segment(4, 1, &[(0, 50)]), segment(5, 1, &[]), segment(5, 2, &[])];
    let needed = [checkpoint(0, 40, 60)];
    assert_eq!(numbers(&decide(&needed, &log, 0)), []);
    let unneeded = [checkpoint(0, 50, 60)];
    assert_eq!(numbers(&decide(&unneeded, &log, 0)), [(4, 1)]);
    assert_eq!(numbers(&decide(&unneeded, &log[1..], 0)), [(5, 1)]);
}

#[test]
fn two_named_snapshots_are_kept_and_a_coming_one() {
    let name =
        |zxid: u64| SnapshotName { shard: ShardId(0), zxid: Zxid(zxid), digest: u128::from(zxid) };
    let stray = SnapshotName { digest: 1, ..name(20) };
    let retention = retain(&Holdings {
        boot: 5,
        checkpoints: &[checkpoint(0, 10, 20)],
        segments: &[segment(5, 1, &[])],
        snapshots: &[name(5), name(10), name(15), name(20), stray, name(25)],
        log_bytes_max: 1000,
    });
    assert_eq!(retention.snapshots, [name(5), name(15), stray]);
}
