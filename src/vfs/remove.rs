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
use crate::writer::Base;

/// A copy that was made of an object so that its users can do without it.
pub(super) struct Kept {
    key: Key,
    etag: ETag,
    /// In bytes.
    len: u64,
    aside: Key,
    copy: ETag,
}

impl Vfs {
    /// unlink(2).
    pub async fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.refuse_if_read_only()?;
        let _entered = self.subtrees.enter(&self.inodes, [parent, parent]).await;
        let inode =
            self.find_child(parent, name).await?.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
        if inode.kind() == Kind::Directory {
            return Err(VfsError::plain(libc::EISDIR));
        }
        let _turn = inode.turn().lock().await;
        inode.state().leaves();
        let removed = self.remove_file(&inode, parent, name).await;
        inode.state().leaving = false;
        removed
    }

    async fn remove_file(&self, inode: &Arc<Inode>, parent: u64, name: &[u8]) -> Result<()> {
        let key = self.inodes.file_key(inode.ino);
        self.publish_for_readers(inode).await?;
        let (etag, shadows) = {
            let state = inode.state();
            (state.etag(), state.shadows)
        };
        if etag.is_some() || shadows {
            let kept = self.keep_for_readers(inode).await?;
            let deleted = match self.keep_directory(parent).await {
                Ok(()) => self.delete_unlinked(inode, &key).await,
                Err(error) => Err(error),
            };
            if deleted.is_err() {
                self.give_back(inode, kept).await;
            }
            deleted?;
        }
        self.objects.deleted(&key);
        let detached = self.detach(inode);
        self.inodes.unname(parent, name);
        detached?;
        self.touch_directory(parent);
        self.end_unused(inode, &key, etag).await
    }

    /// Of a file that has lost its name nothing is wanted any more, unless somebody has it open: then it ends with
    /// the last of them.
    async fn end_unused(&self, inode: &Inode, key: &Key, etag: Option<ETag>) -> Result<()> {
        let draft = {
            let mut state = inode.state();
            if state.used().opens > 0 {
                return Ok(());
            }
            state.used_mut().draft.take()
        };
        if let Some(etag) = etag {
            self.objects.unused(key, &etag);
        }
        let ended = match draft {
            Some(draft) => draft.discard().await,
            None => Ok(()),
        };
        self.inodes.settle(inode.ino);
        Ok(ended?)
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

    /// As [`Vfs::keep_for_readers`], of a file that another one is about to replace.
    pub(super) async fn keep_for_users(&self, target: &Arc<Inode>) -> Result<Option<Kept>> {
        self.publish_for_readers(target).await?;
        self.keep_for_readers(target).await
    }

    /// Makes sure that who has this object open can go on reading when its key is gone.
    pub(super) async fn keep_for_readers(&self, inode: &Arc<Inode>) -> Result<Option<Kept>> {
        let (etag, len, opens) = {
            let state = inode.state();
            let Some(etag) = state.etag() else { return Ok(None) };
            (etag, state.len, state.used().opens)
        };
        if opens == 0 || len == 0 {
            return Ok(None);
        }
        let key = self.inodes.file_key(inode.ino);
        let object = self.cache.object(&key, &etag, len);
        if object.resident_on_disk() {
            // Held, so that it stays there.
            inode.state().used_mut().reader.get_or_insert_with(|| Arc::new(Reader::new(object)));
            return Ok(None);
        }
        let aside = self.aside_key();
        self.journal.append(Record::HelperBegun { key: aside.clone() })?;
        let with = CopyWith::the_same(Storage::default());
        let copy = match self.copy_object(&key, &etag, len, &aside, with).await {
            Ok(copy) => copy,
            Err(error) => {
                self.drop_helper(&aside).await;
                return Err(self.fault(error));
            }
        };
        self.serve_from(inode, (&key, &etag), (&aside, &copy), len);
        Ok(Some(Kept { key, etag, len, aside, copy }))
    }

    /// The name did not go after all: readers go on with its object, and the copy goes.
    pub(super) async fn give_back(&self, inode: &Arc<Inode>, kept: Option<Kept>) {
        let Some(Kept { key, etag, len, aside, copy }) = kept else { return };
        self.serve_from(inode, (&aside, &copy), (&key, &etag), len);
        inode.state().used_mut().aside = None;
        self.drop_helper(&aside).await;
    }

    /// Whoever has the file open reads the same bytes from another object.
    fn serve_from(&self, inode: &Inode, old: (&Key, &ETag), new: (&Key, &ETag), len: u64) {
        self.objects.read_from(old, new);
        let object = self.cache.object(new.0, new.1, len);
        let (key, etag) = (new.0.clone(), new.1.clone());
        let draft = {
            let mut state = inode.state();
            state.read_from(object.clone());
            state.used_mut().aside = Some(Box::new((key.clone(), etag.clone())));
            state.used().draft.clone()
        };
        if let Some(draft) = draft {
            draft.read_base_from(old.1, Base { key, etag, len, object });
        }
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
        if let Some(aside) = aside {
            self.drop_helper(&aside.0).await;
        }
    }

    async fn drop_helper(&self, key: &Key) {
        if let Err(error) = self.delete_helper(key).await {
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
