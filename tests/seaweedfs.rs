//! SeaweedFS as the tests start it answers, and keeps one test's bucket from another's; and what is its own is not
//! seen on a mount.

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use http::Method;
use support::mount::{Mount, sh};
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
#[tokio::test]
async fn a_directory_that_is_renamed_leaves_nothing_under_its_old_name() {
    let weed = Weed::shared().await;
    let bucket = weed.fresh_bucket().await;
    let client = Client::new(weed.endpoint());
    // By another program, without markers.
    client.put(&format!("/{bucket}/tree/plain/deep/file"), &[], "x").await;
    let mut mount = Mount::new(weed.endpoint(), &format!("s3://{bucket}"), &["--metadata-ttl=0s"]);
    mount.mount();
    for _ in 0..2 {
        sh(
            &mount.mount_point(),
            "mkdir -p tree/made/deep && echo y >tree/made/deep/file && echo z >tree/file",
        );
        sh(
            &mount.mount_point(),
            "mv tree moved && test ! -e tree && cat moved/made/deep/file && rm -r moved",
        );
        for folder in ["tree/", "tree/made/deep/", "tree/plain/deep/", "tree/plain/", "moved/"] {
            let found =
                client.send(Method::HEAD, &format!("/{bucket}/{folder}"), &[], "").await.unwrap();
            assert_eq!(found.status, 404, "{folder}");
        }
    }
    mount.unmount();
}

/// It says of a directory's marker that there is nothing to copy.
#[tokio::test]
async fn empty_directories_and_their_modes_move_with_the_directory_that_they_are_in() {
    let weed = Weed::shared().await;
    let bucket = weed.fresh_bucket().await;
    let mut mount = Mount::new(weed.endpoint(), &format!("s3://{bucket}"), &["--metadata-ttl=0s"]);
    mount.mount();
    sh(
        &mount.mount_point(),
        "mkdir -p tree/sub/empty && chmod 750 tree/sub && chmod 711 tree/sub/empty && sync -f .",
    );
    sh(&mount.mount_point(), "mv tree moved");
    for _ in 0..2 {
        let seen = sh(&mount.mount_point(), "find . -mindepth 1 -printf '%P %m\n' | sort");
        assert_eq!(seen, "moved 755\nmoved/sub 750\nmoved/sub/empty 711\n");
        mount.remount();
    }
    mount.unmount();
}

/// A file and a directory of one name cannot both be there, and an unlinked file is there for a moment.
#[tokio::test]
async fn a_directory_takes_the_place_of_an_unlinked_file_under_write_back() {
    let weed = Weed::shared().await;
    let bucket = weed.fresh_bucket().await;
    let mut mount = Mount::new(weed.endpoint(), &format!("s3://{bucket}"), &["--write-back"]);
    mount.mount();
    sh(&mount.mount_point(), "echo x >name");
    mount.wait_for("stored", |status| status.pending_files == 0);
    sh(&mount.mount_point(), "rm name && mkdir name && echo y >name/file && cat name/file");
    mount.remount();
    assert_eq!(sh(&mount.mount_point(), "find . -type f"), "./name/file\n");
    mount.unmount();
}
