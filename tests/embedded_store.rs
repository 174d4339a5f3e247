//! The embedded store over HTTP: what it keeps, what it refuses, what a restart leaves.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use http::Method;
use ratchetfs::embedded::Operation;
use support::raw::Client;
use support::{BUCKET, Embedded};

const MIB: usize = 1 << 20;

fn key(name: &str) -> String {
    format!("/{BUCKET}/{name}")
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31 + at / 251 + seed) % 256) as u8).collect()
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let store = Embedded::start().await;
    let refused = Client::new(&store.endpoint()).with_secret_key("wrong").get(&key("k"), &[]).await;
    assert_eq!((refused.status, refused.element("Code").as_str()), (403, "SignatureDoesNotMatch"));
    let anonymous = reqwest::get(format!("{}{}", store.endpoint(), key("k"))).await.unwrap();
    assert_eq!(anonymous.status(), 403);
}

#[tokio::test]
async fn an_object_comes_back_with_what_was_said_of_it() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    let headers = [
        ("content-type", "text/x"),
        ("x-amz-meta-mtime", "12.5"),
        ("x-amz-storage-class", "STANDARD_IA"),
    ];
    let put = client.put(&key("k"), &headers, "hello").await;
    assert_eq!(put.header("etag"), "\"5d41402abc4b2a76b9719d911017c592\"");
    let got = client.get(&key("k"), &[]).await;
    assert_eq!((got.status, got.text().as_str()), (200, "hello"));
    for (name, value) in headers {
        assert_eq!(got.header(name), value);
    }
    assert_eq!(got.header("accept-ranges"), "bytes");
    let head = client.send(Method::HEAD, &key("k"), &[], "").await.unwrap();
    assert_eq!((head.status, head.header("content-length").as_str()), (200, "5"));
    assert_eq!(client.delete(&key("k")).await.status, 204);
    assert_eq!(client.get(&key("k"), &[]).await.element("Code"), "NoSuchKey");
    assert_eq!(client.get("/no-such-bucket/k", &[]).await.element("Code"), "NoSuchBucket");
}

#[tokio::test]
async fn reads_obey_ranges_and_conditions() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    let etag = client.put(&key("k"), &[], "0123456789").await.header("etag");
    let part = client.get(&key("k"), &[("range", "bytes=2-4"), ("if-match", &etag)]).await;
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    assert_eq!(client.get(&key("k"), &[("range", "bytes=-3")]).await.text(), "789");
    assert_eq!(client.get(&key("k"), &[("range", "bytes=8-99")]).await.text(), "89");
    assert_eq!(client.get(&key("k"), &[("range", "bytes=10-")]).await.status, 416);
    assert_eq!(client.get(&key("k"), &[("if-match", "\"other\"")]).await.status, 412);
    assert_eq!(client.get(&key("k"), &[("if-none-match", &etag)]).await.status, 304);
}

#[tokio::test]
async fn any_key_comes_back_in_a_listing() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    let long = "x".repeat(1024);
    let encoded = [
        "a//b",
        "d/",
        "d/x",
        "p",
        "p/q",
        "sp%20ace",
        "plus%2B",
        "%25%23%3F%26%5C",
        "nl%0A",
        "%F0%9F%98%80",
        &long,
    ];
    for name in encoded {
        let put = client.put(&key(name), &[], name).await;
        assert_eq!(put.status, 200, "{name}: {}", put.text());
        assert_eq!(client.get(&key(name), &[]).await.text(), name);
    }
    let listed = client.get(&format!("/{BUCKET}?list-type=2&encoding-type=url"), &[]).await.text();
    for name in [
        "a//b",
        "d/",
        "d/x",
        "p",
        "p/q",
        "sp+ace",
        "plus%2B",
        "%25%23%3F%26%5C",
        "nl%0A",
        "%F0%9F%98%80",
        &long,
    ] {
        assert!(listed.contains(&format!("<Key>{name}</Key>")), "{name} in {listed}");
    }
    assert_eq!(listed.matches("<ETag>").count(), encoded.len());
    let target = format!("/{BUCKET}?list-type=2&delimiter=%2F&max-keys=3");
    let first = client.get(&target, &[]).await;
    assert_eq!(first.element("IsTruncated"), "true");
    let token = first.element("NextContinuationToken");
    let second = client.get(&format!("{target}&continuation-token={token}"), &[]).await;
    assert!(
        !second.text().contains("<Prefix>d/</Prefix>")
            || !first.text().contains("<Prefix>d/</Prefix>")
    );
    let too_long = client.put(&key(&"x".repeat(1025)), &[], "").await;
    assert_eq!(too_long.element("Code"), "KeyTooLongError");
}

#[tokio::test]
async fn dots_are_keys_like_any_other() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    for name in [".", "..", "a/../b", "./c"] {
        assert_eq!(client.put_verbatim(&key(name), "x").await, 200, "{name}");
    }
    let listed = client.get(&format!("/{BUCKET}?list-type=2"), &[]).await.text();
    for name in [".", "..", "a/../b", "./c"] {
        assert!(listed.contains(&format!("<Key>{name}</Key>")), "{name} in {listed}");
    }
}

#[tokio::test]
async fn of_racing_conditional_puts_one_wins() {
    let store = Embedded::start().await;
    let endpoint = store.endpoint();
    let race = |headers: [(&'static str, String); 1], len| {
        let endpoint = endpoint.clone();
        async move {
            let puts = (0..8).map(|n| {
                let (client, headers) = (Client::new(&endpoint), headers.clone());
                tokio::spawn(async move {
                    let headers = [(headers[0].0, headers[0].1.as_str())];
                    client.put(&key("k"), &headers, pattern(len, n)).await.status
                })
            });
            let mut statuses = Vec::new();
            for put in puts.collect::<Vec<_>>() {
                statuses.push(put.await.unwrap());
            }
            statuses.sort_unstable();
            statuses
        }
    };
    let one_wins = [200, 412, 412, 412, 412, 412, 412, 412];
    assert_eq!(race([("if-none-match", "*".to_owned())], 2 * MIB).await, one_wins);
    let got = Client::new(&endpoint).get(&key("k"), &[]).await;
    assert_eq!(race([("if-match", got.header("etag"))], 100).await, one_wins);
    let missing = Client::new(&endpoint).put(&key("none"), &[("if-match", "\"x\"")], "").await;
    assert_eq!(missing.element("Code"), "NoSuchKey");
}

#[tokio::test]
async fn an_upload_goes_on_behind_a_restart() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    let (one, two) = (pattern(5 * MIB, 1), pattern(3 * MIB, 2));
    client.put(&key("kept"), &[], "kept").await;
    let id = client.begin(&key("k")).await;
    let first = client.part(&key("k"), &id, 2, one.clone()).await;

    let store = store.restart().await;
    let client = Client::new(&store.endpoint());
    assert_eq!(client.get(&key("kept"), &[]).await.text(), "kept");
    let listed = client.get(&format!("{}?uploadId={id}", key("k")), &[]).await;
    assert_eq!(listed.element("PartNumber"), "2");
    assert_eq!(listed.element("ETag"), first);
    let uploads = client.get(&format!("/{BUCKET}?uploads="), &[]).await;
    assert_eq!(uploads.element("UploadId"), id);
    let second = client.part(&key("k"), &id, 7, two.clone()).await;
    let wrong = client.complete(&key("k"), &id, &[], &[(2, &first), (7, &first)]).await;
    assert_eq!((wrong.status, wrong.element("Code").as_str()), (400, "InvalidPart"));
    let done = client.complete(&key("k"), &id, &[], &[(2, &first), (7, &second)]).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert!(done.element("ETag").ends_with("-2\""), "{}", done.text());

    let store = store.restart().await;
    let client = Client::new(&store.endpoint());
    let got = client.get(&key("k"), &[]).await;
    assert!(got.body == [one, two].concat());
    assert_eq!(got.header("etag"), done.element("ETag"));
    assert!(!client.get(&format!("/{BUCKET}?uploads="), &[]).await.text().contains("<Upload>"));
    assert_eq!(
        client.delete(&format!("{}?uploadId={id}", key("k"))).await.element("Code"),
        "NoSuchUpload"
    );
}

#[tokio::test]
async fn a_conditional_complete_leaves_the_upload_where_it_fails() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    client.put(&key("k"), &[], "there").await;
    let id = client.begin(&key("k")).await;
    let etag = client.part(&key("k"), &id, 1, "new").await;
    let refused = client.complete(&key("k"), &id, &[("if-none-match", "*")], &[(1, &etag)]).await;
    assert_eq!(refused.status, 412);
    assert_eq!(client.get(&key("k"), &[]).await.text(), "there");
    assert_eq!(client.complete(&key("k"), &id, &[], &[(1, &etag)]).await.status, 200);
    assert_eq!(client.get(&key("k"), &[]).await.text(), "new");
}

#[tokio::test]
async fn copies_take_ranges_and_conditions_and_outlive_their_source() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    let bytes = pattern(6 * MIB, 3);
    // A key with a plus and a space, named percent-encoded as the header wants it.
    let etag =
        client.put(&key("a%20b%2Bc"), &[("x-amz-meta-x", "1")], bytes.clone()).await.header("etag");
    let source = format!("{BUCKET}/a%20b%2Bc");
    let from = ("x-amz-copy-source", source.as_str());
    let copied = client.put(&key("copy"), &[from, ("x-amz-copy-source-if-match", &etag)], "").await;
    assert_eq!((copied.status, copied.element("ETag")), (200, etag.clone()), "{}", copied.text());
    let refused =
        client.put(&key("copy"), &[from, ("x-amz-copy-source-if-match", "\"no\"")], "").await;
    assert_eq!(refused.status, 412);
    let id = client.begin(&key("parts")).await;
    let target = format!("{}?partNumber=1&uploadId={id}", key("parts"));
    let part =
        client.put(&target, &[from, ("x-amz-copy-source-range", "bytes=1-5242880")], "").await;
    assert_eq!(part.status, 200, "{}", part.text());
    client.delete(&key("a%20b%2Bc")).await;

    let store = store.restart().await;
    let client = Client::new(&store.endpoint());
    let got = client.get(&key("copy"), &[]).await;
    assert!(got.body == bytes);
    assert_eq!(got.header("x-amz-meta-x"), "1");
    let done = client.complete(&key("parts"), &id, &[], &[(1, &part.element("ETag"))]).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert!(client.get(&key("parts"), &[]).await.body == bytes[1..=5 * MIB]);
    assert_eq!(store.counters().bytes_in_of(Operation::UploadPart), 0);
}

#[tokio::test]
async fn many_keys_are_deleted_at_once() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    for name in ["a", "b", "c"] {
        client.put(&key(name), &[], name).await;
    }
    let body = "<Delete><Object><Key>a</Key></Object><Object><Key>none</Key></Object>\
                <Object><Key>c</Key></Object></Delete>";
    let deleted = client.post(&format!("/{BUCKET}?delete="), body).await;
    assert_eq!(deleted.text().matches("<Deleted>").count(), 3, "{}", deleted.text());
    let listed = client.get(&format!("/{BUCKET}?list-type=2"), &[]).await;
    assert_eq!((listed.element("KeyCount").as_str(), listed.element("Key").as_str()), ("1", "b"));
}

#[tokio::test]
async fn requests_and_bytes_are_counted() {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    client.put(&key("k"), &[], vec![1; 1000]).await;
    client.get(&key("k"), &[("range", "bytes=0-99")]).await;
    let counters = store.counters();
    assert_eq!(counters.requests(Operation::PutObject), 1);
    assert_eq!(counters.requests_total(), 2);
    assert_eq!((counters.bytes_in(), counters.bytes_out()), (1000, 100));
}

/// The protocol layer would gather it in memory before it checks the signature.
#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_refused_before_it_is_read() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const FORM_BYTES: usize = 256 * MIB;
    let store = Embedded::start().await;
    let address = store.endpoint().replace("http://", "");
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let begin = "--x\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n\
                 --x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    let head = format!(
        "POST /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {FORM_BYTES}\r\n\
         Content-Type: Multipart/Form-Data; boundary=x\r\n\r\n{begin}"
    );
    writing.write_all(head.as_bytes()).await.unwrap();
    let sending = tokio::spawn(async move {
        let piece = vec![b'x'; MIB];
        for _ in 0..FORM_BYTES / MIB - 1 {
            if writing.write_all(&piece).await.is_err() {
                break;
            }
        }
        // Held open: the answer does not wait for the end of the form.
        std::future::pending::<()>().await;
    });
    let mut answer = [0; 12];
    let answered =
        tokio::time::timeout(std::time::Duration::from_secs(30), reading.read_exact(&mut answer));
    answered.await.expect("an answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 501");
    assert!(store.counters().bytes_in() < 4 * MIB as u64, "{}", store.counters().bytes_in());
    sending.abort();
}
