//! How a file looks: its first line, its length, its columns, its functions.

use crate::source::{Finding, Identifier, Source};

pub(crate) const FILE_LINES_MAX: usize = 600;
pub(crate) const FUNCTION_LINES_MAX: usize = 70;
pub(crate) const COLUMNS_MAX: usize = 100;

pub(crate) fn check_lines(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let first = source.text.lines().next().unwrap_or("");
    let sentence = first.strip_prefix("//!").unwrap_or("").trim();
    if sentence.is_empty() && !source.path.ends_with("build.rs") {
        let message = "a file begins with `//!` and a sentence that says what it is for";
        findings.push(source.finding(0, message));
    }
    if !source.text.ends_with('\n') {
        findings.push(source.finding(source.text.lines().count(), "the last line has no newline"));
    }
    if source.test_line > FILE_LINES_MAX {
        let message = format!(
            "{} lines before the tests; at most {FILE_LINES_MAX}: cut the file where the idea \
             changes",
            source.test_line
        );
        findings.push(source.finding(FILE_LINES_MAX, message));
    }
    for (line, text) in source.text.split('\n').enumerate() {
        let columns = text.chars().count();
        if columns > COLUMNS_MAX {
            let message = format!("{columns} columns; at most {COLUMNS_MAX}");
            findings.push(source.finding(line, message));
        }
        if text.contains('\t') {
            findings
                .push(source.finding(line, "a tab; indent with spaces, write `\\t` in strings"));
        }
        if text.ends_with([' ', '\t', '\r']) {
            findings.push(source.finding(line, "white space at the end of the line"));
        }
    }
    findings
}

pub(crate) fn check_functions(source: &Source) -> Vec<Finding> {
    let identifiers = source.identifiers();
    let mut findings = Vec::new();
    for pair in identifiers.windows(2) {
        let [keyword, name] = pair else { continue };
        if keyword.word != "fn" || !source.code[keyword.end..].starts_with(' ') {
            continue;
        }
        let lines = function_lines(&source.code, *name);
        if lines > FUNCTION_LINES_MAX {
            let message = format!(
                "`{}` has {lines} lines; at most {FUNCTION_LINES_MAX}: keep the branches, give \
                 the leaves names",
                name.word
            );
            findings.push(source.finding(keyword.line, message));
        }
    }
    findings
}

/// From the line of the name to the closing brace; 0 for a declaration without a body.
fn function_lines(code: &str, name: Identifier<'_>) -> usize {
    let (mut braces, mut brackets, mut lines) = (0_u32, 0_i32, 1);
    for character in code[name.end..].chars() {
        match character {
            '\n' => lines += 1,
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return 0,
            '{' if brackets == 0 || braces > 0 => braces += 1,
            '}' if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return lines;
                }
            }
            _ => {}
        }
    }
    lines
}
