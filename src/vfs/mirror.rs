//! Cache files that the kernel reads itself (passthrough), and what becomes of them when the file is written to.
//!
//! The kernel goes on reading the file that it was given, mapped or not, for as long as a handle is open that was
//! opened so; it cannot be told otherwise. So before anything is written, the cache gives that file up, and what is
//! written and cut from then on is done to it too. It belongs to these handles alone, has no name any more, and is
//! gone with the last of them.
//!
//! Consistency: a write is answered when it is done here too; where that fails, the write does. Crash: nothing is
//! left of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::Vfs;
use super::error::Result;
use super::handle::FileHandle;
use super::inode::Inode;
use crate::cache::VerifiedFile;
use crate::range::ByteRange;
use crate::writer::WriteBytes;

/// A file that the kernel reads, kept like the one that is written.
pub struct Mirror(File);

/// What the kernel remembers of files.
pub trait KernelCache: Send + Sync {
    /// Drops the pages of a range, where one is given, and the attributes. Waits for pages that are being read.
    ///
    /// # Errors
    /// The kernel refuses; that it knows nothing of the inode is no error.
    fn forget(&self, ino: u64, range: Option<ByteRange>) -> io::Result<()>;
}

impl Mirror {
    fn of(backing: &VerifiedFile) -> io::Result<Mirror> {
        // The very file, whatever stands under its name by now.
        let path = format!("/proc/self/fd/{}", backing.as_fd().as_raw_fd());
        Ok(Mirror(OpenOptions::new().write(true).open(path)?))
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// Makes zeros of a range, as far as the file reaches.
    pub(super) fn zero(&self, range: ByteRange) -> io::Result<()> {
        // SAFETY: the descriptor is open for the length of the call; no memory is passed.
        let zeroed = unsafe {
            libc::fallocate(
                self.0.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                range.start() as libc::off_t,
                range.len() as libc::off_t,
            )
        };
        if zeroed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Vfs {
    /// Must come before a change of content. Holds the inode's turn, so that no handle is opened meanwhile whose
    /// reads the kernel serves itself.
    pub(super) async fn prepare_mirror(&self, inode: &Inode) -> Result<()> {
        if inode.state().used().backing.is_none() {
            return Ok(());
        }
        let (backing, reader) = {
            let mut state = inode.state();
            let used = state.used_mut();
            (used.backing.take(), used.reader.clone())
        };
        let Some(backing) = backing else { return Ok(()) };
        let mirror = Mirror::of(&backing)?;
        // From now on a write is done to both; if what follows fails, there is no handle to write by.
        inode.state().used_mut().mirror = Some(Arc::new(mirror));
        if let Some(reader) = reader {
            reader.object().give_up_file(backing).await?;
        }
        Ok(())
    }

    /// Whether there is more to do for a write by this handle than to take its bytes.
    pub(super) fn must_be_shown(&self, handle: &FileHandle) -> bool {
        let state = handle.inode.state();
        let used = state.used();
        used.mirror.is_some() || (handle.direct && used.readers > u32::from(handle.mode.read))
    }

    /// Shows what was just written to those who read the file without asking: from a mirror, or from the kernel's
    /// pages. The kernel drops the pages itself before it sends a write past them; one that was read again before
    /// the write was done here has the old bytes.
    pub(super) async fn show(
        &self,
        handle: &FileHandle,
        offset: u64,
        bytes: &impl WriteBytes,
    ) -> Result<()> {
        let mirror = handle.inode.state().used().mirror.clone();
        if let Some(mirror) = mirror {
            let mut done = 0;
            while done < bytes.len() {
                let piece = bytes.from(done)?;
                mirror.write(offset + done as u64, &piece)?;
                done += piece.len();
            }
        } else if self.must_be_shown(handle) {
            let range = ByteRange::at(offset, bytes.len() as u64);
            self.kernel_forgets_pages(&handle.inode, range).await;
        }
        Ok(())
    }

    /// Has the kernel drop its pages of a file. Must not be waited for by whom a read may wait for.
    pub(super) async fn kernel_forgets_pages(&self, inode: &Inode, range: ByteRange) {
        let mut known: Vec<u64> =
            self.handles.of(inode.ino).iter().map(|handle| handle.asked).collect();
        known.sort_unstable();
        known.dedup();
        for ino in known {
            self.kernel_forgets(ino, Some(range)).await;
        }
    }

    /// Has the kernel ask for the attributes of a file again.
    pub(super) async fn kernel_forgets_attributes(&self, ino: u64) {
        self.kernel_forgets(ino, None).await;
    }

    async fn kernel_forgets(&self, ino: u64, range: Option<ByteRange>) {
        let Some(kernel) = self.kernel.get().cloned() else { return };
        // It waits for pages that are being read, which are answered by other threads.
        let asked = self.runtime.spawn_blocking(move || kernel.forget(ino, range)).await;
        if let Err(error) = asked.map_err(io::Error::other).flatten() {
            log::warn!("the kernel keeps what it knows of inode {ino}: {error}");
        }
    }

    /// How the kernel is told. Without it, it is not.
    pub fn tell_kernel_by(&self, kernel: Arc<dyn KernelCache>) {
        // Once for each mount.
        let _ = self.kernel.set(kernel);
    }
}
