//! Work that blocks: on the disk, or for long on the processor. It is handed over here, so that a simulation can own when
//! it runs: in debug builds [`inline::install`] has [`run`] put it among the tasks of the runtime, where the scheduler takes
//! it in turn, and [`thread()`] and [`scoped`] refuse, as where no thread can be had.
//!
//! Relied upon: what was handed over runs to its end, also where its handle is dropped; what it returns, or its panic, is in
//! the handle.
//!
//! Threads that run as long as the mount does (the disk worker, readback, the kernel's session) wait for work in loops of
//! their own: a simulation goes without them, or calls their steps.

#![allow(clippy::disallowed_methods, reason = "the one place that begins threads")]

use std::io;
use std::thread::{self, Scope, ScopedJoinHandle};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Runs `work` beside the tasks of this runtime.
#[inline]
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    run_on(&Handle::current(), work)
}

/// Likewise, asked for by a thread that may be outside of `runtime`.
#[inline]
pub fn run_on<T: Send + 'static>(
    runtime: &Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    #[cfg(debug_assertions)]
    if inline::is_installed() {
        return runtime.spawn(async move { work() });
    }
    runtime.spawn_blocking(work)
}

/// A thread of its own.
///
/// # Errors
/// None can be had.
pub fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    refuse_inline()?;
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// A thread that may borrow what outlives `scope`.
///
/// # Errors
/// None can be had.
pub fn scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    refuse_inline()?;
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work)
}

#[inline]
fn refuse_inline() -> io::Result<()> {
    #[cfg(debug_assertions)]
    if inline::is_installed() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(())
}

/// No threads but the caller's.
#[cfg(debug_assertions)]
pub mod inline {
    use std::cell::Cell;

    thread_local! {
        static INSTALLED: Cell<bool> = const { Cell::new(false) };
    }

    /// There are threads again when this is dropped.
    #[must_use]
    pub struct Installed(bool);

    impl Drop for Installed {
        fn drop(&mut self) {
            INSTALLED.set(self.0);
        }
    }

    /// From now on what this thread hands over runs in this thread.
    #[cfg_attr(not(test), allow(dead_code, reason = "for tests and simulations"))]
    pub fn install() -> Installed {
        Installed(INSTALLED.replace(true))
    }

    pub(super) fn is_installed() -> bool {
        INSTALLED.get()
    }
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blocking_work_runs_in_the_callers_thread_if_a_test_says_so() {
        let id = || thread::current().id();
        let here = id();
        let installed = inline::install();
        assert_eq!(run(id).await.unwrap(), here);
        assert!(thread("refused", || ()).is_err());
        drop(installed);
        assert_ne!(run(id).await.unwrap(), here);
        assert_ne!(thread("begun", id).unwrap().join().unwrap(), here);
        let borrowed = thread::scope(|scope| scoped(scope, "scoped", || &here).unwrap().join());
        assert_eq!(borrowed.unwrap(), &here);
    }
}
