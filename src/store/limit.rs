//! How much at once and how fast: [`Limits`] holds the limits, [`Limited`] is the wrapper that obeys them.
//!
//! Requests are of four classes, each with its own places, so that none starves behind another: parts
//! going up, parts coming down, listings (a page tells of a thousand names, and must not wait behind the
//! HEADs of the thousand before), and everything else that is small (metadata, small objects, small
//! ranges). A GET keeps its place until its body has ended or is dropped, so the holder of a [`Body`] has to
//! read or drop it.
//!
//! Bandwidth is counted in KiB: the cells of the rate limiter are 32 bits wide. A download is slowed chunk
//! by chunk; a part going up waits for its whole length before it is sent, which is right on average over
//! parts. All limits can be changed while running. Lock order: none is held together with another.

use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::layer::{Call, Layer};
use super::{Body, ETag, ErrorKind, Key, Result, Store, StoreError};
use crate::progress;
use crate::range::ByteRange;

/// Bodies up to this length, in bytes, are small: they take about as long as a round trip.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// Places for small requests, at the least: they cost a server little, and a scan of a directory waits for
/// many of them.
const SMALL_PLACES_MIN: usize = 32;

/// Places that requests take.
type Gate = Arc<Semaphore>;

fn gate(places: usize) -> Gate {
    Arc::new(Semaphore::new(places.max(1)))
}

async fn enter(gate: &Gate, operation: &'static str) -> Result<OwnedSemaphorePermit> {
    progress::any_other(gate.clone().acquire_owned()).await.map_err(|_| {
        // Never closed while a gate lives; said rather than assumed.
        StoreError::new(ErrorKind::Offline, operation, "the store is being closed")
    })
}

/// A rate, or none.
#[derive(Debug, Default)]
struct Pace(ArcSwapOption<DefaultDirectRateLimiter>);

impl Pace {
    fn set(&self, cells_per_second: Option<u64>) {
        let limiter = cells_per_second.map(|cells| {
            let cells = u32::try_from(cells).unwrap_or(u32::MAX);
            let cells = NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN);
            Arc::new(RateLimiter::direct(Quota::per_second(cells)))
        });
        self.0.store(limiter);
    }

    /// Waits until `cells` may pass. More than the limiter holds at once is taken in steps.
    async fn take(&self, cells: u64) {
        let mut left = cells;
        while let Some(now) = NonZeroU32::new(u32::try_from(left).unwrap_or(u32::MAX)) {
            // Looked up at every step: the rate may have been changed meanwhile.
            let Some(limiter) = self.0.load_full() else { return };
            let step = match limiter.until_n_ready(now).await {
                Ok(()) => now,
                Err(_) => {
                    limiter.until_ready().await;
                    NonZeroU32::MIN
                }
            };
            left -= u64::from(step.get());
            // A part may have to wait for hours.
            progress::beat();
        }
    }

    async fn take_bytes(&self, bytes: u64) {
        if self.0.load().is_some() {
            self.take(bytes.div_ceil(1024)).await;
        }
    }
}

/// The limits of one store, adjustable while it is used.
#[derive(Debug)]
pub struct Limits {
    up: Gate,
    down: Gate,
    lists: Gate,
    small: Gate,
    upload: Pace,
    download: Pace,
    requests: Pace,
}

impl Limits {
    /// `concurrency` parts at once in each direction; no other limit.
    pub fn new(concurrency: usize) -> Arc<Limits> {
        Arc::new(Limits {
            up: gate(concurrency),
            down: gate(concurrency),
            lists: gate(concurrency),
            small: gate(small_places(concurrency)),
            upload: Pace::default(),
            download: Pace::default(),
            requests: Pace::default(),
        })
    }

    /// Where a request finds its place.
    fn gate(&self, call: Call<'_>) -> &Gate {
        match call {
            Call::Get { bytes, .. } if bytes > SMALL_BYTES_MAX => &self.down,
            Call::Put { bytes, .. } | Call::UploadPart { bytes } if bytes > SMALL_BYTES_MAX => {
                &self.up
            }
            // The server moves as much as for a part that comes from here, so it is one in its books.
            Call::UploadPartCopy { .. } => &self.up,
            Call::List { .. } => &self.lists,
            _ => &self.small,
        }
    }

    /// Bytes a second going up; below 1 KiB/s it is 1 KiB/s.
    pub fn set_upload_limit(&self, bytes_per_second: Option<u64>) {
        self.upload.set(bytes_per_second.map(|bytes| bytes / 1024));
    }

    /// Bytes a second coming down; below 1 KiB/s it is 1 KiB/s.
    pub fn set_download_limit(&self, bytes_per_second: Option<u64>) {
        self.download.set(bytes_per_second.map(|bytes| bytes / 1024));
    }

    /// Requests a second.
    pub fn set_request_limit(&self, requests_per_second: Option<u32>) {
        self.requests.set(requests_per_second.map(u64::from));
    }
}

fn small_places(concurrency: usize) -> usize {
    (2 * concurrency).max(SMALL_PLACES_MIN)
}

/// A store that keeps to [`Limits`].
pub struct Limited<S> {
    store: S,
    limits: Arc<Limits>,
}

impl<S: Store> Limited<S> {
    pub fn new(store: S, limits: Arc<Limits>) -> Self {
        Limited { store, limits }
    }

    /// Waits for a place, then for the pace.
    async fn enter(&self, call: Call<'_>) -> Result<OwnedSemaphorePermit> {
        let place = enter(self.limits.gate(call), call.name()).await?;
        self.limits.requests.take(1).await;
        self.limits.upload.take_bytes(call.bytes_up()).await;
        Ok(place)
    }
}

impl<S: Store> Layer for Limited<S> {
    type Below = S;

    fn below(&self) -> &S {
        &self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let _place = self.enter(call).await?;
        send().await
    }

    async fn pass_get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let place = self.enter(Call::Get { key, bytes: range.len() }).await?;
        let body = self.store.get(key, range, if_match).await?;
        let limits = self.limits.clone();
        let bytes = body.bytes.then(move |chunk| {
            let limits = limits.clone();
            // Moved in here, the place is freed with the stream.
            let _held = &place;
            async move {
                if let Ok(chunk) = &chunk {
                    limits.download.take_bytes(chunk.len() as u64).await;
                }
                chunk
            }
        });
        Ok(Body { bytes: bytes.boxed(), ..body })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::memory::MemoryStore;
    use super::super::{ListRequest, Precondition, WriteOptions};
    use super::*;
    use crate::clock::{self, Instant};

    const LARGE: usize = SMALL_BYTES_MAX as usize + 1;

    fn limited(concurrency: usize) -> (Limited<MemoryStore>, Arc<Limits>, Key) {
        let store = MemoryStore::new();
        let key = Key::from("k");
        store.insert(&key, vec![1; LARGE].into(), "e");
        let limits = Limits::new(concurrency);
        (Limited::new(store, limits.clone()), limits, key)
    }

    async fn open(store: &Limited<MemoryStore>, key: &Key) -> Result<Body> {
        store.get(key, ByteRange::new(0, LARGE as u64), &ETag::new("e")).await
    }

    /// Whether a request has to wait for a place.
    async fn waits(store: &Limited<MemoryStore>, key: &Key) -> bool {
        clock::timeout(Duration::from_secs(1), open(store, key)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn open_bodies_hold_their_places_and_small_requests_pass_them() {
        let (store, _, key) = limited(2);
        let first = open(&store, &key).await.unwrap();
        let _second = open(&store, &key).await.unwrap();
        assert!(waits(&store, &key).await);
        store.head(&key).await.unwrap();
        store.get(&key, ByteRange::new(0, 4096), &ETag::new("e")).await.unwrap();
        drop(first);
        assert!(!waits(&store, &key).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_passes_everything_small() {
        let (store, _, key) = limited(1);
        let mut bodies = Vec::new();
        for _ in 0..SMALL_PLACES_MIN {
            bodies.push(store.get(&key, ByteRange::new(0, 4096), &ETag::new("e")).await.unwrap());
        }
        let head = store.head(&key);
        assert!(clock::timeout(Duration::from_secs(1), head).await.is_err(), "all taken");
        store.list(&ListRequest::default()).await.unwrap();
    }

    // The rate limiter has its own clock, so this test takes real time.
    #[tokio::test]
    async fn bandwidth_is_held_and_can_be_lifted() {
        let (store, limits, key) = limited(2);
        limits.set_upload_limit(Some(64 << 10));
        let put = async |bytes: usize| {
            let body = Bytes::from(vec![0; bytes]);
            store
                .put(&key, body.into(), &WriteOptions::default(), &Precondition::None)
                .await
                .unwrap();
        };
        let begun = Instant::now();
        // The first second's worth passes at once, the rest at the rate.
        put(64 << 10).await;
        put(32 << 10).await;
        assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
        limits.set_upload_limit(None);
        let begun = Instant::now();
        put(10 << 20).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
