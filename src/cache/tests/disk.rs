//! The disk tier: remounts, damage, its size, and residency that changes hands.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::cache::disk::DiskTier;
use crate::store::ObjectSum;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_remount_the_disk_serves_without_a_get() {
    const LEN: u64 = 5 * MIB + 123;
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    read_all(&cache, "a", LEN).await;
    cache.settle().await;
    assert_eq!(cache.stats().disk.written, LEN);
    drop(cache);
    let cache = remount(&bench).await;
    let gets = bench.gets().len();
    read_all(&cache, "a", LEN).await;
    assert_eq!(bench.gets().len(), gets);
    assert_eq!(cache.stats().disk.served, LEN);
    let file = object(&cache, "a", LEN);
    assert!(file.resident_on_disk());
    let raw = file.passthrough_file().await.unwrap();
    assert!(bytes_of(&raw) == content(ByteRange::new(0, LEN)));
    // Verified by now: no await needed.
    assert!(file.read_now(ByteRange::at(7, 9)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_a_transfer_in_flight_is_on_disk_already() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let _tap = bench.hold_back(3 * MIB + 5);
    let cache = bench.mount();
    let file = object(&cache, "a", 8 * MIB);
    let _held = file.want(ByteRange::new(0, 8 * MIB), 8 * MIB, Urgency::Ahead);
    file.read(ByteRange::at(3 * MIB, 1), soon()).await.unwrap();
    cache.settle().await;
    assert_eq!(cache.stats().disk.written, 3 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_on_disk_is_found_and_fetched_again() {
    const LEN: u64 = 3 * MIB;
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    // However it is handed to the disk, no range of it is longer than what was asked for at a time.
    for at in [0, MIB, 2 * MIB] {
        object(&cache, "a", LEN).read(ByteRange::at(at, MIB), soon()).await.unwrap();
        cache.settle().await;
    }
    drop(cache);
    let path = bench.files().pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[MIB as usize + 17] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let cache = remount(&bench).await;
    let sent = bench.bytes_sent();
    read_all(&cache, "a", LEN).await;
    let sent = bench.bytes_sent() - sent;
    assert!(sent > 0 && sent <= MIB, "{sent} bytes");
    assert_eq!(cache.stats().disk.bad_ranges, 1);
    cache.settle().await;
    let report = cache.verify().await.unwrap();
    assert_eq!(
        report,
        VerifyReport { objects: 1, bytes: LEN, bad_ranges: 0, bad_bytes: 0, ..report }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_drops_nothing_that_it_cannot_open() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    read_all(&cache, "a", MIB).await;
    while cache.stats().disk.bytes < MIB {
        tokio::task::yield_now().await;
        cache.settle().await;
    }
    let path = bench.files().pop().unwrap();
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    // A link to itself is there, and is not opened by root either.
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert!(cache.verify().await.is_err());
    std::fs::rename(&aside, &path).unwrap();
    let report = cache.verify().await.unwrap();
    assert_eq!((report.bytes, report.bad_bytes), (MIB, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_now_comes_from_the_store_and_stays() {
    const LEN: u64 = 2 * MIB;
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    read_all(&cache, "a", LEN).await;
    on_disk(&cache, "a", LEN).await;
    drop(cache);
    let path = bench.files().pop().unwrap();
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    // A link to itself is there, and is not opened by root either.
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let cache = remount(&bench).await;
    let file = object(&cache, "a", LEN);
    let sent = bench.bytes_sent();
    let half = ByteRange::new(0, MIB);
    assert!(file.read(half, soon()).await.unwrap().as_ref() == content(half));
    assert_eq!(bench.bytes_sent() - sent, MIB);
    assert_eq!(cache.stats().disk.bad_ranges, 0);
    std::fs::rename(&aside, &path).unwrap();
    let rest = ByteRange::new(MIB, LEN);
    eventually("tried again", || file.cached_ranges() == [ByteRange::new(0, LEN)]).await;
    assert!(file.read(rest, soon()).await.unwrap().as_ref() == content(rest));
    assert_eq!(bench.bytes_sent() - sent, MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_or_missing_file_is_fetched_again() {
    const LEN: u64 = 2 * MIB;
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    for name in ["torn", "missing"] {
        read_all(&cache, name, LEN).await;
        on_disk(&cache, name, LEN).await;
    }
    let (tier, cut) = (cache.shared.disk.clone().unwrap(), MIB + 5);
    let on_disk = |name| tier.object(&Key::from(name), &ETag::new("v1"), LEN);
    let path = |name| tier.path(on_disk(name).id().unwrap());
    // What the cut goes through is torn, as it was written, and what lies behind.
    let torn = on_disk("torn").stored_in(ByteRange::at(cut, 1))[0].0;
    std::fs::File::options().write(true).open(path("torn")).unwrap().set_len(cut).unwrap();
    std::fs::remove_file(path("missing")).unwrap();
    drop((tier, cache));
    let cache = remount(&bench).await;
    let sent = bench.bytes_sent();
    read_all(&cache, "torn", LEN).await;
    assert_eq!(bench.bytes_sent() - sent, LEN - torn);
    read_all(&cache, "missing", LEN).await;
    assert_eq!(bench.bytes_sent() - sent, LEN - torn + LEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_keeps_its_size_and_files_in_use() {
    let bench = Bench::new(64 * MIB, 10 * MIB);
    let cache = bench.mount();
    let in_use = object(&cache, "used", 4 * MIB);
    read_all(&cache, "used", 4 * MIB).await;
    cache.settle().await;
    for n in 0..5 {
        read_all(&cache, &format!("{n}"), 4 * MIB).await;
        cache.settle().await;
        assert!(cache.stats().disk.bytes <= 10 * MIB);
    }
    assert!(in_use.resident_on_disk());
    // Least recently used first: the last one is there, the first is not.
    assert!(object(&cache, "4", 4 * MIB).resident_on_disk());
    assert!(!object(&cache, "0", 4 * MIB).resident_on_disk());
    let on_disk: u64 = bench
        .files()
        .iter()
        .map(|path| std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap()) * 512)
        .sum();
    assert!(on_disk <= 10 * MIB + 64 * KIB, "{on_disk} bytes are allocated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_larger_than_the_cache_is_read_all_the_same() {
    let bench = Bench::new(64 * MIB, 3 * MIB);
    let cache = bench.mount();
    read_all(&cache, "a", 9 * MIB).await;
    cache.settle().await;
    let stats = cache.stats();
    assert!(stats.disk.bytes <= 3 * MIB);
    assert!(stats.disk.skipped + stats.disk.evicted >= 6 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_skipped() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let counters = Arc::new(Counters::default());
    let mut tier =
        DiskTier::open(bench.dir.path(), 100 * MIB, bench.journal(), counters.clone()).unwrap();
    tier.write = |_, _, _, _| Err(io::ErrorKind::StorageFull.into());
    let runtime = tokio::runtime::Handle::current();
    let (store, budget) = (bench.store(), bench.budget.clone());
    let tier = Some(Arc::new(tier));
    let integrity = crate::cache::shared::Integrity::new(None);
    let cache =
        Cache::over(store, budget, bench.settings(), runtime, counters, tier, integrity).unwrap();
    read_all(&cache, "a", 2 * MIB).await;
    cache.settle().await;
    let stats = cache.stats();
    assert_eq!((stats.disk.bytes, stats.disk.skipped), (0, 2 * MIB));
    assert!(stats.disk.write_failures > 0);
    assert!(!object(&cache, "a", 2 * MIB).resident_on_disk());
}

/// While what it was given turns out wrong. When it goes on, nothing of that is believed to be there.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_keeps_nothing_wrong() {
    static HANGS: AtomicBool = AtomicBool::new(true);
    const LEN: u64 = 20 * MIB;
    let bench = Bench::new(128 * MIB, 200 * MIB);
    let counters = Arc::new(Counters::default());
    let mut tier =
        DiskTier::open(bench.dir.path(), 200 * MIB, bench.journal(), counters.clone()).unwrap();
    tier.write = |file, bytes, offset, route| {
        while HANGS.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        file.write(bytes, offset, route)
    };
    let runtime = tokio::runtime::Handle::current();
    let settings = CacheSettings { deadline: Duration::from_millis(300), ..bench.settings() };
    let integrity = crate::cache::shared::Integrity::new(None);
    let (store, budget, tier) = (bench.store(), bench.budget.clone(), Some(Arc::new(tier)));
    let cache = Cache::over(store, budget, settings, runtime, counters, tier, integrity).unwrap();
    bench.store.on("GetObject").times(1).then(Fault::Flipped);
    let file = object(&cache, "a", LEN);
    let sum =
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content(ByteRange::new(0, LEN)));
    file.core().promise_whole(Some(ObjectSum::Crc64Nvme(sum)));
    assert!(file.read(ByteRange::new(0, LEN), soon()).await.is_err());
    HANGS.store(false, Ordering::SeqCst);
    cache.settle().await;
    let written = std::fs::read(bench.files().pop().unwrap()).unwrap();
    let recorded = file.core().disk.as_ref().unwrap().stretches_within(ByteRange::new(0, LEN));
    assert!(!recorded.is_empty(), "what was right is kept");
    for stretch in recorded {
        let range = ByteRange::at(stretch.at, stretch.len);
        let bytes = &written[range.start() as usize..range.end() as usize];
        assert!(bytes == content(range), "{range:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_around_the_page_cache_comes_back_checked() {
    const LEN: u64 = 24 * MIB + 5;
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    read_all(&cache, "a", LEN).await;
    cache.settle().await;
    assert!(cache.stats().disk.written_direct > 0, "a large object, and nothing went around");
    let file = object(&cache, "a", LEN);
    assert!(file.passthrough_file().await.is_some());
    drop((file, cache));
    let cache = remount(&bench).await;
    let sent = bench.bytes_sent();
    read_all(&cache, "a", LEN).await;
    assert_eq!(bench.bytes_sent(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_around_the_page_cache_is_checked_in_the_same_mount() {
    const LEN: u64 = 20 * MIB;
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    // Not all of it, so that it is left alone when all is quiet.
    let file = object(&cache, "a", LEN + MIB);
    let range = ByteRange::new(0, LEN);
    drop(file.read(range, soon()).await.unwrap());
    cache.settle().await;
    let around = cache.stats().disk.written_direct;
    assert!(around > 0, "a large object, and nothing went around");
    let path = bench.files().pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.iter_mut().step_by(MIB as usize / 2).for_each(|byte| *byte ^= 1);
    std::fs::write(&path, bytes).unwrap();
    eventually("memory is empty", || bench.budget.try_reserve(64 * MIB).is_some()).await;
    let sent = bench.bytes_sent();
    assert_eq!(
        file.read(ByteRange::new(0, 1), soon()).await.unwrap().as_ref(),
        content(ByteRange::new(0, 1))
    );
    assert_eq!(cache.stats().disk.bad_ranges, 1);
    assert!(bench.bytes_sent() > sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bypassed_the_page_cache_is_read_back_when_idle() {
    const LEN: u64 = 20 * MIB + 5;
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    read_all(&cache, "a", LEN).await;
    cache.settle().await;
    assert!(cache.stats().disk.written_direct > 0, "a large object, and nothing went around");
    let file = object(&cache, "a", LEN);
    eventually("checked", || file.is_verified_on_disk()).await;
    assert_eq!(cache.stats().disk.bad_ranges, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_object_is_never_served_from_old_ranges() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    read_all(&cache, "a", MIB).await;
    cache.settle().await;
    let new = cache.object(&Key::from("a"), &ETag::new("v2"), MIB);
    assert!(new.read_now(ByteRange::new(0, 1)).is_none());
    cache.forget_version(&Key::from("a"), &ETag::new("v1"));
    cache.settle().await;
    assert_eq!((cache.stats().disk.bytes, bench.files().len()), (0, 0));
    assert_eq!(cache.stats().memory_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_version_stays_for_its_last_user() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    let old = object(&cache, "a", MIB);
    read_all(&cache, "a", MIB).await;
    cache.settle().await;
    cache.forget_version(&Key::from("a"), &ETag::new("v1"));
    let gets = bench.gets().len();
    assert!(old.read(ByteRange::new(5, 500), soon()).await.is_ok());
    assert_eq!(bench.gets().len(), gets);
    drop(old);
    cache.settle().await;
    assert_eq!(bench.files().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn residency_follows_a_rename_and_outlives_a_remount() {
    const LEN: u64 = 2 * MIB;
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    let open = object(&cache, "a", LEN);
    read_all(&cache, "a", LEN).await;
    cache.settle().await;
    let (old, new) = (ETag::new("v1"), ETag::new("v9"));
    cache.rename_key(&Key::from("a"), &old, &Key::from("b"), &new);
    assert_eq!((open.key(), open.etag()), (Key::from("b"), new.clone()));
    assert!(Arc::ptr_eq(&cache.object(&Key::from("b"), &new, LEN), &open));
    cache.settle().await;
    drop((open, cache));
    let cache = remount(&bench).await;
    let file = cache.object(&Key::from("b"), &new, LEN);
    file.read(ByteRange::new(0, LEN), soon()).await.unwrap();
    assert_eq!(bench.gets().len(), 1);
    assert!(!object(&cache, "a", LEN).resident_on_disk());
    assert_eq!(bench.files().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sleeping_objects_are_counted_woken_and_evicted() {
    let bench = Bench::new(64 * MIB, 6 * MIB);
    let cache = bench.mount();
    for name in ["a", "b", "c", "d"] {
        read_all(&cache, name, MIB).await;
        on_disk(&cache, name, MIB).await;
    }
    drop(cache);
    let cache = remount(&bench).await;
    assert_eq!((cache.stats().disk.objects, cache.stats().disk.bytes), (4, 4 * MIB));
    // Used, and so newer than those that sleep on: of those the oldest goes.
    read_all(&cache, "a", MIB).await;
    read_all(&cache, "large", 3 * MIB).await;
    on_disk(&cache, "large", 3 * MIB).await;
    assert!(object(&cache, "a", MIB).resident_on_disk());
    assert!(!object(&cache, "b", MIB).resident_on_disk());
    assert!(object(&cache, "d", MIB).resident_on_disk());
    cache.forget_version(&Key::from("c"), &ETag::new("v1"));
    cache.settle().await;
    assert_eq!(cache.stats().disk.objects, bench.files().len() as u64);
    // Of the oldest as much has gone as had to: perhaps not all.
    assert!((3..=4).contains(&(cache.clear().await.objects as usize + bench.files().len())));
}

#[tokio::test(flavor = "multi_thread")]
async fn clearing_leaves_only_what_is_in_use() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    let used = object(&cache, "used", MIB);
    for name in ["used", "idle"] {
        read_all(&cache, name, MIB).await;
        on_disk(&cache, name, MIB).await;
    }
    let report = cache.clear().await;
    assert_eq!(report, ClearReport { objects: 1, bytes: MIB, objects_in_use: 1 });
    assert!(used.resident_on_disk());
    assert_eq!(bench.files().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_record_is_swept_away() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    read_all(&cache, "a", MIB).await;
    on_disk(&cache, "a", MIB).await;
    drop(cache);
    // An id that this journal handed out and that no record names.
    let orphan = bench.dir.path().join("objects/00/0000000000000000");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "left behind").unwrap();
    let cache = remount(&bench).await;
    eventually("the sweep", || !orphan.exists()).await;
    let gets = bench.gets().len();
    read_all(&cache, "a", MIB).await;
    assert_eq!(bench.gets().len(), gets);
}
