//! The end of a core, in good order.
//!
//! First what was asked before is finished, for which the peers must be heard, and others take over
//! what this server leads. When that is so on all cores of the server, what peers go on to send is
//! left alone, so that the log comes to rest. Both have a time after which the core ends anyway.

use std::time::Duration;

use pigeonhole_core::base::time::{self, Instant};
use pigeonhole_core::effect::Input;

use super::Hands;
use crate::mailbox::News;
use crate::ring::Ring;

/// How far a core is that is to stop.
pub(super) struct Stopping {
    finish_by: Instant,
    stop_by: Instant,
    is_deaf: bool,
}

impl Stopping {
    /// What peers say is not taken on any more.
    pub(super) fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    /// When it goes on whatever is left.
    pub(super) fn deadline(&self) -> Instant {
        if self.is_deaf { self.stop_by } else { self.finish_by }
    }
}

impl Hands {
    /// No more connections, and nothing more is read from clients.
    pub(super) fn begin_to_stop(&mut self, ring: &mut Ring) {
        if self.stopping.is_some() {
            return;
        }
        let now = self.now.instant;
        let (finish_by, stop_by) = (now + FINISH_TIME_MAX, now + STOP_TIME_MAX);
        self.stopping = Some(Stopping { finish_by, stop_by, is_deaf: false });
        for listener in self.listeners.drain(..) {
            listener.close(ring);
        }
        self.step(Input::Stopping);
    }

    /// Whether the core may end after this turn.
    pub(super) fn may_stop(&mut self) -> bool {
        let now = self.now.instant;
        let is_finishing = self.worker.is_finishing() || self.worker.is_in_haste();
        let Some(stopping) = &mut self.stopping else {
            return false;
        };
        if !stopping.is_deaf {
            let house = self.post.house();
            let all_finished = house.set_finished(self.core, !is_finishing);
            if !all_finished && now < stopping.finish_by {
                return false;
            }
            stopping.is_deaf = true;
            for core in self.post.others() {
                // They look again whether they may stop.
                house.tell(core, News::Stop);
            }
        }
        let is_at_rest = self.wal.is_idle()
            && self.wal.deadline().is_none()
            && !self.clients.is_sending()
            && self.closed.is_empty();
        is_at_rest || now >= stopping.stop_by
    }
}

/// For what was asked before. Other leaders are found in a fraction of it, unless there is no
/// majority.
const FINISH_TIME_MAX: time::Duration = time::Duration::from_ms(2500);
/// From the request to stop until the last reply is sent.
const STOP_TIME_MAX: time::Duration = time::Duration::from_ms(3000);
/// Until the kernel has let go of everything after that; together less than five seconds.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_millis(1500);
