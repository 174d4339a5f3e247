//! Memory that drafts hold, and the sums that its bytes came with.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::sums::{Changed, Sums, View, cut_at_multiples, pieces};
use crate::budget::{Grant, Permit};
use crate::buffer::Buffer;
use crate::checked::Sum;
use crate::range::{ByteRange, RangeSet};
use crate::seam;
use crate::store::Summed;

/// What a part has in memory.
pub(in crate::writer) enum Memory {
    None,
    /// Being written.
    Open(Open),
    /// Whole, and on its way to the store or kept after it.
    Sealed(SealedMemory),
}

impl Memory {
    /// What it has, and where: positions in the file.
    pub fn ranges(&self) -> RangeSet {
        match self {
            Memory::None => RangeSet::new(),
            Memory::Open(open) => open.ranges.clone(),
            Memory::Sealed(sealed) => {
                let mut all = RangeSet::new();
                all.insert(sealed.range());
                all
            }
        }
    }

    /// The bytes of a range that it has.
    pub fn bytes(&self, range: ByteRange) -> &[u8] {
        match self {
            Memory::None => &[],
            Memory::Open(open) => open.view().of(range),
            Memory::Sealed(sealed) => sealed.view().of(range),
        }
    }

    /// The sum of a range that it has.
    pub fn sum(&self, range: ByteRange) -> Sum {
        match self {
            Memory::None => Sum::EMPTY,
            Memory::Open(open) => open.sums.of(range, open.view()),
            Memory::Sealed(sealed) => sealed.sums.of(range, sealed.view()),
        }
    }

    /// The sums of what it has of a range.
    pub fn sums(&self, range: ByteRange) -> Sums {
        match self {
            Memory::None => Sums::default(),
            Memory::Open(open) => open.sums.cut(range, open.view()),
            Memory::Sealed(sealed) => sealed.sums.cut(range, sealed.view()),
        }
    }
}

/// A buffer that is being written.
pub(in crate::writer) struct Open {
    /// Shared while it is written to the staging file.
    held: Arc<Held>,
    /// The file position of the buffer's first byte.
    pub start: u64,
    /// What of it is valid: positions in the file.
    pub ranges: RangeSet,
    /// Of just that.
    sums: Sums,
}

/// Why nothing was put into a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::writer) enum NotPut {
    /// It is being written to the staging file.
    Shared,
    /// What is there is not what was written.
    Changed(Changed),
}

impl Open {
    pub fn new(held: Held, start: u64) -> Open {
        Open { held: Arc::new(held), start, ranges: RangeSet::new(), sums: Sums::default() }
    }

    pub fn end(&self) -> u64 {
        self.start + self.capacity()
    }

    /// Copies `bytes` to the file position `at`, which lies in the buffer as do the bytes. The sum is that of `bytes`.
    ///
    /// # Errors
    /// Where the buffer is shared nothing was done. Where it has changed nothing was done from there on.
    pub fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), NotPut> {
        let Some(held) = Arc::get_mut(&mut self.held) else { return Err(NotPut::Shared) };
        for piece in pieces(ByteRange::at(at, bytes.len() as u64)) {
            let new = &bytes[(piece.start() - at) as usize..(piece.end() - at) as usize];
            let old = View { bytes: &held.buffer, start: self.start };
            self.sums.write(piece, new, old).map_err(NotPut::Changed)?;
            let from = (piece.start() - self.start) as usize;
            held.buffer[from..from + new.len()].copy_from_slice(new);
            seam::turn("part-buffer", &mut held.buffer[from..from + new.len()]);
            self.ranges.insert(piece);
        }
        Ok(())
    }

    /// Copies what another memory has of a range, with the sums that it has there. This has nothing of it.
    pub fn take_over(&mut self, range: ByteRange, from: &Memory) {
        let Some(held) = Arc::get_mut(&mut self.held) else { return };
        let at = (range.start() - self.start) as usize;
        held.buffer[at..at + range.len() as usize].copy_from_slice(from.bytes(range));
        self.sums.join(from.sums(range));
        self.ranges.insert(range);
    }

    /// How much memory it takes, in bytes.
    pub fn capacity(&self) -> u64 {
        self.held.buffer.capacity() as u64
    }

    /// The first `len` bytes, for good.
    pub fn freeze(&self, len: u64) -> SealedMemory {
        let range = ByteRange::at(self.start, len);
        let sums = self.sums.cut(range, self.view());
        SealedMemory { bytes: self.held.clone().freeze(len as usize), start: self.start, sums }
    }

    /// Forgets what lies at or behind a position.
    pub fn cut(&mut self, len: u64) {
        self.sums = self.sums.cut(ByteRange::new(0, len), self.view());
        self.ranges.remove(ByteRange::new(len, u64::MAX));
    }

    fn view(&self) -> View<'_> {
        View { bytes: &self.held.buffer, start: self.start }
    }
}

/// Bytes that are not written any more.
#[derive(Clone)]
pub(in crate::writer) struct SealedMemory {
    bytes: Bytes,
    /// The file position of its first byte.
    start: u64,
    sums: Sums,
}

impl SealedMemory {
    /// Few bytes (64 KiB at most) that begin a file.
    pub fn small(summed: Summed) -> SealedMemory {
        let Summed { bytes, sum } = summed;
        SealedMemory { bytes, start: 0, sums: Sums::of_one(sum) }
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn range(&self) -> ByteRange {
        ByteRange::at(self.start, self.len())
    }

    /// The bytes of a range of it.
    pub fn bytes(&self, range: ByteRange) -> &[u8] {
        self.view().of(range)
    }

    /// The sums of a range of it, each of what lies between two multiples of `bytes` in the file.
    pub fn sums(&self, range: ByteRange, bytes: u64) -> Vec<Sum> {
        let pieces = cut_at_multiples(range, bytes);
        pieces.map(|piece| self.sums.of(piece, self.view())).collect()
    }

    /// Whether it is this very memory, whatever its sums are.
    pub fn is_memory_of(&self, other: &Memory) -> bool {
        let first = match other {
            Memory::None => return false,
            Memory::Open(open) => open.held.buffer.as_ptr(),
            Memory::Sealed(sealed) => sealed.bytes.as_ptr(),
        };
        self.bytes.as_ptr() == first
    }

    /// Forgets what lies at or behind a position.
    pub fn cut(&mut self, len: u64) {
        self.sums = self.sums.cut(ByteRange::new(0, len), self.view());
        self.bytes.truncate(len.saturating_sub(self.start) as usize);
    }

    /// All of it, for the store.
    pub fn summed(&self) -> Summed {
        let sum = self.sums.of(self.range(), self.view());
        Summed { bytes: self.bytes.clone(), sum }
    }

    fn view(&self) -> View<'_> {
        View { bytes: &self.bytes, start: self.start }
    }
}

/// Memory that belongs to a draft, with the permit that pays for it.
pub(in crate::writer) struct Held {
    pub buffer: Buffer,
    _permit: Permit,
    /// Held where it is beyond the budget.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// A buffer of `capacity` bytes, which `grant` pays for.
    pub fn new(capacity: u64, grant: Grant) -> io::Result<Held> {
        let buffer = Buffer::recycled(capacity as usize)?;
        Ok(Held { buffer, _permit: grant.keep(), _turn: None })
    }

    /// The same, in its turn beyond the budget.
    pub fn in_turn(self, turn: Option<OwnedSemaphorePermit>) -> Held {
        Held { _turn: turn, ..self }
    }

    /// The first `len` bytes, which are not written any more.
    pub fn freeze(self: Arc<Self>, len: usize) -> Bytes {
        Bytes::from_owner(Frozen { held: self, len })
    }
}

struct Frozen {
    held: Arc<Held>,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.held.buffer[..self.len]
    }
}
