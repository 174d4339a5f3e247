//! What ordinary programs do with files, on real mounts.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use ratchetfs::embedded::Operation;
use support::close;
use support::mount::{Bench, noise, sh};

const MIB: usize = 1 << 20;

/// A tree with small files, an empty one, deep folders and a large file.
fn tree(bench: &Bench) {
    let root = bench.local("tree");
    std::fs::create_dir_all(root.join("a/b/c")).unwrap();
    for number in 0..40u64 {
        let folder = ["", "a", "a/b", "a/b/c"][number as usize % 4];
        let len = (number * 977) as usize;
        std::fs::write(root.join(folder).join(format!("f{number}")), noise(len, number)).unwrap();
    }
    std::fs::write(root.join("large"), noise(20 * MIB + 12345, 99)).unwrap();
    std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
    let script = root.join("script");
    std::fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o750)).unwrap();
}

#[test]
fn trees_go_in_and_out_unchanged_by_cp_rsync_tar_and_mv() {
    let mut bench = Bench::start(&[]);
    tree(&bench);
    let mnt = bench.mount_point();
    sh(&mnt, "cp -r ../tree by-cp && diff -r ../tree by-cp");
    sh(&mnt, "rsync -a ../tree/ by-rsync/ && diff -r ../tree by-rsync");
    sh(
        &mnt,
        "mkdir by-tar && tar -C ../tree -cf - . | tar -C by-tar -xf - && diff -r ../tree by-tar",
    );
    sh(&mnt, "mv by-tar moved && diff -r ../tree moved && test ! -e by-tar");
    assert_eq!(sh(&mnt, "rsync -ai ../tree/ by-rsync/"), "", "a second rsync moves nothing");
    bench.remount();
    sh(&mnt, "diff -r ../tree by-cp && diff -r ../tree moved && diff -r ../tree by-rsync");
    assert_eq!(sh(&mnt, "rsync -ai ../tree/ by-rsync/"), "", "nor after a remount");
    sh(&mnt, "by-rsync/script && test $(stat -c %a by-rsync/script) = 750");
    assert_eq!(sh(&mnt, "readlink by-rsync/link").trim(), "a/b");
    sh(&mnt, "rm -r by-cp moved by-rsync && test -z \"$(ls -A)\"");
}

#[test]
fn a_second_machine_sees_the_same_and_moves_nothing() {
    let mut bench = Bench::start(&[]);
    tree(&bench);
    sh(&bench.mount_point(), "rsync -a ../tree/ copy/");
    bench.unmount();
    std::fs::remove_dir_all(bench.cache_dir()).unwrap();
    bench.mount();
    assert_eq!(sh(&bench.mount_point(), "rsync -ai ../tree/ copy/"), "");
}

#[test]
fn a_small_file_costs_one_put() {
    let bench = Bench::start(&[]);
    sh(&bench.mount_point(), "mkdir d && ls d");
    let before = bench.requests(Operation::PutObject);
    sh(&bench.mount_point(), "for n in 1 2 3 4 5 6 7 8 9 10; do echo $n > d/$n; done");
    let puts = bench.requests(Operation::PutObject) - before;
    assert_eq!(puts, 10);
}

#[test]
fn appending_to_a_large_object_sends_two_parts_at_most() {
    let bench = Bench::start(&[]);
    std::fs::write(bench.local("source"), noise(100 * MIB, 7)).unwrap();
    sh(&bench.mount_point(), "cp ../source f");
    let (sent, fetched) = (bench.bytes_in(), bench.bytes_out());
    sh(&bench.mount_point(), "printf tail >> f && printf tail >> ../source && cmp f ../source");
    let sent = bench.bytes_in() - sent;
    assert!(sent <= 16 * MIB as u64 + 65536, "{sent} bytes sent");
    assert!(bench.bytes_out() - fetched <= 120 * MIB as u64);
}

#[test]
fn patches_in_place_touch_only_their_parts() {
    let bench = Bench::start(&[]);
    let mut content = noise(64 * MIB, 8);
    std::fs::write(bench.at("f"), &content).unwrap();
    let before = bench.bytes_in();
    {
        let file = std::fs::OpenOptions::new().write(true).open(bench.at("f")).unwrap();
        for (at, byte) in [(5usize, 1u8), (33 * MIB + 17, 2)] {
            file.write_all_at(&[byte; 100], at as u64).unwrap();
            content[at..at + 100].fill(byte);
        }
    }
    let sent = bench.bytes_in() - before;
    assert!(sent <= 16 * MIB as u64 + 65536, "{sent} bytes sent");
    assert!(std::fs::read(bench.at("f")).unwrap() == content);
}

#[test]
fn a_stream_can_be_patched_where_only_the_store_has_it() {
    // So little memory that what was sent is gone from here.
    let bench = Bench::start(&["--memory", "64MiB"]);
    let mut content = noise(120 * MIB, 9);
    {
        let file = std::fs::File::create(bench.at("f")).unwrap();
        for (number, piece) in content.chunks(MIB).enumerate() {
            file.write_all_at(piece, (number * MIB) as u64).unwrap();
        }
        file.write_all_at(b"patched", 61 * MIB as u64).unwrap();
        file.write_all_at(b"header", 0).unwrap();
    }
    content[61 * MIB..61 * MIB + 7].copy_from_slice(b"patched");
    content[..6].copy_from_slice(b"header");
    assert!(std::fs::read(bench.at("f")).unwrap() == content);
}

#[test]
fn attributes_outlive_the_mount() {
    let mut bench = Bench::start(&[]);
    let mnt = bench.mount_point();
    sh(&mnt, "echo x > f && chmod 640 f && touch -d @1700000000.123456789 f");
    sh(&mnt, "mkdir -m 711 d && chown 12:34 f d");
    sh(&mnt, "python3 -c 'import os; os.setxattr(\"f\", \"user.comment\", b\"hello\")'");
    bench.remount();
    let metadata = std::fs::metadata(bench.at("f")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    let expected = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    assert_eq!(metadata.modified().unwrap(), expected);
    let metadata = std::fs::metadata(bench.at("d")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o711);
    assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    let comment =
        sh(&mnt, "python3 -c 'import os; print(os.getxattr(\"f\", \"user.comment\").decode())'");
    assert_eq!(comment.trim(), "hello");
}

#[test]
fn files_that_are_open_outlive_their_names() {
    let bench = Bench::start(&["--cache-size", "0"]);
    let content = noise(3 * MIB, 11);
    std::fs::write(bench.at("f"), &content).unwrap();
    let open = std::fs::File::open(bench.at("f")).unwrap();
    std::fs::remove_file(bench.at("f")).unwrap();
    assert!(!bench.at("f").exists());
    std::fs::write(bench.at("f"), b"another").unwrap();
    let mut read = vec![0; content.len()];
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == content);
    drop(open);
    std::fs::write(bench.at("g"), &content).unwrap();
    let open = std::fs::File::open(bench.at("g")).unwrap();
    std::fs::rename(bench.at("f"), bench.at("g")).unwrap();
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == content);
    assert_eq!(std::fs::read(bench.at("g")).unwrap(), b"another");
}

#[test]
fn a_file_that_was_replaced_elsewhere_is_stale_for_its_readers() {
    let bench = Bench::start(&["--cache-size", "0", "--metadata-ttl", "0s"]);
    std::fs::write(bench.at("f"), noise(40 * MIB, 12)).unwrap();
    let open = std::fs::File::open(bench.at("f")).unwrap();
    let mut first = [0; 10];
    open.read_exact_at(&mut first, 0).unwrap();
    bench.bucket.put("f", noise(40 * MIB, 13));
    let error = open.read_exact_at(&mut first, 39 * MIB as u64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    assert!(std::fs::read(bench.at("f")).unwrap() == noise(40 * MIB, 13));
}

#[test]
fn a_change_elsewhere_fails_the_close_and_changes_nothing() {
    let bench = Bench::start(&[]);
    std::fs::write(bench.at("f"), noise(20 * MIB, 14)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(bench.at("f")).unwrap();
    file.write_all_at(b"mine", 10).unwrap();
    bench.bucket.put("f", "theirs");
    assert_eq!(close(file), Err(libc::ESTALE));
    assert_eq!(bench.bucket.object("f").unwrap(), b"theirs");
}

#[test]
fn names_that_shells_fear_come_back() {
    let mut bench = Bench::start(&[]);
    let names = [
        "with space",
        "plus+",
        "per%cent",
        "ha#sh",
        "que?ry",
        "a&b",
        "back\\slash",
        "new\nline",
        "emoji \u{1f980}",
        "umläut",
        "~",
        "-dash",
        "a=b;c",
        &"n".repeat(255),
    ];
    for name in names {
        std::fs::write(bench.at(name), name).unwrap();
    }
    bench.remount();
    let mut found: Vec<String> = std::fs::read_dir(bench.mount_point())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut expected: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
    for name in names {
        assert_eq!(std::fs::read_to_string(bench.at(name)).unwrap(), name);
    }
    let long = std::fs::write(bench.at(&"n".repeat(256)), "").unwrap_err();
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
}

/// As rclone writes them, so that each reads the other's.
#[test]
fn names_that_are_not_utf8_come_back_byte_for_byte() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    let mut bench = Bench::start(&[]);
    let long = [0xff; 180];
    let names: [(&[u8], &str); 5] = [
        (b"caf\xe9", "caf‛E9"),
        (b"\x80", "‛80"),
        ("‛FF".as_bytes(), "‛‛FF"),
        ("‛ é".as_bytes(), "‛ é"),
        (&long, &"‛FF".repeat(180)),
    ];
    let at = |bench: &Bench, name: &[u8]| bench.mount_point().join(OsStr::from_bytes(name));
    for (name, _) in names {
        std::fs::write(at(&bench, name), name).unwrap();
    }
    let directory = at(&bench, b"dir\xfe");
    std::fs::create_dir(&directory).unwrap();
    std::fs::rename(at(&bench, b"\x80"), directory.join(OsStr::from_bytes(b"\x80"))).unwrap();
    bench.remount();
    let list = |path: &Path| {
        let names = std::fs::read_dir(path).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_vec()).collect();
        names.sort();
        names
    };
    let mut expected = vec![b"dir\xfe".to_vec()];
    expected.extend(names.iter().map(|(name, _)| name.to_vec()).filter(|name| name != b"\x80"));
    expected.sort();
    assert_eq!(list(&bench.mount_point()), expected);
    assert_eq!(list(&directory), [b"\x80"]);
    for (name, key) in names {
        let (path, key) = match name {
            b"\x80" => (directory.join(OsStr::from_bytes(name)), format!("dir‛FE/{key}")),
            _ => (at(&bench, name), key.to_owned()),
        };
        assert_eq!(std::fs::read(&path).unwrap(), name);
        let encoded =
            percent_encoding::percent_encode(key.as_bytes(), percent_encoding::NON_ALPHANUMERIC);
        let stored = bench.bucket.object(&encoded.to_string().replace("%2F", "/"));
        assert_eq!(stored.as_deref(), Some(name), "{key}");
    }
    let longer = std::fs::write(at(&bench, &[0xff; 256]), "").unwrap_err();
    assert_eq!(longer.raw_os_error(), Some(libc::ENAMETOOLONG));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn directories_behave() {
    let bench = Bench::start(&[]);
    let mnt = bench.mount_point();
    bench.bucket.put("implicit/sub/f", "x");
    assert_eq!(sh(&mnt, "find . | sort"), ".\n./implicit\n./implicit/sub\n./implicit/sub/f\n");
    let full = std::fs::remove_dir(bench.at("implicit")).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOTEMPTY));
    sh(&mnt, "rm implicit/sub/f && ls implicit/sub && rmdir implicit/sub && ls implicit");
    sh(&mnt, "mkdir -p x/y && mv x z && test -d z/y && test ! -e x");
    let exists = std::fs::create_dir(bench.at("z")).unwrap_err();
    assert_eq!(exists.raw_os_error(), Some(libc::EEXIST));
}

/// What is there only because of what is in it stays when that goes: for another mount too.
#[test]
fn a_directory_outlives_its_last_subdirectory() {
    let mut bench = Bench::unmounted(&["--metadata-ttl", "1s"]);
    for key in ["one/sub/", "two/sub/f", "three/a/b/"] {
        bench.bucket.put(key, "");
    }
    bench.mount();
    sh(&bench.mount_point(), "rmdir one/sub; rm two/sub/f; rmdir two/sub; rmdir three/a/b three/a");
    bench.remount();
    assert_eq!(sh(&bench.mount_point(), "find . | sort"), ".\n./one\n./three\n./two\n");
    sh(&bench.mount_point(), "rmdir one two three");
    assert_eq!(bench.bucket.keys(), Vec::<String>::new());
}

#[test]
fn git_and_sqlite_work() {
    let bench = Bench::start(&[]);
    let mnt = bench.mount_point();
    sh(
        &mnt,
        "git init -q r && cd r && git config user.email a@example.com && git config user.name A \
         && for n in $(seq 30); do echo $n > f$n; done && git add . && git commit -qm first \
         && git fsck --strict 2>&1 && git clone -q . ../c && cd ../c && git status --porcelain",
    );
    let sql = "import sqlite3\n\
        c = sqlite3.connect('db')\n\
        c.execute('create table t (n integer, s text)')\n\
        for n in range(300): c.execute('insert into t values (?, ?)', (n, 'x' * n))\n\
        c.commit()\n\
        c.execute('delete from t where n % 3 = 0'); c.commit()\n\
        assert c.execute('pragma integrity_check').fetchone() == ('ok',)\n\
        assert c.execute('select count(*) from t').fetchone() == (200,)\n\
        c.close()";
    std::fs::write(bench.local("sql.py"), sql).unwrap();
    sh(&mnt, "python3 ../sql.py");
}

#[test]
fn a_program_that_is_started_while_a_file_is_written_starts() {
    let bench = Bench::start(&[]);
    // The child has the descriptor until execve(2) closes it, which no test may look at meanwhile.
    let script = "import subprocess\n\
        f = open('f', 'wb')\n\
        f.write(b'x' * 100000); f.flush()\n\
        for n in range(5): subprocess.run(['true'], check=True, close_fds=False, timeout=20)\n\
        f.write(b'y'); f.close()\n\
        assert len(open('f', 'rb').read()) == 100001";
    std::fs::write(bench.local("start.py"), script).unwrap();
    sh(&bench.mount_point(), "timeout 60 python3 ../start.py");
}

/// Holes cost neither the wire nor the disks nor memory.
#[test]
fn a_sparse_file_costs_what_was_written() {
    let mut bench = Bench::start(&[]);
    let (mnt, len) = (bench.mount_point(), 8u64 << 30);
    let pages = [(0, 1u8), ((3 << 30) + 4096, 2), (len - 4096, 3)];
    let before = bench.bytes_in();
    {
        let file = std::fs::File::create_new(bench.at("sparse")).unwrap();
        file.set_len(len).unwrap();
        for (at, byte) in pages {
            file.write_all_at(&[byte; 4096], at).unwrap();
        }
    }
    let sent = bench.bytes_in() - before;
    assert!(sent < 24 * MIB as u64, "{sent} bytes sent");
    let on_disks = sh(&bench.local("."), "du -sm --apparent-size cache | cut -f1");
    assert!(on_disks.trim().parse::<u64>().unwrap() < 40, "{on_disks} MiB in the cache folder");
    assert!(
        bench.store.disk_bytes() < 40 * MIB as u64,
        "{} in the store",
        bench.store.disk_bytes()
    );
    bench.remount();
    let file = std::fs::File::open(bench.at("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), len);
    let mut read = vec![9; 12288];
    for (at, byte) in pages {
        let from = at.saturating_sub(4096).min(len - 12288);
        file.read_exact_at(&mut read, from).unwrap();
        for (offset, found) in read.iter().enumerate() {
            let here = from + offset as u64;
            let written = (at..at + 4096).contains(&here);
            assert_eq!(*found, if written { byte } else { 0 }, "at {here}");
        }
    }
    drop(file);
    // Over an object that stands, and one whose end is in the middle of a part.
    let before = bench.bytes_in();
    sh(&mnt, "echo head > grown && truncate -s 1G grown && test $(stat -c %s grown) = 1073741824");
    sh(&mnt, "head -c 5 grown | grep -q head && cmp -n 40000000 -i 5 grown /dev/zero");
    let sent = bench.bytes_in() - before;
    assert!(sent < 24 * MIB as u64, "{sent} bytes sent");
    sh(&mnt, "truncate -s 3M small && echo end >> small && test $(stat -c %s small) = 3145732");
    sh(&mnt, "cmp -n 3145728 small /dev/zero && tail -c 4 small | grep -q end");
    assert_eq!(sh(&mnt, "ls -A"), "grown\nsmall\nsparse\n");
    let keys = bench.bucket.keys();
    assert!(!keys.iter().any(|key| key.contains("ratchetfs-aside")), "{keys:?}");
}

#[test]
fn changed_attributes_outlive_a_kill_in_the_same_moment() {
    let mut bench = Bench::start(&[]);
    let mnt = bench.mount_point();
    sh(&mnt, "echo x > f; echo y > g; echo z > later; mkdir d; echo w > gone");
    bench.remount();
    sh(&mnt, "chmod 600 later && ls -l");
    // Nothing gets to the store from here on, so that no save can be in time.
    use ratchetfs::embedded::{Fault, Rule};
    bench.store.faults.set(vec![
        Rule::new(Fault::Stall).on(Operation::CopyObject),
        Rule::new(Fault::Stall).on(Operation::PutObject),
    ]);
    sh(&mnt, "chmod 640 f && touch -d @1700000000.123456789 g && chmod 700 d && chmod 600 gone");
    bench.kill();
    bench.store.faults.clear();
    bench.bucket.delete("gone");
    bench.mount();
    let seen = "stat -c '%n %a %.9Y' f g d";
    let expected = |seen: &str| {
        let lines: Vec<&str> = seen.lines().collect();
        assert!(lines[0].starts_with("f 640 "), "{seen}");
        assert!(lines[1].ends_with(" 1700000000.123456789"), "{seen}");
        assert!(lines[2].starts_with("d 700 "), "{seen}");
    };
    expected(&sh(&mnt, seen));
    // Written to the bucket, where another machine sees it; fsync does not wait for the moment to pass.
    sh(&mnt, "chmod 644 later && sync later && sync d");
    bench.drained();
    sh(&mnt, "sync f g d");
    bench.kill();
    std::fs::remove_dir_all(bench.cache_dir()).unwrap();
    bench.mount();
    expected(&sh(&mnt, seen));
    assert_eq!(sh(&mnt, "stat -c %a later").trim(), "644");
    assert_eq!(sh(&mnt, "ls"), "d\nf\ng\nlater\n");
}

/// While `work` goes on, stat, ls and a read of the file answer at once. Returns how often they were asked.
fn answers_while(bench: &Bench, name: &str, content: &[u8], work: impl FnOnce() + Send) -> usize {
    let reader = std::fs::File::open(bench.at(name)).unwrap();
    let (mut rounds, mut slowest) = (0, Duration::ZERO);
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            let begun = Instant::now();
            assert_eq!(std::fs::metadata(bench.at(name)).unwrap().len(), content.len() as u64);
            let listed = std::fs::read_dir(bench.mount_point()).unwrap();
            assert!(listed.map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>() > 0);
            let mut bytes = [0; 4096];
            let offset = (rounds * 77_777) % (content.len() - bytes.len());
            reader.read_exact_at(&mut bytes, offset as u64).unwrap();
            assert!(bytes == content[offset..][..bytes.len()], "{offset}");
            slowest = slowest.max(begun.elapsed());
            rounds += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    // A few milliseconds, on a machine that has nothing else to do.
    assert!(slowest < SLOW_DISK / 4, "one waited {slowest:?} for the disk");
    rounds
}

/// What each write to a staging file and each sync of one takes more.
const SLOW_DISK: Duration = Duration::from_secs(1);

#[test]
fn a_slow_disk_keeps_no_one_from_looking_and_reading() {
    let mut bench = Bench::unmounted(&["--write-back", "--part-size", "5MiB"]);
    bench.set_env("RATCHETFS_TEST_SLOW_STAGING", &SLOW_DISK.as_millis().to_string());
    bench.mount();
    let content = noise(7 * MIB, 1);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(bench.at("f"))
        .unwrap();
    file.write_all_at(&content, 0).unwrap();
    let took = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        assert!(begun.elapsed() > 2 * SLOW_DISK, "the disk is not slow");
    };
    answers_while(&bench, "f", &content, || took(&mut || file.sync_all().unwrap()));
    file.write_all_at(&content[MIB..2 * MIB], MIB as u64).unwrap();
    let mut file = Some(file);
    answers_while(&bench, "f", &content, move || took(&mut || drop(file.take())));
    // What was being written, synced and read side by side is what was written.
    bench.wait_for("stored", |status| status.pending_bytes == 0);
    assert!(std::fs::read(bench.at("f")).unwrap() == content);
    bench.remount();
    assert!(std::fs::read(bench.at("f")).unwrap() == content);
}
