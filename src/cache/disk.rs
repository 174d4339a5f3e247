//! The disk tier: which ranges of which object versions lie in cache files, and the files themselves.
//!
//! Layout: `objects/xx/<object id, 16 hex digits>`, `xx` its last two digits; a sparse file as long as
//! the object, its bytes at their own offsets.
//!
//! Consistency: a version is a key and an ETag, so a replaced object never meets old ranges. Bytes are
//! written before the record that names them. They come out by [`super::check`] alone: a range is checked against
//! its CRC in the read that first gives any of it out, unless its file is as it was when all was good (see
//! [`super::stamp`]); a bad one is dropped, counted and fetched again.
//! Crash: what was recorded is there again; a file that no record names is removed by [`super::sweep`].
//! Cancellation: everything here runs to its end on a blocking thread.
//!
//! Lock order: an object's `recording`, `objects`, an object's `residency`. The journal's file is written under the first
//! alone (see [`super::recording`]); its state is looked at under `objects`, for the first look at an object's ranges.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;

use super::cache_file::{CacheFile, OpenFile, Route};
use super::recording::Recording;
use super::residency::{DiskObject, Stored};
use super::stamp::Stamps;
use super::stats::{Counters, DiskStats};
use super::versions::{Found, Versions};
use super::waiting::Waiting;
use crate::blocking;
use crate::journal::{Journal, ObjectId};
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::{ETag, Key};

/// [`CacheFile::write`]; replaced where a full disk is tested.
pub(super) type Write = fn(&mut CacheFile, &[u8], u64, Route) -> io::Result<Route>;

pub(super) struct DiskTier {
    dir: PathBuf,
    pub(super) journal: Arc<Journal>,
    pub(super) bytes_max: u64,
    pub(super) objects: Mutex<Versions, rank::DiskObjects>,
    /// Bytes of all ranges, in whole blocks; see [`super::residency::Ranges`].
    pub(super) used_bytes: Arc<AtomicU64>,
    clock: AtomicU64,
    pub(super) counters: Arc<Counters>,
    pub(super) write: Write,
    pub(super) stamps: Stamps,
    pub(super) waiting: Waiting,
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
        crate::disk::create_dir_all(&dir)?;
        let stamps = Stamps::of_folder(&dir);
        let Found { versions, used_bytes, doubles } = Versions::find(&journal);
        let tier = DiskTier {
            dir,
            journal,
            bytes_max,
            objects: Mutex::new(versions),
            used_bytes,
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
            if object.len() == len {
                return object.clone();
            }
            object.forgotten.store(true, Ordering::Relaxed);
        }
        let object = Arc::new(DiskObject::new(version.clone(), len, self.used_bytes.clone()));
        objects.insert(version, object.clone());
        object
    }

    /// Takes a version out of the table: replaced or deleted. True where it has no user, so that it can be
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

    pub(super) fn stats(&self) -> DiskStats {
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskStats {
            bytes: counted(&self.used_bytes),
            bytes_max: self.bytes_max,
            objects: self.objects.lock().count(),
            served: counted(&self.counters.bytes_from_disk),
            written: counted(&self.counters.disk_bytes_written),
            written_direct: counted(&self.counters.disk_bytes_direct),
            skipped: counted(&self.counters.disk_bytes_skipped),
            evicted: counted(&self.counters.disk_bytes_evicted),
            checked: counted(&self.counters.disk_bytes_checked),
            checked_before: counted(&self.counters.disk_bytes_checked_before),
            bad_ranges: counted(&self.counters.disk_bad_ranges),
            write_failures: counted(&self.counters.disk_write_failures),
        }
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

    /// The cache file. Where it is not there any more (it was removed by hand), nor is what was recorded of it.
    ///
    /// # Errors
    /// `NotFound` where there is none; others where it cannot be opened now, and its bytes may be good.
    pub(super) fn open_for_reading(&self, object: &Arc<DiskObject>) -> io::Result<OpenFile> {
        loop {
            let id = object.id().ok_or(io::ErrorKind::NotFound)?;
            let opened = OpenFile::open(&self.path(id), object.len());
            let mut residency = object.residency.lock();
            if residency.id != Some(id) {
                // It has another name by now, or none.
                continue;
            }
            match opened {
                Ok(file) => {
                    residency.is_now_in(file.id());
                    return Ok(file);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    drop(residency);
                    self.give_up(object, id, "its file is gone");
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The file of the object to be written to, made where there is none, as long as the object. One that was taken
    /// away, or cut, is not what the ranges were found good in.
    pub(super) fn open_for_writing(&self, object: &Arc<DiskObject>) -> io::Result<CacheFile> {
        if let Some(id) = object.id() {
            match CacheFile::open(id, self.path(id)) {
                Ok(file) => {
                    object.residency.lock().is_now_in(file.file_id());
                    return Ok(file);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => self.give_up(object, id, "its file is gone"),
            }
        }
        self.begin(object)
    }

    /// A new file of the object, under a new id, which is recorded.
    fn begin(&self, object: &DiskObject) -> io::Result<CacheFile> {
        let id = self.journal.next_object_id();
        let file = CacheFile::create(id, self.path(id), object.len())?;
        Recording::of(&self.journal, object).begin(id, file.file_id())?;
        Ok(file)
    }

    /// Drops a range that cannot be trusted, if it is still the one that was found bad.
    pub(super) fn drop_range(&self, object: &DiskObject, start: u64, bad: &Stored, cause: &str) {
        let removed = Recording::of(&self.journal, object).remove_bad(start, bad);
        let Some((id, range)) = removed else { return };
        self.counters.disk_bad_ranges.fetch_add(1, Ordering::Relaxed);
        self.tell_of_damage(object, id, range, cause);
    }

    /// Drops what meets a range that came wrong from the store.
    pub(super) fn drop_wrong(&self, object: &DiskObject, range: ByteRange) {
        let removed = Recording::of(&self.journal, object).remove_wrong(range);
        self.counters.disk_bad_ranges.fetch_add(removed.len() as u64, Ordering::Relaxed);
    }

    /// The same for a caller that must not wait for the disk: nothing of it is read from now on, and the journal hears of it
    /// soon. (If it does not, the next mount compares what it finds again.)
    pub(super) fn drop_wrong_soon(
        self: &Arc<Self>,
        object: &Arc<DiskObject>,
        range: ByteRange,
        runtime: &Handle,
    ) {
        let (id, removed) = {
            let mut residency = object.residency.lock();
            (residency.id, residency.remove_wrong(range))
        };
        self.counters.disk_bad_ranges.fetch_add(removed.len() as u64, Ordering::Relaxed);
        let (Some(id), tier, object) = (id, self.clone(), object.clone()) else { return };
        let (told, on) = (
            move || Recording::of(&tier.journal, &object).tell_removed(id, &removed),
            runtime.clone(),
        );
        runtime.spawn(async move {
            if let Err(error) = blocking::run_on(&on, told).await {
                log::debug!("cache: not recorded: {error}");
            }
        });
    }

    /// Drops the file of this id and all that was recorded of it.
    pub(super) fn give_up(&self, object: &Arc<DiskObject>, id: ObjectId, cause: &str) {
        let lost = object.residency.lock().ranges.len() as u64;
        object.lose_all(id);
        if self.remove_id(object, Some(id)) > 0 {
            self.counters.disk_bad_ranges.fetch_add(lost, Ordering::Relaxed);
            self.tell_of_damage(object, id, object.whole(), cause);
        }
    }

    fn tell_of_damage(&self, object: &DiskObject, id: ObjectId, range: ByteRange, cause: &str) {
        if !object.corruption_logged.swap(true, Ordering::Relaxed) {
            let (start, end) = (range.start(), range.end());
            log::warn!("cache: bytes {start}..{end} of object {id:016x} dropped: {cause}");
        }
    }
}
