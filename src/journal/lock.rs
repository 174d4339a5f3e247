//! One process at a time in a cache folder.
//!
//! Crash: the kernel drops the lock with the process, so there is never a stale one; the process id in the
//! file is only for the message to whoever comes second.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::error::JournalError;

/// An exclusive lock on a folder, held until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    /// Open as long as the lock is to last.
    _file: File,
}

impl FolderLock {
    /// Locks `folder`, which exists.
    ///
    /// # Errors
    /// [`JournalError::Locked`] where another process, or another mount of this one, has it.
    pub fn acquire(folder: &Path) -> Result<FolderLock, JournalError> {
        let path = folder.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(JournalError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                return Err(JournalError::Locked { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(JournalError::io("lock", &path)(error)),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all_at(pid.as_bytes(), 0))
            .map_err(JournalError::io("write", &path))?;
        Ok(FolderLock { _file: file })
    }

    /// A look at `folder` while nobody serves it, without creating or writing anything. Others may look at
    /// the same time.
    ///
    /// # Errors
    /// [`JournalError::Locked`] where a process serves it; that of opening where there is no lock file.
    pub fn acquire_shared(folder: &Path) -> Result<FolderLock, JournalError> {
        let path = folder.join("lock");
        let mut file = File::open(&path).map_err(JournalError::io("open", &path))?;
        match file.try_lock_shared() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                Err(JournalError::Locked { folder: folder.to_owned(), holder })
            }
            Err(TryLockError::Error(error)) => Err(JournalError::io("lock", &path)(error)),
        }
    }
}

/// The process that has the lock, if it says so.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
