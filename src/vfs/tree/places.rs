//! The tree: where inodes are, which operations are under way on them, and what stat(2) says of them.

use std::sync::Arc;

use super::inode::{Inode, ROOT_INO};
use super::subtrees::{Closed, Entered, Subtrees};
use super::table::InodeTable;
use crate::clock::{self, Instant};
use crate::namespace::Catalog;
use crate::namespace::attributes::{Attributes, Kind};
use crate::progress::TurnGuard;
use crate::seam;
use crate::store::{ETag, Key, ListedObject};
use crate::vfs::error::{Result, VfsError};
use crate::vfs::faults::Faults;
use crate::vfs::request::{Caller, FileAttributes};
use crate::vfs::settings::VfsSettings;

/// All names that are known, and how new ones are found (see `lookup`).
pub struct Tree {
    pub inodes: InodeTable,
    subtrees: Subtrees,
    pub catalog: Arc<Catalog>,
    pub(in crate::vfs) settings: Arc<VfsSettings>,
    pub(in crate::vfs) faults: Arc<Faults>,
}

/// Held by an operation that changes an inode: no other one does meanwhile, and the inode keeps its place.
pub struct Operation<'a> {
    _lock: TurnGuard<'a>,
    _entered: Entered<'a>,
}

impl Tree {
    pub fn new(
        root: Key,
        catalog: Arc<Catalog>,
        settings: Arc<VfsSettings>,
        faults: Arc<Faults>,
    ) -> Tree {
        let attributes = Attributes::implicit_directory(clock::wall(), &settings.defaults);
        let inodes = InodeTable::new(root, attributes);
        Tree { inodes, subtrees: Subtrees::new(), catalog, settings, faults }
    }

    /// The inode of that number, or the one that is opened in its place.
    pub fn get(&self, ino: u64) -> Result<Arc<Inode>> {
        self.inodes.get(ino)
    }

    /// The key of a file, which is its path below the root.
    pub fn file_key(&self, ino: u64) -> Key {
        self.inodes.file_key(ino)
    }

    /// The key of the object that a file's name means: its own, or that of which it is a version.
    pub fn object_key(&self, inode: &Inode) -> Key {
        let version_of = inode.state().used().version_of.as_ref().map(|of| of.0.clone());
        version_of.unwrap_or_else(|| self.file_key(inode.ino))
    }

    /// The key prefix of a directory: ends in `/`, unless it is the bucket itself.
    pub fn directory_key(&self, ino: u64) -> Key {
        self.inodes.directory_key(ino)
    }

    /// To change these inodes, or entries of theirs.
    pub async fn enter(&self, inos: [u64; 2]) -> Entered<'_> {
        self.subtrees.enter(&self.inodes, inos).await
    }

    /// To look at an inode, or for an entry of it.
    pub async fn look(&self, ino: u64) -> Entered<'_> {
        self.subtrees.look(&self.inodes, ino).await
    }

    /// Keeps changes out of the directory and all that is below it, once those under way have ended.
    pub async fn close(&self, ino: u64) -> Closed<'_> {
        self.subtrees.close(&self.inodes, ino).await
    }

    /// Likewise looks.
    pub async fn hide(&self, ino: u64) -> Closed<'_> {
        self.subtrees.hide(&self.inodes, ino).await
    }

    /// An entry was made in or taken from the directory: its time is now, here and for as long as the
    /// kernel knows it. The marker is not written again for that: it would cost a request a file.
    pub fn touch_directory(&self, ino: u64) {
        if let Ok(inode) = self.get(ino) {
            let mut state = inode.state();
            state.attributes.mtime = clock::wall();
            state.ctime = state.attributes.mtime;
            state.touched = true;
        }
    }

    /// The group of a new entry: the caller's, or the directory's where that has the set-group-id bit.
    pub fn group_for_new(&self, parent: u64, caller: Caller) -> u32 {
        match self.get(parent) {
            Ok(inode) if self.has_set_gid(parent) => inode.state().attributes.gid,
            _ => caller.gid,
        }
    }

    pub fn has_set_gid(&self, ino: u64) -> bool {
        self.get(ino).is_ok_and(|inode| inode.state().attributes.mode & libc::S_ISGID != 0)
    }

    /// The operation lock of one inode.
    pub async fn operation_on<'a>(&'a self, inode: &'a Inode) -> Operation<'a> {
        let entered = self.enter([inode.ino, inode.ino]).await;
        let operation = Operation { _lock: inode.operation_lock().lock().await, _entered: entered };
        seam::pass_at("operation-lock", || self.file_key(inode.ino).to_string()).await;
        operation
    }

    /// The same, of what was done with a file.
    pub fn fault_of(&self, inode: &Inode, error: impl Into<VfsError>) -> VfsError {
        let error = error.into();
        self.faults.pass(error.of_key(&self.file_key(inode.ino)))
    }

    /// The directory's key and the name of an inode.
    pub fn place(&self, ino: u64) -> (Key, Vec<u8>) {
        match self.inodes.place(ino) {
            Some((parent, name)) => (self.directory_key(parent), name),
            None => (Key::default(), Vec::new()),
        }
    }

    /// What stat(2) says of an inode now.
    pub fn attributes_of(&self, inode: &Inode) -> FileAttributes {
        let state = inode.state();
        let len = match (&state.used().draft, &state.attributes.extra().target) {
            (None, Some(target)) => target.len() as u64,
            _ => state.shown_len(),
        };
        let links = match state.attributes.kind {
            _ if state.unlinked => 0,
            // A directory's subdirectories are not counted: that would take a listing.
            Kind::Directory => 2,
            _ => 1,
        };
        let valid_for = if state.is_local() || state.unlinked || inode.ino == ROOT_INO {
            self.settings.believed_for()
        } else {
            state.valid_until.saturating_duration_since(Instant::now())
        };
        FileAttributes {
            ino: inode.ino,
            node: inode.ino,
            kind: state.attributes.kind,
            mode: state.attributes.mode,
            uid: state.attributes.uid,
            gid: state.attributes.gid,
            len,
            atime: state.used().atime.unwrap_or(state.attributes.mtime),
            mtime: state.attributes.mtime,
            ctime: state.ctime,
            links,
            valid_for,
        }
    }

    /// The name exists here before it does in the bucket, or with content that the bucket has not.
    pub fn note_local_file(&self, inode: &Inode) {
        let (dir, name) = self.place(inode.ino);
        let key = self.file_key(inode.ino);
        let object = {
            let state = inode.state();
            ListedObject {
                key,
                etag: state.etag().unwrap_or_else(|| ETag::new("")),
                len: state.used().draft.as_ref().map_or(state.len, |draft| draft.len()),
                last_modified: state.attributes.mtime,
                storage_class: None,
            }
        };
        self.catalog.local(&dir, &name, object);
    }
}
