//! Bringing back what went around the page cache, when there is nothing else to do.
//!
//! A file whose last bytes have just arrived is read from the disk again: that checks it, leaves it in the page
//! cache for whoever opens it next, and lets it be recorded as good (see [`super::trust`]), so that the next mount
//! need not check it. One thread does that: once nothing was written for a moment, so that it does not compete with
//! a transfer for the disk, and reading at the lowest priority, so that it does not compete for a processor.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::check::Pace;
use super::disk::DiskTier;
use super::object::VERIFY_AT_OPEN_BYTES_MAX;
use super::residency::{DiskObject, Stored};
use super::trust::{SETTLED_AFTER, TRUSTED_BYTES_MIN};
use crate::journal::FileStamp;
use crate::without::Heuristic;

/// How long nothing must have been written: until stamps are settled, and a little more.
const QUIET_FOR: Duration = SETTLED_AFTER.saturating_add(Duration::from_millis(10));

/// Read at a time, before it is looked whether anything is written meanwhile.
const STEP_BYTES: u64 = 8 << 20;

/// How many files wait at most; the latest are the likeliest to be read again.
const WAITING_MAX: usize = 256;

/// Of the memory that the kernel could give, what a file may take that nobody has asked for: one in so many bytes.
const AVAILABLE_ONE_IN: u64 = 8;

/// The files that wait to be brought back, or only to be recorded.
#[derive(Default)]
pub(super) struct Waiting {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    objects: VecDeque<Weak<DiskObject>>,
    /// The thread has one in hand.
    busy: bool,
    last_write: Option<Instant>,
    /// Somebody waits for the queue to be empty.
    hurry: bool,
    closed: bool,
}

impl Waiting {
    /// Takes an object in, if all of it is on the disk.
    pub(super) fn push(&self, object: &Arc<DiskObject>) {
        if object.len() < TRUSTED_BYTES_MIN || !object.holds(object.whole()) {
            return;
        }
        let mut queue = self.queue.lock();
        let known = Arc::as_ptr(object);
        queue.objects.retain(|waiting| waiting.as_ptr() != known);
        if queue.objects.len() == WAITING_MAX {
            queue.objects.pop_front();
        }
        queue.objects.push_back(Arc::downgrade(object));
        self.changed.notify_all();
    }

    /// Something was written to the disk.
    pub(super) fn wrote(&self) {
        self.queue.lock().last_write = Some(Instant::now());
    }

    /// Waits until nothing waits any more, or until the deadline. Blocks.
    pub(super) fn drain(&self, deadline: Instant) {
        let mut queue = self.queue.lock();
        queue.hurry = true;
        self.changed.notify_all();
        while (queue.busy || !queue.objects.is_empty())
            && !self.changed.wait_until(&mut queue, deadline).timed_out()
        {}
        queue.hurry = false;
    }

    /// Whether somebody waits for the thread to be done.
    pub(super) fn is_urgent(&self) -> bool {
        let queue = self.queue.lock();
        queue.hurry || queue.closed
    }

    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }

    /// The latest, once all is quiet. None at the end.
    fn next(&self) -> Option<Arc<DiskObject>> {
        loop {
            {
                let mut queue = self.queue.lock();
                queue.busy = false;
                self.changed.notify_all();
                while queue.objects.is_empty() && !queue.closed {
                    self.changed.wait(&mut queue);
                }
            }
            self.quiet()?;
            let mut queue = self.queue.lock();
            let latest = queue.objects.pop_back().and_then(|object| object.upgrade());
            queue.busy = latest.is_some();
            if latest.is_some() {
                return latest;
            }
        }
    }

    /// Waits until nothing was written for a while, and says how fast to go then. None at the end.
    fn quiet(&self) -> Option<Pace> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            let since = queue.last_write.map_or(QUIET_FOR, |last| last.elapsed());
            let Some(left) = QUIET_FOR.checked_sub(since).filter(|left| !left.is_zero()) else {
                return Some(if queue.hurry { Pace::Full } else { Pace::Idle });
            };
            self.changed.wait_for(&mut queue, left);
        }
    }

    /// Waits for so long, or until the end.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut queue = self.queue.lock();
        while !queue.closed && !self.changed.wait_until(&mut queue, until).timed_out() {}
    }
}

/// Starts the thread, which ends when the tier's queue is closed.
pub(super) fn start(tier: Arc<DiskTier>) -> io::Result<()> {
    let work = move || {
        while let Some(object) = tier.waiting.next() {
            if let Err(error) = bring_back(&tier, &object) {
                log::debug!("cache: a file is checked when it is needed: {error}");
            }
        }
    };
    std::thread::Builder::new().name("cache-warm".into()).spawn(work).map(drop)
}

/// Checks what is not checked of the file, and records it.
fn bring_back(tier: &DiskTier, object: &Arc<DiskObject>) -> io::Result<()> {
    if !Heuristic::Readback.is_on() {
        return Ok(());
    }
    let file = tier.open_for_reading(object)?;
    // Somebody else may just have touched it.
    let again = || {
        tier.waiting.pause(SETTLED_AFTER);
        tier.stamps.settled(file.file())
    };
    let Some(stamp) = tier.stamps.settled(file.file()).or_else(again) else { return Ok(()) };
    while let Some(step) = next_step(object, &stamp) {
        let Some(pace) = tier.waiting.quiet() else { return Ok(()) };
        if object.len() > VERIFY_AT_OPEN_BYTES_MAX || !fits_into_memory(object.len()) {
            return Ok(());
        }
        if object.whole_checks.load(Ordering::Relaxed) > 0 {
            // Somebody has opened it, is faster, and sends it here again when all is good.
            return Ok(());
        }
        if !tier.check(object, &file, step, pace).is_empty() {
            // What is bad was dropped, counted and told of by the check itself.
            return Ok(());
        }
    }
    tier.attest(object, &file);
    Ok(())
}

/// The next ranges to be checked.
fn next_step(object: &DiskObject, stamp: &FileStamp) -> Option<Vec<(u64, Stored)>> {
    let mut step = object.unchecked_since(stamp);
    let mut bytes = 0;
    let count = step.iter().take_while(|(start, stored)| {
        let first = bytes == 0;
        bytes += stored.end - start;
        first || bytes <= STEP_BYTES
    });
    let count = count.count();
    step.truncate(count);
    (count > 0).then_some(step)
}

/// Whether the kernel can keep so much without dropping what is in use.
fn fits_into_memory(bytes: u64) -> bool {
    bytes <= available_memory_bytes() / AVAILABLE_ONE_IN
}

/// 0 where the kernel does not tell.
fn available_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_memory_is_available() {
        // Neither nothing nor a figure in other units than bytes.
        assert!((1 << 24..1 << 46).contains(&available_memory_bytes()));
    }
}
