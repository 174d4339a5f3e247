//! Signatures, by the signing library, which only this file and [`super::credentials`] know.
//!
//! Credentials are found where AWS tools look: environment, profile files, SSO token cache, web identity,
//! credential_process, ECS, IMDSv2; cached, and refreshed before they expire. Not covered, because the
//! library does not read them, and refused: `role_arn` with `source_profile` in a profile, and the refresh of an
//! `sso_session` (run `aws sso login` again). Payloads are not signed (UNSIGNED-PAYLOAD): over TLS the
//! signature would only repeat what TLS ensures, and over plain http a hash of every part costs more than
//! half the throughput of a core.
//!
//! The library signs with this machine's clock; a skewed clock is reported, not corrected.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::Signer as LibrarySigner;

use super::credentials::{self, Chain, Notes};
use super::settings::S3Settings;
use crate::store::{ErrorKind, Result, StoreError};

/// How long the link-local metadata services may take to accept: they answer in microseconds where they
/// exist, and elsewhere a mount without credentials must not hang on them.
const METADATA_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const METADATA_TIMEOUT: Duration = Duration::from_secs(15);

/// Signs request heads, or leaves them alone for anonymous access.
pub struct Signer {
    library: Option<LibrarySigner<Credential>>,
    /// Whether credentials were found once: from then on a failure is an outage of their source.
    found: AtomicBool,
    /// The profile that was named to take them from.
    profile: Option<String>,
    /// Why there are no credentials.
    notes: Notes,
}

impl Signer {
    pub fn new(settings: &S3Settings, region: &str) -> Result<Signer> {
        let profile = settings.profile.clone();
        if settings.no_sign_request {
            let (found, notes) = (AtomicBool::new(true), Notes::default());
            return Ok(Signer { library: None, found, profile, notes });
        }
        let client = reqwest::Client::builder()
            .connect_timeout(METADATA_CONNECT_TIMEOUT)
            .timeout(METADATA_TIMEOUT)
            .build()
            .map_err(|err| error(ErrorKind::Invalid, format!("no HTTP client: {err}")))?;
        let notes = Notes::default();
        let context = credentials::context(settings, client, &notes);
        let chain = Chain::new(settings, notes.clone());
        let library = LibrarySigner::new(context, chain, RequestSigner::new("s3", region));
        Ok(Signer { library: Some(library), found: AtomicBool::new(false), profile, notes })
    }

    /// Adds the signature's headers. The URI is left as it is.
    pub async fn sign(&self, head: &mut http::request::Parts) -> Result<()> {
        let Some(library) = &self.library else { return Ok(()) };
        match library.sign(head, None).await {
            Ok(()) => {
                self.found.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(err) => Err(self.explain(&err)),
        }
    }

    /// In words of our own: the library's can quote what helpers print and credential services answer.
    fn explain(&self, err: &reqsign_core::Error) -> StoreError {
        let err = self.notes.take().unwrap_or_else(|| err.kind().to_string());
        if self.found.load(Ordering::Relaxed) {
            return error(ErrorKind::Transient, format!("cannot renew the credentials: {err}"));
        }
        let place = match &self.profile {
            Some(profile) => format!(" in the profile {profile:?}"),
            None => String::new(),
        };
        let message = format!("no usable credentials{place}: {err}");
        let mut denied = error(ErrorKind::Denied, message);
        denied.code = Some(NO_CREDENTIALS.to_owned());
        denied
    }
}

/// The code of errors that say that no credentials were found.
pub const NO_CREDENTIALS: &str = "NoCredentials";

fn error(kind: ErrorKind, message: String) -> StoreError {
    StoreError::new(kind, "Sign", message)
}
