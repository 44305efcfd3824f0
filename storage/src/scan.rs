//! The batches of one stream's files, and what the end of a stream means.
//!
//! | behind the last accepted batch                  | what it means                            |
//! |-------------------------------------------------|------------------------------------------|
//! | the next batch, here or in the next segment     | the stream goes on                       |
//! | nothing of this stream                          | a clean end                              |
//! | the next batch's header, its content damaged    | torn: its write was never done           |
//! | damage, and a later batch of this stream        | corruption: the later batch was only     |
//! |                                                 | begun when everything before was durable |
//! | the file is shorter than it was                 | corruption as well                       |
//! | a segment after the next one exists             | corruption as well: it was only prepared |
//! |                                                 | when the next one was durably begun      |
//! | damage, and the seal of a later boot says more  | corruption as well                       |
//! | what the disk cannot read                       | corruption as well: whatever was there   |
//! | intact batches, and the seal says less          | they were cut once and stay cut          |
//!
//! After corruption the scan goes on with the next intact batch, so that a shard which had nothing
//! in the damaged ones can prove it.

use core::fmt;

use pigeonhole_core::base::limits::LOG_BLOCK_BYTES;
use pigeonhole_core::control::StreamEnd;

use crate::batch::{Batch, BatchHeader, HeaderFault, LOG_FORMAT};
use crate::disk::SegmentId;

/// A segment file as it was found.
#[derive(Clone, Copy)]
pub struct SegmentFile<'a> {
    pub id: SegmentId,
    pub bytes: &'a [u8],
}

/// What the disk could not read of a file. Zeros stand for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable {
    pub segment: SegmentId,
    pub offset: u64,
    pub bytes: u64,
}

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub segment: SegmentId,
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.segment, self.offset)
    }
}

/// How a stream ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Nothing follows the last batch.
    Clean,
    /// The stream is of an older boot, and ends where a later boot's seal says.
    Sealed,
    /// A batch was being written when the power went: it is cut off, for nothing in it was
    /// promised.
    Torn(Place),
    /// There was more, and it is not readable.
    Lost(Place),
}

/// What comes next in a stream.
pub(crate) enum Step<'a> {
    Batch(Batch<'a>),
    /// Something between the last batch and the next is not readable.
    Damage(Place),
    End(Ending),
}

/// The file was written by a newer program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Newer {
    pub(crate) place: Place,
    pub(crate) format: u16,
}

/// Walks through the files of one stream, which are sorted by number.
pub(crate) struct Scan<'a> {
    files: &'a [SegmentFile<'a>],
    unreadable: &'a [Unreadable],
    /// Where a later boot's seal says that the stream ends.
    limit: Option<u64>,
    /// The stream's secret, if any segment begins with an intact batch.
    secret: Option<u128>,
    /// Where the next batch is expected: the file and the offset in it.
    file: usize,
    offset: usize,
    /// The last accepted batch, 0 for none.
    last: StreamEnd,
    expected: Expected,
    /// The file of the last accepted batch has lost its end, and whatever was there.
    short: bool,
    ending: Option<Ending>,
}

/// What is known of the next batch.
#[derive(Clone, Copy)]
enum Expected {
    /// It follows the last one.
    Next,
    /// It is the first one that is left, or the first one after damage: only its number is bounded.
    From(u64),
}

/// What lies behind the last accepted batch, where its successor should be.
#[derive(Default)]
struct Beyond {
    /// A batch that is intact, later on.
    resume: Option<(usize, usize, u64)>,
    /// Anything that was begun later than the expected batch.
    later: bool,
    /// The expected batch, damaged.
    torn: bool,
}

impl<'a> Scan<'a> {
    /// `files` are those of one stream, sorted; `limit` is the last batch that a later boot's seal
    /// has accepted.
    pub(crate) fn new(
        files: &'a [SegmentFile<'a>],
        unreadable: &'a [Unreadable],
        limit: Option<u64>,
    ) -> Result<Self, Newer> {
        let first = files.first().expect("a stream has files").id;
        assert!(files.is_sorted_by_key(|file| file.id), "the files are in order");
        let mut secret = None;
        for file in files {
            match BatchHeader::read(file.bytes) {
                Ok(header) if stands_at(&header, file.id, 0) => {
                    secret = secret.or(Some(header.place.secret));
                }
                // Nothing but the beginning of a file is surely a header: what looks like one
                // elsewhere may have been written by a client.
                Err(HeaderFault::Newer { format }) => {
                    let place = Place { segment: file.id, offset: 0 };
                    assert!(format > LOG_FORMAT, "a newer format has a higher number");
                    return Err(Newer { place, format });
                }
                Ok(_) | Err(HeaderFault::NotAHeader) => {}
            }
        }
        Ok(Self {
            files,
            unreadable,
            limit,
            secret,
            file: 0,
            offset: 0,
            last: StreamEnd { boot: first.boot, core: first.core.0, batch: 0, hash: 0 },
            expected: if first.number == 1 { Expected::Next } else { Expected::From(1) },
            short: false,
            ending: None,
        })
    }

    /// The next batch, or why there is none. It ends after at most one step per block.
    pub(crate) fn next(&mut self) -> Step<'a> {
        if let Some(ending) = self.ending {
            return Step::End(ending);
        }
        if self.limit.is_some_and(|limit| self.last.batch >= limit) {
            return self.end(Ending::Sealed);
        }
        if let Some(batch) = self.successor() {
            return Step::Batch(batch);
        }
        let place = self.place();
        let beyond = self.look_beyond();
        if let Some((file, offset, number)) = beyond.resume {
            (self.file, self.offset) = (file, offset);
            self.expected = Expected::From(number);
            return Step::Damage(place);
        }
        let is_lost = beyond.later || self.short || self.is_outrun() || self.is_hidden();
        if is_lost || self.limit.is_some() {
            self.ending = Some(Ending::Lost(place));
            return Step::Damage(place);
        }
        self.end(if beyond.torn { Ending::Torn(place) } else { Ending::Clean })
    }

    /// The last accepted batch.
    pub(crate) fn last(&self) -> StreamEnd {
        self.last
    }

    /// Where the next batch is expected.
    pub(crate) fn place(&self) -> Place {
        Place { segment: self.files[self.file].id, offset: self.offset as u64 }
    }

    fn end(&mut self, ending: Ending) -> Step<'a> {
        self.ending = Some(ending);
        Step::End(ending)
    }

    /// Accepts the batch that follows, behind the last one or at the front of the next segment.
    fn successor(&mut self) -> Option<Batch<'a>> {
        let next = self.file + 1;
        let batch = match self.batch_at(self.file, self.offset) {
            Some(batch) => batch,
            None => {
                let follows =
                    self.files.get(next)?.id.number == self.files[self.file].id.number + 1;
                let batch = self.batch_at(next, 0).filter(|_| follows && self.offset > 0)?;
                (self.file, self.offset) = (next, 0);
                batch
            }
        };
        self.offset += batch.header.length;
        self.last.batch = batch.header.place.number;
        self.last.hash = batch.header.hash;
        let size = self.files[self.file].bytes.len() as u64;
        self.short = size < batch.header.place.segment_bytes;
        self.expected = Expected::Next;
        Some(batch)
    }

    /// The batch at a place, if it is whole and what is expected.
    fn batch_at(&self, file: usize, offset: usize) -> Option<Batch<'a>> {
        let header = self.header_at(file, offset)?;
        let number = header.place.number;
        let expected = match self.expected {
            Expected::Next => {
                number == self.last.batch.saturating_add(1)
                    && header.place.previous == self.last.hash
            }
            Expected::From(first) => number >= first,
        };
        let allowed = self.limit.is_none_or(|limit| number <= limit);
        if !expected || !allowed {
            return None;
        }
        header.check(&self.files[file].bytes[offset..])
    }

    /// Whether there is a file that was only prepared when the first batch of a segment which has
    /// not been reached was durable.
    fn is_outrun(&self) -> bool {
        let reached = if self.last.batch == 0 { 0 } else { self.files[self.file].id.number };
        self.files.last().is_some_and(|newest| newest.id.number > reached + 1)
    }

    /// Whether the disk cannot read all of the place where the next batch would be.
    fn is_hidden(&self) -> bool {
        let hides = |file: usize, offset: usize| {
            let Some(SegmentFile { id, .. }) = self.files.get(file) else {
                return false;
            };
            let header = self.header_at(file, offset);
            let length = header.map_or(LOG_BLOCK_BYTES, |header| header.length);
            let (start, end) = (offset as u64, (offset + length) as u64);
            let mut lost = self.unreadable.iter().filter(|it| it.segment == *id);
            lost.any(|it| it.offset < end && start < it.offset + it.bytes)
        };
        hides(self.file, self.offset) || hides(self.file + 1, 0)
    }

    /// The header at a place, if it belongs there.
    fn header_at(&self, file: usize, offset: usize) -> Option<BatchHeader> {
        let SegmentFile { id, bytes } = self.files[file];
        let header = BatchHeader::read(bytes.get(offset..)?).ok()?;
        let secret = self.secret.is_none_or(|secret| secret == header.place.secret);
        (secret && stands_at(&header, id, offset)).then_some(header)
    }

    /// Looks at every block behind the last accepted batch, up to the first intact batch.
    fn look_beyond(&self) -> Beyond {
        let mut beyond = Beyond::default();
        let wanted = match self.expected {
            Expected::Next => self.last.batch.saturating_add(1),
            Expected::From(first) => first,
        };
        for file in self.file..self.files.len() {
            let start = if file == self.file { self.offset } else { 0 };
            for offset in (start..self.files[file].bytes.len()).step_by(LOG_BLOCK_BYTES) {
                let Some(header) = self.header_at(file, offset) else {
                    continue;
                };
                let number = header.place.number;
                if number < wanted || self.limit.is_some_and(|limit| number > limit) {
                    continue;
                }
                // Without a secret a client may have made the batch up: it is enough to doubt what
                // was here, and not enough to believe it.
                let known = self.secret.is_some();
                if known && header.check(&self.files[file].bytes[offset..]).is_some() {
                    beyond.resume = Some((file, offset, number));
                    return beyond;
                }
                beyond.later |= number > wanted;
                beyond.torn |= number == wanted;
            }
        }
        beyond
    }
}

/// Whether a header says of itself that it stands at this place.
fn stands_at(header: &BatchHeader, segment: SegmentId, offset: usize) -> bool {
    header.place.segment == segment && header.place.offset == offset as u64
}
