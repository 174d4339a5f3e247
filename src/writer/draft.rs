//! What a file system does with a draft, one method each. The modules beside it do the work.

use std::sync::Arc;

use super::content::readback::{Use, read_once};
use super::content::verify;
use super::edits::{self, Seek};
use super::error::WriteError;
use super::parked::WriteBytes;
use super::publish;
use super::records::Recording;
use super::restore;
use super::state::{Base, Draft, DraftProgress, DraftState, EndedStaging, Published, Writers};
use super::transfer::seal;
use super::transfer::send::{Still, give_up_upload};
use crate::journal::{BaseVersion, Draft as JournaledDraft, DraftId, Event, Record, Sealed};
use crate::range::ByteRange;
use crate::store::{ETag, Key, Mark, WriteOptions};

/// Its bytes.
impl Draft {
    /// The draft as it was when it was last synced or closed.
    ///
    /// # Errors
    /// `Lost` where it never was; those of its staging file.
    pub fn restore(
        writers: &Arc<Writers>,
        id: DraftId,
        journaled: &JournaledDraft,
        base: Option<Base>,
    ) -> Result<Arc<Draft>, WriteError> {
        restore::restore(writers, id, journaled, base)
    }

    /// Waits until what an earlier process has staged of it was compared with its checksums: see [`verify`].
    ///
    /// # Errors
    /// Damage, or what keeps the disk from being read.
    pub async fn verified(self: &Arc<Self>) -> Result<(), WriteError> {
        verify::verified(self).await
    }

    /// Copies `bytes` to `offset` as far as that goes without waiting, and tells how many it took.
    ///
    /// # Errors
    /// The draft's first failure, as of all that follow.
    pub fn write_now(self: &Arc<Self>, offset: u64, bytes: &[u8]) -> Result<usize, WriteError> {
        edits::write_now(self, offset, bytes)
    }

    /// Writes all of `bytes` at `offset`, waiting for memory where there is none.
    pub async fn write(
        self: &Arc<Self>,
        offset: u64,
        bytes: &(impl WriteBytes + ?Sized),
    ) -> Result<(), WriteError> {
        edits::write(self, offset, bytes).await
    }

    /// Sets the file's length: what lies behind is gone, what is new reads as zeros.
    pub async fn truncate(self: &Arc<Self>, len: u64) -> Result<(), WriteError> {
        edits::truncate(self, len).await
    }

    /// Grows the file to `len` bytes by a hole; one that is longer stays as it is.
    pub async fn extend(self: &Arc<Self>, len: u64) -> Result<(), WriteError> {
        edits::extend(self, len).await
    }

    /// Makes what the file has of `range` read as zeros.
    pub async fn zero(self: &Arc<Self>, range: ByteRange) -> Result<(), WriteError> {
        edits::zero(self, range).await
    }

    /// lseek(2) from `offset`: the next byte that is data, or a hole (the end of the file is one). `None` where
    /// there is none, and behind the end.
    pub fn seek(&self, offset: u64, what: Seek) -> Option<u64> {
        edits::seek(self, offset, what)
    }

    /// Appends `range` of `source` at the same place of this file, without a byte of it moving: the store copies it
    /// when the draft is published. `false` where the draft has other content already, and nothing was done.
    pub async fn append_from(&self, source: &Base, range: ByteRange) -> Result<bool, WriteError> {
        edits::append_from(self, source, range).await
    }

    /// Undoes [`Draft::append_from`]: the file is empty again.
    pub async fn forget_appended(&self) {
        edits::forget_appended(self).await;
    }

    /// The bytes of `range`, cut at the end of the file.
    pub async fn read(self: &Arc<Self>, range: ByteRange) -> Result<Vec<u8>, WriteError> {
        self.state.lock().content.is_readable = true;
        self.verified().await?;
        loop {
            let base = self.base();
            match read_once(self, range, Use::Shown).await {
                Ok(Some(bytes)) => return Ok(bytes),
                // Only the store has some of it, in parts that cannot be read: make it an object.
                Ok(None) => {
                    publish::publish_as_is(self).await?;
                    if self.base() == base && !self.is_dirty() {
                        return Err(WriteError::Lost);
                    }
                }
                Err(error) => {
                    if self.base() == base {
                        // It is this draft that may just have replaced its base: a publish holds the gate.
                        drop(self.gate.read().await);
                    }
                    let is_stale = matches!(error, WriteError::Stale);
                    if self.base() == base
                        && !(is_stale && publish::was_replaced_by_itself(self).await?)
                    {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn base(&self) -> Option<(Key, ETag)> {
        let state = self.state.lock();
        state.content.base.as_ref().map(|base| (base.key.clone(), base.etag.clone()))
    }
}

/// How far it has come.
impl Draft {
    /// fsync: afterwards what was written so far survives the end of this process and of the machine:
    /// sealed parts by the store's word, the rest in the staging file.
    pub async fn sync(self: &Arc<Self>) -> Result<(), WriteError> {
        seal::make_durable(self, false).await
    }

    /// Write-back's close: as [`Draft::sync`], and the file is whole.
    pub async fn close_locally(self: &Arc<Self>) -> Result<(), WriteError> {
        seal::make_durable(self, true).await
    }

    /// This file is about to take the place of another: if a crash would bring that one back, it brings this
    /// one back instead, as it stands.
    pub async fn stand_in_for(self: &Arc<Self>, replaced: &Draft) -> Result<(), WriteError> {
        seal::stand_in_for(self, replaced).await
    }

    /// Publishes everything. `None` where there is nothing to publish, and nothing was since this was last called.
    pub async fn publish(self: &Arc<Self>) -> Result<Option<Published>, WriteError> {
        while self.is_dirty() {
            publish::publish_as_is(self).await?;
        }
        Ok(self.take_published())
    }

    /// Ends a draft that is not wanted any more: its records, its staging file, its upload. Once this has returned
    /// no crash brings it back; an upload that cannot be aborted now is interrupted, listed, and expires.
    pub async fn discard(self: &Arc<Self>) -> Result<(), WriteError> {
        let _gate = self.gate.write().await;
        let (ended, is_recorded) = {
            let recording = Recording::of(self);
            let mut state = recording.state();
            let was_sealed = state.life.sealed().is_some() || state.life.is_unlinked();
            let is_recorded = state.life.is_recorded();
            state.life.apply(Event::Discarded);
            state.content.parts.clear();
            let staging = state.content.staging.take();
            (staging.map(|staging| EndedStaging { staging, was_sealed }), is_recorded)
        };
        if is_recorded {
            // One that is being opened in the background, from before the file had ended, is given up too.
            let _opened = self.opening.lock().await;
            give_up_upload(self).await?;
            Recording::of(self).append(&[Record::DraftEnded { draft: self.id }])?;
        }
        self.writers.remove_staging(ended).await;
        Ok(())
    }

    /// The object that the draft has become since this was last asked, though it be of a while ago.
    pub fn take_published(&self) -> Option<Published> {
        self.state.lock().published.take()
    }

    /// Marks the draft as worth publishing though nothing was written: a new, empty file.
    pub fn mark_dirty(&self) {
        self.state.lock().life.apply(Event::Changed);
    }

    /// Whether the file is just what this version of its object is.
    pub fn stands_on(&self, etag: &ETag) -> bool {
        let state = self.state.lock();
        let base = state.content.base.as_ref();
        !state.life.is_changed() && base.is_some_and(|base| base.etag == *etag)
    }

    /// Write-back: safe on the disk as it is, and waiting for its upload.
    pub fn is_closed(&self) -> bool {
        self.state.lock().is_closed()
    }

    /// Whether it shows bytes of another key's object: only a publish makes that durable.
    pub fn builds_on_another(&self) -> bool {
        self.state.lock().builds_on_another()
    }

    /// Whether bytes of it are in the store alone, in parts of its upload.
    pub fn needs_the_store(&self) -> bool {
        self.state.lock().content.needs_the_store()
    }

    /// Whether the store has a part in it beside what it modifies, an upload under its key or bytes of another
    /// object: only as an object of its own can that be moved.
    pub fn has_begun(&self) -> bool {
        self.has_begun_with(&self.state.lock())
    }

    fn has_begun_with(&self, state: &DraftState) -> bool {
        let known_to_the_journal = || {
            self.writers.journal.read(|journaled| {
                journaled.drafts.get(&self.id).is_some_and(|draft| draft.upload.is_some())
            })
        };
        state.transfer.upload.is_some()
            || !state.transfer.sending.is_empty()
            || state.builds_on_another()
            || known_to_the_journal()
    }

    /// Forgets a failure that may pass, so that publishing can be tried again.
    pub fn forget_passing_error(&self) {
        let mut state = self.state.lock();
        if state.error.as_ref().is_some_and(WriteError::is_passing) {
            state.error = None;
        }
    }

    /// Forgets any failure: its cause is said to be gone.
    pub fn forget_error(&self) {
        self.state.lock().error = None;
    }

    pub fn progress(&self) -> DraftProgress {
        let state = self.state.lock();
        let (content, transfer) = (&state.content, &state.transfer);
        let stored = content.parts.values().filter_map(|part| part.stored.as_ref());
        DraftProgress {
            id: self.id,
            parts_stored: stored.clone().count() as u32,
            parts_sending: transfer.sending.len() as u32,
            parts_resumed: transfer.upload.as_ref().map_or(0, |upload| upload.parts_resumed()),
            key: state.key.clone(),
            len: content.len,
            stored_bytes: stored.map(|stored| stored.len).sum(),
            closed: state.is_closed(),
            error: state.error.as_ref().map(ToString::to_string),
        }
    }
}

/// What it is called, what its object will carry, and what it modifies.
impl Draft {
    /// Gives the draft another key; `false` where an upload under the old one is open, which cannot move. It stands
    /// still ([`Draft::stand_still`]) meanwhile. `replaced` is the draft of the file that had this key: in the same moment
    /// it has lost it.
    pub fn rename(&self, key: &Key, replaced: Option<&Draft>) -> Result<bool, WriteError> {
        let recording = Recording::of(self);
        let is_recorded = {
            let state = recording.state();
            if self.has_begun_with(&state) {
                return Ok(false);
            }
            state.life.is_recorded()
        };
        let replaced = replaced.map(|replaced| replaced.id);
        let moved = match (is_recorded, replaced) {
            (true, _) => Some(Record::DraftMoved { draft: self.id, key: key.clone(), replaced }),
            (false, Some(draft)) => Some(Record::DraftUnlinked { draft }),
            (false, None) => None,
        };
        recording.append(moved.as_slice())?;
        let mut state = recording.state();
        state.key = key.clone();
        // It was new under its old name; what stands under this one is to be replaced.
        state.exclusive = false;
        Ok(true)
    }

    /// The file is about to have another key: from now on, and until the guard is dropped, no upload is begun
    /// under this one but by a publish.
    pub fn stand_still(self: &Arc<Self>) -> Still {
        Still::of(self)
    }

    /// The file has another key, by a rename of itself or of what is above it, or its object was copied in its place:
    /// `copied` tells what a version has become by that. Returns what the journal has to be told.
    pub fn follow(&self, key: &Key, copied: impl Fn(&ETag) -> ETag) -> Option<Record> {
        let recording = Recording::of(self);
        let mut state = recording.state();
        let old = std::mem::replace(&mut state.key, key.clone());
        if let Some(base) = state.content.base.as_mut().filter(|base| base.key == old) {
            // Another version than was copied keeps its ETag, so that nothing is published over what is there.
            let etag = copied(&base.etag);
            let object = self.writers.cache.object(key, &etag, base.len);
            *base = Base { key: key.clone(), etag, len: base.len, object };
        }
        let base = state.content.base.as_ref();
        let base = base.map(|base| BaseVersion { etag: base.etag.clone(), len: base.len });
        let followed = Record::DraftFollowed { draft: self.id, key: key.clone(), base };
        state.life.is_recorded().then_some(followed)
    }

    /// The version that it modifies is read from another place: the file is losing its name, or has it back. A crash
    /// needs none of it.
    pub fn read_base_from(&self, old: &ETag, place: Base) {
        let mut state = self.state.lock();
        if state.content.base.as_ref().is_some_and(|base| base.etag == *old) {
            state.content.base = Some(place);
        }
    }

    /// The file was unlinked: nothing of it may appear in the store, also not after a crash, whatever
    /// was synced of it. Its upload stays known, so that it can be aborted.
    pub fn forbid_publishing(&self) -> Result<(), WriteError> {
        let recording = Recording::of(self);
        let is_recorded = {
            let mut state = recording.state();
            state.life.apply(Event::Unlinked);
            state.content.is_readable = true;
            state.life.is_recorded()
        };
        let unlinked = Record::DraftUnlinked { draft: self.id };
        Ok(recording.append(is_recorded.then_some(unlinked).as_slice())?)
    }

    /// By what the object is known that the store may have made of it without an answer: the marks of its PUTs, and of
    /// its upload, where that was to be completed.
    pub fn unheard_of(&self) -> Vec<Mark> {
        let state = self.state.lock();
        let completing = state.transfer.unsettled.as_ref();
        let completing = completing.and_then(|completing| Mark::of(&completing.metadata));
        state.transfer.puts.iter().map(|put| put.mark.clone()).chain(completing).collect()
    }

    /// Publishing fails if another client has created the key meanwhile.
    pub fn must_be_new(&self) {
        self.state.lock().exclusive = true;
    }

    /// Metadata for the object. An upload that is open already keeps what it was begun with.
    pub fn set_options(&self, options: WriteOptions) {
        self.state.lock().options = options;
    }

    /// As [`Draft::set_options`], by a program: a file that is closed and safe here keeps them in a crash.
    pub fn change_options(&self, options: WriteOptions) -> Result<(), WriteError> {
        let recording = Recording::of(self);
        {
            let mut state = recording.state();
            state.options = options.clone();
            if !state.is_closed() {
                return Ok(());
            }
        }
        let known = self.writers.journal.read(|journaled| {
            let draft = journaled.drafts.get(&self.id)?;
            Some((draft.sealed()?.clone(), draft.life.is_closed(), draft.failed.clone()))
        });
        let Some((sealed, closed, failed)) = known else { return Ok(()) };
        let WriteOptions { metadata, content_type, carried } = options;
        let sealed = Sealed { metadata, content_type, carried, ..sealed };
        let mut records: Vec<Record> = sealed.records(self.id, closed).collect();
        // A seal clears the cause of a refusal, which stands.
        records.extend(failed.map(|cause| Record::DraftFailed { draft: self.id, cause }));
        Ok(recording.append(&records)?)
    }
}
