//! The disk tier: which ranges of which object versions lie in cache files, and the files themselves.
//!
//! Layout: `objects/xx/<object id, 16 hex digits>`, `xx` its last two digits; a sparse file as long as
//! the object, its bytes at their own offsets.
//!
//! Consistency: a version is a key and an ETag, so a replaced object never meets old ranges. Bytes are
//! written before the record that names them; after a mount a range is checked against its CRC before
//! its first use, unless its file is as it was when all was good (see [`super::trust`]); a bad one is dropped,
//! counted and fetched again.
//! Crash: what was recorded is there again; a file that no record names is removed by [`super::sweep`].
//! Cancellation: everything here runs to its end on a blocking thread.
//!
//! Lock order: `objects`, then an object's `residency`. The journal's lock is taken under neither, but
//! for the first look at an object's ranges, and for the record of a good file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crc_fast::CrcAlgorithm;
use parking_lot::Mutex;

use super::cache_file::{CacheFile, Route};
use super::stats::Counters;
use super::trust::{Pass, Stamps};
use super::versions::{Found, Versions};
use super::warm::Waiting;
use crate::journal::{FileStamp, Journal, Object, ObjectId, Record};
use crate::range::ByteRange;
use crate::store::{ETag, Key};

/// How file systems account space, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// [`CacheFile::write`]; replaced where a full disk is tested.
pub(super) type Write = fn(&mut CacheFile, &[u8], u64, Route) -> io::Result<Route>;

pub(super) struct DiskTier {
    dir: PathBuf,
    pub(super) journal: Arc<Journal>,
    pub(super) bytes_max: u64,
    pub(super) objects: Mutex<Versions>,
    /// Bytes of all ranges, in whole blocks.
    pub(super) used_bytes: AtomicU64,
    clock: AtomicU64,
    pub(super) counters: Arc<Counters>,
    pub(super) write: Write,
    pub(super) stamps: Stamps,
    pub(super) waiting: Waiting,
}

/// The disk side of one version.
pub(super) struct DiskObject {
    len: u64,
    /// Handles that use it. While there are any, nothing of it is evicted.
    pub(super) users: AtomicUsize,
    /// Replaced or deleted: removed when the last user goes.
    pub(super) forgotten: AtomicBool,
    /// Of the tier's clock; 0 where it was not used since the mount.
    pub(super) last_used: AtomicU64,
    pub(super) residency: Mutex<Residency>,
    /// Checks of the whole file that are going on, for somebody who waits.
    pub(super) whole_checks: AtomicUsize,
    corruption_logged: AtomicBool,
}

/// Invariants: ranges do not overlap; without an id there are none.
pub(super) struct Residency {
    pub(super) version: (Key, ETag),
    pub(super) id: Option<ObjectId>,
    pub(super) ranges: BTreeMap<u64, Stored>,
    /// What was checked since the file last changed.
    pub(super) pass: Option<Box<Pass>>,
    /// What the file was when all ranges were good, as the journal has it.
    pub(super) recorded: Option<FileStamp>,
}

/// One recorded range; its start is the map's key.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) end: u64,
    pub(super) crc: u32,
    /// Checked since the mount, or written and not come back from the disk since.
    pub(super) verified: bool,
}

/// The checksum that ranges are recorded with: CRC-32C.
pub fn checksum(bytes: &[u8]) -> u32 {
    // A 32-bit CRC fills the lower half of the u64.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// What a range takes of the disk, in bytes.
pub(super) fn space(range: ByteRange) -> u64 {
    range.end().div_ceil(BLOCK_BYTES) * BLOCK_BYTES - range.start() / BLOCK_BYTES * BLOCK_BYTES
}

impl DiskTier {
    /// Takes over what the journal remembers; looks at no file.
    pub(super) fn open(
        dir: &Path,
        bytes_max: u64,
        journal: Arc<Journal>,
        counters: Arc<Counters>,
    ) -> io::Result<DiskTier> {
        let dir = dir.join("objects");
        std::fs::create_dir_all(&dir)?;
        let stamps = Stamps::of_folder(&dir);
        let Found { versions, bytes, doubles } = Versions::find(&journal);
        let tier = DiskTier {
            dir,
            journal,
            bytes_max,
            objects: Mutex::new(versions),
            used_bytes: AtomicU64::new(bytes),
            clock: AtomicU64::new(1),
            counters,
            write: CacheFile::write,
            stamps,
            waiting: Waiting::default(),
        };
        // A crash while a file changed hands left two objects of one version. One is enough.
        doubles.iter().for_each(|object| {
            tier.remove(object);
        });
        Ok(tier)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, id: ObjectId) -> PathBuf {
        self.dir.join(format!("{:02x}/{id:016x}", id & 0xff))
    }

    /// The disk side of a version. One with another length is another object under the same name (an
    /// ETag reused): the old one is forgotten.
    pub(super) fn object(&self, key: &Key, etag: &ETag, len: u64) -> Arc<DiskObject> {
        let version = (key.clone(), etag.clone());
        let mut objects = self.objects.lock();
        if let Some(object) = objects.get(&version) {
            if object.len == len {
                return object.clone();
            }
            object.forgotten.store(true, Ordering::Relaxed);
        }
        let object = Arc::new(DiskObject::new(len, Residency::new(version.clone(), None)));
        objects.insert(version, object.clone());
        object
    }

    /// Puts an object back that eviction may have taken out of the table.
    pub(super) fn insert_again(&self, object: &Arc<DiskObject>) {
        let mut objects = self.objects.lock();
        let version = object.residency.lock().version.clone();
        objects.insert(version, object.clone());
    }

    /// Takes a version out of the table: replaced or deleted. True where nobody uses it, so that it can be
    /// removed at once.
    pub(super) fn forget(&self, key: &Key, etag: &ETag) -> Option<(Arc<DiskObject>, bool)> {
        let mut objects = self.objects.lock();
        let object = objects.remove(&(key.clone(), etag.clone()))?;
        object.forgotten.store(true, Ordering::Relaxed);
        let unused = object.users.load(Ordering::Relaxed) == 0;
        Some((object, unused))
    }

    /// Gives a version another name. What was there under that name is forgotten and returned.
    pub(super) fn rename(
        &self,
        from: (Key, ETag),
        to: (Key, ETag),
    ) -> Option<(Arc<DiskObject>, Option<Arc<DiskObject>>)> {
        let mut objects = self.objects.lock();
        let object = objects.remove(&from)?;
        object.residency.lock().version = to.clone();
        let replaced = objects.insert(to, object.clone());
        if let Some(replaced) = &replaced {
            replaced.forgotten.store(true, Ordering::Relaxed);
        }
        Some((object, replaced))
    }

    /// Versions with bytes on disk.
    pub(super) fn count_objects(&self) -> u64 {
        self.objects.lock().count()
    }

    /// A user more: nothing of the object is evicted until it leaves.
    pub(super) fn enter(&self, object: &DiskObject) {
        // Under the lock that eviction decides under.
        let _objects = self.objects.lock();
        object.users.fetch_add(1, Ordering::Relaxed);
        self.touch(object);
    }

    /// A user less. True where that was the last of a forgotten version, which is to be removed.
    pub(super) fn leave(&self, object: &DiskObject) -> bool {
        let _objects = self.objects.lock();
        self.touch(object);
        object.users.fetch_sub(1, Ordering::Relaxed) == 1
            && object.forgotten.load(Ordering::Relaxed)
    }

    fn touch(&self, object: &DiskObject) {
        object.last_used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The cache file; `NotFound` where there is none (it was removed by hand).
    pub(super) fn open_for_reading(&self, object: &DiskObject) -> io::Result<File> {
        let id = object.residency.lock().id.ok_or(io::ErrorKind::NotFound)?;
        File::open(self.path(id))
    }

    /// The cache file for writing, created where there is none, as long as the object.
    pub(super) fn open_for_writing(&self, id: ObjectId, len: u64) -> io::Result<CacheFile> {
        CacheFile::open(id, self.path(id), len)
    }

    /// Fills `bytes` from `part`, which must be resident and verified, and stays so while a user lives.
    /// `None` where the disk fails; the range is dropped then.
    pub(super) fn read_verified(
        &self,
        object: &DiskObject,
        file: &File,
        part: ByteRange,
        bytes: &mut [u8],
    ) -> Option<()> {
        match file.read_exact_at(bytes, part.start()) {
            Ok(()) => {
                self.counters.bytes_from_disk.fetch_add(part.len(), Ordering::Relaxed);
                Some(())
            }
            Err(error) => {
                self.drop_range(object, part, &error.to_string());
                None
            }
        }
    }

    /// Drops every recorded range that meets `part`, because its bytes cannot be trusted.
    pub(super) fn drop_range(&self, object: &DiskObject, part: ByteRange, cause: &str) {
        let (id, dropped) = object.take_ranges_in(part);
        let Some(id) = id else { return };
        for range in dropped {
            self.counters.disk_bad_ranges.fetch_add(1, Ordering::Relaxed);
            self.used_bytes.fetch_sub(space(range), Ordering::Relaxed);
            if !object.corruption_logged.swap(true, Ordering::Relaxed) {
                let (start, end) = (range.start(), range.end());
                log::warn!("cache: bytes {start}..{end} of object {id:016x} dropped: {cause}");
            }
            self.record(Record::RangeEvicted { object: id, range });
        }
    }

    /// Appends a record whose loss costs no more than a repeated check or transfer. The journal latches
    /// its first failure and shows it in the status, so nothing more is to be done about one here.
    pub(super) fn record(&self, record: Record) {
        if self.journal.append(record).is_err() {
            self.counters.journal_failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl DiskObject {
    fn new(len: u64, residency: Residency) -> Self {
        DiskObject {
            len,
            users: AtomicUsize::new(0),
            forgotten: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            residency: Mutex::new(residency),
            whole_checks: AtomicUsize::new(0),
            corruption_logged: AtomicBool::new(false),
        }
    }

    /// As the journal remembers it.
    pub(super) fn from_journal(id: ObjectId, object: &Object) -> Self {
        let mut residency = Residency::new((object.key.clone(), object.etag.clone()), Some(id));
        let ranges = object
            .resident
            .iter()
            .map(|(range, crc)| (range.start(), Stored { end: range.end(), crc, verified: false }));
        residency.ranges = ranges.collect();
        residency.recorded = object.verified.as_deref().copied();
        DiskObject::new(object.len, residency)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_on_disk(&self) -> bool {
        self.residency.lock().id.is_some()
    }

    /// What of `range` is on disk, in order.
    pub(super) fn resident(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut found: Vec<ByteRange> = Vec::new();
        for (start, stored) in self.stored_in(range) {
            let here = ByteRange::new(start, stored.end).intersect(&range);
            match found.last_mut() {
                Some(last) if last.end() == here.start() => {
                    *last = ByteRange::new(last.start(), here.end());
                }
                _ => found.push(here),
            }
        }
        found
    }

    /// Whether all of `range` is on disk.
    pub(super) fn holds(&self, range: ByteRange) -> bool {
        range.is_empty() || self.resident(range) == [range]
    }

    /// Whether all of `range` is on disk and needs no check.
    pub(super) fn is_verified(&self, range: ByteRange) -> bool {
        self.holds(range) && self.unverified_bytes(range) == 0
    }

    /// Bytes of `range` that are on disk and need a check.
    pub(super) fn unverified_bytes(&self, range: ByteRange) -> u64 {
        self.stored_in(range)
            .iter()
            .filter(|(_, stored)| !stored.verified)
            .map(|(start, stored)| ByteRange::new(*start, stored.end).intersect(&range).len())
            .sum()
    }

    /// The recorded ranges that meet `range`, by start.
    pub(super) fn stored_in(&self, range: ByteRange) -> Vec<(u64, Stored)> {
        stored_in(&self.residency.lock().ranges, range)
    }

    /// Adds a range whose bytes were just written. What went through the page cache is read from there; what
    /// went around it comes back from the disk one day, and is checked then: one pass over a file by several
    /// cores, which fills the page cache faster than a reader would.
    pub(super) fn add(&self, range: ByteRange, crc: u32, route: Route) {
        let stored = Stored { end: range.end(), crc, verified: route == Route::Through };
        let mut residency = self.residency.lock();
        residency.ranges.insert(range.start(), stored);
        residency.changed();
    }

    /// Makes these its ranges, as just written.
    pub(super) fn replace_with(&self, id: ObjectId, ranges: &[(ByteRange, u32)]) {
        let mut residency = self.residency.lock();
        residency.id = Some(id);
        residency.changed();
        residency.ranges = ranges
            .iter()
            .map(|&(range, crc)| (range.start(), Stored { end: range.end(), crc, verified: false }))
            .collect();
    }

    /// Removes the recorded ranges that meet `part`.
    pub(super) fn take_ranges_in(&self, part: ByteRange) -> (Option<ObjectId>, Vec<ByteRange>) {
        let mut residency = self.residency.lock();
        let taken = stored_in(&residency.ranges, part);
        for (start, _) in &taken {
            residency.ranges.remove(start);
        }
        if !taken.is_empty() {
            residency.changed();
        }
        let ranges = taken.iter().map(|(start, s)| ByteRange::new(*start, s.end)).collect();
        (residency.id, ranges)
    }
}

impl Residency {
    fn new(version: (Key, ETag), id: Option<ObjectId>) -> Residency {
        Residency { version, id, ranges: BTreeMap::new(), pass: None, recorded: None }
    }
}

fn stored_in(ranges: &BTreeMap<u64, Stored>, range: ByteRange) -> Vec<(u64, Stored)> {
    let first = ranges.range(..=range.start()).next_back().map_or(range.start(), |(s, _)| *s);
    ranges
        .range(first..range.end().max(first))
        .filter(|(_, stored)| stored.end > range.start())
        .map(|(start, stored)| (*start, *stored))
        .collect()
}
