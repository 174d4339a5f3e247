//! Files of the cache folder that others delete, cut, extend and change, between mounts and below one: what is read
//! is right or an error, and what is sent is what was written.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, noise, sh, wait_until};

const MIB: usize = 1 << 20;

/// The files of a folder of the cache, `objects` or `staging`.
fn files(bench: &Bench, folder: &str) -> Vec<PathBuf> {
    let found = sh(&bench.cache_dir(), &format!("find . -path '*/{folder}/*' -type f"));
    found.lines().map(|line| bench.cache_dir().join(line)).collect()
}

/// Turns one byte of each half mebibyte.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    for at in (77..len).step_by(MIB / 2) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    }
}

/// Several readers at once, past the kernel's cache and through it, each its own way through the file.
fn read_by_many(path: &Path, expected: &[u8], what: &str) {
    std::thread::scope(|scope| {
        for reader in 0..6 {
            scope.spawn(move || {
                let direct = if reader < 5 { libc::O_DIRECT } else { 0 };
                let file = File::options().read(true).custom_flags(direct).open(path).unwrap();
                let piece = if reader % 2 == 0 { 4 * MIB } else { 128 << 10 };
                for (nth, piece) in expected.chunks(piece).enumerate() {
                    let mut bytes = vec![0; piece.len()];
                    let at = nth * expected.chunks(piece.len()).next().map_or(0, <[u8]>::len);
                    file.read_exact_at(&mut bytes, at as u64).unwrap();
                    assert!(bytes == piece, "{what}: reader {reader} at {at}");
                }
            });
        }
    });
    assert_eq!(std::fs::metadata(path).unwrap().len(), expected.len() as u64, "{what}");
}

/// What it is called, and how it is done to a file.
type Damage = (&'static str, fn(&Path));

/// What may happen to the one cache file.
const DAMAGES: [Damage; 4] = [
    ("deleted", |file| std::fs::remove_file(file).unwrap()),
    ("changed", flip),
    ("cut", |file| {
        File::options().write(true).open(file).unwrap().set_len(MIB as u64 + 5).unwrap()
    }),
    ("extended", |file| {
        let len = std::fs::metadata(file).unwrap().len();
        let file = File::options().write(true).open(file).unwrap();
        file.write_all_at(&[7; 5000], len).unwrap();
    }),
];

fn cached(bench: &Bench, content: &[u8]) {
    let whole = format!("0-{}", content.len());
    let on_disk =
        || sh(&bench.mount_point(), "getfattr --only-values -n user.ratchetfs.cached-ranges a");
    for _ in 0..20 {
        sh(&bench.mount_point(), "dd if=a of=/dev/null bs=1M iflag=direct status=none");
        let begun = std::time::Instant::now();
        // What is in memory counts there as well, but the first mebibytes are not for long.
        while begun.elapsed().as_secs() < 2 {
            if on_disk() == whole
                && bench.status().unwrap().cache.disk_bytes >= content.len() as u64
            {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    panic!("never on the disk: {}: {}", on_disk(), bench.log());
}

#[test]
fn damaged_cache_files_are_never_served_by_the_next_mount() {
    let content = noise(40 * MIB, 1);
    let mut bench = Bench::unmounted(&[]);
    bench.bucket.put("a", content.clone());
    bench.mount();
    for round in 0..2 {
        for (what, damage) in DAMAGES {
            cached(&bench, &content);
            bench.unmount();
            damage(&files(&bench, "objects")[0]);
            bench.mount();
            read_by_many(&bench.at("a"), &content, &format!("{what}, round {round}"));
            cached(&bench, &content);
        }
    }
}

#[test]
fn cache_files_damaged_below_a_mount_are_never_served() {
    let content = noise(40 * MIB, 2);
    for (what, damage) in DAMAGES {
        let mut bench = Bench::unmounted(&[]);
        bench.bucket.put("a", content.clone());
        bench.mount();
        cached(&bench, &content);
        damage(&files(&bench, "objects")[0]);
        read_by_many(&bench.at("a"), &content, what);
        let read = std::fs::read(bench.at("a")).unwrap();
        assert!(read == content, "{what}: by cp");
    }
}

#[test]
fn what_took_the_place_of_a_cache_file_hangs_no_reader() {
    let content = noise(3 * MIB, 3);
    let mut bench = Bench::unmounted(&[]);
    bench.bucket.put("a", content.clone());
    bench.mount();
    for make in ["mkfifo $f", "mkdir $f", "ln -s /dev/zero $f"] {
        cached(&bench, &content);
        bench.unmount();
        let file = files(&bench, "objects").pop().unwrap().display().to_string();
        sh(&bench.cache_dir(), &format!("f={file}; rm $f; {make}"));
        bench.mount();
        sh(&bench.mount_point(), "timeout 30 cat a > ../read");
        assert!(std::fs::read(bench.local("read")).unwrap() == content, "{make}");
        sh(&bench.cache_dir(), "find . -path '*/objects/*/*' ! -type f -exec rm -r {} +");
        bench.remount();
    }
}

/// The store takes nothing for now.
fn refuse_writes(bench: &Bench, refusal: &Fault) {
    let refused = [Operation::PutObject, Operation::CreateMultipartUpload, Operation::UploadPart]
        .map(|operation| Rule::new(refusal.clone()).on(operation));
    bench.store.faults.set(refused.to_vec());
}

/// A mount under write-back on which these files were closed and wait, on the local disk alone.
fn waiting(files: &[(&str, usize)], refusal: Fault) -> Bench {
    let options = ["--write-back", "--memory", "32MiB", "--part-size", "16MiB", "--timeout", "5s"];
    let mut bench = Bench::start(&options);
    refuse_writes(&bench, &refusal);
    for (seed, (name, len)) in files.iter().enumerate() {
        std::fs::write(bench.at(name), noise(*len, seed as u64)).unwrap();
    }
    bench.kill();
    bench.mount();
    bench
}

/// One staging file each, since the files were made one after the other.
fn staging(bench: &Bench) -> Vec<PathBuf> {
    let mut found = files(bench, "staging");
    found.sort();
    found
}

/// One PUT, an upload whose parts are loaded, one whose parts are longer than memory, and one that is left alone.
const WAITING: [(&str, usize); 4] =
    [("one", 300 << 10), ("parts", 7 * MIB), ("long", 50 * MIB + 5), ("good", 9 * MIB)];

#[test]
fn staged_bytes_that_changed_are_neither_sent_nor_served() {
    let bench = waiting(&WAITING, Fault::denied());
    // So that nothing of them is in memory any more.
    let given_up = |name: &str| format!("{name}: waits for `uploads resume`: ");
    for (name, _) in WAITING {
        wait_until("refused", || bench.log().contains(&given_up(name)));
    }
    let staged = staging(&bench);
    assert_eq!(staged.len(), WAITING.len());
    let turn = |file: &Path| {
        let file = File::options().read(true).write(true).open(file).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 290_000).unwrap();
        file.write_all_at(&[!byte[0]], 290_000).unwrap();
    };
    staged[..3].iter().for_each(|file| turn(file));
    for (name, _) in &WAITING[..3] {
        let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(bench.at(name));
        let error = file.unwrap().read_exact_at(&mut [0; 4096], 288_000).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
    }
    bench.store.faults.clear();
    let mount_point = bench.mount_point().display().to_string();
    let resume = || {
        assert!(bench.run(&["uploads", "resume", &mount_point]).status.success());
    };
    resume();
    wait_until("the good one sent", || bench.bucket.object("good").is_some());
    for (name, _) in &WAITING[..3] {
        let told = format!("{}local disk: ", given_up(name));
        wait_until("given up", || bench.log().contains(&told));
    }
    for (seed, (name, len)) in WAITING.iter().enumerate() {
        let expected = (*name == "good").then(|| noise(*len, seed as u64));
        assert!(bench.bucket.object(name) == expected, "{name}");
        let told = |line: &str| line.contains(name) && line.contains("cannot be had");
        assert_eq!(bench.log().lines().any(told), *name != "good", "{name}: {}", bench.log());
    }
    // All of it is kept: what was the disk's fault can be put right.
    staged[..3].iter().for_each(|file| turn(file));
    resume();
    for (seed, (name, len)) in WAITING.iter().enumerate() {
        wait_until("sent", || bench.bucket.object(name).is_some());
        assert!(bench.bucket.object(name).unwrap() == noise(*len, seed as u64), "{name}");
    }
}

#[test]
fn staged_bytes_that_changed_are_not_brought_back() {
    let mut bench = waiting(&WAITING, Fault::slow_down());
    let staged = staging(&bench);
    bench.kill();
    let flip_end = |file: &Path| {
        let disk = File::options().read(true).write(true).open(file).unwrap();
        let mut byte = [0];
        disk.read_exact_at(&mut byte, 200_000).unwrap();
        disk.write_all_at(&[!byte[0]], 200_000).unwrap();
    };
    staged[..3].iter().for_each(|file| flip_end(file));
    bench.store.faults.clear();
    bench.mount();
    wait_until("the good one sent", || bench.bucket.object("good").is_some());
    for (name, _) in &WAITING[..3] {
        assert!(bench.bucket.object(name).is_none() && !bench.at(name).exists(), "{name}");
        assert!(
            bench.log().contains(&format!("{name}: cannot be brought back")),
            "{}",
            bench.log()
        );
    }
    bench.kill();
    staged[..3].iter().for_each(|file| flip_end(file));
    bench.mount();
    for (seed, (name, len)) in WAITING.iter().enumerate() {
        wait_until("sent", || bench.bucket.object(name).is_some());
        assert!(bench.bucket.object(name).unwrap() == noise(*len, seed as u64), "{name}");
    }
}

/// The journal is missing, or damaged, beside files that were closed: they are kept, and can be put back.
#[test]
fn staging_files_that_no_journal_names_are_set_aside() {
    for damaged in [false, true] {
        let mut bench = waiting(&[("a", 300 << 10), ("b", 5 * MIB)], Fault::slow_down());
        bench.kill();
        let found = sh(&bench.cache_dir(), "find . -name journal -type f");
        let journal = bench.cache_dir().join(found.trim());
        let folder = journal.parent().unwrap().to_owned();
        std::fs::copy(&journal, bench.local("journal")).unwrap();
        std::fs::remove_file(&journal).unwrap();
        if damaged {
            std::fs::write(&journal, [7; 5000]).unwrap();
        }
        bench.store.faults.clear();
        bench.mount();
        let aside = sh(&folder, "ls -d staging.orphaned-*").trim().to_owned();
        let what = if damaged { "damaged" } else { "missing" };
        let told: Vec<String> = bench.log().lines().map(str::to_owned).collect();
        let line = told.iter().find(|line| line.contains(&aside));
        assert!(
            line.is_some_and(|line| line.contains(what) && line.contains("put it back")),
            "{told:?}"
        );
        std::fs::write(bench.at("c"), b"goes on").unwrap();
        bench.drained();
        bench.remount();
        bench.unmount();
        // As the line says.
        std::fs::copy(bench.local("journal"), &journal).unwrap();
        sh(&folder, &format!("rmdir staging; mv {aside} staging"));
        bench.mount();
        for (seed, (name, len)) in [("a", 300 << 10), ("b", 5 * MIB)].into_iter().enumerate() {
            wait_until("sent", || bench.bucket.object(name).is_some());
            assert!(bench.bucket.object(name).unwrap() == noise(len, seed as u64), "{name}");
        }
        wait_until("nothing is left", || files(&bench, "staging").is_empty());
        assert_eq!(bench.bucket.object("c").as_deref(), Some(&b"goes on"[..]));
    }
}

/// Lets fdatasync(2) of a staging file fail as a disk does: once, with what it was to write lost.
const FAILING_SYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int fdatasync(int fd) {
    static int (*real)(int);
    char link[64], path[4096] = "";
    struct stat found;
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "/staging/")
        && unlink(getenv("FAIL_SYNC_ONCE")) == 0) {
        if (fstat(fd, &found) == 0)
            for (off_t at = 0; at < found.st_size; at++) pwrite(fd, "", 1, at);
        errno = EIO;
        return -1;
    }
    return real(fd);
}
"#;

#[test]
fn an_fsync_after_one_that_failed_is_no_success() {
    for options in [&["--write-back"][..], &[]] {
        let mut bench = Bench::unmounted(options);
        std::fs::write(bench.local("sync.c"), FAILING_SYNC).unwrap();
        sh(bench.dir.path(), "cc -shared -fPIC -o sync.so sync.c -ldl");
        for (name, file) in [("LD_PRELOAD", "sync.so"), ("FAIL_SYNC_ONCE", "fail")] {
            let path = bench.local(file).display().to_string();
            bench.set_env(name, &path);
        }
        bench.mount();
        let content = noise(200_000, 1);
        let file = File::create(bench.at("f")).unwrap();
        file.write_all_at(&content, 0).unwrap();
        std::fs::write(bench.local("fail"), b"").unwrap();
        for _ in 0..3 {
            assert!(file.sync_all().is_err(), "{options:?}: nothing was written anew");
            assert!(!bench.local("fail").exists());
        }
        // What is in memory is sent, with the disk or without it.
        sh(&bench.mount_point(), "exec 3>>f; exec 3>&-");
        drop(file);
        wait_until("sent", || bench.bucket.object("f").is_some());
        assert!(bench.bucket.object("f").unwrap() == content, "{options:?}");
    }
}
