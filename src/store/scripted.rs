//! A store in memory whose faults are scripted, for the tests of the wrappers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use md5::{Digest as _, Md5};

use super::retry::settle::{hex, multipart_etag};
use super::*;
use crate::clock;
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;

/// What happens to one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails and has no effect.
    Before(ErrorKind),
    /// It takes effect, but its answer is lost.
    After(ErrorKind),
    /// GetObject: the body breaks off after this many bytes.
    Cut(usize, ErrorKind),
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<Key, (Bytes, ObjectHead)>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    script: VecDeque<Fault>,
    /// Bytes of bodies handed out.
    bytes_down: u64,
}

#[derive(Clone, Default)]
pub struct Scripted {
    keeps_folders: bool,
    contents: Arc<Mutex<Contents, rank::TestStore>>,
    requests: Arc<AtomicUsize>,
}

impl Scripted {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn keeping_folders() -> Self {
        Scripted { keeps_folders: true, ..Self::default() }
    }

    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.contents.lock().script.extend(faults);
    }

    pub fn fail_next(&self, times: usize, kind: ErrorKind) {
        self.script(std::iter::repeat_n(Fault::Before(kind), times));
    }

    /// Drops what is left of the script.
    pub fn clear(&self) {
        self.contents.lock().script.clear();
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn bytes_down(&self) -> u64 {
        self.contents.lock().bytes_down
    }

    pub fn insert(&self, key: &Key, bytes: Bytes, etag: &str) {
        let head = ObjectHead {
            etag: ETag::new(etag),
            len: bytes.len() as u64,
            last_modified: clock::wall(),
            metadata: Metadata::new(),
            content_type: None,
            carried: Carried::default(),
            version_id: None,
        };
        self.contents.lock().objects.insert(key.clone(), (bytes, head));
    }

    /// Runs one request under the next fault of the script.
    fn run<T>(&self, effect: impl FnOnce(&mut Contents) -> Result<T>) -> Result<T> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut contents = self.contents.lock();
        match contents.script.pop_front() {
            None => effect(&mut contents),
            Some(Fault::Before(kind)) => Err(StoreError::new(kind, "Scripted", "before")),
            Some(Fault::After(kind)) => {
                effect(&mut contents)?;
                Err(StoreError::new(kind, "Scripted", "after"))
            }
            Some(cut @ Fault::Cut(..)) => {
                contents.script.push_front(cut);
                effect(&mut contents)
            }
        }
    }
}

fn not_found() -> StoreError {
    StoreError::new(ErrorKind::NotFound, "Scripted", "no such key")
}

fn no_upload() -> StoreError {
    StoreError::new(ErrorKind::NoSuchUpload, "Scripted", "no such upload")
}

fn check(contents: &Contents, key: &Key, precondition: &Precondition) -> Result<()> {
    let etag = contents.objects.get(key).map(|(_, head)| &head.etag);
    let met = match precondition {
        Precondition::None => true,
        Precondition::Absent => etag.is_none(),
        Precondition::Matches(wanted) => etag == Some(wanted),
    };
    if met {
        return Ok(());
    }
    Err(StoreError::new(ErrorKind::PreconditionFailed, "Scripted", "not met"))
}

#[async_trait]
impl Store for Scripted {
    fn capabilities(&self) -> Capabilities {
        let capabilities = s3::Provider::Embedded.profile().capabilities;
        Capabilities { keeps_folders: self.keeps_folders, ..capabilities }
    }

    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let (bytes, head, cut) = self.run(|contents| {
            let (bytes, head) = contents.objects.get(key).cloned().ok_or_else(not_found)?;
            if head.etag != *if_match {
                return Err(StoreError::new(ErrorKind::PreconditionFailed, "Scripted", "etag"));
            }
            let cut = match contents.script.front() {
                Some(Fault::Cut(at, kind)) => Some((*at, *kind)),
                _ => None,
            };
            if cut.is_some() {
                contents.script.pop_front();
            }
            Ok((bytes, head, cut))
        })?;
        let wanted = bytes.slice(range.start() as usize..range.end() as usize);
        let len = cut.map_or(wanted.len(), |(at, _)| at);
        self.contents.lock().bytes_down += len as u64;
        let mut chunks = vec![Ok(wanted.slice(..len))];
        if let Some((_, kind)) = cut {
            chunks.push(Err(StoreError::new(kind, "GetObject", "cut")));
        }
        Ok(Body { range, head, md5: None, bytes: stream::iter(chunks).boxed() })
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.run(|contents| {
            contents.objects.get(key).map(|(_, head)| head.clone()).ok_or_else(not_found)
        })
    }

    async fn tags(&self, _: &Key) -> Result<Tags> {
        self.run(|_| Ok(Tags::None))
    }

    async fn list(&self, _: &ListRequest) -> Result<ListPage> {
        self.run(|_| Ok(ListPage::default()))
    }

    async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        let etag = hex(&Md5::digest(&body));
        self.run(|contents| {
            check(contents, key, precondition)?;
            let head = ObjectHead {
                etag: ETag::new(&etag),
                len: body.len() as u64,
                last_modified: clock::wall(),
                metadata: options.metadata.clone(),
                content_type: options.content_type.clone(),
                carried: options.carried.clone().unwrap_or_default(),
                version_id: None,
            };
            contents.objects.insert(key.clone(), (body, head));
            Ok(ETag::new(&etag))
        })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.run(|contents| {
            contents.objects.remove(key);
            Ok(())
        })
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        self.run(|contents| {
            Ok(keys
                .iter()
                .map(|key| {
                    contents.objects.remove(key);
                    Ok(())
                })
                .collect())
        })
    }

    async fn copy(&self, _: &CopyRequest) -> Result<ETag> {
        self.run(|_| Ok(ETag::new("copied")))
    }

    async fn create_upload(&self, _: &Key, _: &WriteOptions) -> Result<Created> {
        self.run(|contents| {
            let id = format!("u{}", contents.uploads.len());
            contents.uploads.insert(id.clone(), BTreeMap::new());
            Ok(Created { upload_id: UploadId(id), perhaps_twice: false })
        })
    }

    async fn upload_part(
        &self,
        _: &Key,
        upload_id: &UploadId,
        number: u32,
        body: PartBody,
    ) -> Result<ETag> {
        self.run(|contents| {
            let PartBody::Whole(body) = body else {
                return Err(StoreError::new(ErrorKind::Unsupported, "Scripted", "in memory only"));
            };
            let etag = ETag::new(&hex(&Md5::digest(&body)));
            let upload = contents.uploads.get_mut(&upload_id.0).ok_or_else(no_upload)?;
            upload.insert(number, body);
            Ok(etag)
        })
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
        self.run(|_| Ok(ETag::new("copied")))
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload_id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
    ) -> Result<ETag> {
        self.run(|contents| {
            // As servers do: the upload is looked up before the condition is.
            if !contents.uploads.contains_key(&upload_id.0) {
                return Err(no_upload());
            }
            check(contents, key, precondition)?;
            let stored = contents.uploads.remove(&upload_id.0).ok_or_else(no_upload)?;
            let bytes: Vec<u8> = stored.values().flat_map(|part| part.to_vec()).collect();
            let etag = multipart_etag(parts).ok_or_else(no_upload)?;
            let head = ObjectHead {
                etag: ETag::new(&etag),
                len: bytes.len() as u64,
                last_modified: clock::wall(),
                metadata: Metadata::new(),
                content_type: None,
                carried: Carried::default(),
                version_id: None,
            };
            contents.objects.insert(key.clone(), (bytes.into(), head));
            Ok(ETag::new(&etag))
        })
    }

    async fn abort_upload(&self, _: &Key, upload_id: &UploadId) -> Result<()> {
        self.run(|contents| {
            contents.uploads.remove(&upload_id.0);
            Ok(())
        })
    }

    async fn list_parts(&self, _: &Key, _: &UploadId) -> Result<Vec<StoredPart>> {
        self.run(|_| Ok(Vec::new()))
    }

    async fn list_uploads(&self, _: &Key) -> Result<Vec<ListedUpload>> {
        self.run(|_| Ok(Vec::new()))
    }
}
