//! How reads meet the store: how many requests, how many bytes, how fast behind a slow store, and in how
//! much memory. Real mounts; the embedded store delays, paces and counts.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, noise, sh};

const MIB: usize = 1 << 20;

/// Far enough away that the time between two requests does not matter.
const FIRST_BYTE: Duration = Duration::from_millis(25);

/// A store with `name` in it, mounted with nothing of it cached.
fn cold(options: &[&str], files: &[(&str, &[u8])]) -> Bench {
    let mut bench = Bench::start(options);
    for (name, content) in files {
        std::fs::write(bench.at(name), content).unwrap();
    }
    bench.unmount();
    std::fs::remove_dir_all(bench.cache_dir()).unwrap();
    bench.mount();
    bench
}

fn read_all(bench: &Bench, name: &str) -> Vec<u8> {
    std::fs::read(bench.at(name)).unwrap()
}

/// Resident memory of the mount at its peak, in MiB.
fn peak_mib(bench: &Bench) -> u64 {
    let pid = bench.status().unwrap().process.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn one_stream_is_worth_eight_connections() {
    // Slower than a real connection, so that the pace decides on any machine, and not its processor.
    const PACE: u64 = 6 << 20;
    let content = noise(256 * MIB, 1);
    let bench = cold(&[], &[("large", &content)]);
    bench
        .store
        .faults
        .set(vec![Rule::new(Fault::Latency(FIRST_BYTE)), Rule::new(Fault::Bandwidth(PACE))]);
    let begun = Instant::now();
    assert!(read_all(&bench, "large") == content);
    let connections = content.len() as f64 / begun.elapsed().as_secs_f64() / PACE as f64;
    println!("{connections:.1} connections' worth");
    assert!(connections >= 8.0, "{connections:.1} connections' worth");
}

#[test]
fn a_file_of_64_mib_is_read_in_less_than_eight_round_trips() {
    // Long, so that what the machine takes for the transfer is small beside it.
    const ROUND_TRIP: Duration = Duration::from_millis(400);
    let content = noise(64 * MIB, 2);
    let mut bench = cold(&[], &[("far", &content)]);
    let begun = Instant::now();
    assert!(read_all(&bench, "far") == content);
    let transfer = begun.elapsed();
    bench.unmount();
    std::fs::remove_dir_all(bench.cache_dir()).unwrap();
    bench.mount();
    bench.store.faults.set(vec![Rule::new(Fault::Latency(ROUND_TRIP)).on(Operation::GetObject)]);
    let begun = Instant::now();
    assert!(read_all(&bench, "far") == content);
    let round_trips =
        begun.elapsed().saturating_sub(transfer).as_secs_f64() / ROUND_TRIP.as_secs_f64();
    println!("{round_trips:.1} round trips");
    assert!(round_trips < 8.0, "{round_trips:.1} round trips besides {transfer:?}");
}

#[test]
fn reads_fetch_what_they_ask_for_once() {
    let content = noise(64 * MIB, 3);
    let small = noise(100_000, 4);
    let bench = cold(
        &["--metadata-ttl", "60s"],
        &[
            ("random", &content),
            ("strided", &content),
            ("columns", &content),
            ("small", &small),
            ("shared", &content),
        ],
    );
    // What is told by a listing and the first HEADs is known from here on.
    sh(&bench.mount_point(), "ls -l");
    let gets = || bench.requests(Operation::GetObject);
    let total = || bench.store.counters().requests_total();
    let bytes = || bench.store.counters().bytes_out_of(Operation::GetObject);

    let before = total();
    let mut first = [0; 4096];
    File::open(bench.at("small")).unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, small[..4096]);
    assert_eq!(total() - before, 1, "the first 4 KiB are one request");

    // Sixteen readers of one file fetch it once.
    let bytes_before = bytes();
    sh(&bench.mount_point(), "for n in $(seq 16); do cat shared > /dev/null & done; wait");
    let fetched = bytes() - bytes_before;
    assert_eq!(fetched, content.len() as u64);

    // At random places: one request each, nothing besides, in parallel.
    let (gets_before, bytes_before) = (gets(), bytes());
    let file = File::open(bench.at("random")).unwrap();
    const READS: u64 = 160;
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (file, content) = (&file, &content);
            scope.spawn(move || {
                for n in 0..READS / 16 {
                    // Spread over the file, far apart from each other, in no order.
                    let at = ((thread * 10 + n) * 7919 % READS * 100 + 3) * 4096;
                    let mut page = [0; 4096];
                    file.read_exact_at(&mut page, at).unwrap();
                    assert!(page == content[at as usize..][..4096]);
                }
            });
        }
    });
    assert_eq!(gets() - gets_before, READS);
    assert!(bytes() - bytes_before <= READS * 4096 * 11 / 10, "{}", bytes() - bytes_before);

    // A scan that reads 16 KiB of each mebibyte does not fetch all of it.
    let bytes_before = bytes();
    let file = File::open(bench.at("strided")).unwrap();
    let mut piece = vec![0; 16 << 10];
    for n in 1..60 {
        file.read_exact_at(&mut piece, n * MIB as u64).unwrap();
        assert!(piece == content[n as usize * MIB..][..piece.len()]);
    }
    let fetched = bytes() - bytes_before;
    assert!(fetched < 59 * (64 << 10), "{fetched} bytes for {}", 59 * piece.len());

    // A footer, then two column chunks of 2 MiB: no more than as much again, and the kernel's own read-ahead.
    let bytes_before = bytes();
    let file = File::open(bench.at("columns")).unwrap();
    let footer = content.len() - piece.len();
    file.read_exact_at(&mut piece, footer as u64).unwrap();
    for column in [9 * MIB, 40 * MIB] {
        for step in 0..16 {
            let mut piece = vec![0; 128 << 10];
            let at = column + step * piece.len();
            file.read_exact_at(&mut piece, at as u64).unwrap();
        }
    }
    let fetched = bytes() - bytes_before;
    println!("{fetched} bytes for two columns of 2 MiB");
    assert!(fetched < 13 * MIB as u64, "{fetched} bytes for two columns of 2 MiB");
}

#[test]
fn a_large_cold_file_can_be_read_in_any_pieces_and_mapped() {
    let content = noise(24 * MIB, 7);
    let bench = cold(&[], &[("large", &content)]);
    let file = File::open(bench.at("large")).unwrap();
    // Enough small pieces to be taken for a program that reads so; its next open goes through the page cache.
    let mut piece = [0; 4096];
    for at in (0..2 * MIB).step_by(piece.len()) {
        file.read_exact_at(&mut piece, at as u64).unwrap();
        assert!(piece == content[at..at + piece.len()]);
    }
    for flags in [libc::MAP_SHARED, libc::MAP_PRIVATE] {
        assert!(mapped(&file, content.len(), flags) == content);
    }
    let again = File::open(bench.at("large")).unwrap();
    assert!(mapped(&again, content.len(), libc::MAP_SHARED) == content);
    // What this mount writes is seen by both ways in.
    let patched = noise(MIB, 8);
    let writer = File::options().write(true).open(bench.at("large")).unwrap();
    writer.write_all_at(&patched, 5 * MIB as u64).unwrap();
    drop(writer);
    let now = read_all(&bench, "large");
    assert!(now[5 * MIB..6 * MIB] == patched);
    assert!(now[..5 * MIB] == content[..5 * MIB] && now[6 * MIB..] == content[6 * MIB..]);
    let reopened = File::open(bench.at("large")).unwrap();
    assert!(mapped(&reopened, now.len(), libc::MAP_PRIVATE) == now);
}

/// The file's first `len` bytes as a mapping shows them.
fn mapped(file: &File, len: usize, flags: libc::c_int) -> Vec<u8> {
    // SAFETY: a mapping of this test's own file inside its length, copied and unmapped before anybody changes
    // the file.
    unsafe {
        let map =
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, file.as_raw_fd(), 0);
        assert!(map != libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let bytes = std::slice::from_raw_parts(map.cast::<u8>(), len).to_vec();
        libc::munmap(map, len);
        bytes
    }
}

#[test]
fn a_hundred_streams_stay_within_their_memory() {
    // (--memory in MiB, MiB a file)
    for (memory, len) in [(128u64, 4), (32, 2)] {
        let content = noise(len * MIB, 5);
        let names: Vec<String> = (0..100).map(|n| format!("stream{n}")).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().map(|name| (name.as_str(), &content[..])).collect();
        let bench = cold(&["--memory", &format!("{memory}MiB")], &files);
        std::thread::scope(|scope| {
            for name in &names {
                let (bench, content) = (&bench, &content);
                scope.spawn(move || {
                    let mut file = File::open(bench.at(name)).unwrap();
                    let mut piece = vec![0; 128 << 10];
                    for at in (0..content.len()).step_by(piece.len()) {
                        file.read_exact(&mut piece).unwrap();
                        assert!(piece == content[at..at + piece.len()]);
                    }
                });
            }
            // Writers beside them get on too.
            for n in 0..8 {
                let (bench, content) = (&bench, &content);
                scope.spawn(move || std::fs::write(bench.at(&format!("written{n}")), content));
            }
        });
        let peak = peak_mib(&bench);
        println!("{peak} MiB at --memory {memory}MiB");
        assert!(peak <= memory + 64, "{peak} MiB at --memory {memory}MiB");
    }
}

#[test]
fn faults_on_the_way_cost_only_what_they_hit() {
    let content = noise(32 * MIB, 6);
    let mut bench = cold(&["--timeout", "2s"], &[("file", &content), ("absent", &content)]);
    let get = |fault| Rule::new(fault).on(Operation::GetObject).key_contains("file");
    // Connections that break in mid-body, one that stalls, and a store that says slow down.
    bench.store.faults.set(vec![
        get(Fault::ResetBodyAfter(300_000)).times(6),
        get(Fault::Stall).skip(6).times(1),
        get(Fault::slow_down()).skip(8).times(2),
    ]);
    let before = bench.bytes_out();
    assert!(read_all(&bench, "file") == content);
    let fetched = bench.bytes_out() - before;
    // What was in the socket when the connection broke is sent again, nothing else.
    assert!(fetched < content.len() as u64 * 12 / 10, "{fetched} bytes");

    // The store is gone: what is on the disk can be read, the rest fails soon.
    bench.unmount();
    bench.mount();
    sh(&bench.mount_point(), "ls -l; exec 3< file");
    bench.store.faults.clear();
    let open = File::open(bench.at("file")).unwrap();
    let absent = File::open(bench.at("absent")).unwrap();
    bench.store.faults.set_outage(true);
    let mut page = vec![0; 4096];
    open.read_exact_at(&mut page, 20 * MIB as u64).unwrap();
    assert!(page == content[20 * MIB..][..4096]);
    let begun = Instant::now();
    let error = absent.read_exact_at(&mut page, 20 * MIB as u64).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    bench.store.faults.set_outage(false);
}
