//! What an S3 store has to do for this program to work, checked through the `Store` trait.
//!
//! One suite, run against the embedded store and against SeaweedFS alike, so that neither the client nor
//! either server is trusted alone. Where a server is known to differ, the difference is named in
//! [`KNOWN_DIFFERENCES`] and asserted: a server that mends its ways fails the suite too.

// A test that cannot go on says so by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use ratchetfs::internals::ByteRange;
use ratchetfs::internals::{
    CopyRequest, ETag, ErrorKind, Key, ListRequest, Metadata, Precondition, Store, StoredPart,
    WriteOptions,
};
use ratchetfs::internals::{Provider, S3Settings, S3Store};

use crate::support;

/// How servers differ from what the suite asks for: (server, what).
const KNOWN_DIFFERENCES: &[(&str, Difference)] = &[
    // `a//b` becomes `a/b`, a key's `\` becomes `/`.
    ("seaweedfs", Difference::FoldsDoubleSlashes),
    ("seaweedfs", Difference::FoldsBackslashes),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    FoldsDoubleSlashes,
    FoldsBackslashes,
}

/// A server under test, with a fresh bucket.
struct Subject {
    name: &'static str,
    store: S3Store,
}

impl Subject {
    fn differs(&self, difference: Difference) -> bool {
        KNOWN_DIFFERENCES.contains(&(self.name, difference))
    }
}

/// Where a bucket is.
struct Bucket {
    endpoint: String,
    name: String,
    provider: Provider,
}

fn settings(bucket: &Bucket) -> S3Settings {
    let mut settings = S3Settings::new(&bucket.name);
    settings.endpoint_url = Some(bucket.endpoint.clone());
    settings.region = Some("us-east-1".to_owned());
    settings.provider = bucket.provider;
    settings.credentials = Some(support::credentials());
    settings
}

const PART: usize = 5 << 20;

/// Bytes that differ from place to place.
fn content(len: usize, seed: u8) -> Bytes {
    let mut state = u32::from(seed) + 1;
    let mut bytes = Vec::with_capacity(len);
    for _ in 0..len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.push((state >> 24) as u8);
    }
    bytes.into()
}

fn plain() -> WriteOptions {
    WriteOptions::default()
}

async fn put(store: &dyn Store, key: &str, body: &Bytes) -> ETag {
    store.put(&Key::from(key), body.clone().into(), &plain(), &Precondition::None).await.unwrap()
}

async fn get(store: &dyn Store, key: &Key, range: ByteRange, etag: &ETag) -> Vec<u8> {
    let body = store.get(key, range, etag).await.unwrap();
    let chunks: Vec<Bytes> = body.bytes.try_collect().await.unwrap();
    chunks.concat()
}

async fn list_all(store: &dyn Store, request: ListRequest) -> (Vec<Key>, Vec<Key>) {
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    let mut request = request;
    loop {
        let page = store.list(&request).await.unwrap();
        keys.extend(page.objects.into_iter().map(|object| object.key));
        prefixes.extend(page.common_prefixes);
        let Some(continuation) = page.continuation else { return (keys, prefixes) };
        request.continuation = Some(continuation);
    }
}

/// Every check, one after the other, on one bucket; each uses its own prefix.
async fn suite(subject: &Subject) {
    let store: &dyn Store = &subject.store;
    subject.store.probe(&Key::default()).await.unwrap();
    objects_come_back_as_they_were_put(store).await;
    ranges_are_exact(store).await;
    other_versions_are_refused(store).await;
    metadata_comes_back(store).await;
    deletes_succeed_twice(store).await;
    any_key_round_trips(subject).await;
    listings_are_ordered_and_paged(store).await;
    directories_fold(store).await;
    copies_keep_or_replace_metadata(store).await;
    uploads_complete_from_their_parts(store).await;
    uploads_can_be_left_and_found_again(store).await;
    wrong_parts_are_refused(store).await;
    parts_are_copied_inside_the_store(store).await;
    conditional_writes_hold(store).await;
    one_of_many_exclusive_creations_wins(store).await;
    conditional_deletions_hold(store).await;
    conditional_copies_hold(store).await;
}

async fn objects_come_back_as_they_were_put(store: &dyn Store) {
    for len in [0_usize, 1, 4096, 1 << 20] {
        let name = format!("put/{len}");
        let body = content(len, 1);
        let before = SystemTime::now() - Duration::from_secs(5);
        let etag = put(store, &name, &body).await;
        let key = Key::from(&*name);
        let head = store.head(&key).await.unwrap();
        assert_eq!((head.len, &head.etag), (len as u64, &etag));
        assert!(head.last_modified > before);
        if len > 0 {
            let whole = ByteRange::new(0, len as u64);
            assert_eq!(get(store, &key, whole, &etag).await, body);
        }
    }
    let err = store.head(&Key::from("put/none")).await.unwrap_err();
    assert_eq!(err.kind, ErrorKind::NotFound);
}

async fn ranges_are_exact(store: &dyn Store) {
    let body = content(100_000, 2);
    let etag = put(store, "range", &body).await;
    let key = Key::from("range");
    for (start, end) in [(0, 1), (0, 100_000), (99_999, 100_000), (5, 7), (1000, 70_000)] {
        let bytes = get(store, &key, ByteRange::new(start, end), &etag).await;
        assert_eq!(bytes, body[start as usize..end as usize]);
    }
    for (start, end) in [(99_999, 100_001), (100_000, 100_001), (0, 100_001)] {
        let outcome = store.get(&key, ByteRange::new(start, end), &etag).await;
        assert_eq!(outcome.err().unwrap().kind, ErrorKind::InvalidRange, "{start}..{end}");
    }
}

async fn other_versions_are_refused(store: &dyn Store) {
    let etag = put(store, "version", &content(10, 3)).await;
    put(store, "version", &content(10, 4)).await;
    let key = Key::from("version");
    let range = ByteRange::new(0, 10);
    let outcome = store.get(&key, range, &etag).await;
    assert_eq!(outcome.err().unwrap().kind, ErrorKind::PreconditionFailed);
    let outcome = store.get(&Key::from("version/none"), range, &etag).await;
    assert_eq!(outcome.err().unwrap().kind, ErrorKind::NotFound);
}

async fn metadata_comes_back(store: &dyn Store) {
    let metadata = Metadata::from([
        ("mtime".to_owned(), "1700000000.123456789".to_owned()),
        ("mode".to_owned(), "33188".to_owned()),
        ("name".to_owned(), "Ünï cödé \u{1f600}".to_owned()),
        ("spaces".to_owned(), " a  b ".to_owned()),
        ("empty".to_owned(), String::new()),
        ("lines".to_owned(), "a\nb".to_owned()),
    ]);
    let content_type = Some("text/x-ratchet".to_owned());
    let options = WriteOptions {
        metadata: metadata.clone(),
        content_type: content_type.clone(),
        ..WriteOptions::default()
    };
    let key = Key::from("metadata");
    let body = content(3, 5);
    let etag = store.put(&key, body.into(), &options, &Precondition::None).await.unwrap();
    let head = store.head(&key).await.unwrap();
    assert_eq!((&head.metadata, &head.content_type), (&metadata, &content_type));
    let body = store.get(&key, ByteRange::new(0, 3), &etag).await.unwrap();
    // What answers a range need not tell the sum of the whole.
    let (mut of_range, mut of_whole) = (body.head, head);
    (of_range.sum, of_whole.sum) = (None, None);
    assert_eq!(of_range, of_whole);
}

async fn deletes_succeed_twice(store: &dyn Store) {
    put(store, "delete/one", &content(1, 6)).await;
    store.delete(&Key::from("delete/one"), None).await.unwrap();
    store.delete(&Key::from("delete/one"), None).await.unwrap();
    let names = ["delete/a b", "delete/<&>\"'", "delete/ü", "delete/line\nend", "delete/c\u{1}"];
    for name in names {
        put(store, name, &content(1, 6)).await;
    }
    let mut keys: Vec<Key> = names.into_iter().map(Key::from).collect();
    keys.push(Key::from("delete/none"));
    for outcome in store.delete_many(&keys).await.unwrap() {
        outcome.unwrap();
    }
    let request = ListRequest { prefix: Key::from("delete/"), ..ListRequest::default() };
    assert_eq!(list_all(store, request).await.0, []);
}

async fn any_key_round_trips(subject: &Subject) {
    let store: &dyn Store = &subject.store;
    let mut names = vec![
        "a b".to_owned(),
        "a+b".to_owned(),
        "100%".to_owned(),
        "%41".to_owned(),
        "#?&=;:@,$!*'()".to_owned(),
        "<xml>&amp;\"".to_owned(),
        "line\nend".to_owned(),
        "tab\tand\u{1}control".to_owned(),
        "emoji \u{1f600}/ü".to_owned(),
        "dots...".to_owned(),
        ".hidden".to_owned(),
        " leading and trailing ".to_owned(),
        "n".repeat(255),
        format!("{0}/{0}/{0}/{0}", "d".repeat(200)),
    ];
    if !subject.differs(Difference::FoldsDoubleSlashes) {
        names.push("a//b".to_owned());
    }
    if !subject.differs(Difference::FoldsBackslashes) {
        names.push("back\\slash".to_owned());
    }
    let names: BTreeSet<String> = names.into_iter().map(|name| format!("keys/{name}")).collect();
    for name in &names {
        let body = Bytes::from(name.clone().into_bytes());
        let etag = put(store, name, &body).await;
        let key = Key::from(name.as_str());
        let whole = ByteRange::new(0, body.len() as u64);
        assert_eq!(get(store, &key, whole, &etag).await, body, "{name:?}");
        assert_eq!(store.head(&key).await.unwrap().len, body.len() as u64, "{name:?}");
        let copy = copy_request(&key, "copied", &etag);
        store.copy(&copy).await.unwrap_or_else(|err| panic!("{name:?}: {err}"));
    }
    let request = ListRequest { prefix: Key::from("keys/"), ..ListRequest::default() };
    let listed: BTreeSet<Key> = list_all(store, request).await.0.into_iter().collect();
    let expected: BTreeSet<Key> = names.iter().map(|name| Key::from(name.as_str())).collect();
    assert_eq!(listed, expected);

    for (difference, name) in
        [(Difference::FoldsDoubleSlashes, "fold/a//b"), (Difference::FoldsBackslashes, "fold/a\\b")]
    {
        if subject.differs(difference) {
            put(store, name, &content(1, 7)).await;
            let request = ListRequest { prefix: Key::from("fold/"), ..ListRequest::default() };
            assert_eq!(list_all(store, request).await.0, [Key::from("fold/a/b")]);
            store.delete(&Key::from("fold/a/b"), None).await.unwrap();
        }
    }
}

async fn listings_are_ordered_and_paged(store: &dyn Store) {
    let mut names: Vec<String> = (0..25).map(|at| format!("list/{at:02}")).collect();
    for name in &names {
        put(store, name, &content(3, 8)).await;
    }
    names.sort();
    let expected: Vec<Key> = names.iter().map(|name| Key::from(name.as_str())).collect();
    let prefix = Key::from("list/");
    for max_keys in [1, 7, 25, 1000] {
        let request = ListRequest {
            prefix: prefix.clone(),
            max_keys: Some(max_keys),
            ..ListRequest::default()
        };
        assert_eq!(list_all(store, request).await.0, expected, "{max_keys}");
    }
    let request = ListRequest {
        prefix: prefix.clone(),
        start_after: Some(Key::from("list/20")),
        ..ListRequest::default()
    };
    assert_eq!(list_all(store, request).await.0, expected[21..]);

    let request = ListRequest { prefix, max_keys: Some(1), ..ListRequest::default() };
    let page = store.list(&request).await.unwrap();
    let head = store.head(&expected[0]).await.unwrap();
    let object = &page.objects[0];
    assert_eq!((object.len, &object.etag), (3, &head.etag));
    let apart = object.last_modified.duration_since(head.last_modified).unwrap_or_default();
    assert!(apart < Duration::from_secs(1));
}

async fn directories_fold(store: &dyn Store) {
    for name in ["dir/a/1", "dir/a/2", "dir/b/", "dir/c", "dir/d/e/f", "dir/p/q"] {
        put(store, name, &Bytes::new()).await;
    }
    let request = |prefix: &str, max_keys| ListRequest {
        prefix: Key::from(prefix),
        by_directory: true,
        max_keys,
        ..ListRequest::default()
    };
    for max_keys in [None, Some(1), Some(2)] {
        let (keys, prefixes) = list_all(store, request("dir/", max_keys)).await;
        assert_eq!(keys, ["dir/c"].map(Key::from), "{max_keys:?}");
        let expected = ["dir/a/", "dir/b/", "dir/d/", "dir/p/"].map(Key::from);
        assert_eq!(prefixes, expected, "{max_keys:?}");
    }
    // A marker is an object of its own directory's listing.
    let (keys, prefixes) = list_all(store, request("dir/b/", None)).await;
    assert_eq!((keys, prefixes), (vec![Key::from("dir/b/")], vec![]));
    let (keys, prefixes) = list_all(store, request("dir/none/", None)).await;
    assert_eq!((keys, prefixes), (vec![], vec![]));
}

fn copy_request(source: &Key, target: &str, etag: &ETag) -> CopyRequest {
    CopyRequest {
        source: source.clone(),
        source_etag: Some(etag.clone()),
        target: Key::from(target),
        replace: None,
        keeps_tags: true,
        storage: Default::default(),
        precondition: Precondition::None,
    }
}

async fn copies_keep_or_replace_metadata(store: &dyn Store) {
    let key = Key::from("copy/source");
    let body = content(1000, 9);
    let metadata = Metadata::from([("mode".to_owned(), "1".to_owned())]);
    let options = WriteOptions { metadata: metadata.clone(), ..WriteOptions::default() };
    let etag = store.put(&key, body.clone().into(), &options, &Precondition::None).await.unwrap();

    let copied = store.copy(&copy_request(&key, "copy/kept", &etag)).await.unwrap();
    let kept = Key::from("copy/kept");
    assert_eq!(get(store, &kept, ByteRange::new(0, 1000), &copied).await, body);
    assert_eq!(store.head(&kept).await.unwrap().metadata, metadata);

    // Onto itself, with other metadata: how attributes of a closed file change.
    let other = Metadata::from([("mode".to_owned(), "2".to_owned())]);
    let replace = Some(WriteOptions { metadata: other.clone(), ..WriteOptions::default() });
    let request = CopyRequest { replace, ..copy_request(&key, "copy/source", &etag) };
    store.copy(&request).await.unwrap();
    let head = store.head(&key).await.unwrap();
    assert_eq!((head.metadata, head.len), (other, 1000));

    let stale = copy_request(&kept, "copy/never", &ETag::new("0123456789abcdef0123456789abcdef"));
    assert_eq!(store.copy(&stale).await.unwrap_err().kind, ErrorKind::PreconditionFailed);
    let none = copy_request(&Key::from("copy/none"), "copy/never", &etag);
    assert_eq!(store.copy(&none).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(store.head(&Key::from("copy/never")).await.unwrap_err().kind, ErrorKind::NotFound);
}

async fn uploads_complete_from_their_parts(store: &dyn Store) {
    let key = Key::from("upload/gaps");
    let metadata = Metadata::from([("mtime".to_owned(), "12".to_owned())]);
    let options = WriteOptions { metadata: metadata.clone(), ..WriteOptions::default() };
    let id = store.create_upload(&key, &options).await.unwrap().upload_id;
    // Out of order, and with gaps between the numbers.
    let bodies = [(9_u32, content(1000, 12)), (2, content(PART, 10)), (5, content(PART, 11))];
    let mut parts = Vec::new();
    for (number, body) in &bodies {
        let etag = store.upload_part(&key, &id, *number, body.clone().into()).await.unwrap();
        parts.push(StoredPart { number: *number, etag, len: body.len() as u64, crc: None });
    }
    parts.sort_by_key(|part| part.number);
    assert_eq!(store.list_parts(&key, &id).await.unwrap(), parts);
    assert_eq!(store.head(&key).await.unwrap_err().kind, ErrorKind::NotFound);
    let etag = store.complete_upload(&key, &id, &parts, &Precondition::None).await.unwrap();

    let head = store.head(&key).await.unwrap();
    let len = 2 * PART as u64 + 1000;
    assert_eq!((head.len, &head.etag, &head.metadata), (len, &etag, &metadata));
    let expected = [&bodies[1].1[..], &bodies[2].1[..], &bodies[0].1[..]].concat();
    assert!(get(store, &key, ByteRange::new(0, len), &etag).await == expected);
    let across = ByteRange::new(PART as u64 - 10, PART as u64 + 10);
    assert_eq!(get(store, &key, across, &etag).await, expected[PART - 10..PART + 10]);
    let gone = store.list_parts(&key, &id).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NoSuchUpload);
}

async fn uploads_can_be_left_and_found_again(store: &dyn Store) {
    let key = Key::from("upload/left behind");
    let id = store.create_upload(&key, &plain()).await.unwrap().upload_id;
    assert_eq!(store.list_parts(&key, &id).await.unwrap(), []);
    let listed = store.list_uploads(&key).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].key, &listed[0].upload_id), (&key, &id));
    store.abort_upload(&key, &id).await.unwrap();
    store.abort_upload(&key, &id).await.unwrap();
    assert_eq!(store.list_uploads(&key).await.unwrap().len(), 0);
    let outcome = store.upload_part(&key, &id, 1, content(10, 13).into()).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::NoSuchUpload);
    let part = StoredPart { number: 1, etag: ETag::new("x"), len: 10, crc: None };
    let outcome = store.complete_upload(&key, &id, &[part], &Precondition::None).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::NoSuchUpload);
}

async fn wrong_parts_are_refused(store: &dyn Store) {
    let key = Key::from("upload/wrong");
    let id = store.create_upload(&key, &plain()).await.unwrap().upload_id;
    let etag = store.upload_part(&key, &id, 1, content(1000, 14).into()).await.unwrap();
    let wrong = ETag::new("0123456789abcdef0123456789abcdef");
    for part in [
        StoredPart { number: 1, etag: wrong, len: 1000, crc: None },
        StoredPart { number: 2, etag: etag.clone(), len: 1000, crc: None },
    ] {
        let outcome = store.complete_upload(&key, &id, &[part], &Precondition::None).await;
        let err = outcome.unwrap_err();
        assert_eq!((err.kind, err.code.as_deref()), (ErrorKind::Invalid, Some("InvalidPart")));
    }
    let part = StoredPart { number: 1, etag, len: 1000, crc: None };
    store.complete_upload(&key, &id, &[part], &Precondition::None).await.unwrap();
}

async fn parts_are_copied_inside_the_store(store: &dyn Store) {
    let source = Key::from("upload/source");
    let body = content(PART + 1000, 15);
    let etag = put(store, "upload/source", &body).await;
    let key = Key::from("upload/from copy");
    let id = store.create_upload(&key, &plain()).await.unwrap().upload_id;
    let range = ByteRange::new(500, 500 + PART as u64);
    let copied = store.upload_part_copy(&key, &id, 1, &source, &etag, range).await.unwrap();
    let tail = content(10, 16);
    let sent = store.upload_part(&key, &id, 2, tail.clone().into()).await.unwrap();
    let parts = [
        StoredPart { number: 1, etag: copied, len: range.len(), crc: None },
        StoredPart { number: 2, etag: sent, len: 10, crc: None },
    ];
    let stale = ETag::new("0123456789abcdef0123456789abcdef");
    let outcome = store.upload_part_copy(&key, &id, 3, &source, &stale, range).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::PreconditionFailed);
    let etag = store.complete_upload(&key, &id, &parts, &Precondition::None).await.unwrap();
    let expected = [&body[500..500 + PART], &tail[..]].concat();
    assert!(get(store, &key, ByteRange::new(0, PART as u64 + 10), &etag).await == expected);
}

async fn conditional_writes_hold(store: &dyn Store) {
    assert!(store.capabilities().conditional_writes, "told by the server's name");
    let key = Key::from("condition");
    let put = async |seed: u8, precondition: Precondition| {
        store.put(&key, content(20, seed).into(), &plain(), &precondition).await
    };
    let first = put(1, Precondition::Absent).await.unwrap();
    let refused = put(2, Precondition::Absent).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::PreconditionFailed);
    let second = put(2, Precondition::Matches(first.clone())).await.unwrap();
    let refused = put(3, Precondition::Matches(first.clone())).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::PreconditionFailed);
    assert_eq!(store.head(&key).await.unwrap().etag, second);

    let none = Key::from("condition/none");
    let matches = Precondition::Matches(first.clone());
    let refused = store.put(&none, content(1, 1).into(), &plain(), &matches).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::PreconditionFailed);

    let id = store.create_upload(&key, &plain()).await.unwrap().upload_id;
    let body = content(30, 4);
    let etag = store.upload_part(&key, &id, 1, body.into()).await.unwrap();
    let parts = [StoredPart { number: 1, etag, len: 30, crc: None }];
    for precondition in [Precondition::Absent, matches] {
        let refused = store.complete_upload(&key, &id, &parts, &precondition).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::PreconditionFailed);
    }
    assert_eq!(store.head(&key).await.unwrap().etag, second);
    let matches = Precondition::Matches(second);
    store.complete_upload(&key, &id, &parts, &matches).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap().len, 30);
}

async fn one_of_many_exclusive_creations_wins(store: &dyn Store) {
    for round in 0..5 {
        let key = Key::from(format!("race/{round}").as_str());
        let options = plain();
        let creations = (0..8).map(|seed| {
            store.put(&key, content(1000, seed).into(), &options, &Precondition::Absent)
        });
        let outcomes = futures_util::future::join_all(creations).await;
        let won: Vec<&ETag> = outcomes.iter().flatten().collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        assert_eq!(store.head(&key).await.unwrap().etag, *won[0]);
    }
}

async fn conditional_deletions_hold(store: &dyn Store) {
    assert!(store.capabilities().conditional_deletes, "told by the server's name");
    let key = Key::from("delete/condition");
    let old = put(store, "delete/condition", &content(20, 1)).await;
    let new = put(store, "delete/condition", &content(20, 2)).await;
    let refused = store.delete(&key, Some(&old)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::PreconditionFailed);
    assert_eq!(store.head(&key).await.unwrap().etag, new);
    store.delete(&key, Some(&new)).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap_err().kind, ErrorKind::NotFound);
    // Some servers say so, others that there is nothing: `store::retry` makes the same of both.
    let gone = store.delete(&key, Some(&new)).await;
    assert!(gone.is_ok() || gone.is_err_and(|err| err.kind == ErrorKind::PreconditionFailed));
}

async fn conditional_copies_hold(store: &dyn Store) {
    assert!(store.capabilities().conditional_copies, "told by the server's name");
    let source = put(store, "copy/condition", &content(20, 1)).await;
    let taken = put(store, "copy/condition/taken", &content(20, 2)).await;
    let copy = async |to: &str, precondition: Precondition| {
        let request = CopyRequest {
            source: Key::from("copy/condition"),
            source_etag: Some(source.clone()),
            target: Key::from(to),
            replace: None,
            keeps_tags: true,
            storage: Default::default(),
            precondition,
        };
        store.copy(&request).await
    };
    for precondition in [Precondition::Absent, Precondition::Matches(source.clone())] {
        let refused = copy("copy/condition/taken", precondition).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::PreconditionFailed);
    }
    let head = store.head(&Key::from("copy/condition/taken")).await.unwrap();
    assert_eq!(head.etag, taken);
    copy("copy/condition/free", Precondition::Absent).await.unwrap();
    copy("copy/condition/taken", Precondition::Matches(taken)).await.unwrap();
    let head = store.head(&Key::from("copy/condition/taken")).await.unwrap();
    assert_eq!(head.etag, source);
}

/// Wrong settings are told apart by kind and code.
async fn refusals(bucket: &Bucket) {
    let good = settings(bucket);
    let probe = async |settings: S3Settings| {
        let store = S3Store::connect(settings).await.unwrap();
        store.probe(&Key::default()).await
    };
    let mut wrong = good.clone();
    wrong.bucket = "no-such-bucket-here".to_owned();
    assert_eq!(probe(wrong).await.unwrap_err().kind, ErrorKind::NoSuchBucket);

    let mut wrong = good.clone();
    let credentials = wrong.credentials.as_mut().unwrap();
    credentials.secret_key = "not-the-secret".to_owned();
    let err = probe(wrong).await.unwrap_err();
    assert_eq!(err.kind, ErrorKind::Denied);
    assert_eq!(err.code.as_deref(), Some("SignatureDoesNotMatch"));
    assert!(!err.to_string().contains("not-the-secret"));

    let mut wrong = good.clone();
    wrong.credentials.as_mut().unwrap().access_key = "UNKNOWN".to_owned();
    let err = probe(wrong).await.unwrap_err();
    assert_eq!(err.code.as_deref(), Some("InvalidAccessKeyId"), "{err}");

    let mut wrong = good.clone();
    wrong.no_sign_request = true;
    assert_eq!(probe(wrong).await.unwrap_err().kind, ErrorKind::Denied);

    // A port that nothing listens on: taken from the system and given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut wrong = good;
    wrong.endpoint_url = Some(format!("http://{free}"));
    let err = probe(wrong).await.unwrap_err();
    assert_eq!(err.kind, ErrorKind::Transient);
    assert!(ratchetfs::internals::cure(&err).contains("nothing listens"), "{err}");
}

async fn run(name: &'static str, bucket: &Bucket) {
    let store = S3Store::connect(settings(bucket)).await.unwrap();
    suite(&Subject { name, store }).await;
    refusals(bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_conforms() {
    let server = support::Embedded::start().await;
    let bucket = Bucket {
        endpoint: server.endpoint(),
        name: support::BUCKET.to_owned(),
        provider: Provider::Embedded,
    };
    run("embedded", &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_conforms() {
    let server = support::weed::Weed::shared().await;
    let bucket = Bucket {
        endpoint: server.endpoint().to_owned(),
        name: server.fresh_bucket().await,
        // Told by its Server header.
        provider: Provider::Auto,
    };
    run("seaweedfs", &bucket).await;
}
