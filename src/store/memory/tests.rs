use std::time::Duration;

use futures_util::TryStreamExt as _;

use super::*;
use crate::clock::Instant;

const NONE: Precondition = Precondition::None;

fn options() -> WriteOptions {
    WriteOptions::default()
}

async fn put(store: &MemoryStore, key: &str, bytes: &'static str) -> ETag {
    store.put(&Key::from(key), Summed::of(bytes), &options(), &NONE).await.unwrap()
}

async fn read(store: &MemoryStore, key: &str, range: ByteRange, etag: &ETag) -> Result<Vec<u8>> {
    let body = store.get(&Key::from(key), range, etag).await?;
    let chunks: Vec<Bytes> = body.bytes.try_collect().await?;
    Ok(chunks.concat())
}

fn kind<T>(outcome: Result<T>) -> ErrorKind {
    outcome.err().unwrap().kind
}

#[tokio::test]
async fn conditions_and_ranges_are_those_of_s3() {
    use ErrorKind::*;
    let (store, key) = (MemoryStore::new(), Key::from("k"));
    let etag = put(&store, "k", "foobar").await;
    assert_eq!(etag.as_str(), "3858f62230ac3c915f300c664312c63f", "the MD5");
    assert_eq!(read(&store, "k", ByteRange::new(2, 5), &etag).await.unwrap(), b"oba");
    let whole = store.get(&key, ByteRange::new(0, 6), &etag).await.unwrap();
    assert!(whole.md5.is_some() && whole.head.len == 6);
    let (old, weak) = (ETag::new("old"), ETag::new("W/\"x\""));
    assert_eq!(kind(read(&store, "k", ByteRange::new(0, 1), &old).await), PreconditionFailed);
    assert_eq!(kind(read(&store, "k", ByteRange::new(0, 7), &etag).await), InvalidRange);
    assert_eq!(kind(read(&store, "other", ByteRange::new(0, 1), &etag).await), NotFound);
    for (precondition, refused) in [
        (Precondition::Absent, Some(PreconditionFailed)),
        (Precondition::Matches(old), Some(PreconditionFailed)),
        (Precondition::Matches(weak), Some(Unsupported)),
        (Precondition::Matches(etag), None),
    ] {
        let outcome = store.put(&key, Summed::of("new"), &options(), &precondition).await;
        assert_eq!(outcome.err().map(|error| error.kind), refused, "{precondition:?}");
    }
}

#[tokio::test]
async fn an_upload_becomes_an_object_once() {
    use ErrorKind::*;
    let (store, key) = (MemoryStore::new(), Key::from("k"));
    let source = put(&store, "source", "0123456789").await;
    let options = WriteOptions { content_type: Some("text/x".into()), ..options() };
    let id = store.create_upload(&key, &options).await.unwrap().upload_id;
    let whole = PartBody::Whole(Summed::of("abc"));
    store.upload_part(&key, &id, 1, whole.clone()).await.unwrap();
    let copy = async |etag: &ETag, range| {
        store.upload_part_copy(&key, &id, 7, &Key::from("source"), etag, range).await
    };
    assert_eq!(kind(copy(&ETag::new("other"), ByteRange::new(2, 4)).await), PreconditionFailed);
    assert_eq!(kind(copy(&source, ByteRange::new(2, 11)).await), InvalidRange);
    copy(&source, ByteRange::new(2, 4)).await.unwrap();
    let parts = store.list_parts(&key, &id).await.unwrap();
    assert_eq!(
        parts.iter().map(|part| (part.number, part.len)).collect::<Vec<_>>(),
        [(1, 3), (7, 2)]
    );
    assert_eq!(store.list_uploads(&Key::from("k")).await.unwrap().len(), 1);
    assert_eq!(kind(store.upload_part(&Key::from("x"), &id, 1, whole).await), NoSuchUpload);
    let wrong = [parts[1].clone(), parts[0].clone()];
    assert_eq!(kind(store.complete_upload(&key, &id, &wrong, &NONE).await), Invalid);
    assert!(store.head(&key).await.is_err(), "not there before it is complete");
    let etag = store.complete_upload(&key, &id, &parts, &Precondition::Absent).await.unwrap();
    assert!(etag.as_str().ends_with("-2"), "{etag}");
    assert_eq!(read(&store, "k", ByteRange::new(0, 5), &etag).await.unwrap(), b"abc23");
    assert_eq!(store.head(&key).await.unwrap().content_type, options.content_type);
    assert_eq!(kind(store.complete_upload(&key, &id, &parts, &NONE).await), NoSuchUpload);
    assert_eq!(kind(store.list_parts(&key, &id).await), NoSuchUpload);
    store.abort_upload(&key, &id).await.unwrap();
}

#[tokio::test]
async fn a_copy_carries_what_it_is_told_to() {
    let (store, key) = (MemoryStore::new(), Key::from("k"));
    let carried = Carried { tags: Tags::These("a=b&c=d".into()), ..Carried::default() };
    let metadata = Metadata::from([("mode".into(), "1".into())]);
    let written = WriteOptions { metadata, content_type: None, carried: Some(carried) };
    store.put(&key, Summed::of("bytes"), &written, &NONE).await.unwrap();
    let head = store.head(&key).await.unwrap();
    assert_eq!(head.carried.tags, Tags::Counted(2), "a HEAD counts them");
    let copy = async |target: &str, replace: Option<WriteOptions>, keeps_tags, etag: &ETag| {
        let request = CopyRequest {
            source: Key::from("k"),
            source_etag: Some(etag.clone()),
            target: Key::from(target),
            replace,
            keeps_tags,
            storage: Storage::default(),
            precondition: NONE,
        };
        store.copy(&request).await
    };
    assert_eq!(kind(copy("c", None, true, &ETag::new("old")).await), ErrorKind::PreconditionFailed);
    assert_eq!(kind(copy("k", None, true, &head.etag).await), ErrorKind::Invalid);
    for (replace, keeps_tags, mode, tags) in [
        (None, false, true, true),
        (Some(options()), true, false, true),
        (Some(options()), false, false, false),
    ] {
        assert_eq!(copy("c", replace, keeps_tags, &head.etag).await.unwrap(), head.etag);
        let copied = store.head(&Key::from("c")).await.unwrap();
        assert_eq!(copied.metadata.contains_key("mode"), mode);
        assert_eq!(store.tags(&Key::from("c")).await.unwrap() != Tags::None, tags);
    }
}

#[tokio::test]
async fn what_a_store_cannot_do_it_refuses() {
    let capabilities = Capabilities {
        conditional_writes: false,
        conditional_deletes: false,
        conditional_copies: false,
        equal_parts: true,
        lists_uploads: false,
        copies_parts: false,
        marker_metadata: false,
        tells_sums: false,
        tells_part_sums: false,
        keeps_folders: true,
    };
    let store = MemoryStore::of(Shape { capabilities, ..Shape::default() });
    let key = Key::from("a/b/");
    let absent = store.put(&key, Summed::of(""), &options(), &Precondition::Absent).await;
    assert_eq!(kind(absent), ErrorKind::Unsupported);
    assert_eq!(kind(store.list_uploads(&key).await), ErrorKind::Unsupported);
    store.put(&key, Summed::of(""), &options().marked(), &NONE).await.unwrap();
    assert!(store.head(&key).await.unwrap().metadata.is_empty());
    let id = store.create_upload(&key, &options()).await.unwrap().upload_id;
    let etag = ETag::new("e");
    let copy = store.upload_part_copy(&key, &id, 1, &key, &etag, ByteRange::new(0, 1)).await;
    assert_eq!(kind(copy), ErrorKind::Unsupported);
    for (number, bytes) in [(1, "aa"), (2, "b"), (3, "c")] {
        store.upload_part(&key, &id, number, PartBody::Whole(Summed::of(bytes))).await.unwrap();
    }
    let parts = store.list_parts(&key, &id).await.unwrap();
    let complete = async |parts| store.complete_upload(&key, &id, parts, &NONE).await;
    assert_eq!(kind(complete(&parts).await), ErrorKind::Invalid, "of unequal parts");
    assert!(complete(&parts[..2]).await.is_ok(), "but for the last");
    // Folders go from below, each by its own DELETE.
    let listed = async || {
        let request = ListRequest { by_directory: true, ..ListRequest::default() };
        store.list(&request).await.unwrap().common_prefixes
    };
    store.delete(&key, None).await.unwrap();
    assert!(store.head(&Key::from("a/")).await.unwrap().is_folder_alone());
    assert_eq!(listed().await, [Key::from("a/")]);
    store.delete(&Key::from("a/"), None).await.unwrap();
    assert!(listed().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rule_is_for_the_requests_that_it_names() {
    use ErrorKind::*;
    let (store, key) = (MemoryStore::new(), Key::from("k"));
    let etag = put(&store, "k", "foobar").await;
    let whole = ByteRange::new(0, 6);
    let rule = store.on("HeadObject").of("k").times(2).then(Fault::Refused(Denied));
    store.on("HeadObject").of("k").then(Fault::Refused(Throttled));
    assert_eq!(kind(store.head(&Key::from("other")).await), NotFound);
    assert!(read(&store, "k", whole, &etag).await.is_ok());
    let heads = [kind(store.head(&key).await), kind(store.head(&key).await)];
    assert_eq!((heads, rule.left()), ([Denied, Denied], 0));
    assert_eq!(kind(store.head(&key).await), Throttled);
    assert!(store.head(&key).await.is_ok());
    assert_eq!(store.count("HeadObject"), 5);
    assert_eq!(store.requests()[2].range, Some(whole));

    store.on("PutObject").then(Fault::Lost(Timeout));
    assert_eq!(kind(store.put(&key, Summed::of("new"), &options(), &NONE).await), Timeout);
    let etag = store.head(&key).await.unwrap().etag;
    assert_eq!(read(&store, "k", ByteRange::new(0, 3), &etag).await.unwrap(), b"new");
    store.on("GetObject").then(Fault::Flipped);
    assert_eq!(read(&store, "k", ByteRange::new(0, 3), &etag).await.unwrap(), b"ndw");
    store.on("GetObject").then(Fault::Short(2, Transient));
    let down = store.bytes_down();
    assert_eq!(kind(read(&store, "k", ByteRange::new(0, 3), &etag).await), Transient);
    assert_eq!(store.bytes_down() - down, 2);

    let slow = store.on_any().always().then(Fault::Slow(Duration::from_secs(9)));
    let begun = Instant::now();
    store.delete(&key, None).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(9));
    slow.lift();
    assert!(store.head(&key).await.is_err());
    assert_eq!(begun.elapsed(), Duration::from_secs(9));
}

#[tokio::test]
async fn what_is_held_takes_effect_when_it_is_let_go() {
    for (answer, there) in [(false, false), (true, true)] {
        let (store, gate) = (MemoryStore::new(), Gate::shut());
        let fault = if answer { Fault::Unanswered } else { Fault::Held };
        store.on("PutObject").always().then(fault(gate.clone()));
        let key = Key::from("k");
        let options = options();
        let put = store.put(&key, Summed::of("x"), &options, &NONE);
        tokio::pin!(put);
        for _ in 0..3 {
            assert!(futures_util::poll!(put.as_mut()).is_pending());
        }
        assert_eq!(store.under_way("PutObject"), (1, 1));
        assert_eq!(store.listed(&key).is_some(), there);
        gate.admit(1);
        put.await.unwrap();
        assert_eq!(store.under_way("PutObject"), (0, 1));
        assert!(store.listed(&key).is_some());
        // One that is dropped where it hangs is under way no longer.
        let other = clock::timeout(Duration::from_millis(1), put_again(&store)).await;
        assert!(other.is_err());
        assert_eq!(store.under_way("PutObject"), (0, 1));
    }
}

async fn put_again(store: &MemoryStore) {
    put(store, "other", "x").await;
}
