//! What a crash left, put right by the next mount before the first request; but for what takes long: what is
//! staged is compared with its checksums while requests are served, and a request for a file waits for that one.
//! The order is `recovery`'s: one method for each of its steps.
//!
//! | | |
//! |---|---|
//! | `renames` | renames that were under way: done, finished, or forgotten |
//! | `files` | what was safe on the local disk is back in the tree |
//! | `check` | ... and compared with its checksums, in the background |
//! | `attributes` | what was changed and not saved |
//! | `uploads` | interrupted uploads |

use std::sync::Arc;
use std::time::Duration;

use super::assemble::Vfs;
use super::error::Result;
use super::ops::unlink;
use crate::store::Key;
use crate::upload::InterruptedUpload;

mod attributes;
mod check;
mod files;
mod renames;
mod uploads;

/// The steps of `recovery`.
impl Vfs {
    /// Asks the store whether renames and removals of files were done.
    pub(crate) async fn settle_file_renames(&self) -> Result<()> {
        renames::settle_file_renames(self).await
    }

    /// Finishes directory renames that a crash interrupted.
    pub(crate) async fn finish_interrupted_renames(&self) -> Result<()> {
        renames::finish_interrupted_renames(self).await
    }

    /// Attributes that were to be saved belong to one version: the store is asked which is there.
    pub(crate) async fn settle_attributes(&self) -> Result<()> {
        attributes::settle(self).await
    }

    /// Staging files of drafts that have ended go; those that the journal says nothing of are set aside.
    pub(crate) fn sweep_staging(&self) -> Result<()> {
        Ok(self.parts.journal.sweep_staging()?)
    }

    /// Brings back what must be there before the first request is served. Says how many files that were.
    pub(crate) fn restore_promised_files(self: &Arc<Self>) -> Result<usize> {
        files::restore_promised_files(self)
    }

    /// Attributes that the store did not get before the crash are what stat says, and are saved now.
    pub(crate) fn restore_attributes(&self) -> Result<()> {
        attributes::restore(self)
    }

    /// Once more, for what the store would not tell when the mount was made.
    pub(crate) async fn restore_what_was_left_out(self: &Arc<Self>) -> Result<()> {
        if !renames::perhaps_replaced(self).is_empty() {
            renames::settle_file_renames(self).await?;
            files::restore_promised_files(self)?;
        }
        Ok(())
    }

    /// Deletes the temporary objects that are left.
    pub(crate) async fn delete_temporary_objects(&self) -> Result<()> {
        let left: Vec<Key> =
            self.parts.journal.read(|state| state.temporary_objects.iter().cloned().collect());
        for key in left {
            unlink::delete_temporary_object(self, &key).await?;
        }
        Ok(())
    }

    /// Ends interrupted uploads that were not taken up again, and drafts that hold nothing.
    pub(crate) async fn end_expired(&self, resume_expiry: Duration) {
        uploads::end_expired(self, resume_expiry).await;
    }

    /// Known objects are not remembered for ever.
    pub(crate) fn forget_old_known_objects(&self, resume_expiry: Duration) {
        self.parts.uploads.known_objects.forget_older_than(resume_expiry);
    }

    /// Ends what unconfirmed creates have left in the store, for as long as there is a mount.
    pub(crate) async fn end_unconfirmed_creates(&self, resume_expiry: Duration) {
        self.parts.uploads.creates.end_unconfirmed(resume_expiry).await;
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.settings.read_only
    }
}

/// The interrupted uploads, for a user.
impl Vfs {
    /// The interrupted uploads.
    pub fn interrupted_uploads(&self) -> Vec<InterruptedUpload> {
        self.parts.uploads.interrupted.list()
    }

    /// `uploads abort`: ends the interrupted uploads of the given keys, or all.
    pub async fn abort_uploads(&self, keys: &[Key]) -> Result<usize> {
        uploads::abort(self, keys).await
    }

    /// `uploads resume`, for files that were synced and never closed: what was synced is published, unless
    /// the file is being written again.
    pub fn resume_synced(self: &Arc<Self>, keys: &[Key]) -> Result<usize> {
        files::resume_synced(self, keys)
    }
}
