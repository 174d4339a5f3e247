//! Memory that drafts hold.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::budget::{Grant, Permit};
use crate::buffer::Buffer;

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
