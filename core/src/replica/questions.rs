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
    /// Bytes of requests that were sent to a leader elsewhere, and are not answered.
    forwarded_bytes: usize,
}

impl Questions {
    pub(super) fn insert(&mut self, key: (CoreId, Ticket), asked: Asked) {
        self.open.insert(key, asked);
    }

    pub(super) fn get(&self, key: &(CoreId, Ticket)) -> Option<&Asked> {
        self.open.get(key)
    }

    /// There is an outcome.
    pub(super) fn remove(&mut self, key: &(CoreId, Ticket)) -> Option<Asked> {
        let asked = self.open.remove(key)?;
        self.forwarded_bytes -= asked.forwarded_bytes;
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
        asked.is_sent = true;
        asked.forwarded_bytes = if leads { 0 } else { asked.question.bytes() };
        self.forwarded_bytes += asked.forwarded_bytes;
        Some(asked)
    }

    /// The leader that was asked has not logged it; false if none was.
    pub(super) fn take_back(&mut self, key: &(CoreId, Ticket)) -> bool {
        let Some(asked) = self.open.get_mut(key) else {
            return false;
        };
        self.forwarded_bytes -= core::mem::take(&mut asked.forwarded_bytes);
        core::mem::take(&mut asked.is_sent)
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
