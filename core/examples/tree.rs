//! What a znode costs: memory beyond its name and data, and the times of the tree's operations.
//!
//! `cargo run --release -p pigeonhole-core --example tree -- [znodes]`
#![expect(clippy::print_stdout, reason = "printing is what an example is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};
use std::{env, fs};

use pigeonhole_core::base::id::{SessionId, ShardId, Zxid};
use pigeonhole_core::op::permission;
use pigeonhole_core::state::image::{ImageHeader, ImageReader, ImageWriter};
use pigeonhole_core::state::tree::{NewNode, Tree};
use pigeonhole_core::txn::AclEntry;

const DATA: &[u8] = &[7; 46];
const CHILDREN_PER_PARENT: u32 = 100;

fn main() {
    let parents = znodes_wanted() / CHILDREN_PER_PARENT;
    let everyone =
        [AclEntry { permissions: permission::ALL, scheme: "world".into(), id: "anyone".into() }];
    let mut tree = Tree::new();
    let mut new = NewNode {
        data: Some(DATA),
        acl: &everyone,
        ephemeral_owner: SessionId(0),
        parent_creations: 1,
        zxid: Zxid(1),
        time_ms: 1,
    };
    let before = resident_bytes();
    let mut payload = 0;
    let mut longest = Duration::ZERO;
    let mut spent = Duration::ZERO;
    tree.create("/bench", new);
    for parent in 0..parents {
        let path = format!("/bench/parent-{parent:010}");
        tree.create(&path, new);
        payload += 17 + DATA.len();
        for child in 0..CHILDREN_PER_PARENT {
            let path = format!("{path}/child-of-the-znode{child:06}");
            payload += 24 + DATA.len();
            let start = Instant::now();
            tree.create(&path, new);
            longest = longest.max(start.elapsed());
            spent += start.elapsed();
        }
    }
    let children = parents * CHILDREN_PER_PARENT;
    let resident = resident_bytes() - before;
    println!("{} znodes", tree.len());
    println!("memory beyond name and data: {} B a znode", (resident - payload) / tree.len());
    println!("create: mean {:?}, longest {longest:?}", spent / children);
    look_up(&tree, parents);
    new.parent_creations = 2;
    freeze(&mut tree, new);
    image(&tree);
}

fn znodes_wanted() -> u32 {
    let count = env::args().nth(1);
    let count = count.map(|count| count.parse().expect("the number of znodes"));
    count.unwrap_or(1_000_000)
}

/// The same path again and again, then paths all over the tree.
fn look_up(tree: &Tree, parents: u32) {
    let spell = |parent: u32| format!("/bench/parent-{parent:010}/child-of-the-znode{:06}", 42);
    let hot = spell(parents / 2);
    let start = Instant::now();
    for _ in 0..1_000_000 {
        assert!(tree.find(black_box(&hot)).is_some());
    }
    println!("find, hot: {:?}", start.elapsed() / 1_000_000);
    let scattered: Vec<String> =
        (0..100_000u32).map(|number| spell(number.wrapping_mul(0x9e37_79b1) % parents)).collect();
    let start = Instant::now();
    for path in &scattered {
        assert!(tree.find(black_box(path)).is_some());
    }
    println!("find, scattered: {:?}", start.elapsed() / 100_000);
}

fn freeze(tree: &mut Tree, new: NewNode<'_>) {
    let start = Instant::now();
    let frozen = tree.freeze();
    println!("freeze: {:?}", start.elapsed());
    let start = Instant::now();
    tree.create("/bench/parent-0000000000/late", new);
    println!("first create after it: {:?}", start.elapsed());
    assert!(frozen.len() < tree.len());
}

/// To chunks and back.
fn image(tree: &Tree) {
    let header = ImageHeader { shard: ShardId(0), zxid: Zxid(1) };
    let mut writer = ImageWriter::new(header, tree.freeze(), Vec::new());
    let mut chunks = Vec::new();
    let mut longest = Duration::ZERO;
    let start = Instant::now();
    loop {
        let mut chunk = Vec::new();
        let call = Instant::now();
        let goes_on = writer.next_chunk(&mut chunk);
        longest = longest.max(call.elapsed());
        chunks.push(chunk);
        if !goes_on {
            break;
        }
    }
    let bytes: usize = chunks.iter().map(Vec::len).sum();
    let spent = start.elapsed();
    println!("image written: {bytes} B in {spent:?}, longest call {longest:?}");
    let mut reader = ImageReader::new(0);
    let start = Instant::now();
    for chunk in &chunks {
        reader.on_chunk(chunk).expect("it was written just now");
    }
    let image = reader.finish().expect("it was written just now");
    println!("image read: {:?}", start.elapsed());
    assert_eq!(image.tree.digest(), tree.digest());
}

/// The second number of `statm`, in pages of 4 KiB.
fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("a Linux machine");
    let pages = statm.split(' ').nth(1).expect("statm has seven numbers");
    pages.parse::<usize>().expect("they are numbers") * 4096
}
