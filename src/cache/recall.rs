//! Believing cache files that are as they were recorded, and recording those that were found good ([`super::stamp`]).

use std::io;
use std::sync::atomic::Ordering;

use super::cache_file::OpenFile;
use super::disk::DiskTier;
use super::object::VERIFY_AT_OPEN_BYTES_MAX;
use super::recording::Recording;
use super::residency::{DiskObject, Stored};
use super::stamp::STAMPED_BYTES_MIN;
use crate::disk::File;
use crate::journal::FileStamp;
use crate::range::ByteRange;

impl DiskTier {
    /// Believes all ranges of a file that is as it was recorded.
    pub(super) fn recall(&self, object: &DiskObject, file: &OpenFile) {
        let stamp = self.stamps.now(file.file());
        let bytes = {
            let mut residency = object.residency.lock();
            residency.doubt_if_touched(stamp);
            if residency.is_in(file.id()) { residency.believe_all(stamp) } else { 0 }
        };
        self.counters.disk_bytes_checked_before.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records the file as good, where every byte of the object was checked while it has had its stamp.
    pub(super) fn attest(&self, object: &DiskObject, file: &OpenFile) {
        if let Err(error) = self.try_to_attest(object, file.file()) {
            // The next mount checks it again, as it does after any loss of a record.
            log::debug!("cache: a good file is not on record: {error}");
        }
    }

    /// Says whether it is on record now.
    fn try_to_attest(&self, object: &DiskObject, file: &File) -> io::Result<bool> {
        let Some(stamp) = object.residency.lock().stamp_of_all(object.len()) else {
            return Ok(false);
        };
        file.sync_data()?;
        if self.stamps.settled(file) != Some(stamp) {
            return Ok(false);
        }
        Recording::of(&self.journal, object).attest(stamp)
    }
}

impl DiskObject {
    /// What has to be checked before the file can be recorded as good.
    pub(super) fn unchecked_since(&self, stamp: &FileStamp) -> Vec<(u64, Stored)> {
        let mut ranges = self.stored_in(self.whole());
        if let Some(pass) = self.residency.lock().pass.as_ref().filter(|p| p.stamp == *stamp) {
            ranges.retain(|(start, stored)| {
                !pass.checked.contains(ByteRange::new(*start, stored.end))
            });
        }
        ranges
    }

    /// Whether all of it is known to be good, and the next mount would have to check it again.
    pub(super) fn is_good_and_not_on_record(&self) -> bool {
        let all_in_one_pass = {
            let residency = self.residency.lock();
            if self.len() < STAMPED_BYTES_MIN || residency.recorded.is_some() {
                return false;
            }
            residency.stamp_of_all(self.len()).is_some()
        };
        // Of a larger file nothing is read to finish a pass, and there are many ranges to look at.
        all_in_one_pass
            || (self.len() <= VERIFY_AT_OPEN_BYTES_MAX && self.is_verified(self.whole()))
    }
}
