//! path → shard. Pure: every server and every client library can compute it.

use xxhash_rust::xxh3::xxh3_64;

use crate::base::id::{SessionId, ShardId};
use crate::path;

/// The znodes that exist in every shard, so that each shard can hold children of them. Shard 0
/// keeps their data, their ACL and their place in the counts.
pub const PARTITION_POINTS: [&str; 4] = ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/nwr"];

/// How many digits end the name of a sequential znode.
pub const SEQUENCE_DIGITS: usize = 10;

/// Where the paths of a cluster with `count` shards live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardMap {
    count: u16,
}

impl ShardMap {
    pub fn new(count: u16) -> Self {
        assert!(count > 0, "a cluster has at least one shard");
        Self { count }
    }

    pub fn count(self) -> u16 {
        self.count
    }

    pub fn shards(self) -> impl Iterator<Item = ShardId> {
        (0..self.count).map(ShardId)
    }

    /// The shard that holds `path`; a partition point's own data belongs to shard 0.
    ///
    /// The key is the first component, so that a top-level subtree lives whole in one shard. What
    /// lies under `/zookeeper/quota/x` and `/zookeeper/nwr/x` describes x and lives with it; the
    /// rest of `/zookeeper` is shard 0's. A name that ends in ten digits directly under a point may
    /// be a sequential one: shard 0 holds them all, so that they share one counter.
    pub fn shard_of(self, path: &str) -> ShardId {
        if self.count == 1 || is_partition_point(path) {
            return ShardId(0);
        }
        let below = path
            .strip_prefix("/zookeeper/quota/")
            .or_else(|| path.strip_prefix("/zookeeper/nwr/"))
            .unwrap_or_else(|| path.strip_prefix('/').unwrap_or(path));
        let top = path::top(below);
        if path.starts_with("/zookeeper/") && below.len() + 1 == path.len() {
            return ShardId(0);
        }
        if ends_in_sequence(top) {
            return ShardId(0);
        }
        self.by_hash(xxh3_64(top.as_bytes()))
    }

    /// The shard of a create whose name the leader will complete with a counter.
    pub fn shard_of_sequential(self, prefix: &str) -> ShardId {
        let parent = path::parent(prefix).unwrap_or("/");
        if is_partition_point(parent) { ShardId(0) } else { self.shard_of(prefix) }
    }

    /// The home shard of a session: where it is created, re-attached, closed and ended.
    pub fn home_of(self, session: SessionId) -> ShardId {
        self.by_hash(xxh3_64(&session.0.to_le_bytes()))
    }

    fn by_hash(self, hash: u64) -> ShardId {
        let shard = hash % u64::from(self.count);
        ShardId(u16::try_from(shard).expect("a remainder is below its 16-bit divisor"))
    }
}

pub fn is_partition_point(path: &str) -> bool {
    PARTITION_POINTS.contains(&path)
}

/// The place of a partition point in [`PARTITION_POINTS`].
pub fn point_index(path: &str) -> Option<usize> {
    PARTITION_POINTS.iter().position(|point| *point == path)
}

fn ends_in_sequence(name: &str) -> bool {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    digits >= SEQUENCE_DIGITS
}
