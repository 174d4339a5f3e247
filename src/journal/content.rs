//! What an object that we have completed consists of: so that the same content, written again, is copied
//! from there.
//!
//! Pure: no I/O, no clock.

use std::time::SystemTime;

use super::record::{ContentPart, Fingerprint, Record};
use crate::checked::Stretch;
use crate::range::ByteRange;
use crate::store::{ETag, Key};

/// An object, part by part from its beginning.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub etag: ETag,
    /// When it was completed.
    pub time: SystemTime,
    pub parts: Vec<ContentPart>,
}

impl Content {
    /// Length of the object, in bytes.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.len).sum()
    }

    /// Where in the object the bytes with this fingerprint are.
    pub fn place_of(&self, wanted: &Fingerprint) -> Option<ByteRange> {
        let mut start = 0;
        self.parts.iter().find_map(|part| {
            let range = ByteRange::at(start, part.len);
            start = range.end();
            (part.fingerprint.as_ref() == Some(wanted)).then_some(range)
        })
    }

    /// Its parts, as far as their sums are known.
    pub fn stretches(&self) -> Vec<Stretch> {
        let mut at = 0;
        let stretch = |part: &ContentPart| {
            let start = at;
            at += part.len;
            Some(Stretch { at: start, len: part.len, crc: part.crc? })
        };
        self.parts.iter().filter_map(stretch).collect()
    }

    /// Says what its parts sum to. `false` where they are not as many.
    pub(super) fn sum(&mut self, crcs: &[Option<u32>]) -> bool {
        if crcs.len() != self.parts.len() {
            return false;
        }
        self.parts.iter_mut().zip(crcs).for_each(|(part, crc)| part.crc = *crc);
        true
    }

    /// The records that say so of `key`.
    pub fn records(&self, key: &Key) -> impl Iterator<Item = Record> + use<> {
        let (key, etag) = (key.clone(), self.etag.clone());
        let crcs: Vec<Option<u32>> = self.parts.iter().map(|part| part.crc).collect();
        let is_summed = crcs.iter().any(Option::is_some);
        let summed = Record::ContentSummed { key: key.clone(), etag: etag.clone(), crcs };
        let known = Record::ContentKnown { key, etag, time: self.time, parts: self.parts.clone() };
        [known].into_iter().chain(is_summed.then_some(summed))
    }
}
