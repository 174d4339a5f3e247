//! What the file system tells of itself: errors of late, transfers under way, counts.

use super::assemble::Vfs;
use super::error::VfsError;
use super::faults::Fault;
use crate::supervise;
use crate::writer::DraftProgress;

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
    pub faults: Vec<Fault>,
}

impl Vfs {
    /// Writes the file of remembered attributes anew where it is mostly of what is forgotten.
    pub async fn compact_attributes(&self) -> std::io::Result<()> {
        self.parts.catalog.compact_attributes().await
    }

    /// The first deletion that the store refused since this was last asked.
    pub fn take_refused_deletion(&self) -> Option<String> {
        self.parts.deletions.take_refusal()
    }

    /// Something went wrong, and nothing of the file system knows of it yet.
    pub fn note_fault(&self, error: VfsError) {
        self.faults.note(&error);
    }

    /// An operation on an open file ends with this error, whatever it is. Once for all places of the file.
    /// `ino`: as for [`Vfs::path_of`].
    pub fn note_fault_of(&self, operation: &str, ino: u64, offset: u64, error: &VfsError) {
        self.faults.note_of(operation, &self.path_of(ino), offset, error);
    }

    /// Where a file or directory is, for the log. `ino`: a number by which the kernel knows it.
    pub fn path_of(&self, ino: u64) -> String {
        let ino = self.tree.get(ino).map_or(ino, |inode| inode.ino);
        format!("/{}", self.tree.file_key(ino))
    }

    /// What the mount knows of without asking. Of a million names it takes some milliseconds, in which others go on.
    pub async fn seen(&self) -> Seen {
        let numbers = self.tree.inodes.numbers();
        let mut seen = Seen { files: numbers.len() as u64, bytes: 0 };
        for some in numbers.chunks(LOOKED_AT) {
            seen.bytes += self.tree.inodes.bytes_of(some);
            tokio::task::yield_now().await;
        }
        seen
    }

    /// Inodes in memory.
    pub fn inode_count(&self) -> usize {
        self.tree.inodes.count()
    }

    /// Gives up what was kept for walks that have ended.
    pub fn forget_walks(&self) {
        self.parts.catalog.forget_walks();
    }

    /// The most inodes that there have been in memory since this was last asked.
    pub fn take_most_inodes(&self) -> usize {
        self.tree.inodes.take_most()
    }

    pub fn report(&self) -> Report {
        let mut faults = self.faults.latest();
        let refused = self.parts.deletions.refused().into_iter();
        faults.extend(refused.map(|refusal| Fault {
            when: refusal.when,
            what: refusal.to_string(),
            path: Some(refusal.key.to_string()),
            cause: refusal.error.cause(),
            request_id: refusal.error.request_id.as_ref().map(ToString::to_string),
        }));
        faults.extend(supervise::deaths().into_iter().map(|(when, what)| Fault::of(when, what)));
        faults.sort_by_key(|fault| fault.when);
        Report {
            inodes: self.tree.inodes.count(),
            hidden_names: self.parts.catalog.hidden_names(),
            transfers: self
                .parts
                .writers
                .live()
                .iter()
                .filter(|draft| draft.is_dirty())
                .map(|draft| draft.progress())
                .collect(),
            deletions: self.parts.deletions.count(),
            faults,
        }
    }
}
