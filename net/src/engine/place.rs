//! Which shard lives on which core, and which core on which processor.

use std::net::IpAddr;

use pigeonhole_core::base::id::{CoreId, ServerId, ShardId};
use pigeonhole_core::links::core_of;
use pigeonhole_core::shard::ShardMap;

/// The shards whose replicas live on a core.
pub(crate) fn shards_of(core: CoreId, cores: u8, map: ShardMap) -> impl Iterator<Item = ShardId> {
    map.shards().filter(move |shard| core_of(*shard, cores) == core)
}

/// The processor that a core is pinned to, of those that this process may use: one after the other,
/// and each server of an ensemble begins where the one before it ends, so that servers that share a
/// machine do not all sit on its first processor.
///
/// More cores than processors share them in turn; somebody has asked for it.
pub(crate) fn processor_of(
    server: ServerId,
    core: CoreId,
    cores: u16,
    allowed: &[usize],
) -> Option<usize> {
    let before = usize::from(server.0 - 1) * usize::from(cores);
    let index = (before + usize::from(core.0)).checked_rem(allowed.len())?;
    Some(allowed[index])
}

/// How a core's thread is scheduled.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The one that it is pinned to.
    pub(crate) processor: Option<usize>,
    /// It does not push others off the processor when it is woken: servers that share one do more
    /// at a time if they do not interrupt each other for every message. Not for a core that has a
    /// processor to itself but for strangers, because it would wait for those.
    pub(crate) takes_turns: bool,
}

/// Whether two servers of an ensemble are on one machine, as far as their addresses tell.
pub(crate) fn share_a_machine(host: &str, other: &str) -> bool {
    let is_loopback = |host: &str| {
        host.parse().map_or_else(|_| host == "localhost", |address: IpAddr| address.is_loopback())
    };
    host == other || (is_loopback(host) && is_loopback(other))
}

#[cfg(test)]
mod tests {
    use pigeonhole_core::base::id::{CoreId, ServerId, ShardId};
    use pigeonhole_core::links::core_of;
    use pigeonhole_core::shard::ShardMap;

    use super::{processor_of, shards_of, share_a_machine};

    #[test]
    fn every_shard_has_one_core() {
        let map = ShardMap::new(8);
        let mut seen = Vec::new();
        for core in (0..3).map(CoreId) {
            for shard in shards_of(core, 3, map) {
                assert_eq!(core_of(shard, 3), core);
                seen.push(shard);
            }
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq((0..8).map(ShardId)));
    }

    #[test]
    fn cores_go_round_the_allowed_processors() {
        let of = |server, core| processor_of(ServerId(server), CoreId(core), 3, &[2, 5]);
        assert_eq!([of(1, 0), of(1, 1), of(1, 2)], [Some(2), Some(5), Some(2)]);
        assert_eq!(of(2, 0), Some(5), "the second server begins behind the first");
        assert_eq!(processor_of(ServerId(1), CoreId(0), 1, &[]), None);
    }
    #[test]
    fn servers_share_a_machine_if_their_addresses_say_so() {
        assert!(share_a_machine("127.0.0.1", "127.0.0.2"));
        assert!(share_a_machine("::1", "localhost"));
        assert!(share_a_machine("zoo1", "zoo1"));
        assert!(!share_a_machine("zoo1", "zoo2"));
        assert!(!share_a_machine("10.0.0.1", "127.0.0.1"));
    }
}
