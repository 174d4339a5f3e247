//! A draft's staging file: dirty bytes that are kept on the local disk until the store has them.
//!
//! The file only grows: bytes written again go to its end, so that what an earlier journal record
//! names stays intact until a newer record replaces it.
//!
//! Consistency: the caller journals the stretches that [`StagingFile::append`] returns. Bytes come out by
//! [`StagingFile::read_at`] alone, compared with the sum that they came with: what is read back, sent
//! or restored is what was written, or an error. Retries: none; an I/O error goes to the caller. Cancellation: calls
//! block for as long as the disk takes; callers hold no lock that a kernel request may want. Crash: bytes that no
//! record names are ignored; the file goes when its draft ends.
//!
//! Threads may append, read, free and sync side by side. Locks, in order: `syncing`, `replacing`, `file` and
//! `stretches`; the last two are held for no longer than an open(2).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::checked::{Stretch, Sum};
use crate::disk::{self, File, OpenOptions};
use crate::lock::{Mutex, RwLock, rank};

/// The longest stretch with a checksum of its own, in bytes. To use one byte of it all of it is read: a random read
/// of 4 KiB costs twice what the kernel's request does, and a gibibyte of staged bytes 4,096 records.
pub const STRETCH_BYTES_MAX: u64 = 256 << 10;

/// One draft's staging file.
#[derive(Debug)]
pub struct StagingFile {
    path: PathBuf,
    file: Mutex<Handle, rank::StagingFile>,
    /// What was appended and not given back, by its place.
    stretches: Mutex<BTreeMap<u64, Stretch>, rank::Stretches>,
    end: AtomicU64,
    /// Appends so far, and how many of them the last sync has seen.
    appends: AtomicU64,
    synced: AtomicU64,
    /// Syncs come one after the other: the kernel tells of a failed one once.
    syncing: Mutex<Syncing, rank::StagingSync>,
    /// Held for writing while a fresh file takes the place of this one, else for reading by all that change it.
    replacing: RwLock<(), rank::StagingReplaced>,
    /// fdatasync(2); replaced where a failing disk is tested.
    sync_data: fn(&File) -> io::Result<()>,
}

/// The descriptor.
#[derive(Debug)]
enum Handle {
    /// Nothing was appended yet: there is no file.
    Unmade,
    Open(Arc<File>),
    /// Not open while it rests: many files may wait for long, and a process may have few descriptors.
    Resting,
    Removed,
}

#[derive(Debug, Default)]
struct Syncing {
    /// Its name is known to be on the disk.
    named: bool,
    /// The kernel could not write some of it, and will not say so again.
    perhaps_lost: bool,
}

impl StagingFile {
    /// The staging file of draft `id` in `folder`, made by the first append. Appends go behind what
    /// an earlier run left in it, of which nothing can be read: see [`Self::restore`].
    pub fn new(folder: &Path, id: u64) -> StagingFile {
        StagingFile::over(Self::path_of(folder, id), Handle::Unmade, 0, BTreeMap::new())
    }

    /// The staging file that an earlier run left, which is to have these stretches. They are compared when they are
    /// read.
    ///
    /// # Errors
    /// `NotFound` where there is none: it is not made anew.
    pub fn restore(
        folder: &Path,
        id: u64,
        stretches: impl IntoIterator<Item = Stretch>,
    ) -> io::Result<StagingFile> {
        let path = Self::path_of(folder, id);
        let file = options().open(&path)?;
        let end = file.metadata()?.len();
        let stretches = stretches.into_iter().map(|stretch| (stretch.at, stretch)).collect();
        Ok(StagingFile::over(path, Handle::Open(Arc::new(file)), end, stretches))
    }

    fn over(
        path: PathBuf,
        file: Handle,
        end: u64,
        stretches: BTreeMap<u64, Stretch>,
    ) -> StagingFile {
        StagingFile {
            path,
            file: Mutex::new(file),
            stretches: Mutex::new(stretches),
            end: AtomicU64::new(end),
            appends: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            syncing: Mutex::default(),
            replacing: RwLock::new(()),
            sync_data: File::sync_data,
        }
    }

    /// Takes no descriptor until it is used again. What was appended has been synced.
    pub fn rest(&self) {
        let mut file = self.file.lock();
        if matches!(*file, Handle::Open(_)) {
            let open = std::mem::replace(&mut *file, Handle::Resting);
            drop(file);
            drop(open);
        }
    }

    /// Whether there is a file.
    pub fn is_made(&self) -> bool {
        !matches!(*self.file.lock(), Handle::Unmade)
    }

    fn file(&self) -> io::Result<Arc<File>> {
        let mut file = self.file.lock();
        let opened = match &*file {
            Handle::Open(file) => return Ok(file.clone()),
            Handle::Unmade => {
                self.path.parent().map_or(Ok(()), disk::create_dir_all)?;
                let made = options().create(true).open(&self.path)?;
                self.end.store(made.metadata()?.len(), Ordering::Relaxed);
                made
            }
            // It is there as long as its draft is: one that was taken away is an error, not an empty file.
            Handle::Resting => options().open(&self.path)?,
            Handle::Removed => return Err(io::ErrorKind::NotFound.into()),
        };
        let opened = Arc::new(opened);
        *file = Handle::Open(opened.clone());
        Ok(opened)
    }

    /// Where draft `id` stages its bytes.
    pub fn path_of(folder: &Path, id: u64) -> PathBuf {
        folder.join(format!("{id:016x}"))
    }

    /// Writes `bytes`, which are to have these sums, behind everything else and tells where they stand: in stretches that
    /// follow each other, one for each sum. Whether they have them is seen when they are read.
    pub fn append(&self, bytes: &[u8], sums: &[Sum]) -> io::Result<Vec<Stretch>> {
        debug_assert_eq!(sums.iter().map(|sum| sum.len).sum::<u64>(), bytes.len() as u64);
        let _stays = self.replacing.read();
        let file = self.file()?;
        let at = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        slow_disk();
        file.write_all_at(bytes, at)?;
        let mut end = at;
        let stretch = |sum: &Sum| {
            let stretch = Stretch { at: end, len: sum.len, crc: sum.crc };
            end = stretch.end();
            stretch
        };
        let appended: Vec<Stretch> = sums.iter().map(stretch).collect();
        self.stretches.lock().extend(appended.iter().map(|stretch| (stretch.at, *stretch)));
        self.appends.fetch_add(1, Ordering::Release);
        Ok(appended)
    }

    /// Reads exactly `bytes.len()` bytes from `at`, as they were appended.
    ///
    /// # Errors
    /// `InvalidData` where they are not what was appended; those of reading. `bytes` are void then.
    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let file = self.file()?;
        let mut done = 0;
        while done < bytes.len() {
            let from = at + done as u64;
            let Some(stretch) = self.stretch_at(from) else { return Err(self.damaged(from)) };
            let count = (bytes.len() - done).min((stretch.end() - from) as usize);
            match stretch.read(&file, from, &mut bytes[done..done + count]) {
                Ok(true) => done += count,
                Ok(false) => return Err(self.damaged(stretch.at)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.damaged(stretch.at));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the stretch at this place is as it was appended. Needs little memory, however long it is.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn compare(&self, at: u64) -> io::Result<()> {
        let Some(stretch) = self.stretch_at(at) else { return Err(self.damaged(at)) };
        slow_disk();
        let mut buffer = vec![0; STRETCH_BYTES_MAX.min(stretch.len) as usize];
        match stretch.is_in(&*self.file()?, &mut buffer) {
            Ok(true) => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            Ok(false) | Err(_) => Err(self.damaged(at)),
        }
    }

    fn stretch_at(&self, at: u64) -> Option<Stretch> {
        let stretches = self.stretches.lock();
        let (_, stretch) = stretches.range(..=at).next_back()?;
        (at < stretch.end()).then_some(*stretch)
    }

    fn damaged(&self, at: u64) -> io::Error {
        let text = format!("{} is damaged at byte {at}", self.path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// Gives the place of bytes that are not needed any more back to the disk, where the file system can.
    pub fn free(&self, at: u64, len: u64) -> io::Result<()> {
        let _stays = self.replacing.read();
        self.forget(at, at + len);
        self.file()?.punch(at, len)
    }

    /// Of what lies partly outside the rest is still meant.
    fn forget(&self, at: u64, end: u64) {
        let mut stretches = self.stretches.lock();
        let inside: Vec<u64> =
            stretches.range(at..end).filter(|(_, s)| s.end() <= end).map(|(at, _)| *at).collect();
        inside.iter().for_each(|at| {
            stretches.remove(at);
        });
    }

    /// Gives the places of all these ranges back, where the file system can.
    pub fn free_all(&self, places: &rangemap::RangeMap<u64, u64>) {
        for (range, shift) in places.iter() {
            self.free_or_leave(shift.wrapping_add(range.start), range.end - range.start);
        }
    }

    /// [`Self::free`], where it is enough that the place is freed with the file.
    pub fn free_or_leave(&self, at: u64, len: u64) {
        if let Err(error) = self.free(at, len) {
            log::debug!("{}: its place on the disk stays taken: {error}", self.path.display());
        }
    }

    /// Whether all that was appended has been synced.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire) == self.appends.load(Ordering::Acquire)
    }

    /// Makes what was appended survive the loss of power.
    ///
    /// # Errors
    /// Those of syncing. After one the kernel takes for written what may be lost, and says so no more: from then on
    /// this fails, unless all that was appended could be read back and written anew, into a fresh file.
    pub fn sync(&self) -> io::Result<()> {
        if !self.is_made() {
            return Ok(());
        }
        let mut syncing = self.syncing.lock();
        let seen = self.appends.load(Ordering::Acquire);
        slow_disk();
        if syncing.perhaps_lost {
            // Not the cause itself: what cannot be read back here may be in memory, to be sent.
            self.write_anew().map_err(|error| {
                io::Error::other(format!(
                    "fdatasync failed earlier, and nothing could be written anew: {error}"
                ))
            })?;
            (syncing.perhaps_lost, syncing.named) = (false, false);
        } else if let Err(error) = (self.sync_data)(&*self.file()?) {
            syncing.perhaps_lost = true;
            return Err(error);
        }
        if !syncing.named {
            self.sync_name()?;
            syncing.named = true;
        }
        self.synced.store(seen, Ordering::Release);
        Ok(())
    }

    fn sync_name(&self) -> io::Result<()> {
        let Some(folder) = self.path.parent() else { return Ok(()) };
        disk::sync_dir(folder)
    }

    /// Puts a fresh file with the same bytes at the same places into the place of this one.
    fn write_anew(&self) -> io::Result<()> {
        let _replaces = self.replacing.write();
        let (old, path) = (self.file()?, self.path.with_extension("new"));
        let fresh = options().create(true).truncate(true).open(&path)?;
        let written = self.copy_all(&old, &fresh).and_then(|()| (self.sync_data)(&fresh));
        if let Err(error) = written.and_then(|()| disk::rename(&path, &self.path)) {
            // What is left of it says nothing.
            let _ = disk::remove_file(&path);
            return Err(error);
        }
        *self.file.lock() = Handle::Open(Arc::new(fresh));
        log::warn!("{}: written anew after an error of its disk", self.path.display());
        Ok(())
    }

    fn copy_all(&self, old: &File, fresh: &File) -> io::Result<()> {
        let mut buffer = vec![0; STRETCH_BYTES_MAX as usize];
        let stretches: Vec<Stretch> = self.stretches.lock().values().copied().collect();
        for stretch in stretches {
            if !stretch.copy(old, fresh, &mut buffer)? {
                return Err(self.damaged(stretch.at));
            }
        }
        fresh.set_len(self.end.load(Ordering::Relaxed))
    }

    /// Removes the file; its draft has ended.
    pub fn remove(&self) -> io::Result<()> {
        if matches!(std::mem::replace(&mut *self.file.lock(), Handle::Removed), Handle::Unmade) {
            return Ok(());
        }
        match disk::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// In debug builds, where RATCHETFS_TEST_SLOW_STAGING is set: each write, sync and check of a staging file takes so many
/// milliseconds more, as on a disk that has much else to do. Release builds know nothing of it.
fn slow_disk() {
    #[cfg(debug_assertions)]
    {
        static EXTRA: std::sync::LazyLock<Option<std::time::Duration>> =
            std::sync::LazyLock::new(|| {
                let millis = std::env::var("RATCHETFS_TEST_SLOW_STAGING").ok()?.parse().ok()?;
                Some(std::time::Duration::from_millis(millis))
            });
        if let Some(extra) = *EXTRA {
            crate::clock::block_for(extra);
        }
    }
}

/// To read and to write, by this user alone.
fn options() -> OpenOptions {
    let mut options = OpenOptions::private();
    options.read(true).write(true);
    options
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn append(staging: &StagingFile, bytes: &[u8]) -> io::Result<Vec<Stretch>> {
        let sums: Vec<Sum> = bytes.chunks(STRETCH_BYTES_MAX as usize).map(Sum::of).collect();
        staging.append(bytes, &sums)
    }

    fn place_of(appended: io::Result<Vec<Stretch>>) -> u64 {
        appended.unwrap()[0].at
    }

    #[test]
    fn reopened_file_appends_behind_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let first = StagingFile::new(folder.path(), 7);
        let stretches = append(&first, b"abc").unwrap();
        assert_eq!(stretches[0].at, 0);
        drop(first);
        let again = StagingFile::restore(folder.path(), 7, stretches).unwrap();
        assert_eq!(place_of(append(&again, b"de")), 3);
        let mut bytes = [0; 5];
        again.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"abcde");
        again.rest();
        assert_eq!(place_of(append(&again, b"f")), 5);
        again.rest();
        again.read_at(&mut bytes[..2], 4).unwrap();
        assert_eq!(&bytes[..2], b"ef");
        again.rest();
        again.remove().unwrap();
        assert!(again.read_at(&mut bytes, 0).is_err(), "what was taken away is not made anew");
        assert!(!StagingFile::path_of(folder.path(), 7).exists());
        assert!(StagingFile::restore(folder.path(), 7, []).is_err(), "nor by a restore");
    }

    #[test]
    fn there_is_no_file_before_there_is_something_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let staging = StagingFile::new(&folder.path().join("made"), 1);
        staging.sync().unwrap();
        assert!(staging.is_synced() && !staging.is_made() && !staging.path.exists());
        append(&staging, b"a").unwrap();
        assert!(!staging.is_synced() && staging.is_made() && staging.path.exists());
        staging.sync().unwrap();
        assert!(staging.is_synced());
        append(&staging, b"b").unwrap();
        assert!(!staging.is_synced());
        staging.remove().unwrap();
        assert!(append(&staging, b"c").is_err() && !staging.path.exists(), "nor after its end");
    }

    #[test]
    fn what_is_not_what_was_appended_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let staging = StagingFile::new(folder.path(), 1);
        let bytes: Vec<u8> = (0..700_000_u32).map(|n| ((n * 31) >> 4) as u8).collect();
        let stretches = append(&staging, &bytes).unwrap();
        assert_eq!(stretches.len(), 3);
        let read = |at: usize, len: usize| {
            let mut read = vec![0; len];
            let outcome = staging.read_at(&mut read, at as u64);
            assert!(outcome.is_err() || read == bytes[at..][..len]);
            outcome.map_err(|error| error.kind())
        };
        read(0, 700_000).unwrap();
        let disk = OpenOptions::new().write(true).open(&staging.path).unwrap();
        disk.write_all_at(&[!bytes[300_000]], 300_000).unwrap();
        assert_eq!(read(0, 700_000), Err(io::ErrorKind::InvalidData));
        assert_eq!(read(500_000, 10), Err(io::ErrorKind::InvalidData), "within the same stretch");
        read(0, 250_000).unwrap();
        read(540_000, 160_000).unwrap();
        assert_eq!(read(699_990, 20), Err(io::ErrorKind::InvalidData), "never appended");
        disk.set_len(600_000).unwrap();
        assert_eq!(read(540_000, 10), Err(io::ErrorKind::InvalidData));
        read(0, 250_000).unwrap();
    }

    #[test]
    fn bytes_that_changed_before_they_were_written_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let staging = StagingFile::new(folder.path(), 1);
        let (first, second) = (Sum::of(b"first"), Sum::of(b"second"));
        staging.append(b"firstsecone", &[first, second]).unwrap();
        let mut bytes = [0; 5];
        staging.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"first");
        assert_eq!(staging.read_at(&mut bytes, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// fdatasync fails once, and says nothing of what was lost after that, as Linux does.
    #[test]
    fn what_could_not_be_synced_is_not_synced_by_asking_again() {
        static FAILING: AtomicUsize = AtomicUsize::new(0);
        let failing = |file: &File| match FAILING.load(Ordering::Relaxed) {
            0 => file.sync_data(),
            left => {
                FAILING.store(left - 1, Ordering::Relaxed);
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let mut staging = StagingFile::new(folder.path(), 1);
        staging.sync_data = failing;
        append(&staging, b"first").unwrap();
        staging.sync().unwrap();
        append(&staging, b"second").unwrap();
        FAILING.store(2, Ordering::Relaxed);
        assert!(staging.sync().is_err());
        // The disk still fails, then what it has is not what was written.
        assert!(staging.sync().is_err());
        let lost = OpenOptions::new().write(true).open(&staging.path).unwrap();
        lost.write_all_at(&[0; 6], 5).unwrap();
        assert!(staging.sync().unwrap_err().to_string().contains("damaged at byte 5"));
        assert!(staging.sync().is_err());
        // All of it is there: in another file, where it was.
        lost.write_all_at(b"second", 5).unwrap();
        staging.sync().unwrap();
        lost.write_all_at(b"xxxxxxxxxxx", 0).unwrap();
        let mut bytes = [0; 11];
        staging.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"firstsecond");
        assert_eq!(place_of(append(&staging, b"third")), 11);
        staging.sync().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
