//! Ranges of a cache file compared with their checksums, on several cores where there is much to do: a
//! file that is opened for the first time after a mount is checked whole before the kernel may read it, unless
//! it is one that needs no check (see [`super::trust`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crc_fast::CrcAlgorithm;

use super::disk::{DiskObject, DiskTier, Stored};
use super::stats::VerifyReport;
use super::trust::TRUSTED_BYTES_MIN;
use crate::journal::FileStamp;
use crate::range::ByteRange;

/// Read at a time, at most. One buffer of this size serves all ranges and stays in the processor's cache: a fresh
/// mebibyte for each range cost five times the checksum, in page faults.
const READ_BYTES: usize = 256 << 10;

/// With less than this for each, one worker is done before a second has begun.
const WORKER_BYTES_MIN: u64 = 8 << 20;

/// More cores than this only wait for memory.
const WORKERS_MAX: u64 = 4;

/// How much of the machine a check may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Somebody waits for it.
    Full,
    /// What nobody else wants, of processors and of the disk.
    Idle,
}

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

    fn verify_object(&self, object: &DiskObject, report: &mut VerifyReport) -> io::Result<()> {
        let stored = object.stored_in(ByteRange::new(0, object.len()));
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.drop_range(object, ByteRange::new(0, object.len()), "its file is gone");
                stored
            }
            Err(error) => return Err(error),
        };
        report.bad_ranges += bad.len() as u64;
        report.bad_bytes += bytes_of(&bad);
        Ok(())
    }

    /// Checks every recorded range that meets `part` and was not checked since the mount. False where one
    /// of them was bad; it is dropped then.
    pub(super) fn verify(&self, object: &Arc<DiskObject>, file: &File, part: ByteRange) -> bool {
        let mut unchecked = object.stored_in(part);
        unchecked.retain(|(_, stored)| !stored.verified);
        if unchecked.is_empty() {
            return true;
        }
        let whole = usize::from(part.len() == object.len());
        object.whole_checks.fetch_add(whole, Ordering::Relaxed);
        let all_good = self.check(object, file, unchecked, Pace::Full).is_empty();
        object.whole_checks.fetch_sub(whole, Ordering::Relaxed);
        if object.is_good_and_not_on_record() {
            self.waiting.push(object);
        }
        all_good
    }

    /// Compares these ranges with their checksums. Returns those that are bad; they are dropped. At idle pace it is
    /// given up, as if it had not begun, where somebody waits for it to end.
    pub(super) fn check(
        &self,
        object: &DiskObject,
        file: &File,
        ranges: Vec<(u64, Stored)>,
        pace: Pace,
    ) -> Vec<(u64, Stored)> {
        if ranges.is_empty() {
            return ranges;
        }
        let may_be_trusted = object.len() >= TRUSTED_BYTES_MIN;
        let stamp = if may_be_trusted { self.stamps.settled(file) } else { None };
        let outcomes = match pace {
            Pace::Full => check(file, &ranges),
            Pace::Idle => match check_idly(file, &ranges, || self.waiting.is_urgent()) {
                Some(outcomes) => outcomes,
                // As if it had not begun.
                None => return Vec::new(),
            },
        };
        self.counters.disk_bytes_checked.fetch_add(bytes_of(&ranges), Ordering::Relaxed);
        let mut bad = Vec::new();
        for ((start, stored), outcome) in ranges.into_iter().zip(outcomes) {
            let cause = match outcome {
                Ok(true) => {
                    object.mark_verified(start, stored, stamp);
                    continue;
                }
                Ok(false) => "its checksum does not match".to_owned(),
                Err(error) => error.to_string(),
            };
            self.drop_range(object, ByteRange::new(start, stored.end), &cause);
            bad.push((start, stored));
        }
        bad
    }
}

impl DiskObject {
    /// `stamp`: the file's before it was read, where that proves anything.
    fn mark_verified(&self, start: u64, checked: Stored, stamp: Option<FileStamp>) {
        let mut residency = self.residency.lock();
        let Some(stored) = residency.ranges.get_mut(&start) else { return };
        if (stored.end, stored.crc) == (checked.end, checked.crc) {
            stored.verified = true;
            if let Some(stamp) = stamp {
                residency.note_checked(ByteRange::new(start, checked.end), stamp);
            }
        }
    }
}

fn bytes_of(ranges: &[(u64, Stored)]) -> u64 {
    ranges.iter().map(|(start, stored)| stored.end - start).sum()
}

/// How often an idle check looks up whether somebody is in a hurry by now.
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
                let worker = std::thread::Builder::new().name("cache-check".into());
                // Where no thread can be had, its share is checked here, below.
                (share, worker.spawn_scoped(scope, move || check_each(file, share)).ok())
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

/// Likewise, in a thread of its own at the lowest priority, for as long as nobody is in a hurry; such a thread may
/// not get a processor for long. It holds no lock: whoever waited for that would wait as long. None where it was
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
            // Nobody waits for it where it was given up.
            let _ = done.send(check_each(&file, &ranges));
        };
        std::thread::Builder::new().name("cache-idle".into()).spawn(work)
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
    ranges
        .iter()
        .map(|(start, stored)| {
            let range = ByteRange::new(*start, stored.end);
            Ok(checksum_of(file, range, &mut buffer)? == stored.crc)
        })
        .collect()
}

fn checksum_of(file: &File, range: ByteRange, buffer: &mut [u8]) -> io::Result<u32> {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut at = range.start();
    while at < range.end() {
        let count = buffer.len().min((range.end() - at) as usize);
        file.read_exact_at(&mut buffer[..count], at)?;
        digest.update(&buffer[..count]);
        at += count as u64;
    }
    // A 32-bit CRC fills the lower half of the u64.
    Ok(digest.finalize() as u32)
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
