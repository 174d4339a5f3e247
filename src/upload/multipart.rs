//! One multipart upload, and how each of its parts comes to be in it.
//!
//! Consistency: a part is journaled after its ETag came. Retries, Cancellation, Crash: see [`super`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::donor::Donated;
use super::fate::{Proof, is_repeated};
use super::fingerprint::{fingerprint_of, fingerprint_of_copy};
use super::lease::Lease;
use super::zeros::ZeroObject;
use super::{UploadError, Uploads};
use crate::clock;
use crate::journal::{Completing, DraftId, Fingerprint, Record};
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::retry::settle::multipart_etag;
use crate::store::{
    ETag, ErrorKind, Key, Mark, PartBody, Precondition, StoreError, StoredPart, UploadId,
    WriteOptions,
};

/// How what is sent stands to what a crash would bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// It is what was sealed last, or nothing was.
    Same,
    /// It was written since.
    Older,
}

/// A part of an open upload: what the journal and the store agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPart {
    pub part: StoredPart,
    /// Of the content, or of what was copied.
    pub fingerprint: Option<Fingerprint>,
}

/// One multipart upload.
pub struct Upload {
    pub(super) uploads: Arc<Uploads>,
    pub(super) key: Key,
    pub(super) draft: DraftId,
    pub(super) options: WriteOptions,
    pub(super) open: Mutex<Open, rank::Upload>,
    pub(super) restarting: tokio::sync::Mutex<()>,
    pub(super) resumed: AtomicU32,
    /// Completed, aborted or given up: whatever is still on its way must not begin it again.
    pub(super) ended: AtomicBool,
    /// Donors that parts were copied from; let go when this upload ends.
    pub(super) donors: Mutex<Vec<Arc<Lease<Donated>>>, rank::CopySources>,
    /// What holes are copied from; the same.
    pub(super) zeros: Mutex<Option<Arc<Lease<ZeroObject>>>, rank::Zeros>,
    /// The object completed before that parts are copied from, looked at last.
    pub(super) seen: tokio::sync::Mutex<Option<(Key, ETag)>>,
}

pub(super) struct Open {
    pub(super) upload_id: UploadId,
    /// What its object will be known by.
    pub(super) mark: Option<Mark>,
    /// Counts restarts: parts sent to an earlier epoch are void.
    pub(super) epoch: u64,
    pub(super) known: BTreeMap<u32, KnownPart>,
}

impl Upload {
    /// Parts that did not have to be sent again.
    pub fn parts_resumed(&self) -> u32 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// What the upload was begun with: metadata cannot change later.
    pub fn options(&self) -> &WriteOptions {
        &self.options
    }

    /// Whether the store holds exactly this part.
    pub fn holds(&self, part: &StoredPart) -> bool {
        self.open.lock().known.get(&part.number).is_some_and(|known| known.part == *part)
    }

    /// How often the upload was begun again because the store had forgotten it.
    pub fn restarts(&self) -> u64 {
        self.open.lock().epoch
    }

    /// Makes `body` part `number`, by the cheapest way: it is there already; an object completed before, or
    /// a dead upload, holds the same bytes; or it is sent.
    pub async fn store_part(
        &self,
        number: u32,
        body: PartBody,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        let fingerprint = fingerprint_of(&body).await?;
        if let Some(part) = self.known_part(number, &fingerprint) {
            self.count_resumed(&part);
            return Ok(part);
        }
        let copied = match self.copy_from_content(number, &fingerprint, seal).await? {
            Some(part) => Some(part),
            None => self.copy_from_donor(number, &fingerprint, seal).await?,
        };
        if let Some(part) = copied {
            self.count_resumed(&part);
            return Ok(part);
        }
        let (upload_id, epoch) = self.current();
        let len = body.len();
        let sent = self.uploads.store.upload_part(&self.key, &upload_id, number, body).await;
        let etag = self.restart_if_forgotten(sent, epoch).await?;
        self.uploads.counters.sent_bytes.fetch_add(len, Ordering::Relaxed);
        self.acknowledge(StoredPart { number, etag, len }, Some(fingerprint), seal, epoch)
    }

    /// Makes a range of an object of the bucket part `number`, copied inside the store.
    pub async fn copy_part(
        &self,
        number: u32,
        source: &Key,
        etag: &ETag,
        range: ByteRange,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        let fingerprint = fingerprint_of_copy(etag, range);
        if let Some(part) = self.known_part(number, &fingerprint) {
            return Ok(part);
        }
        self.copy_part_as(number, source, etag, range, fingerprint, seal).await
    }

    pub(super) async fn copy_part_as(
        &self,
        number: u32,
        source: &Key,
        source_etag: &ETag,
        range: ByteRange,
        fingerprint: Fingerprint,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        let (upload_id, epoch) = self.current();
        let copied = self
            .uploads
            .store
            .upload_part_copy(&self.key, &upload_id, number, source, source_etag, range)
            .await;
        let etag = self.restart_if_forgotten(copied, epoch).await?;
        self.uploads.counters.copied_bytes.fetch_add(range.len(), Ordering::Relaxed);
        self.acknowledge(
            StoredPart { number, etag, len: range.len() },
            Some(fingerprint),
            seal,
            epoch,
        )
    }

    /// Turns the parts into the object. Before, the journal says what is about to be, so that the object is
    /// known for ours whatever happens. The draft's owner journals what it goes on with, then
    /// [`Upload::end`]s this.
    pub async fn complete(
        &self,
        parts: &[StoredPart],
        seal: Seal,
        precondition: &Precondition,
    ) -> Result<ETag, UploadError> {
        let (upload_id, epoch) = self.current();
        let completing = self.journal_completing(parts, seal)?;
        let done =
            self.uploads.store.complete_upload(&self.key, &upload_id, parts, precondition).await;
        let proof = Proof::under(precondition);
        if let Err(error) = &done
            && is_repeated(error)
            && let Some(etag) = self.uploads.became(&self.key, &completing, proof).await?
        {
            log::info!("{}: an earlier completion had taken effect", self.key);
            self.remember(parts, &etag);
            return Ok(etag);
        }
        let etag = self.restart_if_forgotten(done, epoch).await?;
        self.remember(parts, &etag);
        Ok(etag)
    }

    /// What the completion of these parts makes of the file.
    pub fn completing(&self, parts: &[StoredPart], seal: Seal) -> Completing {
        let len = parts.iter().map(|part| part.len).sum();
        let mut metadata = self.options.metadata.clone();
        if let Some(mark) = &self.open.lock().mark {
            mark.put_into(&mut metadata);
        }
        Completing {
            len,
            base_len: len,
            newer: seal == Seal::Older,
            etag: multipart_etag(parts).map(|etag| ETag::new(&etag)),
            metadata,
            content_type: self.options.content_type.clone(),
            carried: self.options.carried.clone().unwrap_or_default(),
            time: clock::wall(),
        }
    }

    /// Journals what is about to be completed; parts that are not in it end here.
    fn journal_completing(
        &self,
        parts: &[StoredPart],
        seal: Seal,
    ) -> Result<Completing, UploadError> {
        let completing = self.completing(parts, seal);
        let meant: HashSet<u32> = parts.iter().map(|part| part.number).collect();
        let mut records: Vec<Record> = self.uploads.journal.read(|state| {
            let known = state.drafts.get(&self.draft).map(|draft| draft.parts.keys());
            let others = known.into_iter().flatten().filter(|number| !meant.contains(number));
            others
                .map(|number| Record::PartDropped { draft: self.draft, number: *number })
                .collect()
        });
        records.push(Record::DraftCompleting {
            draft: self.draft,
            len: completing.len,
            base_len: completing.base_len,
            newer: completing.newer,
            etag: completing.etag.clone(),
            metadata: completing.metadata.clone(),
            content_type: completing.content_type.clone(),
            time: completing.time,
        });
        self.uploads.journal.append_all(&records)?;
        Ok(completing)
    }

    /// The upload is the object: what served to make it is let go.
    pub async fn end(&self) {
        self.given_up().await;
        let parts: HashSet<Fingerprint> =
            self.open.lock().known.values().filter_map(|known| known.fingerprint).collect();
        self.uploads.end_contained_in(&parts).await;
    }

    /// The upload is over, or another's: nothing more of it is wanted by this one.
    pub async fn given_up(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let donors = std::mem::take(&mut *self.donors.lock());
        // A part that is still being copied gives it back when it drops it.
        for lease in donors.into_iter().filter_map(Arc::into_inner) {
            lease.give_back().await;
        }
        let zeros = self.zeros.lock().take();
        if let Some(lease) = zeros.and_then(Arc::into_inner) {
            lease.give_back().await;
        }
    }

    fn count_resumed(&self, part: &StoredPart) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
        self.uploads.counters.resumed_bytes.fetch_add(part.len, Ordering::Relaxed);
    }

    fn current(&self) -> (UploadId, u64) {
        let open = self.open.lock();
        (open.upload_id.clone(), open.epoch)
    }

    fn known_part(&self, number: u32, fingerprint: &Fingerprint) -> Option<StoredPart> {
        let open = self.open.lock();
        let known = open.known.get(&number)?;
        (known.fingerprint.as_ref() == Some(fingerprint)).then(|| known.part.clone())
    }

    fn acknowledge(
        &self,
        part: StoredPart,
        fingerprint: Option<Fingerprint>,
        seal: Seal,
        epoch: u64,
    ) -> Result<StoredPart, UploadError> {
        {
            let mut open = self.open.lock();
            if open.epoch != epoch {
                return Err(UploadError::Restarted);
            }
            open.known.insert(part.number, KnownPart { part: part.clone(), fingerprint });
        }
        self.uploads.journal.append(Record::PartStored {
            draft: self.draft,
            number: part.number,
            len: part.len,
            etag: part.etag.clone(),
            fingerprint,
            unsealed: seal == Seal::Older,
        })?;
        Ok(part)
    }

    /// Passes `answer` on, unless the store has forgotten the upload: then a new one is begun (by the
    /// first that notices) and everybody is told.
    async fn restart_if_forgotten<T>(
        &self,
        answer: Result<T, StoreError>,
        epoch: u64,
    ) -> Result<T, UploadError> {
        match answer {
            Err(error)
                if error.kind == ErrorKind::NoSuchUpload && !self.ended.load(Ordering::Relaxed) =>
            {
                let _turn = self.restarting.lock().await;
                if self.current().1 == epoch {
                    log::warn!("the store has forgotten an upload of {}: sending again", self.key);
                    self.uploads.journal.append(Record::UploadLost { draft: self.draft })?;
                    let (upload_id, mark) =
                        self.uploads.begin(&self.key, self.draft, &self.options).await?;
                    let known = BTreeMap::new();
                    *self.open.lock() = Open { upload_id, mark, epoch: epoch + 1, known };
                }
                Err(UploadError::Restarted)
            }
            other => Ok(other?),
        }
    }
}
