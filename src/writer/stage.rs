//! Keeping a draft's bytes on the local disk: under memory pressure, at fsync, and for write-back.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::draft::{Core, Draft};
use super::part::{Memory, Part, Places};
use super::{EndedStaging, WriteError};
use crate::journal::{DraftId, Record, Sealed};
use crate::range::ByteRange;
use crate::staging::StagingFile;

/// A file that is no longer than this is sealed with its content, in bytes: one write and one sync of the
/// journal, where a staging file has to be made, written, synced, its name too, and removed again.
const JOURNALED_BYTES_MAX: u64 = 64 << 10;

/// The content of a small file, for the journal.
struct SmallContent {
    bytes: Bytes,
    paid: OwnedSemaphorePermit,
}

impl Draft {
    /// Writes a range of a part's memory to the staging file and journals it.
    pub(super) fn stage_range(
        &self,
        core: &mut Core,
        part: &mut Part,
        range: ByteRange,
    ) -> Result<(), WriteError> {
        let staging = self.staging(core)?;
        let stretches = staging.append(part.memory_bytes(range))?;
        let Some(place) = stretches.first().map(|first| first.at) else { return Ok(()) };
        let records: Vec<Record> = stretches
            .iter()
            .map(|stretch| Record::Staged {
                draft: self.id,
                range: ByteRange::at(range.start() + (stretch.at - place), stretch.len),
                crc: stretch.crc,
                at: stretch.at,
            })
            .collect();
        self.writers.journal.append_all(&records)?;
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

    /// Moves all open buffers to the disk. Sealed parts stay: they are on their way, and let go of by that.
    pub(super) fn leave_memory(&self) -> Result<(), WriteError> {
        let mut core = self.core.lock();
        let open = |part: &Part| matches!(part.memory, Memory::Open(_));
        let indexes: Vec<u32> =
            core.parts.iter().filter(|(_, part)| open(part)).map(|(index, _)| *index).collect();
        for index in indexes {
            let Some(mut part) = core.parts.remove(&index) else { continue };
            let staged = self.stage_memory(&mut core, &mut part);
            if staged.is_ok() {
                part.memory = Memory::None;
            }
            core.parts.insert(index, part);
            staged?;
        }
        Ok(())
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
        if !closed {
            // What does not leave is written to the disk while the rest is on its way.
            let _gate = self.gate.read().await;
            self.blocking(|draft| draft.stage_ahead_of_seal()).await?;
        }
        if !closed {
            self.sent_or_failed().await?;
        }
        let _gate = self.gate.read().await;
        self.seal_content(closed).await
    }

    /// Makes the file as it stands what a crash brings back. Holds the gate.
    pub(super) async fn seal_content(self: &Arc<Self>, closed: bool) -> Result<(), WriteError> {
        self.seal_durably(closed).await?;
        self.core.lock().close_if(closed);
        Ok(())
    }

    /// Holds the gate, so that no publish comes between the look and the seal. A file that was published while the gate
    /// was waited for is not sealed: its draft is over, and the journal would bring it back over whatever the name
    /// has by then.
    async fn seal_durably(self: &Arc<Self>, closed: bool) -> Result<(), WriteError> {
        if !self.is_dirty() {
            return Ok(());
        }
        let in_vain = match self.seal_small(closed)? {
            true => Vec::new(),
            false => self.blocking(move |draft| draft.seal_now(closed)).await?,
        };
        self.writers.journal.sync().await?;
        // Not before: what was sealed before has its bytes there.
        if let Some(staging) = &self.core.lock().staging {
            in_vain.iter().for_each(|places| staging.free_all(places));
        }
        Ok(())
    }

    /// This file is about to take the place of another: if a crash would bring that one back, it brings this
    /// one back instead, as it stands.
    pub async fn stand_in_for(self: &Arc<Self>, replaced: &Draft) -> Result<(), WriteError> {
        let sealed = |draft: DraftId| {
            self.writers.journal.read(|state| {
                state.drafts.get(&draft).and_then(|draft| Some(draft.sealed.as_ref()?.closed))
            })
        };
        let Some(closed) = sealed(replaced.id).filter(|_| !self.builds_on_another()) else {
            return Ok(());
        };
        if sealed(self.id).is_some_and(|stands| stands || !closed) {
            return Ok(());
        }
        let _gate = self.gate.read().await;
        self.seal_durably(closed).await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Draft) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, WriteError> {
        let draft = self.clone();
        tokio::task::spawn_blocking(move || work(&draft)).await.map_err(std::io::Error::other)?
    }

    /// [`Draft::seal_now`] of a small file, which is one short write of the journal; `false` where it is none.
    fn seal_small(&self, closed: bool) -> Result<bool, WriteError> {
        let mut core = self.core.lock();
        self.fail_if_failed(&mut core)?;
        let Some(content) = self.small_content(&core) else { return Ok(false) };
        let bytes = content.bytes.clone();
        self.record_sealed(&mut core, closed, Some(content))?;
        core.sealed_at = Some(core.writes);
        if closed && let Some(part) = core.parts.get_mut(&0) {
            // It may wait for long, and the journal has paid for these bytes: one copy is enough.
            part.memory = Memory::Sealed(bytes);
        }
        Ok(true)
    }

    /// All at once, so that what comes back is one version, whatever others write meanwhile. Returns the places
    /// in the staging file that are not meant any more.
    fn seal_now(&self, closed: bool) -> Result<Vec<Places>, WriteError> {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        self.fail_if_failed(core)?;
        self.stage_everything(core, true)?;
        let in_vain = self.record_sealed(core, closed, None)?;
        core.sealed_at = Some(core.writes);
        if closed && core.len <= JOURNALED_BYTES_MAX {
            // It may wait for long, in a buffer that is mostly empty. The disk has it all.
            core.parts.values_mut().for_each(|part| part.memory = Memory::None);
        }
        if closed && let Some(staging) = &core.staging {
            staging.rest();
        }
        Ok(in_vain)
    }

    /// What a seal will need on the disk, and is not on its way to the store.
    fn stage_ahead_of_seal(&self) -> Result<(), WriteError> {
        let mut core = self.core.lock();
        self.fail_if_failed(&mut core)?;
        if self.is_small(&core) { Ok(()) } else { self.stage_everything(&mut core, false) }
    }

    /// Whether the file is small, and all in memory. What is sealed once more is not: the staging file takes
    /// what is new of it.
    fn is_small(&self, core: &Core) -> bool {
        let whole = ByteRange::new(0, core.len);
        let is_elsewhere = core.staging.is_some() || core.upload.is_some() || core.holds_parts();
        (1..=JOURNALED_BYTES_MAX).contains(&core.len)
            && !is_elsewhere
            && core.journaled_content.is_none()
            && core.parts.get(&0).is_some_and(|part| part.in_memory().contains(whole))
    }

    /// The content of a small file, unless the journal has its share of memory, or no room.
    fn small_content(&self, core: &Core) -> Option<SmallContent> {
        if !self.is_small(core) || !self.writers.journal.has_room() {
            return None;
        }
        let part = core.parts.get(&0)?;
        let share = self.writers.journaled_content.clone();
        let paid = share.try_acquire_many_owned(core.len as u32).ok()?;
        let bytes = Bytes::copy_from_slice(part.memory_bytes(ByteRange::new(0, core.len)));
        Some(SmallContent { bytes, paid })
    }

    /// Stages all that is only in memory. `on_its_way` says whether a part on its way to the store counts
    /// as that; under write-back it does in any case, and so does what has arrived: the store may forget.
    fn stage_everything(&self, core: &mut Core, on_its_way: bool) -> Result<(), WriteError> {
        let write_back = self.writers.settings.write_back;
        let indexes: Vec<u32> = core
            .parts
            .iter()
            .filter(|(index, part)| match &part.memory {
                Memory::None => false,
                Memory::Open(_) => true,
                Memory::Sealed(_) => {
                    let sending = !on_its_way && core.sending.contains_key(index);
                    write_back || part.waits(sending)
                }
            })
            .map(|(index, _)| *index)
            .collect();
        for index in indexes {
            let Some(mut part) = core.parts.remove(&index) else { continue };
            let staged = self.stage_memory(core, &mut part);
            core.parts.insert(index, part);
            staged?;
        }
        if let Some(staging) = &core.staging {
            staging.sync()?;
        }
        Ok(())
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

    fn record_sealed(
        &self,
        core: &mut Core,
        closed: bool,
        content: Option<SmallContent>,
    ) -> Result<Vec<Places>, WriteError> {
        self.journal_begin(core)?;
        let mut records = self.parts_not_meant(core);
        let (in_vain, places) = self.staged_in_vain(core);
        records.extend(in_vain);
        // Who closed the file was promised that it needs nobody any more.
        let closed_before = self.writers.journal.read(|state| {
            let sealed = state.drafts.get(&self.id).and_then(|draft| draft.sealed.as_ref());
            sealed.is_some_and(|sealed| sealed.closed)
        });
        let sealed = Sealed {
            len: core.len,
            base_len: core.base_len,
            closed: closed || closed_before,
            metadata: core.options.metadata.clone(),
            content_type: core.options.content_type.clone(),
            carried: core.options.carried.clone(),
            time: SystemTime::now(),
            content: content.as_ref().map(|content| content.bytes.clone()),
        };
        records.extend(sealed.records(self.id));
        self.writers.journal.append_all(&records)?;
        core.journaled_content = content.map(|content| content.paid);
        Ok(places)
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
        let (staging, journaled, was_sealed) = {
            let mut core = self.core.lock();
            let was_sealed = core.sealed_at.is_some() || core.nameless;
            core.ended = true;
            core.parts.clear();
            core.dirty = false;
            core.closed = false;
            (core.staging.take(), std::mem::take(&mut core.journaled), was_sealed)
        };
        if journaled {
            self.give_up_upload().await?;
            self.writers.journal.append(Record::DraftEnded { draft: self.id })?;
        }
        self.writers
            .remove_staging(staging.map(|staging| EndedStaging { staging, was_sealed }))
            .await;
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

impl Core {
    /// Whether memory has bytes that only staging would take from there.
    pub(super) fn has_open_buffers(&self) -> bool {
        self.parts.values().any(|part| matches!(part.memory, Memory::Open(_)))
    }

    /// Write-back: its writer has closed it, and nobody has written since.
    fn close_if(&mut self, closed: bool) {
        self.closed = closed && self.dirty && self.sealed_at == Some(self.writes);
    }
}

impl Drop for Draft {
    /// A draft that was not published leaves what the store and the disk have of it to be gone on with.
    fn drop(&mut self) {
        if let Some(paid) = self.core.get_mut().journaled_content.take()
            && self.writers.journal.read(|state| state.drafts.contains_key(&self.id))
        {
            // The journal still holds it.
            paid.forget();
        }
        self.count_stored(0);
        self.count_sending(0);
        self.writers.unregister(self.id);
        self.writers.uploads.release(self.id);
    }
}
