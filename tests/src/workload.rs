//! What a swarm's client asks next.

use pigeonhole_core::op::{CreateMode, WatcherType};

use crate::draw::Draw;
use crate::history::Ask;
use crate::people::AccessList;
use crate::queue::Moment;
use crate::swarm::{Kind, Load};

pub struct Workload {
    client: u32,
    load: Load,
    draw: Draw,
    next_at: Moment,
    sent: u64,
}

impl Workload {
    pub fn new(client: u32, load: Load, draw: Draw) -> Self {
        Self { client, load, draw, next_at: Moment(0), sent: 0 }
    }

    /// When the client has thought long enough.
    pub fn next_at(&self, now: Moment) -> Moment {
        self.next_at.max(now)
    }

    /// The next request, if its time has come.
    pub fn next(&mut self, now: Moment) -> Option<Ask> {
        if now < self.next_at {
            return None;
        }
        self.next_at = now + self.draw.tail(self.load.think_us);
        self.sent += 1;
        Some(self.draw_ask())
    }

    fn draw_ask(&mut self) -> Ask {
        let weights = self.load.weights;
        let kind = self.draw.weighted(&weights);
        let watch = self.draw.below(1000) < self.load.watches;
        match kind {
            k if k == Kind::Create as usize => self.create(CreateMode::Persistent),
            k if k == Kind::CreateEphemeral as usize => self.create(CreateMode::Ephemeral),
            k if k == Kind::CreateSequential as usize => {
                let mode = *self
                    .draw
                    .pick(&[CreateMode::PersistentSequential, CreateMode::EphemeralSequential]);
                self.create(mode)
            }
            k if k == Kind::Set as usize => self.set(),
            k if k == Kind::Delete as usize => {
                Ask::Delete { path: self.path(), version: self.version() }
            }
            k if k == Kind::Get as usize => Ask::Get { path: self.path(), watch },
            k if k == Kind::Exists as usize => Ask::Exists { path: self.path(), watch },
            k if k == Kind::Children as usize => Ask::Children { path: self.parent(), watch },
            k if k == Kind::Sync as usize => Ask::Sync { path: self.path() },
            k if k == Kind::SetAcl as usize => self.set_acl(),
            k if k == Kind::GetAcl as usize => Ask::GetAcl { path: self.path() },
            k if k == Kind::MultiRead as usize => self.multi_read(),
            k if k == Kind::CountBelow as usize => Ask::CountBelow { path: self.parent() },
            k if k == Kind::AddWatch as usize => {
                Ask::AddWatch { path: self.top(), is_recursive: self.draw.chance(1, 2) }
            }
            k if k == Kind::RemoveWatches as usize => {
                Ask::RemoveWatches { path: self.top(), kind: *self.draw.pick(&WATCHER_TYPES) }
            }
            k if k == Kind::CheckWatches as usize => {
                Ask::CheckWatches { path: self.top(), kind: *self.draw.pick(&WATCHER_TYPES) }
            }
            k if k == Kind::Ephemerals as usize => Ask::Ephemerals { prefix: self.parent() },
            k if k == Kind::Multi as usize => self.multi(),
            _ => Ask::Close,
        }
    }

    fn create(&mut self, mode: CreateMode) -> Ask {
        let path = if mode.is_sequential() {
            let parent = self.parent();
            let parent = if parent == "/" { String::new() } else { parent };
            format!("{parent}/s-")
        } else {
            self.path()
        };
        Ask::Create { path, data: self.data(), mode }
    }

    fn set(&mut self) -> Ask {
        Ask::Set { path: self.path(), data: self.data(), version: self.version() }
    }

    /// Open more often than not, so that somebody may still do something.
    fn set_acl(&mut self) -> Ask {
        let list = match self.draw.below(2) {
            0 => AccessList::Open,
            _ => *self.draw.pick(&AccessList::ALL),
        };
        Ask::SetAcl { path: self.path(), list, version: self.version() }
    }

    fn multi_read(&mut self) -> Ask {
        let count = self.draw.between(1, 4);
        let part = |workload: &mut Self| match workload.draw.below(2) {
            0 => Ask::Get { path: workload.path(), watch: false },
            _ => Ask::Children { path: workload.parent(), watch: false },
        };
        Ask::MultiRead((0..count).map(|_| part(self)).collect())
    }

    fn multi(&mut self) -> Ask {
        let count = self.draw.between(1, 4);
        let part = |workload: &mut Self| match workload.draw.below(5) {
            0 => workload.create(CreateMode::Persistent),
            1 => workload.set(),
            2 => Ask::Delete { path: workload.path(), version: workload.version() },
            3 => workload.create(CreateMode::Ephemeral),
            _ => Ask::Check { path: workload.path(), version: workload.version() },
        };
        Ask::Multi((0..count).map(|_| part(self)).collect())
    }

    /// Data that no other request carries: so it says whose it is, wherever it turns up. Now and
    /// then it is null.
    fn data(&mut self) -> Option<Vec<u8>> {
        let number = self.draw.number();
        let mut data = format!("{}-{}-{number} ", self.client, self.sent).into_bytes();
        let length = self.draw.log_uniform(1, self.load.data_bytes_max);
        data.resize(data.len() + usize::try_from(length).expect("it is small"), b'.');
        (!number.is_multiple_of(NULL_DATA_EVERY)).then_some(data)
    }

    fn path(&mut self) -> String {
        let top = self.draw.below(self.load.keys);
        match self.draw.below(3) {
            0 => format!("/k{top}"),
            1 => format!("/k{top}/c{}", self.draw.below(4)),
            _ => format!("/k{}", top / 4),
        }
    }

    /// Few paths, so that watches are found again.
    fn top(&mut self) -> String {
        match self.draw.below(4) {
            0 => "/".to_owned(),
            _ => format!("/k{}", self.draw.below(self.load.keys.min(4))),
        }
    }

    fn parent(&mut self) -> String {
        match self.draw.below(4) {
            0 => "/".to_owned(),
            _ => format!("/k{}", self.draw.below(self.load.keys) / 2),
        }
    }

    fn version(&mut self) -> i32 {
        match self.draw.below(4) {
            0 => i32::try_from(self.draw.below(4)).expect("it is small"),
            _ => -1,
        }
    }
}

const WATCHER_TYPES: [WatcherType; 5] = [
    WatcherType::Children,
    WatcherType::Data,
    WatcherType::Any,
    WatcherType::Persistent,
    WatcherType::PersistentRecursive,
];

/// One of so many writes brings null.
const NULL_DATA_EVERY: u64 = 16;
