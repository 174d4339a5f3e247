//! Tries again what may succeed: [`Retry`], a wrapper.
//!
//! Retries: only kinds that say so ([`super::ErrorKind::is_retryable`]), after a full-jitter exponential
//! backoff, at least as long as the store's Retry-After asks, up to `attempts_max` attempts; no new attempt
//! begins once `timeout` has passed. The body of a GET goes on from the byte reached, under the same
//! If-Match, and every byte received starts its count of attempts afresh: progress never goes backwards.
//! Consistency: a write whose answer was lost is settled by the table in [`settle`]. Cancellation: dropping
//! a future drops the attempt and the waiting. Crash: nothing is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::layer::{Call, Layer};
use super::meter::Meter;
use super::{
    Body, CopyRequest, Created, ETag, ErrorKind, Key, Mark, Precondition, Result, Store,
    StoreError, WriteOptions,
};
use crate::range::ByteRange;

mod body;
pub mod settle;

/// How long, how often and how hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts of one request, the first included; at least 1 is made.
    pub attempts_max: u32,
    /// No new attempt begins this long after the first one began (for a GET: after its last byte came).
    pub timeout: Duration,
    /// The longest wait before the second attempt; it doubles with each further one.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts_max: 8,
            timeout: Duration::from_secs(60),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(20),
        }
    }
}

/// Where one request stands with its attempts.
#[derive(Clone, Copy)]
struct Attempts {
    policy: RetryPolicy,
    made: u32,
    begun: Instant,
}

impl Attempts {
    fn new(policy: RetryPolicy) -> Self {
        Attempts { policy, made: 0, begun: Instant::now() }
    }

    /// After a failed attempt: how long to wait before the next one, `None` to give up. `random` lies in
    /// 0.0..1.0.
    fn wait_after(&mut self, err: &StoreError, random: f64) -> Option<Duration> {
        self.made += 1;
        if !err.kind.is_retryable() || self.made >= self.policy.attempts_max {
            return None;
        }
        let doubled = 2_u32.saturating_pow(self.made - 1);
        let ceiling = self.policy.backoff_min.saturating_mul(doubled).min(self.policy.backoff_max);
        // Full jitter: clients that failed together do not come back together.
        let wait = ceiling.mul_f64(random).max(err.retry_after.unwrap_or_default());
        (self.begun.elapsed() + wait < self.policy.timeout).then_some(wait)
    }
}

/// A store whose requests are tried again where that may help.
pub struct Retry<S> {
    store: Arc<S>,
    policy: RetryPolicy,
    meter: Arc<Meter>,
}

/// How a request went that was tried more than once.
struct Tried<T> {
    outcome: Result<T>,
    /// An earlier attempt failed in a way that leaves open whether it took effect.
    ambiguous: bool,
}

impl<S: Store> Retry<S> {
    pub fn new(store: S, policy: RetryPolicy, meter: Arc<Meter>) -> Self {
        Retry { store: Arc::new(store), policy, meter }
    }

    /// As [`Self::run`], for what a program waits for: the timeout ends a further attempt in its middle too.
    /// (Not the first one, which may have to wait for its turn; the client limits that one.)
    async fn run_in_time<T, F>(
        &self,
        operation: &'static str,
        mut request: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let timeout = self.policy.timeout;
        let end = Instant::now() + timeout;
        let mut first = true;
        let limited = || {
            let (attempt, is_first) = (request(), std::mem::replace(&mut first, false));
            async move {
                if is_first {
                    return attempt.await;
                }
                tokio::time::timeout_at(end, attempt).await.unwrap_or_else(|_| {
                    let message =
                        format!("no answer within {}", humantime::format_duration(timeout));
                    Err(StoreError::new(ErrorKind::Timeout, operation, message))
                })
            }
        };
        self.run(limited).await.outcome
    }

    async fn run<T, F>(&self, mut request: impl FnMut() -> F) -> Tried<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut attempts = Attempts::new(self.policy);
        let mut ambiguous = false;
        loop {
            let err = match request().await {
                Ok(value) => return Tried { outcome: Ok(value), ambiguous },
                Err(err) => err,
            };
            let Some(wait) = attempts.wait_after(&err, fastrand::f64()) else {
                return Tried { outcome: Err(err), ambiguous };
            };
            // A throttled request was turned away at the door; after any other fault it may have got in.
            ambiguous |= err.kind != ErrorKind::Throttled;
            self.meter.count_retry();
            log::debug!("{err}; trying again in {wait:?}");
            tokio::time::sleep(wait).await;
        }
    }

    /// Settles a write: refused when repeated, after an attempt that may have taken effect. It did if the object
    /// has its mark.
    async fn settle(
        &self,
        key: &Key,
        tried: Tried<ETag>,
        refusals: &[ErrorKind],
        mark: Option<Mark>,
    ) -> Result<ETag> {
        match tried.outcome {
            Err(err) if tried.ambiguous && refusals.contains(&err.kind) && mark.is_some() => {
                match self.head(key).await {
                    Ok(head) if head.mark() == mark => {
                        log::debug!("{} took effect, its answer was lost", err.operation);
                        Ok(head.etag)
                    }
                    Ok(_) => Err(err),
                    Err(head) if head.kind == ErrorKind::NotFound => Err(err),
                    // Not known: the caller hears of the fault that can pass, not of a refusal that may
                    // be none.
                    Err(head) => Err(head),
                }
            }
            outcome => outcome,
        }
    }
}

impl<S: Store> Layer for Retry<S> {
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
            Call::Head { .. } | Call::List { .. } => self.run_in_time(call.name(), send).await,
            _ => self.run(send).await.outcome,
        }
    }

    async fn pass_get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let first = self.run(|| self.store.get(key, range, if_match)).await.outcome?;
        Ok(body::resuming(body::Resume {
            store: self.store.clone(),
            meter: self.meter.clone(),
            policy: self.policy,
            key: key.clone(),
            etag: if_match.clone(),
            first,
        }))
    }

    async fn pass_create_upload(&self, key: &Key, options: &WriteOptions) -> Result<Created> {
        let tried = self.run(|| self.store.create_upload(key, options)).await;
        let perhaps_twice = tried.ambiguous;
        tried.outcome.map(|created| Created { perhaps_twice, ..created })
    }

    async fn pass_put(
        &self,
        key: &Key,
        body: Bytes,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        let tried = self.run(|| self.store.put(key, body.clone(), options, precondition)).await;
        self.settle(key, tried, &[ErrorKind::PreconditionFailed], options.mark()).await
    }

    async fn pass_copy(&self, request: &CopyRequest) -> Result<ETag> {
        let tried = self.run(|| self.store.copy(request)).await;
        let mark = request.replace.as_ref().and_then(WriteOptions::mark);
        self.settle(&request.target, tried, &[ErrorKind::PreconditionFailed], mark).await
    }

    async fn pass_delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let mut outcomes = self.run(|| self.store.delete_many(keys)).await.outcome?;
        // Keys that failed one by one inside a successful answer.
        for (key, outcome) in keys.iter().zip(&mut outcomes) {
            if outcome.as_ref().is_err_and(|err| err.kind.is_retryable()) {
                *outcome = self.delete(key).await;
            }
        }
        Ok(outcomes)
    }
}

#[cfg(test)]
mod tests;
