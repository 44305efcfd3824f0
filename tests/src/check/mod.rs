//! What must hold, whatever happens. A violated rule ends the run with its name.

pub mod agreement;
pub mod changes;
pub mod client;
pub mod durability;
pub mod persistent;
pub mod session;
pub mod sharded;
pub mod state;
pub mod txn;
pub mod watch;
pub mod watch_sharded;

use std::collections::BTreeSet;

use pigeonhole_core::base::id::ShardId;
use pigeonhole_core::shard::ShardMap;

use crate::check::agreement::Agreement;
use crate::check::state::States;
use crate::history::History;
use crate::sometimes::Sometimes;

pub struct Checks {
    pub agreement: Agreement,
    pub states: States,
    /// Learners that are being sent the state.
    pub transfers: BTreeSet<(u8, ShardId)>,
    pub sometimes: Sometimes,
    /// Acknowledgements after which the disk is looked at as if the power had gone: every
    /// so-many-th.
    pub crash_check_every: u64,
    pub acknowledgements: u64,
}

impl Checks {
    pub fn new(voters: u8, crash_check_every: u64) -> Self {
        Self {
            agreement: Agreement::new(voters),
            states: States::default(),
            transfers: BTreeSet::new(),
            sometimes: Sometimes::default(),
            crash_check_every,
            acknowledgements: 0,
        }
    }

    pub fn shard_committed(&self, shard: ShardId) -> pigeonhole_core::base::id::Zxid {
        self.agreement.committed(shard)
    }
}

/// Holds what clients were told against what was committed, once a run is over.
pub fn clients(history: &History, agreement: &Agreement, map: ShardMap, sometimes: &mut Sometimes) {
    session::check(history, agreement, map);
    if map.count() == 1 {
        client::check(history, agreement, sometimes);
        watch::check(history, agreement, sometimes);
    } else {
        sharded::check(history, agreement, map, sometimes);
        watch_sharded::check(history, agreement, map, sometimes);
    }
    persistent::check(history, agreement, map, sometimes);
}
