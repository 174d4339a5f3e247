//! Directories: scanning, making, and knowing when one is empty.

use std::sync::Arc;

use super::error::{Result, VfsError};
use super::handle::DirHandle;
use super::inode::{Inode, ROOT_INO, new_state};
use super::subtrees::Entered;
use super::{Caller, FileAttributes, Vfs};
use crate::clock::Instant;
use crate::namespace::attributes::{Attributes, Kind, directory_type_with};
use crate::namespace::dir_stream::DirStream;
use crate::namespace::name;
use crate::namespace::segment::Listed;
use crate::store::{Key, ListRequest, ListedObject, Precondition};
use crate::upload::ASIDE_PREFIX;

/// One name that readdir yields.
#[derive(Debug)]
pub struct Entry<'a> {
    pub ino: u64,
    /// Where the scan goes on behind this entry.
    pub offset: u64,
    pub kind: Kind,
    pub name: &'a [u8],
}

/// `.` and `..` come before what the directory stream yields.
const DOTS: u64 = 2;

/// Names in an answer at the beginning of a directory; later ones have as many as there were before. The kernel
/// leaves room for tens of thousands, and asks for attributes with the next ones if somebody looked at these.
const NAMES_FIRST: u64 = 128;
/// Entries of unknown attributes in one answer with attributes: the kernel leaves room for thousands, and the
/// first would be out of date before the last is there.
const UNKNOWN_MAX: usize = 128;

/// A walk over the entries of an open directory.
struct Scan<'a> {
    vfs: &'a Vfs,
    stream: tokio::sync::MutexGuard<'a, DirStream>,
    /// How many of `.` and `..` have been yielded.
    dots: u64,
    /// The directory keeps its place meanwhile.
    _looks: Entered<'a>,
}

/// One entry of a [`Scan`].
struct Found {
    /// Behind the entry.
    offset: u64,
    name: Vec<u8>,
    /// `None` for the dots.
    listed: Option<Listed>,
    /// When the store was asked for it.
    at: Instant,
}

impl<'a> Scan<'a> {
    /// Begins behind `offset`.
    async fn begin(vfs: &'a Vfs, handle: &'a DirHandle, offset: u64) -> Scan<'a> {
        let looks = vfs.subtrees.look(&vfs.inodes, handle.inode.ino).await;
        let mut stream = handle.stream.lock().await;
        let dir = vfs.inodes.directory_key(handle.inode.ino);
        if *stream.dir() != dir {
            // Renamed while it was open: its names are the same.
            *stream = vfs.catalog.scan(dir);
        }
        match offset {
            0 => stream.rewind(),
            _ => stream.seek(offset.saturating_sub(DOTS)),
        }
        Scan { vfs, stream, dots: offset.min(DOTS), _looks: looks }
    }

    async fn next(&mut self) -> Result<Option<Found>> {
        if self.dots < DOTS {
            self.dots += 1;
            let name = vec![b'.'; self.dots as usize];
            return Ok(Some(Found { offset: self.dots, name, listed: None, at: Instant::now() }));
        }
        loop {
            let next = self.stream.next().await.map_err(|error| self.vfs.fault(error))?;
            let Some(entry) = next else { return Ok(None) };
            if !self.vfs.is_own(self.stream.dir(), &entry.name) {
                let (offset, listed) = (entry.offset + DOTS, Some(entry.listed));
                return Ok(Some(Found { offset, name: entry.name, listed, at: entry.at }));
            }
        }
    }
}

impl Vfs {
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let inode = self.inodes.get(ino)?;
        if inode.kind() != Kind::Directory {
            return Err(VfsError::plain(libc::ENOTDIR));
        }
        let dir = self.inodes.directory_key(ino);
        // What is asked for ahead is asked by tasks.
        let _runtime = self.runtime.enter();
        self.looks_into(ino, &dir);
        let stream = self.catalog.scan(dir);
        Ok(self.handles.add_directory(DirHandle { inode, stream: tokio::sync::Mutex::new(stream) }))
    }

    pub fn releasedir(&self, fh: u64) {
        self.handles.remove_directory(fh);
    }

    /// Yields the entries behind `offset` until `emit` says that it is full, or the end. Names come
    /// from the listing alone: nothing here costs a request for a single object.
    pub async fn readdir(
        &self,
        fh: u64,
        offset: u64,
        mut emit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let handle = self.handles.directory(fh)?;
        let parent = handle.inode.ino;
        let mut scan = Scan::begin(self, &handle, offset).await;
        let most = offset.max(NAMES_FIRST);
        while let Some(found) = scan.next().await? {
            let name = found.name.as_slice();
            let (ino, kind) = match &found.listed {
                None => (parent, Kind::Directory),
                Some(Listed::Directory(_)) => (self.inodes.ino_of(parent, name), Kind::Directory),
                Some(Listed::File(object)) => {
                    let kind = self.kind_of_listed(parent, name, object);
                    (self.inodes.ino_of(parent, name), kind)
                }
            };
            if emit(Entry { ino, offset: found.offset, kind, name })
                || found.offset >= offset + most
            {
                break;
            }
        }
        Ok(())
    }

    /// As [`Vfs::readdir`], with attributes; the kernel holds a reference to each entry that was emitted,
    /// but for the dots.
    ///
    /// The kernel asks for attributes at the beginning of each directory, and later if somebody looked at
    /// entries. At the beginning those are told that are known without a request. Where a program looks
    /// at name after name, the attributes of the next are waited for here, which spares it the asking.
    /// Otherwise they are told as the listing has them, valid for no time: who wants to know asks by
    /// `lookup`.
    pub async fn readdir_plus(
        &self,
        fh: u64,
        offset: u64,
        mut emit: impl FnMut(Entry<'_>, &FileAttributes) -> bool,
    ) -> Result<()> {
        let handle = self.handles.directory(fh)?;
        let parent = handle.inode.ino;
        let mut scan = Scan::begin(self, &handle, offset).await;
        let (mut waits, mut unknown) = (None, 0);
        while let Some(found) = scan.next().await? {
            let name = found.name.as_slice();
            let Some(listed) = &found.listed else {
                let entry =
                    Entry { ino: parent, offset: found.offset, kind: Kind::Directory, name };
                if emit(entry, &self.attributes_of(&handle.inode)) {
                    break;
                }
                continue;
            };
            let walked = || offset > 0 && self.is_walked(parent, name, listed);
            let waits_now = *waits.get_or_insert_with(walked);
            let inode = if waits_now {
                self.walked(parent, name, listed, found.at).await
            } else {
                self.known_in_listing(parent, name, listed, found.at)
            };
            if offset == 0 && inode.is_none() {
                break;
            }
            unknown += usize::from(waits_now || inode.is_none());
            // Who asks for this entry hears of the error, and the rest need not run into it first.
            waits = Some(waits_now && inode.is_some());
            let mut inode =
                inode.unwrap_or_else(|| self.guessed_from_listing(parent, name, listed));
            // Counted first: the kernel may ask by this number as soon as it has the answer. An inode may have lost its
            // name since it was found, and be gone with that.
            let node = loop {
                match self.inodes.hold(&inode) {
                    Some(node) => break node,
                    None => inode = self.guessed_from_listing(parent, name, listed),
                }
            };
            let entry = Entry { ino: inode.ino, offset: found.offset, kind: inode.kind(), name };
            let attributes = FileAttributes { node, ..self.attributes_of(&inode) };
            if emit(entry, &attributes) {
                self.inodes.forget(node, 1);
                break;
            }
            if unknown == UNKNOWN_MAX {
                break;
            }
        }
        Ok(())
    }

    /// A listing cannot tell a symlink from a file; an inode or the attribute cache can.
    fn kind_of_listed(&self, parent: u64, name: &[u8], object: &ListedObject) -> Kind {
        if let Some(inode) = self.inodes.child(parent, name) {
            return inode.kind();
        }
        self.catalog.kind_of(object)
    }

    /// Objects that are only there for a while, for our own ends, are not shown.
    fn is_own(&self, dir: &Key, name: &[u8]) -> bool {
        name.starts_with(ASIDE_PREFIX) || self.uploads.is_donor_key(&dir.join(name))
    }

    /// mkdir(2): a marker, so that the directory outlives the mount while it is empty.
    pub async fn mkdir(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        permissions: u32,
    ) -> Result<FileAttributes> {
        self.refuse_if_read_only()?;
        let _entered = self.subtrees.enter(&self.inodes, [parent, parent]).await;
        let key = name::directory_key(&self.inodes.directory_key(parent), name)?;
        if self.find_child(parent, name).await?.is_some() {
            return Err(VfsError::plain(libc::EEXIST));
        }
        // When it was last known not to exist, and so to have nothing in it.
        let absent_since = self.catalog.absent_since(&self.inodes.directory_key(parent), name);
        let group = self.group_for_new(parent, caller);
        let mut attributes =
            Attributes::new(Kind::Directory, permissions, caller.uid, group, self.now());
        if self.has_set_gid(parent) {
            attributes.mode |= libc::S_ISGID;
        }
        let made = self.put_marker(&key, &attributes, self.if_new()).await;
        let later = self.is_for_later(&made);
        if later {
            self.catalog.local_directory(&key);
        } else {
            made?;
            self.catalog.directory_made(&key, &attributes, absent_since);
        }
        let mut state = new_state(attributes, 0, None);
        state.marker = true;
        state.valid_until = self.fresh_until();
        let inode = self.inodes.insert_held(parent, name, state);
        if later && let Err(error) = self.attributes_changed(&inode) {
            self.catalog.withdraw_local(&self.inodes.directory_key(parent), name);
            inode.state().unsaved = false;
            self.inodes.unname(parent, name);
            self.inodes.forget(inode.ino, 1);
            return Err(error);
        }
        self.touch_directory(parent);
        Ok(self.attributes_of(&inode))
    }

    /// Whether a marker that could not be written is one of the things that write-back does later: it is then
    /// journaled as the attributes of its directory.
    fn is_for_later(&self, made: &Result<()>) -> bool {
        self.settings.write_back && made.as_ref().is_err_and(|error| error.unanswered)
    }

    /// Writes a directory's marker with these attributes.
    pub(super) async fn put_marker(
        &self,
        key: &Key,
        attributes: &Attributes,
        precondition: Precondition,
    ) -> Result<()> {
        let mut options = attributes.to_write_options()?.marked();
        if !self.store.capabilities().marker_metadata {
            options.content_type = Some(directory_type_with(&options.metadata));
        }
        let body = bytes::Bytes::new();
        self.store
            .put(key, body, &options, &precondition)
            .await
            .map_err(|error| self.exists_or_fault(error))?;
        Ok(())
    }

    /// rmdir(2).
    pub async fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.refuse_if_read_only()?;
        let _entered = self.subtrees.enter(&self.inodes, [parent, parent]).await;
        let inode =
            self.find_child(parent, name).await?.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
        if inode.kind() != Kind::Directory {
            return Err(VfsError::plain(libc::ENOTDIR));
        }
        let _turn = inode.turn().lock().await;
        let prefix = self.inodes.directory_key(inode.ino);
        if self.has_entries(&inode, &prefix).await? {
            return Err(VfsError::plain(libc::ENOTEMPTY));
        }
        self.delete_markers(&prefix).await?;
        self.objects.directory_deleted(&prefix);
        self.inodes.unname(parent, name);
        inode.state().unlinked = true;
        self.touch_directory(parent);
        self.inodes.settle(inode.ino);
        Ok(())
    }

    /// Deletes the objects that say that a directory is there, in whichever form.
    async fn delete_markers(&self, prefix: &Key) -> Result<()> {
        for key in self.catalog.markers(prefix) {
            self.store.delete(&key).await.map_err(|error| self.fault(error))?;
        }
        Ok(())
    }

    /// Whether a directory holds anything, here or in the store.
    pub(super) async fn has_entries(&self, inode: &Inode, prefix: &Key) -> Result<bool> {
        let local = self.inodes.children(inode.ino);
        if local.iter().any(|child| child.draft().is_some()) {
            return Ok(true);
        }
        // The marker itself, and one more.
        let request = ListRequest {
            prefix: prefix.clone(),
            by_directory: true,
            max_keys: Some(3),
            ..ListRequest::default()
        };
        let page = self.store.list(&request).await.map_err(|error| self.fault(error))?;
        let object = page
            .objects
            .iter()
            .any(|object| object.key != *prefix && !self.uploads.is_donor_key(&object.key));
        Ok(object || !page.common_prefixes.is_empty())
    }

    /// An entry was made in or taken from the directory: its time is now, here and for as long as the
    /// kernel knows it. The marker is not written again for that: it would cost a request a file.
    pub(super) fn touch_directory(&self, ino: u64) {
        if let Ok(inode) = self.inodes.get(ino) {
            let mut state = inode.state();
            state.attributes.mtime = self.now();
            state.ctime = state.attributes.mtime;
            state.touched = true;
        }
    }

    /// A directory without a marker gets one before its last entry can go, so that it stays.
    pub(super) async fn keep_directory(&self, ino: u64) -> Result<()> {
        if ino == ROOT_INO {
            return Ok(());
        }
        let inode: Arc<Inode> = self.inodes.get(ino)?;
        let attributes = {
            let state = inode.state();
            if state.marker {
                return Ok(());
            }
            state.attributes.clone()
        };
        let key = self.inodes.directory_key(ino);
        let made = self.put_marker(&key, &attributes, Precondition::None).await;
        if self.is_for_later(&made) {
            self.attributes_changed(&inode)?;
        } else {
            made?;
        }
        self.catalog.directory_put(&key, &attributes);
        inode.state().marker = true;
        Ok(())
    }

    /// The group of a new entry: the caller's, or the directory's where that has the set-group-id bit.
    pub(super) fn group_for_new(&self, parent: u64, caller: Caller) -> u32 {
        match self.inodes.get(parent) {
            Ok(inode) if self.has_set_gid(parent) => inode.state().attributes.gid,
            _ => caller.gid,
        }
    }

    fn has_set_gid(&self, ino: u64) -> bool {
        self.inodes.get(ino).is_ok_and(|inode| inode.state().attributes.mode & libc::S_ISGID != 0)
    }
}
