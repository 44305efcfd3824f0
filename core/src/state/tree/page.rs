//! A growing sequence in copy-on-write pages: a clone shares every page until one side writes it.
//!
//! Pages hang from leaves, and leaves from a spine. A clone copies the spine alone, one reference
//! count for some hundred items; the first write afterwards copies one leaf (pointers) and one page
//! (items), and nothing else.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::{array, mem};

/// A sequence of `T` in pages of `N` items. Items beyond the length are `T::default()`.
#[derive(Clone)]
pub(super) struct Paged<T, const N: usize> {
    spine: Vec<Arc<Leaf<T, N>>>,
    len: usize,
}

#[derive(Clone)]
struct Leaf<T, const N: usize> {
    pages: [Option<Arc<[T; N]>>; PAGES_PER_LEAF],
}

impl<T: Clone + Default, const N: usize> Paged<T, N> {
    pub(super) fn new() -> Self {
        Self { spine: Vec::new(), len: 0 }
    }

    pub(super) fn push(&mut self, value: T) {
        let at = Place::of::<N>(self.len);
        if at.leaf == self.spine.len() {
            self.spine.push(Arc::new(Leaf::new()));
        }
        let page = Arc::make_mut(&mut self.spine[at.leaf]).pages[at.page]
            .get_or_insert_with(|| Arc::new(array::from_fn(|_| T::default())));
        Arc::make_mut(page)[at.slot] = value;
        self.len += 1;
    }

    /// Takes the last item; a page that becomes empty is freed.
    pub(super) fn pop(&mut self) -> Option<T> {
        let last = self.len.checked_sub(1)?;
        let value = mem::take(self.item_mut(last));
        self.len = last;
        let at = Place::of::<N>(last);
        if at.slot == 0 {
            Arc::make_mut(&mut self.spine[at.leaf]).pages[at.page] = None;
            if at.page == 0 {
                self.spine.pop();
            }
        }
        Some(value)
    }

    /// The item for writing; its page is copied first if a clone still shares it.
    pub(super) fn item_mut(&mut self, index: usize) -> &mut T {
        assert!(index < self.len, "a write beyond the end of a sequence");
        let at = Place::of::<N>(index);
        let page = Arc::make_mut(&mut self.spine[at.leaf]).pages[at.page]
            .as_mut()
            .expect("every page below the length exists");
        &mut Arc::make_mut(page)[at.slot]
    }

    pub(super) fn item(&self, index: usize) -> &T {
        assert!(index < self.len, "a read beyond the end of a sequence");
        let at = Place::of::<N>(index);
        let page = self.spine[at.leaf].pages[at.page]
            .as_ref()
            .expect("every page below the length exists");
        &page[at.slot]
    }

    /// How often the item's page and leaf are shared, which a write looks at first.
    pub(super) fn counts(&self, index: usize) -> usize {
        let at = Place::of::<N>(index);
        let leaf = &self.spine[at.leaf];
        Arc::strong_count(leaf) + leaf.pages[at.page].as_ref().map_or(0, Arc::strong_count)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let pages = self.spine.iter().flat_map(|leaf| leaf.pages.iter());
        let items = pages.flatten().flat_map(|page| page.iter());
        items.take(self.len)
    }
}

impl<T, const N: usize> Leaf<T, N> {
    fn new() -> Self {
        Self { pages: array::from_fn(|_| None) }
    }
}

/// Where an index lies.
struct Place {
    leaf: usize,
    page: usize,
    slot: usize,
}

impl Place {
    fn of<const N: usize>(index: usize) -> Self {
        let page = index / N;
        Self { leaf: page / PAGES_PER_LEAF, page: page % PAGES_PER_LEAF, slot: index % N }
    }
}

/// A middle between a short spine, which every clone copies, and short leaves, which the first
/// write under each of them copies. To copy a pointer is to count a reference in memory that is in
/// no cache, some hundred nanoseconds; many writes come at once.
const PAGES_PER_LEAF: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_all_pages_but_the_written_one() {
        let mut live = Paged::<u32, 4>::new();
        (0..2000).for_each(|item| live.push(item));
        let frozen = live.clone();
        *live.item_mut(1001) = 7;
        assert_eq!((*frozen.item(1001), *live.item(1001)), (1001, 7));
        let mut shared = 0;
        for (ours, theirs) in live.spine.iter().zip(&frozen.spine) {
            for (ours, theirs) in ours.pages.iter().flatten().zip(theirs.pages.iter().flatten()) {
                shared += usize::from(Arc::ptr_eq(ours, theirs));
            }
        }
        assert_eq!(shared, 2000 / 4 - 1);
    }

    #[test]
    fn popping_returns_the_items_and_frees_the_pages() {
        let mut live = Paged::<u32, 4>::new();
        (0..1500).for_each(|item| live.push(item));
        assert!(live.iter().copied().eq(0..1500));
        for item in (0..1500).rev() {
            assert_eq!(live.pop(), Some(item));
        }
        assert_eq!((live.pop(), live.len(), live.spine.len()), (None, 0, 0));
    }
}
