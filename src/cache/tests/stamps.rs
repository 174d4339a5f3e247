//! What is not checked again after a remount, and all that makes it be checked.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use super::*;
use crate::cache::disk::DiskTier;
use crate::cache::shared::Integrity;
use crate::cache::stamp::Stamps;

const LEN: u64 = 20 * MIB + 5;
const PATIENCE: Duration = Duration::from_secs(20);

impl Bench {
    /// The next mount, after another boot if so wished.
    async fn remount_in(&self, boot: Option<[u8; 16]>) -> Arc<Cache> {
        let mut journal = None;
        eventually("the old mount lets go", || {
            journal = Journal::open(self.dir.path(), &identity()).ok().map(|(journal, _)| journal);
            journal.is_some()
        })
        .await;
        let (counters, settings) = (Arc::new(Counters::default()), self.settings());
        let mut tier =
            DiskTier::open(self.dir.path(), 100 * MIB, journal.unwrap(), counters.clone()).unwrap();
        if boot.is_some() {
            tier.stamps = Stamps { boot };
        }
        let runtime = tokio::runtime::Handle::current();
        let (store, budget, tier) = (self.store(), self.budget.clone(), Some(Arc::new(tier)));
        Cache::over(store, budget, settings, runtime, counters, tier, Integrity::new(None)).unwrap()
    }

    /// A mount that reads the object to its end and then ends in order.
    async fn fill(&self) {
        let cache = self.mount();
        read_all(&cache, "a", LEN).await;
        on_disk(&cache, "a", LEN).await;
        cache.settle_for_the_next_mount(PATIENCE).await;
        assert!(is_recorded(&cache));
    }
}

fn is_recorded(cache: &Cache) -> bool {
    let tier = cache.shared.disk.as_ref().unwrap();
    tier.journal.read(|state| state.objects.values().any(|object| object.verified.is_some()))
}

/// Bytes checked and bytes believed.
fn checked_and_before(cache: &Cache) -> (u64, u64) {
    let stats = cache.stats();
    (stats.disk.checked, stats.disk.checked_before)
}

async fn passed_through(cache: &Arc<Cache>) -> Vec<u8> {
    bytes_of(&object(cache, "a", LEN).passthrough_file().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_mount_has_checked_is_served_without_a_check() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    bench.fill().await;
    for _ in 0..2 {
        let cache = bench.remount_in(None).await;
        assert!(passed_through(&cache).await == content(ByteRange::new(0, LEN)));
        assert_eq!(checked_and_before(&cache), (0, LEN));
    }
    // Not through passthrough: likewise.
    let cache = bench.remount_in(None).await;
    read_all(&cache, "a", LEN).await;
    assert_eq!(checked_and_before(&cache), (0, LEN));
    assert_eq!(cache.stats().disk.served, LEN);
    assert_eq!(bench.bytes_sent(), LEN);
    // A check that is asked for is made.
    let report = cache.verify().await.unwrap();
    assert_eq!((report.bytes, report.bad_bytes), (LEN, 0));
    assert_eq!(checked_and_before(&cache), (LEN, LEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_touched_is_checked_as_ever() {
    let flip = |path: &Path| {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 3 * MIB + 17).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 3 * MIB + 17).unwrap();
        file
    };
    let flip_openly = |path: &Path| drop(flip(path));
    let flip_secretly = |path: &Path| {
        let mtime = std::fs::metadata(path).unwrap().modified().unwrap();
        flip(path).set_modified(mtime).unwrap();
    };
    let flip_in_a_copy = |path: &Path| {
        let copy = path.with_extension("copy");
        std::fs::copy(path, &copy).unwrap();
        flip_secretly(&copy);
        std::fs::rename(&copy, path).unwrap();
    };
    let chmod =
        |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o640)).unwrap();
    for (what, touch, bad_bytes) in [
        ("a flipped bit", &flip_openly as &dyn Fn(&Path), MIB),
        ("a flipped bit, mtime as before", &flip_secretly, MIB),
        ("a copy with a flipped bit", &flip_in_a_copy, MIB),
        ("another mode", &chmod, 0),
    ] {
        let bench = Bench::new(64 * MIB, 100 * MIB);
        bench.fill().await;
        let path = bench.files().pop().unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        touch(&path);
        assert_eq!(what.starts_with("a copy"), std::fs::metadata(&path).unwrap().ino() != inode);
        let sent = bench.bytes_sent();
        let cache = bench.remount_in(None).await;
        assert_eq!(object(&cache, "a", LEN).passthrough_file().await.is_some(), bad_bytes == 0);
        assert_eq!(checked_and_before(&cache), (LEN, 0), "{what}");
        read_all(&cache, "a", LEN).await;
        assert_eq!(bench.bytes_sent() - sent, bad_bytes, "{what}");
        // Whole again, and believed by the mount after this one.
        on_disk(&cache, "a", LEN).await;
        cache.settle_for_the_next_mount(PATIENCE).await;
        drop(cache);
        let cache = bench.remount_in(None).await;
        assert!(passed_through(&cache).await == content(ByteRange::new(0, LEN)));
        assert_eq!(checked_and_before(&cache), (0, LEN), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_another_boot_all_is_checked_once() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    bench.fill().await;
    for (boot, expected) in
        [([1; 16], (LEN, 0)), ([1; 16], (0, LEN)), ([2; 16], (LEN, 0)), ([1; 16], (LEN, 0))]
    {
        let cache = bench.remount_in(Some(boot)).await;
        assert!(passed_through(&cache).await == content(ByteRange::new(0, LEN)));
        assert_eq!(checked_and_before(&cache), expected);
        // No orderly end: the record is there as soon as all is quiet.
        eventually("recorded", || !object(&cache, "a", LEN).is_good_and_not_on_record()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_during_its_check_is_checked_again() {
    for changes in [false, true] {
        let bench = Bench::new(64 * MIB, 100 * MIB);
        bench.fill().await;
        let path = bench.files().pop().unwrap();
        let cache = bench.remount_in(Some([1; 16])).await;
        let file = object(&cache, "a", LEN);
        for start in (0..LEN).step_by(MIB as usize) {
            if changes && start == 10 * MIB {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
                let tier = cache.shared.disk.as_ref().unwrap();
                let disk = crate::disk::File::open(&path).unwrap();
                eventually("settled", || tier.stamps.settled(&disk).is_some()).await;
            }
            file.read(ByteRange::at(start, MIB), soon()).await.unwrap();
        }
        if changes {
            // What was checked before a change says nothing of the file as it is: checked again.
            file.read(ByteRange::new(0, 10 * MIB), soon()).await.unwrap();
        }
        cache.settle_for_the_next_mount(PATIENCE).await;
        let again = if changes { 10 * MIB } else { 0 };
        assert_eq!(checked_and_before(&cache), (LEN + again, 0));
        drop((file, cache));
        let cache = bench.remount_in(Some([1; 16])).await;
        passed_through(&cache).await;
        assert_eq!(checked_and_before(&cache), (0, LEN));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_evicted_in_part_or_small_is_not_believed() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    bench.fill().await;
    let cache = bench.remount_in(None).await;
    let tier = cache.shared.disk.as_ref().unwrap();
    assert!(tier.evict(MIB) >= MIB);
    assert!(!is_recorded(&cache));
    drop(cache);
    let cache = bench.remount_in(None).await;
    read_all(&cache, "a", LEN).await;
    assert_eq!(cache.stats().disk.checked_before, 0);
    read_all(&cache, "small", MIB).await;
    on_disk(&cache, "small", MIB).await;
    cache.settle_for_the_next_mount(PATIENCE).await;
    drop(cache);
    let cache = bench.remount_in(None).await;
    read_all(&cache, "small", MIB).await;
    assert_eq!(checked_and_before(&cache), (MIB, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_renamed_here_is_believed_too() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    let (whole, etag) = (ByteRange::new(0, LEN), ETag::new("v1"));
    read_all(&cache, "b", LEN).await;
    on_disk(&cache, "b", LEN).await;
    cache.settle_for_the_next_mount(PATIENCE).await;
    assert!(is_recorded(&cache));
    cache.rename_key(&Key::from("b"), &etag, &Key::from("a"), &etag);
    cache.settle().await;
    cache.settle_for_the_next_mount(PATIENCE).await;
    drop(cache);
    let cache = bench.remount_in(None).await;
    assert!(passed_through(&cache).await == content(whole));
    assert_eq!(checked_and_before(&cache), (0, LEN));
    assert_eq!(bench.bytes_sent(), LEN, "fetched once");
}

/// A file that was found good is recorded, and the journal's disk is slow: reads go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_good_file_on_its_way_to_the_record_is_read() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    bench.fill().await;
    let cache = bench.remount_in(Some([1; 16])).await;
    let journal = cache.shared.disk.as_ref().unwrap().journal.clone();
    let ((busy, is_busy), (done, is_done)) =
        (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let slow = journal.clone();
    let disk = std::thread::spawn(move || {
        slow.while_busy(|| {
            busy.send(()).unwrap();
            is_done.recv_timeout(2 * PATIENCE).unwrap();
        });
    });
    is_busy.recv_timeout(PATIENCE).unwrap();
    // Checks all of it, so that another thread comes to record it.
    read_all(&cache, "a", LEN).await;
    eventually("it is being recorded", || journal.is_waited_for()).await;
    let reader = cache.clone();
    let read = tokio::spawn(async move { read_all(&reader, "a", LEN).await });
    let read = crate::clock::timeout(PATIENCE, read).await;
    done.send(()).unwrap();
    disk.join().unwrap();
    read.expect("a read waited for the journal's disk").unwrap();
    eventually("recorded", || is_recorded(&cache)).await;
}
