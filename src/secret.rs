//! What keeps secrets (keys, tokens) in this process.

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
