//! Signatures (AWS Signature Version 4), by AWS's own library.
//!
//! Payloads are not signed (UNSIGNED-PAYLOAD): over TLS the signature would only repeat what TLS ensures, and over plain
//! http a hash of every part costs more than half the throughput of a core. Signatures bear the store's time where
//! its answers show that this machine's clock is off ([`StoreClock::signing`]).

use std::sync::Arc;
use std::time::SystemTime;

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use http::header::HeaderValue;

use super::identity::{Cache, Held};
use crate::store::{ErrorKind, Result, StoreClock, StoreError};

/// Signs request heads, or leaves them alone for anonymous access.
pub struct Signer {
    credentials: Option<Arc<Cache>>,
    region: String,
    clock: Arc<StoreClock>,
}

/// What a request was signed with.
pub struct Signed {
    /// `None` for anonymous access.
    pub credentials: Option<Arc<Held>>,
    pub at: SystemTime,
}

impl Signer {
    /// For anonymous access without credentials.
    pub fn new(credentials: Option<Arc<Cache>>, region: &str, clock: Arc<StoreClock>) -> Signer {
        Signer { credentials, region: region.to_owned(), clock }
    }

    /// The same for another region.
    pub fn of_region(&self, region: &str) -> Signer {
        Signer::new(self.credentials.clone(), region, self.clock.clone())
    }

    pub fn region(&self) -> &str {
        &self.region
    }

    /// Adds the signature's headers. The URI is left as it is.
    pub async fn sign(&self, head: &mut http::request::Parts) -> Result<Signed> {
        let at = self.clock.signing();
        let Some(cache) = &self.credentials else { return Ok(Signed { credentials: None, at }) };
        let held = cache.get().await?;
        self.sign_with(&held, at, head).map_err(|what| {
            StoreError::new(ErrorKind::Invalid, "Sign", format!("this cannot be signed: {what}"))
        })?;
        Ok(Signed { credentials: Some(held), at })
    }

    /// Fails with what is wrong, without secrets.
    fn sign_with(
        &self,
        held: &Held,
        at: SystemTime,
        head: &mut http::request::Parts,
    ) -> Result<(), &'static str> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = SigningParams::builder()
            .identity(held.identity())
            .region(&self.region)
            .name("s3")
            .time(at)
            .settings(settings)
            .build()
            .map_err(|_| "a parameter is missing")?
            .into();
        let uri = head.uri.to_string();
        // A header that is no text stays unsigned; those of S3 are ASCII.
        let headers = head.headers.iter().filter_map(|(name, value)| {
            Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?))
        });
        let (method, body) = (head.method.as_str(), SignableBody::UnsignedPayload);
        let request =
            SignableRequest::new(method, uri, headers, body).map_err(|_| "its address")?;
        let (instructions, _) = sign(request, &params).map_err(|_| "its headers")?.into_parts();
        for header in instructions.into_parts().0 {
            let mut value = HeaderValue::from_str(header.value()).map_err(|_| "the token")?;
            value.set_sensitive(true);
            head.headers.insert(header.name(), value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use aws_credential_types::Credentials;

    use super::super::identity::{Failure, Source};

    use super::*;
    use crate::clock::Instant;

    struct Fixed;

    #[async_trait]
    impl Source for Fixed {
        async fn ask(&self) -> std::result::Result<Credentials, Failure> {
            Ok(Credentials::new("AKIDEXAMPLE", "secret", Some("tok3n".to_owned()), None, "test"))
        }
    }

    fn signer() -> Signer {
        let clock = Arc::new(StoreClock::default());
        Signer::new(Some(Cache::new(Fixed, clock.clone())), "us-east-1", clock)
    }

    #[tokio::test]
    async fn what_is_sent_is_signed_but_the_payload() {
        let uri = "http://127.0.0.1:9000/b/a%20b//c?partNumber=1&uploadId=u";
        let (mut head, ()) = http::Request::put(uri).body(()).unwrap().into_parts();
        head.headers.insert("x-amz-meta-a", "b".parse().unwrap());
        head.headers.insert("content-disposition", HeaderValue::from_bytes(b"\xff").unwrap());
        signer().sign(&mut head).await.unwrap();
        let header = |name: &str| head.headers[name].to_str().unwrap();
        assert_eq!(head.uri, uri);
        assert_eq!(header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
        assert_eq!(header("x-amz-security-token"), "tok3n");
        let signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-meta-a;\
                      x-amz-security-token";
        assert!(header("authorization").contains(signed), "{}", header("authorization"));
        assert!(!format!("{:?}", head.headers).contains("tok3n"));
    }

    /// A small part of what the request itself costs: 13 to 17 µs in a test build.
    #[tokio::test]
    async fn a_signature_costs_little() {
        let signer = signer();
        const TIMES: u32 = 1000;
        let begun = Instant::now();
        for number in 0..TIMES {
            let uri = format!("https://b.s3.amazonaws.com/k/{number}?partNumber=1&uploadId=u");
            let (mut head, ()) = http::Request::put(uri).body(()).unwrap().into_parts();
            head.headers.insert("if-match", HeaderValue::from_static("\"etag\""));
            signer.sign(&mut head).await.unwrap();
        }
        let each = begun.elapsed() / TIMES;
        assert!(each < Duration::from_millis(1), "{each:?} a signature");
    }
}
