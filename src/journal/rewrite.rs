//! A log written anew, while records go on being appended.
//!
//! The new file gets the records of a copy of what was recorded, then what the old file has got since, and from then on
//! what is appended goes to both. It is brought to the disk and takes the place of the old one. No append waits for more than
//! the last short stretch, a read of [`STRETCH_BYTES`] at most; what does not append waits for nothing.
//!
//! Crash: at any point there is the one file or the other, each with all that was appended.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::BODY_BYTES_MAX;
use super::frame::{self, FRAME_FIXED_BYTES};
use super::frames::Frames;
use super::log::{Log, RewriteTurn, STREAM_BYTES, SyncTurn, sync_folder_of};
use crate::disk::{self, File};

/// A new file is brought to the disk in steps of so many bytes, so that an fsync of another file does not wait for all of it.
const SYNC_BYTES: u64 = 8 << 20;

/// What is left for the moment in which appends wait.
const STRETCH_BYTES: u64 = 64 << 10;

/// Where a copy of what was recorded stands in the file.
pub struct Place {
    bytes: u64,
    chain: u32,
}

impl<R: Serialize + DeserializeOwned + Clone> Log<R> {
    /// What `copy` makes while nothing is written, and its place in the file. Keep it short: appends wait meanwhile.
    pub fn copied<T>(&self, copy: impl FnOnce() -> T) -> (Place, T) {
        let writer = self.writer.lock();
        let place = Place { bytes: writer.file.bytes, chain: writer.file.chain };
        (place, copy())
    }

    /// First half of a rewrite: writes `records`, which stand for everything up to `place`, to a new file, and what was
    /// appended since. From the return on, appends go to both files. Blocks.
    ///
    /// # Errors
    /// Those of writing the new file. The log goes on as before.
    pub fn begin_rewrite(
        &self,
        _turn: &RewriteTurn,
        mut place: Place,
        records: impl Iterator<Item = R>,
    ) -> io::Result<()> {
        // One that was given up between its halves: its file is begun anew.
        let (file, given_up) = {
            let mut writer = self.writer.lock();
            (writer.file.file.clone(), writer.next.take())
        };
        drop(given_up);
        let mut next = Rewritten::begin(&new_path(&self.path), &self.header)?;
        next.write_all(records)?;
        loop {
            let bytes = self.bytes();
            if bytes.saturating_sub(place.bytes) <= STRETCH_BYTES {
                break;
            }
            next.catch_up(&file, &mut place, bytes, Rewritten::write)?;
        }
        next.frames.file.sync_data()?;
        let mut writer = self.writer.lock();
        // Appends wait: what this adds is brought to the disk by the second half.
        next.catch_up(&file, &mut place, writer.file.bytes, Rewritten::write_unsynced)?;
        writer.next = Some(next.frames);
        Ok(())
    }

    /// Second half: makes the new file durable and puts it in the place of the old one. Clears a latch. Blocks.
    ///
    /// # Errors
    /// Those of syncing and renaming. The log goes on with the old file, unless only the folder's own sync
    /// failed: then the new one is in use, and the error has latched.
    pub fn finish_rewrite(&self, _turn: &RewriteTurn, _syncing: &SyncTurn) -> io::Result<()> {
        let (file, upto) = {
            let writer = self.writer.lock();
            let next = writer.next.as_ref().ok_or_else(given_up)?;
            (next.file.clone(), (self.tail.lock().appended, next.bytes))
        };
        // No sync ends meanwhile: what was promised to survive the machine is in both files.
        file.sync_data()?;
        let old = {
            let mut writer = self.writer.lock();
            let next = writer.next.take().ok_or_else(given_up)?;
            disk::rename(new_path(&self.path), &self.path)?;
            let mut tail = self.tail.lock();
            (tail.file, tail.bytes, tail.has_room) =
                (next.file.clone(), next.bytes, next.has_room());
            (tail.latched, tail.sync_failed) = (None, false);
            (tail.synced, tail.synced_bytes) = upto;
            std::mem::replace(&mut writer.file, next)
        };
        // Its blocks are given back with its last descriptor, which takes time.
        drop(old);
        sync_folder_of(&self.path).map_err(|error| {
            let mut tail = self.tail.lock();
            tail.sync_failed = true;
            tail.latch(error).error()
        })
    }
}

fn given_up() -> io::Error {
    io::Error::other("the rewrite was given up")
}

/// Where a rewrite of the file at `path` grows.
fn new_path(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// The new file.
struct Rewritten {
    frames: Frames,
    synced_bytes: u64,
}

impl Rewritten {
    fn begin(path: &Path, header: &[u8]) -> io::Result<Rewritten> {
        Ok(Rewritten { frames: Frames::begin(path, header)?, synced_bytes: 0 })
    }

    fn write_unsynced(&mut self, frames: &mut [u8]) -> io::Result<()> {
        self.frames.write(frames)
    }

    fn write(&mut self, frames: &mut [u8]) -> io::Result<()> {
        self.write_unsynced(frames)?;
        if self.frames.bytes - self.synced_bytes >= SYNC_BYTES {
            self.frames.file.sync_data()?;
            self.synced_bytes = self.frames.bytes;
        }
        Ok(())
    }

    fn write_all<R: Serialize>(&mut self, records: impl Iterator<Item = R>) -> io::Result<()> {
        let mut frames = Vec::with_capacity(STREAM_BYTES + 4096);
        for record in records {
            frame::push_frame(&mut frames, &record)?;
            if frames.len() >= STREAM_BYTES {
                self.write(&mut frames)?;
                frames.clear();
            }
        }
        self.write(&mut frames)
    }

    /// Copies what `file` has behind `place`, up to `bytes`, by `write`.
    fn catch_up(
        &mut self,
        file: &File,
        place: &mut Place,
        bytes: u64,
        write: impl Fn(&mut Rewritten, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while place.bytes < bytes {
            // Room for one frame at least.
            let len = (bytes - place.bytes).min((BODY_BYTES_MAX + FRAME_FIXED_BYTES) as u64);
            let mut frames = vec![0; len as usize];
            file.read_exact_at(&mut frames, place.bytes)?;
            let (len, chain) = frame::linked(&frames, place.chain);
            if len == 0 {
                return Err(io::Error::other("what was appended cannot be read again"));
            }
            write(self, &mut frames[..len])?;
            *place = Place { bytes: place.bytes + len as u64, chain };
        }
        Ok(())
    }
}
