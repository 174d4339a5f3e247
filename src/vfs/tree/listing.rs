//! Open directories, and the scan of their entries.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::inode::Inode;
use super::places::Tree;
use super::subtrees::Entered;
use crate::clock::Instant;
use crate::lock::{RwLock, rank};
use crate::namespace::attributes::Kind;
use crate::namespace::dir_stream::DirStream;
use crate::namespace::segment::Listed;
use crate::store::{Key, ListedObject};
use crate::upload::{TEMPORARY_PREFIX, Uploads};
use crate::vfs::error::{Result, VfsError};
use crate::vfs::request::FileAttributes;

/// All open directories, by the number that the kernel hands back with each request.
pub struct Directories {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<DirHandle>>, rank::Directories>,
    tree: Arc<Tree>,
    uploads: Arc<Uploads>,
    /// What is asked for ahead is asked by tasks.
    runtime: tokio::runtime::Handle,
}

/// An open directory.
struct DirHandle {
    inode: Arc<Inode>,
    stream: tokio::sync::Mutex<DirStream>,
}

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
/// leaves room for tens of thousands, and asks for attributes with the next ones if a program looked at these.
const NAMES_FIRST: u64 = 128;
/// Entries of unknown attributes in one answer with attributes: the kernel leaves room for thousands, and the
/// first would be out of date before the last is there.
const UNKNOWN_MAX: usize = 128;

/// A walk over the entries of an open directory.
struct Scan<'a> {
    of: &'a Directories,
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
    async fn begin(of: &'a Directories, handle: &'a DirHandle, offset: u64) -> Scan<'a> {
        let looks = of.tree.look(handle.inode.ino).await;
        let mut stream = handle.stream.lock().await;
        let dir = of.tree.directory_key(handle.inode.ino);
        if *stream.dir() != dir {
            // Renamed while it was open: its names are the same.
            *stream = of.tree.catalog.scan(dir);
        }
        match offset {
            0 => stream.rewind(),
            _ => stream.seek(offset.saturating_sub(DOTS)),
        }
        Scan { of, stream, dots: offset.min(DOTS), _looks: looks }
    }

    async fn next(&mut self) -> Result<Option<Found>> {
        if self.dots < DOTS {
            self.dots += 1;
            let name = vec![b'.'; self.dots as usize];
            return Ok(Some(Found { offset: self.dots, name, listed: None, at: Instant::now() }));
        }
        loop {
            let tree = &self.of.tree;
            let mut next = self.stream.next().await.map_err(|error| tree.faults.pass(error));
            if tree.may_be_stale(&next) {
                // The outage has begun meanwhile.
                next = self.stream.next().await.map_err(|error| tree.faults.pass(error));
            }
            let Some(entry) = next? else { return Ok(None) };
            if !self.of.is_own(self.stream.dir(), &entry.name) {
                let (offset, listed) = (entry.offset + DOTS, Some(entry.listed));
                return Ok(Some(Found { offset, name: entry.name, listed, at: entry.at }));
            }
        }
    }
}

impl Directories {
    pub fn new(
        tree: Arc<Tree>,
        uploads: Arc<Uploads>,
        runtime: tokio::runtime::Handle,
    ) -> Directories {
        let (next, open) = (AtomicU64::new(0), RwLock::default());
        Directories { next, open, tree, uploads, runtime }
    }

    fn add(&self, handle: DirHandle) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.write().insert(fh, Arc::new(handle));
        fh
    }

    fn directory(&self, fh: u64) -> Result<Arc<DirHandle>> {
        self.open.read().get(&fh).cloned().ok_or_else(|| VfsError::plain(libc::EBADF))
    }

    /// opendir(3).
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let inode = self.tree.get(ino)?;
        if inode.kind() != Kind::Directory {
            return Err(VfsError::plain(libc::ENOTDIR));
        }
        let dir = self.tree.directory_key(ino);
        // What is asked for ahead is asked by tasks.
        let _runtime = self.runtime.enter();
        self.tree.looks_into(ino, &dir);
        let stream = self.tree.catalog.scan(dir);
        Ok(self.add(DirHandle { inode, stream: tokio::sync::Mutex::new(stream) }))
    }

    pub fn releasedir(&self, fh: u64) {
        self.open.write().remove(&fh);
    }

    /// Yields the entries behind `offset` until `emit` says that it is full, or the end. Names come
    /// from the listing alone: nothing here costs a request for a single object.
    pub async fn readdir(
        &self,
        fh: u64,
        offset: u64,
        mut emit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let handle = self.directory(fh)?;
        let parent = handle.inode.ino;
        let mut scan = Scan::begin(self, &handle, offset).await;
        let most = offset.max(NAMES_FIRST);
        while let Some(found) = scan.next().await? {
            let name = found.name.as_slice();
            let (ino, kind) = match &found.listed {
                None => (parent, Kind::Directory),
                Some(Listed::Directory(_)) => {
                    (self.tree.inodes.ino_of(parent, name), Kind::Directory)
                }
                Some(Listed::File(object)) => {
                    let kind = self.kind_of_listed(parent, name, object);
                    (self.tree.inodes.ino_of(parent, name), kind)
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

    /// As [`Directories::readdir`], with attributes; the kernel holds a reference to each entry that was emitted,
    /// but for the dots.
    ///
    /// The kernel asks for attributes at the beginning of each directory, and later if a program looked at
    /// entries. At the beginning those are told that are known without a request. Where a program looks
    /// at name after name, the attributes of the next are waited for here, which spares it the asking.
    /// Otherwise they are told as the listing has them, valid for no time: a program that wants to know asks by
    /// `lookup`.
    pub async fn readdir_plus(
        &self,
        fh: u64,
        offset: u64,
        mut emit: impl FnMut(Entry<'_>, &FileAttributes) -> bool,
    ) -> Result<()> {
        let handle = self.directory(fh)?;
        let parent = handle.inode.ino;
        let mut scan = Scan::begin(self, &handle, offset).await;
        let (mut waits, mut unknown) = (None, 0);
        while let Some(found) = scan.next().await? {
            let name = found.name.as_slice();
            let Some(listed) = &found.listed else {
                let entry =
                    Entry { ino: parent, offset: found.offset, kind: Kind::Directory, name };
                if emit(entry, &self.tree.attributes_of(&handle.inode)) {
                    break;
                }
                continue;
            };
            let walked = || offset > 0 && self.tree.is_walked(parent, name, listed);
            let waits_now = *waits.get_or_insert_with(walked);
            let inode = if waits_now {
                self.tree.walked(parent, name, listed, found.at).await
            } else {
                self.tree.known_in_listing(parent, name, listed, found.at)
            };
            if offset == 0 && inode.is_none() {
                break;
            }
            unknown += usize::from(waits_now || inode.is_none());
            // A look-up of this entry hears of the error, and the rest need not run into it first.
            waits = Some(waits_now && inode.is_some());
            let mut inode =
                inode.unwrap_or_else(|| self.tree.guessed_from_listing(parent, name, listed));
            // Counted first: the kernel may ask by this number as soon as it has the answer. An inode may have lost its
            // name since it was found, and be gone with that.
            let node = loop {
                match self.tree.inodes.hold(&inode) {
                    Some(node) => break node,
                    None => inode = self.tree.guessed_from_listing(parent, name, listed),
                }
            };
            let entry = Entry { ino: inode.ino, offset: found.offset, kind: inode.kind(), name };
            let attributes = FileAttributes { node, ..self.tree.attributes_of(&inode) };
            if emit(entry, &attributes) {
                self.tree.inodes.forget(node, 1);
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
        if let Some(inode) = self.tree.inodes.child(parent, name) {
            return inode.kind();
        }
        self.tree.catalog.kind_of(object)
    }

    /// Objects that are only there for a while, for our own ends, are not shown.
    fn is_own(&self, dir: &Key, name: &[u8]) -> bool {
        name.starts_with(TEMPORARY_PREFIX) || self.uploads.interrupted.is_temporary(&dir.join(name))
    }
}
