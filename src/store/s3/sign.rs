//! Credentials and signatures. The only file that knows the signing library.
//!
//! Credentials are found where AWS tools look: environment, profile files, SSO token cache, web identity,
//! credential_process, ECS, IMDSv2; cached, and refreshed before they expire. Not covered, because the
//! library does not read them: `role_arn` with `source_profile` in a profile, and the refresh of an
//! `sso_session` (run `aws sso login` again). Payloads are not signed (UNSIGNED-PAYLOAD): over TLS the
//! signature would only repeat what TLS ensures, and over plain http a hash of every part costs more than
//! half the throughput of a core.
//!
//! The library signs with this machine's clock; a skewed clock is reported, not corrected.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqsign_aws_v4::{
    Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider,
};
use reqsign_command_execute_tokio::TokioCommandExecute;
use reqsign_core::{Context, OsEnv, Signer as LibrarySigner};
use reqsign_file_read_tokio::TokioFileRead;
use reqsign_http_send_reqwest::ReqwestHttpSend;

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
}

impl Signer {
    pub fn new(settings: &S3Settings, region: &str) -> Result<Signer> {
        let profile = settings.profile.clone();
        if settings.no_sign_request {
            return Ok(Signer { library: None, found: AtomicBool::new(true), profile });
        }
        let client = reqwest::Client::builder()
            .connect_timeout(METADATA_CONNECT_TIMEOUT)
            .timeout(METADATA_TIMEOUT)
            .build()
            .map_err(|err| error(ErrorKind::Invalid, format!("no HTTP client: {err}")))?;
        let context = Context::new()
            .with_file_read(TokioFileRead)
            .with_http_send(ReqwestHttpSend::new(client))
            .with_command_execute(TokioCommandExecute)
            .with_env(OsEnv);
        let provider = provider(settings);
        let request_signer = RequestSigner::new("s3", region);
        let library = LibrarySigner::new(context, provider, request_signer);
        Ok(Signer { library: Some(library), found: AtomicBool::new(false), profile })
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

    /// Only the library's own message is told: its sources can quote the answers of credential services.
    fn explain(&self, err: &reqsign_core::Error) -> StoreError {
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

fn provider(settings: &S3Settings) -> DefaultCredentialProvider {
    if let Some(given) = &settings.credentials {
        let mut fixed = StaticCredentialProvider::new(&given.access_key, &given.secret_key);
        if let Some(token) = &given.session_token {
            fixed = fixed.with_session_token(token);
        }
        // Nothing else is asked: given credentials are meant.
        let chain = reqsign_core::ProvideCredentialChain::new().push(fixed);
        return DefaultCredentialProvider::with_chain(chain);
    }
    let builder = DefaultCredentialProvider::builder();
    match &settings.profile {
        // A profile named outright is meant: another source must not answer in its place.
        Some(profile) => {
            builder.with_profile(profile).no_env().no_web_identity().no_ecs().no_imds().build()
        }
        None => builder.build(),
    }
}

fn error(kind: ErrorKind, message: String) -> StoreError {
    StoreError::new(kind, "Sign", message)
}
