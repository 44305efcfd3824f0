//! Stories: small scripts whose whole conversation is compared with a golden transcript.
//!
//! A story is a file of blocks. Each block is a few commands, a line `----`, and what they led to:
//! roles, messages, appends, and what clients were told. A line that begins with `#` explains.
//!
//! | command                    | what it does                                                |
//! |----------------------------|-------------------------------------------------------------|
//! | `world N [M [S [O [K]]]]`  | N formatted servers (the last O of them observers), M       |
//! |                            | clients and S shards, whose leaders count to K; nothing     |
//! |                            | started                                                     |
//! | `start N`, `kill N`        | one server's process                                        |
//! | `stop N`                   | it is told to end, and does when nobody waits for it        |
//! | `power-cut N`              | its host                                                    |
//! | `cut A B`, `heal`          | the network between two hosts (2: a server, c2: a client);  |
//! |                            | everything                                                  |
//! | `mute A B`                 | nothing that A sends arrives at B, all else does            |
//! | `hold A B Kind`            | from the next such message on, nothing of A arrives at B    |
//! | `release`                  | what was held arrives                                       |
//! | `lose A B`                 | the links between the two break, and what is held is lost   |
//! | `slow-disk N MS`           | each write of a server takes so long                        |
//! | `lose-disk N`              | a server that is down gets an empty disk                    |
//! | `snapshots N M`            | one every N entries, and M entries for a DIFF; before `start` |
//! | `client C N`               | a client connects, to this server only                      |
//! | `move C N`                 | its connection breaks, and it goes on at another server     |
//! | `take-over C D N`          | client C connects with the session of client D              |
//! | `ask C create P`, ...      | it asks: create, ephemeral, sequential, set, delete, get,   |
//! |                            | exists, children, sync, close; watch, watch-data and        |
//! |                            | watch-children; multi A, B, C                               |
//! | `run MS`                   | time passes                                                 |
//! | `roles`                    | what every server says of itself                            |
//! | `tell W ...`, `tell all`   | from now on lines are told that begin with one of the words |

use std::fmt::Write;
use std::path::Path;

use pigeonhole_core::base::id::ServerId;
use pigeonhole_core::base::limits::COUNTER_HANDOVER;
use pigeonhole_core::op::CreateMode;

use crate::history::Ask;
use crate::network::Host;
use crate::queue::Event;
use crate::swarm::Options;
use crate::trace::Mode;
use crate::world::World;

/// Plays a story and returns it with the transcripts that it has now.
///
/// # Panics
/// If a command is not understood: a story is part of the tests.
pub fn play(story: &str) -> String {
    let mut stage = Stage::default();
    let mut out = String::new();
    for block in story.split("\n\n") {
        let commands = block.split_once("\n----").map_or(block, |(commands, _)| commands);
        let commands = commands.trim_end();
        let mut told = String::new();
        for line in commands.lines().filter(|line| !line.starts_with('#')) {
            stage.command(line, &mut told);
        }
        out.push_str(commands);
        if !told.is_empty() {
            let _ = write!(out, "\n----\n{}", told.trim_end());
        }
        out.push_str("\n\n");
    }
    let mut out = out.trim_end().to_owned();
    out.push('\n');
    out
}

/// Plays the story in a file and compares; with `PIGEONHOLE_BLESS` set, rewrites it.
///
/// # Errors
/// If the story cannot be read or written, or has another transcript now: with both.
pub fn check(path: &Path) -> Result<(), String> {
    let golden = std::fs::read_to_string(path).map_err(|why| format!("{path:?}: {why}"))?;
    let now = play(&golden);
    if now == golden {
        return Ok(());
    }
    if std::env::var_os("PIGEONHOLE_BLESS").is_some() {
        return std::fs::write(path, now).map_err(|why| format!("{path:?}: {why}"));
    }
    let line = golden.lines().zip(now.lines()).position(|(old, new)| old != new);
    let line = line.unwrap_or(golden.lines().count().min(now.lines().count()));
    Err(format!(
        "{path:?} tells another story from line {} on:\n  then: {}\n  now:  {}\n\
         PIGEONHOLE_BLESS=1 rewrites it",
        line + 1,
        golden.lines().nth(line).unwrap_or("(its end)"),
        now.lines().nth(line).unwrap_or("(its end)"),
    ))
}

#[derive(Default)]
struct Stage {
    world: Option<World>,
    asked: u64,
    /// First words of the lines that are told; all lines if there are none.
    told: Vec<String>,
}

impl Stage {
    fn command(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["world", servers, rest @ ..] = words.as_slice() {
            let sizes: Vec<u16> = rest.iter().map(|text| number(text)).collect();
            self.world = Some(set(number(servers), &sizes));
            return;
        }
        if let ["tell", words @ ..] = words.as_slice() {
            let all = words == ["all"];
            self.told = words.iter().filter(|_| !all).map(ToString::to_string).collect();
            return;
        }
        let is_clients = self.client_command(&words);
        let world = self.world.as_mut().expect("a story begins with its world");
        match words.as_slice() {
            _ if is_clients => {}
            ["start", server] => world.start(node(server), 1),
            ["kill", server] => world.kill(node(server)),
            ["stop", server] => world.stop(node(server)),
            ["power-cut", server] => world.cut_power(node(server)),
            ["cut", one, other] => {
                world.network.cut(host(one), host(other));
                world.network.cut(host(other), host(one));
            }
            ["mute", from, to] => world.network.cut(host(from), host(to)),
            ["heal"] => world.network.heal(&mut world.queue),
            ["hold", from, to, kind] => world.network.hold(node(from), node(to), kind),
            ["release"] => world.network.release(&mut world.queue),
            ["lose", one, other] => world.network.lose(node(one), node(other), &mut world.queue),
            ["slow-disk", server, milliseconds] => {
                world.nodes[usize::from(node(server))]
                    .disk
                    .slow(number::<u64>(milliseconds) * 1000);
            }
            ["lose-disk", server] => world.lose_disk(node(server)),
            ["snapshots", every, window] => {
                for node in &mut world.nodes {
                    node.limit_log(number(every), number(window));
                }
            }
            ["run", milliseconds] => {
                let until = world.queue.now() + number::<u64>(milliseconds) * 1000;
                world.run_until(until);
            }
            ["roles"] => out.push_str(&roles(world)),
            _ => panic!("not a command of a story: {line}"),
        }
        world.look();
        for line in world.trace.take_lines() {
            let first = line.split(' ').next().unwrap_or_default();
            if self.told.is_empty() || self.told.iter().any(|told| told == first) {
                let _ = writeln!(out, "{line}");
            }
        }
    }

    /// Whether it was a command to a client.
    fn client_command(&mut self, words: &[&str]) -> bool {
        let world = self.world.as_mut().expect("a story begins with its world");
        match *words {
            ["client", client, server] => connect(world, number(client), node(server)),
            ["take-over", client, other, server] => {
                let ticket = world.clients[number::<usize>(other)].ticket();
                world.clients[number::<usize>(client)].take_over(ticket);
                connect(world, number(client), node(server));
            }
            ["move", client, server] => {
                let server = node(server);
                world.with_client(number(client), |client, history, around| {
                    client.go_to(server, history, around);
                });
            }
            ["ask", client, ref ask @ ..] => {
                self.asked += 1;
                let ask = parse_ask(ask, self.asked);
                world.with_client(number(client), |client, history, around| {
                    client.scripted.push_back(ask);
                    client.act(history, around);
                });
            }
            _ => return false,
        }
        true
    }
}

fn connect(world: &mut World, client: u32, server: u8) {
    let one = &mut world.clients[client as usize];
    one.is_scripted = true;
    one.fixed_server = Some(server);
    world.queue.push_in(0, Event::Client { client, wake: 0 });
}

fn set(servers: u8, sizes: &[u16]) -> World {
    let mut options = Options::calm(STORY_SEED, servers);
    let size = |place: usize, otherwise| sizes.get(place).copied().unwrap_or(otherwise);
    options.load.clients = u32::from(size(0, 0));
    options.shards = size(1, 1);
    options.observers = u8::try_from(size(2, 0)).expect("there are few servers");
    options.counter_handover = sizes.get(3).map_or(COUNTER_HANDOVER, |&size| u32::from(size));
    options.load.session_timeout_ms = (4000, 4000);
    options.load.silences = 0;
    World::new(options, Mode::Keep)
}

fn parse_ask(words: &[&str], number_of_ask: u64) -> Ask {
    let data = Some(format!("data {number_of_ask}").into_bytes());
    let create = |path: &str, mode| Ask::Create { path: path.to_owned(), data: data.clone(), mode };
    match *words {
        ["multi", ref parts @ ..] => {
            let line = parts.join(" ");
            let parts = line
                .split(", ")
                .map(|part| parse_ask(&part.split(' ').collect::<Vec<_>>(), number_of_ask));
            Ask::Multi(parts.collect())
        }
        ["create", path] => create(path, CreateMode::Persistent),
        ["ephemeral", path] => create(path, CreateMode::Ephemeral),
        ["sequential", path] => create(path, CreateMode::PersistentSequential),
        ["set", path] => Ask::Set { path: path.to_owned(), data, version: -1 },
        ["delete", path] => Ask::Delete { path: path.to_owned(), version: -1 },
        ["get", path] => Ask::Get { path: path.to_owned(), watch: false },
        ["watch", path] => Ask::Exists { path: path.to_owned(), watch: true },
        ["watch-data", path] => Ask::Get { path: path.to_owned(), watch: true },
        ["watch-children", path] => Ask::Children { path: path.to_owned(), watch: true },
        ["exists", path] => Ask::Exists { path: path.to_owned(), watch: false },
        ["children", path] => Ask::Children { path: path.to_owned(), watch: false },
        ["sync", path] => Ask::Sync { path: path.to_owned() },
        ["close"] => Ask::Close,
        _ => panic!("not a request of a story: {words:?}"),
    }
}

fn roles(world: &World) -> String {
    let mut out = String::new();
    for node in &world.nodes {
        let Some(process) = &node.process else {
            let _ = writeln!(out, "{:?} is down", node.id());
            continue;
        };
        for report in process.reports().into_iter().flat_map(|report| report.shards) {
            let under = |leader: ServerId| format!(" under {leader:?}");
            let _ = writeln!(
                out,
                "{:?} {:?} {:?}{}: epoch {}, applied {}, tail {}",
                node.id(),
                report.shard,
                report.role,
                report.leader.map_or(String::new(), under),
                report.current_epoch,
                report.zxid,
                report.tail,
            );
        }
    }
    out
}

fn host(text: &str) -> Host {
    match text.strip_prefix('c') {
        Some(client) => Host::Client(number(client)),
        None => Host::Node(node(text)),
    }
}

fn node(text: &str) -> u8 {
    number::<u8>(text) - 1
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("a story counts in numbers, not in {text}"))
}

/// What is left to chance in a story is the same for all of them.
const STORY_SEED: u64 = 4712;
