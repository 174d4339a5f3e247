//! Hands out the bytes of `--memory`, first come first served.
//!
//! Every large block of bytes (a segment being fetched, a part being written) is held together with a
//! [`Permit`] for it. A caller that needs room and finds none first makes the [`Reclaim`]ers drop clean memory,
//! then waits in line; when even that gives nothing, [`Budget::pressure`] tells the background work that
//! dirty memory must move to disk or to the store. A request of the kernel therefore never waits for
//! another request, only for background work.
//!
//! What is handed out is a [`Grant`], which no task can hold across an await: it is given up, or kept by what it
//! pays for, as a [`Permit`]. So a task that waits for memory has none in its hands; docs/architecture.md ("Memory")
//! says why what is kept always comes back.
//!
//! Invariants:
//! 1. `used` is the sum of the live permits. It exceeds `total` only by what [`Budget::overdraw`] handed out.
//! 2. Waiters are served strictly in the order of their arrival; no caller is served past them.
//! 3. Whenever the first waiter fits, it is granted at once: there is no state in which it fits and waits.
//!
//! Cancellation: dropping the future of [`Budget::reserve`] leaves the line, and the turn passes on.
//! Lock order: the ledger's lock is a leaf; no reclaimer runs and no permit drops while it is held.
//! A caller must not hold a lock that a reclaimer takes.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::clock;
use crate::lock::{Mutex, rank};

/// How often a caller that waits asks the reclaimers again. Memory becomes clean without a word (the last
/// reader of a segment lets go of it), so that it has to be looked for; 100 times a second costs nothing. That
/// is the task of the first in line; the others look too, should the first not be polled for a while.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(10);

/// How rarely the others look: each time out of so many.
const LOOKS_OF_OTHERS: u32 = 10;

/// Holds clean memory that may be dropped at once, such as the read cache.
pub trait Reclaim: Send + Sync {
    /// Drops about `bytes` (or as much as there is) together with its permits, and says how many bytes
    /// were given back. Never waits.
    fn reclaim(&self, bytes: u64) -> u64;
}

/// The memory of the process that may hold file content, in bytes.
pub struct Budget {
    total: u64,
    ledger: Mutex<Ledger, rank::Budget>,
    reclaimers: Mutex<Vec<Weak<dyn Reclaim>>, rank::Reclaimers>,
    pressed: Notify,
}

#[derive(Default)]
struct Ledger {
    used: u64,
    /// In order of arrival.
    waiters: VecDeque<Waiter>,
    next_waiter_id: u64,
}

struct Waiter {
    id: u64,
    bytes: u64,
    grant: oneshot::Sender<Permit>,
}

impl Budget {
    pub fn new(total: u64) -> Arc<Budget> {
        Arc::new(Budget {
            total,
            ledger: Mutex::default(),
            reclaimers: Mutex::default(),
            pressed: Notify::new(),
        })
    }

    /// Bytes that there are.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that are handed out.
    pub fn used(&self) -> u64 {
        self.ledger.lock().used
    }

    /// How many wait in [`Self::reserve`].
    pub fn waiters(&self) -> usize {
        self.ledger.lock().waiters.len()
    }

    /// Adds one to ask for clean memory. It is forgotten once it is dropped.
    pub fn add_reclaimer(&self, reclaimer: Weak<dyn Reclaim>) {
        self.reclaimers.lock().push(reclaimer);
    }

    /// `bytes` if they are free, or can be made free by the reclaimers, and no caller waits. Never waits.
    pub fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Grant> {
        if let Some(permit) = self.take_free(bytes) {
            return Some(Grant::of(permit));
        }
        let short = {
            let ledger = self.ledger.lock();
            if !ledger.waiters.is_empty() || bytes > self.total {
                return None;
            }
            (ledger.used + bytes).saturating_sub(self.total)
        };
        self.ask_reclaimers(short);
        self.take_free(bytes).map(Grant::of)
    }

    /// `bytes`, or all there is if that is less, as soon as all that came before have been served.
    /// Must run inside a tokio runtime with its timer.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Grant {
        let bytes = bytes.min(self.total);
        if let Some(grant) = self.try_reserve(bytes) {
            return grant;
        }
        let mut place = self.join_line(bytes);
        let mut looks = 0u32;
        loop {
            if looks.is_multiple_of(LOOKS_OF_OTHERS) || place.is_first() {
                self.relieve();
            }
            looks = looks.wrapping_add(1);
            match clock::timeout(RECLAIM_INTERVAL, &mut place.grant).await {
                Ok(Ok(permit)) => return Grant::of(permit),
                // The sender lives in the line until it is used, and only this place takes it out.
                Ok(Err(_closed)) => place = self.join_line(bytes),
                Err(_elapsed) => {}
            }
        }
    }

    /// `bytes` at once, beyond the total if need be. For the few and small reservations on which all
    /// others depend, where waiting could be for itself; the caller bounds how many it makes.
    pub fn overdraw(self: &Arc<Self>, bytes: u64) -> Grant {
        self.ledger.lock().used += bytes;
        Grant::of(Permit { budget: self.clone(), bytes })
    }

    /// Resolves when a caller waits and the reclaimers gave nothing, at most once for each time that was
    /// found (about every 10 ms while it lasts). Meant for one background task, which frees dirty memory and
    /// calls again.
    pub async fn pressure(&self) {
        loop {
            self.pressed.notified().await;
            if self.waiters() > 0 {
                return;
            }
        }
    }

    /// `bytes` if they are free now and no caller waits.
    fn take_free(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut ledger = self.ledger.lock();
        let used = ledger.used.checked_add(bytes)?;
        if !ledger.waiters.is_empty() || used > self.total {
            return None;
        }
        ledger.used = used;
        drop(ledger);
        Some(Permit { budget: self.clone(), bytes })
    }

    fn join_line(self: &Arc<Self>, bytes: u64) -> Place<'_> {
        let (grant, granted) = oneshot::channel();
        let id = {
            let mut ledger = self.ledger.lock();
            let id = ledger.next_waiter_id;
            ledger.next_waiter_id += 1;
            ledger.waiters.push_back(Waiter { id, bytes, grant });
            id
        };
        // Room may have come back between the failed attempt and the place in line.
        self.serve();
        Place { budget: self, id, grant: granted }
    }

    /// Makes the reclaimers free what the first in line lacks, and the next, until nothing comes of it.
    fn relieve(self: &Arc<Self>) {
        let mut before = None;
        while let Some(lack) = self.lack_of_first() {
            if before == Some(lack) || self.ask_reclaimers(lack.bytes) == 0 {
                self.pressed.notify_one();
                return;
            }
            before = Some(lack);
        }
    }

    fn lack_of_first(&self) -> Option<Lack> {
        let ledger = self.ledger.lock();
        let first = ledger.waiters.front()?;
        let bytes = (ledger.used + first.bytes).saturating_sub(self.total);
        Some(Lack { id: first.id, bytes })
    }

    /// Asks one after the other until `bytes` have been given back, and says how many were.
    fn ask_reclaimers(&self, bytes: u64) -> u64 {
        let reclaimers: Vec<Arc<dyn Reclaim>> = {
            let mut list = self.reclaimers.lock();
            list.retain(|reclaimer| reclaimer.strong_count() > 0);
            list.iter().filter_map(Weak::upgrade).collect()
        };
        let mut given = 0;
        for reclaimer in reclaimers {
            if given >= bytes {
                break;
            }
            given += reclaimer.reclaim(bytes - given);
        }
        given
    }

    /// Takes `bytes` back.
    fn give_back(self: &Arc<Self>, bytes: u64) {
        self.ledger.lock().used -= bytes;
        self.serve();
    }

    /// Grants to the first in line for as long as they fit.
    fn serve(self: &Arc<Self>) {
        loop {
            let waiter = {
                let mut ledger = self.ledger.lock();
                let Some(first) = ledger.waiters.front() else { return };
                let used = ledger.used + first.bytes;
                if used > self.total {
                    return;
                }
                ledger.used = used;
                ledger.waiters.pop_front()
            };
            if let Some(waiter) = waiter {
                let permit = Permit { budget: self.clone(), bytes: waiter.bytes };
                // One that has just left gives its permit back here, which serves the next.
                drop(waiter.grant.send(permit));
            }
        }
    }
}

/// What the first in line lacks.
#[derive(Clone, Copy, PartialEq)]
struct Lack {
    id: u64,
    bytes: u64,
}

/// A place in line. Dropping it leaves the line; a grant that came meanwhile is given back with it.
struct Place<'a> {
    budget: &'a Arc<Budget>,
    id: u64,
    grant: oneshot::Receiver<Permit>,
}

impl Place<'_> {
    fn is_first(&self) -> bool {
        self.budget.ledger.lock().waiters.front().is_some_and(|first| first.id == self.id)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = {
            let mut ledger = self.budget.ledger.lock();
            let found = ledger.waiters.iter().position(|waiter| waiter.id == self.id);
            found.and_then(|index| ledger.waiters.remove(index))
        };
        if left.is_some() {
            // A smaller one behind may fit now.
            self.budget.serve();
        }
    }
}

/// Bytes of memory in the hands of a task, to be kept by a buffer or given back. Not `Send`, so that a task
/// that may move between threads cannot hold it while it waits, least of all for more memory.
#[derive(Debug)]
pub struct Grant {
    permit: Permit,
    stays_here: PhantomData<*const ()>,
}

impl Grant {
    fn of(permit: Permit) -> Grant {
        Grant { permit, stays_here: PhantomData }
    }

    pub fn bytes(&self) -> u64 {
        self.permit.bytes
    }

    /// Moves `bytes` of this grant, or all if it has fewer, to one of their own.
    #[must_use = "dropping the part split off gives it back"]
    pub fn split(&mut self, bytes: u64) -> Grant {
        let bytes = bytes.min(self.permit.bytes);
        self.permit.bytes -= bytes;
        Grant::of(Permit { budget: self.permit.budget.clone(), bytes })
    }

    /// For memory that goes on without this task. Its keeper has to let go of it without waiting for
    /// memory.
    pub fn keep(self) -> Permit {
        self.permit
    }
}

/// The right to hold some bytes of memory, kept by what holds them. Dropping it gives them back.
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Permit {
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.bytes);
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
