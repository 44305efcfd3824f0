//! Group commit, riders, seals and stalls, one at a time.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use pigeonhole_core::base::id::{
    ChainHash, CoreId, Epoch, LinkId, Sequence, ServerId, ShardId, Zxid,
};
use pigeonhole_core::base::limits::{LOG_BUFFER_BYTES, RECORD_BYTES_MAX};
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::control::{Checkpoint, Control, Seal};
use pigeonhole_core::durable::{Append, Record, Rider};
use pigeonhole_core::entry::{ENTRY_HEADER_BYTES, Entry, EntryKind};
use pigeonhole_storage::disk::{DiskDone, DiskOp, LogBuffer, SegmentId};
use pigeonhole_storage::recover::{RecoverConfig, RecoverError, recover};
use pigeonhole_storage::scan::{Ending, Unreadable};
use pigeonhole_storage::wal::{Released, Wal, WalConfig};

const SHARD: ShardId = ShardId(3);
const START: Instant = Instant(1_000_000);

fn wal(segment_bytes: u64, buffer_bytes: usize) -> Wal {
    let config = WalConfig { segment_bytes, ..WalConfig::default() };
    let checkpoints = vec![Checkpoint::empty(SHARD)];
    let mut wal = Wal::new(config, 1, CoreId(0), 77, checkpoints, Seal::default());
    for id in 0..2 {
        let bytes = Box::leak(vec![0xaa; buffer_bytes].into_boxed_slice());
        wal.lend(LogBuffer { id, bytes });
    }
    wal
}

/// A log whose first batch is durable and which has a segment ready ahead.
fn open_wal() -> Wal {
    let mut wal = wal(1 << 20, 64 << 10);
    let operation = wal.next_op().unwrap();
    finish(&mut wal, operation);
    let operation = wal.next_op().unwrap();
    assert!(matches!(operation, DiskOp::Write { offset: 0, .. }), "{operation:?}");
    assert!(!wal.is_open());
    finish(&mut wal, operation);
    assert!(wal.is_open());
    let operation = wal.next_op().unwrap();
    assert!(matches!(operation, DiskOp::PrepareSegment { segment, .. } if segment.number == 2));
    finish(&mut wal, operation);
    assert!(wal.next_op().is_none());
    wal
}

fn finish(wal: &mut Wal, operation: DiskOp) -> Released {
    let done = match operation {
        DiskOp::Write { segment, offset, buffer, .. } => {
            DiskDone::Write { segment, offset, buffer }
        }
        DiskOp::PrepareSegment { segment, .. } => DiskDone::PrepareSegment { segment },
        DiskOp::RetireSegment { segment } => DiskDone::RetireSegment { segment },
    };
    let mut released = Released::default();
    wal.on_done(done, START, &mut released);
    released
}

fn accepted(sequence: u64, riders: Vec<Rider>) -> Append {
    let epoch = u32::try_from(sequence).unwrap();
    Append {
        shard: SHARD,
        sequence: Sequence(sequence),
        record: Record::Control(Control::AcceptedEpoch { epoch }),
        riders,
    }
}

fn rider(peer: u8, cumulative: bool, frame: &[u8]) -> Rider {
    Rider {
        link: LinkId { peer: ServerId(peer), core: CoreId(0), incarnation: 1 },
        cumulative,
        frame: frame.to_vec(),
    }
}

fn marks(released: &Released) -> Vec<u64> {
    released.marks.iter().map(|mark| mark.value().sequence.0).collect()
}

#[test]
fn an_idle_log_writes_at_the_end_of_the_turn() {
    let mut wal = open_wal();
    wal.append(accepted(1, Vec::new()));
    assert!(wal.next_op().is_none(), "the turn may append more");
    wal.append(accepted(2, Vec::new()));
    wal.turn_end(START);
    let operation = wal.next_op().unwrap();
    let released = finish(&mut wal, operation);
    assert_eq!(marks(&released), [2], "one mark says it for both");
}

#[test]
fn what_is_appended_during_a_write_goes_when_it_is_done() {
    let mut wal = open_wal();
    wal.append(accepted(1, Vec::new()));
    wal.turn_end(START);
    let first = wal.next_op().unwrap();
    wal.append(accepted(2, Vec::new()));
    wal.turn_end(START);
    wal.append(accepted(3, Vec::new()));
    wal.turn_end(START);
    assert!(wal.next_op().is_none(), "one write at a time");
    assert_eq!(marks(&finish(&mut wal, first)), [1]);
    let second = wal.next_op().unwrap();
    assert_eq!(marks(&finish(&mut wal, second)), [3]);
}

#[test]
fn riders_leave_after_the_sync_in_append_order() {
    let mut wal = open_wal();
    wal.append(accepted(1, vec![rider(1, true, b"a1"), rider(2, false, b"b1")]));
    wal.append(accepted(2, vec![rider(2, true, b"b2"), rider(1, true, b"a2")]));
    wal.append(accepted(3, vec![rider(2, false, b"b3")]));
    wal.turn_end(START);
    let operation = wal.next_op().unwrap();
    let released = finish(&mut wal, operation);
    let frames: Vec<_> = released.frames.iter().map(|(_, frame)| frame.as_slice()).collect();
    // The second rider to server 1 says all that the first one said.
    assert_eq!(frames, [&b"b1"[..], b"b2", b"a2", b"b3"]);
}

#[test]
fn a_seal_follows_the_last_write_and_nothing_follows_a_seal() {
    let mut wal = open_wal();
    let delay = Duration::from_ms(5);
    assert_eq!(wal.deadline(), Some(START + delay), "the first batch is sealed as well");
    wal.append(accepted(1, Vec::new()));
    assert_eq!(wal.deadline(), None, "the turn's end comes anyway");
    wal.turn_end(START);
    let operation = wal.next_op().unwrap();
    assert_eq!(wal.deadline(), None);
    finish(&mut wal, operation);
    wal.turn_end(START);
    assert!(wal.next_op().is_none(), "not before the delay is over");
    wal.turn_end(START + delay);
    let seal = wal.next_op().unwrap();
    assert!(matches!(seal, DiskOp::Write { length: 4096, .. }));
    let released = finish(&mut wal, seal);
    assert!(released.marks.is_empty());
    assert_eq!(wal.deadline(), None);
    assert!(wal.is_idle());
}

#[test]
fn appends_wait_for_a_segment_and_then_go() {
    let mut wal = wal(1 << 20, 64 << 10);
    for sequence in 1..1000 {
        wal.append(accepted(sequence, Vec::new()));
        wal.turn_end(START);
    }
    let prepare = wal.next_op().unwrap();
    assert!(matches!(prepare, DiskOp::PrepareSegment { .. }));
    assert!(wal.next_op().is_none(), "nothing is written before there is a place for it");
    finish(&mut wal, prepare);
    let mut last = Vec::new();
    while let Some(operation) = wal.next_op() {
        last.extend(marks(&finish(&mut wal, operation)));
    }
    assert_eq!(last, [999]);
}

#[test]
fn a_full_disk_stops_the_log_until_there_is_room_or_a_file_to_use_again() {
    let mut wal = wal(1 << 20, 64 << 10);
    let asked = |wal: &mut Wal| match wal.next_op() {
        Some(DiskOp::PrepareSegment { segment, recycle, .. }) => Some((segment, recycle)),
        None => None,
        Some(other) => panic!("{other:?}"),
    };
    let (first, recycle) = asked(&mut wal).unwrap();
    assert_eq!(recycle, None);
    wal.on_room();
    assert_eq!(asked(&mut wal), None, "it is being prepared");
    wal.on_no_room(first);
    wal.append(accepted(1, Vec::new()));
    wal.turn_end(START);
    assert_eq!(asked(&mut wal), None, "it waits to be told");
    wal.on_room();
    assert_eq!(asked(&mut wal), Some((first, None)));
    wal.on_no_room(first);
    let older = SegmentId { boot: 0, core: CoreId(0), number: 9 };
    wal.release_segment(older, 1 << 20);
    assert_eq!(asked(&mut wal), Some((first, Some(older))));
    finish(&mut wal, DiskOp::PrepareSegment { segment: first, bytes: 1 << 20, recycle: None });
    let opening = wal.next_op().unwrap();
    finish(&mut wal, opening);
    assert!(wal.is_open());
}

#[test]
fn a_seal_for_which_there_is_no_place_is_written_when_there_is_room() {
    const SEGMENT_BYTES: u64 = 64 << 10;
    let mut wal = wal(SEGMENT_BYTES, 64 << 10);
    let prepare = wal.next_op().unwrap();
    finish(&mut wal, prepare);
    let (mut end, mut sequence) = (0, 0);
    while end < SEGMENT_BYTES {
        match wal.next_op() {
            Some(DiskOp::PrepareSegment { segment, .. }) => wal.on_no_room(segment),
            Some(write) => {
                let DiskOp::Write { offset, length, .. } = write else { panic!("{write:?}") };
                end = offset + u64::from(length);
                finish(&mut wal, write);
            }
            None => {
                sequence += 1;
                wal.append(accepted(sequence, Vec::new()));
                wal.turn_end(START);
            }
        }
    }
    let later = START + Duration::from_ms(5);
    assert!(wal.is_idle());
    assert_eq!(wal.deadline(), None, "whoever called it would be called again at once");
    wal.turn_end(later);
    assert!(wal.next_op().is_none());

    wal.on_room();
    let Some(DiskOp::PrepareSegment { segment, .. }) = wal.next_op() else { panic!("it is asked") };
    assert_eq!(wal.deadline(), None);
    wal.on_done(DiskDone::PrepareSegment { segment }, later, &mut Released::default());
    let opening = wal.next_op().unwrap();
    assert!(matches!(opening, DiskOp::Write { segment: it, offset: 0, .. } if it == segment));
    finish(&mut wal, opening);
    assert_eq!(wal.deadline(), Some(later), "the new segment takes the seal");
    let prepare = wal.next_op().unwrap();
    finish(&mut wal, prepare);
    wal.turn_end(later);
    let seal = wal.next_op().unwrap();
    assert!(matches!(seal, DiskOp::Write { offset: 4096, length: 4096, .. }), "{seal:?}");
    finish(&mut wal, seal);
    assert_eq!(wal.deadline(), None);
}

#[test]
fn spares_are_bounded_and_the_oldest_goes_first() {
    let mut wal = open_wal();
    let older = |number| SegmentId { boot: 0, core: CoreId(0), number };
    for number in 1..=4 {
        wal.release_segment(older(number), 1 << 20);
        assert!(wal.next_op().is_none());
    }
    wal.release_segment(older(5), 1 << 20);
    let retired = wal.next_op().unwrap();
    assert!(matches!(retired, DiskOp::RetireSegment { segment } if segment == older(1)));
    wal.release_segment(older(6), 4096);
    let retired = wal.next_op().unwrap();
    assert!(matches!(retired, DiskOp::RetireSegment { segment } if segment == older(6)));
}

#[test]
fn the_largest_record_fits_into_a_buffer_of_its_own() {
    let mut wal = wal(16 << 20, LOG_BUFFER_BYTES);
    let zxid = Zxid::new(Epoch(1), 1);
    let payload = vec![1; RECORD_BYTES_MAX - ENTRY_HEADER_BYTES];
    let begin = Entry::new(EntryKind::EpochStart, SHARD, zxid, ChainHash::default(), b"");
    let large = Entry::new(EntryKind::Txn, SHARD, zxid.next(), begin.hash(), &payload);
    for (sequence, entry) in [(1, begin), (2, large.clone())] {
        wal.append(Append {
            shard: SHARD,
            sequence: Sequence(sequence),
            record: Record::Entry(entry),
            riders: Vec::new(),
        });
    }
    wal.turn_end(START);
    let mut file = vec![0; 16 << 20];
    while let Some(operation) = wal.next_op() {
        copy(&operation, &mut file);
        finish(&mut wal, operation);
    }
    let recovered = recover(RecoverConfig::default(), &[(first(), &file)], &[SHARD]).unwrap();
    assert_eq!(recovered.shards[&SHARD].entries.last(), Some(&large));
}

#[test]
#[should_panic(expected = "Sequence")]
fn a_gap_in_the_sequence_stops_the_process() {
    let mut wal = open_wal();
    wal.append(accepted(2, Vec::new()));
}

#[test]
#[should_panic(expected = "what is committed is never truncated")]
fn what_is_committed_is_never_truncated() {
    let mut wal = open_wal();
    wal.note_committed(SHARD, Zxid(5));
    let mut append = accepted(1, Vec::new());
    append.record = Record::Control(Control::Truncate { zxid: 4, hash: 0 });
    wal.append(append);
}

/// A segment with one record in its last batch, and where that ends.
fn written() -> (Vec<u8>, usize) {
    let mut wal = wal(1 << 20, 64 << 10);
    wal.append(accepted(1, Vec::new()));
    let mut file = vec![0; 1 << 20];
    let mut end = 0;
    while let Some(operation) = wal.next_op() {
        end = copy(&operation, &mut file).unwrap_or(end);
        finish(&mut wal, operation);
    }
    (file, end)
}

#[test]
fn a_torn_tail_is_cut_or_taken_for_corruption() {
    let (mut file, end) = written();
    file[end - 4096 + 150] ^= 1;
    for strict_tail in [false, true] {
        let config = RecoverConfig { strict_tail, ..RecoverConfig::default() };
        let recovered = recover(config, &[(first(), &file)], &[SHARD]).unwrap();
        assert!(matches!(recovered.streams[0].ending, Ending::Torn(_)));
        assert_eq!(recovered.shards[&SHARD].checkpoint.accepted_epoch, 0);
        assert_eq!(recovered.shards[&SHARD].unknown.is_some(), strict_tail);
    }
}

/// A page that a disk has lost is zeros in what is read of it; so is what was never written.
#[test]
fn what_the_disk_cannot_read_at_the_end_is_missed() {
    let (mut file, end) = written();
    file[end - 4096..end].fill(0);
    let page = |offset: usize| Unreadable { segment: first(), offset: offset as u64, bytes: 4096 };
    let cases = [(None, false), (Some(page(end)), false), (Some(page(end - 4096)), true)];
    for (lost, is_missed) in cases {
        let unreadable: Vec<_> = lost.into_iter().collect();
        let config = RecoverConfig { unreadable: &unreadable, ..RecoverConfig::default() };
        let recovered = recover(config, &[(first(), &file)], &[SHARD]).unwrap();
        assert_eq!(recovered.shards[&SHARD].unknown.is_some(), is_missed, "{lost:?}");
        let ending = recovered.streams[0].ending;
        assert_eq!(matches!(ending, Ending::Lost(_)), is_missed, "{ending:?}");
    }
}

#[test]
fn a_newer_log_is_refused_with_both_versions() {
    let mut wal = wal(1 << 20, 64 << 10);
    let mut file = vec![0; 1 << 20];
    while let Some(operation) = wal.next_op() {
        copy(&operation, &mut file);
        finish(&mut wal, operation);
    }
    file[6] = 9;
    let hash = xxhash_rust::xxh3::xxh3_128(&file[..128]);
    file[128..144].copy_from_slice(&hash.to_le_bytes());
    let error = recover(RecoverConfig::default(), &[(first(), &file)], &[SHARD]).unwrap_err();
    assert!(matches!(error, RecoverError::NewerFormat { found: 9, supported: 1, .. }));
    let text = error.to_string();
    assert!(text.contains("format 9") && text.contains("up to 1"), "{text}");
}

#[test]
fn ids_that_no_boot_has_used_are_refused() {
    for (boot, number) in [(0, 1), (1, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let id = SegmentId { boot, number, ..first() };
        let error = recover(RecoverConfig::default(), &[(id, &[])], &[SHARD]).unwrap_err();
        assert_eq!(error, RecoverError::Foreign { segment: id });
    }
    let twice: [(SegmentId, &[u8]); 2] = [(first(), &[]), (first(), &[])];
    assert!(recover(RecoverConfig::default(), &twice, &[SHARD]).is_err());
    let nothing = recover(RecoverConfig::default(), &[], &[SHARD]).unwrap();
    assert_eq!(nothing.next_boot, 1);
    assert_eq!(nothing.shards[&SHARD].checkpoint, Checkpoint::empty(SHARD));
}

#[test]
fn file_names_are_ids_and_nothing_else_is() {
    let id = SegmentId { boot: 0x1f, core: CoreId(2), number: 7 };
    assert_eq!(id.file_name(), "000000000000001f-02-0000000000000007.log");
    assert_eq!(SegmentId::from_file_name(&id.file_name()), Some(id));
    let upper = "000000000000001F-02-0000000000000007.log";
    for name in ["meta", upper, "1f-2-7.log", "000000000000001f-02-0000000000000007.log~"] {
        assert_eq!(SegmentId::from_file_name(name), None, "{name}");
    }
}

fn first() -> SegmentId {
    SegmentId { boot: 1, core: CoreId(0), number: 1 }
}

/// Copies a write to the first segment into its file, and returns where it ends.
fn copy(operation: &DiskOp, file: &mut [u8]) -> Option<usize> {
    let DiskOp::Write { segment, offset, length, buffer } = operation else {
        return None;
    };
    assert_eq!(*segment, first());
    let start = usize::try_from(*offset).unwrap();
    let end = start + usize::try_from(*length).unwrap();
    file[start..end].copy_from_slice(&buffer.bytes[..end - start]);
    Some(end)
}
