//! The client's half of the wire: requests written, replies read. For load generators, simulated
//! clients and tests.

use alloc::vec::Vec;

use crate::base::bytes::{Put, Reader, length_u32};
use crate::base::error::ErrorCode;
use crate::base::id::{SessionId, Zxid};
use crate::op::{Acl, ConnectRequest, EventType, OpCode, Request, SetWatches, Stat};
use crate::wire::jute::{JuteError, PutJute, ReadJute};
use crate::wire::reply::{ConnectResponse, PASSWORD_BYTES};

/// What stands before every reply's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    pub xid: i32,
    pub zxid: Zxid,
    /// As it came: other servers know more codes than `ErrorCode` has.
    pub error: i32,
}

/// A watch fired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatcherEvent<'a> {
    pub kind: EventType,
    /// `KeeperState`; 3 is SyncConnected.
    pub state: i32,
    pub path: &'a str,
}

/// One result of a multi or a multiRead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MultiResult<'a> {
    Create { path: &'a str },
    Create2 { path: &'a str, stat: Stat },
    Delete,
    SetData { stat: Stat },
    Check,
    GetData { data: Option<&'a [u8]>, stat: Stat },
    GetChildren { children: Vec<&'a str> },
    Error(i32),
}

impl ReplyHeader {
    /// The error as this server would send it.
    pub fn code(&self) -> Option<ErrorCode> {
        ErrorCode::from_wire(self.error)
    }
}

/// Appends a connection's first frame.
pub fn put_connect(out: &mut Vec<u8>, request: &ConnectRequest<'_>) {
    let at = begin(out);
    out.put_i32_be(request.protocol_version);
    out.put_i64_be(request.last_zxid_seen.wire());
    out.put_i32_be(request.timeout_ms);
    out.put_i64_be(request.session.wire());
    out.put_buffer(request.password);
    if let Some(read_only) = request.read_only {
        out.put_boolean(read_only);
    }
    finish(out, at);
}

/// Appends a request's frame.
pub fn put_request(out: &mut Vec<u8>, xid: i32, request: &Request<'_>) {
    let at = begin(out);
    out.put_i32_be(xid);
    out.put_i32_be(request.op_code().wire());
    put_record(out, request);
    finish(out, at);
}

/// What [`put_request`] puts before a request's record: length, xid and opcode.
pub const REQUEST_PREFIX_BYTES: usize = 4 + 4 + 4;

/// Reads a reply's header, and returns the body behind it.
#[inline]
pub fn parse_header(frame: &[u8]) -> Result<(ReplyHeader, &[u8]), JuteError> {
    let mut reader = Reader::new(frame);
    let header = ReplyHeader {
        xid: reader.i32_be()?,
        zxid: Zxid(reader.i64_be()?.cast_unsigned()),
        error: reader.i32_be()?,
    };
    Ok((header, reader.rest()))
}

/// Reads the frame that answers the connection's first.
pub fn parse_connect(frame: &[u8]) -> Result<ConnectResponse, JuteError> {
    let mut reader = Reader::new(frame);
    let (protocol_version, timeout_ms) = (reader.i32_be()?, reader.i32_be()?);
    let session = SessionId::from_wire(reader.i64_be()?);
    let password = reader.buffer()?.ok_or(JuteError::Null)?;
    Ok(ConnectResponse {
        protocol_version,
        timeout_ms,
        session,
        password: <[u8; PASSWORD_BYTES]>::try_from(password).map_err(|_| JuteError::Truncated)?,
        read_only: reader.boolean().ok(),
    })
}

/// Reads the body of create and sync.
pub fn parse_path(body: &[u8]) -> Result<&str, JuteError> {
    Reader::new(body).text()
}

/// Reads the body of create2.
pub fn parse_create2(body: &[u8]) -> Result<(&str, Stat), JuteError> {
    let mut reader = Reader::new(body);
    Ok((reader.text()?, read_stat(&mut reader)?))
}

/// Reads the body of exists, setData and setACL.
pub fn parse_stat(body: &[u8]) -> Result<Stat, JuteError> {
    read_stat(&mut Reader::new(body))
}

/// Reads the body of getData; data may be null.
#[inline]
pub fn parse_get_data(body: &[u8]) -> Result<(Option<&[u8]>, Stat), JuteError> {
    let mut reader = Reader::new(body);
    let data = reader.buffer()?;
    Ok((data, read_stat(&mut reader)?))
}

/// Reads the body of getChildren and getEphemerals.
pub fn parse_strings(body: &[u8]) -> Result<Vec<&str>, JuteError> {
    read_strings(&mut Reader::new(body))
}

/// Reads the body of getChildren2.
pub fn parse_children2(body: &[u8]) -> Result<(Vec<&str>, Stat), JuteError> {
    let mut reader = Reader::new(body);
    Ok((read_strings(&mut reader)?, read_stat(&mut reader)?))
}

/// Reads the body of getACL.
pub fn parse_acl(body: &[u8]) -> Result<(Vec<Acl<'_>>, Stat), JuteError> {
    let mut reader = Reader::new(body);
    let count = reader.vector_count(ACL_BYTES_MIN)?;
    let mut acl = Vec::with_capacity(count);
    for _ in 0..count {
        acl.push(Acl {
            permissions: reader.i32_be()?.cast_unsigned(),
            scheme: reader.text()?,
            id: reader.text()?,
        });
    }
    Ok((acl, read_stat(&mut reader)?))
}

/// Reads the body of getAllChildrenNumber and addWatch.
pub fn parse_number(body: &[u8]) -> Result<i32, JuteError> {
    Ok(Reader::new(body).i32_be()?)
}

/// Reads the body of whoAmI: pairs of scheme and user.
pub fn parse_who_am_i(body: &[u8]) -> Result<Vec<(&str, &str)>, JuteError> {
    let mut reader = Reader::new(body);
    let count = reader.vector_count(2 * STRING_BYTES_MIN)?;
    (0..count).map(|_| Ok((reader.text()?, reader.text()?))).collect()
}

/// Reads the body of an event.
pub fn parse_event(body: &[u8]) -> Result<WatcherEvent<'_>, JuteError> {
    let mut reader = Reader::new(body);
    Ok(WatcherEvent {
        kind: EventType::from_wire(reader.i32_be()?).ok_or(JuteError::UnknownNumber)?,
        state: reader.i32_be()?,
        path: reader.text()?,
    })
}

/// Reads the body of multi and multiRead.
pub fn parse_multi(body: &[u8]) -> Result<Vec<MultiResult<'_>>, JuteError> {
    let mut reader = Reader::new(body);
    let mut results = Vec::new();
    loop {
        let operation = reader.i32_be()?;
        let is_end = reader.boolean()?;
        reader.i32_be()?;
        if is_end {
            return Ok(results);
        }
        results.push(read_multi_result(operation, &mut reader)?);
    }
}

fn read_multi_result<'a>(
    operation: i32,
    reader: &mut Reader<'a>,
) -> Result<MultiResult<'a>, JuteError> {
    if operation == MULTI_ERROR_TYPE {
        return Ok(MultiResult::Error(reader.i32_be()?));
    }
    Ok(match OpCode::from_wire(operation) {
        Some(OpCode::Create) => MultiResult::Create { path: reader.text()? },
        Some(OpCode::Create2) => {
            MultiResult::Create2 { path: reader.text()?, stat: read_stat(reader)? }
        }
        Some(OpCode::Delete) => MultiResult::Delete,
        Some(OpCode::SetData) => MultiResult::SetData { stat: read_stat(reader)? },
        Some(OpCode::Check) => MultiResult::Check,
        Some(OpCode::GetData) => {
            MultiResult::GetData { data: reader.buffer()?, stat: read_stat(reader)? }
        }
        Some(OpCode::GetChildren) => MultiResult::GetChildren { children: read_strings(reader)? },
        _ => return Err(JuteError::UnknownNumber),
    })
}

fn read_strings<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>, JuteError> {
    let count = reader.vector_count(STRING_BYTES_MIN)?;
    let mut strings = Vec::with_capacity(count);
    for _ in 0..count {
        strings.push(reader.text()?);
    }
    Ok(strings)
}

fn read_stat(reader: &mut Reader<'_>) -> Result<Stat, JuteError> {
    Ok(Stat {
        czxid: Zxid(reader.i64_be()?.cast_unsigned()),
        mzxid: Zxid(reader.i64_be()?.cast_unsigned()),
        ctime_ms: reader.i64_be()?,
        mtime_ms: reader.i64_be()?,
        version: reader.i32_be()?,
        cversion: reader.i32_be()?,
        aversion: reader.i32_be()?,
        ephemeral_owner: SessionId::from_wire(reader.i64_be()?),
        data_length: reader.i32_be()?,
        children_count: reader.i32_be()?,
        pzxid: Zxid(reader.i64_be()?.cast_unsigned()),
    })
}

fn put_record(out: &mut Vec<u8>, request: &Request<'_>) {
    match request {
        Request::Create { path, data, acl, mode, with_stat: _ } => {
            out.put_text(path);
            out.put_nullable_buffer(*data);
            put_acl(out, acl);
            out.put_i32_be(mode.flags());
        }
        Request::Delete { path, version } | Request::Check { path, version } => {
            out.put_text(path);
            out.put_i32_be(*version);
        }
        Request::SetData { path, data, version } => {
            out.put_text(path);
            out.put_nullable_buffer(*data);
            out.put_i32_be(*version);
        }
        Request::SetAcl { path, acl, version } => {
            out.put_text(path);
            put_acl(out, acl);
            out.put_i32_be(*version);
        }
        Request::Exists { path, watch }
        | Request::GetData { path, watch }
        | Request::GetChildren { path, watch, .. } => {
            out.put_text(path);
            out.put_boolean(*watch);
        }
        Request::GetAcl { path }
        | Request::Sync { path }
        | Request::GetEphemerals { prefix: path }
        | Request::GetAllChildrenNumber { path } => out.put_text(path),
        Request::Multi(operations) | Request::MultiRead(operations) => put_multi(out, operations),
        Request::Auth { scheme, credential } => {
            out.put_i32_be(0);
            out.put_text(scheme);
            out.put_nullable_buffer(*credential);
        }
        Request::SetWatches(watches) => put_set_watches(out, watches),
        Request::AddWatch { path, mode } => {
            out.put_text(path);
            out.put_i32_be(mode.wire());
        }
        Request::CheckWatches { path, kind } | Request::RemoveWatches { path, kind } => {
            out.put_text(path);
            out.put_i32_be(kind.wire());
        }
        Request::Ping | Request::WhoAmI | Request::CloseSession => {}
    }
}

fn put_acl(out: &mut Vec<u8>, acl: &[Acl<'_>]) {
    out.put_count(acl.len());
    for entry in acl {
        out.put_u32_be(entry.permissions);
        out.put_text(entry.scheme);
        out.put_text(entry.id);
    }
}

fn put_multi(out: &mut Vec<u8>, operations: &[Request<'_>]) {
    for operation in operations {
        put_multi_header(out, operation.op_code().wire(), false);
        put_record(out, operation);
    }
    put_multi_header(out, MULTI_ERROR_TYPE, true);
}

fn put_multi_header(out: &mut Vec<u8>, operation: i32, is_end: bool) {
    out.put_i32_be(operation);
    out.put_boolean(is_end);
    out.put_i32_be(-1);
}

fn put_set_watches(out: &mut Vec<u8>, watches: &SetWatches<'_>) {
    out.put_i64_be(watches.relative_zxid.wire());
    put_strings(out, &watches.data);
    put_strings(out, &watches.exist);
    put_strings(out, &watches.child);
    if watches.has_persistent() {
        put_strings(out, &watches.persistent);
        put_strings(out, &watches.persistent_recursive);
    }
}

fn put_strings(out: &mut Vec<u8>, strings: &[&str]) {
    out.put_count(strings.len());
    for string in strings {
        out.put_text(string);
    }
}

fn begin(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.put_i32_be(0);
    at
}

fn finish(out: &mut [u8], at: usize) {
    let length = length_u32(out.len() - at - LENGTH_BYTES).to_be_bytes();
    out[at..at + LENGTH_BYTES].copy_from_slice(&length);
}

const LENGTH_BYTES: usize = 4;
const STRING_BYTES_MIN: usize = 4;
const ACL_BYTES_MIN: usize = 4 + 2 * STRING_BYTES_MIN;
/// `ZooDefs.OpCode.error`, which also ends a multi.
const MULTI_ERROR_TYPE: i32 = -1;
