//! Turns: what is under a key is looked at and then deleted, or found absent and then made, with no other change of it
//! by this mount in between: a wrapper.
//!
//! S3 has no deletion on a condition that all stores know. So one that looks first ([`Turns::turn`]) has the key for
//! itself: changes of it that are under way are answered before, and later ones wait.
//!
//! Consistency: this mount's requests only; other clients may come in between. Retries: none. Cancellation: a turn
//! ends when it is dropped. A request that is dropped ends its own though the store may yet carry it out.
//! Crash: nothing is kept.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::layer::{Call, Layer};
use super::{Key, Result, SharedStore, Store};
use crate::lock::{Mutex, rank};

/// A store each of whose keys can be had alone.
pub struct Turns {
    store: SharedStore,
    /// Of the keys that are being changed, or that one waits for.
    keys: Mutex<HashMap<Key, Arc<RwLock<()>>>, rank::Turns>,
}

/// A key that no other request of the mount changes, until this is dropped.
pub struct Turn<'a> {
    // First, so that it is given back before the key is looked up.
    _held: OwnedRwLockWriteGuard<()>,
    place: Place<'a>,
}

/// A change of a key that is under way.
struct Change<'a> {
    _held: OwnedRwLockReadGuard<()>,
    _place: Place<'a>,
}

/// One that has a key's lock, or waits for it.
struct Place<'a> {
    turns: &'a Turns,
    key: Key,
    lock: Arc<RwLock<()>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut keys = self.turns.keys.lock();
        // The table's and this one: another is taken under the table's lock.
        if Arc::strong_count(&self.lock) == 2 {
            keys.remove(&self.key);
        }
    }
}

impl Turns {
    pub fn over(store: SharedStore) -> Arc<Turns> {
        Arc::new(Turns { store, keys: Mutex::default() })
    }

    /// Waits until the key is not being changed, and has it for itself then.
    pub async fn turn(&self, key: &Key) -> Turn<'_> {
        let place = self.place(key);
        let _held = place.lock.clone().write_owned().await;
        Turn { _held, place }
    }

    async fn change(&self, key: &Key) -> Change<'_> {
        let place = self.place(key);
        let _held = place.lock.clone().read_owned().await;
        Change { _held, _place: place }
    }

    fn place(&self, key: &Key) -> Place<'_> {
        let mut keys = self.keys.lock();
        let lock = keys.entry(key.clone()).or_default().clone();
        Place { turns: self, key: key.clone(), lock }
    }
}

impl Turn<'_> {
    /// The store, for requests about the key.
    pub fn store(&self) -> &dyn Store {
        &*self.place.turns.store
    }
}

impl Layer for Turns {
    type Below = dyn Store;

    fn below(&self) -> &dyn Store {
        &*self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let keys = call.changes();
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            changes.push(self.change(key).await);
        }
        send().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{Fault, Gate, MemoryStore};
    use crate::store::{Precondition, Summed, WriteOptions};

    async fn put(store: &dyn Store, key: &Key) {
        let (options, any) = (WriteOptions::default(), Precondition::None);
        store.put(key, Summed::of("new"), &options, &any).await.unwrap();
    }

    async fn a_moment() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_key_that_is_had_is_not_changed_by_others() {
        let memory = MemoryStore::new();
        let turns = Turns::over(Arc::new(memory.clone()));
        let (key, other) = (Key::from("key"), Key::from("other"));
        let gate = Gate::shut();
        memory.on("PutObject").of("key").then(Fault::Held(gate.clone()));
        let (changing, changed) = (turns.clone(), key.clone());
        let change = tokio::spawn(async move { put(&*changing, &changed).await });
        while gate.came() == 0 {
            tokio::task::yield_now().await;
        }
        let (taking, taken) = (turns.clone(), key.clone());
        let turn = tokio::spawn(async move {
            let turn = taking.turn(&taken).await;
            turn.store().head(&taken).await.unwrap();
            turn.store().delete(&taken, None).await.unwrap();
        });
        a_moment().await;
        assert!(!turn.is_finished(), "a change is under way");
        put(&*turns, &other).await;
        gate.open();
        change.await.unwrap();
        turn.await.unwrap();
        assert!(turns.head(&key).await.is_err());
        assert!(turns.keys.lock().is_empty(), "nothing is kept of keys that have no user");
    }

    #[tokio::test]
    async fn one_that_gives_up_waiting_leaves_nothing() {
        let turns = Turns::over(Arc::new(MemoryStore::new()));
        let key = Key::from("key");
        let turn = turns.turn(&key).await;
        let (changing, changed) = (turns.clone(), key.clone());
        let change = tokio::spawn(async move { put(&*changing, &changed).await });
        a_moment().await;
        change.abort();
        assert!(change.await.unwrap_err().is_cancelled());
        drop(turn);
        assert!(turns.keys.lock().is_empty());
        put(&*turns, &key).await;
    }
}
