//! kill -9 at chosen moments: each of these once left something wrong behind.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, noise, wait_until};

const MIB: usize = 1 << 20;
const DEFAULT: [&str; 2] = ["--part-size", "5MiB"];
const WRITE_BACK: [&str; 3] = ["--part-size", "5MiB", "--write-back"];

/// Mounts again and finishes everything that waits.
fn recovered(bench: &mut Bench) {
    bench.store.faults.clear();
    bench.mount();
    bench.resume();
    bench.drained();
    bench.assert_nothing_interrupted();
}

/// Of what is written after an fsync some parts leave for the store, or the disk, before others. What
/// comes back is what was synced, whole.
#[test]
fn what_was_not_synced_does_not_come_back_in_pieces() {
    for options in [&DEFAULT[..], &WRITE_BACK[..]] {
        let mut bench = Bench::start(options);
        let content = noise(12 * MIB, 1);
        let file = File::options().read(true).write(true).create_new(true).open(bench.at("f"));
        let file = file.unwrap();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        // Stays in memory: the part is not full.
        file.write_all_at(&[1; 1000], (11 * MIB) as u64).unwrap();
        // Full, so that they could leave.
        file.write_all_at(&[2; 1000], 1000).unwrap();
        file.write_all_at(&[3; 1000], (7 * MIB) as u64).unwrap();
        file.write_all_at(&[4; 3 * MIB], (12 * MIB) as u64).unwrap();
        file.set_len((14 * MIB) as u64).unwrap();
        file.set_len((3 * MIB) as u64).unwrap();
        // Time to leave, if they do.
        std::thread::sleep(Duration::from_millis(200));
        bench.kill();
        drop(file);
        recovered(&mut bench);
        bench.assert_has("f", &content);
    }
}

/// One request copies several parts of the object that a change in place leaves alone.
#[test]
fn copies_inside_the_store_outlive_a_kill() {
    let mut bench = Bench::start(&WRITE_BACK);
    let mut content = noise(22 * MIB, 2);
    std::fs::write(bench.at("f"), &content).unwrap();
    bench.drained();
    bench.store.faults.set(vec![Rule::new(Fault::Stall).on(Operation::CompleteMultipartUpload)]);
    let counters = bench.store.counters();
    let completions = counters.requests(Operation::CompleteMultipartUpload);
    let file = OpenOptions::new().write(true).open(bench.at("f")).unwrap();
    file.write_all_at(b"changed", (21 * MIB) as u64).unwrap();
    content[21 * MIB..][..7].copy_from_slice(b"changed");
    drop(file);
    wait_until("about to be completed", || {
        counters.requests(Operation::CompleteMultipartUpload) > completions
    });
    let copies = counters.requests(Operation::UploadPartCopy);
    bench.kill();
    recovered(&mut bench);
    bench.assert_has("f", &content);
    let copied = bench.requests(Operation::UploadPartCopy);
    assert_eq!(copied, copies, "copied again");
}

/// The object stands, and what helped to make it is about to be deleted.
#[test]
fn killed_behind_the_completion_no_file_is_published_again() {
    for options in [&DEFAULT[..], &WRITE_BACK[..]] {
        let mut bench = Bench::start(options);
        let file = File::create(bench.at("f")).unwrap();
        let mut content = vec![0; 43 * MIB];
        content[..6 * MIB].copy_from_slice(&noise(6 * MIB, 3));
        content[42 * MIB..].copy_from_slice(&noise(MIB, 4));
        file.write_all_at(&content[..6 * MIB], 0).unwrap();
        file.write_all_at(&content[42 * MIB..], (42 * MIB) as u64).unwrap();
        file.sync_all().unwrap();
        let counters = bench.store.counters();
        let completed = counters.requests(Operation::CompleteMultipartUpload);
        bench.store.faults.set(vec![Rule::new(Fault::Stall).on(Operation::DeleteObject)]);
        let deletions = counters.requests(Operation::DeleteObject);
        let closing = std::thread::spawn(move || drop(file));
        wait_until("completed", || {
            counters.requests(Operation::DeleteObject) > deletions
                && counters.requests(Operation::CompleteMultipartUpload) > completed
                && bench.bucket.object("f").is_some()
        });
        bench.kill();
        closing.join().unwrap();
        let sent_before = bench.bytes_in();
        recovered(&mut bench);
        bench.assert_has("f", &content);
        assert!(bench.bytes_in() - sent_before < 100_000, "sent again");
    }
}

/// A file that replaces another, whose own modification still waits to be sent: whatever the moment, there is
/// one or the other afterwards, whole, and nothing waits any more.
#[test]
fn killed_at_any_step_of_a_rename_one_file_is_there() {
    let steps = [
        (Operation::CopyObject, false),
        (Operation::DeleteObject, false),
        (Operation::DeleteObject, true),
    ];
    let mut bench = Bench::start(&WRITE_BACK);
    // More than one part: the copy's ETag is another one.
    let moved = noise(6 * MIB, 5);
    for (number, (step, acted)) in steps.into_iter().enumerate() {
        let done = step == Operation::DeleteObject;
        for stored_before in [true, false] {
            let (from, to) = (format!("from-{number}"), format!("to-{number}-{stored_before}"));
            std::fs::write(bench.at(&from), &moved).unwrap();
            if stored_before {
                std::fs::write(bench.at(&to), b"stored").unwrap();
            }
            bench.drained();
            let mut faults = vec![Rule::new(Fault::slow_down()).on(Operation::PutObject)];
            if acted {
                faults.push(Rule::new(Fault::LoseAnswer).on(step).times(1));
            }
            faults.push(Rule::new(Fault::Stall).on(step));
            bench.store.faults.set(faults);
            std::fs::write(bench.at(&to), b"waits").unwrap();
            let before = bench.requests(step);
            let (old, new) = (bench.at(&from), bench.at(&to));
            let renaming = std::thread::spawn(move || std::fs::rename(old, new));
            let wanted = before + 1 + u64::from(acted);
            wait_until("under way", || bench.requests(step) >= wanted);
            bench.kill();
            assert!(renaming.join().unwrap().is_err());
            recovered(&mut bench);
            if done {
                bench.assert_has(&to, &moved);
                assert!(!bench.at(&from).exists() && bench.bucket.object(&from).is_none());
            } else {
                bench.assert_has(&to, b"waits");
                bench.assert_has(&from, &moved);
            }
        }
    }
}

/// A file that was neither closed nor synced takes the place of one that was closed and waits to be sent: that one
/// was promised to be there after a crash.
#[test]
fn what_replaces_a_promised_file_is_as_safe_as_that_was() {
    let mut bench = Bench::start(&WRITE_BACK);
    std::fs::write(bench.at("to"), b"stored").unwrap();
    bench.drained();
    bench.store.faults.set(vec![Rule::new(Fault::slow_down()).on(Operation::PutObject)]);
    std::fs::write(bench.at("to"), b"closed").unwrap();
    let open = File::create(bench.at("from")).unwrap();
    open.write_all_at(b"written", 0).unwrap();
    std::fs::rename(bench.at("from"), bench.at("to")).unwrap();
    bench.kill();
    drop(open);
    recovered(&mut bench);
    bench.assert_has("to", b"written");
    assert!(!bench.at("from").exists());
}

/// The object goes, and with it what has been synced over it and not been sent.
#[test]
fn killed_while_it_is_removed_a_file_is_there_or_gone() {
    let mut bench = Bench::start(&DEFAULT);
    for acted in [false, true] {
        let mut content = noise(100_000, 6);
        std::fs::write(bench.at("f"), &content).unwrap();
        let open = OpenOptions::new().write(true).open(bench.at("f")).unwrap();
        open.write_all_at(b"synced", 1000).unwrap();
        content[1000..1006].copy_from_slice(b"synced");
        open.sync_all().unwrap();
        let mut faults = vec![Rule::new(Fault::Stall).on(Operation::DeleteObject)];
        if acted {
            faults.insert(0, Rule::new(Fault::LoseAnswer).on(Operation::DeleteObject).times(1));
        }
        bench.store.faults.set(faults);
        let wanted = bench.requests(Operation::DeleteObject) + 1 + u64::from(acted);
        let path = bench.at("f");
        let removing = std::thread::spawn(move || std::fs::remove_file(path));
        wait_until("under way", || bench.requests(Operation::DeleteObject) >= wanted);
        bench.kill();
        assert!(removing.join().unwrap().is_err());
        drop(open);
        recovered(&mut bench);
        if acted {
            assert!(!bench.at("f").exists() && bench.bucket.object("f").is_none());
        } else {
            bench.assert_has("f", &content);
        }
    }
}

/// The store has begun an upload, and its answer was never seen. It goes when it has been idle for long enough.
#[test]
fn an_upload_begun_in_the_moment_of_the_kill_does_not_stay() {
    let mut bench = Bench::start(&DEFAULT);
    bench.store.faults.set(vec![
        Rule::new(Fault::LoseAnswer).on(Operation::CreateMultipartUpload).times(1),
        Rule::new(Fault::Stall).on(Operation::CreateMultipartUpload),
    ]);
    let file = File::create(bench.at("f")).unwrap();
    file.write_all_at(&noise(6 * MIB, 7), 0).unwrap();
    wait_until("begun", || bench.requests(Operation::CreateMultipartUpload) >= 2);
    bench.kill();
    drop(file);
    bench.store.faults.clear();
    bench.mount();
    assert_eq!(bench.bucket.uploads(), 1, "younger than an hour");
    bench.unmount();
    bench.option("--resume-expiry");
    bench.option("1ms");
    bench.mount();
    wait_until("aborted", || bench.bucket.uploads() == 0);
    // Likewise one whose answer was lost, and the request was repeated with success.
    bench.unmount();
    bench.set_options(&["--part-size", "5MiB", "--resume-expiry", "3s"]);
    bench.mount();
    let lost = Rule::new(Fault::LoseAnswer).on(Operation::CreateMultipartUpload).times(1);
    bench.store.faults.set(vec![lost]);
    let content = noise(6 * MIB, 8);
    let file = File::create(bench.at("g")).unwrap();
    file.write_all_at(&content, 0).unwrap();
    wait_until("begun twice", || bench.bucket.uploads() == 2);
    wait_until("aborted", || bench.bucket.uploads() == 1);
    drop(file);
    assert_eq!(bench.bucket.uploads(), 0);
    bench.assert_has("g", &content);
}

/// A program that syncs and never closes: under write-back the next mount has what it synced last, also of
/// a file that mounts without write-back left in several states.
#[test]
fn a_database_that_is_never_closed_keeps_what_it_synced() {
    let mut bench = Bench::start(&DEFAULT);
    let write = |bench: &Bench, content: &[u8]| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(bench.at("db")).unwrap();
        file.write_all_at(content, 0).unwrap();
        file.sync_all().unwrap();
        file
    };
    for seed in 1..3 {
        let open = write(&bench, &noise(2 * MIB, seed));
        bench.kill();
        drop(open);
        bench.mount();
        assert!(!bench.at("db").exists(), "without write-back it waits");
    }
    bench.unmount();
    bench.set_options(&WRITE_BACK);
    bench.mount();
    assert!(std::fs::read(bench.at("db")).unwrap() == noise(2 * MIB, 2));
    let open = write(&bench, &noise(MIB, 3));
    bench.kill();
    drop(open);
    let content = [noise(MIB, 3), noise(2 * MIB, 2)[MIB..].to_vec()].concat();
    recovered(&mut bench);
    bench.assert_has("db", &content);
    bench.remount();
    bench.assert_has("db", &content);
}

/// What is over when the power goes is not done again over what has come after it; and the directory that was
/// synced has the names that it had then.
#[test]
fn a_loss_of_power_undoes_nothing_that_others_have_built_upon() {
    let mut bench = Bench::start(&DEFAULT);
    let synced = |bench: &Bench, name: &str, content: &[u8]| {
        let file = File::create(bench.at(name)).unwrap();
        file.write_all_at(content, 0).unwrap();
        file.sync_all().unwrap();
    };
    // Synced, stored, and replaced: by another file of that name, and by a rename.
    for name in ["written", "renamed", "removed"] {
        synced(&bench, name, b"older");
    }
    std::fs::write(bench.at("written"), b"newer").unwrap();
    std::fs::write(bench.at("other"), b"newer").unwrap();
    std::fs::rename(bench.at("other"), bench.at("renamed")).unwrap();
    std::fs::remove_file(bench.at("removed")).unwrap();
    // A name that was moved away, and made again with the content that it had.
    std::fs::write(bench.at("from"), b"same").unwrap();
    std::fs::rename(bench.at("from"), bench.at("to")).unwrap();
    std::fs::write(bench.at("from"), b"same").unwrap();
    bench.lose_power();
    recovered(&mut bench);
    for (name, content) in
        [("written", &b"newer"[..]), ("renamed", b"newer"), ("from", b"same"), ("to", b"same")]
    {
        bench.assert_has(name, content);
    }
    assert!(!bench.at("removed").exists() && bench.bucket.object("removed").is_none());
    // A directory that was renamed, and made again.
    std::fs::create_dir(bench.at("d")).unwrap();
    std::fs::write(bench.at("d/f"), b"1").unwrap();
    std::fs::rename(bench.at("d"), bench.at("e")).unwrap();
    std::fs::create_dir(bench.at("d")).unwrap();
    std::fs::write(bench.at("d/g"), b"2").unwrap();
    bench.lose_power();
    recovered(&mut bench);
    bench.assert_has("e/f", b"1");
    bench.assert_has("d/g", b"2");

    bench.unmount();
    bench.set_options(&WRITE_BACK);
    bench.mount();
    bench.store.faults.set(vec![Rule::new(Fault::slow_down()).on(Operation::PutObject)]);
    for name in ["closed", "gone", "old"] {
        std::fs::write(bench.at(name), name).unwrap();
    }
    std::fs::rename(bench.at("old"), bench.at("new")).unwrap();
    std::fs::remove_file(bench.at("gone")).unwrap();
    std::fs::remove_file(bench.at("to")).unwrap();
    File::open(bench.mount_point()).unwrap().sync_all().unwrap();
    bench.lose_power();
    recovered(&mut bench);
    bench.assert_has("closed", b"closed");
    bench.assert_has("new", b"old");
    for gone in ["old", "gone", "to"] {
        assert!(!bench.at(gone).exists() && bench.bucket.object(gone).is_none(), "{gone}");
    }
}

/// A directory's rename that was cut off: a mount that is read-only changes nothing, and the next one that is not
/// finishes it without writing over what another client has put under the new name meanwhile. Of a file's likewise.
#[test]
fn an_interrupted_rename_overwrites_nothing_nor_read_only() {
    let mut bench = Bench::start(&["--concurrency", "1"]);
    std::fs::create_dir(bench.at("old")).unwrap();
    let names: Vec<String> = (0..9).map(|number| format!("f{number}")).collect();
    for name in &names {
        std::fs::write(bench.at(&format!("old/{name}")), format!("{name} as it was")).unwrap();
    }
    std::fs::write(bench.at("from"), "file").unwrap();
    let cut_off = |bench: &mut Bench, from: &str, to: &str, faults: Vec<Rule>, copies: u64| {
        bench.store.faults.set(faults);
        let before = bench.requests(Operation::CopyObject);
        let (from, to) = (bench.at(from), bench.at(to));
        let renaming = std::thread::spawn(move || std::fs::rename(from, to));
        let begun = || bench.requests(Operation::CopyObject) - before;
        wait_until("half-way", || begun() >= copies);
        bench.kill();
        assert!(renaming.join().unwrap().is_err());
        bench.store.faults.clear();
        bench.mount();
    };
    bench.option("--read-only");
    let slow = Rule::new(Fault::Latency(Duration::from_millis(60))).on(Operation::CopyObject);
    cut_off(&mut bench, "old", "new", vec![slow], 5);
    let is_copied =
        |bench: &Bench, name: &str| bench.bucket.object(&format!("new/{name}")).is_some();
    let (copied, missing): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| is_copied(&bench, name));
    assert!(copied.len() >= 3 && missing.len() >= 3, "{copied:?} {missing:?}");
    for name in &names {
        assert!(bench.at(&format!("old/{name}")).exists(), "{name}");
        assert_eq!(bench.at(&format!("new/{name}")).exists(), copied.contains(&name), "{name}");
    }
    let refused = std::fs::write(bench.at("old/f0"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    bench.unmount();
    assert_eq!(names.iter().filter(|name| is_copied(&bench, name)).count(), copied.len());
    // Another client writes over a copy, and where there is none yet.
    let written = [copied[0], missing[0]];
    for name in written {
        bench.bucket.put(&format!("new/{name}"), "another client's");
    }
    bench.set_options(&["--concurrency", "1"]);
    bench.mount();
    for name in &names {
        let (old, new) = (format!("old/{name}"), format!("new/{name}"));
        let was = format!("{name} as it was");
        if written.contains(&name) {
            bench.assert_has(&new, b"another client's");
            bench.assert_has(&old, was.as_bytes());
        } else {
            bench.assert_has(&new, was.as_bytes());
            assert!(bench.bucket.object(&old).is_none() && !bench.at(&old).exists(), "{name}");
        }
    }
    // A file that is copied, and not deleted.
    let stall = Rule::new(Fault::Stall).on(Operation::DeleteObject);
    bench.set_options(&["--read-only"]);
    cut_off(&mut bench, "from", "to", vec![stall], 1);
    bench.wait_for("there", |_| bench.bucket.object("from").is_some());
    bench.unmount();
    assert!(bench.bucket.object("from").is_some(), "deleted by a mount that is read-only");
    bench.set_options(&[]);
    bench.mount();
    let both = bench.bucket.object("to").is_none();
    assert_eq!(bench.at("from").exists(), both, "neither moved nor left alone");
    let there = if both { "from" } else { "to" };
    bench.assert_has(there, b"file");
}

/// An fsync that has to wait for the upload of what it is to make durable leaves nothing behind in the journal.
#[test]
fn a_sync_that_meets_an_upload_brings_nothing_back() {
    let mut bench = Bench::start(&WRITE_BACK);
    std::fs::write(bench.at("f"), noise(MIB, 1)).unwrap();
    bench.drained();
    let writer = OpenOptions::new().write(true).open(bench.at("f")).unwrap();
    let slow = Rule::new(Fault::Latency(Duration::from_secs(1))).on(Operation::PutObject);
    bench.store.faults.set(vec![slow]);
    std::fs::write(bench.at("f"), noise(MIB, 2)).unwrap();
    wait_until("on its way", || bench.store.faults.fired_total() > 0);
    writer.sync_all().unwrap();
    drop(writer);
    bench.drained();
    bench.assert_has("f", &noise(MIB, 2));
    std::fs::remove_file(bench.at("f")).unwrap();
    bench.wait_for("deleted", |status| status.pending_deletions == 0);
    bench.kill();
    recovered(&mut bench);
    assert!(!bench.at("f").exists() && bench.bucket.object("f").is_none());
}

/// A new file whose PUT, or whose completion, took effect without an answer loses its name: the object goes with it, and
/// does not come back. What another client has put there meanwhile stays.
#[test]
fn what_was_put_unheard_goes_with_its_name() {
    let mut bench = Bench::start(&[&WRITE_BACK[..], &["--max-attempts", "1"]].concat());
    let large = noise(6 * MIB, 1);
    let files = [("f-small", &large[..1000]), ("f-large", &large), ("f-theirs", &large[..2000])];
    let rule = |fault, operation| Rule::new(fault).on(operation).key_contains("f-");
    let down = |operation| rule(Fault::slow_down(), operation);
    let away = || vec![down(Operation::HeadObject), down(Operation::ListParts)];
    for (is_killed, step) in
        [(false, "rm"), (true, "rm"), (false, "mv"), (true, "mv"), (false, "over"), (true, "over")]
    {
        let opened = files.map(|(name, _)| File::create(bench.at(name)).unwrap());
        let mut rules = away();
        for operation in [Operation::PutObject, Operation::CompleteMultipartUpload] {
            for (name, _) in files {
                rules.push(Rule::new(Fault::LoseAnswer).on(operation).key_contains(name).times(1));
            }
            rules.push(down(operation));
        }
        bench.store.faults.set(rules);
        for (file, (name, content)) in opened.into_iter().zip(files) {
            file.write_all_at(content, 0).unwrap();
            drop(file);
            wait_until(name, || bench.bucket.object(name).is_some_and(|it| it == content));
        }
        bench.wait_for("unheard", |status| status.pending_files == 3);
        let given_up = |name: &str| bench.log().contains(&format!("{name}: tried again later"));
        wait_until("given up", || files.iter().all(|(name, _)| given_up(name)));
        bench.store.faults.set(away());
        bench.bucket.put("f-theirs", "another client's");
        let held = Rule::new(Fault::slow_down()).on(Operation::PutObject);
        bench.store.faults.set(away().into_iter().chain([held]).collect());
        for (name, _) in files {
            let other = format!("other{}", &name[1..]);
            match step {
                "rm" => std::fs::remove_file(bench.at(name)).unwrap(),
                // What has an upload is published before it is renamed.
                "mv" if name == "f-large" => std::fs::remove_file(bench.at(name)).unwrap(),
                "mv" => std::fs::rename(bench.at(name), bench.at(&other)).unwrap(),
                _ => {
                    std::fs::write(bench.at(&other), "newer").unwrap();
                    std::fs::rename(bench.at(&other), bench.at(name)).unwrap();
                    std::fs::remove_file(bench.at(name)).unwrap();
                }
            }
        }
        bench.end_faults(is_killed);
        for _ in 0..2 {
            bench.wait_for("settled", |it| it.pending_deletions + it.pending_files == 0);
            for name in ["f-small", "f-large"] {
                assert!(bench.bucket.object(name).is_none(), "{step}, {is_killed}: {name}");
                assert!(!bench.at(name).exists(), "{step}, {is_killed}: {name}");
            }
            assert_eq!(bench.bucket.object("f-theirs").unwrap(), b"another client's");
            if step == "mv" {
                [files[0], files[2]].iter().for_each(|(name, content)| {
                    bench.assert_has(&format!("other{}", &name[1..]), content);
                });
            }
            bench.remount();
        }
        bench.assert_has("f-theirs", b"another client's");
        for name in bench.bucket.files() {
            std::fs::remove_file(bench.at(&name)).unwrap();
        }
        bench.remount();
        assert_eq!((bench.bucket.files(), bench.bucket.uploads()), (Vec::new(), 0), "{step}");
    }
}
