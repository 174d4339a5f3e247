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
//! | | sources with another target | another client has written there since: both stay |
//!
//! Consistency: nothing is overwritten, and nothing deleted that is not elsewhere. A copy is known by its record
//! (`RenameCopied`: the version that was copied and the ETag that the answer gave), by an equal digest as ETag, or,
//! if it was made in the moment of the kill and is not too long, by its bytes; never by length or metadata, which
//! other clients' objects share. A mount that is read-only leaves all of it to the next one that is not.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::Vfs;
use super::error::Result;
use crate::journal::{BaseVersion, DraftId, FileRename, Record, RenameCopy, RenameId, State};
use crate::range::ByteRange;
use crate::store::retry::settle;
use crate::store::{CompactTag, ETag, ErrorKind, Key, ListedObject, ObjectHead, StoreError};

impl Vfs {
    /// Once more, for what the store would not tell when the mount was made.
    pub(crate) async fn restore_what_was_left_out(self: &Arc<Self>) -> Result<()> {
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

    /// It has ended, one way or the other; `followed` is what that means for what is written of the file.
    pub(super) fn renamed(
        &self,
        rename: RenameId,
        done: bool,
        followed: Option<Record>,
    ) -> Result<()> {
        let begun = self.journal.read(|state| state.file_renames.contains_key(&rename));
        let ended = begun.then_some(Record::FileRenameEnded { rename, done });
        let records: Vec<Record> = ended.into_iter().chain(followed).collect();
        Ok(self.journal.append_all(&records)?)
    }

    /// Drafts of which it is not known whether another file has their name.
    pub(super) fn perhaps_replaced(&self) -> HashSet<DraftId> {
        self.journal.read(|state| {
            state.file_renames.values().filter_map(|renaming| renaming.unnamed).collect()
        })
    }

    /// Asks the store whether renames and removals of files were done. What cannot be settled is left out of what is
    /// brought back, so that it is neither seen nor sent over what may have taken its place.
    pub(crate) async fn settle_file_renames(&self) -> Result<()> {
        if self.settings.read_only {
            return Ok(());
        }
        let begun: Vec<(RenameId, FileRename)> = self.journal.read(|state| {
            state.file_renames.iter().map(|(id, renaming)| (*id, renaming.clone())).collect()
        });
        for (rename, renaming) in begun {
            let copy = self.was_renamed(rename, &renaming).await?;
            let done = copy.is_some();
            let what = if renaming.to.is_some() { "rename" } else { "removal" };
            let done_or_not = if done { "done" } else { "not done" };
            log::info!("the {what} of {} was {done_or_not}", renaming.from);
            let mut records = vec![Record::FileRenameEnded { rename, done }];
            if let (Some(Some(copy)), Some(to)) = (&copy, &renaming.to) {
                records.extend(self.followed((&renaming.from, &renaming.etag), (to, copy)));
            }
            self.journal.append_all(&records)?;
        }
        Ok(())
    }

    /// What waits here and modifies `old` modifies its copy `new`, under that key.
    pub(super) fn followed(&self, old: (&Key, &ETag), new: (&Key, &ETag)) -> Vec<Record> {
        self.journal.read(|state| {
            let drafts = state.drafts.iter().filter(|(_, draft)| draft.key == *old.0);
            let modify = drafts.filter_map(|(id, draft)| {
                let base = draft.base.as_ref().filter(|base| base.etag == *old.1)?;
                let base = Some(BaseVersion { etag: new.1.clone(), len: base.len });
                Some(Record::DraftFollowed { draft: *id, key: new.0.clone(), base })
            });
            modify.collect()
        })
    }

    /// `Some` if it was done: what stands under the new name, where there is one.
    async fn was_renamed(
        &self,
        rename: RenameId,
        renaming: &FileRename,
    ) -> Result<Option<Option<ETag>>> {
        let Some(to) = &renaming.to else {
            return Ok(self.head_if_there(&renaming.from).await?.is_none().then_some(None));
        };
        let copy = self.recorded_copy(rename, to);
        let target = self.head_if_there(to).await?;
        let there = target.as_ref().map(|target| target.etag.clone());
        let Some(source) = self.head_if_there(&renaming.from).await? else {
            // Deleted by the rename, which has said before that there is a copy. (Journals of version 7 do not
            // tell; nor does the last moment before a kill, in which another machine may delete the source.)
            let replaced = |target: &ObjectHead| Some(&target.etag) != renaming.replaced.as_ref();
            let is_new =
                target.is_some_and(|target| replaced(&target) && target.len == renaming.len);
            let is_same = renaming.replaced.as_ref() == Some(&renaming.etag);
            return Ok((copy.is_some() || is_new || is_same).then_some(there));
        };
        if source.etag != renaming.etag {
            // Written since, so the rename is older than that, and not ours to finish.
            return Ok(None);
        }
        let Some(target) = target else { return Ok(None) };
        let (from, to) = (Version::of(&renaming.from, &source), Version::of(to, &target));
        if !self.is_copy(&from, &to, copy).await.map_err(|error| self.fault(error))? {
            log::warn!("{} stays: {} is not known to be its copy", renaming.from, to.key);
            return Ok(None);
        }
        self.store.delete(&renaming.from).await.map_err(|error| self.fault(error))?;
        Ok(Some(there))
    }

    async fn head_if_there(&self, key: &Key) -> Result<Option<ObjectHead>> {
        match self.store.head(key).await {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.fault(error)),
        }
    }

    /// Finishes directory renames that a crash interrupted.
    pub(crate) async fn finish_interrupted_renames(&self) -> Result<()> {
        let begun: Vec<(RenameId, Key, Key)> = self.journal.read(|state| {
            state.renames.iter().map(|(id, (from, to))| (*id, from.clone(), to.clone())).collect()
        });
        if self.settings.read_only && !begun.is_empty() {
            log::warn!("a directory stays half renamed: this mount changes nothing in the store");
            return Ok(());
        }
        for (rename, from, to) in begun {
            log::info!("finishing the rename of {from} to {to}");
            let copied = self.copy_all(rename, &from, &to, Targets::MayBeThere).await?;
            self.journal_moved(&from, &to, &copied).await?;
            self.delete_sources(&from, &copied).await?;
            self.journal.append(Record::RenameEnded { rename })?;
            self.journal.sync().await?;
        }
        Ok(())
    }

    /// A rename has made a copy. The next mount knows it by this, if the source is still there; so the source is
    /// deleted after it.
    pub(super) fn has_copied(
        &self,
        rename: RenameId,
        source: &ETag,
        to: &Key,
        etag: &ETag,
    ) -> Result<()> {
        let known = |state: &State| {
            (state.renames.contains_key(&rename), state.file_renames.get(&rename).cloned())
        };
        let (of_directory, of_file) = self.journal.read(known);
        // Equal ETags prove it by themselves: a directory may have a million objects.
        if of_file.is_none() && (!of_directory || settle::proves_equal(source, etag)) {
            return Ok(());
        }
        let depends = of_file.is_some_and(|renaming| renaming.unnamed.is_some());
        let (source, to, etag) = (source.clone(), to.clone(), etag.clone());
        match self.journal.append(Record::RenameCopied { rename, source, to, etag }) {
            // As for `may_rename`.
            Err(error) if depends || error.kind() != std::io::ErrorKind::StorageFull => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    fn recorded_copy(&self, rename: RenameId, to: &Key) -> Option<RenameCopy> {
        self.journal.read(|state| state.copies.get(&rename)?.get(to).cloned())
    }

    /// What an earlier attempt has made of one object of a directory.
    pub(super) async fn is_moved(
        &self,
        rename: RenameId,
        source: &ListedObject,
        target: &Key,
    ) -> std::result::Result<Moved, StoreError> {
        let head = match self.store.head(target).await {
            // It says nothing of modes.
            Ok(head) if head.is_folder_alone() => return Ok(Moved::NotYet),
            Ok(head) => head,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Moved::NotYet),
            Err(error) => return Err(error),
        };
        let copy = self.recorded_copy(rename, target);
        let to = Version::of(target, &head);
        let from = Version { key: &source.key, etag: &source.etag, len: source.len };
        match self.is_copy(&from, &to, copy).await {
            Ok(true) => Ok(Moved::Copied(head.etag.clone())),
            Ok(false) => Ok(Moved::WrittenSince),
            // Deleted meanwhile: there is nothing to move.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Moved::Copied(head.etag.clone())),
            Err(error) => Err(error),
        }
    }

    /// Whether `to` has what `from` has: as the journal or their ETags tell, or else their bytes.
    async fn is_copy(
        &self,
        from: &Version<'_>,
        to: &Version<'_>,
        recorded: Option<RenameCopy>,
    ) -> std::result::Result<bool, StoreError> {
        if let Some(told) = from.is_told_to_be_in(to, recorded.as_ref()) {
            return Ok(told);
        }
        if from.len > COMPARED_BYTES_MAX {
            return Ok(false);
        }
        log::info!("{} and {} are compared byte by byte", from.key, to.key);
        match self.have_the_same_bytes(from, to).await {
            // Either is another version by now.
            Err(error) if error.kind == ErrorKind::PreconditionFailed => Ok(false),
            other => other,
        }
    }

    async fn have_the_same_bytes(
        &self,
        from: &Version<'_>,
        to: &Version<'_>,
    ) -> std::result::Result<bool, StoreError> {
        let mut at = 0;
        while at < from.len {
            let range = ByteRange::at(at, COMPARED_AT_ONCE.min(from.len - at));
            let (ours, theirs) =
                futures_util::try_join!(self.bytes_of(from, range), self.bytes_of(to, range))?;
            if ours != theirs {
                return Ok(false);
            }
            at = range.end();
        }
        Ok(true)
    }

    async fn bytes_of(
        &self,
        version: &Version<'_>,
        range: ByteRange,
    ) -> std::result::Result<Vec<u8>, StoreError> {
        let body = self.store.get(version.key, range, version.etag).await?;
        let append = |mut bytes: Vec<u8>, chunk: Bytes| async move {
            bytes.extend_from_slice(&chunk);
            Ok(bytes)
        };
        body.bytes.try_fold(Vec::with_capacity(range.len() as usize), append).await
    }
}

/// Objects up to this length are read and compared where nothing else tells whether one is a copy of the other, in
/// bytes. Longer ones both stay.
const COMPARED_BYTES_MAX: u64 = 64 << 20;
/// Of so many bytes at a time.
const COMPARED_AT_ONCE: u64 = 1 << 20;

/// One version of an object.
struct Version<'a> {
    key: &'a Key,
    etag: &'a ETag,
    /// In bytes.
    len: u64,
}

impl<'a> Version<'a> {
    fn of(key: &'a Key, head: &'a ObjectHead) -> Version<'a> {
        Version { key, etag: &head.etag, len: head.len }
    }

    /// Whether `target` has this version's bytes, as far as that can be told without reading them.
    fn is_told_to_be_in(
        &self,
        target: &Version<'_>,
        recorded: Option<&RenameCopy>,
    ) -> Option<bool> {
        let is_recorded = recorded.is_some_and(|copy| {
            copy.source == CompactTag::new(self.etag) && copy.etag == CompactTag::new(target.etag)
        });
        if self.len != target.len {
            Some(false)
        } else if is_recorded || settle::proves_equal(self.etag, target.etag) || self.len == 0 {
            Some(true)
        } else {
            None
        }
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
    /// As this version.
    Copied(ETag),
    WrittenSince,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_by_a_record_or_a_digest_never_by_its_length() {
        let (md5, parts) =
            ("0123456789abcdef0123456789abcdef", "ffffffffffffffffffffffffffffffff-2");
        let recorded = Some((parts, md5));
        let table = [
            // (source, target, what a record says of both, are they of one length, told)
            (md5, md5, None, true, Some(true)),
            (md5, md5, None, false, Some(false)),
            (parts, parts, None, true, Some(true)),
            ("opaque", "opaque", None, true, None),
            (parts, md5, None, true, None),
            (parts, md5, recorded, true, Some(true)),
            (parts, md5, recorded, false, Some(false)),
            (parts, "written since", recorded, true, None),
            ("written since", md5, recorded, true, None),
        ];
        let key = Key::from("k");
        for (source, target, recorded, same_len, told) in table {
            let (source, target) = (ETag::new(source), ETag::new(target));
            let from = Version { key: &key, etag: &source, len: 4096 };
            let to = Version { key: &key, etag: &target, len: if same_len { 4096 } else { 1 } };
            let recorded = recorded.map(|(source, etag)| RenameCopy {
                source: CompactTag::new(&ETag::new(source)),
                etag: CompactTag::new(&ETag::new(etag)),
            });
            let found = from.is_told_to_be_in(&to, recorded.as_ref());
            assert_eq!(found, told, "{source} {target} {recorded:?}");
        }
    }
}
