//! How a mount ends: in order, with all that was closed in the store; or now, whatever is open, waits or hangs.
//!
//! Now means within [`ENDS_WITHIN`]. The mount is detached; what uses it still a moment later (an open file, a copy of
//! the mount in another mount namespace) is cut off, by aborting the connection to the kernel, or, where fusectl is not
//! mounted, by the end of the process; what hangs even then (a store, a disk) ends with that. Nothing of this waits for the runtime or for the own mount.
//! Crash: that is what the last of these steps is. What was acknowledged is in the journal.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::kernel::Kernel;
use crate::blocking;
use crate::clock;

/// A program that has a file open notices that the mount is detached, or closes it, within this.
const CUT_OFF_AFTER: Duration = Duration::from_secs(2);

/// The command that asked hears what becomes of it within this.
const HEARD_WITHIN: Duration = Duration::from_millis(200);

/// Asked to end now, the process is gone after this, in whatever state it is.
const ENDS_WITHIN: Duration = Duration::from_secs(7);

/// Whether the mount was asked to end now, and how it does.
pub(super) struct Ending {
    kernel: Arc<Kernel>,
    now: watch::Sender<bool>,
    /// What became of it, once that is known: a line where there is something to tell.
    outcome: Arc<watch::Sender<Option<Outcome>>>,
}

/// `Some`: what had to be done so that the mount ends.
pub(super) type Outcome = Option<&'static str>;

impl Ending {
    pub fn new(kernel: Arc<Kernel>) -> Arc<Ending> {
        Arc::new(Ending { kernel, now: watch::Sender::new(false), outcome: Arc::default() })
    }

    /// Whether the end was asked for without waiting.
    pub fn is_now(&self) -> bool {
        *self.now.borrow()
    }

    /// Resolves when that is asked for.
    pub async fn now(&self) {
        let mut now = self.now.subscribe();
        // The sender is here, so that it cannot fail.
        let _ = now.wait_for(|now| *now).await;
    }

    /// What becomes of it. Told before the process goes.
    pub async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.subscribe();
        // As above.
        outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.flatten())
    }

    /// Takes the mount away and ends the process. Returns at once; asked again it does nothing more.
    pub fn end_now(&self) {
        if self.now.send_replace(true) {
            return;
        }
        let (kernel, outcome) = (self.kernel.clone(), self.outcome.clone());
        let steps = [
            spawn("ratchetfs-last", || {
                clock::block_for(ENDS_WITHIN);
                log::error!("what still hangs ends with the process");
                exit();
            }),
            spawn("ratchetfs-end", move || take_away(&kernel, &outcome)),
        ];
        if let Some(error) = steps.into_iter().find_map(Result::err) {
            log::error!("no thread to unmount with ({error}): the process ends");
            exit();
        }
    }
}

/// A thread of its own.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    blocking::thread(name, work).map(drop)
}

/// Without waiting for threads that hang. The kernel closes the connection, whose mount is dead from then on.
fn exit() -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(1) }
}

fn take_away(kernel: &Kernel, outcome: &watch::Sender<Option<Outcome>>) {
    if let Err(error) = kernel.unmount(true) {
        log::warn!("cannot be unmounted: {error}");
    }
    if kernel.ends_within(CUT_OFF_AFTER) {
        outcome.send_replace(Some(None));
        return;
    }
    let told = "was in use, here or in another mount namespace: cut off";
    log::warn!("{told}");
    outcome.send_replace(Some(Some(told)));
    clock::block_for(HEARD_WITHIN);
    if let Err(error) = kernel.abort() {
        // It ends with the process then, which goes on to its end.
        log::debug!("the connection ends with the process: {error}");
        kernel.give_up();
    }
}
