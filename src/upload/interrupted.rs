//! Interrupted uploads: the drafts in the journal that have no owner. Which there are, what takes one, how one ends.
//!
//! An owner (a writer, or a copy source in use) claims a draft and releases it; between the two it is no interrupted
//! upload. An interrupted upload may have been completed under its own key to be copied from: then it is a temporary
//! object, which directories do not show.
//!
//! Consistency: what is deleted in the end has the mark that the upload was begun with. Another machine may have
//! completed a file of that key meanwhile, of the same length and content even.
//! Crash: `DraftEnded` comes after the store has ended it; the next mount finds the others interrupted again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::UploadError;
use super::outcome::delete_if_marked;
use crate::clock;
use crate::journal::{Draft as DraftState, DraftId, Fingerprint, Journal, Record};
use crate::lock::{Mutex, rank};
use crate::store::Key;
use crate::store::turns::Turns;

/// An interrupted upload, as `uploads list` shows it.
#[derive(Clone, Debug)]
pub struct InterruptedUpload {
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

/// An interrupted upload as the journal tells it.
pub fn describe(id: DraftId, draft: &DraftState) -> InterruptedUpload {
    InterruptedUpload {
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

/// The interrupted uploads of a mount.
pub struct Interrupted {
    pub(super) store: Arc<Turns>,
    pub(super) journal: Arc<Journal>,
    /// Few, however many files wait for their upload: each file that is published looks through them all.
    unowned: Mutex<Unowned, rank::Interrupted>,
    /// The keys of those that are temporary objects.
    temporary: Mutex<HashMap<Key, DraftId>, rank::TemporaryKeys>,
}

struct Unowned {
    drafts: BTreeSet<DraftId>,
    /// Counts what came to be interrupted.
    added: u64,
}

impl Interrupted {
    /// All drafts of the journal: owners claim what they take up again.
    pub fn new(store: Arc<Turns>, journal: Arc<Journal>) -> Arc<Interrupted> {
        let (drafts, temporary) = journal.read(|state| {
            let temporary = state.drafts.iter().filter(|(_, draft)| draft.is_temporary());
            let temporary = temporary
                .filter_map(|(id, draft)| Some((draft.upload.as_ref()?.key.clone(), *id)))
                .collect();
            (state.drafts.keys().copied().collect(), temporary)
        });
        Arc::new(Interrupted {
            store,
            journal,
            unowned: Mutex::new(Unowned { drafts, added: 0 }),
            temporary: Mutex::new(temporary),
        })
    }

    /// Takes a draft: it is no interrupted upload until it is released. `false` where it was none: it has an owner
    /// already, or is new or ended.
    pub fn claim(&self, draft: DraftId) -> bool {
        self.unowned.lock().drafts.remove(&draft)
    }

    /// The draft has no owner any more; what it left in the store may serve others. Records of it may only follow
    /// another claim.
    pub fn release(&self, draft: DraftId) {
        let mut unowned = self.unowned.lock();
        if self.journal.read(|state| state.drafts.contains_key(&draft)) {
            unowned.drafts.insert(draft);
            unowned.added += 1;
        }
    }

    /// Changes whenever there is a new one.
    pub(super) fn added(&self) -> u64 {
        self.unowned.lock().added
    }

    pub(super) fn ids(&self) -> BTreeSet<DraftId> {
        self.unowned.lock().drafts.clone()
    }

    /// What the journal knows of those that `wanted` takes, in the order in which they began.
    pub fn find<T>(&self, wanted: impl Fn(DraftId, &DraftState) -> Option<T>) -> Vec<T> {
        // In this order: the journal's lock is the last.
        let unowned = self.unowned.lock();
        if unowned.drafts.is_empty() {
            return Vec::new();
        }
        self.journal.read(|state| {
            let drafts = unowned.drafts.iter();
            drafts.filter_map(|id| wanted(*id, state.drafts.get(id)?)).collect()
        })
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<InterruptedUpload> {
        let mut uploads = self.find(|id, draft| Some(describe(id, draft)));
        uploads.sort_by_key(|upload| upload.begun);
        uploads
    }

    /// Whether an object is only there to be copied from, and will be deleted.
    pub fn is_temporary(&self, key: &Key) -> bool {
        self.temporary.lock().contains_key(key)
    }

    pub(super) fn mark_temporary(&self, key: &Key, draft: DraftId) {
        self.temporary.lock().insert(key.clone(), draft);
    }

    /// The key is an ordinary one again.
    pub(super) fn unmark_temporary(&self, draft: DraftId) {
        self.temporary.lock().retain(|_, of| *of != draft);
    }

    /// Ends one that has no owner: in the store, in the journal.
    pub async fn abort(&self, draft: DraftId) -> Result<(), UploadError> {
        if !self.claim(draft) {
            return Ok(());
        }
        let ended = self.end(draft).await;
        self.release(draft);
        ended
    }

    /// Ends all of `key`, which has been completed by another way.
    pub async fn abort_all_of(&self, key: &Key) -> Result<(), UploadError> {
        for draft in self.find(|id, draft| (draft.key == *key).then_some(id)) {
            self.abort(draft).await?;
        }
        Ok(())
    }

    /// Ends those that hold nothing but parts of what has just been completed: their files will not be written again
    /// (a killed `rsync` leaves one for each temporary name that it used). What was synced under its own name stays. A
    /// failure leaves them to the next completion, or to expiry.
    pub(super) async fn abort_contained_in(&self, completed: &HashSet<Fingerprint>) {
        let contained = self.find(|id, draft| {
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
                log::warn!("an interrupted upload that is of no use could not be ended: {error}");
            }
        }
    }

    /// Ends a draft of the caller's.
    pub(super) async fn end(&self, draft: DraftId) -> Result<(), UploadError> {
        let Some(interrupted) = self.journal.read(|state| state.drafts.get(&draft).cloned()) else {
            return Ok(());
        };
        self.end_in_store(&interrupted).await?;
        self.journal.append(Record::DraftEnded { draft })?;
        self.unmark_temporary(draft);
        Ok(())
    }

    /// Aborts the upload; or deletes the temporary object that it was completed to, if it still is that object.
    async fn end_in_store(&self, draft: &DraftState) -> Result<(), UploadError> {
        let Some(upload) = &draft.upload else { return Ok(()) };
        // A file of this mount may be about to take the key.
        let turn = self.store.turn(&upload.key).await;
        let is_temporary = draft.is_temporary();
        // Killed between the intention and the answer it may still be open.
        let is_completed = is_temporary && matches!(draft.made_temporary, Some(Some(_)));
        if !is_completed {
            turn.store().abort_upload(&upload.key, &upload.id).await?;
        }
        if is_temporary {
            delete_if_marked(turn.store(), &upload.key, upload.mark().as_ref()).await?;
        }
        Ok(())
    }

    /// Takes a draft's upload, where the journal knows one, away from it: the draft's records end, and an interrupted
    /// upload is left that has the upload and nothing else.
    pub fn disown(&self, draft: DraftId) -> Result<Option<DraftId>, UploadError> {
        let Some((key, plan, options)) = self.journal.read(|state| {
            let draft = state.drafts.get(&draft)?;
            let upload = draft.upload.as_ref()?;
            Some((upload.key.clone(), draft.plan, draft.options))
        }) else {
            return Ok(None);
        };
        let disowned = self.journal.next_draft_id();
        let time = clock::wall();
        self.journal.append_all(&[
            Record::DraftBegun { draft: disowned, key, plan, base: None, options, time },
            Record::UploadAdopted { draft: disowned, from: draft },
        ])?;
        self.release(disowned);
        Ok(Some(disowned))
    }
}

#[cfg(test)]
#[path = "interrupted_tests.rs"]
mod tests;
