//! A whole file, readable as memory, whatever the disk has lost of it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::ptr::{self, NonNull};

/// A whole file, readable as memory. Nobody may shorten the file meanwhile.
#[derive(Debug)]
pub struct MappedFile {
    address: NonNull<u8>,
    length: usize,
}

impl MappedFile {
    /// Maps what the file holds now. What the disk cannot read is zeros, and is told with its
    /// place: touching it in a mapping of the file would end the process without a word.
    pub fn open(
        path: &Path,
        mut on_damage: impl FnMut(Range<u64>, &io::Error),
    ) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = usize::try_from(file.metadata()?.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        if length == 0 {
            return Ok(Self { address: NonNull::dangling(), length });
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that
        // exists already, and keeps the file alive by itself.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).expect("the kernel never maps address zero");
        let mut mapped = Self { address, length };
        let read = |bytes: &mut [u8], offset| file.read_exact_at(bytes, offset);
        let page_bytes = page_bytes();
        for (offset, error) in unreadable_pages(length as u64, page_bytes, read)? {
            on_damage(offset..offset + page_bytes as u64, &error);
            let offset = usize::try_from(offset).expect("it is below the length");
            mapped.blank_page(offset, page_bytes)?;
        }
        Ok(mapped)
    }

    /// Puts a page of zeros in the place of the file's.
    fn blank_page(&mut self, offset: usize, page_bytes: usize) -> io::Result<()> {
        assert!(offset < self.length && offset.is_multiple_of(page_bytes), "a page of the file");
        // SAFETY: the page is part of the mapping, which `self` owns and nobody else looks at while
        // it is borrowed mutably; no mapping ends within a page.
        let address = unsafe {
            libc::mmap(
                self.address.as_ptr().add(offset).cast(),
                page_bytes,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// What the file holds.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `length` readable bytes for as long as `self` lives; a length of
        // zero goes with a dangling address, which is allowed. The data directory's lock keeps
        // other servers from changing the file.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.length) }
    }
}

/// The pages of a file of so many bytes that its disk cannot read.
fn unreadable_pages(
    length: u64,
    page_bytes: usize,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<Vec<(u64, io::Error)>> {
    let mut buffer = vec![0; READ_AT_ONCE_BYTES];
    let mut unreadable = Vec::new();
    let mut at = 0;
    while at < length {
        let piece = (length - at).min(READ_AT_ONCE_BYTES as u64);
        let end = at + piece;
        let bytes = &mut buffer[..usize::try_from(piece).expect("it fits the buffer")];
        match read(bytes, at) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                for (page, bytes) in (at..).step_by(page_bytes).zip(bytes.chunks_mut(page_bytes)) {
                    match read(bytes, page) {
                        Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                            unreadable.push((page, error));
                        }
                        outcome => outcome?,
                    }
                }
            }
            outcome => outcome?,
        }
        at = end;
    }
    Ok(unreadable)
}

fn page_bytes() -> usize {
    // SAFETY: takes no memory.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every system has pages")
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if self.length == 0 {
            return;
        }
        // SAFETY: the range was mapped by `open` and is owned by `self` alone.
        let result = unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
        assert_eq!(result, 0, "unmapping an owned range cannot fail");
    }
}

const READ_AT_ONCE_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::{MappedFile, page_bytes, unreadable_pages};

    #[test]
    fn what_the_disk_has_lost_is_found_page_by_page() {
        let bad = [(1_u64 << 20) + 8192, (1 << 20) + 12_288, (3 << 20) + 4096];
        let read = |bytes: &mut [u8], at: u64| {
            let is_hit = bad.iter().any(|&bad| (at..at + bytes.len() as u64).contains(&bad));
            if is_hit { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
        };
        let length = (3 << 20) + 5000;
        let found: Vec<u64> =
            unreadable_pages(length, 4096, read).unwrap().iter().map(|(at, _)| *at).collect();
        assert_eq!(found, bad);
        let gone = |_: &mut [u8], _| Err(io::Error::from(ErrorKind::UnexpectedEof));
        assert!(unreadable_pages(length, 4096, gone).is_err(), "anything else is no damage");
    }

    #[test]
    fn a_lost_page_reads_as_zeros_and_the_others_as_they_are() {
        let page = page_bytes();
        let path = std::env::temp_dir().join(format!("pigeonhole-mapped-{}", std::process::id()));
        std::fs::write(&path, vec![7; 3 * page + 5]).unwrap();
        let mut mapped = MappedFile::open(&path, |_, error| panic!("{error}")).unwrap();
        std::fs::remove_file(&path).unwrap();
        for lost in [1, 3] {
            mapped.blank_page(lost * page, page).unwrap();
        }
        let value = |at: usize| if (at / page) % 2 == 1 { 0 } else { 7 };
        assert!(mapped.bytes().iter().enumerate().all(|(at, &byte)| byte == value(at)));
    }
}
