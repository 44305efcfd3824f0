//! What a turn has room for, and for whom: who asks for much must not make the others wait.

mod alone;

use alone::{Alone, CONNECTION, create, nth, read_from_afar, request};
use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{CoreId, Zxid};
use pigeonhole_core::base::limits::{
    INPUT_BYTES_PAUSE, REQUESTS_PER_TURN_MAX, REQUESTS_PER_TURN_OF_ALL, RESPONSE_BYTES_MAX,
    TURN_SHARE_BYTES,
};
use pigeonhole_core::durable::{Durable, LogMark};
use pigeonhole_core::effect::{Crowd, Effect, Input};
use pigeonhole_core::mail::{Mail, Outcome, What};
use pigeonhole_core::op::{CreateMode, OpCode, Request, SetWatches};
use pigeonhole_core::peer::message::Touched;
use pigeonhole_core::wire::client::{self, MultiResult};

#[test]
fn what_arrives_at_once_is_proposed_and_applied_over_several_turns() {
    let paths: Vec<String> = (0..300).map(|number| format!("/node-{number}")).collect();
    let creates = paths.iter().map(|path| create(path, b"", CreateMode::Persistent));
    let creates: Vec<Request<'_>> = creates.collect();
    let multis = creates.chunks(100).map(|some| Request::Multi(some.to_vec())).collect();
    let singles = creates[..100].to_vec();
    let cases: [(Vec<Request<'_>>, &[usize], &[usize]); 2] =
        [(singles, &[60, 40], &[60, 40]), (multis, &[1, 1, 1], &[100, 100, 100])];
    for (requests, proposed, created) in cases {
        let mut alone = Alone::new(1);
        alone.connect();
        let bytes: Vec<u8> = requests.iter().flat_map(|it| request(1, it)).collect();
        alone.tell(CONNECTION, &bytes);
        let mut last = None;
        let turns = alone.turns(|alone| {
            let appends = alone.effects.drain().filter_map(|effect| match effect {
                Effect::Append(it) => Some(LogMark { shard: it.shard, sequence: it.sequence }),
                _ => None,
            });
            let appends: Vec<_> = appends.collect();
            last = appends.last().copied();
            appends.len()
        });
        assert_eq!(turns, proposed, "the rest waits for nothing");

        let mut before = alone.worker.report().shards[0].znodes;
        let durable = Input::Durable(Durable::attest(last.expect("all are logged")));
        alone.worker.step(alone.now, durable, &mut alone.effects);
        let turns = alone.turns(|alone| {
            let now = alone.worker.report().shards[0].znodes;
            now - core::mem::replace(&mut before, now)
        });
        assert_eq!(turns, created);
        alone.settle();
        assert_eq!(alone.frames().len(), requests.len(), "and every write is answered");
    }
}

/// Other cores may ask for much at once, and in the order in which they ask.
#[test]
fn what_other_cores_read_is_executed_over_several_turns() {
    const READS: u64 = 20;
    let mut alone = Alone::new(1);
    alone.connect();
    let data = [7; 10 * TURN_SHARE_BYTES];
    alone.send(&request(1, &create("/a", &data, CreateMode::Persistent)));
    alone.worker.step(alone.now, Input::TurnEnd { share: 60 }, &mut alone.effects);
    let body = request(0, &Request::GetData { path: "/a", watch: false });
    for ticket in 1..=READS {
        alone.ask_from_afar(ticket, read_from_afar(OpCode::GetData, &body));
    }
    let mut answered = vec![];
    let mut turns = vec![];
    loop {
        let answers = alone.effects.drain().filter_map(|effect| match effect {
            Effect::Mail { to: CoreId(1), mail: Mail::Answer { ticket, outcome, .. } } => {
                let is_found = matches!(outcome, Outcome::Reply { code: ErrorCode::Ok, .. });
                Some((ticket.0, is_found))
            }
            _ => None,
        });
        let before = answered.len();
        answered.extend(answers);
        turns.push(answered.len() - before);
        if !alone.worker.is_in_haste() {
            break;
        }
        alone.worker.step(alone.now, Input::TurnEnd { share: 60 }, &mut alone.effects);
    }
    // Eleven for each: its bytes, and one for itself.
    assert_eq!(turns, [6, 6, 6, 2]);
    assert_eq!(answered, (1..=READS).map(|ticket| (ticket, true)).collect::<Vec<_>>());
}

/// A few bytes of it could keep a core for seconds.
#[test]
fn what_makes_little_of_much_is_done_once_a_turn() {
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        let list = Request::GetEphemerals { prefix: "/" };
        let bytes: Vec<u8> = (1..=5).flat_map(|xid| request(xid, &list)).collect();
        let mut replies = alone.send(&bytes).len();
        let mut turns = 1;
        while replies < 5 {
            assert_eq!(alone.worker.deadline(alone.now.instant), Some(alone.now.instant));
            alone.worker.step(alone.now, Input::Time, &mut alone.effects);
            alone.settle();
            replies += alone.frames().len();
            turns += 1;
        }
        assert!(turns >= 5, "{turns} turns with {shards} shards");
    }
}

#[test]
fn what_a_multi_read_has_no_room_for_ends_it() {
    let list = |path| Request::GetChildren { path, watch: false, with_stat: false };
    let data = |path| Request::GetData { path, watch: false };
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        alone.fill("/half", RESPONSE_BYTES_MAX / 2);
        alone.fill("/full", RESPONSE_BYTES_MAX);
        let reads = [
            (vec![data("/"), list("/half"), data("/")], [true, true, true]),
            (vec![list("/full"), list("/full"), data("/half")], [false, false, false]),
            (vec![list("/half"), list("/half"), data("/half")], [true, false, false]),
            (vec![data("/"), list("/full"), data("/half")], [true, false, false]),
        ];
        for (reads, expected) in reads {
            let frames = alone.send(&request(1, &Request::MultiRead(reads)));
            let (header, body) = client::parse_header(&frames[0]).unwrap();
            assert_eq!(header.error, 0);
            let results = client::parse_multi(body).unwrap();
            let too_large = MultiResult::Error(ErrorCode::MarshallingError.wire());
            let is_read: Vec<bool> = results.iter().map(|result| *result != too_large).collect();
            assert_eq!(is_read, expected, "with {shards} shards");
        }
    }
}

/// Otherwise refusals that wait for their turn would keep what was made for them.
#[test]
fn a_refusal_of_what_is_too_large_is_small() {
    let mut alone = Alone::new(1);
    alone.connect();
    alone.fill("/full", RESPONSE_BYTES_MAX);
    let list = Request::GetChildren { path: "/full", watch: false, with_stat: false };
    alone.ask_from_afar(1, read_from_afar(OpCode::GetChildren, &request(0, &list)));
    alone.settle();
    let (_, mail) = alone.mail.pop().unwrap();
    let Mail::Answer { outcome: Outcome::Reply { code, body }, .. } = mail else {
        panic!("{mail:?}");
    };
    assert_eq!((code, body.capacity()), (ErrorCode::MarshallingError, 0));
}

/// What has to wait for a write is read when its answer comes: not all in that one turn.
#[test]
fn long_lists_that_had_to_wait_are_read_over_several_turns() {
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        alone.fill("/long", TURN_SHARE_BYTES * REQUESTS_PER_TURN_MAX);
        let write = Request::SetData { path: "/long", data: None, version: -1 };
        let read = Request::GetChildren { path: "/long", watch: false, with_stat: false };
        let reads = (2..=6).flat_map(|xid| request(xid, &read));
        let bytes: Vec<u8> = request(1, &write).into_iter().chain(reads).collect();
        let mut replies = vec![alone.send(&bytes).len()];
        while alone.worker.deadline(alone.now.instant) == Some(alone.now.instant) {
            alone.worker.step(alone.now, Input::Time, &mut alone.effects);
            alone.settle();
            replies.push(alone.frames().len());
        }
        assert_eq!(replies, [2, 1, 1, 1, 1], "with {shards} shards");
    }
}

/// Heartbeats wait for the end of a turn, however many clients there are.
#[test]
fn many_that_send_ahead_share_the_turns() {
    let mut alone = Alone::new(1);
    alone.connect_crowd(0..20);
    let reads = request(1, &Request::Exists { path: "/", watch: false });
    let reads = reads.repeat(REQUESTS_PER_TURN_MAX);
    for slot in 0..20 {
        alone.tell(nth(slot), &reads);
    }
    alone.settle();
    let mut replies = vec![alone.frames().len()];
    while alone.worker.deadline(alone.now.instant) == Some(alone.now.instant) {
        alone.worker.step(alone.now, Input::Time, &mut alone.effects);
        alone.settle();
        replies.push(alone.frames().len());
    }
    assert_eq!(replies.iter().sum::<usize>(), 20 * REQUESTS_PER_TURN_MAX);
    assert!(replies.iter().all(|&count| count <= REQUESTS_PER_TURN_OF_ALL), "{replies:?}");
}

/// However much the others send in every turn.
#[test]
fn who_was_left_over_goes_on_before_what_comes_anew() {
    let mut alone = Alone::new(1);
    alone.connect_crowd(0..5);
    let reads = request(1, &Request::Exists { path: "/", watch: false });
    let reads = reads.repeat(REQUESTS_PER_TURN_MAX);
    (0..5).for_each(|slot| alone.tell(nth(slot), &reads));
    alone.settle();
    alone.frames();
    let mut turns = vec![];
    for _ in 0..3 {
        (0..4).for_each(|slot| alone.tell(nth(slot), &reads));
        alone.worker.step(alone.now, Input::Time, &mut alone.effects);
        let is_for_the_last = |effect: Effect| match effect {
            Effect::ClientOutput { connection } => connection == nth(4),
            _ => false,
        };
        turns.push(alone.effects.drain().any(is_for_the_last));
        alone.worker.step(alone.now, Input::TurnEnd { share: usize::MAX }, &mut alone.effects);
        alone.effects.drain().for_each(drop);
    }
    assert_eq!(turns, [false, true, true], "only once does anybody overtake it");
}

/// Otherwise one client could end the sessions of others.
#[test]
fn what_keeps_sessions_alive_does_not_wait_behind_reads_of_other_cores() {
    let mut alone = Alone::new(1);
    let session = alone.connect();
    let list = request(0, &Request::GetEphemerals { prefix: "/" });
    for ticket in 1..=1000 {
        alone.ask_from_afar(ticket, read_from_afar(OpCode::GetEphemerals, &list));
    }
    let touched = Touched { session: session.0, generation: 1, is_alive: true, seen: None };
    alone.ask_from_afar(1001, What::Touch { sessions: vec![touched] });
    alone.worker.step(alone.now, Input::TurnEnd { share: 60 }, &mut alone.effects);
    assert!(alone.worker.is_in_haste(), "most reads have to wait");
    let is_confirmed = |effect| matches!(effect, Effect::Mail { mail: Mail::Touched { .. }, .. });
    assert!(alone.effects.drain().any(is_confirmed));
}

/// Whoever sends faster than is answered is not read any further; then everything is answered.
#[test]
fn what_is_sent_far_ahead_stays_with_its_sender() {
    let mut alone = Alone::new(1);
    alone.connect();
    let read = request(1, &Request::Exists { path: "/", watch: false });
    let at_once = read.repeat((64 << 10) / read.len());
    let mut sent = 0;
    let mut is_paused = false;
    while !is_paused {
        alone.tell(CONNECTION, &at_once);
        sent += at_once.len() / read.len();
        is_paused = alone
            .effects
            .drain()
            .any(|effect| matches!(effect, Effect::ClientPause { paused: true, .. }));
        assert!(sent * read.len() < INPUT_BYTES_PAUSE + (1 << 20), "it is read without end");
    }
    let mut replies = 0;
    let mut resumed = false;
    while alone.worker.deadline(alone.now.instant) == Some(alone.now.instant) {
        alone.worker.step(alone.now, Input::TurnEnd { share: usize::MAX }, &mut alone.effects);
        alone.worker.step(alone.now, Input::Time, &mut alone.effects);
        for effect in alone.effects.drain() {
            resumed |= matches!(effect, Effect::ClientPause { paused: false, .. });
        }
        let output = alone.worker.client_output(CONNECTION).unwrap();
        alone.received.append(output);
        let in_turn = alone.frames().len();
        assert!(in_turn <= REQUESTS_PER_TURN_MAX || replies == 0, "{in_turn} in one turn");
        replies += in_turn;
    }
    assert_eq!((replies, resumed), (sent, true));
}

/// Every shard is asked for a point, and all that is made of it in one turn is weighed: but once,
/// however often one request names it.
#[test]
fn a_multi_read_asks_for_a_point_once() {
    for shards in [1, 64] {
        let mut alone = Alone::new(shards);
        alone.connect();
        alone.send(&request(1, &create("/a", b"one", CreateMode::Persistent)));
        let children = Request::GetChildren { path: "/", watch: false, with_stat: false };
        let data = |path| Request::GetData { path, watch: false };
        let reads: Vec<_> = (0..250)
            .flat_map(|_| [data("/"), children.clone(), data("/a"), data("/none")])
            .collect();
        let frames = alone.send(&request(2, &Request::MultiRead(reads)));
        let (_, body) = client::parse_header(&frames[0]).unwrap();
        let results = client::parse_multi(body).unwrap();
        assert_eq!(results.len(), 1000);
        for four in results.chunks(4) {
            assert_eq!(four, &results[..4]);
        }
        let names = format!("{:?}", results[1]);
        assert!(names.contains("\"a\"") && names.contains("zookeeper"), "{names}");
    }
}

/// Clients come back with tens of thousands of watches: nobody else waits for all of them.
#[test]
fn watches_are_set_again_over_several_turns() {
    let paths: Vec<String> = (0..20_000).map(|number| format!("/a/{number}")).collect();
    let points = ["/"; 3000];
    for shards in [1, 8] {
        let mut alone = Alone::new(shards);
        alone.connect();
        let watches = SetWatches {
            relative_zxid: Zxid(u64::MAX >> 1),
            exist: paths.iter().map(String::as_str).collect(),
            child: points.to_vec(),
            ..SetWatches::default()
        };
        let mut bytes = request(-8, &Request::SetWatches(watches));
        bytes.extend(request(1, &create("/a", b"", CreateMode::Persistent)));
        alone.tell(CONNECTION, &bytes);
        let mut before = 0;
        let turns = alone.turns(|alone| {
            let now: usize = alone.worker.replicas().map(|it| it.watches().count()).sum();
            now - core::mem::replace(&mut before, now)
        });
        assert!(turns.len() >= 20 && turns.iter().all(|&set| set <= 1100), "{shards} {turns:?}");
        // With several shards, each watches a point's children.
        assert_eq!(turns.iter().sum::<usize>(), 20_000 + usize::from(shards));
        alone.settle();
        let xids: Vec<i32> =
            alone.frames().iter().map(|it| client::parse_header(it).unwrap().0.xid).collect();
        // The list of the children of `/` has changed since nobody knows when, where there are
        // several shards.
        assert_eq!(xids.iter().filter(|xid| **xid != -1).collect::<Vec<_>>(), [&-8, &1]);
    }
}

/// Whoever is cut off in the middle of a crowd has said goodbye all the same.
#[test]
fn a_goodbye_that_nobody_has_looked_at_counts() {
    let mut alone = Alone::new(1);
    let session = alone.connect();
    alone.connect_crowd(1..8);
    let reads = request(1, &Request::Exists { path: "/", watch: false });
    let reads = reads.repeat(REQUESTS_PER_TURN_MAX);
    (1..8).for_each(|slot| alone.tell(nth(slot), &reads));
    alone.worker.step(alone.now, Input::Time, &mut alone.effects);
    // The next turn is behind from its first moment.
    let mut last = reads;
    last.extend(request(2, &Request::CloseSession));
    alone.tell(nth(0), &last);
    let closed = Input::ClientClosed { connection: CONNECTION };
    alone.worker.step(alone.now, closed, &mut alone.effects);
    // And who comes just now with a word has it heard.
    alone.open(nth(9), Crowd::default());
    alone.tell(nth(9), b"ruok");
    let is_word = |effect: &Effect| matches!(effect, Effect::Admin { word: [b'r', ..], .. });
    assert!(alone.effects.drain().any(|effect| is_word(&effect)));
    alone.settle();
    let replica = alone.worker.replicas().next().unwrap();
    assert!(replica.state().sessions().home(session).is_none(), "the session is over");
}

/// Those that are answered go on at once, and those that wait for their turn get half of it.
#[test]
fn answers_leave_room_for_those_that_wait_for_their_turn() {
    let mut alone = Alone::new(1);
    alone.connect_crowd(0..15);
    let write = Request::SetData { path: "/", data: None, version: -1 };
    let mut both = request(1, &write);
    both.extend(request(2, &Request::GetEphemerals { prefix: "/" }));
    (1..8).for_each(|slot| alone.tell(nth(slot), &both.repeat(40)));
    alone.worker.step(alone.now, Input::Time, &mut alone.effects);
    let read = request(1, &Request::Exists { path: "/", watch: false });
    let mut waited = 0;
    for turn in 0..60 {
        alone.end_turn(usize::MAX);
        if turn == 0 {
            // Their answers come when those of the others do not.
            (8..15).for_each(|slot| alone.tell(nth(slot), &both.repeat(40)));
        }
        if turn % 4 == 0 {
            alone.tell(nth(0), &read);
        }
        alone.worker.step(alone.now, Input::Time, &mut alone.effects);
        let output = alone.worker.client_output(nth(0)).unwrap();
        let is_answered = !core::mem::take(output).is_empty();
        waited = if is_answered { 0 } else { waited + 1 };
        assert!(waited < 8, "it waits and waits, turn {turn}");
        (1..15).for_each(|slot| alone.worker.client_output(nth(slot)).unwrap().clear());
    }
}

/// It is tried again with every answer, and takes nothing of a turn before it is issued.
#[test]
fn a_request_that_waits_leaves_the_turn_to_others() {
    let mut alone = Alone::new(1);
    alone.connect_crowd(0..2);
    let other = nth(1);
    let write = Request::SetData { path: "/", data: None, version: -1 };
    let mut bytes = request(1, &write).repeat(100);
    bytes.extend(request(2, &Request::GetEphemerals { prefix: "/" }));
    alone.tell(CONNECTION, &bytes);
    let read = request(1, &Request::Exists { path: "/", watch: false });
    let mut is_answered = vec![];
    let mut written = 0;
    while written < 101 {
        alone.end_turn(10);
        alone.worker.step(alone.now, Input::Time, &mut alone.effects);
        alone.tell(other, &read);
        is_answered.push(!alone.worker.client_output(other).unwrap().is_empty());
        for connection in [other, CONNECTION] {
            alone.received.clear();
            alone.received.append(alone.worker.client_output(connection).unwrap());
        }
        written += alone.frames().len();
    }
    assert!(is_answered.len() > 5 && is_answered.iter().all(|&it| it), "{is_answered:?}");
}
