//! Keeping a draft's bytes on the local disk.
//!
//! A part's memory is claimed under the draft's state, written without it, and then known to be there, if it has not
//! changed meanwhile.

use std::io;
use std::sync::Arc;

use crate::blocking;
use crate::checked::Stretch;
use crate::journal::{DraftId, Record};
use crate::range::ByteRange;
use crate::staging::{STRETCH_BYTES_MAX, StagingFile};
use crate::writer::error::WriteError;
use crate::writer::records::{Recording, staged_dropped};
use crate::writer::state::{Claim, Content, Draft, DraftState, Memory, Part, Places};

/// What becomes of a part's memory when the staging file has it too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::writer) enum Then {
    Stay,
    Leave,
}

/// A claim; those that wait to write into the buffer, or to stage it, are told when it ends.
struct Claimed<'a> {
    draft: &'a Draft,
    claim: Option<Claim>,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.claim = None;
        self.draft.changed.notify_waiters();
    }
}

/// The places of what was claimed.
type Written = Vec<(ByteRange, Vec<Stretch>)>;

/// Brings to the staging file what these parts have only in memory.
pub(in crate::writer) async fn stage(
    draft: &Arc<Draft>,
    mut parts: Vec<u32>,
    then: Then,
) -> Result<(), WriteError> {
    while !parts.is_empty() {
        let changed = draft.changed.notified();
        parts = draft.blocking(move |draft| stage_now(draft, parts, then)).await?;
        if !parts.is_empty() {
            changed.await;
        }
    }
    Ok(())
}

/// As [`stage`], but for those that are being staged already, which are returned. Blocks.
pub(in crate::writer) fn stage_now(
    draft: &Draft,
    parts: Vec<u32>,
    then: Then,
) -> Result<Vec<u32>, WriteError> {
    let mut claimed = Vec::new();
    for index in parts {
        if stage_part(draft, index, then)?.is_none() {
            claimed.push(index);
        }
    }
    Ok(claimed)
}

/// Brings to the staging file what one part has only in memory. Returns the bytes of memory that this frees;
/// `None` where that is being done already. Blocks, without a lock but for the journal's records.
fn stage_part(draft: &Draft, index: u32, then: Then) -> Result<Option<u64>, WriteError> {
    let claim = {
        let mut state = draft.state.lock();
        let Some(part) = state.content.parts.get_mut(&index) else { return Ok(Some(0)) };
        if part.is_claimed() {
            return Ok(None);
        }
        let Some(claim) = part.claim() else { return Ok(Some(0)) };
        claim
    };
    let mut claimed = Claimed { draft, claim: Some(claim) };
    let Some(claim) = &mut claimed.claim else { return Ok(Some(0)) };
    if claim.ranges.is_empty() {
        return Ok(Some(note_staged(draft, index, claim, &Written::new(), then)?.unwrap_or(0)));
    }
    let staging = staging_of(draft)?;
    let written = write_to(&staging, claim)?;
    let freed = note_staged(draft, index, claim, &written, then)?;
    if freed.is_none() {
        written.iter().flat_map(|(_, stretches)| stretches).for_each(|stretch| {
            staging.free_or_leave(stretch.at, stretch.len);
        });
    }
    Ok(Some(freed.unwrap_or(0)))
}

/// Notes that the staging file has what was claimed. `None` where that is not the part's content any more.
fn note_staged(
    draft: &Draft,
    index: u32,
    claim: &Claim,
    written: &Written,
    then: Then,
) -> Result<Option<u64>, WriteError> {
    let recording = Recording::of(draft);
    if claimed_part(&mut recording.state().content, index, claim).is_none() {
        return Ok(None);
    }
    let records: Vec<Record> =
        written.iter().flat_map(|(range, at)| staged_records(draft.id, *range, at)).collect();
    recording.append(&records)?;
    let mut state = recording.state();
    if let Some(part) = claimed_part(&mut state.content, index, claim) {
        for (range, stretches) in written {
            stretches.first().into_iter().for_each(|first| part.stage_at(*range, first.at));
        }
        return Ok(Some(match then {
            Then::Stay => 0,
            Then::Leave => part.let_go_of(claim),
        }));
    }
    // Written over while it was recorded: what the journal says of these ranges is not meant.
    let dropped = |(range, _): &(ByteRange, _)| staged_dropped(draft, &state, *range);
    let records: Vec<Record> = written.iter().filter_map(dropped).collect();
    drop(state);
    recording.append(&records)?;
    Ok(None)
}

/// The part, if it has the content that was claimed.
fn claimed_part<'a>(content: &'a mut Content, index: u32, claim: &Claim) -> Option<&'a mut Part> {
    let part = content.parts.get_mut(&index)?;
    (part.generation == claim.generation).then_some(&mut **part)
}

/// The draft's staging file, and the journal's knowledge of the draft first.
fn staging_of(draft: &Draft) -> Result<Arc<StagingFile>, WriteError> {
    let recording = Recording::of(draft);
    if let Some(staging) = &recording.state().content.staging {
        return Ok(staging.clone());
    }
    recording.begin()?;
    let staging = Arc::new(StagingFile::new(&draft.writers.settings.staging_folder, draft.id));
    recording.state().content.staging = Some(staging.clone());
    Ok(staging)
}

/// Moves the open buffer that was written longest ago to the disk. Returns the bytes of memory that
/// this frees; 0 where there is nothing to move, or the draft is being published or sealed. Blocks.
pub(in crate::writer) fn stage_oldest(draft: &Draft) -> Result<u64, WriteError> {
    let Ok(_gate) = draft.gate.try_read() else { return Ok(0) };
    let oldest = {
        let state = draft.state.lock();
        let can_leave =
            state.content.parts.iter().filter(|(index, part)| {
                !part.is_claimed() && can_leave_memory(&state, **index, part)
            });
        can_leave.min_by_key(|(_, part)| part.generation).map(|(index, _)| *index)
    };
    let Some(index) = oldest else { return Ok(0) };
    Ok(stage_part(draft, index, Then::Leave)?.unwrap_or(0))
}

/// Moves all open buffers to the disk. Sealed parts stay: they are on their way, and let go of by that.
pub(in crate::writer) async fn leave_memory(draft: &Arc<Draft>) -> Result<(), WriteError> {
    let open: Vec<u32> = {
        let state = draft.state.lock();
        let parts = state.content.parts.iter();
        let open = parts.filter(|(_, part)| matches!(part.memory, Memory::Open(_)));
        open.map(|(index, _)| *index).collect()
    };
    stage(draft, open, Then::Leave).await
}

fn can_leave_memory(state: &DraftState, index: u32, part: &Part) -> bool {
    match &part.memory {
        Memory::None => false,
        Memory::Open(_) => true,
        // On its way it will be let go of by itself.
        Memory::Sealed(_) => {
            !state.transfer.is_sending(index) && (state.content.is_readable || !part.is_stored())
        }
    }
}

/// Gives places in the staging file that are not meant any more back to the disk. Blocks.
pub(in crate::writer) fn give_back(draft: &Draft, places: Vec<Places>) {
    if places.is_empty() {
        return;
    }
    let staging = draft.state.lock().content.staging.clone();
    if let Some(staging) = staging {
        places.iter().for_each(|places| staging.free_all(places));
    }
}

/// What these parts have only in memory leaves it for the staging file, and places that are not meant any more go
/// back to the disk: both in their own time.
pub(in crate::writer) fn tidy(draft: &Arc<Draft>, leaving: Vec<u32>, in_vain: Vec<Places>) {
    if leaving.is_empty() && in_vain.is_empty() {
        return;
    }
    let draft = draft.clone();
    let runtime = draft.writers.runtime.clone();
    blocking::run_on(&runtime, move || {
        give_back(&draft, in_vain);
        if let Err(error) = stage_now(&draft, leaving, Then::Leave) {
            log::warn!("{}: parts stay in memory: {error}", draft.key());
        }
    });
}

/// Blocks.
pub(in crate::writer) fn sync_staging(draft: &Draft) -> Result<(), WriteError> {
    let staging = draft.state.lock().content.staging.clone();
    Ok(staging.map_or(Ok(()), |staging| staging.sync())?)
}

/// Writes what was claimed to the staging file. Blocks.
fn write_to(staging: &StagingFile, claim: &Claim) -> io::Result<Written> {
    let ranges = claim.ranges.iter();
    let append = |range: &ByteRange| {
        let sums = claim.memory.sums(*range, STRETCH_BYTES_MAX);
        Ok((*range, staging.append(claim.memory.bytes(*range), &sums)?))
    };
    ranges.map(append).collect()
}

/// That a range of the file stands in these stretches, which follow each other.
fn staged_records(
    draft: DraftId,
    range: ByteRange,
    stretches: &[Stretch],
) -> impl Iterator<Item = Record> {
    let place = stretches.first().map_or(0, |first| first.at);
    stretches.iter().map(move |stretch| Record::Staged {
        draft,
        range: ByteRange::at(range.start() + (stretch.at - place), stretch.len),
        crc: stretch.crc,
        at: stretch.at,
    })
}
