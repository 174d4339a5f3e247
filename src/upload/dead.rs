//! Dead uploads: finding one to go on with, and ending those that nobody wants.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use super::{KnownPart, Proof, UploadError, UploadPlan, Uploads};
use crate::clock;
use crate::journal::{Draft as DraftState, DraftId, Fingerprint, Record};
use crate::store::{ErrorKind, Key, Mark, UploadId, WriteOptions};

/// An interrupted upload, as `uploads list` shows it.
#[derive(Clone, Debug)]
pub struct DeadUpload {
    pub draft: DraftId,
    pub key: Key,
    pub parts: usize,
    pub stored_bytes: u64,
    pub staged_bytes: u64,
    /// Length of the file as far as it was synced, where it was.
    pub synced_len: Option<u64>,
    pub begun: SystemTime,
    pub cause: Option<String>,
}

/// What ListParts and the journal agree on of an upload that is gone on with.
#[derive(Debug)]
pub(super) struct Adopted {
    pub upload_id: UploadId,
    pub mark: Option<Mark>,
    pub known: BTreeMap<u32, KnownPart>,
    /// What the upload was begun with.
    pub options: WriteOptions,
}

impl Uploads {
    /// The dead uploads of this mount, oldest first.
    pub fn dead(&self) -> Vec<DeadUpload> {
        let mut dead = self.dead_drafts(|id, draft| Some(describe(id, draft)));
        dead.sort_by_key(|upload| upload.begun);
        dead
    }

    /// Takes over a dead upload of the wanted key, where there is one that fits.
    pub(super) async fn adopt(&self, wanted: &UploadPlan) -> Result<Option<Adopted>, UploadError> {
        let mut objects = HashSet::new();
        while let Some(draft) = self.claim_dead_of(wanted, &objects) {
            match self.reconcile(draft).await {
                Ok(Some(adopted)) => {
                    // Its staging file, if it has one, is swept up by the next mount.
                    self.journal
                        .append(Record::UploadAdopted { draft: wanted.draft, from: draft })?;
                    self.release(draft);
                    return Ok(Some(adopted));
                }
                // It is the file itself by now: its parts can be copied from there.
                Ok(None) if self.has_become_an_object(draft).await? => {
                    objects.insert(draft);
                    self.release(draft);
                }
                Ok(None) => {
                    // The store has forgotten it: so do we.
                    self.journal.append(Record::DraftEnded { draft })?;
                    self.release(draft);
                }
                Err(error) => {
                    self.release(draft);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Claims the dead upload of the wanted key that has come furthest.
    fn claim_dead_of(&self, wanted: &UploadPlan, not: &HashSet<DraftId>) -> Option<DraftId> {
        let options = self.options;
        let mut fitting = self.dead_drafts(|id, draft| {
            let fits = draft.upload.as_ref().is_some_and(|upload| upload.key == wanted.key)
                && draft.plan == wanted.plan
                && draft.options == options
                && draft.published.is_none()
                && !not.contains(&id);
            fits.then_some((draft.parts.len(), id))
        });
        fitting.sort_unstable();
        // Others look for one too.
        let claimed = fitting.into_iter().rev().map(|(_, id)| id).find(|id| self.claim(*id))?;
        self.donors.forget_index();
        Some(claimed)
    }

    async fn has_become_an_object(&self, draft: DraftId) -> Result<bool, UploadError> {
        let meant = self.journal.read(|state| {
            let dead = state.drafts.get(&draft)?;
            Some((dead.upload.clone()?.key, dead.completing.clone()?))
        });
        match meant {
            Some((key, completing)) => {
                Ok(self.became(&key, &completing, Proof::Content).await?.is_some())
            }
            None => Ok(false),
        }
    }

    /// Asks the store what it holds of a draft's upload. `None` where it holds nothing any more.
    pub(super) async fn reconcile(&self, draft: DraftId) -> Result<Option<Adopted>, UploadError> {
        let Some((upload, recorded)) = self.journal.read(|state| {
            let draft = state.drafts.get(&draft)?;
            let upload = draft.upload.as_ref()?;
            Some((upload.clone(), draft.parts.clone()))
        }) else {
            return Ok(None);
        };
        let listed = match self.store.list_parts(&upload.key, &upload.id).await {
            Ok(listed) => listed,
            Err(error) if matches!(error.kind, ErrorKind::NoSuchUpload | ErrorKind::NotFound) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let known = listed
            .into_iter()
            .filter_map(|part| {
                let recorded = recorded.get(&part.number)?;
                let agrees = recorded.len == part.len && recorded.etag() == part.etag;
                let fingerprint = recorded.fingerprint;
                agrees.then_some((part.number, KnownPart { part, fingerprint }))
            })
            .collect();
        let mark = upload.mark();
        let options = WriteOptions {
            metadata: upload.metadata,
            content_type: upload.content_type,
            carried: Some(upload.carried),
        };
        Ok(Some(Adopted { upload_id: upload.id, mark, known, options }))
    }

    /// Ends every dead upload of `key`, which has been completed by another way.
    pub async fn abort_dead_of(&self, key: &Key) -> Result<(), UploadError> {
        let dead = self.dead_drafts(|id, draft| (draft.key == *key).then_some(id));
        for draft in dead {
            self.abort(draft).await?;
        }
        Ok(())
    }

    /// Ends the dead uploads that hold nothing but parts of what has just been completed: nobody will
    /// write them again (a killed `rsync` leaves one for each temporary name that it used). What was
    /// synced under its own name stays. A failure leaves them to the next completion, or to expiry.
    pub(super) async fn end_contained_in(&self, completed: &HashSet<Fingerprint>) {
        let contained = self.dead_drafts(|id, draft| {
            let is_contained = draft.upload.is_some()
                && draft.sealed().is_none()
                && !draft.parts.is_empty()
                && draft
                    .parts
                    .values()
                    .all(|part| part.fingerprint.is_some_and(|known| completed.contains(&known)));
            is_contained.then_some(id)
        });
        for draft in contained {
            if let Err(error) = self.abort(draft).await {
                log::warn!("a dead upload that nobody needs could not be ended yet: {error}");
            }
        }
    }

    /// Takes a draft's upload, where the journal knows one, away from it: the draft's records end, and a
    /// dead draft is left that has the upload and nothing else.
    pub fn disown(&self, draft: DraftId) -> Result<Option<DraftId>, UploadError> {
        let Some((key, plan, options)) = self.journal.read(|state| {
            let draft = state.drafts.get(&draft)?;
            let upload = draft.upload.as_ref()?;
            Some((upload.key.clone(), draft.plan, draft.options))
        }) else {
            return Ok(None);
        };
        let orphan = self.journal.next_draft_id();
        let time = clock::wall();
        self.journal.append_all(&[
            Record::DraftBegun { draft: orphan, key, plan, base: None, options, time },
            Record::UploadAdopted { draft: orphan, from: draft },
        ])?;
        self.release(orphan);
        Ok(Some(orphan))
    }

    /// Ends one dead upload: in the store, on the disk's account, in the journal.
    pub async fn abort(&self, draft: DraftId) -> Result<(), UploadError> {
        if !self.claim(draft) {
            return Ok(());
        }
        let ended = self.end_dead(draft).await;
        self.release(draft);
        ended
    }

    pub(super) async fn end_dead(&self, draft: DraftId) -> Result<(), UploadError> {
        let Some(dead) = self.journal.read(|state| state.drafts.get(&draft).cloned()) else {
            return Ok(());
        };
        if dead.published.is_some() {
            self.delete_published(&dead).await?;
        } else if let Some(upload) = &dead.upload {
            self.store.abort_upload(&upload.key, &upload.id).await?;
        }
        self.journal.append(Record::DraftEnded { draft })?;
        self.donors.forget_key(draft);
        Ok(())
    }
}

/// An interrupted upload as the journal tells it.
pub fn describe(id: DraftId, draft: &DraftState) -> DeadUpload {
    DeadUpload {
        draft: id,
        key: draft.key.clone(),
        parts: draft.parts.len(),
        stored_bytes: draft.parts.values().map(|part| part.len).sum(),
        staged_bytes: draft.staged_bytes(),
        synced_len: draft.sealed().map(|sealed| sealed.len),
        begun: draft.begun,
        cause: draft.failed.clone(),
    }
}

#[cfg(test)]
#[path = "dead_tests.rs"]
mod tests;
