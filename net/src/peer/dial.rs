//! Whom to dial, and when: one dial for each core of each peer with a lower id.

use std::net::{IpAddr, SocketAddr};

use pigeonhole_core::base::id::{CoreId, ServerId};
use pigeonhole_core::base::limits::{DIAL_BACKOFF_MS_MAX, DIAL_BACKOFF_MS_MIN};
use pigeonhole_core::base::time::{Duration, Instant};

use crate::config::HostPort;

/// The dials of one core.
pub(crate) struct Dials {
    dials: Vec<Dial>,
}

/// A core of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) peer: ServerId,
    pub(crate) core: CoreId,
}

/// What it is time for.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Due {
    Dial(Target, SocketAddr),
    /// The name has to be looked up first; it may mean another machine than last time.
    Resolve(ServerId, HostPort),
}

struct Dial {
    target: Target,
    address: HostPort,
    state: State,
    backoff: Duration,
    /// How often it has failed: of a name's addresses each is tried in turn.
    failures: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting {
        until: Instant,
    },
    /// An address was asked for, or is about to be dialed.
    Resolving,
    /// The link in this slot is being made, or is up.
    Underway {
        slot: u32,
    },
}

impl Dials {
    pub(crate) fn new(me: ServerId, peers: &[(ServerId, HostPort)], now: Instant) -> Self {
        let dialed = peers.iter().filter(|(peer, _)| *peer < me);
        // How many cores a peer has is not known before its first answer.
        let dial = |(peer, address): &(ServerId, HostPort)| {
            let target = Target { peer: *peer, core: CoreId(0) };
            Dial::new(target, address.clone(), now)
        };
        Self { dials: dialed.map(dial).collect() }
    }

    /// Everything whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        for dial in &mut self.dials {
            if !matches!(dial.state, State::Waiting { until } if until <= now) {
                continue;
            }
            dial.state = State::Resolving;
            due.push(match dial.address.host.parse::<IpAddr>() {
                Ok(ip) => Due::Dial(dial.target, SocketAddr::new(ip, dial.address.port)),
                Err(_) => Due::Resolve(dial.target.peer, dial.address.clone()),
            });
        }
        due
    }

    /// Whom to dial now that a peer's name was looked up.
    pub(crate) fn on_resolved(
        &mut self,
        peer: ServerId,
        addresses: &[SocketAddr],
        now: Instant,
    ) -> Vec<(Target, SocketAddr)> {
        let mut due = Vec::new();
        for dial in self.dials.iter_mut().filter(|dial| dial.target.peer == peer) {
            if dial.state != State::Resolving {
                continue;
            }
            match addresses.get(dial.failures % addresses.len().max(1)) {
                Some(address) => due.push((dial.target, *address)),
                None => dial.back_off(now),
            }
        }
        due
    }

    pub(crate) fn on_begun(&mut self, target: Target, slot: u32) {
        if let Some(dial) = self.find(target) {
            dial.state = State::Underway { slot };
        }
    }

    pub(crate) fn back_off(&mut self, target: Target, now: Instant) {
        if let Some(dial) = self.find(target) {
            dial.back_off(now);
        }
    }

    /// The peer has answered: dials each of its cores, and none that it does not have.
    pub(crate) fn on_linked(&mut self, peer: ServerId, cores: u8) {
        let mut address = None;
        for dial in self.dials.iter_mut().filter(|dial| dial.target.peer == peer) {
            dial.backoff = BACKOFF_MIN;
            address = Some(dial.address.clone());
        }
        let Some(address) = address else { return };
        self.dials.retain(|dial| dial.target.peer != peer || dial.target.core.0 < cores);
        for core in (0..cores).map(CoreId) {
            let target = Target { peer, core };
            if self.find(target).is_none() {
                self.dials.push(Dial::new(target, address.clone(), Instant(0)));
            }
        }
    }

    /// A link is gone. If it was dialed from here, it is dialed again.
    pub(crate) fn on_lost(&mut self, slot: u32, now: Instant) {
        for dial in &mut self.dials {
            if dial.state == (State::Underway { slot }) {
                dial.back_off(now);
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.dials.iter().filter_map(|dial| match dial.state {
            State::Waiting { until } => Some(until),
            State::Resolving | State::Underway { .. } => None,
        });
        waiting.min()
    }

    fn find(&mut self, target: Target) -> Option<&mut Dial> {
        self.dials.iter_mut().find(|dial| dial.target == target)
    }
}

impl Dial {
    fn new(target: Target, address: HostPort, now: Instant) -> Self {
        let state = State::Waiting { until: now };
        Self { target, address, state, backoff: BACKOFF_MIN, failures: 0 }
    }

    fn back_off(&mut self, now: Instant) {
        self.state = State::Waiting { until: now + self.backoff };
        self.backoff = Duration(self.backoff.0 * 2).min(BACKOFF_MAX);
        self.failures += 1;
    }
}

const BACKOFF_MIN: Duration = Duration::from_ms(DIAL_BACKOFF_MS_MIN);
const BACKOFF_MAX: Duration = Duration::from_ms(DIAL_BACKOFF_MS_MAX);

#[cfg(test)]
mod tests {
    use pigeonhole_core::base::id::{CoreId, ServerId};
    use pigeonhole_core::base::time::{Duration, Instant};

    use super::{Dials, Due, Target};
    use crate::config::HostPort;

    fn peers() -> Vec<(ServerId, HostPort)> {
        let at = |host: &str| HostPort { host: host.to_owned(), port: 2888 };
        vec![(ServerId(1), at("10.0.0.1")), (ServerId(2), at("zk2")), (ServerId(4), at("10.0.0.4"))]
    }

    fn target(peer: u8, core: u8) -> Target {
        Target { peer: ServerId(peer), core: CoreId(core) }
    }

    #[test]
    fn lower_ids_are_dialed_and_names_are_looked_up() {
        let mut dials = Dials::new(ServerId(3), &peers(), Instant(5));
        let due = dials.take_due(Instant(5));
        let address = "10.0.0.1:2888".parse().unwrap();
        let name = peers()[1].1.clone();
        assert_eq!(due, [Due::Dial(target(1, 0), address), Due::Resolve(ServerId(2), name)]);
        dials.on_begun(target(1, 0), 7);
        assert_eq!(dials.take_due(Instant(u64::MAX)), []);

        let resolved = "10.0.0.2:2888".parse().unwrap();
        let due = dials.on_resolved(ServerId(2), &[resolved], Instant(5));
        assert_eq!(due, [(target(2, 0), resolved)]);
        assert_eq!(dials.on_resolved(ServerId(1), &[resolved], Instant(5)), []);
    }

    /// The first may be one that the peer does not listen on.
    #[test]
    fn the_addresses_of_a_name_are_tried_in_turn() {
        let mut dials = Dials::new(ServerId(3), &peers()[1..2], Instant(0));
        let addresses = ["[fd00::2]:2888", "10.0.0.2:2888"].map(|it| it.parse().unwrap());
        let mut now = Instant(0);
        let mut dialed = Vec::new();
        for slot in 0..4 {
            assert_eq!(dials.take_due(now).len(), 1);
            dialed.extend(dials.on_resolved(ServerId(2), &addresses, now));
            dials.on_begun(target(2, 0), slot);
            dials.on_lost(slot, now);
            now = dials.deadline().unwrap();
        }
        let [six, four] = addresses;
        assert_eq!(dialed, [six, four, six, four].map(|address| (target(2, 0), address)));
    }

    #[test]
    fn a_lost_link_is_dialed_again_ever_more_slowly() {
        let mut dials = Dials::new(ServerId(2), &peers()[..1], Instant(0));
        let mut now = Instant(0);
        let mut pauses = Vec::new();
        for slot in 0..8 {
            assert_eq!(dials.take_due(now).len(), 1);
            dials.on_begun(target(1, 0), slot);
            dials.on_lost(slot + 100, now);
            assert_eq!(dials.deadline(), None, "another link's loss is none of its business");
            dials.on_lost(slot, now);
            let next = dials.deadline().unwrap();
            pauses.push(next.since(now).as_ms());
            now = next;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 500, 500]);

        dials.take_due(now);
        dials.on_linked(ServerId(1), 1);
        dials.on_begun(target(1, 0), 9);
        dials.on_lost(9, now);
        assert_eq!(dials.deadline(), Some(now + Duration::from_ms(10)));
    }

    #[test]
    fn every_core_of_a_peer_is_dialed() {
        let mut dials = Dials::new(ServerId(2), &peers()[..1], Instant(0));
        dials.take_due(Instant(0));
        dials.on_begun(target(1, 0), 0);
        dials.on_linked(ServerId(1), 3);
        let address = "10.0.0.1:2888".parse().unwrap();
        let due = dials.take_due(Instant(1));
        assert_eq!(due, [Due::Dial(target(1, 1), address), Due::Dial(target(1, 2), address)]);
        // It came back with fewer cores.
        dials.on_linked(ServerId(1), 1);
        dials.on_lost(0, Instant(1));
        let later = Instant(1) + Duration::from_ms(10);
        assert_eq!(dials.take_due(later), [Due::Dial(target(1, 0), address)]);
    }
}
