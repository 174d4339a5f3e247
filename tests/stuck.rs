//! Operations in which something never ends, or panics, inside the program itself: what no store and no network brings
//! about, so a debug build is told to (see `src/seam.rs`).

#![cfg(debug_assertions)]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::ffi::CString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, Mount, noise, sh, wait_until};
use support::{BUCKET, raw};

const MIB: usize = 1 << 20;

/// After so much silence an operation is given up: --timeout, and what is added to it.
const SILENCE: Duration = Duration::from_secs(6);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_secs(10);

/// A mount whose operations are given up soon, and that obeys [`Mount::put_fault`].
fn bench(options: &[&str]) -> Bench {
    let mut bench = Bench::unmounted(&[&["--timeout", "4s"], options].concat());
    bench.obey_faults();
    bench.mount.set_env("RATCHETFS_TEST_MARGIN", "2");
    bench.mount();
    bench
}

/// It ends with ETIMEDOUT, when each operation was given up that the kernel has asked for in turn: a name is confirmed,
/// looked up, looked at. The log has a line for each of `operations` before that is answered.
fn times_out<T: std::fmt::Debug>(
    bench: &Mount,
    what: &str,
    operations: &[&str],
    call: impl FnOnce() -> std::io::Result<T>,
) {
    let given_up = || {
        let log = bench.log();
        let told = |it: &&str| log.matches(&format!("{it}: nothing has moved for")).count();
        operations.iter().map(told).sum::<usize>() as u32
    };
    let (before, begun) = (given_up(), Instant::now());
    let error = call().expect_err(what);
    let (took, times) = (begun.elapsed(), given_up() - before);
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{what}: {error}");
    assert!((1..=3).contains(&times), "{what}: {times} operations: {}", bench.log());
    assert!(took < SILENCE * times + SLACK, "{what}: {took:?} for {times} operations");
}

/// Runs `work` while other programs use the mount without a pause, the store too.
fn beside_others(bench: &Bench, work: impl FnOnce()) {
    let rewrite = || {
        std::fs::write(bench.at("other"), "other").unwrap();
        assert_eq!(std::fs::read(bench.at("other")).unwrap(), b"other");
    };
    beside(rewrite, work);
}

/// Runs `work` while another thread does `others` again and again.
fn beside(others: impl Fn() + Sync, work: impl FnOnce()) {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                others();
            }
        });
        let _done = Done(&done);
        work();
    });
}

#[test]
fn what_waits_for_a_stuck_operation_is_answered() {
    let bench = bench(&[]);
    std::fs::create_dir(bench.at("d")).unwrap();
    for name in ["d/a", "other"] {
        std::fs::write(bench.at(name), "a").unwrap();
    }
    let opened = &File::open(bench.at("d/a")).unwrap();
    bench.put_fault("hang operation-lock d/a");
    beside_others(&bench, || {
        std::thread::scope(|scope| {
            let bench = &bench;
            let chmod =
                move || std::fs::set_permissions(bench.at("d/a"), Permissions::from_mode(0o600));
            let append = move || OpenOptions::new().append(true).open(bench.at("d/a"));
            let rename = move || std::fs::rename(bench.at("d/a"), bench.at("d/b"));
            let stuck = scope.spawn(move || times_out(bench, "chmod", &["setattr /d/a"], chmod));
            std::thread::sleep(Duration::from_millis(500));
            // A program that only looks waits for none of them.
            assert_eq!(std::fs::metadata(bench.at("d/a")).unwrap().len(), 1);
            let mut content = [0];
            assert_eq!(opened.read_at(&mut content, 0).unwrap(), 1);
            let waiting = [
                scope.spawn(move || times_out(bench, "append", &["open /d/a"], append)),
                scope.spawn(move || times_out(bench, "rename", &["rename /d"], rename)),
            ];
            assert!(stuck.join().is_ok() && waiting.into_iter().all(|it| it.join().is_ok()));
        });
    });
    let told = bench.log();
    for operation in ["setattr /d/a", "open /d/a", "rename /d"] {
        assert!(told.contains(&format!("{operation}: nothing has moved for")), "{told}");
    }
    let status = bench.status().unwrap();
    assert!(status.recent_errors.iter().any(|error| error.what.contains("nothing has moved")));
    // The one that was stuck goes on, and is told of; those that were only in line are gone.
    bench.put_fault("");
    wait_until("done late", || bench.log().contains("setattr /d/a: done after it was answered"));
    assert_eq!(std::fs::metadata(bench.at("d/a")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read(bench.at("d/a")).unwrap(), b"a");
}

#[test]
fn an_answer_of_the_store_that_never_comes_is_not_waited_for() {
    let bench = bench(&["--metadata-ttl", "0s"]);
    std::fs::write(bench.at("a"), "a").unwrap();
    bench.put_fault("hang HeadObject");
    // Others are answered by the store all the time.
    let list = || assert!(std::fs::read_dir(bench.mount_point()).unwrap().count() > 0);
    beside(list, || {
        times_out(&bench, "stat", &["lookup /", "getattr /a"], || std::fs::metadata(bench.at("a")))
    });
    bench.put_fault("");
    assert_eq!(std::fs::read(bench.at("a")).unwrap(), b"a");
}

#[test]
fn what_moves_is_not_cut_off_however_long_it_takes() {
    let bench = bench(&["--part-size", "64MiB"]);
    let content = noise(32 * MIB, 1);
    bench.store.faults.set(vec![Rule::new(Fault::Bandwidth(2 << 20))]);
    let mut file = File::create(bench.at("slow")).unwrap();
    file.write_all(&content).unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        // Waits for as long as the one that it waits for gets on.
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            assert!(OpenOptions::new().append(true).open(bench.at("slow")).is_ok());
        });
        assert!(close(file).is_ok());
    });
    let took = begun.elapsed();
    println!("{took:?}");
    assert!(took > SILENCE * 2, "it was to take longer: {took:?}");
    bench.store.faults.set(Vec::new());
    assert!(std::fs::read(bench.at("slow")).unwrap() == content);
}

#[test]
fn what_is_answered_late_leaves_nothing_behind() {
    let mut bench = bench(&[]);
    for name in ["looked", "opened"] {
        std::fs::write(bench.at(name), noise(MIB, 1)).unwrap();
    }
    bench.remount();
    let opened = || File::open(bench.at("opened"));
    assert!(opened().is_ok());
    let inodes = |bench: &Bench| bench.status().unwrap().inodes;
    let before = inodes(&bench);
    for (operation, told, call) in [
        (
            "lookup",
            "lookup /",
            &(|| std::fs::metadata(bench.at("looked")).map(drop)) as &dyn Fn() -> _,
        ),
        ("open", "open /opened", &|| opened().map(drop)),
        ("create", "create /", &|| File::create_new(bench.at("created")).map(drop)),
    ] {
        bench.put_fault(&format!("hang {operation}"));
        times_out(&bench, operation, &[told], call);
        bench.put_fault("");
        let late = |line: &str| line.contains(told) && line.contains("done after it");
        wait_until(operation, || bench.log().lines().any(late));
    }
    // The handle of `opened` has gone: nothing has to be kept for it.
    std::fs::remove_file(bench.at("opened")).unwrap();
    let raw = raw::Client::new(&bench.store.endpoint());
    let list = async { raw.get(&format!("/{BUCKET}?list-type=2"), &[]).await };
    let listed = bench.runtime.block_on(list).text();
    assert!(!listed.contains("ratchetfs-aside") && !listed.contains("<Key>opened"), "{listed}");
    // What was created is there, and a file like any other.
    wait_until("created", || std::fs::metadata(bench.at("created")).is_ok_and(|it| it.len() == 0));
    std::fs::remove_file(bench.at("created")).unwrap();
    wait_until("forgotten", || inodes(&bench) < before);
}

#[test]
fn a_panic_fails_what_it_served_and_nothing_else() {
    let bench = bench(&[]);
    std::fs::create_dir(bench.at("d")).unwrap();
    std::fs::write(bench.at("d/f"), "f").unwrap();
    let (directory, file) = (bench.at("d"), bench.at("d/f"));
    let names = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a name that ends in NUL, and no buffer: its length is asked for.
        let length = unsafe { libc::listxattr(path.as_ptr(), std::ptr::null_mut(), 0) };
        if length < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    let opened = OpenOptions::new().read(true).write(true).open(&file).unwrap();
    let calls: [(&str, &dyn Fn() -> std::io::Result<()>); 8] = [
        ("opendir", &|| std::fs::read_dir(&directory).map(drop)),
        ("readdirplus", &|| {
            std::fs::read_dir(&directory).and_then(|mut it| it.try_for_each(|it| it.map(drop)))
        }),
        ("listxattr", &|| names(&file)),
        ("statfs", &|| free(&directory).map(drop)),
        ("open", &|| File::open(&file).map(drop)),
        ("write", &|| opened.write_all_at(b"g", 0)),
        ("flush", &|| close(opened.try_clone()?)),
        ("create", &|| File::create_new(bench.at("d/g")).map(drop)),
    ];
    for (operation, call) in calls {
        bench.put_fault(&format!("panic {operation}"));
        let error = call().expect_err(operation);
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{operation}: {error}");
        bench.put_fault("");
        assert!(call().is_ok(), "{operation}: {}", bench.log());
        let told = format!("{operation} /d");
        let told = |line: &str| line.contains(&told) && line.contains("a fault in this program");
        assert_eq!(bench.log().lines().filter(|line| told(line)).count(), 1, "{}", bench.log());
        let status = bench.status().unwrap();
        assert!(status.recent_errors.iter().any(|error| told(&error.what)), "{operation}");
    }
    // Of a forget that dies there is nothing to hear but in the log.
    bench.put_fault("panic forget");
    drop(opened);
    std::fs::remove_file(&file).unwrap();
    wait_until("told", || bench.log().contains("forget /d/f: a fault in this program"));
    bench.put_fault("");
    assert!(std::fs::metadata(bench.at("d/g")).is_ok());
}

/// A task, what it is needed for, and whether it has done that.
type Death<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn() -> bool);

#[test]
fn what_dies_in_the_background_is_begun_again() {
    let bench = bench(&["--write-back", "--memory", "32MiB"]);
    std::fs::write(bench.at("old"), "old").unwrap();
    bench.wait_for("uploaded", |status| status.pending_files == 0);
    let raw = raw::Client::new(&bench.store.endpoint());
    let head = |name: &str| {
        bench.runtime.block_on(async { raw.get(&format!("/{BUCKET}/{name}"), &[]).await })
    };
    let deaths: [Death; 4] = [
        ("write-back", &|| std::fs::write(bench.at("new"), "new").unwrap(), &|| {
            head("new").status == 200
        }),
        (
            "attributes",
            &|| std::fs::set_permissions(bench.at("old"), Permissions::from_mode(0o604)).unwrap(),
            // In decimal: 0o100604.
            &|| head("old").header("x-amz-meta-mode") == "33156",
        ),
        ("deletions", &|| std::fs::remove_file(bench.at("old")).unwrap(), &|| {
            head("old").status == 404
        }),
        // More than memory has room for, of which nothing is sent: no part of any is whole, none is closed.
        (
            "memory",
            &|| {
                let file = |at| File::create(bench.at(&format!("m{at}"))).unwrap();
                let files: Vec<File> = (0..16).map(file).collect();
                for (file, seed) in files.iter().zip(0..) {
                    file.write_all_at(&noise(3 * MIB, seed), 0).unwrap();
                }
            },
            &|| (0..16).all(|at| head(&format!("m{at}")).status == 200),
        ),
    ];
    for (task, cause, is_done) in deaths {
        bench.put_fault(&format!("panic {task}"));
        std::thread::scope(|scope| {
            // The cause may wait for the task.
            scope.spawn(|| {
                bench.wait_for("dead", |status| {
                    let told = format!("{task}: a fault in this program");
                    status.recent_errors.iter().any(|error| error.what.contains(&told))
                });
                bench.put_fault("");
            });
            cause();
        });
        wait_until(task, is_done);
    }
}

#[test]
fn the_threads_of_the_cache_are_begun_again_where_they_die() {
    let mut bench = bench(&[]);
    let raw = raw::Client::new(&bench.store.endpoint());
    let len = 5 * MIB;
    let content = noise(len, 1);
    for name in ["cache-disk-1", "cache-disk-2", "cache-readback-1", "cache-readback-2"] {
        let target = format!("/{BUCKET}/{name}");
        bench.runtime.block_on(async { raw.put(&target, &[], content.clone()).await });
    }
    let read = |bench: &Bench, name: &str| {
        assert!(std::fs::read(bench.at(name)).unwrap() == content, "{name}");
    };
    for thread in ["cache-disk", "cache-readback"] {
        bench.put_fault(&format!("panic {thread}"));
        read(&bench, &format!("{thread}-1"));
        bench.wait_for("dead", |status| {
            let told = format!("{thread}: a fault in this program");
            status.recent_errors.iter().any(|error| error.what.contains(&told))
        });
        bench.put_fault("");
        let before = bench.status().unwrap().cache;
        read(&bench, &format!("{thread}-2"));
        bench.wait_for(thread, |status| match thread {
            "cache-disk" => status.cache.disk_bytes >= before.disk_bytes + len as u64,
            _ => status.cache.checked_bytes >= before.checked_bytes + len as u64,
        });
    }
    // What was in hand when they died is not waited for.
    bench.unmount();
}

#[test]
fn the_control_socket_answers_again_after_a_fault() {
    let bench = bench(&[]);
    bench.put_fault("panic control");
    wait_until("dead", || bench.log().contains("control: a fault in this program"));
    assert!(std::fs::read_dir(bench.at("")).is_ok(), "files are served meanwhile");
    bench.put_fault("");
    bench.wait_for("an answer", |_| true);
}

/// An unlinked file ends with the last program that has it open: none opens it while it does.
#[test]
fn an_unlinked_file_that_ends_is_not_opened_once_more() {
    let bench = bench(&[]);
    let mut file =
        File::options().read(true).write(true).create_new(true).open(bench.at("f")).unwrap();
    // Long enough that there is an upload to be given up.
    file.write_all(&noise(12 * MIB, 1)).unwrap();
    let path = File::options().read(true).custom_flags(libc::O_PATH).open(bench.at("f")).unwrap();
    std::fs::remove_file(bench.at("f")).unwrap();
    bench.put_fault("hang AbortMultipartUpload");
    drop(file);
    let again = format!("/proc/self/fd/{}", path.as_raw_fd());
    // Until the close has arrived the file is there.
    wait_until("gone", || {
        File::open(&again).is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT))
    });
    bench.put_fault("");
}

/// What was cut and closed under write-back, and put, is not known to be: the answer has not come when the process dies.
/// What it was cut from is gone from the store then, replaced by itself.
#[test]
fn what_replaced_what_it_was_made_of_is_known_after_a_kill() {
    let mut bench = bench(&["--write-back", "--cache-size", "0"]);
    let content = noise(3 * MIB, 1);
    let raw = raw::Client::new(&bench.store.endpoint());
    for (name, len) in [("cut", MIB), ("emptied", 0), ("cut-by-a-byte", 3 * MIB - 1)] {
        std::fs::write(bench.at(name), &content).unwrap();
        bench.wait_for("uploaded", |status| status.pending_files == 0);
        bench.put_fault("hang PutObject answered");
        let file = OpenOptions::new().write(true).open(bench.at(name)).unwrap();
        file.set_len(len as u64).unwrap();
        close(file).unwrap();
        wait_until("put", || {
            let get = async { raw.get(&format!("/{BUCKET}/{name}"), &[]).await };
            bench.runtime.block_on(get).header("content-length") == len.to_string()
        });
        bench.mount.kill();
        bench.put_fault("");
        bench.mount();
        assert!(std::fs::read(bench.at(name)).unwrap() == content[..len], "{name}");
        bench.wait_for("uploaded", |status| status.pending_files == 0);
        assert!(std::fs::read(bench.at(name)).unwrap() == content[..len], "{name}");
        // And goes on like any other.
        let mut file = OpenOptions::new().append(true).open(bench.at(name)).unwrap();
        file.write_all(b"more").unwrap();
        close(file).unwrap();
        bench.wait_for("uploaded", |status| status.pending_files == 0);
        let all = [&content[..len], b"more"].concat();
        assert!(std::fs::read(bench.at(name)).unwrap() == all, "{name}");
    }
}

/// A PUT whose answer was lost has replaced what the file is made of; mode and time were changed after that, or the file
/// was written once more. The object is known for ours all the same, and the newest wins.
#[test]
fn a_put_is_known_though_the_file_has_changed_since() {
    let mut bench = bench(&["--write-back", "--cache-size", "0", "--max-attempts", "1"]);
    for (name, is_written, is_killed) in [
        ("chmod", false, true),
        ("again", true, true),
        ("alive", false, false),
        ("both", true, false),
    ] {
        let mut content = noise(MIB, 1);
        std::fs::write(bench.at(name), &content).unwrap();
        bench.drained();
        bench.remount();
        let open = || OpenOptions::new().write(true).open(bench.at(name)).unwrap();
        let (first, second) = (open(), open());
        bench.store.faults.set(vec![
            Rule::new(Fault::LoseAnswer).on(Operation::PutObject).times(1),
            Rule::new(Fault::slow_down()).on(Operation::PutObject),
            // The first is asked before the PUT.
            Rule::new(Fault::slow_down()).on(Operation::HeadObject).skip(1),
        ]);
        let write = |file: File, content: &mut Vec<u8>, at: usize| {
            file.write_all_at(b"changed", at as u64).unwrap();
            content[at..at + 7].copy_from_slice(b"changed");
            close(file).unwrap();
        };
        write(first, &mut content, 1000);
        wait_until("put", || bench.bucket.object(name).unwrap() == content);
        wait_until("unheard", || bench.log().contains("tried again later"));
        if is_written {
            write(second, &mut content, 500_000);
        } else {
            drop(second);
        }
        let script = format!("chmod 640 {name} && touch -d @1700000000.5 {name}");
        sh(&bench.mount_point(), &script);
        bench.end_faults(is_killed);
        let seen = format!("stat -c '%a %.1Y' {name}");
        // By its reader, before it is sent.
        assert!(std::fs::read(bench.at(name)).unwrap() == content, "{name}");
        assert_eq!(sh(&bench.mount_point(), &seen), "640 1700000000.5\n", "{name}");
        bench.drained();
        bench.assert_nothing_interrupted();
        wait_until("saved", || bench.bucket.header(name, "x-amz-meta-mode") == "33184");
        bench.unmount();
        std::fs::remove_dir_all(bench.cache_dir()).unwrap();
        bench.mount();
        bench.assert_has(name, &content);
        assert_eq!(sh(&bench.mount_point(), &seen), "640 1700000000.5\n", "{name}");
        assert!(!bench.log().contains("changed in the store"), "{}", bench.log());
    }
}

/// A write takes the set-id bits in the very moment in which other attributes have come to the store, and the process is
/// killed: it stays so.
#[test]
fn attributes_that_change_while_others_are_saved_are_kept() {
    let mut bench = bench(&[]);
    std::fs::write(bench.at("f"), "f").unwrap();
    std::fs::set_permissions(bench.at("f"), Permissions::from_mode(0o4755)).unwrap();
    let mode = |bench: &Bench| bench.bucket.header("f", "x-amz-meta-mode");
    // In decimal: 0o104755.
    wait_until("saved", || mode(&bench) == "35309");
    let file = OpenOptions::new().write(true).open(bench.at("f")).unwrap();
    bench.put_fault("hang attributes-saved f");
    let copies = bench.requests(Operation::CopyObject);
    sh(&bench.mount_point(), "touch -d @1700000000 f");
    wait_until("copied", || bench.requests(Operation::CopyObject) > copies);
    wait_until("answered", || mode(&bench) == "35309");
    std::thread::sleep(Duration::from_millis(300));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Without privileges.
            // SAFETY: it changes nothing but what this thread may do to files.
            unsafe { libc::setfsuid(65534) };
            file.write_all_at(b"g", 0).unwrap();
        });
    });
    let seen =
        |bench: &Bench| std::fs::metadata(bench.at("f")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(seen(&bench), 0o755);
    let recorded = |bench: &Bench| bench.status().unwrap().journal.bytes;
    let before = recorded(&bench);
    bench.put_fault("");
    wait_until("recorded", || recorded(&bench) > before);
    bench.kill();
    drop(file);
    bench.mount();
    assert_eq!(seen(&bench), 0o755);
}

#[test]
fn a_read_that_fails_is_told_once_with_its_file_and_place() {
    let bench = bench(&["--cache-size", "0", "--memory", "32MiB"]);
    std::fs::write(bench.at("f"), noise(8 * MIB, 1)).unwrap();
    let file = File::open(bench.at("f")).unwrap();
    let raw = raw::Client::new(&bench.store.endpoint());
    let gone = async { raw.delete(&format!("/{BUCKET}/f")).await };
    assert_eq!(bench.runtime.block_on(gone).status, 204);
    for at in [5 * MIB, 6 * MIB] {
        let error = file.read_exact_at(&mut [0; 4096], at as u64).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }
    let log = bench.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("read /f at 5242880: ")).collect();
    assert_eq!(told.len(), 1, "{log}");
    // Once for all places.
    assert!(told[0].contains("GetObject") && !log.contains("read /f at 6291456"), "{log}");
}

#[test]
fn an_error_is_told_with_file_cause_and_request_id() {
    let bench = bench(&[]);
    std::fs::write(bench.at("f"), "f").unwrap();
    bench.store.faults.set(vec![Rule::new(Fault::denied()).on(Operation::DeleteObject)]);
    for _ in 0..3 {
        let error = std::fs::remove_file(bench.at("f")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
    let status = bench.status().unwrap();
    let told: Vec<_> = status.recent_errors.iter().filter(|it| it.what.contains("403")).collect();
    // The same thing once, though each answer has an id of its own.
    assert_eq!(told.len(), 1, "{:?}", status.recent_errors);
    let (error, id) = (told[0], told[0].request_id.as_deref().unwrap());
    assert_eq!(error.path.as_deref(), Some("f"));
    assert!(error.cause.starts_with("DeleteObject: 403 AccessDenied"), "{}", error.cause);
    assert!(error.what.ends_with(&format!("(request {id})")), "{}", error.what);
    assert!(bench.log().contains(id), "{}", bench.log());
}

#[test]
fn df_shows_what_the_mount_knows() {
    let bench = bench(&[]);
    let used = || {
        let space = free(&bench.mount_point()).unwrap();
        assert!(space.f_bavail * space.f_frsize >= 1 << 50 && space.f_bavail == space.f_bfree);
        assert!(space.f_ffree >= 1 << 32);
        ((space.f_blocks - space.f_bfree) * space.f_frsize, space.f_files - space.f_ffree)
    };
    assert_eq!(used(), (0, 1), "the root");
    std::fs::create_dir(bench.at("d")).unwrap();
    std::fs::write(bench.at("d/a"), noise(3 * MIB, 1)).unwrap();
    std::fs::write(bench.at("b"), "b").unwrap();
    let writing = File::create(bench.at("c")).unwrap();
    writing.set_len(MIB as u64).unwrap();
    let requests = || bench.status().unwrap().store.requests;
    let before = requests();
    assert_eq!(used(), (4 * MIB as u64 + 4096, 5));
    assert_eq!(requests(), before, "no request");
    drop(writing);
    std::fs::remove_file(bench.at("d/a")).unwrap();
    wait_until("forgotten", || used() == (MIB as u64 + 4096, 4));
}

/// What statvfs(2) says.
fn free(path: &Path) -> std::io::Result<libc::statvfs> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a statvfs of zeros is one.
    let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the name ends in NUL, and the struct is there to be filled.
    let told = unsafe { libc::statvfs(path.as_ptr(), &raw mut space) };
    if told == 0 { Ok(space) } else { Err(std::io::Error::last_os_error()) }
}

/// Closes a file, and tells what close(2) says.
fn close(file: File) -> std::io::Result<()> {
    // SAFETY: the descriptor is the file's own, which gives it up here.
    let closed = unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(file)) };
    if closed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
