//! The `meta` file: whose data a directory holds. Written when it is formatted, when the cluster
//! that it belongs to has formed, and at every start.
//!
//! | offset | bytes | field                                                               |
//! |-------:|------:|---------------------------------------------------------------------|
//! |      0 |     6 | magic `pgnmet`                                                      |
//! |      6 |     2 | format                                                              |
//! |      8 |    16 | cluster: the members' common nonce                                  |
//! |     24 |    16 | disk: drawn when it was formatted                                   |
//! |     40 |     8 | milliseconds since 1970 from which session ids are counted          |
//! |     48 |     2 | count of shards                                                     |
//! |     50 |     1 | server: the number in `myid`                                        |
//! |     51 |     1 | state: 0 forming, 1 formed                                          |
//! |     52 |     1 | disk: 0 a founder's, 1 came later                                   |
//! |     53 |    11 | zeros                                                               |
//! |     64 |    16 | xxh3-128 of the 64 bytes before                                     |
//!
//! All numbers are little endian. The file is one block of 4096 bytes, zeros behind these 80, and
//! is replaced as a whole. Every later format keeps magic, format and hash where they are. In
//! format 1, which only founders' disks have, offset 52 is zero.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use pigeonhole_core::base::bytes::{Put, Reader, Truncated};
use pigeonhole_core::base::id::{ClusterId, DiskId, ServerId};
use pigeonhole_core::base::limits::{LOG_BLOCK_BYTES, SESSION_BASE_STEP_MS, SHARDS_MAX};
use xxhash_rust::xxh3::xxh3_128;

pub const META_FILE_NAME: &str = "meta";
pub const META_FORMAT: u16 = 2;

/// In the directory of the log, which may be on another disk than [`META_FILE_NAME`] and so may be
/// missing, or another's: the text of [`Meta::log_owner`].
pub const LOG_OWNER_FILE_NAME: &str = "owner";

/// The identity of a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    pub cluster: ClusterId,
    pub state: Formation,
    pub server: ServerId,
    pub disk: DiskId,
    /// The disk was there when the cluster was founded, so that it has forgotten nothing.
    pub is_founder: bool,
    pub shards: u16,
    pub session_base_ms: u64,
}

/// Whether the cluster exists yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Formation {
    /// The members have agreed on a nonce and not yet elected anyone; it still counts as empty.
    Forming = 0,
    Formed = 1,
}

/// Why a file is not the identity of a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaError {
    /// Something else's file.
    Foreign,
    Newer {
        found: u16,
        supported: u16,
    },
    /// It is incomplete, or not what was written.
    Damaged,
}

impl Meta {
    /// The milliseconds from which another boot counts its session ids, when the clock shows so
    /// many: no earlier boot has used them, even if the clock was put back.
    pub fn next_session_base_ms(&self, clock_ms: u64) -> u64 {
        clock_ms.max(self.session_base_ms + SESSION_BASE_STEP_MS)
    }

    /// Says in the directory of the log whose log it is.
    pub fn log_owner(&self) -> String {
        format!("pigeonhole log of disk {:032x}\n", self.disk.0)
    }

    /// The whole content of the file.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(META_FORMAT)
    }

    fn encode_as(&self, format: u16) -> Vec<u8> {
        assert!((1..=SHARDS_MAX).contains(&self.shards), "a cluster has a bounded count of shards");
        let mut bytes = Vec::with_capacity(LOG_BLOCK_BYTES);
        bytes.put(&MAGIC);
        bytes.put_u16_le(format);
        bytes.put_u128_le(self.cluster.0);
        bytes.put_u128_le(self.disk.0);
        bytes.put_u64_le(self.session_base_ms);
        bytes.put_u16_le(self.shards);
        bytes.put_u8(self.server.0);
        bytes.put_u8(self.state as u8);
        bytes.put_u8(u8::from(!self.is_founder));
        bytes.put(&[0; ZEROS_BYTES]);
        assert_eq!(bytes.len(), HASH_AT, "the fields are those of the table");
        bytes.put_u128_le(xxh3_128(&bytes));
        bytes.resize(LOG_BLOCK_BYTES, 0);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(MetaError::Foreign);
        }
        let format = reader.u16_le()?;
        let covered = bytes.get(..HASH_AT).ok_or(MetaError::Damaged)?;
        let hash = Reader::new(&bytes[HASH_AT..]).u128_le()?;
        if hash != xxh3_128(covered) {
            return Err(MetaError::Damaged);
        }
        if format > META_FORMAT {
            return Err(MetaError::Newer { found: format, supported: META_FORMAT });
        }
        let meta = Self {
            cluster: ClusterId(reader.u128_le()?),
            disk: DiskId(reader.u128_le()?),
            session_base_ms: reader.u64_le()?,
            shards: reader.u16_le()?,
            server: ServerId(reader.u8()?),
            state: match reader.u8()? {
                0 => Formation::Forming,
                1 => Formation::Formed,
                _ => return Err(MetaError::Damaged),
            },
            is_founder: reader.u8()? == 0,
        };
        // Written back it must be the same: that covers the zeros, and leaves no field unchecked.
        let bounded = (1..=SHARDS_MAX).contains(&meta.shards);
        let known = format == META_FORMAT || (format == 1 && meta.is_founder);
        if bounded && known && meta.encode_as(format) == bytes {
            Ok(meta)
        } else {
            Err(MetaError::Damaged)
        }
    }
}

impl From<Truncated> for MetaError {
    fn from(_: Truncated) -> Self {
        Self::Damaged
    }
}

impl fmt::Display for MetaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("this is not the meta file of a data directory"),
            Self::Newer { found, supported } => {
                write!(f, "meta has format {found}; this program reads formats up to {supported}")
            }
            Self::Damaged => f.write_str("meta is damaged"),
        }
    }
}

impl core::error::Error for MetaError {}

const MAGIC: [u8; 6] = *b"pgnmet";
const ZEROS_BYTES: usize = 11;
const HASH_AT: usize = MAGIC.len() + 2 + 16 + 16 + 8 + 2 + 1 + 1 + 1 + ZEROS_BYTES;

const _: () = assert!(HASH_AT == 64);
const _: () = assert!(HASH_AT + 16 <= LOG_BLOCK_BYTES);
