//! Temporary objects that several uploads use at once: made once, and ended by the last of them.
//!
//! Consistency: who uses an object is counted under the lock of its table, so exactly one is the last, however many
//! leave at once, and whoever comes after that does not find it any more.
//! Cancellation: a lease that is dropped is given back; what has to be done at the store is done by a task then.
//! Crash: the journal knows each object before it is made.

use std::ops::Deref;
use std::sync::Arc;

use super::Uploads;
use crate::lock::{Mutex, rank};

/// Something that is lent.
pub(super) trait Lent: Send + Sync + Sized + 'static {
    fn table(uploads: &Uploads) -> &Lending<Self>;

    /// Nobody uses it any more, nor will.
    fn end(&self, uploads: &Uploads) -> impl Future<Output = ()> + Send;
}

/// What is in use, and by how many.
pub(super) struct Lending<T>(Mutex<Vec<(Arc<T>, usize)>, rank::Lent>);

impl<T> Default for Lending<T> {
    fn default() -> Self {
        Lending(Mutex::default())
    }
}

impl<T: Lent> Lending<T> {
    /// The object that is wanted, or else what `make` gives. Few are in use at a time.
    pub fn lend_or(
        uploads: &Arc<Uploads>,
        is_wanted: impl Fn(&T) -> bool,
        make: impl FnOnce() -> Option<T>,
    ) -> Option<Lease<T>> {
        let mut lent = T::table(uploads).0.lock();
        let object = match lent.iter_mut().find(|(object, _)| is_wanted(object)) {
            Some((object, users)) => {
                *users += 1;
                object.clone()
            }
            None => {
                let object = Arc::new(make()?);
                lent.push((object.clone(), 1));
                object
            }
        };
        Some(Lease { uploads: uploads.clone(), object, held: true })
    }

    /// Its maker is its first user.
    pub fn add(uploads: &Arc<Uploads>, object: T) -> Lease<T> {
        let object = Arc::new(object);
        T::table(uploads).0.lock().push((object.clone(), 1));
        Lease { uploads: uploads.clone(), object, held: true }
    }

    /// Looks at all that is in use.
    pub fn look<R>(&self, look: impl Fn(&T) -> R) -> Vec<R> {
        self.0.lock().iter().map(|(object, _)| look(object)).collect()
    }
}

/// One use of an object.
pub(super) struct Lease<T: Lent> {
    uploads: Arc<Uploads>,
    object: Arc<T>,
    held: bool,
}

impl<T: Lent> Lease<T> {
    /// Gives it back; who is the last ends it.
    pub async fn give_back(mut self) {
        if self.leave() {
            self.object.end(&self.uploads).await;
        }
    }

    /// Whether this was the last.
    fn leave(&mut self) -> bool {
        if !std::mem::take(&mut self.held) {
            return false;
        }
        let mut lent = T::table(&self.uploads).0.lock();
        let Some(at) = lent.iter().position(|(object, _)| Arc::ptr_eq(object, &self.object)) else {
            return false;
        };
        lent[at].1 -= 1;
        let is_last = lent[at].1 == 0;
        if is_last {
            lent.swap_remove(at);
        }
        is_last
    }
}

impl<T: Lent> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T: Lent> Drop for Lease<T> {
    fn drop(&mut self) {
        if !self.leave() {
            return;
        }
        // Without a runtime the next mount ends it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (object, uploads) = (self.object.clone(), self.uploads.clone());
            runtime.spawn(async move { object.end(&uploads).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::zeros::ZeroObject;
    use super::*;
    use crate::clock;
    use crate::journal::{Identity, Journal};
    use crate::store::memory::MemoryStore;
    use crate::store::{Key, Store};

    /// Some say so, some are only dropped.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_users_that_leave_at_once_the_last_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let identity =
            Identity { endpoint: "e".into(), bucket: "b".into(), prefix: Key::default() };
        let journal = Journal::open(dir.path(), &identity).unwrap().0;
        let store = MemoryStore::new();
        let helpers = Key::from("aside/");
        let uploads = Uploads::new(Arc::new(store.clone()), journal.clone(), helpers, 0);
        for _ in 0..20 {
            let mut leases = Vec::new();
            for _ in 0..8 {
                leases.push(uploads.zero_object(1).await.unwrap());
            }
            let key = journal.read(|state| state.helpers.first().cloned()).unwrap();
            assert_eq!(uploads.zeros.lent.look(|_: &ZeroObject| ()).len(), 1, "one for all");
            let before = store.total();
            let all = Arc::new(tokio::sync::Barrier::new(leases.len()));
            let leaving: Vec<_> = leases
                .into_iter()
                .enumerate()
                .map(|(number, lease)| {
                    let all = all.clone();
                    tokio::spawn(async move {
                        all.wait().await;
                        if number % 2 == 0 { lease.give_back().await } else { drop(lease) }
                    })
                })
                .collect();
            for leaving in leaving {
                leaving.await.unwrap();
            }
            let ended = async {
                while !journal.read(|state| state.helpers.is_empty()) {
                    tokio::task::yield_now().await;
                }
            };
            let ended = clock::timeout(Duration::from_secs(20), ended).await;
            assert!(ended.is_ok(), "all users have left, and none has ended it");
            assert_eq!(store.total(), before + 1, "deleted once");
            assert!(store.head(&key).await.is_err());
        }
    }
}
