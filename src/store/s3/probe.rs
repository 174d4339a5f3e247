//! The check before a mount: does the store answer, and may this user list the bucket? With the cure of
//! what is wrong, in one line.

use std::sync::Arc;

use super::identity::NO_CREDENTIALS;
use super::refusal::SENT_ON;
use super::{S3Settings, S3Store, endpoint, identity};
use crate::store::{ErrorKind, Key, ListPage, ListRequest, Result, Store as _, StoreError};

impl S3Store {
    /// One cheap listing (one key) under `prefix`; one more try after a fault that may pass. Whether there is
    /// anything.
    pub async fn probe(&self, prefix: &Key) -> Result<bool> {
        let request =
            ListRequest { prefix: prefix.clone(), max_keys: Some(1), ..ListRequest::default() };
        let any = |page: ListPage| !page.objects.is_empty() || !page.common_prefixes.is_empty();
        match self.list(&request).await {
            Ok(page) => Ok(any(page)),
            Err(err) if matches!(err.kind, ErrorKind::Transient | ErrorKind::Throttled) => {
                self.list(&request).await.map(any)
            }
            // The path of a bucket that is not there is answered by a bare 404 by some servers.
            Err(mut err) if err.kind == ErrorKind::NotFound => {
                err.kind = ErrorKind::NoSuchBucket;
                Err(err)
            }
            Err(err) => Err(err),
        }
    }
}

/// Asks for credentials as a mount does. In a few words, which source gives them.
pub async fn identify(settings: &S3Settings) -> Result<String> {
    let provider = endpoint::provider_of(settings)?;
    let (credentials, found) = identity::open(settings, provider, &Arc::default());
    credentials.get().await?;
    Ok(found.name().unwrap_or_default().to_owned())
}

/// What the user can do about a failed request, in one line.
pub fn cure(error: &StoreError) -> String {
    if let Some(cure) = error.code.as_deref().and_then(cure_of_code) {
        return cure.to_owned();
    }
    let text = error.message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match error.kind {
        ErrorKind::NoSuchBucket => NO_BUCKET,
        ErrorKind::Denied => "the credentials may not do this: check the bucket's policy",
        ErrorKind::Throttled => "the store asks for less: try later, or lower --request-limit",
        ErrorKind::Timeout => "no answer: check --endpoint-url, the network and any proxy",
        ErrorKind::Transient if says(&["dns error", "failed to lookup"]) => {
            "the endpoint's host name does not resolve: check --endpoint-url and --region"
        }
        ErrorKind::Transient if says(&["connection refused"]) => {
            "nothing listens there: check the host and port of --endpoint-url"
        }
        ErrorKind::Transient if says(&["certificaterequired", "certificate required"]) => {
            "the endpoint asks its clients for a certificate: give it with --client-cert and --client-key"
        }
        ErrorKind::Transient if says(&["certificate", "unknownissuer"]) => {
            "the endpoint's certificate is not trusted: give its authority with --ca-bundle"
        }
        ErrorKind::Transient if says(&["tls", "invalid message", "corrupt message"]) => {
            "the endpoint does not speak TLS: try http:// in --endpoint-url"
        }
        ErrorKind::Transient => "the store cannot be reached: check --endpoint-url and the network",
        ErrorKind::Corrupt => "the endpoint does not answer like an S3 store: check --endpoint-url",
        ErrorKind::Damaged => "test this machine's memory, then try again",
        ErrorKind::Offline => "the store has not answered for a while: check the network",
        ErrorKind::NotKept => "mount without --offline",
        ErrorKind::Unsupported => "the store does not offer this operation",
        ErrorKind::NoSpace => "free space or raise the bucket's quota",
        ErrorKind::Invalid if matches!(error.status, Some(301 | 307)) => WRONG_REGION,
        ErrorKind::Invalid => "check --endpoint-url, --region and --addressing",
        ErrorKind::NotFound
        | ErrorKind::NoSuchUpload
        | ErrorKind::Archived
        | ErrorKind::Locked
        | ErrorKind::PreconditionFailed
        | ErrorKind::InvalidRange
        | ErrorKind::TooLarge => "this concerns one object, not the store as a whole",
    }
    .to_owned()
}

const NO_BUCKET: &str = "create the bucket, or check its name, --endpoint-url and --region";
const WRONG_REGION: &str = "the bucket is in another region: give it with --region";

fn cure_of_code(code: &str) -> Option<&'static str> {
    Some(match code {
        NO_CREDENTIALS => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --profile, or \
             --no-sign-request for a public bucket"
        }
        SENT_ON => "if that is the store, give it with --endpoint-url",
        "CredentialsFailed" => "mend that source, or name another one with --profile",
        "NoSuchBucket" => NO_BUCKET,
        "InvalidAccessKeyId" => "the store does not know this access key: check the credentials",
        "SignatureDoesNotMatch" => "the secret key is wrong: check the credentials",
        "ExpiredToken" | "TokenRefreshRequired" => {
            "the credentials have expired: renew them (for SSO: aws sso login)"
        }
        "InvalidToken" => "the session token is wrong: check AWS_SESSION_TOKEN",
        "RequestTimeTooSkewed" => "this machine's clock is wrong: set it (NTP)",
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "IllegalLocationConstraintException" => WRONG_REGION,
        "SecondLevelDomainForbidden" | "InvalidPathAccess" => {
            "the provider wants the bucket in the host name: use --addressing virtual"
        }
        "InvalidPayer" => "the bucket bills its readers: add --requester-pays",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_common_fault_has_its_own_cure() {
        let coded = |code: &str, status| {
            let mut err = StoreError::new(ErrorKind::Denied, "ListObjectsV2", "m");
            err.code = Some(code.to_owned());
            err.status = Some(status);
            cure(&err)
        };
        let plain = |kind, message: &str| cure(&StoreError::new(kind, "ListObjectsV2", message));
        let table = [
            (coded("NoSuchBucket", 404), "create the bucket"),
            (coded("SignatureDoesNotMatch", 403), "secret key"),
            (coded("InvalidAccessKeyId", 403), "access key"),
            (coded("ExpiredToken", 400), "expired"),
            (coded("RequestTimeTooSkewed", 403), "clock"),
            (coded("PermanentRedirect", 301), "--region"),
            (coded(SENT_ON, 307), "--endpoint-url"),
            (coded(NO_CREDENTIALS, 0), "--no-sign-request"),
            (plain(ErrorKind::Transient, "error trying to connect: dns error: x"), "resolve"),
            (plain(ErrorKind::Transient, "Connection refused (os error 111)"), "listens"),
            (plain(ErrorKind::Transient, "invalid peer certificate"), "--ca-bundle"),
            (plain(ErrorKind::Transient, "fatal alert: CertificateRequired"), "--client-cert"),
            (plain(ErrorKind::Timeout, "no answer within 30s"), "no answer"),
        ];
        for (cure, part) in table {
            assert!(cure.contains(part), "{cure:?} should say {part:?}");
            assert!(!cure.contains('\n'));
        }
    }
}
