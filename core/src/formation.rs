//! Founding a cluster: how servers with empty disks agree, once, that they are its first members.
//!
//! An empty data directory is never taken for an empty cluster: it may as well be a disk that has
//! lost what it promised. Where a majority of the voters are members already, it has, and becomes a
//! member's whose promises count only when the others have admitted its new disk. Only when every
//! voter is reachable, and every one is empty, has nobody promised anything. Then the voter with
//! the lowest id, the *founder*, logs a random nonce as *forming*; every other voter follows; and
//! when the founder has heard from all of them that it is on their disks, it logs *formed*, which
//! everybody follows again.
//!
//! Servers tell each other nothing but what is on their disks, so a crash at any point loses at
//! most a message, and the next link begins with where things stand. Two facts keep two nonces from
//! ever being formed: a founder tells nobody of a nonce before it is on its own disk, so that it
//! goes on with the same one; and a nonce is formed only while every voter holds it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use crate::base::id::{ClusterId, ServerId};
use crate::base::time::{Duration, Instant};
use crate::peer::formation::{FormationMessage, ServerSet, Standing};

/// What a server is told about its ensemble, and what it may propose.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: ServerId,
    /// Every voter and every observer; this server is one of them.
    pub voters: Vec<ServerId>,
    pub observers: Vec<ServerId>,
    /// Drawn from the system's random source; it becomes the cluster's id if this server founds it.
    pub nonce: ClusterId,
    /// The one cluster that this server may be a member of, if somebody has said so.
    pub only: Option<ClusterId>,
}

/// What a server without a cluster hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Hellos were exchanged, and this is what the peer's said. It takes the place of a link that
    /// was there before.
    LinkUp {
        peer: ServerId,
        standing: Standing,
    },
    LinkDown {
        peer: ServerId,
    },
    Message {
        peer: ServerId,
        message: FormationMessage,
    },
    /// What was asked for with [`Output::WriteMeta`] outlives a loss of power from here on.
    MetaDurable(Standing),
    Time,
}

/// What it wants to be done, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    Send {
        to: ServerId,
        message: FormationMessage,
    },
    /// There is at most one at a time.
    WriteMeta(Standing),
    /// The cluster is founded and this server a member of it: elections may begin.
    Done(ClusterId),
    Say(Waiting),
}

/// What keeps a server without a cluster waiting, and for whom; printed for its operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// A new ensemble needs all its voters, and these are not reachable.
    ForVoters { unreachable: Vec<ServerId> },
    /// All voters are there; these have not yet logged what the founder proposes.
    ForAgreement { missing: Vec<ServerId> },
    /// An observer is a member of whatever the voters have founded: nothing yet.
    ForFormation,
    /// These are configured with other voters than this server.
    OtherVoters { servers: Vec<ServerId> },
    /// These are members of a cluster that this server's disk or configuration contradicts.
    OtherCluster { own: ClusterId, formed: Vec<(ServerId, ClusterId)> },
    /// These are members of a cluster, and this server's disk is unknown to it: empty because it
    /// is new, or because it has lost everything that it promised.
    DiskUnknown { formed: Vec<(ServerId, ClusterId)> },
}

/// The part that one server has in founding its cluster.
#[derive(Clone, Debug)]
pub struct Founding {
    config: Config,
    voters: ServerSet,
    /// What is on the disk for certain.
    standing: Standing,
    /// What is being written; nothing is decided before it is there.
    writing: Option<Standing>,
    linked: BTreeMap<ServerId, Peer>,
    /// Members of a cluster, by their last word. They need not be linked any more: what they are
    /// is not undone by being away.
    formed: BTreeMap<ServerId, ClusterId>,
    is_done: bool,
    say_at: Instant,
    said: Gravity,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    standing: Standing,
    /// Whom it takes for the voters; `None` until it has said so.
    voters: Option<ServerSet>,
}

/// How much an operator has to do about what a server waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Gravity {
    Ordinary,
    Misconfigured,
    Refused,
}

impl Founding {
    /// `standing` is what the disk says; a member of a cluster has nothing to found.
    pub fn new(config: Config, standing: Standing, now: Instant, out: &mut Vec<Output>) -> Self {
        let members = config.voters.iter().chain(&config.observers);
        assert!(
            members.filter(|&&member| member == config.server).count() == 1,
            "a server is one member of its ensemble"
        );
        assert!(!config.voters.is_empty(), "somebody has to vote");
        assert_ne!(config.nonce, ClusterId::default(), "zero is no cluster");
        assert!(
            config.only.is_none_or(|only| only == config.nonce),
            "a server proposes nothing that it would refuse"
        );
        assert!(!matches!(standing, Standing::Formed(_)), "this server is a member already");
        let voters = config.voters.iter().copied().collect();
        let mut founding = Self {
            config,
            voters,
            standing,
            writing: None,
            linked: BTreeMap::new(),
            formed: BTreeMap::new(),
            is_done: false,
            say_at: now + PATIENCE,
            said: Gravity::Ordinary,
        };
        founding.advance(out);
        founding
    }

    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        if self.is_done {
            return;
        }
        match input {
            Input::LinkUp { peer, standing } => self.on_link_up(peer, standing, out),
            Input::LinkDown { peer } => {
                self.linked.remove(&peer);
            }
            Input::Message { peer, message } => self.on_message(peer, message),
            Input::MetaDurable(standing) => self.on_durable(standing, out),
            Input::Time => {}
        }
        self.advance(out);
        self.say(now, out);
    }

    /// When [`Input::Time`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.is_done).then_some(self.say_at)
    }

    /// What is on this server's disk, for the hellos of new links.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// What this server waits for; `None` if the disk has the next word, or all is done.
    pub fn waiting(&self) -> Option<Waiting> {
        if self.is_done || self.writing.is_some() {
            return None;
        }
        if self.formed.keys().any(|&peer| self.counts(peer)) {
            return Some(self.refusal());
        }
        let servers: Vec<_> = self.disagreeing().collect();
        if !servers.is_empty() {
            return Some(Waiting::OtherVoters { servers });
        }
        let unreachable: Vec<_> = self.unreachable().collect();
        if !unreachable.is_empty() {
            return Some(Waiting::ForVoters { unreachable });
        }
        if self.is_observer() {
            return Some(Waiting::ForFormation);
        }
        let (founder, nonce) = (self.founder(), self.founders_nonce());
        if self.contradicts_configuration(nonce) {
            let own = self.config.only.unwrap_or_default();
            let formed = [(founder, nonce)].into();
            return Some(Waiting::OtherCluster { own, formed });
        }
        let mut missing: Vec<_> = self.missing().collect();
        if missing.is_empty() {
            missing.push(founder);
        }
        Some(Waiting::ForAgreement { missing })
    }

    /// The voters that no link leads to.
    pub fn unreachable(&self) -> impl Iterator<Item = ServerId> {
        self.other_voters().filter(|voter| !self.linked.contains_key(voter))
    }

    /// The members that are not empty, and the clusters that they say they belong to.
    pub fn formed(&self) -> impl Iterator<Item = (ServerId, ClusterId)> {
        self.formed.iter().map(|(server, cluster)| (*server, *cluster))
    }

    fn on_link_up(&mut self, peer: ServerId, standing: Standing, out: &mut Vec<Output>) {
        let voters = None;
        self.linked.insert(peer, Peer { standing, voters });
        self.hear(peer, standing);
        // The hello may be older than the disk, and does not say who votes.
        self.tell(peer, out);
    }

    fn on_message(&mut self, peer: ServerId, message: FormationMessage) {
        let Some(link) = self.linked.get_mut(&peer) else {
            return;
        };
        link.standing = message.standing;
        link.voters = Some(message.voters);
        self.hear(peer, message.standing);
    }

    fn on_durable(&mut self, standing: Standing, out: &mut Vec<Output>) {
        assert_eq!(self.writing.take(), Some(standing), "only what was asked for is written");
        self.standing = standing;
        let peers: Vec<_> = self.linked.keys().copied().collect();
        for peer in peers {
            self.tell(peer, out);
        }
        if let Standing::Formed(cluster) = standing {
            self.is_done = true;
            out.push(Output::Done(cluster));
        }
    }

    fn hear(&mut self, peer: ServerId, standing: Standing) {
        if let Standing::Formed(cluster) = standing {
            self.formed.insert(peer, cluster);
        } else {
            self.formed.remove(&peer);
        }
    }

    fn tell(&self, to: ServerId, out: &mut Vec<Output>) {
        let message = FormationMessage { standing: self.standing, voters: self.voters };
        out.push(Output::Send { to, message });
    }

    fn advance(&mut self, out: &mut Vec<Output>) {
        if self.is_done || self.writing.is_some() {
            return;
        }
        if let Some(next) = self.next_standing() {
            assert_ne!(next, self.standing, "what is there need not be written");
            self.writing = Some(next);
            out.push(Output::WriteMeta(next));
        }
    }

    /// What the disk is to say next, if what is known allows for it.
    fn next_standing(&self) -> Option<Standing> {
        if self.is_observer() {
            return self.adopted().map(Standing::Formed);
        }
        match self.standing {
            Standing::Formed(_) => None,
            Standing::Forming(own) if !self.formed.is_empty() => {
                // Then every voter has held that nonce, this one too, and nobody has another.
                let agrees = self.formed.values().all(|&cluster| cluster == own);
                agrees.then_some(Standing::Formed(own))
            }
            Standing::Empty if !self.formed.is_empty() => self.rejoined().map(Standing::Formed),
            Standing::Forming(own) if self.is_founder() => {
                let everybody = self.missing().next().is_none();
                everybody.then_some(Standing::Formed(own))
            }
            Standing::Empty if self.is_founder() => {
                let everybody = self.other_voters().all(|voter| self.is_ready(voter));
                everybody.then_some(Standing::Forming(self.config.nonce))
            }
            Standing::Empty | Standing::Forming(_) => self.proposed(),
        }
    }

    /// The founder's nonce, if it is new to this server. A nonce that was logged here before was
    /// abandoned: it cannot be formed without this server, and the founder has another.
    fn proposed(&self) -> Option<Standing> {
        let nonce = self.founders_nonce();
        let next = Standing::Forming(nonce);
        let acceptable = self.is_ready(self.founder())
            && nonce != ClusterId::default()
            && next != self.standing
            && !self.contradicts_configuration(nonce);
        acceptable.then_some(next)
    }

    /// The cluster that the voters have founded, as far as an observer can see. It has promised
    /// nothing that an empty disk could have lost.
    fn adopted(&self) -> Option<ClusterId> {
        let mut clusters = self
            .formed
            .iter()
            .filter(|(server, _)| self.counts(**server))
            .map(|(_, cluster)| *cluster);
        let first = clusters.next()?;
        (clusters.all(|other| other == first) && !self.contradicts_configuration(first))
            .then_some(first)
    }

    /// The cluster that this server was a member of, with the disk that is now empty: a majority of
    /// the voters belongs to it, and can admit another disk in its place.
    fn rejoined(&self) -> Option<ClusterId> {
        let cluster = self.adopted()?;
        let voters = self.formed.keys().filter(|&&member| self.voters.contains(member)).count();
        (voters > self.config.voters.len() / 2).then_some(cluster)
    }

    /// Whether a member's cluster means anything to this server: an observer goes by the voters.
    fn counts(&self, member: ServerId) -> bool {
        !self.is_observer() || self.voters.contains(member)
    }

    /// A voter that is linked, has no cluster, and takes the same servers for the voters.
    fn is_ready(&self, voter: ServerId) -> bool {
        self.linked.get(&voter).is_some_and(|peer| {
            !matches!(peer.standing, Standing::Formed(_)) && peer.voters == Some(self.voters)
        })
    }

    /// Voters that do not hold what this server holds, or have not said so over the link of now.
    fn missing(&self) -> impl Iterator<Item = ServerId> {
        let same = |voter: &ServerId| {
            let standing = self.linked.get(voter).map(|peer| peer.standing);
            self.is_ready(*voter) && standing == Some(self.standing)
        };
        self.other_voters().filter(move |voter| !same(voter))
    }

    fn disagreeing(&self) -> impl Iterator<Item = ServerId> {
        let differs = |peer: &Peer| peer.voters.is_some_and(|voters| voters != self.voters);
        self.linked.iter().filter(move |(_, peer)| differs(peer)).map(|(server, _)| *server)
    }

    fn refusal(&self) -> Waiting {
        let formed: Vec<_> = self.formed().collect();
        let own = match (self.config.only, self.standing) {
            (None, Standing::Empty) => ClusterId::default(),
            (Some(only), Standing::Empty) => only,
            (_, standing) => standing.cluster(),
        };
        let first = formed[0].1;
        let agree = formed.iter().all(|&(_, cluster)| cluster == first);
        if agree && [ClusterId::default(), first].contains(&own) {
            Waiting::DiskUnknown { formed }
        } else {
            Waiting::OtherCluster { own, formed }
        }
    }

    fn say(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(waiting) = self.waiting() else {
            return;
        };
        let gravity = waiting.gravity();
        if self.say_at <= now || self.said < gravity {
            self.said = gravity;
            self.say_at = now + REPEAT;
            out.push(Output::Say(waiting));
        }
    }

    fn other_voters(&self) -> impl Iterator<Item = ServerId> {
        let voters = self.config.voters.iter().copied();
        voters.filter(|&voter| voter != self.config.server)
    }

    fn founder(&self) -> ServerId {
        let voters = self.config.voters.iter().copied();
        voters.min().expect("there are voters")
    }

    fn founders_nonce(&self) -> ClusterId {
        let founder = self.linked.get(&self.founder());
        founder.map_or_else(ClusterId::default, |peer| peer.standing.cluster())
    }

    fn is_founder(&self) -> bool {
        self.founder() == self.config.server
    }

    fn is_observer(&self) -> bool {
        !self.voters.contains(self.config.server)
    }

    fn contradicts_configuration(&self, cluster: ClusterId) -> bool {
        let nobody = ClusterId::default();
        let differs = |only| cluster != nobody && cluster != only;
        self.config.only.is_some_and(differs)
    }
}

impl Waiting {
    fn gravity(&self) -> Gravity {
        match self {
            Self::ForVoters { .. } | Self::ForAgreement { .. } | Self::ForFormation => {
                Gravity::Ordinary
            }
            Self::OtherVoters { .. } => Gravity::Misconfigured,
            // More voters may be about to say the same, and then all is well.
            Self::DiskUnknown { .. } => Gravity::Ordinary,
            Self::OtherCluster { .. } => Gravity::Refused,
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForVoters { unreachable } => write!(
                f,
                "no cluster yet: waiting for {}; one forms when all voters are up and empty (where \
                 they have one already, their logs say what keeps this server out)",
                Servers(unreachable)
            ),
            Self::ForAgreement { missing } => write!(
                f,
                "no cluster yet: all voters are up; waiting for {} to agree",
                Servers(missing)
            ),
            Self::ForFormation => {
                f.write_str("no cluster yet: an observer waits for the voters to form one")
            }
            Self::OtherVoters { servers } => write!(
                f,
                "no cluster yet: {} has other voters in its configuration than this server: make \
                 the server.N lines alike",
                Servers(servers)
            ),
            Self::OtherCluster { own, formed } => {
                f.write_str("this server does not take part: ")?;
                Memberships(formed).fmt(f)?;
                if *own != ClusterId::default() {
                    write!(f, ", and this server is set to belong to {own}")?;
                }
                f.write_str(": check dataDir, pigeonhole.cluster and the server.N lines")
            }
            Self::DiskUnknown { formed } => {
                f.write_str("this server does not take part: ")?;
                Memberships(formed).fmt(f)?;
                write!(
                    f,
                    ", and its own data directory is empty, so what it promised may be lost. \
                     It takes everything from the others when a majority of the voters is up that \
                     belongs to one cluster. Or bring the directory back; or run \
                     `pigeonhole format <zoo.cfg> --cluster {}`",
                    formed[0].1
                )
            }
        }
    }
}

/// A list of servers, as a sentence has it.
struct Servers<'a>(&'a [ServerId]);

impl fmt::Display for Servers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.0.iter().enumerate() {
            let before = match index {
                0 => "",
                _ if index + 1 == self.0.len() => " and ",
                _ => ", ",
            };
            write!(f, "{before}server {server}")?;
        }
        Ok(())
    }
}

struct Memberships<'a>(&'a [(ServerId, ClusterId)]);

impl fmt::Display for Memberships<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (server, cluster)) in self.0.iter().enumerate() {
            let before = if index == 0 { "" } else { ", " };
            write!(f, "{before}server {server} belongs to cluster {cluster}")?;
        }
        Ok(())
    }
}

/// Servers that are started together need so long until it is worth a word that one is missing.
const PATIENCE: Duration = Duration::from_ms(1_000);
/// The same is not said more often; what is graver is said at once.
const REPEAT: Duration = Duration::from_ms(10_000);
