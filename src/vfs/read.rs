//! read(2), and who sees what.
//!
//! All who have a file open read the same: its draft, as soon as that differs from what the store has, otherwise
//! the object. That is decided at each read, so that a write is seen by the read that follows it, through whichever
//! handles of this mount.
//!
//! What is replaced in the store by this mount is so for a moment before the inode knows. A read that meets such a
//! moment asks again: the operation that makes the change holds the inode's turn, and a publish the draft's gate.

use std::sync::Arc;

use super::Vfs;
use super::error::{Result, VfsError};
use super::inode::Inode;
use crate::cache::Piece;
use crate::clock::{self, Instant};
use crate::progress::any_other;
use crate::range::ByteRange;
use crate::reader::Reader;
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

impl Vfs {
    /// read(2), where no waiting is needed: `None` otherwise.
    pub fn read_now(&self, fh: u64, offset: u64, len: u32) -> Option<Piece> {
        let handle = self.handles.file(fh).ok()?;
        if let Some(pieces) = &handle.pieces {
            self.small_readers.note(pieces, handle.opener, offset, u64::from(len));
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
    pub async fn read(&self, fh: u64, offset: u64, len: u32) -> Result<ReadBytes> {
        let inode = self.handles.file(fh)?.inode.clone();
        let deadline = self.deadline();
        let gone =
            || VfsError::new(libc::ESTALE, "it was never stored, and what was written is dropped");
        let mut source = self.source(&inode).ok_or_else(gone)?;
        loop {
            let outcome = self.read_from(&source, offset, len, deadline).await;
            if let Source::Draft(draft) = &source
                && let Some(_turn) = inode.turn().try_lock()
            {
                // Whoever else has the turn does the same.
                self.adopt_on_the_way(&inode, draft);
            }
            let error = match outcome {
                Err(error) if matches!(error.errno, libc::ESTALE | libc::ENOENT) => error,
                outcome => return outcome,
            };
            let mut next = self.source(&inode).ok_or_else(gone)?;
            if next.is(&source) {
                // Whoever replaces it here, if anybody does, is done with that afterwards.
                let turn = clock::timeout_at(deadline, inode.turn().lock()).await;
                drop(turn);
                next = self.source(&inode).ok_or_else(gone)?;
            }
            if next.is(&source) || Instant::now() > deadline {
                return Err(error);
            }
            source = next;
        }
    }

    async fn read_from(
        &self,
        source: &Source,
        offset: u64,
        len: u32,
        deadline: Instant,
    ) -> Result<ReadBytes> {
        let len = u64::from(len);
        match source {
            Source::Object(reader) => {
                Ok(ReadBytes::Piece(reader.read(offset, len, deadline).await?))
            }
            Source::Draft(draft) => {
                let read = draft.read(ByteRange::at(offset, len));
                Ok(ReadBytes::Owned(any_other(read).await?))
            }
        }
    }

    /// Where a read of this inode gets its bytes now. `None`: it never came to be.
    fn source(&self, inode: &Inode) -> Option<Source> {
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
        self.reader(inode).map(Source::Object)
    }

    /// The reader that all handles share: the kernel asks for a page once, on whichever handle needed it first, so
    /// that each handle by itself sees only fragments of what is read. Made where there is none, and kept if the
    /// inode is open.
    pub(super) fn reader(&self, inode: &Inode) -> Option<Arc<Reader>> {
        loop {
            let key = self.inodes.file_key(inode.ino);
            let (version, len) = {
                let state = inode.state();
                if let Some(reader) = &state.used().reader {
                    return Some(reader.clone());
                }
                let version = match &state.used().aside {
                    // Its own key is another file's by now, or nobody's.
                    Some(aside) => (**aside).clone(),
                    None => (key, state.etag()?),
                };
                (version, state.len)
            };
            let made = Arc::new(Reader::new(self.cache.object(&version.0, &version.1, len)));
            let mut state = inode.state();
            let is_current = match &state.used().aside {
                Some(aside) => **aside == version,
                None => state.etag() == Some(version.1),
            };
            if is_current {
                if state.used().opens > 0 {
                    return Some(state.used_mut().reader.get_or_insert(made).clone());
                }
                return Some(made);
            }
        }
    }
}
