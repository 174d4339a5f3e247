//! Bytes of a local file that are compared with their checksum on the way out. Cache files and staging files are
//! read by nothing else, so that bytes that were not compared are not to be had.
//!
//! A checksum speaks for its whole stretch: to give out a piece of it all of it is read.

use std::io;

use crc_fast::{CrcAlgorithm, Digest};
use serde::{Deserialize, Serialize};

use crate::disk::File;

/// What is read beside the bytes that were asked for comes in pieces of this length, in bytes: they stay in the
/// processor's cache.
const SCRATCH_BYTES: u64 = 64 << 10;

/// The checksum of all that is kept on the disk, and that goes with what is sent: CRC-32C.
const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// The CRC-32C of bytes.
pub fn checksum(bytes: &[u8]) -> u32 {
    // A 32-bit CRC fills the lower half of the u64.
    crc_fast::checksum(ALGORITHM, bytes) as u32
}

/// The CRC-32C of some bytes, and how many they are: so the sums of neighbours make the sum of both, and no byte is read
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub crc: u32,
    /// In bytes.
    pub len: u64,
}

impl Sum {
    /// Of no bytes.
    pub const EMPTY: Sum = Sum { crc: 0, len: 0 };

    pub fn of(bytes: &[u8]) -> Sum {
        Sum { crc: checksum(bytes), len: bytes.len() as u64 }
    }

    /// Of these bytes and of those behind them.
    #[must_use]
    pub fn then(self, next: Sum) -> Sum {
        if next.len == 0 {
            return self;
        }
        let crc = product(power_of_bytes(next.len), self.crc) ^ next.crc;
        Sum { crc, len: self.len.saturating_add(next.len) }
    }

    /// As [`Self::then`], of bytes that are at hand.
    #[must_use]
    pub fn then_bytes(self, next: &[u8]) -> Sum {
        // The state of a CRC-32C is its value with all bits turned.
        let mut digest = Digest::new_with_init_state(ALGORITHM, u64::from(!self.crc));
        digest.update(next);
        Sum { crc: digest.finalize() as u32, len: self.len + next.len() as u64 }
    }
}

/// CRC-32C's polynomial P. Like all polynomials here it is reflected: the highest bit is the factor of x^0.
const POLYNOMIAL: u32 = 0x82F6_3B78;
const ONE: u32 = 1 << 31;

/// x^(2^k) mod P at place k.
const POWERS: [u32; 67] = {
    let mut powers = [ONE >> 1; 67];
    let mut k = 1;
    while k < powers.len() {
        powers[k] = product(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// a * b mod P.
const fn product(a: u32, b: u32) -> u32 {
    let (mut sum, mut factor, mut bit) = (0, b, ONE);
    while bit != 0 {
        if a & bit != 0 {
            sum ^= factor;
        }
        factor = (factor >> 1) ^ if factor & 1 == 1 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    sum
}

/// x^(8 * len) mod P: what a CRC is multiplied by when so many bytes follow. (Less than a tenth of a microsecond for a power
/// of two; `crc_fast::checksum_combine`, which squares matrices, takes longer than reading 64 KiB again.)
fn power_of_bytes(len: u64) -> u32 {
    let (mut power, mut rest) = (ONE, len);
    while rest != 0 {
        // A byte is 2^3 bits.
        power = product(POWERS[rest.trailing_zeros() as usize + 3], power);
        rest &= rest - 1;
    }
    power
}

impl FromIterator<Sum> for Sum {
    /// Of bytes that follow each other.
    fn from_iter<T: IntoIterator<Item = Sum>>(sums: T) -> Sum {
        sums.into_iter().fold(Sum::EMPTY, Sum::then)
    }
}

/// `len` bytes of a file from `at` on, and their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub at: u64,
    /// In bytes.
    pub len: u64,
    pub crc: u32,
}

impl Stretch {
    /// Whether `file` has these bytes, which are read through `buffer` (not empty).
    ///
    /// # Errors
    /// Those of reading; `UnexpectedEof` where the file is shorter.
    pub fn is_in(&self, file: &File, buffer: &mut [u8]) -> io::Result<bool> {
        let mut comparing = Comparing::new();
        comparing.pass_over(file, self.at, self.end(), buffer)?;
        Ok(comparing.comes_to(self.crc))
    }

    /// Fills `into` with the file's bytes from `from` on, which lie inside the stretch. `false`: the stretch does not
    /// have its checksum, and `into` is void.
    ///
    /// # Errors
    /// As [`Self::is_in`]; `into` is void.
    pub fn read(&self, file: &File, from: u64, into: &mut [u8]) -> io::Result<bool> {
        let end = from + into.len() as u64;
        debug_assert!(self.at <= from && end <= self.end());
        let beside = (from - self.at).max(self.end() - end).min(SCRATCH_BYTES);
        let mut scratch = vec![0; beside as usize];
        let mut comparing = Comparing::new();
        comparing.pass_over(file, self.at, from, &mut scratch)?;
        file.read_exact_at(into, from)?;
        comparing.digest.update(into);
        comparing.pass_over(file, end, self.end(), &mut scratch)?;
        Ok(comparing.comes_to(self.crc))
    }

    /// Copies the stretch to the same place of another file, through `buffer` (not empty). `false`: what is there now
    /// is not what was written.
    ///
    /// # Errors
    /// Those of reading and writing; what is there is void.
    pub fn copy(&self, file: &File, to: &File, buffer: &mut [u8]) -> io::Result<bool> {
        let mut comparing = Comparing::new();
        let mut at = self.at;
        while at < self.end() {
            let count = buffer.len().min((self.end() - at) as usize);
            comparing.pass_over(file, at, at + count as u64, buffer)?;
            to.write_all_at(&buffer[..count], at)?;
            at += count as u64;
        }
        Ok(comparing.comes_to(self.crc))
    }

    pub fn end(&self) -> u64 {
        self.at + self.len
    }
}

struct Comparing {
    digest: Digest,
}

impl Comparing {
    fn new() -> Comparing {
        Comparing { digest: Digest::new(ALGORITHM) }
    }

    fn pass_over(&mut self, file: &File, from: u64, to: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let count = buffer.len().min((to - at) as usize);
            file.read_exact_at(&mut buffer[..count], at)?;
            self.digest.update(&buffer[..count]);
            at += count as u64;
        }
        Ok(())
    }

    fn comes_to(self, crc: u32) -> bool {
        self.digest.finalize() as u32 == crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_neighbours_follows_from_their_sums() {
        assert_eq!(Sum::of(b"123456789").crc, 0xE306_9283, "CRC-32C's check value");
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| ((n * 7919) >> 3) as u8).collect();
        let whole = Sum::of(&bytes);
        for cut in [0, 1, 7, 4096, 65_536, 199_999, 200_000] {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(Sum::of(first).then(Sum::of(second)), whole, "{cut}");
            assert_eq!(Sum::of(first).then_bytes(second), whole, "{cut}");
        }
        assert_eq!(bytes.chunks(3000).map(Sum::of).collect::<Sum>(), whole);
        assert_eq!(std::iter::empty().collect::<Sum>(), Sum::of(b""));
        // Lengths that no test can write out.
        for len in [1 << 33, 5 << 40, (1 << 40) - 1] {
            let (first, second) = (Sum::of(b"first"), Sum { crc: 7, len });
            let told = crc_fast::checksum_combine(ALGORITHM, first.crc.into(), 7, len);
            assert_eq!(u64::from(first.then(second).crc), told, "{len}");
        }
    }

    #[test]
    fn any_piece_of_a_stretch_speaks_for_all_of_it() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| ((n * 7919) >> 3) as u8).collect();
        let file = File::from(tempfile::tempfile().unwrap());
        file.write_all_at(&bytes, 0).unwrap();
        let stretch = Stretch { at: 1000, len: 250_000, crc: checksum(&bytes[1000..251_000]) };
        let read = |from: u64, len: usize| {
            let mut into = vec![0; len];
            (stretch.read(&file, from, &mut into).unwrap(), into)
        };
        for (from, len) in [(1000, 250_000), (1000, 1), (90_000, 4096), (250_999, 1), (7000, 0)] {
            let (good, into) = read(from, len);
            assert!(good && into == bytes[from as usize..][..len], "{from}, {len}");
        }
        assert!(stretch.is_in(&file, &mut [0; 777]).unwrap());
        for damaged in [1000, 90_000, 250_999] {
            file.write_all_at(&[!bytes[damaged]], damaged as u64).unwrap();
            assert!(!read(100_000, 10).0 && !read(1000, 250_000).0, "{damaged}");
            assert!(!stretch.is_in(&file, &mut [0; 777]).unwrap());
            file.write_all_at(&[bytes[damaged]], damaged as u64).unwrap();
        }
        // What lies beside it is none of its business.
        file.write_all_at(&[!bytes[999], !bytes[251_000]], 999).unwrap();
        file.write_all_at(&bytes[1000..1001], 1000).unwrap();
        assert!(read(1000, 5).0);
        file.set_len(200_000).unwrap();
        assert!(stretch.read(&file, 1000, &mut [0; 5]).is_err());
    }
}
