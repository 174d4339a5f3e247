//! The end of writing: flush (close), fsync, release, and what becomes of the draft.

use std::sync::Arc;

use super::Vfs;
use super::error::Result;
use super::inode::Inode;
use crate::progress::any_other;
use crate::writer::Draft;

impl Vfs {
    /// close(2): the object is complete in the store when this returns, or safe on the disk
    /// (write-back), or this is an error.
    pub async fn flush(&self, fh: u64, pid: u32) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.mode.write {
            return Ok(());
        }
        let inode = handle.inode.clone();
        let Some(draft) = inode.draft().filter(|draft| draft.is_dirty()) else { return Ok(()) };
        if self.is_left_to_a_later_close(&handle, &draft, pid).await {
            return Ok(());
        }
        if self.settings.write_back {
            // Before its turn: those that wait there need theirs.
            any_other(self.write_back.room(self.settings.timeout)).await;
        }
        let _operation = self.operation_on(&inode).await;
        self.close_draft(&inode).await
    }

    /// Publishes an inode's draft, or makes it durable here. Holds the inode's turn.
    pub(super) async fn close_draft(&self, inode: &Arc<Inode>) -> Result<()> {
        let Some(draft) = inode.draft() else { return Ok(()) };
        if !draft.is_dirty() || inode.state().unlinked {
            return Ok(());
        }
        if draft.is_closed() {
            return Ok(());
        }
        // Where the queue is full and gets no further the close waits for the store, and tells what it says.
        if self.settings.write_back && !draft.builds_on_another() && !self.write_back.is_full() {
            match any_other(draft.close_locally()).await {
                Ok(()) => {
                    self.note_local_file(inode);
                    self.write_back.push(inode.ino, draft.len());
                    return Ok(());
                }
                // No room here, or a disk that fails: the close waits for the store instead.
                Err(error) if error.is_failing_disk() => {
                    log::info!("{}: {error}: sent before it is closed", draft.key());
                }
                Err(error) => return Err(self.fault_of(inode, error)),
            }
        }
        self.publish(inode, &draft).await
    }

    /// Makes the draft an object, and the inode its picture. Holds the inode's turn.
    pub(super) async fn publish(&self, inode: &Arc<Inode>, draft: &Arc<Draft>) -> Result<()> {
        self.know_all_to_write(inode).await.map_err(|error| self.fault_of(inode, error))?;
        let published = any_other(draft.publish()).await;
        let published = published.map_err(|error| self.fault_of(inode, error))?;
        if let Some(published) = published {
            self.adopt_published(inode, &published);
        }
        Ok(())
    }

    /// The draft may have become an object before anybody closed it: so that it could be read back or cut, or before
    /// a patch that failed. The inode is told, if it still has its name. Holds the inode's turn.
    pub(super) fn adopt_on_the_way(&self, inode: &Inode, draft: &Draft) {
        let is_named = !inode.state().unlinked;
        if let Some(published) = draft.take_published().filter(|_| is_named) {
            self.adopt_published(inode, &published);
        }
    }

    /// fsync(2).
    pub async fn fsync(&self, fh: u64) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if handle.inode.state().unlinked {
            return Ok(());
        }
        let Some(draft) = handle.inode.draft().filter(|draft| draft.is_dirty()) else {
            return self.sync_attributes(&handle.inode).await;
        };
        if draft.builds_on_another() {
            let _operation = self.operation_on(&handle.inode).await;
            return self.publish(&handle.inode, &draft).await;
        }
        let synced = any_other(draft.sync()).await;
        synced.map_err(|error| self.fault_of(&handle.inode, error))
    }

    /// fsync(2) of a directory. Names are in the bucket, or in the journal, when the call that made them
    /// returns.
    pub async fn fsyncdir(&self, ino: u64) -> Result<()> {
        self.sync_attributes(&self.inodes.get(ino)?).await?;
        Ok(self.journal.sync().await?)
    }

    /// The last use of a handle is over. Nobody waits for the answer.
    pub async fn release(&self, fh: u64) {
        let Ok(handle) = self.handles.file(fh) else { return };
        let _release = self.write_back.release();
        let inode = handle.inode.clone();
        let _operation = self.operation_on(&inode).await;
        // Others who have it open to write will close it, and it is theirs to say when it is whole.
        let is_last = handle.mode.write && inode.state().used().writers == 1;
        if is_last && let Err(error) = self.close_draft(&inode).await {
            // close(2) has told the program already, unless it never called it.
            log::warn!("{}: not complete: {error}", self.inodes.file_key(inode.ino));
        }
        self.handles.remove(fh);
        let (last_writer, ends_alias, unwanted) = {
            let mut state = inode.state();
            let used = state.used_mut();
            used.opens -= 1;
            used.writers -= u32::from(handle.mode.write);
            used.readers -= u32::from(handle.mode.read && !handle.passthrough);
            used.passthroughs -= u32::from(handle.passthrough);
            used.elsewhere -= u32::from(handle.asked != inode.ino);
            if used.passthroughs == 0 {
                (used.backing, used.mirror) = (None, None);
            }
            let ends_alias = used.alias.is_some() && used.passthroughs + used.elsewhere == 0;
            if ends_alias {
                used.paged = None;
            }
            if used.opens == 0 {
                (used.reader, used.displaced) = (None, false);
            }
            let last_writer = used.writers == 0;
            // In the same moment, or it could be opened once more.
            let is_over = used.opens == 0 && state.unlinked;
            let unwanted = if is_over { state.used_mut().draft.take() } else { None };
            (last_writer, ends_alias, unwanted)
        };
        if ends_alias {
            self.inodes.end_alias(&inode);
        }
        drop(handle);
        if let Some(draft) = unwanted {
            if let Err(error) = draft.discard().await {
                log::warn!("{}: an unlinked file's upload stays behind: {error}", draft.key());
            }
        } else if last_writer {
            self.retire_draft(&inode);
        }
        self.drop_aside(&inode).await;
        self.inodes.settle(inode.ino);
    }

    /// The last writer is gone: a draft that is clean, or that failed for good, goes too. That of an unlinked file
    /// goes with its last reader.
    fn retire_draft(&self, inode: &Arc<Inode>) {
        let draft = {
            let state = inode.state();
            state.used().draft.clone().filter(|_| !state.unlinked)
        };
        let Some(draft) = draft else { return };
        // Closed under write-back, perhaps by an earlier mount: it is here until it is in the store.
        if draft.is_dirty() && draft.progress().closed {
            return;
        }
        self.adopt_on_the_way(inode, &draft);
        self.forget_draft(inode, draft.is_dirty());
    }
}
