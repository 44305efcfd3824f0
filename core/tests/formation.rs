//! Founding a cluster, with crashes at every step, lost disks, and links that come and go.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod founding;

use std::collections::BTreeSet;

use founding::{Ensemble, Fate, Step};
use pigeonhole_core::base::id::{ClusterId, ServerId};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::formation::{Config, Founding, Input, Output, Waiting};
use pigeonhole_core::peer::codec::{self, Frame};
use pigeonhole_core::peer::formation::{FormationMessage, ServerSet, Standing};

const NOW: Instant = Instant(5_000_000);

#[test]
fn servers_that_are_all_empty_form_one_cluster() {
    for voters in [1, 2, 3, 5, 7] {
        for observers in 0..=1 {
            let mut ensemble = Ensemble::new(voters, observers, u64::from(voters));
            ensemble.start_everybody();
            ensemble.settle();
            ensemble.check_all_formed();
        }
    }
}

#[test]
fn one_that_is_missing_keeps_everybody_waiting() {
    for voters in [2, 3, 5] {
        for missing in 1..=voters {
            let mut ensemble = Ensemble::new(voters, 1, 9);
            for server in (1..=voters + 1).filter(|&server| server != missing) {
                ensemble.take(Step::Start(ServerId(server)));
            }
            ensemble.settle();
            for server in (1..=voters).filter(|&server| server != missing) {
                let unreachable = vec![ServerId(missing)];
                assert_eq!(
                    ensemble.waiting(ServerId(server)),
                    Some(Waiting::ForVoters { unreachable })
                );
            }
            assert_eq!(ensemble.formed_nonces(), BTreeSet::new());
            ensemble.take(Step::Start(ServerId(missing)));
            ensemble.settle();
            ensemble.check_all_formed();
        }
    }
}

/// A run without faults is a list of steps. Here each of its prefixes is followed by the crash of
/// one server or of two, with what they were writing kept or lost.
#[test]
fn a_crash_after_any_step_changes_nothing() {
    for voters in [1, 3, 5] {
        for order in 0..3 {
            let steps = undisturbed(voters, order);
            for at in 0..=steps.len() {
                for first in 1..=voters {
                    for second in first..=voters {
                        for fate in [Fate::Kept, Fate::Lost] {
                            crash_after((voters, order), &steps[..at], &[first, second], fate);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn no_schedule_forms_two_clusters() {
    let mut formed_late = 0;
    for seed in 0..2000 {
        let voters = [1, 3, 5][usize::try_from(seed % 3).unwrap()];
        let mut ensemble = Ensemble::new(voters, 1, seed);
        let mut prng = Prng::new(seed);
        for _ in 0..prng.below(400) {
            let step = ensemble.any_step(&mut prng, 0);
            ensemble.take(step);
            ensemble.check_safety();
            ensemble.check_forming_everywhere();
        }
        formed_late += u32::from(ensemble.formed_nonces().is_empty());
        ensemble.start_everybody();
        ensemble.settle();
        ensemble.check_all_formed();
        assert!(ensemble.formed_ever().len() == 1, "seed {seed}");
    }
    // Both kinds of runs happen: those that are disturbed before forming, and after it.
    assert!((300..1700).contains(&formed_late), "{formed_late} of 2000");
}

#[test]
fn lost_disks_never_make_two_clusters() {
    let mut rejoined = 0;
    for seed in 0..2000 {
        let voters = [3, 5][usize::try_from(seed % 2).unwrap()];
        let mut ensemble = Ensemble::new(voters, 1, seed);
        let mut prng = Prng::new(seed);
        // Before there is a cluster, while there is one, and in between.
        let losses_begin = prng.below(400);
        for at in 0..400 {
            let step = ensemble.any_step(&mut prng, u64::from(at >= losses_begin));
            ensemble.take(step);
            ensemble.check_safety();
            ensemble.check_lost_disks_join_nothing_else();
        }
        ensemble.start_everybody();
        ensemble.settle();
        ensemble.check_safety();
        for server in ensemble.lost() {
            if ensemble.is_member(server) {
                rejoined += 1;
            }
        }
    }
    assert!(rejoined > 100, "{rejoined} servers were taken back");
}

/// The checks above can fail: a disk that forgets what it has confirmed breaks them.
#[test]
fn a_disk_that_lies_is_caught() {
    let caught = (0..2000).any(|seed| {
        let mut ensemble = Ensemble::new(3, 0, seed);
        ensemble.disks_lie = true;
        let mut prng = Prng::new(seed);
        (0..400).any(|_| {
            let step = ensemble.any_step(&mut prng, 0);
            ensemble.take(step);
            !ensemble.every_voter_holds_what_is_formed()
        })
    });
    assert!(caught);
}

#[test]
fn every_seed_runs_twice_alike() {
    let run = |seed| {
        let mut ensemble = Ensemble::new(3, 1, seed);
        let mut prng = Prng::new(seed);
        for _ in 0..300 {
            let step = ensemble.any_step(&mut prng, 1);
            ensemble.take(step);
        }
        ensemble.transcript
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn an_empty_server_comes_back_to_a_majority_of_members_alone() {
    let (mut founding, mut out) = found(3, None, Standing::Empty);
    let cluster = ClusterId(0xc1);
    let standing = Standing::Formed(cluster);
    let meet = |founding: &mut Founding, peer, now, out: &mut Vec<Output>| {
        founding.step(now, Input::LinkUp { peer, standing }, out);
        // A member has no use for such a link and closes it.
        founding.step(now, Input::LinkDown { peer }, out);
    };
    meet(&mut founding, ServerId(1), NOW, &mut out);
    let expected = Waiting::DiskUnknown { formed: [(ServerId(1), cluster)].into() };
    assert_eq!(founding.waiting(), Some(expected));
    assert!(said(&out).is_empty(), "the other may be about to say the same");
    let late = founding.deadline().unwrap();
    founding.step(late, Input::Time, &mut out);
    let text = "server 1 belongs to cluster 000000000000000000000000000000c1";
    assert!(said(&out)[0].contains(text), "{:?}", said(&out));
    assert!(!out.iter().any(|it| matches!(it, Output::WriteMeta(_))));

    meet(&mut founding, ServerId(2), late, &mut out);
    assert!(out.iter().any(|it| matches!(it, Output::WriteMeta(written) if *written == standing)));
}

#[test]
fn what_is_waited_for_is_said_every_ten_seconds() {
    let (mut founding, mut out) = found(2, None, Standing::Empty);
    let mut said_at = Vec::new();
    let mut now = NOW;
    for _ in 0..60 {
        now = now + Duration::from_ms(500);
        let due = founding.deadline().unwrap() <= now;
        let before = said(&out).len();
        founding.step(now, Input::Time, &mut out);
        let after = said(&out).len();
        assert_eq!(due, after > before, "the deadline is when something is said");
        if after > before {
            said_at.push(now.since(NOW).as_ms());
        }
    }
    assert_eq!(said_at, [1_000, 11_000, 21_000]);
    assert!(said(&out)[0].contains("waiting for server 1 and server 3;"), "{:?}", said(&out));
}

#[test]
fn servers_with_other_voters_do_not_form() {
    let (mut founding, mut out) = found(1, None, Standing::Empty);
    link(&mut founding, 2, Standing::Empty, voters(3), &mut out);
    link(&mut founding, 3, Standing::Empty, voters(5), &mut out);
    let servers = vec![ServerId(3)];
    assert_eq!(founding.waiting(), Some(Waiting::OtherVoters { servers }));
    assert!(!out.iter().any(|it| matches!(it, Output::WriteMeta(_))));
}

#[test]
fn a_server_that_is_told_its_cluster_joins_no_other() {
    let only = Some(ClusterId(0xa));
    let (mut founding, mut out) = found(2, only, Standing::Empty);
    let other = Standing::Forming(ClusterId(0xb));
    link(&mut founding, 1, other, voters(3), &mut out);
    link(&mut founding, 3, Standing::Empty, voters(3), &mut out);
    assert!(matches!(founding.waiting(), Some(Waiting::OtherCluster { .. })));
    let right = Standing::Forming(ClusterId(0xa));
    link(&mut founding, 1, right, voters(3), &mut out);
    assert_eq!(out.last(), Some(&Output::WriteMeta(right)));
}

#[test]
fn members_of_another_cluster_are_no_reason_to_become_one() {
    let (mut founding, mut out) = found(2, None, Standing::Forming(ClusterId(0xa)));
    let standing = Standing::Formed(ClusterId(0xb));
    let peer = ServerId(3);
    founding.step(NOW, Input::LinkUp { peer, standing }, &mut out);
    let expected =
        Waiting::OtherCluster { own: ClusterId(0xa), formed: vec![(ServerId(3), ClusterId(0xb))] };
    assert_eq!(founding.waiting(), Some(expected));
    assert!(!out.iter().any(|it| matches!(it, Output::WriteMeta(_))));
}

#[test]
fn the_released_bytes_of_a_message() {
    let message = FormationMessage {
        standing: Standing::Forming(ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
        voters: [1, 2, 3, 254].map(ServerId).into_iter().collect(),
    };
    let mut frame = Vec::new();
    codec::encode_formation(&message, &mut frame);
    let mut golden = Vec::new();
    golden.extend([60, 0, 0, 0, 0xff, 0xff, 3, 0]);
    golden.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend([16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    golden.push(0b0000_1110);
    golden.extend([0; 30]);
    golden.push(0b0100_0000);
    assert_eq!(frame, golden);
    let Ok(Frame::Formation(decoded)) = codec::decode(&frame) else {
        panic!("it is a frame about formation");
    };
    assert_eq!(decoded, message);
}

/// The steps of a run in which nothing fails.
fn undisturbed(voters: u8, order: u64) -> Vec<Step> {
    let mut ensemble = Ensemble::new(voters, 0, order);
    ensemble.start_everybody();
    ensemble.settle()
}

fn crash_after((voters, order): (u8, u64), steps: &[Step], servers: &[u8], fate: Fate) {
    let mut ensemble = Ensemble::new(voters, 0, order);
    ensemble.start_everybody();
    for &step in steps {
        ensemble.take(step);
    }
    for &server in servers {
        ensemble.take(Step::Crash(ServerId(server), fate));
        ensemble.check_safety();
    }
    ensemble.start_everybody();
    ensemble.settle();
    ensemble.check_all_formed();
    assert_eq!(ensemble.formed_ever().len(), 1);
}

/// One server of three, on its own.
fn found(server: u8, only: Option<ClusterId>, standing: Standing) -> (Founding, Vec<Output>) {
    let config = Config {
        server: ServerId(server),
        voters: [1, 2, 3].map(ServerId).into(),
        observers: Vec::new(),
        nonce: only.unwrap_or(ClusterId(0xee)),
        only,
    };
    let mut out = Vec::new();
    (Founding::new(config, standing, NOW, &mut out), out)
}

fn link(
    founding: &mut Founding,
    peer: u8,
    standing: Standing,
    voters: ServerSet,
    out: &mut Vec<Output>,
) {
    let peer = ServerId(peer);
    founding.step(NOW, Input::LinkUp { peer, standing }, out);
    let message = FormationMessage { standing, voters };
    founding.step(NOW, Input::Message { peer, message }, out);
}

fn voters(count: u8) -> ServerSet {
    (1..=count).map(ServerId).collect()
}

fn said(out: &[Output]) -> Vec<String> {
    let texts = out.iter().filter_map(|output| match output {
        Output::Say(waiting) => Some(waiting.to_string()),
        _ => None,
    });
    texts.collect()
}
