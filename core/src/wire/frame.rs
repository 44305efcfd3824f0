//! The stream of a connection cut into frames: a length of four bytes, then so many bytes.
//!
//! Frames that lie whole in a received chunk are handed out where they lie. Only what spans chunks
//! is copied, into a buffer that grows with the bytes received and never with the length announced.

use alloc::vec::Vec;
use core::mem;

use crate::base::limits::CONNECT_BYTES_MAX;

/// What is left of a stream after this is no longer cut: the connection has to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The stream opened with four lowercase letters: a four-letter word, not a client.
    Word([u8; WORD_BYTES]),
    /// A length of zero or below: every frame has at least a header.
    NoLength,
    /// A length above the limit.
    TooLong { announced: usize, limit: usize },
}

/// Cuts one connection's stream; it carries what a chunk left unfinished.
#[derive(Debug)]
pub struct Deframer {
    /// Received behind what is lent; it begins with a frame.
    carried: Vec<u8>,
    /// What `carried` was: whole frames, which are borrowed from it.
    lent: Vec<u8>,
    /// So much of it was handed out.
    lent_taken: usize,
    state: State,
}

/// The frames of one chunk, and of what was carried into it.
///
/// Frames borrow the chunk and the deframer, not this iterator, so that all frames of a turn can be
/// decoded before the first is acted upon. Dropping it early carries the rest over. When it ends,
/// there may be more ([`Deframer::holds_frame`]).
#[derive(Debug)]
pub struct Frames<'a> {
    /// The carried bytes, completed from the chunk; empty in the common case.
    before: &'a [u8],
    before_taken: &'a mut usize,
    chunk: &'a [u8],
    carried: &'a mut Vec<u8>,
    state: &'a mut State,
}

#[derive(Clone, Copy, Debug)]
struct State {
    frame_bytes_max: usize,
    /// The stream opens with a ConnectRequest, which has a limit of its own, or with a word.
    is_opening: bool,
    /// Nothing is cut behind an error.
    is_broken: bool,
}

impl Deframer {
    /// For what a client sends: its first frame is a ConnectRequest, and may be a four-letter word.
    pub fn for_requests(frame_bytes_max: usize) -> Self {
        Self::new(frame_bytes_max, true)
    }

    /// For what a server sends: every frame has the same limit.
    pub fn for_replies(frame_bytes_max: usize) -> Self {
        Self::new(frame_bytes_max, false)
    }

    fn new(frame_bytes_max: usize, is_opening: bool) -> Self {
        Self {
            carried: Vec::new(),
            lent: Vec::new(),
            lent_taken: 0,
            state: State { frame_bytes_max, is_opening, is_broken: false },
        }
    }

    /// Takes the next bytes of the stream and hands out the frames that are complete with them.
    pub fn split<'a>(&'a mut self, chunk: &'a [u8]) -> Frames<'a> {
        if self.lent_taken == self.lent.len() {
            self.lent.clear();
            self.lent_taken = 0;
        }
        let rest = if self.state.is_broken {
            &[]
        } else if !self.lent.is_empty() {
            self.carried.extend_from_slice(chunk);
            &[]
        } else if self.carried.is_empty() {
            chunk
        } else {
            self.complete_carried(chunk)
        };
        Frames {
            before: &self.lent[self.lent_taken..],
            before_taken: &mut self.lent_taken,
            chunk: rest,
            carried: &mut self.carried,
            state: &mut self.state,
        }
    }

    /// Gives memory back; to be called when the frames of a turn are no longer used.
    pub fn on_turn_end(&mut self) {
        if self.lent_taken == self.lent.len() && self.lent.capacity() > KEPT_BYTES_MAX {
            self.lent = Vec::new();
            self.lent_taken = 0;
        }
        if self.carried.is_empty() && self.carried.capacity() > KEPT_BYTES_MAX {
            self.carried = Vec::new();
        }
    }

    /// Bytes that were received and not handed out.
    pub fn carried_bytes(&self) -> usize {
        self.lent.len() - self.lent_taken + self.carried.len()
    }

    /// Whether a frame, or an error, can be handed out without another byte.
    pub fn holds_frame(&self) -> bool {
        let mut state = self.state;
        let is_cut = |cut| matches!(cut, Cut::Frame { .. } | Cut::Broken(_));
        let is_lent = self.lent_taken < self.lent.len();
        !state.is_broken && (is_lent || is_cut(state.cut(&self.carried)))
    }

    /// Memory that this connection's stream holds.
    pub fn memory_bytes(&self) -> usize {
        self.carried.capacity() + self.lent.capacity()
    }

    /// Completes the last carried frame from the chunk, lends the whole frames among the carried
    /// bytes (and an error behind them), and returns what is left of the chunk.
    fn complete_carried<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let mut state = self.state;
        // The end of the whole frames.
        let mut start = 0;
        let mut rest = chunk;
        loop {
            match state.cut(&self.carried[start..]) {
                Cut::Frame { end } => {
                    start += end;
                    if start == self.carried.len() {
                        break;
                    }
                }
                Cut::Partial { missing } => {
                    let (head, tail) = rest.split_at(missing.min(rest.len()));
                    self.carried.extend_from_slice(head);
                    rest = tail;
                    if head.len() < missing {
                        break;
                    }
                }
                Cut::Broken(_) => {
                    start = self.carried.len();
                    break;
                }
            }
        }
        if start > 0 {
            mem::swap(&mut self.carried, &mut self.lent);
            self.carried.extend_from_slice(&self.lent[start..]);
            self.lent.truncate(start);
        }
        rest
    }
}

impl<'a> Frames<'a> {
    /// The next frame, without its length.
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "an Iterator's adapters would invite dropping it in the middle of a chunk unseen"
    )]
    pub fn next(&mut self) -> Option<Result<&'a [u8], FrameError>> {
        let is_before = !self.before.is_empty();
        let source = if is_before { &mut self.before } else { &mut self.chunk };
        if source.is_empty() || self.state.is_broken {
            return None;
        }
        match self.state.cut(source) {
            Cut::Frame { end } => {
                let (frame, rest) = source.split_at(end);
                *source = rest;
                if is_before {
                    *self.before_taken += end;
                }
                Some(Ok(&frame[LENGTH_BYTES..]))
            }
            Cut::Partial { .. } => None,
            Cut::Broken(error) => {
                self.state.is_broken = true;
                Some(Err(error))
            }
        }
    }
}

impl Drop for Frames<'_> {
    fn drop(&mut self) {
        if self.state.is_broken {
            return;
        }
        // Unless dropped early, all that is left is one partial frame.
        self.carried.extend_from_slice(self.chunk);
    }
}

/// What the front of a stream is.
enum Cut {
    Frame { end: usize },
    Partial { missing: usize },
    Broken(FrameError),
}

impl State {
    #[inline]
    fn cut(&mut self, bytes: &[u8]) -> Cut {
        let Some(prefix) = bytes.first_chunk::<LENGTH_BYTES>() else {
            return Cut::Partial { missing: LENGTH_BYTES - bytes.len() };
        };
        let limit = if self.is_opening { CONNECT_BYTES_MAX } else { self.frame_bytes_max };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length == 0 || length > limit {
            return Cut::Broken(self.refuse(*prefix, limit));
        }
        let end = LENGTH_BYTES + length;
        if bytes.len() < end {
            return Cut::Partial { missing: end - bytes.len() };
        }
        self.is_opening = false;
        Cut::Frame { end }
    }

    #[cold]
    fn refuse(self, prefix: [u8; LENGTH_BYTES], limit: usize) -> FrameError {
        if self.is_opening && prefix.iter().all(u8::is_ascii_lowercase) {
            return FrameError::Word(prefix);
        }
        match usize::try_from(i32::from_be_bytes(prefix)) {
            Ok(announced) if announced > 0 => FrameError::TooLong { announced, limit },
            _ => FrameError::NoLength,
        }
    }
}

const LENGTH_BYTES: usize = 4;
/// A four-letter word stands where the first length would; as a length it would be above any limit.
const WORD_BYTES: usize = LENGTH_BYTES;
/// Memory that an idle connection keeps in each of its two buffers.
const KEPT_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::{Deframer, FrameError, KEPT_BYTES_MAX};
    use crate::base::limits::CONNECT_BYTES_MAX;

    type Outcome = Result<Vec<u8>, FrameError>;

    fn frame(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_be_bytes()[..], body].concat()
    }

    fn all(deframer: &mut Deframer, chunk: &[u8]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut frames = deframer.split(chunk);
        while let Some(outcome) = frames.next() {
            outcomes.push(outcome.map(<[u8]>::to_vec));
        }
        outcomes
    }

    #[test]
    fn whole_frames_are_lent_from_the_chunk() {
        let mut deframer = Deframer::for_requests(4096);
        let chunk = [frame(b"one"), frame(b"two")].concat();
        let mut frames = deframer.split(&chunk);
        let first = frames.next().unwrap().unwrap();
        let second = frames.next().unwrap().unwrap();
        assert!(frames.next().is_none());
        drop(frames);
        assert_eq!((first, second), (&b"one"[..], &b"two"[..]));
        assert!(chunk.as_ptr_range().contains(&first.as_ptr()));
        assert!(chunk.as_ptr_range().contains(&second.as_ptr()));
        assert_eq!(deframer.memory_bytes(), 0);
    }

    #[test]
    fn only_the_frame_that_spans_chunks_is_carried() {
        let mut deframer = Deframer::for_requests(4096);
        let stream = [frame(b"one"), frame(b"spans"), frame(b"three")].concat();
        let (head, tail) = stream.split_at(13);
        assert_eq!(all(&mut deframer, head), [Ok(b"one".to_vec())]);
        assert_eq!(deframer.carried_bytes(), 6);
        assert_eq!(all(&mut deframer, tail), [Ok(b"spans".to_vec()), Ok(b"three".to_vec())]);
        assert_eq!(deframer.carried_bytes(), 0);
    }

    #[test]
    fn an_early_drop_carries_the_rest() {
        let mut deframer = Deframer::for_requests(4096);
        let stream = [frame(b"one"), frame(b"two"), frame(b"three"), frame(b"four")].concat();
        let (head, tail) = stream.split_at(stream.len() - 2);
        assert_eq!(deframer.split(head).next(), Some(Ok(&b"one"[..])));
        assert_eq!(deframer.split(&[]).next(), Some(Ok(&b"two"[..])));
        assert_eq!(all(&mut deframer, tail), [Ok(b"three".to_vec())]);
        assert!(deframer.holds_frame());
        assert_eq!(all(&mut deframer, &[]), [Ok(b"four".to_vec())]);
    }

    /// However it is cut, and wherever its reader stops: nothing is lost, and nothing copied twice.
    #[test]
    fn what_is_left_over_goes_on_where_it_stopped() {
        let stream: Vec<u8> =
            (0..200_u8).flat_map(|n| frame(&vec![n; usize::from(n) + 1])).collect();
        for step in [1, 3, 50, 700, 5000, stream.len()] {
            for taken_max in [1, 2, 7] {
                let mut deframer = Deframer::for_replies(4096);
                let mut got = Vec::new();
                let mut chunks = stream.chunks(step);
                while got.len() < 200 {
                    let mut frames = deframer.split(chunks.next().unwrap_or(&[]));
                    got.extend(
                        (0..taken_max).map_while(|_| frames.next()).map(|it| it.unwrap()[0]),
                    );
                    drop(frames);
                    let is_over = chunks.len() == 0 && !deframer.holds_frame();
                    assert_eq!(is_over, got.len() == 200, "{step} {taken_max}");
                }
                assert_eq!(got, (0..200).collect::<Vec<u8>>());
                assert_eq!(deframer.carried_bytes(), 0);
            }
        }
    }

    #[test]
    fn the_first_frame_has_its_own_limit() {
        let long = frame(&vec![7; CONNECT_BYTES_MAX + 1]);
        let too_long =
            FrameError::TooLong { announced: CONNECT_BYTES_MAX + 1, limit: CONNECT_BYTES_MAX };
        assert_eq!(all(&mut Deframer::for_requests(4096), &long), [Err(too_long)]);
        let later = [frame(&[7; 44]), long.clone()].concat();
        assert_eq!(all(&mut Deframer::for_requests(4096), &later).len(), 2);
        assert_eq!(all(&mut Deframer::for_replies(4096), &long), [Ok(long[4..].to_vec())]);
    }

    #[test]
    fn a_length_is_judged_when_its_four_bytes_are_there() {
        let limit = 4096;
        let mut deframer = Deframer::for_replies(limit);
        let announced = 0x7fff_ffff;
        let too_long = FrameError::TooLong { announced, limit };
        assert_eq!(all(&mut deframer, b"\x7f\xff\xff"), []);
        assert_eq!(all(&mut deframer, b"\xff"), [Err(too_long)]);
        assert_eq!(all(&mut deframer, &frame(b"behind an error")), []);
        for length in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff", b"\x80\0\0\0"] {
            let mut deframer = Deframer::for_replies(limit);
            assert_eq!(all(&mut deframer, length), [Err(FrameError::NoLength)]);
        }
    }

    #[test]
    fn a_word_is_told_from_a_length_at_the_start_alone() {
        for split in 0..4 {
            let mut deframer = Deframer::for_requests(4096);
            let (head, tail) = b"ruok\n".split_at(split);
            assert_eq!(all(&mut deframer, head), []);
            assert_eq!(all(&mut deframer, tail), [Err(FrameError::Word(*b"ruok"))]);
        }
        let later = [frame(&[7; 44]), b"ruok".to_vec()].concat();
        let outcomes = all(&mut Deframer::for_requests(4096), &later);
        assert!(matches!(outcomes[1], Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn memory_follows_what_was_received_and_is_given_back() {
        let mut deframer = Deframer::for_replies(1 << 20);
        let large = frame(&vec![7; 1 << 20]);
        all(&mut deframer, &large[..100]);
        assert!(deframer.memory_bytes() <= KEPT_BYTES_MAX);
        let mut cut = Vec::new();
        for chunk in large[100..].chunks(16 << 10) {
            cut.extend(all(&mut deframer, chunk));
        }
        assert_eq!(cut, [Ok(large[4..].to_vec())]);
        deframer.on_turn_end();
        assert!(deframer.memory_bytes() <= 2 * KEPT_BYTES_MAX);
    }
}
