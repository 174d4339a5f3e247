//! How the kernel moves the bytes of an open file.

use std::sync::Arc;

use super::handle::OpenMode;
use crate::cache::VerifiedFile;
use crate::reader::Reader;
use crate::store::ETag;
use crate::vfs::tree::InodeState;

/// Files below this go through the page cache, which other programs that come for them find filled.
pub const COLD_BYTES_MIN: u64 = 16 << 20;

/// How the kernel should move the bytes of an open file.
#[derive(Debug)]
pub enum Transport {
    /// Through the page cache; `keep`: what it holds of this file is still right.
    Paged { keep: bool },
    /// Straight to and from the program's memory.
    Direct,
    /// Likewise, because the file is large and not here yet.
    DirectWhileCold,
    /// From this file, without asking us.
    Passthrough { file: VerifiedFile, version: ETag },
}

pub struct Opened {
    pub fh: u64,
    pub transport: Transport,
}

/// What the choice of the way depends on and cannot be found out in a moment.
#[derive(Default)]
pub struct Prospects {
    /// What would be read, where that is an object.
    pub reader: Option<Arc<Reader>>,
    /// The cache file that has all of it.
    pub backing: Option<VerifiedFile>,
    /// It is large, not here yet, and not to be read in small pieces.
    pub is_cold: bool,
}

/// Whether the reader is of the version that the inode has now.
pub fn is_current(state: &InodeState, reader: &Reader) -> bool {
    let etag = reader.object().etag();
    match &state.used().kept_copy {
        Some(kept) => kept.1 == etag,
        None => state.etag() == Some(etag),
    }
}

/// Chooses how the kernel moves the bytes.
///
/// A file that is only written goes straight to us: 1 MiB writes cost a third of what they do through the page cache.
/// A file that is read and written stays in the page cache, which mmap needs. A file that is wholly on the local disk
/// is read by the kernel itself, as long as it is not open in another way: the kernel allows one way at a time. A
/// large file that is not there yet is read past the page cache, but by programs that read in small pieces.
pub fn transport(
    state: &mut InodeState,
    mode: OpenMode,
    prospects: &Prospects,
    reader: Option<&Reader>,
) -> Transport {
    if mode.direct || (mode.write && !mode.read) {
        return Transport::Direct;
    }
    let used = state.used();
    let written = used.draft.is_some();
    let passes = !written && used.mirror.is_none() && used.open.all == used.open.passthroughs;
    if passes && let (Some(file), Some(reader)) = (&prospects.backing, reader) {
        return Transport::Passthrough { file: file.clone(), version: reader.object().etag() };
    }
    let is_misled = reader.is_some_and(|reader| reader.object().has_misled());
    let keep = state.etag.is_some() && !written && used.paged == state.etag && !is_misled;
    if prospects.is_cold && !written && !keep && !mode.write {
        return Transport::DirectWhileCold;
    }
    let paged = state.etag.clone().filter(|_| !written);
    state.used_mut().paged = paged;
    Transport::Paged { keep }
}
