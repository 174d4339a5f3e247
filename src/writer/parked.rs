//! The bytes of writes that wait for room.
//!
//! The buffer of a kernel's request is needed for the next one, so a write that has to wait is copied out of it. A
//! thousand writers wait with half a gigabyte: so a few are kept in memory, and the others in a file without a name.
//! A program gets its answer once the bytes are where they belong, as ever, so the file is as long as what the
//! programs of this machine write at one moment.
//!
//! Crash: the file goes with the process. Where the disk takes nothing, memory does, beyond its bound.

use crate::disk::{File, OpenOptions};
use crate::lock::{Mutex, rank};
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Kept in memory at the most, in bytes: an eighth of --memory, within these bounds.
const IN_MEMORY_MIN: u64 = 8 << 20;
const IN_MEMORY_MAX: u64 = 32 << 20;

/// The length of a place in the file, in bytes: the longest request.
const PLACE_BYTES: u64 = 1 << 20;

/// Bytes that are fetched from the file at a time.
const READ_BYTES: usize = 256 << 10;

/// Bytes to be written, in memory or not.
pub trait WriteBytes: Send + Sync {
    fn len(&self) -> usize;

    /// Some of those from `at`, which lies before the end, on.
    ///
    /// # Errors
    /// Those of the local disk.
    fn from(&self, at: usize) -> io::Result<Cow<'_, [u8]>>;
}

impl WriteBytes for [u8] {
    fn len(&self) -> usize {
        self.len()
    }

    fn from(&self, at: usize) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self[at..]))
    }
}

/// The first so many of them, of which there are no fewer.
pub struct First<'a, B: ?Sized>(pub &'a B, pub usize);

impl<B: WriteBytes + ?Sized> WriteBytes for First<'_, B> {
    fn len(&self) -> usize {
        self.1
    }

    fn from(&self, at: usize) -> io::Result<Cow<'_, [u8]>> {
        let most = self.1 - at;
        Ok(match self.0.from(at)? {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[..bytes.len().min(most)]),
            Cow::Owned(mut bytes) => {
                bytes.truncate(most);
                Cow::Owned(bytes)
            }
        })
    }
}

/// Where writes wait.
pub(super) struct Parking {
    /// Room in memory, in KiB.
    memory: Arc<Semaphore>,
    places: Arc<Places>,
}

/// The file, cut into places.
struct Places {
    folder: PathBuf,
    state: Mutex<State, rank::Parked>,
}

/// Invariant: every place below `count` is in `free` or belongs to one [`Place`].
#[derive(Default)]
struct State {
    file: Option<Arc<File>>,
    free: Vec<u64>,
    count: u64,
}

/// The bytes of one write.
pub struct Parked(Kept);

enum Kept {
    Memory { bytes: Vec<u8>, _room: Option<OwnedSemaphorePermit> },
    Disk { place: Place, len: usize },
}

struct Place {
    places: Arc<Places>,
    file: Arc<File>,
    index: u64,
}

impl Parking {
    /// `memory` as in --memory, in bytes. The file is made in `folder`, when it is needed.
    pub fn new(memory: u64, folder: &Path) -> Parking {
        let room = (memory / 8).clamp(IN_MEMORY_MIN, IN_MEMORY_MAX);
        Parking {
            memory: Arc::new(Semaphore::new((room >> 10) as usize)),
            places: Arc::new(Places { folder: folder.to_owned(), state: Mutex::default() }),
        }
    }

    /// Copies the bytes of a write that has to wait.
    pub fn park(&self, bytes: &[u8]) -> Parked {
        let kib = bytes.len().div_ceil(1 << 10) as u32;
        let room = self.memory.clone().try_acquire_many_owned(kib).ok();
        if room.is_none() {
            match self.places.write(bytes) {
                Ok(place) => return Parked(Kept::Disk { place, len: bytes.len() }),
                Err(error) => log::info!("a write waits in memory: {error}"),
            }
        }
        Parked(Kept::Memory { bytes: bytes.to_vec(), _room: room })
    }
}

impl Places {
    fn write(self: &Arc<Self>, bytes: &[u8]) -> io::Result<Place> {
        if bytes.len() as u64 > PLACE_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let place = self.take()?;
        place.file.write_all_at(bytes, place.start())?;
        Ok(place)
    }

    fn take(self: &Arc<Self>) -> io::Result<Place> {
        let mut state = self.state.lock();
        let file = match &state.file {
            Some(file) => file.clone(),
            None => state.file.insert(Arc::new(unlinked_file(&self.folder)?)).clone(),
        };
        let index = state.free.pop().unwrap_or(state.count);
        state.count = state.count.max(index + 1);
        Ok(Place { places: self.clone(), file, index })
    }
}

impl Place {
    fn start(&self) -> u64 {
        self.index * PLACE_BYTES
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        state.free.push(self.index);
        if state.free.len() as u64 == state.count {
            // Nothing waits: the disk gets its room back, with the file.
            *state = State::default();
        }
    }
}

impl WriteBytes for Parked {
    fn len(&self) -> usize {
        match &self.0 {
            Kept::Memory { bytes, .. } => bytes.len(),
            Kept::Disk { len, .. } => *len,
        }
    }

    fn from(&self, at: usize) -> io::Result<Cow<'_, [u8]>> {
        match &self.0 {
            Kept::Memory { bytes, .. } => Ok(Cow::Borrowed(&bytes[at..])),
            Kept::Disk { place, len } => {
                let mut bytes = vec![0; (len - at).min(READ_BYTES)];
                place.file.read_exact_at(&mut bytes, place.start() + at as u64)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// A file that has no name, and goes when it is closed.
fn unlinked_file(folder: &Path) -> io::Result<File> {
    OpenOptions::private().read(true).write(true).custom_flags(libc::O_TMPFILE).open(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parked: &Parked) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < parked.len() {
            read.extend_from_slice(&parked.from(read.len()).unwrap());
        }
        read
    }

    fn on_disk(parked: &Parked) -> bool {
        matches!(parked.0, Kept::Disk { .. })
    }

    #[test]
    fn what_memory_has_no_room_for_waits_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let parking = Parking::new(0, folder.path());
        let write = |n: u8| vec![n; (1 << 20) - usize::from(n)];
        let parked: Vec<Parked> = (0..20).map(|n| parking.park(&write(n))).collect();
        assert_eq!(parked.iter().filter(|parked| on_disk(parked)).count(), 12);
        for (n, parked) in (0..).zip(&parked) {
            assert!(read(parked) == write(n), "{n}");
        }
        assert_eq!(parking.places.state.lock().count, 12);
        drop(parked);
        assert!(parking.places.state.lock().file.is_none());
        assert!(!on_disk(&parking.park(&write(0))));
    }

    #[test]
    fn places_are_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let parking = Parking::new(0, folder.path());
        let memory: Vec<Parked> = (0..8).map(|_| parking.park(&[0; 1 << 20])).collect();
        let stays = parking.park(&[1; 1000]);
        for n in 2..10 {
            assert!(read(&parking.park(&[n; 500_000])) == [n; 500_000]);
        }
        assert_eq!(parking.places.state.lock().count, 2);
        assert!(on_disk(&stays) && read(&stays) == [1; 1000]);
        drop(memory);
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_memory() {
        let parking = Parking::new(0, Path::new("/nonexistent"));
        let parked: Vec<Parked> = (0..9).map(|n| parking.park(&[n; 1 << 20])).collect();
        assert!(read(&parked[8]) == [8; 1 << 20]);
    }
}
