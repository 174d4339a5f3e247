//! Single-flight: one request for each key under way, however many wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use crate::lock::{Mutex, rank};
use crate::namespace::listings::Begun;
use crate::store::{Key, Result};

pub(super) type Answer<T> = Shared<BoxFuture<'static, Result<T>>>;

/// A request under way. Held weakly: the callers that wait keep it alive.
struct UnderWay<T> {
    number: u64,
    begun: Begun,
    answer: WeakShared<BoxFuture<'static, Result<T>>>,
}

pub(super) struct SingleFlight<T>(Mutex<State<T>, rank::SingleFlight>);

struct State<T> {
    by_key: HashMap<Key, UnderWay<T>>,
    count: u64,
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    pub fn new() -> Arc<SingleFlight<T>> {
        Arc::new(SingleFlight(Mutex::new(State { by_key: HashMap::new(), count: 0 })))
    }

    /// The request for this key that is under way, or this one that begins now; and when it was begun.
    pub fn join(
        self: &Arc<Self>,
        key: &Key,
        now: Begun,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> (Begun, Answer<T>) {
        let mut state = self.0.lock();
        if let Some(under_way) = state.by_key.get(key)
            && let Some(answer) = under_way.answer.upgrade()
        {
            return (under_way.begun, answer);
        }
        state.count += 1;
        let number = state.count;
        let ending = Ending { requests: Arc::downgrade(self), key: key.clone(), number };
        let answer = async move {
            // Dropped when the answer is there, or its last waiter is gone.
            let _ending = ending;
            request.await
        };
        let answer = answer.boxed().shared();
        if let Some(weak) = answer.downgrade() {
            state.by_key.insert(key.clone(), UnderWay { number, begun: now, answer: weak });
        }
        (now, answer)
    }

    pub fn is_under_way(&self, key: &Key) -> bool {
        self.0.lock().by_key.contains_key(key)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.lock().by_key.is_empty()
    }
}

/// Takes a request off the list of those under way, so that a later caller gets a later answer.
struct Ending<T> {
    requests: Weak<SingleFlight<T>>,
    key: Key,
    number: u64,
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        if let Some(requests) = self.requests.upgrade() {
            let mut state = requests.0.lock();
            // A newer one of the same key, begun after this was given up, stays.
            if state.by_key.get(&self.key).is_some_and(|other| other.number == self.number) {
                state.by_key.remove(&self.key);
            }
        }
    }
}
