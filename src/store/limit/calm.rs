//! What the store asks of all requests: to be left alone for a while. One of them is told, and all wait.
//!
//! For so long as its Retry-After says, all of them. Without one for [`PAUSE_MIN`], and for twice as long as the last time
//! where nothing has got through since: those of the same [`Kind`], since stores count those that change something and
//! those that look apart, and a mount that waits for its looks is felt at once. Of requests that were under way side by side one counts: what was sent before the
//! store asked tells nothing new.
//!
//! Locks: none is held together with another. Cancellation: nothing waits but the requests. Crash: nothing is kept.

use std::time::Duration;

use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};
use crate::random;
use crate::store::layer::Call;
use crate::store::{ErrorKind, Result};
use crate::without::Heuristic;

/// How long all are held back that were told no time: at first, and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Mounts on other machines are told the same, and do not come back in the same moment: within this part of the time.
const SPREAD: f64 = 0.1;

tokio::task_local! {
    static LATEST: Instant;
}

/// Sends a request whose own time wants it to be sent by `latest`: it waits no longer.
pub async fn sent_by<F: Future>(latest: Instant, send: F) -> F::Output {
    LATEST.scope(latest, send).await
}

/// What stores count apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Looks,
    Changes,
}

impl From<Call<'_>> for Kind {
    fn from(call: Call<'_>) -> Kind {
        if call.is_change() { Kind::Changes } else { Kind::Looks }
    }
}

/// Whether, and until when, the store is left alone.
#[derive(Default)]
pub struct Calm(Mutex<Asked, rank::Calm>);

#[derive(Default)]
struct Asked {
    /// By a Retry-After.
    all_until: Option<Instant>,
    looks: State,
    changes: State,
}

impl Asked {
    fn of(&mut self, kind: Kind) -> &mut State {
        match kind {
            Kind::Looks => &mut self.looks,
            Kind::Changes => &mut self.changes,
        }
    }

    fn until(&mut self, kind: Kind) -> Option<Instant> {
        self.all_until.max(self.of(kind).until)
    }
}

#[derive(Default)]
struct State {
    until: Option<Instant>,
    /// When the store asked last.
    asked: Option<Instant>,
    /// How long all were held back then.
    pause: Duration,
}

impl State {
    /// Whether what was sent then was sent before the store asked.
    fn is_old(&self, begun: Instant) -> bool {
        self.asked.is_some_and(|asked| begun <= asked)
    }
}

impl Calm {
    /// What the answer to an attempt says to all requests. It was sent at `begun`, and not only meant to be: one that waited
    /// for its place is newer than what was asked meanwhile.
    pub fn note<T>(&self, kind: Kind, begun: Instant, outcome: &Result<T>) {
        match outcome {
            Err(err) if err.kind == ErrorKind::Throttled || err.retry_after.is_some() => {
                self.asked(kind, begun, err.retry_after, random::unit());
            }
            Err(err) if err.kind.is_retryable() => {}
            _ => self.took(kind, begun),
        }
    }

    /// The store asked to be left alone, in its answer to an attempt that began then. `random` lies in 0.0..1.0.
    fn asked(&self, kind: Kind, begun: Instant, retry_after: Option<Duration>, random: f64) {
        if !Heuristic::HoldBack.is_on() {
            return;
        }
        let now = Instant::now();
        let spread = 1.0 + SPREAD * random;
        let mut asked = self.0.lock();
        if let Some(time) = retry_after {
            asked.all_until = asked.all_until.max(Some(now + time.mul_f64(spread)));
            (asked.looks.asked, asked.changes.asked) = (Some(now), Some(now));
            return;
        }
        let state = asked.of(kind);
        if !state.is_old(begun) {
            state.pause = (state.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            state.until = state.until.max(Some(now + state.pause.mul_f64(spread)));
            state.asked = Some(now);
        }
    }

    /// The store has taken an attempt that began then.
    fn took(&self, kind: Kind, begun: Instant) {
        let mut asked = self.0.lock();
        let state = asked.of(kind);
        if !state.is_old(begun) {
            state.pause = Duration::ZERO;
        }
    }

    /// Waits with a request that has its place until it may be sent: the store may have asked since it went for that.
    pub async fn wait_in_place(&self, kind: Kind) {
        // What is sent for no request has no time to wait.
        if let Ok(latest) = LATEST.try_with(|latest| *latest) {
            self.wait(kind, latest).await;
        }
    }

    /// Waits until the store may be asked, or until then.
    pub async fn wait(&self, kind: Kind, latest: Instant) {
        // The store may ask for more meanwhile.
        loop {
            let until = self.0.lock().until(kind).map(|until| until.min(latest));
            match until {
                Some(until) if until > Instant::now() => clock::sleep_until(until).await,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a request waits that has time for it.
    async fn waits(calm: &Calm, kind: Kind) -> Duration {
        let begun = Instant::now();
        calm.wait(kind, begun + SECOND * 1000).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn all_wait_for_as_long_as_one_was_told() {
        let calm = Calm::default();
        assert_eq!(waits(&calm, Kind::Changes).await, Duration::ZERO);
        calm.asked(Kind::Looks, Instant::now(), Some(SECOND * 7), 0.0);
        // A shorter time takes nothing back.
        calm.asked(Kind::Looks, Instant::now(), Some(SECOND), 0.5);
        calm.wait(Kind::Looks, Instant::now() + SECOND).await;
        assert_eq!(waits(&calm, Kind::Changes).await, SECOND * 6);
        calm.asked(Kind::Looks, Instant::now(), Some(SECOND * 10), 1.0);
        assert_eq!(waits(&calm, Kind::Changes).await, SECOND * 11);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_pauses_double_until_something_gets_through() {
        let calm = Calm::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let begun = Instant::now();
            tokio::time::advance(SECOND / 100).await;
            // Sixteen side by side are told, and one counts.
            (0..16).for_each(|_| calm.asked(Kind::Looks, begun, None, 0.0));
            assert_eq!(waits(&calm, Kind::Changes).await, Duration::ZERO, "it was not meant");
            pauses.push(waits(&calm, Kind::Looks).await.as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        calm.took(Kind::Looks, Instant::now());
        calm.asked(Kind::Looks, Instant::now(), None, 0.0);
        assert_eq!(waits(&calm, Kind::Looks).await, PAUSE_MIN);
    }
}
