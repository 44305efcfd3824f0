//! Everything that happens to a session becomes operations, or is refused: leader only.
//!
//! The home shard decides (create, renew, attach, closing, end); attached shards follow (open,
//! advance, fence, purge). The home shard is attached to itself, so what it decides it also follows
//! in the same transaction: with one shard, a session that ends takes its ephemerals with it at one
//! zxid, as in ZooKeeper.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::id::{Generation, SessionId, ShardId, Zxid};
use crate::base::limits::{PURGE_BYTES_MAX, PURGE_PATHS_MAX};
use crate::state::State;
use crate::state::overlay::{AttachedPhase, AttachedView, Overlay};
use crate::state::prep::{Preparation, Refusal};
use crate::state::session::{FIRST_GENERATION, HomeSession};
use crate::txn::Operation;

/// What may be asked of a shard about a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionRequest<'a> {
    /// Home: begin it, attached and open in its home.
    Create { session: SessionId, password: [u8; 16], timeout_ms: u32 },
    /// Home: a client is back on another connection.
    Renew { session: SessionId, password: &'a [u8] },
    /// Home: it wants to write in `shard`.
    Attach { session: SessionId, generation: Generation, shard: ShardId },
    /// Home: close it, on behalf of its client (with the connection's generation) or because it
    /// expired. What can be done at once is: see the module.
    Close { session: SessionId, generation: Option<Generation> },
    /// Home: every attached shard is done.
    End { session: SessionId },
    /// Attached shard: the home attached it at `home_zxid`.
    Open { session: SessionId, generation: Generation, home_zxid: Zxid },
    /// Attached shard: only this generation may write from now on.
    Advance { session: SessionId, generation: Generation },
    /// Attached shard: its home closes it; `home_zxid` is the zxid of that, and so above the
    /// attachment's.
    Fence { session: SessionId, home_zxid: Zxid },
    /// Attached shard: every attached shard has fenced; delete some of its ephemerals.
    Purge { session: SessionId },
    /// Attached shard: every attachment of `home` below `home_zxid` is opened here or over.
    Floor { home: ShardId, home_zxid: Zxid },
}

/// What a session request comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// To be logged in one transaction; empty if all was done before.
    pub operations: Vec<Operation>,
    /// When it is done: the request's own zxid, or what must be committed for it to have been done
    /// before. For an attachment, exactly the attachment's zxid.
    pub done_at: Zxid,
}

impl Overlay {
    /// The operations that carry out a session request at `zxid`, as [`Overlay::prepare`] does for
    /// a client's write.
    ///
    /// # Panics
    /// If the request is for another shard, or ends a session before its own shard is done: what
    /// peers ask is checked before.
    pub fn prepare_session(
        &mut self,
        state: &State,
        zxid: Zxid,
        request: &SessionRequest<'_>,
    ) -> Result<Prepared, Refusal> {
        let mut preparation = Preparation::new(self, state, zxid);
        let mut done_at = zxid;
        let result = match *request {
            SessionRequest::Create { session, password, timeout_ms } => {
                preparation.create_session(session, password, timeout_ms)
            }
            SessionRequest::Renew { session, password } => preparation.renew(session, password),
            SessionRequest::Attach { session, generation, shard } => preparation
                .attach(session, generation, shard)
                .map(|attached_at| done_at = attached_at),
            SessionRequest::Close { session, generation } => preparation.close(session, generation),
            SessionRequest::End { session } => preparation.end(session),
            SessionRequest::Open { session, generation, home_zxid } => {
                preparation.open(session, generation, home_zxid)
            }
            SessionRequest::Advance { session, generation } => {
                preparation.advance(session, generation)
            }
            SessionRequest::Fence { session, home_zxid } => preparation.fence(session, home_zxid),
            SessionRequest::Purge { session } => preparation.purge(session),
            SessionRequest::Floor { home, home_zxid } => preparation.raise_floor(home, home_zxid),
        };
        let judged_by = preparation.judged_by();
        let operations = preparation.finish(result, None)?;
        if operations.is_empty() && !matches!(request, SessionRequest::Attach { .. }) {
            done_at = judged_by;
        }
        Ok(Prepared { operations, done_at })
    }
}

impl Preparation<'_> {
    fn home(&mut self, session: SessionId) -> Option<HomeSession> {
        let home = self.state.map().home_of(session);
        assert_eq!(home, self.state.shard(), "the home of {session} decides");
        if let Some(&(zxid, _)) = self.overlay.homes.find(&session) {
            self.judge_by(zxid);
        }
        self.overlay.home(self.state, session).cloned()
    }

    fn living_home(&mut self, session: SessionId) -> Result<HomeSession, ErrorCode> {
        let home = self.home(session).filter(|home| !home.is_closing);
        home.ok_or(ErrorCode::SessionExpired)
    }

    fn put_home(&mut self, session: SessionId, home: Option<HomeSession>) {
        self.overlay.homes.put(self.zxid, session, home);
    }

    fn create_session(
        &mut self,
        session: SessionId,
        password: [u8; 16],
        timeout_ms: u32,
    ) -> Result<(), ErrorCode> {
        let is_known = self.home(session).is_some();
        let is_ending = self.overlay.homes.find(&session).is_some();
        if is_known || is_ending || self.state.sessions().has_ended(session) {
            return Err(ErrorCode::SessionExpired);
        }
        let shard = self.state.shard();
        let mut home = HomeSession::new(password, timeout_ms);
        home.attach(shard, self.zxid);
        self.put_home(session, Some(home));
        self.push(Operation::SessionCreate { session: session.0, password, timeout_ms })?;
        self.push(Operation::SessionAttach { session: session.0, shard: shard.0 })?;
        self.open(session, FIRST_GENERATION, self.zxid)
    }

    fn renew(&mut self, session: SessionId, password: &[u8]) -> Result<(), ErrorCode> {
        let mut home = self.home(session).ok_or(ErrorCode::SessionExpired)?;
        if !home.has_password(password) {
            return Err(ErrorCode::SessionExpired);
        }
        if home.is_closing {
            // Its client may hear that it is over when nothing of it is left, and not before: until
            // then there is no answer, and the client comes back.
            return Err(ErrorCode::ConnectionLoss);
        }
        home.generation = home.generation.next();
        let generation = home.generation;
        self.put_home(session, Some(home));
        self.push(Operation::SessionRenew { session: session.0, generation: generation.0 })?;
        self.advance(session, generation)
    }

    fn attach(
        &mut self,
        session: SessionId,
        generation: Generation,
        shard: ShardId,
    ) -> Result<Zxid, ErrorCode> {
        let mut home = self.living_home(session)?;
        if generation < home.generation {
            return Err(ErrorCode::SessionMoved);
        }
        if let Some(attached_at) = home.attachment(shard) {
            return Ok(attached_at);
        }
        home.attach(shard, self.zxid);
        self.put_home(session, Some(home));
        self.push(Operation::SessionAttach { session: session.0, shard: shard.0 })?;
        Ok(self.zxid)
    }

    fn close(
        &mut self,
        session: SessionId,
        generation: Option<Generation>,
    ) -> Result<(), ErrorCode> {
        let mut home = self.home(session).ok_or(ErrorCode::SessionExpired)?;
        if generation.is_some_and(|generation| generation < home.generation) {
            return Err(ErrorCode::SessionMoved);
        }
        if home.is_closing {
            return Ok(());
        }
        home.is_closing = true;
        let is_alone = home.attachments().len() == 1;
        self.put_home(session, Some(home));
        self.push(Operation::SessionClosing { session: session.0 })?;
        self.fence(session, self.zxid)?;
        // Other shards fence first, so that nothing of the session vanishes while it can still
        // write elsewhere. Without others, this fence is the last one.
        if is_alone && self.attached(session).ephemerals <= PURGE_PATHS_MAX {
            self.purge(session)?;
            if self.attached(session).phase == AttachedPhase::Over {
                self.end(session)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, session: SessionId) -> Result<(), ErrorCode> {
        let Some(home) = self.home(session) else {
            return Ok(());
        };
        assert!(home.is_closing, "{session} ends after closing");
        let phase = self.attached(session).phase;
        assert!(
            matches!(phase, AttachedPhase::Absent | AttachedPhase::Over),
            "{session} ends when nothing of it is left"
        );
        self.put_home(session, None);
        self.push(Operation::SessionEnd { session: session.0 })
    }

    pub(super) fn open(
        &mut self,
        session: SessionId,
        generation: Generation,
        home_zxid: Zxid,
    ) -> Result<(), ErrorCode> {
        let view = self.attached(session);
        match view.phase {
            AttachedPhase::Fenced | AttachedPhase::Over => return Err(ErrorCode::SessionExpired),
            AttachedPhase::Open => return self.advance(session, generation),
            AttachedPhase::Absent => {}
        }
        let home = self.state.map().home_of(session);
        if home_zxid < self.floor(home) {
            return Err(ErrorCode::SessionExpired);
        }
        let view =
            AttachedView { phase: AttachedPhase::Open, generation, home_zxid, ephemerals: 0 };
        self.put_attached(session, view);
        self.push(Operation::SessionOpen {
            session: session.0,
            generation: generation.0,
            home_zxid: home_zxid.0,
        })
    }

    pub(super) fn advance(
        &mut self,
        session: SessionId,
        generation: Generation,
    ) -> Result<(), ErrorCode> {
        let mut view = self.attached(session);
        if view.phase != AttachedPhase::Open {
            return Err(ErrorCode::SessionExpired);
        }
        if generation < view.generation {
            return Err(ErrorCode::SessionMoved);
        }
        if generation == view.generation {
            return Ok(());
        }
        view.generation = generation;
        self.put_attached(session, view);
        self.push(Operation::SessionAdvance { session: session.0, generation: generation.0 })
    }

    fn fence(&mut self, session: SessionId, home_zxid: Zxid) -> Result<(), ErrorCode> {
        let mut view = self.attached(session);
        match view.phase {
            AttachedPhase::Fenced | AttachedPhase::Over => return Ok(()),
            AttachedPhase::Open => {}
            AttachedPhase::Absent => {
                let home = self.state.map().home_of(session);
                if home_zxid < self.floor(home) {
                    return Ok(());
                }
                // Its open may still be on its way. Opened and fenced at once, it leaves a
                // tombstone above its attachment, which stays until the floor has passed both.
                self.open(session, FIRST_GENERATION, home_zxid)?;
                view = self.attached(session);
            }
        }
        view.phase = AttachedPhase::Fenced;
        self.put_attached(session, view);
        self.push(Operation::SessionFence { session: session.0 })
    }

    fn purge(&mut self, session: SessionId) -> Result<(), ErrorCode> {
        let mut view = self.attached(session);
        match view.phase {
            AttachedPhase::Absent | AttachedPhase::Over => return Ok(()),
            // Its home has asked for the fence before, and knows that it stands.
            AttachedPhase::Open => return Err(ErrorCode::BadArguments),
            AttachedPhase::Fenced => {}
        }
        let paths = self.purge_chunk(session, view.ephemerals);
        for path in &paths {
            self.remove(path, session);
        }
        view = self.attached(session);
        let is_last = view.ephemerals == 0;
        assert!(is_last || !paths.is_empty(), "every purge brings the end nearer");
        if is_last {
            view.phase = AttachedPhase::Over;
            self.put_attached(session, view);
        }
        self.push(Operation::SessionPurge { session: session.0, paths, last: is_last })
    }

    /// Some of the session's ephemerals, pending ones included, within the bounds of one purge.
    fn purge_chunk(&self, session: SessionId, count: usize) -> Vec<String> {
        let attached = self.state.sessions().attached(session);
        // What another client deletes meanwhile, or created anew under the same name, is pending.
        let mut paths: Vec<&str> = attached
            .into_iter()
            .flat_map(|attached| attached.ephemerals())
            .filter(|path| self.overlay.nodes.find(*path).is_none())
            .take(PURGE_PATHS_MAX)
            .collect();
        // All that is pending is only looked through if some of it must be this session's: when
        // thousands expire together, it is mostly what the others have left.
        let wanted = count.min(PURGE_PATHS_MAX);
        if paths.len() < wanted {
            let pending = self.overlay.nodes.iter().filter_map(|(path, view)| {
                let view = view.as_ref()?;
                (view.ephemeral_owner == session).then_some(&**path)
            });
            let missing = wanted - paths.len();
            paths.extend(pending.take(missing));
        }
        let mut bytes = 0;
        let fits = |path: &&str| {
            bytes += path.len();
            bytes <= PURGE_BYTES_MAX
        };
        let mut chunk: Vec<String> =
            paths.into_iter().take_while(fits).map(ToOwned::to_owned).collect();
        // One order, however much of it is pending: a story comes out the same at any speed.
        chunk.sort_unstable();
        chunk
    }

    fn raise_floor(&mut self, home: ShardId, home_zxid: Zxid) -> Result<(), ErrorCode> {
        if home_zxid <= self.floor(home) {
            return Ok(());
        }
        self.overlay.floors.put(self.zxid, home, home_zxid);
        self.push(Operation::SessionFloor { home: home.0, home_zxid: home_zxid.0 })
    }

    fn floor(&mut self, home: ShardId) -> Zxid {
        match self.overlay.floors.find(&home) {
            Some((zxid, floor)) => {
                let (zxid, floor) = (*zxid, *floor);
                self.judge_by(zxid);
                floor
            }
            None => self.state.sessions().floor(home),
        }
    }
}
