//! The operating system's small services: sockets, limits, processors, files.
//!
//! Every descriptor made here is close-on-exec, and blocking: the ring waits in the kernel by
//! itself, and a non-blocking descriptor would make it answer "try again" instead.
//!
//! | module | one line |
//! |---|---|
//! | `mapped` | a whole file, readable as memory |

mod mapped;

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr;

pub use self::mapped::MappedFile;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How a listening socket is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenOptions {
    /// Lets several sockets of this process share the port. Without it, a second server on the
    /// same port is refused instead of silently taking half of the connections.
    pub reuse_port: bool,
    /// How many connections may wait to be accepted.
    pub backlog: u16,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { reuse_port: false, backlog: 1024 }
    }
}

/// A resource limit; `None` is unlimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceLimit {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The size of a file system, and what of it is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub free_bytes: u64,
    pub bytes: u64,
}

/// What a thread has had of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    pub user: std::time::Duration,
    pub system: std::time::Duration,
    /// First touches of memory, most of them.
    pub page_faults: u64,
    /// How often another thread got the processor though this one had work.
    pub preemptions: u64,
}

/// An address in the form the kernel reads.
pub struct SocketAddress {
    storage: AddressStorage,
    length: libc::socklen_t,
}

#[repr(C)]
union AddressStorage {
    any: libc::sockaddr_storage,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Binds and listens. Accepted connections inherit TCP_NODELAY.
///
/// An IPv6 wildcard serves IPv4 too, as a Java server's does.
pub fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    set_flag(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, true)?;
    if options.reuse_port {
        set_flag(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, true)?;
    }
    if address.is_ipv6() {
        set_flag(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, false)?;
    }
    let name = SocketAddress::from(address);
    // SAFETY: the pointer and the length describe `name`, which outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr(), name.length()) })?;
    // SAFETY: takes no memory.
    check(unsafe { libc::listen(socket.as_raw_fd(), i32::from(options.backlog)) })?;
    Ok(socket)
}

/// A socket to connect to `address` with, TCP_NODELAY set.
pub fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes no memory.
    let descriptor =
        check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the call just returned this descriptor, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    set_nodelay(&socket)?;
    Ok(socket)
}

/// Sends small segments at once instead of waiting for more.
pub fn set_nodelay(socket: &impl AsFd) -> io::Result<()> {
    set_flag(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, true)
}

/// Limits the kernel's own buffer for what is to be sent.
pub fn set_send_buffer_bytes(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)
}

/// Who is at the other end.
pub fn peer_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    named_by(socket, libc::getpeername)
}

/// Where this end is bound.
pub fn local_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    named_by(socket, libc::getsockname)
}

/// The processors that this thread may run on, ascending.
///
/// Ask before pinning anything: a pinned thread, and every thread that it starts, sees only its
/// own processor.
pub fn allowed_processors() -> io::Result<Vec<usize>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the kernel writes at most the given size into the set.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) })?;
    // SAFETY: all bit patterns are valid for the set, and it was zeroed before.
    let set = unsafe { set.assume_init() };
    let limit = usize::try_from(libc::CPU_SETSIZE).expect("a small constant");
    // SAFETY: the index is below the set's size.
    Ok((0..limit).filter(|processor| unsafe { libc::CPU_ISSET(*processor, &set) }).collect())
}

/// Pins this thread to one processor.
pub fn pin_thread(processor: usize) -> io::Result<()> {
    let limit = usize::try_from(libc::CPU_SETSIZE).expect("a small constant");
    if processor >= limit {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the index is below the set's size.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the kernel reads the given size from the set.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) }).map(drop)
}

/// Asks for this thread to be scheduled as `SCHED_BATCH`: woken, it takes a free processor at once,
/// but does not push another thread off the one it is working on.
pub fn schedule_as_batch() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    let schedule = |policy| {
        // SAFETY: the kernel reads the parameters during the call only.
        check(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }).map(drop)
    };
    // The kernel's helpers of a ring are threads of their own, which nobody should wait for. A
    // service manager that restricts real-time scheduling takes the flag for that.
    schedule(libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK).or_else(|_| schedule(libc::SCHED_BATCH))
}

/// Has the kernel give this process pages of the usual size only. A huge one is cleared, and found
/// if need be by moving others, while the thread waits that touched it first: up to 50 ms have been
/// seen, in the middle of a turn.
pub fn avoid_huge_pages() -> io::Result<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) }).map(drop)
}

/// Lets other threads go first where processors are scarce: this one gets about a tenth of what
/// each of them gets.
pub fn step_back() -> io::Result<()> {
    // Linux keeps the priority of each thread; 0 is the calling one.
    // SAFETY: takes no memory.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) }).map(drop)
}

/// Raises the number of files that may be open to its hard limit, and says what it is now.
pub fn raise_open_files() -> io::Result<ResourceLimit> {
    raise(libc::RLIMIT_NOFILE)
}

/// How much memory this process may lock.
pub fn lockable_memory() -> io::Result<ResourceLimit> {
    resource_limit(libc::RLIMIT_MEMLOCK)
}

/// Raises the lockable memory to its hard limit, and says what it is now.
pub fn raise_lockable_memory() -> io::Result<ResourceLimit> {
    raise(libc::RLIMIT_MEMLOCK)
}

/// Opens an existing file for reading and writing past the page cache.
///
/// A file system without direct input and output answers EINVAL.
pub fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)
}

/// Who else may lock the file. An exclusive lock needs a file that can be written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileLock {
    Shared,
    Exclusive,
}

/// Takes the lock on an open file; false if another opening of the file has it.
///
/// The lock belongs to this opening and goes with it, also when the process is killed.
pub fn try_lock(file: &File, kind: FileLock) -> io::Result<bool> {
    // SAFETY: all zeroes is a lock request for the whole file, of a kind that is set below.
    let mut request: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    let kind = match kind {
        FileLock::Shared => libc::F_RDLCK,
        FileLock::Exclusive => libc::F_WRLCK,
    };
    request.l_type = libc::c_short::try_from(kind).expect("a small constant");
    request.l_whence = libc::c_short::try_from(libc::SEEK_SET).expect("a small constant");
    // SAFETY: the kernel reads the structure that it is given.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) }) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Gives a file its full size on the disk, if the file system can. What was never written reads as
/// zeroes.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length =
        libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: takes no memory.
    match check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) }) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(bytes),
        outcome => outcome.map(drop),
    }
}

/// Drops what memory holds of a file and the disk has as well: what is read next comes from the
/// disk.
pub fn forget_cached(file: &File) -> io::Result<()> {
    // SAFETY: takes no memory.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// How much room a file system has, for whoever may not use the superuser's share.
pub fn room(path: &Path) -> io::Result<Room> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statvfs64>::zeroed();
    // SAFETY: the path ends with a zero, and the kernel fills the structure that it is given.
    check(unsafe { libc::statvfs64(path.as_ptr(), found.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, and all bit patterns are valid.
    let found = unsafe { found.assume_init() };
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Room { free_bytes: bytes(found.f_bavail), bytes: bytes(found.f_blocks) })
}

/// Whether an operation has failed because there is no room: nothing else is wrong with the disk.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Gives each of two files the other's name, at once. False if the second does not exist, or the
/// file system cannot: nothing has happened then.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    let one = CString::new(one.as_os_str().as_bytes())?;
    let other = CString::new(other.as_os_str().as_bytes())?;
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both paths end with a zero and outlive the call.
    let exchanged =
        check(unsafe { libc::renameat2(here, one.as_ptr(), here, other.as_ptr(), flags) });
    match exchanged {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINVAL | libc::ENOSYS) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Holds SIGINT and SIGTERM back from this thread and from all that it starts, so that
/// [`wait_for_termination`] gets them.
pub fn hold_termination() -> io::Result<()> {
    let signals = termination_signals();
    // SAFETY: the set is initialized, and the former mask is not asked for.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Whether operations on a socket wait, of everyone who has a descriptor of it.
pub fn set_blocking(socket: &impl AsFd, blocking: bool) -> io::Result<()> {
    let mut non_blocking = libc::c_int::from(!blocking);
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed, and the kernel reads one integer.
    check(unsafe { libc::ioctl(descriptor, libc::FIONBIO, &raw mut non_blocking) }).map(drop)
}

/// Sleeps until the process is asked to end, and says by which signal.
pub fn wait_for_termination() -> io::Result<i32> {
    let signals = termination_signals();
    let mut signal = 0;
    // SAFETY: both pointers are to initialized values that outlive the call.
    let error = unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
    if error == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Becomes readable when a held signal to end waits to be taken with [`wait_for_termination`].
pub(crate) fn watch_termination() -> io::Result<AsyncFd<OwnedFd>> {
    let signals = termination_signals();
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is initialized, and a new descriptor is asked for.
    let descriptor = check(unsafe { libc::signalfd(-1, &raw const signals, flags) })?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // SAFETY: an `OwnedFd` stays open, and the same, for as long as it is.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// The running kernel's major and minor version.
pub fn kernel_version() -> io::Result<(u32, u32)> {
    let mut names = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the kernel fills the structure that it is given.
    check(unsafe { libc::uname(names.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, and all bit patterns are valid.
    let names = unsafe { names.assume_init() };
    // SAFETY: the kernel ends the release with a zero byte inside the array.
    let release = unsafe { CStr::from_ptr(names.release.as_ptr()) };
    parse_version(&release.to_string_lossy()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("kernel release {release:?}"))
    })
}

/// The processor time that this thread has used.
pub fn thread_processor_time() -> io::Result<std::time::Duration> {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the kernel fills the structure that it is given.
    check(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, and all bit patterns are valid.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).expect("processor time is not negative");
    let nanoseconds = u32::try_from(time.tv_nsec).expect("below a thousand million");
    Ok(std::time::Duration::new(seconds, nanoseconds))
}

/// What this thread has used so far.
pub fn thread_usage() -> io::Result<Usage> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure that it is given.
    check(unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, and all bit patterns are valid.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let micros = u64::try_from(time.tv_usec).unwrap_or(0);
        std::time::Duration::from_secs(seconds) + std::time::Duration::from_micros(micros)
    };
    let count = |count: libc::c_long| u64::try_from(count).unwrap_or(0);
    Ok(Usage {
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        page_faults: count(usage.ru_minflt),
        preemptions: count(usage.ru_nivcsw),
    })
}

impl SocketAddress {
    /// What the kernel is given; valid while `self` stays where it is.
    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn length(&self) -> libc::socklen_t {
        self.length
    }

    fn to_address(&self) -> Option<SocketAddr> {
        // SAFETY: the storage was zeroed before anything was written to it, so every field of
        // every variant is initialized, and all bit patterns are valid for integers.
        let (family, v4, v6) =
            unsafe { (self.storage.any.ss_family, self.storage.v4, self.storage.v6) };
        match i32::from(family) {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    fn zeroed() -> Self {
        // SAFETY: all zeroes is valid for each variant: they are plain integers.
        let any = unsafe { MaybeUninit::<libc::sockaddr_storage>::zeroed().assume_init() };
        Self { storage: AddressStorage { any }, length: length_of::<AddressStorage>() }
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        let mut name = Self::zeroed();
        match address {
            SocketAddr::V4(address) => {
                name.storage.v4 = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                name.length = length_of::<libc::sockaddr_in>();
            }
            SocketAddr::V6(address) => {
                name.storage.v6 = libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                name.length = length_of::<libc::sockaddr_in6>();
            }
        }
        name
    }
}

impl std::fmt::Debug for SocketAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.to_address())
    }
}

type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn named_by(socket: &impl AsFd, call: NameCall) -> io::Result<SocketAddr> {
    let mut name = SocketAddress::zeroed();
    let storage = (&raw mut name.storage).cast();
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the storage.
    check(unsafe { call(socket.as_fd().as_raw_fd(), storage, &raw mut name.length) })?;
    name.to_address().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

fn set_flag(socket: &impl AsFd, level: i32, name: i32, value: bool) -> io::Result<()> {
    set_option(socket, level, name, libc::c_int::from(value))
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let address = (&raw const value).cast();
    let length = length_of::<libc::c_int>();
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, address, length) })
        .map(drop)
}

fn resource_limit(resource: libc::__rlimit_resource_t) -> io::Result<ResourceLimit> {
    let limit = raw_limit(resource)?;
    Ok(ResourceLimit { soft: finite(limit.rlim_cur), hard: finite(limit.rlim_max) })
}

fn termination_signals() -> libc::sigset_t {
    let mut signals = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialized before anything is added to it, and both signals exist.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGTERM);
        signals.assume_init()
    }
}

fn raise(resource: libc::__rlimit_resource_t) -> io::Result<ResourceLimit> {
    let mut limit = raw_limit(resource)?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads the structure that it is given.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    resource_limit(resource)
}

fn raw_limit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure that it is given.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok(limit)
}

fn finite(limit: libc::rlim_t) -> Option<u64> {
    (limit != libc::RLIM_INFINITY).then_some(limit)
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn family(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("address families are small numbers")
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("addresses and options are small")
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};

    use super::{
        ListenOptions, SocketAddress, allowed_processors, kernel_version, listen, local_address,
        lockable_memory, parse_version, peer_address, pin_thread, raise_open_files,
    };

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["127.0.0.1:2181", "[::1]:65535", "[fe80::1%7]:1", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddress::from(address).to_address(), Some(address));
        }
    }

    #[test]
    fn a_taken_port_is_refused_and_a_shared_one_is_not() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let first = listen(any, ListenOptions::default()).unwrap();
        let taken = local_address(&first).unwrap();
        let refused = listen(taken, ListenOptions::default()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);

        let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let first = listen(any, shared).unwrap();
        let _second = listen(local_address(&first).unwrap(), shared).unwrap();
    }

    #[test]
    fn an_ipv6_wildcard_serves_ipv4() {
        let listener = listen("[::]:0".parse().unwrap(), ListenOptions::default()).unwrap();
        let port = local_address(&listener).unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(peer_address(&client).unwrap().port(), port);
    }

    #[test]
    fn a_thread_is_pinned_to_what_it_asks_for() {
        std::thread::spawn(|| {
            let allowed = allowed_processors().unwrap();
            let last = *allowed.last().unwrap();
            pin_thread(last).unwrap();
            assert_eq!(allowed_processors().unwrap(), [last]);
            assert!(pin_thread(usize::MAX).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn limits_and_versions_can_be_read() {
        let files = raise_open_files().unwrap();
        assert_eq!(files.soft, files.hard);
        lockable_memory().unwrap();
        assert!(kernel_version().unwrap() >= (5, 0));
        assert_eq!(parse_version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(parse_version("6.1"), Some((6, 1)));
        assert_eq!(parse_version("six"), None);
    }
}
