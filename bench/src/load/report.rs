//! The result of one run: a line of JSON for machines, a few lines of text for people.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::LoadOptions;
use super::recorder::{Latency, Recorder};
use crate::error::BenchError;
use crate::process::{self, MachineTime, ProcessUse};

/// What a run measured. Only a valid one may be quoted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) valid: bool,
    pub(crate) errors: u64,
    pub(crate) errors_explained: Option<String>,
    pub(crate) connections: u32,
    pub(crate) depth: u32,
    pub(crate) read_percent: u32,
    pub(crate) value_bytes: usize,
    /// The rate asked for, in an open loop.
    pub(crate) rate: Option<u32>,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) all: Latency,
    pub(crate) reads: Latency,
    pub(crate) writes: Latency,
    /// How late the generator itself sent the requests of an open loop.
    pub(crate) lateness: Latency,
    pub(crate) client_cpu_us_per_request: f64,
    /// Of all servers together.
    pub(crate) server_cpu_us_per_request: Option<f64>,
    /// Of the largest server.
    pub(crate) server_resident_bytes: Option<u64>,
    /// The share of the machine's time that went to anything but the servers and the generator:
    /// whoever else is at work here, and idle servers of another system.
    pub(crate) others_percent: Option<f64>,
}

/// What had been used and done at one edge of the measured window.
#[derive(Clone, Copy)]
pub(super) struct Usage {
    at: Instant,
    client_cpu: Duration,
    servers: ProcessUse,
    machine: MachineTime,
    completed: u64,
}

impl Usage {
    pub(super) fn now(pids: &[u32], recorder: &Recorder) -> Result<Self, BenchError> {
        Ok(Self {
            at: Instant::now(),
            client_cpu: process::thread_cpu(),
            servers: process::process_use(pids)?,
            machine: process::machine_time()?,
            completed: recorder.completed(),
        })
    }
}

impl Report {
    pub(super) fn new(
        options: &LoadOptions,
        recorder: &Recorder,
        before: Usage,
        after: Usage,
    ) -> Self {
        // The CPU was used for what was answered within the window; an open loop may complete a few
        // requests of the window later.
        let within = (after.completed - before.completed).max(1) as f64;
        let microseconds_each = |used: Duration| used.as_secs_f64() * 1e6 / within;
        let client_cpu = after.client_cpu - before.client_cpu;
        let server_cpu = after.servers.cpu - before.servers.cpu;
        let busy = after.machine.busy - before.machine.busy;
        let all = after.machine.all - before.machine.all;
        let others = busy.saturating_sub(client_cpu + server_cpu);
        let requests = recorder.completed();
        let has_servers = !options.server_pids.is_empty();
        let errors = recorder.errors();
        Self {
            valid: errors == 0 && requests > 0,
            errors,
            errors_explained: recorder.errors_explained(),
            connections: options.connections,
            depth: options.depth,
            read_percent: options.mix.read_percent,
            value_bytes: options.value_bytes,
            rate: options.rate,
            seconds: (after.at - before.at).as_secs_f64(),
            requests,
            requests_per_second: requests as f64 / options.seconds,
            all: recorder.all(),
            reads: recorder.reads(),
            writes: recorder.writes(),
            lateness: recorder.lateness(),
            client_cpu_us_per_request: microseconds_each(client_cpu),
            server_cpu_us_per_request: has_servers.then(|| microseconds_each(server_cpu)),
            server_resident_bytes: has_servers.then_some(after.servers.resident_bytes_max),
            others_percent: has_servers
                .then(|| others.as_secs_f64() * 100.0 / all.as_secs_f64().max(f64::MIN_POSITIVE)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = ["", "count", "p50 µs", "p99 µs", "p99.9 µs", "max µs"];
        let [name, count, p50, p99, p999, max] = heading;
        writeln!(f, "{name:<9} {count:>10} {p50:>10} {p99:>10} {p999:>10} {max:>10}")?;
        let rows = [
            ("all", self.all),
            ("reads", self.reads),
            ("writes", self.writes),
            ("lateness", self.lateness),
        ];
        for (name, latency) in rows.iter().filter(|(_, latency)| latency.count > 0) {
            let Latency { count, p50_us, p99_us, p999_us, max_us } = latency;
            write!(f, "{name:<9} {count:>10} {p50_us:>10.1} {p99_us:>10.1} ")?;
            writeln!(f, "{p999_us:>10.1} {max_us:>10.1}")?;
        }
        let Self { requests_per_second, errors, client_cpu_us_per_request, .. } = self;
        write!(f, "{requests_per_second:.0} requests/s, {errors} errors, ")?;
        write!(f, "client CPU {client_cpu_us_per_request:.2} µs a request")?;
        if let (Some(cpu), Some(resident)) =
            (self.server_cpu_us_per_request, self.server_resident_bytes)
        {
            write!(f, ", server CPU {cpu:.2} µs a request, resident {} MiB", resident >> 20)?;
        }
        if let Some(errors) = &self.errors_explained {
            write!(f, "\nINVALID: {errors}")?;
        }
        Ok(())
    }
}
