//! A segment: one contiguous range of an object in memory, filled by one GET. Readers use its beginning
//! while the rest is still arriving.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::{Notify, oneshot};

use super::growing::Growing;
use crate::budget::Permit;
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::{ErrorKind, StoreError};

/// How the filling of a segment ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Every byte is there.
    Complete,
    /// No reader wanted the rest.
    Dropped,
    Failed(StoreError),
}

/// Why bytes that a reader waited for will not come.
#[derive(Clone, Debug)]
pub(super) enum Lost {
    /// The transfer was dropped before the reader joined it: ask again.
    Dropped,
    Failed(StoreError),
}

/// Invariants: `end` is set once; after it, `shown` does not change, and it is never more than has arrived. `next_need`
/// is at most the smallest need in `waiters`.
pub(super) struct Segment {
    /// What is to be fetched; see [`Self::covered`] for what will be there.
    range: ByteRange,
    bytes: Growing,
    /// Of what has arrived, readers see so much, in bytes: what is to be compared first they do not.
    shown: AtomicUsize,
    /// Something of it is not what it must be: the disk takes nothing of this segment any more.
    spoiled: AtomicBool,
    end: OnceLock<End>,
    /// Readers waiting, and handles whose window reaches here. At 0 the transfer is dropped.
    wanted: AtomicUsize,
    /// Woken when `wanted` falls to 0.
    unwanted: Notify,
    /// Woken when a reader waits for bytes of a transfer that may still be queued.
    promoted: Notify,
    waiters: Mutex<Vec<Waiter>, rank::Waiters>,
    next_need: AtomicUsize,
    /// Read since the memory tier last looked: it gets a second chance.
    touched: AtomicBool,
    /// Whether it may stay in memory once it is filled; an overdraft may not.
    keep: bool,
    /// For the memory that it holds.
    _permit: Permit,
}

struct Waiter {
    /// Bytes from the segment's start.
    need: usize,
    wake: oneshot::Sender<()>,
}

impl Segment {
    /// An empty segment for `range`, and the one right to fill it.
    pub(super) fn new(
        range: ByteRange,
        permit: Permit,
        keep: bool,
    ) -> io::Result<(Arc<Segment>, Appender)> {
        let segment = Arc::new(Segment {
            range,
            bytes: Growing::with_capacity(range.len() as usize)?,
            shown: AtomicUsize::new(0),
            spoiled: AtomicBool::new(false),
            end: OnceLock::new(),
            wanted: AtomicUsize::new(0),
            unwanted: Notify::new(),
            promoted: Notify::new(),
            waiters: Mutex::new(Vec::new()),
            next_need: AtomicUsize::new(usize::MAX),
            touched: AtomicBool::new(false),
            keep,
            _permit: permit,
        });
        let appender = Appender { segment: segment.clone() };
        Ok((segment, appender))
    }

    /// What the GET was to fetch.
    pub(super) fn range(&self) -> ByteRange {
        self.range
    }

    /// The bytes that are here or still on their way.
    pub(super) fn covered(&self) -> ByteRange {
        if self.has_ended() { self.filled() } else { self.range }
    }

    /// The bytes that are here, for readers.
    pub(super) fn filled(&self) -> ByteRange {
        ByteRange::at(self.range.start(), self.shown() as u64)
    }

    fn shown(&self) -> usize {
        // SeqCst, as a waiter needs it (see [`Self::wait`]).
        self.shown.load(Ordering::SeqCst)
    }

    /// The bytes that have arrived, shown or not.
    pub(super) fn arrived(&self) -> ByteRange {
        ByteRange::at(self.range.start(), self.bytes.filled() as u64)
    }

    /// `range` of the object for the disk, which may have what is not shown yet.
    pub(super) fn arrived_slice(&self, range: ByteRange) -> Option<&[u8]> {
        let from = range.start().checked_sub(self.range.start())? as usize;
        let here = self.bytes.bytes().get(from..from + range.len() as usize);
        here.filter(|_| !self.is_spoiled())
    }

    /// Whether something of it was found wrong.
    pub(super) fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::SeqCst)
    }

    /// Something of it is wrong. What waits for the disk is left out from now on.
    pub(super) fn spoil(&self) {
        self.spoiled.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// Whether it may stay in memory once it is filled.
    pub(super) fn may_stay(&self) -> bool {
        self.keep
    }

    /// Memory held, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        self.bytes.capacity() as u64
    }

    /// `range` of the object, where all of it is here.
    pub(super) fn slice(&self, range: ByteRange) -> Option<&[u8]> {
        let from = range.start().checked_sub(self.range.start())? as usize;
        let shown = self.bytes.bytes().get(..self.shown())?;
        shown.get(from..from + range.len() as usize)
    }

    /// Waits until the object's bytes up to `end` (exclusive, inside the segment) are here.
    /// Cancel-safe: a waiter that goes away leaves nothing but a closed channel.
    pub(super) async fn wait(&self, end: u64) -> Result<(), Lost> {
        let need = (end - self.range.start()) as usize;
        loop {
            if self.shown() >= need {
                return Ok(());
            }
            let arrived = {
                let mut waiters = self.waiters.lock();
                if let Some(end) = self.end.get() {
                    return if self.shown() >= need { Ok(()) } else { Err(lost(end)) };
                }
                let (wake, arrived) = oneshot::channel();
                waiters.push(Waiter { need, wake });
                self.next_need.fetch_min(need, Ordering::SeqCst);
                arrived
            };
            // The appender stores `shown` and then reads `next_need`; this side did the reverse.
            // One of the two sees the other, so no wake-up is lost.
            if self.shown() >= need {
                return Ok(());
            }
            self.promoted.notify_one();
            // A dropped sender means the same as a message: look again.
            let _ = arrived.await;
        }
    }

    /// Wakes those whose bytes are here; all of them at the end. Costs one atomic load where no reader
    /// waits for what has just arrived.
    fn wake(&self) {
        let shown = self.shown();
        let ended = self.has_ended();
        if !ended && shown < self.next_need.load(Ordering::SeqCst) {
            return;
        }
        let mut waiters = self.waiters.lock();
        let mut next_need = usize::MAX;
        let mut index = 0;
        while index < waiters.len() {
            if ended || waiters[index].need <= shown {
                // A waiter that has gone away needs no waking.
                let _ = waiters.swap_remove(index).wake.send(());
            } else {
                next_need = next_need.min(waiters[index].need);
                index += 1;
            }
        }
        self.next_need.store(next_need, Ordering::SeqCst);
    }

    /// Resolves when no reader wants the rest any more.
    pub(super) async fn unwanted(&self) {
        loop {
            if self.wanted.load(Ordering::SeqCst) == 0 {
                return;
            }
            self.unwanted.notified().await;
        }
    }

    /// Resolves when a reader waits for bytes of this segment.
    pub(super) async fn promoted(&self) {
        self.promoted.notified().await;
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) > 0
    }

    pub(super) fn touch(&self) {
        // Read first: a store to a shared line for each of many small reads would bounce it.
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was read since the last call.
    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }
}

fn lost(end: &End) -> Lost {
    match end {
        End::Failed(error) => Lost::Failed(error.clone()),
        End::Complete | End::Dropped => Lost::Dropped,
    }
}

/// The one right to fill a segment. Dropped without [`Appender::finish`], it counts as a drop of the
/// transfer, so that no reader waits for a task that has died; by a panic, as its failure, so that no reader
/// starts it again.
pub(super) struct Appender {
    segment: Arc<Segment>,
}

impl Appender {
    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Copies `chunk` behind what has arrived; readers do not see it before [`Self::show`]. False where it is longer than
    /// the room left.
    pub(super) fn append(&mut self, chunk: &[u8]) -> bool {
        let bytes = &self.segment.bytes;
        let at = bytes.filled();
        // SAFETY: there is one appender a segment, and `&mut self` keeps its calls apart.
        let count = unsafe { bytes.write(at, chunk) };
        // SAFETY: as above; the bytes below `at` were written before, the others just now.
        unsafe { bytes.publish(at + count) };
        count == chunk.len()
    }

    /// Readers see what has arrived, up to the object's byte `until`.
    pub(super) fn show(&mut self, until: u64) {
        let until = until.min(self.segment.arrived().end());
        let shown = until.saturating_sub(self.segment.range.start()) as usize;
        self.segment.shown.fetch_max(shown, Ordering::SeqCst);
        self.segment.wake();
    }

    /// Whether every byte is there.
    pub(super) fn is_full(&self) -> bool {
        self.segment.arrived() == self.segment.range
    }

    /// Settles what the segment covers from now on.
    pub(super) fn finish(self, end: End) {
        self.end(end);
    }

    fn end(&self, end: End) {
        {
            // Under the waiters' lock: a reader that registers sees the end, or is seen by `wake`.
            let _waiters = self.segment.waiters.lock();
            if self.segment.end.set(end).is_err() {
                return;
            }
        }
        self.segment.wake();
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() { End::Failed(panicked()) } else { End::Dropped });
    }
}

fn panicked() -> StoreError {
    StoreError::new(ErrorKind::Invalid, "GetObject", "a fault in this program ended the transfer")
}

/// The wish of a reader that a segment be filled. When the last one of a segment goes, so does its transfer;
/// what has arrived stays.
pub struct Interest {
    segment: Weak<Segment>,
    range: ByteRange,
}

impl Interest {
    pub(super) fn new(segment: &Arc<Segment>) -> Self {
        segment.wanted.fetch_add(1, Ordering::SeqCst);
        Interest { segment: Arc::downgrade(segment), range: segment.range }
    }

    /// The bytes that it is about.
    pub fn range(&self) -> ByteRange {
        self.range
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        // A segment that is gone from memory has nothing left to drop.
        if let Some(segment) = self.segment.upgrade()
            && segment.wanted.fetch_sub(1, Ordering::SeqCst) == 1
            && !segment.has_ended()
        {
            segment.unwanted.notify_one();
        }
    }
}
