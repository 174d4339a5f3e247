//! The bytes of the embedded store: files that are written once, never changed, and shared.
//!
//! ```text
//! DIR/data/HH/HHHHHHHHHHHHHHHH    one blob; the name is its number in hex, the folder its last byte
//! ```
//!
//! An object or a part is a list of [`Piece`]s, each a range of a blob, so completing a multipart upload
//! and copying, whole or a range, move no byte.
//!
//! Consistency: a blob exists for a reader only through the index, which names it after its last byte
//! is written. It is removed when nothing refers to it any more: no object or part, and no request
//! that still reads or writes it ([`Hold`]).
//! Cancellation: a request that ends early drops its hold, and what it wrote goes.
//! Crash: blobs that the index does not name are removed at the next start.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::task::{JoinHandle, spawn_blocking};

use super::context::context;
use crate::checked::Sum;
use crate::clock;
use crate::lock::{Mutex, rank};
use crate::private;

/// Bytes gathered before a thread writes and hashes them: large enough that handing over to the
/// thread costs nothing beside the hashing, small enough for many uploads at once (two batches each).
const BATCH_BYTES: usize = 1 << 20;

/// Bytes of one frame of an answer. One more is read ahead while it is sent.
const READ_BYTES: u64 = 512 << 10;

/// More files than this are removed by a thread of their own.
const REMOVED_INLINE_MAX: usize = 4;

/// A range of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub blob: u64,
    pub offset: u64,
    pub len: u64,
    /// The MD5 of exactly this range in hex, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// Its CRC-32C, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<u32>,
}

/// What the content of pieces is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// In hex.
    pub md5: String,
    pub sum: Sum,
}

/// The bytes `start..end` of the content that `pieces` make up, as pieces.
pub fn cut(pieces: &[Piece], start: u64, end: u64) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut at = 0;
    for piece in pieces {
        let (from, to) = (start.max(at), end.min(at + piece.len));
        if from < to {
            let whole = to - from == piece.len;
            found.push(Piece {
                blob: piece.blob,
                offset: piece.offset + (from - at),
                len: to - from,
                md5: piece.md5.clone().filter(|_| whole),
                crc: piece.crc.filter(|_| whole),
            });
        }
        at += piece.len;
    }
    found
}

/// All blobs of a store, and what refers to them.
pub struct Blobs {
    dir: PathBuf,
    next: AtomicU64,
    /// How many pieces of the index and holds refer to a blob. Absent means 0.
    references: Mutex<HashMap<u64, u32>, rank::EmbeddedBlobs>,
    /// The digests of lists of pieces asked for lately: a range that is copied is often copied again.
    known: Mutex<lru::LruCache<Extents, Arc<OnceCell<Digests>>>, rank::EmbeddedKnown>,
}

/// What makes the content of pieces: blobs are never changed, and their numbers never used again.
type Extents = Vec<(u64, u64, u64)>;

/// Lists of pieces whose digests are remembered.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

impl Blobs {
    /// Opens (or makes) the folder of blobs.
    pub fn open(dir: &Path) -> io::Result<Blobs> {
        for low in 0..=u8::MAX {
            let folder = dir.join(format!("{low:02x}"));
            private::create_dir_all(&folder)
                .map_err(|error| context(error, &format!("cannot make {}", folder.display())))?;
        }
        // Numbers are never used again, not even by a server that starts while a thread of the one
        // before it is still removing a file: they begin at the time of the start.
        let since = clock::wall().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let next = AtomicU64::new(u64::try_from(since.as_nanos()).map_err(io::Error::other)?);
        let known = Mutex::new(lru::LruCache::new(KNOWN_MAX));
        Ok(Blobs { dir: dir.to_owned(), next, references: Mutex::default(), known })
    }

    fn path(&self, blob: u64) -> PathBuf {
        self.dir.join(format!("{:02x}", blob & 0xff)).join(format!("{blob:016x}"))
    }

    /// Adds one reference to each.
    pub fn retain(&self, blobs: impl IntoIterator<Item = u64>) {
        let mut references = self.references.lock();
        for blob in blobs {
            *references.entry(blob).or_default() += 1;
        }
    }

    /// A hold that takes over references counted already.
    pub fn take_over(self: &Arc<Self>, blobs: Vec<u64>) -> Hold {
        Hold { owner: Arc::clone(self), blobs }
    }

    /// Keeps the blobs of these pieces while the hold lives.
    pub fn hold(self: &Arc<Self>, pieces: &[Piece]) -> Hold {
        let blobs: Vec<u64> = pieces.iter().map(|piece| piece.blob).collect();
        self.retain(blobs.iter().copied());
        self.take_over(blobs)
    }

    /// Removes the files that nothing refers to: for the start, once the index is read. Returns how
    /// many there were.
    pub fn sweep(&self) -> io::Result<usize> {
        let references = self.references.lock();
        let mut removed = 0;
        for low in 0..=u8::MAX {
            for entry in fs::read_dir(self.dir.join(format!("{low:02x}")))? {
                let entry = entry?;
                let name = entry.file_name();
                let blob = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
                if blob.is_some_and(|blob| !references.contains_key(&blob)) {
                    fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    fn release(self: &Arc<Self>, blobs: &[u64]) {
        let mut unused = Vec::new();
        {
            let mut references = self.references.lock();
            for blob in blobs {
                if let Some(count) = references.get_mut(blob) {
                    *count -= 1;
                    if *count == 0 {
                        references.remove(blob);
                        unused.push(self.path(*blob));
                    }
                }
            }
        }
        if unused.len() > REMOVED_INLINE_MAX && tokio::runtime::Handle::try_current().is_ok() {
            spawn_blocking(move || remove(&unused));
        } else {
            remove(&unused);
        }
    }

    /// Writes a body to a new blob. The hold keeps it until the index refers to it.
    pub async fn receive<E>(
        self: &Arc<Self>,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Received, ReceiveError>
    where
        E: std::fmt::Display,
    {
        let mut body = std::pin::pin!(body);
        let mut sink = Some(Sink::new(self));
        let mut under_way: Option<JoinHandle<io::Result<Sink>>> = None;
        loop {
            let (batch, ended) = gather(&mut body).await?;
            if let Some(job) = under_way.take() {
                sink = Some(joined(job).await.map_err(ReceiveError::Disk)?);
            }
            if let Some(mut idle) = sink.take() {
                under_way = Some(spawn_blocking(move || {
                    idle.write(&batch)?;
                    Ok(idle)
                }));
            }
            if ended {
                break;
            }
        }
        if let Some(job) = under_way {
            sink = Some(joined(job).await.map_err(ReceiveError::Disk)?);
        }
        match sink {
            Some(sink) => Ok(sink.finish()),
            None => Err(ReceiveError::Disk(io::Error::other("the writer is gone"))),
        }
    }

    /// The content of these pieces, in frames. `hold` keeps their blobs until the end.
    pub fn send(
        self: &Arc<Self>,
        pieces: Vec<Piece>,
        hold: Hold,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
        let cursor = Cursor::new(Arc::clone(self), pieces, hold);
        stream::unfold(Some(cursor.read_ahead()), |job| async {
            let (cursor, frame) = match job?.await {
                Ok(read) => read,
                Err(error) => return Some((Err(io::Error::other(error)), None)),
            };
            match frame {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(cursor.read_ahead()))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The digests of the content of these pieces. Reads it unless it is one piece of which they are known.
    pub async fn digests(self: &Arc<Self>, pieces: Vec<Piece>, hold: Hold) -> io::Result<Digests> {
        if let [Piece { md5: Some(md5), crc: Some(crc), len, .. }] = pieces.as_slice() {
            return Ok(Digests { md5: md5.clone(), sum: Sum { crc: *crc, len: *len } });
        }
        let extents = pieces.iter().map(|piece| (piece.blob, piece.offset, piece.len)).collect();
        let known = self.known.lock().get_or_insert(extents, Arc::default).clone();
        known.get_or_try_init(|| self.read_digests(pieces, hold)).await.cloned()
    }

    async fn read_digests(self: &Arc<Self>, pieces: Vec<Piece>, hold: Hold) -> io::Result<Digests> {
        let mut cursor = Cursor::new(Arc::clone(self), pieces, hold);
        let job = spawn_blocking(move || {
            let (mut md5, mut sum) = (Md5::new(), Sum::EMPTY);
            while let Some(bytes) = cursor.read()? {
                md5.update(&bytes);
                sum = sum.then_bytes(&bytes);
            }
            Ok(Digests { md5: hex(&md5.finalize()), sum })
        });
        joined(job).await
    }
}

fn remove(paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // The next start sweeps it away.
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

async fn joined<T>(job: JoinHandle<io::Result<T>>) -> io::Result<T> {
    job.await.map_err(io::Error::other)?
}

/// Frames of at least [`BATCH_BYTES`] together, and whether they were the last.
async fn gather<E: std::fmt::Display>(
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<(Vec<Bytes>, bool), ReceiveError> {
    let (mut batch, mut len) = (Vec::new(), 0);
    while len < BATCH_BYTES {
        match body.next().await {
            Some(Ok(bytes)) => {
                len += bytes.len();
                batch.push(bytes);
            }
            Some(Err(error)) => return Err(ReceiveError::Body(error.to_string())),
            None => return Ok((batch, true)),
        }
    }
    Ok((batch, false))
}

/// Why a body could not be kept.
#[derive(Debug)]
pub enum ReceiveError {
    /// The client broke off, or sent something else than it had announced.
    Body(String),
    Disk(io::Error),
}

/// A body that is in a blob.
pub struct Received {
    pub len: u64,
    /// In hex.
    pub md5: String,
    pub crc: u32,
    /// None for an empty body.
    pub pieces: Vec<Piece>,
    pub _hold: Hold,
}

/// Keeps blobs from being removed.
pub struct Hold {
    owner: Arc<Blobs>,
    /// One reference for each entry.
    blobs: Vec<u64>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let blobs = mem::take(&mut self.blobs);
        self.owner.release(&blobs);
    }
}

/// A blob being written. The file is made with the first byte.
struct Sink {
    blob: u64,
    hold: Hold,
    file: Option<File>,
    md5: Md5,
    sum: Sum,
}

impl Sink {
    fn new(blobs: &Arc<Blobs>) -> Sink {
        let blob = blobs.next.fetch_add(1, Ordering::Relaxed);
        blobs.retain([blob]);
        let hold = blobs.take_over(vec![blob]);
        Sink { blob, hold, file: None, md5: Md5::new(), sum: Sum::EMPTY }
    }

    fn write(&mut self, batch: &[Bytes]) -> io::Result<()> {
        for bytes in batch {
            let file = match &mut self.file {
                Some(file) => file,
                none => {
                    let path = self.hold.owner.path(self.blob);
                    let mut options = private::file_options();
                    none.insert(options.read(true).write(true).create_new(true).open(path)?)
                }
            };
            file.write_all(bytes)?;
            self.md5.update(bytes);
            self.sum = self.sum.then_bytes(bytes);
        }
        Ok(())
    }

    fn finish(self) -> Received {
        let md5 = hex(&self.md5.finalize());
        let Sum { crc, len } = self.sum;
        let mut pieces = Vec::new();
        if len > 0 {
            let (blob, md5) = (self.blob, Some(md5.clone()));
            pieces.push(Piece { blob, offset: 0, len, md5, crc: Some(crc) });
        }
        Received { len, md5, crc, pieces, _hold: self.hold }
    }
}

type ReadAhead = JoinHandle<(Cursor, io::Result<Option<Bytes>>)>;

/// Reads pieces one after the other.
struct Cursor {
    blobs: Arc<Blobs>,
    /// What is still to be read; the first one from its offset on.
    pieces: std::collections::VecDeque<Piece>,
    /// The first piece's file, at its offset.
    file: Option<File>,
    _hold: Hold,
}

impl Cursor {
    fn new(blobs: Arc<Blobs>, pieces: Vec<Piece>, hold: Hold) -> Cursor {
        Cursor { blobs, pieces: pieces.into(), file: None, _hold: hold }
    }

    fn read_ahead(mut self) -> ReadAhead {
        spawn_blocking(move || {
            let frame = self.read();
            (self, frame)
        })
    }

    /// The next bytes; `None` at the end.
    fn read(&mut self) -> io::Result<Option<Bytes>> {
        let Some(piece) = self.pieces.front_mut() else {
            return Ok(None);
        };
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = File::open(self.blobs.path(piece.blob))?;
                file.seek(SeekFrom::Start(piece.offset))?;
                none.insert(file)
            }
        };
        let len = piece.len.min(READ_BYTES);
        let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
        if file.take(len).read_to_end(&mut bytes)? as u64 != len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a blob is too short"));
        }
        piece.offset += len;
        piece.len -= len;
        if piece.len == 0 {
            self.pieces.pop_front();
            self.file = None;
        }
        Ok(Some(Bytes::from(bytes)))
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn piece(blob: u64, len: u64) -> Piece {
        Piece { blob, offset: 0, len, md5: Some(format!("md5 of {blob}")), crc: None }
    }

    fn files(dir: &Path) -> usize {
        (0..=255u8).map(|low| fs::read_dir(dir.join(format!("{low:02x}"))).unwrap().count()).sum()
    }

    async fn receive(blobs: &Arc<Blobs>, text: &'static [u8]) -> Received {
        let frames = stream::iter([Ok::<_, Infallible>(Bytes::from_static(text))]);
        blobs.receive(frames).await.unwrap()
    }

    #[test]
    fn a_cut_keeps_the_hash_of_whole_pieces_only() {
        let pieces = [piece(1, 10), piece(2, 10), piece(3, 10)];
        let found = cut(&pieces, 5, 25);
        assert_eq!(
            found.iter().map(|p| (p.blob, p.offset, p.len)).collect::<Vec<_>>(),
            [(1, 5, 5), (2, 0, 10), (3, 0, 5)]
        );
        assert_eq!(found[1].md5.as_deref(), Some("md5 of 2"));
        assert!(found[0].md5.is_none() && found[2].md5.is_none());
        assert!(cut(&pieces, 30, 40).is_empty());
    }

    #[tokio::test]
    async fn a_blob_lives_as_long_as_something_refers_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(Blobs::open(dir.path()).unwrap());
        let received = receive(&blobs, b"hello").await;
        assert_eq!(received.md5, "5d41402abc4b2a76b9719d911017c592");
        let reader = blobs.hold(&received.pieces);
        drop(received._hold);
        assert_eq!(files(dir.path()), 1);
        let parts = blobs.send(cut(&received.pieces, 1, 4), reader);
        let frames: Vec<_> = parts.map(|frame| frame.unwrap()).collect().await;
        assert_eq!(frames.concat(), b"ell");
        // The reader's stream is gone, and its hold with it.
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(Blobs::open(dir.path()).unwrap());
        let full = Bytes::from(vec![1; BATCH_BYTES]);
        let frames = stream::iter([Ok(full.clone()), Ok(full), Err("gone")]);
        assert!(matches!(blobs.receive(frames).await, Err(ReceiveError::Body(_))));
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let kept = {
            let blobs = Arc::new(Blobs::open(dir.path()).unwrap());
            let received = receive(&blobs, b"kept").await;
            let lost = receive(&blobs, b"lost").await;
            // As after kill -9: nothing is dropped.
            mem::forget(lost._hold);
            mem::forget(received._hold);
            received.pieces
        };
        let blobs = Arc::new(Blobs::open(dir.path()).unwrap());
        blobs.retain(kept.iter().map(|piece| piece.blob));
        assert_eq!(blobs.sweep().unwrap(), 1);
        assert_eq!(files(dir.path()), 1);
    }
}
