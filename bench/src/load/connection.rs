//! One connection of a load: what it has asked for, and whether the replies are right.

use std::collections::VecDeque;
use std::ops::Range;

use super::keys::Templates;
use super::recorder::Recorder;
use super::schedule::{Mix, Random};
use crate::client::wire::{self, ReplyHeader};
use crate::error::BenchError;

/// What was asked, which decides how the reply is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
}

/// A connection's requests in their order; replies have to come in the same order.
pub(crate) struct Connection {
    /// The stream's index.
    pub(crate) stream: usize,
    pub(crate) alive: bool,
    /// Intended starts of an open loop that wait for room in the pipeline.
    pub(crate) backlog: VecDeque<u64>,
    pub(crate) last_sent: u64,
    keys: Range<u32>,
    next_xid: i32,
    outstanding: VecDeque<Outstanding>,
}

#[derive(Clone, Copy)]
struct Outstanding {
    xid: i32,
    operation: Operation,
    key: u32,
    started: u64,
}

impl Connection {
    pub(crate) fn new(stream: usize, keys: Range<u32>, depth: usize) -> Self {
        Self {
            stream,
            alive: true,
            backlog: VecDeque::new(),
            last_sent: 0,
            keys,
            next_xid: 1,
            outstanding: VecDeque::with_capacity(depth),
        }
    }

    #[inline]
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Replies are still due to requests sent or scheduled.
    pub(crate) fn is_waiting(&self) -> bool {
        self.alive && !(self.outstanding.is_empty() && self.backlog.is_empty())
    }

    /// Encodes one request, whose latency counts from `started`.
    #[inline]
    pub(crate) fn issue(
        &mut self,
        started: u64,
        now: u64,
        mix: Mix,
        templates: &Templates,
        random: &mut Random,
        output: &mut Vec<u8>,
    ) {
        let xid = self.next_xid;
        self.next_xid = if xid == i32::MAX { 1 } else { xid + 1 };
        let key = self.keys.start + random.below(self.keys.end - self.keys.start);
        let operation = if mix.read_percent == 100
            || (mix.read_percent > 0 && random.below(100) < mix.read_percent)
        {
            templates.read(output, xid, key);
            Operation::Read
        } else {
            templates.write(output, xid, key);
            Operation::Write
        };
        self.last_sent = now;
        self.outstanding.push_back(Outstanding { xid, operation, key, started });
    }

    /// Asks the server to end the session; no request may follow.
    pub(crate) fn close_session(&mut self, output: &mut Vec<u8>) {
        wire::close_session(output, self.next_xid);
    }

    /// Checks one reply and records it. An error means that the connection can no longer be used.
    #[inline]
    pub(crate) fn on_reply(
        &mut self,
        frame: &[u8],
        now: u64,
        templates: &Templates,
        recorder: &mut Recorder,
    ) -> Result<(), BenchError> {
        let (header, body) = ReplyHeader::parse(frame)?;
        if header.xid == wire::PING_XID {
            return Ok(());
        }
        let Some(asked) = self.outstanding.pop_front() else {
            return Err(BenchError::Protocol(format!("nobody asked for xid {}", header.xid)));
        };
        if header.xid != asked.xid {
            let what = format!("a reply to xid {} where {} is due", header.xid, asked.xid);
            return Err(BenchError::Protocol(what));
        }
        if header.error != wire::OK {
            recorder.on_refusal(header.error);
        } else if is_right(asked, body, templates)? {
            recorder.on_success(asked.operation, asked.started, now);
        } else {
            recorder.on_wrong_answer();
        }
        Ok(())
    }
}

#[inline]
fn is_right(asked: Outstanding, body: &[u8], templates: &Templates) -> Result<bool, BenchError> {
    match asked.operation {
        Operation::Read => Ok(templates.is_value_of(asked.key, wire::data_of(body)?)),
        Operation::Write => Ok(body.len() == wire::STAT_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Keys, value};
    use super::super::recorder::TimedBy;
    use super::*;

    fn answer(connection: &mut Connection, recorder: &mut Recorder, xid: i32, data: &[u8]) -> bool {
        let templates = Templates::new(Keys { subtrees: 1, keys_per_subtree: 1 }, 20);
        let length = i32::try_from(data.len()).unwrap().to_be_bytes();
        let mut bytes = Vec::new();
        let header = ReplyHeader { xid, zxid: 1, error: wire::OK };
        wire::reply(&mut bytes, header, &[&length, data, &[0; wire::STAT_BYTES]]);
        connection.on_reply(&bytes[4..], 5, &templates, recorder).is_ok()
    }

    fn ask(connection: &mut Connection) {
        let templates = Templates::new(Keys { subtrees: 1, keys_per_subtree: 1 }, 20);
        let mix = Mix { read_percent: 100 };
        connection.issue(2, 2, mix, &templates, &mut Random::new(1), &mut Vec::new());
    }

    #[test]
    fn a_right_reply_counts_and_a_wrong_one_spoils_the_run() {
        let mut recorder = Recorder::new(TimedBy::Reply, 0, u64::MAX);
        let mut connection = Connection::new(0, 0..1, 4);
        ask(&mut connection);
        ask(&mut connection);
        assert!(answer(&mut connection, &mut recorder, 1, &value(0, 20)));
        assert_eq!((recorder.completed(), recorder.errors()), (1, 0));
        assert!(answer(&mut connection, &mut recorder, 2, &value(1, 20)));
        assert_eq!((recorder.completed(), recorder.errors()), (1, 1));
    }

    #[test]
    fn a_reply_out_of_order_or_unasked_ends_the_connection() {
        let mut recorder = Recorder::new(TimedBy::Reply, 0, u64::MAX);
        let mut connection = Connection::new(0, 0..1, 4);
        ask(&mut connection);
        ask(&mut connection);
        assert!(!answer(&mut connection, &mut recorder, 2, &value(0, 20)));
        let mut connection = Connection::new(0, 0..1, 4);
        assert!(!answer(&mut connection, &mut recorder, 1, &value(0, 20)));
    }
}
