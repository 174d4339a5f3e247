//! A mount whose store is away, or asks for less: what works on, what is said of it, and that it is exact again after it.

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::mount::{Bench, Mount, is_mounted, refusal, sh, wait_until};
use support::proxy::{Network, Proxy};
use support::text;

/// What a loaded machine may add.
const SLACK: Duration = Duration::from_secs(2);

/// A store, the network before it, and what is to be a mount through that.
fn far_away(options: &[&str]) -> (Bench, Proxy, Mount) {
    let bench = Bench::unmounted(&[]);
    let proxy = Proxy::start(&bench.store.endpoint());
    let mount = Mount::new(&proxy.endpoint(), "s3://test-bucket", options);
    (bench, proxy, mount)
}

/// `ratchetfs mount`, which goes to the background; and the first line that it says.
fn mounting(mount: &Mount, options: &[&str]) -> (Child, String) {
    let mut command = mount.program();
    command.args(["mount", "s3://test-bucket"]).arg(mount.mount_point());
    command.args(mount.store_options()).args(options).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

/// The processes that a process has started, and that are still there.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind = stat.rsplit(") ").next().unwrap_or_default();
        behind.split(' ').nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}

#[test]
fn a_mount_waits_for_a_store_that_comes_up() {
    let (_bench, proxy, mount) = far_away(&[]);
    proxy.set(Network::Refused);
    let (mut command, said) = mounting(&mount, &["--mount-timeout", "60s"]);
    assert!(said.contains("waiting for up to 1m") && said.contains("refused"), "{said}");
    assert!(command.try_wait().unwrap().is_none());
    proxy.set(Network::Up);
    assert!(command.wait().unwrap().success());
    assert!(is_mounted(&mount.mount_point()));
    sh(&mount.mount_point(), "echo hello > file && grep -q hello file");
    let at = mount.mount_point().display().to_string();
    assert!(mount.run(&["umount", &at]).status.success());
    mount.wait_until_gone();
}

#[test]
fn a_mount_that_waits_ends_in_time_or_with_ctrl_c() {
    let (_bench, proxy, mount) = far_away(&[]);
    proxy.set(Network::Refused);
    let begun = Instant::now();
    let (command, said) = mounting(&mount, &["--mount-timeout", "2s"]);
    assert!(said.contains("waiting for up to 2s"), "{said}");
    let told = refusal(&command.wait_with_output().unwrap());
    assert!(told.contains("refused") && told.contains("--endpoint-url"), "{told}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(2) + SLACK, "{took:?}");

    for (network, options) in
        [(Network::Refused, &[][..]), (Network::Silent, &["--timeout", "4s"][..])]
    {
        proxy.set(network);
        let options = [&["--mount-timeout", "infinite"], options].concat();
        let (mut command, said) = mounting(&mount, &options);
        assert!(said.contains("yet, waiting (Ctrl-C ends it)"), "{said}");
        let behind = children_of(command.id());
        assert_eq!(behind.len(), 1);
        let begun = Instant::now();
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(command.id() as libc::pid_t, libc::SIGINT) };
        assert!(!command.wait().unwrap().success());
        wait_until("the background has ended", || {
            std::fs::read_to_string(format!("/proc/{}/stat", behind[0]))
                .map_or(true, |stat| stat.contains(") Z "))
        });
        assert!(begun.elapsed() < SLACK, "{network:?}: {:?}", begun.elapsed());
        assert!(!is_mounted(&mount.mount_point()));
        let left = sh(&mount.cache_dir(), "ls");
        assert_eq!(left, "ratchetfs.log\n", "no folder of the bucket");
    }
}

#[test]
fn who_waits_for_ever_can_be_taken_away() {
    let (_bench, proxy, mut mount) = far_away(&["--timeout", "infinite"]);
    mount.mount();
    proxy.set(Network::Silent);
    let at = mount.mount_point().display().to_string();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| std::fs::metadata(mount.at("name")));
        std::thread::sleep(Duration::from_secs(1));
        assert!(!asked.is_finished());
        let begun = Instant::now();
        let ended = mount.run(&["umount", "--now", &at]);
        assert!(ended.status.success(), "{}", text(&ended.stderr));
        assert!(asked.join().unwrap().is_err());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    });
    mount.gone();
}
