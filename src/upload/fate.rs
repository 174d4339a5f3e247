//! What became of an upload whose completion was under way when its answer was lost, by a broken
//! connection or by the end of this process.
//!
//! | the store says | then |
//! |---|---|
//! | the upload is open | it was not completed: it is gone on with |
//! | it is gone, the key holds what was about to be | it was completed: the object is ours |
//! | it is gone, the key holds something else, or nothing | it was aborted, or replaced since: begun again |
//!
//! What was about to be has the upload's mark; or, where only its content counts, the ETag that follows from the
//! parts. (Who creates a file that must be new asks for the mark: another client's may have the same content.)

use super::{UploadError, Uploads};
use crate::journal::{Completing, DraftId};
use crate::store::retry::settle::proves_equal;
use crate::store::{
    ETag, ErrorKind, Key, Mark, ObjectHead, Precondition, StoreError, StoredPart, UploadId,
};

/// What makes an object ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The mark alone.
    Mark,
    /// The mark, or the same content.
    Content,
}

impl Proof {
    /// What is to be proven by who completes under this condition.
    pub fn under(precondition: &Precondition) -> Proof {
        match precondition {
            Precondition::Absent => Proof::Mark,
            Precondition::None | Precondition::Matches(_) => Proof::Content,
        }
    }
}

/// What became of an upload.
#[derive(Debug)]
pub enum Fate {
    Open,
    Became(ETag),
    Gone,
}

impl Uploads {
    /// Asks the store what became of the draft's upload.
    pub async fn fate(
        &self,
        draft: DraftId,
        wanted: &Completing,
        proof: Proof,
    ) -> Result<Fate, UploadError> {
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
        Ok(match self.became(&upload.key, wanted, proof).await? {
            Some(etag) => Fate::Became(etag),
            None => Fate::Gone,
        })
    }

    /// The ETag of the key's object, if that is what was about to be.
    pub async fn became(
        &self,
        key: &Key,
        wanted: &Completing,
        proof: Proof,
    ) -> Result<Option<ETag>, UploadError> {
        let head = self.head_if_there(key).await?;
        Ok(head.filter(|head| is_what_was_meant(head, wanted, proof)).map(|head| head.etag))
    }

    pub(super) async fn head_if_there(&self, key: &Key) -> Result<Option<ObjectHead>, StoreError> {
        match self.store.head(key).await {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Completes an upload of our own making, whose object is nobody's file: one that has its mark is it, though
    /// the answer was lost.
    pub(super) async fn complete_marked(
        &self,
        key: &Key,
        upload_id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
        mark: Option<&Mark>,
    ) -> Result<ETag, StoreError> {
        let done = self.store.complete_upload(key, upload_id, parts, precondition).await;
        if let Err(error) = &done
            && is_repeated(error)
            && mark.is_some()
            && let Some(head) = self.head_if_there(key).await?
            && head.mark().as_ref() == mark
        {
            return Ok(head.etag);
        }
        done
    }
}

/// Whether a completion is refused as one is that has taken effect before.
pub(super) fn is_repeated(error: &StoreError) -> bool {
    matches!(error.kind, ErrorKind::NoSuchUpload | ErrorKind::PreconditionFailed)
}

fn is_what_was_meant(head: &ObjectHead, wanted: &Completing, proof: Proof) -> bool {
    let mark = Mark::of(&wanted.metadata);
    let is_marked = mark.is_some() && head.mark() == mark;
    let is_the_same = || wanted.etag.as_ref().is_some_and(|etag| proves_equal(etag, &head.etag));
    head.len == wanted.len && (is_marked || (proof == Proof::Content && is_the_same()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::store::Metadata;

    #[test]
    fn what_was_meant_is_told_by_its_mark_or_its_content() {
        let (md5, opaque) = ("0123456789abcdef0123456789abcdef-2", "opaque");
        let marked = || {
            let mut metadata = Metadata::new();
            Mark::fresh().put_into(&mut metadata);
            metadata
        };
        let (ours, theirs, none) = (marked(), marked(), Metadata::new());
        let table = [
            // (metadata that was meant, what was found: length, metadata, ETag; is it proven by the mark, by all)
            (&ours, (10, &ours, md5), (true, true)),
            (&ours, (10, &ours, opaque), (true, true)),
            (&ours, (11, &ours, md5), (false, false)),
            (&ours, (10, &theirs, md5), (false, true)),
            (&ours, (10, &none, md5), (false, true)),
            (&ours, (10, &theirs, opaque), (false, false)),
            // One that an older version has begun.
            (&none, (10, &none, md5), (false, true)),
            (&none, (10, &none, opaque), (false, false)),
        ];
        for (wanted, (len, metadata, etag), told) in table {
            let completing = Completing {
                len: 10,
                base_len: 10,
                newer: false,
                etag: Some(ETag::new(md5)),
                metadata: wanted.clone(),
                content_type: None,
                carried: Default::default(),
                time: clock::wall(),
            };
            let head = ObjectHead {
                etag: ETag::new(etag),
                len,
                last_modified: clock::wall(),
                metadata: metadata.clone(),
                content_type: None,
                carried: Default::default(),
                version_id: None,
            };
            let found = |proof| is_what_was_meant(&head, &completing, proof);
            assert_eq!((found(Proof::Mark), found(Proof::Content)), told, "{len} {etag}");
        }
    }
}
