//! Carrying out what a publish has decided: each step brings its stretch of the file to the store, from wherever
//! the bytes are.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::draft::Draft;
use super::fill::held;
use super::part::Memory;
use super::readback::stale_if_replaced;
use super::steps::Step;
use super::{Held, WriteError};
use crate::buffer;
use crate::range::ByteRange;
use crate::store::{ErrorKind, PartBody, StoredPart};
use crate::upload::{Upload, UploadError};

impl Draft {
    /// Carries the steps out: what memory holds first (that frees memory), then copies, which need none,
    /// and in the end what has to be loaded, which waits for memory.
    pub(super) async fn run(
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

    /// The file's content, which is no longer than a part: without a copy where memory has it all.
    pub(super) async fn whole_content(self: &Arc<Self>, len: u64) -> Result<Bytes, WriteError> {
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
}
