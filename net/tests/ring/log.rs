//! Log writes are on the disk when they complete, and tell when they are not.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use pigeonhole::ring::{Completion, LogBuffer, LogBuffers, PROBE_BYTES, SyncPrimitive, Token};

use super::sockets::pattern;
use super::{LOG, TWO_PRIMITIVES, default_ring, scratch_file, wait_for};

#[test]
fn log_writes_are_on_the_disk_when_they_complete() {
    const LARGE: usize = 256 << 10;
    let (path, file) = scratch_file("log", 4 << 20);
    let mut ring = default_ring();
    let mut buffers = LogBuffers::allocate(2, 2 * LARGE).unwrap();
    let mut offset = 0;
    let mut expected = Vec::new();
    for registered in [false, true] {
        if registered {
            ring.register_log_buffers(&buffers, LARGE).unwrap();
        }
        for primitive in TWO_PRIMITIVES {
            // The last length is beyond what is registered.
            for length in [4096, LARGE, 2 * LARGE] {
                let buffer = buffers.remove(0);
                let id = buffer.id;
                let bytes = pattern(offset + 1, length);
                buffer.bytes[..length].copy_from_slice(&bytes);
                expected.extend(bytes);
                ring.write_log(file.as_fd(), LOG, buffer, offset, length, primitive);
                match wait_for(&mut ring) {
                    Completion::LogWritten { token, buffer, result: Ok(()) } => {
                        assert_eq!((token, buffer.id), (LOG, id));
                        buffers.insert(0, buffer);
                    }
                    other => panic!("{other:?}"),
                }
                offset += u64::try_from(length).unwrap();
            }
        }
    }
    assert_eq!(ring.in_flight(), 0);
    let mut disk = vec![0; expected.len()];
    File::open(&path).unwrap().read_exact_at(&mut disk, 0).unwrap();
    assert!(disk == expected);
    std::fs::remove_file(path).unwrap();
}

/// The kernel would hold the write back until the last of them is through.
#[test]
fn what_is_to_be_sent_has_left_before_the_log_is_written() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let (path, file) = scratch_file("behind-sends", 4096);
    let mut ring = default_ring();
    let buffer = LogBuffers::allocate(1, 4096).unwrap().remove(0);
    ring.send(near.as_fd(), Token { slot: 1, generation: 0 }, b"a proposal".to_vec());
    ring.write_log(file.as_fd(), LOG, buffer, 0, 4096, SyncPrimitive::DataSyncWrite);
    // Nothing but these two has entered the kernel, and the write has not.
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut received = [0; 10];
    far.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"a proposal");
    for _ in 0..2 {
        assert!(matches!(
            wait_for(&mut ring),
            Completion::Sent { .. } | Completion::LogWritten { result: Ok(()), .. }
        ));
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_failed_log_write_says_what_failed_and_returns_the_buffer() {
    let (path, _) = scratch_file("read-only", 4096);
    let read_only = File::open(&path).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut ring = default_ring();
    let mut buffer: LogBuffer = LogBuffers::allocate(1, 4096).unwrap().remove(0);
    for (file, errno) in [(&read_only, libc::EBADF), (&full, libc::ENOSPC)] {
        for primitive in TWO_PRIMITIVES {
            ring.write_log(file.as_fd(), LOG, buffer, 0, 4096, primitive);
            match wait_for(&mut ring) {
                Completion::LogWritten { token, buffer: back, result: Err(failure) } => {
                    assert_eq!(token, LOG);
                    assert_eq!((failure.operation(), failure.errno()), ("write", Some(errno)));
                    buffer = back;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // A pipe takes the write and cannot be synced.
    let (_reader, writer) = std::io::pipe().unwrap();
    ring.write_log(writer.as_fd(), LOG, buffer, 0, 4096, SyncPrimitive::WriteThenSync);
    match wait_for(&mut ring) {
        Completion::LogWritten { result: Err(failure), .. } => {
            assert_eq!((failure.operation(), failure.errno()), ("fdatasync", Some(libc::EINVAL)));
        }
        other => panic!("{other:?}"),
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_probe_times_both_primitives() {
    let (path, file) = scratch_file("probe", usize::try_from(PROBE_BYTES).unwrap());
    let mut ring = default_ring();
    let buffer = LogBuffers::allocate(1, 4096).unwrap().remove(0);
    let (_, probe) = ring.probe_sync_primitive(file.as_fd(), 0, buffer).unwrap();
    println!("{probe}");
    assert!(probe.data_sync_write_micros > 0 && probe.write_then_sync_micros > 0);
    std::fs::remove_file(path).unwrap();
}
