//! The ports of a server: where clients connect, and where its peers do.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::client::listener;
use crate::config::{HostPort, ServerConfig};
use crate::exit::Failure;
use crate::patience::{LastTime, ask_until};

/// Sockets that listen; connections wait until somebody accepts them.
pub(crate) struct Ports {
    pub(crate) client: OwnedFd,
    /// A server that is its own ensemble has none.
    pub(crate) peer: Option<OwnedFd>,
}

impl Ports {
    pub(crate) fn bind(config: &ServerConfig) -> Result<Self, Failure> {
        let backlog = config.client_listen_backlog;
        let setting = "clientPort and clientPortAddress (of a local cluster: --port)";
        let client = bind(&config.client_address, backlog, setting)?;
        let peer = match peer_address(config) {
            Some(address) => Some(bind(&address, None, "server.N on every server")?),
            None => None,
        };
        Ok(Self { client, peer })
    }
}

/// `setting` is what chose the address.
fn bind(address: &HostPort, backlog: Option<u32>, setting: &str) -> Result<OwnedFd, Failure> {
    let cannot = |why: &dyn std::fmt::Display| {
        Failure::environment(format_args!("cannot listen on {address}: {why}"))
    };
    // At boot, name servers may come later than this server.
    let resolved = ask_until(RESOLVE_TIME_MAX, |LastTime(last)| match address.resolve() {
        Err(_) if !last => None,
        resolved => Some(resolved),
    });
    let resolved = resolved.map_err(|error| {
        cannot(&format_args!("{error}; it must be a name or an address of this machine: {setting}"))
    })?;
    let first = *resolved.first().ok_or_else(|| cannot(&"the name has no address"))?;
    let bound = match wildcard_of_both(first) {
        // Without IPv6 there is only the other one.
        Some(both) => listener::bind(both, backlog).or_else(|error| match error.kind() {
            ErrorKind::AddrInUse | ErrorKind::PermissionDenied => Err(error),
            _ => listener::bind(first, backlog),
        }),
        None => listener::bind(first, backlog),
    };
    bound.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => cannot(&format_args!(
            "{error}; stop what listens there, or choose another port with {setting}"
        )),
        ErrorKind::AddrNotAvailable => {
            cannot(&format_args!("{error}; it must be an address of this machine: {setting}"))
        }
        ErrorKind::PermissionDenied => cannot(&format_args!(
            "{error}; a port below 1024 needs CAP_NET_BIND_SERVICE; choose another with {setting}"
        )),
        _ => cannot(&format_args!("{error}; see {setting}")),
    })
}

/// Every address of a machine has both families, as in Java: `localhost` may be either. The socket
/// then takes IPv4 too.
fn wildcard_of_both(address: SocketAddr) -> Option<SocketAddr> {
    let every = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    (address.ip() == Ipv4Addr::UNSPECIFIED).then_some(every)
}

/// Where peers reach this server, if it has any.
fn peer_address(config: &ServerConfig) -> Option<HostPort> {
    let own = config.own_server().filter(|_| config.servers.len() > 1)?;
    let mut address = own.peer.clone();
    if config.quorum_listen_on_all_ips {
        "0.0.0.0".clone_into(&mut address.host);
    }
    Some(address)
}

/// As long as for a port that a process which has just ended still holds.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);
