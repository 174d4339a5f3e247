use super::*;
use crate::namespace::clock::manual::ManualClock;
use crate::store::WriteOptions;
use crate::store::memory::{Fault, Gate, MemoryStore, Shape};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(1);

fn listings(ttl: Duration) -> Arc<Listings> {
    Listings::new(ttl, 64 << 20, Arc::new(ManualClock::default()))
}

fn open(store: &Arc<MemoryStore>, listings: &Arc<Listings>, dir: &str) -> DirStream {
    DirStream::open(store.clone(), listings.clone(), Key::from(dir))
}

async fn rest(stream: &mut DirStream) -> Vec<DirEntry> {
    let mut entries = Vec::new();
    while let Some(entry) = stream.next().await.unwrap() {
        entries.push(entry);
    }
    entries
}

/// Names, directories with a `/` behind them.
fn shown(entries: &[DirEntry]) -> Vec<String> {
    let show = |entry: &DirEntry| {
        let slash = if matches!(entry.listed, Listed::Directory(_)) { "/" } else { "" };
        format!("{}{slash}", String::from_utf8_lossy(&entry.name))
    };
    entries.iter().map(show).collect()
}

#[tokio::test]
async fn a_name_that_is_object_and_prefix_is_one_directory() {
    let keys = ["a", "a-1", "a-2", "a.x", "a/b", "b", "b/", "c"];
    for page in 1..10 {
        let store = MemoryStore::with_keys(page, keys);
        let entries = rest(&mut open(&store, &listings(TTL), "")).await;
        assert_eq!(shown(&entries), ["a-1", "a-2", "a.x", "a/", "b/", "c"], "pages of {page}");
    }
}

#[tokio::test]
async fn a_scan_costs_one_request_a_page_and_no_head() {
    let keys = (0..2500).map(|number| format!("d/{number:05}"));
    let store = MemoryStore::with_keys(1000, keys);
    let mut stream = open(&store, &listings(TTL), "d/");
    assert_eq!(rest(&mut stream).await.len(), 2500);
    assert_eq!(store.heads_and_lists(), (0, 3));
}

#[tokio::test]
async fn a_second_scan_asks_nothing_and_a_rewind_asks_anew() {
    let store = MemoryStore::with_keys(2, ["a", "b/x", "c", "d"]);
    let listings = listings(TTL);
    let first = rest(&mut open(&store, &listings, "")).await;
    let lists = store.count("ListObjectsV2");
    let mut second = open(&store, &listings, "");
    assert_eq!(rest(&mut second).await, first);
    assert_eq!(store.count("ListObjectsV2"), lists);
    store.touch(&Key::from("e"), WriteOptions::default());
    second.rewind();
    assert_eq!(shown(&rest(&mut second).await), ["a", "b/", "c", "d", "e"]);
}

#[tokio::test]
async fn keys_that_cannot_be_names_are_hidden_and_counted() {
    let keys = ["d//x", "d/./x", "d/../x", "d/..", "d/ok", "d/a\0b", "d/", "/lead", "e"];
    let store = MemoryStore::with_keys(2, keys);
    let listings = listings(TTL);
    for _ in 0..2 {
        let mut stream = open(&store, &listings, "d/");
        stream.known_pages = false;
        assert_eq!(shown(&rest(&mut stream).await), ["ok"]);
        assert_eq!(listings.hidden().total(), 5);
    }
    assert_eq!(shown(&rest(&mut open(&store, &listings, "")).await), ["d/", "e"]);
    assert_eq!(listings.hidden().total(), 6);
}

#[tokio::test]
async fn hadoop_markers_are_directories_and_not_shown_twice() {
    let keys = ["a", "a0", "a_$folder$", "b/x", "b0", "b1", "b_$folder$", "c_$folder$"];
    for page in 1..10 {
        let store = MemoryStore::with_keys(page, keys);
        let entries = rest(&mut open(&store, &listings(TTL), "")).await;
        let mut names = shown(&entries);
        names.sort();
        assert_eq!(names, ["a", "a0", "b/", "b0", "b1", "c/"], "pages of {page}");
    }
}

#[tokio::test]
async fn a_listing_begun_before_a_local_change_does_not_undo_it() {
    let store = MemoryStore::with_keys(1000, ["kept", "removed"]);
    let listings = listings(TTL);
    let answers = {
        // The listing has its snapshot taken and is on its way back.
        let gate = Gate::shut();
        store.on("ListObjectsV2").then(Fault::Unanswered(gate.clone()));
        let mut stream = open(&store, &listings, "");
        let scan = tokio::spawn(async move { rest(&mut stream).await });
        while gate.came() == 0 {
            tokio::task::yield_now().await;
        }
        store.remove(&Key::from("removed"));
        listings.note_deleted(&Key::from("removed"));
        listings.note_put(store.touch(&Key::from("created"), WriteOptions::default()));
        gate.open();
        scan.await.unwrap()
    };
    assert_eq!(shown(&answers), ["created", "kept"]);
    assert_eq!(listings.lookup(&Key::default(), b"removed"), Known::Absent);
    assert!(matches!(listings.lookup(&Key::default(), b"created"), Known::File(_)));
}

#[tokio::test]
async fn a_name_removed_after_its_page_came_is_not_yielded() {
    let store = MemoryStore::with_keys(1000, ["a", "b", "c"]);
    let listings = listings(Duration::ZERO);
    let mut stream = open(&store, &listings, "");
    assert_eq!(stream.next().await.unwrap().unwrap().name, b"a");
    listings.note_deleted(&Key::from("b"));
    assert_eq!(shown(&rest(&mut stream).await), ["c"]);
}

#[tokio::test]
async fn a_name_that_is_only_here_yet_is_shown_until_it_is_withdrawn() {
    let store = MemoryStore::with_keys(2, ["a", "c", "e"]);
    let listings = listings(Duration::ZERO);
    let object = crate::store::ListedObject {
        key: Key::from("d"),
        ..store.listed(&Key::from("a")).unwrap()
    };
    listings.note_local(&Key::default(), b"d", Known::File(object));
    listings.note_local(&Key::default(), b"c", Known::Absent);
    assert_eq!(shown(&rest(&mut open(&store, &listings, "")).await), ["a", "d", "e"]);
    listings.withdraw_local(&Key::default(), b"d");
    listings.withdraw_local(&Key::default(), b"c");
    assert_eq!(shown(&rest(&mut open(&store, &listings, "")).await), ["a", "c", "e"]);
}

#[tokio::test]
async fn offsets_outlive_their_page_whatever_is_added_or_removed() {
    let keys: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
    let store = MemoryStore::with_keys(4, &keys);
    let mut stream = open(&store, &listings(Duration::ZERO), "");
    let entries = rest(&mut stream).await;
    for added in ["005", "03x", "121", "zz"] {
        store.touch(&Key::from(added), WriteOptions::default());
    }
    for removed in ["02", "03", "12"] {
        store.remove(&Key::from(removed));
    }
    for (at, entry) in entries.iter().enumerate().rev() {
        stream.seek(entry.offset);
        let gone = ["02", "03", "12"];
        let expected: Vec<&DirEntry> = entries[at + 1..]
            .iter()
            .filter(|entry| !gone.contains(&std::str::from_utf8(&entry.name).unwrap()))
            .collect();
        let seen = rest(&mut stream).await;
        assert_eq!(seen.iter().collect::<Vec<_>>(), expected, "behind {}", entry.offset);
    }
}

#[tokio::test]
async fn a_store_out_of_order_is_never_believed_to_lack_a_name() {
    // `d` comes at the place of `d`, before `d-1`, although `d/` sorts behind it.
    let keys = ["d/x", "d-1", "d-2", "d-3", "e"];
    let shape = Shape { page: 1, misordered: true, ..Shape::default() };
    let store = Arc::new(MemoryStore::of(shape));
    for key in keys {
        store.touch(&Key::from(key), WriteOptions::default());
    }
    let listings = listings(Duration::MAX);
    let mut stream = open(&store, &listings, "");
    let mut names = Vec::new();
    while let Some(entry) = stream.next().await.unwrap() {
        names.push(entry.name.clone());
        for name in [&b"d-1"[..], b"d-2", b"d-3", b"e"] {
            assert_ne!(listings.lookup(&Key::default(), name), Known::Absent);
        }
    }
    names.sort();
    assert_eq!(names, [&b"d"[..], b"d-1", b"d-2", b"d-3", b"e"]);
}

/// Names that sort around `/`, repeat each other's beginnings, and cannot be names.
fn key() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "b", "-", ".", "/", "0", "..", "\u{10ffff}", "_$folder$"]),
        1..6,
    )
    .prop_map(|parts| parts.concat())
}

/// What the directory shows, by name.
fn model(keys: &std::collections::BTreeSet<String>, dir: &str) -> BTreeMap<Vec<u8>, bool> {
    let mut shown = BTreeMap::new();
    for directories in [true, false] {
        for key in keys {
            let Some(rest) = key.strip_prefix(dir) else { continue };
            let (name, directory) = match rest.split_once('/') {
                Some((name, _)) => (name, true),
                None => (rest, false),
            };
            if directory == directories
                && name::check_name(name.as_bytes()).is_ok()
                && (directory || name::folder_marker(name.as_bytes()).is_none())
            {
                shown.entry(name.as_bytes().to_vec()).or_insert(directory);
            }
        }
    }
    for key in keys {
        let rest = key.strip_prefix(dir).filter(|rest| !rest.contains('/'));
        if let Some(stem) = rest.and_then(|rest| name::folder_marker(rest.as_bytes())) {
            shown.entry(stem.to_vec()).or_insert(true);
        }
    }
    shown
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_scan_shows_what_the_keys_say(
        keys in prop::collection::btree_set(key(), 0..40),
        page in 1usize..8,
        dir in prop::sample::select(vec!["", "a/", "a-/"]),
        seeks in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = MemoryStore::with_keys(page, &keys);
            let listings = listings(TTL);
            let mut stream = open(&store, &listings, dir);
            let entries = rest(&mut stream).await;
            let seen: BTreeMap<_, _> = entries
                .iter()
                .map(|entry| (entry.name.clone(), matches!(entry.listed, Listed::Directory(_))))
                .collect();
            assert_eq!(seen.len(), entries.len(), "a name twice");
            let expected = model(&keys, dir);
            assert_eq!(seen, expected);
            for seek in seeks {
                if !entries.is_empty() {
                    let at = seek.index(entries.len());
                    stream.seek(entries[at].offset);
                    assert_eq!(rest(&mut stream).await, entries[at + 1..]);
                }
            }
            // What the scan taught answers every lookup, also of names that do not exist.
            let dir = Key::from(dir);
            for (name, directory) in &expected {
                match listings.lookup(&dir, name) {
                    Known::Directory(_) => assert!(directory),
                    Known::File(_) => assert!(!directory),
                    known => panic!("{known:?}"),
                }
            }
            for name in [&b"ab-"[..], b"zz", b"-", b"a.", b"_"] {
                if !expected.contains_key(name) {
                    assert_eq!(listings.lookup(&dir, name), Known::Absent);
                }
            }
            // Served again from what is known.
            let again = rest(&mut open(&store, &listings, &dir.to_string())).await;
            assert_eq!(again.len(), entries.len());
        });
    }
}
