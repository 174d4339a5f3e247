//! One part of a draft: which of its bytes are where.
//!
//! Invariants:
//! 1. `Memory::Sealed` holds the part's whole content from its first byte on; nothing is written into it.
//! 2. A byte's newest content is in memory if memory has it, else in the staging file if that has it,
//!    else in the stored part if there is one, else in the base, else it is zero.
//! 3. `stored` is the part's whole current content unless `patched`.
//! 4. `staged` names current content only: what is written over it leaves it.
//! 5. `generation` changes with every change of content and is never used twice in a draft: an answer
//!    for another generation is void.
//! 6. Nothing is written into a buffer while it is written to the staging file (a [`Claim`] shares it then).

use std::sync::{Arc, Weak};

use super::memory::{Memory, SealedMemory};
use crate::range::{ByteRange, RangeSet};
use crate::store::StoredPart;

/// Where a range's newest bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::writer) enum Source {
    Memory,
    /// In the staging file, at this place.
    Staged(u64),
    Stored,
    Base,
    Zero,
}

/// Ranges of the file and where they stand: value + start of range = place in the staging file (wrapping),
/// so that neighbours written in one go are one entry.
pub(in crate::writer) type Places = rangemap::RangeMap<u64, u64>;

pub(in crate::writer) struct Part {
    /// What the part covers when it is full.
    pub range: ByteRange,
    pub memory: Memory,
    pub staged: Places,
    /// The generation whose content the staging file last got.
    pub staged_generation: u64,
    pub stored: Option<StoredPart>,
    pub patched: bool,
    /// The draft's count of writes when this part was last written.
    pub generation: u64,
    /// Its memory is being written to the staging file, as long as that lives.
    claimed: Weak<()>,
}

/// What one part had only in memory, while it is written to the staging file without the draft's `state`. As long as this
/// lives it is not written there once more, and nothing is written into its buffer.
pub(in crate::writer) struct Claim {
    pub generation: u64,
    /// In order. None where the staging file has it all.
    pub ranges: Vec<ByteRange>,
    pub memory: SealedMemory,
    _claim: Arc<()>,
}

impl Part {
    pub fn new(range: ByteRange) -> Part {
        Part {
            range,
            memory: Memory::None,
            staged: Places::new(),
            staged_generation: 0,
            stored: None,
            patched: false,
            generation: 0,
            claimed: Weak::new(),
        }
    }

    /// Freezes a part whose first `len` bytes are all in its open buffer.
    pub fn seal(&mut self, len: u64) -> bool {
        let Memory::Open(open) = &self.memory else { return false };
        self.memory = Memory::Sealed(open.freeze(len));
        true
    }

    /// Whether its memory is being written to the staging file.
    pub fn is_claimed(&self) -> bool {
        self.claimed.strong_count() > 0
    }

    /// Claims what memory has and the staging file has not. `None` where that is claimed, or memory has nothing.
    pub fn claim(&mut self) -> Option<Claim> {
        if self.is_claimed() {
            return None;
        }
        let memory = match &self.memory {
            Memory::None => return None,
            Memory::Open(open) => open.freeze(open.capacity()),
            Memory::Sealed(sealed) => sealed.clone(),
        };
        let claim = Arc::new(());
        self.claimed = Arc::downgrade(&claim);
        let ranges = self.unstaged().iter().collect();
        Some(Claim { generation: self.generation, ranges, memory, _claim: claim })
    }

    /// Lets go of the memory that was claimed, if the part still has it. Returns its bytes.
    pub fn let_go_of(&mut self, claim: &Claim) -> u64 {
        if !claim.memory.is_memory_of(&self.memory) {
            return 0;
        }
        match std::mem::replace(&mut self.memory, Memory::None) {
            Memory::None => 0,
            Memory::Open(open) => open.capacity(),
            Memory::Sealed(sealed) => sealed.len(),
        }
    }

    /// The store holds the part's whole current content.
    pub fn is_stored(&self) -> bool {
        self.stored.is_some() && !self.patched
    }

    /// Memory that can be dropped without losing anything, in bytes.
    pub fn clean_bytes(&self) -> u64 {
        match &self.memory {
            Memory::Sealed(sealed) if self.is_stored() => sealed.len(),
            _ => 0,
        }
    }

    /// Longer than memory takes (`window` bytes), written from end to end on the disk, and neither in the store nor
    /// (`sending`) on its way there.
    pub fn waits_on_disk(&self, window: u64, sending: bool) -> bool {
        self.range.len() > window
            && !sending
            && !self.is_stored()
            && self.written().contains(self.range)
    }

    /// Sealed, and neither in the store nor (`sending`) on its way there.
    pub fn waits(&self, sending: bool) -> bool {
        matches!(self.memory, Memory::Sealed(_)) && !self.is_stored() && !sending
    }

    /// The store has acknowledged the present content. `true` where the staging file held an older one,
    /// which is not meant any more.
    pub fn is_stored_as(&mut self, stored: StoredPart) -> bool {
        self.stored = Some(stored);
        self.patched = false;
        let stale = !self.staged.is_empty() && self.staged_generation != self.generation;
        if stale {
            self.staged.clear();
        }
        stale
    }

    /// Nothing was written into it.
    pub fn is_untouched(&self) -> bool {
        matches!(self.memory, Memory::None) && self.staged.is_empty() && self.stored.is_none()
    }

    /// Content is about to change.
    pub fn touch(&mut self, generation: u64) {
        self.generation = generation;
        self.patched = self.stored.is_some();
    }

    pub fn stage_at(&mut self, range: ByteRange, place: u64) {
        if !range.is_empty() {
            self.staged.insert(range.start()..range.end(), place.wrapping_sub(range.start()));
            self.staged_generation = self.generation;
        }
    }

    /// What memory holds and the staging file does not.
    pub fn unstaged(&self) -> RangeSet {
        let mut unstaged = self.memory.ranges();
        for (range, _) in self.staged.iter() {
            unstaged.remove(ByteRange::new(range.start, range.end));
        }
        unstaged
    }

    /// The ranges that were written and are not in the base: in memory or staged.
    pub fn written(&self) -> RangeSet {
        let mut written = self.memory.ranges();
        for (range, _) in self.staged.iter() {
            written.insert(ByteRange::new(range.start, range.end));
        }
        written
    }

    /// Where the bytes of `want` are, in order. `base_len` is how much of the base shows.
    pub fn sources(&self, want: ByteRange, base_len: u64) -> Vec<(ByteRange, Source)> {
        let mut sources = Vec::new();
        let in_memory = self.memory.ranges();
        for range in in_memory.overlapping(want) {
            sources.push((range, Source::Memory));
        }
        for gap in in_memory.gaps(want) {
            self.sources_below_memory(gap, base_len, &mut sources);
        }
        sources.sort_by_key(|(range, _)| range.start());
        sources
    }

    fn sources_below_memory(
        &self,
        want: ByteRange,
        base_len: u64,
        sources: &mut Vec<(ByteRange, Source)>,
    ) {
        let mut rest = RangeSet::new();
        rest.insert(want);
        for (staged, shift) in self.staged.overlapping(want.start()..want.end()) {
            let range = ByteRange::new(staged.start, staged.end).intersect(&want);
            rest.remove(range);
            sources.push((range, Source::Staged(shift.wrapping_add(range.start()))));
        }
        for range in rest.iter() {
            match &self.stored {
                Some(stored) => {
                    let end = self.range.start() + stored.len;
                    split_at(range, end, Source::Stored, Source::Zero, sources);
                }
                None => split_at(range, base_len, Source::Base, Source::Zero, sources),
            }
        }
    }

    /// Forgets what lies at or behind `len`, the file's new length. The caller has made sure that no
    /// stored content that is still needed is lost.
    pub fn cut(&mut self, len: u64) {
        self.staged.remove(len..u64::MAX);
        match &mut self.memory {
            Memory::Open(open) => {
                open.cut(len);
                if open.ranges.is_empty() {
                    self.memory = Memory::None;
                }
            }
            Memory::Sealed(sealed) => sealed.cut(len),
            Memory::None => {}
        }
    }
}

fn split_at(
    range: ByteRange,
    at: u64,
    below: Source,
    above: Source,
    sources: &mut Vec<(ByteRange, Source)>,
) {
    let low = range.intersect(&ByteRange::new(0, at));
    if !low.is_empty() {
        sources.push((low, below));
    }
    let high = range.intersect(&ByteRange::new(at, u64::MAX));
    if !high.is_empty() {
        sources.push((high, above));
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Held, Open};
    use super::*;
    use crate::budget::Budget;

    fn open_part() -> Part {
        let grant = Budget::new(1 << 20).try_reserve(100).unwrap();
        let mut part = Part::new(ByteRange::new(1000, 1100));
        let mut open = Open::new(Held::new(100, grant).unwrap(), 1000);
        assert!(open.put(1010, &[7; 20]).is_ok() && open.put(1050, &[8; 10]).is_ok());
        part.memory = Memory::Open(open);
        part.stage_at(ByteRange::new(1010, 1015), 0);
        part
    }

    fn put(part: &mut Part) -> bool {
        let Memory::Open(open) = &mut part.memory else { return false };
        open.put(1012, &[9; 3]).is_ok()
    }

    #[test]
    fn nothing_is_written_into_a_buffer_that_goes_to_the_disk() {
        let mut part = open_part();
        let claim = part.claim().unwrap();
        assert_eq!(claim.ranges, [ByteRange::new(1015, 1030), ByteRange::new(1050, 1060)]);
        assert!(!put(&mut part) && part.claim().is_none(), "nor is it claimed twice");
        // Sealed meanwhile it has the same bytes.
        assert!(part.seal(60));
        assert_eq!(
            (claim.memory.bytes(claim.ranges[0]), claim.memory.bytes(claim.ranges[1])),
            (&[7; 15][..], &[8; 10][..])
        );
        drop(claim);
        assert!(!part.is_claimed() && part.claim().is_some());
    }

    #[test]
    fn only_the_memory_that_was_claimed_is_let_go_of() {
        let mut part = open_part();
        let claim = part.claim().unwrap();
        drop(claim);
        assert!(put(&mut part), "free again");
        let claim = part.claim().unwrap();
        part.memory = open_part().memory;
        assert_eq!(part.let_go_of(&claim), 0);
        assert!(put(&mut part), "another buffer");
        drop(claim);
        let claim = part.claim().unwrap();
        assert!(part.let_go_of(&claim) >= 100 && matches!(part.memory, Memory::None));
    }
}
