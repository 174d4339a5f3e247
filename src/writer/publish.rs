//! Publishing: the draft becomes an object, whole and at once.
//!
//! A file of one part is one PUT. Otherwise every part ends up in the upload: sent, found there from
//! before a crash, or, where it was not touched, copied from the base inside the store. A part that was
//! changed after only the store had it is published unchanged first and patched by a second round.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::draft::{Base, Core, Draft};
use super::fill::held;
use super::part::Memory;
use super::readback::stale_if_replaced;
use super::steps::Step;
use super::{EndedStaging, Held, WriteError};
use crate::buffer;
use crate::journal::{BaseVersion, Record};
use crate::range::ByteRange;
use crate::store::{
    ETag, ErrorKind, Key, PartBody, Precondition, StoreError, StoredPart, WriteOptions,
};
use crate::upload::{Seal, Upload, UploadError};

/// The object that a draft became.
#[derive(Clone, Debug)]
pub struct Published {
    pub key: Key,
    pub etag: ETag,
    pub len: u64,
    /// What the object was written with; a multipart upload keeps what it was begun with.
    pub options: WriteOptions,
}

impl Draft {
    /// Publishes everything. `None` where there is nothing to publish.
    pub async fn publish(self: &Arc<Self>) -> Result<Option<Published>, WriteError> {
        let mut published = None;
        while self.is_dirty() {
            published = Some(self.publish_as_is().await?);
        }
        Ok(published)
    }

    /// Publishes the file as it stands; patches of parts that only the store has stay dirty.
    pub(super) async fn publish_as_is(self: &Arc<Self>) -> Result<Published, WriteError> {
        let _gate = self.gate.write().await;
        self.sent_or_failed().await?;
        self.publishing.store(true, Ordering::Relaxed);
        let outcome = self.publish_standing().await;
        self.publishing.store(false, Ordering::Relaxed);
        if let Err(error) = &outcome
            && !error.is_passing()
        {
            self.core.lock().error.get_or_insert(error.clone());
        }
        outcome
    }

    async fn publish_standing(self: &Arc<Self>) -> Result<Published, WriteError> {
        if self.core.lock().nameless {
            return Err(WriteError::Lost);
        }
        if let Some(published) = self.settle().await?
            && !self.is_dirty()
        {
            return Ok(published);
        }
        self.seal_what_changed().await?;
        let (len, one_put) = {
            let core = self.core.lock();
            let one_part = core.plan.part_bytes().min(self.window_bytes_max());
            let small = core.len <= one_part && !core.holds_parts();
            (core.len, small || core.len == 0)
        };
        let published =
            if one_put { self.put_whole(len).await? } else { self.put_parts(len).await? };
        let upload = self.core.lock().upload.clone();
        let ended = self.become_clean(&published)?;
        self.writers.remove_staging(ended).await;
        if let Some(upload) = upload {
            upload.end().await;
        }
        // Whatever an earlier, interrupted run left for this key is of no use any more. The object stands,
        // whether that succeeds or not.
        if let Err(error) = self.writers.uploads.abort_dead_of(&published.key).await {
            log::warn!("{}: a dead upload stays behind for now: {error}", published.key);
        }
        Ok(published)
    }

    /// What is published is what a crash brings back, if it brings back anything: parts in the store are
    /// about to be written over, and an object that is completed in the moment of the crash is known for
    /// ours by what it is.
    async fn seal_what_changed(self: &Arc<Self>) -> Result<(), WriteError> {
        let is_sealed = {
            let core = self.core.lock();
            core.seal_of(core.writes) == Seal::Same
        };
        if is_sealed {
            return Ok(());
        }
        match self.seal_content(false).await {
            // No room here for what the store has room for: it does without, unless it needed the store's
            // parts for what was sealed before.
            Err(error) if error.is_full_disk() && !self.promises_parts() => {
                log::info!("{}: the local disk is full: sent before it is safe here", self.key());
                Ok(())
            }
            other => other,
        }
    }

    async fn put_whole(self: &Arc<Self>, len: u64) -> Result<Published, WriteError> {
        let body = self.whole_content(len).await?;
        let (key, options, precondition) = {
            let core = self.core.lock();
            (core.key.clone(), core.options.clone(), core.precondition())
        };
        let put = match self.checked(&key, precondition).await {
            Ok(checked) => {
                let put = self.writers.store.put(&key, body.clone(), &options, &checked).await;
                put.map_err(|error| refused(error, &checked))
            }
            Err(refused) => Err(refused),
        };
        let etag = match put {
            Err(WriteError::Stale) => self.put_before(&key, &body, &options).await?,
            other => other?,
        };
        // One may have been begun for a file that has become small since.
        self.give_up_upload().await?;
        Ok(Published { key, etag, len, options })
    }

    /// The file's content, which is no longer than a part: without a copy where memory has it all.
    async fn whole_content(self: &Arc<Self>, len: u64) -> Result<Bytes, WriteError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let sealed = {
            let mut core = self.core.lock();
            let core = &mut *core;
            core.parts.get_mut(&0).and_then(|part| {
                let whole = ByteRange::new(0, len);
                let in_memory = matches!(&part.memory, Memory::Open(open) if open.start == 0 && open.ranges.contains(whole));
                if in_memory {
                    self.seal(part, len);
                }
                match &part.memory {
                    Memory::Sealed(bytes) if bytes.len() as u64 == len => Some(bytes.clone()),
                    _ => None,
                }
            })
        };
        match sealed {
            Some(bytes) => Ok(bytes),
            None => self.load(ByteRange::new(0, len)).await,
        }
    }

    /// Reads a range of the draft into a buffer of its own.
    async fn load(self: &Arc<Self>, range: ByteRange) -> Result<Bytes, WriteError> {
        let permit = self.writers.budget.reserve(range.len()).await;
        let mut loaded: Held = held(range.len(), permit)?;
        // Piece by piece, since what is read comes in memory of its own.
        const READ_BYTES: u64 = 512 << 10;
        while (loaded.len as u64) < range.len() {
            let piece = ByteRange::at(range.start() + loaded.len as u64, READ_BYTES);
            let piece = piece.intersect(&range);
            let bytes = self.read_once(piece).await?.ok_or(WriteError::Lost)?;
            if bytes.is_empty() {
                break;
            }
            loaded.buffer[loaded.len..loaded.len + bytes.len()].copy_from_slice(&bytes);
            loaded.len += bytes.len();
        }
        Ok(Bytes::from_owner(loaded))
    }

    async fn put_parts(self: &Arc<Self>, len: u64) -> Result<Published, WriteError> {
        // An upload that is forgotten time and again is no accident any more.
        for _ in 0..3 {
            if let Some(published) = self.put_parts_once(len).await? {
                return Ok(published);
            }
            log::info!("{}: the store forgot the upload while it was finished", self.key());
            self.sent_or_failed().await?;
        }
        Err(WriteError::Lost)
    }

    /// `None` where the store forgot the upload on the way: its parts have to be sent once more.
    async fn put_parts_once(self: &Arc<Self>, len: u64) -> Result<Option<Published>, WriteError> {
        let upload = self.upload().await?;
        let restarts = upload.restarts();
        let steps = self.core.lock().steps(len, self.writers.store.capabilities().copies_parts);
        let mut parts = self.run(&upload, steps).await?;
        if upload.restarts() != restarts {
            return Ok(None);
        }
        parts.sort_by_key(|part| part.number);
        let (key, precondition) = {
            let core = self.core.lock();
            (core.key.clone(), core.precondition())
        };
        let precondition = self.checked(&key, precondition).await?;
        let seal = self.seal_of_all();
        self.core.lock().unsettled = Some(upload.completing(&parts, seal));
        let completed = upload.complete(&parts, seal, &precondition).await;
        if is_settled(&completed) {
            self.core.lock().unsettled = None;
        }
        match completed {
            Ok(etag) => {
                let options = upload.options().clone();
                Ok(Some(Published { key, etag, len, options }))
            }
            Err(UploadError::Restarted) => {
                self.resend_after_restart();
                Ok(None)
            }
            Err(UploadError::Store(error)) => Err(refused(error, &precondition)),
            Err(error) => Err(error.into()),
        }
    }

    /// Carries the steps out: what memory holds first (that frees memory), then copies, which need none,
    /// and in the end what has to be loaded, which waits for memory.
    async fn run(
        self: &Arc<Self>,
        upload: &Arc<Upload>,
        steps: Vec<Step>,
    ) -> Result<Vec<StoredPart>, WriteError> {
        let at_once = self.writers.settings.parts_in_flight_max;
        let mut parts = Vec::new();
        let mut waiting = Vec::new();
        for step in steps {
            match step {
                Step::Stored(part) => parts.push(part),
                other => waiting.push(other),
            }
        }
        {
            let core = self.core.lock();
            waiting.sort_by_key(|step| core.needs_of(step));
        }
        let mut waiting = waiting.into_iter().peekable();
        let mut running = FuturesUnordered::new();
        let mut sending = 0;
        loop {
            while running.len() < at_once
                // As for a stream: what is under way at a crash is sent again. Copies cost nothing then.
                && let Some(step) = waiting.next_if(|step| {
                    !step.sends() || sending < self.writers.parts_in_flight(parts.len())
                })
            {
                let sends = step.sends();
                sending += usize::from(sends);
                let carried_out = self.clone().carry_out(upload.clone(), step);
                running.push(async move { (sends, carried_out.await) });
            }
            match running.next().await {
                Some((sends, part)) => {
                    sending -= usize::from(sends);
                    parts.push(part?);
                }
                None => return Ok(parts),
            }
        }
    }

    async fn carry_out(
        self: Arc<Self>,
        upload: Arc<Upload>,
        step: Step,
    ) -> Result<StoredPart, WriteError> {
        let seal = self.seal_of_all();
        match step {
            Step::Stored(part) => Ok(part),
            Step::Send { index, range } => {
                let body = self.part_content(index, range).await?;
                let part = self.send_part(index + 1, body, seal).await?;
                self.part_is_stored(index, &part);
                Ok(part)
            }
            Step::Copy { index, range } => {
                let base = self.core.lock().base.clone().ok_or(WriteError::Lost)?;
                match upload.copy_part(index + 1, &base.key, &base.etag, range, seal).await {
                    Ok(part) => Ok(part),
                    Err(UploadError::Store(error)) if error.kind == ErrorKind::Unsupported => {
                        let body = self.content(range).await?;
                        self.send_part(index + 1, body, seal).await
                    }
                    Err(UploadError::Store(error)) => Err(stale_if_replaced(error)),
                    Err(error) => Err(error.into()),
                }
            }
            Step::Zeros { index, range, from_len: Some(from_len) } => {
                match upload.copy_zeros(index + 1, range.len(), from_len, seal).await {
                    Ok(part) => Ok(part),
                    Err(UploadError::Store(error)) if error.kind.is_refusal() => {
                        log::info!("{}: a hole is sent, not copied: {error}", self.key());
                        self.send_part(index + 1, buffer::zeros(range.len())?, seal).await
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Step::Zeros { index, range, from_len: None } => {
                self.send_part(index + 1, buffer::zeros(range.len())?, seal).await
            }
        }
    }

    /// A part's content up to `range`'s end, sealed in place where memory has it.
    async fn part_content(
        self: &Arc<Self>,
        index: u32,
        range: ByteRange,
    ) -> Result<PartBody, WriteError> {
        if range.len() > self.window_bytes_max() {
            return self.content(range).await;
        }
        self.fill_gaps(index, range).await?;
        {
            let mut core = self.core.lock();
            if let Some(part) = core.parts.get_mut(&index) {
                let whole = matches!(&part.memory, Memory::Open(open)
                    if open.start == range.start() && open.ranges.contains(range));
                if whole {
                    self.seal(part, range.len());
                }
                if let Memory::Sealed(bytes) = &part.memory
                    && bytes.len() as u64 == range.len()
                {
                    return Ok(bytes.clone().into());
                }
            }
        }
        self.content(range).await
    }

    /// The bytes of a range: in memory where that is for parts of such a length, else read while they
    /// are sent.
    async fn content(self: &Arc<Self>, range: ByteRange) -> Result<PartBody, WriteError> {
        if range.len() <= self.window_bytes_max() {
            return Ok(self.load(range).await?.into());
        }
        self.streamed(&mut self.core.lock(), range)
    }

    /// Completes an open buffer that covers the part from what is staged, in the base, or a hole.
    async fn fill_gaps(self: &Arc<Self>, index: u32, range: ByteRange) -> Result<(), WriteError> {
        let gaps = {
            let core = self.core.lock();
            let Some(part) = core.parts.get(&index) else { return Ok(()) };
            let Memory::Open(open) = &part.memory else { return Ok(()) };
            if open.start != range.start() || open.end() < range.end() {
                return Ok(());
            }
            open.ranges.gaps(range)
        };
        for gap in gaps {
            let bytes = self.read_once(gap).await?.ok_or(WriteError::Lost)?;
            let mut core = self.core.lock();
            if let Some(part) = core.parts.get_mut(&index)
                && let Memory::Open(open) = &mut part.memory
            {
                open.put(gap.start(), &bytes);
            }
        }
        Ok(())
    }

    fn part_is_stored(&self, index: u32, stored: &StoredPart) {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        let range = core.plan.range_of(index);
        let Some(part) = core.parts.get_mut(&index) else { return };
        if part.is_stored_as(stored.clone()) {
            self.forget_staged(core.journaled, range);
        }
        self.free_staged(core, index);
        let Some(part) = core.parts.get_mut(&index) else { return };
        if self.writers.budget.waiters() > 0 {
            // Others wait for this memory, and the store has what is in it.
            part.memory = Memory::None;
        }
    }

    /// Where the store cannot check a precondition itself, look first: the window is short, not none.
    async fn checked(
        &self,
        key: &Key,
        precondition: Precondition,
    ) -> Result<Precondition, WriteError> {
        if self.writers.store.capabilities().conditional_writes {
            return Ok(precondition);
        }
        match &precondition {
            Precondition::None => {}
            Precondition::Matches(etag) => {
                let head = self.writers.store.head(key).await.map_err(stale_if_replaced)?;
                if head.etag != *etag {
                    return Err(WriteError::Stale);
                }
            }
            Precondition::Absent => match self.writers.store.head(key).await {
                Ok(_) => return Err(WriteError::Exists),
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(Precondition::None)
    }

    /// The object stands: it is the base of whatever is written next.
    fn become_clean(
        self: &Arc<Self>,
        published: &Published,
    ) -> Result<Option<EndedStaging>, WriteError> {
        let mut core = self.core.lock();
        let patches = core.keep_patches();
        self.stand_on(&mut core, published, published.len, patches)
    }

    /// Makes the object the base, of which the file shows `base_len` bytes; `patches`: there is more to
    /// publish. If there is not, the draft has ended.
    pub(super) fn stand_on(
        &self,
        core: &mut Core,
        published: &Published,
        base_len: u64,
        patches: bool,
    ) -> Result<Option<EndedStaging>, WriteError> {
        core.upload = None;
        core.unsettled = None;
        core.dirty = patches;
        core.exclusive = false;
        core.closed &= patches;
        core.base = Some(Base {
            key: published.key.clone(),
            etag: published.etag.clone(),
            len: published.len,
            object: self.writers.cache.object(&published.key, &published.etag, published.len),
        });
        core.base_len = base_len;
        if patches {
            self.journal_rebased(core)?;
            return Ok(None);
        }
        // The records go first: a staging file that none names is swept up, the reverse would be a file
        // that is lost.
        let was_sealed = core.sealed_at.take().is_some();
        core.journaled_content = None;
        if std::mem::take(&mut core.journaled) {
            self.writers.journal.append(Record::DraftEnded { draft: self.id })?;
        }
        Ok(core.staging.take().map(|staging| EndedStaging { staging, was_sealed }))
    }

    /// The draft goes on over the object that it has just become, with what is staged and what was promised
    /// by a sync or a close.
    fn journal_rebased(&self, core: &mut Core) -> Result<(), WriteError> {
        let Some(base) = core.base.as_ref().filter(|_| core.journaled) else { return Ok(()) };
        let base = BaseVersion { etag: base.etag.clone(), len: base.len };
        Ok(self.writers.journal.append(Record::DraftRebased { draft: self.id, base })?)
    }

    /// How the file as it stands stands to what was sealed.
    fn seal_of_all(&self) -> Seal {
        let core = self.core.lock();
        core.seal_of(core.writes)
    }

    /// Whether what was sealed needs parts that only the store has.
    fn promises_parts(&self) -> bool {
        self.writers.journal.read(|state| {
            state.drafts.get(&self.id).is_some_and(|draft| {
                let mut numbers = draft.parts.keys();
                draft.sealed.is_some() && numbers.any(|number| draft.is_sealed_part(*number))
            })
        })
    }
}

/// Whether it is known if the completion took effect.
fn is_settled(completed: &Result<ETag, UploadError>) -> bool {
    match completed {
        Ok(_) | Err(UploadError::Restarted) => true,
        Err(UploadError::Store(error)) => {
            error.operation == "CompleteMultipartUpload" && error.kind.is_refusal()
        }
        Err(UploadError::Journal(_)) => false,
    }
}

/// The store refused to replace, or to create, the object.
fn refused(error: StoreError, precondition: &Precondition) -> WriteError {
    match (error.kind, precondition) {
        (ErrorKind::PreconditionFailed, Precondition::Absent) => WriteError::Exists,
        (ErrorKind::PreconditionFailed | ErrorKind::NotFound, _) => WriteError::Stale,
        _ => WriteError::Store(error),
    }
}
