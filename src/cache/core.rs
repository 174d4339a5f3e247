//! One version of one object: which of its bytes are in memory, on disk or on their way, and how the rest
//! is fetched once, whoever asks.
//!
//! Lock order: `planning`, then one of `segments`, `disk_left_alone_until`, the disk tier's locks or the budget, none of them
//! inside another. No lock is held across an await.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Shared;
use super::fetch::{self, Urgency};
use super::residency::DiskObject;
use super::segment::{Interest, Segment};
use crate::budget::Permit;
use crate::range::ByteRange;
use crate::store::{ETag, ErrorKind, Key, Result, StoreError};

/// Gaps between wanted ranges up to this length are fetched with them: at 25 ms a request and 60 MB/s,
/// 64 KiB cost a twentieth of what another request costs.
const MERGE_BYTES: u64 = 64 << 10;

/// After this a cache file that could not be opened is tried again: what is short may be there again.
const LEFT_ALONE_FOR: Duration = Duration::from_secs(1);

/// What is known of one version, whether or not somebody has it open. Lives while a handle, a transfer
/// or the memory tier holds it.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    /// Changes only when a copy inside the store carries the same bytes to another name.
    version: Mutex<(Key, ETag)>,
    pub(super) len: u64,
    /// Replaced or deleted: nothing of it is kept any more.
    forgotten: AtomicBool,
    /// As a whole it was not what its ETag says: until it is, no piece of it is fetched that could not be compared.
    contradicted: AtomicBool,
    /// Held while gaps are looked up and filled with new transfers, so that nobody fetches the same
    /// gap twice. Never held across an await or a disk access.
    planning: Mutex<()>,
    /// By start. What the segments cover is disjoint. Segments are owned by their transfer and then by
    /// the memory tier; dead entries are removed when they are met.
    segments: Mutex<BTreeMap<u64, Weak<Segment>>>,
    /// `None` without a disk tier.
    pub(super) disk: Option<Arc<DiskObject>>,
    /// The cache file could not be opened: until then the store serves what it holds.
    disk_left_alone_until: Mutex<Option<Instant>>,
}

/// Where a run of bytes is.
pub(super) enum Source {
    /// Here or on its way.
    Memory(Arc<Segment>, ByteRange),
    Disk(ByteRange),
    Missing(ByteRange),
}

impl Source {
    fn interest(&self) -> Option<Interest> {
        match self {
            Source::Memory(segment, _) => Some(Interest::new(segment)),
            Source::Disk(_) | Source::Missing(_) => None,
        }
    }
}

/// Where the bytes of a range are or will come from.
pub(super) struct Plan {
    /// The range is taken care of up to here.
    pub(super) reached: u64,
    pub(super) sources: Vec<Source>,
    /// Keeps the transfers among the sources going.
    pub(super) interests: Vec<Interest>,
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
            contradicted: AtomicBool::new(false),
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

    pub(super) fn set_contradicted(&self, contradicted: bool) {
        self.contradicted.store(contradicted, Ordering::Relaxed);
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

    /// What has to be fetched so that all of `range` is resident. Gaps that almost touch are one, unless
    /// what lies between them is on its way.
    fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps: Vec<ByteRange> = Vec::new();
        let mut in_flight_since_gap = false;
        for source in self.sources(range) {
            match source {
                Source::Memory(segment, _) => {
                    in_flight_since_gap |= segment.filled() != segment.covered();
                }
                Source::Disk(_) => {}
                Source::Missing(gap) => {
                    match gaps.last_mut() {
                        Some(last)
                            if !in_flight_since_gap && gap.start() - last.end() <= MERGE_BYTES =>
                        {
                            *last = ByteRange::new(last.start(), gap.end());
                        }
                        _ => gaps.push(gap),
                    }
                    in_flight_since_gap = false;
                }
            }
        }
        gaps
    }

    /// Starts transfers of at most `fetch_bytes` each for what is missing of `range`. The plan reaches
    /// less far than the range's end where memory ran out. With `may_overdraw` it does not run out,
    /// which is how a reader gets on when the budget gives nothing.
    pub(super) fn fetch_missing(
        self: &Arc<Self>,
        range: ByteRange,
        fetch_bytes: u64,
        urgency: Urgency,
        may_overdraw: bool,
    ) -> Result<Plan> {
        let _planning = self.planning.lock();
        let (comparable, fetch_bytes) = self.comparable(range, fetch_bytes.max(1));
        let mut plan = Plan { reached: range.end(), sources: Vec::new(), interests: Vec::new() };
        let mut appenders = Vec::new();
        'gaps: for gap in self.gaps(comparable) {
            self.drop_small_segments(gap);
            let mut at = gap.start();
            while at < gap.end() {
                // At multiples of the length: stores keep objects in pieces of a power of two, and a GET
                // that meets one more of them than it must costs them more.
                let next = (at / fetch_bytes + 1).saturating_mul(fetch_bytes);
                let piece = ByteRange::new(at, next.min(gap.end()));
                let Some((permit, keep)) = self.room(piece.len(), may_overdraw) else {
                    plan.reached = at.clamp(range.start(), range.end());
                    break 'gaps;
                };
                let (segment, appender) = Segment::new(piece, permit, keep).map_err(no_memory)?;
                self.segments.lock().insert(piece.start(), Arc::downgrade(&segment));
                appenders.push(appender);
                at = piece.end();
            }
        }
        // Before a transfer starts: one that nobody wants ends at once, and one that fails at once must
        // still be known to the reader that started it, or it would ask again and again.
        plan.sources = self.sources(range);
        plan.interests = plan.sources.iter().filter_map(Source::interest).collect();
        for appender in appenders {
            self.shared.runtime.spawn(fetch::run(self.clone(), appender, urgency));
        }
        Ok(plan)
    }

    /// What is fetched for `range`, in GETs of how many bytes: beside it all of each stretch in it that the disk tier
    /// had and lost, or all of the object, where only that can be compared.
    fn comparable(&self, range: ByteRange, fetch_bytes: u64) -> (ByteRange, u64) {
        if self.contradicted.load(Ordering::Relaxed) {
            return (ByteRange::new(0, self.len), self.len.max(1));
        }
        let lost = self.disk.as_ref().map(|disk| disk.lost_in(range)).unwrap_or_default();
        let comparable = lost.iter().fold(range, |range, stretch| {
            ByteRange::new(range.start().min(stretch.at), range.end().max(stretch.end()))
        });
        (comparable, fetch_bytes)
    }

    /// A permit for a segment, and whether the segment may be kept once nobody uses it.
    fn room(&self, bytes: u64, may_overdraw: bool) -> Option<(Permit, bool)> {
        if let Some(grant) = self.shared.budget.try_reserve(bytes) {
            return Some((grant.keep(), true));
        }
        may_overdraw.then(|| {
            self.shared.counters.overdrafts.fetch_add(1, Ordering::Relaxed);
            (self.shared.budget.overdraw(bytes).keep(), false)
        })
    }

    /// Makes way for a transfer that fetches these small remains again along with the gaps around them.
    fn drop_small_segments(&self, gap: ByteRange) {
        let mut segments = self.segments.lock();
        let starts: Vec<u64> = segments.range(gap.start()..gap.end()).map(|(s, _)| *s).collect();
        for start in starts {
            segments.remove(&start);
        }
    }
}

pub(super) fn no_memory(error: std::io::Error) -> StoreError {
    StoreError::new(ErrorKind::Transient, "GetObject", format!("no memory to fetch into: {error}"))
}
