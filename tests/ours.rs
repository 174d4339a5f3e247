//! What is ours and what is another client's: told by a mark, a record or a checksum, never by how alike they are.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Duration;

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, Mount, WeedBench, noise, sh, wait_until};
use support::{BUCKET, close};

const MIB: usize = 1 << 20;

/// Renames, and is killed once the request that these faults are about has come so often.
fn killed_while_renaming(bench: &mut Bench, names: [&str; 2], faults: Vec<Rule>, copies: u64) {
    let before = bench.requests(Operation::CopyObject);
    bench.store.faults.set(faults);
    let [from, to] = names.map(|name| bench.at(name));
    let renaming = std::thread::spawn(move || std::fs::rename(from, to));
    wait_until("under way", || bench.requests(Operation::CopyObject) >= before + copies);
    bench.kill();
    assert!(renaming.join().unwrap().is_err());
    bench.store.faults.clear();
}

/// Another client's object has come under the new name in the meantime: as long as ours, and like it without
/// metadata.
#[test]
fn an_interrupted_rename_deletes_nothing_that_is_not_elsewhere() {
    let mut bench = Bench::unmounted(&["--concurrency", "1"]);
    for (key, seed) in [("d1/a", 1), ("d1/b", 2), ("from", 3)] {
        bench.bucket.put(key, noise(4096, seed));
    }
    bench.mount();
    let stall = || vec![Rule::new(Fault::Stall).on(Operation::CopyObject).key_contains("/b")];
    killed_while_renaming(&mut bench, ["d1", "d2"], stall(), 2);
    bench.bucket.put("d2/b", noise(4096, 4));
    bench.mount();
    assert!(bench.bucket.object("d2/a").unwrap() == noise(4096, 1));
    assert!(bench.bucket.object("d1/a").is_none(), "it has its copy");
    assert!(bench.bucket.object("d2/b").unwrap() == noise(4096, 4), "overwritten");
    assert!(std::fs::read(bench.at("d1/b")).unwrap() == noise(4096, 2));
    assert!(bench.log().contains("d1/b stays"), "{}", bench.log());

    let stall = vec![Rule::new(Fault::Stall).on(Operation::CopyObject)];
    killed_while_renaming(&mut bench, ["from", "to"], stall, 1);
    bench.bucket.put("to", noise(4096, 5));
    bench.mount();
    assert!(std::fs::read(bench.at("from")).unwrap() == noise(4096, 3));
    assert!(bench.bucket.object("to").unwrap() == noise(4096, 5), "overwritten");
}

/// Its ETag is another one, and the answer with that has not come.
#[test]
fn a_copy_made_in_the_moment_of_the_kill_is_known_by_its_bytes() {
    let mut bench = Bench::start(&["--part-size", "5MiB", "--concurrency", "1"]);
    std::fs::create_dir(bench.at("d1")).unwrap();
    for (name, seed) in [("d1/f", 1), ("from", 2)] {
        std::fs::write(bench.at(name), noise(6 * MIB, seed)).unwrap();
    }
    for (names, copies) in [(["d1", "d2"], 3), (["from", "to"], 2)] {
        let lost = || Rule::new(Fault::LoseAnswer).on(Operation::CopyObject).times(1);
        let faults = vec![
            lost().key_contains(if copies == 3 { "d2/f" } else { "to" }),
            Rule::new(Fault::Stall).on(Operation::CopyObject).key_contains("f").skip(1),
            Rule::new(Fault::Stall).on(Operation::CopyObject).key_contains("to").skip(1),
        ];
        killed_while_renaming(&mut bench, names, faults, copies);
        bench.mount();
    }
    for (from, to, seed) in [("d1/f", "d2/f", 1), ("from", "to", 2)] {
        assert!(std::fs::read(bench.at(to)).unwrap() == noise(6 * MIB, seed), "{to}");
        assert!(bench.bucket.object(from).is_none(), "{from} is left");
    }
}

/// A killed run's upload was about to become an object to copy from, and another machine has completed a file of that
/// name, of as many bytes and parts.
#[test]
fn an_interrupted_upload_that_ends_takes_no_other_object_along() {
    let options = ["--part-size", "5MiB"];
    let mut bench = Bench::start(&options);
    let mut other = Mount::new(&bench.store.endpoint(), &format!("s3://{BUCKET}"), &options);
    other.mount();
    for (number, by_expiry) in [false, true].into_iter().enumerate() {
        let (dead, again) = (format!("dead{number}"), format!("again{number}"));
        let content = noise(10 * MIB, 7 + number as u64);
        let file = File::create(bench.at(&dead)).unwrap();
        file.write_all_at(&content, 0).unwrap();
        bench.wait_for("sent", |status| {
            status.transfers.iter().any(|file| file.key == dead && file.parts_done == 2)
        });
        bench.kill();
        drop(file);
        bench.mount();
        let completions = bench.requests(Operation::CompleteMultipartUpload);
        let stall = Rule::new(Fault::Stall).on(Operation::CompleteMultipartUpload);
        bench.store.faults.set(vec![stall.key_contains(&dead)]);
        let file = File::create(bench.at(&again)).unwrap();
        file.write_all_at(&content, 0).unwrap();
        wait_until("about to be completed", || {
            bench.requests(Operation::CompleteMultipartUpload) > completions
        });
        bench.kill();
        drop(file);
        bench.store.faults.clear();
        for same in [false, true] {
            let theirs = if same { content.clone() } else { noise(10 * MIB, 9) };
            std::fs::write(other.at(&dead), &theirs).unwrap();
            if by_expiry {
                bench.set_options(&["--part-size", "5MiB", "--resume-expiry", "1ms"]);
            }
            bench.mount();
            if !by_expiry {
                let mount_point = bench.mount_point().display().to_string();
                let aborted = bench.run(&["uploads", "abort", &mount_point]);
                assert!(aborted.status.success(), "{aborted:?}");
            }
            let list =
                || bench.run(&["uploads", "list", &bench.mount_point().display().to_string()]);
            wait_until("ended", || list().stdout == b"no interrupted uploads\n");
            bench.unmount();
            assert!(
                bench.bucket.object(&dead).is_some_and(|found| found == theirs),
                "{dead} {same}"
            );
        }
        bench.set_options(&options);
        bench.mount();
    }
}

/// An interrupted upload is an object for as long as another file copies from it. A file that is written under its name
/// in the moment when it goes is not taken along.
#[test]
fn a_file_may_take_the_key_of_a_temporary_object() {
    let mut bench = Bench::start(&["--part-size", "5MiB"]);
    let content = noise(10 * MIB, 7);
    let file = File::create(bench.at("dead")).unwrap();
    file.write_all_at(&content, 0).unwrap();
    bench.wait_for("sent", |status| {
        status.transfers.iter().any(|file| file.key == "dead" && file.parts_done == 2)
    });
    bench.kill();
    drop(file);
    bench.mount();
    let slow = Rule::new(Fault::Latency(Duration::from_secs(2))).on(Operation::DeleteObject);
    bench.store.faults.set(vec![slow.key_contains("dead")]);
    let deletions = bench.requests(Operation::DeleteObject);
    let (again, copied) = (bench.at("again"), content.clone());
    let copy = std::thread::spawn(move || std::fs::write(again, copied));
    wait_until("to be deleted", || bench.requests(Operation::DeleteObject) > deletions);
    std::fs::write(bench.at("dead"), b"written since").unwrap();
    copy.join().unwrap().unwrap();
    bench.unmount();
    bench.store.faults.clear();
    assert!(bench.bucket.object("dead").is_some_and(|found| found == b"written since"));
    assert!(bench.bucket.object("again").is_some_and(|found| found == content));
}

/// The directory of an interrupted upload that others copy from does not come back with the temporary object.
#[test]
fn a_removed_directory_does_not_come_back_as_a_source() {
    let mut bench = Bench::start(&["--part-size", "5MiB"]);
    let content = noise(10 * MIB, 7);
    std::fs::create_dir_all(bench.at("gone/below")).unwrap();
    std::fs::create_dir(bench.at("stays")).unwrap();
    for name in ["gone/below/dead", "stays/dead"] {
        let file = File::create(bench.at(name)).unwrap();
        file.write_all_at(&content, 0).unwrap();
        bench.wait_for("sent", |status| {
            status.transfers.iter().any(|file| file.key == name && file.parts_done == 2)
        });
        bench.kill();
        drop(file);
        bench.mount();
        if name == "gone/below/dead" {
            std::fs::remove_dir(bench.at("gone/below")).unwrap();
            std::fs::remove_dir(bench.at("gone")).unwrap();
        }
        let sent = bench.requests(Operation::UploadPart);
        let mut copy = File::create(bench.at("copy")).unwrap();
        copy.write_all(&content).unwrap();
        copy.write_all(b"and more").unwrap();
        bench.wait_for("there", |status| {
            status.transfers.iter().any(|file| file.key == "copy" && file.parts_done == 2)
        });
        let is_copied = bench.requests(Operation::UploadPart) == sent;
        assert_eq!((is_copied, bench.at("gone").exists()), (name == "stays/dead", false), "{name}");
        close(copy).unwrap();
        assert!(!bench.bucket.keys().iter().any(|key| key.starts_with("gone")));
        std::fs::remove_file(bench.at("copy")).unwrap();
    }
}

fn create_exclusively(mount: &Mount, name: &str, content: &[u8]) -> Result<(), i32> {
    let errno = |error: std::io::Error| error.raw_os_error().unwrap();
    let new = OpenOptions::new().write(true).create_new(true).open(mount.at(name));
    let mut file = new.map_err(errno)?;
    file.write_all(content).map_err(errno)?;
    close(file)
}

/// The one's request fails without effect, and is repeated when the other has created the file with the same content.
#[test]
fn of_two_exclusive_creators_with_equal_content_one_wins() {
    let options = ["--provider", "minio", "--part-size", "5MiB"]; // Trusted with conditional writes.
    let bench = Bench::start(&options);
    let mut other = Mount::new(&bench.store.endpoint(), &format!("s3://{BUCKET}"), &options);
    other.mount();
    for (name, len, step) in
        [("small", 5, Operation::PutObject), ("large", 6 * MIB, Operation::CompleteMultipartUpload)]
    {
        let content = noise(len, 1);
        // Both look before either is there.
        assert!(!bench.at(name).exists() && !other.at(name).exists());
        bench.store.faults.set(vec![
            Rule::new(Fault::internal_error()).on(step).times(1),
            Rule::new(Fault::Latency(Duration::from_secs(5))).on(step).skip(1).times(1),
        ]);
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| create_exclusively(&bench.mount, name, &content));
            wait_until("repeated", || bench.store.faults.fired() == [1, 1]);
            let second = create_exclusively(&other, name, &content);
            (first.join().unwrap(), second)
        });
        assert_eq!((first, second), (Err(libc::EEXIST), Ok(())), "{name}");
    }
}

/// What took effect though nothing was heard of it is no other's.
#[test]
fn the_creator_is_known_when_the_answer_was_lost() {
    let options = ["--provider", "minio", "--part-size", "5MiB", "--metadata-ttl", "30s"];
    let mut bench = Bench::start(&options);
    let faults = bench.store.faults.clone();
    let lost = |operation| {
        faults.set(vec![Rule::new(Fault::LoseAnswer).on(operation).times(1)]);
    };
    for (name, len, step) in
        [("small", 5, Operation::PutObject), ("large", 6 * MIB, Operation::CompleteMultipartUpload)]
    {
        lost(step);
        assert_eq!(create_exclusively(&bench.mount, name, &noise(len, 2)), Ok(()), "{name}");
        assert!(bench.bucket.object(name).unwrap() == noise(len, 2));
    }
    // A copy of an upload's object onto itself has another ETag, so that the same request is refused then. (The first
    // asks whether the store looks at that.)
    let second = Rule::new(Fault::LoseAnswer).on(Operation::CopyObject).skip(1).times(1);
    bench.store.faults.set(vec![second]);
    std::fs::set_permissions(bench.at("large"), Permissions::from_mode(0o600)).unwrap();
    File::open(bench.at("large")).unwrap().sync_all().unwrap();
    assert_eq!(bench.store.faults.fired(), [1]);
    bench.remount();
    let mode = std::fs::metadata(bench.at("large")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600, "{}", bench.log());
    lost(Operation::PutObject);
    std::fs::create_dir(bench.at("d")).unwrap();
    assert!(bench.bucket.object("d/").is_some());
    lost(Operation::PutObject);
    std::os::unix::fs::symlink("target", bench.at("l")).unwrap();
    assert_eq!(bench.bucket.object("l").unwrap(), b"target");
    // Another client's of that name are others' all the same.
    std::fs::read_dir(bench.mount_point()).unwrap().count();
    bench.bucket.put("e/", Vec::new());
    bench.bucket.put("k", b"target".to_vec());
    bench.store.faults.set(vec![
        Rule::new(Fault::internal_error()).on(Operation::PutObject).times(1),
        Rule::new(Fault::internal_error()).on(Operation::PutObject).skip(2).times(1),
    ]);
    let exists = Some(libc::EEXIST);
    assert_eq!(std::fs::create_dir(bench.at("e")).unwrap_err().raw_os_error(), exists);
    let symlink = std::os::unix::fs::symlink("target", bench.at("k"));
    assert_eq!(symlink.unwrap_err().raw_os_error(), exists);
}

/// It goes into no other file by way of the mount.
#[test]
fn each_object_has_a_mark_of_its_own() {
    let bench = Bench::start(&["--part-size", "5MiB"]);
    let mark = |key: &str| {
        let mark = bench.bucket.header(key, "x-amz-meta-ratchetfs-mark");
        assert!(mark.len() == 32 && mark.bytes().all(|byte| byte.is_ascii_hexdigit()), "{mark}");
        mark
    };
    let mut marks = Vec::new();
    for len in [5, 6 * MIB] {
        let (f, g) = (format!("f{len}"), format!("g{len}"));
        std::fs::write(bench.at(&f), noise(len, 1)).unwrap();
        sh(
            &bench.mount_point(),
            &format!("cp -a {f} {g} && ! getfattr -d -m - {g} | grep -i mark"),
        );
        marks.extend([mark(&f), mark(&g)]);
        sh(&bench.mount_point(), &format!("chmod 640 {g} && sync {g}"));
        marks.push(mark(&g));
    }
    sh(&bench.mount_point(), "mkdir d && ln -s f5 l");
    marks.extend([mark("d/"), mark("l")]);
    let all = marks.len();
    marks.sort();
    marks.dedup();
    assert_eq!(marks.len(), all);
}

/// SeaweedFS keeps no metadata of directories' markers; their mark is elsewhere.
#[test]
fn on_seaweedfs_the_creator_is_known_when_the_answer_was_lost() {
    let bench = WeedBench::start(&["--provider", "seaweedfs"]);
    let WeedBench { mount, bucket, proxy, .. } = &bench;
    proxy.lose_answer_to(&format!("PUT /{}/d/ ", bucket.name()));
    std::fs::create_dir(mount.at("d")).unwrap();
    proxy.lose_answer_to(&format!("PUT /{}/d/f ", bucket.name()));
    assert_eq!(create_exclusively(mount, "d/f", b"content"), Ok(()));
    assert_eq!(proxy.lost(), 2);
    assert_eq!(create_exclusively(mount, "d/f", b"content"), Err(libc::EEXIST));
    std::fs::create_dir(mount.at("d")).unwrap_err();
    assert_eq!(std::fs::read(mount.at("d/f")).unwrap(), b"content");
}

/// Another client replaces an object in the moment in which it is copied, on a store that copies whatever is there.
#[test]
fn a_store_that_copies_any_version_makes_no_old_bytes_the_new() {
    let options = ["--metadata-ttl", "1h", "--part-size", "5MiB"];
    let bench = Bench::start(&options);
    let any = |operation| Rule::new(Fault::IgnoreCopyCondition).on(operation);
    let any = || vec![any(Operation::CopyObject), any(Operation::UploadPartCopy)];
    bench.store.faults.set(any());
    for (number, len) in [4096, 6 * MIB, 6 * MIB].into_iter().enumerate() {
        for renamed in [true, false] {
            let (name, new) = (format!("f{number}{renamed}"), format!("g{number}{renamed}"));
            std::fs::write(bench.at(&name), noise(len, 1)).unwrap();
            assert!(std::fs::read(bench.at(&name)).unwrap() == noise(len, 1));
            let version = |name: &str| {
                let show = format!("getfattr --only-values -n user.ratchetfs.etag {name}");
                sh(&bench.mount_point(), &show)
            };
            let old = version(&name);
            bench.bucket.put(&name, noise(len, 2));
            if renamed {
                let error = std::fs::rename(bench.at(&name), bench.at(&new)).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{name}");
                assert!(bench.bucket.object(&name).unwrap() == noise(len, 2), "{name} is gone");
            } else {
                std::fs::set_permissions(bench.at(&name), Permissions::from_mode(0o600)).unwrap();
                let _ = File::open(bench.at(&name)).unwrap().sync_all();
            }
            let copied = if renamed { new } else { name };
            if let (Ok(read), Some(object)) =
                (std::fs::read(bench.at(&copied)), bench.bucket.object(&copied))
            {
                // Until the TTL is over the mount may still believe in the old version, with its own bytes.
                let is_old = read == noise(len, 1) && version(&copied) == old;
                assert!(is_old || read == object, "{copied}: old bytes of a new version");
            }
        }
    }
}

/// What a store that looks at the version is asked for that: one request.
#[test]
fn whether_a_store_looks_at_the_version_is_asked_once() {
    let bench = Bench::start(&["--part-size", "5MiB"]);
    let copies = |bench: &Bench| bench.requests(Operation::CopyObject);
    let rename = |from: &str, to: &str| {
        let before = copies(&bench);
        std::fs::rename(bench.at(from), bench.at(to)).unwrap();
        copies(&bench) - before
    };
    for (name, len) in [("small", 4096), ("large", 6 * MIB)] {
        std::fs::write(bench.at(name), noise(len, 1)).unwrap();
    }
    assert_eq!(rename("small", "s"), 1, "the digest tells");
    assert_eq!(rename("large", "l"), 2);
    assert_eq!(rename("l", "l2"), 1);
}

/// The metadata of an object alone is changed, which changes neither its content nor its ETag.
fn attributes_changed_elsewhere_are_seen(endpoint: &str, bucket: &str) {
    let address = format!("s3://{bucket}");
    let [mut one, mut other] = [(); 2].map(|()| Mount::new(endpoint, &address, &[]));
    one.mount();
    other.mount();
    let chmod = |mount: &Mount, name: &str| {
        let path = mount.at(name);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
    };
    let mode =
        |mount: &Mount, name: &str| std::fs::metadata(mount.at(name)).unwrap().mode() & 0o7777;
    // In the second in which it was written, or later: dates have whole seconds.
    for (name, later) in [("f", true), ("g", false)] {
        std::fs::write(one.at(name), "content").unwrap();
        assert_eq!(mode(&one, name), 0o644);
        if later {
            std::thread::sleep(Duration::from_millis(2100));
        }
        wait_until("there", || other.at(name).exists());
        chmod(&other, name);
        if later {
            wait_until("seen", || mode(&one, name) == 0o600);
            one.remount();
            assert_eq!(mode(&one, name), 0o600);
            // Not in the second of the other's change.
            std::thread::sleep(Duration::from_millis(2100));
        } else {
            std::thread::sleep(Duration::from_millis(4100));
        }
        sh(&one.mount_point(), &format!("touch -d @1600000000 {name} && sync {name}"));
        for mount in [&mut one, &mut other] {
            wait_until("told to all", || {
                let found = std::fs::metadata(mount.at(name)).unwrap();
                (found.mtime(), found.mode() & 0o7777) == (1_600_000_000, 0o600)
            });
        }
    }
}

#[test]
fn attributes_that_are_changed_elsewhere_are_seen() {
    let bench = Bench::unmounted(&[]);
    attributes_changed_elsewhere_are_seen(&bench.store.endpoint(), BUCKET);
}

#[test]
fn on_seaweedfs_attributes_changed_elsewhere_are_seen() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let weed = runtime.block_on(support::weed::Weed::shared());
    let bucket = runtime.block_on(weed.fresh_bucket());
    attributes_changed_elsewhere_are_seen(weed.endpoint(), &bucket);
}
