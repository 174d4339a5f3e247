//! One version of one object: which of its bytes are in memory, on disk or on their way, and how the rest
//! is fetched once, however many ask for it.
//!
//! Lock order: `planning`, then one of `segments`, `ledger`, `disk_left_alone_until`, the disk tier's locks or the budget, none
//! of them inside another, but the disk tier's inside `ledger`. No lock is held across an await.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::OnceCell;

use super::ledger::Ledger;
use super::residency::DiskObject;
use super::segment::{Interest, Segment};
use super::shared::Shared;
use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};

use crate::range::ByteRange;
use crate::store::{ETag, ErrorKind, Key, StoreError};

/// After this a cache file that could not be opened is tried again: what is short may be there again.
const LEFT_ALONE_FOR: Duration = Duration::from_secs(1);

/// What is known of one version, open or not. Lives while a handle, a transfer
/// or the memory tier holds it.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    /// Changes only when a copy inside the store carries the same bytes to another name.
    version: Mutex<(Key, ETag), rank::Version>,
    pub(super) len: u64,
    /// Replaced or deleted: nothing of it is kept any more.
    forgotten: AtomicBool,
    /// What is promised of its bytes, and what came of them.
    pub(super) ledger: Mutex<Ledger, rank::Ledger>,
    /// The sum of the whole, once the store was asked for it.
    pub(super) asked: OnceCell<()>,
    /// All of a small object was asked for at once, so that it can be compared with its ETag.
    pub(super) came_in_one: AtomicBool,
    /// Held by the one that reads what is doubted again.
    pub(super) rereading: tokio::sync::Mutex<()>,
    /// How often readers were given what turned out wrong.
    pub(super) misled: AtomicU64,
    /// Held while gaps are looked up and filled with new transfers, so that no two readers fetch the same
    /// gap twice. Never held across an await or a disk access.
    pub(super) planning: Mutex<(), rank::Planning>,
    /// By start. What the segments cover is disjoint. Segments are owned by their transfer and then by
    /// the memory tier; dead entries are removed when they are met.
    pub(super) segments: Mutex<BTreeMap<u64, Weak<Segment>>, rank::Segments>,
    /// `None` without a disk tier.
    pub(super) disk: Option<Arc<DiskObject>>,
    /// The cache file could not be opened: until then the store serves what it holds.
    disk_left_alone_until: Mutex<Option<Instant>, rank::DiskLeftAlone>,
}

/// Where a run of bytes is.
pub(super) enum Source {
    /// Here or on its way.
    Memory(Arc<Segment>, ByteRange),
    Disk(ByteRange),
    Missing(ByteRange),
}

impl Source {
    pub(super) fn interest(&self) -> Option<Interest> {
        match self {
            Source::Memory(segment, _) => Some(Interest::new(segment)),
            Source::Disk(_) | Source::Missing(_) => None,
        }
    }
}

impl Core {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: Key,
        etag: ETag,
        len: u64,
        disk: Option<Arc<DiskObject>>,
    ) -> Self {
        Core {
            shared,
            version: Mutex::new((key, etag)),
            len,
            forgotten: AtomicBool::new(false),
            ledger: Mutex::default(),
            asked: OnceCell::new(),
            came_in_one: AtomicBool::new(false),
            rereading: tokio::sync::Mutex::default(),
            misled: AtomicU64::new(0),
            planning: Mutex::new(()),
            segments: Mutex::new(BTreeMap::new()),
            disk,
            disk_left_alone_until: Mutex::new(None),
        }
    }

    pub(super) fn leave_disk_alone(&self) {
        *self.disk_left_alone_until.lock() = Some(Instant::now() + LEFT_ALONE_FOR);
    }

    /// The disk side, but for a while after it could not be opened.
    fn usable_disk(&self) -> Option<&Arc<DiskObject>> {
        let until = *self.disk_left_alone_until.lock();
        self.disk.as_ref().filter(|_| until.is_none_or(|until| until <= Instant::now()))
    }

    pub(super) fn version(&self) -> (Key, ETag) {
        self.version.lock().clone()
    }

    pub(super) fn set_version(&self, key: Key, etag: ETag) {
        *self.version.lock() = (key, etag);
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }

    pub(super) fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
        self.shared.memory.drop_object(self);
    }

    /// The runs that `range` consists of, in order and without gaps.
    pub(super) fn sources(&self, range: ByteRange) -> Vec<Source> {
        let mut found = Vec::new();
        let mut at = range.start();
        for (segment, covered) in self.segments_in(range) {
            let here = covered.intersect(&ByteRange::new(at, range.end()));
            if here.is_empty() {
                continue;
            }
            self.sources_beyond_memory(ByteRange::new(at, here.start()), &mut found);
            at = here.end();
            found.push(Source::Memory(segment, here));
        }
        self.sources_beyond_memory(ByteRange::new(at, range.end()), &mut found);
        found
    }

    /// Nothing in memory of a range is found any more, nor goes to the disk.
    pub(super) fn drop_segments(&self, range: ByteRange) {
        let met = self.segments_in(range);
        let mut segments = self.segments.lock();
        for (segment, _) in met {
            segment.spoil();
            segments.remove(&segment.range().start());
        }
    }

    /// The live segments that meet `range`, in order, and what each covers.
    fn segments_in(&self, range: ByteRange) -> Vec<(Arc<Segment>, ByteRange)> {
        let mut segments = self.segments.lock();
        let first = segments.range(..=range.start()).next_back().map_or(range.start(), |(s, _)| *s);
        let mut dead = Vec::new();
        let mut live = Vec::new();
        for (start, weak) in segments.range(first..range.end()) {
            match weak.upgrade() {
                Some(segment) => {
                    let covered = segment.covered();
                    live.push((segment, covered));
                }
                None => dead.push(*start),
            }
        }
        for start in dead {
            segments.remove(&start);
        }
        live
    }

    fn sources_beyond_memory(&self, range: ByteRange, found: &mut Vec<Source>) {
        if range.is_empty() {
            return;
        }
        let mut at = range.start();
        let on_disk = self.usable_disk().map(|disk| disk.resident(range)).unwrap_or_default();
        for here in on_disk {
            if here.start() > at {
                found.push(Source::Missing(ByteRange::new(at, here.start())));
            }
            at = here.end();
            found.push(Source::Disk(here));
        }
        if at < range.end() {
            found.push(Source::Missing(ByteRange::new(at, range.end())));
        }
    }
}

/// The store cuts stalls by itself; this is the limit where it does not.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, StoreError> {
    clock::timeout(limit, work)
        .await
        .map_err(|_| StoreError::new(ErrorKind::Timeout, "GetObject", "no bytes came in time"))
}

pub(super) fn no_memory(error: std::io::Error) -> StoreError {
    StoreError::new(ErrorKind::Transient, "GetObject", format!("no memory to fetch into: {error}"))
}
