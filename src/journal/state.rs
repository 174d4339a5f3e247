//! What the records add up to: the second half of residency (disk and store) as it stands.
//!
//! Pure: no I/O, no clock. `apply` is total; a record about something unknown changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::content::Content;
use super::draft::{Draft, Unsealed};
use super::life::{Extent, Life};
use super::parts::Parts;
use super::ranges::{CheckedRanges, RangeSums};
use super::record::{DraftId, FileRename, FileStamp, ObjectId, Record, RenameId};
use super::staged::StagedLog;
use crate::cow::CowMap;
use crate::store::{CompactTag, ETag, Key, Mark, Metadata, ObjectSum};

/// The materialised journal. Replaying [`State::records`] gives the same state again. What there can be much of is in maps
/// that are copied at once, so that a checkpoint is written of a copy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Versions in the making, by id, which is also the order in which they began.
    pub drafts: CowMap<DraftId, Draft>,
    /// Objects with bytes on the local disk.
    pub objects: CowMap<ObjectId, Object>,
    /// Attributes that the store does not have yet.
    pub attributes: CowMap<Key, ChangedAttributes>,
    /// Versions that were unlinked and are still in the store.
    pub deletions: CowMap<Key, Deletion>,
    /// Temporary objects of ours in the bucket that must be deleted.
    pub temporary_objects: BTreeSet<Key>,
    /// Directory renames that have begun: from, to.
    pub directory_renames: BTreeMap<RenameId, (Key, Key)>,
    /// Renames of files that have begun.
    pub file_renames: BTreeMap<RenameId, FileRename>,
    /// What renames that have begun, of either kind, have copied, by the copies' keys.
    pub copies: BTreeMap<RenameId, CowMap<Key, RenameCopy>>,
    /// Uploads that the store may have begun without an answer that was seen, by the number of the request.
    pub unconfirmed_creates: BTreeMap<DraftId, UnconfirmedCreate>,
    /// What objects that we have completed consist of.
    pub contents: BTreeMap<Key, Content>,
    /// The lowest ids that were never used.
    pub next_draft: DraftId,
    pub next_object: ObjectId,
    pub next_rename: RenameId,
}

/// What is to be deleted under a key: this version, and whatever has one of these marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    pub etag: Option<ETag>,
    pub marks: Vec<Mark>,
}

impl Deletion {
    /// The record that says so of `key`, and that `unlinked` has lost its name by that.
    pub fn record(&self, key: &Key, unlinked: Option<DraftId>) -> Record {
        let key = key.clone();
        match (&self.etag, self.marks.is_empty()) {
            (Some(etag), true) => Record::DeletionBegun { key, etag: etag.clone(), unlinked },
            (etag, _) => {
                let (etag, marks) = (etag.clone(), self.marks.clone());
                Record::MarkedDeletionBegun { key, etag, marks, unlinked }
            }
        }
    }
}

/// A copy that a rename has made.
#[derive(Clone, Debug, PartialEq)]
pub struct RenameCopy {
    /// The version that was copied.
    pub source: CompactTag,
    /// What the store has called the copy.
    pub etag: CompactTag,
}

/// An upload that the store was asked to begin, and whose answer was not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnconfirmedCreate {
    pub key: Key,
    pub time: SystemTime,
}

/// Attributes of an object or a directory that are to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedAttributes {
    /// The object's version; none for a directory.
    pub etag: Option<ETag>,
    pub len: u64,
    pub metadata: Metadata,
}

/// One version of an object, with its bytes on the local disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub key: Key,
    pub etag: ETag,
    /// Length of the object (not of what is resident), in bytes.
    pub len: u64,
    pub resident: CheckedRanges,
    /// Of the whole object, as its store tells it.
    pub sum: Option<ObjectSum>,
    /// All of `resident` was found good while the cache file was like this.
    pub verified: Option<Box<FileStamp>>,
}

impl State {
    /// Takes `record` in. Says whether it meant anything: a record about a draft, an object or a part that
    /// is not there (ended before, or lost with a damaged file) changes nothing.
    pub fn apply(&mut self, record: &Record) -> bool {
        match record {
            Record::IdsUsed { draft, object, rename } => {
                self.next_draft = self.next_draft.max(*draft);
                self.next_object = self.next_object.max(*object);
                self.next_rename = self.next_rename.max(*rename);
                true
            }
            Record::DraftBegun { draft, key, plan, base, options, time } => {
                self.next_draft = self.next_draft.max(draft.saturating_add(1));
                if self.drafts.contains_key(draft) {
                    return false;
                }
                let begun = Draft {
                    key: key.clone(),
                    plan: *plan,
                    base: base.clone(),
                    options: *options,
                    begun: *time,
                    upload: None,
                    parts: Parts::default(),
                    staged: StagedLog::default(),
                    unsealed: Unsealed::default(),
                    made_temporary: None,
                    completing: None,
                    marks: Vec::new(),
                    life: Life::Open(Extent::Recorded),
                    failed: None,
                };
                self.drafts.insert(*draft, begun);
                true
            }
            Record::UploadAdopted { draft, from } => self.adopt_upload(*draft, *from),
            Record::DraftMoved { draft, key, replaced } => {
                let Some(found) = self.drafts.get_mut(draft) else { return false };
                found.key = key.clone();
                if let Some(replaced) = replaced {
                    self.unlink(*replaced);
                }
                true
            }
            Record::DraftFollowed { draft, key, base } => {
                let Some(found) = self.drafts.get_mut(draft) else { return false };
                found.key = key.clone();
                found.base = base.clone();
                true
            }
            Record::DraftUnlinked { draft } => self.unlink(*draft),
            Record::DraftMadeTemporary { draft, .. }
            | Record::DraftCompleting { draft, .. }
            | Record::UploadBegun { draft, .. }
            | Record::UploadLost { draft }
            | Record::PartStored { draft, .. }
            | Record::PartSummed { draft, .. }
            | Record::PartDropped { draft, .. }
            | Record::Staged { draft, .. }
            | Record::StagedDropped { draft, .. }
            | Record::DraftContent { draft, .. }
            | Record::DraftCarries { draft, .. }
            | Record::DraftSealed { draft, .. }
            | Record::DraftRebased { draft, .. }
            | Record::DraftMarked { draft, .. }
            | Record::DraftDamaged { draft, .. }
            | Record::DraftFailed { draft, .. } => {
                self.drafts.get_mut(draft).is_some_and(|found| found.apply(record))
            }
            Record::DraftEnded { draft } => self.drafts.remove(draft).is_some(),
            Record::AttributesChanged { key, etag, len, metadata } => {
                let changed =
                    ChangedAttributes { etag: etag.clone(), len: *len, metadata: metadata.clone() };
                self.attributes.insert(key.clone(), changed);
                true
            }
            Record::AttributesSaved { key } => self.attributes.remove(key).is_some(),
            Record::DeletionBegun { key, etag, unlinked } => {
                let deletion = Deletion { etag: Some(etag.clone()), marks: Vec::new() };
                self.begin_deletion(key, deletion, *unlinked)
            }
            Record::MarkedDeletionBegun { key, etag, marks, unlinked } => {
                let deletion = Deletion { etag: etag.clone(), marks: marks.clone() };
                self.begin_deletion(key, deletion, *unlinked)
            }
            Record::DeletionEnded { key } => self.deletions.remove(key).is_some(),
            Record::TemporaryBegun { key } => self.temporary_objects.insert(key.clone()),
            Record::TemporaryEnded { key } => self.temporary_objects.remove(key),
            Record::ObjectBegun { object, key, etag, len } => {
                self.next_object = self.next_object.max(object.saturating_add(1));
                if self.objects.contains_key(object) {
                    return false;
                }
                let begun = Object {
                    key: key.clone(),
                    etag: etag.clone(),
                    len: *len,
                    resident: CheckedRanges::default(),
                    sum: None,
                    verified: None,
                };
                self.objects.insert(*object, begun);
                true
            }
            Record::RangeResident { object, range, crc } => match self.objects.get_mut(object) {
                // A range beyond the object is of no use.
                Some(found) if range.end() <= found.len => {
                    found.resident.insert(*range, *crc);
                    found.verified = None;
                    true
                }
                _ => false,
            },
            Record::ObjectSummed { object, sum } => {
                let Some(found) = self.objects.get_mut(object) else { return false };
                found.sum = Some(*sum);
                true
            }
            Record::RangeSummed { object, start, sum } => {
                let found = self.objects.get_mut(object).filter(|found| found.sum.is_some());
                found.is_some_and(|found| found.resident.note_sum(*start, *sum))
            }
            Record::RangeEvicted { object, range } => {
                let Some(found) = self.objects.get_mut(object) else { return false };
                let removed = found.resident.remove(*range);
                if removed {
                    found.verified = None;
                }
                removed
            }
            Record::ObjectVerified { object, stamp } => {
                let Some(found) = self.objects.get_mut(object) else { return false };
                found.verified = Some(Box::new(*stamp));
                true
            }
            Record::ObjectEnded { object } => self.objects.remove(object).is_some(),
            Record::DirectoryRenameBegun { rename, from, to } => {
                self.next_rename = self.next_rename.max(rename.saturating_add(1));
                self.directory_renames.insert(*rename, (from.clone(), to.clone())).is_none()
            }
            Record::DirectoryRenameEnded { rename } => {
                self.copies.remove(rename);
                self.directory_renames.remove(rename).is_some()
            }
            Record::RenameCopied { rename, source, to, etag } => {
                if !self.directory_renames.contains_key(rename)
                    && !self.file_renames.contains_key(rename)
                {
                    return false;
                }
                let (source, etag) = (CompactTag::new(source), CompactTag::new(etag));
                let copies = self.copies.entry(*rename).or_default();
                copies.insert(to.clone(), RenameCopy { source, etag });
                true
            }
            Record::FileRenameBegun { rename, renaming } => {
                self.next_rename = self.next_rename.max(rename.saturating_add(1));
                self.file_renames.insert(*rename, renaming.clone()).is_none()
            }
            Record::FileRenameEnded { rename, done } => {
                self.copies.remove(rename);
                let Some(renaming) = self.file_renames.remove(rename) else { return false };
                if let Some(replaced) = renaming.unlinked.filter(|_| *done) {
                    self.unlink(replaced);
                }
                true
            }
            Record::CreateRequested { request, key, time } => {
                self.next_draft = self.next_draft.max(request.saturating_add(1));
                let before = self.unconfirmed_creates.get(request);
                let time = before.map_or(*time, |create| create.time.min(*time));
                let create = UnconfirmedCreate { key: key.clone(), time };
                self.unconfirmed_creates.insert(*request, create);
                true
            }
            Record::CreateAnswered { request } => {
                self.unconfirmed_creates.remove(request).is_some()
            }
            Record::ContentKnown { key, etag, time, parts } => {
                let (etag, time, parts) = (etag.clone(), *time, parts.clone());
                self.contents.insert(key.clone(), Content { etag, time, parts });
                true
            }
            Record::ContentSummed { key, etag, crcs } => {
                let known = self.contents.get_mut(key).filter(|known| known.etag == *etag);
                known.is_some_and(|known| known.sum(crcs))
            }
            Record::ContentMoved { key, to, etag } => {
                let Some(content) = self.contents.remove(key) else { return false };
                self.contents.insert(to.clone(), Content { etag: etag.clone(), ..content });
                true
            }
            Record::ContentForgotten { key } => self.contents.remove(key).is_some(),
            Record::Opened => {
                self.drafts.values_mut().for_each(Draft::drop_unsealed);
                true
            }
        }
    }

    /// Whether an earlier process has left anything that [`Record::Opened`] voids.
    pub fn has_unsealed(&self) -> bool {
        self.drafts.values().any(Draft::has_unsealed)
    }

    fn unlink(&mut self, draft: DraftId) -> bool {
        let found = self.drafts.get_mut(&draft);
        found.map(Draft::unlink).is_some()
    }

    fn begin_deletion(&mut self, key: &Key, what: Deletion, unlinked: Option<DraftId>) -> bool {
        self.deletions.insert(key.clone(), what);
        if let Some(unlinked) = unlinked {
            self.unlink(unlinked);
        }
        true
    }

    fn adopt_upload(&mut self, draft: DraftId, from: DraftId) -> bool {
        if draft == from || !self.drafts.contains_key(&draft) {
            return false;
        }
        let Some(left) = self.drafts.remove(&from) else { return false };
        if let Some(adopting) = self.drafts.get_mut(&draft) {
            adopting.upload = left.upload;
            adopting.parts = left.parts.adopted();
            adopting.completing = None;
        }
        true
    }

    /// The fewest records that make this state out of an empty one.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let ids = Record::IdsUsed {
            draft: self.next_draft,
            object: self.next_object,
            rename: self.next_rename,
        };
        std::iter::once(ids)
            .chain(self.drafts.iter().flat_map(|(id, draft)| draft.records(*id)))
            .chain(self.objects.iter().flat_map(|(id, object)| object.records(*id)))
            .chain(self.attributes.iter().map(|(key, changed)| Record::AttributesChanged {
                key: key.clone(),
                etag: changed.etag.clone(),
                len: changed.len,
                metadata: changed.metadata.clone(),
            }))
            .chain(self.deletions.iter().map(|(key, deletion)| deletion.record(key, None)))
            .chain(
                self.temporary_objects
                    .iter()
                    .map(|key| Record::TemporaryBegun { key: key.clone() }),
            )
            .chain(self.directory_renames.iter().map(|(rename, (from, to))| {
                Record::DirectoryRenameBegun { rename: *rename, from: from.clone(), to: to.clone() }
            }))
            .chain(self.file_renames.iter().map(|(rename, renaming)| Record::FileRenameBegun {
                rename: *rename,
                renaming: renaming.clone(),
            }))
            .chain(self.copies.iter().flat_map(|(rename, copies)| {
                copies.iter().map(|(to, copy)| Record::RenameCopied {
                    rename: *rename,
                    source: copy.source.etag(),
                    to: to.clone(),
                    etag: copy.etag.etag(),
                })
            }))
            .chain(self.unconfirmed_creates.iter().map(|(request, create)| {
                Record::CreateRequested {
                    request: *request,
                    key: create.key.clone(),
                    time: create.time,
                }
            }))
            .chain(self.contents.iter().flat_map(|(key, content)| content.records(key)))
    }
}

impl Object {
    fn records(&self, object: ObjectId) -> impl Iterator<Item = Record> + '_ {
        let begun = Record::ObjectBegun {
            object,
            key: self.key.clone(),
            etag: self.etag.clone(),
            len: self.len,
        };
        let whole = self.sum.map(|sum| Record::ObjectSummed { object, sum });
        let resident =
            self.resident.iter().flat_map(move |(range, RangeSums { crc, of_whole })| {
                let summed = of_whole.map(|sum| {
                    let (start, sum) = (range.start(), sum.get());
                    Record::RangeSummed { object, start, sum }
                });
                [Record::RangeResident { object, range, crc }].into_iter().chain(summed)
            });
        let verified = self.verified.as_deref();
        let verified = verified.map(|stamp| Record::ObjectVerified { object, stamp: *stamp });
        std::iter::once(begun).chain(whole).chain(resident).chain(verified)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
