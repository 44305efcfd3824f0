//! Servers that found a cluster, on simulated links and disks.
//!
//! A link delivers in order, or breaks; each end hears of that when it is its turn. Ends of
//! different links, and the disks, keep no order among each other. A crash takes the process and
//! its links; what was being written is there afterwards, or not. A lost disk is empty.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pigeonhole_core::base::id::{ClusterId, ServerId};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::base::time::Instant;
use pigeonhole_core::formation::{Config, Founding, Input, Output, Waiting};
use pigeonhole_core::peer::formation::Standing;

const NOW: Instant = Instant(1);

pub(crate) struct Ensemble {
    servers: BTreeMap<ServerId, Server>,
    voters: u8,
    prng: Prng,
    /// What each server will hear from each other, in order.
    queues: BTreeMap<(ServerId, ServerId), VecDeque<Input>>,
    linked: BTreeSet<(ServerId, ServerId)>,
    formed_ever: BTreeSet<ClusterId>,
    /// Disks that were lost while a cluster existed.
    lost: BTreeSet<ServerId>,
    losses_left: u8,
    /// Confirmed writes may be forgotten in a crash.
    pub(crate) disks_lie: bool,
    pub(crate) transcript: Vec<Step>,
}

struct Server {
    disk: Standing,
    /// What the disk said before the last confirmed write.
    before: Standing,
    process: Process,
}

enum Process {
    Down,
    Founding { founding: Box<Founding>, writing: Option<Standing> },
    Member,
}

/// What becomes of a write under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fate {
    Kept,
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Step {
    Start(ServerId),
    Crash(ServerId, Fate),
    LoseDisk(ServerId),
    Connect(ServerId, ServerId),
    Break(ServerId, ServerId),
    /// The first hears the next thing from the second.
    Hear(ServerId, ServerId),
    Write(ServerId),
}

impl Ensemble {
    pub(crate) fn new(voters: u8, observers: u8, seed: u64) -> Self {
        let server = |id| {
            let server =
                Server { disk: Standing::Empty, before: Standing::Empty, process: Process::Down };
            (ServerId(id), server)
        };
        Self {
            servers: (1..=voters + observers).map(server).collect(),
            voters,
            prng: Prng::new(seed ^ 0x5eed),
            queues: BTreeMap::new(),
            linked: BTreeSet::new(),
            formed_ever: BTreeSet::new(),
            lost: BTreeSet::new(),
            losses_left: (voters - 1) / 2,
            disks_lie: false,
            transcript: Vec::new(),
        }
    }

    pub(crate) fn start_everybody(&mut self) {
        let ids: Vec<_> = self.servers.keys().copied().collect();
        for id in ids {
            if matches!(self.servers[&id].process, Process::Down) {
                self.take(Step::Start(id));
            }
        }
    }

    /// Everything that can happen without a fault happens, in some order; gives the steps.
    pub(crate) fn settle(&mut self) -> Vec<Step> {
        let mut taken = Vec::new();
        let mut prng = self.prng.clone();
        loop {
            let steps = self.progress();
            if steps.is_empty() {
                return taken;
            }
            assert!(taken.len() < 5000, "it does not come to rest: {steps:?}");
            let step = pick(&steps, &mut prng);
            self.take(step);
            taken.push(step);
        }
    }

    /// A step that may be a fault. Disks are lost in one of a hundred, if they may be.
    pub(crate) fn any_step(&mut self, prng: &mut Prng, losses: u64) -> Step {
        let ids: Vec<_> = self.servers.keys().copied().collect();
        let id = pick(&ids, prng);
        if prng.chance(losses, 60) && self.losses_left > 0 {
            return Step::LoseDisk(id);
        }
        if prng.chance(1, 12) {
            return match self.servers[&id].process {
                Process::Down => Step::Start(id),
                _ if prng.chance(1, 2) => Step::Crash(id, Fate::Kept),
                _ => Step::Crash(id, Fate::Lost),
            };
        }
        let linked: Vec<_> = self.linked.iter().copied().collect();
        if !linked.is_empty() && prng.chance(1, 30) {
            let (one, other) = pick(&linked, prng);
            return Step::Break(one, other);
        }
        let mut steps = self.progress();
        steps.extend(
            ids.iter()
                .filter(|id| matches!(self.servers[id].process, Process::Down))
                .map(|&id| Step::Start(id)),
        );
        if steps.is_empty() { Step::Crash(id, Fate::Kept) } else { pick(&steps, prng) }
    }

    pub(crate) fn take(&mut self, step: Step) {
        self.transcript.push(step);
        match step {
            Step::Start(id) => self.start(id),
            Step::Crash(id, fate) => self.crash(id, fate),
            Step::LoseDisk(id) => {
                self.crash(id, Fate::Lost);
                self.losses_left -= 1;
                self.server(id).disk = Standing::Empty;
                self.server(id).before = Standing::Empty;
                self.lost.insert(id);
                if self.formed_nonces().is_empty() {
                    // Fewer than a majority have seen the cluster: it has promised nothing.
                    self.lost.clear();
                }
            }
            Step::Connect(one, other) => self.connect(one, other),
            Step::Break(one, other) => self.part(one, other),
            Step::Hear(id, peer) => {
                let input = self.queue(id, peer).pop_front().unwrap();
                self.step(id, input);
            }
            Step::Write(id) => {
                let server = self.server(id);
                let Process::Founding { writing, .. } = &mut server.process else {
                    panic!("a step that is possible");
                };
                let standing = writing.take().unwrap();
                server.before = server.disk;
                server.disk = standing;
                self.step(id, Input::MetaDurable(standing));
            }
        }
        self.formed_ever.extend(self.formed_nonces());
    }

    pub(crate) fn waiting(&self, id: ServerId) -> Option<Waiting> {
        match &self.servers[&id].process {
            Process::Founding { founding, .. } => founding.waiting(),
            Process::Down | Process::Member => None,
        }
    }

    pub(crate) fn formed_nonces(&self) -> BTreeSet<ClusterId> {
        let formed = |server: &Server| match server.disk {
            Standing::Formed(cluster) => Some(cluster),
            Standing::Empty | Standing::Forming(_) => None,
        };
        self.servers.values().filter_map(formed).collect()
    }

    pub(crate) fn formed_ever(&self) -> &BTreeSet<ClusterId> {
        &self.formed_ever
    }

    pub(crate) fn is_member(&self, id: ServerId) -> bool {
        matches!(self.servers[&id].disk, Standing::Formed(_))
    }

    pub(crate) fn lost(&self) -> Vec<ServerId> {
        self.lost.iter().copied().collect()
    }

    pub(crate) fn check_safety(&self) {
        let nonces = self.formed_nonces();
        assert!(nonces.len() <= 1, "{nonces:?} after {:?}", self.transcript);
    }

    /// Without lost disks, a cluster exists only if all voters have logged its nonce.
    pub(crate) fn check_forming_everywhere(&self) {
        assert!(self.every_voter_holds_what_is_formed(), "after {:?}", self.transcript);
    }

    pub(crate) fn every_voter_holds_what_is_formed(&self) -> bool {
        let mut voters = self.servers.values().take(usize::from(self.voters));
        match self.formed_nonces().first() {
            Some(nonce) => voters.all(|server| server.disk.cluster() == *nonce),
            None => true,
        }
    }

    /// A disk that was lost while a cluster existed comes back as a member of that one, or of none.
    pub(crate) fn check_lost_disks_join_nothing_else(&self) {
        let voters = self.lost.iter().filter(|id| id.0 <= self.voters);
        for id in voters {
            let disk = self.servers[id].disk;
            let known = |cluster| self.formed_ever.contains(&cluster);
            assert!(
                !matches!(disk, Standing::Formed(cluster) if !known(cluster)),
                "{id} pretends after {:?}",
                self.transcript
            );
        }
    }

    pub(crate) fn check_all_formed(&self) {
        self.check_safety();
        for (id, server) in &self.servers {
            assert!(
                matches!(server.disk, Standing::Formed(_)),
                "{id}: {:?}, {:?} after {:?}",
                server.disk,
                self.waiting(*id),
                self.transcript
            );
        }
    }

    /// What can happen without a fault. Members are left alone by each other.
    fn progress(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (&id, server) in &self.servers {
            match &server.process {
                Process::Down | Process::Member => continue,
                Process::Founding { writing, .. } => {
                    steps.extend(writing.map(|_| Step::Write(id)));
                }
            }
            for (&peer, other) in &self.servers {
                let queue = self.queues.get(&(id, peer));
                if queue.is_some_and(|queue| !queue.is_empty()) {
                    steps.push(Step::Hear(id, peer));
                }
                let up = !matches!(other.process, Process::Down);
                if peer != id
                    && up
                    && !self.linked.contains(&pair(id, peer))
                    && !self.knows(id, peer)
                {
                    steps.push(Step::Connect(id, peer));
                }
            }
        }
        steps
    }

    /// Whether a server that waits would learn nothing new from a member.
    fn knows(&self, id: ServerId, peer: ServerId) -> bool {
        let Process::Founding { founding, .. } = &self.servers[&id].process else {
            return false;
        };
        let member = matches!(self.servers[&peer].process, Process::Member);
        let waits = founding.waiting().is_some();
        member && waits && founding.formed().any(|(server, _)| server == peer)
    }

    fn start(&mut self, id: ServerId) {
        let nonce = ClusterId(u128::from(self.prng.next_u64() | 1));
        let voters: Vec<_> = (1..=self.voters).map(ServerId).collect();
        let ids = self.servers.keys().copied();
        let observers = ids.filter(|id| id.0 > self.voters).collect();
        let standing = self.servers[&id].disk;
        if matches!(standing, Standing::Formed(_)) {
            self.server(id).process = Process::Member;
            return;
        }
        let config = Config { server: id, voters, observers, nonce, only: None };
        let mut out = Vec::new();
        let founding = Founding::new(config, standing, NOW, &mut out);
        self.server(id).process = Process::Founding { founding: Box::new(founding), writing: None };
        self.perform(id, out);
    }

    fn crash(&mut self, id: ServerId, fate: Fate) {
        let lies = self.disks_lie;
        let server = self.server(id);
        let process = std::mem::replace(&mut server.process, Process::Down);
        match process {
            Process::Founding { writing: Some(standing), .. } if fate == Fate::Kept => {
                server.disk = standing
            }
            _ if lies && fate == Fate::Lost => server.disk = server.before,
            _ => {}
        }
        let peers: Vec<_> = self.servers.keys().copied().collect();
        for peer in peers {
            if self.linked.contains(&pair(id, peer)) {
                self.part(id, peer);
            }
            self.queue(id, peer).clear();
        }
    }

    /// Each end will hear the other's hello; a member's link ends with that.
    fn connect(&mut self, one: ServerId, other: ServerId) {
        let is_member = |id| matches!(self.servers[&id].process, Process::Member);
        let brief = is_member(one) || is_member(other);
        for (id, peer) in [(one, other), (other, one)] {
            let standing = self.servers[&peer].disk;
            let link_up = Input::LinkUp { peer, standing };
            self.send(id, peer, link_up);
            if brief {
                self.send(id, peer, Input::LinkDown { peer });
            }
        }
        if !brief {
            self.linked.insert(pair(one, other));
        }
    }

    /// What is on its way may still arrive, or not.
    fn part(&mut self, one: ServerId, other: ServerId) {
        self.linked.remove(&pair(one, other));
        for (id, peer) in [(one, other), (other, one)] {
            let waiting = self.queue(id, peer).len();
            let arriving = self.prng.below(u64::try_from(waiting).unwrap() + 1);
            self.queue(id, peer).truncate(usize::try_from(arriving).unwrap());
            self.send(id, peer, Input::LinkDown { peer });
        }
    }

    fn send(&mut self, to: ServerId, from: ServerId, input: Input) {
        if matches!(self.servers[&to].process, Process::Founding { .. }) {
            self.queue(to, from).push_back(input);
        }
    }

    fn step(&mut self, id: ServerId, input: Input) {
        let Process::Founding { founding, .. } = &mut self.server(id).process else {
            panic!("only servers without a cluster hear of it");
        };
        let mut out = Vec::new();
        founding.step(NOW, input, &mut out);
        self.perform(id, out);
    }

    fn perform(&mut self, id: ServerId, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { to, message } => {
                    if self.linked.contains(&pair(id, to)) {
                        self.send(to, id, Input::Message { peer: id, message });
                    }
                }
                Output::WriteMeta(standing) => {
                    let Process::Founding { writing, .. } = &mut self.server(id).process else {
                        panic!("a member writes nothing");
                    };
                    assert_eq!(*writing, None, "one write at a time");
                    *writing = Some(standing);
                }
                Output::Done(cluster) => {
                    assert_eq!(self.servers[&id].disk, Standing::Formed(cluster));
                    self.become_member(id);
                }
                Output::Say(_) => {}
            }
        }
    }

    fn become_member(&mut self, id: ServerId) {
        self.server(id).process = Process::Member;
        let peers: Vec<_> = self.servers.keys().copied().collect();
        for peer in peers {
            self.queue(id, peer).clear();
            if self.linked.remove(&pair(id, peer)) {
                self.send(peer, id, Input::LinkDown { peer: id });
            }
        }
    }

    fn server(&mut self, id: ServerId) -> &mut Server {
        self.servers.get_mut(&id).unwrap()
    }

    fn queue(&mut self, id: ServerId, peer: ServerId) -> &mut VecDeque<Input> {
        self.queues.entry((id, peer)).or_default()
    }
}

fn pair(one: ServerId, other: ServerId) -> (ServerId, ServerId) {
    (one.min(other), one.max(other))
}

fn pick<T: Copy>(items: &[T], prng: &mut Prng) -> T {
    let count = u64::try_from(items.len()).unwrap();
    items[usize::try_from(prng.below(count)).unwrap()]
}
