//! A client that hides nothing: one signed request, the answer as it came.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use http::Method;
use http::request::Parts;
use reqwest::header::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ACCESS_KEY, SECRET_KEY};

/// Requests to one endpoint.
pub struct Client {
    endpoint: String,
    secret_key: String,
    http: reqwest::Client,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Whether the body ended as announced.
    pub whole: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name);
        value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// The text of the first such element.
    pub fn element(&self, name: &str) -> String {
        let text = self.text();
        let behind = text.split_once(&format!("<{name}>")).map_or("", |(_, behind)| behind);
        behind.split_once("</").map_or("", |(inside, _)| inside).replace("&quot;", "\"")
    }
}

impl Client {
    pub fn new(endpoint: &str) -> Client {
        Client {
            endpoint: endpoint.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub fn with_secret_key(mut self, secret_key: &str) -> Client {
        self.secret_key = secret_key.to_owned();
        self
    }

    /// Sends a request; `target` is path and query, percent-encoded. An error means that no answer
    /// came.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> reqwest::Result<Answer> {
        let parts = self.signed(method, target, headers);
        let request = http::Request::from_parts(parts, body.into());
        let mut response = self.http.execute(request.try_into().unwrap()).await?;
        let mut answer = Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: Vec::new(),
            whole: false,
        };
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) => answer.body.extend_from_slice(&bytes),
                end => {
                    answer.whole = end.is_ok();
                    return Ok(answer);
                }
            }
        }
    }

    fn signed(&self, method: Method, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut head = http::Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.endpoint))
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
        for (name, value) in headers {
            head = head.header(*name, *value);
        }
        let mut request = head.body(()).unwrap();
        let identity = Credentials::new(ACCESS_KEY, &self.secret_key, None, None, "test").into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = SigningParams::builder().identity(&identity).region("us-east-1").name("s3");
        let params = params.time(SystemTime::now()).settings(settings).build().unwrap().into();
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let (method, uri) = (request.method().as_str(), request.uri().to_string());
        let body = SignableBody::UnsignedPayload;
        let signable = SignableRequest::new(method, uri, headers, body).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        instructions.apply_to_request_http1x(&mut request);
        request.into_parts().0
    }

    /// Puts an object under a path that reqwest would rewrite (`/../`); returns the status.
    pub async fn put_verbatim(&self, target: &str, body: &str) -> u16 {
        let parts = self.signed(Method::PUT, target, &[]);
        let address = self.endpoint.trim_start_matches("http://");
        let mut text = format!("PUT {target} HTTP/1.1\r\nconnection: close\r\n");
        if !parts.headers.contains_key("host") {
            text += &format!("host: {address}\r\n");
        }
        for (name, value) in &parts.headers {
            text += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        text += &format!("content-length: {}\r\n\r\n{body}", body.len());
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, target, headers, "").await.unwrap()
    }

    pub async fn put(
        &self,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        self.send(Method::PUT, target, headers, body).await.unwrap()
    }

    pub async fn post(&self, target: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(Method::POST, target, &[], body).await.unwrap()
    }

    pub async fn delete(&self, target: &str) -> Answer {
        self.send(Method::DELETE, target, &[], "").await.unwrap()
    }

    /// Begins an upload and returns its id.
    pub async fn begin(&self, key: &str) -> String {
        let begun = self.post(&format!("{key}?uploads="), "").await;
        assert_eq!(begun.status, 200, "{}", begun.text());
        begun.element("UploadId")
    }

    /// Sends a part and returns its ETag.
    pub async fn part(&self, key: &str, id: &str, number: u32, body: impl Into<Vec<u8>>) -> String {
        let target = format!("{key}?partNumber={number}&uploadId={id}");
        let put = self.put(&target, &[], body).await;
        assert_eq!(put.status, 200, "{}", put.text());
        put.header("etag")
    }

    pub async fn complete(
        &self,
        key: &str,
        id: &str,
        headers: &[(&str, &str)],
        parts: &[(u32, &str)],
    ) -> Answer {
        let listed: String = parts
            .iter()
            .map(|(number, etag)| {
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
            })
            .collect();
        let body = format!("<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>");
        let target = format!("{key}?uploadId={id}");
        self.send(Method::POST, &target, headers, body).await.unwrap()
    }
}
