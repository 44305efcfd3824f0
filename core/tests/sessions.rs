//! The life of a session: in its home, in the shards where it is attached, and in bytes.

mod leader;

use std::collections::BTreeSet;

use leader::{Client, Leader, delete, ephemeral, plain};
use pigeonhole_core::base::bytes::Reader;
use pigeonhole_core::base::error::ErrorCode::{
    BadArguments, ConnectionLoss, SessionExpired, SessionMoved,
};
use pigeonhole_core::base::id::{Generation, SessionId, ShardId, Zxid};
use pigeonhole_core::base::limits::{PURGE_BYTES_MAX, PURGE_PATHS_MAX};
use pigeonhole_core::op::{EventType, Request};
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::state::apply::SessionChange;
use pigeonhole_core::state::image::{Image, ImageHeader};
use pigeonhole_core::state::session::{FIRST_GENERATION, Sessions};
use pigeonhole_core::state::session_prep::SessionRequest;
use pigeonhole_core::state::tree::{NewNode, Tree};
use pigeonhole_core::txn::Operation;

const PASSWORD: [u8; 16] = *b"0123456789abcdef";

fn begin(session: SessionId) -> SessionRequest<'static> {
    SessionRequest::Create { session, password: PASSWORD, timeout_ms: 4000 }
}

fn close(session: SessionId) -> SessionRequest<'static> {
    SessionRequest::Close { session, generation: None }
}

/// A session of two shards: its home, and one where it is attached. The test carries the messages.
struct Pair {
    home: Leader,
    other: Leader,
    session: SessionId,
}

impl Pair {
    fn new() -> Self {
        let map = ShardMap::new(4);
        let session = SessionId(1 << 56 | 5);
        let home = map.home_of(session);
        let other = map.shards().find(|shard| *shard != home).expect("there are four");
        let mut pair = Self { home: Leader::of(home, map), other: Leader::of(other, map), session };
        pair.home.session(&begin(session)).expect("it is new");
        pair.home.apply_all();
        pair
    }

    fn attach(&mut self) -> Zxid {
        let request = SessionRequest::Attach {
            session: self.session,
            generation: FIRST_GENERATION,
            shard: self.other.state.shard(),
        };
        let attached_at = self.home.session(&request).expect("it lives").done_at;
        self.home.apply_all();
        attached_at
    }

    /// The client, as its server forwards its writes before it knows that the session is open.
    fn client(&self, attachment: Zxid) -> Client {
        let mut client = Client::new(self.session);
        client.attachment = Some(attachment);
        client
    }

    /// A path that lives in the other shard.
    fn path(&self) -> String {
        let shard = self.other.state.shard();
        (0..)
            .map(|number| format!("/top{number}"))
            .find(|path| self.other.state.map().shard_of(path) == shard)
            .expect("names are spread over the shards")
    }

    fn is_over_in_other(&self, attachment: Zxid) -> bool {
        let sessions = self.other.state.sessions();
        sessions.is_over(self.session, self.home.state.shard(), attachment)
    }
}

/// With one shard, every step of a session is one transaction, and its end is one zxid.
#[test]
#[expect(clippy::too_many_lines, reason = "a story is read better in one piece")]
fn the_life_of_a_session_in_one_shard() {
    let mut leader = Leader::new();
    let session = SessionId(1 << 56 | 9);
    let zxid = leader.zxid;
    let prepared = leader.session(&begin(session)).unwrap();
    assert_eq!(
        prepared.operations,
        [
            Operation::SessionCreate { session: session.0, password: PASSWORD, timeout_ms: 4000 },
            Operation::SessionAttach { session: session.0, shard: 0 },
            Operation::SessionOpen { session: session.0, generation: 1, home_zxid: zxid.0 },
        ]
    );
    // It may write before its creation is applied.
    let mut client = Client::new(session);
    leader.write(&client, &ephemeral("/mine")).unwrap();
    leader.apply_all();
    let home = leader.state.sessions().home(session).unwrap();
    assert_eq!(home.attachments(), [(ShardId(0), zxid)]);
    assert_eq!((home.timeout_ms, home.generation), (4000, FIRST_GENERATION));

    let wrong = *b"0123456789abcdeF";
    for password in [&wrong[..], &PASSWORD[..15], &[], &[0; 17]] {
        let refusal = leader.session(&SessionRequest::Renew { session, password }).unwrap_err();
        assert_eq!(refusal.code, SessionExpired, "{password:?}");
    }
    let renew = SessionRequest::Renew { session, password: &PASSWORD };
    let renewed = leader.session(&renew).unwrap();
    assert_eq!(
        renewed.operations,
        [
            Operation::SessionRenew { session: session.0, generation: 2 },
            Operation::SessionAdvance { session: session.0, generation: 2 },
        ]
    );
    // The old connection is fenced before the change is applied, and may not close it either.
    assert_eq!(leader.write(&client, &plain("/late")).unwrap_err().code, SessionMoved);
    let request = SessionRequest::Close { session, generation: Some(FIRST_GENERATION) };
    assert_eq!(leader.session(&request).unwrap_err().code, SessionMoved);
    client.generation = Generation(2);
    leader.write(&client, &plain("/new")).unwrap();
    leader.apply_all();

    leader.write(&client, &ephemeral("/pending")).unwrap();
    let ended = leader.session(&close(session)).unwrap();
    assert_eq!(
        ended.operations,
        [
            Operation::SessionClosing { session: session.0 },
            Operation::SessionFence { session: session.0 },
            Operation::SessionPurge {
                session: session.0,
                paths: vec!["/mine".to_string(), "/pending".to_string()],
                last: true,
            },
            Operation::SessionEnd { session: session.0 },
        ]
    );
    assert_eq!(leader.write(&client, &plain("/late")).unwrap_err().code, SessionExpired);
    assert_eq!(leader.session(&renew).unwrap_err().code, SessionExpired);
    assert_eq!(leader.session(&close(session)).unwrap_err().code, SessionExpired);
    assert_eq!(leader.session(&begin(session)).unwrap_err().code, SessionExpired);
    leader.apply_all();
    assert_eq!(
        leader.session_changes(),
        [
            SessionChange::Closing { session },
            SessionChange::Fenced { session },
            SessionChange::Purged { session, is_last: true },
            SessionChange::Ended { session },
        ]
    );
    let deleted: Vec<_> = leader.applied.changes().map(|change| change.event).collect();
    assert_eq!(deleted, [EventType::NodeDeleted; 2]);
    assert_eq!(leader.children("/"), ["new", "zookeeper"]);
    assert_eq!(leader.session(&begin(session)).unwrap_err().code, SessionExpired);
    let sessions = leader.state.sessions();
    assert_eq!((sessions.homes_count(), sessions.attached_count()), (0, 0));
    assert_eq!(sessions.tombstones_count(), 0, "the home itself remembers");
}

#[test]
fn a_session_begins_once() {
    let mut leader = Leader::new();
    let session = SessionId(1 << 56 | 9);
    let made = leader.session(&begin(session)).unwrap().done_at;
    let refusal = leader.session(&begin(session)).unwrap_err();
    assert_eq!((refusal.code, refusal.judged_by), (SessionExpired, made));
    leader.apply_all();
    assert_eq!(leader.session(&begin(session)).unwrap_err().code, SessionExpired);
}

#[test]
fn a_session_of_two_shards_fences_everywhere_before_anything_vanishes() {
    let mut pair = Pair::new();
    let attachment = pair.attach();
    assert_eq!(pair.attach(), attachment, "attaching again is the same attachment");
    let path = pair.path();
    let mut client = pair.client(attachment);

    // A refused write opens nothing; the next one carries the open with it.
    let refusal = pair.other.write(&client, &plain("/zookeeper/x/y")).unwrap_err();
    assert_ne!(refusal.code, SessionExpired);
    assert!(pair.other.overlay.is_empty());
    pair.other.write(&client, &ephemeral(&path)).unwrap();
    assert!(matches!(
        pair.other.pending[0].1.operations[..],
        [Operation::SessionOpen { .. }, Operation::Create { .. }]
    ));
    pair.other.apply_all();
    assert_eq!(pair.other.outcomes().len(), 1, "only the client's operations have results");
    // Told again that it is attached, it is not opened again.
    pair.other.write(&client, &leader::set(&path, -1)).unwrap();
    assert_eq!(pair.other.pending[0].1.operations.len(), 1);
    pair.other.apply_all();
    client.attachment = None;

    let closing = pair.home.session(&close(pair.session)).unwrap();
    assert_eq!(
        closing.operations,
        [
            Operation::SessionClosing { session: pair.session.0 },
            Operation::SessionFence { session: pair.session.0 },
        ]
    );
    assert_eq!(pair.home.session(&close(pair.session)).unwrap().operations, []);
    let attach = SessionRequest::Attach {
        session: pair.session,
        generation: FIRST_GENERATION,
        shard: ShardId(3),
    };
    assert_eq!(pair.home.session(&attach).unwrap_err().code, SessionExpired);
    pair.home.apply_all();
    assert!(pair.home.state.sessions().home(pair.session).unwrap().is_closing);
    // Its client is not told that it is over while its ephemerals stand: it asks again.
    let renew = SessionRequest::Renew { session: pair.session, password: &PASSWORD };
    assert_eq!(pair.home.session(&renew).unwrap_err().code, ConnectionLoss);

    // The other shard goes on until it hears of it.
    let fence = SessionRequest::Fence { session: pair.session, home_zxid: closing.done_at };
    pair.other.session(&fence).unwrap();
    let refusal = pair.other.write(&client, &delete(&path, -1)).unwrap_err();
    assert_eq!(refusal.code, SessionExpired);
    pair.other.apply_all();
    assert!(pair.other.exists(&path), "fenced, not gone");
    assert_eq!(pair.other.session(&fence).unwrap().operations, []);
    assert!(!pair.is_over_in_other(attachment));

    for leader in [&mut pair.home, &mut pair.other] {
        let purge = SessionRequest::Purge { session: pair.session };
        assert_eq!(leader.session(&purge).unwrap().operations.len(), 1);
        leader.apply_all();
        assert_eq!(leader.session(&purge).unwrap().operations, []);
    }
    assert!(!pair.other.exists(&path));
    assert!(pair.is_over_in_other(attachment));
    let end = SessionRequest::End { session: pair.session };
    pair.home.session(&end).unwrap();
    pair.home.apply_all();
    assert_eq!(pair.home.session_changes(), [SessionChange::Ended { session: pair.session }]);
    assert_eq!(pair.home.session(&end).unwrap().operations, []);
    assert_eq!(pair.home.session(&renew).unwrap_err().code, SessionExpired);
    assert!(pair.other.state.sessions().has_tombstone(pair.session));
}

/// The open was on its way while the session ended: a tombstone refuses it, then the floor does.
#[test]
fn a_late_open_is_refused() {
    let mut pair = Pair::new();
    let attachment = pair.attach();
    let closing = pair.home.session(&close(pair.session)).unwrap().done_at;
    pair.home.apply_all();
    let fence = SessionRequest::Fence { session: pair.session, home_zxid: closing };
    pair.other.session(&fence).unwrap();
    let path = pair.path();
    let client = pair.client(attachment);
    let open = SessionRequest::Open {
        session: pair.session,
        generation: FIRST_GENERATION,
        home_zxid: attachment,
    };
    let is_refused = |pair: &mut Pair, when: &str| {
        let late = pair.other.write(&client, &plain(&path)).unwrap_err();
        assert_eq!(late.code, SessionExpired, "{when}");
        assert_eq!(pair.other.session(&open).unwrap_err().code, SessionExpired, "{when}");
    };
    is_refused(&mut pair, "the fence is pending");
    pair.other.apply_all();
    is_refused(&mut pair, "fenced");
    pair.other.session(&SessionRequest::Purge { session: pair.session }).unwrap();
    is_refused(&mut pair, "the purge is pending");
    pair.other.apply_all();
    is_refused(&mut pair, "a tombstone");
    assert_eq!(pair.other.session(&fence).unwrap().operations, []);

    // A floor below the tombstone frees nothing, even if it is above the attachment: the shard does
    // not know the attachment's zxid.
    let home = pair.home.state.shard();
    for (floor, tombstones) in [(attachment, 1), (closing, 1), (closing.next(), 0)] {
        let raise = SessionRequest::Floor { home, home_zxid: floor };
        pair.other.session(&raise).unwrap();
        is_refused(&mut pair, "a floor is pending");
        pair.other.apply_all();
        assert_eq!(pair.other.state.sessions().tombstones_count(), tombstones, "{floor}");
        is_refused(&mut pair, "a floor");
        assert_eq!(pair.other.session(&raise).unwrap().operations, []);
    }
    assert!(pair.is_over_in_other(attachment));
    // A fence that is repeated after everything is forgotten brings nothing back.
    assert_eq!(pair.other.session(&fence).unwrap().operations, []);
    // Another session, attached above the floor, is welcome; so is another home's.
    let mut later = client.clone();
    later.session = (6..)
        .map(|number| SessionId(1 << 56 | number))
        .find(|session| pair.other.state.map().home_of(*session) == home)
        .unwrap();
    later.attachment = Some(closing.next());
    pair.other.write(&later, &plain(&path)).unwrap();
    pair.other.apply_all();
}

#[test]
fn a_floor_frees_only_its_own_homes_tombstones() {
    let mut pair = Pair::new();
    let attachment = pair.attach();
    let closing = pair.home.session(&close(pair.session)).unwrap().done_at;
    let fence = SessionRequest::Fence { session: pair.session, home_zxid: closing };
    pair.other.session(&fence).unwrap();
    pair.other.session(&SessionRequest::Purge { session: pair.session }).unwrap();
    let home = pair.home.state.shard();
    let foreign = pair.other.state.map().shards().find(|shard| *shard != home).unwrap();
    let floor = SessionRequest::Floor { home: foreign, home_zxid: Zxid(u64::MAX) };
    pair.other.session(&floor).unwrap();
    pair.other.apply_all();
    assert!(pair.other.state.sessions().has_tombstone(pair.session));
    assert!(pair.is_over_in_other(attachment));
}

#[test]
fn a_new_generation_fences_the_old_one_in_every_shard() {
    let mut pair = Pair::new();
    let attachment = pair.attach();
    let mut old = pair.client(attachment);
    let path = pair.path();
    pair.other.write(&old, &plain(&path)).unwrap();
    pair.other.apply_all();
    let mut new = old.clone();
    new.generation = Generation(2);
    let advance = SessionRequest::Advance { session: pair.session, generation: Generation(2) };
    assert_eq!(pair.other.session(&advance).unwrap().operations.len(), 1);
    assert_eq!(pair.other.write(&old, &delete(&path, -1)).unwrap_err().code, SessionMoved);
    old.attachment = None;
    assert_eq!(pair.other.write(&old, &delete(&path, -1)).unwrap_err().code, SessionMoved);
    pair.other.write(&new, &delete(&path, -1)).unwrap();
    assert_eq!(pair.other.session(&advance).unwrap().operations, []);
    pair.other.apply_all();
    let stale = SessionRequest::Advance { session: pair.session, generation: Generation(1) };
    assert_eq!(pair.other.session(&stale).unwrap_err().code, SessionMoved);
    // A write of a still newer generation fences the older ones by itself.
    new.generation = Generation(3);
    pair.other.write(&new, &plain(&path)).unwrap();
    old.generation = Generation(2);
    assert_eq!(pair.other.write(&old, &delete(&path, -1)).unwrap_err().code, SessionMoved);
    pair.other.apply_all();
    assert!(
        pair.other.session_changes().contains(&SessionChange::Advanced {
            session: pair.session,
            generation: Generation(3),
        })
    );
    // The home knows which generations it gave out.
    let renew = SessionRequest::Renew { session: pair.session, password: &PASSWORD };
    pair.home.session(&renew).unwrap();
    let attach = SessionRequest::Attach {
        session: pair.session,
        generation: FIRST_GENERATION,
        shard: ShardId(3),
    };
    assert_eq!(pair.home.session(&attach).unwrap_err().code, SessionMoved);
}

/// More ephemerals than one purge may hold, some of them pending, some touched by others.
#[test]
fn a_large_session_goes_in_chunks() {
    for name_length in [4, 1000] {
        let mut leader = Leader::new();
        let client = leader.client(1);
        let witness = leader.client(2);
        let name = |number: usize| format!("/{}{number:05}", "e".repeat(name_length));
        let count = 2 * PURGE_PATHS_MAX + 10;
        for number in 0..count {
            leader.write(&client, &ephemeral(&name(number))).unwrap();
            if number < count - 5 {
                leader.apply_all();
            }
        }
        // Pending: the last five, the first one's deletion, and the second one's taking over.
        leader.write(&witness, &delete(&name(0), -1)).unwrap();
        let taken = name(1);
        let take_over = [delete(&taken, -1), plain(&taken)];
        leader.write(&witness, &Request::Multi(take_over.to_vec())).unwrap();
        leader.session(&close(client.session)).unwrap();
        let mut purged = BTreeSet::new();
        let mut is_over = false;
        for chunk in 0..1000 {
            let purge = SessionRequest::Purge { session: client.session };
            let prepared = leader.session(&purge).unwrap();
            let [Operation::SessionPurge { paths, last, .. }] = &prepared.operations[..] else {
                panic!("{prepared:?}");
            };
            let bytes: usize = paths.iter().map(String::len).sum();
            assert!(paths.len() <= PURGE_PATHS_MAX && bytes <= PURGE_BYTES_MAX);
            purged.extend(paths.iter().cloned());
            // Sometimes chunks follow each other before they are applied.
            if chunk % 2 == 1 {
                leader.apply_all();
            }
            if *last {
                is_over = true;
                break;
            }
        }
        assert!(is_over);
        assert_eq!(purged, (2..count).map(name).collect());
        leader.session(&SessionRequest::End { session: client.session }).unwrap();
        leader.apply_all();
        let left = &name(1)[1..];
        assert_eq!(leader.children("/"), [left, "zookeeper"]);
        assert_eq!(leader.stat("/").children_count, 2);
    }
}

/// Somebody else deletes an ephemeral: its owner does not delete it again.
#[test]
fn ephemerals_belong_to_their_session_until_they_go() {
    let mut leader = Leader::new();
    let owner = leader.client(1);
    let other = leader.client(2);
    leader.run(&owner, &ephemeral("/e")).unwrap();
    let owned = |leader: &Leader| -> Vec<String> {
        let attached = leader.state.sessions().attached(owner.session).unwrap();
        attached.ephemerals().map(str::to_string).collect()
    };
    assert_eq!(owned(&leader), ["/e"]);
    leader.run(&other, &delete("/e", -1)).unwrap();
    assert!(owned(&leader).is_empty());
    leader.run(&other, &ephemeral("/e")).unwrap();
    leader.session(&close(owner.session)).unwrap();
    leader.apply_all();
    assert!(leader.exists("/e"));
    assert_eq!(leader.state.sessions().ephemerals_count(), 1);
}

#[test]
#[should_panic(expected = "ends when nothing of it is left")]
fn a_session_does_not_end_before_its_shard_is_done() {
    let mut pair = Pair::new();
    pair.attach();
    pair.home.session(&close(pair.session)).unwrap();
    pair.home.session(&SessionRequest::End { session: pair.session }).unwrap();
}

#[test]
fn nothing_is_purged_before_the_fence() {
    let mut leader = Leader::new();
    let client = leader.client(1);
    leader.run(&client, &ephemeral("/e")).unwrap();
    let refusal = leader.session(&SessionRequest::Purge { session: client.session }).unwrap_err();
    assert_eq!(refusal.code, BadArguments);
    leader.apply_all();
    assert!(leader.exists("/e"));
    leader.run(&client, &ephemeral("/f")).expect("it may still write");
}

fn rich_state() -> Leader {
    let map = ShardMap::new(1);
    let mut leader = Leader::of(ShardId(0), map);
    for number in [200, 3, 77] {
        let client = leader.client(number);
        leader.run(&client, &ephemeral(&format!("/e{number}"))).expect("it is fine");
    }
    let gone = SessionId(1 << 56 | 77);
    leader.session(&close(gone)).expect("it is fine");
    let session = SessionId(1 << 56 | 3);
    leader.session(&SessionRequest::Renew { session, password: &[7; 16] }).expect("it is fine");
    leader.apply_all();
    leader
}

/// The same tree, built anew.
/// As it would come from a snapshot with these tables.
fn image(header: ImageHeader, tree: &Tree, tables: &[u8]) -> Image {
    let mut copy = Tree::new();
    let mut ephemerals = Vec::new();
    let mut paths = Vec::new();
    let mut waiting = vec![Tree::ROOT];
    while let Some(node) = waiting.pop() {
        paths.push(tree.path(node));
        waiting.extend(tree.children(node));
    }
    paths.sort();
    for path in &paths[1..] {
        let node = tree.find(path).expect("it was just found");
        let parent = tree.parent(node).expect("the root is left out");
        let stat = tree.stat(node);
        let new = NewNode {
            data: tree.data(node),
            acl: tree.acl(node),
            ephemeral_owner: stat.ephemeral_owner,
            parent_creations: tree.creations(parent),
            zxid: stat.czxid,
            time_ms: stat.ctime_ms,
        };
        copy.create(path, new);
        if stat.ephemeral_owner != SessionId(0) {
            ephemerals.push((stat.ephemeral_owner, path.clone()));
        }
    }
    Image { header, tree: copy, ephemerals, sessions: tables.to_vec() }
}

#[test]
fn the_tables_are_these_bytes() {
    let leader = rich_state();
    let mut bytes = Vec::new();
    leader.state.freeze_tables().encode(&mut bytes);
    let zxid = |counter: u8| [counter, 0, 0, 0, 1, 0, 0, 0];
    let id = |number: u8| [number, 0, 0, 0, 0, 0, 0, 1];
    let golden = [
        // Points.
        &[0; 32][..],
        // No admitted disks.
        &[0],
        // Format; two homes, ascending: password, timeout, generation, closing, attachments.
        &[1, 2, 0, 0, 0],
        &id(3),
        &[7; 16],
        &[0xa0, 0x0f, 0, 0],
        &[2, 0, 0, 0],
        &[0],
        &[1, 0, 0, 0],
        &zxid(3),
        &id(200),
        &[7; 16],
        &[0xa0, 0x0f, 0, 0],
        &[1, 0, 0, 0],
        &[0],
        &[1, 0, 0, 0],
        &zxid(1),
        // Two attached: generation, home zxid, fenced.
        &[2, 0, 0, 0],
        &id(3),
        &[2, 0, 0, 0],
        &zxid(3),
        &[0],
        &id(200),
        &[1, 0, 0, 0],
        &zxid(1),
        &[0],
        // No tombstones, no floors, one that ended.
        &[0; 8],
        &[1, 0, 0, 0],
        &id(77),
    ]
    .concat();
    assert_eq!(bytes, golden);
}

#[test]
fn a_state_is_restored_from_its_tree_and_tables() {
    let leader = rich_state();
    let mut bytes = Vec::new();
    leader.state.freeze_tables().encode(&mut bytes);
    let restore = |bytes: &[u8]| {
        let header = ImageHeader { shard: ShardId(0), zxid: leader.state.applied() };
        State::from_image(image(header, leader.state.tree(), bytes), leader.state.map())
    };
    let restored = restore(&bytes).unwrap_or_else(|error| panic!("{error:?}"));
    let mut again = Vec::new();
    restored.freeze_tables().encode(&mut again);
    assert_eq!(again, bytes);
    for session in [3, 200].map(|number| SessionId(1 << 56 | number)) {
        assert_eq!(restored.sessions().home(session), leader.state.sessions().home(session));
        let attached = restored.sessions().attached(session);
        assert_eq!(attached, leader.state.sessions().attached(session), "with its ephemerals");
        assert_eq!(attached.unwrap().ephemerals_count(), 1);
    }
    // It goes on where the other stopped.
    let mut twin = Leader::new();
    twin.state = restored;
    twin.zxid = leader.zxid;
    twin.session(&close(SessionId(1 << 56 | 3))).unwrap();
    twin.apply_all();
    assert_eq!(twin.children("/"), ["e200", "zookeeper"]);

    for length in 0..bytes.len() {
        assert!(restore(&bytes[..length]).is_err(), "cut at {length}");
    }
    assert!(restore(&[bytes.as_slice(), &[0]].concat()).is_err(), "more than there should be");
    for (offset, value) in [(33, 2), (70, 2)] {
        let mut broken = bytes.clone();
        broken[offset] = value;
        assert!(restore(&broken).is_err(), "byte {offset}");
    }
    // An ephemeral whose session is not there.
    let mut nobody = Vec::from([0; 33]);
    Sessions::new(ShardId(0)).encode(&mut nobody);
    assert!(restore(&nobody).is_err());
}

#[test]
fn a_state_of_another_cluster_is_refused() {
    let (few, many) = (ShardMap::new(2), ShardMap::new(3));
    let is_home = |it: &SessionId| [few, many].iter().all(|map| map.home_of(*it) == ShardId(0));
    let session = (1..).map(SessionId).find(is_home).unwrap();
    let mut leader = Leader::of(ShardId(0), many);
    leader.session(&begin(session)).unwrap();
    let (generation, shard) = (FIRST_GENERATION, ShardId(2));
    leader.session(&SessionRequest::Attach { session, generation, shard }).unwrap();
    leader.apply_all();
    let mut bytes = Vec::new();
    leader.state.freeze_tables().encode(&mut bytes);
    let restores = |shard, map| {
        let header = ImageHeader { shard, zxid: leader.state.applied() };
        State::from_image(image(header, leader.state.tree(), &bytes), map).is_ok()
    };
    assert!(restores(ShardId(0), many));
    assert!(!restores(ShardId(0), few), "it is attached to a shard that is not");
    assert!(!restores(ShardId(1), many), "its home is another shard");
}

#[test]
fn every_table_survives_encoding() {
    let mut pair = Pair::new();
    pair.attach();
    let closing = pair.home.session(&close(pair.session)).unwrap().done_at;
    pair.home.apply_all();
    let home = pair.home.state.shard();
    let other = &mut pair.other;
    other.session(&SessionRequest::Floor { home, home_zxid: Zxid(2) }).unwrap();
    for number in 0..3 {
        let session = SessionId(1 << 56 | (100 + number));
        other.session(&SessionRequest::Fence { session, home_zxid: closing }).unwrap();
        if number > 0 {
            other.session(&SessionRequest::Purge { session }).unwrap();
        }
    }
    other.apply_all();
    for state in [&pair.home.state, &pair.other.state] {
        let mut bytes = Vec::new();
        state.sessions().encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        let decoded = Sessions::decode(state.shard(), &mut reader).unwrap();
        assert!(reader.is_empty());
        let mut again = Vec::new();
        decoded.encode(&mut again);
        assert_eq!(again, bytes);
        assert_eq!(decoded.tombstones_count(), state.sessions().tombstones_count());
        assert_eq!(decoded.floor(home), state.sessions().floor(home));
    }
    assert_eq!(pair.other.state.sessions().tombstones_count(), 2);
}

/// Frozen tables do not move when the state does.
#[test]
fn frozen_tables_stay() {
    let mut leader = rich_state();
    let frozen = leader.state.freeze_tables();
    let mut before = Vec::new();
    frozen.encode(&mut before);
    let client = leader.client(4);
    leader.run(&client, &ephemeral("/later")).unwrap();
    leader.session(&close(SessionId(1 << 56 | 3))).unwrap();
    leader.apply_all();
    let mut after = Vec::new();
    frozen.encode(&mut after);
    assert_eq!(after, before);
    let mut living = Vec::new();
    leader.state.freeze_tables().encode(&mut living);
    assert_ne!(living, before);
}

#[test]
fn a_leader_that_loses_its_role_forgets_what_was_pending() {
    let mut leader = Leader::new();
    let client = leader.client(1);
    leader.write(&client, &plain("/never")).unwrap();
    leader.session(&close(client.session)).unwrap();
    assert_eq!(
        leader.write(&client, &plain("/x")).map_err(|refusal| refusal.code),
        Err(SessionExpired)
    );
    leader.overlay.clear();
    leader.pending.clear();
    leader.run(&client, &plain("/never")).unwrap();
}
