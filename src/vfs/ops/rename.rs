//! rename(2) of a file: a copy inside the store and a deletion. Directories are renamed in `relocate`.
//!
//! Consistency: the target is replaced at once, by the copy; the source goes after that. Readers that
//! have the replaced file open keep it (see `unlink`).
//! Crash: a rename is journaled before its first copy, and finished by the next mount (see `recover::renames`).

use std::sync::Arc;

use super::{directory, relocate, rename_log, unlink};
use crate::clock;
use crate::journal::{FileRename, RenameId};
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::{Found, Stored, name};
use crate::progress::any_other;
use crate::store::{ETag, Key};
use crate::upload::Moving;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::Inode;
use crate::vfs::versions::CopyWith;

/// What a file is to be called.
#[derive(Clone, Copy)]
struct NewName<'a> {
    parent: u64,
    name: &'a [u8],
    /// Nothing may have it (RENAME_NOREPLACE).
    must_be_free: bool,
}

/// A file whose copy stands under its new name.
struct MovedFile<'a> {
    rename: RenameId,
    from: &'a Key,
    etag: ETag,
    /// In bytes.
    len: u64,
    to: &'a Key,
    copy: ETag,
    /// Until it is known whether the source goes.
    moving: Moving<'a>,
    /// What the copy has.
    attributes: Attributes,
    /// The content type that its new name tells.
    told: Option<&'static str>,
    class: Option<String>,
}

/// rename(2) with renameat2's flags.
pub async fn rename(
    vfs: &Vfs,
    parent: u64,
    name: &[u8],
    new_parent: u64,
    new_name: &[u8],
    flags: u32,
) -> Result<()> {
    vfs.settings.check_writable()?;
    name::check_name(new_name)?;
    if flags & !libc::RENAME_NOREPLACE != 0 {
        return Err(VfsError::plain(libc::EINVAL));
    }
    let _entered = vfs.tree.enter([parent, new_parent]).await;
    let inode =
        vfs.tree.find_child(parent, name).await?.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
    let target = vfs.tree.find_child(new_parent, new_name).await?;
    if target.as_ref().is_some_and(|target| target.ino == inode.ino) {
        return Ok(());
    }
    if target.is_some() && flags & libc::RENAME_NOREPLACE != 0 {
        return Err(VfsError::plain(libc::EEXIST));
    }
    inode.check_changeable()?;
    target.as_ref().map_or(Ok(()), |target| target.check_changeable())?;
    may_replace(vfs, &inode, target.as_deref()).await?;
    let is_directory = inode.kind() == Kind::Directory;
    let _closed = match is_directory {
        true => Some(vfs.tree.close(inode.ino).await),
        false => None,
    };
    let _operation = inode.operation_lock().lock().await;
    // Only a rename holds two operation locks, and the kernel lets no other one through to these names.
    let _target_operation = match &target {
        Some(target) => {
            vfs.write_back.waiting.call_off(target.ino);
            Some(target.operation_lock().lock().await)
        }
        None => None,
    };
    if is_directory {
        relocate::rename_directory(vfs, &inode, target.as_ref(), new_parent, new_name).await?;
    } else {
        target.iter().for_each(|target| target.state().leaves());
        let must_be_free = flags & libc::RENAME_NOREPLACE != 0;
        let to = NewName { parent: new_parent, name: new_name, must_be_free };
        let target = target.as_ref();
        let renamed = rename_file(vfs, &inode, target, parent, to).await;
        target.iter().for_each(|target| target.state().leaving = false);
        renamed?;
    }
    inode.state().ctime = clock::wall();
    vfs.tree.touch_directory(parent);
    vfs.tree.touch_directory(new_parent);
    Ok(())
}

async fn may_replace(vfs: &Vfs, inode: &Inode, target: Option<&Inode>) -> Result<()> {
    let Some(target) = target else { return Ok(()) };
    match (inode.kind() == Kind::Directory, target.kind() == Kind::Directory) {
        (true, false) => Err(VfsError::plain(libc::ENOTDIR)),
        (false, true) => Err(VfsError::plain(libc::EISDIR)),
        (true, true) => {
            let prefix = vfs.tree.directory_key(target.ino);
            if directory::has_entries(vfs, target, &prefix).await? {
                return Err(VfsError::plain(libc::ENOTEMPTY));
            }
            Ok(())
        }
        (false, false) => Ok(()),
    }
}

async fn rename_file(
    vfs: &Vfs,
    inode: &Arc<Inode>,
    target: Option<&Arc<Inode>>,
    parent: u64,
    new: NewName<'_>,
) -> Result<()> {
    let from = vfs.tree.file_key(inode.ino);
    let to = name::file_key(&vfs.tree.directory_key(new.parent), new.name)?;
    // Its writers go on; nothing of that leaves under the old name.
    let _still = inode.draft().map(|draft| draft.stand_still());
    let kept = match target {
        Some(target) => unlink::keep_for_users(vfs, target).await?,
        None => None,
    };
    let copy = match rename_draft(vfs, inode, target, &from, (&to, new.name)).await {
        Ok(true) => Ok(None),
        Ok(false) => {
            copy_to_new_name(vfs, inode, target, parent, &from, (&to, new)).await.map(Some)
        }
        Err(error) => Err(error),
    };
    if let (Err(_), Some(target)) = (&copy, target) {
        unlink::give_back(vfs, target, kept).await;
    }
    match copy? {
        None => have_new_name(vfs, inode, target, &from, (new.parent, new.name))?,
        Some(moved) => leave_old_name(vfs, inode, target, moved, (new.parent, new.name)).await?,
    }
    discard_replaced(vfs, target).await;
    Ok(())
}

/// What is only here has its new name.
fn have_new_name(
    vfs: &Vfs,
    inode: &Arc<Inode>,
    target: Option<&Arc<Inode>>,
    from: &Key,
    (new_parent, new_name): (u64, &[u8]),
) -> Result<()> {
    rename_log::finish_rename(vfs, inode, target, new_parent, new_name)?;
    let replaced = target.is_some_and(|target| {
        let state = target.state();
        state.etag.is_some() || state.shadows
    });
    inode.state().shadows |= replaced;
    vfs.tree.note_local_file(inode);
    vfs.objects.deleted(from);
    Ok(())
}

/// The object as it was just published, copied to its new name.
async fn copy_to_new_name<'a>(
    vfs: &'a Vfs,
    inode: &Arc<Inode>,
    target: Option<&Arc<Inode>>,
    parent: u64,
    from: &'a Key,
    (to, new): (&'a Key, NewName<'_>),
) -> Result<MovedFile<'a>> {
    let if_new = new.must_be_free && vfs.parts.store.capabilities().conditional_copies;
    if inode.state().unsaved || if_new {
        vfs.versions.know_all(inode).await.map_err(|error| vfs.faults.pass(error))?;
    }
    let told = vfs.versions.type_by_name(inode, new.name);
    let (mut attributes, etag, len, unsaved) = {
        let state = inode.state();
        let etag = state.etag().ok_or_else(|| VfsError::plain(libc::ENOENT))?;
        (state.attributes.clone(), etag, state.len, state.unsaved)
    };
    directory::keep_directory(vfs, parent).await?;
    if let Some(told) = told {
        attributes.set_content_type(told);
    }
    // What has changed since goes along in the same copy.
    let with = match unsaved || told.is_some() || if_new {
        true => CopyWith::these(attributes.to_write_options()?),
        false => CopyWith::the_same(vfs.versions.storage_of(inode)),
    };
    let with = if if_new { with.if_new() } else { with };
    let class = with.class().cloned();
    let rename = vfs.parts.journal.next_rename_id();
    rename_log::may_rename(vfs, rename, renaming(from, &etag, len, to, target))?;
    let moving = vfs.objects.moving(from);
    match vfs.versions.copy_object(from, &etag, len, to, with).await {
        Ok(copy) => {
            Ok(MovedFile { rename, from, etag, len, to, copy, moving, attributes, told, class })
        }
        Err(error) => {
            rename_log::renamed(vfs, rename, false, None)?;
            // Of source or target: one of them is another than was thought.
            if if_new && error.errno == libc::ESTALE && is_taken(vfs, new).await? {
                return Err(VfsError::plain(libc::EEXIST));
            }
            Err(vfs.faults.pass(error))
        }
    }
}

/// Whether the bucket has something of this name now, whatever is known of it here.
async fn is_taken(vfs: &Vfs, new: NewName<'_>) -> Result<bool> {
    let found = vfs.parts.catalog.ask_file(&vfs.tree.directory_key(new.parent), new.name).await;
    let found = found.map_err(|error| vfs.tree.resolve_error(error))?;
    Ok(!matches!(found, Found::Absent))
}

/// The copy stands under the new name, and what was there is gone. Now the old name goes.
async fn leave_old_name(
    vfs: &Vfs,
    inode: &Arc<Inode>,
    target: Option<&Arc<Inode>>,
    moved: MovedFile<'_>,
    (new_parent, new_name): (u64, &[u8]),
) -> Result<()> {
    let MovedFile { rename, from, etag, len, to, copy, moving, attributes, told, class } = moved;
    let object = Stored { key: to, etag: &copy, len, class };
    let deleted = match rename_log::has_copied(vfs, rename, &etag, to, &copy) {
        Ok(()) => unlink::delete_version(vfs, inode, from, Some(&etag)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = deleted {
        // Both names are there: this file keeps its own, and the other one is that of a copy.
        rename_log::renamed(vfs, rename, true, None)?;
        vfs.objects.copied(object, &attributes);
        drop(moving);
        let detached = target.map_or(Ok(()), |target| vfs.versions.detach(target));
        vfs.tree.inodes.unname(new_parent, new_name);
        discard_replaced(vfs, target).await;
        detached?;
        return Err(error);
    }
    vfs.objects.moved((from, &etag), object, &attributes);
    drop(moving);
    let finished = rename_log::finish_rename(vfs, inode, target, new_parent, new_name);
    {
        let mut state = inode.state();
        told.into_iter().for_each(|told| state.attributes.set_content_type(told));
        // What has changed meanwhile is still to be saved.
        state.unsaved &= state.attributes != attributes;
        state.valid_until = vfs.settings.fresh_until();
    }
    let followed = vfs.versions.follow_copy(inode, to, copy, len);
    rename_log::renamed(vfs, rename, true, followed)?;
    if inode.state().is_local() {
        vfs.tree.note_local_file(inode);
    }
    finished
}

/// What the journal needs to know of a rename in the store.
fn renaming(
    from: &Key,
    etag: &ETag,
    len: u64,
    to: &Key,
    target: Option<&Arc<Inode>>,
) -> FileRename {
    FileRename {
        from: from.clone(),
        etag: etag.clone(),
        len,
        to: Some(to.clone()),
        replaced: target.and_then(|target| target.state().etag()),
        unlinked: target.and_then(|target| target.draft()).map(|draft| draft.id()),
    }
}

/// A file that was replaced before it was uploaded: it is not wanted any more, and no crash may bring
/// it back over the one that took its place.
async fn discard_replaced(vfs: &Vfs, target: Option<&Arc<Inode>>) {
    let Some(target) = target else { return };
    let draft = {
        let mut state = target.state();
        if state.used().open.all > 0 {
            return;
        }
        state.used_mut().draft.take()
    };
    if let Some(draft) = draft
        && let Err(error) = draft.discard().await
    {
        log::warn!("a file that was replaced leaves something behind: {error}");
    }
    vfs.tree.inodes.settle(target.ino);
}

/// Whether the store is not known to have anything under the file's name.
fn is_only_here(inode: &Inode) -> bool {
    let state = inode.state();
    state.etag.is_none() && !state.shadows
}

/// Renames what is only here. `false` where the store has to be asked: then nothing is dirty.
async fn rename_draft(
    vfs: &Vfs,
    inode: &Arc<Inode>,
    target: Option<&Arc<Inode>>,
    from: &Key,
    (to, new_name): (&Key, &[u8]),
) -> Result<bool> {
    let Some(draft) = inode.draft() else { return Ok(false) };
    vfs.versions.adopt_on_the_way(inode, &draft);
    let only_here = is_only_here(inode);
    let replaced = target.and_then(|target| target.draft());
    if only_here && let Some(replaced) = &replaced {
        any_other(draft.stand_in_for(replaced)).await?;
    }
    if only_here && !draft.has_begun() {
        // What the store may have made of either without an answer does not stay, nor come back.
        unlink::delete_unheard_of(vfs, inode, from).await?;
        if let Some(target) = target.filter(|target| is_only_here(target)) {
            unlink::delete_unheard_of(vfs, target, to).await?;
        }
    }
    if only_here && draft.rename(to, replaced.as_deref())? {
        if let Some(told) = vfs.versions.type_by_name(inode, new_name) {
            inode.state().attributes.set_content_type(told);
            vfs.versions.tell_draft(inode, &draft)?;
        }
        return Ok(true);
    }
    if draft.is_dirty() {
        log::debug!("{from}: published before it is renamed");
        vfs.versions.publish(inode, &draft).await?;
        vfs.versions.let_go_of_published(inode);
    }
    Ok(false)
}
