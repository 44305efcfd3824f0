//! The watches of one shard on one node, and which of them a change fires.
//!
//! As in ZooKeeper there are two tables, data (where existence watches live too) and child. An
//! ordinary watch fires once; a persistent one stays, in both tables; a recursive one stays in the
//! data table and hears of the whole subtree. A connection hears of one change of one path once,
//! however many of its watches match. Firings come in the order of connection ids.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::auth::Identities;
use crate::base::id::{ConnectionId, CoreId, Zxid};
use crate::base::limits::WATCHES_PER_CONNECTION_MAX;
use crate::op::{AddWatchMode, EventType, SetWatches, WatcherType, permission};
use crate::path;
use crate::state::acl::Readers;
use crate::state::apply::Change;
use crate::state::tree::Tree;

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchKind {
    /// Left by getData, and by exists whether or not the znode is there.
    Data,
    /// Left by getChildren.
    Child,
    Persistent,
    PersistentRecursive,
}

/// One event on its way to one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Firing {
    pub connection: ConnectionId,
    pub event: EventType,
    pub path: Arc<str>,
}

/// The connection has as many watches as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyWatches;

/// Every watch of one shard on one node.
#[derive(Default)]
pub struct WatchTable {
    connections: BTreeMap<ConnectionId, Connection>,
    /// Paths are stored once and are numbers everywhere else: most memory goes to watches.
    numbers: BTreeMap<Arc<str>, PathNumber>,
    paths: Vec<WatchedPath>,
    free: Vec<PathNumber>,
    watches: BTreeMap<(PathNumber, ConnectionId), Modes>,
    by_connection: BTreeSet<(ConnectionId, PathNumber)>,
    /// While nobody watches recursively, a change need not look at its path's ancestors.
    recursive_count: usize,
    fired: Vec<ConnectionId>,
}

struct Connection {
    identities: Identities,
    watches_count: usize,
}

struct WatchedPath {
    path: Arc<str>,
    watchers: usize,
}

type PathNumber = u32;

/// The watches of one connection on one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Modes(u8);

impl WatchTable {
    pub fn new() -> Self {
        Self::default()
    }

    /// Who the connection is from now on. Watches are kept only for connections that are known.
    pub fn identify(&mut self, connection: ConnectionId, identities: Identities) {
        self.connections
            .entry(connection)
            .and_modify(|known| known.identities = identities.clone())
            .or_insert_with(|| Connection { identities: identities.clone(), watches_count: 0 });
    }

    /// Leaves a watch. One that is there already is not counted twice; one of a connection that is
    /// closed already is ignored, as in ZooKeeper: nobody would ever remove it.
    pub fn add(
        &mut self,
        connection: ConnectionId,
        path: &str,
        kind: WatchKind,
    ) -> Result<(), TooManyWatches> {
        let Some(known) = self.connections.get_mut(&connection) else {
            return Ok(());
        };
        let added = kind.modes();
        let number = self.numbers.get(path).copied();
        let before = number
            .and_then(|number| self.watches.get(&(number, connection)).copied())
            .unwrap_or(Modes::NONE);
        let more = before.with(added).count() - before.count();
        if known.watches_count + more > WATCHES_PER_CONNECTION_MAX {
            return Err(TooManyWatches);
        }
        known.watches_count += more;
        let number = number.unwrap_or_else(|| self.number_path(path));
        self.change(connection, number, before, before.with(added));
        Ok(())
    }

    /// Whether the connection has such a watch on the path.
    pub fn contains(&self, connection: ConnectionId, path: &str, kind: WatcherType) -> bool {
        self.modes(connection, path).has(Modes::tested_by(kind))
    }

    /// Takes such watches away; tells whether there were any.
    pub fn remove(&mut self, connection: ConnectionId, path: &str, kind: WatcherType) -> bool {
        let before = self.modes(connection, path);
        let removed = Modes::removed_by(kind);
        if !before.has(removed) {
            return false;
        }
        let number = self.numbers[path];
        self.shrink(connection, number, before, before.without(removed));
        true
    }

    pub fn connection_closed(&mut self, connection: ConnectionId) {
        let paths: Vec<_> = self.numbers_of(connection).collect();
        for number in paths {
            let before = self.watches[&(number, connection)];
            self.shrink(connection, number, before, Modes::NONE);
        }
        self.connections.remove(&connection);
    }

    /// Tells what the change fires. An event about a znode that a connection may not read uses its
    /// watch up and is not delivered.
    pub fn fire(&mut self, change: &Change<'_>, firings: &mut Vec<Firing>) {
        let at_node = match change.event {
            EventType::NodeDeleted => Modes::DATA.with(Modes::CHILD),
            EventType::NodeCreated | EventType::NodeDataChanged => Modes::DATA,
            EventType::NodeChildrenChanged => unreachable!("it follows from other changes"),
        };
        self.trigger(change.event, change.path, at_node, change.readers, firings);
        if change.event == EventType::NodeDataChanged {
            return;
        }
        if let Some(parent) = path::parent(change.path) {
            let event = EventType::NodeChildrenChanged;
            self.trigger(event, parent, Modes::CHILD, change.parent_readers, firings);
        }
    }

    /// The watches of a connection that was elsewhere meanwhile: what changed after
    /// `relative_zxid` fires now, the rest waits again. Persistent watches only wait again.
    pub fn set_watches(
        &mut self,
        connection: ConnectionId,
        tree: &Tree,
        set: &SetWatches<'_>,
        firings: &mut Vec<Firing>,
    ) -> Result<(), TooManyWatches> {
        let since = set.relative_zxid;
        for path in &set.data {
            let missed = missed_data(tree, path, since);
            self.set_watch(connection, tree, path, WatchKind::Data, missed, firings)?;
        }
        for path in &set.exist {
            let missed = tree.find(path).map(|_| EventType::NodeCreated);
            self.set_watch(connection, tree, path, WatchKind::Data, missed, firings)?;
        }
        for path in &set.child {
            let missed = missed_children(tree, path, since);
            self.set_watch(connection, tree, path, WatchKind::Child, missed, firings)?;
        }
        for path in &set.persistent {
            self.add(connection, path, WatchKind::Persistent)?;
        }
        for path in &set.persistent_recursive {
            self.add(connection, path, WatchKind::PersistentRecursive)?;
        }
        Ok(())
    }

    /// Watches as `mntr` counts them: those of the data table and those of the child table.
    pub fn count(&self) -> usize {
        self.connections.values().map(|known| known.watches_count).sum()
    }

    /// The watches of one connection, counted likewise.
    pub fn count_of(&self, connection: ConnectionId) -> usize {
        let known = self.connections.get(&connection);
        known.map_or(0, |known| known.watches_count)
    }

    /// Every watching connection with a watched path, by connection.
    pub fn by_connection(&self) -> impl Iterator<Item = (ConnectionId, &str)> {
        self.by_connection.iter().map(|(connection, number)| (*connection, self.path(*number)))
    }

    /// Those of them that watch a znode's data, which are what ZooKeeper's words know of.
    pub fn on_data_by_connection(&self) -> impl Iterator<Item = (ConnectionId, &str)> {
        let watching = self.by_connection.iter().filter(|(connection, number)| {
            self.watches.get(&(*number, *connection)).is_some_and(|it| it.has(Modes::DATA))
        });
        watching.map(|(connection, number)| (*connection, self.path(*number)))
    }

    fn trigger(
        &mut self,
        event: EventType,
        path: &str,
        modes: Modes,
        readers: &Readers,
        firings: &mut Vec<Firing>,
    ) {
        let mut fired = core::mem::take(&mut self.fired);
        fired.clear();
        if let Some(number) = self.numbers.get(path).copied() {
            let watchers = self.watchers(number);
            fired.extend(watchers.filter(|(_, found)| found.has(modes)).map(|(id, _)| id));
            for connection in &fired {
                let before = self.watches[&(number, *connection)];
                let once = Modes::STANDARD.both(modes);
                self.shrink(*connection, number, before, before.without(once));
            }
        }
        if self.recursive_count > 0 && modes.has(Modes::DATA) {
            let mut ancestor = path::parent(path);
            while let Some(path) = ancestor {
                if let Some(number) = self.numbers.get(path) {
                    let watchers = self.watchers(*number);
                    let recursive = watchers.filter(|(_, found)| found.has(Modes::RECURSIVE));
                    fired.extend(recursive.map(|(id, _)| id));
                }
                ancestor = path::parent(path);
            }
            fired.sort_unstable();
            fired.dedup();
        }
        let mut shared: Option<Arc<str>> = None;
        for connection in &fired {
            if readers.include(&self.connections[connection].identities) {
                let path = shared.get_or_insert_with(|| Arc::from(path));
                firings.push(Firing { connection: *connection, event, path: Arc::clone(path) });
            }
        }
        self.fired = fired;
    }

    fn set_watch(
        &mut self,
        connection: ConnectionId,
        tree: &Tree,
        path: &str,
        kind: WatchKind,
        missed: Option<EventType>,
        firings: &mut Vec<Firing>,
    ) -> Result<(), TooManyWatches> {
        let Some(event) = missed else {
            return self.add(connection, path, kind);
        };
        let Some(known) = self.connections.get(&connection) else {
            return Ok(());
        };
        // Without this check, a reconnect would tell of znodes that the client may not read.
        let may_read = tree
            .find(path)
            .is_none_or(|node| tree.access(node).permits(&known.identities, permission::READ));
        if may_read {
            firings.push(Firing { connection, event, path: Arc::from(path) });
        }
        Ok(())
    }

    fn modes(&self, connection: ConnectionId, path: &str) -> Modes {
        self.numbers
            .get(path)
            .and_then(|number| self.watches.get(&(*number, connection)))
            .copied()
            .unwrap_or(Modes::NONE)
    }

    fn path(&self, number: PathNumber) -> &str {
        &self.paths[index(number)].path
    }

    fn watchers(&self, number: PathNumber) -> impl Iterator<Item = (ConnectionId, Modes)> {
        self.watches
            .range((number, FIRST_CONNECTION)..=(number, LAST_CONNECTION))
            .map(|((_, connection), modes)| (*connection, *modes))
    }

    fn numbers_of(&self, connection: ConnectionId) -> impl Iterator<Item = PathNumber> {
        self.by_connection
            .range((connection, PathNumber::MIN)..=(connection, PathNumber::MAX))
            .map(|(_, number)| *number)
    }

    fn number_path(&mut self, path: &str) -> PathNumber {
        let watched = WatchedPath { path: Arc::from(path), watchers: 0 };
        let shared = Arc::clone(&watched.path);
        let number = match self.free.pop() {
            Some(number) => {
                self.paths[index(number)] = watched;
                number
            }
            None => {
                self.paths.push(watched);
                PathNumber::try_from(self.paths.len() - 1).expect("memory ends before the numbers")
            }
        };
        self.numbers.insert(shared, number);
        number
    }

    /// Takes modes away, and what only existed for them.
    fn shrink(
        &mut self,
        connection: ConnectionId,
        number: PathNumber,
        before: Modes,
        after: Modes,
    ) {
        let known = self.connections.get_mut(&connection);
        let known = known.expect("only known connections have watches");
        known.watches_count -= before.count() - after.count();
        self.change(connection, number, before, after);
    }

    fn change(
        &mut self,
        connection: ConnectionId,
        number: PathNumber,
        before: Modes,
        after: Modes,
    ) {
        let was_recursive = usize::from(before.has(Modes::RECURSIVE));
        let is_recursive = usize::from(after.has(Modes::RECURSIVE));
        self.recursive_count = self.recursive_count + is_recursive - was_recursive;
        let watched = &mut self.paths[index(number)];
        if after == Modes::NONE {
            self.watches.remove(&(number, connection));
            self.by_connection.remove(&(connection, number));
            watched.watchers -= 1;
            if watched.watchers == 0 {
                self.numbers.remove(&*watched.path);
                self.free.push(number);
            }
        } else {
            self.watches.insert((number, connection), after);
            if before == Modes::NONE {
                self.by_connection.insert((connection, number));
                watched.watchers += 1;
            }
        }
    }
}

impl From<AddWatchMode> for WatchKind {
    fn from(mode: AddWatchMode) -> Self {
        match mode {
            AddWatchMode::Persistent => Self::Persistent,
            AddWatchMode::PersistentRecursive => Self::PersistentRecursive,
        }
    }
}

impl WatchKind {
    fn modes(self) -> Modes {
        match self {
            Self::Data => Modes::DATA_STANDARD,
            Self::Child => Modes::CHILD_STANDARD,
            Self::Persistent => Modes::PERSISTENT,
            Self::PersistentRecursive => Modes::RECURSIVE,
        }
    }
}

impl Modes {
    const NONE: Self = Self(0);
    const DATA_STANDARD: Self = Self(1);
    const DATA_PERSISTENT: Self = Self(2);
    const RECURSIVE: Self = Self(4);
    const CHILD_STANDARD: Self = Self(8);
    /// The data table's bit and, as 16, the child table's.
    const PERSISTENT: Self = Self(2 | 16);
    const DATA: Self = Self(1 | 2 | 4);
    const CHILD: Self = Self(8 | 16);
    const STANDARD: Self = Self(1 | 8);
    const ANY: Self = Self(31);

    /// What `checkWatches` looks at.
    fn tested_by(kind: WatcherType) -> Self {
        match kind {
            WatcherType::Persistent => Self::DATA_PERSISTENT,
            other => Self::removed_by(other),
        }
    }

    /// What `removeWatches` takes away.
    fn removed_by(kind: WatcherType) -> Self {
        match kind {
            WatcherType::Children => Self::CHILD_STANDARD,
            WatcherType::Data => Self::DATA_STANDARD,
            WatcherType::Persistent => Self::PERSISTENT,
            WatcherType::PersistentRecursive => Self::RECURSIVE,
            WatcherType::Any => Self::ANY,
        }
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// One for each table that these watches stand in, as ZooKeeper counts.
    fn count(self) -> usize {
        usize::from(self.has(Self::DATA)) + usize::from(self.has(Self::CHILD))
    }
}

fn missed_data(tree: &Tree, path: &str, since: Zxid) -> Option<EventType> {
    match tree.find(path).map(|node| tree.stat(node)) {
        None => Some(EventType::NodeDeleted),
        Some(stat) if stat.mzxid > since => Some(EventType::NodeDataChanged),
        Some(_) => None,
    }
}

fn missed_children(tree: &Tree, path: &str, since: Zxid) -> Option<EventType> {
    match tree.find(path).map(|node| tree.stat(node)) {
        None => Some(EventType::NodeDeleted),
        Some(stat) if stat.pzxid > since => Some(EventType::NodeChildrenChanged),
        Some(_) => None,
    }
}

fn index(number: PathNumber) -> usize {
    usize::try_from(number).expect("an index fits")
}

const FIRST_CONNECTION: ConnectionId = ConnectionId { core: CoreId(0), slot: 0, generation: 0 };

const LAST_CONNECTION: ConnectionId =
    ConnectionId { core: CoreId(u8::MAX), slot: u32::MAX, generation: u32::MAX };
