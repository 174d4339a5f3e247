//! An answer that refuses a request, and which refusals another request can mend: those of credentials that have expired,
//! of a time of signing that is not the store's, and of a region that is not the bucket's.

use std::time::SystemTime;

use http::Method;

use super::endpoint::{host_of, is_region};
use super::identity::Held;
use super::provider::Provider;
use super::sign::Signed;
use crate::store::{StoreClock, StoreError};

/// The code of an error that is a redirect to another host.
pub const SENT_ON: &str = "SentOnElsewhere";

/// The error that an unsuccessful answer tells.
pub struct Refusal {
    pub error: StoreError,
    /// The bucket's, as the answer names it; a text that can be one.
    pub region: Option<String>,
    /// `scheme://host[:port]` that the answer sends the request on to.
    pub sent_on: Option<String>,
    /// What was refused; `None` where no answer came.
    pub signed: Option<Signed>,
    /// When, by the store's clock.
    pub date: Option<SystemTime>,
}

impl From<StoreError> for Box<Refusal> {
    fn from(error: StoreError) -> Self {
        Box::new(Refusal::new(error))
    }
}

impl Refusal {
    pub fn new(error: StoreError) -> Refusal {
        Refusal { error, region: None, sent_on: None, signed: None, date: None }
    }

    /// The region that the bucket is in, where the answer tells: by its name, or by a host of the provider's own.
    pub fn region(&self, provider: Provider) -> Option<String> {
        let of_host = || {
            let host = host_of(self.sent_on.as_deref()?).ok()?;
            let is_own = Provider::of_host(&host) == Some(provider);
            provider.region_of_host(&host).filter(|region| is_own && is_region(region))
        };
        self.region.clone().or_else(of_host)
    }

    /// The error for the caller. One that sends the request on to another host says to which: nothing is sent there, since
    /// what is signed is for the store that the user named.
    pub fn into_error(self) -> StoreError {
        let is_redirect = matches!(self.error.status, Some(301 | 302 | 307 | 308));
        match self.sent_on {
            Some(host) if is_redirect && self.region.is_none() => StoreError {
                message: format!("the store sends requests on to {host}, which is not followed"),
                code: Some(SENT_ON.to_owned()),
                ..self.error
            },
            _ => self.error,
        }
    }

    /// Whether the time of the signature was refused, and is not the store's. The answer to a HEAD has no code.
    pub fn is_skewed(&self, method: &Method, signed: &Signed) -> bool {
        let is_said = match self.error.code.as_deref() {
            Some(code) => code == "RequestTimeTooSkewed",
            None => *method == Method::HEAD && self.error.status == Some(403),
        };
        is_said && self.date.is_some_and(|date| StoreClock::are_apart(signed.at, date))
    }

    /// Whether the credentials were refused because they have expired. S3 answers a HEAD so with a bare 400, which
    /// means nothing else there.
    pub fn is_expired(&self, method: &Method, used: &Held) -> bool {
        match self.error.code.as_deref() {
            // The last is OSS's.
            Some(code) => {
                matches!(code, "ExpiredToken" | "TokenRefreshRequired" | "SecurityTokenExpired")
            }
            None => {
                let is_head = *method == Method::HEAD;
                is_head && self.error.status == Some(400) && used.has_token()
            }
        }
    }
}
