//! The bytes that answer one read.

use std::sync::Arc;

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

    pub(super) fn owned(bytes: Block) -> Self {
        Piece(Bytes::Owned(bytes))
    }

    /// `range` of the segment, where it is there.
    pub(super) fn view(segment: &Arc<Segment>, range: ByteRange) -> Option<Self> {
        segment.slice(range)?;
        Some(Piece(Bytes::View(segment.clone(), range)))
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Bytes::View(_, range) => range.len() as usize,
            Bytes::Owned(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
