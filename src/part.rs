//! How an object is cut into parts: pure arithmetic, pinned for the life of an upload.

use serde::{Deserialize, Serialize};

use crate::range::ByteRange;

/// The most parts that S3 allows in one upload.
pub const PARTS_MAX: u32 = 10_000;

/// The largest object that S3 allows: 5 TiB.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;

/// The part sizes of one upload. Part *indexes* start at 0; the part *number* is the index plus 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartPlan {
    /// Length of the first part, in bytes.
    part_bytes: u64,
    /// All parts are of that length (some providers demand it); otherwise later parts are larger.
    equal: bool,
}

/// The longest part that S3 allows: 5 GiB.
pub const PART_BYTES_MAX: u64 = 5 << 30;

/// How parts grow: `(parts, times the first part's length)`. Small parts first, because a part that was
/// under way when the power went has to be sent again; from 5 MiB the 10,000 parts reach past 5 TiB.
const GROWTH: [(u32, u64); 5] = [(1000, 1), (1000, 2), (2000, 8), (3000, 32), (3000, 320)];

impl PartPlan {
    pub fn new(part_bytes: u64, equal: bool) -> Self {
        PartPlan { part_bytes, equal }
    }

    /// Length of the first part, in bytes.
    pub fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// Whether all parts are of one length.
    pub fn is_equal(&self) -> bool {
        self.equal
    }

    /// The longest object that fits, in bytes.
    pub fn len_max(&self) -> u64 {
        self.tiers().map(|tier| tier.end).max().unwrap_or(0).min(OBJECT_BYTES_MAX)
    }

    /// The part that holds the byte at `offset`, which lies below [`Self::len_max`].
    pub fn index_of(&self, offset: u64) -> u32 {
        for tier in self.tiers() {
            if offset < tier.end {
                return tier.first_index + ((offset - tier.start) / tier.part_bytes) as u32;
            }
        }
        PARTS_MAX
    }

    /// The bytes that part `index` covers when it is full.
    pub fn range_of(&self, index: u32) -> ByteRange {
        for tier in self.tiers() {
            let in_tier = u64::from(index - tier.first_index);
            if in_tier < tier.parts {
                return ByteRange::at(tier.start + in_tier * tier.part_bytes, tier.part_bytes);
            }
        }
        ByteRange::at(self.len_max(), 0)
    }

    fn tiers(&self) -> impl Iterator<Item = Tier> + use<> {
        const EQUAL: [(u32, u64); 1] = [(PARTS_MAX, 1)];
        let table: &'static [(u32, u64)] = if self.equal { &EQUAL } else { &GROWTH };
        let part_bytes = self.part_bytes;
        let mut first_index = 0;
        let mut start = 0;
        table.iter().map(move |&(parts, times)| {
            let part_bytes = (part_bytes * times).min(PART_BYTES_MAX);
            let parts_bytes = u64::from(parts) * part_bytes;
            let (parts, end) = (u64::from(parts), start + parts_bytes);
            let tier = Tier { first_index, parts, part_bytes, start, end };
            first_index += parts as u32;
            start = end;
            tier
        })
    }
}

/// A run of parts of one length.
struct Tier {
    first_index: u32,
    parts: u64,
    part_bytes: u64,
    start: u64,
    end: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_every_size_reach_five_tib_and_stay_in_bounds() {
        for part_bytes in [5 << 20, 8 << 20, 64 << 20, 5 << 30] {
            let plan = PartPlan::new(part_bytes, false);
            assert_eq!(plan.len_max(), OBJECT_BYTES_MAX);
            assert!(plan.range_of(PARTS_MAX - 1).len() <= PART_BYTES_MAX);
        }
        assert_eq!(PartPlan::new(8 << 20, true).len_max(), 10_000 * (8 << 20));
    }

    #[test]
    fn every_part_begins_where_the_one_before_ends() {
        let plan = PartPlan::new(8 << 20, false);
        let mut end = 0;
        for index in 0..PARTS_MAX {
            let range = plan.range_of(index);
            assert_eq!(range.start(), end, "part {index}");
            assert_eq!(plan.index_of(range.start()), index);
            assert_eq!(plan.index_of(range.end() - 1), index);
            end = range.end();
        }
    }
}
