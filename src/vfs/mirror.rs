//! Cache files that the kernel reads itself (passthrough), and what becomes of them when the file is written to.
//!
//! The kernel goes on reading the file that it was given, mapped or not, for as long as a handle is open that was
//! opened so; it cannot be told otherwise. So before anything is written, the cache gives that file up, and what is
//! written and cut from then on is done to it too. It belongs to these handles alone, has no name any more, and is
//! gone with the last of them.
//!
//! A mapping that is written to needs the kernel's pages, which it has none of for such a file. So who opens the file
//! to read and write finds it under another number of the kernel's, with pages; st_ino is the same.
//!
//! Consistency: a write is answered when it is done here too; where that fails, the write does. Crash: nothing is
//! left of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::Vfs;
use super::error::{Result, VfsError};
use super::file::OpenMode;
use super::handle::FileHandle;
use super::inode::Inode;
use crate::cache::VerifiedFile;
use crate::range::ByteRange;
use crate::writer::WriteBytes;

/// A file that the kernel reads, kept like the one that is written.
pub struct Mirror(File);

/// What the kernel remembers of files.
pub trait KernelCache: Send + Sync {
    /// Drops the pages of a range, where one is given (of no bytes: from there to the end), and the attributes. Waits
    /// for pages that are being read.
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
        let Some(backing) = inode.state().used().backing.clone() else { return Ok(()) };
        let mirror = Mirror::of(&backing)?;
        let reader = {
            let mut state = inode.state();
            let used = state.used_mut();
            (used.backing, used.mirror) = (None, Some(Arc::new(mirror)));
            used.reader.clone()
        };
        if let Some(reader) = reader {
            reader.object().give_up_file(backing).await?;
        }
        Ok(())
    }

    /// The kernel lets a file be mapped by who writes it only from its own pages, and has none of a file that it
    /// reads from the cache: what was written to such a mapping would be lost in the cache file. So who opens the
    /// file to read and write is sent to another number, under which the kernel has pages. Holds the inode's turn.
    pub(super) async fn go_elsewhere(
        &self,
        inode: &Inode,
        asked: u64,
        mode: OpenMode,
    ) -> Result<()> {
        let (passes, has_alias) = {
            let state = inode.state();
            (state.used().passthroughs > 0, state.used().alias.is_some())
        };
        let goes = if passes { mode.read && mode.write } else { has_alias };
        if !goes || asked != inode.ino {
            return Ok(());
        }
        if !has_alias {
            // From now on no other handle's reads are served by the kernel itself.
            self.prepare_mirror(inode).await?;
            inode.state().used_mut().paged = None;
            self.inodes.begin_alias(inode);
        }
        // The kernel looks the name up again.
        Err(VfsError::plain(libc::ESTALE))
    }

    /// Whether there is more to do for a write by this handle than to take its bytes.
    pub(super) fn must_be_shown(&self, handle: &FileHandle) -> bool {
        let state = handle.inode.state();
        let used = state.used();
        let others_read = used.readers > u32::from(handle.mode.read);
        used.mirror.is_some() || used.elsewhere > 0 || (handle.direct && others_read)
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
        }
        let range = ByteRange::at(offset, bytes.len() as u64);
        // Pages through which this was written are locked until it is answered, and right.
        let own = if handle.direct { None } else { Some(handle.asked) };
        if self.must_be_shown(handle) {
            for ino in self.numbers_of(&handle.inode).into_iter().filter(|ino| Some(*ino) != own) {
                self.kernel_forgets(ino, Some(range)).await;
            }
        }
        Ok(())
    }

    /// Where the kernel knows the file by several numbers, it is told that the attributes have changed.
    pub(super) async fn kernel_forgets_elsewhere(&self, inode: &Inode) {
        if inode.state().used().elsewhere == 0 {
            return;
        }
        for ino in self.numbers_of(inode) {
            self.kernel_forgets(ino, None).await;
        }
    }

    /// The numbers by which the kernel has the file open.
    fn numbers_of(&self, inode: &Inode) -> Vec<u64> {
        let handles = self.handles.of(inode.ino);
        let mut numbers: Vec<u64> = handles.iter().map(|handle| handle.asked).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Has the kernel drop all pages of a file, without waiting for that.
    pub(super) fn kernel_forgets_all_soon(&self, inode: &Inode) {
        let Some(kernel) = self.kernel.get().cloned() else { return };
        let numbers = self.numbers_of(inode);
        self.runtime.spawn_blocking(move || {
            for ino in numbers {
                if let Err(error) = kernel.forget(ino, Some(ByteRange::new(0, 0))) {
                    log::warn!("the kernel keeps its pages of inode {ino}: {error}");
                }
            }
        });
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
