//! Words that the house does not use, each with what to write instead.

use crate::source::{Finding, Source};

/// Searched in code: strings and comments may speak of them.
const CODE: &[Banned] = &[
    Banned::new("todo!", "write it now, or leave the feature out"),
    Banned::new("unimplemented!", "write it now, or answer with a typed error"),
    Banned::new("dbg!", "use tracing in net; core and storage are printed by their effects"),
    Banned {
        word: "#[ignore",
        // Entry points of processes that another test starts under limits.
        except: &["net/tests/ring/limits.rs"],
        instead: "a test runs always; long runs are a binary of their own",
    },
    Banned::new("allow(dead_code)", "delete what nobody calls"),
    Banned::new("allow(unused", "delete what nobody uses"),
    Banned::new("allow(warnings)", "mend the warning, or `expect` one lint with a reason"),
    Banned {
        word: "thread::sleep",
        // What is waited for there is announced by nobody: the kernel gives a closed ring's locked
        // memory back, a process that was just killed lets go of its port and its lock.
        except: &["bench/", "net/src/ring/setup.rs", "net/src/patience.rs"],
        instead: "wait for the condition itself",
    },
];

/// Searched in everything, built in two halves so that this file does not find itself.
const TEXT: &[Banned] = &[
    Banned::new(concat!("FIX", "ME"), "mend it, or write a sentence about the limit it has"),
    Banned::new(concat!("XX", "X"), "mend it, or write a sentence about the limit it has"),
    Banned::new(concat!("HA", "CK"), "say why it must be so, in a sentence"),
];

/// Paths of somebody's machine, refused in every text file of the repository.
const PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("sha", "red/")];

/// ZooKeeper's own operations keep their names.
const OPERATIONS: &[&str] =
    &["get_data", "get_children", "get_acl", "get_ephemerals", "get_all_children_number"];

const MODULES: &[&str] = &["utils", "util", "common", "impls", "manager", "helpers", "misc"];

struct Banned {
    word: &'static str,
    /// Folders and files that may use the word.
    except: &'static [&'static str],
    instead: &'static str,
}

impl Banned {
    const fn new(word: &'static str, instead: &'static str) -> Self {
        Self { word, except: &[], instead }
    }

    fn find(&self, source: &Source, text: &str) -> Vec<Finding> {
        if self.except.iter().any(|place| source.path.starts_with(place)) {
            return Vec::new();
        }
        let message = format!("`{}`: {}", self.word, self.instead);
        lines_with(text, self.word).map(|line| source.finding(line, message.as_str())).collect()
    }
}

pub(crate) fn check_words(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(CODE.iter().flat_map(|banned| banned.find(source, &source.code)));
    findings.extend(TEXT.iter().flat_map(|banned| banned.find(source, &source.text)));
    for (line, text) in source.code.lines().enumerate().take(source.test_line) {
        if is_glob(text) {
            let message = "a glob hides where names come from: list them";
            findings.push(source.finding(line, message));
        }
    }
    findings
}

pub(crate) fn check_getters(source: &Source) -> Vec<Finding> {
    let identifiers = source.identifiers();
    let mut findings = Vec::new();
    for pair in identifiers.windows(2) {
        let [keyword, name] = pair else { continue };
        // A test is a sentence, which may begin with the operation that it is about.
        if name.line >= source.test_line {
            continue;
        }
        // `get_children2` is an operation too.
        let operation = name.word.trim_end_matches(|c: char| c.is_ascii_digit());
        if keyword.word == "fn" && name.word.starts_with("get_") && !OPERATIONS.contains(&operation)
        {
            let message = format!("`{}`: name a getter after what it returns", name.word);
            findings.push(source.finding(name.line, message));
        }
    }
    findings
}

pub(crate) fn check_module_names(source: &Source) -> Vec<Finding> {
    let refuse = |name: &str| {
        let message = format!("`{name}` says nothing: name the module after the idea it holds");
        MODULES.contains(&name).then_some(message)
    };
    let mut findings: Vec<Finding> = source
        .path
        .trim_end_matches(".rs")
        .split('/')
        .filter_map(refuse)
        .map(|message| source.finding(0, message))
        .collect();
    let identifiers = source.identifiers();
    for pair in identifiers.windows(2) {
        if let [keyword, name] = pair
            && keyword.word == "mod"
            && let Some(message) = refuse(name.word)
        {
            findings.push(source.finding(name.line, message));
        }
    }
    findings
}

/// For every text file, whatever its language.
pub(crate) fn check_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for word in PATHS {
        findings.extend(lines_with(text, word).map(|line| Finding {
            path: path.to_owned(),
            line: line + 1,
            message: format!("`{word}`: the repository speaks of itself, not of one machine"),
        }));
    }
    findings
}

/// The 0-based lines where `word` stands as a word of its own.
fn lines_with<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let begins_inside = word.starts_with(is_part);
    let ends_inside = word.chars().all(is_part);
    let stands_in = move |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            let joined_before = begins_inside && line[..at].ends_with(is_part);
            let joined_after = ends_inside && line[at + word.len()..].starts_with(is_part);
            !joined_before && !joined_after
        })
    };
    text.lines().enumerate().filter(move |(_, line)| stands_in(line)).map(|(at, _)| at)
}

fn is_glob(code: &str) -> bool {
    code.match_indices("::*").any(|(at, glob)| {
        matches!(code[at + glob.len()..].trim_start().chars().next(), Some(';' | ',' | '}'))
    })
}
