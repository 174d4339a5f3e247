use std::sync::Arc;
use std::time::Duration;

use super::files::{Prefetch, PrefetchOptions};
use super::walk::{IDLE, LEFT, WINDOW_FIRST};
use crate::clock;
use crate::namespace::AttributeCache;
use crate::namespace::attributes::{Attributes, Defaults, Kind};
use crate::namespace::clock::Clock as _;
use crate::namespace::clock::manual::ManualClock;
use crate::namespace::dir_stream::DirStream;
use crate::namespace::listings::{Known, Listings};
use crate::namespace::name;
use crate::namespace::numbers::number_of;
use crate::namespace::segment::{Listed, Marker};
use crate::store::memory::{Fault, Gate, MemoryStore};
use crate::store::{ErrorKind, WriteOptions};
use crate::store::{Key, ListedObject};
use std::time::UNIX_EPOCH;

const DEFAULTS: Defaults = Defaults { uid: 1, gid: 2, file_mode: 0o644, dir_mode: 0o755 };

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    listings: Arc<Listings>,
    prefetch: Arc<Prefetch>,
}

fn world(store: MemoryStore, fast: bool) -> World {
    let (store, clock) = (Arc::new(store), Arc::new(ManualClock::default()));
    let listings = Listings::new(Duration::from_secs(1), 64 << 20, clock.clone());
    let attributes = AttributeCache::in_memory(100_000);
    let options =
        PrefetchOptions { defaults: DEFAULTS, implicit_mtime: UNIX_EPOCH, fast, concurrency: 32 };
    let prefetch = Prefetch::new(store.clone(), listings.clone(), attributes, options);
    World { store, clock, listings, prefetch }
}

/// A world in which each HEAD waits to be admitted.
fn gated(store: MemoryStore) -> (World, Gate) {
    let heads = Gate::shut();
    store.on("HeadObject").always().then(Fault::Held(heads.clone()));
    (world(store, false), heads)
}

fn heads_now(world: &World) -> usize {
    world.store.under_way("HeadObject").0
}

/// A bucket of `count` files, of mode 0600.
fn bucket(count: usize) -> MemoryStore {
    let store = MemoryStore::new();
    for number in 0..count {
        store.touch(&Key::from(format!("d/{number:05}").as_str()), private());
    }
    store
}

fn private() -> WriteOptions {
    let attributes = Attributes::new(Kind::File, 0o600, 7, 8, UNIX_EPOCH);
    attributes.to_write_options().unwrap()
}

/// Scans `d/`, so that what follows is known.
async fn scan(world: &World) -> Vec<(Key, Listed)> {
    let dir = Key::from("d/");
    let mut stream = DirStream::open(world.store.clone(), world.listings.clone(), dir.clone());
    let mut entries = Vec::new();
    while let Some(entry) = stream.next().await.unwrap() {
        let key = match &entry.listed {
            Listed::File(object) => object.key.clone(),
            Listed::Directory(_) => dir.join(&entry.name).join(b"/"),
        };
        entries.push((key, entry.listed));
    }
    entries
}

async fn stat(world: &World, entry: &(Key, Listed)) -> Attributes {
    match &entry.1 {
        Listed::File(object) => {
            world.prefetch.attributes_of(1, object, world.clock.now()).await.unwrap().1
        }
        Listed::Directory(marker) => {
            world.prefetch.directory_attributes(1, &entry.0, *marker).await.unwrap()
        }
    }
}

/// Lets every spawned task go as far as it can. (A single-threaded runtime polls all that are ready in
/// turn.)
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_walk_asks_once_for_each_and_in_parallel() {
    let world = world(bucket(2500), false);
    let entries = scan(&world).await;
    for entry in &entries {
        assert_eq!(stat(&world, entry).await.mode, 0o600);
    }
    assert_eq!(world.store.count("HeadObject"), 2500);
    for entry in &entries {
        stat(&world, entry).await;
    }
    assert_eq!(world.store.count("HeadObject"), 2500, "the second time nothing is asked");
}

#[tokio::test]
async fn a_walk_that_outlives_its_listing_asks_once_for_each() {
    let world = world(bucket(1500), false);
    let entries = scan(&world).await;
    let (dir, lists) = (Key::from("d/"), world.store.count("ListObjectsV2"));
    world.clock.advance(Duration::from_secs(5));
    for (key, _) in &entries {
        let name = &key.as_bytes()[2..];
        assert_eq!(world.listings.lookup(&dir, name), Known::Unknown);
        let object = world.listings.outdated(&dir, name).unwrap();
        let (_, attributes, at) = world.prefetch.confirm(1, &object).await.unwrap().unwrap();
        assert_eq!(attributes.mode, 0o600);
        assert_eq!(at, world.clock.now(), "told when the store was asked");
    }
    assert_eq!(world.store.heads_and_lists(), (1500, lists));
    // Attributes are known now, but whether it is still there would cost a HEAD: a page is cheaper.
    world.clock.advance(Duration::from_secs(5));
    let object = world.listings.outdated(&dir, b"00007").unwrap();
    assert!(world.prefetch.confirm(1, &object).await.unwrap().is_none());
    assert_eq!(world.store.heads_and_lists(), (1500, lists));
    // What this mount has deleted since is not taken for there.
    world.listings.note_deleted(&object.key);
    assert!(world.listings.outdated(&dir, b"00007").is_none());
}

#[tokio::test]
async fn a_head_under_way_does_not_undo_a_change_of_attributes() {
    let (world, heads) = gated(bucket(1));
    let Listed::File(object) = scan(&world).await.remove(0).1 else { panic!("a file") };
    let asked = world.prefetch.attributes_of(1, &object, world.clock.now());
    tokio::pin!(asked);
    assert!(futures_util::poll!(asked.as_mut()).is_pending());
    // Saved by a copy: the ETag is the same, and so may be the second.
    let written = Attributes::new(Kind::File, 0o640, 7, 8, UNIX_EPOCH);
    world.prefetch.attributes.put(&object.key, &object.etag, None, &written);
    let object = ListedObject { last_modified: clock::wall(), ..object.clone() };
    world.listings.note_put(object.clone());
    heads.admit(100);
    assert_eq!(asked.await.unwrap().1.mode, 0o640);
    assert_eq!(world.prefetch.known(&object).unwrap().mode, 0o640);
}

#[tokio::test]
async fn a_walk_takes_the_round_trips_of_its_share() {
    let (world, heads) = gated(bucket(1000));
    let entries = scan(&world).await;
    let walk = async {
        for entry in &entries {
            stat(&world, entry).await;
        }
    };
    tokio::pin!(walk);
    // In each round trip everything under way is answered.
    let mut round_trips = 0;
    while futures_util::poll!(walk.as_mut()).is_pending() {
        settle().await;
        let under_way = heads_now(&world);
        if under_way > 0 {
            round_trips += 1;
            heads.admit(under_way);
            settle().await;
        }
        assert!(round_trips < 1000, "not in parallel");
    }
    let most = world.store.under_way("HeadObject").1;
    assert!(most <= 32 + 1, "{most} at a time");
    // 1000 / 32, and a few to ramp up.
    assert!(round_trips <= 50, "{round_trips} round trips");
}

#[tokio::test]
async fn one_stat_alone_asks_for_little_more() {
    let world = world(bucket(1000), false);
    let entries = scan(&world).await;
    stat(&world, &entries[10]).await;
    settle().await;
    assert_eq!(world.store.count("HeadObject"), 1 + WINDOW_FIRST);
}

#[tokio::test]
async fn heads_that_wait_for_a_caller_that_went_are_never_sent() {
    let (world, heads) = gated(bucket(1000));
    // All permits are taken by others.
    let taken = world.prefetch.permits.acquire_many(32).await.unwrap();
    let entries = scan(&world).await;
    let ahead = world.prefetch.clone();
    let Listed::File(first) = entries[0].1.clone() else { panic!() };
    let now = world.clock.now();
    let caller = tokio::spawn(async move { ahead.attributes_of(1, &first, now).await });
    settle().await;
    assert_eq!(world.store.count("HeadObject"), 1, "the caller's own waits for no other");
    world.clock.advance(IDLE + Duration::from_secs(1));
    heads.open();
    drop(taken);
    caller.await.unwrap().unwrap();
    settle().await;
    assert_eq!(world.store.count("HeadObject"), 1);
}

#[tokio::test]
async fn many_callers_share_one_head() {
    let (world, heads) = gated(bucket(1));
    let object = world.store.listed(&Key::from("d/00000")).unwrap();
    let now = world.clock.now();
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let (ahead, object) = (world.prefetch.clone(), object.clone());
            tokio::spawn(async move { ahead.attributes_of(1, &object, now).await.unwrap().1.mode })
        })
        .collect();
    settle().await;
    heads.admit(1);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 0o600);
    }
    assert_eq!(world.store.count("HeadObject"), 1);
    assert!(world.prefetch.heads.is_empty());
}

#[tokio::test]
async fn a_head_without_waiters_is_dropped() {
    let (world, _heads) = gated(bucket(1));
    let object = world.store.listed(&Key::from("d/00000")).unwrap();
    let ahead = world.prefetch.clone();
    let now = world.clock.now();
    let caller = tokio::spawn(async move { ahead.attributes_of(1, &object, now).await });
    settle().await;
    assert_eq!(heads_now(&world), 1);
    caller.abort();
    settle().await;
    assert_eq!(heads_now(&world), 0);
    assert!(world.prefetch.heads.is_empty());
}

#[tokio::test]
async fn fast_attributes_never_ask() {
    let world = world(bucket(10), true);
    for entry in scan(&world).await {
        let attributes = stat(&world, &entry).await;
        let Listed::File(object) = &entry.1 else { panic!() };
        assert_eq!((attributes.mode, attributes.mtime), (0o644, object.last_modified));
    }
    world.prefetch.directory_attributes(1, &Key::from("d/e/"), Marker::Unknown).await.unwrap();
    assert_eq!(world.store.count("HeadObject"), 0);
}

#[tokio::test]
async fn an_object_replaced_since_its_listing_is_told_as_it_is_now() {
    let world = world(bucket(1), false);
    let old = world.store.listed(&Key::from("d/00000")).unwrap();
    let new = world.store.touch(&Key::from("d/00000"), WriteOptions::default());
    let (object, attributes, _) =
        world.prefetch.attributes_of(1, &old, world.clock.now()).await.unwrap();
    assert_eq!((object.etag, object.len), (new.etag.clone(), new.len));
    assert_eq!(attributes.mode, 0o644);
    let Known::File(known) = world.listings.lookup(&Key::from("d/"), b"00000") else { panic!() };
    assert_eq!(known.etag, new.etag);
}

#[tokio::test]
async fn an_object_deleted_since_its_listing_is_known_to_be_gone() {
    let world = world(bucket(1), false);
    let old = world.store.listed(&Key::from("d/00000")).unwrap();
    world.store.remove(&old.key);
    let error = world.prefetch.attributes_of(1, &old, world.clock.now()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(world.listings.lookup(&Key::from("d/"), b"00000"), Known::Absent);
}

#[tokio::test]
async fn an_error_is_the_callers_and_is_not_remembered() {
    let world = world(bucket(3), false);
    let entries = scan(&world).await;
    let broken = world.store.on("HeadObject").of("d/00001").always();
    let broken = broken.then(Fault::Refused(ErrorKind::Denied));
    stat(&world, &entries[0]).await;
    settle().await;
    let Listed::File(object) = &entries[1].1 else { panic!() };
    assert_eq!(
        world.prefetch.attributes_of(1, object, world.clock.now()).await.unwrap_err().kind,
        ErrorKind::Denied
    );
    broken.lift();
    assert_eq!(stat(&world, &entries[1]).await.mode, 0o600);
}

#[tokio::test]
async fn directories_are_asked_for_ahead_too_and_again_after_the_ttl() {
    let store = MemoryStore::new();
    for number in 0..40 {
        store.touch(&Key::from(format!("d/{number:02}/x").as_str()), WriteOptions::default());
    }
    let marker = Attributes::new(Kind::Directory, 0o700, 7, 8, UNIX_EPOCH);
    store.touch(&Key::from("d/07/"), marker.to_write_options().unwrap());
    let world = world(store, false);
    let entries = scan(&world).await;
    for entry in &entries {
        let expected = if entry.0 == Key::from("d/07/") { 0o700 } else { 0o755 };
        assert_eq!(stat(&world, entry).await.mode, expected);
    }
    assert_eq!(world.store.count("HeadObject"), 40);
    assert!(world.store.under_way("HeadObject").1 > 1);
    world.clock.advance(Duration::from_secs(2));
    stat(&world, &entries[39]).await;
    assert_eq!(world.store.count("HeadObject"), 41);
}

/// The entries in the order of their numbers in the directory of number 1.
fn by_number(entries: &[(Key, Listed)]) -> Vec<(Key, Listed)> {
    let mut entries = entries.to_vec();
    entries.sort_by_key(|(key, _)| number_of(1, name::split(key).unwrap().1));
    entries
}

/// Asks for each in turn, as programs do, in the order given, while everything under way is answered at once;
/// how many round trips that took.
async fn walk_by_round_trips(world: &World, heads: &Gate, entries: &[(Key, Listed)]) -> usize {
    let walk = async {
        for entry in entries {
            assert_eq!(stat(world, entry).await.mode, 0o600);
        }
    };
    tokio::pin!(walk);
    let mut round_trips = 0;
    while futures_util::poll!(walk.as_mut()).is_pending() {
        settle().await;
        let under_way = heads_now(world);
        if under_way > 0 {
            round_trips += 1;
            heads.admit(under_way);
            // Putting a listing into another order takes less than this.
            clock::sleep(Duration::from_millis(1)).await;
            settle().await;
        }
        assert!(round_trips < entries.len(), "not in parallel");
    }
    round_trips
}

#[tokio::test]
async fn a_walk_in_the_order_of_numbers_is_followed_too() {
    let (world, heads) = gated(bucket(3000));
    let entries = by_number(&scan(&world).await);
    let round_trips = walk_by_round_trips(&world, &heads, &entries).await;
    assert_eq!(world.store.heads_and_lists(), (3000, 3), "each once, no page twice");
    let most = world.store.under_way("HeadObject").1;
    assert!(most <= 32 + 1, "{most} at a time");
    // 3000 / 32, and some until the order is seen.
    assert!(round_trips <= 94 + 40, "{round_trips} round trips");
}

#[tokio::test]
async fn a_walk_in_the_order_of_numbers_goes_in_pieces() {
    // As fts does with more than 100,000 entries: so many are read, sorted and looked at, then the next.
    let (world, heads) = gated(bucket(3000));
    let entries = scan(&world).await;
    let first = walk_by_round_trips(&world, &heads, &by_number(&entries[..1500])).await;
    let second = walk_by_round_trips(&world, &heads, &by_number(&entries[1500..])).await;
    assert_eq!(world.store.count("HeadObject"), 3000);
    assert!(first + second <= 94 + 120, "{first} and {second} round trips");
}

#[tokio::test]
async fn a_small_directory_is_asked_for_as_a_whole_in_any_order() {
    let (world, heads) = gated(bucket(14));
    let mut entries = scan(&world).await;
    entries.rotate_left(5);
    entries[1..].reverse();
    assert_eq!(walk_by_round_trips(&world, &heads, &entries).await, 1);
    assert_eq!(world.store.count("HeadObject"), 14);
}

#[tokio::test]
async fn questions_here_and_there_are_not_looked_ahead_of() {
    let world = world(bucket(20_000), false);
    let entries = scan(&world).await;
    for step in 0..200 {
        stat(&world, &entries[(step * 7331) % 20_000]).await;
        settle().await;
    }
    // One or two may happen to be close behind another.
    let heads = world.store.count("HeadObject");
    assert!((200..=200 + 2 * 32).contains(&heads), "{heads}");
}

#[tokio::test]
async fn a_slow_walk_asks_for_no_more_than_it_can_believe() {
    let world = world(bucket(500), false);
    let entries = scan(&world).await;
    for entry in &entries[..50] {
        stat(&world, entry).await;
        settle().await;
        world.clock.advance(Duration::from_millis(50));
    }
    // Ten in half of the TTL.
    let heads = world.store.count("HeadObject");
    assert!((50..=70).contains(&heads), "{heads}");
}

#[tokio::test]
async fn the_order_is_kept_for_as_long_as_a_walk_goes_by_it() {
    let world = world(bucket(3000), false);
    for entry in &by_number(&scan(&world).await)[..50] {
        stat(&world, entry).await;
    }
    assert_eq!(world.prefetch.walks.lock().len(), 1);
    world.clock.advance(LEFT);
    world.prefetch.forget_walks();
    assert_eq!(world.prefetch.walks.lock().len(), 1);
    world.clock.advance(Duration::from_secs(1));
    world.prefetch.forget_walks();
    assert_eq!(world.prefetch.walks.lock().len(), 0);
}

/// A bucket of directories with three files each, every third with a marker of mode 0700.
fn tree(directories: usize) -> MemoryStore {
    let store = bucket(0);
    let marker = Attributes::new(Kind::Directory, 0o700, 7, 8, UNIX_EPOCH);
    for number in 0..directories {
        for file in 0..3 {
            store.touch(&Key::from(format!("d/{number:03}/{file}").as_str()), private());
        }
        if number.is_multiple_of(3) {
            let key = Key::from(format!("d/{number:03}/").as_str());
            store.touch(&key, marker.to_write_options().unwrap());
        }
    }
    store
}

/// Looks at each directory, into it, and at its files, as `du` does.
async fn descend(world: &World, entries: &[(Key, Listed)]) {
    for (prefix, listed) in entries {
        let Listed::Directory(marker) = listed else { panic!("a directory") };
        let mode = world.prefetch.directory_attributes(1, prefix, *marker).await.unwrap().mode;
        let number: usize = String::from_utf8_lossy(&prefix.as_bytes()[2..5]).parse().unwrap();
        assert_eq!(mode, if number.is_multiple_of(3) { 0o700 } else { 0o755 }, "{prefix}");
        world.prefetch.entered(1, prefix);
        let (store, listings) = (world.store.clone(), world.listings.clone());
        let mut stream = DirStream::open(store, listings, prefix.clone());
        while let Some(entry) = stream.next().await.unwrap() {
            let Listed::File(object) = &entry.listed else { panic!("a file") };
            world.prefetch.attributes_of(2, object, entry.at).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_tree_takes_a_page_a_directory_and_a_head_a_file() {
    let (world, head_gate) = gated(tree(200));
    let list_gate = Gate::shut();
    world.store.on("ListObjectsV2").always().then(Fault::Held(list_gate.clone()));
    list_gate.admit(1);
    let entries = scan(&world).await;
    let mut round_trips = 0;
    let walk = descend(&world, &entries);
    tokio::pin!(walk);
    while futures_util::poll!(walk.as_mut()).is_pending() {
        settle().await;
        // Each request takes a permit of its kind.
        head_gate.admit(200);
        list_gate.admit(200);
        settle().await;
        head_gate.admit_no_more();
        list_gate.admit_no_more();
        round_trips += 1;
        assert!(round_trips < 600, "not side by side");
    }
    let (heads, lists) = world.store.heads_and_lists();
    // A marker's first sight takes a HEAD; the first directories are asked before the order is seen.
    assert!((600..=600 + 67 + 20).contains(&heads), "{heads}");
    assert!(lists <= 1 + 200 + 3, "{lists}");
    assert!(round_trips <= 60, "{round_trips} round trips");

    // The next time, a page each, and nothing of markers that were seen.
    world.clock.advance(Duration::from_secs(2));
    head_gate.open();
    list_gate.open();
    let entries = scan(&world).await;
    let before = world.store.heads_and_lists();
    descend(&world, &entries).await;
    let after = world.store.heads_and_lists();
    assert!(after.0 - before.0 <= 20 && after.1 - before.1 <= 203, "{before:?} {after:?}");
}

#[tokio::test]
async fn directories_that_are_only_looked_at_have_no_page_asked_for() {
    let world = world(tree(200), false);
    let entries = scan(&world).await;
    descend(&world, &entries[..20]).await;
    settle().await;
    for (prefix, _) in &entries[20..] {
        world.prefetch.directory_attributes(1, prefix, Marker::Unknown).await.unwrap();
    }
    settle().await;
    let lists = world.store.count("ListObjectsV2");
    assert!(lists <= 1 + 20 + 132, "a window of them: {lists}");
}
