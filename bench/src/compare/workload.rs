//! The workloads of a comparison.

use super::CompareOptions;
use crate::cluster::Cluster;
use crate::error::BenchError;
use crate::load::LoadOptions;
use crate::load::schedule::{Arrivals, Mix};

/// A load without its servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Both systems run this one before the first round.
    pub(super) warms_up: bool,
    connections: u32,
    depth: u32,
    read_percent: u32,
    rate: Option<u32>,
    /// Each connection stays in one subtree, as a client with a chroot does.
    is_affine: bool,
}

impl Workload {
    /// A server that neither replicates nor syncs is a floor for reads alone.
    pub(super) fn has_floor(&self) -> bool {
        self.read_percent == 100
    }

    pub(super) fn is_mixed(&self) -> bool {
        (1..100).contains(&self.read_percent)
    }

    /// This workload against `cluster`. Each round begins with another server, so that a single
    /// connection does not always meet, or always miss, the leader.
    pub(super) fn load(
        &self,
        cluster: &Cluster,
        round: u32,
        options: &CompareOptions,
    ) -> LoadOptions {
        let mut servers = cluster.addresses();
        let first = usize::try_from(round).expect("a round is small") % servers.len();
        servers.rotate_left(first);
        LoadOptions {
            servers,
            connections: self.connections,
            depth: self.depth,
            mix: Mix { read_percent: self.read_percent },
            value_bytes: options.value_bytes,
            subtrees: options.subtrees,
            keys_per_subtree: options.keys_per_subtree,
            subtree_affine: self.is_affine,
            seconds: options.seconds,
            warm_up_seconds: options.warm_up_seconds,
            rate: self.rate,
            arrivals: Arrivals::Poisson,
            server_pids: cluster.pids(),
            skip_set_up: true,
            seed: u64::from(round),
        }
    }
}

/// The workloads with the given names, or all.
pub(super) fn select(names: &[String]) -> Result<Vec<Workload>, BenchError> {
    let known = |name: &String| WORKLOADS.iter().any(|workload| workload.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let names = WORKLOADS.map(|workload| workload.name).join(", ");
        return Err(BenchError::Invalid(format!("no workload `{unknown}`; there are {names}")));
    }
    let selected =
        |workload: &&Workload| names.is_empty() || names.iter().any(|name| name == workload.name);
    Ok(WORKLOADS.iter().filter(selected).copied().collect())
}

pub(super) const WORKLOADS: [Workload; 8] = [
    Workload {
        name: "reads-24x16",
        what: "getData, 24 connections, 16 deep",
        warms_up: true,
        connections: 24,
        depth: 16,
        read_percent: 100,
        rate: None,
        is_affine: false,
    },
    Workload {
        name: "reads-48x1",
        what: "getData, 48 connections, one at a time",
        warms_up: false,
        connections: 48,
        depth: 1,
        read_percent: 100,
        rate: None,
        is_affine: false,
    },
    Workload {
        name: "writes-24x16",
        what: "setData, 24 connections, 16 deep, every write in any subtree",
        warms_up: true,
        connections: 24,
        depth: 16,
        read_percent: 0,
        rate: None,
        is_affine: false,
    },
    Workload {
        name: "writes-24x16-affine",
        what: "setData, 24 connections, 16 deep, each in a subtree of its own choice",
        warms_up: false,
        connections: 24,
        depth: 16,
        read_percent: 0,
        rate: None,
        is_affine: true,
    },
    Workload {
        name: "writes-24x64",
        what: "setData, 24 connections, 64 deep",
        warms_up: false,
        connections: 24,
        depth: 64,
        read_percent: 0,
        rate: None,
        is_affine: false,
    },
    Workload {
        name: "mixed-24x16",
        what: "70 % getData, 30 % setData, 24 connections, 16 deep",
        warms_up: false,
        connections: 24,
        depth: 16,
        read_percent: 70,
        rate: None,
        is_affine: false,
    },
    Workload {
        name: "write-1x1",
        what: "setData, one client, one at a time",
        warms_up: false,
        connections: 1,
        depth: 1,
        read_percent: 0,
        rate: None,
        is_affine: false,
    },
    Workload {
        name: "open-2000",
        what: "90 % getData, 10 % setData, 2 000 a second, open loop",
        warms_up: false,
        connections: 24,
        depth: 64,
        read_percent: 90,
        rate: Some(2000),
        is_affine: false,
    },
];
