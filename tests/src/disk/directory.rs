//! The snapshot files of one simulated disk: names and contents, each durable or not.
//!
//! What was written is lost in part without power until the file is synced, and every change of a
//! name until the directory is: of those, some first ones are kept, as a journal does. A killed
//! process loses nothing here, because the kernel goes on.

use std::collections::BTreeMap;

use crate::draw::Draw;

#[derive(Default)]
pub struct Directory {
    files: BTreeMap<String, Content>,
    /// Changes of names since the last sync, the oldest first.
    unsynced: Vec<Change>,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    /// So many of them outlive a power cut.
    synced: usize,
}

enum Change {
    Created { name: String },
    Renamed { from: String, to: String, replaced: Option<Content> },
    Removed { name: String, content: Content },
}

impl Directory {
    /// Begins a file anew.
    pub fn create(&mut self, name: &str) {
        self.remove(name);
        self.files.insert(name.to_owned(), Content::default());
        self.unsynced.push(Change::Created { name: name.to_owned() });
    }

    pub fn append(&mut self, name: &str, bytes: &[u8]) {
        let file = self.files.get_mut(name).expect("a file is created before it is written");
        file.bytes.extend_from_slice(bytes);
    }

    pub fn sync_file(&mut self, name: &str) {
        let file = self.files.get_mut(name).expect("a file is written before it is synced");
        file.synced = file.bytes.len();
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let content = self.files.remove(from).expect("a file is written before it is published");
        let replaced = self.files.insert(to.to_owned(), content);
        self.unsynced.push(Change::Renamed { from: from.to_owned(), to: to.to_owned(), replaced });
    }

    pub fn remove(&mut self, name: &str) {
        if let Some(content) = self.files.remove(name) {
            self.unsynced.push(Change::Removed { name: name.to_owned(), content });
        }
    }

    /// Every change of a name so far outlives a power cut.
    pub fn sync(&mut self) {
        self.unsynced.clear();
    }

    pub fn read(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|file| file.bytes.as_slice())
    }

    pub fn names(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes.len() as u64).sum()
    }

    /// Whether a file would be there, and whole, if the power went now.
    pub fn outlives_power(&self, name: &str) -> bool {
        let named = self.unsynced.iter().all(|change| match change {
            Change::Created { name: of } | Change::Removed { name: of, .. } => of != name,
            // What replaces the same content may come back as that.
            Change::Renamed { to, replaced, .. } => to != name || replaced.is_some(),
        });
        named && self.files.get(name).is_some_and(|file| file.synced == file.bytes.len())
    }

    /// The host loses its power.
    pub fn cut_power(&mut self, draw: &mut Draw) {
        let kept = draw.index(self.unsynced.len() + 1);
        for change in self.unsynced.split_off(kept).into_iter().rev() {
            self.undo(change);
        }
        self.unsynced.clear();
        for file in self.files.values_mut() {
            let unsynced = file.bytes.len() - file.synced;
            file.bytes.truncate(file.synced + draw.index(unsynced + 1));
            if file.bytes.len() > file.synced && draw.chance(1, 2) {
                let hole = file.synced + draw.index(file.bytes.len() - file.synced);
                file.bytes[hole..].fill(0);
            }
            file.synced = file.bytes.len();
        }
    }

    /// Some bytes of a file turn to noise.
    pub fn damage(&mut self, name: &str, draw: &mut Draw) {
        let file = self.files.get_mut(name).expect("only what is there is damaged");
        if !file.bytes.is_empty() {
            let place = draw.index(file.bytes.len());
            file.bytes[place] ^= 0x5a;
        }
    }

    fn undo(&mut self, change: Change) {
        match change {
            Change::Created { name } => {
                self.files.remove(&name);
            }
            Change::Renamed { from, to, replaced } => {
                let content = self.files.remove(&to).expect("changes are undone in their order");
                self.files.insert(from, content);
                self.files.extend(replaced.map(|content| (to, content)));
            }
            Change::Removed { name, content } => {
                self.files.insert(name, content);
            }
        }
    }
}
