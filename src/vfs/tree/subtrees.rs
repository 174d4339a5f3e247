//! The operation lock of directories that are being renamed, with all that is below them.
//!
//! A rename of a directory takes many requests. An operation that changes something at or below it meanwhile would do so
//! under a name that is about to go: it waits, and goes on under the new name. So operations *enter* the inodes that they
//! are about before they ask where those are; a rename first waits until they have left, and keeps out those that
//! come. An operation that only looks is kept out for the moment in which the names change, and may rely on a key for as long as
//! it looks.
//!
//! Order: an operation enters once, with all that it is about, and before it takes an inode's operation lock. Looking may come
//! on top of that, and not on top of looking.
//! Cancellation: what was entered is left when the guard is dropped.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::table::InodeTable;
use crate::lock::{Mutex, rank};
use crate::progress::{Holder, in_line, waiting_for};

/// Why an operation enters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Change,
    Look,
}

#[derive(Default)]
struct State {
    /// By inode: how many are there, and what for.
    inside: HashMap<(u64, Purpose), u32>,
    closed: Vec<Shut>,
}

/// A directory that is closed to operations of this purpose.
struct Shut {
    ino: u64,
    to: Purpose,
    by: Arc<Holder>,
}

pub struct Subtrees {
    state: Mutex<State, rank::Subtrees>,
    changed: Notify,
}

/// What an operation has entered.
pub struct Entered<'a> {
    subtrees: &'a Subtrees,
    inos: [u64; 2],
    purpose: Purpose,
}

/// A directory that others are kept out of.
pub struct Closed<'a> {
    subtrees: &'a Subtrees,
    ino: u64,
    purpose: Purpose,
}

impl Subtrees {
    pub fn new() -> Subtrees {
        Subtrees { state: Mutex::new(State::default()), changed: Notify::new() }
    }

    /// To change these inodes, or entries of theirs.
    pub async fn enter(&self, table: &InodeTable, inos: [u64; 2]) -> Entered<'_> {
        self.enter_for(table, inos, Purpose::Change).await
    }

    /// To look at an inode, or for an entry of it.
    pub async fn look(&self, table: &InodeTable, ino: u64) -> Entered<'_> {
        self.enter_for(table, [ino, ino], Purpose::Look).await
    }

    /// Keeps out operations that would change something at or below the directory, once all that do have left.
    pub async fn close(&self, table: &InodeTable, ino: u64) -> Closed<'_> {
        self.close_to(table, ino, Purpose::Change).await
    }

    /// Likewise those that look.
    pub async fn hide(&self, table: &InodeTable, ino: u64) -> Closed<'_> {
        self.close_to(table, ino, Purpose::Look).await
    }

    async fn enter_for(&self, table: &InodeTable, inos: [u64; 2], purpose: Purpose) -> Entered<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let by = {
                let mut state = self.state.lock();
                let mut shut = state.closed.iter().filter(|shut| shut.to == purpose);
                let shut = shut
                    .find(|shut| inos.into_iter().any(|ino| table.is_at_or_below(ino, shut.ino)));
                let Some(shut) = shut else {
                    for ino in inos {
                        *state.inside.entry((ino, purpose)).or_default() += 1;
                    }
                    return Entered { subtrees: self, inos, purpose };
                };
                shut.by.clone()
            };
            waiting_for(by, changed).await;
        }
    }

    async fn close_to(&self, table: &InodeTable, ino: u64, purpose: Purpose) -> Closed<'_> {
        self.state.lock().closed.push(Shut { ino, to: purpose, by: Holder::current() });
        let closed = Closed { subtrees: self, ino, purpose };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state.lock();
                let mut there = state.inside.keys().filter(|(_, what)| *what == purpose);
                if !there.any(|(inside, _)| table.is_at_or_below(*inside, ino)) {
                    return closed;
                }
            }
            in_line(changed).await;
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut state = self.subtrees.state.lock();
        for ino in self.inos {
            if let Some(count) = state.inside.get_mut(&(ino, self.purpose)) {
                *count -= 1;
                if *count == 0 {
                    state.inside.remove(&(ino, self.purpose));
                }
            }
        }
        let awaited = !state.closed.is_empty();
        drop(state);
        if awaited {
            self.subtrees.changed.notify_waiters();
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut state = self.subtrees.state.lock();
        let is_own = |shut: &Shut| (shut.ino, shut.to) == (self.ino, self.purpose);
        if let Some(index) = state.closed.iter().position(is_own) {
            state.closed.swap_remove(index);
        }
        drop(state);
        self.subtrees.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt;

    use super::*;
    use crate::namespace::attributes::{Attributes, Kind};
    use crate::store::Key;
    use crate::vfs::tree::inode::{ROOT_INO, new_state};

    /// A directory, a file in it, and one beside it.
    fn tree() -> (InodeTable, [u64; 3]) {
        let attributes = |kind| Attributes::new(kind, 0o644, 0, 0, SystemTime::UNIX_EPOCH);
        let state = |kind| new_state(attributes(kind), 0, None);
        let table = InodeTable::new(Key::default(), attributes(Kind::Directory));
        let dir = table.insert(ROOT_INO, b"d", state(Kind::Directory)).ino;
        let inside = table.insert(dir, b"f", state(Kind::File)).ino;
        let beside = table.insert(ROOT_INO, b"g", state(Kind::File)).ino;
        (table, [dir, inside, beside])
    }

    #[test]
    fn a_rename_waits_for_changes_below_and_keeps_out_new_ones() {
        let (table, [dir, inside, beside]) = tree();
        let subtrees = Subtrees::new();
        let change = |ino| subtrees.enter(&table, [ino, ROOT_INO]).now_or_never();
        let first = change(inside).unwrap();
        let mut closing = Box::pin(subtrees.close(&table, dir));
        assert!(closing.as_mut().now_or_never().is_none(), "an operation is in it");
        assert!(change(inside).is_none() && change(dir).is_none(), "it is about to be renamed");
        assert!(change(beside).is_some(), "elsewhere work goes on");
        drop(first);
        let closed = closing.now_or_never().unwrap();
        assert!(change(inside).is_none());
        assert!(subtrees.look(&table, inside).now_or_never().is_some(), "looking is allowed");
        {
            let _hidden = subtrees.hide(&table, dir).now_or_never().unwrap();
            assert!(subtrees.look(&table, inside).now_or_never().is_none());
        }
        assert!(subtrees.look(&table, inside).now_or_never().is_some());
        drop(closed);
        assert!(change(inside).is_some());
        assert!(subtrees.state.lock().inside.is_empty(), "all have left");
    }

    #[test]
    fn a_waiter_that_gives_up_keeps_no_other_out() {
        let (table, [dir, inside, _]) = tree();
        let subtrees = Subtrees::new();
        let there = subtrees.enter(&table, [inside, inside]).now_or_never().unwrap();
        drop(Box::pin(subtrees.close(&table, dir)).now_or_never());
        assert!(subtrees.enter(&table, [inside, inside]).now_or_never().is_some());
        drop(there);
    }
}
