//! What another user of the machine may try: directories, links, files and sockets that are not ours.
//!
//! The other user is 65534, by setpriv, which takes root: without it these tests have nothing to show.

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use support::BUCKET;
use support::mount::{Bench, is_mounted, sh};

const OTHER: u32 = 65534;

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one line with which a command failed.
fn refusal(output: &Output) -> String {
    let told = text(&output.stderr);
    assert!(!output.status.success(), "accepted");
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

/// A bench whose directory others can walk through.
fn open_bench(options: &[&str]) -> Bench {
    let bench = Bench::unmounted(options);
    set_mode(bench.dir.path(), 0o755);
    bench
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn make(bench: &Bench, name: &str, mode: u32) -> PathBuf {
    let dir = bench.local(name);
    std::fs::create_dir(&dir).unwrap();
    set_mode(&dir, mode);
    dir
}

fn try_mount(bench: &Bench, options: &[&str]) -> Output {
    let mut command = bench.program();
    command.arg("mount").arg(format!("s3://{BUCKET}")).arg(bench.mount_point());
    command.args(["--endpoint-url", &bench.store.endpoint()]);
    command.args(options).output().unwrap()
}

#[test]
fn a_cache_directory_that_others_can_change_is_refused() {
    let bench = open_bench(&[]);
    let mut rows = vec![
        (make(&bench, "writable", 0o777), "chmod go-w"),
        (make(&bench, "sticky", 0o1777), "chmod go-w"),
        (make(&bench, "group", 0o775), "chmod go-w"),
    ];
    if is_root() {
        let foreign = make(&bench, "foreign", 0o700);
        chown(&foreign, Some(OTHER), Some(OTHER)).unwrap();
        let link = bench.local("link");
        symlink(make(&bench, "target", 0o700), &link).unwrap();
        lchown(&link, Some(OTHER), Some(OTHER)).unwrap();
        rows.push((foreign.clone(), "chown"));
        rows.push((foreign.join("below"), "belongs to user 65534"));
        rows.push((link, "symbolic link of user 65534"));
    }
    for (dir, cure) in rows {
        let dir = dir.display().to_string();
        for command in [
            try_mount(&bench, &["--cache-dir", &dir]),
            bench.run(&["uploads", "list", "--cache-dir", &dir]),
            bench.run(&["cache", "info", "--cache-dir", &dir]),
        ] {
            // There is nothing to look at in a directory that is not there.
            if command.status.success() && dir.ends_with("below") {
                continue;
            }
            let line = refusal(&command);
            assert!(line.contains(cure) && line.contains("cache directory"), "{dir}: {line}");
        }
        let doctor = bench.run(&["doctor", "--cache-dir", &dir]);
        assert!(text(&doctor.stdout).contains(cure), "{}", text(&doctor.stdout));
        assert!(!is_mounted(&bench.mount_point()));
        if let Ok(mut entries) = std::fs::read_dir(&dir) {
            assert!(entries.next().is_none(), "{dir}: something was left there");
        }
    }
}

#[test]
fn an_embedded_store_that_others_can_change_is_refused() {
    let bench = open_bench(&[]);
    let store = make(&bench, "store", 0o777).display().to_string();
    let mut command = bench.program();
    command.arg("mount").arg(format!("s3://{BUCKET}")).arg(bench.mount_point());
    let line = refusal(&command.args(["--embedded", &store]).output().unwrap());
    assert!(line.contains("chmod go-w") && line.contains("--embedded"), "{line}");
}

/// Everything below `dir` that others may read, write or enter.
fn open_to_others(dir: &Path) -> String {
    sh(dir, "find . -perm /077 -printf '%m %p\\n'")
}

#[test]
fn what_is_made_is_for_its_owner_alone_whatever_the_umask() {
    let bench = open_bench(&[]);
    let mount = |log: &str| {
        let script = format!(
            "umask 0; exec {} mount s3://{BUCKET} mnt --embedded store --cache-dir cache {log}",
            env!("CARGO_BIN_EXE_ratchetfs")
        );
        let mut command = bench.program();
        let shell = std::mem::replace(&mut command, std::process::Command::new("sh"));
        for (name, value) in shell.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = command.args(["-c", &script]).current_dir(bench.dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    let end = || {
        let mount_point = bench.mount_point().display().to_string();
        let output = bench.run(&["umount", &mount_point]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    mount("--log-file own.log");
    sh(&bench.mount_point(), "umask 022; head -c 9M /dev/urandom > file; cat file > /dev/null");
    let metadata = std::fs::metadata(bench.at("file")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o644, "the bucket's files are no business of this");
    for dir in ["cache", "store"] {
        assert_eq!(open_to_others(&bench.local(dir)), "", "{dir}");
    }
    let log = std::fs::metadata(bench.local("own.log")).unwrap();
    assert_eq!(log.mode() & 0o777, 0o600);
    end();

    // As an earlier version has left it.
    sh(
        bench.dir.path(),
        "chmod -R a+rX cache/* store/*; touch cache/ratchetfs.log; chmod 755 cache",
    );
    sh(bench.dir.path(), "chmod 644 cache/ratchetfs.log");
    mount("");
    let left = sh(bench.dir.path(), "find cache/* store/* -maxdepth 1 -perm /077");
    assert_eq!(left, "");
    end();
}

#[test]
fn a_log_that_another_user_has_planted_is_refused() {
    if !is_root() {
        return;
    }
    let bench = open_bench(&[]);
    let precious = bench.local("precious");
    std::fs::write(&precious, "kept").unwrap();
    let link = bench.local("link.log");
    symlink(&precious, &link).unwrap();
    lchown(&link, Some(OTHER), Some(OTHER)).unwrap();
    let foreign = bench.local("foreign.log");
    std::fs::write(&foreign, "").unwrap();
    chown(&foreign, Some(OTHER), Some(OTHER)).unwrap();
    for log in [link, foreign] {
        let log = log.display().to_string();
        let line = refusal(&try_mount(&bench, &["--log-file", &log]));
        assert!(line.contains("--log-file"), "{line}");
    }
    assert_eq!(std::fs::read(&precious).unwrap(), b"kept");
}

#[test]
fn a_second_mount_stays_out_though_the_lock_was_removed() {
    let mut bench = open_bench(&[]);
    bench.mount();
    sh(&bench.cache_dir(), "rm */lock");
    std::fs::create_dir(bench.local("second")).unwrap();
    let mut command = bench.program();
    command.arg("mount").arg(format!("s3://{BUCKET}")).arg(bench.local("second"));
    let line = refusal(&command.args(bench.store_options()).output().unwrap());
    assert!(line.contains("in use by"), "{line}");
    let cache = bench.cache_dir().display().to_string();
    let line = refusal(&bench.run(&["cache", "clear", "--cache-dir", &cache]));
    assert!(line.contains("in use by"), "{line}");
}

#[test]
fn a_mount_that_never_came_to_be_leaves_no_folder() {
    let bench = open_bench(&[]);
    let cache = bench.cache_dir().display().to_string();
    let mut command = bench.program();
    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
    command.arg("mount").arg(format!("s3://{BUCKET}")).arg(bench.mount_point());
    let line = refusal(&command.args(bench.store_options()).output().unwrap());
    assert!(line.contains("secret key is wrong"), "{line}");
    assert_eq!(sh(&bench.cache_dir(), "find . -mindepth 1 -type d"), "");
    // What an earlier mount has left there stays.
    let output = try_mount(&bench, &["--cache-dir", &cache]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    bench.run(&["umount", &bench.mount_point().display().to_string()]);
    let before = sh(&bench.cache_dir(), "find . -name journal");
    assert!(!before.is_empty());
    refusal(&command.output().unwrap());
    assert_eq!(sh(&bench.cache_dir(), "find . -name journal"), before);
}
