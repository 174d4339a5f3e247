//! Names, attributes and directories on real mounts: what they are, and what they cost.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, Mount, sh, wait_until};
use support::{BUCKET, raw};

impl Requests {
    fn of(bench: &Bench) -> Requests {
        let count = |operation| bench.requests(operation);
        Requests { heads: count(Operation::HeadObject), lists: count(Operation::ListObjectsV2) }
    }

    fn since(bench: &Bench, before: &Requests) -> Requests {
        let now = Requests::of(bench);
        Requests { heads: now.heads - before.heads, lists: now.lists - before.lists }
    }
}

#[derive(Debug, PartialEq)]
struct Requests {
    heads: u64,
    lists: u64,
}

/// Runs a script on the mount; the requests that it took.
fn cost(bench: &Bench, script: &str) -> Requests {
    let before = Requests::of(bench);
    sh(&bench.mount_point(), script);
    Requests::since(bench, &before)
}

/// Foreign objects, put past the mount.
fn put_objects(bench: &Bench, count: usize) {
    put_named(bench, count, |number| format!("d/f{number:05}"));
}

fn put_named(bench: &Bench, count: usize, name: impl Fn(usize) -> String) {
    let client = raw::Client::new(&bench.store.endpoint());
    let put = |number: usize| {
        let (client, target) = (&client, format!("/{BUCKET}/{}", name(number)));
        async move {
            let mode = [("x-amz-meta-mode", "33152"), ("x-amz-meta-mtime", "1700000000.5")];
            assert_eq!(client.put(&target, &mode, "content").await.status, 200);
        }
    };
    let puts = futures_util::stream::iter((0..count).map(put)).buffer_unordered(8);
    bench.runtime.block_on(puts.collect::<Vec<()>>());
}

/// Runs `ls -l d`, which has to wait once for many names, not for each.
const LS_THAT_SELDOM_WAITS: &str = r#"python3 -c '
import resource, subprocess
out = subprocess.check_output(["ls", "-l", "d"])
waits = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw
assert waits < out.count(b"\n") / 4, waits
print(out.decode())'"#;

const EXPIRED: Duration = Duration::from_millis(1100);

/// For walks that a busy machine makes slow: what is asked for ahead of them shall not be out of date when they come.
const PATIENT: [&str; 2] = ["--metadata-ttl", "10s"];

#[test]
fn names_cost_no_head_and_attributes_one_each_for_ever() {
    let mut bench = Bench::unmounted(&[]);
    let count = 2300u64;
    put_objects(&bench, count as usize);
    bench.mount();
    // One LIST in three is that of looking up `d` itself.
    let names = cost(&bench, &format!("test $(ls d | wc -l) = {count}"));
    assert!(names.heads <= 2 && names.lists <= 3 + 2, "{names:?}");
    std::thread::sleep(EXPIRED);
    let exact =
        |ls: &str| format!("test $({ls} | grep -c '^-rw------- 1 .* 7 Nov 14  *2023 ') = {count}");
    let first = cost(&bench, &exact(LS_THAT_SELDOM_WAITS));
    assert!((count..count + 20).contains(&first.heads) && first.lists <= 12, "{first:?}");
    for what in ["after the TTL", "after a remount"] {
        std::thread::sleep(EXPIRED);
        let again = cost(&bench, &exact("ls -l d"));
        assert!(again.heads <= 4 && again.lists <= 3 + 4, "{what}: {again:?}");
        bench.remount();
    }
}

#[test]
fn a_walk_that_takes_longer_than_the_ttl_lists_nothing_twice() {
    let mut bench = Bench::unmounted(&[]);
    put_objects(&bench, 2300);
    // In the root of the mount, which is not looked up again and again itself.
    let address = format!("s3://{BUCKET}/d");
    bench.mount = Mount::new(&bench.store.endpoint(), &address, &["--metadata-ttl", "500ms"]);
    bench.mount();
    // A name at a time, in the listing's order, for several TTLs. Prints how often half of the names that are asked
    // for ahead took a third of a TTL: on a busy machine such answers get too old to be believed.
    let walk = "import os, time; names = os.listdir('.'); assert len(names) == 2300; time.sleep(0.6); \
        at = [(os.lstat(name), time.sleep(0.0007), time.monotonic())[2] for name in names]; \
        print(sum(later - at > 0.16 for at, later in zip(at[::64], at[64::64])))";
    let before = Requests::of(&bench);
    let late: u64 =
        sh(&bench.mount_point(), &format!("python3 -c \"{walk}\"")).trim().parse().unwrap();
    let taken = Requests::since(&bench, &before);
    let heads = 2300..2320 + 2 * late;
    assert!(heads.contains(&taken.heads) && taken.lists <= 3 + 4 + 2 * late, "{taken:?} {late}");
}

/// Of more than 10,000 entries du, find and others look at each in the order of its inode number, which is at
/// random in the listing.
#[test]
fn a_walk_in_the_order_of_inode_numbers_is_looked_ahead_of_too() {
    let mut bench = Bench::unmounted(&[]);
    let (count, pages) = (10_200u64, 11);
    put_objects(&bench, count as usize);
    let latency = Fault::Latency(Duration::from_millis(10));
    bench.store.faults.set(vec![Rule::new(latency).on(Operation::HeadObject)]);
    // One HEAD after the other would take 100 seconds.
    let walk = |bench: &Bench, command: &str| {
        let begun = Instant::now();
        let taken = cost(bench, command);
        println!("{command}: {taken:?} in {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(40), "{command}: {:?}", begun.elapsed());
        taken
    };
    for unseen in ["du -s d", "find d -newer /proc/self/exe -size +9"] {
        let address = format!("s3://{BUCKET}");
        bench.mount = Mount::new(&bench.store.endpoint(), &address, &PATIENT);
        bench.mount();
        let taken = walk(&bench, unseen);
        let (heads, lists) = (taken.heads, taken.lists);
        assert!((count..count + 40).contains(&heads) && lists <= pages + 6, "{taken:?}");
    }
    bench.remount();
    let taken = walk(&bench, "du -s d");
    assert!(taken.heads <= 40 && taken.lists <= pages + 6, "{taken:?}");
}

#[test]
fn a_tree_costs_a_listing_a_directory_side_by_side() {
    let mut bench = Bench::unmounted(&PATIENT);
    let (directories, files) = (150u64, 300u64);
    put_named(&bench, 300, |number| format!("d/dir{:03}/f{number}", number / 2));
    // One after the other would take 15 seconds.
    let latency = Fault::Latency(Duration::from_millis(100));
    bench.store.faults.set(vec![Rule::new(latency).on(Operation::ListObjectsV2)]);
    let walk = |bench: &Bench, command: &str, heads: u64| {
        let begun = Instant::now();
        let taken = cost(bench, command);
        println!("{command}: {taken:?} in {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10), "{command}: {:?}", begun.elapsed());
        assert!(taken.heads <= heads + 100 && taken.lists <= directories + 15, "{taken:?}");
    };
    bench.mount();
    walk(&bench, "du -s d", files);
    // Seen before: nothing is asked but whether it is still so.
    for command in ["find d -size +9", "cp -r d ../copy"] {
        bench.remount();
        walk(&bench, command, 0);
    }
    bench.remount();
    // It looks at all directories first, and later, by their names alone, at the files in them.
    walk(&bench, "rsync -r --size-only ../copy/ d/", directories);
}

#[test]
fn a_new_directory_is_known_to_be_empty() {
    let bench = Bench::start(&["--provider", "minio", "--metadata-ttl", "10s"]);
    let script = "mkdir -p ../t/{1..9} && for d in ../t/*; do echo x | tee $d/{a,b,c} > /dev/null; done; \
        cp -r ../t t";
    let taken = cost(&bench, script);
    assert!(taken.heads + taken.lists <= 8, "{taken:?}");
}

#[test]
fn fast_attributes_never_cost_a_head() {
    let mut bench = Bench::unmounted(&["--fast-attributes"]);
    put_objects(&bench, 1100);
    bench.mount();
    let listed = cost(&bench, "test $(ls -l d | grep -c '^-rw-r--r-- 1 .* 7 ') = 1100");
    assert!(listed.heads <= 2 && listed.lists <= 2 + 2, "{listed:?}");
    std::thread::sleep(EXPIRED);
    let again = cost(&bench, "ls -l d");
    assert!(again.heads <= 2 && again.lists <= 2 + 2, "{again:?}");
}

#[test]
fn new_files_in_a_directory_cost_no_request_but_their_put() {
    let bench = Bench::start(&["--provider", "minio"]); // Trusted with conditional writes.
    sh(
        &bench.mount_point(),
        "mkdir d ../source; for n in $(seq 300); do echo $n > ../source/$n; done",
    );
    // Slow enough to outlive the TTL again and again.
    let taken = cost(&bench, "for n in $(seq 300); do cp ../source/$n d/$n; sleep 0.01; done");
    assert!(taken.heads + taken.lists <= 60, "{taken:?}");
    sh(&bench.mount_point(), "diff -r d ../source");
}

/// rsync writes each file under another name, sets its times and mode, and renames it.
#[test]
fn a_file_by_rsync_costs_its_put_one_copy_and_one_deletion() {
    let bench = Bench::start(&["--provider", "minio"]); // Trusted with conditional writes.
    let files = 300u64;
    sh(
        &bench.mount_point(),
        "mkdir ../source; for n in $(seq 300); do echo $n > ../source/$n; done; chmod 640 ../source/*",
    );
    let counts = || {
        let of = |operation| bench.requests(operation);
        let [put, copy, delete] =
            [Operation::PutObject, Operation::CopyObject, Operation::DeleteObject].map(of);
        (put, copy, delete, Requests::of(&bench))
    };
    let before = counts();
    sh(&bench.mount_point(), "rsync -a ../source/ d/");
    let (put, copy, delete, now) = counts();
    let (put, copy, delete) = (put - before.0, copy - before.1, delete - before.2);
    let looked = (now.heads - before.3.heads) + (now.lists - before.3.lists);
    println!("PUT {put}, copy {copy}, DELETE {delete}, HEAD and LIST {looked}");
    // Besides, the directory, which is looked for, made, and told its time; and where the machine held rsync up
    // between a file's time and its name for longer than changes wait, one copy more.
    assert!((files..files + 8).contains(&put) && delete == files, "{put} {delete}");
    assert!((files..files + 10).contains(&copy), "{copy}");
    assert!(looked <= 60, "{looked}");
    sh(&bench.mount_point(), "test -z \"$(rsync -ai ../source/ d/)\"");
}

#[test]
fn pipes_and_sockets_are_kept_devices_and_links_refused() {
    let mut bench = Bench::start(&[]);
    let mnt = bench.mount_point();
    sh(
        &mnt,
        "mkfifo -m 640 pipe && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'",
    );
    bench.remount();
    sh(&mnt, "test $(stat -c %a pipe) = 640 && test -p pipe && test -S s");
    sh(&mnt, "(echo through > pipe &) ; test $(timeout 10 cat pipe) = through");
    for refused in ["mknod null c 1 3", "ln pipe hard"] {
        let said = sh(&mnt, &format!("{refused} 2>&1 && exit 1; true"));
        assert!(said.contains("Operation not permitted"), "{said}");
    }
    sh(&mnt, "rm pipe s && test -z \"$(ls -A)\"");
}

#[test]
fn times_and_modes_are_as_on_a_local_disk() {
    let bench = Bench::start(&[]);
    let script = r#"
import os, stat, time
os.close(os.open('made', os.O_CREAT | os.O_RDONLY, 0o640))
assert stat.S_IMODE(os.stat('made').st_mode) == 0o640
time.sleep(1.2)
assert os.stat('made').st_size == 0, 'made by a reader and kept'
os.utime('made', ns=(10**18 + 1, 2 * 10**18 + 2))
s = os.stat('made')
assert (s.st_atime_ns, s.st_mtime_ns) == (10**18 + 1, 2 * 10**18 + 2)
def changes(name, call):
    before = os.lstat(name).st_ctime_ns
    time.sleep(0.02)
    call()
    assert os.lstat(name).st_ctime_ns > before, call
changes('made', lambda: os.chmod('made', 0o6755))
changes('made', lambda: os.setxattr('made', 'user.a', b'b'))
changes('made', lambda: os.chown('made', 5, 6))
assert stat.S_IMODE(os.stat('made').st_mode) == 0o755, 'chown drops set-id bits'
os.mkdir('d')
for call in (lambda: os.mkdir('d/e'), lambda: os.rename('d/e', 'd/g'), lambda: os.rmdir('d/g'),
             lambda: os.symlink('x', 'd/l'), lambda: os.unlink('d/l')):
    changes('d', call)
still = os.stat('made').st_ctime_ns
time.sleep(2.2)
assert os.stat('made').st_ctime_ns == still, 'saving the attributes is no change'
f = os.open('made', os.O_RDWR)
os.unlink('made')
assert os.fstat(f).st_nlink == 0
"#;
    std::fs::write(bench.local("times.py"), script).unwrap();
    sh(&bench.mount_point(), "python3 ../times.py");
}

/// The kernel drops every name of the mount that is not in use.
fn drop_names(bench: &Bench) {
    sh(&bench.local(""), "mount -i -o remount mnt");
}

/// Resident memory of the mount's process, in bytes.
fn rss(bench: &Bench) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", bench.status().unwrap().process.pid));
    let text = status.unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// 100,000 lookups, or as many as RATCHETFS_TEST_LOOKUPS says.
#[test]
fn what_the_kernel_forgets_is_forgotten() {
    use std::os::unix::fs::MetadataExt;
    let asked = std::env::var("RATCHETFS_TEST_LOOKUPS");
    let lookups: usize = asked.map_or(100_000, |count| count.parse().unwrap());
    let count = 2000;
    let mut bench = Bench::unmounted(&["--fast-attributes", "--metadata-ttl", "1h"]);
    put_objects(&bench, count);
    bench.mount();
    let inodes = |bench: &Bench| bench.status().unwrap().inodes;
    let start = inodes(&bench);
    let held = std::fs::File::open(bench.at("d/f00007")).unwrap();
    let ino = held.metadata().unwrap().ino();
    let names: Vec<_> = (0..count).map(|number| bench.at(&format!("d/f{number:05}"))).collect();
    let mut after_first = 0;
    for round in 0..lookups.div_ceil(count) {
        for name in &names {
            assert_eq!(std::fs::metadata(name).unwrap().len(), 7);
        }
        assert!(inodes(&bench) >= count as u64, "the names were not looked up");
        drop_names(&bench);
        // The held file and its directory.
        bench.wait_for("forgotten", |status| status.inodes <= start + 2);
        if round == 1 {
            after_first = rss(&bench);
        }
    }
    assert_eq!(std::fs::metadata(&names[7]).unwrap().ino(), ino, "in use all the time");
    drop(held);
    drop_names(&bench);
    bench.wait_for("all forgotten", |status| status.inodes == start);
    let grown = rss(&bench).saturating_sub(after_first);
    assert!(grown < 4 << 20, "{grown} bytes more than after the first {}", 2 * count);
}

/// With as many names as RATCHETFS_TEST_NAMES says, 12,000 otherwise.
#[test]
fn memory_of_names_that_are_forgotten_is_given_back() {
    let asked = std::env::var("RATCHETFS_TEST_NAMES");
    let count: usize = asked.map_or(12_000, |count| count.parse().unwrap());
    let mut bench = Bench::unmounted(&["--fast-attributes", "--metadata-ttl", "1h"]);
    put_objects(&bench, count);
    bench.mount();
    let names = format!("test $(ls -f d | grep -c f) = {count}");
    sh(&bench.mount_point(), &names);
    drop_names(&bench);
    let start = rss(&bench);
    sh(&bench.mount_point(), &format!("test $(ls -l d | grep -c ' f') = {count}"));
    assert!(bench.status().unwrap().inodes > count as u64);
    let grown = rss(&bench).saturating_sub(start);
    println!("{} bytes a name", grown / count as u64);
    drop_names(&bench);
    // The heap is gone through every few seconds.
    wait_until("given back", || rss(&bench).saturating_sub(start) < grown / 3);
}

#[test]
fn xattrs_show_the_object_and_go_with_no_copy() {
    let bench = Bench::start(&[]);
    let mnt = bench.mount_point();
    sh(&mnt, "mkdir d && head -c 9000000 /dev/urandom > d/f && setfattr -n user.a -v b d/f");
    let show = |name: &str| {
        let get = format!("getfattr --only-values -n user.ratchetfs.{name} d/f");
        sh(&mnt, &get)
    };
    bench.drained();
    sh(&mnt, "sync d/f && cat d/f | md5sum");
    assert_eq!(show("key"), "d/f");
    assert_eq!(show("storage-class"), "STANDARD");
    assert_eq!(
        show("etag").trim_matches('"'),
        bench.bucket.header("d/f", "etag").trim_matches('"')
    );
    support::mount::wait_until("cached", || show("cached-ranges") == "0-9000000");
    sh(&mnt, "! getfattr -n user.ratchetfs.version d/f"); // The store keeps no versions.
    sh(&mnt, "! getfattr -n user.ratchetfs.upload d/f");
    sh(&mnt, "! setfattr -n user.ratchetfs.etag -v x d/f");
    let writing = "exec 3> w; head -c 12000000 /dev/zero >&3; \
        getfattr --only-values -n user.ratchetfs.upload w; exec 3>&-";
    let writing = sh(&mnt, writing);
    assert!(writing.starts_with("writing ") && writing.ends_with("/12000000"), "{writing}");
    assert_eq!(sh(&mnt, "getfattr d/f").lines().skip(1).collect::<Vec<_>>(), ["user.a", ""]);
}

/// The kernel refuses a whole list for one name that it does not take.
#[test]
fn xattrs_that_linux_does_not_take_are_in_no_list() {
    let bench = Bench::start(&[]);
    let json =
        r#"{"":"YQ==","user.":"YQ==","user.a":"YQ==","trusted.b":"YQ==","user.c\0\0d":"YQ=="}"#;
    let encoded: String =
        json.replace("\\0", "\0").bytes().map(|byte| format!("%{byte:02X}")).collect();
    let xattr = [("x-amz-meta-xattr", encoded.as_str()), ("x-amz-meta-mode", "33188")];
    bench.bucket.put_with("f", &xattr, "content");
    let listed = sh(&bench.mount_point(), "getfattr -m - f");
    assert_eq!(listed.lines().skip(1).collect::<Vec<_>>(), ["user.a", ""]);
    // They stay with the object.
    sh(&bench.mount_point(), "setfattr -n user.e -v e f && sync f");
    let kept = || bench.bucket.header("f", "x-amz-meta-xattr");
    wait_until("written", || kept().contains("user.e"));
    let kept = kept();
    assert!(kept.contains("trusted.b") && kept.contains("%22user.%22"), "{kept}");
}

#[test]
fn cp_rsync_and_tar_keep_what_an_object_can_keep() {
    let mut bench = Bench::start(&[]);
    sh(
        &bench.local(""),
        "mkdir -p s/d/e && cd s && echo a > a && echo b > d/b && echo c > 'd/e/c c' && ln -s ../a d/l
         mkfifo -m 620 p && chmod 640 a && chmod 4755 d/b && chmod 2750 d/e
         chown 5:6 a && chown 7:8 d/e && chown -h 9:10 d/l && chmod 4755 d/b
         setfattr -n user.x -v 'some value' a && setfattr -n user.dir -v y d
         touch -d '2020-01-02 03:04:05.678901234' a d/e && touch -h -d '2001-01-01' p d",
    );
    // (rsync takes times of pipes for equal that differ by less than a second.)
    // Whose hard links rsync -H would look for, and whose lists of access rights rsync -A would read.
    sh(&bench.local(""), "mkdir mnt/cp mnt/rsync mnt/tar && cp -a s/. mnt/cp");
    sh(&bench.local(""), "rsync -aHAX s/ mnt/rsync");
    sh(&bench.local(""), "tar -C s -c --xattrs . | tar -C mnt/tar -x --same-owner -p --xattrs");
    let tree = |bench: &Bench, of: &str| {
        let all = "find . -mindepth 1 -printf '%P %y %m %U %G %T@ %l\\n' | grep -v '^d/l ' | sort; \
            stat -c '%F %u %g' d/l; readlink d/l; \
            getfattr -R -d -h . 2>/dev/null; cat a d/b 'd/e/c c'";
        sh(&bench.local(of), all)
    };
    let wanted = tree(&bench, "s");
    for _ in 0..2 {
        for copy in ["mnt/cp", "mnt/rsync", "mnt/tar"] {
            assert_eq!(tree(&bench, copy), wanted, "{copy}");
        }
        bench.remount();
    }
    let refused = |what: &str| sh(&bench.local(""), &format!("{what} 2>&1 && exit 1; true"));
    sh(&bench.local(""), "mkdir h && echo 1 > h/one && ln h/one h/two");
    for what in ["cp -a h mnt/h1", "rsync -aH h mnt/h2", "tar -c h | tar -C mnt -x"] {
        let said = refused(what);
        assert!(said.contains("two") && said.contains("not permitted"), "{what}: {said}");
    }
    let acl = "import os, struct; os.setxattr('mnt/cp/a', 'system.posix_acl_access', \
        struct.pack('<I', 2) + b''.join(struct.pack('<HHI', t, p, i) for t, p, i in \
        [(1, 6, 2**32 - 1), (2, 4, 12), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]))";
    let said = refused(&format!("python3 -c \"{acl}\""));
    assert!(said.contains("not supported"), "{said}");
}
