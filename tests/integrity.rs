//! Bits that turn between a mount and its store: what is stored is what was written, or nothing is, and the program
//! hears of it.

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::{Command, ExitStatus};

use support::mount::{Mount, noise};
use support::raw::Client;
use support::turning::{Turned, Turning};
use support::weed::Weed;
use support::{BUCKET, Embedded};

const MIB: usize = 1 << 20;

/// A small file, one of several parts, and one whose parts are read from the disk while they are sent.
const FILES: [(&str, usize, &[&str]); 3] = [
    ("small", 1000, &[]),
    ("parts", 20 * MIB, &["--part-size=8MiB"]),
    ("streamed", 40 * MIB, &["--part-size=32MiB", "--memory=64MiB"]),
];

fn copied(mount: &Mount, name: &str, content: &[u8]) -> ExitStatus {
    let source = mount.local("source");
    std::fs::write(&source, content).unwrap();
    Command::new("cp").arg(source).arg(mount.at(name)).status().unwrap()
}

async fn files_arrive_or_the_program_hears_of_it(
    endpoint: &str,
    bucket: &str,
    more: &[&str],
    turned: Turned,
) {
    let raw = Client::new(endpoint);
    for (seed, (name, len, options)) in FILES.into_iter().enumerate() {
        let content = noise(len, seed as u64);
        let network = Turning::start(endpoint, turned);
        let mut mount = Mount::new(&network.endpoint(), &format!("s3://{bucket}"), options);
        for option in more.iter().chain(&["--timeout=5s"]) {
            mount.option(option);
        }
        mount.mount();
        let status = copied(&mount, name, &content);
        let stored = raw.get(&format!("/{bucket}/{name}"), &[]).await;
        assert!(network.bits() > 0, "{name}: nothing was turned");
        match turned {
            Turned::First => {
                assert!(status.success(), "{name}: {status}");
                assert!(stored.body == content, "{name}: other bytes are stored");
                mount.unmount();
            }
            Turned::All => {
                assert!(!status.success(), "{name}: {status}");
                assert_eq!(stored.status, 404, "{name} is there");
            }
        }
    }
}

async fn on_seaweedfs(turned: Turned) {
    let weed = Weed::shared().await;
    let bucket = weed.fresh_bucket().await;
    files_arrive_or_the_program_hears_of_it(weed.endpoint(), &bucket, &[], turned).await;
}

async fn on_the_embedded_store(more: &[&str], turned: Turned) {
    let store = Embedded::start().await;
    files_arrive_or_the_program_hears_of_it(&store.endpoint(), BUCKET, more, turned).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_once_is_sent_again_seaweedfs() {
    on_seaweedfs(Turned::First).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_once_is_sent_again_embedded() {
    on_the_embedded_store(&[], Turned::First).await;
}

/// The embedded store verifies no CRC64NVME, and does not answer it: the ETag tells, and Content-MD5 is sent from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_the_checksum_is_found_out() {
    let seaweedfs: &[&str] = &["--provider=seaweedfs"];
    for more in [seaweedfs, &["--provider=aws", "--addressing=path"]] {
        on_the_embedded_store(more, Turned::First).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_that_turn_each_time_are_an_error_seaweedfs() {
    on_seaweedfs(Turned::All).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_that_turn_each_time_are_an_error_embedded() {
    on_the_embedded_store(&[], Turned::All).await;
}
