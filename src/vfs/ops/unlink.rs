//! unlink(2), and what it means for files that are open: their content lives until the last close.
//!
//! An object that is still read is copied inside the store, to a temporary object, before its key goes, unless
//! all of it is on the local disk. The copy is journaled, so that the next mount deletes it if this
//! one cannot.

use std::sync::Arc;

use super::directory;
use crate::clock::Instant;
use crate::journal::{Deletion, FileRename, Record};
use crate::namespace::attributes::Kind;
use crate::reader::Reader;
use crate::store::{ETag, ErrorKind, Key, Mark, Storage};
use crate::upload::TEMPORARY_PREFIX;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::Inode;
use crate::vfs::versions::{CopyWith, is_gone};
use crate::writer::Base;

/// A copy that was made of an object so that its users can do without it.
pub struct Kept {
    key: Key,
    etag: ETag,
    /// In bytes.
    len: u64,
    copy: Key,
    copy_etag: ETag,
}

/// unlink(2).
pub async fn unlink(vfs: &Vfs, parent: u64, name: &[u8]) -> Result<()> {
    vfs.settings.check_writable()?;
    let _entered = vfs.tree.enter([parent, parent]).await;
    let inode =
        vfs.tree.find_child(parent, name).await?.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
    if inode.kind() == Kind::Directory {
        return Err(VfsError::plain(libc::EISDIR));
    }
    inode.check_changeable()?;
    vfs.write_back.waiting.call_off(inode.ino);
    let _operation = inode.operation_lock().lock().await;
    inode.state().leaves();
    let removed = remove_file(vfs, &inode, parent, name).await;
    inode.state().leaving = false;
    removed
}

async fn remove_file(vfs: &Vfs, inode: &Arc<Inode>, parent: u64, name: &[u8]) -> Result<()> {
    let key = vfs.tree.file_key(inode.ino);
    publish_for_readers(vfs, inode).await?;
    let (etag, shadows) = {
        let state = inode.state();
        (state.etag(), state.shadows)
    };
    let is_known = etag.is_some() || shadows;
    if is_known || !unheard_of(inode).is_empty() {
        let kept = keep_for_readers(vfs, inode).await?;
        let kept_directory = match is_known {
            true => directory::keep_directory(vfs, parent).await,
            false => Ok(()),
        };
        let deleted = match kept_directory {
            Ok(()) => delete_unlinked(vfs, inode, &key).await,
            Err(error) => Err(error),
        };
        if deleted.is_err() {
            give_back(vfs, inode, kept).await;
        }
        deleted?;
    }
    vfs.objects.deleted(&key);
    let detached = vfs.versions.detach(inode);
    vfs.tree.inodes.unname(parent, name);
    detached?;
    vfs.tree.touch_directory(parent);
    end_unused(vfs, inode, &key, etag).await
}

/// Of a file that has lost its name nothing is wanted any more, unless it is open: then it ends with
/// the last of them.
async fn end_unused(vfs: &Vfs, inode: &Inode, key: &Key, etag: Option<ETag>) -> Result<()> {
    let draft = {
        let mut state = inode.state();
        if state.used().open.all > 0 {
            return Ok(());
        }
        state.used_mut().draft.take()
    };
    if let Some(etag) = etag {
        vfs.objects.unused(key, &etag);
    }
    let ended = match draft {
        Some(draft) => draft.discard().await,
        None => Ok(()),
    };
    vfs.tree.inodes.settle(inode.ino);
    Ok(ended?)
}

/// By what the object is known that the store may have made of a file without an answer.
fn unheard_of(inode: &Inode) -> Vec<Mark> {
    inode.draft().map_or_else(Vec::new, |draft| draft.unheard_of())
}

/// A file of which the store is not known to have anything loses a name: if it has made an object of it all the same,
/// without an answer, that goes soon. The file itself may go on under another name.
pub async fn delete_unheard_of(vfs: &Vfs, inode: &Inode, key: &Key) -> Result<()> {
    let what = Deletion { etag: None, marks: unheard_of(inode) };
    if what.marks.is_empty() {
        return Ok(());
    }
    let begun = vfs.parts.deletions.delete_later(key, what, None).await;
    begun.map_err(|error| vfs.faults.pass(error))
}

/// Deletes what has lost its name: at once, so that the store's refusal is unlink's; under write-back,
/// where everything is said to be done when it is safe here, soon. If there is more of the file than the
/// object, it goes in the same moment: a crash in between must not leave a modification of nothing.
async fn delete_unlinked(vfs: &Vfs, inode: &Arc<Inode>, key: &Key) -> Result<()> {
    let unlinked = inode.draft().map(|draft| draft.id());
    let mut version = vfs.versions.stored_version(inode);
    let is_perhaps_there = version.is_none() && !inode.state().shadows;
    // What was sent and never answered may have taken its place.
    let is_certain = unheard_of(inode).is_empty() || is_perhaps_there;
    if vfs.settings.write_back && (version.is_some() || is_perhaps_there) {
        let etag = version.as_ref().map(|(etag, _)| etag.clone());
        let what = Deletion { etag, marks: unheard_of(inode) };
        match vfs.parts.deletions.delete_later(key, what, unlinked).await {
            // No room to write it down: it is done at once. (Where there is more here, room has to be made first.)
            Err(error) if error.kind == ErrorKind::NoSpace && unlinked.is_none() => {}
            other => return other.map_err(|error| vfs.faults.pass(error)),
        }
    }
    if is_perhaps_there {
        match own_version(vfs, key, &unheard_of(inode)).await? {
            None => return Ok(()),
            own => version = own,
        }
    }
    let if_match = version.as_ref().filter(|_| is_certain).map(|(etag, _)| etag.clone());
    if unlinked.is_none() {
        return delete_version(vfs, inode, key, if_match.as_ref()).await;
    }
    let (etag, len) = version.unwrap_or_else(|| (ETag::new(""), 0));
    let rename = vfs.parts.journal.next_rename_id();
    let renaming = FileRename { from: key.clone(), etag, len, to: None, replaced: None, unlinked };
    vfs.parts.journal.append(Record::FileRenameBegun { rename, renaming })?;
    let deleted = delete_version(vfs, inode, key, if_match.as_ref()).await;
    vfs.parts.journal.append(Record::FileRenameEnded { rename, done: deleted.is_ok() })?;
    deleted
}

/// Deletes the version of a file that was looked at. Another one, which another client has written since, stays where the
/// store can tell them apart: EBUSY. (The kernel would look again after ESTALE, and delete that one.) Then it is the one
/// that is looked at.
pub async fn delete_version(
    vfs: &Vfs,
    inode: &Arc<Inode>,
    key: &Key,
    if_match: Option<&ETag>,
) -> Result<()> {
    let Err(error) = vfs.parts.store.delete(key, if_match).await else { return Ok(()) };
    if error.kind != ErrorKind::PreconditionFailed {
        return Err(vfs.faults.pass(error));
    }
    inode.state().valid_until = Instant::now();
    if let Err(error) = vfs.tree.revalidate(inode).await {
        log::debug!("{key}: what is there now is not known: {error}");
    }
    let why = "another client has written it since it was looked at here: it stays";
    let refused = VfsError::new(libc::EBUSY, why).of_key(key);
    vfs.faults.note(&refused);
    Err(refused.noted())
}

/// The object that stands under the key, if it has one of these marks.
async fn own_version(vfs: &Vfs, key: &Key, marks: &[Mark]) -> Result<Option<(ETag, u64)>> {
    let head = match vfs.parts.store.head(key).await {
        Err(error) if is_gone(&error) => return Ok(None),
        head => head.map_err(|error| vfs.faults.pass(error))?,
    };
    let is_own = head.mark().is_some_and(|mark| marks.contains(&mark));
    Ok(is_own.then_some((head.etag, head.len)))
}

/// What is being written can be read back after its name is gone only if no byte is in the store
/// alone, as a part: those cannot be read. So it becomes an object first, while it has its key.
async fn publish_for_readers(vfs: &Vfs, inode: &Arc<Inode>) -> Result<()> {
    let Some(draft) = inode.draft() else { return Ok(()) };
    vfs.versions.adopt_on_the_way(inode, &draft);
    let read = vfs.files.handles.of(inode.ino).iter().any(|handle| handle.mode.read);
    if read && draft.needs_the_store() {
        vfs.versions.publish(inode, &draft).await?;
    }
    Ok(())
}

/// As [`keep_for_readers`], of a file that another one is about to replace.
pub async fn keep_for_users(vfs: &Vfs, target: &Arc<Inode>) -> Result<Option<Kept>> {
    publish_for_readers(vfs, target).await?;
    keep_for_readers(vfs, target).await
}

/// Makes sure that handles of this object can be read when its key is gone.
async fn keep_for_readers(vfs: &Vfs, inode: &Arc<Inode>) -> Result<Option<Kept>> {
    let (etag, len, opens) = {
        let state = inode.state();
        let Some(etag) = state.etag() else { return Ok(None) };
        (etag, state.len, state.used().open.all)
    };
    if opens == 0 || len == 0 {
        return Ok(None);
    }
    let key = vfs.tree.file_key(inode.ino);
    let object = vfs.parts.cache.object(&key, &etag, len);
    if object.resident_on_disk() {
        // Held, so that it stays there.
        inode.state().used_mut().reader.get_or_insert_with(|| Arc::new(Reader::new(object)));
        return Ok(None);
    }
    let copy = temporary_key(vfs);
    vfs.parts.journal.append(Record::TemporaryBegun { key: copy.clone() })?;
    let with = CopyWith::the_same(Storage::default());
    let copy_etag = match vfs.versions.copy_object(&key, &etag, len, &copy, with).await {
        Ok(etag) => etag,
        Err(error) => {
            drop_temporary_object(vfs, &copy).await;
            return Err(vfs.faults.pass(error));
        }
    };
    serve_from(vfs, inode, (&key, &etag), (&copy, &copy_etag), len);
    Ok(Some(Kept { key, etag, len, copy, copy_etag }))
}

/// The name did not go after all: readers go on with its object, and the copy goes.
pub async fn give_back(vfs: &Vfs, inode: &Arc<Inode>, kept: Option<Kept>) {
    let Some(Kept { key, etag, len, copy, copy_etag }) = kept else { return };
    serve_from(vfs, inode, (&copy, &copy_etag), (&key, &etag), len);
    inode.state().used_mut().kept_copy = None;
    drop_temporary_object(vfs, &copy).await;
}

/// Open handles read the same bytes from another object.
fn serve_from(vfs: &Vfs, inode: &Inode, old: (&Key, &ETag), new: (&Key, &ETag), len: u64) {
    vfs.objects.read_from(old, new);
    let object = vfs.parts.cache.object(new.0, new.1, len);
    let (key, etag) = (new.0.clone(), new.1.clone());
    let draft = {
        let mut state = inode.state();
        state.read_from(object.clone());
        state.used_mut().kept_copy = Some(Box::new((key.clone(), etag.clone())));
        state.used().draft.clone()
    };
    if let Some(draft) = draft {
        draft.read_base_from(old.1, Base { key, etag, len, object });
    }
}

/// The last user of an unlinked file is gone: so is the copy that was kept for it.
pub async fn drop_kept_copy(vfs: &Vfs, inode: &Inode) {
    let copy = {
        let mut state = inode.state();
        if state.used().open.all > 0 {
            return;
        }
        state.used_mut().kept_copy.take()
    };
    if let Some(copy) = copy {
        drop_temporary_object(vfs, &copy.0).await;
    }
}

async fn drop_temporary_object(vfs: &Vfs, key: &Key) {
    if let Err(error) = delete_temporary_object(vfs, key).await {
        log::warn!("{key} will be deleted by the next mount: {error}");
    }
}

/// Deletes an object that was only ours.
pub async fn delete_temporary_object(vfs: &Vfs, key: &Key) -> Result<()> {
    match vfs.parts.store.delete(key, None).await {
        Err(error) if !is_gone(&error) => return Err(vfs.faults.pass(error)),
        _ => {}
    }
    vfs.parts.journal.append(Record::TemporaryEnded { key: key.clone() })?;
    Ok(())
}

fn temporary_key(vfs: &Vfs) -> Key {
    // No other machine has the same.
    let unique = Mark::fresh().to_string();
    vfs.tree
        .directory_key(crate::vfs::tree::ROOT_INO)
        .join(TEMPORARY_PREFIX)
        .join(unique.as_bytes())
}
