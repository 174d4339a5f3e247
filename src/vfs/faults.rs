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
    latest: Mutex<VecDeque<Noted>, rank::Report>,
}

/// Something that went wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    pub when: SystemTime,
    /// All of it, in one line.
    pub what: String,
    /// The file or object that it is about, where it is about one.
    pub path: Option<String>,
    pub cause: String,
    /// What the store calls its answer, where it told of this.
    pub request_id: Option<String>,
}

impl Fault {
    pub fn of(when: SystemTime, what: String) -> Fault {
        Fault { when, cause: what.clone(), what, path: None, request_id: None }
    }
}

struct Noted {
    /// What makes it the same as another one.
    same: String,
    fault: Fault,
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
        self.note_one(error, String::new(), error.path.as_deref(), error.to_string());
    }

    /// An operation on an open file ends with this error, whatever it is: `operation` and its place are told with it,
    /// unless it was told already. Once for all places.
    pub fn note_of(&self, operation: &str, path: &str, offset: u64, error: &VfsError) {
        if !error.is_noted() {
            // The path says more than the key.
            let error = VfsError { path: None, ..error.clone() };
            let what = format!("{operation} {path} at {offset}: {error}");
            self.note_one(&error, format!("{operation} {path}"), Some(path), what);
        }
    }

    /// The latest, oldest first.
    pub fn latest(&self) -> Vec<Fault> {
        self.latest.lock().iter().map(|noted| noted.fault.clone()).collect()
    }

    /// Two are the same, and told of once, whose causes and paths are, in the same operation: each has an id of its own.
    fn note_one(&self, error: &VfsError, operation: String, path: Option<&str>, what: String) {
        let now = clock::wall();
        let same = format!("{operation} {} {}", error.path.as_deref().unwrap_or(""), error.cause);
        let mut latest = self.latest.lock();
        let is_recent = |noted: &Noted| {
            now.duration_since(noted.fault.when).is_ok_and(|age| age < SAID_AGAIN_AFTER)
        };
        if latest.iter().any(|noted| noted.same == same && is_recent(noted)) {
            return;
        }
        log::warn!("{what}");
        if latest.len() == FAULTS_MAX {
            latest.pop_front();
        }
        let fault = Fault {
            when: now,
            what,
            path: path.map(str::to_owned),
            cause: error.cause.clone(),
            request_id: error.request_id.as_ref().map(ToString::to_string),
        };
        latest.push_back(Noted { same, fault });
    }
}
