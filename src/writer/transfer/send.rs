//! Parts on their way to the store, while the writer goes on.

use std::sync::Arc;

use super::streamed::{free_staged, streamed_part};
use crate::journal::Record;
use crate::progress::kept;
use crate::range::ByteRange;
use crate::store::{StoredPart, Summed, giving_way};
use crate::upload::{PartBytes, Seal, Upload, UploadError, UploadPlan};
use crate::writer::content::stage::tidy;
use crate::writer::error::WriteError;
use crate::writer::outcome::learn_outcome;
use crate::writer::records::{Recording, staged_dropped};
use crate::writer::state::{Draft, DraftState, Memory, Part, Places, Writers};

/// Starts sending a sealed part; where an older content of it is on its way, that one goes first. Callers hold the
/// gate or a [`Recording`]: what is recorded as sealed must not begin to move meanwhile.
pub(in crate::writer) fn send(draft: &Arc<Draft>, state: &mut DraftState, index: u32) {
    let Some(part) = state.content.parts.get(&index) else { return };
    if part.is_stored() || state.transfer.is_sending(index) {
        return;
    }
    if state.transfer.still > 0 || is_promised(draft, state, index) {
        return;
    }
    let generation = part.generation;
    let sealed = match &part.memory {
        Memory::Sealed(sealed) => Some(sealed.summed()),
        _ if part.waits_on_disk(draft.writers.window_bytes_max(), false) => None,
        _ => return,
    };
    state.transfer.sending.insert(index, generation);
    state.transfer.count_sending(&draft.writers.counts);
    let sending = Sending { draft: draft.clone(), index, generation, outcome: None };
    draft.writers.runtime.spawn(async move {
        // It may be written again, and sealed, before the answer comes.
        let sent = send_sealed(&sending.draft, index, generation, sealed);
        // Under write-back the publish sends it again, and waits for it to come back until then.
        let is_background = sending.draft.writers.settings.write_back;
        let outcome = if is_background { giving_way(sent).await } else { sent.await };
        sending.end(outcome);
    });
}

/// Sends a part that is sealed, in memory or on the disk. `None` where it was written again before it was read.
async fn send_sealed(
    draft: &Arc<Draft>,
    index: u32,
    generation: u64,
    sealed: Option<Summed>,
) -> Result<Option<StoredPart>, WriteError> {
    let body = match sealed {
        Some(summed) => summed.into(),
        None => match streamed_part(draft, index, generation).await? {
            Some(body) => body,
            None => return Ok(None),
        },
    };
    Ok(Some(send_part(draft, index + 1, body, Seal::Older).await?))
}

/// Whether one more part may be on its way. What is under way at a crash is sent again, so the number
/// grows with what has arrived, of this file and of all that are being written: the loss stays within
/// a few percent. One part of each file may always be on its way.
pub(in crate::writer) fn may_send_another(writers: &Writers, state: &mut DraftState) -> bool {
    let stored = state.content.parts_stored();
    let sending = state.transfer.sending.len();
    state.transfer.count_stored(&writers.counts, stored);
    if sending == 0 {
        return true;
    }
    if sending >= writers.parts_in_flight(stored).min(writers.settings.parts_in_flight_max) {
        return false;
    }
    let (all_stored, all_sending) = writers.parts_now();
    all_sending < writers.parts_in_flight(all_stored)
}

/// Sends sealed parts that have stayed behind, for as long as they may go.
pub(in crate::writer) fn send_waiting(draft: &Arc<Draft>, state: &mut DraftState) {
    let window = draft.writers.window_bytes_max();
    while state.transfer.still == 0 && may_send_another(&draft.writers, state) {
        let waiting = state.content.parts.iter().find(|(index, part)| {
            let sending = state.transfer.is_sending(**index);
            (part.waits(sending) || part.waits_on_disk(window, sending))
                // A file that is no longer than a part is one PUT.
                && (state.transfer.upload.is_some() || part.written().contains(part.range))
                && !is_promised(draft, state, **index)
        });
        let waiting = waiting.map(|(index, _)| *index);
        let Some(index) = waiting else { return };
        send(draft, state, index);
    }
}

/// Whether a crash would bring back a content of this part that is only in the store, under the part's
/// number, and has been written over here since: it stays there until the next seal.
fn is_promised(draft: &Draft, state: &DraftState, index: u32) -> bool {
    let Some(part) = state.content.parts.get(&index) else { return false };
    if state.seal_of(part.generation) == Seal::Same {
        return false;
    }
    draft.writers.journal.read(|journaled| {
        let Some(known) = journaled.drafts.get(&draft.id) else { return false };
        let Some(sealed) = known.sealed() else { return false };
        known.parts.is_sealed(index + 1)
            && !known.staged.covers(part.range.intersect(&ByteRange::new(0, sealed.len)))
    })
}

/// Sends one part; an upload that the store has forgotten is begun again.
pub(in crate::writer) async fn send_part(
    draft: &Arc<Draft>,
    number: u32,
    bytes: impl Into<PartBytes>,
    seal: Seal,
) -> Result<StoredPart, WriteError> {
    let bytes = bytes.into();
    // Twice forgotten within one part is no accident any more.
    for _ in 0..2 {
        learn_outcome(draft).await?;
        let upload = open_upload(draft).await?;
        match upload.store_part(number, bytes.clone(), seal).await {
            Err(UploadError::Restarted) => resend_after_restart(draft),
            other => return Ok(other?),
        }
    }
    Err(WriteError::Lost)
}

/// An answer came for a part: takes note, and lets go of memory that is not needed.
fn arrived(
    draft: &Arc<Draft>,
    index: u32,
    generation: u64,
    outcome: Result<Option<StoredPart>, WriteError>,
) {
    let recording = Recording::of(draft);
    let (records, in_vain, failed) = match outcome {
        Ok(Some(stored)) => {
            let (records, in_vain) =
                note_stored(draft, &mut recording.state(), (index, generation), stored);
            (records, in_vain, None)
        }
        Ok(None) => (Vec::new(), None, None),
        Err(error) => (Vec::new(), None, Some(error)),
    };
    // The part counts as on its way until this is recorded: it is not sent again before.
    recording.append_or_log(&records);
    let leaving = {
        let mut state = recording.state();
        state.transfer.sending.remove(&index);
        state.transfer.count_sending(&draft.writers.counts);
        match failed {
            None => {
                send(draft, &mut state, index);
                send_waiting(draft, &mut state);
            }
            Some(error) => note_failed(draft, &mut state, index, error),
        }
        state.content.drop_beyond(draft.writers.settings.retained_bytes_max)
    };
    drop(recording);
    tidy(draft, leaving, in_vain.into_iter().collect());
    draft.changed.notify_waiters();
}

/// The store has a part: what is to be recorded of that, and the places on the disk that nothing needs any more.
fn note_stored(
    draft: &Draft,
    state: &mut DraftState,
    (index, generation): (u32, u64),
    stored: StoredPart,
) -> (Vec<Record>, Option<Places>) {
    match state.content.parts.get_mut(&index) {
        Some(part) if part.generation == generation => is_stored(draft, state, index, stored),
        // Written again meanwhile, and perhaps sealed again; or cut off.
        _ => {
            let number = index + 1;
            let dropped = Record::PartDropped { draft: draft.id, number };
            (state.life.is_recorded().then_some(dropped).into_iter().collect(), None)
        }
    }
}

/// Likewise of a part whose present content the store has.
pub(in crate::writer) fn is_stored(
    draft: &Draft,
    state: &mut DraftState,
    index: u32,
    stored: StoredPart,
) -> (Vec<Record>, Option<Places>) {
    let Some(part) = state.content.parts.get_mut(&index) else { return Default::default() };
    let (range, is_stale) = (part.range, part.is_stored_as(stored));
    let places = free_staged(draft, state, index);
    let dropped = (is_stale || places.is_some()).then(|| staged_dropped(draft, state, range));
    (dropped.flatten().into_iter().collect(), places)
}

fn note_failed(draft: &Draft, state: &mut DraftState, index: u32, error: WriteError) {
    match error {
        // The bytes are kept here, so this is no reason to fail the writer: the publish tries again, and
        // tells what it meets.
        WriteError::Store(_) if draft.writers.settings.write_back => {
            log::info!("{}: part {} is sent later: {error}", state.key, index + 1);
        }
        error => {
            if state.error.is_none() {
                log::warn!("{}: {error}", state.key);
                state.error = Some(error);
            }
        }
    }
}

/// The draft's upload, opened if there is none.
pub(in crate::writer) async fn open_upload(draft: &Arc<Draft>) -> Result<Arc<Upload>, WriteError> {
    kept(open_upload_now(draft)).await
}

async fn open_upload_now(draft: &Arc<Draft>) -> Result<Arc<Upload>, WriteError> {
    let _turn = draft.opening.lock().await;
    if let Some(upload) = &draft.state.lock().transfer.upload {
        return Ok(upload.clone());
    }
    let (wanted, known_before) = plan_upload(draft)?;
    let uploads = &draft.writers.uploads;
    let upload = match known_before {
        true => uploads.reopen(wanted).await?,
        false => uploads.open(wanted).await?,
    };
    let recording = Recording::of(draft);
    let mut state = recording.state();
    state.transfer.upload = Some(upload.clone());
    // What a restored draft takes for stored is stored only if the store still says so.
    let gone = |part: &Part| part.stored.as_ref().is_some_and(|stored| !upload.holds(stored));
    forget_stored(draft, &mut state, gone);
    drop(state);
    Ok(upload)
}

/// What to open, which the journal knows before, and whether it knew the draft even before that.
fn plan_upload(draft: &Draft) -> Result<(UploadPlan, bool), WriteError> {
    let recording = Recording::of(draft);
    let known_before = {
        let state = recording.state();
        if state.life.is_ended() {
            return Err(WriteError::Lost);
        }
        state.life.is_recorded()
    };
    recording.begin()?;
    let state = recording.state();
    let wanted = UploadPlan {
        draft: draft.id,
        key: state.key.clone(),
        plan: state.content.plan,
        options: state.options.clone(),
    };
    Ok((wanted, known_before))
}

/// Parts from the draft's upload, where there is one, here or in the journal, and aborts it. The
/// draft's own records end with that.
pub(in crate::writer) async fn give_up_upload(draft: &Draft) -> Result<(), WriteError> {
    let upload = draft.state.lock().transfer.upload.take();
    let interrupted = &draft.writers.uploads.interrupted;
    if let Some(orphan) = interrupted.disown(draft.id)?
        && let Err(error) = interrupted.abort(orphan).await
    {
        log::warn!("{}: an interrupted upload stays behind for now: {error}", draft.key());
    }
    if let Some(upload) = upload {
        upload.give_up().await;
    }
    Ok(())
}

/// The store has forgotten the upload: every part that it held is sent again, if it still is here.
pub(in crate::writer) fn resend_after_restart(draft: &Arc<Draft>) {
    let recording = Recording::of(draft);
    forget_stored(draft, &mut recording.state(), |part| part.stored.is_some());
}

/// These parts are not in the store any more: they are sent again, if their bytes are still here.
fn forget_stored(draft: &Arc<Draft>, state: &mut DraftState, is_gone: impl Fn(&Part) -> bool) {
    let gone = state.content.parts.iter().filter(|(_, part)| is_gone(part));
    let gone: Vec<u32> = gone.map(|(index, _)| *index).collect();
    for index in gone {
        let Some(part) = state.content.parts.get_mut(&index) else { continue };
        let whole = part.written().contains(ByteRange::at(
            part.range.start(),
            part.stored.as_ref().map_or(0, |stored| stored.len),
        ));
        part.stored = None;
        part.patched = false;
        if !whole {
            state.error.get_or_insert(WriteError::Lost);
        } else {
            send(draft, state, index);
        }
    }
}

/// A part on its way. It counts as such until this is dropped: by the end of its task, or by a panic in it, of which
/// the writer is told, which would wait for the part for good otherwise.
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
            // The runtime ends, and with it all that could wait.
            None => return,
        };
        arrived(&self.draft, self.index, self.generation, outcome);
    }
}

/// As long as it lives, nothing of a draft begins to go to the store, unless it is published. Its writers go on.
pub struct Still {
    draft: Arc<Draft>,
}

impl Still {
    pub(in crate::writer) fn of(draft: &Arc<Draft>) -> Still {
        draft.state.lock().transfer.still += 1;
        Still { draft: draft.clone() }
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let recording = Recording::of(&self.draft);
        let mut state = recording.state();
        state.transfer.still -= 1;
        send_waiting(&self.draft, &mut state);
        drop(state);
        drop(recording);
        self.draft.changed.notify_waiters();
    }
}
