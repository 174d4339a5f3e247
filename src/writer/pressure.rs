//! What happens when memory runs short: clean memory is dropped at once, dirty memory goes to the disk.
//!
//! Permits that open files hold are never waited for by the request of another file alone: this task
//! takes them back by staging, so a mount whose writers all pause half-way goes on.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Writers;
use crate::budget::{Budget, Reclaim};

/// When nothing could be staged (everything is on its way already), look again after this long: parts
/// in flight free their memory without this task's help.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Reclaim for Writers {
    fn reclaim(&self, bytes: u64) -> u64 {
        let mut freed = 0;
        for draft in self.live() {
            if freed >= bytes {
                break;
            }
            freed += draft.reclaim(bytes - freed);
        }
        freed
    }
}

/// Stages the oldest open buffers for as long as somebody waits for memory.
pub(super) async fn stage_under_pressure(writers: Weak<Writers>, budget: Arc<Budget>) {
    loop {
        budget.pressure().await;
        let Some(alive) = writers.upgrade() else { return };
        let freed = tokio::task::spawn_blocking(move || stage_one(&alive)).await.unwrap_or(0);
        if freed == 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn stage_one(writers: &Writers) -> u64 {
    let mut drafts = writers.live();
    // Writers go on meanwhile: each is asked once, or the order would change under the sort.
    drafts.sort_by_cached_key(|draft| draft.last_written());
    for draft in drafts {
        match draft.stage_oldest() {
            Ok(0) => {}
            Ok(freed) => return freed,
            Err(error) => log::warn!("{}: cannot be staged: {error}", draft.key()),
        }
    }
    0
}
