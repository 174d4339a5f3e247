//! How far a file is proven: what `ratchetfs verify` asks a mount.

use std::sync::Arc;

use crate::cache::{Depth, Verdict};
use crate::namespace::attributes::Kind;
use crate::store::{ErrorKind, StoreError};
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::{Inode, ROOT_INO};
use crate::vfs::versions::is_gone;

/// Reads and compares the file at `path`, which is below the mount point.
///
/// # Errors
/// There is no such file, or the store's.
pub async fn verify(vfs: &Vfs, path: &[u8], depth: Depth) -> Result<Verdict> {
    let inode = find(vfs, path).await?;
    let (len, is_written) = {
        let state = inode.state();
        (state.len(), state.used().draft.as_ref().is_some_and(|draft| draft.is_dirty()))
    };
    if inode.kind() != Kind::File {
        return Ok(Verdict::unknown(0, "it is no file"));
    }
    if is_written {
        return Ok(Verdict::unknown(len, "it is not in the bucket yet"));
    }
    let Some(object) = vfs.versions.stored_object(&inode) else {
        return Ok(Verdict::unknown(len, "it is not in the bucket yet"));
    };
    match object.verify(depth).await {
        Ok(verdict) => Ok(verdict),
        Err(error) if is_another(&error) => {
            Ok(Verdict::unknown(len, "it was replaced or deleted meanwhile; verify it again"))
        }
        Err(error) => Ok(Verdict::unknown(len, error.to_string())),
    }
}

/// It is not what it was any more.
fn is_another(error: &StoreError) -> bool {
    is_gone(error) || matches!(error.kind, ErrorKind::PreconditionFailed | ErrorKind::InvalidRange)
}

async fn find(vfs: &Vfs, path: &[u8]) -> Result<Arc<Inode>> {
    let mut inode = vfs.tree.get(ROOT_INO)?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let found = vfs.tree.find_child(inode.ino, name).await?;
        inode = found.ok_or_else(|| VfsError::plain(libc::ENOENT))?;
    }
    Ok(inode)
}
