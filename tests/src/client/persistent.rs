//! A client's persistent watches, and what it is told when it takes watches away or asks for them.
//!
//! A server executes a connection's requests in order, and sends what they fire in order with the
//! replies. So when a reply comes, the client's own table is what the server's was.

use std::collections::BTreeMap;

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::Zxid;
use pigeonhole_core::op::{EventType, WatcherType};

use crate::client::Client;
use crate::history::{Answer, Ask, History, Span, Standing, WatchOn};
use crate::queue::Moment;
use crate::sometimes::{Sometimes, State};

/// The persistent watches that the server knows, each with its place in the history.
#[derive(Default)]
pub(super) struct Persistent {
    plain: BTreeMap<String, usize>,
    recursive: BTreeMap<String, usize>,
}

impl Persistent {
    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.recursive.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn paths(&self, is_recursive: bool) -> Vec<&str> {
        self.of(is_recursive).keys().map(String::as_str).collect()
    }

    /// Whether an event may be theirs.
    pub(super) fn await_event(&self, kind: EventType, path: &str) -> bool {
        let is_below = |top: &String| covers(true, top, kind, path);
        self.plain.contains_key(path) || self.recursive.keys().any(is_below)
    }

    /// They stand on this connection from here on.
    pub(super) fn begin(&self, connection: u64, since: Zxid, now: Moment, history: &mut History) {
        let from = history.heard;
        for &index in self.all() {
            let span = Span::new(connection, since, now, from);
            history.standing[index].spans.push(span);
        }
    }

    /// The connection is lost: nothing more is heard on it.
    pub(super) fn end(&self, history: &mut History) {
        for &index in self.all() {
            end_span(history, index);
        }
    }

    pub(super) fn see(&self, shown: Zxid, history: &mut History) {
        for &index in self.all() {
            if let Some(span) = history.standing[index].spans.last_mut() {
                span.seen = span.seen.max(shown);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &usize> {
        self.plain.values().chain(self.recursive.values())
    }

    fn of(&self, is_recursive: bool) -> &BTreeMap<String, usize> {
        if is_recursive { &self.recursive } else { &self.plain }
    }

    fn of_mut(&mut self, is_recursive: bool) -> &mut BTreeMap<String, usize> {
        if is_recursive { &mut self.recursive } else { &mut self.plain }
    }
}

impl Client {
    /// A request about watches is answered.
    pub(super) fn on_watch_result(
        &mut self,
        ask: &Ask,
        result: &Result<Answer, i32>,
        zxid: Zxid,
        now: Moment,
        history: &mut History,
        sometimes: &mut Sometimes,
    ) {
        match ask {
            Ask::AddWatch { path, is_recursive } => {
                assert!(result.is_ok(), "a watch is added: {result:?}");
                let span = Span::new(self.attempt, zxid, now, history.heard);
                self.add_persistent(path, *is_recursive, span, history);
            }
            Ask::CheckWatches { path, kind } => self.check_known(path, *kind, result),
            Ask::RemoveWatches { path, kind } => {
                self.check_known(path, *kind, result);
                if result.is_ok() {
                    sometimes.hit(State::WatchRemoved);
                }
                self.remove(path, *kind, history);
            }
            _ => {}
        }
    }

    fn add_persistent(
        &mut self,
        path: &str,
        is_recursive: bool,
        span: Span,
        history: &mut History,
    ) {
        let (client, people) = (self.id, self.people());
        let table = self.persistent.of_mut(is_recursive);
        if table.contains_key(path) {
            return;
        }
        table.insert(path.to_owned(), history.standing.len());
        let (path, spans) = (path.to_owned(), vec![span]);
        history.standing.push(Standing { client, people, path, is_recursive, spans });
    }

    /// W7: the server has the watches that the client has. An event that was withheld has used an
    /// ordinary watch up without the client's knowledge.
    fn check_known(&self, path: &str, kind: WatcherType, result: &Result<Answer, i32>) {
        let is_persistent = persistent_of(kind)
            .iter()
            .any(|&is_recursive| self.persistent.of(is_recursive).contains_key(path));
        let mut ordinary = ordinary_of(kind).iter();
        let is_ordinary = ordinary.any(|&on| self.watches.contains_key(&(on, path.to_owned())));
        let is_known = match result {
            Ok(_) => true,
            Err(code) => {
                assert_eq!(*code, ErrorCode::NoWatcher.wire(), "W7: about {kind:?} on {path}");
                false
            }
        };
        // A watch on the children of `/` waits in every shard, and is used up in one after another.
        let is_unclear = path == "/" && !ordinary_of(kind).is_empty();
        assert!(is_known || !is_persistent, "W7: {kind:?} on {path} is not known");
        assert!(
            !is_known || is_persistent || is_ordinary || is_unclear,
            "W7: {kind:?} on {path} is known, and should not be"
        );
    }

    fn remove(&mut self, path: &str, kind: WatcherType, history: &mut History) {
        for &is_recursive in persistent_of(kind) {
            if let Some(index) = self.persistent.of_mut(is_recursive).remove(path) {
                end_span(history, index);
            }
        }
        for &on in ordinary_of(kind) {
            if let Some(index) = self.watches.remove(&(on, path.to_owned())) {
                history.watches[index].until = history.heard;
            }
        }
    }
}

/// Whether a persistent watch hears of an event.
pub(crate) fn covers(is_recursive: bool, top: &str, kind: EventType, path: &str) -> bool {
    if !is_recursive {
        return top == path;
    }
    let below = path.strip_prefix(top);
    let is_inside = below.is_some_and(|it| top == "/" || it.is_empty() || it.starts_with('/'));
    is_inside && kind != EventType::NodeChildrenChanged
}

fn end_span(history: &mut History, index: usize) {
    let heard = history.heard;
    if let Some(span) = history.standing[index].spans.last_mut() {
        span.until = span.until.min(heard);
    }
}

fn persistent_of(kind: WatcherType) -> &'static [bool] {
    match kind {
        WatcherType::Persistent => &[false],
        WatcherType::PersistentRecursive => &[true],
        WatcherType::Any => &[false, true],
        WatcherType::Children | WatcherType::Data => &[],
    }
}

fn ordinary_of(kind: WatcherType) -> &'static [WatchOn] {
    match kind {
        WatcherType::Data => &[WatchOn::Data, WatchOn::Exist],
        WatcherType::Children => &[WatchOn::Child],
        WatcherType::Any => &[WatchOn::Data, WatchOn::Exist, WatchOn::Child],
        WatcherType::Persistent | WatcherType::PersistentRecursive => &[],
    }
}
