//! The queue of closed files: which is sent next, which is tried again when, whether there is room for one more.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};

/// The queue of closed files.
pub struct Waiting {
    // One lock for all: two were once taken in either order, and a mount hung for good.
    queue: Mutex<Queue, rank::WriteBackQueue>,
    pub changed: Notify,
    /// Last closes under way: what was written to a mapping after close(2) is published by them.
    releases: AtomicUsize,
    bytes_max: u64,
}

/// Invariants: each file of `files` is in exactly one of `fresh`, `again`, `later`, those that run and those that are
/// held; `bytes` is the sum of theirs.
#[derive(Default)]
struct Queue {
    files: HashMap<u64, File>,
    /// By inode, oldest first: those that have not failed.
    fresh: VecDeque<u64>,
    /// Those that have, and may be tried again now.
    again: VecDeque<u64>,
    /// And those that may not yet, by when they may.
    later: BTreeSet<(Instant, u64)>,
    running: usize,
    /// Of those: how many have failed before.
    running_again: usize,
    bytes: u64,
}

/// One file that waits or is being sent.
struct File {
    bytes: u64,
    at: Place,
    /// How long it waits when it fails the next time; nothing where it has not failed yet.
    pause: Option<Duration>,
    /// Whether the attempt to send it that is under way is to end.
    off: watch::Sender<bool>,
}

impl File {
    fn new(bytes: u64, at: Place) -> File {
        File { bytes, at, pause: None, off: watch::Sender::new(false) }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Fresh,
    Again,
    Later(Instant),
    /// Brought back, and not compared with its checksums yet.
    Held,
    Running {
        again: bool,
        /// Closed once more since it was begun.
        closed_since: bool,
    },
}

/// How an attempt to send a file went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It is in the store, or there is nothing to send.
    Done,
    /// It failed in a way that may pass.
    Later,
    /// Likewise, when some of it had arrived.
    GotOn,
    /// It waits for `uploads resume`.
    Failed,
}

/// Files that are sent side by side; each sends its parts side by side too.
const FILES_AT_ONCE: usize = 8;

/// Of these, such as have failed before: files that cannot be sent are tried time and again, and must not keep others
/// from it.
const AGAIN_AT_ONCE: usize = FILES_AT_ONCE / 2;

/// Files in the queue at the most: each takes some kilobytes of memory.
const FILES_MAX: usize = 100_000;

/// A file whose upload failed for a passing reason is tried again after this, and then after twice as
/// long each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// A last close under way.
pub struct Release<'a>(&'a Waiting);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if self.0.releases.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl Waiting {
    /// A queue of files of at most `bytes_max` bytes, but that one file is never too long.
    pub fn new(bytes_max: u64) -> Waiting {
        let releases = AtomicUsize::new(0);
        Waiting { queue: Mutex::default(), changed: Notify::new(), releases, bytes_max }
    }

    /// A last close is under way for as long as this lives.
    pub fn release(&self) -> Release<'_> {
        self.releases.fetch_add(1, Ordering::Relaxed);
        Release(self)
    }

    /// A file of so many bytes is closed. In the queue once, however often it is closed again.
    pub fn push(&self, ino: u64, bytes: u64) {
        self.queue.lock().push(ino, bytes);
        self.changed.notify_waiters();
    }

    /// A file of so many bytes was brought back. It is in the queue, and not sent before it is pushed.
    pub fn hold(&self, ino: u64, bytes: u64) {
        self.queue.lock().hold(ino, bytes);
    }

    /// A file that is held is not to be sent.
    pub fn let_go(&self, ino: u64) {
        self.queue.lock().let_go(ino);
        self.changed.notify_waiters();
    }

    /// Last closes under way.
    pub fn releases(&self) -> usize {
        self.releases.load(Ordering::Relaxed)
    }

    /// Files that wait or are being sent.
    pub fn len(&self) -> usize {
        self.queue.lock().files.len()
    }

    /// Whether one more file has to wait.
    pub fn is_full(&self) -> bool {
        let queue = self.queue.lock();
        queue.files.len() >= FILES_MAX || queue.bytes >= self.bytes_max
    }

    /// Waits for room, as long as the queue gets on: no longer than `patience` for one file to leave it.
    pub async fn room(&self, patience: Duration) {
        let (mut left, mut since) = (usize::MAX, Instant::now());
        while self.is_full() {
            let changed = self.changed.notified();
            let now = self.len();
            if now < left {
                (left, since) = (now, Instant::now());
            }
            let patience = patience.saturating_sub(since.elapsed());
            if patience.is_zero() {
                return;
            }
            let _ = clock::timeout(patience, changed).await;
        }
    }

    /// The next one to be sent, and what becomes true when that is called off.
    pub fn take(&self) -> Option<(u64, watch::Receiver<bool>)> {
        let mut queue = self.queue.lock();
        let ino = queue.take(Instant::now())?;
        let off = watch::Sender::new(false);
        let called_off = off.subscribe();
        if let Some(file) = queue.files.get_mut(&ino) {
            file.off = off;
        }
        Some((ino, called_off))
    }

    /// The attempt to send a file that is under way, if one is, ends where it can. The file stays in the queue.
    pub fn call_off(&self, ino: u64) {
        let queue = self.queue.lock();
        if let Some(file) = queue.files.get(&ino) {
            file.off.send_replace(true);
        }
    }

    pub fn done(&self, ino: u64, outcome: Outcome) {
        self.queue.lock().done(ino, outcome, Instant::now());
        self.changed.notify_waiters();
    }

    /// Until when nothing is due, where something is to be tried again.
    pub fn due(&self) -> Option<Instant> {
        self.queue.lock().later.first().map(|(when, _)| *when)
    }
}

impl Queue {
    fn push(&mut self, ino: u64, bytes: u64) {
        let file = self.files.entry(ino).or_insert_with(|| {
            self.fresh.push_back(ino);
            File::new(0, Place::Fresh)
        });
        self.bytes = self.bytes - file.bytes + bytes;
        file.bytes = bytes;
        match &mut file.at {
            Place::Fresh | Place::Again => {}
            Place::Running { closed_since, .. } => *closed_since = true,
            Place::Held => {
                self.fresh.push_back(ino);
                file.at = Place::Fresh;
            }
            Place::Later(when) => {
                self.later.remove(&(*when, ino));
                self.fresh.push_back(ino);
                (file.at, file.pause) = (Place::Fresh, None);
            }
        }
    }

    fn hold(&mut self, ino: u64, bytes: u64) {
        if let Entry::Vacant(vacant) = self.files.entry(ino) {
            vacant.insert(File::new(bytes, Place::Held));
            self.bytes += bytes;
        }
    }

    fn let_go(&mut self, ino: u64) {
        let held = |file: &File| file.at == Place::Held;
        if self.files.get(&ino).is_some_and(held)
            && let Some(file) = self.files.remove(&ino)
        {
            self.bytes -= file.bytes;
        }
    }

    fn take(&mut self, now: Instant) -> Option<u64> {
        while let Some((when, ino)) = self.later.first().copied().filter(|(when, _)| *when <= now) {
            self.later.remove(&(when, ino));
            self.put(ino, Place::Again);
        }
        if self.running >= FILES_AT_ONCE {
            return None;
        }
        let may_again = self.running_again < AGAIN_AT_ONCE;
        let (ino, again) = match self.fresh.pop_front() {
            Some(ino) => (ino, false),
            None if may_again => (self.again.pop_front()?, true),
            None => return None,
        };
        self.running += 1;
        self.running_again += usize::from(again);
        if let Some(file) = self.files.get_mut(&ino) {
            file.at = Place::Running { again, closed_since: false };
        }
        Some(ino)
    }

    fn done(&mut self, ino: u64, outcome: Outcome, now: Instant) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let Place::Running { again, closed_since } = file.at else { return };
        self.running -= 1;
        self.running_again -= usize::from(again);
        if matches!(outcome, Outcome::Later | Outcome::GotOn) {
            let pause = file.pause.filter(|_| outcome == Outcome::Later).unwrap_or(RETRY_FIRST);
            file.pause = Some((pause * 2).min(RETRY_LAST));
            file.at = Place::Later(now + pause);
            self.later.insert((now + pause, ino));
            return;
        }
        if closed_since {
            file.pause = None;
            self.put(ino, Place::Fresh);
        } else if let Some(file) = self.files.remove(&ino) {
            self.bytes -= file.bytes;
        }
        if outcome == Outcome::Done && again {
            // What kept it away is over, and may be for the others.
            self.all_are_fresh();
        }
    }

    /// Those that have failed are as good as the others, in their order.
    fn all_are_fresh(&mut self) {
        let again: Vec<u64> = self.again.drain(..).collect();
        let later: Vec<u64> = self.later.iter().map(|(_, ino)| *ino).collect();
        self.later.clear();
        again.into_iter().chain(later).for_each(|ino| self.put(ino, Place::Fresh));
    }

    fn put(&mut self, ino: u64, at: Place) {
        match at {
            Place::Fresh => self.fresh.push_back(ino),
            Place::Again => self.again.push_back(ino),
            Place::Later(_) | Place::Held | Place::Running { .. } => {}
        }
        if let Some(file) = self.files.get_mut(&ino) {
            file.at = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(seconds: u64) -> Instant {
        static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *BEGUN.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }

    /// Takes all that may run at `now`.
    fn taken(queue: &mut Queue, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| queue.take(now)).collect()
    }

    #[test]
    fn a_file_waits_once_and_again_when_closed_while_it_is_sent() {
        let mut queue = Queue::default();
        [7, 8, 7].into_iter().for_each(|ino| queue.push(ino, 10));
        assert_eq!((queue.files.len(), queue.bytes, queue.take(at(0))), (2, 20, Some(7)));
        queue.push(7, 30);
        assert_eq!((queue.files.len(), queue.bytes), (2, 40));
        assert_eq!(taken(&mut queue, at(0)), [8]);
        queue.done(7, Outcome::Done, at(0));
        queue.done(8, Outcome::Done, at(0));
        assert_eq!((taken(&mut queue, at(0)), queue.bytes), (vec![7], 30));
        queue.done(7, Outcome::Failed, at(0));
        assert_eq!((queue.files.len(), queue.bytes, queue.running), (0, 0, 0));
    }

    #[test]
    fn files_that_fail_leave_their_places_to_the_others() {
        let mut queue = Queue::default();
        (0..20).for_each(|ino| queue.push(ino, 1));
        assert_eq!(taken(&mut queue, at(0)), (0..8).collect::<Vec<_>>());
        (0..8).for_each(|ino| queue.done(ino, Outcome::Later, at(0)));
        assert_eq!(taken(&mut queue, at(0)), (8..16).collect::<Vec<_>>());
        (8..16).for_each(|ino| queue.done(ino, Outcome::Done, at(0)));
        // Those that are due come after those that have not failed, and never take all places.
        assert_eq!(taken(&mut queue, at(1)), [16, 17, 18, 19, 0, 1, 2, 3]);
        (16..20).for_each(|ino| queue.done(ino, Outcome::Done, at(1)));
        assert!(taken(&mut queue, at(1)).is_empty());
        queue.push(30, 1);
        assert_eq!(taken(&mut queue, at(1)), [30]);
    }

    #[test]
    fn a_pause_gets_longer_and_ends_when_a_file_that_failed_arrives() {
        let mut queue = Queue::default();
        [1, 2].into_iter().for_each(|ino| queue.push(ino, 1));
        let mut now = 0;
        for pause in [1, 2, 4, 8, 10, 10] {
            assert_eq!(taken(&mut queue, at(now)).len(), 2, "{now}");
            [1, 2].into_iter().for_each(|ino| queue.done(ino, Outcome::Later, at(now)));
            assert!(taken(&mut queue, at(now + pause - 1)).is_empty());
            now += pause;
        }
        assert_eq!(queue.take(at(now)), Some(1));
        queue.done(1, Outcome::Done, at(now));
        assert_eq!(queue.take(at(now)), Some(2));
        queue.done(2, Outcome::Later, at(now));
        queue.push(2, 1);
        assert_eq!(queue.take(at(now)), Some(2), "closed anew it does not wait");
    }

    #[test]
    fn a_file_that_is_held_counts_and_is_not_taken() {
        let mut queue = Queue::default();
        queue.hold(1, 10);
        queue.hold(2, 20);
        assert_eq!((queue.files.len(), queue.bytes, queue.take(at(0))), (2, 30, None));
        queue.let_go(1);
        assert_eq!((queue.files.len(), queue.bytes), (1, 20));
        queue.push(2, 25);
        queue.let_go(2);
        queue.hold(2, 99);
        assert_eq!((queue.bytes, queue.take(at(0)), queue.take(at(0))), (25, Some(2), None));
        queue.done(2, Outcome::Done, at(0));
        assert_eq!((queue.files.len(), queue.bytes), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_waits_for_room_only_while_the_queue_gets_on() {
        let queue = Arc::new(Waiting::new(100));
        queue.push(1, 60);
        assert!(!queue.is_full());
        queue.push(2, 500);
        assert!(queue.is_full());
        queue.room(Duration::from_millis(1)).await;
        assert!(queue.is_full());
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.room(Duration::from_secs(3600)).await }
        });
        tokio::task::yield_now().await;
        let take = || queue.take().map(|(ino, _)| ino);
        assert_eq!((take(), take()), (Some(1), Some(2)));
        queue.done(2, Outcome::Done);
        waiting.await.unwrap();
        assert!(!queue.is_full());
    }

    /// A look while files begin and end gets an answer.
    #[test]
    fn looking_and_taking_do_not_wait_for_each_other() {
        let queue = Arc::new(Waiting::new(u64::MAX));
        let looking = queue.clone();
        let looking = std::thread::spawn(move || {
            (0..200_000).map(|_| looking.len()).max().unwrap_or_default()
        });
        for ino in 0..200_000 {
            queue.push(ino, 1);
            assert_eq!(queue.take().map(|(ino, _)| ino), Some(ino));
            queue.done(ino, Outcome::Done);
        }
        assert!(looking.join().is_ok_and(|most| most <= 1));
        assert_eq!(queue.len(), 0);
    }
}
