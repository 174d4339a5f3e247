//! Deferred deletes: unlink(2) under write-back says yes when the deletion is journaled, and
//! the store is asked soon after, for a thousand keys by one request.
//!
//! Consistency: all of a mount goes through this layer of its store. A request that reads, writes or lists a key that is
//! to be deleted waits until the key is gone; so nothing above can tell that it was not gone at once, and no deletion
//! can hit what took its place.
//! Retries: what fails in a way that may pass is tried again for ever, and the requests that wait get the error, as
//! if it were their own. What the store refuses is given up: the object is there as before, and
//! `status` and the log say why.
//! Cancellation: deletions are sent by a task of their own, so that no caller can drop one half-way.
//! Crash: the next mount goes on. What is not deleted within moments is deleted only while it is still the
//! version that was unlinked: another client may have written the key anew. What a PUT may have made whose answer was
//! lost is known by its mark.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound::{Included, Unbounded};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt};
use tokio::sync::{Notify, watch};

use super::error::journal_failed;
use crate::clock;
use crate::journal::{Deletion, DraftId, Journal, Record};
use crate::lock::{Mutex, rank};
use crate::seam;
use crate::store::layer::{Call, Layer};
use crate::store::{
    ErrorKind, Key, Mark, ObjectHead, Result, SharedStore, Store, StoreError, impatient,
};
use crate::supervise::supervise;

/// DeleteObjects takes so many.
const KEYS_PER_REQUEST: usize = 1000;
/// Requests side by side: a program that removes a tree is hardly faster than that.
const REQUESTS_AT_ONCE: usize = 4;
/// HEADs side by side, where versions have to be compared.
const CHECKS_AT_ONCE: usize = 32;
/// How long more deletions are waited for while no request waits for those at hand.
const GATHER: Duration = Duration::from_millis(100);
/// After a failure that may pass; twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(30);
/// Beyond so many, unlink(2) waits: some 200 bytes each.
const WAITING_MAX: usize = 50_000;
/// Refusals that `status` remembers.
const REFUSALS_MAX: usize = 20;

#[derive(Clone, Debug)]
struct Waiting {
    /// Counts up, so that a request waits for what was unlinked before it, and not for ever.
    number: u64,
    what: Deletion,
    /// It waits for longer than a moment.
    old: bool,
}

/// What the store refused to delete.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub when: SystemTime,
    pub key: Key,
    pub error: StoreError,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be deleted, it stays: {}", self.key, self.error)
    }
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<Key, Waiting>,
    /// The keys of `waiting`, the oldest first.
    order: BTreeMap<u64, Key>,
    /// The highest number.
    count: u64,
    /// A request waits for one of them.
    urgent: bool,
    refused: VecDeque<Refusal>,
    /// The first refusal that no caller has been told of.
    untold: Option<String>,
}

/// A mount's store, and what is to be deleted from it.
pub struct Deletions {
    store: SharedStore,
    journal: Arc<Journal>,
    state: Mutex<State, rank::Deletions>,
    more: Notify,
    /// How the last requests ended.
    ended: watch::Sender<Option<StoreError>>,
}

impl Deletions {
    /// Goes on with what the journal knows, unless `idle`: then that is left to another mount.
    pub fn start(
        store: SharedStore,
        journal: Arc<Journal>,
        idle: bool,
        runtime: &tokio::runtime::Handle,
    ) -> Arc<Deletions> {
        let mut state = State::default();
        if !idle {
            let begun = journal.read(|state| state.deletions.clone());
            for (key, what) in &begun {
                state.add(key.clone(), what.clone(), true);
            }
        }
        let deletions = Arc::new(Deletions {
            store,
            journal,
            state: Mutex::new(state),
            more: Notify::new(),
            ended: watch::Sender::new(None),
        });
        let weak = Arc::downgrade(&deletions);
        supervise(runtime, "deletions", move || impatient(run(weak.clone())));
        deletions
    }

    /// Deletes `what` stands under the key, soon, and with it what `unlinked` was to make of it. On return that
    /// survives the death of the process. What may be there, and is known by its marks alone, is looked at first.
    ///
    /// # Errors
    /// The journal's; with very many waiting, those of deleting them. The object is then untouched.
    pub async fn delete_later(
        &self,
        key: &Key,
        what: Deletion,
        unlinked: Option<DraftId>,
    ) -> Result<()> {
        let (what, is_begun) = self.with_what_waits(key, what);
        if !is_begun {
            self.key_settled(key).await?;
            self.settled(|state, _| state.waiting.len() >= WAITING_MAX).await?;
        }
        let recorded = self.journal.append(what.record(key, unlinked));
        recorded.map_err(|error| journal_failed("DeleteObject", error))?;
        self.state.lock().add(key.clone(), what, is_begun);
        self.more.notify_one();
        Ok(())
    }

    /// What may be there by a PUT is deleted together with what waits under its key, if anything does (`true`): such a PUT
    /// waits for that too, so that it is not there yet.
    fn with_what_waits(&self, key: &Key, mut what: Deletion) -> (Deletion, bool) {
        let state = self.state.lock();
        match state.waiting.get(key) {
            Some(begun) if what.etag.is_none() => {
                what.etag = begun.what.etag.clone();
                let others = begun.what.marks.iter().filter(|mark| !what.marks.contains(mark));
                let others: Vec<Mark> = others.cloned().collect();
                what.marks.extend(others);
                (what, true)
            }
            _ => (what, false),
        }
    }

    /// Deletions that the store has not answered.
    pub fn count(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Has those at hand sent now, and tells when the store has answered some, one way or another.
    pub async fn hurry(&self) {
        let mut ended = self.ended.subscribe();
        self.state.lock().urgent = true;
        self.more.notify_one();
        // It may have answered just before.
        let _ = clock::timeout(Duration::from_millis(500), ended.changed()).await;
    }

    /// What the store refused to delete, of late.
    pub fn refused(&self) -> Vec<Refusal> {
        self.state.lock().refused.iter().cloned().collect()
    }

    /// The first refusal since this was last asked.
    pub fn take_refusal(&self) -> Option<String> {
        self.state.lock().untold.take()
    }

    /// Waits until `concerns` is false of what is to be deleted now; it is given the highest number so far.
    async fn settled(&self, concerns: impl Fn(&State, u64) -> bool) -> Result<()> {
        let last = self.state.lock().count;
        loop {
            let mut ended = self.ended.subscribe();
            {
                let mut state = self.state.lock();
                if state.waiting.is_empty() || !concerns(&state, last) {
                    return Ok(());
                }
                state.urgent = true;
            }
            self.more.notify_one();
            // The sender lives as long as `self`.
            let _ = ended.changed().await;
            let failed = ended.borrow().clone();
            if let Some(error) = failed
                && concerns(&self.state.lock(), last)
            {
                return Err(error);
            }
        }
    }

    async fn key_settled(&self, key: &Key) -> Result<()> {
        self.settled(|state, _| state.waits(key)).await
    }

    /// The next to go: those at hand, as many as a few requests take.
    fn batch(&self) -> Vec<(Key, Waiting)> {
        let mut state = self.state.lock();
        state.urgent = false;
        let next = state.order.values().take(KEYS_PER_REQUEST * REQUESTS_AT_ONCE);
        next.filter_map(|key| Some((key.clone(), state.waiting.get(key)?.clone()))).collect()
    }

    /// Sends what is at hand. The error of what may be tried again.
    async fn send(&self) -> Option<StoreError> {
        let (old, young): (Vec<_>, Vec<_>) =
            self.batch().into_iter().partition(|(_, waiting)| waiting.is_compared());
        let mut failed = None;
        let mut keys: Vec<Key> = young.into_iter().map(|(key, _)| key).collect();
        let checks = stream::iter(old).map(|(key, waiting)| async move {
            let head = self.store.head(&key).await;
            (key, waiting, head)
        });
        let checked: Vec<_> = checks.buffer_unordered(CHECKS_AT_ONCE).collect().await;
        let mut over = Vec::new();
        for (key, waiting, head) in checked {
            match head {
                Ok(head) if is_of(&head, &waiting.what) => keys.push(key),
                // There may have been none.
                Ok(_) if waiting.what.etag.is_none() => over.push(key),
                Ok(_) => {
                    log::info!("{key} was written elsewhere since it was unlinked here: it stays");
                    over.push(key);
                }
                Err(error) if error.kind == ErrorKind::NotFound => over.push(key),
                Err(error) => self.conclude(vec![(key, Err(error))], &mut failed),
            }
        }
        self.conclude(over.into_iter().map(|key| (key, Ok(()))).collect(), &mut failed);
        let requests = keys.chunks(KEYS_PER_REQUEST).map(|keys| async move {
            match self.store.delete_many(keys).await {
                Ok(outcomes) => keys.iter().cloned().zip(outcomes).collect(),
                Err(error) => keys.iter().map(|key| (key.clone(), Err(error.clone()))).collect(),
            }
        });
        let outcomes: Vec<Vec<(Key, Result<()>)>> = futures_util::future::join_all(requests).await;
        for outcomes in outcomes {
            self.conclude(outcomes, &mut failed);
        }
        failed
    }

    /// Takes off the list what is settled.
    fn conclude(&self, outcomes: Vec<(Key, Result<()>)>, failed: &mut Option<StoreError>) {
        let mut ended = Vec::new();
        let mut state = self.state.lock();
        for (key, outcome) in outcomes {
            match outcome {
                Err(error) if !error.kind.is_refusal() => {
                    if let Some(waiting) = state.waiting.get_mut(&key) {
                        waiting.old = true;
                    }
                    *failed = Some(error);
                    continue;
                }
                Err(error) => {
                    state.refuse(Refusal { when: clock::wall(), key: key.clone(), error });
                }
                Ok(()) => {}
            }
            state.remove(&key);
            ended.push(Record::DeletionEnded { key });
        }
        drop(state);
        if let Err(error) = self.journal.append_all(&ended) {
            // The next mount finds them gone, or another version.
            log::warn!("deletions that have ended are not in the journal: {error}");
        }
    }

    async fn gather(&self) {
        let enough = |state: &State| state.urgent || state.waiting.len() >= KEYS_PER_REQUEST;
        let gathered = async {
            while !enough(&self.state.lock()) {
                self.more.notified().await;
            }
        };
        let _ = clock::timeout(GATHER, gathered).await;
    }
}

impl Waiting {
    /// Whether what stands there is looked at first: it may be another's.
    fn is_compared(&self) -> bool {
        self.old || self.what.etag.is_none()
    }
}

/// Whether an object is what is to be deleted.
fn is_of(head: &ObjectHead, what: &Deletion) -> bool {
    what.etag.as_ref() == Some(&head.etag)
        || head.mark().is_some_and(|mark| what.marks.contains(&mark))
}

impl State {
    /// Whether `key` waits; or, where it is a directory's, the file of that name: a store that is a file system
    /// inside has room for one of them only.
    fn waits(&self, key: &Key) -> bool {
        let waits = |key: &Key| self.waiting.contains_key(key);
        waits(key) || key.as_bytes().strip_suffix(b"/").is_some_and(|file| waits(&Key::new(file)))
    }

    /// Whether one of the first `last` below the prefix waits.
    fn waits_below(&self, prefix: &Key, last: u64) -> bool {
        let behind = self.waiting.range::<Key, _>((Included(prefix), Unbounded));
        let mut below = behind.take_while(|(key, _)| key.as_bytes().starts_with(prefix.as_bytes()));
        below.any(|(_, waiting)| waiting.number <= last)
    }

    fn add(&mut self, key: Key, what: Deletion, old: bool) {
        self.remove(&key);
        self.count += 1;
        self.order.insert(self.count, key.clone());
        self.waiting.insert(key, Waiting { number: self.count, what, old });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(waiting) = self.waiting.remove(key) {
            self.order.remove(&waiting.number);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        log::warn!("{refusal}");
        if self.refused.len() == REFUSALS_MAX {
            self.refused.pop_front();
        }
        self.untold.get_or_insert_with(|| refusal.to_string());
        self.refused.push_back(refusal);
    }
}

/// Sends deletions for as long as the mount is there, which could make some.
async fn run(deletions: Weak<Deletions>) {
    let mut pause = RETRY_FIRST;
    loop {
        let Some(alive) = deletions.upgrade() else { return };
        if alive.count() == 0 {
            // Wakes now and then, so that an end is noticed.
            let _ = clock::timeout(Duration::from_secs(1), alive.more.notified()).await;
            continue;
        }
        alive.gather().await;
        seam::pass_now("deletions");
        let failed = alive.send().await;
        let again = failed.is_some();
        alive.ended.send_replace(failed);
        if again {
            clock::sleep(RETRY_FIRST).await;
            // Cut short by requests that come meanwhile: they are to hear how it is now.
            let asked = async {
                while !alive.state.lock().urgent {
                    alive.more.notified().await;
                }
            };
            let _ = clock::timeout(pause, asked).await;
            pause = (pause * 2).min(RETRY_LAST);
        } else {
            pause = RETRY_FIRST;
        }
    }
}

impl Layer for Deletions {
    type Below = dyn Store;

    fn below(&self) -> &dyn Store {
        &*self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        match call {
            Call::Get { key, .. }
            | Call::Head { key }
            | Call::Attributes { key }
            | Call::Tags { key }
            | Call::Put { key, .. }
            | Call::Delete { key }
            | Call::DeleteVersion { key }
            | Call::CompleteUpload { key }
            | Call::UploadPartCopy { source: key } => self.key_settled(key).await?,
            Call::Copy { source, target } => {
                self.settled(|state, _| state.waits(source) || state.waits(target)).await?;
            }
            Call::DeleteMany { keys } => {
                self.settled(|state, _| keys.iter().any(|key| state.waits(key))).await?;
            }
            Call::List { prefix } | Call::ListVersions { prefix } => {
                self.settled(|state, last| state.waits_below(prefix, last)).await?;
            }
            // They change no object.
            Call::CreateUpload
            | Call::UploadPart { .. }
            | Call::AbortUpload
            | Call::ListParts
            | Call::ListUploads => {}
        }
        send().await
    }
}

#[cfg(test)]
#[path = "deletions_tests.rs"]
mod tests;
