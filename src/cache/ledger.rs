//! What came of one version since it is in use, in sums, and how far that is proven.
//!
//! A *promise* says what a range has to come to. Where it is longer than a GET its bytes come in *pieces*; once these
//! leave nothing of it out, their sums are combined and compared. Until then the range is unproven. What is *doubted* was
//! not what its promise says: nothing of it is shown that was not compared.
//!
//! Pure: no I/O, no clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::sums::{Algorithm, Mismatch, Promise, Sum};
use crate::range::{ByteRange, RangeSet};

/// With more pieces of one promise neighbours are made one. Each takes some 48 bytes; a stream of 8 MiB a GET comes to
/// so many after 32 GiB.
const PIECES_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Ledger {
    promises: Arc<Vec<Promise>>,
    pieces: HashMap<(ByteRange, Algorithm), Pieces>,
    proven: RangeSet,
    doubts: Vec<Doubt>,
}

/// Invariants: they do not overlap; `bytes` is the sum over their lengths.
#[derive(Default)]
struct Pieces {
    /// By start: end and sum.
    by_start: BTreeMap<u64, (u64, Sum)>,
    bytes: u64,
}

/// What was not what it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    pub(super) promise: Promise,
    /// GETs in a row that brought something else.
    failed: u32,
    /// Longer than a GET: all of it is read again before anything of it is shown.
    pub(super) is_long: bool,
}

/// What a piece has made of its promise.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// Some of it has not come.
    Incomplete,
    Proven,
    /// What came of it, piece by piece.
    Wrong(Mismatch, Vec<(ByteRange, Sum)>),
    /// The very piece came as something else before, and neither is proven.
    Changed(Mismatch),
}

impl Ledger {
    /// A piece of a promise has come. `on_disk` tells the sums of what the disk has of it, which count where nothing
    /// came since; it is told the first byte that did not come, without which it can say nothing of use.
    pub(super) fn settle(
        &mut self,
        promise: &Promise,
        piece: ByteRange,
        sum: Sum,
        on_disk: impl FnOnce(u64) -> Vec<(ByteRange, Sum)>,
    ) -> Settled {
        if !promise.proves {
            return self.compare(promise, piece, sum);
        }
        let pieces = self.pieces.entry((promise.range, promise.algorithm)).or_default();
        if let Some(before) = pieces.exactly(piece).filter(|before| *before != sum) {
            let before = Promise { range: piece, sum: before, ..*promise };
            self.forget(piece);
            return Settled::Changed(Mismatch::of(&before, sum));
        }
        pieces.insert(piece, sum);
        if pieces.by_start.len() > PIECES_MAX {
            pieces.merge(promise.algorithm);
        }
        let before = pieces.first_gap(promise.range).map(on_disk).unwrap_or_default();
        let all = pieces.with(&before);
        let Some(came) = combined(promise, &all) else {
            self.proven.remove(piece);
            return Settled::Incomplete;
        };
        if came == promise.sum {
            self.proven.insert(promise.range);
            self.doubts.retain(|doubt| doubt.promise != *promise);
            return Settled::Proven;
        }
        self.forget(promise.range);
        Settled::Wrong(Mismatch::of(promise, came), all)
    }

    /// All of something has come that is only known to have been so before.
    fn compare(&mut self, promise: &Promise, piece: ByteRange, came: Sum) -> Settled {
        if came != promise.sum {
            return Settled::Wrong(Mismatch::of(promise, came), vec![(piece, came)]);
        }
        self.doubts.retain(|doubt| doubt.promise != *promise);
        Settled::Incomplete
    }

    /// What is promised of the object, as far as it is known.
    pub(super) fn promises(&self) -> Arc<Vec<Promise>> {
        self.promises.clone()
    }

    /// Takes in what is promised; returns what was not known.
    pub(super) fn promise(&mut self, more: impl IntoIterator<Item = Promise>) -> Vec<Promise> {
        let known = Arc::make_mut(&mut self.promises);
        let mut new = Vec::new();
        for promise in more {
            if !known.contains(&promise) {
                known.push(promise);
                new.push(promise);
            }
        }
        new
    }

    /// The sum that these very bytes had when all of the promise was right.
    pub(super) fn known(&self, promise: &Promise, piece: ByteRange) -> Option<Sum> {
        let pieces = self.pieces.get(&(promise.range, promise.algorithm))?;
        pieces.exactly(piece).filter(|_| self.proven.contains(promise.range))
    }

    /// The bytes of a range are not to be reckoned with any more.
    pub(super) fn forget(&mut self, range: ByteRange) {
        self.proven.remove(range);
        for pieces in self.pieces.values_mut() {
            pieces.remove(range);
        }
    }

    /// The disk has all of a promise, and it is right.
    pub(super) fn is_on_disk(&mut self, promise: &Promise) {
        self.proven.insert(promise.range);
    }

    /// All of a promise was read once more and is right; its pieces come to this.
    pub(super) fn put_right(&mut self, promise: &Promise, pieces: &[(ByteRange, Sum)]) {
        let known = self.pieces.entry((promise.range, promise.algorithm)).or_default();
        pieces.iter().for_each(|(range, sum)| known.insert(*range, *sum));
        self.proven.insert(promise.range);
        self.doubts.retain(|doubt| doubt.promise != *promise);
    }

    /// A GET has brought something else than its promise says. Says whether it may be fetched again.
    pub(super) fn doubt(&mut self, promise: &Promise, is_long: bool) -> bool {
        self.forget(promise.range);
        let known = self.doubts.iter_mut().find(|doubt| doubt.promise == *promise);
        let failed = match known {
            Some(doubt) => {
                doubt.failed += 1;
                doubt.failed
            }
            None => {
                self.doubts.push(Doubt { promise: *promise, failed: 1, is_long });
                1
            }
        };
        !failed.is_multiple_of(2)
    }

    /// What is doubted of a range.
    pub(super) fn doubts_in(&self, range: ByteRange) -> Vec<Doubt> {
        let meets = |doubt: &&Doubt| !doubt.promise.range.intersect(&range).is_empty();
        self.doubts.iter().filter(meets).copied().collect()
    }

    /// Whether something of it is doubted, or has come and cannot be compared yet.
    pub(super) fn is_open(&self) -> bool {
        let has_unproven = |((range, _), pieces): (&(ByteRange, Algorithm), &Pieces)| {
            pieces.bytes > 0 && !self.proven.contains(*range)
        };
        !self.doubts.is_empty() || self.pieces.iter().any(has_unproven)
    }

    pub(super) fn proven(&self) -> &RangeSet {
        &self.proven
    }
}

impl Doubt {
    /// Its next GET is the last before its readers hear of it.
    pub(super) fn is_last_chance(&self) -> bool {
        !self.failed.is_multiple_of(2)
    }
}

impl Pieces {
    /// What came of just this range.
    fn exactly(&self, range: ByteRange) -> Option<Sum> {
        let (end, sum) = self.by_start.get(&range.start())?;
        (*end == range.end()).then_some(*sum)
    }

    /// The first byte of a range that did not come.
    fn first_gap(&self, range: ByteRange) -> Option<u64> {
        let mut reached = range.start();
        for (start, (end, _)) in self.by_start.range(reached..range.end()) {
            if *start > reached {
                break;
            }
            reached = *end;
        }
        (reached < range.end()).then_some(reached)
    }

    fn insert(&mut self, range: ByteRange, sum: Sum) {
        self.remove(range);
        self.bytes += range.len();
        self.by_start.insert(range.start(), (range.end(), sum));
    }

    fn remove(&mut self, range: ByteRange) {
        let before = self.by_start.range(..range.start()).next_back();
        let first = before.filter(|(_, (end, _))| *end > range.start()).map(|(start, _)| *start);
        let others = self.by_start.range(range.start()..range.end().max(range.start()));
        let gone: Vec<u64> = first.into_iter().chain(others.map(|(start, _)| *start)).collect();
        for start in gone {
            if let Some((end, _)) = self.by_start.remove(&start) {
                self.bytes -= end - start;
            }
        }
    }

    /// These, and of the others those that overlap none of them; in order.
    fn with(&self, others: &[(ByteRange, Sum)]) -> Vec<(ByteRange, Sum)> {
        let own = self.by_start.iter();
        let own = own.map(|(start, (end, sum))| (ByteRange::new(*start, *end), *sum));
        let mut all: Vec<(ByteRange, Sum)> = own.collect();
        if others.is_empty() {
            return all;
        }
        let mut covered = RangeSet::new();
        all.iter().for_each(|(range, _)| covered.insert(*range));
        all.extend(others.iter().filter(|(range, _)| covered.overlapping(*range).is_empty()));
        all.sort_by_key(|(range, _)| range.start());
        all
    }

    /// Makes neighbours one, two at a time.
    fn merge(&mut self, algorithm: Algorithm) {
        let mut merged: BTreeMap<u64, (u64, Sum)> = BTreeMap::new();
        let mut last: Option<(u64, u64, Sum)> = None;
        for (start, (end, sum)) in std::mem::take(&mut self.by_start) {
            let neighbour = last.take();
            let both =
                neighbour.filter(|(_, until, _)| *until == start).and_then(|(from, _, first)| {
                    Some((from, algorithm.combine(first, sum, end - start)?))
                });
            if let Some((from, both)) = both {
                merged.insert(from, (end, both));
                continue;
            }
            merged.extend(neighbour.map(|(from, until, first)| (from, (until, first))));
            last = Some((start, end, sum));
        }
        merged.extend(last.map(|(start, end, sum)| (start, (end, sum))));
        self.by_start = merged;
    }
}

/// What pieces come to that leave nothing of a promise out.
pub(super) fn combined(promise: &Promise, pieces: &[(ByteRange, Sum)]) -> Option<Sum> {
    let mut reached = promise.range.start();
    for (range, _) in pieces {
        if range.start() != reached {
            return None;
        }
        reached = range.end();
    }
    if reached != promise.range.end() {
        return None;
    }
    let (first, rest) = pieces.split_first()?;
    rest.iter()
        .try_fold(first.1, |sum, (range, next)| promise.algorithm.combine(sum, *next, range.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::sums::Digest;

    const LEN: u64 = 100;

    fn bytes() -> Vec<u8> {
        (0..LEN as u32).map(|n| ((n * 7919) >> 3) as u8).collect()
    }

    fn sum(algorithm: Algorithm, range: ByteRange, bytes: &[u8]) -> Sum {
        let mut digest = Digest::new(algorithm);
        digest.update(&bytes[range.start() as usize..range.end() as usize]);
        digest.sum()
    }

    fn whole(algorithm: Algorithm) -> Promise {
        let range = ByteRange::new(0, LEN);
        Promise { range, algorithm, sum: sum(algorithm, range, &bytes()), proves: true }
    }

    fn settle(ledger: &mut Ledger, promise: &Promise, piece: ByteRange, bytes: &[u8]) -> Settled {
        let came = sum(promise.algorithm, piece, bytes);
        ledger.settle(promise, piece, came, |_| Vec::new())
    }

    #[test]
    fn what_is_longer_than_a_get_is_proven_by_its_last_piece() {
        for algorithm in [Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Crc64Ecma] {
            let (promise, bytes, mut ledger) = (whole(algorithm), bytes(), Ledger::default());
            let pieces = [(70, 100), (0, 30), (30, 60)].map(|(a, b)| ByteRange::new(a, b));
            for piece in pieces {
                assert_eq!(settle(&mut ledger, &promise, piece, &bytes), Settled::Incomplete);
            }
            assert!(ledger.proven().is_empty());
            let last = ByteRange::new(60, 70);
            assert_eq!(settle(&mut ledger, &promise, last, &bytes), Settled::Proven);
            assert!(ledger.proven().contains(promise.range));
            assert_eq!(ledger.known(&promise, last), Some(sum(algorithm, last, &bytes)));
            // What comes once more in other pieces is not known by itself.
            let other = ByteRange::new(5, 10);
            assert_eq!(settle(&mut ledger, &promise, other, &bytes), Settled::Incomplete);
            assert!(!ledger.proven().contains(other) && ledger.known(&promise, other).is_none());
        }
    }

    #[test]
    fn what_has_come_and_is_not_compared_is_open() {
        let (promise, bytes, mut ledger) = (whole(Algorithm::Crc32c), bytes(), Ledger::default());
        assert!(!ledger.is_open(), "nothing came");
        let (first, second) = (ByteRange::new(0, 50), ByteRange::new(50, LEN));
        settle(&mut ledger, &promise, first, &bytes);
        assert!(ledger.is_open());
        settle(&mut ledger, &promise, second, &bytes);
        assert!(!ledger.is_open());
        ledger.doubt(&promise, true);
        assert!(ledger.is_open());
        ledger.put_right(&promise, &[(first, sum(promise.algorithm, first, &bytes))]);
        assert!(!ledger.is_open());
    }

    #[test]
    fn a_wrong_piece_is_told_with_all_that_took_part() {
        let (promise, mut ledger) = (whole(Algorithm::Crc32c), Ledger::default());
        let mut wrong = bytes();
        wrong[20] ^= 1;
        let (first, second) = (ByteRange::new(0, 50), ByteRange::new(50, LEN));
        assert_eq!(settle(&mut ledger, &promise, first, &wrong), Settled::Incomplete);
        let Settled::Wrong(mismatch, pieces) = settle(&mut ledger, &promise, second, &wrong) else {
            panic!("it was not noticed");
        };
        assert_eq!((mismatch.range, pieces.len()), (promise.range, 2));
        assert!(ledger.doubt(&promise, true), "once more");
        assert!(!ledger.doubt(&promise, true), "an error");
        assert!(ledger.doubt(&promise, true), "asked again, once more");
        assert_eq!(ledger.doubts_in(first).len(), 1);
        let right = [(first, sum(Algorithm::Crc32c, first, &bytes()))];
        ledger.put_right(&promise, &right);
        assert!(ledger.doubts_in(first).is_empty() && ledger.known(&promise, first).is_some());
    }

    #[test]
    fn a_piece_that_comes_in_two_forms_is_told() {
        let (promise, mut ledger) = (whole(Algorithm::Crc64Nvme), Ledger::default());
        let mut wrong = bytes();
        wrong[20] ^= 1;
        let first = ByteRange::new(0, 50);
        assert_eq!(settle(&mut ledger, &promise, first, &wrong), Settled::Incomplete);
        assert_eq!(settle(&mut ledger, &promise, first, &wrong), Settled::Incomplete);
        let Settled::Changed(mismatch) = settle(&mut ledger, &promise, first, &bytes()) else {
            panic!("readers of the first form are not told");
        };
        assert_eq!(mismatch.range, first);
        // Neither is reckoned with.
        let second = ByteRange::new(50, LEN);
        assert_eq!(settle(&mut ledger, &promise, second, &bytes()), Settled::Incomplete);
    }

    #[test]
    fn what_the_disk_has_counts_where_nothing_came_since() {
        let (promise, bytes, mut ledger) = (whole(Algorithm::Crc32c), bytes(), Ledger::default());
        let stretch = |at: u64, len: u64| {
            let range = ByteRange::at(at, len);
            (range, sum(Algorithm::Crc32c, range, &bytes))
        };
        let (piece, on_disk) = (ByteRange::new(40, 60), [stretch(0, 40), stretch(60, 40)]);
        let came = sum(Algorithm::Crc32c, piece, &bytes);
        let overlapping = vec![on_disk[0], stretch(50, 50)];
        assert_eq!(ledger.settle(&promise, piece, came, |_| overlapping), Settled::Incomplete);
        assert_eq!(
            ledger.settle(&promise, piece, came, |at| {
                assert_eq!(at, 0);
                on_disk.to_vec()
            }),
            Settled::Proven
        );
    }

    #[test]
    fn many_pieces_become_fewer() {
        let mut pieces = Pieces::default();
        let bytes = bytes();
        for at in (0..LEN).filter(|at| *at != 7) {
            let piece = ByteRange::at(at, 1);
            pieces.insert(piece, sum(Algorithm::Crc64Nvme, piece, &bytes));
        }
        for _ in 0..7 {
            pieces.merge(Algorithm::Crc64Nvme);
        }
        let ranges: Vec<(u64, u64)> =
            pieces.by_start.iter().map(|(start, (end, _))| (*start, *end)).collect();
        assert_eq!(ranges.len(), 2, "{ranges:?}");
        assert_eq!(pieces.bytes, LEN - 1);
        let promise = whole(Algorithm::Crc64Nvme);
        let gap = ByteRange::at(7, 1);
        pieces.insert(gap, sum(Algorithm::Crc64Nvme, gap, &bytes));
        assert_eq!(combined(&promise, &pieces.with(&[])), Some(promise.sum));
    }
}
