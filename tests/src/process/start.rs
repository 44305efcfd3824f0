//! How a core begins: a log that goes on from what was recovered, and a worker with its shards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pigeonhole_core::auth::AuthSettings;
use pigeonhole_core::base::id::{CoreId, ShardId};
use pigeonhole_core::base::limits::FRAME_BYTES_MAX;
use pigeonhole_core::base::time::Now;
use pigeonhole_core::control::Checkpoint;
use pigeonhole_core::effect::Effects;
use pigeonhole_core::gateway::ClientLimits;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::worker::{Worker, WorkerConfig};
use pigeonhole_storage::disk::LogBuffer;
use pigeonhole_storage::recover::Recovered;
use pigeonhole_storage::wal::{Released, Wal, WalConfig};

use crate::node::server_id;
use crate::process::{Beginnings, Core, ProcessConfig};

pub(super) fn core(
    config: &ProcessConfig,
    core: CoreId,
    recovered: &Recovered,
    beginnings: &mut Beginnings,
    buffers: [LogBuffer; 2],
    now: Now,
) -> Core {
    let mine = |shard: &ShardId| shard.0 % u16::from(config.cores) == u16::from(core.0);
    let found = recovered.shards.iter().filter(|(shard, _)| mine(shard));
    let (shards, checkpoints) = found
        .map(|(shard, found)| {
            let beginning = beginnings.remove(shard).expect("every shard begins somewhere");
            (beginning, found.checkpoint)
        })
        .unzip::<_, _, Vec<_>, Vec<_>>();
    let mut wal = log(config, core, recovered, checkpoints);
    for buffer in buffers {
        wal.lend(buffer);
    }
    let mut effects = Effects::new();
    let worker = Worker::new(worker_config(config, core), shards, now, &mut effects);
    Core {
        worker,
        wal,
        effects,
        released: Released::default(),
        inbox: VecDeque::new(),
        turn_queued: false,
        timer: None,
        slots: Vec::new(),
        free: Vec::new(),
        clients: BTreeMap::new(),
        links: BTreeMap::new(),
        client_outputs: BTreeSet::new(),
        link_outputs: BTreeSet::new(),
    }
}

fn log(
    config: &ProcessConfig,
    core: CoreId,
    recovered: &Recovered,
    checkpoints: Vec<Checkpoint>,
) -> Wal {
    let segment_bytes = config.cluster.segment_bytes;
    let secret = u128::from(config.seed) << 64 | u128::from(core.0);
    let (boot, seal) = (recovered.next_boot, recovered.seal.clone());
    let wal_config = WalConfig { segment_bytes, ..WalConfig::default() };
    Wal::new(wal_config, boot, core, secret, checkpoints, seal)
}

fn worker_config(config: &ProcessConfig, core: CoreId) -> WorkerConfig {
    let voters = config.cluster.servers - config.cluster.observers;
    WorkerConfig {
        server: server_id(config.index),
        core,
        cores: config.cores,
        shards: ShardMap::new(config.cluster.shards),
        voters: (0..voters).map(server_id).collect(),
        observers: (voters..config.cluster.servers).map(server_id).collect(),
        disk: config.disk,
        is_founder: config.is_founder,
        incarnation: config.incarnation,
        periods: config.cluster.periods,
        session_base_ms: config.session_base_ms,
        client: ClientLimits {
            frame_bytes_max: FRAME_BYTES_MAX,
            connections_per_address_max: 0,
            connections_max: 1000,
            writes_outstanding_max: 4,
        },
        auth: AuthSettings::default(),
        log: config.cluster.log.limits,
        counter_handover: config.cluster.counter_handover,
        seed: config.seed ^ u64::from(core.0),
    }
}
