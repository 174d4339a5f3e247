//! Waiting for the mount before this one: `fusermount3 -u DIR` returns while the process behind still
//! finishes uploads and writes its journal, and a command that mounts again at once should not be refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::control::client::Client;
use crate::journal::{Identity, Journal, JournalError, ReplayReport};

/// How long a process that has nothing mounted any more may take: beyond that it has uploads to finish,
/// and the caller should hear of it.
const ENDING_MAX: Duration = Duration::from_secs(30);

/// Likewise where it does not say which it is: a mount that is given up removes its lock with the folder.
const NAMELESS_MAX: Duration = Duration::from_secs(1);

/// How often the lock is tried.
const EVERY: Duration = Duration::from_millis(20);

/// Opens the journal of `folder`; waits while its holder is about to end.
pub(super) async fn open_journal(
    folder: &Path,
    identity: &Identity,
) -> Result<(Arc<Journal>, ReplayReport), JournalError> {
    let begun = Instant::now();
    loop {
        let locked = match Journal::open(folder, identity) {
            Err(JournalError::Locked { folder, holder }) => {
                let patience = holder.map_or(NAMELESS_MAX, |_| ENDING_MAX);
                if holder.is_some_and(serves) || begun.elapsed() > patience {
                    return Err(JournalError::Locked { folder, holder });
                }
                holder
            }
            other => return other,
        };
        log::debug!("process {} has to end first", locked.unwrap_or(0));
        clock::sleep(EVERY).await;
    }
}

/// Whether the process has something mounted, or is no mount that can be asked.
fn serves(holder: u32) -> bool {
    if holder == std::process::id() {
        return true;
    }
    // A process that has only just begun has no socket yet; one that is at its end has none any more.
    let Some(mut client) = Client::of_process(holder) else { return false };
    match client.status() {
        Ok(status) => is_mounted(Path::new(&status.place.mount_point)),
        Err(error) => !error.is_hang_up(),
    }
}

fn is_mounted(mount_point: &Path) -> bool {
    let Ok(table) = crate::disk::kernel_says("/proc/self/mountinfo") else { return true };
    // The table escapes blanks and the like; such a mount point is waited for in vain, and then told of.
    table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(mount_point))
}
