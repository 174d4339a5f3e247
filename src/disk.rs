//! The local disk. The files of a mount (journal, staging, cache, names, attributes, and the folders that they are in) are
//! opened, named and synced through here, so that a simulation can own them, and a test take the power away.
//!
//! Calls are std's, by std's names, with std's errors.
//!
//! Relied upon: what [`File::sync_data`] has returned for survives the power, with the file's length; a name does when
//! its directory was synced ([`sync_dir`]) after it was made, moved or removed; whatever else was done may be there, partly,
//! in any order, or not at all.
//!
//! Some of the kernel's own has no model: descriptors for the kernel or for calls beside these ([`File::descriptor`]),
//! O_DIRECT, O_TMPFILE, statfs(2), memory mappings, the files of /proc and /sys. Those who ask for it of a model are refused, as
//! by a file system that does not have it, and go on without. Not here at all: the configuration, the log and pipes of `cli`,
//! the sockets of `control`, the embedded store; nor the owners and permissions of
//! directories, which `private` looks at.

#![allow(clippy::disallowed_methods, reason = "the one place that asks the file system")]

use std::ffi::OsString;
use std::fs::{self, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An open file, or an open directory.
#[derive(Debug)]
pub struct File(fs::File);

impl From<fs::File> for File {
    fn from(file: fs::File) -> File {
        File(file)
    }
}

impl File {
    /// Opens what is there, to be read.
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(path)
    }

    pub fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }

    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// Has the disk keep room for the range; the length stays.
    ///
    /// # Errors
    /// `StorageFull`; `Unsupported` where the file system cannot.
    pub fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.0.allocate(at, len)
    }

    /// Makes zeros of a range, whose room is free; the length stays.
    ///
    /// # Errors
    /// `Unsupported` where the file system cannot.
    pub fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.0.punch(at, len)
    }

    /// fdatasync(2).
    pub fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// fsync(2).
    pub fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    pub fn metadata(&self) -> io::Result<Metadata> {
        Ok(self.0.metadata()?.into())
    }

    pub fn try_clone(&self) -> io::Result<File> {
        Ok(self.0.try_clone()?.into())
    }

    pub fn try_lock(&self) -> Result<(), TryLockError> {
        self.0.try_lock()
    }

    pub fn try_lock_shared(&self) -> Result<(), TryLockError> {
        self.0.try_lock_shared()
    }

    /// For the kernel, and for calls that are not here. A model's file has none.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

impl Read for &File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(bytes)
    }
}

impl Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self).read(bytes)
    }
}

impl Seek for &File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&self.0).seek(to)
    }
}

/// What std's file has no method for.
trait Allocate {
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;
    fn punch(&self, at: u64, len: u64) -> io::Result<()>;
}

impl Allocate for fs::File {
    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        fallocate(self, libc::FALLOC_FL_KEEP_SIZE, at, len)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        fallocate(self, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, at, len)
    }
}

fn fallocate(file: &fs::File, mode: libc::c_int, at: u64, len: u64) -> io::Result<()> {
    let (Ok(at), Ok(len)) = (i64::try_from(at), i64::try_from(len)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: the descriptor is open for the length of the call; no memory is passed.
    let answer = unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How a file is opened: as std's of the same name.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    create: bool,
    create_new: bool,
    truncate: bool,
    mode: u32,
    flags: i32,
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

    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let mut options = fs::OpenOptions::new();
        options.read(self.read).write(self.write).create(self.create).create_new(self.create_new);
        options.truncate(self.truncate).mode(self.mode).custom_flags(self.flags);
        Ok(options.open(path)?.into())
    }
}

/// What stat(2) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    mode: u32,
    len: u64,
    dev: u64,
    ino: u64,
    nlink: u64,
    /// The time of the last change: seconds, and nanoseconds.
    ctime: (i64, i64),
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

pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let path = path.as_ref();
    Ok(fs::metadata(path)?.into())
}

/// Of a symbolic link itself.
pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let path = path.as_ref();
    Ok(fs::symlink_metadata(path)?.into())
}

pub fn exists(path: impl AsRef<Path>) -> bool {
    metadata(path).is_ok()
}

pub fn is_file(path: impl AsRef<Path>) -> bool {
    metadata(path).is_ok_and(|found| found.is_file())
}

/// The names in a directory, in no order.
pub fn names_in(folder: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
    let folder = folder.as_ref();
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

pub fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    fs::create_dir(path)
}

/// Makes what is missing of it.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path)
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    fs::rename(from, to)
}

pub fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    fs::hard_link(from, to)
}

pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    fs::remove_file(path)
}

pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    fs::remove_dir_all(path)
}

/// Opens a directory itself: no symbolic link, no file.
pub fn open_dir(folder: impl AsRef<Path>) -> io::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(folder)
}

/// Makes the names in a directory durable.
pub fn sync_dir(folder: impl AsRef<Path>) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What a symbolic link of /proc points to, which is not followed.
pub fn read_link(path: impl AsRef<Path>) -> io::Result<PathBuf> {
    fs::read_link(path)
}

/// What the kernel says in a file of /proc or /sys, which no model has.
pub fn kernel_says(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(path)
}
