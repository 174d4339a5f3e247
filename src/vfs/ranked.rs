//! Locks with a rank: in debug builds a thread that takes one out of order panics, where it would hang some day.
//!
//! A thread may take a lock of a higher rank than all that it holds. Release builds know nothing of ranks.

use std::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard};

/// Who is where in the tree.
pub const SUBTREES: u8 = 0;
/// The table of inodes.
pub const TABLE: u8 = 1;
/// What is known of one inode. A thread holds one at a time.
pub const STATE: u8 = 2;

pub struct RankedMutex<T, const RANK: u8>(Mutex<T>);

pub struct RankedGuard<'a, T> {
    // Dropped in this order.
    guard: MutexGuard<'a, T>,
    _held: held::Held,
}

impl<T, const RANK: u8> RankedMutex<T, RANK> {
    pub fn new(value: T) -> Self {
        RankedMutex(Mutex::new(value))
    }

    /// # Panics
    /// In debug builds, where this thread holds a lock of this rank or a higher one.
    pub fn lock(&self) -> RankedGuard<'_, T> {
        let held = held::Held::new(RANK);
        RankedGuard { guard: self.0.lock(), _held: held }
    }
}

impl<T> Deref for RankedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for RankedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::Cell;

    thread_local! {
        /// One bit for each rank that this thread holds.
        static RANKS: Cell<u8> = const { Cell::new(0) };
    }

    pub struct Held(u8);

    impl Held {
        pub fn new(rank: u8) -> Held {
            let bit = 1 << rank;
            RANKS.with(|ranks| {
                let held = ranks.get();
                assert!(held < bit, "a lock of rank {rank} is taken under {held:#b}");
                ranks.set(held | bit);
            });
            Held(bit)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            RANKS.with(|ranks| ranks.set(ranks.get() & !self.0));
        }
    }
}

#[cfg(not(debug_assertions))]
mod held {
    pub struct Held;

    impl Held {
        #[inline(always)]
        pub fn new(_rank: u8) -> Held {
            Held
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_the_order_of_their_ranks() {
        let (table, state) = (RankedMutex::<_, TABLE>::new(1), RankedMutex::<_, STATE>::new(2));
        for _ in 0..2 {
            let table = table.lock();
            assert_eq!(*table + *state.lock(), 3);
        }
        drop(state.lock());
        drop(table.lock());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "rank 1 is taken under")]
    fn the_other_order_panics() {
        let (table, state) = (RankedMutex::<_, TABLE>::new(1), RankedMutex::<_, STATE>::new(2));
        let _state = state.lock();
        let _table = table.lock();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "rank 2 is taken under")]
    fn two_of_a_rank_panic() {
        let (one, other) = (RankedMutex::<_, STATE>::new(1), RankedMutex::<_, STATE>::new(2));
        let _one = one.lock();
        let _other = other.lock();
    }
}
