//! What a server's disk holds, made into replicas that can go on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use pigeonhole_core::base::id::ShardId;
use pigeonhole_core::control::SnapshotReference;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_core::state::State;
use pigeonhole_core::zab::log::Restored;
use pigeonhole_storage::disk::SegmentId;
use pigeonhole_storage::recover::{self, RecoverConfig, Recovered, RecoveredShard};
use pigeonhole_storage::scan::{Ending, Unreadable};
use pigeonhole_storage::snapshot::SnapshotName;

use crate::config::ServerConfig;
use crate::exit::Failure;
use crate::home::{self, Home};
use crate::os::{self, MappedFile};
use crate::snapshots::SnapshotDirectory;

/// Reads what the log says. Nothing is written before the next boot's first batch.
pub(crate) fn read_log(home: &Home, config: &ServerConfig) -> Result<Recovered, Failure> {
    settle_segments(&home.log.path)?;
    let (maps, unreadable) = map_segments(&home.log.path)?;
    let files: Vec<(SegmentId, &[u8])> = maps.iter().map(|(id, map)| (*id, map.bytes())).collect();
    let shards: Vec<ShardId> = ShardMap::new(home.meta.shards).shards().collect();
    let config = RecoverConfig { strict_tail: config.strict_tail, unreadable: &unreadable };
    let recovered = recover::recover(config, &files, &shards);
    let recovered = recovered
        .map_err(|error| Failure::data(format_args!("{}: {error}", home.log.path.display())))?;
    for stream in &recovered.streams {
        if let Ending::Torn(place) = stream.ending {
            tracing::warn!(
                "the log ends in a batch that was being written when the server went down, at \
                 {} of {}: cut off, nothing in it was promised",
                place.offset,
                place.segment
            );
        }
    }
    Ok(recovered)
}

/// Whoever was killed may have left writes that no sync followed: they can be read, and a power cut
/// would take them. What this boot promises rests on what it finds, so all of it goes to the disk
/// first; and it is read from there, because what a failed write-back has lost may still be in
/// memory.
fn settle_segments(log: &Path) -> Result<(), Failure> {
    for id in home::segments_in(log)? {
        let path = log.join(id.file_name());
        let failed = |operation, error| Failure::disk(operation, &path, &error);
        let file = File::open(&path).map_err(|error| failed("open", error))?;
        file.sync_data().map_err(|error| failed("fdatasync", error))?;
        os::forget_cached(&file).map_err(|error| failed("fadvise", error))?;
    }
    Ok(())
}

/// The segments in a directory, and what of them the disk cannot read, for which zeros stand.
pub(crate) fn map_segments(log: &Path) -> Result<Segments, Failure> {
    let (mut maps, mut unreadable) = (Vec::new(), Vec::new());
    for id in home::segments_in(log)? {
        let path = log.join(id.file_name());
        let mapped = MappedFile::open(&path, |pages, error| {
            tracing::error!("{} cannot be read at {}: {error}", path.display(), pages.start);
            let (offset, bytes) = (pages.start, pages.end - pages.start);
            unreadable.push(Unreadable { segment: id, offset, bytes });
        });
        maps.push((id, mapped.map_err(|error| Failure::disk("mmap", &path, &error))?));
    }
    Ok((maps, unreadable))
}

type Segments = (Vec<(SegmentId, MappedFile)>, Vec<Unreadable>);

/// Every shard with its state at one of its snapshots, ready to be led or followed. A shard whose
/// past cannot be read whole begins *unknown*, if there is anybody to take it from.
pub(crate) fn restore(
    shards: &mut BTreeMap<ShardId, RecoveredShard>,
    home: &Home,
    config: &ServerConfig,
) -> Result<BTreeMap<ShardId, (State, Restored)>, Failure> {
    let map = ShardMap::new(home.meta.shards);
    let is_alone = config.voters().len() == 1 && config.voters().contains(&config.id);
    let mut restored = BTreeMap::new();
    for (&shard, found) in shards {
        let loaded = load(shard, found, &home.snapshots, map)?;
        let (base, state) = match loaded {
            Some(loaded) => loaded,
            None if is_alone => {
                return Err(Failure::data(format_args!(
                    "no snapshot of shard {shard} can be read: restore the directory from a copy"
                )));
            }
            None => {
                tracing::error!(
                    "no snapshot of shard {shard} can be read: it is taken from the other servers"
                );
                found.forget_unreadable();
                let state = State::with_index_seed(shard, map, index_seed()?);
                (SnapshotReference::default(), state)
            }
        };
        if let Some(unknown) = found.unknown {
            let after = unknown.after;
            if is_alone {
                return Err(Failure::data(format_args!(
                    "records of shard {shard} after {after} cannot be read: `pigeonhole check` \
                     says where; restore the directory from a copy"
                )));
            }
            tracing::error!(
                "records of shard {shard} after {after} cannot be read: they are taken from the \
                 other servers, and until then this server does not count"
            );
        }
        let entries = found.entries_after(&base).to_vec();
        found.entries = Vec::new();
        let past = Restored::new(&found.checkpoint, &base, entries);
        restored.insert(shard, (state, past));
    }
    Ok(restored)
}

/// The newest state from which the log goes on and that can be read.
fn load(
    shard: ShardId,
    found: &RecoveredShard,
    snapshots: &SnapshotDirectory,
    map: ShardMap,
) -> Result<Option<(SnapshotReference, State)>, Failure> {
    for base in [Some(found.base), found.fallback].into_iter().flatten() {
        if base.zxid == 0 {
            return Ok(Some((base, State::with_index_seed(shard, map, index_seed()?))));
        }
        let path = snapshots.path_of(&SnapshotName::new(shard, &base));
        let state = match snapshots.read(shard, &base, index_seed()?) {
            Ok(image) => State::from_image(image, map).map_err(|_| "its parts do not fit".into()),
            Err(unusable) => Err(unusable.to_string()),
        };
        match state {
            Ok(state) => return Ok(Some((base, state))),
            Err(why) => tracing::warn!("cannot use {}: {why}", path.display()),
        }
    }
    Ok(None)
}

/// Drawn for each tree: no client can know beforehand which paths collide in it.
fn index_seed() -> Result<u64, Failure> {
    Ok(u64::try_from(home::random()? >> 64).expect("64 bits"))
}
