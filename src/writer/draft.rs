//! The draft itself: its state, its name, its end. The rooms around it move the bytes: `fill` takes them
//! in, `readback` gives them out, `send` brings parts to the store while the writer goes on.
//!
//! Locks, in order: `gate` (async), then `core`, then the journal's. `core` is never held across an
//! await. Every change of content holds the gate's read side, so that a publish, which holds its write
//! side, sees a file that stands still.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, RwLock};

use super::content::Content;
use super::publish::Published;
use super::settle::Put;
use super::{WriteError, Writers};
use crate::cache::CachedObject;
use crate::journal::{BaseVersion, Completing, DraftId, Event, Extent, Life, Record, Sealed};
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::staging::StagingFile;
use crate::store::{ETag, Key, WriteOptions};
use crate::upload::Upload;

/// The object that a draft modifies.
#[derive(Clone)]
pub struct Base {
    pub key: Key,
    pub etag: ETag,
    pub len: u64,
    pub object: Arc<CachedObject>,
}

/// How far a draft has come.
#[derive(Clone, Debug)]
pub struct DraftProgress {
    pub id: DraftId,
    pub key: Key,
    pub len: u64,
    /// Bytes that the store has acknowledged.
    pub stored_bytes: u64,
    pub parts_stored: u32,
    pub parts_sending: u32,
    /// Parts that an earlier run had sent already.
    pub parts_resumed: u32,
    pub closed: bool,
    pub error: Option<String>,
}

/// The next version of one file.
pub struct Draft {
    pub(super) writers: Arc<Writers>,
    pub(super) id: DraftId,
    pub(super) core: Mutex<Core>,
    pub(super) gate: RwLock<()>,
    /// A part was acknowledged, failed, or left memory.
    pub(super) changed: Notify,
    /// The draft's one upload is opened by the first part that is sealed.
    pub(super) opening: tokio::sync::Mutex<()>,
    /// Somebody may read what is being written: acknowledged parts go to the staging file, not away.
    keep_readable: AtomicBool,
    /// Parts that have arrived and that are on their way, as the mount's counts have them.
    stored_now: AtomicUsize,
    sending_now: AtomicUsize,
    /// While it is published even readable memory may go, once the store has it.
    pub(super) publishing: AtomicBool,
    /// How many want it to [`Draft::stand_still`]. Changes under the core's lock.
    pub(super) still: AtomicUsize,
}

/// As long as it lives, nothing of a draft begins to go to the store, unless it is published. Its writers go on.
pub struct Still {
    draft: Arc<Draft>,
}

impl Drop for Still {
    fn drop(&mut self) {
        let mut core = self.draft.core.lock();
        self.draft.still.fetch_sub(1, Ordering::Relaxed);
        self.draft.send_waiting(&mut core);
        drop(core);
        self.draft.changed.notify_waiters();
    }
}

/// What a draft is, how far it has come, and what of it is where.
pub(super) struct Core {
    pub key: Key,
    pub options: WriteOptions,
    /// Created with O_EXCL and not published yet.
    pub exclusive: bool,
    pub life: Life<LastSeal>,
    pub content: Content,
    pub upload: Option<Arc<Upload>>,
    /// The upload may be the object by now: its completion was not answered.
    pub unsettled: Option<Completing>,
    /// PUTs that may have taken effect, the latest last.
    pub puts: Vec<Put>,
    /// Parts on their way: index and generation. One at a time of each index, or an older answer
    /// could overtake a newer one in the store.
    pub sending: BTreeMap<u32, u64>,
    pub staging: Option<Arc<StagingFile>>,
    pub error: Option<WriteError>,
    /// The object that it has become, until somebody asks.
    pub published: Option<Published>,
}

/// What a draft knows of its seal in the journal.
pub(super) struct LastSeal {
    /// The draft's count of writes when it was recorded.
    pub at: u64,
    /// Write-back: its writer has closed it, and was told so.
    pub told: bool,
    /// Pays for the content that the seal has, and the journal's state with it.
    pub paid: Option<OwnedSemaphorePermit>,
}

impl Draft {
    /// A draft of `key` that changes `base`, or begins empty.
    pub fn new(
        writers: &Arc<Writers>,
        key: Key,
        base: Option<Base>,
        options: WriteOptions,
    ) -> Arc<Draft> {
        let len = base.as_ref().map_or(0, |base| base.len);
        let id = writers.journal.next_draft_id();
        let settings = &writers.settings;
        let content = Content {
            len,
            base_len: len,
            base,
            plan: PartPlan::new(settings.part_bytes, settings.equal_parts),
            parts: BTreeMap::new(),
            writes: 0,
        };
        Self::with_core(writers, id, Core::new(key, options, Life::Open(Extent::Nothing), content))
    }

    pub(super) fn with_core(writers: &Arc<Writers>, id: DraftId, core: Core) -> Arc<Draft> {
        writers.uploads.claim(id);
        let draft = Arc::new(Draft {
            writers: writers.clone(),
            id,
            core: Mutex::new(core),
            gate: RwLock::new(()),
            changed: Notify::new(),
            opening: tokio::sync::Mutex::new(()),
            keep_readable: AtomicBool::new(writers.settings.write_back),
            stored_now: AtomicUsize::new(0),
            sending_now: AtomicUsize::new(0),
            publishing: AtomicBool::new(false),
            still: AtomicUsize::new(0),
        });
        writers.register(&draft);
        draft
    }

    pub fn id(&self) -> DraftId {
        self.id
    }

    pub fn len(&self) -> u64 {
        self.core.lock().content.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn key(&self) -> Key {
        self.core.lock().key.clone()
    }

    /// Whether there is something to publish.
    pub fn is_dirty(&self) -> bool {
        self.core.lock().life.is_changed()
    }

    /// Whether the file is just what this version of its object is.
    pub fn stands_on(&self, etag: &ETag) -> bool {
        let core = self.core.lock();
        !core.life.is_changed() && core.content.base.as_ref().is_some_and(|base| base.etag == *etag)
    }

    /// The object that the draft has become since this was last asked, though it be of a while ago.
    pub fn take_published(&self) -> Option<Published> {
        self.core.lock().published.take()
    }

    /// Write-back: safe on the disk as it is, and waiting for its upload.
    pub fn is_closed(&self) -> bool {
        self.core.lock().is_closed()
    }

    /// The draft's count of writes, when it was last written.
    pub(super) fn last_written(&self) -> u64 {
        self.core.lock().content.writes
    }

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

    /// Forgets a failure that may pass, so that publishing can be tried again.
    pub fn forget_passing_error(&self) {
        let mut core = self.core.lock();
        if core.error.as_ref().is_some_and(WriteError::is_passing) {
            core.error = None;
        }
    }

    /// Forgets any failure: somebody says that its cause is gone.
    pub fn forget_error(&self) {
        self.core.lock().error = None;
    }

    /// Marks the draft as worth publishing though nothing was written: a new, empty file.
    pub fn mark_dirty(&self) {
        self.core.lock().life.apply(Event::Changed);
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

    /// So many parts have arrived, for the other drafts of the mount to see. Holds the core.
    pub(super) fn count_stored(&self, parts: usize) {
        recount(&self.writers.stored_now, &self.stored_now, parts);
    }

    /// So many are on their way, likewise.
    pub(super) fn count_sending(&self, parts: usize) {
        recount(&self.writers.sending_now, &self.sending_now, parts);
    }

    /// From now on somebody may read back what is written.
    pub fn keep_readable(&self) {
        self.keep_readable.store(true, Ordering::Relaxed);
    }

    pub fn is_kept_readable(&self) -> bool {
        self.keep_readable.load(Ordering::Relaxed)
    }

    /// Whether bytes of it are in the store alone, in parts of its upload.
    pub fn needs_the_store(&self) -> bool {
        let core = self.core.lock();
        core.content.parts.values().any(|part| {
            part.stored.as_ref().is_some_and(|stored| {
                !part.written().contains(ByteRange::at(part.range.start(), stored.len))
            })
        })
    }

    pub fn progress(&self) -> DraftProgress {
        let core = self.core.lock();
        let stored = core.content.parts.values().filter_map(|part| part.stored.as_ref());
        DraftProgress {
            id: self.id,
            parts_stored: stored.clone().count() as u32,
            parts_sending: core.sending.len() as u32,
            parts_resumed: core.upload.as_ref().map_or(0, |upload| upload.parts_resumed()),
            key: core.key.clone(),
            len: core.content.len,
            stored_bytes: stored.map(|stored| stored.len).sum(),
            closed: core.is_closed(),
            error: core.error.as_ref().map(ToString::to_string),
        }
    }
}

impl Core {
    /// Of a draft of which nothing is in the store or on the disk yet.
    pub fn new(key: Key, options: WriteOptions, life: Life<LastSeal>, content: Content) -> Core {
        Core {
            key,
            options,
            exclusive: false,
            life,
            content,
            upload: None,
            unsettled: None,
            puts: Vec::new(),
            sending: BTreeMap::new(),
            staging: None,
            error: None,
            published: None,
        }
    }

    /// Write-back: safe on the disk as it is, and waiting for its upload.
    pub fn is_closed(&self) -> bool {
        self.life.sealed().is_some_and(|seal| seal.told && seal.at == self.content.writes)
    }
}

/// Changes one draft's share of a count of all.
fn recount(all: &AtomicUsize, own: &AtomicUsize, now: usize) {
    let before = own.swap(now, Ordering::Relaxed);
    // Wraps where the share gets smaller; the sum does not.
    all.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_all_is_the_sum_of_the_shares() {
        let (all, one, other) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let steps = [(&one, 3, 3), (&other, 5, 8), (&one, 1, 6), (&other, 0, 1), (&one, 0, 0)];
        for (own, now, sum) in steps {
            recount(&all, own, now);
            assert_eq!(all.load(Ordering::Relaxed), sum);
        }
    }
}
