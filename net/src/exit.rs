//! How the process ends when it cannot go on: one line says why, a code says of what kind.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

/// Why a command or a server gives up, with the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) text: String,
}

impl Failure {
    /// The configuration, a port, memory, the kernel.
    pub(crate) fn environment(text: impl fmt::Display) -> Self {
        Self { code: ENVIRONMENT, text: text.to_string() }
    }

    /// The data directory is somebody else's, damaged, or of a newer program.
    pub(crate) fn data(text: impl fmt::Display) -> Self {
        Self { code: DATA, text: text.to_string() }
    }

    /// The server's own directory cannot be made or entered: the disk's fault only if it is not
    /// that of whoever has chosen the directory or the user.
    pub(crate) fn directory(operation: &str, path: &Path, error: &io::Error) -> Self {
        let what_to_do = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "let this user write there"
            }
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                "something that is no directory has this name: move it away"
            }
            ErrorKind::NotFound => "make it",
            _ => return Self::disk(operation, path, error),
        };
        Self::environment(format_args!(
            "{}; {what_to_do}, or choose another directory with dataDir (of a local cluster: \
             --data)",
            disk_line(operation, path, error)
        ))
    }

    /// The disk has refused an operation.
    pub(crate) fn disk(operation: &str, path: &Path, error: &io::Error) -> Self {
        Self { code: DISK, text: disk_line(operation, path, error) }
    }
}

/// Ends the process from whatever thread has found out that it cannot go on.
pub(crate) fn fail(code: u8, text: &str) -> ! {
    say(text);
    std::process::exit(i32::from(code))
}

/// The last words go to standard error whatever the log's filter is.
pub(crate) fn say(text: &str) {
    // Without standard error there is only the exit code.
    let _ = writeln!(io::stderr(), "pigeonhole: {text}");
}

/// A failed write or sync is never retried: what the disk holds is unknown from here on, and the
/// next start finds out.
pub(crate) fn disk_failed(operation: &str, path: &Path, error: &io::Error) -> ! {
    fail(DISK, &disk_line(operation, path, error))
}

fn disk_line(operation: &str, path: &Path, error: &io::Error) -> String {
    format!("{operation} {}: {error}", path.display())
}

/// The exit code for a wrong configuration or environment.
pub(crate) const ENVIRONMENT: u8 = 2;
/// The exit code for data that cannot be used.
pub(crate) const DATA: u8 = 3;
/// The exit code for a disk that fails.
pub(crate) const DISK: u8 = 4;
