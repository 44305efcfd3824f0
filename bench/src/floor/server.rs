//! A server that does nothing but parse a frame, look a path up and answer, on one bare io_uring.
//!
//! It speaks just enough ZooKeeper for the load generator: no sessions, no disk, no peers.
//! What it reaches is the ceiling for any server of this protocol on this machine.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::client::wire::{self, ReplyHeader, Session};
use crate::error::BenchError;
use crate::streams::{Event, Streams};

/// Takes `port` on loopback.
pub(crate) fn bind(port: u16) -> Result<TcpListener, BenchError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).map_err(BenchError::io(format!("bind {address}")))
}

/// Serves until the process is killed.
pub(crate) fn serve(listener: TcpListener) -> Result<(), BenchError> {
    let mut streams = Streams::new(CONNECTIONS_EXPECTED)?;
    streams.listen(listener);
    let mut znodes = Znodes::default();
    let mut introduced = Vec::new();
    let mut events = Vec::new();
    loop {
        streams.wait(Duration::from_secs(1), &mut events)?;
        for event in &events {
            match *event {
                Event::Accepted(index) => {
                    introduced.resize(introduced.len().max(index + 1), false);
                    introduced[index] = false;
                }
                Event::Closed(index) => streams.release(index),
                Event::Received(index) => {
                    let (input, output) = streams.split(index);
                    let consumed = znodes.on_frames(input, output, &mut introduced[index])?;
                    streams.consume(index, consumed);
                    streams.flush(index);
                }
            }
        }
    }
}

/// Paths and, for each, the body of the reply to `getData`, encoded when it is written.
#[derive(Default)]
struct Znodes(HashMap<Vec<u8>, Vec<u8>>);

impl Znodes {
    fn on_frames(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
        introduced: &mut bool,
    ) -> Result<usize, BenchError> {
        let mut consumed = 0;
        while let Some(frame) = wire::frame(&input[consumed..])? {
            consumed += wire::FRAME_LENGTH_BYTES + frame.len();
            if *introduced {
                self.on_request(frame, output)?;
            } else {
                *introduced = true;
                wire::connected(output, SESSION);
            }
        }
        Ok(consumed)
    }

    fn on_request(&mut self, frame: &[u8], output: &mut Vec<u8>) -> Result<(), BenchError> {
        let short = || BenchError::Protocol("a request that ends early".to_owned());
        let (xid, rest) = frame.split_first_chunk::<4>().ok_or_else(short)?;
        let (opcode, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let xid = i32::from_be_bytes(*xid);
        let ok = ReplyHeader { xid, zxid: 1, error: wire::OK };
        let (opcode, stat) = (i32::from_be_bytes(*opcode), [0; wire::STAT_BYTES]);
        if matches!(opcode, wire::PING | wire::CLOSE_SESSION) {
            wire::reply(output, ok, &[]);
            return Ok(());
        }
        let (path, rest) = wire::buffer(rest).ok_or_else(short)?;
        match (opcode, self.0.get_mut(path)) {
            (wire::GET_DATA, Some(body)) => wire::reply(output, ok, &[body]),
            (wire::EXISTS, Some(_)) => wire::reply(output, ok, &[&stat]),
            (wire::SET_DATA, Some(body)) => {
                *body = data_reply_body(wire::buffer(rest).ok_or_else(short)?.0)?;
                wire::reply(output, ok, &[&stat]);
            }
            (wire::CREATE, None) => {
                let body = data_reply_body(wire::buffer(rest).ok_or_else(short)?.0)?;
                self.0.insert(path.to_vec(), body);
                wire::reply(output, ok, &[&frame[8..12], path]);
            }
            (wire::CREATE, Some(_)) => {
                wire::reply(output, ReplyHeader { error: wire::NODE_EXISTS, ..ok }, &[]);
            }
            (wire::SYNC, _) => wire::reply(output, ok, &[&frame[8..12], path]),
            _ => wire::reply(output, ReplyHeader { error: wire::NO_NODE, ..ok }, &[]),
        }
        Ok(())
    }
}

fn data_reply_body(data: &[u8]) -> Result<Vec<u8>, BenchError> {
    let length = i32::try_from(data.len())
        .map_err(|_| BenchError::Protocol("a value of two gigabytes".to_owned()))?;
    Ok([&length.to_be_bytes(), data, &[0; wire::STAT_BYTES]].concat())
}

const CONNECTIONS_EXPECTED: u32 = 256;
const SESSION: Session = Session { id: 1, password: [0; 16], timeout_ms: 30_000 };

#[cfg(test)]
mod tests {
    use super::*;

    fn code_and_body(znodes: &mut Znodes, request: &[u8]) -> (i32, Vec<u8>) {
        let mut output = Vec::new();
        let consumed = znodes.on_frames(request, &mut output, &mut true).unwrap();
        assert_eq!(consumed, request.len());
        let frame = wire::frame(&output).unwrap().expect("one whole reply");
        let (header, body) = ReplyHeader::parse(frame).unwrap();
        assert_eq!(header.xid, 5);
        (header.error, body.to_vec())
    }

    #[test]
    fn what_was_written_is_read() {
        let mut znodes = Znodes::default();
        let mut request = Vec::new();
        wire::get_data(&mut request, 5, "/a");
        assert_eq!(code_and_body(&mut znodes, &request).0, wire::NO_NODE);

        let mut create = Vec::new();
        wire::create(&mut create, 5, "/a", b"one");
        assert_eq!(code_and_body(&mut znodes, &create).0, wire::OK);
        assert_eq!(code_and_body(&mut znodes, &create).0, wire::NODE_EXISTS);
        let (code, body) = code_and_body(&mut znodes, &request);
        assert_eq!((code, wire::data_of(&body).unwrap()), (wire::OK, b"one".as_slice()));

        let mut set = Vec::new();
        wire::set_data(&mut set, 5, "/a", b"second");
        assert_eq!(code_and_body(&mut znodes, &set).1.len(), wire::STAT_BYTES);
        let (_, body) = code_and_body(&mut znodes, &request);
        assert_eq!(wire::data_of(&body).unwrap(), b"second");
    }
}
