//! A comparison as text.

use std::fmt::{Result, Write};

use super::summary::{Quantiles, Summary};
use super::workload::WORKLOADS;
use super::{Comparison, FLOOR_1, FLOOR_3, PIGEONHOLE, ZOOKEEPER};

pub(super) fn render(comparison: &Comparison<'_>) -> String {
    let mut text = String::new();
    write_all(&mut text, comparison).expect("writing to a string cannot fail");
    text
}

fn write_all(text: &mut String, comparison: &Comparison<'_>) -> Result {
    write_head(text, comparison)?;
    for workload in &WORKLOADS {
        let of_workload: Vec<&Summary> = comparison
            .summaries
            .iter()
            .filter(|summary| summary.workload == workload.name)
            .collect();
        if of_workload.is_empty() {
            continue;
        }
        writeln!(text, "\n{}: {}", workload.name, workload.what)?;
        writeln!(
            text,
            "  {:<11} {:>26} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8}",
            "",
            "requests/s (min–max)",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "CPU µs",
            "client",
            "RSS MiB",
            "others"
        )?;
        for summary in &of_workload {
            write_row(text, summary)?;
        }
        write_ratios(text, &of_workload)?;
    }
    Ok(())
}

fn write_head(text: &mut String, comparison: &Comparison<'_>) -> Result {
    let Comparison { options, cpus, kernel, stolen_percent, .. } = comparison;
    let cluster = &options.cluster;
    writeln!(
        text,
        "{cpus} CPUs, Linux {kernel}, {stolen_percent:.1} % of the time taken by the host"
    )?;
    writeln!(
        text,
        "{} rounds of {} s; {} × {} znodes of {} bytes; three servers; JVM {}; {} shards",
        options.rounds,
        options.seconds,
        options.subtrees,
        options.keys_per_subtree,
        options.value_bytes,
        cluster.java_flags.join(" "),
        cluster.shards,
    )?;
    for (when, disk) in [("before", comparison.disk_before), ("after", comparison.disk_after)] {
        writeln!(
            text,
            "disk {when}: 4 KiB and fdatasync p50 {:.0}, p99 {:.0}, max {:.0} µs",
            disk.p50_us, disk.p99_us, disk.max_us
        )?;
    }
    writeln!(
        text,
        "CPU is that of all servers, RSS that of the largest; others is the most that anything \
         else took of the CPUs."
    )
}

fn write_row(text: &mut String, summary: &Summary) -> Result {
    let rate = summary.requests_per_second;
    let rates = format!("{:.0} ({:.0}–{:.0})", rate.median, rate.min, rate.max);
    write!(text, "  {:<11} {rates:>26}", summary.system)?;
    write_quantiles(text, summary.all)?;
    write!(
        text,
        " {:>9.2} {:>8.2} {:>8} {:>6.0} %",
        summary.server_cpu_us_per_request.median,
        summary.client_cpu_us_per_request.median,
        summary.server_resident_bytes_max >> 20,
        summary.others_percent.max
    )?;
    if summary.invalid_rounds > 0 {
        write!(text, "  {} ROUNDS INVALID", summary.invalid_rounds)?;
    }
    writeln!(text)?;
    for (name, quantiles) in [("reads", summary.reads), ("writes", summary.writes)] {
        if let Some(quantiles) = quantiles {
            write!(text, "    {name:<9} {:>26}", "")?;
            write_quantiles(text, quantiles)?;
            writeln!(text)?;
        }
    }
    Ok(())
}

fn write_quantiles(text: &mut String, quantiles: Quantiles) -> Result {
    let Quantiles { p50_us, p99_us, p999_us } = quantiles;
    write!(text, " {:>9.1} {:>9.1} {:>9.1}", p50_us.median, p99_us.median, p999_us.median)
}

/// How many times better Pigeonhole is than ZooKeeper, and how much of each floor it reaches.
fn write_ratios(text: &mut String, summaries: &[&Summary]) -> Result {
    let of = |system| summaries.iter().find(|summary| summary.system == system);
    let Some(ours) = of(PIGEONHOLE) else {
        return Ok(());
    };
    if let Some(theirs) = of(ZOOKEEPER) {
        writeln!(
            text,
            "  = {:.1} × the requests of ZooKeeper; {}; CPU {:.1} × less",
            ours.requests_per_second.median / theirs.requests_per_second.median,
            latency_ratios("p50", "p99", ours.all, theirs.all),
            theirs.server_cpu_us_per_request.median / ours.server_cpu_us_per_request.median,
        )?;
        for (name, ours, theirs) in
            [("reads", ours.reads, theirs.reads), ("writes", ours.writes, theirs.writes)]
        {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                writeln!(text, "    {name}: {}", latency_ratios("p50", "p99", ours, theirs))?;
            }
        }
    }
    for floor in [FLOOR_1, FLOOR_3] {
        if let Some(summary) = of(floor) {
            let share = ours.requests_per_second.median / summary.requests_per_second.median;
            writeln!(text, "  = {share:.2} of {floor}")?;
        }
    }
    Ok(())
}

fn latency_ratios(p50: &str, p99: &str, ours: Quantiles, theirs: Quantiles) -> String {
    format!(
        "{p50} {:.1} × and {p99} {:.1} × shorter",
        theirs.p50_us.median / ours.p50_us.median,
        theirs.p99_us.median / ours.p99_us.median
    )
}
