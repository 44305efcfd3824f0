//! A frozen state to chunks of bytes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::walk::{Step, Walk};
use super::{DATA_IS_NULL, FORMAT, HAS_RARE_FIELDS, ImageHeader, MAGIC, ZNODE_BYTES_MIN};
use crate::base::bytes::{Put, length_u32};
use crate::base::limits::SNAPSHOT_CHUNK_BYTES;
use crate::state::Tables;
use crate::state::session::SessionsEncoder;
use crate::state::tree::{NodeId, Znodes};
use crate::txn::AclEntry;

/// Writes one image, a chunk at a time.
pub struct ImageWriter {
    header: ImageHeader,
    znodes: Znodes,
    /// Encoded before anything else, because the header says how long they are.
    sessions: Vec<u8>,
    stage: Stage,
    walk: Walk,
    /// The image's numbers of ACL lists, by the view's.
    acl_numbers: BTreeMap<u32, u32>,
    written: usize,
    /// What is encoded and not yet given out.
    encoded: Vec<u8>,
    given_out: usize,
}

/// What is to be done next.
enum Stage {
    Encode(SessionsEncoder),
    Begin,
    Walk,
    /// The sessions follow, from this byte on.
    End(usize),
    Over,
}

impl ImageWriter {
    /// Begins the image of a frozen tree and of its sessions, whose bytes it does not look into.
    pub fn new(header: ImageHeader, znodes: Znodes, sessions: Vec<u8>) -> Self {
        Self {
            header,
            znodes,
            sessions,
            stage: Stage::Begin,
            walk: Walk::new(),
            acl_numbers: BTreeMap::new(),
            written: 0,
            encoded: Vec::new(),
            given_out: 0,
        }
    }

    /// The same of tables that have yet to be encoded.
    pub(super) fn of(header: ImageHeader, znodes: Znodes, tables: &Tables) -> Self {
        let mut sessions = Vec::new();
        let encoder = tables.begin(&mut sessions);
        Self { stage: Stage::Encode(encoder), ..Self::new(header, znodes, sessions) }
    }

    /// Appends the next chunk to `out` and returns whether the image goes on behind it.
    ///
    /// The work of one call is bounded. While sessions are being encoded, or the children of a wide
    /// znode sorted, a call may append nothing although the image goes on.
    pub fn next_chunk(&mut self, out: &mut Vec<u8>) -> bool {
        self.next_part(SNAPSHOT_CHUNK_BYTES, out)
    }

    /// The same with smaller chunks, for those that go over a link beside many others.
    pub fn next_part(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        assert!(0 < bytes_max && bytes_max <= SNAPSHOT_CHUNK_BYTES, "a chunk is bounded");
        let mut budget = STEPS_PER_CALL_MAX;
        while self.waiting() < bytes_max {
            match &mut self.stage {
                Stage::Encode(encoder) => {
                    if encoder.step(SNAPSHOT_CHUNK_BYTES, &mut self.sessions) {
                        return true;
                    }
                    self.stage = Stage::Begin;
                }
                Stage::Begin => {
                    self.encoded.reserve(2 * bytes_max);
                    self.put_header();
                    self.stage = Stage::Walk;
                }
                Stage::Walk if budget == 0 => return true,
                Stage::Walk => {
                    budget -= 1;
                    budget = budget.saturating_sub(self.walk_on());
                }
                Stage::End(from) => {
                    let end = self.sessions.len().min(*from + bytes_max);
                    self.encoded.put(&self.sessions[*from..end]);
                    let is_over = end == self.sessions.len();
                    self.stage = if is_over { Stage::Over } else { Stage::End(end) };
                }
                Stage::Over => break,
            }
        }
        let end = self.encoded.len().min(self.given_out + bytes_max);
        out.put(&self.encoded[self.given_out..end]);
        self.given_out = end;
        let is_written = matches!(self.stage, Stage::Over);
        if !is_written && self.waiting() < bytes_max {
            // What is left is moved to the front only when more is going to be put behind it.
            self.encoded.drain(..self.given_out);
            self.given_out = 0;
        }
        !is_written || self.waiting() > 0
    }

    fn waiting(&self) -> usize {
        self.encoded.len() - self.given_out
    }

    fn put_header(&mut self) {
        let out = &mut self.encoded;
        out.put(&MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le(self.header.shard.0);
        out.put_u64_le(self.header.zxid.0);
        out.put_u64_le(self.znodes.len() as u64);
        out.put_u64_le(self.sessions.len() as u64);
        out.put_u128_le(self.znodes.digest());
    }

    /// Visits a znode, or sorts so many for later visits.
    fn walk_on(&mut self) -> usize {
        match self.walk.step(&self.znodes) {
            Step::Visit { node, depth } => {
                self.put_znode(node, depth);
                0
            }
            Step::Sorted(count) => count,
            Step::End => {
                assert!(self.written == self.znodes.len(), "the walk visits every znode once");
                self.stage = Stage::End(0);
                0
            }
        }
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
