//! HEADs under way: one for each key, whoever waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use crate::namespace::listings::Begun;
use crate::store::{Key, ObjectHead, Result, SharedStore};

pub(super) type Flight = Shared<BoxFuture<'static, Result<ObjectHead>>>;

/// A HEAD under way. Held weakly: those who wait keep it alive.
struct Airborne {
    number: u64,
    begun: Begun,
    flight: WeakShared<BoxFuture<'static, Result<ObjectHead>>>,
}

#[derive(Default)]
pub(super) struct Flights(Mutex<State>);

#[derive(Default)]
struct State {
    by_key: HashMap<Key, Airborne>,
    count: u64,
}

impl Flights {
    /// The HEAD of this key that is under way, or that begins now; and when it was begun.
    pub fn board(self: &Arc<Self>, store: &SharedStore, key: &Key, now: Begun) -> (Begun, Flight) {
        let mut state = self.0.lock();
        if let Some(airborne) = state.by_key.get(key)
            && let Some(flight) = airborne.flight.upgrade()
        {
            return (airborne.begun, flight);
        }
        state.count += 1;
        let number = state.count;
        let (store, key_asked) = (store.clone(), key.clone());
        let landing = Landing { flights: Arc::downgrade(self), key: key.clone(), number };
        let flight = async move {
            // Dropped when the answer is there or nobody waits for it any more.
            let _landing = landing;
            store.head(&key_asked).await
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

/// Takes a HEAD off the list of those under way, so that whoever asks later gets a later answer.
struct Landing {
    flights: Weak<Flights>,
    key: Key,
    number: u64,
}

impl Drop for Landing {
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
