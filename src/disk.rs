//! The local disk. The files of a mount (journal, staging, cache, names, attributes, and the folders that they are in) are
//! opened, named and synced through here, so that a simulation can own them, and a test take the power away.
//!
//! Calls are std's, by std's names, with std's errors; release builds have nothing else. In debug builds all paths below
//! the folder of a `model::Model` are the model's, which knows what is written from what is synced.
//!
//! Relied upon: what [`File::sync_data`] has returned for survives the power, with the file's length; a name does when
//! its directory was synced ([`sync_dir`]) after it was made, moved or removed; whatever else was done may be there, partly,
//! in any order, or not at all.
//!
//! Some of the kernel's own has no model: descriptors for the kernel or for calls beside these ([`File::descriptor`]),
//! O_DIRECT, O_TMPFILE, statfs(2), memory mappings, the files of /proc and /sys. A caller that asks a model for it is refused, as
//! by a file system that does not have it, and goes on without. Not here at all: the configuration, the log and pipes of `cli`,
//! the sockets of `control`, the embedded store; nor the owners and permissions of
//! directories, which `private` looks at.

#![allow(clippy::disallowed_methods, reason = "the one place that asks the file system")]

use std::ffi::OsString;
use std::fs::{self, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::lock::waits_for_the_disk;

#[cfg(debug_assertions)]
pub mod model;
mod values;

pub use values::{Metadata, OpenOptions};

/// An open file, or an open directory.
#[derive(Debug)]
pub struct File(Inner);

#[cfg(not(debug_assertions))]
type Inner = fs::File;

#[cfg(debug_assertions)]
#[derive(Debug)]
enum Inner {
    Real(fs::File),
    Model(model::File),
}

/// The same call of either kind of file.
macro_rules! each {
    ($file:expr, $one:ident => $call:expr) => {{
        #[cfg(not(debug_assertions))]
        {
            let $one = &$file.0;
            $call
        }
        #[cfg(debug_assertions)]
        match &$file.0 {
            Inner::Real($one) => $call,
            Inner::Model($one) => $call,
        }
    }};
}

/// Has the model do it that the path belongs to, if one does.
macro_rules! of_model {
    ($path:expr, $model:ident => $call:expr) => {
        #[cfg(debug_assertions)]
        if let Some($model) = model::of($path) {
            return $call;
        }
    };
}

impl From<fs::File> for File {
    fn from(file: fs::File) -> File {
        #[cfg(not(debug_assertions))]
        return File(file);
        #[cfg(debug_assertions)]
        File(Inner::Real(file))
    }
}

#[cfg(debug_assertions)]
impl From<model::File> for File {
    fn from(file: model::File) -> File {
        File(Inner::Model(file))
    }
}

impl File {
    /// Opens what is there, to be read.
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(path)
    }

    pub fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        each!(self, file => file.read_exact_at(bytes, at))
    }

    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        each!(self, file => file.write_all_at(bytes, at))
    }

    pub fn set_len(&self, len: u64) -> io::Result<()> {
        each!(self, file => file.set_len(len))
    }

    /// Has the disk keep room for the range; the length stays.
    ///
    /// # Errors
    /// `StorageFull`; `Unsupported` where the file system cannot.
    pub fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        each!(self, file => file.allocate(at, len))
    }

    /// Makes zeros of a range, whose room is free; the length stays.
    ///
    /// # Errors
    /// `Unsupported` where the file system cannot.
    pub fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        each!(self, file => file.punch(at, len))
    }

    /// fdatasync(2).
    pub fn sync_data(&self) -> io::Result<()> {
        waits_for_the_disk();
        each!(self, file => file.sync_data())
    }

    /// fsync(2).
    pub fn sync_all(&self) -> io::Result<()> {
        waits_for_the_disk();
        each!(self, file => file.sync_all())
    }

    #[allow(clippy::useless_conversion, reason = "a model has them as they are to be")]
    pub fn metadata(&self) -> io::Result<Metadata> {
        each!(self, file => Ok(file.metadata()?.into()))
    }

    pub fn try_clone(&self) -> io::Result<File> {
        each!(self, file => Ok(file.try_clone()?.into()))
    }

    pub fn try_lock(&self) -> Result<(), TryLockError> {
        each!(self, file => file.try_lock())
    }

    pub fn try_lock_shared(&self) -> Result<(), TryLockError> {
        each!(self, file => file.try_lock_shared())
    }

    /// For the kernel, and for calls that are not here. A model's file has none.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        #[cfg(not(debug_assertions))]
        return Some(self.0.as_fd());
        #[cfg(debug_assertions)]
        match &self.0 {
            Inner::Real(file) => Some(file.as_fd()),
            Inner::Model(_) => None,
        }
    }
}

impl Read for &File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        each!(self, file => { let mut file = file; file.read(bytes) })
    }
}

impl Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self).read(bytes)
    }
}

impl Seek for &File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        each!(self, file => { let mut file = file; file.seek(to) })
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

impl OpenOptions {
    /// Opens no pipe: one that has taken the place of a file would be waited for.
    ///
    /// # Errors
    /// Those of open(2), such as ENXIO of a socket; `InvalidInput` of a pipe.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        of_model!(path, model => Ok(File(Inner::Model(model.open(path, self)?))));
        let mut options = fs::OpenOptions::new();
        options.read(self.read).write(self.write).create(self.create).create_new(self.create_new);
        options.truncate(self.truncate).mode(self.mode);
        let file = options.custom_flags(self.flags | libc::O_NONBLOCK).open(path)?;
        if file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe, no file"));
        }
        Ok(file.into())
    }
}

pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let path = path.as_ref();
    of_model!(path, model => model.metadata(path));
    Ok(fs::metadata(path)?.into())
}

/// Of a symbolic link itself.
pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let path = path.as_ref();
    of_model!(path, model => model.metadata(path));
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
    of_model!(folder, model => model.names_in(folder));
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

pub fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    of_model!(path, model => model.create_dir(path));
    fs::create_dir(path)
}

/// Makes what is missing of it.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    of_model!(path, model => model.create_dir_all(path));
    fs::create_dir_all(path)
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    of_model!(from, model => model.rename(from, to));
    fs::rename(from, to)
}

pub fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    of_model!(from, model => model.hard_link(from, to));
    fs::hard_link(from, to)
}

pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    of_model!(path, model => model.remove_file(path));
    fs::remove_file(path)
}

pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    of_model!(path, model => model.remove_dir_all(path));
    fs::remove_dir_all(path)
}

/// Whether a model has it: then it has no owner, and is no other user's.
pub fn is_model(_path: &Path) -> bool {
    #[cfg(debug_assertions)]
    if model::of(_path).is_some() {
        return true;
    }
    false
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
