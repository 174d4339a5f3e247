//! The [`Store`] trait, and what its requests and answers are made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::carried::{Carried, Storage, Tags};
use super::clock::StoreClock;
use super::continuation::Continuation;
use super::error::{ErrorKind, Result, StoreError};
use super::key::{ETag, Key};
use super::request_id::RequestId;
use super::version::{VersionId, VersionsPage, VersionsRequest};
use crate::checked::{Stretch, Sum};
use crate::range::ByteRange;

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
    /// Of the whole object, where the store tells one.
    pub sum: Option<ObjectSum>,
    /// Its bytes cannot be had: they are in an archive, and have not been restored. This says how they are.
    pub archived: Option<String>,
}

/// The checksum of a whole object as its store tells it; never one that is made of its parts' checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectSum {
    Crc32c(u32),
    Crc64Nvme(u64),
    /// CRC-64/XZ, which OSS and TOS name so.
    Crc64Ecma(u64),
    /// CRC-32/ISO-HDLC: what zlib has, and AWS's SDKs send of themselves.
    Crc32(u32),
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

    /// Whether there is no object, only a folder that the store has for what is or was in it, and of which no client has
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
    /// Of the answer that began it.
    pub request_id: Option<RequestId>,
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

impl ListPage {
    /// All that is on the page: objects, then common prefixes.
    pub fn keys(&self) -> impl Iterator<Item = &Key> + Clone {
        self.objects.iter().map(|object| &object.key).chain(&self.common_prefixes)
    }
}

/// Bytes in memory with the sum that they had when they came to this process: what changes them here since is found by it.
#[derive(Clone, Debug)]
pub struct Summed {
    pub bytes: Bytes,
    pub sum: Sum,
}

impl Summed {
    /// With the sum that they have now: of what this program makes itself.
    pub fn of(bytes: impl Into<Bytes>) -> Summed {
        let bytes = bytes.into();
        let sum = Sum::of(&bytes);
        Summed { bytes, sum }
    }

    /// Whether the bytes are those that came.
    pub fn is_intact(&self) -> bool {
        Sum::of(&self.bytes) == self.sum
    }
}

impl From<Bytes> for Summed {
    fn from(bytes: Bytes) -> Summed {
        Summed::of(bytes)
    }
}

/// The bytes of a part.
#[derive(Clone)]
pub enum PartBody {
    /// In memory.
    Whole(Summed),
    /// Read piece by piece while they are sent, as often as they have to be sent. Their sum is that of an earlier pass.
    Read(Arc<dyn PartSource>, Sum),
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
    /// What the bytes are to have, whatever is read of them by now.
    pub fn sum(&self) -> Sum {
        match self {
            PartBody::Whole(summed) => summed.sum,
            PartBody::Read(_, sum) => *sum,
        }
    }

    pub fn len(&self) -> u64 {
        self.sum().len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for PartBody {
    fn from(bytes: Bytes) -> PartBody {
        Summed::from(bytes).into()
    }
}

impl From<Summed> for PartBody {
    fn from(summed: Summed) -> PartBody {
        PartBody::Whole(summed)
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
    /// would be lost: callers ask before they write.
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
    /// Of the target. `Unsupported`, and nothing sent, where the store has no conditional copies.
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
    /// The CRC-32C of its bytes. `None` where it was copied inside the store, which did not tell, and where it is of a
    /// time before this was remembered.
    pub crc: Option<u32>,
}

impl StoredPart {
    /// Whether the store calls them the same: what is known of their bytes beside that does not matter.
    pub fn is_same(&self, other: &StoredPart) -> bool {
        (self.number, &self.etag, self.len) == (other.number, &other.etag, other.len)
    }

    /// The sum of its bytes, where it is known.
    pub fn sum(&self) -> Option<Sum> {
        self.crc.map(|crc| Sum { crc, len: self.len })
    }
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
    /// If-Match is honoured on DeleteObject.
    pub conditional_deletes: bool,
    /// If-Match and If-None-Match of the target are honoured on CopyObject.
    pub conditional_copies: bool,
    /// All parts of an upload but the last must be of one length.
    pub equal_parts: bool,
    /// ListMultipartUploads works.
    pub lists_uploads: bool,
    /// UploadPartCopy works.
    pub copies_parts: bool,
    /// Objects whose key ends in `/` keep their user metadata.
    pub marker_metadata: bool,
    /// A HEAD tells the checksum of a whole object where there is one, and a GET of a range of it does not.
    pub tells_sums: bool,
    /// GetObjectAttributes tells the checksums of the parts.
    pub tells_part_sums: bool,
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

    /// The checksum of a whole object, where an answer has told it before. No request.
    fn known_sum(&self, _key: &Key, _etag: &ETag) -> Option<ObjectSum> {
        None
    }

    /// HeadObject.
    async fn head(&self, key: &Key) -> Result<ObjectHead>;

    /// GetObjectAttributes: the parts of this version of which the store tells the CRC-32C. None where it tells none.
    async fn part_sums(&self, _key: &Key, _etag: &ETag) -> Result<Vec<Stretch>> {
        Ok(Vec::new())
    }

    /// GetObjectTagging.
    async fn tags(&self, key: &Key) -> Result<Tags>;

    /// One page of ListObjectsV2, in bytewise order of keys.
    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// One page of ListObjectVersions, in bytewise order of keys.
    async fn list_versions(&self, _request: &VersionsRequest) -> Result<VersionsPage> {
        Err(no_versions("ListObjectVersions"))
    }

    /// HeadObject of one version. `NotFound` where there is none, and where it is a delete marker.
    async fn head_version(&self, _key: &Key, _version: &VersionId) -> Result<ObjectHead> {
        Err(no_versions("HeadObject"))
    }

    /// From now on what is read of this key and ETag is read of this version, whichever the key has now. No request. The
    /// latest of those that are used are remembered; of the others a read may be `PreconditionFailed`.
    fn pin(&self, _key: &Key, _etag: &ETag, _version: &VersionId) {}

    /// DeleteObject of one version, or of a delete marker: for good. Succeeds where there is none.
    async fn delete_version(&self, _key: &Key, _version: &VersionId) -> Result<()> {
        Err(no_versions("DeleteObject"))
    }

    /// PutObject of a whole object.
    async fn put(
        &self,
        key: &Key,
        body: Summed,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag>;

    /// DeleteObject. Succeeds where there is none. `if_match` says which version is meant: another one stays
    /// (`PreconditionFailed`) where the store has conditional deletions, and goes with the key where it has none.
    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<()>;

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

fn no_versions(operation: &'static str) -> StoreError {
    StoreError::new(ErrorKind::Unsupported, operation, "there are no versions here")
}

/// A store shared by everything that moves bytes.
pub type SharedStore = Arc<dyn Store>;
