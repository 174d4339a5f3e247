//! The outcome of a completion whose answer was lost, by a broken connection or by the end of this process.
//!
//! | the store says | outcome |
//! |---|---|
//! | the upload is open | not completed: the upload goes on |
//! | it is gone, the key holds what was about to be | completed: the object is ours |
//! | it is gone, the key holds something else, or nothing | unknown: aborted, or replaced since; begun again |
//!
//! What was about to be has the length and the upload's mark; or, where only its content counts, the length and the ETag
//! that follows from the parts. (A file that must be new is proven by the mark alone: another client's may have the same
//! content.)

use crate::journal::{self, Completing};
use crate::store::retry::settle::proves_equal;
use crate::store::{
    ETag, ErrorKind, Key, Mark, ObjectHead, Precondition, Result, Store, StoreError, StoredPart,
    UploadId, present,
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
    /// What a completion under this condition has to prove.
    pub fn under(precondition: &Precondition) -> Proof {
        match precondition {
            Precondition::Absent => Proof::Mark,
            Precondition::None | Precondition::Matches(_) => Proof::Content,
        }
    }
}

/// What became of an upload that was about to be completed.
#[derive(Debug)]
pub enum Outcome {
    NotCompleted,
    Completed(ETag),
    Unknown,
}

/// Asks the store what became of an upload.
pub(super) async fn outcome_of(
    store: &dyn Store,
    upload: &journal::Upload,
    wanted: &Completing,
    proof: Proof,
) -> Result<Outcome> {
    match store.list_parts(&upload.key, &upload.id).await {
        Ok(_) => return Ok(Outcome::NotCompleted),
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error),
    }
    let completed = completed_as(store, &upload.key, wanted, proof).await?;
    Ok(completed.map_or(Outcome::Unknown, Outcome::Completed))
}

/// The ETag of the key's object, if that is what was about to be.
pub(super) async fn completed_as(
    store: &dyn Store,
    key: &Key,
    wanted: &Completing,
    proof: Proof,
) -> Result<Option<ETag>> {
    let head = head_if_there(store, key).await?;
    Ok(head.filter(|head| is_what_was_meant(head, wanted, proof)).map(|head| head.etag))
}

pub(super) async fn head_if_there(store: &dyn Store, key: &Key) -> Result<Option<ObjectHead>> {
    present(store.head(key).await)
}

/// Completes an upload whose object is temporary: one of that key that has its mark is it, though the answer was lost.
pub(super) async fn complete_marked(
    store: &dyn Store,
    key: &Key,
    upload_id: &UploadId,
    parts: &[StoredPart],
    precondition: &Precondition,
    mark: Option<&Mark>,
) -> Result<ETag> {
    let done = store.complete_upload(key, upload_id, parts, precondition).await;
    if let Err(error) = &done
        && is_repeated(error)
        && mark.is_some()
        && let Some(head) = head_if_there(store, key).await?
        && head.mark().as_ref() == mark
        && head.len == parts.iter().map(|part| part.len).sum::<u64>()
    {
        return Ok(head.etag);
    }
    done
}

/// Deletes the key's object if it has this mark. Without a mark nothing tells it from another client's.
pub(super) async fn delete_if_marked(
    store: &dyn Store,
    key: &Key,
    mark: Option<&Mark>,
) -> Result<()> {
    let Some(head) = head_if_there(store, key).await? else { return Ok(()) };
    if mark.is_some() && head.mark().as_ref() == mark {
        return store.delete(key, Some(&head.etag)).await;
    }
    log::warn!("{key} stays: nothing shows that an interrupted upload of this machine has made it");
    Ok(())
}

/// Whether the store does not know an upload, or not any more.
pub(super) fn is_gone(error: &StoreError) -> bool {
    matches!(error.kind, ErrorKind::NoSuchUpload | ErrorKind::NotFound)
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
                sum: None,
                archived: None,
            };
            let found = |proof| is_what_was_meant(&head, &completing, proof);
            assert_eq!((found(Proof::Mark), found(Proof::Content)), told, "{len} {etag}");
        }
    }
}
