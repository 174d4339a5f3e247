//! What the bytes of a GET are compared with before any of them is seen: the MD5 that is the ETag of a whole object,
//! and the checksums of what the disk tier had and lost.
//!
//! Most GETs have nothing to be compared with: neither store nor cache knows a checksum of such a range.

use crc_fast::{CrcAlgorithm, Digest};
use md5::{Digest as _, Md5};

use crate::checked::Stretch;
use crate::range::ByteRange;

/// Comparisons that go on while a body arrives.
pub(super) struct Proof {
    comparisons: Vec<Comparison>,
    /// The object's bytes have come up to here.
    at: u64,
}

struct Comparison {
    range: ByteRange,
    sum: Sum,
}

enum Sum {
    Md5(Md5, [u8; 16]),
    Crc32c(Digest, u32),
}

/// Bytes that are others than they must be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub range: ByteRange,
    pub expected: String,
    pub came: String,
}

impl Proof {
    /// Of a GET of `range`: its MD5 if that is known, and what is known of stretches of the object. `None` where there
    /// is nothing to compare.
    pub(super) fn of(range: ByteRange, md5: Option<[u8; 16]>, known: &[Stretch]) -> Option<Proof> {
        let of_whole = md5.map(|md5| Comparison { range, sum: Sum::Md5(Md5::new(), md5) });
        let of_stretches = known.iter().filter_map(|stretch| {
            let stretch_range = ByteRange::at(stretch.at, stretch.len);
            let digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            range
                .contains(&stretch_range)
                .then(|| Comparison { range: stretch_range, sum: Sum::Crc32c(digest, stretch.crc) })
        });
        let comparisons: Vec<Comparison> = of_whole.into_iter().chain(of_stretches).collect();
        (!comparisons.is_empty()).then(|| Proof { comparisons, at: range.start() })
    }

    /// The next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let came = ByteRange::at(self.at, bytes.len() as u64);
        for comparison in &mut self.comparisons {
            let here = comparison.range.intersect(&came);
            if !here.is_empty() {
                let from = (here.start() - came.start()) as usize;
                comparison.sum.update(&bytes[from..from + here.len() as usize]);
            }
        }
        self.at = came.end();
    }

    /// All bytes of the GET have come.
    ///
    /// # Errors
    /// The first comparison that failed.
    pub(super) fn finish(self) -> Result<(), Mismatch> {
        self.comparisons.into_iter().try_for_each(|comparison| {
            let (expected, came) = comparison.sum.finish();
            let range = comparison.range;
            if expected == came { Ok(()) } else { Err(Mismatch { range, expected, came }) }
        })
    }
}

impl Sum {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Md5(digest, _) => digest.update(bytes),
            Sum::Crc32c(digest, _) => digest.update(bytes),
        }
    }

    /// What was expected and what came, as text.
    fn finish(self) -> (String, String) {
        match self {
            Sum::Md5(digest, expected) => {
                let came: [u8; 16] = digest.finalize().into();
                let shown = |md5| format!("MD5 {:032x}", u128::from_be_bytes(md5));
                (shown(expected), shown(came))
            }
            Sum::Crc32c(digest, expected) => {
                let shown = |crc| format!("CRC-32C {crc:08x}");
                // A 32-bit CRC fills the lower half of the u64.
                (shown(expected), shown(digest.finalize() as u32))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checked::checksum;

    #[test]
    fn stretches_inside_a_get_are_compared_whatever_comes_at_once() {
        let bytes: Vec<u8> = (0..5000_u32).map(|n| ((n * 7919) >> 5) as u8).collect();
        let stretch = |at: u64, len: u64| Stretch {
            at,
            len,
            crc: checksum(&bytes[at as usize..(at + len) as usize]),
        };
        let range = ByteRange::new(1000, 4000);
        let known = [stretch(900, 200), stretch(1000, 10), stretch(1500, 1200), stretch(3999, 1)];
        let compare = |bytes: &[u8], chunk: usize| {
            let mut proof = Proof::of(range, None, &known).unwrap();
            bytes[1000..4000].chunks(chunk).for_each(|chunk| proof.update(chunk));
            proof.finish()
        };
        for chunk in [1, 7, 1000, 3000] {
            assert_eq!(compare(&bytes, chunk), Ok(()));
            // The second is in no stretch, the first in one that the GET has only some of.
            for (turned, found) in [(1050, false), (3000, false), (1009, true), (2000, true)] {
                let mut bytes = bytes.clone();
                bytes[turned] ^= 4;
                assert_eq!(compare(&bytes, chunk).is_err(), found, "{turned} by {chunk}");
            }
        }
        assert!(Proof::of(range, None, &known[..1]).is_none());
    }

    #[test]
    fn a_whole_object_is_compared_with_its_md5() {
        let md5: [u8; 16] = Md5::digest(b"hello").into();
        let compare = |bytes: &[u8]| {
            let mut proof = Proof::of(ByteRange::new(0, 5), Some(md5), &[]).unwrap();
            proof.update(bytes);
            proof.finish()
        };
        assert_eq!(compare(b"hello"), Ok(()));
        let mismatch = compare(b"hellp").unwrap_err();
        assert_eq!(mismatch.expected, "MD5 5d41402abc4b2a76b9719d911017c592");
    }
}
