//! rename(2) of a file: a copy inside the store and a deletion. Directories are renamed in `relocate`.
//!
//! Consistency: the target is replaced at once, by the copy; the source goes after that. Readers that
//! have the replaced file open keep it (see `remove`).
//! Crash: a rename is journaled before its first copy, and finished by the next mount (see `interrupted`).

use std::sync::Arc;

use super::Vfs;
use super::change::CopyWith;
use super::error::{Result, VfsError};
use super::inode::Inode;
use crate::journal::{FileRename, Record, RenameId};
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::{Stored, name};
use crate::progress::any_other;
use crate::store::{CompactTag, ETag, ErrorKind, Key, Tags, WriteOptions};
use crate::upload::Moving;
use crate::writer::{Base, Draft};

/// What the store gets later than this after a change is remembered to have come late, or its time there would be
/// taken for that of another change.
const LATE: std::time::Duration = std::time::Duration::from_secs(1);

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

impl Vfs {
    /// rename(2) with renameat2's flags.
    pub async fn rename(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
    ) -> Result<()> {
        self.refuse_if_read_only()?;
        name::check_name(new_name)?;
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(VfsError::plain(libc::EINVAL));
        }
        let _entered = self.subtrees.enter(&self.inodes, [parent, new_parent]).await;
        let inode =
            self.find_child(parent, name).await?.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
        let target = self.find_child(new_parent, new_name).await?;
        if target.as_ref().is_some_and(|target| target.ino == inode.ino) {
            return Ok(());
        }
        if target.is_some() && flags & libc::RENAME_NOREPLACE != 0 {
            return Err(VfsError::plain(libc::EEXIST));
        }
        self.may_replace(&inode, target.as_deref()).await?;
        let is_directory = inode.kind() == Kind::Directory;
        let _closed = match is_directory {
            true => Some(self.subtrees.close(&self.inodes, inode.ino).await),
            false => None,
        };
        let _turn = inode.turn().lock().await;
        // Only a rename holds two turns, and the kernel lets no other one through to these names.
        let _target_turn = match &target {
            Some(target) => Some(target.turn().lock().await),
            None => None,
        };
        if is_directory {
            self.rename_directory(&inode, target.as_ref(), new_parent, new_name).await?;
        } else {
            target.iter().for_each(|target| target.state().leaves());
            let (target, to) = (target.as_ref(), (new_parent, new_name));
            let renamed = self.rename_file(&inode, target, parent, to).await;
            target.iter().for_each(|target| target.state().leaving = false);
            renamed?;
        }
        inode.state().ctime = self.now();
        self.touch_directory(parent);
        self.touch_directory(new_parent);
        Ok(())
    }

    async fn may_replace(&self, inode: &Inode, target: Option<&Inode>) -> Result<()> {
        let Some(target) = target else { return Ok(()) };
        match (inode.kind() == Kind::Directory, target.kind() == Kind::Directory) {
            (true, false) => Err(VfsError::plain(libc::ENOTDIR)),
            (false, true) => Err(VfsError::plain(libc::EISDIR)),
            (true, true) => {
                let prefix = self.inodes.directory_key(target.ino);
                if self.has_entries(target, &prefix).await? {
                    return Err(VfsError::plain(libc::ENOTEMPTY));
                }
                Ok(())
            }
            (false, false) => Ok(()),
        }
    }

    async fn rename_file(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        parent: u64,
        (new_parent, new_name): (u64, &[u8]),
    ) -> Result<()> {
        let from = self.inodes.file_key(inode.ino);
        let to = name::file_key(&self.inodes.directory_key(new_parent), new_name)?;
        // Whoever writes it goes on; nothing of that leaves under the old name.
        let _still = inode.draft().map(|draft| draft.stand_still());
        let kept = match target {
            Some(target) => self.keep_for_users(target).await?,
            None => None,
        };
        let copy = match self.rename_draft(inode, target, &from, (&to, new_name)).await {
            Ok(true) => Ok(None),
            Ok(false) => {
                self.copy_to_new_name(inode, target, parent, &from, (&to, new_name)).await.map(Some)
            }
            Err(error) => Err(error),
        };
        if let (Err(_), Some(target)) = (&copy, target) {
            self.give_back(target, kept).await;
        }
        match copy? {
            None => self.have_new_name(inode, target, &from, (new_parent, new_name))?,
            Some(moved) => {
                self.leave_old_name(inode, target, moved, (new_parent, new_name)).await?
            }
        }
        self.discard_replaced(target).await;
        Ok(())
    }

    /// What is only here has its new name.
    fn have_new_name(
        &self,
        inode: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        from: &Key,
        (new_parent, new_name): (u64, &[u8]),
    ) -> Result<()> {
        self.finish_rename(inode, target, new_parent, new_name)?;
        let replaced = target.is_some_and(|target| {
            let state = target.state();
            state.etag.is_some() || state.shadows
        });
        inode.state().shadows |= replaced;
        self.note_local_file(inode);
        self.objects.deleted(from);
        Ok(())
    }

    /// The object as it was just published, copied to its new name.
    async fn copy_to_new_name<'a>(
        &'a self,
        inode: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        parent: u64,
        from: &'a Key,
        (to, new_name): (&'a Key, &[u8]),
    ) -> Result<MovedFile<'a>> {
        if inode.state().unsaved {
            self.know_all(inode).await.map_err(|error| self.fault(error))?;
        }
        let told = self.type_by_name(inode, new_name);
        let (mut attributes, etag, len, unsaved) = {
            let state = inode.state();
            let etag = state.etag().ok_or_else(|| VfsError::plain(libc::ENOENT))?;
            (state.attributes.clone(), etag, state.len, state.unsaved)
        };
        self.keep_directory(parent).await?;
        if let Some(told) = told {
            attributes.set_content_type(told);
        }
        // What has changed since goes along in the same copy.
        let with = match unsaved || told.is_some() {
            true => CopyWith::these(attributes.to_write_options()?),
            false => CopyWith::the_same(self.storage_of(inode)),
        };
        let class = with.class().cloned();
        let rename = self.journal.next_rename_id();
        self.may_rename(rename, self.renaming(from, &etag, len, to, target))?;
        let moving = self.objects.moving(from);
        match self.copy_object(from, &etag, len, to, with).await {
            Ok(copy) => {
                Ok(MovedFile { rename, from, etag, len, to, copy, moving, attributes, told, class })
            }
            Err(error) => {
                self.renamed(rename, false, None)?;
                Err(self.fault(error))
            }
        }
    }

    /// The copy stands under the new name, and what was there is gone. Now the old name goes.
    async fn leave_old_name(
        &self,
        inode: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        moved: MovedFile<'_>,
        (new_parent, new_name): (u64, &[u8]),
    ) -> Result<()> {
        let MovedFile { rename, from, etag, len, to, copy, moving, attributes, told, class } =
            moved;
        let object = Stored { key: to, etag: &copy, len, class };
        let deleted = match self.has_copied(rename, &etag, to, &copy) {
            Ok(()) => self.store.delete(from).await.map_err(|error| self.fault(error)),
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            // Both names are there: this file keeps its own, and the other one is that of a copy.
            self.renamed(rename, true, None)?;
            self.objects.copied(object, &attributes);
            drop(moving);
            let detached = target.map_or(Ok(()), |target| self.detach(target));
            self.inodes.unname(new_parent, new_name);
            self.discard_replaced(target).await;
            detached?;
            return Err(error);
        }
        self.objects.moved((from, &etag), object, &attributes);
        drop(moving);
        let finished = self.finish_rename(inode, target, new_parent, new_name);
        {
            let mut state = inode.state();
            told.into_iter().for_each(|told| state.attributes.set_content_type(told));
            // What has changed meanwhile is still to be saved.
            state.unsaved &= state.attributes != attributes;
            state.valid_until = self.fresh_until();
        }
        let followed = self.follow_copy(inode, to, copy, len);
        self.renamed(rename, true, followed)?;
        if inode.state().is_local() {
            self.note_local_file(inode);
        }
        finished
    }

    /// What the journal needs to know of a rename in the store.
    fn renaming(
        &self,
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
            unnamed: target.and_then(|target| target.draft()).map(|draft| draft.id()),
        }
    }

    /// A file that was replaced before it was uploaded: nobody wants it any more, and no crash may bring
    /// it back over the one that took its place.
    async fn discard_replaced(&self, target: Option<&Arc<Inode>>) {
        let Some(target) = target else { return };
        let draft = {
            let mut state = target.state();
            if state.used().opens > 0 {
                return;
            }
            state.used_mut().draft.take()
        };
        if let Some(draft) = draft
            && let Err(error) = draft.discard().await
        {
            log::warn!("a file that was replaced leaves something behind: {error}");
        }
        self.inodes.settle(target.ino);
    }

    /// Renames what is only here. `false` where the store has to be asked: then nothing is dirty.
    async fn rename_draft(
        &self,
        inode: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        from: &Key,
        (to, new_name): (&Key, &[u8]),
    ) -> Result<bool> {
        let Some(draft) = inode.draft() else { return Ok(false) };
        self.adopt_on_the_way(inode, &draft);
        let only_here = {
            let state = inode.state();
            state.etag.is_none() && !state.shadows
        };
        let replaced = target.and_then(|target| target.draft());
        if only_here && let Some(replaced) = &replaced {
            any_other(draft.stand_in_for(replaced)).await?;
        }
        if only_here && draft.rename(to, replaced.as_deref())? {
            if let Some(told) = self.type_by_name(inode, new_name) {
                let mut state = inode.state();
                state.attributes.set_content_type(told);
                draft.change_options(state.attributes.to_write_options()?)?;
            }
            return Ok(true);
        }
        if draft.is_dirty() {
            log::debug!("{from}: published before it is renamed");
            self.publish(inode, &draft).await?;
            self.let_go_of_published(inode);
        }
        Ok(false)
    }

    /// What was published before its turn needs no draft, unless somebody writes it.
    pub(super) fn let_go_of_published(&self, inode: &Inode) {
        let mut state = inode.state();
        let is_clean = state.used().draft.as_ref().is_some_and(|draft| !draft.is_dirty());
        if is_clean && state.used().writers == 0 {
            state.used_mut().draft = None;
        }
    }

    pub(super) fn finish_rename(
        &self,
        inode: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        new_parent: u64,
        new_name: &[u8],
    ) -> Result<()> {
        // The name has moved, whether or not the journal can say that the target's content is unwanted.
        let detached = target.map_or(Ok(()), |target| self.detach(target));
        self.inodes.rename(inode.ino, new_parent, new_name);
        detached
    }

    /// The same bytes are another object now: open readers and the draft go on with that one. Returns what the
    /// journal has to be told of the draft.
    pub(super) fn follow_copy(
        &self,
        inode: &Arc<Inode>,
        key: &Key,
        etag: ETag,
        len: u64,
    ) -> Option<Record> {
        let old = inode.state().etag();
        self.follow_object(inode, key, &etag, len);
        let copied = |version: &ETag| {
            if old.as_ref() == Some(version) { etag.clone() } else { version.clone() }
        };
        inode.draft()?.follow(key, copied)
    }

    /// The same, but for the draft.
    pub(super) fn follow_object(&self, inode: &Arc<Inode>, key: &Key, etag: &ETag, len: u64) {
        let object = self.cache.object(key, etag, len);
        let mut state = inode.state();
        let old = state.etag.replace(CompactTag::new(etag));
        if old.is_some() && state.used().paged == old {
            // The kernel's pages are those bytes, whatever their ETag.
            state.used_mut().paged = Some(CompactTag::new(etag));
        }
        state.read_from(object);
        let now = self.now();
        if now.duration_since(state.ctime).is_ok_and(|age| age > LATE) {
            state.used_mut().stored = Some(now);
        }
    }

    /// A copy of more than one request can do: an upload of copied parts.
    pub(super) async fn copy_by_parts(
        &self,
        from: &Key,
        etag: &ETag,
        len: u64,
        to: &Key,
        replace: Option<WriteOptions>,
    ) -> Result<ETag> {
        let options = match replace {
            Some(options) => options,
            None => self.all_that_is_carried(from).await?,
        };
        let base = Base {
            key: from.clone(),
            etag: etag.clone(),
            len,
            object: self.cache.object(from, etag, len),
        };
        let draft = Draft::new(&self.writers, to.clone(), Some(base), options);
        draft.mark_dirty();
        let published = any_other(draft.publish()).await?;
        published
            .map(|published| published.etag)
            .ok_or_else(|| VfsError::new(libc::EIO, "a copy had nothing to copy"))
    }

    /// What an object that is not copied by the store as a whole is to be written with.
    async fn all_that_is_carried(&self, key: &Key) -> Result<WriteOptions> {
        let head = self.store.head(key).await?;
        let mut options = head.write_options();
        if let Some(carried) = options.carried.as_mut().filter(|carried| carried.tags != Tags::None)
        {
            carried.tags = self.store.tags(key).await?;
        }
        Ok(options)
    }

    /// Whether an error says that the object is not there (any more).
    pub(super) fn is_gone(error: &crate::store::StoreError) -> bool {
        error.kind == ErrorKind::NotFound
    }
}
