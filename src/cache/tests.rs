//! The cache over a store in memory that counts, holds back and breaks its answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::Instant;
use crate::journal::Identity;
use crate::range::ByteRange;
use crate::reader::Reader;
use crate::store::memory::{Fault, MemoryStore, Shape, Tap};
use crate::store::{ErrorKind, Outage, SharedStore};

mod damage;
mod disk;
mod promises;
mod stamps;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What every object holds at `range`.
fn content(range: ByteRange) -> Vec<u8> {
    // Word by word: the tests spend most of their time here.
    let words = range.start() / 8..range.end().div_ceil(8);
    let mut bytes: Vec<u8> = Vec::with_capacity(range.len() as usize + 16);
    for word in words {
        bytes.extend_from_slice(&word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    bytes.drain(..(range.start() % 8) as usize);
    bytes.truncate(range.len() as usize);
    bytes
}

/// A cache, its store, and what a remount needs.
struct Bench {
    store: MemoryStore,
    budget: Arc<Budget>,
    dir: TempDir,
    disk_bytes_max: u64,
}

impl Bench {
    fn new(memory_bytes: u64, disk_bytes_max: u64) -> Self {
        Bench {
            store: MemoryStore::of(Shape { unwritten: Some(content), ..Shape::default() }),
            budget: Budget::new(memory_bytes),
            dir: tempfile::tempdir().unwrap(),
            disk_bytes_max,
        }
    }

    fn journal(&self) -> Arc<Journal> {
        Journal::open(self.dir.path(), &identity()).unwrap().0
    }

    fn settings(&self) -> CacheSettings {
        CacheSettings {
            dir: Some(self.dir.path().to_owned()),
            disk_bytes_max: self.disk_bytes_max,
            fetch_bytes_max: 8 * MIB,
            concurrency: 16,
            deadline: Duration::from_secs(20),
            meter: Arc::default(),
            outage: Outage::default(),
        }
    }

    fn mount(&self) -> Arc<Cache> {
        let journal = (self.disk_bytes_max > 0).then(|| self.journal());
        Cache::open(self.store(), journal, self.budget.clone(), self.settings()).unwrap()
    }

    fn store(&self) -> SharedStore {
        Arc::new(self.store.clone())
    }

    fn gets(&self) -> Vec<ByteRange> {
        self.store.requests().into_iter().filter_map(|request| request.range).collect()
    }

    fn bytes_sent(&self) -> u64 {
        self.store.bytes_down()
    }

    /// Holds back each body behind so many bytes.
    fn hold_back(&self, bytes: u64) -> Tap {
        let tap = Tap::of(bytes);
        self.store.on("GetObject").always().then(Fault::Trickles(tap.clone()));
        tap
    }

    /// The files of the disk tier.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in std::fs::read_dir(self.dir.path().join("objects")).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                found.push(file.unwrap().path());
            }
        }
        found
    }
}

fn identity() -> Identity {
    Identity {
        bucket: "bucket".into(),
        endpoint: "http://localhost".into(),
        prefix: Key::default(),
    }
}

/// A mount after the last one is gone: the folder's lock is free once its disk worker has ended.
async fn remount(bench: &Bench) -> Arc<Cache> {
    let identity = identity();
    let mut journal = None;
    eventually("the old mount lets go", || {
        journal = Journal::open(bench.dir.path(), &identity).ok().map(|(journal, _)| journal);
        journal.is_some()
    })
    .await;
    Cache::open(bench.store(), journal, bench.budget.clone(), bench.settings()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn object(cache: &Arc<Cache>, name: &str, len: u64) -> Arc<CachedObject> {
    cache.object(&Key::from(name), &ETag::new("v1"), len)
}

/// All that the kernel would read of a file that it is given.
fn bytes_of(file: &VerifiedFile) -> Vec<u8> {
    use std::os::fd::AsFd;

    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(file.as_fd().try_clone_to_owned().unwrap());
    io::Seek::rewind(&mut file).unwrap();
    io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

/// A transfer hands its last bytes to the disk after the reader has them.
async fn on_disk(cache: &Arc<Cache>, name: &str, len: u64) {
    eventually("on the disk", || object(cache, name, len).resident_on_disk()).await;
    cache.settle().await;
}

async fn read_all(cache: &Arc<Cache>, name: &str, len: u64) {
    let file = object(cache, name, len);
    let piece = file.read(ByteRange::new(0, len), soon()).await.unwrap();
    assert!(piece.as_ref() == content(ByteRange::new(0, len)));
}

/// Waits for something that other tasks bring about.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_read_is_one_small_get_and_then_a_memory_hit() {
    let bench = Bench::new(64 * MIB, 0);
    let cache = bench.mount();
    let file = object(&cache, "a", 100 * MIB);
    let range = ByteRange::at(33 * MIB + 5, 4 * KIB);
    assert!(file.read_now(range).is_none());
    assert_eq!(file.read(range, soon()).await.unwrap().as_ref(), content(range));
    assert_eq!(bench.gets(), [range]);
    assert_eq!(file.read_now(range).unwrap().as_ref(), content(range));
    assert_eq!(bench.gets().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_its_bytes_while_the_rest_is_held_back() {
    let bench = Bench::new(64 * MIB, 0);
    let tap = bench.hold_back(128 * KIB);
    let cache = bench.mount();
    let file = object(&cache, "a", 8 * MIB);
    let (_interests, _) = file.want(ByteRange::new(0, 8 * MIB), 8 * MIB, Urgency::Ahead);
    let first = ByteRange::new(0, 4 * KIB);
    assert_eq!(file.read(first, soon()).await.unwrap().as_ref(), content(first));
    assert!(file.read_now(ByteRange::at(MIB, 4 * KIB)).is_none());
    let error = file.read(ByteRange::at(MIB, 1), Instant::now() + Duration::from_millis(50)).await;
    assert_eq!(error.err().unwrap().kind, ErrorKind::Timeout);
    tap.let_out(u64::MAX);
    let last = ByteRange::new(8 * MIB - 10, 8 * MIB);
    assert_eq!(file.read(last, soon()).await.unwrap().as_ref(), content(last));
    assert_eq!(bench.gets(), [ByteRange::new(0, 8 * MIB)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_readers_of_a_cold_file_fetch_it_once() {
    const LEN: u64 = 12 * MIB + 77;
    let bench = Bench::new(256 * MIB, 0);
    let cache = bench.mount();
    let readers = (0..16).map(|_| {
        let reader = Reader::new(object(&cache, "a", LEN));
        tokio::spawn(async move {
            for offset in (0..LEN).step_by(128 << 10) {
                let piece = match reader.read_now(offset, 128 * KIB) {
                    Some(piece) => piece,
                    None => reader.read(offset, 128 * KIB, soon()).await.unwrap(),
                };
                let expected = content(ByteRange::new(offset, (offset + 128 * KIB).min(LEN)));
                assert!(piece.as_ref() == expected, "at {offset}");
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    assert_eq!(bench.bytes_sent(), LEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_that_almost_touch_are_one_get() {
    let bench = Bench::new(64 * MIB, 0);
    let cache = bench.mount();
    let file = object(&cache, "a", MIB);
    file.read(ByteRange::at(64 * KIB, 4 * KIB), soon()).await.unwrap();
    file.read(ByteRange::at(200 * KIB, 4 * KIB), soon()).await.unwrap();
    let range = ByteRange::new(0, 300 * KIB);
    assert_eq!(file.read(range, soon()).await.unwrap().as_ref(), content(range));
    assert_eq!(bench.gets()[2..], [range]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fetch_fails_its_waiters_and_is_not_remembered() {
    let bench = Bench::new(64 * MIB, 0);
    let cache = bench.mount();
    let file = object(&cache, "a", 8 * MIB);
    let failing = bench.store.on("GetObject").always();
    let failing = failing.then(Fault::Refused(ErrorKind::PreconditionFailed));
    let range = ByteRange::at(0, MIB);
    for _ in 0..2 {
        let error = file.read(range, soon()).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::PreconditionFailed);
    }
    failing.lift();
    assert_eq!(file.read(range, soon()).await.unwrap().as_ref(), content(range));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_before_a_failure_is_not_fetched_again() {
    let bench = Bench::new(64 * MIB, 0);
    let cache = bench.mount();
    let file = object(&cache, "a", 8 * MIB);
    let short = bench.store.on("GetObject").always();
    let short = short.then(Fault::Short(MIB, ErrorKind::Transient));
    file.read(ByteRange::new(0, 2 * MIB), soon()).await.err().unwrap();
    short.lift();
    let range = ByteRange::new(0, 2 * MIB);
    assert_eq!(file.read(range, soon()).await.unwrap().as_ref(), content(range));
    assert_eq!(bench.gets(), [range, ByteRange::new(MIB, 2 * MIB)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_without_readers_is_dropped() {
    let bench = Bench::new(64 * MIB, 0);
    let _tap = bench.hold_back(64 * KIB);
    let cache = bench.mount();
    let reader = Reader::new(object(&cache, "a", 64 * MIB));
    reader.read(0, 4 * KIB, soon()).await.unwrap();
    assert_eq!(cache.stats().fetches_dropped, 0);
    drop(reader);
    eventually("the drop", || cache.stats().fetches_dropped == 1).await;
    eventually("only what arrived is held", || bench.budget.used() <= MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_reader_goes_before_queued_readahead() {
    let bench = Bench::new(512 * MIB, 0);
    let tap = bench.hold_back(0);
    let cache = bench.mount();
    let busy = object(&cache, "busy", 64 * MIB);
    let _held = busy.want(ByteRange::new(0, 32 * MIB), 2 * MIB, Urgency::Ahead);
    eventually("all turns are taken", || bench.gets().len() == 16).await;
    let file = object(&cache, "a", MIB);
    let _queued = file.want(ByteRange::new(0, MIB), MIB, Urgency::Ahead);
    let waiting = tokio::spawn(async move { file.read(ByteRange::new(0, 10), soon()).await });
    eventually("the promoted request", || bench.gets().len() == 17).await;
    tap.let_out(u64::MAX);
    assert_eq!(waiting.await.unwrap().unwrap().as_ref(), content(ByteRange::new(0, 10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_streams_finish_with_a_tiny_budget() {
    const LEN: u64 = MIB + 512 * KIB;
    let bench = Bench::new(4 * MIB, 0);
    let cache = bench.mount();
    let most = Arc::new(AtomicU64::new(0));
    let readers = (0..100).map(|n| {
        let reader = Reader::new(object(&cache, &format!("file {n}"), LEN));
        let (most, budget) = (most.clone(), bench.budget.clone());
        tokio::spawn(async move {
            for offset in (0..LEN).step_by(128 << 10) {
                let piece = match reader.read_now(offset, 128 * KIB) {
                    Some(piece) => piece,
                    None => reader.read(offset, 128 * KIB, soon()).await.unwrap(),
                };
                assert!(piece.as_ref() == content(ByteRange::at(offset, 128 * KIB)));
                most.fetch_max(budget.used(), Ordering::Relaxed);
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    // The budget, and an overdraft of one read for each stream.
    let most = most.load(Ordering::Relaxed);
    assert!(most <= 4 * MIB + 100 * 132 * KIB, "{most} bytes were held");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_given_back_when_it_is_needed() {
    let bench = Bench::new(8 * MIB, 0);
    let cache = bench.mount();
    for n in 0..4 {
        read_all(&cache, &format!("{n}"), 4 * MIB).await;
    }
    eventually("all is kept", || bench.budget.used() == 8 * MIB).await;
    assert_eq!(cache.stats().memory_bytes, 8 * MIB);
    let permit = bench.budget.try_reserve(8 * MIB);
    assert!(permit.is_some());
    assert_eq!(cache.stats().memory_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_transfer_is_an_error_of_its_readers() {
    let bench = Bench::new(64 * MIB, 0);
    let cache = bench.mount();
    let object = cache.object(&Key::from("k"), &ETag::new("e"), 4 * MIB);
    bench.store.on("GetObject").always().then(Fault::Panics);
    let read = object.read(ByteRange::new(0, MIB), Instant::now() + Duration::from_secs(20));
    assert_eq!(read.await.err().unwrap().kind, ErrorKind::Invalid);
    assert!(bench.gets().len() < 3, "{:?}", bench.gets());
}
