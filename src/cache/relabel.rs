//! Residency that changes hands without a byte being copied: a version that gets another name, and clearing the
//! tier. Only the disk worker calls this.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::DiskTier;
use super::recording::Recording;
use super::residency::DiskObject;
use super::stats::ClearReport;
use crate::disk;
use crate::journal::ObjectId;

impl DiskTier {
    /// Records the object under the name that it has now, as a new object with the same file. A second
    /// link keeps the file reachable through a crash at any step.
    pub(super) fn relabel(&self, object: &Arc<DiskObject>) {
        let Some(old) = object.id() else { return };
        let new = self.journal.next_object_id();
        let relabelled = self.link(old, new);
        match relabelled.and_then(|()| Recording::of(&self.journal, object).relabel(old, new)) {
            Ok(true) => {}
            // It was given up meanwhile.
            Ok(false) => return self.remove_file(new),
            Err(error) => {
                log::warn!("cache: what is cached of a renamed object cannot be kept: {error}");
                self.remove_file(new);
                self.remove(object);
                return;
            }
        }
        self.remove_file(old);
        // The links have changed the file's stamp.
        self.waiting.wrote();
        self.waiting.push(object);
    }

    fn link(&self, old: ObjectId, new: ObjectId) -> io::Result<()> {
        let path = self.path(new);
        path.parent().map_or(Ok(()), disk::create_dir_all)?;
        disk::hard_link(self.path(old), &path)
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
