//! What a file that is being written is: where each of its bytes is, from its first to its last.
//!
//! Pure but for the memory that parts hold: no disk, no store, no journal.

use std::collections::BTreeMap;

use super::objects::Base;
use super::part::{Memory, Part, Source};
use crate::part::PartPlan;
use crate::range::ByteRange;

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
            into.copy_from_slice(part.memory_bytes(piece));
        }
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

    /// Whether memory has bytes that only staging would take from there.
    pub fn has_open_buffers(&self) -> bool {
        self.parts.values().any(|part| matches!(part.memory, Memory::Open(_)))
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
