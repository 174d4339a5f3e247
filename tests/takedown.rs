//! A mount that is to end does: while it starts, while it drains, while it is in use or hangs.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::BUCKET;
use support::mount::{Bench, is_mounted, noise, wait_until};

const MIB: usize = 1 << 20;

/// Asked to end now, a mount is gone within this.
const AT_ONCE: Duration = Duration::from_secs(10);

/// What a loaded machine takes beside that.
const SLACK: Duration = Duration::from_secs(5);

fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: a signal to a child that has not been waited for: the number is still its own.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, signal) }, 0);
}

fn pid(bench: &Bench) -> u32 {
    bench.status().unwrap().process.pid
}

fn umount_now(bench: &mut Bench) -> String {
    let begun = Instant::now();
    let output = bench.run(&["umount", "--now", bench.mount_point().to_str().unwrap()]);
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    bench.gone();
    assert!(begun.elapsed() < AT_ONCE + SLACK, "{:?}: {told}", begun.elapsed());
    assert!(!is_mounted(&bench.mount_point()), "{told}");
    told
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Nothing is answered for good.
fn refuse_writes(bench: &Bench) {
    let rule = |operation| Rule::new(Fault::internal_error()).on(operation);
    bench
        .store
        .faults
        .set(vec![rule(Operation::PutObject), rule(Operation::CreateMultipartUpload)]);
}

/// The mount's process, as [`Bench::mount`] starts it.
fn begin_to_mount(bench: &Bench) -> Child {
    let mut command = bench.program();
    command.args(["mount", &format!("s3://{BUCKET}")]).arg(bench.mount_point());
    command.arg("--foreground").args(bench.store_options());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Killed at any moment of its start, and above all when the kernel has just mounted it, a mount leaves nothing that
/// hangs, and nothing that keeps the next one out.
#[test]
fn killed_while_it_starts_a_mount_leaves_nothing_that_hangs() {
    let mut bench = Bench::unmounted(&[]);
    for round in 0..60_u64 {
        let mut starting = begin_to_mount(&bench);
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_micros(round * 7919 % 50_000));
        } else {
            let begun = Instant::now();
            while !is_mounted(&bench.mount_point()) && begun.elapsed() < Duration::from_secs(20) {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_micros(round * 7919 % 3_000));
        }
        starting.kill().unwrap();
        let begun = Instant::now();
        while starting.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < SLACK, "round {round}: killed, it lives");
            std::thread::sleep(Duration::from_millis(1));
        }
        bench.mount();
        bench.unmount();
    }
}

/// What was closed waits for a store that refuses it; the mount is taken away from outside; the second signal ends the
/// process, and the next mount goes on.
#[test]
fn a_second_signal_ends_a_drain_that_gets_nowhere() {
    for end in ["umount", "signal"] {
        let mut bench = Bench::start(&["--write-back"]);
        refuse_writes(&bench);
        std::fs::write(bench.at("waits"), noise(3 * MIB, 1)).unwrap();
        let pid = pid(&bench);
        if end == "umount" {
            let asked = Command::new("fusermount3").arg("-u").arg(bench.mount_point()).status();
            assert!(asked.unwrap().success());
        }
        signal(pid, libc::SIGTERM);
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        signal(pid, libc::SIGINT);
        bench.gone();
        assert!(begun.elapsed() < AT_ONCE + SLACK, "{end}: {:?}", begun.elapsed());
        bench.store.faults.clear();
        bench.mount();
        assert!(std::fs::read(bench.at("waits")).unwrap() == noise(3 * MIB, 1));
        bench.drained();
        bench.remount();
        assert!(std::fs::read(bench.at("waits")).unwrap() == noise(3 * MIB, 1));
        bench.unmount();
    }
}

#[test]
fn umount_now_ends_a_drain_that_gets_nowhere() {
    let mut bench = Bench::start(&["--write-back"]);
    refuse_writes(&bench);
    std::fs::write(bench.at("waits"), noise(MIB, 1)).unwrap();
    let asked = Command::new("fusermount3").arg("-u").arg(bench.mount_point()).status();
    assert!(asked.unwrap().success());
    umount_now(&mut bench);
    bench.store.faults.clear();
    bench.mount();
    bench.drained();
    assert!(std::fs::read(bench.at("waits")).unwrap() == noise(MIB, 1));
}

/// A program that has a file open is cut off, and told so; the next mount is as any other.
#[test]
fn umount_now_cuts_off_programs_with_open_files() {
    let mut bench = Bench::start(&[]);
    std::fs::write(bench.at("f"), noise(MIB, 1)).unwrap();
    let mut reader = File::open(bench.at("f")).unwrap();
    let writer = File::create(bench.at("g")).unwrap();
    std::io::Write::write_all(&mut &writer, &noise(MIB, 2)).unwrap();
    let told = umount_now(&mut bench);
    assert!(told.contains("was in use") && told.lines().count() == 1, "{told}");
    assert!(reader.read(&mut [0; 10]).is_err());
    assert!(std::io::Write::write_all(&mut &writer, b"more").is_err());
    drop((reader, writer));
    bench.mount();
    assert!(std::fs::read(bench.at("f")).unwrap() == noise(MIB, 1));
}

/// A namespace of mounts that was made since has a copy of the mount, which umount(8) does not reach.
#[test]
fn umount_now_reaches_a_copy_in_another_mount_namespace() {
    let mut bench = Bench::start(&[]);
    let elsewhere = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", "echo; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut elsewhere) = elsewhere else {
        eprintln!("skipped: no unshare here");
        return;
    };
    elsewhere.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let told = umount_now(&mut bench);
    elsewhere.kill().unwrap();
    elsewhere.wait().unwrap();
    assert!(told.contains("was in use"), "{told}");
}

#[test]
fn umount_now_does_not_wait_for_a_store_that_hangs() {
    let mut bench = Bench::unmounted(&["--cache-size=0"]);
    bench.mount();
    std::fs::write(bench.at("f"), noise(3 * MIB, 1)).unwrap();
    bench.remount();
    bench.store.faults.set(vec![Rule::new(Fault::Stall)]);
    let path = bench.at("f");
    let reader = std::thread::spawn(move || std::fs::read(path).map(|_| ()));
    let writer = {
        let path = bench.at("g");
        std::thread::spawn(move || std::fs::write(path, b"x"))
    };
    wait_until("asked", || bench.store.faults.fired_total() >= 1);
    let told = umount_now(&mut bench);
    assert!(told.contains("was in use"), "{told}");
    assert!(reader.join().unwrap().is_err());
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn umount_now_ends_a_process_that_does_not_answer() {
    let mut bench = Bench::start(&[]);
    signal(pid(&bench), libc::SIGSTOP);
    let told = umount_now(&mut bench);
    assert!(told.contains("killed"), "{told}");
    bench.mount();
    std::fs::write(bench.at("f"), b"x").unwrap();
}

/// Two signals end a mount in the middle of what two hundred programs write with memory for a few.
#[test]
fn signals_end_a_mount_whose_writers_wait_for_memory() {
    let common = noise(800_000, 3);
    for (round, options) in [&[][..], &["--write-back"], &[], &["--write-back"]].iter().enumerate()
    {
        let mut bench = Bench::unmounted(options);
        bench.mount.option("--memory=32MiB");
        bench.store.faults.set(vec![Rule::new(Fault::Latency(Duration::from_millis(50)))]);
        bench.mount();
        let pid = pid(&bench);
        std::thread::scope(|scope| {
            for number in 0..200 {
                let (path, common) = (bench.at(&format!("f{number}")), &common);
                scope.spawn(move || std::fs::write(path, common).ok());
            }
            std::thread::sleep(Duration::from_millis(150 + 400 * round as u64));
            signal(pid, libc::SIGTERM);
            std::thread::sleep(Duration::from_millis(100));
            let begun = Instant::now();
            // It may have ended by the first.
            // SAFETY: as above.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
            bench.gone();
            assert!(begun.elapsed() < AT_ONCE + SLACK, "{:?}", begun.elapsed());
        });
        bench.store.faults.clear();
        bench.mount();
        bench.unmount();
    }
}

/// A closed file whose upload is refused is dropped when it is named, and only then: the store's version is back.
#[test]
fn uploads_abort_drops_a_closed_file_that_is_named() {
    let mut bench = Bench::start(&["--write-back", "--metadata-ttl", "1h"]);
    std::fs::write(bench.at("old"), b"in the store").unwrap();
    bench.drained();
    refuse_writes(&bench);
    for name in ["old", "new", "kept"] {
        std::fs::write(bench.at(name), noise(100_000, 1)).unwrap();
    }
    let open = File::options().append(true).open(bench.at("kept")).unwrap();
    let mount_point = bench.mount_point().to_str().unwrap().to_owned();
    let none = bench.run(&["uploads", "abort", &mount_point]);
    assert_eq!(String::from_utf8_lossy(&none.stdout), "0 uploads ended\n", "{}", said(&none));
    let refused = bench.run(&["uploads", "abort", &mount_point, "kept"]);
    assert!(!refused.status.success() && said(&refused).contains("open"), "{}", said(&refused));
    drop(open);
    let dropped = bench.run(&["uploads", "abort", &mount_point, "old", "new"]);
    let told = String::from_utf8_lossy(&dropped.stdout).into_owned();
    assert!(dropped.status.success(), "{}", said(&dropped));
    for line in ["dropped old: 100000 bytes", "dropped new: 100000 bytes", "2 uploads ended"] {
        assert!(told.contains(line), "{told}");
    }
    bench.store.faults.clear();
    for _ in 0..2 {
        wait_until("the store's version", || {
            std::fs::read(bench.at("old")).is_ok_and(|read| read == b"in the store")
        });
        wait_until("gone", || !bench.at("new").exists());
        assert!(std::fs::read(bench.at("kept")).unwrap() == noise(100_000, 1));
        bench.kill();
        bench.mount();
    }
}

/// Files that the store refuses for a passing reason do not keep others from it.
#[test]
fn files_that_fail_time_and_again_do_not_hold_up_the_others() {
    let bench = Bench::start(&["--write-back"]);
    bench
        .store
        .faults
        .set(vec![Rule::new(Fault::internal_error()).on(Operation::PutObject).key_contains("bad")]);
    for number in 0..20 {
        std::fs::write(bench.at(&format!("bad{number}")), b"x").unwrap();
    }
    for number in 0..20 {
        std::fs::write(bench.at(&format!("good{number}")), b"x").unwrap();
    }
    bench.wait_for("all but those sent", |status| status.pending_files == 20);
    bench.store.faults.clear();
    bench.drained();
}

/// Files that the store refuses have every place of the sender; another one does not wait for what they wait for.
#[test]
fn refused_files_give_their_places_to_the_next() {
    for fault in [Fault::slow_down(), Fault::denied(), Fault::internal_error()] {
        let bench = Bench::start(&["--write-back", "--part-size", "5MiB"]);
        let refused = Rule::new(fault.clone()).on(Operation::PutObject).key_contains("bad");
        bench.store.faults.set(vec![refused]);
        for number in 0..8 {
            std::fs::write(bench.at(&format!("bad{number}")), noise(1000, number)).unwrap();
        }
        wait_until("refused", || bench.store.faults.fired_total() >= 8);
        std::fs::write(bench.at("good"), "good").unwrap();
        wait_until("sent", || bench.bucket.object("good").is_some());
        // Three of each file, and some more where this machine is slow.
        let refusals = bench.store.faults.fired_total();
        assert!(refusals <= 40, "{refusals} refusals, {fault:?}");
        bench.store.faults.clear();
        bench.resume();
        bench.drained();
        for number in 0..8 {
            bench.assert_has(&format!("bad{number}"), &noise(1000, number));
        }
    }
}

/// Removing or replacing a file that is on its way does not wait until it is there.
#[test]
fn what_loses_its_name_is_not_sent_to_its_end() {
    let bench = Bench::start(&["--write-back", "--part-size", "5MiB"]);
    std::fs::write(bench.at("stored"), "stored").unwrap();
    bench.drained();
    for step in ["rm", "mv", "abort"] {
        let slow = Rule::new(Fault::Bandwidth(1 << 20)).on(Operation::UploadPart);
        bench.store.faults.set(vec![slow]);
        for name in ["new", "stored"] {
            std::fs::write(bench.at(name), noise(40 * MIB, 1)).unwrap();
        }
        bench.wait_for("on their way", |status| {
            status.transfers.iter().filter(|transfer| transfer.parts_in_flight > 0).count() == 2
        });
        for name in ["new", "stored"] {
            match step {
                "rm" => std::fs::remove_file(bench.at(name)).unwrap(),
                "mv" => {
                    std::fs::write(bench.at("other"), "newer").unwrap();
                    std::fs::rename(bench.at("other"), bench.at(name)).unwrap();
                }
                _ => {
                    let point = bench.mount_point().display().to_string();
                    let dropped = bench.run(&["uploads", "abort", &point, name]);
                    assert!(dropped.status.success(), "{}", said(&dropped));
                }
            }
        }
        bench.store.faults.clear();
        bench.wait_for("settled", |status| status.pending_deletions + status.pending_files == 0);
        assert_eq!(bench.requests(Operation::CompleteMultipartUpload), 0, "{step}");
        assert_eq!(bench.bucket.uploads(), 0, "{step}");
        for name in ["new", "stored"] {
            let there = bench.bucket.object(name);
            match step {
                "rm" => assert!(there.is_none() && !bench.at(name).exists()),
                _ if step == "abort" && name == "new" => assert!(there.is_none()),
                _ => bench.assert_has(name, if step == "mv" { b"newer" } else { b"stored" }),
            }
        }
        for name in ["new", "stored"] {
            std::fs::write(bench.at(name), "stored").unwrap();
        }
        bench.drained();
        std::fs::remove_file(bench.at("new")).unwrap();
    }
}
