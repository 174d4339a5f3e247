//! How often and how long one request is tried, and what the requests of a store share.

use std::sync::Arc;
use std::time::Duration;

use super::allowance::Allowance;
use crate::clock::{FOR_EVER, Instant};
use crate::store::breaker::{Breaker, Leave, OnOutage, Patience, is_looking};
use crate::store::layer::Call;
use crate::store::limit::calm::Calm;
use crate::store::limit::line::Flow;
use crate::store::meter::Meter;
use crate::store::{ErrorKind, Key, Result, Store, StoreError};

/// How long, how often and how hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts of one request, the first included; at least 1 is made. `None`: as many as the time allows.
    pub attempts_max: Option<u32>,
    /// No new attempt begins this long after the first one began (for a GET: after its last byte came).
    pub timeout: Duration,
    /// The same of HEAD and LIST: programs that look around are not held up as long as those that copy.
    pub metadata_timeout: Duration,
    /// The longest wait before the second attempt; it doubles with each further one.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub on_outage: OnOutage,
}

/// Work that is tried again by itself gives a request up after so long.
pub(super) const IMPATIENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Work that takes a place from others gives a request up when it has failed so often, or where it would have to wait for
/// longer than this before it is sent again.
const FAILURES_MAX: u32 = 3;
const WAIT_MAX: Duration = Duration::from_millis(500);

/// How patient the work is that asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Temper {
    /// 15 s, and none in an outage.
    Impatient,
    /// No more than it takes to see that the store does not take it now.
    GivesWay,
}

tokio::task_local! {
    static TEMPER: Temper;
}

/// Runs work that is done again later if it fails, and that holds others up meanwhile: its requests are given up after
/// 15 s, and at once in an outage.
pub async fn impatient<F: Future>(work: F) -> F::Output {
    TEMPER.scope(Temper::Impatient, work).await
}

/// Likewise work that has one of few places: it gives way to the others as soon as the store is seen not to take what it
/// brings. When it is done again is its caller's to say.
pub async fn giving_way<F: Future>(work: F) -> F::Output {
    TEMPER.scope(Temper::GivesWay, work).await
}

/// HEAD and LIST are not tried for longer.
const METADATA_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// An answer that contradicts itself does so once, if bits turned on the wire, or each time: that is not waited out.
pub(super) const CORRUPT_MAX: u32 = 4;
/// The last attempt begins so long before the time is over.
pub(super) const LAST_ATTEMPT: Duration = Duration::from_secs(5);

impl RetryPolicy {
    /// What waits for ever waits so for names and attributes too: an error would end the work that is to go on.
    pub fn within(timeout: Duration) -> RetryPolicy {
        let is_endless = timeout >= FOR_EVER;
        RetryPolicy {
            attempts_max: None,
            timeout,
            metadata_timeout: if is_endless { timeout } else { timeout.min(METADATA_TIMEOUT_MAX) },
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            on_outage: OnOutage::default(),
        }
    }
}

impl RetryPolicy {
    /// Whether a request of the work that is being done waits for an outage to end.
    fn waits(&self, call: Call<'_>) -> bool {
        match self.on_outage {
            OnOutage::Wait => true,
            OnOutage::Fail => false,
            // Work that looks may have to publish what it looks at.
            OnOutage::ServeStale => !(is_looking() && call.is_quick()),
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy::within(Duration::from_secs(300))
    }
}

/// Where one request stands with its attempts.
#[derive(Clone, Copy)]
pub(super) struct Attempts {
    pub policy: RetryPolicy,
    pub timeout: Duration,
    /// How old an outage may be that is waited out.
    outage_max: Duration,
    pub made: u32,
    corrupt: u32,
    begun: Instant,
    gives_way: bool,
}

impl Attempts {
    pub fn new(policy: RetryPolicy, timeout: Duration) -> Self {
        let temper = TEMPER.try_with(|temper| *temper).ok();
        let (timeout, outage_max) = match temper {
            Some(_) => (timeout.min(IMPATIENT_TIMEOUT), Duration::ZERO),
            None => (timeout, timeout),
        };
        let gives_way = temper == Some(Temper::GivesWay);
        let begun = Instant::now();
        Attempts { policy, timeout, outage_max, made: 0, corrupt: 0, begun, gives_way }
    }

    pub fn end(&self) -> Instant {
        self.begun + self.timeout
    }

    /// When the last attempt begins at the latest: an outage may end in its last moment.
    pub fn latest(&self) -> Instant {
        self.begun + (self.timeout - LAST_ATTEMPT.min(self.timeout / 4))
    }

    /// How long an attempt may be held back in an outage.
    fn patience(&self, call: Call<'_>) -> Patience {
        let left = self.policy.attempts_max.map(|most| most.saturating_sub(self.made).max(1));
        Patience {
            until: self.end(),
            outage_max: self.outage_max,
            probes_max: left.map_or(u64::MAX, u64::from),
            is_none: !self.policy.waits(call),
        }
    }

    /// After a failed attempt: how long to wait before the next one, `None` to give up. `random` lies in
    /// 0.0..1.0.
    pub fn wait_after(&mut self, err: &StoreError, random: f64) -> Option<Duration> {
        self.made += 1;
        self.corrupt += u32::from(err.kind == ErrorKind::Corrupt);
        let spent = self.policy.attempts_max.is_some_and(|most| self.made >= most);
        let gives_way = self.gives_way && self.made >= FAILURES_MAX;
        if !err.kind.is_retryable() || spent || gives_way || self.corrupt >= CORRUPT_MAX {
            return None;
        }
        let doubled = 2_u32.saturating_pow(self.made - 1);
        let ceiling = self.policy.backoff_min.saturating_mul(doubled).min(self.policy.backoff_max);
        // Full jitter: clients that failed together do not come back together.
        let wait = ceiling.mul_f64(random).max(err.retry_after.unwrap_or_default());
        if self.gives_way && wait > WAIT_MAX {
            return None;
        }
        let left = self.latest().saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| wait.min(left))
    }
}

/// What the requests of a store share, and the bodies that they leave behind.
pub(super) struct Below<S> {
    pub store: S,
    pub policy: RetryPolicy,
    pub meter: Arc<Meter>,
    pub breaker: Breaker,
    pub allowance: Allowance,
    calm: Arc<Calm>,
}

/// A HEAD of this name is what asks a store whether it is back: any answer will do, "there is none" as well.
const PROBE_KEY: &str = ".ratchetfs-probe";

impl<S: Store> Below<S> {
    pub fn new(store: S, policy: RetryPolicy, meter: Arc<Meter>, calm: Arc<Calm>) -> Self {
        let breaker = Breaker::new(policy.metadata_timeout, policy.on_outage);
        let allowance = Allowance::new();
        Below { store, policy, meter, breaker, allowance, calm }
    }

    /// Waits until the next attempt of a request is one that the mount may send. Whether it was taken from the
    /// allowance: it is a further one.
    pub async fn turn(&self, call: Call<'_>, attempts: &Attempts) -> bool {
        let flow = || call.key().map_or_else(Flow::default, Flow::of);
        let is_retry = if attempts.made == 0 {
            self.allowance.earn();
            false
        } else {
            self.allowance.take(flow(), attempts.latest()).await
        };
        self.calm.wait(call.into(), attempts.latest()).await;
        is_retry
    }

    /// The leave to send the next attempt of a request; waits for it in an outage.
    pub async fn admit(&self, call: Call<'_>, attempts: &Attempts) -> Result<Leave> {
        let key = Key::from(PROBE_KEY);
        let probe = || self.store.head(&key);
        self.breaker.admit(call.name(), call.is_quick(), attempts.patience(call), probe).await
    }

    /// What an attempt brings; `None` where it is not waited for any more, since the breaker is open.
    pub async fn unless_lost<T>(
        &self,
        call: Call<'_>,
        attempt: impl Future<Output = Result<T>>,
    ) -> Option<Result<T>> {
        if self.policy.on_outage == OnOutage::Wait || !call.is_quick() {
            return Some(attempt.await);
        }
        let key = Key::from(PROBE_KEY);
        tokio::pin!(attempt);
        tokio::select! {
            biased;
            outcome = &mut attempt => return Some(outcome),
            () = self.breaker.lost(Instant::now(), || self.store.head(&key)) => {}
        }
        // Work that waits for it waits to its end.
        if self.policy.waits(call) { Some(attempt.await) } else { None }
    }

    /// A step of the task that probes where requests do not.
    pub async fn probe_if_due(&self) {
        let key = Key::from(PROBE_KEY);
        self.breaker.probe_if_due(|| self.store.head(&key)).await;
    }
}
