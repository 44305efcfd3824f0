//! The receive buffers that the kernel fills and the engine parses in place.
//!
//! One ring of provided buffers serves every connection of a core, so an idle connection costs no
//! buffer at all. The kernel takes buffers from the head; each goes back to the tail as soon as
//! the completion that announced its bytes has been handled.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{IoUring, cqueue};

use super::buffer::{Mapping, Populate};

/// How the memory for received bytes is cut up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveBuffers {
    /// A power of two, at most 32 768.
    pub count: u16,
    pub bytes: u32,
}

/// The buffers and the ring through which they are offered to the kernel.
#[derive(Debug)]
pub(super) struct ReceivePool {
    /// The shared array of buffer descriptors, written here and read by the kernel.
    entries: Mapping,
    memory: Mapping,
    shape: ReceiveBuffers,
    incremental: bool,
    tail: u16,
    /// Where the next bytes of each buffer begin; always zero unless incremental.
    offsets: Vec<u32>,
    /// The buffer behind the completion that the caller is looking at, given back when it is done.
    taken: Option<u16>,
}

/// A stretch of one buffer that holds received bytes and that the kernel is done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReceivedRange {
    buffer: u16,
    offset: u32,
    length: u32,
}

/// A buffer as the kernel reads it; the layout of `struct io_uring_buf`.
#[repr(C)]
struct BufferEntry {
    address: u64,
    bytes: u32,
    buffer: u16,
    /// In the first entry this is the tail of the ring; elsewhere it means nothing.
    tail: AtomicU16,
}

impl ReceivePool {
    /// Maps the memory and registers it with the kernel, all buffers on offer.
    pub(super) fn register(
        io: &IoUring,
        shape: ReceiveBuffers,
        incremental: bool,
    ) -> io::Result<Self> {
        assert!(shape.count.is_power_of_two() && shape.count <= 1 << 15, "{shape:?}");
        assert!(shape.bytes > 0, "{shape:?}");
        let entries =
            Mapping::new(usize::from(shape.count) * size_of::<BufferEntry>(), Populate::Now)?;
        let memory_bytes = usize::from(shape.count) * widen(shape.bytes);
        let mut pool = Self {
            entries,
            memory: Mapping::new(memory_bytes, Populate::Now)?,
            shape,
            incremental,
            tail: 0,
            offsets: vec![0; usize::from(shape.count)],
            taken: None,
        };
        let flags = if incremental { PBUF_RING_INCREMENTAL } else { 0 };
        let address = u64::try_from(pool.entries.address().as_ptr().addr())
            .expect("an address has at most 64 bits");
        // SAFETY: the mapping holds `count` entries and is page aligned. The pool, and with it
        // the mapping, is dropped after the ring (see `Ring`'s `Drop`), or never.
        unsafe {
            io.submitter().register_buf_ring_with_flags(address, shape.count, GROUP, flags)?;
        }
        for buffer in 0..shape.count {
            pool.offer(buffer);
        }
        Ok(pool)
    }

    pub(super) fn shape(&self) -> ReceiveBuffers {
        self.shape
    }

    pub(super) fn is_incremental(&self) -> bool {
        self.incremental
    }

    /// Accounts for one completion: `None` if it carries no buffer, as ends and errors may not.
    pub(super) fn take(&mut self, result: i32, flags: u32) -> Option<ReceivedRange> {
        assert!(self.taken.is_none(), "the previous buffer has not been given back");
        let buffer = cqueue::buffer_select(flags)?;
        assert!(buffer < self.shape.count, "the kernel chose buffer {buffer} of {:?}", self.shape);
        let length = u32::try_from(result).unwrap_or(0);
        let offset = self.offsets[usize::from(buffer)];
        let end = offset + length;
        assert!(end <= self.shape.bytes, "received beyond the end of buffer {buffer}");
        if self.incremental && cqueue::buffer_more(flags) {
            // The kernel goes on filling this buffer behind these bytes.
            self.offsets[usize::from(buffer)] = end;
        } else {
            self.taken = Some(buffer);
        }
        Some(ReceivedRange { buffer, offset, length })
    }

    /// The bytes of a completion; they stay valid until the buffer is given back.
    pub(super) fn bytes(&self, range: ReceivedRange) -> &[u8] {
        let start = usize::from(range.buffer) * widen(self.shape.bytes) + widen(range.offset);
        let end = start + widen(range.length);
        assert!(end <= self.memory.length());
        // SAFETY: the range lies inside the mapping. The kernel has finished writing it and does
        // not touch it again before `give_back`, which needs `&mut self` and so cannot run while
        // this borrow lives. Other parts of the mapping may be written meanwhile, not these.
        unsafe {
            std::slice::from_raw_parts(self.memory.address().as_ptr().add(start), end - start)
        }
    }

    /// Gives the buffer of the completion handled last back to the kernel.
    pub(super) fn give_back(&mut self) {
        if let Some(buffer) = self.taken.take() {
            self.offsets[usize::from(buffer)] = 0;
            self.offer(buffer);
        }
    }

    /// Lets go of the memory without unmapping it, because the kernel may still write to it.
    pub(super) fn leak(self) {
        self.entries.into_static();
        self.memory.into_static();
    }

    fn offer(&mut self, buffer: u16) {
        let mask = self.shape.count - 1;
        let entries: NonNull<BufferEntry> = self.entries.address().cast();
        let address =
            self.memory.address().as_ptr().addr() + usize::from(buffer) * widen(self.shape.bytes);
        let address = u64::try_from(address).expect("an address has at most 64 bits");
        // SAFETY: the masked index is below `count`, so the entry lies in the mapping, which is
        // aligned to a page. The kernel reads an entry only once the tail has moved past it, and
        // at most `count` buffers exist, so it is not reading this one. Only raw places are
        // written: no reference to memory that the kernel shares is made.
        unsafe {
            let entry = entries.as_ptr().add(usize::from(self.tail & mask));
            (&raw mut (*entry).address).write_volatile(address);
            (&raw mut (*entry).bytes).write_volatile(self.shape.bytes);
            (&raw mut (*entry).buffer).write_volatile(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lives in the first entry, in the mapping, suitably aligned, and is
        // accessed by nobody here except through this atomic.
        let tail = unsafe { &(*entries.as_ptr()).tail };
        // Release: the kernel must see the entry before it sees the tail that covers it.
        tail.store(self.tail, Ordering::Release);
    }
}

/// The group number under which receives name the pool; a ring has one.
pub(super) const GROUP: u16 = 0;
/// `IOU_PBUF_RING_INC`: a buffer is filled by many receives until it is full.
const PBUF_RING_INCREMENTAL: u16 = 2;

const _: () = assert!(size_of::<BufferEntry>() == 16);

fn widen(value: u32) -> usize {
    usize::try_from(value).expect("a pointer has at least 32 bits")
}
