//! What goes wrong in a world.

use crate::network::{Host, Port, Side};
use crate::queue::Event;
use crate::sometimes::State;
use crate::swarm::Fault;
use crate::world::World;

impl World {
    pub(super) fn on_fault(&mut self, class: u8) {
        if self.healing {
            return;
        }
        match class {
            c if c == Fault::ResetLink as u8 => self.reset(Port::Peer),
            c if c == Fault::ResetClient as u8 => self.reset(Port::Client),
            c if c == Fault::Partition as u8 => self.partition(),
            c if c == Fault::Kill as u8 => self.strike(Self::kill),
            c if c == Fault::PowerCut as u8 => self.strike(Self::cut_power),
            c if c == Fault::PowerCutAll as u8 => self.cut_power_all(),
            c if c == Fault::Pause as u8 => self.pause(),
            c if c == Fault::SlowReader as u8 => self.slow_reader(),
            c if c == Fault::LoseDisk as u8 => self.lose_some_disk(),
            c if c == Fault::Rot as u8 => self.damage_snapshots(),
            c if c == Fault::FillDisk as u8 => self.fill_disk(),
            c if c == Fault::Stop as u8 => self.stop_some(),
            _ => {
                let node = self.draw.index(self.nodes.len());
                let hours = i64::try_from(self.draw.below(48)).expect("it is small") - 24;
                self.nodes[node].clock.jump(hours * 3_600_000);
            }
        }
        self.schedule_fault(usize::from(class));
    }

    pub(super) fn schedule_fault(&mut self, class: usize) {
        if let Some(every) = self.options.faults.every[class] {
            let delay = 1 + self.draw.tail(every);
            let class = u8::try_from(class).expect("few classes");
            self.queue.push_in(delay, Event::Fault { class });
        }
    }

    fn reset(&mut self, port: Port) {
        let streams = self.network.streams(port);
        if !streams.is_empty() {
            let stream = *self.draw.pick(&streams);
            self.network.reset(stream, &mut self.queue);
            self.checks.sometimes.hit(State::LinkReset);
        }
    }

    /// Isolates one node, halves the cluster, or cuts one direction.
    fn partition(&mut self) {
        self.partition += 1;
        self.checks.sometimes.hit(State::Partitioned);
        self.network.heal(&mut self.queue);
        let mut hosts: Vec<Host> = (0..self.options.servers).map(Host::Node).collect();
        hosts.extend((0..self.options.load.clients).map(Host::Client));
        let mut nodes: Vec<u8> = (0..self.options.servers).collect();
        self.draw.shuffle(&mut nodes);
        let kind = self.draw.below(4);
        let apart = match kind {
            1 => nodes.len() / 2,
            _ => 1,
        };
        let (inside, outside) = nodes.split_at(apart.max(1).min(nodes.len()));
        for &one in inside {
            for &other in outside {
                if kind != 2 {
                    self.network.cut(Host::Node(one), Host::Node(other));
                }
                if kind != 3 {
                    self.network.cut(Host::Node(other), Host::Node(one));
                }
            }
        }
        // Clients stay with either side, or reach both.
        for client in 0..self.options.load.clients {
            if self.draw.chance(1, 3) {
                for &one in inside {
                    self.network.cut(Host::Client(client), Host::Node(one));
                    self.network.cut(Host::Node(one), Host::Client(client));
                }
            }
        }
        let length = 1 + self.draw.tail(self.options.faults.repair_us);
        self.queue.push_in(length, Event::Heal { partition: self.partition });
    }

    fn strike(&mut self, how: fn(&mut Self, u8)) {
        let running: Vec<u8> =
            self.nodes.iter().filter(|node| node.is_running()).map(|node| node.index).collect();
        if running.is_empty() {
            return;
        }
        let node = *self.draw.pick(&running);
        how(self, node);
        self.restart_later(node);
    }

    fn stop_some(&mut self) {
        let node = u8::try_from(self.draw.index(self.nodes.len())).expect("few nodes");
        self.stop(node);
    }

    /// Those that end come back, as those do that are killed.
    pub(super) fn on_ended(&mut self, node: u8) {
        if self.options.faults.every[Fault::Stop as usize].is_some() {
            self.restart_later(node);
        }
    }

    /// One disk at a time: what a majority has promised must be somewhere.
    fn lose_some_disk(&mut self) {
        if let Some(node) = self.bring_down_for_good() {
            self.lose_disk(node);
            self.restart_later(node);
        }
    }

    fn damage_snapshots(&mut self) {
        if let Some(node) = self.bring_down_for_good() {
            let all = self.draw.chance(1, 2);
            self.nodes[usize::from(node)].damage_snapshots(all);
            self.restart_later(node);
        }
    }

    /// Kills a node that will have forgotten something, unless another one has not recovered yet
    /// from that.
    fn bring_down_for_good(&mut self) -> Option<u8> {
        if let Some(node) = self.ailing {
            // Two disks that are lost before anybody who is left knows of the first one's successor
            // are two of three: no cluster can go on with that.
            let node = &self.nodes[usize::from(node)];
            let admissions = node.admissions(&self.checks.agreement)?;
            let mut remembered = admissions.iter().flat_map(|&(shard, zxid)| {
                self.nodes.iter().map(move |node| node.remembers(shard, zxid))
            });
            if !node.is_whole() || !remembered.all(|is_so| is_so) {
                return None;
            }
            self.checks.sometimes.hit(State::DiskAdmitted);
            self.ailing = None;
        }
        if self.options.servers < 3 {
            return None;
        }
        let node = u8::try_from(self.draw.index(self.nodes.len())).expect("few nodes");
        self.kill(node);
        self.ailing = Some(node);
        Some(node)
    }

    fn fill_disk(&mut self) {
        let node = u8::try_from(self.draw.index(self.nodes.len())).expect("few nodes");
        let room = self.draw.below(self.options.disk.low_bytes);
        self.make_room(node, Some(room));
        let length = 1 + self.draw.tail(self.options.faults.repair_us);
        self.queue.push_in(length, Event::Room { node });
    }

    pub(super) fn make_room(&mut self, node: u8, room: Option<u64>) {
        let (nodes, mut around) = self.split();
        let node = &mut nodes[usize::from(node)];
        node.disk.limit_room(room);
        node.submit(&mut around);
    }

    fn cut_power_all(&mut self) {
        self.checks.sometimes.hit(State::PowerCutAll);
        for node in 0..self.options.servers {
            self.cut_power(node);
            self.restart_later(node);
        }
    }

    fn restart_later(&mut self, node: u8) {
        let length = 1 + self.draw.tail(self.options.faults.repair_us);
        let down = self.nodes[usize::from(node)].runs();
        self.queue.push_in(length, Event::Start { node, down });
    }

    fn pause(&mut self) {
        let node = self.draw.index(self.nodes.len());
        let Some(process) = &mut self.nodes[node].process else {
            return;
        };
        if process.paused {
            return;
        }
        process.paused = true;
        self.checks.sometimes.hit(State::Paused);
        let process = process.name();
        let is_long = self.draw.index(LONG_PAUSE_ONE_IN) == 0;
        let mean = if is_long {
            self.checks.sometimes.hit(State::PausedLong);
            LONG_PAUSE_US
        } else {
            PAUSE_US
        };
        let length = 1 + self.draw.tail(mean);
        self.queue.push_in(length, Event::Resume { process });
    }

    fn slow_reader(&mut self) {
        let streams = self.network.streams(Port::Client);
        if streams.is_empty() {
            return;
        }
        let stream = *self.draw.pick(&streams);
        self.checks.sometimes.hit(State::SlowReader);
        self.network.slow(stream, Side::Dialer, self.draw.tail(PAUSE_US), &mut self.queue);
    }
}

/// How long a process stands still, or a client reads nothing, on average.
const PAUSE_US: u64 = 300_000;
/// Some pauses are longer than anybody waits for a disk, and than sessions live.
const LONG_PAUSE_US: u64 = 8_000_000;
const LONG_PAUSE_ONE_IN: usize = 8;
