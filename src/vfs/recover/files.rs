//! Files that were safe on the local disk: back in the tree under their names.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::check::{self, Restored};
use super::renames::perhaps_replaced;
use crate::clock;
use crate::journal::{Draft as DraftState, DraftId, Sealed};
use crate::namespace::attributes::{Attributes, Kind, Told};
use crate::namespace::name;
use crate::store::{ETag, Key, ObjectHead};
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::{ROOT_INO, new_state};
use crate::writer::{Base, Draft};

/// Brings back what must be there before the first request is served: what was closed, and under write-back
/// what was synced. Asks nothing of the store.
pub fn restore_promised_files(vfs: &Arc<Vfs>) -> Result<usize> {
    let left_out = perhaps_replaced(vfs);
    let found = vfs.parts.uploads.interrupted.find(|id, draft| {
        let is_promised =
            draft.life.is_closed() || (draft.sealed().is_some() && vfs.settings.write_back);
        (is_promised && !left_out.contains(&id)).then(|| (id, draft.clone()))
    });
    let mut promised: BTreeMap<Key, Vec<(DraftId, DraftState)>> = BTreeMap::new();
    for (id, draft) in found {
        promised.entry(draft.key.clone()).or_default().push((id, draft));
    }
    // What is back already keeps what was synced before it from coming back, until it is checked.
    vfs.parts.writers.live().iter().filter(|draft| draft.is_dirty()).for_each(|draft| {
        promised.remove(&draft.key());
    });
    let mut restored = Vec::new();
    for mut drafts in promised.into_values() {
        drafts.sort_by_key(|(id, _)| *id);
        let Some((id, draft)) = drafts.pop() else { continue };
        match restore(vfs, id, &draft) {
            Ok(file) => {
                let before = drafts.into_iter().map(|(id, _)| id).collect();
                restored.push(Restored { before, ..file });
            }
            Err(error) => check::keep_back(vfs, id, &draft.key, &error.to_string())?,
        }
    }
    let count = restored.len();
    check::in_background(vfs, restored);
    Ok(count)
}

/// `uploads resume`, for files that were synced and never closed: what was synced is published, unless
/// the file is being written again.
pub fn resume_synced(vfs: &Arc<Vfs>, keys: &[Key]) -> Result<usize> {
    let synced = vfs.parts.uploads.interrupted.find(|id, draft| {
        let is_wanted = keys.is_empty() || keys.contains(&draft.key);
        (draft.sealed().is_some() && is_wanted).then(|| (id, draft.clone()))
    });
    let mut resumed = Vec::new();
    let live = vfs.parts.writers.live();
    let live = live.iter().filter(|draft| draft.is_dirty()).map(|draft| draft.key());
    let live: HashSet<Key> = live.collect();
    for (id, draft) in synced {
        if live.contains(&draft.key) {
            continue;
        }
        resumed.push(restore(vfs, id, &draft)?);
    }
    let count = resumed.len();
    check::in_background(vfs, resumed);
    Ok(count)
}

/// Puts a file that was safe on the disk back into the tree.
fn restore(vfs: &Arc<Vfs>, id: DraftId, state: &DraftState) -> Result<Restored> {
    let sealed = state.sealed().ok_or_else(|| VfsError::plain(libc::ENOENT))?;
    let (parent, name) = directories_to(vfs, &state.key)?;
    let base = state.base.as_ref().map(|base| Base {
        key: state.key.clone(),
        etag: base.etag.clone(),
        len: base.len,
        object: vfs.parts.cache.object(&state.key, &base.etag, base.len),
    });
    let attributes = attributes_of_sealed(vfs, state, sealed);
    let draft = Draft::restore(&vfs.parts.writers, id, state, base)?;
    let etag = state.base.as_ref().map(|base| &base.etag);
    let mut inode_state = new_state(attributes, sealed.len, etag);
    inode_state.shadows = state.base.is_none();
    inode_state.used_mut().draft = Some(draft.clone());
    let inode = vfs.tree.inodes.insert(parent, &name, inode_state);
    vfs.tree.note_local_file(&inode);
    Ok(Restored { inode, draft, before: Vec::new() })
}

fn attributes_of_sealed(vfs: &Vfs, state: &DraftState, sealed: &Sealed) -> Attributes {
    let head = ObjectHead {
        etag: ETag::new(""),
        len: sealed.len,
        last_modified: state.begun,
        metadata: sealed.metadata.clone(),
        content_type: sealed.content_type.clone(),
        carried: sealed.carried.clone().unwrap_or_default(),
        version_id: None,
        sum: None,
        archived: None,
    };
    let mut attributes = Attributes::from_head(&head, false, &vfs.settings.defaults);
    if sealed.carried.is_none() {
        attributes.told = Told::Metadata;
    }
    attributes
}

/// The inodes of the directories above a key, made where they are not known; and the key's name.
pub fn directories_to(vfs: &Vfs, key: &Key) -> Result<(u64, Vec<u8>)> {
    let root = vfs.tree.directory_key(ROOT_INO);
    let below = key.as_bytes().strip_prefix(root.as_bytes()).unwrap_or_default();
    let mut segments: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
    let name = segments.pop().unwrap_or_default().to_vec();
    name::check_name(&name)?;
    let mut parent = ROOT_INO;
    for segment in segments {
        name::check_name(segment)?;
        let dir = vfs.tree.directory_key(parent);
        let defaults = &vfs.settings.defaults;
        let inode = vfs.tree.inodes.child_or_insert(parent, segment, || {
            new_state(Attributes::implicit_directory(clock::wall(), defaults), 0, None)
        });
        debug_assert_eq!(inode.kind(), Kind::Directory);
        let directory = name::directory_key(&dir, segment)?;
        vfs.parts.catalog.directory_implied(&directory);
        parent = inode.ino;
    }
    Ok((parent, name))
}
