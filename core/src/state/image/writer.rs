//! A frozen state to chunks of bytes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::walk::{Step, Walk};
use super::{DATA_IS_NULL, FORMAT, HAS_RARE_FIELDS, ImageHeader, MAGIC, ZNODE_BYTES_MIN};
use crate::base::bytes::{Put, length_u32};
use crate::base::limits::SNAPSHOT_CHUNK_BYTES;
use crate::state::tree::{NodeId, Znodes};
use crate::txn::AclEntry;

/// Writes one image, a chunk at a time.
pub struct ImageWriter {
    znodes: Znodes,
    /// Taken when the znodes are written.
    sessions: Vec<u8>,
    walk: Walk,
    /// The image's numbers of ACL lists, by the view's.
    acl_numbers: BTreeMap<u32, u32>,
    written: usize,
    is_walked: bool,
    /// What is encoded and not yet given out.
    encoded: Vec<u8>,
    given_out: usize,
}

impl ImageWriter {
    /// Begins the image of a frozen tree and of its sessions, whose bytes it does not look into.
    pub fn new(header: ImageHeader, znodes: Znodes, sessions: Vec<u8>) -> Self {
        let mut encoded = Vec::with_capacity(2 * SNAPSHOT_CHUNK_BYTES);
        encoded.put(&MAGIC);
        encoded.put_u16_le(FORMAT);
        encoded.put_u16_le(header.shard.0);
        encoded.put_u64_le(header.zxid.0);
        encoded.put_u64_le(znodes.len() as u64);
        encoded.put_u64_le(sessions.len() as u64);
        encoded.put_u128_le(znodes.digest());
        Self {
            znodes,
            sessions,
            walk: Walk::new(),
            acl_numbers: BTreeMap::new(),
            written: 0,
            is_walked: false,
            encoded,
            given_out: 0,
        }
    }

    /// Appends the next chunk to `out` and returns whether the image goes on behind it.
    ///
    /// The work of one call is bounded. While the children of a wide znode are being sorted, a call
    /// may append nothing although the image goes on.
    pub fn next_chunk(&mut self, out: &mut Vec<u8>) -> bool {
        let mut budget = STEPS_PER_CALL_MAX;
        while !self.is_walked && self.waiting() < SNAPSHOT_CHUNK_BYTES {
            if budget == 0 {
                return true;
            }
            budget -= 1;
            match self.walk.step(&self.znodes) {
                Step::Visit { node, depth } => self.put_znode(node, depth),
                Step::Sorted(count) => budget = budget.saturating_sub(count),
                Step::End => self.end_walk(),
            }
        }
        let end = self.encoded.len().min(self.given_out + SNAPSHOT_CHUNK_BYTES);
        out.put(&self.encoded[self.given_out..end]);
        self.given_out = end;
        let goes_on = !self.is_walked || self.waiting() > 0;
        if !self.is_walked && self.waiting() < SNAPSHOT_CHUNK_BYTES {
            // What is left is moved to the front only when more is going to be put behind it.
            self.encoded.drain(..self.given_out);
            self.given_out = 0;
        }
        goes_on
    }

    fn waiting(&self) -> usize {
        self.encoded.len() - self.given_out
    }

    fn put_znode(&mut self, node: NodeId, depth: usize) {
        let fields = self.znodes.fields(node);
        let name = self.znodes.name_bytes(node);
        let data = self.znodes.data(node);
        let known = length_u32(self.acl_numbers.len());
        let number = self.znodes.acl_number(node);
        let acl = *self.acl_numbers.entry(number).or_insert(known);
        let out = &mut self.encoded;
        out.put_u16_le(u16::try_from(depth).expect("paths are bounded"));
        let rare = if fields.are_common() { 0 } else { HAS_RARE_FIELDS };
        let null = if data.is_none() { DATA_IS_NULL } else { 0 };
        let data = data.unwrap_or_default();
        out.put_u8(rare | null);
        out.put_u32_le(acl);
        out.put_u16_le(u16::try_from(name.len()).expect("paths are bounded"));
        out.put_u32_le(length_u32(data.len()));
        out.put_u64_le(fields.czxid.0);
        out.put_u64_le(fields.mzxid.0);
        out.put(&fields.ctime_ms.to_le_bytes());
        out.put(&fields.mtime_ms.to_le_bytes());
        out.put(&fields.version.to_le_bytes());
        if !fields.are_common() {
            out.put_u64_le(fields.pzxid.0);
            out.put(&fields.creations.to_le_bytes());
            out.put(&fields.aversion.to_le_bytes());
            out.put_u64_le(fields.ephemeral_owner.0);
        }
        out.put(name);
        out.put(data);
        if acl == known {
            put_acl(out, self.znodes.acl(node));
        }
        self.written += 1;
    }

    fn end_walk(&mut self) {
        assert!(self.written == self.znodes.len(), "the walk visits every znode once");
        self.is_walked = true;
        self.encoded.append(&mut self.sessions);
    }
}

fn put_acl(out: &mut Vec<u8>, entries: &[AclEntry]) {
    out.put_u32_le(length_u32(entries.len()));
    for entry in entries {
        out.put_u32_le(entry.permissions);
        out.put_u32_le(length_u32(entry.scheme.len()));
        out.put(entry.scheme.as_bytes());
        out.put_u32_le(length_u32(entry.id.len()));
        out.put(entry.id.as_bytes());
    }
}

/// To visit and to sort the smallest znodes of a full chunk, about 10 000 steps: only sorting ahead
/// of the visits, which wide znodes need, leaves a chunk unfinished.
const STEPS_PER_CALL_MAX: usize = 2 * SNAPSHOT_CHUNK_BYTES / ZNODE_BYTES_MIN;
