//! Names and attributes in fuser's terms.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{FileAttr, FileType, INodeNo};

use crate::namespace::attributes::Kind;
use crate::namespace::escape;
use crate::vfs::FileAttributes;

/// What st_blksize says: programs read and write in multiples of it, and the kernel's requests are as
/// long at most.
const BLOCK_BYTES: u32 = 1 << 20;

/// What st_blocks counts in, whatever st_blksize says.
const SECTOR_BYTES: u64 = 512;

/// The kernel's name as it is in a key.
pub(super) fn segment(name: &OsStr) -> Vec<u8> {
    escape::to_segment(name.as_bytes()).into_owned()
}

/// And back.
pub(super) fn shown(segment: &[u8]) -> Cow<'_, [u8]> {
    // What cannot be shown is hidden long before this.
    escape::to_name(segment).unwrap_or(Cow::Borrowed(segment))
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

pub(super) fn file_attr(attributes: &FileAttributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.len,
        blocks: attributes.len.div_ceil(SECTOR_BYTES),
        atime: attributes.atime,
        mtime: attributes.mtime,
        ctime: attributes.ctime,
        crtime: attributes.mtime,
        kind: file_type(attributes.kind),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}
