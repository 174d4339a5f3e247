//! An answer that refuses a request, and which refusals another request can mend: those of credentials that have expired,
//! and of a time of signing that is not the store's.

use std::time::SystemTime;

use http::Method;

use super::identity::Held;
use super::sign::Signed;
use crate::store::{StoreClock, StoreError};

/// The error that an unsuccessful answer tells, with the region that it names, if that can be one.
pub struct Refusal {
    pub error: StoreError,
    pub region: Option<String>,
    /// What was refused; `None` where no answer came.
    pub signed: Option<Signed>,
    /// When, by the store's clock.
    pub date: Option<SystemTime>,
}

impl From<StoreError> for Box<Refusal> {
    fn from(error: StoreError) -> Self {
        Box::new(Refusal::new(error, None))
    }
}

impl Refusal {
    pub fn new(error: StoreError, region: Option<String>) -> Refusal {
        Refusal { error, region, signed: None, date: None }
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
