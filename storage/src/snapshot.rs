//! The snapshot file: one shard's state at one zxid, in chunks that are verified one by one.
//!
//! Header, once:
//!
//! | offset | bytes | field                                                               |
//! |-------:|------:|---------------------------------------------------------------------|
//! |      0 |     6 | magic `pgnsnp`                                                      |
//! |      6 |     2 | format                                                              |
//! |      8 |     2 | shard                                                               |
//! |     10 |     6 | zeros                                                               |
//! |     16 |     8 | zxid of the state                                                   |
//! |     24 |    16 | chain hash of the entry at that zxid                                |
//! |     40 |    16 | xxh3-128 of the 40 bytes before                                     |
//!
//! Chunk, for every piece of content:
//!
//! | offset | bytes | field                                                               |
//! |-------:|------:|---------------------------------------------------------------------|
//! |      0 |     4 | length of the content, 1 to 262144                                  |
//! |      4 |     4 | number of the chunk, from 0                                         |
//! |      8 |    16 | xxh3-128 of the content                                             |
//! |     24 |       | content                                                             |
//!
//! Trailer, once, and nothing behind it:
//!
//! | offset | bytes | field                                                               |
//! |-------:|------:|---------------------------------------------------------------------|
//! |      0 |     4 | zero: where a chunk would have its length                           |
//! |      4 |     4 | count of chunks                                                     |
//! |      8 |     8 | bytes of content in all chunks                                      |
//! |     16 |    16 | digest: xxh3-128 over the hashes of all chunks                      |
//! |     32 |    16 | xxh3-128 of the 32 bytes before                                     |
//!
//! All numbers are little endian. The same state makes the same bytes on every replica, so that the
//! digest names the content wherever it is. Every later format keeps magic, format and the header's
//! hash where they are.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use pigeonhole_core::base::bytes::{Put, Reader, Truncated, length_u32};
use pigeonhole_core::base::id::{ChainHash, ShardId, Zxid};
use pigeonhole_core::base::limits::SNAPSHOT_CHUNK_BYTES;
use pigeonhole_core::control::SnapshotReference;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

pub const SNAPSHOT_FORMAT: u16 = 1;

/// What a published file is called: `<shard>-<zxid>-<digest>.snapshot`, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SnapshotName {
    pub shard: ShardId,
    pub zxid: Zxid,
    pub digest: u128,
}

/// Frames a snapshot as it is made: every call appends to `out` what belongs next into the file.
pub struct SnapshotWriter {
    zxid: Zxid,
    hash: ChainHash,
    digest: Xxh3,
    chunks: u32,
    content_bytes: u64,
}

/// Checks a snapshot as it is read: bytes in as they come, chunks out.
pub struct SnapshotReader {
    buffer: Vec<u8>,
    /// What of the buffer has been used.
    taken: usize,
    header: Option<Header>,
    digest: Xxh3,
    chunks: u32,
    content_bytes: u64,
    /// Set by the trailer.
    complete: Option<u128>,
}

/// What a snapshot says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    shard: ShardId,
    zxid: Zxid,
    hash: ChainHash,
}

/// How a finished temporary file becomes a snapshot. The steps are done in order, and a failure of
/// any leaves what was there before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishStep {
    SyncFile {
        name: String,
    },
    /// Read the file again past every cache, and put it through a [`SnapshotReader`].
    ReadBack {
        name: String,
        expected: SnapshotReference,
    },
    Rename {
        from: String,
        to: String,
    },
    /// Only after it may the log say that the snapshot was taken.
    SyncDirectory,
}

/// Why bytes are not a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotError {
    /// Something else's file.
    Foreign,
    Newer {
        found: u16,
        supported: u16,
    },
    /// A chunk or the frame around it is not what was written.
    Damaged,
    /// The file ends before its trailer.
    Truncated,
}

impl SnapshotName {
    pub fn new(shard: ShardId, reference: &SnapshotReference) -> Self {
        Self { shard, zxid: Zxid(reference.zxid), digest: reference.digest }
    }

    pub fn file_name(&self) -> String {
        format!("{:04x}-{:016x}-{:032x}.snapshot", self.shard.0, self.zxid.0, self.digest)
    }

    /// The inverse of [`Self::file_name`]; `None` for every name that it never makes.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".snapshot")?.split('-');
        let found = Self {
            shard: ShardId(u16::from_str_radix(parts.next()?, 16).ok()?),
            zxid: Zxid(u64::from_str_radix(parts.next()?, 16).ok()?),
            digest: u128::from_str_radix(parts.next()?, 16).ok()?,
        };
        (found.file_name() == name).then_some(found)
    }
}

/// What a snapshot is called while it is being written. Such a file is removed at start.
pub fn temporary_file_name(shard: ShardId, zxid: Zxid) -> String {
    format!("{:04x}-{:016x}.partial", shard.0, zxid.0)
}

/// What to do when the last bytes are in the temporary file.
pub fn publish(shard: ShardId, reference: &SnapshotReference) -> [PublishStep; 4] {
    let name = temporary_file_name(shard, Zxid(reference.zxid));
    let published = SnapshotName::new(shard, reference).file_name();
    [
        PublishStep::SyncFile { name: name.clone() },
        PublishStep::ReadBack { name: name.clone(), expected: *reference },
        PublishStep::Rename { from: name, to: published },
        PublishStep::SyncDirectory,
    ]
}

impl SnapshotWriter {
    pub fn new(shard: ShardId, zxid: Zxid, hash: ChainHash, out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.put(&MAGIC);
        out.put_u16_le(SNAPSHOT_FORMAT);
        out.put_u16_le(shard.0);
        out.put(&[0; 6]);
        out.put_u64_le(zxid.0);
        out.put_u128_le(hash.0);
        assert_eq!(out.len() - start, HEADER_HASH_AT, "the fields are those of the table");
        let own = xxh3_128(&out[start..]);
        out.put_u128_le(own);
        Self { zxid, hash, digest: Xxh3::new(), chunks: 0, content_bytes: 0 }
    }

    /// Adds the next piece of content.
    pub fn chunk(&mut self, content: &[u8], out: &mut Vec<u8>) {
        assert!(!content.is_empty(), "an empty chunk would read as the trailer");
        assert!(content.len() <= SNAPSHOT_CHUNK_BYTES, "a chunk is bounded");
        let hash = xxh3_128(content);
        out.put_u32_le(length_u32(content.len()));
        out.put_u32_le(self.chunks);
        out.put_u128_le(hash);
        out.put(content);
        self.digest.update(&hash.to_le_bytes());
        self.chunks += 1;
        self.content_bytes += content.len() as u64;
    }

    /// Ends the file, and returns what the log will know it by.
    pub fn finish(self, out: &mut Vec<u8>) -> SnapshotReference {
        let digest = self.digest.digest128();
        let start = out.len();
        out.put_u32_le(0);
        out.put_u32_le(self.chunks);
        out.put_u64_le(self.content_bytes);
        out.put_u128_le(digest);
        assert_eq!(out.len() - start, TRAILER_HASH_AT, "the fields are those of the table");
        let own = xxh3_128(&out[start..]);
        out.put_u128_le(own);
        SnapshotReference { zxid: self.zxid.0, hash: self.hash.0, digest }
    }
}

impl Default for SnapshotReader {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            taken: 0,
            header: None,
            digest: Xxh3::new(),
            chunks: 0,
            content_bytes: 0,
            complete: None,
        }
    }
}

impl SnapshotReader {
    /// Takes the next bytes of the file. The caller asks for chunks before it gives more, so that
    /// no more than a chunk and these bytes are held.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next chunk whose hash is right; `None` if more bytes are needed or the file has ended.
    pub fn next_chunk(&mut self) -> Result<Option<&[u8]>, SnapshotError> {
        if self.header.is_none() && !self.read_header()? {
            return Ok(None);
        }
        let rest = &self.buffer[self.taken..];
        if self.complete.is_some() {
            return if rest.is_empty() { Ok(None) } else { Err(SnapshotError::Damaged) };
        }
        let mut reader = Reader::new(rest);
        let Ok(length) = reader.u32_le() else {
            return Ok(None);
        };
        if length == 0 {
            return self.read_trailer().map(|()| None);
        }
        let length = usize::try_from(length).map_err(|_| SnapshotError::Damaged)?;
        if length > SNAPSHOT_CHUNK_BYTES {
            return Err(SnapshotError::Damaged);
        }
        if rest.len() < CHUNK_HEADER_BYTES + length {
            return Ok(None);
        }
        let number = reader.u32_le()?;
        let hash = reader.u128_le()?;
        let content = reader.bytes(length)?;
        if number != self.chunks || hash != xxh3_128(content) {
            return Err(SnapshotError::Damaged);
        }
        self.digest.update(&hash.to_le_bytes());
        self.chunks += 1;
        self.content_bytes += length as u64;
        let start = self.taken + CHUNK_HEADER_BYTES;
        self.taken = start + length;
        Ok(Some(&self.buffer[start..start + length]))
    }

    /// After the last bytes: whose state it was, and what the log knows it by.
    pub fn finish(mut self) -> Result<(ShardId, SnapshotReference), SnapshotError> {
        if self.next_chunk()?.is_some() {
            return Err(SnapshotError::Truncated);
        }
        let header = self.header.ok_or(SnapshotError::Truncated)?;
        let digest = self.complete.ok_or(SnapshotError::Truncated)?;
        let reference = SnapshotReference { zxid: header.zxid.0, hash: header.hash.0, digest };
        Ok((header.shard, reference))
    }

    /// False if the header is not complete yet.
    fn read_header(&mut self) -> Result<bool, SnapshotError> {
        let Some(bytes) = self.buffer[self.taken..].first_chunk::<HEADER_BYTES>() else {
            return Ok(false);
        };
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(SnapshotError::Foreign);
        }
        let hash = Reader::new(&bytes[HEADER_HASH_AT..]).u128_le()?;
        if hash != xxh3_128(&bytes[..HEADER_HASH_AT]) {
            return Err(SnapshotError::Damaged);
        }
        let format = reader.u16_le()?;
        if format > SNAPSHOT_FORMAT {
            return Err(SnapshotError::Newer { found: format, supported: SNAPSHOT_FORMAT });
        }
        let shard = ShardId(reader.u16_le()?);
        if reader.array()? != [0; 6] || format != SNAPSHOT_FORMAT {
            return Err(SnapshotError::Damaged);
        }
        self.header = Some(Header {
            shard,
            zxid: Zxid(reader.u64_le()?),
            hash: ChainHash(reader.u128_le()?),
        });
        self.taken += HEADER_BYTES;
        Ok(true)
    }

    fn read_trailer(&mut self) -> Result<(), SnapshotError> {
        let Some(bytes) = self.buffer[self.taken..].first_chunk::<TRAILER_BYTES>() else {
            return Ok(());
        };
        let hash = Reader::new(&bytes[TRAILER_HASH_AT..]).u128_le()?;
        let mut reader = Reader::new(&bytes[4..TRAILER_HASH_AT]);
        let counted = reader.u32_le()? == self.chunks && reader.u64_le()? == self.content_bytes;
        let digest = reader.u128_le()?;
        let whole = hash == xxh3_128(&bytes[..TRAILER_HASH_AT]);
        if !counted || !whole || digest != self.digest.digest128() {
            return Err(SnapshotError::Damaged);
        }
        self.taken += TRAILER_BYTES;
        self.complete = Some(digest);
        if self.taken == self.buffer.len() { Ok(()) } else { Err(SnapshotError::Damaged) }
    }
}

impl From<Truncated> for SnapshotError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("this is not a snapshot"),
            Self::Newer { found, supported } => write!(
                f,
                "the snapshot has format {found}; this program reads formats up to {supported}"
            ),
            Self::Damaged => f.write_str("the snapshot is damaged"),
            Self::Truncated => f.write_str("the snapshot is incomplete"),
        }
    }
}

impl core::error::Error for SnapshotError {}

const MAGIC: [u8; 6] = *b"pgnsnp";
const HEADER_HASH_AT: usize = MAGIC.len() + 2 + 2 + 6 + 8 + 16;
const HEADER_BYTES: usize = HEADER_HASH_AT + 16;
const CHUNK_HEADER_BYTES: usize = 4 + 4 + 16;
const TRAILER_HASH_AT: usize = 4 + 4 + 8 + 16;
const TRAILER_BYTES: usize = TRAILER_HASH_AT + 16;

const _: () = assert!(HEADER_HASH_AT == 40 && CHUNK_HEADER_BYTES == 24 && TRAILER_HASH_AT == 32);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES == 262_144, "the table names the bound");
