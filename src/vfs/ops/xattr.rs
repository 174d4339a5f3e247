//! Extended attributes: `user.*`, kept in the object's metadata; and `user.ratchetfs.*`, which show
//! what this mount knows of a file and cannot be set.

use std::sync::Arc;

use crate::clock::{self, Instant};
use crate::namespace::attributes::Kind;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::Inode;
use crate::vfs::versions::is_gone;

/// How setxattr treats what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    Either,
    /// XATTR_CREATE: there must be none.
    Create,
    /// XATTR_REPLACE: there must be one.
    Replace,
}

const USER: &[u8] = b"user.";
const OWN: &[u8] = b"user.ratchetfs.";
const OWN_NAMES: [&str; 5] = ["etag", "key", "len", "cached-ranges", "upload"];

/// No room on the disk is taken by what the store's 2 KiB of metadata cannot hold anyway.
const VALUE_BYTES_MAX: usize = 2048;

/// XATTR_NAME_MAX of Linux.
const NAME_BYTES_MAX: usize = 255;

/// Whether an attribute of an object is one of its file.
fn is_listed(name: &[u8]) -> bool {
    let named = name.strip_prefix(USER).is_some_and(|name| !name.is_empty());
    named && !name.starts_with(OWN) && name.len() <= NAME_BYTES_MAX && !name.contains(&0)
}

/// getxattr(2).
pub async fn getxattr(vfs: &Vfs, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
    let inode = vfs.tree.get(ino)?;
    if let Some(own) = name.strip_prefix(OWN) {
        let value = match own {
            b"storage-class" | b"version" => stored_xattr(vfs, &inode, own).await?,
            b"checksum" | b"proven" => proof_xattr(vfs, &inode, own).await?,
            b"stale" => vfs.tree.stale_since(&inode).map(shown),
            _ => own_xattr(vfs, &inode, own),
        };
        return value.ok_or_else(|| VfsError::plain(libc::ENODATA));
    }
    if !name.starts_with(USER) {
        return Err(VfsError::plain(libc::EOPNOTSUPP));
    }
    let state = inode.state();
    let value = state.attributes.extra().xattrs.get(name).cloned();
    value.ok_or_else(|| VfsError::plain(libc::ENODATA))
}

/// listxattr(2): names, each ended by a NUL. Ours are not listed, so that copies do not carry them; nor are names
/// from other tools that Linux does not take, for one of which the kernel refuses the whole list.
pub fn listxattr(vfs: &Vfs, ino: u64) -> Result<Vec<u8>> {
    let inode = vfs.tree.get(ino)?;
    let state = inode.state();
    let mut names = Vec::new();
    for name in state.attributes.extra().xattrs.keys().filter(|name| is_listed(name)) {
        names.extend_from_slice(name);
        names.push(0);
    }
    Ok(names)
}

/// setxattr(2). ENOSPC beyond the store's 2 KiB of metadata.
pub async fn setxattr(vfs: &Vfs, ino: u64, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(VfsError::plain(libc::ENOSPC));
    }
    change_xattr(vfs, ino, name, |there| match (how, there) {
        (SetXattr::Create, true) => Err(VfsError::plain(libc::EEXIST)),
        (SetXattr::Replace, false) => Err(VfsError::plain(libc::ENODATA)),
        _ => Ok(Some(value.to_vec())),
    })
    .await
}

/// removexattr(2).
pub async fn removexattr(vfs: &Vfs, ino: u64, name: &[u8]) -> Result<()> {
    change_xattr(
        vfs,
        ino,
        name,
        |there| {
            if there { Ok(None) } else { Err(VfsError::plain(libc::ENODATA)) }
        },
    )
    .await
}

async fn change_xattr(
    vfs: &Vfs,
    ino: u64,
    name: &[u8],
    change: impl FnOnce(bool) -> Result<Option<Vec<u8>>>,
) -> Result<()> {
    vfs.settings.check_writable()?;
    if !name.starts_with(USER) {
        return Err(VfsError::plain(libc::EOPNOTSUPP));
    }
    if name.starts_with(OWN) {
        return Err(VfsError::plain(libc::EPERM));
    }
    let inode = vfs.tree.get(ino)?;
    inode.check_changeable()?;
    let _operation = vfs.tree.operation_on(&inode).await;
    vfs.tree.revalidate(&inode).await?;
    let written = {
        let mut state = inode.state();
        let mut attributes = state.attributes.clone();
        let value = change(attributes.extra().xattrs.contains_key(name))?;
        attributes.change_extra(|extra| match value {
            Some(value) => extra.xattrs.insert(name.to_vec(), value),
            None => extra.xattrs.remove(name),
        });
        attributes.to_write_options()?;
        state.attributes = attributes;
        state.ctime = clock::wall();
        state.draft_that_takes_attributes()
    };
    match written {
        Some(draft) => vfs.versions.tell_draft(&inode, &draft),
        None => vfs.versions.attributes_changed(&inode),
    }
}

/// A moment of the past as a clock on the wall shows it.
fn shown(at: Instant) -> Vec<u8> {
    let time = clock::wall() - at.elapsed();
    humantime::format_rfc3339_seconds(time).to_string().into_bytes()
}

/// What only a HEAD tells, sent when a program asks for it. Stores do not name the class STANDARD.
async fn stored_xattr(vfs: &Vfs, inode: &Inode, name: &[u8]) -> Result<Option<Vec<u8>>> {
    if inode.state().etag.is_none() {
        return Ok(None);
    }
    let version_of = inode.state().used().version_of.as_deref().cloned();
    let store = &vfs.parts.store;
    let head = match (version_of, inode.kind()) {
        (Some((key, version)), _) => store.head_version(&key, &version).await,
        (None, Kind::Directory) => store.head(&vfs.tree.directory_key(inode.ino)).await,
        (None, _) => store.head(&vfs.tree.file_key(inode.ino)).await,
    };
    let head = match head {
        Ok(head) => head,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(vfs.faults.pass(error)),
    };
    let value = match name {
        b"version" => head.version_id,
        _ => Some(head.carried.storage.class.unwrap_or_else(|| "STANDARD".to_owned())),
    };
    Ok(value.map(String::into_bytes))
}

/// What is known of the bytes of a file that the store has. The checksum may have to be asked for, which costs a HEAD.
async fn proof_xattr(vfs: &Vfs, inode: &Arc<Inode>, name: &[u8]) -> Result<Option<Vec<u8>>> {
    if inode.kind() != Kind::File {
        return Ok(None);
    }
    let is_written = inode.draft().is_some_and(|draft| draft.is_dirty());
    let object = vfs.versions.stored_object(inode).filter(|_| !is_written);
    Ok(match (object, name) {
        (None, b"proven") => Some(b"no".to_vec()),
        (None, _) => None,
        (Some(object), b"proven") => Some(object.proven().as_bytes().to_vec()),
        (Some(object), _) => match object.checksum().await {
            Ok(checksum) => checksum.map(String::into_bytes),
            Err(error) if is_gone(&error) => None,
            Err(error) => return Err(vfs.faults.pass(error)),
        },
    })
}

fn own_xattr(vfs: &Vfs, inode: &Arc<Inode>, name: &[u8]) -> Option<Vec<u8>> {
    let name = std::str::from_utf8(name).ok().filter(|name| OWN_NAMES.contains(name))?;
    let key = vfs.tree.object_key(inode);
    let (etag, len, draft) = {
        let state = inode.state();
        (state.etag(), state.len, state.used().draft.clone())
    };
    match name {
        "key" => Some(key.as_bytes().to_vec()),
        "etag" => Some(etag?.as_str().as_bytes().to_vec()),
        "len" => Some(len.to_string().into_bytes()),
        "cached-ranges" => {
            let ranges = vfs.parts.cache.object(&key, &etag?, len).cached_ranges();
            let text: Vec<String> =
                ranges.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
            Some(text.join(",").into_bytes())
        }
        "upload" => {
            let progress = draft.filter(|draft| draft.is_dirty())?.progress();
            let state = match (&progress.error, progress.closed) {
                (Some(_), _) => "failed",
                (None, true) => "waiting",
                (None, false) => "writing",
            };
            Some(format!("{state} {}/{}", progress.stored_bytes, progress.len).into_bytes())
        }
        _ => None,
    }
}
