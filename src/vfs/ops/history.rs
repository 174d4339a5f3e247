//! What the bucket has had under the key of a file: what `ratchetfs versions` and `ratchetfs undelete` ask a mount.

use crate::namespace::{escape, name};
use crate::store::Key;
use crate::store::ListedVersion;
use crate::store::undelete::{self, Undeleted};
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::ROOT_INO;

/// All versions of the file at `path`, which is below the mount point and need not be there any more; the newest first.
pub async fn versions(vfs: &Vfs, path: &[u8]) -> Result<(Key, Vec<ListedVersion>)> {
    let key = key_of(vfs, &names_of(path))?;
    let versions = undelete::versions_of(vfs.parts.store.as_ref(), &key).await;
    versions.map(|versions| (key, versions)).map_err(|error| vfs.faults.pass(error))
}

/// Brings back the file at `path`, which is below the mount point: it is there when this returns.
///
/// # Errors
/// EROFS where nothing may be changed, EEXIST where a file that is not in the bucket yet has the name; the store's.
pub async fn undelete(vfs: &Vfs, path: &[u8]) -> Result<(Key, Undeleted)> {
    vfs.settings.check_writable()?;
    let names = names_of(path);
    let key = key_of(vfs, &names)?;
    if is_only_here(vfs, &names).await? {
        return Err(VfsError::plain(libc::EEXIST));
    }
    let outcome = undelete::undelete(vfs.parts.store.as_ref(), &key).await;
    let outcome = outcome.map_err(|error| vfs.faults.pass(error))?;
    if matches!(outcome, Undeleted::Back(_)) {
        show(vfs, &names).await?;
    }
    Ok((key, outcome))
}

/// The segments of a path as the kernel has it.
fn names_of(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    names.map(|name| escape::to_segment(name).into_owned()).collect()
}

/// The key of a file whose directories need not be there.
fn key_of(vfs: &Vfs, names: &[Vec<u8>]) -> Result<Key> {
    let Some((last, directories)) = names.split_last() else {
        return Err(VfsError::plain(libc::EISDIR));
    };
    let mut dir = vfs.tree.directory_key(ROOT_INO);
    for name in directories {
        dir = name::directory_key(&dir, name)?;
    }
    Ok(name::file_key(&dir, last)?)
}

/// Whether a file has the name that the bucket does not have yet.
async fn is_only_here(vfs: &Vfs, names: &[Vec<u8>]) -> Result<bool> {
    let mut ino = ROOT_INO;
    for name in names {
        match vfs.tree.find_child(ino, name).await? {
            Some(found) => ino = found.ino,
            None => return Ok(false),
        }
    }
    let inode = vfs.tree.get(ino)?;
    let is_local = inode.state().is_local();
    Ok(is_local)
}

/// The file and the directories that it is in are there again: for programs too, which may have asked for them in vain.
async fn show(vfs: &Vfs, names: &[Vec<u8>]) -> Result<()> {
    let mut ino = ROOT_INO;
    for (nth, name) in names.iter().enumerate() {
        let dir = vfs.tree.directory_key(ino);
        let is_last = nth + 1 == names.len();
        if is_last {
            let found = vfs.tree.catalog.ask_file(&dir, name).await;
            found.map_err(|error| vfs.tree.resolve_error(error))?;
        }
        let known = vfs.tree.find_child(ino, name).await?;
        if known.is_none() && !is_last {
            vfs.tree.catalog.directory_implied(&name::directory_key(&dir, name)?);
        }
        if known.is_none() || is_last {
            vfs.files.kernel_forgets_name(ino, name).await;
        }
        match vfs.tree.find_child(ino, name).await? {
            Some(found) => ino = found.ino,
            None => return Ok(()),
        }
    }
    Ok(())
}
