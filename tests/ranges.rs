//! Calls about ranges of a file: fallocate(2), SEEK_HOLE and SEEK_DATA, copy_file_range(2).

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::close;
use support::mount::{Bench, Mount, noise, sh, wait_until};
use support::weed::Weed;

const MIB: usize = 1 << 20;
const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> Result<(), i32> {
    // SAFETY: the descriptor is open for as long as `file` lives.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
        Ok(())
    } else {
        Err(errno())
    }
}

fn seek(file: &File, offset: i64, whence: i32) -> Result<i64, i32> {
    // SAFETY: the descriptor is open for as long as `file` lives.
    let place = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    if place >= 0 { Ok(place) } else { Err(errno()) }
}

/// copy_file_range(2) of `len` bytes from one offset to another.
fn copy_range(from: &File, at: i64, to: &File, to_at: i64, len: usize) -> Result<usize, i32> {
    let (mut at, mut to_at) = (at, to_at);
    // SAFETY: both descriptors are open, both offsets are variables of ours.
    let copied = unsafe {
        libc::copy_file_range(from.as_raw_fd(), &mut at, to.as_raw_fd(), &mut to_at, len, 0)
    };
    if copied >= 0 { Ok(copied as usize) } else { Err(errno()) }
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Random calls give on the mount what they give on the local disk, open and after the close.
#[test]
fn allocated_and_punched_ranges_are_those_of_a_local_file() {
    let bench = Bench::start(&["--part-size", "5MiB", "--memory", "64MiB"]);
    for (round, base) in [0, 3 * MIB, 17 * MIB].into_iter().enumerate() {
        let mut dice = fastrand::Rng::with_seed(round as u64);
        let (here, there) = (bench.local("model"), bench.at(&format!("f{round}")));
        for path in [&here, &there] {
            fs::write(path, noise(base, 7)).unwrap();
        }
        let (model, file) = (read_write(&here), read_write(&there));
        let most = (20 * MIB) as i64;
        for step in 0..40 {
            let (offset, len) = (dice.i64(0..most), dice.i64(1..4 * MIB as i64));
            let mode = [0, KEEP, PUNCH, ZERO, ZERO | KEEP][dice.usize(0..5)];
            if dice.bool() {
                let bytes = noise(dice.usize(1..2 * MIB), step);
                for file in [&model, &file] {
                    file.write_all_at(&bytes, offset as u64).unwrap();
                }
            }
            for file in [&model, &file] {
                assert_eq!(fallocate(file, mode, offset, len), Ok(()), "mode {mode}");
            }
            let told = format!("round {round}, step {step}: mode {mode} at {offset} for {len}");
            assert_eq!(file.metadata().unwrap().len(), model.metadata().unwrap().len(), "{told}");
        }
        same(&model, &file, round);
        drop(file);
        same(&model, &File::open(&there).unwrap(), round);
        fs::remove_file(&here).unwrap();
    }
    let file = read_write(&bench.at("other"));
    assert_eq!(fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096), Err(libc::EOPNOTSUPP));
    assert_eq!(fallocate(&file, 0, 1 << 60, 1), Err(libc::EFBIG));
}

fn same(model: &File, file: &File, round: usize) {
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    seek(model, 0, libc::SEEK_SET).unwrap();
    seek(file, 0, libc::SEEK_SET).unwrap();
    (&*model).read_to_end(&mut expected).unwrap();
    (&*file).read_to_end(&mut found).unwrap();
    assert_eq!(found.len(), expected.len(), "round {round}");
    let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "round {round}");
}

#[test]
fn holes_of_an_open_file_are_found_and_cost_nothing() {
    let bench = Bench::start(&["--part-size", "5MiB"]);
    let file = read_write(&bench.at("f"));
    let (hole, end) = (64 * MIB as i64, 65 * MIB as i64);
    file.write_all_at(&noise(MIB, 1), 0).unwrap();
    file.write_all_at(&noise(MIB, 2), hole as u64).unwrap();
    assert_eq!(seek(&file, 0, libc::SEEK_DATA), Ok(0));
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE), Ok(MIB as i64));
    assert_eq!(seek(&file, MIB as i64, libc::SEEK_DATA), Ok(hole));
    assert_eq!(seek(&file, hole, libc::SEEK_HOLE), Ok(end));
    assert_eq!(seek(&file, end, libc::SEEK_DATA), Err(libc::ENXIO));
    assert_eq!(seek(&file, end, libc::SEEK_HOLE), Err(libc::ENXIO));
    // Emptied to its end, the rest is a hole again.
    assert_eq!(fallocate(&file, PUNCH, hole, MIB as i64), Ok(()));
    assert_eq!(seek(&file, MIB as i64, libc::SEEK_DATA), Err(libc::ENXIO));
    let before = bench.bytes_in();
    drop(file);
    let sent = bench.bytes_in() - before;
    // A part, and the object of zeros that the hole is copied from.
    assert!(sent < 11 * MIB as u64, "{sent} bytes were sent");
    // What is stored is data, as far as the store tells.
    let file = File::open(bench.at("f")).unwrap();
    assert_eq!(seek(&file, 2 * MIB as i64, libc::SEEK_DATA), Ok(2 * MIB as i64));
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE), Ok(end));
}

/// `cp` inside the mount moves no byte over the wire, on each store and in both modes.
#[test]
fn a_copy_inside_the_mount_is_made_by_the_store() {
    for options in [&["--part-size", "5MiB"][..], &["--part-size", "5MiB", "--write-back"][..]] {
        let bench = Bench::start(options);
        copies_stay_in_the_store(&bench);
        assert!(bench.status().unwrap().transfers.is_empty());
    }
}

#[tokio::test]
async fn a_copy_inside_the_mount_is_made_by_seaweedfs() {
    let weed = Weed::shared().await;
    let bucket = weed.fresh_bucket().await;
    let mut mount = Mount::new(weed.endpoint(), &format!("s3://{bucket}"), &["--part-size=5MiB"]);
    mount.mount();
    copies_stay_in_the_store(&mount);
    mount.unmount();
}

fn copies_stay_in_the_store(mount: &Mount) {
    fs::write(mount.local("l"), noise(40 * MIB + 17, 3)).unwrap();
    let at = mount.mount_point();
    sh(&at, "cp ../l a; chmod 640 a");
    mount.drained();
    let before = moved(mount);
    sh(&at, "cp --reflink=auto a b && cp -p a c && cp a d && cp a d");
    mount.drained();
    let cost = moved(mount) - before;
    assert!(cost < MIB as u64, "{cost} bytes went over the wire");
    sh(&at, "cmp a ../l; cmp b ../l; cmp c ../l; cmp d ../l; test $(stat -c %a c) = 640");
    // The source goes as soon as cp has ended; what is appended to a copy is appended.
    sh(&at, "cp a e; rm a; echo more >> e; cat ../l <(echo more) | cmp - e");
    sh(&at, "mv b a; cp a g & wait; cmp a ../l; cmp g ../l");
}

fn moved(mount: &Mount) -> u64 {
    let status = mount.status().unwrap();
    status.store.bytes_sent + status.store.bytes_received
}

/// Ranges at any places, of sources that are being written too: what the store cannot do is read and written.
#[test]
fn ranges_copied_to_any_place_have_the_right_bytes() {
    let bench = Bench::start(&["--part-size", "5MiB"]);
    let bytes = noise(12 * MIB, 5);
    fs::write(bench.at("source"), &bytes).unwrap();
    let source = read_write(&bench.at("source"));
    let mut dice = fastrand::Rng::with_seed(11);
    for round in 0..6 {
        let path = bench.at(&format!("t{round}"));
        let target = read_write(&path);
        let mut expected = Vec::new();
        for step in 0..4 {
            // Often where the copy before it ended, as cp does.
            let at = if dice.bool() { expected.len() } else { dice.usize(0..bytes.len()) };
            let from = if dice.bool() { at } else { dice.usize(0..bytes.len()) };
            let len = dice.usize(1..5 * MIB);
            let copied = copy_range(&source, from as i64, &target, at as i64, len).unwrap();
            assert_eq!(copied, len.min(bytes.len().saturating_sub(from)), "{round}/{step}");
            if copied > 0 {
                expected.resize(expected.len().max(at + copied), 0);
                expected[at..at + copied].copy_from_slice(&bytes[from..from + copied]);
            }
        }
        drop(target);
        assert!(fs::read(&path).unwrap() == expected, "round {round}");
    }
    // A source that is being written is copied as it stands.
    source.write_all_at(b"changed", 0).unwrap();
    let target = read_write(&bench.at("u"));
    assert_eq!(copy_range(&source, 0, &target, 0, MIB), Ok(MIB));
    drop((source, target));
    assert!(fs::read(bench.at("u")).unwrap().starts_with(b"changed"));
}

/// Part of an object, then fsync or a crash: what was synced is there, nothing else is.
#[test]
fn a_partly_copied_file_is_durable_when_fsync_says_so() {
    for mode in [&["--part-size", "5MiB"][..], &["--part-size", "5MiB", "--write-back"][..]] {
        let mut bench = Bench::start(mode);
        let bytes = noise(12 * MIB, 9);
        fs::write(bench.at("source"), &bytes).unwrap();
        bench.drained();
        let source = File::open(bench.at("source")).unwrap();
        let (synced, lost) = (read_write(&bench.at("synced")), read_write(&bench.at("lost")));
        for target in [&synced, &lost] {
            assert_eq!(copy_range(&source, 0, target, 0, 9 * MIB), Ok(9 * MIB));
        }
        synced.sync_all().unwrap();
        bench.kill();
        drop((source, synced, lost));
        sh(bench.dir.path(), "umount -l mnt");
        bench.mount();
        assert!(fs::read(bench.at("synced")).unwrap() == bytes[..9 * MIB]);
        let left = fs::read(bench.at("lost")).unwrap_or_default();
        assert!(left.is_empty(), "{} bytes that were never closed", left.len());
    }
}

/// Killed in the middle of each request that a copy is made of, not acted on or not answered yet.
#[test]
fn a_copy_that_is_killed_leaves_the_old_or_the_whole() {
    use Operation::{CompleteMultipartUpload, CopyObject, CreateMultipartUpload, UploadPartCopy};
    const OLD: &[u8] = b"what was there";
    let source = noise(12 * MIB, 13);
    for mode in [&["--part-size", "5MiB"][..], &["--part-size", "5MiB", "--write-back"][..]] {
        for operation in
            [CopyObject, CreateMultipartUpload, UploadPartCopy, CompleteMultipartUpload]
        {
            for (fault, target) in [(Fault::Stall, "old"), (Fault::LoseAnswer, "new")] {
                let told = format!("{mode:?} {operation:?} {fault:?}");
                let mut bench = Bench::start(mode);
                fs::write(bench.at("source"), &source).unwrap();
                fs::write(bench.at("old"), OLD).unwrap();
                bench.drained();
                bench.store.faults.set(vec![Rule::new(fault).on(operation)]);
                // All of an object is copied at once, part of it by an upload.
                let copied = if operation == CopyObject { source.len() } else { 9 * MIB };
                let (before, copying) = (bench.requests(operation), copy(&bench, target, copied));
                wait_until(&told, || bench.requests(operation) > before);
                bench.kill();
                bench.store.faults.clear();
                let _ = copying.join();
                sh(bench.dir.path(), "umount -l mnt");
                bench.mount();
                bench.assert_has("source", &source);
                bench.drained();
                match fs::read(bench.at(target)) {
                    Ok(found) => {
                        let is_old = target == "old" && found == OLD;
                        let is_whole = found == source[..copied];
                        assert!(is_old || is_whole, "{told}: {} bytes", found.len());
                    }
                    Err(error) => {
                        assert_eq!((target, error.kind()), ("new", ErrorKind::NotFound), "{told}");
                    }
                }
                let at = bench.mount_point().display().to_string();
                let aborted = bench.run(&["uploads", "abort", &at]);
                assert!(aborted.status.success(), "{told}: {aborted:?}");
                bench.assert_nothing_interrupted();
                // One whose creation was not answered goes when it has been without a part for long enough.
                bench.unmount();
                bench.set_options(&[mode, &["--resume-expiry", "1ms"]].concat());
                bench.mount();
                wait_until(&told, || bench.bucket.uploads() == 0);
                let known = ["new", "old", "source"];
                let left = bench.bucket.files();
                assert!(left.iter().all(|key| known.contains(&key.as_str())), "{told}: {left:?}");
            }
        }
    }
}

/// Copies so much of `source` and closes the copy, by another thread, which may fail at any call.
fn copy(bench: &Bench, target: &str, len: usize) -> JoinHandle<()> {
    let (from, to) = (bench.at("source"), bench.at(target));
    std::thread::spawn(move || {
        let (Ok(from), Ok(to)) = (File::open(from), File::create(to)) else { return };
        let _ = copy_range(&from, 0, &to, 0, len);
        let _ = close(to);
    })
}

/// Two that copy from each other hold what the other wants; their names move meanwhile.
#[test]
fn copies_in_both_directions_beside_renames_end_whole() {
    for mode in [&["--part-size", "5MiB"][..], &["--part-size", "5MiB", "--write-back"][..]] {
        let bench = Bench::start(mode);
        let contents = [noise(6 * MIB, 1), noise(6 * MIB, 2)];
        for (name, content) in ["a", "b"].iter().zip(&contents) {
            fs::write(bench.at(name), content).unwrap();
        }
        bench.drained();
        let slow = Fault::Latency(Duration::from_millis(30));
        bench.store.faults.set(vec![Rule::new(slow).on(Operation::UploadPartCopy)]);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let bench = &bench;
            for (from, to) in [("a", "b"), ("b", "a")] {
                scope.spawn(move || {
                    for _ in 0..6 {
                        // Either may be away under its other name.
                        let there = |name: &str| {
                            OpenOptions::new().read(true).write(true).open(bench.at(name))
                        };
                        let open =
                            |name: &str| there(name).or_else(|_| there(&format!("{name}-moved")));
                        let (Ok(from), Ok(to)) = (open(from), open(to)) else { continue };
                        let copied = copy_range(&from, 0, &to, 0, 6 * MIB);
                        assert!(copied.is_ok_and(|copied| copied > 0), "{copied:?}");
                    }
                });
            }
            scope.spawn(move || {
                for _ in 0..12 {
                    for name in ["a", "b"] {
                        let (name, moved) = (bench.at(name), bench.at(&format!("{name}-moved")));
                        fs::rename(&name, &moved).unwrap();
                        fs::rename(&moved, &name).unwrap();
                    }
                }
            });
        });
        assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
        bench.drained();
        bench.assert_nothing_interrupted();
        let found = ["a", "b"].map(|name| fs::read(bench.at(name)).unwrap());
        for (name, found) in ["a", "b"].iter().zip(&found) {
            // Each piece that was copied is of one of the two.
            let differs = (0..6 * MIB).step_by(4096).find(|at| {
                let piece = &found[*at..at + 4096];
                contents.iter().all(|content| piece != &content[*at..at + 4096])
            });
            assert_eq!((found.len(), differs), (6 * MIB, None), "{name}");
            bench.assert_has(name, found);
        }
    }
}

/// What programs without their own code for it do with a refusal.
#[test]
fn what_is_not_offered_is_refused_with_the_errno_for_it() {
    let bench = Bench::start(&[]);
    sh(&bench.mount_point(), "echo 1 > a; echo 2 > b");
    let name = |name: &str| {
        std::ffi::CString::new(bench.at(name).into_os_string().into_encoded_bytes()).unwrap()
    };
    let (a, b) = (name("a"), name("b"));
    // SAFETY: both are strings that end in NUL.
    let exchanged = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    assert_eq!((exchanged, errno()), (-1, libc::EINVAL));
    let dir = std::ffi::CString::new(bench.mount_point().into_os_string().into_encoded_bytes());
    // SAFETY: a string that ends in NUL.
    let opened =
        unsafe { libc::open(dir.unwrap().as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600) };
    assert_eq!((opened, errno()), (-1, libc::EOPNOTSUPP));
    const FICLONE: libc::c_ulong = 0x4004_9409;
    let (from, to) = (File::open(bench.at("a")).unwrap(), read_write(&bench.at("b")));
    // SAFETY: both descriptors are open.
    let cloned = unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) };
    assert_eq!((cloned, errno()), (-1, libc::EOPNOTSUPP));
    assert_eq!(sh(&bench.mount_point(), "cat a b"), "1\n2\n");
}
