//! Chunks of bytes to a tree. The bytes come from a peer or a disk and may be anything.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem;

use super::{DATA_IS_NULL, FORMAT, HAS_RARE_FIELDS, HEADER_BYTES, ImageError, ImageHeader, MAGIC};
use crate::base::bytes::{Reader, Truncated};
use crate::base::id::{SessionId, ShardId, Zxid};
use crate::base::limits::{PATH_BYTES_MAX, PATH_DEPTH_MAX, RECORD_BYTES_MAX};
use crate::state::tree::{Fields, NodeId, Tree};
use crate::txn::AclEntry;

/// Builds a tree from the chunks of one image.
pub struct ImageReader {
    tree: Tree,
    ephemerals: Vec<(SessionId, String)>,
    sessions: Vec<u8>,
    /// Absent until its bytes are there.
    header: Option<ImageHeader>,
    digest: u128,
    znodes_left: u64,
    session_bytes_left: u64,
    /// The start of a znode whose end is in the next chunk.
    pending: Vec<u8>,
    /// The path of the znode read last, and the znodes on it from the root downwards.
    path: String,
    open: Vec<Open>,
    /// The tree's numbers of ACL lists, by the image's; each holds a reference.
    acl_numbers: Vec<u32>,
    failure: Option<ImageError>,
}

/// What an image held.
pub struct Image {
    pub header: ImageHeader,
    pub tree: Tree,
    /// The ephemeral znodes: what reads a tree as it comes need not walk it once more.
    pub ephemerals: Vec<(SessionId, String)>,
    pub sessions: Vec<u8>,
}

struct Open {
    node: NodeId,
    /// Of its path; 0 for the root, whose children's paths begin with the slash.
    path_length: usize,
}

/// One znode as it stands in the bytes.
struct Znode<'a> {
    depth: usize,
    fields: Fields,
    name: &'a str,
    data: Option<&'a [u8]>,
    acl: usize,
    /// The list, where it is used first.
    acl_entries: Option<Vec<AclEntry>>,
}

enum Stop {
    /// The rest is in the next chunk.
    Incomplete,
    Invalid(ImageError),
}

impl ImageReader {
    /// See [`Tree::with_index_seed`] for the seed.
    pub fn new(index_seed: u64) -> Self {
        Self {
            tree: Tree::with_index_seed(index_seed),
            ephemerals: Vec::new(),
            sessions: Vec::new(),
            header: None,
            digest: 0,
            znodes_left: 0,
            session_bytes_left: 0,
            pending: Vec::new(),
            path: String::new(),
            open: Vec::new(),
            acl_numbers: Vec::new(),
            failure: None,
        }
    }

    /// Takes the next bytes, however they are cut. After an error every later call returns it
    /// again.
    pub fn on_chunk(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let mut pending = mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        match self.consume(&pending) {
            Ok(rest) => {
                let consumed = pending.len() - rest;
                pending.drain(..consumed);
                self.pending = pending;
                Ok(())
            }
            Err(failure) => {
                self.failure = Some(failure);
                Err(failure)
            }
        }
    }

    /// What the image held, if all of it was read.
    pub fn finish(mut self) -> Result<Image, ImageError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let header = self.header.ok_or(ImageError::Incomplete)?;
        if self.znodes_left > 0 || self.session_bytes_left > 0 {
            return Err(ImageError::Incomplete);
        }
        assert!(self.pending.is_empty(), "bytes behind the end were refused");
        for number in self.acl_numbers {
            self.tree.release_acl(number);
        }
        let Self { tree, ephemerals, sessions, .. } = self;
        Ok(Image { header, tree, ephemerals, sessions })
    }

    /// Reads as far as the bytes are complete and returns how many are left.
    fn consume(&mut self, bytes: &[u8]) -> Result<usize, ImageError> {
        let mut reader = Reader::new(bytes);
        if self.header.is_none() {
            if reader.remaining() < HEADER_BYTES {
                return Ok(reader.remaining());
            }
            self.read_header(&mut reader)?;
        }
        while self.znodes_left > 0 {
            let mut ahead = reader.clone();
            match Znode::read(&mut ahead, self.acl_numbers.len()) {
                Ok(znode) => self.on_znode(znode)?,
                Err(Stop::Incomplete) => return Ok(reader.remaining()),
                Err(Stop::Invalid(error)) => return Err(error),
            }
            reader = ahead;
        }
        self.read_sessions(&reader)?;
        Ok(0)
    }

    fn read_header(&mut self, reader: &mut Reader<'_>) -> Result<(), ImageError> {
        let whole = |Truncated| ImageError::Incomplete;
        if reader.array().map_err(whole)? != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        let format = reader.u16_le().map_err(whole)?;
        if format != FORMAT {
            return Err(ImageError::UnknownFormat(format));
        }
        let shard = ShardId(reader.u16_le().map_err(whole)?);
        let zxid = Zxid(reader.u64_le().map_err(whole)?);
        self.znodes_left = reader.u64_le().map_err(whole)?;
        self.session_bytes_left = reader.u64_le().map_err(whole)?;
        self.digest = reader.u128_le().map_err(whole)?;
        if self.znodes_left == 0 {
            return Err(ImageError::BadShape);
        }
        self.header = Some(ImageHeader { shard, zxid });
        Ok(())
    }

    fn on_znode(&mut self, znode: Znode<'_>) -> Result<(), ImageError> {
        if let Some(entries) = &znode.acl_entries {
            self.acl_numbers.push(self.tree.intern_acl(entries));
        }
        let acl = self.acl_numbers[znode.acl];
        if self.open.is_empty() {
            if znode.depth != 0 || !znode.name.is_empty() {
                return Err(ImageError::BadShape);
            }
            self.tree.restore_root(&znode.fields, znode.data, acl);
            self.open.push(Open { node: Tree::ROOT, path_length: 0 });
        } else {
            let parent = self.enter(&znode)?;
            let node = self.tree.restore(parent, &self.path, &znode.fields, znode.data, acl);
            self.open.push(Open { node, path_length: self.path.len() });
            if znode.fields.ephemeral_owner != SessionId(0) {
                self.ephemerals.push((znode.fields.ephemeral_owner, self.path.clone()));
            }
        }
        self.znodes_left -= 1;
        if self.znodes_left == 0 && self.tree.digest() != self.digest {
            return Err(ImageError::WrongDigest);
        }
        Ok(())
    }

    /// Makes `path` the new znode's, which comes after all that its parent has, and returns the
    /// parent. That the names ascend is also what makes every path occur once.
    fn enter(&mut self, znode: &Znode<'_>) -> Result<NodeId, ImageError> {
        if znode.depth == 0 || znode.depth > self.open.len() || znode.depth > PATH_DEPTH_MAX {
            return Err(ImageError::BadShape);
        }
        let name = znode.name;
        if name.is_empty() || name.contains('/') {
            return Err(ImageError::BadName);
        }
        let parent = &self.open[znode.depth - 1];
        if let Some(before) = self.open.get(znode.depth) {
            let before = &self.path[parent.path_length + 1..before.path_length];
            if name <= before {
                return Err(ImageError::BadShape);
            }
        }
        let node = parent.node;
        self.path.truncate(parent.path_length);
        self.open.truncate(znode.depth);
        self.path.push('/');
        self.path.push_str(name);
        if self.path.len() > PATH_BYTES_MAX + SEQUENCE_BYTES_MAX {
            return Err(ImageError::BadName);
        }
        Ok(node)
    }

    fn read_sessions(&mut self, reader: &Reader<'_>) -> Result<(), ImageError> {
        let rest = reader.rest();
        self.session_bytes_left =
            self.session_bytes_left.checked_sub(rest.len() as u64).ok_or(ImageError::TooLong)?;
        self.sessions.extend_from_slice(rest);
        Ok(())
    }
}

impl<'a> Znode<'a> {
    fn read(reader: &mut Reader<'a>, acls_known: usize) -> Result<Self, Stop> {
        let depth = usize::from(reader.u16_le()?);
        let flags = reader.u8()?;
        if flags & !(HAS_RARE_FIELDS | DATA_IS_NULL) != 0 {
            return Err(Stop::Invalid(ImageError::BadShape));
        }
        let acl = reader.u32_le()? as usize;
        if acl > acls_known {
            return Err(Stop::Invalid(ImageError::BadAcl));
        }
        let name_length = usize::from(reader.u16_le()?);
        let data_length = bounded(reader)?;
        let is_null = flags & DATA_IS_NULL != 0;
        if is_null && data_length > 0 {
            return Err(Stop::Invalid(ImageError::BadShape));
        }
        let fields = read_fields(reader, flags & HAS_RARE_FIELDS != 0)?;
        let name = core::str::from_utf8(reader.bytes(name_length)?);
        let name = name.map_err(|_| Stop::Invalid(ImageError::BadName))?;
        let data = reader.bytes(data_length)?;
        let data = (!is_null).then_some(data);
        let acl_entries = if acl == acls_known { Some(read_acl(reader)?) } else { None };
        Ok(Self { depth, fields, name, data, acl, acl_entries })
    }
}

fn read_fields(reader: &mut Reader<'_>, has_rare: bool) -> Result<Fields, Stop> {
    let czxid = Zxid(reader.u64_le()?);
    let mut fields = Fields {
        czxid,
        mzxid: Zxid(reader.u64_le()?),
        pzxid: czxid,
        ctime_ms: i64::from_le_bytes(reader.array()?),
        mtime_ms: i64::from_le_bytes(reader.array()?),
        version: i32::from_le_bytes(reader.array()?),
        ..Fields::default()
    };
    if has_rare {
        fields.pzxid = Zxid(reader.u64_le()?);
        fields.creations = i32::from_le_bytes(reader.array()?);
        fields.aversion = i32::from_le_bytes(reader.array()?);
        fields.ephemeral_owner = SessionId(reader.u64_le()?);
        if fields.are_common() {
            return Err(Stop::Invalid(ImageError::BadShape));
        }
    }
    Ok(fields)
}

fn read_acl(reader: &mut Reader<'_>) -> Result<Vec<AclEntry>, Stop> {
    let count = bounded(reader)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let permissions = reader.u32_le()?;
        let scheme = read_string(reader)?;
        let id = read_string(reader)?;
        entries.push(AclEntry { permissions, scheme, id });
    }
    Ok(entries)
}

fn read_string(reader: &mut Reader<'_>) -> Result<String, Stop> {
    let length = bounded(reader)?;
    let string = core::str::from_utf8(reader.bytes(length)?);
    Ok(string.map_err(|_| Stop::Invalid(ImageError::BadAcl))?.into())
}

/// A length. Whatever a znode holds came in one record of the log, so nothing in it is longer.
fn bounded(reader: &mut Reader<'_>) -> Result<usize, Stop> {
    let length = reader.u32_le()? as usize;
    if length > RECORD_BYTES_MAX {
        return Err(Stop::Invalid(ImageError::TooLarge));
    }
    Ok(length)
}

impl From<Truncated> for Stop {
    fn from(Truncated: Truncated) -> Self {
        Self::Incomplete
    }
}

/// What the leader appends to the checked path of a sequential znode, the sign included.
const SEQUENCE_BYTES_MAX: usize = 11;
