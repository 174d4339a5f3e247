//! The time, as far as freshness goes.

use std::time::Duration;

use crate::clock::Instant;

/// A monotonic clock. Tests set it by hand.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Instant;
}

/// The machine's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// How long an answer of the store is believed. `Duration::MAX` is for ever, 0 is never.
pub fn is_fresh(since: Instant, now: Instant, ttl: Duration) -> bool {
    now.saturating_duration_since(since) < ttl
}

#[cfg(test)]
pub mod manual {
    use super::*;
    use crate::lock::{Mutex, rank};

    /// Stands still until it is told to go on.
    pub struct ManualClock(Mutex<Instant, rank::Test>);

    impl Default for ManualClock {
        fn default() -> Self {
            ManualClock(Mutex::new(Instant::now()))
        }
    }

    impl ManualClock {
        pub fn advance(&self, by: Duration) {
            *self.0.lock() += by;
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Instant {
            *self.0.lock()
        }
    }
}
