//! What renames and removals write down, and whether an object is the copy that one has made: as the journal or the ETags
//! tell, or else the bytes.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;

use crate::journal::{BaseVersion, FileRename, Record, RenameCopy, RenameId, State};
use crate::range::ByteRange;
use crate::store::retry::settle;
use crate::store::{CompactTag, ETag, ErrorKind, Key, ListedObject, ObjectHead, StoreError};
use crate::vfs::assemble::Vfs;
use crate::vfs::error::Result;
use crate::vfs::tree::Inode;

/// Objects up to this length are read and compared where nothing else tells whether one is a copy of the other, in
/// bytes. Longer ones both stay.
const COMPARED_BYTES_MAX: u64 = 64 << 20;
/// Of so many bytes at a time.
const COMPARED_AT_ONCE: u64 = 1 << 20;

/// One version of an object.
pub struct Version<'a> {
    pub key: &'a Key,
    etag: &'a ETag,
    /// In bytes.
    len: u64,
}

impl<'a> Version<'a> {
    pub fn of(key: &'a Key, head: &'a ObjectHead) -> Version<'a> {
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
pub enum Targets {
    /// Nothing: it has just been looked at.
    AreFree,
    /// Copies, and what was written since.
    MayBeThere,
}

/// How far one object of a directory has come.
pub enum Moved {
    NotYet,
    /// As this version.
    Copied(ETag),
    WrittenSince,
}

/// A rename or a removal begins. If there is no room to say so, it goes on all the same, unless something
/// that waits here depends on it: a crash in the middle may then leave both names.
pub fn may_rename(vfs: &Vfs, rename: RenameId, renaming: FileRename) -> Result<()> {
    let depends = renaming.unlinked.is_some();
    match vfs.parts.journal.append(Record::FileRenameBegun { rename, renaming }) {
        Err(error) if depends || error.kind() != std::io::ErrorKind::StorageFull => {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// It has ended, one way or the other; `followed` is what that means for what is written of the file.
pub fn renamed(vfs: &Vfs, rename: RenameId, done: bool, followed: Option<Record>) -> Result<()> {
    let begun = vfs.parts.journal.read(|state| state.file_renames.contains_key(&rename));
    let ended = begun.then_some(Record::FileRenameEnded { rename, done });
    let records: Vec<Record> = ended.into_iter().chain(followed).collect();
    Ok(vfs.parts.journal.append_all(&records)?)
}

/// What waits here and modifies `old` modifies its copy `new`, under that key.
pub fn followed(vfs: &Vfs, old: (&Key, &ETag), new: (&Key, &ETag)) -> Vec<Record> {
    vfs.parts.journal.read(|state| {
        let drafts = state.drafts.iter().filter(|(_, draft)| draft.key == *old.0);
        let modify = drafts.filter_map(|(id, draft)| {
            let base = draft.base.as_ref().filter(|base| base.etag == *old.1)?;
            let base = Some(BaseVersion { etag: new.1.clone(), len: base.len });
            Some(Record::DraftFollowed { draft: *id, key: new.0.clone(), base })
        });
        modify.collect()
    })
}

/// A rename has made a copy. The next mount knows it by this, if the source is still there; so the source is
/// deleted after it.
pub fn has_copied(vfs: &Vfs, rename: RenameId, source: &ETag, to: &Key, etag: &ETag) -> Result<()> {
    let known = |state: &State| {
        (state.directory_renames.contains_key(&rename), state.file_renames.get(&rename).cloned())
    };
    let (of_directory, of_file) = vfs.parts.journal.read(known);
    // Equal ETags prove it by themselves: a directory may have a million objects.
    if of_file.is_none() && (!of_directory || settle::proves_equal(source, etag)) {
        return Ok(());
    }
    let depends = of_file.is_some_and(|renaming| renaming.unlinked.is_some());
    let (source, to, etag) = (source.clone(), to.clone(), etag.clone());
    match vfs.parts.journal.append(Record::RenameCopied { rename, source, to, etag }) {
        // As for `may_rename`.
        Err(error) if depends || error.kind() != std::io::ErrorKind::StorageFull => {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

pub fn recorded_copy(vfs: &Vfs, rename: RenameId, to: &Key) -> Option<RenameCopy> {
    vfs.parts.journal.read(|state| state.copies.get(&rename)?.get(to).cloned())
}

/// What an earlier attempt has made of one object of a directory.
pub async fn is_moved(
    vfs: &Vfs,
    rename: RenameId,
    source: &ListedObject,
    target: &Key,
) -> Result<Moved, StoreError> {
    let head = match vfs.parts.store.head(target).await {
        // It says nothing of modes.
        Ok(head) if head.is_folder_alone() => return Ok(Moved::NotYet),
        Ok(head) => head,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(Moved::NotYet),
        Err(error) => return Err(error),
    };
    let copy = recorded_copy(vfs, rename, target);
    let to = Version::of(target, &head);
    let from = Version { key: &source.key, etag: &source.etag, len: source.len };
    match is_copy(vfs, &from, &to, copy).await {
        Ok(true) => Ok(Moved::Copied(head.etag.clone())),
        Ok(false) => Ok(Moved::WrittenSince),
        // Deleted meanwhile: there is nothing to move.
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Moved::Copied(head.etag.clone())),
        Err(error) => Err(error),
    }
}

/// Whether `to` has what `from` has: as the journal or their ETags tell, or else their bytes.
pub async fn is_copy(
    vfs: &Vfs,
    from: &Version<'_>,
    to: &Version<'_>,
    recorded: Option<RenameCopy>,
) -> Result<bool, StoreError> {
    if let Some(told) = from.is_told_to_be_in(to, recorded.as_ref()) {
        return Ok(told);
    }
    if from.len > COMPARED_BYTES_MAX {
        return Ok(false);
    }
    log::info!("{} and {} are compared byte by byte", from.key, to.key);
    match have_the_same_bytes(vfs, from, to).await {
        // Either is another version by now.
        Err(error) if error.kind == ErrorKind::PreconditionFailed => Ok(false),
        other => other,
    }
}

async fn have_the_same_bytes(
    vfs: &Vfs,
    from: &Version<'_>,
    to: &Version<'_>,
) -> Result<bool, StoreError> {
    let mut at = 0;
    while at < from.len {
        let range = ByteRange::at(at, COMPARED_AT_ONCE.min(from.len - at));
        let (ours, theirs) =
            futures_util::try_join!(bytes_of(vfs, from, range), bytes_of(vfs, to, range))?;
        if ours != theirs {
            return Ok(false);
        }
        at = range.end();
    }
    Ok(true)
}

async fn bytes_of(
    vfs: &Vfs,
    version: &Version<'_>,
    range: ByteRange,
) -> Result<Vec<u8>, StoreError> {
    let body = vfs.parts.store.get(version.key, range, version.etag).await?;
    let append = |mut bytes: Vec<u8>, chunk: Bytes| async move {
        bytes.extend_from_slice(&chunk);
        Ok(bytes)
    };
    body.bytes.try_fold(Vec::with_capacity(range.len() as usize), append).await
}

pub fn finish_rename(
    vfs: &Vfs,
    inode: &Arc<Inode>,
    target: Option<&Arc<Inode>>,
    new_parent: u64,
    new_name: &[u8],
) -> Result<()> {
    // The name has moved, whether or not the journal can say that the target's content is unwanted.
    let detached = target.map_or(Ok(()), |target| vfs.versions.detach(target));
    vfs.tree.inodes.rename(inode.ino, new_parent, new_name);
    detached
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
