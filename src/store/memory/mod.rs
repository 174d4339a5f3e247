//! The one store in memory, for tests: a bucket with S3's semantics, which fails as it is told to.
//!
//! [`Shape`] says what the store can do, and how it lists. It has all of [`Store`]: versions by ETag (the MD5 of what a
//! PUT brought, S3's sum of sums of an upload), conditions, ranges, pages, metadata and what else an object carries,
//! uploads and copies. The same requests have the same answers: times and ids are counted, not taken from the machine.
//!
//! **Faults** are rules, operation × key → [`Fault`]:
//!
//! ```ignore
//! store.on("PutObject").then(Fault::Lost(ErrorKind::Timeout));          // the next one, of any key
//! store.on("GetObject").of("k").times(3).then(Fault::Short(100, kind)); // the next three of this key
//! let rule = store.on_any().always().then(Fault::Refused(ErrorKind::Throttled));
//! rule.lift();
//! ```
//!
//! Of all rules that are for a request the one that was made first is used. The requests that came are
//! [counted](MemoryStore::count) and [kept](MemoryStore::requests).

mod body;
mod bucket;
mod listing;
mod script;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use self::body::Source;
use self::bucket::{Bucket, error};
use self::listing::Order;
pub use self::script::{Fault, Gate, Request, Rule, Tap};
use self::script::{OPERATIONS, Script};
use super::*;
use crate::clock;
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;

/// What a store can do, and how.
#[derive(Clone)]
pub struct Shape {
    pub capabilities: Capabilities,
    /// Entries of a page of a listing, at most.
    pub page: usize,
    /// A listing has prefixes at the place of their bare names, as some servers do.
    pub misordered: bool,
    /// What a GET finds where nothing was written, in any version: an object without an end.
    pub unwritten: Option<fn(ByteRange) -> Vec<u8>>,
}

impl Default for Shape {
    /// All of S3.
    fn default() -> Self {
        Shape {
            capabilities: s3::Provider::Embedded.row().capabilities.clone(),
            page: 1000,
            misordered: false,
            unwritten: None,
        }
    }
}

struct State {
    bucket: Bucket,
    script: Script,
}

/// All clones are one store.
#[derive(Clone)]
pub struct MemoryStore {
    shape: Shape,
    state: Arc<Mutex<State, rank::TestStore>>,
    /// Of bodies.
    bytes_down: Arc<AtomicU64>,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::of(Shape::default())
    }

    pub fn of(shape: Shape) -> MemoryStore {
        let bucket = Bucket::new(shape.capabilities.clone());
        let state = State { bucket, script: Script::default() };
        MemoryStore { shape, state: Arc::new(Mutex::new(state)), bytes_down: Arc::default() }
    }

    /// With an object of each key, and pages of so many.
    pub fn with_keys<K: AsRef<[u8]>>(page: usize, keys: impl IntoIterator<Item = K>) -> Arc<Self> {
        let store = MemoryStore::of(Shape { page, ..Shape::default() });
        for key in keys {
            store.touch(&Key::new(key.as_ref()), WriteOptions::default());
        }
        Arc::new(store)
    }

    /// The beginning of a rule for requests of one operation, by S3's name of it.
    pub fn on(&self, operation: &'static str) -> Condition<'_> {
        assert!(OPERATIONS.contains(&operation), "{operation} is no operation");
        Condition { store: self, operation: Some(operation), key: None, times: 1 }
    }

    pub fn on_any(&self) -> Condition<'_> {
        Condition { store: self, operation: None, key: None, times: 1 }
    }

    /// The next requests meet these, one each.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        faults.into_iter().for_each(|fault| drop(self.on_any().then(fault)));
    }

    pub fn fail_next(&self, times: usize, kind: ErrorKind) {
        self.on_any().times(times).then(Fault::Refused(kind));
    }

    pub fn lift_all(&self) {
        self.state.lock().script.lift_all();
    }

    /// In the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().script.requests.clone()
    }

    /// How many requests came.
    pub fn total(&self) -> usize {
        self.state.lock().script.requests.len()
    }

    /// How many requests of an operation came.
    pub fn count(&self, operation: &str) -> usize {
        let state = self.state.lock();
        state.script.requests.iter().filter(|request| request.operation == operation).count()
    }

    /// How many HEADs and LISTs came: what looking at names costs.
    pub fn heads_and_lists(&self) -> (usize, usize) {
        (self.count("HeadObject"), self.count("ListObjectsV2"))
    }

    /// How many requests of an operation are under way, and the most that ever were.
    pub fn under_way(&self, operation: &str) -> (usize, usize) {
        self.state.lock().script.under_way.get(operation).copied().unwrap_or_default()
    }

    /// Bytes of bodies that were given out.
    pub fn bytes_down(&self) -> u64 {
        self.bytes_down.load(Ordering::SeqCst)
    }

    /// Puts an object as another client would, which is no request here, of this ETag.
    pub fn insert(&self, key: &Key, bytes: Bytes, etag: &str) {
        let options = WriteOptions::default();
        self.state.lock().bucket.keep(key, bytes, &options, Some(ETag::new(etag)));
    }

    /// Puts an object as another client would, of other bytes than all before it.
    pub fn touch(&self, key: &Key, options: WriteOptions) -> ListedObject {
        self.state.lock().bucket.touch(key, &options)
    }

    /// Deletes an object as another client would.
    pub fn remove(&self, key: &Key) {
        self.state.lock().bucket.forget(key);
    }

    /// The object as a listing tells it, without a request.
    pub fn listed(&self, key: &Key) -> Option<ListedObject> {
        let key = key.as_bytes();
        self.state.lock().bucket.objects.get(key).map(|object| object.listed(key))
    }

    /// One request: what happens to it, then its effect.
    async fn ask<T>(
        &self,
        operation: &'static str,
        keys: &[&Key],
        effect: impl FnOnce(&mut Bucket) -> Result<T> + Send,
    ) -> Result<T> {
        let keys = keys.iter().map(|key| (*key).clone()).collect();
        let (fault, _under_way) = self.begin(Request { operation, keys, range: None });
        self.under(fault.as_ref(), operation, effect).await
    }

    fn begin(&self, request: Request) -> (Option<Fault>, UnderWay<'_>) {
        let operation = request.operation;
        (self.state.lock().script.meets(request), UnderWay { store: self, operation })
    }

    async fn under<T>(
        &self,
        fault: Option<&Fault>,
        operation: &'static str,
        effect: impl FnOnce(&mut Bucket) -> Result<T> + Send,
    ) -> Result<T> {
        // As on a network, others come in between.
        tokio::task::yield_now().await;
        match fault {
            Some(Fault::Refused(kind)) => return Err(error(*kind, operation)),
            Some(Fault::Busy(time)) => {
                let busy = error(ErrorKind::Throttled, operation);
                return Err(StoreError { retry_after: Some(*time), ..busy });
            }
            Some(Fault::Held(gate)) => gate.pass().await,
            Some(Fault::Panics) => panic!("{operation} was told to panic"),
            _ => {}
        }
        let outcome = effect(&mut self.state.lock().bucket);
        match fault {
            Some(Fault::Lost(kind)) => outcome.and_then(|_| Err(error(*kind, operation))),
            Some(Fault::Slow(time)) => {
                clock::sleep(*time).await;
                outcome
            }
            Some(Fault::Unanswered(gate)) => {
                gate.pass().await;
                outcome
            }
            _ => outcome,
        }
    }
}

/// A rule in the making.
#[must_use = "it is a rule once it says what happens"]
pub struct Condition<'a> {
    store: &'a MemoryStore,
    operation: Option<&'static str>,
    key: Option<Key>,
    times: usize,
}

impl Condition<'_> {
    /// Requests that name this key only.
    pub fn of(mut self, key: impl Into<Key>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// As many requests, not only the next.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    pub fn then(self, fault: Fault) -> Rule {
        let rule = Rule::new(self.operation, self.key, self.times, fault);
        self.store.state.lock().script.add(rule.clone());
        rule
    }
}

/// A request that is not answered yet.
struct UnderWay<'a> {
    store: &'a MemoryStore,
    operation: &'static str,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some((now, _)) = self.store.state.lock().script.under_way.get_mut(self.operation) {
            *now -= 1;
        }
    }
}

/// The bytes of a part, all of them.
async fn all_of(body: PartBody) -> Result<Bytes> {
    match body {
        PartBody::Whole(summed) => Ok(summed.bytes),
        PartBody::Read(source, _) => {
            let whole = ByteRange::new(0, source.len());
            let bytes = source.read(whole).await.ok();
            let bytes = bytes.filter(|bytes| bytes.len() as u64 == whole.len());
            bytes.ok_or_else(|| error(ErrorKind::Invalid, "UploadPart"))
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        self.shape.capabilities.clone()
    }

    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        const OPERATION: &str = "GetObject";
        let keys = vec![key.clone()];
        let (fault, _under_way) =
            self.begin(Request { operation: OPERATION, keys, range: Some(range) });
        let unwritten = self.shape.unwritten;
        let effect = |bucket: &mut Bucket| match (bucket.get(key, range, if_match), unwritten) {
            (Err(error), Some(content)) if error.kind == ErrorKind::NotFound => {
                Ok(Source::endless(content, if_match))
            }
            (object, _) => object.map(Source::from),
        };
        let source = self.under(fault.as_ref(), OPERATION, effect).await?;
        Ok(source.body(range, fault, self.bytes_down.clone()))
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.ask("HeadObject", &[key], |bucket| bucket.head(key)).await
    }

    async fn tags(&self, key: &Key) -> Result<Tags> {
        self.ask("GetObjectTagging", &[key], |bucket| bucket.tags(key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let order = Order { page: self.shape.page, misordered: self.shape.misordered };
        let list = |bucket: &mut Bucket| Ok(listing::page(bucket, &order, request));
        self.ask("ListObjectsV2", &[&request.prefix], list).await
    }

    async fn put(
        &self,
        key: &Key,
        body: Summed,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        let put = |bucket: &mut Bucket| bucket.put(key, body.bytes, options, precondition);
        self.ask("PutObject", &[key], put).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<()> {
        self.ask("DeleteObject", &[key], |bucket| bucket.delete(key, if_match)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let delete =
            |bucket: &mut Bucket| Ok(keys.iter().map(|key| bucket.delete(key, None)).collect());
        self.ask("DeleteObjects", &keys.iter().collect::<Vec<_>>(), delete).await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ETag> {
        let keys = [&request.target, &request.source];
        self.ask("CopyObject", &keys, |bucket| bucket.copy(request)).await
    }

    async fn create_upload(&self, key: &Key, options: &WriteOptions) -> Result<Created> {
        let create = |bucket: &mut Bucket| bucket.create_upload(key, options);
        let upload_id = self.ask("CreateMultipartUpload", &[key], create).await?;
        Ok(Created { upload_id, perhaps_twice: false })
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        body: PartBody,
    ) -> Result<ETag> {
        const OPERATION: &str = "UploadPart";
        let bytes = all_of(body).await?;
        let put = |bucket: &mut Bucket| bucket.put_part(OPERATION, key, upload_id, number, bytes);
        self.ask(OPERATION, &[key], put).await
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
        const OPERATION: &str = "UploadPartCopy";
        let copy = |bucket: &mut Bucket| {
            let bytes = bucket.part_of(source, source_etag, range)?;
            bucket.put_part(OPERATION, key, upload_id, number, bytes)
        };
        self.ask(OPERATION, &[key, source], copy).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload_id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
    ) -> Result<ETag> {
        let complete = |bucket: &mut Bucket| bucket.complete(key, upload_id, parts, precondition);
        self.ask("CompleteMultipartUpload", &[key], complete).await
    }

    async fn abort_upload(&self, key: &Key, upload_id: &UploadId) -> Result<()> {
        let abort = |bucket: &mut Bucket| bucket.abort(key, upload_id);
        self.ask("AbortMultipartUpload", &[key], abort).await
    }

    async fn list_parts(&self, key: &Key, upload_id: &UploadId) -> Result<Vec<StoredPart>> {
        self.ask("ListParts", &[key], |bucket| bucket.parts(key, upload_id)).await
    }

    async fn list_uploads(&self, prefix: &Key) -> Result<Vec<ListedUpload>> {
        self.ask("ListMultipartUploads", &[prefix], |bucket| bucket.uploads(prefix)).await
    }
}
