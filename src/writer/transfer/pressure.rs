//! What happens when memory runs short: clean memory is dropped at once, dirty memory goes to the disk.
//!
//! Permits that open files hold are never waited for by the request of another file alone: this task
//! takes them back by staging, so a mount whose writers all pause half-way goes on.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::blocking;
use crate::budget::{Budget, Grant, Reclaim};
use crate::clock;
use crate::seam;
use crate::supervise;
use crate::writer::content::stage::stage_oldest;
use crate::writer::error::WriteError;
use crate::writer::state::{Draft, Writers};

/// When nothing could be staged (everything is on its way already), look again after this long: parts
/// in flight free their memory without this task's help.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Reclaim for Writers {
    fn reclaim(&self, bytes: u64) -> u64 {
        let drafts = self.live();
        let mut freed = 0;
        for draft in &drafts {
            if freed >= bytes {
                break;
            }
            freed += reclaim(draft, bytes - freed);
        }
        // One of these may be the last reference, and the end of a draft takes locks; so may the caller have.
        self.runtime.spawn(async move { drop(drafts) });
        freed
    }
}

/// Memory that the store has as well, dropped at once, unless it may be read.
fn reclaim(draft: &Draft, wanted: u64) -> u64 {
    // The caller may hold this very lock, while it asks for a buffer.
    let Some(mut state) = draft.state.try_lock() else { return 0 };
    if state.content.is_readable && !state.transfer.is_publishing {
        return 0;
    }
    state.content.drop_clean(wanted)
}

/// What an attempt to stage came to.
enum Staged {
    Freed,
    /// Everything is on its way already, or nothing is held.
    Nothing,
    Failed(WriteError),
}

/// Stages the oldest open buffers for as long as memory is waited for. Where the disk takes nothing and
/// nothing is on its way either, the writes that wait are told: nothing else would ever wake them.
pub(in crate::writer) async fn stage_under_pressure(writers: Weak<Writers>, budget: Arc<Budget>) {
    let mut told = false;
    loop {
        budget.pressure().await;
        let Some(alive) = writers.upgrade() else { return };
        let stager = alive.clone();
        seam::pass_now("memory");
        let staged = blocking::run(move || stage_one(&stager)).await;
        let staged = staged.unwrap_or_else(|died| {
            if let Ok(panic) = died.try_into_panic() {
                supervise::note("memory", &*panic);
            }
            Staged::Nothing
        });
        match staged {
            Staged::Freed => {
                told = false;
                continue;
            }
            Staged::Nothing => {}
            Staged::Failed(error) => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!("memory is short, and nothing can be moved to the disk: {error}");
                }
                if alive.parts_now().1 == 0 {
                    alive.stuck.send_replace(Some(error));
                }
            }
        }
        clock::sleep(LOOK_AGAIN).await;
    }
}

fn stage_one(writers: &Writers) -> Staged {
    let mut drafts = writers.live();
    // Writers go on meanwhile: each is asked once, or the order would change under the sort.
    drafts.sort_by_cached_key(|draft| draft.state.lock().content.writes);
    let mut outcome = Staged::Nothing;
    for draft in drafts {
        match stage_oldest(&draft) {
            Ok(0) => {}
            Ok(_) => return Staged::Freed,
            Err(error) => outcome = Staged::Failed(error),
        }
    }
    outcome
}

impl Writers {
    /// Memory for a write.
    pub(in crate::writer) async fn memory(&self, bytes: u64) -> Result<Grant, WriteError> {
        let mut stuck = self.stuck.subscribe();
        tokio::select! {
            biased;
            grant = self.budget.reserve(bytes) => Ok(grant),
            _ = stuck.changed() => Err(stuck.borrow().clone().unwrap_or(WriteError::Lost)),
        }
    }
}
