//! The content of parts that are too long for memory, read while it is sent.
//!
//! Consistency: what is read does not change: staged bytes are never overwritten, and compared each time they are
//! read, the base is read by its ETag. Crash: nothing is kept here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::clock::Instant;
use crate::journal::Record;
use crate::range::ByteRange;
use crate::staging::StagingFile;
use crate::store::{Key, PartSource};
use crate::upload::PartBytes;
use crate::writer::content::readback::{Use, read_base, read_staged, slice_of};
use crate::writer::content::stage::{Then, stage};
use crate::writer::error::WriteError;
use crate::writer::state::{Base, Draft, DraftState, Places, Source};

struct PartContent {
    key: Key,
    range: ByteRange,
    /// In order, and all of the range.
    pieces: Vec<(ByteRange, Source)>,
    staging: Option<Arc<StagingFile>>,
    base: Option<Base>,
    timeout: Duration,
}

#[async_trait]
impl PartSource for PartContent {
    fn len(&self) -> u64 {
        self.range.len()
    }

    async fn read(&self, range: ByteRange) -> std::io::Result<Bytes> {
        let range = ByteRange::at(self.range.start() + range.start(), range.len());
        let mut bytes = vec![0; range.len() as usize];
        for (piece, source) in &self.pieces {
            let wanted = piece.intersect(&range);
            if wanted.is_empty() {
                continue;
            }
            let into = slice_of(&mut bytes, range, wanted);
            match (source, &self.staging, &self.base) {
                (Source::Zero, _, _) => {}
                (Source::Staged(place), Some(staging), _) => {
                    let place = place + (wanted.start() - piece.start());
                    read_staged(staging, &self.key, wanted, place, into)?;
                }
                (Source::Base, _, Some(base)) => {
                    let deadline = Instant::now() + self.timeout;
                    read_base(base, wanted, into, Use::Sent, deadline)
                        .await
                        .map_err(std::io::Error::other)?;
                }
                _ => return Err(std::io::Error::other(WriteError::Lost)),
            }
        }
        Ok(bytes.into())
    }
}

/// Content that is read while it is sent: first what memory has of it goes to the staging file. The file stands still.
pub(in crate::writer) async fn streamed(
    draft: &Arc<Draft>,
    range: ByteRange,
) -> Result<PartBytes, WriteError> {
    let parts = {
        let state = draft.state.lock();
        let plan = &state.content.plan;
        let (first, last) = (plan.index_of(range.start()), plan.index_of(range.end() - 1));
        state.content.parts.range(first..=last).map(|(index, _)| *index).collect()
    };
    stage(draft, parts, Then::Leave).await?;
    body_on_disk(draft, &draft.state.lock(), range)
}

/// The same of one part, while the writer goes on. `None` where it was written again.
pub(in crate::writer) async fn streamed_part(
    draft: &Arc<Draft>,
    index: u32,
    generation: u64,
) -> Result<Option<PartBytes>, WriteError> {
    stage(draft, vec![index], Then::Leave).await?;
    let state = draft.state.lock();
    let same = state.content.parts.get(&index).filter(|part| part.generation == generation);
    same.map(|part| body_on_disk(draft, &state, part.range)).transpose()
}

/// The content of a range of which memory has nothing.
fn body_on_disk(
    draft: &Draft,
    state: &DraftState,
    range: ByteRange,
) -> Result<PartBytes, WriteError> {
    let pieces = state.content.sources(range);
    if pieces.iter().any(|(_, source)| matches!(source, Source::Stored | Source::Memory)) {
        return Err(WriteError::Lost);
    }
    Ok(PartBytes::Streamed(Arc::new(PartContent {
        key: state.key.clone(),
        range,
        pieces,
        staging: state.content.staging.clone(),
        base: state.content.base.clone(),
        timeout: draft.writers.settings.timeout,
    })))
}

/// The store has a part that went through the staging file, and it will not be read here: returns its places
/// on the disk, to be given back when that is recorded.
pub(in crate::writer) fn free_staged(
    draft: &Draft,
    state: &mut DraftState,
    index: u32,
) -> Option<Places> {
    // What was sealed may lie there: the next seal sees to it.
    if state.content.is_readable || state.life.sealed().is_some() {
        return None;
    }
    let part = state.content.parts.get_mut(&index)?;
    if part.range.len() <= draft.writers.window_bytes_max() || !part.is_stored() {
        return None;
    }
    Some(std::mem::take(&mut part.staged))
}

/// As [`free_staged`], of all parts, for a seal: what it has to record, and the places that are
/// free when that is in the journal.
pub(in crate::writer) fn staged_in_vain(
    draft: &Draft,
    state: &mut DraftState,
) -> (Vec<Record>, Vec<Places>) {
    if state.content.is_readable {
        return Default::default();
    }
    let window = draft.writers.window_bytes_max();
    let in_vain =
        state.content.parts.values_mut().filter(|part| {
            part.range.len() > window && part.is_stored() && !part.staged.is_empty()
        });
    in_vain
        .map(|part| {
            let record = Record::StagedDropped { draft: draft.id, range: part.range };
            (record, std::mem::take(&mut part.staged))
        })
        .unzip()
}
