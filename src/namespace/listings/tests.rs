use super::*;
use crate::namespace::clock::manual::ManualClock;
use crate::namespace::fake::FakeStore;
use crate::namespace::{DirStream, Resolved, resolve};
use crate::store::{ETag, WriteOptions};
use std::time::SystemTime;

fn object(key: &str, etag: &str) -> ListedObject {
    ListedObject {
        key: Key::from(key),
        etag: ETag::new(etag),
        len: 1,
        last_modified: SystemTime::UNIX_EPOCH,
        storage_class: None,
    }
}

fn with_ttl(ttl: Duration) -> (Arc<ManualClock>, Arc<Listings>) {
    let clock = Arc::new(ManualClock::default());
    (clock.clone(), Listings::new(ttl, 64 << 20, clock))
}

fn root() -> Key {
    Key::default()
}

async fn scan(store: &Arc<FakeStore>, listings: &Arc<Listings>) {
    let mut stream = DirStream::open(store.clone(), listings.clone(), root());
    while stream.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_listing_is_believed_for_the_ttl_and_no_longer() {
    let store = FakeStore::with_keys(1000, ["a"]);
    let (clock, listings) = with_ttl(Duration::from_secs(10));
    scan(&store, &listings).await;
    clock.advance(Duration::from_secs(9));
    assert!(matches!(listings.lookup(&root(), b"a"), Known::File(_)));
    assert_eq!(listings.lookup(&root(), b"b"), Known::Absent);
    clock.advance(Duration::from_secs(1));
    assert_eq!(listings.lookup(&root(), b"a"), Known::Unknown);
    assert_eq!(listings.lookup(&root(), b"b"), Known::Unknown);
}

#[tokio::test]
async fn a_ttl_of_zero_believes_nothing_and_an_infinite_one_for_ever() {
    let store = FakeStore::with_keys(1000, ["a"]);
    let (_, never) = with_ttl(Duration::ZERO);
    scan(&store, &never).await;
    never.note_put(object("b", "1"));
    assert_eq!(never.lookup(&root(), b"a"), Known::Unknown);
    assert_eq!(never.lookup(&root(), b"b"), Known::Unknown);
    let (clock, ever) = with_ttl(Duration::MAX);
    scan(&store, &ever).await;
    clock.advance(Duration::from_secs(1 << 32));
    assert!(matches!(ever.lookup(&root(), b"a"), Known::File(_)));
}

#[tokio::test]
async fn local_changes_are_seen_at_once_and_expire_like_a_listing() {
    let store = FakeStore::with_keys(1000, ["a", "b"]);
    let (clock, listings) = with_ttl(Duration::from_secs(10));
    scan(&store, &listings).await;
    listings.note_deleted(&Key::from("a"));
    listings.note_put(object("c", "new"));
    listings.note_put(object("b", "newer"));
    listings.note_directory(&Key::from("d/"), Marker::Slash);
    assert_eq!(listings.lookup(&root(), b"a"), Known::Absent);
    assert_eq!(listings.lookup(&root(), b"b"), Known::File(object("b", "newer")));
    assert_eq!(listings.lookup(&root(), b"c"), Known::File(object("c", "new")));
    assert_eq!(listings.lookup(&root(), b"d"), Known::Directory(Marker::Slash));
    listings.note_deleted(&Key::from("d/"));
    assert_eq!(listings.lookup(&root(), b"d"), Known::Absent);
    clock.advance(Duration::from_secs(10));
    for name in [b"a", b"b", b"c", b"d"] {
        assert_eq!(listings.lookup(&root(), name), Known::Unknown);
    }
}

#[tokio::test]
async fn a_page_asked_for_after_a_change_shows_what_others_did_since() {
    let store = FakeStore::with_keys(1000, ["a"]);
    let (_, listings) = with_ttl(Duration::from_secs(10));
    store.remove(&Key::from("a"));
    listings.note_deleted(&Key::from("a"));
    listings.note_put(store.write(&Key::from("b"), WriteOptions::default()));
    // Another machine puts the one back and removes the other.
    store.write(&Key::from("a"), WriteOptions::default());
    store.remove(&Key::from("b"));
    scan(&store, &listings).await;
    assert!(matches!(listings.lookup(&root(), b"a"), Known::File(_)));
    assert_eq!(listings.lookup(&root(), b"b"), Known::Absent);
}

#[test]
fn an_answer_asked_for_before_a_change_does_not_undo_it() {
    let (_, listings) = with_ttl(Duration::from_secs(10));
    let begun = listings.begin();
    listings.note_deleted(&Key::from("a"));
    listings.observe(&root(), b"a", begun, Known::File(object("a", "old")));
    assert_eq!(listings.lookup(&root(), b"a"), Known::Absent);
    let begun = listings.begin();
    listings.observe(&root(), b"a", begun, Known::File(object("a", "new")));
    assert_eq!(listings.lookup(&root(), b"a"), Known::File(object("a", "new")));
}

#[test]
fn deleting_an_object_behind_a_directory_leaves_the_directory() {
    let (_, listings) = with_ttl(Duration::from_secs(10));
    listings.note_directory(&Key::from("a/"), Marker::None);
    listings.note_deleted(&Key::from("a"));
    assert_eq!(listings.lookup(&root(), b"a"), Known::Directory(Marker::None));
}

#[test]
fn local_names_hold_beyond_the_ttl_until_withdrawn() {
    let (clock, listings) = with_ttl(Duration::from_secs(1));
    listings.note_local(&root(), b"draft", Known::File(object("draft", "")));
    clock.advance(Duration::from_secs(100));
    listings.forget_dir(&root());
    assert!(matches!(listings.lookup(&root(), b"draft"), Known::File(_)));
    listings.withdraw_local(&root(), b"draft");
    assert_eq!(listings.lookup(&root(), b"draft"), Known::Unknown);
}

#[tokio::test]
async fn memory_is_bounded_and_given_back() {
    let keys = (0..20_000).map(|number| format!("{number:08}"));
    let store = FakeStore::with_keys(1000, keys);
    let bound = 512 << 10;
    let clock = Arc::new(ManualClock::default());
    let listings = Listings::new(Duration::MAX, bound, clock);
    let mut stream = DirStream::open(store.clone(), listings.clone(), root());
    let mut count = 0;
    while stream.next().await.unwrap().is_some() {
        count += 1;
        assert!(listings.weight() <= bound);
    }
    assert_eq!(count, 20_000);
    drop(stream);
    // The latest pages are still known.
    assert!(matches!(listings.lookup(&root(), b"00019999"), Known::File(_)));
    assert_eq!(listings.lookup(&root(), b"00000000"), Known::Unknown);
    for number in 0..20_000 {
        listings.note_deleted(&Key::from(format!("x/{number}").as_str()));
        assert!(listings.weight() <= bound);
    }
    listings.forget_dir(&root());
    listings.forget_dir(&Key::from("x/"));
    assert!(listings.weight() < 4096, "{}", listings.weight());
}

#[tokio::test]
async fn a_listed_file_costs_less_than_a_hundred_bytes() {
    let keys = (0..10_000).map(|number| format!("some-name-{number:08}"));
    let store = FakeStore::with_keys(1000, keys);
    let (_, listings) = with_ttl(Duration::MAX);
    scan(&store, &listings).await;
    let bytes = listings.weight() / 10_000;
    // 32, the name's 18, the ETag's 32.
    assert!((80..=90).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn a_scan_that_stands_still_through_many_changes_is_still_right() {
    let keys = (0..10).map(|number| format!("{number}"));
    let store = FakeStore::with_keys(1000, keys);
    let (_, listings) = with_ttl(Duration::from_secs(10));
    let mut stream = DirStream::open(store.clone(), listings.clone(), root());
    assert_eq!(stream.next().await.unwrap().unwrap().name, b"0");
    store.remove(&Key::from("5"));
    listings.note_deleted(&Key::from("5"));
    for number in 0..FACTS_PER_DIRECTORY_MAX + 10 {
        listings.note_deleted(&Key::from(format!("x{number}").as_str()));
    }
    let mut names = Vec::new();
    while let Some(entry) = stream.next().await.unwrap() {
        names.push(entry.name);
    }
    assert_eq!(names, [b"1", b"2", b"3", b"4", b"6", b"7", b"8", b"9"]);
}

#[tokio::test]
async fn a_cold_lookup_is_one_round_trip_and_is_remembered() {
    let keys = ["file", "both", "both/x", "implicit/x", "marked/", "marked/x", "hadoop_$folder$"];
    let store = FakeStore::with_keys(1000, keys);
    let (_, listings) = with_ttl(Duration::from_secs(10));
    let ask = async |name: &[u8]| resolve(store.as_ref(), &listings, &root(), name).await.unwrap();
    let directory = async |name: &[u8]| match ask(name).await {
        Resolved::Directory { marker, head } => (marker, head.is_some()),
        resolved => panic!("{resolved:?}"),
    };
    assert!(matches!(ask(b"file").await, Resolved::File(head) if head.len == 1));
    assert_eq!(store.requests(), (2, 1), "HEAD file, HEAD file/, LIST file/");
    assert_eq!(directory(b"both").await, (Marker::None, false));
    assert_eq!(directory(b"implicit").await, (Marker::None, false));
    assert_eq!(directory(b"marked").await, (Marker::Slash, true));
    assert_eq!(ask(b"nothing").await, Resolved::Absent);
    let before = store.requests();
    assert!(matches!(listings.lookup(&root(), b"file"), Known::File(_)));
    assert_eq!(listings.lookup(&root(), b"both"), Known::Directory(Marker::None));
    assert_eq!(listings.lookup(&root(), b"nothing"), Known::Absent);
    assert_eq!(store.requests(), before);
    // Hadoop's markers are asked for once one has been seen.
    scan(&store, &listings).await;
    assert_eq!(directory(b"hadoop").await, (Marker::Folder, true));
    assert!(resolve(store.as_ref(), &listings, &root(), b"..").await.is_err());
}

#[tokio::test]
async fn an_object_of_a_directorys_type_is_a_directory() {
    let store = FakeStore::new(1000);
    let options = WriteOptions {
        metadata: [("mode".to_owned(), "16877".to_owned())].into(),
        content_type: None,
    };
    store.write(&Key::from("old"), options);
    let (_, listings) = with_ttl(Duration::from_secs(10));
    let resolved = resolve(&store, &listings, &root(), b"old").await.unwrap();
    assert!(matches!(resolved, Resolved::Directory { marker: Marker::Plain, head: Some(_) }));
}
