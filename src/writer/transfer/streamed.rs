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
use crate::store::{Key, PartBody, PartSource};
use crate::writer::content::readback::{read_base, read_staged, slice_of};
use crate::writer::content::stage::Then;
use crate::writer::error::WriteError;
use crate::writer::state::{Base, Core, Draft, Part, Places, Source};

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
                    read_base(base, wanted, into, deadline).await.map_err(std::io::Error::other)?;
                }
                _ => return Err(std::io::Error::other(WriteError::Lost)),
            }
        }
        Ok(bytes.into())
    }
}

impl Draft {
    /// Parts longer than this go through the staging file, and are sent from there.
    pub(in crate::writer) fn window_bytes_max(&self) -> u64 {
        window_bytes_max(self.writers.budget.total())
    }

    /// Content that is read while it is sent: first what memory has of it goes to the staging file. The file stands still.
    pub(in crate::writer) async fn streamed(
        self: &Arc<Self>,
        range: ByteRange,
    ) -> Result<PartBody, WriteError> {
        let parts = {
            let core = self.core.lock();
            let (first, last) = (
                core.content.plan.index_of(range.start()),
                core.content.plan.index_of(range.end() - 1),
            );
            core.content.parts.range(first..=last).map(|(index, _)| *index).collect()
        };
        self.stage(parts, Then::Leave).await?;
        self.body_on_disk(&self.core.lock(), range)
    }

    /// The same of one part, while the writer goes on. `None` where it was written again.
    pub(in crate::writer) async fn streamed_part(
        self: &Arc<Self>,
        index: u32,
        generation: u64,
    ) -> Result<Option<PartBody>, WriteError> {
        self.stage(vec![index], Then::Leave).await?;
        let core = self.core.lock();
        let same = core.content.parts.get(&index).filter(|part| part.generation == generation);
        same.map(|part| self.body_on_disk(&core, part.range)).transpose()
    }

    /// The content of a range of which memory has nothing.
    fn body_on_disk(&self, core: &Core, range: ByteRange) -> Result<PartBody, WriteError> {
        let pieces = core.content.sources(range);
        if pieces.iter().any(|(_, source)| matches!(source, Source::Stored | Source::Memory)) {
            return Err(WriteError::Lost);
        }
        Ok(PartBody::Read(Arc::new(PartContent {
            key: core.key.clone(),
            range,
            pieces,
            staging: core.staging.clone(),
            base: core.content.base.clone(),
            timeout: self.writers.settings.timeout,
        })))
    }

    /// Whether a part is one that goes through the staging file, written from end to end, and waits to be
    /// sent.
    pub(in crate::writer) fn waits_on_disk(&self, part: &Part, sending: bool) -> bool {
        part.range.len() > self.window_bytes_max()
            && !sending
            && !part.is_stored()
            && part.written().contains(part.range)
    }

    /// The store has a part that went through the staging file, and nobody will read it here: returns its places
    /// on the disk, to be given back.
    pub(in crate::writer) fn free_staged(&self, core: &mut Core, index: u32) -> Option<Places> {
        // What was sealed may lie there: the next seal sees to it.
        if self.is_kept_readable() || core.life.sealed().is_some() {
            return None;
        }
        let part = core.content.parts.get_mut(&index)?;
        if part.range.len() <= self.window_bytes_max() || !part.is_stored() {
            return None;
        }
        let range = part.range;
        let staged = std::mem::take(&mut part.staged);
        self.forget_staged(core.life.is_recorded(), range);
        Some(staged)
    }

    /// As [`Draft::free_staged`], of all parts, for a seal: what it has to record, and the places that are
    /// free when that is in the journal.
    pub(in crate::writer) fn staged_in_vain(&self, core: &mut Core) -> (Vec<Record>, Vec<Places>) {
        if self.is_kept_readable() {
            return Default::default();
        }
        let window = self.window_bytes_max();
        let in_vain = core.content.parts.values_mut().filter(|part| {
            part.range.len() > window && part.is_stored() && !part.staged.is_empty()
        });
        in_vain
            .map(|part| {
                let record = Record::StagedDropped { draft: self.id, range: part.range };
                (record, std::mem::take(&mut part.staged))
            })
            .unzip()
    }
}

/// The longest buffer: a quarter of memory at most, so that several files get on side by side.
fn window_bytes_max(memory: u64) -> u64 {
    const LONGEST: u64 = 64 << 20;
    const SHORTEST: u64 = 1 << 20;
    (memory / 4 / SHORTEST * SHORTEST).clamp(SHORTEST, LONGEST)
}
