//! What the records add up to: the second half of residency (disk and store) as it stands.
//!
//! Pure: no I/O, no clock. `apply` is total; a record about something unknown changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::ranges::CheckedRanges;
use super::record::{BaseVersion, DraftId, Fingerprint, ObjectId, Record, RenameId};
use super::staged::StagedLog;
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
    /// The lowest ids that were never used.
    pub next_draft: DraftId,
    pub next_object: ObjectId,
    pub next_rename: RenameId,
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
    /// Bytes of the file in the draft's staging file.
    pub staged: StagedLog,
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
    /// `None`: copied inside the store, content unknown.
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
                    staged: StagedLog::default(),
                    published: None,
                    completing: None,
                    sealed: None,
                    failed: None,
                };
                self.drafts.insert(*draft, begun);
                true
            }
            Record::UploadAdopted { draft, from } => self.adopt_upload(*draft, *from),
            Record::DraftMoved { draft, .. }
            | Record::DraftPublished { draft, .. }
            | Record::DraftCompleting { draft, .. }
            | Record::UploadBegun { draft, .. }
            | Record::UploadLost { draft }
            | Record::PartStored { draft, .. }
            | Record::PartDropped { draft, .. }
            | Record::Staged { draft, .. }
            | Record::StagedDropped { draft, .. }
            | Record::DraftSealed { draft, .. }
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
            Record::DeletionBegun { key, etag } => {
                self.deletions.insert(key.clone(), etag.clone());
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
        }
    }

    fn adopt_upload(&mut self, draft: DraftId, from: DraftId) -> bool {
        if draft == from || !self.drafts.contains_key(&draft) {
            return false;
        }
        let Some(left) = self.drafts.remove(&from) else { return false };
        if let Some(adopting) = self.drafts.get_mut(&draft) {
            adopting.upload = left.upload;
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
            .chain(
                self.deletions.iter().map(|(key, etag)| Record::DeletionBegun {
                    key: key.clone(),
                    etag: etag.clone(),
                }),
            )
            .chain(self.helpers.iter().map(|key| Record::HelperBegun { key: key.clone() }))
            .chain(self.renames.iter().map(|(rename, (from, to))| Record::RenameBegun {
                rename: *rename,
                from: from.clone(),
                to: to.clone(),
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
    /// Takes in a record about this draft (any but its beginning and its end).
    fn apply(&mut self, record: &Record) -> bool {
        match record {
            Record::DraftMoved { key, .. } => self.key = key.clone(),
            Record::UploadBegun { upload_id, metadata, content_type, .. } => {
                self.upload = Some(Upload {
                    id: upload_id.clone(),
                    key: self.key.clone(),
                    metadata: metadata.clone(),
                    content_type: content_type.clone(),
                });
                self.parts.clear();
                self.published = None;
                self.completing = None;
                self.failed = None;
            }
            Record::DraftPublished { etag, .. } => self.published = Some(etag.clone()),
            Record::DraftCompleting {
                len, base_len, etag, metadata, content_type, time, ..
            } => {
                if self.upload.is_none() {
                    return false;
                }
                self.completing = Some(Completing {
                    len: *len,
                    base_len: *base_len,
                    etag: etag.clone(),
                    metadata: metadata.clone(),
                    content_type: content_type.clone(),
                    time: *time,
                });
            }
            Record::UploadLost { .. } => {
                self.parts.clear();
                self.completing = None;
                return self.upload.take().is_some();
            }
            Record::PartStored { number, len, etag, fingerprint, .. } => {
                if self.upload.is_none() {
                    return false;
                }
                let tag = CompactTag::new(etag);
                let part = Part { len: *len, fingerprint: *fingerprint, tag };
                self.parts.insert(*number, part);
            }
            Record::PartDropped { number, .. } => return self.parts.remove(number).is_some(),
            Record::Staged { range, crc, at, .. } => self.staged.insert(*range, *crc, *at),
            Record::StagedDropped { range, .. } => {
                // A cut of the file, not of one part.
                if range.end() == u64::MAX {
                    self.cut(range.start());
                }
                return self.staged.remove(*range);
            }
            Record::DraftSealed { len, base_len, closed, metadata, content_type, time, .. } => {
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
            Record::DraftFailed { cause, .. } => self.failed = Some(cause.clone()),
            _ => return false,
        }
        true
    }

    /// What was sealed is shorter from now on: its bytes behind the cut are gone, and must not come back
    /// as zeros or as the base's.
    fn cut(&mut self, len: u64) {
        if let Some(completing) = &mut self.completing {
            completing.base_len = completing.base_len.min(len);
        }
        if let Some(sealed) = &mut self.sealed {
            sealed.len = sealed.len.min(len);
            sealed.base_len = sealed.base_len.min(len);
        }
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
        let moved =
            (*first_key != self.key).then(|| Record::DraftMoved { draft, key: self.key.clone() });
        std::iter::once(begun).chain(upload).chain(moved)
    }

    /// The records that make this draft. The upload comes first of all, under its own key; the failure
    /// last, since a seal would clear it.
    fn records(&self, draft: DraftId) -> impl Iterator<Item = Record> + '_ {
        let parts = self.parts.iter().map(move |(number, part)| Record::PartStored {
            draft,
            number: *number,
            len: part.len,
            etag: part.etag(),
            fingerprint: part.fingerprint,
        });
        let published = self.published.clone().map(|etag| Record::DraftPublished { draft, etag });
        let staged = self.staged.iter().map(move |entry| match entry.bytes {
            Some(bytes) => {
                Record::Staged { draft, range: entry.range, crc: bytes.crc, at: bytes.at }
            }
            None => Record::StagedDropped { draft, range: entry.range },
        });
        let completing = self.completing.as_ref().map(|completing| Record::DraftCompleting {
            draft,
            len: completing.len,
            base_len: completing.base_len,
            etag: completing.etag.clone(),
            metadata: completing.metadata.clone(),
            content_type: completing.content_type.clone(),
            time: completing.time,
        });
        let sealed = self.sealed.as_ref().map(|sealed| Record::DraftSealed {
            draft,
            len: sealed.len,
            base_len: sealed.base_len,
            closed: sealed.closed,
            metadata: sealed.metadata.clone(),
            content_type: sealed.content_type.clone(),
            time: sealed.time,
        });
        let failed =
            self.failed.as_ref().map(|cause| Record::DraftFailed { draft, cause: cause.clone() });
        self.begun_records(draft)
            .chain(parts)
            .chain(published)
            .chain(staged)
            // Behind what is staged, where a cut would count a second time.
            .chain(completing)
            .chain(sealed)
            .chain(failed)
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
