//! No object takes the name of a folder that has just been emptied, where the store would delete it: a wrapper.
//!
//! SeaweedFS looks at each folder out of which something was deleted, two minutes later at first and within half a
//! minute after that, and deletes what has the folder's name if nothing is in it: also an object that has taken the
//! name meanwhile. Until it has looked, such an object is not written. (Written over a folder that is still there, it
//! would not be deleted; but that is only possible without a condition and not by an upload of parts.)
//!
//! Consistency: only what this mount deletes is known. Retries: none; a deletion that failed may have taken
//! effect, and counts. Cancellation: nothing was sent by one that waits. Crash: the names are forgotten, and within
//! three minutes of the deletion such an object is not safe.

use std::collections::HashMap;
use std::time::Duration;

use super::layer::{Call, Layer};
use super::{Key, Result, Store};
use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};

/// After its last deletion a folder is looked at within this.
const LOOKED_AT: Duration = Duration::from_secs(180);

/// When there are so many names, those that are safe again are looked for.
const NAMES_MANY: usize = 10_000;

/// A store whose folders are left alone for a while when something was deleted in them.
pub struct Emptied<S> {
    store: S,
    /// Since when, by the folder's key without its `/`.
    folders: Mutex<HashMap<Key, Instant>, rank::Emptied>,
}

impl<S: Store> Emptied<S> {
    pub fn new(store: S) -> Self {
        Emptied { store, folders: Mutex::new(HashMap::new()) }
    }

    fn is_needed(&self) -> bool {
        self.store.capabilities().keeps_folders
    }

    /// Waits until the key is the object's alone.
    async fn is_free(&self, key: &Key) {
        loop {
            let since = self.folders.lock().get(key).copied();
            let Some(free) = since.map(|since| since + LOOKED_AT).filter(|f| *f > Instant::now())
            else {
                return;
            };
            log::info!("{key}: waits until the store has forgotten the folder of this name");
            clock::sleep_until(free).await;
        }
    }

    fn note<'a>(&self, deleted: impl IntoIterator<Item = &'a Key>) {
        let now = Instant::now();
        let mut folders = self.folders.lock();
        folders.extend(deleted.into_iter().filter_map(folder_of).map(|folder| (folder, now)));
        if folders.len() > NAMES_MANY {
            folders.retain(|_, since| *since + LOOKED_AT > now);
        }
    }
}

/// The folder that a key is in, without its `/`.
fn folder_of(key: &Key) -> Option<Key> {
    let bytes = key.as_bytes();
    let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
    let slash = bytes.iter().rposition(|byte| *byte == b'/')?;
    Some(Key::new(&bytes[..slash]))
}

impl<S: Store> Layer for Emptied<S> {
    type Below = S;

    fn below(&self) -> &S {
        &self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        if !self.is_needed() {
            return send().await;
        }
        match call {
            Call::Put { key, .. }
            | Call::Copy { target: key, .. }
            | Call::CompleteUpload { key } => {
                self.is_free(key).await;
                send().await
            }
            Call::Delete { key } => {
                let deleted = send().await;
                self.note([key]);
                deleted
            }
            Call::DeleteMany { keys } => {
                let deleted = send().await;
                self.note(keys);
                deleted
            }
            _ => send().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{MemoryStore, Shape};
    use crate::store::{Precondition, Summed, WriteOptions};

    async fn seconds_to_put(store: &Emptied<MemoryStore>, key: &str) -> u64 {
        let (key, options) = (Key::from(key), WriteOptions::default());
        let begun = Instant::now();
        store.put(&key, Summed::of(""), &options, &Precondition::None).await.unwrap();
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_waits_for_the_name_of_an_emptied_folder() {
        let mut shape = Shape::default();
        shape.capabilities.keeps_folders = true;
        let store = Emptied::new(MemoryStore::of(shape));
        for key in ["d/f", "e/s/", "top"] {
            store.delete(&Key::from(key), None).await.unwrap();
        }
        store.delete_many(&[Key::from("m/f")]).await.unwrap();
        // A marker is known for one, and what is in a folder fills it.
        for key in ["other", "d/", "d/f", "e/s", "top"] {
            assert_eq!(seconds_to_put(&store, key).await, 0, "{key}");
        }
        assert_eq!(seconds_to_put(&store, "d").await, 180);
        assert_eq!(seconds_to_put(&store, "d").await, 0);
        assert_eq!(seconds_to_put(&store, "e").await, 0, "its time has passed meanwhile");
        store.delete(&Key::from("m/g"), None).await.unwrap();
        clock::sleep(Duration::from_secs(100)).await;
        assert_eq!(seconds_to_put(&store, "m").await, 80);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_without_folders_is_not_waited_for() {
        let store = Emptied::new(MemoryStore::new());
        store.delete(&Key::from("d/f"), None).await.unwrap();
        assert_eq!(seconds_to_put(&store, "d").await, 0);
    }
}
