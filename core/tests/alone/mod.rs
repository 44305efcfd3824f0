//! A worker alone: a shard with one voter, a disk that is always done, a client that speaks bytes.

#![allow(dead_code, reason = "every test binary uses its own part")]

#[path = "../ordinary/mod.rs"]
pub(crate) mod ordinary;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use pigeonhole_core::auth::Identities;
use pigeonhole_core::base::id::{ConnectionId, CoreId, Sequence, ServerId, SessionId, ShardId};
use pigeonhole_core::base::limits::{FRAME_BYTES_MAX, PATH_BYTES_MAX};
use pigeonhole_core::base::time::{Duration, Instant, Now};
use pigeonhole_core::durable::{Durable, LogMark};
use pigeonhole_core::effect::{Crowd, Effect, Effects, Input};
use pigeonhole_core::gateway::{ClientLimits, Parting};
use pigeonhole_core::mail::{Ask, Mail, Reader, Ticket, What};
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, OpCode, Request, permission};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::wire::client::{self, MultiResult};
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::log::Restored;

pub(crate) const CONNECTION: ConnectionId =
    ConnectionId { core: CoreId(0), slot: 0, generation: 1 };

/// A connection of another core.
pub(crate) const AFAR: ConnectionId = ConnectionId { core: CoreId(1), ..CONNECTION };

pub(crate) struct Alone {
    pub(crate) worker: Worker,
    pub(crate) effects: Effects,
    pub(crate) now: Now,
    pub(crate) received: Vec<u8>,
    /// To other cores, which there are none of.
    pub(crate) mail: Vec<(CoreId, Mail)>,
    /// Why the last connection was closed.
    pub(crate) parted: Option<Parting>,
    pub(crate) expired: Vec<SessionId>,
}

impl Alone {
    pub(crate) fn new(shards: u16) -> Self {
        let map = ShardMap::new(shards);
        let config = WorkerConfig {
            client: ClientLimits {
                frame_bytes_max: FRAME_BYTES_MAX,
                connections_per_address_max: 60,
                connections_max: 100,
                writes_outstanding_max: 1000,
            },
            ..ordinary::config(ServerId(1), [ServerId(1)], map)
        };
        let restored = map.shards().map(|shard| (State::new(shard, map), Restored::nothing(shard)));
        let now = Now { instant: Instant(1_000_000), wall_ms: 1_700_000_000_000 };
        let mut effects = Effects::new();
        let worker = Worker::new(config, restored.collect(), now, &mut effects);
        let mut alone = Self::around(worker, effects, now);
        alone.settle();
        alone
    }

    pub(crate) fn around(worker: Worker, effects: Effects, now: Now) -> Self {
        let (received, mail, expired) = (vec![], vec![], vec![]);
        Self { worker, effects, now, received, mail, parted: None, expired }
    }

    pub(crate) fn settle(&mut self) {
        loop {
            self.worker.step(self.now, Input::TurnEnd { share: usize::MAX }, &mut self.effects);
            let effects: Vec<Effect> = self.effects.drain().collect();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Append(append) => {
                        self.sync(append.shard, append.sequence);
                    }
                    Effect::ClientOutput { connection } => {
                        if let Some(output) = self.worker.client_output(connection) {
                            self.received.append(output);
                        }
                    }
                    Effect::ClientClose { connection, why, .. } => {
                        if let Some(output) = self.worker.client_output(connection) {
                            self.received.append(output);
                        }
                        self.parted = Some(why);
                        let closed = Input::ClientClosed { connection };
                        self.worker.step(self.now, closed, &mut self.effects);
                    }
                    Effect::SessionExpired { session, .. } => self.expired.push(session),
                    Effect::Mail { to, mail } => self.mail.push((to, mail)),
                    _ => {}
                }
            }
        }
    }

    /// What each turn comes to until nothing is left to be done in haste.
    pub(crate) fn turns(&mut self, mut result: impl FnMut(&mut Self) -> usize) -> Vec<usize> {
        let mut results = vec![];
        loop {
            self.worker.step(self.now, Input::TurnEnd { share: 60 }, &mut self.effects);
            results.push(result(self));
            if !self.worker.is_in_haste() {
                return results;
            }
        }
    }

    pub(crate) fn advance(&mut self, milliseconds: u64) {
        let end = self.now.instant + Duration::from_ms(milliseconds);
        while let Some(at) = self.worker.deadline(self.now.instant).filter(|&at| at <= end) {
            self.now.instant = at.max(self.now.instant);
            self.worker.step(self.now, Input::Time, &mut self.effects);
            self.settle();
        }
        self.now.instant = end;
    }

    /// Something is asked on another core of this server.
    pub(crate) fn ask_from_afar(&mut self, ticket: u64, what: What) {
        let ask = Ask { core: AFAR.core, ticket: Ticket(ticket), what };
        let mail = Mail::Ask { shard: ShardId(0), ask };
        self.worker.step(self.now, Input::Mail { from: AFAR.core, mail }, &mut self.effects);
    }

    pub(crate) fn open(&mut self, connection: ConnectionId, crowd: Crowd) {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let opened = Input::ClientOpened { connection, address, crowd, entropy: [7; 16] };
        self.worker.step(self.now, opened, &mut self.effects);
        self.parted = None;
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.tell(CONNECTION, bytes);
        self.settle();
        self.frames()
    }

    /// Sends bytes and lets nothing else happen.
    pub(crate) fn tell(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let input = Input::ClientBytes { connection, bytes };
        self.worker.step(self.now, input, &mut self.effects);
    }

    /// Ends a turn that has a share for so much; what is appended is durable at once.
    pub(crate) fn end_turn(&mut self, share: usize) {
        self.worker.step(self.now, Input::TurnEnd { share }, &mut self.effects);
        let effects: Vec<Effect> = self.effects.drain().collect();
        for effect in effects {
            if let Effect::Append(append) = effect {
                self.sync(append.shard, append.sequence);
            }
        }
    }

    fn sync(&mut self, shard: ShardId, sequence: Sequence) {
        let durable = Input::Durable(Durable::attest(LogMark { shard, sequence }));
        self.worker.step(self.now, durable, &mut self.effects);
    }

    /// Clients with sessions, of these numbers.
    pub(crate) fn connect_crowd(&mut self, slots: Range<u32>) {
        let mut connect = vec![];
        client::put_connect(&mut connect, &ConnectRequest::for_new_session(10_000));
        for slot in slots {
            self.open(nth(slot), Crowd::default());
            self.tell(nth(slot), &connect);
            self.settle();
        }
        self.received.clear();
    }

    pub(crate) fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut frames = vec![];
        let mut rest = self.received.as_slice();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
            frames.push(frame.to_vec());
            rest = behind;
        }
        self.received.clear();
        frames
    }

    /// A znode whose list of children has at least so many bytes.
    pub(crate) fn fill(&mut self, path: &str, bytes: usize) {
        self.send(&request(1, &create(path, b"", CreateMode::Persistent)));
        let name_bytes = PATH_BYTES_MAX - 100;
        let names = (0..=bytes / name_bytes).map(|at| format!("{path}/{at:0>name_bytes$}"));
        for names in names.collect::<Vec<_>>().chunks(200) {
            let creates = names.iter().map(|name| create(name, b"", CreateMode::Persistent));
            let frames = self.send(&request(2, &Request::Multi(creates.collect())));
            let (_, body) = client::parse_header(&frames[0]).expect("a reply");
            let results = client::parse_multi(body).expect("a reply of results");
            assert!(results.iter().all(|result| matches!(result, MultiResult::Create { .. })));
        }
    }

    pub(crate) fn connect(&mut self) -> SessionId {
        self.open(CONNECTION, Crowd::default());
        let request = ConnectRequest::for_new_session(10_000);
        let mut bytes = vec![];
        client::put_connect(&mut bytes, &request);
        let frames = self.send(&bytes);
        let response = client::parse_connect(&frames[0]).expect("a connect response");
        assert_eq!(response.timeout_ms, 10_000);
        response.session
    }
}

/// A client of a crowd.
pub(crate) fn nth(slot: u32) -> ConnectionId {
    ConnectionId { slot, ..CONNECTION }
}

pub(crate) fn reader_afar(identities: Identities) -> Reader {
    Reader { connection: AFAR, session: SessionId(1), identities, later: None }
}

pub(crate) fn read_from_afar(op_code: OpCode, request: &[u8]) -> What {
    let body = request[client::REQUEST_PREFIX_BYTES..].to_vec();
    What::Read { reader: reader_afar(Identities::none()), op_code: op_code.wire(), body }
}

pub(crate) fn request(xid: i32, request: &Request<'_>) -> Vec<u8> {
    let mut bytes = vec![];
    client::put_request(&mut bytes, xid, request);
    bytes
}

pub(crate) fn create<'a>(path: &'a str, data: &'a [u8], mode: CreateMode) -> Request<'a> {
    let acl = vec![Acl { permissions: permission::ALL, scheme: "world", id: "anyone" }];
    Request::Create { path, data: Some(data), acl, mode, with_stat: false }
}
