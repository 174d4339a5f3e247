//! Byte ranges on the local disk, each with the checksum that makes it worth believing.

use std::collections::BTreeMap;

use crate::range::{ByteRange, RangeSet};

/// Ranges with a CRC-32C each.
///
/// Invariant: they are not empty and do not overlap (they may touch). A checksum speaks for its whole
/// range and nothing less, so a range that is overwritten or dropped in part is dropped whole: what is
/// left of it could not be checked. Whoever overwrites a part of a range must therefore either record
/// the whole of it anew, or be able to get the rest from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedRanges {
    /// By start.
    ranges: BTreeMap<u64, Checked>,
    /// Sum of the lengths, in bytes.
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checked {
    end: u64,
    crc: u32,
}

impl CheckedRanges {
    /// Adds `range`; older ranges that overlap it are dropped whole. An empty range adds nothing.
    pub fn insert(&mut self, range: ByteRange, crc: u32) {
        if range.is_empty() {
            return;
        }
        self.remove(range);
        self.ranges.insert(range.start(), Checked { end: range.end(), crc });
        self.bytes += range.len();
    }

    /// Drops every range that overlaps `range`, whole. Says whether there was one.
    pub fn remove(&mut self, range: ByteRange) -> bool {
        let dropped: Vec<ByteRange> = self.overlapping(range).map(|(range, _)| range).collect();
        for range in &dropped {
            self.ranges.remove(&range.start());
            self.bytes -= range.len();
        }
        !dropped.is_empty()
    }

    /// The ranges that overlap `within`, whole and in order.
    pub fn overlapping(&self, within: ByteRange) -> impl Iterator<Item = (ByteRange, u32)> + '_ {
        // At most one range begins before `within` and reaches into it: the last that begins there.
        let before = self
            .ranges
            .range(..within.start())
            .next_back()
            .filter(|(_, checked)| checked.end > within.start() && !within.is_empty());
        let inside = self.ranges.range(within.start()..within.end());
        before
            .into_iter()
            .chain(inside)
            .map(|(start, checked)| (ByteRange::new(*start, checked.end), checked.crc))
    }

    /// All ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ByteRange, u32)> + '_ {
        self.ranges
            .iter()
            .map(|(start, checked)| (ByteRange::new(*start, checked.end), checked.crc))
    }

    /// How many ranges.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes in all ranges.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes covered, without their checksums.
    pub fn to_set(&self) -> RangeSet {
        let mut set = RangeSet::new();
        for (range, _) in self.iter() {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(ranges: &CheckedRanges) -> Vec<u64> {
        ranges.iter().map(|(range, _)| range.start()).collect()
    }

    fn three() -> CheckedRanges {
        let mut ranges = CheckedRanges::default();
        ranges.insert(ByteRange::new(0, 10), 1);
        ranges.insert(ByteRange::new(10, 20), 2);
        ranges.insert(ByteRange::new(30, 40), 3);
        ranges
    }

    #[test]
    fn a_newer_range_drops_the_older_ones_it_overlaps_and_no_others() {
        let mut ranges = three();
        ranges.insert(ByteRange::new(15, 30), 4);
        assert_eq!(starts(&ranges), [0, 15, 30]);
        assert_eq!(ranges.bytes(), 10 + 15 + 10);
        ranges.insert(ByteRange::new(5, 6), 5);
        assert_eq!(starts(&ranges), [5, 15, 30]);
        assert_eq!(ranges.bytes(), 1 + 15 + 10);
    }

    #[test]
    fn what_touches_only_stays() {
        let mut ranges = three();
        assert!(!ranges.remove(ByteRange::new(20, 30)));
        assert!(!ranges.remove(ByteRange::new(5, 5)));
        assert_eq!(ranges, three());
    }

    #[test]
    fn what_is_dropped_in_part_is_dropped_whole() {
        let mut ranges = three();
        assert!(ranges.remove(ByteRange::new(9, 11)));
        assert_eq!(starts(&ranges), [30]);
        assert_eq!(ranges.bytes(), 10);
        assert!(ranges.remove(ByteRange::new(0, u64::MAX)));
        assert_eq!(ranges, CheckedRanges::default());
    }

    #[test]
    fn an_empty_range_is_nothing() {
        let mut ranges = three();
        ranges.insert(ByteRange::new(5, 5), 9);
        assert_eq!(ranges, three());
        assert_eq!(ranges.overlapping(ByteRange::new(5, 5)).count(), 0);
        assert_eq!(ranges.overlapping(ByteRange::new(5, 6)).count(), 1);
    }
}
