//! What went wrong outside the programs that asked, for the log and `status`.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::error::VfsError;
use crate::clock;
use crate::lock::{Mutex, rank};

/// How many errors `status` remembers.
const FAULTS_MAX: usize = 20;

/// The same thing is not said again sooner: in an outage a busy program would fill the disk with it.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The latest things that went wrong outside the programs that asked.
#[derive(Default)]
pub struct Faults {
    latest: Mutex<VecDeque<Fault>, rank::Report>,
}

struct Fault {
    when: SystemTime,
    /// What makes it the same as another one.
    same: String,
    text: String,
}

impl Faults {
    /// Passes an error on, noted for `status` and the log if something is wrong outside.
    pub fn pass(&self, error: impl Into<VfsError>) -> VfsError {
        let error = error.into();
        if !error.is_fault() {
            return error;
        }
        self.note(&error);
        error.noted()
    }

    pub fn note(&self, error: &VfsError) {
        self.note_one(error.to_string(), String::clone);
    }

    /// An operation on an open file ends with this error, whatever it is: `operation` and its place are told with it,
    /// unless it was told already. Once for all places.
    pub fn note_of(&self, operation: &str, offset: u64, error: &VfsError) {
        if !error.is_noted() {
            let same = format!("{operation}: {error}");
            self.note_one(same, |_| format!("{operation} at {offset}: {error}"));
        }
    }

    /// The latest, oldest first.
    pub fn latest(&self) -> Vec<(SystemTime, String)> {
        self.latest.lock().iter().map(|fault| (fault.when, fault.text.clone())).collect()
    }

    /// `text` tells of the fault that is known for the same by `same`.
    fn note_one(&self, same: String, text: impl FnOnce(&String) -> String) {
        let now = clock::wall();
        let mut latest = self.latest.lock();
        let is_recent =
            |fault: &Fault| now.duration_since(fault.when).is_ok_and(|age| age < SAID_AGAIN_AFTER);
        if latest.iter().any(|fault| fault.same == same && is_recent(fault)) {
            return;
        }
        let text = text(&same);
        log::warn!("{text}");
        if latest.len() == FAULTS_MAX {
            latest.pop_front();
        }
        latest.push_back(Fault { when: now, same, text });
    }
}
