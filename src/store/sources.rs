//! Copies of the version that is meant, and no other: [`Sources`], a wrapper.
//!
//! A copy inside the store names its source's ETag (x-amz-copy-source-if-match), and its answer is believed to be of
//! that version: the bytes that are cached become the copy's, and the source is deleted. A store that does not know
//! that header copies whatever is there. So:
//!
//! | the store | a copy is believed |
//! |---|---|
//! | refuses a condition that cannot hold | as it is |
//! | copies all the same | if the source's ETag is the same before and after it, or the copy's digest is the source's |
//! | is told no condition, since the source's ETag is weak | if the source's ETag is the same before and after it |
//! | was not asked yet | if the copy's digest is the source's; else the store is asked first |
//!
//! It is asked by the copy at hand, under a condition that cannot hold, once a mount: a request that a store which
//! heeds it refuses, and which on another one does what was to be done. Nothing is left behind.
//!
//! Consistency: a copy that cannot be believed is `PreconditionFailed`, as if the store had refused it. One onto
//! itself by a store that copies all the same is only looked at before.
//! Retries: the store's. Cancellation: the store is asked again by the next copy. Crash: nothing is kept.

use std::sync::OnceLock;

use super::layer::{Call, Layer};
use super::retry::settle::proves_equal;
use super::{CopyRequest, ETag, ErrorKind, Key, Result, Store, StoreError, UploadId};
use crate::range::ByteRange;

/// The ETag of nothing.
const IMPOSSIBLE: &str = "00000000000000000000000000000000";

/// A store that copies what was meant.
pub struct Sources<S> {
    store: S,
    /// Whether the store heeds the condition; empty until it was asked.
    heeds: OnceLock<bool>,
    asking: tokio::sync::Mutex<()>,
}

/// One copy, whichever version it is of.
enum Copy<'a> {
    Object(&'a CopyRequest),
    Part { key: &'a Key, upload_id: &'a UploadId, number: u32, source: &'a Key, range: ByteRange },
}

impl Copy<'_> {
    fn source(&self) -> &Key {
        match self {
            Copy::Object(request) => &request.source,
            Copy::Part { source, .. } => source,
        }
    }

    fn is_onto_itself(&self) -> bool {
        matches!(self, Copy::Object(request) if request.source == request.target)
    }

    /// Whether the ETag of the answer may tell that this version was copied.
    fn may_tell(&self, etag: &ETag) -> bool {
        matches!(self, Copy::Object(_)) && !etag.as_str().contains('-')
    }

    async fn send<S: Store>(&self, store: &S, etag: &ETag) -> Result<ETag> {
        match self {
            Copy::Object(request) => {
                let source_etag = Some(etag.clone());
                store.copy(&CopyRequest { source_etag, ..CopyRequest::clone(request) }).await
            }
            Copy::Part { key, upload_id, number, source, range } => {
                store.upload_part_copy(key, upload_id, *number, source, etag, *range).await
            }
        }
    }
}

impl<S: Store> Sources<S> {
    pub fn new(store: S) -> Sources<S> {
        Sources { store, heeds: OnceLock::new(), asking: tokio::sync::Mutex::new(()) }
    }

    async fn copied(&self, copy: Copy<'_>, etag: &ETag) -> Result<ETag> {
        if etag.is_weak() {
            return self.looked_at(&copy, etag).await;
        }
        let mut made = None;
        if self.heeds.get().is_none() && copy.may_tell(etag) {
            let new = copy.send(&self.store, etag).await?;
            if proves_equal(&new, etag) {
                return Ok(new);
            }
            // ETags are no digests here, or another version was copied.
            made = Some(new);
        }
        if self.heeds.get().is_none() {
            let _turn = self.asking.lock().await;
            if self.heeds.get().is_none()
                && let Some(copied) = self.ask(&copy, etag).await?
            {
                return Ok(copied);
            }
        }
        let heeds = self.heeds.get() == Some(&true);
        match made {
            Some(new) if heeds => Ok(new),
            _ if heeds => copy.send(&self.store, etag).await,
            _ => self.looked_at(&copy, etag).await,
        }
    }

    /// A copy by a store that checks no condition.
    async fn looked_at(&self, copy: &Copy<'_>, etag: &ETag) -> Result<ETag> {
        self.is_still(copy.source(), etag).await?;
        let new = copy.send(&self.store, etag).await?;
        self.is_believed(copy, etag, new).await
    }

    /// Finds out whether the store heeds the condition. `Some`: it does not, and has made the copy.
    async fn ask(&self, copy: &Copy<'_>, etag: &ETag) -> Result<Option<ETag>> {
        if copy.is_onto_itself() {
            self.is_still(copy.source(), etag).await?;
        }
        let heeds = |heeds| self.heeds.set(heeds).is_ok();
        match copy.send(&self.store, &ETag::new(IMPOSSIBLE)).await {
            Err(error) if error.kind == ErrorKind::PreconditionFailed => {
                heeds(true);
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(new) => {
                log::warn!(
                    "the store copies any version of an object, whichever is asked for: each copy costs \
                     two requests more"
                );
                heeds(false);
                self.is_believed(copy, etag, new).await.map(Some)
            }
        }
    }

    /// Whether a copy that the store has not checked is of this version.
    async fn is_believed(&self, copy: &Copy<'_>, etag: &ETag, new: ETag) -> Result<ETag> {
        let told = copy.may_tell(etag) && proves_equal(&new, etag);
        if !told && !copy.is_onto_itself() {
            self.is_still(copy.source(), etag).await?;
        }
        Ok(new)
    }

    async fn is_still(&self, source: &Key, etag: &ETag) -> Result<()> {
        let head = self.store.head(source).await?;
        if head.etag == *etag {
            return Ok(());
        }
        let message = format!("{source} is another version: {} for {etag}", head.etag);
        Err(StoreError::new(ErrorKind::PreconditionFailed, "CopyObject", message))
    }
}

impl<S: Store> Layer for Sources<S> {
    type Below = S;

    fn below(&self) -> &S {
        &self.store
    }

    async fn pass<T, F>(&self, _: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        send().await
    }

    async fn pass_copy(&self, request: &CopyRequest) -> Result<ETag> {
        match &request.source_etag {
            Some(etag) => self.copied(Copy::Object(request), etag).await,
            None => self.store.copy(request).await,
        }
    }

    async fn pass_upload_part_copy(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        source: &Key,
        source_etag: &ETag,
        range: ByteRange,
    ) -> Result<ETag> {
        self.copied(Copy::Part { key, upload_id, number, source, range }, source_etag).await
    }
}
