//! Bringing back what went around the page cache, when there is nothing else to do.
//!
//! A file whose last bytes have just arrived is read from the disk again: that checks it, leaves it in the page
//! cache for the next open, and lets it be recorded as good (see [`super::stamp`]), so that the next mount
//! need not check it. One thread does that: once nothing was written for a moment, so that it does not compete with
//! a transfer for the disk, and reading at the lowest priority, so that it does not compete for a processor.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::DiskTier;
use super::object::VERIFY_AT_OPEN_BYTES_MAX;
use super::residency::{DiskObject, Stored};
use super::stamp::SETTLED_AFTER;
use crate::disk;
use crate::journal::FileStamp;
use crate::seam;
use crate::supervise::supervise_thread;
use crate::without::Heuristic;

/// Read at a time, before it is looked whether anything is written meanwhile.
const STEP_BYTES: u64 = 8 << 20;

/// Of the memory that the kernel could give, what a file may take that was not asked for: one in so many bytes.
const AVAILABLE_ONE_IN: u64 = 8;

/// Starts the thread, which ends when the tier's queue is closed.
pub(super) fn start(tier: Arc<DiskTier>) -> io::Result<()> {
    let work = move || {
        while let Some(object) = tier.waiting.next() {
            if let Err(error) = bring_back(&tier, &object) {
                log::debug!("cache: a file is checked when it is needed: {error}");
            }
        }
    };
    supervise_thread("cache-readback", work)
}

/// Checks what is not checked of the file, and records it.
fn bring_back(tier: &DiskTier, object: &Arc<DiskObject>) -> io::Result<()> {
    seam::pass_now("cache-readback");
    if !Heuristic::Readback.is_on() {
        return Ok(());
    }
    let file = tier.open_for_reading(object)?;
    // Another process may just have touched it.
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
            // A reader has opened it, is faster, and sends it here again when all is good.
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
    let text = disk::kernel_says("/proc/meminfo").unwrap_or_default();
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
