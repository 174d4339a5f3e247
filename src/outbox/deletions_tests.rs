use bytes::Bytes;

use super::*;
use crate::clock;
use crate::journal::Identity;
use crate::store::memory::MemoryStore;
use crate::store::{ETag, ListRequest, Mark, Precondition, WriteOptions};

struct World {
    store: MemoryStore,
    journal: Arc<Journal>,
    deletions: Arc<Deletions>,
    dir: tempfile::TempDir,
}

impl World {
    /// With these objects, each of its own ETag.
    fn new(keys: &[&str]) -> World {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        for key in keys {
            store.insert(&Key::from(*key), Bytes::from_static(b"x"), key);
        }
        let journal = journal(&dir);
        let deletions = start(&store, &journal);
        World { store, journal, deletions, dir }
    }

    async fn unlink(&self, key: &str) {
        let what = Deletion { etag: Some(ETag::new(key)), marks: Vec::new() };
        self.deletions.delete_later(&Key::from(key), what, None).await.unwrap();
    }

    /// As after a kill: nothing but the journal is left.
    async fn killed(self) -> World {
        let World { store, journal: old, deletions, dir } = self;
        drop((old, deletions));
        let journal = loop {
            // The task of the one before ends in its own time.
            clock::sleep(Duration::from_secs(60)).await;
            let identity =
                Identity { endpoint: "e".into(), bucket: "b".into(), prefix: Key::default() };
            if let Ok((journal, _)) = Journal::open(dir.path(), &identity) {
                break journal;
            }
        };
        let deletions = start(&store, &journal);
        World { store, journal, deletions, dir }
    }

    fn begun(&self) -> Vec<String> {
        self.journal.read(|state| state.deletions.keys().map(Key::to_string).collect())
    }

    async fn is_there(&self, key: &str) -> Result<bool> {
        match self.deletions.head(&Key::from(key)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn journal(dir: &tempfile::TempDir) -> Arc<Journal> {
    let identity = Identity { endpoint: "e".into(), bucket: "b".into(), prefix: Key::default() };
    Journal::open(dir.path(), &identity).unwrap().0
}

fn start(store: &MemoryStore, journal: &Arc<Journal>) -> Arc<Deletions> {
    let runtime = tokio::runtime::Handle::current();
    Deletions::start(Arc::new(store.clone()), journal.clone(), false, &runtime)
}

#[tokio::test(start_paused = true)]
async fn deletions_go_together_and_a_caller_sees_them_done() {
    let names: Vec<String> = (0..2500).map(|number| format!("k{number:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::new(&names);
    for name in &names {
        world.unlink(name).await;
    }
    assert!(!world.is_there("k2499").await.unwrap());
    assert_eq!(world.store.total(), 3 + 1);
    assert_eq!(world.begun(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_what_is_unlinked_elsewhere_or_later() {
    let world = World::new(&["d/a", "e"]);
    world.unlink("d/a").await;
    world.store.fail_next(1, ErrorKind::Transient);
    let other = ListRequest { prefix: Key::from("e"), ..ListRequest::default() };
    assert_eq!(world.deletions.list(&other).await.unwrap_err().kind, ErrorKind::Transient);
    assert_eq!(world.store.total(), 1, "the listing alone");
    let same = ListRequest { prefix: Key::from("d/"), ..ListRequest::default() };
    world.deletions.list(&same).await.unwrap();
    assert_eq!(world.store.total(), 3, "deleted, then listed");
}

#[tokio::test(start_paused = true)]
async fn what_takes_the_name_comes_after_the_deletion() {
    let world = World::new(&["k"]);
    world.unlink("k").await;
    let (key, body) = (Key::from("k"), Bytes::from_static(b"new"));
    let absent = Precondition::Absent;
    world.deletions.put(&key, body.into(), &WriteOptions::default(), &absent).await.unwrap();
    clock::sleep(Duration::from_secs(100)).await;
    assert!(world.is_there("k").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_gives_the_object_back_and_is_told() {
    let world = World::new(&["k"]);
    world.unlink("k").await;
    world.store.fail_next(1, ErrorKind::Denied);
    assert!(world.is_there("k").await.unwrap());
    assert_eq!(world.begun(), Vec::<String>::new());
    assert_eq!(world.deletions.refused().len(), 1);
    assert!(world.deletions.take_refusal().unwrap().contains("k cannot be deleted"));
    assert_eq!(world.deletions.take_refusal(), None);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_may_pass_is_told_and_tried_again() {
    let world = World::new(&["k"]);
    world.unlink("k").await;
    world.store.fail_next(1, ErrorKind::Timeout);
    assert_eq!(world.is_there("k").await.unwrap_err().kind, ErrorKind::Timeout);
    assert_eq!(world.begun(), ["k"]);
    assert!(!world.is_there("k").await.unwrap());
    assert_eq!(world.begun(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_next_mount_deletes_what_is_still_that_version() {
    let mut world = World::new(&["same", "changed"]);
    world.store.fail_next(2, ErrorKind::Offline);
    world.unlink("same").await;
    world.unlink("changed").await;
    assert!(world.is_there("same").await.is_err());
    world.store.insert(&Key::from("changed"), Bytes::from_static(b"y"), "another");
    world = world.killed().await;
    assert!(!world.is_there("same").await.unwrap());
    assert!(world.is_there("changed").await.unwrap());
    assert_eq!(world.begun(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_directory_waits_for_the_file_of_its_name() {
    let world = World::new(&["d"]);
    world.unlink("d").await;
    assert!(!world.is_there("d/").await.unwrap());
    assert_eq!(world.store.total(), 2, "deleted, then asked");
}

/// A PUT may have taken effect without an answer: what has its mark goes, what another client has made does not, now and
/// when the process that unlinked it is gone.
#[tokio::test(start_paused = true)]
async fn of_what_may_be_there_only_our_own_is_deleted() {
    for is_killed in [false, true] {
        let mut world = World::new(&["none's", "theirs"]);
        let (ours, marks) = (WriteOptions::default().marked(), [Mark::fresh()]);
        let marks: Vec<Mark> = marks.into_iter().chain(ours.mark()).collect();
        let (key, body) = (Key::from("ours"), Bytes::from_static(b"x"));
        world.store.put(&key, body.into(), &ours, &Precondition::None).await.unwrap();
        if is_killed {
            world.store.fail_next(3, ErrorKind::Offline);
        }
        for key in ["ours", "theirs", "none"] {
            let what = Deletion { etag: None, marks: marks.clone() };
            world.deletions.delete_later(&Key::from(key), what, None).await.unwrap();
        }
        if is_killed {
            assert!(world.is_there("ours").await.is_err());
            world = world.killed().await;
        }
        assert!(!world.is_there("ours").await.unwrap());
        assert!(world.is_there("theirs").await.unwrap() && world.is_there("none's").await.unwrap());
        assert!(!world.is_there("none").await.unwrap());
        assert_eq!(world.begun(), Vec::<String>::new());
    }
}
