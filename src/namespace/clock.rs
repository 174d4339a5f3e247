//! The time, as far as freshness goes.

use std::time::Duration;

use crate::clock::Instant;
use crate::store::Outage;
use crate::store::breaker::is_looking;

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

/// How long answers of the store are believed: for the TTL; and by work that looks, in an outage that is to be worked
/// through (`--on-outage serve-stale`), for as long as that lasts.
#[derive(Clone, Debug)]
pub struct Freshness {
    ttl: Duration,
    outage: Option<Outage>,
}

impl From<Duration> for Freshness {
    fn from(ttl: Duration) -> Self {
        Freshness { ttl, outage: None }
    }
}

impl Freshness {
    /// For the TTL, and beyond it while this outage is on.
    pub fn beyond(ttl: Duration, outage: Outage) -> Freshness {
        Freshness { ttl, outage: Some(outage) }
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long the work that is being done may believe an answer.
    pub fn believed_for(&self) -> Duration {
        if self.is_suspended() { Duration::MAX } else { self.ttl }
    }

    /// Whether there may be outages in which answers are believed beyond the TTL.
    pub fn may_be_suspended(&self) -> bool {
        self.outage.is_some()
    }

    /// Whether there is one.
    pub fn is_stale(&self) -> bool {
        self.outage.as_ref().is_some_and(Outage::is_on)
    }

    /// Whether the work that is being done believes more than the TTL allows.
    pub fn is_suspended(&self) -> bool {
        self.is_stale() && is_looking()
    }
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
