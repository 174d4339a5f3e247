//! What the cache counts, for `status` and the metrics.

use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

/// Counters since the mount; plain atomics, because no two of them need to agree.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) fetches_dropped: AtomicU64,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) bytes_from_disk: AtomicU64,
    pub(super) disk_bytes_written: AtomicU64,
    pub(super) disk_bytes_direct: AtomicU64,
    pub(super) disk_bytes_skipped: AtomicU64,
    pub(super) disk_bytes_evicted: AtomicU64,
    pub(super) disk_bytes_checked: AtomicU64,
    pub(super) disk_bytes_checked_before: AtomicU64,
    pub(super) disk_bad_ranges: AtomicU64,
    pub(super) disk_write_failures: AtomicU64,
}

/// The cache at one moment. Lengths in bytes; counts since the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Clean bytes in memory that may go at any time.
    pub memory_bytes: u64,
    /// Received from the store.
    pub bytes_fetched: u64,
    /// GETs that ended early because no reader wanted the rest.
    pub fetches_dropped: u64,
    pub disk: DiskStats,
}

/// The disk tier at one moment; all zero where there is none. Bytes, unless named otherwise; counts since the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// On disk now, and how many may be.
    pub bytes: u64,
    pub bytes_max: u64,
    /// Object versions with bytes on disk.
    pub objects: u64,
    /// Given to readers instead of what the store has.
    pub served: u64,
    pub written: u64,
    /// Of these, what went around the kernel's page cache.
    pub written_direct: u64,
    /// Fetched and not written, because the disk was slow, full or failing.
    pub skipped: u64,
    pub evicted: u64,
    /// Read to be compared with their checksums.
    pub checked: u64,
    /// Of files that an earlier mount has checked and that have not changed since.
    pub checked_before: u64,
    /// Ranges whose bytes could not be read, or were not what they had been.
    pub bad_ranges: u64,
    /// Writes that failed.
    pub write_failures: u64,
}

/// What verifying the disk tier found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    pub objects: u64,
    pub ranges: u64,
    pub bytes: u64,
    /// Dropped, to be fetched again.
    pub bad_ranges: u64,
    pub bad_bytes: u64,
}

/// What clearing the disk tier removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearReport {
    pub objects: u64,
    pub bytes: u64,
    /// Left because some file is open.
    pub objects_in_use: u64,
}
