//! Parts on their way to the store, while the writer goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::clock;
use crate::journal::{BaseVersion, Event, Record};
use crate::range::ByteRange;
use crate::store::{PartBody, StoredPart, impatient};
use crate::upload::{Seal, Upload, UploadError, UploadPlan};
use crate::writer::error::WriteError;
use crate::writer::state::{Core, Draft, Memory, Part, Writers};

impl Draft {
    /// Starts sending a sealed part; where an older content of it is on its way, that one goes first.
    pub(in crate::writer) fn send(self: &Arc<Self>, core: &mut Core, index: u32) {
        let Some(part) = core.content.parts.get(&index) else { return };
        if part.is_stored() || core.sending.contains_key(&index) {
            return;
        }
        if self.still.load(Ordering::Relaxed) > 0 || self.is_promised(core, index) {
            return;
        }
        let generation = part.generation;
        let sealed = match &part.memory {
            Memory::Sealed(bytes) => Some(bytes.clone()),
            _ if self.waits_on_disk(part, false) => None,
            _ => return,
        };
        core.sending.insert(index, generation);
        self.count_sending(core.sending.len());
        let sending = Sending { draft: self.clone(), index, generation, outcome: None };
        self.writers.runtime.spawn(async move {
            // It may be written again, and sealed, before the answer comes.
            let sent = sending.draft.send_sealed(index, generation, sealed);
            // Under write-back the publish sends it again, and waits for it to come back until then.
            let is_background = sending.draft.writers.settings.write_back;
            let outcome = if is_background { impatient(sent).await } else { sent.await };
            sending.end(outcome);
        });
    }

    /// Sends a part that is sealed, in memory or on the disk. `None` where it was written again before it was read.
    async fn send_sealed(
        self: &Arc<Self>,
        index: u32,
        generation: u64,
        sealed: Option<Bytes>,
    ) -> Result<Option<StoredPart>, WriteError> {
        let body = match sealed {
            Some(bytes) => bytes.into(),
            None => match self.streamed_part(index, generation).await? {
                Some(body) => body,
                None => return Ok(None),
            },
        };
        Ok(Some(self.send_part(index + 1, body, Seal::Older).await?))
    }

    /// Whether one more part may be on its way. What is under way at a crash is sent again, so the number
    /// grows with what has arrived, of this file and of all that are being written: the loss stays within
    /// a few percent. One part of each file may always be on its way.
    pub(in crate::writer) fn may_send_another(&self, core: &Core) -> bool {
        let stored = core.content.parts_stored();
        let sending = core.sending.len();
        self.count_stored(stored);
        let max = self.writers.settings.parts_in_flight_max;
        if sending == 0 {
            return true;
        }
        if sending >= self.writers.parts_in_flight(stored).min(max) {
            return false;
        }
        let (all_stored, all_sending) = self.writers.parts_now();
        all_sending < self.writers.parts_in_flight(all_stored)
    }

    /// Sends sealed parts that have stayed behind, for as long as they may go.
    pub(in crate::writer) fn send_waiting(self: &Arc<Self>, core: &mut Core) {
        while self.still.load(Ordering::Relaxed) == 0 && self.may_send_another(core) {
            let waiting = core
                .content
                .parts
                .iter()
                .find(|(index, part)| {
                    let sending = core.sending.contains_key(index);
                    (part.waits(sending) || self.waits_on_disk(part, sending))
                        && !self.is_promised(core, **index)
                })
                .map(|(index, _)| *index);
            let Some(index) = waiting else { return };
            self.send(core, index);
        }
    }

    /// Whether a crash would bring back a content of this part that is only in the store, under the part's
    /// number, and has been written over here since: it stays there until the next seal.
    fn is_promised(&self, core: &Core, index: u32) -> bool {
        let Some(part) = core.content.parts.get(&index) else { return false };
        if core.seal_of(part.generation) == Seal::Same {
            return false;
        }
        self.writers.journal.read(|state| {
            let Some(draft) = state.drafts.get(&self.id) else { return false };
            let Some(sealed) = draft.sealed() else { return false };
            draft.parts.is_sealed(index + 1)
                && !draft.staged.covers(part.range.intersect(&ByteRange::new(0, sealed.len)))
        })
    }

    /// Sends one part; an upload that the store has forgotten is begun again.
    pub(in crate::writer) async fn send_part(
        self: &Arc<Self>,
        number: u32,
        body: impl Into<PartBody>,
        seal: Seal,
    ) -> Result<StoredPart, WriteError> {
        let body = body.into();
        // Twice forgotten within one part is no accident any more.
        for _ in 0..2 {
            self.learn_outcome().await?;
            let upload = self.upload().await?;
            match upload.store_part(number, body.clone(), seal).await {
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
        outcome: Result<Option<StoredPart>, WriteError>,
    ) {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        core.sending.remove(&index);
        self.count_sending(core.sending.len());
        let range = core.content.plan.range_of(index);
        let mut in_vain = None;
        match outcome {
            Ok(None) => {
                self.send(core, index);
                self.send_waiting(core);
            }
            Ok(Some(stored)) => {
                match core.content.parts.get_mut(&index) {
                    Some(part) if part.generation == generation => {
                        if part.is_stored_as(stored) {
                            self.forget_staged(core.life.is_recorded(), range);
                        }
                        in_vain = self.free_staged(core, index);
                    }
                    // Written again meanwhile, and perhaps sealed again; or cut off.
                    _ => {
                        self.forget_part(core.life.is_recorded(), index + 1);
                        self.send(core, index);
                    }
                }
                self.send_waiting(core);
            }
            // The bytes are kept here, so this is no reason to fail the writer: the publish tries again, and
            // tells what it meets.
            Err(error @ WriteError::Store(_)) if self.writers.settings.write_back => {
                log::info!("{}: part {} is sent later: {error}", core.key, index + 1);
            }
            Err(error) => {
                if core.error.is_none() {
                    log::warn!("{}: {error}", core.key);
                    core.error = Some(error);
                }
            }
        }
        let leaving = self.let_go_of_stored(core);
        drop(guard);
        self.tidy(leaving, in_vain.into_iter().collect());
        self.changed.notify_waiters();
    }

    /// The journal is told that the staging file is no longer meant for `range`. Failing to tell costs
    /// only that a restored draft takes an older copy for a patch; so it is not silent, and no more.
    pub(in crate::writer) fn forget_staged(&self, journaled: bool, range: ByteRange) {
        let record = Record::StagedDropped { draft: self.id, range };
        if journaled && let Err(error) = self.writers.journal.append(record) {
            log::error!("the journal cannot be written: {error}");
        }
    }

    /// The journal is told that the store's part is no longer what the file has there.
    fn forget_part(&self, journaled: bool, number: u32) {
        let record = Record::PartDropped { draft: self.id, number };
        if journaled && let Err(error) = self.writers.journal.append(record) {
            log::error!("the journal cannot be written: {error}");
        }
    }

    /// Drops the memory of acknowledged parts beyond what is retained. Where somebody may read them they are staged first:
    /// those that are to be are returned.
    fn let_go_of_stored(&self, core: &mut Core) -> Vec<u32> {
        let keep_readable = self.is_kept_readable();
        let mut retained: u64 = core.content.parts.values().map(|part| retained_bytes(part)).sum();
        let max = self.writers.settings.retained_bytes_max;
        let mut candidates: Vec<(u64, u32)> = core
            .content
            .parts
            .iter()
            // Part 0 goes last: it is the one that programs patch.
            .filter(|(index, part)| **index != 0 && retained_bytes(part) > 0)
            .map(|(index, part)| (part.generation, *index))
            .collect();
        candidates.sort_unstable();
        let mut leaving = Vec::new();
        for (_, index) in candidates {
            if retained <= max {
                break;
            }
            let Some(part) = core.content.parts.get_mut(&index) else { continue };
            retained -= retained_bytes(part);
            if keep_readable && !part.unstaged().is_empty() {
                leaving.push(index);
            } else {
                part.memory = Memory::None;
            }
        }
        leaving
    }

    /// Clean memory that can be dropped at once, dropped: acknowledged parts nobody will read.
    pub(in crate::writer) fn reclaim(&self, wanted: u64) -> u64 {
        if self.is_kept_readable() && !self.publishing.load(Ordering::Relaxed) {
            return 0;
        }
        // The caller may hold this very lock, while it asks for a buffer.
        let Some(mut core) = self.core.try_lock() else { return 0 };
        let mut freed = 0;
        for part in core.content.parts.values_mut().rev() {
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
    pub(in crate::writer) async fn upload(self: &Arc<Self>) -> Result<Arc<Upload>, WriteError> {
        let _turn = self.opening.lock().await;
        if let Some(upload) = &self.core.lock().upload {
            return Ok(upload.clone());
        }
        let (wanted, known_before) = {
            let mut core = self.core.lock();
            if core.life.is_ended() {
                return Err(WriteError::Lost);
            }
            let known_before = core.life.is_recorded();
            self.journal_begin(&mut core)?;
            let wanted = UploadPlan {
                draft: self.id,
                key: core.key.clone(),
                plan: core.content.plan,
                options: core.options.clone(),
            };
            (wanted, known_before)
        };
        let upload = if known_before {
            self.writers.uploads.reopen(wanted).await?
        } else {
            self.writers.uploads.open(wanted).await?
        };
        let mut core = self.core.lock();
        core.upload = Some(upload.clone());
        self.believe_only(&mut core, &upload);
        drop(core);
        Ok(upload)
    }

    /// What a restored draft takes for stored is stored only if the store still says so.
    fn believe_only(self: &Arc<Self>, core: &mut Core, upload: &Upload) {
        let gone = |part: &Part| part.stored.as_ref().is_some_and(|stored| !upload.holds(stored));
        let gone: Vec<u32> = core
            .content
            .parts
            .iter()
            .filter(|(_, part)| gone(part))
            .map(|(index, _)| *index)
            .collect();
        self.forget_stored(core, &gone);
    }

    /// Makes the journal know this draft, before anything of it is sent or staged.
    pub(in crate::writer) fn journal_begin(&self, core: &mut Core) -> Result<(), WriteError> {
        if core.life.is_recorded() {
            return Ok(());
        }
        // Before it is recorded: nothing may be of a draft that has ended.
        if !core.life.is_changed() {
            return Err(WriteError::Lost);
        }
        self.writers.journal.append(self.begin_record(core))?;
        core.life.apply(Event::Begun);
        Ok(())
    }

    pub(in crate::writer) fn begin_record(&self, core: &Core) -> Record {
        let base = core.content.base.as_ref();
        Record::DraftBegun {
            draft: self.id,
            key: core.key.clone(),
            plan: core.content.plan,
            base: base.map(|base| BaseVersion { etag: base.etag.clone(), len: base.len }),
            options: self.writers.uploads.options_digest(),
            time: clock::wall(),
        }
    }

    /// The store has forgotten the upload: every part that it held is sent again, if it still is here.
    pub(in crate::writer) fn resend_after_restart(self: &Arc<Self>) {
        let mut core = self.core.lock();
        let stored: Vec<u32> = core
            .content
            .parts
            .iter()
            .filter(|(_, part)| part.stored.is_some())
            .map(|(index, _)| *index)
            .collect();
        self.forget_stored(&mut core, &stored);
    }

    /// These parts are not in the store any more: they are sent again, if their bytes are still here.
    fn forget_stored(self: &Arc<Self>, core: &mut Core, indexes: &[u32]) {
        for index in indexes.iter().copied() {
            let Some(part) = core.content.parts.get_mut(&index) else { continue };
            let whole = part.written().contains(ByteRange::at(
                part.range.start(),
                part.stored.as_ref().map_or(0, |stored| stored.len),
            ));
            part.stored = None;
            part.patched = false;
            if !whole {
                core.error.get_or_insert(WriteError::Lost);
            } else {
                self.send(core, index);
            }
        }
    }
}

/// A part on its way. It counts as such until this is dropped: by the end of its task, or by a panic in it, of which
/// the writer hears, who would wait for the part for good otherwise.
struct Sending {
    draft: Arc<Draft>,
    index: u32,
    generation: u64,
    outcome: Option<Result<Option<StoredPart>, WriteError>>,
}

impl Sending {
    fn end(mut self, outcome: Result<Option<StoredPart>, WriteError>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let outcome = match self.outcome.take() {
            Some(outcome) => outcome,
            None if std::thread::panicking() => Err(WriteError::Panicked),
            // The runtime ends, and with it who could wait.
            None => return,
        };
        self.draft.sent(self.index, self.generation, outcome);
    }
}

/// Parts on their way at first, and of those that have arrived, one in how many.
const NEAR: (usize, usize) = (3, 10);
const FAR: (usize, usize) = (12, 4);

impl Core {
    /// How content of this generation stands to what was sealed.
    pub(in crate::writer) fn seal_of(&self, generation: u64) -> Seal {
        match self.life.sealed() {
            Some(seal) if generation > seal.at => Seal::Older,
            _ => Seal::Same,
        }
    }
}

impl Writers {
    /// How many parts may be on their way when so many have arrived. More of them where each connection is
    /// slow, or a far store would be written to at the pace of three.
    pub(in crate::writer) fn parts_in_flight(&self, stored: usize) -> usize {
        let (first, one_in) = if self.settings.meter.first_byte().is_far() { FAR } else { NEAR };
        first.max(stored / one_in)
    }

    /// Parts that have arrived, and that are on their way, of all files being written.
    pub(in crate::writer) fn parts_now(&self) -> (usize, usize) {
        (self.counts.stored.load(Ordering::Relaxed), self.counts.sending.load(Ordering::Relaxed))
    }
}

/// Memory that can be dropped without losing anything, in bytes.
pub(in crate::writer) fn retained_bytes(part: &Part) -> u64 {
    match &part.memory {
        Memory::Sealed(bytes) if part.is_stored() => bytes.len() as u64,
        _ => 0,
    }
}
