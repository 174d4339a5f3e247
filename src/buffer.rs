//! Byte buffers of a fixed capacity straight from the kernel, for the bytes of parts and segments.
//!
//! A heap allocator keeps large blocks that were freed (glibc up to tens of MiB an arena), so what is
//! resident would drift away from what [`crate::budget`] hands out. These buffers are anonymous
//! mappings: a page costs memory once it is touched, and dropping the buffer gives all of it back, but
//! for a small bounded store of spare buffers that saves page faults on the streaming path.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytes::Bytes;

use crate::lock::{Mutex, rank};

/// Bytes of dropped buffers that are kept for [`Buffer::recycled`], in all: two parts. (Four times as many made
/// nothing faster.) They belong to no budget. Filling a buffer of 8 MiB costs one CPU second for 20 GiB if its pages are resident,
/// for 6 GiB if huge pages must be had for it, for 1.2 GiB with small pages (measured in a virtual machine,
/// where faults are dear).
const SPARE_BYTES_MAX: usize = 16 << 20;

/// Buffers below this are not worth keeping: their few page faults cost less than the lock.
const SPARE_BYTES_MIN: usize = 256 << 10;

/// Up to here bytes live on the heap. A mapping each would cost two system calls and a page fault for
/// a 4 KiB read, and a gigabyte of them would exceed the kernel's 65,530 mappings of a process.
const HEAP_BYTES_MAX: usize = 128 << 10;

/// Buffers from this capacity on ask for huge pages (the size of one on x86-64 and common arm64). They then
/// cost memory in steps of 2 MiB as they are touched; smaller buffers in steps of 4 KiB.
const HUGE_BYTES: usize = 2 << 20;

static SPARES: Mutex<Spares, rank::Spares> = Mutex::new(Spares::new());

/// Keeps no more than so many bytes of dropped buffers from now on, of [`SPARE_BYTES_MAX`] that are ever kept.
pub fn keep_spares(bytes: u64) {
    SPARES.lock().bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX).min(SPARE_BYTES_MAX);
}

/// A page-aligned block of bytes of fixed length. All of it is initialised memory at any time.
///
/// Invariant: `start` points to a private mapping of `mapped` bytes that belongs to this value alone;
/// `capacity <= mapped`. An empty buffer has no mapping.
pub struct Buffer {
    mapping: Mapping,
    capacity: usize,
}

impl Buffer {
    /// `capacity` bytes of zeros. No page of it costs memory before it is touched.
    ///
    /// # Errors
    /// ENOMEM where the kernel refuses the mapping.
    #[cfg(test)]
    pub fn zeroed(capacity: usize) -> io::Result<Buffer> {
        let mapping = Mapping::new(mapped_bytes(capacity)?)?;
        Ok(Buffer { mapping, capacity })
    }

    /// `capacity` bytes of unspecified content, perhaps those of a buffer dropped earlier: for callers
    /// that write every byte before they show it. Pages of a used buffer are resident already, which
    /// saves their faults.
    ///
    /// # Errors
    /// ENOMEM where the kernel refuses the mapping.
    pub fn recycled(capacity: usize) -> io::Result<Buffer> {
        let mapped = mapped_bytes(capacity)?;
        let spare = SPARES.lock().take(mapped);
        let mapping = match spare {
            Some(mapping) => mapping,
            None => Mapping::new(mapped)?,
        };
        Ok(Buffer { mapping, capacity })
    }

    /// Length in bytes, fixed for the life of the buffer.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping holds at least `capacity` initialised bytes and lives as long as `self`;
        // a shared borrow of `self` keeps writers away.
        unsafe { std::slice::from_raw_parts(self.mapping.start.as_ptr(), self.capacity) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the exclusive borrow of `self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start.as_ptr(), self.capacity) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("capacity", &self.capacity).finish()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mapping = std::mem::replace(&mut self.mapping, Mapping::none());
        let refused = SPARES.lock().keep(mapping);
        drop(refused); // unmapped with the lock released
    }
}

/// Bytes of a fixed length, on the heap where they are few and a [`Buffer`] where they are many.
pub enum Block {
    Heap(Box<[u8]>),
    Mapped(Buffer),
}

impl Block {
    /// `len` bytes of unspecified content, for callers that write every one of them before they show it.
    ///
    /// # Errors
    /// ENOMEM where the kernel refuses the mapping.
    pub fn recycled(len: usize) -> io::Result<Block> {
        Ok(if len <= HEAP_BYTES_MAX {
            Block::Heap(vec![0; len].into_boxed_slice())
        } else {
            Block::Mapped(Buffer::recycled(len)?)
        })
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Block::Heap(bytes) => bytes,
            Block::Mapped(buffer) => buffer,
        }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Block::Heap(bytes) => bytes,
            Block::Mapped(buffer) => buffer,
        }
    }
}

/// `len` zeros that cost no memory: pages that are only read are all the kernel's one page of zeros.
///
/// # Errors
/// ENOMEM where the kernel refuses the mapping.
pub fn zeros(len: u64) -> io::Result<Bytes> {
    let capacity = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mapping = Mapping::new(mapped_bytes(capacity)?)?;
    Ok(Bytes::from_owner(Zeros { mapping, capacity }))
}

/// A mapping that is never written to. Apart from [`Buffer`], which would keep it as a spare.
struct Zeros {
    mapping: Mapping,
    capacity: usize,
}

impl AsRef<[u8]> for Zeros {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the mapping holds at least `capacity` initialised bytes, lives as long as `self`, and is
        // never written to.
        unsafe { std::slice::from_raw_parts(self.mapping.start.as_ptr(), self.capacity) }
    }
}

/// Whole pages that hold `capacity` bytes.
fn mapped_bytes(capacity: usize) -> io::Result<usize> {
    let page = page_bytes();
    capacity
        .checked_next_multiple_of(page)
        .filter(|bytes| isize::try_from(*bytes).is_ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

fn page_bytes() -> usize {
    // SAFETY: sysconf only reads a constant of the system.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(answer).unwrap_or(4096)
}

/// An anonymous private mapping, unmapped on drop; `bytes == 0` means none.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory owned by one value; it has no ties to a thread, and shared access
// goes through `&Buffer`, which only reads.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    const fn none() -> Mapping {
        Mapping { start: NonNull::dangling(), bytes: 0 }
    }

    fn new(bytes: usize) -> io::Result<Mapping> {
        if bytes == 0 {
            return Ok(Mapping::none());
        }
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that
        // exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast::<u8>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mapping = Mapping { start, bytes };
        if bytes >= HUGE_BYTES {
            mapping.ask_for_huge_pages();
        }
        Ok(mapping)
    }

    /// A hint: a kernel without huge pages says EINVAL, and small pages serve as well.
    fn ask_for_huge_pages(&self) {
        // SAFETY: the range is exactly this mapping; the advice does not change its content.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        // SAFETY: the range is exactly the mapping this value owns, and nothing borrows it any more.
        let answer = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        // It fails only for a range that is no mapping, which the invariant excludes, or when splitting
        // a mapping exceeds the map count: then the address space is lost, not the correctness.
        if answer != 0 {
            log::warn!("munmap of {} bytes: {}", self.bytes, io::Error::last_os_error());
        }
    }
}

/// Dropped mappings kept for reuse. Invariant: `bytes` is the sum of their lengths, and after each [`Self::keep`]
/// at most `bytes_max`.
struct Spares {
    mappings: Vec<Mapping>,
    bytes: usize,
    bytes_max: usize,
}

impl Spares {
    const fn new() -> Spares {
        Spares { mappings: Vec::new(), bytes: 0, bytes_max: SPARE_BYTES_MAX }
    }

    /// The spare of exactly `bytes` that was dropped last (its pages are the warmest).
    fn take(&mut self, bytes: usize) -> Option<Mapping> {
        let index = self.mappings.iter().rposition(|mapping| mapping.bytes == bytes)?;
        let mapping = self.mappings.remove(index);
        self.bytes -= mapping.bytes;
        Some(mapping)
    }

    /// Keeps `mapping` for later, or gives it (or the oldest spares that it displaces) back to be dropped.
    fn keep(&mut self, mapping: Mapping) -> Vec<Mapping> {
        if mapping.bytes < SPARE_BYTES_MIN || mapping.bytes > self.bytes_max {
            return vec![mapping];
        }
        let mut displaced = Vec::new();
        while self.bytes + mapping.bytes > self.bytes_max {
            let oldest = self.mappings.remove(0);
            self.bytes -= oldest.bytes;
            displaced.push(oldest);
        }
        self.bytes += mapping.bytes;
        self.mappings.push(mapping);
        displaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zeroed_buffer_is_zero_and_page_aligned() {
        let buffer = Buffer::zeroed(10_000).unwrap();
        assert_eq!(buffer.capacity(), 10_000);
        assert_eq!(buffer.len(), 10_000);
        assert_eq!(buffer.as_ptr() as usize % page_bytes(), 0);
        assert!(buffer.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_zeroed_buffer_is_zero_also_after_others_were_dropped() {
        let bytes = 3 << 20;
        for _ in 0..8 {
            let mut used = Buffer::recycled(bytes).unwrap();
            used.fill(0xA5);
        }
        assert!(Buffer::zeroed(bytes).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_empty_buffer_needs_no_mapping() {
        let buffer = Buffer::zeroed(0).unwrap();
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_impossible_capacity_is_an_error() {
        assert!(Buffer::zeroed(usize::MAX).is_err());
        assert!(Buffer::zeroed(usize::MAX >> 2).is_err());
    }

    #[test]
    fn spares_stay_within_their_bound_and_match_by_size() {
        let mut spares = Spares::new();
        for _ in 0..20 {
            drop(spares.keep(Mapping::new(4 << 20).unwrap()));
            assert!(spares.bytes <= SPARE_BYTES_MAX);
        }
        assert_eq!(spares.bytes, SPARE_BYTES_MAX);
        assert!(spares.take(1 << 20).is_none());
        let taken = spares.take(4 << 20).unwrap();
        assert_eq!(taken.bytes, 4 << 20);
        assert_eq!(spares.bytes, SPARE_BYTES_MAX - (4 << 20));
        // Too small and too large ones come straight back.
        assert_eq!(spares.keep(Mapping::new(4096).unwrap()).len(), 1);
        assert_eq!(spares.keep(Mapping::new(32 << 20).unwrap()).len(), 1);
    }

    #[test]
    fn a_buffer_reaches_the_network_as_bytes_without_a_copy() {
        let mut buffer = Buffer::zeroed(1 << 20).unwrap();
        buffer[5] = 7;
        let address = buffer.as_ptr();
        let bytes = bytes::Bytes::from_owner(buffer);
        assert_eq!(bytes.as_ptr(), address);
        assert_eq!(bytes[5], 7);
    }
}
