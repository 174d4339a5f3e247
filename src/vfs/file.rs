//! Open files: open, create, write. Reading is in `read`, what happens when they are done with in `close`.

use std::sync::Arc;

use super::error::{Result, VfsError};
use super::handle::{FileHandle, OpenMode};
use super::inode::{Inode, InodeState, new_state};
use super::small_readers::Pieces;
use super::{Caller, FileAttributes, Vfs};
use crate::cache::VerifiedFile;
use crate::clock::Instant;
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::{content_type, name};
use crate::progress::in_line;
use crate::reader::Reader;
use crate::store::ETag;
use crate::writer::{Base, Draft, Parked};

/// Files below this go through the page cache, which other programs that come for them find filled.
const COLD_BYTES_MIN: u64 = 16 << 20;

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

/// What the choice of the way depends on and cannot be found out in a moment.
#[derive(Default)]
struct Prospects {
    /// What would be read, where that is an object.
    reader: Option<Arc<Reader>>,
    /// The cache file that has all of it.
    backing: Option<VerifiedFile>,
    /// It is large, not here yet, and not to be read in small pieces.
    is_cold: bool,
}

/// Where a write goes. Who appends does so to the end that the file has now: the kernel's idea of that may be old
/// where it knows the file by several numbers, or has just been told of another file.
fn place(handle: &FileHandle, draft: &Draft, offset: u64, page: bool) -> u64 {
    if handle.mode.append && !page { draft.len() } else { offset }
}

/// Whether the reader is of the version that the inode has now.
fn is_current(state: &InodeState, reader: &Reader) -> bool {
    let etag = reader.object().etag();
    match &state.used().aside {
        Some(aside) => aside.1 == etag,
        None => state.etag() == Some(etag),
    }
}

/// Chooses how the kernel moves the bytes.
///
/// A file that is only written goes straight to us: 1 MiB writes cost a third of what they do through the page cache.
/// A file that is read and written stays in the page cache, which mmap needs. A file that is wholly on the local disk
/// is read by the kernel itself, as long as nobody has it open in another way: the kernel allows one way at a time. A
/// large file that is not there yet is read past the page cache, but by programs that read in small pieces.
fn transport(
    state: &mut InodeState,
    mode: OpenMode,
    prospects: &Prospects,
    reader: Option<&Reader>,
) -> Transport {
    if mode.direct || (mode.write && !mode.read) {
        return Transport::Direct;
    }
    let used = state.used();
    let written = used.draft.is_some();
    let passes = !written && used.mirror.is_none() && used.opens == used.passthroughs;
    if passes && let (Some(file), Some(reader)) = (&prospects.backing, reader) {
        return Transport::Passthrough { file: file.clone(), version: reader.object().etag() };
    }
    let keep = state.etag.is_some() && !written && used.paged == state.etag;
    if prospects.is_cold && !written && !keep && !mode.write {
        return Transport::DirectWhileCold;
    }
    let paged = state.etag.clone().filter(|_| !written);
    state.used_mut().paged = paged;
    Transport::Paged { keep }
}

impl Vfs {
    /// open(2). Where the inode has lost its name since the kernel heard of it, what has the name now is opened.
    pub async fn open(&self, caller: Caller, ino: u64, mode: OpenMode) -> Result<Opened> {
        if mode.write {
            self.refuse_if_read_only()?;
        }
        self.open_there(caller, ino, mode, false).await
    }

    /// `entered`: the directory that it is in, or was, has been entered.
    async fn open_there(
        &self,
        caller: Caller,
        ino: u64,
        mode: OpenMode,
        entered: bool,
    ) -> Result<Opened> {
        let began = Instant::now();
        loop {
            let inode = self.standing(ino).await?;
            let _entered = match mode.write && !entered {
                true => Some(self.subtrees.enter(&self.inodes, [ino, inode.ino]).await),
                false => None,
            };
            match self.open_inode(caller, ino, &inode, mode).await? {
                Some(opened) => return Ok(opened),
                // It lost its name meanwhile.
                None if began.elapsed() < self.settings.timeout => {}
                None => return Err(VfsError::plain(libc::ESTALE)),
            }
        }
    }

    /// The inode to open where the kernel asks for `ino`.
    async fn standing(&self, ino: u64) -> Result<Arc<Inode>> {
        let inode = self.inodes.get(ino)?;
        {
            let state = inode.state();
            if state.used().displaced {
                // The kernel looks the name up again.
                return Err(VfsError::plain(libc::ESTALE));
            }
            if state.stands() {
                return Ok(inode.clone());
            }
        }
        let stale = || VfsError::plain(libc::ESTALE);
        let (parent, name) = self.inodes.last_place(ino).ok_or_else(stale)?;
        let found = self.find_child(parent, &name).await?;
        let found = found.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
        if found.kind() == Kind::File { Ok(found) } else { Err(stale()) }
    }

    /// `None` where the inode has lost its name, or its draft, on the way.
    async fn open_inode(
        &self,
        caller: Caller,
        asked: u64,
        inode: &Arc<Inode>,
        mode: OpenMode,
    ) -> Result<Option<Opened>> {
        if inode.kind() == Kind::Directory {
            return Err(VfsError::plain(libc::EISDIR));
        }
        // What is here already can be read while it is on its way to the store.
        let waits = {
            let state = inode.state();
            mode.write || state.used().draft.is_none() || state.leaving
        };
        let _turn = if waits { Some(inode.turn().lock().await) } else { None };
        if !inode.state().stands() {
            return Ok(None);
        }
        self.go_elsewhere(inode, asked, mode).await?;
        if !mode.write {
            self.revalidate(inode).await?;
        } else if !mode.truncate {
            self.revalidate_for_change(inode).await?;
        }
        if !inode.state().stands() {
            return Ok(None);
        }
        if mode.write {
            self.know_all_to_begin(inode).await?;
            self.prepare_mirror(inode).await?;
            let draft = self.draft_for(inode, mode)?;
            if mode.truncate {
                self.set_len(inode, &draft, 0).await?;
                draft.mark_dirty();
                self.begins_anew(inode);
                self.modified(inode);
            }
        }
        let opened = {
            // Until the handle is known, so that it follows where the file goes.
            let _looks = self.subtrees.look(&self.inodes, inode.ino).await;
            let prospects = self.prospects(inode, caller, mode).await;
            self.enter(caller, asked, inode, mode, prospects, waits)
        };
        let Some(opened) = opened else { return Ok(None) };
        if self.inodes.is_another(asked, inode) {
            self.inodes.replace(asked, inode);
            // What the kernel knows of the file is that of the one before.
            self.kernel_forgets_attributes(asked).await;
        }
        Ok(Some(opened))
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
        let _entered = self.subtrees.enter(&self.inodes, [parent, parent]).await;
        let dir = self.inodes.directory_key(parent);
        let key = name::file_key(&dir, name)?;
        if let Some(existing) = self.find_child(parent, name).await? {
            if mode.exclusive {
                return Err(VfsError::plain(libc::EEXIST));
            }
            let held = self.inodes.hold(&existing);
            if held != Some(existing.ino) {
                held.into_iter().for_each(|node| self.inodes.forget(node, 1));
                // Replaced since it was found: the kernel looks the name up again.
                return Err(VfsError::plain(libc::ESTALE));
            }
            let opened = self.open_there(caller, existing.ino, mode, true).await;
            if opened.is_err() {
                self.inodes.forget(existing.ino, 1);
            }
            let standing = self.inodes.get(existing.ino).unwrap_or(existing);
            return Ok((self.attributes_of(&standing), opened?));
        }
        let mut attributes = Attributes::new(
            Kind::File,
            permissions,
            caller.uid,
            self.group_for_new(parent, caller),
            self.now(),
        );
        if let Some(told) = content_type::of_name(name).filter(|_| self.settings.content_type) {
            attributes.set_content_type(told);
        }
        let options = attributes.to_write_options()?;
        let draft = Draft::new(&self.writers, key, None, options);
        draft.mark_dirty();
        if mode.exclusive {
            draft.must_be_new();
        }
        let mut state = new_state(attributes, 0, None);
        state.used_mut().draft = Some(draft);
        let inode = self.inodes.insert_held(parent, name, state);
        self.note_local_file(&inode);
        self.touch_directory(parent);
        // Whoever makes a file is answerable for its being stored, though it be opened to read.
        let mode = OpenMode { write: true, ..mode };
        let prospects = Prospects::default();
        match self.enter(caller, inode.ino, &inode, mode, prospects, false) {
            Some(opened) => Ok((self.attributes_of(&inode), opened)),
            None => {
                self.inodes.forget(inode.ino, 1);
                Err(VfsError::plain(libc::ESTALE))
            }
        }
    }

    /// Counts a handle in and chooses its way, in one moment, so that neither is overtaken by another open or by the
    /// loss of the name. `None` where the inode has lost its name, or, without the turn, its draft; or is
    /// about to.
    fn enter(
        &self,
        caller: Caller,
        asked: u64,
        inode: &Arc<Inode>,
        mode: OpenMode,
        prospects: Prospects,
        has_turn: bool,
    ) -> Option<Opened> {
        let mut state = inode.state();
        if !state.stands() || (!has_turn && (state.used().draft.is_none() || state.leaving)) {
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
        let passthrough = matches!(transport, Transport::Passthrough { .. });
        let used = state.used_mut();
        used.opens += 1;
        used.elsewhere += u32::from(asked != inode.ino);
        used.writers += u32::from(mode.write);
        used.readers += u32::from(mode.read && !passthrough);
        if let Transport::Passthrough { file, .. } = &transport {
            used.passthroughs += 1;
            used.backing.get_or_insert_with(|| file.clone());
        }
        if used.reader.is_none() {
            used.reader = reader;
        }
        drop(state);
        let fh = self.handles.add_file(FileHandle {
            inode: inode.clone(),
            mode,
            asked,
            passthrough,
            direct: !matches!(transport, Transport::Paged { .. }),
            opener: caller.pid,
            pieces: matches!(transport, Transport::DirectWhileCold).then(Pieces::default),
        });
        Some(Opened { fh, transport })
    }

    /// The draft that writers of this inode share, begun on what is in the store.
    pub(super) fn draft_for(&self, inode: &Arc<Inode>, mode: OpenMode) -> Result<Arc<Draft>> {
        let key = self.inodes.file_key(inode.ino);
        let mut state = inode.state();
        if let Some(draft) = &state.used().draft {
            return Ok(draft.clone());
        }
        // Its own key is another file's where it is kept aside.
        let aside = state.used().aside.as_deref().cloned();
        let version = aside.or_else(|| Some((key.clone(), state.etag()?)));
        let base = version.filter(|_| !mode.truncate).map(|(key, etag)| {
            let object = self.cache.object(&key, &etag, state.len);
            Base { key, etag, len: state.len, object }
        });
        let options = state.attributes.to_write_options()?;
        let draft = Draft::new(&self.writers, key, base, options);
        if state.unlinked {
            draft.forbid_publishing()?;
        }
        state.used_mut().draft = Some(draft.clone());
        Ok(draft)
    }

    /// What [`transport`] chooses by.
    async fn prospects(&self, inode: &Inode, caller: Caller, mode: OpenMode) -> Prospects {
        let (is_drafted, others) = {
            let state = inode.state();
            let used = state.used();
            (used.draft.is_some(), used.opens != used.passthroughs)
        };
        let Some(reader) = self.reader(inode).filter(|_| mode.read && !is_drafted) else {
            return Prospects::default();
        };
        let object = reader.object();
        let may_pass = self.settings.passthrough && !mode.direct && !mode.write && !others;
        let backing = if may_pass { object.passthrough_file().await } else { None };
        let is_cold = object.len() >= COLD_BYTES_MIN
            && !object.resident_on_disk()
            && !self.small_readers.include(caller.pid);
        Prospects { backing, is_cold, reader: Some(reader) }
    }

    /// write(2), as far as no waiting is needed: returns the bytes taken. `page`: the kernel writes a page back.
    pub fn write_now(&self, fh: u64, offset: u64, bytes: &[u8], page: bool) -> Result<usize> {
        let (handle, draft) = self.writable(fh)?;
        if self.must_be_shown(&handle) {
            return Ok(0);
        }
        let taken = draft.write_now(place(&handle, &draft, offset, page), bytes)?;
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
    pub async fn write(&self, fh: u64, offset: u64, bytes: &Parked, page: bool) -> Result<()> {
        let (handle, draft) = self.writable(fh)?;
        let several = {
            let state = handle.inode.state();
            state.used().elsewhere > 0 || state.used().alias.is_some()
        };
        let at = {
            // The kernel lets one append at a time, but under each number that it knows the file by.
            let _turn = if several { Some(handle.inode.turn().lock().await) } else { None };
            let at = place(&handle, &draft, offset, page);
            // Who is told that it failed may write it again: no byte of it is taken after that.
            in_line(draft.write(at, bytes)).await?;
            at
        };
        self.modified(&handle.inode);
        if at != offset {
            self.kernel_forgets_all_soon(&handle.inode);
        }
        self.show(&handle, at, bytes).await
    }

    /// Sets the length of what is being written, for all who have it open. Holds the inode's turn.
    pub(super) async fn set_len(&self, inode: &Inode, draft: &Arc<Draft>, len: u64) -> Result<()> {
        in_line(draft.truncate(len)).await.map_err(|error| self.fault(error))?;
        self.adopt_on_the_way(inode, draft);
        self.modified(inode);
        let mirror = inode.state().used().mirror.clone();
        mirror.map_or(Ok(()), |mirror| mirror.set_len(len))?;
        self.kernel_forgets_elsewhere(inode).await;
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
        let draft = match handle.inode.draft() {
            Some(draft) => draft,
            None => self.draft_for(&handle.inode, OpenMode { truncate: false, ..handle.mode })?,
        };
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
