//! Messages and answers in a few words, for traces and stories.

use pigeonhole_core::base::id::{Epoch, ServerId, Zxid};
use pigeonhole_core::entry::Entries;
use pigeonhole_core::peer::codec;
use pigeonhole_core::peer::message::{
    ArchivedPeerMessage, EpochEnd, Forward, PeerMessage, Vote, WriteAsk,
};

use crate::history::{Answer, Part};

/// The name of a message's kind, as stories write it.
pub fn kind(message: &ArchivedPeerMessage) -> String {
    let text = say(message);
    let end = text.find([' ', '(']).unwrap_or(text.len());
    text[..end].to_owned()
}

/// A message in a few words.
pub fn say(message: &ArchivedPeerMessage) -> String {
    let Ok(message) = codec::to_owned(message) else {
        return "something unreadable".to_owned();
    };
    match message {
        PeerMessage::Vote(vote) => say_vote(&vote),
        PeerMessage::FollowerInfo { accepted_epoch, is_founder, is_whole, .. } => format!(
            "FollowerInfo accepted {accepted_epoch}{}{}",
            if is_founder { "" } else { ", a new disk" },
            if is_whole { "" } else { ", a damaged log" },
        ),
        PeerMessage::LeaderInfo { epoch, .. } => format!("LeaderInfo epoch {epoch}"),
        PeerMessage::AckEpoch { epoch, counted, current_epoch, tail, .. } => format!(
            "AckEpoch epoch {epoch}{}, current {current_epoch}, tail {}",
            if counted { "" } else { " again" },
            end(tail)
        ),
        PeerMessage::SyncDiff { epoch, tail, .. } => {
            format!("SyncDiff epoch {epoch}, after {}", end(tail))
        }
        PeerMessage::SyncTruncate { epoch, to, .. } => {
            format!("SyncTruncate epoch {epoch}, to {}", end(to))
        }
        PeerMessage::SyncSnapshot { epoch, at, .. } => {
            format!("SyncSnapshot epoch {epoch}, at {}", end(at))
        }
        PeerMessage::SnapshotChunk { index, last, .. } => {
            format!("SnapshotChunk {index}{}", if last { ", the last" } else { "" })
        }
        PeerMessage::SnapshotChunkAck { index, .. } => format!("SnapshotChunkAck {index}"),
        PeerMessage::NewLeader { epoch, tail } => {
            format!("NewLeader epoch {epoch}, tail {}", end(tail))
        }
        PeerMessage::AckLeader { epoch, zxid } => {
            format!("AckLeader epoch {epoch}, tail {}", Zxid(zxid))
        }
        PeerMessage::UpToDate { epoch, committed_zxid } => {
            format!("UpToDate epoch {epoch}, committed {}", Zxid(committed_zxid))
        }
        PeerMessage::Propose { committed_zxid, entries, .. } => {
            format!("Propose{}, committed {}", say_entries(&entries), Zxid(committed_zxid))
        }
        PeerMessage::Ack { zxid, .. } => format!("Ack {}", Zxid(zxid)),
        PeerMessage::CommitOnceDurable { zxid, .. } => {
            format!("CommitOnceDurable {}", Zxid(zxid))
        }
        PeerMessage::Commit { zxid, .. } => format!("Commit {}", Zxid(zxid)),
        PeerMessage::Confirm { .. } => "Confirm".to_owned(),
        PeerMessage::ConfirmAck { .. } => "ConfirmAck".to_owned(),
        PeerMessage::Forward(forward) => say_forward(&forward),
        PeerMessage::Refused(refused) => {
            format!("Refused {} judged at {}", refused.code, Zxid(refused.zxid))
        }
        PeerMessage::NotProposed { .. } => "NotProposed".to_owned(),
        PeerMessage::ReadIndex { .. } => "ReadIndex".to_owned(),
        PeerMessage::ReadIndexAt { zxid, .. } => format!("ReadIndexAt {}", Zxid(zxid)),
        PeerMessage::Error { text } => format!("Error {text}"),
        other => {
            let text = format!("{other:?}");
            text[..text.find([' ', '{', '(']).unwrap_or(text.len())].to_owned()
        }
    }
}

/// Whether a message says only that its sender is there, or is repeated until it is heard.
pub fn is_heartbeat(message: &ArchivedPeerMessage) -> bool {
    match message {
        ArchivedPeerMessage::Propose { entries, .. } => entries.is_empty(),
        ArchivedPeerMessage::Touch { .. } | ArchivedPeerMessage::TouchAck { .. } => true,
        _ => false,
    }
}

/// What a client was told.
pub fn say_result(result: &Result<Answer, i32>) -> String {
    match result {
        Err(code) => format!("error {code}"),
        Ok(Answer::Nothing) => "ok".to_owned(),
        Ok(Answer::Created { path, stat }) => format!("created {path} as {}", stat.czxid),
        Ok(Answer::Stat(stat)) => format!("version {} of {}", stat.version, stat.mzxid),
        Ok(Answer::Data { data, stat }) => {
            let data = data.as_deref().map(String::from_utf8_lossy);
            let data = data.map_or("null".to_owned(), |data| format!("{data:?}"));
            format!("{data} of {}", stat.mzxid)
        }
        Ok(Answer::Children { children, .. }) => format!("{children:?}"),
        Ok(Answer::Acl { entries, .. }) => format!("{entries:?}"),
        Ok(Answer::Number(number)) => number.to_string(),
        Ok(Answer::Paths(paths)) => format!("{paths:?}"),
        Ok(Answer::Path(path)) => path.clone(),
        Ok(Answer::Multi(parts)) => {
            let part = |part: &Part| match part {
                Part::Created { path, .. } => format!("created {path}"),
                Part::Deleted => "deleted".to_owned(),
                Part::Set(stat) => format!("version {}", stat.version),
                Part::Checked => "checked".to_owned(),
                Part::Data { stat, .. } => format!("data of {}", stat.mzxid),
                Part::Children(names) => format!("{names:?}"),
                Part::Error(code) => format!("error {code}"),
            };
            format!("[{}]", parts.iter().map(part).collect::<Vec<_>>().join(", "))
        }
    }
}

fn say_vote(vote: &Vote) -> String {
    format!(
        "Vote for {:?} ({:?}{}, round {}, {} {})",
        ServerId(vote.leader),
        vote.state,
        if vote.established { ", established" } else { "" },
        vote.round,
        Epoch(vote.epoch),
        Zxid(vote.zxid),
    )
}

fn say_forward(forward: &Forward) -> String {
    let what = match &forward.ask {
        WriteAsk::Client { op_code, .. } => format!("request {op_code}"),
        other => {
            let text = format!("{other:?}");
            text[..text.find([' ', '{']).unwrap_or(text.len())].to_owned()
        }
    };
    format!("Forward {what}")
}

fn say_entries(bytes: &[u8]) -> String {
    let mut text = String::new();
    for entry in Entries::new(bytes).flatten() {
        text.push_str(&format!(" {:?} {}", entry.kind(), entry.zxid()));
    }
    text
}

fn end(end: EpochEnd) -> Zxid {
    Zxid(end.zxid)
}
