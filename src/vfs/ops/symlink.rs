//! Symbolic links, pipes and sockets: objects whose mode says so, as s3fs keeps them; a link's body is its
//! target.

use crate::clock;
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::{Stored, name};
use crate::range::ByteRange;
use crate::store::Summed;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::request::{Caller, FileAttributes};
use crate::vfs::tree::new_state;

/// PATH_MAX: no link can be followed that is longer.
const TARGET_BYTES_MAX: usize = 4096;

/// symlink(2).
pub async fn symlink(
    vfs: &Vfs,
    caller: Caller,
    parent: u64,
    name: &[u8],
    target: &[u8],
) -> Result<FileAttributes> {
    vfs.settings.check_writable()?;
    if target.len() >= TARGET_BYTES_MAX {
        return Err(VfsError::plain(libc::ENAMETOOLONG));
    }
    let group = vfs.tree.group_for_new(parent, caller);
    let mut attributes = Attributes::new(Kind::Symlink, 0o777, caller.uid, group, clock::wall());
    attributes.change_extra(|extra| extra.target = Some(target.to_vec()));
    make_node(vfs, parent, name, attributes, target).await
}

/// mknod(2) of a pipe or a socket: the kernel serves them, the bucket keeps their names, as s3fs does.
pub async fn make_pipe_or_socket(
    vfs: &Vfs,
    caller: Caller,
    parent: u64,
    name: &[u8],
    kind: Kind,
    permissions: u32,
) -> Result<FileAttributes> {
    vfs.settings.check_writable()?;
    let group = vfs.tree.group_for_new(parent, caller);
    let attributes = Attributes::new(kind, permissions, caller.uid, group, clock::wall());
    make_node(vfs, parent, name, attributes, b"").await
}

/// A small object that is stored at once, and must be new.
async fn make_node(
    vfs: &Vfs,
    parent: u64,
    name: &[u8],
    attributes: Attributes,
    body: &[u8],
) -> Result<FileAttributes> {
    let _entered = vfs.tree.enter([parent, parent]).await;
    let key = name::file_key(&vfs.tree.directory_key(parent), name)?;
    if vfs.tree.find_child(parent, name).await?.is_some() {
        return Err(VfsError::plain(libc::EEXIST));
    }
    let options = attributes.to_write_options()?.marked();
    let etag = vfs
        .parts
        .store
        .put(&key, Summed::of(body.to_vec()), &options, &vfs.versions.if_new())
        .await
        .map_err(|error| vfs.versions.exists_or_fault(error))?;
    let len = body.len() as u64;
    let object = Stored { key: &key, etag: &etag, len, class: None };
    vfs.objects.published(object, &attributes, None);
    let mut state = new_state(attributes, len, Some(&etag));
    state.valid_until = vfs.settings.fresh_until();
    let inode = vfs.tree.inodes.insert_held(parent, name, state);
    vfs.tree.touch_directory(parent);
    Ok(vfs.tree.attributes_of(&inode))
}

/// readlink(2).
pub async fn readlink(vfs: &Vfs, ino: u64) -> Result<Vec<u8>> {
    let inode = vfs.tree.get(ino)?;
    if inode.kind() != Kind::Symlink {
        return Err(VfsError::plain(libc::EINVAL));
    }
    if let Some(target) = &inode.state().attributes.extra().target {
        return Ok(target.clone());
    }
    let (etag, len) =
        vfs.versions.stored_version(&inode).ok_or_else(|| VfsError::plain(libc::ENOENT))?;
    if len as usize >= TARGET_BYTES_MAX {
        return Err(VfsError::plain(libc::ENAMETOOLONG));
    }
    let key = vfs.tree.file_key(ino);
    let object = vfs.parts.cache.object(&key, &etag, len);
    let target = object
        .read(ByteRange::new(0, len), vfs.settings.deadline())
        .await
        .map_err(|error| vfs.faults.pass(error))?
        .as_ref()
        .to_vec();
    inode.state().attributes.change_extra(|extra| extra.target = Some(target.clone()));
    Ok(target)
}
