//! A client's bytes parsed once into `op::Request`, and what ZooKeeper answers to the rest.
//!
//! The answers follow ZooKeeper 3.8 and 3.9 as observed. A record is read to its end before its
//! values are judged, so that a broken record is MarshallingError whatever its path says; bytes
//! behind the record are ignored.

use alloc::vec::Vec;
use core::str;

use crate::base::bytes::{Reader, Truncated};
use crate::base::error::ErrorCode;
use crate::base::id::{SessionId, Zxid};
use crate::base::limits::{ACL_ENTRIES_MAX, CREDENTIAL_BYTES_MAX, MULTI_OPERATIONS_MAX};
use crate::op::{
    Acl, AddWatchMode, ConnectRequest, CreateMode, OpCode, Request, SetWatches, WatcherType,
};
use crate::path;
use crate::wire::jute::{JuteError, ReadJute};

/// Why a frame is not a request that this server carries out, and what its sender is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// A reply with this code and no body; the connection stays.
    Code(ErrorCode),
    /// A reply with this code and no body, and then the connection is closed. For an operation that
    /// no client may send ZooKeeper puts -1 into the reply's zxid.
    Final(ErrorCode),
    /// The multi fails at this operation: the reply is `Ok` with `count` results, see
    /// `reply::multi_failed`.
    MultiOperation { index: usize, count: usize, code: ErrorCode },
    /// The connection is closed without a reply.
    Malformed,
}

/// What stands before every request's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    pub xid: i32,
    /// Not yet an `OpCode`: an unknown one has to be answered under its xid.
    pub op_code: i32,
}

/// Parses a connection's first frame, of 45 bytes or, from clients before 3.4, of 44.
///
/// A null password is an empty one: only its comparison decides. A negative `last_zxid_seen` means
/// that nothing was seen. On an error the connection is closed without a reply.
pub fn parse_connect(frame: &[u8]) -> Result<ConnectRequest<'_>, JuteError> {
    let mut reader = Reader::new(frame);
    Ok(ConnectRequest {
        protocol_version: reader.i32_be()?,
        last_zxid_seen: zxid_seen(reader.i64_be()?),
        timeout_ms: reader.i32_be()?,
        session: SessionId::from_wire(reader.i64_be()?),
        password: reader.buffer()?.unwrap_or_default(),
        read_only: reader.boolean().ok(),
    })
}

/// Parses the header of any later frame, and returns the record behind it.
///
/// On an error the connection is closed: there is no xid to answer under.
#[inline]
pub fn parse_header(frame: &[u8]) -> Result<(RequestHeader, &[u8]), JuteError> {
    let mut reader = Reader::new(frame);
    let header = RequestHeader { xid: reader.i32_be()?, op_code: reader.i32_be()? };
    Ok((header, reader.rest()))
}

/// The znode that a write is about, if it is about one. Nothing is checked.
pub fn path_of_write(op_code: i32, body: &[u8]) -> Option<&str> {
    match OpCode::from_wire(op_code)? {
        OpCode::Create | OpCode::Create2 | OpCode::Delete | OpCode::SetData | OpCode::SetAcl => {
            Reader::new(body).text().ok()
        }
        _ => None,
    }
}

/// Parses the record of a request.
///
/// - An unknown operation, one of ZooKeeper's own (createSession, deleteContainer, error), and a
///   check outside a multi: `Final(Unimplemented)`.
/// - createTTL, createContainer, sasl: `Code(Unimplemented)`; reconfig: `Code(ReconfigDisabled)`.
/// - A record that ends early, a null path, an unknown watcher type or watch mode:
///   `Code(MarshallingError)`; a broken auth record: `Malformed`.
/// - A path against the rules (`path::check`): `Code(BadArguments)` for what changes the tree and
///   for addWatch; `Code(NoNode)` for reads and delete, which ZooKeeper looks up without checking,
///   but for a NUL in those of exists and delete; NoWatcher for checkWatches and removeWatches;
///   setWatches leaves it out, because nothing ever happens to it; sync and getEphemerals take any
///   text, and create any that a parent can be cut from.
/// - Inside a multi: see `RequestError::MultiOperation`. A multiRead takes any text: only the read
///   of such a path fails, when nothing is found there.
pub fn parse_request(op_code: i32, body: &[u8]) -> Result<Request<'_>, RequestError> {
    let Some(op_code) = OpCode::from_wire(op_code) else {
        return Err(RequestError::Final(ErrorCode::Unimplemented));
    };
    let mut reader = Reader::new(body);
    match op_code {
        OpCode::GetData => parse_get_data(&mut reader),
        OpCode::Exists => {
            let (path, watch) = (read_path(&mut reader)?, reader.boolean()?);
            if path.0.contains(&0) {
                return Err(RequestError::Code(ErrorCode::BadArguments));
            }
            let path = path.checked(ErrorCode::NoNode)?;
            Ok(Request::Exists { path, watch })
        }
        OpCode::GetChildren => parse_get_children(&mut reader, false),
        OpCode::GetChildren2 => parse_get_children(&mut reader, true),
        OpCode::Ping => Ok(Request::Ping),
        OpCode::Create => parse_create(&mut reader, false),
        OpCode::Create2 => parse_create(&mut reader, true),
        OpCode::Delete => parse_delete(&mut reader),
        OpCode::SetData => parse_set_data(&mut reader),
        OpCode::Sync => {
            let path = read_any_text(&mut reader)?;
            Ok(Request::Sync { path })
        }
        OpCode::Multi => parse_multi(&mut reader),
        OpCode::MultiRead => parse_multi_read(&mut reader),
        OpCode::GetAcl => {
            let path = read_path(&mut reader)?.checked(ErrorCode::NoNode)?;
            Ok(Request::GetAcl { path })
        }
        OpCode::SetAcl => parse_set_acl(&mut reader),
        OpCode::SetWatches => parse_set_watches(&mut reader, false),
        OpCode::SetWatches2 => parse_set_watches(&mut reader, true),
        OpCode::AddWatch => parse_add_watch(&mut reader),
        OpCode::CheckWatches => {
            let (path, kind) = read_watcher(&mut reader)?;
            Ok(Request::CheckWatches { path, kind })
        }
        OpCode::RemoveWatches => {
            let (path, kind) = read_watcher(&mut reader)?;
            Ok(Request::RemoveWatches { path, kind })
        }
        OpCode::GetEphemerals => {
            let prefix = read_any_text(&mut reader)?;
            // Everything is asked for with blanks around it, too; another prefix is taken as it is.
            let trimmed = prefix.trim_matches(|character| character <= ' ');
            let prefix = if matches!(trimmed, "" | "/") { trimmed } else { prefix };
            Ok(Request::GetEphemerals { prefix })
        }
        OpCode::GetAllChildrenNumber => {
            let path = read_path(&mut reader)?.checked(ErrorCode::NoNode)?;
            Ok(Request::GetAllChildrenNumber { path })
        }
        OpCode::WhoAmI => Ok(Request::WhoAmI),
        OpCode::Auth => parse_auth(&mut reader),
        OpCode::CloseSession => Ok(Request::CloseSession),
        OpCode::Check => Err(RequestError::Final(ErrorCode::Unimplemented)),
        OpCode::Reconfig => Err(RequestError::Code(ErrorCode::ReconfigDisabled)),
        OpCode::CreateContainer | OpCode::CreateTtl | OpCode::Sasl => {
            Err(RequestError::Code(ErrorCode::Unimplemented))
        }
    }
}

impl From<JuteError> for RequestError {
    fn from(_: JuteError) -> Self {
        Self::Code(ErrorCode::MarshallingError)
    }
}

impl From<Truncated> for RequestError {
    fn from(_: Truncated) -> Self {
        Self::Code(ErrorCode::MarshallingError)
    }
}

/// The bytes of a path that nobody has judged.
#[derive(Clone, Copy)]
struct UncheckedPath<'a>(&'a [u8]);

/// A list of a request, read to its end, that may hold an entry without a scheme or an id.
struct UncheckedAcl<'a> {
    entries: Vec<Acl<'a>>,
    is_legal: bool,
}

impl<'a> UncheckedPath<'a> {
    #[inline]
    fn checked(self, otherwise: ErrorCode) -> Result<&'a str, RequestError> {
        self.legal().ok_or(RequestError::Code(otherwise))
    }

    /// Whether ZooKeeper cuts a parent from it (`getParentPathAndValidate`).
    fn has_parent(self) -> bool {
        self.0.contains(&b'/') && !self.0.contains(&0)
    }

    /// The text for a read that is to find nothing where no path leads: U+FFFD stands for what is
    /// not UTF-8, as in ZooKeeper, and for nothing.
    fn to_look_up(self) -> &'a str {
        match str::from_utf8(self.0) {
            Ok(path) if !path.is_empty() => path,
            _ => "\u{FFFD}",
        }
    }

    #[inline]
    fn legal(self) -> Option<&'a str> {
        // What is not UTF-8 becomes U+FFFD in ZooKeeper, which no path may hold.
        let path = str::from_utf8(self.0).ok()?;
        path::check(path, false).ok()?;
        Some(path)
    }
}

#[inline]
fn parse_get_data<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let (path, watch) = (read_path(reader)?, reader.boolean()?);
    let path = path.checked(ErrorCode::NoNode)?;
    Ok(Request::GetData { path, watch })
}

#[inline]
fn parse_get_children<'a>(
    reader: &mut Reader<'a>,
    with_stat: bool,
) -> Result<Request<'a>, RequestError> {
    let (path, watch) = (read_path(reader)?, reader.boolean()?);
    let path = path.checked(ErrorCode::NoNode)?;
    Ok(Request::GetChildren { path, watch, with_stat })
}

/// Containers and TTLs (4, 5, 6) are Unimplemented, other unknown flags BadArguments, and an ACL
/// that is not one InvalidACL. The rules for paths are the leader's to check: it asks first for the
/// parent and whether the client may create there.
fn parse_create<'a>(reader: &mut Reader<'a>, with_stat: bool) -> Result<Request<'a>, RequestError> {
    let path = read_path(reader)?;
    let data = reader.buffer()?;
    let acl = read_acl(reader)?;
    let mode = match reader.i32_be()? {
        4..=6 => return Err(RequestError::Code(ErrorCode::Unimplemented)),
        flags => CreateMode::from_flags(flags),
    };
    let bad_arguments = RequestError::Code(ErrorCode::BadArguments);
    let mode = mode.ok_or(bad_arguments)?;
    let path = str::from_utf8(path.0).ok().filter(|_| path.has_parent()).ok_or(bad_arguments)?;
    Ok(Request::Create { path, data, acl: checked_acl(acl)?, mode, with_stat })
}

/// BadArguments for the root, which cannot be deleted, and for what has no parent or a NUL in it.
fn parse_delete<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let (path, version) = (read_path(reader)?, reader.i32_be()?);
    if path.0 == b"/" || !path.has_parent() {
        return Err(RequestError::Code(ErrorCode::BadArguments));
    }
    Ok(Request::Delete { path: path.checked(ErrorCode::NoNode)?, version })
}

fn parse_set_data<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let path = read_path(reader)?;
    let data = reader.buffer()?;
    let version = reader.i32_be()?;
    Ok(Request::SetData { path: path.checked(ErrorCode::BadArguments)?, data, version })
}

fn parse_check<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let (path, version) = (read_path(reader)?, reader.i32_be()?);
    let path = path.checked(ErrorCode::BadArguments)?;
    Ok(Request::Check { path, version })
}

fn parse_set_acl<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let path = read_path(reader)?;
    let acl = read_acl(reader)?;
    let version = reader.i32_be()?;
    Ok(Request::SetAcl {
        path: path.checked(ErrorCode::BadArguments)?,
        acl: checked_acl(acl)?,
        version,
    })
}

/// Reads every operation, those behind a refused one too: the reply has a result for each.
fn parse_multi<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let mut operations = Vec::new();
    let mut count = 0;
    let mut refused = None;
    while let Some(op_code) = read_multi_header(reader)? {
        if count == MULTI_OPERATIONS_MAX {
            return Err(RequestError::Code(ErrorCode::BadArguments));
        }
        match parse_multi_operation(op_code, reader) {
            Ok(operation) => operations.push(operation),
            Err(RequestError::Code(code)) if code != ErrorCode::MarshallingError => {
                refused = refused.or(Some((count, code)));
            }
            Err(error) => return Err(error),
        }
        count += 1;
    }
    match refused {
        None => Ok(Request::Multi(operations)),
        Some((index, code)) => Err(RequestError::MultiOperation { index, count, code }),
    }
}

fn parse_multi_operation<'a>(
    op_code: i32,
    reader: &mut Reader<'a>,
) -> Result<Request<'a>, RequestError> {
    match OpCode::from_wire(op_code) {
        Some(OpCode::Create) => parse_create(reader, false),
        Some(OpCode::Create2) => parse_create(reader, true),
        Some(OpCode::Delete) => parse_delete(reader),
        Some(OpCode::SetData) => parse_set_data(reader),
        Some(OpCode::Check) => parse_check(reader),
        Some(OpCode::CreateContainer) => skip_create(reader),
        Some(OpCode::CreateTtl) => {
            let refused = skip_create(reader);
            reader.i64_be()?;
            refused
        }
        _ => Err(RequestError::Code(ErrorCode::MarshallingError)),
    }
}

fn parse_multi_read<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let mut operations = Vec::new();
    while let Some(op_code) = read_multi_header(reader)? {
        if operations.len() == MULTI_OPERATIONS_MAX {
            return Err(RequestError::Code(ErrorCode::BadArguments));
        }
        let op_code = OpCode::from_wire(op_code);
        if !matches!(op_code, Some(OpCode::GetData | OpCode::GetChildren)) {
            return Err(RequestError::Code(ErrorCode::MarshallingError));
        }
        let path = read_path(reader)?.to_look_up();
        // Whatever it says of a watch, none is left: so does ZooKeeper.
        let (_, watch) = (reader.boolean()?, false);
        operations.push(match op_code {
            Some(OpCode::GetData) => Request::GetData { path, watch },
            _ => Request::GetChildren { path, watch, with_stat: false },
        });
    }
    Ok(Request::MultiRead(operations))
}

fn parse_set_watches<'a>(
    reader: &mut Reader<'a>,
    with_persistent: bool,
) -> Result<Request<'a>, RequestError> {
    let mut watches = SetWatches {
        relative_zxid: zxid_seen(reader.i64_be()?),
        data: read_paths(reader)?,
        exist: read_paths(reader)?,
        child: read_paths(reader)?,
        ..SetWatches::default()
    };
    if with_persistent {
        watches.persistent = read_paths(reader)?;
        watches.persistent_recursive = read_paths(reader)?;
    }
    Ok(Request::SetWatches(watches))
}

fn parse_add_watch<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let (path, mode) = (read_path(reader)?, reader.i32_be()?);
    let mode = AddWatchMode::from_wire(mode).ok_or(JuteError::UnknownNumber)?;
    let path = path.checked(ErrorCode::BadArguments)?;
    Ok(Request::AddWatch { path, mode })
}

/// ZooKeeper reads an auth packet before its pipeline: without a scheme the authentication failed,
/// and a packet that it cannot read ends the connection.
fn parse_auth<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    let malformed = |_| RequestError::Malformed;
    let _unused_type = reader.i32_be().map_err(|_| RequestError::Malformed)?;
    let scheme = reader.buffer().map_err(malformed)?;
    let credential = reader.buffer().map_err(malformed)?;
    let length = credential.map_or(0, <[u8]>::len);
    match scheme.and_then(|scheme| str::from_utf8(scheme).ok()) {
        Some(scheme) if length <= CREDENTIAL_BYTES_MAX => Ok(Request::Auth { scheme, credential }),
        _ => Err(RequestError::Final(ErrorCode::AuthFailed)),
    }
}

/// Reads past a create of a kind that is refused.
fn skip_create<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, RequestError> {
    read_path(reader)?;
    reader.buffer()?;
    read_acl(reader)?;
    reader.i32_be()?;
    Err(RequestError::Code(ErrorCode::Unimplemented))
}

#[inline]
fn read_path<'a>(reader: &mut Reader<'a>) -> Result<UncheckedPath<'a>, JuteError> {
    reader.buffer()?.map(UncheckedPath).ok_or(JuteError::Null)
}

/// A string that is no look-up; null is empty.
fn read_any_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, JuteError> {
    let bytes = reader.buffer()?.unwrap_or_default();
    str::from_utf8(bytes).map_err(|_| JuteError::NotUtf8)
}

/// A list of watched paths, without those that no znode can have.
fn read_paths<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>, JuteError> {
    let count = reader.vector_count(STRING_BYTES_MIN)?;
    let mut paths = Vec::with_capacity(count);
    for _ in 0..count {
        paths.extend(read_path(reader)?.legal());
    }
    Ok(paths)
}

fn read_watcher<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, WatcherType), RequestError> {
    let (path, kind) = (read_path(reader)?, reader.i32_be()?);
    let kind = WatcherType::from_wire(kind).ok_or(JuteError::UnknownNumber)?;
    Ok((path.checked(ErrorCode::NoWatcher)?, kind))
}

fn read_acl<'a>(reader: &mut Reader<'a>) -> Result<UncheckedAcl<'a>, JuteError> {
    let count = reader.vector_count(ACL_BYTES_MIN)?;
    let mut acl =
        UncheckedAcl { entries: Vec::with_capacity(count), is_legal: count <= ACL_ENTRIES_MAX };
    for _ in 0..count {
        let permissions = reader.i32_be()?.cast_unsigned();
        let (scheme, id) = (reader.buffer()?, reader.buffer()?);
        // Clients send an empty id as null, kazoo for one; whether a scheme takes it is judged
        // later.
        let text = |bytes: Option<&'a [u8]>| str::from_utf8(bytes.unwrap_or_default()).ok();
        match (text(scheme), text(id)) {
            (Some(scheme), Some(id)) => acl.entries.push(Acl { permissions, scheme, id }),
            _ => acl.is_legal = false,
        }
    }
    Ok(acl)
}

fn checked_acl(acl: UncheckedAcl<'_>) -> Result<Vec<Acl<'_>>, RequestError> {
    if acl.is_legal { Ok(acl.entries) } else { Err(RequestError::Code(ErrorCode::InvalidAcl)) }
}

/// The number of the multi's next operation; `None` at its end. Only the flag tells the end, as in
/// ZooKeeper; the header's error is for replies.
fn read_multi_header(reader: &mut Reader<'_>) -> Result<Option<i32>, JuteError> {
    let op_code = reader.i32_be()?;
    let is_end = reader.boolean()?;
    reader.i32_be()?;
    Ok((!is_end).then_some(op_code))
}

/// Clients count zxids as signed; what is below zero was never given out.
fn zxid_seen(number: i64) -> Zxid {
    Zxid(u64::try_from(number).unwrap_or(0))
}

/// A string's length.
const STRING_BYTES_MIN: usize = 4;
/// An ACL entry: permissions and two empty strings.
const ACL_BYTES_MIN: usize = 4 + 2 * STRING_BYTES_MIN;
