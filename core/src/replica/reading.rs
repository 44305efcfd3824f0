//! Reads, and what watches do beside them: executed by this node's replica on committed state.

use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;

use crate::auth::Identities;
use crate::base::error::ErrorCode;
use crate::base::id::{ConnectionId, CoreId, SessionId, Zxid};
use crate::base::limits::{FORWARDS_WAITING_MAX, RESPONSE_BYTES_MAX, WATCHES_PER_REQUEST};
use crate::base::met::Limit;
use crate::base::time::{Instant, Now};
use crate::mail::{Mail, Outcome, Reader, Ticket};
use crate::op::{Acl, OpCode, Request, WatcherType, permission};
use crate::replica::{Deed, Recipient, Replica, Share};
use crate::state::acl::masked;
use crate::state::tree::NodeId;
use crate::state::watch::WatchKind;
use crate::txn::AclEntry;
use crate::wire::reply;
use crate::wire::request::parse_request;

/// A read, and who wants its answer.
pub(super) struct Read {
    pub(super) core: CoreId,
    pub(super) ticket: Ticket,
    pub(super) reader: Reader,
    pub(super) op_code: i32,
    pub(super) body: Vec<u8>,
}

/// Reads that came, after a start, before anybody had said what is committed.
#[derive(Default)]
pub(super) struct EarlyReads {
    reads: Vec<Read>,
    body_bytes: usize,
}

impl EarlyReads {
    fn push(&mut self, read: Read) {
        self.body_bytes += read.body.len();
        self.reads.push(read);
    }

    /// Those of a connection that has ended.
    pub(super) fn remove(&mut self, connection: ConnectionId) -> Vec<Read> {
        let all = core::mem::take(self).reads;
        let (ended, others) = all.into_iter().partition(|it| it.reader.connection == connection);
        for read in others {
            self.push(read);
        }
        ended
    }

    pub(super) fn readers(&mut self) -> impl Iterator<Item = &mut Reader> {
        self.reads.iter_mut().map(|read| &mut read.reader)
    }
}

impl Replica {
    /// The zxid of the state that a read executed now reflects.
    pub fn applied(&self) -> Zxid {
        self.state.applied()
    }

    /// Executes a read and appends the reply's body; on a refusal nothing is appended.
    ///
    /// Events that follow from it (only setWatches has such) go out before its reply.
    pub fn read(
        &mut self,
        reader: &Reader,
        request: &Request<'_>,
        body: &mut Vec<u8>,
        deeds: &mut Vec<Deed>,
    ) -> Result<(), ErrorCode> {
        let start = body.len();
        let end = start + RESPONSE_BYTES_MAX;
        let mut result = self.read_into(reader, request, body, end, deeds);
        if body.len() > end {
            result = Err(ErrorCode::MarshallingError);
        }
        if let Err(code) = result {
            body.truncate(start);
            match code {
                ErrorCode::ThrottledOp => self.met.note(Limit::WatchesPerConnection),
                ErrorCode::MarshallingError => {
                    self.met.note(Limit::ResponseBytes);
                    // Refusals may wait by the thousand, each with the memory of what was made.
                    body.shrink_to_fit();
                }
                _ => {}
            }
        }
        result
    }

    /// Whether this replica knows how old its state is.
    pub fn is_current(&self) -> bool {
        self.is_current
    }

    /// A read that was asked on another core, or that had to wait for something.
    pub(super) fn on_read_asked(&mut self, now: Now, read: Read, deeds: &mut Vec<Deed>) {
        if self.is_too_old(now.instant) {
            self.give_up_read(&read, deeds);
        } else if self.is_current {
            self.on_read(&read, deeds);
        } else if self.early_reads.reads.len() < FORWARDS_WAITING_MAX
            && self.early_reads.body_bytes < self.waiting_bytes_max()
        {
            self.early_reads.push(read);
        } else {
            self.met.note(Limit::ForwardsWaiting);
            self.give_up_read(&read, deeds);
        }
    }

    /// Executes what was read too early as soon as it is not too early any more.
    pub(super) fn notice_currency(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        self.is_current |= self.served.is_some();
        if !self.is_current && !self.is_too_old(now) {
            return;
        }
        for read in core::mem::take(&mut self.early_reads).reads {
            if self.is_current {
                self.on_read(&read, deeds);
            } else {
                self.give_up_read(&read, deeds);
            }
        }
    }

    /// Whether it has been without a leader for so long that nobody knows how old its state is.
    pub fn is_too_old(&self, now: Instant) -> bool {
        self.leaderless_for(now) > self.config.periods.sync_limit
    }

    pub(super) fn give_up_read(&mut self, read: &Read, deeds: &mut Vec<Deed>) {
        let applied = self.state.applied();
        self.answer(read.core, read.ticket, applied, Outcome::Unknown, deeds);
    }

    fn on_read(&mut self, read: &Read, deeds: &mut Vec<Deed>) {
        let Read { reader, op_code, body, .. } = read;
        let mut reply_body = Vec::new();
        let mut operations = 1;
        let code = match parse_request(*op_code, body) {
            Ok(request) => {
                if let Request::SetWatches(set) = &request {
                    operations = set.count() / WATCHES_PER_REQUEST;
                }
                self.read(reader, &request, &mut reply_body, deeds).err().unwrap_or(ErrorCode::Ok)
            }
            Err(_) => ErrorCode::MarshallingError,
        };
        // A reply that turned out to be too large was made all the same.
        let makes_much = code == ErrorCode::MarshallingError
            || OpCode::from_wire(*op_code).is_some_and(OpCode::makes_much_of_little);
        let bytes = body.len() + reply_body.len();
        let weight = if makes_much { usize::MAX } else { Share::weight(bytes, operations) };
        self.read_weight = self.read_weight.saturating_add(weight);
        let outcome = Outcome::Reply { code, body: reply_body };
        self.answer(read.core, read.ticket, self.state.applied(), outcome, deeds);
    }

    /// Where the body reaches beyond `end` the reply is too large, and what lists much stops there.
    fn read_into(
        &mut self,
        reader: &Reader,
        request: &Request<'_>,
        body: &mut Vec<u8>,
        end: usize,
        deeds: &mut Vec<Deed>,
    ) -> Result<(), ErrorCode> {
        match request {
            Request::GetData { path, watch } => self.read_data(reader, path, *watch, body),
            Request::Exists { path, watch } => self.exists(reader, path, *watch, body),
            Request::GetChildren { path, watch, with_stat } => {
                self.read_children(reader, path, *watch, *with_stat, body, end)
            }
            Request::GetAcl { path } => self.read_acl(reader, path, body),
            Request::MultiRead(reads) => self.multi_read(reader, reads, body, end, deeds),
            Request::SetWatches(_)
            | Request::AddWatch { .. }
            | Request::CheckWatches { .. }
            | Request::RemoveWatches { .. } => self.on_watch_request(reader, request, body, deeds),
            Request::GetEphemerals { prefix } => {
                self.list_ephemerals(reader.session, prefix, body, end)
            }
            Request::GetAllChildrenNumber { path } => {
                let node = self.find(path)?;
                self.check(node, &reader.identities, permission::READ)?;
                let count = self.state.tree().descendants_count(node);
                reply::number(body, i32::try_from(count).unwrap_or(i32::MAX));
                Ok(())
            }
            _ => Err(ErrorCode::Unimplemented),
        }
    }

    fn read_data(
        &mut self,
        reader: &Reader,
        path: &str,
        watch: bool,
        body: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let node = self.find(path)?;
        self.check(node, &reader.identities, permission::READ)?;
        self.watch_if(watch, reader, path, WatchKind::Data)?;
        let tree = self.state.tree();
        reply::data(body, tree.data(node));
        reply::stat(body, &tree.stat(node));
        Ok(())
    }

    fn exists(
        &mut self,
        reader: &Reader,
        path: &str,
        watch: bool,
        body: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let found = self.state.tree().find(path);
        if let Some(node) = found {
            self.check(node, &reader.identities, permission::READ)?;
        }
        self.watch_if(watch, reader, path, WatchKind::Data)?;
        let node = found.ok_or(ErrorCode::NoNode)?;
        reply::stat(body, &self.state.tree().stat(node));
        Ok(())
    }

    fn read_children(
        &mut self,
        reader: &Reader,
        path: &str,
        watch: bool,
        with_stat: bool,
        body: &mut Vec<u8>,
        end: usize,
    ) -> Result<(), ErrorCode> {
        let node = self.find(path)?;
        self.check(node, &reader.identities, permission::READ)?;
        self.watch_if(watch, reader, path, WatchKind::Child)?;
        let tree = self.state.tree();
        put_texts(body, end, tree.children(node).map(|child| tree.name(child)))?;
        if with_stat {
            reply::stat(body, &tree.stat(node));
        }
        Ok(())
    }

    fn read_acl(
        &mut self,
        reader: &Reader,
        path: &str,
        body: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let node = self.find(path)?;
        self.check(node, &reader.identities, permission::READ | permission::ADMIN)?;
        let tree = self.state.tree();
        let acl = tree.acl(node);
        if tree.access(node).permits(&reader.identities, permission::ADMIN) {
            put_acl(body, acl);
        } else {
            put_acl(body, &masked(acl));
        }
        reply::stat(body, &tree.stat(node));
        Ok(())
    }

    /// Every operation has a result of its own. Behind the first that the reply has no room for
    /// none is executed, and all get its answer: otherwise a small request could have the largest
    /// list made for each of its operations.
    fn multi_read(
        &mut self,
        reader: &Reader,
        reads: &[Request<'_>],
        body: &mut Vec<u8>,
        end: usize,
        deeds: &mut Vec<Deed>,
    ) -> Result<(), ErrorCode> {
        let mut is_full = false;
        for read in reads {
            if is_full {
                reply::multi_error(body, ErrorCode::MarshallingError);
                continue;
            }
            let at = body.len();
            let code = match read {
                Request::GetData { .. } => OpCode::GetData,
                Request::GetChildren { .. } => OpCode::GetChildren,
                _ => return Err(ErrorCode::MarshallingError),
            };
            reply::multi_result(body, code);
            let result = self.read_into(reader, read, body, end, deeds);
            is_full = body.len() > end;
            let result = if is_full { Err(ErrorCode::MarshallingError) } else { result };
            if let Err(error) = result {
                body.truncate(at);
                reply::multi_error(body, error);
            }
        }
        reply::multi_end(body);
        if is_full {
            self.met.note(Limit::ResponseBytes);
            body.shrink_to_fit();
        }
        Ok(())
    }

    fn on_watch_request(
        &mut self,
        reader: &Reader,
        request: &Request<'_>,
        body: &mut Vec<u8>,
        deeds: &mut Vec<Deed>,
    ) -> Result<(), ErrorCode> {
        let connection = reader.connection;
        match request {
            Request::SetWatches(set) => {
                self.watches.identify(connection, reader.watcher().clone());
                let tree = self.state.tree();
                let fits = self.watches.set_watches(connection, tree, set, &mut self.firings);
                let zxid = self.state.applied();
                self.send_firings(zxid, deeds);
                fits.map_err(|_| ErrorCode::ThrottledOp)
            }
            Request::AddWatch { path, mode } => {
                self.watch_if(true, reader, path, WatchKind::from(*mode))?;
                reply::number(body, 0);
                Ok(())
            }
            Request::CheckWatches { path, kind } => self.has_watch(reader, path, *kind),
            Request::RemoveWatches { path, kind } => {
                self.has_watch(reader, path, *kind)?;
                self.watches.remove(connection, path, *kind);
                Ok(())
            }
            _ => Err(ErrorCode::Unimplemented),
        }
    }

    /// Sends the events of one change.
    pub(super) fn send_firings(&mut self, zxid: Zxid, deeds: &mut Vec<Deed>) {
        let shard = self.shard();
        let from = deeds.len();
        let mut later = BTreeSet::new();
        for firing in self.firings.drain(..).rev() {
            let connection = firing.connection;
            let is_last = later.insert(connection);
            let path = firing.path.to_string();
            let event = firing.event;
            let mail = Mail::Event { shard, connection, zxid, is_last, event, path };
            deeds.push(Deed::Mail { to: Recipient::Core(connection.core), mail });
        }
        deeds[from..].reverse();
    }

    fn has_watch(&self, reader: &Reader, path: &str, kind: WatcherType) -> Result<(), ErrorCode> {
        let known = self.watches.contains(reader.connection, path, kind);
        if known { Ok(()) } else { Err(ErrorCode::NoWatcher) }
    }

    fn watch_if(
        &mut self,
        watch: bool,
        reader: &Reader,
        path: &str,
        kind: WatchKind,
    ) -> Result<(), ErrorCode> {
        if !watch {
            return Ok(());
        }
        self.watches.identify(reader.connection, reader.watcher().clone());
        self.watches.add(reader.connection, path, kind).map_err(|_| ErrorCode::ThrottledOp)
    }

    fn list_ephemerals(
        &self,
        session: SessionId,
        prefix: &str,
        body: &mut Vec<u8>,
        end: usize,
    ) -> Result<(), ErrorCode> {
        let attached = self.state.sessions().attached(session);
        let paths = attached.into_iter().flat_map(|attached| attached.ephemerals());
        put_texts(body, end, paths.filter(|path| path.starts_with(prefix)))
    }

    fn find(&self, path: &str) -> Result<NodeId, ErrorCode> {
        self.state.tree().find(path).ok_or(ErrorCode::NoNode)
    }

    fn check(
        &self,
        node: NodeId,
        identities: &Identities,
        permissions: u32,
    ) -> Result<(), ErrorCode> {
        let allowed = self.state.tree().access(node).permits(identities, permissions);
        if allowed { Ok(()) } else { Err(ErrorCode::NoAuth) }
    }
}

/// Appends a list, and gives up as soon as it reaches beyond `end`.
fn put_texts<'a>(
    body: &mut Vec<u8>,
    end: usize,
    texts: impl Iterator<Item = &'a str>,
) -> Result<(), ErrorCode> {
    let mut list = reply::begin_vector(body);
    for text in texts {
        reply::push_string(body, &mut list, text);
        if body.len() > end {
            return Err(ErrorCode::MarshallingError);
        }
    }
    reply::finish_vector(body, list);
    Ok(())
}

fn put_acl(body: &mut Vec<u8>, acl: &[AclEntry]) {
    let mut entries = reply::begin_vector(body);
    for entry in acl {
        let entry = Acl { permissions: entry.permissions, scheme: &entry.scheme, id: &entry.id };
        reply::push_acl(body, &mut entries, &entry);
    }
    reply::finish_vector(body, entries);
}
