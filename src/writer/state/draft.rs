//! The draft itself, and what all drafts of a mount share.
//!
//! Locks, in order: `gate` (async), then `core`, then the journal's. `core` is never held across an
//! await, nor while the disk is read, written or synced: what stat(2) says is under it. Every change of content holds the gate's read side, so that a publish, which holds its write
//! side, sees a file that stands still.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use std::time::Duration;

use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, RwLock, Semaphore};

use super::content::Content;
use super::objects::{Base, Published, Put};
use crate::budget::Budget;
use crate::cache::Cache;
use crate::journal::{Completing, DraftId, Event, Extent, Journal, Life};
use crate::lock::{Mutex, rank};
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::staging::StagingFile;
use crate::store::SharedStore;
use crate::store::meter::Meter;
use crate::store::{ETag, Key, WriteOptions};
use crate::upload::{Upload, Uploads};
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

/// How many parts have arrived, and how many are on their way.
#[derive(Default)]
pub(in crate::writer) struct Counts {
    pub stored: AtomicUsize,
    pub sending: AtomicUsize,
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
    pub(in crate::writer) core: Mutex<Core, rank::Draft>,
    pub(in crate::writer) gate: RwLock<()>,
    /// A part was acknowledged, failed, or left memory.
    pub(in crate::writer) changed: Notify,
    /// The draft's one upload is opened by the first part that is sealed.
    pub(in crate::writer) opening: tokio::sync::Mutex<()>,
    /// Somebody may read what is being written: acknowledged parts go to the staging file, not away.
    keep_readable: AtomicBool,
    /// As those of all drafts have it.
    counts: Counts,
    /// While it is published even readable memory may go, once the store has it.
    pub(in crate::writer) publishing: AtomicBool,
    /// How many want it to [`Draft::stand_still`]. Changes under the core's lock.
    pub(in crate::writer) still: AtomicUsize,
    /// Whether what an earlier process has staged is as it was written: found out once, by the first who needs it.
    pub(in crate::writer) verified: OnceCell<Result<(), WriteError>>,
}

/// As long as it lives, nothing of a draft begins to go to the store, unless it is published. Its writers go on.
pub struct Still {
    pub(in crate::writer) draft: Arc<Draft>,
}

impl Drop for Still {
    fn drop(&mut self) {
        let mut core = self.draft.core.lock();
        self.draft.still.fetch_sub(1, Ordering::Relaxed);
        self.draft.send_waiting(&mut core);
        drop(core);
        self.draft.changed.notify_waiters();
    }
}

/// What a draft is, how far it has come, and what of it is where.
pub(in crate::writer) struct Core {
    pub key: Key,
    pub options: WriteOptions,
    /// Created with O_EXCL and not published yet.
    pub exclusive: bool,
    pub life: Life<LastSeal>,
    pub content: Content,
    pub upload: Option<Arc<Upload>>,
    /// The upload may be the object by now: its completion was not answered.
    pub unsettled: Option<Completing>,
    /// PUTs that may have taken effect, the latest last.
    pub puts: Vec<Put>,
    /// Parts on their way: index and generation. One at a time of each index, or an older answer
    /// could overtake a newer one in the store.
    pub sending: BTreeMap<u32, u64>,
    pub staging: Option<Arc<StagingFile>>,
    pub error: Option<WriteError>,
    /// The object that it has become, until somebody asks.
    pub published: Option<Published>,
}

/// What a draft knows of its seal in the journal.
pub(in crate::writer) struct LastSeal {
    /// The draft's count of writes when it was recorded.
    pub at: u64,
    /// Write-back: its writer has closed it, and was told so.
    pub told: bool,
    /// Pays for the content that the seal has, and the journal's state with it.
    pub paid: Option<OwnedSemaphorePermit>,
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
        };
        let core = Core::new(key, options, Life::Open(Extent::Nothing), content);
        Self::with_core(writers, id, core, OnceCell::new_with(Some(Ok(()))))
    }

    pub(in crate::writer) fn with_core(
        writers: &Arc<Writers>,
        id: DraftId,
        core: Core,
        verified: OnceCell<Result<(), WriteError>>,
    ) -> Arc<Draft> {
        writers.uploads.claim(id);
        let draft = Arc::new(Draft {
            writers: writers.clone(),
            id,
            core: Mutex::new(core),
            gate: RwLock::new(()),
            changed: Notify::new(),
            opening: tokio::sync::Mutex::new(()),
            keep_readable: AtomicBool::new(writers.settings.write_back),
            counts: Counts::default(),
            publishing: AtomicBool::new(false),
            still: AtomicUsize::new(0),
            verified,
        });
        writers.register(&draft);
        draft
    }

    pub fn id(&self) -> DraftId {
        self.id
    }

    pub fn len(&self) -> u64 {
        self.core.lock().content.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn key(&self) -> Key {
        self.core.lock().key.clone()
    }

    /// Whether there is something to publish.
    pub fn is_dirty(&self) -> bool {
        self.core.lock().life.is_changed()
    }

    /// Whether the file is just what this version of its object is.
    pub fn stands_on(&self, etag: &ETag) -> bool {
        let core = self.core.lock();
        !core.life.is_changed() && core.content.base.as_ref().is_some_and(|base| base.etag == *etag)
    }

    /// The object that the draft has become since this was last asked, though it be of a while ago.
    pub fn take_published(&self) -> Option<Published> {
        self.core.lock().published.take()
    }

    /// Write-back: safe on the disk as it is, and waiting for its upload.
    pub fn is_closed(&self) -> bool {
        self.core.lock().is_closed()
    }

    /// The draft's count of writes, when it was last written.
    pub(in crate::writer) fn last_written(&self) -> u64 {
        self.core.lock().content.writes
    }

    /// Forgets a failure that may pass, so that publishing can be tried again.
    pub fn forget_passing_error(&self) {
        let mut core = self.core.lock();
        if core.error.as_ref().is_some_and(WriteError::is_passing) {
            core.error = None;
        }
    }

    /// Forgets any failure: somebody says that its cause is gone.
    pub fn forget_error(&self) {
        self.core.lock().error = None;
    }

    /// Marks the draft as worth publishing though nothing was written: a new, empty file.
    pub fn mark_dirty(&self) {
        self.core.lock().life.apply(Event::Changed);
    }

    /// So many parts have arrived, for the other drafts of the mount to see. Holds the core.
    pub(in crate::writer) fn count_stored(&self, parts: usize) {
        recount(&self.writers.counts.stored, &self.counts.stored, parts);
    }

    /// So many are on their way, likewise.
    pub(in crate::writer) fn count_sending(&self, parts: usize) {
        recount(&self.writers.counts.sending, &self.counts.sending, parts);
    }

    /// From now on somebody may read back what is written.
    pub fn keep_readable(&self) {
        self.keep_readable.store(true, Ordering::Relaxed);
    }

    pub fn is_kept_readable(&self) -> bool {
        self.keep_readable.load(Ordering::Relaxed)
    }

    /// Whether bytes of it are in the store alone, in parts of its upload.
    pub fn needs_the_store(&self) -> bool {
        let core = self.core.lock();
        core.content.parts.values().any(|part| {
            part.stored.as_ref().is_some_and(|stored| {
                !part.written().contains(ByteRange::at(part.range.start(), stored.len))
            })
        })
    }

    pub fn progress(&self) -> DraftProgress {
        let core = self.core.lock();
        let stored = core.content.parts.values().filter_map(|part| part.stored.as_ref());
        DraftProgress {
            id: self.id,
            parts_stored: stored.clone().count() as u32,
            parts_sending: core.sending.len() as u32,
            parts_resumed: core.upload.as_ref().map_or(0, |upload| upload.parts_resumed()),
            key: core.key.clone(),
            len: core.content.len,
            stored_bytes: stored.map(|stored| stored.len).sum(),
            closed: core.is_closed(),
            error: core.error.as_ref().map(ToString::to_string),
        }
    }
}

impl Core {
    /// Of a draft of which nothing is in the store or on the disk yet.
    pub fn new(key: Key, options: WriteOptions, life: Life<LastSeal>, content: Content) -> Core {
        Core {
            key,
            options,
            exclusive: false,
            life,
            content,
            upload: None,
            unsettled: None,
            puts: Vec::new(),
            sending: BTreeMap::new(),
            staging: None,
            error: None,
            published: None,
        }
    }

    /// Write-back: safe on the disk as it is, and waiting for its upload.
    pub fn is_closed(&self) -> bool {
        self.life.sealed().is_some_and(|seal| seal.told && seal.at == self.content.writes)
    }
}

/// Changes one draft's share of a count of all.
fn recount(all: &AtomicUsize, own: &AtomicUsize, now: usize) {
    let before = own.swap(now, Ordering::Relaxed);
    // Wraps where the share gets smaller; the sum does not.
    all.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_all_is_the_sum_of_the_shares() {
        let (all, one, other) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let steps = [(&one, 3, 3), (&other, 5, 8), (&one, 1, 6), (&other, 0, 1), (&one, 0, 0)];
        for (own, now, sum) in steps {
            recount(&all, own, now);
            assert_eq!(all.load(Ordering::Relaxed), sum);
        }
    }
}
