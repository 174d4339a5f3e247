//! Bodies and connections that can be bent: the counted, paced, cut or corrupted body that the server
//! wraps around each request and answer, and the connection that can end in a reset.
//!
//! Cancellation: dropping a body or a connection ends it; nothing runs on behind it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::operation::{Counters, Operation};
use crate::clock::{self, Instant, Sleep};
use crate::lock::{Mutex, rank};

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What a paced body makes up for when it was not asked for its next piece in time: a busy machine wakes it late,
/// again and again.
const LATE_MAX: Duration = Duration::from_millis(250);

/// A paced body is handed on in pieces of at most this many bytes, so that the pace is even: at
/// 1 MB/s a piece takes 64 ms.
const PACED_BYTES_MAX: usize = 64 << 10;

/// What a connection's task and the bodies on it tell each other.
#[derive(Default)]
pub struct Link {
    /// Close with a reset (RST) and send nothing more.
    reset: AtomicBool,
    /// Counts the moments at which everything written so far had been handed to the kernel.
    flushes: AtomicU64,
    /// Woken at the next of these moments.
    awaits_flush: Mutex<Option<Waker>, rank::Shaped>,
}

impl Link {
    /// Lets the connection end in a reset, whenever it is dropped next.
    pub fn reset(&self) {
        self.reset.store(true, Ordering::Release);
    }

    fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }
}

/// A TCP connection that obeys its [`Link`].
pub struct LinkedStream {
    stream: TcpStream,
    link: Arc<Link>,
}

impl LinkedStream {
    pub fn new(stream: TcpStream, link: Arc<Link>) -> Self {
        LinkedStream { stream, link }
    }
}

impl Drop for LinkedStream {
    fn drop(&mut self) {
        if self.link.is_reset()
            && let Err(error) = self.stream.set_zero_linger()
        {
            log::debug!("a connection will be closed, not reset: {error}");
        }
    }
}

impl AsyncRead for LinkedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LinkedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.link.flushes.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = self.link.awaits_flush.lock().take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.is_reset() {
            // An orderly end (FIN) must not come before the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where a body moves: into the store or out of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// How a body ends that does not go to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Reset,
    /// An orderly close.
    Close,
    /// No byte more, and no end either.
    Silence,
}

/// A body that breaks off.
#[derive(Clone, Copy)]
struct Cut {
    /// Bytes that still go out.
    at: u64,
    ending: Ending,
    /// The flush count when the cut was reached.
    reached: Option<u64>,
}

struct Pace {
    bytes_per_second: u64,
    next: Pin<Box<Sleep>>,
}

/// A body that is counted and, on demand, paced, cut or corrupted. Frames pass unchanged otherwise.
pub struct ShapedBody {
    source: s3s::Body,
    direction: Direction,
    operation: Operation,
    counters: Arc<Counters>,
    link: Arc<Link>,
    /// Bytes passed on.
    passed: u64,
    /// The rest of a frame that was split.
    rest: Option<Bytes>,
    pace: Option<Pace>,
    cut: Option<Cut>,
    corrupt_at: Option<u64>,
}

impl ShapedBody {
    pub fn new(
        source: s3s::Body,
        direction: Direction,
        operation: Operation,
        counters: Arc<Counters>,
        link: Arc<Link>,
    ) -> Self {
        ShapedBody {
            source,
            direction,
            operation,
            counters,
            link,
            passed: 0,
            rest: None,
            pace: None,
            cut: None,
            corrupt_at: None,
        }
    }

    /// Passes on at most so many bytes a second.
    pub fn pace(&mut self, bytes_per_second: u64) {
        let next = Box::pin(clock::sleep(Duration::ZERO));
        self.pace = Some(Pace { bytes_per_second: bytes_per_second.max(1), next });
    }

    /// Breaks off after `at` bytes.
    pub fn cut(&mut self, at: u64, ending: Ending) {
        self.cut = Some(Cut { at, ending, reached: None });
    }

    /// Flips the bits of the byte at this offset.
    pub fn corrupt(&mut self, offset: u64) {
        self.corrupt_at = Some(offset);
    }

    /// At the cut: waits until the bytes before it have left, then fails, which makes hyper drop the
    /// connection.
    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let flushes = self.link.flushes.load(Ordering::Acquire);
        let Some(cut) = self.cut.as_mut().filter(|cut| cut.ending != Ending::Silence) else {
            return Poll::Pending;
        };
        match cut.reached {
            Some(before) if flushes > before => {
                if cut.ending == Ending::Reset {
                    self.link.reset();
                }
                Poll::Ready(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)))
            }
            reached => {
                cut.reached = reached.or(Some(flushes));
                *self.link.awaits_flush.lock() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Takes from a frame what may pass now; the rest waits.
    fn split(&mut self, mut bytes: Bytes) -> Bytes {
        let mut len = bytes.len();
        if self.pace.is_some() {
            len = len.min(PACED_BYTES_MAX);
        }
        if let Some(cut) = &self.cut {
            len = len.min(usize::try_from(cut.at - self.passed).unwrap_or(usize::MAX));
        }
        if len < bytes.len() {
            self.rest = Some(bytes.split_off(len));
        }
        bytes
    }

    fn pass(&mut self, bytes: Bytes) -> Bytes {
        let start = self.passed;
        self.passed += bytes.len() as u64;
        match self.direction {
            Direction::In => self.counters.count_in(self.operation, bytes.len()),
            Direction::Out => self.counters.count_out(self.operation, bytes.len()),
        }
        if let Some(pace) = &mut self.pace {
            let time = Duration::from_secs_f64(bytes.len() as f64 / pace.bytes_per_second as f64);
            let now = Instant::now();
            let due = pace.next.deadline();
            let late = if start == 0 { Duration::ZERO } else { now.duration_since(due) };
            pace.next.as_mut().reset(now - late.min(LATE_MAX) + time);
        }
        match self.corrupt_at {
            Some(offset) if (start..self.passed).contains(&offset) => {
                let mut copy = bytes.to_vec();
                // In range by the guard.
                copy[(offset - start) as usize] ^= 0xff;
                Bytes::from(copy)
            }
            _ => bytes,
        }
    }
}

impl Body for ShapedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = &mut *self;
        if body.cut.is_some_and(|cut| cut.at <= body.passed) {
            return body.poll_break(cx).map(|error| Some(Err(error)));
        }
        if let Some(pace) = &mut body.pace {
            ready!(pace.next.as_mut().poll(cx));
        }
        let bytes = match body.rest.take() {
            Some(bytes) => bytes,
            None => match ready!(Pin::new(&mut body.source).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => bytes,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            },
        };
        let bytes = body.split(bytes);
        Poll::Ready(Some(Ok(Frame::data(body.pass(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.cut.is_none() && self.rest.is_none() && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref().map_or(0, |bytes| bytes.len() as u64);
        match self.source.size_hint().exact() {
            Some(len) => SizeHint::with_exact(len + rest),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn body(text: &'static str) -> ShapedBody {
        let source = s3s::Body::from(Bytes::from_static(text.as_bytes()));
        let counters = Arc::default();
        ShapedBody::new(source, Direction::Out, Operation::GetObject, counters, Arc::default())
    }

    #[tokio::test]
    async fn one_byte_is_flipped_and_all_are_counted() {
        let mut shaped = body("abcdef");
        shaped.corrupt(2);
        let counters = Arc::clone(&shaped.counters);
        let bytes = shaped.collect().await.unwrap().to_bytes();
        assert_eq!(&bytes[..], b"ab\x9cdef");
        assert_eq!(counters.bytes_out_of(Operation::GetObject), 6);
    }

    #[tokio::test]
    async fn a_paced_body_takes_its_time() {
        let source = s3s::Body::from(vec![7u8; 256 << 10]);
        let (counters, link) = (Arc::default(), Arc::default());
        let mut shaped =
            ShapedBody::new(source, Direction::In, Operation::PutObject, counters, link);
        shaped.pace(1 << 20);
        let start = Instant::now();
        assert_eq!(shaped.collect().await.unwrap().to_bytes().len(), 256 << 10);
        // A quarter of a second, but for timers' grain.
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(240), "{taken:?}");
    }
}
