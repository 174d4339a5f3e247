//! Cache files that the kernel reads itself (passthrough), and what becomes of them when the file is written to.
//!
//! The kernel goes on reading the file that it was given, mapped or not, for as long as a handle is open that was
//! opened so; it cannot be told otherwise. So before anything is written, the cache gives that file up, and what is
//! written and cut from then on is done to it too. It belongs to these handles alone, has no name any more, and is
//! gone with the last of them.
//!
//! A mapping that is written to needs the kernel's pages, which it has none of for such a file. So an open to read
//! and write finds the file under another number of the kernel's, with pages; st_ino is the same.
//!
//! Consistency: a write is answered when it is done here too; where that fails, the write does. Crash: nothing is
//! left of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::cache::VerifiedFile;
use crate::disk::{File, OpenOptions};
use crate::range::ByteRange;

/// A file that the kernel reads, kept like the one that is written.
pub struct Mirror(File);

impl Mirror {
    pub fn of(backing: &VerifiedFile) -> io::Result<Mirror> {
        // The very file, whatever stands under its name by now.
        let path = format!("/proc/self/fd/{}", backing.as_fd().as_raw_fd());
        Ok(Mirror(OpenOptions::new().write(true).open(path)?))
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// Makes zeros of a range, as far as the file reaches.
    pub fn zero(&self, range: ByteRange) -> io::Result<()> {
        self.0.punch(range.start(), range.len())
    }
}
