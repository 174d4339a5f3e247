use super::*;

use proptest::prelude::*;

const PART: u64 = 8 * MIB;

fn limits(object_len: u64) -> Limits {
    Limits { object_len, window_bytes_max: 18 * PART, fetch_bytes_max: PART, store_is_near: false }
}

/// Reads one after another, and everything that was fetched for them.
struct Run {
    window: Window,
    limits: Limits,
    fetches: Vec<Fetch>,
    stalls: bool,
    now: Duration,
    /// Bytes a second that the reader gets with `window` bytes on their way in `fetches` GETs.
    rate: fn(window: u64, fetches: u64) -> u64,
}

impl Run {
    fn new(object_len: u64) -> Self {
        Run {
            window: Window::default(),
            limits: limits(object_len),
            fetches: Vec::new(),
            stalls: true,
            now: Duration::ZERO,
            rate: |window, _| window,
        }
    }

    fn read(&mut self, offset: u64, len: u64) -> Fetch {
        let (window, fetches) = self.window.streams.first().map_or((MIB, 1), |stream| {
            (stream.window.max(MIB), self.limits.window(stream.doublings).1)
        });
        self.now += Duration::from_secs_f64(len as f64 / (self.rate)(window, fetches) as f64);
        let read = ByteRange::at(offset, len);
        let fetch = self.window.on_read(read, self.stalls, self.now, &self.limits);
        if !fetch.range.is_empty() {
            self.fetches.push(fetch);
        }
        fetch
    }

    fn fetched_bytes(&self) -> u64 {
        self.fetches.iter().map(|fetch| fetch.range.len()).sum()
    }
}

#[test]
fn a_small_file_is_one_get() {
    let mut run = Run::new(300 * KIB);
    assert_eq!(run.read(0, 128 * KIB).range, ByteRange::new(0, 300 * KIB));
    run.read(128 * KIB, 128 * KIB);
    run.read(256 * KIB, 44 * KIB);
    assert_eq!(run.fetches.len(), 1);
}

#[test]
fn sequential_reads_fetch_every_byte_once_and_in_order() {
    let mut run = Run::new(200 * MIB + 7);
    for offset in (0..200 * MIB + 7).step_by(128 << 10) {
        run.read(offset, (200 * MIB + 7 - offset).min(128 * KIB));
    }
    let mut end = 0;
    for fetch in &run.fetches {
        assert_eq!(fetch.range.start(), end);
        end = fetch.range.end();
    }
    assert_eq!(end, 200 * MIB + 7);
}

#[test]
fn the_window_opens_within_the_first_mebibytes() {
    let mut run = Run::new(4096 * MIB);
    let mut ahead_after = |read_bytes: u64, from: u64| {
        for offset in (from..read_bytes).step_by(128 << 10) {
            run.read(offset, 128 * KIB);
        }
        run.fetched_bytes() - read_bytes
    };
    assert!(ahead_after(MIB, 0) >= 7 * MIB);
    assert!(ahead_after(8 * MIB, MIB) >= 24 * MIB);
    // A reader that waits gets all connections busy with the largest GETs.
    assert!(ahead_after(128 * MIB, 8 * MIB) >= 16 * PART);
}

#[test]
fn a_reader_that_never_waits_keeps_a_modest_window() {
    let mut run = Run::new(4096 * MIB);
    run.stalls = false;
    for offset in (0..256 * MIB).step_by(128 << 10) {
        run.read(offset, 128 * KIB);
        assert!(run.fetched_bytes() <= offset + 128 * KIB + WINDOW_BYTES_FAR + MIB);
    }
}

#[test]
fn a_larger_window_that_does_not_pay_is_given_back() {
    let mut run = Run::new(4096 * MIB);
    run.limits.window_bytes_max = 1024 * MIB;
    run.rate = |window, _| window.min(128 * MIB);
    let mut larger = 0;
    for offset in (0..2048 * MIB).step_by(128 << 10) {
        run.read(offset, 128 * KIB);
        larger += u64::from(run.window.streams[0].window > 128 * MIB) * 128 * KIB;
    }
    // 128 MiB made it faster, more did not; every half gibibyte that is looked at again, for one window.
    assert!(larger > 0 && larger <= 3 * 256 * MIB, "{} MiB", larger / MIB);
    let tried = run.fetches.iter().filter(|fetch| fetch.range.len() > 64 * MIB).count();
    assert!((1..=8).contains(&tried), "{tried}");
}

#[test]
fn a_near_store_is_asked_for_few_long_ranges() {
    let mut run = Run::new(4096 * MIB);
    run.limits.store_is_near = true;
    run.rate = |_, _| 1 << 30;
    for offset in (0..512 * MIB).step_by(128 << 10) {
        run.read(offset, 128 * KIB);
    }
    let gets: u64 = run.fetches.iter().map(|f| f.range.len().div_ceil(f.fetch_bytes)).sum();
    assert!(gets <= 512 / 8 + 16, "{gets}");
    assert!(run.fetched_bytes() <= (512 + 16) * MIB, "{} MiB", run.fetched_bytes() / MIB);
}

#[test]
fn a_near_store_that_limits_connections_is_asked_over_more() {
    let mut run = Run::new(4096 * MIB);
    run.limits.store_is_near = true;
    run.rate = |_, fetches| fetches.min(8) * (64 << 20);
    for offset in (0..512 * MIB).step_by(128 << 10) {
        run.read(offset, 128 * KIB);
    }
    assert_eq!(run.fetches.last().unwrap().fetch_bytes, 2 * MIB);
    assert!(run.fetched_bytes() <= (512 + 16) * MIB, "{} MiB", run.fetched_bytes() / MIB);
}

#[test]
fn random_reads_fetch_what_is_asked() {
    let mut run = Run::new(1 << 40);
    for n in 1..500u64 {
        let offset = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 40);
        let fetch = run.read(offset, 4 * KIB);
        assert!(fetch.range.contains(&ByteRange::at(offset, 4 * KIB)));
        assert!(fetch.range.len() <= 8 * KIB, "{fetch:?}");
        assert!(!fetch.is_ahead);
    }
}

#[test]
fn strides_stop_the_readahead_soon() {
    let mut run = Run::new(1 << 40);
    for offset in (0..64 * MIB).step_by(128 << 10) {
        run.read(offset, 128 * KIB);
    }
    let before = run.fetched_bytes();
    for n in 0..1000 {
        run.read(64 * MIB + n * MIB, 4 * KIB);
    }
    let wasted = run.fetched_bytes() - before;
    assert!(wasted <= 18 * PART + 1000 * 8 * KIB, "{} MiB", wasted / MIB);
    // From the start of a file, too.
    let mut run = Run::new(1 << 40);
    for n in 0..1000 {
        run.read(n * 64 * KIB, 4 * KIB);
    }
    assert!(run.fetched_bytes() <= 3 * MIB + 1000 * 8 * KIB);
}

#[test]
fn a_parquet_reader_does_not_pull_whole_parts() {
    const LEN: u64 = 1 << 30;
    let mut run = Run::new(LEN);
    run.read(LEN - 8, 8);
    run.read(LEN - 64 * KIB, 64 * KIB);
    let mut asked = 64 * KIB;
    for chunk in 0..20 {
        let start = chunk * 50 * MIB + 12_345;
        for offset in (0..MIB).step_by(128 << 10) {
            run.read(start + offset, 128 * KIB);
        }
        asked += MIB;
    }
    assert!(run.fetched_bytes() <= 4 * asked, "{} MiB", run.fetched_bytes() / MIB);
}

#[test]
fn swapped_and_repeated_reads_stay_one_stream() {
    let mut run = Run::new(1 << 30);
    let mut offset = 0;
    while offset < 64 * MIB {
        for step in [1, 0, 1, 2, 4, 3] {
            run.read(offset + step * 128 * KIB, 128 * KIB);
        }
        offset += 5 * 128 * KIB;
    }
    assert_eq!(run.window.streams.len(), 1);
    assert!(run.fetched_bytes() >= 64 * MIB + 4 * PART);
}

#[test]
fn eight_interleaved_streams_all_read_ahead_within_one_share() {
    let mut run = Run::new(1 << 40);
    for step in 0..256 {
        for stream in 0..8u64 {
            run.read(stream * (1 << 35) + step * 128 * KIB, 128 * KIB);
        }
    }
    let asked = 8 * 256 * 128 * KIB;
    let ahead = run.fetched_bytes() - asked;
    // Each had the window to itself while the others had not begun.
    assert!(ahead >= 8 * 8 * MIB, "{} MiB", ahead / MIB);
    assert!(ahead <= 3 * run.limits.window_bytes_max, "{} MiB", ahead / MIB);
}

#[test]
fn reading_backwards_fetches_nothing_ahead() {
    let mut run = Run::new(1 << 30);
    for n in 1..500 {
        run.read((1 << 30) - n * 64 * KIB, 64 * KIB);
    }
    assert!(run.fetched_bytes() <= 500 * 64 * KIB);
}

#[test]
fn a_share_of_nothing_leaves_exact_reads() {
    let mut run = Run::new(1 << 30);
    run.limits.window_bytes_max = 0;
    for offset in (0..MIB).step_by(4096) {
        let fetch = run.read(offset, 4096);
        assert_eq!(fetch.range, ByteRange::at(offset, 4096));
    }
}

#[test]
fn after_memory_ran_out_the_fetch_is_asked_for_again() {
    let mut run = Run::new(1 << 30);
    let fetch = run.read(0, 128 * KIB);
    run.window.fell_short(fetch.range.end(), 128 * KIB);
    let again = run.read(128 * KIB, 128 * KIB);
    assert_eq!(again.range.start(), 128 * KIB);
    assert!(again.is_ahead);
}

proptest! {
    /// Whatever is read: no fetch leaves the object, reaches further ahead than allowed, or asks for GETs
    /// above the limit; and what a read needs is fetched or was reached for before.
    #[test]
    fn fetches_keep_to_the_limits(
        object_len in 1u64..(1 << 32),
        window_bytes_max in 0u64..(256 << 20),
        reads in prop::collection::vec((any::<u64>(), 0u8..4, 1u64..(1 << 20), any::<bool>()), 1..200),
    ) {
        let store_is_near = object_len % 2 == 0;
        let limits = Limits { object_len, window_bytes_max, fetch_bytes_max: PART, store_is_near };
        let mut now = Duration::ZERO;
        let mut window = Window::default();
        let mut front = 0;
        for (place, kind, len, stalled) in reads {
            let offset = match kind {
                0 => place % object_len,
                1 => front,
                2 => front + place % (4 * MIB),
                _ => front.saturating_sub(place % (4 * MIB)),
            } % object_len;
            let read = ByteRange::at(offset, len).intersect(&ByteRange::new(0, object_len));
            front = read.end();
            now += Duration::from_micros(place % 1000);
            let fetch = window.on_read(read, stalled, now, &limits);
            prop_assert!(fetch.fetch_bytes <= PART);
            prop_assert!(window.streams.len() <= STREAMS_MAX);
            if fetch.range.is_empty() {
                continue;
            }
            prop_assert!(fetch.range.end() <= object_len);
            prop_assert!(
                fetch.range.end() <= read.end() + window_bytes_max + PAGE_BYTES,
                "{fetch:?} for {read:?}"
            );
            prop_assert!(window.reaches(fetch.range));
        }
    }
}
