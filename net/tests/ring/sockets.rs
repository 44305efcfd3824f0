//! Receives, sends, accepts and connects, against the kernel's own sockets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pigeonhole::os;
use pigeonhole::ring::{
    Completion, LogBuffers, ReceiveBuffers, ReceiveEnd, Ring, RingConfig, SyncPrimitive, Token,
    WAKER_VALUE, Waker,
};

use super::{LISTENER, LOG, default_ring, scratch_file, wait_for};

/// A server that answers with what it was sent, until its waker is used.
pub(crate) struct Echo {
    address: SocketAddr,
    waker: Waker,
    thread: thread::JoinHandle<EchoCounts>,
}

#[derive(Default, Debug)]
pub(crate) struct EchoCounts {
    receives: usize,
    out_of_buffers: usize,
    closed: usize,
}

struct EchoConnection {
    stream: OwnedFd,
    outgoing: Vec<u8>,
    /// The buffer that is not in flight; `None` while a send is.
    spare: Option<Vec<u8>>,
    ended: bool,
}

impl Echo {
    pub(crate) fn start(config: RingConfig, send_buffer_bytes: Option<u32>) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = os::listen(any, os::ListenOptions::default()).unwrap();
        if let Some(bytes) = send_buffer_bytes {
            os::set_send_buffer_bytes(&listener, bytes).unwrap();
        }
        let address = os::local_address(&listener).unwrap();
        let (send_waker, waker) = mpsc::channel();
        let thread = thread::spawn(move || {
            let (mut ring, _) = Ring::new(&config).unwrap();
            send_waker.send(ring.waker().unwrap()).unwrap();
            let counts = echo(&mut ring, &listener);
            ring.shutdown(Duration::from_secs(5)).unwrap();
            counts
        });
        Self { address, waker: waker.recv().unwrap(), thread }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    pub(crate) fn stop(self) -> EchoCounts {
        self.waker.wake().unwrap();
        self.thread.join().unwrap()
    }
}

#[derive(Default)]
struct EchoState {
    counts: EchoCounts,
    connections: HashMap<u32, EchoConnection>,
    arm: Vec<u32>,
    stopped: bool,
}

fn echo(ring: &mut Ring, listener: &OwnedFd) -> EchoCounts {
    let mut state = EchoState::default();
    ring.accept(listener.as_fd(), LISTENER);
    while !state.stopped {
        ring.submit_and_wait(None).unwrap();
        while let Some(completion) = ring.next_completion() {
            state.on_completion(completion);
        }
        state.perform(ring);
    }
    state.counts
}

impl EchoState {
    fn on_completion(&mut self, completion: Completion<'_>) {
        match completion {
            Completion::Accepted { stream, armed, .. } => {
                assert!(armed);
                let slot = u32::try_from(self.connections.len() + self.counts.closed).unwrap();
                let (outgoing, spare) = (Vec::new(), Some(Vec::new()));
                let connection = EchoConnection { stream, outgoing, spare, ended: false };
                assert!(self.connections.insert(slot, connection).is_none());
                self.arm.push(slot);
            }
            Completion::Received { token, bytes, armed } => {
                assert!(!bytes.is_empty());
                self.counts.receives += 1;
                self.connection(token).outgoing.extend_from_slice(bytes);
                self.arm.extend((!armed).then_some(token.slot));
            }
            Completion::ReceiveEnded { token, end: ReceiveEnd::NoBuffers } => {
                self.counts.out_of_buffers += 1;
                self.arm.push(token.slot);
            }
            Completion::ReceiveEnded { token, .. } => self.connection(token).ended = true,
            Completion::Sent { token, mut buffer, result } => {
                let connection = self.connection(token);
                connection.ended |= result.is_err();
                buffer.clear();
                connection.spare = Some(buffer);
            }
            Completion::Woken { value } => {
                assert_eq!(value, WAKER_VALUE);
                self.stopped = true;
            }
            other => panic!("{other:?}"),
        }
    }

    fn perform(&mut self, ring: &mut Ring) {
        for slot in self.arm.drain(..) {
            let stream = self.connections[&slot].stream.as_fd();
            ring.receive(stream, Token { slot, generation: 1 });
        }
        for (slot, connection) in &mut self.connections {
            if !connection.outgoing.is_empty()
                && let Some(spare) = connection.spare.take()
            {
                let outgoing = std::mem::replace(&mut connection.outgoing, spare);
                let token = Token { slot: *slot, generation: 1 };
                ring.send(connection.stream.as_fd(), token, outgoing);
            }
        }
        for (_, connection) in self.connections.extract_if(|_, connection| {
            connection.ended && connection.spare.is_some() && connection.outgoing.is_empty()
        }) {
            self.counts.closed += 1;
            ring.close(connection.stream);
        }
    }

    fn connection(&mut self, token: Token) -> &mut EchoConnection {
        self.connections.get_mut(&token.slot).unwrap()
    }
}

/// A byte stream that shows any loss, repetition or reordering.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

pub(crate) fn round_trip(stream: &mut TcpStream, sent: &[u8]) {
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(sent).unwrap());
        let mut received = vec![0; sent.len()];
        stream.read_exact(&mut received).unwrap();
        assert!(received == sent, "what came back is not what was sent");
    });
}

#[test]
fn many_small_messages_come_back_on_every_connection() {
    let server = Echo::start(RingConfig::default(), None);
    thread::scope(|scope| {
        for seed in 1..=8 {
            let mut stream = server.connect();
            scope.spawn(move || {
                let bytes = pattern(seed, 200_000);
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let length = rest.len().min(1 + usize::from(rest[0]));
                    let (message, behind) = rest.split_at(length);
                    stream.write_all(message).unwrap();
                    let mut answer = vec![0; length];
                    stream.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, message);
                    rest = behind;
                }
            });
        }
    });
    let counts = server.stop();
    assert!(counts.receives >= 8 * 200_000 / 256, "{counts:?}");
}

#[test]
fn a_slow_reader_gets_every_byte_of_sends_that_fill_its_buffers() {
    let server = Echo::start(RingConfig::default(), Some(8 << 10));
    let mut stream = server.connect();
    let sent = pattern(99, 8 << 20);
    // Nothing is read before everything is written, so the server's sends get stuck.
    stream.write_all(&sent).unwrap();
    let mut received = vec![0; sent.len()];
    for chunk in received.chunks_mut(10_007) {
        stream.read_exact(chunk).unwrap();
    }
    assert!(received == sent);
    server.stop();
}

#[test]
fn running_out_of_receive_buffers_loses_nothing() {
    let whole = ReceiveBuffers { count: 2, bytes: 256 };
    let incremental = ReceiveBuffers { count: 2, bytes: 4096 };
    for incremental in [None, Some(incremental)] {
        let server = Echo::start(RingConfig { incremental, whole, ..RingConfig::default() }, None);
        thread::scope(|scope| {
            for seed in 1..=4 {
                let mut stream = server.connect();
                scope.spawn(move || round_trip(&mut stream, &pattern(seed, 1 << 20)));
            }
        });
        let counts = server.stop();
        assert!(counts.out_of_buffers > 0, "{counts:?}");
    }
}

#[test]
fn a_queue_of_four_entries_serves_fifty_connections_and_the_log() {
    let config =
        RingConfig { submission_entries: 4, completion_entries: 8, ..RingConfig::default() };
    let (mut ring, _) = Ring::new(&config).unwrap();
    let (path, file) = scratch_file("overflow", 64 << 10);
    let buffers = LogBuffers::allocate(8, 4096).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut pairs = Vec::new();
    for slot in 0..50 {
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        pairs.push((slot, client, server));
    }
    // All in one turn, far beyond both queues.
    let mut buffers = buffers.into_iter();
    for (slot, _, server) in &pairs {
        let token = Token { slot: *slot, generation: 0 };
        ring.receive(server.as_fd(), token);
        ring.send(server.as_fd(), token, pattern(u64::from(*slot), 100));
        if slot % 7 == 0 {
            let buffer = buffers.next().unwrap();
            buffer.bytes.fill(u8::try_from(*slot).unwrap() + 1);
            let offset = u64::from(slot / 7 * 4096);
            ring.write_log(file.as_fd(), LOG, buffer, offset, 4096, SyncPrimitive::WriteThenSync);
        }
    }
    let (mut sent, mut written) = (0, 0);
    while sent < 50 || written < 8 {
        match wait_for(&mut ring) {
            Completion::Sent { result, .. } => sent += result.map(|()| 1).unwrap(),
            Completion::LogWritten { result, .. } => written += result.map(|()| 1).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    for (slot, client, _) in &mut pairs {
        let mut answer = [0; 100];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..], pattern(u64::from(*slot), 100));
    }
    assert_eq!(ring.in_flight(), 50, "the receives are still armed");
    let disk = std::fs::read(&path).unwrap();
    for block in 0..8_u8 {
        let start = usize::from(block) * 4096;
        assert!(disk[start..start + 4096].iter().all(|byte| *byte == block * 7 + 1));
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_reset_while_sending_returns_the_buffer_and_ends_the_receive() {
    let mut ring = default_ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let token = Token { slot: 4, generation: 2 };
    ring.receive(server.as_fd(), token);
    ring.send(server.as_fd(), token, vec![7; 32 << 20]);
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    client.read_exact(&mut [0; 1000]).unwrap();
    // Closing with unread bytes resets the connection.
    drop(client);
    let (mut sent, mut ended) = (false, false);
    while !(sent && ended) {
        match wait_for(&mut ring) {
            Completion::Sent { token: back, buffer, result } => {
                assert_eq!((back, buffer.len()), (token, 32 << 20));
                let errno = result.unwrap_err().raw_os_error().unwrap();
                assert!([libc::ECONNRESET, libc::EPIPE].contains(&errno), "{errno}");
                sent = true;
            }
            Completion::ReceiveEnded { token: back, end } => {
                assert_eq!(back, token);
                assert!(matches!(end, ReceiveEnd::Failed(_) | ReceiveEnd::Closed), "{end:?}");
                ended = true;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn closing_cancels_what_is_in_flight_and_the_peer_sees_the_end() {
    let mut ring = default_ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let token = Token { slot: 4, generation: 2 };
    let receive = ring.receive(server.as_fd(), token);
    ring.send(server.as_fd(), token, vec![7; 32 << 20]);
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    ring.close(server.into());
    let (mut sent, mut ended) = (false, false);
    while !(sent && ended) {
        match wait_for(&mut ring) {
            Completion::Sent { buffer, result, .. } => {
                assert_eq!(buffer.len(), 32 << 20);
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
                sent = true;
            }
            Completion::ReceiveEnded { end, .. } => {
                assert!(matches!(end, ReceiveEnd::Cancelled), "{end:?}");
                ended = true;
            }
            other => panic!("{other:?}"),
        }
    }
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert!(received.len() < 32 << 20 && received.iter().all(|byte| *byte == 7));

    // The handle is stale now; the slot's next tenant must not suffer from it.
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    ring.receive(server.as_fd(), token);
    ring.cancel(receive);
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    client.write_all(b"still here").unwrap();
    ring.submit_and_wait(Some(Duration::from_secs(10))).unwrap();
    match ring.next_completion() {
        Some(Completion::Received { bytes, .. }) => assert_eq!(bytes, b"still here"),
        other => panic!("{other:?}"),
    };
}

#[test]
#[should_panic(expected = "is busy with")]
fn a_second_send_in_flight_is_refused() {
    let mut ring = default_ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ring.send(client.as_fd(), Token::default(), vec![1]);
    ring.send(client.as_fd(), Token::default(), vec![2]);
}

#[test]
fn connecting_succeeds_or_says_why_not() {
    let mut ring = default_ring();
    for bound in ["127.0.0.1:0", "[::1]:0"] {
        let listener = os::listen(bound.parse().unwrap(), os::ListenOptions::default()).unwrap();
        let address = os::local_address(&listener).unwrap();
        ring.accept(listener.as_fd(), LISTENER);
        let socket = os::stream_socket(address).unwrap();
        ring.connect(socket.as_fd(), Token { slot: 1, generation: 1 }, address);
        let (mut connected, mut accepted) = (false, None);
        while !connected || accepted.is_none() {
            match wait_for(&mut ring) {
                Completion::Connected { token, result } => {
                    assert_eq!(token.slot, 1);
                    result.unwrap();
                    connected = true;
                }
                Completion::Accepted { token, stream, armed } => {
                    assert!(armed && token == LISTENER);
                    accepted = Some(stream);
                }
                other => panic!("{other:?}"),
            }
        }
        let peer = os::peer_address(&accepted.unwrap()).unwrap();
        assert_eq!(peer, os::local_address(&socket).unwrap());
        ring.close(listener);
        match wait_for(&mut ring) {
            Completion::AcceptFailed { armed: false, .. } => {}
            other => panic!("{other:?}"),
        }

        let socket = os::stream_socket(address).unwrap();
        ring.connect(socket.as_fd(), Token::default(), address);
        match wait_for(&mut ring) {
            Completion::Connected { result: Err(error), .. } => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            }
            other => panic!("{other:?}"),
        }
    }
}
