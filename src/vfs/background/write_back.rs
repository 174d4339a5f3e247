//! Write-back: files that are closed and safe on the local disk, on their way to the store.
//!
//! Oldest first, several side by side. A refusal for good (403, quota) keeps the bytes and says why in
//! `uploads list`; an outage is waited out. A file that fails in a way that may pass waits at the back, and leaves its
//! place to the others meanwhile. The queue is bounded: a close that would go beyond waits for those before it, and
//! if they get no further, for the store, so that a program hears of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::waiting::{Outcome, Waiting};
use crate::clock::{self, Instant};
use crate::journal::{Journal, Record};
use crate::outbox::Deletions;
use crate::progress::{Pulse, any_other};
use crate::store::{Key, giving_way};
use crate::vfs::error::{Result, VfsError};
use crate::vfs::faults::Faults;
use crate::vfs::parts::Parts;
use crate::vfs::tree::{ROOT_INO, Tree};
use crate::vfs::versions::Versions;
use crate::writer::DraftProgress;
use crate::{seam, supervise};

/// Sends closed files.
pub struct WriteBack {
    pub waiting: Waiting,
    tree: Arc<Tree>,
    versions: Arc<Versions>,
    journal: Arc<Journal>,
    deletions: Arc<Deletions>,
    faults: Arc<Faults>,
    runtime: tokio::runtime::Handle,
}

/// An attempt to send a file. One that dies has failed, and leaves its place.
struct Attempt {
    of: Arc<WriteBack>,
    ino: u64,
    outcome: Outcome,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.of.waiting.done(self.ino, self.outcome);
    }
}

/// Sends closed files for as long as there is a file system.
pub async fn run(write_back: Weak<WriteBack>) {
    loop {
        let Some(alive) = write_back.upgrade() else { return };
        seam::pass_now("write-back");
        // Before it is looked, so that nothing changes in between unheard.
        let changed = alive.waiting.changed.notified();
        if let Some((ino, mut called_off)) = alive.waiting.take() {
            let attempt = Attempt { of: alive.clone(), ino, outcome: Outcome::Later };
            alive.runtime.spawn(async move {
                // All of it, or the task would have copies of what it uses.
                let mut attempt = attempt;
                // A rename of the file meanwhile waits for each attempt, and so does the next file.
                let (pulse, sent) = (Pulse::new(), giving_way(attempt.of.send_closed(ino)));
                let called_off = called_off.wait_for(|is_off| *is_off);
                let sent = pulse.of_unless(called_off, sent);
                let sent = supervise::attempt("write-back of a file", sent).await;
                if let Some(outcome) = sent.flatten() {
                    attempt.outcome = outcome;
                }
            });
            continue;
        }
        // Wakes now and then, so that a file system that is gone is noticed.
        let look = Duration::from_secs(1);
        let due = alive.waiting.due().map(|due| due.saturating_duration_since(Instant::now()));
        let _ = clock::timeout(due.unwrap_or(look).min(look), changed).await;
    }
}

impl WriteBack {
    /// With a queue of files of at most `bytes_max` bytes.
    pub fn new(
        parts: &Parts,
        versions: Arc<Versions>,
        tree: Arc<Tree>,
        faults: Arc<Faults>,
        bytes_max: u64,
        runtime: tokio::runtime::Handle,
    ) -> WriteBack {
        let Parts { journal, deletions, .. } = parts.clone();
        let waiting = Waiting::new(bytes_max);
        WriteBack { waiting, tree, versions, journal, deletions, faults, runtime }
    }

    /// Waits until every closed file is in the store, or will not get there, and every unlinked one gone. `progress` is told how many
    /// are left.
    pub async fn drain(self: &Arc<Self>, mut progress: impl FnMut(usize)) {
        loop {
            let changed = self.waiting.changed.notified();
            let left = self.waiting.len();
            let deletions = self.deletions.count();
            let releases = self.waiting.releases();
            progress(left + deletions + releases);
            if left + deletions + releases == 0 {
                return;
            }
            if left + releases == 0 {
                self.deletions.hurry().await;
                continue;
            }
            let _ = clock::timeout(Duration::from_millis(500), changed).await;
        }
    }

    async fn send_closed(self: &Arc<Self>, ino: u64) -> Outcome {
        match self.send_closed_once(ino).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // Named once.
                let cause = VfsError { path: None, ..error };
                log::warn!("{}: waits for `uploads resume`: {cause}", self.tree.file_key(ino));
                Outcome::Failed
            }
        }
    }

    /// One try.
    async fn send_closed_once(self: &Arc<Self>, ino: u64) -> Result<Outcome> {
        let Ok(inode) = self.tree.get(ino) else { return Ok(Outcome::Done) };
        let _operation = self.tree.operation_on(&inode).await;
        let Some(draft) = inode.draft() else { return Ok(Outcome::Done) };
        if !draft.progress().closed || inode.state().unlinked {
            // Written again since, or gone: its next close queues it again.
            return Ok(Outcome::Done);
        }
        draft.forget_passing_error();
        let before = draft.progress().parts_stored;
        let published = match self.versions.know_all_to_write(&inode).await {
            Ok(()) => any_other(draft.publish()).await,
            Err(error) => Err(error.into()),
        };
        match published {
            Ok(published) => {
                if let Some(published) = published {
                    self.versions.adopt_published(&inode, &published);
                }
                let mut state = inode.state();
                if state.used().open.writers == 0 {
                    state.used_mut().draft = None;
                }
                drop(state);
                self.tree.inodes.settle(ino);
                Ok(Outcome::Done)
            }
            Err(error) if error.is_passing() => {
                log::info!("{}: tried again later: {error}", draft.key());
                let got_on = draft.progress().parts_stored > before;
                Ok(if got_on { Outcome::GotOn } else { Outcome::Later })
            }
            Err(error) => {
                let cause = error.to_string();
                self.journal.append(Record::DraftFailed { draft: draft.id(), cause })?;
                Err(self.faults.pass(VfsError::from(error).of_key(&draft.key())))
            }
        }
    }

    /// `uploads resume`: tries the waiting files again, all or those of the given keys.
    pub fn resume_uploads(&self, keys: &[Key]) -> usize {
        let mut resumed = 0;
        for inode in self.tree.inodes.local_below(ROOT_INO) {
            let Some(draft) = inode.draft() else { continue };
            let wanted = keys.is_empty() || keys.contains(&draft.key());
            if wanted && draft.progress().closed {
                draft.forget_error();
                self.waiting.push(inode.ino, draft.len());
                resumed += 1;
            }
        }
        resumed
    }

    /// `uploads abort KEY`: drops a file that was closed and is not in the store, and what it holds: what the store has
    /// under its name counts again. `None` where there is no such file.
    ///
    /// # Errors
    /// EBUSY where it is open for writing, or a request for it does not end.
    pub async fn drop_closed(&self, key: &Key) -> Result<Option<DraftProgress>> {
        /// An attempt to send it that cannot end at once is waited for.
        const PATIENCE: Duration = Duration::from_secs(30);
        let found = self.tree.inodes.local_below(ROOT_INO).into_iter();
        let mut found = found.filter(|inode| inode.draft().is_some_and(|it| it.key() == *key));
        let Some(inode) = found.next() else { return Ok(None) };
        let busy = |why: &str| VfsError::new(libc::EBUSY, format!("{key} {why}"));
        self.waiting.call_off(inode.ino);
        let lock = clock::timeout(PATIENCE, inode.operation_lock().lock()).await;
        let _operation =
            lock.map_err(|_| busy("is being sent: try again, or umount --now first"))?;
        let Some(draft) = inode.draft().filter(|draft| draft.is_dirty()) else { return Ok(None) };
        let dropped = draft.progress();
        if !dropped.closed || inode.state().used().open.writers > 0 {
            return Err(busy("is open for writing: its program has to close it first"));
        }
        draft.discard().await?;
        self.versions.forget_draft(&inode, true);
        self.tree.inodes.settle(inode.ino);
        Ok(Some(dropped))
    }
}
