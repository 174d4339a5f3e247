//! What the bytes of one GET are compared with as they come: all that is promised of its range.
//!
//! What the GET brings all of is shown when it is proven, and not before. Of what is longer, the last chunk that comes
//! is shown when what came of it before is found to agree with it, so that no reader has all of something wrong without
//! hearing of it.

use super::sums::{Digest, Mismatch, Promise, Sum};
use crate::range::ByteRange;

/// Sums that are taken while a body arrives.
pub(super) struct Proof {
    open: Vec<Open>,
    /// The object's bytes have come up to here.
    at: u64,
}

struct Open {
    promise: Promise,
    /// What the GET brings of it.
    piece: ByteRange,
    /// What the piece alone has to come to, as far as that is known.
    known: Option<Sum>,
    /// `None` from its last byte on.
    digest: Option<Digest>,
}

/// A piece of a promise has come.
pub(super) struct Came {
    pub(super) promise: Promise,
    pub(super) piece: ByteRange,
    pub(super) sum: Sum,
}

impl Came {
    /// Whether it is all of its promise.
    pub(super) fn is_all(&self) -> bool {
        self.piece == self.promise.range
    }
}

impl Proof {
    /// Of a GET of `range`. `known` tells what the piece of a promise has to come to by itself.
    pub(super) fn of(
        range: ByteRange,
        promises: &[Promise],
        known: impl Fn(&Promise, ByteRange) -> Option<Sum>,
    ) -> Proof {
        let open = promises.iter().filter_map(|promise| {
            let piece = promise.range.intersect(&range);
            let digest = Digest::new(promise.algorithm);
            let is_all = piece == promise.range;
            let is_comparable = is_all || (promise.is_combinable() && promise.proves);
            (is_comparable && !piece.is_empty()).then(|| {
                let known = known(promise, piece);
                Open { promise: *promise, piece, known, digest: Some(digest) }
            })
        });
        Proof { open: open.collect(), at: range.start() }
    }

    /// The next bytes. Tells which pieces have come with them, each once.
    ///
    /// # Errors
    /// A piece is not what it was when it was proven.
    pub(super) fn update(&mut self, bytes: &[u8]) -> Result<Vec<Came>, Box<(Promise, Mismatch)>> {
        let came = ByteRange::at(self.at, bytes.len() as u64);
        self.at = came.end();
        let mut done = Vec::new();
        for open in &mut self.open {
            let here = open.piece.intersect(&came);
            if here.is_empty() {
                continue;
            }
            let from = (here.start() - came.start()) as usize;
            if let Some(digest) = &mut open.digest {
                digest.update(&bytes[from..from + here.len() as usize]);
            }
            if here.end() == open.piece.end()
                && let Some(digest) = open.digest.take()
            {
                let (promise, piece, sum) = (open.promise, open.piece, digest.sum());
                if let Some(known) = open.known.filter(|known| *known != sum) {
                    let of_piece = Promise { range: piece, sum: known, proves: false, ..promise };
                    return Err(Box::new((of_piece, Mismatch::of(&of_piece, sum))));
                }
                done.push(Came { promise, piece, sum });
            }
        }
        Ok(done)
    }

    /// Up to where what has come may be shown, but for what [`Self::update`] has just told of.
    pub(super) fn shown_until(&self) -> u64 {
        let held = self.open.iter().filter(|open| {
            let is_compared = open.piece == open.promise.range || open.known.is_some();
            is_compared && open.digest.is_some() && open.piece.start() < self.at
        });
        held.map(|open| open.piece.start()).fold(self.at, u64::min)
    }

    /// No more comes: tells of the pieces that have begun, as far as they have come.
    pub(super) fn cut(&mut self) -> Vec<Came> {
        let at = self.at;
        let begun = self.open.iter_mut().filter(|open| {
            open.promise.is_combinable() && open.piece.start() < at && at < open.piece.end()
        });
        begun
            .filter_map(|open| {
                let piece = ByteRange::new(open.piece.start(), at);
                Some(Came { promise: open.promise, piece, sum: open.digest.take()?.sum() })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::sums::Algorithm;
    use crate::checked::checksum;

    fn bytes() -> Vec<u8> {
        (0..5000_u32).map(|n| ((n * 7919) >> 5) as u8).collect()
    }

    fn promise(at: u64, len: u64) -> Promise {
        let crc = checksum(&bytes()[at as usize..(at + len) as usize]);
        Promise::crc32c(ByteRange::at(at, len), crc)
    }

    #[test]
    fn each_promise_comes_to_its_sum_whatever_comes_at_once() {
        let range = ByteRange::new(1000, 4000);
        let promises =
            [promise(900, 200), promise(1000, 10), promise(1500, 1200), promise(3999, 1)];
        let bytes = bytes();
        for chunk in [1, 7, 1000, 3000] {
            let mut proof = Proof::of(range, &promises, |_, _| None);
            let mut told = Vec::new();
            for chunk in bytes[1000..4000].chunks(chunk) {
                told.extend(proof.update(chunk).unwrap());
            }
            assert_eq!(told.len(), 4);
            for came in told.iter().filter(|came| came.is_all()) {
                assert_eq!(came.sum, came.promise.sum, "{:?} by {chunk}", came.piece);
            }
            let piece = told.iter().find(|came| !came.is_all()).unwrap();
            assert_eq!(piece.piece, ByteRange::new(1000, 1100));
            assert!(proof.cut().is_empty() && proof.shown_until() == 4000);
        }
    }

    #[test]
    fn what_the_get_brings_all_of_is_held_back() {
        let mut proof =
            Proof::of(ByteRange::new(0, 100), &[promise(0, 300), promise(40, 20)], |_, _| None);
        let bytes = bytes();
        let mut until = |from: usize, to: usize| {
            let came = proof.update(&bytes[from..to]).unwrap().len();
            (came, proof.shown_until())
        };
        assert_eq!(until(0, 30), (0, 30));
        assert_eq!(until(30, 50), (0, 40));
        assert_eq!(until(50, 70), (1, 70));
        assert_eq!(until(70, 90), (0, 90));
        let cut = proof.cut();
        assert_eq!(cut.len(), 1);
        assert_eq!(cut[0].piece, ByteRange::new(0, 90));
    }

    #[test]
    fn a_piece_that_was_proven_is_compared_by_itself() {
        let known = |_: &Promise, piece: ByteRange| Some(promise(piece.start(), piece.len()).sum);
        let range = ByteRange::new(100, 200);
        let mut proof = Proof::of(range, &[promise(0, 300)], known);
        let mut bytes = bytes();
        assert!(proof.update(&bytes[100..150]).unwrap().is_empty());
        assert_eq!(proof.shown_until(), 100);
        bytes[170] ^= 1;
        let (promise, _) = *proof.update(&bytes[150..200]).err().unwrap();
        assert_eq!((promise.range, promise.algorithm), (range, Algorithm::Crc32c));
    }

    #[test]
    fn an_md5_is_of_all_or_of_nothing() {
        let md5 = Promise::md5(ByteRange::new(0, 5), [0; 16]);
        let mut part = Proof::of(ByteRange::new(0, 4), &[md5], |_, _| None);
        assert!(part.update(b"hell").unwrap().is_empty());
        let mut all = Proof::of(ByteRange::new(0, 5), &[md5], |_, _| None);
        let came = all.update(b"hello").unwrap();
        assert_eq!(Algorithm::Md5.hex(came[0].sum), "5d41402abc4b2a76b9719d911017c592");
    }
}
