//! What an operation on the ring is about, as the ring's tokens carry it.

use crate::ring::Token;

/// The owner of an operation. Numbers are slots in the owner's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    /// The port for clients.
    ClientListener,
    /// The port for peers.
    PeerListener,
    Log,
    Client(u32),
    Link(u32),
}

impl Subject {
    /// `generation` tells apart the tenants of a slot.
    pub(crate) fn token(self, generation: u32) -> Token {
        let (kind, number) = match self {
            Self::ClientListener => (0, 0),
            Self::PeerListener => (1, 0),
            Self::Log => (2, 0),
            Self::Client(slot) => (3, slot),
            Self::Link(slot) => (4, slot),
        };
        assert!(number <= NUMBER_MAX, "a slot's number has {KIND_SHIFT} bits");
        Token { slot: kind << KIND_SHIFT | number, generation }
    }

    pub(crate) fn of(token: Token) -> Self {
        let number = token.slot & NUMBER_MAX;
        match token.slot >> KIND_SHIFT {
            0 => Self::ClientListener,
            1 => Self::PeerListener,
            2 => Self::Log,
            3 => Self::Client(number),
            4 => Self::Link(number),
            other => panic!("no operation has a subject of kind {other}"),
        }
    }
}

const KIND_SHIFT: u32 = 28;
const NUMBER_MAX: u32 = (1 << KIND_SHIFT) - 1;

#[cfg(test)]
mod tests {
    use super::{NUMBER_MAX, Subject};

    #[test]
    fn a_token_says_what_it_is_about() {
        use Subject::{Client, ClientListener, Link, Log, PeerListener};
        let all = [ClientListener, PeerListener, Log, Client(0), Client(NUMBER_MAX), Link(7)];
        for subject in all {
            assert_eq!(Subject::of(subject.token(3)), subject);
            assert_eq!(subject.token(3).generation, 3);
        }
    }
}
