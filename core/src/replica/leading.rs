//! What a leader does with requests: prepare, propose, or refuse once the refusal is certain.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::auth::Identities;
use crate::base::bytes::Reader;
use crate::base::error::ErrorCode;
use crate::base::id::{CoreId, Generation, ServerId, SessionId, ShardId, Zxid};
use crate::base::limits::{
    COUNTER_HANDOVER_DELAY, PROPOSAL_BYTES_OUTSTANDING_MAX, PROPOSALS_OUTSTANDING_MAX,
};
use crate::base::met::Limit;
use crate::base::time::{Duration, Instant, Now};
use crate::entry::EntryKind;
use crate::mail::{Outcome, Ticket};
use crate::op::Request;
use crate::peer::message::{Forward, PeerMessage, Refused, WriteAsk};
use crate::replica::digests::Digests;
use crate::replica::session::Closing;
use crate::replica::touching::Sightings;
use crate::replica::{Deed, Replica, Share};
use crate::state::expiry::ExpiryQueue;
use crate::state::overlay::Overlay;
use crate::state::prep::{Context, Refusal};
use crate::state::session_prep::SessionRequest;
use crate::state::tree::PATHS_AT_ONCE;
use crate::txn::{Operation, Origin, Txn};
use crate::wire::request::{RequestError, parse_request, path_of_write};

/// What exists only while this replica leads; dropped with the role.
pub(super) struct Reign {
    pub(super) overlay: Overlay,
    pub(super) expiry: ExpiryQueue,
    pub(super) closing: BTreeMap<SessionId, Closing>,
    /// A snapshot point is proposed and not applied yet.
    pub(super) is_point_proposed: bool,
    /// Likewise an entry that admits disks.
    pub(super) is_admission_proposed: bool,
    pub(super) sightings: Sightings,
    /// Sessions of this home that ended in each shard since its floor was last thought about.
    pub(super) ended: BTreeMap<ShardId, usize>,
    /// Zxid and size of what is proposed and not yet applied here.
    outstanding: VecDeque<(Zxid, usize)>,
    outstanding_bytes: usize,
    /// Requests that are not proposed yet, in order.
    backlog: VecDeque<Forward>,
    /// Who asks for read indexes while nothing new is taken.
    held_reads: Vec<(Option<ServerId>, Origin)>,
    /// Refusals and read indexes that wait for a quorum to confirm the leadership, in order.
    unconfirmed: VecDeque<Unconfirmed>,
    pub(super) digests: Digests,
}

/// An answer that is true only if this leader still led when the question was asked.
struct Unconfirmed {
    origin: Origin,
    /// Confirmed by the quorum round of this number.
    round: u64,
    /// Everything up to here must be committed.
    after: Zxid,
    answer: Verdict,
}

enum Verdict {
    Refused {
        code: ErrorCode,
        multi: Vec<i32>,
    },
    /// Nothing needed to be logged: it was so already, at this zxid.
    Already {
        zxid: Zxid,
    },
    ReadIndex {
        asker: Option<ServerId>,
    },
}

impl Reign {
    fn new(tick: Duration) -> Self {
        Self {
            overlay: Overlay::new(),
            expiry: ExpiryQueue::new(tick),
            closing: BTreeMap::new(),
            is_point_proposed: false,
            is_admission_proposed: false,
            sightings: Sightings::default(),
            ended: BTreeMap::new(),
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
            backlog: VecDeque::new(),
            held_reads: Vec::new(),
            unconfirmed: VecDeque::new(),
            digests: Digests::default(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.expiry.next_deadline()
    }

    pub(super) fn on_applied(&mut self, zxid: Zxid) {
        self.overlay.applied(zxid);
        while let Some(&(oldest, bytes)) = self.outstanding.front() {
            if oldest > zxid {
                break;
            }
            self.outstanding.pop_front();
            self.outstanding_bytes -= bytes;
        }
    }

    /// Nobody waits for this leader.
    fn is_idle(&self) -> bool {
        self.is_settled() && self.backlog.is_empty() && self.held_reads.is_empty()
    }

    /// Whatever was begun has come to its end.
    pub(super) fn is_settled(&self) -> bool {
        self.outstanding.is_empty() && self.unconfirmed.is_empty()
    }

    fn is_full(&self) -> bool {
        self.outstanding.len() >= PROPOSALS_OUTSTANDING_MAX
            || self.outstanding_bytes >= PROPOSAL_BYTES_OUTSTANDING_MAX
    }
}

impl Replica {
    /// A new leader knows nobody's last touch, and finds sessions that its predecessor was closing.
    pub(super) fn begin_reign(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        let mut reign = Reign::new(self.config.periods.tick);
        let sessions = self.state.sessions().homes();
        let alive = sessions
            .filter(|(_, home)| !home.is_closing)
            .map(|(id, home)| (id, Duration::from_ms(u64::from(home.timeout_ms))));
        reign.expiry.reset(alive, now.instant);
        self.reign = Some(reign);
        self.resume_closing(now, deeds);
        self.carry_all(deeds);
    }

    /// A new epoch counts from the beginning again, so a leader makes way for one in time: while
    /// nobody waits for it, or else at the last moment.
    pub(super) fn must_hand_over(&self) -> bool {
        let Some(reign) = &self.reign else {
            return false;
        };
        let limit = self.config.counter_handover;
        let next = self.zab.next_zxid().counter();
        next >= limit && (reign.is_idle() || next - limit >= COUNTER_HANDOVER_DELAY)
    }

    /// The reign is over. What was never proposed may be asked of another leader, and whoever asked
    /// hears that before anything else about the end.
    pub(super) fn give_back(&mut self, reign: Reign, deeds: &mut Vec<Deed>) {
        let writes = reign.backlog.into_iter().map(|forward| forward.origin);
        let reads = reign.held_reads.into_iter().map(|(_, origin)| origin);
        for origin in writes.chain(reads) {
            if self.is_mine(origin) {
                self.on_not_proposed(self.config.membership.me, origin);
            } else if origin != Origin::default() {
                self.send(ServerId(origin.server), PeerMessage::NotProposed { origin }, deeds);
            }
        }
    }

    /// A write has come to its leader. Nothing is proposed before the turn ends, so that there is
    /// time to see what else comes.
    pub(super) fn lead(&mut self, forward: Forward) {
        let reign = self.reign.as_mut().expect("only a leader is given writes");
        if reign.is_full() || self.zab.holds_proposals() {
            self.met.note(Limit::ProposalsOutstanding);
        }
        reign.backlog.push_back(forward);
    }

    /// Whether there is something to propose, and nothing that it would have to wait for.
    pub(super) fn can_propose(&self) -> bool {
        let reign = self.reign.as_ref();
        let is_possible = reign.is_some_and(|reign| !reign.backlog.is_empty() && !reign.is_full());
        is_possible && !self.zab.holds_proposals()
    }

    /// Proposes what has come, as much of it as one turn should.
    pub(super) fn propose_backlog(&mut self, now: Now, deeds: &mut Vec<Deed>) {
        let mut ahead = 0;
        while self.share.proposals > 0 && self.can_propose() {
            let reign = self.reign.as_mut().expect("only a leader can propose");
            if ahead == 0 {
                ahead = PATHS_AT_ONCE;
                let next = reign.backlog.iter().take(ahead);
                self.state.tree().look_ahead(next.filter_map(|forward| match &forward.ask {
                    WriteAsk::Client { op_code, body } => path_of_write(*op_code, body),
                    _ => None,
                }));
            }
            ahead -= 1;
            let forward = reign.backlog.pop_front().expect("there is something to propose");
            let taken = Share::weight(forward.ask.body_bytes(), 1);
            self.share.proposals = self.share.proposals.saturating_sub(taken);
            self.prepare(now, forward, deeds);
        }
    }

    /// Asks for the read indexes that were held back while the leader was about to go.
    pub(super) fn begin_held_reads(&mut self) {
        if self.zab.holds_proposals() {
            return;
        }
        let held_reads = self.reign.as_mut().map(|reign| core::mem::take(&mut reign.held_reads));
        for (asker, origin) in held_reads.into_iter().flatten() {
            self.begin_read_index(asker, origin);
        }
    }

    fn prepare(&mut self, now: Now, forward: Forward, deeds: &mut Vec<Deed>) {
        let origin = forward.origin;
        let session = SessionId(forward.session);
        if self.has_no_room_for(&forward) {
            self.refuse(origin, Self::NO_ROOM, Zxid::ZERO, Vec::new());
            return;
        }
        if let WriteAsk::Client { op_code, body } = &forward.ask {
            self.prepare_client(now, &forward, *op_code, body);
            return;
        }
        if forward.ask == WriteAsk::SnapshotPoint {
            self.propose_point();
            return;
        }
        if let WriteAsk::PointSet { path, data, acl, point_zxid } = &forward.ask {
            let zxid = self.zab.next_zxid();
            let reign = self.reign.as_mut().expect("only a leader prepares");
            let point_zxid = Zxid(*point_zxid);
            let operations = reign.overlay.prepare_point(
                &self.state,
                zxid,
                path,
                data.as_deref(),
                acl,
                point_zxid,
            );
            // What is known already may still be pending: everything proposed comes first.
            let done_at = if operations.is_empty() { self.zab.log().tail().zxid } else { zxid };
            self.log_or_confirm(now, origin, session, operations, done_at);
            return;
        }
        if let WriteAsk::SessionClose { session, generation } = forward.ask {
            let generation = (generation != 0).then_some(Generation(generation));
            self.close_session(now, SessionId(session), generation, Some(origin), deeds);
            return;
        }
        let Some(request) = session_request(&forward.ask) else {
            self.refuse(origin, ErrorCode::MarshallingError, Zxid::ZERO, Vec::new());
            return;
        };
        self.prepare_session(now, origin, &request);
    }

    fn prepare_client(&mut self, now: Now, forward: &Forward, op_code: i32, body: &[u8]) {
        let origin = forward.origin;
        let request = match parse_request(op_code, body) {
            Ok(request) if request.is_write() => request,
            Err(RequestError::MultiOperation { index, count, code }) => {
                let multi = multi_codes(index, count, code);
                self.refuse(origin, ErrorCode::Ok, Zxid::ZERO, multi);
                return;
            }
            Ok(_) | Err(_) => {
                self.refuse(origin, ErrorCode::MarshallingError, Zxid::ZERO, Vec::new());
                return;
            }
        };
        let Ok(identities) = Identities::decode(&mut Reader::new(&forward.identities)) else {
            self.refuse(origin, ErrorCode::MarshallingError, Zxid::ZERO, Vec::new());
            return;
        };
        // The share has been told of one operation: how many there are is known only now.
        if let Request::Multi(operations) = &request {
            let taken = operations.len().saturating_sub(1);
            self.share.proposals = self.share.proposals.saturating_sub(taken);
        }
        let zxid = self.zab.next_zxid();
        let attachment = Zxid(forward.attachment_zxid);
        let context = Context {
            session: SessionId(forward.session),
            generation: Generation(forward.generation),
            identities: &identities,
            attachment: (attachment != Zxid::ZERO).then_some(attachment),
            zxid,
        };
        let reign = self.reign.as_mut().expect("only a leader prepares");
        match reign.overlay.prepare(&self.state, &context, &request) {
            // Even a multi of nothing is logged: its reply has a zxid of its own.
            Ok(operations) => self.log(now, origin, context.session, operations),
            Err(refusal) => self.refuse_as(origin, refusal),
        }
    }

    /// Prepares what happens to a session; tells whether something was logged.
    pub(super) fn prepare_session(
        &mut self,
        now: Now,
        origin: Origin,
        request: &SessionRequest<'_>,
    ) -> bool {
        let zxid = self.zab.next_zxid();
        let reign = self.reign.as_mut().expect("only a leader prepares");
        match reign.overlay.prepare_session(&self.state, zxid, request) {
            Ok(prepared) => {
                if let SessionRequest::Renew { session, .. } = *request {
                    // Its client has just been heard of, however long it takes to say so.
                    self.touch_alive(session, now.instant);
                }
                let done_at = prepared.done_at;
                let operations = prepared.operations;
                let logs = !operations.is_empty();
                self.log_or_confirm(now, origin, SessionId(0), operations, done_at);
                logs
            }
            Err(refusal) => {
                self.refuse_as(origin, refusal);
                false
            }
        }
    }

    /// Logs the operations, or, if there are none, answers that it has been so since `done_at`.
    pub(super) fn log_or_confirm(
        &mut self,
        now: Now,
        origin: Origin,
        session: SessionId,
        operations: Vec<Operation>,
        done_at: Zxid,
    ) {
        if operations.is_empty() {
            self.confirm_already(origin, done_at);
            return;
        }
        self.log(now, origin, session, operations);
    }

    fn log(&mut self, now: Now, origin: Origin, session: SessionId, operations: Vec<Operation>) {
        let txn = Txn { origin, session: session.0, time_ms: now.wall_ms, operations };
        let payload = txn.to_bytes();
        let zxid = self.zab.propose(EntryKind::Txn, &payload, &mut self.actions);
        let reign = self.reign.as_mut().expect("only a leader proposes");
        reign.outstanding.push_back((zxid, payload.len()));
        reign.outstanding_bytes += payload.len();
    }

    pub(super) fn refuse_as(&mut self, origin: Origin, refusal: Refusal) {
        if refusal.code == ErrorCode::ThrottledOp {
            self.met.note(Limit::EphemeralsPerSession);
        }
        let codes = refusal.multi.unwrap_or_default();
        let multi = codes.into_iter().map(ErrorCode::wire).collect();
        self.refuse(origin, refusal.code, refusal.judged_by, multi);
    }

    fn refuse(&mut self, origin: Origin, code: ErrorCode, judged_by: Zxid, multi: Vec<i32>) {
        // The reply carries the state that was judged: a later one would stand before, in the
        // client's order, the smaller zxids of writes that it has sent behind this one.
        let judged = judged_by.max(self.state.applied());
        self.confirm_first(origin, judged, Verdict::Refused { code, multi });
    }

    pub(super) fn on_read_index(&mut self, from: ServerId, origin: Origin, deeds: &mut Vec<Deed>) {
        if self.reign.is_some() {
            self.begin_read_index(Some(from), origin);
        } else {
            self.send(from, PeerMessage::NotProposed { origin }, deeds);
        }
    }

    /// Everything acknowledged before now is committed here, or this server has told the one that
    /// acknowledged it to commit it; provided that it still leads: a quorum will say.
    pub(super) fn begin_read_index(&mut self, asker: Option<ServerId>, origin: Origin) {
        if self.zab.holds_proposals() {
            let reign = self.reign.as_mut().expect("only a leader is asked");
            reign.held_reads.push((asker, origin));
            return;
        }
        let acknowledged = self.zab.acknowledged();
        self.confirm_first(origin, acknowledged, Verdict::ReadIndex { asker });
    }

    /// Answers that it has been so since `done_at`.
    pub(super) fn confirm_already(&mut self, origin: Origin, done_at: Zxid) {
        self.confirm_first(origin, done_at, Verdict::Already { zxid: done_at });
    }

    fn confirm_first(&mut self, origin: Origin, after: Zxid, answer: Verdict) {
        if origin == Origin::default() {
            return;
        }
        let round = self.zab.ask_confirmation();
        let reign = self.reign.as_mut().expect("only a leader has verdicts");
        reign.unconfirmed.push_back(Unconfirmed { origin, round, after, answer });
    }

    /// Hands out verdicts that are certain by now: what they were judged against is applied, and a
    /// quorum has confirmed the leadership since.
    pub(super) fn answer_confirmed(&mut self, deeds: &mut Vec<Deed>) {
        let confirmed = self.zab.confirmed_round();
        let applied = self.state.applied();
        loop {
            let Some(reign) = self.reign.as_mut() else {
                return;
            };
            let Some(first) = reign.unconfirmed.front() else {
                return;
            };
            if first.round > confirmed || first.after > applied {
                return;
            }
            let first = reign.unconfirmed.pop_front().expect("it was just looked at");
            self.hand_out(first, deeds);
        }
    }

    fn hand_out(&mut self, verdict: Unconfirmed, deeds: &mut Vec<Deed>) {
        let origin = verdict.origin;
        let (code, zxid, multi) = match verdict.answer {
            Verdict::ReadIndex { asker: Some(asker) } => {
                let zxid = verdict.after.0;
                self.send(asker, PeerMessage::ReadIndexAt { origin, zxid }, deeds);
                return;
            }
            Verdict::ReadIndex { asker: None } => {
                self.on_read_index_at(origin, verdict.after, deeds);
                return;
            }
            Verdict::Already { zxid } => (ErrorCode::Ok, zxid, Vec::new()),
            Verdict::Refused { code, multi } => (code, verdict.after, multi),
        };
        let refused = Refused { origin, code: code.wire(), zxid: zxid.0, multi };
        if self.is_mine(origin) {
            self.on_refused(&refused, deeds);
        } else {
            let to = ServerId(origin.server);
            self.send(to, PeerMessage::Refused(refused), deeds);
        }
    }

    /// The leader has answered without logging.
    pub(super) fn on_refused(&mut self, refused: &Refused, deeds: &mut Vec<Deed>) {
        let key = (CoreId(refused.origin.core), Ticket(refused.origin.ticket));
        if !self.is_mine(refused.origin) {
            return;
        }
        let Some(asked) = self.asked.remove(&key) else {
            return;
        };
        let code = ErrorCode::from_wire(refused.code).unwrap_or(ErrorCode::SystemError);
        let outcome = if !refused.multi.is_empty() {
            super::answer::refused_multi(&refused.multi)
        } else if code == ErrorCode::Ok {
            self.done_outcome(&asked)
        } else {
            Outcome::refused(code)
        };
        self.answer_after(Zxid(refused.zxid), key.0, key.1, outcome, deeds);
    }
}

fn session_request(ask: &WriteAsk) -> Option<SessionRequest<'_>> {
    Some(match ask {
        WriteAsk::SessionCreate { session, password, timeout_ms } => SessionRequest::Create {
            session: SessionId(*session),
            password: *password,
            timeout_ms: *timeout_ms,
        },
        WriteAsk::SessionRenew { session, password } => {
            SessionRequest::Renew { session: SessionId(*session), password }
        }
        WriteAsk::SessionAttach { session, generation, shard } => SessionRequest::Attach {
            session: SessionId(*session),
            generation: Generation(*generation),
            shard: ShardId(*shard),
        },
        WriteAsk::SessionOpen { session, generation, home_zxid } => SessionRequest::Open {
            session: SessionId(*session),
            generation: Generation(*generation),
            home_zxid: Zxid(*home_zxid),
        },
        WriteAsk::SessionFence { session, home_zxid } => {
            SessionRequest::Fence { session: SessionId(*session), home_zxid: Zxid(*home_zxid) }
        }
        WriteAsk::SessionPurge { session } => {
            SessionRequest::Purge { session: SessionId(*session) }
        }
        WriteAsk::SessionFloor { home, home_zxid } => {
            SessionRequest::Floor { home: ShardId(*home), home_zxid: Zxid(*home_zxid) }
        }
        WriteAsk::Client { .. }
        | WriteAsk::SessionClose { .. }
        | WriteAsk::PointSet { .. }
        | WriteAsk::SnapshotPoint => return None,
    })
}

fn multi_codes(index: usize, count: usize, code: ErrorCode) -> Vec<i32> {
    let code_of = |operation: usize| match operation.cmp(&index) {
        core::cmp::Ordering::Less => ErrorCode::Ok,
        core::cmp::Ordering::Equal => code,
        core::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency,
    };
    (0..count).map(|operation| code_of(operation).wire()).collect()
}
