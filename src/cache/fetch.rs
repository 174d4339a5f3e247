//! One GET into one segment.
//!
//! Consistency: If-Match pins the version; the store checks length, range and ETag before a byte comes
//! here. Bytes of which a sum is known are compared before readers see any of them, or, where the sum is of more than
//! one GET brings, before they see the last of them ([`super::proof`], [`super::trust`]). The disk tier has them before
//! that, so that a crash does not lose them; what is found wrong is taken from it again.
//! Retries: the store's (it goes on from the byte reached); of what is wrong, one more GET. Cancellation: when no reader wants the
//! segment any more the body is dropped, and with it the connection; what has arrived stays readable.
//! Crash: what was handed to the disk tier, an eighth at a time, is there again after a remount.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;

use super::core::{Core, within};
use super::ledger::{Doubt, Settled};
use super::proof::Proof;
use super::reread::reread;
use super::segment::{Appender, End, Segment};
use super::sums::{Mismatch, Promise, Sum};
use crate::range::ByteRange;
use crate::store::{ErrorKind, RequestId, StoreError, unpooled};

/// A segment that is still arriving is handed to the disk tier in so many pieces, so that a crash loses a
/// sixteenth of what is under way and not half of it, however many connections share that. Pieces that wait are
/// written together. Smaller ones than the least, or more of a large segment, would cost more journal records
/// than they save.
const PIECES: u64 = 8;
const PIECE_BYTES_MIN: u64 = 256 << 10;
const PIECE_BYTES_MAX: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4 << 10;

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
        () = unwanted(&segment) => {
            core.shared.counters.fetches_dropped.fetch_add(1, Ordering::Relaxed);
            End::Dropped
        }
        outcome = transfer(&core, &mut appender, &mut saved, urgency) => match outcome {
            Ok(end) => end,
            Err(error) => End::Failed(error),
        },
    };
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
    if segment.arrived() == segment.range() {
        std::future::pending::<()>().await;
    }
}

async fn transfer(
    core: &Arc<Core>,
    appender: &mut Appender,
    saved: &mut Saved<'_>,
    urgency: Urgency,
) -> Result<End, StoreError> {
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
    clear_doubts(core, segment.range()).await?;
    match one_get(core, appender, saved).await? {
        None => Ok(End::Complete),
        Some(broken) => broken.end(core, appender, saved).await,
    }
}

/// A promise that was not kept.
struct Broken {
    promise: Promise,
    mismatch: Mismatch,
    breach: Breach,
    /// Of the GET that has found it.
    request_id: Option<RequestId>,
}

/// What a promise was broken by.
enum Breach {
    /// By what this GET has brought.
    OneGet,
    /// By what came of it in pieces; the last of them by this GET.
    Pieces(Vec<(ByteRange, Sum)>),
    /// By a piece that came once more as something else. Which of the two is right is not known: the rest is not here.
    TwoForms(ByteRange),
}

/// What is compared with a sum is seen when all of it has come and is right, everything else as it comes.
async fn one_get(
    core: &Arc<Core>,
    appender: &mut Appender,
    saved: &mut Saved<'_>,
) -> Result<Option<Broken>, StoreError> {
    let shared = &core.shared;
    let (key, etag) = core.version();
    let range = saved.segment.range();
    let doubts = core.ledger.lock().doubts_in(range);
    let get = shared.store.get(&key, range, &etag);
    let mut body = match doubts.iter().any(Doubt::is_last_chance) {
        true => within(shared.settings.deadline, unpooled(get)).await??,
        false => within(shared.settings.deadline, get).await??,
    };
    let promises = core.promises_for(range, &body.head, body.md5).await;
    if let Some(disk) = &core.disk {
        disk.supersede(range);
    }
    // What was wrong before reaches the disk when it is right.
    saved.only_shown |= !doubts.is_empty();
    let mut proving = Proving::begin(core, range, &promises, body.request_id);
    while let Some(chunk) = within(shared.settings.deadline, body.bytes.next()).await? {
        let chunk = chunk?;
        shared.counters.bytes_fetched.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        if !appender.append(&chunk) {
            return Err(wrong_length("the body is longer than the range"));
        }
        if let Some(broken) = proving.update(&chunk) {
            return Ok(Some(broken));
        }
        let _handing_over = shared.handing_over.read();
        appender.show(proving.proof.shown_until());
        saved.pieces();
    }
    if !appender.is_full() {
        return Err(wrong_length("the body is shorter than the range"));
    }
    if let Some(disk) = core.disk.as_ref().filter(|_| promises.iter().any(|it| !it.proves)) {
        disk.found_again(range);
    }
    Ok(None)
}

/// The sums of a body that arrives. Where it breaks off they are of what has come.
struct Proving<'a> {
    core: &'a Arc<Core>,
    proof: Proof,
    request_id: Option<RequestId>,
}

impl<'a> Proving<'a> {
    fn begin(
        core: &'a Arc<Core>,
        range: ByteRange,
        promises: &[Promise],
        request_id: Option<RequestId>,
    ) -> Proving<'a> {
        let known = |promise: &Promise, piece: ByteRange| core.ledger.lock().known(promise, piece);
        Proving { core, proof: Proof::of(range, promises, known), request_id }
    }

    fn update(&mut self, chunk: &[u8]) -> Option<Broken> {
        let came = match self.proof.update(chunk) {
            Ok(came) => came,
            Err(of_piece) => return Some(self.broken(of_piece.0, of_piece.1, Breach::OneGet)),
        };
        came.into_iter().find_map(|came| match self.core.settle(&came) {
            Settled::Wrong(mismatch, pieces) => {
                let breach = if came.is_all() { Breach::OneGet } else { Breach::Pieces(pieces) };
                Some(self.broken(came.promise, mismatch, breach))
            }
            Settled::Changed(mismatch) => {
                Some(self.broken(came.promise, mismatch, Breach::TwoForms(came.piece)))
            }
            Settled::Incomplete | Settled::Proven => None,
        })
    }

    fn broken(&self, promise: Promise, mismatch: Mismatch, breach: Breach) -> Broken {
        Broken { promise, mismatch, breach, request_id: self.request_id.clone() }
    }
}

impl Drop for Proving<'_> {
    fn drop(&mut self) {
        for came in self.proof.cut() {
            let given: Vec<ByteRange> = match self.core.settle(&came) {
                Settled::Wrong(_, pieces) => pieces.into_iter().map(|(range, _)| range).collect(),
                Settled::Changed(_) => vec![came.piece],
                Settled::Incomplete | Settled::Proven => continue,
            };
            self.core.ledger.lock().doubt(&came.promise, true);
            // What is wrong among them leaves the cache before anything of the promise comes again.
            self.core.readers_are_misled(&given);
        }
    }
}

impl Broken {
    /// How the transfer ends that has found it. When this returns, nothing wrong is in the cache.
    async fn end(
        self,
        core: &Arc<Core>,
        appender: &mut Appender,
        saved: &mut Saved<'_>,
    ) -> Result<End, StoreError> {
        let error = core.contradiction(&self.mismatch).of_request(self.request_id.clone());
        match self.breach {
            Breach::OneGet => end_of_one_get(core, &self.promise, error, saved).await,
            Breach::Pieces(pieces) => {
                end_of_pieces(core, &self.promise, pieces, error, appender, saved).await
            }
            Breach::TwoForms(piece) => {
                log::warn!("{error}; reading all of it again");
                core.ledger.lock().doubt(&self.promise, true);
                core.readers_are_misled(&[piece]);
                saved.spoil();
                core.drop_wrong(&[piece]).await;
                Ok(End::Dropped)
            }
        }
    }
}

/// What one GET brings and is wrong is fetched again, once.
async fn end_of_one_get(
    core: &Arc<Core>,
    promise: &Promise,
    error: StoreError,
    saved: &mut Saved<'_>,
) -> Result<End, StoreError> {
    let may_come_again = core.ledger.lock().doubt(promise, false);
    saved.spoil();
    core.drop_wrong_on_disk(&[promise.range]).await;
    if may_come_again {
        log::warn!("{error}; fetching it again");
        // Its readers ask for it.
        return Ok(End::Dropped);
    }
    log::error!("{error}; given up, nothing of it is kept");
    Err(error)
}

/// Which of several pieces is wrong is known when all of them have come once more.
async fn end_of_pieces(
    core: &Arc<Core>,
    promise: &Promise,
    pieces: Vec<(ByteRange, Sum)>,
    error: StoreError,
    appender: &mut Appender,
    saved: &mut Saved<'_>,
) -> Result<End, StoreError> {
    log::warn!("{error}; reading it again");
    core.ledger.lock().doubt(promise, true);
    let ranges: Vec<ByteRange> = pieces.iter().map(|(range, _)| *range).collect();
    let own = saved.segment.range();
    let _alone = core.rereading.lock().await;
    let again = reread(core, promise, &ranges).await;
    let (wrong, error) = match &again {
        Ok(Ok(right)) => {
            let differs = right.iter().zip(&pieces).filter(|(now, before)| now.1 != before.1);
            (differs.map(|(now, _)| now.0).collect(), error)
        }
        Ok(Err(still)) => {
            let error = still.error(core);
            log::error!("{error}; given up, nothing of it is kept");
            (ranges, error)
        }
        Err(failed) => (ranges, failed.clone()),
    };
    let is_own_wrong = wrong.iter().any(|range: &ByteRange| !range.intersect(&own).is_empty());
    let shown = saved.segment.filled();
    let given: Vec<ByteRange> = wrong
        .iter()
        .copied()
        .filter(|range| !own.contains(range) || !range.intersect(&shown).is_empty())
        .collect();
    if !given.is_empty() {
        core.readers_are_misled(&given);
    }
    if is_own_wrong {
        saved.spoil();
    }
    core.drop_wrong(&wrong).await;
    // Doubted until nothing wrong is here.
    if let Ok(Ok(right)) = &again {
        core.ledger.lock().put_right(promise, right);
    }
    if is_own_wrong {
        return if given.is_empty() { Ok(End::Dropped) } else { Err(error) };
    }
    let _handing_over = core.shared.handing_over.read();
    appender.show(saved.segment.arrived().end());
    saved.pieces();
    // A body that was left in its middle is asked for by the readers that want the rest.
    Ok(if appender.is_full() { End::Complete } else { End::Dropped })
}

/// What is doubted and longer than a GET is read again as a whole before anything of `range` is fetched.
async fn clear_doubts(core: &Arc<Core>, range: ByteRange) -> Result<(), StoreError> {
    let long_doubt = || core.ledger.lock().doubts_in(range).into_iter().find(|doubt| doubt.is_long);
    while let Some(doubt) = long_doubt() {
        let _alone = core.rereading.lock().await;
        if long_doubt().is_none_or(|still| still.promise != doubt.promise) {
            continue;
        }
        let piece = doubt.promise.range.intersect(&range);
        match reread(core, &doubt.promise, &[piece]).await? {
            Ok(right) => {
                // It is not known which of the others were wrong.
                let others = outside(doubt.promise.range, range);
                core.drop_wrong(&others).await;
                core.ledger.lock().put_right(&doubt.promise, &right);
            }
            Err(still) => return Err(still.error(core)),
        }
    }
    Ok(())
}

/// What of `whole` lies before and behind `range`.
fn outside(whole: ByteRange, range: ByteRange) -> Vec<ByteRange> {
    let sides = [ByteRange::new(0, range.start()), ByteRange::new(range.end(), u64::MAX)];
    let others = sides.into_iter().map(|side| whole.intersect(&side));
    others.filter(|other| !other.is_empty()).collect()
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
    /// Not what has arrived and is not shown.
    only_shown: bool,
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
            only_shown: false,
        }
    }

    /// What has arrived and is not shown is wrong.
    fn spoil(&mut self) {
        self.segment.spoil();
        self.only_shown = true;
    }

    /// What may be handed over.
    fn ready(&self) -> ByteRange {
        if self.only_shown { self.segment.filled() } else { self.segment.arrived() }
    }

    /// Hands over the whole pieces that have arrived, and the last one.
    fn pieces(&mut self) {
        while self.ready().end().saturating_sub(self.until) >= self.piece_bytes {
            self.hand_over(self.until + self.piece_bytes);
        }
        if self.ready() == self.segment.range() {
            self.rest();
        }
    }

    /// Hands over what has arrived.
    fn rest(&mut self) {
        let end = self.ready().end();
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
