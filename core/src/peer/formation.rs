//! What servers without a cluster tell each other: what is on their disks, and who votes.
//!
//! | offset | bytes | field                                                            |
//! |-------:|------:|------------------------------------------------------------------|
//! |      0 |     1 | what is on the sender's disk: 0 empty, 1 forming, 2 formed       |
//! |      1 |     7 | zero                                                             |
//! |      8 |    16 | cluster id, 0 if empty                                           |
//! |     24 |    32 | the voters that the sender is configured with, a bit for each id |
//!
//! Numbers are little endian. Server `id` is bit `id % 8` of byte `id / 8`.

use alloc::vec::Vec;

use crate::base::bytes::{Put, Reader, Truncated};
use crate::base::id::{ClusterId, ServerId};
use crate::peer::hello::Formation;

pub const FORMATION_BYTES: usize = 56;

/// How far a server's disk has come in founding its cluster, and which one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    Empty,
    /// Every voter is about to log this nonce; it still counts as empty.
    Forming(ClusterId),
    /// The cluster exists, and this disk may hold promises made in it.
    Formed(ClusterId),
}

/// A set of servers as it travels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServerSet([u8; 32]);

/// The one message of formation. It is said when a link comes up and whenever the disk changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FormationMessage {
    pub standing: Standing,
    pub voters: ServerSet,
}

/// Bytes that no server of this version sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl Standing {
    /// The state of a hello, with its cluster id; `None` if the two do not fit together.
    pub fn from_hello(formation: Formation, cluster: ClusterId) -> Option<Self> {
        let is_nobody = cluster == ClusterId::default();
        match formation {
            Formation::Empty if is_nobody => Some(Self::Empty),
            Formation::Forming if !is_nobody => Some(Self::Forming(cluster)),
            Formation::Formed if !is_nobody => Some(Self::Formed(cluster)),
            _ => None,
        }
    }

    pub fn formation(self) -> Formation {
        match self {
            Self::Empty => Formation::Empty,
            Self::Forming(_) => Formation::Forming,
            Self::Formed(_) => Formation::Formed,
        }
    }

    /// The nonce on the disk; 0 if there is none.
    pub fn cluster(self) -> ClusterId {
        match self {
            Self::Empty => ClusterId::default(),
            Self::Forming(cluster) | Self::Formed(cluster) => cluster,
        }
    }
}

impl ServerSet {
    pub fn contains(&self, server: ServerId) -> bool {
        self.0[usize::from(server.0 / 8)] & (1 << (server.0 % 8)) != 0
    }
}

impl FromIterator<ServerId> for ServerSet {
    fn from_iter<I: IntoIterator<Item = ServerId>>(servers: I) -> Self {
        let mut bits = [0; 32];
        for server in servers {
            bits[usize::from(server.0 / 8)] |= 1 << (server.0 % 8);
        }
        Self(bits)
    }
}

impl FormationMessage {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u8(self.standing.formation() as u8);
        out.put(&[0; 7]);
        out.put_u128_le(self.standing.cluster().0);
        out.put(&self.voters.0);
        assert_eq!(out.len() - start, FORMATION_BYTES);
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let message = Self::read(&mut reader).map_err(|Truncated| Malformed)??;
        if reader.is_empty() { Ok(message) } else { Err(Malformed) }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Result<Self, Malformed>, Truncated> {
        let formation = match reader.u8()? {
            0 => Formation::Empty,
            1 => Formation::Forming,
            2 => Formation::Formed,
            _ => return Ok(Err(Malformed)),
        };
        let zeros = reader.array::<7>()?;
        let cluster = ClusterId(reader.u128_le()?);
        let voters = ServerSet(reader.array()?);
        let standing = Standing::from_hello(formation, cluster).filter(|_| zeros == [0; 7]);
        Ok(standing.map(|standing| Self { standing, voters }).ok_or(Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(standing: Standing) -> FormationMessage {
        let voters = [1, 2, 9, 254].map(ServerId).into_iter().collect();
        FormationMessage { standing, voters }
    }

    #[test]
    fn every_message_survives_its_bytes() {
        let cluster = ClusterId(7);
        for standing in [Standing::Empty, Standing::Forming(cluster), Standing::Formed(cluster)] {
            let mut bytes = Vec::new();
            message(standing).encode(&mut bytes);
            assert_eq!(FormationMessage::decode(&bytes), Ok(message(standing)), "{standing:?}");
        }
    }

    #[test]
    fn a_set_has_its_members_and_no_others() {
        let set = message(Standing::Empty).voters;
        let members: Vec<u8> = (0..=255).filter(|&id| set.contains(ServerId(id))).collect();
        assert_eq!(members, [1, 2, 9, 254]);
    }

    #[test]
    fn other_bytes_are_refused() {
        let mut whole = Vec::new();
        message(Standing::Forming(ClusterId(7))).encode(&mut whole);
        for length in 0..whole.len() {
            assert_eq!(FormationMessage::decode(&whole[..length]), Err(Malformed));
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert_eq!(FormationMessage::decode(&longer), Err(Malformed));
        // An unknown state, a byte that has to be zero, and states that do not fit the cluster id.
        for (at, value) in [(0, 3), (3, 1), (0, 0), (8, 0)] {
            let mut other = whole.clone();
            other[at] = value;
            assert_eq!(FormationMessage::decode(&other), Err(Malformed), "{at}");
        }
    }
}
