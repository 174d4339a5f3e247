//! Inode numbers: those of names, and the order that they put a listing in.
//!
//! `du`, `find`, `rm -r`, `chown -R` and others sort a directory of more than 10,000 entries by the numbers that
//! readdir told before they look at the first entry (as other file systems have inodes on the disk in that
//! order), and `cp -r` sorts every directory so. Whoever looks ahead of them must do the same.
//!
//! Memory: four bytes an entry, twelve more while the order is being made, and the pages that it is of, which
//! are the listings' own as long as those keep them.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::segment::{Held, Placed};
use crate::store::Key;

/// The least; 1 is the root's.
const NUMBER_MIN: u64 = 2;

/// The number of a name in the directory of number `parent`. It comes from the name, so that readdir can tell it
/// without an inode, and so that it is the same after the kernel forgot and asked again.
pub fn number_of(parent: u64, name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (parent, name).hash(&mut hasher);
    hasher.finish().max(NUMBER_MIN)
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
