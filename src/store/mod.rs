//! The object store as the rest of the program sees it: one small object-safe trait, [`Store`], its
//! types, and its errors. [`s3`] is the real client; retry, limits and metering
//! are wrappers, each a [`layer`].
//!
//! Consistency: every answer is checked (length, Content-Range, ETag) before a byte of it is believed.
//! Retries: none here; see [`retry`]. Cancellation: dropping a future drops its request.
//! Crash: nothing is kept on this machine.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::range::ByteRange;

pub mod breaker;
mod carried;
mod clock;
mod continuation;
mod emptied;
pub mod error;
pub mod first_byte;
pub mod hedge;
pub mod layer;
pub mod limit;
mod mark;
pub mod meter;
pub mod offline;
pub mod retry;
pub mod s3;
#[cfg(test)]
pub(crate) mod scripted;
mod sources;
mod stack;
mod tag;

pub use carried::{Carried, SERVED_HEADERS, Storage, Tags};
pub use clock::StoreClock;
pub use continuation::Continuation;
pub use error::{ErrorKind, StoreError};
pub use mark::{MARK, METADATA_BYTES_MAX, Mark};
pub use retry::impatient;
pub use stack::{Stack, TransferSettings, build, stack, unwrapped};
pub use tag::CompactTag;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// An object's key, without a leading slash: the bytes as the store has them. S3 keys are UTF-8 by
/// specification, but some servers keep any bytes, so nothing here assumes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Key(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text; bytes that are not UTF-8 are replaced.
    pub fn as_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// This key with `suffix` behind it.
    pub fn join(&self, suffix: &[u8]) -> Key {
        let mut bytes = self.0.clone();
        bytes.extend_from_slice(suffix);
        Key(bytes)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key::new(text.as_bytes())
    }
}

/// An entity tag, opaque but for its case, which providers change at will: two that differ only in
/// case are equal. Kept without its quotes, but for a weak one, which is kept whole: `W/"tag"`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ETag(String);

/// What a weak tag begins with.
const WEAK: &str = "W/\"";

impl ETag {
    /// From a header or XML value, with or without quotes.
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        match text.strip_prefix(WEAK) {
            Some(tag) => ETag(format!("{WEAK}{}\"", tag.trim_end_matches('"'))),
            None => ETag(text.trim_matches('"').to_owned()),
        }
    }

    /// As it is kept.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it is sent in If-Match and in CompleteMultipartUpload.
    pub fn quoted(&self) -> String {
        if self.is_weak() { self.0.clone() } else { format!("\"{}\"", self.0) }
    }

    /// Whether no condition on it can hold: If-Match compares strongly, and a weak tag then equals none.
    pub fn is_weak(&self) -> bool {
        self.0.starts_with(WEAK)
    }
}

impl PartialEq for ETag {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ETag {}

impl std::hash::Hash for ETag {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// User metadata: `x-amz-meta-*` headers, names in lower case and without that prefix.
pub type Metadata = BTreeMap<String, String>;

/// What HEAD and GET say of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectHead {
    pub etag: ETag,
    pub len: u64,
    pub last_modified: SystemTime,
    pub metadata: Metadata,
    pub content_type: Option<String>,
    pub carried: Carried,
    pub version_id: Option<String>,
}

impl ObjectHead {
    /// What another object is written with that is to carry the same. (Tags that are only counted have to be
    /// asked for: see [`Tags`].)
    pub fn write_options(&self) -> WriteOptions {
        WriteOptions {
            metadata: self.metadata.clone(),
            content_type: self.content_type.clone(),
            carried: Some(self.carried.clone()),
        }
    }

    /// Whether there is no object, only a folder that the store has for what is or was in it, and of which nobody has
    /// said that it is to stay: so SeaweedFS answers to a HEAD of `d/`. (No upload has no parts.)
    pub fn is_folder_alone(&self) -> bool {
        const NOTHING_OF_NO_PARTS: &str = "d41d8cd98f00b204e9800998ecf8427e-0";
        self.len == 0 && self.etag.as_str() == NOTHING_OF_NO_PARTS
    }
}

/// The bytes of one ranged GET, in order. The stream ends after exactly `range.len()` bytes or yields
/// an error; it never ends early and silently, and never yields more.
pub struct Body {
    pub range: ByteRange,
    pub head: ObjectHead,
    /// The MD5 of these bytes, where they are a whole object whose ETag is known to be that.
    pub md5: Option<[u8; 16]>,
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedObject {
    pub key: Key,
    pub etag: ETag,
    pub len: u64,
    pub last_modified: SystemTime,
    pub storage_class: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    pub prefix: Key,
    /// Fold keys that hold a `/` behind the prefix into common prefixes.
    pub by_directory: bool,
    /// From the page before.
    pub continuation: Option<Continuation>,
    /// Only keys strictly behind this one (bytewise).
    pub start_after: Option<Key>,
    /// At most this many entries; the store's own limit (1,000) where `None`.
    pub max_keys: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub struct ListPage {
    pub objects: Vec<ListedObject>,
    /// Each ends in `/`.
    pub common_prefixes: Vec<Key>,
    /// `None` on the last page.
    pub continuation: Option<Continuation>,
}

/// The bytes of a part.
#[derive(Clone)]
pub enum PartBody {
    /// In memory.
    Whole(Bytes),
    /// Read piece by piece while they are sent, as often as they have to be sent.
    Read(Arc<dyn PartSource>),
}

/// Where the bytes of a part are read from. They are the same each time.
#[async_trait]
pub trait PartSource: Send + Sync {
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of a range, counted from the part's first byte.
    async fn read(&self, range: ByteRange) -> std::io::Result<Bytes>;
}

impl PartBody {
    pub fn len(&self) -> u64 {
        match self {
            PartBody::Whole(bytes) => bytes.len() as u64,
            PartBody::Read(source) => source.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for PartBody {
    fn from(bytes: Bytes) -> PartBody {
        PartBody::Whole(bytes)
    }
}

/// What must hold for a write to take effect; otherwise `ErrorKind::PreconditionFailed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    #[default]
    None,
    /// No object has the key (If-None-Match: *).
    Absent,
    /// The key's object has this ETag (If-Match). `Unsupported`, and nothing sent, where it is weak.
    Matches(ETag),
}

/// All that an object is written with, beside its bytes. Storage class and encryption are the client's own
/// settings where this does not say, the ACL always.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteOptions {
    pub metadata: Metadata,
    pub content_type: Option<String>,
    /// `None`: it is not known here what the object carries that is replaced. Nothing can be written then, since that
    /// would be lost: whoever writes asks before.
    pub carried: Option<Carried>,
}

impl Default for WriteOptions {
    /// A new object's, that carries nothing.
    fn default() -> Self {
        let carried = Some(Carried::default());
        WriteOptions { metadata: Metadata::new(), content_type: None, carried }
    }
}

/// A server-side copy of one object of the bucket to another key.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    pub source: Key,
    /// The version that is meant (x-amz-copy-source-if-match; not sent where it is weak).
    pub source_etag: Option<ETag>,
    pub target: Key,
    /// `Some` replaces what the object carries, `None` keeps the source's.
    pub replace: Option<WriteOptions>,
    /// The source's tags go along, whatever is replaced. Otherwise the copy has those of `replace`.
    pub keeps_tags: bool,
    /// How the source is kept, as far as it is known: a copy that replaces nothing is kept so too.
    pub storage: Storage,
    pub precondition: Precondition,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UploadId(pub String);

/// The answer to CreateMultipartUpload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub upload_id: UploadId,
    /// An earlier request, whose answer was lost, may have begun another upload.
    pub perhaps_twice: bool,
}

/// A part as the store acknowledged it. Part numbers start at 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPart {
    pub number: u32,
    pub etag: ETag,
    pub len: u64,
}

/// An upload that is neither completed nor aborted, as ListMultipartUploads tells.
#[derive(Clone, Debug)]
pub struct ListedUpload {
    pub key: Key,
    pub upload_id: UploadId,
    pub initiated: Option<SystemTime>,
}

/// What the store at hand can do beyond the common S3 subset. Settled by provider, refined by what
/// the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// If-Match and If-None-Match are honoured on PutObject and CompleteMultipartUpload.
    pub conditional_writes: bool,
    /// All parts of an upload but the last must be of one length.
    pub equal_parts: bool,
    /// ListMultipartUploads works.
    pub lists_uploads: bool,
    /// UploadPartCopy works.
    pub copies_parts: bool,
    /// Objects whose key ends in `/` keep their user metadata.
    pub marker_metadata: bool,
    /// A key `a/b/c` makes folders `a/` and `a/b/`, which a HEAD or a listing finds also when the key is gone. Each
    /// goes with a DELETE of its own, once nothing is in it.
    pub keeps_folders: bool,
}

/// An object store bucket. Every method is one request (GetObject is one request and its body), and
/// every error says by its [`ErrorKind`] what the caller should do.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    fn capabilities(&self) -> Capabilities;

    /// The store's clock, as its answers tell it.
    fn clock(&self) -> Arc<StoreClock> {
        Arc::default()
    }

    /// GetObject of a non-empty range, with If-Match unless the ETag is weak. `PreconditionFailed` where the
    /// object's ETag is another one, `NotFound` where there is none, `InvalidRange` where it is shorter.
    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body>;

    /// HeadObject.
    async fn head(&self, key: &Key) -> Result<ObjectHead>;

    /// GetObjectTagging.
    async fn tags(&self, key: &Key) -> Result<Tags>;

    /// One page of ListObjectsV2, in bytewise order of keys.
    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// PutObject of a whole object.
    async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag>;

    /// DeleteObject. Succeeds where there is none.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// DeleteObjects, up to 1,000 keys. The outcome of each, in the order given.
    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>>;

    /// CopyObject inside the bucket (up to 5 GiB). An error inside a 200 answer is an error.
    async fn copy(&self, request: &CopyRequest) -> Result<ETag>;

    /// CreateMultipartUpload.
    async fn create_upload(&self, key: &Key, options: &WriteOptions) -> Result<Created>;

    /// UploadPart. `NoSuchUpload` where the store has forgotten the upload.
    async fn upload_part(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        body: PartBody,
    ) -> Result<ETag>;

    /// UploadPartCopy of a range of an object of the bucket, with x-amz-copy-source-if-match.
    async fn upload_part_copy(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        source: &Key,
        source_etag: &ETag,
        range: ByteRange,
    ) -> Result<ETag>;

    /// CompleteMultipartUpload, parts in ascending order. An error inside a 200 answer is an error.
    async fn complete_upload(
        &self,
        key: &Key,
        upload_id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
    ) -> Result<ETag>;

    /// AbortMultipartUpload. Succeeds where the upload is gone already.
    async fn abort_upload(&self, key: &Key, upload_id: &UploadId) -> Result<()>;

    /// ListParts, all pages.
    async fn list_parts(&self, key: &Key, upload_id: &UploadId) -> Result<Vec<StoredPart>>;

    /// ListMultipartUploads below a prefix, all pages.
    async fn list_uploads(&self, prefix: &Key) -> Result<Vec<ListedUpload>>;
}

/// A store shared by everything that moves bytes.
pub type SharedStore = Arc<dyn Store>;
