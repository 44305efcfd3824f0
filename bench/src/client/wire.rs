//! The few ZooKeeper messages that a load generator sends and checks, as jute's bytes.
//!
//! Everything is big-endian; a frame is its length in four bytes and then that many bytes.

use crate::error::BenchError;

pub(crate) const CREATE: i32 = 1;
pub(crate) const EXISTS: i32 = 3;
pub(crate) const GET_DATA: i32 = 4;
pub(crate) const SET_DATA: i32 = 5;
pub(crate) const SYNC: i32 = 9;
pub(crate) const PING: i32 = 11;
pub(crate) const CLOSE_SESSION: i32 = -11;

pub(crate) const OK: i32 = 0;
pub(crate) const NO_NODE: i32 = -101;
pub(crate) const NODE_EXISTS: i32 = -110;

/// What every reply begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyHeader {
    pub(crate) xid: i32,
    pub(crate) zxid: i64,
    pub(crate) error: i32,
}

/// A session as the server granted it; presenting it again attaches to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) id: i64,
    pub(crate) password: [u8; PASSWORD_BYTES],
    pub(crate) timeout_ms: i32,
}

impl ReplyHeader {
    /// Splits a reply frame into its header and its body.
    #[inline]
    pub(crate) fn parse(frame: &[u8]) -> Result<(Self, &[u8]), BenchError> {
        let Some((head, body)) = frame.split_at_checked(REPLY_HEADER_BYTES) else {
            return Err(BenchError::Protocol(format!("a reply of {} bytes", frame.len())));
        };
        let header = Self {
            xid: i32::from_be_bytes(head[0..4].try_into().expect("four bytes")),
            zxid: i64::from_be_bytes(head[4..12].try_into().expect("eight bytes")),
            error: i32::from_be_bytes(head[12..16].try_into().expect("four bytes")),
        };
        Ok((header, body))
    }
}

/// The first complete frame in `input`, without its length, or nothing yet.
#[inline]
pub(crate) fn frame(input: &[u8]) -> Result<Option<&[u8]>, BenchError> {
    let Some((head, rest)) = input.split_first_chunk::<FRAME_LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*head);
    match usize::try_from(length) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok(rest.get(..length)),
        _ => Err(BenchError::Protocol(format!("a frame of {length} bytes"))),
    }
}

/// The buffer that begins a reply to `getData`: the znode's data.
#[inline]
pub(crate) fn data_of(body: &[u8]) -> Result<&[u8], BenchError> {
    buffer(body)
        .map(|(data, _)| data)
        .ok_or_else(|| BenchError::Protocol("a getData reply that ends early".to_owned()))
}

/// A path, or any other string, at the beginning of a request or a reply, and what follows it.
pub(crate) fn buffer(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(i32::from_be_bytes(*head)).ok()?)
}

/// Parses the answer to a connect request.
pub(crate) fn parse_connected(frame: &[u8]) -> Result<Session, BenchError> {
    // Version, timeout, session id, password; newer servers add one byte for read-only.
    if frame.len() < CONNECTED_BYTES {
        return Err(BenchError::Protocol("a connect reply that ends early".to_owned()));
    }
    let session = Session {
        timeout_ms: i32::from_be_bytes(frame[4..8].try_into().expect("four bytes")),
        id: i64::from_be_bytes(frame[8..16].try_into().expect("eight bytes")),
        password: frame[20..36].try_into().expect("sixteen bytes"),
    };
    if session.timeout_ms <= 0 || session.id == 0 {
        return Err(BenchError::SessionExpired);
    }
    Ok(session)
}

/// The handshake that opens a session, or attaches to the one given.
pub(crate) fn connect(output: &mut Vec<u8>, timeout_ms: i32, session: Session, last_zxid: i64) {
    let start = begin(output);
    output.extend_from_slice(&0_i32.to_be_bytes());
    output.extend_from_slice(&last_zxid.to_be_bytes());
    output.extend_from_slice(&timeout_ms.to_be_bytes());
    output.extend_from_slice(&session.id.to_be_bytes());
    put_buffer(output, &session.password);
    output.push(0);
    finish(output, start);
}

/// The answer to a handshake, for the floor server.
pub(crate) fn connected(output: &mut Vec<u8>, session: Session) {
    let start = begin(output);
    output.extend_from_slice(&0_i32.to_be_bytes());
    output.extend_from_slice(&session.timeout_ms.to_be_bytes());
    output.extend_from_slice(&session.id.to_be_bytes());
    put_buffer(output, &session.password);
    output.push(0);
    finish(output, start);
}

pub(crate) fn create(output: &mut Vec<u8>, xid: i32, path: &str, data: &[u8]) {
    let start = begin_request(output, xid, CREATE);
    put_buffer(output, path.as_bytes());
    put_buffer(output, data);
    // One entry: everything is allowed to everybody.
    output.extend_from_slice(&1_i32.to_be_bytes());
    output.extend_from_slice(&31_i32.to_be_bytes());
    put_buffer(output, b"world");
    put_buffer(output, b"anyone");
    // A persistent znode.
    output.extend_from_slice(&0_i32.to_be_bytes());
    finish(output, start);
}

pub(crate) fn set_data(output: &mut Vec<u8>, xid: i32, path: &str, data: &[u8]) {
    let start = begin_request(output, xid, SET_DATA);
    put_buffer(output, path.as_bytes());
    put_buffer(output, data);
    output.extend_from_slice(&ANY_VERSION.to_be_bytes());
    finish(output, start);
}

pub(crate) fn get_data(output: &mut Vec<u8>, xid: i32, path: &str) {
    let start = begin_request(output, xid, GET_DATA);
    put_buffer(output, path.as_bytes());
    output.push(0);
    finish(output, start);
}

pub(crate) fn exists(output: &mut Vec<u8>, xid: i32, path: &str) {
    let start = begin_request(output, xid, EXISTS);
    put_buffer(output, path.as_bytes());
    output.push(0);
    finish(output, start);
}

pub(crate) fn sync(output: &mut Vec<u8>, xid: i32, path: &str) {
    let start = begin_request(output, xid, SYNC);
    put_buffer(output, path.as_bytes());
    finish(output, start);
}

pub(crate) fn ping(output: &mut Vec<u8>) {
    let start = begin_request(output, PING_XID, PING);
    finish(output, start);
}

pub(crate) fn close_session(output: &mut Vec<u8>, xid: i32) {
    let start = begin_request(output, xid, CLOSE_SESSION);
    finish(output, start);
}

/// A reply of the floor server; `body` has been encoded already.
pub(crate) fn reply(output: &mut Vec<u8>, header: ReplyHeader, body: &[&[u8]]) {
    let start = begin(output);
    output.extend_from_slice(&header.xid.to_be_bytes());
    output.extend_from_slice(&header.zxid.to_be_bytes());
    output.extend_from_slice(&header.error.to_be_bytes());
    for part in body {
        output.extend_from_slice(part);
    }
    finish(output, start);
}

fn begin(output: &mut Vec<u8>) -> usize {
    let start = output.len();
    output.extend_from_slice(&[0; FRAME_LENGTH_BYTES]);
    start
}

fn begin_request(output: &mut Vec<u8>, xid: i32, opcode: i32) -> usize {
    let start = begin(output);
    output.extend_from_slice(&xid.to_be_bytes());
    output.extend_from_slice(&opcode.to_be_bytes());
    start
}

fn finish(output: &mut [u8], start: usize) {
    let length = length_of(&output[start + FRAME_LENGTH_BYTES..]);
    output[start..start + FRAME_LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

fn put_buffer(output: &mut Vec<u8>, bytes: &[u8]) {
    output.extend_from_slice(&length_of(bytes).to_be_bytes());
    output.extend_from_slice(bytes);
}

fn length_of(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).expect("nothing that this program sends reaches two gigabytes")
}

pub(crate) const FRAME_LENGTH_BYTES: usize = 4;
/// Pings carry this xid in both directions, outside the sequence of requests.
pub(crate) const PING_XID: i32 = -2;
/// Where the xid stands in a frame, its length included.
pub(crate) const XID_OFFSET: usize = FRAME_LENGTH_BYTES;
/// The fixed size of a znode's stat in a reply.
pub(crate) const STAT_BYTES: usize = 68;
pub(crate) const PASSWORD_BYTES: usize = 16;
const REPLY_HEADER_BYTES: usize = 16;
const CONNECTED_BYTES: usize = 36;
const FRAME_BYTES_MAX: usize = 4 << 20;
const ANY_VERSION: i32 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_data_has_the_bytes_that_a_zookeeper_client_sends() {
        let mut output = Vec::new();
        get_data(&mut output, 7, "/a");
        let expected = [0, 0, 0, 15, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 2, b'/', b'a', 0];
        assert_eq!(output, expected);
    }

    #[test]
    fn the_handshake_has_forty_five_bytes_and_carries_the_session() {
        let mut output = Vec::new();
        let session = Session { id: 0x0102, password: [9; 16], timeout_ms: 0 };
        connect(&mut output, 30_000, session, 5);
        assert_eq!(output.len(), 4 + 45);
        assert_eq!(output[..4], 45_i32.to_be_bytes());
        assert_eq!(output[8..16], 5_i64.to_be_bytes());
        assert_eq!(output[20..28], 0x0102_i64.to_be_bytes());
        assert_eq!(output[28..32], 16_i32.to_be_bytes());
    }

    #[test]
    fn frames_come_out_whole_or_not_at_all() {
        let mut bytes = Vec::new();
        reply(&mut bytes, ReplyHeader { xid: 3, zxid: 9, error: -101 }, &[b"rest"]);
        for cut in 0..bytes.len() {
            assert!(frame(&bytes[..cut]).unwrap().is_none());
        }
        let (header, body) = ReplyHeader::parse(frame(&bytes).unwrap().unwrap()).unwrap();
        assert_eq!(header, ReplyHeader { xid: 3, zxid: 9, error: NO_NODE });
        assert_eq!(body, b"rest");
        assert!(frame(&(-1_i32).to_be_bytes()).is_err());
    }

    #[test]
    fn an_expired_session_is_told_from_a_granted_one() {
        let granted = Session { id: 77, password: [1; 16], timeout_ms: 4000 };
        let mut bytes = Vec::new();
        connected(&mut bytes, granted);
        assert_eq!(parse_connected(frame(&bytes).unwrap().unwrap()).unwrap(), granted);
        bytes.clear();
        connected(&mut bytes, Session::default());
        let refused = parse_connected(frame(&bytes).unwrap().unwrap());
        assert!(matches!(refused, Err(BenchError::SessionExpired)));
    }
}
