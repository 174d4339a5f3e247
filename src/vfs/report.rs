//! What the file system tells of itself: errors of late, transfers under way, counts.

use std::collections::VecDeque;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::Vfs;
use super::error::VfsError;
use crate::writer::DraftProgress;

/// How many errors `status` remembers.
const FAULTS_MAX: usize = 20;

/// The latest things that went wrong outside the programs that asked.
#[derive(Default)]
pub(super) struct Faults {
    latest: Mutex<VecDeque<(SystemTime, String)>>,
}

impl Faults {
    pub fn note(&self, error: &VfsError) {
        log::warn!("{error}");
        let mut latest = self.latest.lock();
        if latest.len() == FAULTS_MAX {
            latest.pop_front();
        }
        latest.push_back((SystemTime::now(), error.to_string()));
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
    /// Changed attributes that are not in the store yet.
    pub unsaved: usize,
    pub faults: Vec<(SystemTime, String)>,
}

impl Vfs {
    pub fn report(&self) -> Report {
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
            unsaved: self.changes.count(),
            faults: self.faults.latest.lock().iter().cloned().collect(),
        }
    }
}
