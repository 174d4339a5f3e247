//! Tries again what may succeed: [`Retry`], a wrapper.
//!
//! Retries: only kinds that say so ([`super::ErrorKind::is_retryable`]), after a full-jitter exponential
//! backoff, at least as long as the store's Retry-After asks. Time is what bounds them, since an outage of a minute
//! is waited out: no new attempt begins once the time of the request is over, and the last one begins just before
//! that. What the store asks of one request holds for all ([`Calm`]), and all together are tried again so often only
//! ([`allowance`]): that delays attempts, and makes no error of one. In an outage the [`breaker`](super::breaker) holds all back but one. The body of a GET goes on from the
//! byte reached, under the same If-Match, and every byte received starts its time afresh: progress never goes
//! backwards.
//! Consistency: a write whose answer was lost is settled by the table in [`settle`]. Cancellation: dropping
//! a future drops the attempt and the waiting. Crash: nothing is kept.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::breaker::{OnOutage, Outage};
use super::layer::{Call, Layer};
use super::limit::calm::{Calm, sent_by};
use super::meter::Meter;
use super::{
    Body, CopyRequest, Created, ETag, ErrorKind, Key, Mark, Precondition, Result, Store,
    StoreError, Summed, WriteOptions,
};
use crate::clock;
use crate::progress::can_end;
use crate::random;
use crate::range::ByteRange;
use crate::supervise::supervise;

mod allowance;
mod attempts;
mod body;
pub mod settle;

pub use attempts::{RetryPolicy, giving_way, impatient};

use attempts::{Attempts, Below};

/// A store whose requests are tried again where that may help.
pub struct Retry<S> {
    below: Arc<Below<S>>,
    /// Where requests do not wait for the end of an outage, and so do not look for it.
    _prober: Option<Prober>,
}

/// A task that asks whether the store is back, for as long as it is not dropped.
struct Prober(AbortHandle);

impl Drop for Prober {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Prober {
    fn start<S: Store>(below: &Arc<Below<S>>) -> Prober {
        let (weak, outage) = (Arc::downgrade(below), below.breaker.outage());
        let probing = move || {
            let (weak, outage) = (weak.clone(), outage.clone());
            async move {
                loop {
                    outage.begins().await;
                    let Some(below) = weak.upgrade() else { return };
                    below.probe_if_due().await;
                }
            }
        };
        Prober(supervise(&Handle::current(), "breaker", probing))
    }
}

/// How a request went that was tried more than once.
struct Tried<T> {
    outcome: Result<T>,
    /// An earlier attempt failed in a way that leaves open whether it took effect.
    ambiguous: bool,
    /// An earlier attempt was answered with what it cannot have meant: the store may have other bytes than were sent.
    corrupt: bool,
}

impl<S: Store> Retry<S> {
    /// Needs a runtime where the policy does not wait for outages to end.
    pub fn new(store: S, policy: RetryPolicy, meter: Arc<Meter>, calm: Arc<Calm>) -> Self {
        let below = Arc::new(Below::new(store, policy, meter, calm));
        let _prober = (policy.on_outage != OnOutage::Wait).then(|| Prober::start(&below));
        Retry { below, _prober }
    }

    pub fn outage(&self) -> Outage {
        self.below.breaker.outage()
    }

    async fn run<T, F>(&self, call: Call<'_>, request: impl FnMut() -> F) -> Tried<T>
    where
        F: Future<Output = Result<T>>,
    {
        let tried = self.try_again(call, request).await;
        Tried { outcome: tried.outcome.map_err(|err| err.of_key(call.key())), ..tried }
    }

    async fn try_again<T, F>(&self, call: Call<'_>, mut request: impl FnMut() -> F) -> Tried<T>
    where
        F: Future<Output = Result<T>>,
    {
        let below = &self.below;
        let is_metadata = call.is_metadata();
        let policy = below.policy;
        let timeout = if is_metadata { policy.metadata_timeout } else { policy.timeout };
        let mut attempts = Attempts::new(policy, timeout);
        let (mut ambiguous, mut corrupt, mut last) = (false, false, None);
        loop {
            let is_retry = waiting(call, below.turn(call, &attempts)).await;
            let leave = match below.admit(call, &attempts).await {
                Ok(leave) => leave,
                Err(offline) => {
                    return Tried { outcome: Err(last.unwrap_or(offline)), ambiguous, corrupt };
                }
            };
            // A program waits for these: their time ends a further attempt in its middle too. (Not the first one,
            // which may have to wait for its turn; the client limits that one.)
            let attempt = async {
                let request = sent_by(attempts.latest(), request());
                if is_metadata && attempts.made > 0 {
                    in_time(call.name(), &attempts, request).await
                } else {
                    request.await
                }
            };
            let Some(outcome) = below.unless_lost(call, attempt).await else {
                let offline = below.breaker.offline(call.name());
                return Tried { outcome: Err(offline), ambiguous, corrupt };
            };
            leave.settle(&outcome);
            if is_retry && outcome.as_ref().err().is_none_or(|err| !err.kind.is_retryable()) {
                below.allowance.give_back();
            }
            let err = match outcome {
                Ok(value) => return Tried { outcome: Ok(value), ambiguous, corrupt },
                Err(err) => err,
            };
            let Some(wait) = attempts.wait_after(&err, random::unit()) else {
                return Tried { outcome: Err(err), ambiguous, corrupt };
            };
            // A throttled request was turned away at the door; after any other fault it may have got in.
            ambiguous |= err.kind != ErrorKind::Throttled;
            corrupt |= err.kind == ErrorKind::Corrupt;
            below.meter.count_retry();
            log::debug!("{err}; trying again in {wait:?}");
            last = Some(err);
            waiting(call, clock::sleep(wait)).await;
        }
    }

    /// An object that has our mark, but perhaps not our bytes, does not prove that the write took effect: it is replaced.
    async fn replace_corrupt(
        &self,
        key: &Key,
        body: Summed,
        options: &WriteOptions,
        refused: &StoreError,
    ) -> Result<ETag> {
        let head = self.head(key).await?;
        if options.mark().is_none() || head.mark() != options.mark() {
            return Err(refused.clone());
        }
        let ours = Precondition::Matches(head.etag);
        let call = Call::Put { key, bytes: body.sum.len };
        let send = || self.below().put(key, body.clone(), options, &ours);
        self.run(call, send).await.outcome
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

/// Waits with a request that is not under way.
async fn waiting<F: Future>(call: Call<'_>, wait: F) -> F::Output {
    match call {
        // It may have to be asked what became of it, as of one whose answer was lost.
        Call::Put { .. } | Call::CompleteUpload { .. } => can_end(wait).await,
        _ => wait.await,
    }
}

/// An attempt that the time of its request ends.
async fn in_time<T>(
    operation: &'static str,
    attempts: &Attempts,
    attempt: impl Future<Output = Result<T>>,
) -> Result<T> {
    clock::timeout_at(attempts.end(), attempt).await.unwrap_or_else(|_| {
        let shown = humantime::format_duration(attempts.timeout);
        let message = format!("no answer within {shown}");
        Err(StoreError::new(ErrorKind::Timeout, operation, message))
    })
}

impl<S: Store> Layer for Retry<S> {
    type Below = S;

    fn below(&self) -> &S {
        &self.below.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        self.run(call, send).await.outcome
    }

    async fn pass_get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let call = Call::Get { key, bytes: range.len() };
        let first = self.run(call, || self.below().get(key, range, if_match)).await.outcome?;
        Ok(body::resuming(self.below.clone(), key.clone(), if_match.clone(), first))
    }

    async fn pass_create_upload(&self, key: &Key, options: &WriteOptions) -> Result<Created> {
        let send = || self.below().create_upload(key, options);
        let tried = self.run(Call::CreateUpload, send).await;
        let perhaps_twice = tried.ambiguous;
        tried.outcome.map(|created| Created { perhaps_twice, ..created })
    }

    async fn pass_put(
        &self,
        key: &Key,
        body: Summed,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        let call = Call::Put { key, bytes: body.sum.len };
        let send = || self.below().put(key, body.clone(), options, precondition);
        let tried = self.run(call, send).await;
        match &tried.outcome {
            Err(err) if tried.corrupt && err.kind == ErrorKind::PreconditionFailed => {
                self.replace_corrupt(key, body, options, err).await
            }
            _ => self.settle(key, tried, &[ErrorKind::PreconditionFailed], options.mark()).await,
        }
    }

    async fn pass_copy(&self, request: &CopyRequest) -> Result<ETag> {
        let call = Call::Copy { source: &request.source, target: &request.target };
        let tried = self.run(call, || self.below().copy(request)).await;
        let mark = request.replace.as_ref().and_then(WriteOptions::mark);
        self.settle(&request.target, tried, &[ErrorKind::PreconditionFailed], mark).await
    }

    /// Refused for its condition, it may have been done by an earlier attempt; or there is nothing to delete.
    async fn pass_delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<()> {
        let send = || self.below().delete(key, if_match);
        match self.run(Call::Delete { key }, send).await.outcome {
            Err(err) if if_match.is_some() && err.kind == ErrorKind::PreconditionFailed => {
                match self.head(key).await {
                    Err(head) if head.kind == ErrorKind::NotFound => Ok(()),
                    // Another version, whichever of the two was first.
                    Ok(_) => Err(err),
                    Err(head) => Err(head),
                }
            }
            outcome => outcome,
        }
    }

    async fn pass_delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let send = || self.below().delete_many(keys);
        let mut outcomes = self.run(Call::DeleteMany { keys }, send).await.outcome?;
        // Keys that failed one by one inside a successful answer.
        for (key, outcome) in keys.iter().zip(&mut outcomes) {
            if outcome.as_ref().is_err_and(|err| err.kind.is_retryable()) {
                *outcome = self.delete(key, None).await;
            }
            if let Err(err) = outcome {
                *outcome = Err(err.clone().of_key(Some(key)));
            }
        }
        Ok(outcomes)
    }
}

#[cfg(test)]
mod tests;
