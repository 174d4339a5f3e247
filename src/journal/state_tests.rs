//! The state against a naive model: one checksum a byte instead of ranges, plain maps instead of records.

use std::collections::{HashMap, HashSet};
use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;
use crate::journal::{BaseVersion, FileStamp, Fingerprint, codec};
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::store::{Carried, UploadId};

#[path = "random_tests.rs"]
mod random;
use random::*;

fn replayed(records: impl IntoIterator<Item = Record>) -> State {
    let mut state = State::default();
    for record in records {
        state.apply(&record);
    }
    state
}

/// Ranges the naive way: for every byte, which entry holds it; an entry that loses a byte is gone.
#[derive(Default)]
struct NaiveRanges {
    owner: HashMap<u64, usize>,
    entries: Vec<Option<(ByteRange, u32)>>,
}

impl NaiveRanges {
    fn remove(&mut self, range: ByteRange) {
        for byte in range.start()..range.end() {
            if let Some(entry) = self.owner.get(&byte).copied() {
                self.entries[entry] = None;
                self.owner.retain(|_, owner| *owner != entry);
            }
        }
    }

    fn insert(&mut self, range: ByteRange, crc: u32) {
        self.remove(range);
        if !range.is_empty() {
            self.owner.extend((range.start()..range.end()).map(|byte| (byte, self.entries.len())));
            self.entries.push(Some((range, crc)));
        }
    }

    fn sorted(&self) -> Vec<(ByteRange, u32)> {
        let mut entries: Vec<_> = self.entries.iter().flatten().copied().collect();
        entries.sort_by_key(|(range, _)| range.start());
        entries
    }
}

/// One draft in the naive model.
#[derive(Default)]
struct NaiveDraft {
    key: Key,
    base: Option<BaseVersion>,
    upload: Option<(String, Key)>,
    parts: HashMap<u32, (u64, ETag, Option<Fingerprint>, Option<u32>)>,
    unsealed_parts: HashSet<u32>,
    patched_parts: HashSet<u32>,
    /// For every byte, the checksum and the place of the entry that is meant.
    staged: HashMap<u64, (u32, u64)>,
    /// What came since the last seal.
    unsealed: Vec<Record>,
    sealed: Option<Record>,
    /// It has no name: it is sealed no more.
    unlinked: bool,
    /// What the seal has, and what the next one will have.
    content: Option<Record>,
    unsealed_content: Option<Record>,
    /// What the seal carries, the upload, and the next of either.
    carried: Option<Record>,
    upload_carried: Option<Record>,
    next_carried: Option<Record>,
    /// Length of what is about to be, and how much of it shows.
    completing: Option<(u64, u64)>,
    failed: Option<String>,
}

impl NaiveDraft {
    fn forget_parts(&mut self) {
        self.parts.clear();
        self.unsealed_parts.clear();
        self.patched_parts.clear();
        self.completing = None;
    }

    fn unname(&mut self) {
        self.unlinked = true;
        self.forget_parts();
        self.staged.clear();
        self.unsealed.clear();
        (self.sealed, self.failed, self.content, self.unsealed_content) = Default::default();
        (self.carried, self.next_carried) = (None, None);
    }

    fn seal(&mut self, record: &Record) {
        if self.unlinked {
            return;
        }
        let mut record = record.clone();
        if let Record::DraftSealed { closed, .. } = &mut record {
            *closed |= matches!(self.sealed, Some(Record::DraftSealed { closed: true, .. }));
        }
        let mut unsealed: Vec<Record> = Vec::new();
        for record in std::mem::take(&mut self.unsealed) {
            let (Record::Staged { range: new, .. } | Record::StagedDropped { range: new, .. }) =
                record
            else {
                unreachable!()
            };
            unsealed.retain(|old| match old {
                Record::Staged { range, .. } | Record::StagedDropped { range, .. } => {
                    !new.contains(range)
                }
                _ => unreachable!(),
            });
            unsealed.push(record);
        }
        for record in unsealed {
            match record {
                Record::Staged { range, crc, at, .. } => {
                    if !range.is_empty() {
                        // All these ranges lie in the first part.
                        self.patched_parts.extend(self.parts.contains_key(&1).then_some(1));
                    }
                    self.staged.extend((range.start()..range.end()).map(|byte| (byte, (crc, at))));
                }
                Record::StagedDropped { range, .. } => {
                    self.staged.retain(|byte, _| *byte < range.start() || *byte >= range.end());
                    if let Some((_, shows)) = &mut self.completing
                        && range.end() == u64::MAX
                    {
                        *shows = (*shows).min(range.start());
                    }
                }
                _ => unreachable!(),
            }
        }
        self.content = self.unsealed_content.take();
        self.carried = self.next_carried.take();
        if self.content.is_some() {
            self.staged.clear();
            self.patched_parts.clear();
        }
        self.unsealed_parts.clear();
        self.sealed = Some(record);
        self.failed = None;
    }
}

#[derive(Default)]
struct Naive {
    drafts: HashMap<DraftId, NaiveDraft>,
    /// Renames of files, and the draft that each replaces.
    renames: HashMap<RenameId, Option<DraftId>>,
}

fn apply_naively(naive: &mut Naive, record: &Record) {
    let Naive { drafts, renames } = naive;
    match record.clone() {
        Record::FileRenameBegun { rename, renaming } => {
            renames.insert(rename, renaming.unlinked);
        }
        Record::FileRenameEnded { rename, done } => {
            if let Some(Some(replaced)) = renames.remove(&rename).filter(|_| done) {
                drafts.entry(replaced).and_modify(NaiveDraft::unname);
            }
        }
        Record::DraftBegun { draft, key, base, .. } => {
            drafts.entry(draft).or_insert(NaiveDraft { key, base, ..NaiveDraft::default() });
        }
        Record::DraftMoved { draft, key, replaced } if drafts.contains_key(&draft) => {
            drafts.entry(draft).and_modify(|d| d.key = key);
            if let Some(replaced) = replaced {
                drafts.entry(replaced).and_modify(NaiveDraft::unname);
            }
        }
        Record::DraftFollowed { draft, key, base } => {
            drafts.entry(draft).and_modify(|d| (d.key, d.base) = (key, base));
        }
        Record::DraftUnlinked { draft }
        | Record::DeletionBegun { unlinked: Some(draft), .. }
        | Record::MarkedDeletionBegun { unlinked: Some(draft), .. } => {
            drafts.entry(draft).and_modify(NaiveDraft::unname);
        }
        Record::DraftRebased { draft, base } => {
            drafts.entry(draft).and_modify(|d| {
                d.base = Some(base.clone());
                let shows = d.completing.map_or(base.len, |(_, shows)| shows);
                d.upload = None;
                d.forget_parts();
                if let Some(Record::DraftSealed { base_len, .. }) = &mut d.sealed {
                    *base_len = shows;
                }
            });
        }
        Record::DraftCompleting { draft, len, .. } => {
            drafts.entry(draft).and_modify(|d| {
                if d.upload.is_some() {
                    d.completing = Some((len, len));
                }
            });
        }
        Record::Opened => drafts.values_mut().for_each(|d| {
            d.unsealed.clear();
            (d.unsealed_content, d.next_carried) = (None, None);
        }),
        Record::UploadBegun { draft, upload_id, .. } => {
            drafts.entry(draft).and_modify(|d| {
                d.upload = Some((upload_id.0, d.key.clone()));
                d.upload_carried = d.next_carried.take();
                d.forget_parts();
                d.failed = None;
            });
        }
        Record::UploadLost { draft } => {
            drafts.entry(draft).and_modify(|d| {
                d.upload = None;
                d.forget_parts();
            });
        }
        Record::PartStored { draft, number, len, etag, fingerprint, unsealed } => {
            if let Some(d) = drafts.get_mut(&draft).filter(|d| d.upload.is_some()) {
                d.parts.insert(number, (len, etag, fingerprint, None));
                d.patched_parts.remove(&number);
                d.unsealed_parts.remove(&number);
                d.unsealed_parts.extend(unsealed.then_some(number));
            }
        }
        Record::PartSummed { draft, number, crc } => {
            if let Some(part) = drafts.get_mut(&draft).and_then(|d| d.parts.get_mut(&number)) {
                part.3 = Some(crc);
            }
        }
        Record::PartDropped { draft, number } => {
            drafts.entry(draft).and_modify(|d| {
                d.parts.remove(&number);
                d.patched_parts.remove(&number);
                d.unsealed_parts.remove(&number);
            });
        }
        Record::Staged { draft, .. } | Record::StagedDropped { draft, .. } => {
            drafts.entry(draft).and_modify(|d| d.unsealed.push(record.clone()));
        }
        Record::UploadAdopted { draft, from } if draft != from && drafts.contains_key(&draft) => {
            let left = drafts.remove(&from);
            if let (Some(left), Some(d)) = (left, drafts.get_mut(&draft)) {
                d.unsealed_parts = left.parts.keys().copied().collect();
                d.patched_parts.clear();
                (d.upload, d.parts, d.completing) = (left.upload, left.parts, None);
                d.upload_carried = left.upload_carried;
            }
        }
        Record::DraftContent { draft, .. } => {
            drafts.entry(draft).and_modify(|d| d.unsealed_content = Some(record.clone()));
        }
        Record::DraftCarries { draft, .. } => {
            drafts.entry(draft).and_modify(|d| d.next_carried = Some(record.clone()));
        }
        Record::DraftSealed { draft, .. } => {
            drafts.entry(draft).and_modify(|d| d.seal(record));
        }
        Record::DraftFailed { draft, cause } => {
            drafts.entry(draft).and_modify(|d| d.failed = Some(cause));
        }
        Record::DraftEnded { draft } => drop(drafts.remove(&draft)),
        _ => {}
    }
}

/// What a restored draft would take from the staging file, byte by byte.
fn meant(staged: &StagedLog) -> HashMap<u64, (u32, u64)> {
    let mut meant = HashMap::new();
    for entry in staged.iter() {
        match entry.bytes {
            Some(bytes) => {
                let stretch = entry.range.start()..entry.range.end();
                meant.extend(stretch.map(|byte| (byte, (bytes.crc, bytes.at))));
            }
            // A cut reaches to the end of all numbers.
            None => {
                meant.retain(|byte, _| *byte < entry.range.start() || *byte >= entry.range.end())
            }
        }
    }
    meant
}

fn carried_of(record: &Record) -> Carried {
    let Record::DraftCarries { carried, .. } = record else { unreachable!() };
    carried.clone()
}

fn assert_like_naive(id: DraftId, draft: &Draft, naive: &NaiveDraft) {
    assert_eq!(draft.key, naive.key);
    assert_eq!(draft.base, naive.base);
    let upload = draft.upload.as_ref().map(|upload| (upload.id.0.clone(), upload.key.clone()));
    assert_eq!(upload, naive.upload);
    let naive_carried = naive.upload_carried.as_ref().map_or(Carried::default(), carried_of);
    assert!(draft.upload.as_ref().is_none_or(|upload| upload.carried == naive_carried));
    let parts: HashMap<_, _> = draft
        .parts
        .iter()
        .map(|(number, part)| (*number, (part.len, part.etag(), part.fingerprint, part.crc)))
        .collect();
    assert_eq!(parts, naive.parts);
    let completing = draft.completing.as_ref().map(|meant| (meant.len, meant.base_len));
    assert_eq!(completing, naive.completing);
    assert!(draft.parts.patched().eq(naive.patched_parts.iter()));
    for number in 1..6 {
        let sealed = naive.parts.contains_key(&number) && !naive.unsealed_parts.contains(&number);
        assert_eq!(draft.parts.is_sealed(number), sealed);
    }
    assert_eq!(meant(&draft.staged), naive.staged);
    assert_eq!(draft.failed, naive.failed);
    assert_eq!(draft.life.is_unlinked(), naive.unlinked);
    let closed = draft.life.is_closed();
    let sealed = draft.sealed().into_iter().flat_map(|sealed| sealed.records(id, closed));
    let sealed: Vec<Record> = sealed.collect();
    let naive = [&naive.content, &naive.carried, &naive.sealed];
    assert_eq!(sealed, naive.into_iter().flatten().cloned().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_checkpoint_says_the_same_as_the_records_before_it(records in records()) {
        let state = replayed(records);
        prop_assert_eq!(&replayed(state.records()), &state);
    }

    #[test]
    fn a_checkpoint_in_the_middle_changes_nothing(before in records(), after in records()) {
        let mut through = replayed(before);
        let mut across = replayed(through.records());
        for record in &after {
            prop_assert_eq!(through.apply(record), across.apply(record));
        }
        prop_assert_eq!(through, across);
    }

    #[test]
    fn drafts_are_what_a_naive_model_says(records in records()) {
        let mut state = State::default();
        let mut naive = Naive::default();
        for record in &records {
            state.apply(record);
            apply_naively(&mut naive, record);
        }
        prop_assert_eq!(state.drafts.len(), naive.drafts.len());
        for (id, draft) in &state.drafts {
            assert_like_naive(*id, draft, &naive.drafts[id]);
        }
    }

    #[test]
    fn resident_ranges_are_what_a_naive_model_says(
        steps in proptest::collection::vec((proptest::bool::weighted(0.9), range(), any::<u32>()), 0..120)
    ) {
        let object = 1;
        let begun =
            Record::ObjectBegun { object, key: "k".into(), etag: ETag::new("e"), len: 70 };
        let mut state = replayed([begun]);
        let mut naive = NaiveRanges::default();
        for (resident, range, crc) in steps {
            if resident {
                let applied = state.apply(&Record::RangeResident { object, range, crc });
                prop_assert_eq!(applied, range.end() <= 70);
                if applied {
                    naive.insert(range, crc);
                }
            } else {
                state.apply(&Record::RangeEvicted { object, range });
                naive.remove(range);
            }
            let resident = state.objects[&object].resident.iter();
            let resident: Vec<_> = resident.map(|(range, sums)| (range, sums.crc)).collect();
            prop_assert_eq!(resident, naive.sorted());
        }
    }

    #[test]
    fn every_record_comes_back_from_its_encoded_form(records in records()) {
        for record in records {
            let mut body = Vec::new();
            codec::encode_into(&mut body, &record).unwrap();
            prop_assert_eq!(codec::encoded_len(&record).unwrap(), body.len() as u64);
            prop_assert_eq!(codec::decode::<Record>(&body), Some(record));
        }
    }
}

#[test]
fn a_seal_with_all_content_has_no_patched_parts() {
    let draft = 1;
    let range = ByteRange::new(0, 1);
    let state = replayed([
        Record::DraftBegun {
            draft,
            key: "k".into(),
            plan: PartPlan::new(5 << 20, false),
            base: None,
            options: 0,
            time: UNIX_EPOCH,
        },
        Record::UploadBegun {
            draft,
            upload_id: UploadId("u".into()),
            metadata: Default::default(),
            content_type: None,
        },
        Record::PartStored {
            draft,
            number: 1,
            len: 1,
            etag: ETag::new("e"),
            fingerprint: None,
            unsealed: false,
        },
        Record::DraftContent { draft, bytes: bytes::Bytes::from_static(b"x") },
        Record::Staged { draft, range, crc: 0, at: 0 },
        Record::DraftSealed {
            draft,
            len: 1,
            base_len: 0,
            closed: true,
            metadata: Default::default(),
            content_type: None,
            time: UNIX_EPOCH,
        },
    ]);
    assert_eq!(replayed(state.records()), state);
}

#[test]
fn a_moved_draft_completes_under_the_key_its_upload_began_with() {
    let mut state = replayed([
        Record::DraftBegun {
            draft: 1,
            key: ".tmp".into(),
            plan: PartPlan::new(5 << 20, false),
            base: None,
            options: 0,
            time: UNIX_EPOCH,
        },
        Record::UploadBegun {
            draft: 1,
            upload_id: UploadId("u".into()),
            metadata: Default::default(),
            content_type: None,
        },
        Record::DraftMoved { draft: 1, key: "final".into(), replaced: None },
    ]);
    for _ in 0..2 {
        let draft = &state.drafts[&1];
        assert_eq!(draft.key, Key::from("final"));
        assert_eq!(draft.upload.as_ref().unwrap().key, Key::from(".tmp"));
        state = replayed(state.records());
    }
}

#[test]
fn what_was_verified_is_void_with_the_next_change_of_its_ranges() {
    let (object, crc, key) = (1, 7, Key::from("k"));
    let stamp = FileStamp { boot: [3; 16], device: 1, inode: 2, len: 9, changed: (4, 5) };
    let begun = Record::ObjectBegun { object, key, etag: ETag::new("e"), len: 9 };
    let resident = |range| Record::RangeResident { object, range, crc };
    let verified = Record::ObjectVerified { object, stamp };
    let known = [begun, resident(ByteRange::new(0, 5)), verified.clone(), verified];
    let state = replayed(known.clone());
    assert_eq!(state.objects[&1].verified.as_deref(), Some(&stamp));
    assert_eq!(state.records().count(), 4, "replaced, not added to");
    assert_eq!(replayed(state.records()), state);
    for (change, stays) in [
        (resident(ByteRange::new(5, 9)), false),
        (resident(ByteRange::new(0, 5)), false),
        (Record::RangeEvicted { object, range: ByteRange::new(4, 9) }, false),
        (Record::RangeEvicted { object, range: ByteRange::new(5, 9) }, true),
    ] {
        let changed = replayed(known.iter().cloned().chain([change.clone()]));
        assert_eq!(changed.objects[&1].verified.is_some(), stays, "{change:?}");
    }
    assert!(!State::default().apply(&known[2]));
}

#[test]
fn ids_are_not_used_again_after_a_checkpoint() {
    let ended = replayed([
        Record::ObjectBegun { object: 41, key: "k".into(), etag: ETag::new("e"), len: 1 },
        Record::ObjectEnded { object: 41 },
    ]);
    assert_eq!(replayed(ended.records()).next_object, 42);
}

/// The fsync may have been under way when the file was unlinked.
#[test]
fn a_file_without_a_name_is_sealed_no_more() {
    let draft = 1;
    let seal = Record::DraftSealed {
        draft,
        len: 4,
        base_len: 0,
        closed: true,
        metadata: Metadata::new(),
        content_type: None,
        time: UNIX_EPOCH,
    };
    let begun = Record::DraftBegun {
        draft,
        key: Key::from("k"),
        plan: PartPlan::new(8 << 20, false),
        base: None,
        options: 0,
        time: UNIX_EPOCH,
    };
    let mut state = replayed([begun, Record::DraftUnlinked { draft }]);
    assert!(!state.apply(&seal));
    let mut again = replayed(state.records());
    assert!(!again.apply(&seal), "nor after a checkpoint");
    assert!(again.drafts[&draft].sealed().is_none());
    assert_eq!(again, state);
}
