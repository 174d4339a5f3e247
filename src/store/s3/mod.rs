//! The S3 client: [`S3Store`], the [`Store`] trait over HTTP.
//!
//! - `settings`, `provider`, `endpoint`, `region`: whom to talk to and under which URL;
//! - `sign`: credentials and signatures; `exchange`: one request and its answer; `status`: what failures mean;
//! - `headers`, `xml`: the formats; `checksum`: what bodies are verified by;
//! - `object`, `list`, `upload`: the operations; `probe`: the check before a mount.
//!
//! Consistency: an answer is believed only when its status, length, range and ETag are what was asked for;
//! otherwise it is an error of kind `Corrupt`. Retries: none (see [`crate::store::retry`]). Cancellation:
//! dropping a future closes its connection. Crash: nothing is kept on this machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode};

use super::{
    Body, Capabilities, CopyRequest, Created, ETag, ErrorKind, Key, ListPage, ListRequest,
    ListedUpload, ObjectHead, PartBody, Precondition, Result, Store, StoreClock, StoreError,
    StoredPart, Tags, UploadId, WriteOptions,
};
use crate::range::ByteRange;

mod checksum;
mod credentials;
mod endpoint;
mod exchange;
mod headers;
mod list;
mod object;
pub mod probe;
mod profile;
pub mod provider;
mod region;
mod settings;
mod sign;
mod status;
mod upload;
mod xml;

pub use endpoint::check_key;
pub use probe::cure;
pub use provider::Provider;
pub use settings::{Addressing, S3Settings, StaticCredentials};

use exchange::{Request, Route};

/// A bucket at an S3 endpoint.
pub struct S3Store {
    settings: S3Settings,
    client: Client,
    /// Swapped once at most: when the store's first answer corrects a guessed region.
    route: ArcSwap<Route>,
    provider: Provider,
    /// The provider that the first answer's `Server` header named, where the endpoint did not.
    refined: OnceLock<Provider>,
    refused: Refused,
    checksums: checksum::Known,
    clock: Arc<StoreClock>,
}

/// Capabilities that the store turned out not to have.
#[derive(Default)]
struct Refused {
    conditional_writes: AtomicBool,
    lists_uploads: AtomicBool,
    copies_parts: AtomicBool,
}

impl S3Store {
    /// Checks the settings and prepares the client. Sends nothing: a mount may begin without a network;
    /// [`S3Store::probe`] tells whether the store answers.
    pub async fn connect(settings: S3Settings) -> Result<S3Store> {
        let provider = endpoint::provider_of(&settings)?;
        let region = region::find(&settings, provider).await;
        let route = Route::new(&settings, provider, region.name, region.guessed)?;
        Ok(S3Store {
            client: exchange::client(&settings)?,
            route: ArcSwap::from_pointee(route),
            provider,
            refined: OnceLock::new(),
            refused: Refused::default(),
            checksums: checksum::Known::default(),
            clock: Arc::default(),
            settings,
        })
    }

    /// The provider as far as it is known by now.
    pub fn provider(&self) -> Provider {
        self.refined.get().copied().unwrap_or(self.provider)
    }

    /// The region that requests are signed for.
    #[cfg(test)]
    pub fn region(&self) -> String {
        self.route.load().region.clone()
    }

    /// `https://host[:port]` that requests go to.
    pub fn origin(&self) -> String {
        self.route.load().target.origin().to_owned()
    }

    /// Whether signed requests go over a network as plain text.
    pub fn is_in_the_clear(&self) -> bool {
        endpoint::is_in_the_clear(&self.settings)
    }

    fn silence(&self) -> Duration {
        self.settings.request_timeout
    }

    /// Sends a request; an answer that is no success (2xx) is an error.
    async fn send(&self, mut request: Request<'_>) -> Result<Response> {
        if self.settings.requester_pays {
            request.headers.insert("x-amz-request-payer", HeaderValue::from_static("requester"));
        }
        let route = self.route.load_full();
        match self.send_over(&route, &request).await {
            Ok(response) => Ok(response),
            Err((err, Some(region))) if route.guessed && region != route.region => {
                log::info!("the store's region is {region}, not {}", route.region);
                let corrected = Arc::new(Route::new(&self.settings, self.provider, region, false)?);
                self.route.store(corrected.clone());
                log::debug!("sending {} again after {err}", request.operation);
                self.send_over(&corrected, &request).await.map_err(|(err, _)| err)
            }
            Err((err, _)) => Err(err),
        }
    }

    /// The error comes with the region that the answer names.
    async fn send_over(
        &self,
        route: &Route,
        request: &Request<'_>,
    ) -> Result<Response, (StoreError, Option<String>)> {
        let sent = SystemTime::now();
        let response = exchange::exchange(&self.client, route, request, self.silence())
            .await
            .map_err(|err| (err, None))?;
        if let Some(date) = headers::date_of(response.headers()) {
            self.clock.note(sent, date);
        }
        self.refine(response.headers());
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT => {
                return Ok(response);
            }
            // Accepted, for instance: what was asked for is not done.
            other if other.is_success() => {
                let message = format!("{other} is no answer to this request");
                return Err((
                    StoreError::new(ErrorKind::Corrupt, request.operation, message),
                    None,
                ));
            }
            _ => {}
        }
        let refusal = exchange::refusal(request.operation, response, self.silence()).await;
        self.learn(request, &refusal.error);
        Err((refusal.error, refusal.region))
    }

    /// Sends a request and reads the XML of its answer.
    async fn send_for_xml(&self, request: Request<'_>) -> Result<Vec<u8>> {
        let (operation, bytes_max) = (request.operation, request.answer_max);
        let silence = self.silence() * if request.slow { exchange::SLOW_TIMES } else { 1 };
        let mut response = self.send(request).await?;
        exchange::read_body(operation, &mut response, bytes_max, silence).await
    }

    /// Sends a request whose answer is its headers. An error in the body, behind a 200, is an error.
    async fn send_for_headers(&self, request: Request<'_>) -> Result<HeaderMap> {
        let (operation, bytes_max) = (request.operation, request.answer_max);
        let mut response = self.send(request).await?;
        exchange::read_body(operation, &mut response, bytes_max, self.silence()).await?;
        Ok(std::mem::take(response.headers_mut()))
    }

    fn refine(&self, headers: &HeaderMap) {
        if self.provider == Provider::Other
            && self.settings.provider == Provider::Auto
            && let Some(server) = headers::text(headers, "server")
            && let Some(provider) = Provider::of_server_header(&server)
        {
            self.refined.get_or_init(|| provider);
        }
    }

    /// Remembers what the store said it cannot do.
    fn learn(&self, request: &Request<'_>, error: &StoreError) {
        if error.kind != ErrorKind::Unsupported {
            return;
        }
        let is_write = matches!(request.operation, "PutObject" | "CompleteMultipartUpload");
        let conditional =
            ["if-match", "if-none-match"].iter().any(|name| request.headers.contains_key(*name));
        let refused = match request.operation {
            _ if is_write && conditional => &self.refused.conditional_writes,
            "ListMultipartUploads" => &self.refused.lists_uploads,
            "UploadPartCopy" => &self.refused.copies_parts,
            _ => return,
        };
        if !refused.swap(true, Ordering::Relaxed) {
            log::info!("the store does not offer this, it is not used any more: {error}");
        }
    }
}

impl Route {
    fn new(
        settings: &S3Settings,
        provider: Provider,
        region: String,
        guessed: bool,
    ) -> Result<Route> {
        Ok(Route {
            target: endpoint::Target::new(settings, provider, &region)?,
            signer: sign::Signer::new(settings, &region)?,
            region,
            guessed,
        })
    }
}

#[async_trait]
impl Store for S3Store {
    fn clock(&self) -> Arc<StoreClock> {
        self.clock.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let known = self.provider().profile().capabilities;
        let kept = |known: bool, refused: &AtomicBool| known && !refused.load(Ordering::Relaxed);
        Capabilities {
            conditional_writes: kept(known.conditional_writes, &self.refused.conditional_writes),
            equal_parts: known.equal_parts,
            lists_uploads: kept(known.lists_uploads, &self.refused.lists_uploads),
            copies_parts: kept(known.copies_parts, &self.refused.copies_parts),
            marker_metadata: known.marker_metadata,
            keeps_folders: known.keeps_folders,
        }
    }

    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        object::get(self, key, range, if_match).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        object::head(self, key).await
    }

    async fn tags(&self, key: &Key) -> Result<Tags> {
        object::tags(self, key).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        list::objects(self, request).await
    }

    async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        object::put(self, key, body, options, precondition).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        object::delete(self, key).await
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
