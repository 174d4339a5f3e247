//! Requests under way: one for each key, whoever waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use crate::namespace::listings::Begun;
use crate::store::{Key, Result};

pub(super) type Flight<T> = Shared<BoxFuture<'static, Result<T>>>;

/// A request under way. Held weakly: those who wait keep it alive.
struct Airborne<T> {
    number: u64,
    begun: Begun,
    flight: WeakShared<BoxFuture<'static, Result<T>>>,
}

pub(super) struct Flights<T>(Mutex<State<T>>);

struct State<T> {
    by_key: HashMap<Key, Airborne<T>>,
    count: u64,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub fn new() -> Arc<Flights<T>> {
        Arc::new(Flights(Mutex::new(State { by_key: HashMap::new(), count: 0 })))
    }

    /// The request for this key that is under way, or this one that begins now; and when it was begun.
    pub fn board(
        self: &Arc<Self>,
        key: &Key,
        now: Begun,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> (Begun, Flight<T>) {
        let mut state = self.0.lock();
        if let Some(airborne) = state.by_key.get(key)
            && let Some(flight) = airborne.flight.upgrade()
        {
            return (airborne.begun, flight);
        }
        state.count += 1;
        let number = state.count;
        let landing = Landing { flights: Arc::downgrade(self), key: key.clone(), number };
        let flight = async move {
            // Dropped when the answer is there or nobody waits for it any more.
            let _landing = landing;
            request.await
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            state.by_key.insert(key.clone(), Airborne { number, begun: now, flight: weak });
        }
        (now, flight)
    }

    pub fn is_under_way(&self, key: &Key) -> bool {
        self.0.lock().by_key.contains_key(key)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.lock().by_key.is_empty()
    }
}

/// Takes a request off the list of those under way, so that whoever asks later gets a later answer.
struct Landing<T> {
    flights: Weak<Flights<T>>,
    key: Key,
    number: u64,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        if let Some(flights) = self.flights.upgrade() {
            let mut state = flights.0.lock();
            // A newer one of the same key, begun after this was given up, stays.
            if state.by_key.get(&self.key).is_some_and(|other| other.number == self.number) {
                state.by_key.remove(&self.key);
            }
        }
    }
}
