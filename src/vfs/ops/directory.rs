//! Directories: making and removing them, their markers, and knowing when one is empty.

use std::sync::Arc;

use crate::clock;
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::name;
use crate::store::{Key, ListRequest, Precondition};
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::request::{Caller, FileAttributes};
use crate::vfs::tree::{Inode, ROOT_INO, new_state};

/// mkdir(2): a marker, so that the directory outlives the mount while it is empty.
pub async fn mkdir(
    vfs: &Vfs,
    caller: Caller,
    parent: u64,
    name: &[u8],
    permissions: u32,
) -> Result<FileAttributes> {
    vfs.settings.check_writable()?;
    let _entered = vfs.tree.enter([parent, parent]).await;
    let key = name::directory_key(&vfs.tree.directory_key(parent), name)?;
    if vfs.tree.find_child(parent, name).await?.is_some() {
        return Err(VfsError::plain(libc::EEXIST));
    }
    // When it was last known not to exist, and so to have nothing in it.
    let absent_since = vfs.parts.catalog.absent_since(&vfs.tree.directory_key(parent), name);
    let group = vfs.tree.group_for_new(parent, caller);
    let mut attributes =
        Attributes::new(Kind::Directory, permissions, caller.uid, group, clock::wall());
    if vfs.tree.has_set_gid(parent) {
        attributes.mode |= libc::S_ISGID;
    }
    let made = vfs.versions.put_marker(&key, &attributes, vfs.versions.if_new()).await;
    let later = vfs.versions.is_for_later(&made);
    if later {
        vfs.parts.catalog.local_directory(&key);
    } else {
        made?;
        vfs.parts.catalog.directory_made(&key, &attributes, absent_since);
    }
    let mut state = new_state(attributes, 0, None);
    state.marker = true;
    state.valid_until = vfs.settings.fresh_until();
    let inode = vfs.tree.inodes.insert_held(parent, name, state);
    if later && let Err(error) = vfs.versions.attributes_changed(&inode) {
        vfs.parts.catalog.withdraw_local(&vfs.tree.directory_key(parent), name);
        inode.state().unsaved = false;
        vfs.tree.inodes.unname(parent, name);
        vfs.tree.inodes.forget(inode.ino, 1);
        return Err(error);
    }
    vfs.tree.touch_directory(parent);
    Ok(vfs.tree.attributes_of(&inode))
}

/// rmdir(2).
pub async fn rmdir(vfs: &Vfs, parent: u64, name: &[u8]) -> Result<()> {
    vfs.settings.check_writable()?;
    let _entered = vfs.tree.enter([parent, parent]).await;
    let inode =
        vfs.tree.find_child(parent, name).await?.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
    if inode.kind() != Kind::Directory {
        return Err(VfsError::plain(libc::ENOTDIR));
    }
    let _operation = inode.operation_lock().lock().await;
    let prefix = vfs.tree.directory_key(inode.ino);
    if has_entries(vfs, &inode, &prefix).await? {
        return Err(VfsError::plain(libc::ENOTEMPTY));
    }
    keep_directory(vfs, parent).await?;
    delete_markers(vfs, &prefix).await?;
    vfs.objects.directory_deleted(&prefix);
    vfs.tree.inodes.unname(parent, name);
    inode.state().unlinked = true;
    vfs.tree.touch_directory(parent);
    vfs.tree.inodes.settle(inode.ino);
    Ok(())
}

/// Deletes the objects that say that a directory is there, in whichever form.
async fn delete_markers(vfs: &Vfs, prefix: &Key) -> Result<()> {
    for key in vfs.parts.catalog.markers(prefix) {
        vfs.parts.store.delete(&key, None).await.map_err(|error| vfs.faults.pass(error))?;
    }
    Ok(())
}

/// Whether a directory holds anything, here or in the store.
pub async fn has_entries(vfs: &Vfs, inode: &Inode, prefix: &Key) -> Result<bool> {
    let local = vfs.tree.inodes.children(inode.ino);
    if local.iter().any(|child| child.draft().is_some()) {
        return Ok(true);
    }
    // The marker itself, and one more.
    let request = ListRequest {
        prefix: prefix.clone(),
        by_directory: true,
        max_keys: Some(3),
        ..ListRequest::default()
    };
    let page = vfs.parts.store.list(&request).await.map_err(|error| vfs.faults.pass(error))?;
    let object = page.objects.iter().any(|object| {
        object.key != *prefix && !vfs.parts.uploads.interrupted.is_temporary(&object.key)
    });
    Ok(object || !page.common_prefixes.is_empty())
}

/// A directory without a marker gets one before its last entry can go, so that it stays.
pub async fn keep_directory(vfs: &Vfs, ino: u64) -> Result<()> {
    if ino == ROOT_INO {
        return Ok(());
    }
    let inode: Arc<Inode> = vfs.tree.get(ino)?;
    let attributes = {
        let state = inode.state();
        if state.marker {
            return Ok(());
        }
        state.attributes.clone()
    };
    let key = vfs.tree.directory_key(ino);
    let made = vfs.versions.put_marker(&key, &attributes, Precondition::None).await;
    if vfs.versions.is_for_later(&made) {
        vfs.versions.attributes_changed(&inode)?;
    } else {
        made?;
    }
    vfs.parts.catalog.directory_put(&key, &attributes);
    inode.state().marker = true;
    Ok(())
}
