//! Stories: small scripts whose whole conversation is compared with a golden transcript.

use pigeonhole_core::peer::message::ArchivedPeerMessage;

/// A message in a few words.
pub fn say(message: &ArchivedPeerMessage) -> String {
    match pigeonhole_core::peer::codec::to_owned(message) {
        Ok(message) => format!("{message:?}"),
        Err(_) => "something unreadable".to_owned(),
    }
}
