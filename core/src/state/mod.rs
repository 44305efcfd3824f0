//! What one shard holds: its znodes and its part of the sessions, as of the last applied entry.
//!
//! The state is committed truth. A leader judges requests against the state and what is pending
//! ([`overlay`], [`prep`], [`session_prep`]), and only [`apply`] changes it.

pub mod acl;
pub mod apply;
pub mod expiry;
pub mod image;
pub mod overlay;
pub mod prep;
pub mod session;
pub mod session_prep;
pub mod tree;
pub mod watch;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::base::bytes::{Put, Reader};
use crate::base::id::{DiskId, ServerId, SessionId, ShardId, Zxid};
use crate::shard::{PARTITION_POINTS, ShardMap, point_index};
use crate::state::image::{Frozen, Image, ImageHeader};
use crate::state::session::{Malformed, Sessions, SessionsEncoder};
use crate::state::tree::{NewNode, Tree};

/// The configuration's znode: it lives in shard 0 and, like the points, cannot be deleted.
pub const CONFIG_PATH: &str = "/zookeeper/config";

/// One shard's state.
pub struct State {
    shard: ShardId,
    map: ShardMap,
    tree: Tree,
    tables: Tables,
    /// The zxid of the last entry that is reflected here.
    applied: Zxid,
}

/// Everything but the tree. A clone shares almost all of it: that is how it is frozen.
#[derive(Clone)]
pub struct Tables {
    sessions: Sessions,
    /// For every partition point, the zxid in shard 0 of what was last carried here; in shard 0
    /// itself, of what is to be carried to the others.
    points: [Zxid; PARTITION_POINTS.len()],
    /// The disk of each voter whose promises count. What it means is not the tree's affair; it is
    /// kept here because it follows from the entries, as everything else here does.
    admitted: BTreeMap<ServerId, DiskId>,
}

impl State {
    /// A fresh shard: the znodes that a fresh ZooKeeper has, and `/zookeeper/nwr`.
    pub fn new(shard: ShardId, map: ShardMap) -> Self {
        Self::with_index_seed(shard, map, 0)
    }

    /// The same; where clients choose the paths, nobody else should know the seed: see
    /// [`Tree::with_index_seed`].
    pub fn with_index_seed(shard: ShardId, map: ShardMap, index_seed: u64) -> Self {
        assert!(shard.0 < map.count(), "{shard} is a shard of the cluster");
        let mut tree = Tree::with_index_seed(index_seed);
        let open = acl::open();
        for path in PARTITION_POINTS.into_iter().filter(|path| *path != "/") {
            tree.create(path, pristine(&open));
        }
        if shard == ShardId(0) {
            let config = tree.create(CONFIG_PATH, pristine(&open));
            // ZooKeeper sets this ACL with "version -1", and that is what its clients see.
            tree.set_acl(config, &acl::read_only(), -1);
        }
        Self {
            shard,
            map,
            tree,
            tables: Tables {
                sessions: Sessions::new(shard),
                points: [Zxid::ZERO; PARTITION_POINTS.len()],
                admitted: BTreeMap::new(),
            },
            applied: Zxid::ZERO,
        }
    }

    /// Puts a state together from an image: the tree, and what [`Tables::encode`] wrote.
    pub fn from_image(image: Image, map: ShardMap) -> Result<Self, Malformed> {
        let Image { header, tree, ephemerals, sessions: tables } = image;
        let ImageHeader { shard, zxid: applied } = header;
        let mut reader = Reader::new(&tables);
        let mut points = [Zxid::ZERO; PARTITION_POINTS.len()];
        for point in &mut points {
            *point = Zxid(reader.u64_le()?);
        }
        let mut admitted = BTreeMap::new();
        for _ in 0..reader.u8()? {
            let server = ServerId(reader.u8()?);
            let disk = DiskId(reader.u128_le()?);
            if admitted.keys().next_back() >= Some(&server) {
                return Err(Malformed);
            }
            admitted.insert(server, disk);
        }
        let mut sessions = Sessions::decode(shard, &mut reader)?;
        if !reader.is_empty() {
            return Err(Malformed);
        }
        if !sessions.fit(map) {
            return Err(Malformed);
        }
        for (owner, path) in ephemerals {
            if sessions.attached(owner).is_none() {
                return Err(Malformed);
            }
            sessions.on_ephemeral_created(owner, &path);
        }
        Ok(Self { shard, map, tree, tables: Tables { sessions, points, admitted }, applied })
    }

    /// An entry without a transaction passed: it takes a zxid and changes nothing.
    pub fn pass(&mut self, zxid: Zxid) {
        assert!(zxid > self.applied, "{zxid} after {}", self.applied);
        self.applied = zxid;
    }

    /// The promises of these disks count from here on.
    pub fn admit(&mut self, zxid: Zxid, disks: &[(ServerId, DiskId)]) {
        self.tables.admitted.extend(disks.iter().copied());
        self.pass(zxid);
    }

    /// Everything as it is now and stays, to be encoded while the state moves on.
    pub fn freeze(&self) -> Frozen {
        let header = ImageHeader { shard: self.shard, zxid: self.applied };
        Frozen::new(header, self.tree.freeze(), self.freeze_tables())
    }

    /// Everything but the tree, as it is now and stays: to be encoded while the state moves on.
    pub fn freeze_tables(&self) -> Tables {
        self.tables.clone()
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    pub fn map(&self) -> ShardMap {
        self.map
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    pub fn sessions(&self) -> &Sessions {
        &self.tables.sessions
    }

    pub fn applied(&self) -> Zxid {
        self.applied
    }

    /// The disk of each voter whose promises count; empty in a new cluster.
    pub fn admitted(&self) -> &BTreeMap<ServerId, DiskId> {
        &self.tables.admitted
    }

    /// The zxid in shard 0 of what this shard knows about a partition point.
    pub fn point_zxid(&self, point: &str) -> Zxid {
        point_index(point).map_or(Zxid::ZERO, |index| self.tables.points[index])
    }

    /// A client has changed a znode's data or ACL. If it is a point, other shards must hear of it.
    fn note_point(&mut self, path: &str, zxid: Zxid) {
        if self.map.count() > 1
            && let Some(index) = point_index(path)
        {
            assert_eq!(self.shard, ShardId(0), "shard 0 decides about points");
            self.tables.points[index] = zxid;
        }
    }
}

impl Tables {
    /// Appends the bytes, in canonical order: the same state gives the same bytes everywhere.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let goes_on = self.begin(out).step(usize::MAX, out);
        assert!(!goes_on, "nothing is longer than that");
    }

    /// Appends what stands before the sessions, which may be many, and gives what appends those.
    fn begin(&self, out: &mut Vec<u8>) -> SessionsEncoder {
        for point in self.points {
            out.put_u64_le(point.0);
        }
        out.put_u8(u8::try_from(self.admitted.len()).expect("members are bounded"));
        for (server, disk) in &self.admitted {
            out.put_u8(server.0);
            out.put_u128_le(disk.0);
        }
        self.sessions.encoder()
    }
}

fn pristine(acl: &[crate::txn::AclEntry]) -> NewNode<'_> {
    NewNode {
        data: Some(&[]),
        acl,
        ephemeral_owner: SessionId(0),
        parent_creations: 0,
        zxid: Zxid::ZERO,
        time_ms: 0,
    }
}
