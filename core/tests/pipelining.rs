//! Requests that are judged while earlier ones are pending come to the same as one at a time.

mod leader;

use leader::{Client, Leader, OPEN, check, create, delete, set, set_acl};
use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{Generation, SessionId, Zxid};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::op::{Acl, CreateMode, Request};
use pigeonhole_core::state::session_prep::SessionRequest;

/// What was asked, by whom.
enum Asked {
    Write(usize, Request<'static>),
    Close(usize),
    Renew(usize),
}

/// The zxid and archived form of what was logged, or the error with a multi's list.
type Answer = Result<(Zxid, Vec<u8>), (ErrorCode, Option<Vec<ErrorCode>>)>;

/// Every answer, and the digest and tables of the state at the end.
type Outcome = (Vec<Answer>, u128, Vec<u8>);

const CLIENTS: u64 = 3;
const MINE: [Acl<'static>; 1] = [Acl { permissions: 31, scheme: "auth", id: "" }];
const READ: [Acl<'static>; 1] = [Acl { permissions: 1, scheme: "world", id: "anyone" }];

/// Few names, so that requests meet.
const PATHS: [&str; 9] = ["/a", "/b", "/a/a", "/a/b", "/b/a", "/a/a/a", "/a/s", "/b/", "/"];

fn draw<T: Clone>(prng: &mut Prng, from: &[T]) -> T {
    let bound = u64::try_from(from.len()).expect("a short list");
    from[usize::try_from(prng.below(bound)).expect("an index")].clone()
}

fn draw_single(prng: &mut Prng) -> Request<'static> {
    let path = draw(prng, &PATHS);
    let acl = draw(prng, &[&OPEN, &OPEN, &OPEN, &MINE, &READ]);
    let version = draw(prng, &[-1, -1, -1, 0, 1, 2]);
    match prng.below(10) {
        0..=4 => {
            let modes = [
                CreateMode::Persistent,
                CreateMode::Ephemeral,
                CreateMode::PersistentSequential,
                CreateMode::EphemeralSequential,
            ];
            create(path, draw(prng, &modes), acl)
        }
        5 | 6 => delete(path, version),
        7 | 8 => set(path, version),
        _ => set_acl(path, acl, version),
    }
}

fn draw_request(prng: &mut Prng) -> Request<'static> {
    if !prng.chance(1, 4) {
        return draw_single(prng);
    }
    let count = 1 + prng.below(5);
    let single = |prng: &mut Prng| match draw_single(prng) {
        Request::SetAcl { path, version, .. } => check(path, version),
        single => single,
    };
    Request::Multi((0..count).map(|_| single(prng)).collect())
}

fn draw_story(seed: u64) -> Vec<Asked> {
    let mut prng = Prng::new(seed);
    let client = |prng: &mut Prng| usize::try_from(prng.below(CLIENTS)).expect("it is small");
    let begin = ["/a", "/b", "/a/a", "/a/b"];
    let begin = begin.map(|path| Asked::Write(1, create(path, CreateMode::Persistent, &OPEN)));
    let mut story = Vec::from(begin);
    story.extend((0..120).map(|_| match prng.below(250) {
        0 => Asked::Close(client(&mut prng)),
        1 | 2 => Asked::Renew(client(&mut prng)),
        _ => Asked::Write(client(&mut prng), draw_request(&mut prng)),
    }));
    story
}

fn answer(leader: &mut Leader, clients: &mut [Client], asked: &Asked) -> Answer {
    let result = match asked {
        Asked::Write(client, request) => leader.write(&clients[*client], request).map(|_| ()),
        Asked::Close(client) => {
            let session = clients[*client].session;
            leader.session(&SessionRequest::Close { session, generation: None }).map(|_| ())
        }
        Asked::Renew(client) => {
            let session = clients[*client].session;
            let renew = SessionRequest::Renew { session, password: &[7; 16] };
            leader.session(&renew).map(|_| {
                // Half of the clients go on writing through the old connection.
                if *client != 0 {
                    clients[*client].generation = clients[*client].generation.next();
                }
            })
        }
    };
    match result {
        Ok(()) => {
            let (zxid, txn) = leader.pending.back().expect("it was just logged");
            Ok((*zxid, txn.to_bytes().to_vec()))
        }
        Err(refusal) => {
            assert!(refusal.judged_by < leader.zxid, "judged by what exists");
            assert!(refusal.judged_by >= leader.state.applied());
            Err((refusal.code, refusal.multi))
        }
    }
}

/// Runs a story; `lag` decides before each request how many transactions are applied.
fn run(story: &[Asked], mut lag: impl FnMut(&mut Leader)) -> Outcome {
    let mut leader = Leader::new();
    let mut clients: Vec<_> = (1..=CLIENTS).map(|number| leader.client(number)).collect();
    clients[1] = clients[1].clone().with_auth("bob:secret");
    clients[2] = clients[2].clone().with_auth("super:admin");
    assert!(clients.iter().all(|client| client.generation == Generation(1)));
    let answers = story
        .iter()
        .map(|asked| {
            lag(&mut leader);
            answer(&mut leader, &mut clients, asked)
        })
        .collect();
    leader.apply_all();
    let mut tables = Vec::new();
    leader.state.freeze_tables().encode(&mut tables);
    (answers, leader.state.tree().digest(), tables)
}

fn assert_same(one: &Outcome, other: &Outcome, context: &str) {
    for (index, (one, other)) in one.0.iter().zip(&other.0).enumerate() {
        assert_eq!(one, other, "{context}: request {index}");
    }
    assert!(one == other, "{context}: the states differ");
}

#[test]
fn pipelined_requests_come_to_the_same_as_one_at_a_time() {
    let mut accepted = 0;
    let mut refused = 0;
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..400 {
        let story = draw_story(seed);
        let alone = run(&story, Leader::apply_all);
        let never = run(&story, |_| {});
        let mut prng = Prng::new(seed ^ 0x5eed);
        let sometimes = run(&story, |leader| {
            for _ in 0..prng.below(3) {
                leader.apply_one();
            }
        });
        assert_same(&alone, &never, &format!("seed {seed}: all pending"));
        assert_same(&alone, &sometimes, &format!("seed {seed}: some pending"));
        accepted += alone.0.iter().flatten().count();
        for (code, _) in alone.0.into_iter().filter_map(Result::err) {
            refused += 1;
            kinds.insert(code.wire());
        }
    }
    // The stories reach what they are there for.
    assert!(accepted > 10_000 && refused > 10_000, "{accepted} and {refused}");
    for code in [
        ErrorCode::BadArguments,
        ErrorCode::NoNode,
        ErrorCode::NoAuth,
        ErrorCode::BadVersion,
        ErrorCode::NoChildrenForEphemerals,
        ErrorCode::NodeExists,
        ErrorCode::NotEmpty,
        ErrorCode::SessionExpired,
        ErrorCode::InvalidAcl,
        ErrorCode::SessionMoved,
    ] {
        assert!(kinds.contains(&code.wire()), "{code:?} was never met");
    }
}

/// What is refused leaves no trace: without it, everything else is judged alike.
#[test]
fn refused_requests_leave_no_trace() {
    for seed in 0..100 {
        let story = draw_story(seed);
        let (answers, digest, tables) = run(&story, |_| {});
        let fine: Vec<_> = story
            .into_iter()
            .zip(&answers)
            .filter(|(_, answer)| answer.is_ok())
            .map(|(asked, _)| asked)
            .collect();
        let (again, digest_again, tables_again) = run(&fine, |_| {});
        assert!(again.iter().all(Result::is_ok), "seed {seed}");
        assert!(again.iter().eq(answers.iter().filter(|answer| answer.is_ok())));
        assert_eq!((digest, tables), (digest_again, tables_again), "seed {seed}");
    }
}

/// Replicas that apply the same entries are the same, whatever session and zxid they serve.
#[test]
fn applying_is_the_same_everywhere() {
    for seed in 0..20 {
        let story = draw_story(seed);
        let mut leader = Leader::new();
        let mut follower = Leader::new();
        let mut clients: Vec<_> = (1..=CLIENTS).map(|number| leader.client(number)).collect();
        for number in 1..=CLIENTS {
            follower.client(number);
        }
        for asked in &story {
            let _ = answer(&mut leader, &mut clients, asked);
        }
        follower.pending.clone_from(&leader.pending);
        leader.apply_all();
        while follower.apply_one() {}
        assert_eq!(leader.state.applied(), follower.state.applied());
        assert_eq!(leader.state.tree().digest(), follower.state.tree().digest());
        assert_eq!(leader.outcomes(), follower.outcomes());
        assert_eq!(leader.session_changes(), follower.session_changes());
        assert!(follower.state.sessions().home(SessionId(7)).is_none());
    }
}
