//! The parts of a draft's upload that the store has acknowledged, and how each stands to the last seal.
//!
//! Pure: no I/O, no clock.

use std::ops::Deref;

use super::record::{DraftId, Fingerprint, Record};
use crate::cow::CowMap;
use crate::store::{CompactTag, ETag, StoredPart};

/// An acknowledged part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// In bytes.
    pub len: u64,
    /// Of its content; of a part that was copied inside the store, of where it came from.
    pub fingerprint: Option<Fingerprint>,
    /// The CRC-32C of its content, where it is known.
    pub crc: Option<u32>,
    tag: CompactTag,
}

impl Part {
    pub fn new(len: u64, etag: &ETag, fingerprint: Option<Fingerprint>, crc: Option<u32>) -> Part {
        Part { len, fingerprint, crc, tag: CompactTag::new(etag) }
    }

    pub fn etag(&self) -> ETag {
        self.tag.etag()
    }

    /// The part as the store knows it.
    pub fn stored(&self, number: u32) -> StoredPart {
        StoredPart { number, etag: self.etag(), len: self.len, crc: self.crc }
    }

    /// The records that say so of `draft`. `unsealed`: it may hold what was written since the last seal.
    pub fn records(
        &self,
        draft: DraftId,
        number: u32,
        unsealed: bool,
    ) -> impl Iterator<Item = Record> + use<> {
        let (len, etag, fingerprint) = (self.len, self.etag(), self.fingerprint);
        let stored = Record::PartStored { draft, number, len, etag, fingerprint, unsealed };
        let summed = self.crc.map(|crc| Record::PartSummed { draft, number, crc });
        [stored].into_iter().chain(summed)
    }
}

/// Acknowledged parts, by number. It is read as a map of them; what changes it keeps the marks in step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    acknowledged: CowMap<u32, Part>,
    /// Those that may hold what was written since the last seal.
    unsealed: CowMap<u32, ()>,
    /// Those over which something was staged and sealed after they had been stored.
    patched: CowMap<u32, ()>,
}

impl Deref for Parts {
    type Target = CowMap<u32, Part>;

    fn deref(&self) -> &CowMap<u32, Part> {
        &self.acknowledged
    }
}

impl Parts {
    /// `unsealed`: it may hold what was written since the last seal.
    pub(super) fn acknowledge(&mut self, number: u32, part: Part, unsealed: bool) {
        self.acknowledged.insert(number, part);
        self.patched.remove(&number);
        if unsealed {
            self.unsealed.insert(number, ());
        } else {
            self.unsealed.remove(&number);
        }
    }

    /// Says what its bytes sum to. `false` where there is none.
    pub(super) fn sum(&mut self, number: u32, crc: u32) -> bool {
        self.acknowledged.get_mut(&number).map(|part| part.crc = Some(crc)).is_some()
    }

    /// `false` where there was none.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        self.unsealed.remove(&number);
        self.patched.remove(&number);
        self.acknowledged.remove(&number).is_some()
    }

    pub(super) fn clear(&mut self) {
        *self = Parts::default();
    }

    /// The same parts in the upload of another draft, whatever their content is: it has not come again yet.
    pub(super) fn adopted(self) -> Parts {
        Parts {
            unsealed: self.acknowledged.keys().map(|number| (*number, ())).collect(),
            patched: CowMap::default(),
            acknowledged: self.acknowledged,
        }
    }

    /// What was sealed has this part, as far as is known.
    pub fn is_sealed(&self, number: u32) -> bool {
        self.contains_key(&number) && !self.is_unsealed(number)
    }

    pub(super) fn is_unsealed(&self, number: u32) -> bool {
        self.unsealed.contains_key(&number)
    }

    /// Something sealed is over it, in the staging file.
    pub fn is_patched(&self, number: u32) -> bool {
        self.patched.contains_key(&number)
    }

    /// The numbers of all that are patched.
    pub(super) fn patched(&self) -> impl Iterator<Item = &u32> + '_ {
        self.patched.keys()
    }

    /// Something over the parts `first` to `last` is sealed, in the staging file.
    pub(super) fn patch(&mut self, first: u32, last: u32) {
        let numbers = self.acknowledged.iter_from(&first).map(|(number, _)| *number);
        let numbers: Vec<u32> = numbers.take_while(|number| *number <= last).collect();
        numbers.iter().for_each(|number| _ = self.patched.insert(*number, ()));
    }

    /// The seal has the content of the whole file: nothing is over the parts.
    pub(super) fn unpatch(&mut self) {
        self.patched.clear();
    }

    /// All that was acknowledged is what was sealed.
    pub(super) fn seal(&mut self) {
        self.unsealed.clear();
    }
}
