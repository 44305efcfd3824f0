//! A blocking ZooKeeper client: for set-up, for health checks and for the writer of `failover`.

pub(crate) mod wire;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::BenchError;
use wire::{ReplyHeader, Session};

/// One connection with its session. Requests may be pipelined; replies come in their order.
pub(crate) struct Client {
    stream: TcpStream,
    session: Session,
    next_xid: i32,
    last_zxid: i64,
    output: Vec<u8>,
    input: Vec<u8>,
    consumed: usize,
}

impl Client {
    /// Opens a session.
    pub(crate) fn connect(server: SocketAddr, patience: Duration) -> Result<Self, BenchError> {
        Self::attach(server, Session::default(), 0, patience)
    }

    /// Attaches to `session`, which another connection opened, or opens one if it is the default.
    pub(crate) fn attach(
        server: SocketAddr,
        session: Session,
        last_zxid: i64,
        patience: Duration,
    ) -> Result<Self, BenchError> {
        let stream = TcpStream::connect_timeout(&server, patience).map_err(disconnected)?;
        stream.set_nodelay(true).map_err(disconnected)?;
        stream.set_read_timeout(Some(patience)).map_err(disconnected)?;
        stream.set_write_timeout(Some(patience)).map_err(disconnected)?;
        let mut client = Self {
            stream,
            session,
            next_xid: 1,
            last_zxid,
            output: Vec::new(),
            input: Vec::new(),
            consumed: 0,
        };
        wire::connect(&mut client.output, SESSION_TIMEOUT_MS, session, last_zxid);
        client.flush()?;
        client.session = client.on_frame(wire::parse_connected)?;
        Ok(client)
    }

    pub(crate) fn create(&mut self, path: &str, data: &[u8]) -> Result<i32, BenchError> {
        self.call(|output, xid| wire::create(output, xid, path, data))
    }

    pub(crate) fn exists(&mut self, path: &str) -> Result<i32, BenchError> {
        self.call(|output, xid| wire::exists(output, xid, path))
    }

    pub(crate) fn sync(&mut self, path: &str) -> Result<(), BenchError> {
        match self.call(|output, xid| wire::sync(output, xid, path))? {
            wire::OK => Ok(()),
            code => Err(BenchError::Refused { request: "sync", code }),
        }
    }

    /// Ends the session, so that the server has nothing left to time out.
    pub(crate) fn close(mut self) -> Result<(), BenchError> {
        self.call(wire::close_session).map(|_| ())
    }

    /// Sends one request for each item, many at a time, and hands each reply's error code to
    /// `on_reply` in the order of the items.
    pub(crate) fn pipeline<T>(
        &mut self,
        items: &[T],
        mut encode: impl FnMut(&mut Vec<u8>, i32, &T),
        mut on_reply: impl FnMut(&T, i32),
    ) -> Result<(), BenchError> {
        for batch in items.chunks(PIPELINE_DEPTH) {
            let first_xid = self.next_xid;
            for item in batch {
                encode(&mut self.output, self.next_xid, item);
                self.next_xid += 1;
            }
            self.flush()?;
            for (xid, item) in (first_xid..).zip(batch) {
                on_reply(item, self.on_reply(xid)?);
            }
        }
        Ok(())
    }

    /// Gives up the connection without closing the session, and keeps what re-attaching takes.
    pub(crate) fn detach(self) -> (Session, i64) {
        (self.session, self.last_zxid)
    }

    /// The bare socket, for a caller that goes on without this type. Nothing may be outstanding.
    pub(crate) fn into_stream(self) -> TcpStream {
        assert_eq!(self.consumed, self.input.len(), "a reply that nobody asked for");
        self.stream
    }

    fn call(&mut self, encode: impl FnOnce(&mut Vec<u8>, i32)) -> Result<i32, BenchError> {
        let xid = self.next_xid;
        self.next_xid += 1;
        encode(&mut self.output, xid);
        self.flush()?;
        self.on_reply(xid)
    }

    fn flush(&mut self) -> Result<(), BenchError> {
        self.stream.write_all(&self.output).map_err(disconnected)?;
        self.output.clear();
        Ok(())
    }

    fn on_reply(&mut self, xid: i32) -> Result<i32, BenchError> {
        let header = self.on_frame(|frame| Ok(ReplyHeader::parse(frame)?.0))?;
        if header.xid != xid {
            let what = format!("a reply to xid {} where {xid} is due", header.xid);
            return Err(BenchError::Protocol(what));
        }
        self.last_zxid = self.last_zxid.max(header.zxid);
        Ok(header.error)
    }

    fn on_frame<T>(
        &mut self,
        parse: impl FnOnce(&[u8]) -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        loop {
            if let Some(frame) = wire::frame(&self.input[self.consumed..])? {
                let value = parse(frame);
                self.consumed += wire::FRAME_LENGTH_BYTES + frame.len();
                return value;
            }
            self.input.drain(..self.consumed);
            self.consumed = 0;
            let mut bytes = [0; RECEIVE_BYTES];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(BenchError::Disconnected("closed by the server".to_owned())),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                // A read with a timeout is not resumed by the kernel when a ring that this thread
                // has just dropped is taken apart.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(disconnected(error)),
            }
        }
    }
}

/// Asks for a four-letter word and returns the text; the server closes the connection behind it.
pub(crate) fn four_letter_word(
    server: SocketAddr,
    word: &str,
    patience: Duration,
) -> Result<String, BenchError> {
    let mut stream = TcpStream::connect_timeout(&server, patience).map_err(disconnected)?;
    stream.set_read_timeout(Some(patience)).map_err(disconnected)?;
    stream.write_all(word.as_bytes()).map_err(disconnected)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(disconnected)?;
    Ok(text)
}

/// The role in a `srvr` answer: `leader`, `follower`, `observer`, `standalone`.
pub(crate) fn mode(server: SocketAddr, patience: Duration) -> Result<String, BenchError> {
    let text = four_letter_word(server, "srvr", patience)?;
    text.lines()
        .find_map(|line| line.strip_prefix("Mode: "))
        .map(str::to_owned)
        .ok_or_else(|| BenchError::Protocol(format!("srvr names no mode: {text:?}")))
}

/// A link that is gone says nothing about the request on it, whatever the errno.
fn disconnected(error: std::io::Error) -> BenchError {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::PermissionDenied | ErrorKind::AddrNotAvailable => {
            BenchError::Io { doing: "talk to a server".to_owned(), source: error }
        }
        _ => BenchError::Disconnected(error.to_string()),
    }
}

/// Long enough that no run loses its sessions to a busy machine.
const SESSION_TIMEOUT_MS: i32 = 30_000;
/// Below ZooKeeper's default limit of outstanding requests, and enough to hide the round trip.
const PIPELINE_DEPTH: usize = 256;
const RECEIVE_BYTES: usize = 16 << 10;
