//! The children of one znode, unordered: every child knows its position, so that removal is O(1).

use alloc::vec::Vec;

use super::page::Paged;

/// Slot numbers of children. Few stand in one block; many in shared pages, because a znode may have
/// millions, and a write after a snapshot must copy one page of them and not all.
#[derive(Clone)]
pub(super) enum Children {
    Few(Vec<u32>),
    Many(Paged<u32, IDS_PER_PAGE>),
}

impl Children {
    pub(super) const fn new() -> Self {
        Self::Few(Vec::new())
    }

    /// Adds a child behind all others.
    pub(super) fn push(&mut self, child: u32) {
        if let Self::Few(few) = self
            && few.len() == FEW_MAX
        {
            let mut many = Paged::new();
            few.iter().for_each(|&id| many.push(id));
            *self = Self::Many(many);
        }
        match self {
            Self::Few(few) => few.push(child),
            Self::Many(many) => many.push(child),
        }
    }

    /// Removes the child at `position`; the last child takes its place and is returned, if there
    /// was another behind it.
    pub(super) fn remove(&mut self, position: usize) -> Option<u32> {
        match self {
            Self::Few(few) => {
                few.swap_remove(position);
                few.get(position).copied()
            }
            Self::Many(many) => {
                let last = many.pop().expect("a removal needs a child");
                let moved = position < many.len();
                if moved {
                    *many.item_mut(position) = last;
                }
                if many.len() == FEW_AGAIN {
                    *self = Self::Few(many.iter().copied().collect());
                }
                moved.then_some(last)
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub(super) fn child(&self, position: usize) -> u32 {
        match self {
            Self::Few(few) => few[position],
            Self::Many(many) => *many.item(position),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let (few, many) = match self {
            Self::Few(few) => (few.as_slice(), None),
            Self::Many(many) => (&[][..], Some(many)),
        };
        let many = many.into_iter().flat_map(Paged::iter);
        few.iter().chain(many).copied()
    }
}

const IDS_PER_PAGE: usize = 1024;
/// One block is copied whole when it grows and on the first write after a snapshot: at most a page.
const FEW_MAX: usize = 1024;
/// Well below the other bound, so that a child that comes and goes does not convert every time.
const FEW_AGAIN: usize = 512;

const _: () = assert!(FEW_AGAIN < FEW_MAX && FEW_MAX <= IDS_PER_PAGE);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    /// Grows and shrinks across both forms and compares with a plain vector.
    #[test]
    fn both_forms_remove_like_swap_remove() {
        let mut random = Prng::new(11);
        let mut children = Children::new();
        let mut model: Vec<u32> = Vec::new();
        let mut conversions = 0;
        for round in 0..60_000u32 {
            let was_few = matches!(children, Children::Few(_));
            let growing = (round / 10_000) % 2 == 0;
            if model.is_empty() || random.chance(if growing { 3 } else { 1 }, 4) {
                children.push(round);
                model.push(round);
            } else {
                let bound = u64::try_from(model.len()).unwrap();
                let position = usize::try_from(random.below(bound)).unwrap();
                model.swap_remove(position);
                assert_eq!(children.remove(position), model.get(position).copied());
            }
            conversions += u32::from(was_few != matches!(children, Children::Few(_)));
            assert_eq!(children.len(), model.len());
        }
        assert!(children.iter().eq(model.iter().copied()));
        assert!((0..model.len()).all(|position| children.child(position) == model[position]));
        assert!(conversions >= 4, "the test must cross both bounds: {conversions}");
    }
}
