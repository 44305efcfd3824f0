//! A client that writes one znode after another and finds a server again whenever it loses one.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::client::wire::{self, Session};
use crate::client::{Client, wire::NODE_EXISTS};
use crate::cluster::pause;
use crate::error::BenchError;

/// A write that the server has acknowledged.
pub(super) struct Ack {
    pub(super) writer: u32,
    pub(super) sequence: u32,
    pub(super) sent: Instant,
    pub(super) received: Instant,
}

/// The znode that holds a writer's znodes.
pub(super) fn parent_path(writer: u32) -> String {
    format!("/failover-{writer}")
}

pub(super) fn path(writer: u32, sequence: u32) -> String {
    format!("/failover-{writer}/write-{sequence}")
}

/// Creates znodes with rising numbers until told to stop. A create whose outcome is unknown is sent
/// again; if it finds its znode there, then it has been acknowledged too.
pub(super) fn write_until_stopped(
    writer: u32,
    servers: &[SocketAddr],
    stop: &AtomicBool,
    acks: &Sender<Ack>,
) {
    let mut reach = Reach { servers, next: usize::try_from(writer).unwrap_or(0), session: None };
    let mut client = None;
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(mut connected) = client.take().or_else(|| reach.connect()) else {
            pause(BACK_OFF);
            continue;
        };
        let sent = Instant::now();
        match connected.create(&path(writer, sequence), b"") {
            Ok(wire::OK | NODE_EXISTS) => {
                let ack = Ack { writer, sequence, sent, received: Instant::now() };
                if acks.send(ack).is_err() {
                    return;
                }
                sequence += 1;
                client = Some(connected);
            }
            // A refusal (the server has just lost its leader, say) leaves the connection usable,
            // but a client would look for a better server.
            Ok(_) | Err(_) => reach.session = Some(connected.detach()),
        }
    }
    if let Some(client) = client {
        // A session left open is only a session to time out.
        let _ = client.close();
    }
}

/// The way back to some server.
struct Reach<'a> {
    servers: &'a [SocketAddr],
    next: usize,
    /// What re-attaching takes: the session and the newest zxid seen.
    session: Option<(Session, i64)>,
}

impl Reach<'_> {
    /// Tries one server, the next one each time.
    fn connect(&mut self) -> Option<Client> {
        let server = self.servers[self.next % self.servers.len()];
        self.next += 1;
        let (session, last_zxid) = self.session.unwrap_or_default();
        match Client::attach(server, session, last_zxid, PATIENCE) {
            Ok(client) => Some(client),
            Err(error) => {
                if matches!(error, BenchError::SessionExpired) {
                    self.session = None;
                }
                None
            }
        }
    }
}

/// Real clients wait longer; a short wait measures the servers and not the client.
const BACK_OFF: Duration = Duration::from_millis(5);
/// Far above any answer of a healthy server, and below the session timeout.
const PATIENCE: Duration = Duration::from_secs(5);
