//! What goes over a connection, counted from the frames as they pass: operators ask for it.
//!
//! Frames are answered in the order in which they came, notifications apart; so the driver can tell
//! how long each request took without knowing what it was.

use std::collections::VecDeque;

use pigeonhole_core::base::time::Instant;

/// The figures of one connection, as `cons` shows them.
#[derive(Default)]
pub(crate) struct Traffic {
    inbound: Frames,
    outbound: Frames,
    /// Requests that have no answer yet.
    pending: VecDeque<Pending>,
    pub(crate) figures: ConnectionFigures,
    connected: bool,
    answered: bool,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct ConnectionFigures {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// 0 until there is a session.
    pub(crate) session: i64,
    pub(crate) timeout_ms: i32,
    /// The last one that the client has numbered: none is negative.
    pub(crate) xid: Option<i32>,
    pub(crate) last: Option<LastAnswer>,
    pub(crate) latency: Latency,
}

#[derive(Clone, Copy)]
pub(crate) struct LastAnswer {
    pub(crate) operation: i32,
    pub(crate) zxid: i64,
    pub(crate) at: Instant,
    pub(crate) latency_us: u64,
}

/// How long requests took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) sum_us: u64,
    pub(crate) min_us: u64,
    pub(crate) max_us: u64,
}

/// The figures of all connections of one core, those that are gone included.
#[derive(Clone, Copy, Default)]
pub(crate) struct CoreTraffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) latency: Latency,
    /// The length of responses to clients.
    pub(crate) response: Sizes,
}

/// The last, smallest and largest of some lengths; -1 for none, as ZooKeeper has it.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) last: i64,
    pub(crate) min: i64,
    pub(crate) max: i64,
}

#[derive(Clone, Copy)]
struct Pending {
    since: Instant,
    operation: i32,
}

/// Finds the beginnings of frames in a stream that arrives in pieces.
#[derive(Default)]
struct Frames {
    /// Bytes of the current frame that are still to pass.
    skip: usize,
    /// A beginning of which not everything has arrived.
    head: [u8; LENGTH_BYTES + HEAD_BYTES],
    filled: usize,
}

impl Traffic {
    pub(crate) fn on_received(&mut self, bytes: &[u8], now: Instant, core: &mut CoreTraffic) {
        let Self { inbound, pending, figures, connected, .. } = self;
        inbound.pass(bytes, |_, head| {
            let operation = match *connected {
                true => number(head, 4),
                false => CREATE_SESSION,
            };
            *connected = true;
            figures.received += 1;
            core.received += 1;
            pending.push_back(Pending { since: now, operation });
        });
    }

    /// `bytes` is a whole number of frames.
    pub(crate) fn on_sending(&mut self, bytes: &[u8], now: Instant, core: &mut CoreTraffic) {
        let Self { outbound, pending, figures, answered, .. } = self;
        outbound.pass(bytes, |length, head| {
            figures.sent += 1;
            core.sent += 1;
            core.response.note(length + LENGTH_BYTES);
            let (xid, zxid) = if *answered {
                (number(head, 0), long(head, 4))
            } else {
                figures.timeout_ms = number(head, 4);
                figures.session = long(head, 8);
                (0, 0)
            };
            *answered = true;
            if xid == NOTIFICATION {
                return;
            }
            let Some(request) = pending.pop_front() else {
                return;
            };
            let operation = request.operation;
            if operation == AUTH {
                // ZooKeeper takes it for no request.
                return;
            }
            if xid >= 0 {
                figures.xid = Some(xid);
            }
            let latency_us = now.since(request.since).0;
            figures.latency.note(latency_us);
            core.latency.note(latency_us);
            figures.last = Some(LastAnswer { operation, zxid, at: now, latency_us });
        });
    }

    /// A four-letter word is a packet, too, and so is its answer.
    pub(crate) fn on_word(&mut self, core: &mut CoreTraffic) {
        self.figures.received += 1;
        core.received += 1;
    }

    pub(crate) fn on_answer_to_word(core: &mut CoreTraffic) {
        core.sent += 1;
    }

    /// Requests that were read and not yet answered.
    pub(crate) fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// Begins anew, as `crst` asks.
    pub(crate) fn reset(&mut self) {
        self.figures.received = 0;
        self.figures.sent = 0;
        self.figures.xid = None;
        self.figures.last = None;
        self.figures.latency = Latency::default();
    }
}

impl Latency {
    pub(crate) fn note(&mut self, micros: u64) {
        self.min_us = if self.count == 0 { micros } else { self.min_us.min(micros) };
        self.max_us = self.max_us.max(micros);
        self.sum_us += micros;
        self.count += 1;
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min_us = if self.count == 0 { other.min_us } else { self.min_us.min(other.min_us) };
        self.max_us = self.max_us.max(other.max_us);
        self.sum_us += other.sum_us;
        self.count += other.count;
    }
}

impl CoreTraffic {
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.latency.absorb(&other.latency);
        self.response.absorb(other.response);
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self { last: -1, min: -1, max: -1 }
    }
}

impl Sizes {
    pub(crate) fn note(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.last = bytes;
        self.min = if self.min < 0 { bytes } else { self.min.min(bytes) };
        self.max = self.max.max(bytes);
    }

    pub(crate) fn absorb(&mut self, other: Self) {
        if other.last < 0 {
            return;
        }
        self.last = other.last;
        self.min = if self.min < 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
    }
}

impl Frames {
    /// Calls `on_frame` with the length of each frame and the first bytes of its body.
    fn pass(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(usize, &[u8])) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            if self.filled == 0 && bytes.len() >= self.head.len() {
                let length = frame_length(bytes);
                let seen = HEAD_BYTES.min(length);
                on_frame(length, &bytes[LENGTH_BYTES..LENGTH_BYTES + seen]);
                self.skip = LENGTH_BYTES + length;
                continue;
            }
            self.head[self.filled] = bytes[0];
            self.filled += 1;
            bytes = &bytes[1..];
            if self.filled < LENGTH_BYTES {
                continue;
            }
            let length = frame_length(&self.head);
            let seen = HEAD_BYTES.min(length);
            if self.filled == LENGTH_BYTES + seen {
                on_frame(length, &self.head[LENGTH_BYTES..self.filled]);
                self.skip = length - seen;
                self.filled = 0;
            }
        }
    }
}

fn frame_length(bytes: &[u8]) -> usize {
    let prefix = *bytes.first_chunk().expect("the caller has the length");
    // What is no length is no frame either: the connection is about to be closed.
    usize::try_from(i32::from_be_bytes(prefix)).unwrap_or(usize::MAX - LENGTH_BYTES)
}

fn number(head: &[u8], offset: usize) -> i32 {
    let field = head.get(offset..).and_then(<[u8]>::first_chunk);
    field.copied().map_or(0, i32::from_be_bytes)
}

fn long(head: &[u8], offset: usize) -> i64 {
    let field = head.get(offset..).and_then(<[u8]>::first_chunk);
    field.copied().map_or(0, i64::from_be_bytes)
}

const LENGTH_BYTES: usize = 4;
/// A reply's header, and a connect response up to the session's id, are so long.
const HEAD_BYTES: usize = 16;
/// The xid of what is not an answer.
const NOTIFICATION: i32 = -1;
/// ZooKeeper's number for what a connect request becomes.
pub(crate) const CREATE_SESSION: i32 = -10;
const AUTH: i32 = 100;

#[cfg(test)]
mod tests {
    use pigeonhole_core::base::time::Instant;

    use super::{CoreTraffic, Traffic};

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut frame = i32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    fn reply(xid: i32, zxid: i64) -> Vec<u8> {
        let mut body = xid.to_be_bytes().to_vec();
        body.extend_from_slice(&zxid.to_be_bytes());
        body.extend_from_slice(&[0; 4 + 30]);
        frame(&body)
    }

    fn connect_response() -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend_from_slice(&10_000_i32.to_be_bytes());
        body.extend_from_slice(&0x0100_0000_0000_0007_i64.to_be_bytes());
        body.extend_from_slice(&[0; 21]);
        frame(&body)
    }

    #[test]
    fn frames_are_counted_however_they_arrive() {
        let get_data = [&7_i32.to_be_bytes()[..], &4_i32.to_be_bytes(), &[1; 50]].concat();
        let ping = [(-2_i32).to_be_bytes(), 11_i32.to_be_bytes()].concat();
        let auth = [(-4_i32).to_be_bytes(), 100_i32.to_be_bytes()].concat();
        let requests = [frame(&[0; 45]), frame(&get_data), frame(&ping), frame(&auth)].concat();
        let answers = [reply(-1, -1), reply(7, 98), reply(-2, 99), reply(-4, 100)].concat();
        let replies = [connect_response(), answers].concat();
        for piece in 1..requests.len() {
            let (mut traffic, mut core) = (Traffic::default(), CoreTraffic::default());
            for bytes in requests.chunks(piece) {
                traffic.on_received(bytes, Instant(1000), &mut core);
            }
            assert_eq!((core.received, traffic.outstanding()), (4, 4), "pieces of {piece}");
            for bytes in replies.chunks(piece) {
                traffic.on_sending(bytes, Instant(1500), &mut core);
            }
            let figures = &traffic.figures;
            assert_eq!((figures.session, figures.timeout_ms), (0x0100_0000_0000_0007, 10_000));
            assert_eq!((figures.received, figures.sent, traffic.outstanding()), (4, 5, 0));
            let last = figures.last.unwrap();
            assert_eq!((last.operation, figures.xid, last.zxid), (11, Some(7), 99));
            assert_eq!(
                (core.latency.count, core.latency.min_us, core.latency.max_us),
                (3, 500, 500)
            );
        }
    }

    #[test]
    fn what_is_no_frame_is_passed_over() {
        let (mut traffic, mut core) = (Traffic::default(), CoreTraffic::default());
        traffic.on_received(&[0xff; 100], Instant(1), &mut core);
        traffic.on_received(&[0xff; 100], Instant(1), &mut core);
        assert_eq!(core.received, 1);
    }
}
