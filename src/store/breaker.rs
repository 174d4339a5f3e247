//! The circuit breaker: during an outage requests fail at once instead of each waiting out its retries.
//!
//! It sits outside the retries, so that it counts requests that were given up, not single attempts: a blip
//! that retrying gets over never opens it. Open, it answers `Offline`; after a pause a few requests are let
//! through to try, and the first outcome closes the breaker or opens it for twice as long. A few and not
//! one: an operation that sends two requests side by side gives up both when one of them is refused, so
//! that one alone would never come to an outcome.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Body, Capabilities, CopyRequest, ETag, ErrorKind, Key, ListPage, ListRequest, ListedUpload,
    ObjectHead, PartBody, Precondition, Result, Store, StoreError, StoredPart, UploadId,
    WriteOptions,
};
use crate::range::ByteRange;

/// Given-up requests in a row that open the breaker. One may be bad luck on one connection.
const FAILURES_MAX: u32 = 3;
/// How long it stays open at first, and at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
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

/// A store that fails fast while it does not answer.
pub struct Breaker<S> {
    store: S,
    state: Arc<Mutex<State>>,
}

/// Whether a breaker is open, for those who want to know.
#[derive(Clone)]
pub struct Outage {
    state: Arc<Mutex<State>>,
}

impl Default for Outage {
    /// Of a store without a breaker: never.
    fn default() -> Self {
        Outage { state: Arc::new(Mutex::new(State::Closed { failures: 0 })) }
    }
}

impl Outage {
    /// The store has not answered for a while, and has not answered again yet.
    pub fn is_on(&self) -> bool {
        !matches!(*self.state.lock(), State::Closed { .. })
    }
}

/// The leave to send one request. Dropped without an outcome (the caller went away), it frees the place of
/// a trying request for another one.
struct Leave {
    state: Arc<Mutex<State>>,
    settled: bool,
}

impl Leave {
    fn settle<T>(&mut self, outcome: &Result<T>) {
        self.settled = true;
        let fault = matches!(outcome, Err(err)
            if matches!(err.kind, ErrorKind::Transient | ErrorKind::Timeout));
        let mut state = self.state.lock();
        let open = |pause: Duration| State::Open { until: Instant::now() + pause, pause };
        *state = match (&*state, fault) {
            (_, false) => State::Closed { failures: 0 },
            (State::Closed { failures }, true) if failures + 1 < FAILURES_MAX => {
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
        let mut state = self.state.lock();
        if let State::Trying { out, pause } = *state {
            *state = match out.saturating_sub(1) {
                0 => State::Open { until: Instant::now(), pause },
                out => State::Trying { out, pause },
            };
        }
    }
}

impl<S: Store> Breaker<S> {
    pub fn new(store: S) -> Self {
        Breaker { store, state: Arc::new(Mutex::new(State::Closed { failures: 0 })) }
    }

    pub fn outage(&self) -> Outage {
        Outage { state: self.state.clone() }
    }

    fn enter(&self, operation: &'static str) -> Result<Leave> {
        let mut state = self.state.lock();
        match *state {
            State::Closed { .. } => {}
            State::Open { until, pause } if Instant::now() >= until => {
                *state = State::Trying { out: 1, pause };
            }
            State::Trying { out, pause } if out < TRIES_MAX => {
                *state = State::Trying { out: out + 1, pause };
            }
            State::Open { .. } | State::Trying { .. } => {
                return Err(StoreError::new(
                    ErrorKind::Offline,
                    operation,
                    "the store has not answered for a while",
                ));
            }
        }
        Ok(Leave { state: self.state.clone(), settled: false })
    }

    async fn pass<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut leave = self.enter(operation)?;
        let outcome = request.await;
        leave.settle(&outcome);
        outcome
    }
}

#[async_trait]
impl<S: Store> Store for Breaker<S> {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let body = self.pass("GetObject", self.store.get(key, range, if_match)).await?;
        // A body that breaks off for good counts as well; its good chunks say nothing new.
        let state = self.state.clone();
        let bytes = body.bytes.inspect(move |chunk| {
            if chunk.is_err() {
                Leave { state: state.clone(), settled: false }.settle(chunk);
            }
        });
        Ok(Body { bytes: bytes.boxed(), ..body })
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.pass("HeadObject", self.store.head(key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.pass("ListObjectsV2", self.store.list(request)).await
    }

    async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        self.pass("PutObject", self.store.put(key, body, options, precondition)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.pass("DeleteObject", self.store.delete(key)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        self.pass("DeleteObjects", self.store.delete_many(keys)).await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ETag> {
        self.pass("CopyObject", self.store.copy(request)).await
    }

    async fn create_upload(&self, key: &Key, options: &WriteOptions) -> Result<UploadId> {
        self.pass("CreateMultipartUpload", self.store.create_upload(key, options)).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        body: PartBody,
    ) -> Result<ETag> {
        self.pass("UploadPart", self.store.upload_part(key, upload_id, number, body)).await
    }

    async fn upload_part_copy(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        source: &Key,
        source_etag: &ETag,
        range: ByteRange,
    ) -> Result<ETag> {
        let request =
            self.store.upload_part_copy(key, upload_id, number, source, source_etag, range);
        self.pass("UploadPartCopy", request).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload_id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
    ) -> Result<ETag> {
        let request = self.store.complete_upload(key, upload_id, parts, precondition);
        self.pass("CompleteMultipartUpload", request).await
    }

    async fn abort_upload(&self, key: &Key, upload_id: &UploadId) -> Result<()> {
        self.pass("AbortMultipartUpload", self.store.abort_upload(key, upload_id)).await
    }

    async fn list_parts(&self, key: &Key, upload_id: &UploadId) -> Result<Vec<StoredPart>> {
        self.pass("ListParts", self.store.list_parts(key, upload_id)).await
    }

    async fn list_uploads(&self, prefix: &Key) -> Result<Vec<ListedUpload>> {
        self.pass("ListMultipartUploads", self.store.list_uploads(prefix)).await
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
        let breaker = Breaker::new(store.clone());
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
    async fn answers_that_refuse_do_not_open_it() {
        let store = Scripted::new();
        let breaker = Breaker::new(store.clone());
        store.fail_next(10, ErrorKind::Denied);
        for _ in 0..10 {
            assert_eq!(breaker.delete(&key()).await.unwrap_err().kind, ErrorKind::Denied);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_try_frees_its_place() {
        let store = Scripted::new();
        let breaker = Breaker::new(store.clone());
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
        let breaker = Breaker::new(store.clone());
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
