//! Executing the plan of a publish: each step brings its stretch of the file to the store, from wherever
//! the bytes are.

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::plan::{Step, needs_of};
use crate::buffer;
use crate::range::ByteRange;
use crate::store::{ErrorKind, StoredPart, Summed};
use crate::upload::{PartBytes, Upload, UploadError};
use crate::writer::content::readback::{Use, load_into, read_once, stale_if_replaced};
use crate::writer::content::stage::{leave_memory, tidy};
use crate::writer::error::WriteError;
use crate::writer::records::Recording;
use crate::writer::state::{Draft, Held, Memory};
use crate::writer::transfer::send::{is_stored, send_part};
use crate::writer::transfer::streamed::streamed;

/// Bytes that are read at a time to fill a gap: as much as one GET of the base brings.
const READ_BYTES: u64 = 1 << 20;

/// Bytes that fill gaps, beside the budget, of all files together.
pub(in crate::writer) const FILLING_KIB: usize = 16 << 10;

/// Executes the plan: what memory holds first (that frees memory), then copies, which need none,
/// and in the end what has to be loaded, which waits for memory.
pub(super) async fn execute(
    draft: &Arc<Draft>,
    upload: &Arc<Upload>,
    steps: Vec<Step>,
) -> Result<Vec<StoredPart>, WriteError> {
    let at_once = draft.writers.settings.parts_in_flight_max;
    let mut parts = Vec::new();
    let mut waiting = Vec::new();
    for step in steps {
        match step {
            Step::Stored(part) => parts.push(part),
            other => waiting.push(other),
        }
    }
    {
        let state = draft.state.lock();
        waiting.sort_by_key(|step| needs_of(&state.content, step));
    }
    let mut waiting = waiting.into_iter().peekable();
    let mut running = FuturesUnordered::new();
    let mut sending = 0;
    loop {
        while running.len() < at_once
            // As for a stream: what is under way at a crash is sent again. Copies cost nothing then.
            && let Some(step) = waiting.next_if(|step| {
                !step.sends() || sending < draft.writers.parts_in_flight(parts.len())
            })
        {
            let sends = step.sends();
            sending += usize::from(sends);
            let executed = execute_step(draft.clone(), upload.clone(), step);
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
    draft: Arc<Draft>,
    upload: Arc<Upload>,
    step: Step,
) -> Result<StoredPart, WriteError> {
    let draft = &draft;
    let seal = draft.state.lock().seal_of_all();
    match step {
        Step::Stored(part) => Ok(part),
        Step::Send { index, range } => {
            let body = part_content(draft, index, range).await?;
            let part = send_part(draft, index + 1, body, seal).await?;
            part_is_stored(draft, index, &part);
            Ok(part)
        }
        Step::Copy { index, range } => {
            let base = draft.state.lock().content.base.clone().ok_or(WriteError::Lost)?;
            match upload.copy_part(index + 1, &base.key, &base.etag, range, seal).await {
                Ok(part) => Ok(part),
                Err(UploadError::Store(error)) if error.kind == ErrorKind::Unsupported => {
                    let body = content_of(draft, range).await?;
                    send_part(draft, index + 1, body, seal).await
                }
                Err(UploadError::Store(error)) => Err(stale_if_replaced(error)),
                Err(error) => Err(error.into()),
            }
        }
        Step::Zeros { index, range, from_len: Some(from_len) } => {
            match upload.copy_zeros(index + 1, range.len(), from_len, seal).await {
                Ok(part) => Ok(part),
                Err(UploadError::Store(error)) if error.kind.is_refusal() => {
                    log::info!("{}: a hole is sent, not copied: {error}", draft.key());
                    send_part(draft, index + 1, buffer::zeros(range.len())?, seal).await
                }
                Err(error) => Err(error.into()),
            }
        }
        Step::Zeros { index, range, from_len: None } => {
            send_part(draft, index + 1, buffer::zeros(range.len())?, seal).await
        }
    }
}

/// A part's content up to `range`'s end, sealed in place where memory has it.
async fn part_content(
    draft: &Arc<Draft>,
    index: u32,
    range: ByteRange,
) -> Result<PartBytes, WriteError> {
    if range.len() > draft.writers.window_bytes_max() {
        return content_of(draft, range).await;
    }
    Ok(loaded(draft, index, range).await?.into())
}

/// A range that begins with a part and is no longer: in the buffer that the part has, where there is one for
/// all of it, or in one of its own.
async fn loaded(draft: &Arc<Draft>, index: u32, range: ByteRange) -> Result<Summed, WriteError> {
    fill_gaps(draft, index, range).await?;
    let sealed = {
        let mut state = draft.state.lock();
        state.content.parts.get_mut(&index).and_then(|part| {
            let whole = matches!(&part.memory, Memory::Open(open)
                if open.start == range.start() && open.ranges.contains(range));
            if whole {
                part.seal(range.len());
            }
            match &part.memory {
                Memory::Sealed(sealed) if sealed.len() == range.len() => Some(sealed.summed()),
                _ => None,
            }
        })
    };
    match sealed {
        Some(summed) => Ok(summed),
        None => load(draft, range).await,
    }
}

/// The bytes of a range: in memory where that is for parts of such a length, else read while they
/// are sent.
async fn content_of(draft: &Arc<Draft>, range: ByteRange) -> Result<PartBytes, WriteError> {
    if range.len() <= draft.writers.window_bytes_max() {
        return Ok(load(draft, range).await?.into());
    }
    streamed(draft, range).await
}

/// Completes an open buffer that covers the part from what is staged, in the base, or a hole.
async fn fill_gaps(draft: &Arc<Draft>, index: u32, range: ByteRange) -> Result<(), WriteError> {
    let gaps = {
        let state = draft.state.lock();
        let Some(part) = state.content.parts.get(&index) else { return Ok(()) };
        let Memory::Open(open) = &part.memory else { return Ok(()) };
        if open.start != range.start() || open.end() < range.end() {
            return Ok(());
        }
        open.ranges.gaps(range)
    };
    for piece in gaps.into_iter().flat_map(|gap| gap.pieces(READ_BYTES)) {
        let kib = piece.len().div_ceil(1 << 10) as u32;
        let _room = draft.writers.filling.acquire_many(kib).await;
        let bytes = read_once(draft, piece, Use::Sent).await?.ok_or(WriteError::Lost)?;
        let mut state = draft.state.lock();
        if let Some(part) = state.content.parts.get_mut(&index)
            && let Memory::Open(open) = &mut part.memory
            && open.start == range.start()
            && open.put(piece.start(), &bytes).is_ok()
        {
            continue;
        }
        // It leaves for the disk, or has left: see `leave_memory`.
        return Ok(());
    }
    Ok(())
}

/// The store has a part that was sent by this publish.
fn part_is_stored(draft: &Arc<Draft>, index: u32, stored: &StoredPart) {
    let recording = Recording::of(draft);
    let (records, in_vain) = {
        let mut state = recording.state();
        let noted = is_stored(draft, &mut state, index, stored.clone());
        if draft.writers.budget.waiters() > 0
            && let Some(part) = state.content.parts.get_mut(&index)
        {
            // Others wait for this memory, and the store has what is in it.
            part.memory = Memory::None;
        }
        noted
    };
    recording.append_or_log(&records);
    drop(recording);
    tidy(draft, Vec::new(), in_vain.into_iter().collect());
}

/// The file's content, which is no longer than a part: without a copy where memory has it.
pub(super) async fn whole_content(draft: &Arc<Draft>, len: u64) -> Result<Summed, WriteError> {
    if len == 0 {
        return Ok(Summed::of(""));
    }
    loaded(draft, 0, ByteRange::new(0, len)).await
}

/// Reads a range of the draft, which is being published, into a buffer of its own.
async fn load(draft: &Arc<Draft>, range: ByteRange) -> Result<Summed, WriteError> {
    let mut loaded = room_for(draft, range.len()).await?;
    let into = &mut loaded.buffer[..range.len() as usize];
    let sum = load_into(draft, range, into).await?;
    Ok(Summed { bytes: Arc::new(loaded).freeze(range.len() as usize), sum })
}

/// A buffer to load into. A file that waits for memory while it is published has none: what its open buffers
/// hold goes to the disk first, since nothing else could take it from there meanwhile. Where the disk takes
/// nothing, one file after the other gets memory beyond the budget, and waits for nothing but the store.
async fn room_for(draft: &Arc<Draft>, bytes: u64) -> Result<Held, WriteError> {
    if let Some(grant) = draft.writers.budget.try_reserve(bytes) {
        return Ok(Held::new(bytes, grant)?);
    }
    match leave_memory(draft).await {
        Ok(()) => {
            debug_assert!(!draft.state.lock().content.has_open_buffers());
            Ok(Held::new(bytes, draft.writers.budget.reserve(bytes).await)?)
        }
        Err(error) => {
            log::info!("{}: loaded in its turn: {error}", draft.key());
            let turn = draft.writers.beyond.clone().acquire_owned().await;
            let held = Held::new(bytes, draft.writers.budget.overdraw(bytes))?;
            Ok(held.in_turn(turn.ok()))
        }
    }
}
