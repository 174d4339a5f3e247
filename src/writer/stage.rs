//! Keeping a draft's bytes on the local disk: under memory pressure, at fsync, and for write-back.

use std::sync::Arc;
use std::time::SystemTime;

use super::WriteError;
use super::draft::{Core, Draft};
use super::part::{Memory, Part};
use crate::journal::{Record, checksum};
use crate::range::ByteRange;
use crate::staging::StagingFile;

impl Draft {
    /// Writes a range of a part's memory to the staging file and journals it.
    pub(super) fn stage_range(
        &self,
        core: &mut Core,
        part: &mut Part,
        range: ByteRange,
    ) -> Result<(), WriteError> {
        let staging = self.staging(core)?;
        let bytes = part.memory_bytes(range);
        let place = staging.append(bytes)?;
        let crc = checksum(bytes);
        self.writers.journal.append(Record::Staged { draft: self.id, range, crc, at: place })?;
        part.stage_at(range, place);
        Ok(())
    }

    /// Stages what a part has only in memory. The memory stays.
    pub(super) fn stage_memory(&self, core: &mut Core, part: &mut Part) -> Result<(), WriteError> {
        for range in part.unstaged().iter() {
            self.stage_range(core, part, range)?;
        }
        Ok(())
    }

    fn staging(&self, core: &mut Core) -> Result<Arc<StagingFile>, WriteError> {
        if let Some(staging) = &core.staging {
            return Ok(staging.clone());
        }
        self.journal_begin(core)?;
        let staging = Arc::new(StagingFile::open(&self.writers.settings.staging_folder, self.id)?);
        core.staging = Some(staging.clone());
        Ok(staging)
    }

    /// Moves the open buffer that was written longest ago to the disk. Returns the bytes of memory that
    /// this frees; 0 where there is nothing to move, or the draft is being published.
    pub(super) fn stage_oldest(self: &Arc<Self>) -> Result<u64, WriteError> {
        let Ok(_gate) = self.gate.try_read() else { return Ok(0) };
        let mut core = self.core.lock();
        let oldest = core
            .parts
            .iter()
            .filter(|(index, part)| self.can_leave_memory(part, core.sending.contains_key(index)))
            .min_by_key(|(_, part)| part.generation)
            .map(|(index, _)| *index);
        let Some(index) = oldest else { return Ok(0) };
        let Some(mut part) = core.parts.remove(&index) else { return Ok(0) };
        let staged = self.stage_memory(&mut core, &mut part);
        let mut freed = 0;
        if staged.is_ok() {
            freed = match &part.memory {
                Memory::Open(open) => open.end() - open.start,
                Memory::Sealed(bytes) => bytes.len() as u64,
                Memory::None => 0,
            };
            part.memory = Memory::None;
        }
        core.parts.insert(index, part);
        staged.map(|()| freed)
    }

    fn can_leave_memory(&self, part: &Part, sending: bool) -> bool {
        match &part.memory {
            Memory::None => false,
            Memory::Open(_) => true,
            // On its way it will be let go of by itself.
            Memory::Sealed(_) => !sending && (self.is_kept_readable() || !part.is_stored()),
        }
    }

    /// fsync: afterwards what was written so far survives the end of this process and of the machine:
    /// sealed parts by the store's word, the rest in the staging file.
    pub async fn sync(self: &Arc<Self>) -> Result<(), WriteError> {
        self.make_durable(false).await
    }

    /// Write-back's close: as [`Draft::sync`], and the file is whole.
    pub async fn close_locally(self: &Arc<Self>) -> Result<(), WriteError> {
        self.make_durable(true).await
    }

    async fn make_durable(self: &Arc<Self>, closed: bool) -> Result<(), WriteError> {
        let extent = {
            let _gate = self.gate.read().await;
            let draft = self.clone();
            tokio::task::spawn_blocking(move || draft.stage_everything())
                .await
                .map_err(std::io::Error::other)??
        };
        if !closed {
            self.sent_or_failed().await?;
        }
        self.record_sealed(extent, closed)?;
        self.writers.journal.sync().await?;
        let mut core = self.core.lock();
        // Who wrote meanwhile will close it again.
        core.closed = closed && core.dirty && core.writes == extent.writes;
        Ok(())
    }

    /// Stages all that is only in memory; a part on its way to the store counts as that only for
    /// write-back, since fsync waits for it.
    fn stage_everything(&self) -> Result<Extent, WriteError> {
        let mut core = self.core.lock();
        self.fail_if_failed(&mut core)?;
        let write_back = self.writers.settings.write_back;
        let indexes: Vec<u32> = core
            .parts
            .iter()
            .filter(|(index, part)| match &part.memory {
                Memory::None => false,
                Memory::Open(_) => true,
                Memory::Sealed(_) => write_back || part.waits(core.sending.contains_key(index)),
            })
            .map(|(index, _)| *index)
            .collect();
        for index in indexes {
            let Some(mut part) = core.parts.remove(&index) else { continue };
            let staged = self.stage_memory(&mut core, &mut part);
            core.parts.insert(index, part);
            staged?;
        }
        if let Some(staging) = &core.staging {
            staging.sync()?;
        }
        Ok(Extent { len: core.len, base_len: core.base_len, writes: core.writes })
    }

    /// Waits until no part is on its way; fails if one failed.
    pub(super) async fn sent_or_failed(&self) -> Result<(), WriteError> {
        loop {
            let changed = self.changed.notified();
            {
                let core = self.core.lock();
                if let Some(error) = &core.error {
                    return Err(error.clone());
                }
                if core.sending.is_empty() {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    fn record_sealed(&self, extent: Extent, closed: bool) -> Result<(), WriteError> {
        let mut core = self.core.lock();
        self.journal_begin(&mut core)?;
        let mut records = self.parts_not_meant(&core);
        records.push(Record::DraftSealed {
            draft: self.id,
            // A cut that came meanwhile is journaled already.
            len: extent.len.min(core.len),
            base_len: extent.base_len.min(core.base_len),
            closed,
            metadata: core.options.metadata.clone(),
            content_type: core.options.content_type.clone(),
            time: SystemTime::now(),
        });
        Ok(self.writers.journal.append_all(&records)?)
    }

    /// The journal may know parts that are not this file's: of an adopted upload whose content has not
    /// come again so far, or acknowledged after they were cut off. A restored draft must not take them
    /// for its own.
    fn parts_not_meant(&self, core: &Core) -> Vec<Record> {
        let meant = |number: &u32, known: &crate::journal::Part| {
            let index = number - 1;
            let Some(part) = core.parts.get(&index) else { return false };
            let stored = part.stored.as_ref();
            stored.is_some_and(|stored| stored.len == known.len && stored.etag == known.etag())
                || core.sending.get(&index) == Some(&part.generation)
        };
        self.writers.journal.read(|state| {
            let parts = state.drafts.get(&self.id).map(|draft| &draft.parts);
            parts
                .into_iter()
                .flatten()
                .filter(|(number, part)| !meant(number, part))
                .map(|(number, _)| Record::PartDropped { draft: self.id, number: *number })
                .collect()
        })
    }

    /// Ends a draft that nobody wants: its records, its staging file, its upload. Once this has returned
    /// no crash brings it back; an upload that cannot be aborted now is dead, listed, and expires.
    pub async fn discard(self: &Arc<Self>) -> Result<(), WriteError> {
        let _gate = self.gate.write().await;
        let (staging, journaled) = {
            let mut core = self.core.lock();
            core.ended = true;
            core.parts.clear();
            core.dirty = false;
            core.closed = false;
            (core.staging.take(), std::mem::take(&mut core.journaled))
        };
        if journaled {
            self.give_up_upload().await?;
            self.writers.journal.append(Record::DraftEnded { draft: self.id })?;
        }
        if let Some(staging) = staging {
            staging.remove()?;
        }
        Ok(())
    }

    /// Parts from the draft's upload, where there is one, here or in the journal, and aborts it. The
    /// draft's own records end with that.
    pub(super) async fn give_up_upload(&self) -> Result<(), WriteError> {
        let upload = self.core.lock().upload.take();
        if let Some(orphan) = self.writers.uploads.disown(self.id)?
            && let Err(error) = self.writers.uploads.abort(orphan).await
        {
            log::warn!("{}: a dead upload stays behind for now: {error}", self.key());
        }
        if let Some(upload) = upload {
            upload.given_up().await;
        }
        Ok(())
    }
}

/// What of a file was made durable.
#[derive(Clone, Copy)]
struct Extent {
    len: u64,
    base_len: u64,
    /// The draft's count of changes then.
    writes: u64,
}

impl Drop for Draft {
    /// A draft that was not published leaves what the store and the disk have of it to be gone on with.
    fn drop(&mut self) {
        self.writers.uploads.release(self.id);
    }
}
