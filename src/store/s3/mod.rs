//! The S3 client: [`S3Store`], the [`Store`] trait over HTTP.
//!
//! - `settings`, `provider`, `endpoint`, `region`: which server to talk to and under which URL; `table`: what is known of
//!   each provider beforehand; `access_point`: buckets by another name;
//! - `transport`: the HTTP client, its proxy and addresses; `trust`: the certificates that are trusted;
//! - `identity`: credentials; `sign`: signatures; `exchange`: one request and its answer; `body`: what goes out;
//! - `status`: what failures mean; `refusal`: which of them are sent again at once; `explain`: which of them have a cure
//!   that is about one object; `customer_key`: SSE-C;
//! - `client`: what a store is made of, and how it is asked;
//! - `headers`, `xml`: the formats; `told`: checksums that HEADs have told; `pins`: versions that are meant; `checksum`: what bodies are verified by; `confirm`: that they were;
//! - `object`, `attributes`, `list`, `upload`, `versions`: the operations; `probe`: the check before a mount; `policy`: the rights
//!   that it needs.
//!
//! Consistency: an answer is believed only when its status, length, range and ETag are what was asked for;
//! otherwise it is an error of kind `Corrupt`. Retries: none (see [`crate::store::retry`]). Cancellation:
//! dropping a future closes its connection. Crash: nothing is kept on this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::{
    Body, Capabilities, CopyRequest, Created, ETag, Key, ListPage, ListRequest, ListedUpload,
    ObjectHead, ObjectSum, PartBody, Precondition, Result, Store, StoreClock, StoredPart, Summed,
    Tags, UploadId, VersionId, VersionsPage, VersionsRequest, WriteOptions,
};
use crate::checked::Stretch;
use crate::range::ByteRange;

mod access_point;
mod attributes;
mod body;
mod checksum;
mod client;
mod confirm;
mod customer_key;
mod endpoint;
mod exchange;
mod explain;
mod headers;
mod identity;
mod list;
mod object;
mod pins;
mod policy;
pub mod probe;
pub mod provider;
mod refusal;
#[cfg(test)]
mod refusal_tests;
mod region;
mod settings;
#[cfg(test)]
mod shape_tests;
mod sign;
#[cfg(test)]
mod stand_in;
mod status;
mod table;
mod told;
mod transport;
mod trust;
mod upload;
mod versions;
mod xml;

pub use access_point::AccessPoint;
pub use client::S3Store;
pub use customer_key::CustomerKey;
pub use endpoint::{check_key, is_plain_http_elsewhere};
pub use identity::configured_endpoint;
pub use policy::{Right, least as least_policy};
pub use probe::{cure, identify};
pub use provider::Provider;
pub use settings::{Addressing, ClientCertificate, NewObjects, S3Settings, StaticCredentials};

#[async_trait]
impl Store for S3Store {
    fn clock(&self) -> Arc<StoreClock> {
        self.clock.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let known = &self.provider().row().capabilities;
        let kept = |known: bool, refused: &AtomicBool| known && !refused.load(Ordering::Relaxed);
        Capabilities {
            conditional_writes: kept(known.conditional_writes, &self.refused.conditional_writes),
            conditional_deletes: kept(known.conditional_deletes, &self.refused.conditional_deletes),
            conditional_copies: kept(known.conditional_copies, &self.refused.conditional_copies),
            equal_parts: known.equal_parts,
            lists_uploads: kept(known.lists_uploads, &self.refused.lists_uploads),
            copies_parts: kept(known.copies_parts, &self.refused.copies_parts),
            marker_metadata: known.marker_metadata,
            tells_sums: known.tells_sums,
            tells_part_sums: known.tells_part_sums,
            keeps_folders: known.keeps_folders,
        }
    }

    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        object::get(self, key, range, if_match).await
    }

    fn known_sum(&self, key: &Key, etag: &ETag) -> Option<ObjectSum> {
        self.told.of(key, etag)
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        object::head(self, key, &[]).await
    }

    async fn head_version(&self, key: &Key, version: &VersionId) -> Result<ObjectHead> {
        versions::head(self, key, version).await
    }

    fn pin(&self, key: &Key, etag: &ETag, version: &VersionId) {
        self.pins.pin(key, etag, version);
    }

    async fn part_sums(&self, key: &Key, etag: &ETag) -> Result<Vec<Stretch>> {
        attributes::part_sums(self, key, etag).await
    }

    async fn tags(&self, key: &Key) -> Result<Tags> {
        object::tags(self, key).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        list::objects(self, request).await
    }

    async fn list_versions(&self, request: &VersionsRequest) -> Result<VersionsPage> {
        versions::list(self, request).await
    }

    async fn put(
        &self,
        key: &Key,
        body: Summed,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        object::put(self, key, body, options, precondition).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<()> {
        object::delete(self, key, if_match).await
    }

    async fn delete_version(&self, key: &Key, version: &VersionId) -> Result<()> {
        versions::delete(self, key, version).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        object::delete_many(self, keys).await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ETag> {
        object::copy(self, request).await
    }

    async fn create_upload(&self, key: &Key, options: &WriteOptions) -> Result<Created> {
        upload::create(self, key, options).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload_id: &UploadId,
        number: u32,
        body: PartBody,
    ) -> Result<ETag> {
        upload::part(self, key, upload_id, number, body).await
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
        let from = upload::CopySource { key: source, etag: source_etag, range };
        upload::part_copy(self, key, upload_id, number, from).await
    }

    async fn complete_upload(
        &self,
        key: &Key,
        upload_id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
    ) -> Result<ETag> {
        upload::complete(self, key, upload_id, parts, precondition).await
    }

    async fn abort_upload(&self, key: &Key, upload_id: &UploadId) -> Result<()> {
        upload::abort(self, key, upload_id).await
    }

    async fn list_parts(&self, key: &Key, upload_id: &UploadId) -> Result<Vec<StoredPart>> {
        list::parts(self, key, upload_id).await
    }

    async fn list_uploads(&self, prefix: &Key) -> Result<Vec<ListedUpload>> {
        list::uploads(self, prefix).await
    }
}
