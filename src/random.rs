//! Randomness. All that is drawn, to be unlike anything else or unlike what others do at the same moment, is drawn here, so
//! that a simulation can own it: in debug builds [`seeded::install`] has one generator draw all of it, and the same seed
//! draws the same.
//!
//! [`unpredictable`] is the kernel's, good for names that nothing else may have and for secrets. [`unit`] is quick and can be
//! foreseen: for jitter. The order of std's hash maps is not drawn here, so nothing may follow from it.

#![allow(clippy::disallowed_methods, reason = "the one place that draws")]

use std::hash::{BuildHasher, DefaultHasher, RandomState};

/// Bytes that cannot be foreseen.
pub fn unpredictable<const N: usize>() -> [u8; N] {
    const { assert!(N <= 256, "getrandom(2) gives up to 256 bytes whole") };
    let mut bytes = [0; N];
    #[cfg(debug_assertions)]
    if seeded::draw(|generator| generator.fill(&mut bytes)).is_some() {
        return bytes;
    }
    // SAFETY: writes at most the buffer's length into the buffer.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    assert_eq!(got, N as isize, "the kernel gives no random numbers");
    bytes
}

/// From 0 to 1.
#[inline]
pub fn unit() -> f64 {
    #[cfg(debug_assertions)]
    if let Some(drawn) = seeded::draw(fastrand::Rng::f64) {
        return drawn;
    }
    fastrand::f64()
}

/// Hashes with keys of its own, so that nothing can be made to collide.
pub struct Hashing(Option<RandomState>);

impl Hashing {
    pub fn new() -> Hashing {
        #[cfg(debug_assertions)]
        if seeded::draw(|_| ()).is_some() {
            return Hashing(None);
        }
        Hashing(Some(RandomState::new()))
    }
}

impl BuildHasher for Hashing {
    type Hasher = DefaultHasher;

    #[inline]
    fn build_hasher(&self) -> DefaultHasher {
        self.0.as_ref().map_or_else(DefaultHasher::new, RandomState::build_hasher)
    }
}

/// A generator of a simulation's own. It belongs to the thread: a simulation runs in one.
#[cfg(debug_assertions)]
pub mod seeded {
    use std::cell::Cell;

    use fastrand::Rng;

    thread_local! {
        static GENERATOR: Cell<Option<Rng>> = const { Cell::new(None) };
    }

    /// Randomness is random again when this is dropped.
    #[must_use]
    pub struct Installed(Option<Rng>);

    impl Drop for Installed {
        fn drop(&mut self) {
            GENERATOR.set(self.0.take());
        }
    }

    /// From now on all follows from `seed`.
    #[cfg_attr(not(test), allow(dead_code, reason = "for tests and simulations"))]
    pub fn install(seed: u64) -> Installed {
        Installed(GENERATOR.replace(Some(Rng::with_seed(seed))))
    }

    pub(super) fn draw<T>(draw: impl FnOnce(&mut Rng) -> T) -> Option<T> {
        let mut generator = GENERATOR.take()?;
        let drawn = draw(&mut generator);
        GENERATOR.set(Some(generator));
        Some(drawn)
    }
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = || (unpredictable::<16>(), unit().to_bits(), Hashing::new().hash_one("text"));
        let with_seed = |seed| {
            let _installed = seeded::install(seed);
            (draw(), draw())
        };
        let (first, second) = with_seed(7);
        assert_eq!((first, second), with_seed(7));
        assert_ne!((first.0, first.1), (second.0, second.1));
        assert_ne!((first, second), with_seed(8));
        assert_ne!(draw(), draw(), "random again");
    }
}
