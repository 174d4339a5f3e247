//! Executing the plan of a publish: each step brings its stretch of the file to the store, from wherever
//! the bytes are.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::plan::Step;
use crate::buffer;
use crate::range::ByteRange;
use crate::store::{ErrorKind, PartBody, StoredPart};
use crate::upload::{Upload, UploadError};
use crate::writer::content::readback::stale_if_replaced;
use crate::writer::error::WriteError;
use crate::writer::state::{Draft, Held, Memory};

/// Bytes that are read at a time to fill a gap: as much as one GET of the base brings.
const READ_BYTES: u64 = 1 << 20;

/// Bytes that fill gaps, beside the budget, of all files together.
pub(in crate::writer) const FILLING_KIB: usize = 16 << 10;

impl Draft {
    /// Executes the plan: what memory holds first (that frees memory), then copies, which need none,
    /// and in the end what has to be loaded, which waits for memory.
    pub(in crate::writer) async fn execute(
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
            waiting.sort_by_key(|step| core.content.needs_of(step));
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
                let executed = self.clone().execute_step(upload.clone(), step);
                running.push(async move { (sends, executed.await) });
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

    async fn execute_step(
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
                let base = self.core.lock().content.base.clone().ok_or(WriteError::Lost)?;
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
        Ok(self.loaded(index, range).await?.into())
    }

    /// A range that begins with a part and is no longer: in the buffer that the part has, where there is one for
    /// all of it, or in one of its own.
    async fn loaded(self: &Arc<Self>, index: u32, range: ByteRange) -> Result<Bytes, WriteError> {
        self.fill_gaps(index, range).await?;
        let sealed = {
            let mut core = self.core.lock();
            core.content.parts.get_mut(&index).and_then(|part| {
                let whole = matches!(&part.memory, Memory::Open(open)
                    if open.start == range.start() && open.ranges.contains(range));
                if whole {
                    part.seal(range.len());
                }
                match &part.memory {
                    Memory::Sealed(bytes) if bytes.len() as u64 == range.len() => {
                        Some(bytes.clone())
                    }
                    _ => None,
                }
            })
        };
        match sealed {
            Some(bytes) => Ok(bytes),
            None => self.load(range).await,
        }
    }

    /// The bytes of a range: in memory where that is for parts of such a length, else read while they
    /// are sent.
    async fn content(self: &Arc<Self>, range: ByteRange) -> Result<PartBody, WriteError> {
        if range.len() <= self.window_bytes_max() {
            return Ok(self.load(range).await?.into());
        }
        self.streamed(range).await
    }

    /// Completes an open buffer that covers the part from what is staged, in the base, or a hole.
    async fn fill_gaps(self: &Arc<Self>, index: u32, range: ByteRange) -> Result<(), WriteError> {
        let gaps = {
            let core = self.core.lock();
            let Some(part) = core.content.parts.get(&index) else { return Ok(()) };
            let Memory::Open(open) = &part.memory else { return Ok(()) };
            if open.start != range.start() || open.end() < range.end() {
                return Ok(());
            }
            open.ranges.gaps(range)
        };
        for piece in gaps.into_iter().flat_map(|gap| gap.pieces(READ_BYTES)) {
            let kib = piece.len().div_ceil(1 << 10) as u32;
            let _room = self.writers.filling.acquire_many(kib).await;
            let bytes = self.read_once(piece).await?.ok_or(WriteError::Lost)?;
            let mut core = self.core.lock();
            if let Some(part) = core.content.parts.get_mut(&index)
                && let Memory::Open(open) = &mut part.memory
                && open.start == range.start()
                && open.put(piece.start(), &bytes)
            {
                continue;
            }
            // It leaves for the disk, or has left: see `leave_memory`.
            return Ok(());
        }
        Ok(())
    }

    fn part_is_stored(self: &Arc<Self>, index: u32, stored: &StoredPart) {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        let range = core.content.plan.range_of(index);
        let Some(part) = core.content.parts.get_mut(&index) else { return };
        if part.is_stored_as(stored.clone()) {
            self.forget_staged(core.life.is_recorded(), range);
        }
        let in_vain = self.free_staged(core, index);
        let Some(part) = core.content.parts.get_mut(&index) else { return };
        if self.writers.budget.waiters() > 0 {
            // Others wait for this memory, and the store has what is in it.
            part.memory = Memory::None;
        }
        drop(guard);
        self.tidy(Vec::new(), in_vain.into_iter().collect());
    }

    /// The file's content, which is no longer than a part: without a copy where memory has it.
    pub(in crate::writer) async fn whole_content(
        self: &Arc<Self>,
        len: u64,
    ) -> Result<Bytes, WriteError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        self.loaded(0, ByteRange::new(0, len)).await
    }

    /// Reads a range of the draft, which is being published, into a buffer of its own.
    async fn load(self: &Arc<Self>, range: ByteRange) -> Result<Bytes, WriteError> {
        let mut loaded = self.room_for(range.len()).await?;
        let into = &mut loaded.buffer[..range.len() as usize];
        let len = self.read_into(range, into).await?.ok_or(WriteError::Lost)?;
        Ok(Arc::new(loaded).freeze(len))
    }

    /// A buffer to load into. A file that waits for memory while it is published has none: what its open buffers
    /// hold goes to the disk first, since nothing else could take it from there meanwhile. Where the disk takes
    /// nothing, one file after the other gets memory beyond the budget, and waits for nothing but the store.
    async fn room_for(self: &Arc<Self>, bytes: u64) -> Result<Held, WriteError> {
        if let Some(grant) = self.writers.budget.try_reserve(bytes) {
            return Ok(Held::new(bytes, grant)?);
        }
        match self.leave_memory().await {
            Ok(()) => {
                debug_assert!(!self.core.lock().content.has_open_buffers());
                Ok(Held::new(bytes, self.writers.budget.reserve(bytes).await)?)
            }
            Err(error) => {
                log::info!("{}: loaded in its turn: {error}", self.key());
                let turn = self.writers.beyond.clone().acquire_owned().await;
                let held = Held::new(bytes, self.writers.budget.overdraw(bytes))?;
                Ok(held.in_turn(turn.ok()))
            }
        }
    }
}
