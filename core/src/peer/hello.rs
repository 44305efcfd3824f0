//! The first frame on a link, in both directions: who is there, and whether they may talk.
//!
//! | offset | bytes | field                                             |
//! |-------:|------:|---------------------------------------------------|
//! |      0 |     8 | magic "PGNHPEER"                                  |
//! |      8 |     2 | lowest protocol version spoken                    |
//! |     10 |     2 | highest protocol version spoken                   |
//! |     12 |     1 | server id of the sender                           |
//! |     13 |     1 | server id that the sender believes to talk to     |
//! |     14 |     1 | the sender's core                                 |
//! |     15 |     1 | the core that the sender wants to talk to         |
//! |     16 |     1 | number of the sender's cores                      |
//! |     17 |     1 | state: 0 empty, 1 forming, 2 formed               |
//! |     18 |     2 | shards                                            |
//! |     20 |     4 | zero                                              |
//! |     24 |    16 | cluster id, 0 if not formed                       |
//! |     40 |    16 | disk id                                           |
//! |     56 |     8 | incarnation of the sending process                |
//!
//! Numbers are little endian. The frame has the length prefix of every peer frame.

use alloc::vec::Vec;

use crate::base::bytes::{Put, Reader, Truncated};
use crate::base::id::{ClusterId, CoreId, DiskId, ServerId};

pub const HELLO_BYTES: usize = 64;
/// The protocol that this program speaks; release N also speaks N − 1.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
pub const PROTOCOL_VERSION_MAX: u16 = 1;

const MAGIC: [u8; 8] = *b"PGNHPEER";

/// How far a server has come in founding its cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Formation {
    Empty = 0,
    Forming = 1,
    Formed = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    pub version_min: u16,
    pub version_max: u16,
    pub from: ServerId,
    pub to: ServerId,
    pub from_core: CoreId,
    pub to_core: CoreId,
    pub cores: u8,
    pub formation: Formation,
    pub shards: u16,
    pub cluster: ClusterId,
    pub disk: DiskId,
    pub incarnation: u64,
}

/// Why a hello was not understood or not accepted; the link is closed and the reason logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloError {
    NotAPeer,
    Version { theirs: (u16, u16) },
    OtherCluster { theirs: ClusterId },
    OtherShardCount { theirs: u16 },
    NotForMe { meant: ServerId },
    UnknownServer { claimed: ServerId },
    NoSuchCore { wanted: CoreId },
}

impl Hello {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put(&MAGIC);
        out.put_u16_le(self.version_min);
        out.put_u16_le(self.version_max);
        out.put_u8(self.from.0);
        out.put_u8(self.to.0);
        out.put_u8(self.from_core.0);
        out.put_u8(self.to_core.0);
        out.put_u8(self.cores);
        out.put_u8(self.formation as u8);
        out.put_u16_le(self.shards);
        out.put_u32_le(0);
        out.put_u128_le(self.cluster.0);
        out.put_u128_le(self.disk.0);
        out.put_u64_le(self.incarnation);
        assert_eq!(out.len() - start, HELLO_BYTES);
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let mut reader = Reader::new(bytes);
        let hello = Self::read(&mut reader).map_err(|Truncated| HelloError::NotAPeer)??;
        if reader.is_empty() { Ok(hello) } else { Err(HelloError::NotAPeer) }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Result<Self, HelloError>, Truncated> {
        if reader.array::<8>()? != MAGIC {
            return Ok(Err(HelloError::NotAPeer));
        }
        let version_min = reader.u16_le()?;
        let version_max = reader.u16_le()?;
        if version_min > PROTOCOL_VERSION_MAX || version_max < PROTOCOL_VERSION_MIN {
            return Ok(Err(HelloError::Version { theirs: (version_min, version_max) }));
        }
        let from = ServerId(reader.u8()?);
        let to = ServerId(reader.u8()?);
        let from_core = CoreId(reader.u8()?);
        let to_core = CoreId(reader.u8()?);
        let cores = reader.u8()?;
        let formation = match reader.u8()? {
            0 => Formation::Empty,
            1 => Formation::Forming,
            2 => Formation::Formed,
            _ => return Ok(Err(HelloError::NotAPeer)),
        };
        let shards = reader.u16_le()?;
        let _zero = reader.u32_le()?;
        let cluster = ClusterId(reader.u128_le()?);
        let disk = DiskId(reader.u128_le()?);
        let incarnation = reader.u64_le()?;
        if cores == 0 || from_core.0 >= cores {
            return Ok(Err(HelloError::NotAPeer));
        }
        Ok(Ok(Self {
            version_min,
            version_max,
            from,
            to,
            from_core,
            to_core,
            cores,
            formation,
            shards,
            cluster,
            disk,
            incarnation,
        }))
    }
}
