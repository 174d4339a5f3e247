//! A store that answers at once but for some requests, which stall: what that costs a reader.

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, noise};

const MIB: usize = 1 << 20;

/// 25 ms to the first byte, and for one GET in 50 another 2 s.
fn stall_some(bench: &Bench) {
    let get = |fault| Rule::new(fault).on(Operation::GetObject);
    bench.store.faults.set(vec![
        get(Fault::Latency(Duration::from_millis(25))),
        get(Fault::Latency(Duration::from_secs(2))).probability(0.02),
    ]);
}

#[test]
fn a_get_that_stalls_is_asked_again() {
    let content = noise(64 * MIB, 1);
    let mut bench = Bench::start(&["--cache-size", "0", "--memory", "64MiB"]);
    std::fs::write(bench.at("stream"), &content).unwrap();
    bench.remount();
    stall_some(&bench);
    let gets = |bench: &Bench| bench.store.counters().requests(Operation::GetObject);
    let sent = |bench: &Bench| bench.store.counters().bytes_out_of(Operation::GetObject);

    // At random places, 16 at a time: none of them has anything to do with another.
    const READS: usize = 1000;
    let file = File::open(bench.at("stream")).unwrap();
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..16)
            .map(|thread| {
                let (file, content) = (&file, &content);
                scope.spawn(move || {
                    let read = |n: usize| {
                        let at = (thread * 7919 + n * 104_729) % (content.len() / 4096) * 4096;
                        let mut page = [0; 4096];
                        let begun = Instant::now();
                        file.read_exact_at(&mut page, at as u64).unwrap();
                        assert!(page == content[at..][..4096]);
                        begun.elapsed()
                    };
                    (0..READS / 16).map(read).collect::<Vec<_>>()
                })
            })
            .collect();
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    });
    drop(file);
    took.sort();
    let random = (gets(&bench), sent(&bench));
    let at = |share: f64| took[(took.len() as f64 * share) as usize];
    println!(
        "random: p50 {:.0?} p95 {:.0?} p99 {:.0?} p99.9 {:.0?}; {} GETs, {} KiB",
        at(0.5),
        at(0.95),
        at(0.99),
        at(0.999),
        random.0,
        random.1 >> 10
    );
    // One in fifty would take 2 s. As many are asked twice, and nothing is sent twice (some reads lie side by side and
    // fetch ahead).
    assert!(at(0.99) < Duration::from_secs(1), "{:?}", at(0.99));
    let hedges = bench.status().unwrap().store.hedges;
    assert!((5..=READS as u64 / 20).contains(&hedges), "{hedges} were asked twice");
    assert!(random.1 <= READS as u64 * 4096 * 13 / 10, "{} bytes", random.1);

    let mut stream = Duration::ZERO;
    for _ in 0..2 {
        // Nothing of it is in the kernel's cache then.
        bench.remount();
        let begun = Instant::now();
        assert!(std::fs::read(bench.at("stream")).unwrap() == content);
        stream += begun.elapsed();
    }
    println!(
        "stream: {:.0} MiB/s; {} GETs, {} MiB for {}",
        2.0 * content.len() as f64 / MIB as f64 / stream.as_secs_f64(),
        gets(&bench) - random.0,
        (sent(&bench) - random.1) >> 20,
        (2 * content.len()) >> 20
    );
    assert!(sent(&bench) - random.1 <= 2 * content.len() as u64 * 11 / 10);
}
