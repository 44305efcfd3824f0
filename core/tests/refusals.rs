//! Refused writes are not logged, and yet have their place among what the client hears.

mod nodes;

use nodes::{Ensemble, Heard, SHARDS, brief, plain};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::op::{EventType, Request};

const NO_NODE: i32 = -101;

/// One client waits for a znode and tries to delete it, again and again, while another creates it.
/// What was refused because the znode was not there is heard before the event that it is there
/// now, and the reply to what found it, behind.
#[test]
fn an_event_does_not_overtake_the_refusals_before_it() {
    let look = |watch| Request::Exists { path: "/x", watch };
    let delete = Request::Delete { path: "/x", version: -1 };
    let mut requests = vec![look(true)];
    requests.resize(7, delete);
    requests.push(look(false));
    let (mut behind_refusals, mut amid) = (0, 0);
    for seed in 0..400 {
        let shards = if seed % 2 == 0 { 1 } else { SHARDS };
        let cores = 1 + (seed / 2 % 2) as u8;
        let mut ensemble = Ensemble::new(3, cores, shards, seed);
        let mut chance = Prng::new(seed);
        let waiting = ensemble.connect(0, 0);
        let other = ensemble.connect((seed % 3) as usize, cores - 1);
        ensemble.get(waiting, &plain("/xx"));
        ensemble.get(other, &plain("/xy"));
        let creates_before = 2 + chance.below(7);
        for (xid, request) in (1_u8..).zip(&requests) {
            if u64::from(xid) == creates_before {
                ensemble.ask(other, 1, &plain("/x"));
            }
            ensemble.ask(waiting, i32::from(xid), request);
            for _ in 0..chance.below(4) {
                ensemble.run_one();
            }
        }
        ensemble.run();
        let heard = ensemble.heard(waiting);
        let is_event = |heard: &Heard| heard.xid().is_none();
        let story = brief(&heard);
        let Some(event) = heard.iter().position(is_event) else {
            panic!("seed {seed}: no event in {story:?}");
        };
        assert!(matches!(heard[event], Heard::Event { kind: EventType::NodeCreated, .. }));
        let found = heard
            .iter()
            .position(|heard| matches!(heard, Heard::Reply { xid: 2..8, error: 0, .. }));
        let refused = |heard: &Heard| matches!(heard, Heard::Reply { error: NO_NODE, .. });
        match found {
            Some(found) => assert_eq!(event + 1, found, "seed {seed}: {story:?}"),
            None => {
                assert!(heard[..event].iter().all(refused), "seed {seed}: {story:?}");
                assert!(!heard[event + 1..].iter().any(is_event), "seed {seed}: {story:?}");
                let late = heard[event..].iter().filter(|heard| matches!(heard.xid(), Some(2..8)));
                assert_eq!(late.count(), 0, "seed {seed}: {story:?}");
            }
        }
        behind_refusals += u32::from(found.is_none());
        amid += u32::from(found.is_some_and(|found| found > 3));
    }
    assert!(behind_refusals > 50 && amid > 50, "{behind_refusals} {amid}");
}
