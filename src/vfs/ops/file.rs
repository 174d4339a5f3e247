//! Open files: open, create, write. Reading is in `read`, what happens when they are done with in `close`.

use std::sync::Arc;

use crate::clock::{self, Instant};
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::{content_type, name};
use crate::progress::in_line;
use crate::range::ByteRange;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::handles::{COLD_BYTES_MIN, FileHandle, OpenFiles, OpenMode, Opened, Prospects};
use crate::vfs::request::{Caller, FileAttributes};
use crate::vfs::tree::{Inode, new_state};
use crate::vfs::versions::refuse_archived;
use crate::writer::{Draft, First, Parked, WriteBytes as _};

/// Where a write goes. An append goes to the end that the file has now: the kernel's idea of that may be old
/// where it knows the file by several numbers, or has just been told of another file.
fn place(handle: &FileHandle, draft: &Draft, offset: u64, page: bool) -> u64 {
    if handle.mode.append && !page { draft.len() } else { offset }
}

/// open(2). Where the inode has lost its name since the kernel heard of it, what has the name now is opened.
pub async fn open(vfs: &Vfs, caller: Caller, ino: u64, mode: OpenMode) -> Result<Opened> {
    if mode.write {
        vfs.settings.check_writable()?;
    }
    open_there(vfs, caller, ino, mode, false).await
}

/// `entered`: the directory that it is in, or was, has been entered.
async fn open_there(
    vfs: &Vfs,
    caller: Caller,
    ino: u64,
    mode: OpenMode,
    entered: bool,
) -> Result<Opened> {
    let began = Instant::now();
    loop {
        let inode = standing(vfs, ino).await?;
        let _entered = match mode.write && !entered {
            true => Some(vfs.tree.enter([ino, inode.ino]).await),
            false => None,
        };
        match open_inode(vfs, caller, ino, &inode, mode).await? {
            Some(opened) => {
                if mode.truncate {
                    vfs.files.show_elsewhere(&inode, ino, ByteRange::new(0, 0)).await;
                }
                return Ok(opened);
            }
            // It lost its name meanwhile.
            None if began.elapsed() < vfs.settings.timeout => {}
            None => return Err(VfsError::plain(libc::ESTALE)),
        }
    }
}

/// The inode to open where the kernel asks for `ino`.
async fn standing(vfs: &Vfs, ino: u64) -> Result<Arc<Inode>> {
    let inode = vfs.tree.get(ino)?;
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
    let (parent, name) = vfs.tree.inodes.last_place(ino).ok_or_else(stale)?;
    let found = vfs.tree.find_child(parent, &name).await?;
    let found = found.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
    if found.kind() == Kind::File { Ok(found) } else { Err(stale()) }
}

/// `None` where the inode has lost its name, or its draft, on the way.
async fn open_inode(
    vfs: &Vfs,
    caller: Caller,
    asked: u64,
    inode: &Arc<Inode>,
    mode: OpenMode,
) -> Result<Option<Opened>> {
    if inode.kind() == Kind::Directory {
        return Err(VfsError::plain(libc::EISDIR));
    }
    if mode.write {
        inode.check_changeable()?;
    }
    // What is here already can be read while it is on its way to the store.
    let waits = {
        let state = inode.state();
        mode.write || state.used().draft.is_none() || state.leaving
    };
    let _operation = if waits { Some(inode.operation_lock().lock().await) } else { None };
    if !inode.state().stands() {
        return Ok(None);
    }
    vfs.files.go_elsewhere(inode, asked, mode).await?;
    if !mode.write {
        vfs.tree.revalidate(inode).await?;
    } else if !mode.truncate {
        vfs.tree.revalidate_for_change(inode).await?;
    }
    if !inode.state().stands() {
        return Ok(None);
    }
    if !mode.truncate && inode.draft().is_none() {
        refuse_archived(&vfs.versions, inode).await?;
    }
    if mode.write {
        vfs.versions.know_all_to_begin(inode).await?;
        vfs.files.prepare_mirror(inode).await?;
        let draft = vfs.versions.draft_for(inode, mode)?;
        if mode.truncate {
            vfs.versions.set_len(inode, &draft, 0).await?;
            draft.mark_dirty();
            vfs.versions.begins_anew(inode);
            vfs.versions.modified(inode);
        }
    }
    let opened = {
        // Until the handle is known, so that it follows where the file goes.
        let _looks = vfs.tree.look(inode.ino).await;
        let prospects = prospects(vfs, inode, caller, mode).await;
        vfs.files.enter(caller, asked, inode, mode, prospects, waits)
    };
    let Some(opened) = opened else { return Ok(None) };
    if vfs.tree.inodes.is_another(asked, inode) {
        vfs.tree.inodes.replace(asked, inode);
        // What the kernel knows of the file is that of the one before.
        vfs.files.kernel_forgets_attributes(asked).await;
    }
    Ok(Some(opened))
}

/// Creates a file and opens it. Nothing is sent until there is something to send.
pub async fn create(
    vfs: &Vfs,
    caller: Caller,
    parent: u64,
    name: &[u8],
    permissions: u32,
    mode: OpenMode,
) -> Result<(FileAttributes, Opened)> {
    vfs.settings.check_writable()?;
    let _entered = vfs.tree.enter([parent, parent]).await;
    let dir = vfs.tree.directory_key(parent);
    let key = name::file_key(&dir, name)?;
    if let Some(existing) = vfs.tree.find_child(parent, name).await? {
        if mode.exclusive {
            return Err(VfsError::plain(libc::EEXIST));
        }
        let held = vfs.tree.inodes.hold(&existing);
        if held != Some(existing.ino) {
            held.into_iter().for_each(|node| vfs.tree.inodes.forget(node, 1));
            // Replaced since it was found: the kernel looks the name up again.
            return Err(VfsError::plain(libc::ESTALE));
        }
        let opened = open_there(vfs, caller, existing.ino, mode, true).await;
        if opened.is_err() {
            vfs.tree.inodes.forget(existing.ino, 1);
        }
        let standing = vfs.tree.get(existing.ino).unwrap_or(existing);
        return Ok((vfs.tree.attributes_of(&standing), opened?));
    }
    let mut attributes = Attributes::new(
        Kind::File,
        permissions,
        caller.uid,
        vfs.tree.group_for_new(parent, caller),
        clock::wall(),
    );
    if let Some(told) = content_type::of_name(name).filter(|_| vfs.settings.content_type) {
        attributes.set_content_type(told);
    }
    let options = attributes.to_write_options()?;
    let draft = Draft::new(&vfs.parts.writers, key, None, options);
    draft.mark_dirty();
    if mode.exclusive {
        draft.must_be_new();
    }
    let mut state = new_state(attributes, 0, None);
    state.used_mut().draft = Some(draft);
    let inode = vfs.tree.inodes.insert_held(parent, name, state);
    vfs.tree.note_local_file(&inode);
    vfs.tree.touch_directory(parent);
    // The handle that makes a file is answerable for its being stored, though it be opened to read.
    let mode = OpenMode { write: true, ..mode };
    let prospects = Prospects::default();
    match vfs.files.enter(caller, inode.ino, &inode, mode, prospects, false) {
        Some(opened) => Ok((vfs.tree.attributes_of(&inode), opened)),
        None => {
            vfs.tree.inodes.forget(inode.ino, 1);
            Err(VfsError::plain(libc::ESTALE))
        }
    }
}

/// What [`transport`] chooses by.
async fn prospects(vfs: &Vfs, inode: &Inode, caller: Caller, mode: OpenMode) -> Prospects {
    let (is_drafted, others, is_version) = {
        let state = inode.state();
        let used = state.used();
        let others = used.open.all != used.open.passthroughs;
        (used.draft.is_some(), others, used.version_of.is_some())
    };
    let Some(reader) = vfs.versions.reader(inode).filter(|_| mode.read && !is_drafted) else {
        return Prospects::default();
    };
    let object = reader.object();
    // The cache file of a version may be that of a file with the same ETag, which is written to when that is changed.
    let may_pass =
        vfs.settings.passthrough && !mode.direct && !mode.write && !others && !is_version;
    let backing = if may_pass { object.passthrough_file().await } else { None };
    let is_cold = object.len() >= COLD_BYTES_MIN
        && !object.resident_on_disk()
        && !vfs.files.small_readers.include(caller.pid);
    Prospects { backing, is_cold, reader: Some(reader) }
}

/// write(2), as far as no waiting is needed: returns the bytes taken. `page`: the kernel writes a page back.
pub fn write_now(vfs: &Vfs, fh: u64, offset: u64, bytes: &[u8], page: bool) -> Result<usize> {
    let (handle, draft) = writable(vfs, fh)?;
    if vfs.files.must_be_shown(&handle) {
        return Ok(0);
    }
    let taken = draft.write_now(place(&handle, &draft, offset, page), bytes)?;
    if taken > 0 {
        vfs.versions.modified(&handle.inode);
    }
    Ok(taken)
}

/// write(2): all of it, waiting for room where there is none.
pub async fn write(vfs: &Vfs, fh: u64, offset: u64, bytes: &Parked, page: bool) -> Result<()> {
    let (handle, draft) = writable(vfs, fh)?;
    let several = OpenFiles::has_several_numbers(&handle.inode);
    let (written, _growing) = {
        // The kernel lets one append at a time, but under each number that it knows the file by.
        let _operation =
            if several { Some(handle.inode.operation_lock().lock().await) } else { None };
        let must_be_shown = vfs.files.must_be_shown(&handle);
        let growing = must_be_shown.then(|| handle.inode.grows(draft.len()));
        let at = place(&handle, &draft, offset, page);
        // What is written to a mapping never makes a file longer. The kernel does not know by each number that it
        // was cut, and would bring back what was cut off.
        let most = if page && several { draft.len().saturating_sub(at) } else { u64::MAX };
        let bytes = First(bytes, usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len()));
        // A program that is told that it failed may write it again: no byte of it is taken after that.
        in_line(draft.write(at, &bytes)).await?;
        OpenFiles::mirror_write(&handle.inode, at, &bytes)?;
        (ByteRange::at(at, bytes.len() as u64), growing)
    };
    vfs.versions.modified(&handle.inode);
    if written.start() != offset {
        vfs.files.kernel_forgets_all_soon(&handle.inode);
    }
    vfs.files.show(&handle, written).await;
    Ok(())
}

pub fn writable(vfs: &Vfs, fh: u64) -> Result<(Arc<FileHandle>, Arc<Draft>)> {
    let handle = vfs.files.handles.file(fh)?;
    if !handle.mode.write {
        return Err(VfsError::plain(libc::EBADF));
    }
    let draft = match handle.inode.draft() {
        Some(draft) => draft,
        None => {
            vfs.versions.draft_for(&handle.inode, OpenMode { truncate: false, ..handle.mode })?
        }
    };
    Ok((handle, draft))
}
