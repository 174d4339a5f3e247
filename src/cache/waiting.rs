//! The files that wait to be read back, or only to be recorded as good.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::residency::DiskObject;
use super::stamp::{SETTLED_AFTER, STAMPED_BYTES_MIN};
use crate::clock::Instant;
use crate::lock::{Condvar, Mutex, rank};

/// How long nothing must have been written: until stamps are settled, and a little more.
const QUIET_FOR: Duration = SETTLED_AFTER.saturating_add(Duration::from_millis(10));

/// How many files wait at most; the latest are the likeliest to be read again.
const WAITING_MAX: usize = 256;

/// How much of the machine a check may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// A caller waits for it.
    Full,
    /// What is idle of processors and of the disk.
    Idle,
}

/// The files that wait to be brought back, or only to be recorded.
#[derive(Default)]
pub(super) struct Waiting {
    queue: Mutex<Queue, rank::Readback>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    objects: VecDeque<Weak<DiskObject>>,
    /// The thread has one in hand.
    busy: bool,
    last_write: Option<Instant>,
    /// A caller waits for the queue to be empty.
    hurry: bool,
    closed: bool,
}

impl Waiting {
    /// Takes an object in, if all of it is on the disk.
    pub(super) fn push(&self, object: &Arc<DiskObject>) {
        if object.len() < STAMPED_BYTES_MIN || !object.holds(object.whole()) {
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

    /// Whether a caller waits for the thread to be done.
    pub(super) fn is_urgent(&self) -> bool {
        let queue = self.queue.lock();
        queue.hurry || queue.closed
    }

    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }

    /// The latest, once all is quiet. None at the end.
    pub(super) fn next(&self) -> Option<Arc<DiskObject>> {
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
    pub(super) fn quiet(&self) -> Option<Pace> {
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
    pub(super) fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut queue = self.queue.lock();
        while !queue.closed && !self.changed.wait_until(&mut queue, until).timed_out() {}
    }
}
