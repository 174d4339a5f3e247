//! Calls about ranges of a file: fallocate(2), lseek(2) for holes, copy_file_range(2).

use std::sync::Arc;

use super::file;
use crate::clock;
use crate::progress::{any_other, in_line};
use crate::range::ByteRange;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::handles::OpenFiles;
use crate::vfs::tree::Inode;
use crate::writer::{Base, Draft, Seek};

/// What is shorter is read and written: the cache has it at hand, and the times that cp(1) sets afterwards travel
/// with the content then, where a copy that exists already needs a second one for them. In bytes.
const COPY_BYTES_MIN: u64 = 1 << 20;

/// How long a copy waits for what else is done to its source.
const SOURCE_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// fallocate(2) with its `mode`. Space in a bucket cannot be reserved: growing makes a hole, and keeping the
/// length does nothing. EOPNOTSUPP for modes that move what lies behind.
pub async fn fallocate(vfs: &Vfs, fh: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    let end = offset.checked_add(len).ok_or_else(|| VfsError::plain(libc::EFBIG))?;
    let range = ByteRange::new(offset, end);
    let (handle, draft) = file::writable(vfs, fh)?;
    let inode = &handle.inode;
    {
        // The kernel keeps changes of a file apart, but under each number that it knows it by.
        let several = OpenFiles::has_several_numbers(inode);
        let _operation = if several { Some(inode.operation_lock().lock().await) } else { None };
        match mode {
            KEEP => return Ok(()),
            0 => in_line(draft.extend(end)).await?,
            PUNCH | ZERO_KEEP => in_line(draft.zero(range)).await?,
            ZERO => {
                in_line(draft.zero(range)).await?;
                in_line(draft.extend(end)).await?;
            }
            _ => return Err(VfsError::plain(libc::EOPNOTSUPP)),
        }
        let mirror = inode.state().used().mirror.clone();
        if let Some(mirror) = mirror {
            if mode != 0 {
                mirror.zero(range)?;
            }
            mirror.set_len(draft.len())?;
        }
    }
    vfs.versions.modified(inode);
    vfs.files.show_elsewhere(inode, handle.asked, range).await;
    Ok(())
}

/// lseek(2) with SEEK_DATA or SEEK_HOLE. What the store has counts as data: an object has no holes.
pub async fn seek(vfs: &Vfs, fh: u64, offset: i64, what: Seek) -> Result<i64> {
    let nothing_there = || VfsError::plain(libc::ENXIO);
    let offset = u64::try_from(offset).map_err(|_| nothing_there())?;
    let inode = vfs.files.handles.file(fh)?.inode.clone();
    let found = match inode.draft().filter(|draft| draft.is_dirty()) {
        Some(draft) => draft.seek(offset, what),
        None => {
            let len = inode.state().len;
            let place = if what == Seek::Data { offset } else { len };
            (offset < len).then_some(place)
        }
    };
    found.and_then(|place| i64::try_from(place).ok()).ok_or_else(nothing_there)
}

/// copy_file_range(2) inside the store: returns the bytes that were copied. EOPNOTSUPP where the store cannot do it by
/// itself; the kernel reads and writes then.
///
/// A whole object is copied at once, so that its source may go afterwards; of one that takes several calls
/// the last copies all.
pub async fn copy_file_range(
    vfs: &Vfs,
    (from, from_offset): (u64, u64),
    (to, to_offset): (u64, u64),
    len: u64,
) -> Result<u64> {
    let by_hand = || VfsError::plain(libc::EOPNOTSUPP);
    let source = vfs.files.handles.file(from)?.inode.clone();
    let (target, draft) = file::writable(vfs, to)?;
    if source.ino == target.inode.ino || from_offset != to_offset {
        return Err(by_hand());
    }
    // What others have of it is shown to them write by write.
    let is_mirrored = target.inode.state().used().mirror.is_some();
    if is_mirrored || OpenFiles::has_several_numbers(&target.inode) {
        return Err(by_hand());
    }
    let _operation = vfs.tree.operation_on(&target.inode).await;
    // So that its attributes are not saved meanwhile, which makes another version of it. Not waited for long: two calls that
    // copy from each other would wait for ever.
    let lock = clock::timeout(SOURCE_WAIT, source.operation_lock().lock()).await;
    let _source = lock.map_err(|_| by_hand())?;
    let base = copy_source(vfs, &source).ok_or_else(by_hand)?;
    let end = from_offset.saturating_add(len).min(base.len);
    if base.len < COPY_BYTES_MIN || from_offset >= end {
        return Err(by_hand());
    }
    let range = ByteRange::new(from_offset, end);
    if !any_other(draft.append_from(&base, range)).await? {
        return Err(by_hand());
    }
    vfs.versions.modified(&target.inode);
    if end == base.len {
        publish_copy(vfs, &target.inode, &draft).await?;
    }
    Ok(range.len())
}

/// The object that an inode is in the store, if it is nothing else.
fn copy_source(vfs: &Vfs, inode: &Arc<Inode>) -> Option<Base> {
    let key = vfs.tree.file_key(inode.ino);
    let (etag, len) = {
        let state = inode.state();
        let is_dirty = state.used().draft.as_ref().is_some_and(|draft| draft.is_dirty());
        let is_version = state.used().version_of.is_some();
        if is_dirty || is_version || state.unlinked || state.shadows {
            return None;
        }
        (state.etag()?, state.len)
    };
    let object = vfs.parts.cache.object(&key, &etag, len);
    Some(Base { key, etag, len, object })
}

/// A store that cannot be reached leaves the copy to the kernel: under write-back that needs no store.
async fn publish_copy(vfs: &Vfs, inode: &Arc<Inode>, draft: &Arc<Draft>) -> Result<()> {
    let published = match vfs.versions.know_all_to_write(inode).await {
        Ok(()) => any_other(draft.publish()).await,
        Err(error) => Err(error.into()),
    };
    match published {
        Ok(Some(published)) => {
            vfs.versions.adopt_published(inode, &published);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) if error.is_passing() => {
            draft.forget_passing_error();
            draft.forget_appended().await;
            Err(VfsError::plain(libc::EOPNOTSUPP))
        }
        Err(error) => Err(vfs.tree.fault_of(inode, error)),
    }
}
