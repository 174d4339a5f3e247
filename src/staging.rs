//! A draft's staging file: dirty bytes that are kept on the local disk until the store has them.
//!
//! The file only grows: bytes written again go to its end, so that what an earlier journal record
//! names stays intact until a newer record replaces it.
//!
//! Consistency: the caller journals `(range, place, checksum)` after [`StagingFile::append`] returns.
//! Retries: none; an I/O error goes to the caller. Cancellation: calls are short and blocking.
//! Crash: bytes that no record names are ignored; the file goes when its draft ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// One draft's staging file.
#[derive(Debug)]
pub struct StagingFile {
    path: PathBuf,
    /// Not open while it rests: many files may wait for long, and a process may have few descriptors.
    file: Mutex<Option<Arc<File>>>,
    end: AtomicU64,
    /// Its name is known to be on the disk.
    named: AtomicBool,
}

impl StagingFile {
    /// The staging file of draft `id` in `folder`, made if it does not exist. Appends go behind what
    /// an earlier run left in it.
    pub fn open(folder: &Path, id: u64) -> io::Result<StagingFile> {
        std::fs::create_dir_all(folder)?;
        let path = Self::path_of(folder, id);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let end = file.metadata()?.len();
        Ok(StagingFile {
            path,
            file: Mutex::new(Some(Arc::new(file))),
            end: AtomicU64::new(end),
            named: AtomicBool::new(false),
        })
    }

    /// Takes no descriptor until it is used again. What was appended has been synced.
    pub fn rest(&self) {
        *self.file.lock() = None;
    }

    fn file(&self) -> io::Result<Arc<File>> {
        let mut file = self.file.lock();
        if let Some(file) = &*file {
            return Ok(file.clone());
        }
        // It is there as long as its draft is: one that was taken away is an error, not an empty file.
        let opened = Arc::new(OpenOptions::new().read(true).write(true).open(&self.path)?);
        *file = Some(opened.clone());
        Ok(opened)
    }

    /// Where draft `id` stages its bytes.
    pub fn path_of(folder: &Path, id: u64) -> PathBuf {
        folder.join(format!("{id:016x}"))
    }

    /// Writes `bytes` behind everything else and tells where they stand.
    pub fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file()?.write_all_at(bytes, at)?;
        Ok(at)
    }

    /// Reads exactly `bytes.len()` bytes from `at`.
    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file()?.read_exact_at(bytes, at)
    }

    /// Gives the place of bytes that nobody needs any more back to the disk, where the file system can.
    pub fn free(&self, at: u64, len: u64) -> io::Result<()> {
        let (Ok(at), Ok(len)) = (i64::try_from(at), i64::try_from(len)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let file = self.file()?;
        // SAFETY: the descriptor is open for as long as `file`; the call touches no memory of ours.
        let answer = unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Gives the places of all these ranges back, where the file system can.
    pub fn free_all(&self, places: &rangemap::RangeMap<u64, u64>) {
        for (range, shift) in places.iter() {
            if let Err(error) = self.free(shift.wrapping_add(range.start), range.end - range.start)
            {
                log::debug!("{}: its place on the disk stays taken: {error}", self.path.display());
            }
        }
    }

    /// Makes what was appended survive the loss of power.
    pub fn sync(&self) -> io::Result<()> {
        self.file()?.sync_data()?;
        if !self.named.load(Ordering::Relaxed) {
            if let Some(folder) = self.path.parent() {
                File::open(folder)?.sync_all()?;
            }
            self.named.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes the file; its draft has ended.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopened_file_appends_behind_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let first = StagingFile::open(folder.path(), 7).unwrap();
        assert_eq!(first.append(b"abc").unwrap(), 0);
        drop(first);
        let again = StagingFile::open(folder.path(), 7).unwrap();
        assert_eq!(again.append(b"de").unwrap(), 3);
        let mut bytes = [0; 5];
        again.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"abcde");
        again.rest();
        assert_eq!(again.append(b"f").unwrap(), 5);
        again.rest();
        again.read_at(&mut bytes[..2], 4).unwrap();
        assert_eq!(&bytes[..2], b"ef");
        again.rest();
        again.remove().unwrap();
        assert!(again.read_at(&mut bytes, 0).is_err(), "what was taken away is not made anew");
        assert!(!StagingFile::path_of(folder.path(), 7).exists());
    }
}
