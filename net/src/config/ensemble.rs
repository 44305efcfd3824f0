//! The servers of the ensemble, from `server.N` lines, and which of them this one is.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{Finding, Place};
use super::reader::{Reader, Setting};
use super::value::{HostPort, quoted, whole_number};

/// What a server does in elections and commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Votes and acknowledges.
    Participant,
    /// Receives everything and serves clients, and counts for nothing.
    Observer,
}

/// One `server.N` line: `server.N=host:peerPort:electionPort[:role][;[address:]clientPort]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// N: the number in the server's `myid` file, and the high byte of the session ids it gives.
    pub id: u8,
    /// Where its peers reach it: the host and ZooKeeper's quorum port.
    pub peer: HostPort,
    /// ZooKeeper's second port between servers. It is checked like the first and never opened:
    /// elections share one link per pair of servers with everything else.
    pub election_port: u16,
    /// Whether it votes.
    pub role: Role,
    /// Where it serves clients, if the line says so. The host is `0.0.0.0` if it does not.
    pub client: Option<HostPort>,
}

/// Takes the `server.N` lines, in the order of the ids. Empty for a standalone server; none if a
/// line is wrong, so that nobody draws conclusions from half a list.
pub(super) fn take_servers(reader: &mut Reader) -> Option<Vec<Server>> {
    let mut servers: BTreeMap<u8, (Server, Setting)> = BTreeMap::new();
    let mut complete = true;
    let mut listed = reader.take_all("server.");
    listed.sort_by(|(_, left), (_, right)| left.place.cmp(&right.place));
    for (number, setting) in listed {
        let key = format!("server.{number}");
        let parsed = match server_id(&number) {
            Some(id) => parse_server(id, &setting.value),
            None => Err(format!(
                "{} is not a server id; write a whole number from 1 to {ID_MAX}, as in \
                 server.1=host:2888:3888",
                quoted(&number)
            )),
        };
        let server = match parsed {
            Ok(server) => server,
            Err(text) => {
                reader.error(setting.place, &key, text);
                complete = false;
                continue;
            }
        };
        if setting.value.contains('|') {
            let text = format!("only the first address, {}, is used", server.peer);
            reader.warn(setting.place.clone(), &key, text);
        }
        if let Some((_, first)) = servers.get(&server.id) {
            let text = format!("has the id of the server at {}; give each its own", first.place);
            reader.error(setting.place, &key, text);
            complete = false;
            continue;
        }
        servers.insert(server.id, (server, setting));
    }
    check_ports(reader, &servers);
    complete.then(|| servers.into_values().map(|(server, _)| server).collect())
}

/// Checks that the ensemble can decide, and warns about shapes that buy nothing.
pub(super) fn check_voters(reader: &mut Reader, servers: &[Server]) {
    let voters = servers.iter().filter(|server| server.role == Role::Participant).count();
    if !servers.is_empty() && voters == 0 {
        let place = Place::File { file: reader.file().clone() };
        let text = "every server is an observer, and nobody could lead; make at least one a \
                    participant, as in server.1=host:2888:3888:participant";
        reader.error(place, "server.N", text);
    } else if voters > 0 && voters % 2 == 0 {
        reader.warn_of_file(format!(
            "{voters} participants outlive no more failures than {} do; an odd number is usual",
            voters - 1
        ));
    }
}

/// The id of this server: the number in `myid`, which a server may lack that has no peers.
pub(super) fn own_id(
    reader: &mut Reader,
    data: Option<&Path>,
    servers: &[Server],
    standalone_enabled: bool,
) -> u8 {
    let Some(data) = data else {
        return STANDALONE_ID;
    };
    let path = data.join("myid");
    let shown = path.display().to_string();
    let problem = match std::fs::read_to_string(&path) {
        Ok(text) => match server_id(text.lines().next().unwrap_or("").trim()) {
            Some(id) if servers.is_empty() || servers.iter().any(|server| server.id == id) => {
                return id;
            }
            Some(id) => not_listed(id, servers, reader.file()),
            None => format!(
                "{} is not a server id; write a whole number from 1 to {ID_MAX}, in the first line",
                quoted(text.lines().next().unwrap_or("").trim())
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match servers {
                [] => return STANDALONE_ID,
                [only] if standalone_enabled => return only.id,
                _ => {}
            }
            format!(
                "there is no such file; write the number of this server into it, for example \
                 with: echo {} > {shown}",
                servers[0].id
            )
        }
        Err(error) => format!("cannot be read: {error}"),
    };
    reader.file_error(Finding::new(Place::file(shown), problem));
    STANDALONE_ID
}

fn not_listed(id: u8, servers: &[Server], file: &str) -> String {
    let ids: Vec<String> = servers.iter().map(|server| server.id.to_string()).collect();
    format!(
        "{id} is not among the servers of {file}, which are {}; write one of these, or add a \
         line such as server.{id}=host:2888:3888",
        ids.join(", ")
    )
}

fn server_id(text: &str) -> Option<u8> {
    let id = u8::try_from(whole_number(text)?).ok()?;
    (1..=ID_MAX).contains(&id).then_some(id)
}

fn parse_server(id: u8, value: &str) -> Result<Server, String> {
    let example = format!("write for example server.{id}=host:2888:3888");
    let (addresses, client) = match value.split_once(';') {
        Some((addresses, client)) => (addresses.trim(), Some(client.trim())),
        None => (value, None),
    };
    let mut parsed = addresses.split('|').map(|address| parse_address(address.trim()));
    let (peer, election_port, role) = parsed
        .next()
        .expect("a split has at least one part")
        .map_err(|text| format!("{text}; {example}"))?;
    for further in parsed {
        further.map_err(|text| format!("{text}; {example}"))?;
    }
    let client =
        client.map(parse_client).transpose().map_err(|text| format!("{text}; {example};2181"))?;
    Ok(Server { id, peer, election_port, role, client })
}

/// Reads `host:peerPort:electionPort[:role]`.
fn parse_address(text: &str) -> Result<(HostPort, u16, Role), String> {
    let (host, rest) = split_host(text)?;
    let mut parts = rest.split(':');
    let peer = parse_port(parts.next().unwrap_or(""), "quorum port")?;
    let Some(election) = parts.next() else {
        return Err(format!("{} has no election port", quoted(text)));
    };
    let election = parse_port(election, "election port")?;
    let role = match parts.next().map(str::trim) {
        None => Role::Participant,
        Some(role) if role.eq_ignore_ascii_case("participant") => Role::Participant,
        Some(role) if role.eq_ignore_ascii_case("observer") => Role::Observer,
        Some(role) => {
            return Err(format!("{} is neither participant nor observer", quoted(role)));
        }
    };
    if parts.next().is_some() {
        return Err(format!("{} has too many parts{BRACKETS_HINT}", quoted(text)));
    }
    if peer == election {
        return Err(format!("{peer} is both the quorum and the election port"));
    }
    Ok((HostPort::new(host, peer), election, role))
}

/// Reads `[address:]clientPort`.
fn parse_client(text: &str) -> Result<HostPort, String> {
    if text.contains(':') {
        let (host, port) = split_host(text)?;
        return Ok(HostPort::new(host, parse_port(port, "client port")?));
    }
    Ok(HostPort::new(ANY_ADDRESS, parse_port(text, "client port")?))
}

/// Cuts the host from what follows its colon; an IPv6 address stands in brackets.
fn split_host(text: &str) -> Result<(&str, &str), String> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(bracketed) => bracketed
            .split_once("]:")
            .ok_or_else(|| format!("{} has no \"]:\" after its address", quoted(text)))?,
        None => text
            .split_once(':')
            .ok_or_else(|| format!("{} is not a host and ports", quoted(text)))?,
    };
    if !is_host(host) {
        return Err(format!("{} is not a host{BRACKETS_HINT}", quoted(host)));
    }
    Ok((host, rest))
}

/// Whether the resolver can be asked for it. Whether it exists is asked when it is needed.
pub(super) fn is_host(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"/;|[]@,\"'".contains(&byte);
    !text.is_empty() && text.len() <= HOST_BYTES_MAX && text.bytes().all(plain)
}

fn parse_port(text: &str, what: &str) -> Result<u16, String> {
    let text = text.trim();
    whole_number(text)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|&port| port != 0)
        .ok_or_else(|| format!("{} is no {what} from 1 to 65535", quoted(text)))
}

/// No two listeners of the ensemble may have one address. The error stands at the later line.
fn check_ports(reader: &mut Reader, servers: &BTreeMap<u8, (Server, Setting)>) {
    let mut by_line: Vec<_> = servers.values().collect();
    by_line.sort_by(|(_, left), (_, right)| left.place.cmp(&right.place));
    let mut taken: BTreeMap<HostPort, String> = BTreeMap::new();
    for (server, setting) in by_line {
        let host = server.peer.host.to_ascii_lowercase();
        let client = server.client.as_ref().map(|client| {
            let any = [ANY_ADDRESS, "::"].contains(&client.host.as_str());
            let host = if any { host.clone() } else { client.host.to_ascii_lowercase() };
            (HostPort { host, port: client.port }, "client")
        });
        let peer = HostPort::new(&host, server.peer.port);
        let election = HostPort::new(&host, server.election_port);
        let listeners = [(peer, "quorum"), (election, "election")].into_iter().chain(client);
        for (address, what) in listeners {
            let key = format!("server.{}", server.id);
            let owner = format!("{key}'s {what} port");
            if let Some(other) = taken.get(&address) {
                let text = format!("{address}, its {what} port, is {other} too; choose another");
                reader.error(setting.place.clone(), &key, text);
            } else {
                taken.insert(address, owner);
            }
        }
    }
}

/// What a standalone server calls itself when nothing else is said.
pub(super) const STANDALONE_ID: u8 = 1;

/// Every address of this machine.
pub(super) const ANY_ADDRESS: &str = "0.0.0.0";

/// The id is the high byte of session ids, where 255 marks nodes with a time to live.
const ID_MAX: u8 = 254;

/// The longest name of the domain name system.
const HOST_BYTES_MAX: usize = 253;

const BRACKETS_HINT: &str = " (an IPv6 address stands in brackets)";
