//! Renames that a crash, or a store that refused, interrupted: finished before half of them can be seen.
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

use crate::journal::{DraftId, FileRename, Record, RenameId};
use crate::store::{ETag, ErrorKind, Key, ObjectHead, present};
use crate::vfs::assemble::Vfs;
use crate::vfs::error::Result;
use crate::vfs::ops::relocate;
use crate::vfs::ops::rename_log::{self, Targets, Version};

/// Drafts of which it is not known whether another file has their name.
pub fn perhaps_replaced(vfs: &Vfs) -> HashSet<DraftId> {
    vfs.parts.journal.read(|state| {
        state.file_renames.values().filter_map(|renaming| renaming.unlinked).collect()
    })
}

/// Asks the store whether renames and removals of files were done. What cannot be settled is left out of what is
/// brought back, so that it is neither seen nor sent over what may have taken its place.
pub async fn settle_file_renames(vfs: &Vfs) -> Result<()> {
    if vfs.settings.read_only {
        return Ok(());
    }
    let begun: Vec<(RenameId, FileRename)> = vfs.parts.journal.read(|state| {
        state.file_renames.iter().map(|(id, renaming)| (*id, renaming.clone())).collect()
    });
    for (rename, renaming) in begun {
        let copy = was_renamed(vfs, rename, &renaming).await?;
        let done = copy.is_some();
        let what = if renaming.to.is_some() { "rename" } else { "removal" };
        let done_or_not = if done { "done" } else { "not done" };
        log::info!("the {what} of {} was {done_or_not}", renaming.from);
        let mut records = vec![Record::FileRenameEnded { rename, done }];
        if let (Some(Some(copy)), Some(to)) = (&copy, &renaming.to) {
            records.extend(rename_log::followed(vfs, (&renaming.from, &renaming.etag), (to, copy)));
        }
        vfs.parts.journal.append_all(&records)?;
    }
    Ok(())
}

/// `Some` if it was done: what stands under the new name, where there is one.
async fn was_renamed(
    vfs: &Vfs,
    rename: RenameId,
    renaming: &FileRename,
) -> Result<Option<Option<ETag>>> {
    let Some(to) = &renaming.to else {
        return Ok(head_if_there(vfs, &renaming.from).await?.is_none().then_some(None));
    };
    let copy = rename_log::recorded_copy(vfs, rename, to);
    let target = head_if_there(vfs, to).await?;
    let there = target.as_ref().map(|target| target.etag.clone());
    let Some(source) = head_if_there(vfs, &renaming.from).await? else {
        // Deleted by the rename, which has said before that there is a copy. (Journals of version 7 do not
        // tell; nor does the last moment before a kill, in which another machine may delete the source.)
        let replaced = |target: &ObjectHead| Some(&target.etag) != renaming.replaced.as_ref();
        let is_new = target.is_some_and(|target| replaced(&target) && target.len == renaming.len);
        let is_same = renaming.replaced.as_ref() == Some(&renaming.etag);
        return Ok((copy.is_some() || is_new || is_same).then_some(there));
    };
    if source.etag != renaming.etag {
        // Written since, so the rename is older than that, and not ours to finish.
        return Ok(None);
    }
    let Some(target) = target else { return Ok(None) };
    let (from, to) = (Version::of(&renaming.from, &source), Version::of(to, &target));
    if !rename_log::is_copy(vfs, &from, &to, copy).await.map_err(|error| vfs.faults.pass(error))? {
        log::warn!("{} stays: {} is not known to be its copy", renaming.from, to.key);
        return Ok(None);
    }
    match vfs.parts.store.delete(&renaming.from, Some(&renaming.etag)).await {
        Ok(()) => Ok(Some(there)),
        // Written in this moment.
        Err(error) if error.kind == ErrorKind::PreconditionFailed => Ok(None),
        Err(error) => Err(vfs.faults.pass(error)),
    }
}

async fn head_if_there(vfs: &Vfs, key: &Key) -> Result<Option<ObjectHead>> {
    present(vfs.parts.store.head(key).await).map_err(|error| vfs.faults.pass(error))
}

/// Finishes directory renames that a crash interrupted.
pub async fn finish_interrupted_renames(vfs: &Vfs) -> Result<()> {
    let begun: Vec<(RenameId, Key, Key)> = vfs.parts.journal.read(|state| {
        state
            .directory_renames
            .iter()
            .map(|(id, (from, to))| (*id, from.clone(), to.clone()))
            .collect()
    });
    if vfs.settings.read_only && !begun.is_empty() {
        log::warn!("a directory stays half renamed: this mount changes nothing in the store");
        return Ok(());
    }
    for (rename, from, to) in begun {
        log::info!("finishing the rename of {from} to {to}");
        let copied = relocate::copy_all(vfs, rename, &from, &to, Targets::MayBeThere).await?;
        relocate::journal_moved(vfs, &from, &to, &copied).await?;
        relocate::delete_sources(vfs, &from, &copied).await?;
        vfs.parts.journal.append(Record::DirectoryRenameEnded { rename })?;
        vfs.parts.journal.sync().await?;
    }
    Ok(())
}
