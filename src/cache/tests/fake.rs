//! A store of endless objects in memory, each with the same bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use md5::Digest as _;
use tokio::sync::watch;

use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::*;

/// Bytes of a body that come at a time.
const CHUNK_BYTES: u64 = 16 << 10;

/// What every object holds at `range`.
pub(super) fn content(range: ByteRange) -> Vec<u8> {
    // Word by word: the tests spend most of their time here.
    let words = range.start() / 8..range.end().div_ceil(8);
    let mut bytes: Vec<u8> = Vec::with_capacity(range.len() as usize + 16);
    for word in words {
        bytes.extend_from_slice(&word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    bytes.drain(..(range.start() % 8) as usize);
    bytes.truncate(range.len() as usize);
    bytes
}

pub(super) struct FakeStore {
    /// In the order in which they were sent.
    pub(super) gets: Mutex<Vec<ByteRange>, rank::Test>,
    pub(super) bytes_sent: Arc<AtomicU64>,
    /// How many bytes of each body may come.
    released: watch::Sender<u64>,
    failure: Mutex<Option<ErrorKind>, rank::Test>,
    panics: AtomicBool,
    break_at: AtomicU64,
    /// So many GETs more have one bit turned, in their middle.
    pub(super) turned: AtomicU64,
    /// Says what the MD5 of each body is, as of a whole object.
    pub(super) tells_md5: AtomicBool,
}

impl Default for FakeStore {
    fn default() -> Self {
        FakeStore {
            gets: Mutex::default(),
            bytes_sent: Arc::default(),
            released: watch::channel(u64::MAX).0,
            failure: Mutex::default(),
            panics: AtomicBool::new(false),
            break_at: AtomicU64::new(u64::MAX),
            turned: AtomicU64::new(0),
            tells_md5: AtomicBool::new(false),
        }
    }
}

impl FakeStore {
    /// Lets up to so many bytes of each body come.
    pub(super) fn release(&self, bytes: u64) {
        self.released.send_replace(bytes);
    }

    /// Fails each GET.
    pub(super) fn fail(&self, kind: Option<ErrorKind>) {
        *self.failure.lock() = kind;
    }

    /// Panics in each GET from now on.
    pub(super) fn panic(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// Breaks each body after so many bytes.
    pub(super) fn break_bodies_at(&self, bytes: u64) {
        self.break_at.store(bytes, Ordering::SeqCst);
    }
}

fn never<T>() -> Result<T> {
    Err(StoreError::new(ErrorKind::Unsupported, "Fake", "the cache does not ask for this"))
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

    async fn get(&self, _key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        self.gets.lock().push(range);
        assert!(!self.panics.load(Ordering::SeqCst), "told to panic");
        if let Some(kind) = *self.failure.lock() {
            return Err(StoreError::new(kind, "GetObject", "told to fail"));
        }
        let released = self.released.subscribe();
        let sent = self.bytes_sent.clone();
        let break_at = self.break_at.load(Ordering::SeqCst);
        let turns = |left: u64| left.checked_sub(1);
        let is_turned = self.turned.fetch_update(Ordering::SeqCst, Ordering::SeqCst, turns).is_ok();
        let turned = is_turned.then_some(range.start() + range.len() / 2);
        let md5 = self.tells_md5.load(Ordering::SeqCst);
        let md5 = md5.then(|| md5::Md5::digest(content(range)).into());
        let chunks = futures_util::stream::unfold((0, released), move |(at, mut released)| {
            let sent = sent.clone();
            async move {
                let end = (at + CHUNK_BYTES).min(range.len()).min(break_at);
                if at == range.len() {
                    return None;
                }
                if at == break_at {
                    let error = StoreError::new(ErrorKind::Transient, "GetObject", "broken");
                    return Some((Err(error), (range.len(), released)));
                }
                let end = released
                    .wait_for(|released| *released > at)
                    .await
                    .map_or(end, |released| end.min(*released));
                let piece = ByteRange::new(range.start() + at, range.start() + end);
                sent.fetch_add(piece.len(), Ordering::SeqCst);
                let mut bytes = content(piece);
                if let Some(turned) =
                    turned.filter(|turned| piece.contains(&ByteRange::at(*turned, 1)))
                {
                    bytes[(turned - piece.start()) as usize] ^= 1;
                }
                Some((Ok(Bytes::from(bytes)), (end, released)))
            }
        });
        let head = ObjectHead {
            etag: if_match.clone(),
            len: u64::MAX,
            last_modified: SystemTime::UNIX_EPOCH,
            metadata: Metadata::new(),
            content_type: None,
            carried: Carried::default(),
            version_id: None,
        };
        Ok(Body { range, head, md5, bytes: chunks.boxed() })
    }

    async fn head(&self, _: &Key) -> Result<ObjectHead> {
        never()
    }

    async fn tags(&self, _: &Key) -> Result<Tags> {
        never()
    }

    async fn list(&self, _: &ListRequest) -> Result<ListPage> {
        never()
    }

    async fn put(&self, _: &Key, _: Bytes, _: &WriteOptions, _: &Precondition) -> Result<ETag> {
        never()
    }

    async fn delete(&self, _: &Key) -> Result<()> {
        never()
    }

    async fn delete_many(&self, _: &[Key]) -> Result<Vec<Result<()>>> {
        never()
    }

    async fn copy(&self, _: &CopyRequest) -> Result<ETag> {
        never()
    }

    async fn create_upload(&self, _: &Key, _: &WriteOptions) -> Result<Created> {
        never()
    }

    async fn upload_part(&self, _: &Key, _: &UploadId, _: u32, _: PartBody) -> Result<ETag> {
        never()
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
        never()
    }

    async fn complete_upload(
        &self,
        _: &Key,
        _: &UploadId,
        _: &[StoredPart],
        _: &Precondition,
    ) -> Result<ETag> {
        never()
    }

    async fn abort_upload(&self, _: &Key, _: &UploadId) -> Result<()> {
        never()
    }

    async fn list_parts(&self, _: &Key, _: &UploadId) -> Result<Vec<StoredPart>> {
        never()
    }

    async fn list_uploads(&self, _: &Key) -> Result<Vec<ListedUpload>> {
        never()
    }
}
