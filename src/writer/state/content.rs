//! What a file that is being written is: where each of its bytes is, from its first to its last.
//!
//! Pure but for the memory that parts hold: no disk, no store, no journal.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::memory::Memory;
use super::objects::Base;
use super::part::{Part, Source};
use crate::checked::Sum;
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::staging::StagingFile;

pub(in crate::writer) struct Content {
    /// In bytes.
    pub len: u64,
    pub base: Option<Base>,
    /// How much of the base still shows: a truncation hides the rest for good.
    pub base_len: u64,
    pub plan: PartPlan,
    /// In boxes, since a map makes room for eleven: most files have one.
    pub parts: BTreeMap<u32, Box<Part>>,
    /// Changes so far: no two contents of a draft have the same count.
    pub writes: u64,
    /// Where the bytes lie that `parts` says are staged.
    pub staging: Option<Arc<StagingFile>>,
    /// What is written may be read back: acknowledged parts go to the staging file, not away.
    pub is_readable: bool,
}

impl Content {
    /// Where the bytes of `range` are, in order.
    pub fn sources(&self, range: ByteRange) -> Vec<(ByteRange, Source)> {
        let mut sources = Vec::new();
        let mut at = range.start();
        while at < range.end() {
            let index = self.plan.index_of(at);
            let within = self.plan.range_of(index);
            let piece = range.intersect(&ByteRange::new(at, within.end()));
            match self.parts.get(&index) {
                Some(part) => sources.extend(part.sources(piece, self.base_len)),
                None => sources.extend(Part::new(within).sources(piece, self.base_len)),
            }
            at = piece.end();
        }
        sources
    }

    pub fn copy_memory(&self, piece: ByteRange, into: &mut [u8]) {
        if let Some(part) = self.parts.get(&self.plan.index_of(piece.start())) {
            into.copy_from_slice(part.memory.bytes(piece));
        }
    }

    /// The sum of what memory has there.
    pub fn memory_sum(&self, piece: ByteRange) -> Sum {
        let part = self.parts.get(&self.plan.index_of(piece.start()));
        part.map_or(Sum::EMPTY, |part| part.memory.sum(piece))
    }

    /// Changes the length; `false` where the cut would go through a part that only the store has.
    pub fn cut(&mut self, len: u64) -> bool {
        if len < self.len {
            let index = self.plan.index_of(len);
            if let Some(part) = self.parts.get_mut(&index)
                && part.range.start() < len
                && part.stored.is_some()
            {
                let below = ByteRange::new(part.range.start(), len);
                if !part.written().contains(below) {
                    return false;
                }
                part.stored = None;
                part.patched = false;
            }
            let first_gone =
                if self.plan.range_of(index).start() < len { index + 1 } else { index };
            self.parts.split_off(&first_gone);
            if let Some(part) = self.parts.get_mut(&index) {
                part.touch(self.writes + 1);
                part.cut(len);
                if part.is_untouched() {
                    self.parts.remove(&index);
                }
            }
            self.base_len = self.base_len.min(len);
        }
        self.writes += u64::from(len != self.len);
        self.len = len;
        true
    }

    pub fn holds_parts(&self) -> bool {
        self.parts.values().any(|part| part.stored.is_some())
    }

    pub fn parts_stored(&self) -> usize {
        self.parts.values().filter(|part| part.stored.is_some()).count()
    }

    /// Whether bytes of it are in the store alone, in parts of its upload.
    pub fn needs_the_store(&self) -> bool {
        self.parts.values().any(|part| {
            part.stored.as_ref().is_some_and(|stored| {
                !part.written().contains(ByteRange::at(part.range.start(), stored.len))
            })
        })
    }

    /// Whether memory has bytes that only staging would take from there.
    pub fn has_open_buffers(&self) -> bool {
        self.parts.values().any(|part| matches!(part.memory, Memory::Open(_)))
    }

    /// Drops memory that the store has as well, about so many bytes of it. Returns how many it was.
    pub fn drop_clean(&mut self, wanted: u64) -> u64 {
        let mut freed = 0;
        for part in self.parts.values_mut().rev() {
            if freed >= wanted {
                break;
            }
            let bytes = part.clean_bytes();
            if bytes > 0 {
                freed += bytes;
                part.memory = Memory::None;
            }
        }
        freed
    }

    /// Drops the memory of acknowledged parts beyond `retained_max` bytes. Where they may be read they are staged
    /// first: those that are to be are returned.
    pub fn drop_beyond(&mut self, retained_max: u64) -> Vec<u32> {
        let mut retained: u64 = self.parts.values().map(|part| part.clean_bytes()).sum();
        let mut candidates: Vec<(u64, u32)> = self
            .parts
            .iter()
            // Part 0 goes last: it is the one that programs patch.
            .filter(|(index, part)| **index != 0 && part.clean_bytes() > 0)
            .map(|(index, part)| (part.generation, *index))
            .collect();
        candidates.sort_unstable();
        let mut leaving = Vec::new();
        for (_, index) in candidates {
            if retained <= retained_max {
                break;
            }
            let Some(part) = self.parts.get_mut(&index) else { continue };
            retained -= part.clean_bytes();
            if self.is_readable && !part.unstaged().is_empty() {
                leaving.push(index);
            } else {
                part.memory = Memory::None;
            }
        }
        leaving
    }

    /// Keeps only the parts that were patched after the store alone had them; whether there are any.
    pub fn keep_patches(&mut self) -> bool {
        self.parts.retain(|_, part| {
            part.stored = None;
            std::mem::take(&mut part.patched)
        });
        !self.parts.is_empty()
    }
}
