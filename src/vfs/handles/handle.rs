//! Open files, by the number that the kernel hands back with each request.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::small_readers::Pieces;
use crate::lock::{RwLock, rank};
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::{Inode, Opens};

/// How a file is opened, from open(2)'s flags.
#[derive(Clone, Copy, Debug)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
    pub truncate: bool,
    pub append: bool,
    /// O_DIRECT: the kernel's cache is not wanted.
    pub direct: bool,
    pub exclusive: bool,
}

impl OpenMode {
    pub fn from_flags(flags: i32) -> OpenMode {
        let access = flags & libc::O_ACCMODE;
        OpenMode {
            read: access != libc::O_WRONLY,
            // O_TRUNC writes, whatever else the program may do.
            write: access != libc::O_RDONLY || flags & libc::O_TRUNC != 0,
            truncate: flags & libc::O_TRUNC != 0,
            append: flags & libc::O_APPEND != 0,
            direct: flags & libc::O_DIRECT != 0,
            exclusive: flags & libc::O_EXCL != 0,
        }
    }
}

/// An open file. What it reads is its inode's affair, so that all handles of a file see the same.
pub struct FileHandle {
    pub inode: Arc<Inode>,
    pub mode: OpenMode,
    /// The number by which the kernel knows the file: that of an inode which this one is opened in the place of,
    /// or its own.
    pub asked: u64,
    /// The kernel reads the cache file itself.
    pub passthrough: bool,
    /// Its bytes go past the page cache.
    pub direct: bool,
    /// The process that opened it; 0 where it is in another pid namespace.
    pub opener: u32,
    /// Where reads come here one by one because we chose so; see [`super::small_readers`].
    pub pieces: Option<Pieces>,
}

impl FileHandle {
    /// What it adds to the open handles of its inode.
    pub fn counted(&self) -> Opens {
        Opens {
            all: 1,
            writers: u32::from(self.mode.write),
            readers: u32::from(self.mode.read && !self.passthrough),
            passthroughs: u32::from(self.passthrough),
            elsewhere: u32::from(self.asked != self.inode.ino),
        }
    }
}

#[derive(Default)]
struct Files {
    by_number: HashMap<u64, Arc<FileHandle>>,
    /// Inode and handle, so that those of one inode are found however many there are.
    by_inode: BTreeSet<(u64, u64)>,
}

/// All open files.
#[derive(Default)]
pub struct Handles {
    next: AtomicU64,
    files: RwLock<Files, rank::Files>,
}

impl Handles {
    pub fn add_file(&self, handle: FileHandle) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut files = self.files.write();
        files.by_inode.insert((handle.inode.ino, fh));
        files.by_number.insert(fh, Arc::new(handle));
        fh
    }

    pub fn file(&self, fh: u64) -> Result<Arc<FileHandle>> {
        self.files.read().by_number.get(&fh).cloned().ok_or_else(|| VfsError::plain(libc::EBADF))
    }

    pub fn remove(&self, fh: u64) {
        let mut files = self.files.write();
        if let Some(handle) = files.by_number.remove(&fh) {
            files.by_inode.remove(&(handle.inode.ino, fh));
        }
    }

    /// The open files of an inode.
    pub fn of(&self, ino: u64) -> Vec<Arc<FileHandle>> {
        let files = self.files.read();
        let numbers = files.by_inode.range((ino, 0)..=(ino, u64::MAX));
        numbers.filter_map(|(_, fh)| files.by_number.get(fh)).cloned().collect()
    }
}
