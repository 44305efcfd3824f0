//! Page-aligned memory: what the ring maps for received bytes, and the log's write buffers.

use std::io;
use std::ptr::{self, NonNull};

/// A buffer for log writes: page aligned, and valid for as long as the process lives.
///
/// It moves into the ring with a write and comes back with the write's completion, so nobody can
/// change bytes that the disk is reading.
#[derive(Debug)]
pub struct LogBuffer {
    pub id: u32,
    pub bytes: &'static mut [u8],
}

/// Where log buffers come from.
#[derive(Debug)]
pub struct LogBuffers;

impl LogBuffers {
    /// Maps `count` buffers of `bytes` each, rounded up to whole pages; ids count from zero.
    ///
    /// The memory is given out for good: a process needs two buffers a core for its whole life,
    /// and only memory that is never unmapped may be lent to the kernel behind a `'static`
    /// reference. Pages that are never touched cost nothing.
    pub fn allocate(count: u32, bytes: usize) -> io::Result<Vec<LogBuffer>> {
        (0..count)
            .map(|id| {
                let mapping = Mapping::new(bytes, Populate::OnTouch)?;
                Ok(LogBuffer { id, bytes: mapping.into_static() })
            })
            .collect()
    }
}

/// An anonymous private mapping, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

/// Whether the pages of a mapping exist at once, or as they are touched.
///
/// First touch costs microseconds a page, which must not happen on the request path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Populate {
    Now,
    OnTouch,
}

impl Mapping {
    pub(super) fn new(bytes: usize, populate: Populate) -> io::Result<Self> {
        assert!(bytes > 0, "an empty mapping has no address");
        let length = bytes.next_multiple_of(PAGE_BYTES);
        let flags = libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | if populate == Populate::Now { libc::MAP_POPULATE } else { 0 };
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
        // that exists already.
        let address = unsafe {
            libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).expect("the kernel never maps address zero");
        Ok(Self { address, length })
    }

    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Gives the memory away for the rest of the process's life.
    pub(super) fn into_static(self) -> &'static mut [u8] {
        let mapping = std::mem::ManuallyDrop::new(self);
        // SAFETY: the mapping is `length` readable, writable, zeroed bytes; `self` was consumed
        // without unmapping, so this is the only reference to them and they stay mapped for good.
        unsafe { std::slice::from_raw_parts_mut(mapping.address.as_ptr(), mapping.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is owned by `self` alone.
        let result = unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
        assert_eq!(result, 0, "unmapping an owned range cannot fail");
    }
}

/// The unit in which memory is pinned and mapped. Larger pages only make the rounding coarser.
const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::{LogBuffers, PAGE_BYTES};

    #[test]
    fn log_buffers_are_whole_zeroed_pages_with_ids_in_order() {
        let buffers = LogBuffers::allocate(3, PAGE_BYTES + 1).unwrap();
        assert_eq!(buffers.iter().map(|buffer| buffer.id).collect::<Vec<_>>(), [0, 1, 2]);
        for buffer in &buffers {
            assert_eq!(buffer.bytes.len(), 2 * PAGE_BYTES);
            assert_eq!(buffer.bytes.as_ptr().addr() % PAGE_BYTES, 0);
            assert!(buffer.bytes.iter().all(|byte| *byte == 0));
        }
    }
}
