//! A file of frames: written at its end alone, with room kept behind it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::frame;
use crate::disk::{File, OpenOptions};

/// Room that the disk keeps for what comes next. When other files have filled it to the last byte, what frees
/// some of it (a file that has come to the store) can still be recorded.
const RESERVE_BYTES: u64 = 512 << 10;

/// A file of frames and where it goes on.
pub(super) struct Frames {
    pub file: Arc<File>,
    /// Checksum of the last frame.
    pub chain: u32,
    pub bytes: u64,
    /// Up to here the disk keeps room for it.
    reserved: u64,
}

impl Frames {
    pub fn new(file: File, chain: u32, bytes: u64) -> Frames {
        let mut frames = Frames { file: Arc::new(file), chain, bytes, reserved: bytes };
        frames.reserve();
        frames
    }

    /// A new file with `header` and no records. Not yet durable.
    pub fn begin(path: &Path, header: &[u8]) -> io::Result<Frames> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path)?;
        file.write_all_at(header, 0)?;
        let chain = frame::chain_start(header);
        Ok(Frames::new(file, chain, header.len() as u64))
    }

    /// Half of the reserve is for what cannot be done without.
    pub fn has_room(&self) -> bool {
        self.bytes + RESERVE_BYTES / 2 <= self.reserved
    }

    /// Keeps room behind the end, where that can be had. The length of the file stays.
    fn reserve(&mut self) {
        if self.has_room() {
            return;
        }
        let wanted = self.bytes + RESERVE_BYTES;
        let reserved = self.file.allocate(self.bytes, RESERVE_BYTES);
        let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        if !reserved.as_ref().is_err_and(is_full) {
            // Where the file system cannot, it is not asked again for every record.
            self.reserved = wanted;
        }
    }

    /// Writes whole frames behind the last one, which they are made to follow.
    ///
    /// # Errors
    /// Those of writing. What has come into the file is taken away again, where that can be done.
    pub fn write(&mut self, frames: &mut [u8]) -> io::Result<()> {
        let chain = frame::link(frames, self.chain);
        if let Err(error) = self.file.write_all_at(frames, self.bytes) {
            _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += frames.len() as u64;
        self.chain = chain;
        self.reserve();
        Ok(())
    }
}
