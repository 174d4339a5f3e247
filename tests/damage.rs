//! Files of the cache folder that others delete, cut, extend and change, between mounts and below one: what is read
//! is right or an error, and what is sent is what was written.

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use support::BUCKET;
use support::mount::{Bench, noise, sh};
use support::raw::Client;

const MIB: usize = 1 << 20;

fn put(bench: &Bench, key: &str, content: &[u8]) {
    let raw = Client::new(&bench.store.endpoint());
    let path = format!("/{BUCKET}/{key}");
    let answer = bench.runtime.block_on(raw.put(&path, &[], content.to_vec()));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

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

/// What may happen to the one cache file.
const DAMAGES: [(&str, fn(&Path)); 4] = [
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
    put(&bench, "a", &content);
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
        put(&bench, "a", &content);
        bench.mount();
        cached(&bench, &content);
        damage(&files(&bench, "objects")[0]);
        read_by_many(&bench.at("a"), &content, what);
        let read = std::fs::read(bench.at("a")).unwrap();
        assert!(read == content, "{what}: by cp");
    }
}

#[test]
fn what_took_the_place_of_a_cache_file_hangs_nobody() {
    let content = noise(3 * MIB, 3);
    let mut bench = Bench::unmounted(&[]);
    put(&bench, "a", &content);
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
