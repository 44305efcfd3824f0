//! Runs seeds: `--seed N [--trace]` for one, `--seeds A..B [--threads T]` for many.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use pigeonhole_tests::seeds::{replay, run_many, run_one};
use pigeonhole_tests::swarm::Options;
use pigeonhole_tests::trace::Mode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).map(String::as_str)
    };
    let done = match (value("--seed"), value("--seeds")) {
        (Some(seed), None) => {
            let trace = arguments.iter().any(|argument| argument == "--trace");
            seed.parse().ok().map(|seed| one(seed, trace))
        }
        (None, Some(range)) => {
            let threads = value("--threads").and_then(|text| text.parse().ok()).unwrap_or(2);
            parse_range(range).map(|(from, to)| many(from, to, threads))
        }
        _ => None,
    };
    match done {
        Some(Ok(true)) => ExitCode::SUCCESS,
        Some(Ok(false) | Err(_)) => ExitCode::FAILURE,
        None => {
            let _ = writeln!(io::stderr(), "sim --seed N [--trace] | --seeds A..B [--threads T]");
            ExitCode::from(2)
        }
    }
}

fn one(seed: u64, trace: bool) -> io::Result<bool> {
    let mut out = io::stdout();
    if trace {
        writeln!(out, "{:#?}", Options::draw(seed))?;
    }
    let mode = if trace { Mode::Print } else { Mode::Silent };
    match run_one(seed, mode) {
        Ok(outcome) => {
            writeln!(
                out,
                "seed {seed}: {} operations, {} events, {} simulated, hash {:016x}",
                outcome.operations, outcome.events, outcome.simulated, outcome.hash
            )?;
            writeln!(out, "{}", outcome.sometimes)?;
            Ok(true)
        }
        Err(text) => {
            writeln!(out, "seed {seed} fails: {text}\n{}", replay(seed))?;
            Ok(false)
        }
    }
}

fn many(from: u64, to: u64, threads: usize) -> io::Result<bool> {
    let began = Instant::now();
    let summary = run_many(from..to, threads, |seed| run_one(seed, Mode::Silent));
    let seconds = began.elapsed().as_secs_f64();
    let mut out = io::stdout();
    writeln!(out, "{}", summary.sometimes)?;
    writeln!(
        out,
        "{} seeds in {seconds:.1} s: {:.1} a second, {} events, {} operations, {} s simulated",
        summary.seeds,
        f64::from(u32::try_from(summary.seeds).unwrap_or(u32::MAX)) / seconds,
        summary.events,
        summary.operations,
        summary.simulated_ms / 1000,
    )?;
    for (seed, text) in &summary.failures {
        writeln!(out, "seed {seed} fails: {text}\n    {}", replay(*seed))?;
    }
    Ok(summary.failures.is_empty())
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (from, to) = text.split_once("..")?;
    Some((from.parse().ok()?, to.parse().ok()?))
}
