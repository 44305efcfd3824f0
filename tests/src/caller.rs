//! A client for tests of real servers: it blocks, and panics at what it did not expect.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pigeonhole_core::base::id::SessionId;
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, Request};
use pigeonhole_core::wire::client;

/// One session with one server on loopback.
pub struct Caller {
    stream: TcpStream,
    xid: i32,
    credentials: Credentials,
}

/// What proves that a session is one's own.
#[derive(Clone, Copy)]
pub struct Credentials {
    session: SessionId,
    password: [u8; 16],
}

/// Nothing that a test waits for takes longer, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

impl Caller {
    /// A new session; an error if the server has no leader, or nobody listens.
    pub fn connect(port: u16) -> io::Result<Self> {
        Self::resume(port, Credentials { session: SessionId(0), password: [0; 16] })
    }

    /// Goes on with a session, which must still be there.
    pub fn resume(port: u16, credentials: Credentials) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut caller = Self { stream, xid: 0, credentials };
        let mut frame = Vec::new();
        let Credentials { session, password } = &credentials;
        let request = ConnectRequest {
            session: *session,
            password,
            ..ConnectRequest::for_new_session(30_000)
        };
        client::put_connect(&mut frame, &request);
        caller.stream.write_all(&frame)?;
        let answer = caller.frame()?;
        let response = client::parse_connect(&answer).expect("a connect response");
        assert_ne!(response.session, SessionId(0), "there is a session");
        let Credentials { session, password } = &mut caller.credentials;
        (*session, *password) = (response.session, response.password);
        Ok(caller)
    }

    pub fn credentials(&self) -> Credentials {
        self.credentials
    }

    /// The error code of a creation; an error if nobody knows what became of it.
    pub fn try_create(&mut self, path: &str) -> io::Result<i32> {
        self.try_send(&creation(path, b""))?;
        let answer = self.frame()?;
        Ok(client::parse_header(&answer).expect("a reply").0.error)
    }

    pub fn create_ephemeral(&mut self, path: &str) {
        let Request::Create { data, acl, with_stat, .. } = creation(path, b"") else {
            unreachable!("it is one")
        };
        self.ask(&Request::Create { path, data, acl, mode: CreateMode::Ephemeral, with_stat });
    }

    /// Which of these znodes are not there.
    pub fn missing(&mut self, paths: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut paths: Vec<String> = paths.into_iter().collect();
        let looks = paths.iter().map(|path| Request::Exists { path, watch: false });
        let mut codes = self.codes(looks).into_iter();
        paths.retain(|_| codes.next() != Some(0));
        paths
    }

    /// Closes the session.
    pub fn end(&mut self) {
        self.ask(&Request::CloseSession);
    }

    pub fn create(&mut self, path: &str, data: &[u8]) {
        let body = self.ask(&creation(path, data));
        assert_eq!(client::parse_path(&body), Ok(path));
    }

    /// Creates znodes, many at a time; every one must come about.
    pub fn create_all(&mut self, paths: impl IntoIterator<Item = String>, data: &[u8]) {
        let paths: Vec<String> = paths.into_iter().collect();
        let codes = self.codes(paths.iter().map(|path| creation(path, data)));
        assert!(codes.iter().all(|&code| code == 0), "{codes:?}");
    }

    /// Asks for znodes in one breath, so that the server reads all of it at once, and returns when
    /// it has answered the first; [`Self::replies`] has the others.
    pub fn begin_to_create(&mut self, paths: impl IntoIterator<Item = String>) {
        let mut frames = Vec::new();
        for path in paths {
            self.xid += 1;
            client::put_request(&mut frames, self.xid, &creation(&path, b""));
        }
        self.stream.write_all(&frames).expect("the server listens");
        assert_eq!(self.reply().0, 0);
    }

    /// The error codes of all replies that come until the server closes the connection.
    pub fn replies(&mut self) -> Vec<i32> {
        let mut codes = Vec::new();
        while let Ok(answer) = self.frame() {
            codes.push(client::parse_header(&answer).expect("a reply").0.error);
        }
        codes
    }

    /// Sets data, many at a time: how often that succeeded, and with which code it did not.
    pub fn set_all(
        &mut self,
        paths: impl IntoIterator<Item = String>,
        data: &[u8],
    ) -> (usize, Option<i32>) {
        let paths: Vec<String> = paths.into_iter().collect();
        let data = Some(data);
        let codes =
            self.codes(paths.iter().map(|path| Request::SetData { path, data, version: -1 }));
        let refused = codes.iter().find(|&&code| code != 0).copied();
        (codes.iter().filter(|&&code| code == 0).count(), refused)
    }

    pub fn data(&mut self, path: &str) -> Vec<u8> {
        let body = self.ask(&Request::GetData { path, watch: false });
        let (data, stat) = client::parse_get_data(&body).expect("data and stat");
        let data = data.expect("it is not null");
        assert_eq!(usize::try_from(stat.data_length), Ok(data.len()));
        data.to_vec()
    }

    pub fn exists(&mut self, path: &str) -> bool {
        self.codes([Request::Exists { path, watch: false }]) == [0]
    }

    pub fn sync(&mut self) {
        self.ask(&Request::Sync { path: "/" });
    }

    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    /// The bare socket, for clients that misbehave.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// The body of the reply; the request must succeed.
    fn ask(&mut self, request: &Request<'_>) -> Vec<u8> {
        self.send(request);
        let (code, body) = self.reply();
        assert_eq!(code, 0, "{request:?}");
        body
    }

    /// The error codes of requests that are sent without waiting for each other.
    fn codes<'a>(&mut self, requests: impl IntoIterator<Item = Request<'a>>) -> Vec<i32> {
        let mut codes = Vec::new();
        let mut outstanding = 0;
        for request in requests {
            self.send(&request);
            outstanding += 1;
            if outstanding == DEPTH {
                codes.push(self.reply().0);
                outstanding -= 1;
            }
        }
        codes.extend((0..outstanding).map(|_| self.reply().0));
        codes
    }

    fn send(&mut self, request: &Request<'_>) {
        self.try_send(request).expect("the server listens");
    }

    fn try_send(&mut self, request: &Request<'_>) -> io::Result<()> {
        self.xid += 1;
        let mut frame = Vec::new();
        client::put_request(&mut frame, self.xid, request);
        self.stream.write_all(&frame)
    }

    fn reply(&mut self) -> (i32, Vec<u8>) {
        let answer = self.frame().expect("the server answers");
        let (header, body) = client::parse_header(&answer).expect("a reply");
        (header.error, body.to_vec())
    }

    fn frame(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).expect("a length");
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }
}

/// What a server answers to a four-letter word.
pub fn word(port: u16, word: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn creation<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    let acl = vec![Acl { permissions: 31, scheme: "world", id: "anyone" }];
    let mode = CreateMode::Persistent;
    Request::Create { path, data: Some(data), acl, mode, with_stat: false }
}

const DEPTH: usize = 64;
