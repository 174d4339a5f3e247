//! What the records add up to for one draft: where its bytes are, and what a crash would bring back of it.
//!
//! Pure: no I/O, no clock.

use std::time::SystemTime;

use bytes::Bytes;

use super::life::{Event, Life};
use super::parts::{Part, Parts};
use super::record::{BaseVersion, DraftId, Record};
use super::staged::{StagedBytes, StagedLog, StagedRange, UnsealedLog};
use crate::part::PartPlan;
use crate::store::{Carried, ETag, Key, Mark, Metadata, StoredPart, UploadId};

/// So many marks of a draft's PUTs are remembered: one is new where its content has changed since the last.
pub const MARKS_MAX: usize = 8;

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
    /// Parts that the store acknowledged for `upload`. Empty without an upload.
    pub parts: Parts,
    /// Bytes of the file in the draft's staging file, as of the last seal.
    pub staged: StagedLog,
    /// What has come since.
    pub unsealed: Unsealed,
    /// The upload has become a temporary object, or was about to (no ETag): only to be copied from.
    pub made_temporary: Option<Option<ETag>>,
    /// PUTs of the whole file that may have taken effect, the latest last.
    pub marks: Vec<PutMark>,
    /// The upload may have become the file's object: its completion was under way.
    pub completing: Option<Completing>,
    /// How far it has come, with its last fsync or write-back close.
    pub life: Life<Sealed>,
    /// Why the store refused for good. A new upload or a new seal clears it.
    pub failed: Option<String>,
}

/// What has come since the last seal, and is void without a next one: a crash undoes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unsealed {
    pub staged: UnsealedLog,
    /// The content of a small file, for the next seal.
    pub content: Option<Bytes>,
    /// What the object carries, for the next upload or seal.
    pub carried: Option<Carried>,
}

impl Unsealed {
    fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.content.is_none() && self.carried.is_none()
    }

    fn records(&self, draft: DraftId) -> impl Iterator<Item = Record> + '_ {
        let content = content_record(draft, self.content.clone());
        let carried = carries(draft, self.carried.clone());
        self.staged.iter().map(move |entry| entry.record(draft)).chain(content).chain(carried)
    }
}

/// The mark of a PUT of the whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutMark {
    pub mark: Mark,
    /// The file was sealed after it, perhaps with another content. Otherwise what was put is what the seal holds, or
    /// newer.
    pub is_old: bool,
    /// What it brought is not what was sent.
    pub is_damaged: bool,
}

/// A multipart upload of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub id: UploadId,
    /// The key it began with and completes under, whatever the file is called now.
    pub key: Key,
    /// What the object will have, its mark among it.
    pub metadata: Metadata,
    pub content_type: Option<String>,
    pub carried: Carried,
}

impl Upload {
    /// The records that say so of `draft`. What its object carries, if anything, comes first.
    pub fn records(&self, draft: DraftId) -> impl Iterator<Item = Record> {
        let carried = (!self.carried.is_nothing()).then(|| self.carried.clone());
        let begun = Record::UploadBegun {
            draft,
            upload_id: self.id.clone(),
            metadata: self.metadata.clone(),
            content_type: self.content_type.clone(),
        };
        carries(draft, carried).into_iter().chain([begun])
    }

    /// What its object is known by; none of an upload that an older version has begun.
    pub fn mark(&self) -> Option<Mark> {
        Mark::of(&self.metadata)
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
    /// The upload's.
    pub carried: Carried,
    /// When it was asked for.
    pub time: SystemTime,
}

impl Completing {
    /// The record that says so of `draft`. What the object carries is the upload's.
    pub fn record(&self, draft: DraftId) -> Record {
        Record::DraftCompleting {
            draft,
            len: self.len,
            base_len: self.base_len,
            newer: self.newer,
            etag: self.etag.clone(),
            metadata: self.metadata.clone(),
            content_type: self.content_type.clone(),
            time: self.time,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// Length of the file, in bytes.
    pub len: u64,
    /// How much of the base shows, in bytes.
    pub base_len: u64,
    pub metadata: Metadata,
    pub content_type: Option<String>,
    /// `None`: not known, and to be asked for before it is published.
    pub carried: Option<Carried>,
    pub time: SystemTime,
    /// All of it, where that is little; otherwise it is in the staging file, the base and the store.
    pub content: Option<Bytes>,
}

impl Sealed {
    /// The records that say so of `draft`. `closed`: by a close under write-back, not by fsync.
    pub fn records(&self, draft: DraftId, closed: bool) -> impl Iterator<Item = Record> {
        let content = content_record(draft, self.content.clone());
        let carried = carries(draft, self.carried.clone());
        let sealed = Record::DraftSealed {
            draft,
            len: self.len,
            base_len: self.base_len,
            closed,
            metadata: self.metadata.clone(),
            content_type: self.content_type.clone(),
            time: self.time,
        };
        content.into_iter().chain(carried).chain([sealed])
    }
}

impl Draft {
    /// The acknowledged parts as CompleteMultipartUpload wants them, in order.
    pub fn stored_parts(&self) -> Vec<StoredPart> {
        self.parts.iter().map(|(number, part)| part.stored(*number)).collect()
    }
}

impl Draft {
    /// Bytes on the disk: in the staging file, those that are partly overwritten counted whole, and in the seal.
    pub fn staged_bytes(&self) -> u64 {
        let content = self.sealed().and_then(|sealed| sealed.content.as_ref());
        let contents = content.into_iter().chain(&self.unsealed.content);
        let staged = self.staged.bytes() + self.unsealed.staged.bytes();
        staged + contents.map(|c| c.len() as u64).sum::<u64>()
    }

    /// What a crash brings back.
    pub fn sealed(&self) -> Option<&Sealed> {
        self.life.sealed()
    }

    /// Nothing of a file without a name may come back; its upload is known for as long as the draft is.
    pub(super) fn unlink(&mut self) {
        self.life.apply(Event::Unlinked);
        self.forget_parts();
        self.staged.clear();
        self.drop_unsealed();
        // Only against a seal is there an older and a newer.
        self.marks.iter_mut().for_each(|put| put.is_old = false);
        self.failed = None;
    }

    /// What came since the last seal is void.
    pub(super) fn drop_unsealed(&mut self) {
        self.unsealed = Unsealed::default();
    }

    pub(super) fn has_unsealed(&self) -> bool {
        !self.unsealed.is_empty()
    }

    /// Its upload is a temporary object, or may be one, and not the file's.
    pub fn is_temporary(&self) -> bool {
        self.made_temporary.is_some() && self.completing.is_none()
    }

    fn forget_parts(&mut self) {
        self.parts.clear();
        self.completing = None;
        self.made_temporary = None;
    }

    /// Takes in a record about this draft (any but its beginning, its end, and those about others too).
    pub(super) fn apply(&mut self, record: &Record) -> bool {
        match record {
            Record::UploadBegun { upload_id, metadata, content_type, .. } => {
                self.upload = Some(Upload {
                    id: upload_id.clone(),
                    key: self.key.clone(),
                    metadata: metadata.clone(),
                    content_type: content_type.clone(),
                    carried: self.unsealed.carried.take().unwrap_or_default(),
                });
                self.forget_parts();
                self.failed = None;
            }
            Record::DraftMadeTemporary { etag, .. } => self.made_temporary = Some(etag.clone()),
            Record::DraftCompleting { .. } => return self.take_completing(record),
            Record::UploadLost { .. } => {
                let made_temporary = self.made_temporary.take();
                self.forget_parts();
                self.made_temporary = made_temporary;
                return self.upload.take().is_some();
            }
            Record::PartStored { number, len, etag, fingerprint, unsealed, .. } => {
                if self.upload.is_none() {
                    return false;
                }
                self.parts.acknowledge(
                    *number,
                    Part::new(*len, etag, *fingerprint, None),
                    *unsealed,
                );
            }
            Record::PartSummed { number, crc, .. } => return self.parts.sum(*number, *crc),
            Record::PartDropped { number, .. } => return self.parts.remove(*number),
            Record::Staged { range, crc, at, .. } => {
                let bytes = Some(StagedBytes { crc: *crc, at: *at });
                self.unsealed.staged.push(StagedRange { range: *range, bytes });
            }
            Record::StagedDropped { range, .. } => {
                self.unsealed.staged.push(StagedRange { range: *range, bytes: None });
            }
            Record::DraftContent { bytes, .. } => self.unsealed.content = Some(bytes.clone()),
            Record::DraftCarries { carried, .. } => self.unsealed.carried = Some(carried.clone()),
            Record::DraftSealed { .. } => return self.seal(record),
            Record::DraftRebased { base, .. } => {
                let shows = self.completing.as_ref().map_or(base.len, |meant| meant.base_len);
                self.upload = None;
                self.forget_parts();
                self.marks.clear();
                self.base = Some(base.clone());
                if let Some(sealed) = self.life.sealed_mut() {
                    sealed.base_len = shows;
                }
                self.life.apply(Event::Rebased);
            }
            Record::DraftMarked { mark, .. } => {
                self.marks.retain(|put| put.mark != *mark);
                if self.marks.len() == MARKS_MAX {
                    self.marks.remove(0);
                }
                self.marks.push(PutMark { mark: mark.clone(), is_old: false, is_damaged: false });
            }
            Record::DraftDamaged { mark, .. } => {
                let Some(put) = self.marks.iter_mut().find(|put| put.mark == *mark) else {
                    return false;
                };
                put.is_damaged = true;
            }
            Record::DraftFailed { cause, .. } => self.failed = Some(cause.clone()),
            _ => return false,
        }
        true
    }

    fn take_completing(&mut self, record: &Record) -> bool {
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
        let Some(upload) = &self.upload else { return false };
        self.completing = Some(Completing {
            len: *len,
            base_len: *base_len,
            newer: *newer,
            etag: etag.clone(),
            metadata: metadata.clone(),
            content_type: content_type.clone(),
            carried: upload.carried.clone(),
            time: *time,
        });
        true
    }

    /// Of the parts, those over which something was staged since the last seal.
    fn mark_patched_parts(&mut self) {
        let mut next = 1;
        for range in self.unsealed.staged.meant() {
            let (first, last) =
                (self.plan.index_of(range.start()), self.plan.index_of(range.end() - 1));
            next = next.max(first.saturating_add(1));
            self.parts.patch(next, last.saturating_add(1));
            next = next.max(last.saturating_add(2));
        }
    }

    /// All that happened since the last seal is what a crash brings back from now on.
    fn seal(&mut self, record: &Record) -> bool {
        let Record::DraftSealed { len, base_len, closed, metadata, content_type, time, .. } =
            record
        else {
            return false;
        };
        let seal = Sealed {
            len: *len,
            base_len: *base_len,
            metadata: metadata.clone(),
            content_type: content_type.clone(),
            carried: self.unsealed.carried.clone(),
            time: *time,
            content: self.unsealed.content.clone(),
        };
        if !self.life.apply(Event::Sealed { seal, closed: *closed }) {
            return false;
        }
        self.unsealed.carried = None;
        if let Some(completing) = &mut self.completing {
            // What was cut off must not come back out of the object.
            completing.base_len = completing.base_len.min(self.unsealed.staged.cut());
            completing.newer = false;
        }
        self.mark_patched_parts();
        self.unsealed.staged.seal_into(&mut self.staged);
        if self.unsealed.content.take().is_some() {
            // It replaces all that is staged, over parts too.
            self.staged.clear();
            self.parts.unpatch();
        }
        self.parts.seal();
        self.marks.iter_mut().for_each(|put| put.is_old = true);
        self.failed = None;
        true
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
        let upload = self.upload.iter().flat_map(move |upload| upload.records(draft));
        let moved = (*first_key != self.key).then(|| Record::DraftMoved {
            draft,
            key: self.key.clone(),
            replaced: None,
        });
        std::iter::once(begun).chain(upload).chain(moved)
    }

    /// The records that make this draft. The upload comes first of all, under its own key, and that the file has no name;
    /// then what is sealed, with the parts that are older; then the other parts, the failure, which a seal would clear,
    /// and what is not sealed.
    pub(super) fn records(&self, draft: DraftId) -> impl Iterator<Item = Record> + '_ {
        let stored = move |number: &u32| {
            let (number, unsealed) = (*number, self.parts.is_unsealed(*number));
            let part = self.parts.get(&number);
            part.into_iter().flat_map(move |part| part.records(draft, number, unsealed))
        };
        let marks = move |is_old| {
            let marks = self.marks.iter().filter(move |put| put.is_old == is_old);
            marks.map(move |put| Record::DraftMarked { draft, mark: put.mark.clone() })
        };
        let damaged = self.marks.iter().filter(|put| put.is_damaged);
        let damaged =
            damaged.map(move |put| Record::DraftDamaged { draft, mark: put.mark.clone() });
        let others = self.parts.keys().filter(|number| !self.parts.is_patched(**number));
        let made_temporary =
            self.made_temporary.clone().map(|etag| Record::DraftMadeTemporary { draft, etag });
        let closed = self.life.is_closed();
        let sealed = self.sealed().into_iter().flat_map(move |seal| seal.records(draft, closed));
        let unlinked = self.life.is_unlinked().then_some(Record::DraftUnlinked { draft });
        let completing = self.completing.as_ref().map(|completing| completing.record(draft));
        let failed =
            self.failed.as_ref().map(|cause| Record::DraftFailed { draft, cause: cause.clone() });
        self.begun_records(draft)
            .chain(unlinked)
            .chain(self.parts.patched().flat_map(stored))
            .chain(made_temporary)
            .chain(self.staged.iter().map(move |entry| entry.record(draft)))
            .chain(marks(true))
            .chain(sealed)
            .chain(others.flat_map(stored))
            .chain(marks(false))
            .chain(damaged)
            .chain(completing)
            .chain(failed)
            .chain(self.unsealed.records(draft))
    }
}

/// What the next seal of `draft` holds.
fn content_record(draft: DraftId, content: Option<Bytes>) -> Option<Record> {
    content.map(|bytes| Record::DraftContent { draft, bytes })
}

/// What the object of the next upload or seal of `draft` carries.
fn carries(draft: DraftId, carried: Option<Carried>) -> Option<Record> {
    carried.map(|carried| Record::DraftCarries { draft, carried })
}
