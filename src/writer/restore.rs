//! Drafts from before a crash: what was staged and acknowledged, as the journal tells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OnceCell, OwnedSemaphorePermit};

use super::error::WriteError;
use super::state::{
    Base, Content, Draft, DraftState, LastSeal, Memory, Part, Put, SealedMemory, Writers,
};
use crate::checked::Stretch;
use crate::journal::{Draft as JournaledDraft, DraftId, PutMark, Sealed};
use crate::range::ByteRange;
use crate::staging::StagingFile;
use crate::store::WriteOptions;

/// The draft as it was when it was last synced or closed. Staged bytes are compared with their checksums before
/// anything is done with them: see [`verify`](super::content::verify).
pub(super) fn restore(
    writers: &Arc<Writers>,
    id: DraftId,
    journaled: &JournaledDraft,
    base: Option<Base>,
) -> Result<Arc<Draft>, WriteError> {
    let Some(sealed) = journaled.sealed() else { return Err(WriteError::Lost) };
    let (parts, staging) = match &sealed.content {
        Some(content) => (whole(journaled, content.clone()), None),
        None if journaled.staged.is_empty() => (parts_of(journaled, sealed), None),
        None => {
            let folder = &writers.settings.staging_folder;
            let staging = StagingFile::restore(folder, id, stretches_of(journaled))?;
            staging.rest();
            (parts_of(journaled, sealed), Some(Arc::new(staging)))
        }
    };
    let content = Content {
        len: restored_len(sealed.len, &parts),
        base_len: if base.is_some() { sealed.base_len } else { 0 },
        base,
        plan: journaled.plan,
        parts,
        writes: 0,
        staging,
        is_readable: writers.settings.write_back,
    };
    let options = WriteOptions {
        metadata: sealed.metadata.clone(),
        content_type: sealed.content_type.clone(),
        carried: sealed.carried.clone(),
    };
    let put = |put: &PutMark| Put {
        mark: put.mark.clone(),
        content: (!put.is_old).then(|| (0, options.clone())),
        is_damaged: put.is_damaged,
    };
    let puts = journaled.marks.iter().map(put).collect();
    // What would have closed it is gone, or was told.
    let life = journaled.life.as_ref().map(|sealed| LastSeal {
        at: 0,
        told: true,
        paid: writers.pay_again(sealed),
    });
    let verified = match content.staging {
        Some(_) => OnceCell::new(),
        None => OnceCell::new_with(Some(Ok(()))),
    };
    let mut state = DraftState::new(journaled.key.clone(), options, life, content);
    state.transfer.unsettled = journaled.completing.clone();
    state.transfer.puts = puts;
    Ok(Draft::with_state(writers, id, state, verified))
}

impl Writers {
    /// What the journal holds of a file that was brought back is the draft's to give free.
    fn pay_again(&self, sealed: &Sealed) -> Option<OwnedSemaphorePermit> {
        let bytes = sealed.content.as_ref()?.len();
        self.journaled_content.add_permits(bytes);
        self.journaled_content.clone().try_acquire_many_owned(bytes as u32).ok()
    }
}

/// The one part of a file whose whole content is in the seal.
fn whole(journaled: &JournaledDraft, content: Bytes) -> BTreeMap<u32, Box<Part>> {
    let mut part = Part::new(journaled.plan.range_of(0));
    part.memory = Memory::Sealed(SealedMemory::small(content.into()));
    BTreeMap::from([(0, Box::new(part))])
}

/// What the staging file is to hold.
fn stretches_of(journaled: &JournaledDraft) -> impl Iterator<Item = Stretch> + '_ {
    journaled.staged.iter().filter_map(|staged| {
        let bytes = staged.bytes?;
        Some(Stretch { at: bytes.at, len: staged.range.len(), crc: bytes.crc })
    })
}

/// What the store and the staging file have of the parts, as of the last seal.
fn parts_of(journaled: &JournaledDraft, sealed: &Sealed) -> BTreeMap<u32, Box<Part>> {
    let mut parts: BTreeMap<u32, Box<Part>> = BTreeMap::new();
    for (number, part) in journaled.parts.iter() {
        let index = number - 1;
        let range = journaled.plan.range_of(index);
        if range.start() >= sealed.len || !journaled.parts.is_sealed(*number) {
            // Came after the last sync, and is not what the file had there then.
            continue;
        }
        if part.len > range.len() {
            // A copy that spans several parts of the file: the base still has it, and if the upload is
            // gone on with, it is not made again.
            continue;
        }
        let restored = parts.entry(index).or_insert_with(|| Box::new(Part::new(range)));
        restored.patched = journaled.parts.is_patched(*number);
        restored.stored = Some(part.stored(*number));
    }
    for staged in journaled.staged.iter() {
        match staged.bytes {
            Some(bytes) => stage(&journaled.plan, &mut parts, staged.range, bytes.at),
            None => unstage(&mut parts, staged.range),
        }
    }
    parts
}

/// The file's length: as synced, unless its last part was completed after that, and the store alone has
/// it: a part in the store cannot be cut.
fn restored_len(synced: u64, parts: &BTreeMap<u32, Box<Part>>) -> u64 {
    let Some((_, last)) = parts.last_key_value() else { return synced };
    let Some(stored) = &last.stored else { return synced };
    let end = last.range.start() + stored.len;
    let here = last.written().contains(ByteRange::new(last.range.start(), synced));
    if end > synced && !here { end } else { synced }
}

/// Adds a staged range, which may span parts.
fn stage(
    plan: &crate::part::PartPlan,
    parts: &mut BTreeMap<u32, Box<Part>>,
    range: ByteRange,
    at: u64,
) {
    let mut from = range.start();
    while from < range.end() {
        let index = plan.index_of(from);
        let part_range = plan.range_of(index);
        let piece = range.intersect(&ByteRange::new(from, part_range.end()));
        let part = parts.entry(index).or_insert_with(|| Box::new(Part::new(part_range)));
        part.stage_at(piece, at + (piece.start() - range.start()));
        from = piece.end();
    }
}

fn unstage(parts: &mut BTreeMap<u32, Box<Part>>, range: ByteRange) {
    for part in parts.values_mut() {
        part.staged.remove(range.start()..range.end());
    }
    parts.retain(|_, part| !part.is_untouched());
}
