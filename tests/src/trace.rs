//! What a run does, line by line: kept as a hash always, and as text for whoever asks.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64;

use crate::queue::Moment;

#[derive(Default)]
pub struct Trace {
    mode: Mode,
    hash: u64,
    events: u64,
    lines: Vec<String>,
    /// What servers have said since anything else happened.
    said: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    #[default]
    Silent,
    Print,
    Keep,
}

impl Trace {
    pub fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// An event that anybody reading along would want to see.
    pub fn line(&mut self, at: Moment, text: impl FnOnce() -> String) {
        match self.mode {
            Mode::Silent => {}
            Mode::Print => {
                use std::io::Write;
                // Whoever reads the trace may stop reading; the run goes on.
                let _ = writeln!(std::io::stdout(), "{at} {}", text());
            }
            Mode::Keep => self.lines.push(text()),
        }
    }

    /// A message between servers. What is said again and again is told once in a story.
    pub fn message(&mut self, at: Moment, text: impl FnOnce() -> String) {
        if self.mode == Mode::Keep {
            let text = text();
            if self.said.insert(text.clone()) {
                self.lines.push(text);
            }
        } else {
            self.line(at, text);
        }
    }

    /// An event that two runs of one seed must share.
    pub fn fold(&mut self, number: u64, bytes: &[u8]) {
        self.events += 1;
        self.hash = self.hash.rotate_left(5) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = self.hash.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ xxh3_64(bytes);
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// What has been kept since the last time.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.said.clear();
        std::mem::take(&mut self.lines)
    }
}
