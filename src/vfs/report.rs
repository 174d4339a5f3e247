//! What the file system tells of itself: errors of late, transfers under way, counts.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::Vfs;
use super::error::VfsError;
use crate::writer::DraftProgress;

/// How many errors `status` remembers.
const FAULTS_MAX: usize = 20;

/// The same thing is not said again sooner: in an outage a busy program would fill the disk with it.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The latest things that went wrong outside the programs that asked.
#[derive(Default)]
pub(super) struct Faults {
    latest: Mutex<VecDeque<(SystemTime, String)>>,
}

impl Faults {
    pub fn note(&self, error: &VfsError) {
        let (now, text) = (SystemTime::now(), error.to_string());
        let mut latest = self.latest.lock();
        let just_now =
            |when: &SystemTime| now.duration_since(*when).is_ok_and(|age| age < SAID_AGAIN_AFTER);
        if latest.iter().any(|(when, said)| *said == text && just_now(when)) {
            return;
        }
        log::warn!("{text}");
        if latest.len() == FAULTS_MAX {
            latest.pop_front();
        }
        latest.push_back((now, text));
    }
}

/// The file system at a glance.
#[derive(Clone, Debug)]
pub struct Report {
    pub inodes: usize,
    pub hidden_names: u64,
    pub transfers: Vec<DraftProgress>,
    /// Closed files that are not in the store yet.
    pub waiting: usize,
    /// Unlinked files that the store still has.
    pub deletions: usize,
    /// Changed attributes that are not in the store yet.
    pub unsaved: usize,
    pub faults: Vec<(SystemTime, String)>,
}

impl Vfs {
    /// The first deletion that the store refused since this was last asked.
    pub fn take_refused_deletion(&self) -> Option<String> {
        self.deletions.take_refusal()
    }

    /// Inodes in memory.
    pub fn inode_count(&self) -> usize {
        self.inodes.count()
    }

    /// Gives up what was kept for walks that nobody goes on with.
    pub fn forget_walks(&self) {
        self.ahead.forget_walks();
    }

    /// The most inodes that there have been in memory since this was last asked.
    pub fn take_most_inodes(&self) -> usize {
        self.inodes.take_most()
    }

    pub fn report(&self) -> Report {
        let mut faults: Vec<_> = self.faults.latest.lock().iter().cloned().collect();
        faults.extend(self.deletions.refused());
        faults.sort_by_key(|(when, _)| *when);
        Report {
            inodes: self.inodes.count(),
            hidden_names: self.listings.hidden().total(),
            transfers: self
                .writers
                .live()
                .iter()
                .filter(|draft| draft.is_dirty())
                .map(|draft| draft.progress())
                .collect(),
            waiting: self.write_back.len(),
            deletions: self.deletions.count(),
            unsaved: self.changes.count(),
            faults,
        }
    }
}
