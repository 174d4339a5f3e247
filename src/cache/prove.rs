//! Reading bytes that are sent on under a sum of their own.
//!
//! A program that has read something unproven hears of it when it turns out wrong. What is written into an object is not
//! heard of any more: a wrong byte would have a right sum from then on. So what proves it is read with it.
//!
//! Retries: the store's; what is wrong is fetched again as for any other read. Cancellation: what has arrived stays.
//! Memory: a mebibyte, beside the segments.

use std::sync::atomic::Ordering;

use super::core::Core;
use super::fetch::Urgency;
use super::object::CachedObject;
use super::piece::Piece;
use super::reread::reread;
use super::segment::Interest;
use super::sums::{Digest, Mismatch, Promise};
use crate::clock::Instant;
use crate::range::ByteRange;
use crate::store::Result;

/// For some bytes of what has one sum, no more of it is read than so many times what one GET brings: an object of
/// many gibibytes with one sum for all of it is sent on unproven.
const GETS_MAX: u64 = 4;

/// Read at a time, of what is not asked for itself.
const STEP_BYTES: u64 = 1 << 20;

impl CachedObject {
    /// As [`Self::read`], of bytes that are proven, where a sum is known of them and not much else. Reads what else that
    /// takes.
    ///
    /// # Errors
    /// Those of [`Self::read`]; `Corrupt` where they are not what they must be.
    pub async fn read_proven(&self, range: ByteRange, deadline: Instant) -> Result<Piece> {
        let core = self.core();
        core.recall_sums();
        let _wanted = self.want_all_in_one();
        self.fetch_what_proves(range, deadline).await?;
        let piece = self.read(range, deadline).await?;
        // The first GET may have told of sums.
        self.fetch_what_proves(range, deadline).await?;
        let unproven = core.unproven_in(range);
        for promise in &unproven {
            self.compare_with_store(promise, deadline).await?;
        }
        if unproven.is_empty() { Ok(piece) } else { self.read(range, deadline).await }
    }

    /// The ETag of a small object may be its MD5, which one GET of all of it can be compared with, and no pieces: what is
    /// here of it comes again, once.
    fn want_all_in_one(&self) -> Vec<Interest> {
        let (core, whole) = (self.core(), ByteRange::new(0, self.len()));
        let is_provable = {
            let ledger = core.ledger.lock();
            !ledger.promises().is_empty() || ledger.proven().contains(whole)
        };
        let is_small = self.len() <= self.fetch_bytes_max();
        if is_provable || !is_small || core.came_in_one.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        core.drop_segments(whole);
        if let Some(disk) = &core.disk {
            disk.supersede(whole);
        }
        self.want(whole, self.fetch_bytes_max(), Urgency::Demand).0
    }

    /// Has all come of what is promised and not proven.
    async fn fetch_what_proves(&self, range: ByteRange, deadline: Instant) -> Result<()> {
        for promise in self.core().unproven_in(range) {
            let _wanted = self.want(promise.range, self.fetch_bytes_max(), Urgency::Demand);
            for step in promise.range.pieces(STEP_BYTES) {
                self.read(step, deadline).await?;
            }
        }
        Ok(())
    }

    /// All of it is here, and its pieces do not prove it: so the store's are read once more, and compared with them.
    async fn compare_with_store(&self, promise: &Promise, deadline: Instant) -> Result<()> {
        let core = self.core();
        let steps: Vec<ByteRange> = promise.range.pieces(STEP_BYTES).collect();
        let right = {
            let _alone = core.rereading.lock().await;
            reread(core, promise, &steps).await?.map_err(|still| still.error(core))?
        };
        for (step, sum) in &right {
            let mut digest = Digest::new(promise.algorithm);
            digest.update(self.read(*step, deadline).await?.as_ref());
            let came = digest.sum();
            if came != *sum {
                let of_step = Promise { range: *step, sum: *sum, ..*promise };
                let error = core.contradiction(&Mismatch::of(&of_step, came));
                log::error!("{error}; what is here of it is dropped");
                core.ledger.lock().doubt(promise, true);
                core.readers_are_misled(&[*step]);
                core.drop_wrong(&[*step]).await;
                return Err(error);
            }
        }
        core.ledger.lock().put_right(promise, &right);
        Ok(())
    }
}

impl Core {
    /// What is promised of a range, is not proven there, and may be read for that.
    fn unproven_in(&self, range: ByteRange) -> Vec<Promise> {
        let bytes_max = self.shared.settings.fetch_bytes_max.saturating_mul(GETS_MAX);
        let unproven: Vec<Promise> = {
            let ledger = self.ledger.lock();
            let is_unproven = |promise: &&Promise| {
                let here = promise.range.intersect(&range);
                !here.is_empty() && !ledger.proven().contains(here)
            };
            ledger.promises().iter().filter(is_unproven).copied().collect()
        };
        let is_meant = |promise: &Promise| {
            promise.proves && promise.range.len() <= bytes_max && !self.is_proven_on_disk(promise)
        };
        unproven.into_iter().filter(is_meant).collect()
    }
}
