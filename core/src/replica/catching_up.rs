//! A replica that takes long to get what its leader has. Its node takes no clients meanwhile: they
//! would wait here for what other servers have.

use alloc::vec::Vec;

use crate::base::limits::CATCHING_UP_MS_MAX;
use crate::base::time::{Duration, Instant};
use crate::mail::Mail;
use crate::peer::message::PeerState;
use crate::replica::{Deed, Recipient, Replica};

impl Replica {
    /// Tells all cores of this node when it begins to take long, and when it is over.
    pub(super) fn notice_catching_up(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        let learns = matches!(self.peer_state(), PeerState::Following | PeerState::Observing);
        if learns && self.served.is_none() {
            self.learns_since.get_or_insert(now);
        } else {
            self.learns_since = None;
        }
        let is_catching_up = self.takes_long_from().is_some_and(|at| at <= now);
        if self.is_catching_up == is_catching_up {
            return;
        }
        self.is_catching_up = is_catching_up;
        let mail = Mail::CatchingUp { shard: self.shard(), is_catching_up };
        deeds.push(Deed::Mail { to: Recipient::Cores, mail });
    }

    /// Whether it takes long by now.
    pub fn is_catching_up(&self) -> bool {
        self.is_catching_up
    }

    pub(super) fn catching_up_deadline(&self) -> Option<Instant> {
        self.takes_long_from().filter(|_| !self.is_catching_up)
    }

    fn takes_long_from(&self) -> Option<Instant> {
        Some(self.learns_since? + Duration::from_ms(CATCHING_UP_MS_MAX))
    }
}
