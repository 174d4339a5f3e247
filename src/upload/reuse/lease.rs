//! Temporary objects that several uploads use at once: made once, and ended by the last of them.
//!
//! Consistency: the users of an object are counted under the lock of its table, so exactly one is the last, however many
//! leave at once, and a later one does not find it any more.
//! Cancellation: a lease that is dropped is given back; what has to be done at the store is done by a task then.
//! Crash: the journal knows each object before it is made.

use std::ops::Deref;
use std::sync::Arc;

use crate::lock::{Mutex, rank};

/// Makes objects that are lent.
pub(in crate::upload) trait Lender: Send + Sync + 'static {
    type Object: Send + Sync;

    fn lent(&self) -> &Lent<Self::Object>;

    /// The object has no user any more, and will have none.
    fn end(&self, object: &Self::Object) -> impl Future<Output = ()> + Send;
}

/// What is in use, and by how many.
pub(in crate::upload) struct Lent<T>(Mutex<Vec<(Arc<T>, usize)>, rank::Lent>);

impl<T> Default for Lent<T> {
    fn default() -> Self {
        Lent(Mutex::default())
    }
}

impl<T> Lent<T> {
    /// Looks at all that is in use.
    pub fn look<R>(&self, look: impl Fn(&T) -> R) -> Vec<R> {
        self.0.lock().iter().map(|(object, _)| look(object)).collect()
    }
}

/// One use of an object.
pub(in crate::upload) struct Lease<L: Lender> {
    lender: Arc<L>,
    object: Arc<L::Object>,
    held: bool,
}

impl<L: Lender> Lease<L> {
    /// Of the object that is wanted, or else of what `make` gives. Few are in use at a time.
    pub fn of(
        lender: &Arc<L>,
        is_wanted: impl Fn(&L::Object) -> bool,
        make: impl FnOnce() -> Option<L::Object>,
    ) -> Option<Lease<L>> {
        let mut lent = lender.lent().0.lock();
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
        Some(Lease { lender: lender.clone(), object, held: true })
    }

    /// Its maker is its first user.
    pub fn new(lender: &Arc<L>, object: L::Object) -> Lease<L> {
        let object = Arc::new(object);
        lender.lent().0.lock().push((object.clone(), 1));
        Lease { lender: lender.clone(), object, held: true }
    }

    /// Gives it back; the last user ends it.
    pub async fn give_back(mut self) {
        if self.leave() {
            self.lender.end(&self.object).await;
        }
    }

    /// Whether this was the last.
    fn leave(&mut self) -> bool {
        if !std::mem::take(&mut self.held) {
            return false;
        }
        let mut lent = self.lender.lent().0.lock();
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

/// One more use of the same object.
impl<L: Lender> Clone for Lease<L> {
    fn clone(&self) -> Self {
        let mut lent = self.lender.lent().0.lock();
        // It is in the table for as long as this lease is.
        if let Some((_, users)) = lent.iter_mut().find(|(it, _)| Arc::ptr_eq(it, &self.object)) {
            *users += 1;
        }
        Lease { lender: self.lender.clone(), object: self.object.clone(), held: true }
    }
}

impl<L: Lender> Deref for Lease<L> {
    type Target = L::Object;

    fn deref(&self) -> &L::Object {
        &self.object
    }
}

impl<L: Lender> Drop for Lease<L> {
    fn drop(&mut self) {
        if !self.leave() {
            return;
        }
        // Without a runtime the next mount ends it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (object, lender) = (self.object.clone(), self.lender.clone());
            runtime.spawn(async move { lender.end(&object).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counting {
        lent: Lent<()>,
        ended: AtomicUsize,
    }

    impl Lender for Counting {
        type Object = ();

        fn lent(&self) -> &Lent<()> {
            &self.lent
        }

        async fn end(&self, (): &()) {
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Some say so, some are only dropped, some have made others.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_users_that_leave_at_once_the_last_ends_it() {
        let lender = Arc::new(Counting::default());
        for round in 1..=200 {
            let first = Lease::of(&lender, |()| true, || Some(())).unwrap();
            let second = Lease::of(&lender, |()| true, || None).unwrap();
            let leases = [first.clone(), second.clone(), first, second];
            assert_eq!(lender.lent.look(|()| ()).len(), 1, "one for all");
            assert_eq!(lender.ended.load(Ordering::SeqCst), round - 1);
            let all = Arc::new(tokio::sync::Barrier::new(leases.len()));
            let leaving = leases.into_iter().enumerate().map(|(number, lease)| {
                let all = all.clone();
                tokio::spawn(async move {
                    all.wait().await;
                    if number % 2 == 0 { lease.give_back().await } else { drop(lease) }
                })
            });
            for leaving in leaving.collect::<Vec<_>>() {
                leaving.await.unwrap();
            }
            let ended = async {
                while lender.ended.load(Ordering::SeqCst) < round {
                    tokio::task::yield_now().await;
                }
            };
            let ended = crate::clock::timeout(std::time::Duration::from_secs(20), ended).await;
            assert!(ended.is_ok(), "all users have left, and none has ended it");
            assert!(lender.lent.look(|()| ()).is_empty());
            assert!(Lease::of(&lender, |()| true, || None).is_none(), "it is not found any more");
        }
    }
}
