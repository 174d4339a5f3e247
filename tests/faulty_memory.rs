//! Bits that turn in this machine's memory between write(2) and the store: no object has them, and the program hears of it.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use support::mount::{Mount, noise, wait_until};
use support::raw::Client;
use support::weed::Weed;
use support::{BUCKET, Embedded, close};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A file, how it is written, and the mount's options.
struct Case {
    name: &'static str,
    len: usize,
    /// Bytes of one write(2).
    piece: usize,
    options: &'static [&'static str],
}

const CASES: [Case; 4] = [
    Case { name: "small", len: 1000, piece: 1000, options: &[] },
    Case { name: "pieces", len: 600 * KIB, piece: 4 * KIB, options: &[] },
    Case { name: "parts", len: 20 * MIB, piece: MIB, options: &["--part-size=8MiB"] },
    Case {
        name: "streamed",
        len: 40 * MIB,
        piece: MIB,
        options: &["--part-size=32MiB", "--memory=64MiB"],
    },
];

/// Where a mount finds its store.
struct Place<'a> {
    endpoint: &'a str,
    bucket: &'a str,
    options: &'a [&'a str],
}

impl Place<'_> {
    fn mount(&self, more: &[&str]) -> Mount {
        let options = [self.options, more, &["--timeout=5s"]].concat();
        let mut mount = Mount::new(self.endpoint, &format!("s3://{}", self.bucket), &options);
        let faults = mount.local("faults").display().to_string();
        mount.set_env("RATCHETFS_TEST_FAULTS", &faults);
        mount.mount();
        mount
    }

    async fn stored(&self, name: &str) -> Option<Vec<u8>> {
        let answer = Client::new(self.endpoint).get(&format!("/{}/{name}", self.bucket), &[]).await;
        (answer.status == 200).then_some(answer.body)
    }
}

/// A bit turns in what `write` writes, behind it.
fn turned<T>(mount: &Mount, write: impl FnOnce() -> T) -> T {
    std::fs::write(mount.local("faults"), "turn part-buffer").unwrap();
    let written = write();
    std::fs::remove_file(mount.local("faults")).unwrap();
    written
}

fn is_eio(outcome: Result<(), i32>) -> bool {
    outcome == Err(libc::EIO)
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

/// Writes a file piece by piece, and a bit turns in the piece in the middle.
fn written(mount: &Mount, case: &Case, content: &[u8]) -> Result<(), i32> {
    let mut file = File::create(mount.at(case.name)).unwrap();
    let pieces = content.chunks(case.piece);
    let middle = pieces.len() / 2;
    for (number, piece) in pieces.enumerate() {
        let write = || file.write_all(piece);
        let outcome = if number == middle { turned(mount, write) } else { file.write_all(piece) };
        outcome.map_err(errno)?;
    }
    close(file)
}

async fn nothing_wrong_is_stored(place: &Place<'_>) {
    for (seed, case) in CASES.iter().enumerate() {
        let content = noise(case.len, seed as u64);
        let mut mount = place.mount(case.options);
        let outcome = written(&mount, case, &content);
        assert!(is_eio(outcome), "{}: {outcome:?}", case.name);
        assert_eq!(place.stored(case.name).await, None, "{}", case.name);
        let log = mount.log();
        assert!(log.contains("memory") || log.contains("damaged"), "{}: {log}", case.name);
        // Written again it is right.
        std::fs::write(mount.at(case.name), &content).unwrap();
        assert!(place.stored(case.name).await.as_ref() == Some(&content), "{}", case.name);
        mount.unmount();
    }
}

/// Waits until the log tells of it.
fn told(mount: &Mount) {
    wait_until("the log tells of it", || {
        let log = mount.log();
        log.contains("changed in this machine's memory") || log.contains("damaged")
    });
}

async fn nothing_wrong_is_sent_later(place: &Place<'_>) {
    for (seed, case) in CASES.iter().enumerate() {
        let content = noise(case.len, seed as u64);
        let mut mount = place.mount(&[case.options, &["--write-back"]].concat());
        // The close may be told of it already.
        let outcome = written(&mount, case, &content);
        assert!(outcome.is_ok() || is_eio(outcome), "{}: {outcome:?}", case.name);
        told(&mount);
        assert_eq!(place.stored(case.name).await, None, "{}", case.name);
        // Nor by the next mount, which has the sums out of the journal.
        mount.kill();
        mount.mount();
        if outcome.is_ok() {
            told(&mount);
        }
        if let Ok(read) = std::fs::read(mount.at(case.name)) {
            assert!(read == content || read.is_empty(), "{}: other bytes are read", case.name);
        }
        assert_eq!(place.stored(case.name).await, None, "{}", case.name);
        mount.kill();
    }
}

/// The rest of a stretch, of which a piece is written over, is not taken for what was written.
async fn what_is_written_over_is_compared(place: &Place<'_>) {
    let content = noise(256 * KIB, 7);
    let mut mount = place.mount(&[]);
    let file = File::create(mount.at("over")).unwrap();
    for (number, piece) in content.chunks(4 * KIB).enumerate().rev() {
        let write = || file.write_all_at(piece, (number * 4 * KIB) as u64);
        if number == 20 { turned(&mount, write).unwrap() } else { write().unwrap() }
    }
    // In other stretches it can be written on.
    file.write_all_at(&content[..4096], 0).unwrap();
    file.write_all_at(&content[200 * KIB..204 * KIB], 200 * KIB as u64).unwrap();
    let over = file.write_all_at(&content[96 * KIB..100 * KIB], 96 * KIB as u64);
    assert_eq!(over.map_err(errno), Err(libc::EIO));
    assert!(is_eio(close(file)));
    assert_eq!(place.stored("over").await, None);
    assert!(mount.log().contains("changed in this machine's memory"), "{}", mount.log());
    mount.unmount();
}

async fn on_seaweedfs(test: impl AsyncFnOnce(&Place<'_>)) {
    let weed = Weed::shared().await;
    let bucket = weed.fresh_bucket().await;
    test(&Place { endpoint: weed.endpoint(), bucket: &bucket, options: &[] }).await;
}

/// Taken for one that verifies CRC-32C, as it does, and for one of which that is not known.
async fn on_the_embedded_store(test: impl AsyncFn(&Place<'_>)) {
    for options in [&["--provider=seaweedfs"][..], &[]] {
        let store = Embedded::start().await;
        test(&Place { endpoint: &store.endpoint(), bucket: BUCKET, options }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_in_memory_is_not_stored_seaweedfs() {
    on_seaweedfs(nothing_wrong_is_stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_in_memory_is_not_stored_embedded() {
    on_the_embedded_store(nothing_wrong_is_stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_in_memory_is_not_sent_later_seaweedfs() {
    on_seaweedfs(nothing_wrong_is_sent_later).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_in_memory_is_not_sent_later_embedded() {
    on_the_embedded_store(nothing_wrong_is_sent_later).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_is_written_over_is_compared_first() {
    on_the_embedded_store(what_is_written_over_is_compared).await;
}
