//! [`S3Store`]: what it is made of, and how a request goes to it and an answer comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode};

use super::exchange::{Request, Route};
use super::provider::Provider;
use super::settings::S3Settings;
use super::told::ToldSums;
use super::{checksum, endpoint, exchange, headers, region, sign, transport};
use crate::clock;
use crate::store::unpooled::is_unpooled;
use crate::store::{ErrorKind, RequestId, Result, StoreClock, StoreError};

/// A bucket at an S3 endpoint.
pub struct S3Store {
    pub(super) settings: S3Settings,
    pub(super) client: Client,
    /// Swapped once at most: when the store's first answer corrects a guessed region.
    pub(super) route: ArcSwap<Route>,
    pub(super) provider: Provider,
    /// The provider that the first answer's `Server` header named, where the endpoint did not.
    pub(super) refined: OnceLock<Provider>,
    pub(super) refused: Refused,
    pub(super) checksums: checksum::Known,
    pub(super) told: ToldSums,
    pub(super) clock: Arc<StoreClock>,
}

/// A successful answer. Whatever refuses it names it, since its body is seen by [`Answer::read`] alone.
pub(super) struct Answer {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn read<T>(&self, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        read(&self.body).map_err(headers::of_answer(&self.headers))
    }

    pub(super) fn request_id(&self) -> Option<RequestId> {
        headers::request_id(&self.headers)
    }
}

/// Capabilities that the store turned out not to have.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) conditional_writes: AtomicBool,
    pub(super) lists_uploads: AtomicBool,
    pub(super) copies_parts: AtomicBool,
}

impl S3Store {
    /// Checks the settings and prepares the client. Sends nothing: a mount may begin without a network;
    /// [`S3Store::probe`] tells whether the store answers.
    pub async fn connect(settings: S3Settings) -> Result<S3Store> {
        let provider = endpoint::provider_of(&settings)?;
        let region = region::find(&settings, provider).await;
        let route = Route::new(&settings, provider, region.name, region.guessed)?;
        Ok(S3Store {
            client: transport::client(&settings)?,
            route: ArcSwap::from_pointee(route),
            provider,
            refined: OnceLock::new(),
            refused: Refused::default(),
            checksums: checksum::Known::default(),
            told: ToldSums::default(),
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

    pub(super) fn silence(&self) -> Duration {
        self.settings.connections.request_timeout
    }

    /// Sends a request; an answer that is no success (2xx) is an error.
    pub(super) async fn send(&self, mut request: Request<'_>) -> Result<Response> {
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
        let sent = clock::wall();
        let response = match is_unpooled() {
            false => exchange::exchange(&self.client, route, request, self.silence()).await,
            true => match transport::client(&self.settings) {
                Ok(own) => exchange::exchange(&own, route, request, self.silence()).await,
                Err(err) => Err(err),
            },
        };
        let response = response.map_err(|err| (err, None))?;
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
                let error = StoreError::new(ErrorKind::Corrupt, request.operation, message);
                return Err((headers::of_answer(response.headers())(error), None));
            }
            _ => {}
        }
        let refusal = exchange::refusal(request.operation, response, self.silence()).await;
        self.learn(request, &refusal.error);
        Err((refusal.error, refusal.region))
    }

    /// Sends a request and takes in its whole answer, which is XML.
    pub(super) async fn send_for_xml(&self, request: Request<'_>) -> Result<Answer> {
        let (operation, bytes_max) = (request.operation, request.answer_max);
        let silence = self.silence() * if request.slow { exchange::SLOW_TIMES } else { 1 };
        let mut response = self.send(request).await?;
        let body = exchange::read_body(operation, &mut response, bytes_max, silence).await?;
        Ok(Answer { headers: std::mem::take(response.headers_mut()), body })
    }

    /// Sends a request whose answer is its headers. An error in the body, behind a 200, is an error.
    pub(super) async fn send_for_headers(&self, request: Request<'_>) -> Result<HeaderMap> {
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
