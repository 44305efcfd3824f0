//! The directory of one run: made for it, and gone with it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::BenchError;

/// A fresh directory, removed with everything in it when dropped, unless it is to be kept.
pub(crate) struct WorkDirectory {
    path: PathBuf,
    keep: bool,
}

impl WorkDirectory {
    pub(crate) fn create(parent: &Path, keep: bool) -> Result<Self, BenchError> {
        let path = parent.join(format!("pigeonhole-bench-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(BenchError::io(format!("create {}", path.display())))?;
        // Servers run elsewhere, so their paths must not depend on where this process stands.
        let path = path
            .canonicalize()
            .map_err(BenchError::io(format!("find the path of {}", path.display())))?;
        Ok(Self { path, keep })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("data and logs are in {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}
