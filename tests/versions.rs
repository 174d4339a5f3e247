//! Buckets that keep versions: written as any other, listed, brought back, shown as they were, and one version read by its
//! id.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use ratchetfs::embedded::{Fault, Operation, Rule};
use serde_json::Value;
use support::bucket::Bucket;
use support::mount::{Bench, Mount, WeedBench, noise, refusal, sh};
use support::{BUCKET, text};

const MIB: usize = 1 << 20;

fn errno<T>(outcome: std::io::Result<T>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

fn keep_versions(bucket: &Bucket) {
    let body = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                <Status>Enabled</Status></VersioningConfiguration>";
    let answer = bucket.send(Method::PUT, "?versioning", &[], body);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A mount of a bucket that keeps versions.
fn versioned(options: &[&str]) -> Bench {
    let mut bench = Bench::unmounted(options);
    keep_versions(&bench.bucket);
    bench.mount();
    bench
}

/// A moment behind all that was written before, and before all that is written from now on: stores tell times in seconds.
fn a_moment() -> String {
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let now = seconds();
    while seconds() == now {
        std::thread::sleep(Duration::from_millis(5));
    }
    let moment = UNIX_EPOCH + Duration::from_millis(now * 1000 + 999);
    humantime::format_rfc3339_millis(moment).to_string()
}

/// What `versions --json` tells of a target.
fn versions(mount: &Mount, target: &str) -> Vec<Value> {
    let mut arguments = vec!["versions".to_owned(), "--json".to_owned(), target.to_owned()];
    if target.starts_with("s3://") {
        arguments.extend(mount.store_options().into_iter().take(2));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let told = mount.run(&arguments);
    assert!(told.status.success(), "{}", text(&told.stderr));
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    told["versions"].as_array().unwrap().clone()
}

fn id(version: &Value) -> &str {
    version["id"].as_str().unwrap()
}

/// The whole tree, a line a name: kind, mode, length, path and what is in it.
fn tree(root: &Path) -> String {
    sh(
        root,
        "find . -mindepth 1 -not -path '*/.ratchetfs-*' -printf '%y %m %s %p ' \
         \\( -type f -exec md5sum {} \\; -o -printf '\\n' \\) | sort",
    )
}

#[test]
fn a_versioned_bucket_is_written_as_any_other() {
    let bench = versioned(&[]);
    write_changes(&bench, &bench.bucket);
}

#[test]
fn on_seaweedfs_a_versioned_bucket_is_written_as_any_other() {
    let mut bench = WeedBench::unmounted(&[]);
    keep_versions(&bench.bucket);
    bench.mount();
    write_changes(&bench, &bench.bucket);
}

/// cp, overwrite, append, chmod, mv, rm, on small files and on large ones.
fn write_changes(mount: &Mount, bucket: &Bucket) {
    let large = noise(12 * MIB, 1);
    fs::write(mount.local("large"), &large).unwrap();
    let local = mount.local("large").display().to_string();
    sh(
        &mount.mount_point(),
        &format!(
            "mkdir d; cp {local} d/large; echo one > f; echo two > f; echo three >> f; chmod 600 f; mv f g; \
             cp g h; rm h; mkdir -p e/s; cp {local} e/s/x; mv e/s/x d/large; mv d moved; rm -r e; sync -f ."
        ),
    );
    let names = sh(&mount.mount_point(), "find . -mindepth 1 -not -name '.*' | sort");
    assert_eq!(names, "./g\n./moved\n./moved/large\n");
    bucket.assert_has(mount, "g", b"two\nthree\n");
    bucket.assert_has(mount, "moved/large", &large);
    assert_eq!(bucket.object("f"), None);
    // What was removed stays away, also when nothing of it is remembered, and can be made again.
    a_moment();
    a_moment();
    for name in ["d", "e", "e/s", "f"] {
        assert_eq!(errno(fs::metadata(mount.at(name))), Some(libc::ENOENT), "{name}");
    }
    sh(&mount.mount_point(), "mkdir -p e/s && rmdir e/s e");
    // What was written last is what the key has now, and all before that is still there.
    let of_g = versions(mount, &mount.at("g").display().to_string());
    let shown = sh(&mount.mount_point(), "getfattr --only-values -n user.ratchetfs.version g");
    assert_eq!((id(&of_g[0]), &of_g[0]["is_latest"]), (shown.as_str(), &Value::Bool(true)));
    let of_f = versions(mount, &format!("s3://{}/f", bucket.name()));
    assert_eq!(of_f[0]["is_deleted"], true);
    let old: Vec<Vec<u8>> = of_f
        .iter()
        .filter(|version| version["is_deleted"] == false)
        .map(|version| {
            let answer = bucket.send(Method::GET, &format!("f?versionId={}", id(version)), &[], "");
            assert_eq!(answer.status, 200, "{version}");
            answer.body
        })
        .collect();
    for content in [&b"one\n"[..], b"two\n", b"two\nthree\n"] {
        assert!(old.iter().any(|old| old == content), "{old:?}");
    }
}

#[test]
fn versions_are_told_of_a_file_and_of_an_object() {
    let bench = versioned(&[]);
    fs::create_dir(bench.at("d")).unwrap();
    for content in ["one", "second"] {
        fs::write(bench.at("d/f"), content).unwrap();
        a_moment();
    }
    fs::remove_file(bench.at("d/f")).unwrap();
    let path = bench.at("d/f").display().to_string();
    let told = versions(&bench, &path);
    assert_eq!(told, versions(&bench, &format!("s3://{BUCKET}/d/f")));
    let lens: Vec<Option<u64>> = told.iter().map(|version| version["len"].as_u64()).collect();
    assert_eq!(lens, [None, Some(6), Some(3)]);
    assert!(told[0]["is_deleted"] == true && told[0]["is_latest"] == true);
    let shown = text(&bench.run(&["versions", &path]).stdout);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    for (line, version) in lines.iter().zip(&told) {
        assert!(line.starts_with(id(version)), "{line}");
    }
    assert!(lines[0].ends_with("deleted, current"), "{shown}");

    let nothing = bench.at("d/g").display().to_string();
    assert!(refusal(&bench.run(&["versions", &nothing])).contains("no version of"));
    let directory = bench.at("d").display().to_string();
    assert!(refusal(&bench.run(&["versions", &directory])).contains("name a file"));
    assert!(refusal(&bench.run(&["versions", "s3://bucket/"])).contains("names no object"));
}

fn undelete(mount: &Mount, target: &str) -> String {
    let mut arguments = vec!["undelete".to_owned(), target.to_owned()];
    if target.starts_with("s3://") {
        arguments.extend(mount.store_options().into_iter().take(2));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let told = mount.run(&arguments);
    assert!(told.status.success(), "{}", text(&told.stderr));
    text(&told.stdout)
}

#[test]
fn what_is_undeleted_is_there_at_once() {
    // So that nothing but the undelete itself shows it.
    let mut bench = versioned(&["--metadata-ttl", "infinite"]);
    undelete_files(&bench, &bench.bucket);
    bench.set_options(&["--write-back", "--metadata-ttl", "infinite"]);
    bench.remount();
    // Deleted in the bucket too before it is looked at.
    fs::remove_file(bench.at("f")).unwrap();
    undelete(&bench, &bench.at("f").display().to_string());
    assert_eq!(fs::read(bench.at("f")).unwrap(), b"second");

    // A file that is only here is not the bucket's to replace.
    fs::remove_file(bench.at("f")).unwrap();
    bench.wait_for("deleted", |status| status.pending_deletions == 0);
    let puts = Rule::new(Fault::slow_down()).on(Operation::PutObject);
    bench.store.faults.set(vec![puts]);
    fs::write(bench.at("f"), "only here").unwrap();
    let refused = refusal(&bench.run(&["undelete", &bench.at("f").display().to_string()]));
    assert!(refused.contains("not in the bucket yet"), "{refused}");
    assert_eq!(fs::read(bench.at("f")).unwrap(), b"only here");
    bench.store.faults.clear();
}

#[test]
fn on_seaweedfs_what_is_undeleted_is_there_at_once() {
    let mut bench = WeedBench::unmounted(&["--metadata-ttl", "infinite"]);
    keep_versions(&bench.bucket);
    bench.mount();
    undelete_files(&bench, &bench.bucket);
}

fn undelete_files(mount: &Mount, bucket: &Bucket) {
    fs::create_dir_all(mount.at("d/s")).unwrap();
    for name in ["f", "d/s/g"] {
        for content in ["first", "second"] {
            fs::write(mount.at(name), content).unwrap();
        }
    }
    fs::remove_file(mount.at("f")).unwrap();
    fs::remove_dir_all(mount.at("d")).unwrap();
    for name in ["f", "d"] {
        assert_eq!(errno(fs::metadata(mount.at(name))), Some(libc::ENOENT));
    }
    // Another client deletes what is deleted already.
    bucket.delete("f");
    let told = undelete(mount, &mount.at("f").display().to_string());
    assert!(told.contains("is there again"), "{told}");
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"second");
    bucket.assert_has(mount, "f", b"second");
    undelete(mount, &mount.at("d/s/g").display().to_string());
    assert_eq!(fs::read(mount.at("d/s/g")).unwrap(), b"second");
    assert_eq!(sh(&mount.mount_point(), "find d -type f"), "d/s/g\n");

    let told = undelete(mount, &mount.at("f").display().to_string());
    assert!(told.contains("was not deleted"), "{told}");
    let never = refusal(&mount.run(&["undelete", &mount.at("never").display().to_string()]));
    assert!(never.contains("no version of"), "{never}");
    bucket.delete("d/s/g");
    undelete(mount, &format!("s3://{}/d/s/g", bucket.name()));
    assert_eq!(bucket.object("d/s/g").unwrap(), b"second");
}

#[test]
fn a_bucket_is_shown_as_it_was() {
    let bench = versioned(&[]);
    show_as_it_was(&bench, &bench.bucket, "a c new large zz", |at| {
        Mount::new(&bench.store.endpoint(), &format!("s3://{BUCKET}"), &["--version-at", at])
    });
}

#[test]
fn on_seaweedfs_a_bucket_is_shown_as_it_was() {
    let mut bench = WeedBench::unmounted(&[]);
    keep_versions(&bench.bucket);
    bench.mount();
    // A directory in which nothing is has no versions there.
    show_as_it_was(&bench, &bench.bucket, "a/f a/large c new large zz", |at| {
        let address = format!("s3://{}", bench.bucket.name());
        Mount::new(&bench.proxy.endpoint(), &address, &["--version-at", at])
    });
}

fn show_as_it_was(mount: &Mount, bucket: &Bucket, gone: &str, view: impl Fn(&str) -> Mount) {
    fs::write(mount.local("large"), noise(9 * MIB, 3)).unwrap();
    let local = mount.local("large").display().to_string();
    let before = a_moment();
    sh(
        &mount.mount_point(),
        &format!(
            "mkdir -p a/deep/er b gone/s empty; echo one > a/f; echo two > a/deep/er/g; echo b > b/x; \
             cp {local} large; echo 1 > gone/s/1; echo stays > stays; echo x > 'a b+c&%'; chmod 640 stays"
        ),
    );
    let then = tree(&mount.mount_point());
    let at = a_moment();
    sh(
        &mount.mount_point(),
        &format!(
            "echo changed > a/f; rm a/deep/er/g; mv b c; rm -r gone; mkdir -p new/dir; echo n > new/dir/n; \
             echo z > zz; cp {local} a/large; echo more >> large; chmod 600 stays; echo y > 'a b+c&%'"
        ),
    );
    let now = tree(&mount.mount_point());
    assert_ne!(then, now);
    let again = a_moment();
    sh(&mount.mount_point(), &format!("rm -r {gone}"));

    let mut past = view(&at);
    past.mount();
    assert_eq!(tree(&past.mount_point()), then);
    let status = past.status().unwrap();
    assert!(status.mode.read_only && status.mode.version_at.unwrap().ends_with('Z'));
    assert_eq!(errno(fs::write(past.at("a/f"), "x")), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(past.at("a/f"))), Some(libc::EROFS));
    assert_eq!(errno(fs::metadata(past.at("new"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::metadata(past.at("zz"))), Some(libc::ENOENT));
    let refused = past.run(&["undelete", &past.at("a/f").display().to_string()]);
    assert!(refusal(&refused).contains("read-only"));
    past.unmount();
    // By names alone, without a listing before.
    past.mount();
    assert_eq!(fs::read(past.at("gone/s/1")).unwrap(), b"1\n");
    assert_eq!(fs::metadata(past.at("stays")).unwrap().permissions().mode() & 0o777, 0o640);
    past.unmount();
    drop(past);

    let mut later = view(&again);
    later.mount();
    assert_eq!(tree(&later.mount_point()), now);
    later.unmount();
    drop(later);
    let mut earlier = view(&before);
    earlier.mount();
    assert_eq!(tree(&earlier.mount_point()), "");
    earlier.unmount();
    assert_eq!(bucket.object("stays").unwrap(), b"stays\n");
}

#[test]
fn a_past_of_many_versions_is_shown_whole() {
    let bench = Bench::unmounted(&[]);
    keep_versions(&bench.bucket);
    // More than a page of names, of versions of one name, and of what is deleted.
    for nth in 0..1100 {
        bench.bucket.put(&format!("many/{nth:04}"), "");
    }
    bench.bucket.put("often", "then");
    for nth in 0..1050 {
        bench.bucket.put("dead/f", "");
        if nth % 50 == 0 {
            bench.bucket.delete(&format!("many/{nth:04}"));
        }
    }
    bench.bucket.delete("dead/f");
    let at = a_moment();
    for nth in 0..1100 {
        bench.bucket.put("often", nth.to_string());
        bench.bucket.put(&format!("new/{nth:04}"), "");
    }
    let address = format!("s3://{BUCKET}");
    let mut past = Mount::new(&bench.store.endpoint(), &address, &["--version-at", &at]);
    past.mount();
    assert_eq!(
        sh(&past.mount_point(), "ls; ls many | wc -l; cat often"),
        "many\noften\n1079\nthen"
    );
    past.unmount();
}

#[test]
fn what_is_the_same_then_and_now_is_fetched_once() {
    let mut bench = versioned(&[]);
    let (same, old) = (noise(9 * MIB, 5), noise(7 * MIB, 6));
    fs::write(bench.at("same"), &same).unwrap();
    fs::write(bench.at("other"), &old).unwrap();
    let at = a_moment();
    fs::write(bench.at("other"), "new").unwrap();
    bench.unmount();
    fs::remove_dir_all(bench.cache_dir()).unwrap();
    bench.mount();
    assert!(fs::read(bench.at("same")).unwrap() == same);
    bench.unmount();

    bench.set_options(&["--version-at", &at]);
    bench.mount();
    let before = bench.store.counters().bytes_out_of(Operation::GetObject);
    assert!(fs::read(bench.at("same")).unwrap() == same);
    assert_eq!(bench.store.counters().bytes_out_of(Operation::GetObject), before);
    assert!(fs::read(bench.at("other")).unwrap() == old);
    bench.unmount();

    // And the other way round; what was replaced since is not taken for what is there now.
    bench.set_options(&[]);
    bench.mount();
    let before = bench.store.counters().bytes_out_of(Operation::GetObject);
    assert!(fs::read(bench.at("same")).unwrap() == same);
    assert_eq!(bench.store.counters().bytes_out_of(Operation::GetObject), before);
    assert_eq!(fs::read(bench.at("other")).unwrap(), b"new");
}

#[test]
fn the_past_is_shown_beside_the_present_and_tells_nothing_of_it() {
    let mut bench = versioned(&["--write-back"]);
    fs::write(bench.at("f"), "then").unwrap();
    bench.drained();
    let at = a_moment();
    let puts = Rule::new(Fault::slow_down()).on(Operation::PutObject);
    bench.store.faults.set(vec![puts]);
    fs::write(bench.at("f"), "waits for the store").unwrap();
    fs::write(bench.at("g"), "waits too").unwrap();

    let mut options = bench.store_options();
    let mnt = bench.local("past");
    fs::create_dir(&mnt).unwrap();
    options.extend(["--version-at".to_owned(), at.clone()]);
    let mounted = bench
        .program()
        .args(["mount", &format!("s3://{BUCKET}")])
        .arg(&mnt)
        .args(&options)
        .output();
    assert!(mounted.unwrap().status.success());
    assert_eq!(sh(&mnt, "ls; cat f"), "f\nthen");
    let ended = bench.run(&["umount", &mnt.display().to_string()]);
    assert!(ended.status.success(), "{}", text(&ended.stderr));

    // Over the cache of a mount that was killed, nothing of what waits is shown, and nothing is lost.
    bench.kill();
    bench.set_options(&["--version-at", &at]);
    bench.mount();
    assert_eq!(sh(&bench.mount_point(), "ls; cat f"), "f\nthen");
    bench.unmount();
    bench.store.faults.clear();
    bench.set_options(&["--write-back"]);
    bench.mount();
    bench.drained();
    bench.assert_has("f", b"waits for the store");
    bench.assert_has("g", b"waits too");
}

#[test]
fn a_past_that_cannot_be_shown_is_one_line() {
    let bench = Bench::unmounted(&[]);
    let mount = |options: &[&str]| {
        let mut program = bench.program();
        program.args(["mount", &format!("s3://{BUCKET}")]).arg(bench.mount_point());
        refusal(&program.args(bench.store_options()).args(options).output().unwrap())
    };
    assert!(mount(&["--version-at", "1h"]).contains("keeps no versions"));
    assert!(mount(&["--version-at", "2999-01-01"]).contains("in the future"));
    assert!(mount(&["--version-at", "soon"]).contains("write a time"));
    assert!(mount(&["--version-at", "1h", "--offline"]).contains("drop one"));
}

#[test]
fn a_version_is_read_by_its_id_and_never_changed() {
    let bench = versioned(&[]);
    read_by_id(&bench);
    // What is in the cache is not fetched again under another name.
    let content = noise(9 * MIB, 7);
    fs::write(bench.at("f"), &content).unwrap();
    assert!(fs::read(bench.at("f")).unwrap() == content);
    let told = versions(&bench, &bench.at("f").display().to_string());
    let before = bench.store.counters().bytes_out_of(Operation::GetObject);
    assert!(fs::read(bench.at(&format!("f@{}", id(&told[0])))).unwrap() == content);
    assert_eq!(bench.store.counters().bytes_out_of(Operation::GetObject), before);
}

#[test]
fn on_seaweedfs_a_version_is_read_by_its_id() {
    let mut bench = WeedBench::unmounted(&[]);
    keep_versions(&bench.bucket);
    bench.mount();
    read_by_id(&bench);
}

fn read_by_id(mount: &Mount) {
    let old = noise(6 * MIB, 8);
    fs::create_dir(mount.at("d")).unwrap();
    fs::write(mount.at("d/f"), &old).unwrap();
    fs::set_permissions(mount.at("d/f"), fs::Permissions::from_mode(0o640)).unwrap();
    sh(&mount.mount_point(), "sync -f .");
    a_moment();
    fs::write(mount.at("d/f"), "new").unwrap();
    let told = versions(mount, &mount.at("d/f").display().to_string());
    let of_len = |len: u64| told.iter().find(|version| version["len"] == len).unwrap();
    let name = format!("d/f@{}", id(of_len(old.len() as u64)));
    let path = mount.at(&name);
    assert!(fs::read(&path).unwrap() == old);
    let mut page = [0; 100];
    File::open(&path).unwrap().read_exact_at(&mut page, 5_000_000).unwrap();
    assert!(page[..] == old[5_000_000..5_000_100]);
    assert_eq!(fs::read(mount.at(&format!("d/f@{}", id(of_len(3))))).unwrap(), b"new");
    assert_eq!(sh(&mount.mount_point(), "ls d"), "f\n");
    let shown = format!("getfattr --only-values -n user.ratchetfs.version '{name}'");
    assert_eq!(sh(&mount.mount_point(), &shown), id(of_len(old.len() as u64)));

    let elsewhere = mount.at("d/g");
    for refused in [
        errno(fs::write(&path, "x")),
        errno(fs::remove_file(&path)),
        errno(fs::rename(&path, &elsewhere)),
        errno(fs::rename(mount.at("d/f"), &path)),
        errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))),
        errno(File::options().append(true).open(&path)),
    ] {
        assert_eq!(refused, Some(libc::EROFS));
    }
    for absent in ["d/f@ffffffffffffffffffffffffffffffff", "d/f@1", "d/g@null"] {
        assert_eq!(errno(fs::read(mount.at(absent))), Some(libc::ENOENT), "{absent}");
    }
    // Open while all of it changes; and what it was is put back.
    let mut open = File::open(&path).unwrap();
    sh(
        &mount.mount_point(),
        &format!("mv d e; cp 'e/f' copy; rm e/f; cp '{}' e/f || true", name.replace("d/", "e/")),
    );
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == old);
    drop(open);
    // SeaweedFS keeps a folder for the versions of what was in it.
    sh(&mount.mount_point(), "mkdir d");
    fs::copy(mount.at(&name), mount.at("d/f")).unwrap();
    assert!(fs::read(mount.at("d/f")).unwrap() == old);
}

#[test]
fn names_with_an_at_sign_cost_what_others_do() {
    let bench = versioned(&["--metadata-ttl", "0"]);
    let requests = |name: &str| {
        let before = bench.store.counters().requests_total();
        assert_eq!(errno(fs::metadata(bench.at(name))), Some(libc::ENOENT));
        bench.store.counters().requests_total() - before
    };
    let plain = requests("name");
    assert_eq!(requests("user@example.com"), plain);
    assert_eq!(requests("a@b"), plain);
    assert_eq!(requests("f@12345678901234567890"), plain + 1);
    // A file may have such a name.
    let name = bench.at("f@12345678901234567890");
    File::create_new(&name).unwrap().write_all(b"plain").unwrap();
    assert_eq!(fs::read(&name).unwrap(), b"plain");
    fs::remove_file(&name).unwrap();
}

/// SeaweedFS has object lock.
#[test]
fn a_locked_bucket_takes_what_is_written_and_keeps_it() {
    let mut bench = WeedBench::unmounted(&[]);
    keep_versions(&bench.bucket);
    let lock = "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                <ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
                <Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    let answer = bench.bucket.send(Method::PUT, "?object-lock", &[], lock);
    assert_eq!(answer.status, 200, "{}", answer.text());
    bench.mount();
    fs::write(bench.local("large"), noise(12 * MIB, 9)).unwrap();
    let local = bench.local("large").display().to_string();
    // A directory's marker has no versions there, and cannot be deleted.
    let script = format!(
        "echo one > f; echo two > f; echo three >> f; chmod 600 f; mv f g; cp g h; rm h; cp {local} large; \
         cp g large; cp {local} gone; rm gone; sync -f ."
    );
    sh(&bench.mount_point(), &script);
    let of_g = versions(&bench, &bench.at("g").display().to_string());
    let target = format!("g?versionId={}", id(&of_g[0]));
    let refused = bench.bucket.send(Method::DELETE, &target, &[], "");
    assert_eq!(refused.status, 403, "it is locked: {}", refused.text());
    for name in ["g", "large"] {
        bench.bucket.assert_has(&bench, name, b"two\nthree\n");
    }
    assert_eq!(bench.bucket.files(), ["g", "large"]);
}

#[test]
fn a_deletion_that_a_store_forbids_says_why() {
    let bench = versioned(&[]);
    fs::write(bench.at("kept"), "x").unwrap();
    // As OSS says it.
    let locked = Rule::new(Fault::Status(409, "FileImmutable")).on(Operation::DeleteObject);
    bench.store.faults.set(vec![locked]);
    assert_eq!(errno(fs::remove_file(bench.at("kept"))), Some(libc::EPERM));
    bench.store.faults.clear();
    assert_eq!(fs::read(bench.at("kept")).unwrap(), b"x");
    let log = bench.log();
    let told = log.lines().find(|line| line.contains("FileImmutable")).expect("it is told");
    assert!(told.contains("kept") && told.contains("retention"), "{told}");
}
