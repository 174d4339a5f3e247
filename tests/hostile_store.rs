//! A store that answers nonsense: every operation ends in an error, within a bound of requests, time and memory.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ratchetfs::internals::ByteRange;
use ratchetfs::internals::{
    ETag, ErrorKind, Key, ListRequest, Precondition, Store, StoreError, StoredPart,
    TransferSettings, UploadId, WriteOptions, build,
};
use ratchetfs::internals::{Provider, S3Settings, S3Store};

use crate::support;

use support::hostile::Hostile;

/// No operation needs longer, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(60);

async fn client(server: &Hostile) -> S3Store {
    client_of(server, Provider::Other).await
}

async fn client_of(server: &Hostile, provider: Provider) -> S3Store {
    let mut settings = S3Settings::new("b");
    settings.endpoint_url = Some(server.endpoint());
    settings.provider = provider;
    settings.region = Some("us-east-1".to_owned());
    settings.connections.request_timeout = Duration::from_secs(5);
    settings.credentials = Some(support::credentials());
    S3Store::connect(settings).await.unwrap()
}

/// A server whose answers are all 200 with such a body; `#` in it is the number of the request.
fn answering(body: &'static str) -> Hostile {
    let count = AtomicU64::new(0);
    Hostile::start(move |_| {
        let count = count.fetch_add(1, Ordering::SeqCst);
        let etag = "etag: \"x\"\r\n".to_owned();
        (200, etag, body.replace('#', &count.to_string()).into_bytes())
    })
}

/// Goes through a whole listing, as a program does.
async fn list(store: &dyn Store, prefix: &str) -> Result<usize, StoreError> {
    let mut request = ListRequest { prefix: Key::from(prefix), ..ListRequest::default() };
    let mut entries = 0;
    loop {
        let page = store.list(&request).await?;
        entries += page.objects.len() + page.common_prefixes.len();
        if page.continuation.is_none() {
            return Ok(entries);
        }
        request.continuation = page.continuation;
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it does not end")
}

const OBJECT: &str =
    "<LastModified>2024-01-02T03:04:05Z</LastModified><ETag>x</ETag><Size>1</Size>";

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_does_not_move_on_is_an_error() {
    let more = "<IsTruncated>true</IsTruncated>";
    let bodies = [
        format!(
            "<ListBucketResult>{more}<NextContinuationToken>t#</NextContinuationToken></ListBucketResult>"
        ),
        format!(
            "<ListBucketResult>{more}<NextContinuationToken>t#</NextContinuationToken><Contents><Key>d/a</Key>{OBJECT}</Contents></ListBucketResult>"
        ),
        format!(
            "<ListBucketResult>{more}<NextContinuationToken>t</NextContinuationToken><Contents><Key>d/a#</Key>{OBJECT}</Contents></ListBucketResult>"
        ),
        format!("<ListBucketResult>{more}</ListBucketResult>"),
    ];
    for body in bodies {
        let server = answering(Box::leak(body.clone().into_boxed_str()));
        let err = within(list(&client(&server).await, "d/")).await.unwrap_err();
        assert_eq!(err.kind, ErrorKind::Corrupt, "{body}");
        assert!(server.requests() < 2_000, "{} requests", server.requests());
    }
    // Tokens that take turns.
    let server = Hostile::start(|line| {
        let (token, key) = if line.contains("token=a") { ("b", "2") } else { ("a", "1") };
        let next = format!("<NextContinuationToken>{token}</NextContinuationToken>");
        let entry = format!("<Contents><Key>{key}</Key>{OBJECT}</Contents>");
        let body = format!(
            "<ListBucketResult><IsTruncated>true</IsTruncated>{next}{entry}</ListBucketResult>"
        );
        (200, String::new(), body.into_bytes())
    });
    let err = within(list(&client(&server).await, "")).await.unwrap_err();
    assert_eq!(err.kind, ErrorKind::Corrupt);
    assert!(server.requests() < 10, "{} requests", server.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_parts_or_uploads_ends() {
    let parts = [
        "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>#</NextPartNumberMarker></ListPartsResult>",
        "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>#</NextPartNumberMarker><Part><PartNumber>1</PartNumber><ETag>x</ETag><Size>1</Size></Part></ListPartsResult>",
        "<ListPartsResult><IsTruncated>true</IsTruncated></ListPartsResult>",
    ];
    let key = Key::from("k");
    for body in parts {
        let server = answering(body);
        let store = client(&server).await;
        let listed = within(store.list_parts(&key, &UploadId("u".to_owned()))).await;
        assert_eq!(listed.unwrap_err().kind, ErrorKind::Corrupt, "{body}");
        assert!(server.requests() <= 10_001, "{} requests", server.requests());
    }
    // Markers that take turns.
    let server = Hostile::start(|line| {
        let marker = if line.contains("marker=1000") { 2000 } else { 1000 };
        let part =
            "<Part><PartNumber>1</PartNumber><ETag>x</ETag><Size>1</Size></Part>".repeat(1000);
        let body = format!(
            "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>{marker}</NextPartNumberMarker>{part}</ListPartsResult>"
        );
        (200, String::new(), body.into_bytes())
    });
    let store = client(&server).await;
    let listed = within(store.list_parts(&key, &UploadId("u".to_owned()))).await;
    assert_eq!(listed.unwrap_err().kind, ErrorKind::Corrupt);
    assert!(server.requests() < 20, "{} requests", server.requests());

    let uploads = [
        "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k#</NextKeyMarker></ListMultipartUploadsResult>",
        "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k#</NextKeyMarker><Upload><Key>k</Key><UploadId>u</UploadId></Upload></ListMultipartUploadsResult>",
        "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k#</NextKeyMarker><Upload><Key>k</Key><UploadId>u#</UploadId></Upload></ListMultipartUploadsResult>",
    ];
    for body in uploads {
        let server = answering(body);
        let listed = within(client(&server).await.list_uploads(&Key::from("k"))).await;
        assert_eq!(listed.unwrap_err().kind, ErrorKind::Corrupt, "{body}");
        assert!(server.requests() <= 2_000, "{} requests", server.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outside_the_prefix_and_pages_of_others_are_not_believed() {
    for body in [
        format!(
            "<ListBucketResult><Contents><Key>other</Key>{OBJECT}</Contents></ListBucketResult>"
        ),
        "<ListBucketResult><CommonPrefixes><Prefix>e/</Prefix></CommonPrefixes></ListBucketResult>"
            .to_owned(),
        // An empty listing otherwise.
        "<html><body>Please log in</body></html>".to_owned(),
    ] {
        let server = answering(Box::leak(body.clone().into_boxed_str()));
        let err = within(list(&client(&server).await, "d/")).await.unwrap_err();
        assert_eq!(err.kind, ErrorKind::Corrupt, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_cannot_be_are_errors() {
    let key = Key::from("k");
    for (len, range) in [(u64::MAX, u64::MAX), (1 << 60, 1 << 60)] {
        let server = Hostile::start(move |line| {
            let headers = "etag: \"x\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
            if line.starts_with("HEAD") {
                return (200, format!("{headers}content-length: {len}\r\n"), Vec::new());
            }
            let range = format!("content-range: bytes 0-9/{range}\r\n");
            (206, format!("{headers}{range}"), vec![0; 10])
        });
        let store = client(&server).await;
        assert!(within(store.head(&key)).await.is_err());
        let got = within(store.get(&key, ByteRange::new(0, 10), &ETag::new("x"))).await;
        assert_eq!(got.err().unwrap().kind, ErrorKind::Corrupt);
    }
    let size = "<LastModified>2024-01-02T03:04:05Z</LastModified><ETag>x</ETag><Size>18446744073709551615</Size>";
    let body =
        format!("<ListBucketResult><Contents><Key>k</Key>{size}</Contents></ListBucketResult>");
    let server = answering(Box::leak(body.into_boxed_str()));
    let err = within(list(&client(&server).await, "")).await.unwrap_err();
    assert_eq!(err.kind, ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_to_wait_for_ever_is_an_error_in_time() {
    let server = Hostile::start(|_| {
        // The sum of a time this long and any full second is more than a time can be.
        std::thread::sleep(Duration::from_millis(1100));
        (503, "retry-after: 18446744073709551615\r\n".to_owned(), Vec::new())
    });
    let settings =
        TransferSettings { timeout: Duration::from_secs(4), ..TransferSettings::default() };
    let (store, _) = build(client(&server).await, &settings);
    let begun = Instant::now();
    let (key, options) = (Key::from("k"), WriteOptions::default());
    let put = store.put(&key, Bytes::from_static(b"x").into(), &options, &Precondition::None);
    assert_eq!(within(put).await.unwrap_err().kind, ErrorKind::Throttled);
    // Its time may end in the middle of the last attempt.
    assert!(within(store.head(&key)).await.unwrap_err().kind.is_retryable());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_costs_little_more_than_its_bytes() {
    for filler in ["<a/>", "<a></a>", "<Contents></Contents>", "<Contents><Key>"] {
        let server = Hostile::start(move |_| {
            let body = format!("<ListBucketResult>{}", filler.repeat((15 << 20) / filler.len()));
            (200, String::new(), body.into_bytes())
        });
        let store = client(&server).await;
        let (highest, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (noted, ends) = (highest.clone(), is_over.clone());
        let watch = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                noted.fetch_max(resident(), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let before = resident();
        let outcome = within(list(&store, "")).await;
        is_over.store(true, Ordering::SeqCst);
        watch.join().unwrap();
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::Corrupt, "{filler}");
        let more = highest.load(Ordering::SeqCst).saturating_sub(before) >> 20;
        // The server is in this process, too, with its own 15 MiB.
        assert!(more < 120, "{filler}: {more} MiB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_does_not_pass_for_done() {
    let error = b"<?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>".to_vec();
    for (status, body) in [(202, Vec::new()), (203, Vec::new()), (200, error)] {
        let answered = body.clone();
        let server =
            Hostile::start(move |_| (status, "etag: \"x\"\r\n".to_owned(), answered.clone()));
        let store = client(&server).await;
        let key = Key::from("k");
        let body = Bytes::from_static(b"x");
        let options = WriteOptions::default();
        let put = store.put(&key, body.clone().into(), &options, &Precondition::None).await;
        let part = store.upload_part(&key, &UploadId("u".to_owned()), 1, body.into()).await;
        let deleted = store.delete(&key, None).await;
        let aborted = store.abort_upload(&key, &UploadId("u".to_owned())).await;
        for outcome in [put.map(drop), part.map(drop), deleted, aborted] {
            assert!(outcome.unwrap_err().kind.is_retryable(), "{status}");
        }
    }
}

/// How each operation ends, by its name.
async fn all_refused(store: &dyn Store) -> Vec<(&'static str, StoreError)> {
    let (key, upload) = (Key::from("k"), UploadId("u".to_owned()));
    let (body, options, none) =
        (Bytes::from_static(b"x"), WriteOptions::default(), Precondition::None);
    let part = StoredPart { number: 1, etag: ETag::new("x"), len: 1, crc: None };
    let range = ByteRange::new(0, 1);
    let copy = ratchetfs::internals::CopyRequest {
        source: key.clone(),
        source_etag: None,
        target: Key::from("to"),
        replace: None,
        keeps_tags: true,
        storage: Default::default(),
        precondition: Precondition::None,
    };
    let ended = vec![
        ("get", store.get(&key, range, &ETag::new("y")).await.map(drop)),
        ("head", store.head(&key).await.map(drop)),
        ("tags", store.tags(&key).await.map(drop)),
        ("list", store.list(&ListRequest::default()).await.map(drop)),
        ("put", store.put(&key, body.clone().into(), &options, &none).await.map(drop)),
        ("delete", store.delete(&key, None).await),
        ("delete_many", store.delete_many(std::slice::from_ref(&key)).await.map(drop)),
        ("copy", store.copy(&copy).await.map(drop)),
        ("create_upload", store.create_upload(&key, &options).await.map(drop)),
        ("upload_part", store.upload_part(&key, &upload, 1, body.into()).await.map(drop)),
        (
            "upload_part_copy",
            store.upload_part_copy(&key, &upload, 1, &key, &part.etag, range).await.map(drop),
        ),
        (
            "complete_upload",
            store
                .complete_upload(&key, &upload, std::slice::from_ref(&part), &none)
                .await
                .map(drop),
        ),
        ("abort_upload", store.abort_upload(&key, &upload).await),
        ("list_parts", store.list_parts(&key, &upload).await.map(drop)),
        ("list_uploads", store.list_uploads(&key).await.map(drop)),
    ];
    ended.into_iter().filter_map(|(name, ended)| Some((name, ended.err()?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refuses_an_answer_tells_its_request_id() {
    let ids = "x-amz-request-id: 4442587FB7D0A2F9\r\nx-amz-id-2: vlR7/Pnp=\r\n";
    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    // A refusal, one behind a 200, an answer that is none, and one that tells of another object than was asked for.
    let nonsense = "<html>welcome</html>";
    for (status, body) in [(403, denied), (403, ""), (200, denied), (202, ""), (200, nonsense)] {
        let server = Hostile::start(move |_| (status, ids.to_owned(), body.into()));
        let refused = all_refused(&client(&server).await).await;
        // What has no answer to read is done when it is said to be.
        let deletes = if body == nonsense { 2 } else { 0 };
        assert_eq!(refused.len(), 15 - deletes, "{status} {body}: {refused:?}");
        for (name, err) in refused {
            let told = err.request_id.as_ref().map(ToString::to_string);
            assert_eq!(told.as_deref(), Some("4442587FB7D0A2F9 vlR7/Pnp="), "{name}: {err}");
            assert!(err.to_string().ends_with("(request 4442587FB7D0A2F9 vlR7/Pnp=)"), "{err}");
            assert!(!err.cause().contains("4442"), "{err}");
        }
    }
    // Of one key among others.
    let body = "<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code></Error></DeleteResult>";
    let server = Hostile::start(move |_| (200, ids.to_owned(), body.into()));
    let outcomes = client(&server).await.delete_many(&[Key::from("k")]).await.unwrap();
    assert!(outcomes[0].as_ref().unwrap_err().request_id.is_some());
    // Providers of other names.
    for name in ["x-oss-request-id", "x-tos-request-id"] {
        let server = Hostile::start(move |_| (403, format!("{name}: R\r\n"), Vec::new()));
        let err = client(&server).await.head(&Key::from("k")).await.unwrap_err();
        assert_eq!(err.request_id.unwrap().to_string(), "R", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_no_key_is_the_whole_deletions() {
    let error = |key: &str| {
        format!("<DeleteResult><Error>{key}<Code>AccessDenied</Code></Error></DeleteResult>")
    };
    let keys = [Key::from("a"), Key::from("b"), Key::from("a")];
    for unknown in ["", "<Key></Key>", "<Key>c</Key>"] {
        let server = answering(Box::leak(error(unknown).into_boxed_str()));
        let err = client(&server).await.delete_many(&keys).await.unwrap_err();
        assert_eq!(err.kind, ErrorKind::Denied, "{unknown:?}");
    }
    let server = answering(Box::leak(error("<Key>a</Key>").into_boxed_str()));
    let outcomes = client(&server).await.delete_many(&keys).await.unwrap();
    assert!(outcomes[0].is_err() && outcomes[1].is_ok() && outcomes[2].is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_head_of_all_tells_the_checksum() {
    let server = Hostile::start(|head| {
        let is_asked = head.to_ascii_lowercase().contains("x-amz-checksum-mode: enabled");
        let sum = if is_asked { "x-amz-checksum-crc32c: AAAAAA==\r\n" } else { "" };
        let told = "etag: \"v1\"\r\nlast-modified: Tue, 02 Jan 2024 03:04:05 GMT\r\n";
        (200, format!("server: SeaweedFS\r\n{told}{sum}"), Vec::new())
    });
    let client = client_of(&server, Provider::Auto).await;
    let head = client.head(&Key::from("k")).await.unwrap();
    assert!(head.sum.is_some(), "which store it is shows in that very answer");
}

/// Conditions on a weak ETag fail, as RFC 9110 has it.
fn weak_store() -> Hostile {
    Hostile::start(|head| {
        let told = "etag: W/\"v1\"\r\nlast-modified: Tue, 02 Jan 2024 03:04:05 GMT\r\n";
        if head.to_ascii_lowercase().contains("if-match:") {
            return (412, String::new(), Vec::new());
        }
        if head.starts_with("PUT") {
            let copied = "<CopyObjectResult><ETag>W/&quot;v1&quot;</ETag></CopyObjectResult>";
            return (200, told.to_owned(), copied.into());
        }
        let range = if head.starts_with("GET") { "content-range: bytes 0-3/4\r\n" } else { "" };
        let status = if head.starts_with("GET") { 206 } else { 200 };
        (status, format!("{told}{range}"), b"abcd".to_vec())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_with_weak_etags_are_read_and_copied() {
    use futures_util::TryStreamExt as _;

    let server = weak_store();
    let client = client(&server).await;
    let key = Key::from("k");
    let etag = client.head(&key).await.unwrap().etag;
    let refused = Precondition::Matches(etag.clone());
    let put = client.put(&key, Bytes::new().into(), &WriteOptions::default(), &refused).await;
    assert_eq!(put.unwrap_err().kind, ErrorKind::Unsupported);

    let (store, _) = build(client, &TransferSettings::default());
    let range = ByteRange::new(0, 4);
    let body = store.get(&key, range, &etag).await.unwrap();
    let bytes: Vec<Bytes> = body.bytes.try_collect().await.unwrap();
    assert_eq!(bytes.concat(), b"abcd");
    let copy = |etag: &ETag| ratchetfs::internals::CopyRequest {
        source: key.clone(),
        source_etag: Some(etag.clone()),
        target: Key::from("to"),
        replace: None,
        keeps_tags: true,
        storage: Default::default(),
        precondition: Precondition::None,
    };
    store.copy(&copy(&etag)).await.unwrap();
    let upload = UploadId("u".to_owned());
    store.upload_part_copy(&Key::from("to"), &upload, 1, &key, &etag, range).await.unwrap();

    for other in [ETag::new("W/\"v2\""), ETag::new("v1")] {
        let err = store.get(&key, range, &other).await.err().unwrap();
        assert_eq!(err.kind, ErrorKind::PreconditionFailed, "{other}");
        let err = store.copy(&copy(&other)).await.unwrap_err();
        assert_eq!(err.kind, ErrorKind::PreconditionFailed, "{other}");
    }
}

/// What terminals obey, in all ways that XML has for it, and what would make two lines of one.
#[cfg(feature = "embedded")]
const EVIL: &str = "&#x1b;]0;title&#7;\u{9b}2J\u{202e}&#10;root: all is well";

#[cfg(feature = "embedded")]
fn hostile_in_words() -> Hostile {
    let error = format!("<Error><Code>Evil{EVIL}</Code><Message>it says {EVIL}</Message></Error>");
    Hostile::start(move |head| {
        let told = "etag: \"x\"\r\nlast-modified: Tue, 02 Jan 2024 03:04:05 GMT\r\n".to_owned();
        if head.starts_with("GET") && head.contains("list-type=2") {
            let key = format!("<Contents><Key>a%1B%5D0%3Bx%07%C2%9B%0Ab</Key>{OBJECT}</Contents>");
            let body = format!(
                "<ListBucketResult><EncodingType>url</EncodingType>{key}</ListBucketResult>"
            );
            return (200, String::new(), body.into_bytes());
        }
        if head.starts_with("HEAD") {
            return (200, format!("{told}content-length: 1\r\n"), Vec::new());
        }
        (403, "x-amz-request-id: \u{9b}2J\r\n".to_owned(), error.clone().into_bytes())
    })
}

#[cfg(feature = "embedded")]
#[test]
fn nothing_a_store_says_is_obeyed_by_terminals_or_the_log() {
    use support::mount::{Mount, sh, wait_until};

    let server = hostile_in_words();
    let options = ["--log-level", "debug"];
    let mut mount = Mount::new(&server.endpoint(), "s3://test-bucket", &options);
    mount.mount();
    sh(mount.dir.path(), "cat mnt/a* 2>&1 || true; (echo x > mnt/new) 2>&1 || true");
    wait_until("told of", || mount.status().is_some_and(|status| !status.recent_errors.is_empty()));
    let shown = mount.mount_point().display().to_string();
    let mut all = vec![("log", mount.log())];
    for arguments in [
        &["status", &shown][..],
        &["status", "--json", &shown],
        &["uploads", "list", &shown],
        &["cache", "info", &shown],
    ] {
        let output = mount.run(arguments);
        all.push((arguments[0], support::text(&output.stdout) + &support::text(&output.stderr)));
    }
    let mut doctor = mount.program();
    let output = doctor.args(["doctor", "s3://test-bucket"]).args(mount.store_options()).output();
    all.push(("doctor", support::text(&output.unwrap().stdout)));
    let obeyed = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
    for (name, text) in &all {
        assert!(!text.contains(obeyed), "{name}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("root:")), "{name}: {text}");
    }
    // It was said, and is shown as what it is.
    for (name, text) in [&all[0], &all[1], &all[5]] {
        assert!(text.contains("it says") && text.contains("\\u{9b}2J"), "{name}: {text}");
    }
    mount.unmount();
}
