//! Replies written straight into a connection's output buffer: a frame is begun, its body appended,
//! and what is known only then is patched in front of it.

use alloc::vec::Vec;

use crate::base::bytes::{Put, length_u32};
use crate::base::error::ErrorCode;
use crate::base::id::{SessionId, Zxid};
use crate::op::{Acl, EventType, OpCode, Stat};
use crate::wire::jute::PutJute;

/// The xid of a watch event.
pub const XID_EVENT: i32 = -1;
/// The xid of a ping's reply, whatever xid the ping had.
pub const XID_PING: i32 = -2;
/// The xid that clients give to auth packets.
pub const XID_AUTH: i32 = -4;
/// The xid that some clients give to setWatches; ZooKeeper's own numbers it like a request.
pub const XID_SET_WATCHES: i32 = -8;
/// What stands for "no zxid" in a reply's header.
pub const ZXID_NONE: Zxid = Zxid(u64::MAX);
/// The length of a session's password.
pub const PASSWORD_BYTES: usize = 16;
/// A Stat record.
pub const STAT_BYTES: usize = 68;

/// Where a frame begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "an unfinished frame has no length"]
pub struct Mark(usize);

/// Where a vector begins, and how many elements it has so far.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "an unfinished vector has no count"]
pub struct Vector {
    at: usize,
    count: usize,
}

/// The answer to a ConnectRequest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectResponse {
    pub protocol_version: i32,
    pub timeout_ms: i32,
    pub session: SessionId,
    pub password: [u8; PASSWORD_BYTES],
    /// Present if the request had the flag, see `ConnectRequest::read_only`.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// The session is unknown, expired or not the client's: it learns that from the zeros. Like
    /// every server that writes, this one says so to a client that would do with less.
    pub fn refused(read_only: Option<bool>) -> Self {
        Self {
            protocol_version: 0,
            timeout_ms: 0,
            session: SessionId(0),
            password: [0; PASSWORD_BYTES],
            read_only: read_only.map(|_| false),
        }
    }
}

/// Begins a reply; its body follows, if it has one, then `finish`.
#[inline]
pub fn begin(out: &mut Vec<u8>) -> Mark {
    let mark = Mark(out.len());
    out.put(&[0; PREFIX_BYTES]);
    mark
}

/// Ends the reply begun at `mark`. A code other than `Ok` takes what was written of the body back:
/// clients expect none.
#[inline]
pub fn finish(out: &mut Vec<u8>, mark: Mark, xid: i32, zxid: Zxid, code: ErrorCode) {
    if code != ErrorCode::Ok {
        out.truncate(mark.0 + PREFIX_BYTES);
    }
    let length = length_u32(out.len() - mark.0 - LENGTH_BYTES);
    let (_, frame) = out.split_at_mut(mark.0);
    let prefix = frame.first_chunk_mut::<PREFIX_BYTES>().expect("begin reserved the prefix");
    prefix[..4].copy_from_slice(&length.to_be_bytes());
    prefix[4..8].copy_from_slice(&xid.to_be_bytes());
    prefix[8..16].copy_from_slice(&zxid.wire().to_be_bytes());
    prefix[16..].copy_from_slice(&code.wire().to_be_bytes());
}

/// A reply without a body: every refusal, and what has nothing to say beyond success.
#[inline]
pub fn header_only(out: &mut Vec<u8>, xid: i32, zxid: Zxid, code: ErrorCode) {
    let mark = begin(out);
    finish(out, mark, xid, zxid, code);
}

#[inline]
pub fn stat(out: &mut Vec<u8>, stat: &Stat) {
    let mut bytes = [0; STAT_BYTES];
    bytes[..8].copy_from_slice(&stat.czxid.wire().to_be_bytes());
    bytes[8..16].copy_from_slice(&stat.mzxid.wire().to_be_bytes());
    bytes[16..24].copy_from_slice(&stat.ctime_ms.to_be_bytes());
    bytes[24..32].copy_from_slice(&stat.mtime_ms.to_be_bytes());
    bytes[32..36].copy_from_slice(&stat.version.to_be_bytes());
    bytes[36..40].copy_from_slice(&stat.cversion.to_be_bytes());
    bytes[40..44].copy_from_slice(&stat.aversion.to_be_bytes());
    bytes[44..52].copy_from_slice(&stat.ephemeral_owner.wire().to_be_bytes());
    bytes[52..56].copy_from_slice(&stat.data_length.to_be_bytes());
    bytes[56..60].copy_from_slice(&stat.children_count.to_be_bytes());
    bytes[60..].copy_from_slice(&stat.pzxid.wire().to_be_bytes());
    out.put(&bytes);
}

/// A path: the body of create and sync, the first half of create2's.
#[inline]
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.put_text(text);
}

/// A znode's data: the first half of getData's body.
#[inline]
pub fn data(out: &mut Vec<u8>, data: Option<&[u8]>) {
    out.put_nullable_buffer(data);
}

/// The whole body of getAllChildrenNumber; with zero, addWatch's.
#[inline]
pub fn number(out: &mut Vec<u8>, number: i32) {
    out.put_i32_be(number);
}

/// Begins a vector; its elements follow, then `finish_vector`.
#[inline]
pub fn begin_vector(out: &mut Vec<u8>) -> Vector {
    let vector = Vector { at: out.len(), count: 0 };
    out.put_count(0);
    vector
}

/// Appends a child's name or an ephemeral's path.
#[inline]
pub fn push_string(out: &mut Vec<u8>, vector: &mut Vector, text: &str) {
    out.put_text(text);
    vector.count += 1;
}

pub fn push_acl(out: &mut Vec<u8>, vector: &mut Vector, acl: &Acl<'_>) {
    out.put_u32_be(acl.permissions);
    out.put_text(acl.scheme);
    out.put_text(acl.id);
    vector.count += 1;
}

/// Appends one identity of whoAmI's answer.
pub fn push_identity(out: &mut Vec<u8>, vector: &mut Vector, scheme: &str, user: &str) {
    out.put_text(scheme);
    out.put_text(user);
    vector.count += 1;
}

/// Ends a vector: the count is known now.
#[inline]
#[expect(clippy::needless_pass_by_value, reason = "a vector ends once")]
pub fn finish_vector(out: &mut [u8], vector: Vector) {
    let count = length_u32(vector.count).to_be_bytes();
    out[vector.at..vector.at + COUNT_BYTES].copy_from_slice(&count);
}

/// One result of a multi or a multiRead; what the operation's own reply would hold follows: a path
/// for create, path and stat for create2, a stat for setData, nothing for delete and check, data
/// and stat for getData, names for getChildren.
pub fn multi_result(out: &mut Vec<u8>, operation: OpCode) {
    multi_header(out, operation.wire(), false, 0);
}

/// One refused operation of a multi or a multiRead.
pub fn multi_error(out: &mut Vec<u8>, code: ErrorCode) {
    multi_header(out, MULTI_ERROR_TYPE, false, code.wire());
    out.put_i32_be(code.wire());
}

/// Behind the last result.
pub fn multi_end(out: &mut Vec<u8>) {
    multi_header(out, MULTI_ERROR_TYPE, true, -1);
}

/// The whole body of a multi of `count` operations that failed at `index`. The reply's own code is
/// `Ok`: what was rolled back says so with 0, what was never tried with RuntimeInconsistency.
pub fn multi_failed(out: &mut Vec<u8>, index: usize, count: usize, code: ErrorCode) {
    assert!(index < count, "operation {index} of {count} failed");
    for operation in 0..count {
        multi_error(
            out,
            match operation {
                before if before < index => ErrorCode::Ok,
                failed if failed == index => code,
                _ => ErrorCode::RuntimeInconsistency,
            },
        );
    }
    multi_end(out);
}

/// A whole frame: the answer to a ConnectRequest, 36 or 37 bytes and their length.
pub fn connect(out: &mut Vec<u8>, response: &ConnectResponse) {
    let at = out.len();
    out.put_i32_be(0);
    out.put_i32_be(response.protocol_version);
    out.put_i32_be(response.timeout_ms);
    out.put_i64_be(response.session.wire());
    out.put_buffer(&response.password);
    if let Some(read_only) = response.read_only {
        out.put_boolean(read_only);
    }
    let length = length_u32(out.len() - at - LENGTH_BYTES).to_be_bytes();
    out[at..at + LENGTH_BYTES].copy_from_slice(&length);
}

/// A whole frame: a watch fired. ZooKeeper puts the change's zxid into the header since 3.9, and
/// before it -1, which is `ZXID_NONE`.
pub fn event(out: &mut Vec<u8>, zxid: Zxid, kind: EventType, path: &str) {
    let mark = begin(out);
    out.put_i32_be(kind.wire());
    out.put_i32_be(STATE_SYNC_CONNECTED);
    out.put_text(path);
    finish(out, mark, XID_EVENT, zxid, ErrorCode::Ok);
}

fn multi_header(out: &mut Vec<u8>, operation: i32, is_end: bool, error: i32) {
    out.put_i32_be(operation);
    out.put_boolean(is_end);
    out.put_i32_be(error);
}

const LENGTH_BYTES: usize = 4;
const COUNT_BYTES: usize = 4;
/// Length, xid, zxid, error.
const PREFIX_BYTES: usize = LENGTH_BYTES + 4 + 8 + 4;
/// `ZooDefs.OpCode.error`, which also ends a multi's results.
const MULTI_ERROR_TYPE: i32 = -1;
/// `KeeperState.SyncConnected`, the only state in which events travel.
const STATE_SYNC_CONNECTED: i32 = 3;

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{begin, begin_vector, finish, finish_vector, header_only, push_string, string};
    use crate::base::error::ErrorCode;
    use crate::base::id::{Epoch, Zxid};

    #[test]
    fn frames_follow_each_other_in_one_buffer() {
        let zxid = Zxid::new(Epoch(1), 2);
        let mut out = Vec::new();
        header_only(&mut out, 7, zxid, ErrorCode::NoNode);
        let mark = begin(&mut out);
        let mut names = begin_vector(&mut out);
        push_string(&mut out, &mut names, "a");
        push_string(&mut out, &mut names, "");
        finish_vector(&mut out, names);
        finish(&mut out, mark, 8, zxid, ErrorCode::Ok);
        assert_eq!(
            out,
            b"\0\0\0\x10\0\0\0\x07\0\0\0\x01\0\0\0\x02\xff\xff\xff\x9b\
              \0\0\0\x1d\0\0\0\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\x01a\0\0\0\0"
        );
    }

    #[test]
    fn a_refusal_has_no_body() {
        let mut out = b"earlier".to_vec();
        let mark = begin(&mut out);
        string(&mut out, "/half/a/body");
        finish(&mut out, mark, 1, Zxid::ZERO, ErrorCode::NoAuth);
        let mut expected = b"earlier".to_vec();
        header_only(&mut expected, 1, Zxid::ZERO, ErrorCode::NoAuth);
        assert_eq!(out, expected);
    }
}
