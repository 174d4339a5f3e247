//! Tasks of the background that are there for as long as the mount is. One that dies by a panic is begun again, since
//! what it does would otherwise never be done any more: files would wait for good, and memory run out.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::runtime::Handle;

use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};

/// How long after its death a task is begun again: at first, and at the most.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LAST: Duration = Duration::from_secs(60);

/// Deaths that `status` remembers.
const DEATHS_MAX: usize = 20;

static DEATHS: Mutex<VecDeque<(SystemTime, String)>, rank::Deaths> = Mutex::new(VecDeque::new());

/// Runs `work` until it ends by itself, which is its own affair, and again whenever it panics.
pub fn supervise<F>(
    runtime: &Handle,
    name: &'static str,
    work: impl Fn() -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    runtime.spawn(async move {
        let mut pause = PAUSE_FIRST;
        loop {
            let begun = Instant::now();
            let Err(panic) = AssertUnwindSafe(work()).catch_unwind().await else { return };
            note(name, &*panic);
            if begun.elapsed() > PAUSE_LAST {
                pause = PAUSE_FIRST;
            }
            clock::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    });
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
}
