//! The draft itself: bytes in, bytes out, parts sealed and sent while the writer goes on.
//!
//! Locks, in order: `gate` (async), then `core`, then the journal's. `core` is never held across an
//! await. Every change of content holds the gate's read side, so that a publish, which holds its write
//! side, sees a file that stands still.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock};

use super::part::{Memory, Open, Part, Source};
use super::{Held, WriteError, Writers};
use crate::budget::Permit;
use crate::buffer::Buffer;
use crate::cache::CachedObject;
use crate::journal::{BaseVersion, DraftId, Record};
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::staging::StagingFile;
use crate::store::{ETag, ErrorKind, Key, WriteOptions};
use crate::upload::{Upload, UploadError, UploadPlan};

/// The object that a draft modifies.
#[derive(Clone)]
pub struct Base {
    pub key: Key,
    pub etag: ETag,
    pub len: u64,
    pub object: Arc<CachedObject>,
}

/// How far a draft has come.
#[derive(Clone, Debug)]
pub struct DraftProgress {
    pub id: DraftId,
    pub key: Key,
    pub len: u64,
    /// Bytes that the store has acknowledged.
    pub stored_bytes: u64,
    pub parts_stored: u32,
    pub parts_sending: u32,
    /// Parts that an earlier run had sent already.
    pub parts_resumed: u32,
    pub closed: bool,
    pub error: Option<String>,
}

/// The next version of one file.
pub struct Draft {
    pub(super) writers: Arc<Writers>,
    pub(super) id: DraftId,
    pub(super) core: Mutex<Core>,
    pub(super) gate: RwLock<()>,
    /// A part was acknowledged, failed, or left memory.
    pub(super) changed: Notify,
    /// The draft's one upload is opened by the first part that is sealed.
    opening: tokio::sync::Mutex<()>,
    /// Somebody may read what is being written: acknowledged parts go to the staging file, not away.
    keep_readable: AtomicBool,
    /// While it is published even readable memory may go, once the store has it.
    pub(super) publishing: AtomicBool,
}

pub(super) struct Core {
    pub key: Key,
    pub len: u64,
    pub base: Option<Base>,
    /// How much of the base still shows: a truncation hides the rest for good.
    pub base_len: u64,
    pub plan: PartPlan,
    pub options: WriteOptions,
    pub parts: BTreeMap<u32, Part>,
    pub upload: Option<Arc<Upload>>,
    pub staging: Option<Arc<StagingFile>>,
    /// The journal knows this draft.
    pub journaled: bool,
    /// Something to publish.
    pub dirty: bool,
    pub error: Option<WriteError>,
    pub writes: u64,
    /// Parts on their way: index and generation. One at a time of each index, or an older answer
    /// could overtake a newer one in the store.
    pub sending: BTreeMap<u32, u64>,
    /// Write-back: closed, and safe on the disk.
    pub closed: bool,
    /// Unlinked while open.
    pub nameless: bool,
    /// Created with O_EXCL and not published yet.
    pub exclusive: bool,
}

/// Why a write cannot go on at once.
enum Stall {
    /// Memory for a buffer of this many bytes.
    Memory(u64),
    /// Too many parts of this draft are on their way.
    InFlight,
}

/// The first buffers of a file, in bytes: a small file should not cost a part's memory, and growing
/// costs one copy of at most the second of these.
const SMALL_BUFFERS: [u64; 2] = [64 << 10, 1 << 20];

/// Longest buffer: a larger part is written through the staging file piece by piece.
const BUFFER_BYTES_MAX: u64 = 64 << 20;

impl Draft {
    /// A draft of `key` that changes `base`, or begins empty.
    pub fn new(
        writers: &Arc<Writers>,
        key: Key,
        base: Option<Base>,
        options: WriteOptions,
    ) -> Arc<Draft> {
        let len = base.as_ref().map_or(0, |base| base.len);
        let id = writers.journal.next_draft_id();
        let settings = &writers.settings;
        let core = Core {
            key,
            len,
            base_len: len,
            base,
            plan: PartPlan::new(settings.part_bytes, settings.equal_parts),
            options,
            parts: BTreeMap::new(),
            upload: None,
            staging: None,
            journaled: false,
            dirty: false,
            error: None,
            writes: 0,
            sending: BTreeMap::new(),
            closed: false,
            nameless: false,
            exclusive: false,
        };
        Self::with_core(writers, id, core)
    }

    pub(super) fn with_core(writers: &Arc<Writers>, id: DraftId, core: Core) -> Arc<Draft> {
        writers.uploads.claim(id);
        let draft = Arc::new(Draft {
            writers: writers.clone(),
            id,
            core: Mutex::new(core),
            gate: RwLock::new(()),
            changed: Notify::new(),
            opening: tokio::sync::Mutex::new(()),
            keep_readable: AtomicBool::new(writers.settings.write_back),
            publishing: AtomicBool::new(false),
        });
        writers.register(&draft);
        draft
    }

    pub fn id(&self) -> DraftId {
        self.id
    }

    pub fn len(&self) -> u64 {
        self.core.lock().len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn key(&self) -> Key {
        self.core.lock().key.clone()
    }

    /// Whether there is something to publish.
    pub fn is_dirty(&self) -> bool {
        self.core.lock().dirty
    }

    /// The draft's count of writes, when it was last written.
    pub(super) fn last_written(&self) -> u64 {
        self.core.lock().writes
    }

    /// Gives the draft another key; `false` where an upload under the old one is open, which cannot move.
    pub fn rename(&self, key: &Key) -> Result<bool, WriteError> {
        let mut core = self.core.lock();
        if core.upload.is_some() || !core.sending.is_empty() {
            return Ok(false);
        }
        if core.journaled {
            self.writers.journal.append(Record::DraftMoved { draft: self.id, key: key.clone() })?;
        }
        core.key = key.clone();
        Ok(true)
    }

    /// The base object was copied inside the store: the same bytes have another name.
    pub fn rebase(&self, base: Base) {
        let mut core = self.core.lock();
        core.key = base.key.clone();
        core.base = Some(base);
    }

    /// The file has lost its name: nothing of it may appear in the store.
    pub fn forbid_publishing(&self) {
        let mut core = self.core.lock();
        core.nameless = true;
        self.keep_readable();
    }

    /// Publishing fails if somebody else has created the key meanwhile.
    pub fn must_be_new(&self) {
        self.core.lock().exclusive = true;
    }

    /// Forgets a failure that may pass, so that publishing can be tried again.
    pub fn forget_passing_error(&self) {
        let mut core = self.core.lock();
        if core.error.as_ref().is_some_and(WriteError::is_passing) {
            core.error = None;
        }
    }

    /// Forgets any failure: somebody says that its cause is gone.
    pub fn forget_error(&self) {
        self.core.lock().error = None;
    }

    /// Marks the draft as worth publishing though nothing was written: a new, empty file.
    pub fn mark_dirty(&self) {
        self.core.lock().dirty = true;
    }

    /// Metadata for the object. An upload that is open already keeps what it was begun with.
    pub fn set_options(&self, options: WriteOptions) {
        self.core.lock().options = options;
    }

    /// From now on somebody may read back what is written.
    pub fn keep_readable(&self) {
        self.keep_readable.store(true, Ordering::Relaxed);
    }

    pub fn is_kept_readable(&self) -> bool {
        self.keep_readable.load(Ordering::Relaxed)
    }

    pub fn progress(&self) -> DraftProgress {
        let core = self.core.lock();
        let stored = core.parts.values().filter_map(|part| part.stored.as_ref());
        DraftProgress {
            id: self.id,
            parts_stored: stored.clone().count() as u32,
            parts_sending: core.sending.len() as u32,
            parts_resumed: core.upload.as_ref().map_or(0, |upload| upload.parts_resumed()),
            key: core.key.clone(),
            len: core.len,
            stored_bytes: stored.map(|stored| stored.len).sum(),
            closed: core.closed,
            error: core.error.as_ref().map(ToString::to_string),
        }
    }

    /// Copies `bytes` to `offset` as far as that goes without waiting, and tells how many it took.
    pub fn write_now(self: &Arc<Self>, offset: u64, bytes: &[u8]) -> Result<usize, WriteError> {
        let Ok(_gate) = self.gate.try_read() else {
            return Ok(0);
        };
        self.take(offset, bytes).map(|(taken, _)| taken)
    }

    /// Writes all of `bytes` at `offset`, waiting for memory where there is none.
    pub async fn write(self: &Arc<Self>, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let mut done = 0;
        while done < bytes.len() {
            let changed = self.changed.notified();
            let (taken, stall) = {
                let _gate = self.gate.read().await;
                self.take(offset + done as u64, &bytes[done..])?
            };
            done += taken;
            match stall {
                None => {}
                Some(Stall::InFlight) => changed.await,
                // The memory itself is taken in the next round; that it was granted says try again.
                Some(Stall::Memory(wanted)) => drop(self.writers.budget.reserve(wanted).await),
            }
        }
        Ok(())
    }

    /// One pass over `bytes`: as many as go in without waiting. Holds the gate's read side.
    fn take(
        self: &Arc<Self>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(usize, Option<Stall>), WriteError> {
        let mut core = self.core.lock();
        if let Some(error) = &core.error {
            return Err(error.clone());
        }
        let end = offset.saturating_add(bytes.len() as u64);
        if end > core.plan.len_max() {
            return Err(WriteError::TooLarge(core.plan.len_max()));
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let index = core.plan.index_of(at);
            let range = core.plan.range_of(index);
            let take = (bytes.len() - done).min((range.end() - at) as usize);
            match self.put(&mut core, index, at, &bytes[done..done + take])? {
                Ok(taken) => done += taken,
                Err(stall) => return Ok((done, Some(stall))),
            }
            self.seal_if_full(&mut core, index);
        }
        Ok((done, None))
    }

    /// Copies bytes into one part. `Ok(Err(_))` where that has to wait.
    fn put(
        &self,
        core: &mut Core,
        index: u32,
        at: u64,
        bytes: &[u8],
    ) -> Result<Result<usize, Stall>, WriteError> {
        let in_flight_max = core.parts_in_flight().min(self.writers.settings.parts_in_flight_max);
        let range = core.plan.range_of(index);
        let begins = !matches!(core.parts.get(&index), Some(Part { memory: Memory::Open(_), .. }));
        if begins && core.sending.len() >= in_flight_max {
            return Ok(Err(Stall::InFlight));
        }
        if core.parts.get(&index).is_some_and(|part| part.stored.is_some()) {
            // Sequential no longer: what was sent may be needed again.
            self.keep_readable();
        }
        let sequential = core.parts.len() > 1 || core.len >= range.len();
        let mut part = core.parts.remove(&index).unwrap_or_else(|| Part::new(range));
        let outcome = self.put_into(core, &mut part, at, bytes, sequential);
        if matches!(outcome, Ok(Ok(_))) {
            core.writes += 1;
            part.touch(core.writes);
        }
        if !part.is_untouched() {
            core.parts.insert(index, part);
        }
        if let Ok(Ok(taken)) = outcome {
            core.len = core.len.max(at + taken as u64);
            core.dirty = true;
            core.closed = false;
        }
        outcome
    }

    fn put_into(
        &self,
        core: &mut Core,
        part: &mut Part,
        at: u64,
        bytes: &[u8],
        sequential: bool,
    ) -> Result<Result<usize, Stall>, WriteError> {
        let end = at + bytes.len() as u64;
        let fits =
            matches!(&part.memory, Memory::Open(open) if open.start <= at && end <= open.end());
        if !fits {
            let window = window_of(part, at, end, sequential);
            let Some(held) = self.buffer(window.len())? else {
                return Ok(Err(Stall::Memory(window.len())));
            };
            self.reopen(core, part, held, window)?;
        }
        let Memory::Open(open) = &mut part.memory else {
            return Ok(Err(Stall::InFlight));
        };
        let take = bytes.len().min((open.end() - at) as usize);
        open.put(at, &bytes[..take]);
        Ok(Ok(take))
    }

    /// Makes the part writable in a new buffer over `window`, with what memory held copied over; what
    /// does not fit into the window is staged.
    fn reopen(
        &self,
        core: &mut Core,
        part: &mut Part,
        held: Held,
        window: ByteRange,
    ) -> Result<(), WriteError> {
        let mut open = Open { held, start: window.start(), ranges: Default::default() };
        if !matches!(part.memory, Memory::None) {
            for (range, source) in part.sources(part.range, 0) {
                if source != Source::Memory {
                    continue;
                }
                let inside = range.intersect(&window);
                if !inside.is_empty() {
                    open.put(inside.start(), part.memory_bytes(inside));
                }
                for outside in outside_of(range, window) {
                    self.stage_range(core, part, outside)?;
                }
            }
        }
        part.memory = Memory::Open(open);
        Ok(())
    }

    /// A buffer of `capacity` bytes and its permit; `None` where memory is short.
    fn buffer(&self, capacity: u64) -> Result<Option<Held>, WriteError> {
        let Some(permit) = self.writers.budget.try_reserve(capacity) else {
            return Ok(None);
        };
        Ok(Some(held(capacity, permit)?))
    }

    /// Sends a part that has been written from end to end.
    fn seal_if_full(self: &Arc<Self>, core: &mut Core, index: u32) {
        let Some(part) = core.parts.get_mut(&index) else { return };
        let full = matches!(&part.memory, Memory::Open(open) if open.ranges.contains(part.range));
        if full && self.seal(part, part.range.len()) {
            self.send(core, index);
        }
    }

    /// Freezes a part whose first `len` bytes are all in its open buffer.
    pub(super) fn seal(&self, part: &mut Part, len: u64) -> bool {
        match std::mem::replace(&mut part.memory, Memory::None) {
            Memory::Open(mut open) => {
                open.held.len = len as usize;
                part.memory = Memory::Sealed(Bytes::from_owner(open.held));
                true
            }
            other => {
                part.memory = other;
                false
            }
        }
    }

    /// Starts sending a sealed part; where an older content of it is on its way, that one goes first.
    pub(super) fn send(self: &Arc<Self>, core: &mut Core, index: u32) {
        let Some(part) = core.parts.get(&index) else { return };
        let Memory::Sealed(bytes) = &part.memory else { return };
        if part.is_stored() || core.sending.contains_key(&index) {
            return;
        }
        let bytes = bytes.clone();
        let generation = part.generation;
        core.sending.insert(index, generation);
        let draft = self.clone();
        self.writers.runtime.spawn(async move {
            let outcome = draft.send_part(index + 1, bytes).await;
            draft.sent(index, generation, outcome);
        });
    }

    /// Sends one part; an upload that the store has forgotten is begun again.
    pub(super) async fn send_part(
        self: &Arc<Self>,
        number: u32,
        bytes: Bytes,
    ) -> Result<crate::store::StoredPart, WriteError> {
        // Twice forgotten within one part is no accident any more.
        for _ in 0..2 {
            let upload = self.upload().await?;
            match upload.store_part(number, bytes.clone()).await {
                Err(UploadError::Restarted) => self.resend_after_restart(),
                other => return Ok(other?),
            }
        }
        Err(WriteError::Lost)
    }

    /// An answer came for a part: takes note, and lets go of memory that is not needed.
    fn sent(
        self: &Arc<Self>,
        index: u32,
        generation: u64,
        outcome: Result<crate::store::StoredPart, WriteError>,
    ) {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        core.sending.remove(&index);
        let range = core.plan.range_of(index);
        let keep = self.is_kept_readable();
        match outcome {
            Ok(stored) => {
                if let Some(part) = core.parts.get_mut(&index) {
                    if part.generation == generation {
                        if part.is_stored_as(stored) {
                            self.forget_staged(core.journaled, range);
                        }
                    } else {
                        // Written again meanwhile, and perhaps sealed again.
                        self.send(core, index);
                    }
                }
            }
            Err(error) => {
                if core.error.is_none() {
                    log::warn!("{}: {error}", core.key);
                    core.error = Some(error);
                }
            }
        }
        self.let_go_of_stored(core, keep);
        drop(guard);
        self.changed.notify_waiters();
    }

    /// The journal is told that the staging file is no longer meant for `range`. Failing to tell costs
    /// only that a restored draft takes an older copy for a patch; so it is not silent, and no more.
    pub(super) fn forget_staged(&self, journaled: bool, range: ByteRange) {
        let record = Record::StagedDropped { draft: self.id, range };
        if journaled && let Err(error) = self.writers.journal.append(record) {
            log::error!("the journal cannot be written: {error}");
        }
    }

    /// Drops the memory of acknowledged parts beyond what is retained; stages it first where somebody
    /// may read it.
    fn let_go_of_stored(&self, core: &mut Core, keep_readable: bool) {
        let mut retained: u64 = core.parts.values().map(retained_bytes).sum();
        let max = self.writers.settings.retained_bytes_max;
        let mut candidates: Vec<(u64, u32)> = core
            .parts
            .iter()
            // Part 0 goes last: it is the one that programs patch.
            .filter(|(index, part)| **index != 0 && retained_bytes(part) > 0)
            .map(|(index, part)| (part.generation, *index))
            .collect();
        candidates.sort_unstable();
        for (_, index) in candidates {
            if retained <= max {
                break;
            }
            let Some(mut part) = core.parts.remove(&index) else { continue };
            retained -= retained_bytes(&part);
            if keep_readable && let Err(error) = self.stage_memory(core, &mut part) {
                log::warn!("{}: a part stays in memory: {error}", core.key);
            } else {
                part.memory = Memory::None;
            }
            core.parts.insert(index, part);
        }
    }

    /// Clean memory that can be dropped at once, dropped: acknowledged parts nobody will read.
    pub(super) fn reclaim(&self, wanted: u64) -> u64 {
        if self.is_kept_readable() && !self.publishing.load(Ordering::Relaxed) {
            return 0;
        }
        // The caller may hold this very lock, while it asks for a buffer.
        let Some(mut core) = self.core.try_lock() else { return 0 };
        let mut freed = 0;
        for part in core.parts.values_mut().rev() {
            if freed >= wanted {
                break;
            }
            let bytes = retained_bytes(part);
            if bytes > 0 {
                freed += bytes;
                part.memory = Memory::None;
            }
        }
        freed
    }

    /// The draft's upload, opened if there is none.
    pub(super) async fn upload(self: &Arc<Self>) -> Result<Arc<Upload>, WriteError> {
        let _turn = self.opening.lock().await;
        if let Some(upload) = &self.core.lock().upload {
            return Ok(upload.clone());
        }
        let (wanted, known_before) = {
            let mut core = self.core.lock();
            let known_before = core.journaled;
            self.journal_begin(&mut core)?;
            let wanted = UploadPlan {
                draft: self.id,
                key: core.key.clone(),
                plan: core.plan,
                options: core.options.clone(),
            };
            (wanted, known_before)
        };
        let upload = if known_before {
            self.writers.uploads.reopen(wanted).await?
        } else {
            self.writers.uploads.open(wanted).await?
        };
        self.core.lock().upload = Some(upload.clone());
        Ok(upload)
    }

    /// Makes the journal know this draft, before anything of it is sent or staged.
    pub(super) fn journal_begin(&self, core: &mut Core) -> Result<(), WriteError> {
        if core.journaled {
            return Ok(());
        }
        self.writers.journal.append(Record::DraftBegun {
            draft: self.id,
            key: core.key.clone(),
            plan: core.plan,
            base: core
                .base
                .as_ref()
                .map(|base| BaseVersion { etag: base.etag.clone(), len: base.len }),
            options: self.writers.uploads.options_digest(),
            time: SystemTime::now(),
        })?;
        core.journaled = true;
        Ok(())
    }

    /// The store has forgotten the upload: every part that it held is sent again, if it still is here.
    pub(super) fn resend_after_restart(self: &Arc<Self>) {
        let mut core = self.core.lock();
        let stored: Vec<u32> = core
            .parts
            .iter()
            .filter(|(_, part)| part.stored.is_some())
            .map(|(index, _)| *index)
            .collect();
        for index in stored {
            let Some(part) = core.parts.get_mut(&index) else { continue };
            let whole = part.written().contains(ByteRange::at(
                part.range.start(),
                part.stored.as_ref().map_or(0, |stored| stored.len),
            ));
            part.stored = None;
            part.patched = false;
            if !whole {
                core.error.get_or_insert(WriteError::Lost);
            } else {
                self.send(&mut core, index);
            }
        }
    }

    /// The bytes of `range`, cut at the end of the file.
    pub async fn read(self: &Arc<Self>, range: ByteRange) -> Result<Vec<u8>, WriteError> {
        self.keep_readable();
        loop {
            match self.read_once(range).await? {
                Some(bytes) => return Ok(bytes),
                // Only the store has some of it, and nobody can read a part: make it an object.
                None => {
                    self.publish_as_is().await?;
                }
            }
        }
    }

    /// `None` where bytes are only in the store's parts.
    pub(super) async fn read_once(&self, range: ByteRange) -> Result<Option<Vec<u8>>, WriteError> {
        let (range, mut bytes, rest, base, staging) = {
            let core = self.core.lock();
            let range = range.intersect(&ByteRange::new(0, core.len));
            let mut bytes = vec![0; range.len() as usize];
            let mut rest = Vec::new();
            for (piece, source) in core.sources(range) {
                let into = slice_of(&mut bytes, range, piece);
                match source {
                    Source::Memory => core.copy_memory(piece, into),
                    Source::Zero => {}
                    Source::Stored => return Ok(None),
                    Source::Base | Source::Staged(_) => rest.push((piece, source)),
                }
            }
            (range, bytes, rest, core.base.clone(), core.staging.clone())
        };
        let timeout = self.writers.settings.timeout;
        for (piece, source) in rest {
            let into = slice_of(&mut bytes, range, piece);
            match (source, &base, &staging) {
                (Source::Staged(place), _, Some(staging)) => staging.read_at(into, place)?,
                (Source::Base, Some(base), _) => {
                    read_base(base, piece, into, Instant::now() + timeout).await?
                }
                _ => return Err(WriteError::Lost),
            }
        }
        Ok(Some(bytes))
    }

    /// Sets the file's length: what lies behind is gone, what is new reads as zeros.
    pub async fn truncate(self: &Arc<Self>, len: u64) -> Result<(), WriteError> {
        loop {
            {
                let _gate = self.gate.read().await;
                let mut core = self.core.lock();
                if let Some(error) = &core.error {
                    return Err(error.clone());
                }
                if len > core.plan.len_max() {
                    return Err(WriteError::TooLarge(core.plan.len_max()));
                }
                let (before, plan) = (core.len, core.plan);
                if core.cut(len) {
                    if len < before && core.journaled {
                        self.journal_cut(&plan, len, before)?;
                    }
                    return Ok(());
                }
            }
            // The cut goes through a part that only the store has.
            self.publish_as_is().await?;
        }
    }
}

impl Draft {
    /// What lies behind `len` is gone for good, also for whoever restores this draft.
    fn journal_cut(&self, plan: &PartPlan, len: u64, before: u64) -> Result<(), WriteError> {
        let mut records =
            vec![Record::StagedDropped { draft: self.id, range: ByteRange::new(len, u64::MAX) }];
        let first = plan.index_of(len);
        let known = self.writers.journal.read(|state| {
            let parts = state.drafts.get(&self.id).map(|draft| &draft.parts);
            parts.is_some_and(|parts| !parts.is_empty())
        });
        if known && before > 0 {
            let numbers = first + 1..=plan.index_of(before - 1) + 1;
            records.extend(numbers.map(|number| Record::PartDropped { draft: self.id, number }));
        }
        Ok(self.writers.journal.append_all(&records)?)
    }
}

impl Core {
    /// Where the bytes of `range` are, in order.
    pub fn sources(&self, range: ByteRange) -> Vec<(ByteRange, Source)> {
        let mut sources = Vec::new();
        let mut at = range.start();
        while at < range.end() {
            let index = self.plan.index_of(at);
            let within = self.plan.range_of(index);
            let piece = range.intersect(&ByteRange::new(at, within.end()));
            match self.parts.get(&index) {
                Some(part) => sources.extend(part.sources(piece, self.base_len)),
                None => sources.extend(Part::new(within).sources(piece, self.base_len)),
            }
            at = piece.end();
        }
        sources
    }

    /// How many parts may be on their way: what is under way at a crash is sent again, so their number
    /// grows with what has arrived, and the loss stays within a few percent of the file.
    fn parts_in_flight(&self) -> usize {
        const FIRST: usize = 4;
        const SHARE: usize = 8;
        let stored = self.parts.values().filter(|part| part.stored.is_some()).count();
        FIRST.max(stored / SHARE)
    }

    pub fn copy_memory(&self, piece: ByteRange, into: &mut [u8]) {
        if let Some(part) = self.parts.get(&self.plan.index_of(piece.start())) {
            into.copy_from_slice(part.memory_bytes(piece));
        }
    }

    /// Changes the length; `false` where the cut would go through a part that only the store has.
    fn cut(&mut self, len: u64) -> bool {
        if len < self.len {
            let index = self.plan.index_of(len);
            if let Some(part) = self.parts.get_mut(&index)
                && part.range.start() < len
                && part.stored.is_some()
            {
                let below = ByteRange::new(part.range.start(), len);
                if !part.written().contains(below) {
                    return false;
                }
                part.stored = None;
                part.patched = false;
            }
            self.writes += 1;
            let first_gone =
                if self.plan.range_of(index).start() < len { index + 1 } else { index };
            self.parts.split_off(&first_gone);
            if let Some(part) = self.parts.get_mut(&index) {
                part.touch(self.writes);
                part.cut(len);
                if part.is_untouched() {
                    self.parts.remove(&index);
                }
            }
            self.base_len = self.base_len.min(len);
        }
        if len != self.len {
            self.dirty = true;
            self.closed = false;
        }
        self.len = len;
        true
    }
}

/// Reads a range of the base. Another version in the store is `Stale`.
pub(super) async fn read_base(
    base: &Base,
    range: ByteRange,
    into: &mut [u8],
    deadline: Instant,
) -> Result<(), WriteError> {
    // A part at a time, so that a long range does not have to be in memory at once.
    const READ_BYTES: u64 = 1 << 20;
    let mut at = range.start();
    while at < range.end() {
        let piece = range.intersect(&ByteRange::at(at, READ_BYTES));
        let bytes = base.object.read(piece, deadline).await.map_err(stale_if_replaced)?;
        slice_of(into, range, piece).copy_from_slice(bytes.as_ref());
        at = piece.end();
    }
    Ok(())
}

/// An error about the base: that it is another version now has its own name.
pub(super) fn stale_if_replaced(error: crate::store::StoreError) -> WriteError {
    match error.kind {
        ErrorKind::NotFound | ErrorKind::PreconditionFailed | ErrorKind::InvalidRange => {
            WriteError::Stale
        }
        _ => WriteError::Store(error),
    }
}

pub(super) fn slice_of(bytes: &mut [u8], whole: ByteRange, piece: ByteRange) -> &mut [u8] {
    let from = (piece.start() - whole.start()) as usize;
    &mut bytes[from..from + piece.len() as usize]
}

pub(super) fn held(capacity: u64, permit: Permit) -> Result<Held, WriteError> {
    let buffer = Buffer::recycled(capacity as usize)?;
    Ok(Held { buffer, len: 0, _permit: permit })
}

/// Memory that can be dropped without losing anything, in bytes.
pub(super) fn retained_bytes(part: &Part) -> u64 {
    match &part.memory {
        Memory::Sealed(bytes) if part.is_stored() => bytes.len() as u64,
        _ => 0,
    }
}

/// Which bytes of a part a new buffer should cover, so that `at..end` fits.
fn window_of(part: &Part, at: u64, end: u64, sequential: bool) -> ByteRange {
    let small = part.range.start() == 0
        && !sequential
        && matches!(part.memory, Memory::None | Memory::Open(_))
        && part.stored.is_none();
    if small && let Some(capacity) = SMALL_BUFFERS.into_iter().find(|bytes| end <= *bytes) {
        return ByteRange::new(0, capacity.min(part.range.end()));
    }
    if part.range.len() <= BUFFER_BYTES_MAX {
        return part.range;
    }
    let into_part = (at - part.range.start()) / BUFFER_BYTES_MAX * BUFFER_BYTES_MAX;
    ByteRange::at(part.range.start() + into_part, BUFFER_BYTES_MAX).intersect(&part.range)
}

fn outside_of(range: ByteRange, window: ByteRange) -> impl Iterator<Item = ByteRange> {
    let before = range.intersect(&ByteRange::new(0, window.start()));
    let behind = range.intersect(&ByteRange::new(window.end(), u64::MAX));
    [before, behind].into_iter().filter(|range| !range.is_empty())
}
