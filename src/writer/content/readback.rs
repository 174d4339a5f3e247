//! Bytes out: reading what is being written, from wherever it is.

use std::io;
use std::sync::Arc;

use crate::clock::Instant;
use crate::range::ByteRange;
use crate::staging::StagingFile;
use crate::store::{ETag, ErrorKind, Key, StoreError};
use crate::writer::error::WriteError;
use crate::writer::state::{Base, Draft, Source};

impl Draft {
    /// The bytes of `range`, cut at the end of the file.
    pub async fn read(self: &Arc<Self>, range: ByteRange) -> Result<Vec<u8>, WriteError> {
        self.keep_readable();
        self.verified().await?;
        loop {
            let base = self.base();
            match self.read_once(range).await {
                Ok(Some(bytes)) => return Ok(bytes),
                // Only the store has some of it, and nobody can read a part: make it an object.
                Ok(None) => {
                    self.publish_as_is().await?;
                }
                Err(error) => {
                    if self.base() == base {
                        // It is this draft that may just have replaced its base: a publish holds the gate.
                        drop(self.gate.read().await);
                    }
                    if self.base() == base {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn base(&self) -> Option<(Key, ETag)> {
        let core = self.core.lock();
        core.content.base.as_ref().map(|base| (base.key.clone(), base.etag.clone()))
    }

    /// `None` where bytes are only in the store's parts.
    pub(in crate::writer) async fn read_once(
        &self,
        range: ByteRange,
    ) -> Result<Option<Vec<u8>>, WriteError> {
        let range = range.intersect(&ByteRange::new(0, self.len()));
        let mut bytes = vec![0; range.len() as usize];
        let read = self.read_into(range, &mut bytes).await?;
        Ok(read.map(|read| {
            bytes.truncate(read);
            bytes
        }))
    }

    /// As [`Draft::read_once`], into memory that is there, of the range's length; tells how much was read: less
    /// than all only at the end of the file.
    pub(in crate::writer) async fn read_into(
        &self,
        range: ByteRange,
        into: &mut [u8],
    ) -> Result<Option<usize>, WriteError> {
        let (range, rest, base, staging, key) = {
            let core = self.core.lock();
            let range = range.intersect(&ByteRange::new(0, core.content.len));
            let mut rest = Vec::new();
            for (piece, source) in core.content.sources(range) {
                let into = slice_of(into, range, piece);
                match source {
                    Source::Memory => core.content.copy_memory(piece, into),
                    Source::Zero => into.fill(0),
                    Source::Stored => return Ok(None),
                    Source::Base | Source::Staged(_) => rest.push((piece, source)),
                }
            }
            (range, rest, core.content.base.clone(), core.staging.clone(), core.key.clone())
        };
        let timeout = self.writers.settings.timeout;
        for (piece, source) in rest {
            let into = slice_of(into, range, piece);
            match (source, &base, &staging) {
                (Source::Staged(place), _, Some(staging)) => {
                    read_staged(staging, &key, piece, place, into)?
                }
                (Source::Base, Some(base), _) => {
                    read_base(base, piece, into, Instant::now() + timeout).await?
                }
                _ => return Err(WriteError::Lost),
            }
        }
        Ok(Some(range.len() as usize))
    }
}

/// Reads a range of the file that is staged at `place`. It is as it was written, or this is an error: neither readers
/// nor the store get anything else, and what is there is kept.
pub(in crate::writer) fn read_staged(
    staging: &StagingFile,
    key: &Key,
    range: ByteRange,
    place: u64,
    into: &mut [u8],
) -> io::Result<()> {
    staging.read_at(into, place).map_err(|error| unreadable(key, range, &error))
}

/// The error for staged bytes that cannot be had, which the log has as well.
pub(in crate::writer) fn unreadable(key: &Key, range: ByteRange, error: &io::Error) -> io::Error {
    let (start, end) = (range.start(), range.end());
    let text = format!("bytes {start}..{end} that were kept on the disk cannot be had: {error}");
    log::error!("{key}: {text}; they are neither read nor sent");
    io::Error::new(error.kind(), text)
}

/// Reads a range of the base. Another version in the store is `Stale`.
pub(in crate::writer) async fn read_base(
    base: &Base,
    range: ByteRange,
    into: &mut [u8],
    deadline: Instant,
) -> Result<(), WriteError> {
    // A part at a time, so that a long range does not have to be in memory at once.
    const READ_BYTES: u64 = 1 << 20;
    let mut at = range.start();
    while at < range.end() {
        let piece = range.intersect(&ByteRange::at(at, READ_BYTES));
        let bytes = base.object.read(piece, deadline).await.map_err(stale_if_replaced)?;
        slice_of(into, range, piece).copy_from_slice(bytes.as_ref());
        at = piece.end();
    }
    Ok(())
}

/// An error about the base: that it is another version now has its own name.
pub(in crate::writer) fn stale_if_replaced(error: StoreError) -> WriteError {
    match error.kind {
        ErrorKind::NotFound | ErrorKind::PreconditionFailed | ErrorKind::InvalidRange => {
            WriteError::Stale
        }
        _ => WriteError::Store(error),
    }
}

pub(in crate::writer) fn slice_of(
    bytes: &mut [u8],
    whole: ByteRange,
    piece: ByteRange,
) -> &mut [u8] {
    let from = (piece.start() - whole.start()) as usize;
    &mut bytes[from..from + piece.len() as usize]
}
