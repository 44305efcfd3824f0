//! What one write carries: a header, records of any of the core's shards, and commit watermarks.
//!
//! | offset | bytes | field                                                               |
//! |-------:|------:|---------------------------------------------------------------------|
//! |      0 |     6 | magic `pgnlog`                                                      |
//! |      6 |     2 | format                                                              |
//! |      8 |    16 | secret of the stream: random, never sent anywhere                   |
//! |     24 |     8 | boot                                                                |
//! |     32 |     8 | number of the segment in the stream                                 |
//! |     40 |     8 | number of the batch in the stream, from 1                           |
//! |     48 |     8 | offset of the batch in the segment                                  |
//! |     56 |     8 | number of the last batch known to be durable when this one was made |
//! |     64 |    16 | header hash of the batch before; 0 for the stream's first           |
//! |     80 |     4 | length of the batch, a multiple of 4096                             |
//! |     84 |     4 | length of the content                                               |
//! |     88 |     4 | count of records                                                    |
//! |     92 |     4 | count of watermarks                                                 |
//! |     96 |     8 | size of the segment's file                                          |
//! |    104 |     1 | core                                                                |
//! |    105 |     7 | zeros                                                               |
//! |    112 |    16 | xxh3-128 of the content                                             |
//! |    128 |    16 | xxh3-128 of the 128 bytes before                                    |
//! |    144 |       | content: the records, then the watermarks                           |
//! |        |       | zeros up to the length of the batch, checked on reading             |
//!
//! A watermark is a shard (2 bytes), 6 zeros and the zxid (8 bytes) up to which the shard is known
//! to be committed. All numbers are little endian. Every later format keeps magic, format and
//! header hash where they are, so that "newer" can be told from "damaged".
//!
//! Old bytes lie around everywhere: segments are recycled, and clients write what they like into
//! their znodes. Stream, segment, number and offset say that a header belongs just where it stands;
//! the secret says that no client has made it up.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use pigeonhole_core::base::bytes::{Reader, length_u32};
use pigeonhole_core::base::id::{CoreId, LinkId, Sequence, ShardId, Zxid};
use pigeonhole_core::base::limits::{LOG_BLOCK_BYTES, LOG_BUFFER_BYTES};
use pigeonhole_core::durable::{Record, Rider};
use xxhash_rust::xxh3::xxh3_128;

use crate::disk::{LogBuffer, SegmentId};
use crate::record::{self, RecordFault, RecordKind, Stored};
use crate::segment::ShardSpan;

/// The format that this program writes, and the newest that it reads.
pub const LOG_FORMAT: u16 = 1;

pub const BATCH_HEADER_BYTES: usize = CONTENT_AT;

/// A batch that is still being filled, directly in the buffer from which it will be written.
pub(crate) struct OpenBatch {
    buffer: LogBuffer,
    /// Where the next record goes.
    end: usize,
    /// What the batch may grow to, padding included.
    capacity: usize,
    records: u32,
    spans: BTreeMap<ShardId, ShardSpan>,
    riders: Vec<Option<(LinkId, Vec<u8>)>>,
    /// Where the cumulative riders stand, by what makes a later one replace them.
    cumulative: BTreeMap<(ShardId, LinkId), usize>,
}

/// A batch that is ready to be written.
pub(crate) struct ClosedBatch {
    pub(crate) buffer: LogBuffer,
    pub(crate) length: u32,
    pub(crate) hash: u128,
    pub(crate) spans: BTreeMap<ShardId, ShardSpan>,
    pub(crate) riders: Vec<(LinkId, Vec<u8>)>,
}

/// Where a batch stands, and what came before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchPlace {
    pub(crate) secret: u128,
    pub(crate) segment: SegmentId,
    /// A shorter file has lost its end.
    pub(crate) segment_bytes: u64,
    pub(crate) offset: u64,
    pub(crate) number: u64,
    pub(crate) durable_upto: u64,
    pub(crate) previous: u128,
}

/// A header whose own hash is right; the content behind it has not been looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    pub(crate) place: BatchPlace,
    pub(crate) length: usize,
    pub(crate) hash: u128,
    content_length: usize,
    content_hash: u128,
    records: u32,
    watermarks: u32,
}

/// A batch whose bytes are all as they were written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) header: BatchHeader,
    content: &'a [u8],
}

/// What a batch says.
pub(crate) struct Content {
    /// In append order.
    pub(crate) records: Vec<Stored>,
    pub(crate) watermarks: Vec<(ShardId, Zxid)>,
}

/// Why a block does not begin with a batch header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderFault {
    /// Never written, or the middle of something else, or damaged: the block cannot tell.
    NotAHeader,
    /// Intact, and from a newer program.
    Newer { format: u16 },
}

impl OpenBatch {
    /// `capacity` is what a segment can take; the buffer may bound it further.
    pub(crate) fn new(buffer: LogBuffer, capacity: usize) -> Self {
        let capacity = capacity.min(buffer.bytes.len());
        assert!(capacity >= LOG_BLOCK_BYTES, "a batch has at least a block");
        assert!(capacity.is_multiple_of(LOG_BLOCK_BYTES), "a batch is whole blocks");
        Self {
            buffer,
            end: CONTENT_AT,
            capacity,
            records: 0,
            spans: BTreeMap::new(),
            riders: Vec::new(),
            cumulative: BTreeMap::new(),
        }
    }

    /// Whether a record with a body of this length still fits, with room left for one watermark of
    /// every one of `shards` shards.
    pub(crate) fn fits(&self, body_length: usize, shards: usize) -> bool {
        self.end + record::stored_bytes(body_length) + shards * WATERMARK_BYTES <= self.capacity
    }

    /// Puts one record of a shard's history into the batch, with what may leave when it is durable.
    pub(crate) fn push(
        &mut self,
        shard: ShardId,
        sequence: Sequence,
        record: &Record,
        riders: Vec<Rider>,
    ) {
        let span = ShardSpan::of(sequence, record);
        self.spans.entry(shard).or_insert(span).widen(&span);
        match record {
            Record::Entry(entry) => {
                self.write(RecordKind::Entry, shard, sequence, entry.bytes());
            }
            Record::Control(control) => {
                self.write(RecordKind::Control, shard, sequence, &control.to_bytes());
            }
        }
        for rider in riders {
            self.board(shard, rider);
        }
    }

    /// Puts a checkpoint or a seal into the batch.
    pub(crate) fn write(
        &mut self,
        kind: RecordKind,
        shard: ShardId,
        sequence: Sequence,
        body: &[u8],
    ) {
        let room = &mut self.buffer.bytes[self.end..self.capacity];
        self.end += record::write(room, kind, shard, sequence, body);
        self.records += 1;
    }

    /// How long the batch would be with so many watermarks.
    pub(crate) fn length(&self, watermarks: usize) -> usize {
        (self.end + watermarks * WATERMARK_BYTES).next_multiple_of(LOG_BLOCK_BYTES)
    }

    /// Bytes of records so far.
    pub(crate) fn content_bytes(&self) -> usize {
        self.end - CONTENT_AT
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(crate) fn into_buffer(self) -> LogBuffer {
        self.buffer
    }

    /// Adds the watermarks, the padding and the header.
    pub(crate) fn close(
        mut self,
        place: BatchPlace,
        watermarks: &[(ShardId, Zxid)],
    ) -> ClosedBatch {
        let length = self.length(watermarks.len());
        assert!(length <= self.capacity, "room for the watermarks was kept");
        for (shard, zxid) in watermarks {
            let out = &mut self.buffer.bytes[self.end..self.end + WATERMARK_BYTES];
            out.fill(0);
            out[..2].copy_from_slice(&shard.0.to_le_bytes());
            out[8..].copy_from_slice(&zxid.0.to_le_bytes());
            self.end += WATERMARK_BYTES;
        }
        self.buffer.bytes[self.end..length].fill(0);
        let content_hash = xxh3_128(&self.buffer.bytes[CONTENT_AT..self.end]);
        let mut header = BatchHeader {
            place,
            length,
            hash: 0,
            content_length: self.end - CONTENT_AT,
            content_hash,
            records: self.records,
            watermarks: length_u32(watermarks.len()),
        };
        header.write(self.buffer.bytes);
        ClosedBatch {
            buffer: self.buffer,
            length: length_u32(length),
            hash: header.hash,
            spans: self.spans,
            riders: self.riders.into_iter().flatten().collect(),
        }
    }

    /// A cumulative rider says all that the one before it said; the earlier one gives up its place,
    /// because the later one must not leave before what was appended in between.
    fn board(&mut self, shard: ShardId, rider: Rider) {
        if rider.cumulative {
            let place = self.riders.len();
            if let Some(earlier) = self.cumulative.insert((shard, rider.link), place) {
                self.riders[earlier] = None;
            }
        }
        self.riders.push(Some((rider.link, rider.frame)));
    }
}

impl BatchHeader {
    /// Reads the header at the front of `block`, and checks what can be checked without knowing
    /// where the block stands.
    pub(crate) fn read(block: &[u8]) -> Result<Self, HeaderFault> {
        let bytes: &[u8; BATCH_HEADER_BYTES] =
            block.first_chunk().ok_or(HeaderFault::NotAHeader)?;
        if bytes[..FORMAT_AT] != MAGIC {
            return Err(HeaderFault::NotAHeader);
        }
        let hash = u128::from_le_bytes(field(bytes, HEADER_HASH_AT));
        if hash != xxh3_128(&bytes[..HEADER_HASH_AT]) {
            return Err(HeaderFault::NotAHeader);
        }
        let format = u16::from_le_bytes(field(bytes, FORMAT_AT));
        if format > LOG_FORMAT {
            return Err(HeaderFault::Newer { format });
        }
        let header = Self::decode(bytes, hash).ok_or(HeaderFault::NotAHeader)?;
        let zeros = bytes[ZEROS_AT..CONTENT_HASH_AT].iter().all(|&byte| byte == 0);
        let bounded = header.length <= LOG_BUFFER_BYTES.max(LOG_BLOCK_BYTES)
            && header.length.is_multiple_of(LOG_BLOCK_BYTES)
            && header.content_length + CONTENT_AT <= header.length
            && header.place.durable_upto < header.place.number;
        if format != LOG_FORMAT || !zeros || !bounded {
            return Err(HeaderFault::NotAHeader);
        }
        Ok(header)
    }

    /// Checks everything behind the header; `bytes` begins with it.
    pub(crate) fn check(self, bytes: &[u8]) -> Option<Batch<'_>> {
        let batch = bytes.get(..self.length)?;
        let content = &batch[CONTENT_AT..CONTENT_AT + self.content_length];
        let padding = &batch[CONTENT_AT + self.content_length..];
        if padding.iter().any(|&byte| byte != 0) || xxh3_128(content) != self.content_hash {
            return None;
        }
        Some(Batch { header: self, content })
    }

    fn decode(bytes: &[u8; BATCH_HEADER_BYTES], hash: u128) -> Option<Self> {
        let number_at = |at| u64::from_le_bytes(field(bytes, at));
        let length_at = |at| u32::from_le_bytes(field(bytes, at));
        Some(Self {
            place: BatchPlace {
                secret: u128::from_le_bytes(field(bytes, SECRET_AT)),
                segment: SegmentId {
                    boot: number_at(BOOT_AT),
                    core: CoreId(bytes[CORE_AT]),
                    number: number_at(SEGMENT_AT),
                },
                segment_bytes: number_at(SEGMENT_BYTES_AT),
                offset: number_at(OFFSET_AT),
                number: number_at(NUMBER_AT),
                durable_upto: number_at(DURABLE_AT),
                previous: u128::from_le_bytes(field(bytes, PREVIOUS_AT)),
            },
            length: usize::try_from(length_at(LENGTH_AT)).ok()?,
            hash,
            content_length: usize::try_from(length_at(CONTENT_LENGTH_AT)).ok()?,
            content_hash: u128::from_le_bytes(field(bytes, CONTENT_HASH_AT)),
            records: length_at(RECORDS_AT),
            watermarks: length_at(WATERMARKS_AT),
        })
    }

    /// Writes the header, and takes note of its hash.
    fn write(&mut self, out: &mut [u8]) {
        let place = &self.place;
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(MAGIC_AT, &MAGIC);
        put(FORMAT_AT, &LOG_FORMAT.to_le_bytes());
        put(SECRET_AT, &place.secret.to_le_bytes());
        put(BOOT_AT, &place.segment.boot.to_le_bytes());
        put(SEGMENT_AT, &place.segment.number.to_le_bytes());
        put(NUMBER_AT, &place.number.to_le_bytes());
        put(OFFSET_AT, &place.offset.to_le_bytes());
        put(DURABLE_AT, &place.durable_upto.to_le_bytes());
        put(PREVIOUS_AT, &place.previous.to_le_bytes());
        put(LENGTH_AT, &length_u32(self.length).to_le_bytes());
        put(CONTENT_LENGTH_AT, &length_u32(self.content_length).to_le_bytes());
        put(RECORDS_AT, &self.records.to_le_bytes());
        put(WATERMARKS_AT, &self.watermarks.to_le_bytes());
        put(SEGMENT_BYTES_AT, &place.segment_bytes.to_le_bytes());
        put(CORE_AT, &[place.segment.core.0]);
        put(ZEROS_AT, &[0; CONTENT_HASH_AT - ZEROS_AT]);
        put(CONTENT_HASH_AT, &self.content_hash.to_le_bytes());
        self.hash = xxh3_128(&out[..HEADER_HASH_AT]);
        out[HEADER_HASH_AT..CONTENT_AT].copy_from_slice(&self.hash.to_le_bytes());
    }
}

impl Batch<'_> {
    /// Takes the content apart.
    pub(crate) fn read(&self) -> Result<Content, RecordFault> {
        let mut reader = Reader::new(self.content);
        let mut records = Vec::new();
        for _ in 0..self.header.records {
            records.push(record::read(&mut reader)?);
        }
        let mut watermarks = Vec::new();
        for _ in 0..self.header.watermarks {
            let shard = ShardId(reader.u16_le()?);
            if reader.array::<6>()? != [0; 6] {
                return Err(RecordFault::Malformed);
            }
            watermarks.push((shard, Zxid(reader.u64_le()?)));
        }
        if reader.is_empty() {
            Ok(Content { records, watermarks })
        } else {
            Err(RecordFault::Malformed)
        }
    }
}

fn field<const N: usize>(bytes: &[u8; BATCH_HEADER_BYTES], offset: usize) -> [u8; N] {
    *bytes[offset..].first_chunk().expect("every field lies inside the header")
}

const MAGIC: [u8; 6] = *b"pgnlog";

const MAGIC_AT: usize = 0;
const FORMAT_AT: usize = MAGIC_AT + MAGIC.len();
const SECRET_AT: usize = FORMAT_AT + 2;
const BOOT_AT: usize = SECRET_AT + 16;
const SEGMENT_AT: usize = BOOT_AT + 8;
const NUMBER_AT: usize = SEGMENT_AT + 8;
const OFFSET_AT: usize = NUMBER_AT + 8;
const DURABLE_AT: usize = OFFSET_AT + 8;
const PREVIOUS_AT: usize = DURABLE_AT + 8;
const LENGTH_AT: usize = PREVIOUS_AT + 16;
const CONTENT_LENGTH_AT: usize = LENGTH_AT + 4;
const RECORDS_AT: usize = CONTENT_LENGTH_AT + 4;
const WATERMARKS_AT: usize = RECORDS_AT + 4;
const SEGMENT_BYTES_AT: usize = WATERMARKS_AT + 4;
const CORE_AT: usize = SEGMENT_BYTES_AT + 8;
const ZEROS_AT: usize = CORE_AT + 1;
const CONTENT_HASH_AT: usize = ZEROS_AT + 7;
const HEADER_HASH_AT: usize = CONTENT_HASH_AT + 16;
const CONTENT_AT: usize = HEADER_HASH_AT + 16;

/// One watermark in the content.
pub(crate) const WATERMARK_BYTES: usize = 16;

const _: () = assert!(CONTENT_AT == 144);
// Records begin on 8 bytes, and the header lies inside the first block.
const _: () = assert!(CONTENT_AT.is_multiple_of(8) && CONTENT_AT < LOG_BLOCK_BYTES);
