//! The body of a GET, and what happens to it on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};

use super::bucket::{Object, error};
use super::script::Fault;
use crate::range::ByteRange;
use crate::store::{Body, Carried, ETag, Metadata, ObjectHead, Result};

/// Bytes that come at a time.
const CHUNK_BYTES: u64 = 16 << 10;

/// What is read.
pub(super) struct Source {
    head: ObjectHead,
    md5: Option<[u8; 16]>,
    read: Box<dyn Fn(ByteRange) -> Bytes + Send>,
}

impl From<Object> for Source {
    fn from(Object { bytes, head, md5 }: Object) -> Source {
        let read =
            move |piece: ByteRange| bytes.slice(piece.start() as usize..piece.end() as usize);
        Source { head, md5, read: Box::new(read) }
    }
}

impl Source {
    /// An object that has these bytes wherever it is read, in the version that is asked for.
    pub fn endless(content: fn(ByteRange) -> Vec<u8>, etag: &ETag) -> Source {
        let head = ObjectHead {
            etag: etag.clone(),
            len: u64::MAX,
            last_modified: UNIX_EPOCH,
            metadata: Metadata::new(),
            content_type: None,
            carried: Carried::default(),
            version_id: None,
            sum: None,
            archived: None,
        };
        Source { head, md5: None, read: Box::new(move |piece| content(piece).into()) }
    }

    pub fn body(self, range: ByteRange, fault: Option<Fault>, sent: Arc<AtomicU64>) -> Body {
        let md5 = self.md5.filter(|_| range == ByteRange::new(0, self.head.len));
        let sending = Sending { read: self.read, range, at: 0, fault, sent };
        let chunks = stream::unfold(sending, |mut sending| async {
            let chunk = sending.next().await?;
            if chunk.is_err() {
                sending.at = sending.range.len();
            }
            Some((chunk, sending))
        });
        Body { range, head: self.head, md5, request_id: None, bytes: chunks.boxed() }
    }
}

/// A body on its way.
struct Sending {
    read: Box<dyn Fn(ByteRange) -> Bytes + Send>,
    range: ByteRange,
    /// So much of the range was sent.
    at: u64,
    fault: Option<Fault>,
    sent: Arc<AtomicU64>,
}

impl Sending {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        if self.at == self.range.len() {
            return None;
        }
        let mut end = (self.at + CHUNK_BYTES).min(self.range.len());
        match &self.fault {
            Some(Fault::Short(bytes, kind)) if *bytes <= self.at => {
                return Some(Err(error(*kind, "GetObject")));
            }
            Some(Fault::Short(bytes, _)) => end = end.min(*bytes),
            Some(Fault::Trickles(tap)) => end = end.min(tap.beyond(self.at).await),
            _ => {}
        }
        let piece = ByteRange::new(self.range.start() + self.at, self.range.start() + end);
        self.at = end;
        self.sent.fetch_add(piece.len(), Ordering::SeqCst);
        let turned = self.range.start() + self.range.len() / 2;
        let is_turned =
            matches!(self.fault, Some(Fault::Flipped)) && piece.contains(&ByteRange::at(turned, 1));
        let bytes = (self.read)(piece);
        if !is_turned {
            return Some(Ok(bytes));
        }
        let mut bytes = bytes.to_vec();
        bytes[(turned - piece.start()) as usize] ^= 1;
        Some(Ok(bytes.into()))
    }
}
