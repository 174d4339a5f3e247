//! Saves changed attributes a moment after they changed, several changes of a file at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::progress::Pulse;
use crate::vfs::tree::Tree;
use crate::vfs::versions::Versions;
use crate::{seam, supervise};

/// How long a change of attributes waits for others to go with it: `cp -p`, `rsync` and `tar` make
/// theirs within milliseconds.
const GATHER: Duration = Duration::from_millis(300);

/// How long after a store that did not answer is asked again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Saves changed attributes a moment after they changed, for as long as there is a file system.
pub async fn run(saver: Weak<AttributeSaver>) {
    let mut pause = RETRY_FIRST;
    loop {
        match saver.upgrade() {
            Some(saver) => saver.pending_noted().await,
            None => return,
        }
        seam::pass_now("attributes");
        // What comes later may be renamed in a moment, and waits for the next round.
        let until = Instant::now();
        clock::sleep(GATHER).await;
        let Some(saver) = saver.upgrade() else { return };
        if saver.save_pending_of(until).await {
            pause = RETRY_FIRST;
            continue;
        }
        drop(saver);
        clock::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// Brings changed attributes to the store.
pub struct AttributeSaver {
    tree: Arc<Tree>,
    versions: Arc<Versions>,
    /// Files saved side by side.
    concurrency: usize,
}

impl AttributeSaver {
    pub fn new(tree: Arc<Tree>, versions: Arc<Versions>, concurrency: usize) -> AttributeSaver {
        AttributeSaver { tree, versions, concurrency }
    }

    async fn pending_noted(&self) {
        // Wakes now and then, so that a file system that is gone is noticed.
        let noted = self.versions.unsaved.noted.notified();
        let _ = clock::timeout(Duration::from_secs(1), noted).await;
    }

    /// Saves all that has changed.
    pub async fn save_all_pending(&self) {
        self.save_pending_of(Instant::now()).await;
    }

    /// Saves what was noted by `until`, side by side. A failure is logged and noted; the change stays in memory.
    /// Where the store did not answer it is noted as to be saved again, and `false` returned.
    async fn save_pending_of(&self, until: Instant) -> bool {
        use futures_util::stream::StreamExt;
        let answered = AtomicBool::new(true);
        let _round = self.versions.unsaved.saving.lock().await;
        let inodes = self.versions.unsaved.take(until);
        futures_util::stream::iter(inodes)
            .for_each_concurrent(self.concurrency, |ino| {
                let answered = &answered;
                let save = async move {
                    let Ok(inode) = self.tree.get(ino) else { return };
                    let _operation = self.tree.operation_on(&inode).await;
                    if let Err(error) = self.versions.save_attributes(&inode).await {
                        let key = self.tree.file_key(ino);
                        log::warn!("{key}: mode, owner or times are not saved: {error}");
                        if error.unanswered {
                            self.versions.unsaved.note(ino);
                            answered.store(false, Ordering::Relaxed);
                        }
                    }
                };
                // One of which the saving dies keeps no other from it. It is saved by the next change, or the next mount.
                async move {
                    supervise::attempt("attributes", Pulse::new().of(save)).await;
                }
            })
            .await;
        answered.into_inner()
    }
}
