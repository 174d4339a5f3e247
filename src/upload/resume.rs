//! Resuming: what an interrupted upload has for one that is to be begun, as far as journal and store agree on it.

use std::collections::{BTreeMap, HashSet};

use super::error::UploadError;
use super::interrupted::Interrupted;
use super::outcome::{Proof, completed_as, is_gone};
use crate::journal::{DraftId, Fingerprint, Record};
use crate::part::PartPlan;
use crate::store::{Key, Mark, Store, StoredPart, UploadId, WriteOptions};

/// What a new upload is for.
pub struct UploadPlan {
    pub draft: DraftId,
    pub key: Key,
    pub plan: PartPlan,
    pub options: WriteOptions,
}

/// A part on which the journal and the store agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownPart {
    pub part: StoredPart,
    /// Of the content, or of what was copied.
    pub fingerprint: Option<Fingerprint>,
}

/// What ListParts and the journal agree on of an upload that goes on.
#[derive(Debug)]
pub(super) struct Resumed {
    pub upload_id: UploadId,
    pub mark: Option<Mark>,
    pub known: BTreeMap<u32, KnownPart>,
    /// What the upload was begun with.
    pub options: WriteOptions,
}

impl Interrupted {
    /// Takes over an interrupted upload of the wanted key, where there is one that fits. `options`: a digest of the
    /// mount's fixed options; an upload begun with others does not fit.
    pub(super) async fn adopt(
        &self,
        wanted: &UploadPlan,
        options: u64,
    ) -> Result<Option<Resumed>, UploadError> {
        let mut objects = HashSet::new();
        while let Some(draft) = self.claim_fitting(wanted, options, &objects) {
            match self.reconcile(draft).await {
                Ok(Some(resumed)) => {
                    // Its staging file, if it has one, is swept up by the next mount.
                    self.journal
                        .append(Record::UploadAdopted { draft: wanted.draft, from: draft })?;
                    self.release(draft);
                    return Ok(Some(resumed));
                }
                // It is the file itself by now: its parts can be copied from there.
                Ok(None) if self.has_become_an_object(draft).await? => {
                    objects.insert(draft);
                    self.release(draft);
                }
                Ok(None) => {
                    // The store has forgotten it: so does the journal.
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

    /// Claims the one of the wanted key that has come furthest.
    fn claim_fitting(
        &self,
        wanted: &UploadPlan,
        options: u64,
        not: &HashSet<DraftId>,
    ) -> Option<DraftId> {
        let mut fitting = self.find(|id, draft| {
            let fits = draft.upload.as_ref().is_some_and(|upload| upload.key == wanted.key)
                && draft.plan == wanted.plan
                && draft.options == options
                && draft.made_temporary.is_none()
                && !not.contains(&id);
            fits.then_some((draft.parts.len(), id))
        });
        fitting.sort_unstable();
        // Others look for one too.
        fitting.into_iter().rev().map(|(_, id)| id).find(|id| self.claim(*id))
    }

    async fn has_become_an_object(&self, draft: DraftId) -> Result<bool, UploadError> {
        let meant = self.journal.read(|state| {
            let interrupted = state.drafts.get(&draft)?;
            Some((interrupted.upload.clone()?.key, interrupted.completing.clone()?))
        });
        let Some((key, completing)) = meant else { return Ok(false) };
        Ok(completed_as(&*self.store, &key, &completing, Proof::Content).await?.is_some())
    }

    /// Asks the store what it holds of a draft's upload. `None` where it holds nothing any more.
    pub(super) async fn reconcile(&self, draft: DraftId) -> Result<Option<Resumed>, UploadError> {
        let Some((upload, recorded)) = self.journal.read(|state| {
            let draft = state.drafts.get(&draft)?;
            let upload = draft.upload.as_ref()?;
            Some((upload.clone(), draft.parts.clone()))
        }) else {
            return Ok(None);
        };
        let listed = match self.store.list_parts(&upload.key, &upload.id).await {
            Ok(listed) => listed,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let known = listed
            .into_iter()
            .filter_map(|part| {
                let recorded = recorded.get(&part.number)?;
                let agrees = recorded.len == part.len && recorded.etag() == part.etag;
                let (fingerprint, crc) = (recorded.fingerprint, recorded.crc);
                let part = StoredPart { crc, ..part };
                agrees.then_some((part.number, KnownPart { part, fingerprint }))
            })
            .collect();
        let mark = upload.mark();
        let options = WriteOptions {
            metadata: upload.metadata,
            content_type: upload.content_type,
            carried: Some(upload.carried),
        };
        Ok(Some(Resumed { upload_id: upload.id, mark, known, options }))
    }
}
