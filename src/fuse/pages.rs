//! Telling the kernel to forget what it remembers of files and names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use fuser::{INodeNo, Notifier};

use crate::range::ByteRange;
use crate::vfs::KernelCache;

/// The kernel's memory of one mount.
pub struct Pages(Notifier);

impl Pages {
    pub fn new(notifier: Notifier) -> Pages {
        Pages(notifier)
    }
}

impl KernelCache for Pages {
    fn forget(&self, ino: u64, range: Option<ByteRange>) -> io::Result<()> {
        // A negative offset leaves the pages alone.
        let (offset, len) = match range {
            Some(range) => (range.start() as i64, range.len() as i64),
            None => (-1, 0),
        };
        self.0.inval_inode(INodeNo(ino), offset, len)
    }

    fn forget_name(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.0.inval_entry(INodeNo(parent), OsStr::from_bytes(name))
    }
}
