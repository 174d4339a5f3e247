//! Tasks and threads of the background that are there for as long as the mount is. One that dies by a panic is begun
//! again, since what it does would otherwise never be done any more: files would wait for good, and memory run out.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::blocking;
use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};

/// How long after its death a task is begun again: at first, and at the most.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LAST: Duration = Duration::from_secs(60);

/// Deaths that `status` remembers.
const DEATHS_MAX: usize = 20;

static DEATHS: Mutex<VecDeque<(SystemTime, String)>, rank::Deaths> = Mutex::new(VecDeque::new());

/// Runs `work` until it ends by itself, which is its own affair, and again whenever it panics. The handle ends it.
pub fn supervise<F>(
    runtime: &Handle,
    name: &'static str,
    work: impl Fn() -> F + Send + Sync + 'static,
) -> AbortHandle
where
    F: Future<Output = ()> + Send + 'static,
{
    let supervised = runtime.spawn(async move {
        let mut pauses = Pauses::new();
        loop {
            let begun = Instant::now();
            let Err(panic) = AssertUnwindSafe(work()).catch_unwind().await else { return };
            note(name, &*panic);
            clock::sleep(pauses.next(begun.elapsed())).await;
        }
    });
    supervised.abort_handle()
}

/// Likewise, in a thread of its own, whose work blocks.
///
/// # Errors
/// There is no thread to be had.
pub fn supervise_thread(
    name: &'static str,
    work: impl Fn() + Send + 'static,
) -> std::io::Result<()> {
    let supervised = move || {
        let mut pauses = Pauses::new();
        loop {
            let begun = Instant::now();
            let Err(panic) = catch_unwind(AssertUnwindSafe(&work)) else { return };
            note(name, &*panic);
            clock::block_for(pauses.next(begun.elapsed()));
        }
    };
    blocking::thread(name, supervised).map(drop)
}

/// How long to wait before the next beginning: longer each time, unless the last one has lived for long.
struct Pauses(Duration);

impl Pauses {
    fn new() -> Pauses {
        Pauses(PAUSE_FIRST)
    }

    fn next(&mut self, lived: Duration) -> Duration {
        let pause = if lived > PAUSE_LAST { PAUSE_FIRST } else { self.0 };
        self.0 = (pause * 2).min(PAUSE_LAST);
        pause
    }
}

/// Does `work`. `None` where it panics, which is told.
pub async fn attempt<F: Future>(name: &str, work: F) -> Option<F::Output> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.map_err(|panic| note(name, &*panic)).ok()
}

/// Has the log and [`deaths`] know of a panic.
pub fn note(name: &str, panic: &(dyn Any + Send)) {
    let told = format!("{name}: a fault in this program: {}", told_by(panic));
    log::error!("{told}");
    let mut deaths = DEATHS.lock();
    if deaths.len() == DEATHS_MAX {
        deaths.pop_front();
    }
    deaths.push_back((clock::wall(), told));
}

/// What a panic says.
pub fn told_by(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason")
}

/// The latest panics in the background.
pub fn deaths() -> Vec<(SystemTime, String)> {
    DEATHS.lock().iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_dies_is_begun_again() {
        let (begun, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (times, end) = (begun.clone(), ended.clone());
        supervise(&Handle::current(), "the-task", move || {
            let (times, end) = (times.clone(), end.clone());
            async move {
                let time = times.fetch_add(1, Ordering::Relaxed);
                assert!(time == 3, "for the {time}. time");
                end.notify_one();
            }
        });
        let since = Instant::now();
        ended.notified().await;
        assert_eq!(begun.load(Ordering::Relaxed), 4);
        assert_eq!(since.elapsed(), PAUSE_FIRST * (1 + 2 + 4));
        let told = |what: &str| deaths().iter().any(|(_, death)| death.contains(what));
        assert!(told("the-task: a fault in this program: for the 2. time") && !told("3. time"));
        assert_eq!(attempt("other", async { 7 }).await, Some(7));
        assert_eq!(attempt("other", async { panic!("once") }).await, None::<()>);
        assert!(told("other: a fault in this program: once"));
    }

    #[test]
    fn a_thread_that_dies_is_begun_again() {
        let (begun, ended) = std::sync::mpsc::channel();
        let times = AtomicU32::new(0);
        supervise_thread("the-thread", move || {
            let time = times.fetch_add(1, Ordering::Relaxed);
            assert!(time == 1, "for the {time}. time");
            begun.send(time).unwrap();
        })
        .unwrap();
        assert_eq!(ended.recv(), Ok(1));
        // It has ended by itself, and is not begun again.
        assert!(ended.recv().is_err());
        let told = "the-thread: a fault in this program: for the 0. time";
        assert!(deaths().iter().any(|(_, death)| death.contains(told)));
    }
}
