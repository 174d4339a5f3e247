use super::*;
use crate::namespace::clock::manual::ManualClock;
use crate::namespace::resolve;
use crate::store::WriteOptions;
use crate::store::memory::MemoryStore;

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    listings: Arc<Listings>,
    relist: Relist,
}

const TTL: Duration = Duration::from_secs(1);

fn world(files: usize) -> World {
    let store = MemoryStore::new();
    for number in 0..files {
        store.touch(&Key::from(format!("d/{number:05}").as_str()), WriteOptions::default());
    }
    let (store, clock) = (Arc::new(store), Arc::new(ManualClock::default()));
    let listings = Listings::new(TTL, 64 << 20, clock.clone());
    let relist = Relist::new(store.clone(), listings.clone());
    World { store, clock, listings, relist }
}

impl World {
    /// As a lookup does it.
    async fn look_up(&self, name: &str) -> Known {
        let (dir, name) = (Key::from("d/"), name.as_bytes());
        let known = self.listings.lookup(&dir, name);
        if known != Known::Unknown {
            self.relist.hit(&dir);
            return known;
        }
        self.relist.missed(1, &dir, name).await.unwrap();
        if self.listings.lookup(&dir, name) == Known::Unknown {
            resolve::resolve(self.store.as_ref(), &self.listings, &dir, name).await.unwrap();
        }
        self.listings.lookup(&dir, name)
    }

    fn requests(&self) -> usize {
        self.store.total()
    }
}

#[tokio::test]
async fn new_names_cost_a_listing_each_ttl_and_not_a_request_each() {
    let world = world(0);
    let names = 10_000;
    for number in 0..names {
        assert_eq!(world.look_up(&format!("new{number}")).await, Known::Absent);
        // 100 names a second.
        world.clock.advance(TTL / 100);
    }
    assert!(world.requests() <= names / 100 + 20, "{} requests", world.requests());
}

#[tokio::test]
async fn names_in_order_cost_a_page_for_a_thousand() {
    let world = world(10_000);
    for number in 0..10_000 {
        let known = world.look_up(&format!("{number:05}")).await;
        assert!(matches!(known, Known::File(_)), "{number}: {known:?}");
    }
    assert!(world.requests() <= 10 + 15, "{} requests", world.requests());
}

#[tokio::test]
async fn names_at_random_in_a_large_directory_are_asked_for_singly() {
    let world = world(20_000);
    let mut lists = 0;
    for number in 0..1000u64 {
        // Each in another page than the one before, and later than that is believed.
        let name = format!("{:05}", number * 7919 % 20_000);
        let before = world.store.count("ListObjectsV2");
        assert!(matches!(world.look_up(&name).await, Known::File(_)));
        // A cold lookup has one LIST of one key; a page is one more.
        lists += (world.store.count("ListObjectsV2") - before).saturating_sub(1);
        world.clock.advance(TTL * 2);
    }
    assert!(lists <= 30, "{lists} pages were listed for 1,000 names");
}

#[tokio::test]
async fn names_in_the_order_of_numbers_cost_each_page_once_a_ttl() {
    let world = world(20_000);
    let mut names: Vec<String> = (0..20_000).map(|number| format!("{number:05}")).collect();
    names.sort_by_key(|name| number_of(1, name.as_bytes()));
    let mut stream = crate::namespace::dir_stream::DirStream::open(
        world.store.clone(),
        world.listings.clone(),
        "d/".into(),
    );
    while stream.next().await.unwrap().is_some() {}
    world.clock.advance(TTL);
    for name in &names {
        assert!(matches!(world.look_up(name).await, Known::File(_)));
        // In five TTLs.
        world.clock.advance(TTL / 4000);
    }
    // 20 pages listed by the scan, and 20 for each TTL; some names before the order was seen.
    assert!(world.requests() <= 20 + 6 * 20 + 3 * 30, "{} requests", world.requests());
}

#[tokio::test]
async fn callers_that_miss_together_list_once() {
    let world = world(500);
    world.look_up("x").await;
    let before = world.requests();
    let asked = (0..16).map(|number| world.look_up(["y", "z"][number % 2]));
    for known in futures_util::future::join_all(asked.collect::<Vec<_>>()).await {
        assert_eq!(known, Known::Absent);
    }
    assert_eq!(world.requests() - before, 1);
}

#[test]
fn a_page_begins_right_before_the_name() {
    for name in ["b", "f00001", "a0", "x y", "é", "a!", "😀", "z~"] {
        let from = before(name.as_bytes());
        assert!(from.as_slice() < name.as_bytes(), "{name}");
        assert!(std::str::from_utf8(&from).is_ok(), "{name}");
    }
    assert_eq!(before(b"f2"), "f1\u{10ffff}".as_bytes());
    assert!(before(b"f2").as_slice() > b"f1zzz".as_slice());
}
