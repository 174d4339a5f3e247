//! One open file's reads: decides by [`window`] what to have fetched, and takes the bytes from the cache.
//!
//! Consistency: the object's version is pinned by its [`CachedObject`]. Retries: the store's.
//! Cancellation: dropping the reader drops the transfers that only it wanted. Crash: nothing is kept here.

use std::sync::Arc;

use crate::cache::share::Streaming;
use crate::cache::{CachedObject, Interest, Piece, Urgency};
use crate::clock::Instant;
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::Result;

pub mod window;

use window::{Limits, Window};

/// The windows of all handles that stream from a near store together, and the least of one of several: two GETs that are
/// still long. What is too little to keep it busy for each is enough for all, and fresh memory is dear.
const WINDOWS_BYTES_NEAR: u64 = 32 << 20;
const WINDOW_BYTES_NEAR_MIN: u64 = 4 << 20;

/// Steers the readahead of one open file. Shared by its handles and by the threads that serve them.
pub struct Reader {
    object: Arc<CachedObject>,
    begun: Instant,
    ahead: Mutex<Ahead, rank::Reader>,
}

#[derive(Default)]
struct Ahead {
    window: Window,
    /// Keeps the transfers going that the window reaches for.
    held: Vec<Interest>,
    /// Counts this handle among those that share the memory, once it streams.
    streaming: Option<Arc<Streaming>>,
}

impl Reader {
    pub fn new(object: Arc<CachedObject>) -> Self {
        Reader { object, begun: Instant::now(), ahead: Mutex::default() }
    }

    pub fn object(&self) -> &Arc<CachedObject> {
        &self.object
    }

    /// Up to `len` bytes from `offset` (fewer only at the object's end), where they can be had without
    /// waiting for the store; reads on ahead. `None` means: call [`Self::read`].
    pub fn read_now(&self, offset: u64, len: u64) -> Option<Piece> {
        let range = self.clamp(offset, len);
        let piece = self.object.read_now(range)?;
        self.read_ahead(range, false);
        Some(piece)
    }

    /// Up to `len` bytes from `offset` (fewer only at the object's end). Waits for these bytes only.
    ///
    /// # Errors
    /// As [`CachedObject::read`].
    pub async fn read(&self, offset: u64, len: u64, deadline: Instant) -> Result<Piece> {
        let range = self.clamp(offset, len);
        self.read_ahead(range, true);
        self.object.read(range, deadline).await
    }

    /// Has fetched what the window wants after a read of `range`, and lets go of what it has passed.
    fn read_ahead(&self, range: ByteRange, stalled: bool) {
        if range.is_empty() {
            return;
        }
        let mut ahead = self.ahead.lock();
        let ahead = &mut *ahead;
        let fetch = ahead.window.on_read(range, stalled, self.begun.elapsed(), &self.limits());
        if !fetch.range.is_empty() {
            let (interests, reached) =
                self.object.want(fetch.range, fetch.fetch_bytes, Urgency::Ahead);
            // One that is served from disk takes no memory and counts for none.
            if fetch.is_ahead && !interests.is_empty() {
                let streaming = ahead.streaming.get_or_insert_with(|| self.object.join_shares());
                streaming.active();
            }
            ahead.held.extend(interests);
            if reached < fetch.range.end() {
                ahead.window.fell_short(fetch.range.end(), reached);
            }
        }
        let window = &ahead.window;
        ahead.held.retain(|interest| window.reaches(interest.range()));
    }

    fn limits(&self) -> Limits {
        let fetch_bytes_max = self.object.fetch_bytes_max();
        let store_is_near = self.object.store_is_near();
        let (useful, least) = if store_is_near {
            (WINDOWS_BYTES_NEAR, WINDOW_BYTES_NEAR_MIN)
        } else {
            // Every connection busy, and two more parts so that none waits for the reader's next call. The
            // connections are shared by all handles that stream, so more than that would only wait for its turn.
            let connections = self.object.concurrency() as u64;
            ((connections + 2) * fetch_bytes_max, 2 * fetch_bytes_max)
        };
        let (streams, share) = self.object.window_share();
        let window_bytes_max = (useful / streams).max(least).min(share);
        Limits { object_len: self.object.len(), window_bytes_max, fetch_bytes_max, store_is_near }
    }

    fn clamp(&self, offset: u64, len: u64) -> ByteRange {
        ByteRange::at(offset, len).intersect(&ByteRange::new(0, self.object.len()))
    }
}
