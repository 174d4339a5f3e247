//! How far each of many streaming handles may read ahead: an equal share of the memory budget.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Instant;
use crate::lock::{Mutex, rank};

/// A handle that has not read ahead for this long does not count: open files that are not read would
/// otherwise shrink the windows of all.
const ACTIVE_FOR: Duration = Duration::from_secs(5);

/// The count of active handles is this old at most. Counting walks all of them, so not at each read.
const RECOUNT_INTERVAL: Duration = Duration::from_millis(100);

/// Of the budget, in percent, what read-ahead windows may hold together. The rest is for bytes already
/// handed out to replies and for writers.
const WINDOWS_PERCENT: u64 = 75;

/// What reads may hold beyond the budget together, in mebibytes: enough to keep a store busy, little beside
/// the smallest budget. Without this limit a hundred streams, each with two requests of the kernel of a
/// mebibyte, would hold 200 MiB more than they were given.
const OVERDRAFT_MIB: u32 = 8;

/// Turns of reads that go on though the budget has nothing for them.
pub(super) struct Overdrafts(Semaphore);

impl Overdrafts {
    pub(super) fn new() -> Overdrafts {
        Overdrafts(Semaphore::new(OVERDRAFT_MIB as usize))
    }

    /// A turn for a read of `bytes`, in the order of asking. `None` is never returned while the cache lives.
    pub(super) async fn turn(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let mebibytes = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(OVERDRAFT_MIB);
        self.0.acquire_many(mebibytes.clamp(1, OVERDRAFT_MIB)).await.ok()
    }
}

pub(super) struct Shares {
    total_bytes: u64,
    start: Instant,
    streams: Mutex<Streams, rank::Streams>,
}

#[derive(Default)]
struct Streams {
    all: Vec<Weak<Streaming>>,
    active: u64,
    counted: Option<Instant>,
}

/// One handle's membership; it ends when this is dropped.
pub(crate) struct Streaming {
    start: Instant,
    /// When it last read ahead, in milliseconds since `start`.
    last_active_ms: AtomicU64,
}

impl Streaming {
    /// Says that the handle reads ahead now.
    pub(crate) fn active(&self) {
        self.last_active_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

impl Shares {
    pub(super) fn new(budget_bytes: u64) -> Self {
        Shares {
            total_bytes: budget_bytes / 100 * WINDOWS_PERCENT,
            start: Instant::now(),
            streams: Mutex::default(),
        }
    }

    pub(super) fn join(&self) -> Arc<Streaming> {
        let streaming =
            Arc::new(Streaming { start: self.start, last_active_ms: AtomicU64::new(0) });
        streaming.active();
        let mut streams = self.streams.lock();
        streams.all.push(Arc::downgrade(&streaming));
        streams.counted = None;
        streaming
    }

    /// The most bytes that one handle may have read ahead.
    pub(super) fn share_bytes(&self) -> u64 {
        self.total_bytes / self.active().max(1)
    }

    /// Handles that stream at the moment.
    pub(super) fn active(&self) -> u64 {
        let mut streams = self.streams.lock();
        if streams.counted.is_none_or(|counted| counted.elapsed() > RECOUNT_INTERVAL) {
            let since = self.start.elapsed().saturating_sub(ACTIVE_FOR).as_millis() as u64;
            streams.all.retain(|streaming| streaming.strong_count() > 0);
            streams.active = streams
                .all
                .iter()
                .filter_map(Weak::upgrade)
                .filter(|streaming| streaming.last_active_ms.load(Ordering::Relaxed) >= since)
                .count() as u64;
            streams.counted = Some(Instant::now());
        }
        streams.active
    }
}
