//! A log entry: the replicated part of a record, made once by a leader and verbatim ever after.
//!
//! | offset | bytes | field                                                        |
//! |-------:|------:|--------------------------------------------------------------|
//! |      0 |     1 | kind ([`EntryKind`])                                         |
//! |      1 |     1 | version of the payload's format                              |
//! |      2 |     2 | shard                                                        |
//! |      4 |     4 | length of the payload                                        |
//! |      8 |     8 | zxid: the epoch is its upper half                            |
//! |     16 |    16 | chain hash of the entry before this one in the shard         |
//! |     32 |       | payload                                                      |
//!
//! All numbers are little endian. An entry's own chain hash is xxh3-128 over all of these bytes, so
//! that it covers everything before it as well.

use alloc::sync::Arc;
use core::ops::Range;

use xxhash_rust::xxh3::xxh3_128;

use crate::base::bytes::{Put, Reader, Truncated, length_u32};
use crate::base::id::{ChainHash, ShardId, Zxid};
use crate::base::limits::RECORD_BYTES_MAX;

pub const ENTRY_HEADER_BYTES: usize = 1 + 1 + 2 + 4 + 8 + 16;

/// What an entry's payload is. Released numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// A [`crate::txn::Txn`].
    Txn = 1,
    /// The first entry of an epoch; its payload is empty. It commits everything before it.
    EpochStart = 2,
    /// Every replica cuts a snapshot after applying it; the payload names the snapshot's format.
    SnapshotPoint = 3,
    /// Disks of voters count from here on: [`crate::txn::Admissions`].
    Admission = 4,
    /// Newer record kinds may be written from here on: the payload is one format number. Nobody
    /// writes it yet; that it is read already lets a later release write it beside this one.
    Format = 5,
}

/// The version that this program writes for every kind.
pub const ENTRY_VERSION: u8 = 1;

/// One entry. Cloning shares the bytes.
#[derive(Clone)]
pub struct Entry {
    /// Entries that have come together stay so: they are written, kept and dropped in a row.
    batch: Arc<[u8]>,
    start: u32,
    end: u32,
    hash: ChainHash,
}

/// Entries one behind the other in one piece of memory, which they share.
pub struct Entries {
    batch: Arc<[u8]>,
    at: usize,
}

/// Why bytes are not an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryError {
    Truncated,
    /// A kind or version from a newer program: never skipped.
    Unknown {
        kind: u8,
        version: u8,
    },
    TooLong,
}

impl Entry {
    /// Makes the entry that follows `previous` in its shard.
    pub fn new(
        kind: EntryKind,
        shard: ShardId,
        zxid: Zxid,
        previous: ChainHash,
        payload: &[u8],
    ) -> Self {
        assert!(payload.len() + ENTRY_HEADER_BYTES <= RECORD_BYTES_MAX, "an entry is bounded");
        // Made in place, because it is made once for every change.
        let length = ENTRY_HEADER_BYTES + payload.len();
        let mut batch: Arc<[u8]> = core::iter::repeat_n(0, length).collect();
        let mut bytes = Arc::get_mut(&mut batch).expect("nobody else has it yet");
        bytes.put_u8(kind as u8);
        bytes.put_u8(ENTRY_VERSION);
        bytes.put_u16_le(shard.0);
        bytes.put_u32_le(length_u32(payload.len()));
        bytes.put_u64_le(zxid.0);
        bytes.put_u128_le(previous.0);
        bytes.put(payload);
        assert!(bytes.is_empty(), "all of it has been written");
        Self::at(batch, 0..length)
    }

    fn at(batch: Arc<[u8]>, range: Range<usize>) -> Self {
        let hash = ChainHash(xxh3_128(&batch[range.clone()]));
        Self { batch, start: length_u32(range.start), end: length_u32(range.end), hash }
    }

    pub fn kind(&self) -> EntryKind {
        EntryKind::from_number(self.bytes()[0]).expect("the kind was checked when it was made")
    }

    pub fn shard(&self) -> ShardId {
        ShardId(u16::from_le_bytes(self.field(2)))
    }

    pub fn zxid(&self) -> Zxid {
        Zxid(u64::from_le_bytes(self.field(8)))
    }

    pub fn previous(&self) -> ChainHash {
        ChainHash(u128::from_le_bytes(self.field(16)))
    }

    pub fn hash(&self) -> ChainHash {
        self.hash
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes()[ENTRY_HEADER_BYTES..]
    }

    /// Whether it may come next in a log that ends at `tail`: an epoch's counters have no gaps, and
    /// every epoch is higher than the last and begins with an entry of its own, which is the only
    /// one of its kind.
    pub fn may_follow(&self, tail: Zxid) -> bool {
        let zxid = self.zxid();
        if self.kind() == EntryKind::EpochStart {
            zxid.epoch() > tail.epoch() && zxid.counter() == 1
        } else {
            zxid.epoch() == tail.epoch() && tail.counter().checked_add(1) == Some(zxid.counter())
        }
    }

    /// The whole replicated part, as it is sent and stored.
    pub fn bytes(&self) -> &[u8] {
        &self.batch[self.start as usize..self.end as usize]
    }

    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        *self.bytes()[offset..].first_chunk().expect("a header is complete")
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Entry {}

impl Entries {
    /// The memory is freed when the last of them is dropped.
    pub fn new(bytes: &[u8]) -> Self {
        Self { batch: bytes.into(), at: 0 }
    }

    /// Whether there are no more.
    pub fn is_empty(&self) -> bool {
        self.at == self.batch.len()
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, EntryError>;

    /// After an error there is nothing to be had.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_empty() {
            return None;
        }
        let start = self.at;
        self.at = self.batch.len();
        Some(length_of_first(&self.batch[start..]).map(|length| {
            self.at = start + length;
            Entry::at(self.batch.clone(), start..self.at)
        }))
    }
}

/// How long the entry is with which these bytes begin; all of it is there.
fn length_of_first(bytes: &[u8]) -> Result<usize, EntryError> {
    let mut header = Reader::new(bytes);
    let kind = header.u8()?;
    let version = header.u8()?;
    let _shard = header.u16_le()?;
    let length = usize::try_from(header.u32_le()?).map_err(|_| EntryError::TooLong)?;
    if EntryKind::from_number(kind).is_none() || version != ENTRY_VERSION {
        return Err(EntryError::Unknown { kind, version });
    }
    if length > RECORD_BYTES_MAX - ENTRY_HEADER_BYTES {
        return Err(EntryError::TooLong);
    }
    let length = ENTRY_HEADER_BYTES + length;
    if length > bytes.len() {
        return Err(EntryError::Truncated);
    }
    Ok(length)
}

impl EntryKind {
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Txn),
            2 => Some(Self::EpochStart),
            3 => Some(Self::SnapshotPoint),
            4 => Some(Self::Admission),
            5 => Some(Self::Format),
            _ => None,
        }
    }
}

impl From<Truncated> for EntryError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}@{}({})", self.kind(), self.zxid(), self.payload().len())
    }
}
