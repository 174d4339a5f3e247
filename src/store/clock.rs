//! What time it is by the store's clock, as far as its answers tell.
//!
//! An answer's Date is whole seconds, cut. What the request has made is not later ([`StoreClock::shown`]). It was
//! given after the request was sent, so the store's clock is ahead of this machine's by less than the Date's next second
//! less the time of sending. The least that the answers of the last minutes say is kept ([`StoreClock::latest`]): off
//! by a second and a round trip at most, and by much less where requests come at all moments of a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};

/// For so long an answer counts, and for twice that at most: clocks are set.
const COUNTS: Duration = Duration::from_secs(60);

/// By so much this machine's clock may be off before signatures bear the store's time: stores allow a quarter of an hour.
const OFF_MAX: Duration = Duration::from_secs(60);

/// The store's clock.
#[derive(Debug, Default)]
pub struct StoreClock {
    ahead: Mutex<Ahead, rank::StoreClock>,
}

/// By how many milliseconds at most it is ahead of this machine's, by the answers of this period and the one before.
#[derive(Debug, Default)]
struct Ahead {
    now: Option<i64>,
    before: Option<i64>,
    since: Option<Instant>,
    /// The latest Date.
    shown: Option<SystemTime>,
}

impl StoreClock {
    /// A request that was sent then was answered with this Date.
    pub fn note(&self, sent: SystemTime, date: SystemTime) {
        let told = millis(date) + 1000 - millis(sent);
        let mut ahead = self.ahead.lock();
        if ahead.since.is_none_or(|since| since.elapsed() > COUNTS) {
            ahead.before = ahead.now.take();
            ahead.since = Some(Instant::now());
            // The clock may have been set back.
            ahead.shown = None;
        }
        ahead.shown = ahead.shown.max(Some(date));
        ahead.now = Some(ahead.now.map_or(told, |now| now.min(told)));
    }

    /// The latest that the store's clock has shown: no request that is answered by now has made anything later. In whole
    /// seconds; by this machine's clock where the store has told nothing.
    pub fn shown(&self) -> SystemTime {
        self.ahead.lock().shown.unwrap_or_else(clock::wall)
    }

    /// Forgets what was noted before: this machine's clock has been set, or the store says that it is off.
    pub fn set(&self, sent: SystemTime, date: SystemTime) {
        *self.ahead.lock() = Ahead::default();
        self.note(sent, date);
    }

    /// The time to sign with: this machine's, or the store's where that is off by more than a minute.
    pub fn signing(&self) -> SystemTime {
        let (own, store) = (clock::wall(), self.latest());
        if Self::are_apart(own, store) { store } else { own }
    }

    /// Whether two clocks differ by more than a minute.
    pub fn are_apart(one: SystemTime, other: SystemTime) -> bool {
        let apart = one.duration_since(other).unwrap_or_else(|before| before.duration());
        apart > OFF_MAX
    }

    /// The latest that the store's clock can show now; by this machine's where the store has told nothing.
    pub fn latest(&self) -> SystemTime {
        let ahead = {
            let ahead = self.ahead.lock();
            ahead.now.into_iter().chain(ahead.before).min().unwrap_or(0)
        };
        let (now, by) = (clock::wall(), Duration::from_millis(ahead.unsigned_abs()));
        let told = if ahead < 0 { now.checked_sub(by) } else { now.checked_add(by) };
        told.unwrap_or(now)
    }
}

/// Since 1970, or before it.
fn millis(time: SystemTime) -> i64 {
    let of = |distance: Duration| i64::try_from(distance.as_millis()).unwrap_or(i64::MAX / 4);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => of(since),
        Err(before) => -of(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_bear_the_stores_time_where_this_clock_is_off() {
        for (off, is_stores) in
            [(0_i64, false), (-50, false), (50, false), (7200, true), (-90, true)]
        {
            let clock = StoreClock::default();
            let now = clock::wall();
            let by = Duration::from_secs(off.unsigned_abs());
            let store = if off < 0 { now - by } else { now + by };
            clock.note(now, store);
            let signed = clock.signing();
            let (own, store) = (millis(signed) - millis(now), millis(signed) - millis(store));
            let near = if is_stores { store } else { own };
            assert!((0..2000).contains(&near), "{off}: {own} {store}");
        }
        let clock = StoreClock::default();
        let now = clock::wall();
        clock.note(now, now);
        clock.set(now, now + Duration::from_secs(7200));
        assert!(StoreClock::are_apart(clock.signing(), now));
    }

    #[test]
    fn the_clock_is_told_by_the_answers_whatever_it_is_off() {
        for off in [-900_000_i64, -300, 0, 42_000] {
            let clock = StoreClock::default();
            let shift =
                |time: SystemTime| UNIX_EPOCH + Duration::from_millis((millis(time) + off) as u64);
            let cut =
                |time: SystemTime| UNIX_EPOCH + Duration::from_secs(millis(time) as u64 / 1000);
            for step in 0..40 {
                // Requests at all moments of a second, each answered 5 ms later.
                let sent = clock::wall() + Duration::from_millis(step * 25);
                clock.note(sent, cut(shift(sent + Duration::from_millis(5))));
            }
            let told = millis(clock.latest()) - millis(shift(clock::wall()));
            assert!((-2..50).contains(&told), "{told} ms off for {off}");
        }
    }
}
