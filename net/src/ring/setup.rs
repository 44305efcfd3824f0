//! Opening a ring on whatever kernel, container and limits this process runs under.
//!
//! What is needed is demanded, with the remedy in the error. What only makes things faster is
//! tried, reported, and done without.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use io_uring::IoUring;

use super::receive::{ReceiveBuffers, ReceivePool};
use crate::os::{self, ResourceLimit};

/// How large a ring is. The default is meant for a core of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingConfig {
    /// How many operations fit between two submissions; more are submitted in the middle.
    pub submission_entries: u32,
    /// How many completions fit; shrunk if the lockable memory does not suffice.
    pub completion_entries: u32,
    /// The receive memory where the kernel packs many receives into one buffer.
    /// `None` uses `whole` everywhere.
    pub incremental: Option<ReceiveBuffers>,
    /// The receive memory where every receive takes a buffer of its own.
    pub whole: ReceiveBuffers,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            submission_entries: 256,
            completion_entries: 4096,
            incremental: Some(ReceiveBuffers { count: 16, bytes: 64 << 10 }),
            whole: ReceiveBuffers { count: 256, bytes: 4 << 10 },
        }
    }
}

/// What was obtained; its `Display` is for the line that a server logs at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingReport {
    pub kernel: (u32, u32),
    pub submission_entries: u32,
    pub completion_entries: u32,
    pub receive_buffers: ReceiveBuffers,
    /// One receive buffer takes many receives.
    pub incremental_buffers: bool,
    pub no_submission_array: bool,
    /// Waiting is not accounted as waiting for a disk.
    pub idle_wait: bool,
    pub lockable_memory: ResourceLimit,
}

/// Why there is no ring, with what to do about it.
#[derive(Debug)]
pub enum RingError {
    KernelTooOld {
        found: (u32, u32),
    },
    /// The kernel was built without io_uring, or a sandbox pretends that it was.
    Missing,
    /// `kernel.io_uring_disabled` is 1 or 2.
    DisabledBySysctl {
        value: u32,
    },
    /// A container's seccomp profile or a security module refuses it.
    Forbidden(io::Error),
    LockableMemory(ResourceLimit),
    Other {
        operation: &'static str,
        error: io::Error,
    },
}

impl RingError {
    /// What to say of an operation that the kernel has refused.
    pub(crate) fn of(operation: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => match disabled_by_sysctl() {
                Some(value) if value > 0 => Self::DisabledBySysctl { value },
                _ => Self::Forbidden(error),
            },
            Some(libc::ENOMEM) => match os::lockable_memory() {
                Ok(limit) => Self::LockableMemory(limit),
                Err(_) => Self::Other { operation, error },
            },
            _ => Self::Other { operation, error },
        }
    }
}

impl fmt::Display for RingReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.kernel;
        let ReceiveBuffers { count, bytes } = self.receive_buffers;
        write!(
            formatter,
            "kernel {major}.{minor}, ring {}/{}, receive buffers {count} x {} KiB",
            self.submission_entries,
            self.completion_entries,
            bytes / 1024
        )?;
        for (name, obtained) in [
            ("incremental", self.incremental_buffers),
            ("no-sqarray", self.no_submission_array),
            ("no-iowait", self.idle_wait),
        ] {
            write!(formatter, ", {}{name}", if obtained { "" } else { "without " })?;
        }
        write!(formatter, ", lockable memory {}", Bytes(self.lockable_memory.soft))
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (floor_major, floor_minor) = KERNEL_MIN;
        match self {
            Self::KernelTooOld { found: (major, minor) } => write!(
                formatter,
                "kernel {major}.{minor} is too old: kernel {floor_major}.{floor_minor} or newer \
                 is needed"
            ),
            Self::Missing => write!(
                formatter,
                "the kernel has no io_uring (ENOSYS): it was built without CONFIG_IO_URING, or a \
                 sandbox hides it; in a container, run with a seccomp profile that allows \
                 io_uring_setup, io_uring_enter and io_uring_register"
            ),
            Self::DisabledBySysctl { value } => write!(
                formatter,
                "io_uring is disabled by kernel.io_uring_disabled={value}: set it to 0 with \
                 `sysctl -w kernel.io_uring_disabled=0`, or, if it is 1, add this user to the \
                 group that kernel.io_uring_group names"
            ),
            Self::Forbidden(error) => write!(
                formatter,
                "io_uring is forbidden here ({error}): in a container, run with a seccomp profile \
                 that allows io_uring_setup, io_uring_enter and io_uring_register"
            ),
            Self::LockableMemory(limit) => write!(
                formatter,
                "not enough lockable memory for io_uring: the limit is {} (RLIMIT_MEMLOCK), \
                 shared by all processes of this user; raise it with `LimitMEMLOCK={}M` in the \
                 unit file, or with `ulimit -l {}`",
                Bytes(limit.hard),
                enough_above(*limit) >> 20,
                enough_above(*limit) >> 10
            ),
            Self::Other { operation, error } => write!(formatter, "{operation}: {error}"),
        }
    }
}

impl std::error::Error for RingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Forbidden(error) | Self::Other { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The parts of a ring that setting up yields.
pub(super) struct Parts {
    pub(super) io: IoUring,
    pub(super) pool: ReceivePool,
    pub(super) report: RingReport,
}

/// Opens a ring with all that this kernel offers and its receive buffers registered.
pub(super) fn open(config: &RingConfig) -> Result<Parts, RingError> {
    let kernel = os::kernel_version().map_err(other("uname"))?;
    if kernel < KERNEL_MIN {
        return Err(RingError::KernelTooOld { found: kernel });
    }
    let mut completion_entries = config.completion_entries;
    let mut raised = false;
    let deadline = Instant::now() + UNCHARGE_LIMIT;
    let (io, pool, no_submission_array) = loop {
        match open_once(config, completion_entries, kernel) {
            Ok(opened) => break opened,
            Err((operation, error)) => match error.raw_os_error() {
                // The soft limit costs nothing to raise, so it goes first; then the completion
                // queue shrinks, which costs throughput under bursts and nothing else.
                Some(libc::ENOMEM) if !raised => {
                    raised = true;
                    // Without success the smaller queue is tried all the same.
                    let _ = os::raise_lockable_memory();
                }
                Some(libc::ENOMEM) if completion_entries / 2 >= config.submission_entries * 2 => {
                    completion_entries /= 2;
                }
                // A ring that was just closed, by this process or by one that was just killed,
                // is uncharged by a kernel worker some time later.
                Some(libc::ENOMEM) if Instant::now() < deadline => wait_for_uncharging(),
                _ => return Err(RingError::of(operation, error)),
            },
        }
    };
    let report = RingReport {
        kernel,
        submission_entries: io.params().sq_entries(),
        completion_entries: io.params().cq_entries(),
        receive_buffers: pool.shape(),
        incremental_buffers: pool.is_incremental(),
        no_submission_array,
        idle_wait: io.params().is_feature_no_iowait(),
        lockable_memory: os::lockable_memory().map_err(other("getrlimit"))?,
    };
    Ok(Parts { io, pool, report })
}

type Attempt<T> = Result<T, (&'static str, io::Error)>;

fn open_once(
    config: &RingConfig,
    completion_entries: u32,
    kernel: (u32, u32),
) -> Attempt<(IoUring, ReceivePool, bool)> {
    let (io, no_submission_array) = match build(config, completion_entries, true) {
        // Kernels before 6.6 do not know the flag.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            build(config, completion_entries, false).map(|io| (io, false))
        }
        outcome => outcome.map(|io| (io, true)),
    }
    .map_err(|error| ("io_uring_setup", error))?;
    let incremental = config.incremental.filter(|_| kernel >= INCREMENTAL_KERNEL_MIN);
    let pool = match incremental.map(|shape| ReceivePool::register(&io, shape, true)) {
        Some(Ok(pool)) => Ok(pool),
        Some(Err(error)) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        Some(Err(_)) | None => ReceivePool::register(&io, config.whole, false),
    }
    .map_err(|error| ("io_uring_register(PBUF_RING)", error))?;
    Ok((io, pool, no_submission_array))
}

fn build(config: &RingConfig, completion_entries: u32, no_array: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_cqsize(completion_entries)
        .setup_clamp()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        // Tells whether an entry into the kernel would find work, so that an idle one is saved.
        .setup_taskrun_flag()
        .setup_submit_all();
    if no_array {
        builder.setup_no_sqarray();
    }
    builder.build(config.submission_entries)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel announces it to nobody; asking again is the only way to know"
)]
fn wait_for_uncharging() {
    std::thread::sleep(UNCHARGE_ROUND);
}

fn disabled_by_sysctl() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    text.trim().parse().ok()
}

fn other(operation: &'static str) -> impl FnOnce(io::Error) -> RingError {
    move |error| RingError::Other { operation, error }
}

/// What a server of a few cores needs, and more than there is.
fn enough_above(limit: ResourceLimit) -> u64 {
    let hard = limit.hard.unwrap_or_default();
    hard.saturating_add(1).checked_next_power_of_two().unwrap_or(hard).max(8 << 20)
}

/// Bytes for a person to read.
struct Bytes(Option<u64>);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => write!(formatter, "unlimited"),
            Some(bytes) => write!(formatter, "{} KiB", bytes / 1024),
        }
    }
}

/// How long to wait for locked memory that the kernel has yet to take off the account.
const UNCHARGE_LIMIT: Duration = Duration::from_millis(500);
const UNCHARGE_ROUND: Duration = Duration::from_millis(5);
/// Before it, deferred task work and multishot receive do not exist together.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// The first kernels that knew incremental buffers miscounted partly used ones.
const INCREMENTAL_KERNEL_MIN: (u32, u32) = (6, 14);

#[cfg(test)]
mod tests {
    use std::io;

    use super::RingError;
    use crate::os::ResourceLimit;

    #[test]
    fn every_refusal_names_its_remedy() {
        let missing = RingError::of("io_uring_setup", io::Error::from_raw_os_error(libc::ENOSYS));
        assert!(missing.to_string().contains("CONFIG_IO_URING"), "{missing}");
        let forbidden = RingError::Forbidden(io::Error::from_raw_os_error(libc::EPERM));
        assert!(forbidden.to_string().contains("seccomp profile"), "{forbidden}");
        let disabled = RingError::DisabledBySysctl { value: 2 };
        assert!(disabled.to_string().contains("sysctl -w kernel.io_uring_disabled=0"));
        let limit = ResourceLimit { soft: Some(65536), hard: Some(65536) };
        let memory = RingError::LockableMemory(limit).to_string();
        assert!(memory.contains("64 KiB") && memory.contains("LimitMEMLOCK=8M"), "{memory}");
        let limit = ResourceLimit { soft: Some(65536), hard: Some(8 << 20) };
        let memory = RingError::LockableMemory(limit).to_string();
        assert!(memory.contains("LimitMEMLOCK=16M") && memory.contains("ulimit -l 16384"));
        let old = RingError::KernelTooOld { found: (5, 15) }.to_string();
        assert!(old.contains("5.15") && old.contains("6.1"), "{old}");
    }
}
