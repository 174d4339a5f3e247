//! Cache files that others delete, cut, extend, replace and change: what is read is right all the same.

use std::os::unix::fs::FileExt;

use super::*;
use crate::cache::disk::DiskTier;
use crate::store::{Precondition, Store as _, Summed, WriteOptions};

const LEN: u64 = 6 * MIB;

/// What it is called, and how it is done to a file.
type Damage = (&'static str, fn(&Path));

/// All of the object's bytes on the disk, and none in memory.
async fn only_on_disk(bench: &Bench, cache: &Arc<Cache>, name: &str, len: u64) {
    read_all(cache, name, len).await;
    on_disk(cache, name, len).await;
    forget_memory(bench).await;
}

async fn forget_memory(bench: &Bench) {
    let all = bench.budget.total();
    eventually("memory is empty", || bench.budget.try_reserve(all).is_some()).await;
}

fn tier(cache: &Cache) -> &Arc<DiskTier> {
    cache.shared.disk.as_ref().unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_reader_drops_no_other_gets() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    only_on_disk(&bench, &cache, "a", LEN).await;
    let path = bench.files().pop().unwrap();
    (0..LEN / MIB).for_each(|range| flip(&path, range * MIB + 77));
    // Planned before one of them found it bad, read after.
    let file = object(&cache, "a", LEN);
    let disk = tier(&cache).object(&Key::from("a"), &ETag::new("v1"), LEN);
    let open = Arc::new(tier(&cache).open_for_reading(&disk).unwrap());
    let mut bytes = vec![0; MIB as usize];
    for _ in 0..2 {
        let part = ByteRange::new(0, MIB);
        assert_eq!(tier(&cache).read(&disk, &open, part, &mut bytes), None);
        assert!(tier(&cache).verified(&disk, &open).is_none());
    }
    assert_eq!(cache.stats().disk.bad_ranges, 1);
    assert!(tier(&cache).verify(&disk, &open).is_none());
    assert!(file.passthrough_file().await.is_none());
    read_all(&cache, "a", LEN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_damaged_file_get_its_bytes() {
    for missing in [false, true] {
        let bench = Bench::new(64 * MIB, 100 * MIB);
        let cache = bench.mount();
        only_on_disk(&bench, &cache, "a", LEN).await;
        drop(cache);
        let path = bench.files().pop().unwrap();
        if missing {
            std::fs::remove_file(&path).unwrap();
        } else {
            (0..LEN / MIB).for_each(|range| flip(&path, range * MIB + 77));
        }
        let cache = remount(&bench).await;
        let readers = (0..8).map(|_| {
            let file = object(&cache, "a", LEN);
            tokio::spawn(async move {
                for offset in (0..LEN).step_by(128 << 10) {
                    let range = ByteRange::at(offset, 128 * KIB);
                    let piece = match file.read_now(range) {
                        Some(piece) => piece,
                        None => file.read(range, soon()).await.unwrap(),
                    };
                    assert!(piece.as_ref() == content(range), "at {offset}");
                }
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            reader.await.unwrap();
        }
        on_disk(&cache, "a", LEN).await;
        let again = object(&cache, "a", LEN).passthrough_file().await.unwrap();
        assert!(bytes_of(&again) == content(ByteRange::new(0, LEN)));
    }
}

/// Under a mount: what was good in the file before says nothing of the one that is there now.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_taken_away_while_it_grows_is_begun_anew() {
    let taken: [Damage; 4] = [
        ("deleted", |path| std::fs::remove_file(path).unwrap()),
        ("cut", |path| std::fs::File::create(path).map(drop).unwrap()),
        ("replaced", |path| {
            let other = path.with_extension("other");
            std::fs::write(&other, vec![7; LEN as usize]).unwrap();
            std::fs::rename(&other, path).unwrap();
        }),
        ("a pipe", |path| {
            std::fs::remove_file(path).unwrap();
            let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        }),
    ];
    for (what, take) in taken {
        let bench = Bench::new(64 * MIB, 100 * MIB);
        let cache = bench.mount();
        let first = ByteRange::new(0, 2 * MIB);
        let check = |file: Arc<CachedObject>, range: ByteRange| async move {
            let piece = file.read(range, soon()).await.unwrap();
            assert!(piece.as_ref() == content(range), "{what}");
        };
        check(object(&cache, "a", LEN), first).await;
        cache.settle().await;
        forget_memory(&bench).await;
        // Off the disk, so that it is marked as good.
        check(object(&cache, "a", LEN), first).await;
        take(&bench.files().pop().unwrap());
        // Another file in between, so that the worker opens this one again.
        read_all(&cache, "b", MIB).await;
        check(object(&cache, "a", LEN), ByteRange::new(3 * MIB, 4 * MIB)).await;
        cache.settle().await;
        forget_memory(&bench).await;
        check(object(&cache, "a", LEN), first).await;
        check(object(&cache, "a", LEN), ByteRange::new(0, LEN)).await;
        on_disk(&cache, "a", LEN).await;
        forget_memory(&bench).await;
        let sent = bench.bytes_sent();
        check(object(&cache, "a", LEN), ByteRange::new(0, LEN)).await;
        assert_eq!(bench.bytes_sent(), sent, "{what}: not on the disk again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_longer_than_its_object_is_cut_before_it_is_used() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    only_on_disk(&bench, &cache, "a", LEN).await;
    drop(cache);
    let path = bench.files().pop().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"not of this object", LEN).unwrap();
    let cache = remount(&bench).await;
    let file = object(&cache, "a", LEN).passthrough_file().await.unwrap();
    assert!(bytes_of(&file) == content(ByteRange::new(0, LEN)));
    assert_eq!(bench.bytes_sent(), LEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_the_place_of_a_cache_file_is_no_cache_file() {
    let places: [Damage; 3] = [
        ("a pipe", |path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("a folder", |path| std::fs::create_dir(path).unwrap()),
        ("a link", |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
    ];
    for (what, make) in places {
        let bench = Bench::new(64 * MIB, 100 * MIB);
        let cache = bench.mount();
        only_on_disk(&bench, &cache, "a", LEN).await;
        drop(cache);
        let path = bench.files().pop().unwrap();
        std::fs::remove_file(&path).unwrap();
        make(&path);
        let cache = remount(&bench).await;
        assert!(object(&cache, "a", LEN).passthrough_file().await.is_none(), "{what}");
        read_all(&cache, "a", LEN).await;
        cache.settle().await;
        if what == "a link" {
            assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink(), "written through");
        } else {
            on_disk(&cache, "a", LEN).await;
        }
    }
}

/// Ranges begin and end anywhere in a block; what they take is given back to the byte.
#[tokio::test(flavor = "multi_thread")]
async fn the_count_of_the_disk_is_the_sum_of_its_ranges() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    for (start, end) in [(5, 3 * MIB + 1000), (3 * MIB + 70_000, 5 * MIB + 9), (6 * MIB - 3, LEN)] {
        object(&cache, "a", LEN).read(ByteRange::new(start, end), soon()).await.unwrap();
        cache.settle().await;
    }
    let counted = cache.stats().disk.bytes;
    assert!((4 * MIB..6 * MIB).contains(&counted), "{counted}");
    drop(cache);
    let cache = remount(&bench).await;
    assert_eq!(cache.stats().disk.bytes, counted, "the same after a remount");
    let path = bench.files().pop().unwrap();
    (0..5).for_each(|range| flip(&path, range * MIB + 900_000));
    let report = cache.verify().await.unwrap();
    assert!(report.bad_ranges >= 3, "{report:?}");
    cache.forget_version(&Key::from("a"), &ETag::new("v1"));
    cache.settle().await;
    assert_eq!(cache.stats().disk.bytes, 0);
}

/// Bits that turn on the way from the store, once and each time.
async fn a_turned_bit_is_fetched_again_or_an_error(
    bench: &Bench,
    cache: &Cache,
    file: &CachedObject,
) {
    let len = file.len();
    let whole = ByteRange::new(0, len);
    let turned = bench.store.on("GetObject").always().then(Fault::Flipped);
    let before = bench.gets().len();
    let error = file.read(whole, soon()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    assert_eq!(bench.gets().len() - before, 2, "fetched again once");
    cache.settle().await;
    assert_eq!(file.cached_ranges(), [], "nothing of it is kept");
    // Nor is a piece, which could not be compared by itself.
    assert!(file.read(ByteRange::at(len / 2, 1), soon()).await.is_err());
    turned.lift();
    let turned = bench.store.on("GetObject").then(Fault::Flipped);
    assert!(file.read(whole, soon()).await.unwrap().as_ref() == content(whole));
    assert_eq!(turned.left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_object_is_compared_with_its_md5() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let (key, whole) = (Key::from("a"), ByteRange::new(0, MIB + 5));
    let (bytes, options) = (Summed::of(content(whole)), WriteOptions::default());
    let etag = bench.store.put(&key, bytes, &options, &Precondition::None).await.unwrap();
    let cache = bench.mount();
    let file = cache.object(&key, &etag, whole.len());
    a_turned_bit_is_fetched_again_or_an_error(&bench, &cache, &file).await;
}

/// The cache knows what they were.
#[tokio::test(flavor = "multi_thread")]
async fn what_replaces_damaged_bytes_is_compared_with_them() {
    for missing in [false, true] {
        let bench = Bench::new(64 * MIB, 100 * MIB);
        let cache = bench.mount();
        let len = 100 * KIB;
        only_on_disk(&bench, &cache, "a", len).await;
        drop(cache);
        let path = bench.files().pop().unwrap();
        if missing {
            std::fs::remove_file(&path).unwrap()
        } else {
            flip(&path, 77)
        }
        let cache = remount(&bench).await;
        let file = object(&cache, "a", len);
        a_turned_bit_is_fetched_again_or_an_error(&bench, &cache, &file).await;
        drop(file);
        // What was compared once is known no longer: no other GET is held back by it.
        forget_memory(&bench).await;
        read_all(&cache, "a", len).await;
    }
}

/// A small read of damaged bytes fetches as much as can be compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_piece_of_damaged_bytes_is_fetched_with_the_rest() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    only_on_disk(&bench, &cache, "a", 100 * KIB).await;
    flip(&bench.files().pop().unwrap(), 77);
    let gets = bench.gets().len();
    drop(cache);
    let cache = remount(&bench).await;
    let range = ByteRange::at(50 * KIB, KIB);
    let piece = object(&cache, "a", 100 * KIB).read(range, soon()).await.unwrap();
    assert!(piece.as_ref() == content(range));
    assert_eq!(bench.gets()[gets..], [ByteRange::new(0, 100 * KIB)]);
}

/// A reader that is late to find them bad does not drop what has come in their place, which looks the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_replaced_damaged_bytes_is_not_dropped_for_them() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let cache = bench.mount();
    only_on_disk(&bench, &cache, "a", 100 * KIB).await;
    let disk = tier(&cache).object(&Key::from("a"), &ETag::new("v1"), 100 * KIB);
    let (start, stored) = disk.stored_in(disk.whole())[0];
    for _ in 0..2 {
        tier(&cache).drop_range(&disk, start, &stored, "told twice");
        read_all(&cache, "a", 100 * KIB).await;
        on_disk(&cache, "a", 100 * KIB).await;
        forget_memory(&bench).await;
    }
    assert_eq!(cache.stats().disk.bad_ranges, 1);
    assert_eq!(bench.gets().len(), 2);
}
