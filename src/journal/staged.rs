//! What of a draft is in its staging file: a log, like the file itself.
//!
//! The staging file only grows, so every entry's bytes stay as they were and its checksum holds for
//! good; of two entries that overlap, the later one is meant. An entry goes when nothing of it is meant any more.
//!
//! Each change costs the logarithm of the entries: there may be as many as there were writes between fsyncs.

use serde::{Deserialize, Serialize};

use super::record::{DraftId, Record};
use crate::cow::CowMap;
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

/// Stretches that were staged one over the other.
///
/// Invariants: `meant` says of each byte which entry gives it, the latest that covers it, unless that was taken away
/// since; its pieces are not empty and do not overlap. `visible` is the sum over an entry's bytes there, and never 0.
/// `bytes` is the sum over the entries' ranges.
#[derive(Clone, Debug, Default)]
struct Layers {
    /// By age.
    entries: CowMap<u64, Entry>,
    /// By start: the end, and the entry's number.
    meant: CowMap<u64, (u64, u64)>,
    next: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    range: ByteRange,
    bytes: StagedBytes,
    /// How many of its bytes are meant.
    visible: u64,
}

impl Layers {
    /// Adds an entry over all that were before. Not empty.
    fn put(&mut self, range: ByteRange, bytes: StagedBytes) {
        self.hide(range);
        self.entries.insert(self.next, Entry { range, bytes, visible: range.len() });
        self.meant.insert(range.start(), (range.end(), self.next));
        self.next += 1;
        self.bytes += range.len();
    }

    /// Nothing of `range` is meant any more. Says whether any of it was. Not empty.
    fn hide(&mut self, range: ByteRange) -> bool {
        let hidden: Vec<(ByteRange, u64)> = self.pieces(range).collect();
        for (piece, number) in &hidden {
            self.meant.remove(&piece.start());
            if piece.start() < range.start() {
                self.meant.insert(piece.start(), (range.start(), *number));
            }
            if range.end() < piece.end() {
                self.meant.insert(range.end(), (piece.end(), *number));
            }
            let Some(entry) = self.entries.get_mut(number) else { continue };
            entry.visible -= piece.intersect(&range).len();
            if entry.visible == 0 {
                self.bytes -= entry.range.len();
                self.entries.remove(number);
            }
        }
        !hidden.is_empty()
    }

    /// What of `meant` overlaps `range`, whole and in order, each with its entry.
    fn pieces(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, u64)> + '_ {
        let piece =
            |(start, (end, entry)): (&u64, &(u64, u64))| (ByteRange::new(*start, *end), *entry);
        let before = self.meant.last_before(&range.start()).map(piece);
        let before = before.filter(move |(piece, _)| range.start() < piece.end());
        let others = self.meant.iter_from(&range.start()).map(piece);
        before.into_iter().chain(others.take_while(move |(piece, _)| piece.start() < range.end()))
    }

    fn meant(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.meant.iter().map(|(start, (end, _))| ByteRange::new(*start, *end))
    }

    /// The entries, oldest first.
    fn iter(&self) -> impl Iterator<Item = StagedRange> + '_ {
        self.entries
            .values()
            .map(|entry| StagedRange { range: entry.range, bytes: Some(entry.bytes) })
    }
}

/// What was staged, as of the last seal.
#[derive(Clone, Debug, Default)]
pub struct StagedLog {
    layers: Layers,
}

impl PartialEq for StagedLog {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for StagedLog {}

impl StagedLog {
    /// Adds a stretch; entries that it covers are forgotten.
    pub fn insert(&mut self, range: ByteRange, crc: u32, at: u64) {
        if !range.is_empty() {
            self.layers.put(range, StagedBytes { crc, at });
        }
    }

    /// From here on the staging file is not meant for `range`. Says whether it was for any of it.
    pub fn remove(&mut self, range: ByteRange) -> bool {
        !range.is_empty() && self.layers.hide(range)
    }

    /// The entries, oldest first: where two overlap, the later one is meant. Last comes what is not meant of them.
    pub fn iter(&self) -> impl Iterator<Item = StagedRange> + '_ {
        let mut hidden = RangeSet::new();
        self.layers.iter().for_each(|entry| hidden.insert(entry.range));
        self.layers.meant().for_each(|meant| hidden.remove(meant));
        let hidden: Vec<ByteRange> = hidden.iter().collect();
        let hidden = hidden.into_iter().map(|range| StagedRange { range, bytes: None });
        self.layers.iter().chain(hidden)
    }

    /// Whether the staging file is meant for all of `range`.
    pub fn covers(&self, range: ByteRange) -> bool {
        let mut upto = range.start();
        for (piece, _) in self.layers.pieces(range) {
            if upto < piece.start() {
                return false;
            }
            upto = piece.end();
        }
        range.end() <= upto
    }

    pub fn is_empty(&self) -> bool {
        self.layers.entries.is_empty()
    }

    pub fn clear(&mut self) {
        *self = StagedLog::default();
    }

    /// Bytes that entries name, those that are partly overwritten counted whole.
    pub fn bytes(&self) -> u64 {
        self.layers.bytes
    }
}

/// What happened to a draft's staging file since its last seal. It does not touch what was sealed: that is
/// what a crash brings back, whole, until the next seal takes all of this in at once.
///
/// Invariant: what is taken away is not meant.
#[derive(Clone, Debug)]
pub struct UnsealedLog {
    layers: Layers,
    taken: RangeSet,
    cut: u64,
}

impl Default for UnsealedLog {
    fn default() -> Self {
        UnsealedLog { layers: Layers::default(), taken: RangeSet::new(), cut: u64::MAX }
    }
}

impl PartialEq for UnsealedLog {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UnsealedLog {}

impl UnsealedLog {
    pub fn push(&mut self, new: StagedRange) {
        let range = new.range;
        if range.is_empty() {
            return;
        }
        match new.bytes {
            Some(bytes) => {
                self.layers.put(range, bytes);
                self.taken.remove(range);
            }
            None => {
                self.layers.hide(range);
                self.taken.insert(range);
                if range.end() == u64::MAX {
                    self.cut = self.cut.min(range.start());
                }
            }
        }
    }

    /// A seal: `sealed` says from now on what both said.
    pub fn seal_into(&mut self, sealed: &mut StagedLog) {
        for entry in std::mem::take(self).iter() {
            match entry.bytes {
                Some(bytes) => sealed.insert(entry.range, bytes.crc, bytes.at),
                None => {
                    sealed.remove(entry.range);
                }
            }
        }
    }

    /// What was staged and is meant, in order.
    pub fn meant(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.layers.meant()
    }

    pub fn bytes(&self) -> u64 {
        self.layers.bytes
    }

    /// To what length the file was cut meanwhile; the largest number where it was not.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// What comes to the same: the deepest cut, what was staged, oldest first, and what is not meant of the file in
    /// the end.
    pub fn iter(&self) -> impl Iterator<Item = StagedRange> + '_ {
        let beyond = ByteRange::new(self.cut, u64::MAX);
        // In two where the cut goes through it: from below it, it would be a deeper one.
        let taken = self.taken.iter().flat_map(move |range| {
            let below = ByteRange::new(range.start(), range.end().min(beyond.start()));
            [below, range.intersect(&beyond)]
        });
        let removals = |range| StagedRange { range, bytes: None };
        std::iter::once(beyond)
            .filter(|range| !range.is_empty())
            .map(removals)
            .chain(self.layers.iter())
            .chain(taken.filter(|range| !range.is_empty()).map(removals))
    }

    pub fn is_empty(&self) -> bool {
        self.layers.entries.is_empty() && self.taken.is_empty()
    }

    pub fn clear(&mut self) {
        *self = UnsealedLog::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 1000;

    fn staged(range: ByteRange, at: u64) -> StagedRange {
        StagedRange { range, bytes: Some(StagedBytes { crc: at as u32, at }) }
    }

    /// Where each byte below `END` is, by applying the entries one after the other.
    fn picture(entries: impl Iterator<Item = StagedRange>, picture: &mut [Option<u64>]) {
        for entry in entries {
            for at in entry.range.start()..entry.range.end().min(END) {
                let place = entry.bytes.map(|bytes| bytes.at + at - entry.range.start());
                picture[at as usize] = place;
            }
        }
    }

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

    #[test]
    fn any_history_comes_to_what_its_entries_say() {
        let mut seed = 1_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let (mut sealed, mut unsealed) = (StagedLog::default(), UnsealedLog::default());
            let (mut before, mut expected) = (vec![None; 1000], vec![None; 1000]);
            let (mut place, mut cut) = (0, u64::MAX);
            for step in 0..60 {
                let start = random(END);
                let range = ByteRange::at(start, 1 + random(200));
                let entry = match random(5) {
                    0 => StagedRange { range, bytes: None },
                    1 if step % 3 == 0 => {
                        StagedRange { range: ByteRange::new(start, u64::MAX), bytes: None }
                    }
                    _ => staged(range, place),
                };
                place += range.len();
                if entry.range.end() == u64::MAX {
                    cut = cut.min(start);
                }
                unsealed.push(entry);
                picture(std::iter::once(entry), &mut expected);
                assert_eq!(unsealed.cut(), cut);
                // As a checkpoint would write it.
                let mut again = UnsealedLog::default();
                unsealed.iter().for_each(|entry| again.push(entry));
                assert!(again == unsealed && again.cut() == cut);
                let mut seen = before.clone();
                picture(unsealed.iter(), &mut seen);
                assert_eq!(seen, expected);
                if random(10) == 0 {
                    unsealed.seal_into(&mut sealed);
                    (before, cut) = (expected.clone(), u64::MAX);
                    assert!(unsealed.is_empty());
                    let mut seen = vec![None; 1000];
                    picture(sealed.iter(), &mut seen);
                    assert_eq!(seen, expected);
                    let covered = expected[..300].iter().all(Option::is_some);
                    assert_eq!(sealed.covers(ByteRange::new(0, 300)), covered);
                }
            }
        }
    }

    /// As a database does it: many small writes, each sealed, over the same file again and again.
    #[test]
    fn many_small_entries_cost_no_more_than_their_number() {
        let begun = crate::clock::Instant::now();
        let (mut sealed, mut unsealed) = (StagedLog::default(), UnsealedLog::default());
        for write in 0..200_000_u64 {
            let range = ByteRange::at(write * 7919 % 100_000 * 4096, 4096);
            unsealed.push(staged(range, write * 4096));
            unsealed.seal_into(&mut sealed);
            sealed.remove(ByteRange::new(500_000_000_000, u64::MAX));
        }
        assert_eq!(sealed.bytes(), 100_000 * 4096);
        // Quadratic, it would be minutes.
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    }
}
