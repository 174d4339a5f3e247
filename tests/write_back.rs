//! `--write-back` on real mounts: a closed file is safe here, whatever happens to the process, and gets
//! to the store in the end, whatever happens to the store.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, noise, sh};

const MIB: usize = 1 << 20;
const OPTIONS: [&str; 3] = ["--write-back", "--part-size", "5MiB"];

/// Nothing gets to the store, and nothing is refused for good.
fn hold_uploads(bench: &Bench) {
    bench.store.faults.set(vec![
        Rule::new(Fault::slow_down()).on(Operation::PutObject),
        Rule::new(Fault::slow_down()).on(Operation::UploadPart),
        Rule::new(Fault::slow_down()).on(Operation::CompleteMultipartUpload),
    ]);
}

#[test]
fn a_closed_file_outlives_a_kill_and_is_uploaded_then() {
    let mut bench = Bench::start(&OPTIONS);
    std::fs::create_dir(bench.at("d")).unwrap();
    hold_uploads(&bench);
    let small = noise(1000, 1);
    let large = noise(23 * MIB + 17, 2);
    std::fs::write(bench.at("small"), &small).unwrap();
    std::fs::write(bench.at("d/large"), &large).unwrap();
    bench.kill();
    bench.mount();
    assert!(std::fs::read(bench.at("d/large")).unwrap() == large, "readable before its upload");
    assert!(bench.bucket.object("d/large").is_none());
    assert_eq!(sh(&bench.mount_point(), "find . -type f | sort"), "./d/large\n./small\n");
    bench.store.faults.clear();
    bench.drained();
    assert!(bench.bucket.object("small").unwrap() == small);
    assert!(bench.bucket.object("d/large").unwrap() == large);
    bench.remount();
    assert!(std::fs::read(bench.at("d/large")).unwrap() == large);
}

/// Small files are in the journal with their content, as many as its share of memory takes; the rest, and what is
/// closed once more, is in the staging folder. A kill, or a loss of power, takes neither.
#[test]
fn small_files_are_closed_by_one_sync_of_the_journal() {
    let mut bench = Bench::start(&[&OPTIONS[..], &["--memory", "32MiB"]].concat());
    hold_uploads(&bench);
    let staging = |bench: &Bench| -> usize {
        let count = "find . -path '*staging/*' -type f | wc -l";
        sh(&bench.cache_dir(), count).trim().parse().unwrap()
    };
    let content = |number: usize| noise(4 << 10, number as u64);
    let is_content = |bench: &Bench, number: usize| {
        std::fs::read(bench.at(&format!("f{number}"))).unwrap() == content(number)
    };
    for number in 0..400 {
        std::fs::write(bench.at(&format!("f{number}")), content(number)).unwrap();
    }
    assert_eq!(staging(&bench), 0);
    assert_eq!(bench.status().unwrap().cache.staged_bytes, 400 * 4096);
    bench.lose_power();
    bench.mount();
    assert!((0..400).all(|number| is_content(&bench, number)));
    // Written again while it waits; and more of them than there is room for: a sixteenth of --memory.
    let append = |name: &str, text: &str| {
        let mut file = OpenOptions::new().append(true).open(bench.at(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    std::fs::write(bench.at("log"), "one").unwrap();
    append("log", "two");
    std::fs::write(bench.at("cut"), "abcdef").unwrap();
    OpenOptions::new().write(true).open(bench.at("cut")).unwrap().set_len(2).unwrap();
    std::fs::write(bench.at("grown"), "small").unwrap();
    let grown = [b"small".to_vec(), noise(11 * MIB, 5)].concat();
    let file = OpenOptions::new().write(true).open(bench.at("grown")).unwrap();
    file.write_all_at(&grown[5..], 5).unwrap();
    drop(file);
    for number in 400..600 {
        std::fs::write(bench.at(&format!("f{number}")), content(number)).unwrap();
    }
    assert!(staging(&bench) > 50);
    append("log", "three");
    bench.kill();
    bench.mount();
    let as_closed = |bench: &Bench| {
        assert_eq!(std::fs::read(bench.at("log")).unwrap(), b"onetwothree");
        assert_eq!(std::fs::read(bench.at("cut")).unwrap(), b"ab");
        assert!(std::fs::read(bench.at("grown")).unwrap() == grown);
        assert!((0..600).all(|number| is_content(bench, number)));
    };
    as_closed(&bench);
    bench.store.faults.clear();
    bench.drained();
    bench.remount();
    as_closed(&bench);
    assert_eq!(bench.bucket.object("log").unwrap(), b"onetwothree");
    assert_eq!(staging(&bench), 0);
}

/// Their buffers are much longer than they are; their content is in the journal or the staging folder.
#[test]
fn small_files_that_wait_hold_no_memory_of_writers() {
    let bench = Bench::start(&[&OPTIONS[..], &["--memory", "32MiB"]].concat());
    hold_uploads(&bench);
    for number in 0..1500 {
        std::fs::write(bench.at(&format!("f{number}")), noise(1 << 10, number)).unwrap();
    }
    // Nothing had to make room.
    assert_eq!(sh(&bench.cache_dir(), "find . -path '*staging/*' -type f | wc -l").trim(), "0");
    assert_eq!(bench.status().unwrap().cache.staged_bytes, 1500 << 10);
    bench.store.faults.clear();
    bench.drained();
    assert!((0..1500).all(|n| bench.bucket.object(&format!("f{n}")).unwrap() == noise(1 << 10, n)));
}

#[test]
fn more_files_may_wait_than_a_process_may_have_open() {
    let bench = Bench::start(&OPTIONS);
    hold_uploads(&bench);
    let pid = bench.status().unwrap().process.pid;
    sh(&bench.mount_point(), &format!("prlimit --pid {pid} --nofile=256"));
    // Too long for the journal: each has a staging file.
    let content = |number: u64| noise(70 << 10, number);
    for number in 0..400 {
        std::fs::write(bench.at(&format!("f{number}")), content(number)).unwrap();
    }
    assert!((0..400).all(|n| std::fs::read(bench.at(&format!("f{n}"))).unwrap() == content(n)));
    bench.store.faults.clear();
    bench.drained();
    assert!((0..400).all(|n| bench.bucket.object(&format!("f{n}")).unwrap() == content(n)));
}

/// Opened while it waited for its upload, uploaded, and replaced or removed: a program that has it open reads it to the end.
#[test]
fn a_file_that_was_opened_before_its_upload_outlives_its_name() {
    let bench = Bench::start(&[&OPTIONS[..], &["--cache-size", "0"]].concat());
    let content = noise(6 * MIB, 8);
    let files = [("removed", &b"small"[..]), ("replaced", b"short"), ("large", &content)];
    hold_uploads(&bench);
    let open = files.map(|(name, content)| {
        std::fs::write(bench.at(name), content).unwrap();
        File::open(bench.at(name)).unwrap()
    });
    bench.store.faults.clear();
    bench.drained();
    std::fs::remove_file(bench.at("removed")).unwrap();
    for name in ["replaced", "large"] {
        std::fs::write(bench.at("other"), "newer").unwrap();
        std::fs::rename(bench.at("other"), bench.at(name)).unwrap();
    }
    for (file, (name, content)) in open.iter().zip(files) {
        let mut read = vec![0; content.len()];
        file.read_exact_at(&mut read, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read == content, "{name}");
    }
    assert_eq!(std::fs::read(bench.at("large")).unwrap(), b"newer");
}

/// Deletions are answered by the store, for good or not at all.
fn hold_deletions(bench: &Bench, fault: Fault) {
    let rules = [Operation::DeleteObject, Operation::DeleteObjects];
    let rules = rules.map(|operation| Rule::new(fault.clone()).on(operation));
    bench.store.faults.set(rules.to_vec());
}

#[test]
fn removing_a_tree_takes_a_request_for_a_thousand_files() {
    let mut bench = Bench::start(&OPTIONS);
    let mnt = bench.mount_point();
    sh(&mnt, "mkdir -p t/deep && for n in $(seq 1500); do echo $n > t/$n; done && cp t/7 t/deep");
    bench.drained();
    let requests = |bench: &Bench| {
        let count = |operation| bench.requests(operation);
        count(Operation::DeleteObject) + count(Operation::DeleteObjects)
    };
    let before = requests(&bench);
    sh(&mnt, "rm -r t && test ! -e t && test -z \"$(ls -A)\"");
    let taken = requests(&bench) - before;
    assert!(taken <= 30, "{taken} requests for 1,501 files and two directories");
    // The name is free at once, and what takes it is not hit by the deletion of what was there.
    sh(&mnt, "echo old > f && sync f");
    bench.drained();
    for _ in 0..20 {
        sh(&mnt, "rm f && test ! -e f && echo new > f && mv f g && mv g f && test $(cat f) = new");
    }
    bench.remount();
    assert_eq!(bench.bucket.object("f").unwrap(), b"new\n");
    assert_eq!(sh(&mnt, "find . -mindepth 1"), "./f\n");
}

#[test]
fn an_unlinked_file_stays_away_after_a_kill() {
    let mut bench = Bench::start(&OPTIONS);
    sh(&bench.mount_point(), "echo a > gone && echo b > elsewhere && mkdir d && echo c > d/kept");
    bench.drained();
    hold_deletions(&bench, Fault::slow_down());
    sh(&bench.mount_point(), "rm gone elsewhere");
    let status = bench.status().unwrap();
    assert_eq!(status.pending_deletions, 2);
    bench.kill();
    assert!(bench.bucket.object("gone").is_some(), "the store has not heard of it");
    bench.bucket.put("elsewhere", "another machine's");
    bench.store.faults.clear();
    bench.mount();
    assert_eq!(sh(&bench.mount_point(), "find . -type f | sort"), "./d/kept\n./elsewhere\n");
    assert!(bench.bucket.object("gone").is_none());
    assert_eq!(bench.bucket.object("elsewhere").unwrap(), b"another machine's");
    bench.wait_for("nothing left", |status| status.pending_deletions == 0);
}

#[test]
fn what_the_store_refuses_to_delete_comes_back_and_is_told() {
    let mut bench = Bench::start(&OPTIONS);
    sh(&bench.mount_point(), "mkdir d && echo a > d/f");
    bench.drained();
    hold_deletions(&bench, Fault::denied());
    let said = sh(&bench.mount_point(), "rm -r d 2>&1 && exit 1; true");
    assert!(said.contains("d") && said.contains("not empty"), "{said}");
    let refused = |what: &str| what.contains("d/f cannot be deleted") && what.contains("403");
    bench.wait_for("told", |status| status.recent_errors.iter().any(|error| refused(&error.what)));
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(sh(&bench.mount_point(), "cat d/f"), "a\n");
    let mount_point = bench.mount_point();
    let umount = bench.run(&["umount", mount_point.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&umount.stderr).into_owned();
    assert!(!umount.status.success() && refused(&said), "{said}");
    bench.store.faults.clear();
    sh(&bench.mount_point(), "rm -r d");
    bench.unmount();
    assert!(bench.bucket.object("d/f").is_none());
}

#[test]
fn parts_that_arrived_before_the_kill_are_not_sent_again() {
    let mut bench = Bench::start(&OPTIONS);
    let content = noise(40 * MIB, 3);
    bench.store.faults.set(vec![
        Rule::new(Fault::slow_down()).on(Operation::UploadPart).skip(4),
        Rule::new(Fault::slow_down()).on(Operation::CompleteMultipartUpload),
    ]);
    std::fs::write(bench.at("f"), &content).unwrap();
    bench.wait_for("four parts stored", |status| {
        status.transfers.iter().any(|transfer| transfer.parts_done >= 4)
    });
    bench.kill();
    bench.store.faults.clear();
    let before = bench.bytes_in();
    bench.mount();
    bench.drained();
    assert!(bench.bucket.object("f").unwrap() == content);
    let sent = bench.bytes_in() - before;
    assert!(sent <= 21 * MIB as u64, "{sent} bytes after the kill");
}

#[test]
fn files_on_their_way_are_like_local_ones() {
    let mut bench = Bench::start(&OPTIONS);
    let mnt = bench.mount_point();
    // An object that is to be replaced by a file that is not uploaded yet.
    std::fs::write(bench.at("old"), b"old content").unwrap();
    bench.drained();
    hold_uploads(&bench);
    sh(&mnt, "echo one > a && mv a b && test ! -e a && test \"$(cat b)\" = one");
    sh(&mnt, "echo two > gone && rm gone && test ! -e gone");
    sh(&mnt, "echo three > c && echo more >> c && test \"$(cat c)\" = $'three\\nmore'");
    sh(&mnt, "head -c 100000 /dev/zero > d && truncate -s 10 d && test $(stat -c %s d) = 10");
    sh(&mnt, "echo temp > t && echo target > u && mv t u && test \"$(cat u)\" = temp");
    sh(&mnt, "echo new > n && mv n old && test \"$(cat old)\" = new");
    sh(&mnt, "echo again > e && echo shorter > e && test \"$(cat e)\" = shorter");
    bench.kill();
    bench.mount();
    let listed = sh(&mnt, "ls -A");
    assert_eq!(listed, "b\nc\nd\ne\nold\nu\n");
    assert_eq!(sh(&mnt, "cat b c e old u"), "one\nthree\nmore\nshorter\nnew\ntemp\n");
    bench.store.faults.clear();
    bench.drained();
    assert_eq!(bench.bucket.object("b").unwrap(), b"one\n");
    assert_eq!(bench.bucket.object("u").unwrap(), b"temp\n");
    assert_eq!(bench.bucket.object("old").unwrap(), b"new\n");
    assert_eq!(bench.bucket.object("d").unwrap(), [0; 10]);
    for absent in ["a", "gone", "t", "n"] {
        assert!(bench.bucket.object(absent).is_none(), "{absent}");
    }
    bench.remount();
    assert_eq!(sh(&mnt, "ls -A"), listed);
}

/// The object below must not come to light again when the file that replaced it goes.
#[test]
fn what_a_file_replaced_is_gone_with_it() {
    let mut bench = Bench::start(&OPTIONS);
    let mnt = bench.mount_point();
    sh(&mnt, "echo old > moved; echo old > emptied");
    bench.drained();
    hold_uploads(&bench);
    sh(&mnt, "echo new > n && mv n moved && rm moved && test ! -e moved");
    sh(&mnt, "echo new > emptied");
    bench.kill();
    bench.mount();
    sh(&mnt, "rm emptied && test ! -e emptied && test ! -e moved");
    assert!(bench.bucket.object("moved").is_none());
    assert!(bench.bucket.object("emptied").is_none());
}

#[test]
fn attributes_of_a_closed_file_outlive_a_kill_with_it() {
    let mut bench = Bench::start(&OPTIONS);
    let mnt = bench.mount_point();
    hold_uploads(&bench);
    sh(&mnt, "echo x > f && chmod 640 f && touch -d @1700000000.123456789 f");
    sh(&mnt, "setfattr -n user.colour -v red f");
    bench.kill();
    bench.mount();
    let seen = "stat -c '%a %.9Y' f && getfattr --only-values -n user.colour f && cat f";
    let expected = "640 1700000000.123456789\nredx\n";
    assert_eq!(sh(&mnt, seen), expected);
    bench.store.faults.clear();
    bench.drained();
    bench.unmount();
    std::fs::remove_dir_all(bench.cache_dir()).unwrap();
    bench.mount();
    assert_eq!(sh(&mnt, seen), expected);
}

#[test]
fn unmounting_drains() {
    let mut bench = Bench::start(&OPTIONS);
    bench.store.faults.set(vec![Rule::new(Fault::Latency(Duration::from_millis(300)))]);
    for number in 0..20 {
        std::fs::write(bench.at(&format!("f{number}")), noise(10_000, number)).unwrap();
    }
    let mount_point = bench.mount_point().display().to_string();
    let ended = bench.run(&["umount", &mount_point]);
    assert!(ended.status.success(), "{ended:?}");
    bench.store.faults.clear();
    for number in 0..20 {
        let found = bench.bucket.object(&format!("f{number}"));
        assert!(found.unwrap() == noise(10_000, number));
    }
    bench.gone();
    bench.mount();
    assert_eq!(sh(&bench.mount_point(), "ls | wc -l").trim(), "20");
}

#[test]
fn what_the_store_refuses_is_kept_shown_and_sent_on_demand() {
    let mut bench = Bench::start(&OPTIONS);
    let mount_point = bench.mount_point().display().to_string();
    let content = noise(12 * MIB, 7);
    bench.store.faults.set(vec![
        Rule::new(Fault::denied()).on(Operation::PutObject),
        Rule::new(Fault::denied()).on(Operation::UploadPart),
    ]);
    std::fs::write(bench.at("small"), b"kept").unwrap();
    std::fs::write(bench.at("large"), &content).unwrap();
    let begun = Instant::now();
    loop {
        let listed = bench.run(&["uploads", "list", &mount_point]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        if text.contains("small") && text.contains("AccessDenied") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{listed:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(std::fs::read(bench.at("small")).unwrap(), b"kept");
    assert!(std::fs::read(bench.at("large")).unwrap() == content);
    bench.kill();
    bench.mount();
    assert_eq!(std::fs::read(bench.at("small")).unwrap(), b"kept");
    assert!(std::fs::read(bench.at("large")).unwrap() == content);
    bench.store.faults.clear();
    let resumed = bench.run(&["uploads", "resume", &mount_point]);
    assert!(resumed.status.success(), "{resumed:?}");
    bench.drained();
    assert_eq!(bench.bucket.object("small").unwrap(), b"kept");
    assert!(bench.bucket.object("large").unwrap() == content);
}

#[test]
fn an_outage_is_waited_out() {
    let bench = Bench::start(&["--write-back", "--part-size", "5MiB", "--memory", "32MiB"]);
    let mut large = File::create(bench.at("f")).unwrap();
    let mut small = File::create(bench.at("g")).unwrap();
    bench.store.faults.set_outage(true);
    // More than memory holds: the disk takes it.
    let content = noise(80 * MIB, 8);
    large.write_all(&content).unwrap();
    drop(large);
    small.write_all(b"small").unwrap();
    drop(small);
    assert!(std::fs::read(bench.at("f")).unwrap() == content);
    bench.store.faults.set_outage(false);
    bench.drained();
    assert!(bench.bucket.object("f").unwrap() == content);
    assert_eq!(bench.bucket.object("g").unwrap(), b"small");
}

#[test]
fn a_file_is_read_and_changed_while_it_is_sent() {
    let bench = Bench::start(&OPTIONS);
    bench.store.faults.set(vec![Rule::new(Fault::Bandwidth(4 << 20))]);
    let mut content = noise(20 * MIB, 9);
    std::fs::write(bench.at("f"), &content).unwrap();
    let begun = Instant::now();
    let mut head = vec![0; 4096];
    File::open(bench.at("f")).unwrap().read_exact(&mut head).unwrap();
    assert!(head == content[..4096]);
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(1), "a reader waited {waited:?} for the upload");
    bench.store.faults.clear();
    let file = OpenOptions::new().read(true).write(true).open(bench.at("f")).unwrap();
    for at in [0, 7 * MIB, 19 * MIB] {
        file.write_all_at(b"changed", at as u64).unwrap();
        content[at..at + 7].copy_from_slice(b"changed");
    }
    drop(file);
    let mut file = OpenOptions::new().append(true).open(bench.at("f")).unwrap();
    file.write_all(b"more").unwrap();
    drop(file);
    content.extend_from_slice(b"more");
    bench.drained();
    assert!(bench.bucket.object("f").unwrap() == content);
    assert!(std::fs::read(bench.at("f")).unwrap() == content);
}

#[test]
fn killed_again_and_again_it_arrives_whole() {
    let mut bench = Bench::start(&OPTIONS);
    bench.store.faults.set(vec![Rule::new(Fault::Bandwidth(20 << 20))]);
    let contents: Vec<Vec<u8>> = (0..6).map(|n| noise(11 * MIB + n * 1000, n as u64)).collect();
    for (number, content) in contents.iter().enumerate() {
        std::fs::write(bench.at(&format!("f{number}")), content).unwrap();
    }
    for pause in [5, 150, 300, 450] {
        std::thread::sleep(Duration::from_millis(pause));
        bench.kill();
        bench.mount();
        for (number, content) in contents.iter().enumerate() {
            assert!(std::fs::read(bench.at(&format!("f{number}"))).unwrap() == *content);
        }
    }
    bench.store.faults.clear();
    bench.drained();
    bench.remount();
    for (number, content) in contents.iter().enumerate() {
        assert!(bench.bucket.object(&format!("f{number}")).unwrap() == *content, "f{number}");
    }
    let begun = bench.requests(Operation::CreateMultipartUpload);
    assert_eq!(bench.bucket.uploads(), 0, "{begun} begun");
}

/// The store acts on requests of these kinds and never answers: the moment to be killed in.
fn act_and_never_answer(bench: &Bench, operation: Operation) {
    bench.store.faults.set(vec![
        Rule::new(Fault::LoseAnswer).on(operation).times(1),
        Rule::new(Fault::Stall).on(operation),
    ]);
}

#[test]
fn killed_before_its_record_a_completion_is_known_for_ours() {
    let mut bench = Bench::start(&OPTIONS);
    let mut large = noise(17 * MIB, 31);
    let mut small = noise(3000, 32);
    std::fs::write(bench.at("large"), &large).unwrap();
    std::fs::write(bench.at("small"), &small).unwrap();
    bench.drained();
    for (name, content, operation) in [
        ("large", &mut large, Operation::CompleteMultipartUpload),
        ("small", &mut small, Operation::PutObject),
    ] {
        let before = bench.requests(operation);
        act_and_never_answer(&bench, operation);
        let file = OpenOptions::new().write(true).open(bench.at(name)).unwrap();
        file.write_all_at(b"changed", 1000).unwrap();
        content[1000..1007].copy_from_slice(b"changed");
        drop(file);
        let counters = bench.store.counters();
        support::mount::wait_until("completed", || counters.requests(operation) > before + 1);
        bench.kill();
        bench.store.faults.clear();
        let sent_before = bench.bytes_in();
        bench.mount();
        bench.drained();
        let sent = bench.bytes_in() - sent_before;
        assert!(sent < 100_000, "{name}: {sent} bytes sent again");
        assert!(bench.bucket.object(name).unwrap() == *content, "{name}");
        assert!(std::fs::read(bench.at(name)).unwrap() == *content, "{name}");
        let status = bench.status().unwrap();
        assert_eq!(status.pending_files, 0);
    }
    assert!(!bench.log().contains("changed in the store"), "{}", bench.log());
}

/// The answer is lost for longer than the program tries; what is written meanwhile is not lost.
#[test]
fn a_completion_without_an_answer_is_settled_later() {
    let mut options = OPTIONS.to_vec();
    options.extend(["--max-attempts", "1"]);
    let bench = Bench::start(&options);
    let mut content = noise(17 * MIB, 33);
    std::fs::write(bench.at("f"), &content).unwrap();
    bench.drained();
    for also_written in [false, true] {
        let open = || OpenOptions::new().write(true).open(bench.at("f")).unwrap();
        let (file, later) = (open(), open());
        bench.store.faults.set(vec![
            Rule::new(Fault::LoseAnswer).on(Operation::CompleteMultipartUpload).times(1),
            Rule::new(Fault::internal_error()).on(Operation::CompleteMultipartUpload),
            Rule::new(Fault::internal_error()).on(Operation::ListParts),
        ]);
        let before = bench.requests(Operation::CompleteMultipartUpload);
        file.write_all_at(b"changed", 6 << 20).unwrap();
        content[6 << 20..][..7].copy_from_slice(b"changed");
        drop(file);
        let counters = bench.store.counters();
        support::mount::wait_until("completed", || {
            counters.requests(Operation::CompleteMultipartUpload) > before
                && bench.status().unwrap().pending_files == 1
        });
        let sent_before = bench.bytes_in();
        if also_written {
            later.write_all_at(b"again", 12 << 20).unwrap();
            content[12 << 20..][..5].copy_from_slice(b"again");
            later.set_len(16 << 20).unwrap();
            content.truncate(16 << 20);
        }
        drop(later);
        bench.store.faults.clear();
        bench.drained();
        assert!(bench.bucket.object("f").unwrap() == content, "also written: {also_written}");
        assert!(std::fs::read(bench.at("f")).unwrap() == content);
        let sent = (bench.bytes_in() - sent_before) as usize;
        let most = if also_written { 11 * MIB } else { 100_000 };
        assert!(sent < most, "{sent} bytes sent, also written: {also_written}");
    }
}

/// As git makes each of its files: `config.lock` with O_EXCL, then a rename to `config`.
#[test]
fn a_file_made_exclusively_replaces_by_rename() {
    let bench = Bench::start(&OPTIONS);
    std::fs::write(bench.at("config"), b"old").unwrap();
    bench.drained();
    hold_uploads(&bench);
    let mut lock = File::create_new(bench.at("config.lock")).unwrap();
    lock.write_all(b"new").unwrap();
    drop(lock);
    std::fs::rename(bench.at("config.lock"), bench.at("config")).unwrap();
    bench.store.faults.clear();
    bench.drained();
    assert_eq!(bench.bucket.object("config").unwrap(), b"new", "{}", bench.log());
    assert!(bench.bucket.object("config.lock").is_none());
}

#[test]
fn a_new_file_whose_answer_was_lost_is_known_for_ours() {
    let mut options = OPTIONS.to_vec();
    options.extend(["--max-attempts", "1"]);
    let bench = Bench::start(&options);
    let rule = Rule::new(Fault::LoseAnswer).on(Operation::PutObject).times(1);
    bench.store.faults.set(vec![rule]);
    let mut file = File::create_new(bench.at("temporary")).unwrap();
    file.write_all(b"content").unwrap();
    drop(file);
    bench.drained();
    assert!(bench.log().contains("tried again later"), "{}", bench.log());
    let point = bench.mount_point();
    let left = bench.run(&["uploads", "list", point.to_str().unwrap()]);
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "no interrupted uploads");
    assert_eq!(bench.bucket.object("temporary").unwrap(), b"content");
}

/// Each 256 KiB that are compared with their checksum take so long.
const SLOW_CHECK: Duration = Duration::from_millis(60);

#[test]
fn a_mount_answers_before_what_is_staged_is_checked() {
    let mut bench = Bench::start(&["--write-back"]);
    let refused = Rule::new(Fault::denied()).on(Operation::PutObject);
    bench.store.faults.set(vec![refused, Rule::new(Fault::denied()).on(Operation::UploadPart)]);
    let content = |n: u64| noise(4 * MIB, n);
    for n in 0..6 {
        std::fs::write(bench.at(&format!("f{n}")), content(n)).unwrap();
    }
    bench.kill();
    bench.store.faults.clear();
    bench.set_env("RATCHETFS_TEST_SLOW_STAGING", &SLOW_CHECK.as_millis().to_string());
    let begun = Instant::now();
    bench.mount();
    let ready = begun.elapsed();
    assert_eq!(sh(&bench.mount_point(), "ls | wc -l").trim(), "6");
    assert_eq!(std::fs::metadata(bench.at("f5")).unwrap().len(), 4 << 20);
    assert!(bench.status().unwrap().pending_files > 4, "none is sent before it is checked");
    // Its reader waits for its own check, not for those before it.
    assert!(std::fs::read(bench.at("f5")).unwrap() == content(5));
    let read = begun.elapsed();
    bench.wait_for("drained", |status| status.pending_files == 0);
    let all = begun.elapsed();
    // 16 of them in each file, and five files one after the other.
    assert!(all > SLOW_CHECK * 16 * 5, "checked within {all:?}");
    assert!(ready < all / 3 && read < all * 2 / 3, "{ready:?}, {read:?} of {all:?}");
    bench.remount();
    for n in 0..6 {
        assert!(std::fs::read(bench.at(&format!("f{n}"))).unwrap() == content(n), "f{n}");
    }
}
