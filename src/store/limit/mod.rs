//! How much at once and how fast: [`Limits`] holds the limits, [`Limited`] is the wrapper that obeys them.
//!
//! Requests are of four classes, each with its own places, so that none starves behind another: parts
//! going up, parts coming down, listings (a page tells of a thousand names, and must not wait behind the
//! HEADs of the thousand before), and everything else that is small (metadata, small objects, small
//! ranges). A GET keeps its place until its body has ended or is dropped, so the holder of a [`Body`] has to
//! read or drop it. Within a class, and for bandwidth, files take turns ([`line`]). Where the store throttles a class has
//! fewer places for a while ([`gate`]).
//!
//! - `line`: whose turn it is; `gate`: so many at once; `bucket`: so much a second;
//! - `calm`: nothing for a while, as the store asks;
//! - `upload`: how the client learns the pace of the body that it sends.
//!
//! Bodies are counted as they move, chunk by chunk, in either direction; heads of requests are not. All rates can be
//! changed while running, and hold at once for what is under way. Lock order: none is held together with another.

use std::sync::Arc;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::layer::{Call, Layer};
use super::{Body, ETag, Key, Result, Store};
use crate::clock::Instant;
use crate::range::ByteRange;

mod bucket;
pub(super) mod calm;
mod gate;
pub(super) mod line;
mod upload;

pub use bucket::Rate;
pub use upload::Upload;

use bucket::Bucket;
use calm::Calm;
use gate::{Gate, Place};
use line::Flow;

/// Bodies up to this length, in bytes, are small: they take about as long as a round trip.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// Places for small requests, at the least: they cost a server little, and a scan of a directory waits for
/// many of them.
const SMALL_PLACES_MIN: usize = 32;

/// What is limited; `None` where it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Bytes going up.
    pub upload: Option<Rate>,
    /// Bytes coming down.
    pub download: Option<Rate>,
    pub requests: Option<Rate>,
}

/// The limits of one store, adjustable while it is used.
pub struct Limits {
    up: Arc<Gate>,
    down: Arc<Gate>,
    lists: Arc<Gate>,
    small: Arc<Gate>,
    /// Small ones that change something: a store that throttles them does not keep the others waiting.
    changes: Arc<Gate>,
    upload: Arc<Bucket>,
    download: Bucket,
    requests: Bucket,
    calm: Arc<Calm>,
}

impl Limits {
    /// `concurrency` parts at once in each direction.
    pub fn new(concurrency: usize, rates: Rates) -> Arc<Limits> {
        Arc::new(Limits {
            up: Gate::new(concurrency),
            down: Gate::new(concurrency),
            lists: Gate::new(concurrency),
            small: Gate::new(small_places(concurrency)),
            changes: Gate::new(small_places(concurrency)),
            upload: Arc::new(Bucket::new(rates.upload)),
            download: Bucket::new(rates.download),
            requests: Bucket::new(rates.requests),
            calm: Arc::default(),
        })
    }

    /// What the store asks of all requests.
    pub(super) fn calm(&self) -> Arc<Calm> {
        self.calm.clone()
    }

    /// Where a request finds its place.
    fn gate(&self, call: Call<'_>) -> &Arc<Gate> {
        match call {
            Call::Get { bytes, .. } if bytes > SMALL_BYTES_MAX => &self.down,
            Call::Put { bytes, .. } | Call::UploadPart { bytes, .. } if bytes > SMALL_BYTES_MAX => {
                &self.up
            }
            // The server moves as much as for a part that comes from here, so it is one in its books.
            Call::UploadPartCopy { .. } => &self.up,
            Call::List { .. } | Call::ListVersions { .. } => &self.lists,
            _ if call.is_change() => &self.changes,
            _ => &self.small,
        }
    }

    /// From now on, also for what is under way.
    pub fn set(&self, rates: Rates) {
        self.upload.set(rates.upload);
        self.download.set(rates.download);
        self.requests.set(rates.requests);
    }

    pub fn rates(&self) -> Rates {
        Rates {
            upload: self.upload.rate(),
            download: self.download.rate(),
            requests: self.requests.rate(),
        }
    }
}

/// Whose turn a request takes.
fn flow(call: Call<'_>) -> Flow {
    match call {
        Call::UploadPartCopy { source } => Flow::of(source),
        // What has none is small.
        _ => call.key().map_or_else(Flow::default, Flow::of),
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
    async fn enter(&self, call: Call<'_>, flow: Flow) -> Place {
        let place = self.limits.gate(call).enter(flow).await;
        self.limits.requests.take(flow, 1).await;
        self.limits.calm.wait_in_place(call.into()).await;
        place
    }
}

impl<S> Limited<S> {
    /// How a request went that was sent from its place at `begun`.
    fn note<T>(&self, call: Call<'_>, place: &Place, begun: Instant, outcome: &Result<T>) {
        place.note(begun, outcome);
        self.limits.calm.note(call.into(), begun, outcome);
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
        let flow = flow(call);
        let place = self.enter(call, flow).await;
        let begun = Instant::now();
        let outcome = Upload::new(&self.limits.upload, flow).of(send()).await;
        self.note(call, &place, begun, &outcome);
        outcome
    }

    async fn pass_get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let flow = Flow::of(key);
        let call = Call::Get { key, bytes: range.len() };
        let place = self.enter(call, flow).await;
        let begun = Instant::now();
        let body = self.store.get(key, range, if_match).await;
        self.note(call, &place, begun, &body);
        let body = body?;
        let limits = self.limits.clone();
        let bytes = body.bytes.then(move |chunk| {
            let limits = limits.clone();
            // Moved in here, the place is freed with the stream.
            let _held = &place;
            async move {
                if let Ok(chunk) = &chunk {
                    limits.download.take(flow, chunk.len() as u64).await;
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

    use super::super::ListRequest;
    use super::super::memory::MemoryStore;
    use super::*;
    use crate::clock;

    const LARGE: usize = SMALL_BYTES_MAX as usize + 1;

    fn limited(concurrency: usize) -> (Limited<MemoryStore>, Arc<Limits>, Key) {
        let store = MemoryStore::new();
        let key = Key::from("k");
        store.insert(&key, vec![1; LARGE].into(), "e");
        let limits = Limits::new(concurrency, Rates::default());
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

    #[tokio::test(start_paused = true)]
    async fn a_file_finds_a_place_in_turn_with_one_that_has_many_waiting() {
        let (store, _, key) = limited(1);
        let store = Arc::new(store);
        let small = Key::from("small");
        store.store.insert(&small, vec![1; LARGE].into(), "e");
        let held = open(&store, &key).await.unwrap();
        let mut parts = Vec::new();
        for _ in 0..64 {
            let (store, key) = (store.clone(), key.clone());
            parts.push(tokio::spawn(async move {
                let body = open(&store, &key).await.unwrap();
                clock::sleep(Duration::from_secs(1)).await;
                drop(body);
            }));
        }
        clock::sleep(Duration::from_secs(1)).await;
        drop(held);
        let begun = Instant::now();
        open(&store, &small).await.unwrap();
        assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
        parts.iter().for_each(|part| part.abort());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_down_is_slowed_and_freed_on_the_way() {
        let (store, limits, key) = limited(2);
        limits.set(Rates { download: Some(Rate::new(64 << 10, None)), ..Rates::default() });
        let begun = Instant::now();
        let read = async |body: Body| body.bytes.for_each(|_| async {}).await;
        read(open(&store, &key).await.unwrap()).await;
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(3800) && took < Duration::from_millis(4200),
            "{took:?}"
        );
        let slow = Rates { download: Some(Rate::new(1, None)), ..Rates::default() };
        limits.set(slow);
        assert_eq!(limits.rates(), slow);
        let begun = Instant::now();
        let lift = async {
            clock::sleep(Duration::from_secs(1)).await;
            limits.set(Rates::default());
        };
        tokio::join!(async { read(open(&store, &key).await.unwrap()).await }, lift);
        assert_eq!(begun.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_limited_each_by_itself() {
        let (store, limits, key) = limited(2);
        limits.set(Rates { requests: Some(Rate::new(10, Some(5))), ..Rates::default() });
        let begun = Instant::now();
        for _ in 0..5 {
            store.head(&key).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "the burst");
        for _ in 0..10 {
            store.head(&key).await.unwrap();
        }
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(950) && took < Duration::from_millis(1050),
            "{took:?}"
        );
    }
}
