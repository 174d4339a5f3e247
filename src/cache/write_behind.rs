//! Write-behind: what waits for the disk worker, so that bytes get to the disk off every reader's path.
//!
//! Cancellation: closing the queue drops what waits in it.
//!
//! A slow disk: the queue holds a limited number of bytes in memory. Beyond it, entries only remember
//! where the bytes were; if they leave memory before their turn comes, they are skipped.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::residency::DiskObject;
use super::segment::Segment;
use super::stats::ClearReport;
use crate::clock::Instant;
use crate::lock::{Condvar, Mutex, rank};
use crate::range::ByteRange;

/// Of the memory budget, what may wait for the disk: one in so many bytes.
const HELD_ONE_IN: u64 = 4;

/// Of that, what may be waiting when bytes beyond the budget join: one in so many.
const OVERDRAWN_ONE_IN: u64 = 4;

/// The longest single write. Beyond it a disk gains little, and a kill loses more.
const WRITE_BYTES_MAX: u64 = 4 << 20;

/// How many of the jobs that wait are looked at for one to be made longer: as many as streams are likely.
const LOOKED_AT_MAX: usize = 64;

/// The disk keeps up while no more than this waits, and no more than one in so many of the bytes that may. What
/// waits is what a kill loses.
const KEEPING_UP_BYTES_MAX: u64 = 8 << 20;
const KEEPING_UP_ONE_IN: u64 = 4;

pub(super) struct WriteBehind {
    held_bytes_max: u64,
    queue: Mutex<Queue, rank::WriteBehind>,
    arrived: Condvar,
}

/// Invariant: `held_bytes` is the sum over the strong entries.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    held_bytes: u64,
    closed: bool,
}

pub(super) enum Job {
    Save {
        object: Arc<DiskObject>,
        source: Source,
        range: ByteRange,
    },
    Remove(Arc<DiskObject>),
    /// Records the object under the name that it has now.
    Relabel(Arc<DiskObject>),
    /// Removes everything that is not in use.
    Clear(oneshot::Sender<ClearReport>),
    /// Says when everything before it is done.
    Settle(oneshot::Sender<()>),
}

pub(super) enum Next {
    Job(Job),
    /// Nothing came.
    Idle,
    Closed,
}

pub(super) enum Source {
    Held(Arc<Segment>),
    IfStillThere(Weak<Segment>),
}

impl WriteBehind {
    /// An empty queue: [`super::disk_worker`] works it off until it is closed.
    pub(super) fn new(budget_bytes: u64) -> Arc<WriteBehind> {
        Arc::new(WriteBehind {
            held_bytes_max: budget_bytes / HELD_ONE_IN,
            queue: Mutex::default(),
            arrived: Condvar::new(),
        })
    }

    /// Takes bytes of a segment to be written. Never waits.
    pub(super) fn push(&self, object: &Arc<DiskObject>, segment: &Arc<Segment>, range: ByteRange) {
        // Bytes beyond the budget are not held for long.
        let held_bytes_max =
            self.held_bytes_max / if segment.may_stay() { 1 } else { OVERDRAWN_ONE_IN };
        let mut queue = self.queue.lock();
        let source = if queue.held_bytes + range.len() <= held_bytes_max {
            queue.held_bytes += range.len();
            if queue.extend_waiting(segment, range) {
                return;
            }
            Source::Held(segment.clone())
        } else {
            Source::IfStillThere(Arc::downgrade(segment))
        };
        self.enqueue(queue, Job::Save { object: object.clone(), source, range });
    }

    /// Takes an object to be removed from disk.
    pub(super) fn push_removal(&self, object: Arc<DiskObject>) {
        self.enqueue(self.queue.lock(), Job::Remove(object));
    }

    /// Takes an object that was renamed in the store.
    pub(super) fn push_relabel(&self, object: Arc<DiskObject>) {
        self.enqueue(self.queue.lock(), Job::Relabel(object));
    }

    /// Resolves when everything that is not in use is gone; `None` where the cache is closed.
    pub(super) async fn clear(&self) -> Option<ClearReport> {
        let (done, cleared) = oneshot::channel();
        self.enqueue(self.queue.lock(), Job::Clear(done));
        cleared.await.ok()
    }

    fn enqueue(&self, mut queue: crate::lock::MutexGuard<'_, Queue>, job: Job) {
        if !queue.closed {
            queue.jobs.push_back(job);
            self.arrived.notify_one();
        }
    }

    /// Resolves when everything queued before the call is written or skipped.
    pub(super) async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        self.enqueue(self.queue.lock(), Job::Settle(done));
        // A closed queue drops the sender: there is nothing to wait for then.
        let _ = settled.await;
    }

    /// Ends the worker after the job in hand; what waits is dropped.
    pub(super) fn close(&self) {
        let dropped = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        self.arrived.notify_all();
        drop(dropped);
    }

    /// The next job, for which it waits as long as `patience` says: for ever without one.
    pub(super) fn next(&self, patience: Option<Duration>) -> Next {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return Next::Closed;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Next::Job(job);
            }
            match deadline {
                None => self.arrived.wait(&mut queue),
                Some(deadline) if self.arrived.wait_until(&mut queue, deadline).timed_out() => {
                    return Next::Idle;
                }
                Some(_) => {}
            }
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        self.queue.lock().held_bytes -= bytes;
    }

    /// Whether little waits, of what may.
    pub(super) fn little_waits(&self) -> bool {
        let few = KEEPING_UP_BYTES_MAX.min(self.held_bytes_max / KEEPING_UP_ONE_IN);
        self.queue.lock().held_bytes <= few
    }
}

impl Queue {
    /// Makes `range` part of a job that waits with the bytes just before it, where there is one: long writes
    /// are cheaper, and there are some to be had as soon as the disk is slower than the store.
    fn extend_waiting(&mut self, segment: &Arc<Segment>, range: ByteRange) -> bool {
        let saves = self.jobs.iter_mut().rev().map_while(|job| match job {
            Job::Save { source: Source::Held(held), range, .. } => Some((held, range)),
            _ => None,
        });
        let before = saves
            .take(LOOKED_AT_MAX)
            .find(|(held, waiting)| Arc::ptr_eq(held, segment) && waiting.end() == range.start());
        match before {
            Some((_, waiting)) if waiting.len() + range.len() <= WRITE_BYTES_MAX => {
                *waiting = ByteRange::new(waiting.start(), range.end());
                true
            }
            _ => false,
        }
    }
}
