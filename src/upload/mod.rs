//! Multipart uploads: begun once, gone on with after a crash, and never fed the same part twice.
//!
//! An upload that a crash or a failed close left behind is *dead*: the journal still knows it and its
//! acknowledged parts. A new upload of the same key adopts the dead one; a new upload of any other key
//! that produces a part which a dead upload holds has it copied inside the store (see [`donor`]), and so has
//! one that produces a part of an object completed before (see [`content`]).
//!
//! Consistency: an upload id is journaled before its first part is sent, a part after its ETag came; with the id,
//! the mark that its object will have, by which that is known for ours and nothing else is.
//! What the journal says of an adopted upload is believed only where ListParts agrees.
//! Retries: the store's own; an upload that the store forgot is begun again, once, and its parts are
//! asked of the caller again ([`UploadError::Restarted`]).
//! Cancellation: dropping a future leaves at most a part that the store has and the journal has not.
//! Crash: costs only what was not acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use crate::clock;
use crate::journal::{Draft as DraftState, DraftId, Journal, Record};
use crate::lock::{Mutex, rank};
use crate::part::PartPlan;
use crate::store::{
    Created, ErrorKind, Key, Mark, SharedStore, StoreError, UploadId, WriteOptions,
};

mod asked;
mod content;
mod dead;
mod donor;
mod fate;
mod fingerprint;
mod lease;
mod multipart;
mod zeros;

use asked::Unheard;
use content::Moves;
pub use content::Moving;
use dead::Adopted;
pub use dead::{DeadUpload, describe};
pub use fate::{Fate, Proof};
pub use fingerprint::Fingerprinter;
pub use multipart::{KnownPart, Seal, Upload};
pub use zeros::ASIDE_PREFIX;

use donor::Donors;
use multipart::Open;
use zeros::Zeros;

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
    /// Drafts that the journal knows and nobody has. Few, however many files wait for their upload: who looks
    /// through them all does so for each file that is published.
    dead: Mutex<BTreeSet<DraftId>, rank::Interrupted>,
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
            // What somebody takes up again is claimed by him.
            dead: Mutex::new(journal.read(|state| state.drafts.keys().copied().collect())),
            journal,
            counters: UploadCounters::default(),
            options,
        })
    }

    /// A digest of what every upload of this mount is begun with.
    pub fn options_digest(&self) -> u64 {
        self.options
    }

    /// Marks a draft as somebody's: it is neither dead nor a donor until it is released. `false` where it was
    /// not dead: somebody has it already, or it is new or ended.
    pub fn claim(&self, draft: DraftId) -> bool {
        self.dead.lock().remove(&draft)
    }

    /// The draft's owner is gone; what it left in the store may serve others. Nothing may be recorded of it after
    /// this but by who claims it.
    pub fn release(&self, draft: DraftId) {
        self.note_if_dead(draft);
        self.donors.forget_index();
    }

    fn note_if_dead(&self, draft: DraftId) {
        let mut dead = self.dead.lock();
        if self.journal.read(|state| state.drafts.contains_key(&draft)) {
            dead.insert(draft);
        }
    }

    /// What the journal knows of the drafts that are nobody's and that `wanted` takes, oldest first.
    pub fn dead_drafts<T>(&self, wanted: impl Fn(DraftId, &DraftState) -> Option<T>) -> Vec<T> {
        // In this order: the journal's lock is the last.
        let dead = self.dead.lock();
        if dead.is_empty() {
            return Vec::new();
        }
        self.journal
            .read(|state| dead.iter().filter_map(|id| wanted(*id, state.drafts.get(id)?)).collect())
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
        let (upload_id, mark) = self.begin(&wanted.key, wanted.draft, &wanted.options).await?;
        Ok(self.upload(wanted, Open { upload_id, mark, epoch: 0, known: BTreeMap::new() }))
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
        let Adopted { upload_id, mark, known, options } = adopted;
        self.upload(UploadPlan { options, ..wanted }, Open { upload_id, mark, epoch: 0, known })
    }

    fn upload(self: &Arc<Self>, wanted: UploadPlan, open: Open) -> Arc<Upload> {
        Arc::new(Upload {
            uploads: self.clone(),
            key: wanted.key,
            draft: wanted.draft,
            options: wanted.options,
            open: Mutex::new(open),
            restarting: tokio::sync::Mutex::new(()),
            resumed: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            donors: Mutex::new(Vec::new()),
            zeros: Mutex::new(None),
            seen: tokio::sync::Mutex::new(None),
        })
    }

    /// Begins an upload with a mark of its own.
    async fn begin(
        &self,
        key: &Key,
        draft: DraftId,
        options: &WriteOptions,
    ) -> Result<(UploadId, Option<Mark>), UploadError> {
        let options = options.clone().marked();
        let time = clock::wall();
        // A number of its own: a draft that a crash interrupted here asks again.
        let ask = self.journal.next_draft_id();
        self.journal.append(Record::UploadAsked { draft: ask, key: key.clone(), time })?;
        let Created { upload_id, perhaps_twice } =
            match self.store.create_upload(key, &options).await {
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
        let carried = options.carried.clone().filter(|carried| !carried.is_nothing());
        let carries = carried.map(|carried| Record::DraftCarries { draft, carried });
        let mut records: Vec<Record> = carries.into_iter().collect();
        records.push(Record::UploadBegun {
            draft,
            upload_id: upload_id.clone(),
            metadata: options.metadata.clone(),
            content_type: options.content_type.clone(),
        });
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
        Ok((upload_id, options.mark()))
    }
}
