//! What no honest peer says closes its link, and the server goes on as if it had not been said.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod ordinary;

use pigeonhole_core::auth::Identities;
use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{
    ChainHash, CoreId, Epoch, LinkId, Sequence, ServerId, SessionId, ShardId, Zxid,
};
use pigeonhole_core::base::limits::RECORD_BYTES_MAX;
use pigeonhole_core::base::time::{Duration, Instant, Now};
use pigeonhole_core::durable::{Durable, LogMark};
use pigeonhole_core::effect::{Effect, Effects, Input};
use pigeonhole_core::entry::{Entry, EntryKind};
use pigeonhole_core::mail::{Ask, Mail, Ticket, What};
use pigeonhole_core::op::OpCode;
use pigeonhole_core::peer::codec::{self, Frame};
use pigeonhole_core::peer::message::{
    EpochEnd, Forward, PeerMessage, PeerState, Refused, Seen, SeenShard, Touched, Vote, WriteAsk,
};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::txn::{Operation, Origin, Txn};
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::log::Restored;

const SHARDS: u16 = 3;
const SHARD: ShardId = ShardId(0);
const INCARNATION: u64 = 99;
const PEER: u8 = 3;

/// A server of one core with a disk that is always done, and the link to the one peer that talks.
struct Server {
    worker: Worker,
    effects: Effects,
    now: Now,
    link: LinkId,
    /// Why the link is to be closed.
    complaint: Option<&'static str>,
    said: Vec<PeerMessage>,
    appended: Vec<Sequence>,
}

impl Server {
    /// Leads every shard by itself; the peer observes.
    fn leading() -> Self {
        let mut server = Self::new(SHARDS, &[1], &[PEER]);
        server.up();
        server
    }

    /// One of three voters, who serves under the peer in epoch 9, with nothing logged yet.
    fn following() -> Self {
        let mut server = Self::learning();
        let tail = EpochEnd { zxid: 0, hash: 0 };
        server.tell(PeerMessage::NewLeader { epoch: 9, tail });
        server.tell(PeerMessage::UpToDate { epoch: 9, committed_zxid: 0 });
        assert!(server.complaint.is_none());
        server
    }

    /// The same, before it has the inherited history.
    fn learning() -> Self {
        let mut server = Self::asking();
        let attempt = server.attempt();
        let tail = EpochEnd { zxid: 0, hash: 0 };
        server.tell(PeerMessage::LeaderInfo { attempt, epoch: 9 });
        server.tell(PeerMessage::SyncDiff { attempt, epoch: 9, tail });
        server
    }

    /// The same, before anything is answered.
    fn asking() -> Self {
        let mut server = Self::new(1, &[1, 2, PEER], &[]);
        server.up();
        server.tell(leading_vote());
        server
    }

    fn new(shards: u16, voters: &[u8], observers: &[u8]) -> Self {
        let map = ShardMap::new(shards);
        let voters = voters.iter().copied().map(ServerId);
        let config = WorkerConfig {
            observers: observers.iter().copied().map(ServerId).collect(),
            incarnation: INCARNATION,
            ..ordinary::config(ServerId(1), voters, map)
        };
        let restored = map.shards().map(|shard| (State::new(shard, map), Restored::nothing(shard)));
        let now = Now { instant: Instant(1_000_000), wall_ms: 1_700_000_000_000 };
        let mut effects = Effects::new();
        let worker = Worker::new(config, restored.collect(), now, &mut effects);
        let link = LinkId { peer: ServerId(PEER), core: CoreId(0), incarnation: 0 };
        let (said, appended) = Default::default();
        let mut server = Self { worker, effects, now, link, complaint: None, said, appended };
        server.settle();
        server
    }

    fn settle(&mut self) {
        loop {
            self.worker.step(self.now, Input::TurnEnd { share: usize::MAX }, &mut self.effects);
            let effects: Vec<Effect> = self.effects.drain().collect();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Append(append) => {
                        self.appended.push(append.sequence);
                        for rider in append.riders {
                            let output = self.worker.link_output(rider.link).unwrap();
                            output.extend_from_slice(&rider.frame);
                        }
                        let mark = LogMark { shard: append.shard, sequence: append.sequence };
                        let durable = Input::Durable(Durable::attest(mark));
                        self.worker.step(self.now, durable, &mut self.effects);
                        self.hear();
                    }
                    Effect::LinkOutput { .. } => self.hear(),
                    Effect::LinkClose { link, why } => {
                        assert_eq!(link, self.link);
                        self.complaint = Some(why);
                    }
                    _ => {}
                }
            }
        }
    }

    fn hear(&mut self) {
        let output = self.worker.link_output(self.link).map(std::mem::take).unwrap_or_default();
        let mut rest = output.as_slice();
        while let Some(length) = codec::frame_bytes(rest).unwrap() {
            let (frame, behind) = rest.split_at(length);
            rest = behind;
            if let Frame::Message { message, .. } = codec::decode(frame).unwrap() {
                self.said.push(codec::to_owned(message).unwrap());
            }
        }
    }

    fn up(&mut self) {
        self.link.incarnation += 1;
        let up = Input::LinkUp { link: self.link, peer_cores: 1 };
        self.worker.step(self.now, up, &mut self.effects);
        self.settle();
    }

    fn tell(&mut self, message: PeerMessage) {
        self.tell_about(SHARD, message);
    }

    fn tell_about(&mut self, shard: ShardId, message: PeerMessage) {
        let mut bytes = vec![];
        codec::encode_message(shard, &message, &mut bytes);
        let input = Input::LinkBytes { link: self.link, bytes: &bytes };
        self.worker.step(self.now, input, &mut self.effects);
        self.settle();
    }

    /// Why the link was closed, if it was; then there is another.
    fn complaint(&mut self) -> Option<&'static str> {
        let why = self.complaint.take()?;
        let down = Input::LinkDown { link: self.link };
        self.worker.step(self.now, down, &mut self.effects);
        self.settle();
        self.up();
        Some(why)
    }

    fn advance(&mut self, milliseconds: u64) {
        let end = self.now.instant + Duration::from_ms(milliseconds);
        while let Some(at) = self.worker.deadline(self.now.instant).filter(|&at| at <= end) {
            self.now.instant = at.max(self.now.instant);
            self.worker.step(self.now, Input::Time, &mut self.effects);
            self.settle();
        }
        self.now.instant = end;
    }

    fn attempt(&self) -> u32 {
        let asked = self.said.iter().rev().find_map(|message| match message {
            PeerMessage::FollowerInfo { attempt, .. } => Some(*attempt),
            _ => None,
        });
        asked.expect("it asks to join")
    }

    /// It leads, and answers a question of the peer.
    fn serves(&mut self, shard: ShardId) -> bool {
        self.said.clear();
        let origin = origin(PEER, 77);
        self.tell_about(shard, PeerMessage::ReadIndex { origin });
        let answers = |it: &PeerMessage| match it {
            PeerMessage::ReadIndexAt { origin: asker, .. } => *asker == origin,
            _ => false,
        };
        self.complaint.is_none() && self.said.iter().any(answers)
    }

    /// What a write of the peer is refused with.
    fn refusal(&mut self, shard: ShardId, ask: WriteAsk) -> Option<ErrorCode> {
        self.said.clear();
        let forward = self.forward(shard, ask);
        self.tell_about(shard, PeerMessage::Forward(forward));
        let code = self.said.iter().find_map(|message| match message {
            PeerMessage::Refused(refused) => Some(refused.code),
            _ => None,
        });
        ErrorCode::from_wire(code?)
    }

    fn forward(&self, shard: ShardId, ask: WriteAsk) -> Forward {
        let mut replicas = self.worker.replicas();
        let replica = replicas.find(|it| it.shard() == shard).unwrap();
        let mut identities = vec![];
        Identities::none().encode(&mut identities);
        Forward {
            epoch: replica.zab().log().current_epoch().0,
            origin: origin(PEER, 5),
            session: 0,
            generation: 0,
            attachment_zxid: 0,
            identities,
            ask,
        }
    }

    /// The follower still looks for a leader or has one, and finds its way back to the peer.
    fn follows_again(&mut self, epoch: u32) -> bool {
        self.said.clear();
        self.tell(leading_vote());
        let attempt = self.attempt();
        self.tell(PeerMessage::LeaderInfo { attempt, epoch });
        let accepts = |it: &PeerMessage| matches!(it, PeerMessage::AckEpoch { .. });
        self.said.iter().any(accepts)
    }
}

fn origin(server: u8, ticket: u64) -> Origin {
    Origin { server, core: 0, incarnation: 7, ticket }
}

fn leading_vote() -> PeerMessage {
    PeerMessage::Vote(vote(9, PeerState::Leading))
}

fn vote(round: u64, state: PeerState) -> Vote {
    Vote {
        round,
        state,
        leader: PEER,
        epoch: 9,
        zxid: 0,
        established: state == PeerState::Leading,
        counts: true,
        is_willing: true,
    }
}

/// A session with its home there.
fn session_of(home: ShardId) -> u64 {
    let map = ShardMap::new(SHARDS);
    (1..).find(|&session| map.home_of(SessionId(session)) == home).unwrap()
}

fn point(path: &str, bytes: usize) -> WriteAsk {
    WriteAsk::PointSet {
        path: path.to_string(),
        data: Some(vec![0; bytes]),
        acl: vec![],
        point_zxid: 9,
    }
}

#[test]
fn a_question_that_no_server_asks_closes_its_link() {
    let (here, there) = (ShardId(1), ShardId(2));
    let (ours, theirs) = (session_of(here), session_of(there));
    let password = [1; 16];
    let create = |session| WriteAsk::SessionCreate { session, password, timeout_ms: 10_000 };
    let floor = |home| WriteAsk::SessionFloor { home, home_zxid: 9 };
    let attach = |session, shard| WriteAsk::SessionAttach { session, generation: 1, shard };
    let open = |session| WriteAsk::SessionOpen { session, generation: 1, home_zxid: 9 };
    let fence = |session| WriteAsk::SessionFence { session, home_zxid: 9 };
    let asks = [
        (here, point("/app", 1)),
        (here, point("no path", 1)),
        (SHARD, point("/", 1)),
        (here, point("/", RECORD_BYTES_MAX)),
        (here, create(theirs)),
        (here, WriteAsk::SessionRenew { session: theirs, password: password.to_vec() }),
        (here, WriteAsk::SessionClose { session: theirs, generation: 0 }),
        (here, attach(theirs, 1)),
        (here, attach(ours, SHARDS)),
        (here, open(ours)),
        (here, fence(ours)),
        (here, WriteAsk::SessionPurge { session: ours }),
        (here, floor(SHARDS)),
        (here, floor(here.0)),
    ];
    let mut server = Server::leading();
    server.tell_about(here, PeerMessage::Forward(server.forward(here, create(ours))));
    for (shard, ask) in asks {
        let before = server.appended.len();
        server.tell_about(shard, PeerMessage::Forward(server.forward(shard, ask.clone())));
        assert!(server.complaint().is_some(), "{ask:?}");
        assert_eq!(server.appended.len(), before, "nothing of {ask:?} is logged");
        assert!(server.serves(shard), "after {ask:?}");
    }
    // The attachment that was refused would have been fenced in a shard that is not.
    let close = WriteAsk::SessionClose { session: ours, generation: 0 };
    server.tell_about(here, PeerMessage::Forward(server.forward(here, close)));
    assert!(server.serves(here));
}

#[test]
fn nobody_asks_in_the_name_of_another_server() {
    let mut server = Server::leading();
    let here = ShardId(1);
    let ours = session_of(here);
    let renew = WriteAsk::SessionRenew { session: ours, password: vec![] };
    let touched = |shard| Touched {
        session: ours,
        generation: 1,
        is_alive: true,
        seen: Some(Seen { counter: 1, shards: vec![SeenShard { shard, zxid: 1 }] }),
    };
    for stranger in [origin(1, 5), origin(2, 5), Origin::default()] {
        let forward = Forward { origin: stranger, ..server.forward(here, renew.clone()) };
        let touch = PeerMessage::Touch { origin: stranger, sessions: vec![touched(0)] };
        let recall =
            PeerMessage::Recall { origin: stranger, session: ours, generation: 1, counter: 1 };
        let messages = [
            PeerMessage::Forward(forward),
            PeerMessage::ReadIndex { origin: stranger },
            touch,
            recall,
        ];
        for message in messages {
            server.tell_about(here, message.clone());
            assert!(server.complaint().is_some(), "{message:?}");
            assert!(server.serves(here), "after {message:?}");
        }
    }
    let own = origin(PEER, 5);
    for (shard, is_known) in [(SHARDS - 1, true), (SHARDS, false)] {
        server.tell_about(here, PeerMessage::Touch { origin: own, sessions: vec![touched(shard)] });
        assert_eq!(server.complaint().is_none(), is_known);
    }
    let attached = Forward {
        session: ours,
        generation: 1,
        attachment_zxid: 9,
        ..server.forward(here, WriteAsk::Client { op_code: OpCode::Sync.wire(), body: vec![] })
    };
    server.tell_about(here, PeerMessage::Forward(attached));
    assert!(server.complaint().is_some(), "nothing is attached to its own home");
    // Whoever wants a snapshot waits for no answer.
    let wish =
        Forward { origin: Origin::default(), ..server.forward(here, WriteAsk::SnapshotPoint) };
    server.tell_about(here, PeerMessage::Forward(wish));
    assert_eq!(server.complaint(), None);
}

#[test]
fn an_answer_that_goes_nowhere_closes_its_link() {
    let mut server = Server::following();
    let mine = Origin { server: 1, core: 0, incarnation: INCARNATION, ticket: 5 };
    let answers = |origin: Origin| {
        [
            PeerMessage::NotProposed { origin },
            PeerMessage::ReadIndexAt { origin, zxid: 1 },
            PeerMessage::TouchAck { origin, expired: vec![1] },
            PeerMessage::Recalled { origin, seen: vec![] },
            PeerMessage::Refused(Refused { origin, code: 0, zxid: 0, multi: vec![] }),
        ]
    };
    let former = Origin { incarnation: INCARNATION - 1, core: 9, ..mine };
    for origin in [mine, former, Origin::default()] {
        for message in answers(origin) {
            server.tell(message.clone());
            assert_eq!(server.complaint(), None, "{message:?} is late at most");
        }
    }
    for origin in [Origin { core: 1, ..mine }, Origin { server: 2, ..mine }] {
        for message in answers(origin) {
            server.tell(message.clone());
            assert!(server.complaint().is_some(), "{message:?}");
        }
    }
    let shards = vec![SeenShard { shard: 1, zxid: 1 }];
    server.tell(PeerMessage::Recalled { origin: mine, seen: vec![Seen { counter: 1, shards }] });
    assert!(server.complaint().is_some());
    assert!(server.follows_again(10));
}

#[test]
fn a_purge_without_a_fence_is_refused() {
    let (home, shard) = (ShardId(1), ShardId(2));
    let session = session_of(home);
    let mut server = Server::leading();
    let open = WriteAsk::SessionOpen { session, generation: 1, home_zxid: 1 };
    server.tell_about(shard, PeerMessage::Forward(server.forward(shard, open)));
    let purge = WriteAsk::SessionPurge { session };
    assert_eq!(server.refusal(shard, purge.clone()), Some(ErrorCode::BadArguments));
    assert_eq!(server.complaint(), None);
    let fence = WriteAsk::SessionFence { session, home_zxid: 2 };
    assert_eq!(server.refusal(shard, fence), None);
    assert_eq!(server.refusal(shard, purge), None);
    let mut replicas = server.worker.replicas();
    let replica = replicas.find(|it| it.shard() == shard).unwrap();
    assert!(replica.state().sessions().attached(SessionId(session)).is_none());
}

#[test]
fn there_is_an_epoch_after_every_promise() {
    for accepted_epoch in [Epoch::LAST.0, u32::MAX] {
        let mut server = Server::leading();
        server.tell(follower_info(accepted_epoch));
        assert!(server.complaint().is_some());
        assert!(server.serves(SHARD));
    }
    // Whoever could lead only in the last epoch does.
    let mut server = Server::leading();
    server.tell(follower_info(Epoch::LAST.0 - 1));
    assert_eq!(server.complaint(), None);
    for epoch in [0, u32::MAX] {
        let mut server = Server::asking();
        let attempt = server.attempt();
        server.tell(PeerMessage::LeaderInfo { attempt, epoch });
        assert!(server.complaint().is_some());
        assert!(server.follows_again(9));
    }
    // A server that has promised itself to the last epoch begins no other.
    let mut server = Server::asking();
    let attempt = server.attempt();
    server.tell(PeerMessage::LeaderInfo { attempt, epoch: Epoch::LAST.0 });
    assert_eq!(server.complaint(), None);
    let mine = Vote { leader: 1, epoch: 0, ..vote(20, PeerState::Looking) };
    for _ in 0..2 {
        server.tell(PeerMessage::Vote(mine));
    }
    server.advance(100);
    let role = |server: &Server| server.worker.replicas().next().unwrap().peer_state();
    assert_eq!(role(&server), PeerState::Leading);
    server.tell(follower_info(3));
    assert_eq!((role(&server), server.complaint()), (PeerState::Leading, None));
    let proposed = |it: &PeerMessage| matches!(it, PeerMessage::LeaderInfo { .. });
    assert!(!server.said.iter().any(proposed));
    server.advance(1_000);
    assert_eq!(role(&server), PeerState::Looking, "others may have another leader");
}

fn follower_info(accepted_epoch: u32) -> PeerMessage {
    PeerMessage::FollowerInfo {
        attempt: 1,
        accepted_epoch,
        disk: 2,
        is_founder: true,
        is_whole: true,
    }
}

#[test]
fn the_last_round_of_elections_goes_on_for_ever() {
    let mut server = Server::asking();
    let looking = PeerMessage::Vote(vote(u64::MAX, PeerState::Looking));
    for epoch in 9..12 {
        // With the first, it looks for a leader again, and with the second it joins the round.
        for _ in 0..2 {
            server.tell(looking.clone());
        }
        let last = |it: &PeerMessage| matches!(it, PeerMessage::Vote(it) if it.round == u64::MAX);
        assert!(server.said.iter().any(last));
        assert_eq!(server.complaint(), None);
        assert!(server.follows_again(epoch));
    }
}

#[test]
fn an_epoch_begins_with_its_own_entry_and_nothing_else_does() {
    let none = ChainHash::default();
    let entry = |kind, epoch, counter, previous: ChainHash| {
        let payload = Txn::default().to_bytes();
        let payload = if kind == EntryKind::Txn { &payload[..] } else { &[] };
        Entry::new(kind, SHARD, Zxid::new(Epoch(epoch), counter), previous, payload)
    };
    let (start, txn) = (EntryKind::EpochStart, EntryKind::Txn);
    let first = entry(start, 9, 1, none);
    let histories = [
        (vec![first.clone()], true),
        (vec![first.clone(), entry(txn, 9, 2, first.hash())], true),
        (vec![entry(txn, 9, 1, none)], false),
        (vec![entry(start, 9, 0, none)], false),
        (vec![entry(start, 9, 2, none)], false),
        (vec![first.clone(), entry(start, 9, 2, first.hash())], false),
        (vec![first.clone(), entry(txn, 9, 3, first.hash())], false),
        (vec![first.clone(), entry(txn, 9, 2, ChainHash(first.hash().0 ^ 1))], false),
        (vec![first.clone(), entry(start, 10, 1, first.hash())], false),
        (vec![entry(start, 10, 1, none)], false),
    ];
    for make in [Server::following, Server::learning] {
        for (history, is_sound) in &histories {
            let mut server = make();
            let entries: Vec<u8> = history.iter().flat_map(|it| it.bytes().to_vec()).collect();
            server.tell(PeerMessage::Propose { epoch: 9, committed_zxid: 0, entries });
            let why = server.complaint();
            assert_eq!(why.is_none(), *is_sound, "{history:?}: {why:?}");
            if why.is_some() {
                assert!(server.follows_again(10), "after {history:?}");
            }
        }
    }
    let mut server = Server::asking();
    let attempt = server.attempt();
    server.tell(PeerMessage::LeaderInfo { attempt, epoch: 9 });
    let at = EpochEnd { zxid: Zxid::new(Epoch(10), 1).0, hash: 1 };
    server.tell(PeerMessage::SyncSnapshot { attempt, epoch: 9, at });
    assert!(server.complaint().is_some(), "a state of an epoch that is still to come");
    assert!(server.follows_again(10));
}

#[test]
fn what_is_logged_under_the_name_of_a_question_answers_nothing() {
    let mut server = Server::following();
    // A barrier of this server, which the leader is asked for.
    let ask = Ask { core: CoreId(0), ticket: Ticket(5), what: What::Barrier };
    let mail = Mail::Ask { shard: SHARD, ask };
    server.worker.step(server.now, Input::Mail { from: CoreId(0), mail }, &mut server.effects);
    server.settle();
    let origin = Origin { server: 1, core: 0, incarnation: INCARNATION, ticket: 5 };
    assert!(server.said.contains(&PeerMessage::ReadIndex { origin }));
    let start =
        Entry::new(EntryKind::EpochStart, SHARD, Zxid::new(Epoch(9), 1), ChainHash::default(), b"");
    let path = "/logged".to_string();
    let create = Operation::Create {
        path,
        data: None,
        acl: vec![],
        ephemeral_owner: 0,
        parent_cversion: 1,
        with_stat: false,
    };
    let txn = Txn { origin, operations: vec![create], ..Txn::default() };
    let zxid = start.zxid().next();
    let second = Entry::new(EntryKind::Txn, SHARD, zxid, start.hash(), &txn.to_bytes());
    let entries = [start.bytes(), second.bytes()].concat();
    server.tell(PeerMessage::Propose { epoch: 9, committed_zxid: zxid.0, entries });
    let replica = server.worker.replicas().next().unwrap();
    assert_eq!(replica.state().applied(), zxid);
    assert_eq!(replica.asked_count(), 1, "the barrier still waits for its own answer");
}
