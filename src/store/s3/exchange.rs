//! One request and its answer: sign, send, watch for stalls, turn failures into [`StoreError`]s.
//!
//! Retries: none (see [`super::client`] for what is sent again at once).
//! Cancellation: dropping the future closes the connection. Timeouts are on silence, not on the whole: a
//! request in which no byte moves for the request timeout is cut, one that moves slowly is not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, StatusCode};
use reqwest::{Client, Response};

use super::body::{Sent, outgoing_body};
use super::endpoint::{Query, Target, is_region, origin_in};
use super::provider::Variant;
use super::refusal::Refusal;
use super::sign::{Signed, Signer};
use super::status::kind_of;
use super::{headers, xml};
use crate::clock::{self, Instant};
use crate::store::{ErrorKind, Key, PartBody, Result, StoreError};

/// How many request timeouts a server may stay silent while it copies or completes: it moves up to 5 GiB
/// by itself before it answers.
pub const SLOW_TIMES: u32 = 4;

/// The most of an answer that is read, in bytes, where the request names no other limit: an id, an ETag or a
/// few words and the key.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The longest time that the store may ask to be left alone for: it is asked again after it, whatever it said.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The most of an error's body that is read, in bytes.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Where requests go and how they are signed: one region's worth.
pub struct Route {
    pub target: Target,
    pub signer: Signer,
    pub region: String,
    pub variant: Variant,
    /// Whether an answer may yet say that the bucket is in another region: the first one that does is heeded.
    pub may_move: bool,
}

/// What the kernel may hold of a body after it took it from us, in bytes (the usual tcp_wmem), and the
/// slowest link that is waited for to drain it, in bytes a second. Without that allowance the end of a
/// part on a slow link would look like silence. A dead link is found sooner, by TCP itself.
const BUFFERED_BYTES_MAX: u64 = 4 << 20;
const DRAIN_RATE_MIN: u64 = 64 << 10;

/// A request before it is signed.
pub struct Request<'a> {
    pub operation: &'static str,
    pub method: Method,
    /// `None` for the bucket itself.
    pub key: Option<&'a Key>,
    pub query: &'a Query<'a>,
    pub headers: HeaderMap,
    pub body: PartBody,
    /// The server works on its own for a while before it answers.
    pub slow: bool,
    /// A longer answer, in bytes, is not one to this request.
    pub answer_max: usize,
}

impl<'a> Request<'a> {
    pub fn new(operation: &'static str, method: Method, key: Option<&'a Key>) -> Self {
        Request {
            operation,
            method,
            key,
            query: &[],
            headers: HeaderMap::new(),
            body: PartBody::Whole(Bytes::new().into()),
            slow: false,
            answer_max: ANSWER_BYTES_MAX,
        }
    }

    pub fn query(mut self, query: &'a Query<'a>) -> Self {
        self.query = query;
        self
    }

    pub fn headers(mut self, headers: HeaderMap) -> Self {
        self.headers = headers;
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = PartBody::Whole(body.into().into());
        self
    }

    pub fn part(mut self, body: PartBody) -> Self {
        self.body = body;
        self
    }

    pub fn answer_max(mut self, bytes: usize) -> Self {
        self.answer_max = bytes;
        self
    }

    pub fn slow(mut self) -> Self {
        self.slow = true;
        self
    }
}

/// Sends one request over one route; any HTTP answer is a success here. It comes with what the request was signed with.
pub async fn exchange(
    client: &Client,
    route: &Route,
    request: &Request<'_>,
    timeout: Duration,
) -> Result<(Response, Signed)> {
    let uri = route.target.uri(request.key, request.query)?;
    let url = Target::url(&uri)?;
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = request.method.clone();
    head.uri = uri;
    head.headers = request.headers.clone();
    let signed = route.signer.sign(&mut head).await.map_err(|mut err| {
        err.operation = request.operation;
        err
    })?;

    let mut outgoing = reqwest::Request::new(head.method, url);
    *outgoing.headers_mut() = head.headers;
    let sent = Arc::new(Sent::new());
    *outgoing.body_mut() = match &request.body {
        body if !body.is_empty() => Some(outgoing_body(body, &sent)),
        _ if matches!(request.method, Method::PUT | Method::POST) => Some(Bytes::new().into()),
        _ => None,
    };
    let work = if request.slow { timeout * SLOW_TIMES } else { timeout };
    let drain = request.body.len().min(BUFFERED_BYTES_MAX) / DRAIN_RATE_MIN;
    let silence = work + Duration::from_secs(drain);
    let answer = watch(request.operation, client.execute(outgoing), &sent, silence).await?;
    Ok((answer, signed))
}

/// Runs a request until it is answered, or until nothing of its body has moved for `silence`, though it might have.
async fn watch(
    operation: &'static str,
    running: impl Future<Output = reqwest::Result<Response>>,
    sent: &Sent,
    silence: Duration,
) -> Result<Response> {
    tokio::pin!(running);
    let mut seen = sent.bytes();
    loop {
        match clock::timeout(silence, &mut running).await {
            Ok(answer) => return answer.map_err(|err| transport_error(operation, err)),
            Err(_) => {
                let now = sent.bytes();
                if now == seen && !sent.is_held() {
                    return Err(silent(operation, silence));
                }
                seen = now;
            }
        }
    }
}

pub fn silent(operation: &'static str, silence: Duration) -> StoreError {
    let message = format!("no answer within {}", humantime::format_duration(silence));
    StoreError::new(ErrorKind::Timeout, operation, message)
}

/// Reads a whole answer of at most `bytes_max` bytes; for XML, never for parts. One that comes drop by drop is cut.
async fn read_all(
    operation: &'static str,
    response: &mut Response,
    bytes_max: usize,
    silence: Duration,
) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let end = Instant::now() + silence * SLOW_TIMES;
    loop {
        let until = end.min(Instant::now() + silence);
        let chunk = clock::timeout_at(until, response.chunk())
            .await
            .map_err(|_| silent(operation, silence))?
            .map_err(|err| transport_error(operation, err))?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len() + chunk.len() > bytes_max {
            let message = format!("the answer is longer than {bytes_max} bytes");
            return Err(StoreError::new(ErrorKind::Corrupt, operation, message));
        }
        body.extend_from_slice(&chunk);
    }
}

/// The body of a successful answer. An `<Error>` document in it is an error, whatever the status says: that
/// is how CopyObject, UploadPartCopy and CompleteMultipartUpload report failures after their 200 went out.
pub async fn read_body(
    operation: &'static str,
    response: &mut Response,
    bytes_max: usize,
    silence: Duration,
) -> Result<Vec<u8>> {
    let status = response.status();
    let read = read_all(operation, response, bytes_max, silence).await;
    let body = read.and_then(|body| match xml::parse_error(&body) {
        Some(answer) => Err(answer_error(operation, status, Some(answer), None)),
        None => Ok(body),
    });
    body.map_err(headers::of_answer(response.headers()))
}

/// Reads an unsuccessful answer.
pub async fn refusal(
    operation: &'static str,
    mut response: Response,
    silence: Duration,
) -> Refusal {
    let status = response.status();
    let mut region = headers::text(response.headers(), "x-amz-bucket-region");
    let retry_after = headers::text(response.headers(), "retry-after");
    let mut sent_on = headers::text(response.headers(), "location");
    let answer = match read_all(operation, &mut response, ERROR_BYTES_MAX, silence).await {
        Ok(body) => xml::parse_error(&body),
        // The status alone tells what matters; the body would only have explained it.
        Err(_) => None,
    };
    if let Some(answer) = &answer {
        region = region.or_else(|| answer.region.clone());
        sent_on = sent_on.or_else(|| answer.endpoint.clone());
    }
    let error = answer_error(operation, status, answer, retry_after);
    let region = region.filter(|region| is_region(region));
    let error = headers::of_answer(response.headers())(error);
    Refusal { region, sent_on: sent_on.and_then(|to| origin_in(&to)), ..Refusal::new(error) }
}

fn answer_error(
    operation: &'static str,
    status: StatusCode,
    answer: Option<xml::ErrorAnswer>,
    retry_after: Option<String>,
) -> StoreError {
    let answer = answer.unwrap_or_default();
    let said = answer.message.as_deref().unwrap_or_default();
    let kind = kind_of(status.as_u16(), answer.code.as_deref(), said);
    let message = match (answer.message, status.canonical_reason()) {
        (Some(message), _) if !message.trim().is_empty() => short(&message),
        (_, Some(reason)) => reason.to_owned(),
        (_, None) => "no reason given".to_owned(),
    };
    // Only the form in seconds; a date would need the two clocks to agree.
    let retry_after = retry_after.and_then(|text| text.trim().parse().ok());
    let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    StoreError {
        status: Some(status.as_u16()),
        code: answer.code,
        retry_after,
        ..StoreError::new(kind, operation, message)
    }
}

/// One line of a store's own words. Some servers quote the signature's inputs in their message, which are
/// no secrets, but more of them than this is never needed.
pub fn short(message: &str) -> String {
    const CHARS_MAX: usize = 300;
    let line: String = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= CHARS_MAX {
        return line;
    }
    line.chars().take(CHARS_MAX).chain("…".chars()).collect()
}

/// A request that got no answer, or an answer whose body broke off.
pub fn transport_error(operation: &'static str, err: reqwest::Error) -> StoreError {
    let kind = if err.is_builder() {
        ErrorKind::Invalid
    } else if err.is_timeout() {
        ErrorKind::Timeout
    } else {
        ErrorKind::Transient
    };
    StoreError::new(kind, operation, chain(&err.without_url()))
}

/// An error with its causes on one line; the URL is left out.
pub(super) fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        let more = err.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = err.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_told_by_the_error() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let err = answer_error("PutObject", status, None, Some("7".into()));
        assert_eq!(err.kind, ErrorKind::Throttled);
        assert_eq!(err.retry_after, Some(Duration::from_secs(7)));
        let err = answer_error("PutObject", status, None, Some(u64::MAX.to_string()));
        assert_eq!(err.retry_after, Some(RETRY_AFTER_MAX));
        let err = answer_error("PutObject", status, None, Some("Wed, 21 Oct".into()));
        assert_eq!(err.retry_after, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_cut_only_when_nothing_moves() {
        let sent = Arc::new(Sent::new());
        let moving = sent.clone();
        let silence = Duration::from_secs(10);
        let running = async move {
            for _ in 0..5 {
                clock::sleep(Duration::from_secs(8)).await;
                moving.more(1);
            }
            std::future::pending().await
        };
        let begun = Instant::now();
        let err = watch("UploadPart", running, &sent, silence).await.unwrap_err();
        assert_eq!(err.kind, ErrorKind::Timeout);
        assert!(begun.elapsed() > Duration::from_secs(40), "{:?}", begun.elapsed());
    }
}
