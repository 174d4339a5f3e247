//! Donors: dead uploads of *other* keys whose parts are wanted again.
//!
//! `rsync` writes each run under a new temporary name, so what a killed run sent is held by an upload
//! whose key will never be written again. S3 cannot copy from an upload, only from an object; so the
//! dead upload is completed under its own key (which nobody uses: that is checked), the wanted parts
//! are copied from it inside the store, and the object is deleted when the last copier is done.
//!
//! A dead upload whose completion as the *file* had taken effect when its program was killed serves the
//! same way: it is an object already, the file itself, and is never deleted by us.
//!
//! Consistency: what is deleted in the end has the mark that the upload was begun with. Another machine may have
//! completed a file of that key meanwhile, of the same length and content even.
//! Crash: `DraftPublished` is journaled before the completion (intention, without an ETag) and after it
//! (with one), so a donor is found again by the next mount, serves again, and is deleted in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::dead::Adopted;
use super::lease::{Lease, Lending, Lent};
use super::{Fate, Proof, Seal, Upload, UploadError, Uploads};
use crate::journal::{Draft as DraftState, DraftId, Fingerprint, Journal, Record};
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::{ETag, ErrorKind, Key, Mark, Precondition, StoreError, StoredPart};

/// The shortest part that S3 takes in the middle of an upload, in bytes.
const PART_BYTES_MIN: u64 = 5 << 20;

/// A dead upload that has become an object to copy from.
pub(super) struct Donor {
    draft: DraftId,
    key: Key,
    etag: ETag,
    /// What it is known by; none where an older version has begun the upload.
    mark: Option<Mark>,
    /// Where each part of the dead upload stands in the object.
    places: HashMap<Fingerprint, ByteRange>,
    /// It is a file of the bucket, not ours to delete.
    kept: bool,
}

/// A dead upload that is being made a donor, or is one, or turned out to be none.
pub(super) struct Donated {
    draft: DraftId,
    made: tokio::sync::OnceCell<Option<Donor>>,
}

impl Lent for Donated {
    fn table(uploads: &Uploads) -> &Lending<Donated> {
        &uploads.donors.lent
    }

    async fn end(&self, uploads: &Uploads) {
        match self.made.get() {
            Some(Some(donor)) => uploads.end_donor(donor).await,
            // It is nobody's already.
            Some(None) => {}
            None => uploads.not_a_donor(self.draft),
        }
    }
}

pub(super) struct Donors {
    /// Which dead draft holds which content; built when first asked after a change.
    index: Mutex<Option<HashMap<Fingerprint, DraftId>>, rank::Fingerprints>,
    lent: Lending<Donated>,
    keys: Mutex<HashMap<Key, DraftId>, rank::InterruptedKeys>,
}

impl Donors {
    /// Knows the keys of the donors that an earlier mount made.
    pub(super) fn new(journal: &Journal) -> Self {
        let keys = journal.read(|state| {
            let published = state
                .drafts
                .iter()
                .filter(|(_, draft)| draft.published.is_some() && draft.completing.is_none());
            published
                .filter_map(|(id, draft)| Some((draft.upload.as_ref()?.key.clone(), *id)))
                .collect()
        });
        Donors { index: Mutex::new(None), lent: Lending::default(), keys: Mutex::new(keys) }
    }

    /// An ended donor's key is an ordinary key again.
    pub(super) fn forget_key(&self, draft: DraftId) {
        self.keys.lock().retain(|_, of| *of != draft);
    }

    pub(super) fn forget_index(&self) {
        *self.index.lock() = None;
    }

    pub(super) fn holds_key(&self, key: &Key) -> bool {
        self.keys.lock().contains_key(key)
    }
}

impl Uploads {
    /// The dead draft that holds a part with this content.
    fn donor_of(&self, fingerprint: &Fingerprint) -> Option<DraftId> {
        // Lock order: index, then what is lent, then the dead, then the journal's state.
        let mut index = self.donors.index.lock();
        let index = index.get_or_insert_with(|| {
            let lent = self.donors.lent.look(|donated| donated.draft);
            let dead = self.dead.lock();
            let ids: BTreeSet<DraftId> = dead.iter().copied().chain(lent).collect();
            let state = self.journal.snapshot();
            let drafts = ids.iter().filter_map(|id| Some((*id, state.drafts.get(id)?)));
            let uploads = drafts.filter(|(_, draft)| draft.upload.is_some());
            uploads
                .flat_map(|(id, draft)| {
                    draft.parts.values().filter_map(move |part| Some((part.fingerprint?, id)))
                })
                .collect()
        });
        index.get(fingerprint).copied()
    }

    /// The dead upload as a donor, or as what cannot be one; held until the lease is given back. `None` where
    /// another has it.
    async fn donor(
        self: &Arc<Self>,
        draft: DraftId,
    ) -> Result<Option<Lease<Donated>>, UploadError> {
        let new = || {
            let donated = Donated { draft, made: tokio::sync::OnceCell::new() };
            self.claim(draft).then_some(donated)
        };
        let Some(lease) = Lending::lend_or(self, |donated| donated.draft == draft, new) else {
            return Ok(None);
        };
        match lease.made.get_or_try_init(|| self.make_donor(draft)).await {
            Ok(Some(_)) => {}
            // It cannot serve, but it is nobody's: to be listed and ended.
            Ok(None) => self.not_a_donor(draft),
            Err(error) => {
                // The next part may try again.
                lease.give_back().await;
                return Err(error);
            }
        }
        Ok(Some(lease))
    }

    /// The key of a dead upload that did not become a donor is nobody's secret.
    fn not_a_donor(&self, draft: DraftId) {
        self.donors.keys.lock().retain(|_, of| *of != draft);
        self.note_if_dead(draft);
    }

    async fn make_donor(&self, draft: DraftId) -> Result<Option<Donor>, UploadError> {
        let Some(dead) = self.journal.read(|state| state.drafts.get(&draft).cloned()) else {
            return Ok(None);
        };
        let Some(key) = dead.upload.as_ref().map(|upload| upload.key.clone()) else {
            return Ok(None);
        };
        if let Some(completing) = &dead.completing {
            return match self.fate(draft, completing, Proof::Content).await? {
                Fate::Became(etag) => {
                    let parts = dead.stored_parts();
                    let donor = donor_from(draft, key, &dead, &parts, etag);
                    Ok(Some(Donor { kept: true, ..donor }))
                }
                // Never completed, or gone: its own key's next upload, or expiry, sees to it.
                Fate::Open | Fate::Gone => Ok(None),
            };
        }
        self.donors.keys.lock().insert(key.clone(), draft);
        if dead.published.is_some() {
            return self.published_donor(draft, &key, &dead).await;
        }
        if self.head_if_there(&key).await?.is_some() {
            return Ok(None);
        }
        let Some(Adopted { upload_id, mark, known, .. }) = self.reconcile(draft).await? else {
            return Ok(None);
        };
        let parts: Vec<StoredPart> = usable(known.values().map(|known| known.part.clone()));
        if parts.is_empty() {
            return Ok(None);
        }
        self.journal.append(Record::DraftPublished { draft, etag: None })?;
        let conditional = self.store.capabilities().conditional_writes;
        let absent = if conditional { Precondition::Absent } else { Precondition::None };
        let etag = self.complete_marked(&key, &upload_id, &parts, &absent, mark.as_ref()).await?;
        self.journal.append(Record::DraftPublished { draft, etag: Some(etag.clone()) })?;
        Ok(Some(donor_from(draft, key, &dead, &parts, etag)))
    }

    /// A donor that an earlier mount made, if it still is what that mount left.
    async fn published_donor(
        &self,
        draft: DraftId,
        key: &Key,
        dead: &DraftState,
    ) -> Result<Option<Donor>, UploadError> {
        let Some(head) = self.head_if_there(key).await? else { return Ok(None) };
        let parts = usable(dead.stored_parts().into_iter());
        let len: u64 = parts.iter().map(|part| part.len).sum();
        let mark = dead.upload.as_ref().and_then(|upload| upload.mark());
        let is_marked = mark.is_some() && head.mark() == mark;
        let known = dead.published.as_ref().and_then(|etag| etag.as_ref());
        // What has its ETag serves, whoever made it.
        if head.len != len || !(is_marked || known == Some(&head.etag)) {
            return Ok(None);
        }
        Ok(Some(donor_from(draft, key.clone(), dead, &parts, head.etag)))
    }

    /// The last user of a donor is done.
    async fn end_donor(&self, donor: &Donor) {
        let draft = donor.draft;
        let deleted = match donor.kept {
            true => Ok(()),
            false => self.delete_if_marked(&donor.key, donor.mark.as_ref()).await,
        };
        self.donors.keys.lock().remove(&donor.key);
        match deleted {
            Ok(()) => {
                if let Err(error) = self.journal.append(Record::DraftEnded { draft }) {
                    log::warn!("the journal cannot be written: {error}");
                }
            }
            // The journal keeps it: the next mount, or expiry, deletes it.
            Err(error) => log::warn!("{} could not be deleted yet: {error}", donor.key),
        }
        self.release(draft);
    }

    /// Deletes the key's object if it has this mark. Without a mark nothing tells it from another client's.
    async fn delete_if_marked(&self, key: &Key, mark: Option<&Mark>) -> Result<(), StoreError> {
        let Some(head) = self.head_if_there(key).await? else { return Ok(()) };
        if mark.is_some() && head.mark().as_ref() == mark {
            return self.store.delete(key).await;
        }
        log::warn!(
            "{key} stays: nothing shows that an interrupted upload of this machine has made it"
        );
        Ok(())
    }

    /// Deletes the object that a dead upload was turned into, if it still is that object.
    pub(super) async fn delete_published(&self, dead: &DraftState) -> Result<(), UploadError> {
        let Some(upload) = &dead.upload else { return Ok(()) };
        let abort = async || self.store.abort_upload(&upload.key, &upload.id).await;
        if dead.completing.is_some() {
            // A file, if it is an object at all.
            return Ok(abort().await?);
        }
        if !matches!(dead.published, Some(Some(_))) {
            // Killed between the intention and the answer: it may still be open.
            abort().await?;
        }
        Ok(self.delete_if_marked(&upload.key, upload.mark().as_ref()).await?)
    }
}

impl Upload {
    /// Copies part `number` from a dead upload of another key that holds the same bytes.
    pub(super) async fn copy_from_donor(
        &self,
        number: u32,
        fingerprint: &Fingerprint,
        seal: Seal,
    ) -> Result<Option<StoredPart>, UploadError> {
        if !self.uploads.store.capabilities().copies_parts {
            return Ok(None);
        }
        let Some(draft) = self.uploads.donor_of(fingerprint) else {
            return Ok(None);
        };
        let Some(donated) = self.borrow(draft).await? else {
            return Ok(None);
        };
        let Some(Some(donor)) = donated.made.get() else {
            return Ok(None);
        };
        let Some(range) = donor.places.get(fingerprint).copied() else {
            return Ok(None);
        };
        match self.copy_part_as(number, &donor.key, &donor.etag, range, *fingerprint, seal).await {
            Ok(part) => Ok(Some(part)),
            Err(UploadError::Store(error))
                if matches!(
                    error.kind,
                    ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::PreconditionFailed
                ) =>
            {
                log::info!("part {number} of {} is sent, not copied: {error}", self.key);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What was made of `draft`, held until this upload ends.
    async fn borrow(&self, draft: DraftId) -> Result<Option<Arc<Lease<Donated>>>, UploadError> {
        let held = |donors: &[Arc<Lease<Donated>>]| {
            donors.iter().find(|donated| donated.draft == draft).cloned()
        };
        if let Some(donated) = held(&self.donors.lock()) {
            return Ok(Some(donated));
        }
        // A donor that cannot be made costs sending the part, never the file.
        let lease = match self.uploads.donor(draft).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return Ok(None),
            Err(UploadError::Store(error)) => {
                log::info!("the parts of a dead upload cannot be copied: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut donors = self.donors.lock();
        Ok(Some(held(&donors).unwrap_or_else(|| {
            let lease = Arc::new(lease);
            donors.push(lease.clone());
            lease
        })))
    }
}

/// The parts that can be completed together: only the last may be short.
fn usable(parts: impl Iterator<Item = StoredPart>) -> Vec<StoredPart> {
    let parts: BTreeMap<u32, StoredPart> = parts.map(|part| (part.number, part)).collect();
    let last = parts.keys().next_back().copied();
    parts
        .into_values()
        .filter(|part| part.len >= PART_BYTES_MIN || Some(part.number) == last)
        .collect()
}

fn donor_from(
    draft: DraftId,
    key: Key,
    dead: &DraftState,
    parts: &[StoredPart],
    etag: ETag,
) -> Donor {
    let mut start = 0;
    let mut places = HashMap::new();
    for part in parts {
        let range = ByteRange::at(start, part.len);
        start = range.end();
        let recorded = dead.parts.get(&part.number);
        if let Some(fingerprint) = recorded.and_then(|recorded| recorded.fingerprint) {
            places.insert(fingerprint, range);
        }
    }
    let mark = dead.upload.as_ref().and_then(|upload| upload.mark());
    Donor { draft, key, etag, mark, places, kept: false }
}
