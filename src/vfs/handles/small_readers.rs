//! Which programs read large files in small pieces.
//!
//! A file that is not here yet is read fastest past the kernel's page cache: 64 KiB and more at a time cost a
//! fifth less of the processors than through it. But each read is then a request to us, and a program that
//! reads 4 KiB after 4 KiB gets a third of what the page cache would give it. The kernel asks for the way at
//! open, before the first read; so what a program did with its last file decides about its next one.

use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use lru::LruCache;

use crate::clock::Instant;
use crate::lock::{Mutex, rank};
use crate::without::Heuristic;

/// Reads below this length are small: from 32 to 64 KiB on both ways cost the same.
const SMALL_BYTES: u64 = 32 << 10;

/// So many small reads one after another make a small reader. Few enough that the file at hand is no great
/// loss, enough that a header read field by field does not count.
const SMALL_READS: u32 = 64;

/// Programs remembered. Not zero, which the compiler sees.
const PROGRAMS_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// A program that was told from its reads is looked at again after this: an interpreter runs many.
const BELIEVED_FOR: Duration = Duration::from_secs(600);

/// The programs that were seen to read in small pieces of late.
pub struct SmallReaders(Mutex<LruCache<Vec<u8>, Instant>, rank::SmallReaders>);

impl Default for SmallReaders {
    fn default() -> Self {
        SmallReaders(Mutex::new(LruCache::new(PROGRAMS_MAX)))
    }
}

impl SmallReaders {
    /// Whether the process runs a program that reads in small pieces. False where that cannot be known.
    pub fn include(&self, pid: u32) -> bool {
        if self.0.lock().is_empty() || !Heuristic::SmallReaders.is_on() {
            return false;
        }
        // /proc is looked at without the lock: that may have to wait for the process.
        let Some(program) = program_of(pid) else { return false };
        self.0.lock().get(&program).is_some_and(|seen| seen.elapsed() < BELIEVED_FOR)
    }

    fn add(&self, pid: u32) {
        if let Some(program) = program_of(pid) {
            self.0.lock().put(program, Instant::now());
        }
    }

    /// Takes note of a read past the page cache by the process that opened the file.
    pub fn note(&self, pieces: &Pieces, pid: u32, offset: u64, len: u64) {
        if pieces.make_a_small_reader(offset, len) {
            self.add(pid);
        }
    }
}

/// The reads of one open file, as far as they are small and follow one another.
#[derive(Default)]
pub struct Pieces {
    end: AtomicU64,
    run: AtomicU32,
}

impl Pieces {
    /// Whether, with this read, it has just become clear. Threads that share a descriptor may blur it.
    fn make_a_small_reader(&self, offset: u64, len: u64) -> bool {
        let follows = self.end.swap(offset + len, Ordering::Relaxed) == offset;
        if !follows || len >= SMALL_BYTES {
            self.run.store(0, Ordering::Relaxed);
            return false;
        }
        self.run.fetch_add(1, Ordering::Relaxed) + 1 == SMALL_READS
    }
}

/// The path of the process's executable. Only read, never followed: it may lie on this very file system.
fn program_of(pid: u32) -> Option<Vec<u8>> {
    let path = crate::disk::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.into_os_string().into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_reads_one_after_another_are_told_from_others() {
        let me = std::process::id();
        let readers = SmallReaders::default();
        let (random, large, small) = (Pieces::default(), Pieces::default(), Pieces::default());
        for n in 0..1000 {
            readers.note(&random, me, n * 7919 * 4096, 4096);
            readers.note(&large, me, n << 17, 1 << 17);
        }
        assert!(!readers.include(me));
        for n in 0..1000 {
            readers.note(&small, me, n * 4096, 4096);
        }
        assert!(readers.include(me));
        assert!(!readers.include(0));
    }
}
