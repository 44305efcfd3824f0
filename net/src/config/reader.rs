//! Takes settings out of a file one by one, typed, and collects everything that is wrong.
//!
//! A setting that cannot be read yields its default, so that the reading goes on and one run
//! reports all problems of a file. What nobody took is unknown, and is accounted for at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::error::{ConfigError, Finding, Place};
use super::file;
use super::keys::{self, Treatment};
use super::value::{byte_count, quoted, whole_number};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) value: String,
    pub(super) place: Place,
}

/// A whole number: its key, what it counts, what it may be.
pub(super) struct Number<T> {
    pub(super) key: &'static str,
    /// Plural; empty for a number that counts nothing, such as a port.
    pub(super) unit: &'static str,
    pub(super) range: RangeInclusive<T>,
    pub(super) example: T,
}

/// The settings of one file and of the command line.
pub(super) struct Reader {
    file: Arc<str>,
    settings: BTreeMap<String, Setting>,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl Reader {
    /// Reads the text of `file`, and of the dynamic file that it names; `overrides` win.
    pub(super) fn new(file: &str, text: &str, overrides: &[(String, String)]) -> Self {
        let mut reader = Self::new_empty(file);
        let file = Arc::clone(&reader.file);
        reader.insert_all(&file, text);
        for (key, value) in overrides {
            let setting = Setting { value: value.trim().to_owned(), place: Place::CommandLine };
            reader.settings.insert(plain_key(key.trim()).to_owned(), setting);
        }
        if let Some(setting) = reader.take("dynamicConfigFile") {
            reader.insert_dynamic(&setting);
        }
        reader
    }

    /// The file, as the user named it.
    pub(super) fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Whether a setting is there to be taken.
    pub(super) fn has(&self, key: &str) -> bool {
        self.settings.contains_key(key)
    }

    /// Where a setting stands, or the file where it would stand.
    pub(super) fn place_of(&self, key: &str) -> Place {
        match self.settings.get(key) {
            Some(setting) => setting.place.clone(),
            None => Place::File { file: Arc::clone(&self.file) },
        }
    }

    /// Takes a setting as it was written.
    pub(super) fn take(&mut self, key: &str) -> Option<Setting> {
        self.settings.remove(key)
    }

    /// Takes every setting whose key begins with `prefix`; the keys come without it.
    pub(super) fn take_all(&mut self, prefix: &str) -> Vec<(String, Setting)> {
        self.settings
            .extract_if(prefix.to_owned().., |key, _| key.starts_with(prefix))
            .map(|(key, setting)| (key[prefix.len()..].to_owned(), setting))
            .collect()
    }

    /// Takes a number, or the default if there is none.
    pub(super) fn number<T>(&mut self, number: &Number<T>, default: T) -> T
    where
        T: Copy + PartialOrd + TryFrom<i64> + fmt::Display,
    {
        self.optional_number(number).unwrap_or(default)
    }

    /// Takes a number, if there is one.
    pub(super) fn optional_number<T>(&mut self, number: &Number<T>) -> Option<T>
    where
        T: Copy + PartialOrd + TryFrom<i64> + fmt::Display,
    {
        let setting = self.take(number.key)?;
        self.parse_number(number, &setting)
    }

    /// Takes a number for which ZooKeeper's own default is written `-1`.
    pub(super) fn number_or_unset<T>(&mut self, number: &Number<T>) -> Option<T>
    where
        T: Copy + PartialOrd + TryFrom<i64> + fmt::Display,
    {
        let setting = self.take(number.key)?;
        if setting.value == "-1" {
            return None;
        }
        self.parse_number(number, &setting)
    }

    /// Takes a bound for which zero means that there is none, or, as ZooKeeper reads it, less.
    pub(super) fn limit(&mut self, number: &Number<u32>, default: Option<u32>) -> Option<u32> {
        let Some(setting) = self.take(number.key) else {
            return default;
        };
        if whole_number(&setting.value).is_some_and(|value| value < 0) {
            return None;
        }
        match self.parse_number(number, &setting) {
            Some(0) => None,
            Some(limit) => Some(limit),
            None => default,
        }
    }

    /// Takes a number of bytes that may have the suffix K, M or G.
    pub(super) fn bytes(&mut self, number: &Number<u64>, default: u64) -> u64 {
        let Some(setting) = self.take(number.key) else {
            return default;
        };
        let key = number.key;
        let read = byte_count(&setting.value).filter(|count| number.range.contains(count));
        read.unwrap_or_else(|| {
            let text = format!(
                "{} is not a number of bytes from {}M to {}M; write for example {key}={}M",
                quoted(&setting.value),
                number.range.start() >> 20,
                number.range.end() >> 20,
                number.example >> 20,
            );
            self.error(setting.place, key, text);
            default
        })
    }

    /// Takes a setting that has two values: the first for true, the second for false.
    pub(super) fn switch(&mut self, key: &str, words: [&str; 2], default: bool) -> bool {
        let Some(setting) = self.take(key) else {
            return default;
        };
        let [on, off] = words;
        if setting.value.eq_ignore_ascii_case(on) {
            return true;
        }
        if !setting.value.eq_ignore_ascii_case(off) {
            let text = format!(
                "{} is neither {on} nor {off}; write {key}={on} or {key}={off}",
                quoted(&setting.value)
            );
            self.error(setting.place, key, text);
            return default;
        }
        false
    }

    /// Reports a problem; the configuration will be refused.
    pub(super) fn error(&mut self, place: Place, key: &str, text: impl Into<String>) {
        self.errors.push(Finding::of_key(place, key, text));
    }

    /// Reports a problem of a whole file.
    pub(super) fn file_error(&mut self, finding: Finding) {
        self.errors.push(finding);
    }

    /// Reports that the file lacks a line.
    pub(super) fn missing(&mut self, key: &str, line: &str) {
        let place = Place::File { file: Arc::clone(&self.file) };
        self.error(place, key, format!("is missing; add a line such as {line}"));
    }

    /// Reports something that the user should know.
    pub(super) fn warn(&mut self, place: Place, key: &str, text: impl Into<String>) {
        self.warnings.push(Finding::of_key(place, key, text));
    }

    /// Reports something that the user should know about the file as a whole.
    pub(super) fn warn_of_file(&mut self, text: impl Into<String>) {
        self.warnings.push(Finding::new(Place::File { file: Arc::clone(&self.file) }, text));
    }

    /// Accounts for what nobody took.
    pub(super) fn account_for_the_rest(&mut self) {
        for (key, setting) in std::mem::take(&mut self.settings) {
            if key.starts_with("pigeonhole.") {
                let nearest = keys::nearest_own(&key);
                self.error(setting.place, &key, format!("unknown key; did you mean {nearest}?"));
                continue;
            }
            match keys::treatment(&key, &setting.value) {
                Some(Treatment::Accept) => {}
                Some(Treatment::Warn(text)) => self.warn(setting.place, &key, text),
                Some(Treatment::Refuse(text)) => self.error(setting.place, &key, text),
                None => {
                    let mut text = "unknown key; it has no effect".to_owned();
                    if let Some(nearest) = keys::nearest(&key) {
                        text += &format!("; did you mean {nearest}?");
                    }
                    self.warn(setting.place, &key, text);
                }
            }
        }
    }

    /// The warnings in the order of the file, or all that is wrong.
    pub(super) fn finish(mut self) -> Result<Vec<Finding>, ConfigError> {
        assert!(self.settings.is_empty(), "a setting was neither taken nor accounted for");
        // By line, the dynamic file after this one, and last what stands on no line.
        let order = |finding: &Finding| {
            let elsewhere = match &finding.place {
                Place::Line { file, .. } => *file != self.file,
                Place::CommandLine | Place::File { .. } => true,
            };
            (elsewhere, finding.place.clone())
        };
        if !self.errors.is_empty() {
            self.errors.sort_by_key(order);
            return Err(ConfigError::new(self.errors));
        }
        self.warnings.sort_by_key(order);
        Ok(self.warnings)
    }

    fn insert_all(&mut self, file: &Arc<str>, text: &str) {
        let (entries, problems) = file::parse(file, text);
        self.errors.extend(problems);
        for entry in entries {
            let place = Place::Line { file: Arc::clone(file), line: entry.line };
            let key = plain_key(&entry.key).to_owned();
            if key.is_empty() {
                let text = "there is no key before the value; write key=value";
                self.errors.push(Finding::new(place, text));
                continue;
            }
            let setting = Setting { value: entry.value, place: place.clone() };
            let Some(first) = self.settings.insert(key.clone(), setting) else {
                continue;
            };
            // Losing a server by a slip would change who decides, which no warning makes good.
            if key.starts_with("server.") {
                let text = format!("is already given at {}; give each server its own", first.place);
                self.error(place, &key, text);
            } else {
                let text = format!("is already given at {}; this one counts", first.place);
                self.warn(place, &key, text);
            }
        }
    }

    /// ZooKeeper keeps the list of servers in a file of its own once it has reconfigured itself.
    fn insert_dynamic(&mut self, setting: &Setting) {
        let of_ensemble = |key: &str| {
            ["server.", "group.", "weight."].iter().any(|prefix| key.starts_with(prefix))
        };
        let misplaced: Vec<_> = self.settings.extract_if(.., |key, _| of_ensemble(key)).collect();
        for (key, misplaced) in misplaced {
            let text = format!("stands beside dynamicConfigFile; move it to {}", setting.value);
            self.error(misplaced.place, &key, text);
        }
        let text = match file::read(Path::new(&setting.value)) {
            Ok(text) => text,
            Err(finding) => {
                let text = "names no readable file with the servers; correct it, or remove it";
                self.error(setting.place.clone(), "dynamicConfigFile", text);
                self.errors.push(finding);
                return;
            }
        };
        let mut dynamic = Self::new_empty(&setting.value);
        let file = Arc::clone(&dynamic.file);
        dynamic.insert_all(&file, &text);
        self.errors.append(&mut dynamic.errors);
        self.warnings.append(&mut dynamic.warnings);
        for (key, setting) in dynamic.settings {
            if of_ensemble(&key) {
                self.settings.insert(key, setting);
            } else if key != "version" {
                let text = format!("does not belong in this file; move it to {}", self.file);
                self.error(setting.place, &key, text);
            }
        }
    }

    fn new_empty(file: &str) -> Self {
        Self {
            file: Arc::from(file),
            settings: BTreeMap::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Reads a number that was taken; says what is wrong with it.
    pub(super) fn parse_number<T>(&mut self, number: &Number<T>, setting: &Setting) -> Option<T>
    where
        T: Copy + PartialOrd + TryFrom<i64> + fmt::Display,
    {
        let Number { key, unit, range, example } = number;
        let shown = quoted(&setting.value);
        let text = match whole_number(&setting.value) {
            None if unit.is_empty() => format!("{shown} is not a whole number"),
            None => format!("{shown} is not a whole number of {unit}"),
            Some(value) => match T::try_from(value).ok().filter(|value| range.contains(value)) {
                Some(value) => return Some(value),
                None => {
                    let (least, greatest) = (range.start(), range.end());
                    format!("{value} is not from {least} to {greatest} {unit}")
                }
            },
        };
        let text = format!("{}; write for example {key}={example}", text.trim_end());
        self.error(setting.place.clone(), key, text);
        None
    }
}

/// A key may stand in the file as the system property that ZooKeeper makes of it.
fn plain_key(key: &str) -> &str {
    key.strip_prefix("zookeeper.").unwrap_or(key)
}
