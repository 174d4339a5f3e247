//! What all objects and transfers of a cache have in common.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::disk::DiskTier;
use super::memory::MemoryTier;
use super::share::{Overdrafts, Shares};
use super::stats::Counters;
use super::write_behind::WriteBehind;
use crate::budget::Budget;
use crate::journal::Journal;
use crate::lock::{Mutex, RwLock, rank};
use crate::store::meter::Meter;
use crate::store::{Key, Outage, SharedStore};

#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// The folder of this bucket; `None` runs without a disk tier.
    pub dir: Option<PathBuf>,
    /// 0 runs without a disk tier.
    pub disk_bytes_max: u64,
    /// The largest single GET.
    pub fetch_bytes_max: u64,
    /// GETs of read-ahead side by side. Reads that wait are not held back by it.
    pub concurrency: usize,
    /// A GET that brings no byte for this long has failed.
    pub deadline: Duration,
    /// Knows how far away the store is.
    pub meter: Arc<Meter>,
    /// Where readers do not wait for an outage to end.
    pub outage: Outage,
}

/// What objects and transfers need of the cache.
pub(super) struct Shared {
    pub(super) store: SharedStore,
    pub(super) settings: CacheSettings,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) budget: Arc<Budget>,
    pub(super) memory: Arc<MemoryTier>,
    /// Both or neither.
    pub(super) disk: Option<Arc<DiskTier>>,
    pub(super) write_behind: Option<Arc<WriteBehind>>,
    /// Shared by transfers from when readers see bytes until these are handed to the disk tier.
    pub(super) handing_over: RwLock<(), rank::HandingOver>,
    pub(super) counters: Arc<Counters>,
    pub(super) shares: Shares,
    pub(super) overdrafts: Overdrafts,
    /// Turns for read-ahead.
    pub(super) ahead: Semaphore,
    /// Room for reads that are put together, in KiB.
    pub(super) gathering: Semaphore,
    pub(super) integrity: Integrity,
}

/// Where sums come from, and what is to be told of wrong bytes.
pub(super) struct Integrity {
    /// Knows the parts of what this machine has completed.
    pub(super) journal: Option<Arc<Journal>>,
    misled: UnboundedSender<Key>,
    /// The other end, until it is taken.
    told: Mutex<Option<UnboundedReceiver<Key>>, rank::Misled>,
}

impl Integrity {
    pub(super) fn new(journal: Option<Arc<Journal>>) -> Integrity {
        let (misled, told) = mpsc::unbounded_channel();
        Integrity { journal, misled, told: Mutex::new(Some(told)) }
    }

    /// Readers of the object were given wrong bytes: what the kernel has of it is to go.
    pub(super) fn readers_misled(&self, key: Key) {
        // Without a kernel there is none to be told.
        let _ = self.misled.send(key);
    }

    pub(super) fn told(&self) -> Option<UnboundedReceiver<Key>> {
        self.told.lock().take()
    }
}
