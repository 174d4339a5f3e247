//! The circuit breaker: in an outage one request at a time finds out whether the store is back, and all others wait
//! for that, instead of each asking a store that does not answer.
//!
//! It opens when attempts fail one after the other and nothing is heard between them: at once where one of them
//! heard nothing for [`SILENCE_MAX`], else after [`FAILURES_MAX`] in [`FAILURES_TIME_MIN`]. Open, it sends a HEAD
//! after each pause, in the name of one of the requests that wait; any answer closes it, and wakes them all.
//!
//! A request that waits is told `Offline` when its patience is over, or when the outage is older than that: a program that
//! works on through an outage waits it out once, and not again for each file.
//!
//! Where requests do not wait ([`OnOutage`]) none of them may be there to ask: a task of its own does ([`Breaker::probe_if_due`]),
//! and more often. An attempt that nothing is heard of is not waited for to its end either: the store is asked whether it is
//! there, and the breaker opens if it is not ([`Breaker::lost`]).
//!
//! Cancellation: a probe whose caller goes away is another's. Crash: nothing is kept.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{ErrorKind, Result, StoreError};
use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};

/// Failed attempts in a row that open the breaker, if they took so long: a connection that breaks takes the
/// requests on it along, which says little of the store.
const FAILURES_MAX: u32 = 3;
const FAILURES_TIME_MIN: Duration = Duration::from_millis(500);
/// An attempt that hears nothing for this long, while no attempt hears anything, has met an outage and not bad luck.
/// Less where requests are given up sooner.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long it stays open after the first probe that failed, and at most: so long a mount may take to find that the store is back.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The same where a task probes: with a probe that is under way then, a mount is exact again within 10 s.
const OWN_PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long a probe may take: a store that is there answers at once.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// What programs get in an outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// They wait.
    #[default]
    Wait,
    /// An error, at once.
    Fail,
    /// What is known, though it be older than it is believed otherwise; where nothing is, an error at once. What changes
    /// something waits.
    ServeStale,
}

impl std::str::FromStr for OnOutage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "wait" => Ok(OnOutage::Wait),
            "fail" => Ok(OnOutage::Fail),
            "serve-stale" => Ok(OnOutage::ServeStale),
            _ => Err("choose wait, fail or serve-stale".to_owned()),
        }
    }
}

tokio::task_local! {
    static LOOKS: ();
}

/// Runs work that only looks: under [`OnOutage::ServeStale`] it waits for no outage to end.
pub async fn looking<F: Future>(work: F) -> F::Output {
    LOOKS.scope((), work).await
}

/// Whether the work that is being done only looks.
pub fn is_looking() -> bool {
    LOOKS.try_with(|()| ()).is_ok()
}

enum State {
    Closed {
        failures: u32,
        /// When the first of them began.
        since: Instant,
    },
    Open {
        since: Instant,
        /// When the next probe is due, and the pause that it ends.
        until: Instant,
        pause: Duration,
        is_probing: bool,
    },
}

/// What all requests of a breaker know.
struct Shared {
    state: Mutex<State, rank::Breaker>,
    is_open: watch::Sender<bool>,
    pause_max: Duration,
    /// Held by the attempt that asks whether the store is there.
    doubting: tokio::sync::Mutex<()>,
    /// Woken when the breaker closes and when a probe has ended.
    changed: Notify,
    probes_failed: AtomicU64,
    /// An attempt that hears nothing for this long, while no attempt hears anything, has met an outage.
    silence: Duration,
    epoch: Instant,
    /// When anything was heard of the store last, in milliseconds since the epoch.
    heard: AtomicU64,
}

impl Shared {
    fn new(silence: Duration, pause_max: Duration) -> Arc<Shared> {
        Arc::new(Shared {
            state: Mutex::new(State::Closed { failures: 0, since: Instant::now() }),
            is_open: watch::Sender::new(false),
            pause_max,
            doubting: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            probes_failed: AtomicU64::new(0),
            silence,
            epoch: Instant::now(),
            heard: AtomicU64::new(0),
        })
    }

    /// Whether an attempt that began then has heard nothing for long, nor any other.
    fn silent_since(&self, begun: Instant) -> bool {
        Instant::now() >= self.silent_at(begun)
    }

    /// When that will be so, if nothing is heard until then.
    fn silent_at(&self, begun: Instant) -> Instant {
        let heard = self.epoch + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        heard.max(begun) + self.silence
    }

    fn is_open(&self) -> bool {
        *self.is_open.borrow()
    }

    fn hear(&self) {
        self.heard.store(self.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn close(&self) {
        let was_open = {
            let mut state = self.state.lock();
            *state = State::Closed { failures: 0, since: Instant::now() };
            // Under the lock, so that both say the same.
            self.is_open.send_replace(false)
        };
        if was_open {
            log::info!("the store answers again");
            self.changed.notify_waiters();
        }
    }

    fn failed(&self, begun: Instant, is_outage: bool) {
        let mut state = self.state.lock();
        let State::Closed { failures, since } = *state else { return };
        let (failures, since) = (failures + 1, if failures == 0 { begun } else { since });
        let in_a_row = failures >= FAILURES_MAX && since.elapsed() >= FAILURES_TIME_MIN;
        *state = if is_outage || in_a_row {
            self.is_open.send_replace(true);
            // The first probe goes at once: it may have been one connection.
            State::Open { since, until: Instant::now(), pause: PAUSE_MIN / 2, is_probing: false }
        } else {
            State::Closed { failures, since }
        };
    }
}

/// Whether a breaker is open, for other components.
#[derive(Clone)]
pub struct Outage {
    shared: Arc<Shared>,
}

impl Default for Outage {
    /// Of a store without a breaker: never.
    fn default() -> Self {
        Outage { shared: Shared::new(SILENCE_MAX, PAUSE_MAX) }
    }
}

#[cfg(test)]
impl Outage {
    /// One that is on until it is ended.
    pub fn that_is_on() -> Outage {
        let outage = Outage::default();
        outage.shared.failed(Instant::now(), true);
        outage
    }

    pub fn end(&self) {
        self.shared.close();
    }
}

impl fmt::Debug for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outage").field(&self.is_on()).finish()
    }
}

impl Outage {
    /// The store has not answered for a while, and has not answered again yet.
    pub fn is_on(&self) -> bool {
        self.shared.is_open()
    }

    /// For how long, where it is.
    pub fn lasts(&self) -> Option<Duration> {
        match *self.shared.state.lock() {
            State::Open { since, .. } => Some(since.elapsed()),
            State::Closed { .. } => None,
        }
    }

    /// Ends when it is on.
    pub async fn begins(&self) {
        // The sender is the breaker's own, and lives as long as this.
        let _ = self.shared.is_open.subscribe().wait_for(|is_open| *is_open).await;
    }

    /// What the store's answer brings that is waited for; `Offline` as soon as it is on, for work that [looks](looking).
    pub async fn unless_on<T>(
        &self,
        operation: &'static str,
        waiting: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if !is_looking() {
            return waiting.await;
        }
        tokio::select! {
            biased;
            outcome = waiting => outcome,
            () = self.begins() => Err(self.offline(operation)),
        }
    }

    fn offline(&self, operation: &'static str) -> StoreError {
        offline(operation, self.lasts().unwrap_or_default())
    }
}

fn offline(operation: &'static str, lasts: Duration) -> StoreError {
    let lasts = Duration::from_secs(lasts.as_secs().max(1));
    let lasts = humantime::format_duration(lasts);
    let message = format!("the store has not answered for {lasts}");
    StoreError::new(ErrorKind::Offline, operation, message)
}

/// How long a request waits while the breaker is open.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Not longer than until then.
    pub until: Instant,
    /// Nor when the outage has lasted for so long.
    pub outage_max: Duration,
    /// Nor when so many probes have failed meanwhile.
    pub probes_max: u64,
    /// Not at all.
    pub is_none: bool,
}

/// Holds requests back in an outage.
#[derive(Clone)]
pub struct Breaker {
    shared: Arc<Shared>,
}

/// The leave to send one attempt. Dropped without an outcome (the caller went away), it counts as a failed one if
/// nothing was heard for long.
pub struct Leave {
    shared: Arc<Shared>,
    begun: Instant,
    /// A store that is there begins to answer at once.
    is_quick: bool,
    is_settled: bool,
}

impl Leave {
    pub fn settle<T>(mut self, outcome: &Result<T>) {
        self.is_settled = true;
        let fault = match outcome {
            Err(err) if matches!(err.kind, ErrorKind::Transient | ErrorKind::Timeout) => err,
            _ => {
                self.shared.hear();
                return self.shared.close();
            }
        };
        // An answer that is an error is one.
        if fault.status.is_some() {
            self.shared.hear();
        }
        let is_outage = fault.status.is_none() && self.shared.silent_since(self.begun);
        self.shared.failed(self.begun, is_outage);
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.is_settled && self.is_quick && self.shared.silent_since(self.begun) {
            self.shared.failed(self.begun, true);
        }
    }
}

/// What a request that meets an open breaker does next.
enum Turn {
    Go,
    Probe,
    /// Until it is woken, or until then.
    Wait(Instant),
    GiveUp(Duration),
}

impl Breaker {
    /// `timeout`: how long the shortest-lived request may take, its retries included.
    pub fn new(timeout: Duration, on_outage: OnOutage) -> Breaker {
        let pause_max = if on_outage == OnOutage::Wait { PAUSE_MAX } else { OWN_PAUSE_MAX };
        Breaker { shared: Shared::new(SILENCE_MAX.min(timeout / 2), pause_max) }
    }

    pub fn outage(&self) -> Outage {
        Outage { shared: self.shared.clone() }
    }

    /// Bytes have arrived.
    pub fn hear(&self) {
        self.shared.hear();
        if self.shared.is_open() {
            self.shared.close();
        }
    }

    /// Ends when the breaker is open. Until then an attempt that began at `begun` is waited for; when nothing was heard
    /// for long, `probe` asks the store whether it is there, for one of the attempts that wait.
    pub async fn lost<T, F>(&self, begun: Instant, probe: impl Fn() -> F)
    where
        F: Future<Output = Result<T>>,
    {
        let shared = &self.shared;
        let outage = self.outage();
        loop {
            if clock::timeout_at(shared.silent_at(begun), outage.begins()).await.is_ok() {
                return;
            }
            let _one = shared.doubting.lock().await;
            if shared.silent_since(begun) && !shared.is_open() && !self.answers(&probe).await {
                shared.failed(begun, true);
            }
        }
    }

    /// One step of a task that probes as long as the breaker is open: probes, or waits until that is due.
    pub async fn probe_if_due<T, F>(&self, probe: impl Fn() -> F)
    where
        F: Future<Output = Result<T>>,
    {
        let changed = self.shared.changed.notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        match self.due() {
            Turn::Probe => self.probe(&probe).await,
            Turn::Wait(until) => drop(clock::timeout_at(until, changed).await),
            Turn::Go | Turn::GiveUp(_) => {}
        }
    }

    /// Whether a probe is due, of a task that has nothing else to ask.
    fn due(&self) -> Turn {
        let mut state = self.shared.state.lock();
        let State::Open { since, until, pause, is_probing } = *state else { return Turn::Go };
        let now = Instant::now();
        if is_probing || now < until {
            return Turn::Wait(if is_probing { now + PROBE_MAX } else { until });
        }
        *state = State::Open { since, until, pause, is_probing: true };
        Turn::Probe
    }

    /// Why an attempt is not waited for any more.
    pub fn offline(&self, operation: &'static str) -> StoreError {
        self.outage().offline(operation)
    }

    /// The leave of an attempt that began then, which is to be settled.
    pub fn leave_since(&self, begun: Instant) -> Leave {
        Leave { shared: self.shared.clone(), begun, is_quick: true, is_settled: false }
    }

    /// The leave to send an attempt: at once, or when the store is back. `probe` asks it something cheap.
    pub async fn admit<T, F>(
        &self,
        operation: &'static str,
        is_quick: bool,
        patience: Patience,
        probe: impl Fn() -> F,
    ) -> Result<Leave>
    where
        F: Future<Output = Result<T>>,
    {
        let shared = &self.shared;
        let probes = shared.probes_failed.load(Ordering::SeqCst);
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let failed = shared.probes_failed.load(Ordering::SeqCst) - probes;
            match self.turn(patience, failed) {
                Turn::Go => {
                    let (shared, begun) = (shared.clone(), Instant::now());
                    return Ok(Leave { shared, begun, is_quick, is_settled: false });
                }
                Turn::Probe => self.probe(&probe).await,
                Turn::Wait(until) => {
                    let _ = clock::timeout_at(until, changed).await;
                }
                Turn::GiveUp(lasts) => return Err(offline(operation, lasts)),
            }
        }
    }

    fn turn(&self, patience: Patience, probes_failed: u64) -> Turn {
        let mut state = self.shared.state.lock();
        let State::Open { since, until, pause, is_probing } = *state else { return Turn::Go };
        let now = Instant::now();
        if patience.is_none {
            return Turn::GiveUp(now - since);
        }
        let give_up_at = patience.until.min(since + patience.outage_max);
        let is_over = now >= give_up_at || probes_failed >= patience.probes_max;
        if is_probing {
            // Its end is near, and may be the outage's.
            return Turn::Wait(if is_over { now + PROBE_MAX } else { give_up_at });
        }
        // A request that has just seen one fail does not send the next as well.
        if now >= until && (probes_failed == 0 || !is_over) {
            *state = State::Open { since, until, pause, is_probing: true };
            return Turn::Probe;
        }
        if is_over { Turn::GiveUp(now - since) } else { Turn::Wait(until.min(give_up_at)) }
    }

    async fn probe<T, F>(&self, probe: impl Fn() -> F)
    where
        F: Future<Output = Result<T>>,
    {
        let mut probing = Probing { shared: &self.shared, has_failed: false };
        let is_heard = self.answers(probe).await;
        if is_heard {
            self.shared.close();
        }
        probing.has_failed = !is_heard;
    }

    /// Whether the store answers a probe.
    async fn answers<T, F>(&self, probe: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<T>>,
    {
        let is_heard = match clock::timeout(PROBE_MAX, probe()).await {
            Ok(Err(err)) => !matches!(err.kind, ErrorKind::Transient | ErrorKind::Timeout),
            Ok(Ok(_)) => true,
            Err(_) => false,
        };
        if is_heard {
            self.shared.hear();
        }
        is_heard
    }
}

/// A probe that is out; the next is due after its failure, or at once if its caller went away.
struct Probing<'a> {
    shared: &'a Shared,
    has_failed: bool,
}

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if let State::Open { since, mut pause, .. } = *state {
            if self.has_failed {
                self.shared.probes_failed.fetch_add(1, Ordering::SeqCst);
                pause = (pause * 2).min(self.shared.pause_max);
            }
            let until = Instant::now() + if self.has_failed { pause } else { Duration::ZERO };
            *state = State::Open { since, until, pause, is_probing: false };
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
