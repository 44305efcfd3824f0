//! *AckImpliesDurable*: when a promise leaves a node, a crash at that moment would keep it.
//!
//! Every acknowledgement, and every vote for oneself, is held against the records that the node's
//! log has reported durable, and every so-many-th against a recovery of what the disk would hold
//! without power.

use pigeonhole_core::base::id::{ServerId, ShardId, Zxid};
use pigeonhole_core::peer::message::ArchivedPeerMessage;
use pigeonhole_storage::recover::{RecoverConfig, RecoveredShard, recover};
use pigeonhole_storage::snapshot::SnapshotName;

use crate::check::Checks;
use crate::disk::Disk;
use crate::node::server_id;

/// What a message claims to be on its sender's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    pub accepted: u32,
    pub current: u32,
    pub tail: Zxid,
}

impl Claim {
    /// The claim of a message about the disk of its sender, if it makes one.
    pub fn of(sender: ServerId, message: &ArchivedPeerMessage) -> Option<Self> {
        Some(match message {
            ArchivedPeerMessage::Vote(vote) if vote.leader == sender.0 => Self {
                current: vote.epoch.to_native(),
                tail: Zxid(vote.zxid.to_native()),
                ..Self::default()
            },
            ArchivedPeerMessage::LeaderInfo { epoch, .. } => {
                Self { accepted: epoch.to_native(), ..Self::default() }
            }
            ArchivedPeerMessage::AckEpoch { epoch, current_epoch, tail, .. } => Self {
                accepted: epoch.to_native(),
                current: current_epoch.to_native(),
                tail: Zxid(tail.zxid.to_native()),
            },
            ArchivedPeerMessage::AckLeader { epoch, zxid } => Self {
                accepted: epoch.to_native(),
                current: epoch.to_native(),
                tail: Zxid(zxid.to_native()),
            },
            // A learner that is being brought up to date says how far it has come before it enters
            // the epoch; for its leader that counts only afterwards.
            ArchivedPeerMessage::Ack { epoch, zxid } => Self {
                accepted: epoch.to_native(),
                tail: Zxid(zxid.to_native()),
                ..Self::default()
            },
            _ => return None,
        })
    }
}

/// A frame leaves `node`.
pub fn on_message(
    checks: &mut Checks,
    node: u8,
    shard: ShardId,
    message: &ArchivedPeerMessage,
    disk: &Disk,
    shards: &[ShardId],
) {
    let Some(claim) = Claim::of(server_id(node), message) else {
        return;
    };
    let (durable, high) = checks.agreement.durable(node, shard);
    assert!(
        claim.accepted <= durable.accepted
            && claim.current <= durable.current
            && claim.tail <= high,
        "AckImpliesDurable: n{node} claims {claim:?} in shard {shard}, and has {durable:?}"
    );
    checks.acknowledgements += 1;
    if checks.acknowledgements.is_multiple_of(checks.crash_check_every) {
        // A truncation may follow the acknowledged entry in the same batch: then the claim was true
        // and is void, and there is nothing to compare.
        let expected = claim.tail.min(durable.tail);
        let files = disk.crash_now();
        let found = recover(RecoverConfig::default(), &files, shards)
            .unwrap_or_else(|why| panic!("AckImpliesDurable: a crash now is fatal: {why:?}"));
        let RecoveredShard { checkpoint, base, .. } = &found.shards[&shard];
        let file = SnapshotName::new(shard, base).file_name();
        assert!(
            base.zxid == 0 || disk.directory.outlives_power(&file),
            "AckImpliesDurable: n{node} would start from {file}, which a crash would take"
        );
        assert!(
            checkpoint.accepted_epoch >= claim.accepted
                && checkpoint.current_epoch >= claim.current
                && checkpoint.tail_zxid() >= expected,
            "AckImpliesDurable: n{node} claims {claim:?}, and a crash would leave {checkpoint:?}"
        );
    }
}
