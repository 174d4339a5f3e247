//! Inode numbers: those of names, and the order that they put a listing in.
//!
//! `du`, `find`, `rm -r`, `chown -R` and others sort a directory of more than 10,000 entries by the numbers that
//! readdir told before they look at the first entry (as other file systems have inodes on the disk in that
//! order), and `cp -r` sorts every directory so. What looks ahead of them must do the same.
//!
//! Memory: four bytes an entry, twelve more while the order is being made, and the pages that it is of, which
//! are the listings' own as long as those keep them.

use super::segment::{Held, Placed};
use crate::store::Key;

/// The least; 1 is the root's.
const NUMBER_MIN: u64 = 2;

/// The number of a name in the directory of number `parent`. It comes from the name, so that readdir can tell it
/// without an inode, and so that it is the same after the kernel forgot and asked again, by whichever version of
/// this program: SipHash-1-3 with a key of zeros, of the parent's number and the name's length, as 64 bits each, the
/// lowest byte first, and the name.
pub fn number_of(parent: u64, name: &[u8]) -> u64 {
    let mut hash = SipHash::new(1, 3, [0, 0]);
    hash.word(parent);
    hash.word(name.len() as u64);
    hash.finish(16, name).max(NUMBER_MIN)
}

/// SipHash (Aumasson and Bernstein, 2012) of so many rounds a word, and at the end.
struct SipHash {
    v: [u64; 4],
    rounds: u32,
    last_rounds: u32,
}

impl SipHash {
    fn new(rounds: u32, last_rounds: u32, [k0, k1]: [u64; 2]) -> SipHash {
        // "somepseudorandomlygeneratedbytes"
        let v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        SipHash { v, rounds, last_rounds }
    }

    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        (0..self.rounds).for_each(|_| self.round());
        self.v[0] ^= word;
    }

    /// Of a message that ends with `rest`, and of which `before` bytes went before as whole words.
    fn finish(mut self, before: usize, rest: &[u8]) -> u64 {
        let (words, tail) = rest.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        last[7] = (before + rest.len()) as u8;
        self.word(u64::from_le_bytes(last));
        self.v[2] ^= 0xff;
        (0..self.last_rounds).for_each(|_| self.round());
        self.v.iter().fold(0, |sum, v| sum ^ v)
    }

    fn round(&mut self) {
        let [a, b, c, d] = &mut self.v;
        *a = a.wrapping_add(*b);
        *c = c.wrapping_add(*d);
        *b = b.rotate_left(13) ^ *a;
        *d = d.rotate_left(16) ^ *c;
        *a = a.rotate_left(32).wrapping_add(*d);
        *c = c.wrapping_add(*b);
        *d = d.rotate_left(21) ^ *a;
        *b = b.rotate_left(17) ^ *c;
        *c = c.rotate_left(32);
    }
}

/// Numbers that are told one after the other: how many have risen in a row. Of numbers at random, n do so once
/// in n factorial times.
#[derive(Default)]
pub(super) struct Rising {
    last: u64,
    pub count: u32,
}

impl Rising {
    pub fn note(&mut self, number: u64) {
        match number.cmp(&self.last) {
            std::cmp::Ordering::Greater => self.count += 1,
            std::cmp::Ordering::Less => self.count = 1,
            std::cmp::Ordering::Equal => {}
        }
        self.last = number;
    }
}

/// The entries of listed pages in the order of their numbers.
pub(super) struct NumberOrder {
    parent: u64,
    /// The index of its first entry among all, and the page.
    pages: Vec<(usize, Held)>,
    /// Indices among all entries.
    order: Box<[u32]>,
}

impl NumberOrder {
    pub fn new(parent: u64, pages: Vec<Held>) -> NumberOrder {
        let mut numbered = Vec::with_capacity(pages.iter().map(Held::count).sum());
        let mut placed = Vec::with_capacity(pages.len());
        for page in pages {
            let first = numbered.len();
            let number = |index| number_of(parent, bare(page.position(index)));
            numbered.extend((0..page.count()).map(|index| (number(index), (first + index) as u32)));
            placed.push((first, page));
        }
        numbered.sort_unstable();
        let order = numbered.iter().map(|(_, index)| *index).collect();
        NumberOrder { parent, pages: placed, order }
    }

    /// The place of a name. Of a name that is not among them, that of the next number.
    pub fn place_of(&self, name: &[u8]) -> usize {
        let number = number_of(self.parent, name);
        self.order.partition_point(|index| {
            let (page, index) = self.entry(*index);
            number_of(self.parent, bare(page.position(index))) < number
        })
    }

    /// The entry at a place, and the number of the page that has it.
    pub fn get(&self, dir: &Key, place: usize) -> Option<(Placed, u64)> {
        let (page, index) = self.entry(*self.order.get(place)?);
        Some((page.placed(dir, index), page.begun))
    }

    fn entry(&self, index: u32) -> (&Held, usize) {
        let page = self.pages.partition_point(|(first, _)| *first <= index as usize) - 1;
        let (first, page) = &self.pages[page];
        (page, index as usize - first)
    }
}

/// The name at a position.
fn bare(position: &[u8]) -> &[u8] {
    position.strip_suffix(b"/").unwrap_or(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a mount that goes on with another version of the program, the kernel knows the numbers.
    #[test]
    fn the_number_of_a_name_is_the_same_in_every_version() {
        for (parent, name, number) in [
            (1, "", NUMBERS[0]),
            (1, "a", NUMBERS[1]),
            (1, "notes.txt", NUMBERS[2]),
            (0x0123_4567_89ab_cdef, "sixteen bytes!!!", NUMBERS[3]),
        ] {
            assert_eq!(number_of(parent, name.as_bytes()), number, "{name:?} in {parent}");
        }
        assert_eq!(number_of(7, &[b'x'; 255]), NUMBERS[4]);
    }

    /// What std's hasher said when it was used for this.
    const NUMBERS: [u64; 5] = [
        0x8934_f5f0_a51f_bffa,
        0xc153_0b3c_19d6_56ce,
        0x6596_b5e1_44de_2b89,
        0xdea0_bc0a_2b19_f0aa,
        0xcbd5_9f58_3105_ff54,
    ];

    /// The vectors of its authors: SipHash-2-4 of 0, 1, 2… with the key 0 to 15.
    #[test]
    fn the_hash_is_the_published_one() {
        let message: Vec<u8> = (0..64).collect();
        let hash = |len: usize| {
            let hash = SipHash::new(2, 4, [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
            hash.finish(0, &message[..len])
        };
        assert_eq!(hash(0), 0x726f_db47_dd0e_0e31);
        assert_eq!(hash(1), 0x74f8_39c5_93dc_67fd);
        assert_eq!(hash(7), 0xab02_00f5_8b01_d137);
        assert_eq!(hash(8), 0x93f5_f579_9a93_2462);
        assert_eq!(hash(15), 0xa129_ca61_49be_45e5);
        assert_eq!(hash(63), 0x958a_324c_eb06_4572);
    }
}
