//! The README's map names exactly the modules that exist, and its test command is what CI runs.

use std::collections::BTreeSet;

use crate::source::Finding;

/// The folders whose every file the map explains.
pub(crate) const MAPPED: &[&str] =
    &["core/src/", "storage/src/", "net/src/", "bench/src/", "tests/src/"];

/// `files` are all source files; those outside of the mapped folders are of no interest here.
pub(crate) fn check_map(readme: &str, files: &[&str]) -> Vec<Finding> {
    let Some((start, block)) = block(readme, "<!-- map -->", "<!-- /map -->") else {
        return vec![finding(0, "there is no map between `<!-- map -->` and `<!-- /map -->`")];
    };
    let mut missing: BTreeSet<&str> =
        files.iter().copied().filter(|file| MAPPED.iter().any(|m| file.starts_with(m))).collect();
    let mut findings = Vec::new();
    for (offset, line) in block.lines().enumerate() {
        let line = line.trim().trim_start_matches("- ");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = start + offset;
        let Some((path, sentence)) = entry(line) else {
            findings.push(finding(at, "a line of the map reads: `path` — sentence"));
            continue;
        };
        if sentence.is_empty() {
            findings.push(finding(at, &format!("`{path}` has no sentence")));
        }
        if !candidates(path).iter().any(|file| missing.remove(file.as_str())) {
            findings.push(finding(at, &format!("`{path}` is not there, or stands twice")));
        }
    }
    findings
        .extend(missing.iter().map(|f| finding(start, &format!("the map does not name `{f}`"))));
    findings
}

/// CI extracts the command from here, so that what the README says is what is run.
pub(crate) fn check_test_command(readme: &str, runner: &str) -> Vec<Finding> {
    let Some((start, block)) = block(readme, "<!-- test -->", "<!-- /test -->") else {
        return vec![finding(
            0,
            "there is no command between `<!-- test -->` and `<!-- /test -->`",
        )];
    };
    let commands: Vec<&str> =
        block.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("```")).collect();
    let mut findings = Vec::new();
    if commands.len() != 1 || !commands[0].starts_with("cargo test") {
        findings.push(finding(start, "the test command is one line, `cargo test …`"));
    }
    if !runner.contains("<!-- test -->") {
        findings.push(finding(start, "`.ci/run` does not take the command from here"));
    }
    findings
}

/// The text between two markers, with the 0-based line where it starts.
fn block<'a>(text: &'a str, open: &str, close: &str) -> Option<(usize, &'a str)> {
    let (before, rest) = text.split_once(open)?;
    let (inside, _) = rest.split_once(close)?;
    Some((before.matches('\n').count(), inside))
}

fn entry(line: &str) -> Option<(&str, &str)> {
    let (path, rest) = line.strip_prefix('`')?.split_once('`')?;
    Some((path, rest.trim_start().strip_prefix('—')?.trim()))
}

/// A folder stands for the file that declares its modules.
fn candidates(path: &str) -> Vec<String> {
    match path.strip_suffix('/') {
        Some(folder) => vec![format!("{folder}/mod.rs"), format!("{folder}.rs")],
        None => vec![path.to_owned()],
    }
}

fn finding(line: usize, message: &str) -> Finding {
    Finding { path: "README.md".to_owned(), line: line + 1, message: message.to_owned() }
}
