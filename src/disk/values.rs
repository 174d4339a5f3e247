//! How a file is opened, and what stat(2) says of one: plain values of the disk and of its model.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// How a file is opened: as std's of the same name.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) create: bool,
    pub(super) create_new: bool,
    pub(super) truncate: bool,
    pub(super) mode: u32,
    pub(super) flags: i32,
}

impl OpenOptions {
    #[allow(clippy::new_without_default, reason = "as std's")]
    pub fn new() -> OpenOptions {
        let (read, write, create, create_new, truncate) = (false, false, false, false, false);
        OpenOptions { read, write, create, create_new, truncate, mode: 0o666, flags: 0 }
    }

    /// What they make is for this user alone; a symbolic link in the last step is not followed.
    pub fn private() -> OpenOptions {
        OpenOptions { mode: 0o600, flags: libc::O_NOFOLLOW, ..OpenOptions::new() }
    }

    pub fn read(&mut self, read: bool) -> &mut OpenOptions {
        self.read = read;
        self
    }

    pub fn write(&mut self, write: bool) -> &mut OpenOptions {
        self.write = write;
        self
    }

    pub fn create(&mut self, create: bool) -> &mut OpenOptions {
        self.create = create;
        self
    }

    pub fn create_new(&mut self, create_new: bool) -> &mut OpenOptions {
        self.create_new = create_new;
        self
    }

    pub fn truncate(&mut self, truncate: bool) -> &mut OpenOptions {
        self.truncate = truncate;
        self
    }

    pub fn mode(&mut self, mode: u32) -> &mut OpenOptions {
        self.mode = mode;
        self
    }

    /// Flags of open(2) besides.
    pub fn custom_flags(&mut self, flags: i32) -> &mut OpenOptions {
        self.flags |= flags;
        self
    }
}

/// What stat(2) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub(super) mode: u32,
    pub(super) len: u64,
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) nlink: u64,
    /// The time of the last change: seconds, and nanoseconds.
    pub(super) ctime: (i64, i64),
}

impl From<fs::Metadata> for Metadata {
    #[inline]
    fn from(found: fs::Metadata) -> Metadata {
        Metadata {
            mode: found.mode(),
            len: found.len(),
            dev: found.dev(),
            ino: found.ino(),
            nlink: found.nlink(),
            ctime: (found.ctime(), found.ctime_nsec()),
        }
    }
}

#[allow(clippy::len_without_is_empty, reason = "as std's")]
impl Metadata {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn dev(&self) -> u64 {
        self.dev
    }

    pub fn ino(&self) -> u64 {
        self.ino
    }

    pub fn nlink(&self) -> u64 {
        self.nlink
    }

    /// Seconds, and nanoseconds.
    pub fn ctime(&self) -> (i64, i64) {
        self.ctime
    }

    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
}
