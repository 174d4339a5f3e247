//! The draft itself, and what all drafts of a mount share. What is done with a draft is in the modules beside `state`; its methods for
//! the file system are in `writer::draft`.
//!
//! Locks, in order, each with its one reason:
//! - `gate` (async): a change of content holds its read side, so that a publish or a seal, which hold its write side, see
//!   a file that stands still;
//! - `opening` (async): one upload for each draft;
//! - `recording`: the journal hears of the draft in the order in which it changes (`writer::records`). The journal's
//!   file is written under it;
//! - `state`: what a draft is at one moment. stat(2), reads and writes look at it, so nothing waits under it: no
//!   disk, no store, no journal's file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell, RwLock, Semaphore};

use super::content::Content;
use super::draft_state::DraftState;
use super::objects::Base;
use super::transfer::Counts;
use crate::budget::Budget;
use crate::cache::Cache;
use crate::journal::{DraftId, Extent, Journal, Life};
use crate::lock::{Mutex, rank};
use crate::part::PartPlan;
use crate::staging::StagingFile;
use crate::store::SharedStore;
use crate::store::meter::Meter;
use crate::store::{Key, WriteOptions};
use crate::upload::Uploads;
use crate::writer::error::WriteError;
use crate::writer::parked::Parking;

/// What all drafts of a mount share.
pub struct Writers {
    pub(crate) store: SharedStore,
    pub(crate) journal: Arc<Journal>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) settings: WriterSettings,
    /// By id, which is also the order in which they began.
    pub(in crate::writer) drafts: Mutex<BTreeMap<DraftId, Weak<Draft>>, rank::Drafts>,
    /// Of all drafts.
    pub(in crate::writer) counts: Counts,
    /// What the journal's state may hold of the content of small files, in bytes.
    pub(in crate::writer) journaled_content: Arc<Semaphore>,
    /// Where writes wait for room.
    pub(in crate::writer) parking: Parking,
    /// Room for what fills the gaps of buffers, in KiB.
    pub(in crate::writer) filling: Semaphore,
    /// The turn of the one file that is read into memory beyond the budget, where the disk takes nothing.
    pub(in crate::writer) beyond: Arc<Semaphore>,
    /// Memory is short, and the disk has just taken nothing of it.
    pub(in crate::writer) stuck: tokio::sync::watch::Sender<Option<WriteError>>,
    pub(in crate::writer) runtime: tokio::runtime::Handle,
}

#[derive(Clone, Debug)]
pub struct WriterSettings {
    /// Length of an upload's first part, and the longest object that is sent by one PUT, in bytes.
    pub part_bytes: u64,
    /// All parts of an upload must be of one length.
    pub equal_parts: bool,
    /// Parts of one draft that may be on their way at once.
    pub parts_in_flight_max: usize,
    /// Knows how far away the store is.
    pub meter: Arc<Meter>,
    /// Acknowledged parts of one draft that stay in memory, in bytes: programs that seek back to patch
    /// a header or a trailer find them there.
    pub retained_bytes_max: u64,
    /// How long a read of the base may take.
    pub timeout: Duration,
    /// Folder for staging files.
    pub staging_folder: PathBuf,
    /// Files are safe, and closed, once they are on the local disk.
    pub write_back: bool,
}

/// Parts on their way at first, and of those that have arrived, one in how many.
const NEAR: (usize, usize) = (3, 10);
const FAR: (usize, usize) = (12, 4);

impl Writers {
    fn register(&self, draft: &Arc<Draft>) {
        self.drafts.lock().insert(draft.id, Arc::downgrade(draft));
    }

    pub(in crate::writer) fn unregister(&self, draft: DraftId) {
        self.drafts.lock().remove(&draft);
    }

    /// Removes the staging file of a draft that has ended; if it was sealed, when a loss of power cannot bring
    /// it back any more. What cannot be removed now is swept up by the next mount.
    pub(in crate::writer) async fn remove_staging(&self, ended: Option<EndedStaging>) {
        let Some(EndedStaging { staging, was_sealed }) = ended else { return };
        let synced = if was_sealed { self.journal.sync_ends().await } else { Ok(()) };
        if let Err(error) = synced.and_then(|()| staging.remove()) {
            log::warn!("a staging file stays behind until the next mount: {error}");
        }
    }

    /// How many parts may be on their way when so many have arrived. More of them where each connection is
    /// slow, or a far store would be written to at the pace of three.
    pub(in crate::writer) fn parts_in_flight(&self, stored: usize) -> usize {
        let (first, one_in) = if self.settings.meter.first_byte().is_far() { FAR } else { NEAR };
        first.max(stored / one_in)
    }

    /// Parts that have arrived, and that are on their way, of all files being written.
    pub(in crate::writer) fn parts_now(&self) -> (usize, usize) {
        (self.counts.stored.load(Ordering::Relaxed), self.counts.sending.load(Ordering::Relaxed))
    }

    /// Parts longer than this go through the staging file, and are sent from there: a quarter of memory at most, so that
    /// several files get on side by side.
    pub(in crate::writer) fn window_bytes_max(&self) -> u64 {
        const LONGEST: u64 = 64 << 20;
        const SHORTEST: u64 = 1 << 20;
        (self.budget.total() / 4 / SHORTEST * SHORTEST).clamp(SHORTEST, LONGEST)
    }

    /// The drafts that are open now.
    pub fn live(&self) -> Vec<Arc<Draft>> {
        self.drafts.lock().values().filter_map(Weak::upgrade).collect()
    }
}

/// The staging file of a draft that has ended.
pub(in crate::writer) struct EndedStaging {
    pub staging: Arc<StagingFile>,
    pub was_sealed: bool,
}

/// How far a draft has come.
#[derive(Clone, Debug)]
pub struct DraftProgress {
    pub id: DraftId,
    pub key: Key,
    pub len: u64,
    /// Bytes that the store has acknowledged.
    pub stored_bytes: u64,
    pub parts_stored: u32,
    pub parts_sending: u32,
    /// Parts that an earlier run had sent already.
    pub parts_resumed: u32,
    pub closed: bool,
    pub error: Option<String>,
}

/// The next version of one file.
pub struct Draft {
    pub(in crate::writer) writers: Arc<Writers>,
    pub(in crate::writer) id: DraftId,
    pub(in crate::writer) gate: RwLock<()>,
    /// The draft's one upload is opened by the first part that is sealed.
    pub(in crate::writer) opening: tokio::sync::Mutex<()>,
    pub(in crate::writer) recording: Mutex<(), rank::DraftRecords>,
    pub(in crate::writer) state: Mutex<DraftState, rank::Draft>,
    /// A part was acknowledged, failed, or left memory.
    pub(in crate::writer) changed: Notify,
    /// Whether what an earlier process has staged is as it was written: found out once, by the first that needs it.
    pub(in crate::writer) verified: OnceCell<Result<(), WriteError>>,
}

impl Draft {
    /// A draft of `key` that changes `base`, or begins empty.
    pub fn new(
        writers: &Arc<Writers>,
        key: Key,
        base: Option<Base>,
        options: WriteOptions,
    ) -> Arc<Draft> {
        let len = base.as_ref().map_or(0, |base| base.len);
        let id = writers.journal.next_draft_id();
        let settings = &writers.settings;
        let content = Content {
            len,
            base_len: len,
            base,
            plan: PartPlan::new(settings.part_bytes, settings.equal_parts),
            parts: BTreeMap::new(),
            writes: 0,
            staging: None,
            is_readable: settings.write_back,
        };
        let state = DraftState::new(key, options, Life::Open(Extent::Nothing), content);
        Self::with_state(writers, id, state, OnceCell::new_with(Some(Ok(()))))
    }

    pub(in crate::writer) fn with_state(
        writers: &Arc<Writers>,
        id: DraftId,
        state: DraftState,
        verified: OnceCell<Result<(), WriteError>>,
    ) -> Arc<Draft> {
        writers.uploads.interrupted.claim(id);
        let draft = Arc::new(Draft {
            writers: writers.clone(),
            id,
            gate: RwLock::new(()),
            opening: tokio::sync::Mutex::new(()),
            recording: Mutex::default(),
            state: Mutex::new(state),
            changed: Notify::new(),
            verified,
        });
        writers.register(&draft);
        draft
    }

    pub fn id(&self) -> DraftId {
        self.id
    }

    pub fn key(&self) -> Key {
        self.state.lock().key.clone()
    }

    pub fn len(&self) -> u64 {
        self.state.lock().content.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is something to publish.
    pub fn is_dirty(&self) -> bool {
        self.state.lock().life.is_changed()
    }

    /// Work that blocks, on a thread for it.
    pub(in crate::writer) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Draft) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, WriteError> {
        let draft = self.clone();
        crate::blocking::run(move || work(&draft)).await.map_err(std::io::Error::other)?
    }
}

impl Drop for Draft {
    /// A draft that was not published leaves what the store and the disk have of it to be gone on with.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let seal = state.life.sealed_mut();
        if let Some(paid) = seal.and_then(|seal| seal.paid.take())
            && self.writers.journal.read(|state| state.drafts.contains_key(&self.id))
        {
            // The journal still holds it.
            paid.forget();
        }
        state.transfer.uncount(&self.writers.counts);
        self.writers.unregister(self.id);
        self.writers.uploads.interrupted.release(self.id);
    }
}
