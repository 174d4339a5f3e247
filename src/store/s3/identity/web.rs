//! The HTTP client of the services that give credentials (STS, SSO, ECS and EKS, IMDS): the one that the store is
//! spoken to with, with the same certificates and proxies, under the library's interface.
//!
//! Retries: the library's. Services of this very machine or of its host are asked past any proxy.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use reqwest::redirect::Policy;

use super::failure::Notes;
use crate::clock;
use crate::store::s3::trust;
use crate::store::{ErrorKind, Result, StoreError};

/// Metadata services answer in microseconds where they exist; elsewhere a mount without credentials must not hang
/// on them.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a whole answer, where the library does not say.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The most of an answer that is read, in bytes: credentials have a few KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The client.
#[derive(Clone, Debug)]
pub struct Web {
    client: reqwest::Client,
    /// Past proxies.
    direct: reqwest::Client,
    notes: Notes,
    timeout: Duration,
}

impl Web {
    pub fn new(ca_bundle: Option<&Path>, notes: Notes) -> Result<Web> {
        let builder = || {
            let builder = reqwest::Client::builder()
                .redirect(Policy::none())
                .retry(reqwest::retry::never())
                .connect_timeout(CONNECT_TIMEOUT);
            trust::with_bundle(builder, ca_bundle)
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|err| {
                StoreError::new(ErrorKind::Invalid, "Sign", format!("no HTTP client: {err}"))
            })
        };
        let (client, direct) = (build(builder()?)?, build(builder()?.no_proxy())?);
        Ok(Web { client, direct, notes, timeout: ANSWER_TIMEOUT })
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let uri: http::Uri = request.uri().parse().map_err(|_| user("not a URI"))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let answered = clock::timeout(self.timeout, self.exchange(&host, request)).await;
        let answered =
            answered.unwrap_or_else(|_| Err(ConnectorError::timeout("no answer".into())));
        match &answered {
            Ok(answer) if answer.status().is_success() => drop(self.notes.take()),
            Ok(answer) => self.notes.write(format!("{host} answers {}", answer.status())),
            Err(_) => self.notes.write(format!("{host} does not answer")),
        }
        answered
    }

    async fn exchange(
        &self,
        host: &str,
        request: HttpRequest,
    ) -> Result<HttpResponse, ConnectorError> {
        let request = request.try_into_http1x().map_err(|_| user("not a request"))?;
        let body = request.body().bytes().ok_or_else(|| user("a body that is a stream"))?.to_vec();
        let request = reqwest::Request::try_from(request.map(|_| body)).map_err(failed)?;
        let client = if is_near(host) { &self.direct } else { &self.client };
        let mut response = client.execute(request).await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ConnectorError::io("the answer is too long".into()));
            }
            body.extend_from_slice(&chunk);
        }
        let mut answer = http::Response::new(SdkBody::from(body));
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        HttpResponse::try_from(answer).map_err(|_| user("headers that are no text"))
    }
}

fn failed(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() {
        ConnectorError::timeout(error.without_url().into())
    } else {
        ConnectorError::io(error.without_url().into())
    }
}

fn user(what: &'static str) -> ConnectorError {
    ConnectorError::user(what.into())
}

/// Whether a host is this machine or one that gives credentials to it alone: link-local, or where EKS has it.
fn is_near(host: &str) -> bool {
    const EKS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23);
    const IMDS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || [EKS, IMDS].contains(&address)
        }
        Err(_) => host == "localhost",
    }
}

impl HttpConnector for Web {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}

impl HttpClient for Web {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let timeout = settings.read_timeout().unwrap_or(self.timeout);
        SharedHttpConnector::new(Web { timeout, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_asked_past_proxies() {
        for near in ["169.254.169.254", "127.0.0.1", "[fd00:ec2::254]", "[::1]", "localhost"] {
            assert!(is_near(near), "{near}");
        }
        for far in ["sts.amazonaws.com", "10.0.0.1", "[2001:db8::1]", "169.255.0.1"] {
            assert!(!is_near(far), "{far}");
        }
    }
}
