//! Mounting, unmounting and the commands that speak to a mount, on real mounts.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::os::unix::fs::MetadataExt;

use ratchetfs::embedded::{Fault, Operation, Rule};
use serde_json::Value;
use support::mount::{Bench, Mount, is_mounted, noise, refusal, sh, wait_until};
use support::{BUCKET, SECRET_KEY, text};

const MIB: usize = 1 << 20;

/// A command of the program that must succeed; what it printed.
fn told(bench: &Bench, arguments: &[&str]) -> String {
    let output = bench.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn mount_point(bench: &Bench) -> String {
    bench.mount_point().display().to_string()
}

fn cache_dir(bench: &Bench) -> String {
    bench.cache_dir().display().to_string()
}

/// Mounts in the background, as people do.
fn mount_behind(bench: &Bench, options: &[&str]) {
    let mut command = bench.program();
    command.arg("mount").arg(format!("s3://{BUCKET}")).arg(bench.mount_point());
    let output = command.args(bench.store_options()).args(options).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

/// Whether a process is gone, or only waits for its parent to notice.
fn has_ended(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    state.map_or(true, |state| state.contains(") Z "))
}

/// Slow enough that an upload is still under way when the next command comes.
fn slow(bench: &Bench) {
    bench.store.faults.set(vec![Rule::new(Fault::Bandwidth(2 << 20))]);
}

#[test]
fn a_mount_in_the_background_returns_once_it_answers() {
    let bench = Bench::unmounted(&[]);
    mount_behind(&bench, &[]);
    assert!(is_mounted(&bench.mount_point()));
    let pid = bench.status().expect("it answers at once").process.pid;
    sh(&bench.mount_point(), "echo hello > file && grep -q hello file");
    told(&bench, &["umount", &mount_point(&bench)]);
    assert!(!is_mounted(&bench.mount_point()));
    assert!(has_ended(pid));
    assert_eq!(bench.bucket.object("file").as_deref(), Some(&b"hello\n"[..]));
}

#[test]
fn what_cannot_be_mounted_is_one_line_with_its_cure() {
    let bench = Bench::start(&[]);
    std::fs::create_dir(bench.local("free")).unwrap();
    std::fs::create_dir(bench.local("full")).unwrap();
    std::fs::write(bench.local("full/x"), b"").unwrap();
    std::fs::write(bench.local("plain"), b"").unwrap();
    let bucket = format!("s3://{BUCKET}");
    let endpoint = bench.store.endpoint();
    let (shared, own) = (cache_dir(&bench), bench.local("own").display().to_string());
    let no_store = "http://127.0.0.1:1";
    // Bucket, mount point, cache directory, endpoint, secret key; words of the cure.
    let rows = [
        ("s3://no-such-bucket", "free", &*own, &*endpoint, SECRET_KEY, "create the bucket"),
        (&*bucket, "free", &own, &endpoint, "wrong", "the secret key is wrong"),
        (&bucket, "free", &own, no_store, SECRET_KEY, "--endpoint-url"),
        (&bucket, "missing", &own, &endpoint, SECRET_KEY, "mkdir -p"),
        (&bucket, "plain", &own, &endpoint, SECRET_KEY, "choose an empty directory"),
        (&bucket, "full", &own, &endpoint, SECRET_KEY, "not empty"),
        (&bucket, "mnt", &own, &endpoint, SECRET_KEY, "already mounted"),
        (&bucket, "free", &shared, &endpoint, SECRET_KEY, "in use by"),
        (&bucket, "free", "/proc/none", &endpoint, SECRET_KEY, "--cache-dir"),
    ];
    for (bucket, place, cache, endpoint, secret, cure) in rows {
        for foreground in [false, true] {
            let mut command = bench.program();
            command.env("AWS_SECRET_ACCESS_KEY", secret).args(["mount", bucket]);
            command.arg(bench.local(place)).args(["--cache-dir", cache]);
            command.args(["--endpoint-url", endpoint]);
            command.arg(format!("--foreground={foreground}"));
            let line = refusal(&command.output().unwrap());
            assert!(line.contains(cure), "{cure}, foreground {foreground}: {line}");
            assert!(!line.contains(SECRET_KEY), "{line}");
            assert!(!is_mounted(&bench.local("free")), "{cure}");
        }
    }
    sh(&bench.mount_point(), "echo x > file && grep -q x file");
}

#[test]
fn a_dead_mount_is_taken_away_by_umount_and_by_the_next_mount() {
    let mut bench = Bench::start(&[]);
    bench.kill();
    assert!(is_mounted(&bench.mount_point()));
    let output = bench.run(&["umount", &mount_point(&bench)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("took away the dead mount"), "{output:?}");
    assert!(!is_mounted(&bench.mount_point()));
    bench.mount();
    bench.kill();
    bench.mount();
    sh(&bench.mount_point(), "echo x > file && grep -q x file");
    assert_eq!(std::fs::read_dir(bench.mount_point()).unwrap().count(), 1);
}

#[test]
fn umount_waits_for_what_write_back_still_has_to_send() {
    let bench = Bench::unmounted(&[]);
    mount_behind(&bench, &["--write-back"]);
    let content = noise(6 * MIB, 1);
    slow(&bench);
    std::fs::write(bench.at("file"), &content).unwrap();
    assert_eq!(bench.bucket.object("file"), None, "close returned before the upload");
    told(&bench, &["umount", &mount_point(&bench)]);
    bench.store.faults.clear();
    assert_eq!(bench.bucket.object("file"), Some(content));
}

#[test]
fn umount_now_leaves_the_rest_to_the_next_mount() {
    let mut bench = Bench::unmounted(&["--write-back"]);
    mount_behind(&bench, &["--write-back"]);
    let content = noise(12 * MIB, 2);
    slow(&bench);
    std::fs::write(bench.at("file"), &content).unwrap();
    told(&bench, &["umount", "--now", &mount_point(&bench)]);
    bench.store.faults.clear();
    assert_eq!(bench.bucket.object("file"), None, "it did not wait");
    bench.mount();
    bench.drained();
    assert_eq!(bench.bucket.object("file"), Some(content));
}

#[test]
fn umount_of_a_mount_in_use_says_so_and_now_does_it_anyway() {
    let bench = Bench::unmounted(&[]);
    mount_behind(&bench, &[]);
    std::fs::write(bench.at("file"), b"x").unwrap();
    let open = std::fs::File::open(bench.at("file")).unwrap();
    let line = refusal(&bench.run(&["umount", &mount_point(&bench)]));
    assert!(line.contains("in use") && line.contains("--now"), "{line}");
    assert!(is_mounted(&bench.mount_point()));
    drop(open);
    told(&bench, &["umount", "--now", &mount_point(&bench)]);
    assert!(!is_mounted(&bench.mount_point()));
}

/// `fusermount3 -u`. What other tests of this process start has the files that it has open, from its fork to its exec:
/// for so long the kernel calls the mount busy.
fn take_away(bench: &Bench) {
    wait_until("taken away by fusermount3", || {
        let mut command = std::process::Command::new("fusermount3");
        command.arg("-u").arg(bench.mount_point()).status().unwrap().success()
    });
}

#[test]
fn fusermount_from_outside_and_sigterm_are_orderly_ends() {
    let bench = Bench::unmounted(&[]);
    for (round, end) in ["fusermount3", "kill -TERM"].into_iter().enumerate() {
        mount_behind(&bench, &["--write-back"]);
        let content = noise(6 * MIB, 3 + round as u64);
        slow(&bench);
        std::fs::write(bench.at("file"), &content).unwrap();
        let pid = bench.status().unwrap().process.pid;
        match end {
            "fusermount3" => take_away(&bench),
            _ => drop(sh(bench.dir.path(), &format!("{end} {pid}"))),
        }
        bench.wait_until_gone();
        wait_until("its process ended", || has_ended(pid));
        bench.store.faults.clear();
        assert!(
            bench.bucket.object("file") == Some(content),
            "{end}: what was closed is in the bucket"
        );
    }
}

#[test]
fn a_mount_can_be_taken_away_and_made_again_at_once() {
    let mut bench = Bench::unmounted(&["--write-back"]);
    for _ in 0..10 {
        bench.mount();
        bench.unmount();
    }
    // The process of the mount before still uploads when the next one comes.
    mount_behind(&bench, &["--write-back"]);
    let content = noise(2 * MIB, 9);
    slow(&bench);
    std::fs::write(bench.at("file"), &content).unwrap();
    let before = bench.status().unwrap().process.pid;
    take_away(&bench);
    mount_behind(&bench, &["--write-back"]);
    assert!(has_ended(before));
    assert_ne!(bench.status().unwrap().process.pid, before);
    assert!(std::fs::read(bench.at("file")).unwrap() == content);
    told(&bench, &["umount", &mount_point(&bench)]);
    assert!(bench.bucket.object("file") == Some(content));
}

#[test]
fn the_form_of_mount_8_mounts_with_the_same_options() {
    let bench = Bench::unmounted(&[]);
    bench.bucket.put("file", "content");
    let options = format!(
        "ro,uid=1000,gid=1001,file_mode=0600,endpoint_url={},cache_dir={}",
        bench.store.endpoint(),
        cache_dir(&bench)
    );
    let mut command = bench.program();
    command.arg(format!("s3://{BUCKET}")).arg(bench.mount_point()).args(["-o", &options]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let metadata = std::fs::metadata(bench.at("file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1000, 1001));
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert!(bench.status().unwrap().mode.read_only);
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(&mount_point(&bench))).unwrap();
    assert!(line.starts_with(&format!("s3://{BUCKET} ")) && line.contains("fuse.ratchetfs ro,"));
    told(&bench, &["umount", &mount_point(&bench)]);
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let bench = Bench::unmounted(&[]);
    bench.bucket.put("dir/file", "content");
    mount_behind(&bench, &["--read-only"]);
    for change in [
        "touch new",
        "mkdir new",
        "rm dir/file",
        "rmdir dir",
        "mv dir/file new",
        "mv dir new",
        "truncate -s 1 dir/file",
        "sh -c 'echo x >> dir/file'",
        "chmod 600 dir/file",
        "touch dir/file",
        "ln -s dir/file new",
    ] {
        let script =
            format!("! told=$(LC_ALL=C {change} 2>&1); grep -q 'Read-only file' <<< $told");
        sh(&bench.mount_point(), &script);
    }
    sh(&bench.mount_point(), "grep -q content dir/file");
    for operation in [Operation::DeleteObject, Operation::CopyObject] {
        assert_eq!(bench.requests(operation), 0);
    }
    told(&bench, &["umount", &mount_point(&bench)]);
}

#[test]
fn a_mount_of_a_prefix_sees_and_touches_nothing_outside() {
    let bench = Bench::unmounted(&[]);
    for key in ["in/a", "in/sub/b", "inner", "in.txt", "out/c"] {
        bench.bucket.put(key, key);
    }
    let mount = |prefix: &str| {
        let mut command = bench.program();
        command.arg("mount").arg(format!("s3://{BUCKET}/{prefix}")).arg(bench.mount_point());
        let output = command.args(bench.store_options()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    // It may be a new one, or misspelt.
    let said = mount("inn");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("nothing below s3://{BUCKET}/inn/ yet")), "{said}");
    told(&bench, &["umount", &mount_point(&bench)]);
    assert_eq!(mount("in"), "");
    let mnt = bench.mount_point();
    assert_eq!(sh(&mnt, "find . | LC_ALL=C sort"), ".\n./a\n./sub\n./sub/b\n");
    sh(&mnt, "grep -q in/sub/b sub/b && echo new > sub/new && mv a moved && rm sub/b");
    sh(&mnt, "! cat ../out/c inner in.txt out/c 2>/dev/null");
    assert_eq!(bench.bucket.object("in/sub/new").as_deref(), Some(&b"new\n"[..]));
    assert_eq!(bench.bucket.object("in/moved").as_deref(), Some(&b"in/a"[..]));
    assert_eq!((bench.bucket.object("in/a"), bench.bucket.object("in/sub/b")), (None, None));
    sh(&mnt, "rm -rf -- *");
    for key in ["inner", "in.txt", "out/c"] {
        assert_eq!(bench.bucket.object(key), Some(key.as_bytes().to_vec()), "{key}");
    }
    told(&bench, &["umount", &mount_point(&bench)]);
}

#[test]
fn status_is_a_document_that_programs_can_read() {
    let bench = Bench::start(&[]);
    std::fs::write(bench.at("small"), noise(100_000, 6)).unwrap();
    std::fs::write(bench.at("large"), noise(12 * MIB, 7)).unwrap();
    let document = told(&bench, &["status", "--json", &mount_point(&bench)]);
    assert!(!document.contains(SECRET_KEY));
    let document: Value = serde_json::from_str(&document).unwrap();
    let status = document.get(0).unwrap_or(&document);
    assert_eq!(status["bucket"], BUCKET);
    assert_eq!(status["mount_point"].as_str().unwrap(), mount_point(&bench));
    assert_eq!(status["endpoint"].as_str().unwrap(), bench.store.endpoint());
    assert_eq!(status["pid"].as_u64(), bench.status().map(|status| status.process.pid.into()));
    assert!(status["store"]["bytes_sent"].as_u64().unwrap() >= 12 * MIB as u64 + 100_000);
    assert_eq!(status["store"]["operations"]["PutObject"], 1);
    assert_eq!(status["store"]["operations"]["CompleteMultipartUpload"], 1);
    assert_eq!(status["recent_errors"].as_array().unwrap().len(), 0);
    assert!(status["journal"]["bytes"].as_u64().unwrap() > 0);
    let shown = told(&bench, &["status", &mount_point(&bench)]);
    assert!(shown.contains(&format!("s3://{BUCKET}")), "{shown}");
    assert!(!bench.log().contains(SECRET_KEY));
}

#[test]
fn signed_requests_as_plain_text_are_pointed_out_once() {
    let bench = Bench::start(&[]);
    let told = |log: &str| log.lines().filter(|line| line.contains("as plain http")).count();
    assert_eq!(told(&bench.log()), 0, "loopback");
    // The same server, by an address that is none of loopback's.
    let endpoint = bench.store.endpoint().replace("127.0.0.1", "0.0.0.0");
    let mut mount = Mount::new(&endpoint, &format!("s3://{BUCKET}"), &[]);
    mount.mount();
    std::fs::write(mount.at("f"), "content").unwrap();
    mount.unmount();
    let log = mount.log();
    assert_eq!(told(&log), 1, "{log}");
    assert!(log.contains("WARN") && log.contains("--no-sign-request"), "{log}");
}

/// Flips one bit in the middle of each cached object.
fn damage(bench: &Bench) {
    let found = sh(&bench.cache_dir(), "find . -path '*/objects/*' -type f");
    assert!(!found.is_empty(), "nothing is cached");
    for path in found.lines() {
        let path = bench.cache_dir().join(path);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn the_cache_is_shown_verified_and_cleared_mounted_or_not() {
    let mut bench = Bench::unmounted(&[]);
    let len = 3 * MIB as u64;
    let content = noise(len as usize, 8);
    bench.bucket.put("file", content.clone());
    bench.mount();
    let mnt = mount_point(&bench);
    let cache = cache_dir(&bench);
    let info = |bench: &Bench, target: &[&str]| -> Value {
        let document = told(bench, &[&["cache", "info", "--json"], target].concat());
        serde_json::from_str::<Value>(&document).unwrap()[0].take()
    };
    sh(&bench.mount_point(), "cat file > ../copy && cmp file ../copy");
    bench.wait_for("on the disk", |status| status.cache.disk_bytes == len);
    assert_eq!(info(&bench, &[&mnt])["objects"], 1);
    let verified = told(&bench, &["cache", "verify", "--json", &mnt]);
    assert_eq!(serde_json::from_str::<Value>(&verified).unwrap()["checked_bytes"], len);
    // A mounted cache belongs to its mount.
    let line = refusal(&bench.run(&["cache", "clear", "--cache-dir", &cache]));
    assert!(line.contains("name the mount point"), "{line}");

    bench.unmount();
    assert_eq!(info(&bench, &["--cache-dir", &cache])["disk_bytes"], len);
    told(&bench, &["cache", "verify", "--cache-dir", &cache]);
    damage(&bench);
    let output = bench.run(&["cache", "verify", "--cache-dir", &cache]);
    assert!(!output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("damaged"), "{output:?}");
    told(&bench, &["cache", "verify", "--cache-dir", &cache]);

    bench.mount();
    assert_eq!(std::fs::read(bench.at("file")).unwrap(), content);
    bench.wait_for("on the disk again", |status| status.cache.disk_bytes == len);
    told(&bench, &["cache", "clear", &mnt]);
    assert_eq!(info(&bench, &[&mnt])["disk_bytes"], 0);
    // Not from what the kernel keeps of the file.
    sh(&bench.mount_point(), "dd if=file iflag=nocache count=0 status=none");
    assert_eq!(std::fs::read(bench.at("file")).unwrap(), content);
    bench.wait_for("on the disk once more", |status| status.cache.disk_bytes == len);
    bench.unmount();
    let cleared = told(&bench, &["cache", "clear", "--json", "--cache-dir", &cache]);
    assert_eq!(serde_json::from_str::<Value>(&cleared).unwrap()["cleared_bytes"], len);
    assert_eq!(info(&bench, &["--cache-dir", &cache])["disk_bytes"], 0);
}

#[test]
fn damage_under_a_mount_is_never_served() {
    let mut bench = Bench::unmounted(&[]);
    let content = noise(3 * MIB, 9);
    bench.bucket.put("file", content.clone());
    bench.mount();
    sh(&bench.mount_point(), "cat file > /dev/null");
    bench.wait_for("on the disk", |status| status.cache.disk_bytes == 3 * MIB as u64);
    bench.unmount();
    damage(&bench);
    bench.mount();
    assert!(std::fs::read(bench.at("file")).unwrap() == content);
    assert!(bench.status().unwrap().cache.damaged_ranges > 0);
}

#[test]
fn what_was_not_touched_since_its_check_is_not_checked_again() {
    // With a limit of requests none is sent twice, however slow the machine is.
    let mut bench = Bench::unmounted(&["--request-limit", "1000"]);
    let (content, replaced) = (noise(20 * MIB, 9), noise(20 * MIB, 10));
    let len = content.len() as u64;
    bench.bucket.put("file", content.clone());
    // Reads the file; bytes checked and bytes trusted by this mount.
    let read = |bench: &Bench, expected: &[u8]| {
        assert!(std::fs::read(bench.at("file")).unwrap() == expected);
        let cache = bench.status().unwrap().cache;
        (cache.checked_bytes, cache.trusted_bytes)
    };
    let fetched_by = |bench: &Bench| bench.store.counters().bytes_out_of(Operation::GetObject);
    bench.mount();
    read(&bench, &content);
    bench.unmount();
    let fetched = fetched_by(&bench);
    for _ in 0..2 {
        bench.mount();
        assert_eq!(read(&bench, &content), (0, len));
        bench.mount.kill();
    }
    assert_eq!(fetched_by(&bench), fetched);

    // A flipped bit, and mtime as if nothing had happened.
    let flip = "touch -r $f ../stamp; printf X | dd of=$f bs=1 seek=5M conv=notrunc status=none; \
                touch -r ../stamp $f";
    sh(&bench.cache_dir(), &format!("f=$(find . -path '*/objects/*' -size +19M); {flip}"));
    bench.mount();
    let (checked, trusted) = read(&bench, &content);
    assert_eq!((checked >= len, trusted), (true, 0));
    // The piece with the bit: a MiB, or less where the disk was slow when it was written.
    let again = fetched_by(&bench) - fetched;
    assert!((1..=MIB as u64).contains(&again), "{again} bytes fetched again");
    bench.unmount();

    bench.bucket.put("file", replaced.clone());
    bench.mount();
    assert_eq!(read(&bench, &replaced).1, 0);
}

#[test]
fn doctor_tells_what_would_stop_a_mount() {
    let bench = Bench::unmounted(&[]);
    let options = bench.store_options();
    let doctor = |bucket: &str| bench.program().args(["doctor", bucket]).args(&options).output();
    let output = doctor(&format!("s3://{BUCKET}")).unwrap();
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains(&format!("bucket {BUCKET} answers")));
    let output = doctor("s3://no-such-bucket").unwrap();
    let line = refusal(&output);
    assert!(line.contains("one thing would stop a mount here"), "{line}");
    assert!(text(&output.stdout).contains("create the bucket"), "{}", text(&output.stdout));
}
