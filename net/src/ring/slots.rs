//! What the kernel is working on, and everything that it must not lose meanwhile.
//!
//! An operation's memory lives in its slot from submission to the terminal completion. Slots are
//! reused, so the steady state allocates nothing; the generation tells tenants apart.

use std::os::fd::RawFd;

use super::buffer::LogBuffer;
use super::sync::LogFailure;
use super::token::{Kind, Operation, Token};
use crate::os::SocketAddress;

/// All operations in flight.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Slot {
    generation: u64,
    pub(super) token: Token,
    pub(super) state: State,
}

/// What one operation owns.
#[derive(Debug)]
pub(super) enum State {
    Vacant,
    Accept {
        descriptor: RawFd,
    },
    Receive {
        descriptor: RawFd,
    },
    Send(SendState),
    /// The address is boxed because a slot moves when the slots grow.
    Connect {
        descriptor: RawFd,
        _address: Box<SocketAddress>,
    },
    LogWrite(LogWriteState),
    /// Where the kernel puts the eventfd's count.
    Waker {
        count: Box<[u8; 8]>,
    },
}

#[derive(Debug)]
pub(super) struct SendState {
    pub(super) descriptor: RawFd,
    pub(super) buffer: Vec<u8>,
    pub(super) sent: usize,
    /// The descriptor may be closed and its number reused: what remains must not be sent.
    pub(super) abandoned: bool,
}

#[derive(Debug)]
pub(super) struct LogWriteState {
    pub(super) buffer: LogBuffer,
    pub(super) length: u32,
    /// Completions still to come; the buffer stays here until there are none.
    pub(super) outstanding: u8,
    pub(super) failure: Option<LogFailure>,
}

impl Slots {
    pub(super) fn insert(&mut self, kind: Kind, token: Token, state: State) -> Operation {
        let index = if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[position(index)];
            assert!(matches!(slot.state, State::Vacant), "a free slot is vacant");
            slot.token = token;
            slot.state = state;
            index
        } else {
            let index = u32::try_from(self.slots.len()).expect("bounded by the assertion below");
            assert!(index <= Operation::INDEX_MAX, "too many operations in flight");
            self.slots.push(Slot { generation: 0, token, state });
            index
        };
        Operation::new(kind, index, self.slots[position(index)].generation)
    }

    /// The slot of an operation that is known to be in flight.
    pub(super) fn slot(&mut self, operation: Operation) -> &mut Slot {
        self.find(operation)
            .unwrap_or_else(|| panic!("{operation:?} completed, but is not in flight"))
    }

    /// The slot of an operation that may be over.
    pub(super) fn find(&mut self, operation: Operation) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(position(operation.index()))?;
        let current = slot.generation == operation.generation();
        (current && !matches!(slot.state, State::Vacant)).then_some(slot)
    }

    /// Ends an operation and hands out what it owned.
    pub(super) fn remove(&mut self, operation: Operation) -> (Token, State) {
        let slot = self.slot(operation);
        let state = std::mem::replace(&mut slot.state, State::Vacant);
        let token = slot.token;
        slot.generation = (slot.generation + 1) & Operation::GENERATION_MAX;
        self.free.push(operation.index());
        (token, state)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// Which operations are in flight on each descriptor, one in each direction.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<[Option<Operation>; 2]>,
}

/// The two directions of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    /// Accepting or receiving.
    Inbound = 0,
    /// Connecting or sending.
    Outbound = 1,
}

impl Lanes {
    /// Refuses a second operation in the same direction: two sends in flight could interleave
    /// their bytes, and two receives would tear a message apart.
    pub(super) fn assert_free(&self, descriptor: RawFd, lane: Lane) {
        let occupant = self.lanes.get(number(descriptor)).and_then(|lanes| lanes[lane as usize]);
        assert!(occupant.is_none(), "descriptor {descriptor} is busy with {occupant:?}");
    }

    pub(super) fn occupy(&mut self, descriptor: RawFd, lane: Lane, operation: Operation) {
        let number = number(descriptor);
        if self.lanes.len() <= number {
            self.lanes.resize(number + 1, [None; 2]);
        }
        let occupant = self.lanes[number][lane as usize].replace(operation);
        assert!(occupant.is_none(), "descriptor {descriptor} is busy with {occupant:?}");
    }

    /// Frees the lane, unless the descriptor was closed and its number has a new tenant.
    pub(super) fn release(&mut self, descriptor: RawFd, lane: Lane, operation: Operation) {
        let occupant = &mut self.lanes[number(descriptor)][lane as usize];
        if *occupant == Some(operation) {
            *occupant = None;
        }
    }

    /// Forgets a descriptor that is being closed and says what is still in flight on it.
    pub(super) fn vacate(&mut self, descriptor: RawFd) -> [Option<Operation>; 2] {
        self.lanes.get_mut(number(descriptor)).map(std::mem::take).unwrap_or_default()
    }
}

fn position(index: u32) -> usize {
    usize::try_from(index).expect("a pointer has at least 32 bits")
}

fn number(descriptor: RawFd) -> usize {
    usize::try_from(descriptor).expect("an open descriptor is not negative")
}

#[cfg(test)]
mod tests {
    use super::{Kind, Lane, Lanes, Slots, State, Token};

    const TOKEN: Token = Token { slot: 3, generation: 8 };

    #[test]
    fn a_reused_slot_does_not_answer_to_its_former_operation() {
        let mut slots = Slots::default();
        let first = slots.insert(Kind::Accept, TOKEN, State::Accept { descriptor: 5 });
        let (token, _) = slots.remove(first);
        assert_eq!(token, TOKEN);
        let second = slots.insert(Kind::Accept, TOKEN, State::Accept { descriptor: 5 });
        assert_eq!(second.index(), first.index());
        assert!(slots.find(first).is_none());
        assert!(slots.find(second).is_some());
        assert_eq!(slots.in_flight(), 1);
    }

    #[test]
    #[should_panic(expected = "is not in flight")]
    fn a_second_terminal_completion_is_refused() {
        let mut slots = Slots::default();
        let operation = slots.insert(Kind::Accept, TOKEN, State::Accept { descriptor: 5 });
        slots.remove(operation);
        slots.remove(operation);
    }

    #[test]
    fn a_closed_descriptor_is_free_for_its_next_tenant() {
        let mut slots = Slots::default();
        let mut lanes = Lanes::default();
        let old = slots.insert(Kind::Receive, TOKEN, State::Receive { descriptor: 9 });
        lanes.occupy(9, Lane::Inbound, old);
        assert_eq!(lanes.vacate(9), [Some(old), None]);
        let new = slots.insert(Kind::Receive, TOKEN, State::Receive { descriptor: 9 });
        lanes.occupy(9, Lane::Inbound, new);
        lanes.release(9, Lane::Inbound, old);
        assert_eq!(lanes.vacate(9), [Some(new), None], "the old end leaves the new tenant alone");
    }

    #[test]
    #[should_panic(expected = "is busy with")]
    fn a_second_send_on_a_descriptor_is_refused() {
        let mut slots = Slots::default();
        let mut lanes = Lanes::default();
        let operation = slots.insert(Kind::Accept, TOKEN, State::Accept { descriptor: 5 });
        lanes.occupy(4, Lane::Outbound, operation);
        lanes.assert_free(4, Lane::Outbound);
    }
}
