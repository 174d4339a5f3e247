//! [`S3Store`]: what it is made of, and how a request goes to it and an answer comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode};

use super::exchange::{Request, Route};
use super::identity::Cache;
use super::pins::Pins;
use super::provider::{Provider, Variant};
use super::refusal::Refusal;
use super::settings::S3Settings;
use super::told::ToldSums;
use super::{checksum, endpoint, exchange, explain, headers, identity, region, sign, transport};
use crate::clock;
use crate::store::unpooled::is_unpooled;
use crate::store::{ErrorKind, RequestId, Result, StoreClock, StoreError};

/// A bucket at an S3 endpoint.
pub struct S3Store {
    pub(super) settings: S3Settings,
    pub(super) client: Client,
    /// `None` for anonymous access.
    pub(super) credentials: Option<Arc<Cache>>,
    /// Swapped once at most: when an answer says that the bucket is in another region.
    pub(super) route: ArcSwap<Route>,
    pub(super) provider: Provider,
    /// The provider that the first answer's `Server` header named, where the endpoint did not.
    pub(super) refined: OnceLock<Provider>,
    pub(super) refused: Refused,
    pub(super) checksums: checksum::Known,
    pub(super) told: ToldSums,
    pub(super) pins: Pins,
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
    pub(super) conditional_deletes: AtomicBool,
    pub(super) conditional_copies: AtomicBool,
    pub(super) lists_uploads: AtomicBool,
    pub(super) copies_parts: AtomicBool,
}

/// What was sent again already.
#[derive(Default)]
struct Tried {
    credentials: bool,
    clock: bool,
}

impl S3Store {
    /// Checks the settings and prepares the client. Sends nothing: a mount may begin without a network;
    /// [`S3Store::probe`] tells whether the store answers.
    pub async fn connect(settings: S3Settings) -> Result<S3Store> {
        let provider = endpoint::provider_of(&settings)?;
        endpoint::keep_key_off_the_network(&settings)?;
        let region = region::find(&settings, provider).await;
        let variant = region::find_variant(&settings, provider).await?;
        let clock = Arc::new(StoreClock::default());
        let credentials =
            (!settings.no_sign_request).then(|| identity::open(&settings, provider, &clock).0);
        let signer = sign::Signer::new(credentials.clone(), &region, clock.clone());
        let route = Route::new(&settings, provider, signer, variant)?;
        Ok(S3Store {
            client: transport::client(&settings)?,
            credentials,
            route: ArcSwap::from_pointee(route),
            provider,
            refined: OnceLock::new(),
            refused: Refused::default(),
            checksums: checksum::Known::default(),
            told: ToldSums::default(),
            pins: Pins::default(),
            clock,
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

    /// Where it is, for what is said of its refusals.
    pub(super) fn at(&self) -> explain::At<'_> {
        explain::At { settings: &self.settings, provider: self.provider() }
    }

    pub(super) fn silence(&self) -> Duration {
        self.settings.connections.request_timeout
    }

    /// Sends a request; an answer that is no success (2xx) is an error. Sent again, once for each, where the answer shows
    /// that the bucket is in another region, that credentials have expired, or that this machine's clock is off.
    pub(super) async fn send(&self, mut request: Request<'_>) -> Result<Response> {
        if self.settings.requester_pays {
            request.headers.insert("x-amz-request-payer", HeaderValue::from_static("requester"));
        }
        if let Some(key) = &self.settings.new_objects.customer_key {
            key.put(request.operation, &mut request.headers);
        }
        let mut route = self.route.load_full();
        let mut tried = Tried::default();
        loop {
            let refused = match self.send_over(&route, &request).await {
                Ok(response) => return Ok(response),
                Err(refused) => refused,
            };
            let Some(mended) = self.mend(&route, &request, &refused, &mut tried).await? else {
                return Err(refused.into_error());
            };
            log::debug!("sending {} again after {}", request.operation, refused.error);
            route = mended;
        }
    }

    /// What to send over once more. `None` where that would be refused again.
    async fn mend(
        &self,
        route: &Arc<Route>,
        request: &Request<'_>,
        refused: &Refusal,
        tried: &mut Tried,
    ) -> Result<Option<Arc<Route>>> {
        let region = refused.region(self.provider).filter(|region| *region != route.region);
        if let Some(region) = region.filter(|_| route.may_move) {
            let moved = Arc::new(route.moved(&self.settings, self.provider, &region)?);
            let (before, origin) = (&route.region, moved.target.origin());
            log::info!("the bucket is in {region}, not in {before}: requests go to {origin}");
            self.route.store(moved.clone());
            return Ok(Some(moved));
        }
        let Some(signed) = &refused.signed else { return Ok(None) };
        if refused.is_skewed(&request.method, signed) && !std::mem::replace(&mut tried.clock, true)
        {
            return Ok(Some(route.clone()));
        }
        if let (Some(cache), Some(used)) = (&self.credentials, &signed.credentials)
            && refused.is_expired(&request.method, used)
            && !std::mem::replace(&mut tried.credentials, true)
        {
            let replaced = cache.replace(used).await.map_err(|mut err| {
                err.operation = request.operation;
                err
            })?;
            return Ok(replaced.then(|| route.clone()));
        }
        Ok(None)
    }

    /// One request and its answer.
    async fn send_over(
        &self,
        route: &Route,
        request: &Request<'_>,
    ) -> Result<Response, Box<Refusal>> {
        let sent = clock::wall();
        let (response, signed) = match is_unpooled() {
            false => exchange::exchange(&self.client, route, request, self.silence()).await?,
            true => {
                let own = transport::client(&self.settings)?;
                exchange::exchange(&own, route, request, self.silence()).await?
            }
        };
        let date = headers::date_of(response.headers());
        if let Some(date) = date {
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
                return Err(headers::of_answer(response.headers())(error).into());
            }
            _ => {}
        }
        let mut refusal = exchange::refusal(request.operation, response, self.silence()).await;
        self.learn(request, &refusal.error);
        refusal.error = explain::explained(self.at(), request, refusal.error);
        refusal.date = date;
        if let Some(date) = date.filter(|_| refusal.is_skewed(&request.method, &signed)) {
            // What was noted before may be from before this machine's clock was set.
            self.clock.set(sent, date);
        }
        refusal.signed = Some(signed);
        Err(Box::new(refusal))
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
        let (of_match, of_none) = self.provider().row().copy_conditions;
        let conditional = ["if-match", "if-none-match", of_match, of_none]
            .iter()
            .any(|name| request.headers.contains_key(*name));
        let refused = match request.operation {
            _ if is_write && conditional => &self.refused.conditional_writes,
            "DeleteObject" if conditional => &self.refused.conditional_deletes,
            "CopyObject" if conditional => &self.refused.conditional_copies,
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
        signer: sign::Signer,
        variant: Variant,
    ) -> Result<Route> {
        let region = signer.region().to_owned();
        let place = endpoint::Place { region: &region, variant };
        let target = endpoint::Target::new(settings, provider, place)?;
        Ok(Route { target, signer, region, variant, may_move: true })
    }

    /// To where the bucket is. Never to a host that is not the provider's own: what an answer tells is a region.
    fn moved(&self, settings: &S3Settings, provider: Provider, region: &str) -> Result<Route> {
        let mut settings = settings.clone();
        if let Some(endpoint) = endpoint::in_region(&settings, provider, region) {
            settings.endpoint_url = Some(endpoint);
        }
        let signer = self.signer.of_region(region);
        Ok(Route { may_move: false, ..Route::new(&settings, provider, signer, self.variant)? })
    }
}
