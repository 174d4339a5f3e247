use super::*;
use crate::clock::Instant;
use crate::namespace::clock::manual::ManualClock;
use crate::namespace::dir_stream::DirStream;
use crate::namespace::resolve::{Resolved, resolve};
use crate::store::memory::MemoryStore;
use crate::store::{ETag, Outage, WriteOptions, looking};
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

impl Listings {
    /// Bytes of memory, estimated.
    pub fn weight(&self) -> usize {
        self.state.lock().weight
    }
}

fn root() -> Key {
    Key::default()
}

async fn scan(store: &Arc<MemoryStore>, listings: &Arc<Listings>) {
    let mut stream = DirStream::open(store.clone(), listings.clone(), root());
    while stream.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_listing_is_believed_for_the_ttl_and_no_longer() {
    let store = MemoryStore::with_keys(1000, ["a"]);
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
    let store = MemoryStore::with_keys(1000, ["a"]);
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

/// What work that looks finds.
async fn looked_up(listings: &Listings, name: &[u8]) -> Known {
    looking(async { listings.lookup(&root(), name) }).await
}

#[tokio::test]
async fn in_an_outage_what_is_known_is_believed_by_looks() {
    let store = MemoryStore::with_keys(1000, ["a"]);
    let (clock, outage) = (Arc::new(ManualClock::default()), Outage::that_is_on());
    let freshness = Freshness::beyond(Duration::from_secs(10), outage.clone());
    let listings = Listings::new(freshness, 64 << 20, clock.clone());
    scan(&store, &listings).await;
    clock.advance(Duration::from_secs(3600));
    assert_eq!(listings.lookup(&root(), b"a"), Known::Unknown);
    assert!(matches!(looked_up(&listings, b"a").await, Known::File(_)));
    assert_eq!(looked_up(&listings, b"b").await, Known::Absent);
    let sent = store.total();
    looking(scan(&store, &listings)).await;
    assert_eq!(store.total(), sent);
    outage.end();
    assert_eq!(looked_up(&listings, b"a").await, Known::Unknown);
}

#[tokio::test]
async fn a_change_outlives_its_ttl_beside_an_older_page() {
    let store = MemoryStore::with_keys(1000, ["a"]);
    let clock = Arc::new(ManualClock::default());
    let freshness = Freshness::beyond(Duration::from_secs(10), Outage::that_is_on());
    let listings = Listings::new(freshness, 64 << 20, clock.clone());
    scan(&store, &listings).await;
    listings.note_deleted(&Key::from("a"));
    clock.advance(Duration::from_secs(11));
    // A scan that lists nothing lets go of what is expired.
    drop(DirStream::open(store.clone(), listings.clone(), root()));
    assert_eq!(looked_up(&listings, b"a").await, Known::Absent);
}

#[tokio::test]
async fn local_changes_are_seen_at_once_and_expire_like_a_listing() {
    let store = MemoryStore::with_keys(1000, ["a", "b"]);
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
    let store = MemoryStore::with_keys(1000, ["a"]);
    let (_, listings) = with_ttl(Duration::from_secs(10));
    store.remove(&Key::from("a"));
    listings.note_deleted(&Key::from("a"));
    listings.note_put(store.touch(&Key::from("b"), WriteOptions::default()));
    // Another machine puts the one back and removes the other.
    store.touch(&Key::from("a"), WriteOptions::default());
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

/// Two trees of equal names change places: nothing of the one is taken for the other's, at any depth, nor in an answer
/// that was under way.
#[tokio::test]
async fn names_below_a_moved_directory_are_not_believed() {
    let store = MemoryStore::with_keys(1000, ["d/e/old", "d/e/f/old"]);
    let (clock, listings) = with_ttl(Duration::MAX);
    let below = [Key::from("d/e/"), Key::from("d/e/f/")];
    for dir in &below {
        let mut stream = DirStream::open(store.clone(), listings.clone(), dir.clone());
        while stream.next().await.unwrap().is_some() {}
        listings.note_put(object(&format!("{dir}new"), "1"));
        assert!(matches!(listings.lookup(dir, b"old"), Known::File(_)));
    }
    listings.note_local(&below[0], b"waits", Known::File(object("d/e/waits", "")));
    let beside = Key::from("d-e/");
    listings.note_put(object("d-e/stays", "1"));
    let (begun, at) = listings.begin();
    listings.forget_below(&Key::from("d/"));
    for dir in &below {
        let key = format!("{dir}old");
        listings.observe(dir, b"old", (begun, at), Known::File(object(&key, "1")));
        listings.insert_segment(dir, &[], Segment::new(&[], None, begun, at));
        listings.confirm_segment(dir, &[], begun);
        for name in [&b"old"[..], b"new", b"never"] {
            assert_eq!(listings.lookup(dir, name), Known::Unknown, "{dir}");
        }
    }
    assert!(matches!(listings.lookup(&below[0], b"waits"), Known::File(_)), "it is here alone");
    assert!(matches!(listings.lookup(&beside, b"stays"), Known::File(_)));
    listings.observe(&below[0], b"new", listings.begin(), Known::Absent);
    assert_eq!(listings.lookup(&below[0], b"new"), Known::Absent);
    drop(clock);
}

#[tokio::test]
async fn memory_is_bounded_and_given_back() {
    let keys = (0..20_000).map(|number| format!("{number:08}"));
    let store = MemoryStore::with_keys(1000, keys);
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
    let store = MemoryStore::with_keys(1000, keys);
    let (_, listings) = with_ttl(Duration::MAX);
    scan(&store, &listings).await;
    let bytes = listings.weight() / 10_000;
    // 24, the name's 18, the ETag's 16.
    assert_eq!(bytes, 58);
}

#[tokio::test]
async fn a_scan_that_stands_still_through_many_changes_is_still_right() {
    let keys = (0..10).map(|number| format!("{number}"));
    let store = MemoryStore::with_keys(1000, keys);
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
    let store = MemoryStore::with_keys(1000, keys);
    let (_, listings) = with_ttl(Duration::from_secs(10));
    let ask = async |name: &[u8]| resolve(store.as_ref(), &listings, &root(), name).await.unwrap();
    let directory = async |name: &[u8]| match ask(name).await {
        Resolved::Directory { marker, head } => (marker, head.is_some()),
        resolved => panic!("{resolved:?}"),
    };
    assert!(matches!(ask(b"file").await, Resolved::File(head) if head.len == 1));
    assert_eq!(store.heads_and_lists(), (2, 1), "HEAD file, HEAD file/, LIST file/");
    assert_eq!(directory(b"both").await, (Marker::None, false));
    assert_eq!(directory(b"implicit").await, (Marker::None, false));
    assert_eq!(directory(b"marked").await, (Marker::Slash, true));
    assert_eq!(ask(b"nothing").await, Resolved::Absent);
    let before = store.heads_and_lists();
    assert!(matches!(listings.lookup(&root(), b"file"), Known::File(_)));
    assert_eq!(listings.lookup(&root(), b"both"), Known::Directory(Marker::None));
    assert_eq!(listings.lookup(&root(), b"nothing"), Known::Absent);
    assert_eq!(store.heads_and_lists(), before);
    // Hadoop's markers are asked for once one has been seen.
    scan(&store, &listings).await;
    assert_eq!(directory(b"hadoop").await, (Marker::Folder, true));
    assert!(resolve(store.as_ref(), &listings, &root(), b"..").await.is_err());
}

#[tokio::test]
async fn an_object_of_a_directorys_type_is_a_directory() {
    let store = MemoryStore::new();
    let options = WriteOptions {
        metadata: [("mode".to_owned(), "16877".to_owned())].into(),
        ..Default::default()
    };
    store.touch(&Key::from("old"), options);
    let (_, listings) = with_ttl(Duration::from_secs(10));
    let resolved = resolve(&store, &listings, &root(), b"old").await.unwrap();
    assert!(matches!(resolved, Resolved::Directory { marker: Marker::Plain, head: Some(_) }));
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Delete(usize),
    Mkdir(usize),
    Rmdir(usize),
    Next(usize),
    Rewind(usize),
}

/// Around `/` in order, and beginnings of each other.
const NAMES: [&str; 8] = ["a", "a-", "a-b", "a.", "a0", "b", "b!", "c"];

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let step = (0..6u8, 0..NAMES.len(), 0..2usize).prop_map(|(kind, name, stream)| match kind {
        0 => Step::Put(name),
        1 => Step::Delete(name),
        2 => Step::Mkdir(name),
        3 => Step::Rmdir(name),
        4 => Step::Next(stream),
        _ => Step::Rewind(stream),
    });
    // Scanning is what most steps do.
    let next = (0..2usize).prop_map(Step::Next);
    prop::collection::vec(prop_oneof![step, next], 0..60)
}

/// Two scans and this mount's changes, against what the bucket holds. There is no other writer, so that
/// whatever is known must be true at every moment.
async fn check(steps: Vec<Step>, page: usize, bytes_max: usize) {
    let store = MemoryStore::with_keys(page, ["a", "a-b", "b/x", "c"]);
    let clock = Arc::new(ManualClock::default());
    let listings = Listings::new(Duration::MAX, bytes_max, clock);
    let exists = |name: &str| {
        let file = store.listed(&Key::from(name)).is_some();
        let marked = store.listed(&Key::from(format!("{name}/").as_str())).is_some();
        let inside = store.listed(&Key::from(format!("{name}/x").as_str())).is_some();
        (file, marked || inside)
    };
    let open = || DirStream::open(store.clone(), listings.clone(), root());
    let mut streams = [open(), open()];
    // For each scan: the names that it must not yield again, and those that were there throughout.
    let all = || NAMES.iter().copied().filter(|name| exists(name) != (false, false)).collect();
    let mut seen: [Vec<&str>; 2] = Default::default();
    let mut stayed: [Vec<&str>; 2] = [all(), all()];
    for step in steps {
        match step {
            Step::Put(at) if !exists(NAMES[at]).1 => {
                listings.note_put(store.touch(&Key::from(NAMES[at]), WriteOptions::default()));
            }
            Step::Delete(at) if !exists(NAMES[at]).1 => {
                store.remove(&Key::from(NAMES[at]));
                listings.note_deleted(&Key::from(NAMES[at]));
            }
            Step::Mkdir(at) if exists(NAMES[at]) == (false, false) => {
                let prefix = Key::from(format!("{}/", NAMES[at]).as_str());
                listings.note_put(store.touch(&prefix, WriteOptions::default()));
            }
            Step::Rmdir(at) if exists(NAMES[at]).1 => {
                let prefix = Key::from(format!("{}/", NAMES[at]).as_str());
                store.remove(&prefix);
                store.remove(&prefix.join(b"x"));
                listings.note_deleted(&prefix);
            }
            Step::Next(stream) => {
                let entry = streams[stream].next().await.unwrap();
                let Some(entry) = entry else {
                    for name in &stayed[stream] {
                        assert!(seen[stream].contains(name), "{name} was never yielded");
                    }
                    continue;
                };
                let name = std::str::from_utf8(&entry.name).unwrap();
                let name = NAMES.iter().find(|known| **known == name).unwrap();
                let (file, directory) = exists(name);
                assert_eq!(matches!(entry.listed, Listed::Directory(_)), directory, "{name}");
                assert_eq!(matches!(entry.listed, Listed::File(_)), file, "{name}");
                if stayed[stream].contains(name) {
                    assert!(!seen[stream].contains(name), "{name} was yielded twice");
                }
                seen[stream].push(name);
            }
            Step::Rewind(stream) => {
                streams[stream].rewind();
                if streams[stream].offset() == 0 {
                    streams[stream] = open();
                }
                (seen[stream], stayed[stream]) = (Vec::new(), all());
            }
            Step::Put(_) | Step::Delete(_) | Step::Mkdir(_) | Step::Rmdir(_) => {}
        }
        for stayed in &mut stayed {
            stayed.retain(|name| exists(name) != (false, false));
        }
        for name in NAMES {
            let (file, directory) = exists(name);
            match listings.lookup(&root(), name.as_bytes()) {
                Known::File(object) => assert_eq!(Some(object), store.listed(&Key::from(name))),
                Known::Directory(_) => assert!(directory, "{name}"),
                Known::Absent => assert!(!file && !directory, "{name}"),
                Known::Unknown => {}
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1000))]
    #[test]
    fn what_is_known_is_true_whatever_changes_between_pages(
        steps in steps(),
        page in 1usize..5,
        bytes_max in proptest::sample::select(vec![600usize, 3000, 1 << 20]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(steps, page, bytes_max));
    }
}

/// The page that an object would be on was known before; the one where its name is yielded was not.
#[tokio::test]
async fn what_was_made_since_a_known_page_is_shown_on_the_next() {
    use Step::*;
    let steps = vec![Delete(0), Next(0), Put(0), Next(0), Rewind(1)];
    check([steps, vec![Next(1); 6]].concat(), 1, 3000).await;
}

/// Names that stay until their files are in the store, beyond every bound: each note looks through no more than a few.
#[test]
fn many_local_names_are_noted_in_no_time() {
    let listings = Listings::new(Duration::MAX, 1 << 20, Arc::new(ManualClock::default()));
    let begun = Instant::now();
    for number in 0..150_000 {
        let name = format!("{number}");
        listings.note_local(&root(), name.as_bytes(), Known::File(object(&name, "")));
    }
    // Seconds on a loaded machine; eleven billion looks at facts, if each note went through all of them, are not.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    for number in [0, 149_999] {
        let name = format!("{number}");
        assert!(matches!(listings.lookup(&root(), name.as_bytes()), Known::File(_)), "{name}");
    }
    let other = Key::from("other/");
    for number in 0..50_000 {
        listings.note_directory(&Key::from(format!("other/{number}/").as_str()), Marker::Slash);
    }
    // What is not local goes, in its time.
    assert_eq!(listings.lookup(&other, b"0"), Known::Unknown);
}

/// The mean time of a note about other names, where so many local ones take most of the memory.
fn a_note_beside(local: usize) -> Duration {
    let weigh = |bytes_max| {
        let listings = Listings::new(Duration::MAX, bytes_max, Arc::new(ManualClock::default()));
        for number in 0..local {
            listings.note_local(&root(), number.to_string().as_bytes(), Known::Absent);
        }
        listings
    };
    let listings = weigh(weigh(usize::MAX).weight() + (16 << 10));
    let note = |number: usize| {
        listings.note_directory(&Key::from(format!("other/{number}/").as_str()), Marker::Slash);
    };
    (0..1000).for_each(note);
    let begun = Instant::now();
    (1000..11_000).for_each(note);
    begun.elapsed() / 10_000
}

/// What must stay is not looked through at each note for something that could go.
#[test]
fn a_note_costs_the_same_however_many_local_names_there_are() {
    let (few, many) = (a_note_beside(1000), a_note_beside(200_000));
    assert!(many < few * 20, "{many:?} beside 200,000, {few:?} beside 1,000");
}

/// Names that were local and are in the bucket now are dropped like others.
#[test]
fn memory_comes_back_when_local_names_are_stored() {
    let bytes_max = 1 << 20;
    let listings = Listings::new(Duration::MAX, bytes_max, Arc::new(ManualClock::default()));
    let names: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
    for name in &names {
        listings.note_local(&root(), name.as_bytes(), Known::File(object(name, "")));
    }
    assert!(listings.weight() > 4 * bytes_max);
    names.iter().for_each(|name| listings.note_put(object(name, "e")));
    assert!(listings.weight() < 2 * bytes_max, "{} bytes", listings.weight());
}
