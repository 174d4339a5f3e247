//! Mounts without a store: `--offline` serves what the cache directory holds, asks no store, and fails at once
//! for all else.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, noise, sh};

const MIB: usize = 1 << 20;

/// Far less than any time limit of a request, on a machine that does other things too.
const AT_ONCE: Duration = Duration::from_secs(2);

fn errno_of<T>(outcome: std::io::Result<T>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

#[test]
fn an_offline_mount_serves_what_the_disk_holds() {
    let content = noise(24 * MIB, 1);
    let small = noise(100_000, 2);
    let pending = noise(7 * MIB, 3);
    let mut bench = Bench::start(&[]);
    sh(&bench.mount_point(), "mkdir -p tree/sub/deep");
    for (name, bytes) in [
        ("tree/whole", &content),
        ("tree/sub/small", &small),
        ("tree/partly", &content),
        ("tree/unseen", &small),
        ("modified", &content),
        ("tree/empty", &Vec::new()),
        ("tree/gone", &small),
    ] {
        std::fs::write(bench.at(name), bytes).unwrap();
    }
    sh(
        &bench.mount_point(),
        "chmod 640 tree/sub/small; chmod 750 tree/sub; touch -d '2001-02-03 04:05:06.789' tree/whole; \
         setfattr -n user.color -v blue tree/whole; ln -s whole tree/link; sync -f .",
    );
    bench.unmount();

    // What the traveller read before.
    std::fs::remove_dir_all(bench.cache_dir()).unwrap();
    bench.mount();
    sh(&bench.mount_point(), "cat tree/whole tree/sub/small modified tree/link > /dev/null");
    let partly = File::open(bench.at("tree/partly")).unwrap();
    let mut page = vec![0; 4096];
    partly.read_exact_at(&mut page, 10 * MIB as u64).unwrap();
    drop(partly);
    let list = "stat -c '%n %F %a %u %g %s %y' tree/whole tree/sub/small tree/partly tree/unseen \
                tree/empty tree/sub tree/sub/deep modified tree/link";
    let told = sh(&bench.mount_point(), list);
    sh(&bench.mount_point(), "mv tree/sub moved; touch moved/new; rm moved/new; mv moved tree/sub");
    bench.unmount();

    // Files that were closed and did not get out any more.
    bench.set_options(&["--write-back", "--metadata-ttl", "60s"]);
    bench.mount();
    sh(&bench.mount_point(), "ls -lR > /dev/null");
    let deletions = [Operation::DeleteObject, Operation::DeleteObjects];
    bench.store.faults.set(deletions.map(|one| Rule::new(Fault::slow_down()).on(one)).to_vec());
    std::fs::remove_file(bench.at("tree/gone")).unwrap();
    bench.store.faults.set_outage(true);
    std::fs::write(bench.at("written"), &pending).unwrap();
    File::options()
        .write(true)
        .open(bench.at("modified"))
        .unwrap()
        .write_all_at(b"new", 5)
        .unwrap();
    bench.kill();

    bench.set_options(&["--offline"]);
    let begun = Instant::now();
    bench.mount();
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    let status = bench.status().unwrap();
    assert!(status.mode.offline && status.mode.read_only);
    assert_eq!(status.pending_files, 2);

    let begun = Instant::now();
    let names = sh(&bench.mount_point(), "find . -mindepth 1 -not -name '.*' | sort");
    let expected = "./modified ./tree ./tree/empty ./tree/link ./tree/partly ./tree/sub ./tree/sub/deep \
                    ./tree/sub/small ./tree/unseen ./tree/whole ./written";
    let expected: Vec<&str> = expected.split_whitespace().collect();
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
    let without_modified = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("modified")).map(str::to_owned).collect()
    };
    assert_eq!(without_modified(&sh(&bench.mount_point(), list)), without_modified(&told));
    assert_eq!(sh(&bench.mount_point(), "getfattr --only-values -n user.color tree/whole"), "blue");
    assert_eq!(sh(&bench.mount_point(), "readlink tree/link"), "whole\n");

    assert!(std::fs::read(bench.at("tree/whole")).unwrap() == content);
    assert!(std::fs::read(bench.at("tree/empty")).unwrap().is_empty());
    assert!(std::fs::read(bench.at("tree/sub/small")).unwrap() == small);
    // Twice: a reader that goes away takes nothing with it.
    for _ in 0..2 {
        assert!(std::fs::read(bench.at("written")).unwrap() == pending);
        let mut modified = content.clone();
        modified[5..8].copy_from_slice(b"new");
        assert!(std::fs::read(bench.at("modified")).unwrap() == modified);
    }

    // Of what is there in part, that part; the rest, and what is not known here, fails at once.
    let partly = File::open(bench.at("tree/partly")).unwrap();
    partly.read_exact_at(&mut page, 10 * MIB as u64).unwrap();
    assert!(page == content[10 * MIB..][..4096]);
    assert_eq!(errno_of(partly.read_exact_at(&mut page, 20 * MIB as u64)), Some(libc::ENETUNREACH));
    drop(partly);
    assert_eq!(errno_of(std::fs::read(bench.at("tree/unseen"))), Some(libc::ENETUNREACH));
    assert_eq!(errno_of(std::fs::read(bench.at("elsewhere/unknown"))), Some(libc::ENETUNREACH));
    assert!(bench.log().contains("mount without --offline"), "{}", bench.log());
    assert_eq!(errno_of(std::fs::write(bench.at("tree/whole"), b"x")), Some(libc::EROFS));
    assert_eq!(errno_of(std::fs::remove_file(bench.at("tree/whole"))), Some(libc::EROFS));
    assert!(begun.elapsed() < AT_ONCE * 5, "{:?}", begun.elapsed());
    let mount_point = bench.mount_point().display().to_string();
    let resumed = bench.run(&["uploads", "resume", &mount_point]);
    assert!(String::from_utf8_lossy(&resumed.stderr).contains("--offline"), "{resumed:?}");
    assert_eq!(bench.status().unwrap().store.requests, 0);
    bench.unmount();

    // Back home: what waited goes on, and what is there is whole.
    bench.store.faults.clear();
    bench.store.faults.set_outage(false);
    bench.set_options(&["--write-back"]);
    bench.mount();
    bench.drained();
    assert!(std::fs::read(bench.at("written")).unwrap() == pending);
    assert!(std::fs::read(bench.at("tree/unseen")).unwrap() == small);
    assert_eq!(errno_of(std::fs::metadata(bench.at("tree/gone"))), Some(libc::ENOENT));
}

#[test]
fn an_offline_mount_of_what_was_never_mounted_says_so() {
    let bench = Bench::unmounted(&[]);
    let mount_point = bench.mount_point().display().to_string();
    let mut mount = bench.program();
    mount.args(["mount", "s3://bucket-of-no-store", &mount_point, "--offline"]);
    let refused = mount.args(bench.store_options()).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.lines().count() == 1, "{told}");
    assert!(told.contains("mount it once without --offline"), "{told}");
}
