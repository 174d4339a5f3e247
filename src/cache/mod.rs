//! The cache: which bytes of which objects are resident in memory and on disk, and how the rest is fetched,
//! each byte once, however many ask for it.
//!
//! A [`CachedObject`] is one version (key and ETag) of one object. Its bytes are in *segments* in memory
//! (one GET each, read while they arrive), in a sparse cache *file* on disk, or missing. A read takes what
//! is there, joins the transfers that are under way, and fetches the rest.
//!
//! Consistency: every GET is pinned to the ETag; a version never serves another's bytes; disk ranges are
//! checked before their first use after a mount, or known to be what an earlier one has checked ([`stamp`]). Retries: the store's. Cancellation: a transfer that no reader
//! waits for or wants is dropped, and what has arrived stays. Crash: memory is lost; what the journal names
//! on disk is there again.
//!
//! Copies from socket to kernel: one into the segment; the reply slices it. From disk: one, out of the
//! kernel's page cache into the reply's buffer; none with passthrough.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::blocking;
use crate::budget::{Budget, Reclaim};
use crate::clock::Instant;
use crate::journal::Journal;
use crate::lock::{Mutex, RwLock, rank};
use crate::store::{ETag, Key, SharedStore};

pub mod at_rest;
pub mod audit;
mod cache_file;
mod check;
mod core;
mod disk;
mod disk_worker;
mod evict;
mod fetch;
mod growing;
mod ledger;
mod memory;
mod object;
mod piece;
mod plan;
mod proof;
mod prove;
mod readback;
mod recall;
mod recording;
mod relabel;
mod reread;
mod residency;
mod segment;
pub(crate) mod share;
mod shared;
mod stamp;
mod stats;
mod sums;
mod sweep;
#[cfg(test)]
mod tests;
mod trust;
mod versions;
mod waiting;
mod write_behind;

pub use audit::{Depth, Place, Verdict};
pub use check::VerifiedFile;
pub use fetch::Urgency;
pub use object::CachedObject;
pub use piece::Piece;
pub use segment::Interest;
pub use shared::CacheSettings;
pub use stats::{CacheStats, ClearReport, VerifyReport};

use self::core::Core;
use disk::DiskTier;
use memory::MemoryTier;
use share::{Overdrafts, Shares};
use shared::{Integrity, Shared};
use stats::Counters;
use write_behind::WriteBehind;

/// The residency of a mount's objects.
pub struct Cache {
    shared: Arc<Shared>,
    objects: Mutex<Objects, rank::CachedObjects>,
}

/// The versions in use. Entries are weak, and dead ones are cleared out when their number has doubled.
#[derive(Default)]
struct Objects {
    by_version: HashMap<(Key, ETag), Entry>,
    live_at_clearing: usize,
}

struct Entry {
    core: Weak<Core>,
    handle: Weak<CachedObject>,
}

/// With a disk tier, what was read stays in memory up to this, whatever the budget has to spare: the disk
/// tier has it too. Buffers that are used again and
/// again beat fresh ones by far (in a virtual machine, whose unused memory the host may have taken back, a
/// fresh page costs several times what filling it does).
const READ_BYTES_MAX: u64 = 16 << 20;

/// Below this many versions nothing is cleared out of the table.
const CLEARING_MIN: usize = 64;

impl Objects {
    fn insert(&mut self, key: Key, etag: ETag, entry: Entry) {
        if self.by_version.len() >= 2 * self.live_at_clearing.max(CLEARING_MIN) {
            self.by_version.retain(|_, entry| entry.core.strong_count() > 0);
            self.live_at_clearing = self.by_version.len();
        }
        self.by_version.insert((key, etag), entry);
    }
}

impl Cache {
    /// Looks at no cache file: what the journal remembers is checked when it is first used. Must be called
    /// inside the runtime on which transfers are to run.
    ///
    /// # Errors
    /// The cache folder cannot be created, or the disk worker cannot be started.
    pub fn open(
        store: SharedStore,
        journal: Option<Arc<Journal>>,
        budget: Arc<Budget>,
        settings: CacheSettings,
    ) -> io::Result<Arc<Cache>> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        let counters = Arc::new(Counters::default());
        let integrity = Integrity::new(journal.clone());
        let disk = match (&settings.dir, journal) {
            (Some(dir), Some(journal)) if settings.disk_bytes_max > 0 => {
                let limit = settings.disk_bytes_max;
                Some(Arc::new(DiskTier::open(dir, limit, journal, counters.clone())?))
            }
            _ => None,
        };
        Cache::over(store, budget, settings, runtime, counters, disk, integrity)
    }

    fn over(
        store: SharedStore,
        budget: Arc<Budget>,
        settings: CacheSettings,
        runtime: tokio::runtime::Handle,
        counters: Arc<Counters>,
        disk: Option<Arc<DiskTier>>,
        integrity: Integrity,
    ) -> io::Result<Arc<Cache>> {
        let write_behind = match &disk {
            Some(tier) => {
                readback::start(tier.clone())?;
                let queue = WriteBehind::new(budget.total());
                disk_worker::start(tier.clone(), queue.clone())?;
                Some(queue)
            }
            None => None,
        };
        // Without a disk tier what memory drops has to be fetched again.
        let read_bytes_max = if disk.is_some() { READ_BYTES_MAX } else { u64::MAX };
        let memory = Arc::new(MemoryTier::new(read_bytes_max));
        let reclaimer: Weak<MemoryTier> = Arc::downgrade(&memory);
        budget.add_reclaimer(reclaimer as Weak<dyn Reclaim>);
        let shared = Shared {
            store,
            runtime,
            shares: Shares::new(budget.total()),
            overdrafts: Overdrafts::new(),
            budget,
            memory,
            disk,
            write_behind,
            handing_over: RwLock::default(),
            counters,
            ahead: Semaphore::new(settings.concurrency.max(1)),
            gathering: Semaphore::new(object::GATHERING_KIB as usize),
            settings,
            integrity,
        };
        Ok(Arc::new(Cache { shared: Arc::new(shared), objects: Mutex::default() }))
    }

    /// The object's version: the same one for all callers, as long as it is held.
    pub fn object(self: &Arc<Self>, key: &Key, etag: &ETag, len: u64) -> Arc<CachedObject> {
        let mut objects = self.objects.lock();
        let known = objects.by_version.get(&(key.clone(), etag.clone()));
        if let Some(handle) = known.and_then(|entry| entry.handle.upgrade())
            && handle.len() == len
            && !handle.is_misled()
        {
            return handle;
        }
        let core = known.and_then(|entry| entry.core.upgrade()).filter(|core| core.len == len);
        let core = core.unwrap_or_else(|| {
            let disk = self.shared.disk.as_ref().map(|tier| tier.object(key, etag, len));
            Arc::new(Core::new(self.shared.clone(), key.clone(), etag.clone(), len, disk))
        });
        let handle = Arc::new(CachedObject::new(core.clone()));
        let entry = Entry { core: Arc::downgrade(&core), handle: Arc::downgrade(&handle) };
        objects.insert(key.clone(), etag.clone(), entry);
        handle
    }

    /// The version was replaced or deleted: what is resident of it goes, on disk when its last user goes.
    pub fn forget_version(&self, key: &Key, etag: &ETag) {
        let entry = self.objects.lock().by_version.remove(&(key.clone(), etag.clone()));
        if let Some(core) = entry.and_then(|entry| entry.core.upgrade()) {
            core.forget();
        }
        if let (Some(tier), Some(queue)) = (&self.shared.disk, &self.shared.write_behind)
            && let Some((object, unused)) = tier.forget(key, etag)
            && unused
        {
            queue.push_removal(object);
        }
    }

    /// The store copied the version to another name; the same bytes are resident under that name now, and
    /// open handles go on under it.
    pub fn rename_key(&self, from: &Key, etag: &ETag, to: &Key, new_etag: &ETag) {
        let (old, new) = ((from.clone(), etag.clone()), (to.clone(), new_etag.clone()));
        if old == new {
            return;
        }
        let mut objects = self.objects.lock();
        if let (Some(tier), Some(queue)) = (&self.shared.disk, &self.shared.write_behind)
            && let Some((object, replaced)) = tier.rename(old.clone(), new)
        {
            queue.push_relabel(object);
            // One in use is removed when its last user leaves.
            if let Some(replaced) = replaced.filter(|r| r.users.load(Ordering::Relaxed) == 0) {
                queue.push_removal(replaced);
            }
        }
        let Some(entry) = objects.by_version.remove(&old) else { return };
        let core = entry.core.upgrade();
        if let Some(core) = &core {
            core.set_version(to.clone(), new_etag.clone());
            objects.insert(to.clone(), new_etag.clone(), entry);
        }
        drop(objects);
        // Perhaps the last hold, whose drop must not meet the lock.
        drop(core);
    }

    /// Tells of objects of which readers were given what turned out wrong: what the kernel has of them is to go. Once;
    /// ends with the cache.
    pub fn misled_readers(&self) -> Option<UnboundedReceiver<Key>> {
        self.shared.integrity.told()
    }

    /// Resolves when everything that readers have seen so far is on disk and journaled, or skipped; of a
    /// transfer under way, but for less than a mebibyte.
    pub async fn settle(&self) {
        drop(self.shared.handing_over.write());
        if let Some(queue) = &self.shared.write_behind {
            queue.settle().await;
        }
    }

    /// Waits, for so long at most, until what was just fetched is checked, in the page cache and on record, so that the
    /// next mount need not do that. For when nothing else is to come.
    pub async fn settle_for_the_next_mount(&self, patience: Duration) {
        let Some(tier) = self.shared.disk.clone() else { return };
        let work = move || tier.waiting.drain(Instant::now() + patience);
        if let Err(error) = blocking::run_on(&self.shared.runtime, work).await {
            log::error!("bringing back what was fetched died: {error}");
        }
    }

    /// Checks every range on disk; bad ones are dropped and will be fetched again.
    pub async fn verify(&self) -> io::Result<VerifyReport> {
        let Some(tier) = self.shared.disk.clone() else { return Ok(VerifyReport::default()) };
        let work = move || tier.verify_all();
        blocking::run_on(&self.shared.runtime, work).await.unwrap_or_else(|died| Err(died.into()))
    }

    /// Drops what is in memory, and on disk all that no open file uses.
    pub async fn clear(&self) -> ClearReport {
        self.shared.memory.clear();
        match &self.shared.write_behind {
            Some(queue) => queue.clear().await.unwrap_or_default(),
            None => ClearReport::default(),
        }
    }

    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        CacheStats {
            memory_bytes: shared.memory.bytes(),
            bytes_fetched: shared.counters.bytes_fetched.load(Ordering::Relaxed),
            fetches_dropped: shared.counters.fetches_dropped.load(Ordering::Relaxed),
            disk: shared.disk.as_ref().map(|tier| tier.stats()).unwrap_or_default(),
        }
    }
}

impl Drop for Cache {
    /// Ends the disk worker and lets go of the memory tier, whose entries hold the objects that hold it.
    fn drop(&mut self) {
        if let Some(queue) = &self.shared.write_behind {
            queue.close();
        }
        if let Some(tier) = &self.shared.disk {
            tier.waiting.close();
        }
        self.shared.memory.close();
    }
}
