//! The bytes that answer one read: a view of what came from the store, or put together by [`Gathering`], which takes
//! from a cache file only what was compared with its checksum.

use std::io;
use std::sync::Arc;

use super::cache_file::OpenFile;
use super::disk::DiskTier;
use super::residency::DiskObject;
use super::segment::Segment;
use crate::buffer::Block;
use crate::range::ByteRange;

/// The bytes of exactly the range asked for: a view into one segment without a copy where one holds
/// them all, else a buffer of their own (from disk, or put together from several segments).
pub struct Piece(Bytes);

enum Bytes {
    /// Invariant: the segment holds the range.
    View(Arc<Segment>, ByteRange),
    Owned(Block),
}

impl Piece {
    /// No bytes: a read at or behind the end.
    pub fn empty() -> Self {
        Piece(Bytes::Owned(Block::Heap(Box::default())))
    }

    /// `range` of the segment, where it is there.
    pub(super) fn view(segment: &Arc<Segment>, range: ByteRange) -> Option<Self> {
        segment.slice(range)?;
        Some(Piece(Bytes::View(segment.clone(), range)))
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            // Bytes of a segment never go away again (see Growing), so the slice is always there.
            Bytes::View(segment, range) => segment.slice(*range).unwrap_or_default(),
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// A read that is being put together, in order.
pub(super) struct Gathering {
    range: ByteRange,
    bytes: Block,
    /// The bytes up to here (a position in the object) are what they should be.
    reached: u64,
}

impl Gathering {
    /// # Errors
    /// No memory for the bytes of `range`.
    pub(super) fn of(range: ByteRange) -> io::Result<Gathering> {
        let bytes = Block::recycled(range.len() as usize)?;
        Ok(Gathering { range, bytes, reached: range.start() })
    }

    /// Adds `part`, which comes next, out of memory. `None`: not all of it is there.
    pub(super) fn add_from_memory(&mut self, segment: &Segment, part: ByteRange) -> Option<()> {
        let here = segment.slice(part)?;
        self.next(part)?.copy_from_slice(here);
        self.reached = part.end();
        Some(())
    }

    /// Adds `part`, which comes next, off the disk. `None`: it turned out bad, or is not there any more.
    pub(super) fn add_from_disk(
        &mut self,
        tier: &DiskTier,
        object: &Arc<DiskObject>,
        file: &OpenFile,
        part: ByteRange,
    ) -> Option<()> {
        tier.read(object, file, part, self.next(part)?)?;
        self.reached = part.end();
        Some(())
    }

    fn next(&mut self, part: ByteRange) -> Option<&mut [u8]> {
        let follows = part.start() == self.reached && part.end() <= self.range.end();
        let from = (part.start() - self.range.start()) as usize;
        follows.then(|| &mut self.bytes[from..from + part.len() as usize])
    }

    /// The whole, if nothing of it is missing.
    pub(super) fn finish(self) -> Option<Piece> {
        (self.reached == self.range.end()).then(|| Piece(Bytes::Owned(self.bytes)))
    }
}
