//! What to fetch, decided from the reads of one open file so far: pure arithmetic, no I/O and no clock.
//!
//! Each file has up to [`STREAMS_MAX`] *streams*: places where reads go on one after another. A read near
//! a stream's front continues it; any other begins a new one. A stream's window grows with what was read
//! of it, as long as most of what it passes over is read; otherwise it fetches exactly what is asked.

use std::time::Duration;

use crate::range::ByteRange;
use crate::without::Heuristic;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Interleaved sequential reads that are told apart on one file, by all that have it open. Each read looks at
/// all of them; a program with more threads than this at work on one file is taken for one that reads at random.
const STREAMS_MAX: usize = 32;

/// What a first read at the beginning of a file fetches. One GET then holds a small file, and the kernel's
/// own readahead (128 KiB, up to 1 MiB where it was raised) is served from it while it arrives; at 25 ms to
/// the first byte and 60 MB/s it takes little longer than 4 KiB would.
const FIRST_BYTES: u64 = MIB;

/// How far from its front a read still continues a stream, in either direction. The kernel reads ahead in
/// requests of up to 1 MiB, and its parallel threads may swap two of them.
const SEEK_BYTES_MAX: u64 = 2 * MIB;

/// A stream is judged by about as many bytes as this: of those that it passed over, half must have been
/// read. Older ones fade, so that a stream which turns into strides shrinks soon.
const JUDGED_BYTES: u64 = 4 * MIB;

/// Up to this run the window is a small multiple of the run; beyond, eight times, so that it opens within a
/// few round trips. A reader that begins at the beginning of a file mostly reads all of it; one that begins elsewhere may be
/// after one column chunk of a Parquet file, of which no more than as much again should be fetched.
const CAUTIOUS_RUN_BYTES: u64 = MIB;
const CAUTIOUS_RUN_ELSEWHERE_BYTES: u64 = 4 * MIB;
const CAUTIOUS_TIMES: u64 = 2;
const CAUTIOUS_TIMES_ELSEWHERE: u64 = 1;
const CERTAIN_TIMES: u64 = 8;

/// What the window opens to before more is tried, for readers that have to wait. A near store needs no more than
/// 16 MiB (10 ms at 10 Gbit/s), and memory that was never touched before is the dearest thing on a reader's
/// way: 32 MiB cost half as much processor time again, and were slower. Of a far store more is needed: at 25 ms
/// to the first byte and 60 MB/s a connection, the sixteen GETs of 32 MiB would wait for half the time, which is
/// too plain to be tried.
const WINDOW_BYTES_NEAR: u64 = 16 * MIB;
const WINDOW_BYTES_FAR: u64 = 64 * MIB;

/// What is tried is taken back unless the reader gets faster by one in so many. Where connections or their
/// latency are the limit, it gets nearly twice as fast; a tenth may be chance, on a machine with other things to do.
const GAIN_ONE_IN: f64 = 4.0;

/// After a doubling that did not pay, so much is read before the next is tried.
const SETTLED_BYTES: u64 = 512 * MIB;

/// GETs of one window. A far store limits each connection, so that many must be busy, also while the window
/// opens. A near one is limited by its processors and ours, and each GET costs both: with 8 MiB a GET,
/// SeaweedFS on the same machine takes 0.6 CPU seconds for a gigabyte, with 2 MiB 1.1, with 1 MiB 1.5. More are
/// tried, within the same window.
const FETCHES_FAR: u64 = 16;
const FETCHES_NEAR: u64 = 2;
const FETCHES_NEAR_MAX: u64 = 16;

/// Smaller GETs than this spend most of their time waiting for their first byte.
const FETCH_BYTES_MIN: u64 = MIB;

/// The kernel's page: what random reads are rounded to.
const PAGE_BYTES: u64 = 4 * KIB;

/// What the window has to keep to. In bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub object_len: u64,
    /// What one handle may have read ahead.
    pub window_bytes_max: u64,
    /// The largest GET.
    pub fetch_bytes_max: u64,
    pub store_is_near: bool,
}

impl Limits {
    /// The window of a reader in order that has to wait, and its GETs, after so many doublings.
    fn window(&self, doublings: u32) -> (u64, u64) {
        if self.store_is_near {
            (WINDOW_BYTES_NEAR, FETCHES_NEAR << doublings)
        } else {
            (WINDOW_BYTES_FAR << doublings, FETCHES_FAR)
        }
    }

    /// Whether there is anything to try after so many doublings, with `share` bytes to read ahead.
    fn may_double(&self, doublings: u32, share: u64) -> bool {
        let (window, fetches) = self.window(doublings);
        if !Heuristic::WindowTrials.is_on() {
            return false;
        }
        if self.store_is_near { fetches < FETCHES_NEAR_MAX } else { window < share }
    }
}

/// What to have fetched now, cut into GETs of at most `fetch_bytes`. Empty where nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub range: ByteRange,
    pub fetch_bytes: u64,
    /// More than the read itself needs.
    pub is_ahead: bool,
}

/// The streams of one handle.
#[derive(Debug, Default)]
pub struct Window {
    streams: Vec<Stream>,
    reads: u64,
}

#[derive(Debug)]
struct Stream {
    /// End of the furthest read.
    front: u64,
    /// Fetched or being fetched up to here. Invariant: not below `front`.
    ahead_end: u64,
    /// Bytes read since the stream was last sparse.
    run: u64,
    /// Up to this run the window grows slowly.
    cautious_to: u64,
    cautious_times: u64,
    /// Of the recent past: bytes read, and bytes passed over.
    asked: u64,
    passed: u64,
    window: u64,
    /// How often more than at first was tried and kept: a longer window, or more GETs.
    doublings: u32,
    trial: Trial,
    last_read: u64,
}

/// Whether the doubling that a stream has now is worth what it costs.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    /// The stream's front and the time when it began.
    began: Option<(u64, Duration)>,
    /// Bytes a second before the doubling; 0 where that is not known.
    rate_before: f64,
    /// No other trial before the front is here.
    settled_to: u64,
}

impl Window {
    /// Takes note of a read (not empty, inside the object) at the time `now` on any clock, `stalled` if its
    /// bytes were not at hand.
    pub fn on_read(
        &mut self,
        read: ByteRange,
        stalled: bool,
        now: Duration,
        limits: &Limits,
    ) -> Fetch {
        self.reads += 1;
        let share = limits.window_bytes_max / self.wide_streams().max(1);
        let (index, fetched_to) = match self.stream_of(read) {
            Some(index) => (index, self.streams[index].go_on(read, stalled, now, share, limits)),
            None => (self.begin(read), read.start()),
        };
        let stream = &mut self.streams[index];
        stream.last_read = self.reads;
        stream.fetch_for(read, fetched_to, share, limits)
    }

    /// Memory ran out: a fetch up to `end` got no further than `reached`.
    pub fn fell_short(&mut self, end: u64, reached: u64) {
        for stream in self.streams.iter_mut().filter(|stream| stream.ahead_end == end) {
            stream.ahead_end = reached.max(stream.front);
        }
    }

    /// Whether some stream's window still reaches for bytes of `range`.
    pub fn reaches(&self, range: ByteRange) -> bool {
        self.streams.iter().any(|stream| {
            range.start() < stream.ahead_end
                && range.end() > stream.front.saturating_sub(SEEK_BYTES_MAX)
        })
    }

    /// Streams that read ahead far enough to count when memory is shared out.
    fn wide_streams(&self) -> u64 {
        self.streams.iter().filter(|stream| stream.window > FIRST_BYTES).count() as u64
    }

    /// The stream that the read continues: the one whose front is nearest.
    fn stream_of(&self, read: ByteRange) -> Option<usize> {
        (0..self.streams.len())
            .filter(|&index| self.streams[index].is_near(read))
            .min_by_key(|&index| self.streams[index].front.abs_diff(read.start()))
    }

    /// A new stream, in place of the one that was not read for longest.
    fn begin(&mut self, read: ByteRange) -> usize {
        let (cautious_to, cautious_times) = if read.start() == 0 {
            (CAUTIOUS_RUN_BYTES, CAUTIOUS_TIMES)
        } else {
            (CAUTIOUS_RUN_ELSEWHERE_BYTES, CAUTIOUS_TIMES_ELSEWHERE)
        };
        let stream = Stream {
            front: read.end(),
            ahead_end: read.end(),
            run: read.len(),
            cautious_to,
            cautious_times,
            asked: read.len(),
            passed: read.len(),
            // A reader that begins at the beginning mostly goes on; elsewhere it has to be seen.
            window: if read.start() == 0 { FIRST_BYTES } else { 0 },
            doublings: 0,
            trial: Trial::default(),
            last_read: 0,
        };
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
            return self.streams.len() - 1;
        }
        let oldest =
            (0..STREAMS_MAX).min_by_key(|&index| self.streams[index].last_read).unwrap_or_default();
        self.streams[oldest] = stream;
        oldest
    }
}

impl Stream {
    fn is_near(&self, read: ByteRange) -> bool {
        // What was fetched ahead already may be skipped to as well.
        let last = self.ahead_end.max(self.front + SEEK_BYTES_MAX);
        (self.front.saturating_sub(SEEK_BYTES_MAX)..=last).contains(&read.start())
    }

    /// Takes note of a read that continues the stream, and says how far it was fetched before that.
    fn go_on(
        &mut self,
        read: ByteRange,
        stalled: bool,
        now: Duration,
        share: u64,
        limits: &Limits,
    ) -> u64 {
        let fetched_to = self.ahead_end;
        let progress = read.end().saturating_sub(self.front);
        self.asked += read.len();
        self.passed += progress;
        self.front = self.front.max(read.end());
        if self.passed > JUDGED_BYTES {
            self.asked /= 2;
            self.passed /= 2;
        }
        if self.asked * 2 < self.passed {
            // Strides: exactly what is asked, until most of it is asked again. What is on its way is let
            // come: it may be several readers whose requests arrive far out of order, and a transfer that is
            // cut off has mostly been sent already.
            self.run = 0;
            self.window = 0;
            self.doublings = 0;
            self.trial = Trial::default();
            self.ahead_end = self.ahead_end.max(self.front);
            return read.start();
        }
        self.ahead_end = self.ahead_end.max(self.front);
        // Not what is read again or backwards: that says nothing about what comes next.
        self.run += progress;
        let times = if self.run < self.cautious_to { self.cautious_times } else { CERTAIN_TIMES };
        let worth = self.run * times;
        let (full, _) = limits.window(self.doublings);
        self.window = self.window.max(worth).min(full);
        if stalled && self.window == full {
            self.try_more(now, share, limits);
        }
        fetched_to
    }

    /// After a whole window that was waited for: goes on to twice the window or the GETs as long as that pays.
    fn try_more(&mut self, now: Duration, share: u64, limits: &Limits) {
        let (from, since) = match self.trial.began {
            Some(began) if self.front >= self.trial.settled_to => began,
            _ => *self.trial.began.insert((self.front, now)),
        };
        let passed = self.front.saturating_sub(from);
        if passed < self.window {
            return;
        }
        self.trial.began = Some((self.front, now));
        let rate = passed as f64 / now.saturating_sub(since).as_secs_f64().max(1e-9);
        if rate < self.trial.rate_before * (1.0 + 1.0 / GAIN_ONE_IN) {
            self.trial.rate_before = 0.0;
            self.trial.settled_to = self.front + SETTLED_BYTES;
            self.doublings = self.doublings.saturating_sub(1);
            (self.window, _) = limits.window(self.doublings);
        } else if limits.may_double(self.doublings, share) {
            self.trial.rate_before = rate;
            self.doublings += 1;
        }
    }

    fn fetch_for(
        &mut self,
        read: ByteRange,
        fetched_to: u64,
        share: u64,
        limits: &Limits,
    ) -> Fetch {
        let window = self.window.min(share);
        let (_, fetches) = limits.window(self.doublings);
        // Towards the end of the object shorter, so that the last of them end together.
        let remaining = limits.object_len.saturating_sub(fetched_to);
        let fetch_bytes = (window.min(remaining) / fetches)
            .max(FETCH_BYTES_MIN)
            .checked_next_power_of_two()
            .unwrap_or(limits.fetch_bytes_max)
            .min(limits.fetch_bytes_max);
        let nothing = Fetch { range: ByteRange::at(read.start(), 0), fetch_bytes, is_ahead: false };
        if read.end() < self.front {
            // Behind the front: where it is not at hand any more, the read itself is all that is wanted.
            return nothing;
        }
        // Ends where GETs do, so that few replies have to be put together from two of them.
        let step = if window >= FIRST_BYTES { fetch_bytes } else { PAGE_BYTES };
        let wanted = (self.front + window) / step * step;
        let needed = read.end().next_multiple_of(PAGE_BYTES);
        let target = wanted.max(needed).min(limits.object_len);
        let from = fetched_to.max(read.start() / PAGE_BYTES * PAGE_BYTES);
        // Little by little would be many small GETs; what the read itself lacks cannot wait.
        let is_worth_it = target.saturating_sub(from) >= fetch_bytes.min(window / 2)
            || target == limits.object_len
            || fetched_to < read.end();
        if target <= from || !is_worth_it {
            return nothing;
        }
        self.ahead_end = self.ahead_end.max(target);
        Fetch { range: ByteRange::new(from, target), fetch_bytes, is_ahead: window > 0 }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
