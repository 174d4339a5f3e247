//! Counts what goes over the wire: [`Meter`] holds the counters, [`Metered`] is the wrapper that feeds them.
//!
//! Every attempt counts, so that retries are seen as requests; a listing of several pages counts once.
//! Plain atomics: a snapshot is not taken at one instant, each of its numbers is exact.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::first_byte::FirstByte;
use super::{
    Body, Capabilities, CopyRequest, ETag, Key, ListPage, ListRequest, ListedUpload, ObjectHead,
    PartBody, Precondition, Result, Store, StoreError, StoredPart, UploadId, WriteOptions,
};
use crate::range::ByteRange;

/// The operations of the trait, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Get,
    Head,
    List,
    Put,
    Delete,
    DeleteMany,
    Copy,
    CreateUpload,
    UploadPart,
    UploadPartCopy,
    CompleteUpload,
    AbortUpload,
    ListParts,
    ListUploads,
}

/// As S3 calls them.
const NAMES: [&str; 14] = [
    "GetObject",
    "HeadObject",
    "ListObjectsV2",
    "PutObject",
    "DeleteObject",
    "DeleteObjects",
    "CopyObject",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "ListParts",
    "ListMultipartUploads",
];

/// The counters of one store since the mount began.
#[derive(Debug, Default)]
pub struct Meter {
    requests: [AtomicU64; NAMES.len()],
    errors: [AtomicU64; NAMES.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    last_error: Mutex<Option<String>>,
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
        let table = |counters: &[AtomicU64]| {
            let read = counters.iter().map(|counter| counter.load(Ordering::Relaxed));
            NAMES
                .iter()
                .zip(read)
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| ((*name).to_owned(), count))
                .collect()
        };
        Snapshot {
            requests: table(&self.requests),
            errors: table(&self.errors),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            hedges: self.hedges.load(Ordering::Relaxed),
            last_error: self.last_error.lock().clone(),
        }
    }

    /// Requests of one operation so far.
    pub fn requests(&self, operation: Operation) -> u64 {
        self.requests[operation as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_hedge(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    fn count_error(&self, operation: Operation, err: &StoreError) {
        self.errors[operation as usize].fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock() = Some(err.to_string());
    }

    /// Counts a request that moves `bytes_up`, which count only where it succeeds.
    /// How far away the store is.
    pub fn first_byte(&self) -> &FirstByte {
        &self.first_byte
    }

    async fn watch<T>(
        &self,
        operation: Operation,
        bytes_up: u64,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.requests[operation as usize].fetch_add(1, Ordering::Relaxed);
        let asked = Instant::now();
        let outcome = request.await;
        match &outcome {
            Ok(_) => {
                if matches!(operation, Operation::Get | Operation::Head | Operation::List) {
                    self.first_byte.took(asked.elapsed());
                }
                self.bytes_up.fetch_add(bytes_up, Ordering::Relaxed);
            }
            Err(err) => self.count_error(operation, err),
        }
        outcome
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

#[async_trait]
impl<S: Store> Store for Metered<S> {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let request = self.store.get(key, range, if_match);
        let body = self.meter.watch(Operation::Get, 0, request).await?;
        let meter = self.meter.clone();
        let bytes = body.bytes.inspect(move |chunk| match chunk {
            Ok(chunk) => {
                meter.bytes_down.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            Err(err) => meter.count_error(Operation::Get, err),
        });
        Ok(Body { bytes: bytes.boxed(), ..body })
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.meter.watch(Operation::Head, 0, self.store.head(key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.meter.watch(Operation::List, 0, self.store.list(request)).await
    }

    async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        let len = body.len() as u64;
        let request = self.store.put(key, body, options, precondition);
        self.meter.watch(Operation::Put, len, request).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.meter.watch(Operation::Delete, 0, self.store.delete(key)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        self.meter.watch(Operation::DeleteMany, 0, self.store.delete_many(keys)).await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ETag> {
        self.meter.watch(Operation::Copy, 0, self.store.copy(request)).await
    }

    async fn create_upload(&self, key: &Key, options: &WriteOptions) -> Result<UploadId> {
        let request = self.store.create_upload(key, options);
        self.meter.watch(Operation::CreateUpload, 0, request).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        body: PartBody,
    ) -> Result<ETag> {
        let len = body.len();
        let request = self.store.upload_part(key, upload_id, number, body);
        self.meter.watch(Operation::UploadPart, len, request).await
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
        self.meter.watch(Operation::UploadPartCopy, 0, request).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload_id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
    ) -> Result<ETag> {
        let request = self.store.complete_upload(key, upload_id, parts, precondition);
        self.meter.watch(Operation::CompleteUpload, 0, request).await
    }

    async fn abort_upload(&self, key: &Key, upload_id: &UploadId) -> Result<()> {
        let request = self.store.abort_upload(key, upload_id);
        self.meter.watch(Operation::AbortUpload, 0, request).await
    }

    async fn list_parts(&self, key: &Key, upload_id: &UploadId) -> Result<Vec<StoredPart>> {
        self.meter.watch(Operation::ListParts, 0, self.store.list_parts(key, upload_id)).await
    }

    async fn list_uploads(&self, prefix: &Key) -> Result<Vec<ListedUpload>> {
        self.meter.watch(Operation::ListUploads, 0, self.store.list_uploads(prefix)).await
    }
}
