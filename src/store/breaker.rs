//! The circuit breaker: during an outage requests fail at once instead of each waiting out its retries.
//!
//! It sits outside the retries, so that it counts requests that were given up, not single attempts: a blip
//! that retrying gets over never opens it. One request alone opens it if it heard nothing for [`SILENCE_MAX`]
//! and nobody else did in that time; otherwise it takes [`FAILURES_MAX`] in a row. Open, it answers `Offline`;
//! after a pause a few requests are let through to try, and the first outcome closes the breaker or opens it
//! for twice as long. A few and not one: an operation that sends two requests side by side gives up both when
//! one of them is refused, so that one alone would never come to an outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::layer::{Call, Layer};
use super::{Body, ETag, ErrorKind, Key, Result, Store, StoreError};
use crate::range::ByteRange;

/// Given-up requests in a row that open the breaker. One may be bad luck on one connection.
const FAILURES_MAX: u32 = 3;
/// A request that hears nothing for this long, while nobody hears anything, has met an outage and not bad luck.
/// Less where requests are given up sooner.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long it stays open at first, and at most: so long a mount may take to find that the store is back.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a request may try that a store answers at once when it is there. Retries of the request itself
/// would hold up a program for --timeout; and one that uploads a part cannot be told from a slow one so soon.
const TRY_MAX: Duration = Duration::from_secs(5);
/// Requests that may be out to try: what one operation sends side by side, and few enough that an outage
/// holds up few programs.
const TRIES_MAX: u32 = 8;

enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    /// So many requests are out to try.
    Trying {
        out: u32,
        pause: Duration,
    },
}

/// What all requests of a breaker know.
struct Shared {
    state: Mutex<State>,
    /// A request that hears nothing for this long, while nobody hears anything, has met an outage.
    silence: Duration,
    epoch: Instant,
    /// When a request heard anything of the store last, in milliseconds since the epoch.
    heard: AtomicU64,
}

impl Shared {
    fn new(silence: Duration) -> Arc<Shared> {
        let state = Mutex::new(State::Closed { failures: 0 });
        Arc::new(Shared { state, silence, epoch: Instant::now(), heard: AtomicU64::new(0) })
    }

    fn hear(&self) {
        self.heard.store(self.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether nobody has heard anything since, and that is long ago.
    fn silent_since(&self, begun: Instant) -> bool {
        let heard = self.epoch + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        heard <= begun && begun.elapsed() >= self.silence
    }
}

/// A store that fails fast while it does not answer.
pub struct Breaker<S> {
    store: S,
    shared: Arc<Shared>,
}

/// Whether a breaker is open, for those who want to know.
#[derive(Clone)]
pub struct Outage {
    shared: Arc<Shared>,
}

impl Default for Outage {
    /// Of a store without a breaker: never.
    fn default() -> Self {
        Outage { shared: Shared::new(SILENCE_MAX) }
    }
}

impl Outage {
    /// The store has not answered for a while, and has not answered again yet.
    pub fn is_on(&self) -> bool {
        !matches!(*self.shared.state.lock(), State::Closed { .. })
    }
}

/// The leave to send one request. Dropped without an outcome (the caller went away), it frees the place of
/// a trying request for another one; if it was for long that nothing was heard, that is an outcome too.
struct Leave {
    shared: Arc<Shared>,
    begun: Instant,
    /// It is answered at once by a store that is there.
    quick: bool,
    /// The breaker is open, and this is to find out whether it still has to be.
    tries: bool,
    settled: bool,
}

impl Leave {
    fn settle<T>(&mut self, outcome: &Result<T>) {
        self.settled = true;
        let fault = match outcome {
            Err(err) if matches!(err.kind, ErrorKind::Transient | ErrorKind::Timeout) => Some(err),
            _ => None,
        };
        // An answer that is an error is one.
        let outage =
            fault.is_some_and(|err| err.status.is_none()) && self.shared.silent_since(self.begun);
        if fault.is_none_or(|err| err.status.is_some()) {
            self.shared.hear();
        }
        self.conclude(fault.is_some(), outage);
    }

    fn conclude(&self, fault: bool, outage: bool) {
        let mut state = self.shared.state.lock();
        let open = |pause: Duration| State::Open { until: Instant::now() + pause, pause };
        *state = match (&*state, fault) {
            (_, false) => State::Closed { failures: 0 },
            (State::Closed { failures }, true) if !outage && failures + 1 < FAILURES_MAX => {
                State::Closed { failures: failures + 1 }
            }
            (State::Closed { .. }, true) => open(PAUSE_MIN),
            (State::Trying { pause, .. }, true) => open((*pause * 2).min(PAUSE_MAX)),
            (State::Open { until, pause }, true) => State::Open { until: *until, pause: *pause },
        };
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if self.quick && self.shared.silent_since(self.begun) {
            return self.conclude(true, true);
        }
        let mut state = self.shared.state.lock();
        if let State::Trying { out, pause } = *state {
            *state = match out.saturating_sub(1) {
                0 => State::Open { until: Instant::now(), pause },
                out => State::Trying { out, pause },
            };
        }
    }
}

impl<S: Store> Breaker<S> {
    /// `timeout`: how long a request may take, its retries included.
    pub fn new(store: S, timeout: Duration) -> Self {
        // Some are given up well before, since they would have to wait beyond it.
        Breaker { store, shared: Shared::new(SILENCE_MAX.min(timeout / 2)) }
    }

    pub fn outage(&self) -> Outage {
        Outage { shared: self.shared.clone() }
    }

    fn enter(&self, operation: &'static str) -> Result<Leave> {
        let mut state = self.shared.state.lock();
        let tries = match *state {
            State::Closed { .. } => false,
            State::Open { until, pause } if Instant::now() >= until => {
                *state = State::Trying { out: 1, pause };
                true
            }
            State::Trying { out, pause } if out < TRIES_MAX => {
                *state = State::Trying { out: out + 1, pause };
                true
            }
            State::Open { .. } | State::Trying { .. } => {
                return Err(StoreError::new(
                    ErrorKind::Offline,
                    operation,
                    "the store has not answered for a while",
                ));
            }
        };
        let (shared, begun) = (self.shared.clone(), Instant::now());
        Ok(Leave { shared, begun, quick: false, tries, settled: false })
    }
}

impl<S: Store> Layer for Breaker<S> {
    type Below = S;

    fn below(&self) -> &S {
        &self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let mut leave = self.enter(call.name())?;
        leave.quick = call.is_quick();
        let outcome = if leave.quick && leave.tries {
            let silent = |_| {
                let message = format!("no answer within {}", humantime::format_duration(TRY_MAX));
                Err(StoreError::new(ErrorKind::Timeout, call.name(), message))
            };
            tokio::time::timeout(TRY_MAX, send()).await.unwrap_or_else(silent)
        } else {
            send().await
        };
        leave.settle(&outcome);
        outcome
    }

    async fn pass_get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let call = Call::Get { key, bytes: range.len() };
        let body = self.pass(call, || self.store.get(key, range, if_match)).await?;
        // A body that breaks off for good counts as well.
        let shared = self.shared.clone();
        let bytes = body.bytes.inspect(move |chunk| match chunk {
            Ok(_) => shared.hear(),
            Err(_) => {
                let (shared, begun) = (shared.clone(), Instant::now());
                Leave { shared, begun, quick: true, tries: false, settled: false }.settle(chunk);
            }
        });
        Ok(Body { bytes: bytes.boxed(), ..body })
    }
}

#[cfg(test)]
mod tests {
    use super::super::scripted::Scripted;
    use super::*;

    fn key() -> Key {
        Key::from("k")
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_fails_at_once_and_a_request_finds_its_end() {
        let store = Scripted::new();
        let breaker = Breaker::new(store.clone(), Duration::from_secs(60));
        store.fail_next(FAILURES_MAX as usize + 1, ErrorKind::Timeout);
        for _ in 0..FAILURES_MAX {
            assert_eq!(breaker.delete(&key()).await.unwrap_err().kind, ErrorKind::Timeout);
        }
        let sent = store.requests();
        assert_eq!(breaker.delete(&key()).await.unwrap_err().kind, ErrorKind::Offline);
        assert_eq!(store.requests(), sent, "nothing is sent while it is open");

        tokio::time::advance(PAUSE_MIN).await;
        assert_eq!(breaker.delete(&key()).await.unwrap_err().kind, ErrorKind::Timeout);
        tokio::time::advance(PAUSE_MIN).await;
        assert_eq!(breaker.delete(&key()).await.unwrap_err().kind, ErrorKind::Offline);
        tokio::time::advance(PAUSE_MIN).await;
        breaker.delete(&key()).await.unwrap();
        breaker.delete(&key()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_that_nobody_answers_for_long_opens_it() {
        let store = Scripted::new();
        let breaker = Breaker::new(store.clone(), Duration::from_secs(60));
        // By giving up, or by being given up.
        for given_up in [false, true] {
            let mut leave = breaker.enter("HeadObject").unwrap();
            leave.quick = true;
            tokio::time::advance(SILENCE_MAX).await;
            if !given_up {
                leave.settle(&Err::<(), _>(StoreError::new(ErrorKind::Timeout, "HeadObject", "")));
            }
            drop(leave);
            assert_eq!(breaker.delete(&key()).await.unwrap_err().kind, ErrorKind::Offline);
            assert!(breaker.outage().is_on());
            tokio::time::advance(PAUSE_MIN).await;
            breaker.delete(&key()).await.unwrap();
            assert!(!breaker.outage().is_on());
        }
        // Somebody was answered meanwhile.
        let mut leave = breaker.enter("HeadObject").unwrap();
        leave.quick = true;
        tokio::time::advance(SILENCE_MAX).await;
        breaker.delete(&key()).await.unwrap();
        drop(leave);
        breaker.delete(&key()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_refuse_do_not_open_it() {
        let store = Scripted::new();
        let breaker = Breaker::new(store.clone(), Duration::from_secs(60));
        store.fail_next(10, ErrorKind::Denied);
        for _ in 0..10 {
            assert_eq!(breaker.delete(&key()).await.unwrap_err().kind, ErrorKind::Denied);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_try_frees_its_place() {
        let store = Scripted::new();
        let breaker = Breaker::new(store.clone(), Duration::from_secs(60));
        store.fail_next(FAILURES_MAX as usize, ErrorKind::Transient);
        for _ in 0..FAILURES_MAX {
            breaker.delete(&key()).await.unwrap_err();
        }
        tokio::time::advance(PAUSE_MIN).await;
        drop(breaker.enter("HeadObject").unwrap());
        breaker.delete(&key()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn two_requests_side_by_side_find_the_end_together() {
        let store = Scripted::new();
        let breaker = Breaker::new(store.clone(), Duration::from_secs(60));
        store.fail_next(FAILURES_MAX as usize, ErrorKind::Transient);
        for _ in 0..FAILURES_MAX {
            breaker.delete(&key()).await.unwrap_err();
        }
        tokio::time::advance(PAUSE_MIN).await;
        let (a, b) = (key(), key());
        // A lookup is a HEAD and a LIST, and fails with the first of them that does.
        tokio::try_join!(breaker.delete(&a), breaker.delete(&b)).unwrap();

        store.fail_next(FAILURES_MAX as usize, ErrorKind::Transient);
        for _ in 0..FAILURES_MAX {
            breaker.delete(&key()).await.unwrap_err();
        }
        tokio::time::advance(PAUSE_MIN).await;
        let tries: Vec<_> = (0..TRIES_MAX).map(|_| breaker.enter("HeadObject").unwrap()).collect();
        assert!(breaker.enter("HeadObject").is_err(), "an outage holds up few");
        drop(tries);
        breaker.delete(&key()).await.unwrap();
    }
}
