//! One server's protocol, message by message: joining, founding an epoch, losing touch.

mod one;

use pigeonhole_core::base::id::{Epoch, ServerId, Zxid};
use pigeonhole_core::base::time::{Duration, Periods};
use pigeonhole_core::entry::{Entry, EntryKind};
use pigeonhole_core::peer::message::{EpochEnd, PeerMessage, PeerState, Vote};
use pigeonhole_core::txn::Txn;
use pigeonhole_core::zab::log::{Log, LogLimits, Mark, Restored};
use pigeonhole_core::zab::{Action, Event, Phase};

use one::{One, SHARD, Said, ack_epoch, attempt_in, entry, follower_info, looking, mark, restored};

#[test]
fn a_vote_that_is_news_is_answered() {
    let mut one = One::new(2, 3, vec![], Zxid::ZERO);
    // Server 1 was following a leader when this server's vote reached it, and has lost it since.
    let said = one.tell(1, PeerMessage::Vote(looking(1, 1)));
    let answers = |said: &Said| said.iter().any(|(to, _)| *to == ServerId(1));
    assert!(answers(&said), "it learns of the better candidate now");
    let said = one.tell(1, PeerMessage::Vote(looking(1, 1)));
    assert!(!answers(&said), "and only once");
}

#[test]
fn a_damaged_log_is_not_elected_for_what_it_was() {
    let epoch = Epoch(7);
    let damaged = Restored {
        is_unknown: true,
        accepted_epoch: epoch,
        current_epoch: epoch,
        ..restored(vec![], Zxid::ZERO)
    };
    let mut one = One::restored(3, 3, damaged);
    // The others have heard of it before it lost what it held, and know less than it did.
    let remembered = Vote { epoch: 7, zxid: Zxid::new(epoch, 1).0, ..looking(1, 3) };
    for other in [1, 2] {
        one.tell(other, PeerMessage::Vote(remembered));
    }
    for _ in 0..20 {
        one.advance(50);
        assert_eq!(one.zab.state(), PeerState::Looking);
    }
}

#[test]
fn a_slow_link_keeps_no_learner_out() {
    let mut one = One::new(1, 3, vec![], Zxid::ZERO);
    let attempt = one.follow(3);
    let again = one.advance(60);
    assert!(attempt_in(&again).is_some(), "the question is repeated");
    let said = one.tell(3, PeerMessage::LeaderInfo { attempt, epoch: 9 });
    assert!(
        said.iter().any(|(_, message)| matches!(message, PeerMessage::AckEpoch { .. })),
        "the answer to the first asking is as good as any"
    );
}

#[test]
fn a_learner_that_comes_while_the_epoch_is_proposed_is_told_of_it() {
    let mut one = One::new(5, 5, vec![], Zxid::ZERO);
    one.be_elected();
    one.tell(1, follower_info(1, 0));
    one.tell(2, follower_info(1, 0));
    one.sync();
    let said = one.tell(3, follower_info(1, 0));
    let expected = PeerMessage::LeaderInfo { attempt: 1, epoch: 1 };
    assert_eq!(said, vec![(ServerId(3), expected)]);
}

#[test]
fn a_learner_promised_to_a_higher_epoch_ends_the_proposal_of_a_lower() {
    let mut one = One::new(5, 5, vec![], Zxid::ZERO);
    one.be_elected();
    one.tell(1, follower_info(1, 0));
    one.tell(2, follower_info(1, 0));
    one.sync();
    one.tell(3, follower_info(1, 7));
    assert_eq!(one.zab.state(), PeerState::Looking);
}

#[test]
fn whoever_comes_back_into_the_epoch_knows_no_more_than_its_leader() {
    let mut one = One::new(3, 3, vec![], Zxid::ZERO);
    one.be_accepted_by(&[1]);
    // It has entered the epoch, and its link was lost before the leader heard so.
    one.tell(1, follower_info(2, 1));
    let PeerMessage::AckEpoch { attempt, epoch, tail, index, .. } = ack_epoch(2, 1) else {
        unreachable!("it is one")
    };
    let (counted, current_epoch, committed_zxid) = (false, 1, 0);
    let again = PeerMessage::AckEpoch {
        attempt,
        epoch,
        counted,
        current_epoch,
        tail,
        committed_zxid,
        index,
    };
    one.tell(1, again);
    one.sync();
    assert_eq!(one.zab.state(), PeerState::Leading);
    one.tell(1, PeerMessage::AckLeader { epoch: 1, zxid: 0 });
    one.sync();
    one.tell(1, PeerMessage::Ack { epoch: 1, zxid: Zxid::new(Epoch(1), 1).0 });
    one.sync();
    assert!(one.zab.is_established_leader());
}

#[test]
fn no_epoch_begins_before_its_leader_has_inherited_everything() {
    let mut one = One::new(3, 3, vec![], Zxid::ZERO);
    one.be_accepted_by(&[1, 2]);
    for learner in [1, 2] {
        one.tell(learner, PeerMessage::AckLeader { epoch: 1, zxid: 0 });
    }
    // The leader's own disk is the slowest of all.
    let zxid = Zxid::new(Epoch(1), 1).0;
    for learner in [1, 2] {
        let said = one.tell(learner, PeerMessage::Ack { epoch: 1, zxid });
        assert_eq!(said, vec![], "who is told that the epoch has begun sends it requests");
    }
    assert!(!one.zab.is_established_leader());
    one.sync();
    assert!(one.zab.is_established_leader());
    assert_eq!(one.zab.applicable(), Zxid(zxid));
}

#[test]
fn a_quorum_round_is_asked_again_of_who_comes_back() {
    let mut one = One::new(3, 3, vec![], Zxid::ZERO);
    one.be_established(&[1, 2]);
    let round = one.zab.ask_confirmation();
    one.sync();
    // Both questions are lost with their links, one after the other.
    for learner in [1, 2] {
        one.tell(learner, follower_info(2, 1));
        one.tell(learner, ack_epoch(2, 1));
        let zxid = Zxid::new(Epoch(1), 1).0;
        let said = one.tell(learner, PeerMessage::AckLeader { epoch: 1, zxid });
        let question = PeerMessage::Confirm { epoch: 1, round };
        assert!(said.contains(&(ServerId(learner), question)));
    }
    one.tell(1, PeerMessage::ConfirmAck { epoch: 1, round });
    assert_eq!(one.zab.confirmed_round(), round);
}

#[test]
fn what_was_never_asked_is_never_confirmed() {
    let mut one = One::new(3, 3, vec![], Zxid::ZERO);
    one.be_established(&[1, 2]);
    let round = 1000;
    one.tell(1, PeerMessage::ConfirmAck { epoch: 1, round });
    one.tell(2, PeerMessage::ConfirmAck { epoch: 1, round });
    let asked = one.zab.ask_confirmation();
    one.sync();
    assert!(one.zab.confirmed_round() < asked);
}

#[test]
fn a_leader_forgets_whoever_comes_by_another_link() {
    let mut one = One::new(3, 3, vec![], Zxid::ZERO);
    one.be_established(&[1, 2]);
    one.up(1);
    assert!(one.zab.is_established_leader(), "a quorum is left");
    one.up(2);
    assert_eq!(one.zab.state(), PeerState::Looking);
}

#[test]
fn nobody_asks_a_leader_for_ever() {
    let mut one = One::new(1, 3, vec![], Zxid::ZERO);
    let attempt = one.follow(3);
    one.tell(3, PeerMessage::LeaderInfo { attempt, epoch: 9 });
    let tail = EpochEnd { zxid: 0, hash: 0 };
    one.tell(3, PeerMessage::SyncDiff { attempt, epoch: 9, tail });
    one.tell(3, PeerMessage::NewLeader { epoch: 9, tail });
    let committed_zxid = 0;
    one.tell(3, PeerMessage::UpToDate { epoch: 9, committed_zxid });
    assert_eq!(one.zab.serving_leader(), Some(ServerId(3)));
    one.sync();
    assert!(attempt_in(&one.up(3)).is_some(), "a new link, a new attempt");
    one.advance(900);
    assert_eq!(one.zab.state(), PeerState::Looking);
}

#[test]
fn nobody_follows_a_follower() {
    let mut one = One::new(1, 3, vec![], Zxid::ZERO);
    one.follow(3);
    let vote = Vote { state: PeerState::Following, ..looking(1, 2) };
    one.tell(3, PeerMessage::Vote(vote));
    assert_eq!(one.zab.state(), PeerState::Looking);
}

#[test]
fn an_acknowledgement_of_what_was_never_proposed_commits_nothing() {
    let mut one = One::new(3, 3, vec![], Zxid::ZERO);
    one.be_accepted_by(&[1]);
    let zxid = Zxid::new(Epoch(1), 77).0;
    one.tell(1, PeerMessage::AckLeader { epoch: 1, zxid });
    one.sync();
    assert_eq!(one.zab.log().committed(), Zxid::ZERO);
}

/// A quorum may have lost what it promised, as by old copies of its disks.
#[test]
fn what_is_committed_is_never_given_up() {
    let first = entry(1, 1, None);
    let second = entry(1, 2, Some(&first));
    let to = mark(&first);
    let truncate = |attempt| PeerMessage::SyncTruncate { attempt, epoch: 9, to };
    let install = |attempt| PeerMessage::SyncSnapshot { attempt, epoch: 9, at: to };
    let plans: [&dyn Fn(u32) -> PeerMessage; 2] = [&truncate, &install];
    for (plan, is_truncation) in plans.into_iter().zip([true, false]) {
        let history = vec![first.clone(), second.clone()];
        let mut one = One::new(1, 3, history, second.zxid());
        let attempt = one.follow(3);
        one.tell(3, PeerMessage::LeaderInfo { attempt, epoch: 9 });
        let mut out = vec![];
        one.zab.on_message(one.now, ServerId(3), plan(attempt), &mut out);
        let committed = second.zxid();
        let refused = if is_truncation {
            Event::TruncationRefused { to: first.zxid(), committed }
        } else {
            Event::SnapshotRefused { at: first.zxid(), committed }
        };
        assert!(out.contains(&Action::Event(refused)), "{out:?}");
        assert_eq!(one.zab.state(), PeerState::Looking);
        assert_eq!(one.zab.log().tail().zxid, committed, "it keeps what it has");
    }
}

#[test]
fn a_void_tail_makes_nothing_applicable() {
    let first = entry(1, 1, None);
    let second = entry(1, 2, Some(&first));
    let third = entry(1, 3, Some(&second));
    let other = entry(2, 1, Some(&first));
    let mut one = One::new(1, 3, vec![first.clone(), second, third], first.zxid());
    let attempt = one.follow(3);
    one.tell(3, PeerMessage::LeaderInfo { attempt, epoch: 9 });
    let to = mark(&first);
    one.tell(3, PeerMessage::SyncTruncate { attempt, epoch: 9, to });
    let committed_zxid = other.zxid().0;
    one.tell(3, PeerMessage::Propose { epoch: 9, committed_zxid, entries: other.bytes().to_vec() });
    let tail = mark(&other);
    one.tell(3, PeerMessage::NewLeader { epoch: 9, tail });
    one.tell(3, PeerMessage::UpToDate { epoch: 9, committed_zxid });
    assert_eq!(one.zab.applicable(), first.zxid(), "the disk knows no more");
    one.sync();
    assert_eq!(one.zab.applicable(), other.zxid());
}

#[test]
fn a_snapshot_that_is_finished_between_elections_keeps_nobody_from_leading() {
    let first = entry(1, 1, None);
    let at = Mark { zxid: first.zxid(), hash: first.hash() };
    let mut one = One::new(3, 3, vec![first], at.zxid);
    let mut out = vec![];
    one.zab.snapshot_taken(at, 7, &mut out);
    one.hear(out);
    let mut vote = looking(1, 3);
    (vote.epoch, vote.zxid) = (1, at.zxid.0);
    for other in [1, 2] {
        one.tell(other, PeerMessage::Vote(vote));
    }
    assert_eq!(one.zab.state(), PeerState::Leading, "the log's end is durable all the same");
}

#[test]
fn a_proposal_that_nobody_could_apply_is_not_logged() {
    for kind in [EntryKind::Txn, EntryKind::Admission] {
        for (payload, is_sound) in [(&[1, 2, 3][..], false), (&Txn::default().to_bytes(), true)] {
            let mut one = One::new(1, 3, vec![], Zxid::ZERO);
            let attempt = one.follow(3);
            one.tell(3, PeerMessage::LeaderInfo { attempt, epoch: 9 });
            let tail = EpochEnd { zxid: 0, hash: 0 };
            one.tell(3, PeerMessage::SyncDiff { attempt, epoch: 9, tail });
            let first = entry(1, 1, None);
            let zxid = first.zxid().next();
            let second = Entry::new(kind, SHARD, zxid, first.hash(), payload);
            let entries = [first.bytes(), second.bytes()].concat();
            let propose = PeerMessage::Propose { epoch: 9, committed_zxid: 0, entries };
            let mut out = vec![];
            one.zab.on_message(one.now, ServerId(3), propose, &mut out);
            let is_dropped = out.iter().any(|action| {
                matches!(action, Action::Disconnect { why, .. } if why.contains("malformed"))
            });
            let is_logged = one.zab.log().tail().zxid == zxid;
            assert_eq!(is_dropped, !is_logged);
            if kind == EntryKind::Txn || !is_sound {
                assert_eq!(is_logged, is_sound, "{kind:?}");
            }
        }
    }
}

#[test]
fn a_damaged_log_counts_again_only_when_the_others_have_confirmed_the_epoch() {
    let mut one = One::new(5, 5, vec![], Zxid::ZERO);
    one.be_established(&[1, 2]);
    let (is_founder, is_whole) = (true, false);
    let info =
        PeerMessage::FollowerInfo { attempt: 1, accepted_epoch: 0, disk: 0, is_founder, is_whole };
    one.tell(3, info);
    one.tell(3, ack_epoch(1, 1));
    let may_enter = |said: &Said| {
        said.iter().any(|(to, message)| {
            *to == ServerId(3) && matches!(message, PeerMessage::NewLeader { .. })
        })
    };
    let said = one.sync();
    assert!(!may_enter(&said), "it would forget that it must not count");
    let round = said.iter().find_map(|(_, message)| match message {
        PeerMessage::Confirm { round, .. } => Some(*round),
        _ => None,
    });
    let round = round.expect("the others are asked");
    // Its own answer counts for nothing, and neither does its disk.
    one.tell(3, PeerMessage::ConfirmAck { epoch: 1, round });
    one.tell(1, PeerMessage::ConfirmAck { epoch: 1, round });
    let mut out = vec![];
    let zxid = one.zab.propose(EntryKind::Format, &[], &mut out);
    one.hear(out);
    one.sync();
    for learner in [1, 3] {
        one.tell(learner, PeerMessage::Ack { epoch: 1, zxid: zxid.0 });
    }
    assert!(one.zab.log().committed() < zxid);
    assert!(!may_enter(&one.sync()));
    one.tell(2, PeerMessage::ConfirmAck { epoch: 1, round });
    assert!(may_enter(&one.sync()));
    one.tell(3, PeerMessage::AckLeader { epoch: 1, zxid: zxid.0 });
    assert_eq!(one.zab.log().committed(), zxid, "with the third one it is a majority");
}

#[test]
fn what_was_lost_is_settled_by_a_whole_history_and_not_by_a_snapshot() {
    let damaged = Restored { is_unknown: true, ..restored(vec![], Zxid::ZERO) };
    let mut log = Log::new(damaged, LogLimits::default());
    let first = entry(1, 1, None);
    log.install(Mark { zxid: first.zxid(), hash: first.hash() }, 7);
    assert!(log.is_unknown(), "it may have acknowledged what came after the snapshot");
    log.accept_epoch(Epoch(2));
    log.enter_epoch(Epoch(2));
    assert!(!log.is_unknown());
}

#[test]
fn whoever_completes_a_majority_is_told_so() {
    let mut one = One::new(5, 5, vec![], Zxid::ZERO);
    one.be_established(&[1, 2, 3]);
    let mut out = vec![];
    let zxid = one.zab.propose(EntryKind::Txn, &[], &mut out);
    one.hear(out);
    let told = |said: Said| -> Vec<u8> {
        let message = PeerMessage::CommitOnceDurable { epoch: 1, zxid: zxid.0 };
        said.into_iter().filter(|(_, it)| *it == message).map(|(to, _)| to.0).collect()
    };
    assert_eq!(told(one.sync()), [0_u8; 0], "with the leader's disk, two more are needed");
    one.tell(1, PeerMessage::Ack { epoch: 1, zxid: zxid.0 });
    assert_eq!(told(one.sync()), [2, 3], "server 1 still needs another one itself");
    assert!(one.zab.log().committed() < zxid, "nobody's acknowledgement has come");
    assert_eq!(one.zab.acknowledged(), zxid, "but somebody may have answered a client by now");
    let said = one.tell(2, PeerMessage::Ack { epoch: 1, zxid: zxid.0 });
    assert_eq!((one.zab.log().committed(), said), (zxid, vec![]));
    let said = one.sync();
    let commits = said.iter().filter(|(_, it)| matches!(it, PeerMessage::Commit { .. }));
    assert_eq!((told(said.clone()), commits.count()), (vec![1], 0), "one word is enough for each");
}

#[test]
fn a_follower_commits_what_it_completes_a_majority_for() {
    let mut one = One::new(1, 3, vec![], Zxid::ZERO);
    one.serve_under(3, 9);
    let first = entry(9, 1, None);
    let second = entry(9, 2, Some(&first));
    let propose = |entry: &Entry| {
        let entries = entry.bytes().to_vec();
        PeerMessage::Propose { epoch: 9, committed_zxid: 0, entries }
    };
    let completes =
        |entry: &Entry| PeerMessage::CommitOnceDurable { epoch: 9, zxid: entry.zxid().0 };
    // The word comes before the disk has it: nothing is committed that a crash would take away.
    one.tell(3, propose(&first));
    one.tell(3, completes(&first));
    assert_eq!(one.zab.log().committed(), Zxid::ZERO);
    one.sync();
    assert_eq!((one.zab.log().committed(), one.zab.applicable()), (first.zxid(), first.zxid()));
    // And after it.
    one.tell(3, propose(&second));
    one.sync();
    assert_eq!(one.zab.applicable(), first.zxid(), "nobody else is known to have it");
    one.tell(3, completes(&second));
    assert_eq!(one.zab.applicable(), second.zxid());
}

#[test]
fn what_completed_a_majority_in_one_epoch_says_nothing_in_the_next() {
    let mut one = One::new(1, 3, vec![], Zxid::ZERO);
    one.serve_under(3, 9);
    let first = entry(9, 1, None);
    let entries = first.bytes().to_vec();
    one.tell(3, PeerMessage::Propose { epoch: 9, committed_zxid: 0, entries });
    one.tell(3, PeerMessage::CommitOnceDurable { epoch: 9, zxid: first.zxid().0 });
    // The leader is started anew before this disk has the entry, and leads again.
    let attempt = attempt_in(&one.up(3)).expect("it asks to join again");
    one.sync();
    one.tell(3, PeerMessage::LeaderInfo { attempt, epoch: 10 });
    one.sync();
    let tail = mark(&first);
    one.tell(3, PeerMessage::SyncDiff { attempt, epoch: 10, tail });
    one.tell(3, PeerMessage::NewLeader { epoch: 10, tail });
    one.sync();
    assert_eq!(one.zab.log().committed(), Zxid::ZERO, "epoch 10 may yet come to nothing");
    one.tell(3, PeerMessage::UpToDate { epoch: 10, committed_zxid: first.zxid().0 });
    assert_eq!(one.zab.log().committed(), first.zxid());
}

/// A leader of two learners that has proposed something.
fn leader_with_a_proposal() -> (One, Zxid) {
    let mut one = One::new(3, 3, vec![], Zxid::ZERO);
    one.be_established(&[1, 2]);
    let mut out = vec![];
    let zxid = one.zab.propose(EntryKind::Txn, &[], &mut out);
    one.hear(out);
    (one, zxid)
}

fn learners(one: &One) -> Vec<ServerId> {
    let Phase::Leading(leader) = one.zab.phase() else { panic!("it leads") };
    leader.learners().map(|(server, _)| server).collect()
}

#[test]
fn a_learner_whose_disk_stands_still_is_let_go() {
    let limit_ms = Periods::default().sync_limit.as_ms();
    let (mut one, zxid) = leader_with_a_proposal();
    one.sync();
    one.tell(2, PeerMessage::Ack { epoch: 1, zxid: zxid.0 });
    one.advance(limit_ms - 1);
    assert_eq!(learners(&one), [ServerId(1), ServerId(2)]);
    one.advance(1);
    assert_eq!(learners(&one), [ServerId(2)]);
    // Nobody lacks anything any more.
    one.advance(10 * limit_ms);
    assert_eq!(learners(&one), [ServerId(2)]);
    assert!(one.zab.is_established_leader());
}

#[test]
fn a_learner_is_let_go_for_the_last_of_what_came_together() {
    let (mut one, first) = leader_with_a_proposal();
    one.sync();
    one.advance(1);
    let mut out = vec![];
    let second = one.zab.propose(EntryKind::Txn, &[], &mut out);
    one.hear(out);
    one.sync();
    one.tell(1, PeerMessage::Ack { epoch: 1, zxid: first.0 });
    one.tell(2, PeerMessage::Ack { epoch: 1, zxid: second.0 });
    one.advance(Periods::default().sync_limit.as_ms());
    assert_eq!(learners(&one), [ServerId(2)]);
}

#[test]
fn a_leader_whose_disk_stands_still_leads_no_more() {
    let (mut one, zxid) = leader_with_a_proposal();
    let mut out = vec![];
    one.zab.on_turn_end(one.now, &mut out);
    for learner in [1, 2] {
        one.tell(learner, PeerMessage::Ack { epoch: 1, zxid: zxid.0 });
    }
    assert_eq!(one.zab.log().committed(), zxid, "the others are a majority");
    one.now = one.now + Periods::default().sync_limit;
    assert!(one.zab.deadline().is_some_and(|at| at <= one.now));
    one.zab.on_time(one.now, &mut out);
    assert_eq!(one.zab.state(), PeerState::Looking);
}

#[test]
fn a_server_alone_waits_for_its_disk() {
    let mut one = One::new(1, 1, vec![], Zxid::ZERO);
    one.sync();
    one.advance(10_000);
    assert!(one.zab.is_established_leader());
    let mut out = vec![];
    one.zab.propose(EntryKind::Txn, &[], &mut out);
    one.zab.on_turn_end(one.now, &mut out);
    one.now = one.now + Duration::from_ms(100_000);
    one.zab.on_time(one.now, &mut out);
    assert!(one.zab.is_established_leader());
    assert!(one.zab.deadline().is_none_or(|at| at > one.now), "there is nothing to look at");
}
