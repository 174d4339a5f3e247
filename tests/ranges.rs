//! Calls about ranges of a file: fallocate(2), SEEK_HOLE and SEEK_DATA, copy_file_range(2).

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::mount::{Bench, Mount, noise, sh};
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
