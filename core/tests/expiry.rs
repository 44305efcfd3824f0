//! Deadlines of sessions, in buckets of one tick.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::SessionId;
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::state::expiry::ExpiryQueue;

fn at(milliseconds: u64) -> Instant {
    Instant(milliseconds * 1000)
}

fn due(queue: &mut ExpiryQueue, milliseconds: u64) -> Vec<u64> {
    core::iter::from_fn(|| queue.pop_due(at(milliseconds))).map(|session| session.0).collect()
}

#[test]
fn ends_are_rounded_up_to_the_next_tick() {
    let mut queue = ExpiryQueue::new(Duration::from_ms(100));
    assert_eq!(queue.next_deadline(), None);
    queue.touch(SessionId(2), Duration::from_ms(50), at(10));
    queue.touch(SessionId(1), Duration::from_ms(99), at(0));
    // As ZooKeeper rounds: an end that falls on a tick waits for the next one.
    queue.touch(SessionId(3), Duration::from_ms(100), at(0));
    assert_eq!(queue.next_deadline(), Some(at(100)));
    assert!(due(&mut queue, 99).is_empty());
    assert_eq!(due(&mut queue, 100), [1, 2]);
    assert!(due(&mut queue, 100).is_empty());
    assert_eq!(queue.next_deadline(), Some(at(200)));
    assert_eq!(due(&mut queue, 1000), [3]);
    assert!(queue.is_empty());
}

#[test]
fn a_touch_prolongs_and_never_shortens() {
    let mut queue = ExpiryQueue::new(Duration::from_ms(100));
    let session = SessionId(1);
    queue.touch(session, Duration::from_ms(500), at(0));
    queue.touch(session, Duration::from_ms(500), at(50));
    queue.touch(session, Duration::from_ms(50), at(60));
    assert_eq!((queue.len(), queue.next_deadline()), (1, Some(at(600))));
    queue.touch(session, Duration::from_ms(500), at(450));
    assert!(due(&mut queue, 999).is_empty());
    assert_eq!(due(&mut queue, 1000), [1]);
    queue.touch(session, Duration::from_ms(500), at(1000));
    queue.forget(session);
    queue.forget(session);
    assert_eq!(queue.next_deadline(), None);
}

#[test]
fn a_new_leader_gives_everybody_a_full_timeout() {
    let mut queue = ExpiryQueue::new(Duration::from_ms(100));
    queue.touch(SessionId(9), Duration::from_ms(100), at(0));
    let known = [(SessionId(2), Duration::from_ms(300)), (SessionId(1), Duration::from_ms(100))];
    queue.reset(known, at(5000));
    assert!(due(&mut queue, 5100).is_empty());
    assert_eq!(due(&mut queue, 5400), [1, 2]);
}

/// Against the definition: due are those whose end, rounded up, has come.
#[test]
fn the_queue_agrees_with_a_plain_list() {
    for seed in 0..50 {
        let mut prng = Prng::new(seed);
        let mut queue = ExpiryQueue::new(Duration::from_ms(10));
        let mut plain = BTreeMap::<SessionId, u64>::new();
        let mut now = 0;
        for _ in 0..500 {
            now += prng.below(7);
            let session = SessionId(prng.below(20));
            match prng.below(4) {
                0 => {
                    queue.forget(session);
                    plain.remove(&session);
                }
                1 => {
                    let mut expected: Vec<_> = plain
                        .iter()
                        .filter(|(_, end)| **end <= now)
                        .map(|(session, end)| (*end, session.0))
                        .collect();
                    expected.sort_unstable();
                    plain.retain(|_, end| *end > now);
                    let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
                    assert_eq!(due(&mut queue, now), expected, "seed {seed} at {now}");
                }
                _ => {
                    let timeout = 1 + prng.below(60);
                    queue.touch(session, Duration::from_ms(timeout), at(now));
                    let end = ((now + timeout) / 10 + 1) * 10;
                    let known = plain.entry(session).or_insert(end);
                    *known = end.max(*known);
                }
            }
            let next = plain.values().min().copied().map(at);
            assert_eq!(queue.next_deadline(), next, "seed {seed}");
            assert_eq!(queue.len(), plain.len());
        }
    }
}
