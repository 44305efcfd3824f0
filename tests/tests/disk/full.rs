//! A full disk: writes are refused, reads go on, and room is all it takes to recover.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pigeonhole_core::base::limits::SEGMENT_BYTES;
use pigeonhole_tests::caller::Caller;
use pigeonhole_tests::servers::{Servers, run, say_skipped};

use crate::PROGRAM;

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let mut servers = PROGRAM.standalone("full", "");
    let Some(disk) = Disk::over(&servers.data(1), "") else {
        return;
    };
    servers.start_as(1, disk.inside(servers.serve(1)));
    let mut client = servers.client(1);
    client.create_all(paths(10), b"before");
    // The next segment is there, so that the next start has one.
    servers.wait_until(|_| disk.segments_with_room() == 2);
    let filler = disk.files.join("filler");
    fill(&filler);
    servers.wait_until(|it| it.said(1).contains("writes are refused until there is"));
    let refused = client.set_all(paths(10), b"refused");
    assert_eq!(refused, (0, Some(SYSTEM_ERROR)));
    assert!(client.exists("/node-9"), "reads go on");

    // A server that ends meanwhile comes back.
    assert_eq!(servers.terminate(1).code(), Some(0));
    servers.start_as(1, disk.inside(servers.serve(1)));
    servers.wait_until(|it| it.serves(1));
    servers.wait_until(|it| it.said(1).matches("writes are refused until there is").count() == 2);

    // It has used up the segment that was there: the next start says what it lacks.
    assert_eq!(servers.terminate(1).code(), Some(0));
    let (status, said) = run(disk.inside(servers.serve(1)));
    assert_eq!(status.code(), Some(DISK), "{said}");
    assert!(said.contains("to begin a log: a start needs 64 MiB there"), "{said}");
    fs::remove_file(&filler).unwrap();
    servers.start_as(1, disk.inside(servers.serve(1)));
    let mut client = servers.client(1);
    assert!(client.exists("/node-9"), "nothing is lost");
    assert_eq!(client.set_all(paths(10), b"after"), (10, None));

    // This time it is the log itself for which there is no room: of four segments the disk has
    // place for three.
    keep_free(&filler, &disk.files, 100 << 20);
    fill_log(&servers, &mut client);
    fs::remove_file(&filler).unwrap();
    servers.wait_until(|it| it.said(1).contains("the disk has room again"));
    assert_eq!(client.set_all(paths(10), b"at last"), (10, None));
    assert_eq!(servers.terminate(1).code(), Some(0));
}

#[test]
fn a_disk_without_room_for_a_name_is_a_full_one() {
    let mut servers = PROGRAM.standalone("nameless", "");
    let Some(disk) = Disk::over(&servers.data(1), ",nr_inodes=100") else {
        return;
    };
    servers.start_as(1, disk.inside(servers.serve(1)));
    let mut client = servers.client(1);
    client.create_all(paths(10), b"before");
    let fillers = disk.files.join("fillers");
    fs::create_dir(&fillers).unwrap();
    let made = (0..100).take_while(|it| File::create(fillers.join(it.to_string())).is_ok());
    assert!((1..100).contains(&made.count()), "the names are used up");
    fill_log(&servers, &mut client);
    fs::remove_dir_all(&fillers).unwrap();
    servers.wait_until(|it| it.said(1).contains("the disk has room again"));
    assert_eq!(client.set_all(paths(10), b"after"), (10, None));
    assert_eq!(servers.terminate(1).code(), Some(0));
}

/// So many paths, of ten znodes.
fn paths(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("/node-{}", number % 10))
}

/// Writes until the log would need a segment for which there is no room.
fn fill_log(servers: &Servers, client: &mut Caller) {
    let (written, refused) = client.set_all(paths(4000), &[1; 50_000]);
    assert!(written > 0);
    assert_eq!(refused, Some(SYSTEM_ERROR));
    assert!(servers.said(1).contains("no room for another segment"), "{}", servers.said(1));
    assert!(client.exists("/node-9"), "reads go on");
}

/// A small file system over a directory, which only the processes see that are let in. It lasts as
/// long as this does.
struct Disk {
    /// The first of them, which does nothing.
    keeper: Child,
    /// The directory as they see it.
    files: PathBuf,
}

impl Disk {
    /// None, and a word about it, where such a file system cannot be made.
    fn over(directory: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(directory).unwrap();
        let mount = own_mount(directory, options);
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: system calls only, on memory that was made before the fork.
        unsafe { command.pre_exec(move || mount.make()) };
        match command.spawn() {
            Ok(keeper) => {
                let files = format!("/proc/{}/root{}", keeper.id(), directory.display());
                Some(Self { keeper, files: files.into() })
            }
            Err(error) => {
                say_skipped(&format!("cannot mount a small file system here: {error}"));
                None
            }
        }
    }

    /// How many segments have all the room that they may need.
    fn segments_with_room(&self) -> usize {
        let Ok(entries) = fs::read_dir(self.files.join("log")) else {
            return 0;
        };
        let files = entries.map(|entry| entry.unwrap().metadata().unwrap());
        files.filter(|file| file.blocks() * 512 >= SEGMENT_BYTES).count()
    }

    /// Lets a command's process in.
    fn inside(&self, mut command: Command) -> Command {
        let open = |kind| File::open(format!("/proc/{}/ns/{kind}", self.keeper.id())).unwrap();
        let user = (!is_root()).then(|| open("user"));
        let mounts = open("mnt");
        let enter = move || {
            // SAFETY: takes no memory.
            let enter = |it: &File| check(unsafe { libc::setns(it.as_raw_fd(), 0) });
            user.as_ref().map_or(Ok(()), enter)?;
            enter(&mounts)
        };
        // SAFETY: system calls only, on descriptors that were opened before the fork.
        unsafe { command.pre_exec(enter) };
        command
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// What the first process does before it becomes what it is.
struct Mount {
    path: CString,
    options: CString,
    is_root: bool,
}

impl Mount {
    fn make(&self) -> io::Result<()> {
        let namespaces =
            if self.is_root { libc::CLONE_NEWNS } else { libc::CLONE_NEWNS | libc::CLONE_NEWUSER };
        // SAFETY: takes no memory.
        check(unsafe { libc::unshare(namespaces) })?;
        let (root, none, tmpfs) = (c"/".as_ptr(), c"none".as_ptr(), c"tmpfs".as_ptr());
        // SAFETY: every string ends with a zero and outlives the call.
        check(unsafe {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            libc::mount(none, root, std::ptr::null(), private, std::ptr::null())
        })?;
        // SAFETY: as before.
        check(unsafe {
            libc::mount(none, self.path.as_ptr(), tmpfs, 0, self.options.as_ptr().cast())
        })
    }
}

fn own_mount(path: &Path, options: &str) -> Mount {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let options = CString::new(format!("size={DISK_BYTES}{options}")).unwrap();
    Mount { path, options, is_root: is_root() }
}

fn is_root() -> bool {
    // SAFETY: takes no memory.
    unsafe { libc::geteuid() == 0 }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes until there is no room.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[0; 1 << 16]).is_ok() {}
}

/// Writes until so many bytes are free.
fn keep_free(path: &Path, directory: &Path, bytes: u64) {
    let free = pigeonhole::os::room(directory).unwrap().free_bytes;
    let mut file = File::create(path).unwrap();
    let piece = vec![0; 1 << 20];
    for _ in 0..free.saturating_sub(bytes) >> 20 {
        file.write_all(&piece).unwrap();
    }
}

/// What a client hears when there is no room.
const SYSTEM_ERROR: i32 = -1;
/// How a server ends whose disk does not let it go on.
const DISK: i32 = 4;
const DISK_BYTES: u64 = 384 << 20;
