//! One znode as it lies in memory: a slot of 72 bytes, and more only for those that need it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_128;

use super::children::Children;
use crate::base::bytes::length_u32;
use crate::base::id::{SessionId, Zxid};

/// A slot, occupied or vacant.
#[derive(Clone)]
pub(super) struct Slot {
    /// The slot of the parent, or `NONE` for the root; of a vacant slot, the next vacant one.
    pub(super) parent: u32,
    /// This znode's place among its parent's children.
    pub(super) position: u32,
    /// The length of the name (two bytes, with a bit of its own for data that is null), the name,
    /// the data. One block, shared with frozen views: copying a page copies no bytes.
    bytes: Arc<[u8]>,
    /// Absent while all of it has the values of a new persistent znode without children.
    rare: Option<Arc<Rare>>,
    pub(super) czxid: Zxid,
    pub(super) mzxid: Zxid,
    pub(super) ctime_ms: i64,
    pub(super) mtime_ms: i64,
    pub(super) version: i32,
    /// The number of the ACL list, or `NONE` in a vacant slot.
    pub(super) acl: u32,
}

/// What few znodes need: parents, ephemerals, and those whose ACL was changed.
#[derive(Clone)]
pub(super) struct Rare {
    pub(super) pzxid: Zxid,
    pub(super) ephemeral_owner: SessionId,
    pub(super) creations: i32,
    pub(super) aversion: i32,
    /// All below it, children of children included. Nobody counts a million when a client asks.
    pub(super) descendants: u32,
    pub(super) children: Children,
}

/// A znode's metadata as it is replicated: all of it, and nothing that is derived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fields {
    pub(crate) czxid: Zxid,
    pub(crate) mzxid: Zxid,
    pub(crate) pzxid: Zxid,
    pub(crate) ctime_ms: i64,
    pub(crate) mtime_ms: i64,
    pub(crate) version: i32,
    pub(crate) creations: i32,
    pub(crate) aversion: i32,
    pub(crate) ephemeral_owner: SessionId,
}

/// What a digest takes for a znode's place; computed once for all terms of one change.
#[derive(Clone, Copy)]
pub(super) struct PathHash(u128);

/// No slot, no list.
pub(super) const NONE: u32 = u32::MAX;

impl Slot {
    pub(super) fn new(parent: u32, position: u32, acl: u32, fields: &Fields) -> Self {
        let mut slot = Self {
            parent,
            position,
            bytes: Arc::default(),
            rare: None,
            czxid: fields.czxid,
            mzxid: fields.mzxid,
            ctime_ms: fields.ctime_ms,
            mtime_ms: fields.mtime_ms,
            version: fields.version,
            acl,
        };
        if !fields.are_common() {
            let rare = slot.rare_mut();
            rare.pzxid = fields.pzxid;
            rare.ephemeral_owner = fields.ephemeral_owner;
            rare.creations = fields.creations;
            rare.aversion = fields.aversion;
        }
        slot
    }

    pub(super) fn is_vacant(&self) -> bool {
        self.acl == NONE
    }

    pub(super) fn set_bytes(&mut self, name: &[u8], data: Option<&[u8]>, scratch: &mut Vec<u8>) {
        let name_length = u16::try_from(name.len()).expect("a checked path is far shorter");
        assert!(name_length & DATA_IS_NULL == 0, "a checked path is far shorter");
        let head = if data.is_none() { name_length | DATA_IS_NULL } else { name_length };
        scratch.clear();
        scratch.extend_from_slice(&head.to_le_bytes());
        scratch.extend_from_slice(name);
        scratch.extend_from_slice(data.unwrap_or_default());
        self.bytes = Arc::from(scratch.as_slice());
        // One large value must not cost its size for ever.
        scratch.clear();
        scratch.shrink_to(SCRATCH_BYTES_KEPT);
    }

    pub(super) fn set_data(&mut self, data: Option<&[u8]>, scratch: &mut Vec<u8>) {
        let start = self.data_start();
        if let (Some(data), Some(before)) = (data, self.data())
            && before.len() == data.len()
            && let Some(bytes) = Arc::get_mut(&mut self.bytes)
        {
            bytes[start..].copy_from_slice(data);
            return;
        }
        let before = self.bytes.clone();
        self.set_bytes(&before[NAME_LENGTH_BYTES..start], data, scratch);
    }

    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        let czxid = self.czxid;
        Arc::make_mut(self.rare.get_or_insert_with(|| Arc::new(Rare::new(czxid))))
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.bytes[NAME_LENGTH_BYTES..self.data_start()]
    }

    pub(super) fn data(&self) -> Option<&[u8]> {
        let is_null = self.head() & DATA_IS_NULL != 0;
        (!is_null).then(|| &self.bytes[self.data_start()..])
    }

    pub(super) fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    pub(super) fn children_count(&self) -> usize {
        self.rare().map_or(0, |rare| rare.children.len())
    }

    pub(super) fn fields(&self) -> Fields {
        let rare = self.rare();
        Fields {
            czxid: self.czxid,
            mzxid: self.mzxid,
            pzxid: rare.map_or(self.czxid, |rare| rare.pzxid),
            ctime_ms: self.ctime_ms,
            mtime_ms: self.mtime_ms,
            version: self.version,
            creations: rare.map_or(0, |rare| rare.creations),
            aversion: rare.map_or(0, |rare| rare.aversion),
            ephemeral_owner: rare.map_or(SessionId(0), |rare| rare.ephemeral_owner),
        }
    }

    /// Reads a byte of every cache line of the name and the data, if that is not long.
    pub(super) fn look_ahead(&self) -> u8 {
        let lines = self.bytes.iter().step_by(CACHE_LINE_BYTES).take(LINES_AHEAD);
        let last = self.bytes.last().copied().unwrap_or_default();
        lines.fold(last, |all, byte| all ^ byte)
    }

    fn data_start(&self) -> usize {
        NAME_LENGTH_BYTES + usize::from(self.head() & !DATA_IS_NULL)
    }

    fn head(&self) -> u16 {
        u16::from_le_bytes([self.bytes[0], self.bytes[1]])
    }
}

impl Default for Slot {
    /// A vacant slot, the last of its chain.
    fn default() -> Self {
        Self::new(NONE, 0, NONE, &Fields::default())
    }
}

impl Rare {
    fn new(czxid: Zxid) -> Self {
        Self {
            pzxid: czxid,
            ephemeral_owner: SessionId(0),
            creations: 0,
            aversion: 0,
            descendants: 0,
            children: Children::new(),
        }
    }
}

impl Fields {
    /// Whether a slot alone can hold them.
    pub(crate) fn are_common(&self) -> bool {
        self.pzxid == self.czxid
            && self.creations == 0
            && self.aversion == 0
            && self.ephemeral_owner == SessionId(0)
    }

    /// What the digest adds for a znode's metadata.
    pub(super) fn digest_term(&self, path: PathHash, acl_hash: u128) -> u128 {
        let mut bytes = [0; 92];
        let mut end = 0;
        let mut put = |field: &[u8]| {
            bytes[end..end + field.len()].copy_from_slice(field);
            end += field.len();
        };
        put(&path.0.to_le_bytes());
        put(&self.czxid.0.to_le_bytes());
        put(&self.mzxid.0.to_le_bytes());
        put(&self.pzxid.0.to_le_bytes());
        put(&self.ctime_ms.to_le_bytes());
        put(&self.mtime_ms.to_le_bytes());
        put(&self.version.to_le_bytes());
        put(&self.creations.to_le_bytes());
        put(&self.aversion.to_le_bytes());
        put(&self.ephemeral_owner.0.to_le_bytes());
        put(&acl_hash.to_le_bytes());
        assert!(end == bytes.len(), "every field is in the digest");
        xxh3_128(&bytes)
    }
}

impl PathHash {
    pub(super) fn of(path: &[u8]) -> Self {
        Self(xxh3_128(path))
    }

    /// What the digest adds for a znode's data. Apart from the metadata, because those change with
    /// every child that comes or goes, and the data may be large.
    pub(super) fn data_term(self, data: Option<&[u8]>) -> u128 {
        let Some(data) = data else {
            // Shorter than what is hashed for any data, and so none of theirs.
            return xxh3_128(&self.0.to_le_bytes());
        };
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.0.to_le_bytes());
        bytes[16..].copy_from_slice(&xxh3_128(data).to_le_bytes());
        xxh3_128(&bytes)
    }
}

/// How many bytes of data there are: none if it is null.
pub(super) fn length(data: Option<&[u8]>) -> usize {
    data.map_or(0, <[u8]>::len)
}

/// A count of children as it stands in a stat.
pub(super) fn count_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A position among siblings; there are fewer slots than this type has numbers.
pub(super) fn position_u32(position: usize) -> u32 {
    length_u32(position)
}

const NAME_LENGTH_BYTES: usize = 2;
/// In the length of the name, which never needs this bit.
const DATA_IS_NULL: u16 = 1 << 15;
const CACHE_LINE_BYTES: usize = 64;
/// Longer values are read in a row, which a processor sees coming.
const LINES_AHEAD: usize = 4;
const SCRATCH_BYTES_KEPT: usize = 4096;

const _: () = assert!(size_of::<Slot>() <= 72);
