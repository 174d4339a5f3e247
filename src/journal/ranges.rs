//! Byte ranges on the local disk, each with the checksum that makes it worth believing.

use std::num::NonZeroU64;

use crate::cow::CowMap;
use crate::range::ByteRange;

/// What the bytes of a range come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeSums {
    /// Their CRC-32C.
    pub crc: u32,
    /// Their sum by the algorithm of the whole object's, where that is another and this is known. (One that comes to 0 is not
    /// kept.)
    pub of_whole: Option<NonZeroU64>,
}

/// Ranges with a CRC-32C each.
///
/// Invariant: they are not empty and do not overlap (they may touch). A checksum speaks for its whole
/// range and nothing less, so a range that is overwritten or dropped in part is dropped whole: what is
/// left of it could not be checked. A caller that overwrites a part of a range must therefore either record
/// the whole of it anew, or be able to get the rest from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct CheckedRanges {
    table: Table,
    /// Sum of the lengths, in bytes.
    bytes: u64,
}

/// Most objects are small and have one range, and there may be a million objects: a map takes some 200
/// bytes before its second entry, a list 32. From [`FEW`] on it is a tree for good.
#[derive(Clone, Debug)]
enum Table {
    /// In order.
    List(Vec<(ByteRange, RangeSums)>),
    /// By start.
    Tree(CowMap<u64, (ByteRange, RangeSums)>),
}

/// The longest list; inserting into it moves half of that many entries.
const FEW: usize = 16;

impl CheckedRanges {
    /// Adds `range`; older ranges that overlap it are dropped whole. An empty range adds nothing.
    pub fn insert(&mut self, range: ByteRange, crc: u32) {
        if range.is_empty() {
            return;
        }
        self.remove(range);
        self.bytes += range.len();
        let sums = RangeSums { crc, of_whole: None };
        match &mut self.table {
            Table::List(list) if list.len() < FEW => {
                let index = list.partition_point(|(before, _)| before.start() < range.start());
                if list.is_empty() {
                    list.reserve_exact(1);
                }
                list.insert(index, (range, sums));
            }
            Table::List(list) => {
                let entries = list.drain(..).chain([(range, sums)]);
                self.table = Table::Tree(entries.map(|entry| (entry.0.start(), entry)).collect());
            }
            Table::Tree(tree) => {
                tree.insert(range.start(), (range, sums));
            }
        }
    }

    /// The sum, by the algorithm of the whole object's, of the range that begins there. Says whether there is one.
    pub fn note_sum(&mut self, start: u64, sum: u64) -> bool {
        let of_whole = NonZeroU64::new(sum);
        match &mut self.table {
            Table::List(list) => {
                let found = list.iter_mut().find(|(range, _)| range.start() == start);
                found.is_some_and(|(_, sums)| {
                    sums.of_whole = of_whole;
                    true
                })
            }
            Table::Tree(tree) => {
                let Some((range, sums)) = tree.get(&start).copied() else { return false };
                tree.insert(start, (range, RangeSums { of_whole, ..sums }));
                true
            }
        }
    }

    /// Drops every range that overlaps `range`, whole. Says whether there was one.
    pub fn remove(&mut self, range: ByteRange) -> bool {
        let dropped: Vec<ByteRange> = self.overlapping(range).map(|(range, _)| range).collect();
        for range in &dropped {
            self.bytes -= range.len();
            match &mut self.table {
                Table::List(list) => list.retain(|(kept, _)| kept != range),
                Table::Tree(tree) => {
                    tree.remove(&range.start());
                }
            }
        }
        !dropped.is_empty()
    }

    /// The ranges that overlap `within`, whole and in order.
    pub fn overlapping(
        &self,
        within: ByteRange,
    ) -> impl Iterator<Item = (ByteRange, RangeSums)> + '_ {
        let (list, tree) = match &self.table {
            Table::List(list) => (Some(list), None),
            Table::Tree(tree) => (None, Some(tree)),
        };
        let in_list = list.into_iter().flatten();
        let in_tree = tree.into_iter().flat_map(move |tree| {
            // Of those that begin before `within`, only the last can reach into it.
            let before = tree.last_before(&within.start());
            let from = tree.iter_from(&within.start());
            let within = from.take_while(move |(start, _)| **start < within.end());
            before.into_iter().chain(within).map(|(_, entry)| entry)
        });
        in_list
            .chain(in_tree)
            .filter(move |(range, _)| !range.intersect(&within).is_empty())
            .copied()
    }

    /// All ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ByteRange, RangeSums)> + '_ {
        let (list, tree) = match &self.table {
            Table::List(list) => (Some(list), None),
            Table::Tree(tree) => (None, Some(tree)),
        };
        list.into_iter().flatten().chain(tree.into_iter().flat_map(CowMap::values)).copied()
    }

    /// How many ranges.
    pub fn count(&self) -> usize {
        match &self.table {
            Table::List(list) => list.len(),
            Table::Tree(tree) => tree.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Bytes in all ranges.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::List(Vec::new())
    }
}

impl PartialEq for CheckedRanges {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for CheckedRanges {}

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
    fn many_ranges_behave_as_few_do() {
        let mut ranges = CheckedRanges::default();
        for start in (0..100u64).rev() {
            ranges.insert(ByteRange::at(start * 10, 8), start as u32);
        }
        assert!(matches!(ranges.table, Table::Tree(_)));
        assert_eq!((ranges.count(), ranges.bytes()), (100, 800));
        let found: Vec<_> =
            ranges.overlapping(ByteRange::new(17, 41)).map(|(_, sums)| sums.crc).collect();
        assert_eq!(found, [1, 2, 3, 4]);
        assert_eq!(ranges.overlapping(ByteRange::new(18, 20)).count(), 0);
        ranges.insert(ByteRange::new(17, 41), 7);
        assert_eq!(starts(&ranges)[..3], [0, 17, 50]);
        assert_eq!((ranges.count(), ranges.bytes()), (97, 800 - 32 + 24));
    }

    #[test]
    fn a_sum_goes_with_its_range() {
        for count in [3u64, 100] {
            let mut ranges = CheckedRanges::default();
            (0..count).for_each(|at| ranges.insert(ByteRange::at(at * 10, 10), 7));
            assert!(ranges.note_sum(20, 5) && !ranges.note_sum(25, 6));
            let sum = |ranges: &CheckedRanges| {
                let found = ranges.overlapping(ByteRange::at(20, 1)).next();
                found.and_then(|(_, sums)| sums.of_whole).map(NonZeroU64::get)
            };
            assert_eq!(sum(&ranges), Some(5));
            ranges.insert(ByteRange::at(20, 10), 7);
            assert_eq!(sum(&ranges), None, "other bytes");
        }
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
