//! rename(2): a copy inside the store and a deletion; for a directory, many of them side by side.
//!
//! Consistency: the target is replaced at once, by the copy; the source goes after that. Readers that
//! have the replaced file open keep it (see `remove`).
//! Crash: a rename is journaled before its first copy, and finished by the next mount (see `interrupted`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{StreamExt, TryStreamExt};

use super::Vfs;
use super::change::CopyWith;
use super::error::{Result, VfsError};
use super::inode::Inode;
use super::interrupted::{Moved, Targets};
use crate::journal::{FileRename, Record, RenameId};
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::name;
use crate::namespace::segment::Marker;
use crate::store::{
    CompactTag, ETag, ErrorKind, Key, ListRequest, ListedObject, Precondition, Storage, Tags,
    WriteOptions,
};
use crate::writer::{Base, Draft};

/// What the store gets later than this after a change is remembered to have come late, or its time there would be
/// taken for that of another change.
const LATE: std::time::Duration = std::time::Duration::from_secs(1);

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
        let _turn = inode.turn().lock().await;
        // Only a rename holds two turns, and the kernel lets one through at a time.
        let _target_turn = match &target {
            Some(target) => Some(target.turn().lock().await),
            None => None,
        };
        if inode.kind() == Kind::Directory {
            self.rename_directory(&inode, target.as_ref(), new_parent, new_name).await?;
        } else {
            self.rename_file(&inode, target.as_ref(), parent, (new_parent, new_name)).await?;
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
        if let Some(target) = target {
            self.keep_for_readers(target).await?;
        }
        if self.rename_draft(inode, target, &from, (&to, new_name)).await? {
            self.finish_rename(inode, target, new_parent, new_name)?;
            let replaced = target.is_some_and(|target| {
                let state = target.state();
                state.etag.is_some() || state.shadows
            });
            inode.state().shadows |= replaced;
            self.note_local_file(inode);
            self.listings.note_deleted(&from);
            self.discard_replaced(target).await;
            return Ok(());
        }
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
        let renaming = self.renaming(&from, &etag, len, &to, target);
        let rename = self.journal.next_rename_id();
        self.may_rename(rename, renaming)?;
        let _moving = self.uploads.content_moves(&from);
        let copied = self.copy_object(&from, &etag, len, &to, with).await;
        let deleted = match &copied {
            Ok(new_etag) => match self.has_copied(rename, &etag, &to, new_etag) {
                Ok(()) => self.store.delete(&from).await.map_err(|error| self.fault(error)),
                Err(error) => Err(error),
            },
            Err(_) => Ok(()),
        };
        self.renamed(rename, copied.is_ok())?;
        let new_etag = copied.map_err(|error| self.fault(error))?;
        if let Err(error) = deleted {
            // Both names are there. What stood in the new one's place is gone all the same.
            self.discard_replaced(target).await;
            return Err(error);
        }
        let copy = ListedObject {
            key: to.clone(),
            etag: new_etag.clone(),
            len,
            last_modified: self.memory.just_written(),
            storage_class: class,
        };
        self.moved(&from, &etag, copy, &attributes);
        self.finish_rename(inode, target, new_parent, new_name)?;
        {
            let mut state = inode.state();
            state.unsaved = false;
            told.into_iter().for_each(|told| state.attributes.set_content_type(told));
            state.valid_until = self.fresh_until();
        }
        self.follow_copy(inode, &to, new_etag, len);
        self.discard_replaced(target).await;
        Ok(())
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
            draft.stand_in_for(replaced).await?;
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
        }
        Ok(false)
    }

    /// Listings, attributes and cached ranges follow an object to its new key.
    fn moved(&self, from: &Key, etag: &ETag, copy: ListedObject, attributes: &Attributes) {
        let (to, new_etag) = (&copy.key, &copy.etag);
        self.cache.rename_key(from, etag, to, new_etag);
        self.uploads.content_moved(from, etag, to, new_etag);
        self.attributes_settled(from);
        self.attributes_settled(to);
        self.memory.forget(from);
        self.memory.put(to, new_etag, None, attributes);
        self.listings.note_deleted(from);
        self.listings.note_put(copy);
    }

    fn finish_rename(
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

    /// The same bytes are another object now: open readers and the draft go on with that one.
    pub(super) fn follow_copy(&self, inode: &Arc<Inode>, key: &Key, etag: ETag, len: u64) {
        let object = self.cache.object(key, &etag, len);
        let draft = {
            let mut state = inode.state();
            let old = state.etag.replace(CompactTag::new(&etag));
            if old.is_some() && state.used().paged == old {
                // The kernel's pages are those bytes, whatever their ETag.
                state.used_mut().paged = Some(CompactTag::new(&etag));
            }
            state.read_from(object.clone());
            let now = self.now();
            if now.duration_since(state.ctime).is_ok_and(|age| age > LATE) {
                state.used_mut().stored = Some(now);
            }
            state.used().draft.clone()
        };
        if let Some(draft) = draft {
            draft.rebase(Base { key: key.clone(), etag, len, object });
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
        let published = draft.publish().await?;
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

    async fn rename_directory(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        new_parent: u64,
        new_name: &[u8],
    ) -> Result<()> {
        let from = self.inodes.directory_key(inode.ino);
        let to = name::directory_key(&self.inodes.directory_key(new_parent), new_name)?;
        if to.as_bytes().starts_with(from.as_bytes()) {
            return Err(VfsError::plain(libc::EINVAL));
        }
        self.settle_below(inode.ino).await?;
        let rename = self.journal.next_rename_id();
        self.journal.append(Record::RenameBegun { rename, from: from.clone(), to: to.clone() })?;
        self.journal.sync().await?;
        self.move_all(rename, &from, &to, Targets::AreFree).await?;
        self.attributes_settled(&from);
        if let Some((parent, _)) = self.inodes.place(inode.ino) {
            self.keep_directory(parent).await?;
        }
        self.journal.append(Record::RenameEnded { rename })?;
        // What is made under the old name from now on is not to be moved by a mount that has not heard of it.
        self.journal.sync().await?;
        self.listings.note_moved(&from, &to);
        self.listings.note_deleted(&from);
        self.listings.forget_dir(&to);
        self.listings.note_directory(&to, Marker::Unknown);
        let marker = self.ahead.marker_of(&from);
        self.ahead.forget_directory(&from);
        self.ahead.note_directory(&to, inode.state().attributes.clone(), marker);
        self.finish_rename(inode, target, new_parent, new_name)?;
        self.expire_below(inode.ino);
        Ok(())
    }

    /// Everything below a directory is in the store, so that it can be copied there.
    async fn settle_below(self: &Arc<Self>, ino: u64) -> Result<()> {
        for inode in self.inodes.local_below(ino) {
            if inode.ino == ino {
                continue;
            }
            let _turn = inode.turn().lock().await;
            if let Some(draft) = inode.draft()
                && draft.is_dirty()
            {
                self.publish(&inode, &draft).await?;
            }
            self.save_attributes(&inode).await?;
        }
        let inode = self.inodes.get(ino)?;
        self.save_attributes(&inode).await
    }

    /// Copies every key below `from` to below `to`, then deletes the sources. What is gone is not missed.
    pub(super) async fn move_all(
        &self,
        rename: RenameId,
        from: &Key,
        to: &Key,
        targets: Targets,
    ) -> Result<()> {
        let mut request = ListRequest { prefix: from.clone(), ..ListRequest::default() };
        let (mut moved, mut stay) = (Vec::new(), Vec::new());
        loop {
            let page = self.store.list(&request).await.map_err(|error| self.fault(error))?;
            for together in self.parents_first(page.objects) {
                let copied: Vec<(Key, bool)> = futures_util::stream::iter(together)
                    .map(|object| self.copy_below(rename, (from, to), object, targets))
                    .buffer_unordered(self.settings.concurrency)
                    .try_collect()
                    .await?;
                for (key, is_moved) in copied {
                    if is_moved { &mut moved } else { &mut stay }.push(key);
                }
            }
            request.continuation = page.continuation;
            if request.continuation.is_none() {
                break;
            }
        }
        if self.store.capabilities().keeps_folders {
            let kept = folders_of(&stay, from);
            moved.extend(folders_of(&moved, from).difference(&kept).cloned());
        }
        // What is in a folder goes before the folder, which would stay otherwise where the store keeps folders.
        moved.sort_unstable_by(|a, b| b.cmp(a));
        moved.dedup();
        for keys in moved.chunks(1000) {
            let outcomes = self.store.delete_many(keys).await.map_err(|error| self.fault(error))?;
            for outcome in outcomes {
                outcome.map_err(|error| self.fault(error))?;
            }
        }
        Ok(())
    }

    /// What may be copied side by side, in the order in which it has to be. A store that keeps folders makes those above
    /// a key by itself, and may put one in the place of a marker that it is given at the same moment: there a
    /// directory's marker goes before what is in the directory.
    fn parents_first(&self, objects: Vec<ListedObject>) -> impl Iterator<Item = Vec<ListedObject>> {
        let mut by_depth: BTreeMap<usize, Vec<ListedObject>> = BTreeMap::new();
        let keeps_folders = self.store.capabilities().keeps_folders;
        for object in objects {
            let key = object.key.as_bytes();
            let depth = match (keeps_folders, key.ends_with(b"/")) {
                (false, _) => 0,
                (true, true) => key.iter().filter(|byte| **byte == b'/').count(),
                // Behind all markers.
                (true, false) => usize::MAX,
            };
            by_depth.entry(depth).or_default().push(object);
        }
        by_depth.into_values()
    }

    /// The object's key, and whether it can be deleted.
    async fn copy_below(
        &self,
        rename: RenameId,
        (from, to): (&Key, &Key),
        object: ListedObject,
        targets: Targets,
    ) -> Result<(Key, bool)> {
        let rest = object.key.as_bytes().strip_prefix(from.as_bytes()).unwrap_or_default();
        let target = to.join(rest);
        let (key, etag) = (&object.key, &object.etag);
        if targets == Targets::MayBeThere {
            match self
                .is_moved(rename, &object, &target)
                .await
                .map_err(|error| self.fault(error))?
            {
                Moved::NotYet => {}
                Moved::Copied => return Ok((object.key, true)),
                Moved::WrittenSince => {
                    log::warn!("{key} stays: {target} was written since it was to go there");
                    return Ok((object.key, false));
                }
            }
        }
        match self.copy_or_make(&object, &target).await {
            Ok(Some(new_etag)) => {
                self.has_copied(rename, etag, &target, &new_etag)?;
                self.cache.rename_key(key, etag, &target, &new_etag);
                if let Some(attributes) = self.memory.get(&object) {
                    self.memory.put(&target, &new_etag, None, &attributes);
                    self.memory.forget(key);
                }
            }
            // Somebody deleted it meanwhile.
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        Ok((object.key, true))
    }

    /// A copy; `None` where there is nothing to copy any more. SeaweedFS says that of each directory's marker, so what
    /// is still there is made anew if it is empty, and otherwise not taken for gone.
    async fn copy_or_make(&self, object: &ListedObject, target: &Key) -> Result<Option<ETag>> {
        let (key, etag, len) = (&object.key, &object.etag, object.len);
        let class = object.storage_class.clone();
        let with = CopyWith::the_same(Storage { class, ..Storage::default() });
        let missing = match self.copy_object(key, etag, len, target, with).await {
            Err(error) if error.errno == libc::ENOENT => error,
            copied => return copied.map(Some),
        };
        let head = match self.store.head(&object.key).await {
            Err(error) if Self::is_gone(&error) => return Ok(None),
            head => head.map_err(|error| self.fault(error))?,
        };
        if head.len > 0 {
            return Err(VfsError::new(
                libc::EIO,
                format!("{} cannot be copied: {missing}", object.key),
            ));
        }
        let options = head.write_options().marked();
        let made = self.store.put(target, Bytes::new(), &options, &Precondition::None).await;
        made.map(Some).map_err(|error| self.fault(error))
    }

    /// What is known of the inodes below a moved directory is asked for again.
    fn expire_below(&self, ino: u64) {
        let mut directories = vec![ino];
        while let Some(directory) = directories.pop() {
            for child in self.inodes.children(directory) {
                let mut state = child.state();
                state.valid_until = std::time::Instant::now();
                if state.attributes.kind == Kind::Directory {
                    directories.push(child.ino);
                }
            }
        }
    }

    /// Whether an error says that the object is not there (any more).
    pub(super) fn is_gone(error: &crate::store::StoreError) -> bool {
        error.kind == ErrorKind::NotFound
    }
}

/// The directories that keys are in, from `top` on, as the keys of their markers.
fn folders_of(keys: &[Key], top: &Key) -> BTreeSet<Key> {
    let mut folders = BTreeSet::new();
    for key in keys {
        let bytes = key.as_bytes();
        let ends = (top.as_bytes().len()..=bytes.len()).filter(|&end| bytes[..end].ends_with(b"/"));
        folders.extend(ends.map(|end| Key::new(&bytes[..end])));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_told_from_the_keys_in_them() {
        let keys = ["a/b/", "a/b/c", "a/b/d/e", "a/b/d/f/"].map(Key::from);
        let folders = ["a/b/", "a/b/d/", "a/b/d/f/"].map(Key::from);
        assert_eq!(folders_of(&keys, &Key::from("a/b/")), BTreeSet::from(folders));
    }
}
