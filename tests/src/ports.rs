//! Ports on loopback for tests that start servers: nobody else is given them meanwhile.
//!
//! They lie below the range from which the kernel gives ports to connections. Test processes that
//! run side by side tell each other what is taken by names of sockets, which end with them.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// The first of so many neighbouring ports, this process's until it ends.
///
/// # Panics
///
/// If more are asked for than a block has, or every block is taken.
pub fn take(count: u16) -> u16 {
    static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    assert!(count <= BLOCK_PORTS, "{count} ports are more than a block has");
    let mut taken = TAKEN.lock().expect("nobody panics with the lock");
    for first in (FIRST..LAST).step_by(usize::from(BLOCK_PORTS)) {
        let Some(claim) = claim(first) else {
            continue;
        };
        taken.push(claim);
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + count).all(is_free) {
            return first;
        }
    }
    panic!("every port from {FIRST} to {LAST} is taken");
}

fn claim(first: u16) -> Option<UnixListener> {
    let name = format!("pigeonhole-test-ports-{first}");
    let address = SocketAddr::from_abstract_name(name).expect("a short name");
    UnixListener::bind_addr(&address).ok()
}

const FIRST: u16 = 24_000;
const LAST: u16 = 32_000;
const BLOCK_PORTS: u16 = 10;
