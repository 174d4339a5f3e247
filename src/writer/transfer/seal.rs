//! What a crash brings back: fsync, and write-back's close.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::clock;
use crate::journal::{Event, Record, Sealed};
use crate::range::ByteRange;
use crate::writer::content::stage::Then;
use crate::writer::error::WriteError;
use crate::writer::state::{Core, Draft, LastSeal, Memory, Places};

/// A file that is no longer than this is sealed with its content, in bytes: one write and one sync of the
/// journal, where a staging file has to be made, written, synced, its name too, and removed again.
const JOURNALED_BYTES_MAX: u64 = 64 << 10;

/// The content of a small file, for the journal.
struct SmallContent {
    bytes: Bytes,
    paid: OwnedSemaphorePermit,
}

impl Draft {
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
            // What does not leave is written to the disk while the rest is on its way, and while others write.
            self.stage_ahead_of_seal().await?;
            self.sent_or_failed().await?;
        }
        let gate = self.gate.write().await;
        let sealed = self.seal_file(closed).await?;
        // What is written from now on is not of this version.
        let _gate = gate.downgrade();
        self.sync_seal(sealed).await?;
        if closed {
            self.core.lock().was_told();
        }
        Ok(())
    }

    /// Makes the file, which is being published, what a crash brings back.
    pub(in crate::writer) async fn seal_standing(self: &Arc<Self>) -> Result<(), WriteError> {
        let sealed = self.seal_file(false).await?;
        self.sync_seal(sealed).await
    }

    /// Records what the file is. Holds the gate for writing: what comes back is one version. The gate is held, for
    /// reading at least, until [`Draft::sync_seal`] has returned, so that no publish comes between. A file that was
    /// published while the gate was waited for is not sealed: its draft is over, and the journal would bring it back
    /// over whatever the name has by then.
    ///
    /// Returns the places in the staging file that are not meant any more; `None` where nothing was sealed.
    async fn seal_file(self: &Arc<Self>, closed: bool) -> Result<Option<Vec<Places>>, WriteError> {
        self.verified().await?;
        {
            let core = self.core.lock();
            if !core.life.is_changed() || core.life.is_unnamed() {
                return Ok(None);
            }
        }
        if self.seal_small(closed)? {
            return Ok(Some(Vec::new()));
        }
        loop {
            let changed = self.changed.notified();
            let sealed = self.blocking(move |draft| draft.seal_staged(closed)).await?;
            if sealed.is_some() {
                return Ok(sealed);
            }
            changed.await;
        }
    }

    async fn sync_seal(&self, in_vain: Option<Vec<Places>>) -> Result<(), WriteError> {
        let Some(in_vain) = in_vain else { return Ok(()) };
        self.writers.journal.sync().await?;
        // Not before: what was sealed before has its bytes there.
        self.give_back(in_vain);
        Ok(())
    }

    /// Whether a crash brings it back, and if so, whether to publish it.
    fn promise(&self) -> Option<bool> {
        let core = self.core.lock();
        core.life.sealed().map(|_| core.life.is_closed())
    }

    /// This file is about to take the place of another: if a crash would bring that one back, it brings this
    /// one back instead, as it stands.
    pub async fn stand_in_for(self: &Arc<Self>, replaced: &Draft) -> Result<(), WriteError> {
        let Some(closed) = replaced.promise().filter(|_| !self.builds_on_another()) else {
            return Ok(());
        };
        if self.promise().is_some_and(|stands| stands || !closed) {
            return Ok(());
        }
        let gate = self.gate.write().await;
        let sealed = self.seal_file(closed).await?;
        let _gate = gate.downgrade();
        self.sync_seal(sealed).await
    }

    /// [`Draft::seal_file`] of a small file, which is one short write of the journal; `false` where it is none.
    fn seal_small(&self, closed: bool) -> Result<bool, WriteError> {
        let mut core = self.core.lock();
        self.fail_if_failed(&mut core)?;
        let Some(content) = self.small_content(&core).filter(|_| !core.life.is_unnamed()) else {
            return Ok(false);
        };
        let bytes = content.bytes.clone();
        self.record_sealed(&mut core, closed, Some(content))?;
        if closed && let Some(part) = core.content.parts.get_mut(&0) {
            // It may wait for long, and the journal has paid for these bytes: one copy is enough.
            part.memory = Memory::Sealed(bytes);
        }
        Ok(true)
    }

    /// [`Draft::seal_file`] of a file that is in the staging file, in the store and in the base. `None` where others are staging
    /// a part of it. Blocks.
    fn seal_staged(&self, closed: bool) -> Result<Option<Vec<Places>>, WriteError> {
        loop {
            let only_in_memory = {
                let mut core = self.core.lock();
                self.fail_if_failed(&mut core)?;
                self.only_in_memory(&core, true)
            };
            if !self.stage_parts(only_in_memory, Then::Stay)?.is_empty() {
                return Ok(None);
            }
            self.sync_staging()?;
            let mut core = self.core.lock();
            let is_synced = core.staging.as_ref().is_none_or(|staging| staging.is_synced());
            // Of what the store had it may have lost parts meanwhile.
            if !is_synced || !self.only_in_memory(&core, true).is_empty() {
                continue;
            }
            if core.life.is_unnamed() {
                // Meanwhile. Nothing of it is to come back.
                return Ok(Some(Vec::new()));
            }
            let in_vain = self.record_sealed(&mut core, closed, None)?;
            if closed && core.content.len <= JOURNALED_BYTES_MAX {
                // It may wait for long, in a buffer that is mostly empty. The disk has it all.
                core.content.parts.values_mut().for_each(|part| part.memory = Memory::None);
            }
            let staging = core.staging.clone().filter(|_| closed);
            drop(core);
            staging.inspect(|staging| staging.rest());
            return Ok(Some(in_vain));
        }
    }

    /// What a seal will need on the disk, and is not on its way to the store.
    async fn stage_ahead_of_seal(self: &Arc<Self>) -> Result<(), WriteError> {
        let _gate = self.gate.read().await;
        let only_in_memory = {
            let mut core = self.core.lock();
            self.fail_if_failed(&mut core)?;
            if self.is_small(&core) {
                return Ok(());
            }
            self.only_in_memory(&core, false)
        };
        self.stage(only_in_memory, Then::Stay).await?;
        self.blocking(Draft::sync_staging).await
    }

    /// Whether the file is small, and all in memory. What is sealed once more is not: the staging file takes
    /// what is new of it.
    fn is_small(&self, core: &Core) -> bool {
        let whole = ByteRange::new(0, core.content.len);
        let is_staged = core.staging.as_ref().is_some_and(|staging| staging.is_made());
        let is_elsewhere = is_staged || core.upload.is_some() || core.content.holds_parts();
        (1..=JOURNALED_BYTES_MAX).contains(&core.content.len)
            && !is_elsewhere
            && core.life.sealed().is_none_or(|seal| seal.paid.is_none())
            && core.content.parts.get(&0).is_some_and(|part| part.in_memory().contains(whole))
    }

    /// The content of a small file, unless the journal has its share of memory, or no room.
    fn small_content(&self, core: &Core) -> Option<SmallContent> {
        if !self.is_small(core) || !self.writers.journal.has_room() {
            return None;
        }
        let part = core.content.parts.get(&0)?;
        let share = self.writers.journaled_content.clone();
        let paid = share.try_acquire_many_owned(core.content.len as u32).ok()?;
        let bytes = Bytes::copy_from_slice(part.memory_bytes(ByteRange::new(0, core.content.len)));
        Some(SmallContent { bytes, paid })
    }

    /// The parts of which something is only in memory. `on_its_way` says whether a part on its way to the store counts
    /// as that; under write-back it does in any case, and so does what has arrived: the store may forget.
    fn only_in_memory(&self, core: &Core, on_its_way: bool) -> Vec<u32> {
        let write_back = self.writers.settings.write_back;
        let needed = core.content.parts.iter().filter(|(index, part)| match &part.memory {
            Memory::None => false,
            Memory::Open(_) => true,
            Memory::Sealed(_) => {
                let sending = !on_its_way && core.sending.contains_key(index);
                write_back || part.waits(sending)
            }
        });
        let unstaged = needed.filter(|(_, part)| !part.unstaged().is_empty());
        unstaged.map(|(index, _)| *index).collect()
    }

    /// Waits until no part is on its way; fails if one failed.
    pub(in crate::writer) async fn sent_or_failed(&self) -> Result<(), WriteError> {
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
        let closed = closed || core.life.is_closed();
        let sealed = Sealed {
            len: core.content.len,
            base_len: core.content.base_len,
            metadata: core.options.metadata.clone(),
            content_type: core.options.content_type.clone(),
            carried: core.options.carried.clone(),
            time: clock::wall(),
            content: content.as_ref().map(|content| content.bytes.clone()),
        };
        records.extend(sealed.records(self.id, closed));
        self.writers.journal.append_all(&records)?;
        let paid = content.map(|content| content.paid);
        let seal = LastSeal { at: core.content.writes, told: core.is_closed(), paid };
        core.life.apply(Event::Sealed { seal, closed });
        Ok(places)
    }

    /// The journal may know parts that are not this file's: of an adopted upload whose content has not
    /// come again so far, or acknowledged after they were cut off. A restored draft must not take them
    /// for its own.
    fn parts_not_meant(&self, core: &Core) -> Vec<Record> {
        let meant = |number: &u32, known: &crate::journal::Part| {
            let index = number - 1;
            let Some(part) = core.content.parts.get(&index) else { return false };
            let stored = part.stored.as_ref();
            stored.is_some_and(|stored| stored.len == known.len && stored.etag == known.etag())
                || core.sending.get(&index) == Some(&part.generation)
        };
        self.writers.journal.read(|state| {
            let parts = state.drafts.get(&self.id).map(|draft| draft.parts.iter());
            parts
                .into_iter()
                .flatten()
                .filter(|(number, part)| !meant(number, part))
                .map(|(number, _)| Record::PartDropped { draft: self.id, number: *number })
                .collect()
        })
    }
}

impl Core {
    /// Write-back: its writer is told that it is safe. If nobody has written since, that goes for all of it.
    fn was_told(&mut self) {
        let writes = self.content.writes;
        if let Some(seal) = self.life.sealed_mut().filter(|seal| seal.at == writes) {
            seal.told = true;
        }
    }
}
