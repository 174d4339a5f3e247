//! What a program does to a file: writes, truncation, zeros, holes, and a range of another object that only the store
//! has to copy.
//!
//! Consistency: each holds the gate's read side. Cancellation: what was done of a range stays done.
//! Crash: a draft that builds on another key's object is never sealed, since the journal names the base by the
//! draft's own key: it is published instead.

use std::sync::Arc;

use super::content::fill::{Buffers, Stall};
use super::content::stage::{Then, stage};
use super::content::verify::{is_verified, verified};
use super::error::WriteError;
use super::parked::WriteBytes;
use super::publish;
use super::records::{Recording, staged_dropped};
use super::state::{Base, Draft, DraftState, Memory, Source};
use super::transfer::send::{may_send_another, send};
use crate::budget::Grant;
use crate::buffer;
use crate::journal::Event;
use crate::range::ByteRange;

/// Zeros are written in pieces of so many bytes.
const ZERO_BYTES: u64 = 1 << 20;

/// Where lseek(2) is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// Copies `bytes` to `offset` as far as that goes without waiting, and tells how many it took.
pub(super) fn write_now(
    draft: &Arc<Draft>,
    offset: u64,
    bytes: &[u8],
) -> Result<usize, WriteError> {
    let Some(_gate) = draft.gate.try_read().ok().filter(|_| is_verified(draft)) else {
        return Ok(0);
    };
    take(draft, offset, bytes, None).map(|(taken, _)| taken)
}

/// Writes all of `bytes` at `offset`, waiting for memory where there is none.
pub(super) async fn write(
    draft: &Arc<Draft>,
    offset: u64,
    bytes: &(impl WriteBytes + ?Sized),
) -> Result<(), WriteError> {
    verified(draft).await?;
    let (mut done, len) = (0, bytes.len());
    let mut wanted = None;
    while done < len {
        let changed = draft.changed.notified();
        // In the same breath as the pass that uses it: given back and asked for again, it would go to the
        // next in line, and with two in line neither would ever get on.
        let granted = match wanted {
            Some(wanted) => Some(draft.writers.memory(wanted).await?),
            None => None,
        };
        let passed = draft.gate.try_read().map(|_gate| pass(draft, offset, bytes, done, granted));
        let Ok(passed) = passed else {
            // It is being published, which may need memory itself: nothing is held meanwhile.
            drop(draft.gate.read().await);
            continue;
        };
        let (taken, stall) = passed?;
        done += taken;
        wanted = match stall {
            Some(Stall::Memory(wanted)) => Some(wanted),
            Some(Stall::Disk(index)) => {
                let _gate = draft.gate.read().await;
                stage(draft, vec![index], Then::Stay).await?;
                None
            }
            Some(Stall::UntilChanged) => {
                changed.await;
                None
            }
            None => None,
        };
    }
    Ok(())
}

/// One pass over what is left of a write, with memory that was waited for. Holds the gate's read side.
fn pass(
    draft: &Arc<Draft>,
    offset: u64,
    bytes: &(impl WriteBytes + ?Sized),
    done: usize,
    granted: Option<Grant>,
) -> Result<(usize, Option<Stall>), WriteError> {
    take(draft, offset + done as u64, &bytes.from(done)?, granted)
}

/// One pass over `bytes`: as many as go in without waiting. Holds the gate's read side.
fn take(
    draft: &Arc<Draft>,
    offset: u64,
    bytes: &[u8],
    granted: Option<Grant>,
) -> Result<(usize, Option<Stall>), WriteError> {
    let writers = &draft.writers;
    let window_max = writers.window_bytes_max();
    let mut buffers = Buffers { budget: &writers.budget, granted, window_max };
    let mut guard = draft.state.lock();
    let state = &mut *guard;
    fail_unless_it_fits(draft, state, offset.saturating_add(bytes.len() as u64))?;
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let index = state.content.plan.index_of(at);
        let range = state.content.plan.range_of(index);
        let take = (bytes.len() - done).min((range.end() - at) as usize);
        let known = state.content.parts.get(&index).map(|part| &part.memory);
        let begins = !matches!(known, Some(Memory::Open(_)));
        // Under write-back it is the disk that sets the pace, not the store.
        if begins && !writers.settings.write_back && !may_send_another(writers, state) {
            return Ok((done, Some(Stall::UntilChanged)));
        }
        match state.content.put(index, at, &bytes[done..done + take], &mut buffers) {
            Ok(Ok(taken)) => done += taken,
            Ok(Err(stall)) => return Ok((done, Some(stall))),
            Err(error) => return Err(state.fail(error)),
        }
        state.life.apply(Event::Changed);
        // One that stays behind is sent when another has arrived, or by the publish.
        let sending = state.transfer.is_sending(index);
        if state.content.seal_if_full(index, window_max, sending)
            && may_send_another(writers, state)
        {
            send(draft, state, index);
        }
    }
    Ok((done, None))
}

/// Fails where the draft has failed, and where the file would become longer than an object can be.
fn fail_unless_it_fits(draft: &Draft, state: &mut DraftState, len: u64) -> Result<(), WriteError> {
    state.fail_if_failed(draft.writers.settings.write_back)?;
    let len_max = state.content.plan.len_max();
    if len > len_max { Err(WriteError::TooLarge(len_max)) } else { Ok(()) }
}

/// Sets the file's length: what lies behind is gone, what is new reads as zeros.
pub(super) async fn truncate(draft: &Arc<Draft>, len: u64) -> Result<(), WriteError> {
    verified(draft).await?;
    while !cut(draft, len).await? {
        // The cut goes through a part that only the store has.
        publish::publish_as_is(draft).await?;
    }
    Ok(())
}

/// `false` where the cut would go through a part that only the store has.
async fn cut(draft: &Arc<Draft>, len: u64) -> Result<bool, WriteError> {
    let _gate = draft.gate.read().await;
    let recording = Recording::of(draft);
    let dropped = {
        let mut state = recording.state();
        fail_unless_it_fits(draft, &mut state, len)?;
        let before = state.content.len;
        if !state.cut(len) {
            return Ok(false);
        }
        let behind = ByteRange::new(len, u64::MAX);
        staged_dropped(draft, &state, behind).filter(|_| len < before)
    };
    recording.append(dropped.as_slice())?;
    Ok(true)
}

/// Grows the file to `len` bytes by a hole; one that is longer stays as it is.
pub(super) async fn extend(draft: &Arc<Draft>, len: u64) -> Result<(), WriteError> {
    verified(draft).await?;
    let _gate = draft.gate.read().await;
    let mut state = draft.state.lock();
    fail_unless_it_fits(draft, &mut state, len)?;
    if len > state.content.len {
        state.cut(len);
    }
    Ok(())
}

/// Makes what the file has of `range` read as zeros. A range that reaches the end becomes a hole, any other
/// is written.
pub(super) async fn zero(draft: &Arc<Draft>, range: ByteRange) -> Result<(), WriteError> {
    verified(draft).await?;
    if drop_tail(draft, range).await? {
        return Ok(());
    }
    let zeros = buffer::zeros(ZERO_BYTES)?;
    let mut at = range.start();
    while let Some(data) = next_data(draft, ByteRange::new(at, range.end().max(at))) {
        let piece = ByteRange::at(data.start(), data.len().min(ZERO_BYTES));
        write(draft, piece.start(), &zeros[..piece.len() as usize]).await?;
        at = piece.end();
    }
    Ok(())
}

/// `true` where the range reaches the file's end, and is a hole now.
async fn drop_tail(draft: &Arc<Draft>, range: ByteRange) -> Result<bool, WriteError> {
    let _gate = draft.gate.read().await;
    let recording = Recording::of(draft);
    let dropped = {
        let mut state = recording.state();
        state.fail_if_failed(draft.writers.settings.write_back)?;
        let len = state.content.len;
        if range.start() >= len {
            return Ok(true);
        }
        // A cut through a part that only the store has would need a publish; zeros are written over it.
        if range.end() < len || !state.cut(range.start()) {
            return Ok(false);
        }
        state.cut(len);
        staged_dropped(draft, &state, ByteRange::new(range.start(), u64::MAX))
    };
    recording.append(dropped.as_slice())?;
    Ok(true)
}

/// The first stretch of `within` that is not known to be zeros.
fn next_data(draft: &Draft, within: ByteRange) -> Option<ByteRange> {
    let state = draft.state.lock();
    let within = within.intersect(&ByteRange::new(0, state.content.len));
    let mut sources = state.content.sources(within).into_iter();
    sources.find(|(_, source)| *source != Source::Zero).map(|(range, _)| range)
}

/// lseek(2) from `offset`: the next byte that is data, or a hole (the end of the file is one). `None` where
/// there is none, and behind the end.
pub(super) fn seek(draft: &Draft, offset: u64, what: Seek) -> Option<u64> {
    let state = draft.state.lock();
    let len = state.content.len;
    if offset >= len {
        return None;
    }
    let sources = state.content.sources(ByteRange::new(offset, len));
    let found = sources.into_iter().find(|(_, source)| match what {
        Seek::Data => *source != Source::Zero,
        Seek::Hole => *source == Source::Zero,
    });
    found.map(|(range, _)| range.start()).or((what == Seek::Hole).then_some(len))
}

/// Appends `range` of `source` at the same place of this file, without a byte of it moving: the store copies it
/// when the draft is published. `false` where the draft has other content already, and nothing was done.
pub(super) async fn append_from(
    draft: &Draft,
    source: &Base,
    range: ByteRange,
) -> Result<bool, WriteError> {
    let _gate = draft.gate.read().await;
    let mut state = draft.state.lock();
    state.fail_if_failed(draft.writers.settings.write_back)?;
    if !state.can_build_on(source, range) {
        return Ok(false);
    }
    let content = &mut state.content;
    content.base = Some(source.clone());
    content.base_len = range.end();
    content.len = range.end();
    content.writes += 1;
    state.life.apply(Event::Changed);
    Ok(true)
}

/// Undoes [`append_from`]: the file is empty again.
pub(super) async fn forget_appended(draft: &Draft) {
    let _gate = draft.gate.read().await;
    let mut state = draft.state.lock();
    if state.builds_on_another() && state.content.parts.is_empty() {
        let content = &mut state.content;
        content.base = None;
        content.base_len = 0;
        content.len = 0;
        content.writes += 1;
    }
}
