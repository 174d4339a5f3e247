//! What a crash brings back: fsync, and write-back's close.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::streamed::staged_in_vain;
use crate::clock;
use crate::journal::{Event, Record, Sealed};
use crate::progress::can_end;
use crate::range::ByteRange;
use crate::store::Summed;
use crate::writer::content::stage::{Then, give_back, stage, stage_now, sync_staging};
use crate::writer::content::verify::verified;
use crate::writer::error::WriteError;
use crate::writer::records::Recording;
use crate::writer::state::{Draft, DraftState, LastSeal, Memory, Places, SealedMemory};

/// A file that is no longer than this is sealed with its content, in bytes: one write and one sync of the
/// journal, where a staging file has to be made, written, synced, its name too, and removed again.
const JOURNALED_BYTES_MAX: u64 = 64 << 10;

/// The content of a small file, for the journal.
struct SmallContent {
    summed: Summed,
    paid: OwnedSemaphorePermit,
}

/// fsync (afterwards what was written so far survives the end of this process and of the machine: sealed parts by the
/// store's word, the rest in the staging file), and write-back's close (likewise, and the file is whole).
pub(in crate::writer) async fn make_durable(
    draft: &Arc<Draft>,
    closed: bool,
) -> Result<(), WriteError> {
    if !closed {
        // What does not leave is written to the disk while the rest is on its way, and while others write.
        stage_ahead_of_seal(draft).await?;
        sent_or_failed(draft).await?;
    }
    seal_and_sync(draft, closed).await?;
    if closed {
        draft.state.lock().was_told();
    }
    Ok(())
}

/// Seals the file as it stands when its writers pause, and makes that survive the machine while they go on.
async fn seal_and_sync(draft: &Arc<Draft>, closed: bool) -> Result<(), WriteError> {
    let gate = draft.gate.write().await;
    let sealed = seal_file(draft, closed).await?;
    // What is written from now on is not of this version.
    let _gate = gate.downgrade();
    sync_seal(draft, sealed).await
}

/// Makes the file, which is being published, what a crash brings back.
pub(in crate::writer) async fn seal_standing(draft: &Arc<Draft>) -> Result<(), WriteError> {
    let sealed = seal_file(draft, false).await?;
    sync_seal(draft, sealed).await
}

/// Records what the file is. Holds the gate for writing: what comes back is one version. The gate is held, for
/// reading at least, until [`sync_seal`] has returned, so that no publish comes between. A file that was
/// published while the gate was waited for is not sealed: its draft is over, and the journal would bring it back
/// over whatever the name has by then.
///
/// Returns the places in the staging file that are not meant any more; `None` where nothing was sealed.
async fn seal_file(draft: &Arc<Draft>, closed: bool) -> Result<Option<Vec<Places>>, WriteError> {
    verified(draft).await?;
    {
        let state = draft.state.lock();
        if !state.life.is_changed() || state.life.is_unlinked() {
            return Ok(None);
        }
    }
    if seal_small(draft, closed)? {
        return Ok(Some(Vec::new()));
    }
    loop {
        let changed = draft.changed.notified();
        let sealed = draft.blocking(move |draft| seal_staged(draft, closed)).await?;
        if sealed.is_some() {
            return Ok(sealed);
        }
        changed.await;
    }
}

async fn sync_seal(draft: &Draft, in_vain: Option<Vec<Places>>) -> Result<(), WriteError> {
    let Some(in_vain) = in_vain else { return Ok(()) };
    draft.writers.journal.sync().await?;
    // Not before: what was sealed before has its bytes there.
    give_back(draft, in_vain);
    Ok(())
}

/// Whether a crash brings it back, and if so, whether to publish it.
fn promise(draft: &Draft) -> Option<bool> {
    let state = draft.state.lock();
    state.life.sealed().map(|_| state.life.is_closed())
}

/// This file is about to take the place of another: if a crash would bring that one back, it brings this
/// one back instead, as it stands.
pub(in crate::writer) async fn stand_in_for(
    draft: &Arc<Draft>,
    replaced: &Draft,
) -> Result<(), WriteError> {
    let Some(closed) = promise(replaced).filter(|_| !draft.state.lock().builds_on_another()) else {
        return Ok(());
    };
    if promise(draft).is_some_and(|stands| stands || !closed) {
        return Ok(());
    }
    seal_and_sync(draft, closed).await
}

/// [`seal_file`] of a small file, which is one short write of the journal; `false` where it is none.
fn seal_small(draft: &Draft, closed: bool) -> Result<bool, WriteError> {
    let recording = Recording::of(draft);
    let content = {
        let mut state = recording.state();
        state.fail_if_failed(draft.writers.settings.write_back)?;
        small_content(draft, &mut state)?.filter(|_| !state.life.is_unlinked())
    };
    let Some(content) = content else { return Ok(false) };
    let summed = content.summed.clone();
    record_sealed(draft, &recording, closed, Some(content))?;
    if closed && let Some(part) = recording.state().content.parts.get_mut(&0) {
        // It may wait for long, and the journal has paid for these bytes: one copy is enough.
        part.memory = Memory::Sealed(SealedMemory::small(summed));
    }
    Ok(true)
}

/// [`seal_file`] of a file that is in the staging file, in the store and in the base. `None` where a part of it is
/// being staged already. Blocks.
fn seal_staged(draft: &Draft, closed: bool) -> Result<Option<Vec<Places>>, WriteError> {
    loop {
        let unstaged_parts = {
            let mut state = draft.state.lock();
            state.fail_if_failed(draft.writers.settings.write_back)?;
            only_in_memory(draft, &state, true)
        };
        if !stage_now(draft, unstaged_parts, Then::Stay)?.is_empty() {
            return Ok(None);
        }
        sync_staging(draft)?;
        let recording = Recording::of(draft);
        {
            let state = recording.state();
            let staging = state.content.staging.as_ref();
            let is_synced = staging.is_none_or(|staging| staging.is_synced());
            // Of what the store had it may have lost parts meanwhile.
            if !is_synced || !only_in_memory(draft, &state, true).is_empty() {
                continue;
            }
            if state.life.is_unlinked() {
                // Meanwhile. Nothing of it is to come back.
                return Ok(Some(Vec::new()));
            }
        }
        let in_vain = record_sealed(draft, &recording, closed, None)?;
        if closed {
            settle_down(&recording);
        }
        return Ok(Some(in_vain));
    }
}

/// The disk has all of a file that is closed and may wait for long.
fn settle_down(recording: &Recording) {
    let staging = {
        let mut state = recording.state();
        if state.content.len <= JOURNALED_BYTES_MAX {
            // In a buffer that is mostly empty.
            state.content.parts.values_mut().for_each(|part| part.memory = Memory::None);
        }
        state.content.staging.clone()
    };
    staging.inspect(|staging| staging.rest());
}

/// What a seal will need on the disk, and is not on its way to the store.
async fn stage_ahead_of_seal(draft: &Arc<Draft>) -> Result<(), WriteError> {
    let _gate = draft.gate.read().await;
    let unstaged_parts = {
        let mut state = draft.state.lock();
        state.fail_if_failed(draft.writers.settings.write_back)?;
        if is_small(&state) {
            return Ok(());
        }
        only_in_memory(draft, &state, false)
    };
    stage(draft, unstaged_parts, Then::Stay).await?;
    draft.blocking(sync_staging).await
}

/// Whether the file is small, and all in memory. What is sealed once more is not: the staging file takes
/// what is new of it.
fn is_small(state: &DraftState) -> bool {
    let whole = ByteRange::new(0, state.content.len);
    let is_staged = state.content.staging.as_ref().is_some_and(|staging| staging.is_made());
    let is_elsewhere = is_staged || state.transfer.upload.is_some() || state.content.holds_parts();
    (1..=JOURNALED_BYTES_MAX).contains(&state.content.len)
        && !is_elsewhere
        && state.life.sealed().is_none_or(|seal| seal.paid.is_none())
        && state.content.parts.get(&0).is_some_and(|part| part.memory.ranges().contains(whole))
}

/// The content of a small file, unless the journal has its share of memory, or no room.
///
/// # Errors
/// `Damaged` where it is not what was written: the journal would vouch for it.
fn small_content(
    draft: &Draft,
    state: &mut DraftState,
) -> Result<Option<SmallContent>, WriteError> {
    if !is_small(state) || !draft.writers.journal.has_room() {
        return Ok(None);
    }
    let Some(part) = state.content.parts.get(&0) else { return Ok(None) };
    let share = draft.writers.journaled_content.clone();
    let Ok(paid) = share.try_acquire_many_owned(state.content.len as u32) else { return Ok(None) };
    let whole = ByteRange::new(0, state.content.len);
    let bytes = Bytes::copy_from_slice(part.memory.bytes(whole));
    let summed = Summed { bytes, sum: part.memory.sum(whole) };
    if !summed.is_intact() {
        return Err(state.fail(WriteError::Damaged(0)));
    }
    Ok(Some(SmallContent { summed, paid }))
}

/// The parts of which something is only in memory. `on_its_way` says whether a part on its way to the store counts
/// as that; under write-back it does in any case, and so does what has arrived: the store may forget.
fn only_in_memory(draft: &Draft, state: &DraftState, on_its_way: bool) -> Vec<u32> {
    let write_back = draft.writers.settings.write_back;
    let needed = state.content.parts.iter().filter(|(index, part)| match &part.memory {
        Memory::None => false,
        Memory::Open(_) => true,
        Memory::Sealed(_) => {
            let sending = !on_its_way && state.transfer.is_sending(**index);
            write_back || part.waits(sending)
        }
    });
    let unstaged = needed.filter(|(_, part)| !part.unstaged().is_empty());
    unstaged.map(|(index, _)| *index).collect()
}

/// Waits until no part is on its way; fails if one failed.
pub(in crate::writer) async fn sent_or_failed(draft: &Draft) -> Result<(), WriteError> {
    loop {
        let changed = draft.changed.notified();
        {
            let state = draft.state.lock();
            if let Some(error) = &state.error {
                return Err(error.clone());
            }
            if state.transfer.sending.is_empty() {
                return Ok(());
            }
        }
        can_end(changed).await;
    }
}

fn record_sealed(
    draft: &Draft,
    recording: &Recording,
    closed: bool,
    content: Option<SmallContent>,
) -> Result<Vec<Places>, WriteError> {
    recording.begin()?;
    let (records, places, event) = {
        let mut state = recording.state();
        let mut records = parts_not_meant(draft, &state);
        let (in_vain, places) = staged_in_vain(draft, &mut state);
        records.extend(in_vain);
        // The close promised that the file needs no writer any more.
        let closed = closed || state.life.is_closed();
        let sealed = Sealed {
            len: state.content.len,
            base_len: state.content.base_len,
            metadata: state.options.metadata.clone(),
            content_type: state.options.content_type.clone(),
            carried: state.options.carried.clone(),
            time: clock::wall(),
            content: content.as_ref().map(|content| content.summed.bytes.clone()),
        };
        records.extend(sealed.records(draft.id, closed));
        let paid = content.map(|content| content.paid);
        let seal = LastSeal { at: state.content.writes, told: state.is_closed(), paid };
        (records, places, Event::Sealed { seal, closed })
    };
    recording.append(&records)?;
    recording.state().life.apply(event);
    Ok(places)
}

/// The journal may know parts that are not this file's: of an adopted upload whose content has not
/// come again so far, or acknowledged after they were cut off. A restored draft must not take them
/// for its own.
fn parts_not_meant(draft: &Draft, state: &DraftState) -> Vec<Record> {
    let meant = |number: &u32, known: &crate::journal::Part| {
        let index = number - 1;
        let Some(part) = state.content.parts.get(&index) else { return false };
        let stored = part.stored.as_ref();
        stored.is_some_and(|stored| stored.len == known.len && stored.etag == known.etag())
            || state.transfer.sending.get(&index) == Some(&part.generation)
    };
    draft.writers.journal.read(|journaled| {
        let parts = journaled.drafts.get(&draft.id).map(|draft| draft.parts.iter());
        parts
            .into_iter()
            .flatten()
            .filter(|(number, part)| !meant(number, part))
            .map(|(number, _)| Record::PartDropped { draft: draft.id, number: *number })
            .collect()
    })
}
