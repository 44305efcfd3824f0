//! A server's data directory: whose it is, and that nobody else uses it.
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | locked by the server that runs on the directory |
//! | `meta` | cluster, server, shards |
//! | `meta.new` | the former one, or an attempt at the next: room for the next |
//! | `myid` | the server's number, written by the operator as for ZooKeeper |
//! | `snapshots/` | the state of the shards, each at one time |
//! | `log/` | the segments, and `owner`, which says whose they are; below `dataLogDir` |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pigeonhole_core::base::id::{ClusterId, DiskId, ServerId};
use pigeonhole_core::peer::formation::Standing;
use pigeonhole_storage::disk::SegmentId;
use pigeonhole_storage::meta::{Formation, LOG_OWNER_FILE_NAME, META_FILE_NAME, Meta};

use crate::config::ServerConfig;
use crate::control::LogDirectory;
use crate::exit::Failure;
use crate::os::{self, FileLock};
use crate::patience::{LastTime, ask_until};
use crate::snapshots::SnapshotDirectory;

/// A data directory that this process has for itself.
pub(crate) struct Home {
    pub(crate) meta: Meta,
    pub(crate) log: LogDirectory,
    pub(crate) snapshots: SnapshotDirectory,
    directory: PathBuf,
    /// They are let go when the process ends.
    _locks: Vec<File>,
}

/// What to do with a directory without data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WhenEmpty {
    /// An empty directory is never taken for an empty cluster: all voters have to find out.
    Form,
    /// Make it a member of this cluster.
    Format(ClusterId),
}

impl Home {
    /// Creates, locks and identifies the directory of a configuration.
    pub(crate) fn open(config: &ServerConfig, when_empty: WhenEmpty) -> Result<Self, Failure> {
        let (locks, log) = claim(config)?;
        let directory = config.data_dir.clone();
        let meta = match read_meta(&directory)? {
            Some(meta) => meta,
            None => new_meta(config, ClusterId::default())?,
        };
        let snapshots = SnapshotDirectory::of(&directory);
        let mut home = Self { meta, log, snapshots, directory, _locks: locks };
        if home.standing() == Standing::Empty {
            check_strangers(&home.directory, &home.log)?;
        } else {
            check(&home.meta, config)?;
            if home.is_formed() && !is_log_of(&home.meta, &home.directory, &home.log.path)? {
                home.own_log()?;
            }
        }
        if let WhenEmpty::Format(cluster) = when_empty
            && !home.is_formed()
        {
            home.set_standing(Standing::Formed(cluster))?;
        }
        home.snapshots.prepare()?;
        Ok(home)
    }

    /// How far the directory has come in becoming a member's.
    pub(crate) fn standing(&self) -> Standing {
        match (self.meta.state, self.meta.cluster) {
            (Formation::Forming, ClusterId(0)) => Standing::Empty,
            (Formation::Forming, cluster) => Standing::Forming(cluster),
            (Formation::Formed, cluster) => Standing::Formed(cluster),
        }
    }

    pub(crate) fn is_formed(&self) -> bool {
        matches!(self.standing(), Standing::Formed(_))
    }

    /// Makes the directory say so, for good.
    pub(crate) fn set_standing(&mut self, standing: Standing) -> Result<(), Failure> {
        assert!(!self.is_formed(), "a member remains one");
        let cluster = standing.cluster();
        assert_ne!(cluster, ClusterId::default(), "zero is nobody's cluster");
        self.meta.cluster = cluster;
        self.meta.state = if matches!(standing, Standing::Formed(_)) {
            Formation::Formed
        } else {
            Formation::Forming
        };
        self.own_log()?;
        write_meta(&self.directory, &self.meta)
    }

    /// Makes an empty directory that of a member whose former disk, if it had one, is lost.
    pub(crate) fn join(&mut self, cluster: ClusterId) -> Result<(), Failure> {
        assert_eq!(self.standing(), Standing::Empty, "whoever has promised something goes on");
        self.meta.is_founder = false;
        self.set_standing(Standing::Formed(cluster))
    }

    /// Makes an empty directory a member of a cluster; a directory with data is left as it is.
    ///
    /// A disk that is not a founder's may have taken the place of one that was lost: what it
    /// promises counts when the other members have said so.
    pub(crate) fn format(
        config: &ServerConfig,
        cluster: ClusterId,
        is_founder: bool,
    ) -> Result<(), Failure> {
        let (_locks, log) = claim(config)?;
        let directory = &config.data_dir;
        if let Some(meta) = read_meta(directory)?
            && meta.state == Formation::Formed
        {
            return Err(Failure::data(format_args!(
                "{} is formatted already, for cluster {}: remove it first if its data may go",
                directory.display(),
                meta.cluster
            )));
        }
        check_strangers(directory, &log)?;
        let state = Formation::Formed;
        let meta = Meta { state, is_founder, ..new_meta(config, cluster)? };
        write_owner(&log.path, &meta)?;
        write_meta(directory, &meta)
    }

    fn own_log(&self) -> Result<(), Failure> {
        write_owner(&self.log.path, &self.meta)
    }

    /// Takes the milliseconds from which this boot counts its session ids: no earlier boot has
    /// used them, even if the clock was put back.
    pub(crate) fn take_session_base(&mut self, wall_ms: i64) -> Result<u64, Failure> {
        assert!(self.is_formed(), "only members have clients");
        let clock = u64::try_from(wall_ms).unwrap_or(0);
        self.meta.session_base_ms = self.meta.next_session_base_ms(clock);
        write_meta(&self.directory, &self.meta)?;
        Ok(self.meta.session_base_ms)
    }
}

/// The identity that a directory has, if it has been formatted.
pub(crate) fn read_meta(directory: &Path) -> Result<Option<Meta>, Failure> {
    let path = directory.join(META_FILE_NAME);
    match fs::read(&path) {
        Ok(bytes) => match Meta::decode(&bytes) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) => Err(Failure::data(format_args!(
                "{}: {error}: restore the directory from a copy; or, if other servers have the \
                 data, empty it, and it takes theirs",
                path.display()
            ))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
            ) =>
        {
            Err(Failure::data(format_args!(
                "{}: {error}: this is no data directory",
                path.display()
            )))
        }
        Err(error) => Err(Failure::disk("read", &path, &error)),
    }
}

/// Where the segments of a `dataLogDir` are.
pub(crate) fn log_path(data_log_dir: &Path) -> PathBuf {
    data_log_dir.join("log")
}

/// The segments in a directory, sorted; other files are passed over.
pub(crate) fn segments_in(log: &Path) -> Result<Vec<SegmentId>, Failure> {
    let entries = match fs::read_dir(log) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::disk("readdir", log, &error)),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| Failure::disk("readdir", log, &error))?.file_name();
        match name.to_str().and_then(SegmentId::from_file_name) {
            Some(segment) => segments.push(segment),
            None if name == LOG_OWNER_FILE_NAME => {}
            None => tracing::warn!("{} is no segment: left alone", log.join(name).display()),
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Whether the directory of the log says that it is that of a member's data; false if nothing says
/// so, as nothing did before there was such a file. Another's log, or none where there was one, is
/// refused: what the server has promised would be forgotten, and nobody would know.
pub(crate) fn is_log_of(meta: &Meta, directory: &Path, log: &Path) -> Result<bool, Failure> {
    let path = log.join(LOG_OWNER_FILE_NAME);
    let (directory, shown) = (directory.display(), log.display());
    match fs::read(&path) {
        Ok(owner) if owner == meta.log_owner().as_bytes() => Ok(true),
        // It was being written.
        Ok(owner) if meta.log_owner().as_bytes().starts_with(&owner) => Ok(false),
        Ok(_) => Err(Failure::data(format_args!(
            "{shown} is the log of another data directory than {directory}: name the right one \
             with dataLogDir; if it is the right one, {} is damaged: remove that file",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Before its first start, a member has no log.
            if segments_in(log)?.is_empty() && meta.session_base_ms > 0 {
                return Err(Failure::data(format_args!(
                    "the log of {directory} is not in {shown}: mount it, or name the right \
                     dataLogDir; if it is lost, remove what is in {directory} but myid, and the \
                     server comes back as one whose disk is new"
                )));
            }
            Ok(false)
        }
        Err(error) => Err(Failure::disk("read", &path, &error)),
    }
}

/// Random bits from the system.
pub(crate) fn random() -> Result<u128, Failure> {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(u128::from_le_bytes(bytes)),
        Err(error) => Err(Failure::environment(format_args!("no random numbers: {error}"))),
    }
}

/// Creates the directories and locks them.
fn claim(config: &ServerConfig) -> Result<(Vec<File>, LogDirectory), Failure> {
    let log = log_path(&config.data_log_dir);
    for directory in [&config.data_dir, &log] {
        let made = fs::create_dir_all(directory);
        made.map_err(|error| Failure::directory("mkdir", directory, &error))?;
    }
    let mut locks = vec![lock_to_write(&config.data_dir)?];
    if config.data_log_dir != config.data_dir {
        locks.push(lock_to_write(&config.data_log_dir)?);
        sync_directory(&config.data_log_dir)?;
    }
    sync_directory(&config.data_dir)?;
    let path: Arc<Path> = log.into();
    Ok((locks, LogDirectory { path, direct: config.direct_io }))
}

/// Keeps servers away from a directory that is only read, such as a copy that nobody can write to.
/// Where nothing was ever locked, no server runs.
pub(crate) fn lock_to_read(directory: &Path) -> Result<Option<File>, Failure> {
    let path = directory.join(LOCK_FILE_NAME);
    match File::open(&path) {
        Ok(file) => lock(directory, file, FileLock::Shared).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::directory("open", &path, &error)),
    }
}

/// Takes the directory's lock, to write.
fn lock_to_write(directory: &Path) -> Result<File, Failure> {
    let path = directory.join(LOCK_FILE_NAME);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| Failure::directory("open", &path, &error))?;
    lock(directory, file, FileLock::Exclusive)
}

/// The lock of a process that was just killed may linger.
fn lock(directory: &Path, file: File, kind: FileLock) -> Result<File, Failure> {
    ask_until(LOCK_TIME_MAX, |LastTime(last)| match os::try_lock(&file, kind) {
        Ok(true) => Some(Ok(())),
        Ok(false) if !last => None,
        Ok(false) => {
            let directory = directory.display();
            let who = format!("another server uses {directory}; stop it, or use another directory");
            Some(Err(Failure::environment(who)))
        }
        Err(error) => Some(Err(Failure::disk("lock", directory, &error))),
    })?;
    Ok(file)
}

/// A directory that is not formatted must not hold anybody's data.
fn check_strangers(directory: &Path, log: &LogDirectory) -> Result<(), Failure> {
    if directory.join("version-2").exists() {
        return Err(Failure::data(format_args!(
            "{} holds the data of a ZooKeeper server, which cannot be read: give another dataDir",
            directory.display()
        )));
    }
    if !segments_in(&log.path)?.is_empty() {
        return Err(Failure::data(format_args!(
            "{} holds a log, but {} has no file {META_FILE_NAME} that says whose it is: restore \
             both from one copy, or move the log away",
            log.path.display(),
            directory.display()
        )));
    }
    Ok(())
}

/// A directory that is not a member's yet, and nobody's if the cluster is zero.
fn new_meta(config: &ServerConfig, cluster: ClusterId) -> Result<Meta, Failure> {
    Ok(Meta {
        cluster,
        state: Formation::Forming,
        server: ServerId(config.id),
        disk: DiskId(random()?),
        // An observer is none: it takes over what the voters have founded.
        is_founder: config.voters().contains(&config.id),
        shards: config.shards,
        session_base_ms: 0,
    })
}

/// Replaces the file as a whole, for good.
///
/// The former one stays, under the other name, and is written over the next time: a server starts
/// on a full disk too.
fn write_meta(directory: &Path, meta: &Meta) -> Result<(), Failure> {
    let path = directory.join(META_FILE_NAME);
    let spare = directory.join(format!("{META_FILE_NAME}.new"));
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&spare);
    let written = opened.and_then(|mut file| {
        let bytes = meta.encode();
        io::Write::write_all(&mut file, &bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()
    });
    written.map_err(|error| Failure::disk("write", &spare, &error))?;
    let renamed = os::exchange(&spare, &path)
        .and_then(|is_done| if is_done { Ok(()) } else { fs::rename(&spare, &path) });
    renamed.map_err(|error| Failure::disk("rename", &path, &error))?;
    sync_directory(directory)
}

/// Makes the directory of the log say whose it is.
fn write_owner(log: &Path, meta: &Meta) -> Result<(), Failure> {
    let path = log.join(LOG_OWNER_FILE_NAME);
    let written = File::create(&path).and_then(|mut file| {
        io::Write::write_all(&mut file, meta.log_owner().as_bytes())?;
        file.sync_all()
    });
    match written {
        Ok(()) => sync_directory(log),
        // An older version's log goes on without, once more.
        Err(error) if os::is_no_room(&error) && meta.session_base_ms > 0 => Ok(()),
        Err(error) => Err(Failure::disk("write", &path, &error)),
    }
}

fn sync_directory(directory: &Path) -> Result<(), Failure> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Failure::disk("fsync", directory, &error))
}

/// Checks that the data is that of the configured server.
fn check(meta: &Meta, config: &ServerConfig) -> Result<(), Failure> {
    let directory = config.data_dir.display();
    if meta.server != ServerId(config.id) {
        return Err(Failure::data(format_args!(
            "{directory} holds the data of server {}, and this is server {}: check myid",
            meta.server, config.id
        )));
    }
    if meta.shards != config.shards {
        return Err(Failure::data(format_args!(
            "{directory} is formatted with {0} shards, and the configuration says {1}: write \
             pigeonhole.shards={0} (of a local cluster: --shards {0})",
            meta.shards, config.shards
        )));
    }
    match config.cluster {
        Some(cluster) if cluster.to_u128() != meta.cluster.0 => Err(Failure::data(format_args!(
            "{directory} belongs to cluster {}, and the configuration says {cluster}: correct \
             pigeonhole.cluster, or give this server's own dataDir",
            meta.cluster
        ))),
        _ => Ok(()),
    }
}

const LOCK_FILE_NAME: &str = "LOCK";
const LOCK_TIME_MAX: Duration = Duration::from_secs(5);
