//! Asks a second time what is not answered soon: [`Hedged`], a wrapper. Now and then a request of many stalls, on
//! a bad connection or a busy server, and a reader in order waits for it with everything behind it there.
//!
//! A GET or HEAD whose answer has not begun after a few times what nearly all take is sent once more; the
//! first to be answered is taken, the other dropped. It is dropped before its body is read, so that what is
//! wasted is what was in the sockets.
//!
//! Bounds: one further request in [`REQUESTS_PER_HEDGE`]; none for a while after the store has asked to be left
//! alone, and none where the user limits requests. Retries: none here. Cancellation: drops both requests.
//! Consistency: both are pinned to the same ETag. Crash: nothing is kept.

use std::sync::Arc;
use std::time::Duration;

use super::layer::{Call, Layer};
use super::limit::Limits;
use super::meter::Meter;
use super::{ErrorKind, Result, Store};
use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};

/// So many requests allow one to be sent again: 5 %.
const REQUESTS_PER_HEDGE: u32 = 20;
/// Unused allowance is kept for so many at once.
const HEDGES_SAVED_MAX: u32 = 8;
/// Answers that are remembered, and how many of them it takes before there is a notion of "soon".
const ANSWERS: usize = 64;
const ANSWERS_MIN: usize = 32;
/// So many answers change little of what is usual.
const ANSWERS_PER_LOOK: usize = 16;
/// "Soon" is so many times what 19 of 20 take, and not less than what a busy machine takes for anything.
const TIMES: u32 = 3;
const DELAY_MIN: Duration = Duration::from_millis(500);
/// After a throttled answer there are no second requests for so long.
const QUIET: Duration = Duration::from_secs(30);

/// How long answers take of late, and how many requests may be sent again.
struct Pace {
    answers: [Duration; ANSWERS],
    count: usize,
    /// How long a request may go unanswered; `None` where nothing is known of that yet.
    delay: Option<Duration>,
    /// In requests: [`REQUESTS_PER_HEDGE`] of them are a second one.
    allowance: u32,
    quiet_until: Instant,
}

impl Pace {
    fn new() -> Pace {
        let (answers, quiet_until) = ([Duration::ZERO; ANSWERS], Instant::now());
        Pace { answers, count: 0, delay: None, allowance: 0, quiet_until }
    }

    fn sent(&mut self) {
        let most = REQUESTS_PER_HEDGE * HEDGES_SAVED_MAX;
        self.allowance = (self.allowance + 1).min(most);
    }

    fn answered(&mut self, took: Duration) {
        self.answers[self.count % ANSWERS] = took;
        self.count += 1;
        if self.count.is_multiple_of(ANSWERS_PER_LOOK) {
            self.delay = self.look();
        }
    }

    fn throttled(&mut self) {
        self.quiet_until = Instant::now() + QUIET;
    }

    fn look(&self) -> Option<Duration> {
        let known = self.count.min(ANSWERS);
        if known < ANSWERS_MIN {
            return None;
        }
        let mut sorted = self.answers;
        let sorted = &mut sorted[..known];
        sorted.sort_unstable();
        Some((sorted[known * 19 / 20] * TIMES).max(DELAY_MIN))
    }

    /// Whether a second request may be sent now; takes it off the allowance.
    fn take(&mut self) -> bool {
        if self.allowance < REQUESTS_PER_HEDGE || Instant::now() < self.quiet_until {
            return false;
        }
        self.allowance -= REQUESTS_PER_HEDGE;
        true
    }
}

/// A store that is asked twice where it is slow once.
pub struct Hedged<S> {
    store: S,
    meter: Arc<Meter>,
    /// Where it is switched on: whether requests are limited.
    hedging: Option<Arc<Limits>>,
    gets: Mutex<Pace, rank::Pace>,
    heads: Mutex<Pace, rank::Pace>,
}

impl<S: Store> Hedged<S> {
    pub fn new(store: S, meter: Arc<Meter>, hedging: Option<Arc<Limits>>) -> Self {
        let pace = || Mutex::new(Pace::new());
        Hedged { store, meter, hedging, gets: pace(), heads: pace() }
    }

    async fn ask<T, F>(&self, pace: &Mutex<Pace, rank::Pace>, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let timed = || async {
            let begun = Instant::now();
            let outcome = request().await;
            let mut pace = pace.lock();
            match &outcome {
                Ok(_) => pace.answered(begun.elapsed()),
                Err(error) if error.kind == ErrorKind::Throttled => pace.throttled(),
                Err(_) => {}
            }
            drop(pace);
            outcome
        };
        pace.lock().sent();
        let first = timed();
        tokio::pin!(first);
        // A limit of requests means every one of them.
        let is_on = self.hedging.as_ref().is_some_and(|limits| limits.rates().requests.is_none());
        let delay = pace.lock().delay.filter(|_| is_on);
        let Some(delay) = delay else { return first.await };
        if let Ok(outcome) = clock::timeout(delay, &mut first).await {
            return outcome;
        }
        if !pace.lock().take() {
            return first.await;
        }
        self.meter.count_hedge();
        let second = timed();
        tokio::pin!(second);
        // An error of the one is none as long as the other may be answered.
        tokio::select! {
            outcome = &mut first => match outcome {
                Err(error) if error.kind.is_retryable() => second.await,
                settled => settled,
            },
            outcome = &mut second => match outcome {
                Err(error) if error.kind.is_retryable() => first.await,
                settled => settled,
            },
        }
    }
}

impl<S: Store> Layer for Hedged<S> {
    type Below = S;

    fn below(&self) -> &S {
        &self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        match call {
            Call::Get { .. } => self.ask(&self.gets, send).await,
            Call::Head { .. } => self.ask(&self.heads, send).await,
            _ => send().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::StoreError;
    use crate::store::limit::Rates;
    use crate::store::memory::MemoryStore;

    const USUAL: Duration = Duration::from_millis(25);

    fn hedged() -> (Hedged<MemoryStore>, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        let hedged =
            Hedged::new(MemoryStore::new(), meter.clone(), Some(Limits::new(1, Rates::default())));
        for _ in 0..ANSWERS {
            hedged.gets.lock().answered(USUAL);
        }
        (hedged, meter)
    }

    /// Asks for what takes so long each time it is asked for.
    async fn ask(hedged: &Hedged<MemoryStore>, takes: &[Result<Duration, ErrorKind>]) -> Duration {
        let (begun, asked) = (Instant::now(), AtomicUsize::new(0));
        let outcome = hedged
            .ask(&hedged.gets, || {
                let takes = takes[asked.fetch_add(1, Ordering::SeqCst)];
                async move {
                    match takes {
                        Ok(takes) => clock::sleep(takes).await,
                        Err(kind) => return Err(StoreError::new(kind, "GetObject", "")),
                    }
                    Ok(())
                }
            })
            .await;
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(asked.load(Ordering::SeqCst), takes.len(), "requests");
        begun.elapsed()
    }

    const STALLS: Result<Duration, ErrorKind> = Ok(Duration::from_secs(2));

    #[tokio::test(start_paused = true)]
    async fn what_stalls_is_asked_again_within_the_allowance() {
        let (hedged, meter) = hedged();
        for _ in 0..REQUESTS_PER_HEDGE - 1 {
            assert_eq!(ask(&hedged, &[Ok(USUAL)]).await, USUAL);
        }
        assert_eq!(ask(&hedged, &[STALLS, Ok(USUAL)]).await, DELAY_MIN + USUAL);
        assert_eq!(ask(&hedged, &[STALLS]).await, Duration::from_secs(2), "nothing is left");
        assert_eq!(meter.snapshot().hedges, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_taken_where_the_second_fails() {
        let (hedged, _) = hedged();
        hedged.gets.lock().allowance = REQUESTS_PER_HEDGE;
        let took = ask(&hedged, &[STALLS, Err(ErrorKind::Transient)]).await;
        assert_eq!(took, Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_throttles_or_is_slow_is_not_asked_twice() {
        let (hedged, _) = hedged();
        hedged.gets.lock().allowance = REQUESTS_PER_HEDGE * 2;
        hedged.gets.lock().throttled();
        ask(&hedged, &[STALLS]).await;
        tokio::time::advance(QUIET).await;
        ask(&hedged, &[STALLS, Ok(USUAL)]).await;
        hedged.gets.lock().allowance = REQUESTS_PER_HEDGE * 2;
        for _ in 0..ANSWERS {
            hedged.gets.lock().answered(Duration::from_secs(1));
        }
        ask(&hedged, &[STALLS]).await;
    }
}
