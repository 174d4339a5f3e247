//! How many requests of a mount may be tried again: a part of those that are sent for the first time, and a reserve. So
//! a store that fails is not sent several times what it fails at. What finds nothing left waits for its turn, in which
//! files take turns; it is sent all the same when its own time is about to be over.
//!
//! Cancellation: a request that is dropped leaves the line. Crash: nothing is kept.

use std::time::Duration;

use crate::clock::{self, Instant};
use crate::store::limit::line::{Flow, Line, Turn};
use crate::without::Heuristic;

/// So many first attempts earn one that is tried again.
const FIRST_PER_RETRY: f64 = 10.0;
/// So many are saved up at the most, and there at the beginning: as many as are under way when a connection breaks.
const RESERVE: f64 = 100.0;
/// So many a second come in by themselves: where nothing new is sent, what failed gets on.
const PER_SECOND: f64 = 4.0;

/// In first attempts: [`FIRST_PER_RETRY`] of them are one that is tried again.
struct Tokens {
    level: f64,
    at: Instant,
}

impl Tokens {
    fn add(&mut self, count: f64) {
        self.level = (self.level + count).min(RESERVE * FIRST_PER_RETRY);
    }

    fn take(&mut self) -> Turn<()> {
        let now = Instant::now();
        let per_second = PER_SECOND * FIRST_PER_RETRY;
        self.add(now.duration_since(self.at).as_secs_f64() * per_second);
        self.at = now;
        if self.level >= FIRST_PER_RETRY {
            self.level -= FIRST_PER_RETRY;
            return Turn::Taken(());
        }
        let wait = (FIRST_PER_RETRY - self.level) / per_second;
        // Rounded up: it is asked for once.
        Turn::At(now + Duration::from_secs_f64(wait) + Duration::from_nanos(1))
    }
}

/// What of a mount may be tried again.
pub(super) struct Allowance(Line<Tokens>);

impl Allowance {
    pub fn new() -> Allowance {
        let level = RESERVE * FIRST_PER_RETRY;
        Allowance(Line::new(Tokens { level, at: Instant::now() }))
    }

    /// A request is sent for the first time.
    pub fn earn(&self) {
        self.0.change(|tokens| tokens.add(1.0));
    }

    /// Waits until a request may be tried again, or until then. Whether that was taken from the allowance.
    pub async fn take(&self, flow: Flow, latest: Instant) -> bool {
        if !Heuristic::HoldBack.is_on() {
            return false;
        }
        clock::timeout_at(latest, self.0.take(flow, Tokens::take)).await.is_ok()
    }

    /// What was taken has got through: the store is well.
    pub fn give_back(&self) {
        self.0.change(|tokens| tokens.add(FIRST_PER_RETRY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn take(allowance: &Allowance) -> Duration {
        let begun = Instant::now();
        assert!(allowance.take(Flow::default(), begun + MINUTE).await);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_reserve_one_of_ten_is_tried_again_at_once() {
        let allowance = Allowance::new();
        for _ in 0..RESERVE as usize {
            assert_eq!(take(&allowance).await, Duration::ZERO);
        }
        for _ in 0..40 {
            (0..FIRST_PER_RETRY as usize).for_each(|_| allowance.earn());
            assert_eq!(take(&allowance).await, Duration::ZERO);
        }
        let waited = take(&allowance).await;
        let told = Duration::from_secs_f64(1.0 / PER_SECOND);
        assert!(waited >= told && waited < told + Duration::from_millis(5), "{waited:?}");
        allowance.give_back();
        assert_eq!(take(&allowance).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_nothing_left_is_sent_when_its_time_is_over() {
        let allowance = Allowance::new();
        let begun = Instant::now();
        let all = (0..1000).map(|_| allowance.take(Flow::default(), begun + MINUTE));
        let taken = futures_util::future::join_all(all).await;
        assert_eq!(begun.elapsed(), MINUTE);
        let taken = taken.iter().filter(|taken| **taken).count();
        let told = RESERVE as usize + (60.0 * PER_SECOND) as usize;
        assert!(taken.abs_diff(told) <= 1, "{taken}, not {told}");
    }
}
