//! What another user of the machine may try: directories, links, files and sockets that are not ours.
//!
//! To be another user takes root: without it most of these tests have nothing to show.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ratchetfs::internals::socket;

use support::mount::{Bench, is_mounted, refusal, sh};
use support::{BUCKET, text};

const OTHER: u32 = 65534;

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
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
    // Opening it would wait for a reader.
    let pipe = bench.local("pipe.log");
    sh(bench.dir.path(), "mkfifo pipe.log");
    chown(&pipe, Some(OTHER), Some(OTHER)).unwrap();
    for log in [link, foreign, pipe] {
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

/// What `work` gives when user `user` does it. Of this thread alone: the kernel knows threads, not processes.
fn as_user<T: Send>(user: u32, work: impl FnOnce() -> T + Send) -> T {
    let become_user = || {
        // SAFETY: plain numbers; by the bare calls (not glibc's) only this thread changes.
        let changed = unsafe {
            libc::syscall(libc::SYS_setresgid, user, user, user)
                | libc::syscall(libc::SYS_setresuid, user, user, user)
        };
        assert_eq!(changed, 0);
        work()
    };
    std::thread::scope(|scope| scope.spawn(become_user).join().unwrap())
}

/// The directory of another user's sockets, and a listener there.
struct Impostor {
    dir: PathBuf,
}

impl Impostor {
    fn new(user: u32) -> Impostor {
        let dir = PathBuf::from(format!("/tmp/ratchetfs-{user}"));
        let _ = std::fs::remove_dir_all(&dir);
        as_user(user, || std::fs::create_dir(&dir).unwrap());
        set_mode(&dir, 0o700);
        Impostor { dir }
    }

    /// Says something to each client that connects to `name`, as `user`.
    fn listen(&self, user: u32, name: &str, say: impl Fn(UnixStream) + Send + 'static) {
        let path = self.dir.join(name);
        let listener = as_user(user, || UnixListener::bind(&path).unwrap());
        std::thread::spawn(move || listener.incoming().flatten().for_each(say));
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

const EVIL_ANSWER: &str =
    "{\"status\":{\"mount_point\":\"/evil\\u001b[2J\",\"bucket\":\"b\\u009b31m\",\"pid\":1}}\n";

#[test]
fn no_other_user_poses_as_a_mount_of_root() {
    if !is_root() {
        return;
    }
    let user = 64001;
    let mut bench = open_bench(&[]);
    let impostor = Impostor::new(user);
    let name = socket::path_in(Path::new(""), &bench.mount_point());
    let name = name.to_str().unwrap();
    impostor.listen(user, name, |mut stream| {
        let _ = stream.write_all(EVIL_ANSWER.as_bytes());
        std::thread::sleep(Duration::from_secs(600));
    });
    let mount_point = bench.mount_point().display().to_string();
    let line = refusal(&bench.run(&["status", &mount_point]));
    assert!(line.contains("no live mount"), "{line}");
    bench.mount();
    let status = bench.run(&["status", &mount_point]);
    assert!(!text(&status.stdout).contains("evil"), "{}", text(&status.stdout));
    bench.kill();
    let begun = Instant::now();
    let ended = bench.run(&["umount", &mount_point]);
    assert!(text(&ended.stderr).contains("took away the dead mount"), "{}", text(&ended.stderr));
    bench.mount();
    bench.kill();
    bench.mount();
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    assert!(impostor.dir.join(name).exists(), "it is not root's to remove");
}

#[test]
fn what_other_users_answer_is_bounded_and_escaped() {
    if !is_root() {
        return;
    }
    let user = 64002;
    let mut bench = open_bench(&[]);
    bench.mount();
    let impostor = Impostor::new(user);
    impostor.listen(user, "evil.sock", |mut stream| {
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(EVIL_ANSWER.as_bytes());
    });
    impostor.listen(user, "silent.sock", |stream| {
        std::mem::forget(stream);
    });
    impostor.listen(user, "trickle.sock", |mut stream| {
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    impostor.listen(
        user,
        "flood.sock",
        |mut stream| {
            while stream.write_all(&[b' '; 1 << 20]).is_ok() {}
        },
    );
    // Another user's socket in that directory is not the directory's owner's.
    impostor.listen(0, "posing.sock", |mut stream| {
        let _ = stream.write_all(EVIL_ANSWER.replace("evil", "posing").as_bytes());
    });
    let begun = Instant::now();
    for arguments in [&["status"][..], &["status", "--json"]] {
        let output = bench.run(arguments);
        let (told, aside) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{aside}");
        assert!(told.contains(&bench.mount_point().display().to_string()), "{told}");
        assert!(told.contains("/evil") && !told.contains("posing"), "{told}");
        let obeyed = |c: char| c.is_control() && c != '\n';
        assert!(!told.contains(obeyed) && !aside.contains(obeyed), "{told:?} {aside:?}");
        assert!(aside.contains("has not answered") && aside.contains("without an end"), "{aside}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn planted_directories_of_sockets_are_passed_over() {
    if !is_root() {
        return;
    }
    let (user, victim) = (64003, 64004);
    let mut bench = open_bench(&[]);
    bench.mount();
    let impostor = Impostor::new(user);
    // In the name of another, and a link to root's own sockets.
    let planted = PathBuf::from(format!("/tmp/ratchetfs-{victim}"));
    let _ = std::fs::remove_dir_all(&planted);
    as_user(user, || std::fs::create_dir(&planted).unwrap());
    let link = PathBuf::from("/tmp/ratchetfs-64005");
    let _ = std::fs::remove_file(&link);
    as_user(user, || symlink("/run/ratchetfs", &link).unwrap());
    // A dead socket of root's user in a directory of another is left alone too.
    let dead = impostor.dir.join("dead.sock");
    as_user(user, || drop(UnixListener::bind(&dead).unwrap()));
    let output = bench.run(&["status"]);
    let (told, aside) = (text(&output.stdout), text(&output.stderr));
    std::fs::remove_dir(&planted).unwrap();
    std::fs::remove_file(&link).unwrap();
    assert!(output.status.success(), "{aside}");
    assert!(told.contains(&bench.mount_point().display().to_string()), "{told}");
    assert!(aside.contains(&format!("{} is passed over", planted.display())), "{aside}");
    assert!(aside.contains(&format!("{} is passed over", link.display())), "{aside}");
    assert!(dead.exists());
    assert!(bench.status().is_some());
}

#[test]
fn a_mount_is_found_whatever_the_environment_of_the_command() {
    let bench = open_bench(&[]);
    let (ours, theirs) = (make(&bench, "run1", 0o700), make(&bench, "run2", 0o700));
    let mount_point = bench.mount_point().display().to_string();
    let mut command = bench.program();
    command.env("XDG_RUNTIME_DIR", &ours).arg("mount").arg(format!("s3://{BUCKET}"));
    let output = command.arg(&mount_point).args(bench.store_options()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    // Where /tmp is the mount's own, a command with the same environment finds it.
    let name = socket::path_in(&ours.join("ratchetfs"), &bench.mount_point());
    assert!(name.exists());
    let mut command = bench.program();
    let output = command.env("XDG_RUNTIME_DIR", &ours).arg("status").output().unwrap();
    assert_eq!(text(&output.stdout).matches(&*mount_point).count(), 1, "{output:?}");
    for arguments in [&["status", &*mount_point][..], &["umount", &mount_point]] {
        let mut command = bench.program();
        let output = command.env("XDG_RUNTIME_DIR", &theirs).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    }
    assert!(!is_mounted(&bench.mount_point()));
    assert!(!name.exists());
}

#[test]
fn a_mount_of_another_user_is_named_as_such() {
    let mut bench = open_bench(&[]);
    // The program may lie where other users cannot go.
    let version = |command: &mut Command| command.uid(OTHER).gid(OTHER).arg("--version").status();
    let may_run = is_root() && version(&mut bench.program()).is_ok_and(|status| status.success());
    if !may_run {
        return;
    }
    bench.mount();
    let mount_point = bench.mount_point().display().to_string();
    for command in ["status", "umount"] {
        let mut program = bench.program();
        program.uid(OTHER).gid(OTHER).current_dir("/").args([command, &mount_point]);
        let line = refusal(&program.output().unwrap());
        assert!(line.contains("is mounted by user 0"), "{command}: {line}");
    }
}

#[test]
fn a_mount_whose_process_is_stopped_is_named_not_waited_for() {
    let mut bench = open_bench(&[]);
    bench.mount();
    let pid = bench.status().unwrap().process.pid;
    let signal = |signal| {
        // SAFETY: a signal to a child that has not been waited for: the number is still its own.
        assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
    };
    signal(libc::SIGSTOP);
    let mount_point = bench.mount_point().display().to_string();
    let line = refusal(&bench.run(&["umount", &mount_point]));
    signal(libc::SIGCONT);
    assert!(line.contains(&format!("kill -CONT {pid}")), "{line}");
    let output = bench.run(&["umount", &mount_point]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    bench.gone();
}

#[test]
fn what_drops_something_names_its_mount() {
    let (mut one, mut two) = (open_bench(&[]), open_bench(&[]));
    one.mount();
    two.mount();
    for arguments in
        [["uploads", "abort"], ["uploads", "resume"], ["cache", "clear"], ["cache", "verify"]]
    {
        let line = refusal(&one.run(&arguments));
        assert!(line.contains("--all"), "{line}");
        for bench in [&one, &two] {
            assert!(line.contains(&bench.mount_point().display().to_string()), "{line}");
        }
    }
}

/// What the kernel says of a mount: its options.
fn mount_flags(bench: &Bench) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = bench.mount_point();
    let line = table.lines().find(|line| line.split(' ').nth(4) == at.to_str()).unwrap();
    line.split(' ').nth(5).unwrap().to_owned()
}

#[test]
fn a_mount_is_its_owners_unless_others_are_let_in() {
    let mut bench = open_bench(&[]);
    bench.mount();
    let flags = mount_flags(&bench);
    assert!(flags.contains("nosuid") && flags.contains("nodev"), "{flags}");
    if !is_root() {
        return;
    }
    std::fs::write(bench.at("open"), "x").unwrap();
    std::fs::write(bench.at("closed"), "x").unwrap();
    set_mode(&bench.at("closed"), 0o600);
    let errno = |outcome: std::io::Result<Vec<u8>>| outcome.unwrap_err().raw_os_error();
    let read = |name: &str| as_user(OTHER, || std::fs::read(bench.at(name)));
    assert_eq!(errno(read("open")), Some(libc::EACCES));
    assert!(as_user(OTHER, || std::fs::read_dir(bench.mount_point())).is_err());
    bench.unmount();

    bench.set_options(&["--allow-other"]);
    bench.mount();
    let read = |name: &str| as_user(OTHER, || std::fs::read(bench.at(name)));
    assert_eq!(read("open").unwrap(), b"x");
    assert_eq!(errno(read("closed")), Some(libc::EACCES));
    let written = as_user(OTHER, || std::fs::write(bench.at("open"), "y"));
    assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EACCES));
    assert!(as_user(OTHER, || std::fs::write(bench.at("new"), "y")).is_err());
}
