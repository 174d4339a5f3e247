//! The sums of what a buffer holds: those that the bytes came with, by write(2) or from where they were read, never ones that
//! are taken of the buffer later. So bytes that change in memory are found, wherever they go from there.
//!
//! Pure.

use std::collections::BTreeMap;

use crate::checked::Sum;
use crate::range::ByteRange;

/// Stretches are cut at multiples of so many bytes of the file: to write over a piece of one all of it is read.
const STRETCH_BYTES: u64 = 64 << 10;

/// Bytes of the file, and the position of the first.
#[derive(Clone, Copy)]
pub(in crate::writer) struct View<'a> {
    pub bytes: &'a [u8],
    pub start: u64,
}

impl<'a> View<'a> {
    pub fn of(&self, range: ByteRange) -> &'a [u8] {
        &self.bytes[(range.start() - self.start) as usize..(range.end() - self.start) as usize]
    }

    fn sum(&self, range: ByteRange) -> Sum {
        Sum::of(self.of(range))
    }
}

/// Bytes in memory are not those that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::writer) struct Changed {
    /// The position in the file of a stretch that has such bytes.
    pub at: u64,
}

/// Invariant: stretches do not overlap, none reaches over a multiple of [`STRETCH_BYTES`], and two that touch are on both
/// sides of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::writer) struct Sums {
    stretches: BTreeMap<u64, Sum>,
}

impl Sums {
    /// Of what begins a file and is no longer than a stretch.
    pub fn of_one(sum: Sum) -> Sums {
        debug_assert!(sum.len <= STRETCH_BYTES);
        Sums { stretches: BTreeMap::from([(0, sum)]) }
    }

    /// Takes in that `new` will stand at `range`, which lies within one of [`pieces`], in the place of what `old` has there.
    ///
    /// # Errors
    /// A stretch of which some stays is not what was written; nothing has changed then.
    pub fn write(&mut self, range: ByteRange, new: &[u8], old: View) -> Result<(), Changed> {
        let (start, end) = (range.start(), range.end());
        let block = start - start % STRETCH_BYTES;
        let (mut from, mut head, mut tail) = (start, Sum::EMPTY, Sum::EMPTY);
        if let Some((at, sum)) = self.last_in(block, start)
            && at + sum.len >= start
        {
            from = at;
            (head, tail) = outside(at, sum, range, old)?;
        }
        // Only one can reach beyond the end. What begins a block is not joined with the one before.
        let behind = (end + 1).min(block + STRETCH_BYTES);
        if let Some((at, sum)) = self.last_in(start, behind)
            && at + sum.len > end
        {
            (_, tail) = outside(at, sum, range, old)?;
        }
        while let Some((at, _)) = self.last_in(start, behind) {
            self.stretches.remove(&at);
        }
        self.stretches.insert(from, head.then_bytes(new).then(tail));
        Ok(())
    }

    /// The last stretch that begins at or behind `from`, and before `to`.
    fn last_in(&self, from: u64, to: u64) -> Option<(u64, Sum)> {
        if from >= to {
            return None;
        }
        self.stretches.range(from..to).next_back().map(|(at, sum)| (*at, *sum))
    }

    /// The sum of a range that these stretches cover; `bytes` has them.
    pub fn of(&self, range: ByteRange, bytes: View) -> Sum {
        let sum: Sum = self.within(range, bytes).map(|(_, sum)| sum).collect();
        debug_assert_eq!(sum.len, range.len(), "{range:?} is not all there");
        sum
    }

    /// What these stretches have of a range.
    pub fn cut(&self, range: ByteRange, bytes: View) -> Sums {
        Sums { stretches: self.within(range, bytes).collect() }
    }

    /// Takes in those of other bytes, between which and its own there is a multiple of the length or a gap.
    pub fn join(&mut self, others: Sums) {
        self.stretches.extend(others.stretches);
    }

    fn within<'a>(
        &'a self,
        range: ByteRange,
        bytes: View<'a>,
    ) -> impl Iterator<Item = (u64, Sum)> + 'a {
        let (start, end) = (range.start(), range.end().max(range.start()));
        let before = self.stretches.range(..start).next_back();
        let stretches = before.into_iter().chain(self.stretches.range(start..end));
        stretches.filter_map(move |(at, sum)| {
            let piece = range.intersect(&ByteRange::at(*at, sum.len));
            (!piece.is_empty()).then(|| (piece.start(), piece_of(*at, *sum, piece, bytes)))
        })
    }
}

/// The pieces of a range that can be written each at a time.
pub(in crate::writer) fn pieces(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    cut_at_multiples(range, STRETCH_BYTES)
}

/// A range, cut at multiples of `bytes`.
pub(in crate::writer) fn cut_at_multiples(
    range: ByteRange,
    bytes: u64,
) -> impl Iterator<Item = ByteRange> {
    let mut at = range.start();
    std::iter::from_fn(move || {
        let end = range.end().min(at - at % bytes + bytes);
        (at < end).then(|| {
            let piece = ByteRange::new(at, end);
            at = end;
            piece
        })
    })
}

/// The sums of what a stretch has before and behind `range`.
fn outside(at: u64, sum: Sum, range: ByteRange, bytes: View) -> Result<(Sum, Sum), Changed> {
    let whole = ByteRange::at(at, sum.len);
    let head = ByteRange::new(at, range.start().clamp(at, whole.end()));
    let tail = ByteRange::new(range.end().clamp(at, whole.end()), whole.end());
    if head == whole {
        return Ok((sum, Sum::EMPTY));
    }
    if tail == whole {
        return Ok((Sum::EMPTY, sum));
    }
    let (head_sum, tail_sum) = (bytes.sum(head), bytes.sum(tail));
    let inside = bytes.of(ByteRange::new(head.end(), tail.start()));
    let found = head_sum.then_bytes(inside).then(tail_sum);
    if found == sum { Ok((head_sum, tail_sum)) } else { Err(Changed { at }) }
}

/// The sum of a piece of a stretch. Of one that is not what was written it is a sum that the piece does not have: what has
/// changed stays known for it.
fn piece_of(at: u64, sum: Sum, piece: ByteRange, bytes: View) -> Sum {
    if piece == ByteRange::at(at, sum.len) {
        return sum;
    }
    let found = bytes.sum(piece);
    match outside(at, sum, piece, bytes) {
        Ok(_) => found,
        Err(_) => Sum { crc: !found.crc, ..found },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: u64 = 3 * STRETCH_BYTES;
    /// Of the file, for the buffer's first byte: not the beginning of a stretch.
    const START: u64 = 5 * STRETCH_BYTES - 1000;

    /// A buffer, what was written into it, and the sums.
    struct Written {
        bytes: Vec<u8>,
        model: Vec<Option<u8>>,
        sums: Sums,
    }

    impl Written {
        fn new() -> Written {
            let none = vec![None; LEN as usize];
            Written { bytes: vec![0xEE; LEN as usize], model: none, sums: Sums::default() }
        }

        fn write(&mut self, range: ByteRange, seed: u8) -> Result<(), Changed> {
            for piece in pieces(range) {
                let new: Vec<u8> =
                    (piece.start()..piece.end()).map(|at| (at as u8).wrapping_mul(seed)).collect();
                self.sums.write(piece, &new, View { bytes: &self.bytes, start: START })?;
                for (at, byte) in (piece.start() - START..).zip(new) {
                    self.bytes[at as usize] = byte;
                    self.model[at as usize] = Some(byte);
                }
            }
            Ok(())
        }

        fn view(&self) -> View<'_> {
            View { bytes: &self.bytes, start: START }
        }

        /// What was written, run by run.
        fn runs(&self) -> Vec<(ByteRange, Vec<u8>)> {
            let mut runs: Vec<(ByteRange, Vec<u8>)> = Vec::new();
            for (at, byte) in (START..).zip(&self.model) {
                let Some(byte) = byte else { continue };
                match runs.last_mut() {
                    Some((run, bytes)) if run.end() == at => {
                        *run = ByteRange::new(run.start(), at + 1);
                        bytes.push(*byte);
                    }
                    _ => runs.push((ByteRange::at(at, 1), vec![*byte])),
                }
            }
            runs
        }

        fn assert_kept(&self) {
            let mut before = 0;
            for (at, sum) in &self.sums.stretches {
                assert!(*at >= before && sum.len > 0);
                assert_eq!(at / STRETCH_BYTES, (at + sum.len - 1) / STRETCH_BYTES, "{at}");
                assert!(*at > before || at % STRETCH_BYTES == 0, "two that touch are one");
                before = at + sum.len;
            }
        }
    }

    fn range() -> impl Strategy<Value = ByteRange> {
        let len = prop_oneof![1_u64..20, 1_u64..9000, 1_u64..150_000, Just(4096)];
        (0..LEN, len, any::<bool>()).prop_map(|(at, len, aligned)| {
            let at = START + if aligned { at / 4096 * 4096 } else { at };
            ByteRange::at(at, len).intersect(&ByteRange::at(START, LEN))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sums_are_those_of_what_was_written(
            writes in proptest::collection::vec((range(), 1_u8..), 1..40),
            asked in range(),
        ) {
            let mut written = Written::new();
            for (range, seed) in writes {
                written.write(range, seed).unwrap();
                written.assert_kept();
            }
            let mut covered = 0;
            for (run, bytes) in written.runs() {
                prop_assert_eq!(written.sums.of(run, written.view()), Sum::of(&bytes));
                let piece = run.intersect(&asked);
                if !piece.is_empty() {
                    let bytes = &bytes[(piece.start() - run.start()) as usize..][..piece.len() as usize];
                    prop_assert_eq!(written.sums.of(piece, written.view()), Sum::of(bytes));
                    prop_assert_eq!(
                        written.sums.cut(asked, written.view()).of(piece, written.view()),
                        Sum::of(bytes)
                    );
                }
                covered += run.len();
            }
            let summed: u64 = written.sums.stretches.values().map(|sum| sum.len).sum();
            prop_assert_eq!(summed, covered);
        }

        #[test]
        fn a_bit_that_turns_is_found_by_whatever_is_done_with_it(
            writes in proptest::collection::vec((range(), 1_u8..), 1..20),
            over in range(),
            place in any::<prop::sample::Index>(),
        ) {
            let mut written = Written::new();
            for (range, seed) in writes {
                written.write(range, seed).unwrap();
            }
            let places: Vec<usize> =
                (0..LEN as usize).filter(|at| written.model[*at].is_some()).collect();
            let turned = *place.get(&places);
            written.bytes[turned] ^= 1;
            let position = START + turned as u64;
            // Written over, it is gone, or found; it is never taken for what was written.
            let is_over = over.contains(&ByteRange::at(position, 1));
            let outcome = written.write(over, 3);
            for (run, bytes) in written.runs() {
                let of_run = written.sums.of(run, written.view());
                let has = written.view().of(run) == &bytes[..];
                if !run.contains(&ByteRange::at(position, 1)) {
                    prop_assert_eq!(of_run, Sum::of(written.view().of(run)));
                } else if outcome.is_ok() {
                    prop_assert_eq!(of_run, Sum::of(&bytes));
                    prop_assert_eq!(has, is_over);
                } else {
                    prop_assert!(has || of_run != Sum::of(written.view().of(run)));
                }
                // Cut anywhere, the piece with the bit has another sum.
                let piece = run.intersect(&ByteRange::at(position.saturating_sub(5), 10));
                if piece.contains(&ByteRange::at(position, 1)) && !has {
                    let bytes = written.view().of(piece);
                    prop_assert!(written.sums.of(piece, written.view()) != Sum::of(bytes));
                }
            }
        }
    }

    #[test]
    fn small_pieces_in_any_order_are_one_stretch() {
        let mut written = Written::new();
        for at in (0..40).rev().chain([100]).chain((40..100).rev()) {
            written.write(ByteRange::at(START + 1000 + at * 10, 10), 7).unwrap();
        }
        assert_eq!(written.sums.stretches.len(), 1);
    }
}
