//! The body of a GET that outlives its connections.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};

use super::{Attempts, Below};
use crate::clock::{self, Instant};
use crate::random;
use crate::range::ByteRange;
use crate::store::layer::Call;
use crate::store::limit::calm::sent_by;
use crate::store::{Body, ETag, ErrorKind, Key, Result, Store, StoreError};

/// Where the stream stands. Invariant: the bytes before `left.start()` were yielded, each once.
struct Flow<S> {
    below: Arc<Below<S>>,
    key: Key,
    etag: ETag,
    left: ByteRange,
    /// The connection at hand; `None` between two.
    current: Option<BoxStream<'static, Result<Bytes>>>,
    attempts: Attempts,
    /// The connection at hand was taken from the allowance, and nothing has come of it yet.
    is_retry: bool,
}

/// `first`, whose stream goes on with a new GET from the byte reached when its connection fails.
pub(super) fn resuming<S: Store>(below: Arc<Below<S>>, key: Key, etag: ETag, first: Body) -> Body {
    let Body { range, head, md5, request_id, bytes } = first;
    let attempts = Attempts::new(below.policy, below.policy.timeout);
    let flow =
        Flow { below, key, etag, left: range, current: Some(bytes), attempts, is_retry: false };
    let bytes = stream::try_unfold(flow, |mut flow| async move {
        Ok(flow.next().await?.map(|chunk| (chunk, flow)))
    });
    Body { range, head, md5, request_id, bytes: bytes.boxed() }
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
                    self.below.breaker.hear();
                    if std::mem::take(&mut self.is_retry) {
                        self.below.allowance.give_back();
                    }
                    self.attempts = Attempts::new(self.below.policy, self.below.policy.timeout);
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
            None => self.connect().await?,
        };
        let begun = Instant::now();
        let chunk = current.next().await.unwrap_or_else(|| {
            // The trait promises that this does not happen; a chunkless end must not loop for ever.
            Err(StoreError::new(ErrorKind::Transient, "GetObject", "the body ended too early"))
        });
        if chunk.is_err() {
            // A body that breaks off is a failed attempt as well.
            self.below.breaker.leave_since(begun).settle(&chunk);
        }
        self.current = Some(current);
        chunk
    }

    /// Asks for what is left.
    async fn connect(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let call = Call::Get { key: &self.key, bytes: self.left.len() };
        self.is_retry = self.below.turn(call, &self.attempts).await;
        let leave = self.below.admit(call, &self.attempts).await?;
        let get = self.below.store.get(&self.key, self.left, &self.etag);
        let get = sent_by(self.attempts.latest(), get);
        let Some(body) = self.below.unless_lost(call, get).await else {
            return Err(self.below.breaker.offline(call.name()));
        };
        leave.settle(&body);
        Ok(body?.bytes)
    }

    async fn wait_after(&mut self, err: StoreError) -> Result<()> {
        let Some(wait) = self.attempts.wait_after(&err, random::unit()) else {
            return Err(err.of_key(Some(&self.key)));
        };
        self.below.meter.count_retry();
        log::debug!("{err}; going on from byte {} in {wait:?}", self.left.start());
        clock::sleep(wait).await;
        Ok(())
    }
}
