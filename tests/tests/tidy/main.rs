//! What is promised about the code is a test: directions, shape, words, and the README's map.

mod canary;
mod direction;
mod readme;
mod shape;
mod source;
mod words;

use std::path::{Path, PathBuf};
use std::process::Command;

use source::{Finding, Source};

const FOLDERS: &[&str] = &["core/", "storage/", "net/", "bench/", "tests/"];

#[test]
fn packages_depend_in_one_direction() {
    let mut findings = Vec::new();
    for (folder, package, _) in direction::PACKAGES {
        let manifest = read(&format!("{folder}/Cargo.toml"));
        assert!(
            manifest.contains(&format!("name = \"{package}\"")),
            "{folder}/Cargo.toml is not the manifest of {package}"
        );
        findings.extend(direction::check_manifest(folder, &manifest));
    }
    report(&findings);
}

#[test]
fn modules_point_in_one_direction() {
    check_product(direction::check_directions);
}

#[test]
fn what_touches_the_world_stays_in_its_place() {
    check_product(direction::check_places);
}

#[test]
fn lines_and_files_are_short_and_clean() {
    check_sources(shape::check_lines);
}

#[test]
fn functions_fit_a_screen() {
    check_product(shape::check_functions);
}

#[test]
fn banned_words_are_absent() {
    check_sources(words::check_words);
}

#[test]
fn getters_are_named_after_what_they_return() {
    check_sources(words::check_getters);
}

#[test]
fn no_module_is_in_a_circle() {
    let product = |it: &Source| {
        ["core/src/", "storage/src/", "net/src/"].iter().any(|of| it.path.starts_with(of))
    };
    let sources: Vec<Source> = sources().into_iter().filter(product).collect();
    report(&direction::check_circles(&sources));
}

#[test]
fn modules_are_named_after_ideas() {
    check_sources(words::check_module_names);
}

#[test]
fn no_file_speaks_of_a_machine() {
    let mut findings = Vec::new();
    for path in repository_files() {
        // What is not text has nothing to say.
        if let Ok(text) = std::fs::read_to_string(root().join(&path)) {
            findings.extend(words::check_paths(&path, &text));
        }
    }
    report(&findings);
}

#[test]
fn the_map_names_exactly_the_modules() {
    let files = repository_files();
    let sources: Vec<&str> =
        files.iter().map(String::as_str).filter(|path| path.ends_with(".rs")).collect();
    report(&readme::check_map(&read("README.md"), &sources));
}

#[test]
fn the_test_command_is_what_is_run() {
    report(&readme::check_test_command(&read("README.md"), &read(".ci/run")));
}

/// What is promised of the product alone: tests may be long tables, and play the world's part.
fn check_product(check: impl Fn(&Source) -> Vec<Finding>) {
    let parts = ["/tests/", "/benches/", "/examples/", "/tests.rs"];
    check_sources(|source| {
        let is_test = parts.iter().any(|part| source.path.contains(part));
        if is_test { Vec::new() } else { check(source) }
    });
}

fn check_sources(check: impl Fn(&Source) -> Vec<Finding>) {
    report(&sources().iter().flat_map(check).collect::<Vec<_>>());
}

fn sources() -> Vec<Source> {
    let is_source =
        |path: &String| path.ends_with(".rs") && FOLDERS.iter().any(|it| path.starts_with(it));
    let paths = repository_files().into_iter().filter(is_source);
    let sources: Vec<Source> = paths.map(|path| Source::new(&path, &read(&path))).collect();
    assert!(!sources.is_empty(), "no source file was found");
    sources
}

fn report(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} findings\n{}\n", lines.len(), lines.join("\n"));
}

/// Tracked files and new ones that nothing ignores; not what is deleted but not yet committed.
fn repository_files() -> Vec<String> {
    let output = Command::new("git")
        // A container often checks out as one user and tests as another; git would refuse.
        .args(["-c", "safe.directory=*"])
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    assert!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    let mut paths: Vec<String> = String::from_utf8(output.stdout)
        .expect("paths are text")
        .split_terminator('\0')
        .filter(|path| root().join(path).is_file())
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Asked when the test runs: a shared target folder may hold the binary of another checkout.
fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&package).parent().expect("a package has a folder").to_owned()
}
