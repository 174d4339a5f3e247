//! Writing: a [`Draft`] is the next version of one file, filled by any pattern of writes, sent in
//! parts while the writer goes on, and published as one object.
//!
//! A part of a draft is resident in memory, in the staging file, in the store (as a part of the draft's
//! upload), or still only in the *base*, the object that the draft modifies. `part` says which; `draft`
//! is the whole; `fill` takes bytes in (`parked` keeps those that wait), `readback` gives them out, `send` brings parts to the store,
//! `stage` keeps them on the disk, `publish` makes the object, by
//! steps that `steps` decides upon and `carry_out` carries out.
//!
//! Consistency: the object appears at once or not at all. Retries: the store's; the first failure of a
//! part fails every later call on its draft. Cancellation: a dropped publish can be called again.
//! Crash: what the store acknowledged is adopted by the next upload of the same key or content; what
//! was staged and journaled is read back.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{Budget, Reclaim};
use crate::buffer::Buffer;
use crate::cache::Cache;
use crate::journal::{DraftId, Journal};
use crate::staging::StagingFile;
use crate::store::meter::Meter;
use crate::store::{ErrorKind, SharedStore, StoreError};
use crate::supervise::supervise;
use crate::upload::{UploadError, Uploads};

mod carry_out;
mod content;
mod draft;
mod fill;
mod parked;
mod part;
mod pressure;
mod publish;
mod ranges;
mod readback;
mod restore;
mod send;
#[cfg(test)]
mod send_tests;
mod settle;
mod stage;
mod steps;
mod streamed;

pub use draft::{Base, Draft, DraftProgress, Still};
pub use parked::{Parked, WriteBytes};
pub use publish::{COPY_BYTES_MAX, Published};
pub use ranges::Seek;

/// Why a write, a sync or a close failed. The first failure of a draft is told by all later calls.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("local disk: {0}")]
    Disk(Arc<io::Error>),
    /// The file would not fit into one object with this part size.
    #[error(
        "the file is longer than {0} bytes, the most that an object can hold with this part size"
    )]
    TooLarge(u64),
    /// The object that is being modified was replaced or deleted by somebody else.
    #[error("the object was changed in the store while it was being modified here")]
    Stale,
    /// The file was to be created only if there was none, and somebody created it meanwhile.
    #[error("somebody else has created the object meanwhile")]
    Exists,
    /// Bytes that only the store held are gone from it.
    #[error("the store has lost parts of the unfinished file: write it again")]
    Lost,
    /// What was being done for the file ended in a panic.
    #[error("a fault in this program stopped the upload: write the file again")]
    Panicked,
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        WriteError::Disk(Arc::new(error))
    }
}

impl From<UploadError> for WriteError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Store(error) => WriteError::Store(error),
            UploadError::Journal(error) => error.into(),
            UploadError::Restarted => WriteError::Lost,
        }
    }
}

impl WriteError {
    /// Whether the local disk does not take what it should keep: no room, or an error. Sending it is the way out.
    pub fn is_failing_disk(&self) -> bool {
        // Damage is found in what it should have kept.
        matches!(self, WriteError::Disk(error) if error.kind() != io::ErrorKind::InvalidData)
    }

    /// Whether trying again later, without anybody's help, can end differently.
    pub fn is_passing(&self) -> bool {
        match self {
            WriteError::Store(error) => {
                error.kind.is_retryable() || error.kind == ErrorKind::Offline
            }
            WriteError::Disk(_) | WriteError::TooLarge(_) => false,
            WriteError::Stale | WriteError::Exists => false,
            WriteError::Lost | WriteError::Panicked => false,
        }
    }
}

/// What all drafts of a mount share.
pub struct Writers {
    pub(crate) store: SharedStore,
    pub(crate) journal: Arc<Journal>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) settings: WriterSettings,
    /// By id, which is also the order in which they began.
    drafts: Mutex<BTreeMap<DraftId, Weak<Draft>>>,
    /// Parts that have arrived and that are on their way, of all drafts.
    stored_now: AtomicUsize,
    sending_now: AtomicUsize,
    /// What the journal's state may hold of the content of small files, in bytes.
    journaled_content: Arc<Semaphore>,
    /// Where writes wait for room.
    parking: parked::Parking,
    /// Room for what fills the gaps of buffers, in KiB.
    filling: Semaphore,
    /// The turn of the one file that is read into memory beyond the budget, where the disk takes nothing.
    beyond: Arc<Semaphore>,
    /// Memory is short, and the disk has just taken nothing of it.
    stuck: tokio::sync::watch::Sender<Option<WriteError>>,
    runtime: tokio::runtime::Handle,
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

impl Writers {
    /// Starts the task that stages dirty parts when memory runs short.
    pub fn start(
        store: SharedStore,
        journal: Arc<Journal>,
        budget: Arc<Budget>,
        uploads: Arc<Uploads>,
        cache: Arc<Cache>,
        settings: WriterSettings,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Writers> {
        let held: u64 = journal.read(|state| {
            let sealed = state.drafts.values().filter_map(|draft| draft.sealed());
            sealed.filter_map(|sealed| Some(sealed.content.as_ref()?.len() as u64)).sum()
        });
        let share = journaled_content_max(budget.total()).saturating_sub(held as usize);
        let parking = parked::Parking::new(budget.total(), &settings.staging_folder);
        let writers = Arc::new(Writers {
            store,
            journal,
            budget: budget.clone(),
            uploads,
            cache,
            settings,
            drafts: Mutex::default(),
            stored_now: AtomicUsize::new(0),
            sending_now: AtomicUsize::new(0),
            journaled_content: Arc::new(Semaphore::new(share)),
            parking,
            beyond: Arc::new(Semaphore::new(1)),
            filling: Semaphore::new(carry_out::FILLING_KIB),
            stuck: tokio::sync::watch::Sender::new(None),
            runtime: runtime.clone(),
        });
        let reclaimer: Arc<dyn Reclaim> = writers.clone();
        budget.add_reclaimer(Arc::downgrade(&reclaimer));
        let weak = Arc::downgrade(&writers);
        let stage = move || pressure::stage_under_pressure(weak.clone(), budget.clone());
        supervise(&runtime, "memory", stage);
        writers
    }

    /// Copies the bytes of a write that has to wait for room.
    pub fn park(&self, bytes: &[u8]) -> Parked {
        self.parking.park(bytes)
    }

    fn register(&self, draft: &Arc<Draft>) {
        self.drafts.lock().insert(draft.id, Arc::downgrade(draft));
    }

    fn unregister(&self, draft: DraftId) {
        self.drafts.lock().remove(&draft);
    }

    /// Removes the staging file of a draft that has ended; if it was sealed, when a loss of power cannot bring
    /// it back any more. What cannot be removed now is swept up by the next mount.
    async fn remove_staging(&self, ended: Option<EndedStaging>) {
        let Some(EndedStaging { staging, was_sealed }) = ended else { return };
        let synced = if was_sealed { self.journal.sync_ends().await } else { Ok(()) };
        if let Err(error) = synced.and_then(|()| staging.remove()) {
            log::warn!("a staging file stays behind until the next mount: {error}");
        }
    }

    /// The drafts that are open now.
    pub fn live(&self) -> Vec<Arc<Draft>> {
        self.drafts.lock().values().filter_map(Weak::upgrade).collect()
    }
}

/// So much of the content of small files may be in the journal, and in memory with its state, in bytes: a few
/// thousand files of 4 KiB that wait for their upload. More go to staging files.
fn journaled_content_max(memory: u64) -> usize {
    const LARGEST: u64 = 32 << 20;
    (memory / 16).min(LARGEST) as usize
}

/// The staging file of a draft that has ended.
struct EndedStaging {
    staging: Arc<StagingFile>,
    was_sealed: bool,
}

/// Memory that belongs to a draft, with the permit that pays for it.
pub(crate) struct Held {
    buffer: Buffer,
    _permit: crate::budget::Permit,
    /// Held where it is beyond the budget.
    _turn: Option<OwnedSemaphorePermit>,
}

/// The first bytes of such memory, which nobody writes any more.
struct Frozen {
    held: Arc<Held>,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.held.buffer[..self.len]
    }
}
