//! The journal: what is on the local disk and what is in the store, remembered through a crash.
//!
//! [`frame`] is the format of the file, [`log`] appends to it, [`record`] says what there is to remember,
//! [`state`] what the records add up to. [`Journal`] puts them together, behind the [`lock`] of its folder.
//!
//! Layout of a cache directory: one folder for each [`Identity`], in it `lock`, `journal` (and for a moment
//! `journal.new`; `journal.damaged` where a file was not believed), `staging/` (`staging.orphaned-…` where no journal
//! says whose it is), `objects/`.
//!
//! Consistency: the order in the file is the order in the state. An append that fails is not in either.
//! Retries: none; the first I/O error latches until a checkpoint succeeds.
//! Cancellation: `sync` and `checkpoint` may be dropped at any point.
//! Crash: replay keeps the longest valid prefix. Losing a record costs a repeated transfer, never a byte.
//!
//! Lock order: the log's turns, its writer, `state`, `unsynced_ends`, the log's tail. No file is touched under `state` and those behind it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub mod codec;
pub mod content;
pub mod draft;
pub mod error;
pub mod frame;
mod frames;
pub mod identity;
pub mod layout;
pub mod life;
pub mod lock;
pub mod log;
mod orphans;
pub mod parts;
pub mod ranges;
pub mod record;
mod rewrite;
pub mod staged;
pub mod state;
mod unsynced_ends;

pub use draft::{Completing, Draft, MARKS_MAX, PutMark, Sealed, Upload};
pub use error::JournalError;
pub use identity::Identity;
pub use life::{Event, Extent, Life};
pub use log::ReplayReport;
pub use parts::Part;
pub use ranges::RangeSums;
pub use record::{
    BaseVersion, ContentPart, DraftId, FileRename, FileStamp, Fingerprint, ObjectId, Record,
    RenameId,
};
pub use state::{ChangedAttributes, Deletion, Object, RenameCopy, State, UnconfirmedCreate};

use crate::blocking;
use crate::disk;
use crate::lock::{Mutex, rank};
use crate::store::Key;
use lock::FolderLock;
use log::Log;
use unsynced_ends::UnsyncedEnds;

/// A file below this is not worth a checkpoint: it is replayed in some ten milliseconds.
const CHECKPOINT_BYTES_MIN: u64 = 8 << 20;

/// A checkpoint comes when the file is this many times what the state needs, so that all checkpoints
/// together write a fraction of what the appends wrote.
const CHECKPOINT_RATIO: u64 = 4;

/// The journal of one mount.
pub struct Journal {
    folder: PathBuf,
    state: Mutex<State, rank::JournalState>,
    /// What has ended, and not on the disk.
    unsynced_ends: Mutex<UnsyncedEnds, rank::JournalEnded>,
    log: Log<Record>,
    /// Length of the file, in bytes, at which a checkpoint is considered next.
    consider_at: AtomicU64,
    /// Records that meant nothing when they were applied.
    ignored: AtomicU64,
    next_draft: AtomicU64,
    next_object: AtomicU64,
    next_rename: AtomicU64,
    _lock: FolderLock,
}

impl Journal {
    /// Opens the journal in `folder` (see [`Identity::folder`]), creating both where they are missing. The
    /// folder's lock comes first: where it is held, nothing is touched. Blocks.
    ///
    /// # Errors
    /// See [`JournalError`]: in use, another bucket's, another version's, or not readable or writable.
    pub fn open(
        folder: &Path,
        identity: &Identity,
    ) -> Result<(Arc<Journal>, ReplayReport), JournalError> {
        crate::private::folder(folder).map_err(JournalError::io("create", folder))?;
        let lock = FolderLock::acquire(folder)?;
        let mut state = State::default();
        let mut ignored = 0;
        let apply = |record| ignored += u64::from(!state.apply(&record));
        let path = layout::journal(folder);
        let (log, report) = Log::open_or_begin(&path, &identity.to_bytes(), apply, || {
            orphans::set_all_aside(folder)?;
            sync_above(folder);
            Ok(())
        })?;
        if let Err(error) = make_staging(folder) {
            // A full disk must not keep a mount from sending what would free some of it.
            ::log::warn!("{}: no staging folder yet: {error}", folder.display());
        }
        let journal = Journal {
            folder: folder.to_owned(),
            log,
            unsynced_ends: Mutex::default(),
            consider_at: AtomicU64::new(CHECKPOINT_BYTES_MIN),
            ignored: AtomicU64::new(ignored),
            next_draft: AtomicU64::new(state.next_draft),
            next_object: AtomicU64::new(state.next_object),
            next_rename: AtomicU64::new(state.next_rename),
            state: Mutex::new(state),
            _lock: lock,
        };
        if journal.log.is_latched() {
            journal.take_up_this_version();
        }
        if journal.read(State::has_unsealed)
            && let Err(error) = journal.append(Record::Opened)
        {
            // The latch keeps anything from following what is void, until a checkpoint has left it out.
            ::log::warn!("{}: {error}", folder.display());
            journal.state.lock().apply(&Record::Opened);
        }
        Ok((Arc::new(journal), report))
    }

    /// Writes a journal of an older version anew. Where that fails it stays as it is, and is tried again as after
    /// any failure to write.
    fn take_up_this_version(&self) {
        let Some((turn, syncing)) = self.log.turns_now() else { return };
        let (place, state) = self.log.copied(|| self.snapshot());
        let written = self.log.begin_rewrite(&turn, place, state.records());
        if let Err(error) = written.and_then(|()| self.log.finish_rewrite(&turn, &syncing)) {
            ::log::warn!("{}: an older journal, not rewritten: {error}", self.folder.display());
        }
    }

    /// Reads the journal in `folder` and changes nothing. Blocks.
    ///
    /// # Errors
    /// [`JournalError::Locked`] while it is mounted; see [`JournalError`] for the others.
    pub fn inspect(folder: &Path) -> Result<(Identity, State, ReplayReport), JournalError> {
        let _lock = FolderLock::acquire_shared(folder)?;
        let path = layout::journal(folder);
        let mut state = State::default();
        let (identity, report) = log::read_only(&path, |record| {
            state.apply(&record);
        })?;
        let identity = Identity::from_bytes(&identity)
            .ok_or_else(|| JournalError::other_bucket(&path, &identity))?;
        Ok((identity, state, report))
    }

    /// The cache folder that this journal stands in, and speaks for.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes staging files that drafts which have ended left behind, and sets aside those of which no record speaks.
    /// Called before the first new draft.
    ///
    /// # Errors
    /// Those of the folder.
    pub fn sweep_staging(&self) -> io::Result<()> {
        orphans::sweep(&self.folder, &self.snapshot())
    }

    /// Records one fact. On return it survives the death of the process.
    ///
    /// # Errors
    /// An error of writing; the fact is then neither in the file nor in the state.
    pub fn append(&self, record: Record) -> io::Result<()> {
        self.append_all(std::slice::from_ref(&record))
    }

    /// Records several facts in one write.
    ///
    /// # Errors
    /// As for [`Self::append`], for all of them.
    pub fn append_all(&self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.log.append_then(records, |written| self.take_in(written))
    }

    fn take_in(&self, records: &[Record]) {
        let mut state = self.state.lock();
        for record in records {
            let ended = state.ended_by(record);
            if !ended.is_empty() {
                self.unsynced_ends.lock().add(ended);
            }
            if !state.apply(record) {
                self.ignored.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Makes everything recorded so far survive the death of the machine. Many at once share one fdatasync.
    ///
    /// # Errors
    /// An error of syncing.
    pub async fn sync(&self) -> io::Result<()> {
        let count = self.unsynced_ends.lock().count();
        self.log.sync().await?;
        self.unsynced_ends.lock().synced(count);
        Ok(())
    }

    /// As far as it could be written: what makes room must not need any.
    async fn sync_written(&self) -> io::Result<()> {
        let count = self.unsynced_ends.lock().count();
        self.log.sync_written().await?;
        self.unsynced_ends.lock().synced(count);
        Ok(())
    }

    /// Makes sure that after a loss of power the journal does not tell of these keys what is over by now.
    /// To be asked for before one of them is changed in the store.
    ///
    /// # Errors
    /// An error of syncing.
    pub async fn sync_ends_of<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> io::Result<()> {
        let is_ended = {
            let ended = self.unsynced_ends.lock();
            !ended.is_empty() && keys.into_iter().any(|key| ended.contains(key))
        };
        if is_ended { self.sync_written().await } else { Ok(()) }
    }

    /// Likewise of all keys: other machines change them without asking.
    ///
    /// # Errors
    /// An error of syncing.
    pub async fn sync_ends(&self) -> io::Result<()> {
        let none = self.unsynced_ends.lock().is_empty();
        if none { Ok(()) } else { self.sync_written().await }
    }

    /// What `look` sees in the state. Keep it short: appends wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// The state as it is now, for a look that takes long. It costs as little as [`Self::read`].
    pub fn snapshot(&self) -> State {
        self.state.lock().clone()
    }

    pub fn next_draft_id(&self) -> DraftId {
        self.next_draft.fetch_add(1, Ordering::Relaxed)
    }

    pub fn next_object_id(&self) -> ObjectId {
        self.next_object.fetch_add(1, Ordering::Relaxed)
    }

    pub fn next_rename_id(&self) -> RenameId {
        self.next_rename.fetch_add(1, Ordering::Relaxed)
    }

    /// Length of the file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// How much of it a loss of power may take, in bytes.
    pub fn unsynced_bytes(&self) -> u64 {
        self.log.unsynced_bytes()
    }

    /// Whether there is room for bytes that could be kept elsewhere: a full disk keeps some for records alone.
    pub fn has_room(&self) -> bool {
        self.log.has_room()
    }

    /// Does `work` while the journal's disk takes as long.
    #[cfg(test)]
    pub fn while_busy<T>(&self, work: impl FnOnce() -> T) -> T {
        self.log.while_busy(work)
    }

    /// Whether records wait for the disk.
    #[cfg(test)]
    pub fn is_waited_for(&self) -> bool {
        self.log.is_waited_for()
    }

    /// Records that named something unknown, since the opening. Not zero after damage; otherwise a defect.
    #[cfg(test)]
    pub fn ignored_records(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Whether nothing can be recorded until a checkpoint has succeeded.
    pub fn has_failed(&self) -> bool {
        self.log.is_latched()
    }

    /// Writes a checkpoint if the file is much larger than the state needs, or if an I/O error has latched
    /// (then it is the repair). Says whether it did. Meant to be called now and then in the background.
    ///
    /// # Errors
    /// Those of writing the new file; the journal goes on as it was.
    pub async fn checkpoint_if_large(self: &Arc<Self>) -> io::Result<bool> {
        if !self.log.is_latched() {
            if self.log.bytes() < self.consider_at.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let journal = self.clone();
            let live = blocking::run(move || live_bytes(&journal.snapshot()))
                .await
                .map_err(io::Error::other)??;
            let large = (CHECKPOINT_RATIO * live).max(CHECKPOINT_BYTES_MIN);
            self.consider_at.store(large, Ordering::Relaxed);
            if self.log.bytes() < large {
                return Ok(false);
            }
        }
        self.checkpoint().await?;
        Ok(true)
    }

    /// Replaces the file by the fewest records that say the same.
    ///
    /// # Errors
    /// Those of writing the new file; the journal goes on as it was.
    pub async fn checkpoint(self: &Arc<Self>) -> io::Result<()> {
        let turn = self.log.rewrite_turn().await;
        let journal = self.clone();
        let written = blocking::run(move || {
            let (place, state) = journal.log.copied(|| journal.snapshot());
            journal.log.begin_rewrite(&turn, place, state.records())?;
            Ok::<_, io::Error>(turn)
        });
        let turn = written.await.map_err(io::Error::other)??;
        let syncing = self.log.sync_turn().await;
        let journal = self.clone();
        let put_in_place = blocking::run(move || {
            let count = journal.unsynced_ends.lock().count();
            journal.log.finish_rewrite(&turn, &syncing)?;
            journal.unsynced_ends.lock().synced(count);
            Ok(())
        });
        put_in_place.await.map_err(io::Error::other)?
    }
}

/// What the state needs in a file, in bytes.
fn live_bytes(state: &State) -> io::Result<u64> {
    let mut bytes = 0;
    for record in state.records() {
        bytes += codec::encoded_len(&record)? + frame::FRAME_FIXED_BYTES as u64;
    }
    Ok(bytes)
}

/// A staging file's name survives the loss of power only if that of its folder does.
fn make_staging(folder: &Path) -> io::Result<()> {
    disk::create_dir_all(layout::staging(folder))?;
    disk::sync_dir(folder)
}

/// The journal is about to be begun: any of the folders that lead to it may be new. Not all can be opened, and not all
/// file systems sync folders: those keep their names as they can.
fn sync_above(folder: &Path) {
    for above in folder.ancestors().skip(1) {
        if let Err(error) = disk::sync_dir(above) {
            ::log::debug!("{}: not synced: {error}", above.display());
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
