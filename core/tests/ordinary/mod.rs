//! What tests have in common that start workers.

use pigeonhole_core::auth::AuthSettings;
use pigeonhole_core::base::id::{CoreId, DiskId, ServerId};
use pigeonhole_core::base::limits::{COUNTER_HANDOVER, FRAME_BYTES_MAX};
use pigeonhole_core::base::time::Periods;
use pigeonhole_core::gateway::ClientLimits;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::worker::WorkerConfig;
use pigeonhole_core::zab::log::LogLimits;

/// A founder of one core that refuses no client.
pub(crate) fn config(
    server: ServerId,
    voters: impl IntoIterator<Item = ServerId>,
    shards: ShardMap,
) -> WorkerConfig {
    WorkerConfig {
        server,
        core: CoreId(0),
        cores: 1,
        shards,
        voters: voters.into_iter().collect(),
        observers: vec![],
        disk: DiskId(server.0.into()),
        is_founder: true,
        incarnation: 98 + u64::from(server.0),
        periods: Periods::default(),
        session_base_ms: 1_700_000_000_000,
        client: ClientLimits {
            frame_bytes_max: FRAME_BYTES_MAX,
            connections_per_address_max: 0,
            connections_max: usize::MAX,
            writes_outstanding_max: 1000,
        },
        auth: AuthSettings::default(),
        log: LogLimits::default(),
        counter_handover: COUNTER_HANDOVER,
        seed: 1,
    }
}
