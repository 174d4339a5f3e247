//! What keeps secrets (keys, tokens) in this process.

use std::fmt;

use zeroize::Zeroize;

/// Set, it lets the kernel write core dumps and debuggers attach.
const CORE_DUMPS: &str = "RATCHETFS_CORE_DUMPS";

/// From here on the kernel writes no core dump of this process or of what it forks, and lets no other process of the user look
/// into its memory or environment (ptrace(2)): all of them hold credentials. Not so where `RATCHETFS_CORE_DUMPS` is set, for
/// looking for a fault.
pub fn stay_in_this_process() {
    if std::env::var_os(CORE_DUMPS).is_some_and(|value| !value.is_empty()) {
        return;
    }
    // SAFETY: plain numbers; it changes this process's own flag, and 0 is always allowed.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Bytes that no `Debug` shows, and that are zeroed when they are dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes.into_boxed_slice())
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
