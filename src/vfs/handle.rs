//! Open files and directories, by the number that the kernel hands back with each request.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::error::{Result, VfsError};
use super::file::OpenMode;
use super::inode::Inode;
use super::small_readers::Pieces;
use crate::namespace::dir_stream::DirStream;
use crate::reader::Reader;

/// Where a handle's reads go.
pub enum Reading {
    /// One version of the object, pinned at open.
    Object(Arc<Reader>),
    /// The inode's draft: what is being written, by this handle or another.
    Draft,
}

/// An open file.
pub struct FileHandle {
    pub inode: Arc<Inode>,
    pub mode: OpenMode,
    /// The kernel reads the cache file itself.
    pub passthrough: bool,
    /// The process that opened it; 0 where it is in another pid namespace.
    pub opener: u32,
    pub reading: Mutex<Reading>,
    /// Where reads come here one by one because we chose so; see [`super::small_readers`].
    pub pieces: Option<Pieces>,
}

/// An open directory.
pub struct DirHandle {
    pub inode: Arc<Inode>,
    pub stream: tokio::sync::Mutex<DirStream>,
}

/// All open files and directories.
#[derive(Default)]
pub struct Handles {
    next: AtomicU64,
    files: RwLock<HashMap<u64, Arc<FileHandle>>>,
    directories: RwLock<HashMap<u64, Arc<DirHandle>>>,
}

impl Handles {
    pub fn add_file(&self, handle: FileHandle) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.files.write().insert(fh, Arc::new(handle));
        fh
    }

    pub fn file(&self, fh: u64) -> Result<Arc<FileHandle>> {
        self.files.read().get(&fh).cloned().ok_or_else(|| VfsError::plain(libc::EBADF))
    }

    pub fn remove(&self, fh: u64) {
        self.files.write().remove(&fh);
    }

    /// The open files of an inode.
    pub fn of(&self, ino: u64) -> Vec<Arc<FileHandle>> {
        self.files.read().values().filter(|handle| handle.inode.ino == ino).cloned().collect()
    }

    pub fn add_directory(&self, handle: DirHandle) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.directories.write().insert(fh, Arc::new(handle));
        fh
    }

    pub fn directory(&self, fh: u64) -> Result<Arc<DirHandle>> {
        self.directories.read().get(&fh).cloned().ok_or_else(|| VfsError::plain(libc::EBADF))
    }

    pub fn remove_directory(&self, fh: u64) {
        self.directories.write().remove(&fh);
    }
}
