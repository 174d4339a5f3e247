//! SeaweedFS as the tests start it answers, and keeps one test's bucket from another's; and what is its own is not
//! seen on a mount.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use http::Method;
use ratchetfs::embedded::{Fault, Operation, Rule};
use support::mount::{Bench, WeedBench, sh, wait_until};
use support::raw::Client;
use support::weed::Weed;

#[tokio::test]
async fn each_test_gets_a_bucket_of_its_own() {
    let weed = Weed::shared().await;
    let client = Client::new(weed.endpoint());
    let (one, two) = (weed.fresh_bucket().await, weed.fresh_bucket().await);
    assert_eq!(client.put(&format!("/{one}/k"), &[], "x").await.status, 200);
    assert_eq!(client.get(&format!("/{one}/k"), &[]).await.text(), "x");
    assert_eq!(client.get(&format!("/{two}/k"), &[]).await.status, 404);
    let refused = Client::new(weed.endpoint()).with_secret_key("wrong");
    assert_eq!(refused.get(&format!("/{one}/k"), &[]).await.status, 403);
}

/// It keeps the folders of keys that are gone, unless they are deleted after what was in them.
#[test]
fn a_renamed_directory_leaves_nothing_under_its_old_name() {
    let mut bench = WeedBench::unmounted(&["--metadata-ttl=0s"]);
    // By another program, without markers.
    bench.bucket.put("tree/plain/deep/file", "x");
    bench.mount();
    for _ in 0..2 {
        sh(
            &bench.mount_point(),
            "mkdir -p tree/made/deep && echo y >tree/made/deep/file && echo z >tree/file",
        );
        sh(
            &bench.mount_point(),
            "mv tree moved && test ! -e tree && cat moved/made/deep/file && rm -r moved",
        );
        for folder in ["tree/", "tree/made/deep/", "tree/plain/deep/", "tree/plain/", "moved/"] {
            let found = bench.bucket.send(Method::HEAD, folder, &[], "");
            assert_eq!(found.status, 404, "{folder}");
        }
    }
    bench.unmount();
}

/// It has folders of its own for what other programs put, without markers, and deletes one that is empty two minutes
/// later. What is a directory here is told to stay one.
#[test]
fn a_directory_that_is_emptied_stays_and_can_be_renamed() {
    let mut bench = WeedBench::unmounted(&["--metadata-ttl=0s"]);
    for key in ["tree/listed/file", "tree/asked/file", "tree/other/file"] {
        bench.bucket.put(key, "x");
    }
    bench.mount();
    sh(&bench.mount_point(), "ls tree/* && rm tree/listed/file");
    bench.remount();
    sh(
        &bench.mount_point(),
        "rm tree/asked/file && mv tree/other tree/moved && rm tree/moved/file",
    );
    let markers =
        |top: &str| ["", "asked/", "listed/", "moved/"].map(|name| format!("{top}/{name}"));
    assert_eq!(bench.bucket.keys(), markers("tree"));
    sh(&bench.mount_point(), "mv tree away");
    assert_eq!(bench.bucket.keys(), markers("away"));
    bench.remount();
    assert_eq!(
        sh(&bench.mount_point(), "find . | sort"),
        ".\n./away\n./away/asked\n./away/listed\n./away/moved\n"
    );
}

/// It says of a directory's marker that there is nothing to copy.
#[test]
fn empty_directories_and_their_modes_move_with_their_parent() {
    let mut bench = WeedBench::start(&["--metadata-ttl=0s"]);
    sh(
        &bench.mount_point(),
        "mkdir -p tree/sub/empty && chmod 750 tree/sub && chmod 711 tree/sub/empty && sync -f .",
    );
    sh(&bench.mount_point(), "mv tree moved");
    for _ in 0..2 {
        let seen = sh(&bench.mount_point(), "find . -mindepth 1 -printf '%P %m\n' | sort");
        assert_eq!(seen, "moved 755\nmoved/sub 750\nmoved/sub/empty 711\n");
        bench.remount();
    }
    bench.unmount();
}

/// A file and a directory of one name cannot both be there, and an unlinked file is there for a moment.
#[test]
fn a_directory_takes_the_place_of_an_unlinked_file() {
    let mut bench = WeedBench::start(&["--write-back"]);
    sh(&bench.mount_point(), "echo x >name");
    bench.drained();
    sh(&bench.mount_point(), "rm name && mkdir name && echo y >name/file && cat name/file");
    bench.remount();
    assert_eq!(sh(&bench.mount_point(), "find . -type f"), "./name/file\n");
    bench.unmount();
}

/// Each directory has its mode, under one name or the other, whenever the program is killed: a folder that the store
/// makes by itself is not taken for one of ours.
#[test]
fn a_killed_rename_of_directories_keeps_their_modes() {
    let mut bench = WeedBench::start(&["--metadata-ttl=0s"]);
    for (round, pause) in [10, 30, 50, 80, 120, 170, 230, 300].into_iter().enumerate() {
        let (from, to) = (format!("from{round}"), format!("to{round}"));
        let make = format!(
            "mkdir -p {from}/{{a,b,c}}/{{d,e}}/{{f,g}} && touch {from}/{{a,b}}/d/file && \
             find {from} -type d -exec chmod 700 {{}} + && sync -f {from} && sleep 0.1"
        );
        sh(&bench.mount_point(), &make);
        bench.remount();
        let killed = bench.kill_after(std::time::Duration::from_millis(pause));
        let _ = std::fs::rename(bench.at(&from), bench.at(&to));
        killed.join().unwrap();
        bench.kill();
        bench.mount();
        let modes = format!("find {from} {to} -type d -printf '%m\n' 2>/dev/null | sort | uniq -c");
        let modes = sh(&bench.mount_point(), &format!("{modes} || true"));
        assert_eq!(modes.trim(), "22 700", "killed after {pause} ms");
    }
    bench.unmount();
}

/// A folder's marker goes before what is in the folder, or the store makes one without a mode.
#[test]
fn markers_are_made_before_what_is_in_their_directories() {
    let mut bench = Bench::start(&["--provider", "seaweedfs", "--metadata-ttl", "0s"]);
    sh(&bench.mount_point(), "mkdir -p from/sub/deep/er && touch from/sub/deep/{1,2,3,4}");
    bench.remount();
    let refused = Rule::new(Fault::denied()).on(Operation::CopyObject).key_contains("/sub/");
    bench.store.faults.set(vec![refused.times(1)]);
    assert!(std::fs::rename(bench.at("from"), bench.at("to")).is_err());
    bench.store.faults.clear();
    bench.kill();
    let keys = bench.bucket.keys();
    assert!(!keys.iter().any(|key| key.starts_with("to/sub")), "{keys:?}");
}

/// SeaweedFS would delete it, two minutes later.
#[test]
fn a_file_waits_for_the_name_of_a_directory_that_was_emptied() {
    let mut bench = WeedBench::start(&["--write-back"]);
    sh(&bench.mount_point(), "mkdir -p d e && touch d/f");
    bench.drained();
    sh(&bench.mount_point(), "rm -r d && rmdir e && echo data >d && echo data >e && cat d");
    wait_until("waiting", || bench.log().contains("d: waits until the store has forgotten"));
    bench.wait_for("the other stored", |status| status.pending_files == 1);
    for (key, status) in [("d", 404), ("e", 200)] {
        let found = bench.bucket.send(Method::GET, key, &[], "");
        assert_eq!(found.status, status, "{key}");
    }
    bench.kill();
}
