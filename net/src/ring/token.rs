//! What the 64 bits mean that travel through the kernel and come back with a completion.

use std::fmt;

/// The caller's name for what an operation is about, usually a connection.
///
/// The ring hands it back untouched. A caller that reuses slots raises the generation each time,
/// so that a completion of the slot's former tenant is recognized by its older generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Token {
    pub slot: u32,
    pub generation: u32,
}

/// A handle on one submitted operation, good for cancelling it.
///
/// It never names another operation: once the operation is over, the handle is stale and
/// cancelling through it does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operation(u64);

/// What an operation is, and so how its completion has to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Connect = 4,
    LogWrite = 5,
    LogSync = 6,
    /// The ring's own read of the eventfd behind [`super::Waker`].
    Waker = 7,
    /// Posted here by another ring.
    Woken = 8,
    /// The sending side of a wake; completes visibly only if it failed.
    Wake = 9,
    /// Owns nothing and concerns nobody: closing and cancelling.
    Detached = 10,
}

impl Operation {
    pub(super) fn new(kind: Kind, index: u32, generation: u64) -> Self {
        assert!(index <= Self::INDEX_MAX, "an operation index has 24 bits");
        assert!(generation <= Self::GENERATION_MAX, "an operation generation has 36 bits");
        Self((kind as u64) << KIND_SHIFT | generation << GENERATION_SHIFT | u64::from(index))
    }

    /// The message of one ring to another: the value travels in the completion's result.
    pub(super) fn woken() -> Self {
        Self::new(Kind::Woken, 0, 0)
    }

    /// For operations that own no memory, with a number that their failure should carry.
    pub(super) fn unowned(kind: Kind, number: u32) -> Self {
        Self::new(kind, 0, u64::from(number))
    }

    pub(super) fn from_user_data(user_data: u64) -> Self {
        let operation = Self(user_data);
        // Reading the kind asserts that it exists.
        let _ = operation.kind();
        operation
    }

    pub(super) fn user_data(self) -> u64 {
        self.0
    }

    /// The second completion of the same operation, when it consists of two linked entries.
    pub(super) fn as_kind(self, kind: Kind) -> Self {
        Self::new(kind, self.index(), self.generation())
    }

    pub(super) fn kind(self) -> Kind {
        match self.0 >> KIND_SHIFT {
            1 => Kind::Accept,
            2 => Kind::Receive,
            3 => Kind::Send,
            4 => Kind::Connect,
            5 => Kind::LogWrite,
            6 => Kind::LogSync,
            7 => Kind::Waker,
            8 => Kind::Woken,
            9 => Kind::Wake,
            10 => Kind::Detached,
            other => panic!("a completion carries the unknown kind {other}"),
        }
    }

    pub(super) fn index(self) -> u32 {
        u32::try_from(self.0 & INDEX_MASK).expect("the mask leaves 24 bits")
    }

    pub(super) fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT & Self::GENERATION_MAX
    }

    pub(super) const INDEX_MAX: u32 = (1 << GENERATION_SHIFT) - 1;
    pub(super) const GENERATION_MAX: u64 = (1 << (KIND_SHIFT - GENERATION_SHIFT)) - 1;
}

impl fmt::Debug for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}#{}.{}", self.kind(), self.index(), self.generation())
    }
}

const GENERATION_SHIFT: u32 = 24;
const KIND_SHIFT: u32 = 60;
const INDEX_MASK: u64 = Operation::INDEX_MAX as u64;

#[cfg(test)]
mod tests {
    use super::{Kind, Operation};

    #[test]
    fn the_three_parts_come_back_at_their_limits() {
        for (index, generation) in [
            (0, 0),
            (1, 1),
            (Operation::INDEX_MAX, 0),
            (0, Operation::GENERATION_MAX),
            (Operation::INDEX_MAX, Operation::GENERATION_MAX),
        ] {
            for kind in [Kind::Accept, Kind::LogSync, Kind::Detached] {
                let operation = Operation::new(kind, index, generation);
                let back = Operation::from_user_data(operation.user_data());
                assert_eq!(back, operation);
                assert_eq!(
                    (back.kind(), back.index(), back.generation()),
                    (kind, index, generation)
                );
                assert_ne!(back.user_data(), 0);
            }
        }
    }

    #[test]
    fn a_linked_half_keeps_index_and_generation() {
        let write = Operation::new(Kind::LogWrite, 7, 9);
        let sync = write.as_kind(Kind::LogSync);
        assert_eq!((sync.index(), sync.generation()), (7, 9));
        assert_ne!(sync, write);
    }

    #[test]
    #[should_panic(expected = "unknown kind")]
    fn an_unknown_kind_is_refused() {
        Operation::from_user_data(0);
    }
}
