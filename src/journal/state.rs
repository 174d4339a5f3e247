//! What the records add up to: the second half of residency (disk and store) as it stands.
//!
//! Pure: no I/O, no clock. `apply` is total; a record about something unknown changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::ranges::CheckedRanges;
use super::record::{BaseVersion, DraftId, FileRename, Fingerprint, ObjectId, Record, RenameId};
use super::staged::{StagedBytes, StagedLog, StagedRange, UnsealedLog};
use super::tag::CompactTag;
use crate::part::PartPlan;
use crate::store::{ETag, Key, Metadata, StoredPart, UploadId};

/// The materialised journal. Replaying [`State::records`] gives the same state again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Versions in the making, by id, which is also the order in which they began.
    pub drafts: BTreeMap<DraftId, Draft>,
    /// Objects with bytes on the local disk.
    pub objects: BTreeMap<ObjectId, Object>,
    /// Attributes that the store does not have yet.
    pub attributes: BTreeMap<Key, ChangedAttributes>,
    /// Versions that were unlinked and are still in the store.
    pub deletions: BTreeMap<Key, ETag>,
    /// Temporary objects of ours in the bucket that must be deleted.
    pub helpers: BTreeSet<Key>,
    /// Directory renames that have begun: from, to.
    pub renames: BTreeMap<RenameId, (Key, Key)>,
    /// Renames of files that have begun.
    pub file_renames: BTreeMap<RenameId, FileRename>,
    /// Uploads that the store may have begun without anybody's knowing, by who asked.
    pub asked: BTreeMap<DraftId, Asked>,
    /// The lowest ids that were never used.
    pub next_draft: DraftId,
    pub next_object: ObjectId,
    pub next_rename: RenameId,
}

/// An upload was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub key: Key,
    pub time: SystemTime,
}

/// A new version of an object in the making.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Where the file is now.
    pub key: Key,
    pub plan: PartPlan,
    pub base: Option<BaseVersion>,
    /// Digest of what an upload fixes at its beginning.
    pub options: u64,
    pub begun: SystemTime,
    pub upload: Option<Upload>,
    /// Parts that the store acknowledged for `upload`, by number. Empty without an upload.
    pub parts: BTreeMap<u32, Part>,
    /// Those of `parts` that may hold what was written since the last seal.
    pub unsealed_parts: BTreeSet<u32>,
    /// Those of `parts` over which something was staged and sealed after they had been stored.
    pub patched_parts: BTreeSet<u32>,
    /// Bytes of the file in the draft's staging file, as of the last seal.
    pub staged: StagedLog,
    /// What has been staged since, which a crash undoes.
    pub unsealed: UnsealedLog,
    /// The upload has become an object, or was about to (no ETag): only to be copied from.
    pub published: Option<Option<ETag>>,
    /// The upload may have become the file's object: its completion was under way.
    pub completing: Option<Completing>,
    /// The last fsync or write-back close.
    pub sealed: Option<Sealed>,
    /// Why the store refused for good. A new upload or a new seal clears it.
    pub failed: Option<String>,
}

/// Attributes of an object or a directory that are to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedAttributes {
    /// The object's version; none for a directory.
    pub etag: Option<ETag>,
    pub len: u64,
    pub metadata: Metadata,
}

/// A multipart upload of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub id: UploadId,
    /// The key it began with and completes under, whatever the file is called now.
    pub key: Key,
    /// What the object will have.
    pub metadata: Metadata,
    pub content_type: Option<String>,
}

/// An acknowledged part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// In bytes.
    pub len: u64,
    /// Of its content; of a part that was copied inside the store, of where it came from.
    pub fingerprint: Option<Fingerprint>,
    tag: CompactTag,
}

impl Part {
    pub fn etag(&self) -> ETag {
        self.tag.etag()
    }
}

/// What a draft's upload was about to become.
#[derive(Clone, Debug, PartialEq)]
pub struct Completing {
    /// Length of the object, in bytes.
    pub len: u64,
    /// How much of it the file still shows: it may have been cut since.
    pub base_len: u64,
    /// What was sealed is older: nothing of it is missing in the object.
    pub newer: bool,
    /// Where it follows from the parts.
    pub etag: Option<ETag>,
    pub metadata: Metadata,
    pub content_type: Option<String>,
    /// When it was asked for.
    pub time: SystemTime,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// Length of the file, in bytes.
    pub len: u64,
    /// How much of the base shows, in bytes.
    pub base_len: u64,
    /// By a close under write-back, not by fsync: the upload is to be finished without its writer.
    pub closed: bool,
    pub metadata: Metadata,
    pub content_type: Option<String>,
    pub time: SystemTime,
}

/// One version of an object, with its bytes on the local disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub key: Key,
    pub etag: ETag,
    /// Length of the object (not of what is resident), in bytes.
    pub len: u64,
    pub resident: CheckedRanges,
}

impl Draft {
    /// The acknowledged parts as CompleteMultipartUpload wants them, in order.
    pub fn stored_parts(&self) -> Vec<StoredPart> {
        self.parts
            .iter()
            .map(|(number, part)| StoredPart { number: *number, etag: part.etag(), len: part.len })
            .collect()
    }
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
                    parts: BTreeMap::new(),
                    unsealed_parts: BTreeSet::new(),
                    patched_parts: BTreeSet::new(),
                    staged: StagedLog::default(),
                    unsealed: UnsealedLog::default(),
                    published: None,
                    completing: None,
                    sealed: None,
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
                    self.unname(*replaced);
                }
                true
            }
            Record::DraftUnnamed { draft } => self.unname(*draft),
            Record::DraftPublished { draft, .. }
            | Record::DraftCompleting { draft, .. }
            | Record::UploadBegun { draft, .. }
            | Record::UploadLost { draft }
            | Record::PartStored { draft, .. }
            | Record::PartDropped { draft, .. }
            | Record::Staged { draft, .. }
            | Record::StagedDropped { draft, .. }
            | Record::DraftSealed { draft, .. }
            | Record::DraftRebased { draft, .. }
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
            Record::DeletionBegun { key, etag, unnamed } => {
                self.deletions.insert(key.clone(), etag.clone());
                if let Some(unnamed) = unnamed {
                    self.unname(*unnamed);
                }
                true
            }
            Record::DeletionEnded { key } => self.deletions.remove(key).is_some(),
            Record::HelperBegun { key } => self.helpers.insert(key.clone()),
            Record::HelperEnded { key } => self.helpers.remove(key),
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
                };
                self.objects.insert(*object, begun);
                true
            }
            Record::RangeResident { object, range, crc } => match self.objects.get_mut(object) {
                // A range beyond the object is of no use, whoever wrote it.
                Some(found) if range.end() <= found.len => {
                    found.resident.insert(*range, *crc);
                    true
                }
                _ => false,
            },
            Record::RangeEvicted { object, range } => {
                self.objects.get_mut(object).is_some_and(|found| found.resident.remove(*range))
            }
            Record::ObjectEnded { object } => self.objects.remove(object).is_some(),
            Record::RenameBegun { rename, from, to } => {
                self.next_rename = self.next_rename.max(rename.saturating_add(1));
                self.renames.insert(*rename, (from.clone(), to.clone())).is_none()
            }
            Record::RenameEnded { rename } => self.renames.remove(rename).is_some(),
            Record::FileRenameBegun { rename, renaming } => {
                self.next_rename = self.next_rename.max(rename.saturating_add(1));
                self.file_renames.insert(*rename, renaming.clone()).is_none()
            }
            Record::FileRenameEnded { rename, done } => {
                let Some(renaming) = self.file_renames.remove(rename) else { return false };
                if let Some(replaced) = renaming.unnamed.filter(|_| *done) {
                    self.unname(replaced);
                }
                true
            }
            Record::UploadAsked { draft, key, time } => {
                self.next_draft = self.next_draft.max(draft.saturating_add(1));
                let earlier = self.asked.get(draft).map_or(*time, |asked| asked.time.min(*time));
                self.asked.insert(*draft, Asked { key: key.clone(), time: earlier });
                true
            }
            Record::UploadAnswered { draft } => self.asked.remove(draft).is_some(),
            Record::Opened => {
                self.drafts.values_mut().for_each(|draft| draft.unsealed.clear());
                true
            }
        }
    }

    /// Whether an earlier process has left anything that [`Record::Opened`] voids.
    pub fn has_unsealed(&self) -> bool {
        self.drafts.values().any(|draft| !draft.unsealed.is_empty())
    }

    /// Nothing of a file without a name may come back; its upload is known for as long as the draft is.
    fn unname(&mut self, draft: DraftId) -> bool {
        let Some(found) = self.drafts.get_mut(&draft) else { return false };
        found.forget_parts();
        found.staged.clear();
        found.unsealed.clear();
        found.sealed = None;
        found.failed = None;
        true
    }

    fn adopt_upload(&mut self, draft: DraftId, from: DraftId) -> bool {
        if draft == from || !self.drafts.contains_key(&draft) {
            return false;
        }
        let Some(left) = self.drafts.remove(&from) else { return false };
        if let Some(adopting) = self.drafts.get_mut(&draft) {
            adopting.upload = left.upload;
            // Whatever their content is: it has not come again yet.
            adopting.unsealed_parts = left.parts.keys().copied().collect();
            adopting.patched_parts.clear();
            adopting.parts = left.parts;
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
            .chain(self.deletions.iter().map(|(key, etag)| Record::DeletionBegun {
                key: key.clone(),
                etag: etag.clone(),
                unnamed: None,
            }))
            .chain(self.helpers.iter().map(|key| Record::HelperBegun { key: key.clone() }))
            .chain(self.renames.iter().map(|(rename, (from, to))| Record::RenameBegun {
                rename: *rename,
                from: from.clone(),
                to: to.clone(),
            }))
            .chain(self.file_renames.iter().map(|(rename, renaming)| Record::FileRenameBegun {
                rename: *rename,
                renaming: renaming.clone(),
            }))
            .chain(self.asked.iter().map(|(draft, asked)| Record::UploadAsked {
                draft: *draft,
                key: asked.key.clone(),
                time: asked.time,
            }))
    }

    /// Acknowledged parts of any draft with this content: the part need not be sent again. A linear search,
    /// about 25 ms for 1,000,000 parts: right for once a part of a file, not for once a request.
    pub fn parts_like<'a>(
        &'a self,
        fingerprint: &'a Fingerprint,
    ) -> impl Iterator<Item = (DraftId, u32, &'a Part)> {
        self.drafts.iter().flat_map(move |(id, draft)| {
            draft
                .parts
                .iter()
                .filter(move |(_, part)| part.fingerprint.as_ref() == Some(fingerprint))
                .map(move |(number, part)| (*id, *number, part))
        })
    }
}

impl Draft {
    /// Bytes in the staging file, those that are partly overwritten counted whole.
    pub fn staged_bytes(&self) -> u64 {
        self.staged.bytes() + self.unsealed.bytes()
    }

    /// What was sealed has this part of the upload, as far as anybody knows.
    pub fn is_sealed_part(&self, number: u32) -> bool {
        self.parts.contains_key(&number) && !self.unsealed_parts.contains(&number)
    }

    fn forget_parts(&mut self) {
        self.parts.clear();
        self.unsealed_parts.clear();
        self.patched_parts.clear();
        self.completing = None;
        self.published = None;
    }

    /// Takes in a record about this draft (any but its beginning, its end, and those about others too).
    fn apply(&mut self, record: &Record) -> bool {
        match record {
            Record::UploadBegun { upload_id, metadata, content_type, .. } => {
                self.upload = Some(Upload {
                    id: upload_id.clone(),
                    key: self.key.clone(),
                    metadata: metadata.clone(),
                    content_type: content_type.clone(),
                });
                self.forget_parts();
                self.failed = None;
            }
            Record::DraftPublished { etag, .. } => self.published = Some(etag.clone()),
            Record::DraftCompleting { .. } => return self.is_completing(record),
            Record::UploadLost { .. } => {
                let published = self.published.take();
                self.forget_parts();
                self.published = published;
                return self.upload.take().is_some();
            }
            Record::PartStored { number, len, etag, fingerprint, unsealed, .. } => {
                if self.upload.is_none() {
                    return false;
                }
                let tag = CompactTag::new(etag);
                let part = Part { len: *len, fingerprint: *fingerprint, tag };
                self.parts.insert(*number, part);
                self.patched_parts.remove(number);
                if *unsealed {
                    self.unsealed_parts.insert(*number);
                } else {
                    self.unsealed_parts.remove(number);
                }
            }
            Record::PartDropped { number, .. } => {
                self.unsealed_parts.remove(number);
                self.patched_parts.remove(number);
                return self.parts.remove(number).is_some();
            }
            Record::Staged { range, crc, at, .. } => {
                let bytes = Some(StagedBytes { crc: *crc, at: *at });
                self.unsealed.push(StagedRange { range: *range, bytes });
            }
            Record::StagedDropped { range, .. } => {
                self.unsealed.push(StagedRange { range: *range, bytes: None });
            }
            Record::DraftSealed { .. } => self.seal(record),
            Record::DraftRebased { base, .. } => {
                let shows = self.completing.as_ref().map_or(base.len, |meant| meant.base_len);
                self.upload = None;
                self.forget_parts();
                self.base = Some(base.clone());
                if let Some(sealed) = &mut self.sealed {
                    sealed.base_len = shows;
                }
            }
            Record::DraftFailed { cause, .. } => self.failed = Some(cause.clone()),
            _ => return false,
        }
        true
    }

    fn is_completing(&mut self, record: &Record) -> bool {
        let Record::DraftCompleting {
            len,
            base_len,
            newer,
            etag,
            metadata,
            content_type,
            time,
            ..
        } = record
        else {
            return false;
        };
        if self.upload.is_none() {
            return false;
        }
        self.completing = Some(Completing {
            len: *len,
            base_len: *base_len,
            newer: *newer,
            etag: etag.clone(),
            metadata: metadata.clone(),
            content_type: content_type.clone(),
            time: *time,
        });
        true
    }

    /// All that happened since the last seal is what a crash brings back from now on.
    fn seal(&mut self, record: &Record) {
        let Record::DraftSealed { len, base_len, closed, metadata, content_type, time, .. } =
            record
        else {
            return;
        };
        if let Some(completing) = &mut self.completing {
            // What was cut off must not come back out of the object.
            completing.base_len = completing.base_len.min(self.unsealed.cut());
            completing.newer = false;
        }
        let plan = self.plan;
        let written_over =
            |number: &u32| self.unsealed.gives(plan.range_of(number.saturating_sub(1)));
        self.patched_parts.extend(self.parts.keys().filter(|number| written_over(number)));
        self.unsealed.seal_into(&mut self.staged);
        self.unsealed_parts.clear();
        self.failed = None;
        self.sealed = Some(Sealed {
            len: *len,
            base_len: *base_len,
            closed: *closed,
            metadata: metadata.clone(),
            content_type: content_type.clone(),
            time: *time,
        });
    }

    /// The records of its beginning: the draft, its upload under the key that this began with, its key now.
    pub fn begun_records(&self, draft: DraftId) -> impl Iterator<Item = Record> + '_ {
        let first_key = self.upload.as_ref().map_or(&self.key, |upload| &upload.key);
        let begun = Record::DraftBegun {
            draft,
            key: first_key.clone(),
            plan: self.plan,
            base: self.base.clone(),
            options: self.options,
            time: self.begun,
        };
        let upload = self.upload.as_ref().map(|upload| Record::UploadBegun {
            draft,
            upload_id: upload.id.clone(),
            metadata: upload.metadata.clone(),
            content_type: upload.content_type.clone(),
        });
        let moved = (*first_key != self.key).then(|| Record::DraftMoved {
            draft,
            key: self.key.clone(),
            replaced: None,
        });
        std::iter::once(begun).chain(upload).chain(moved)
    }

    /// The records that make this draft. The upload comes first of all, under its own key; then what is
    /// sealed, with the parts that are older; then the other parts, the failure, which a seal would clear,
    /// and what is not sealed.
    fn records(&self, draft: DraftId) -> impl Iterator<Item = Record> + '_ {
        let stored = move |number: &u32| {
            let part = self.parts.get(number)?;
            Some(Record::PartStored {
                draft,
                number: *number,
                len: part.len,
                etag: part.etag(),
                fingerprint: part.fingerprint,
                unsealed: self.unsealed_parts.contains(number),
            })
        };
        let others = self.parts.keys().filter(|number| !self.patched_parts.contains(number));
        let published = self.published.clone().map(|etag| Record::DraftPublished { draft, etag });
        let sealed = self.sealed.as_ref().map(|sealed| Record::DraftSealed {
            draft,
            len: sealed.len,
            base_len: sealed.base_len,
            closed: sealed.closed,
            metadata: sealed.metadata.clone(),
            content_type: sealed.content_type.clone(),
            time: sealed.time,
        });
        let completing = self.completing.as_ref().map(|completing| Record::DraftCompleting {
            draft,
            len: completing.len,
            base_len: completing.base_len,
            newer: completing.newer,
            etag: completing.etag.clone(),
            metadata: completing.metadata.clone(),
            content_type: completing.content_type.clone(),
            time: completing.time,
        });
        let failed =
            self.failed.as_ref().map(|cause| Record::DraftFailed { draft, cause: cause.clone() });
        self.begun_records(draft)
            .chain(self.patched_parts.iter().filter_map(stored))
            .chain(published)
            .chain(self.staged.iter().map(move |entry| entry.record(draft)))
            .chain(sealed)
            .chain(others.filter_map(stored))
            .chain(completing)
            .chain(failed)
            .chain(self.unsealed.iter().map(move |entry| entry.record(draft)))
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
        let resident = self.resident.iter().map(move |(range, crc)| Record::RangeResident {
            object,
            range,
            crc,
        });
        std::iter::once(begun).chain(resident)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
