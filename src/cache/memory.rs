//! The memory tier: which filled segments stay, and which go when the room is needed.
//!
//! Second chance instead of a strict least-recently-used order: a read sets a flag on the segment and
//! takes no lock here, which matters with many threads reading 4 KiB each.

use std::collections::VecDeque;
use std::sync::Arc;

use super::segment::Segment;
use crate::budget::Reclaim;
use crate::lock::{Mutex, rank};

/// Filled segments that may be dropped at any time; the objects' own maps hold them only weakly.
pub(super) struct MemoryTier {
    /// What read segments may hold before the oldest go, though the budget has room.
    read_bytes_max: u64,
    entries: Mutex<Entries, rank::MemoryTier>,
}

/// Invariant: `bytes` is the sum over `kept`.
#[derive(Default)]
struct Entries {
    /// Oldest first.
    kept: VecDeque<Kept>,
    bytes: u64,
    closed: bool,
}

/// A segment, and the object that it is of, which outlives its last handle while it has bytes in memory.
struct Kept {
    object: Arc<dyn Send + Sync>,
    segment: Arc<Segment>,
}

impl Kept {
    /// Only this tier holds it, so that dropping it frees its memory. (A new reader may come
    /// between this look and the drop; then its hold frees the memory a little later.)
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.segment) == 1
    }
}

impl MemoryTier {
    pub(super) fn new(read_bytes_max: u64) -> MemoryTier {
        MemoryTier { read_bytes_max, entries: Mutex::default() }
    }

    pub(super) fn keep(&self, object: Arc<dyn Send + Sync>, segment: Arc<Segment>) {
        let mut entries = self.entries.lock();
        if entries.closed {
            return;
        }
        entries.bytes += segment.held_bytes();
        entries.kept.push_back(Kept { object, segment });
        let excess = entries.bytes.saturating_sub(self.read_bytes_max);
        drop(entries);
        if excess > 0 {
            let (_, gone) = self.take_idle(excess, true);
            // Outside the lock: the drop gives memory back, which may call on this tier again.
            drop(gone);
        }
    }

    /// Bytes kept.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.lock().bytes
    }

    /// Drops what belongs to one object.
    pub(super) fn drop_object<T>(&self, object: &T) {
        let dropped: VecDeque<Kept> = {
            let mut entries = self.entries.lock();
            let (gone, staying) = std::mem::take(&mut entries.kept)
                .into_iter()
                .partition(|kept| std::ptr::addr_eq(Arc::as_ptr(&kept.object), object));
            entries.kept = staying;
            entries.bytes -= held_bytes(&gone);
            gone
        };
        // Outside the lock: the drop gives memory back, which may call on this tier again.
        drop(dropped);
    }

    /// Drops everything.
    pub(super) fn clear(&self) {
        let dropped = {
            let mut entries = self.entries.lock();
            entries.bytes = 0;
            std::mem::take(&mut entries.kept)
        };
        drop(dropped);
    }

    /// Drops everything, and keeps nothing from now on: the entries hold objects, which hold this tier.
    pub(super) fn close(&self) {
        self.entries.lock().closed = true;
        self.clear();
    }

    /// Takes out idle segments of `bytes` in all, oldest first. With `only_consumed`, those stay that
    /// some handle's window still reaches for or that were read since the last look.
    fn take_idle(&self, bytes: u64, only_consumed: bool) -> (u64, Vec<Kept>) {
        let mut freed = 0;
        let mut taken = Vec::new();
        let mut entries = self.entries.lock();
        for _ in 0..entries.kept.len() {
            if freed >= bytes {
                break;
            }
            let Some(oldest) = entries.kept.pop_front() else { break };
            let spared =
                only_consumed && (oldest.segment.is_wanted() || oldest.segment.take_touched());
            if spared || !oldest.is_idle() {
                entries.kept.push_back(oldest);
                continue;
            }
            freed += oldest.segment.held_bytes();
            taken.push(oldest);
        }
        entries.bytes -= freed;
        (freed, taken)
    }
}

fn held_bytes(kept: &VecDeque<Kept>) -> u64 {
    kept.iter().map(|kept| kept.segment.held_bytes()).sum()
}

impl Reclaim for MemoryTier {
    /// Two passes: first what no window reaches for, then also what windows hold on to. Without the
    /// second, handles that opened, read ahead and then stopped reading would keep the memory for good.
    fn reclaim(&self, bytes: u64) -> u64 {
        let (freed, first) = self.take_idle(bytes, true);
        drop(first);
        if freed >= bytes {
            return freed;
        }
        let (more, second) = self.take_idle(bytes - freed, false);
        drop(second);
        freed + more
    }
}
