//! The tree against a model that stores whole paths in a map.
#![expect(clippy::unwrap_used, reason = "a test may panic wherever it finds something wrong")]

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::op::{Stat, permission};
use pigeonhole_core::path;
use pigeonhole_core::state::tree::{NewNode, NodeId, Tree, Znodes};
use pigeonhole_core::txn::AclEntry;

#[derive(Clone, PartialEq, Eq, Debug)]
struct ModelNode {
    stat: Stat,
    creations: i32,
    data: Option<Vec<u8>>,
    acl: Vec<AclEntry>,
}

type Model = BTreeMap<String, ModelNode>;

/// The tree and the model under the same changes.
struct Pair {
    tree: Tree,
    model: Model,
    random: Prng,
    zxid: Zxid,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let tree = Tree::with_index_seed(seed);
        let root =
            ModelNode { stat: Stat::default(), creations: 0, data: Some(Vec::new()), acl: acl(0) };
        Self {
            tree,
            model: Model::from([("/".into(), root)]),
            random: Prng::new(seed),
            zxid: Zxid(1 << 32),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap();
        usize::try_from(self.random.below(bound)).unwrap()
    }

    fn any_path(&mut self) -> String {
        let index = self.below(self.model.len());
        self.model.keys().nth(index).unwrap().clone()
    }

    /// Null now and then.
    fn any_data(&mut self) -> Option<Vec<u8>> {
        let length = self.below(40).checked_sub(1)?;
        Some((0..length).map(|_| self.random.next_u64().to_le_bytes()[0]).collect())
    }

    fn step(&mut self) {
        self.zxid = self.zxid.next();
        let path = self.any_path();
        match self.random.below(10) {
            0..5 => {
                let name = self.random.below(50);
                self.create(&path, &format!("n{name}"));
            }
            5..8 => self.delete(&path),
            8 => self.set_data(&path),
            _ => self.set_acl(&path),
        }
    }

    fn create(&mut self, parent: &str, name: &str) {
        let path = format!("{}/{name}", if parent == "/" { "" } else { parent });
        if self.model.contains_key(&path) || path::check(&path, false).is_err() {
            assert_eq!(self.tree.find(&path).is_some(), self.model.contains_key(&path));
            return;
        }
        let data = self.any_data();
        let acl = acl(self.below(4));
        let owner = SessionId(if self.random.chance(1, 4) { 77 } else { 0 });
        let node = self.model.get_mut(parent).unwrap();
        node.creations += 1;
        node.stat.children_count += 1;
        node.stat.cversion = 2 * node.creations - node.stat.children_count;
        node.stat.pzxid = self.zxid;
        let new = NewNode {
            data: data.as_deref(),
            acl: &acl,
            ephemeral_owner: owner,
            parent_creations: node.creations,
            zxid: self.zxid,
            time_ms: 5,
        };
        let created = self.tree.create(&path, new);
        assert_eq!(self.tree.find(&path), Some(created));
        let stat = Stat {
            czxid: self.zxid,
            mzxid: self.zxid,
            pzxid: self.zxid,
            ctime_ms: 5,
            mtime_ms: 5,
            ephemeral_owner: owner,
            data_length: i32::try_from(data.as_ref().map_or(0, Vec::len)).unwrap(),
            ..Stat::default()
        };
        let creations = 0;
        self.model.insert(path, ModelNode { stat, creations, data, acl });
    }

    fn delete(&mut self, path: &str) {
        if path == "/" || self.model[path].stat.children_count > 0 {
            return;
        }
        self.model.remove(path);
        let parent = self.model.get_mut(path::parent(path).unwrap()).unwrap();
        parent.stat.children_count -= 1;
        parent.stat.cversion = 2 * parent.creations - parent.stat.children_count;
        parent.stat.pzxid = self.zxid;
        self.tree.delete(self.tree.find(path).unwrap(), self.zxid);
        assert_eq!(self.tree.find(path), None);
    }

    fn set_data(&mut self, path: &str) {
        let data = self.any_data();
        let node = self.model.get_mut(path).unwrap();
        node.stat.version += 1;
        node.stat.mzxid = self.zxid;
        node.stat.mtime_ms = 9;
        node.stat.data_length = i32::try_from(data.as_ref().map_or(0, Vec::len)).unwrap();
        let found = self.tree.find(path).unwrap();
        self.tree.set_data(found, data.as_deref(), node.stat.version, self.zxid, 9);
        node.data = data;
    }

    fn set_acl(&mut self, path: &str) {
        let acl = acl(self.below(4));
        let node = self.model.get_mut(path).unwrap();
        node.stat.aversion += 1;
        let found = self.tree.find(path).unwrap();
        self.tree.set_acl(found, &acl, node.stat.aversion);
        node.acl = acl;
    }
}

fn acl(kind: usize) -> Vec<AclEntry> {
    let entry =
        |permissions, scheme: &str, id: String| AclEntry { permissions, scheme: scheme.into(), id };
    match kind {
        0 => vec![entry(permission::ALL, "world", "anyone".into())],
        _ => (0..kind)
            .map(|user| entry(permission::READ, "digest", format!("{kind}:{user}")))
            .collect(),
    }
}

/// Everything that can be seen of a view, by walking it from the root.
fn content_of(view: &Znodes) -> Model {
    let mut content = Model::new();
    let mut descendants: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut open = vec![Tree::ROOT];
    while let Some(node) = open.pop() {
        let children: Vec<NodeId> = view.children(node).collect();
        assert_eq!(children.len(), view.children_count(node));
        assert!(children.iter().all(|&child| view.parent(child) == Some(node)));
        open.extend(children);
        let seen = ModelNode {
            stat: view.stat(node),
            creations: view.creations(node),
            data: view.data(node).map(<[u8]>::to_vec),
            acl: view.acl(node).to_vec(),
        };
        assert_eq!(view.ephemeral_owner(node), seen.stat.ephemeral_owner);
        let path = view.path(node);
        assert_eq!(view.name(node), if path == "/" { "" } else { path::name(&path) });
        assert!(content.insert(path, seen).is_none(), "every path is there once");
        let mut above = view.parent(node);
        while let Some(node) = above {
            *descendants.entry(node).or_default() += 1;
            above = view.parent(node);
        }
        descendants.entry(node).or_default();
    }
    assert!(descendants.iter().all(|(&node, &count)| view.descendants_count(node) == count));
    assert_eq!(view.len(), content.len());
    let bytes: usize = content
        .iter()
        .map(|(path, node)| path.len() + node.data.as_ref().map_or(0, Vec::len))
        .sum();
    assert_eq!(view.approximate_bytes(), u64::try_from(bytes).unwrap());
    content
}

#[test]
fn random_changes_agree_with_the_model_and_frozen_views_never_change() {
    for seed in 0..6 {
        let mut pair = Pair::new(seed);
        let mut frozen: Vec<(Znodes, Model)> = Vec::new();
        for step in 0..6000 {
            pair.step();
            if step % 500 == 250 {
                frozen.push((pair.tree.freeze(), pair.model.clone()));
            }
            if step % 1500 == 0 {
                frozen.truncate(1);
            }
        }
        assert!(pair.model.len() > 200, "seed {seed} must build a tree");
        assert_eq!(content_of(&pair.tree), pair.model, "seed {seed}");
        for (view, model) in &frozen {
            assert_eq!(&content_of(view), model, "seed {seed}");
        }
        for path in pair.model.keys() {
            let found = pair.tree.find(path).unwrap();
            assert_eq!(&pair.tree.path(found), path);
        }
    }
}

/// The same content by three histories has one digest; every single difference has another.
#[test]
fn the_digest_is_the_contents_and_not_the_histories() {
    let new = |time_ms, parent_creations| NewNode {
        data: Some(b"data"),
        acl: &[],
        ephemeral_owner: SessionId(0),
        parent_creations,
        zxid: Zxid(4),
        time_ms,
    };
    let mut plain = Tree::new();
    plain.create("/a", new(1, 1));
    plain.create("/b", new(1, 2));
    plain.create("/a/c", new(1, 1));
    let digest = plain.digest();

    let mut reordered = Tree::with_index_seed(99);
    reordered.create("/b", new(1, 1));
    reordered.create("/a", new(1, 2));
    reordered.create("/a/c", new(1, 1));
    assert_eq!(reordered.digest(), digest);

    let detour = reordered.create("/d", new(1, 2));
    reordered.set_data(detour, Some(b"something long"), 1, Zxid(4), 7);
    reordered.set_acl(detour, &acl(3), 1);
    assert_ne!(reordered.digest(), digest);
    reordered.delete(detour, Zxid(4));
    assert_eq!(reordered.digest(), digest);

    let with = |change: &dyn Fn(&mut Tree, NodeId)| {
        let mut tree = Tree::new();
        tree.create("/a", new(1, 1));
        tree.create("/b", new(1, 2));
        tree.create("/a/c", new(1, 1));
        let b = tree.find("/b").unwrap();
        change(&mut tree, b);
        tree.digest()
    };
    let mut digests = vec![
        digest,
        with(&|tree, b| tree.set_data(b, Some(b"datb"), 0, Zxid(4), 1)),
        with(&|tree, b| tree.set_data(b, Some(b""), 0, Zxid(4), 1)),
        with(&|tree, b| tree.set_data(b, None, 0, Zxid(4), 1)),
        with(&|tree, b| tree.set_data(b, Some(b"data"), 1, Zxid(4), 1)),
        with(&|tree, b| tree.set_data(b, Some(b"data"), 0, Zxid(5), 1)),
        with(&|tree, b| tree.set_data(b, Some(b"data"), 0, Zxid(4), 2)),
        with(&|tree, b| tree.set_acl(b, &acl(1), 0)),
        with(&|tree, b| tree.set_acl(b, &[], 1)),
        with(&|tree, b| tree.delete(b, Zxid(4))),
        with(&|tree, _| _ = tree.create("/b/c", new(1, 0))),
        with(&|tree, _| _ = tree.create("/c", new(1, 2))),
        with(&|tree, _| _ = tree.create("/c", new(1, 3))),
    ];
    assert_eq!(with(&|tree, b| tree.set_data(b, Some(b"data"), 0, Zxid(4), 1)), digest);
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 13);
}

/// A frozen view of a million children stays whole while all of them are deleted.
#[test]
fn a_million_children() {
    const COUNT: i32 = 1_000_000;
    let mut tree = Tree::new();
    let mut new = NewNode {
        data: Some(b""),
        acl: &acl(0),
        ephemeral_owner: SessionId(0),
        parent_creations: 1,
        zxid: Zxid(1),
        time_ms: 1,
    };
    let parent = tree.create("/p", new);
    for number in 1..=COUNT {
        new.parent_creations = number;
        tree.create(&format!("/p/{number}"), new);
    }
    let frozen = tree.freeze();
    let digest = frozen.digest();
    assert_eq!(tree.stat(parent).children_count, COUNT);
    for number in 1..=COUNT {
        // In another order than the one of creation.
        let number = (number * 7) % COUNT + 1;
        let child = tree.find(&format!("/p/{number}")).unwrap();
        tree.delete(child, Zxid(2));
    }
    let stat = tree.stat(parent);
    assert_eq!((stat.children_count, stat.cversion), (0, 2 * COUNT));
    assert_eq!((tree.len(), tree.children(parent).count()), (2, 0));
    assert_eq!(frozen.digest(), digest);
    let mut sum = 0;
    for child in frozen.children(parent) {
        sum += frozen.name(child).parse::<i64>().unwrap();
    }
    assert_eq!(sum, i64::from(COUNT) * (i64::from(COUNT) + 1) / 2);
}

#[test]
fn the_deepest_path_is_found_and_spelled() {
    let mut tree = Tree::new();
    let mut path = String::new();
    for depth in 0..256 {
        path += &format!("/{depth}");
        let new = NewNode {
            data: Some(path.as_bytes()),
            acl: &[],
            ephemeral_owner: SessionId(0),
            parent_creations: 1,
            zxid: Zxid(1),
            time_ms: 1,
        };
        tree.create(&path, new);
    }
    let deepest = tree.find(&path).unwrap();
    assert_eq!(tree.path(deepest), path);
    assert_eq!(tree.data(deepest), Some(path.as_bytes()));
    assert_eq!(tree.find(&path[1..]), None);
    assert_eq!(tree.find(&path["/0".len()..]), None);
    assert_eq!(tree.find(""), None);
    while path != "/" {
        tree.delete(tree.find(&path).unwrap(), Zxid(2));
        path = path::parent(&path).unwrap().into();
    }
    assert_eq!(tree.len(), 1);
}

#[test]
fn the_root_is_zookeepers() {
    let tree = Tree::new();
    assert_eq!(tree.find("/"), Some(Tree::ROOT));
    assert_eq!(tree.stat(Tree::ROOT), Stat::default());
    assert_eq!(tree.acl(Tree::ROOT), acl(0));
    assert_eq!((tree.path(Tree::ROOT), tree.parent(Tree::ROOT)), ("/".into(), None));
    assert_eq!((tree.len(), tree.approximate_bytes()), (1, 1));
}
