//! A token bucket: so much a second, and so much at once.
//!
//! Tokens come in at the rate, up to the burst. A request for more than the burst goes when the bucket is full, and
//! leaves a debt, so that it is right on average. Whose turn it is is the line's to say ([`super::line`]).

use std::pin::pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::line::{Flow, Line, Turn};
use crate::clock::{self, Instant};
use crate::progress;

/// What one file takes before it is another's turn, in bytes: little, so that a small file gets through at once; and
/// enough that a fast link is not kept busy with taking.
const STEP: u64 = 32 << 10;

/// Without a word of it the burst is a tenth of a second's worth: the rate holds over any second, and a timer that is
/// late by some milliseconds costs nothing.
const BURSTS_PER_SECOND: u64 = 10;
/// And a fiftieth at least, for the timer's sake.
const BURSTS_PER_SECOND_MAX: u64 = 50;

/// Work that waits tells so often that it is not stuck: the user wants it to be slow.
const BEAT: Duration = Duration::from_secs(1);

/// So much a second, and so much at once: in bytes, or in requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub per_second: u64,
    pub burst: u64,
}

impl Rate {
    /// At least one a second. Without a burst, or with one too small to be timed, the burst is a part of the rate.
    pub fn new(per_second: u64, burst: Option<u64>) -> Rate {
        let per_second = per_second.max(1);
        let burst = burst.unwrap_or(per_second / BURSTS_PER_SECOND);
        Rate { per_second, burst: burst.max(per_second / BURSTS_PER_SECOND_MAX).max(1) }
    }
}

struct Tokens {
    rate: Option<Rate>,
    /// Less than none after a request for more than there may be.
    level: f64,
    at: Instant,
}

impl Tokens {
    /// What has come in meanwhile.
    fn refill(&mut self, rate: Rate) {
        let now = Instant::now();
        let more = now.duration_since(self.at).as_secs_f64() * rate.per_second as f64;
        self.level = (self.level + more).min(rate.burst as f64);
        self.at = now;
    }

    fn set(&mut self, rate: Option<Rate>) {
        match (self.rate, rate) {
            // What came in at the old rate stays; what is owed too.
            (Some(old), Some(new)) => {
                self.refill(old);
                self.level = self.level.min(new.burst as f64);
            }
            (None, Some(new)) => {
                self.level = new.burst as f64;
                self.at = Instant::now();
            }
            (_, None) => {}
        }
        self.rate = rate;
    }

    fn take(&mut self, count: u64) -> Turn<()> {
        let Some(rate) = self.rate else { return Turn::Taken(()) };
        self.refill(rate);
        let needed = count.min(rate.burst) as f64;
        if self.level >= needed {
            self.level -= count as f64;
            return Turn::Taken(());
        }
        let wait = (needed - self.level) / rate.per_second as f64;
        // Rounded up: it is asked for once.
        Turn::At(self.at + Duration::from_secs_f64(wait) + Duration::from_nanos(1))
    }
}

/// A rate, or none, which can be changed at any time: what waits goes by the new one at once.
pub struct Bucket(Line<Tokens>);

impl Bucket {
    pub fn new(rate: Option<Rate>) -> Bucket {
        let level = rate.map_or(0.0, |rate| rate.burst as f64);
        Bucket(Line::new(Tokens { rate, level, at: Instant::now() }))
    }

    pub fn set(&self, rate: Option<Rate>) {
        self.0.change(|tokens| tokens.set(rate));
    }

    pub fn rate(&self) -> Option<Rate> {
        self.0.look(|tokens| tokens.rate)
    }

    /// Waits until `count` may pass, step by step, and in turn with the others that wait.
    pub async fn take(&self, flow: Flow, count: u64) {
        let mut left = count;
        while left > 0 {
            if self.rate().is_none() {
                return;
            }
            let step = left.min(STEP);
            let mut taking = pin!(self.0.take(flow, |tokens| tokens.take(step)));
            while clock::timeout(BEAT, &mut taking).await.is_err() {
                progress::beat();
            }
            left -= step;
            progress::beat();
        }
    }

    /// The longest piece that is to be taken for at once, in bytes; `None` where there is no limit.
    pub fn piece_max(&self) -> Option<usize> {
        self.rate().map(|_| STEP as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Key;

    const MIB: u64 = 1 << 20;
    const SECOND: Duration = Duration::from_secs(1);

    fn flow(name: &str) -> Flow {
        Flow::of(&Key::from(name))
    }

    fn within_5_percent(took: Duration, of: Duration) -> bool {
        took.as_secs_f64() / of.as_secs_f64() > 0.95 && took.as_secs_f64() / of.as_secs_f64() < 1.05
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_held_and_the_burst_goes_at_once() {
        let bucket = Bucket::new(Some(Rate::new(10 * MIB, None)));
        let begun = Instant::now();
        bucket.take(flow("k"), 100 * MIB).await;
        assert!(within_5_percent(begun.elapsed(), 10 * SECOND), "{:?}", begun.elapsed());

        let bucket = Bucket::new(Some(Rate::new(10 * MIB, Some(64 * MIB))));
        let begun = Instant::now();
        bucket.take(flow("k"), 64 * MIB).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        bucket.take(flow("k"), 100 * MIB).await;
        assert!(within_5_percent(begun.elapsed(), 10 * SECOND), "{:?}", begun.elapsed());
        // What was not taken is there later, up to the burst.
        clock::sleep(60 * SECOND).await;
        let begun = Instant::now();
        bucket.take(flow("k"), 64 * MIB).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        bucket.take(flow("k"), 10 * MIB).await;
        assert!(within_5_percent(begun.elapsed(), SECOND), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn rates_of_any_size_are_held() {
        for (per_second, burst, takes) in
            [(1, None, 1), (7, None, 1), (100, Some(1), 1), (3000, None, 100), (1 << 30, None, MIB)]
        {
            let bucket = Bucket::new(Some(Rate::new(per_second, burst)));
            // The burst is gone.
            bucket.take(flow("k"), bucket.rate().unwrap().burst).await;
            let begun = Instant::now();
            for _ in 0..10 * per_second / takes {
                bucket.take(flow("k"), takes).await;
                if begun.elapsed() > 11 * SECOND {
                    break;
                }
            }
            assert!(within_5_percent(begun.elapsed(), 10 * SECOND), "{per_second}: {begun:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_goes_by_a_new_rate_at_once() {
        let bucket = Arc::new(Bucket::new(Some(Rate::new(1, None))));
        let take = |bytes| {
            let bucket = bucket.clone();
            tokio::spawn(async move { bucket.take(flow("k"), bytes).await })
        };
        let waiting = [take(10 * MIB), take(10 * MIB)];
        clock::sleep(5 * SECOND).await;
        let begun = Instant::now();
        bucket.set(Some(Rate::new(10 * MIB, None)));
        for one in waiting {
            one.await.unwrap();
        }
        assert!(within_5_percent(begun.elapsed(), 2 * SECOND), "{:?}", begun.elapsed());
        bucket.set(Some(Rate::new(1, None)));
        let waiting = [take(10 * MIB), take(10 * MIB)];
        clock::sleep(SECOND).await;
        bucket.set(None);
        let begun = Instant::now();
        for one in waiting {
            one.await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "lifted");
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_file_is_not_behind_all_parts_of_a_large_one() {
        let bucket = Arc::new(Bucket::new(Some(Rate::new(MIB, None))));
        let parts = (0..64).map(|_| {
            let bucket = bucket.clone();
            tokio::spawn(async move { bucket.take(flow("large"), 8 * MIB).await })
        });
        let parts: Vec<_> = parts.collect();
        clock::sleep(SECOND).await;
        let begun = Instant::now();
        bucket.take(flow("small"), 256 << 10).await;
        // Half of the rate is its own.
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        parts.iter().for_each(|part| part.abort());
    }
}
