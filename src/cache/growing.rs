//! Bytes that are read at the front while they are written at the back.
//!
//! This is the one place outside the libc boundary that needs `unsafe`: a reader's reply slices the
//! same memory that the socket's bytes are being copied into, further on. The alternative, a row of
//! small sealed pages, would cost a second copy for each reply that crosses a page.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::buffer::Block;

/// A fixed capacity, of which the first `filled` bytes can be read.
///
/// Invariants: `filled <= capacity`, and it never falls; bytes below `filled` never change again; only
/// [`Growing::write`] touches bytes at or above it.
pub(super) struct Growing {
    start: NonNull<u8>,
    capacity: usize,
    filled: AtomicUsize,
    /// Owns the memory; never looked at through this field again.
    _space: Block,
}

// SAFETY: `start` points into memory that `_space` owns and that moves with it. Shared access reads
// only below `filled`, whose store (Release) comes after the bytes were written and whose load is an
// Acquire; writing above it is left to one thread by the contract of `write`.
unsafe impl Send for Growing {}
// SAFETY: as above.
unsafe impl Sync for Growing {}

impl Growing {
    /// Room for `capacity` bytes, none of them filled. Fails where the machine has no memory.
    pub(super) fn with_capacity(capacity: usize) -> io::Result<Self> {
        let mut space = Block::recycled(capacity)?;
        let start = NonNull::from(&mut space[..]).cast();
        Ok(Growing { start, capacity, filled: AtomicUsize::new(0), _space: space })
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes can be read.
    pub(super) fn filled(&self) -> usize {
        self.filled.load(Ordering::Acquire)
    }

    /// The bytes that can be read.
    pub(super) fn bytes(&self) -> &[u8] {
        let filled = self.filled();
        // SAFETY: the first `filled` bytes are initialised, owned by `_space`, and never written again.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), filled) }
    }

    /// Writes as much of `chunk` as there is room for to `at` (not below `filled`, not beyond the capacity), and says
    /// how much that was. It cannot be read before [`Self::publish`].
    ///
    /// # Safety
    /// No two calls of this and of `publish` for one value may overlap in time.
    pub(super) unsafe fn write(&self, at: usize, chunk: &[u8]) -> usize {
        debug_assert!(at >= self.filled.load(Ordering::Relaxed) && at <= self.capacity);
        let count = chunk.len().min(self.capacity - at);
        // SAFETY: `at + count <= capacity`; no reader looks at or above `filled <= at`; no other
        // writer exists (contract); `chunk` is foreign memory, so the two do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(chunk.as_ptr(), self.start.as_ptr().add(at), count);
        }
        count
    }

    /// The first `filled` bytes, all of them written, can be read from now on.
    ///
    /// # Safety
    /// As for [`Self::write`].
    pub(super) unsafe fn publish(&self, filled: usize) {
        debug_assert!(filled >= self.filled.load(Ordering::Relaxed) && filled <= self.capacity);
        self.filled.store(filled, Ordering::Release);
    }
}
