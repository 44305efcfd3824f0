//! One replica of one shard: what it asks its leader, and what it answers its own node.

mod leader;

use pigeonhole_core::auth::Identities;
use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{
    ChainHash, ConnectionId, CoreId, DiskId, Epoch, Generation, ServerId, SessionId, ShardId, Zxid,
};
use pigeonhole_core::base::limits::{
    COUNTER_HANDOVER, FORWARDS_WAITING_BYTES_OF_ALL, RECORD_BYTES_MAX, SHARDS_MAX,
};
use pigeonhole_core::base::met::Limit;
use pigeonhole_core::base::time::{Duration, Instant, Now, Periods};
use pigeonhole_core::durable::{Durable, LogMark};
use pigeonhole_core::mail::{Ask, Mail, Outcome, Reader, Ticket, What, Writer};
use pigeonhole_core::op::OpCode;
use pigeonhole_core::peer::message::{EpochEnd, PeerMessage, PeerState, Touched, Vote, WriteAsk};
use pigeonhole_core::replica::{Deed, Replica, ReplicaConfig, Share};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::txn::Origin;
use pigeonhole_core::zab::admission::Identity;
use pigeonhole_core::zab::log::{LogLimits, Mark, Restored};
use pigeonhole_core::zab::{Action, Membership};

use leader::Leader;

const SHARD: ShardId = ShardId(0);
const INCARNATION: u64 = 99;

struct One {
    replica: Replica,
    now: Now,
    deeds: Vec<Deed>,
    /// The disk is done with nothing more.
    is_stalled: bool,
    answers: Vec<(Ticket, Outcome)>,
    sent: Vec<PeerMessage>,
    /// Sessions that were touched and are over.
    expired: Vec<SessionId>,
}

impl One {
    fn new(me: u8, voters: u8, counter_handover: u32) -> Self {
        Self::in_shards(1, me, voters, counter_handover)
    }

    fn in_shards(shards: u16, me: u8, voters: u8, counter_handover: u32) -> Self {
        let map = ShardMap::new(shards);
        let config = ReplicaConfig {
            membership: Membership {
                me: ServerId(me),
                shard: SHARD,
                voters: (1..=voters).rev().map(ServerId).collect(),
                observers: vec![],
                identity: Identity { disk: DiskId(1), is_founder: true },
            },
            map,
            periods: Periods::default(),
            core: CoreId(0),
            incarnation: INCARNATION,
            log: LogLimits::default(),
            counter_handover,
            seed: 1,
        };
        let restored = Restored::nothing(SHARD);
        let now = Now { instant: Instant(1_000_000), wall_ms: 1_700_000_000_000 };
        let mut deeds = vec![];
        let replica = Replica::new(config, State::new(SHARD, map), restored, now, &mut deeds);
        let mut one = Self {
            replica,
            now,
            deeds,
            is_stalled: false,
            answers: vec![],
            sent: vec![],
            expired: vec![],
        };
        one.settle();
        one
    }

    /// A disk that is always done, unless it stands still, until nothing is left to do.
    fn settle(&mut self) {
        loop {
            let mut share = Share { proposals: usize::MAX, applies: usize::MAX };
            self.replica.on_turn_end(self.now, &mut share, &mut self.deeds);
            let deeds = std::mem::take(&mut self.deeds);
            if deeds.is_empty() {
                return;
            }
            let mut sequence = None;
            for deed in deeds {
                match deed {
                    Deed::Zab(Action::Append { sequence: it, .. }) => sequence = Some(it),
                    Deed::Zab(Action::Send { message, .. }) => self.sent.push(message),
                    Deed::Mail { mail: Mail::Answer { ticket, outcome, .. }, .. } => {
                        self.answers.push((ticket, outcome))
                    }
                    Deed::Mail { mail: Mail::Touched { expired, .. }, .. } => {
                        self.expired.extend(expired);
                    }
                    _ => {}
                }
            }
            if let Some(sequence) = sequence.filter(|_| !self.is_stalled) {
                let mark = Durable::attest(LogMark { shard: SHARD, sequence });
                self.replica.on_durable(self.now, mark, &mut self.deeds);
            }
        }
    }

    fn ask(&mut self, core: u8, ticket: u64, what: What) {
        let ask = Ask { core: CoreId(core), ticket: Ticket(ticket), what };
        self.replica.on_ask(self.now, ask, &mut self.deeds);
        self.settle();
    }

    fn tell(&mut self, from: u8, message: PeerMessage) {
        let from = ServerId(from);
        self.replica.on_peer_message(self.now, from, message, &mut self.deeds);
        self.settle();
    }

    fn origin(core: u8, ticket: u64) -> Origin {
        Origin { server: 1, core, incarnation: INCARNATION, ticket }
    }

    /// Serves under server 3.
    fn serve(&mut self) {
        let from = ServerId(3);
        self.replica.on_peer_up(self.now, from, &mut self.deeds);
        self.settle();
        self.serve_in(9);
    }

    /// Has server 3 as its leader, and promises itself to an epoch; tells the attempt's number.
    fn join(&mut self, epoch: u32) -> u32 {
        let vote = Vote {
            round: u64::from(epoch),
            state: PeerState::Leading,
            leader: 3,
            epoch,
            zxid: 0,
            established: true,
            counts: true,
            is_willing: true,
        };
        self.tell(3, PeerMessage::Vote(vote));
        let attempt = self
            .sent
            .iter()
            .rev()
            .find_map(|message| match message {
                PeerMessage::FollowerInfo { attempt, .. } => Some(*attempt),
                _ => None,
            })
            .expect("it asks to join");
        self.sent.clear();
        self.tell(3, PeerMessage::LeaderInfo { attempt, epoch });
        attempt
    }

    fn begin_to_serve(&mut self, epoch: u32, tail: EpochEnd) {
        self.tell(3, PeerMessage::NewLeader { epoch, tail });
        self.tell(3, PeerMessage::UpToDate { epoch, committed_zxid: tail.zxid });
        assert_eq!(self.replica.zab().serving_leader(), Some(ServerId(3)));
    }

    fn serve_in(&mut self, epoch: u32) {
        let attempt = self.join(epoch);
        let tail = EpochEnd { zxid: 0, hash: 0 };
        self.tell(3, PeerMessage::SyncDiff { attempt, epoch, tail });
        self.begin_to_serve(epoch, tail);
    }

    /// The same, with a state in the place of a history.
    fn serve_with(&mut self, epoch: u32, state: &State) {
        let attempt = self.join(epoch);
        let at = Mark { zxid: state.applied(), hash: ChainHash(7) };
        let tail = EpochEnd { zxid: at.zxid.0, hash: at.hash.0 };
        self.tell(3, PeerMessage::SyncSnapshot { attempt, epoch, at: tail });
        let mut image = state.freeze().into_image();
        let mut goes_on = true;
        let mut index = 0;
        while goes_on {
            let mut bytes = vec![];
            goes_on = image.next_chunk(&mut bytes);
            self.tell(3, PeerMessage::SnapshotChunk { epoch, index, last: !goes_on, bytes });
            index += 1;
        }
        self.replica.on_snapshot_taken(self.now, at, 1, &mut self.deeds);
        self.settle();
        self.begin_to_serve(epoch, tail);
    }

    /// Tickets of the writes that it has sent, in order.
    fn forwarded(&self) -> Vec<u64> {
        self.sent
            .iter()
            .filter_map(|message| match message {
                PeerMessage::Forward(forward) => Some(forward.origin.ticket),
                _ => None,
            })
            .collect()
    }
}

fn writer(session: u64) -> Writer {
    Writer {
        session: SessionId(session),
        generation: Generation(1),
        attachment: None,
        identities: Identities::none(),
    }
}

fn session_create(session: u64) -> What {
    let ask = WriteAsk::SessionCreate { session, password: [1; 16], timeout_ms: 10_000 };
    let asker = writer(0);
    What::Write { asker, ask }
}

fn client_write(session: u64, bytes: usize) -> What {
    client_write_in(1, session, bytes)
}

fn client_write_in(generation: u32, session: u64, bytes: usize) -> What {
    let ask = WriteAsk::Client { op_code: OpCode::SetData.wire(), body: vec![0; bytes] };
    let asker = Writer { generation: Generation(generation), ..writer(session) };
    What::Write { asker, ask }
}

fn follower_looks() -> PeerMessage {
    PeerMessage::Vote(Vote {
        round: 20,
        state: PeerState::Looking,
        leader: 3,
        epoch: 9,
        zxid: 0,
        established: false,
        counts: true,
        is_willing: true,
    })
}

#[test]
fn a_leader_makes_way_for_a_new_epoch_before_its_counter_runs_out() {
    let mut one = One::new(1, 1, 10);
    for ticket in 1..=50 {
        one.ask(0, ticket, session_create(ticket));
    }
    assert_eq!(one.answers.len(), 50);
    for (ticket, outcome) in &one.answers {
        assert!(matches!(outcome, Outcome::Session { .. }), "{ticket:?}");
    }
    let tail = one.replica.zab().log().tail().zxid;
    assert!(tail.counter() <= 10, "{tail:?}");
    assert!(tail.epoch() > Epoch(3), "{tail:?}");
}

#[test]
fn what_was_not_proposed_is_asked_again_in_the_order_of_each_core() {
    let mut one = One::new(1, 3, COUNTER_HANDOVER);
    one.serve();
    for (core, ticket) in [(0, 4), (0, 5), (1, 10)] {
        one.ask(core, ticket, client_write(ticket, 8));
    }
    for ticket in [4, 5] {
        let origin = One::origin(0, ticket);
        one.tell(3, PeerMessage::NotProposed { origin });
    }
    for (core, ticket) in [(1, 20), (0, 50), (0, 51), (0, 52)] {
        one.ask(core, ticket, client_write(ticket, 8));
    }
    let origin = One::origin(1, 10);
    one.tell(3, PeerMessage::NotProposed { origin });
    one.tell(3, follower_looks());
    one.serve_in(10);
    let forwarded = one.forwarded();
    let of_core = |wanted: &[u64]| -> Vec<u64> {
        let mut tickets = forwarded.clone();
        tickets.retain(|ticket| wanted.contains(ticket));
        tickets
    };
    assert_eq!(of_core(&[5, 50, 51]), [5, 50, 51]);
    assert_eq!(of_core(&[10, 20]), [10, 20]);
}

#[test]
fn what_a_session_asked_does_not_overtake_what_it_asked_later() {
    let mut one = One::new(1, 3, COUNTER_HANDOVER);
    one.serve();
    one.ask(0, 1, client_write(77, 8));
    one.ask(0, 2, client_write(77, 8));
    one.ask(0, 3, client_write(88, 8));
    // The first was not logged; nobody knows about the second.
    for ticket in [1, 3] {
        let origin = One::origin(0, ticket);
        one.tell(3, PeerMessage::NotProposed { origin });
    }
    one.tell(3, follower_looks());
    one.serve_in(10);
    assert_eq!(one.forwarded(), [3]);
    let unknown = |ticket| one.answers.contains(&(Ticket(ticket), Outcome::Unknown));
    assert!(unknown(1) && unknown(2) && !unknown(3));
}

#[test]
fn what_a_session_sent_behind_a_write_that_was_given_up_is_not_asked() {
    let mut one = One::new(1, 3, COUNTER_HANDOVER);
    one.serve();
    one.ask(1, 1, client_write(77, 8));
    one.tell(3, follower_looks());
    one.serve_in(10);
    let unknown = |one: &One, ticket| one.answers.contains(&(Ticket(ticket), Outcome::Unknown));
    assert!(unknown(&one, 1));
    // The core of the connection had sent this before it heard so.
    one.ask(1, 2, client_write(77, 8));
    assert!(one.forwarded().is_empty() && unknown(&one, 2));
    one.ask(1, 3, client_write_in(2, 77, 8));
    assert_eq!(one.forwarded(), [3], "another connection of the session goes on");
}

/// The state that a leader sends may be older than what the session's home knows.
#[test]
fn a_received_state_brings_nothing_back_that_was_given_up() {
    let mut one = One::in_shards(8, 1, 3, COUNTER_HANDOVER);
    let map = ShardMap::new(8);
    let of_others = |session: &u64| map.home_of(SessionId(*session)) != SHARD;
    let mut sessions = (77..).filter(of_others);
    let (open, unopened) = (sessions.next().unwrap(), sessions.next().unwrap());
    let write = |session, attachment| {
        let ask = WriteAsk::Client { op_code: OpCode::SetData.wire(), body: vec![0; 8] };
        What::Write { asker: Writer { attachment, ..writer(session) }, ask }
    };
    let attachment = Some(Zxid::new(Epoch(1), 5));
    one.serve();
    one.ask(1, 1, write(open, None));
    one.ask(1, 2, write(unopened, attachment));
    one.tell(3, follower_looks());
    one.now.instant = one.now.instant + Periods::default().silence + Duration::from_ms(1);
    one.replica.on_time(one.now, &mut one.deeds);
    one.settle();
    let unknown = |ticket| (Ticket(ticket), Outcome::Unknown);
    assert_eq!(one.answers, [1, 2].map(unknown), "no leader has come for long");
    let mut leader = Leader::of(SHARD, map);
    leader.log(SessionId(0), vec![]);
    leader.apply_all();
    one.serve_with(10, &leader.state);
    // The core of the connections had sent this before it heard that the first are lost.
    one.ask(1, 3, write(unopened, attachment));
    assert!(one.forwarded().is_empty(), "it would happen without what came before");
    assert_eq!(one.answers, [1, 2, 3].map(unknown));
    // What was open and is not any more is over: its shard says so, and nothing is kept of it.
    one.ask(1, 4, write(open, None));
    assert_eq!(one.forwarded(), [4]);
}

#[test]
fn what_two_connections_of_a_session_lose_at_once_is_given_up_up_to_the_newer_one() {
    let mut one = One::new(1, 3, COUNTER_HANDOVER);
    one.serve();
    // The newer one is on the core that comes first.
    one.ask(0, 1, client_write_in(2, 77, 8));
    one.ask(1, 2, client_write_in(1, 77, 8));
    one.tell(3, follower_looks());
    one.serve_in(10);
    one.ask(0, 3, client_write_in(2, 77, 8));
    assert!(one.forwarded().is_empty(), "it would happen without what came before");
    let unknown = |ticket| (Ticket(ticket), Outcome::Unknown);
    assert_eq!(one.answers, [1, 2, 3].map(unknown));
    one.ask(0, 4, client_write_in(3, 77, 8));
    assert_eq!(one.forwarded(), [4]);
}

/// A look at the root, with so many bytes behind it that nobody reads.
fn read_of(slot: u32, padding: usize) -> What {
    let connection = ConnectionId { core: CoreId(0), slot, generation: 1 };
    let session = SessionId(77);
    let reader = Reader { connection, session, identities: Identities::none(), later: None };
    let mut body = vec![0, 0, 0, 1];
    body.extend_from_slice(b"/\0");
    body.resize(body.len() + padding, 0);
    What::Read { reader, op_code: OpCode::Exists.wire(), body }
}

#[test]
fn nothing_is_read_before_a_leader_has_said_what_is_committed() {
    let mut one = One::new(1, 3, COUNTER_HANDOVER);
    let read = || read_of(1, 0);
    let answered = |one: &One, ticket| one.answers.iter().any(|(it, _)| *it == Ticket(ticket));
    one.ask(0, 1, read());
    assert!(!answered(&one, 1), "its state may be as old as its last stop");
    one.serve();
    assert!(answered(&one, 1));
    one.ask(0, 2, read());
    assert!(answered(&one, 2));
    // Who never finds a leader hears so, rather than nothing.
    let mut lonely = One::new(1, 3, COUNTER_HANDOVER);
    lonely.ask(0, 1, read());
    lonely.now.instant = lonely.now.instant + Periods::default().sync_limit + Duration::from_ms(1);
    lonely.ask(0, 2, read());
    for ticket in [1, 2] {
        assert!(lonely.answers.contains(&(Ticket(ticket), Outcome::Unknown)));
    }
}

#[test]
fn what_cannot_be_logged_is_refused_before_it_is_sent() {
    let mut one = One::new(1, 3, COUNTER_HANDOVER);
    one.serve();
    one.ask(0, 1, client_write(77, RECORD_BYTES_MAX + 1));
    assert!(one.forwarded().is_empty());
    let refused = Outcome::refused(ErrorCode::BadArguments);
    assert_eq!(one.answers, vec![(Ticket(1), refused)]);
}

#[test]
fn what_waits_for_a_leader_is_bounded_in_bytes_too() {
    let mut one = One::in_shards(SHARDS_MAX, 1, 3, COUNTER_HANDOVER);
    let quarter = FORWARDS_WAITING_BYTES_OF_ALL / usize::from(SHARDS_MAX) / 4;
    let mut refused = vec![];
    let mut fill_up = |one: &mut One, tickets: std::ops::RangeInclusive<u64>| {
        for ticket in tickets.clone() {
            one.ask(0, ticket, client_write(ticket, quarter));
        }
        let last = *tickets.end() + 1;
        one.ask(0, last, client_write(last, 1));
        refused.push((Ticket(last), Outcome::Unknown));
        assert_eq!(one.answers, refused);
        let met = one.replica.limits_met().count(Limit::ForwardsWaiting);
        assert_eq!(met, refused.len() as u64);
    };
    fill_up(&mut one, 1..=4);
    one.serve();
    assert_eq!(one.forwarded(), [1, 2, 3, 4]);
    // What the leader has does not wait, and what it gives back does.
    one.tell(3, PeerMessage::NotProposed { origin: One::origin(0, 4) });
    fill_up(&mut one, 11..=13);
    // Of what the old leader keeps, nobody knows what became; the new one is given all the rest.
    one.answers.clear();
    one.tell(3, follower_looks());
    one.serve_in(10);
    assert_eq!(one.forwarded(), [4, 11, 12, 13]);
    let unknown = [1, 2, 3].map(|ticket| (Ticket(ticket), Outcome::Unknown));
    assert_eq!(std::mem::take(&mut one.answers), unknown);
}

#[test]
fn reads_that_wait_for_a_start_are_bounded_in_bytes_too() {
    let mut one = One::in_shards(SHARDS_MAX, 1, 3, COUNTER_HANDOVER);
    let half = FORWARDS_WAITING_BYTES_OF_ALL / usize::from(SHARDS_MAX) / 2;
    for ticket in 1..=2 {
        one.ask(0, ticket, read_of(1, half));
    }
    one.ask(0, 3, read_of(2, 0));
    let unknown = |ticket| (Ticket(ticket), Outcome::Unknown);
    assert_eq!(one.answers, [unknown(3)]);
    assert_eq!(one.replica.limits_met().count(Limit::ForwardsWaiting), 1);
    // The end of a connection makes room for others.
    let connection = ConnectionId { core: CoreId(0), slot: 1, generation: 1 };
    one.ask(0, 0, What::Forget { connection });
    assert_eq!(one.answers, [3, 1, 2].map(unknown));
    one.ask(0, 4, read_of(2, half));
    one.serve();
    assert!(matches!(one.answers[3], (Ticket(4), Outcome::Reply { .. })), "{:?}", one.answers);
}

#[test]
fn a_replica_without_a_leader_for_long_serves_no_other_core_either() {
    let mut one = One::new(1, 3, COUNTER_HANDOVER);
    one.serve();
    one.tell(3, follower_looks());
    let connection = ConnectionId { core: CoreId(1), slot: 0, generation: 0 };
    let read = || What::Read {
        reader: Reader {
            connection,
            session: SessionId(77),
            identities: Identities::none(),
            later: None,
        },
        op_code: OpCode::GetData.wire(),
        body: vec![0, 0, 0, 1, b'/', 0],
    };
    one.ask(1, 1, read());
    one.now.instant = one.now.instant + Duration::from_ms(10_001);
    one.ask(1, 2, read());
    let outcomes: Vec<_> = one.answers.iter().map(|(_, it)| it.clone()).collect();
    assert!(matches!(outcomes[0], Outcome::Reply { code: ErrorCode::Ok, .. }));
    assert_eq!(outcomes[1], Outcome::Unknown);
}

#[test]
fn a_session_is_touched_as_what_is_pending_makes_it() {
    let mut one = One::new(1, 1, COUNTER_HANDOVER);
    let [old, new] = [1, 2];
    let touches = |one: &mut One, session, generation| {
        let touched = Touched { session, generation, is_alive: true, seen: None };
        one.ask(0, 100, What::Touch { sessions: vec![touched] });
        std::mem::take(&mut one.expired).is_empty()
    };
    let password = [1; 16];
    one.ask(0, 1, session_create(old));
    one.is_stalled = true;
    assert!(touches(&mut one, old, 1) && !touches(&mut one, new, 1));
    one.ask(0, 2, session_create(new));
    assert!(touches(&mut one, new, 1), "its beginning is on its way to the disk");
    let deadline = one.replica.deadline();
    one.now.instant = one.now.instant + Duration::from_ms(5000);
    assert!(touches(&mut one, new, 1) && touches(&mut one, old, 1));
    assert!(one.replica.deadline() > deadline, "it lives for another timeout");
    let ask = |ask| What::Write { asker: writer(0), ask };
    for session in [old, new] {
        let (renewal, close) = (10 + session, 20 + session);
        let password = password.to_vec();
        one.ask(0, renewal, ask(WriteAsk::SessionRenew { session, password }));
        assert!(touches(&mut one, session, 2) && !touches(&mut one, session, 1));
        one.ask(0, close, ask(WriteAsk::SessionClose { session, generation: 2 }));
        assert!(!touches(&mut one, session, 2), "whoever is being ended does not live on");
    }
    assert_eq!(one.answers.len(), 1, "nothing of it is committed");
    assert_eq!(one.replica.deadline(), None, "and nobody waits for their ends");
}
