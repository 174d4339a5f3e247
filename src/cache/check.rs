//! The one way out of a cache file for its bytes: every recorded range is compared with its checksum, in
//! the very read that first gives any of it out.
//!
//! A file that is opened for the first time after a mount is checked whole, on several cores, before the kernel may
//! read it by itself, unless it is one that needs no check (see [`super::stamp`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::cache_file::OpenFile;
use super::disk::DiskTier;
use super::residency::{DiskObject, Stored};
use super::stamp::STAMPED_BYTES_MIN;
use super::stats::VerifyReport;
use super::waiting::Pace;
use crate::blocking;
use crate::disk::File;
use crate::range::ByteRange;

/// Read at a time, at most. One buffer of this size serves all ranges and stays in the processor's cache: a fresh
/// mebibyte for each range cost five times the checksum, in page faults.
const READ_BYTES: usize = 256 << 10;

/// With less than this for each, one worker is done before a second has begun.
const WORKER_BYTES_MIN: u64 = 8 << 20;

/// More cores than this only wait for memory.
const WORKERS_MAX: u64 = 4;

/// A check that is under way beside another, with a stamp from before the last write, may take away what that one has
/// just found good: then once more.
const CHECKS_MAX: usize = 2;

impl DiskTier {
    /// Checks every range of every object; bad ones are dropped.
    ///
    /// # Errors
    /// A file that is there and cannot be opened: its bytes may be good, and are left as they are.
    pub(super) fn verify_all(&self) -> io::Result<VerifyReport> {
        let objects = self.objects.lock().wake_all();
        let mut report = VerifyReport::default();
        for object in objects {
            // As a user, so that nothing is evicted while it is checked.
            self.enter(&object);
            let checked = self.verify_object(&object, &mut report);
            if self.leave(&object) {
                self.remove(&object);
            }
            checked?;
        }
        Ok(report)
    }

    fn verify_object(&self, object: &Arc<DiskObject>, report: &mut VerifyReport) -> io::Result<()> {
        let stored = object.stored_in(object.whole());
        if stored.is_empty() {
            return Ok(());
        }
        report.objects += 1;
        report.ranges += stored.len() as u64;
        report.bytes += bytes_of(&stored);
        let bad = match self.open_for_reading(object) {
            Ok(file) => {
                let bad = self.check(object, &file, stored, Pace::Full);
                self.attest(object, &file);
                bad
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => stored,
            Err(error) => return Err(error),
        };
        report.bad_ranges += bad.len() as u64;
        report.bad_bytes += bytes_of(&bad);
        Ok(())
    }

    /// Fills `into` with `part` of the object, all of it compared with its checksums, now where that was not done
    /// since the mount. `None`, and `into` is void, where not all of it is in this file, or it turned out bad; what
    /// is bad is dropped, so that a new plan does without it.
    pub(super) fn read(
        &self,
        object: &Arc<DiskObject>,
        file: &OpenFile,
        part: ByteRange,
        into: &mut [u8],
    ) -> Option<()> {
        let now = self.stamps.now(file.file());
        let ranges = object.stored_in_file(file.id(), now, part)?;
        let checks = ranges.iter().any(|(_, stored)| !stored.verified);
        let stamp = if checks { self.stamp_for(object, file) } else { None };
        for (start, stored) in ranges {
            let here = ByteRange::new(start, stored.end).intersect(&part);
            let into = &mut into[(here.start() - part.start()) as usize..][..here.len() as usize];
            let read = if stored.verified {
                file.file().read_exact_at(into, here.start()).map(|()| true)
            } else {
                self.count_checked(stored.end - start);
                stored.stretch(start).read(file.file(), here.start(), into)
            };
            if let Some(cause) = complaint(read) {
                self.drop_range(object, start, &stored, &cause);
                return None;
            }
            if !stored.verified {
                object.mark_verified(file.id(), start, &stored, stamp);
            }
        }
        self.counters.bytes_from_disk.fetch_add(part.len(), Ordering::Relaxed);
        if checks && object.is_good_and_not_on_record() {
            self.waiting.push(object);
        }
        Some(())
    }

    /// The file, if every byte of the object was found good in it and it is as long as the object.
    pub(super) fn verified(
        &self,
        object: &DiskObject,
        file: &Arc<OpenFile>,
    ) -> Option<VerifiedFile> {
        let len = file.file().metadata().ok()?.len();
        // The kernel reads by it.
        file.file().descriptor()?;
        let stamp = self.stamps.now(file.file());
        let mut residency = object.residency.lock();
        residency.doubt_if_touched(stamp);
        let all_good = residency.is_in(file.id()) && residency.is_verified(object.whole());
        (all_good && len == object.len()).then(|| VerifiedFile(file.clone()))
    }

    /// Likewise, after a check of what was not checked since the mount. What another reader finds bad meanwhile
    /// counts as well.
    pub(super) fn verify(
        &self,
        object: &Arc<DiskObject>,
        file: &Arc<OpenFile>,
    ) -> Option<VerifiedFile> {
        let mut verified = None;
        for _ in 0..CHECKS_MAX {
            let now = self.stamps.now(file.file());
            let mut unchecked = object.stored_in_file(file.id(), now, object.whole())?;
            unchecked.retain(|(_, stored)| !stored.verified);
            object.whole_checks.fetch_add(1, Ordering::Relaxed);
            let bad = self.check(object, file, unchecked, Pace::Full);
            object.whole_checks.fetch_sub(1, Ordering::Relaxed);
            verified = self.verified(object, file);
            if verified.is_some() || !bad.is_empty() {
                break;
            }
        }
        if object.is_good_and_not_on_record() {
            self.waiting.push(object);
        }
        verified
    }

    /// Compares these ranges with their checksums. Returns those that are bad; they are dropped. At idle pace it is
    /// given up, as if it had not begun, where a caller waits for it to end.
    pub(super) fn check(
        &self,
        object: &DiskObject,
        file: &OpenFile,
        ranges: Vec<(u64, Stored)>,
        pace: Pace,
    ) -> Vec<(u64, Stored)> {
        if ranges.is_empty() {
            return ranges;
        }
        let stamp = self.stamp_for(object, file);
        let outcomes = match pace {
            Pace::Full => check(file.file(), &ranges),
            Pace::Idle => match check_idly(file.file(), &ranges, || self.waiting.is_urgent()) {
                Some(outcomes) => outcomes,
                // As if it had not begun.
                None => return Vec::new(),
            },
        };
        self.count_checked(bytes_of(&ranges));
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for ((start, stored), outcome) in ranges.into_iter().zip(outcomes) {
            match complaint(outcome) {
                None => good.push((start, stored)),
                Some(cause) => {
                    self.drop_range(object, start, &stored, &cause);
                    bad.push((start, stored));
                }
            }
        }
        // After those that are bad: they put in doubt what was found good before them.
        good.iter()
            .for_each(|(start, stored)| object.mark_verified(file.id(), *start, stored, stamp));
        bad
    }

    fn count_checked(&self, bytes: u64) {
        self.counters.disk_bytes_checked.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The file's stamp before it is read, where that is worth a record.
    fn stamp_for(&self, object: &DiskObject, file: &OpenFile) -> Option<crate::journal::FileStamp> {
        let is_worth_a_record = object.len() >= STAMPED_BYTES_MIN;
        if is_worth_a_record { self.stamps.settled(file.file()) } else { None }
    }
}

/// A cache file of which every byte was compared with its checksum, as long as its object: what the kernel may read
/// by itself.
#[derive(Clone)]
pub struct VerifiedFile(Arc<OpenFile>);

impl VerifiedFile {
    /// Whether nothing else in this process has it open by this descriptor.
    pub(super) fn is_held_here_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl AsFd for VerifiedFile {
    #[expect(clippy::expect_used, reason = "an invariant")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file().descriptor().expect("only a file with a descriptor is handed out as verified")
    }
}

impl std::fmt::Debug for VerifiedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("VerifiedFile").field(self.0.file()).finish()
    }
}

/// What is wrong with a range that was compared, if anything is.
fn complaint(outcome: io::Result<bool>) -> Option<String> {
    match outcome {
        Ok(true) => None,
        Ok(false) => Some("its checksum does not match".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

fn bytes_of(ranges: &[(u64, Stored)]) -> u64 {
    ranges.iter().map(|(start, stored)| stored.end - start).sum()
}

/// How often an idle check looks up whether a caller waits by now.
const HURRY_LOOKED_AT: Duration = Duration::from_millis(20);

/// Whether the bytes of each range (its start, and what was recorded of it) have their checksum, in the
/// order of `ranges`.
fn check(file: &File, ranges: &[(u64, Stored)]) -> Vec<io::Result<bool>> {
    if ranges.is_empty() {
        return Vec::new();
    }
    let bytes = bytes_of(ranges);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let workers = (bytes / WORKER_BYTES_MIN).clamp(1, cores.min(WORKERS_MAX)) as usize;
    let share = ranges.len().div_ceil(workers).max(1);
    std::thread::scope(|scope| {
        let mut shares = ranges.chunks(share);
        let own = shares.next().unwrap_or_default();
        let others: Vec<_> = shares
            .map(|share| {
                let worker =
                    blocking::scoped(scope, "cache-check", move || check_each(file, share));
                // Where no thread can be had, its share is checked here, below.
                (share, worker.ok())
            })
            .collect();
        let mut outcomes = check_each(file, own);
        for (share, worker) in others {
            let done = worker.and_then(|worker| worker.join().ok());
            outcomes.extend(done.unwrap_or_else(|| check_each(file, share)));
        }
        outcomes
    })
}

/// Likewise, in a thread of its own at the lowest priority, for as long as no caller waits; such a thread may
/// not get a processor for long. It holds no lock: what waits for one would wait as long. None where it was
/// given up.
fn check_idly(
    file: &File,
    ranges: &[(u64, Stored)],
    in_a_hurry: impl Fn() -> bool,
) -> Option<Vec<io::Result<bool>>> {
    let (done, outcomes) = mpsc::sync_channel(1);
    let begun = file.try_clone().and_then(|file| {
        let ranges = ranges.to_vec();
        let work = move || {
            become_idle();
            // Where it was given up, it is not waited for.
            let _ = done.send(check_each(&file, &ranges));
        };
        blocking::thread("cache-idle", work)
    });
    while begun.is_ok() {
        match outcomes.recv_timeout(HURRY_LOOKED_AT) {
            Ok(outcomes) => return Some(outcomes),
            Err(mpsc::RecvTimeoutError::Timeout) if in_a_hurry() => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    // No thread to be had.
    Some(check_each(file, ranges))
}

/// Gives this thread the lowest priority there is. Where that is refused, it goes on as it is.
fn become_idle() {
    /// From linux/ioprio.h, which libc does not have: this thread; the idle class, in the upper bits.
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_IDLE: libc::c_int = 3 << 13;
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 means the calling thread; the structure lives for the length of the call, and the second call
    // touches no memory.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority);
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
    }
}

fn check_each(file: &File, ranges: &[(u64, Stored)]) -> Vec<io::Result<bool>> {
    let longest = ranges.iter().map(|(start, stored)| stored.end - start).max().unwrap_or(0);
    let mut buffer = vec![0; READ_BYTES.min(longest as usize)];
    ranges.iter().map(|(start, stored)| stored.stretch(*start).is_in(file, &mut buffer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_thread_is_one_for_the_kernel() {
        let become_and_ask = || {
            become_idle();
            // SAFETY: 0 means the calling thread; neither call touches memory of ours.
            unsafe { (libc::sched_getscheduler(0), libc::syscall(libc::SYS_ioprio_get, 1, 0)) }
        };
        let idle = std::thread::spawn(become_and_ask).join().unwrap();
        assert_eq!(idle, (libc::SCHED_IDLE, 3 << 13));
    }
}
