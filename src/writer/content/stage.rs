//! Keeping a draft's bytes on the local disk.

use std::io;
use std::sync::Arc;

use crate::checked::Stretch;
use crate::journal::{DraftId, Record};
use crate::range::ByteRange;
use crate::staging::StagingFile;
use crate::writer::error::WriteError;
use crate::writer::state::{Claim, Core, Draft, Memory, Part, Places};

/// What becomes of a part's memory when the staging file has it too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::writer) enum Then {
    Stay,
    Leave,
}

/// A claim, and who is told when it ends: those that wait to write into the buffer, or to stage it.
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

impl Draft {
    /// Brings to the staging file what these parts have only in memory.
    pub(in crate::writer) async fn stage(
        self: &Arc<Self>,
        mut parts: Vec<u32>,
        then: Then,
    ) -> Result<(), WriteError> {
        while !parts.is_empty() {
            let changed = self.changed.notified();
            parts = self.blocking(move |draft| draft.stage_parts(parts, then)).await?;
            if !parts.is_empty() {
                changed.await;
            }
        }
        Ok(())
    }

    /// As [`Draft::stage`], but for those that others are staging, which are returned. Blocks.
    pub(in crate::writer) fn stage_parts(
        &self,
        parts: Vec<u32>,
        then: Then,
    ) -> Result<Vec<u32>, WriteError> {
        let mut claimed = Vec::new();
        for index in parts {
            if self.stage_part(index, then)?.is_none() {
                claimed.push(index);
            }
        }
        Ok(claimed)
    }

    /// Brings to the staging file what one part has only in memory. Returns the bytes of memory that this frees;
    /// `None` where others are doing it. Blocks, without the core's lock.
    fn stage_part(&self, index: u32, then: Then) -> Result<Option<u64>, WriteError> {
        let (claim, staging) = {
            let mut core = self.core.lock();
            let Some(part) = core.content.parts.get_mut(&index) else { return Ok(Some(0)) };
            if part.is_claimed() {
                return Ok(None);
            }
            let Some(claim) = part.claim() else { return Ok(Some(0)) };
            let staging =
                if claim.ranges.is_empty() { None } else { Some(self.staging(&mut core)?) };
            (claim, staging)
        };
        let mut claimed = Claimed { draft: self, claim: Some(claim) };
        let Some(claim) = &mut claimed.claim else { return Ok(Some(0)) };
        let written = match &staging {
            Some(staging) => write_to(staging, claim)?,
            None => Written::new(),
        };
        let freed = self.take_in(index, claim, &written, then);
        if let (Some(staging), Ok(None)) = (&staging, &freed) {
            written.iter().flat_map(|(_, stretches)| stretches).for_each(|stretch| {
                staging.free_or_leave(stretch.at, stretch.len);
            });
        }
        freed.map(|freed| Some(freed.unwrap_or(0)))
    }

    /// Notes that the staging file has what was claimed. `None` where that is not the part's content any more.
    fn take_in(
        &self,
        index: u32,
        claim: &Claim,
        written: &Written,
        then: Then,
    ) -> Result<Option<u64>, WriteError> {
        let mut core = self.core.lock();
        let part =
            core.content.parts.get_mut(&index).filter(|part| part.generation == claim.generation);
        let Some(part) = part else { return Ok(None) };
        let records: Vec<Record> =
            written.iter().flat_map(|(range, at)| staged_records(self.id, *range, at)).collect();
        self.writers.journal.append_all(&records)?;
        for (range, stretches) in written {
            stretches.first().into_iter().for_each(|first| part.stage_at(*range, first.at));
        }
        Ok(Some(match then {
            Then::Stay => 0,
            Then::Leave => part.let_go_of(claim),
        }))
    }

    fn staging(&self, core: &mut Core) -> Result<Arc<StagingFile>, WriteError> {
        if let Some(staging) = &core.staging {
            return Ok(staging.clone());
        }
        self.journal_begin(core)?;
        let staging = Arc::new(StagingFile::new(&self.writers.settings.staging_folder, self.id));
        core.staging = Some(staging.clone());
        Ok(staging)
    }

    /// Moves the open buffer that was written longest ago to the disk. Returns the bytes of memory that
    /// this frees; 0 where there is nothing to move, or the draft is being published or sealed. Blocks.
    pub(in crate::writer) fn stage_oldest(&self) -> Result<u64, WriteError> {
        let Ok(_gate) = self.gate.try_read() else { return Ok(0) };
        let oldest = {
            let core = self.core.lock();
            let can_leave = core.content.parts.iter().filter(|(index, part)| {
                !part.is_claimed() && self.can_leave_memory(part, core.sending.contains_key(index))
            });
            can_leave.min_by_key(|(_, part)| part.generation).map(|(index, _)| *index)
        };
        let Some(index) = oldest else { return Ok(0) };
        Ok(self.stage_part(index, Then::Leave)?.unwrap_or(0))
    }

    /// Moves all open buffers to the disk. Sealed parts stay: they are on their way, and let go of by that.
    pub(in crate::writer) async fn leave_memory(self: &Arc<Self>) -> Result<(), WriteError> {
        let open: Vec<u32> = {
            let core = self.core.lock();
            let open = core
                .content
                .parts
                .iter()
                .filter(|(_, part)| matches!(part.memory, Memory::Open(_)));
            open.map(|(index, _)| *index).collect()
        };
        self.stage(open, Then::Leave).await
    }

    fn can_leave_memory(&self, part: &Part, sending: bool) -> bool {
        match &part.memory {
            Memory::None => false,
            Memory::Open(_) => true,
            // On its way it will be let go of by itself.
            Memory::Sealed(_) => !sending && (self.is_kept_readable() || !part.is_stored()),
        }
    }

    /// Gives places in the staging file that are not meant any more back to the disk. Blocks.
    pub(in crate::writer) fn give_back(&self, places: Vec<Places>) {
        if places.is_empty() {
            return;
        }
        let staging = self.core.lock().staging.clone();
        if let Some(staging) = staging {
            places.iter().for_each(|places| staging.free_all(places));
        }
    }

    pub(in crate::writer) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Draft) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, WriteError> {
        let draft = self.clone();
        tokio::task::spawn_blocking(move || work(&draft)).await.map_err(std::io::Error::other)?
    }

    /// What these parts have only in memory leaves it for the staging file, and places that are not meant any more go
    /// back to the disk: both in their own time.
    pub(in crate::writer) fn tidy(self: &Arc<Self>, leaving: Vec<u32>, in_vain: Vec<Places>) {
        if leaving.is_empty() && in_vain.is_empty() {
            return;
        }
        let draft = self.clone();
        self.writers.runtime.spawn_blocking(move || {
            draft.give_back(in_vain);
            if let Err(error) = draft.stage_parts(leaving, Then::Leave) {
                log::warn!("{}: parts stay in memory: {error}", draft.key());
            }
        });
    }

    /// Blocks.
    pub(in crate::writer) fn sync_staging(&self) -> Result<(), WriteError> {
        let staging = self.core.lock().staging.clone();
        Ok(staging.map_or(Ok(()), |staging| staging.sync())?)
    }
}

/// Writes what was claimed to the staging file. Blocks.
fn write_to(staging: &StagingFile, claim: &Claim) -> io::Result<Written> {
    let ranges = claim.ranges.iter();
    ranges.map(|range| Ok((*range, staging.append(claim.bytes(*range))?))).collect()
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
