//! The bodies of requests, on their way to the connection: sliced, or read while they go out, at the pace of the limit.
//!
//! Cancellation: dropping a body ends its reading and its waiting. Crash: nothing is kept.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::lock::{Mutex, rank};
use crate::progress::{self, Pulse};
use crate::range::ByteRange;
use crate::store::limit::Upload;
use crate::store::{PartBody, PartSource, Result};

/// Bytes of a part that are read at a time while it is sent.
const READ_BYTES: u64 = 512 << 10;

/// Uploads go out in slices of this many bytes, so that progress is seen while a part is sent.
const SLICE_BYTES: usize = 256 << 10;

/// A body that is not empty, as it goes out.
pub fn outgoing_body(body: &PartBody, sent: &Arc<Sent>) -> reqwest::Body {
    match body {
        PartBody::Whole(whole) => paced(SlicedBody { rest: whole.bytes.clone() }, sent),
        PartBody::Read(source, _) => paced(ReadBody::new(source.clone()), sent),
    }
}

fn paced<B>(body: B, sent: &Arc<Sent>) -> reqwest::Body
where
    B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    reqwest::Body::wrap(PacedBody {
        body,
        pace: Upload::current(),
        rest: Bytes::new(),
        waiting: Mutex::new(None),
        sent: sent.clone(),
    })
}

/// What has gone out of a body, and for which operation.
pub struct Sent {
    bytes: AtomicU64,
    /// The limit holds it up, and not the network.
    is_held: AtomicBool,
    work: Option<Arc<Pulse>>,
}

impl Sent {
    /// For the operation that is under way.
    pub fn new() -> Sent {
        let (bytes, is_held) = (AtomicU64::new(0), AtomicBool::new(false));
        Sent { bytes, is_held, work: progress::current() }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    pub fn more(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        progress::beat_of(self.work.as_deref());
    }

    /// Waits for the pace; to the operation this is no silence.
    async fn held(self: Arc<Self>, pace: Upload, bytes: usize) {
        self.is_held.store(true, Ordering::Relaxed);
        match &self.work {
            Some(work) => work.of(pace.pass(bytes)).await,
            None => pace.pass(bytes).await,
        }
        self.is_held.store(false, Ordering::Relaxed);
    }
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that goes out at the pace of the limit, which may change meanwhile, counting what was handed to the connection.
struct PacedBody<B> {
    body: B,
    /// `None` where there is no limit to ask for.
    pace: Option<Upload>,
    /// What is to go out next.
    rest: Bytes,
    /// For so many bytes of it. In a lock only because bodies have to be `Sync`.
    waiting: Mutex<Option<(usize, Waiting)>, rank::Reading>,
    sent: Arc<Sent>,
}

impl<B> PacedBody<B> {
    fn hand_over(&mut self, bytes: usize) -> Frame<Bytes> {
        self.sent.more(bytes);
        Frame::data(self.rest.split_to(bytes))
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for PacedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if let Some((bytes, waiting)) = this.waiting.get_mut() {
                let bytes = *bytes;
                ready!(waiting.as_mut().poll(context));
                *this.waiting.get_mut() = None;
                return Poll::Ready(Some(Ok(this.hand_over(bytes))));
            }
            if this.rest.is_empty() {
                match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                    Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                    end => return Poll::Ready(end),
                }
                continue;
            }
            let pace = this.pace.as_ref().and_then(|pace| Some((pace, pace.piece_max()?)));
            let Some((pace, piece_max)) = pace else {
                let whole = this.rest.len();
                return Poll::Ready(Some(Ok(this.hand_over(whole))));
            };
            let bytes = this.rest.len().min(piece_max);
            let waiting = Box::pin(this.sent.clone().held(pace.clone(), bytes));
            *this.waiting.get_mut() = Some((bytes, waiting));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.body.size_hint().exact().unwrap_or_default();
        SizeHint::with_exact(self.rest.len() as u64 + left)
    }
}

/// A body that goes out slice by slice without being copied.
struct SlicedBody {
    rest: Bytes,
}

impl http_body::Body for SlicedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(SLICE_BYTES);
        let slice = self.rest.split_to(len);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

type Reading = Pin<Box<dyn Future<Output = std::io::Result<Bytes>> + Send>>;

/// A body that is read while it goes out.
struct ReadBody {
    source: Arc<dyn PartSource>,
    at: u64,
    /// The next bytes, on their way. In a lock only because bodies have to be `Sync`.
    reading: Mutex<Option<Reading>, rank::Reading>,
}

impl ReadBody {
    fn new(source: Arc<dyn PartSource>) -> ReadBody {
        ReadBody { source, at: 0, reading: Mutex::new(None) }
    }
}

impl http_body::Body for ReadBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.at >= this.source.len() {
            return Poll::Ready(None);
        }
        let reading = this.reading.get_mut().get_or_insert_with(|| {
            let (source, at) = (this.source.clone(), this.at);
            Box::pin(async move {
                let piece = ByteRange::at(at, READ_BYTES);
                source.read(piece.intersect(&ByteRange::new(0, source.len()))).await
            })
        });
        let read = ready!(reading.as_mut().poll(context));
        *this.reading.get_mut() = None;
        Poll::Ready(Some(read.and_then(|bytes| {
            if bytes.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            this.at += bytes.len() as u64;
            Ok(Frame::data(bytes))
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.source.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.source.len() - self.at)
    }
}
