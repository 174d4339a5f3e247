//! A file, directory or symlink as the kernel knows it. There is one for every name that was looked at, so
//! there may be millions: what only those have that are opened or changed here is kept apart, as [`Used`].
//!
//! Lock order: an inode's operation lock (async), then the table's lock, then an inode's `state` (see `crate::lock`).

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::mirror::Mirror;
use crate::cache::{CachedObject, VerifiedFile};
use crate::clock::Instant;
use crate::lock::{Mutex, MutexGuard, rank};
use crate::namespace::attributes::{Attributes, Kind};
use crate::progress::Turn;
use crate::reader::Reader;
use crate::store::{CompactTag, ETag, Key, VersionId};
use crate::vfs::error::{Result, VfsError};
use crate::writer::Draft;

/// The root's number, fixed by FUSE.
pub const ROOT_INO: u64 = 1;

/// A file, directory or symlink that the kernel has a reference to, or that only exists here.
pub struct Inode {
    pub ino: u64,
    state: Mutex<InodeState, rank::Inode>,
    /// Made when it is first wanted: most inodes are only looked at.
    operation: OnceLock<Box<Turn>>,
}

pub struct InodeState {
    pub attributes: Attributes,
    /// When content or attributes changed: by this mount's clock, or as the store's Last-Modified tells.
    pub ctime: SystemTime,
    /// Length in bytes, of the version `etag`; while there is a draft, the draft knows better.
    pub len: u64,
    /// `None`: the store has no object for it (a new file, or an implicit directory).
    pub etag: Option<CompactTag>,
    /// What the store says is believed until then.
    pub valid_until: Instant,
    /// An object that this file replaced may still stand under its key: the file was moved over it, or
    /// emptied before a crash, and has not been uploaded since.
    pub shadows: bool,
    /// Its name is gone; it lives for its handles only.
    pub unlinked: bool,
    /// Its name is about to go, and all of it, since it is not open: an open waits for that.
    pub leaving: bool,
    /// Attributes were changed that the object in the store does not have yet.
    pub unsaved: bool,
    /// A program has set the times of what is being written.
    pub times_set: bool,
    /// A directory whose time is that of a change of its entries, which its marker does not say.
    pub touched: bool,
    /// A directory that has a marker object.
    pub marker: bool,
    used: Option<Box<Used>>,
}

/// Open handles, counted by what they may do.
#[derive(Clone, Copy, Default)]
pub struct Opens {
    pub all: u32,
    /// May write.
    pub writers: u32,
    /// May read, and ask us for it.
    pub readers: u32,
    /// Read the cache file without asking.
    pub passthroughs: u32,
    /// Are known to the kernel by another number than the inode's own.
    pub elsewhere: u32,
}

impl Opens {
    pub fn add(&mut self, opened: Opens) {
        self.all += opened.all;
        self.writers += opened.writers;
        self.readers += opened.readers;
        self.passthroughs += opened.passthroughs;
        self.elsewhere += opened.elsewhere;
    }

    pub fn remove(&mut self, closed: Opens) {
        self.all -= closed.all;
        self.writers -= closed.writers;
        self.readers -= closed.readers;
        self.passthroughs -= closed.passthroughs;
        self.elsewhere -= closed.elsewhere;
    }
}

/// What an inode has that is, or was, opened or changed here.
#[derive(Default)]
pub struct Used {
    /// The next version, while the file is open for writing or waits for its upload.
    pub draft: Option<Arc<Draft>>,
    /// Set by a program, and kept for as long as the inode is; otherwise it is the mtime.
    pub atime: Option<SystemTime>,
    /// When the store got what was changed here, where that was long after the change.
    pub stored: Option<SystemTime>,
    /// Open handles.
    pub open: Opens,
    /// The cache file that the kernel reads itself, until it is to be changed.
    pub backing: Option<VerifiedFile>,
    /// The same from then on: it follows what is written.
    pub mirror: Option<Arc<Mirror>>,
    /// What open handles read as long as no draft differs from it: the version `etag`, or the
    /// `kept_copy` of it. Made when it is first wanted.
    pub reader: Option<Arc<Reader>>,
    /// The other number by which the kernel is told of it; see [`super::mirror`].
    pub alias: Option<u64>,
    /// The name is another file's since this one was opened, by a change made elsewhere.
    pub displaced: bool,
    /// The inode that is opened in this one's place, which had lost its name before it was opened.
    pub replaced_by: Option<Arc<Inode>>,
    /// How long the file was before each write whose bytes are not shown yet ([`Growing`]).
    pub growing: Vec<u64>,
    /// The version whose pages the kernel may keep.
    pub paged: Option<CompactTag>,
    /// The temporary object that has the version's bytes for its users since its key went; few have it.
    pub kept_copy: Option<Box<(Key, ETag)>>,
    /// The key of which this is a version, not what it has now: it was asked for as `NAME@VERSION`, and nothing of it changes.
    pub version_of: Option<Box<(Key, VersionId)>>,
}

static UNUSED: Used = Used {
    draft: None,
    atime: None,
    stored: None,
    open: Opens { all: 0, writers: 0, readers: 0, passthroughs: 0, elsewhere: 0 },
    backing: None,
    mirror: None,
    reader: None,
    alias: None,
    displaced: false,
    replaced_by: None,
    growing: Vec::new(),
    paged: None,
    kept_copy: None,
    version_of: None,
};

/// A write that others do not see yet. Until this is dropped the kernel is told of no greater length than the one
/// before: it would show zeros for what is new, in a page that it has read before.
pub struct Growing<'a> {
    inode: &'a Inode,
    before: u64,
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        let mut state = self.inode.state();
        let growing = &mut state.used_mut().growing;
        if let Some(place) = growing.iter().position(|before| *before == self.before) {
            growing.swap_remove(place);
        }
    }
}

impl Inode {
    pub fn new(ino: u64, state: InodeState) -> Arc<Inode> {
        Arc::new(Inode { ino, state: Mutex::new(state), operation: OnceLock::new() })
    }

    pub fn state(&self) -> MutexGuard<'_, InodeState> {
        self.state.lock()
    }

    /// Held by operations that must not overlap on one inode: open, publish, rename, unlink.
    pub fn operation_lock(&self) -> &Turn {
        self.operation.get_or_init(Box::default)
    }

    pub fn kind(&self) -> Kind {
        self.state().attributes.kind
    }

    pub fn draft(&self) -> Option<Arc<Draft>> {
        self.state().used().draft.clone()
    }

    /// EROFS for a version that was asked for by its id: it is what it is.
    pub fn check_changeable(&self) -> Result<()> {
        match self.state().used().version_of {
            Some(_) => Err(VfsError::plain(libc::EROFS)),
            None => Ok(()),
        }
    }

    /// What is about to be written to the file, `len` bytes long, has to be shown.
    pub fn grows(&self, len: u64) -> Growing<'_> {
        self.state().used_mut().growing.push(len);
        Growing { inode: self, before: len }
    }
}

impl InodeState {
    /// Whether this machine knows more of it than the store does.
    pub fn is_local(&self) -> bool {
        self.used().draft.is_some() || self.unsaved
    }

    /// The draft that has the attributes when it becomes an object, where there is one.
    pub fn draft_that_takes_attributes(&self) -> Option<Arc<Draft>> {
        self.used().draft.clone().filter(|draft| draft.is_dirty())
    }

    /// The version that the store has.
    pub fn etag(&self) -> Option<ETag> {
        self.etag.as_ref().map(CompactTag::etag)
    }

    /// Length of the file as it is here; 0 of what is no file.
    pub fn len(&self) -> u64 {
        self.used().draft.as_ref().map_or(self.len, |draft| draft.len())
    }

    /// Its name is about to go. If it is open it stays so meanwhile, since a close waits for the inode's operation lock; if
    /// it is not, it is not opened without that lock.
    pub fn leaves(&mut self) {
        self.leaving = self.used().open.all == 0;
    }

    /// Whether there is something to open: it has its name, or is kept for its open handles.
    pub fn stands(&self) -> bool {
        !self.unlinked || self.used().open.all > 0 || self.used().draft.is_some()
    }

    /// How long the file is for the kernel, which is told of a draft's length when it can show all of it.
    pub fn shown_len(&self) -> u64 {
        let shown = self.used().growing.iter().min();
        shown.map_or(u64::MAX, |before| *before).min(self.len())
    }

    pub fn used(&self) -> &Used {
        self.used.as_deref().unwrap_or(&UNUSED)
    }

    pub fn used_mut(&mut self) -> &mut Used {
        self.used.get_or_insert_default()
    }

    /// From now on its handles read this object, which holds what the file holds. A change made here must be
    /// followed by this, or by [`InodeState::read_anew`].
    pub fn read_from(&mut self, object: Arc<CachedObject>) {
        if self.used().reader.is_some() {
            self.used_mut().reader = Some(Arc::new(Reader::new(object)));
        }
    }

    /// What the kernel has of it may be wrong: the next open drops it.
    pub fn keep_no_pages(&mut self) {
        if let Some(used) = &mut self.used {
            used.paged = None;
        }
    }

    /// The version has changed here: its handles read the new one.
    pub fn read_anew(&mut self) {
        if let Some(used) = &mut self.used {
            used.reader = None;
        }
    }
}

/// What a fresh inode looks like; not valid yet.
pub fn new_state(attributes: Attributes, len: u64, etag: Option<&ETag>) -> InodeState {
    InodeState {
        ctime: attributes.mtime,
        attributes,
        len,
        etag: etag.map(CompactTag::new),
        valid_until: Instant::now(),
        shadows: false,
        unlinked: false,
        leaving: false,
        unsaved: false,
        times_set: false,
        touched: false,
        marker: false,
        used: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a name that is only looked at costs, beside the name itself and its place in the table.
    #[test]
    fn an_inode_that_is_only_looked_at_is_small() {
        let attributes = Attributes::new(Kind::File, 0o644, 0, 0, SystemTime::UNIX_EPOCH);
        let etag = ETag::new("d41d8cd98f00b204e9800998ecf8427e");
        let inode = Inode::new(2, new_state(attributes, 0, Some(&etag)));
        assert!(inode.state().used.is_none() && inode.operation.get().is_none());
        assert!(size_of::<Inode>() <= 160, "{} bytes", size_of::<Inode>());
    }
}
