//! The connections of the embedded store: accepts them, lets the fault layer bend each request, and
//! passes it to the S3 protocol layer.
//!
//! Cancellation: when the server stops or an outage begins, every connection's task is dropped; what a
//! request had committed stays, what it had not leaves no trace.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::faults::{CopiesAnyVersion, Fault, Faults, IgnoresChecksum};
use super::operation::{Counters, Operation, decoded_key};
use super::shape::{Direction, Ending, Link, LinkedStream, ShapedBody};
use crate::clock;

/// Everything that a connection needs; one for the server.
pub struct Serving {
    pub service: S3Service,
    pub faults: Arc<Faults>,
    pub counters: Arc<Counters>,
    /// The number of the latest answer.
    pub answers: AtomicU64,
}

/// Accepts connections until `stop`; the tasks of those accepted are in `tasks`.
pub async fn accept(
    listener: TcpListener,
    serving: Arc<Serving>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(connection(stream, Arc::clone(&serving), stop.clone()));
            }
            Err(error) => {
                // Out of descriptors or the like; it passes when connections end.
                log::warn!("the embedded store cannot accept a connection: {error}");
                clock::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, serving: Arc<Serving>, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("TCP_NODELAY: {error}");
    }
    let link = Arc::new(Link::default());
    let mut outage = serving.faults.outage();
    let io = TokioIo::new(LinkedStream::new(stream, Arc::clone(&link)));
    let service = service_fn(|request| answer(request, &serving, &link));
    let serve = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(io, service);
    tokio::select! {
        // The connection goes last, so that an outage wins over a request that came just before.
        biased;
        () = stop.cancelled() => {}
        // The sender outlives the connection: the only end of this wait is an outage.
        _ = outage.wait_for(|on| *on) => link.reset(),
        served = serve => if let Err(error) = served {
            log::debug!("a connection to the embedded store ended: {error}");
        },
    }
}

/// The faults that one request meets, sorted by what they touch.
#[derive(Default)]
struct Plan {
    latency: Duration,
    bytes_per_second: Option<u64>,
    copies_any_version: bool,
    ignores_checksum: bool,
    /// The first fault that decides how the request ends.
    ending: Option<Fault>,
}

impl Plan {
    fn new(faults: Vec<Fault>) -> Plan {
        let mut plan = Plan::default();
        for fault in faults {
            match fault {
                Fault::Latency(time) => plan.latency += time,
                Fault::Bandwidth(rate) => {
                    plan.bytes_per_second =
                        Some(plan.bytes_per_second.map_or(rate, |r| r.min(rate)));
                }
                Fault::IgnoreCopyCondition => plan.copies_any_version = true,
                Fault::IgnoreChecksum => plan.ignores_checksum = true,
                fault => plan.ending = plan.ending.or(Some(fault)),
            }
        }
        plan
    }
}

/// Answers, and gives the answer its number.
async fn answer(
    request: Request<Incoming>,
    serving: &Serving,
    link: &Arc<Link>,
) -> io::Result<Response<ShapedBody>> {
    let mut answer = handle(request, serving, link).await?;
    let id = serving.answers.fetch_add(1, Ordering::Relaxed) + 1;
    let id = HeaderValue::try_from(format!("{id:016X}")).map_err(io::Error::other)?;
    answer.headers_mut().insert("x-amz-request-id", id);
    Ok(answer)
}

async fn handle(
    request: Request<Incoming>,
    serving: &Serving,
    link: &Arc<Link>,
) -> io::Result<Response<ShapedBody>> {
    let path = path_style(&request);
    let operation =
        Operation::classify(request.method(), &path, request.uri().query(), request.headers());
    serving.counters.count_request(operation);
    if is_form(&request) {
        let refusal = error_answer(501, "NotImplemented")?;
        let counters = Arc::clone(&serving.counters);
        return Ok(refusal.map(|body| {
            ShapedBody::new(body, Direction::Out, operation, counters, Arc::clone(link))
        }));
    }
    let plan = Plan::new(serving.faults.meet(operation, &decoded_key(&path)));
    let shape = |source, direction| {
        let counters = Arc::clone(&serving.counters);
        let mut body = ShapedBody::new(source, direction, operation, counters, Arc::clone(link));
        if let Some(rate) = plan.bytes_per_second {
            body.pace(rate);
        }
        body
    };
    if !plan.latency.is_zero() {
        clock::sleep(plan.latency).await;
    }
    let mut request = request.map(|body| shape(body.into(), Direction::In));
    if plan.copies_any_version {
        request.extensions_mut().insert(CopiesAnyVersion);
    }
    if plan.ignores_checksum {
        request.extensions_mut().insert(IgnoresChecksum);
    }
    let refusal = match &plan.ending {
        Some(Fault::Stall) => {
            std::future::pending::<Infallible>().await;
            None
        }
        Some(Fault::Status(status, code)) => Some((*status, *code, None)),
        Some(Fault::SlowDown(seconds)) => Some((503, "SlowDown", Some(*seconds))),
        Some(Fault::ErrorInsideOk(code)) => Some((200, *code, None)),
        _ => None,
    };
    if let Some((status, code, retry_after)) = refusal {
        // Read to the end: a client that is still sending would see a reset in place of the answer.
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(io::Error::other)?;
        }
        let mut refusal = error_answer(status, code)?;
        if let Some(seconds) = retry_after {
            refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        return Ok(refusal.map(|body| shape(body, Direction::Out)));
    }
    let answer = serving.service.call(request.map(s3s::Body::http_body)).await;
    let answer = answer.map_err(|error| io::Error::other(format!("{error:?}")))?;
    let mut answer = answer.map(|body| shape(body, Direction::Out));
    if let Some(fault) = &plan.ending {
        bend(&mut answer, fault, link)?;
    }
    Ok(answer)
}

/// An upload by an HTML form. The protocol layer would read all of it into memory before it looks whether it is
/// signed; no client of ours sends one, so it is not even read.
fn is_form<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_multipart = kind.is_some_and(|kind| {
        kind.trim_start().get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/"))
    });
    request.method() == http::Method::POST && is_multipart
}

/// The path with the bucket in front, also where a virtual-hosted request (`BUCKET.localhost:PORT`)
/// has it in the host.
fn path_style(request: &Request<Incoming>) -> String {
    let path = request.uri().path();
    let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
    let name = host.unwrap_or("").split(':').next().unwrap_or("");
    match name.strip_suffix(".localhost") {
        Some(bucket) => format!("/{bucket}{path}"),
        None => path.to_owned(),
    }
}

fn error_answer(status: u16, code: &str) -> io::Result<Response<s3s::Body>> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>refused</Message></Error>"
    );
    let mut answer = Response::new(s3s::Body::from(text));
    *answer.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(answer)
}

/// Bends an answer to an action that the store has taken.
fn bend(answer: &mut Response<ShapedBody>, fault: &Fault, link: &Link) -> io::Result<()> {
    if *fault == Fault::LoseAnswer {
        link.reset();
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if answer.status().as_u16() >= 300 {
        return Ok(());
    }
    match fault {
        Fault::ResetBodyAfter(bytes) => answer.body_mut().cut(*bytes, Ending::Reset),
        Fault::TruncateBodyAfter(bytes) => answer.body_mut().cut(*bytes, Ending::Close),
        Fault::StallBodyAfter(bytes) => answer.body_mut().cut(*bytes, Ending::Silence),
        Fault::CorruptByte(offset) => answer.body_mut().corrupt(*offset),
        Fault::WrongContentRange => {
            let shifted = answer.headers().get(CONTENT_RANGE).and_then(shift_content_range);
            if let Some(shifted) = shifted {
                answer.headers_mut().insert(CONTENT_RANGE, shifted);
            }
        }
        Fault::Latency(_)
        | Fault::Bandwidth(_)
        | Fault::Status(..)
        | Fault::SlowDown(_)
        | Fault::LoseAnswer
        | Fault::ErrorInsideOk(_)
        | Fault::IgnoreCopyCondition
        | Fault::IgnoreChecksum
        | Fault::Stall => {}
    }
    Ok(())
}

/// `bytes 5-9/20` becomes `bytes 6-10/20`.
fn shift_content_range(value: &HeaderValue) -> Option<HeaderValue> {
    let (range, len) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()? + 1, last.parse::<u64>().ok()? + 1);
    HeaderValue::try_from(format!("bytes {first}-{last}/{len}")).ok()
}
