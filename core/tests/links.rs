//! How long a peer may be silent.

use pigeonhole_core::base::id::{CoreId, LinkId, ServerId, ShardId};
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::links::Links;
use pigeonhole_core::peer::codec;
use pigeonhole_core::peer::message::PeerMessage;

const FAR: LinkId = LinkId { peer: ServerId(2), core: CoreId(0), incarnation: 1 };

fn at(milliseconds: u64) -> Instant {
    Instant(milliseconds * 1000)
}

fn linked() -> Links {
    let mut links = Links::new(Duration::from_ms(50), Duration::from_ms(400));
    links.on_up(at(0), FAR, 1);
    links
}

/// Whether the peer is given up until then, if the clock is looked at whenever it must be.
fn is_given_up(links: &mut Links, end: Instant) -> bool {
    while let Some(now) = links.deadline().filter(|now| *now <= end) {
        let mut given_up = false;
        links.on_time(now, |_| {}, |_| given_up = true);
        if given_up {
            return true;
        }
    }
    false
}

fn hear_ping(links: &mut Links, now: Instant) {
    let mut ping = Vec::new();
    codec::encode_ping(&mut ping);
    let nothing = |_: ShardId, _: PeerMessage| panic!("a ping is no message");
    links.receive(now, FAR, &ping, nothing).expect("it is a frame");
}

/// The first word takes a round trip, and so does what a new connection may not send before the
/// first words are acknowledged.
#[test]
fn a_peer_far_away_may_be_silent_for_a_round_trip_while_its_link_is_new() {
    let mut links = linked();
    assert!(!is_given_up(&mut links, at(700)));
    hear_ping(&mut links, at(700));
    assert!(!is_given_up(&mut links, at(1_900)));
    hear_ping(&mut links, at(1_900));
    assert!(!is_given_up(&mut links, at(2_299)));
    assert!(is_given_up(&mut links, at(2_300)));
}

#[test]
fn a_peer_that_has_spoken_for_a_while_is_given_up_after_its_silence() {
    let mut links = linked();
    for milliseconds in (50..3_000).step_by(50) {
        hear_ping(&mut links, at(milliseconds));
    }
    assert!(!is_given_up(&mut links, at(3_349)));
    assert!(is_given_up(&mut links, at(3_350)));
}

#[test]
fn a_peer_that_never_speaks_is_given_up() {
    let mut links = linked();
    assert!(!is_given_up(&mut links, at(1_999)));
    assert!(is_given_up(&mut links, at(2_000)));
}

/// The moments, in milliseconds, at which pings are sent before `end`; at those in `words`, the
/// link carries something else, too.
fn pings(links: &mut Links, end: Instant, words: &[u64]) -> Vec<u64> {
    let mut moments = Vec::new();
    while let Some(now) = links.deadline().filter(|now| *now < end) {
        hear_ping(links, now);
        let mut is_due = false;
        links.on_time(now, |_| is_due = true, |_| panic!("the peer speaks"));
        if is_due {
            moments.push(now.0 / 1000);
        }
        if words.contains(&(now.0 / 1000)) {
            links.send(FAR, b"a word").expect("there is room");
        }
        links.output(FAR).expect("it is up").clear();
    }
    moments
}

#[test]
fn a_link_that_carries_nothing_else_is_pinged_half_as_often() {
    let mut links = linked();
    let moments = pings(&mut links, at(900), &[300, 400]);
    assert_eq!(moments, [50, 100, 200, 300, 400, 450, 500, 600, 700, 800]);
}
