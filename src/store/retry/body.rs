//! The body of a GET that outlives its connections.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};

use super::{Attempts, RetryPolicy};
use crate::range::ByteRange;
use crate::store::meter::Meter;
use crate::store::{Body, ETag, Key, Result, Store, StoreError};

/// What a resuming body needs.
pub struct Resume<S> {
    pub store: Arc<S>,
    pub meter: Arc<Meter>,
    pub policy: RetryPolicy,
    pub key: Key,
    pub etag: ETag,
    /// The answer to the first GET.
    pub first: Body,
}

/// Where the stream stands. Invariant: the bytes before `left.start()` were yielded, each once.
struct Flow<S> {
    store: Arc<S>,
    meter: Arc<Meter>,
    policy: RetryPolicy,
    key: Key,
    etag: ETag,
    left: ByteRange,
    /// The connection at hand; `None` between two.
    current: Option<BoxStream<'static, Result<Bytes>>>,
    attempts: Attempts,
}

/// `first`, whose stream goes on with a new GET from the byte reached when its connection fails.
pub fn resuming<S: Store>(resume: Resume<S>) -> Body {
    let Resume { store, meter, policy, key, etag, first } = resume;
    let Body { range, head, bytes } = first;
    let flow = Flow {
        store,
        meter,
        policy,
        key,
        etag,
        left: range,
        current: Some(bytes),
        attempts: Attempts::new(policy),
    };
    let bytes = stream::try_unfold(flow, |mut flow| async move {
        Ok(flow.next().await?.map(|chunk| (chunk, flow)))
    });
    Body { range, head, bytes: bytes.boxed() }
}

impl<S: Store> Flow<S> {
    /// The next chunk; `None` once all of the range was yielded.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            match self.step().await {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    let reached = self.left.start() + chunk.len() as u64;
                    self.left = ByteRange::new(reached, self.left.end());
                    self.attempts = Attempts::new(self.policy);
                    return Ok(Some(chunk));
                }
                Err(err) => {
                    self.current = None;
                    self.wait_after(err).await?;
                }
            }
        }
        // Polls the connection to its end, so that it can be used again.
        if let Some(mut done) = self.current.take()
            && let Some(chunk) = done.next().await
        {
            chunk?;
        }
        Ok(None)
    }

    /// One chunk of the connection at hand, or of a new one.
    async fn step(&mut self) -> Result<Bytes> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.store.get(&self.key, self.left, &self.etag).await?.bytes,
        };
        let chunk = current.next().await.unwrap_or_else(|| {
            // The trait promises that this does not happen; a chunkless end must not loop for ever.
            let kind = crate::store::ErrorKind::Transient;
            Err(StoreError::new(kind, "GetObject", "the body ended too early"))
        })?;
        self.current = Some(current);
        Ok(chunk)
    }

    async fn wait_after(&mut self, err: StoreError) -> Result<()> {
        let Some(wait) = self.attempts.wait_after(&err, fastrand::f64()) else {
            return Err(err);
        };
        self.meter.count_retry();
        log::debug!("{err}; going on from byte {} in {wait:?}", self.left.start());
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
