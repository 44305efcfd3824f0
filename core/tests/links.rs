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

#[test]
fn a_peer_far_away_may_take_a_round_trip_for_its_first_word_and_no_longer() {
    let mut links = linked();
    assert!(!is_given_up(&mut links, at(1_500)));
    hear_ping(&mut links, at(1_500));
    assert!(!is_given_up(&mut links, at(1_899)));
    assert!(is_given_up(&mut links, at(1_900)));
}

#[test]
fn a_peer_that_never_speaks_is_given_up() {
    let mut links = linked();
    assert!(!is_given_up(&mut links, at(1_999)));
    assert!(is_given_up(&mut links, at(2_000)));
}
