//! Peer frames: a length, the shard, and one archived message.
//!
//! | offset | bytes | field                                                      |
//! |-------:|------:|------------------------------------------------------------|
//! |      0 |     4 | length of what follows (at least 4)                        |
//! |      4 |     2 | shard; 0xffff for a frame about the link itself            |
//! |      6 |     2 | kind: 0 message, 1 hello, 2 ping, 3 formation              |
//! |      8 |       | body                                                       |

use alloc::vec::Vec;

use rkyv::rancor;
use rkyv::ser::{Positional, Writer};

use crate::base::bytes::{Put, length_u32};
use crate::base::id::ShardId;
use crate::base::limits::PEER_FRAME_BYTES_MAX;
use crate::peer::formation::{FORMATION_BYTES, FormationMessage};
use crate::peer::hello::Hello;
use crate::peer::message::{ArchivedPeerMessage, PeerMessage};

pub const FRAME_HEADER_BYTES: usize = 8;

const LINK_ITSELF: u16 = 0xffff;
const KIND_MESSAGE: u16 = 0;
const KIND_HELLO: u16 = 1;
const KIND_PING: u16 = 2;
const KIND_FORMATION: u16 = 3;

/// Bytes that no peer of this version sends; the link is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    TooLong { bytes: usize },
    Malformed,
}

/// One frame, borrowed from the receive buffer.
pub enum Frame<'a> {
    Message { shard: ShardId, message: &'a ArchivedPeerMessage },
    Hello(&'a [u8]),
    Ping,
    Formation(FormationMessage),
}

/// Puts the frame of a message behind what `out` holds.
pub fn encode_message(shard: ShardId, message: &PeerMessage, out: &mut Vec<u8>) {
    let start = out.len();
    put_header(out, 0, shard.0, KIND_MESSAGE);
    let body = Body { start: out.len(), out };
    let body = rkyv::api::high::to_bytes_in::<_, rancor::Panic>(message, body)
        .expect("memory is the only way to fail");
    let length = frame_length(body.pos());
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

pub fn encode_hello(hello: &Hello, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(crate::peer::hello::HELLO_BYTES);
    hello.encode(&mut body);
    put_header(out, body.len(), LINK_ITSELF, KIND_HELLO);
    out.put(&body);
}

pub fn encode_ping(out: &mut Vec<u8>) {
    put_header(out, 0, LINK_ITSELF, KIND_PING);
}

pub fn encode_formation(message: &FormationMessage, out: &mut Vec<u8>) {
    put_header(out, FORMATION_BYTES, LINK_ITSELF, KIND_FORMATION);
    message.encode(out);
}

/// How many bytes the frame at the front of `bytes` has; `None` while its length is incomplete.
pub fn frame_bytes(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*prefix)).expect("32 bits fit into usize");
    if length < FRAME_HEADER_BYTES - 4 {
        return Err(FrameError::Malformed);
    }
    if length > PEER_FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: length });
    }
    Ok(Some(length + 4))
}

/// Decodes one complete frame, length prefix included.
pub fn decode(frame: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (header, body) =
        frame.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or(FrameError::Malformed)?;
    let shard = u16::from_le_bytes([header[4], header[5]]);
    match u16::from_le_bytes([header[6], header[7]]) {
        KIND_MESSAGE => {
            let message = rkyv::access::<ArchivedPeerMessage, rancor::Failure>(body)
                .map_err(|_| FrameError::Malformed)?;
            Ok(Frame::Message { shard: ShardId(shard), message })
        }
        KIND_HELLO => Ok(Frame::Hello(body)),
        KIND_PING if body.is_empty() => Ok(Frame::Ping),
        KIND_FORMATION => {
            FormationMessage::decode(body).map(Frame::Formation).map_err(|_| FrameError::Malformed)
        }
        _ => Err(FrameError::Malformed),
    }
}

/// Copies a message out of its archived form.
pub fn to_owned(message: &ArchivedPeerMessage) -> Result<PeerMessage, FrameError> {
    rkyv::deserialize::<PeerMessage, rancor::Failure>(message).map_err(|_| FrameError::Malformed)
}

/// An archived message in the making, behind its header: its positions count from its own start.
struct Body<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl Positional for Body<'_> {
    fn pos(&self) -> usize {
        self.out.len() - self.start
    }
}

impl<E> Writer<E> for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.out.put(bytes);
        Ok(())
    }
}

fn put_header(out: &mut Vec<u8>, body_bytes: usize, shard: u16, kind: u16) {
    out.put_u32_le(frame_length(body_bytes));
    out.put_u16_le(shard);
    out.put_u16_le(kind);
}

/// What a frame says of its length.
fn frame_length(body_bytes: usize) -> u32 {
    let bytes = body_bytes + FRAME_HEADER_BYTES - 4;
    assert!(bytes <= PEER_FRAME_BYTES_MAX, "a peer frame is bounded");
    length_u32(bytes)
}
