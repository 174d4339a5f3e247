//! Interrupted uploads: ended when they have expired, or at a user's word.

use std::time::Duration;

use crate::clock;
use crate::disk;
use crate::journal::DraftId;
use crate::staging::StagingFile;
use crate::store::Key;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::Result;

/// Ends interrupted uploads that were not taken up again, and drafts that hold nothing.
pub async fn end_expired(vfs: &Vfs, resume_expiry: Duration) {
    for upload in vfs.parts.uploads.interrupted.list() {
        let age = clock::age(upload.begun);
        // What was synced is a promise, though it be an empty file.
        let holds_nothing =
            upload.parts == 0 && upload.staged_bytes == 0 && upload.synced_len.is_none();
        let closed_and_failed = upload.cause.is_some() && upload.synced_len.is_some();
        if closed_and_failed || !(age > resume_expiry || holds_nothing) {
            continue;
        }
        match vfs.parts.uploads.interrupted.abort(upload.draft).await {
            Ok(()) => remove_staging(vfs, upload.draft),
            Err(error) => log::warn!("{}: not ended yet: {error}", upload.key),
        }
    }
}

/// `uploads abort`: ends the interrupted uploads of the given keys, or all.
pub async fn abort(vfs: &Vfs, keys: &[Key]) -> Result<usize> {
    let mut aborted = 0;
    for upload in vfs.parts.uploads.interrupted.list() {
        if keys.is_empty() || keys.contains(&upload.key) {
            vfs.parts.uploads.interrupted.abort(upload.draft).await?;
            remove_staging(vfs, upload.draft);
            aborted += 1;
        }
    }
    Ok(aborted)
}

fn remove_staging(vfs: &Vfs, draft: DraftId) {
    let path = StagingFile::path_of(&vfs.parts.writers.settings.staging_folder, draft);
    if let Err(error) = disk::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("{}: {error}", path.display());
    }
}
