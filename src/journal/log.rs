//! The journal file as a thing to append to.
//!
//! Consistency: `append` returns when its records are written behind the last whole frame. Those that append while a write(2)
//! is under way are written together by the next (group commit). What was appended survives the death of the process; what
//! was appended before a `sync` survives the death of the machine.
//! Retries: none. The first error of writing or syncing latches, since a file in an unknown state must not
//! be written on: every later call fails with it, until a rewrite has put the whole content into a new file.
//! Cancellation: a dropped `sync` lets the fdatasync run to its end and changes nothing.
//! Crash: a torn frame is cut off by the next `open`; a rewrite not yet renamed is not looked at.
//!
//! Lock order: the rewriter's turn, the syncer's turn, `writer`, the caller's own, `tail`. Under `writer` the file is written,
//! so only appenders take it; under `tail` nothing is, so that any caller may take it.

use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedMutexGuard;

use super::error::JournalError;
use super::frame::{self, DropReason, Header};
use super::frames::Frames;
use crate::blocking;
use crate::disk::{self, File, OpenOptions};
use crate::lock::{Mutex, rank, waits_for_the_disk};

/// How much is read at once in replay, and written at once in a rewrite.
pub(super) const STREAM_BYTES: usize = 1 << 20;

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
    pub(super) path: PathBuf,
    pub(super) header: Vec<u8>,
    /// Held for a write(2), by the one appender that writes for all that wait.
    pub(super) writer: Mutex<Writer, rank::LogWriter>,
    pub(super) tail: Mutex<Tail<R>, rank::LogTail>,
    /// Those that wait for it find their records synced by the one before: that is the group commit.
    syncing: Arc<tokio::sync::Mutex<()>>,
    rewriting: Arc<tokio::sync::Mutex<()>>,
}

pub(super) struct Writer {
    pub file: Frames,
    /// The file of a rewrite that has caught up; it gets every record as well.
    pub next: Option<Frames>,
}

/// What waits to be written, and how far what was written has come.
pub(super) struct Tail<R> {
    waiting: Vec<Batch<R>>,
    /// The file in use, its length in bytes, and whether it has room.
    pub file: Arc<File>,
    pub bytes: u64,
    pub has_room: bool,
    /// Appends since the opening, and how many of them are known to be on the disk.
    pub appended: u64,
    pub synced: u64,
    /// Length of the file when it was synced last, in bytes.
    pub synced_bytes: u64,
    /// How often fdatasync was called by `sync`.
    syncs: u64,
    pub latched: Option<Latch>,
    /// What was written may be lost, though a later fdatasync says nothing of it.
    pub sync_failed: bool,
}

/// The records of one append, on their way into the file.
struct Batch<R> {
    frames: Vec<u8>,
    records: Vec<R>,
    outcome: Outcome,
}

/// Records that are to be written.
pub struct Ticket(Outcome);

/// What became of a batch.
type Outcome = Arc<OnceLock<Result<(), Latch>>>;

/// The first error, kept to be told again.
#[derive(Clone)]
pub(super) struct Latch {
    kind: io::ErrorKind,
    errno: Option<i32>,
    text: String,
}

/// The exclusive right to rewrite. Dropping it passes it on.
pub struct RewriteTurn(#[expect(dead_code, reason = "held")] OwnedMutexGuard<()>);

/// The exclusive right to sync, or to have another file synced. Dropping it passes it on.
pub struct SyncTurn(#[expect(dead_code, reason = "held")] OwnedMutexGuard<()>);

impl<R: Serialize + DeserializeOwned + Clone> Log<R> {
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
                let frames =
                    Frames::begin(path, &header).map_err(JournalError::io("create", path))?;
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
            waiting: Vec::new(),
            file: frames.file.clone(),
            bytes: frames.bytes,
            has_room: frames.has_room(),
            appended: 0,
            synced: 0,
            synced_bytes: frames.bytes,
            syncs: 0,
            latched,
            sync_failed: false,
        };
        let log = Log {
            path: path.to_owned(),
            header,
            writer: Mutex::new(Writer { file: frames, next: None }),
            tail: Mutex::new(tail),
            syncing: Arc::default(),
            rewriting: Arc::default(),
        };
        Ok((log, report))
    }

    /// As [`Self::append_then`], for a caller that keeps no state.
    ///
    /// # Errors
    /// As for [`Self::append_then`].
    #[cfg(test)]
    pub fn append(&self, records: &[R]) -> io::Result<()> {
        self.append_then(records, |_| {})
    }

    /// Appends `records`, all or (after a crash) a prefix of them. Whatever is written by this call, also for others, is
    /// handed to `written`, one append after the other and in the order of the file, before anything is written behind it.
    ///
    /// # Errors
    /// InvalidInput for a record too long, which changes nothing; an error of writing, which latches. `written` sees
    /// nothing of these records then.
    pub fn append_then(&self, records: &[R], written: impl FnMut(&[R])) -> io::Result<()> {
        self.write_enqueued(&self.enqueue(records)?, written)
    }

    /// Sees to it that what was enqueued is written, if not by another call by now; as [`Self::append_then`].
    ///
    /// # Errors
    /// Those of writing, which latch.
    pub fn write_enqueued(&self, ticket: &Ticket, written: impl FnMut(&[R])) -> io::Result<()> {
        waits_for_the_disk();
        let mut writer = self.writer.lock();
        if ticket.0.get().is_none() {
            self.write_waiting(&mut writer, written);
        }
        drop(writer);
        match ticket.0.get() {
            Some(Ok(())) => Ok(()),
            Some(Err(latch)) => Err(latch.error()),
            None => Err(io::Error::other("a record was lost on its way into the journal")),
        }
    }

    /// Has `records` written by the next write: the order of these calls is the order in the file. Touches no file.
    ///
    /// # Errors
    /// InvalidInput for a record too long, or the error that has latched.
    pub fn enqueue(&self, records: &[R]) -> io::Result<Ticket> {
        let mut frames = Vec::with_capacity(256 * records.len());
        for record in records {
            frame::push_frame(&mut frames, record)?;
        }
        let (records, outcome) = (records.to_vec(), Outcome::default());
        let batch = Batch { frames, records, outcome: outcome.clone() };
        let mut tail = self.tail.lock();
        tail.check()?;
        tail.waiting.push(batch);
        Ok(Ticket(outcome))
    }

    /// Writes what was enqueued, unless another thread is writing, which then does not end before this is written too: one
    /// caller at the most waits for a slow file.
    ///
    /// # Errors
    /// The error that has latched.
    pub fn write_unless_busy(&self) -> io::Result<()> {
        waits_for_the_disk();
        // Looked at again after each write: what came meanwhile was left to this thread.
        while !self.tail.lock().waiting.is_empty() {
            let Some(mut writer) = self.writer.try_lock() else { return Ok(()) };
            self.write_waiting(&mut writer, |_| {});
        }
        self.tail.lock().check()
    }

    /// Does `work` as if a write(2) took as long.
    #[cfg(test)]
    pub fn while_busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let _writer = self.writer.lock();
        work()
    }

    #[cfg(test)]
    pub fn is_waited_for(&self) -> bool {
        !self.tail.lock().waiting.is_empty()
    }

    fn write_waiting(&self, writer: &mut Writer, mut written: impl FnMut(&[R])) {
        let (mut batches, latched) = {
            let mut tail = self.tail.lock();
            (std::mem::take(&mut tail.waiting), tail.latched.clone())
        };
        let outcome = match latched {
            Some(latch) => Err(latch),
            None => self.write(writer, &mut batches),
        };
        for batch in &batches {
            if outcome.is_ok() {
                written(&batch.records);
            }
            // It has none yet: a batch is taken out once.
            _ = batch.outcome.set(outcome.clone());
        }
    }

    fn write(&self, writer: &mut Writer, batches: &mut [Batch<R>]) -> Result<(), Latch> {
        let mut frames: Vec<u8> = Vec::new();
        for batch in batches.iter_mut() {
            match frames.is_empty() {
                true => frames = std::mem::take(&mut batch.frames),
                false => frames.extend_from_slice(&batch.frames),
            }
        }
        if let Err(error) = writer.file.write(&mut frames) {
            return Err(self.tail.lock().latch(error));
        }
        if let Some(next) = &mut writer.next
            && let Err(error) = next.write(&mut frames)
        {
            // Only the rewrite suffers: the file in use has the records.
            log::warn!("{}: rewrite given up: {error}", self.path.display());
            writer.next = None;
        }
        let mut tail = self.tail.lock();
        tail.appended += batches.len() as u64;
        (tail.bytes, tail.has_room) = (writer.file.bytes, writer.file.has_room());
        Ok(())
    }

    /// Makes everything appended so far survive the machine. Calls at the same time share one fdatasync.
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
        let turn = self.sync_turn().await;
        let (file, upto) = {
            let mut tail = self.tail.lock();
            if tail.synced >= wanted {
                return Ok(());
            }
            tail.check_synced()?;
            tail.syncs += 1;
            (tail.file.clone(), (tail.appended, tail.bytes))
        };
        // The turn goes along, so that it lasts as long as the fdatasync, also where the caller is dropped.
        let synced = blocking::run(move || (file.sync_data(), turn));
        let (result, _turn) = synced.await.map_err(io::Error::other)?;
        let mut tail = self.tail.lock();
        match result {
            Ok(()) => {
                (tail.synced, tail.synced_bytes) = upto;
                Ok(())
            }
            Err(error) => {
                tail.sync_failed = true;
                Err(tail.latch(error).error())
            }
        }
    }

    /// The exclusive right to rewrite.
    pub async fn rewrite_turn(&self) -> RewriteTurn {
        RewriteTurn(self.rewriting.clone().lock_owned().await)
    }

    /// The exclusive right to sync.
    pub async fn sync_turn(&self) -> SyncTurn {
        SyncTurn(self.syncing.clone().lock_owned().await)
    }

    /// Both, where neither is taken.
    pub fn turns_now(&self) -> Option<(RewriteTurn, SyncTurn)> {
        let rewriting = self.rewriting.clone().try_lock_owned().ok()?;
        let syncing = self.syncing.clone().try_lock_owned().ok()?;
        Some((RewriteTurn(rewriting), SyncTurn(syncing)))
    }

    /// Length of the file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.tail.lock().bytes
    }

    /// How much of that was appended since the last sync, in bytes.
    pub fn unsynced_bytes(&self) -> u64 {
        let tail = self.tail.lock();
        tail.bytes - tail.synced_bytes
    }

    /// Whether the disk keeps room for what comes next, beyond what is kept for making room.
    pub fn has_room(&self) -> bool {
        self.tail.lock().has_room
    }

    /// Whether an error has latched.
    pub fn is_latched(&self) -> bool {
        self.tail.lock().latched.is_some()
    }
}

impl<R> Tail<R> {
    fn check(&self) -> io::Result<()> {
        match &self.latched {
            Some(latch) => Err(latch.error()),
            None => Ok(()),
        }
    }

    fn check_synced(&self) -> io::Result<()> {
        if self.sync_failed { self.check() } else { Ok(()) }
    }

    /// Keeps the first error, and gives back this one.
    pub fn latch(&mut self, error: io::Error) -> Latch {
        let (kind, errno) = (error.kind(), error.raw_os_error());
        let latch = Latch { kind, errno, text: error.to_string() };
        self.latched.get_or_insert_with(|| latch.clone());
        latch
    }
}

impl Latch {
    /// With the number of the first error where there is one, so that ENOSPC stays ENOSPC.
    pub fn error(&self) -> io::Error {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(self.kind, format!("the journal failed earlier: {}", self.text)),
        }
    }
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
        disk::rename(path, path.with_extension("damaged")).map_err(&writing)?;
        return Ok((Frames::begin(path, &header).map_err(&writing)?, report, version));
    }
    if header_is_damaged {
        file.write_all_at(&header, 0).map_err(&writing)?;
    }
    if file_bytes != bytes {
        file.set_len(bytes).map_err(&writing)?;
    }
    // The process before may have been killed: what is relied on from now on is not in the kernel's memory alone.
    // So may its name, where it was killed behind the rename of a rewrite.
    file.sync_data().and_then(|()| sync_folder_of(path)).map_err(&writing)?;
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
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => disk::sync_dir(folder),
        None => Ok(()),
    }
}

#[cfg(test)]
#[cfg(debug_assertions)]
#[path = "power_tests.rs"]
mod power;

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
