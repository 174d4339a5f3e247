//! Sending parts over a store that fails in ways that no server can make it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt as _;

use super::{Draft, WriteError, WriterSettings, Writers};
use crate::budget::{Budget, Reclaim};
use crate::cache::{Cache, CacheSettings};
use crate::clock;
use crate::journal::{Extent, Identity, Journal, Life};
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::memory::{Fault, Gate, MemoryStore};
use crate::store::turns::Turns;
use crate::store::{
    ErrorKind, Key, Outage, Precondition, SharedStore, Store, Summed, WriteOptions,
};
use crate::upload::Uploads;

const PART_BYTES: u64 = 1 << 20;

/// A store in which uploading a part panics, and PutObject is never answered.
fn panicking() -> SharedStore {
    let store = MemoryStore::new();
    store.on("UploadPart").always().then(Fault::Panics);
    store.on("PutObject").always().then(Fault::Held(Gate::shut()));
    Arc::new(store)
}

fn writers(store: SharedStore, dir: &std::path::Path) -> Arc<Writers> {
    let identity = Identity { endpoint: "e".into(), bucket: "b".into(), prefix: Key::default() };
    let journal = Journal::open(dir, &identity).unwrap().0;
    let budget = Budget::new(64 << 20);
    let deadline = Duration::from_secs(60);
    let cache = CacheSettings {
        dir: None,
        disk_bytes_max: 0,
        fetch_bytes_max: PART_BYTES,
        concurrency: 4,
        deadline,
        meter: Arc::default(),
        outage: Outage::default(),
    };
    let cache = Cache::open(store.clone(), None, budget.clone(), cache).unwrap();
    let turns = Turns::over(store.clone());
    let uploads = Uploads::new(turns, journal.clone(), Key::from(""), Key::from("aside/"), 0);
    let settings = WriterSettings {
        part_bytes: PART_BYTES,
        equal_parts: false,
        parts_in_flight_max: 4,
        meter: Arc::default(),
        retained_bytes_max: 4 << 20,
        timeout: deadline,
        staging_folder: dir.join("staging"),
        write_back: false,
    };
    let runtime = tokio::runtime::Handle::current();
    Writers::start(store, journal, budget, uploads, cache, settings, runtime)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_part_is_sent_is_the_writers_error() {
    let dir = tempfile::tempdir().unwrap();
    let writers = writers(panicking(), dir.path());
    let draft = Draft::new(&writers, Key::from("k"), None, WriteOptions::default());
    let written = async {
        for part in 0..4 {
            draft.write(part * PART_BYTES, &vec![1; PART_BYTES as usize][..]).await?;
        }
        draft.publish().await.map(|_| ())
    };
    let outcome = clock::timeout(Duration::from_secs(30), written).await;
    let error = outcome.expect("the writer waits for a task that is gone").unwrap_err();
    assert!(matches!(error, WriteError::Panicked), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_dropped_is_none_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let writers = writers(panicking(), dir.path());
    let draft = Draft::new(&writers, Key::from("k"), None, WriteOptions::default());
    draft.write(0, &[1; 1000][..]).await.unwrap();
    let publishing = clock::timeout(Duration::from_millis(100), draft.publish()).await;
    assert!(publishing.is_err(), "answered");
    assert!(!draft.state.lock().transfer.is_publishing);
    // No lock was taken along.
    clock::timeout(Duration::from_secs(5), draft.write(0, &[2; 10][..])).await.unwrap().unwrap();
}

/// The store verifies no checksum, and each attempt brought other bytes: its answer shows that, its object does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_damaged_is_not_the_file_by_its_mark() {
    let (key, store, dir) = (Key::from("k"), MemoryStore::new(), tempfile::tempdir().unwrap());
    let writers = writers(Arc::new(store.clone()), dir.path());
    let draft = Draft::new(&writers, key.clone(), None, WriteOptions::default());
    draft.write(0, &[1; 1000][..]).await.unwrap();
    store.on("PutObject").then(Fault::Lost(ErrorKind::Corrupt));
    let error = draft.publish().await.unwrap_err();
    assert!(error.is_passing(), "it is tried again: {error}");
    let metadata = store.head(&key).await.unwrap().metadata;
    let marked = WriteOptions { metadata, ..WriteOptions::default() };
    store.put(&key, Summed::of(vec![2; 1000]), &marked, &Precondition::None).await.unwrap();

    let published = draft.publish().await.unwrap().unwrap();
    let body = store.get(&key, ByteRange::new(0, 1000), &published.etag).await.unwrap();
    let chunks: Vec<bytes::Bytes> = body.bytes.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), [1; 1000]);
}

/// Writes, cuts and reads go on while the file is staged and sealed, over and over.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_it_is_staged_is_not_lost() {
    const LEN: usize = 3 << 20;
    let dir = tempfile::tempdir().unwrap();
    let writers = writers(Arc::new(MemoryStore::new()), dir.path());
    let draft = Draft::new(&writers, Key::from("k"), None, WriteOptions::default());
    draft.state.lock().content.is_readable = true;
    let stages = Arc::new(AtomicUsize::new(0));
    let staging = tokio::spawn({
        let (draft, stages) = (draft.clone(), stages.clone());
        async move {
            loop {
                let moved = draft.blocking(super::content::stage::stage_oldest).await.unwrap();
                draft.sync().await.unwrap();
                stages.fetch_add(usize::from(moved > 0), Ordering::Relaxed);
            }
        }
    });
    let (mut model, mut random) = (Vec::new(), 1_u64);
    let mut rounds = 0;
    while rounds < 300 || stages.load(Ordering::Relaxed) < 20 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (random >> 33) as usize % LEN;
        if rounds % 17 == 0 {
            model.resize(at, 0);
            draft.truncate(at as u64).await.unwrap();
        }
        let bytes = vec![rounds as u8; 1 + (random >> 20) as usize % 200_000];
        model.resize(model.len().max(at + bytes.len()), 0);
        model[at..at + bytes.len()].copy_from_slice(&bytes);
        draft.write(at as u64, &bytes[..]).await.unwrap();
        let read = draft.read(ByteRange::new(0, u64::MAX)).await.unwrap();
        assert!(read == model, "round {rounds}");
        rounds += 1;
    }
    staging.abort();
    let _ = staging.await;
    let published = draft.publish().await.unwrap().unwrap();
    let whole = ByteRange::new(0, published.len);
    let body = writers.store.get(&published.key, whole, &published.etag).await.unwrap();
    let pieces: Vec<bytes::Bytes> = body.bytes.try_collect().await.unwrap();
    assert!(pieces.concat() == model);
}

/// Bytes that only the store has are read by several at once, and the file is closed meanwhile: each has the draft made
/// an object, which happens once.
#[tokio::test(flavor = "multi_thread")]
async fn several_that_read_a_stream_have_it_published_once() {
    for closes in [false, true] {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let writers = writers(Arc::new(store.clone()), dir.path());
        let draft = Draft::new(&writers, Key::from("k"), None, WriteOptions::default());
        for part in 0..8 {
            draft.write(part * PART_BYTES, &vec![1; PART_BYTES as usize][..]).await.unwrap();
        }
        while !draft.needs_the_store() {
            clock::sleep(Duration::from_millis(1)).await;
        }
        let held = Gate::shut();
        store.on("CompleteMultipartUpload").then(Fault::Held(held.clone()));
        let (whole, first) = (ByteRange::new(0, 8 * PART_BYTES), ByteRange::new(0, 10));
        let closed = async {
            if closes {
                draft.publish().await.unwrap();
            }
        };
        // All are asked before the store answers.
        let opened = async { held.open() };
        let (one, two, (), ()) = tokio::join!(draft.read(whole), draft.read(whole), closed, opened);
        assert_eq!((one.unwrap().len(), two.unwrap().len()), (8 << 20, 8 << 20));
        assert_eq!(store.count("CompleteMultipartUpload"), 1);
        // Its writer goes on.
        draft.write(3, &[2; 4][..]).await.unwrap();
        assert_eq!(draft.read(first).await.unwrap(), [1, 1, 1, 2, 2, 2, 2, 1, 1, 1]);
        draft.publish().await.unwrap().unwrap();
    }
}

/// What the journal knows of a draft's life, and that the draft takes itself for the same.
fn life_of(draft: &Draft) -> Option<Life<()>> {
    let here = draft.state.lock().life.as_ref().map(|_| ());
    let journal = &draft.writers.journal;
    let there = journal.read(|state| Some(state.drafts.get(&draft.id)?.life.as_ref().map(|_| ())));
    assert_eq!(there, here.is_recorded().then_some(here));
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_what_its_records_make_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let writers = writers(Arc::new(MemoryStore::new()), dir.path());
    let new = || Draft::new(&writers, Key::from("k"), None, WriteOptions::default());
    // Longer than what the journal holds of a file.
    let bytes = vec![1; 100_000];
    let draft = new();
    assert_eq!(life_of(&draft), None);
    draft.write(0, &bytes[..]).await.unwrap();
    assert_eq!(life_of(&draft), None);
    draft.sync().await.unwrap();
    assert_eq!(life_of(&draft), Some(Life::Synced(())));
    draft.close_locally().await.unwrap();
    assert_eq!((life_of(&draft), draft.is_closed()), (Some(Life::Closed(())), true));
    draft.write(7, &bytes[..]).await.unwrap();
    draft.sync().await.unwrap();
    // The promise stands, but its writer is at it again.
    assert_eq!((life_of(&draft), draft.is_closed()), (Some(Life::Closed(())), false));
    let (id, state) = {
        let id = draft.id;
        drop(draft);
        (id, writers.journal.read(|state| state.drafts[&id].clone()))
    };
    let draft = Draft::restore(&writers, id, &state, None).unwrap();
    assert_eq!((life_of(&draft), draft.is_closed()), (Some(Life::Closed(())), true));
    draft.publish().await.unwrap().unwrap();
    assert_eq!((life_of(&draft), draft.is_dirty()), (None, false));

    // An fsync that was under way when the file lost its name brings nothing of it back.
    let draft = new();
    draft.write(0, &bytes[..]).await.unwrap();
    draft.sync().await.unwrap();
    draft.forbid_publishing().unwrap();
    draft.write(9, &bytes[..]).await.unwrap();
    draft.sync().await.unwrap();
    assert_eq!(life_of(&draft), Some(Life::Unlinked(Extent::Recorded)));
    assert!(draft.publish().await.is_err());
    draft.discard().await.unwrap();
    assert_eq!(life_of(&draft), None);
}

/// Memory is asked for under locks, among them those that a draft's end takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_may_end_while_memory_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let writers = writers(Arc::new(MemoryStore::new()), dir.path());
    let asked = writers.clone();
    let (asking, stopped) = (Mutex::<(), rank::Waiters>::new(()), Arc::new(AtomicUsize::new(0)));
    let stop = stopped.clone();
    let asker = std::thread::spawn(move || {
        while stop.load(Ordering::Relaxed) == 0 {
            let _held = asking.lock();
            asked.reclaim(1);
        }
    });
    for _ in 0..20_000 {
        drop(Draft::new(&writers, Key::from("k"), None, WriteOptions::default()));
    }
    stopped.store(1, Ordering::Relaxed);
    asker.join().unwrap();
}
