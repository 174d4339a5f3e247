//! What a draft is called, what its object will carry, and what it modifies, as all that changes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::WriteError;
use super::state::{Base, Core, Draft, Still};
use crate::journal::{BaseVersion, Event, Record, Sealed};
use crate::store::{ETag, Key, WriteOptions};

impl Draft {
    /// Gives the draft another key; `false` where an upload under the old one is open, which cannot move.
    /// `replaced` is the draft of the file that had this key: in the same moment it has lost it.
    pub fn rename(&self, key: &Key, replaced: Option<&Draft>) -> Result<bool, WriteError> {
        let mut core = self.core.lock();
        if self.has_begun_with(&core) {
            return Ok(false);
        }
        let replaced = replaced.map(|replaced| replaced.id);
        if core.life.is_recorded() {
            let (draft, key) = (self.id, key.clone());
            self.writers.journal.append(Record::DraftMoved { draft, key, replaced })?;
        } else if let Some(draft) = replaced {
            self.writers.journal.append(Record::DraftUnnamed { draft })?;
        }
        core.key = key.clone();
        // It was new under its old name; what stands under this one is to be replaced.
        core.exclusive = false;
        Ok(true)
    }

    /// The file is about to have another key: from now on, and until the guard is dropped, no upload is begun
    /// under this one but by a publish.
    pub fn stand_still(self: &Arc<Self>) -> Still {
        let _core = self.core.lock();
        self.still.fetch_add(1, Ordering::Relaxed);
        Still { draft: self.clone() }
    }

    /// Whether the store has a part in it beside what it modifies, an upload under its key or bytes of another
    /// object: only as an object of its own can that be moved.
    pub fn has_begun(&self) -> bool {
        self.has_begun_with(&self.core.lock())
    }

    fn has_begun_with(&self, core: &Core) -> bool {
        let known_to_the_journal = || {
            self.writers.journal.read(|state| {
                state.drafts.get(&self.id).is_some_and(|draft| draft.upload.is_some())
            })
        };
        core.upload.is_some()
            || !core.sending.is_empty()
            || core.builds_on_another()
            || known_to_the_journal()
    }

    /// The file has another key, by a rename of itself or of what is above it, or its object was copied in its place:
    /// `copied` tells what a version has become by that. Returns what the journal has to be told.
    pub fn follow(&self, key: &Key, copied: impl Fn(&ETag) -> ETag) -> Option<Record> {
        let mut core = self.core.lock();
        let old = std::mem::replace(&mut core.key, key.clone());
        if let Some(base) = core.content.base.as_mut().filter(|base| base.key == old) {
            // Another version than was copied keeps its ETag, so that nothing is published over what is there.
            let etag = copied(&base.etag);
            let object = self.writers.cache.object(key, &etag, base.len);
            *base = Base { key: key.clone(), etag, len: base.len, object };
        }
        let base = core.content.base.as_ref();
        let base = base.map(|base| BaseVersion { etag: base.etag.clone(), len: base.len });
        core.life.is_recorded().then(|| Record::DraftFollowed {
            draft: self.id,
            key: key.clone(),
            base,
        })
    }

    /// The version that it modifies is read from another place: the file is losing its name, or has it back. A crash
    /// needs none of it.
    pub fn read_base_from(&self, old: &ETag, place: Base) {
        let mut core = self.core.lock();
        if core.content.base.as_ref().is_some_and(|base| base.etag == *old) {
            core.content.base = Some(place);
        }
    }

    /// The file has lost its name: nothing of it may appear in the store, also not after a crash, whatever
    /// was synced of it. Its upload stays known, so that it can be aborted.
    pub fn forbid_publishing(&self) -> Result<(), WriteError> {
        let mut core = self.core.lock();
        core.life.apply(Event::Unnamed);
        self.keep_readable();
        if core.life.is_recorded() {
            self.writers.journal.append(Record::DraftUnnamed { draft: self.id })?;
        }
        Ok(())
    }

    /// Publishing fails if somebody else has created the key meanwhile.
    pub fn must_be_new(&self) {
        self.core.lock().exclusive = true;
    }

    /// Metadata for the object. An upload that is open already keeps what it was begun with.
    pub fn set_options(&self, options: WriteOptions) {
        self.core.lock().options = options;
    }

    /// As [`Draft::set_options`], by a program: a file that is closed and safe here keeps them in a crash.
    pub fn change_options(&self, options: WriteOptions) -> Result<(), WriteError> {
        let mut core = self.core.lock();
        core.options = options;
        if !core.is_closed() {
            return Ok(());
        }
        let known = self.writers.journal.read(|state| {
            let draft = state.drafts.get(&self.id)?;
            Some((draft.sealed()?.clone(), draft.life.is_closed(), draft.failed.clone()))
        });
        let Some((sealed, closed, failed)) = known else { return Ok(()) };
        let sealed = Sealed {
            metadata: core.options.metadata.clone(),
            content_type: core.options.content_type.clone(),
            carried: core.options.carried.clone(),
            ..sealed
        };
        let mut records: Vec<Record> = sealed.records(self.id, closed).collect();
        // A seal clears the cause of a refusal, which stands.
        records.extend(failed.map(|cause| Record::DraftFailed { draft: self.id, cause }));
        Ok(self.writers.journal.append_all(&records)?)
    }
}
