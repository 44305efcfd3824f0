//! The questions of this node whose outcomes are open.

use alloc::collections::BTreeMap;

use crate::base::id::CoreId;
use crate::mail::Ticket;
use crate::peer::message::WriteAsk;
use crate::replica::asking::{Asked, Question};

/// By ticket: in the order of their asking, as far as one core's order means anything.
#[derive(Default)]
pub(super) struct Questions {
    open: BTreeMap<(CoreId, Ticket), Asked>,
    /// Bytes of requests that no leader has been given yet, or that one has given back.
    waiting_bytes: usize,
    /// Bytes of requests that were sent to a leader elsewhere, and are not answered.
    forwarded_bytes: usize,
}

impl Questions {
    pub(super) fn insert(&mut self, key: (CoreId, Ticket), asked: Asked) {
        self.waiting_bytes += asked.question.bytes();
        let earlier = self.open.insert(key, asked);
        assert!(earlier.is_none(), "every question has a ticket of its own");
    }

    pub(super) fn get(&self, key: &(CoreId, Ticket)) -> Option<&Asked> {
        self.open.get(key)
    }

    /// There is an outcome.
    pub(super) fn remove(&mut self, key: &(CoreId, Ticket)) -> Option<Asked> {
        let asked = self.open.remove(key)?;
        self.forwarded_bytes -= asked.forwarded_bytes;
        if !asked.is_sent {
            self.waiting_bytes -= asked.question.bytes();
        }
        Some(asked)
    }

    /// There is an outcome, if the question is a write.
    pub(super) fn remove_write(&mut self, key: &(CoreId, Ticket)) -> Option<WriteAsk> {
        if !matches!(self.open.get(key)?.question, Question::Write { .. }) {
            return None;
        }
        match self.remove(key)?.question {
            Question::Write { ask, .. } => Some(ask),
            Question::Barrier | Question::Recall { .. } => None,
        }
    }

    /// A leader is asked: this server, or another one to which the request is sent.
    pub(super) fn send(&mut self, key: &(CoreId, Ticket), leads: bool) -> Option<&Asked> {
        let asked = self.open.get_mut(key)?;
        assert!(!asked.is_sent, "nothing is asked of two leaders");
        asked.is_sent = true;
        self.waiting_bytes -= asked.question.bytes();
        asked.forwarded_bytes = if leads { 0 } else { asked.question.bytes() };
        self.forwarded_bytes += asked.forwarded_bytes;
        Some(asked)
    }

    /// The leader that was asked has not logged it; false if none was.
    pub(super) fn take_back(&mut self, key: &(CoreId, Ticket)) -> bool {
        let Some(asked) = self.open.get_mut(key) else {
            return false;
        };
        let was_sent = core::mem::take(&mut asked.is_sent);
        if was_sent {
            self.forwarded_bytes -= core::mem::take(&mut asked.forwarded_bytes);
            self.waiting_bytes += asked.question.bytes();
        }
        was_sent
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether another leader may be sent this question, when it has yet to answer so much.
    pub(super) fn fits(&self, key: &(CoreId, Ticket), bytes_max: usize) -> bool {
        let bytes = self.open.get(key).map_or(0, |asked| asked.question.bytes());
        self.forwarded_bytes == 0 || self.forwarded_bytes + bytes <= bytes_max
    }

    /// Those that a leader was asked, oldest first.
    pub(super) fn sent(&self) -> impl Iterator<Item = ((CoreId, Ticket), &Asked)> {
        self.open.iter().filter(|(_, asked)| asked.is_sent).map(|(&key, asked)| (key, asked))
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::auth::Identities;
    use crate::base::id::{Generation, SessionId};
    use crate::mail::Writer;
    use crate::op::OpCode;

    fn write(bytes: usize) -> Asked {
        let asker = Writer {
            session: SessionId(1),
            generation: Generation(1),
            attachment: None,
            identities: Identities::none(),
        };
        let ask = WriteAsk::Client { op_code: OpCode::SetData.wire(), body: vec![0; bytes] };
        Asked::write(asker, ask)
    }

    #[test]
    fn every_byte_is_counted_where_it_is() {
        let [one, two] = [1, 2].map(|ticket| (CoreId(0), Ticket(ticket)));
        let mut questions = Questions::default();
        let counts = |questions: &Questions| (questions.waiting_bytes, questions.forwarded_bytes);
        questions.insert(one, write(10));
        questions.insert(two, write(200));
        assert_eq!(counts(&questions), (210, 0));
        questions.send(&one, false);
        assert_eq!(counts(&questions), (200, 10));
        assert!(questions.take_back(&one) && !questions.take_back(&one));
        assert_eq!(counts(&questions), (210, 0));
        questions.send(&one, true);
        assert_eq!(counts(&questions), (200, 0), "this server's own leader has it");
        questions.remove(&two);
        assert_eq!(counts(&questions), (0, 0), "given up before anybody was asked");
        assert!(questions.take_back(&one));
        questions.send(&one, false);
        assert_eq!(counts(&questions), (0, 10));
        questions.remove_write(&one);
        assert_eq!(counts(&questions), (0, 0));
    }
}
