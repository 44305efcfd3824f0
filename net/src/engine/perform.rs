//! Completions → inputs of the worker; its effects → the log, the links, the connections.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::time::Duration;

use pigeonhole_core::base::id::{ConnectionId, ShardId, Zxid};
use pigeonhole_core::durable::{Append, Record};
use pigeonhole_core::effect::{Effect, Input};
use pigeonhole_core::entry::EntryKind;
use pigeonhole_core::zab::Event;

use super::{Due, Hands};
use crate::client::admin::{Figures, LogFigures, Reply};
use crate::client::crowd::Guest;
use crate::client::traffic::{CoreTraffic, Sizes};
use crate::engine::stopping::Stopping;
use crate::exit;
use crate::mailbox::Letter;
use crate::os;
use crate::peer::link::LinkNews;
use crate::ring::{Completion, Ring, Token};
use crate::subject::Subject;

impl Hands {
    pub(super) fn on_completion(&mut self, completion: Completion<'_>) {
        match completion {
            Completion::Accepted { token, stream, armed } => {
                self.on_accepted(token, Ok(stream), armed);
            }
            Completion::AcceptFailed { token, error, armed } => {
                self.on_accepted(token, Err(error), armed);
            }
            Completion::Received { token, bytes, armed } => self.on_received(token, bytes, armed),
            Completion::ReceiveEnded { token, end } => match Subject::of(token) {
                Subject::Client(slot) => self.ended.push((slot, token, end)),
                Subject::Link(slot) => {
                    let now = self.now.instant;
                    self.links.on_receive_ended(slot, token, &end, now, &mut self.link_news);
                    self.tell_link_news(&[]);
                }
                other => panic!("nothing is received for {other:?}"),
            },
            Completion::Sent { token, buffer, result } => self.on_sent(token, buffer, &result),
            Completion::Connected { token, result } => match Subject::of(token) {
                Subject::Link(slot) => {
                    self.links.on_connected(slot, token, result.is_ok(), self.now.instant);
                }
                other => panic!("{other:?} does not connect"),
            },
            Completion::LogWritten { token: _, buffer, result } => {
                self.log_done.push(self.log.on_written(buffer, result, self.now.instant));
            }
            // The letters and news themselves are read in every turn.
            Completion::Woken { .. } => {}
            Completion::WakeFailed { value: _, error } => {
                // The core that could not be woken has ended: the node is stopping.
                tracing::debug!("a core could not be woken: {error}");
            }
        }
    }

    /// Closes connections whose clients have closed them, once what they sent before has had its
    /// effect: whoever asks with a four-letter word closes its side in the same moment.
    pub(super) fn close_ended(&mut self) {
        for (slot, token, end) in mem::take(&mut self.ended) {
            if let Some(connection) = self.clients.on_receive_ended(slot, token, &end) {
                self.step(Input::ClientClosed { connection });
            }
        }
    }

    /// Carries out everything that the worker has asked for, and what follows from it.
    pub(super) fn perform(&mut self) {
        loop {
            while let Some(due) = self.due.pop_front() {
                match due {
                    Due::ClientClosed(connection) => self.step(Input::ClientClosed { connection }),
                    Due::LinkDown(link) => self.step(Input::LinkDown { link }),
                    Due::Durable(mark) => self.step(Input::Durable(mark)),
                }
            }
            if self.effects.is_empty() {
                return;
            }
            let mut performing = mem::take(&mut self.performing);
            performing.extend(self.effects.drain());
            for effect in performing.drain(..) {
                self.carry_out(effect);
            }
            self.performing = performing;
        }
    }

    /// Tells the log what is on the disk, and the worker what follows from it.
    pub(super) fn settle_log(&mut self) {
        for done in mem::take(&mut self.log_done) {
            self.wal.on_done(done, self.now.instant, &mut self.released);
        }
        for (link, frame) in self.released.frames.drain(..) {
            // A rider of a link that is gone has nobody to go to.
            if let Some(output) = self.worker.link_output(link) {
                output.extend_from_slice(&frame);
                self.links.on_output(link);
            }
        }
        self.due.extend(self.released.marks.drain(..).map(Due::Durable));
    }

    pub(super) fn begin_log_operations(&mut self, ring: &mut Ring) {
        while let Some(operation) = self.wal.next_op() {
            self.log.begin(operation, self.now.instant, ring);
        }
    }

    /// Brings what the ring does for sockets in line with what is wanted.
    pub(super) fn settle_sockets(&mut self, ring: &mut Ring) {
        let now = self.now.instant;
        self.clients.settle(ring, &mut self.worker, now, &mut self.closed);
        self.due.extend(self.closed.drain(..).map(Due::ClientClosed));
        self.links.settle(ring, &mut self.worker);
        if self.wal.is_open() {
            for listener in &mut self.listeners {
                listener.settle(ring, now);
            }
        }
        self.post.house().set_connections(self.core, self.clients.open_count());
    }

    /// Takes in what other cores have sent.
    pub(super) fn read_letters(&mut self) {
        while let Some((from, letter)) = self.post.next_letter() {
            match letter {
                Letter::Mail(mail) => self.step(Input::Mail { from, mail }),
                Letter::Client(guest) => self.open_client(guest),
                Letter::Link { stream, hello, rest } => {
                    let (links, news) = (&mut self.links, &mut self.link_news);
                    links.on_handed_over(stream, &hello, rest, self.now.instant, news);
                    self.tell_link_news(&[]);
                }
                Letter::FiguresAsked { ticket, detailed } => {
                    let figures = Box::new(self.figures(detailed));
                    self.post.send(from, Letter::Figures { ticket, figures });
                }
                Letter::Figures { ticket, figures } => {
                    if let Some((connection, words)) =
                        self.admin.on_figures(ticket, *figures, self.now)
                    {
                        self.clients.answer(connection, words, self.now.instant);
                    }
                }
                Letter::Reset { connections } => self.reset(connections),
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let now = self.now.instant;
        match effect {
            Effect::Append(append) => self.append(append),
            Effect::Committed { shard, zxid } => self.wal.note_committed(shard, zxid),
            Effect::Snapshot(job) => {
                tracing::debug!("shard {} is frozen at {}", job.shard, job.zxid);
                self.desk.snapshot(job);
            }
            Effect::Discard(state) => self.desk.discard(state),
            Effect::Mail { to, mail } => self.post.send(to, Letter::Mail(mail)),
            Effect::ClientOutput { connection } => self.clients.stir(connection),
            Effect::ClientPause { connection, paused } => self.clients.pause(connection, paused),
            Effect::ClientClose { connection, session, why } => {
                self.clients.drain(connection, session, why, now);
            }
            Effect::Admin { connection, word } => self.on_word(connection, word),
            Effect::LinkOutput { link } => self.links.on_output(link),
            Effect::LinkClose { link, why } => {
                if self.links.close(link, why, now) {
                    self.due.push_back(Due::LinkDown(link));
                }
            }
            Effect::SessionExpired { shard, session } => {
                tracing::debug!("shard {shard}: session {session} has expired");
            }
            Effect::Diverged { shard, zxid } => end_diverged(shard, zxid),
            Effect::Event { shard, event } => tell(shard, event),
        }
    }

    fn append(&mut self, append: Append) {
        if let Record::Entry(entry) = &append.record
            && entry.kind() == EntryKind::Txn
        {
            self.proposals.note(entry.payload().len());
        }
        self.pulse.appends += 1;
        self.wal.append(append);
    }

    fn on_accepted(&mut self, token: Token, accepted: io::Result<OwnedFd>, armed: bool) {
        let subject = Subject::of(token);
        let listener = self.listeners.iter_mut().find(|listener| listener.subject() == subject);
        if let Some(listener) = listener {
            listener.on_accept(accepted.as_ref().err(), armed, self.now.instant);
        }
        let Ok(stream) = accepted else { return };
        if self.stopping.is_some() {
            return;
        }
        match subject {
            Subject::ClientListener => self.place_client(stream),
            Subject::PeerListener => self.links.on_accepted(stream, self.now.instant),
            other => panic!("nothing is accepted for {other:?}"),
        }
    }

    /// Gives a new client to the core that has the fewest.
    fn place_client(&mut self, stream: OwnedFd) {
        // Who is gone already needs no core.
        let Ok(address) = os::peer_address(&stream) else {
            return;
        };
        let house = self.post.house();
        let (seat, crowd) = house.census().enter(address.ip().to_canonical());
        if crowd.in_all > self.connections_max {
            tracing::warn!(
                "refused a client at {address}: {} are connected, and descriptors must be left \
                 for the log and the peers (raise the limit of open files)",
                self.connections_max
            );
            return;
        }
        let core = house.idlest();
        house.expect_connection(core);
        let guest = Guest { stream, address, seat, crowd };
        if core == self.core {
            self.open_client(guest);
        } else {
            self.post.send(core, Letter::Client(guest));
        }
    }

    fn open_client(&mut self, guest: Guest) {
        let Guest { stream, address, seat, crowd } = guest;
        let mut entropy = [0; 16];
        if let Err(error) = getrandom::fill(&mut entropy) {
            tracing::warn!("refused a client at {address}: no random numbers: {error}");
            return;
        }
        let connection = self.clients.open(stream, address, seat, self.now.wall_ms);
        let address = address.ip().to_canonical();
        self.step(Input::ClientOpened { connection, address, crowd, entropy });
    }

    fn on_received(&mut self, token: Token, bytes: &[u8], armed: bool) {
        let now = self.now.instant;
        match Subject::of(token) {
            Subject::Client(slot) => {
                let connection = self.clients.on_received(slot, token, bytes, armed, now);
                // What arrives after the request to stop was never taken on.
                if let Some(connection) = connection.filter(|_| self.stopping.is_none()) {
                    self.step(Input::ClientBytes { connection, bytes });
                }
            }
            Subject::Link(slot) => {
                let (links, news) = (&mut self.links, &mut self.link_news);
                links.on_received(slot, token, bytes, armed, now, news);
                self.tell_link_news(bytes);
            }
            other => panic!("nothing is received for {other:?}"),
        }
    }

    fn on_sent(&mut self, token: Token, buffer: Vec<u8>, result: &io::Result<()>) {
        let failed = result.is_err();
        match Subject::of(token) {
            Subject::Client(slot) => match self.clients.on_sent(slot, token, buffer, failed) {
                Some((connection, true)) => self.step(Input::ClientClosed { connection }),
                Some((connection, false)) => {
                    self.step(Input::ClientSent { connection });
                }
                None => {}
            },
            Subject::Link(slot) => {
                let now = self.now.instant;
                self.links.on_sent(slot, token, buffer, failed, now, &mut self.link_news);
                self.tell_link_news(&[]);
            }
            other => panic!("nothing is sent for {other:?}"),
        }
    }

    /// Tells the worker what has become of links; `bytes` are what one of them has received.
    fn tell_link_news(&mut self, bytes: &[u8]) {
        let is_deaf = self.stopping.as_ref().is_some_and(Stopping::is_deaf);
        for news in mem::take(&mut self.link_news) {
            match news {
                LinkNews::Up { link, peer_cores, rest } => {
                    tracing::info!("linked with core {} of server {}", link.core.0, link.peer);
                    self.step(Input::LinkUp { link, peer_cores });
                    if !rest.is_empty() {
                        self.step(Input::LinkBytes { link, bytes: &rest });
                    }
                }
                LinkNews::Bytes { .. } if is_deaf => {}
                LinkNews::Bytes { link } => self.step(Input::LinkBytes { link, bytes }),
                LinkNews::Down { link } => {
                    tracing::info!(
                        "lost the link with core {} of server {}",
                        link.core.0,
                        link.peer
                    );
                    self.step(Input::LinkDown { link });
                }
                LinkNews::HandOver { to, stream, hello, rest } => {
                    self.post.send(to, Letter::Link { stream, hello, rest });
                }
            }
        }
    }

    fn on_word(&mut self, connection: ConnectionId, word: [u8; 4]) {
        if !self.clients.ask(connection) {
            return;
        }
        let others = self.post.others().count();
        let log = self.log_figures();
        let Self { admin, worker, clients, proposals, .. } = self;
        let collect = |detailed| Figures::collect(worker, clients, *proposals, log, detailed);
        match admin.on_word(connection, word, others, self.now, collect) {
            Reply::Words(words) => self.clients.answer(connection, words, self.now.instant),
            Reply::Ask { ticket, detailed } => {
                for core in self.post.others() {
                    self.post.send(core, Letter::FiguresAsked { ticket, detailed });
                }
            }
            Reply::Reset { connections, words } => {
                self.reset(connections);
                for core in self.post.others() {
                    self.post.send(core, Letter::Reset { connections });
                }
                self.clients.answer(connection, words, self.now.instant);
            }
        }
    }

    fn reset(&mut self, connections: bool) {
        if connections {
            self.clients.reset_connections();
        } else {
            self.clients.traffic = CoreTraffic::default();
            self.pulse.longest = Duration::ZERO;
            self.proposals = Sizes::default();
        }
    }

    fn figures(&self, detailed: bool) -> Figures {
        let log = self.log_figures();
        Figures::collect(&self.worker, &self.clients, self.proposals, log, detailed)
    }

    fn log_figures(&self) -> LogFigures {
        let checkpoints = self.wal.durable_checkpoints();
        LogFigures {
            snapshots: checkpoints.map(|it| (it.shard(), Zxid(it.snapshot.zxid))).collect(),
            sync_micros_last: self.log.sync_micros_last,
            backlog_bytes: self.wal.backlog_bytes(),
            turn_micros_max: u64::try_from(self.pulse.longest.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// Most of what happens is for whoever reads a log afterwards; some of it needs somebody at once.
fn tell(shard: ShardId, event: Event) {
    match event {
        Event::TruncationRefused { to: end, committed }
        | Event::SnapshotRefused { at: end, committed } => tracing::error!(
            "shard {shard}: {committed} is committed here, and the leader's history ends at {end}: \
             a majority of the servers has lost what was acknowledged, as by an old copy put back. \
             This server keeps what it has, and does not follow. Stop all, and put the newest data \
             back on a majority; or give up what only this server has: empty its directory"
        ),
        Event::DigestsDiffer { at } => tracing::error!(
            "shard {shard}: the servers have different trees at {at}, and no majority is alike: \
             compare the digests in `mntr`, and start the servers that are wrong anew, with empty \
             directories"
        ),
        event => tracing::info!("shard {shard}: {event:?}"),
    }
}

fn end_diverged(shard: ShardId, zxid: Zxid) -> ! {
    let text = format!(
        "shard {shard}: at {zxid} this server's tree is not that of a majority of the servers: its \
         memory, its processor or its disk has changed what it held. Start it again; if that comes \
         again, empty its directory first, and it takes the others' data"
    );
    exit::fail(exit::DATA, &text)
}
