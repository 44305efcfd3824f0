//! One record inside a batch.
//!
//! | offset | bytes | field                                                               |
//! |-------:|------:|---------------------------------------------------------------------|
//! |      0 |     8 | sequence in the shard; a checkpoint's is that of the next record    |
//! |      8 |     2 | shard                                                               |
//! |     10 |     1 | type: 1 entry, 2 control, 3 checkpoint, 4 seal                      |
//! |     11 |     1 | version of the body's format                                        |
//! |     12 |     4 | length of the body                                                  |
//! |     16 |       | body: an entry verbatim, everything else as its archived form       |
//! |        |       | zeros up to a multiple of 8                                         |
//!
//! All numbers are little endian. The batch's hashes cover the record, so it has none of its own.
//! Checkpoints and seals are not part of a shard's history and use up no sequence number; a seal
//! belongs to no shard, and its sequence and shard are zero.

use pigeonhole_core::base::bytes::{Reader, Truncated, length_u32};
use pigeonhole_core::base::id::{Sequence, ShardId};
use pigeonhole_core::base::limits::RECORD_BYTES_MAX;
use pigeonhole_core::control::{Checkpoint, Control, Seal};
use pigeonhole_core::durable::Record;
use pigeonhole_core::entry::{Entries, EntryError};
use pigeonhole_core::txn::Malformed;

pub const RECORD_HEADER_BYTES: usize = BODY_AT;

/// A record as it was read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stored {
    /// One step of a shard's history.
    Step {
        shard: ShardId,
        sequence: Sequence,
        record: Record,
    },
    Checkpoint(Checkpoint),
    Seal(Seal),
}

/// Why bytes whose hash is right are not a record that this program can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordFault {
    Truncated,
    Malformed,
    /// From a newer program: never skipped.
    UnknownRecord {
        kind: u8,
        version: u8,
    },
    /// An entry inside an entry record, likewise.
    UnknownEntry {
        kind: u8,
        version: u8,
    },
}

/// What a record's body is. Released numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum RecordKind {
    Entry = 1,
    Control = 2,
    Checkpoint = 3,
    Seal = 4,
}

/// How much of a batch a record with a body of this length takes.
pub(crate) fn stored_bytes(body_length: usize) -> usize {
    RECORD_HEADER_BYTES + body_length.next_multiple_of(ALIGNMENT)
}

/// Writes one record to the front of `out`, and returns how many bytes it took.
pub(crate) fn write(
    out: &mut [u8],
    kind: RecordKind,
    shard: ShardId,
    sequence: Sequence,
    body: &[u8],
) -> usize {
    assert!(body.len() <= RECORD_BYTES_MAX, "a record is bounded");
    let end = stored_bytes(body.len());
    out[SEQUENCE_AT..SHARD_AT].copy_from_slice(&sequence.0.to_le_bytes());
    out[SHARD_AT..KIND_AT].copy_from_slice(&shard.0.to_le_bytes());
    out[KIND_AT] = kind as u8;
    out[VERSION_AT] = RECORD_VERSION;
    out[LENGTH_AT..BODY_AT].copy_from_slice(&length_u32(body.len()).to_le_bytes());
    out[BODY_AT..BODY_AT + body.len()].copy_from_slice(body);
    out[BODY_AT + body.len()..end].fill(0);
    end
}

/// Takes one record off the front of `reader`.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Stored, RecordFault> {
    let sequence = Sequence(reader.u64_le()?);
    let shard = ShardId(reader.u16_le()?);
    let kind = reader.u8()?;
    let version = reader.u8()?;
    let length = usize::try_from(reader.u32_le()?).map_err(|_| RecordFault::Malformed)?;
    if length > RECORD_BYTES_MAX {
        return Err(RecordFault::Malformed);
    }
    let body = reader.bytes(length)?;
    let padding = reader.bytes(length.next_multiple_of(ALIGNMENT) - length)?;
    if padding.iter().any(|&byte| byte != 0) {
        return Err(RecordFault::Malformed);
    }
    if version != RECORD_VERSION {
        return Err(RecordFault::UnknownRecord { kind, version });
    }
    match kind {
        1 => read_entry(body, shard, sequence),
        2 => Ok(Stored::Step {
            shard,
            sequence,
            record: Record::Control(Control::from_bytes(body)?),
        }),
        3 => {
            let checkpoint = Checkpoint::from_bytes(body)?;
            let same = checkpoint.shard() == shard && checkpoint.next_sequence() == sequence;
            same.then_some(Stored::Checkpoint(checkpoint)).ok_or(RecordFault::Malformed)
        }
        4 => Ok(Stored::Seal(Seal::from_bytes(body)?)),
        _ => Err(RecordFault::UnknownRecord { kind, version }),
    }
}

fn read_entry(body: &[u8], shard: ShardId, sequence: Sequence) -> Result<Stored, RecordFault> {
    let mut entries = Entries::new(body);
    let entry = entries.next().ok_or(RecordFault::Malformed)?.map_err(|error| match error {
        EntryError::Unknown { kind, version } => RecordFault::UnknownEntry { kind, version },
        EntryError::Truncated | EntryError::TooLong => RecordFault::Malformed,
    })?;
    if !entries.is_empty() || entry.shard() != shard {
        return Err(RecordFault::Malformed);
    }
    Ok(Stored::Step { shard, sequence, record: Record::Entry(entry) })
}

impl From<Truncated> for RecordFault {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl From<Malformed> for RecordFault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The only version that has been released, for every type.
const RECORD_VERSION: u8 = 1;
const ALIGNMENT: usize = 8;

const SEQUENCE_AT: usize = 0;
const SHARD_AT: usize = SEQUENCE_AT + 8;
const KIND_AT: usize = SHARD_AT + 2;
const VERSION_AT: usize = KIND_AT + 1;
const LENGTH_AT: usize = VERSION_AT + 1;
const BODY_AT: usize = LENGTH_AT + 4;

const _: () = assert!(BODY_AT == 16);
const _: () = assert!(BODY_AT.is_multiple_of(ALIGNMENT));
