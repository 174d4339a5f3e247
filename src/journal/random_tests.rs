//! Random records, for the tests of the state.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use proptest::prelude::*;

use super::super::*;
use crate::journal::{BaseVersion, ContentPart, FileStamp, Fingerprint};
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::store::{Carried, MARK, Mark, Storage, UploadId};

/// Few ids, keys and offsets, so that records meet.
pub fn draft() -> impl Strategy<Value = DraftId> {
    1u64..4
}

pub fn key() -> impl Strategy<Value = Key> {
    prop_oneof![Just("a"), Just("dir/b"), Just("c\n\u{1F980}")].prop_map(Key::from)
}

pub fn etag() -> impl Strategy<Value = ETag> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(|sum| {
            ETag::new(&sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }),
        "[a-zA-Z0-9-]{0,40}".prop_map(|text| ETag::new(&text)),
    ]
}

pub fn range() -> impl Strategy<Value = ByteRange> {
    (0u64..60, prop_oneof![3 => 0u64..3, 1 => 0u64..20])
        .prop_map(|(start, len)| ByteRange::at(start, len))
}

pub fn time() -> impl Strategy<Value = SystemTime> {
    (0u64..4_000_000_000, 0u32..1_000_000_000).prop_map(|(seconds, nanos)| {
        UNIX_EPOCH - Duration::from_secs(2_000_000_000) + Duration::new(seconds, nanos)
    })
}

pub fn begun() -> impl Strategy<Value = Record> {
    let base = proptest::option::of((etag(), any::<u64>()));
    (draft(), key(), base, any::<u64>(), time()).prop_map(|(draft, key, base, options, time)| {
        let base = base.map(|(etag, len)| BaseVersion { etag, len });
        Record::DraftBegun { draft, key, plan: PartPlan::new(5 << 20, false), base, options, time }
    })
}

pub fn sealed() -> impl Strategy<Value = Record> {
    let metadata = proptest::collection::btree_map("[a-z]{1,5}", ".{0,8}", 0..3);
    let content_type = proptest::option::of("[a-z/]{1,9}".prop_map(String::from));
    let lens = (any::<u64>(), any::<u64>());
    (draft(), lens, any::<bool>(), metadata, content_type, time()).prop_map(
        |(draft, (len, base_len), closed, metadata, content_type, time)| Record::DraftSealed {
            draft,
            len,
            base_len,
            closed,
            metadata,
            content_type,
            time,
        },
    )
}

/// Nothing, for an empty name.
fn carried(class: String) -> Carried {
    let class = Some(class).filter(|class| !class.is_empty());
    Carried { storage: Storage { class, ..Storage::default() }, ..Carried::default() }
}

pub fn completing() -> impl Strategy<Value = Record> {
    (draft(), 0u64..60, any::<bool>(), proptest::option::of(etag()), time()).prop_map(
        |(draft, len, newer, etag, time)| Record::DraftCompleting {
            draft,
            len,
            base_len: len,
            newer,
            etag,
            metadata: Metadata::new(),
            content_type: None,
            time,
        },
    )
}

fn mark() -> impl Strategy<Value = Mark> {
    "[0-9a-f]".prop_map(|text| Mark::of(&Metadata::from([(MARK.to_owned(), text)])).unwrap())
}

pub fn draft_record() -> impl Strategy<Value = Record> {
    let fingerprint = proptest::option::of(any::<[u8; 32]>().prop_map(Fingerprint));
    prop_oneof![
        2 => begun(),
        1 => (draft(), key(), proptest::option::of(draft()))
            .prop_map(|(draft, key, replaced)| Record::DraftMoved { draft, key, replaced }),
        1 => draft().prop_map(|draft| Record::DraftUnlinked { draft }),
        1 => (draft(), key(), proptest::option::of((etag(), 0u64..60))).prop_map(
            |(draft, key, base)| Record::DraftFollowed {
                draft,
                key,
                base: base.map(|(etag, len)| BaseVersion { etag, len }),
            }
        ),
        1 => (draft(), any::<[u8; 3]>()).prop_map(|(draft, bytes)| Record::DraftContent {
            draft,
            bytes: Bytes::copy_from_slice(&bytes),
        }),
        2 => (draft(), "[a-z]{0,3}").prop_map(|(draft, class)| Record::DraftCarries {
            draft,
            carried: carried(class),
        }),
        1 => (draft(), etag(), 0u64..60).prop_map(|(draft, etag, len)| Record::DraftRebased {
            draft,
            base: BaseVersion { etag, len },
        }),
        2 => (draft(), "[a-z]{1,6}").prop_map(|(draft, id)| Record::UploadBegun {
            draft,
            upload_id: UploadId(id),
            metadata: Metadata::new(),
            content_type: None,
        }),
        1 => draft().prop_map(|draft| Record::UploadLost { draft }),
        4 => (draft(), 1u32..6, any::<u64>(), etag(), (fingerprint, any::<bool>())).prop_map(
            |(draft, number, len, etag, (fingerprint, unsealed))| Record::PartStored {
                draft, number, len, etag, fingerprint, unsealed,
            }
        ),
        2 => (draft(), 1u32..6, any::<u32>())
            .prop_map(|(draft, number, crc)| Record::PartSummed { draft, number, crc }),
        1 => (draft(), 1u32..6).prop_map(|(draft, number)| Record::PartDropped { draft, number }),
        4 => (draft(), range(), any::<u32>(), 0u64..99)
            .prop_map(|(draft, range, crc, at)| Record::Staged { draft, range, crc, at }),
        1 => (draft(), draft()).prop_map(|(draft, from)| Record::UploadAdopted { draft, from }),
        1 => (draft(), proptest::option::of(etag()))
            .prop_map(|(draft, etag)| Record::DraftMadeTemporary { draft, etag }),
        1 => (draft(), range()).prop_map(|(draft, range)| Record::StagedDropped { draft, range }),
        1 => (draft(), 0u64..60).prop_map(|(draft, from)| Record::StagedDropped {
            draft,
            range: ByteRange::new(from, u64::MAX),
        }),
        2 => completing(),
        3 => sealed(),
        1 => (draft(), ".{0,9}").prop_map(|(draft, cause)| Record::DraftFailed { draft, cause }),
        2 => (draft(), mark()).prop_map(|(draft, mark)| Record::DraftMarked { draft, mark }),
        1 => (draft(), mark()).prop_map(|(draft, mark)| Record::DraftDamaged { draft, mark }),
        1 => draft().prop_map(|draft| Record::DraftEnded { draft }),
    ]
}

pub fn other_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (1u64..9, 1u64..9, 1u64..9).prop_map(|(draft, object, rename)| Record::IdsUsed {
            draft,
            object,
            rename
        }),
        key().prop_map(|key| Record::TemporaryBegun { key }),
        key().prop_map(|key| Record::TemporaryEnded { key }),
        (key(), etag(), 0u64..60).prop_map(|(key, etag, len)| Record::AttributesChanged {
            key,
            etag: Some(etag),
            len,
            metadata: Metadata::new(),
        }),
        key().prop_map(|key| Record::AttributesSaved { key }),
        (key(), etag(), proptest::option::of(draft()))
            .prop_map(|(key, etag, unlinked)| Record::DeletionBegun { key, etag, unlinked }),
        (key(), proptest::option::of(etag()), proptest::collection::vec(mark(), 1..3), draft())
            .prop_map(|(key, etag, marks, draft)| Record::MarkedDeletionBegun {
                key,
                etag,
                marks,
                unlinked: Some(draft),
            }),
        key().prop_map(|key| Record::DeletionEnded { key }),
        (draft(), key(), etag(), 0u64..60)
            .prop_map(|(object, key, etag, len)| Record::ObjectBegun { object, key, etag, len }),
        (draft(), range(), any::<u32>()).prop_map(|(object, range, crc)| Record::RangeResident {
            object,
            range,
            crc
        }),
        (draft(), range()).prop_map(|(object, range)| Record::RangeEvicted { object, range }),
        (draft(), any::<u64>()).prop_map(|(object, sum)| {
            let sum = ObjectSum::Crc64Nvme(sum);
            Record::ObjectSummed { object, sum }
        }),
        (draft(), range(), any::<u64>()).prop_map(|(object, range, sum)| Record::RangeSummed {
            object,
            start: range.start(),
            sum,
        }),
        draft().prop_map(|object| Record::ObjectEnded { object }),
        (draft(), any::<[u8; 16]>(), any::<(u64, u64, u64, (i64, i64))>()).prop_map(
            |(object, boot, (device, inode, len, changed))| Record::ObjectVerified {
                object,
                stamp: FileStamp { boot, device, inode, len, changed },
            }
        ),
        (draft(), key(), key()).prop_map(|(rename, from, to)| Record::DirectoryRenameBegun {
            rename,
            from,
            to
        }),
        draft().prop_map(|rename| Record::DirectoryRenameEnded { rename }),
        (draft(), key(), etag(), proptest::option::of(key()), proptest::option::of(draft()))
            .prop_map(|(rename, from, etag, to, unlinked)| Record::FileRenameBegun {
                rename,
                renaming: FileRename { from, etag, len: 9, to, replaced: None, unlinked },
            }),
        (draft(), any::<bool>())
            .prop_map(|(rename, done)| Record::FileRenameEnded { rename, done }),
        (draft(), etag(), key(), etag()).prop_map(|(rename, source, to, etag)| {
            Record::RenameCopied { rename, source, to, etag }
        }),
        (draft(), key(), time()).prop_map(|(request, key, time)| Record::CreateRequested {
            request,
            key,
            time
        }),
        draft().prop_map(|request| Record::CreateAnswered { request }),
        Just(Record::Opened),
        content_record(),
    ]
}

pub fn content_record() -> impl Strategy<Value = Record> {
    let fingerprint = proptest::option::of(any::<[u8; 32]>().prop_map(Fingerprint));
    let part = (0u64..9, fingerprint).prop_map(|(len, fingerprint)| ContentPart {
        len,
        fingerprint,
        crc: None,
    });
    let parts = proptest::collection::vec(part, 0..4);
    prop_oneof![
        (key(), etag(), time(), parts).prop_map(|(key, etag, time, parts)| Record::ContentKnown {
            key,
            etag,
            time,
            parts
        }),
        (key(), etag(), proptest::collection::vec(any::<Option<u32>>(), 0..4))
            .prop_map(|(key, etag, crcs)| Record::ContentSummed { key, etag, crcs }),
        (key(), key(), etag()).prop_map(|(key, to, etag)| Record::ContentMoved { key, to, etag }),
        key().prop_map(|key| Record::ContentForgotten { key }),
    ]
}

pub fn records() -> impl Strategy<Value = Vec<Record>> {
    proptest::collection::vec(prop_oneof![2 => draft_record(), 1 => other_record()], 0..80)
}
