//! State to bytes and back: the same bytes for the same state, and no state from other bytes.
#![expect(clippy::unwrap_used, reason = "a test may panic wherever it finds something wrong")]

use std::fmt::Write;

use pigeonhole_core::base::id::{SessionId, ShardId, Zxid};
use pigeonhole_core::base::limits::SNAPSHOT_CHUNK_BYTES;
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::op::permission;
use pigeonhole_core::state::image::{Image, ImageError, ImageHeader, ImageReader, ImageWriter};
use pigeonhole_core::state::tree::{NewNode, NodeId, Tree, Znodes};
use pigeonhole_core::txn::AclEntry;

const HEADER: ImageHeader = ImageHeader { shard: ShardId(3), zxid: Zxid(0x0000_0002_0000_0007) };
const HEADER_BYTES: usize = 52;

fn new<'a>(data: &'a [u8], acl: &'a [AclEntry]) -> NewNode<'a> {
    NewNode {
        data: Some(data),
        acl,
        ephemeral_owner: SessionId(0),
        parent_creations: 1,
        zxid: Zxid(0x0000_0001_0000_0002),
        time_ms: 1_700_000_000_000,
    }
}

fn user(name: &str) -> Vec<AclEntry> {
    vec![AclEntry {
        permissions: permission::READ | permission::ADMIN,
        scheme: "digest".into(),
        id: name.into(),
    }]
}

fn write(znodes: &Znodes, sessions: &[u8]) -> Vec<u8> {
    let mut writer = ImageWriter::new(HEADER, znodes.clone(), sessions.to_vec());
    let mut bytes = Vec::new();
    let mut chunk = Vec::new();
    while writer.next_chunk(&mut chunk) {
        let is_whole = chunk.len() == SNAPSHOT_CHUNK_BYTES;
        assert!(is_whole || chunk.is_empty(), "{} bytes", chunk.len());
        bytes.append(&mut chunk);
    }
    assert!(!chunk.is_empty() && chunk.len() <= SNAPSHOT_CHUNK_BYTES);
    bytes.append(&mut chunk);
    bytes
}

fn read(bytes: &[u8]) -> Result<Image, ImageError> {
    let mut reader = ImageReader::new(0);
    for chunk in bytes.chunks(SNAPSHOT_CHUNK_BYTES) {
        reader.on_chunk(chunk)?;
    }
    reader.finish()
}

/// Two of everything: lists, znodes with and without rare fields, levels.
fn small_tree() -> Tree {
    let mut tree = Tree::new();
    let (everyone, one, two) = (tree.acl(Tree::ROOT).to_vec(), user("one"), user("two"));
    tree.create("/b", new(b"data of b", &two));
    tree.create("/a", new(b"", &one));
    tree.create("/a/z", new(b"z", &everyone));
    tree.create("/a/null", NewNode { data: None, ..new(b"", &everyone) });
    let ephemeral = NewNode {
        ephemeral_owner: SessionId(0x0100_0000_0000_0001),
        parent_creations: 3,
        ..new(b"", &two)
    };
    let y = tree.create("/a/y", ephemeral);
    tree.set_data(y, Some(b"why"), 1, Zxid(0x0000_0001_0000_0005), 1_700_000_000_001);
    let b = tree.find("/b").unwrap();
    tree.set_acl(b, &one, 1);
    tree
}

fn random_tree(seed: u64, changes: u32) -> Tree {
    let mut random = Prng::new(seed);
    let mut tree = Tree::with_index_seed(seed);
    let mut paths = vec![String::new()];
    for change in 0..changes {
        let below = random.below(u64::try_from(paths.len()).unwrap());
        let at = usize::try_from(below).unwrap();
        let zxid = Zxid(u64::from(change) + 1);
        let is_root = paths[at].is_empty();
        let found = tree.find(if is_root { "/" } else { &paths[at] }).unwrap();
        let large = random.chance(1, 500);
        let data =
            vec![b'x'; usize::try_from(random.below(if large { 900_000 } else { 60 })).unwrap()];
        let data = (data.len() != 7).then_some(data.as_slice());
        let acl = user(&format!("{}", random.below(5)));
        if random.chance(1, 4) && !is_root && tree.children_count(found) == 0 {
            tree.delete(found, zxid);
            paths.swap_remove(at);
        } else if random.chance(1, 4) {
            let version = tree.stat(found).version + 1;
            tree.set_data(found, data, version, zxid, 7);
        } else {
            let path = format!("{}/{:x}", paths[at], random.next_u64() >> 40);
            if tree.find(&path).is_none() {
                let parent_creations = tree.creations(found) + 1;
                let ephemeral_owner = SessionId(random.below(2));
                let brought =
                    NewNode { ephemeral_owner, parent_creations, zxid, data, ..new(b"", &acl) };
                tree.create(&path, brought);
                paths.push(path);
            }
        }
    }
    tree
}

fn assert_same(left: &Znodes, right: &Znodes) {
    assert_eq!((left.len(), left.digest()), (right.len(), right.digest()));
    assert_eq!(left.approximate_bytes(), right.approximate_bytes());
    let sorted = |view: &Znodes, node| {
        let mut children: Vec<NodeId> = view.children(node).collect();
        children.sort_by_key(|&child| view.name(child).to_owned());
        children
    };
    let mut open = vec![(Tree::ROOT, Tree::ROOT)];
    while let Some((ours, theirs)) = open.pop() {
        assert_eq!(left.name(ours), right.name(theirs));
        assert_eq!(left.stat(ours), right.stat(theirs));
        assert_eq!(left.creations(ours), right.creations(theirs));
        assert_eq!(left.data(ours), right.data(theirs));
        assert_eq!(left.acl(ours), right.acl(theirs));
        open.extend(sorted(left, ours).into_iter().zip(sorted(right, theirs)));
    }
}

#[test]
fn the_bytes_are_the_golden_ones() {
    let bytes = write(&small_tree().freeze(), b"the sessions");
    let mut hex = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
        hex.push('\n');
    }
    assert_eq!(hex, include_str!("golden/image_1.hex"), "released bytes changed:\n{hex}");
    let image = read(&bytes).unwrap();
    assert_eq!(image.header, HEADER);
    assert_eq!(image.sessions, b"the sessions");
    assert_same(&image.tree, &small_tree());
}

#[test]
fn a_random_tree_comes_back_and_gives_the_same_bytes() {
    for seed in 0..8 {
        let mut tree = random_tree(seed, 4000);
        let frozen = tree.freeze();
        let bytes = write(&frozen, &[7; 1000]);
        assert!(bytes.len() > 2 * SNAPSHOT_CHUNK_BYTES, "seed {seed} must need some chunks");
        let image = read(&bytes).unwrap();
        assert_same(&image.tree, &frozen);
        assert_eq!(write(&image.tree.freeze(), &[7; 1000]), bytes, "seed {seed}");
        // The frozen view is what is written, whatever happens meanwhile; and a tree that was read
        // goes on like the one that was written.
        let mut restored = image.tree;
        let late_acl = user("late");
        for tree in [&mut tree, &mut restored] {
            let creations = tree.creations(Tree::ROOT) + 1;
            let late =
                NewNode { parent_creations: creations, zxid: Zxid(1 << 40), ..new(b"", &late_acl) };
            tree.create("/late", late);
            let some = tree.find("/late").unwrap();
            tree.set_acl(some, &user("other"), 9);
            tree.set_data(Tree::ROOT, Some(b"root"), 1, Zxid(1 << 40), 1);
        }
        assert_same(&tree, &restored);
        assert_eq!(write(&frozen, &[7; 1000]), bytes, "seed {seed}");
    }
}

#[test]
fn chunks_may_be_cut_anywhere() {
    let tree = random_tree(3, 300);
    let bytes = write(&tree.freeze(), b"sessions");
    let mut random = Prng::new(5);
    for largest in [1, 2, 100, 10_000] {
        let mut reader = ImageReader::new(1);
        let mut rest = &bytes[..bytes.len().min(40_000 * largest)];
        while !rest.is_empty() {
            let length = random.below(u64::try_from(largest).unwrap()) + 1;
            let (chunk, after) = rest.split_at(rest.len().min(usize::try_from(length).unwrap()));
            reader.on_chunk(chunk).unwrap();
            rest = after;
        }
        if bytes.len() <= 40_000 * largest {
            assert_same(&reader.finish().unwrap().tree, &tree);
        } else {
            assert_eq!(reader.finish().err(), Some(ImageError::Incomplete));
        }
    }
}

/// More children than are sorted in one step, some of which have children themselves.
#[test]
fn a_wide_znode_is_written_in_order_by_bounded_steps() {
    const COUNT: i32 = 50_000;
    let everyone = user("everyone");
    let mut tree = Tree::new();
    let wide = tree.create("/wide", new(b"", &everyone));
    for number in 1..=COUNT {
        // Scatters the order of creation; 7 and the count have no common factor.
        let name = number.wrapping_mul(7) % COUNT;
        let child = NewNode { parent_creations: number, ..new(b"", &everyone) };
        tree.create(&format!("/wide/{name}"), child);
        if name % 1000 == 0 {
            tree.create(&format!("/wide/{name}/below"), new(b"", &everyone));
        }
    }
    let mut writer = ImageWriter::new(HEADER, tree.freeze(), Vec::new());
    let mut first = Vec::new();
    let mut calls_without_a_chunk = 0;
    while first.is_empty() {
        assert!(writer.next_chunk(&mut first));
        calls_without_a_chunk += u32::from(first.is_empty());
    }
    assert!(calls_without_a_chunk >= 4, "sorting must be spread: {calls_without_a_chunk}");
    // The reader refuses any other order.
    let image = read(&write(&tree.freeze(), &[])).unwrap();
    assert_eq!(image.tree.stat(wide), tree.stat(wide));
    assert_same(&image.tree, &tree);
}

#[test]
fn the_deepest_path_comes_back() {
    let mut tree = Tree::new();
    let mut path = String::new();
    for _ in 0..256 {
        path += "/d";
        tree.create(&path, new(b"deep", &user("one")));
    }
    let image = read(&write(&tree.freeze(), &[])).unwrap();
    assert_same(&image.tree, &tree);
    assert!(image.tree.find(&path).is_some());
}

#[test]
fn a_damaged_image_is_refused_wherever_the_damage_is() {
    let bytes = write(&small_tree().freeze(), b"the sessions");
    let sessions_start = bytes.len() - b"the sessions".len();
    for end in 0..bytes.len() {
        assert_eq!(read(&bytes[..end]).err(), Some(ImageError::Incomplete), "cut at {end}");
    }
    // Shard, zxid and the sessions are the only bytes that nothing in the image can contradict.
    let unchecked = |at| (10..20).contains(&at) || at >= sessions_start;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let refused = read(&damaged).is_err();
            assert_eq!(refused, !unchecked(at), "bit {bit} of byte {at}");
        }
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(read(&longer).err(), Some(ImageError::TooLong));
}

#[test]
fn errors_say_what_is_wrong_and_stay() {
    let bytes = write(&small_tree().freeze(), &[]);
    let with = |at: usize, patch: &[u8]| {
        let mut damaged = bytes.clone();
        damaged[at..at + patch.len()].copy_from_slice(patch);
        read(&damaged).err()
    };
    let root = HEADER_BYTES;
    assert_eq!(with(0, b"ZKSN"), Some(ImageError::NotAnImage));
    assert_eq!(with(8, &[2, 0]), Some(ImageError::UnknownFormat(2)));
    assert_eq!(with(20, &[0; 8]), Some(ImageError::BadShape));
    assert_eq!(with(36, &[0]), Some(ImageError::WrongDigest));
    assert_eq!(with(root, &[1]), Some(ImageError::BadShape));
    assert_eq!(with(root + 2, &[4]), Some(ImageError::BadShape));
    // Empty data that is said to be null, and null that has a length.
    assert_eq!(with(root + 2, &[3]), Some(ImageError::WrongDigest));
    assert_eq!(with(root + 2, &[3, 0, 0, 0, 0, 0, 0, 1]), Some(ImageError::BadShape));
    assert_eq!(with(root + 3, &[1]), Some(ImageError::BadAcl));
    assert_eq!(with(root + 9, &[0xff; 4]), Some(ImageError::TooLarge));
    let find = |name: &[u8]| bytes.windows(name.len()).position(|window| window == name);
    let name_of_a = find(b"a\x01\0\0\0").unwrap();
    assert_eq!(with(name_of_a, b"/"), Some(ImageError::BadName));
    assert_eq!(with(name_of_a, &[0xff]), Some(ImageError::BadName));
    assert_eq!(with(name_of_a, b"c"), Some(ImageError::BadShape));

    let mut reader = ImageReader::new(0);
    let mut foreign = bytes.clone();
    foreign[0] = 0;
    assert_eq!(reader.on_chunk(&foreign), Err(ImageError::NotAnImage));
    assert_eq!(reader.on_chunk(&bytes), Err(ImageError::NotAnImage));
    assert_eq!(reader.finish().err(), Some(ImageError::NotAnImage));
}

/// A valid header and anything behind it, and a valid image with many bytes changed.
#[test]
fn arbitrary_bytes_are_refused_and_never_panic() {
    let bytes = write(&random_tree(1, 200).freeze(), &[]);
    let mut random = Prng::new(9);
    for _ in 0..3000 {
        let mut damaged = bytes.clone();
        let start = HEADER_BYTES + usize::try_from(random.below(2000)).unwrap();
        let end = start + usize::try_from(random.below(40) + 16).unwrap();
        for byte in &mut damaged[start..end] {
            // Small numbers get further into the reader than random ones.
            let small = u8::try_from(random.below(3)).unwrap();
            *byte = if random.chance(1, 2) { small } else { random.next_u64().to_le_bytes()[0] };
        }
        assert!(read(&damaged).is_err());
    }
}
