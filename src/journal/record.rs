//! What the journal remembers: one fact a record.
//!
//! A record is written after the bytes that it names, and before anything that relies on it. The order of
//! variants and fields is the format on disk: a change of either is a new [`super::frame::VERSION`].

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::store::{Carried, ETag, Key, Mark, Metadata, ObjectSum, UploadId};

/// A new version of an object in the making. Never used twice in the life of a journal.
pub type DraftId = u64;

/// An object (a key and an ETag) with bytes on the local disk. Never used twice in the life of a journal.
pub type ObjectId = u64;

/// A directory rename in progress. Never used twice in the life of a journal.
pub type RenameId = u64;

/// A collision-resistant digest of a part's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

/// The version of an object that a draft replaces in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseVersion {
    pub etag: ETag,
    /// In bytes.
    pub len: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// Ids below these were used. Comes first after a checkpoint, which forgets what has ended.
    IdsUsed {
        draft: DraftId,
        object: ObjectId,
        rename: RenameId,
    },

    /// A new version of `key` is being assembled. `options` is a digest of what an upload fixes at its
    /// beginning (storage class, encryption, ACL): an upload is resumed only under the same options.
    DraftBegun {
        draft: DraftId,
        key: Key,
        plan: PartPlan,
        base: Option<BaseVersion>,
        options: u64,
        #[serde(with = "epoch")]
        time: SystemTime,
    },
    /// The file was renamed. An upload that has begun stays under the key it began with. The file that had
    /// the name before, if `replaced` is its draft, has lost it: see `DraftUnlinked`.
    DraftMoved {
        draft: DraftId,
        key: Key,
        replaced: Option<DraftId>,
    },
    /// A multipart upload under the draft's present key. Parts of one before are void.
    UploadBegun {
        draft: DraftId,
        upload_id: UploadId,
        /// What the object will have: S3 fixes it now.
        metadata: Metadata,
        content_type: Option<String>,
    },
    /// The store has forgotten the upload (or it was aborted): its parts are void.
    UploadLost {
        draft: DraftId,
    },
    /// The store acknowledged a part. The fingerprint is that of its content, or, where it was copied inside
    /// the store, of where it came from.
    /// `unsealed`: it may hold what was written since the last `DraftSealed`.
    PartStored {
        draft: DraftId,
        number: u32,
        len: u64,
        etag: ETag,
        fingerprint: Option<Fingerprint>,
        unsealed: bool,
    },
    /// The part no longer holds what the file does.
    PartDropped {
        draft: DraftId,
        number: u32,
    },
    /// The upload of draft `from`, with its parts, is `draft`'s from now on; `from` has ended.
    UploadAdopted {
        draft: DraftId,
        from: DraftId,
    },
    /// The draft's upload is about to be completed under its own key (no ETag yet), or is now an object
    /// there: a temporary one, only to have its parts copied and then to be deleted.
    DraftMadeTemporary {
        draft: DraftId,
        etag: Option<ETag>,
    },
    /// `range` of the file lies in the draft's staging file at position `at`, with this CRC-32C. As with
    /// `StagedDropped`, it counts from the next `DraftSealed` on; without one, `Opened` voids it.
    Staged {
        draft: DraftId,
        range: ByteRange,
        crc: u32,
        at: u64,
    },
    /// The staging file is no longer meant for `range` of the file. One that ends at 2^64 - 1 is a cut of the
    /// file.
    StagedDropped {
        draft: DraftId,
        range: ByteRange,
    },
    /// What the file is, as of an fsync (`closed` is false) or of a close under write-back. Of the base
    /// only the first `base_len` bytes show.
    DraftSealed {
        draft: DraftId,
        len: u64,
        base_len: u64,
        closed: bool,
        metadata: Metadata,
        content_type: Option<String>,
        #[serde(with = "epoch")]
        time: SystemTime,
    },
    /// The store refuses the draft for good, until a user asks to try again.
    DraftFailed {
        draft: DraftId,
        cause: String,
    },
    /// The draft is complete in the bucket, or given up: nothing of it is left to do.
    DraftEnded {
        draft: DraftId,
    },

    /// A temporary object of ours that must be deleted.
    TemporaryBegun {
        key: Key,
    },
    TemporaryEnded {
        key: Key,
    },

    /// An object that has, or will have, bytes on the local disk.
    ObjectBegun {
        object: ObjectId,
        key: Key,
        etag: ETag,
        len: u64,
    },
    /// `range` of the object lies in its cache file, with this CRC-32C.
    RangeResident {
        object: ObjectId,
        range: ByteRange,
        crc: u32,
    },
    RangeEvicted {
        object: ObjectId,
        range: ByteRange,
    },
    ObjectEnded {
        object: ObjectId,
    },

    /// A rename of the directory `from` to `to`, which takes many requests.
    DirectoryRenameBegun {
        rename: RenameId,
        from: Key,
        to: Key,
    },
    DirectoryRenameEnded {
        rename: RenameId,
    },

    /// The draft's upload, with all the parts that the journal knows of it, is about to be completed as
    /// the file: what the object will be, by which it is recognised if the answer is lost. Of it the
    /// draft still shows the first `base_len` bytes.
    DraftCompleting {
        draft: DraftId,
        len: u64,
        base_len: u64,
        /// What was sealed, if anything was, is older: nothing of it is missing in the object.
        newer: bool,
        /// Where it follows from the parts.
        etag: Option<ETag>,
        metadata: Metadata,
        content_type: Option<String>,
        #[serde(with = "epoch")]
        time: SystemTime,
    },

    /// Mode, owner, times or extended attributes of an object, or of a directory (its key ends in `/`), are
    /// to be these; the store does not have them yet.
    AttributesChanged {
        key: Key,
        /// The version that they belong to; none for a directory.
        etag: Option<ETag>,
        len: u64,
        metadata: Metadata,
    },
    /// The store has them, or they belong to nothing any more.
    AttributesSaved {
        key: Key,
    },

    /// This version of an object was unlinked and is to be deleted from the store. `unlinked` is the draft
    /// that modified it: see `DraftUnlinked`.
    DeletionBegun {
        key: Key,
        etag: ETag,
        unlinked: Option<DraftId>,
    },
    /// It is gone, or stays: refused, or another version by now.
    DeletionEnded {
        key: Key,
    },

    /// The store is about to be asked for an upload of `key`: one may be there whose answer was never seen.
    /// `request` is a number of its own, out of those of drafts.
    CreateRequested {
        request: DraftId,
        key: Key,
        #[serde(with = "epoch")]
        time: SystemTime,
    },
    /// Whatever the store has begun for that request is known.
    CreateAnswered {
        request: DraftId,
    },
    /// The draft's upload has become the object `base`, which the draft, also as it was sealed, modifies
    /// from now on.
    DraftRebased {
        draft: DraftId,
        base: BaseVersion,
    },
    /// The file has lost its name: nothing of it may appear in the store. Only its upload is still known.
    DraftUnlinked {
        draft: DraftId,
    },
    /// A rename of one file in the store: a copy of `from`, then its deletion. Or its deletion alone.
    FileRenameBegun {
        rename: RenameId,
        renaming: FileRename,
    },
    /// `done`: the file has its new name, or none, and the draft that goes with the old one has lost it.
    FileRenameEnded {
        rename: RenameId,
        done: bool,
    },
    /// A process has opened the journal: those before are gone, and with them what they had not sealed.
    Opened,

    /// An object that we have completed has this content, part by part from its beginning: the same content
    /// can be copied from there. Replaces what was known of the key.
    ContentKnown {
        key: Key,
        etag: ETag,
        #[serde(with = "epoch")]
        time: SystemTime,
        parts: Vec<ContentPart>,
    },
    /// A copy of that object, which is `to` and has this ETag, takes its place.
    ContentMoved {
        key: Key,
        to: Key,
        etag: ETag,
    },
    ContentForgotten {
        key: Key,
    },

    /// Every range of the object that is recorded here was compared with its checksum, while its cache file was as
    /// `stamp` says, and is on the disk. Void with the next change of its ranges.
    ObjectVerified {
        object: ObjectId,
        stamp: FileStamp,
    },

    /// All bytes of a small file, for the next `DraftSealed`: they replace what is staged. As with `Staged`,
    /// `Opened` voids it. A seal that does not follow one has no content of its own.
    DraftContent {
        draft: DraftId,
        bytes: Bytes,
    },

    /// The rename, of a directory or of a file, has copied the version `source` to `to`, where it has the ETag
    /// `etag`. Comes before the source is deleted.
    RenameCopied {
        rename: RenameId,
        source: ETag,
        to: Key,
        etag: ETag,
    },

    /// What the object will carry beside its type and its metadata, as of the next `UploadBegun` or `DraftSealed`. An
    /// upload that does not follow one carries nothing; of a seal that does not, it is not known. As with `Staged`,
    /// `Opened` voids it.
    DraftCarries {
        draft: DraftId,
        carried: Carried,
    },

    /// The draft is about to be put as a whole, with this mark.
    DraftMarked {
        draft: DraftId,
        mark: Mark,
    },

    /// What the draft modifies was copied inside the store, or its directory was renamed: the file has this key, and
    /// its base this version. Its upload, if it has one, stays as it is.
    DraftFollowed {
        draft: DraftId,
        key: Key,
        base: Option<BaseVersion>,
    },

    /// The draft's PUT with this mark has brought other bytes than were sent: what has this mark is not the file.
    DraftDamaged {
        draft: DraftId,
        mark: Mark,
    },

    /// The object of this key is to be deleted from the store if it has one of these marks, which are those of PUTs and
    /// uploads that may have taken effect without an answer, or if it is this version, where one is known. `unlinked` is
    /// the draft that they were of: see `DraftUnlinked`. Ends as that of `DeletionBegun` does.
    MarkedDeletionBegun {
        key: Key,
        etag: Option<ETag>,
        marks: Vec<Mark>,
        unlinked: Option<DraftId>,
    },

    /// The CRC-32C of the bytes of a part that the store has: comes behind its `PartStored`, in the same write.
    PartSummed {
        draft: DraftId,
        number: u32,
        crc: u32,
    },
    /// Likewise of the parts of an object that we have completed, those that are known; behind its `ContentKnown`.
    ContentSummed {
        key: Key,
        etag: ETag,
        crcs: Vec<Option<u32>>,
    },

    /// The checksum of the whole object, as its store tells it.
    ObjectSummed {
        object: ObjectId,
        sum: ObjectSum,
    },
    /// What the range of the object that begins there comes to by the algorithm of that: comes behind its
    /// `RangeResident`, in the same write.
    RangeSummed {
        object: ObjectId,
        start: u64,
        sum: u64,
    },
}

/// What a file system says of a file that changes with each change of its content. Equal stamps, equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// The kernel's run: what has not come to the disk is lost with it.
    pub boot: [u8; 16],
    pub device: u64,
    pub inode: u64,
    /// In bytes.
    pub len: u64,
    /// ctime, which no program can set: seconds, and nanoseconds beyond them.
    pub changed: (i64, i64),
}

/// A part of an object that we have completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentPart {
    /// In bytes.
    pub len: u64,
    /// None: only its length is known.
    pub fingerprint: Option<Fingerprint>,
    /// The CRC-32C of its bytes, where it is known: a record of its own has it.
    #[serde(skip)]
    pub crc: Option<u32>,
}

/// What is renamed, or removed, and what loses its name by that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRename {
    pub from: Key,
    pub etag: ETag,
    /// In bytes.
    pub len: u64,
    /// None: it is removed.
    pub to: Option<Key>,
    /// The object that was there under the new name.
    pub replaced: Option<ETag>,
    /// The draft of the file that is replaced or removed.
    pub unlinked: Option<DraftId>,
}

/// A time as seconds and nanoseconds since 1970; unlike serde's own form, also before.
mod epoch {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let (before, distance) = match time.duration_since(UNIX_EPOCH) {
            Ok(distance) => (false, distance),
            Err(error) => (true, error.duration()),
        };
        (before, distance.as_secs(), distance.subsec_nanos()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let (before, seconds, nanos) = <(bool, u64, u32)>::deserialize(deserializer)?;
        if nanos >= 1_000_000_000 {
            return Err(D::Error::custom("nanoseconds beyond a second"));
        }
        let distance = Duration::new(seconds, nanos);
        let time = if before {
            UNIX_EPOCH.checked_sub(distance)
        } else {
            UNIX_EPOCH.checked_add(distance)
        };
        time.ok_or_else(|| D::Error::custom("time out of range"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::journal::codec;

    #[test]
    fn times_before_1970_come_back() {
        for time in [
            UNIX_EPOCH - Duration::new(5, 7),
            UNIX_EPOCH,
            UNIX_EPOCH + Duration::new(1_800_000_000, 999_999_999),
        ] {
            let record = Record::DraftSealed {
                draft: 1,
                len: 2,
                base_len: 1,
                closed: true,
                metadata: Metadata::from([("mode".to_owned(), "33188".to_owned())]),
                content_type: None,
                time,
            };
            let mut body = Vec::new();
            codec::encode_into(&mut body, &record).unwrap();
            assert_eq!(codec::decode::<Record>(&body), Some(record));
        }
    }
}
