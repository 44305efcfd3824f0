//! A client's write becomes operations, or is refused (`PrepRequestProcessor`): leader only.
//!
//! Nothing here changes the state. What is accepted goes into the overlay, so that the next request
//! is judged as if it had happened. The order of the checks is ZooKeeper's, because it decides
//! which error a client sees.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::auth::Identities;
use crate::base::error::ErrorCode;
use crate::base::id::{Generation, SessionId, Zxid};
use crate::base::limits::{EPHEMERALS_PER_SESSION_MAX, MULTI_OPERATIONS_MAX, RECORD_BYTES_MAX};
use crate::op::{Acl, CreateMode, Request, permission};
use crate::path;
use crate::shard::{is_partition_point, point_index};
use crate::state::acl::AccessList;
use crate::state::overlay::{AclView, AttachedPhase, AttachedView, NodeView, Overlay};
use crate::state::{CONFIG_PATH, State, acl};
use crate::txn::{AclEntry, Operation};

/// Who writes, and where in the shard's order.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// 0 for the system itself, which needs no session.
    pub session: SessionId,
    pub generation: Generation,
    pub identities: &'a Identities,
    /// The zxid in the home shard at which the session was attached to this shard, as long as its
    /// server does not know that the session is open here: then this write opens it.
    pub attachment: Option<Zxid>,
    /// The zxid that the transaction will have.
    pub zxid: Zxid,
}

/// Why nothing is logged, and what must be committed before anybody hears of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: ErrorCode,
    /// The newest change that the request was judged against, pending ones included.
    pub judged_by: Zxid,
    /// For a multi: one code for each operation. Absent when the session itself was refused.
    pub multi: Option<Vec<ErrorCode>>,
}

/// One request on its way through the checks.
pub(super) struct Preparation<'a> {
    pub(super) overlay: &'a mut Overlay,
    pub(super) state: &'a State,
    pub(super) zxid: Zxid,
    pub(super) operations: Vec<Operation>,
    judged_by: Zxid,
    /// At least the size of the archived operations.
    record_bytes: usize,
}

impl Overlay {
    /// The operations that carry out a client's write, all in one transaction at `context.zxid`.
    ///
    /// After `Ok` the overlay counts on them: they must be logged at that zxid, or everything that
    /// is pending must be given up.
    pub fn prepare(
        &mut self,
        state: &State,
        context: &Context<'_>,
        request: &Request<'_>,
    ) -> Result<Vec<Operation>, Refusal> {
        let mut preparation = Preparation::new(self, state, context.zxid);
        let mut codes = None;
        let result = preparation.writer(context).and_then(|()| match request {
            Request::Multi(operations) => preparation.multi(context, operations, &mut codes),
            single => preparation.single(context, single),
        });
        preparation.finish(result, codes)
    }

    /// What shard 0 decided about a partition point, for every other shard. Nothing is to be logged
    /// if this shard knows it already.
    pub fn prepare_point(
        &mut self,
        state: &State,
        zxid: Zxid,
        point: &str,
        data: Option<&[u8]>,
        acl: &[AclEntry],
        point_zxid: Zxid,
    ) -> Vec<Operation> {
        let index = point_index(point).expect("only points are carried between shards");
        let known = self.points.find(&index).map(|(_, known)| *known);
        if point_zxid <= known.unwrap_or(state.point_zxid(point)) {
            return Vec::new();
        }
        let mut preparation = Preparation::new(self, state, zxid);
        let mut view = preparation.node(point).expect("points exist in every shard");
        view.acl = AclView::Pending(AccessList::of(acl));
        preparation.put_node(point, Some(view));
        preparation.overlay.points.put(zxid, index, point_zxid);
        self.settle();
        vec![Operation::PointSet {
            path: point.to_owned(),
            data: data.map(<[u8]>::to_vec),
            acl: acl.to_vec(),
            point_zxid: point_zxid.0,
        }]
    }
}

impl<'a> Preparation<'a> {
    pub(super) fn new(overlay: &'a mut Overlay, state: &'a State, zxid: Zxid) -> Self {
        assert!(zxid > state.applied(), "{zxid} after {}", state.applied());
        Self {
            overlay,
            state,
            zxid,
            operations: Vec::new(),
            judged_by: state.applied(),
            record_bytes: RECORD_OVERHEAD_BYTES,
        }
    }

    pub(super) fn finish(
        self,
        result: Result<(), ErrorCode>,
        multi: Option<Vec<ErrorCode>>,
    ) -> Result<Vec<Operation>, Refusal> {
        match result {
            Ok(()) => {
                self.overlay.settle();
                Ok(self.operations)
            }
            Err(code) => {
                self.overlay.roll_back();
                Err(Refusal { code, judged_by: self.judged_by, multi })
            }
        }
    }

    pub(super) fn judged_by(&self) -> Zxid {
        self.judged_by
    }

    /// What the request has just read was made by `zxid`: its answer depends on that.
    pub(super) fn judge_by(&mut self, zxid: Zxid) {
        // What the request itself has prepared rests on what it read before.
        if zxid != self.zxid {
            self.judged_by = self.judged_by.max(zxid);
        }
    }

    pub(super) fn node(&mut self, path: &str) -> Option<NodeView> {
        match self.overlay.nodes.find(path) {
            Some((zxid, view)) => {
                let (zxid, view) = (*zxid, view.clone());
                self.judge_by(zxid);
                view
            }
            None => NodeView::of(self.state, path),
        }
    }

    pub(super) fn put_node(&mut self, path: &str, view: Option<NodeView>) {
        self.overlay.nodes.put(self.zxid, Arc::from(path), view);
    }

    pub(super) fn attached(&mut self, session: SessionId) -> AttachedView {
        match self.overlay.attached.find(&session) {
            Some((zxid, view)) => {
                let (zxid, view) = (*zxid, *view);
                self.judge_by(zxid);
                view
            }
            None => AttachedView::of(self.state, session),
        }
    }

    pub(super) fn put_attached(&mut self, session: SessionId, view: AttachedView) {
        self.overlay.attached.put(self.zxid, session, view);
    }

    /// Whether the session may write, after opening it or raising its generation if it is due.
    fn writer(&mut self, context: &Context<'_>) -> Result<(), ErrorCode> {
        if context.session == SessionId(0) {
            return Ok(());
        }
        if let Some(home_zxid) = context.attachment {
            self.open(context.session, context.generation, home_zxid)?;
        }
        let view = self.attached(context.session);
        match view.phase {
            AttachedPhase::Open if context.generation < view.generation => {
                Err(ErrorCode::SessionMoved)
            }
            AttachedPhase::Open if context.generation > view.generation => {
                self.advance(context.session, context.generation)
            }
            AttachedPhase::Open => Ok(()),
            AttachedPhase::Absent | AttachedPhase::Fenced | AttachedPhase::Over => {
                Err(ErrorCode::SessionExpired)
            }
        }
    }

    fn multi(
        &mut self,
        context: &Context<'_>,
        requests: &[Request<'_>],
        codes: &mut Option<Vec<ErrorCode>>,
    ) -> Result<(), ErrorCode> {
        if requests.len() > MULTI_OPERATIONS_MAX {
            return Err(ErrorCode::BadArguments);
        }
        for (index, request) in requests.iter().enumerate() {
            let result = match request {
                Request::Check { path, version } => self.check(context, path, *version),
                Request::Create { .. } | Request::Delete { .. } | Request::SetData { .. } => {
                    self.single(context, request)
                }
                // A multi that holds anything else cannot be read by ZooKeeper either.
                _ => return Err(ErrorCode::MarshallingError),
            };
            if let Err(code) = result {
                let mut list = vec![ErrorCode::RuntimeInconsistency; requests.len()];
                list[..index].fill(ErrorCode::Ok);
                list[index] = code;
                *codes = Some(list);
                return Err(code);
            }
        }
        Ok(())
    }

    fn single(&mut self, context: &Context<'_>, request: &Request<'_>) -> Result<(), ErrorCode> {
        match request {
            Request::Create { path, data, acl, mode, with_stat } => {
                let (path, acl, parent_cversion) = self.create(context, path, *data, acl, *mode)?;
                let owner = if mode.is_ephemeral() { context.session } else { SessionId(0) };
                self.push(Operation::Create {
                    path,
                    data: data.map(<[u8]>::to_vec),
                    acl,
                    ephemeral_owner: owner.0,
                    parent_cversion,
                    with_stat: *with_stat,
                })
            }
            Request::Delete { path, version } => self.delete(context, path, *version),
            Request::SetData { path, data, version } => {
                self.set_data(context, path, *data, *version)
            }
            Request::SetAcl { path, acl, version } => self.set_acl(context, path, acl, *version),
            _ => Err(ErrorCode::Unimplemented),
        }
    }

    /// The completed name, the list to store, and the parent's count of creations afterwards.
    fn create(
        &mut self,
        context: &Context<'_>,
        prefix: &str,
        data: Option<&[u8]>,
        acl: &[Acl<'_>],
        mode: CreateMode,
    ) -> Result<(String, Vec<AclEntry>, i32), ErrorCode> {
        let acl = acl::fixup(acl, context.identities).map_err(|_| ErrorCode::InvalidAcl)?;
        let parent_path = parent_of_created(prefix);
        let mut parent = self.node(parent_path).ok_or(ErrorCode::NoNode)?;
        self.permit(context, &parent, permission::CREATE)?;
        check_path(prefix, mode.is_sequential())?;
        let path = if mode.is_sequential() {
            // A counter that overflowed is negative, and ten characters wide with its sign, as
            // Java's "%010d" prints it.
            let path = format!("{prefix}{:010}", parent.creations);
            check_path(&path, false)?;
            path
        } else {
            prefix.to_owned()
        };
        self.check_shard(&path)?;
        if self.node(&path).is_some() {
            return Err(ErrorCode::NodeExists);
        }
        if parent.ephemeral_owner != SessionId(0) {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        let mut owner = SessionId(0);
        if mode.is_ephemeral() {
            owner = context.session;
            self.count_ephemeral(owner)?;
        }
        parent.creations = parent.creations.wrapping_add(1);
        parent.children += 1;
        let creations = parent.creations;
        self.put_node(parent_path, Some(parent));
        let view = NodeView {
            version: 0,
            aversion: 0,
            creations: 0,
            children: 0,
            ephemeral_owner: owner,
            acl: AclView::Pending(AccessList::of(&acl)),
        };
        self.put_node(&path, Some(view));
        self.record_bytes +=
            path.len() + data.map_or(0, <[u8]>::len) + AclEntry::record_bytes(&acl);
        Ok((path, acl, creations))
    }

    fn delete(&mut self, context: &Context<'_>, path: &str, version: i32) -> Result<(), ErrorCode> {
        check_path(path, false)?;
        self.check_shard(path)?;
        if is_partition_point(path) || path == CONFIG_PATH {
            return Err(ErrorCode::BadArguments);
        }
        let parent_path = path::parent(path).ok_or(ErrorCode::BadArguments)?;
        let parent = self.node(parent_path).ok_or(ErrorCode::NoNode)?;
        self.permit(context, &parent, permission::DELETE)?;
        let node = self.node(path).ok_or(ErrorCode::NoNode)?;
        next_version(node.version, version)?;
        if node.children > 0 {
            return Err(ErrorCode::NotEmpty);
        }
        self.remove(path, node.ephemeral_owner);
        self.record_bytes += path.len();
        self.push(Operation::Delete { path: path.to_owned() })
    }

    fn set_data(
        &mut self,
        context: &Context<'_>,
        path: &str,
        data: Option<&[u8]>,
        version: i32,
    ) -> Result<(), ErrorCode> {
        check_path(path, false)?;
        self.check_shard(path)?;
        let mut node = self.node(path).ok_or(ErrorCode::NoNode)?;
        self.permit(context, &node, permission::WRITE)?;
        node.version = next_version(node.version, version)?;
        self.check_point(path, data.map_or(0, <[u8]>::len))?;
        let version = node.version;
        self.put_node(path, Some(node));
        self.record_bytes += path.len() + data.map_or(0, <[u8]>::len);
        let data = data.map(<[u8]>::to_vec);
        self.push(Operation::SetData { path: path.to_owned(), data, version })
    }

    fn set_acl(
        &mut self,
        context: &Context<'_>,
        path: &str,
        acl: &[Acl<'_>],
        version: i32,
    ) -> Result<(), ErrorCode> {
        check_path(path, false)?;
        self.check_shard(path)?;
        let acl = acl::fixup(acl, context.identities).map_err(|_| ErrorCode::InvalidAcl)?;
        let mut node = self.node(path).ok_or(ErrorCode::NoNode)?;
        self.permit(context, &node, permission::ADMIN)?;
        node.aversion = next_version(node.aversion, version)?;
        self.check_point(path, AclEntry::record_bytes(&acl))?;
        node.acl = AclView::Pending(AccessList::of(&acl));
        let version = node.aversion;
        self.put_node(path, Some(node));
        self.record_bytes += path.len() + AclEntry::record_bytes(&acl);
        self.push(Operation::SetAcl { path: path.to_owned(), acl, version })
    }

    fn check(&mut self, context: &Context<'_>, path: &str, version: i32) -> Result<(), ErrorCode> {
        check_path(path, false)?;
        self.check_shard(path)?;
        let node = self.node(path).ok_or(ErrorCode::NoNode)?;
        self.permit(context, &node, permission::READ)?;
        next_version(node.version, version)?;
        self.push(Operation::Check)
    }

    /// Takes a znode without children out of the pending tree.
    pub(super) fn remove(&mut self, path: &str, owner: SessionId) {
        let parent_path = path::parent(path).expect("the root is never removed");
        let mut parent = self.node(parent_path).expect("what exists has a parent");
        parent.children -= 1;
        self.put_node(parent_path, Some(parent));
        self.put_node(path, None);
        if owner != SessionId(0) {
            let mut session = self.attached(owner);
            session.ephemerals -= 1;
            self.put_attached(owner, session);
        }
    }

    fn count_ephemeral(&mut self, session: SessionId) -> Result<(), ErrorCode> {
        if session == SessionId(0) {
            return Err(ErrorCode::BadArguments);
        }
        let mut view = self.attached(session);
        if view.ephemerals == EPHEMERALS_PER_SESSION_MAX {
            return Err(ErrorCode::ThrottledOp);
        }
        view.ephemerals += 1;
        self.put_attached(session, view);
        Ok(())
    }

    fn permit(
        &self,
        context: &Context<'_>,
        node: &NodeView,
        permissions: u32,
    ) -> Result<(), ErrorCode> {
        let is_system = context.session == SessionId(0);
        if is_system || node.access(self.state).permits(context.identities, permissions) {
            Ok(())
        } else {
            Err(ErrorCode::NoAuth)
        }
    }

    /// A path that lives in another shard came here by mistake, or is a point, whose data and ACL
    /// only shard 0 decides.
    fn check_shard(&self, path: &str) -> Result<(), ErrorCode> {
        if self.state.map().shard_of(path) == self.state.shard() {
            Ok(())
        } else {
            Err(ErrorCode::BadArguments)
        }
    }

    /// The data and the list of a point go to every other shard in one record, whichever of them is
    /// changed: each may have half of it.
    fn check_point(&self, path: &str, bytes: usize) -> Result<(), ErrorCode> {
        let is_carried = self.state.map().count() > 1 && is_partition_point(path);
        if is_carried && bytes > POINT_PART_BYTES_MAX {
            Err(ErrorCode::BadArguments)
        } else {
            Ok(())
        }
    }

    /// Adds an operation, unless the record would become too large: `auth` in an ACL can make much
    /// of little, and what is logged must fit.
    pub(super) fn push(&mut self, operation: Operation) -> Result<(), ErrorCode> {
        self.record_bytes += OPERATION_BYTES_MAX;
        if self.record_bytes > RECORD_BYTES_MAX {
            return Err(ErrorCode::BadArguments);
        }
        self.operations.push(operation);
        Ok(())
    }
}

/// ZooKeeper's `checkAndIncVersion`: -1 expects nothing, and is therefore never a version.
fn next_version(current: i32, expected: i32) -> Result<i32, ErrorCode> {
    if expected != -1 && expected != current {
        return Err(ErrorCode::BadVersion);
    }
    match current.wrapping_add(1) {
        -1 => Ok(0),
        next => Ok(next),
    }
}

fn check_path(path: &str, sequential: bool) -> Result<(), ErrorCode> {
    path::check(path, sequential).map_err(|_| ErrorCode::BadArguments)
}

/// The path up to the last `/`, which a sequential name may end with. The root is its own parent
/// here: creating it fails because it exists, after the checks that come before.
fn parent_of_created(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(cut) => &path[..cut],
    }
}

/// An archived operation's fixed part: the tag, three references, an owner, a counter and a flag.
const OPERATION_BYTES_MAX: usize = 48;

/// The transaction's own fields, the entry's header, and what a session adds to a write.
const RECORD_OVERHEAD_BYTES: usize = 512;

/// Data, or an access control list, of a partition point.
const POINT_PART_BYTES_MAX: usize = RECORD_BYTES_MAX / 2 - RECORD_OVERHEAD_BYTES;
