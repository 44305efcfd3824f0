//! path hash → slot: a linear hash of small segments, so that no insertion ever rehashes much.
//!
//! Segments are split one by one in a fixed order as the table grows (Litwin 1980): the table has
//! no directory that would have to double, and the work of one insertion is bounded by one segment.
//! Inside a segment entries are found by linear probing. An entry keeps 32 bits of the hash, its
//! tag: the low bits choose the segment, the high bits the place to start. Whether an entry is the
//! wanted path is for the caller to say.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// The index. It holds no paths and no names.
pub(super) struct Index {
    /// Chunks of `SEGMENTS_PER_CHUNK`, so that growth never copies the list of all segments.
    chunks: Vec<Vec<Segment>>,
    /// At least 1.
    segments: u32,
    /// The largest power of two that is at most `segments`.
    round: u32,
    len: usize,
}

struct Segment {
    /// Never full: a probe ends at a vacant entry.
    entries: Box<[Entry]>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u32,
    slot: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { chunks: vec![vec![Segment::with_room_for(0)]], segments: 1, round: 1, len: 0 }
    }

    /// The slot stored under `hash` for which `is_wanted` holds.
    pub(super) fn find(&self, hash: u64, is_wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = tag_of(hash);
        self.segment(self.segment_of(tag)).find(tag, is_wanted)
    }

    /// What stands where the search for `hash` begins.
    pub(super) fn home_of(&self, hash: u64) -> u32 {
        let tag = tag_of(hash);
        let segment = self.segment(self.segment_of(tag));
        segment.entries[segment.home(tag)].slot
    }

    /// Adds a slot that is not there yet. Returns how many entries had to move for it, a number
    /// with a fixed bound for evenly spread hashes.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) -> usize {
        assert!(slot != VACANT.slot, "this number marks a vacant entry");
        let tag = tag_of(hash);
        let number = self.segment_of(tag);
        let moved = self.segment_mut(number).insert(Entry { tag, slot });
        self.len += 1;
        if self.len > self.segments as usize * SEGMENT_ENTRIES_MEAN {
            moved + self.split()
        } else {
            moved
        }
    }

    /// Removes a slot that is there.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        let tag = tag_of(hash);
        let number = self.segment_of(tag);
        self.segment_mut(number).remove(Entry { tag, slot });
        self.len -= 1;
    }

    /// Divides the next segment of this round between itself and a new last one.
    fn split(&mut self) -> usize {
        let parent = self.segments - self.round;
        let bit = self.round;
        let all = core::mem::take(&mut self.segment_mut(parent).entries);
        let occupied = || all.iter().filter(|entry| !entry.is_vacant());
        let leaving = occupied().filter(|entry| entry.tag & bit != 0).count();
        let moved = occupied().count();
        let mut kept = Segment::with_room_for(moved - leaving);
        let mut new = Segment::with_room_for(leaving);
        for &entry in occupied() {
            let target = if entry.tag & bit == 0 { &mut kept } else { &mut new };
            target.place(entry);
        }
        *self.segment_mut(parent) = kept;
        if (self.segments as usize).is_multiple_of(SEGMENTS_PER_CHUNK) {
            self.chunks.push(Vec::with_capacity(SEGMENTS_PER_CHUNK));
        }
        let chunk = self.segments as usize / SEGMENTS_PER_CHUNK;
        self.chunks[chunk].push(new);
        self.segments += 1;
        if self.segments == 2 * self.round {
            self.round *= 2;
        }
        moved
    }

    /// Segments that were not split yet in this round still hold what belongs to their future half.
    fn segment_of(&self, tag: u32) -> u32 {
        let number = tag & (2 * self.round - 1);
        if number < self.segments { number } else { number - self.round }
    }

    fn segment(&self, number: u32) -> &Segment {
        let number = number as usize;
        &self.chunks[number / SEGMENTS_PER_CHUNK][number % SEGMENTS_PER_CHUNK]
    }

    fn segment_mut(&mut self, number: u32) -> &mut Segment {
        let number = number as usize;
        &mut self.chunks[number / SEGMENTS_PER_CHUNK][number % SEGMENTS_PER_CHUNK]
    }
}

impl Segment {
    /// An empty segment that is about two thirds full when `len` entries are in it.
    fn with_room_for(len: usize) -> Self {
        let capacity = (len + len / 2 + 1).max(CAPACITY_MIN);
        Self { entries: vec![VACANT; capacity].into_boxed_slice(), len: 0 }
    }

    fn find(&self, tag: u32, is_wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(tag);
        loop {
            let entry = self.entries[at];
            if entry.is_vacant() {
                return None;
            }
            if entry.tag == tag && is_wanted(entry.slot) {
                return Some(entry.slot);
            }
            at = self.after(at);
        }
    }

    fn insert(&mut self, entry: Entry) -> usize {
        let is_crowded = (self.len + 1) * 5 > self.entries.len() * 4;
        let moved = if is_crowded { self.rebuild() } else { 0 };
        self.place(entry);
        moved
    }

    fn remove(&mut self, wanted: Entry) {
        let mut hole = self.home(wanted.tag);
        while self.entries[hole].slot != wanted.slot {
            assert!(!self.entries[hole].is_vacant(), "the removed slot is in the index");
            hole = self.after(hole);
        }
        assert!(self.entries[hole].tag == wanted.tag, "a slot has one hash");
        self.close(hole);
        self.len -= 1;
        if self.entries.len() > CAPACITY_MIN && self.len * 4 < self.entries.len() {
            self.rebuild();
        }
    }

    /// Moves up the entries that the hole would cut off from the place where their probe starts.
    fn close(&mut self, mut hole: usize) {
        let mut at = self.after(hole);
        while !self.entries[at].is_vacant() {
            let from_home = self.distance(self.home(self.entries[at].tag), at);
            if from_home >= self.distance(hole, at) {
                self.entries[hole] = self.entries[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.entries[hole] = VACANT;
    }

    fn rebuild(&mut self) -> usize {
        let mut rebuilt = Self::with_room_for(self.len);
        for entry in self.entries.iter().filter(|entry| !entry.is_vacant()) {
            rebuilt.place(*entry);
        }
        *self = rebuilt;
        self.len
    }

    fn place(&mut self, entry: Entry) {
        assert!(self.len + 1 < self.entries.len(), "a segment is never full");
        let mut at = self.home(entry.tag);
        while !self.entries[at].is_vacant() {
            at = self.after(at);
        }
        self.entries[at] = entry;
        self.len += 1;
    }

    /// The tag's high bits scaled to the capacity, which need not be a power of two.
    fn home(&self, tag: u32) -> usize {
        let scaled = u64::from(tag) * (self.entries.len() as u64);
        usize::try_from(scaled >> 32).expect("it is below the capacity")
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() { 0 } else { at + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { to + self.entries.len() - from }
    }
}

impl Entry {
    fn is_vacant(self) -> bool {
        self.slot == VACANT.slot
    }
}

fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

const VACANT: Entry = Entry { tag: 0, slot: u32::MAX };
const SEGMENTS_PER_CHUNK: usize = 256;
/// How many entries a segment holds on average; within a round one that is still to be split holds
/// up to twice as many.
const SEGMENT_ENTRIES_MEAN: usize = 256;
/// A small tree has a small index.
const CAPACITY_MIN: usize = 8;

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::base::prng::Prng;

    /// One insertion rebuilds its segment and splits one other, however large the table is.
    #[test]
    fn an_insertion_moves_a_bounded_number_of_entries() {
        let mut random = Prng::new(1);
        let mut index = Index::new();
        let mut worst = 0;
        let mut moved_in_all = 0;
        for slot in 0..1_000_000 {
            let segments = index.segments;
            let moved = index.insert(random.next_u64(), slot);
            assert!(index.segments - segments <= 1, "one insertion, one split");
            worst = worst.max(moved);
            moved_in_all += moved;
        }
        assert!(worst <= 5 * SEGMENT_ENTRIES_MEAN, "moved {worst} at once");
        assert!(moved_in_all < 8_000_000, "moved {moved_in_all} in all");
        let entries: usize = index.chunks.iter().flatten().map(|s| s.entries.len()).sum();
        assert!(entries < 1_700_000, "{entries} entries for a million slots");
    }

    #[test]
    fn it_agrees_with_a_map_while_growing_and_shrinking() {
        let mut random = Prng::new(2);
        let mut index = Index::new();
        let mut model: BTreeMap<u32, u64> = BTreeMap::new();
        for slot in 0..40_000u32 {
            let hash = random.next_u64();
            index.insert(hash, slot);
            model.insert(slot, hash);
            if random.chance(1, 3) || slot > 30_000 {
                let below = u32::try_from(random.below(u64::from(slot) + 1)).unwrap();
                let (&victim, &hash) = model.range(below..).next().unwrap();
                index.remove(hash, victim);
                model.remove(&victim);
                assert_eq!(index.find(hash, |found| found == victim), None);
            }
        }
        assert_eq!(index.len, model.len());
        for (&slot, &hash) in &model {
            assert_eq!(index.find(hash, |found| found == slot), Some(slot));
        }
        for (slot, hash) in model {
            index.remove(hash, slot);
        }
        let entries: usize = index.chunks.iter().flatten().map(|s| s.entries.len()).sum();
        assert!(index.len == 0 && entries <= 2 * CAPACITY_MIN * index.segments as usize);
    }

    /// Somebody who can find collisions makes one segment slow, and breaks nothing.
    #[test]
    fn equal_hashes_live_together() {
        let mut index = Index::new();
        for slot in 0..3000 {
            index.insert(42 << 32, slot);
        }
        assert!((0..3000).all(|slot| index.find(42 << 32, |found| found == slot) == Some(slot)));
        (0..3000).rev().for_each(|slot| index.remove(42 << 32, slot));
        assert_eq!(index.find(42 << 32, |_| true), None);
    }
}
