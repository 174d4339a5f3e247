//! Copy sources: interrupted uploads of *other* keys whose parts are wanted again.
//!
//! `rsync` writes each run under a new temporary name, so what a killed run sent is held by an upload
//! whose key will never be written again. S3 cannot copy from an upload, only from an object; so the
//! interrupted upload is completed under its own key (which is not in use: that is checked), the wanted parts
//! are copied from it inside the store, and this temporary object is deleted when the last copier is done.
//!
//! An interrupted upload whose completion as the *file* had taken effect when its program was killed serves the
//! same way: it is an object already, the file itself, and is never deleted for this.
//!
//! Crash: `DraftMadeTemporary` is journaled before the completion (intention, without an ETag) and after it
//! (with one), so a copy source is found again by the next mount, serves again, and is deleted in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::lease::{Lease, Lender, Lent};
use super::source::Source;
use crate::journal::{Draft as DraftState, DraftId, Fingerprint, Record, Upload};
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::{ETag, Key, ListRequest, Mark, Precondition, Store, StoredPart};
use crate::upload::error::UploadError;
use crate::upload::interrupted::Interrupted;
use crate::upload::outcome::{
    Outcome, Proof, complete_marked, delete_if_marked, head_if_there, outcome_of,
};
use crate::upload::resume::Resumed;

/// The shortest part that S3 takes in the middle of an upload, in bytes.
const PART_BYTES_MIN: u64 = 5 << 20;

/// An interrupted upload that becomes an object to copy from, or is one, or turned out not to be fit for it.
pub(in crate::upload) struct CopySource {
    pub draft: DraftId,
    object: OnceCell<Option<SourceObject>>,
}

/// The object that an interrupted upload has become.
struct SourceObject {
    key: Key,
    etag: ETag,
    /// What it is known by; none where an older version has begun the upload.
    mark: Option<Mark>,
    /// Where each part of the upload stands in the object.
    places: HashMap<Fingerprint, ByteRange>,
    /// It is a file of the bucket, not a temporary object.
    is_file: bool,
}

impl SourceObject {
    fn new(upload: &Upload, state: &DraftState, parts: &[StoredPart], etag: ETag) -> SourceObject {
        let mut start = 0;
        let mut places = HashMap::new();
        for part in parts {
            let range = ByteRange::at(start, part.len);
            start = range.end();
            let recorded = state.parts.get(&part.number);
            if let Some(fingerprint) = recorded.and_then(|recorded| recorded.fingerprint) {
                places.insert(fingerprint, range);
            }
        }
        let (key, mark) = (upload.key.clone(), upload.mark());
        SourceObject { key, etag, mark, places, is_file: false }
    }
}

impl CopySource {
    /// Where the bytes with this fingerprint are.
    pub(super) fn place_of(&self, fingerprint: &Fingerprint) -> Option<Source> {
        let object = self.object.get()?.as_ref()?;
        let range = *object.places.get(fingerprint)?;
        Some(Source { key: object.key.clone(), etag: object.etag.clone(), range })
    }
}

pub(in crate::upload) struct CopySources {
    interrupted: Arc<Interrupted>,
    /// The prefix of the mount, which is a directory whatever is in it.
    root: Key,
    lent: Lent<CopySource>,
    index: Mutex<Option<Index>, rank::Fingerprints>,
}

/// Which draft holds which content, of those that are interrupted or copied from.
struct Index {
    /// [`Interrupted::added`] when it was built.
    added: u64,
    drafts: HashMap<Fingerprint, DraftId>,
}

impl Lender for CopySources {
    type Object = CopySource;

    fn lent(&self) -> &Lent<CopySource> {
        &self.lent
    }

    async fn end(&self, source: &CopySource) {
        match source.object.get() {
            Some(Some(object)) => self.end_object(source.draft, object).await,
            // It has been given back already.
            Some(None) => {}
            None => self.return_unfit(source.draft),
        }
    }
}

impl CopySources {
    pub fn new(interrupted: Arc<Interrupted>, root: Key) -> Arc<CopySources> {
        Arc::new(CopySources { interrupted, root, lent: Lent::default(), index: Mutex::new(None) })
    }

    /// The source that has a part with this content; held until the lease is given back. `None` where there is none, or
    /// another has it.
    pub async fn find(
        self: &Arc<Self>,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Lease<CopySources>>, UploadError> {
        let Some(draft) = self.draft_with(fingerprint) else { return Ok(None) };
        let lease = match self.lend(draft) {
            Some(lease) => lease,
            // It has an owner since the index was built.
            None => {
                *self.index.lock() = None;
                let other = self.draft_with(fingerprint).and_then(|draft| self.lend(draft));
                let Some(lease) = other else { return Ok(None) };
                lease
            }
        };
        let made = lease.object.get_or_try_init(async || {
            let made = self.make(lease.draft).await?;
            if made.is_none() {
                self.return_unfit(lease.draft);
            }
            Ok(made)
        });
        if let Err(error) = made.await {
            // The next part may try again.
            lease.give_back().await;
            return Err(error);
        }
        Ok(Some(lease))
    }

    fn lend(self: &Arc<Self>, draft: DraftId) -> Option<Lease<CopySources>> {
        Lease::of(
            self,
            |source| source.draft == draft,
            || {
                let source = CopySource { draft, object: OnceCell::new() };
                self.interrupted.claim(draft).then_some(source)
            },
        )
    }

    fn draft_with(&self, fingerprint: &Fingerprint) -> Option<DraftId> {
        // Lock order: the index, then what is lent, then the interrupted uploads, then the journal's state.
        let mut index = self.index.lock();
        let added = self.interrupted.added();
        let index = match index.take().filter(|index| index.added == added) {
            Some(current) => index.insert(current),
            None => index.insert(self.index_as_of(added)),
        };
        index.drafts.get(fingerprint).copied()
    }

    fn index_as_of(&self, added: u64) -> Index {
        let mut ids: BTreeSet<DraftId> = self.interrupted.ids();
        ids.extend(self.lent.look(|source| source.draft));
        let state = self.interrupted.journal.snapshot();
        let drafts = ids.iter().filter_map(|id| Some((*id, state.drafts.get(id)?)));
        let uploads = drafts.filter(|(_, draft)| draft.upload.is_some());
        let parts = uploads.flat_map(|(id, draft)| {
            draft.parts.values().filter_map(move |part| Some((part.fingerprint?, id)))
        });
        Index { added, drafts: parts.collect() }
    }

    /// An upload that did not become a copy source is an interrupted upload again: to be listed, and ended.
    fn return_unfit(&self, draft: DraftId) {
        self.interrupted.unmark_temporary(draft);
        self.interrupted.release(draft);
    }

    async fn make(&self, draft: DraftId) -> Result<Option<SourceObject>, UploadError> {
        let (store, journal) = (&*self.interrupted.store, &self.interrupted.journal);
        let Some(state) = journal.read(|state| state.drafts.get(&draft).cloned()) else {
            return Ok(None);
        };
        let Some(upload) = state.upload.as_ref() else { return Ok(None) };
        let key = &upload.key;
        if let Some(completing) = &state.completing {
            return Ok(match outcome_of(store, upload, completing, Proof::Content).await? {
                Outcome::Completed(etag) => {
                    let mut object = SourceObject::new(upload, &state, &state.stored_parts(), etag);
                    object.is_file = true;
                    Some(object)
                }
                // Its own key's next upload, or expiry, sees to it.
                Outcome::NotCompleted | Outcome::Unknown => None,
            });
        }
        self.interrupted.mark_temporary(key, draft);
        if state.made_temporary.is_some() {
            return self.made_before(upload, &state).await;
        }
        // Nothing takes the key between the look and the completion.
        let turn = store.turn(key).await;
        if head_if_there(turn.store(), key).await?.is_some() || !self.has_its_directory(key).await?
        {
            return Ok(None);
        }
        let Some(resumed) = self.interrupted.reconcile(draft).await? else { return Ok(None) };
        let Resumed { upload_id, mark, known, .. } = resumed;
        let parts = usable(known.into_values().map(|known| known.part));
        if parts.is_empty() {
            return Ok(None);
        }
        journal.append(Record::DraftMadeTemporary { draft, etag: None })?;
        let conditional = store.capabilities().conditional_writes;
        let absent = if conditional { Precondition::Absent } else { Precondition::None };
        let etag =
            complete_marked(turn.store(), key, &upload_id, &parts, &absent, mark.as_ref()).await?;
        journal.append(Record::DraftMadeTemporary { draft, etag: Some(etag.clone()) })?;
        Ok(Some(SourceObject::new(upload, &state, &parts, etag)))
    }

    /// Whether the directory of this key is there without it: one that was removed or renamed since would come back with
    /// the object, and stay where a store keeps folders.
    async fn has_its_directory(&self, key: &Key) -> Result<bool, UploadError> {
        let end = key.as_bytes().iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let directory = Key::new(&key.as_bytes()[..end]);
        if directory == self.root {
            return Ok(true);
        }
        let request = ListRequest { prefix: directory, max_keys: Some(1), ..Default::default() };
        let page = self.interrupted.store.list(&request).await?;
        Ok(!page.objects.is_empty() || !page.common_prefixes.is_empty())
    }

    /// The object that an earlier mount made, if it still is what that mount left.
    async fn made_before(
        &self,
        upload: &Upload,
        state: &DraftState,
    ) -> Result<Option<SourceObject>, UploadError> {
        let head = head_if_there(&*self.interrupted.store, &upload.key).await?;
        let Some(head) = head else { return Ok(None) };
        let parts = usable(state.stored_parts().into_iter());
        let len: u64 = parts.iter().map(|part| part.len).sum();
        let mark = upload.mark();
        let is_marked = mark.is_some() && head.mark() == mark;
        let known = state.made_temporary.as_ref().and_then(|etag| etag.as_ref());
        // What has its ETag serves, whichever client made it.
        if head.len != len || !(is_marked || known == Some(&head.etag)) {
            return Ok(None);
        }
        Ok(Some(SourceObject::new(upload, state, &parts, head.etag)))
    }

    async fn end_object(&self, draft: DraftId, object: &SourceObject) {
        let deleted = match object.is_file {
            true => Ok(()),
            false => {
                let turn = self.interrupted.store.turn(&object.key).await;
                delete_if_marked(turn.store(), &object.key, object.mark.as_ref()).await
            }
        };
        self.interrupted.unmark_temporary(draft);
        match deleted {
            Ok(()) => {
                if let Err(error) = self.interrupted.journal.append(Record::DraftEnded { draft }) {
                    log::warn!("the journal cannot be written: {error}");
                }
            }
            // The journal keeps it: the next mount, or expiry, deletes it.
            Err(error) => log::warn!("{} could not be deleted yet: {error}", object.key),
        }
        self.interrupted.release(draft);
    }
}

/// The parts that can be completed together: only the last may be short.
fn usable(parts: impl Iterator<Item = StoredPart>) -> Vec<StoredPart> {
    let parts: BTreeMap<u32, StoredPart> = parts.map(|part| (part.number, part)).collect();
    let last = parts.keys().next_back().copied();
    parts
        .into_values()
        .filter(|part| part.len >= PART_BYTES_MIN || Some(part.number) == last)
        .collect()
}
