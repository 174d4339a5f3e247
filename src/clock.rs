//! Time. All that asks what time it is, waits, or bounds a wait, does so here, so that a test or a simulation can own time.
//!
//! Monotonic time is tokio's: what is measured and what is waited for are one clock. Where a test pauses it
//! (`tokio::time::pause`), each [`Instant`] stands still together with each timer, and both go on together. A thread that
//! is outside of the runtime has the machine's time.
//!
//! Wall time is the machine's. In debug builds [`virtual_wall`] puts another into its place, which goes on with
//! monotonic time.
//!
//! Release builds have plain calls of std and tokio: tokio's clock cannot be paused there, and reads std's.

#![allow(clippy::disallowed_methods, reason = "the one place that asks for the time")]

use std::thread;
use std::time::{Duration, SystemTime};

pub use tokio::time::{Instant, Interval, Sleep, Timeout};

/// "For ever" as a time that can be added to now: a hundred years.
pub const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a clock on the wall shows. It may be set, forwards and backwards.
#[inline]
pub fn wall() -> SystemTime {
    #[cfg(debug_assertions)]
    if let Some(shown) = virtual_wall::shown() {
        return shown;
    }
    SystemTime::now()
}

/// How long ago it was by the clock on the wall; nothing where that is yet to come.
#[inline]
pub fn age(time: SystemTime) -> Duration {
    wall().duration_since(time).unwrap_or_default()
}

#[inline]
pub fn sleep(time: Duration) -> Sleep {
    tokio::time::sleep(time)
}

#[inline]
pub fn sleep_until(deadline: Instant) -> Sleep {
    tokio::time::sleep_until(deadline)
}

#[inline]
pub fn timeout<F: IntoFuture>(time: Duration, work: F) -> Timeout<F::IntoFuture> {
    tokio::time::timeout(time, work)
}

#[inline]
pub fn timeout_at<F: IntoFuture>(deadline: Instant, work: F) -> Timeout<F::IntoFuture> {
    tokio::time::timeout_at(deadline, work)
}

#[inline]
pub fn interval(period: Duration) -> Interval {
    tokio::time::interval(period)
}

/// For threads that may block: real time, whatever the clocks show.
#[inline]
pub fn block_for(time: Duration) {
    thread::sleep(time);
}

/// A wall clock of a test's own. It belongs to the thread: a simulation runs in one.
#[cfg(debug_assertions)]
pub mod virtual_wall {
    use std::cell::Cell;
    use std::time::SystemTime;

    use super::Instant;

    thread_local! {
        static SHOWS: Cell<Option<(SystemTime, Instant)>> = const { Cell::new(None) };
    }

    /// The machine's wall clock is back when this is dropped.
    #[must_use]
    pub struct Installed(Option<(SystemTime, Instant)>);

    impl Drop for Installed {
        fn drop(&mut self) {
            SHOWS.set(self.0);
        }
    }

    /// From now on the clock shows `time` and what has passed since.
    #[cfg_attr(not(test), allow(dead_code, reason = "for tests and simulations"))]
    pub fn install(time: SystemTime) -> Installed {
        Installed(SHOWS.replace(Some((time, Instant::now()))))
    }

    #[inline]
    pub(super) fn shown() -> Option<SystemTime> {
        SHOWS.get().map(|(time, at)| time + at.elapsed())
    }
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_clocks_go_on_together_where_time_is_paused() {
        let hour = Duration::from_secs(3600);
        let begun = Instant::now();
        let installed = virtual_wall::install(SystemTime::UNIX_EPOCH + hour);
        thread::sleep(Duration::from_millis(5));
        assert_eq!((wall(), begun.elapsed()), (SystemTime::UNIX_EPOCH + hour, Duration::ZERO));
        sleep(hour).await;
        assert_eq!((wall(), begun.elapsed()), (SystemTime::UNIX_EPOCH + 2 * hour, hour));
        assert_eq!(age(SystemTime::UNIX_EPOCH + hour), hour);
        assert_eq!(age(SystemTime::UNIX_EPOCH + 3 * hour), Duration::ZERO);
        drop(installed);
        assert!(wall() > SystemTime::UNIX_EPOCH + 24 * hour);
    }
}
