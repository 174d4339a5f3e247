//! Bytes that turn on the way from the store: a program that is told that all went well has the right ones; and what
//! `ratchetfs verify` says of files.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm;
use support::mount::{Mount, noise, sh};
use support::raw::Client;
use support::turning::{Turned, Turning, Way};
use support::weed::Weed;
use support::{BUCKET, Embedded, text};

const MIB: usize = 1 << 20;

/// Of a whole object: none but its ETag, which is an MD5.
const MD5: &str = "md5";
const CRC32C: &str = "crc32c";
const CRC64NVME: &str = "crc64nvme";

fn sum(algorithm: &str, content: &[u8]) -> Vec<u8> {
    match algorithm {
        CRC32C => {
            let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, content) as u32;
            crc.to_be_bytes().to_vec()
        }
        _ => crc_fast::checksum(CrcAlgorithm::Crc64Nvme, content).to_be_bytes().to_vec(),
    }
}

/// Another client's object.
async fn put(endpoint: &str, bucket: &str, name: &str, algorithm: &str, content: &[u8]) {
    let header = (format!("x-amz-checksum-{algorithm}"), BASE64.encode(sum(algorithm, content)));
    let headers = [(header.0.as_str(), header.1.as_str())];
    let headers: &[(&str, &str)] = if algorithm == MD5 { &[] } else { &headers };
    let answer = Client::new(endpoint).put(&format!("/{bucket}/{name}"), headers, content).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

struct Bench {
    network: Turning,
    mount: Mount,
    content: Vec<u8>,
}

impl Bench {
    fn new(endpoint: &str, bucket: &str, way: Way, turned: Turned, content: Vec<u8>) -> Bench {
        let network = Turning::start(endpoint, way, turned);
        let options = ["--timeout=10s", "--part-size=8MiB"];
        let mut mount = Mount::new(&network.endpoint(), &format!("s3://{bucket}"), &options);
        mount.mount();
        Bench { network, mount, content }
    }

    /// cp(1) of the file `a`: whether it says that all went well, in which case it has.
    fn copies(&self, to: &str) -> bool {
        let to = self.mount.local(to);
        let status = Command::new("cp").arg(self.mount.at("a")).arg(&to).status().unwrap();
        if status.success() {
            let copied = std::fs::read(&to).unwrap();
            let differs =
                copied.iter().zip(&self.content).position(|(copied, ours)| copied != ours);
            assert!(
                copied == self.content,
                "{} bytes were copied, the first other at {differs:?}: {}",
                copied.len(),
                self.mount.log()
            );
        }
        status.success()
    }

    fn verify(&self, options: &[&str]) -> Output {
        let path = self.mount.at("a").display().to_string();
        let arguments: Vec<&str> =
            ["verify", &path].into_iter().chain(options.iter().copied()).collect();
        self.mount.run(&arguments)
    }

    fn xattr(&self, name: &str) -> String {
        let script =
            format!("import os; print(os.getxattr('a', 'user.ratchetfs.{name}').decode())");
        sh(&self.mount.mount_point(), &format!("python3 -c \"{script}\"")).trim().to_owned()
    }
}

/// A file that is turned once, or each time, on its way here.
fn is_right_or_refused(bench: &mut Bench, turned: Turned) {
    let first = bench.copies("first");
    assert!(bench.network.bits() > 0, "nothing was turned");
    assert!(bench.mount.log().contains("not what they must be"), "{}", bench.mount.log());
    if turned == Turned::All {
        assert!(!first, "it was not noticed");
        assert!(!bench.copies("second"), "something wrong was kept");
        bench.mount.remount();
        assert!(!bench.copies("third"), "something wrong was kept");
        return;
    }
    // What was given out before it could be compared may have been wrong: then it is an error, once.
    assert!(bench.copies("second"), "{}", bench.mount.log());
    assert_eq!(bench.xattr("proven"), "yes");
    bench.mount.remount();
    assert!(bench.copies("third"), "{}", bench.mount.log());
    let verified = bench.verify(&["--cached"]);
    assert!(verified.status.success(), "{verified:?}");
    assert!(text(&verified.stdout).contains("1 proven, 0 unproven, 0 damaged"), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_object_is_read_right_or_not_at_all() {
    let weed = Weed::shared().await;
    for algorithm in [CRC32C, CRC64NVME] {
        for turned in [Turned::Once, Turned::All] {
            let (bucket, content) = (weed.fresh_bucket().await, noise(20 * MIB + 77, 1));
            put(weed.endpoint(), &bucket, "a", algorithm, &content).await;
            let mut bench = Bench::new(weed.endpoint(), &bucket, Way::Down, turned, content);
            is_right_or_refused(&mut bench, turned);
        }
    }
}

/// Parts whose sums this machine has remembered, across a remount.
async fn a_file_of_ours_is_read_right_or_not_at_all(endpoint: &str, bucket: &str) {
    for turned in [Turned::Once, Turned::All] {
        let content = noise(28 * MIB, 2);
        let mut bench = Bench::new(endpoint, bucket, Way::Down, turned, content);
        std::fs::write(bench.mount.at("a"), &bench.content).unwrap();
        bench.mount.remount();
        is_right_or_refused(&mut bench, turned);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_ours_is_read_right_or_not_at_all_seaweedfs() {
    let weed = Weed::shared().await;
    let bucket = weed.fresh_bucket().await;
    a_file_of_ours_is_read_right_or_not_at_all(weed.endpoint(), &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_ours_is_read_right_or_not_at_all_embedded() {
    let store = Embedded::start().await;
    a_file_of_ours_is_read_right_or_not_at_all(&store.endpoint(), BUCKET).await;
}

/// What an earlier mount has fetched and could not compare is compared with the rest.
#[tokio::test(flavor = "multi_thread")]
async fn what_turned_before_a_remount_is_found_after_it() {
    let weed = Weed::shared().await;
    for algorithm in [CRC32C, CRC64NVME] {
        let (bucket, content) = (weed.fresh_bucket().await, noise(48 * MIB, 3));
        put(weed.endpoint(), &bucket, "a", algorithm, &content).await;
        let mut bench = Bench::new(weed.endpoint(), &bucket, Way::Down, Turned::Once, content);
        sh(&bench.mount.mount_point(), "head -c 1000000 a > /dev/null");
        assert!(bench.network.bits() > 0, "nothing was turned");
        bench.mount.remount();
        assert_eq!(bench.xattr("proven"), "no");
        assert!(!bench.copies("first"), "it was not noticed: {algorithm}");
        assert!(bench.copies("second"), "{}", bench.mount.log());
        assert_eq!(bench.xattr("proven"), "yes");
        // Nor is it forgotten what was proven.
        bench.mount.remount();
        assert_eq!(bench.xattr("proven"), "yes");
    }
}

/// Over the old one the same broken cable, or the same broken proxy, may stand.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_read_again_over_a_new_connection() {
    let weed = Weed::shared().await;
    let (bucket, content) = (weed.fresh_bucket().await, noise(3 * MIB, 9));
    put(weed.endpoint(), &bucket, "a", CRC32C, &content).await;
    let bench = Bench::new(weed.endpoint(), &bucket, Way::Down, Turned::Once, content);
    let _ = bench.copies("copy");
    assert_eq!(bench.network.bits(), 1);
    // The one that was opened last carried what was read again, and nothing else.
    let gets = bench.network.gets_by_connection();
    assert!(gets.len() > 1 && gets.last() == Some(&1), "{gets:?}");
}

/// A kill in the middle of a read of which something has turned on its way.
#[tokio::test(flavor = "multi_thread")]
async fn what_turned_before_a_kill_is_found_after_it() {
    let weed = Weed::shared().await;
    for algorithm in [CRC32C, CRC64NVME] {
        let (bucket, content) = (weed.fresh_bucket().await, noise(40 * MIB, 10));
        put(weed.endpoint(), &bucket, "a", algorithm, &content).await;
        let mut bench = Bench::new(weed.endpoint(), &bucket, Way::Down, Turned::Once, content);
        sh(&bench.mount.mount_point(), "head -c 20000000 a > /dev/null");
        assert!(bench.network.bits() > 0, "nothing was turned");
        bench.mount.wait_for("on the disk", |status| status.cache.disk_bytes >= 8 << 20);
        bench.mount.kill();
        bench.mount.mount();
        // The turned byte was in the middle of the first GET, which is on the disk.
        assert!(!bench.copies("first"), "it was not noticed: {algorithm}");
        assert!(bench.copies("second"), "{}", bench.mount.log());
        assert_eq!(bench.xattr("proven"), "yes");
    }
}

/// What is kept of a file that is modified is read from the object: with a bit turned on the way it would have a right sum
/// of its own from then on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_patch_keeps_of_a_file_is_sent_on_right() {
    let weed = Weed::shared().await;
    for (algorithm, len) in
        [(CRC32C, 3 * MIB), (CRC64NVME, 20 * MIB), (MD5, 5 * MIB), ("ours", 28 * MIB)]
    {
        for turned in [Turned::Once, Turned::All] {
            let (bucket, content) = (weed.fresh_bucket().await, noise(len, 6));
            if algorithm != "ours" {
                put(weed.endpoint(), &bucket, "a", algorithm, &content).await;
            }
            let mut bench = Bench::new(weed.endpoint(), &bucket, Way::Down, turned, content);
            if algorithm == "ours" {
                std::fs::write(bench.mount.at("a"), &bench.content).unwrap();
                bench.mount.remount();
            }
            let what = format!("{algorithm} {turned:?}");
            // In the middle of a part; before, a program reads some that is not compared by itself.
            let patch = format!(
                "head -c 100000 a > /dev/null; printf patch | dd of=a bs=1 seek={} conv=notrunc status=none",
                len / 2
            );
            let mut shell = Command::new("sh");
            shell.args(["-c", &patch]).current_dir(bench.mount.mount_point());
            let is_done = shell.status().unwrap().success();
            assert!(bench.network.bits() > 0, "nothing was turned: {what}");
            if is_done {
                bench.content[len / 2..][..5].copy_from_slice(b"patch");
            }
            let stored = Client::new(weed.endpoint()).get(&format!("/{bucket}/a"), &[]).await.body;
            let differs =
                stored.iter().zip(&bench.content).position(|(stored, ours)| stored != ours);
            assert!(
                stored == bench.content,
                "{what}: done {is_done}, the first other at {differs:?}"
            );
            assert!(!(is_done && turned == Turned::All), "{what}: it was not noticed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_among_several_takes_wrong_bytes_for_right_ones() {
    let weed = Weed::shared().await;
    for turned in [Turned::Once, Turned::First, Turned::All] {
        let (bucket, content) = (weed.fresh_bucket().await, noise(20 * MIB, 4));
        put(weed.endpoint(), &bucket, "a", CRC64NVME, &content).await;
        let bench = Bench::new(weed.endpoint(), &bucket, Way::Down, turned, content);
        std::thread::scope(|scope| {
            let copied: Vec<_> = (0..4)
                .map(|nth| {
                    let bench = &bench;
                    scope.spawn(move || bench.copies(&format!("copy {nth}")))
                })
                .collect();
            for copied in copied {
                copied.join().unwrap();
            }
        });
        if turned == Turned::Once {
            assert!(bench.copies("afterwards"), "{}", bench.mount.log());
        }
    }
}

/// A store that tells a wrong sum: it is not believed that the bytes are right, and nothing hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_tells_a_wrong_sum_is_contradicted() {
    let weed = Weed::shared().await;
    for (algorithm, len) in [(CRC32C, 20 * MIB), (CRC64NVME, 20 * MIB), (CRC32C, 1000)] {
        let (bucket, content) = (weed.fresh_bucket().await, noise(len, 5));
        put(weed.endpoint(), &bucket, "a", algorithm, &content).await;
        let bench = Bench::new(weed.endpoint(), &bucket, Way::Whole, Turned::All, content);
        assert!(!bench.copies("first"), "{algorithm} of {len}");
        assert!(!bench.copies("second"), "{algorithm} of {len}");
        let verified = bench.verify(&[]);
        assert!(!verified.status.success(), "{verified:?}");
        assert!(text(&verified.stdout).contains("in the store"), "{verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_reads_as_much_as_it_is_told_to() {
    let weed = Weed::shared().await;
    let (bucket, content) = (weed.fresh_bucket().await, noise(10 * MIB, 6));
    put(weed.endpoint(), &bucket, "a", MD5, &content).await;
    let bench = Bench::new(weed.endpoint(), &bucket, Way::Up, Turned::All, content);
    let state = |options: &[&str]| {
        let options: Vec<&str> = options.iter().copied().chain(["--json"]).collect();
        let verified = bench.verify(&options);
        assert!(verified.status.success(), "{verified:?}");
        let told: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
        let file = told["files"][0].clone();
        let state = file["state"].as_str().unwrap().to_owned();
        (state, file["read_from_disk"].as_u64().unwrap(), file["read_from_store"].as_u64().unwrap())
    };
    assert_eq!(state(&["--cached"]), ("unproven".to_owned(), 0, 0));
    assert_eq!(state(&[]), ("proven".to_owned(), 0, 10 << 20));
    assert!(bench.copies("copy"));
    // An MD5 cannot be had of what came in pieces.
    assert_eq!(bench.xattr("proven"), "no");
    let (told, from_disk, _) = state(&["--cached"]);
    assert_eq!((told.as_str(), from_disk), ("unproven", 10 << 20));
    let (told, _, from_store) = state(&["--full"]);
    assert_eq!((told.as_str(), from_store), ("proven", 10 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_bit_in_a_cache_file_and_one_on_the_way() {
    let weed = Weed::shared().await;
    let (bucket, content) = (weed.fresh_bucket().await, noise(10 * MIB, 7));
    put(weed.endpoint(), &bucket, "a", CRC32C, &content).await;
    let mut bench = Bench::new(weed.endpoint(), &bucket, Way::Up, Turned::All, content.clone());
    bench.mount.unmount();
    // Reading the file back in the background would find the bit before it is asked for.
    bench.mount.set_env("RATCHETFS_WITHOUT", "readback");
    bench.mount.mount();
    assert!(bench.copies("copy"));
    let whole =
        format!("{CRC32C}:{:08x}", u32::from_be_bytes(sum(CRC32C, &content).try_into().unwrap()));
    assert_eq!(bench.xattr("checksum"), whole);
    bench.mount.wait_for("on the disk", |status| status.cache.disk_bytes >= 10 << 20);
    let file = sh(&bench.mount.cache_dir(), "find . -path '*/objects/*' -type f");
    let file = bench.mount.cache_dir().join(file.trim());
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    file.write_all_at(&[!content[5 * MIB]], 5 << 20).unwrap();
    let verified = bench.verify(&["--cached"]);
    assert!(!verified.status.success(), "{verified:?}");
    assert!(text(&verified.stdout).contains("in the cache"), "{verified:?}");
    // It was dropped: what is missing comes from the store.
    let verified = bench.verify(&[]);
    assert!(verified.status.success(), "{verified:?}");
    assert!(bench.copies("copy"));
    // By itself, without a mount; and over a network that turns bits.
    let turning = Turning::start(weed.endpoint(), Way::Down, Turned::All);
    for (endpoint, is_right) in [(weed.endpoint().to_owned(), true), (turning.endpoint(), false)] {
        let address = format!("s3://{bucket}/a");
        let verified = bench.mount.run(&["verify", &address, "--endpoint-url", &endpoint]);
        assert_eq!(verified.status.success(), is_right, "{verified:?}");
    }
    let all =
        bench.mount.run(&["verify", &format!("s3://{bucket}"), "--endpoint-url", weed.endpoint()]);
    assert!(text(&all.stdout).contains("1 proven"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proves_a_file_is_shown_and_cannot_be_set() {
    let store = Embedded::start().await;
    let content = noise(1000, 8);
    let endpoint = store.endpoint();
    let bench = Bench::new(&endpoint, BUCKET, Way::Up, Turned::First, content.clone());
    std::fs::write(bench.mount.at("a"), &content).unwrap();
    assert_eq!(bench.xattr("proven"), "no", "nothing of it came yet");
    assert!(bench.copies("copy"));
    let script = "
import os, errno
assert os.listxattr('a') == []
for name in ('proven', 'checksum'):
    try:
        os.setxattr('a', 'user.ratchetfs.' + name, b'yes')
        raise SystemExit('it was set')
    except OSError as error:
        assert error.errno == errno.EPERM, error
";
    std::fs::write(bench.mount.local("script.py"), script).unwrap();
    let script = bench.mount.local("script.py").display().to_string();
    sh(&bench.mount.mount_point(), &format!("python3 {script}"));
}
