//! A source file as the rules see it: its text, and its text without strings and comments.

use std::fmt;

/// One Rust file, split so that a rule can ask for code, for words, or for everything.
pub(crate) struct Source {
    /// Relative to the workspace, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments and the insides of literals blanked; lines and columns are kept.
    pub(crate) code: String,
    /// The 0-based line where the tests start: the first in a file of tests, that of the
    /// `#[cfg(test)]` module in another, or the number of lines.
    pub(crate) test_line: usize,
}

/// One broken promise, printed as `path:line: message`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank_literals(text);
        let test_line = if is_test_file(path) { 0 } else { find_test_line(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, test_line }
    }

    /// `line` is 0-based, as `enumerate` gives it.
    pub(crate) fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line: line + 1, message: message.into() }
    }

    /// The modules from the crate's root to this file: `core/src/zab/lead.rs` is `[zab, lead]`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let inside = self.path.split_once("/src/").map_or("", |(_, inside)| inside);
        let mut parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
        if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
            parts.pop();
        }
        parts
    }

    /// A test module inside of a file stands one level below it; a file of tests does not.
    pub(crate) fn is_in_test_module(&self, line: usize) -> bool {
        line >= self.test_line && !is_test_file(&self.path)
    }

    /// The code's identifiers with their 0-based lines and byte ranges.
    pub(crate) fn identifiers(&self) -> Vec<Identifier<'_>> {
        let mut found = Vec::new();
        let (mut line, mut start) = (0, None);
        for (at, character) in self.code.char_indices().chain([(self.code.len(), '\n')]) {
            let inside = character.is_alphanumeric() || character == '_';
            match (inside, start) {
                (true, None) => start = Some(at),
                (false, Some(from)) => {
                    found.push(Identifier { word: &self.code[from..at], line, end: at });
                    start = None;
                }
                _ => {}
            }
            line += usize::from(character == '\n');
        }
        found
    }
}

/// One word of the code.
#[derive(Clone, Copy)]
pub(crate) struct Identifier<'a> {
    pub(crate) word: &'a str,
    pub(crate) line: usize,
    /// The byte behind the word.
    pub(crate) end: usize,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// `tests.rs` holds a test module; a `tests` folder inside a package holds integration tests.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Only a module ends the product part of a file: a test-only `use` or function may stand anywhere.
fn find_test_line(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let is_test_module = |&at: &usize| {
        lines[at] == "#[cfg(test)]"
            && lines[at + 1..]
                .iter()
                .find(|line| !line.is_empty() && !line.starts_with("#["))
                .is_some_and(|line| line.split_whitespace().any(|word| word == "mod"))
    };
    (0..lines.len()).find(is_test_module).unwrap_or(lines.len())
}

/// Replaces what is not code by spaces. It knows nested comments, raw and byte strings, escapes,
/// and tells a character from a lifetime: as much of the language as the rules depend on.
fn blank_literals(text: &str) -> String {
    let input: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < input.len() {
        let end = literal_end(&input, at);
        if end == at {
            code.push(input[at]);
            at += 1;
            continue;
        }
        code.extend(input[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

/// The end of the comment or literal that starts at `at`, or `at` when none does.
fn literal_end(input: &[char], at: usize) -> usize {
    let next = |offset: usize| input.get(at + offset).copied().unwrap_or('\0');
    let after_word = at > 0 && (input[at - 1].is_alphanumeric() || input[at - 1] == '_');
    match (input[at], next(1)) {
        ('/', '/') => find(input, at, |c| c == '\n').unwrap_or(input.len()),
        ('/', '*') => block_comment_end(input, at),
        ('"', _) => string_end(input, at + 1),
        ('b' | 'c', '"') if !after_word => string_end(input, at + 2),
        ('r', '"' | '#') if !after_word => raw_string_end(input, at + 1, at),
        ('b' | 'c', 'r') if !after_word => raw_string_end(input, at + 2, at),
        ('\'', '\\') => find(input, at + 3, |c| c == '\'').map_or(input.len(), |quote| quote + 1),
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn find(input: &[char], from: usize, wanted: impl Fn(char) -> bool) -> Option<usize> {
    (from..input.len()).find(|&at| wanted(input[at]))
}

fn block_comment_end(input: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < input.len() {
        match (input[at], input.get(at + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    input.len()
}

fn string_end(input: &[char], start: usize) -> usize {
    let mut at = start;
    while at < input.len() {
        match input[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    input.len()
}

/// `from` stands at the hashes or the quote; a raw identifier such as `r#type` is no string.
fn raw_string_end(input: &[char], from: usize, start: usize) -> usize {
    let hashes = input[from..].iter().take_while(|&&c| c == '#').count();
    if input.get(from + hashes) != Some(&'"') {
        return start;
    }
    let closes = |at: usize| {
        input[at] == '"' && input[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes
    };
    (from + hashes + 1..input.len())
        .find(|&at| closes(at))
        .map_or(input.len(), |quote| quote + 1 + hashes)
}
