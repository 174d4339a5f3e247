//! One GET into one segment.
//!
//! Consistency: If-Match pins the version; the store checks length, range and ETag before a byte comes
//! here. Bytes of which a checksum is known are compared before readers or the disk tier see any of them ([`super::proof`]).
//! Retries: the store's (it goes on from the byte reached). Cancellation: when no reader wants the
//! segment any more the body is dropped, and with it the connection; what has arrived stays readable.
//! Crash: what was handed to the disk tier, an eighth at a time, is there again after a remount.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;

use super::core::Core;
use super::proof::{Mismatch, Proof};
use super::segment::{Appender, End, Segment};
use crate::clock;
use crate::range::ByteRange;
use crate::store::{ErrorKind, StoreError};

/// A segment that is still arriving is handed to the disk tier in so many pieces, so that a crash loses a
/// sixteenth of what is under way and not half of it, however many connections share that. Pieces that wait are
/// written together. Smaller ones than the least, or more of a large segment, would cost more journal records
/// than they save.
const PIECES: u64 = 8;
const PIECE_BYTES_MIN: u64 = 256 << 10;
const PIECE_BYTES_MAX: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4 << 10;

/// Bytes that are not what their checksum says are fetched so often in all: once, if they were damaged on their way.
const GETS_MAX: u32 = 2;

/// Whether a reader waits for the segment now, or may come to want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    Demand,
    /// Queued behind other read-ahead; goes at once when a reader starts waiting for it.
    Ahead,
}

/// Fills the segment and settles how that ended.
pub(super) async fn run(core: Arc<Core>, appender: Appender, urgency: Urgency) {
    let segment = appender.segment().clone();
    let mut saved = Saved::nothing(&core, &segment);
    let mut appender = appender;
    let end = tokio::select! {
        biased;
        () = unwanted(&segment) => End::Dropped,
        outcome = transfer(&core, &mut appender, &mut saved, urgency) => match outcome {
            Ok(()) => End::Complete,
            Err(error) => End::Failed(error),
        },
    };
    if matches!(end, End::Dropped) {
        core.shared.counters.fetches_dropped.fetch_add(1, Ordering::Relaxed);
    }
    appender.finish(end);
    saved.rest();
    if segment.may_stay() && !segment.filled().is_empty() && !core.is_forgotten() {
        core.shared.memory.keep(core.clone(), segment);
    }
}

/// Resolves when no reader wants what is still missing. With the last byte here, the transfer itself ends
/// at once, and ending it properly lets its connection be used again.
async fn unwanted(segment: &Segment) {
    segment.unwanted().await;
    if segment.filled() == segment.range() {
        std::future::pending::<()>().await;
    }
}

async fn transfer(
    core: &Arc<Core>,
    appender: &mut Appender,
    saved: &mut Saved<'_>,
    urgency: Urgency,
) -> Result<(), StoreError> {
    let shared = &core.shared;
    let segment = saved.segment;
    let _turn = match urgency {
        Urgency::Demand => None,
        Urgency::Ahead => tokio::select! {
            biased;
            // The semaphore is never closed; were it, going on without a turn would be right.
            turn = shared.ahead.acquire() => turn.ok(),
            () = segment.promoted() => None,
        },
    };
    let mut mismatches = 0;
    while let Err(mismatch) = one_get(core, appender, saved).await? {
        mismatches += 1;
        if mismatch.range == ByteRange::new(0, core.len) {
            core.set_contradicted(true);
        }
        let error = contradicted(core, &mismatch);
        if mismatches == GETS_MAX {
            log::error!("{error}; given up, nothing of it is kept");
            return Err(error);
        }
        log::warn!("{error}; fetching it again");
        appender.rewind();
    }
    Ok(())
}

/// What is compared with a checksum is seen when all of it has come and is right, everything else as it comes.
async fn one_get(
    core: &Arc<Core>,
    appender: &mut Appender,
    saved: &mut Saved<'_>,
) -> Result<Result<(), Mismatch>, StoreError> {
    let shared = &core.shared;
    let (key, etag) = core.version();
    let range = saved.segment.range();
    let mut body = within(shared.settings.deadline, shared.store.get(&key, range, &etag)).await??;
    let known = core.disk.as_ref().map(|disk| disk.lost_in(range)).unwrap_or_default();
    let mut proof = Proof::of(range, body.md5, &known);
    while let Some(chunk) = within(shared.settings.deadline, body.bytes.next()).await? {
        let chunk = chunk?;
        shared.counters.bytes_fetched.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let _handing_over = shared.handing_over.read();
        if !appender.append(&chunk) {
            return Err(wrong_length("the body is longer than the range"));
        }
        match &mut proof {
            Some(proof) => proof.update(&chunk),
            None => {
                appender.publish();
                saved.pieces();
            }
        }
    }
    if !appender.is_full() {
        return Err(wrong_length("the body is shorter than the range"));
    }
    if let Some(Err(mismatch)) = proof.map(Proof::finish) {
        return Ok(Err(mismatch));
    }
    let _handing_over = shared.handing_over.read();
    appender.publish();
    saved.pieces();
    if body.md5.is_some() {
        core.set_contradicted(false);
    }
    if let Some(disk) = core.disk.as_ref().filter(|_| !known.is_empty()) {
        disk.found_again(range);
    }
    Ok(Ok(()))
}

fn contradicted(core: &Core, mismatch: &Mismatch) -> StoreError {
    let (key, _) = core.version();
    let Mismatch { range, expected, came } = mismatch;
    let (start, end) = (range.start(), range.end());
    let message = format!(
        "bytes {start}..{end} of {:?} are not what they must be: {came} for {expected}",
        key.as_text()
    );
    StoreError::new(ErrorKind::Corrupt, "GetObject", message)
}

/// The store cuts stalls by itself; this is the limit where it does not.
async fn within<T>(
    limit: std::time::Duration,
    work: impl Future<Output = T>,
) -> Result<T, StoreError> {
    clock::timeout(limit, work)
        .await
        .map_err(|_| StoreError::new(ErrorKind::Timeout, "GetObject", "no bytes came in time"))
}

fn wrong_length(message: &str) -> StoreError {
    StoreError::new(ErrorKind::Corrupt, "GetObject", message)
}

/// How far the segment was handed to the disk tier.
struct Saved<'a> {
    core: &'a Arc<Core>,
    segment: &'a Arc<Segment>,
    until: u64,
    piece_bytes: u64,
}

impl<'a> Saved<'a> {
    fn nothing(core: &'a Arc<Core>, segment: &'a Arc<Segment>) -> Saved<'a> {
        let range = segment.range();
        let piece_bytes = (range.len() / PIECES).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
        // In whole pages, as the way around the page cache wants them.
        Saved {
            core,
            segment,
            until: range.start(),
            piece_bytes: piece_bytes / PAGE_BYTES * PAGE_BYTES,
        }
    }

    /// Hands over the whole pieces that have arrived, and the last one.
    fn pieces(&mut self) {
        while self.segment.filled().end() - self.until >= self.piece_bytes {
            self.hand_over(self.until + self.piece_bytes);
        }
        if self.segment.filled() == self.segment.range() {
            self.rest();
        }
    }

    /// Hands over what has arrived.
    fn rest(&mut self) {
        let end = self.segment.filled().end();
        if end > self.until {
            self.hand_over(end);
        }
    }

    fn hand_over(&mut self, end: u64) {
        let range = ByteRange::new(self.until, end);
        self.until = end;
        if let (Some(queue), Some(object)) = (&self.core.shared.write_behind, &self.core.disk) {
            queue.push(object, self.segment, range);
        }
    }
}
