//! What the journal is told of an object on the disk, one thing after the other.
//!
//! Consistency: what is recorded of an object is decided on, appended, and taken into its residency in one turn. So no
//! record of an object comes behind its end, and no file is recorded as good in which something was found bad before.
//! Locks: the journal's file is written under that turn, which those alone take that record something; never under an
//! object's residency, which all reads look at.

use std::io;

use super::residency::{DiskObject, FileId, Residency, Stored, WrittenFile, space};
use crate::journal::{FileStamp, Journal, ObjectId, RangeSums, Record};
use crate::lock::MutexGuard;
use crate::range::ByteRange;

/// The turn to record something of an object. As long as it lives, the object's id and its ranges, here and in the
/// journal, stay as they are but for what is done here.
pub(super) struct Recording<'a> {
    journal: &'a Journal,
    object: &'a DiskObject,
    _turn: MutexGuard<'a, ()>,
}

/// What was taken of an object to make room.
pub(super) struct Evicted {
    pub(super) id: ObjectId,
    pub(super) ranges: Vec<ByteRange>,
    /// What they took of the disk, in bytes.
    pub(super) freed: u64,
    /// It has no file any more.
    pub(super) is_all: bool,
}

/// That a range is there, and what it comes to.
fn resident(
    object: ObjectId,
    range: ByteRange,
    RangeSums { crc, of_whole }: RangeSums,
) -> impl Iterator<Item = Record> {
    let summed = of_whole.map(|sum| {
        let (start, sum) = (range.start(), sum.get());
        Record::RangeSummed { object, start, sum }
    });
    [Record::RangeResident { object, range, crc }].into_iter().chain(summed)
}

impl<'a> Recording<'a> {
    pub(super) fn of(journal: &'a Journal, object: &'a DiskObject) -> Recording<'a> {
        Recording { journal, object, _turn: object.recording.lock() }
    }

    /// To decide and to take in. Let go of before anything is appended.
    fn residency(&self) -> MutexGuard<'a, Residency> {
        self.object.residency.lock()
    }

    fn append(&self, records: &[Record]) -> io::Result<()> {
        self.journal.append_all(records)
    }

    /// Appends records whose loss costs no more than a repeated check or transfer. The journal latches
    /// its first failure and shows it in the status, so nothing more is to be done about one here.
    fn append_or_log(&self, records: &[Record]) {
        if let Err(error) = self.append(records) {
            log::debug!("cache: not recorded: {error}");
        }
    }

    /// The object's file is this new one.
    pub(super) fn begin(&self, id: ObjectId, file: FileId) -> io::Result<()> {
        let (key, etag) = self.residency().version.clone();
        self.append(&[Record::ObjectBegun { object: id, key, etag, len: self.object.len() }])?;
        let mut residency = self.residency();
        residency.id = Some(id);
        residency.whole_sum = residency.whole_sum.map(|(sum, _)| (sum, false));
        residency.is_now_in(file);
        Ok(())
    }

    /// Adds a range that was just written to a file. False where it is the object's no longer.
    pub(super) fn add(
        &self,
        file: &WrittenFile,
        range: ByteRange,
        sums: RangeSums,
    ) -> io::Result<bool> {
        let is_its =
            |residency: &Residency| residency.id == Some(file.id) && residency.is_in(file.file_id);
        let unrecorded = {
            let residency = self.residency();
            if !is_its(&residency) {
                return Ok(false);
            }
            residency.whole_sum.filter(|(_, is_recorded)| !is_recorded).map(|(sum, _)| sum)
        };
        let whole = unrecorded.map(|sum| Record::ObjectSummed { object: file.id, sum });
        let records = whole.into_iter().chain(resident(file.id, range, sums));
        self.append(&records.collect::<Vec<_>>())?;
        let mut residency = self.residency();
        if !is_its(&residency) {
            return Ok(false);
        }
        if let Some(sum) = unrecorded {
            residency.whole_sum = Some((sum, true));
        }
        residency.doubt_if_touched(file.before);
        residency.ranges.insert(range, sums);
        residency.changed();
        Ok(true)
    }

    /// Removes a range that is still the one that was found bad.
    pub(super) fn remove_bad(&self, start: u64, bad: &Stored) -> Option<(ObjectId, ByteRange)> {
        let (object, range) = {
            let mut residency = self.residency();
            (residency.id?, residency.remove_bad(start, bad)?)
        };
        self.append_or_log(&[Record::RangeEvicted { object, range }]);
        Some((object, range))
    }

    /// Removes what meets a range of which the bytes are wrong.
    pub(super) fn remove_wrong(&self, range: ByteRange) -> Vec<ByteRange> {
        let (object, removed) = {
            let mut residency = self.residency();
            let Some(object) = residency.id else { return Vec::new() };
            (object, residency.remove_wrong(range))
        };
        self.tell_removed(object, &removed);
        removed
    }

    pub(super) fn tell_removed(&self, object: ObjectId, removed: &[ByteRange]) {
        let evicted = removed.iter().map(|range| Record::RangeEvicted { object, range: *range });
        self.append_or_log(&evicted.collect::<Vec<_>>());
    }

    /// Takes about `bytes` of its last ranges, or all; [`Self::tell_evicted`] comes next. `None` where it has no file.
    pub(super) fn evict(&self, bytes: u64) -> Option<Evicted> {
        let mut residency = self.residency();
        let id = residency.id?;
        let (mut freed, mut ranges) = (0, Vec::new());
        while freed < bytes
            && let Some(range) = residency.ranges.pop_last()
        {
            freed += space(range);
            ranges.push(range);
        }
        let is_all = residency.ranges.is_empty();
        if is_all {
            residency.end();
        } else {
            residency.doubt();
        }
        Some(Evicted { id, ranges, freed, is_all })
    }

    pub(super) fn tell_evicted(&self, evicted: &Evicted) {
        if evicted.is_all {
            return self.append_or_log(&[Record::ObjectEnded { object: evicted.id }]);
        }
        self.tell_removed(evicted.id, &evicted.ranges);
    }

    /// The object has no file any more. Returns which it was, and what its ranges took of the disk, in bytes.
    pub(super) fn end(&self) -> Option<(ObjectId, u64)> {
        let ended = self.residency().end();
        if let Some((object, _)) = ended {
            self.append_or_log(&[Record::ObjectEnded { object }]);
        }
        ended
    }

    /// The object's file `old` is under the id `new` too: from now on that is its own, under the name that the object
    /// has now. False where `old` is not its file any more.
    pub(super) fn relabel(&self, old: ObjectId, new: ObjectId) -> io::Result<bool> {
        let records = {
            let residency = self.residency();
            if residency.id != Some(old) {
                return Ok(false);
            }
            let (key, etag) = residency.version.clone();
            let mut records =
                vec![Record::ObjectBegun { object: new, key, etag, len: self.object.len() }];
            let whole = residency.whole_sum;
            records.extend(whole.map(|(sum, _)| Record::ObjectSummed { object: new, sum }));
            records.extend(residency.ranges.iter().flat_map(|(start, stored)| {
                resident(new, ByteRange::new(start, stored.end), stored.sums())
            }));
            records
        };
        self.append(&records)?;
        {
            let mut residency = self.residency();
            residency.id = Some(new);
            residency.doubt();
        }
        self.append_or_log(&[Record::ObjectEnded { object: old }]);
        Ok(true)
    }

    /// Every byte of the file was checked while it has had this stamp. Says whether that is on record now.
    pub(super) fn attest(&self, stamp: FileStamp) -> io::Result<bool> {
        let is_good =
            |residency: &Residency| residency.stamp_of_all(self.object.len()) == Some(stamp);
        let object = {
            let residency = self.residency();
            let Some(id) = residency.id.filter(|_| is_good(&residency)) else { return Ok(false) };
            if residency.recorded == Some(stamp) {
                return Ok(true);
            }
            id
        };
        self.append(&[Record::ObjectVerified { object, stamp }])?;
        let mut residency = self.residency();
        // Another process may have touched it meanwhile: the record is of another stamp then.
        if is_good(&residency) {
            residency.recorded = Some(stamp);
        }
        Ok(true)
    }
}
