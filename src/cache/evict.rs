//! Keeps the disk tier within its size: least recently used first, nothing that is in use.
//!
//! Only the disk worker calls this, so that no range is written and evicted at the same time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::DiskTier;
use super::recording::Recording;
use super::residency::DiskObject;
use crate::disk::{self, OpenOptions};
use crate::journal::ObjectId;
use crate::range::ByteRange;

/// Once over the limit, this part of it (one in so many) is freed at a time: choosing victims looks at
/// every object, which must not happen for each mebibyte written.
const FREE_ONE_IN: u64 = 20;

/// ... but no more than this, so that a large cache does not lose 5 % at once.
const FREE_BYTES_MAX: u64 = 1 << 30;

impl DiskTier {
    /// Makes room for `bytes`. False where that is not possible without touching files in use.
    pub(super) fn make_room(&self, bytes: u64) -> bool {
        if bytes > self.bytes_max {
            return false;
        }
        let used = self.used_bytes.load(Ordering::Relaxed);
        if used + bytes <= self.bytes_max {
            return true;
        }
        let spare = (self.bytes_max / FREE_ONE_IN).min(FREE_BYTES_MAX);
        self.evict((used + bytes + spare).saturating_sub(self.bytes_max));
        self.used_bytes.load(Ordering::Relaxed) + bytes <= self.bytes_max
    }

    /// Frees about `bytes`, or what can be freed. Returns what was.
    pub(super) fn evict(&self, bytes: u64) -> u64 {
        let mut freed = 0;
        // What was not used since the mount goes first.
        while freed < bytes {
            let Some(object) = self.objects.lock().wake_oldest() else { break };
            freed += self.evict_from(&object, bytes - freed);
        }
        for object in self.least_recently_used() {
            if freed >= bytes {
                break;
            }
            freed += self.evict_from(&object, bytes - freed);
        }
        freed
    }

    /// Objects with ranges and without users; oldest use first, and of those unused since the mount the
    /// oldest file.
    fn least_recently_used(&self) -> Vec<Arc<DiskObject>> {
        let objects = self.objects.lock();
        let mut idle: Vec<(u64, ObjectId, Arc<DiskObject>)> = objects
            .awake()
            .filter(|object| object.users.load(Ordering::Relaxed) == 0)
            .filter_map(|object| {
                let id = object.residency.lock().id?;
                Some((object.last_used.load(Ordering::Relaxed), id, object.clone()))
            })
            .collect();
        drop(objects);
        idle.sort_by_key(|(last_used, id, _)| (*last_used, *id));
        idle.into_iter().map(|(_, _, object)| object).collect()
    }

    /// Evicts up to about `bytes` of one object: all of it, or of a larger one its last ranges. The front
    /// of a file stays, so that reading it again and again still finds what fits; evicting from the front
    /// would throw out just what comes next.
    fn evict_from(&self, object: &Arc<DiskObject>, bytes: u64) -> u64 {
        let evicted = {
            let recording = Recording::of(&self.journal, object);
            let evicted = {
                let _objects = self.objects.lock();
                let is_in_use = object.users.load(Ordering::Relaxed) > 0;
                if is_in_use { None } else { recording.evict(bytes) }
            };
            let Some(evicted) = evicted else { return 0 };
            recording.tell_evicted(&evicted);
            evicted
        };
        // The records came first: a crash in between leaves a file that the next mount sweeps away, or space in one.
        if evicted.is_all {
            self.remove_file(evicted.id);
            self.drop_entry(object);
        } else {
            self.punch(evicted.id, &evicted.ranges);
        }
        self.counters.disk_bytes_evicted.fetch_add(evicted.freed, Ordering::Relaxed);
        evicted.freed
    }

    /// Removes all that is on disk of an object, users or not (a reader that has the file open can go on).
    pub(super) fn remove(&self, object: &Arc<DiskObject>) -> u64 {
        self.remove_id(object, None)
    }

    /// Likewise, if the object's id is still this one, where one is given.
    pub(super) fn remove_id(&self, object: &Arc<DiskObject>, only: Option<ObjectId>) -> u64 {
        let ended = {
            let recording = Recording::of(&self.journal, object);
            if only.is_some() && object.id() != only {
                return 0;
            }
            recording.end()
        };
        self.drop_entry(object);
        let Some((id, freed)) = ended else { return 0 };
        self.remove_file(id);
        freed
    }

    /// Forgets the entry of an object that has no other holder.
    fn drop_entry(&self, object: &Arc<DiskObject>) {
        let mut objects = self.objects.lock();
        let version = object.residency.lock().version.clone();
        // Two: the map and the caller. A memory-tier object may still hold it, and would write to it.
        if let Some(entry) = objects.get(&version)
            && Arc::ptr_eq(entry, object)
            && (Arc::strong_count(object) <= 2 || object.forgotten.load(Ordering::Relaxed))
        {
            objects.remove(&version);
        }
    }

    /// Removes the file of an object that has ended by its record: a crash in between leaves it to the next mount.
    pub(super) fn remove_file(&self, id: ObjectId) {
        if let Err(error) = disk::remove_file(self.path(id))
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("cache: cannot remove the file of object {id:016x}: {error}");
        }
    }

    /// Gives the space of ranges back that are recorded as evicted.
    fn punch(&self, id: ObjectId, ranges: &[ByteRange]) {
        let outcome = OpenOptions::new().write(true).open(self.path(id)).and_then(|file| {
            ranges.iter().try_for_each(|range| file.punch(range.start(), range.len()))
        });
        if let Err(error) = outcome {
            // The file keeps its space until it is evicted whole; its bytes are not used again.
            log::warn!("cache: cannot punch holes into the file of object {id:016x}: {error}");
        }
    }
}
