//! Which way the edges of the house point: between packages, between modules, towards the world.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Finding, Source};

/// What a module may name. Amend the house here: each line is a rule with the sentence why.
pub(crate) const DIRECTIONS: &[Direction] = &[
    only("base", &["base"], "base stands under everything, so it knows nothing above it"),
    only("op", &["base", "op"], "op is the vocabulary of clients: values over base, no more"),
    only(
        "txn",
        &["base", "op", "txn", "entry"],
        "txn is what is replicated: values over base and op",
    ),
    only("shard", &["base", "path", "shard"], "path to shard is a pure function over base"),
    only(
        "peer",
        &["base", "peer", "txn"],
        "peer is the vocabulary of replicas: values over base, and what they replicate",
    ),
    only(
        "wire",
        &["base", "op", "path", "wire"],
        "wire turns client bytes into op and back, no more",
    ),
    never(
        "zab",
        &["state", "wire", "gateway", "replica", "worker"],
        "two wings: zab orders opaque entries and never reaches the tree; they meet in replica",
    ),
    never(
        "state",
        &["zab", "peer", "gateway", "wire", "replica", "worker"],
        "two wings: state applies what was agreed and never asks how; they meet in replica",
    ),
    never(
        "gateway",
        &["zab", "state"],
        "gateway routes; what a shard decides it hears through inputs and effects",
    ),
    Direction {
        inside: "*",
        except: &["replica*", "worker*", "gateway", "wire", "lib"],
        root: "crate",
        rule: Rule::Never(&["wire"]),
        why: "wire at the edge: inside, requests and replies are op values, parsed once",
    },
    Direction {
        inside: "*",
        except: &[],
        root: "pigeonhole_core",
        rule: Rule::Never(&["replica", "zab", "state", "gateway", "worker"]),
        why: "storage lays out bytes: it knows base and effects, never who decides",
    },
];

/// Words that belong to one place.
pub(crate) const PLACES: &[Place] = &[
    Place {
        word: "io_uring",
        among: "",
        only_in: &["net/src/ring/", "net/src/ring.rs", "bench/"],
        why: "net/src/ring is the only module that knows io_uring",
    },
    Place {
        word: "tokio_uring",
        among: "",
        only_in: &["net/src/control"],
        why: "tokio-uring drives the control thread alone, never the path of a request",
    },
    Place {
        word: "unsafe",
        among: "",
        only_in: &[
            "net/src/ring/",
            "net/src/ring.rs",
            "net/src/os.rs",
            "net/src/os/",
            "bench/src/",
        ],
        why: "unsafe code lives in net/src/ring and net/src/os, where it can be read at once",
    },
    Place {
        word: "SystemTime",
        among: PURE,
        only_in: &[],
        why: "core and storage have no clock: time is an argument",
    },
    Place {
        word: "Instant::now",
        among: PURE,
        only_in: &[],
        why: "core and storage have no clock: time is an argument",
    },
    Place {
        word: "attest",
        among: "",
        only_in: &["storage/src/wal.rs", "storage/src/wal/"],
        why: "only the log can say that bytes are durable: nobody else attests it",
    },
];

/// The packages, the manifest's folder first, and what of the workspace each may depend on.
pub(crate) const PACKAGES: &[(&str, &str, &[&str])] = &[
    ("core", "pigeonhole-core", &[]),
    ("storage", "pigeonhole-storage", &["pigeonhole-core"]),
    ("net", "pigeonhole", &["pigeonhole-core", "pigeonhole-storage"]),
    ("bench", "pigeonhole-bench", PRODUCT),
    ("tests", "pigeonhole-tests", PRODUCT),
];

const PRODUCT: &[&str] = &["pigeonhole-core", "pigeonhole-storage", "pigeonhole"];
/// Stands for the two packages that the compiler keeps from the world.
const PURE: &str = "core/ storage/";

pub(crate) struct Direction {
    /// The module of core that the rule binds; a star at the end stands for any rest.
    inside: &'static str,
    except: &'static [&'static str],
    /// `crate` binds core's own modules, `pigeonhole_core` binds storage's view of them.
    root: &'static str,
    rule: Rule,
    pub(crate) why: &'static str,
}

enum Rule {
    Only(&'static [&'static str]),
    Never(&'static [&'static str]),
}

pub(crate) struct Place {
    pub(crate) word: &'static str,
    /// The folders that the rule binds, separated by spaces; empty binds all.
    among: &'static str,
    only_in: &'static [&'static str],
    pub(crate) why: &'static str,
}

const fn only(inside: &'static str, uses: &'static [&'static str], why: &'static str) -> Direction {
    Direction { inside, except: &[], root: "crate", rule: Rule::Only(uses), why }
}

const fn never(
    inside: &'static str,
    avoids: &'static [&'static str],
    why: &'static str,
) -> Direction {
    Direction { inside, except: &[], root: "crate", rule: Rule::Never(avoids), why }
}

/// Edges between modules of core, and from storage into core.
pub(crate) fn check_directions(source: &Source) -> Vec<Finding> {
    let root = match source.path.split('/').next() {
        Some("core") => "crate",
        Some("storage") => "pigeonhole_core",
        _ => return Vec::new(),
    };
    let module = source.module().first().copied().unwrap_or("lib");
    let mut findings = Vec::new();
    for (line, used) in paths_from(source, root) {
        // The most particular rule stands first in the table and speaks alone.
        let broken = DIRECTIONS
            .iter()
            .find(|direction| direction.binds(root, module) && direction.rule.refuses(used));
        if let Some(direction) = broken {
            let message = format!("`{root}::{used}` in `{module}`: {}", direction.why);
            findings.push(source.finding(line, message));
        }
        if root == "crate" && module != "lib" && used.starts_with(char::is_uppercase) {
            let message = format!(
                "`crate::{used}`: name the module that it lives in; a re-export at the root \
                 hides which way the edge points"
            );
            findings.push(source.finding(line, message));
        }
    }
    findings
}

/// Files and folders right under a package's root that use each other in a circle. Told at every
/// edge of it: any of them may be the one that should not be.
pub(crate) fn check_circles(sources: &[Source]) -> Vec<Finding> {
    let mut edges: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    let mut places = Vec::new();
    for source in sources {
        let package = source.path.split('/').next().unwrap_or_default();
        let Some(&module) = source.module().first() else { continue };
        for (line, used) in paths_from(source, "crate") {
            if line < source.test_line && used != module {
                edges.entry((package, module)).or_default().insert(used);
                places.push((source, line, package, module, used));
            }
        }
    }
    let leads_to = |package, from: &str, to: &str| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(module) = next.pop() {
            if module == to {
                return true;
            }
            if seen.insert(module) {
                next.extend(edges.get(&(package, module)).into_iter().flatten());
            }
        }
        false
    };
    let closing =
        places.into_iter().filter(|&(_, _, package, module, used)| leads_to(package, used, module));
    let tell = |(source, line, _, module, used): (&Source, usize, _, &str, &str)| {
        let message = format!("`crate::{used}` in `{module}`: they use each other in a circle");
        source.finding(line, message)
    };
    closing.map(tell).collect()
}

impl Direction {
    fn binds(&self, root: &str, module: &str) -> bool {
        self.root == root
            && matches(self.inside, module)
            && !self.except.iter().any(|pattern| matches(pattern, module))
    }
}

impl Rule {
    fn refuses(&self, used: &str) -> bool {
        match self {
            Self::Only(allowed) => !allowed.contains(&used),
            Self::Never(refused) => refused.contains(&used),
        }
    }
}

fn matches(pattern: &str, module: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => module.starts_with(start),
        None => module == pattern,
    }
}

/// The first segment behind every `root::`, groups and chains of `super` included.
fn paths_from<'a>(source: &'a Source, root: &str) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    let mut supers = 0;
    for identifier in source.identifiers() {
        let rest = &source.code[identifier.end..];
        let Some(path) = rest.trim_start().strip_prefix("::") else {
            supers = 0;
            continue;
        };
        let depth = source.module().len() + usize::from(source.is_in_test_module(identifier.line));
        supers = if identifier.word == "super" { supers + 1 } else { 0 };
        let reaches_root = supers == depth && supers > 0 && root == "crate";
        if identifier.word == root || reaches_root {
            found.extend(first_segments(path).into_iter().map(|used| (identifier.line, used)));
        }
    }
    found.retain(|(_, used)| *used != "super" && !used.is_empty());
    found
}

/// `a::b` gives `a`; `{a::b, c::{d, e}, f}` gives `a`, `c`, `f`.
fn first_segments(path: &str) -> Vec<&str> {
    let path = path.trim_start();
    let Some(group) = path.strip_prefix('{') else {
        return vec![first_word(path)];
    };
    let mut depth = 0_i32;
    let mut segments = vec![first_word(group)];
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => segments.push(first_word(&group[at + 1..])),
            _ => {}
        }
    }
    segments
}

fn first_word(text: &str) -> &str {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Words that may stand in one place only.
pub(crate) fn check_places(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for place in PLACES.iter().filter(|place| place.binds(source)) {
        let (first, second) = place.word.split_once("::").unwrap_or((place.word, ""));
        for identifier in source.identifiers() {
            let rest = source.code[identifier.end..].trim_start();
            let behind = rest.strip_prefix("::").map_or("", first_word);
            // A test of the protocol stands in for the disk, so it may attest too.
            let excused = first == "attest" && identifier.line >= source.test_line;
            if identifier.word == first && (second.is_empty() || behind == second) && !excused {
                let message = format!("`{}`: {}", place.word, place.why);
                findings.push(source.finding(identifier.line, message));
            }
        }
    }
    findings
}

impl Place {
    fn binds(&self, source: &Source) -> bool {
        let starts = |prefix: &&str| source.path.starts_with(*prefix);
        let bound = self.among.is_empty() || self.among.split(' ').any(|p| starts(&p));
        let defines = source.code.contains(&format!("fn {}(", self.word));
        bound && !defines && !self.only_in.iter().any(starts)
    }
}

/// What the manifest of the package in `folder` may name of this workspace.
pub(crate) fn check_manifest(folder: &str, manifest: &str) -> Vec<Finding> {
    let Some((_, _, allowed)) = PACKAGES.iter().find(|(name, _, _)| *name == folder) else {
        return vec![manifest_finding(folder, 0, "this package is not in the table of packages")];
    };
    let mut findings = Vec::new();
    let mut section = "";
    for (line, text) in manifest.lines().enumerate() {
        let text = text.split('#').next().unwrap_or("").trim();
        if let Some(header) = text.strip_prefix('[') {
            section = header.trim_end_matches(']');
            // `[dependencies.name]` is a dependency written as a section of its own.
            let Some((_, name)) = section.split_once("dependencies.") else {
                continue;
            };
            findings.extend(refused(folder, line, name, allowed));
        } else if section.ends_with("dependencies") && !text.is_empty() {
            let name = text.split(['=', '.']).next().unwrap_or("").trim();
            let renamed =
                text.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            findings.extend(refused(folder, line, renamed.unwrap_or(name), allowed));
        }
    }
    findings
}

fn refused(folder: &str, line: usize, name: &str, allowed: &[&str]) -> Option<Finding> {
    let ours = PACKAGES.iter().any(|(_, package, _)| *package == name);
    (ours && !allowed.contains(&name)).then(|| {
        let why = "net uses storage, storage uses core, never back; nothing uses bench or tests";
        manifest_finding(folder, line, &format!("`{name}`: {why}"))
    })
}

fn manifest_finding(folder: &str, line: usize, message: &str) -> Finding {
    Finding { path: format!("{folder}/Cargo.toml"), line: line + 1, message: message.to_owned() }
}
