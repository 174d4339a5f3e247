//! What of a draft is in its staging file: a log, like the file itself.
//!
//! The staging file only grows, so every entry's bytes stay as they were and its checksum holds for
//! good; of two entries that overlap, the later one is meant. An entry goes when later ones cover it.

use serde::{Deserialize, Serialize};

use super::record::{DraftId, Record};
use crate::range::{ByteRange, RangeSet};

/// One stretch of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedRange {
    pub range: ByteRange,
    /// Where its bytes are; `None`: from here on the staging file is *not* meant for this range.
    pub bytes: Option<StagedBytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedBytes {
    /// CRC-32C of the range's bytes.
    pub crc: u32,
    /// Position in the staging file.
    pub at: u64,
}

impl StagedRange {
    /// The record that says so of `draft`.
    pub fn record(&self, draft: DraftId) -> Record {
        match self.bytes {
            Some(bytes) => {
                Record::Staged { draft, range: self.range, crc: bytes.crc, at: bytes.at }
            }
            None => Record::StagedDropped { draft, range: self.range },
        }
    }
}

/// Entries in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StagedLog {
    entries: Vec<StagedRange>,
}

impl StagedLog {
    /// Adds a stretch; entries that it covers are forgotten.
    pub fn insert(&mut self, range: ByteRange, crc: u32, at: u64) {
        self.push(StagedRange { range, bytes: Some(StagedBytes { crc, at }) });
    }

    /// From here on the staging file is not meant for `range`. Says whether it was for any of it.
    pub fn remove(&mut self, range: ByteRange) -> bool {
        let meant = self
            .entries
            .iter()
            .any(|entry| entry.bytes.is_some() && !entry.range.intersect(&range).is_empty());
        if meant {
            self.push(StagedRange { range, bytes: None });
        }
        meant
    }

    fn push(&mut self, new: StagedRange) {
        if new.range.is_empty() {
            return;
        }
        self.entries.retain(|old| !new.range.contains(&old.range));
        self.entries.push(new);
        self.drop_idle_removals();
    }

    /// An entry that takes away says nothing where no earlier one gives.
    fn drop_idle_removals(&mut self) {
        if self.entries.iter().all(|entry| entry.bytes.is_some()) {
            return;
        }
        let mut kept: Vec<StagedRange> = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let overlaps = |old: &StagedRange| {
                old.bytes.is_some() && !old.range.intersect(&entry.range).is_empty()
            };
            if entry.bytes.is_some() || kept.iter().any(overlaps) {
                kept.push(*entry);
            }
        }
        self.entries = kept;
    }

    /// The entries, oldest first: where two overlap, the later one is meant.
    pub fn iter(&self) -> impl Iterator<Item = &StagedRange> + '_ {
        self.entries.iter()
    }

    /// Whether the staging file is meant for all of `range`.
    pub fn covers(&self, range: ByteRange) -> bool {
        let mut meant = RangeSet::new();
        for entry in &self.entries {
            match entry.bytes {
                Some(_) => meant.insert(entry.range),
                None => meant.remove(entry.range),
            }
        }
        meant.contains(range)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Bytes that entries name, those that are partly overwritten counted whole.
    pub fn bytes(&self) -> u64 {
        let named = self.entries.iter().filter(|entry| entry.bytes.is_some());
        named.map(|entry| entry.range.len()).sum()
    }
}

/// What happened to a draft's staging file since its last seal. It does not touch what was sealed: that is
/// what a crash brings back, whole, until the next seal takes all of this in at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsealedLog {
    entries: Vec<StagedRange>,
}

impl UnsealedLog {
    pub fn push(&mut self, new: StagedRange) {
        if !new.range.is_empty() {
            self.entries.retain(|old| !new.range.contains(&old.range));
            self.entries.push(new);
        }
    }

    /// A seal: `sealed` says from now on what both said.
    pub fn seal_into(&mut self, sealed: &mut StagedLog) {
        for entry in std::mem::take(&mut self.entries) {
            match entry.bytes {
                Some(bytes) => sealed.insert(entry.range, bytes.crc, bytes.at),
                None => {
                    sealed.remove(entry.range);
                }
            }
        }
    }

    /// Whether anything was staged of `range`.
    pub fn gives(&self, range: ByteRange) -> bool {
        let given = |entry: &StagedRange| {
            entry.bytes.is_some() && !entry.range.intersect(&range).is_empty()
        };
        self.entries.iter().any(given)
    }

    pub fn bytes(&self) -> u64 {
        let named = self.entries.iter().filter(|entry| entry.bytes.is_some());
        named.map(|entry| entry.range.len()).sum()
    }

    /// To what length the file was cut meanwhile; the largest number where it was not.
    pub fn cut(&self) -> u64 {
        let cuts = self.entries.iter().filter(|entry| entry.range.end() == u64::MAX);
        cuts.map(|entry| entry.range.start()).min().unwrap_or(u64::MAX)
    }

    pub fn iter(&self) -> impl Iterator<Item = &StagedRange> + '_ {
        self.entries.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_entries_are_kept_behind_the_earlier_ones_they_overlap() {
        let mut log = StagedLog::default();
        log.insert(ByteRange::new(0, 100), 1, 0);
        log.insert(ByteRange::new(10, 20), 2, 100);
        assert_eq!(log.iter().map(|entry| entry.range.start()).collect::<Vec<_>>(), [0, 10]);
        log.insert(ByteRange::new(5, 30), 3, 110);
        assert_eq!(log.iter().map(|entry| entry.range.start()).collect::<Vec<_>>(), [0, 5]);
    }

    #[test]
    fn what_is_taken_away_stays_away_until_it_is_staged_again() {
        let mut log = StagedLog::default();
        assert!(!log.remove(ByteRange::new(0, 10)));
        log.insert(ByteRange::new(0, 100), 1, 0);
        assert!(log.remove(ByteRange::new(50, u64::MAX)));
        assert_eq!(log.iter().filter(|entry| entry.bytes.is_none()).count(), 1);
        log.insert(ByteRange::new(0, 200), 2, 100);
        assert!(log.remove(ByteRange::new(0, u64::MAX)));
        assert!(log.is_empty());
    }
}
