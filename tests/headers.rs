//! What an object carries beside its bytes (headers, tags, storage class, metadata) outlives every change that is
//! made of it through a mount.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use http::Method;
use ratchetfs::embedded::{Fault, Operation, Rule};
use support::bucket::Bucket;
use support::mount::{Bench, Mount, WeedBench, sh};

/// What another tool has put an object with.
const CARRIED: [(&str, &str); 8] = [
    ("content-type", "text/html"),
    ("cache-control", "max-age=60"),
    ("content-encoding", "gzip"),
    ("content-disposition", "inline; filename=\"a b.html\""),
    ("content-language", "de"),
    ("expires", "Wed, 21 Oct 2026 07:28:00 GMT"),
    ("x-amz-storage-class", "STANDARD_IA"),
    ("x-amz-meta-foreign", "kept"),
];
const TAGS: (&str, &str) = ("x-amz-tagging", "team=web%20site&kind=page");

/// What programs do to a file `f` that they find.
const CHANGES: [(&str, &str); 11] = [
    ("touch", "touch -d @1700000000 f"),
    ("chmod", "chmod 600 f"),
    ("chown", "chown 12:34 f"),
    ("setfattr", "setfattr -n user.a -v b f"),
    ("append", "echo more >>f"),
    ("patch", "printf x | dd of=f conv=notrunc status=none"),
    ("cut", "truncate -s 3 f"),
    ("grow", "truncate -s 100 f"),
    ("rename", "mv f g && mv g f"),
    ("chmod-rename", "chmod 640 f && mv f g && mv g f"),
    ("directory", "mkdir ../to && mv f ../to && mv ../to ../to2 && mv ../to2/f . && rmdir ../to2"),
];
/// The same to a file of several parts.
const LARGE_CHANGES: [(&str, &str); 3] = [
    ("large-append", "echo more >>f"),
    ("large-patch", "printf x | dd of=f bs=1 seek=6000000 conv=notrunc status=none"),
    ("large-chmod", "chmod 600 f"),
];

fn put(bucket: &Bucket, key: &str, body: &[u8]) {
    let headers: Vec<_> = CARRIED.into_iter().chain([TAGS]).collect();
    bucket.put_with(key, &headers, body);
}

fn put_all(bucket: &Bucket) {
    CHANGES.iter().for_each(|(name, _)| put(bucket, &format!("{name}/f"), b"0123456789"));
    let large = vec![7; 11 << 20];
    LARGE_CHANGES.iter().for_each(|(name, _)| put(bucket, &format!("{name}/f"), &large));
}

fn assert_carried(bucket: &Bucket, key: &str, but: &[&str]) {
    let head = bucket.send(Method::HEAD, key, &[], "");
    assert_eq!(head.status, 200, "{key}");
    for (name, value) in CARRIED {
        let expected = if but.contains(&name) { "" } else { value };
        assert_eq!(head.header(name), expected, "{name} of {key}");
    }
    let tags = bucket.send(Method::GET, &format!("{key}?tagging="), &[], "").text();
    for tag in ["<Key>team</Key><Value>web site</Value>", "<Key>kind</Key><Value>page</Value>"] {
        assert!(tags.contains(tag), "{key}: {tags}");
    }
}

fn change_all(mount: &Mount) {
    for (name, script) in CHANGES.iter().chain(&LARGE_CHANGES) {
        sh(&mount.at(name), script);
    }
}

/// Of objects never seen, and of those whose attributes a mount before has seen.
fn every_change_keeps_all(bucket: &Bucket, mount: &mut Mount) {
    for is_remembered in [false, true] {
        put_all(bucket);
        mount.mount();
        if is_remembered {
            sh(&mount.mount_point(), "ls -lR");
            mount.remount();
        }
        change_all(mount);
        mount.unmount();
        for (name, _) in CHANGES.iter().chain(&LARGE_CHANGES) {
            assert_carried(bucket, &format!("{name}/f"), &[]);
        }
        let attributes =
            |name: &str, attribute: &str| bucket.header(&format!("{name}/f"), attribute);
        assert_eq!(attributes("touch", "x-amz-meta-mtime"), "1700000000");
        assert_eq!(attributes("chmod-rename", "x-amz-meta-mode"), "33184");
        assert_eq!(attributes("append", "content-length"), "15");
        assert_eq!(attributes("large-append", "content-length"), "11534341");
    }
}

const MODES: [&[&str]; 3] = [&[], &["--write-back"], &["--fast-attributes"]];

#[test]
fn every_change_keeps_what_an_object_carries() {
    for options in MODES {
        let options = [options, &["--part-size", "5MiB"]].concat();
        let mut bench = Bench::unmounted(&options);
        every_change_keeps_all(&bench.bucket, &mut bench.mount);
    }
}

#[test]
fn every_change_keeps_what_an_object_carries_on_seaweedfs() {
    for options in MODES {
        let options = [options, &["--part-size", "5MiB"]].concat();
        let mut bench = WeedBench::unmounted(&options);
        every_change_keeps_all(&bench.bucket, &mut bench.mount);
    }
}

/// It is the same file: but what is in it now need not be encoded as what was.
#[test]
fn a_file_that_is_begun_anew_keeps_all_but_the_encoding() {
    for options in MODES {
        let mut bench = Bench::unmounted(options);
        for key in ["echo", "cp", "emptied"] {
            put(&bench.bucket, key, b"before");
        }
        bench.mount();
        sh(&bench.mount_point(), "echo new >echo && cp echo cp && truncate -s 0 emptied");
        bench.unmount();
        for (key, len) in [("echo", "4"), ("cp", "4"), ("emptied", "0")] {
            assert_carried(&bench.bucket, key, &["content-encoding"]);
            assert_eq!(bench.bucket.header(key, "content-length"), len);
        }
    }
}

/// The object that told it may be gone by the time of the upload.
#[test]
fn what_is_carried_outlives_a_kill() {
    let mut bench = Bench::unmounted(&["--write-back", "--part-size", "5MiB"]);
    let large = vec![7; 11 << 20];
    for (key, body) in [("small", &b"before"[..]), ("emptied", b"before"), ("appended", &large)] {
        put(&bench.bucket, key, body);
    }
    bench.mount();
    let held = [Operation::PutObject, Operation::CompleteMultipartUpload];
    let rules = held.map(|operation| Rule::new(Fault::slow_down()).on(operation));
    bench.store.faults.set(rules.to_vec());
    sh(&bench.mount_point(), "echo new >small && truncate -s 0 emptied && echo more >>appended");
    bench.kill();
    for key in ["small", "emptied"] {
        bench.bucket.delete(key);
    }
    bench.store.faults.clear();
    bench.mount();
    bench.drained();
    bench.unmount();
    assert_carried(&bench.bucket, "small", &["content-encoding"]);
    assert_carried(&bench.bucket, "emptied", &["content-encoding"]);
    assert_carried(&bench.bucket, "appended", &[]);
}

/// What was written here is known.
#[test]
fn a_file_written_here_costs_no_head_to_change() {
    // Trusted with conditional writes.
    let bench = Bench::start(&["--provider", "minio", "--metadata-ttl", "60s"]);
    let heads = || bench.requests(Operation::HeadObject);
    sh(&bench.mount_point(), "echo one >file");
    for script in ["echo two >>file", "chmod 600 file && sync file", "echo three >file"] {
        let before = heads();
        sh(&bench.mount_point(), script);
        assert_eq!(heads() - before, 0, "{script}");
    }
}

/// By every way in which a name comes to be.
#[test]
fn new_files_have_the_type_that_their_names_tell() {
    for (options, is_told) in
        [(&[][..], true), (&["--write-back"], true), (&["--content-type", "off"], false)]
    {
        let mut bench = Bench::unmounted(options);
        bench.mount();
        std::fs::create_dir(bench.local("tree")).unwrap();
        std::fs::write(bench.local("tree/c.css"), "x").unwrap();
        sh(
            &bench.mount_point(),
            "echo x >a.html && echo x >b.tmp && mv b.tmp b.html && echo x >README && \
             rsync -a ../tree/ tree && echo x >d.txt && sync d.txt && mv d.txt d.json && mv d.json d.old",
        );
        bench.unmount();
        for (key, told) in [
            ("a.html", "text/html"),
            ("b.html", "text/html"),
            ("README", "binary/octet-stream"),
            ("tree/c.css", "text/css"),
            ("d.old", "application/json"),
        ] {
            let expected = if is_told { told } else { "binary/octet-stream" };
            let told = bench.bucket.header(key, "content-type");
            assert_eq!(told, expected, "{key} {options:?}");
        }
    }
}
