//! Residency that changes hands without a byte being copied: a version that gets another name, and clearing the
//! tier. Only the disk worker calls this.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::DiskTier;
use super::residency::DiskObject;
use super::stats::ClearReport;
use crate::disk;
use crate::journal::Record;
use crate::range::ByteRange;

impl DiskTier {
    /// Records the object under the name that it has now, as a new object with the same file. A second
    /// link keeps the file reachable through a crash at any step.
    pub(super) fn relabel(&self, object: &Arc<DiskObject>) {
        let (old, version, ranges) = {
            let residency = object.residency.lock();
            let Some(id) = residency.id else { return };
            let ranges = residency.ranges.iter();
            let ranges = ranges.map(|(start, s)| (ByteRange::new(start, s.end), s.crc));
            let ranges: Vec<_> = ranges.collect();
            (id, residency.version.clone(), ranges)
        };
        let new = self.journal.next_object_id();
        if let Err(error) = self.link(old, new, version, &ranges, object.len()) {
            log::warn!("cache: what is cached of a renamed object cannot be kept: {error}");
            self.remove(object);
            return;
        }
        {
            let mut residency = object.residency.lock();
            if residency.id != Some(old) {
                // It was given up meanwhile.
                drop(residency);
                return self.remove_file(new);
            }
            residency.id = Some(new);
            residency.doubt();
        }
        self.remove_file(old);
        // The links have changed the file's stamp.
        self.waiting.wrote();
        self.waiting.push(object);
    }

    fn link(
        &self,
        old: u64,
        new: u64,
        (key, etag): (crate::store::Key, crate::store::ETag),
        ranges: &[(ByteRange, u32)],
        len: u64,
    ) -> io::Result<()> {
        let path = self.path(new);
        path.parent().map_or(Ok(()), disk::create_dir_all)?;
        disk::hard_link(self.path(old), &path)?;
        let mut records = vec![Record::ObjectBegun { object: new, key, etag, len }];
        records.extend(ranges.iter().map(|&(range, crc)| Record::RangeResident {
            object: new,
            range,
            crc,
        }));
        self.journal.append_all(&records)
    }

    /// Removes everything that is not in use.
    pub(super) fn clear(&self) -> ClearReport {
        let objects = self.objects.lock().wake_all();
        let mut report = ClearReport::default();
        for object in objects {
            if object.users.load(Ordering::Relaxed) > 0 {
                report.objects_in_use += 1;
                continue;
            }
            let bytes = self.remove(&object);
            if bytes > 0 {
                report.objects += 1;
                report.bytes += bytes;
            }
        }
        report
    }
}
