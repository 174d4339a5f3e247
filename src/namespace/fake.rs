//! A bucket in memory for this module's tests: ordered as S3 is, counting its requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::*;

#[derive(Clone)]
pub struct Object {
    etag: ETag,
    len: u64,
    modified: SystemTime,
    options: WriteOptions,
}

pub struct FakeStore {
    pub objects: Mutex<BTreeMap<Vec<u8>, Object>, rank::Test>,
    pub page: usize,
    pub writes: AtomicU64,
    pub heads: AtomicU64,
    pub lists: AtomicU64,
    /// HEADs under way, and the most that ever were.
    pub heads_now: AtomicU64,
    pub heads_max: AtomicU64,
    /// One permit lets one HEAD pass; closed lets all pass.
    pub head_gate: Semaphore,
    /// One permit lets one LIST take its snapshot and answer; closed lets all pass.
    pub list_gate: Semaphore,
    pub list_answer_gate: Semaphore,
    /// A HEAD of a key in here fails.
    pub broken: Mutex<Vec<Key>, rank::Test>,
    /// Folds a prefix at the place of its bare name, as some servers do.
    pub misordered: bool,
}

impl FakeStore {
    /// With pages of at most `page` entries and every gate open.
    pub fn new(page: usize) -> FakeStore {
        let store = FakeStore {
            objects: Mutex::default(),
            page,
            writes: AtomicU64::new(0),
            heads: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            heads_now: AtomicU64::new(0),
            heads_max: AtomicU64::new(0),
            head_gate: Semaphore::new(0),
            list_gate: Semaphore::new(0),
            list_answer_gate: Semaphore::new(0),
            broken: Mutex::default(),
            misordered: false,
        };
        store.head_gate.close();
        store.list_gate.close();
        store.list_answer_gate.close();
        store
    }

    pub fn with_keys<K: AsRef<[u8]>>(
        page: usize,
        keys: impl IntoIterator<Item = K>,
    ) -> Arc<FakeStore> {
        let store = FakeStore::new(page);
        for key in keys {
            store.write(&Key::new(key.as_ref()), WriteOptions::default());
        }
        Arc::new(store)
    }

    /// Puts an object as another machine would.
    pub fn write(&self, key: &Key, options: WriteOptions) -> ListedObject {
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let object = Object {
            etag: ETag::new(&format!("{number:032x}")),
            len: number,
            modified: UNIX_EPOCH + Duration::from_secs(1_000_000 + number),
            options,
        };
        self.objects.lock().insert(key.as_bytes().to_vec(), object.clone());
        listed(key.as_bytes(), &object)
    }

    pub fn remove(&self, key: &Key) {
        self.objects.lock().remove(key.as_bytes());
    }

    pub fn listed(&self, key: &Key) -> Option<ListedObject> {
        self.objects.lock().get(key.as_bytes()).map(|object| listed(key.as_bytes(), object))
    }

    pub fn requests(&self) -> (u64, u64) {
        (self.heads.load(Ordering::SeqCst), self.lists.load(Ordering::SeqCst))
    }

    async fn pass(gate: &Semaphore) {
        if let Ok(permit) = gate.acquire().await {
            permit.forget();
        }
    }
}

fn listed(key: &[u8], object: &Object) -> ListedObject {
    ListedObject {
        key: Key::new(key),
        etag: object.etag.clone(),
        len: object.len,
        last_modified: object.modified,
        storage_class: None,
    }
}

struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn unused<T>(operation: &'static str) -> Result<T> {
    Err(StoreError::new(ErrorKind::Unsupported, operation, "not in this fake"))
}

#[async_trait]
impl Store for FakeStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_writes: false,
            equal_parts: false,
            lists_uploads: false,
            copies_parts: false,
            marker_metadata: true,
            keeps_folders: false,
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.heads.fetch_add(1, Ordering::SeqCst);
        let now = self.heads_now.fetch_add(1, Ordering::SeqCst) + 1;
        self.heads_max.fetch_max(now, Ordering::SeqCst);
        let _counted = Counted(&self.heads_now);
        // As on a network, others come in between.
        tokio::task::yield_now().await;
        FakeStore::pass(&self.head_gate).await;
        if self.broken.lock().contains(key) {
            return Err(StoreError::new(ErrorKind::Denied, "HeadObject", "broken"));
        }
        let object = self.objects.lock().get(key.as_bytes()).cloned();
        let object =
            object.ok_or_else(|| StoreError::new(ErrorKind::NotFound, "HeadObject", "none"))?;
        Ok(ObjectHead {
            etag: object.etag,
            len: object.len,
            last_modified: object.modified,
            metadata: object.options.metadata,
            content_type: object.options.content_type,
            carried: object.options.carried.unwrap_or_default(),
            version_id: None,
        })
    }

    async fn tags(&self, _: &Key) -> Result<Tags> {
        unused("GetObjectTagging")
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        FakeStore::pass(&self.list_gate).await;
        let page = self.page_of(request);
        FakeStore::pass(&self.list_answer_gate).await;
        Ok(page)
    }

    async fn get(&self, _: &Key, _: ByteRange, _: &ETag) -> Result<Body> {
        unused("GetObject")
    }

    async fn put(&self, _: &Key, _: Bytes, _: &WriteOptions, _: &Precondition) -> Result<ETag> {
        unused("PutObject")
    }

    async fn delete(&self, _: &Key) -> Result<()> {
        unused("DeleteObject")
    }

    async fn delete_many(&self, _: &[Key]) -> Result<Vec<Result<()>>> {
        unused("DeleteObjects")
    }

    async fn copy(&self, _: &CopyRequest) -> Result<ETag> {
        unused("CopyObject")
    }

    async fn create_upload(&self, _: &Key, _: &WriteOptions) -> Result<Created> {
        unused("CreateMultipartUpload")
    }

    async fn upload_part(&self, _: &Key, _: &UploadId, _: u32, _: PartBody) -> Result<ETag> {
        unused("UploadPart")
    }

    async fn upload_part_copy(
        &self,
        _: &Key,
        _: &UploadId,
        _: u32,
        _: &Key,
        _: &ETag,
        _: ByteRange,
    ) -> Result<ETag> {
        unused("UploadPartCopy")
    }

    async fn complete_upload(
        &self,
        _: &Key,
        _: &UploadId,
        _: &[StoredPart],
        _: &Precondition,
    ) -> Result<ETag> {
        unused("CompleteMultipartUpload")
    }

    async fn abort_upload(&self, _: &Key, _: &UploadId) -> Result<()> {
        unused("AbortMultipartUpload")
    }

    async fn list_parts(&self, _: &Key, _: &UploadId) -> Result<Vec<StoredPart>> {
        unused("ListParts")
    }

    async fn list_uploads(&self, _: &Key) -> Result<Vec<ListedUpload>> {
        unused("ListMultipartUploads")
    }
}

impl FakeStore {
    fn page_of(&self, request: &ListRequest) -> ListPage {
        let prefix = request.prefix.as_bytes();
        // Like AWS: the token stands for the last key or prefix that was answered.
        let token = request.continuation.as_ref().map(|continuation| {
            let digits = continuation.token().as_bytes().chunks(2);
            let hex =
                |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            digits.map(hex).collect::<Vec<u8>>()
        });
        let limit = request.max_keys.map_or(self.page, |max| self.page.min(max as usize));
        let start = request.start_after.as_ref().map_or(&b""[..], Key::as_bytes).max(prefix);
        // A misordered store's tokens are not in the order of keys.
        let resumed = token.as_deref().filter(|_| !self.misordered).unwrap_or(start).max(start);
        let mut found: BTreeMap<Vec<u8>, Option<ListedObject>> = BTreeMap::new();
        for (key, object) in self.objects.lock().range(resumed.to_vec()..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            if request.start_after.as_ref().is_some_and(|start| key.as_slice() <= start.as_bytes())
            {
                continue;
            }
            match rest.iter().position(|byte| *byte == b'/').filter(|_| request.by_directory) {
                Some(slash) => {
                    // A misordered store has prefixes at the place of the bare name.
                    let end = prefix.len() + slash + usize::from(!self.misordered);
                    found.insert(key[..end].to_vec(), None);
                }
                None => {
                    found.insert(key.clone(), Some(listed(key, object)));
                }
            }
            // One more than a page tells whether it is the last, and one may be what the token names.
            if found.len() > limit + 1 && !self.misordered {
                break;
            }
        }
        let mut page = ListPage::default();
        let mut left = found.into_iter().filter(|(key, _)| token.as_ref().is_none_or(|t| key > t));
        for (key, object) in left.by_ref().take(limit) {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            page.continuation = Some(hex.into());
            match object {
                Some(object) => page.objects.push(object),
                None if key.ends_with(b"/") => page.common_prefixes.push(Key::new(key)),
                None => page.common_prefixes.push(Key::new([key.as_slice(), b"/"].concat())),
            }
        }
        if left.next().is_none() {
            page.continuation = None;
        }
        page
    }
}
