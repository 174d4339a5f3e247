//! What an object carries beside its bytes (headers, tags, storage class, metadata) outlives every change that is
//! made of it through a mount.

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use http::Method;
use ratchetfs::embedded::{Fault, Operation, Rule};
use support::BUCKET;
use support::mount::{Bench, Mount, sh};
use support::raw::{Answer, Client};
use support::weed::Weed;
use tokio::runtime::Runtime;

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

/// A bucket, as other tools see it.
struct Bucket<'a> {
    client: Client,
    name: String,
    runtime: &'a Runtime,
}

impl Bucket<'_> {
    fn send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let target = format!("/{}/{target}", self.name);
        self.runtime.block_on(self.client.send(method, &target, headers, body)).unwrap()
    }

    fn put(&self, key: &str, body: &[u8]) {
        let headers: Vec<_> = CARRIED.into_iter().chain([TAGS]).collect();
        assert_eq!(self.send(Method::PUT, key, &headers, body).status, 200, "{key}");
    }

    fn put_all(&self) {
        CHANGES.iter().for_each(|(name, _)| self.put(&format!("{name}/f"), b"0123456789"));
        let large = vec![7; 11 << 20];
        LARGE_CHANGES.iter().for_each(|(name, _)| self.put(&format!("{name}/f"), &large));
    }

    fn assert_carried(&self, key: &str, but: &[&str]) {
        let head = self.send(Method::HEAD, key, &[], b"");
        assert_eq!(head.status, 200, "{key}");
        for (name, value) in CARRIED {
            let expected = if but.contains(&name) { "" } else { value };
            assert_eq!(head.header(name), expected, "{name} of {key}");
        }
        let tags = self.send(Method::GET, &format!("{key}?tagging="), &[], b"").text();
        for tag in ["<Key>team</Key><Value>web site</Value>", "<Key>kind</Key><Value>page</Value>"]
        {
            assert!(tags.contains(tag), "{key}: {tags}");
        }
    }
}

fn change_all(mount: &Mount) {
    for (name, script) in CHANGES.iter().chain(&LARGE_CHANGES) {
        sh(&mount.at(name), script);
    }
}

/// Of objects never seen, and of those whose attributes a mount before has seen.
fn every_change_keeps_all(bucket: &Bucket<'_>, mount: &mut Mount) {
    for is_remembered in [false, true] {
        bucket.put_all();
        mount.mount();
        if is_remembered {
            sh(&mount.mount_point(), "ls -lR");
            mount.remount();
        }
        change_all(mount);
        mount.unmount();
        for (name, _) in CHANGES.iter().chain(&LARGE_CHANGES) {
            bucket.assert_carried(&format!("{name}/f"), &[]);
        }
        let attributes = |name: &str, attribute: &str| {
            bucket.send(Method::HEAD, &format!("{name}/f"), &[], b"").header(attribute)
        };
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
        let Bench { mut mount, runtime, store } = Bench::unmounted(&options);
        let client = Client::new(&store.endpoint());
        let bucket = Bucket { client, name: BUCKET.to_owned(), runtime: &runtime };
        every_change_keeps_all(&bucket, &mut mount);
    }
}

#[test]
fn every_change_keeps_what_an_object_carries_on_seaweedfs() {
    let runtime = Runtime::new().unwrap();
    let weed = runtime.block_on(Weed::shared());
    for options in MODES {
        let options = [options, &["--part-size", "5MiB"]].concat();
        let name = runtime.block_on(weed.fresh_bucket());
        let mut mount = Mount::new(weed.endpoint(), &format!("s3://{name}"), &options);
        let bucket = Bucket { client: Client::new(weed.endpoint()), name, runtime: &runtime };
        every_change_keeps_all(&bucket, &mut mount);
    }
}

/// It is the same file: but what is in it now need not be encoded as what was.
#[test]
fn a_file_that_is_begun_anew_keeps_all_but_the_encoding() {
    for options in MODES {
        let Bench { mut mount, runtime, store } = Bench::unmounted(options);
        let client = Client::new(&store.endpoint());
        let bucket = Bucket { client, name: BUCKET.to_owned(), runtime: &runtime };
        for key in ["echo", "cp", "emptied"] {
            bucket.put(key, b"before");
        }
        mount.mount();
        sh(&mount.mount_point(), "echo new >echo && cp echo cp && truncate -s 0 emptied");
        mount.unmount();
        for (key, len) in [("echo", "4"), ("cp", "4"), ("emptied", "0")] {
            bucket.assert_carried(key, &["content-encoding"]);
            assert_eq!(bucket.send(Method::HEAD, key, &[], b"").header("content-length"), len);
        }
    }
}

/// The object that told it may be gone by the time of the upload.
#[test]
fn what_is_carried_outlives_a_kill() {
    let Bench { mut mount, runtime, store } =
        Bench::unmounted(&["--write-back", "--part-size", "5MiB"]);
    let client = Client::new(&store.endpoint());
    let bucket = Bucket { client, name: BUCKET.to_owned(), runtime: &runtime };
    let large = vec![7; 11 << 20];
    for (key, body) in [("small", &b"before"[..]), ("emptied", b"before"), ("appended", &large)] {
        bucket.put(key, body);
    }
    mount.mount();
    let held = [Operation::PutObject, Operation::CompleteMultipartUpload];
    let rules = held.map(|operation| Rule::new(Fault::slow_down()).on(operation));
    store.faults.set(rules.to_vec());
    sh(&mount.mount_point(), "echo new >small && truncate -s 0 emptied && echo more >>appended");
    mount.kill();
    for key in ["small", "emptied"] {
        assert_eq!(bucket.send(Method::DELETE, key, &[], b"").status, 204);
    }
    store.faults.clear();
    mount.mount();
    mount.wait_for("uploaded", |status| status.pending_files == 0);
    mount.unmount();
    bucket.assert_carried("small", &["content-encoding"]);
    bucket.assert_carried("emptied", &["content-encoding"]);
    bucket.assert_carried("appended", &[]);
}

/// What was written here is known.
#[test]
fn a_file_written_here_costs_no_head_to_change() {
    // Trusted with conditional writes.
    let bench = Bench::start(&["--provider", "minio", "--metadata-ttl", "60s"]);
    let heads = || bench.store.counters().requests(Operation::HeadObject);
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
        let Bench { mut mount, runtime, store } = Bench::unmounted(options);
        let client = Client::new(&store.endpoint());
        let bucket = Bucket { client, name: BUCKET.to_owned(), runtime: &runtime };
        mount.mount();
        std::fs::create_dir(mount.local("tree")).unwrap();
        std::fs::write(mount.local("tree/c.css"), "x").unwrap();
        sh(
            &mount.mount_point(),
            "echo x >a.html && echo x >b.tmp && mv b.tmp b.html && echo x >README && \
             rsync -a ../tree/ tree && echo x >d.txt && sync d.txt && mv d.txt d.json && mv d.json d.old",
        );
        mount.unmount();
        for (key, told) in [
            ("a.html", "text/html"),
            ("b.html", "text/html"),
            ("README", "binary/octet-stream"),
            ("tree/c.css", "text/css"),
            ("d.old", "application/json"),
        ] {
            let expected = if is_told { told } else { "binary/octet-stream" };
            let head = bucket.send(Method::HEAD, key, &[], b"");
            assert_eq!(head.header("content-type"), expected, "{key} {options:?}");
        }
    }
}
