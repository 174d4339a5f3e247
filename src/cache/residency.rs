//! What is on disk of one version: its ranges, and the file that they were found good in.
//!
//! Invariants: ranges do not overlap; without an id there are none; what a range is marked with speaks of one file
//! (device and inode) and no other, whatever has the file's name by now.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::stamp::{Pass, STAMPED_BYTES_MIN};
use super::sums::{Algorithm, Sum};
use crate::checked::Stretch;
use crate::disk::Metadata;
use crate::journal::{FileStamp, Object, ObjectId, RangeSums};
use crate::lock::{Mutex, rank};
use crate::range::{ByteRange, RangeSet};
use crate::store::{ETag, Key, ObjectSum};

/// How file systems account space, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// What a range takes of the disk, in bytes.
pub(super) fn space(range: ByteRange) -> u64 {
    range.end().div_ceil(BLOCK_BYTES) * BLOCK_BYTES - range.start() / BLOCK_BYTES * BLOCK_BYTES
}

/// Which file it is, by whatever name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(found: &Metadata) -> FileId {
        FileId { device: found.dev(), inode: found.ino() }
    }
}

/// The file that a range was written to.
#[derive(Clone, Copy)]
pub(super) struct WrittenFile {
    pub(super) id: ObjectId,
    pub(super) file_id: FileId,
    /// Its stamp before the write: what was found good under an older one was changed by others since.
    pub(super) before: Option<FileStamp>,
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
    /// See [`super::recording`].
    pub(super) recording: Mutex<(), rank::ObjectRecords>,
    pub(super) residency: Mutex<Residency, rank::Residency>,
    /// Checks of the whole file that are going on, for callers that wait.
    pub(super) whole_checks: AtomicUsize,
    pub(super) corruption_logged: AtomicBool,
}

pub(super) struct Residency {
    pub(super) version: (Key, ETag),
    pub(super) id: Option<ObjectId>,
    /// The file that the marks of the ranges speak of; none as long as none was opened.
    file: Option<FileId>,
    pub(super) ranges: Ranges,
    /// Of the whole object, as its store tells it; and whether the journal has it of this file.
    pub(super) whole_sum: Option<(ObjectSum, bool)>,
    /// What was checked since the file last changed.
    pub(super) pass: Option<Box<Pass>>,
    /// What the file was when all ranges were good, as the journal has it.
    pub(super) recorded: Option<FileStamp>,
    /// By their start: what was here, and turned out damaged or was taken away. What comes in its place is compared
    /// with it. They do not overlap.
    lost: BTreeMap<u64, Stretch>,
}

/// One recorded range; its start is the map's key.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) end: u64,
    pub(super) crc: u32,
    /// By the algorithm of the whole object's sum, where that is another and this is known.
    pub(super) of_whole: Option<NonZeroU64>,
    /// Compared with its checksum since the mount, or known to be what an earlier mount has compared.
    pub(super) verified: bool,
    /// Which of all that were ever put in: bytes that are fetched again are as long, and have the same checksum.
    nth: u64,
}

impl Stored {
    fn of(range: ByteRange, RangeSums { crc, of_whole }: RangeSums, nth: u64) -> Stored {
        Stored { end: range.end(), crc, of_whole, verified: false, nth }
    }

    pub(super) fn sums(&self) -> RangeSums {
        RangeSums { crc: self.crc, of_whole: self.of_whole }
    }

    /// Cache files hold bytes at their own offsets.
    pub(super) fn stretch(&self, start: u64) -> Stretch {
        Stretch { at: start, len: self.end - start, crc: self.crc }
    }
}

/// The ranges by their start. What they take of the disk is added to the tier's count, and taken off it, here alone:
/// the count is the sum over all ranges.
pub(super) struct Ranges {
    by_start: BTreeMap<u64, Stored>,
    inserted: u64,
    used_bytes: Arc<AtomicU64>,
}

impl Ranges {
    fn none(used_bytes: Arc<AtomicU64>) -> Ranges {
        Ranges { by_start: BTreeMap::new(), inserted: 0, used_bytes }
    }

    pub(super) fn insert(&mut self, range: ByteRange, sums: RangeSums) {
        self.remove(range.start());
        self.inserted += 1;
        let stored = Stored::of(range, sums, self.inserted);
        self.by_start.insert(range.start(), stored);
        self.used_bytes.fetch_add(space(range), Ordering::Relaxed);
    }

    fn remove(&mut self, start: u64) -> Option<ByteRange> {
        let stored = self.by_start.remove(&start)?;
        Some(self.taken(start, stored))
    }

    pub(super) fn pop_last(&mut self) -> Option<ByteRange> {
        let (start, stored) = self.by_start.pop_last()?;
        Some(self.taken(start, stored))
    }

    fn taken(&self, start: u64, stored: Stored) -> ByteRange {
        let range = ByteRange::new(start, stored.end);
        self.used_bytes.fetch_sub(space(range), Ordering::Relaxed);
        range
    }

    /// Removes all. Returns what they took of the disk, in bytes.
    pub(super) fn clear(&mut self) -> u64 {
        std::iter::from_fn(|| self.pop_last()).map(space).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_start.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Stored)> {
        self.by_start.iter().map(|(start, stored)| (*start, stored))
    }

    /// Marks all of them. Returns the bytes of those that were marked otherwise.
    pub(super) fn mark_all(&mut self, verified: bool) -> u64 {
        let others = self.by_start.iter_mut().filter(|(_, stored)| stored.verified != verified);
        others
            .map(|(start, stored)| {
                stored.verified = verified;
                stored.end - start
            })
            .sum()
    }

    /// Those that meet `range`, in order.
    fn meeting(&self, range: ByteRange) -> Vec<(u64, Stored)> {
        let before = self.by_start.range(..=range.start()).next_back();
        let first = before.map_or(range.start(), |(start, _)| *start);
        self.by_start
            .range(first..range.end().max(first))
            .filter(|(_, stored)| stored.end > range.start())
            .map(|(start, stored)| (*start, *stored))
            .collect()
    }

    /// Those that meet `range`, if they leave nothing of it out.
    fn covering(&self, range: ByteRange) -> Option<Vec<(u64, Stored)>> {
        let found = self.meeting(range);
        let mut reached = range.start();
        for (start, stored) in &found {
            if *start > reached {
                return None;
            }
            reached = stored.end;
        }
        (reached >= range.end()).then_some(found)
    }
}

impl DiskObject {
    pub(super) fn new(version: (Key, ETag), len: u64, used_bytes: Arc<AtomicU64>) -> DiskObject {
        let residency = Residency {
            version,
            id: None,
            file: None,
            ranges: Ranges::none(used_bytes),
            whole_sum: None,
            pass: None,
            recorded: None,
            lost: BTreeMap::new(),
        };
        DiskObject {
            len,
            users: AtomicUsize::new(0),
            forgotten: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            recording: Mutex::default(),
            residency: Mutex::new(residency),
            whole_checks: AtomicUsize::new(0),
            corruption_logged: AtomicBool::new(false),
        }
    }

    /// As the journal remembers it. Its ranges are in the count already.
    pub(super) fn from_journal(
        id: ObjectId,
        object: &Object,
        used_bytes: Arc<AtomicU64>,
    ) -> DiskObject {
        let version = (object.key.clone(), object.etag.clone());
        let mut known = DiskObject::new(version, object.len, used_bytes);
        let residency = known.residency.get_mut();
        residency.id = Some(id);
        residency.ranges.by_start = object
            .resident
            .iter()
            .map(|(range, sums)| (range.start(), Stored::of(range, sums, 0)))
            .collect();
        residency.whole_sum = object.sum.map(|sum| (sum, true));
        residency.recorded = object.verified.as_deref().copied();
        known
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn whole(&self) -> ByteRange {
        ByteRange::new(0, self.len)
    }

    pub(super) fn id(&self) -> Option<ObjectId> {
        self.residency.lock().id
    }

    pub(super) fn is_on_disk(&self) -> bool {
        self.id().is_some()
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
        self.residency.lock().is_verified(range)
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
        self.residency.lock().ranges.meeting(range)
    }

    /// Likewise, if all of `range` is there and the marks speak of this very file, as it is now (`stamp`).
    pub(super) fn stored_in_file(
        &self,
        file: FileId,
        stamp: Option<FileStamp>,
        range: ByteRange,
    ) -> Option<Vec<(u64, Stored)>> {
        let mut residency = self.residency.lock();
        residency.doubt_if_touched(stamp);
        if residency.file != Some(file) {
            return None;
        }
        residency.ranges.covering(range)
    }

    /// Whether the ranges are in this very file.
    pub(super) fn is_in(&self, file: FileId) -> bool {
        self.residency.lock().file == Some(file)
    }

    /// What is known of stretches that meet `range`, of which the bytes are here no longer.
    pub(super) fn lost_in(&self, range: ByteRange) -> Vec<Stretch> {
        self.residency.lock().lost_in(range)
    }

    /// The recorded ranges inside of `range`.
    pub(super) fn stretches_within(&self, range: ByteRange) -> Vec<Stretch> {
        let stored = self.stored_in(range).into_iter().map(|(start, stored)| stored.stretch(start));
        stored.filter(|it| range.start() <= it.at && it.end() <= range.end()).collect()
    }

    /// The sums by that algorithm of the recorded ranges inside of `range`, in order: of all of them or of some.
    pub(super) fn sums_within(
        &self,
        range: ByteRange,
        algorithm: Algorithm,
    ) -> Vec<(ByteRange, Sum)> {
        let beside = self.summed_beside();
        let sum_of = |stored: &Stored| match algorithm {
            Algorithm::Crc32c => Some(Sum::Crc(u64::from(stored.crc))),
            _ if beside == Some(algorithm) => stored.of_whole.map(|sum| Sum::Crc(sum.get())),
            _ => None,
        };
        let stored = self.stored_in(range).into_iter();
        stored
            .map(|(start, stored)| (ByteRange::new(start, stored.end), sum_of(&stored)))
            .filter(|(here, _)| range.contains(here))
            .filter_map(|(here, sum)| Some((here, sum?)))
            .collect()
    }

    /// By what the ranges are summed beside the CRC-32C.
    pub(super) fn summed_beside(&self) -> Option<Algorithm> {
        self.whole_sum().and_then(Algorithm::beside_crc32c)
    }

    /// Of the whole object, as its store tells it or has told an earlier mount.
    pub(super) fn whole_sum(&self) -> Option<ObjectSum> {
        self.residency.lock().whole_sum.map(|(sum, _)| sum)
    }

    pub(super) fn learn_whole_sum(&self, sum: ObjectSum) {
        let mut residency = self.residency.lock();
        if residency.whole_sum.is_none_or(|(known, _)| known != sum) {
            residency.whole_sum = Some((sum, false));
        }
    }

    /// The bytes of a range come once more. What the disk has of them from before is not used any more, so that the disk and
    /// the sums of what has come speak of the same bytes. (The journal names it until the new ones are recorded: with
    /// its own checksum, which is no lie.)
    pub(super) fn supersede(&self, range: ByteRange) {
        self.residency.lock().remove_wrong(range);
    }

    /// Bytes came that are what these stretches of `range` were.
    pub(super) fn found_again(&self, range: ByteRange) {
        self.residency
            .lock()
            .lost
            .retain(|at, stretch| !range.contains(&ByteRange::new(*at, stretch.end())));
    }

    /// All that is recorded of the file of this id is lost, if that is still the object's.
    pub(super) fn lose_all(&self, id: ObjectId) {
        let mut residency = self.residency.lock();
        if residency.id == Some(id) {
            let all: Vec<Stretch> =
                residency.ranges.iter().map(|(start, stored)| stored.stretch(start)).collect();
            all.into_iter().for_each(|stretch| residency.lose(stretch));
        }
    }

    /// A range of this file was found good; `stamp`: the file's before it was read, where that proves anything.
    pub(super) fn mark_verified(
        &self,
        file: FileId,
        start: u64,
        checked: &Stored,
        stamp: Option<FileStamp>,
    ) {
        let mut residency = self.residency.lock();
        if residency.file != Some(file) {
            return;
        }
        let known = residency.ranges.by_start.get(&start);
        if known.is_none_or(|known| known.nth != checked.nth) {
            return;
        }
        if let Some(stamp) = stamp {
            residency.note_checked(ByteRange::new(start, checked.end), stamp);
        }
        // After that: it takes away what was found good before the file changed.
        if let Some(stored) = residency.ranges.by_start.get_mut(&start) {
            stored.verified = true;
        }
    }
}

impl Residency {
    fn lost_in(&self, range: ByteRange) -> Vec<Stretch> {
        // Those that begin before the range are one at most.
        let before = self.lost.range(..range.start()).next_back();
        let before = before.filter(|(_, stretch)| stretch.end() > range.start());
        before
            .into_iter()
            .chain(self.lost.range(range.start()..range.end().max(range.start())))
            .map(|(_, stretch)| *stretch)
            .collect()
    }

    /// The latest knowledge of a stretch replaces what it overlaps.
    fn lose(&mut self, stretch: Stretch) {
        for old in self.lost_in(ByteRange::at(stretch.at, stretch.len)) {
            self.lost.remove(&old.at);
        }
        self.lost.insert(stretch.at, stretch);
    }

    /// The object's file is this one from now on. What was found good in another is not known to be in this one.
    pub(super) fn is_now_in(&mut self, file: FileId) {
        if self.file.is_some_and(|known| known != file) {
            self.doubt();
        }
        self.file = Some(file);
    }

    /// Whether the ranges are in this very file.
    pub(super) fn is_in(&self, file: FileId) -> bool {
        self.file == Some(file)
    }

    /// Removes a range that is still the one that was found bad.
    pub(super) fn remove_bad(&mut self, start: u64, bad: &Stored) -> Option<ByteRange> {
        let known = self.ranges.by_start.get(&start)?;
        if known.nth != bad.nth {
            return None;
        }
        // Where one range is bad, the others may be by now.
        self.doubt();
        self.lose(bad.stretch(start));
        self.ranges.remove(start)
    }

    /// Removes what of the ranges meets this, whose bytes are not what they must be, though they are what came.
    pub(super) fn remove_wrong(&mut self, range: ByteRange) -> Vec<ByteRange> {
        let met = self.ranges.meeting(range);
        if met.is_empty() {
            return Vec::new();
        }
        self.changed();
        met.into_iter().filter_map(|(start, _)| self.ranges.remove(start)).collect()
    }

    /// The object has no file any more. Returns what its ranges took of the disk, in bytes.
    pub(super) fn end(&mut self) -> Option<(ObjectId, u64)> {
        let freed = self.ranges.clear();
        self.changed();
        self.file = None;
        Some((self.id.take()?, freed))
    }

    /// Nothing is known to be good any more.
    pub(super) fn doubt(&mut self) {
        self.ranges.mark_all(false);
        self.changed();
    }

    /// Whether all of `range` is there and known to be good.
    pub(super) fn is_verified(&self, range: ByteRange) -> bool {
        let found = self.ranges.covering(range);
        found.is_some_and(|found| found.iter().all(|(_, stored)| stored.verified))
    }

    /// A range was found good while the file had the stamp.
    pub(super) fn note_checked(&mut self, range: ByteRange, stamp: FileStamp) {
        self.doubt_if_touched(Some(stamp));
        let begun = || Box::new(Pass { stamp, checked: RangeSet::new() });
        self.pass.get_or_insert_with(begun).checked.insert(range);
    }

    /// The ranges are not those that were checked and recorded any more.
    pub(super) fn changed(&mut self) {
        (self.pass, self.recorded) = (None, None);
    }

    /// A file that was changed by others since it was checked is to be checked again. (What is written here ends the
    /// pass.)
    pub(super) fn doubt_if_touched(&mut self, stamp: Option<FileStamp>) {
        if let (Some(pass), Some(stamp)) = (&self.pass, stamp)
            && pass.stamp != stamp
        {
            self.doubt();
        }
    }

    /// The stamp that the file had while all `len` bytes of it were found good.
    pub(super) fn stamp_of_all(&self, len: u64) -> Option<FileStamp> {
        let pass = self.pass.as_ref()?;
        let all = len >= STAMPED_BYTES_MIN && pass.checked.contains(ByteRange::new(0, len));
        all.then_some(pass.stamp)
    }

    /// Marks all ranges as verified, if that is what was recorded of a file with this stamp. Returns how many bytes
    /// were not before.
    pub(super) fn believe_all(&mut self, stamp: Option<FileStamp>) -> u64 {
        if self.recorded.is_none() || self.recorded != stamp {
            self.recorded = None;
            return 0;
        }
        self.ranges.mark_all(true)
    }
}
