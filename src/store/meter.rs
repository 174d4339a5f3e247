//! Counts what goes over the wire: [`Meter`] holds the counters, [`Metered`] is the wrapper that feeds them.
//!
//! Every attempt counts, so that retries are seen as requests; a listing of several pages counts once.
//! A snapshot is not taken at one instant, but each of its numbers is exact.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::first_byte::FirstByte;
use super::layer::{Call, Layer};
use super::{Body, ETag, Key, Result, Store, StoreError};
use crate::clock::Instant;
use crate::lock::{Mutex, rank};
use crate::progress;
use crate::range::ByteRange;
use crate::seam;

/// How often one operation was used.
#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    errors: u64,
}

/// The counters of one store since the mount began.
#[derive(Debug, Default)]
pub struct Meter {
    /// By what S3 calls the operation.
    counts: Mutex<BTreeMap<&'static str, Counts>, rank::Meter>,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    last_error: Mutex<Option<String>, rank::LastError>,
    first_byte: FirstByte,
}

/// What a [`Meter`] says, for `status` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Requests sent, by S3 operation; those never used are left out.
    pub requests: BTreeMap<String, u64>,
    pub errors: BTreeMap<String, u64>,
    /// Bytes of bodies accepted by the store.
    pub bytes_up: u64,
    /// Bytes of bodies received.
    pub bytes_down: u64,
    pub retries: u64,
    /// Requests that were sent a second time because the first was slow to be answered.
    pub hedges: u64,
    pub last_error: Option<String>,
}

impl Meter {
    pub fn snapshot(&self) -> Snapshot {
        let counts = self.counts.lock();
        let table = |count: fn(&Counts) -> u64| {
            let counted = counts.iter().map(|(name, counts)| ((*name).to_owned(), count(counts)));
            counted.filter(|(_, count)| *count > 0).collect()
        };
        Snapshot {
            requests: table(|counts| counts.requests),
            errors: table(|counts| counts.errors),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            hedges: self.hedges.load(Ordering::Relaxed),
            last_error: self.last_error.lock().clone(),
        }
    }

    pub(super) fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_hedge(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    fn count_error(&self, operation: &'static str, err: &StoreError) {
        self.counts.lock().entry(operation).or_default().errors += 1;
        *self.last_error.lock() = Some(err.to_string());
    }

    /// How far away the store is.
    pub fn first_byte(&self) -> &FirstByte {
        &self.first_byte
    }
}

/// A store whose requests are counted.
pub struct Metered<S> {
    store: S,
    meter: Arc<Meter>,
}

impl<S: Store> Metered<S> {
    pub fn new(store: S, meter: Arc<Meter>) -> Self {
        Metered { store, meter }
    }
}

impl<S: Store> Layer for Metered<S> {
    type Below = S;

    fn below(&self) -> &S {
        &self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let meter = &self.meter;
        meter.counts.lock().entry(call.name()).or_default().requests += 1;
        let asked = Instant::now();
        let outcome = {
            let _asked = progress::asked();
            seam::pass(call.name()).await;
            let answer = send().await;
            seam::pass_at(call.name(), || "answered".to_owned()).await;
            answer
        };
        match &outcome {
            Ok(_) => {
                progress::beat();
                if call.is_quick() {
                    meter.first_byte.took(asked.elapsed());
                }
                meter.bytes_up.fetch_add(call.bytes_up(), Ordering::Relaxed);
            }
            Err(err) => meter.count_error(call.name(), err),
        }
        outcome
    }

    async fn pass_get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let call = Call::Get { key, bytes: range.len() };
        let body = self.pass(call, || self.store.get(key, range, if_match)).await?;
        let (meter, name) = (self.meter.clone(), call.name());
        let bytes = body.bytes.inspect(move |chunk| match chunk {
            Ok(chunk) => {
                progress::beat();
                meter.bytes_down.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            Err(err) => meter.count_error(name, err),
        });
        Ok(Body { bytes: bytes.boxed(), ..body })
    }
}
