//! The entries that say whose disks count, and the room that is left on this server's own.

use alloc::vec::Vec;

use crate::base::error::ErrorCode;
use crate::base::time::Now;
use crate::entry::{Entry, EntryKind};
use crate::peer::message::{Forward, WriteAsk};
use crate::replica::{Deed, Replica};
use crate::txn::{Admission, Admissions};
use crate::zab::admission;

impl Replica {
    /// The disk is almost full, or has room again.
    ///
    /// A leader without room takes no writes, and hands over to somebody who has room once what it
    /// has logged is settled. If nobody has, it goes on leading, because reads and living sessions
    /// need a leader.
    pub fn on_disk_space(&mut self, now: Now, is_low: bool, deeds: &mut Vec<Deed>) {
        self.zab.set_disk_low(is_low);
        self.settle(now, deeds);
    }

    /// Whether a write must be refused because there is no room for it. What ends, moves or shrinks
    /// something is still taken: there is a reserve for it.
    pub(super) fn has_no_room_for(&self, forward: &Forward) -> bool {
        let grows = matches!(forward.ask, WriteAsk::Client { .. } | WriteAsk::SessionCreate { .. });
        grows && self.zab.is_disk_low()
    }

    /// The client hears an error that every client library knows.
    pub(super) const NO_ROOM: ErrorCode = ErrorCode::SystemError;

    pub(super) fn on_admission(&mut self, entry: &Entry) {
        let disks = admission::named(entry);
        self.state.admit(entry.zxid(), &disks);
        let admitted = self.state.admitted();
        self.zab.set_admitted(admitted, entry.zxid(), &mut self.actions);
        if let Some(reign) = &mut self.reign {
            reign.is_admission_proposed = false;
        }
    }

    /// Has disks admitted that are synchronized and not known yet, one entry at a time.
    pub(super) fn propose_due_admissions(&mut self) {
        if !self.zab.is_admission_due() {
            return;
        }
        // A reign begins when everything inherited is applied: no disk seems unknown that is not.
        let Some(reign) = &mut self.reign else {
            return;
        };
        if reign.is_admission_proposed {
            return;
        }
        let disks = self.zab.disks_to_admit();
        if disks.is_empty() {
            return;
        }
        reign.is_admission_proposed = true;
        let voters =
            disks.iter().map(|&(server, disk)| Admission { server: server.0, disk: disk.0 });
        let admissions = Admissions { voters: voters.collect() };
        let payload = admissions.to_bytes();
        let kind = EntryKind::Admission;
        self.zab.propose(kind, &payload, &mut self.actions);
    }
}
