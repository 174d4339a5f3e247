//! The outcome of a publish: whether an object in the store is what this draft was about to become, and what the draft
//! is after that.
//!
//! Consistency: the object is believed ours only for what it provably is (see [`Outcome`]); what changed in
//! the file since then stays to be published, over that object as its base.

use std::sync::Arc;

use super::content::readback::{Use, read_base, read_once};
use super::error::WriteError;
use super::records::Recording;
use super::state::{Base, Content, Draft, DraftState, EndedStaging, Published};
use crate::clock::Instant;
use crate::journal::{BaseVersion, Completing, Event, Fingerprint, Record};
use crate::lock::MutexGuard;
use crate::range::{ByteRange, RangeSet};
use crate::store::{ETag, WriteOptions};
use crate::upload::{Fingerprinter, Outcome, Proof, Upload};

/// Bytes read at a time to be compared.
const READ_BYTES: u64 = 1 << 20;

/// Finds out what became of a completion that was not answered. `Some`: the object is this file, as
/// it was then.
pub(super) async fn learn_outcome(draft: &Arc<Draft>) -> Result<Option<Published>, WriteError> {
    let _turn = draft.opening.lock().await;
    let (unsettled, proof) = {
        let state = draft.state.lock();
        let Some(unsettled) = state.transfer.unsettled.clone() else { return Ok(None) };
        (unsettled, if state.exclusive { Proof::Mark } else { Proof::Content })
    };
    let outcome = draft.writers.uploads.outcome(draft.id, &unsettled, proof).await?;
    let same = match &outcome {
        Outcome::Completed(etag) => parts_as_completed(draft, etag, unsettled.len).await?,
        Outcome::NotCompleted | Outcome::Unknown => Vec::new(),
    };
    let became = {
        let recording = Recording::of(draft);
        let mut state = recording.state();
        let Some(unsettled) = state.transfer.unsettled.take() else { return Ok(None) };
        let Outcome::Completed(etag) = outcome else { return Ok(None) };
        log::info!("{}: its completion had taken effect before the answer was lost", state.key);
        let published = published_as(&state, &unsettled, etag);
        let content = &mut state.content;
        if unsettled.newer && content.writes == 0 {
            // Brought back was what had been sealed, and the object is newer.
            content.parts.clear();
            content.len = unsettled.len;
        }
        let rest = keep_what_changed(content, &unsettled, &same);
        stand_on(draft, &recording, state, &published, unsettled.base_len, rest)?
    };
    let published = became.published.clone();
    became.clear_away(draft).await;
    Ok(Some(published))
}

/// What a draft has become, and what of it is of no use any more.
pub(super) struct Became {
    pub published: Published,
    upload: Option<Arc<Upload>>,
    staging: Option<EndedStaging>,
}

impl Became {
    pub async fn clear_away(self, draft: &Draft) {
        draft.writers.remove_staging(self.staging).await;
        if let Some(upload) = self.upload {
            upload.end().await;
        }
    }
}

/// Makes the object the base, of which the file shows `base_len` bytes; `patches`: there is more to
/// publish. If there is not, the draft has ended.
///
/// # Errors
/// Those of the journal, which may bring the draft back then.
pub(super) fn stand_on(
    draft: &Draft,
    recording: &Recording,
    mut state: MutexGuard<'_, DraftState>,
    published: &Published,
    base_len: u64,
    patches: bool,
) -> Result<Became, WriteError> {
    let upload = state.transfer.upload.clone();
    state.transfer.settle();
    state.exclusive = false;
    state.content.base = Some(Base {
        key: published.key.clone(),
        etag: published.etag.clone(),
        len: published.len,
        object: draft.writers.cache.object(&published.key, &published.etag, published.len),
    });
    state.content.base_len = base_len;
    state.published = Some(published.clone());
    let (was_sealed, is_recorded) = (state.life.sealed().is_some(), state.life.is_recorded());
    let (has_ended, record) = if patches {
        state.life.apply(Event::Rebased);
        // It goes on over the object, with what is staged and what was promised by a sync or a close.
        let base = BaseVersion { etag: published.etag.clone(), len: published.len };
        (false, Record::DraftRebased { draft: draft.id, base })
    } else {
        state.life.apply(Event::Published);
        (true, Record::DraftEnded { draft: draft.id })
    };
    drop(state);
    // The records go first: a staging file that none names is swept up, the reverse would be a file
    // that is lost.
    recording.append(is_recorded.then_some(record).as_slice())?;
    let staging = match has_ended {
        true => recording.state().content.staging.take(),
        false => None,
    };
    let staging = staging.map(|staging| EndedStaging { staging, was_sealed });
    Ok(Became { published: published.clone(), upload, staging })
}

/// Of the parts that have bytes here beside the store's: those whose content is what the object has, by
/// index and generation. Told by the fingerprint of what was sent, or by comparing the bytes.
async fn parts_as_completed(
    draft: &Arc<Draft>,
    etag: &ETag,
    len: u64,
) -> Result<Vec<(u32, u64)>, WriteError> {
    let key = draft.key();
    let object = draft.writers.cache.object(&key, etag, len);
    let base = Base { key, etag: etag.clone(), len, object };
    let known: Vec<(u32, Fingerprint)> = draft.writers.journal.read(|journaled| {
        let parts = journaled.drafts.get(&draft.id).map(|draft| draft.parts.iter());
        let known = parts.into_iter().flatten();
        known.filter_map(|(number, part)| Some((number - 1, part.fingerprint?))).collect()
    });
    let mut same = Vec::new();
    for (index, stored) in known {
        let (range, written, generation) = {
            let state = draft.state.lock();
            let Some(part) = state.content.parts.get(&index).filter(|part| part.patched) else {
                continue;
            };
            let range = part.range.intersect(&ByteRange::new(0, state.content.len));
            (range, part.written(), part.generation)
        };
        let is_same = match fingerprint_of(draft, range).await? {
            Some(fingerprint) => fingerprint == stored,
            None => is_in(draft, &base, &written).await?,
        };
        if is_same {
            same.push((index, generation));
        }
    }
    Ok(same)
}

/// Whether the object has these ranges as they are here.
async fn is_in(draft: &Arc<Draft>, object: &Base, ranges: &RangeSet) -> Result<bool, WriteError> {
    let deadline = Instant::now() + draft.writers.settings.timeout;
    for range in ranges.iter() {
        if range.end() > object.len {
            return Ok(false);
        }
        let mut at = range.start();
        while at < range.end() {
            let piece = range.intersect(&ByteRange::at(at, READ_BYTES));
            let mut theirs = vec![0; piece.len() as usize];
            read_base(object, piece, &mut theirs, Use::Shown, deadline).await?;
            if read_once(draft, piece, Use::Shown).await?.as_deref() != Some(theirs.as_slice()) {
                return Ok(false);
            }
            at = piece.end();
        }
    }
    Ok(true)
}

/// The fingerprint of a range, unless the store alone has some of it.
async fn fingerprint_of(
    draft: &Draft,
    range: ByteRange,
) -> Result<Option<Fingerprint>, WriteError> {
    let mut hasher = Fingerprinter::default();
    let mut at = range.start();
    while at < range.end() {
        let piece = range.intersect(&ByteRange::at(at, READ_BYTES));
        let Some(bytes) = read_once(draft, piece, Use::Shown).await? else { return Ok(None) };
        hasher.update(&bytes);
        at = piece.end();
    }
    Ok(Some(hasher.finish()))
}

fn published_as(state: &DraftState, completing: &Completing, etag: ETag) -> Published {
    Published {
        key: state.key.clone(),
        etag,
        len: completing.len,
        options: WriteOptions {
            metadata: completing.metadata.clone(),
            content_type: completing.content_type.clone(),
            carried: Some(completing.carried.clone()),
        },
    }
}

/// Of the parts only what is not in the object stays; whether the file is any different from it.
fn keep_what_changed(content: &mut Content, object: &Completing, same: &[(u32, u64)]) -> bool {
    content
        .parts
        .retain(|index, part| !part.is_stored() && !same.contains(&(*index, part.generation)));
    for part in content.parts.values_mut() {
        part.stored = None;
        part.patched = false;
    }
    !content.parts.is_empty() || content.len != object.len || object.base_len != object.len
}
