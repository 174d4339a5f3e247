//! The disk worker: the one thread that writes cache files.
//!
//! Consistency: bytes first, then the record with their CRC. Retries: none; what cannot be written is
//! skipped and counted, and fetched again one day. Cancellation: closing the queue ends it after the job in
//! hand. Crash: an unrecorded write is as if it had not been. Panic: the job in hand is given up, as one that failed;
//! the worker begins again with the next.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cache_file::{CacheFile, Condition, Route, Speeds};
use super::disk::DiskTier;
use super::recording::Recording;
use super::residency::{DiskObject, WrittenFile, space};
use super::segment::Segment;
use super::sweep::Sweep;
use super::write_behind::{Job, Next, Source, WriteBehind};
use crate::checked::checksum;
use crate::clock::Instant;
use crate::journal::RangeSums;
use crate::range::{ByteRange, RangeSet};
use crate::seam;
use crate::supervise::supervise_thread;
use crate::without::Heuristic;

/// When the disk is full, this much of the cache is freed besides what is needed now: each further write
/// would hit the same wall otherwise.
const FULL_DISK_EVICT_BYTES: u64 = 64 << 20;

/// What is recorded as one range, at most.
const RANGE_BYTES_MAX: usize = 1 << 20;

/// The bytes of objects from this length on may go around the page cache (see [`super::cache_file`]). Smaller
/// ones are likely to be read again soon by another program, and whole.
const DIRECT_BYTES_MIN: u64 = 16 << 20;

pub(super) struct Worker {
    tier: Arc<DiskTier>,
    queue: Arc<WriteBehind>,
    sweep: Sweep,
    sweeping: bool,
    speeds: Speeds,
    /// The file written last: consecutive writes are mostly to one object.
    open: Option<CacheFile>,
}

/// What a job holds of what may wait, until it ends: by a panic as well.
struct Held<'a> {
    queue: &'a WriteBehind,
    bytes: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.queue.release(self.bytes);
    }
}

/// Starts the thread that works the queue off until it is closed.
pub(super) fn start(tier: Arc<DiskTier>, queue: Arc<WriteBehind>) -> io::Result<()> {
    supervise_thread("cache-disk", move || Worker::new(tier.clone(), queue.clone()).run())
}

impl Worker {
    fn new(tier: Arc<DiskTier>, queue: Arc<WriteBehind>) -> Worker {
        let sweep = Sweep::new(&tier);
        Worker { tier, queue, sweep, sweeping: true, speeds: Speeds::default(), open: None }
    }

    /// Works the queue off until it is closed.
    fn run(mut self) {
        loop {
            // When there is something else to do, it does not wait for a job.
            let patience = self.sweeping.then_some(Duration::ZERO);
            match self.queue.next(patience) {
                Next::Job(job) => self.work(job),
                Next::Idle => self.sweeping = self.sweep.step(&self.tier),
                Next::Closed => return,
            }
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Save { object, source, range } => self.save(&object, source, range),
            Job::Remove(object) => {
                self.open = None;
                self.tier.remove(&object);
            }
            Job::Relabel(object) => self.tier.relabel(&object),
            Job::Clear(done) => {
                self.open = None;
                let _ = done.send(self.tier.clear());
            }
            // A caller that has given up waiting is not told.
            Job::Settle(done) => {
                let _ = done.send(());
            }
        }
    }

    fn save(&mut self, object: &Arc<DiskObject>, source: Source, range: ByteRange) {
        let (segment, held) = match source {
            Source::Held(segment) => (Some(segment), range.len()),
            Source::IfStillThere(segment) => (segment.upgrade(), 0),
        };
        let queue = self.queue.clone();
        let held = Held { queue: &queue, bytes: held };
        seam::pass_now("cache-disk");
        let written = match &segment {
            Some(segment) => self.write(object, segment, range),
            None => Ok(false),
        };
        drop(segment);
        drop(held);
        let counters = &self.tier.counters;
        match written {
            Ok(true) => {}
            Ok(false) => {
                counters.disk_bytes_skipped.fetch_add(range.len(), Ordering::Relaxed);
            }
            Err(error) => {
                self.open = None;
                counters.disk_bytes_skipped.fetch_add(range.len(), Ordering::Relaxed);
                if counters.disk_write_failures.fetch_add(1, Ordering::Relaxed) == 0 {
                    log::warn!("cache: cannot write to the cache directory, going on: {error}");
                }
            }
        }
    }

    /// Writes what of `range` is not on disk yet. False where there is no room for it.
    fn write(
        &mut self,
        object: &Arc<DiskObject>,
        segment: &Segment,
        range: ByteRange,
    ) -> io::Result<bool> {
        if object.forgotten.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let mut there = RangeSet::new();
        object.resident(range).into_iter().for_each(|here| there.insert(here));
        for gap in there.gaps(range) {
            // Shorter than planned where the transfer was dropped, or not what it must be: nothing to write then.
            let Some(bytes) = segment.arrived_slice(gap) else { return Ok(false) };
            if !self.tier.make_room(space(gap)) {
                return Ok(false);
            }
            if !self.write_gap(object, gap, bytes)? {
                return Ok(false);
            }
            if segment.is_spoiled() {
                // Found wrong meanwhile: what was dropped then did not have this.
                self.tier.drop_wrong(object, gap);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// False where the file was taken away meanwhile.
    fn write_gap(
        &mut self,
        object: &Arc<DiskObject>,
        gap: ByteRange,
        bytes: &[u8],
    ) -> io::Result<bool> {
        let wished = self.route(object);
        let mut written = self.write_at(object, bytes, gap.start(), wished);
        if let Err(error) = &written
            && error.kind() == io::ErrorKind::StorageFull
            && self.tier.evict(FULL_DISK_EVICT_BYTES.max(space(gap))) > 0
        {
            // Once more. The eviction may have taken this very object, which is begun again then.
            written = self.write_at(object, bytes, gap.start(), wished);
        }
        let (route, file) = written?;
        self.tier.waiting.wrote();
        // In pieces: to use one byte of a recorded range all of it is checked.
        let beside = object.summed_beside();
        let mut start = gap.start();
        for piece in bytes.chunks(RANGE_BYTES_MAX) {
            let range = ByteRange::at(start, piece.len() as u64);
            let of_whole = beside.and_then(|beside| NonZeroU64::new(beside.crc_of(piece)?));
            let sums = RangeSums { crc: checksum(piece), of_whole };
            if !Recording::of(&self.tier.journal, object).add(&file, range, sums)? {
                return Ok(false);
            }
            start = range.end();
        }
        let counters = &self.tier.counters;
        counters.disk_bytes_written.fetch_add(gap.len(), Ordering::Relaxed);
        if route == Route::Direct {
            counters.disk_bytes_direct.fetch_add(gap.len(), Ordering::Relaxed);
        }
        self.tier.waiting.push(object);
        Ok(true)
    }

    /// The bytes of small objects go through the page cache; those of others around it, but for what waits where
    /// the page cache is faster than the disk.
    fn route(&self, object: &DiskObject) -> Route {
        if object.len() < DIRECT_BYTES_MIN || !Heuristic::DirectWrites.is_on() {
            Route::Buffered
        } else if self.queue.little_waits() {
            Route::Direct
        } else {
            self.speeds.faster()
        }
    }

    fn write_at(
        &mut self,
        object: &Arc<DiskObject>,
        bytes: &[u8],
        offset: u64,
        route: Route,
    ) -> io::Result<(Route, WrittenFile)> {
        let file = self.file_of(object)?;
        let before = file.stamp(&self.tier.stamps);
        let written = WrittenFile { id: file.id(), file_id: file.file_id(), before };
        let begun = Instant::now();
        let taken = (self.tier.write)(self.open.insert(file), bytes, offset, route)?;
        self.speeds.note(taken, bytes.len(), begun.elapsed());
        Ok((taken, written))
    }

    /// The object's file, as it should be: one that was deleted is begun anew, and what was cut off one is not
    /// believed to be there.
    fn file_of(&mut self, object: &Arc<DiskObject>) -> io::Result<CacheFile> {
        let last = self
            .open
            .take()
            .filter(|file| Some(file.id()) == object.id() && object.is_in(file.file_id()));
        let file = match last {
            Some(file) => file,
            None => self.tier.open_for_writing(object)?,
        };
        match file.condition(object.len())? {
            Condition::Good => Ok(file),
            Condition::Cut => {
                object.residency.lock().doubt();
                file.set_len(object.len())?;
                Ok(file)
            }
            Condition::Deleted => {
                self.tier.give_up(object, file.id(), "its file is gone");
                self.tier.open_for_writing(object)
            }
        }
    }
}
