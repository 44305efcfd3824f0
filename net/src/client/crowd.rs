//! How many clients a server has over all its cores: what the limits for a server are compared
//! with.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use pigeonhole_core::effect::Crowd;

/// The clients of a server, by address. Its cores share it, and touch it only when a client comes
/// or goes.
#[derive(Default)]
pub(crate) struct Census {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    by_address: HashMap<IpAddr, u32>,
    all: usize,
}

/// One client, which is counted as long as this exists.
pub(crate) struct Seat {
    census: Arc<Census>,
    address: IpAddr,
}

/// A client that has been accepted, on its way to the core that serves it.
pub(crate) struct Guest {
    pub(crate) stream: OwnedFd,
    pub(crate) address: SocketAddr,
    pub(crate) seat: Seat,
    pub(crate) crowd: Crowd,
}

impl Census {
    /// Counts one more client.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> (Seat, Crowd) {
        let mut counts = self.counts.lock();
        counts.all += 1;
        let of_address = counts.by_address.entry(address).or_insert(0);
        *of_address += 1;
        let crowd = Crowd { from_its_address: *of_address, in_all: counts.all };
        (Seat { census: self.clone(), address }, crowd)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.census.counts.lock();
        counts.all -= 1;
        let of_address = counts.by_address.get_mut(&self.address).expect("a seat is counted");
        *of_address -= 1;
        if *of_address == 0 {
            counts.by_address.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use super::Census;

    #[test]
    fn who_leaves_is_counted_no_longer() {
        let census = Arc::new(Census::default());
        let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        let enter = |last| {
            let (seat, crowd) = census.enter(address(last));
            (seat, (crowd.from_its_address, crowd.in_all))
        };
        let (first, counts) = enter(1);
        assert_eq!(counts, (1, 1));
        let (second, counts) = enter(1);
        assert_eq!(counts, (2, 2));
        let (_third, counts) = enter(2);
        assert_eq!(counts, (1, 3));
        drop(first);
        assert_eq!(enter(1).1, (2, 3));
        drop(second);
        assert_eq!(census.counts.lock().by_address.len(), 1);
    }
}
