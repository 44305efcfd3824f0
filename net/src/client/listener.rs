//! The listening ports: bound once for the whole node, accepted on one core, served on all.
//!
//! One accepting core hands connections to the core with the fewest. Nothing shares the port, so
//! a second server on the same port fails at its start instead of taking half of the clients.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use pigeonhole_core::base::time::{Duration, Instant};

use crate::os::{self, ListenOptions};
use crate::patience::{LastTime, ask_until};
use crate::ring::{Operation, Ring};
use crate::subject::Subject;

/// A port that is being accepted on.
pub(crate) struct Listener {
    socket: OwnedFd,
    subject: Subject,
    accepting: Option<Operation>,
    /// Accepting failed for want of descriptors or memory: not before then again.
    rest_until: Option<Instant>,
}

impl Listener {
    pub(crate) fn new(socket: OwnedFd, subject: Subject) -> Self {
        Self { socket, subject, accepting: None, rest_until: None }
    }

    pub(crate) fn subject(&self) -> Subject {
        self.subject
    }

    /// The kernel has accepted, or failed to; `armed` says whether it goes on.
    pub(crate) fn on_accept(&mut self, error: Option<&io::Error>, armed: bool, now: Instant) {
        if !armed {
            self.accepting = None;
        }
        if let Some(error) = error
            && !armed
        {
            let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
            if error.raw_os_error().is_some_and(|errno| short.contains(&errno)) {
                tracing::warn!("cannot accept a connection: {error}");
                self.rest_until = Some(now + REST);
            }
        }
    }

    /// Accepts again if it should.
    pub(crate) fn settle(&mut self, ring: &mut Ring, now: Instant) {
        if self.rest_until.is_some_and(|until| now >= until) {
            self.rest_until = None;
        }
        if self.accepting.is_none() && self.rest_until.is_none() {
            let token = self.subject.token(0);
            self.accepting = Some(ring.accept(self.socket.as_fd(), token));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.rest_until
    }

    /// Accepts no more; who waits to be accepted is refused.
    pub(crate) fn close(self, ring: &mut Ring) {
        ring.close(self.socket);
    }
}

/// Binds a port. The one of a process that was just killed may still be taken for a moment.
pub(crate) fn bind(address: SocketAddr, backlog: Option<u32>) -> io::Result<OwnedFd> {
    let wanted = backlog.unwrap_or(BACKLOG);
    let backlog = u16::try_from(wanted).unwrap_or(u16::MAX);
    let options = ListenOptions { reuse_port: false, backlog };
    ask_until(BIND_TIME_MAX, |LastTime(last)| match os::listen(address, options) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !last => None,
        outcome => Some(outcome),
    })
}

const BACKLOG: u32 = 1024;
const BIND_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// Descriptors become free when somebody else closes one; nothing tells when.
const REST: Duration = Duration::from_ms(100);
