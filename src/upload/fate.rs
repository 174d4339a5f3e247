//! What became of an upload whose completion was under way when its answer was lost, by a broken
//! connection or by the end of this process.
//!
//! | the store says | then |
//! |---|---|
//! | the upload is open | it was not completed: it is gone on with |
//! | it is gone, the key holds what was about to be | it was completed: the object is ours |
//! | it is gone, the key holds something else, or nothing | it was aborted, or replaced since: begun again |
//!
//! What was about to be is told by the ETag where that follows from the parts; else by length, metadata
//! (our mtime in nanoseconds is among it) and a date that is not older.

use std::time::SystemTime;

use super::{UploadError, Uploads};
use crate::journal::{Completing, DraftId};
use crate::store::retry::settle::{self, Expected};
use crate::store::{ETag, ErrorKind, Key, ObjectHead};

/// What became of an upload.
#[derive(Debug)]
pub enum Fate {
    Open,
    Became(ETag),
    Gone,
}

impl Uploads {
    /// Asks the store what became of the draft's upload.
    pub async fn fate(&self, draft: DraftId, wanted: &Completing) -> Result<Fate, UploadError> {
        let upload = self.journal.read(|state| {
            let draft = state.drafts.get(&draft)?;
            draft.upload.clone()
        });
        let Some(upload) = upload else { return Ok(Fate::Gone) };
        match self.store.list_parts(&upload.key, &upload.id).await {
            Ok(_) => return Ok(Fate::Open),
            Err(error) if matches!(error.kind, ErrorKind::NoSuchUpload | ErrorKind::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(match self.became(&upload.key, wanted).await? {
            Some(etag) => Fate::Became(etag),
            None => Fate::Gone,
        })
    }

    /// The ETag of the key's object, if that is what was about to be.
    pub async fn became(
        &self,
        key: &Key,
        wanted: &Completing,
    ) -> Result<Option<ETag>, UploadError> {
        match self.store.head(key).await {
            Ok(head) => Ok(is_what_was_meant(&head, wanted).then_some(head.etag)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_what_was_meant(head: &ObjectHead, wanted: &Completing) -> bool {
    let expected = Expected {
        len: wanted.len,
        etag: wanted.etag.clone(),
        metadata: Some(wanted.metadata.clone()),
        sent: wanted.time,
    };
    settle::is_ours(head, &expected)
}

/// Whether an object is what a PUT of a whole body with this metadata makes: the same content and the same
/// metadata, by whomever.
pub fn is_the_same(
    head: &ObjectHead,
    expected_md5: ETag,
    len: u64,
    metadata: &crate::store::Metadata,
) -> bool {
    let expected = Expected {
        len,
        etag: Some(expected_md5),
        metadata: Some(metadata.clone()),
        // The metadata is what tells.
        sent: SystemTime::UNIX_EPOCH,
    };
    head.metadata == *metadata && settle::is_ours(head, &expected)
}
