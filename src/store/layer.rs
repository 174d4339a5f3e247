//! What the wrappers of a store have in common: each is a [`Layer`], which is a [`Store`] by itself.
//!
//! A layer says once what it does with a request, whatever the request asks for: wait, count it, send it again.
//! What it has to know of it is the [`Call`]. The few operations that a layer may have to treat by themselves
//! have a method of their own.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Body, Capabilities, CopyRequest, Created, ETag, Key, ListPage, ListRequest, ListedUpload,
    ObjectHead, ObjectSum, PartBody, Precondition, Result, Store, StoreClock, StoredPart, Summed,
    Tags, UploadId, VersionId, VersionsPage, VersionsRequest, WriteOptions,
};
use crate::checked::Stretch;
use crate::range::ByteRange;

/// A request, by what a layer may want to know of it: which objects it depends on or changes, and how many bytes
/// it moves.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    Get { key: &'a Key, bytes: u64 },
    Head { key: &'a Key },
    Attributes { key: &'a Key },
    Tags { key: &'a Key },
    List { prefix: &'a Key },
    ListVersions { prefix: &'a Key },
    Put { key: &'a Key, bytes: u64 },
    Delete { key: &'a Key },
    DeleteVersion { key: &'a Key },
    DeleteMany { keys: &'a [Key] },
    Copy { source: &'a Key, target: &'a Key },
    CreateUpload,
    UploadPart { key: &'a Key, bytes: u64 },
    UploadPartCopy { source: &'a Key },
    CompleteUpload { key: &'a Key },
    AbortUpload,
    ListParts,
    ListUploads,
}

impl Call<'_> {
    /// What S3 calls it.
    pub fn name(self) -> &'static str {
        match self {
            Call::Get { .. } => "GetObject",
            Call::Head { .. } => "HeadObject",
            Call::Attributes { .. } => "GetObjectAttributes",
            Call::Tags { .. } => "GetObjectTagging",
            Call::List { .. } => "ListObjectsV2",
            Call::ListVersions { .. } => "ListObjectVersions",
            Call::Put { .. } => "PutObject",
            Call::Delete { .. } | Call::DeleteVersion { .. } => "DeleteObject",
            Call::DeleteMany { .. } => "DeleteObjects",
            Call::Copy { .. } => "CopyObject",
            Call::CreateUpload => "CreateMultipartUpload",
            Call::UploadPart { .. } => "UploadPart",
            Call::UploadPartCopy { .. } => "UploadPartCopy",
            Call::CompleteUpload { .. } => "CompleteMultipartUpload",
            Call::AbortUpload => "AbortMultipartUpload",
            Call::ListParts => "ListParts",
            Call::ListUploads => "ListMultipartUploads",
        }
    }

    /// The object that it changes or reads, or the prefix that it lists, where it tells of one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Call::Get { key, .. }
            | Call::Head { key }
            | Call::Attributes { key }
            | Call::Tags { key }
            | Call::Put { key, .. }
            | Call::UploadPart { key, .. }
            | Call::Delete { key }
            | Call::DeleteVersion { key }
            | Call::CompleteUpload { key }
            | Call::List { prefix: key }
            | Call::ListVersions { prefix: key }
            | Call::Copy { target: key, .. } => Some(key),
            Call::DeleteMany { .. }
            | Call::CreateUpload
            | Call::UploadPartCopy { .. }
            | Call::AbortUpload
            | Call::ListParts
            | Call::ListUploads => None,
        }
    }

    /// Whether it changes something in the store.
    pub fn is_change(self) -> bool {
        match self {
            Call::Put { .. }
            | Call::Delete { .. }
            | Call::DeleteVersion { .. }
            | Call::DeleteMany { .. }
            | Call::Copy { .. }
            | Call::CreateUpload
            | Call::UploadPart { .. }
            | Call::UploadPartCopy { .. }
            | Call::CompleteUpload { .. }
            | Call::AbortUpload => true,
            Call::Get { .. }
            | Call::Head { .. }
            | Call::Attributes { .. }
            | Call::Tags { .. }
            | Call::List { .. }
            | Call::ListVersions { .. }
            | Call::ListParts
            | Call::ListUploads => false,
        }
    }

    /// Whether a store that is there begins to answer at once: there is no body to send and little to do.
    pub fn is_quick(self) -> bool {
        matches!(
            self,
            Call::Get { .. } | Call::Head { .. } | Call::List { .. } | Call::ListVersions { .. }
        )
    }

    /// Whether it asks for names or attributes only: a program waits for those.
    pub fn is_metadata(self) -> bool {
        matches!(self, Call::Head { .. } | Call::List { .. } | Call::ListVersions { .. })
    }

    /// The keys whose objects it makes, replaces or deletes.
    pub fn changes(&self) -> &[Key] {
        match self {
            Call::Put { key, .. }
            | Call::Delete { key }
            | Call::DeleteVersion { key }
            | Call::CompleteUpload { key }
            | Call::Copy { target: key, .. } => std::slice::from_ref(*key),
            Call::DeleteMany { keys } => keys,
            Call::Get { .. }
            | Call::Head { .. }
            | Call::Attributes { .. }
            | Call::Tags { .. }
            | Call::List { .. }
            | Call::ListVersions { .. }
            | Call::CreateUpload
            | Call::UploadPart { .. }
            | Call::UploadPartCopy { .. }
            | Call::AbortUpload
            | Call::ListParts
            | Call::ListUploads => &[],
        }
    }

    /// The length of the body that goes up.
    pub fn bytes_up(self) -> u64 {
        match self {
            Call::Put { bytes, .. } | Call::UploadPart { bytes, .. } => bytes,
            _ => 0,
        }
    }
}

/// A wrapper of a store.
pub trait Layer: Send + Sync + 'static {
    /// What it is laid on.
    type Below: Store + ?Sized;

    fn below(&self) -> &Self::Below;

    /// One request. Each `send` sends it: a layer may wait before it, do it again, or not do it at all.
    fn pass<T, F>(
        &self,
        call: Call<'_>,
        send: impl Fn() -> F + Send + Sync,
    ) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: Future<Output = Result<T>> + Send;

    /// A GET, whose body goes on when it was answered.
    fn pass_get(
        &self,
        key: &Key,
        range: ByteRange,
        if_match: &ETag,
    ) -> impl Future<Output = Result<Body>> + Send {
        let call = Call::Get { key, bytes: range.len() };
        async move { self.pass(call, || self.below().get(key, range, if_match)).await }
    }

    /// A HEAD.
    fn pass_head(&self, key: &Key) -> impl Future<Output = Result<ObjectHead>> + Send {
        async move { self.pass(Call::Head { key }, || self.below().head(key)).await }
    }

    /// A listing.
    fn pass_list(&self, request: &ListRequest) -> impl Future<Output = Result<ListPage>> + Send {
        let call = Call::List { prefix: &request.prefix };
        async move { self.pass(call, || self.below().list(request)).await }
    }

    /// A CreateMultipartUpload, which may take effect though its answer is lost.
    fn pass_create_upload(
        &self,
        key: &Key,
        options: &WriteOptions,
    ) -> impl Future<Output = Result<Created>> + Send {
        async move { self.pass(Call::CreateUpload, || self.below().create_upload(key, options)).await }
    }

    /// A PUT, which may take effect though its answer is lost.
    fn pass_put(
        &self,
        key: &Key,
        body: Summed,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> impl Future<Output = Result<ETag>> + Send {
        let call = Call::Put { key, bytes: body.sum.len };
        async move {
            let send = || self.below().put(key, body.clone(), options, precondition);
            self.pass(call, send).await
        }
    }

    /// A CopyObject, which may take effect though its answer is lost.
    fn pass_copy(&self, request: &CopyRequest) -> impl Future<Output = Result<ETag>> + Send {
        let call = Call::Copy { source: &request.source, target: &request.target };
        async move { self.pass(call, || self.below().copy(request)).await }
    }

    /// An UploadPartCopy of the version that is meant.
    fn pass_upload_part_copy(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        source: &Key,
        source_etag: &ETag,
        range: ByteRange,
    ) -> impl Future<Output = Result<ETag>> + Send {
        async move {
            let below = self.below();
            let send =
                || below.upload_part_copy(key, upload_id, number, source, source_etag, range);
            self.pass(Call::UploadPartCopy { source }, send).await
        }
    }

    /// A DeleteObject, which may take effect though its answer is lost.
    fn pass_delete(
        &self,
        key: &Key,
        if_match: Option<&ETag>,
    ) -> impl Future<Output = Result<()>> + Send {
        let call = Call::Delete { key };
        async move { self.pass(call, || self.below().delete(key, if_match)).await }
    }

    /// A DeleteObjects, whose keys may fail one by one.
    fn pass_delete_many(
        &self,
        keys: &[Key],
    ) -> impl Future<Output = Result<Vec<Result<()>>>> + Send {
        let call = Call::DeleteMany { keys };
        async move { self.pass(call, || self.below().delete_many(keys)).await }
    }
}

#[async_trait]
impl<L: Layer> Store for L {
    fn capabilities(&self) -> Capabilities {
        self.below().capabilities()
    }

    fn clock(&self) -> Arc<StoreClock> {
        self.below().clock()
    }

    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        self.pass_get(key, range, if_match).await
    }

    fn known_sum(&self, key: &Key, etag: &ETag) -> Option<ObjectSum> {
        self.below().known_sum(key, etag)
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.pass_head(key).await
    }

    async fn head_version(&self, key: &Key, version: &VersionId) -> Result<ObjectHead> {
        self.pass(Call::Head { key }, || self.below().head_version(key, version)).await
    }

    fn pin(&self, key: &Key, etag: &ETag, version: &VersionId) {
        self.below().pin(key, etag, version);
    }

    async fn part_sums(&self, key: &Key, etag: &ETag) -> Result<Vec<Stretch>> {
        let call = Call::Attributes { key };
        self.pass(call, || self.below().part_sums(key, etag)).await
    }

    async fn tags(&self, key: &Key) -> Result<Tags> {
        self.pass(Call::Tags { key }, || self.below().tags(key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.pass_list(request).await
    }

    async fn list_versions(&self, request: &VersionsRequest) -> Result<VersionsPage> {
        let call = Call::ListVersions { prefix: &request.prefix };
        self.pass(call, || self.below().list_versions(request)).await
    }

    async fn put(
        &self,
        key: &Key,
        body: Summed,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        self.pass_put(key, body, options, precondition).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<()> {
        self.pass_delete(key, if_match).await
    }

    async fn delete_version(&self, key: &Key, version: &VersionId) -> Result<()> {
        let call = Call::DeleteVersion { key };
        self.pass(call, || self.below().delete_version(key, version)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        self.pass_delete_many(keys).await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ETag> {
        self.pass_copy(request).await
    }

    async fn create_upload(&self, key: &Key, options: &WriteOptions) -> Result<Created> {
        self.pass_create_upload(key, options).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        body: PartBody,
    ) -> Result<ETag> {
        let call = Call::UploadPart { key, bytes: body.len() };
        let send = || self.below().upload_part(key, upload_id, number, body.clone());
        self.pass(call, send).await
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
        self.pass_upload_part_copy(key, upload_id, number, source, source_etag, range).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload_id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
    ) -> Result<ETag> {
        let send = || self.below().complete_upload(key, upload_id, parts, precondition);
        self.pass(Call::CompleteUpload { key }, send).await
    }

    async fn abort_upload(&self, key: &Key, upload_id: &UploadId) -> Result<()> {
        self.pass(Call::AbortUpload, || self.below().abort_upload(key, upload_id)).await
    }

    async fn list_parts(&self, key: &Key, upload_id: &UploadId) -> Result<Vec<StoredPart>> {
        self.pass(Call::ListParts, || self.below().list_parts(key, upload_id)).await
    }

    async fn list_uploads(&self, prefix: &Key) -> Result<Vec<ListedUpload>> {
        self.pass(Call::ListUploads, || self.below().list_uploads(prefix)).await
    }
}
