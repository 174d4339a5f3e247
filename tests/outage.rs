//! A mount whose network goes away: how long each call takes to fail, what still works, and that it comes back.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Rule};
use support::close;
use support::mount::{Bench, Mount, noise, sh, wait_until};
use support::proxy::{Network, Proxy};

const MIB: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(2);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_secs(2);

/// A store, the network before it, and a mount through that.
fn far_away(options: &[&str]) -> (Bench, Proxy, Mount) {
    let bench = Bench::unmounted(&[]);
    let proxy = Proxy::start(&bench.store.endpoint());
    let options = [&["--timeout", "2s"], options].concat();
    let mut mount = Mount::new(&proxy.endpoint(), "s3://test-bucket", &options);
    mount.mount();
    (bench, proxy, mount)
}

/// How long it takes to fail.
fn failing<T>(outcome: impl FnOnce() -> std::io::Result<T>) -> Duration {
    let begun = Instant::now();
    let error = outcome().err().expect("an error");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    begun.elapsed()
}

#[test]
fn without_the_network_all_fails_soon_and_comes_back() {
    let (_bench, proxy, mut mount) = far_away(&["--metadata-ttl", "60s"]);
    let content = noise(4 * MIB, 1);
    std::fs::create_dir(mount.at("d")).unwrap();
    for name in ["d/cached", "d/absent"] {
        std::fs::write(mount.at(name), &content).unwrap();
    }
    mount.unmount();
    std::fs::remove_dir_all(mount.cache_dir()).unwrap();
    mount.mount();
    assert!(std::fs::read(mount.at("d/cached")).unwrap() == content);
    sh(&mount.mount_point(), "ls -l d");
    for (network, at) in [(Network::Refused, 0), (Network::Silent, 1), (Network::BlackHole, 2)] {
        let at = at * MIB as u64;
        proxy.set(network);
        // Within the TTL: what is on the disk can be read, the rest fails when its time is up.
        assert!(std::fs::read(mount.at("d/cached")).unwrap() == content, "{network:?}");
        assert_eq!(sh(&mount.mount_point(), "ls d"), "absent\ncached\n");
        let absent = File::open(mount.at("d/absent")).unwrap();
        let first = failing(|| absent.read_exact_at(&mut [0; 100], at));
        let unknown = failing(|| std::fs::metadata(mount.at("unknown")));
        println!("{network:?}: first {first:?}, unknown {unknown:?}");
        assert!(first < TIMEOUT * 2 + SLACK, "{network:?}: {first:?}");
        mount.wait_for("offline", |status| status.store.offline);
        // From then on at once, but for the one that tries now and then.
        let begun = Instant::now();
        for n in 0..20 {
            failing(|| std::fs::metadata(mount.at(&format!("unknown{n}"))));
        }
        println!("{network:?}: 20 more in {:?}", begun.elapsed());
        assert!(begun.elapsed() < TIMEOUT + SLACK, "{network:?}: {:?}", begun.elapsed());

        proxy.set(Network::Up);
        let begun = Instant::now();
        wait_until("back", || absent.read_exact_at(&mut [0; 100], at).is_ok());
        println!("{network:?}: back after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10) + SLACK, "{:?}", begun.elapsed());
        assert!(!mount.status().unwrap().store.offline);
    }
}

/// Longer than eight attempts ever took.
const LONG: Duration = Duration::from_secs(30);

/// What programs make of a network that goes away in the middle of their work, by default settings: nothing.
fn an_outage_is_waited_out(network: Network) {
    let bench = Bench::unmounted(&[]);
    // Slow enough that none is done before.
    bench.store.faults.set(vec![Rule::new(Fault::Latency(Duration::from_millis(400)))]);
    let proxy = Proxy::start(&bench.store.endpoint());
    let mut mount = Mount::new(&proxy.endpoint(), "s3://test-bucket", &["--concurrency", "2"]);
    mount.mount();
    let content = noise(24 * MIB, 1);
    std::fs::write(mount.at("there"), &content).unwrap();
    mount.unmount();
    std::fs::remove_dir_all(mount.cache_dir()).unwrap();
    mount.mount();
    std::fs::write(mount.local("from"), &content).unwrap();
    std::fs::create_dir(mount.local("tree")).unwrap();
    for name in ["a", "b", "c", "d"] {
        std::fs::write(mount.local(&format!("tree/{name}")), name).unwrap();
    }
    let run = |command: String| {
        let begun = Command::new("sh").arg("-c").arg(command).current_dir(mount.dir.path()).spawn();
        begun.unwrap()
    };
    let mut programs = [
        run("cp from mnt/to".to_owned()),
        run("rsync -r tree/ mnt/tree/".to_owned()),
        run("cmp from mnt/there".to_owned()),
    ];
    std::thread::sleep(Duration::from_millis(600));
    proxy.set(network);
    std::thread::sleep(LONG);
    for program in &mut programs {
        assert!(program.try_wait().unwrap().is_none(), "{network:?}: one is done too early");
    }
    mount.wait_for("offline", |status| status.store.offline);
    proxy.set(Network::Up);
    for program in &mut programs {
        assert!(program.wait().unwrap().success(), "{network:?}: {}", mount.log());
    }
    assert!(std::fs::read(mount.at("to")).unwrap() == content, "{network:?}");
    sh(mount.dir.path(), "diff -r tree mnt/tree");
}

#[test]
fn refused_connections_are_waited_out() {
    an_outage_is_waited_out(Network::Refused);
}

#[test]
fn silence_is_waited_out() {
    an_outage_is_waited_out(Network::Silent);
}

#[test]
fn a_store_that_says_503_for_long_is_waited_out() {
    let bench = Bench::start(&[]);
    let content = noise(12 * MIB, 1);
    std::fs::write(bench.at("there"), &content).unwrap();
    sh(&bench.cache_dir(), "rm -rf */objects/*/*");
    bench.store.faults.set(vec![Rule::new(Fault::slow_down())]);
    std::thread::scope(|scope| {
        let written = scope.spawn(|| std::fs::write(bench.at("new"), &content));
        let read = scope.spawn(|| std::fs::read(bench.at("there")));
        std::thread::sleep(LONG);
        assert!(!written.is_finished() && !read.is_finished());
        bench.store.faults.clear();
        written.join().unwrap().unwrap();
        assert!(read.join().unwrap().unwrap() == content);
    });
    assert!(std::fs::read(bench.at("new")).unwrap() == content);
}

#[test]
fn no_operation_waits_for_good() {
    let (_bench, proxy, mut mount) = far_away(&["--metadata-ttl", "60s"]);
    let content = noise(4 * MIB, 1);
    std::fs::write(mount.at("file"), &content).unwrap();
    mount.remount();
    sh(&mount.mount_point(), "ls -l");
    proxy.set(Network::Silent);

    // Killed in the middle of a read: gone when the read's time is up.
    let mut reader = Command::new("dd")
        .args(["iflag=direct", "of=/dev/null", "status=none"])
        .arg(format!("if={}", mount.at("file").display()))
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    reader.kill().unwrap();
    reader.wait().unwrap();
    println!("a killed reader is gone after {:?}", begun.elapsed());
    assert!(begun.elapsed() < TIMEOUT + SLACK, "{:?}", begun.elapsed());

    // Each of these meets the store, at first with all its patience.
    let copy = noise(40 * MIB, 2);
    let operations: [(&str, &dyn Fn() -> std::io::Result<()>); 5] = [
        // Where the writes outrun the first answer that does not come, close(2) tells.
        ("write and close", &|| {
            let mut file = File::create(mount.at("new"))?;
            file.write_all(&copy)?;
            close(file).map_err(std::io::Error::from_raw_os_error)
        }),
        ("mkdir", &|| std::fs::create_dir(mount.at("dir"))),
        ("rename", &|| std::fs::rename(mount.at("file"), mount.at("other"))),
        ("unlink", &|| std::fs::remove_file(mount.at("file"))),
        ("symlink", &|| std::os::unix::fs::symlink("file", mount.at("link"))),
    ];
    for (name, operation) in operations {
        let took = failing(operation);
        println!("{name}: {took:?}");
        assert!(took < TIMEOUT * 3 + SLACK, "{name}: {took:?}");
    }
    // Locks are the kernel's own: a program that waits for one can be killed.
    sh(
        &mount.mount_point(),
        "flock file sleep 1.5 & sleep 0.2; timeout -s KILL 0.5 flock file true || true",
    );
}

#[test]
fn under_write_back_work_goes_on_in_a_known_directory() {
    let (_bench, proxy, mut mount) = far_away(&["--write-back", "--metadata-ttl", "100ms"]);
    std::fs::create_dir(mount.at("d")).unwrap();
    std::fs::write(mount.at("d/old"), b"old").unwrap();
    mount.drained();
    sh(&mount.mount_point(), "ls d");
    proxy.set(Network::Refused);
    std::thread::sleep(Duration::from_millis(200));
    let content = noise(6 * MIB, 2);
    std::fs::write(mount.at("d/new"), &content).unwrap();
    assert!(std::fs::read(mount.at("d/new")).unwrap() == content);
    let made = "umask 027 && mkdir -p d/made/below && echo in > d/made/below/file && mkdir d/empty";
    sh(&mount.mount_point(), made);
    let seen = "test $(stat -c %a d/empty) = 750 && test $(cat d/made/below/file) = in";
    sh(&mount.mount_point(), seen);
    // What a file holds now is not known, nor what is in a directory that was never listed.
    failing(|| std::fs::read(mount.at("d/old")));
    // Not lost by a crash in the middle of it.
    mount.kill();
    proxy.set(Network::Up);
    mount.mount();
    sh(&mount.mount_point(), seen);
    mount.drained();
    assert!(std::fs::read(mount.at("d/new")).unwrap() == content);
    assert_eq!(std::fs::read(mount.at("d/old")).unwrap(), b"old");
    // In the bucket, too, whichever mount looks.
    mount.unmount();
    std::fs::remove_dir_all(mount.cache_dir()).unwrap();
    mount.mount();
    sh(&mount.mount_point(), seen);
}

#[test]
fn directories_emptied_or_made_in_an_outage_are_there_after_it() {
    let (bench, proxy, mut mount) = far_away(&["--write-back", "--metadata-ttl", "1h"]);
    bench.bucket.put("implicit/only", "content");
    sh(&mount.mount_point(), "ls -l . implicit");
    proxy.set(Network::Refused);
    sh(&mount.mount_point(), "rm implicit/only && test -d implicit && mkdir made");
    // By the same mount, as soon as the store is back.
    proxy.set(Network::Up);
    let markers = || {
        let keys = bench.bucket.keys();
        let has = |key: &str| keys.iter().any(|found| found == key);
        has("implicit/") && has("made/") && !has("implicit/only")
    };
    wait_until("the markers are there, and the file is gone", markers);
    mount.unmount();
}
