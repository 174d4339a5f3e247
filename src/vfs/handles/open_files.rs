//! Open files, counted in as they are opened, and what the kernel has of them: pages, attributes, a cache file that it reads itself. Before a change it is
//! led away from what would be wrong, after it is told what is.
//!
//! See `tree::mirror`.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, OnceLock};

use super::handle::{FileHandle, Handles, OpenMode};
use super::small_readers::{Pieces, SmallReaders};
use super::transport::{Opened, Prospects, Transport, is_current, transport};
use crate::blocking;
use crate::namespace::attributes::Kind;
use crate::namespace::escape;
use crate::range::ByteRange;
use crate::seam;
use crate::store::Key;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::request::Caller;
use crate::vfs::settings::VfsSettings;
use crate::vfs::tree::{Inode, Mirror, Tree};
use crate::writer::WriteBytes;

/// All open files, and what the kernel has of them.
pub struct OpenFiles {
    pub handles: Handles,
    pub small_readers: SmallReaders,
    kernel: OnceLock<Arc<dyn KernelCache>>,
    pub(super) tree: Arc<Tree>,
    pub(super) settings: Arc<VfsSettings>,
    pub(super) runtime: tokio::runtime::Handle,
}

/// What the kernel remembers of files.
pub trait KernelCache: Send + Sync {
    /// Drops the pages of a range, where one is given (of no bytes: from there to the end), and the attributes. Waits
    /// for pages that are being read.
    ///
    /// # Errors
    /// The kernel refuses; that it knows nothing of the inode is no error.
    fn forget(&self, ino: u64, range: Option<ByteRange>) -> io::Result<()>;

    /// Drops what it knows of a name in a directory, also that there is none. Waits for changes of names that are under
    /// way in the directory.
    ///
    /// # Errors
    /// As of [`Self::forget`].
    fn forget_name(&self, parent: u64, name: &[u8]) -> io::Result<()>;
}

impl OpenFiles {
    pub fn new(
        tree: Arc<Tree>,
        settings: Arc<VfsSettings>,
        runtime: tokio::runtime::Handle,
    ) -> OpenFiles {
        let (handles, small_readers) = (Handles::default(), SmallReaders::default());
        OpenFiles { handles, small_readers, kernel: OnceLock::new(), tree, settings, runtime }
    }

    /// Counts a handle in and chooses its way, in one moment, so that neither is overtaken by another open or by the
    /// loss of the name. `None` where the inode has lost its name, or, without the operation lock, its draft; or is
    /// about to.
    pub fn enter(
        &self,
        caller: Caller,
        asked: u64,
        inode: &Arc<Inode>,
        mode: OpenMode,
        prospects: Prospects,
        is_locked: bool,
    ) -> Option<Opened> {
        let mut state = inode.state();
        if !state.stands() || (!is_locked && (state.used().draft.is_none() || state.leaving)) {
            return None;
        }
        let reader = prospects.reader.clone().filter(|reader| is_current(&state, reader));
        let transport = if asked == inode.ino {
            transport(&mut state, mode, &prospects, reader.as_deref())
        } else if state.used().alias == Some(asked) && !mode.direct && mode.read {
            Transport::Paged { keep: false }
        } else {
            // The kernel may have pages of the file before.
            Transport::Direct
        };
        let handle = FileHandle {
            inode: inode.clone(),
            mode,
            asked,
            passthrough: matches!(transport, Transport::Passthrough { .. }),
            direct: !matches!(transport, Transport::Paged { .. }),
            opener: caller.pid,
            pieces: matches!(transport, Transport::DirectWhileCold).then(Pieces::default),
        };
        let used = state.used_mut();
        used.open.add(handle.counted());
        if let Transport::Passthrough { file, .. } = &transport {
            used.backing.get_or_insert_with(|| file.clone());
        }
        if used.reader.is_none() {
            used.reader = reader;
        }
        drop(state);
        let fh = self.handles.add_file(handle);
        Some(Opened { fh, transport })
    }

    /// Must come before a change of content. The caller holds the operation lock, so that no handle is opened meanwhile whose
    /// reads the kernel serves itself.
    pub async fn prepare_mirror(&self, inode: &Inode) -> Result<()> {
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

    /// The kernel lets a file be mapped by a writer only from its own pages, and has none of a file that it
    /// reads from the cache: what was written to such a mapping would be lost in the cache file. So an open of
    /// the file to read and write is sent to another number, under which the kernel has pages. The caller holds the operation lock.
    pub async fn go_elsewhere(&self, inode: &Inode, asked: u64, mode: OpenMode) -> Result<()> {
        let (passes, has_alias) = {
            let state = inode.state();
            (state.used().open.passthroughs > 0, state.used().alias.is_some())
        };
        let goes = if passes { mode.read && mode.write } else { has_alias };
        if !goes || asked != inode.ino {
            return Ok(());
        }
        if !has_alias {
            // From now on no other handle's reads are served by the kernel itself.
            self.prepare_mirror(inode).await?;
            inode.state().used_mut().paged = None;
            self.tree.inodes.begin_alias(inode);
        }
        // The kernel looks the name up again.
        Err(VfsError::plain(libc::ESTALE))
    }

    /// Whether there is more to do for a write by this handle than to take its bytes.
    pub fn must_be_shown(&self, handle: &FileHandle) -> bool {
        let state = handle.inode.state();
        let used = state.used();
        let others_read = used.open.readers > u32::from(handle.mode.read);
        used.mirror.is_some() || used.open.elsewhere > 0 || (handle.direct && others_read)
    }

    /// Whether the kernel knows the file by several numbers, each with a lock and pages of its own.
    pub fn has_several_numbers(inode: &Inode) -> bool {
        let state = inode.state();
        state.used().open.elsewhere > 0 || state.used().alias.is_some()
    }

    /// Does to the mirror, where there is one, what was written. In the order in which it was: the caller holds the
    /// operation lock where the kernel has several numbers, whose locks do not keep writes apart.
    pub fn mirror_write(inode: &Inode, offset: u64, bytes: &impl WriteBytes) -> Result<()> {
        let Some(mirror) = inode.state().used().mirror.clone() else { return Ok(()) };
        let mut done = 0;
        while done < bytes.len() {
            let piece = bytes.from(done)?;
            mirror.write(offset + done as u64, &piece)?;
            done += piece.len();
        }
        Ok(())
    }

    /// Shows what was just written to readers that do not ask us, since they have the kernel's pages.
    /// The kernel drops the pages itself before it sends a write past them; one that was read again before
    /// the write was done here has the old bytes.
    pub async fn show(&self, handle: &FileHandle, range: ByteRange) {
        // Pages through which this was written are locked until it is answered, and right.
        let own = if handle.direct { None } else { Some(handle.asked) };
        if self.must_be_shown(handle) {
            seam::pass_at("show", || self.tree.file_key(handle.inode.ino).to_string()).await;
            for ino in self.numbers_of(&handle.inode).into_iter().filter(|ino| Some(*ino) != own) {
                self.kernel_forgets(ino, Some(range)).await;
            }
        }
    }

    /// Has the kernel drop what it has of a range that was cut off or zeroed, and the attributes, under other numbers
    /// than the one by which it has asked for that: under that one it does so itself. The caller does not hold the
    /// operation lock, for which pages that are written back meanwhile wait.
    pub async fn show_elsewhere(&self, inode: &Inode, asked: u64, range: ByteRange) {
        if Self::has_several_numbers(inode) {
            for ino in self.numbers_of(inode).into_iter().filter(|ino| *ino != asked) {
                self.kernel_forgets(ino, Some(range)).await;
            }
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
    pub fn kernel_forgets_all_soon(&self, inode: &Inode) {
        let Some(kernel) = self.kernel.get().cloned() else { return };
        let numbers = self.numbers_of(inode);
        blocking::run_on(&self.runtime, move || {
            for ino in numbers {
                if let Err(error) = kernel.forget(ino, Some(ByteRange::new(0, 0))) {
                    log::warn!("the kernel keeps its pages of inode {ino}: {error}");
                }
            }
        });
    }

    /// Has the kernel look a name up again, without waiting for that: it may be a change of that very name that is
    /// under way.
    pub fn kernel_forgets_name_soon(&self, parent: u64, name: Vec<u8>) {
        let Some(kernel) = self.kernel.get().cloned() else { return };
        blocking::run_on(&self.runtime, move || {
            if let Err(error) = kernel.forget_name(parent, &name) {
                log::warn!("the kernel keeps a name in the directory of inode {parent}: {error}");
            }
        });
    }

    /// The same, and waits for that: no change of the name is under way.
    pub async fn kernel_forgets_name(&self, parent: u64, name: &[u8]) {
        let Some(kernel) = self.kernel.get().cloned() else { return };
        let name = escape::to_name(name).unwrap_or(Cow::Borrowed(name)).into_owned();
        let forget = move || kernel.forget_name(parent, &name);
        let asked = blocking::run_on(&self.runtime, forget).await;
        if let Err(error) = asked.map_err(io::Error::other).flatten() {
            log::warn!("the kernel keeps a name in the directory of inode {parent}: {error}");
        }
    }

    /// Has the kernel drop all pages of the files that are read from an object, now and at the next open.
    pub fn forget_pages_of(&self, key: &Key) {
        for ino in self.tree.inodes.numbers() {
            let Ok(inode) = self.tree.inodes.get(ino) else { continue };
            let is_copy = |inode: &Inode| {
                let state = inode.state();
                state.used().kept_copy.as_ref().is_some_and(|kept| kept.0 == *key)
            };
            if inode.kind() == Kind::File
                && (self.tree.object_key(&inode) == *key || is_copy(&inode))
            {
                inode.state().keep_no_pages();
                self.kernel_forgets_all_soon(&inode);
            }
        }
    }

    /// Has the kernel ask for the attributes of a file again.
    pub async fn kernel_forgets_attributes(&self, ino: u64) {
        self.kernel_forgets(ino, None).await;
    }

    async fn kernel_forgets(&self, ino: u64, range: Option<ByteRange>) {
        let Some(kernel) = self.kernel.get().cloned() else { return };
        // It waits for pages that are being read, which are answered by other threads.
        let asked = blocking::run_on(&self.runtime, move || kernel.forget(ino, range)).await;
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
