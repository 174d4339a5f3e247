//! Write-back: files that are closed and safe on the local disk, on their way to the store.
//!
//! Oldest first, several side by side. A refusal for good (403, quota) keeps the bytes and says why in
//! `uploads list`; an outage is waited out.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Vfs;
use super::error::Result;
use crate::journal::Record;
use crate::store::Key;

/// The queue of closed files.
pub(super) struct WriteBack {
    // One lock for both: two were once taken in either order, and a mount hung for good.
    files: Mutex<Files>,
    changed: Notify,
    /// A file has arrived: those that failed for a passing reason are tried again at once.
    arrived: Notify,
}

#[derive(Default)]
struct Files {
    /// By inode, oldest first.
    waiting: VecDeque<u64>,
    /// The same, to be found in.
    queued: HashSet<u64>,
    /// How many are being sent.
    running: usize,
}

/// Files that are sent side by side; each sends its parts side by side too.
const FILES_AT_ONCE: usize = 8;

/// A file whose upload failed for a passing reason is tried again after this, and then after twice as
/// long each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(10);

impl WriteBack {
    pub fn new() -> WriteBack {
        WriteBack { files: Mutex::default(), changed: Notify::new(), arrived: Notify::new() }
    }

    /// A file is closed. In the queue once, however often it is closed again.
    pub fn push(&self, ino: u64) {
        let mut files = self.files.lock();
        if files.queued.insert(ino) {
            files.waiting.push_back(ino);
        }
        drop(files);
        self.changed.notify_waiters();
    }

    /// Files that wait or are being sent.
    pub fn len(&self) -> usize {
        let files = self.files.lock();
        files.waiting.len() + files.running
    }

    fn take(&self) -> Option<u64> {
        let mut files = self.files.lock();
        if files.running >= FILES_AT_ONCE {
            return None;
        }
        let ino = files.waiting.pop_front()?;
        files.queued.remove(&ino);
        files.running += 1;
        Some(ino)
    }

    fn done(&self) {
        self.files.lock().running -= 1;
        self.changed.notify_waiters();
    }
}

/// Sends closed files for as long as there is a file system.
pub(super) async fn run(vfs: Weak<Vfs>) {
    loop {
        let Some(alive) = vfs.upgrade() else { return };
        // Before it is looked, so that nothing changes in between unheard.
        let changed = alive.write_back.changed.notified();
        if let Some(ino) = alive.write_back.take() {
            let sender = alive.clone();
            alive.runtime.spawn(async move {
                sender.send_closed(ino).await;
                sender.write_back.done();
            });
            continue;
        }
        // Wakes now and then, so that a file system that is gone is noticed.
        let _ = tokio::time::timeout(Duration::from_secs(1), changed).await;
    }
}

impl Vfs {
    /// Waits until every closed file is in the store, or will not get there, and every unlinked one gone. `progress` is told how many
    /// are left.
    pub async fn drain(self: &Arc<Self>, mut progress: impl FnMut(usize)) {
        self.save_all_pending().await;
        loop {
            let changed = self.write_back.changed.notified();
            let left = self.write_back.len();
            let deletions = self.deletions.count();
            progress(left + deletions);
            if left == 0 && deletions == 0 {
                return;
            }
            if left == 0 {
                self.deletions.hurry().await;
                continue;
            }
            let _ = tokio::time::timeout(Duration::from_millis(500), changed).await;
        }
    }

    async fn send_closed(self: &Arc<Self>, ino: u64) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.send_closed_once(ino).await {
                Ok(true) => return,
                Ok(false) => {
                    let arrived = self.write_back.arrived.notified();
                    let _ = tokio::time::timeout(pause, arrived).await;
                    pause = (pause * 2).min(RETRY_LAST);
                }
                Err(error) => {
                    log::warn!(
                        "{}: waits for `uploads resume`: {error}",
                        self.inodes.file_key(ino)
                    );
                    return;
                }
            }
        }
    }

    /// One try. `Ok(false)`: failed in a way that may pass.
    async fn send_closed_once(self: &Arc<Self>, ino: u64) -> Result<bool> {
        let Ok(inode) = self.inodes.get(ino) else { return Ok(true) };
        let _turn = inode.turn().lock().await;
        let Some(draft) = inode.draft() else { return Ok(true) };
        if !draft.progress().closed || inode.state().unlinked {
            // Written again since, or gone: its next close queues it again.
            return Ok(true);
        }
        draft.forget_passing_error();
        let published = match self.know_all_to_write(&inode).await {
            Ok(()) => draft.publish().await,
            Err(error) => Err(error.into()),
        };
        match published {
            Ok(published) => {
                if let Some(published) = published {
                    self.adopt_published(&inode, &published);
                    self.write_back.arrived.notify_waiters();
                }
                let mut state = inode.state();
                if state.used().writers == 0 {
                    state.used_mut().draft = None;
                }
                drop(state);
                self.inodes.settle(ino);
                Ok(true)
            }
            Err(error) if error.is_passing() => {
                log::info!("{}: tried again later: {error}", draft.key());
                Ok(false)
            }
            Err(error) => {
                let cause = error.to_string();
                self.journal.append(Record::DraftFailed { draft: draft.id(), cause })?;
                Err(self.fault(error))
            }
        }
    }

    /// `uploads resume`: tries the waiting files again, all or those of the given keys.
    pub fn resume_uploads(&self, keys: &[Key]) -> usize {
        let mut resumed = 0;
        for inode in self.inodes.local_below(super::ROOT_INO) {
            let Some(draft) = inode.draft() else { continue };
            let wanted = keys.is_empty() || keys.contains(&draft.key());
            if wanted && draft.progress().closed {
                draft.forget_error();
                self.write_back.push(inode.ino);
                resumed += 1;
            }
        }
        resumed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_waits_once_and_again_when_it_is_closed_while_it_is_sent() {
        let queue = WriteBack::new();
        [7, 8, 7].into_iter().for_each(|ino| queue.push(ino));
        assert_eq!((queue.len(), queue.take()), (2, Some(7)));
        queue.push(7);
        assert_eq!(queue.len(), 3);
        assert_eq!((queue.take(), queue.take(), queue.take()), (Some(8), Some(7), None));
    }

    /// Whoever looks while files begin and end gets an answer.
    #[test]
    fn looking_and_taking_do_not_wait_for_each_other() {
        let queue = Arc::new(WriteBack::new());
        let looking = queue.clone();
        let looking = std::thread::spawn(move || {
            (0..200_000).map(|_| looking.len()).max().unwrap_or_default()
        });
        for ino in 0..200_000 {
            queue.push(ino);
            assert_eq!(queue.take(), Some(ino));
            queue.done();
        }
        assert!(looking.join().is_ok_and(|most| most <= 1));
        assert_eq!(queue.len(), 0);
    }
}
