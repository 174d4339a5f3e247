//! What the store does with objects on its side: keeps them encrypted, in an archive, locked, tagged; and uploads
//! that no writer goes on with.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_types)]

use crate::support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use http::Method;
use ratchetfs::embedded::{Fault, Operation, Rule};
use support::bucket::Bucket;
use support::mount::{Bench, Mount, WeedBench, noise, refusal, sh};
use support::{BUCKET, text};

fn errno<T>(outcome: std::io::Result<T>) -> Option<i32> {
    outcome.err().expect("refused").raw_os_error()
}

/// The one line of a mount's log that holds all of these.
fn line_with(mount: &Mount, parts: &[&str]) -> String {
    let log = mount.log();
    let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    line.unwrap_or_else(|| panic!("no line with {parts:?}: {log}")).to_owned()
}

// What new objects get.

#[test]
fn new_objects_get_what_was_said_and_others_keep_theirs() {
    let options = [
        "--part-size",
        "5MiB",
        "--storage-class",
        "STANDARD_IA",
        "--sse",
        "aws:kms:dsse",
        "--sse-kms-key-id",
        "key-1",
        "--tagging",
        "team=web+site&kind=page",
    ];
    let mut bench = Bench::unmounted(&options);
    bench.bucket.put("old", "old");
    let own = [("x-amz-server-side-encryption", "AES256"), ("x-amz-tagging", "team=mine")];
    bench.bucket.put_with("own", &own, "own");
    bench.mount();
    fs::write(bench.at("small"), "small").unwrap();
    fs::write(bench.at("large"), noise(6 << 20, 1)).unwrap();
    sh(
        &bench.mount_point(),
        "mkdir dir; echo more >>old; echo more >>own; touch own; mv small new",
    );
    bench.unmount();
    let header = |key: &str, name: &str| bench.bucket.header(key, name);
    let tags = |key: &str| {
        let answer = bench.bucket.send(Method::GET, &format!("{key}?tagging="), &[], "").text();
        answer.matches("<Tag>").count().to_string() + answer.split("<Value>").nth(1).unwrap_or("")
    };
    for key in ["new", "large", "dir/"] {
        assert_eq!(header(key, "x-amz-storage-class"), "STANDARD_IA", "{key}");
        assert_eq!(header(key, "x-amz-server-side-encryption"), "aws:kms:dsse", "{key}");
        assert_eq!(header(key, "x-amz-server-side-encryption-aws-kms-key-id"), "key-1", "{key}");
        assert!(tags(key).starts_with("2web site"), "{key}: {}", tags(key));
    }
    assert_eq!(header("old", "x-amz-storage-class"), "");
    assert_eq!(tags("old"), "0");
    assert_eq!(header("own", "x-amz-server-side-encryption"), "AES256");
    assert_eq!(header("own", "x-amz-server-side-encryption-aws-kms-key-id"), "");
    assert!(tags("own").starts_with("1mine"), "{}", tags("own"));
}

// A key of the user's own (SSE-C).

/// Two keys in base64, of the same bytes each, and their MD5s.
const KEY: (&str, &str) =
    ("a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=", "mT2HRsMGJ5IX5C+0rreZ8Q==");
const OTHER_KEY: &str = "b29vb29vb29vb29vb29vb29vb29vb29vb29vb29vb28=";

fn sealed() -> [(&'static str, &'static str); 3] {
    [
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-server-side-encryption-customer-key", KEY.0),
        ("x-amz-server-side-encryption-customer-key-md5", KEY.1),
    ]
}

/// The option that names a file with this key.
fn key_file(dir: &Path, key: &str) -> String {
    let file = dir.join(format!("key-{}", &key[..4]));
    fs::write(&file, format!("{key}\n")).unwrap();
    format!("--sse-c-key-file={}", file.display())
}

#[test]
fn with_a_key_of_ones_own_all_that_is_done_carries_it() {
    let mut bench = Bench::unmounted(&[]);
    let option = key_file(bench.dir.path(), KEY.0);
    let options = [option.as_str(), "--part-size", "5MiB", "--log-level", "trace"];
    bench.set_options(&options);
    bench.mount();
    let large = noise(12 << 20, 7);
    fs::write(bench.at("large"), &large).unwrap();
    sh(
        &bench.mount_point(),
        "mkdir d; echo one >d/a; cp d/a d/b; echo two >>d/b; mv d/b d/c; mv d e; touch -d @7 e/a; chmod 600 e/c
         setfattr -n user.a -v b e/a; cp large copy; echo more >>copy; truncate -s 20M copy; echo x >large.tmp",
    );
    bench.unmount();
    // From the store, by a cache that knows nothing.
    let mut other = Mount::new(&bench.store.endpoint(), &format!("s3://{BUCKET}"), &options);
    other.mount();
    let copy = [large.as_slice(), b"more\n"].concat();
    assert!(fs::read(other.at("large")).unwrap() == large);
    assert!(fs::read(other.at("copy")).unwrap()[..copy.len()] == copy);
    assert_eq!(fs::metadata(other.at("copy")).unwrap().len(), 20 << 20);
    assert_eq!(fs::read_to_string(other.at("e/c")).unwrap(), "one\ntwo\n");
    for key in ["large", "copy", "e/a", "e/c", "e/"] {
        for (headers, status) in [(&[][..], 400), (&sealed(), 200)] {
            let answer = bench.bucket.send(Method::GET, key, headers, "");
            assert_eq!(answer.status, status, "{key}: {}", answer.text());
        }
    }
    let status =
        text(&other.run(&["status", "--json", &other.mount_point().display().to_string()]).stdout);
    assert!(status.contains("\"pid\""), "{status}");
    for secret in [KEY.0, "kkkkkkkk"] {
        for told in [&bench.log(), &other.log(), &status] {
            assert!(!told.contains(secret), "{told}");
        }
        let found =
            sh(other.dir.path(), &format!("grep -rl --binary-files=text {secret} cache || true"));
        assert_eq!(found, "");
    }
}

#[test]
fn a_wrong_or_missing_key_is_denied_with_its_cure() {
    let bench = Bench::unmounted(&[]);
    bench.bucket.put_with("sealed", &sealed(), "secret");
    bench.bucket.put("plain", "open");
    let mount = |options: &[&str]| {
        let mut mount = Mount::new(&bench.store.endpoint(), &format!("s3://{BUCKET}"), options);
        mount.mount();
        mount
    };
    let wrong = mount(&[&key_file(bench.dir.path(), OTHER_KEY)]);
    let none = mount(&[]);
    let right = mount(&[&key_file(bench.dir.path(), KEY.0)]);
    assert_eq!(fs::read(right.at("sealed")).unwrap(), b"secret");
    assert_eq!(fs::read(none.at("plain")).unwrap(), b"open");
    for (mount, name, cure) in [
        (&wrong, "sealed", "encrypted with another key than that of --sse-c-key-file"),
        (&none, "sealed", "give that with --sse-c-key-file"),
        (&right, "plain", "not encrypted with the key of --sse-c-key-file"),
    ] {
        assert_eq!(errno(fs::read(mount.at(name))), Some(libc::EACCES), "{name}: {cure}");
        line_with(mount, &[name, cure]);
    }
}

/// Every answer's ETag is other than the MD5 of what was sent, and looks like one.
#[test]
fn etags_of_what_is_sealed_are_not_compared() {
    let mut bench = Bench::unmounted(&[]);
    let option = key_file(bench.dir.path(), KEY.0);
    // A store that is known to answer MD5s, and (in this test) no checksums: an answered part does not say that it is sealed.
    bench.set_options(&[&option, "--provider", "aws", "--addressing", "path", "--cache-size", "0"]);
    bench.store.faults.set(vec![Rule::new(Fault::IgnoreChecksum)]);
    bench.mount();
    for (name, len) in [("small", 1000), ("large", 11 << 20)] {
        fs::write(bench.at(name), noise(len, 1)).unwrap();
    }
    bench.remount();
    for (name, len) in [("small", 1000), ("large", 11 << 20)] {
        assert!(fs::read(bench.at(name)).unwrap() == noise(len, 1), "{name}");
    }
}

// The archive.

fn archive(bench: &Bench, key: &str) {
    bench.bucket.put_with(key, &[("x-amz-storage-class", "GLACIER")], "frozen");
}

#[test]
fn what_is_archived_is_refused_by_open_with_its_cure() {
    let mut bench = Bench::unmounted(&[]);
    archive(&bench, "d/it%27s%20old");
    bench.mount();
    let file = bench.at("d/it's old");
    assert_eq!(fs::metadata(&file).unwrap().len(), 6);
    for options in [OpenOptions::new().read(true), OpenOptions::new().append(true)] {
        assert_eq!(errno(options.open(&file)), Some(libc::EREMOTEIO));
    }
    assert_eq!(bench.store.counters().requests(Operation::GetObject), 0);
    let cure = format!(r"restore-object --bucket {BUCKET} --key 'd/it'\''s old' --restore-request");
    line_with(&bench, &["d/it's old is archived", &cure]);
    let class = sh(&bench.at("d"), "getfattr --only-values -n user.ratchetfs.storage-class *");
    assert_eq!(class, "GLACIER");
    // It is what it says.
    let restored = bench.bucket.send(Method::POST, "d/it%27s%20old?restore=", &[], "");
    assert_eq!(restored.status, 200, "{}", restored.text());
    assert_eq!(fs::read(&file).unwrap(), b"frozen");
}

#[test]
fn what_is_archived_can_be_replaced_and_removed() {
    let mut bench = Bench::unmounted(&[]);
    ["a", "b"].iter().for_each(|key| archive(&bench, key));
    bench.mount();
    fs::write(bench.at("a"), "new").unwrap();
    fs::remove_file(bench.at("b")).unwrap();
    assert_eq!(bench.bucket.keys(), ["a"]);
    assert_eq!(bench.bucket.header("a", "content-length"), "3");
    // A file keeps its class.
    assert_eq!(bench.bucket.header("a", "x-amz-storage-class"), "GLACIER");
}

#[test]
fn what_is_archived_is_not_moved_and_nothing_beside_it() {
    let mut bench = Bench::unmounted(&[]);
    bench.bucket.put("d/a", "here");
    archive(&bench, "d/b");
    archive(&bench, "f");
    bench.mount();
    for (from, to) in [("f", "g"), ("d", "e")] {
        let moved = fs::rename(bench.at(from), bench.at(to));
        assert_eq!(errno(moved), Some(libc::EREMOTEIO), "{from}");
    }
    line_with(&bench, &["f is archived", "--key f "]);
    line_with(&bench, &["d/b is archived", "--key d/b "]);
    assert_eq!(bench.bucket.files(), ["d/a", "d/b", "f"]);
    bench.remount();
    assert_eq!(bench.bucket.files(), ["d/a", "d/b", "f"]);
    assert_eq!(fs::read(bench.at("d/a")).unwrap(), b"here");
}

/// As in one of the archives of INTELLIGENT_TIERING, of which no listing tells.
#[test]
fn an_archive_that_only_a_get_tells_of_is_told_once() {
    let mut bench = Bench::unmounted(&[]);
    bench.bucket.put("f", "frozen");
    bench.mount();
    let refused = Fault::Status(403, "InvalidObjectState");
    bench.store.faults.set(vec![Rule::new(refused).on(Operation::GetObject)]);
    let mut file = File::open(bench.at("f")).unwrap();
    assert_eq!(errno(file.read(&mut [0; 6])), Some(libc::EREMOTEIO));
    line_with(&bench, &["f is archived", "--key f "]);
    // The kernel itself asks for a page again.
    assert_eq!(bench.status().unwrap().store.retries, 0);
    bench.store.faults.clear();
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"frozen");
}

// Locks.

#[test]
fn what_a_lock_refuses_is_not_permitted_and_says_why() {
    let mut bench = Bench::unmounted(&[]);
    bench.bucket.put("f", "kept");
    bench.bucket.put("g", "kept");
    bench.mount();
    let refused = Fault::Status(409, "FileImmutable");
    bench.store.faults.set(vec![
        Rule::new(refused.clone()).on(Operation::PutObject),
        Rule::new(refused).on(Operation::DeleteObject),
    ]);
    let mut file = File::create(bench.at("f")).unwrap();
    file.write_all(b"changed").unwrap();
    assert_eq!(support::close(file), Err(libc::EPERM));
    assert_eq!(errno(fs::remove_file(bench.at("g"))), Some(libc::EPERM));
    for key in ["f", "g"] {
        line_with(&bench, &[&format!("{key} is under retention or a legal hold")]);
        assert_eq!(bench.bucket.object(key).unwrap(), b"kept");
    }
}

/// A bucket whose objects are kept for a day by default: each write is a version.
#[test]
fn a_bucket_with_a_lock_is_written_to() {
    let mut bench = WeedBench::unmounted(&["--part-size", "5MiB"]);
    lock(&bench);
    bench.mount();
    let large = noise(11 << 20, 3);
    fs::write(bench.at("large"), &large).unwrap();
    sh(
        &bench.mount_point(),
        "mkdir d; touch d/empty; echo one >f; echo two >>f; echo three >f; echo four >g; mv g d/h; rm large d/h",
    );
    assert_eq!(fs::read_to_string(bench.at("f")).unwrap(), "three\n");
    assert_eq!(sh(&bench.mount_point(), "find * -type f | sort"), "d/empty\nf\n");
    bench.unmount();
    let versions = bench.bucket.send(Method::GET, "?versions=", &[], "").text();
    assert!(versions.matches("<Key>f</Key>").count() >= 3, "{versions}");
    assert!(versions.contains("<Key>large</Key>"), "{versions}");
}

fn lock(bench: &WeedBench) {
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let kept = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                <Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    for (target, body) in [("?versioning=", on), ("?object-lock=", kept)] {
        let answer = bench.bucket.send(Method::PUT, target, &[], body);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    }
}

/// What AWS demands of each write to such a bucket, an empty one too.
#[test]
fn each_body_that_is_sent_has_a_checksum() {
    let sent = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let seen = sent.clone();
    let store = support::hostile::Hostile::start(move |head| {
        let head = head.to_ascii_lowercase();
        if head.starts_with("put ") {
            seen.lock().unwrap().push(head.clone());
            return (200, "etag: \"d41d8cd98f00b204e9800998ecf8427e\"\r\n".to_owned(), Vec::new());
        }
        if head.contains("list-type") {
            let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            return (200, String::new(), empty.into());
        }
        (404, String::new(), Vec::new())
    });
    let mut mount = Mount::new(&store.endpoint(), &format!("s3://{BUCKET}"), &[]);
    mount.mount();
    fs::create_dir(mount.at("d")).unwrap();
    fs::write(mount.at("empty"), "").unwrap();
    fs::write(mount.at("full"), "x").unwrap();
    mount.unmount();
    let sent = sent.lock().unwrap();
    assert!(sent.len() >= 3, "{sent:?}");
    for head in sent.iter() {
        assert!(head.contains("content-md5: ") || head.contains("x-amz-checksum-"), "{head}");
    }
}

// Uploads that no writer goes on with.

/// A part that may be followed by another one.
const PART: usize = 5 << 20;

/// As another program begins an upload and leaves it, with these parts.
fn leave(bucket: &Bucket, key: &str, parts: &[usize]) -> String {
    let begun = bucket.send(Method::POST, &format!("{key}?uploads="), &[], "");
    assert_eq!(begun.status, 200, "{}", begun.text());
    let id = begun.element("UploadId");
    for (part, len) in parts.iter().enumerate() {
        let target = format!("{key}?partNumber={}&uploadId={id}", part + 1);
        let put = bucket.send(Method::PUT, &target, &[], noise(*len, part as u64));
        assert_eq!(put.status, 200, "{}", put.text());
    }
    id
}

/// What `uploads …` prints as JSON: key, parts, bytes and whether it is of this machine.
fn uploads(mount: &Mount, arguments: &[&str]) -> Vec<(String, u64, u64, bool)> {
    let mut command = mount.program();
    command.arg("uploads").args(arguments).arg("--json").args(mount.store_options());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |row: &serde_json::Value| {
        let number = |name: &str| row[name].as_u64().unwrap();
        assert!(number("age_seconds") < 3600, "{row}");
        let (key, ours) = (row["key"].as_str().unwrap(), row["ours"].as_bool().unwrap());
        (key.to_owned(), number("parts"), number("bytes"), ours)
    };
    let mut rows: Vec<_> = rows.as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows
}

/// Three that others left, one of them outside of the prefix, and one that this machine goes on with.
fn leave_some(mount: &mut Mount, bucket: &Bucket) -> [(String, u64, u64, bool); 3] {
    leave(bucket, "p/a", &[PART, 10]);
    leave(bucket, "p/d/b", &[]);
    leave(bucket, "pq", &[10]);
    mount.mount();
    let mut file = File::create(mount.at("own")).unwrap();
    file.write_all(&noise(3 * PART, 5)).unwrap();
    mount.wait_for("sent", |status| status.transfers.iter().any(|it| it.parts_done == 3));
    mount.kill();
    drop(file);
    let foreign = |key: &str, parts, bytes| (key.to_owned(), parts, bytes, false);
    let own = ("p/own".to_owned(), 3, 3 * PART as u64, true);
    [foreign("p/a", 2, PART as u64 + 10), foreign("p/d/b", 0, 0), own]
}

fn all_are_listed_and_the_old_ones_of_others_ended(
    mount: &mut Mount,
    bucket: &Bucket,
    end_by_mount: bool,
) {
    let [a, b, own] = leave_some(mount, bucket);
    let (address, dir) = (format!("s3://{}/p", bucket.name()), mount.mount_point());
    let all = [a.clone(), b.clone(), own.clone()];
    sh(mount.dir.path(), "umount -l mnt");
    assert_eq!(uploads(mount, &["list", "--all", &address]), all);
    mount.mount();
    let dir = dir.to_str().unwrap();
    for named in [&address, dir] {
        assert_eq!(uploads(mount, &["list", "--all", named]), all, "{named}");
    }
    let named = if end_by_mount { dir } else { &address };
    let end = |age: &str| uploads(mount, &["abort", "--all", named, "--older-than", age, "--yes"]);
    assert_eq!(end("1h"), []);
    assert_eq!(end("0s"), [a, b]);
    assert_eq!(uploads(mount, &["list", "--all", named]), [own]);
    assert_eq!(bucket.uploads(), 2, "and the one outside of the prefix");
    // It goes on.
    fs::write(mount.at("own"), noise(3 * PART, 5)).unwrap();
    assert!(bucket.object("p/own").unwrap() == noise(3 * PART, 5));
}

/// A bucket that no other test has, whose mounts would be asked which uploads are theirs.
fn own_bucket(bench: &Bench, name: &str, options: &[&str]) -> (Mount, Bucket) {
    let bucket = Bucket::new(&bench.store.endpoint(), name, &bench.runtime);
    assert_eq!(bucket.send(Method::PUT, "", &[], "").status, 200);
    (Mount::new(&bench.store.endpoint(), &format!("s3://{name}/p"), options), bucket)
}

#[test]
fn foreign_uploads_are_listed_and_ended_embedded() {
    for (end_by_mount, name) in [(true, "foreign-by-mount"), (false, "foreign-by-address")] {
        let bench = Bench::unmounted(&[]);
        let (mut mount, bucket) = own_bucket(&bench, name, &["--part-size", "5MiB"]);
        all_are_listed_and_the_old_ones_of_others_ended(&mut mount, &bucket, end_by_mount);
    }
}

#[test]
fn foreign_uploads_are_listed_and_ended_seaweedfs() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let weed = runtime.block_on(support::weed::Weed::shared());
    let bucket = Bucket::new(weed.endpoint(), "foreign-seaweedfs", &runtime);
    assert_eq!(bucket.send(Method::PUT, "", &[], "").status, 200);
    let address = "s3://foreign-seaweedfs/p";
    let mut mount = Mount::new(weed.endpoint(), address, &["--part-size", "5MiB"]);
    all_are_listed_and_the_old_ones_of_others_ended(&mut mount, &bucket, true);
}

/// The whole output and how it ended, where the answer is typed on a terminal.
fn at_a_terminal(mut command: std::process::Command, answer: &str) -> (bool, String) {
    use std::os::fd::{FromRawFd, OwnedFd};
    let (mut ours, mut its) = (0, 0);
    // SAFETY: two places for descriptors; the others may be null.
    let made = unsafe {
        libc::openpty(
            &mut ours,
            &mut its,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(made, 0);
    // SAFETY: they were made here, and have no other owner.
    let (ours, its) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(its)) };
    command.stdin(its.try_clone().unwrap()).stderr(its);
    command.stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    // Its ends of the terminal are its own alone.
    drop(command);
    (&ours).write_all(format!("{answer}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), text(&output.stdout))
}

#[test]
fn uploads_of_others_are_not_ended_unasked() {
    let bench = Bench::unmounted(&[]);
    let (mount, bucket) = own_bucket(&bench, "foreign-unasked", &[]);
    leave(&bucket, "p/a", &[10]);
    let address = "s3://foreign-unasked/p";
    let abort = |arguments: &[&str]| {
        let mut command = mount.program();
        command.args(["uploads", "abort"]).args(arguments).args(mount.store_options());
        command
    };
    for (arguments, cure) in [
        (&["--all", address][..], "--older-than 7d"),
        (&["--older-than", "0s", address], "--all"),
        (&["--all", "--older-than", "0s"], "name s3://BUCKET"),
        (&["--all", "--older-than", "0s", address], "say --yes"),
        (&["--all", "--older-than", "0s", address, "--json"], "say --yes"),
        (&["--all", "--older-than", "0s", address, "p/a"], "one bucket"),
        (&[address, "--yes"], "--older-than"),
    ] {
        let told = refusal(&abort(arguments).output().unwrap());
        assert!(told.contains(cure), "{arguments:?}: {told}");
        assert_eq!(bucket.uploads(), 1, "{arguments:?}");
    }
    let meant = ["--all", "--older-than", "0s", address];
    let (done, told) = at_a_terminal(abort(&meant), "n");
    assert!(!done && told.contains("s3://foreign-unasked/p/a  1 parts, 10 B"), "{told}");
    assert_eq!(bucket.uploads(), 1);
    let (done, told) = at_a_terminal(abort(&meant), "y");
    assert!(done && told.ends_with("1 upload, 10 B ended\n"), "{told}");
    assert_eq!(bucket.uploads(), 0);
}

/// Its journal is not where it is looked for, and it does not say what is in it.
#[test]
fn a_mount_that_cannot_be_asked_keeps_all_uploads() {
    let bench = Bench::unmounted(&[]);
    let (mut mount, bucket) = own_bucket(&bench, "foreign-silent", &[]);
    leave(&bucket, "p/a", &[10]);
    mount.mount();
    mount.kill();
    let asking = Mount::new(&bench.store.endpoint(), "s3://foreign-silent", &[]);
    let mut command = asking.program();
    command.args(["uploads", "abort", "--all", "s3://foreign-silent", "--older-than", "0s"]);
    let told = refusal(&command.arg("--yes").args(asking.store_options()).output().unwrap());
    assert!(told.contains("cannot be told") && told.contains("ratchetfs umount"), "{told}");
    assert_eq!(bucket.uploads(), 1);
}
