//! One core's share of one node: its clients, its replicas, its links, and the routes between them.
//!
//! A driver feeds inputs and carries out effects; it decides nothing. The simulator and the real
//! engine are two drivers of this same machine.

mod shards;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::auth::AuthSettings;
use crate::base::id::{ConnectionId, CoreId, DiskId, LinkId, ServerId, SessionId, ShardId};
use crate::base::limits::{BALANCE_PERIOD_MS, PROPOSE_BYTES_TARGET, TURN_SHARE};
use crate::base::prng::Prng;
use crate::base::time::{Duration, Instant, Now, Periods};
use crate::durable::{Append, Rider};
use crate::effect::{Effect, Effects, Input};
use crate::gateway::{ClientLimits, Gateway, GatewayConfig, Wish};
use crate::links::{Links, core_of};
use crate::mail::Mail;
use crate::peer::codec;
use crate::peer::message::PeerMessage;
use crate::replica::hearing::Hearing;
use crate::replica::{Deed, Recipient, Replica, ReplicaConfig, Share};
use crate::report::{Report, ShardReport};
use crate::shard::ShardMap;
use crate::state::State;
use crate::worker::shards::Shards;
use crate::zab::admission::Identity;
use crate::zab::log::{LogLimits, Mark, Restored};
use crate::zab::{Action, Membership};

/// What never changes while the process lives.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub server: ServerId,
    pub core: CoreId,
    pub cores: u8,
    pub shards: ShardMap,
    /// Ascending; this server is one of them or of the observers.
    pub voters: Vec<ServerId>,
    pub observers: Vec<ServerId>,
    pub disk: DiskId,
    /// The disk was there when the cluster was formed. One that replaces a lost disk was not, and
    /// counts only when the others have said so.
    pub is_founder: bool,
    /// Drawn at random by each process.
    pub incarnation: u64,
    pub periods: Periods,
    /// Milliseconds that no earlier boot of this server has used; session ids begin there.
    pub session_base_ms: u64,
    pub client: ClientLimits,
    pub auth: AuthSettings,
    pub log: LogLimits,
    /// From this counter on, the leader of a shard hands over; `COUNTER_HANDOVER` but in tests.
    pub counter_handover: u32,
    pub seed: u64,
}

struct Letter {
    mail: Mail,
    is_own: bool,
}

pub struct Worker {
    config: WorkerConfig,
    gateway: Gateway,
    shards: Shards,
    links: Links,
    /// Mail to this core itself, in order.
    inbox: VecDeque<Mail>,
    /// What may take much of a turn, and has had no room in it, in order: mail from other cores,
    /// and watches that are set again.
    letters: VecDeque<Letter>,
    /// So many of them are this core's own.
    own_letters: usize,
    /// What reads that come by mail may still take of the turn.
    read_share: usize,
    /// Empty between two messages: room for the next one's frame.
    frame: Vec<u8>,
    /// When shards may next be handed to the servers that should lead them.
    balance_at: Instant,
}

impl Worker {
    /// Takes up one shard after the other as recovery found it.
    pub fn new(
        config: WorkerConfig,
        restored: Vec<(State, Restored)>,
        now: Now,
        effects: &mut Effects,
    ) -> Self {
        let gateway = Gateway::new(GatewayConfig {
            server: config.server,
            core: config.core,
            cores: config.cores,
            map: config.shards,
            periods: config.periods,
            client: config.client,
            auth: config.auth.clone(),
            session_base_ms: config.session_base_ms,
        });
        let links = Links::new(config.periods.heartbeat, config.periods.silence);
        let mut shards = Shards::default();
        for (state, restored) in restored {
            let shard = restored.shard;
            assert_eq!(core_of(shard, config.cores), config.core, "a shard has one core");
            let replica = Replica::new(
                replica_config(&config, shard),
                state,
                restored,
                now,
                &mut shards.scratch,
            );
            shards.insert(replica);
        }
        let balance_at = now.instant + Duration::from_ms(BALANCE_PERIOD_MS);
        let mut worker = Self {
            config,
            gateway,
            shards,
            links,
            inbox: VecDeque::new(),
            letters: VecDeque::new(),
            own_letters: 0,
            read_share: TURN_SHARE,
            frame: Vec::new(),
            balance_at,
        };
        worker.route(now, effects);
        worker
    }

    pub fn step(&mut self, now: Now, input: Input<'_>, effects: &mut Effects) {
        let instant = now.instant;
        match input {
            Input::ClientOpened { connection, address, crowd, entropy } => {
                self.gateway.on_opened(instant, connection, address, crowd, entropy);
            }
            Input::ClientBytes { connection, bytes } => {
                self.gateway.receive(instant, connection, bytes, &mut self.shards);
            }
            Input::ClientSent { connection } => {
                self.gateway.on_sent(instant, connection, &mut self.shards);
            }
            Input::ClientClosed { connection } => self.gateway.on_closed(connection),
            Input::LinkUp { link, peer_cores } => self.on_link_up(now, link, peer_cores),
            Input::LinkBytes { link, bytes } => self.on_link_bytes(now, link, bytes, effects),
            Input::LinkDown { link } => self.on_link_down(now, link),
            Input::Durable(mark) => {
                let shard = mark.value().shard;
                self.shards.with(shard, |replica, deeds| replica.on_durable(now, mark, deeds));
            }
            Input::SnapshotTaken { shard, zxid, hash, digest } => {
                let at = Mark { zxid, hash };
                self.shards.with(shard, |replica, deeds| {
                    replica.on_snapshot_taken(now, at, digest, deeds);
                });
            }
            Input::SnapshotAbandoned { shard, zxid, hash } => {
                let at = Mark { zxid, hash };
                self.shards.with(shard, |replica, deeds| {
                    replica.on_snapshot_abandoned(now, at, deeds);
                });
            }
            Input::Stopping => {
                self.shards.each_where(|_| true, |replica, deeds| replica.on_stopping(now, deeds));
            }
            Input::DiskSpace { is_low } => {
                let tell = |replica: &mut Replica, deeds: &mut Vec<Deed>| {
                    replica.on_disk_space(now, is_low, deeds);
                };
                self.shards.each_where(|_| true, tell);
            }
            Input::SnapshotWanted { shard } => {
                self.shards.with(shard, |replica, deeds| {
                    replica.on_snapshot_wanted(now, deeds);
                });
            }
            Input::Mail { from: _, mail } => {
                if mail.takes_its_turn() {
                    self.letters.push_back(Letter { mail, is_own: false });
                    self.open_letters(now, effects);
                } else {
                    self.inbox.push_back(mail);
                }
            }
            Input::Time => self.on_time(now, effects),
            Input::TurnEnd { share } => {
                self.read_share = share;
                self.open_letters(now, effects);
                self.gateway.on_turn_end(instant);
                self.end_turn(now, share, effects);
            }
        }
        self.route(now, effects);
    }

    /// When [`Input::Time`] is due, as of `now`.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let links = self.links.deadline();
        let deadlines =
            [self.shards.deadline(), links, self.gateway.deadline(now), Some(self.balance_at)];
        deadlines.into_iter().flatten().min()
    }

    /// The driver has more to hand over than it could before this moment's [`Input::Time`].
    pub fn note_behind(&mut self, now: Instant) {
        self.links.note_behind(now);
    }

    /// After a turn: whether the next one is due at once, as the share has left something over.
    pub fn is_in_haste(&self) -> bool {
        !self.letters.is_empty() || self.shards.is_in_haste()
    }

    /// What is ready to be sent to a client. The driver takes it when it sends.
    pub fn client_output(&mut self, connection: ConnectionId) -> Option<&mut Vec<u8>> {
        self.gateway.output(connection)
    }

    /// What is ready to be sent to a peer; riders are put behind it.
    pub fn link_output(&mut self, link: LinkId) -> Option<&mut Vec<u8>> {
        self.links.output(link)
    }

    /// Whether this core has still to be heard before its process ends: a request that it has read
    /// is not answered, or a shard that it leads is not handed over.
    pub fn is_finishing(&self) -> bool {
        self.gateway.owes_replies()
            || self.shards.iter().any(|replica| replica.zab().is_handing_over())
    }

    /// Figures for four-letter words and tests.
    pub fn report(&self) -> Report {
        let shards = self.shards.iter().map(ShardReport::of).collect();
        let mut limits_met = self.gateway.limits_met().clone();
        limits_met.absorb(self.links.limits_met());
        for replica in self.shards.iter() {
            limits_met.absorb(replica.limits_met());
        }
        Report { shards, outstanding: self.gateway.outstanding(), limits_met }
    }

    /// Every watch of this core's replicas; the connection may be another core's.
    pub fn watches(&self, visit: &mut dyn FnMut(ShardId, ConnectionId, &str)) {
        for replica in self.shards.iter() {
            let shard = replica.shard();
            for (connection, path) in replica.watches().on_data_by_connection() {
                visit(shard, connection, path);
            }
        }
    }

    /// Every ephemeral znode of this core's replicas, by session.
    pub fn ephemerals(&self, visit: &mut dyn FnMut(SessionId, &str)) {
        for replica in self.shards.iter() {
            for (session, attached) in replica.state().sessions().all_attached() {
                for path in attached.ephemerals() {
                    visit(session, path);
                }
            }
        }
    }

    /// Every session whose home is on this core, its timeout in milliseconds, and its end if
    /// nothing is heard of it, which only the home's leader knows.
    pub fn sessions(&self, visit: &mut dyn FnMut(SessionId, u32, Option<Instant>)) {
        for replica in self.shards.iter() {
            for (session, home) in replica.state().sessions().homes() {
                visit(session, home.timeout_ms, replica.end_of(session));
            }
        }
    }

    /// The replicas of this core, for checkers.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.shards.iter()
    }

    fn on_link_up(&mut self, now: Now, link: LinkId, peer_cores: u8) {
        self.links.on_up(now.instant, link, peer_cores);
        self.tell_replicas(link, |replica, deeds| replica.on_peer_up(now, link.peer, deeds));
    }

    fn on_link_down(&mut self, now: Now, link: LinkId) {
        if self.links.on_down(link) {
            self.tell_replicas(link, |replica, deeds| replica.on_peer_down(now, link.peer, deeds));
        }
    }

    /// The replicas whose shards live on the peer's core at the other end of the link.
    fn tell_replicas(&mut self, link: LinkId, tell: impl FnMut(&mut Replica, &mut Vec<Deed>)) {
        let links = &self.links;
        let is_at_its_end =
            |replica: &Replica| links.core_of_peer(link.peer, replica.shard()) == Some(link.core);
        self.shards.each_where(is_at_its_end, tell);
    }

    fn on_link_bytes(&mut self, now: Now, link: LinkId, bytes: &[u8], effects: &mut Effects) {
        let mut messages: Vec<(ShardId, PeerMessage)> = Vec::new();
        let result = self.links.receive(now.instant, link, bytes, |shard, message| {
            messages.push((shard, message));
        });
        for (shard, message) in messages {
            let hearing = self.hearing(link.peer, shard);
            if let Err(why) = message.check(&hearing) {
                self.close_link(link, why, effects);
                return;
            }
            let known = self.shards.with(shard, |replica, deeds| {
                replica.on_peer_message(now, link.peer, message, deeds);
            });
            if !known {
                self.close_link(link, "a message about a shard that is not on this core", effects);
                return;
            }
            self.route(now, effects);
        }
        if let Err(why) = result {
            self.close_link(link, why, effects);
        }
    }

    /// What a message about the shard is held against.
    fn hearing(&self, from: ServerId, shard: ShardId) -> Hearing {
        Hearing {
            me: self.config.server,
            cores: self.config.cores,
            incarnation: self.config.incarnation,
            map: self.config.shards,
            shard,
            from,
        }
    }

    fn on_time(&mut self, now: Now, effects: &mut Effects) {
        self.gateway.on_time(now.instant, &mut self.shards);
        self.route(now, effects);
        self.shards.on_time(now);
        let mut silent = Vec::new();
        self.links.on_time(
            now.instant,
            |link| effects.push(Effect::LinkOutput { link }),
            |link| silent.push(link),
        );
        for link in silent {
            self.close_link(link, "silent for too long", effects);
        }
        if self.balance_at <= now.instant {
            self.balance_at = now.instant + Duration::from_ms(BALANCE_PERIOD_MS);
            self.shards.balance(now, self.config.voters.len());
        }
    }

    fn close_link(&mut self, link: LinkId, why: &'static str, effects: &mut Effects) {
        self.links.closing(link);
        effects.push(Effect::LinkClose { link, why });
    }

    /// Proposals, commits and quorum rounds leave; so does what their answers let clients go on
    /// with.
    fn end_turn(&mut self, now: Now, share: usize, effects: &mut Effects) {
        let mut share = Share { proposals: share, applies: share };
        self.shards.rotate();
        loop {
            self.route(now, effects);
            self.open_letters(now, effects);
            self.shards.on_turn_end(now, &mut share);
            if self.shards.deeds.is_empty() {
                break;
            }
        }
        self.shards.rest();
    }

    /// Carries everything that was asked for to where it belongs, until nothing is left to carry.
    fn route(&mut self, now: Now, effects: &mut Effects) {
        loop {
            let mut deeds = core::mem::take(&mut self.shards.deeds);
            for (shard, deed) in deeds.drain(..) {
                self.route_deed(shard, deed, effects);
            }
            if self.shards.deeds.is_empty() {
                self.shards.deeds = deeds;
            }
            let mut wishes = self.gateway.take_wishes();
            for wish in wishes.drain(..) {
                self.route_wish(wish, effects);
            }
            self.gateway.give_wishes(wishes);
            if let Some(mail) = self.inbox.pop_front() {
                self.open(now, mail);
                continue;
            }
            let is_settled = self.shards.deeds.is_empty() && !self.gateway.has_wishes();
            if is_settled && !self.gateway.go_on(now.instant, &mut self.shards) {
                return;
            }
        }
    }

    /// Opens what other cores have sent until its reads have used up what is theirs of the turn:
    /// like everything else they are executed in order, so that all the rest waits behind them.
    fn open_letters(&mut self, now: Now, effects: &mut Effects) {
        while self.read_share > 0
            && let Some(Letter { mail, is_own }) = self.letters.pop_front()
        {
            self.own_letters -= usize::from(is_own);
            self.inbox.push_back(mail);
            self.route(now, effects);
        }
    }

    fn open(&mut self, now: Now, mail: Mail) {
        match mail {
            Mail::Ask { shard, ask } => {
                let mut weight = 0;
                let known = self.shards.with(shard, |replica, deeds| {
                    replica.on_ask(now, ask, deeds);
                    weight = replica.take_read_weight();
                });
                assert!(known, "mail about a shard goes to its core");
                self.read_share = self.read_share.saturating_sub(weight);
            }
            Mail::Answer { shard, ticket, zxid, outcome } => match ticket.replica() {
                Some(asker) => {
                    self.shards.with(asker, |replica, deeds| {
                        replica.on_shard_answer(now, shard, ticket, &outcome, deeds);
                    });
                }
                None => {
                    let mail = Mail::Answer { shard, ticket, zxid, outcome };
                    self.gateway.on_mail(now.instant, mail);
                }
            },
            other => self.gateway.on_mail(now.instant, other),
        }
    }

    fn route_deed(&mut self, shard: ShardId, deed: Deed, effects: &mut Effects) {
        match deed {
            Deed::Zab(Action::Append { sequence, record, riders }) => {
                let riders = self.address_riders(shard, riders);
                effects.push(Effect::Append(Append { shard, sequence, record, riders }));
            }
            Deed::Zab(Action::Send { to, message }) => {
                self.send(shard, &[to], &message, effects);
            }
            Deed::Zab(Action::Broadcast { to, message }) => {
                self.send(shard, &to, &message, effects);
            }
            Deed::Zab(Action::Disconnect { peer, why }) => {
                if let Some(link) = self.links.link_for(peer, shard) {
                    self.close_link(link, why, effects);
                }
            }
            Deed::Zab(Action::Image { .. }) => unreachable!("replicas make images themselves"),
            Deed::Snapshot(job) => effects.push(Effect::Snapshot(job)),
            Deed::Discard(state) => effects.push(Effect::Discard(state)),
            Deed::Diverged(zxid) => effects.push(Effect::Diverged { shard, zxid }),
            Deed::Expired(session) => effects.push(Effect::SessionExpired { shard, session }),
            Deed::Zab(Action::Event(event)) => effects.push(Effect::Event { shard, event }),
            Deed::Committed(zxid) => effects.push(Effect::Committed { shard, zxid }),
            Deed::Mail { to, mail } => self.post(to, mail, effects),
        }
    }

    /// Riders are encoded when the append is made: they say what is true at its position.
    fn address_riders(&self, shard: ShardId, riders: Vec<(ServerId, PeerMessage)>) -> Vec<Rider> {
        let mut addressed = Vec::with_capacity(riders.len());
        for (to, message) in riders {
            assert!(message.is_rider(), "it would wait for a sync without need: {message:?}");
            let Some(link) = self.links.link_for(to, shard) else {
                continue;
            };
            let cumulative = matches!(message, PeerMessage::Ack { .. });
            let mut frame = Vec::new();
            codec::encode_message(shard, &message, &mut frame);
            addressed.push(Rider { link, cumulative, frame });
        }
        addressed
    }

    fn send(
        &mut self,
        shard: ShardId,
        to: &[ServerId],
        message: &PeerMessage,
        effects: &mut Effects,
    ) {
        assert!(!message.is_rider(), "it would leave before what it claims: {message:?}");
        let mut frame = core::mem::take(&mut self.frame);
        codec::encode_message(shard, message, &mut frame);
        for &to in to {
            let Some(link) = self.links.link_for(to, shard) else {
                continue;
            };
            match self.links.send(link, &frame) {
                Ok(()) => effects.push(Effect::LinkOutput { link }),
                Err(why) => self.close_link(link, why, effects),
            }
        }
        frame.clear();
        // Twice, so that a full proposal with its header does not grow it every time.
        frame.shrink_to(2 * PROPOSE_BYTES_TARGET);
        self.frame = frame;
    }

    fn route_wish(&mut self, wish: Wish, effects: &mut Effects) {
        match wish {
            Wish::Mail { to, mail } => self.post(to, mail, effects),
            Wish::Output { connection } => effects.push(Effect::ClientOutput { connection }),
            Wish::Pause { connection, paused } => {
                effects.push(Effect::ClientPause { connection, paused });
            }
            Wish::Close { connection, session, why } => {
                effects.push(Effect::ClientClose { connection, session, why });
            }
            Wish::Admin { connection, word } => effects.push(Effect::Admin { connection, word }),
        }
    }

    fn post(&mut self, to: Recipient, mail: Mail, effects: &mut Effects) {
        let core = match to {
            Recipient::Core(core) => core,
            Recipient::Shard(shard) => core_of(shard, self.config.cores),
            Recipient::Cores => {
                for core in (0..self.config.cores).map(CoreId) {
                    if core != self.config.core {
                        effects.push(Effect::Mail { to: core, mail: mail.clone() });
                    }
                }
                self.config.core
            }
        };
        if core == self.config.core {
            // What this core asks behind a question that waits waits, too: mail keeps its order.
            let waits = self.own_letters > 0 && mail.takes_its_turn();
            if waits || mail.sets_watches() {
                self.own_letters += 1;
                self.letters.push_back(Letter { mail, is_own: true });
            } else {
                self.inbox.push_back(mail);
            }
        } else {
            effects.push(Effect::Mail { to: core, mail });
        }
    }
}

fn replica_config(config: &WorkerConfig, shard: ShardId) -> ReplicaConfig {
    let seed = config.seed ^ (u64::from(shard.0) << 32) ^ u64::from(config.server.0);
    ReplicaConfig {
        membership: Membership {
            me: config.server,
            shard,
            voters: preference(shard, &config.voters),
            observers: config.observers.clone(),
            identity: Identity { disk: config.disk, is_founder: config.is_founder },
        },
        map: config.shards,
        periods: config.periods,
        core: config.core,
        incarnation: config.incarnation,
        log: config.log,
        counter_handover: config.counter_handover,
        seed,
    }
}

/// The voters in the order in which they are preferred as leaders of a shard.
///
/// A permutation that depends on the shard spreads the leaders over the servers. Shard 0 prefers
/// the highest id, as ZooKeeper does.
pub fn preference(shard: ShardId, voters: &[ServerId]) -> Vec<ServerId> {
    let mut order = voters.to_vec();
    order.sort_unstable_by(|left, right| right.cmp(left));
    if shard != ShardId(0) {
        Prng::new(u64::from(shard.0)).shuffle(&mut order);
    }
    order
}
