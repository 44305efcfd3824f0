//! The end of a process in good order.
//!
//! It comes as soon as nobody waits for the process. The engine also lets its log come to rest;
//! here what is not synced may be lost, which has to be as good.

use crate::node::Around;
use crate::process::{Core, Heard, Process};
use crate::queue::Moment;

impl Process {
    /// The process is told to end: it takes in nothing new from clients.
    pub fn stop(&mut self, around: &mut Around<'_>) {
        if self.is_stopping() {
            return;
        }
        self.stop_by = Some(around.queue.now() + STOP_US_MAX);
        for id in self.core_ids() {
            self.hand_over(id, Heard::Stop, around);
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stop_by.is_some()
    }

    /// Whether everything that it was asked before is answered and everything that it led has
    /// another leader, or it has waited for that for long enough.
    pub fn may_end(&self, now: Moment) -> bool {
        self.stop_by.is_some_and(|by| by <= now || self.cores.iter().all(Core::is_finished))
    }
}

impl Core {
    fn is_finished(&self) -> bool {
        let knows = !self.inbox.iter().any(|heard| matches!(heard, Heard::Stop));
        let has_sent =
            self.client_outputs.is_empty() && self.clients.values().all(|socket| !socket.sending);
        knows && has_sent && !self.worker.is_finishing() && !self.worker.is_in_haste()
    }
}

const STOP_US_MAX: u64 = 2_500_000;
