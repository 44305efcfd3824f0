//! The worker in process, without sockets and without a disk: frames in, frames out.
//!
//! What a server costs beyond this is the kernel's.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pigeonhole_core::auth::AuthSettings;
use pigeonhole_core::base::id::{ConnectionId, CoreId, DiskId, ServerId};
use pigeonhole_core::base::limits::{COUNTER_HANDOVER, FRAME_BYTES_MAX};
use pigeonhole_core::base::time::{Instant, Now, Periods};
use pigeonhole_core::durable::{Durable, LogMark};
use pigeonhole_core::effect::{Crowd, Effect, Effects, Input};
use pigeonhole_core::gateway::ClientLimits;
use pigeonhole_core::op::{Acl, ConnectRequest, CreateMode, Request, permission};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::wire::client;
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_core::zab::log::{LogLimits, Restored};

const CONNECTION: ConnectionId = ConnectionId { core: CoreId(0), slot: 0, generation: 1 };
const DEPTH: u64 = 16;
const VALUE: [u8; 100] = [b'v'; 100];

struct Alone {
    worker: Worker,
    effects: Effects,
    now: Now,
}

impl Alone {
    fn new() -> Self {
        let map = ShardMap::new(8);
        let restored = map
            .shards()
            .map(|shard| {
                let restored = Restored::nothing(shard);
                (State::new(shard, map), restored)
            })
            .collect();
        let now = Now { instant: Instant(1_000_000), wall_ms: 1_700_000_000_000 };
        let mut effects = Effects::new();
        let worker = Worker::new(config(map), restored, now, &mut effects);
        let mut alone = Self { worker, effects, now };
        alone.settle();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let opened = Input::ClientOpened {
            connection: CONNECTION,
            address,
            crowd: Crowd::default(),
            entropy: [7; 16],
        };
        alone.worker.step(now, opened, &mut alone.effects);
        let mut bytes = Vec::new();
        let connect = ConnectRequest::for_new_session(30_000);
        client::put_connect(&mut bytes, &connect);
        alone.send(&bytes);
        alone
    }

    fn settle(&mut self) {
        loop {
            self.worker.step(self.now, Input::TurnEnd { share: usize::MAX }, &mut self.effects);
            if self.effects.is_empty() {
                return;
            }
            let mut marks = Vec::new();
            for effect in self.effects.drain() {
                match effect {
                    Effect::Append(append) => {
                        marks.push(LogMark { shard: append.shard, sequence: append.sequence })
                    }
                    Effect::ClientOutput { connection } => {
                        if let Some(output) = self.worker.client_output(connection) {
                            black_box(&output);
                            output.clear();
                        }
                    }
                    _ => {}
                }
            }
            for mark in marks {
                let durable = Input::Durable(Durable::attest(mark));
                self.worker.step(self.now, durable, &mut self.effects);
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let input = Input::ClientBytes { connection: CONNECTION, bytes };
        self.worker.step(self.now, input, &mut self.effects);
        self.settle();
    }
}

fn config(map: ShardMap) -> WorkerConfig {
    WorkerConfig {
        server: ServerId(1),
        core: CoreId(0),
        cores: 1,
        shards: map,
        voters: vec![ServerId(1)],
        observers: Vec::new(),
        disk: DiskId(1),
        is_founder: true,
        incarnation: 99,
        periods: Periods::default(),
        session_base_ms: 1_700_000_000_000,
        client: ClientLimits {
            frame_bytes_max: FRAME_BYTES_MAX,
            connections_per_address_max: 0,
            connections_max: 100,
            writes_outstanding_max: 1000,
        },
        auth: AuthSettings::default(),
        log: LogLimits::default(),
        counter_handover: COUNTER_HANDOVER,
        seed: 1,
    }
}

fn path(number: u64) -> String {
    format!("/bench-{}/key-{}", number % 16, number % 1024)
}

fn filled() -> Alone {
    let mut alone = Alone::new();
    let acl = vec![Acl { permissions: permission::ALL, scheme: "world", id: "anyone" }];
    let mode = CreateMode::Persistent;
    for top in 0..16 {
        let mut bytes = Vec::new();
        let path = format!("/bench-{top}");
        let create = Request::Create {
            path: &path,
            data: Some(b""),
            acl: acl.clone(),
            mode,
            with_stat: false,
        };
        client::put_request(&mut bytes, 1, &create);
        alone.send(&bytes);
    }
    for number in 0..1024 {
        let mut bytes = Vec::new();
        let path = path(number);
        let create = Request::Create {
            path: &path,
            data: Some(&VALUE),
            acl: acl.clone(),
            mode,
            with_stat: false,
        };
        client::put_request(&mut bytes, 1, &create);
        alone.send(&bytes);
    }
    alone
}

fn pipelines(request: impl Fn(&str) -> Vec<u8>) -> Vec<Vec<u8>> {
    (0..64)
        .map(|chunk| (0..DEPTH).flat_map(|i| request(&path(chunk * DEPTH + i))).collect())
        .collect()
}

fn worker(criterion: &mut Criterion) {
    let mut alone = filled();
    let mut group = criterion.benchmark_group("worker");
    group.throughput(Throughput::Elements(DEPTH));
    let reads = pipelines(|path| {
        let mut bytes = Vec::new();
        client::put_request(&mut bytes, 1, &Request::GetData { path, watch: false });
        bytes
    });
    let mut chunks = reads.iter().cycle();
    group.bench_function("getData x16", |bencher| {
        bencher.iter(|| alone.send(chunks.next().expect("it goes round")));
    });
    let writes = pipelines(|path| {
        let mut bytes = Vec::new();
        let set = Request::SetData { path, data: Some(&VALUE), version: -1 };
        client::put_request(&mut bytes, 1, &set);
        bytes
    });
    let mut chunks = writes.iter().cycle();
    group.bench_function("setData x16", |bencher| {
        bencher.iter(|| alone.send(chunks.next().expect("it goes round")));
    });
    group.finish();
}

criterion_group!(benches, worker);
criterion_main!(benches);
