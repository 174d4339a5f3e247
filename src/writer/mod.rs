//! Writing: a [`Draft`] is the next version of one file, filled by any pattern of writes, sent in
//! parts while the writer goes on, and published as one object.
//!
//! `draft` is the façade: one method for each thing that a file system does with a draft. A draft is its content, its
//! transfer, and how far its life has come (`state`). What takes part in a piece of work is a function of that work, each
//! of which uses those above it only:
//!
//! | | |
//! |---|---|
//! | `state` | what a draft is at one moment: where each byte is, what is on its way, how far it has come. No I/O |
//! | `records` | what the journal is told of it, and in which order |
//! | `content` | bytes into memory, to the staging file, and back out from wherever they are |
//! | `outcome` | what it is once an object stands, also where the answer was lost |
//! | `transfer` | parts to the store while the writer goes on; the seal that a crash brings back; memory pressure |
//! | `publish` | the object: a plan, its execution; one PUT for a small file |
//! | `edits` | writes, truncation, holes (`parked`: the bytes of writes that wait) |
//! | `restore` | its beginning after a crash |
//!
//! Consistency: the object appears at once or not at all. Retries: the store's; the first failure of a
//! part fails every later call on its draft. Cancellation: a dropped publish can be called again.
//! Crash: what the store acknowledged is adopted by the next upload of the same key or content; what
//! was staged and journaled is read back.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::budget::{Budget, Reclaim};
use crate::cache::Cache;
use crate::journal::Journal;
use crate::lock::Mutex;
use crate::store::SharedStore;
use crate::supervise::supervise;
use crate::upload::Uploads;

mod content;
mod draft;
mod edits;
mod error;
mod outcome;
mod parked;
mod publish;
mod records;
mod restore;
mod state;
#[cfg(test)]
mod tests;
mod transfer;

pub use edits::Seek;
pub use error::WriteError;
pub use parked::{First, Parked, WriteBytes};
pub use publish::COPY_BYTES_MAX;
pub use state::{Base, Draft, DraftProgress, Published, WriterSettings, Writers};
pub use transfer::send::Still;

use parked::Parking;
use state::Counts;

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
        let parking = Parking::new(budget.total(), &settings.staging_folder);
        let writers = Arc::new(Writers {
            store,
            journal,
            budget: budget.clone(),
            uploads,
            cache,
            settings,
            drafts: Mutex::default(),
            counts: Counts::default(),
            journaled_content: Arc::new(Semaphore::new(share)),
            parking,
            beyond: Arc::new(Semaphore::new(1)),
            filling: Semaphore::new(publish::execute::FILLING_KIB),
            stuck: tokio::sync::watch::Sender::new(None),
            runtime: runtime.clone(),
        });
        let reclaimer: Arc<dyn Reclaim> = writers.clone();
        budget.add_reclaimer(Arc::downgrade(&reclaimer));
        let weak = Arc::downgrade(&writers);
        let stage = move || transfer::pressure::stage_under_pressure(weak.clone(), budget.clone());
        supervise(&runtime, "memory", stage);
        writers
    }

    /// Copies the bytes of a write that has to wait for room.
    pub fn park(&self, bytes: &[u8]) -> Parked {
        self.parking.park(bytes)
    }
}

/// So much of the content of small files may be in the journal, and in memory with its state, in bytes: a few
/// thousand files of 4 KiB that wait for their upload. More go to staging files.
fn journaled_content_max(memory: u64) -> usize {
    const LARGEST: u64 = 32 << 20;
    (memory / 16).min(LARGEST) as usize
}
