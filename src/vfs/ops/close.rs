//! The end of writing: flush (close), fsync, release, and what becomes of the draft.

use std::sync::Arc;

use super::unlink;
use crate::progress::any_other;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::Result;
use crate::vfs::tree::Inode;

/// close(2): the object is complete in the store when this returns, or safe on the disk
/// (write-back), or this is an error.
pub async fn flush(vfs: &Vfs, fh: u64, pid: u32) -> Result<()> {
    let handle = vfs.files.handles.file(fh)?;
    if !handle.mode.write {
        return Ok(());
    }
    let inode = handle.inode.clone();
    let Some(draft) = inode.draft().filter(|draft| draft.is_dirty()) else { return Ok(()) };
    if vfs.files.is_left_to_a_later_close(&handle, &draft, pid).await {
        return Ok(());
    }
    if vfs.settings.write_back {
        // Before the operation lock: the files that wait in the queue need theirs.
        any_other(vfs.write_back.waiting.room(vfs.settings.timeout)).await;
    }
    let _operation = vfs.tree.operation_on(&inode).await;
    close_draft(vfs, &inode).await
}

/// Publishes an inode's draft, or makes it durable here. The caller holds the operation lock.
pub async fn close_draft(vfs: &Vfs, inode: &Arc<Inode>) -> Result<()> {
    let Some(draft) = inode.draft() else { return Ok(()) };
    if !draft.is_dirty() || inode.state().unlinked {
        return Ok(());
    }
    if draft.is_closed() {
        return Ok(());
    }
    // Where the queue is full and gets no further the close waits for the store, and tells what it says.
    if vfs.settings.write_back && !draft.builds_on_another() && !vfs.write_back.waiting.is_full() {
        match any_other(draft.close_locally()).await {
            Ok(()) => {
                vfs.tree.note_local_file(inode);
                vfs.write_back.waiting.push(inode.ino, draft.len());
                return Ok(());
            }
            // No room here, or a disk that fails: the close waits for the store instead.
            Err(error) if error.is_failing_disk() => {
                log::info!("{}: {error}: sent before it is closed", draft.key());
            }
            Err(error) => return Err(vfs.tree.fault_of(inode, error)),
        }
    }
    vfs.versions.publish(inode, &draft).await
}

/// fsync(2).
pub async fn fsync(vfs: &Vfs, fh: u64) -> Result<()> {
    let handle = vfs.files.handles.file(fh)?;
    if handle.inode.state().unlinked {
        return Ok(());
    }
    let Some(draft) = handle.inode.draft().filter(|draft| draft.is_dirty()) else {
        return vfs.versions.sync_attributes(&handle.inode).await;
    };
    if draft.builds_on_another() {
        let _operation = vfs.tree.operation_on(&handle.inode).await;
        return vfs.versions.publish(&handle.inode, &draft).await;
    }
    let synced = any_other(draft.sync()).await;
    synced.map_err(|error| vfs.tree.fault_of(&handle.inode, error))
}

/// fsync(2) of a directory. Names are in the bucket, or in the journal, when the call that made them
/// returns.
pub async fn fsyncdir(vfs: &Vfs, ino: u64) -> Result<()> {
    vfs.versions.sync_attributes(&vfs.tree.get(ino)?).await?;
    Ok(vfs.parts.journal.sync().await?)
}

/// The last use of a handle is over. The kernel does not wait for the answer.
pub async fn release(vfs: &Vfs, fh: u64) {
    let Ok(handle) = vfs.files.handles.file(fh) else { return };
    let _release = vfs.write_back.waiting.release();
    let inode = handle.inode.clone();
    let _operation = vfs.tree.operation_on(&inode).await;
    // Other writers will close it, and it is theirs to say when it is whole.
    let is_last = handle.mode.write && inode.state().used().open.writers == 1;
    if is_last && let Err(error) = close_draft(vfs, &inode).await {
        // close(2) has told the program already, unless it never called it.
        log::warn!("{}: not complete: {error}", vfs.tree.file_key(inode.ino));
    }
    vfs.files.handles.remove(fh);
    let (last_writer, ends_alias, unwanted) = {
        let mut state = inode.state();
        let used = state.used_mut();
        used.open.remove(handle.counted());
        if used.open.passthroughs == 0 {
            (used.backing, used.mirror) = (None, None);
        }
        let ends_alias = used.alias.is_some() && used.open.passthroughs + used.open.elsewhere == 0;
        if ends_alias {
            used.paged = None;
        }
        if used.open.all == 0 {
            (used.reader, used.displaced) = (None, false);
        }
        let last_writer = used.open.writers == 0;
        // In the same moment, or it could be opened once more.
        let is_over = used.open.all == 0 && state.unlinked;
        let unwanted = if is_over { state.used_mut().draft.take() } else { None };
        (last_writer, ends_alias, unwanted)
    };
    if ends_alias {
        vfs.tree.inodes.end_alias(&inode);
    }
    drop(handle);
    if let Some(draft) = unwanted {
        if let Err(error) = draft.discard().await {
            log::warn!("{}: an unlinked file's upload stays behind: {error}", draft.key());
        }
    } else if last_writer {
        retire_draft(vfs, &inode);
    }
    unlink::drop_kept_copy(vfs, &inode).await;
    vfs.tree.inodes.settle(inode.ino);
}

/// The last writer is gone: a draft that is clean, or that failed for good, goes too. That of an unlinked file
/// goes with its last reader.
fn retire_draft(vfs: &Vfs, inode: &Arc<Inode>) {
    let draft = {
        let state = inode.state();
        state.used().draft.clone().filter(|_| !state.unlinked)
    };
    let Some(draft) = draft else { return };
    // Closed under write-back, perhaps by an earlier mount: it is here until it is in the store.
    if draft.is_dirty() && draft.progress().closed {
        return;
    }
    vfs.versions.adopt_on_the_way(inode, &draft);
    vfs.versions.forget_draft(inode, draft.is_dirty());
}
