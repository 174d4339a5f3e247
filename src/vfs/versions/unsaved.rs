//! Inodes whose attributes the store does not have yet. `background::saver` saves them.

use std::collections::HashMap;

use tokio::sync::Notify;

use crate::clock::Instant;
use crate::lock::{Mutex, rank};

/// Inodes whose attributes the store does not have yet.
pub struct Unsaved {
    /// Since when.
    inodes: Mutex<HashMap<u64, Instant>, rank::Unsaved>,
    pub noted: Notify,
    /// One round of saving at a time: an unmount waits for the one under way.
    pub saving: tokio::sync::Mutex<()>,
}

impl Unsaved {
    pub fn new() -> Unsaved {
        Unsaved {
            inodes: Mutex::new(HashMap::new()),
            noted: Notify::new(),
            saving: tokio::sync::Mutex::new(()),
        }
    }

    pub fn note(&self, ino: u64) {
        {
            let mut inodes = self.inodes.lock();
            // Told under the lock, so that a later note is not earlier by the clock.
            inodes.entry(ino).or_insert_with(Instant::now);
        }
        self.noted.notify_one();
    }

    /// Those that were noted by `until`. A later note has woken `noted`.
    pub fn take(&self, until: Instant) -> Vec<u64> {
        let due = |_: &u64, since: &mut Instant| *since <= until;
        self.inodes.lock().extract_if(due).map(|(ino, _)| ino).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has just changed may be renamed in a moment, in the same copy.
    #[test]
    fn a_round_leaves_what_was_noted_after_it_began() {
        let unsaved = Unsaved::new();
        unsaved.note(1);
        let begun = Instant::now();
        while Instant::now() == begun {}
        unsaved.note(2);
        unsaved.note(1);
        assert_eq!(unsaved.take(begun), [1], "noted again, it waits no longer");
        assert_eq!((unsaved.take(begun), unsaved.inodes.lock().len()), (Vec::new(), 1));
        assert_eq!(unsaved.take(Instant::now()), [2]);
    }
}
