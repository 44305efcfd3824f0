//! A full disk: writes are refused, reads go on, and room is all it takes to recover.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::PROGRAM;

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let mut servers = PROGRAM.standalone("full", "");
    let data = servers.data(1);
    fs::create_dir_all(&data).unwrap();
    if let Err(error) = try_mount(&data) {
        eprintln!("SKIPPED: cannot mount a small file system here: {error}");
        return;
    }
    let (mut command, mount) = (servers.serve(1), own_mount(&data));
    // SAFETY: system calls only, on memory that was made before the fork.
    unsafe { command.pre_exec(move || mount.make()) };
    servers.start_as(1, command);
    let mut client = servers.client(1);
    let path = |number: usize| format!("/node-{}", number % 10);
    client.create_all((0..10).map(path), b"before");
    // The server's file system is seen through its process.
    let inside = format!("/proc/{}/root{}", servers.process_id(1), data.display());
    let filler = Path::new(&inside).join("filler");
    fill(&filler);
    servers.wait_until(|it| it.said(1).contains("writes are refused until there is"));
    let refused = client.set_all((0..10).map(path), b"refused");
    assert_eq!(refused, (0, Some(SYSTEM_ERROR)));
    assert!(client.exists("/node-9"), "reads go on");
    fs::remove_file(&filler).unwrap();
    servers.wait_until(|it| it.said(1).contains("the disk has room again"));
    assert_eq!(client.set_all((0..10).map(path), b"after"), (10, None));

    // This time it is the log itself for which there is no room: of four segments the disk has
    // place for three.
    keep_free(&filler, &inside, 100 << 20);
    let (written, refused) = client.set_all((0..4000).map(path), &[1; 50_000]);
    assert!(written > 0);
    assert_eq!(refused, Some(SYSTEM_ERROR));
    assert!(servers.said(1).contains("no room for another segment"), "{}", servers.said(1));
    assert!(client.exists("/node-9"), "reads go on");
    fs::remove_file(&filler).unwrap();
    servers.wait_until(|it| it.said(1).matches("the disk has room again").count() == 2);
    assert_eq!(client.set_all((0..10).map(path), b"at last"), (10, None));
    assert_eq!(servers.terminate(1).code(), Some(0));
}

/// A small file system over a directory, which only one process and its children see.
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

fn own_mount(path: &Path) -> Mount {
    // SAFETY: takes no memory.
    let is_root = unsafe { libc::geteuid() } == 0;
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    Mount { path, options: CString::new(format!("size={DISK_BYTES}")).unwrap(), is_root }
}

/// Whether such a file system can be made: in a child, which has no other purpose.
fn try_mount(path: &Path) -> io::Result<()> {
    let mount = own_mount(path);
    let mut command = std::process::Command::new("/bin/true");
    // SAFETY: system calls only, on memory that was made before the fork.
    unsafe { command.pre_exec(move || mount.make()) };
    command.status().map(drop)
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
fn keep_free(path: &Path, inside: &str, bytes: u64) {
    let free = pigeonhole::os::room(Path::new(inside)).unwrap().free_bytes;
    let mut file = File::create(path).unwrap();
    let piece = vec![0; 1 << 20];
    for _ in 0..free.saturating_sub(bytes) >> 20 {
        file.write_all(&piece).unwrap();
    }
}

/// What a client hears when there is no room.
const SYSTEM_ERROR: i32 = -1;
const DISK_BYTES: u64 = 384 << 20;
