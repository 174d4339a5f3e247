//! rename(2) of a directory: all objects below it are copied, many side by side, then the names change here, and then
//! the sources go.
//!
//! Consistency: nothing below the directory is changed meanwhile (see `subtrees`), but by writers of open files,
//! whose drafts stand still. The names change when every copy is there and before the first source goes, so that a
//! look-up finds each file under one of its names at any moment. A file is its inode: its draft, its open handles and
//! what the journal knows of it follow.
//! Crash: it is journaled before the first copy, and finished by the next mount (see `recover::renames`): from then on the
//! files that wait here belong under the new name. What they modify is told before the first source goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter;
use std::sync::Arc;

use futures_util::stream::{StreamExt, TryStreamExt};

use super::rename_log::{Moved, Targets};
use super::{directory, rename_log};
use crate::clock::Instant;
use crate::journal::{BaseVersion, Record, RenameId};
use crate::namespace::attributes::Kind;
use crate::namespace::name;
use crate::store::{ETag, Key, ListRequest, ListedObject, Precondition, Storage, Summed};
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::Inode;
use crate::vfs::versions::{CopyWith, is_gone, refuse_archived_below};
use crate::writer::Still;

/// What has been copied, and is still under its old key.
#[derive(Default)]
pub struct Copied {
    /// To be deleted.
    moved: Vec<Key>,
    /// Written under the new key since, by another client.
    stay: Vec<Key>,
    /// By old key: the version, and its copy's where that is another.
    changed: HashMap<Key, (ETag, ETag)>,
}

impl Copied {
    /// What a version of the object under this old key has become.
    fn copy_of(&self, key: &Key, etag: &ETag) -> ETag {
        match self.changed.get(key) {
            Some((old, new)) if old == etag => new.clone(),
            _ => etag.clone(),
        }
    }
}

/// One object, copied or not.
struct CopiedObject {
    key: Key,
    etag: ETag,
    /// None: it stays.
    copy: Option<ETag>,
}

/// Both parents are entered, the directory is closed to all others, and its operation lock is held.
pub async fn rename_directory(
    vfs: &Vfs,
    inode: &Arc<Inode>,
    target: Option<&Arc<Inode>>,
    new_parent: u64,
    new_name: &[u8],
) -> Result<()> {
    let from = vfs.tree.directory_key(inode.ino);
    let to = name::directory_key(&vfs.tree.directory_key(new_parent), new_name)?;
    if to.as_bytes().starts_with(from.as_bytes()) {
        return Err(VfsError::plain(libc::EINVAL));
    }
    let old_place = vfs.tree.inodes.place(inode.ino);
    // Until the journal knows where all of it is.
    let _still = settle_below(vfs, inode.ino).await?;
    refuse_archived_below(&vfs.versions, &from).await?;
    let rename = vfs.parts.journal.next_rename_id();
    vfs.parts.journal.append(Record::DirectoryRenameBegun {
        rename,
        from: from.clone(),
        to: to.clone(),
    })?;
    vfs.parts.journal.sync().await?;
    let moved = move_all(vfs, rename, (inode, &from), target, (new_parent, new_name, &to)).await;
    if moved.is_err() {
        // Some is under either name, or under both: only the store can tell.
        vfs.parts.catalog.forget_directory(&from);
        vfs.parts.catalog.forget_directory(&to);
        old_place.into_iter().chain([(new_parent, new_name.to_vec())]).for_each(
            |(parent, name)| {
                vfs.files.kernel_forgets_name_soon(parent, name);
            },
        );
        return moved;
    }
    vfs.parts.journal.append(Record::DirectoryRenameEnded { rename })?;
    // What is made under the old name from now on is not to be moved by a mount that has not heard of it.
    Ok(vfs.parts.journal.sync().await?)
}

async fn move_all(
    vfs: &Vfs,
    rename: RenameId,
    (inode, from): (&Arc<Inode>, &Key),
    target: Option<&Arc<Inode>>,
    (new_parent, new_name, to): (u64, &[u8], &Key),
) -> Result<()> {
    let copied = copy_all(vfs, rename, from, to, Targets::AreFree).await?;
    if let Some((parent, _)) = vfs.tree.inodes.place(inode.ino) {
        directory::keep_directory(vfs, parent).await?;
    }
    {
        let _hidden = vfs.tree.hide(inode.ino).await;
        let files = files_to_follow(vfs, inode.ino, &copied);
        rename_log::finish_rename(vfs, inode, target, new_parent, new_name)?;
        let attributes = inode.state().attributes.clone();
        vfs.objects.directory_moved(from, to, &attributes);
        for (file, key) in files {
            follow_directory(vfs, &file, &key, &copied);
        }
        expire_below(vfs, inode.ino);
    }
    journal_moved(vfs, from, to, &copied).await?;
    delete_sources(vfs, from, &copied).await?;
    // A look ahead may have found what was still to be deleted.
    vfs.parts.catalog.directory_left(from);
    Ok(())
}

/// What is below a directory is in the store, so that it can be copied there; or it is only here, and stays so
/// until the guards are dropped.
async fn settle_below(vfs: &Vfs, ino: u64) -> Result<Vec<Still>> {
    let mut still = Vec::new();
    for inode in vfs.tree.inodes.local_below(ino) {
        if inode.ino == ino || inode.state().unlinked || vfs.tree.inodes.place(inode.ino).is_none()
        {
            continue;
        }
        let _operation = inode.operation_lock().lock().await;
        if let Some(draft) = inode.draft() {
            vfs.versions.adopt_on_the_way(&inode, &draft);
            still.push(draft.stand_still());
            if draft.has_begun() {
                vfs.versions.publish(&inode, &draft).await?;
                vfs.versions.let_go_of_published(&inode);
            }
        }
        vfs.versions.save_attributes(&inode).await?;
    }
    let inode = vfs.tree.get(ino)?;
    vfs.versions.save_attributes(&inode).await?;
    Ok(still)
}

/// Copies every key below `from` to below `to`. What is gone is not missed.
pub async fn copy_all(
    vfs: &Vfs,
    rename: RenameId,
    from: &Key,
    to: &Key,
    targets: Targets,
) -> Result<Copied> {
    let mut request = ListRequest { prefix: from.clone(), ..ListRequest::default() };
    let mut all = Copied::default();
    loop {
        let page = vfs.parts.store.list(&request).await.map_err(|error| vfs.faults.pass(error))?;
        let mut copied: Vec<CopiedObject> = Vec::with_capacity(page.objects.len());
        for together in parents_first(vfs, page.objects) {
            let copies: Vec<CopiedObject> = futures_util::stream::iter(together)
                .map(|object| copy_below(vfs, rename, (from, to), object, targets))
                .buffer_unordered(vfs.settings.concurrency)
                .try_collect()
                .await?;
            copied.extend(copies);
        }
        for CopiedObject { key, etag, copy } in copied {
            let Some(copy) = copy else {
                all.stay.push(key);
                continue;
            };
            if copy != etag {
                all.changed.insert(key.clone(), (etag, copy));
            }
            all.moved.push(key);
        }
        request.continuation = page.continuation;
        if request.continuation.is_none() {
            return Ok(all);
        }
    }
}

/// What may be copied side by side, in the order in which it has to be. A store that keeps folders makes those above
/// a key by itself, and may put one in the place of a marker that it is given at the same moment: there a
/// directory's marker goes before what is in the directory.
fn parents_first(vfs: &Vfs, objects: Vec<ListedObject>) -> impl Iterator<Item = Vec<ListedObject>> {
    let mut by_depth: BTreeMap<usize, Vec<ListedObject>> = BTreeMap::new();
    let keeps_folders = vfs.parts.store.capabilities().keeps_folders;
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

/// Deletes what has been copied.
pub async fn delete_sources(vfs: &Vfs, from: &Key, copied: &Copied) -> Result<()> {
    let mut sources = copied.moved.clone();
    let keeps_folders = vfs.parts.store.capabilities().keeps_folders;
    if keeps_folders {
        let kept = folders_of(&copied.stay, from);
        sources.extend(folders_of(&copied.moved, from).difference(&kept).cloned());
    }
    for keys in in_order(sources, keeps_folders).iter().flat_map(|keys| keys.chunks(1000)) {
        let outcomes =
            vfs.parts.store.delete_many(keys).await.map_err(|error| vfs.faults.pass(error))?;
        for outcome in outcomes {
            outcome.map_err(|error| vfs.faults.pass(error))?;
        }
    }
    Ok(())
}

/// What is deleted one after the other. A store that keeps folders answers 204 for one that is not empty, and keeps it: what
/// is in a folder is gone, each key of it tried as often as it takes, before the folder is asked for.
fn in_order(mut keys: Vec<Key>, keeps_folders: bool) -> Vec<Vec<Key>> {
    keys.sort_unstable();
    keys.dedup();
    if !keeps_folders {
        return vec![keys];
    }
    let (folders, files): (Vec<Key>, Vec<Key>) =
        keys.into_iter().partition(|key| key.as_bytes().ends_with(b"/"));
    let mut by_depth: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
    for folder in folders {
        let depth = folder.as_bytes().iter().filter(|byte| **byte == b'/').count();
        by_depth.entry(depth).or_default().push(folder);
    }
    iter::once(files).chain(by_depth.into_values().rev()).collect()
}

async fn copy_below(
    vfs: &Vfs,
    rename: RenameId,
    (from, to): (&Key, &Key),
    object: ListedObject,
    targets: Targets,
) -> Result<CopiedObject> {
    let rest = object.key.as_bytes().strip_prefix(from.as_bytes()).unwrap_or_default();
    let target = to.join(rest);
    let (key, etag) = (&object.key, &object.etag);
    let done = |copy| CopiedObject { key: key.clone(), etag: etag.clone(), copy };
    if targets == Targets::MayBeThere {
        let moved = rename_log::is_moved(vfs, rename, &object, &target).await;
        match moved.map_err(|error| vfs.faults.pass(error))? {
            Moved::NotYet => {}
            Moved::Copied(copy) => return Ok(done(Some(copy))),
            Moved::WrittenSince => {
                log::warn!("{key} stays: {target} was written since it was to go there");
                return Ok(done(None));
            }
        }
    }
    let Some(copy) = copy_or_make(vfs, &object, &target).await? else {
        // Another client deleted it meanwhile.
        return Ok(done(Some(etag.clone())));
    };
    rename_log::has_copied(vfs, rename, etag, &target, &copy)?;
    vfs.objects.moved_below(&object, &target, &copy);
    Ok(done(Some(copy)))
}

/// A copy; `None` where there is nothing to copy any more. SeaweedFS says that of each directory's marker, so what
/// is still there is made anew if it is empty, and otherwise not taken for gone.
async fn copy_or_make(vfs: &Vfs, object: &ListedObject, target: &Key) -> Result<Option<ETag>> {
    let (key, etag, len) = (&object.key, &object.etag, object.len);
    let class = object.storage_class.clone();
    let with = CopyWith::the_same(Storage { class, ..Storage::default() });
    let missing = match vfs.versions.copy_object(key, etag, len, target, with).await {
        Err(error) if error.errno == libc::ENOENT => error,
        copied => return copied.map(Some).map_err(|error| vfs.faults.pass(error)),
    };
    let head = match vfs.parts.store.head(&object.key).await {
        Err(error) if is_gone(&error) => return Ok(None),
        head => head.map_err(|error| vfs.faults.pass(error))?,
    };
    if head.len > 0 {
        return Err(VfsError::new(
            libc::EIO,
            format!("{} cannot be copied: {missing}", object.key),
        ));
    }
    let options = head.write_options().marked();
    let made = vfs.parts.store.put(target, Summed::of(""), &options, &Precondition::None).await;
    made.map(Some).map_err(|error| vfs.faults.pass(error))
}

/// Files below the directory that are in use, or that the copy has given another version, by the keys that they
/// have now.
fn files_to_follow(vfs: &Vfs, ino: u64, copied: &Copied) -> Vec<(Arc<Inode>, Key)> {
    let (mut files, mut directories) = (Vec::new(), vec![ino]);
    while let Some(directory) = directories.pop() {
        for child in vfs.tree.inodes.children(directory) {
            let (is_used, kind, is_version) = {
                let state = child.state();
                let is_used = state.used().open.all > 0 || state.is_local();
                (is_used, state.attributes.kind, state.used().version_of.is_some())
            };
            if kind == Kind::Directory {
                directories.push(child.ino);
            } else if is_version {
                // It stays the version of the key that it was.
            } else if is_used || !copied.changed.is_empty() {
                let key = vfs.tree.file_key(child.ino);
                if is_used || copied.changed.contains_key(&key) {
                    files.push((child, key));
                }
            }
        }
    }
    files
}

/// The file that had this key has another one, since a directory above it has another name.
fn follow_directory(vfs: &Vfs, inode: &Arc<Inode>, old: &Key, copied: &Copied) {
    let key = vfs.tree.file_key(inode.ino);
    if let Some((etag, len)) = vfs.versions.stored_version(inode) {
        let copy = copied.copy_of(old, &etag);
        // Opened while it was copied.
        vfs.objects.read_from((old, &etag), (&key, &copy));
        vfs.versions.follow_object(inode, &key, &copy, len);
    }
    if let Some(draft) = inode.draft() {
        draft.follow(&key, |etag| copied.copy_of(old, etag));
    }
    if inode.state().is_local() {
        if let Some((dir, name)) = name::split(old) {
            vfs.parts.catalog.withdraw_local(&dir, name);
        }
        vfs.tree.note_local_file(inode);
    }
}

/// Of whatever waits below `from`, for an upload or to be taken up again, the journal is told that it is below
/// `to`, and what it modifies there. A draft with an upload stays where its upload is.
pub async fn journal_moved(vfs: &Vfs, from: &Key, to: &Key, copied: &Copied) -> Result<()> {
    let moved = |key: &Key| {
        let rest = key.as_bytes().strip_prefix(from.as_bytes())?;
        (!copied.stay.contains(key)).then(|| to.join(rest))
    };
    let records: Vec<Record> = vfs.parts.journal.read(|state| {
        let drafts = state.drafts.iter().filter(|(_, draft)| draft.upload.is_none());
        let drafts = drafts.filter_map(|(id, draft)| {
            let base = draft.base.as_ref().map(|base| {
                let etag = copied.copy_of(&draft.key, &base.etag);
                BaseVersion { etag, len: base.len }
            });
            Some(Record::DraftFollowed { draft: *id, key: moved(&draft.key)?, base })
        });
        let attributes = state.attributes.iter().filter_map(|(key, changed)| {
            let etag = changed.etag.as_ref().map(|etag| copied.copy_of(key, etag));
            let (len, metadata) = (changed.len, changed.metadata.clone());
            let there = Record::AttributesChanged { key: moved(key)?, etag, len, metadata };
            Some([there, Record::AttributesSaved { key: key.clone() }])
        });
        drafts.chain(attributes.flatten()).collect()
    });
    if records.is_empty() {
        return Ok(());
    }
    vfs.parts.journal.append_all(&records)?;
    Ok(vfs.parts.journal.sync().await?)
}

/// What is known of the inodes below a moved directory is asked for again.
fn expire_below(vfs: &Vfs, ino: u64) {
    let mut directories = vec![ino];
    while let Some(directory) = directories.pop() {
        for child in vfs.tree.inodes.children(directory) {
            let mut state = child.state();
            state.valid_until = Instant::now();
            if state.attributes.kind == Kind::Directory {
                directories.push(child.ino);
            }
        }
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

    #[test]
    fn a_folder_goes_when_nothing_is_in_it() {
        let keys =
            ["a/", "a/b/", "a/b/c", "a/b/d/", "a/b/d/e", "a/x/", "a/z", "a/z"].map(Key::from);
        let told = in_order(keys.to_vec(), true);
        let wanted = [&["a/b/c", "a/b/d/e", "a/z"][..], &["a/b/d/"], &["a/b/", "a/x/"], &["a/"]];
        let wanted = wanted.map(|keys| keys.iter().copied().map(Key::from).collect::<Vec<_>>());
        assert_eq!(told, wanted);
        assert_eq!(in_order(keys.to_vec(), false).concat(), in_order(keys.to_vec(), false)[0]);
    }
}
