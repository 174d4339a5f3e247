//! Renames that a crash, or a store that refused, interrupted: finished before anybody can see half of them.
//!
//! | the journal has | the store has | then |
//! |---|---|---|
//! | a file's rename | no source | it was done: what stood in the new name's place has lost it |
//! | | the source, and its copy under the new name | the source is deleted, and it is done |
//! | | the source, and no copy | it was not done; nothing has changed |
//! | a file's removal | no object, or one | it was done, or not |
//! | a directory's rename | sources without a target | they are copied, then deleted |
//! | | sources with their copy | they are deleted |
//! | | sources with another target | somebody has written there since: both stay |
//!
//! Consistency: nothing is overwritten, and nothing deleted that is not elsewhere. A mount that is read-only
//! leaves all of it to the next one that is not.

use std::collections::HashSet;
use std::sync::Arc;

use super::Vfs;
use super::error::Result;
use crate::journal::{DraftId, FileRename, Record, RenameId};
use crate::store::{ErrorKind, Key, ListedObject, ObjectHead, StoreError};

impl Vfs {
    /// Settles renames of files, then restores what was closed. What cannot be settled is left out, so that
    /// it is neither seen nor sent over what may have taken its place.
    pub async fn restore_after_crash(self: &Arc<Self>) -> Result<usize> {
        if !self.settings.read_only
            && let Err(error) = self.settle_file_renames().await
        {
            log::warn!("an interrupted rename of a file is not settled yet: {error}");
        }
        self.remove_stray_staging()?;
        let restored = self.restore_promised_files()?;
        self.restore_attributes()?;
        Ok(restored)
    }

    /// Once more, for what the store would not tell when the mount was made.
    pub(super) async fn restore_what_was_left_out(self: &Arc<Self>) -> Result<()> {
        if !self.perhaps_replaced().is_empty() {
            self.settle_file_renames().await?;
            self.restore_promised_files()?;
        }
        Ok(())
    }

    /// A rename or a removal begins. If there is no room to say so, it goes on all the same, unless something
    /// that waits here depends on it: a crash in the middle may then leave both names.
    pub(super) fn may_rename(&self, rename: RenameId, renaming: FileRename) -> Result<()> {
        let depends = renaming.unnamed.is_some();
        match self.journal.append(Record::FileRenameBegun { rename, renaming }) {
            Err(error) if depends || error.kind() != std::io::ErrorKind::StorageFull => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// It has ended, one way or the other.
    pub(super) fn renamed(&self, rename: RenameId, done: bool) -> Result<()> {
        let begun = self.journal.read(|state| state.file_renames.contains_key(&rename));
        if begun {
            self.journal.append(Record::FileRenameEnded { rename, done })?;
        }
        Ok(())
    }

    /// Drafts of which it is not known whether another file has their name.
    pub(super) fn perhaps_replaced(&self) -> HashSet<DraftId> {
        self.journal.read(|state| {
            state.file_renames.values().filter_map(|renaming| renaming.unnamed).collect()
        })
    }

    async fn settle_file_renames(&self) -> Result<()> {
        let begun: Vec<(RenameId, FileRename)> = self.journal.read(|state| {
            state.file_renames.iter().map(|(id, renaming)| (*id, renaming.clone())).collect()
        });
        for (rename, renaming) in begun {
            let done = self.was_renamed(&renaming).await?;
            let what = if renaming.to.is_some() { "rename" } else { "removal" };
            let done_or_not = if done { "done" } else { "not done" };
            log::info!("the {what} of {} was {done_or_not}", renaming.from);
            self.journal.append(Record::FileRenameEnded { rename, done })?;
        }
        Ok(())
    }

    async fn was_renamed(&self, renaming: &FileRename) -> Result<bool> {
        let Some(to) = &renaming.to else {
            return Ok(self.head_if_there(&renaming.from).await?.is_none());
        };
        let target = self.head_if_there(to).await?;
        let changed = target.filter(|target| Some(&target.etag) != renaming.replaced.as_ref());
        let Some(source) = self.head_if_there(&renaming.from).await? else {
            // Deleted by the rename, unless there was none: then what stood in its place still stands.
            return Ok(changed.is_some() || renaming.replaced.as_ref() == Some(&renaming.etag));
        };
        if source.etag != renaming.etag {
            // Written since, so the rename is older than that, and not ours to finish.
            return Ok(false);
        }
        if !changed.is_some_and(|target| is_copy(&target, &source)) {
            return Ok(false);
        }
        self.store.delete(&renaming.from).await.map_err(|error| self.fault(error))?;
        Ok(true)
    }

    async fn head_if_there(&self, key: &Key) -> Result<Option<ObjectHead>> {
        match self.store.head(key).await {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.fault(error)),
        }
    }

    /// Finishes directory renames that a crash interrupted.
    pub async fn finish_interrupted_renames(&self) -> Result<()> {
        let begun: Vec<(RenameId, Key, Key)> = self.journal.read(|state| {
            state.renames.iter().map(|(id, (from, to))| (*id, from.clone(), to.clone())).collect()
        });
        if self.settings.read_only && !begun.is_empty() {
            log::warn!("a directory stays half renamed: this mount changes nothing in the store");
            return Ok(());
        }
        for (rename, from, to) in begun {
            log::info!("finishing the rename of {from} to {to}");
            self.move_all(&from, &to, Targets::MayBeThere).await?;
            self.journal.append(Record::RenameEnded { rename })?;
            self.journal.sync().await?;
        }
        Ok(())
    }

    /// What an earlier attempt has made of one object of a directory.
    pub(super) async fn is_moved(
        &self,
        source: &ListedObject,
        target: &Key,
    ) -> std::result::Result<Moved, StoreError> {
        let target_head = match self.store.head(target).await {
            Ok(head) => head,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Moved::NotYet),
            Err(error) => return Err(error),
        };
        if target_head.len == source.len && target_head.etag == source.etag {
            return Ok(Moved::Copied);
        }
        let source_head = match self.store.head(&source.key).await {
            Ok(head) => head,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Moved::Copied),
            Err(error) => return Err(error),
        };
        Ok(if is_copy(&target_head, &source_head) { Moved::Copied } else { Moved::WrittenSince })
    }
}

/// What a rename of a directory may find under the new names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Targets {
    /// Nothing: it has just been looked at.
    AreFree,
    /// Copies, and what was written since.
    MayBeThere,
}

/// How far one object of a directory has come.
pub(super) enum Moved {
    NotYet,
    Copied,
    WrittenSince,
}

/// Whether `target` can be a copy of `source`: the same content, as far as the ETags tell; where they cannot
/// (a copy of a multipart upload's object has another), the same length and the same metadata, our mtime in
/// nanoseconds among it.
fn is_copy(target: &ObjectHead, source: &ObjectHead) -> bool {
    target.len == source.len && (target.etag == source.etag || target.metadata == source.metadata)
}
