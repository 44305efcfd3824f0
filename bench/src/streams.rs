//! Many TCP connections on one io_uring and one thread: the engine of the load and of the floor.
//!
//! Every stream owns its buffers. The kernel may touch them while an operation is in flight, so a
//! stream is freed only when both its directions are at rest; dropping the whole waits for that.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;
use std::{io, mem};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::error::BenchError;

/// The connections and their ring.
pub(crate) struct Streams {
    ring: IoUring,
    listener: Option<TcpListener>,
    streams: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// Streams whose next receive is armed by the next `wait`, behind the sends of this turn.
    rearm: Vec<usize>,
    operations_in_flight: usize,
}

/// What happened on the connection with the given index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Accepted(usize),
    /// Bytes were added to the input.
    Received(usize),
    /// The peer is gone. The index stays taken until `release`.
    Closed(usize),
}

struct Stream {
    socket: TcpStream,
    input: Vec<u8>,
    input_begin: usize,
    input_end: usize,
    output: Vec<u8>,
    sending: Vec<u8>,
    sent: usize,
    send_in_flight: bool,
    receive_in_flight: bool,
    closed: bool,
    released: bool,
}

impl Streams {
    /// A ring for about `streams_max` connections; more work, at a cost.
    pub(crate) fn new(streams_max: u32) -> Result<Self, BenchError> {
        let entries = (streams_max.saturating_mul(2)).clamp(64, 4096).next_power_of_two();
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(entries * 2)
            .build(entries)
            .map_err(BenchError::io("set up an io_uring (kernel 6.1 or newer is needed)"))?;
        Ok(Self {
            ring,
            listener: None,
            streams: Vec::new(),
            free: Vec::new(),
            rearm: Vec::new(),
            operations_in_flight: 0,
        })
    }

    /// Accepts every connection that comes to `listener`.
    pub(crate) fn listen(&mut self, listener: TcpListener) {
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(ACCEPT);
        self.listener = Some(listener);
        self.submit(&accept);
    }

    /// Takes over a connected socket and returns its index.
    pub(crate) fn add(&mut self, socket: TcpStream) -> usize {
        let stream = Stream {
            socket,
            input: vec![0; INPUT_BYTES],
            input_begin: 0,
            input_end: 0,
            output: Vec::with_capacity(OUTPUT_BYTES),
            sending: Vec::with_capacity(OUTPUT_BYTES),
            sent: 0,
            send_in_flight: false,
            receive_in_flight: false,
            closed: false,
            released: false,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        });
        assert!(self.streams[index].is_none(), "a free index holds no stream");
        self.streams[index] = Some(stream);
        self.rearm.push(index);
        index
    }

    /// The bytes received and not yet consumed, and the buffer for what is to be sent.
    #[inline]
    pub(crate) fn split(&mut self, index: usize) -> (&[u8], &mut Vec<u8>) {
        let stream = stream(&mut self.streams, index);
        (&stream.input[stream.input_begin..stream.input_end], &mut stream.output)
    }

    /// Forgets the first `count` bytes of the input.
    #[inline]
    pub(crate) fn consume(&mut self, index: usize, count: usize) {
        let stream = stream(&mut self.streams, index);
        stream.input_begin += count;
        assert!(stream.input_begin <= stream.input_end, "only what was received is consumed");
    }

    /// Sends the output, unless a send is in flight: then it goes out behind that.
    #[inline]
    pub(crate) fn flush(&mut self, index: usize) {
        let stream = stream(&mut self.streams, index);
        if stream.send_in_flight || stream.closed || stream.output.is_empty() {
            return;
        }
        mem::swap(&mut stream.output, &mut stream.sending);
        stream.output.clear();
        stream.sent = 0;
        let send = stream.send(index);
        self.submit(&send);
    }

    /// Closes the connection; its index may be used again when the kernel has let go of it.
    pub(crate) fn release(&mut self, index: usize) {
        let stream = stream(&mut self.streams, index);
        // An error here means that the peer was faster, which is as good.
        let _ = stream.socket.shutdown(Shutdown::Both);
        stream.closed = true;
        stream.released = true;
        self.free_if_at_rest(index);
    }

    /// Submits everything queued and waits for something to happen, at most `patience`.
    pub(crate) fn wait(
        &mut self,
        patience: Duration,
        events: &mut Vec<Event>,
    ) -> Result<(), BenchError> {
        while let Some(index) = self.rearm.pop() {
            if let Some(stream) = &mut self.streams[index]
                && !stream.closed
                && !stream.receive_in_flight
            {
                let receive = stream.receive(index);
                self.submit(&receive);
            }
        }
        let patience = Timespec::from(patience);
        let args = SubmitArgs::new().timespec(&patience);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => {}
            Err(error) if is_retry(&error) => {}
            Err(source) => return Err(BenchError::io("enter the ring")(source)),
        }
        events.clear();
        loop {
            let Some(completion) = self.ring.completion().next() else {
                return Ok(());
            };
            self.on_completion(&completion, events)?;
        }
    }

    fn on_completion(
        &mut self,
        completion: &cqueue::Entry,
        events: &mut Vec<Event>,
    ) -> Result<(), BenchError> {
        let result = completion.result();
        if !cqueue::more(completion.flags()) {
            self.operations_in_flight -= 1;
        }
        if completion.user_data() == ACCEPT {
            return self.on_accept(completion, events);
        }
        let index = usize::try_from(completion.user_data() >> 1).expect("made from an index");
        if completion.user_data() & 1 == SEND {
            self.on_sent(index, result, events);
        } else {
            self.on_received(index, result, events);
        }
        self.free_if_at_rest(index);
        Ok(())
    }

    fn on_accept(
        &mut self,
        completion: &cqueue::Entry,
        events: &mut Vec<Event>,
    ) -> Result<(), BenchError> {
        if completion.result() < 0 {
            let error = io::Error::from_raw_os_error(-completion.result());
            return Err(BenchError::io("accept a connection")(error));
        }
        // SAFETY: the kernel has just made this descriptor for us, and nothing else owns it.
        let socket = unsafe { TcpStream::from_raw_fd(completion.result()) };
        socket.set_nodelay(true).map_err(BenchError::io("set TCP_NODELAY"))?;
        let index = self.add(socket);
        events.push(Event::Accepted(index));
        if !cqueue::more(completion.flags())
            && let Some(listener) = self.listener.take()
        {
            self.listen(listener);
        }
        Ok(())
    }

    fn on_received(&mut self, index: usize, result: i32, events: &mut Vec<Event>) {
        let stream = stream(&mut self.streams, index);
        stream.receive_in_flight = false;
        match usize::try_from(result) {
            Ok(count) if count > 0 => {
                stream.input_end += count;
                if !stream.closed {
                    self.rearm.push(index);
                    events.push(Event::Received(index));
                }
            }
            _ if -result == libc::EINTR || -result == libc::EAGAIN => self.rearm.push(index),
            _ => close(stream, index, events),
        }
    }

    fn on_sent(&mut self, index: usize, result: i32, events: &mut Vec<Event>) {
        let stream = stream(&mut self.streams, index);
        stream.send_in_flight = false;
        match usize::try_from(result) {
            Ok(count) => stream.sent += count,
            Err(_) if -result == libc::EINTR || -result == libc::EAGAIN => {}
            Err(_) => return close(stream, index, events),
        }
        if stream.closed {
            return;
        }
        if stream.sent < stream.sending.len() {
            let send = stream.send(index);
            self.submit(&send);
        } else {
            self.flush(index);
        }
    }

    fn free_if_at_rest(&mut self, index: usize) {
        if let Some(stream) = &self.streams[index]
            && stream.released
            && !stream.send_in_flight
            && !stream.receive_in_flight
        {
            self.streams[index] = None;
            self.rearm.retain(|&waiting| waiting != index);
            self.free.push(index);
        }
    }

    fn submit(&mut self, entry: &squeue::Entry) {
        self.operations_in_flight += 1;
        loop {
            // SAFETY: what the entry points to belongs to a stream, which outlives the operation:
            // it is freed, and its buffers are resized, only when no operation is in flight.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            let submitted = self.ring.submit();
            assert!(submitted.is_ok(), "a full submission queue can be submitted: {submitted:?}");
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for stream in self.streams.iter().flatten() {
            let _ = stream.socket.shutdown(Shutdown::Both);
        }
        if let Some(listener) = &self.listener {
            // SAFETY: the descriptor is open; shutting it down ends the accept in flight.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        }
        while self.operations_in_flight > 0 {
            if self.ring.submit_and_wait(1).is_err_and(|error| !is_retry(&error)) {
                // The kernel may still write to the buffers, so they must never be reused.
                mem::forget(mem::take(&mut self.streams));
                return;
            }
            for completion in self.ring.completion() {
                if !cqueue::more(completion.flags()) {
                    self.operations_in_flight -= 1;
                }
            }
        }
    }
}

impl Stream {
    fn send(&mut self, index: usize) -> squeue::Entry {
        let rest = &self.sending[self.sent..];
        self.send_in_flight = true;
        let length = u32::try_from(rest.len()).expect("an output stays far below four gigabytes");
        opcode::Send::new(Fd(self.socket.as_raw_fd()), rest.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(token(index, SEND))
    }

    fn receive(&mut self, index: usize) -> squeue::Entry {
        self.input.copy_within(self.input_begin..self.input_end, 0);
        self.input_end -= self.input_begin;
        self.input_begin = 0;
        if self.input_end == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
        self.receive_in_flight = true;
        let room = &mut self.input[self.input_end..];
        let length = u32::try_from(room.len()).expect("an input stays far below four gigabytes");
        // The last receive nearly always took everything, so trying before polling is wasted.
        opcode::Recv::new(Fd(self.socket.as_raw_fd()), room.as_mut_ptr(), length)
            .ioprio(RECVSEND_POLL_FIRST)
            .build()
            .user_data(token(index, RECEIVE))
    }
}

#[inline]
fn stream(streams: &mut [Option<Stream>], index: usize) -> &mut Stream {
    streams[index].as_mut().expect("an index is used only between add and release")
}

fn close(stream: &mut Stream, index: usize, events: &mut Vec<Event>) {
    if !stream.closed {
        stream.closed = true;
        events.push(Event::Closed(index));
    }
}

fn token(index: usize, direction: u64) -> u64 {
    (u64::try_from(index).expect("an index fits") << 1) | direction
}

/// The wait ended without a completion, or before anything could be done: look again.
fn is_retry(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const ACCEPT: u64 = u64::MAX;
/// `IORING_RECVSEND_POLL_FIRST`, which the ring's crate keeps to itself.
const RECVSEND_POLL_FIRST: u16 = 1;
const INPUT_BYTES: usize = 64 << 10;
const OUTPUT_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn wait_for(streams: &mut Streams, wanted: impl Fn(&Event) -> bool) -> Event {
        let mut events = Vec::new();
        for _ in 0..1000 {
            streams.wait(Duration::from_millis(10), &mut events).unwrap();
            if let Some(event) = events.iter().find(|event| wanted(event)) {
                return *event;
            }
        }
        panic!("the event never came");
    }

    #[test]
    fn bytes_come_back_and_a_closed_peer_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut streams = Streams::new(4).unwrap();
        streams.listen(listener);
        let mut peer = TcpStream::connect(address).unwrap();
        let Event::Accepted(index) =
            wait_for(&mut streams, |event| matches!(event, Event::Accepted(_)))
        else {
            panic!("only an acceptance was asked for");
        };

        // More than one buffer, so that the input has to grow and sends follow one another.
        let message: Vec<u8> = (0..=255).cycle().take(3 * INPUT_BYTES).collect();
        peer.write_all(&message[..INPUT_BYTES + 1]).unwrap();
        while streams.split(index).0.len() < INPUT_BYTES + 1 {
            wait_for(&mut streams, |event| *event == Event::Received(index));
        }
        let (input, output) = streams.split(index);
        output.extend_from_slice(input);
        streams.consume(index, INPUT_BYTES + 1);
        streams.flush(index);
        streams.split(index).1.extend_from_slice(b"behind");
        streams.flush(index);
        let mut events = Vec::new();
        streams.wait(Duration::ZERO, &mut events).unwrap();
        streams.wait(Duration::ZERO, &mut events).unwrap();
        let mut echoed = vec![0; INPUT_BYTES + 1 + 6];
        peer.read_exact(&mut echoed).unwrap();
        assert!(echoed[..INPUT_BYTES + 1] == message[..INPUT_BYTES + 1]);
        assert_eq!(echoed[INPUT_BYTES + 1..], *b"behind");

        drop(peer);
        wait_for(&mut streams, |event| *event == Event::Closed(index));
        streams.release(index);
        assert!(streams.streams[index].is_none());
    }
}
