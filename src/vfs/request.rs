//! What calls carry besides their arguments, and what they are answered.

use std::time::{Duration, SystemTime};

use crate::namespace::attributes::Kind;

/// The process that asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// What stat(2) says.
#[derive(Clone, Debug)]
pub struct FileAttributes {
    pub ino: u64,
    /// The number by which the kernel knows the file, where that is not `ino`: for no time then, so that it asks what
    /// `ino` is.
    pub node: u64,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub len: u64,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    pub links: u32,
    /// How long the kernel may believe it without asking again.
    pub valid_for: Duration,
}

impl FileAttributes {
    /// How a name that does not exist is told to the kernel: as number 0.
    pub fn absent(valid_for: Duration) -> FileAttributes {
        FileAttributes {
            ino: 0,
            node: 0,
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            len: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            links: 0,
            valid_for,
        }
    }
}
