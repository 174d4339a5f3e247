//! The journal file as a thing to append to.
//!
//! Consistency: `append` is one write(2) behind the last whole frame. What was appended survives the death
//! of the process; what was appended before a `sync` survives the death of the machine.
//! Retries: none. The first error of writing or syncing latches, since a file in an unknown state must not
//! be written on: every later call fails with it, until a rewrite has put the whole content into a new file.
//! Cancellation: a dropped `sync` lets the fdatasync run to its end and changes nothing.
//! Crash: a torn frame is cut off by the next `open`; a rewrite not yet renamed is not looked at.
//!
//! Lock order: `turn`, then the caller's own, then `tail`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::JournalError;
use super::frame::{self, DropReason, Header};

/// How much is read at once in replay, and written at once in a rewrite.
const STREAM_BYTES: usize = 1 << 20;

/// Room that the disk keeps for what comes next. When other files have filled it to the last byte, what frees
/// some of it (a file that has come to the store) can still be recorded.
const RESERVE_BYTES: u64 = 512 << 10;

/// What opening a journal found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Records kept.
    pub records: u64,
    /// Bytes behind them that were not believed.
    pub dropped_bytes: u64,
    /// Why; `None` where the file was whole.
    pub reason: Option<DropReason>,
}

/// An append-only file of records of one kind.
pub struct Log<R> {
    path: PathBuf,
    header: Vec<u8>,
    tail: Mutex<Tail>,
    /// Held by whoever syncs or rewrites. Those who wait for it find their records synced by the one
    /// before: that is the group commit.
    turn: Arc<tokio::sync::Mutex<()>>,
    record: PhantomData<fn(R)>,
}

struct Tail {
    file: Frames,
    /// The file of a rewrite in progress; it gets every record as well.
    next: Option<Frames>,
    /// Appends since the opening, and how many of them are known to be on the disk.
    appended: u64,
    synced: u64,
    /// Length of the file when it was synced last, in bytes.
    synced_bytes: u64,
    /// How often fdatasync was called by `sync`.
    syncs: u64,
    latched: Option<Latch>,
    /// What was written may be lost, though a later fdatasync says nothing of it.
    sync_failed: bool,
}

/// A file of frames and where it goes on.
struct Frames {
    file: Arc<File>,
    chain: u32,
    bytes: u64,
    /// Up to here the disk keeps room for it.
    reserved: u64,
}

/// The first error, kept to be told again.
struct Latch {
    kind: io::ErrorKind,
    errno: Option<i32>,
    text: String,
}

/// The exclusive right to sync or rewrite. Dropping it passes it on.
pub type Turn = tokio::sync::OwnedMutexGuard<()>;

impl<R: Serialize + DeserializeOwned> Log<R> {
    /// Opens the file at `path`, or begins it, and hands every record in it to `each`. What lies behind the
    /// valid prefix is cut off; a damaged header is repaired. A file of an older version can only be read: it is
    /// latched until a rewrite has put it into this version's form. Blocks.
    ///
    /// # Errors
    /// Another identity or a future version, before anything is changed; any failure to read, after which
    /// nothing is changed either.
    pub fn open(
        path: &Path,
        identity: &[u8],
        each: impl FnMut(R),
    ) -> Result<(Log<R>, ReplayReport), JournalError> {
        Log::open_or_begin(path, identity, each, || Ok(()))
    }

    /// Likewise. `beginning` is done before a file is begun with nothing in it, because there is none, or none that can
    /// be believed.
    ///
    /// # Errors
    /// Those of `beginning` too; no file is begun then.
    pub fn open_or_begin(
        path: &Path,
        identity: &[u8],
        each: impl FnMut(R),
        beginning: impl FnOnce() -> io::Result<()>,
    ) -> Result<(Log<R>, ReplayReport), JournalError> {
        let header = frame::header(identity);
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let (frames, report, version) = match opened {
            Ok(file) => resume(path, file, identity, each, beginning)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                beginning().map_err(JournalError::io("begin", path))?;
                let frames = begin(path, &header).map_err(JournalError::io("create", path))?;
                sync_folder_of(path).map_err(JournalError::io("sync the folder of", path))?;
                (frames, ReplayReport::default(), frame::VERSION)
            }
            Err(error) => return Err(JournalError::io("open", path)(error)),
        };
        let latched = (version != frame::VERSION).then(|| Latch {
            kind: io::ErrorKind::Unsupported,
            errno: None,
            text: format!("it has format version {version}"),
        });
        let tail = Tail {
            synced_bytes: frames.bytes,
            file: frames,
            next: None,
            appended: 0,
            synced: 0,
            syncs: 0,
            latched,
            sync_failed: false,
        };
        let log = Log {
            path: path.to_owned(),
            header,
            tail: Mutex::new(tail),
            turn: Arc::default(),
            record: PhantomData,
        };
        Ok((log, report))
    }

    /// Appends `records` in one write, all or (after a crash) a prefix of them.
    ///
    /// # Errors
    /// InvalidInput for a record too long, which changes nothing; an error of writing, which latches.
    pub fn append(&self, records: &[R]) -> io::Result<()> {
        let mut tail = self.tail.lock();
        tail.check()?;
        let (bytes, chain) = encode(tail.file.chain, records)?;
        if let Err(error) = tail.file.write(&bytes, chain) {
            return Err(tail.latch(error));
        }
        tail.appended += 1;
        if let Some(next) = &mut tail.next {
            let written =
                encode(next.chain, records).and_then(|(bytes, chain)| next.write(&bytes, chain));
            if let Err(error) = written {
                // Only the rewrite suffers: the file in use has the records.
                log::warn!("{}: rewrite given up: {error}", self.path.display());
                tail.next = None;
            }
        }
        Ok(())
    }

    /// Makes everything appended so far survive the machine. Many who call at once share one fdatasync.
    ///
    /// # Errors
    /// An error of syncing, which latches.
    pub async fn sync(&self) -> io::Result<()> {
        self.tail.lock().check()?;
        self.sync_written().await
    }

    /// As [`Self::sync`], of what could be written: also where the disk has become too full for more.
    ///
    /// # Errors
    /// An error of syncing, now or earlier.
    pub async fn sync_written(&self) -> io::Result<()> {
        let wanted = self.tail.lock().appended;
        let turn = self.turn().await;
        let (file, upto) = {
            let mut tail = self.tail.lock();
            if tail.synced >= wanted {
                return Ok(());
            }
            tail.check_synced()?;
            tail.syncs += 1;
            (tail.file.file.clone(), (tail.appended, tail.file.bytes))
        };
        // The turn goes along, so that it lasts as long as the fdatasync, whoever waits for it.
        let synced = tokio::task::spawn_blocking(move || (file.sync_data(), turn));
        let (result, _turn) = synced.await.map_err(io::Error::other)?;
        let mut tail = self.tail.lock();
        match result {
            Ok(()) => {
                (tail.synced, tail.synced_bytes) = upto;
                Ok(())
            }
            Err(error) => {
                tail.sync_failed = true;
                Err(tail.latch(error))
            }
        }
    }

    /// The exclusive right to rewrite.
    pub async fn turn(&self) -> Turn {
        self.turn.clone().lock_owned().await
    }

    /// Likewise, where nobody has it.
    pub fn turn_now(&self) -> Option<Turn> {
        self.turn.clone().try_lock_owned().ok()
    }

    /// Length of the file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.tail.lock().file.bytes
    }

    /// How much of that was appended since the last sync, in bytes.
    pub fn unsynced_bytes(&self) -> u64 {
        let tail = self.tail.lock();
        tail.file.bytes - tail.synced_bytes
    }

    /// Whether the disk keeps room for what comes next, beyond what is kept for making room.
    pub fn has_room(&self) -> bool {
        self.tail.lock().file.has_room()
    }

    /// How many fdatasyncs the calls of [`Self::sync`] came to.
    pub fn syncs(&self) -> u64 {
        self.tail.lock().syncs
    }

    /// Whether an error has latched.
    pub fn is_latched(&self) -> bool {
        self.tail.lock().latched.is_some()
    }

    /// First half of a rewrite: writes `records`, which stand for everything appended so far, to a new file.
    /// The caller sees to it that nothing is appended meanwhile; from the return on, appends go to both
    /// files. Blocks.
    ///
    /// # Errors
    /// Those of writing the new file. The log goes on as before.
    pub fn begin_rewrite(&self, _turn: &Turn, records: impl Iterator<Item = R>) -> io::Result<()> {
        let mut next = begin(&self.new_path(), &self.header)?;
        let mut bytes = Vec::with_capacity(STREAM_BYTES + 4096);
        let mut chain = next.chain;
        for record in records {
            chain = frame::push_frame(&mut bytes, chain, &record)?;
            if bytes.len() >= STREAM_BYTES {
                next.write(&bytes, chain)?;
                bytes.clear();
            }
        }
        next.write(&bytes, chain)?;
        self.tail.lock().next = Some(next);
        Ok(())
    }

    /// Second half: makes the new file durable and puts it in the place of the old one. Clears a latch. Blocks.
    ///
    /// # Errors
    /// Those of syncing and renaming. The log goes on with the old file, unless only the folder's own sync
    /// failed: then the new one is in use, and the error has latched.
    pub fn finish_rewrite(&self, _turn: &Turn) -> io::Result<()> {
        let new_file = self.tail.lock().next.as_ref().map(|next| next.file.clone());
        if let Some(file) = new_file {
            // The bulk, without the lock; what is appended meanwhile follows below.
            file.sync_data()?;
        }
        let mut tail = self.tail.lock();
        let next = tail.next.take().ok_or_else(|| io::Error::other("the rewrite was given up"))?;
        next.file.sync_data()?;
        std::fs::rename(self.new_path(), &self.path)?;
        tail.file = next;
        (tail.latched, tail.sync_failed) = (None, false);
        if let Err(error) = sync_folder_of(&self.path) {
            return Err(tail.latch(error));
        }
        (tail.synced, tail.synced_bytes) = (tail.appended, tail.file.bytes);
        Ok(())
    }

    fn new_path(&self) -> PathBuf {
        new_path(&self.path)
    }
}

impl Tail {
    fn check(&self) -> io::Result<()> {
        match &self.latched {
            Some(latch) => Err(latch.error()),
            None => Ok(()),
        }
    }

    fn check_synced(&self) -> io::Result<()> {
        if self.sync_failed { self.check() } else { Ok(()) }
    }

    /// Keeps the first error, and gives back `error`.
    fn latch(&mut self, error: io::Error) -> io::Error {
        if self.latched.is_none() {
            let (kind, errno) = (error.kind(), error.raw_os_error());
            self.latched = Some(Latch { kind, errno, text: error.to_string() });
        }
        error
    }
}

impl Latch {
    /// With the number of the first error where there is one, so that ENOSPC stays ENOSPC.
    fn error(&self) -> io::Error {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(self.kind, format!("the journal failed earlier: {}", self.text)),
        }
    }
}

impl Frames {
    fn new(file: File, chain: u32, bytes: u64) -> Frames {
        let mut frames = Frames { file: Arc::new(file), chain, bytes, reserved: bytes };
        frames.reserve();
        frames
    }

    /// Half of the reserve is for what cannot be done without.
    fn has_room(&self) -> bool {
        self.bytes + RESERVE_BYTES / 2 <= self.reserved
    }

    /// Keeps room behind the end, where that can be had. The length of the file stays.
    fn reserve(&mut self) {
        if self.has_room() {
            return;
        }
        let wanted = self.bytes + RESERVE_BYTES;
        let (Ok(from), Ok(len)) = (i64::try_from(self.bytes), i64::try_from(RESERVE_BYTES)) else {
            return;
        };
        // SAFETY: the descriptor is open for as long as `self`; the call touches no memory of ours.
        let answer =
            unsafe { libc::fallocate(self.file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, from, len) };
        let is_full =
            answer != 0 && io::Error::last_os_error().kind() == io::ErrorKind::StorageFull;
        if !is_full {
            // Where the file system cannot, it is not asked again for every record.
            self.reserved = wanted;
        }
    }

    fn write(&mut self, bytes: &[u8], chain: u32) -> io::Result<()> {
        self.file.write_all_at(bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        self.chain = chain;
        self.reserve();
        Ok(())
    }
}

fn encode<R: Serialize>(mut chain: u32, records: &[R]) -> io::Result<(Vec<u8>, u32)> {
    let mut bytes = Vec::with_capacity(256 * records.len());
    for record in records {
        chain = frame::push_frame(&mut bytes, chain, record)?;
    }
    Ok((bytes, chain))
}

/// Where a rewrite of the file at `path` grows.
fn new_path(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// A file with `header` and no records. Not yet durable.
fn begin(path: &Path, header: &[u8]) -> io::Result<Frames> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path)?;
    file.write_all_at(header, 0)?;
    let chain = frame::chain_start(header);
    Ok(Frames::new(file, chain, header.len() as u64))
}

/// Replays `file` and makes it fit to go on behind its valid prefix. Says which version it has.
fn resume<R: DeserializeOwned>(
    path: &Path,
    mut file: File,
    identity: &[u8],
    each: impl FnMut(R),
    beginning: impl FnOnce() -> io::Result<()>,
) -> Result<(Frames, ReplayReport, u32), JournalError> {
    let reading = JournalError::io("read", path);
    let found = frame::read_header(&mut file).map_err(&reading)?;
    check_header(path, &found, identity)?;
    let header_is_damaged = found == Header::Damaged;
    let version = match found {
        Header::Valid { version, .. } => version,
        Header::Damaged => version_of_frames::<R>(&file, identity).map_err(&reading)?,
    };
    let header = frame::header_of_version(identity, version);
    let file_bytes = file.metadata().map_err(&reading)?.len();
    let replayed = replay_behind(&header, &file, each).map_err(&reading)?;

    let bytes = header.len() as u64 + replayed.bytes;
    let reason = if header_is_damaged { Some(DropReason::DamagedHeader) } else { replayed.stopped };
    let report = ReplayReport {
        records: replayed.records,
        dropped_bytes: if replayed.records == 0 && header_is_damaged {
            file_bytes
        } else {
            file_bytes.saturating_sub(bytes)
        },
        reason,
    };

    let writing = JournalError::io("repair", path);
    if header_is_damaged && replayed.records == 0 && file_bytes > 0 {
        // Nothing in it is ours for certain: it is set aside, not overwritten.
        beginning().map_err(&writing)?;
        std::fs::rename(path, path.with_extension("damaged")).map_err(&writing)?;
        return Ok((begin(path, &header).map_err(&writing)?, report, version));
    }
    if header_is_damaged {
        file.write_all_at(&header, 0).map_err(&writing)?;
    }
    if file_bytes != bytes {
        file.set_len(bytes).map_err(&writing)?;
    }
    // The process before may have been killed: what is relied on from now on is not in the kernel's memory alone.
    file.sync_data().map_err(&writing)?;
    Ok((Frames::new(file, replayed.chain, bytes), report, version))
}

/// Which version's header the frames of a file with a damaged one follow: behind another they do not match.
fn version_of_frames<R: DeserializeOwned>(file: &File, identity: &[u8]) -> io::Result<u32> {
    for version in frame::READABLE {
        let header = frame::header_of_version(identity, *version);
        if replay_behind(&header, file, |_: R| {})?.records > 0 {
            return Ok(*version);
        }
    }
    Ok(frame::VERSION)
}

fn replay_behind<R: DeserializeOwned>(
    header: &[u8],
    mut file: &File,
    each: impl FnMut(R),
) -> io::Result<frame::Replayed> {
    file.seek(SeekFrom::Start(header.len() as u64))?;
    let mut reader = BufReader::with_capacity(STREAM_BYTES, file);
    frame::replay(&mut reader, frame::chain_start(header), each)
}

/// Refuses what is intact and not ours.
fn check_header(path: &Path, found: &Header, identity: &[u8]) -> Result<(), JournalError> {
    match found {
        Header::Valid { version, .. } if !frame::READABLE.contains(version) => {
            Err(JournalError::OtherVersion { path: path.to_owned(), version: *version })
        }
        Header::Valid { identity: found, .. } if found != identity => {
            Err(JournalError::other_bucket(path, found))
        }
        Header::Valid { .. } | Header::Damaged => Ok(()),
    }
}

/// What [`read_only`] found: the identity in the header, and the report.
pub fn read_only<R: DeserializeOwned>(
    path: &Path,
    each: impl FnMut(R),
) -> Result<(Vec<u8>, ReplayReport), JournalError> {
    let reading = JournalError::io("read", path);
    let mut file = File::open(path).map_err(&reading)?;
    let (identity, header) = match frame::read_header(&mut file).map_err(&reading)? {
        Header::Valid { version, identity, bytes } if frame::READABLE.contains(&version) => {
            (identity, bytes)
        }
        Header::Valid { version, .. } => {
            return Err(JournalError::OtherVersion { path: path.to_owned(), version });
        }
        Header::Damaged => return Err(JournalError::Damaged { path: path.to_owned() }),
    };
    let file_bytes = file.metadata().map_err(&reading)?.len();
    let mut reader = BufReader::with_capacity(STREAM_BYTES, &file);
    let replayed =
        frame::replay(&mut reader, frame::chain_start(&header), each).map_err(&reading)?;
    let report = ReplayReport {
        records: replayed.records,
        dropped_bytes: file_bytes.saturating_sub(header.len() as u64 + replayed.bytes),
        reason: replayed.stopped,
    };
    Ok((identity, report))
}

/// Makes the names in the folder of `path` durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
