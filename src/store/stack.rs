//! Puts the wrappers on a client, in the one order that works:
//! sources (asks whether a copy was of what was meant) over emptied (waits for minutes, without holding anything) over
//! retry (waits, for the breaker too, without holding a place) over limits over hedge (knows how long an answer takes,
//! without the time spent waiting for a place) over meter (counts every attempt) over the client.

use std::sync::Arc;
use std::time::Duration;

use super::breaker::{OnOutage, Outage};
use super::emptied::Emptied;
use super::hedge::Hedged;
use super::limit::{Limited, Limits, Rates};
use super::meter::{Meter, Metered};
use super::retry::{Retry, RetryPolicy};
use super::sources::Sources;
use super::{SharedStore, Store};
use crate::without::Heuristic;

/// How a store's requests are limited and retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferSettings {
    /// Parts in flight at once, in each direction.
    pub concurrency: usize,
    pub rates: Rates,
    /// Attempts of one request, the first included; as many as the time allows where `None`.
    pub max_attempts: Option<u32>,
    /// No new attempt begins once this has passed; for HEAD and LIST after a minute at most, unless it has no end.
    pub timeout: Duration,
    pub on_outage: OnOutage,
}

impl Default for TransferSettings {
    fn default() -> Self {
        let policy = RetryPolicy::default();
        TransferSettings {
            concurrency: 16,
            rates: Rates::default(),
            max_attempts: policy.attempts_max,
            timeout: policy.timeout,
            on_outage: policy.on_outage,
        }
    }
}

/// A store ready for use, with the handles to watch and adjust it.
pub struct Stack {
    pub store: SharedStore,
    pub meter: Arc<Meter>,
    pub outage: Outage,
    pub limits: Arc<Limits>,
}

/// A client with all its wrappers. Needs a runtime unless outages are waited for.
pub fn stack(client: impl Store, settings: &TransferSettings) -> Stack {
    let meter = Arc::new(Meter::default());
    let limits = Limits::new(settings.concurrency, settings.rates);
    let policy = RetryPolicy {
        attempts_max: settings.max_attempts,
        on_outage: settings.on_outage,
        ..RetryPolicy::within(settings.timeout)
    };
    let hedging = Heuristic::Hedging.is_on().then(|| limits.clone());
    let hedged = Hedged::new(Metered::new(client, meter.clone()), meter.clone(), hedging);
    let limited = Limited::new(hedged, limits.clone());
    let retry = Retry::new(limited, policy, meter.clone(), limits.calm());
    let outage = retry.outage();
    let store = Arc::new(Sources::new(Emptied::new(retry)));
    Stack { store, meter, outage, limits }
}

/// A store that needs no wrapper, since it sends nothing.
pub fn unwrapped(store: impl Store) -> Stack {
    let (outage, limits) = (Outage::default(), Limits::new(1, Rates::default()));
    Stack { store: Arc::new(store), meter: Arc::default(), outage, limits }
}

/// [`stack`] for callers that adjust nothing.
pub fn build(client: impl Store, settings: &TransferSettings) -> (SharedStore, Arc<Meter>) {
    let stack = stack(client, settings);
    (stack.store, stack.meter)
}
