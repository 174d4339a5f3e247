//! Sums of ranges: what a range of an object has to come to, and what it comes to as its bytes arrive.

use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};

use crate::checked::{self, Stretch};
use crate::range::ByteRange;
use crate::store::ObjectSum;

/// What a sum is taken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Algorithm {
    Crc32c,
    Crc64Nvme,
    /// What OSS and TOS call CRC-64/ECMA: the reflected form, whose other name is CRC-64/XZ.
    Crc64Ecma,
    /// CRC-32/ISO-HDLC.
    Crc32,
    /// Sums of neighbours cannot be combined: good for what comes in one go.
    Md5,
}

/// A sum. CRCs of 32 bits fill the lower half of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    Crc(u64),
    Md5([u8; 16]),
}

/// What the bytes of a range have to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) range: ByteRange,
    pub(super) algorithm: Algorithm,
    pub(super) sum: Sum,
    /// What comes to it is proven. Otherwise it is only what came before.
    pub(super) proves: bool,
}

impl Promise {
    pub(super) fn crc32c(range: ByteRange, crc: u32) -> Promise {
        let sum = Sum::Crc(u64::from(crc));
        Promise { range, algorithm: Algorithm::Crc32c, sum, proves: true }
    }

    /// What the disk had, and has lost.
    pub(super) fn lost(stretch: &Stretch) -> Promise {
        let range = ByteRange::at(stretch.at, stretch.len);
        Promise { proves: false, ..Promise::crc32c(range, stretch.crc) }
    }

    pub(super) fn md5(range: ByteRange, md5: [u8; 16]) -> Promise {
        Promise { range, algorithm: Algorithm::Md5, sum: Sum::Md5(md5), proves: true }
    }

    /// Of a whole object of this length.
    pub(super) fn of_object(sum: ObjectSum, len: u64) -> Promise {
        let (algorithm, crc) = Algorithm::of_object(sum);
        let range = ByteRange::new(0, len);
        Promise { range, algorithm, sum: Sum::Crc(crc), proves: true }
    }

    /// Whether its sum follows from those of its pieces.
    pub(super) fn is_combinable(&self) -> bool {
        self.algorithm != Algorithm::Md5
    }

    /// What it says, as text.
    pub(super) fn shown(&self) -> String {
        self.algorithm.shown(self.sum)
    }
}

impl Algorithm {
    /// What an object's sum is taken by, and what it is.
    fn of_object(sum: ObjectSum) -> (Algorithm, u64) {
        match sum {
            ObjectSum::Crc32c(crc) => (Algorithm::Crc32c, u64::from(crc)),
            ObjectSum::Crc64Nvme(crc) => (Algorithm::Crc64Nvme, crc),
            ObjectSum::Crc64Ecma(crc) => (Algorithm::Crc64Ecma, crc),
            ObjectSum::Crc32(crc) => (Algorithm::Crc32, u64::from(crc)),
        }
    }

    /// What the ranges on the disk are to be summed by too, so that they are compared with the whole object's: none where
    /// that is a CRC-32C, which they all have.
    pub(super) fn beside_crc32c(sum: ObjectSum) -> Option<Algorithm> {
        Some(Algorithm::of_object(sum).0).filter(|algorithm| *algorithm != Algorithm::Crc32c)
    }

    /// The CRC of bytes; none of an MD5.
    pub(super) fn crc_of(self, bytes: &[u8]) -> Option<u64> {
        self.crc().map(|crc| crc_fast::checksum(crc, bytes))
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Algorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Algorithm::Crc64Ecma => Some(CrcAlgorithm::Crc64Xz),
            Algorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Md5 => None,
        }
    }

    /// As it is written in `user.ratchetfs.checksum`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Algorithm::Crc32c => "crc32c",
            Algorithm::Crc64Nvme => "crc64nvme",
            Algorithm::Crc64Ecma => "crc64ecma",
            Algorithm::Crc32 => "crc32",
            Algorithm::Md5 => "md5",
        }
    }

    /// A sum in hexadecimal digits, as many as it has bits for.
    pub(super) fn hex(self, sum: Sum) -> String {
        match (self, sum) {
            (Algorithm::Crc32c | Algorithm::Crc32, Sum::Crc(crc)) => format!("{crc:08x}"),
            (_, Sum::Crc(crc)) => format!("{crc:016x}"),
            (_, Sum::Md5(md5)) => format!("{:032x}", u128::from_be_bytes(md5)),
        }
    }

    pub(super) fn shown(self, sum: Sum) -> String {
        let name = match self {
            Algorithm::Crc32c => "CRC-32C",
            Algorithm::Crc64Nvme => "CRC-64/NVME",
            Algorithm::Crc64Ecma => "CRC-64/ECMA",
            Algorithm::Crc32 => "CRC-32",
            Algorithm::Md5 => "MD5",
        };
        format!("{name} {}", self.hex(sum))
    }

    /// The sum of neighbours: `first`, and `second` of so many bytes behind it. `None` where it does not follow from
    /// theirs.
    pub(super) fn combine(self, first: Sum, second: Sum, second_len: u64) -> Option<Sum> {
        match (self.crc()?, first, second) {
            (CrcAlgorithm::Crc32Iscsi, Sum::Crc(first), Sum::Crc(second)) => {
                // 32-bit CRCs fill the lower half of the u64; how long the first is does not matter.
                let first = checked::Sum { crc: first as u32, len: 1 };
                let both = first.then(checked::Sum { crc: second as u32, len: second_len });
                Some(Sum::Crc(u64::from(both.crc)))
            }
            (crc, Sum::Crc(first), Sum::Crc(second)) => {
                Some(Sum::Crc(crc_fast::checksum_combine(crc, first, second, second_len)))
            }
            _ => None,
        }
    }
}

/// A sum in the making.
pub(super) enum Digest {
    Crc(Box<crc_fast::Digest>),
    Md5(Box<Md5>),
}

impl Digest {
    pub(super) fn new(algorithm: Algorithm) -> Digest {
        match algorithm.crc() {
            Some(crc) => Digest::Crc(Box::new(crc_fast::Digest::new(crc))),
            None => Digest::Md5(Box::new(Md5::new())),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Digest::Crc(digest) => digest.update(bytes),
            Digest::Md5(digest) => digest.update(bytes),
        }
    }

    pub(super) fn sum(self) -> Sum {
        match self {
            Digest::Crc(digest) => Sum::Crc(digest.finalize()),
            Digest::Md5(digest) => Sum::Md5(digest.finalize().into()),
        }
    }
}

/// Bytes that are others than they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) range: ByteRange,
    pub(super) expected: String,
    pub(super) came: String,
}

impl Mismatch {
    pub(super) fn of(promise: &Promise, came: Sum) -> Mismatch {
        let Promise { range, algorithm, .. } = *promise;
        Mismatch { range, expected: promise.shown(), came: algorithm.shown(came) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of(algorithm: Algorithm, bytes: &[u8]) -> Sum {
        let mut digest = Digest::new(algorithm);
        bytes.chunks(7).for_each(|chunk| digest.update(chunk));
        digest.sum()
    }

    /// The check values of the catalogue of CRCs (reveng), and RFC 1321.
    #[test]
    fn sums_are_those_that_stores_tell() {
        let shown = |algorithm: Algorithm| algorithm.hex(sum_of(algorithm, b"123456789"));
        assert_eq!(shown(Algorithm::Crc32c), "e3069283");
        assert_eq!(shown(Algorithm::Crc32), "cbf43926");
        assert_eq!(shown(Algorithm::Crc64Nvme), "ae8b14860a799888");
        assert_eq!(shown(Algorithm::Crc64Ecma), "995dc9bbdf1939fa");
        assert_eq!(shown(Algorithm::Md5), "25f9e794323b453885f5181f1b624d0b");
    }

    #[test]
    fn sums_of_neighbours_are_combined() {
        for algorithm in
            [Algorithm::Crc32c, Algorithm::Crc32, Algorithm::Crc64Nvme, Algorithm::Crc64Ecma]
        {
            let (first, second) = (sum_of(algorithm, b"1234"), sum_of(algorithm, b"56789"));
            let both = algorithm.combine(first, second, 5);
            assert_eq!(both, Some(sum_of(algorithm, b"123456789")), "{algorithm:?}");
        }
        let md5 = sum_of(Algorithm::Md5, b"1");
        assert_eq!(Algorithm::Md5.combine(md5, md5, 1), None);
    }
}
