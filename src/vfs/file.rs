//! Open files: open, create, read, write. What happens when they are done with is in `close`.

use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Result, VfsError};
use super::handle::{FileHandle, Reading};
use super::inode::{Inode, new_state};
use super::small_readers::Pieces;
use super::{Caller, FileAttributes, Vfs};
use crate::cache::{Piece, VerifiedFile};
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::name;
use crate::range::ByteRange;
use crate::reader::Reader;
use crate::store::ETag;
use crate::writer::{Base, Draft, Parked};

/// Files below this go through the page cache, which other programs that come for them find filled.
const COLD_BYTES_MIN: u64 = 16 << 20;

/// How a file is opened, from open(2)'s flags.
#[derive(Clone, Copy, Debug)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
    pub truncate: bool,
    pub append: bool,
    /// O_DIRECT: the kernel's cache is not wanted.
    pub direct: bool,
    pub exclusive: bool,
}

impl OpenMode {
    pub fn from_flags(flags: i32) -> OpenMode {
        let access = flags & libc::O_ACCMODE;
        OpenMode {
            read: access != libc::O_WRONLY,
            // O_TRUNC writes, whatever else the program may do.
            write: access != libc::O_RDONLY || flags & libc::O_TRUNC != 0,
            truncate: flags & libc::O_TRUNC != 0,
            append: flags & libc::O_APPEND != 0,
            direct: flags & libc::O_DIRECT != 0,
            exclusive: flags & libc::O_EXCL != 0,
        }
    }
}

/// How the kernel should move the bytes of an open file.
#[derive(Debug)]
pub enum Transport {
    /// Through the page cache; `keep`: what it holds of this file is still right.
    Paged { keep: bool },
    /// Straight to and from the program's memory.
    Direct,
    /// Likewise, because the file is large and not here yet.
    DirectWhileCold,
    /// From this file, without asking us.
    Passthrough { file: VerifiedFile, version: ETag },
}

pub struct Opened {
    pub fh: u64,
    pub transport: Transport,
}

/// Bytes of a read: a view of the cache, or assembled from a draft.
pub enum ReadBytes {
    Piece(Piece),
    Owned(Vec<u8>),
}

impl AsRef<[u8]> for ReadBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            ReadBytes::Piece(piece) => piece.as_ref(),
            ReadBytes::Owned(bytes) => bytes,
        }
    }
}

impl Vfs {
    /// open(2). A reader gets the version that is there now, and keeps it.
    pub async fn open(&self, caller: Caller, ino: u64, mode: OpenMode) -> Result<Opened> {
        if mode.write {
            self.refuse_if_read_only()?;
        }
        let inode = self.inodes.get(ino)?;
        if inode.kind() == Kind::Directory {
            return Err(VfsError::plain(libc::EISDIR));
        }
        // What is here already can be read while it is on its way to the store.
        let waits = mode.write || inode.draft().is_none();
        let _turn = if waits { Some(inode.turn().lock().await) } else { None };
        if !mode.write {
            self.revalidate(&inode).await?;
        } else if !mode.truncate {
            self.revalidate_for_change(&inode).await?;
        }
        let reading = if mode.write {
            self.know_all_to_begin(&inode).await?;
            let draft = self.draft_for(&inode, mode)?;
            if mode.truncate {
                draft.truncate(0).await?;
                draft.mark_dirty();
                self.begins_anew(&inode);
                self.modified(&inode);
            }
            Reading::Draft
        } else {
            self.reading(&inode)
        };
        let transport = self.transport(&inode, caller, mode, &reading).await;
        Ok(Opened { fh: self.add_handle(caller, &inode, mode, reading, &transport), transport })
    }

    /// Creates a file and opens it. Nothing is sent until there is something to send.
    pub async fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        permissions: u32,
        mode: OpenMode,
    ) -> Result<(FileAttributes, Opened)> {
        self.refuse_if_read_only()?;
        let dir = self.inodes.directory_key(parent);
        let key = name::file_key(&dir, name)?;
        if let Some(existing) = self.find_child(parent, name).await? {
            if mode.exclusive {
                return Err(VfsError::plain(libc::EEXIST));
            }
            let opened = self.open(caller, existing.ino, mode).await?;
            self.inodes.looked_up(existing.ino);
            return Ok((self.attributes_of(&existing), opened));
        }
        let attributes = Attributes::new(
            Kind::File,
            permissions,
            caller.uid,
            self.group_for_new(parent, caller),
            self.now(),
        );
        let options = attributes.to_write_options()?;
        let draft = Draft::new(&self.writers, key, None, options);
        draft.mark_dirty();
        if mode.exclusive {
            draft.must_be_new();
        }
        let mut state = new_state(attributes, 0, None);
        state.used_mut().draft = Some(draft);
        let inode = self.inodes.insert(parent, name, state);
        self.note_local_file(&inode);
        self.touch_directory(parent);
        self.inodes.looked_up(inode.ino);
        // Whoever makes a file is answerable for its being stored, though it be opened to read.
        let mode = OpenMode { write: true, ..mode };
        let transport = self.transport(&inode, caller, mode, &Reading::Draft).await;
        let fh = self.add_handle(caller, &inode, mode, Reading::Draft, &transport);
        Ok((self.attributes_of(&inode), Opened { fh, transport }))
    }

    fn add_handle(
        &self,
        caller: Caller,
        inode: &Arc<Inode>,
        mode: OpenMode,
        reading: Reading,
        transport: &Transport,
    ) -> u64 {
        let passthrough = matches!(transport, Transport::Passthrough { .. });
        {
            let mut state = inode.state();
            let used = state.used_mut();
            used.opens += 1;
            used.writers += u32::from(mode.write);
            used.passthroughs += u32::from(passthrough);
        }
        self.handles.add_file(FileHandle {
            inode: inode.clone(),
            mode,
            passthrough,
            opener: caller.pid,
            reading: Mutex::new(reading),
            pieces: matches!(transport, Transport::DirectWhileCold).then(Pieces::default),
        })
    }

    /// What a reader of this inode reads from now on. Who reads the same version shares its read-ahead: the
    /// kernel asks for a page once, on whichever handle needed it first, so that each handle by itself sees
    /// only fragments of what is read.
    pub(super) fn reading(&self, inode: &Arc<Inode>) -> Reading {
        let key = self.inodes.file_key(inode.ino);
        let object = {
            let state = inode.state();
            match (&state.used().draft, &state.used().aside, state.etag()) {
                (Some(_), _, _) | (None, None, None) => return Reading::Draft,
                // Its own key is another file's by now, or nobody's.
                (None, Some(aside), _) => self.cache.object(&aside.0, &aside.1, state.len),
                (None, None, Some(etag)) => self.cache.object(&key, &etag, state.len),
            }
        };
        let shared =
            self.handles.of(inode.ino).iter().find_map(|handle| match &*handle.reading.lock() {
                Reading::Object(reader) if Arc::ptr_eq(reader.object(), &object) => {
                    Some(reader.clone())
                }
                _ => None,
            });
        Reading::Object(shared.unwrap_or_else(|| Arc::new(Reader::new(object))))
    }

    /// The draft that writers of this inode share, begun on what is in the store.
    pub(super) fn draft_for(&self, inode: &Arc<Inode>, mode: OpenMode) -> Result<Arc<Draft>> {
        let key = self.inodes.file_key(inode.ino);
        let mut state = inode.state();
        if let Some(draft) = &state.used().draft {
            return Ok(draft.clone());
        }
        let base = match state.etag() {
            Some(etag) if !mode.truncate => Some(Base {
                key: key.clone(),
                object: self.cache.object(&key, &etag, state.len),
                etag,
                len: state.len,
            }),
            _ => None,
        };
        let options = state.attributes.to_write_options()?;
        let draft = Draft::new(&self.writers, key, base, options);
        if state.unlinked {
            draft.forbid_publishing()?;
        }
        state.used_mut().draft = Some(draft.clone());
        Ok(draft)
    }

    /// Chooses how the kernel moves the bytes.
    ///
    /// A file that is only written goes straight to us: 1 MiB writes cost a third of what they do
    /// through the page cache. A file that is read and written stays in the page cache, which mmap
    /// needs. A file that is wholly on the local disk is read by the kernel itself, as long as nobody
    /// has it open in another way: the kernel allows one way at a time. A large file that is not there yet
    /// is read past the page cache, but by programs that read in small pieces.
    async fn transport(
        &self,
        inode: &Arc<Inode>,
        caller: Caller,
        mode: OpenMode,
        reading: &Reading,
    ) -> Transport {
        if mode.direct || (mode.write && !mode.read) {
            return Transport::Direct;
        }
        if let Reading::Object(reader) = reading
            && self.settings.passthrough
        {
            let others = {
                let state = inode.state();
                state.used().opens != state.used().passthroughs
            };
            if !others && let Some(file) = reader.object().passthrough_file().await {
                return Transport::Passthrough { file, version: reader.object().etag() };
            }
        }
        if self.reads_another_version(inode, reading) {
            // The page cache has one version; whoever has the older one open keeps it.
            return Transport::Direct;
        }
        let mut state = inode.state();
        let written = state.used().draft.is_some();
        let keep = state.etag.is_some() && !written && state.used().paged == state.etag;
        if let Reading::Object(reader) = reading
            && !keep
            && !mode.write
            && reader.object().len() >= COLD_BYTES_MIN
            && !reader.object().resident_on_disk()
            && !self.small_readers.include(caller.pid)
        {
            return Transport::DirectWhileCold;
        }
        let paged = state.etag.clone().filter(|_| !written);
        state.used_mut().paged = paged;
        Transport::Paged { keep }
    }

    /// Whether somebody has another version of this file open than `reading` is about.
    fn reads_another_version(&self, inode: &Inode, reading: &Reading) -> bool {
        let Reading::Object(reader) = reading else { return false };
        let version = reader.object().etag();
        self.handles.of(inode.ino).iter().any(|handle| {
            matches!(&*handle.reading.lock(), Reading::Object(other) if other.object().etag() != version)
        })
    }

    /// read(2), where no waiting is needed: `None` otherwise.
    pub fn read_now(&self, fh: u64, offset: u64, len: u32) -> Option<Piece> {
        let handle = self.handles.file(fh).ok()?;
        if let Some(pieces) = &handle.pieces {
            self.small_readers.note(pieces, handle.opener, offset, u64::from(len));
        }
        let Reading::Object(reader) = &*handle.reading.lock() else { return None };
        reader.read_now(offset, u64::from(len))
    }

    /// read(2): fewer bytes than asked only at the end of the file.
    pub async fn read(&self, fh: u64, offset: u64, len: u32) -> Result<ReadBytes> {
        let handle = self.handles.file(fh)?;
        let reader = match &*handle.reading.lock() {
            Reading::Object(reader) => Some(reader.clone()),
            Reading::Draft => None,
        };
        match reader {
            Some(reader) => {
                let piece = reader
                    .read(offset, u64::from(len), self.deadline())
                    .await
                    .map_err(|error| self.fault(error))?;
                Ok(ReadBytes::Piece(piece))
            }
            None => {
                let draft = handle.inode.draft();
                let Some(draft) = draft else {
                    // Published and closed by its writer since.
                    return self.read_published(&handle, offset, len).await;
                };
                let bytes = draft.read(ByteRange::at(offset, u64::from(len))).await?;
                Ok(ReadBytes::Owned(bytes))
            }
        }
    }

    async fn read_published(
        &self,
        handle: &FileHandle,
        offset: u64,
        len: u32,
    ) -> Result<ReadBytes> {
        let reading = self.reading(&handle.inode);
        let Reading::Object(reader) = &reading else {
            return Err(VfsError::plain(libc::ESTALE));
        };
        let reader = reader.clone();
        *handle.reading.lock() = reading;
        let piece = reader
            .read(offset, u64::from(len), self.deadline())
            .await
            .map_err(|error| self.fault(error))?;
        Ok(ReadBytes::Piece(piece))
    }

    /// write(2), as far as no waiting is needed: returns the bytes taken.
    pub fn write_now(&self, fh: u64, offset: u64, bytes: &[u8]) -> Result<usize> {
        let (handle, draft) = self.writable(fh)?;
        let taken = draft.write_now(offset, bytes)?;
        if taken > 0 {
            self.modified(&handle.inode);
        }
        Ok(taken)
    }

    /// Copies what [`Vfs::write_now`] did not take, to be written by [`Vfs::write`].
    pub fn park(&self, bytes: &[u8]) -> Parked {
        self.writers.park(bytes)
    }

    /// write(2): all of it, waiting for room where there is none.
    pub async fn write(&self, fh: u64, offset: u64, bytes: &Parked) -> Result<()> {
        let (handle, draft) = self.writable(fh)?;
        draft.write(offset, bytes).await?;
        self.modified(&handle.inode);
        Ok(())
    }

    /// The kernel asks for it with a write by somebody without privileges.
    pub fn drop_set_id_of(&self, fh: u64) -> Result<()> {
        self.drop_set_id(&self.handles.file(fh)?.inode)
    }

    pub(super) fn writable(&self, fh: u64) -> Result<(Arc<FileHandle>, Arc<Draft>)> {
        let handle = self.handles.file(fh)?;
        if !handle.mode.write {
            return Err(VfsError::plain(libc::EBADF));
        }
        let draft = self.draft_for(&handle.inode, OpenMode { truncate: false, ..handle.mode })?;
        Ok((handle, draft))
    }

    /// The content has changed: so has mtime, and set-id bits are gone.
    pub(super) fn modified(&self, inode: &Inode) {
        let mut state = inode.state();
        state.attributes.mtime = self.now();
        state.ctime = state.attributes.mtime;
        if let (Some(draft), Ok(options)) =
            (&state.used().draft, state.attributes.to_write_options())
        {
            draft.set_options(options);
        }
    }
}
