//! Half-open byte ranges and sets of them: the arithmetic that residency is written in.

use serde::{Deserialize, Serialize};

/// The bytes `start..end` of an object or a file. Half-open; `start <= end` always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// The range `start..end`; empty where `end` does not lie beyond `start`.
    pub fn new(start: u64, end: u64) -> Self {
        ByteRange { start, end: end.max(start) }
    }

    /// `len` bytes from `start`, cut at `u64::MAX`.
    pub fn at(start: u64, len: u64) -> Self {
        ByteRange { start, end: start.saturating_add(len) }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn contains(&self, other: &ByteRange) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// What both cover; empty where they do not meet.
    pub fn intersect(&self, other: &ByteRange) -> ByteRange {
        ByteRange::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The range in pieces of `bytes` (not 0), the last one of what is left.
    pub fn pieces(self, bytes: u64) -> impl Iterator<Item = ByteRange> {
        let next = move |at: &u64| at.checked_add(bytes).filter(|at| *at < self.end);
        let starts = std::iter::successors((!self.is_empty()).then_some(self.start), next);
        starts.map(move |at| ByteRange::at(at, bytes).intersect(&self))
    }
}

/// A set of bytes, kept as disjoint ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: rangemap::RangeSet<u64>,
}

impl RangeSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, range: ByteRange) {
        if !range.is_empty() {
            self.ranges.insert(range.start..range.end);
        }
    }

    pub fn remove(&mut self, range: ByteRange) {
        if !range.is_empty() {
            self.ranges.remove(range.start..range.end);
        }
    }

    /// Whether every byte of `range` is in the set (an empty range always is).
    pub fn contains(&self, range: ByteRange) -> bool {
        range.is_empty()
            || self.ranges.get(&range.start).is_some_and(|covering| range.end <= covering.end)
    }

    /// The parts of `within` that are not in the set, in order.
    pub fn gaps(&self, within: ByteRange) -> Vec<ByteRange> {
        if within.is_empty() {
            return Vec::new();
        }
        self.ranges
            .gaps(&(within.start..within.end))
            .map(|r| ByteRange::new(r.start, r.end))
            .collect()
    }

    /// The parts of `within` that are in the set, in order.
    pub fn overlapping(&self, within: ByteRange) -> Vec<ByteRange> {
        if within.is_empty() {
            return Vec::new();
        }
        self.ranges
            .overlapping(within.start..within.end)
            .map(|r| ByteRange::new(r.start, r.end).intersect(&within))
            .collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.ranges.iter().map(|r| ByteRange::new(r.start, r.end))
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}
