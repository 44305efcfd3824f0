//! What is wrong with a configuration, where it stands, and what to write instead.

use std::fmt;
use std::sync::Arc;

/// Where a setting was written, or where it should have been.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of a file, counted from one.
    Line {
        /// The file, as the user named it.
        file: Arc<str>,
        /// The line on which the setting begins.
        line: u32,
    },
    /// An argument of the command line.
    CommandLine,
    /// A file as a whole: something is missing from it, or it cannot be read.
    File {
        /// The file, as the user named it.
        file: Arc<str>,
    },
}

/// One remark about a configuration: an error or a warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where it stands.
    pub place: Place,
    /// The key that it is about, without the `zookeeper.` prefix; none for a whole file.
    pub key: Option<String>,
    /// What is wrong, and what to write instead.
    pub text: String,
}

/// All that is wrong with a configuration. Never empty, ordered as a reader meets it.
///
/// Its `Display` has one line for each problem, so that a file is mended in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Finding>,
}

impl Place {
    pub(crate) fn file(file: impl Into<Arc<str>>) -> Self {
        Self::File { file: file.into() }
    }
}

impl Finding {
    pub(crate) fn new(place: Place, text: impl Into<String>) -> Self {
        Self { place, key: None, text: text.into() }
    }

    pub(crate) fn of_key(place: Place, key: &str, text: impl Into<String>) -> Self {
        Self { place, key: Some(key.to_owned()), text: text.into() }
    }
}

impl ConfigError {
    /// The problems as a reader should meet them.
    pub(crate) fn new(problems: Vec<Finding>) -> Self {
        assert!(!problems.is_empty(), "an error without a problem would print nothing");
        Self { problems }
    }

    /// The problems, in the order in which they are printed.
    pub fn problems(&self) -> &[Finding] {
        &self.problems
    }
}

impl From<Finding> for ConfigError {
    fn from(problem: Finding) -> Self {
        Self::new(vec![problem])
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(out, "{file}:{line}"),
            Self::CommandLine => out.write_str("command line"),
            Self::File { file } => out.write_str(file),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(out, "{}: {key}: {}", self.place, self.text),
            None => write!(out, "{}: {}", self.place, self.text),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
