use super::*;
use crate::clock;
use crate::store::ListedObject;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn object(key: &str, etag: &str, modified: SystemTime) -> ListedObject {
    ListedObject {
        key: Key::from(key),
        etag: ETag::new(etag),
        len: 1,
        last_modified: modified,
        storage_class: None,
    }
}

fn attributes(mode: u32) -> Attributes {
    let mtime = at(1_700_000_000) + Duration::from_nanos(123_456_789);
    Attributes::new(Kind::File, mode, 5, 6, mtime)
}

fn identity(bucket: &str) -> Identity {
    Identity { endpoint: "http://e".into(), bucket: bucket.into(), prefix: Key::default() }
}

fn open(folder: &Path, max: usize) -> Arc<AttributeCache> {
    AttributeCache::open(folder, &identity("b"), max).unwrap().0
}

#[test]
fn only_the_same_version_is_remembered() {
    let cache = AttributeCache::in_memory(100);
    cache.put(&Key::from("k"), &ETag::new("AB"), Some(at(100)), &attributes(0o640));
    assert_eq!(cache.get(&object("k", "ab", at(100))), Some(attributes(0o640)));
    let within_the_second = at(100) + Duration::from_millis(999);
    assert!(cache.get(&object("k", "ab", within_the_second)).is_some());
    assert_eq!(cache.get(&object("k", "ac", at(100))), None);
    assert_eq!(cache.get(&object("j", "ab", at(100))), None);
    // Its metadata was replaced by a copy onto itself, which keeps the ETag.
    assert_eq!(cache.get(&object("k", "ab", at(101))), None);
    cache.forget(&Key::from("k"));
    assert_eq!(cache.get(&object("k", "ab", at(100))), None);
}

#[test]
fn attributes_are_answered_while_the_file_is_slow() {
    use std::sync::mpsc::channel;

    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100);
    let put =
        |key: &str| cache.put(&Key::from(key), &ETag::new("e"), Some(at(9)), &attributes(0o640));
    let ((slow, is_slow), (answered, answer), (end, ended)) = (channel(), channel(), channel());
    std::thread::scope(|scope| {
        let log = cache.log.as_ref().unwrap();
        scope.spawn(move || {
            log.while_busy(|| {
                slow.send(()).unwrap();
                ended.recv().unwrap();
            });
        });
        is_slow.recv().unwrap();
        scope.spawn(|| {
            put("a");
            cache.forget(&Key::from("a"));
            put("b");
            answered.send(()).unwrap();
        });
        let answered = answer.recv_timeout(Duration::from_secs(10));
        end.send(()).unwrap();
        answered.unwrap();
    });
    put("c");
    drop(cache);
    let cache = open(folder.path(), 100);
    let is_there = |key: &str| cache.get(&object(key, "e", at(9))).is_some();
    assert_eq!(["a", "b", "c"].map(is_there), [false, true, true]);
}

/// What is put while a rewrite has the file is left to that, also where it fails.
#[tokio::test]
async fn a_rewrite_that_fails_leaves_nothing_unwritten() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100);
    std::fs::create_dir(folder.path().join("attributes.new")).unwrap();
    cache.log.as_ref().unwrap().while_busy(|| {
        let put = || cache.put(&Key::from("a"), &ETag::new("e"), Some(at(9)), &attributes(0o640));
        std::thread::scope(|scope| drop(scope.spawn(put).join().unwrap()));
    });
    cache.compact().await.unwrap_err();
    drop(cache);
    let cache = open(folder.path(), 100);
    assert!(cache.get(&object("a", "e", at(9))).is_some());
}

#[test]
fn what_was_written_here_is_what_was_made_before_its_answer() {
    let key = Key::from("k");
    for off in [-1000_i64, 0, 1000] {
        let cache = AttributeCache::in_memory(100);
        let now = clock::wall();
        let shown = |by: i64| at((seconds_of(now).unwrap() as i64 + off + by) as u64);
        let clock = Arc::new(StoreClock::default());
        clock.note(now, shown(0));
        cache.goes_by(clock);
        let written = |by: i64| object("k", "e", shown(by));
        cache.put(&key, &ETag::new("e"), None, &attributes(0o600));
        assert_eq!(cache.get(&written(1)), None, "another client's later change");
        assert_eq!(cache.get(&written(0)), Some(attributes(0o600)));
        assert_eq!(cache.get(&written(1)), None);
        assert!(!cache.may_have_changed(&key, &ETag::new("e"), Duration::ZERO), "just now");
        // The time of an upload may be that of its beginning.
        assert_eq!(cache.get(&written(-5)), Some(attributes(0o600)));
        assert_eq!(cache.get(&written(-4)), None, "its time is known by now");
        assert!(cache.may_have_changed(&key, &ETag::new("e"), Duration::ZERO));
        assert!(!cache.may_have_changed(&key, &ETag::new("e"), Duration::MAX));
        assert!(!cache.may_have_changed(&key, &ETag::new("f"), Duration::ZERO));
        cache.put(&key, &ETag::new("e"), Some(written(-5).last_modified), &attributes(0o640));
        assert!(!cache.may_have_changed(&key, &ETag::new("e"), Duration::ZERO), "confirmed");
    }
}

/// The first sight of what was written here is recorded: not where it is only asked whether there is anything to see.
#[test]
fn what_is_known_is_told_under_a_lock() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 100);
    cache.put(&Key::from("k"), &ETag::new("e"), None, &attributes(0o600));
    let now = clock::wall();
    let before = object("k", "e", now - Duration::from_secs(5));
    let walks = crate::lock::Mutex::<_, crate::lock::rank::Walks>::new(());
    let held = walks.lock();
    assert!(cache.knows(&before) && !cache.knows(&object("k", "f", now)));
    drop(held);
    assert_eq!(cache.get(&before), Some(attributes(0o600)));
    assert!(cache.knows(&before));
}

#[test]
fn what_many_have_in_common_is_kept_once() {
    let cache = AttributeCache::in_memory(100);
    let put = |key: &str| {
        let mut attributes = attributes(0o640);
        attributes.change_extra(|extra| extra.content_type = Some("text/plain".into()));
        cache.put(&Key::from(key), &ETag::new("e"), Some(at(1)), &attributes)
    };
    let (one, other) = (put("one"), put("other"));
    assert_eq!(one.extra().content_type.as_deref(), Some("text/plain"));
    assert!(std::ptr::eq(one.extra(), other.extra()));
    let again = cache.get(&object("one", "e", at(1))).unwrap();
    assert!(std::ptr::eq(one.extra(), again.extra()));
}

/// As the file tells it.
fn from_file(attributes: Attributes) -> Attributes {
    Attributes { told: Told::Metadata, ..attributes }
}

#[test]
fn everything_is_there_again_after_a_remount() {
    let folder = tempfile::tempdir().unwrap();
    let mut rich = attributes(0o4711);
    rich.kind = Kind::Symlink;
    rich.change_extra(|extra| {
        extra.target = Some(b"to".to_vec());
        extra.xattrs.insert(b"user.a".to_vec(), vec![0, 255]);
        extra.foreign.push(("md5chksum".into(), "x".into()));
        extra.content_type = Some("text/plain".into());
    });
    let mut typed = attributes(0o644);
    typed.change_extra(|extra| extra.content_type = Some("text/plain".into()));
    {
        let cache = open(folder.path(), 100);
        cache.put(&Key::from("rich"), &ETag::new("1"), Some(at(1)), &rich);
        cache.put(&Key::from("plain"), &ETag::new("2"), Some(at(2)), &attributes(0o644));
        cache.put(&Key::from("typed"), &ETag::new("4"), Some(at(4)), &typed);
        cache.put(&Key::from("gone"), &ETag::new("3"), Some(at(3)), &attributes(0o644));
        cache.forget(&Key::from("gone"));
    }
    let cache = open(folder.path(), 100);
    assert_eq!(cache.get(&object("rich", "1", at(1))), Some(from_file(rich)));
    assert_eq!(cache.get(&object("plain", "2", at(2))), Some(from_file(attributes(0o644))));
    assert_eq!(cache.get(&object("typed", "4", at(4))), Some(from_file(typed)));
    assert_eq!(cache.get(&object("gone", "3", at(3))), None);
    drop(cache);
    assert!(AttributeCache::open(folder.path(), &identity("other"), 100).is_err());
}

#[test]
fn times_before_1970_are_remembered_those_far_away_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = attributes(0o644);
    old.mtime = UNIX_EPOCH - Duration::from_nanos(1_500_000_001);
    let mut far = attributes(0o644);
    far.mtime = at(20_000_000_000);
    {
        let cache = open(folder.path(), 10);
        cache.put(&Key::from("old"), &ETag::new("e"), Some(at(1)), &old);
        cache.put(&Key::from("far"), &ETag::new("e"), Some(at(1)), &far);
    }
    let cache = open(folder.path(), 10);
    assert_eq!(cache.get(&object("old", "e", at(1))), Some(from_file(old)));
    assert_eq!(cache.get(&object("far", "e", at(1))), None);
}

#[test]
fn the_count_is_bounded_and_what_is_used_stays() {
    let cache = AttributeCache::in_memory(100);
    let put = |number: usize| {
        let key = Key::from(number.to_string().as_str());
        cache.put(&key, &ETag::new("e"), Some(at(1)), &attributes(0o644));
    };
    put(0);
    for number in 1..1000 {
        put(number);
        assert!(cache.get(&object("0", "e", at(1))).is_some(), "after {number}");
        assert!(cache.len() <= 100);
    }
    assert_eq!(cache.get(&object("1", "e", at(1))), None);
    assert!(cache.get(&object("990", "e", at(1))).is_some());
}

#[tokio::test]
async fn a_rewrite_keeps_what_is_remembered_and_drops_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 1000);
    for round in 0..20u64 {
        for number in 0..50 {
            let key = Key::from(number.to_string().as_str());
            cache.put(&key, &ETag::new("e"), Some(at(round)), &attributes(0o644));
        }
    }
    let path = folder.path().join(FILE_NAME);
    let before = std::fs::metadata(&path).unwrap().len();
    cache.compact_if_large().await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), before, "too small to be worth it");
    cache.compact().await.unwrap();
    cache.put(&Key::from("after"), &ETag::new("e"), Some(at(1)), &attributes(0o600));
    assert!(std::fs::metadata(&path).unwrap().len() < before / 10);
    drop(cache);
    let cache = open(folder.path(), 1000);
    assert_eq!(cache.len(), 51);
    assert!(cache.get(&object("49", "e", at(19))).is_some());
    assert!(cache.get(&object("after", "e", at(1))).is_some());
}

#[test]
fn a_file_cut_anywhere_gives_only_what_was_put() {
    let folder = tempfile::tempdir().unwrap();
    {
        let cache = open(folder.path(), 100);
        for number in 0..3u64 {
            let key = Key::from(number.to_string().as_str());
            cache.put(&key, &ETag::new("e"), Some(at(number)), &attributes(0o600 + number as u32));
        }
    }
    let path = folder.path().join(FILE_NAME);
    let whole = std::fs::read(&path).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let cache = open(folder.path(), 100);
        for number in 0..3u64 {
            let found = cache.get(&object(&number.to_string(), "e", at(number)));
            let put = from_file(attributes(0o600 + number as u32));
            assert!(found.is_none_or(|found| found == put));
        }
    }
}

#[test]
fn an_entry_takes_32_bytes() {
    assert_eq!(size_of::<(u64, Entry)>(), 32);
}
