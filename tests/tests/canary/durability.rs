//! Faults of promises: a message leaves before what it claims is on its sender's disk.

use pigeonhole_core::base::id::{ChainHash, ShardId};
use pigeonhole_core::control::Control;
use pigeonhole_core::durable::Append;
use pigeonhole_core::durable::{LogMark, Record};
use pigeonhole_core::peer::codec::{self, Frame};
use pigeonhole_core::peer::message::{PeerMessage, PeerState, Vote};
use pigeonhole_tests::check::{Checks, durability};
use pigeonhole_tests::disk::Disk;
use pigeonhole_tests::draw::Draw;
use pigeonhole_tests::swarm::Options;

use crate::complains;
use crate::logs::{NODES, SHARD, epoch_start, zxid};

/// A node that has accepted epoch 1, and appended its first entry and as much as it says.
fn node(synced: bool, crash_check_every: u64) -> Checks {
    let mut checks = Checks::new(NODES, crash_check_every);
    let records = [
        Record::Control(Control::AcceptedEpoch { epoch: 1 }),
        Record::Control(Control::CurrentEpoch { epoch: 1 }),
        Record::Entry(epoch_start(1, ChainHash::default())),
    ];
    let mut last = None;
    for (sequence, record) in (0..).map(pigeonhole_core::base::id::Sequence).zip(records) {
        let append = Append { shard: SHARD, sequence, record, riders: Vec::new() };
        checks.agreement.on_append(0, &append, pigeonhole_tests::queue::Moment(0));
        last = Some(LogMark { shard: SHARD, sequence });
    }
    if synced {
        checks.agreement.on_durable(0, last.unwrap());
    }
    checks
}

/// The message leaves the node, whose disk is empty.
fn send(checks: &mut Checks, message: &PeerMessage) {
    let mut bytes = Vec::new();
    codec::encode_message(SHARD, message, &mut bytes);
    let Ok(Frame::Message { shard, message }) = codec::decode(&bytes) else {
        panic!("it is a message");
    };
    let options = Options::calm(1, 1).disk;
    let disk = Disk::new(options, Draw::new(1, 1));
    durability::on_message(checks, 0, shard, message, &disk, &[ShardId(0)]);
}

fn acknowledgement() -> PeerMessage {
    PeerMessage::Ack { epoch: 1, zxid: zxid(1, 1).0 }
}

#[test]
fn a_promise_that_is_on_the_disk_passes() {
    let mut checks = node(true, u64::MAX);
    send(&mut checks, &acknowledgement());
    send(&mut checks, &PeerMessage::AckLeader { epoch: 1, zxid: zxid(1, 1).0 });
    assert_eq!(checks.acknowledgements, 2);
}

#[test]
fn an_acknowledgement_before_the_sync() {
    let mut checks = node(false, u64::MAX);
    complains("AckImpliesDurable: n0 claims", || send(&mut checks, &acknowledgement()));
}

#[test]
fn a_vote_for_oneself_before_the_sync() {
    let (state, round, epoch, zxid) = (PeerState::Looking, 1, 1, zxid(1, 1).0);
    let (established, counts, is_willing) = (false, true, true);
    let vote = |leader| Vote { round, state, leader, epoch, zxid, established, counts, is_willing };
    let mut checks = node(false, u64::MAX);
    send(&mut checks, &PeerMessage::Vote(vote(2)));
    assert_eq!(checks.acknowledgements, 0, "what it says of another is no promise");
    complains("AckImpliesDurable: n0 claims", || {
        send(&mut checks, &PeerMessage::Vote(vote(1)));
    });
}

#[test]
fn an_acknowledgement_of_more_than_was_appended() {
    let mut checks = node(true, u64::MAX);
    let more = PeerMessage::Ack { epoch: 1, zxid: zxid(1, 2).0 };
    complains("AckImpliesDurable: n0 claims", || send(&mut checks, &more));
}

#[test]
fn an_epoch_that_is_promised_before_the_sync() {
    let mut checks = node(true, u64::MAX);
    let entered = PeerMessage::AckLeader { epoch: 2, zxid: zxid(1, 1).0 };
    complains("AckImpliesDurable: n0 claims", || send(&mut checks, &entered));
}

#[test]
fn a_sync_that_a_crash_would_undo() {
    // The log says that it is durable, and the disk has nothing.
    let mut checks = node(true, 1);
    complains("a crash would leave", || send(&mut checks, &acknowledgement()));
}
