//! A server without a cluster: its links with the other members until one is founded.
//!
//! What is decided is decided by [`Founding`]; here are its sockets, its clock and its disk. All of
//! it runs on one thread before any core does, and the ports that it leaves are those that the
//! cores go on with: who connects in between waits to be accepted.
//!
//! | module | one line |
//! |---|---|
//! | `link` | a link between two servers of which one has no cluster |
//! | `door` | the client port: nobody is served yet |

mod door;
mod link;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use pigeonhole_core::base::id::{ClusterId, CoreId, ServerId};
use pigeonhole_core::base::time;
use pigeonhole_core::formation::{Config, Founding, Input, Output, Waiting};
use pigeonhole_core::peer::formation::Standing;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};

use crate::config::ServerConfig;
use crate::engine::clock::Clock;
use crate::exit::Failure;
use crate::founding::link::{Event, LinkNumber, Outbox, Scene};
use crate::home::{self, Home};
use crate::peer::greeting::Identity;
use crate::ports::Ports;
use crate::{notify, os};

/// How the waiting came to its end.
pub(crate) enum Outcome {
    /// The directory is a member's now.
    Founded(Ports),
    /// The process was asked to end.
    Stopped,
}

/// Waits for the other members, and founds a cluster with them.
pub(crate) fn found(config: &ServerConfig, home: &mut Home) -> Result<Outcome, Failure> {
    let ports = Ports::bind(config)?;
    tracing::info!(
        "server {} has no cluster yet: one forms when all its voters are up and empty",
        config.id
    );
    // It runs as it should, however long the others take.
    notify::ready();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(cannot_wait)?;
    let outcome = LocalSet::new().block_on(&runtime, wait(config, home, &ports));
    drop(runtime);
    for port in [Some(&ports.client), ports.peer.as_ref()].into_iter().flatten() {
        os::set_blocking(port, true).map_err(cannot_wait)?;
    }
    Ok(match outcome? {
        Some(cluster) => {
            tracing::info!("server {} is a member of cluster {cluster}", config.id);
            Outcome::Founded(ports)
        }
        None => Outcome::Stopped,
    })
}

/// The loop: what the links report goes in, what has to be done comes out.
struct Driver<'a> {
    home: &'a mut Home,
    clock: Clock,
    founding: Founding,
    due: VecDeque<Output>,
    links: BTreeMap<ServerId, (LinkNumber, Outbox)>,
    scene: Rc<Scene>,
    done: Option<ClusterId>,
}

/// `None` if the process is to end before there is a cluster.
async fn wait(
    config: &ServerConfig,
    home: &mut Home,
    ports: &Ports,
) -> Result<Option<ClusterId>, Failure> {
    let stop = os::watch_termination().map_err(cannot_wait)?;
    let (events, heard) = unbounded_channel();
    let (lingering, lingers) = channel(1);
    let identity = identity(config, home)?;
    let scene = Rc::new(Scene::new(identity, events, Clock::start(), lingering));
    let doors = open_doors(config, ports, &scene)?;
    let mut driver = Driver::new(config, home, scene)?;
    let outcome = tokio::select! {
        outcome = driver.run(heard) => outcome.map(Some),
        _ = stop.readable() => {
            let signal = os::wait_for_termination().map_err(Failure::environment)?;
            tracing::info!("signal {signal}: stopped, before there was a cluster");
            return Ok(None);
        }
    };
    for door in doors {
        door.abort();
    }
    drop(driver);
    linger(lingers).await;
    outcome
}

impl<'a> Driver<'a> {
    fn new(config: &ServerConfig, home: &'a mut Home, scene: Rc<Scene>) -> Result<Self, Failure> {
        let only = config.cluster.map(|cluster| ClusterId(cluster.to_u128()));
        let nonce = match only {
            Some(cluster) => cluster,
            None => ClusterId(home::random()?.max(1)),
        };
        let ids = |ids: Vec<u8>| ids.into_iter().map(ServerId).collect();
        let config = Config {
            server: ServerId(config.id),
            voters: ids(config.voters()),
            observers: ids(config.observers()),
            nonce,
            only,
        };
        let clock = scene.clock;
        let mut out = Vec::new();
        let founding = Founding::new(config, home.standing(), clock.now().instant, &mut out);
        Ok(Self {
            home,
            clock,
            founding,
            due: out.into(),
            links: BTreeMap::new(),
            scene,
            done: None,
        })
    }

    /// Runs until the directory is a member's.
    async fn run(&mut self, mut heard: UnboundedReceiver<Event>) -> Result<ClusterId, Failure> {
        loop {
            self.perform()?;
            if let Some(cluster) = self.done {
                return Ok(cluster);
            }
            let deadline = self.founding.deadline();
            let deadline = deadline.map_or(Duration::MAX, |deadline| {
                let time::Duration(micros) = deadline.since(self.clock.now().instant);
                Duration::from_micros(micros)
            });
            tokio::select! {
                event = heard.recv() => {
                    self.on_event(event.expect("the scene, which is here, can always report"));
                }
                () = tokio::time::sleep(deadline) => self.step(Input::Time),
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Up { peer, number, standing, outbox } => {
                self.links.insert(peer, (number, outbox));
                self.step(Input::LinkUp { peer, standing });
            }
            Event::Heard { peer, number, message } if self.is_current(peer, number) => {
                self.step(Input::Message { peer, message })
            }
            Event::Down { peer, number } if self.is_current(peer, number) => {
                self.links.remove(&peer);
                self.step(Input::LinkDown { peer });
            }
            // Of a link whose place another has taken.
            Event::Heard { .. } | Event::Down { .. } => {}
        }
    }

    fn is_current(&self, peer: ServerId, number: LinkNumber) -> bool {
        self.links.get(&peer).is_some_and(|(current, _)| *current == number)
    }

    fn step(&mut self, input: Input) {
        let now = self.clock.now().instant;
        let mut out = Vec::new();
        self.founding.step(now, input, &mut out);
        self.due.extend(out);
    }

    fn perform(&mut self) -> Result<(), Failure> {
        while let Some(output) = self.due.pop_front() {
            match output {
                Output::Send { to, message } => {
                    if let Some((_, outbox)) = self.links.get(&to) {
                        // If the link has just ended, that is the next thing to be heard.
                        let _ = outbox.send(message);
                    }
                }
                Output::WriteMeta(standing) => {
                    match standing {
                        Standing::Formed(cluster) if self.home.standing() == Standing::Empty => {
                            self.home.join(cluster)?;
                        }
                        _ => self.home.set_standing(standing)?,
                    }
                    self.scene.set_standing(standing);
                    self.step(Input::MetaDurable(standing));
                }
                Output::Done(cluster) => self.done = Some(cluster),
                Output::Say(waiting) => say(&waiting),
            }
        }
        Ok(())
    }
}

fn say(waiting: &Waiting) {
    match waiting {
        Waiting::ForVoters { .. } | Waiting::ForAgreement { .. } | Waiting::ForFormation => {
            tracing::info!("{waiting}");
        }
        Waiting::OtherVoters { .. }
        | Waiting::OtherCluster { .. }
        | Waiting::DiskUnknown { .. } => tracing::warn!("{waiting}"),
    }
}

/// Accepts on both ports, and dials the members with lower ids.
fn open_doors(
    config: &ServerConfig,
    ports: &Ports,
    scene: &Rc<Scene>,
) -> Result<Vec<tokio::task::JoinHandle<()>>, Failure> {
    let clients = listener(&ports.client).map_err(cannot_wait)?;
    let allowed = config.four_letter_words.clone();
    let mut doors = vec![spawn_local(door::attend(clients, allowed))];
    if let Some(port) = &ports.peer {
        let peers = listener(port).map_err(cannot_wait)?;
        doors.push(spawn_local(link::accept(peers, scene.clone())));
    }
    // As everywhere, the server with the higher id dials.
    for server in config.servers.iter().filter(|server| server.id < config.id) {
        let peer = ServerId(server.id);
        doors.push(spawn_local(link::dial(peer, server.peer.clone(), scene.clone())));
    }
    Ok(doors)
}

fn identity(config: &ServerConfig, home: &Home) -> Result<Identity, Failure> {
    let incarnation = u64::try_from(home::random()? >> 64).expect("64 bits");
    let members = config.servers.iter().map(|server| ServerId(server.id));
    Ok(Identity {
        server: home.meta.server,
        cores: u8::try_from(config.cores).expect("the configuration bounds the cores"),
        shards: home.meta.shards,
        cluster: home.standing().cluster(),
        disk: home.meta.disk,
        incarnation,
        formation: home.standing().formation(),
        members: members.collect(),
    })
}

/// The last word of every link is that there is a cluster. It is lost if the socket is closed while
/// the peer still sends, so the links end when the peers have heard it, or seem not to listen.
async fn linger(mut lingers: Receiver<()>) {
    let all_ended = async { while lingers.recv().await.is_some() {} };
    let _ = tokio::time::timeout(LINGER, all_ended).await;
}

fn listener(port: &OwnedFd) -> io::Result<TcpListener> {
    os::set_blocking(port, false)?;
    TcpListener::from_std(port.try_clone()?.into())
}

fn cannot_wait(error: io::Error) -> Failure {
    Failure::environment(format_args!("cannot wait for the other servers: {error}"))
}

const FIRST_CORE: CoreId = CoreId(0);
/// Peers that live answer within a write to their disk and a round trip.
const LINGER: Duration = Duration::from_millis(300);
