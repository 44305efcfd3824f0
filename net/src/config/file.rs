//! The syntax of `zoo.cfg`: that of `java.util.Properties`, with the line of every entry.
//!
//! A ZooKeeper user's file has to mean here what it means there, so the odd corners are kept:
//! `#` and `!` begin a comment, a key ends at the first unescaped `=`, `:` or blank, a backslash
//! at the end of a line continues it, and `\t`, `\n`, `\r`, `\f` and `\uXXXX` are escapes. Like
//! ZooKeeper, and unlike Java, it trims the value at its end too.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use super::error::{Finding, Place};

/// One `key=value`, unescaped and trimmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: String,
    /// The line on which the entry begins, counted from one.
    pub(crate) line: u32,
}

/// The entries of a text in their order, duplicates included, and the entries that are malformed.
pub(crate) fn parse(file: &Arc<str>, text: &str) -> (Vec<Entry>, Vec<Finding>) {
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for (line, logical) in logical_lines(text) {
        let (key, value) = split(&logical);
        match (unescape(key), unescape(value)) {
            (Ok(key), Ok(value)) => {
                entries.push(Entry {
                    key: key.trim().to_owned(),
                    value: value.trim().to_owned(),
                    line,
                });
            }
            (Err(escape), _) | (_, Err(escape)) => problems.push(Finding::new(
                Place::Line { file: Arc::clone(file), line },
                format!(
                    "{escape:?} is not a character; write \\u and the four hex digits of one, \
                     or double the backslash"
                ),
            )),
        }
    }
    (entries, problems)
}

/// The text of a configuration file, or the one reason why it has none.
pub(crate) fn read(path: &Path) -> Result<String, Finding> {
    let shown = path.display().to_string();
    let finding = |text: String| Finding::new(Place::file(shown.as_str()), text);
    let mut bytes = Vec::new();
    if path.is_dir() {
        return Err(finding(format!(
            "is a directory; name the file in it, for example {}",
            path.join("zoo.cfg").display()
        )));
    }
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => finding("there is no such file; check the path".to_owned()),
            _ => finding(format!("cannot be read: {error}")),
        })?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(finding(format!(
            "is larger than {} KiB; name a zoo.cfg, which has some ten lines",
            FILE_BYTES_MAX >> 10
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Finding::new(
            Place::Line {
                file: Arc::from(shown.as_str()),
                line: u32::try_from(line).expect("a bounded file has a bounded number of lines"),
            },
            "is not UTF-8; save the file as UTF-8, or write the character as \\uXXXX",
        )
    })
}

/// Joins continued lines. Comments and blank lines are gone, leading blanks too.
fn logical_lines(text: &str) -> Vec<(u32, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let unified = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut logical = Vec::new();
    let mut open: Option<(u32, String)> = None;
    for (number, natural) in (1..).zip(unified.split('\n')) {
        let natural = natural.trim_start_matches(BLANKS);
        if open.is_none() && (natural.is_empty() || natural.starts_with(['#', '!'])) {
            continue;
        }
        let (line, mut joined) = open.take().unwrap_or_else(|| (number, String::new()));
        let backslashes = natural.len() - natural.trim_end_matches('\\').len();
        // An even number of backslashes is that many escaped ones, and ends the line.
        if backslashes % 2 == 1 {
            joined.push_str(&natural[..natural.len() - 1]);
            open = Some((line, joined));
        } else {
            joined.push_str(natural);
            logical.push((line, joined));
        }
    }
    logical.extend(open);
    logical
}

/// Cuts a logical line where its key ends; both halves are still escaped.
fn split(logical: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = logical.find(|character: char| {
        let ends = !escaped && (BLANKS.contains(&character) || matches!(character, '=' | ':'));
        escaped = !escaped && character == '\\';
        ends
    });
    let (key, rest) = logical.split_at(end.unwrap_or(logical.len()));
    let rest = rest.trim_start_matches(BLANKS);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANKS))
}

/// Replaces the escapes; the error is the escape that stands for no character.
fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else {
            break;
        };
        if escape == 'u' {
            let (character, length) = unicode(rest).ok_or_else(|| {
                let shown: String = rest.chars().take(5).collect();
                format!("\\{shown}")
            })?;
            plain.push(character);
            rest = &rest[length..];
            continue;
        }
        plain.push(match escape {
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'f' => '\u{c}',
            other => other,
        });
        rest = &rest[escape.len_utf8()..];
    }
    plain.push_str(rest);
    Ok(plain)
}

/// Reads `uXXXX`, or `uXXXX\uXXXX` where Java's sixteen bits need a pair of them.
fn unicode(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 4)?;
        let all_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        all_hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
    };
    let first = unit(1)?;
    let one = char::decode_utf16([first]).next()?;
    if let Ok(character) = one {
        return Some((character, 5));
    }
    if text.get(5..7) != Some("\\u") {
        return None;
    }
    let pair = char::decode_utf16([first, unit(7)?]).next()?.ok()?;
    Some((pair, 11))
}

/// What `java.util.Properties` takes for a blank inside a line.
const BLANKS: &[char] = &[' ', '\t', '\u{c}'];

/// A configuration is read whole into memory, so that a wrong path must not name a whole disk.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_java_reads() {
        type Row = (&'static str, &'static [(&'static str, &'static str, u32)]);
        let table: &[Row] = &[
            ("", &[]),
            ("# a comment\n  ! another\n\n \t\n", &[]),
            ("tickTime=2000", &[("tickTime", "2000", 1)]),
            (
                "  tickTime = 2000  \r\na:b\rc d",
                &[("tickTime", "2000", 1), ("a", "b", 2), ("c", "d", 3)],
            ),
            ("key: value", &[("key", "value", 1)]),
            ("key := value", &[("key", "= value", 1)]),
            ("key", &[("key", "", 1)]),
            ("=value", &[("", "value", 1)]),
            ("server.1=host:2888:3888;2181", &[("server.1", "host:2888:3888;2181", 1)]),
            ("a=1\\\n   2\\\n3\nb=4", &[("a", "123", 1), ("b", "4", 4)]),
            ("a=1\\\n# not a comment", &[("a", "1# not a comment", 1)]),
            ("# a comment is not continued\\\na=1", &[("a", "1", 2)]),
            ("a=C:\\\\\nb=2", &[("a", "C:\\", 1), ("b", "2", 2)]),
            ("a=ends\\", &[("a", "ends", 1)]),
            ("a\\ b\\=c=d\\te\\q", &[("a b=c", "d\teq", 1)]),
            ("a=\\u0041\\u00e9\\uD83D\\uDE00!", &[("a", "Aé😀!", 1)]),
            ("a=é", &[("a", "é", 1)]),
            ("\u{feff}a=1", &[("a", "1", 1)]),
            ("a=x # y", &[("a", "x # y", 1)]),
        ];
        for (text, expected) in table {
            let (entries, problems) = parse(&Arc::from("zoo.cfg"), text);
            let entries: Vec<_> = entries
                .iter()
                .map(|entry| (entry.key.as_str(), entry.value.as_str(), entry.line))
                .collect();
            assert_eq!(entries, *expected, "{text:?}");
            assert_eq!(problems, [], "{text:?}");
        }
    }

    #[test]
    fn a_malformed_escape_is_named_with_its_line() {
        for escape in ["\\u12", "\\u12g4", "\\uD83D", "\\uD83Dx", "\\uDE00", "\\u+123"] {
            let text = format!("a=1\nb={escape}\nc=3");
            let (entries, problems) = parse(&Arc::from("zoo.cfg"), &text);
            assert_eq!(entries.len(), 2, "{escape}");
            let shown: String = escape.chars().take(6).collect();
            assert_eq!(
                problems[0].to_string(),
                format!(
                    "zoo.cfg:2: {shown:?} is not a character; write \\u and the four hex digits \
                     of one, or double the backslash"
                )
            );
        }
    }
}
