//! `pigeonhole check DIR [--log DIR]`: what a stopped server's disk holds, and whether it is whole.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use pigeonhole_core::base::id::ShardId;
use pigeonhole_core::shard::ShardMap;
use pigeonhole_storage::disk::SegmentId;
use pigeonhole_storage::meta::{Formation, Meta};
use pigeonhole_storage::recover::{self, RecoverConfig, Recovered, StreamReport};
use pigeonhole_storage::scan::Ending;
use pigeonhole_storage::snapshot::SnapshotName;

use crate::exit::Failure;
use crate::home::{is_log_of, lock_to_read, log_path, read_meta};
use crate::recovery;
use crate::snapshots::{SnapshotDirectory, Unusable};

/// A snapshot that a shard's log speaks of.
struct Verdict {
    name: SnapshotName,
    /// How many znodes it has, if it can be used.
    znodes: Result<usize, Unusable>,
}

/// Reads log and snapshots as a start would, prints what it found, and fails if anything is
/// missing.
pub(crate) fn check(directory: &Path, data_log_dir: Option<&Path>) -> Result<(), Failure> {
    let Some(meta) = read_meta(directory)? else {
        return Err(Failure::data(format_args!(
            "{} is no data directory: it has no file meta; name the one of a single server, of a \
             local cluster for example pigeonhole-data/replica-1",
            directory.display()
        )));
    };
    // A log that is being written to would look torn.
    let _lock = lock_to_read(directory)?;
    let is_other = |log: &&Path| log.canonicalize().ok() != directory.canonicalize().ok();
    let _log_lock = data_log_dir.filter(is_other).map(lock_to_read).transpose()?;
    let log = log_path(data_log_dir.unwrap_or(directory));
    if meta.state == Formation::Formed {
        is_log_of(&meta, directory, &log).map_err(|failure| match data_log_dir {
            Some(_) => failure,
            None => Failure { text: failure.text + NAME_THE_LOG, ..failure },
        })?;
    }
    let (maps, unreadable) = recovery::map_segments(&log)?;
    let files: Vec<(SegmentId, &[u8])> = maps.iter().map(|(id, map)| (*id, map.bytes())).collect();
    let shards: Vec<ShardId> = ShardMap::new(meta.shards).shards().collect();
    let config = RecoverConfig { unreadable: &unreadable, ..RecoverConfig::default() };
    let recovered = recover::recover(config, &files, &shards)
        .map_err(|error| Failure::data(format_args!("{}: {error}", log.display())))?;
    let verdicts = verify(&recovered, &SnapshotDirectory::of(directory));
    let text = summary(&meta, files.len(), &recovered, &verdicts);
    let printed = std::io::stdout().write_all(text.as_bytes());
    printed.map_err(|error| Failure::environment(format_args!("standard output: {error}")))?;
    let unknown = recovered.shards.values().filter(|shard| shard.unknown.is_some()).count();
    let unusable = verdicts.iter().filter(|verdict| verdict.znodes.is_err()).count();
    if unknown > 0 {
        return Err(Failure::data(format_args!("records of {unknown} shards cannot be read")));
    }
    if unusable > 0 {
        return Err(Failure::data(format_args!("{unusable} snapshots cannot be used")));
    }
    Ok(())
}

/// Reads every snapshot that the log speaks of.
fn verify(recovered: &Recovered, snapshots: &SnapshotDirectory) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (&shard, found) in &recovered.shards {
        let checkpoint = &found.checkpoint;
        let mut references = vec![checkpoint.snapshot_before, checkpoint.snapshot];
        references.dedup();
        for reference in references.iter().filter(|reference| reference.zxid != 0) {
            let image = snapshots.read(shard, reference, 0);
            let name = SnapshotName::new(shard, reference);
            verdicts.push(Verdict { name, znodes: image.map(|image| image.tree.len()) });
        }
    }
    verdicts
}

fn summary(meta: &Meta, files: usize, recovered: &Recovered, verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    let written = (|| {
        writeln!(out, "cluster {}, server {}, {} shards", meta.cluster, meta.server, meta.shards)?;
        writeln!(out, "{files} segments, {} streams", recovered.streams.len())?;
        recovered.streams.iter().try_for_each(|stream| put_stream(&mut out, stream))?;
        for (shard, found) in &recovered.shards {
            let checkpoint = &found.checkpoint;
            write!(
                out,
                "shard {shard}: epochs {}/{}, committed {}, tail {}, {} entries",
                checkpoint.accepted_epoch(),
                checkpoint.current_epoch(),
                checkpoint.committed_zxid(),
                checkpoint.tail_zxid(),
                found.entries.len()
            )?;
            match found.unknown {
                None => writeln!(out, ", whole")?,
                Some(unknown) => writeln!(out, ", UNKNOWN after {}", unknown.after)?,
            }
            let of_shard = verdicts.iter().filter(|verdict| verdict.name.shard == *shard);
            of_shard.into_iter().try_for_each(|verdict| put_verdict(&mut out, verdict))?;
        }
        std::fmt::Result::Ok(())
    })();
    written.expect("writing to a string cannot fail");
    out
}

fn put_verdict(out: &mut String, verdict: &Verdict) -> std::fmt::Result {
    let (zxid, file) = (verdict.name.zxid, verdict.name.file_name());
    match &verdict.znodes {
        Ok(znodes) => writeln!(out, "  snapshot at {zxid}: {znodes} znodes, whole"),
        Err(why) => writeln!(out, "  snapshot at {zxid}: NOT USABLE: {file}: {why}"),
    }
}

fn put_stream(out: &mut String, stream: &StreamReport) -> std::fmt::Result {
    let end = &stream.end;
    write!(out, "stream of boot {}, core {}: {} batches, ", end.boot, end.core, end.batch)?;
    match stream.ending {
        Ending::Clean => writeln!(out, "ends clean")?,
        Ending::Sealed => writeln!(out, "ends as a later boot has sealed it")?,
        Ending::Torn(place) => {
            writeln!(out, "ends torn at {} of {}: cut off", place.offset, place.segment)?;
        }
        Ending::Lost(place) => {
            writeln!(out, "NOT READABLE from {} of {}", place.offset, place.segment)?;
        }
    }
    for place in &stream.damages {
        writeln!(out, "  NOT READABLE at {} of {}", place.offset, place.segment)?;
    }
    Ok(())
}

const NAME_THE_LOG: &str = " (of a server with a dataLogDir, check it with --log)";
