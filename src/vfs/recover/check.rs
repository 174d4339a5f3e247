//! What is staged of files that are back in the tree, compared with its checksums in the background while requests are
//! served. A request for a file waits for that one.

use std::sync::Arc;

use crate::journal::{DraftId, Record};
use crate::store::Key;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::Result;
use crate::vfs::tree::Inode;
use crate::writer::Draft;

/// A file that is back in the tree, and not compared with its checksums yet.
pub struct Restored {
    pub inode: Arc<Inode>,
    pub draft: Arc<Draft>,
    /// What was synced under the same name before it, which is worth nothing if it is as it was written.
    pub before: Vec<DraftId>,
}

/// Sees to it that files that are back in the tree are compared with their checksums, oldest first, and sent.
pub fn in_background(vfs: &Arc<Vfs>, mut restored: Vec<Restored>) {
    restored.sort_by_key(|file| file.draft.id());
    if !vfs.settings.read_only {
        restored.iter().for_each(|file| {
            vfs.write_back.waiting.hold(file.inode.ino, file.draft.len());
        });
    }
    let weak = Arc::downgrade(vfs);
    vfs.runtime.spawn(async move {
        for file in restored {
            let Some(vfs) = weak.upgrade() else { return };
            if let Err(error) = check_restored(&vfs, &file).await {
                log::error!("{}: {error}", file.draft.key());
            }
        }
    });
}

/// What is as it was written is sent. What is not leaves the tree, and is kept: `uploads resume` tries again.
async fn check_restored(vfs: &Arc<Vfs>, file: &Restored) -> Result<()> {
    let Restored { inode, draft, before } = file;
    let Err(error) = draft.verified().await else {
        // Synced under the same name before it, by programs that did not come to its end.
        for before in before {
            vfs.parts.journal.append(Record::DraftUnlinked { draft: *before })?;
        }
        if !vfs.settings.read_only {
            vfs.write_back.waiting.push(inode.ino, draft.len());
        }
        return Ok(());
    };
    vfs.write_back.waiting.let_go(inode.ino);
    let _operation = vfs.tree.operation_on(inode).await;
    let stands = inode.draft().is_some_and(|standing| Arc::ptr_eq(&standing, draft));
    if !stands {
        return Ok(());
    }
    // Its writers hear of it with each call, and with the close.
    if inode.state().used().open.writers == 0 {
        vfs.versions.forget_draft(inode, true);
        vfs.tree.inodes.settle(inode.ino);
    }
    keep_back(vfs, draft.id(), &draft.key(), &error.to_string())
}

/// The file stays out of the tree, and is kept: `uploads list` tells the cause.
pub fn keep_back(vfs: &Vfs, id: DraftId, key: &Key, cause: &str) -> Result<()> {
    log::error!("{key}: cannot be brought back: {cause}");
    Ok(vfs.parts.journal.append(Record::DraftFailed { draft: id, cause: cause.to_owned() })?)
}
