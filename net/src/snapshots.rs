//! The snapshot files of a server: where they are, and what is in them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pigeonhole_core::base::id::ShardId;
use pigeonhole_core::control::SnapshotReference;
use pigeonhole_core::state::image::{Image, ImageError, ImageReader};
use pigeonhole_storage::snapshot::{SnapshotError, SnapshotName, SnapshotReader};

use crate::exit::Failure;

/// The directory that holds them; other files in it are left alone.
#[derive(Clone)]
pub(crate) struct SnapshotDirectory {
    pub(crate) path: Arc<Path>,
}

/// Why a snapshot cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    NotReadable(io::Error),
    Framing(SnapshotError),
    Content(ImageError),
    /// It is intact, and not the one that was wanted.
    Another,
}

impl SnapshotDirectory {
    /// Below `dataDir`, as with ZooKeeper.
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self { path: data_dir.join("snapshots").into() }
    }

    /// Creates the directory, and removes what was never published.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        let made = fs::create_dir_all(&self.path);
        made.map_err(|error| Failure::disk("mkdir", &self.path, &error))?;
        for name in self.file_names()? {
            if name.ends_with(".partial") {
                let path = self.path.join(&name);
                fs::remove_file(&path).map_err(|error| Failure::disk("unlink", &path, &error))?;
            }
        }
        Ok(())
    }

    /// The published snapshots.
    pub(crate) fn names(&self) -> Result<Vec<SnapshotName>, Failure> {
        let names = self.file_names()?;
        Ok(names.iter().filter_map(|name| SnapshotName::from_file_name(name)).collect())
    }

    pub(crate) fn path_of(&self, name: &SnapshotName) -> PathBuf {
        self.path.join(name.file_name())
    }

    /// Reads one as it is used: every chunk is verified, and so is the state that they make.
    pub(crate) fn read(
        &self,
        shard: ShardId,
        wanted: &SnapshotReference,
        index_seed: u64,
    ) -> Result<Image, Unusable> {
        let mut image = ImageReader::new(index_seed);
        let path = self.path_of(&SnapshotName::new(shard, wanted));
        let found = File::open(path).map_err(Unusable::NotReadable).and_then(|file| {
            read_chunks(&file, |chunk| image.on_chunk(chunk).map_err(Unusable::Content))
        })?;
        let image = image.finish().map_err(Unusable::Content)?;
        let whose = (image.header.shard, image.header.zxid.0);
        if found != (shard, *wanted) || whose != (shard, wanted.zxid) {
            return Err(Unusable::Another);
        }
        Ok(image)
    }

    fn file_names(&self) -> Result<Vec<String>, Failure> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::disk("readdir", &self.path, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Failure::disk("readdir", &self.path, &error))?;
            // No snapshot has a name that is not UTF-8.
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }
}

/// Reads a snapshot file to its end; what the file says it is.
pub(crate) fn read_chunks(
    mut file: &File,
    mut on_chunk: impl FnMut(&[u8]) -> Result<(), Unusable>,
) -> Result<(ShardId, SnapshotReference), Unusable> {
    let mut reader = SnapshotReader::default();
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let length = file.read(&mut bytes).map_err(Unusable::NotReadable)?;
        if length == 0 {
            return reader.finish().map_err(Unusable::Framing);
        }
        reader.push(&bytes[..length]);
        while let Some(chunk) = reader.next_chunk().map_err(Unusable::Framing)? {
            on_chunk(chunk)?;
        }
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotReadable(error) => error.fmt(f),
            Self::Framing(error) => error.fmt(f),
            Self::Content(error) => write!(f, "the content is damaged: {error:?}"),
            Self::Another => f.write_str("it is another snapshot than its name says"),
        }
    }
}

const READ_BYTES: usize = 256 << 10;
