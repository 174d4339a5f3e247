//! Faults that a test puts into a running mount. Debug builds only: a release build has nothing of it.
//!
//! `RATCHETFS_TEST_FAULTS` names a file with a line for each fault: `hang POINT` (what comes there goes on when the line
//! is gone), `panic POINT` or `turn POINT` (a bit of the bytes that pass there turns). It is read whenever a point is passed, so that a test can change it while the mount runs.
//! Points are the operations by their names in FUSE (`lookup`, `unlink`), before they do anything; `operation-lock KEY`,
//! where an operation has that of a file; `show KEY`, where a write has taken effect and others do not see it yet;
//! `attributes-saved KEY`, where the store has them and the journal does not know it; and the requests to the store by
//! their names in S3 (`HeadObject`; `HeadObject answered`: when the answer is there),
//! where no deadline reaches.

/// A point at which a task may hang or panic.
#[inline]
pub async fn pass(_point: &str) {
    #[cfg(debug_assertions)]
    while faults::is_set("hang", _point) {
        crate::clock::sleep(std::time::Duration::from_millis(10)).await;
    }
    pass_now(_point);
}

/// The same for one of many `places`.
#[inline]
pub async fn pass_at(_point: &str, _place: impl FnOnce() -> String) {
    #[cfg(debug_assertions)]
    if faults::are_put() {
        pass(&format!("{_point} {}", _place())).await;
    }
}

/// A point at which a thread may panic.
#[inline]
pub fn pass_now(_point: &str) {
    #[cfg(debug_assertions)]
    assert!(!faults::is_set("panic", _point), "a test has put a fault at {_point}");
}

/// A point at which a bit of bytes may turn, as in memory that is faulty.
#[inline]
pub fn turn(_point: &str, _bytes: &mut [u8]) {
    #[cfg(debug_assertions)]
    if faults::are_put()
        && let Some(first) = _bytes.first_mut().filter(|_| faults::is_set("turn", _point))
    {
        *first ^= 1;
    }
}

/// A number of seconds that a test has put in the place of `usual`, in a variable of the environment.
pub fn seconds(_variable: &str, usual: std::time::Duration) -> std::time::Duration {
    #[cfg(debug_assertions)]
    if let Some(seconds) = std::env::var(_variable).ok().and_then(|text| text.parse().ok()) {
        return std::time::Duration::from_secs(seconds);
    }
    usual
}

#[cfg(debug_assertions)]
mod faults {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("RATCHETFS_TEST_FAULTS").map(PathBuf::from));

    pub fn are_put() -> bool {
        FILE.is_some()
    }

    #[allow(clippy::disallowed_methods, reason = "a test's file, not the mount's")]
    pub fn is_set(what: &str, point: &str) -> bool {
        let Some(file) = FILE.as_deref() else { return false };
        let faults = std::fs::read_to_string(file).unwrap_or_default();
        faults.lines().any(|line| line.split_once(' ') == Some((what, point)))
    }
}
