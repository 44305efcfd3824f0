//! A shard's state as bytes and back: what a learner is sent and what a snapshot file holds.
//!
//! Every replica writes the same bytes for the same state, so they can be compared and repaired
//! piece by piece. All numbers are little endian.
//!
//! | section  | field        | bytes | meaning                                                    |
//! |----------|--------------|-------|------------------------------------------------------------|
//! | header   | magic        |     8 | `PHOLEIMG`                                                 |
//! |          | format       |     2 | 1                                                          |
//! |          | shard        |     2 |                                                            |
//! |          | zxid         |     8 | the last transaction that the state contains               |
//! |          | znodes       |     8 | how many follow, the root included                         |
//! |          | sessions     |     8 | the length of the sessions' section                        |
//! |          | digest       |    16 | of the znodes                                              |
//! | znodes   |              |       | depth first, children in the order of their names' bytes   |
//! |          | depth        |     2 | 0 for the root, which comes first; at most one more than   |
//! |          |              |       | the znode's before                                         |
//! |          | flags        |     1 | 1: there are rare fields; 2: the data is null              |
//! |          | ACL list     |     4 | its number; lists are numbered by first use                |
//! |          | name length  |     2 |                                                            |
//! |          | data length  |     4 |                                                            |
//! |          | czxid, mzxid |  8, 8 |                                                            |
//! |          | ctime, mtime |  8, 8 | milliseconds since 1970                                    |
//! |          | version      |     4 | of the data                                                |
//! |          | rare fields  |    24 | pzxid (8), count of creations (4), version of the ACL (4), |
//! |          |              |       | owning session (8). Absent: pzxid is czxid, the others 0   |
//! |          | name         |       |                                                            |
//! |          | data         |       |                                                            |
//! |          | new list     |       | if the number is used first here: count (4), and for each  |
//! |          |              |       | entry permissions (4), scheme and id (length 4, bytes)     |
//! | sessions |              |       | the sessions' own format                                   |
//!
//! For a file, the image is cut into chunks of `SNAPSHOT_CHUNK_BYTES`, wherever that falls; only
//! the last one is shorter. On a link they may be smaller. Chunks are checksummed by those who
//! store and carry them. The reader checks form and the digest, and takes nothing for granted.

mod reader;
mod walk;
mod writer;

use crate::base::id::{ShardId, Zxid};
use crate::state::Tables;
use crate::state::tree::Znodes;

pub use self::reader::{Image, ImageReader};
pub use self::writer::ImageWriter;

/// What an image is an image of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageHeader {
    pub shard: ShardId,
    /// The last transaction that the state contains.
    pub zxid: Zxid,
}

/// A state that stays as it was while the live one moves on. It costs little until it is encoded.
pub struct Frozen {
    header: ImageHeader,
    znodes: Znodes,
    tables: Tables,
}

impl Frozen {
    pub(super) fn new(header: ImageHeader, znodes: Znodes, tables: Tables) -> Self {
        Self { header, znodes, tables }
    }

    /// The image, chunk by chunk.
    pub fn into_image(self) -> ImageWriter {
        ImageWriter::of(self.header, self.znodes, &self.tables)
    }
}

/// Why bytes are not an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    NotAnImage,
    /// Written by a newer version of this program, with this format.
    UnknownFormat(u16),
    /// A depth, a flag or an order that no writer produces.
    BadShape,
    /// A name that is no component of a path, or a path longer than paths may be.
    BadName,
    /// A length or a number beyond its bound.
    TooLarge,
    /// A list that no znode before has defined, or whose strings are not UTF-8.
    BadAcl,
    /// The znodes are not those that the header's digest was made of.
    WrongDigest,
    /// It ends too early.
    Incomplete,
    /// Bytes follow its end.
    TooLong,
}

const MAGIC: [u8; 8] = *b"PHOLEIMG";
/// What snapshot points name: the format in which every replica writes the image.
pub const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 8 + 2 + 2 + 8 + 8 + 8 + 16;
/// The flags that there are.
const HAS_RARE_FIELDS: u8 = 1;
const DATA_IS_NULL: u8 = 2;
/// A znode without rare fields, with the shortest name, no data and a known list.
const ZNODE_BYTES_MIN: usize = 2 + 1 + 4 + 2 + 4 + 4 * 8 + 4 + 1;
