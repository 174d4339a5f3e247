//! What is promised of a version, where from, and what becomes of bytes that break a promise.
//!
//! Consistency: what is wrong leaves memory and disk before the transfer that found it ends, so that no reader finds it
//! there. Retries: once, over a connection of its own; then its readers hear of it. Crash: what the disk has of a promise
//! that was not all here is unproven for the next mount too, which knows its sums.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::Core;
use super::ledger::{Settled, combined};
use super::proof::Came;
use super::sums::{Mismatch, Promise};
use crate::checked::Stretch;
use crate::clock;
use crate::range::ByteRange;
use crate::store::{ETag, ErrorKind, Key, ObjectHead, ObjectSum, StoreError};

/// The body of a first GET waits so long for the sum of the whole object, which is asked for at the same time.
const SUM_WITHIN: Duration = Duration::from_millis(500);

impl Core {
    /// What is promised of a range that a GET brings, and what the disk had of it.
    pub(super) async fn promises_for(
        &self,
        range: ByteRange,
        head: &ObjectHead,
        md5: Option<[u8; 16]>,
    ) -> Vec<Promise> {
        self.learn_parts();
        self.learn_whole(head);
        self.recall_whole();
        if range.len() < self.len
            && self.store_tells_sums()
            && clock::timeout(SUM_WITHIN, self.ask_for_sum()).await.is_err()
        {
            // It is done without from then on. Another GET may have had the answer.
            let _ = self.asked.set(());
        }
        let lost = self.disk.as_ref().map(|disk| disk.lost_in(range)).unwrap_or_default();
        let (known, doubts) = {
            let ledger = self.ledger.lock();
            (ledger.promises(), ledger.doubts_in(range))
        };
        let meets = |promise: &&Promise| !promise.range.intersect(&range).is_empty();
        let mut promises: Vec<Promise> = known.iter().filter(meets).copied().collect();
        let is_all_promised = promises.iter().any(|promise| promise.range.contains(&range));
        if let Some(md5) = md5.filter(|_| !is_all_promised) {
            promises.push(Promise::md5(range, md5));
        }
        let others = lost.iter().map(Promise::lost);
        for other in others.chain(doubts.iter().map(|doubt| doubt.promise)) {
            if range.contains(&other.range) && !promises.contains(&other) {
                promises.push(other);
            }
        }
        promises
    }

    /// The sums of the parts, where this machine has made the object.
    pub(super) fn learn_parts(&self) {
        if !self.ledger.lock().promises().is_empty() {
            return;
        }
        let Some(journal) = &self.shared.integrity.journal else { return };
        let (key, etag) = self.version();
        let parts: Vec<Stretch> = journal.read(|state| {
            let content = state.contents.get(&key).filter(|content| content.etag == etag);
            let content = content.filter(|content| content.len() == self.len);
            content.map(|content| content.stretches()).unwrap_or_default()
        });
        let promise = |part: &Stretch| Promise::crc32c(ByteRange::at(part.at, part.len), part.crc);
        self.promise(parts.iter().map(promise));
    }

    /// Takes in what is promised. What an earlier mount has left on the disk is compared with it at once.
    fn promise(&self, more: impl IntoIterator<Item = Promise>) {
        let new = self.ledger.lock().promise(more);
        let Some((disk, tier)) = self.disk.as_ref().zip(self.shared.disk.as_ref()) else { return };
        for promise in &new {
            let found = disk.sums_within(promise.range, promise.algorithm);
            let Some(came) = combined(promise, &found) else { continue };
            if came == promise.sum {
                self.ledger.lock().is_on_disk(promise);
                continue;
            }
            log::error!("{}; dropped", self.contradiction(&Mismatch::of(promise, came)));
            tier.drop_wrong_soon(disk, promise.range, &self.shared.runtime);
            self.readers_are_misled(&[promise.range]);
        }
    }

    /// Learns what can be known without a request.
    pub(super) fn recall_sums(&self) {
        self.learn_parts();
        self.recall_whole();
    }

    /// The sum of the whole object, where an answer tells one.
    pub(super) fn learn_whole(&self, head: &ObjectHead) {
        if head.len == self.len {
            self.promise_whole(head.sum);
        }
    }

    /// As an earlier answer has told it.
    fn recall_whole(&self) {
        let (key, etag) = self.version();
        let on_disk = || self.disk.as_ref().and_then(|disk| disk.whole_sum());
        self.promise_whole(self.shared.store.known_sum(&key, &etag).or_else(on_disk));
    }

    /// Where its parts do not say it all.
    pub(super) fn promise_whole(&self, sum: Option<ObjectSum>) {
        let Some(sum) = sum.filter(|_| self.len > 0) else { return };
        let known = self.ledger.lock().promises();
        if known.iter().map(|promise| promise.range.len()).sum::<u64>() < self.len {
            if let Some(disk) = &self.disk {
                disk.learn_whole_sum(sum);
            }
            self.promise([Promise::of_object(sum, self.len)]);
        }
    }

    fn store_tells_sums(&self) -> bool {
        self.shared.store.capabilities().tells_sums && !self.asked.initialized()
    }

    /// Asks for the sum of the whole object, once.
    async fn ask_for_sum(&self) {
        let all_is_promised = {
            let promises = self.ledger.lock().promises();
            promises.iter().map(|promise| promise.range.len()).sum::<u64>() >= self.len
        };
        if all_is_promised {
            return;
        }
        self.asked
            .get_or_init(|| async {
                let (key, etag) = self.version();
                match self.shared.store.head(&key).await {
                    Ok(head) if head.etag == etag => self.learn_whole(&head),
                    Ok(_) => {}
                    Err(error) => log::debug!("no sum of {:?}: {error}", key.as_text()),
                }
                self.ask_for_parts(&key, &etag).await;
            })
            .await;
    }

    /// The parts' sums, where that of the whole is not told: it is made of theirs then.
    pub(super) async fn ask_for_parts(&self, key: &Key, etag: &ETag) {
        let is_told =
            etag.as_str().contains('-') && self.shared.store.capabilities().tells_part_sums;
        if !is_told || !self.ledger.lock().promises().is_empty() {
            return;
        }
        match self.shared.store.part_sums(key, etag).await {
            Ok(parts) if parts.last().is_some_and(|last| last.end() <= self.len) => {
                let promise = |it: &Stretch| Promise::crc32c(ByteRange::at(it.at, it.len), it.crc);
                self.promise(parts.iter().map(promise));
            }
            Ok(_) => {}
            Err(error) => log::debug!("no sums of the parts of {:?}: {error}", key.as_text()),
        }
    }

    /// Takes in what has come.
    pub(super) fn settle(&self, came: &Came) -> Settled {
        let Came { promise, piece, .. } = came;
        let on_disk = |first: u64| match &self.disk {
            Some(disk) if disk.holds(ByteRange::at(first, 1)) => {
                disk.sums_within(promise.range, promise.algorithm)
            }
            _ => Vec::new(),
        };
        self.ledger.lock().settle(promise, *piece, came.sum, on_disk)
    }

    /// What has come to be wrong leaves the cache, in memory and on the disk.
    pub(super) async fn drop_wrong(&self, ranges: &[ByteRange]) {
        ranges.iter().for_each(|range| self.drop_segments(*range));
        self.drop_wrong_on_disk(ranges).await;
    }

    /// At once; and again when what waits to be written is written or left out, for which a disk that hangs is given up.
    /// (What it is writing at this moment, the worker takes back itself.)
    pub(super) async fn drop_wrong_on_disk(&self, ranges: &[ByteRange]) {
        let (Some(disk), Some(tier)) = (&self.disk, &self.shared.disk) else { return };
        let drop_all = || ranges.iter().for_each(|range| tier.drop_wrong(disk, *range));
        drop_all();
        if let Some(queue) = &self.shared.write_behind {
            if clock::timeout(self.shared.settings.deadline, queue.settle()).await.is_err() {
                log::warn!("cache: the disk has not answered for long");
            }
            drop_all();
        }
    }

    /// Readers have some of what is wrong: they hear of it, and the kernel forgets what it has of the object.
    pub(super) fn readers_are_misled(&self, ranges: &[ByteRange]) {
        let (key, _) = self.version();
        for range in ranges {
            let (start, end) = (range.start(), range.end());
            log::error!(
                "bytes {start}..{end} of {:?} may have been read before they were found wrong",
                key.as_text()
            );
        }
        self.misled.fetch_add(1, Ordering::SeqCst);
        self.shared.integrity.readers_misled(key);
    }

    pub(super) fn contradiction(&self, mismatch: &Mismatch) -> StoreError {
        let (key, _) = self.version();
        let Mismatch { range, expected, came } = mismatch;
        let (start, end) = (range.start(), range.end());
        let message = format!(
            "bytes {start}..{end} of {:?} are not what they must be: {came} for {expected}",
            key.as_text()
        );
        StoreError::new(ErrorKind::Corrupt, "GetObject", message)
    }

    /// How far it is proven, of what came since it is in use; and what is promised.
    pub(super) fn trust(&self) -> (Vec<ByteRange>, Arc<Vec<Promise>>) {
        let ledger = self.ledger.lock();
        (ledger.proven().iter().collect(), ledger.promises())
    }
}
