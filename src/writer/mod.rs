//! Writing: a [`Draft`] is the next version of one file, filled by any pattern of writes, sent in
//! parts while the writer goes on, and published as one object.
//!
//! A part of a draft is resident in memory, in the staging file, in the store (as a part of the draft's
//! upload), or still only in the *base*, the object that the draft modifies. `state` says which, and how far the draft
//! has come. Three wings work on it: `content` takes bytes in (`parked` keeps those that wait), gives them out and keeps
//! them on the disk; `transfer` brings parts to the store while the writer goes on, and seals what a crash brings back;
//! `publish` makes the object: a plan, its execution, and the outcome, where an answer was lost. `restore` is their
//! beginning after a crash, `end` their end.
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
mod end;
mod error;
mod naming;
mod parked;
mod publish;
mod restore;
mod state;
#[cfg(test)]
mod tests;
mod transfer;

pub use content::Seek;
pub use error::WriteError;
pub use parked::{Parked, WriteBytes};
pub use publish::COPY_BYTES_MAX;
pub use state::{Base, Draft, DraftProgress, Published, Still, WriterSettings, Writers};

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
