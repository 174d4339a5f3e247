//! One process at a time in a cache folder.
//!
//! What is locked is the folder itself, which is there as long as what it holds: a file in it can be removed, and a
//! new one of its name would let a second process in. The file `lock` is locked as well, for the sake of earlier
//! versions, which know nothing else, and of file systems that do not lock folders (NFS).
//!
//! Crash: the kernel drops the lock with the process, so there is never a stale one; the process id in the
//! file is only for the message to the one that comes second.

use std::fs::TryLockError;
use std::io::Read;
use std::path::Path;

use super::error::JournalError;
use crate::disk::{self, File, Metadata, OpenOptions};

/// An exclusive lock on a folder, held until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    /// Open as long as the lock is to last: the folder and the file in it.
    _locked: [File; 2],
}

impl FolderLock {
    /// Locks `folder`, which exists.
    ///
    /// # Errors
    /// [`JournalError::Locked`] where another process, or another mount of this one, has it.
    pub fn acquire(folder: &Path) -> Result<FolderLock, JournalError> {
        let path = folder.join("lock");
        let opened = disk::open_dir(folder).map_err(JournalError::io("open", folder))?;
        lock_folder(&opened, folder, File::try_lock)?;
        let mut options = OpenOptions::private();
        options.read(true).write(true).create(true);
        let file = options.open(&path).map_err(JournalError::io("open", &path))?;
        lock_file(&file, folder, File::try_lock)?;
        // Both may have been taken away between being opened and being locked.
        if !is_there(&opened, folder) || !is_there(&file, &path) {
            return Err(JournalError::Locked { folder: folder.to_owned(), holder: None });
        }
        let pid = format!("{}\n", std::process::id());
        // A full disk must not keep a mount from sending what would free some of it.
        if let Err(error) = file.set_len(0).and_then(|()| file.write_all_at(pid.as_bytes(), 0)) {
            log::debug!("{} does not say which process holds it: {error}", path.display());
        }
        Ok(FolderLock { _locked: [opened, file] })
    }

    /// A look at `folder` while it is not mounted, without creating or writing anything. Others may look at
    /// the same time.
    ///
    /// # Errors
    /// [`JournalError::Locked`] where a process serves it; that of opening where there is no lock file.
    pub fn acquire_shared(folder: &Path) -> Result<FolderLock, JournalError> {
        let path = folder.join("lock");
        let opened = disk::open_dir(folder).map_err(JournalError::io("open", folder))?;
        lock_folder(&opened, folder, File::try_lock_shared)?;
        let mut options = OpenOptions::private();
        let file = options.read(true).open(&path).map_err(JournalError::io("open", &path))?;
        lock_file(&file, folder, File::try_lock_shared)?;
        Ok(FolderLock { _locked: [opened, file] })
    }
}

type TryLock = fn(&File) -> Result<(), TryLockError>;

fn lock_folder(opened: &File, folder: &Path, lock: TryLock) -> Result<(), JournalError> {
    match lock(opened) {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(locked(folder)),
        // NFS locks only what is open for writing, which no folder ever is: the file has to do.
        Err(TryLockError::Error(error)) => {
            log::debug!("{} cannot be locked: {error}", folder.display());
            Ok(())
        }
    }
}

fn lock_file(file: &File, folder: &Path, lock: TryLock) -> Result<(), JournalError> {
    match lock(file) {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(locked(folder)),
        Err(TryLockError::Error(error)) => {
            Err(JournalError::io("lock", &folder.join("lock"))(error))
        }
    }
}

/// Whether the open file is what `path` names.
fn is_there(file: &File, path: &Path) -> bool {
    let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (file.metadata(), disk::symlink_metadata(path)) {
        (Ok(file), Ok(named)) => same(&file, &named),
        _ => false,
    }
}

/// Names the process that has the lock, if it says so.
fn locked(folder: &Path) -> JournalError {
    JournalError::Locked { folder: folder.to_owned(), holder: holder(&folder.join("lock")) }
}

fn holder(path: &Path) -> Option<u32> {
    let file = OpenOptions::private().read(true).open(path).ok()?;
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
