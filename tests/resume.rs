//! The promise: progress never goes backwards. Real mounts are killed with -9 half-way, mounted again,
//! and the same work is done again; the store counts what crosses the wire.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::process::{Command, Stdio};

use http::Method;
use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, noise, sh};

const MIB: usize = 1 << 20;

/// The store is slowed to this many bytes a second and connection, so that a copy can be caught
/// half-way on any machine.
const PACE: u64 = 40 << 20;

fn paced(bench: &Bench) {
    bench.store.faults.set(vec![Rule::new(Fault::Bandwidth(PACE))]);
}

/// Starts a copy by `tool`, kills the mount when the store has acknowledged 60 % of the file, and
/// mounts again. Returns the bytes that were sent.
fn kill_at_60_percent(bench: &mut Bench, tool: &str, len: usize) -> u64 {
    let script = format!("{tool} ../source target");
    let mut writer = Command::new("bash")
        .args(["-c", &script])
        .current_dir(bench.mount_point())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    bench.wait_for("60 % stored", |status| {
        status.transfers.iter().any(|transfer| transfer.bytes_done >= len as u64 * 6 / 10)
    });
    bench.kill();
    assert!(!writer.wait().unwrap().success(), "the copy must have been cut off");
    let sent = bench.bytes_in();
    bench.mount();
    sent
}

fn interrupted_write_is_not_sent_twice(tool: &str) {
    interrupted_write_is_not_sent_twice_on(Bench::start(&[]), tool, 1.07);
}

/// `most`: how often the file may cross the wire, for what is under way when the process is killed.
fn interrupted_write_is_not_sent_twice_on(mut bench: Bench, tool: &str, most: f64) {
    let len = 256 * MIB;
    std::fs::write(bench.local("source"), noise(len, 1)).unwrap();
    paced(&bench);
    let sent_first = kill_at_60_percent(&mut bench, tool, len);
    assert!(sent_first > len as u64 / 2);
    sh(&bench.mount_point(), &format!("{tool} ../source target"));
    let sent = bench.bytes_in();
    assert!(
        sent as f64 <= most * len as f64,
        "{:.3} x the file crossed the wire ({sent_first} before the kill)",
        sent as f64 / len as f64
    );
    sh(&bench.mount_point(), "cmp ../source target");
    assert_eq!(sh(&bench.mount_point(), "ls -A"), "target\n", "nothing else is left");
    let left = bench.run(&["uploads", "list", &bench.mount_point().display().to_string()]);
    assert!(
        String::from_utf8_lossy(&left.stdout).is_empty() || !left.status.success() || {
            String::from_utf8_lossy(&left.stdout).contains("no interrupted uploads")
        }
    );
    let begun = bench.requests(Operation::CreateMultipartUpload);
    let ended = bench.requests(Operation::CompleteMultipartUpload)
        + bench.requests(Operation::AbortMultipartUpload);
    assert!(ended >= begun, "{begun} uploads begun, {ended} ended");
}

#[test]
fn a_killed_cp_sends_only_what_was_not_acknowledged() {
    interrupted_write_is_not_sent_twice("cp");
}

/// A far store is sent to by more parts at once, and so loses more of them.
#[test]
fn a_killed_cp_to_a_far_store_loses_60_mib_at_most() {
    use ratchetfs::embedded::{Fault, Rule};
    let mut bench = Bench::start(&[]);
    let len = 256 * MIB;
    std::fs::write(bench.local("source"), noise(len, 1)).unwrap();
    let far = Rule::new(Fault::Latency(std::time::Duration::from_millis(25)));
    bench.store.faults.set(vec![far, Rule::new(Fault::Bandwidth(PACE / 2))]);
    // Told by an answer to something without a body.
    sh(&bench.mount_point(), "ls; stat absent || true");
    let mut writer = Command::new("cp")
        .args(["../source", "target"])
        .current_dir(bench.mount_point())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let most = std::cell::Cell::new(0);
    bench.wait_for("60 % stored", |status| {
        let Some(transfer) = status.transfers.first() else { return false };
        most.set(most.get().max(transfer.parts_in_flight));
        transfer.bytes_done >= len as u64 * 6 / 10
    });
    assert!((7..=12).contains(&most.get()), "{} parts on their way to a far store", most.get());
    bench.kill();
    assert!(!writer.wait().unwrap().success(), "the copy must have been cut off");
    bench.store.faults.clear();
    bench.mount();
    sh(&bench.mount_point(), "cp ../source target && cmp ../source target");
    let again = bench.bytes_in() as i64 - len as i64;
    assert!(again <= 61 * MIB as i64, "{again} bytes were sent twice");
}

#[test]
fn a_killed_rsync_sends_only_what_was_not_acknowledged() {
    interrupted_write_is_not_sent_twice("rsync -a");
}

#[test]
fn a_killed_rsync_inplace_sends_only_what_was_not_acknowledged() {
    interrupted_write_is_not_sent_twice("rsync -a --inplace");
}

/// Pieces of 1 MiB in an order that has nothing to do with their places, the same at each run.
const SHUFFLED: &str = r#"import os, random
source, target = open("../source", "rb"), os.open("target", os.O_WRONLY | os.O_CREAT)
order = list(range(os.fstat(source.fileno()).st_size >> 20))
random.Random(7).shuffle(order)
for piece in order:
    os.pwrite(target, os.pread(source.fileno(), 1 << 20, piece << 20), piece << 20)
os.close(target)
"#;

#[test]
fn a_killed_random_writer_sends_only_what_was_missing() {
    let bench = Bench::start(&[]);
    std::fs::write(bench.local("shuffled.py"), SHUFFLED).unwrap();
    // Three parts of 8 MiB are under way, and not in step as those of a file that is written in order: the kill may come
    // when all of them have nearly arrived.
    interrupted_write_is_not_sent_twice_on(bench, "python3 ../shuffled.py", 1.10);
}

#[test]
fn a_killed_append_sends_only_what_was_not_acknowledged() {
    let mut bench = Bench::start(&[]);
    let (head, len) = (7 * MIB, 128 * MIB);
    let content = noise(head + len, 8);
    std::fs::write(bench.local("source"), &content).unwrap();
    std::fs::write(bench.local("added"), &content[head..]).unwrap();
    std::fs::write(bench.at("target"), &content[..head]).unwrap();
    let before = bench.bytes_in();
    paced(&bench);
    kill_at_60_percent(&mut bench, "sh -c 'cat ../added >> target' #", len);
    assert_eq!(std::fs::metadata(bench.at("target")).unwrap().len(), head as u64);
    sh(&bench.mount_point(), "cat ../added >> target && cmp ../source target");
    let sent = (bench.bytes_in() - before) as f64 / len as f64;
    // Three parts under way, and the one that the appended bytes share with what stood before.
    assert!(sent <= 1.16, "{sent:.3} x what was appended crossed the wire");
}

#[test]
fn an_rsync_that_is_killed_twice_leaves_nothing_behind() {
    let mut bench = Bench::start(&[]);
    let len = 96 * MIB;
    std::fs::write(bench.local("source"), noise(len, 8)).unwrap();
    paced(&bench);
    kill_at_60_percent(&mut bench, "rsync -a", len);
    let script = "rsync -a ../source target";
    let mut writer = Command::new("bash")
        .args(["-c", script])
        .current_dir(bench.mount_point())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // What the first left is an object to copy from by now, and the second has parts of its own.
    bench.wait_for("three quarters", |status| {
        status.transfers.iter().any(|transfer| transfer.bytes_done >= len as u64 * 3 / 4)
    });
    bench.kill();
    assert!(!writer.wait().unwrap().success(), "the copy must have been cut off");
    bench.mount();
    sh(&bench.mount_point(), &format!("{script}; cmp ../source target"));
    let left = bench.run(&["uploads", "list", &bench.mount_point().display().to_string()]);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "no interrupted uploads\n");
    // By the store's own word, and not by what the mount hides.
    assert_eq!(bench.bucket.keys(), ["target"]);
}

/// Both take their parts from it and leave it at about the same time; the last one deletes what it became.
#[test]
fn two_copies_from_one_interrupted_upload_leave_nothing() {
    let mut bench = Bench::start(&[]);
    let len = 96 * MIB;
    std::fs::write(bench.local("source"), noise(len, 12)).unwrap();
    paced(&bench);
    let sent_before = kill_at_60_percent(&mut bench, "rsync -a", len);
    let mut copies: Vec<_> = ["one", "two"]
        .map(|name| {
            let mut copy = Command::new("cp");
            copy.args(["../source", name]).current_dir(bench.mount_point()).spawn().unwrap()
        })
        .into();
    let mount_point = bench.mount_point().display().to_string();
    while copies.iter_mut().any(|copy| copy.try_wait().unwrap().is_none()) {
        assert!(bench.run(&["uploads", "list", &mount_point]).status.success());
    }
    assert!(copies.iter_mut().all(|copy| copy.wait().unwrap().success()));
    let sent = (bench.bytes_in() - sent_before) as f64 / len as f64;
    assert!(sent < 1.2, "{sent:.3} x the file crossed the wire for two copies of it");
    sh(&bench.mount_point(), "cmp ../source one && cmp ../source two");
    support::mount::wait_until("deleted", || bench.bucket.keys() == ["one", "two"]);
    assert_eq!(bench.bucket.uploads(), 0);
    bench.assert_nothing_interrupted();
}

#[test]
fn a_killed_read_fetches_only_what_was_not_on_the_disk() {
    // With default settings: bytes reach the disk an eighth of a GET at a time, not when all of it is here.
    let mut bench = Bench::start(&[]);
    let len = 256 * MIB;
    std::fs::write(bench.local("source"), noise(len, 2)).unwrap();
    sh(&bench.mount_point(), "cp ../source target");
    bench.remount();
    paced(&bench);
    let counters = bench.store.counters();
    let gets = || counters.requests(Operation::GetObject);
    let bytes = || counters.bytes_out_of(Operation::GetObject);
    let mut reader = Command::new("bash")
        .args(["-c", "cat target > ../copy"])
        .current_dir(bench.mount_point())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // What is asked for by then, a third as much again or more, still comes as a whole.
    support::mount::wait_until("a third sent", || bytes() >= len as u64 / 3);
    // From here on bodies hang in their middle, so that the kill hits the same at any speed of machine and disk.
    // A GET of a mebibyte, of which there may be sixteen, loses less than a quarter of one then.
    let gets_before = gets();
    let hang = Rule::new(Fault::StallBodyAfter(700 << 10)).on(Operation::GetObject);
    bench.store.faults.set(vec![hang]);
    let lost_max = len as u64 / 32;
    let sent = std::cell::Cell::new(0);
    bench.wait_for("nearly all of what arrived on the disk", |status| {
        let stands_still = sent.replace(bytes()) == bytes();
        gets() > gets_before && stands_still && status.cache.disk_bytes + lost_max >= bytes()
    });
    bench.mount.kill();
    assert!(!reader.wait().unwrap().success(), "the read must have been cut off");
    let fetched_first = bytes();
    bench.store.faults.clear();
    bench.mount.mount();
    let kept = bench.status().unwrap().cache.disk_bytes;
    sh(&bench.mount_point(), "cmp ../source target");
    let fetched = bytes();
    assert_eq!(fetched - fetched_first, len as u64 - kept, "what was on the disk is not fetched");
    assert!(
        fetched <= len as u64 + lost_max,
        "{:.3} x the file crossed the wire ({fetched_first} bytes before the kill, {kept} kept)",
        fetched as f64 / len as f64
    );
    println!("{:.3} x the file crossed the wire", fetched as f64 / len as f64);
}

#[test]
fn an_upload_that_the_store_forgot_is_sent_again() {
    let mut bench = Bench::start(&[]);
    let len = 96 * MIB;
    std::fs::write(bench.local("source"), noise(len, 3)).unwrap();
    paced(&bench);
    kill_at_60_percent(&mut bench, "cp", len);
    bench.unmount();
    let id = bench.bucket.send(Method::GET, "?uploads", &[], "").element("UploadId");
    bench.bucket.delete(&format!("target?uploadId={id}"));
    bench.store.faults.clear();
    bench.mount();
    sh(&bench.mount_point(), "cp ../source target && cmp ../source target");
}

#[test]
fn a_source_that_changed_in_one_part_sends_that_part_only() {
    let mut bench = Bench::start(&[]);
    let len = 96 * MIB;
    let mut content = noise(len, 4);
    std::fs::write(bench.local("source"), &content).unwrap();
    paced(&bench);
    let sent_first = kill_at_60_percent(&mut bench, "cp", len);
    content[20 * MIB] ^= 1;
    std::fs::write(bench.local("source"), &content).unwrap();
    sh(&bench.mount_point(), "cp ../source target && cmp ../source target");
    let sent = bench.bytes_in();
    assert!(
        sent <= (len + 5 * MIB) as u64 + len as u64 / 5,
        "{sent} bytes sent, {sent_first} of them before the kill"
    );
}

#[test]
fn interrupted_uploads_are_listed_and_aborted_mounted_or_not() {
    let mut bench = Bench::start(&[]);
    let len = 64 * MIB;
    std::fs::write(bench.local("source"), noise(len, 5)).unwrap();
    paced(&bench);
    kill_at_60_percent(&mut bench, "cp", len);
    let mount_point = bench.mount_point().display().to_string();
    let listed = bench.run(&["uploads", "list", &mount_point]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("target"), "{listed:?}");
    // By a relative path: that mount and no other; a key of its own; neither is an error.
    let other = Bench::start(&[]);
    let relative = |bench: &Bench, named: &str| {
        let mut command = bench.program();
        let listed = command.args(["uploads", "list", named]).current_dir(bench.dir.path());
        let listed = listed.output().unwrap();
        (listed.status.success(), String::from_utf8_lossy(&listed.stdout).into_owned())
    };
    assert_eq!(relative(&other, "mnt"), (true, "no interrupted uploads\n".to_owned()));
    for named in ["mnt", "mnt/", "./mnt", "target"] {
        let (listed, said) = relative(&bench, named);
        assert!(listed && said.contains("target"), "{named}: {said}");
    }
    assert_eq!(relative(&bench, "elsewhere"), (false, String::new()));
    for action in ["abort", "resume"] {
        let refused = bench.run(&["uploads", action, &mount_point, "absent"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("absent"), "{action}: {said}");
    }
    drop(other);
    bench.unmount();
    let cache = bench.cache_dir().display().to_string();
    let endpoint = bench.store.endpoint();
    let listed = bench.run(&["uploads", "list", "--cache-dir", &cache]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("target"), "{listed:?}");
    for unknown in [
        vec!["uploads", "abort", "absent", "--cache-dir", &cache, "--endpoint-url", &endpoint],
        // Not a key: a mount point where nothing is mounted any more.
        vec!["uploads", "list", &mount_point],
    ] {
        let refused = bench.run(&unknown);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{unknown:?}");
    }
    let aborted =
        bench.run(&["uploads", "abort", "--cache-dir", &cache, "--endpoint-url", &endpoint]);
    assert!(aborted.status.success(), "{aborted:?}");
    assert!(bench.requests(Operation::AbortMultipartUpload) > 0);
    let listed = bench.run(&["uploads", "list", "--cache-dir", &cache]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("target"), "{listed:?}");
}

#[test]
fn eight_files_killed_at_once_all_go_on() {
    let mut bench = Bench::start(&[]);
    let len = 32 * MIB;
    for number in 0..8 {
        std::fs::write(bench.local(&format!("source{number}")), noise(len, 10 + number)).unwrap();
    }
    paced(&bench);
    let copy = "for n in 0 1 2 3 4 5 6 7; do rsync -a ../source$n target$n & done; wait";
    let mut writers = Command::new("bash")
        .args(["-c", copy])
        .current_dir(bench.mount_point())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    bench.wait_for("half stored", |status| {
        status.transfers.iter().map(|transfer| transfer.bytes_done).sum::<u64>() >= 4 * len as u64
    });
    bench.kill();
    writers.wait().unwrap();
    bench.mount();
    sh(&bench.mount_point(), copy);
    let sent = bench.bytes_in();
    // One part of each is under way at the kill: of eight files, 40 MiB at most.
    assert!(sent as f64 <= 1.17 * 8.0 * len as f64, "{sent} bytes for {} of files", 8 * len);
    for number in 0..8 {
        sh(&bench.mount_point(), &format!("cmp ../source{number} target{number}"));
    }
    assert_eq!(sh(&bench.mount_point(), "ls -A | wc -l").trim(), "8");
}

#[test]
fn killed_after_the_completion_the_next_copy_sends_nothing() {
    let mut bench = Bench::start(&[]);
    let len = 23 * MIB;
    std::fs::write(bench.local("source"), noise(len, 6)).unwrap();
    bench.store.faults.set(vec![
        Rule::new(Fault::LoseAnswer).on(Operation::CompleteMultipartUpload).times(1),
        Rule::new(Fault::Stall).on(Operation::CompleteMultipartUpload),
    ]);
    let mut writer = Command::new("bash")
        .args(["-c", "cp ../source target"])
        .current_dir(bench.mount_point())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let counters = bench.store.counters();
    support::mount::wait_until("completed", || {
        counters.requests(Operation::CompleteMultipartUpload) > 1
    });
    bench.kill();
    assert!(!writer.wait().unwrap().success(), "the copy must have been cut off");
    bench.store.faults.clear();
    let before = bench.bytes_in();
    bench.mount();
    sh(&bench.mount_point(), "cmp ../source target");
    sh(&bench.mount_point(), "cp ../source target && cmp ../source target");
    sh(&bench.mount_point(), "cmp ../source target && test \"$(ls -A)\" = target");
    let sent = bench.bytes_in() - before;
    assert!(sent < 4 * MIB as u64, "{sent} bytes sent again");
    bench.remount();
    sh(&bench.mount_point(), "cmp ../source target");
}

/// The keys below a prefix, past every mount.
fn keys_below(bench: &Bench, prefix: &str) -> Vec<String> {
    bench.bucket.keys().into_iter().filter(|key| key.starts_with(prefix)).collect()
}

#[test]
fn a_killed_directory_rename_is_finished_by_the_next_mount() {
    use std::time::Duration;
    let mut bench = Bench::start(&["--concurrency", "2"]);
    let mnt = bench.mount_point();
    sh(
        &mnt,
        "mkdir -p ../source/old/sub && cd ../source/old && for n in $(seq 30); do
        head -c $((2000 + n)) /dev/urandom > f$n; head -c $((3000 + n)) /dev/urandom > sub/g$n; done
        chmod 640 f7; touch -d 2020-02-02T02:02:02.5Z f8",
    );
    sh(&mnt, "rsync -a ../source/old .");
    // Cut among the copies, when some are made; and between the last copy and the deletions.
    let slow_copies = Rule::new(Fault::Latency(Duration::from_millis(40)));
    let cuts = [
        (slow_copies.on(Operation::CopyObject), Operation::CopyObject, 20),
        (Rule::new(Fault::Stall).on(Operation::DeleteObjects), Operation::DeleteObjects, 1),
    ];
    for (number, (fault, operation, count)) in cuts.into_iter().enumerate() {
        let (from, to) = (format!("old{number}"), format!("new{number}"));
        sh(&mnt, &format!("cp -a old {from} && sync {from}/*"));
        bench.wait_for("all saved", |status| status.pending_files == 0);
        let of_old = keys_below(&bench, &format!("{from}/")).len();
        assert!(of_old >= 60, "{of_old}");
        bench.store.faults.set(vec![fault]);
        let before = bench.requests(operation);
        let (source, target) = (bench.at(&from), bench.at(&to));
        let rename = std::thread::spawn(move || std::fs::rename(source, target));
        let counters = bench.store.counters();
        support::mount::wait_until("half-way", || counters.requests(operation) >= before + count);
        bench.kill();
        assert!(rename.join().unwrap().is_err(), "the rename must have been cut off");
        bench.store.faults.clear();
        let (left, there) = (keys_below(&bench, &from).len(), keys_below(&bench, &to).len());
        assert!(left == of_old && there > 0, "{left} under the old name, {there} under the new");
        assert_eq!(there < of_old, number == 0, "{there} of {of_old} copied");
        bench.mount();
        // Seen by the first that asks: no program can write where the rename still copies.
        let whole = format!(
            "test ! -e {from} && diff -r {to} ../source/old && rsync -ani ../source/old/ {to}/"
        );
        assert_eq!(sh(&mnt, &whole), "", "rsync has something to move");
        assert_eq!(keys_below(&bench, &from), Vec::<String>::new());
        assert_eq!(keys_below(&bench, &to).len(), of_old);
    }
    assert_eq!(sh(&mnt, "ls -A").split_whitespace().collect::<Vec<_>>(), ["new0", "new1", "old"]);
    let (operation, copies) = (Operation::CopyObject, bench.store.counters());
    let before = copies.requests(operation);
    bench.remount();
    sh(&mnt, "diff -r new0 ../source/old");
    assert_eq!(bench.requests(operation), before, "finished is finished");
}

#[test]
fn an_interrupted_upload_expires() {
    use std::io::Write;
    let expiry = std::time::Duration::from_secs(6);
    let mut bench = Bench::start(&["--resume-expiry", "6s", "--part-size", "5MiB"]);
    let interrupted = |bench: &mut Bench, name: &str| {
        let mut file = std::fs::File::create(bench.at(name)).unwrap();
        file.write_all(&noise(11 * MIB, 7)).unwrap();
        file.sync_all().unwrap();
        bench.kill();
        drop(file);
        bench.mount();
    };
    let listed = |bench: &Bench| {
        let listed = bench.run(&["uploads", "list", &bench.mount_point().display().to_string()]);
        String::from_utf8_lossy(&listed.stdout).into_owned()
    };
    let staged = |bench: &Bench| {
        sh(&bench.cache_dir(), "find . -type f -path '*staging*' | wc -l").trim().to_owned()
    };
    let begun = std::time::Instant::now();
    interrupted(&mut bench, "older");
    assert!(listed(&bench).contains("/older"), "{}", listed(&bench));
    assert_eq!(staged(&bench), "1");
    std::thread::sleep(expiry.saturating_sub(begun.elapsed()) + std::time::Duration::from_secs(1));
    interrupted(&mut bench, "younger");
    support::mount::wait_until("expired", || !listed(&bench).contains("/older"));
    assert!(listed(&bench).contains("/younger"), "{}", listed(&bench));
    support::mount::wait_until("removed", || staged(&bench) == "1");
    let left = bench.bucket.send(Method::GET, "?uploads", &[], "").text();
    assert_eq!(left.matches("<UploadId>").count(), 1, "{left}");
    assert!(left.contains("younger"), "{left}");
}

/// `rsync` has closed its temporary file, which is an object by now, and is killed before the rename. The next
/// run writes the same under another temporary name.
#[test]
fn an_rsync_killed_before_its_rename_sends_nothing_again() {
    let mut bench = Bench::start(&["--metadata-ttl", "0s"]);
    let len = 41 * MIB;
    std::fs::write(bench.local("source"), noise(len, 20)).unwrap();
    bench.store.faults.set(vec![Rule::new(Fault::Stall).on(Operation::CopyObject)]);
    let counters = bench.store.counters();
    let mut writer = Command::new("rsync")
        .args(["-a", "../source", "target"])
        .current_dir(bench.mount_point())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    support::mount::wait_until("closed", || counters.requests(Operation::CopyObject) > 0);
    bench.kill();
    assert!(!writer.wait().unwrap().success(), "the rename must have been cut off");
    bench.store.faults.clear();
    bench.mount();
    let mut sent = bench.bytes_in();
    let mut again = |bench: &Bench, script: &str| {
        sh(&bench.mount_point(), script);
        let before = std::mem::replace(&mut sent, bench.bytes_in());
        (sent - before) as f64 / len as f64
    };
    // Its attributes are being saved meanwhile, by a copy of the object onto itself.
    let resent = again(&bench, "rsync -a ../source target && cmp ../source target");
    assert!(resent < 0.01, "{resent:.3} x the file was sent again");
    for script in [
        // Over the object itself, to another name, after a remount, over a name that it was moved to.
        "cp ../source target && cmp ../source target",
        "cp -p ../source other && cmp ../source other && rm .target.*",
        "mv target moved && rm other && cp ../source moved && cmp ../source moved",
    ] {
        let resent = again(&bench, script);
        assert!(resent < 0.01, "{script}: {resent:.3} x the file was sent again");
        bench.remount();
    }
    // One part has changed.
    let script = "printf x | dd of=../source bs=1 seek=20000000 conv=notrunc status=none";
    let resent = again(&bench, &format!("{script}; cp ../source moved && cmp ../source moved"));
    assert!((0.1..0.2).contains(&resent), "{resent:.3} x the file was sent");
    // Replaced, and deleted, behind our back.
    for replaced in [true, false] {
        if replaced {
            bench.bucket.put("moved", noise(len, 21));
        } else {
            bench.bucket.delete("moved");
        }
        again(&bench, "true");
        let resent = again(&bench, "cp ../source new && cmp ../source new");
        assert!((0.99..1.01).contains(&resent), "{resent:.3} x the file was sent");
        sh(&bench.mount_point(), "rm -f moved && mv new moved");
    }
    bench.unmount();
    bench.option("--resume-expiry");
    bench.option("1ms");
    bench.mount();
    support::mount::wait_until("forgotten", || {
        again(&bench, "rm -f new && cp ../source new && cmp ../source new") > 0.99
    });
}
