//! What is longer than a GET and was not what it must be is read once more: over connections of its own, in order, and
//! without keeping any of it. So it is known which of the pieces that came before were wrong.
//!
//! Retries: the store's. Cancellation: dropping it leaves what was doubted doubted. Memory: none but sums.

use std::sync::atomic::Ordering;

use futures_util::StreamExt;

use super::core::{Core, within};
use super::sums::{Digest, Mismatch, Promise, Sum};
use crate::range::ByteRange;
use crate::store::{RequestId, StoreError, unpooled};

/// What was read once more is wrong once more.
pub(super) struct StillWrong {
    mismatch: Mismatch,
    /// Of the last answer.
    request_id: Option<RequestId>,
}

impl StillWrong {
    pub(super) fn error(&self, core: &Core) -> StoreError {
        core.contradiction(&self.mismatch).of_request(self.request_id.clone())
    }
}

/// The pieces with what they come to now.
///
/// # Errors
/// The store's. Inside: all of it is once more not what is promised.
pub(super) async fn reread(
    core: &Core,
    promise: &Promise,
    pieces: &[ByteRange],
) -> Result<Result<Vec<(ByteRange, Sum)>, StillWrong>, StoreError> {
    let mut whole = Digest::new(promise.algorithm);
    let mut parts: Vec<Digest> = pieces.iter().map(|_| Digest::new(promise.algorithm)).collect();
    let mut request_id = None;
    let bytes_max = core.shared.settings.fetch_bytes_max.max(1);
    for range in promise.range.pieces(bytes_max) {
        let (key, etag) = core.version();
        let deadline = core.shared.settings.deadline;
        let get = unpooled(core.shared.store.get(&key, range, &etag));
        let mut body = within(deadline, get).await??;
        request_id = body.request_id.take().or(request_id);
        let mut at = range.start();
        while let Some(chunk) = within(deadline, body.bytes.next()).await? {
            let chunk = chunk?;
            core.shared.counters.bytes_fetched.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            whole.update(&chunk);
            let came = ByteRange::at(at, chunk.len() as u64);
            for (piece, digest) in pieces.iter().zip(&mut parts) {
                let here = piece.intersect(&came);
                if !here.is_empty() {
                    let from = (here.start() - at) as usize;
                    digest.update(&chunk[from..from + here.len() as usize]);
                }
            }
            at = came.end();
        }
    }
    let sum = whole.sum();
    if sum != promise.sum {
        let mismatch = Mismatch::of(promise, sum);
        return Ok(Err(StillWrong { mismatch, request_id }));
    }
    let sums = parts.into_iter().map(Digest::sum);
    Ok(Ok(pieces.iter().copied().zip(sums).collect()))
}
