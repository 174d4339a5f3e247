//! Whether work that is under way gets on.
//!
//! Each request to the store has a deadline. What is made of many of them, and of waiting for locks, memory and places
//! in between, has none: a close of a large file may take hours. So such work is bounded by its *silence*: how long
//! nothing has moved that it could be waiting for. Each operation has a [`Pulse`]; what moves in its own requests is
//! a beat of that. An operation that waits for a [`Turn`] is as silent as the one that has it. One that waits for
//! [`any_other`] (memory, a place, a part that another task sends) is as silent as the whole process.
//!
//! Locks: none is held together with another. Cancellation: what is noted of a future ends when it is dropped.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::task::Poll;
use std::time::Duration;

use crate::clock::Instant;
use crate::lock::{Mutex, rank};

/// The pulse of one operation, or of one task in the background.
pub struct Pulse {
    /// When it last got on, as [`now`] counts.
    beat: AtomicU64,
    /// Requests of its own that wait for the store's answer.
    asked: AtomicUsize,
    /// More than none: it may be dropped where it waits now, unless something is to be kept.
    droppable: AtomicUsize,
    kept: AtomicUsize,
    /// More than none: it may be waiting for any other work, unless it waits for the store.
    others: AtomicUsize,
    /// More than none: it can end where it waits now, unless something is to be kept.
    ends: AtomicUsize,
    waits_for: Mutex<Option<Arc<Holder>>, rank::WaitsFor>,
}

/// Whose turn it is.
#[derive(Default)]
pub struct Holder(Mutex<Option<Weak<Pulse>>, rank::Holder>);

tokio::task_local! {
    static WORK: Arc<Pulse>;
}

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When the process as a whole last got on.
static LAST: AtomicU64 = AtomicU64::new(0);

/// What waits for what waits for …: more than any operation holds, and an end where they wait in a circle.
const CHAIN_MAX: usize = 16;

/// Milliseconds since the process began to count.
fn now() -> u64 {
    BEGUN.elapsed().as_millis() as u64
}

/// The work that is being done, where it has a pulse.
pub fn current() -> Option<Arc<Pulse>> {
    WORK.try_with(Arc::clone).ok()
}

/// The store has answered, or bytes have moved, for the work that is being done, and so for the process.
pub fn beat() {
    beat_of(current().as_deref());
}

/// The same for work that is not this task's.
pub fn beat_of(work: Option<&Pulse>) {
    let now = now();
    LAST.fetch_max(now, Ordering::Relaxed);
    if let Some(work) = work {
        work.beat.fetch_max(now, Ordering::Relaxed);
    }
}

/// A request of the work that is being done waits for the store's answer for as long as this lives. An attempt that
/// begins or ends is a beat, though it fail: it has a deadline, and so have its repetitions.
pub struct Asked(Counted);

pub fn asked() -> Asked {
    let asked = Asked(Counted::new(|work| &work.asked));
    asked.attempt();
    asked
}

impl Asked {
    fn attempt(&self) {
        if let Some(work) = &self.0.work {
            work.beat.fetch_max(now(), Ordering::Relaxed);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.attempt();
    }
}

/// Counts for as long as it lives.
struct Counted {
    work: Option<Arc<Pulse>>,
    count: fn(&Pulse) -> &AtomicUsize,
}

impl Counted {
    fn new(count: fn(&Pulse) -> &AtomicUsize) -> Counted {
        let work = current();
        if let Some(work) = &work {
            count(work).fetch_add(1, Ordering::Relaxed);
        }
        Counted { work, count }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(work) = &self.work {
            (self.count)(work).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Marks the work that is being done as one that may be dropped as long as `waiting` waits: nothing has been done by it,
/// or nothing that needs more to be done.
async fn droppable<F: Future>(waiting: F) -> F::Output {
    let _droppable = Counted::new(|work| &work.droppable);
    waiting.await
}

/// `work` may wait for memory, for places, or for what other tasks do.
pub async fn any_other<F: Future>(work: F) -> F::Output {
    let _others = Counted::new(|work| &work.others);
    work.await
}

/// The work that is being done is in line for memory, or for others to end: it may be dropped meanwhile.
pub async fn in_line<F: Future>(waiting: F) -> F::Output {
    droppable(any_other(waiting)).await
}

/// `work` is not dropped, wherever it waits.
pub async fn kept<F: Future>(work: F) -> F::Output {
    let _kept = Counted::new(|work| &work.kept);
    work.await
}

/// `waiting` is for nothing that would be done by halves: work that is called off ([`Pulse::of_unless`]) ends there.
pub async fn can_end<F: Future>(waiting: F) -> F::Output {
    let _ends = Counted::new(|work| &work.ends);
    waiting.await
}

/// `waiting` ends when `holder` lets it. Until then the work that is being done is as silent as that, and may be
/// dropped.
pub async fn waiting_for<F: Future>(holder: Arc<Holder>, waiting: F) -> F::Output {
    struct Waiting(Option<Arc<Pulse>>, Option<Arc<Holder>>);
    impl Drop for Waiting {
        fn drop(&mut self) {
            if let Some(work) = &self.0 {
                *work.waits_for.lock() = self.1.take();
            }
        }
    }
    let work = current();
    let before = work.as_ref().and_then(|work| work.waits_for.lock().replace(holder));
    let _waiting = Waiting(work, before);
    droppable(waiting).await
}

impl Holder {
    /// The work that is being done.
    pub fn current() -> Arc<Holder> {
        let holder = Holder::default();
        holder.take();
        Arc::new(holder)
    }

    fn take(&self) {
        *self.0.lock() = current().map(|work| Arc::downgrade(&work));
    }

    fn leave(&self) {
        *self.0.lock() = None;
    }

    fn work(&self) -> Option<Arc<Pulse>> {
        self.0.lock().as_ref().and_then(Weak::upgrade)
    }
}

impl Pulse {
    pub fn new() -> Arc<Pulse> {
        let none = || AtomicUsize::new(0);
        let (asked, droppable, kept, others) = (none(), none(), none(), none());
        let (beat, ends) = (AtomicU64::new(now()), none());
        let waits_for = Mutex::new(None);
        Arc::new(Pulse { beat, asked, droppable, kept, others, ends, waits_for })
    }

    /// Does `work` with this pulse.
    pub async fn of<F: Future>(self: &Arc<Self>, work: F) -> F::Output {
        WORK.scope(self.clone(), work).await
    }

    /// Likewise, to its end or, when `called_off` has come, to the next place where it [can end](can_end): `None`.
    pub async fn of_unless<F: Future>(
        self: &Arc<Self>,
        called_off: impl Future,
        work: F,
    ) -> Option<F::Output> {
        let (mut work, mut called_off) = (pin!(self.of(work)), pin!(called_off));
        let mut is_off = false;
        poll_fn(|context| {
            if let Poll::Ready(output) = work.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            is_off = is_off || called_off.as_mut().poll(context).is_ready();
            if is_off && self.can_end_now() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    fn can_end_now(&self) -> bool {
        self.ends.load(Ordering::Relaxed) > 0 && self.kept.load(Ordering::Relaxed) == 0
    }

    /// How long nothing has moved that it could be waiting for.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(now().saturating_sub(self.last_beat(CHAIN_MAX)))
    }

    /// Whether it waits where it may be dropped.
    pub fn may_be_dropped(&self) -> bool {
        self.droppable.load(Ordering::Relaxed) > 0 && self.kept.load(Ordering::Relaxed) == 0
    }

    fn last_beat(&self, chain_max: usize) -> u64 {
        let own = self.beat.load(Ordering::Relaxed);
        let process = || LAST.load(Ordering::Relaxed);
        let holder = self.waits_for.lock().clone();
        let awaited = match holder.map(|holder| holder.work()) {
            Some(Some(work)) if chain_max > 0 => work.last_beat(chain_max - 1),
            Some(Some(_)) => own,
            // It is in other hands.
            Some(None) => process(),
            None if self.asked.load(Ordering::Relaxed) > 0 => own,
            None if self.others.load(Ordering::Relaxed) > 0 => process(),
            None => own,
        };
        own.max(awaited)
    }
}

/// A lock across awaits that tells which operation has it.
#[derive(Default)]
pub struct Turn {
    lock: tokio::sync::Mutex<()>,
    holder: Arc<Holder>,
}

pub struct TurnGuard<'a> {
    _lock: tokio::sync::MutexGuard<'a, ()>,
    holder: &'a Holder,
}

impl Turn {
    pub async fn lock(&self) -> TurnGuard<'_> {
        if let Some(guard) = self.try_lock() {
            return guard;
        }
        let lock = waiting_for(self.holder.clone(), self.lock.lock()).await;
        self.taken(lock)
    }

    /// Without waiting; `None` where it is another's.
    pub fn try_lock(&self) -> Option<TurnGuard<'_>> {
        self.lock.try_lock().ok().map(|lock| self.taken(lock))
    }

    fn taken<'a>(&'a self, lock: tokio::sync::MutexGuard<'a, ()>) -> TurnGuard<'a> {
        self.holder.take();
        TurnGuard { _lock: lock, holder: &self.holder }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.holder.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn work_is_as_silent_as_what_it_waits_for() {
        let (holder, waiting, other) = (Pulse::new(), Pulse::new(), Pulse::new());
        let turn = Turn::default();
        let held = holder.of(turn.lock()).await;
        let mut wait = Box::pin(waiting.of(turn.lock()));
        assert!(futures_util::poll!(&mut wait).is_pending() && waiting.may_be_dropped());
        let mut ask = Box::pin(holder.of(async {
            let _asked = asked();
            pending::<()>().await;
        }));
        assert!(futures_util::poll!(&mut ask).is_pending());
        tokio::time::advance(SECOND * 10).await;
        // Another one gets on: that is no help for what waits for these two.
        other.of(async { beat() }).await;
        assert_eq!(other.silence(), Duration::ZERO);
        assert!(holder.silence() >= SECOND * 10 && waiting.silence() >= SECOND * 10);
        beat_of(Some(&holder));
        assert_eq!((holder.silence(), waiting.silence()), (Duration::ZERO, Duration::ZERO));
        drop((ask, held));
        drop(wait.await);
        assert!(!waiting.may_be_dropped());
    }

    #[tokio::test(start_paused = true)]
    #[ignore = "the process is to be silent: see below"]
    async fn alone_in_its_process() {
        let (waiting, idle, other) = (Pulse::new(), Pulse::new(), Pulse::new());
        let mut wait = Box::pin(waiting.of(in_line(pending::<()>())));
        assert!(futures_util::poll!(&mut wait).is_pending() && waiting.may_be_dropped());
        tokio::time::advance(SECOND * 10).await;
        assert!(waiting.silence() >= SECOND * 10);
        beat_of(Some(&other));
        assert_eq!(waiting.silence(), Duration::ZERO);
        assert!(idle.silence() >= SECOND * 10);
    }

    #[test]
    fn what_waits_for_any_other_is_as_silent_as_the_process() {
        let arguments = ["--ignored", "--exact", "progress::tests::alone_in_its_process"];
        let program = std::env::current_exe().unwrap();
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_called_off_ends_where_it_can() {
        let (off, called_off) = tokio::sync::oneshot::channel::<()>();
        let pulse = Pulse::new();
        let work = async {
            kept(can_end(crate::clock::sleep(SECOND))).await;
            crate::clock::sleep(SECOND).await;
            can_end(pending::<()>()).await;
        };
        let mut running = Box::pin(pulse.of_unless(called_off, work));
        assert!(futures_util::poll!(&mut running).is_pending());
        off.send(()).unwrap();
        let begun = Instant::now();
        assert_eq!(running.await, None);
        assert_eq!(begun.elapsed(), SECOND * 2, "not before");
        let done = pulse.of_unless(pending::<()>(), can_end(async { 7 })).await;
        assert_eq!(done, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_circle_of_waiting_is_silent() {
        let (one, other) = (Pulse::new(), Pulse::new());
        let (left, right) = (Turn::default(), Turn::default());
        let _held = (one.of(left.lock()).await, other.of(right.lock()).await);
        let mut first = Box::pin(one.of(right.lock()));
        let mut second = Box::pin(other.of(left.lock()));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        tokio::time::advance(SECOND * 10).await;
        beat();
        assert!(one.silence() >= SECOND * 10 && other.silence() >= SECOND * 10);
    }
}
