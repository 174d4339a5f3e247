//! So many at once: as many as the store takes (AIMD). Where it throttles there are half as many places as were taken,
//! once a round trip, and one more each time that as many requests as there are places went without, once a second at
//! the most: that is what stores count by.

use std::sync::Arc;
use std::time::Duration;

use super::line::{Flow, Line, Turn};
use crate::clock::Instant;
use crate::progress;
use crate::store::{ErrorKind, Result};
use crate::without::Heuristic;

/// So long there are no more places after the last one came back. With less the places grow back within each second in
/// which the store counts, and as many requests are thrown away at its end.
const WINDOW_MIN: Duration = Duration::from_secs(1);

struct Places {
    most: usize,
    /// How many there are now. Invariant: from 1 to `most`.
    open: usize,
    taken: usize,
    /// When there were halved last: what was sent before that tells nothing new.
    halved: Option<Instant>,
    /// Since when there are as many.
    changed: Instant,
    /// Requests that the store took since then.
    went: usize,
}

impl Places {
    fn throttled(&mut self, begun: Instant) {
        let is_old = self.halved.is_some_and(|halved| begun <= halved);
        if is_old || !Heuristic::HoldBack.is_on() {
            return;
        }
        self.open = (self.open.min(self.taken) / 2).max(1);
        self.halved = Some(Instant::now());
        (self.changed, self.went) = (Instant::now(), 0);
    }

    fn went(&mut self) {
        if self.open == self.most {
            return;
        }
        self.went += 1;
        if self.went >= self.open && self.changed.elapsed() >= WINDOW_MIN {
            self.open += 1;
            (self.changed, self.went) = (Instant::now(), 0);
        }
    }
}

/// Places that requests take, files in turn.
pub struct Gate(Line<Places>);

/// A place, until it is dropped.
pub struct Place(Arc<Gate>);

impl Place {
    /// How a request went that was sent from here at `begun`.
    pub fn note<T>(&self, begun: Instant, outcome: &Result<T>) {
        self.0.0.change(|places| match outcome {
            Err(error) if error.kind == ErrorKind::Throttled => places.throttled(begun),
            Err(error) if error.kind.is_retryable() => {}
            _ => places.went(),
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.change(|places| places.taken -= 1);
    }
}

impl Gate {
    /// At least one place.
    pub fn new(places: usize) -> Arc<Gate> {
        let most = places.max(1);
        let (taken, halved, changed, went) = (0, None, Instant::now(), 0);
        Arc::new(Gate(Line::new(Places { most, open: most, taken, halved, changed, went })))
    }

    pub async fn enter(self: &Arc<Gate>, flow: Flow) -> Place {
        let take = |places: &mut Places| {
            if places.taken >= places.open {
                return Turn::Later;
            }
            places.taken += 1;
            Turn::Taken(())
        };
        progress::any_other(self.0.take(flow, take)).await;
        Place(self.clone())
    }

    /// How many may be taken now.
    #[cfg(test)]
    pub fn open(&self) -> usize {
        self.0.look(|places| places.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    const ROUND_TRIP: Duration = Duration::from_millis(10);

    /// So many requests side by side, of which the store takes so many.
    async fn round(gate: &Arc<Gate>, sent: usize, taken: usize) {
        let mut places = Vec::new();
        for _ in 0..sent {
            places.push(gate.enter(Flow::default()).await);
        }
        let begun = Instant::now();
        tokio::time::advance(ROUND_TRIP).await;
        for (at, place) in places.iter().enumerate() {
            let throttled = || StoreError::new(ErrorKind::Throttled, "X", "");
            let outcome = if at < taken { Ok(()) } else { Err(throttled()) };
            place.note(begun, &outcome);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_halved_once_a_round_trip_and_grow_one_by_one() {
        let gate = Gate::new(16);
        let open = || gate.open();
        round(&gate, 16, 16).await;
        assert_eq!(open(), 16);
        round(&gate, 16, 10).await;
        assert_eq!(open(), 8, "once for six");
        for places in 9..=16 {
            // Not before a second is over.
            round(&gate, places - 1, places - 1).await;
            assert_eq!(open(), places - 1);
            tokio::time::advance(WINDOW_MIN).await;
            round(&gate, places - 1, places - 1).await;
            assert_eq!(open(), places);
        }
        // Of places that are not used none is missed.
        round(&gate, 4, 0).await;
        assert_eq!(open(), 2);
        for _ in 0..5 {
            round(&gate, 1, 0).await;
        }
        assert_eq!(open(), 1);
        // No other fault counts either way.
        let place = gate.enter(Flow::default()).await;
        place.note::<()>(Instant::now(), &Err(StoreError::new(ErrorKind::Timeout, "X", "")));
        assert_eq!(open(), 1);
    }
}
