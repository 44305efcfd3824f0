//! Stories: small scripts whose whole conversation is compared with a golden transcript.
//!
//! A story is a file of blocks. Each block is a few commands, a line `----`, and what they led to:
//! roles, messages, appends, and what clients were told. A line that begins with `#` explains.
//!
//! | command                    | what it does                                                |
//! |----------------------------|-------------------------------------------------------------|
//! | `world N [M]`              | N formatted servers and M clients, nothing started          |
//! | `start N`, `kill N`        | one server's process                                        |
//! | `power-cut N`              | its host                                                    |
//! | `cut A B`, `heal`          | the network between two servers; everything                 |
//! | `hold A B Kind`            | from the next such message on, nothing of A arrives at B    |
//! | `release`                  | what was held arrives                                       |
//! | `lose A B`                 | the links between the two break, and what is held is lost   |
//! | `slow-disk N MS`           | each write of a server takes so long                        |
//! | `lose-disk N`              | a server that is down gets an empty disk                    |
//! | `snapshots N M`            | one every N entries, and M entries for a DIFF; before `start` |
//! | `client C N`               | a client connects, to this server only                      |
//! | `ask C create P`, ...      | it asks: create, ephemeral, sequential, set, delete, get,   |
//! |                            | exists, children, sync, close                               |
//! | `run MS`                   | time passes                                                 |
//! | `roles`                    | what every server says of itself                            |

use std::fmt::Write;
use std::path::Path;

use pigeonhole_core::base::id::ServerId;
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
}

impl Stage {
    fn command(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["world", servers, rest @ ..] = words.as_slice() {
            let clients = rest.first().map_or(0, |text| number(text));
            self.world = Some(set(number(servers), clients));
            return;
        }
        let world = self.world.as_mut().expect("a story begins with its world");
        match words.as_slice() {
            ["start", server] => world.start(node(server), 1),
            ["kill", server] => world.kill(node(server)),
            ["power-cut", server] => world.cut_power(node(server)),
            ["cut", one, other] => {
                let (one, other) = (Host::Node(node(one)), Host::Node(node(other)));
                world.network.cut(one, other);
                world.network.cut(other, one);
            }
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
            ["client", client, server] => {
                let client: u32 = number(client);
                let one = &mut world.clients[client as usize];
                one.is_scripted = true;
                one.fixed_server = Some(node(server));
                world.queue.push_in(0, Event::Client { client, wake: 0 });
            }
            ["ask", client, ask @ ..] => {
                self.asked += 1;
                let ask = parse_ask(ask, self.asked);
                world.with_client(number(client), |client, history, around| {
                    client.scripted.push_back(ask);
                    client.act(history, around);
                });
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
            let _ = writeln!(out, "{line}");
        }
    }
}

fn set(servers: u8, clients: u32) -> World {
    let mut options = Options::calm(STORY_SEED, servers);
    options.load.clients = clients;
    options.load.session_timeout_ms = (4000, 4000);
    options.load.silences = 0;
    World::new(options, Mode::Keep)
}

fn parse_ask(words: &[&str], number_of_ask: u64) -> Ask {
    let data = format!("data {number_of_ask}").into_bytes();
    let create = |path: &str, mode| Ask::Create { path: path.to_owned(), data: data.clone(), mode };
    match *words {
        ["create", path] => create(path, CreateMode::Persistent),
        ["ephemeral", path] => create(path, CreateMode::Ephemeral),
        ["sequential", path] => create(path, CreateMode::PersistentSequential),
        ["set", path] => Ask::Set { path: path.to_owned(), data, version: -1 },
        ["delete", path] => Ask::Delete { path: path.to_owned(), version: -1 },
        ["get", path] => Ask::Get { path: path.to_owned(), watch: false },
        ["watch", path] => Ask::Exists { path: path.to_owned(), watch: true },
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

fn node(text: &str) -> u8 {
    number::<u8>(text) - 1
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("a story counts in numbers, not in {text}"))
}

/// What is left to chance in a story is the same for all of them.
const STORY_SEED: u64 = 4712;
