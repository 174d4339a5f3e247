//! A mount whose store is away, or asks for less: what works on, what is said of it, and that it is exact again after it.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, Mount, is_mounted, noise, refusal, sh, wait_until};
use support::proxy::{Network, Proxy};
use support::text;

const MIB: usize = 1 << 20;
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_secs(2);

/// A store, the network before it, and what is to be a mount through that.
fn far_away(options: &[&str]) -> (Bench, Proxy, Mount) {
    let bench = Bench::unmounted(&[]);
    let proxy = Proxy::start(&bench.store.endpoint());
    let mount = Mount::new(&proxy.endpoint(), "s3://test-bucket", options);
    (bench, proxy, mount)
}

/// `ratchetfs mount`, which goes to the background; and the first line that it says.
fn mounting(mount: &Mount, options: &[&str]) -> (Child, String) {
    let mut command = mount.program();
    command.args(["mount", "s3://test-bucket"]).arg(mount.mount_point());
    command.args(mount.store_options()).args(options).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

/// The processes that a process has started, and that are still there.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind = stat.rsplit(") ").next().unwrap_or_default();
        behind.split(' ').nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}

#[test]
fn a_mount_waits_for_a_store_that_comes_up() {
    let (_bench, proxy, mount) = far_away(&[]);
    proxy.set(Network::Refused);
    let (mut command, said) = mounting(&mount, &["--mount-timeout", "60s"]);
    assert!(said.contains("waiting for up to 1m") && said.contains("refused"), "{said}");
    assert!(command.try_wait().unwrap().is_none());
    proxy.set(Network::Up);
    assert!(command.wait().unwrap().success());
    assert!(is_mounted(&mount.mount_point()));
    sh(&mount.mount_point(), "echo hello > file && grep -q hello file");
    let at = mount.mount_point().display().to_string();
    assert!(mount.run(&["umount", &at]).status.success());
    mount.wait_until_gone();
}

#[test]
fn a_mount_that_waits_ends_in_time_or_with_ctrl_c() {
    let (_bench, proxy, mount) = far_away(&[]);
    proxy.set(Network::Refused);
    let begun = Instant::now();
    let (command, said) = mounting(&mount, &["--mount-timeout", "2s"]);
    assert!(said.contains("waiting for up to 2s"), "{said}");
    let told = refusal(&command.wait_with_output().unwrap());
    assert!(told.contains("refused") && told.contains("--endpoint-url"), "{told}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(2) + SLACK, "{took:?}");

    for (network, options) in
        [(Network::Refused, &[][..]), (Network::Silent, &["--timeout", "4s"][..])]
    {
        proxy.set(network);
        let options = [&["--mount-timeout", "infinite"], options].concat();
        let (mut command, said) = mounting(&mount, &options);
        assert!(said.contains("yet, waiting (Ctrl-C ends it)"), "{said}");
        let behind = children_of(command.id());
        assert_eq!(behind.len(), 1);
        let begun = Instant::now();
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(command.id() as libc::pid_t, libc::SIGINT) };
        assert!(!command.wait().unwrap().success());
        wait_until("the background has ended", || {
            std::fs::read_to_string(format!("/proc/{}/stat", behind[0]))
                .map_or(true, |stat| stat.contains(") Z "))
        });
        assert!(begun.elapsed() < SLACK, "{network:?}: {:?}", begun.elapsed());
        assert!(!is_mounted(&mount.mount_point()));
        let left = sh(&mount.cache_dir(), "ls");
        assert_eq!(left, "ratchetfs.log\n", "no folder of the bucket");
    }
}

/// Files of 4 KiB that are written side by side, by so many programs.
fn write_small(mount: &Mount, programs: usize, each: usize) {
    let content = noise(4 << 10, 1);
    std::thread::scope(|scope| {
        for program in 0..programs {
            let content = &content;
            scope.spawn(move || {
                for n in 0..each {
                    std::fs::write(mount.at(&format!("{program}-{n}")), content).unwrap();
                }
            });
        }
    });
}

/// Requests of a mount that writes small files into a store which lets so many a second through; those of them that were
/// throttled, and how long it took.
fn throttled(without: &str) -> (u64, u64, Duration) {
    let mut bench = Bench::unmounted(&["--metadata-ttl", "1h"]);
    bench.mount.set_env("RATCHETFS_WITHOUT", without);
    bench.mount();
    sh(&bench.mount_point(), "ls");
    bench.store.faults.set(vec![Rule::new(Fault::slow_down()).beyond(50)]);
    let (begun, before) = (Instant::now(), bench.store.counters().requests_total());
    write_small(&bench, 32, 20);
    let (took, sent) = (begun.elapsed(), bench.store.counters().requests_total() - before);
    let refused = bench.store.faults.fired_total();
    println!("without {without:?}: {sent} requests, {refused} of them throttled, in {took:?}");
    (sent, refused, took)
}

#[test]
fn a_store_that_throttles_is_asked_little_in_vain() {
    let (_, refused_each, took_each) = throttled("hold-back");
    let (sent, refused, took) = throttled("");
    assert!(refused * 3 < sent && refused < refused_each, "{refused} of {sent} in vain");
    assert!(took < took_each * 2, "{took:?}, not {took_each:?}");
}

#[test]
fn a_store_that_asks_for_time_is_asked_nothing_meanwhile() {
    let bench = Bench::start(&["--metadata-ttl", "0"]);
    bench.bucket.put("other", "other");
    let busy = Rule::new(Fault::SlowDown(4)).on(Operation::PutObject).key_contains("told");
    bench.store.faults.set(vec![busy.times(1)]);
    let requests = || bench.store.counters().requests_total();
    std::thread::scope(|scope| {
        let told = scope.spawn(|| std::fs::write(bench.at("told"), b"new"));
        wait_until("one was told", || bench.store.faults.fired_total() == 1);
        let begun = Instant::now();
        let path = bench.at("other");
        let other = scope.spawn(move || std::fs::read(path).map(|_| begun.elapsed()));
        std::thread::sleep(Duration::from_secs(1));
        let asked = requests();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(requests(), asked, "asked for nothing by anyone");
        let waited = other.join().unwrap().unwrap();
        assert!(waited >= Duration::from_secs(3), "{waited:?}");
        told.join().unwrap().unwrap();
    });
    assert_eq!(std::fs::read(bench.at("told")).unwrap(), b"new");
}

#[test]
fn a_mount_that_waits_for_ever_can_be_taken_away() {
    let (_bench, proxy, mut mount) = far_away(&["--timeout", "infinite"]);
    mount.mount();
    proxy.set(Network::Silent);
    let at = mount.mount_point().display().to_string();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| std::fs::metadata(mount.at("name")));
        std::thread::sleep(Duration::from_secs(1));
        assert!(!asked.is_finished());
        let begun = Instant::now();
        let ended = mount.run(&["umount", "--now", &at]);
        assert!(ended.status.success(), "{}", text(&ended.stderr));
        assert!(asked.join().unwrap().is_err());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    });
    mount.gone();
}

/// `user.ratchetfs.stale`.
fn stale_since(path: &Path) -> Option<String> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = [0_u8; 64];
    // SAFETY: both strings end with a NUL, and `value` is as long as is said.
    let len = unsafe {
        let name = c"user.ratchetfs.stale".as_ptr();
        libc::getxattr(path.as_ptr(), name, value.as_mut_ptr().cast(), value.len())
    };
    usize::try_from(len).ok().map(|len| text(&value[..len]))
}

/// How long it takes to fail with EIO.
fn failing<T>(outcome: impl FnOnce() -> std::io::Result<T>) -> Duration {
    let begun = Instant::now();
    let error = outcome().err().expect("an error");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    begun.elapsed()
}

const TTL: Duration = Duration::from_millis(300);

/// Of a store with three files, of which one is cached, one only known, and one not even that.
fn stale(network: Network) {
    let options = ["--on-outage", "serve-stale", "--metadata-ttl", "300ms", "--timeout", "20s"];
    let (bench, proxy, mut mount) = far_away(&options);
    let (old, new) = (noise(4 * MIB, 1), noise(3 * MIB, 2));
    for key in ["d/cached", "d/known", "e/unseen"] {
        bench.bucket.put(key, old.clone());
    }
    mount.mount();
    let cached = mount.at("d/cached");
    assert!(std::fs::read(&cached).unwrap() == old);
    sh(&mount.mount_point(), "ls -l d .; ! test -e d/absent");
    assert_eq!(stale_since(&cached), None);
    let open = File::open(&cached).unwrap();
    proxy.set(network);
    std::thread::sleep(TTL);

    // The first one finds out.
    let begun = Instant::now();
    assert_eq!(std::fs::metadata(&cached).unwrap().len(), old.len() as u64);
    println!("{network:?}: served after {:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(std::fs::read(&cached).unwrap() == old, "{network:?}");
    assert_eq!(sh(&mount.mount_point(), "ls d"), "cached\nknown\n");
    sh(&mount.mount_point(), "ls -l d; test -d d; ! test -e d/absent");
    assert_eq!(std::fs::metadata(mount.at("d/known")).unwrap().len(), old.len() as u64);
    // What is not known is an error, and no wait.
    let known = File::open(mount.at("d/known")).unwrap();
    failing(|| known.read_exact_at(&mut [0; 100], 0));
    failing(|| std::fs::metadata(mount.at("e/unseen")));
    failing(|| std::fs::read_dir(mount.at("e")).and_then(|mut names| names.next().unwrap()));
    println!("{network:?}: all that in {:?}", begun.elapsed());
    assert!(begun.elapsed() < SLACK, "{network:?}: {:?}", begun.elapsed());

    // It says so.
    let since = stale_since(&cached).expect("stale");
    assert!(since.starts_with("20") && since.ends_with('Z'), "{since}");
    assert!(stale_since(&mount.at("d")).is_some() && stale_since(&mount.mount_point()).is_some());
    let at = mount.mount_point().display().to_string();
    let told = text(&mount.run(&["status", &at]).stdout);
    assert!(told.contains("UNREACHABLE for") && told.contains("STALE"), "{told}");
    assert!(mount.status().unwrap().store.stale);

    // What another machine does meanwhile.
    bench.bucket.put("d/cached", new.clone());
    bench.bucket.put("d/absent", "there");
    bench.bucket.delete("d/known");
    assert!(std::fs::read(&cached).unwrap() == old && !mount.at("d/absent").exists());
    // What changes something waits.
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| std::fs::write(mount.at("d/absent"), "mine"));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!writing.is_finished());
        proxy.set(Network::Up);
        let begun = Instant::now();
        wait_until("exact", || {
            std::fs::read(&cached).is_ok_and(|bytes| bytes == new) && !mount.at("d/known").exists()
        });
        println!("{network:?}: exact after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10), "{network:?}: {:?}", begun.elapsed());
        writing.join().unwrap()
    });
    written.unwrap();
    assert_eq!(std::fs::read(mount.at("d/absent")).unwrap(), b"mine");
    assert_eq!(sh(&mount.mount_point(), "ls d"), "absent\ncached\n");
    assert_eq!(stale_since(&cached), None);
    assert!(!mount.status().unwrap().store.stale);
    // A program that had it open goes on with the version that was there then, or hears that it is gone.
    let mut bytes = vec![0; old.len()];
    match open.read_exact_at(&mut bytes, 0) {
        Ok(()) => assert!(bytes == old, "{network:?}: mixed"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
    }
}

#[test]
fn stale_while_connections_are_refused() {
    stale(Network::Refused);
}

#[test]
fn stale_while_nothing_is_answered() {
    stale(Network::Silent);
}

#[test]
fn what_was_changed_here_is_not_undone_in_an_outage() {
    let options = ["--on-outage", "serve-stale", "--metadata-ttl", "300ms"];
    let (bench, proxy, mut mount) = far_away(&options);
    for n in 0..4 {
        bench.bucket.put(&format!("d/{n}"), "old");
    }
    mount.mount();
    sh(&mount.mount_point(), "ls -l d; rm d/0; echo new > d/1; mv d/2 d/9; cat d/1");
    std::thread::sleep(TTL);
    // A scan that is given up lets go of what is expired.
    drop(std::fs::read_dir(mount.at("d")).unwrap());
    proxy.set(Network::Refused);
    wait_until("known to be away", || {
        let _ = std::fs::metadata(mount.at("unknown"));
        mount.status().unwrap().store.offline
    });
    let seen = "! test -e d/0; test \"$(cat d/1)\" = new; ! test -e d/2; test -e d/9; test -e d/3";
    sh(&mount.mount_point(), seen);
}

#[test]
fn errors_come_at_once_and_the_store_is_found_again() {
    let options = ["--on-outage", "fail", "--metadata-ttl", "60s", "--timeout", "4s"];
    let (bench, proxy, mut mount) = far_away(&options);
    bench.bucket.put("d/file", noise(4 * MIB, 1));
    mount.mount();
    sh(&mount.mount_point(), "ls -l d");
    for network in [Network::Refused, Network::Silent, Network::BlackHole] {
        proxy.set(network);
        let first = failing(|| std::fs::metadata(mount.at(&format!("first-{network:?}"))));
        mount.wait_for("offline", |status| status.store.offline);
        let begun = Instant::now();
        let file = File::open(mount.at("d/file")).unwrap();
        for n in 0..10 {
            failing(|| std::fs::metadata(mount.at(&format!("{network:?}{n}"))));
            failing(|| file.read_exact_at(&mut [0; 100], 0));
            failing(|| std::fs::create_dir(mount.at(&format!("dir-{network:?}{n}"))));
        }
        println!("{network:?}: first {first:?}, 30 more in {:?}", begun.elapsed());
        assert!(begun.elapsed() < SLACK, "{network:?}: {:?}", begun.elapsed());
        proxy.set(Network::Up);
        // No program asks for anything.
        let begun = Instant::now();
        mount.wait_for("back", |status| !status.store.offline);
        println!("{network:?}: back after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10), "{network:?}: {:?}", begun.elapsed());
        assert!(
            std::fs::metadata(mount.at(&format!("absent-{network:?}")))
                .is_err_and(|error| { error.raw_os_error() == Some(libc::ENOENT) })
        );
    }
}
