//! What the cache counts, for `status` and the metrics.

use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

/// Counters since the mount; plain atomics, because no two of them need to agree.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) fetches: AtomicU64,
    pub(super) fetches_dropped: AtomicU64,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) overdrafts: AtomicU64,
    pub(super) bytes_from_disk: AtomicU64,
    pub(super) disk_bytes_written: AtomicU64,
    pub(super) disk_bytes_around: AtomicU64,
    pub(super) disk_bytes_skipped: AtomicU64,
    pub(super) disk_bytes_evicted: AtomicU64,
    pub(super) disk_bytes_checked: AtomicU64,
    pub(super) disk_bytes_trusted: AtomicU64,
    pub(super) disk_bad_ranges: AtomicU64,
    pub(super) disk_write_failures: AtomicU64,
    pub(super) journal_failures: AtomicU64,
}

/// The cache at one moment. Lengths in bytes; counts since the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStats {
    /// Clean bytes in memory that may go at any time.
    pub memory_bytes: u64,
    /// Bytes on disk, and their limit.
    pub disk_bytes: u64,
    pub disk_bytes_max: u64,
    /// Object versions with bytes on disk.
    pub disk_objects: u64,
    /// GETs sent, and how many of them ended early because nobody wanted the rest.
    pub fetches: u64,
    pub fetches_dropped: u64,
    pub bytes_fetched: u64,
    /// Reads that went on without room in the memory budget.
    pub overdrafts: u64,
    /// Bytes that the disk tier served instead of the store.
    pub bytes_from_disk: u64,
    pub disk_bytes_written: u64,
    /// Of these, what went around the kernel's page cache.
    pub disk_bytes_around: u64,
    /// Fetched bytes that were not written to disk, because it was slow, full or failing.
    pub disk_bytes_skipped: u64,
    pub disk_bytes_evicted: u64,
    /// Bytes that were read from disk to be compared with their checksums.
    pub disk_bytes_checked: u64,
    /// Bytes of files that an earlier mount has checked and nobody has changed since.
    pub disk_bytes_trusted: u64,
    /// Ranges on disk whose bytes could not be trusted or read.
    pub disk_bad_ranges: u64,
    pub disk_write_failures: u64,
    /// Residency that could not be recorded, so that it will not outlive this mount.
    pub journal_failures: u64,
    /// Handles that stream at the moment, and how far each may read ahead.
    pub streams: u64,
    pub window_share_bytes: u64,
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
