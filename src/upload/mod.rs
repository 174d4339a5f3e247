//! Multipart uploads: begun once, gone on with after a crash, and never fed the same part twice.
//!
//! An upload that a crash or a failed close left behind is *dead*: the journal still knows it and its
//! acknowledged parts. A new upload of the same key adopts the dead one; a new upload of any other key
//! that produces a part which a dead upload holds has it copied inside the store (see [`donor`]), and so has
//! one that produces a part of an object completed before (see [`content`]).
//!
//! Consistency: an upload id is journaled before its first part is sent, a part after its ETag came.
//! What the journal says of an adopted upload is believed only where ListParts agrees.
//! Retries: the store's own; an upload that the store forgot is begun again, once, and its parts are
//! asked of the caller again ([`UploadError::Restarted`]).
//! Cancellation: dropping a future leaves at most a part that the store has and the journal has not.
//! Crash: costs only what was not acknowledged.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::journal::{Completing, DraftId, Fingerprint, Journal, Record};
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::store::retry::settle::multipart_etag;
use crate::store::{
    Created, ETag, ErrorKind, Key, PartBody, Precondition, SharedStore, StoreError, StoredPart,
    UploadId, WriteOptions,
};

mod asked;
mod content;
mod dead;
mod deletions;
mod donor;
mod fate;
mod order;
mod zeros;

use asked::Unheard;
use content::Moves;
use dead::Adopted;
pub use dead::{DeadUpload, describe};
pub use deletions::Deletions;
pub use fate::{Fate, is_the_same};
pub use order::Ordered;
pub use zeros::ASIDE_PREFIX;

use donor::{Donor, Donors};
use zeros::{ZeroObject, Zeros};

/// The fingerprint of a part's bytes: collision-resistant, so equal fingerprints mean equal bytes.
/// BLAKE3 costs a ninth of what SHA-256 does on this kind of machine.
pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Fingerprint(*blake3::hash(bytes).as_bytes())
}

/// Of a part that was copied inside the store: its bytes are not known here, but where they came from.
fn fingerprint_of_copy(etag: &ETag, range: ByteRange) -> Fingerprint {
    let mut hasher = blake3::Hasher::new_derive_key("ratchetfs: a part copied from an object");
    hasher.update(&range.start().to_le_bytes());
    hasher.update(&range.len().to_le_bytes());
    hasher.update(etag.as_str().to_ascii_lowercase().as_bytes());
    Fingerprint(*hasher.finalize().as_bytes())
}

async fn fingerprint_of(body: &PartBody) -> std::io::Result<Fingerprint> {
    /// Bytes read at a time.
    const READ_BYTES: u64 = 1 << 20;
    let source = match body {
        PartBody::Whole(bytes) => return Ok(fingerprint(bytes)),
        PartBody::Read(source) => source,
    };
    let mut hasher = Fingerprinter::default();
    let whole = ByteRange::new(0, source.len());
    let mut at = 0;
    while at < whole.end() {
        let bytes = source.read(ByteRange::at(at, READ_BYTES).intersect(&whole)).await?;
        if bytes.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&bytes);
        at += bytes.len() as u64;
    }
    Ok(hasher.finish())
}

/// [`fingerprint`], of bytes that come piece by piece.
#[derive(Default)]
pub struct Fingerprinter(blake3::Hasher);

impl Fingerprinter {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(&self) -> Fingerprint {
        Fingerprint(*self.0.finalize().as_bytes())
    }
}

/// Why a part or an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("local disk: {0}")]
    Journal(#[from] std::io::Error),
    /// The store has forgotten the upload; a new one is open and holds no parts yet.
    #[error("the store has forgotten the upload")]
    Restarted,
}

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

/// Bytes that uploads moved, or did not have to move, since the mount.
#[derive(Debug, Default)]
pub struct UploadCounters {
    pub sent_bytes: AtomicU64,
    /// Acknowledged before a crash, and not sent again.
    pub resumed_bytes: AtomicU64,
    /// Copied inside the store.
    pub copied_bytes: AtomicU64,
}

/// All uploads of a mount: the live ones, and the dead ones that wait to be gone on with.
pub struct Uploads {
    store: SharedStore,
    journal: Arc<Journal>,
    /// Drafts whose journal records belong to somebody now; the others with an upload are dead.
    claimed: Mutex<HashSet<DraftId>>,
    donors: Donors,
    zeros: Zeros,
    moves: Moves,
    /// What the store was asked for without our hearing of it, by this mount or an earlier one.
    unheard: Unheard,
    pub counters: UploadCounters,
    /// A digest of the mount's fixed upload options: an upload begun with others is not adopted.
    options: u64,
}

/// What a new upload is for.
pub struct UploadPlan {
    pub draft: DraftId,
    pub key: Key,
    pub plan: PartPlan,
    pub options: WriteOptions,
}

impl Uploads {
    /// `helpers`: what the keys of temporary objects begin with.
    pub fn new(
        store: SharedStore,
        journal: Arc<Journal>,
        helpers: Key,
        options: u64,
    ) -> Arc<Uploads> {
        Arc::new(Uploads {
            donors: Donors::new(&journal),
            zeros: Zeros::new(helpers),
            moves: Moves::default(),
            store,
            unheard: Unheard::new(&journal),
            journal,
            claimed: Mutex::new(HashSet::new()),
            counters: UploadCounters::default(),
            options,
        })
    }

    /// A digest of what every upload of this mount is begun with.
    pub fn options_digest(&self) -> u64 {
        self.options
    }

    /// Marks a draft as somebody's: it is neither dead nor a donor until it is released.
    pub fn claim(&self, draft: DraftId) -> bool {
        self.claimed.lock().insert(draft)
    }

    /// The draft's owner is gone; what it left in the store may serve others.
    pub fn release(&self, draft: DraftId) {
        self.claimed.lock().remove(&draft);
        self.donors.forget_index();
    }

    /// The drafts that are somebody's now. To be asked before the journal, whose lock comes after this one.
    pub fn claimed(&self) -> HashSet<DraftId> {
        self.claimed.lock().clone()
    }

    /// Whether an object is only there to be copied from, and will be deleted.
    pub fn is_donor_key(&self, key: &Key) -> bool {
        self.donors.holds_key(key)
    }

    /// Opens an upload: a dead one of the same key and plan is adopted, otherwise one is begun.
    pub async fn open(self: &Arc<Self>, wanted: UploadPlan) -> Result<Arc<Upload>, UploadError> {
        if let Some(adopted) = self.adopt(&wanted).await? {
            return Ok(self.go_on(wanted, adopted));
        }
        let upload_id = self.begin(&wanted.key, wanted.draft, &wanted.options).await?;
        Ok(self.upload(wanted, upload_id, BTreeMap::new()))
    }

    /// Goes on with the upload that `draft` itself began before a crash, where the store still has it.
    pub async fn reopen(self: &Arc<Self>, wanted: UploadPlan) -> Result<Arc<Upload>, UploadError> {
        if let Some(adopted) = self.reconcile(wanted.draft).await? {
            return Ok(self.go_on(wanted, adopted));
        }
        self.open(wanted).await
    }

    /// The upload has the metadata that it was begun with, whatever is wanted by now.
    fn go_on(self: &Arc<Self>, wanted: UploadPlan, adopted: Adopted) -> Arc<Upload> {
        let wanted = UploadPlan { options: adopted.options, ..wanted };
        self.upload(wanted, adopted.upload_id, adopted.known)
    }

    fn upload(
        self: &Arc<Self>,
        wanted: UploadPlan,
        upload_id: UploadId,
        known: BTreeMap<u32, KnownPart>,
    ) -> Arc<Upload> {
        Arc::new(Upload {
            uploads: self.clone(),
            key: wanted.key,
            draft: wanted.draft,
            options: wanted.options,
            open: Mutex::new(Open { upload_id, epoch: 0, known }),
            restarting: tokio::sync::Mutex::new(()),
            resumed: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            donors: Mutex::new(Vec::new()),
            zeros: Mutex::new(None),
            seen: tokio::sync::Mutex::new(None),
        })
    }

    async fn begin(
        &self,
        key: &Key,
        draft: DraftId,
        options: &WriteOptions,
    ) -> Result<UploadId, UploadError> {
        let time = SystemTime::now();
        // A number of its own: a draft that a crash interrupted here asks again.
        let ask = self.journal.next_draft_id();
        self.journal.append(Record::UploadAsked { draft: ask, key: key.clone(), time })?;
        let Created { upload_id, perhaps_twice } =
            match self.store.create_upload(key, options).await {
                Ok(created) => created,
                Err(error) => {
                    if error.kind.is_refusal() || error.kind == ErrorKind::Throttled {
                        self.journal.append(Record::UploadAnswered { draft: ask })?;
                    } else {
                        // It may have been begun all the same.
                        self.unheard.add(ask, key, time);
                    }
                    return Err(error.into());
                }
            };
        let mut records = vec![Record::UploadBegun {
            draft,
            upload_id: upload_id.clone(),
            metadata: options.metadata.clone(),
            content_type: options.content_type.clone(),
        }];
        if perhaps_twice {
            self.unheard.add(ask, key, time);
        } else {
            records.push(Record::UploadAnswered { draft: ask });
        }
        if let Err(error) = self.journal.append_all(&records) {
            // Nobody would ever find this upload again.
            if let Err(abort) = self.store.abort_upload(key, &upload_id).await {
                log::warn!("an upload of {key} stays behind in the store: {abort}");
            }
            return Err(error.into());
        }
        Ok(upload_id)
    }
}

/// One multipart upload.
pub struct Upload {
    uploads: Arc<Uploads>,
    key: Key,
    draft: DraftId,
    options: WriteOptions,
    open: Mutex<Open>,
    restarting: tokio::sync::Mutex<()>,
    resumed: AtomicU32,
    /// Completed, aborted or given up: whatever is still on its way must not begin it again.
    ended: AtomicBool,
    /// Donors that parts were copied from; let go when this upload ends.
    donors: Mutex<Vec<Arc<Donor>>>,
    /// What holes are copied from; the same.
    zeros: Mutex<Option<Arc<ZeroObject>>>,
    /// The object completed before that parts are copied from, looked at last.
    seen: tokio::sync::Mutex<Option<(Key, ETag)>>,
}

struct Open {
    upload_id: UploadId,
    /// Counts restarts: parts sent to an earlier epoch are void.
    epoch: u64,
    known: BTreeMap<u32, KnownPart>,
}

impl Upload {
    pub fn key(&self) -> &Key {
        &self.key
    }

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

    /// Bytes that the store holds of this upload.
    pub fn stored_bytes(&self) -> u64 {
        self.open.lock().known.values().map(|known| known.part.len).sum()
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

    async fn copy_part_as(
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
        if let Err(error) = &done
            && matches!(error.kind, ErrorKind::NoSuchUpload | ErrorKind::PreconditionFailed)
            && let Some(etag) = self.uploads.became(&self.key, &completing).await?
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
        Completing {
            len,
            base_len: len,
            newer: seal == Seal::Older,
            etag: multipart_etag(parts).map(|etag| ETag::new(&etag)),
            metadata: self.options.metadata.clone(),
            content_type: self.options.content_type.clone(),
            time: SystemTime::now(),
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
        for donor in donors {
            self.uploads.let_go(donor).await;
        }
        let zeros = self.zeros.lock().take();
        if let Some(zeros) = zeros {
            self.uploads.let_go_of_zeros(zeros).await;
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
                    let upload_id =
                        self.uploads.begin(&self.key, self.draft, &self.options).await?;
                    let mut open = self.open.lock();
                    *open = Open { upload_id, epoch: epoch + 1, known: BTreeMap::new() };
                }
                Err(UploadError::Restarted)
            }
            other => Ok(other?),
        }
    }
}
