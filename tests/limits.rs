//! How fast a mount sends and fetches, as the network sees it.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::time::{Duration, Instant};

use support::mount::{Bench, Mount, noise, refusal, wait_until};
use support::proxy::{Moved, Proxy};
use support::text;

const MIB: usize = 1 << 20;
const WINDOW: Duration = Duration::from_secs(10);

fn behind_a_proxy(options: &[&str]) -> (Bench, Proxy, Mount) {
    let bench = Bench::unmounted(&[]);
    let proxy = Proxy::start(&bench.store.endpoint());
    let mut mount = Mount::new(&proxy.endpoint(), "s3://test-bucket", options);
    mount.mount();
    (bench, proxy, mount)
}

/// MiB a second over a while.
fn rate(proxy: &Proxy, bytes: fn(&Moved) -> u64, time: Duration) -> f64 {
    let (begun, before) = (Instant::now(), bytes(proxy.moved()));
    std::thread::sleep(time);
    (bytes(proxy.moved()) - before) as f64 / MIB as f64 / begun.elapsed().as_secs_f64()
}

fn assert_near(rate: f64, told: f64) {
    assert!((rate / told - 1.0).abs() < 0.05, "{rate} MiB/s, not {told}");
}

/// `ratchetfs limit` of a mount with these options; what it shows.
fn limit(mount: &Mount, options: &[&str]) -> String {
    let at = mount.mount_point().display().to_string();
    let output = mount.run(&[&["limit", &at], options].concat());
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn a_rate_is_held_over_ten_seconds_in_both_directions() {
    let (_bench, proxy, mut mount) = behind_a_proxy(&["--upload-limit", "8MiB/s"]);
    let content = noise(112 * MIB, 1);
    std::thread::scope(|scope| {
        let written = scope.spawn(|| std::fs::write(mount.at("file"), &content));
        wait_until("sending", || proxy.moved().up() > 2 * MIB as u64);
        assert_near(rate(&proxy, Moved::up, WINDOW), 8.0);
        assert!(!written.is_finished());
        limit(&mount, &["--up", "none"]);
        written.join().unwrap().unwrap();
    });
    mount.unmount();
    std::fs::remove_dir_all(mount.cache_dir()).unwrap();
    mount.set_options(&["--download-limit", "8MiB/s"]);
    mount.mount();
    std::thread::scope(|scope| {
        let read = scope.spawn(|| std::fs::read(mount.at("file")).unwrap());
        wait_until("fetching", || proxy.moved().down() > 12 * MIB as u64);
        assert_near(rate(&proxy, Moved::down, WINDOW), 8.0);
        limit(&mount, &["--down", "none"]);
        assert!(read.join().unwrap() == content);
    });
}

#[test]
fn a_changed_limit_holds_for_what_is_under_way() {
    let (_bench, proxy, mount) = behind_a_proxy(&["--part-size", "64MiB", "--memory", "512MiB"]);
    let none = "upload    none\ndownload  none\nrequests  none\n";
    assert_eq!(limit(&mount, &[]), none);
    limit(&mount, &["--up", "1MiB/s", "--requests", "1000:2000"]);
    let shown = limit(&mount, &[]);
    assert!(shown.contains("upload    1.00 MiB/s, "), "{shown}");
    assert!(shown.contains("requests  1000 a second, 2000 at once"), "{shown}");
    let content = noise(64 * MIB, 1);
    std::thread::scope(|scope| {
        // One body, begun slowly.
        let written = scope.spawn(|| std::fs::write(mount.at("file"), &content));
        wait_until("sending", || proxy.moved().up() > MIB as u64 / 2);
        let slow = rate(&proxy, Moved::up, Duration::from_secs(3));
        assert!(slow < 1.2, "{slow}");
        limit(&mount, &["--up", "6MiB/s:1MiB"]);
        let limits = mount.status().unwrap().store.limits;
        assert_eq!(
            limits.upload.map(|rate| (rate.per_second, rate.burst)),
            Some((6 << 20, 1 << 20))
        );
        assert!(limits.requests.is_some(), "what is not named stays");
        std::thread::sleep(Duration::from_secs(1));
        let faster = rate(&proxy, Moved::up, Duration::from_secs(3));
        assert!(faster > 5.0 && faster < 7.0, "{faster}");
        limit(&mount, &["--up", "256KiB/s"]);
        std::thread::sleep(Duration::from_secs(1));
        let slower = rate(&proxy, Moved::up, Duration::from_secs(3));
        assert!(slower < 0.4, "{slower}");
        limit(&mount, &["--up", "none", "--requests", "none"]);
        let begun = Instant::now();
        written.join().unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    });
    assert_eq!(limit(&mount, &[]), none);
    let at = mount.mount_point().display().to_string();
    assert!(refusal(&mount.run(&["limit", &at, "--up", "0"])).contains("none lifts"));
    assert!(refusal(&mount.run(&["limit", "/"])).contains("no live mount"));
}

#[test]
fn a_small_file_does_not_wait_for_all_parts_of_a_large_one() {
    let options = ["--upload-limit", "2MiB/s", "--part-size", "16MiB", "--memory", "512MiB"];
    let (_bench, proxy, mount) = behind_a_proxy(&options);
    let (large, small) = (noise(160 * MIB, 1), noise(MIB, 2));
    std::thread::scope(|scope| {
        let written = scope.spawn(|| std::fs::write(mount.at("large"), &large));
        wait_until("parts that take 24 s are under way", || {
            let transfers = mount.status().unwrap().transfers;
            transfers.iter().any(|transfer| transfer.parts_in_flight >= 3)
        });
        assert!(proxy.moved().up() < 16 * MIB as u64);
        let begun = Instant::now();
        std::fs::write(mount.at("small"), &small).unwrap();
        // Half of the rate is its own: a second.
        println!("small: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert!(!written.is_finished());
        limit(&mount, &["--up", "none"]);
        written.join().unwrap().unwrap();
    });
}
