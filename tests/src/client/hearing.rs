//! What a client hears: replies in the order of its requests, and events of its watches.

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::Zxid;
use pigeonhole_core::op::{EventType, Request, SetWatches};
use pigeonhole_core::wire::client::{self as wire, ReplyHeader};

use crate::client::{Client, Phase, Sent, What};
use crate::history::{Answer, Ask, Fired, Heard, History, Outcome, Part, Watch, WatchOn};
use crate::network::Side;
use crate::node::Around;
use crate::say;
use crate::sometimes::State;
use crate::speech;
use pigeonhole_core::wire::reply::{XID_AUTH, XID_EVENT, XID_PING, XID_SET_WATCHES, ZXID_NONE};

impl Client {
    pub(super) fn on_reply(
        &mut self,
        frame: &[u8],
        history: &mut History,
        around: &mut Around<'_>,
    ) {
        let now = around.queue.now();
        let (header, body) = wire::parse_header(frame).expect("a reply has a header");
        around.trace.fold(header.zxid.0, frame);
        let Phase::Attached(attached) = &mut self.phase else {
            return;
        };
        let session = self.session.as_mut().expect("attached with a session");
        attached.heard_at = now;
        history.heard += 1;
        history.sessions[session.life].heard = now;
        if header.xid == XID_EVENT {
            self.on_event(&header, body, history, around);
            return;
        }
        if header.xid == XID_PING {
            let sent = attached.pings.pop_front().expect("a ping was sent");
            history.sessions[session.life].pings_answered.push(sent);
            return;
        }
        if header.xid == XID_AUTH {
            assert_eq!(header.error, 0, "a right password is right");
            attached.auths -= 1;
            return;
        }
        assert_eq!(attached.auths, 0, "who authenticates first is heard first");
        let sent = attached.in_flight.pop_front().expect("a reply answers something");
        assert_eq!(sent.xid, header.xid, "replies come in the order of the requests");
        let shows = match sent.what {
            What::Operation(index) => !history.operations[index].ask.is_write(),
            What::SetWatches => true,
        };
        match sent.what {
            What::SetWatches => {
                attached.renewing = false;
                for &index in self.watches.values() {
                    let watch = &mut history.watches[index];
                    (watch.connection, watch.from) = (attached.connection, history.heard);
                }
                self.persistent.begin(attached.connection, header.zxid, now, history);
                around.trace.line(now, || format!("c{} has its watches again", self.id));
            }
            What::Operation(index) => self.on_result(index, &header, body, history, around),
        }
        self.see(header.zxid, shows, history);
        self.work(history, around);
    }

    fn on_result(
        &mut self,
        index: usize,
        header: &ReplyHeader,
        body: &[u8],
        history: &mut History,
        around: &mut Around<'_>,
    ) {
        let now = around.queue.now();
        let ask = history.operations[index].ask.clone();
        let result = speech::read_answer(&ask, header, body);
        if result == Err(ErrorCode::NoAuth.wire()) {
            around.checks.sometimes.hit(State::Forbidden);
        }
        if result.is_err() && ask.is_write() {
            around.checks.sometimes.hit(State::WriteRefused);
            if result == Err(ErrorCode::SystemError.wire()) {
                around.checks.sometimes.hit(State::RefusedForRoom);
            }
        }
        if matches!(&result, Ok(Answer::Multi(parts)) if parts.iter().any(Part::is_error))
            && ask.is_write()
        {
            around.checks.sometimes.hit(State::MultiFailed);
        }
        around.trace.line(now, || {
            format!(
                "c{} hears {}: {} at {}",
                self.id,
                speech::name(&ask),
                say::say_result(&result),
                header.zxid
            )
        });
        if let Some((on, path)) = speech::watch_left(&ask, &result) {
            let watch = Watch {
                client: self.id,
                people: self.people(),
                path: path.to_owned(),
                on,
                since: header.zxid,
                shown: speech::stat_of(&result),
                connection: self.attempt,
                from: history.heard,
                until: u64::MAX,
                seen: header.zxid,
                renewed: false,
                fired: None,
            };
            // A second watch of the same kind on the same path is the same watch.
            self.watches.entry((on, path.to_owned())).or_insert_with(|| {
                history.watches.push(watch);
                history.watches.len() - 1
            });
        }
        let sometimes = &mut around.checks.sometimes;
        self.on_watch_result(&ask, &result, header.zxid, now, history, sometimes);
        let closes = ask == Ask::Close;
        history.settle(index, now, Outcome::Done { zxid: header.zxid, result });
        if closes {
            around.checks.sometimes.hit(State::SessionClosed);
            self.session_over(history, around);
        }
    }

    fn on_event(
        &mut self,
        header: &ReplyHeader,
        body: &[u8],
        history: &mut History,
        around: &mut Around<'_>,
    ) {
        let event = wire::parse_event(body).expect("an event has a kind and a path");
        let zxid = (header.zxid != ZXID_NONE).then_some(header.zxid);
        around.trace.line(around.queue.now(), || {
            let at = zxid.map_or(String::new(), |zxid| format!(" at {zxid}"));
            format!("c{} sees {:?} {}{at}", self.id, event.kind, event.path)
        });
        around.checks.sometimes.hit(State::WatchFired);
        let (client, connection, number) = (self.id, self.attempt, history.heard);
        let (kind, path) = (event.kind, event.path.to_owned());
        history.events.push(Heard { client, connection, number, kind, path, zxid });
        let mut found = self.persistent.await_event(event.kind, event.path);
        for &on in speech::fires(event.kind) {
            let Some(index) = self.watches.remove(&(on, event.path.to_owned())) else {
                continue;
            };
            found = true;
            let watch = &mut history.watches[index];
            if watch.renewed && self.is_renewing() {
                around.checks.sometimes.hit(State::WatchCaughtUp);
            }
            watch.fired = Some(Fired { kind: event.kind, zxid, number: history.heard });
        }
        // A znode's two kinds of watches, set again, each tell that it is gone: as ZooKeeper's do.
        let found =
            found || (event.kind == EventType::NodeDeleted && self.was_set_again(event.path));
        assert!(found, "W1: c{} has no watch for {event:?} at {}", self.id, header.zxid);
        self.see(header.zxid, false, history);
    }

    /// Notes how far the session has seen, and with it every watch that stands. The reply to a
    /// write may come just before the event that the write itself has fired, and one change may
    /// fire more than one watch.
    fn see(&mut self, zxid: Zxid, shows: bool, history: &mut History) {
        let Phase::Attached(attached) = &mut self.phase else {
            return;
        };
        let session = self.session.as_mut().expect("attached with a session");
        if zxid == ZXID_NONE || zxid == Zxid::ZERO {
            return;
        }
        assert!(
            zxid >= attached.zxid,
            "MonotonicRead: c{} saw {} and then {zxid}",
            self.id,
            attached.zxid
        );
        attached.zxid = zxid;
        if !attached.renewing {
            self.persistent.see(Zxid(zxid.0 - u64::from(!shows)), history);
            for &index in self.watches.values() {
                let shown = Zxid(zxid.0 - u64::from(!shows));
                history.watches[index].seen = history.watches[index].seen.max(shown);
            }
        }
        session.seen = session.seen.max(zxid);
    }

    fn is_renewing(&self) -> bool {
        matches!(&self.phase, Phase::Attached(attached) if attached.renewing)
    }

    fn was_set_again(&mut self, path: &str) -> bool {
        let Phase::Attached(attached) = &mut self.phase else {
            return false;
        };
        attached.renewed.remove(path)
    }

    pub(super) fn renew_watches(&mut self, around: &mut Around<'_>) {
        if self.watches.is_empty() && self.persistent.is_empty() {
            return;
        }
        around.checks.sometimes.hit(State::WatchSetAgain);
        let session = self.session.as_ref().expect("attached with a session");
        let of = |on: WatchOn| -> Vec<&str> {
            let mine = self.watches.keys().filter(|(kind, _)| *kind == on);
            mine.map(|(_, path)| path.as_str()).collect()
        };
        let watches = SetWatches {
            relative_zxid: session.seen,
            data: of(WatchOn::Data),
            exist: of(WatchOn::Exist),
            child: of(WatchOn::Child),
            persistent: self.persistent.paths(false),
            persistent_recursive: self.persistent.paths(true),
        };
        let mut bytes = Vec::new();
        wire::put_request(&mut bytes, XID_SET_WATCHES, &Request::SetWatches(watches));
        let Phase::Attached(attached) = &mut self.phase else {
            return;
        };
        attached.renewing = true;
        attached.renewed = self.watches.keys().map(|(_, path)| path.clone()).collect();
        attached.in_flight.push_back(Sent { xid: XID_SET_WATCHES, what: What::SetWatches });
        let stream = attached.stream;
        around.network.send(stream, Side::Dialer, bytes, around.queue);
    }
}
