//! Bringing back what went around the page cache, when there is nothing else to do.
//!
//! A file whose last bytes have just arrived is read from the disk again, which checks it and leaves it in the
//! page cache for whoever opens it next. Only into memory that is free: nothing is displaced for it. And only once
//! nothing was written for a while, so that it never competes with a transfer.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::disk::{DiskObject, DiskTier};
use super::object::VERIFY_AT_OPEN_BYTES_MAX;
use crate::range::ByteRange;

/// How long nothing must have been written.
pub(super) const QUIET_FOR: Duration = Duration::from_millis(200);

/// Read at a time: what arrives meanwhile waits for a few milliseconds.
const STEP_BYTES: u64 = 8 << 20;

/// How many files wait at most; the latest are the likeliest to be read again.
const WAITING_MAX: usize = 16;

#[derive(Default)]
pub(super) struct Warmer {
    waiting: VecDeque<Weak<DiskObject>>,
    /// How far the first one is.
    reached: u64,
}

impl Warmer {
    /// Something of the object went around the page cache. If that was the last of it, it waits from now on.
    pub(super) fn note(&mut self, object: &Arc<DiskObject>) {
        // Larger files are not checked when they are opened either.
        if object.len() > VERIFY_AT_OPEN_BYTES_MAX || !object.holds(ByteRange::new(0, object.len()))
        {
            return;
        }
        if self.waiting.len() == WAITING_MAX {
            self.next();
        }
        self.waiting.push_back(Arc::downgrade(object));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Reads the next piece.
    pub(super) fn step(&mut self, tier: &DiskTier) {
        let Some(object) = self.waiting.front().and_then(Weak::upgrade) else { return self.next() };
        let piece = ByteRange::at(self.reached, STEP_BYTES.min(object.len() - self.reached));
        self.reached = piece.end();
        // Where somebody has opened it meanwhile, it is checked already.
        let wanted = object.unverified_bytes(piece) > 0 && free_memory_bytes() / 2 > object.len();
        // What is bad is dropped, counted and told of by the check itself.
        let goes_on = wanted
            && tier.open_for_reading(&object).is_ok_and(|file| tier.verify(&object, &file, piece));
        if !goes_on || self.reached == object.len() {
            self.next();
        }
    }

    fn next(&mut self) {
        self.waiting.pop_front();
        self.reached = 0;
    }
}

/// Memory that nobody uses for anything, 0 where the kernel does not tell.
fn free_memory_bytes() -> u64 {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::zeroed();
    // SAFETY: the pointer is to a structure of the call's own type, which it fills; zeros are a valid value of it.
    let info = unsafe {
        if libc::sysinfo(info.as_mut_ptr()) != 0 {
            return 0;
        }
        info.assume_init()
    };
    info.freeram.saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_memory_is_free() {
        // Neither nothing nor a figure in other units than bytes.
        assert!((1 << 20..1 << 46).contains(&free_memory_bytes()));
    }
}
