//! Two mounts of one bucket, each with its own cache, as on two machines.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, Mount, noise, sh, wait_until};
use support::{BUCKET, close};

const MIB: usize = 1 << 20;

/// A mount, and another one of the same bucket.
fn two(options: &[&str]) -> (Bench, Mount) {
    let bench = Bench::start(options);
    let mut other = Mount::new(&bench.store.endpoint(), &format!("s3://{BUCKET}"), options);
    other.mount();
    (bench, other)
}

#[test]
fn what_one_completes_the_other_sees_within_the_ttl() {
    let ttl = Duration::from_secs(2);
    let (bench, other) = two(&["--metadata-ttl", "2s"]);
    fs::write(bench.at("f"), "first").unwrap();
    assert_eq!(fs::read(other.at("f")).unwrap(), b"first");
    assert!(!other.at("new").exists());
    for (number, content) in ["second!", "third, of another length"].iter().enumerate() {
        fs::write(bench.at("f"), content).unwrap();
        fs::write(bench.at("new"), content).unwrap();
        let closed = Instant::now();
        while fs::read(other.at("f")).unwrap() != content.as_bytes()
            || fs::read(other.at("new")).ok().as_deref() != Some(content.as_bytes())
        {
            let late = closed.elapsed();
            assert!(late < ttl + Duration::from_secs(1), "{number}: old after {late:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // The last complete write wins, whichever mount opened first.
    let mut early = File::create(bench.at("w")).unwrap();
    early.write_all(&noise(MIB, 1)).unwrap();
    fs::write(other.at("w"), noise(2 * MIB, 2)).unwrap();
    close(early).unwrap();
    std::thread::sleep(ttl + Duration::from_millis(100));
    for mount in [&bench.mount, &other] {
        assert!(fs::read(mount.at("w")).unwrap() == noise(MIB, 1), "the last complete write");
    }
}

/// Readers of the one while the other replaces the object: each read has bytes of one version, or fails
/// with ESTALE.
#[test]
fn versions_are_never_mixed() {
    let (bench, other) = two(&["--metadata-ttl", "0s", "--cache-size", "0", "--memory", "32MiB"]);
    let len = 16 * MIB;
    let version = |number: u64| vec![b'a' + number as u8; len];
    fs::write(bench.at("f"), version(0)).unwrap();
    let (mut stale, mut whole) = (0, 0);
    for number in 1..4 {
        let open = File::open(bench.at("f")).unwrap();
        let mut piece = vec![0; 64 << 10];
        open.read_exact_at(&mut piece, 0).unwrap();
        let first = piece[0];
        assert_eq!(first, b'a' + number as u8 - 1, "close-to-open");
        let path = other.at("f");
        let content = version(number);
        let writer = std::thread::spawn(move || fs::write(path, content).unwrap());
        let mut done = false;
        while !done {
            done = writer.is_finished();
            for at in (0..len).step_by(MIB) {
                match open.read_exact_at(&mut piece, at as u64) {
                    Ok(()) => {
                        assert!(piece.iter().all(|byte| *byte == first), "mixed at {at}");
                        whole += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
                        stale += 1;
                    }
                }
            }
        }
        writer.join().unwrap();
        // What this reader has not asked for before has to come from the store, which has it no more.
        let error = open.read_exact_at(&mut piece, (9 * MIB + MIB / 2) as u64).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    }
    println!("{whole} whole, {stale} stale");
    assert!(whole > 0);
}

#[test]
fn of_two_that_create_exclusively_one_wins() {
    let (bench, other) = two(&["--provider", "minio"]); // Trusted with conditional writes.
    for number in 0..4 {
        let name = format!("lock{number}");
        // Both look before either is there.
        for mount in [&bench.mount, &other] {
            assert!(!mount.at(&name).exists());
        }
        let claims: Vec<_> = [&bench.mount, &other]
            .into_iter()
            .enumerate()
            .map(|(number, mount)| {
                let path = mount.at(&name);
                std::thread::spawn(move || -> Result<usize, i32> {
                    let errno = |error: std::io::Error| error.raw_os_error().unwrap();
                    let new = OpenOptions::new().write(true).create_new(true).open(path);
                    let mut file = new.map_err(errno)?;
                    file.write_all(number.to_string().as_bytes()).map_err(errno)?;
                    close(file)?;
                    Ok(number)
                })
            })
            .collect();
        let claims: Vec<_> = claims.into_iter().map(|claim| claim.join().unwrap()).collect();
        let won: Vec<usize> = claims.iter().filter_map(|claim| claim.ok()).collect();
        assert_eq!(won.len(), 1, "{claims:?}");
        assert!(claims.contains(&Err(libc::EEXIST)), "{claims:?}");
        std::thread::sleep(Duration::from_millis(1100));
        for mount in [&bench.mount, &other] {
            assert_eq!(fs::read_to_string(mount.at(&name)).unwrap(), won[0].to_string());
        }
    }
}

#[test]
fn an_infinite_ttl_asks_once_and_none_asks_always() {
    let (bench, other) = two(&["--metadata-ttl", "infinite"]);
    fs::write(bench.at("f"), "old").unwrap();
    sh(&other.mount_point(), "ls -l; cat f; test ! -e absent");
    let before = bench.store.counters().requests_total();
    std::thread::sleep(Duration::from_millis(1500));
    sh(&other.mount_point(), "ls -l; stat f; test ! -e absent");
    assert_eq!(bench.store.counters().requests_total(), before, "asked again");
    drop((bench, other));
    let (bench, other) = two(&["--metadata-ttl", "0s"]);
    for number in 0..5 {
        let (content, new) = (format!("content {number}"), format!("new{number}"));
        assert!(!other.at(&new).exists());
        fs::write(bench.at("f"), &content).unwrap();
        fs::write(bench.at(&new), &content).unwrap();
        for name in ["f", &new] {
            assert_eq!(fs::read_to_string(other.at(name)).unwrap(), content);
        }
        fs::remove_file(bench.at(&new)).unwrap();
        assert!(!other.at(&new).exists());
        assert_eq!(sh(&other.mount_point(), "ls").trim(), "f");
    }
}

/// flock(2) and fcntl(2) locks hold between the programs of one machine.
#[test]
fn locks_work_locally() {
    let bench = Bench::start(&[]);
    let script = r#"
import fcntl, os, subprocess, sys
def elsewhere(how):
    code = 'import fcntl,sys\nf=open("f","r+b")\ntry: ' + how + '\nexcept BlockingIOError: sys.exit(7)'
    return subprocess.run([sys.executable, '-c', code]).returncode
FLOCK = 'fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)'
LOCKF = 'fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, {})'
open('f', 'wb').write(b'x' * 100)
f = open('f', 'r+b')
fcntl.flock(f, fcntl.LOCK_EX)
assert elsewhere(FLOCK) == 7
fcntl.flock(f, fcntl.LOCK_UN)
assert elsewhere(FLOCK) == 0
fcntl.lockf(f, fcntl.LOCK_EX, 10, 20)
assert elsewhere(LOCKF.format(25)) == 7
assert elsewhere(LOCKF.format(40)) == 0
fcntl.lockf(f, fcntl.LOCK_UN, 10, 20)
assert elsewhere(LOCKF.format(25)) == 0
"#;
    fs::write(bench.local("locks.py"), script).unwrap();
    sh(&bench.mount_point(), "python3 ../locks.py");
}

/// A store that is known to have conditions of everything.
const KNOWN: [&str; 2] = ["--provider=aws", "--addressing=path"];

/// What another client has written since is not deleted by one that has not seen it.
#[test]
fn a_version_that_was_not_looked_at_is_not_removed() {
    let bench = Bench::start(&[&KNOWN[..], &["--metadata-ttl=1h"]].concat());
    fs::write(bench.at("f"), "old").unwrap();
    bench.bucket.put("f", "of another");
    let refused = fs::remove_file(bench.at("f")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EBUSY), "{refused}");
    assert_eq!(bench.bucket.object("f").unwrap(), b"of another");
    // It has been looked at since.
    fs::remove_file(bench.at("f")).unwrap();
    assert_eq!(bench.bucket.object("f"), None);
}

/// Another client writes the source of a rename when its copy stands already.
#[test]
fn a_source_that_is_written_during_its_rename_stays() {
    let bench = Bench::start(&[&KNOWN[..], &["--metadata-ttl=1h"]].concat());
    fs::write(bench.at("f"), "old").unwrap();
    let late = Rule::new(Fault::Latency(Duration::from_secs(2))).on(Operation::DeleteObject);
    bench.store.faults.set(vec![late]);
    let (from, to) = (bench.at("f"), bench.at("g"));
    let renaming = std::thread::spawn(move || fs::rename(from, to));
    wait_until("deleting", || bench.requests(Operation::DeleteObject) == 1);
    bench.bucket.put("f", "of another");
    let refused = renaming.join().unwrap().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EBUSY), "{refused}");
    assert_eq!(bench.bucket.object("f").unwrap(), b"of another");
    assert_eq!(bench.bucket.object("g").unwrap(), b"old");
}

/// The answer to a deletion is lost: it is known to have been done.
#[test]
fn a_removal_whose_answer_is_lost_is_done() {
    let bench = Bench::start(&KNOWN);
    fs::write(bench.at("f"), "x").unwrap();
    let lost = Rule::new(Fault::LoseAnswer).on(Operation::DeleteObject).times(1);
    bench.store.faults.set(vec![lost]);
    fs::remove_file(bench.at("f")).unwrap();
    assert_eq!(bench.store.faults.fired(), [1]);
    assert!(!bench.at("f").exists());
}

/// Of a name that must be free, another client's object is noticed though it is not known of here.
#[test]
fn a_rename_that_must_not_replace_does_not() {
    let bench = Bench::start(&[&KNOWN[..], &["--metadata-ttl=1h"]].concat());
    for name in ["f", "second"] {
        fs::write(bench.at(name), name).unwrap();
    }
    assert!(!bench.at("new").exists());
    bench.bucket.put("new", "of another");
    assert_eq!(rename_noreplace(&bench, "f", "new"), Err(libc::EEXIST));
    assert_eq!(bench.bucket.object("new").unwrap(), b"of another");
    bench.assert_has("f", b"f");
    // One whose answer is lost is known for this mount's own.
    let lost = Rule::new(Fault::LoseAnswer).on(Operation::CopyObject).times(1);
    bench.store.faults.set(vec![lost]);
    assert_eq!(rename_noreplace(&bench, "second", "free"), Ok(()));
    assert_eq!(bench.store.faults.fired(), [1]);
    bench.assert_has("free", b"second");
    assert!(!bench.at("second").exists());
}

fn rename_noreplace(bench: &Bench, from: &str, to: &str) -> Result<(), i32> {
    let path = |name| CString::new(bench.at(name).as_os_str().as_bytes()).unwrap();
    let (from, to) = (path(from), path(to));
    let flags = libc::RENAME_NOREPLACE;
    // SAFETY: both are strings that live until the call returns.
    let renamed = unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags)
    };
    match renamed {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}
