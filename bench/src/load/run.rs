//! One run of a load: connect, warm up, measure, drain, close.

use std::time::{Duration, Instant};

use super::LoadOptions;
use super::connection::Connection;
use super::keys::Templates;
use super::recorder::{Recorder, TimedBy};
use super::report::{Report, Usage};
use super::schedule::{Random, arrivals, nanoseconds};
use crate::client::{Client, wire};
use crate::error::BenchError;
use crate::process;
use crate::streams::{Event, Streams};

/// Connections that stand ready. Times are nanoseconds since `started`.
pub(super) struct Run<'a> {
    options: &'a LoadOptions,
    templates: Templates,
    random: Random,
    streams: Streams,
    /// In the order of their streams' indices.
    connections: Vec<Connection>,
    recorder: Recorder,
    /// The intended starts of an open loop.
    schedule: Vec<u64>,
    scheduled: usize,
    /// New requests are made; cleared when the window has closed.
    issuing: bool,
    started: Instant,
}

impl<'a> Run<'a> {
    pub(super) fn connect(options: &'a LoadOptions) -> Result<Self, BenchError> {
        process::wake_on_time();
        let mut streams = Streams::new(options.connections)?;
        let mut connections = Vec::new();
        let servers = options.servers.iter().cycle();
        for (number, server) in (0..options.connections).zip(servers) {
            let socket = Client::connect(*server, CONNECT_PATIENCE)?.into_stream();
            let stream = streams.add(socket);
            assert_eq!(stream, connections.len(), "a new ring numbers its streams from zero");
            let keys = if options.subtree_affine {
                options.keys().of_subtree(number % options.subtrees)
            } else {
                0..options.keys().count()
            };
            connections.push(Connection::new(stream, keys, depth(options)));
        }
        let mut random = Random::new(options.seed);
        let schedule = options.rate.map_or_else(Vec::new, |rate| {
            arrivals(rate, options.end(), options.arrivals, &mut random)
        });
        let timed_by = if options.rate.is_some() { TimedBy::Start } else { TimedBy::Reply };
        let window = (nanoseconds(options.warm_up()), nanoseconds(options.end()));
        Ok(Self {
            options,
            templates: Templates::new(options.keys(), options.value_bytes),
            random,
            streams,
            connections,
            recorder: Recorder::new(timed_by, window.0, window.1),
            schedule,
            scheduled: 0,
            issuing: true,
            started: Instant::now(),
        })
    }

    pub(super) fn measure(mut self) -> Result<Report, BenchError> {
        self.started = Instant::now();
        if self.options.rate.is_none() {
            self.fill_pipelines();
        }
        self.turn_until(nanoseconds(self.options.warm_up()))?;
        let before = Usage::now(&self.options.server_pids, &self.recorder)?;
        self.turn_until(nanoseconds(self.options.end()))?;
        let after = Usage::now(&self.options.server_pids, &self.recorder)?;
        self.drain()?;
        self.close_sessions()?;
        Ok(Report::new(self.options, &self.recorder, before, after))
    }

    fn fill_pipelines(&mut self) {
        let now = nanoseconds(self.started.elapsed());
        for connection in &mut self.connections {
            let (_, output) = self.streams.split(connection.stream);
            for _ in 0..self.options.depth {
                let mix = self.options.mix;
                connection.issue(now, now, mix, &self.templates, &mut self.random, output);
            }
            self.streams.flush(connection.stream);
        }
    }

    fn turn_until(&mut self, end: u64) -> Result<(), BenchError> {
        let mut events = Vec::new();
        let mut next_ping_check = 0;
        loop {
            let now = nanoseconds(self.started.elapsed());
            if now >= end {
                return Ok(());
            }
            if now >= next_ping_check {
                self.ping_idle_connections(now);
                next_ping_check = now + nanoseconds(PING_INTERVAL) / 4;
            }
            self.start_due_requests(now);
            let wake_at = self.schedule.get(self.scheduled).copied().unwrap_or(end).min(end);
            let patience = Duration::from_nanos(wake_at.saturating_sub(now)).min(PING_INTERVAL / 4);
            self.streams.wait(patience, &mut events)?;
            for event in &events {
                self.on_event(*event);
            }
            if !self.connections.iter().any(|connection| connection.alive) {
                let why = self.recorder.errors_explained().unwrap_or_default();
                return Err(BenchError::Disconnected(why));
            }
        }
    }

    /// Puts the requests whose time has come onto their connections, in turn.
    fn start_due_requests(&mut self, now: u64) {
        while let Some(&intended) = self.schedule.get(self.scheduled)
            && intended <= now
        {
            let index = self.scheduled % self.connections.len();
            self.scheduled += 1;
            if !self.connections[index].alive {
                self.recorder.on_unanswered(1, &closed_by_server());
                continue;
            }
            self.connections[index].backlog.push_back(intended);
            self.start_backlog(index, now);
            self.streams.flush(index);
        }
    }

    fn start_backlog(&mut self, index: usize, now: u64) {
        let connection = &mut self.connections[index];
        while connection.outstanding() < depth(self.options)
            && let Some(intended) = connection.backlog.pop_front()
        {
            self.recorder.on_departure(now - intended);
            let (_, output) = self.streams.split(index);
            let mix = self.options.mix;
            connection.issue(intended, now, mix, &self.templates, &mut self.random, output);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted(_) => unreachable!("a load does not listen"),
            Event::Closed(index) => self.give_up(index, &closed_by_server()),
            Event::Received(index) => {
                if self.connections[index].alive
                    && let Err(error) = self.on_received(index)
                {
                    self.give_up(index, &error);
                }
            }
        }
    }

    fn on_received(&mut self, index: usize) -> Result<(), BenchError> {
        let now = nanoseconds(self.started.elapsed());
        let connection = &mut self.connections[index];
        let (input, output) = self.streams.split(index);
        let closed_loop = self.options.rate.is_none() && self.issuing;
        let mut consumed = 0;
        while let Some(frame) = wire::frame(&input[consumed..])? {
            consumed += wire::FRAME_LENGTH_BYTES + frame.len();
            connection.on_reply(frame, now, &self.templates, &mut self.recorder)?;
            if closed_loop && connection.outstanding() < depth(self.options) {
                let mix = self.options.mix;
                connection.issue(now, now, mix, &self.templates, &mut self.random, output);
            }
        }
        self.streams.consume(index, consumed);
        self.start_backlog(index, now);
        self.streams.flush(index);
        Ok(())
    }

    fn give_up(&mut self, index: usize, why: &BenchError) {
        let connection = &mut self.connections[index];
        if connection.alive {
            connection.alive = false;
            let lost = connection.outstanding() + connection.backlog.len();
            self.recorder.on_unanswered(lost, why);
        }
    }

    fn ping_idle_connections(&mut self, now: u64) {
        for connection in &mut self.connections {
            if connection.alive && now - connection.last_sent > nanoseconds(PING_INTERVAL) {
                connection.last_sent = now;
                wire::ping(self.streams.split(connection.stream).1);
                self.streams.flush(connection.stream);
            }
        }
    }

    /// Waits for the replies that are still due; a server that never sends them spoils the run.
    fn drain(&mut self) -> Result<(), BenchError> {
        self.issuing = false;
        let deadline = self.started.elapsed() + DRAIN_PATIENCE;
        let mut events = Vec::new();
        while self.connections.iter().any(Connection::is_waiting) {
            let patience = deadline.saturating_sub(self.started.elapsed());
            if patience.is_zero() {
                break;
            }
            self.streams.wait(patience, &mut events)?;
            for event in &events {
                self.on_event(*event);
            }
        }
        let late = BenchError::Invalid(format!("no reply within {DRAIN_PATIENCE:?} of the end"));
        for index in 0..self.connections.len() {
            if self.connections[index].is_waiting() {
                self.give_up(index, &late);
            }
        }
        Ok(())
    }

    /// Ends the sessions, so that the server does not time them out during the next run.
    fn close_sessions(&mut self) -> Result<(), BenchError> {
        for connection in self.connections.iter_mut().filter(|connection| connection.alive) {
            connection.close_session(self.streams.split(connection.stream).1);
            self.streams.flush(connection.stream);
        }
        let deadline = self.started.elapsed() + DRAIN_PATIENCE;
        let mut events = Vec::new();
        while self.connections.iter().any(|connection| connection.alive) {
            let patience = deadline.saturating_sub(self.started.elapsed());
            if patience.is_zero() {
                return Err(BenchError::Invalid("sessions were not closed in time".to_owned()));
            }
            self.streams.wait(patience, &mut events)?;
            for event in &events {
                // Either the reply or the end of the connection says that it is done.
                if let Event::Received(index) | Event::Closed(index) = *event {
                    self.connections[index].alive = false;
                }
            }
        }
        Ok(())
    }
}

fn closed_by_server() -> BenchError {
    BenchError::Disconnected("closed by the server".to_owned())
}

fn depth(options: &LoadOptions) -> usize {
    usize::try_from(options.depth).expect("a depth is small")
}

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// A third of the session timeout, as ZooKeeper's own clients do.
const PING_INTERVAL: Duration = Duration::from_secs(10);
