//! Readers and stores that stall: what a stalled request costs, and what a reader that goes away leaves under way.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, noise, wait_until};

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
    let gets = |bench: &Bench| bench.requests(Operation::GetObject);
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

#[test]
fn what_a_killed_reader_waited_for_is_not_fetched_on_and_on() {
    // Slow, so that much is left when it is killed.
    const PACE: u64 = 2 << 20;
    let content = noise(96 * MIB, 2);
    let mut bench = Bench::start(&[]);
    for direct in [false, true] {
        let name = format!("direct-{direct}");
        std::fs::write(bench.at(&name), &content).unwrap();
        bench.unmount();
        std::fs::remove_dir_all(bench.cache_dir()).unwrap();
        bench.mount();
        bench.store.faults.set(vec![Rule::new(Fault::Bandwidth(PACE)).on(Operation::GetObject)]);
        let before = bench.store.counters().bytes_out_of(Operation::GetObject) as usize;
        let mut reader = Command::new("dd");
        reader
            .args(["bs=1M", "of=/dev/null", "status=none"])
            .args(direct.then_some("iflag=direct"));
        let mut reader = reader.arg(format!("if={}", bench.at(&name).display())).spawn().unwrap();
        let sent = || bench.store.counters().bytes_out_of(Operation::GetObject) as usize - before;
        wait_until("well under way", || sent() > 12 * MIB);
        reader.kill().unwrap();
        let at_the_kill = sent();
        reader.wait().unwrap();
        // Until nothing comes any more.
        let mut last = at_the_kill;
        loop {
            std::thread::sleep(Duration::from_millis(700));
            let now = sent();
            if now == last {
                break;
            }
            last = now;
        }
        let left = last - at_the_kill;
        println!("direct {direct}: {} KiB after the kill", left >> 10);
        // What the kernel has asked for on its behalf is waited for, and the window behind that.
        let most = 16 * MIB;
        assert!(left <= most && last < content.len() * 3 / 4, "{left} bytes after the kill");
        bench.store.faults.clear();
    }
}
