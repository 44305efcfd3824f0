//! Four-letter words: who may ask what, and gathering the figures of all cores for the answer.
//!
//! The core that was asked collects its own figures at once and asks the other cores by letter;
//! when the last has answered, [`words`] writes the text. No core ever waits for another.

use std::collections::BTreeMap;
use std::sync::Arc;

use pigeonhole_core::base::id::{ConnectionId, SessionId, ShardId, Zxid};
use pigeonhole_core::base::met::LimitsMet;
use pigeonhole_core::base::time::{Instant, Now};
use pigeonhole_core::report::ShardReport;
use pigeonhole_core::worker::Worker;

use crate::client::connection::{Clients, ConnectionLine};
use crate::client::traffic::{CoreTraffic, Sizes};
use crate::client::words;
use crate::config::ServerConfig;

/// What does not change while the server runs.
pub(crate) struct Facts {
    pub(crate) config: ServerConfig,
    pub(crate) open_files_max: u64,
    pub(crate) started: Instant,
}

/// The figures of one core, or of all.
#[derive(Clone)]
pub(crate) struct Figures {
    pub(crate) shards: Vec<ShardReport>,
    pub(crate) outstanding: usize,
    pub(crate) limits_met: LimitsMet,
    pub(crate) connections_count: usize,
    pub(crate) traffic: CoreTraffic,
    pub(crate) proposals: Sizes,
    pub(crate) log: LogFigures,
    /// The rest is collected only for the words that show it.
    pub(crate) connections: Vec<ConnectionLine>,
    pub(crate) watches: Vec<(ConnectionId, String)>,
    pub(crate) ephemerals: Vec<(SessionId, String)>,
    pub(crate) sessions: Vec<SessionLine>,
}

#[derive(Clone)]
pub(crate) struct SessionLine {
    pub(crate) session: SessionId,
    pub(crate) timeout_ms: u32,
    /// Known where its home is led.
    pub(crate) end: Option<Instant>,
}

#[derive(Clone, Default)]
pub(crate) struct LogFigures {
    pub(crate) sync_micros_last: u64,
    pub(crate) backlog_bytes: usize,
    /// The longest turn of the engine since the figures were begun anew.
    pub(crate) turn_micros_max: u64,
    /// The newest snapshot on this disk, by shard; zxid 0 for none.
    pub(crate) snapshots: BTreeMap<ShardId, Zxid>,
}

/// The words that were asked on this core and wait for other cores.
pub(crate) struct Admin {
    facts: Arc<Facts>,
    questions: Vec<Question>,
    next_ticket: u64,
}

/// What the engine has to do for a word.
pub(crate) enum Reply {
    Words(Vec<u8>),
    /// Ask every other core with this ticket.
    Ask {
        ticket: u64,
        detailed: bool,
    },
    /// Tell every core to begin its figures anew, then say so.
    Reset {
        connections: bool,
        words: Vec<u8>,
    },
}

struct Question {
    ticket: u64,
    connection: ConnectionId,
    word: [u8; 4],
    figures: Figures,
    missing: usize,
}

impl Figures {
    /// Collects what one core knows.
    pub(crate) fn collect(
        worker: &Worker,
        clients: &Clients,
        proposals: Sizes,
        log: LogFigures,
        detailed: bool,
    ) -> Self {
        let report = worker.report();
        let mut figures = Self {
            shards: report.shards,
            outstanding: report.outstanding,
            limits_met: report.limits_met,
            connections_count: clients.open_count(),
            traffic: clients.traffic,
            proposals,
            log,
            connections: Vec::new(),
            watches: Vec::new(),
            ephemerals: Vec::new(),
            sessions: Vec::new(),
        };
        if !detailed {
            return figures;
        }
        figures.connections.extend(clients.lines());
        worker.watches(&mut |_, connection, path| {
            figures.watches.push((connection, path.to_owned()));
        });
        worker.ephemerals(&mut |session, path| {
            figures.ephemerals.push((session, path.to_owned()));
        });
        worker.sessions(&mut |session, timeout_ms, end| {
            figures.sessions.push(SessionLine { session, timeout_ms, end });
        });
        figures
    }

    fn absorb(&mut self, other: Self) {
        self.shards.extend(other.shards);
        self.shards.sort_by_key(|shard| shard.shard);
        self.outstanding += other.outstanding;
        self.limits_met.absorb(&other.limits_met);
        self.connections_count += other.connections_count;
        self.traffic.absorb(&other.traffic);
        self.proposals.absorb(other.proposals);
        self.log.sync_micros_last = self.log.sync_micros_last.max(other.log.sync_micros_last);
        self.log.backlog_bytes += other.log.backlog_bytes;
        self.log.turn_micros_max = self.log.turn_micros_max.max(other.log.turn_micros_max);
        self.log.snapshots.extend(other.log.snapshots);
        self.connections.extend(other.connections);
        self.watches.extend(other.watches);
        self.ephemerals.extend(other.ephemerals);
        self.sessions.extend(other.sessions);
    }
}

impl Admin {
    pub(crate) fn new(facts: Arc<Facts>) -> Self {
        Self { facts, questions: Vec::new(), next_ticket: 0 }
    }

    /// A client has asked. `collect` takes this core's figures.
    pub(crate) fn on_word(
        &mut self,
        connection: ConnectionId,
        word: [u8; 4],
        other_cores: usize,
        now: Now,
        collect: impl FnOnce(bool) -> Figures,
    ) -> Reply {
        if let Some(text) = words::without_figures(&word, &self.facts.config.four_letter_words) {
            return Reply::Words(text.into_bytes());
        }
        let detailed = words::is_detailed(&word);
        let figures = collect(detailed);
        let reset = match &word {
            b"crst" => Some((true, b"Connection stats reset.\n".to_vec())),
            b"srst" => Some((false, b"Server stats reset.\n".to_vec())),
            _ => None,
        };
        if let Some((connections, answer)) = reset {
            if !words::serves(&self.facts, &figures, now) {
                return Reply::Words(words::NOT_SERVING.as_bytes().to_vec());
            }
            return Reply::Reset { connections, words: answer };
        }
        if other_cores == 0 {
            return Reply::Words(words::answer(&word, &self.facts, &figures, now).into_bytes());
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let question = Question { ticket, connection, word, figures, missing: other_cores };
        self.questions.push(question);
        Reply::Ask { ticket, detailed }
    }

    /// Another core has answered. If it was the last one, here is what the client is told.
    pub(crate) fn on_figures(
        &mut self,
        ticket: u64,
        figures: Figures,
        now: Now,
    ) -> Option<(ConnectionId, Vec<u8>)> {
        let place = self.questions.iter().position(|question| question.ticket == ticket)?;
        let question = &mut self.questions[place];
        question.figures.absorb(figures);
        question.missing -= 1;
        if question.missing > 0 {
            return None;
        }
        let question = self.questions.swap_remove(place);
        let text = words::answer(&question.word, &self.facts, &question.figures, now);
        Some((question.connection, text.into_bytes()))
    }
}
