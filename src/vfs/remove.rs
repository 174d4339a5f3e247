//! unlink(2), and what it means for files that are open: their content lives until the last close.
//!
//! An object that somebody still reads is copied aside inside the store before its key goes, unless
//! all of it is on the local disk. The copy is journaled, so that the next mount deletes it if this
//! one cannot.

use std::sync::Arc;

use super::Vfs;
use super::change::CopyWith;
use super::error::{Result, VfsError};
use super::inode::Inode;
use crate::journal::{FileRename, Record};
use crate::namespace::attributes::Kind;
use crate::reader::Reader;
use crate::store::{ETag, ErrorKind, Key, Mark, Storage};
use crate::upload::ASIDE_PREFIX;

impl Vfs {
    /// unlink(2).
    pub async fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.refuse_if_read_only()?;
        let inode =
            self.find_child(parent, name).await?.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
        if inode.kind() == Kind::Directory {
            return Err(VfsError::plain(libc::EISDIR));
        }
        let _turn = inode.turn().lock().await;
        let key = self.inodes.file_key(inode.ino);
        self.publish_for_readers(&inode).await?;
        let (etag, draft, opens, shadows) = {
            let state = inode.state();
            (state.etag(), state.used().draft.clone(), state.used().opens, state.shadows)
        };
        if etag.is_some() || shadows {
            self.keep_for_readers(&inode).await?;
            self.keep_directory(parent).await?;
            self.delete_unlinked(&inode, &key).await?;
            self.memory.forget(&key);
            self.uploads.forget_content(&key);
        }
        if let Some(etag) = etag.as_ref().filter(|_| opens == 0) {
            self.cache.forget_version(&key, etag);
        }
        self.attributes_settled(&key);
        self.listings.note_deleted(&key);
        let detached = self.detach(&inode);
        self.inodes.unname(parent, name);
        detached?;
        if let Some(draft) = draft
            && opens == 0
        {
            draft.discard().await?;
            inode.state().used_mut().draft = None;
        }
        self.touch_directory(parent);
        self.inodes.settle(inode.ino);
        Ok(())
    }

    /// Deletes what has lost its name: at once, so that the store's refusal is unlink's; under write-back,
    /// where everything is said to be done when it is safe here, soon. If there is more of the file than the
    /// object, it goes in the same moment: a crash in between must not leave a modification of nothing.
    async fn delete_unlinked(&self, inode: &Inode, key: &Key) -> Result<()> {
        let unnamed = inode.draft().map(|draft| draft.id());
        let version = self.stored_version(inode);
        if let Some((etag, _)) = &version
            && self.settings.write_back
        {
            match self.deletions.delete_later(key, etag, unnamed).await {
                // No room to write it down: it is done at once. (Who has more here has to make room first.)
                Err(error) if error.kind == ErrorKind::NoSpace && unnamed.is_none() => {}
                other => return other.map_err(|error| self.fault(error)),
            }
        }
        if unnamed.is_none() {
            return self.store.delete(key).await.map_err(|error| self.fault(error));
        }
        let (etag, len) = version.unwrap_or_else(|| (ETag::new(""), 0));
        let rename = self.journal.next_rename_id();
        let renaming =
            FileRename { from: key.clone(), etag, len, to: None, replaced: None, unnamed };
        self.journal.append(Record::FileRenameBegun { rename, renaming })?;
        let deleted = self.store.delete(key).await;
        self.journal.append(Record::FileRenameEnded { rename, done: deleted.is_ok() })?;
        deleted.map_err(|error| self.fault(error))
    }

    /// What is being written can be read back after its name is gone only if no byte is in the store
    /// alone, as a part: those nobody can read. So it becomes an object first, while it has its key.
    async fn publish_for_readers(&self, inode: &Arc<Inode>) -> Result<()> {
        let Some(draft) = inode.draft() else { return Ok(()) };
        self.adopt_on_the_way(inode, &draft);
        let read = self.handles.of(inode.ino).iter().any(|handle| handle.mode.read);
        if read && draft.needs_the_store() {
            self.publish(inode, &draft).await?;
        }
        Ok(())
    }

    /// The inode has lost its name: nothing of it is published or saved any more.
    pub(super) fn detach(&self, inode: &Inode) -> Result<()> {
        let mut state = inode.state();
        state.unlinked = true;
        state.ctime = self.now();
        state.unsaved = false;
        if let Some(draft) = &state.used().draft {
            draft.forbid_publishing()?;
        }
        Ok(())
    }

    /// Makes sure that who has this object open can go on reading when its key is gone.
    pub(super) async fn keep_for_readers(&self, inode: &Arc<Inode>) -> Result<()> {
        let (etag, len, opens, draft) = {
            let state = inode.state();
            let Some(etag) = state.etag() else { return Ok(()) };
            (etag, state.len, state.used().opens, state.used().draft.clone())
        };
        if opens == 0 || len == 0 {
            return Ok(());
        }
        let key = self.inodes.file_key(inode.ino);
        let object = self.cache.object(&key, &etag, len);
        if object.resident_on_disk() {
            // Held, so that it stays there.
            inode.state().used_mut().reader.get_or_insert_with(|| Arc::new(Reader::new(object)));
            return Ok(());
        }
        let aside = self.aside_key();
        self.journal.append(Record::HelperBegun { key: aside.clone() })?;
        let copy = self
            .copy_object(&key, &etag, len, &aside, CopyWith::the_same(Storage::default()))
            .await
            .map_err(|error| self.fault(error))?;
        self.cache.rename_key(&key, &etag, &aside, &copy);
        let object = self.cache.object(&aside, &copy, len);
        {
            let mut state = inode.state();
            state.read_from(object.clone());
            state.used_mut().aside = Some(Box::new((aside.clone(), copy.clone())));
        }
        if let Some(draft) = draft {
            draft.rebase(crate::writer::Base { key: aside, etag: copy, len, object });
        }
        Ok(())
    }

    /// The last user of an unlinked file is gone: so is the copy that was kept for it.
    pub(super) async fn drop_aside(&self, inode: &Inode) {
        let aside = {
            let mut state = inode.state();
            if state.used().opens > 0 {
                return;
            }
            state.used_mut().aside.take()
        };
        if let Some((key, _)) = aside.map(|aside| *aside)
            && let Err(error) = self.delete_helper(&key).await
        {
            log::warn!("{key} will be deleted by the next mount: {error}");
        }
    }

    /// Deletes an object that was only ours.
    pub(super) async fn delete_helper(&self, key: &Key) -> Result<()> {
        match self.store.delete(key).await {
            Err(error) if !Self::is_gone(&error) => return Err(self.fault(error)),
            _ => {}
        }
        self.journal.append(Record::HelperEnded { key: key.clone() })?;
        Ok(())
    }

    fn aside_key(&self) -> Key {
        // No other machine has the same.
        let unique = Mark::fresh().to_string();
        self.inodes.directory_key(super::ROOT_INO).join(ASIDE_PREFIX).join(unique.as_bytes())
    }

    /// The version of a file that the store is known to have.
    pub(super) fn stored_version(&self, inode: &Inode) -> Option<(ETag, u64)> {
        let state = inode.state();
        Some((state.etag()?, state.len))
    }
}
