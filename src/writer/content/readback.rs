//! Bytes out: reading what is being written, from wherever it is.

use std::collections::BTreeMap;
use std::io;

use crate::checked::Sum;
use crate::clock::Instant;
use crate::range::ByteRange;
use crate::staging::StagingFile;
use crate::store::{ErrorKind, Key, StoreError};
use crate::writer::error::WriteError;
use crate::writer::state::{Base, Draft, Source};

/// What becomes of bytes that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::writer) enum Use {
    /// A program gets them, which is told when they turn out wrong.
    Shown,
    /// They are sent, under a sum of their own: what is known of the base's sums has to agree before.
    Sent,
}

/// The bytes of `range`, cut at the end of the file. `None` where some are only in the store's parts.
pub(in crate::writer) async fn read_once(
    draft: &Draft,
    range: ByteRange,
    use_of: Use,
) -> Result<Option<Vec<u8>>, WriteError> {
    let range = range.intersect(&ByteRange::new(0, draft.len()));
    let mut bytes = vec![0; range.len() as usize];
    let read = read_into(draft, range, &mut bytes, use_of, None).await?;
    Ok(read.map(|read| {
        bytes.truncate(read);
        bytes
    }))
}

/// All of a range that is to be sent, into memory that is there, of its length; tells the sum that the bytes came with.
pub(in crate::writer) async fn load_into(
    draft: &Draft,
    range: ByteRange,
    into: &mut [u8],
) -> Result<Sum, WriteError> {
    let mut sums = BTreeMap::new();
    let read = read_into(draft, range, into, Use::Sent, Some(&mut sums)).await?;
    if read != Some(into.len()) {
        return Err(WriteError::Lost);
    }
    Ok(sums.into_values().collect())
}

/// As [`read_once`], into memory that is there, of the range's length; tells how much was read: less
/// than all only at the end of the file. Notes the sums of its pieces where they are asked for.
async fn read_into(
    draft: &Draft,
    range: ByteRange,
    into: &mut [u8],
    use_of: Use,
    mut sums: Option<&mut BTreeMap<u64, Sum>>,
) -> Result<Option<usize>, WriteError> {
    let (range, rest, base, staging, key) = {
        let state = draft.state.lock();
        let content = &state.content;
        let range = range.intersect(&ByteRange::new(0, content.len));
        let mut rest = Vec::new();
        for (piece, source) in content.sources(range) {
            let into = slice_of(into, range, piece);
            match source {
                Source::Memory => {
                    content.copy_memory(piece, into);
                    note(&mut sums, piece, || content.memory_sum(piece));
                }
                Source::Zero => {
                    into.fill(0);
                    note(&mut sums, piece, || Sum::of(into));
                }
                Source::Stored => return Ok(None),
                Source::Base | Source::Staged(_) => rest.push((piece, source)),
            }
        }
        (range, rest, content.base.clone(), content.staging.clone(), state.key.clone())
    };
    let timeout = draft.writers.settings.timeout;
    for (piece, source) in rest {
        let into = slice_of(into, range, piece);
        match (source, &base, &staging) {
            (Source::Staged(place), _, Some(staging)) => {
                read_staged(staging, &key, piece, place, into)?
            }
            (Source::Base, Some(base), _) => {
                read_base(base, piece, into, use_of, Instant::now() + timeout).await?
            }
            _ => return Err(WriteError::Lost),
        }
        note(&mut sums, piece, || Sum::of(into));
    }
    Ok(Some(range.len() as usize))
}

fn note(sums: &mut Option<&mut BTreeMap<u64, Sum>>, piece: ByteRange, sum: impl FnOnce() -> Sum) {
    if let Some(sums) = sums {
        sums.insert(piece.start(), sum());
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
    use_of: Use,
    deadline: Instant,
) -> Result<(), WriteError> {
    // A part at a time, so that a long range does not have to be in memory at once.
    const READ_BYTES: u64 = 1 << 20;
    let mut at = range.start();
    while at < range.end() {
        let piece = range.intersect(&ByteRange::at(at, READ_BYTES));
        let read = match use_of {
            Use::Shown => base.object.read(piece, deadline).await,
            Use::Sent => base.object.read_proven(piece, deadline).await,
        };
        let bytes = read.map_err(stale_if_replaced)?;
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
