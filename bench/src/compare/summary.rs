//! The rounds of each workload and system, drawn together.

use serde::Serialize;

use super::Sample;
use super::workload::Workload;
use crate::load::recorder::Latency;
use crate::load::report::Report;

/// A median with what it lies between.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// All rounds of one workload on one system. Latencies are medians of the rounds' quantiles.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) workload: &'static str,
    pub(super) system: &'static str,
    pub(super) invalid_rounds: usize,
    pub(super) requests_per_second: Spread,
    pub(super) all: Quantiles,
    pub(super) reads: Option<Quantiles>,
    pub(super) writes: Option<Quantiles>,
    pub(super) client_cpu_us_per_request: Spread,
    pub(super) server_cpu_us_per_request: Spread,
    pub(super) server_resident_bytes_max: u64,
    pub(super) others_percent: Spread,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50_us: Spread,
    pub(super) p99_us: Spread,
    pub(super) p999_us: Spread,
}

/// One summary for each workload and each system that ran it, in the order of both.
pub(super) fn summarize(samples: &[Sample], workloads: &[Workload]) -> Vec<Summary> {
    let mut summaries = Vec::new();
    for workload in workloads {
        for system in super::CONTENDERS.map(|(name, ..)| name) {
            let reports: Vec<&Report> = samples
                .iter()
                .filter(|sample| sample.workload == workload.name && sample.system == system)
                .map(|sample| &sample.report)
                .collect();
            if !reports.is_empty() {
                summaries.push(summarize_one(workload, system, &reports));
            }
        }
    }
    summaries
}

fn summarize_one(workload: &Workload, system: &'static str, reports: &[&Report]) -> Summary {
    let mixed = workload.is_mixed();
    Summary {
        workload: workload.name,
        system,
        invalid_rounds: reports.iter().filter(|report| !report.valid).count(),
        requests_per_second: spread(reports, |report| report.requests_per_second),
        all: quantiles(reports, |report| report.all),
        reads: mixed.then(|| quantiles(reports, |report| report.reads)),
        writes: mixed.then(|| quantiles(reports, |report| report.writes)),
        client_cpu_us_per_request: spread(reports, |report| report.client_cpu_us_per_request),
        server_cpu_us_per_request: spread(reports, |report| {
            report.server_cpu_us_per_request.unwrap_or_default()
        }),
        server_resident_bytes_max: reports
            .iter()
            .filter_map(|report| report.server_resident_bytes)
            .max()
            .unwrap_or_default(),
        others_percent: spread(reports, |report| report.others_percent.unwrap_or_default()),
    }
}

fn quantiles(reports: &[&Report], of: impl Fn(&Report) -> Latency) -> Quantiles {
    Quantiles {
        p50_us: spread(reports, |report| of(report).p50_us),
        p99_us: spread(reports, |report| of(report).p99_us),
        p999_us: spread(reports, |report| of(report).p999_us),
    }
}

fn spread(reports: &[&Report], of: impl Fn(&Report) -> f64) -> Spread {
    let mut values: Vec<f64> = reports.iter().map(|report| of(report)).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    };
    Spread { median, min: values[0], max: values[values.len() - 1] }
}
