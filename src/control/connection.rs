//! Ending a FUSE mount's connection to the kernel, by way of fusectl.
//!
//! Consistency: the kernel gives the number of a connection that has ended to the next mount, of any user. So the
//! file is opened while the mount is known to be ours, and speaks of that connection alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use super::mount_table::Mounted;

/// A connection that lived when this was made.
#[derive(Debug)]
pub struct Connection {
    abort: File,
}

impl Connection {
    /// Of a FUSE mount.
    ///
    /// # Errors
    /// Where fusectl is not mounted at /sys/fs/fuse/connections, or the mount is another user's.
    pub fn of(mounted: &Mounted) -> io::Result<Connection> {
        let path = format!("/sys/fs/fuse/connections/{}/abort", mounted.device.minor);
        Ok(Connection { abort: OpenOptions::new().write(true).open(path)? })
    }

    /// Ends it: all programs that use the mount, in whatever mount namespace, get an error, also those that wait for an
    /// answer. Nothing happens where it has ended.
    pub fn abort(&self) -> io::Result<()> {
        (&self.abort).write_all(b"1")
    }
}
