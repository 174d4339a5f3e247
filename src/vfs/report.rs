//! What the file system tells of itself: errors of late, transfers under way, counts.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::Vfs;
use super::error::VfsError;
use crate::clock;
use crate::lock::{Mutex, rank};
use crate::supervise;
use crate::writer::DraftProgress;

/// How many errors `status` remembers.
const FAULTS_MAX: usize = 20;

/// The same thing is not said again sooner: in an outage a busy program would fill the disk with it.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The latest things that went wrong outside the programs that asked.
#[derive(Default)]
pub(super) struct Faults {
    latest: Mutex<VecDeque<Fault>, rank::Report>,
}

struct Fault {
    when: SystemTime,
    /// What makes it the same as another one.
    same: String,
    text: String,
}

impl Faults {
    pub fn note(&self, error: &VfsError) {
        self.note_one(error.to_string(), String::clone);
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

/// The names that the kernel has been told of and has not forgotten, and what is being written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub files: u64,
    /// Length of the files among them.
    pub bytes: u64,
}

/// So many inodes are looked at without a pause.
const LOOKED_AT: usize = 4096;

/// The file system at a glance.
#[derive(Clone, Debug)]
pub struct Report {
    pub inodes: usize,
    pub hidden_names: u64,
    pub transfers: Vec<DraftProgress>,
    /// Unlinked files that the store still has.
    pub deletions: usize,
    pub faults: Vec<(SystemTime, String)>,
}

impl Vfs {
    /// The first deletion that the store refused since this was last asked.
    pub fn take_refused_deletion(&self) -> Option<String> {
        self.deletions.take_refusal()
    }

    /// Something went wrong, and nothing of the file system knows of it yet.
    pub fn note_fault(&self, error: VfsError) {
        self.faults.note(&error);
    }

    /// An operation on an open file ends with this error, whatever it is: `operation` and its place are told with it,
    /// unless it was told already. Once for all places.
    pub fn note_fault_of(&self, operation: &str, offset: u64, error: &VfsError) {
        if !error.is_noted() {
            let same = format!("{operation}: {error}");
            self.faults.note_one(same, |_| format!("{operation} at {offset}: {error}"));
        }
    }

    /// Where a file or directory is, for the log. `ino`: a number by which the kernel knows it.
    pub fn path_of(&self, ino: u64) -> String {
        let ino = self.inodes.get(ino).map_or(ino, |inode| inode.ino);
        format!("/{}", self.inodes.file_key(ino))
    }

    /// What the mount knows of without asking. Of a million names it takes some milliseconds, in which others go on.
    pub async fn seen(&self) -> Seen {
        let numbers = self.inodes.numbers();
        let mut seen = Seen { files: numbers.len() as u64, bytes: 0 };
        for some in numbers.chunks(LOOKED_AT) {
            seen.bytes += self.inodes.bytes_of(some);
            tokio::task::yield_now().await;
        }
        seen
    }

    /// Inodes in memory.
    pub fn inode_count(&self) -> usize {
        self.inodes.count()
    }

    /// Gives up what was kept for walks that nobody goes on with.
    pub fn forget_walks(&self) {
        self.catalog.forget_walks();
    }

    /// The most inodes that there have been in memory since this was last asked.
    pub fn take_most_inodes(&self) -> usize {
        self.inodes.take_most()
    }

    pub fn report(&self) -> Report {
        let told = |fault: &Fault| (fault.when, fault.text.clone());
        let mut faults: Vec<_> = self.faults.latest.lock().iter().map(told).collect();
        faults.extend(self.deletions.refused());
        faults.extend(supervise::deaths());
        faults.sort_by_key(|(when, _)| *when);
        Report {
            inodes: self.inodes.count(),
            hidden_names: self.catalog.hidden_names(),
            transfers: self
                .writers
                .live()
                .iter()
                .filter(|draft| draft.is_dirty())
                .map(|draft| draft.progress())
                .collect(),
            deletions: self.deletions.count(),
            faults,
        }
    }
}
