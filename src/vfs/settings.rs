//! How a file system behaves, and the times that follow from that.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{Result, VfsError};
use crate::clock::{FOR_EVER, Instant};
use crate::namespace::attributes::Defaults;

#[derive(Clone, Debug)]
pub struct VfsSettings {
    pub read_only: bool,
    pub write_back: bool,
    /// The kernel may read cache files itself.
    pub passthrough: bool,
    pub metadata_ttl: Duration,
    pub defaults: Defaults,
    pub mount_point: PathBuf,
    /// How long one request may take, retries included.
    pub timeout: Duration,
    /// Bytes of file content that may be in memory.
    pub memory: u64,
    /// Bytes of closed files that may wait for their upload; one file is never too long.
    pub waiting_bytes: u64,
    /// Requests that one operation sends side by side.
    pub concurrency: usize,
    /// New files get the content type that their names tell.
    pub content_type: bool,
}

impl VfsSettings {
    /// EROFS where nothing may be changed.
    pub fn check_writable(&self) -> Result<()> {
        if self.read_only { Err(VfsError::plain(libc::EROFS)) } else { Ok(()) }
    }

    /// How long an answer of the store is believed.
    pub fn believed_for(&self) -> Duration {
        self.metadata_ttl.min(FOR_EVER)
    }

    /// Until when an answer of the store is believed.
    pub fn fresh_until(&self) -> Instant {
        self.believed_until(Instant::now())
    }

    /// Until when an answer is believed that was asked for at `at`.
    pub fn believed_until(&self, at: Instant) -> Instant {
        at + self.believed_for()
    }

    /// By when a read must have its bytes: as long as one request may take, retries included.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}
