//! Bits that turn between a mount and its store: what is stored is what was written, or nothing is, and the program
//! hears of it.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::process::{Command, ExitStatus};

use ratchetfs::embedded::{Fault, Rule};
use support::mount::{Mount, noise};
use support::raw::Client;
use support::turning::{Turned, Turning, Way};
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
        let network = Turning::start(endpoint, Way::Up, turned);
        let mut mount = Mount::new(&network.endpoint(), &format!("s3://{bucket}"), options);
        for option in more.iter().chain(&["--timeout=5s"]) {
            mount.option(option);
        }
        mount.mount();
        let status = copied(&mount, name, &content);
        let stored = raw.get(&format!("/{bucket}/{name}"), &[]).await;
        assert!(network.bits() > 0, "{name}: nothing was turned");
        match turned {
            Turned::First | Turned::Once => {
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

/// Taken for stores that verify CRC-32C, as it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_once_is_found_by_its_crc() {
    let seaweedfs: &[&str] = &["--provider=seaweedfs"];
    for more in [seaweedfs, &["--provider=aws", "--addressing=path"]] {
        on_the_embedded_store(more, Turned::First).await;
    }
}

/// One that verifies no CRC-32C does not answer it either: the ETag tells, and Content-MD5 is sent from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_the_checksum_is_found_out() {
    let store = Embedded::start().await;
    store.faults.set(vec![Rule::new(Fault::IgnoreChecksum)]);
    let more: &[&str] = &["--provider=seaweedfs"];
    files_arrive_or_the_program_hears_of_it(&store.endpoint(), BUCKET, more, Turned::First).await;
}

/// The store answers another checksum than that of what it was sent.
async fn what_the_store_tells_is_compared(endpoint: &str, bucket: &str, way: Way, turned: Turned) {
    let raw = Client::new(endpoint);
    for (seed, (name, len, options)) in FILES.into_iter().enumerate() {
        let content = noise(len, seed as u64);
        let network = Turning::start(endpoint, way, turned);
        let options = [options, &["--provider=seaweedfs", "--timeout=5s"]].concat();
        let mut mount = Mount::new(&network.endpoint(), &format!("s3://{bucket}"), &options);
        mount.mount();
        let status = copied(&mount, name, &content);
        if network.bits() == 0 {
            assert_eq!((name, way), ("small", Way::Completed), "nothing was turned");
            continue;
        }
        let stored = raw.get(&format!("/{bucket}/{name}"), &[]).await;
        match turned {
            // What is not here any more cannot be sent again.
            Turned::First if name != "streamed" || way == Way::Told => {
                assert!(status.success(), "{name}: {}", mount.log());
                assert!(stored.body == content, "{name}: other bytes are stored");
                mount.unmount();
            }
            _ => assert!(!status.success(), "{name} by {way:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_tells_of_other_bytes_is_not_believed_seaweedfs() {
    let weed = Weed::shared().await;
    for way in [Way::Told, Way::Completed] {
        for turned in [Turned::First, Turned::All] {
            let bucket = weed.fresh_bucket().await;
            what_the_store_tells_is_compared(weed.endpoint(), &bucket, way, turned).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_tells_of_other_bytes_is_not_believed_embedded() {
    for way in [Way::Told, Way::Completed] {
        for turned in [Turned::First, Turned::All] {
            let store = Embedded::start().await;
            what_the_store_tells_is_compared(&store.endpoint(), BUCKET, way, turned).await;
        }
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

/// Objects of one PUT, whose ETag is an MD5, that one GET brings.
async fn small_files_are_right_when_read_or_the_program_hears_of_it(
    endpoint: &str,
    bucket: &str,
    first_written: Option<&str>,
    turned: Turned,
) {
    let raw = Client::new(endpoint);
    for (seed, len) in [1, 1000, 700 << 10].into_iter().enumerate() {
        let content = noise(len, seed as u64);
        raw.put(&format!("/{bucket}/a"), &[], content.clone()).await;
        let network = Turning::start(endpoint, Way::Down, turned);
        let mut mount = Mount::new(&network.endpoint(), &format!("s3://{bucket}"), &[]);
        mount.mount();
        if let Some(name) = first_written {
            std::fs::write(mount.at(name), name).unwrap();
        }
        // Twice: nothing wrong was kept.
        for _ in 0..2 {
            let read = std::fs::read(mount.at("a"));
            match turned {
                Turned::First | Turned::Once => {
                    assert!(read.unwrap() == content, "{len}: other bytes were read")
                }
                Turned::All => {
                    let Err(error) = read else { panic!("{len}: other bytes were read") };
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{len}: {error}");
                    assert!(mount.log().contains("not what they must be"));
                }
            }
        }
        assert!(network.bits() > 0, "{len}: nothing was turned");
        mount.unmount();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_on_its_way_here_is_noticed_seaweedfs() {
    let weed = Weed::shared().await;
    for turned in [Turned::First, Turned::All] {
        let bucket = weed.fresh_bucket().await;
        small_files_are_right_when_read_or_the_program_hears_of_it(
            weed.endpoint(),
            &bucket,
            None,
            turned,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_on_its_way_here_is_noticed_embedded() {
    // It does not say what it is: what its ETags are is known of the first file that is written.
    for turned in [Turned::First, Turned::All] {
        let store = Embedded::start().await;
        small_files_are_right_when_read_or_the_program_hears_of_it(
            &store.endpoint(),
            BUCKET,
            Some("first"),
            turned,
        )
        .await;
    }
}
