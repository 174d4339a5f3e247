//! How far away the store is: the shortest time from a request to the first byte of its answer.
//!
//! The shortest, because whatever else happens (a busy machine, a wait for a turn, another attempt) only adds
//! to it; of the recent past, because a laptop moves.

use std::time::Duration;

use parking_lot::Mutex;

/// Answers that the recent past consists of: so many to twice as many.
const RECENT_ANSWERS: u32 = 64;

/// The shortest time to the first byte of late.
#[derive(Default)]
pub(super) struct FirstByte(Mutex<Recent>);

/// Two runs of answers, the one that is being counted and the one before it.
#[derive(Default)]
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

    /// [`Duration::MAX`] before the first answer.
    pub(super) fn shortest(&self) -> Duration {
        let recent = self.0.lock();
        recent.now.into_iter().chain(recent.before).min().unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_the_recent_past_counts() {
        let first_byte = FirstByte::default();
        assert_eq!(first_byte.shortest(), Duration::MAX);
        first_byte.took(Duration::from_millis(2));
        first_byte.took(Duration::from_millis(300));
        assert_eq!(first_byte.shortest(), Duration::from_millis(2));
        for _ in 0..2 * RECENT_ANSWERS {
            first_byte.took(Duration::from_millis(30));
        }
        assert_eq!(first_byte.shortest(), Duration::from_millis(30));
    }
}
