//! read(2), and what is seen through which handle.
//!
//! All handles of a file read the same: its draft, as soon as that differs from what the store has, otherwise
//! the object. That is decided at each read, so that a write is seen by the read that follows it, through whichever
//! handles of this mount.
//!
//! What is replaced in the store by this mount is so for a moment before the inode knows. A read that meets such a
//! moment asks again: the operation that makes the change holds the inode's operation lock, and a publish the draft's gate.

use std::sync::Arc;

use crate::cache::Piece;
use crate::clock::{self, Instant};
use crate::progress::any_other;
use crate::range::ByteRange;
use crate::reader::Reader;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::Inode;
use crate::writer::Draft;

/// Bytes of a read: a view of the cache, or assembled from a draft.
pub enum ReadBytes {
    Piece(Piece),
    Owned(Vec<u8>),
}

impl AsRef<[u8]> for ReadBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            ReadBytes::Piece(piece) => piece.as_ref(),
            ReadBytes::Owned(bytes) => bytes,
        }
    }
}

/// Where a read gets its bytes.
enum Source {
    Object(Arc<Reader>),
    Draft(Arc<Draft>),
}

impl Source {
    fn is(&self, other: &Source) -> bool {
        match (self, other) {
            (Source::Object(one), Source::Object(other)) => Arc::ptr_eq(one, other),
            (Source::Draft(one), Source::Draft(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// read(2), where no waiting is needed: `None` otherwise.
pub fn read_now(vfs: &Vfs, fh: u64, offset: u64, len: u32) -> Option<Piece> {
    let handle = vfs.files.handles.file(fh).ok()?;
    if let Some(pieces) = &handle.pieces {
        vfs.files.small_readers.note(pieces, handle.opener, offset, u64::from(len));
    }
    let reader = {
        let state = handle.inode.state();
        let used = state.used();
        // A draft may be busy with the disk.
        used.reader.clone().filter(|_| used.draft.is_none())?
    };
    reader.read_now(offset, u64::from(len))
}

/// read(2): fewer bytes than asked only at the end of the file. The caller has the log know of an error.
pub async fn read(vfs: &Vfs, fh: u64, offset: u64, len: u32) -> Result<ReadBytes> {
    let inode = vfs.files.handles.file(fh)?.inode.clone();
    let deadline = vfs.settings.deadline();
    let gone =
        || VfsError::new(libc::ESTALE, "it was never stored, and what was written is dropped");
    let mut source = source_of(vfs, &inode).ok_or_else(gone)?;
    loop {
        let outcome = read_from(&source, offset, len, deadline).await;
        if let Source::Draft(draft) = &source
            && let Some(_operation) = inode.operation_lock().try_lock()
        {
            // Another holder of the lock does the same.
            vfs.versions.adopt_on_the_way(&inode, draft);
        }
        let error = match outcome {
            Err(error) if matches!(error.errno, libc::ESTALE | libc::ENOENT) => error,
            outcome => return outcome,
        };
        let mut next = source_of(vfs, &inode).ok_or_else(gone)?;
        if next.is(&source) {
            // An operation here that replaces it is done with that afterwards.
            let lock = clock::timeout_at(deadline, inode.operation_lock().lock()).await;
            drop(lock);
            next = source_of(vfs, &inode).ok_or_else(gone)?;
        }
        if next.is(&source) || Instant::now() > deadline {
            return Err(error);
        }
        source = next;
    }
}

async fn read_from(source: &Source, offset: u64, len: u32, deadline: Instant) -> Result<ReadBytes> {
    let len = u64::from(len);
    match source {
        Source::Object(reader) => Ok(ReadBytes::Piece(reader.read(offset, len, deadline).await?)),
        Source::Draft(draft) => {
            let read = draft.read(ByteRange::at(offset, len));
            Ok(ReadBytes::Owned(any_other(read).await?))
        }
    }
}

/// Where a read of this inode gets its bytes now. `None`: it never came to be.
fn source_of(vfs: &Vfs, inode: &Inode) -> Option<Source> {
    {
        let state = inode.state();
        let used = state.used();
        if let Some(draft) = &used.draft
            && !state.etag().is_some_and(|etag| draft.stands_on(&etag))
        {
            return Some(Source::Draft(draft.clone()));
        }
        if let Some(reader) = &used.reader {
            return Some(Source::Object(reader.clone()));
        }
    }
    vfs.versions.reader(inode).map(Source::Object)
}
