//! How far away the store is: the shortest time from a request to the first byte of its answer.
//!
//! The shortest, because whatever else happens (a busy machine, a wait for a turn, another attempt) only adds
//! to it; of the recent past, because a laptop moves.

use std::time::Duration;

use crate::lock::{Mutex, rank};

/// A store whose first byte comes within this time is near.
const NEAR: Duration = Duration::from_millis(10);

/// Answers that the recent past consists of: so many to twice as many.
const RECENT_ANSWERS: u32 = 64;

/// The shortest time to the first byte of late.
#[derive(Debug, Default)]
pub struct FirstByte(Mutex<Recent, rank::FirstByte>);

/// Two runs of answers, the one that is being counted and the one before it.
#[derive(Debug, Default)]
struct Recent {
    now: Option<Duration>,
    counted: u32,
    before: Option<Duration>,
}

impl FirstByte {
    pub(super) fn took(&self, time: Duration) {
        let mut recent = self.0.lock();
        recent.now = Some(recent.now.map_or(time, |shortest| shortest.min(time)));
        recent.counted += 1;
        if recent.counted == RECENT_ANSWERS {
            *recent = Recent { before: recent.now, ..Recent::default() };
        }
    }

    /// Whether the store is on this machine or beside it. Such a store is limited by processors and disks, a far
    /// one rather by each connection. Not before the first answer.
    pub fn is_near(&self) -> bool {
        self.shortest().is_some_and(|shortest| shortest <= NEAR)
    }

    /// Whether it is farther away. Not before the first answer either.
    pub fn is_far(&self) -> bool {
        self.shortest().is_some_and(|shortest| shortest > NEAR)
    }

    /// `None` before the first answer.
    fn shortest(&self) -> Option<Duration> {
        let recent = self.0.lock();
        recent.now.into_iter().chain(recent.before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_the_recent_past_counts() {
        let first_byte = FirstByte::default();
        assert!(!first_byte.is_near() && !first_byte.is_far());
        first_byte.took(Duration::from_millis(2));
        first_byte.took(Duration::from_millis(300));
        assert!(first_byte.is_near());
        for _ in 0..2 * RECENT_ANSWERS {
            first_byte.took(Duration::from_millis(30));
        }
        assert!(first_byte.is_far());
    }
}
