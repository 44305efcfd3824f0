//! How tombstones go: a floor under which no session of a home opens any more.
//!
//! A tombstone is left in every shard that a session was attached to, so that an open on its way
//! does not raise it again. Only the home knows which of its sessions live, and only the shard
//! knows which of those are open there; a floor is safe below the oldest attachment that lives and
//! was never opened. Both sides speak of committed history alone, so that neither needs to lead.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::base::id::{SessionId, ShardId, Zxid};
use crate::base::limits::TOMBSTONES_BEFORE_FLOOR;
use crate::mail::{Ask, Mail, Ticket, What, Writer};
use crate::peer::message::WriteAsk;
use crate::replica::asking::Asked;
use crate::replica::{Deed, Recipient, Replica};

impl Replica {
    /// A session of this home has ended, and left tombstones in these shards.
    pub(super) fn count_ends(&mut self, shards: &BTreeSet<ShardId>, deeds: &mut Vec<Deed>) {
        // What a floor costs grows with the sessions that live: it waits for as many to end.
        let worth = TOMBSTONES_BEFORE_FLOOR.max(self.state.sessions().homes_count() / 4);
        for &shard in shards {
            let Some(reign) = self.reign.as_mut() else {
                return;
            };
            let ended = reign.ended.entry(shard).or_default();
            *ended += 1;
            if *ended >= worth {
                *ended = 0;
                self.propose_floor(shard, deeds);
            }
        }
    }

    fn propose_floor(&self, shard: ShardId, deeds: &mut Vec<Deed>) {
        let sessions = self.state.sessions();
        let living =
            sessions.homes().filter_map(|(session, home)| Some((session, home.attachment(shard)?)));
        let what = What::RaiseFloor {
            home: self.shard(),
            until: self.state.applied(),
            living: living.collect(),
        };
        let ask = Ask { core: self.config.core, ticket: Ticket(0), what };
        deeds.push(Deed::Mail { to: Recipient::Shard(shard), mail: Mail::Ask { shard, ask } });
    }

    /// The home's part is known; what this shard adds is which of the living it has opened.
    pub(super) fn on_raise_floor(
        &mut self,
        home: ShardId,
        until: Zxid,
        living: &[(SessionId, Zxid)],
        deeds: &mut Vec<Deed>,
    ) {
        let sessions = self.state.sessions();
        let is_known =
            |session| sessions.attached(session).is_some() || sessions.has_tombstone(session);
        let unopened = living.iter().filter(|(session, _)| !is_known(*session));
        let floor = unopened.map(|&(_, zxid)| zxid).fold(until, Zxid::min);
        if floor <= sessions.floor(home) {
            return;
        }
        let asker = Writer::system();
        let ask = WriteAsk::SessionFloor { home: home.0, home_zxid: floor.0 };
        // Nobody waits for it: if it is lost, the next one does its work.
        self.next_question += 1;
        let ticket = Ticket::of_replica(self.shard(), self.next_question);
        let core = self.config.core;
        self.asked.insert((core, ticket), Asked::write(asker, ask));
        self.send_asked(core, ticket, deeds);
    }
}
