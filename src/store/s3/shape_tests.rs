//! What is sent to each provider that cannot be run here, request by request, to a stand-in under the provider's own host
//! name; and what its answers are taken for.

use tokio::sync::mpsc;

use super::S3Store;
use super::stand_in::{Answer, Head, region_of, server, store_at};
use crate::store::{
    CopyRequest, ETag, ErrorKind, Key, ListRequest, ObjectSum, PartBody, Precondition, Storage,
    Store as _, StoredPart, Summed, WriteOptions,
};

const NONE: Precondition = Precondition::None;

/// Headers that are the same for all, or different each time.
const UNTOLD: [&str; 9] = [
    ":method",
    ":target",
    "accept",
    "authorization",
    "content-length",
    "host",
    "user-agent",
    "x-amz-content-sha256",
    "x-amz-date",
];

/// A request in a line: `region METHOD host/path header=value`. `E` is the ETag that is meant.
fn line(head: &Head) -> String {
    // A body goes as it is: no signed chunks (aws-chunked), which OSS and TOS refuse.
    assert_eq!(head["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
    assert!(!head.contains_key("content-encoding") && !head.contains_key("transfer-encoding"));
    let host = head["host"].split(':').next().unwrap();
    let mut line = format!("{} {} {host}{}", region_of(head), head[":method"], head[":target"]);
    for (name, value) in head.iter().filter(|(name, _)| !UNTOLD.contains(&name.as_str())) {
        line += &format!(" {name}={value}");
    }
    line.replace("\"0123456789ABCDEF0123456789ABCDEF\"", "E")
}

/// What S3 answers to it. `etag` is that of all objects.
fn answer(head: &Head, etag: &str) -> Answer {
    let (method, target) = (head[":method"].as_str(), head[":target"].as_str());
    let told = if target.contains("list-type=") {
        "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".to_owned()
    } else if target.contains("uploads=") {
        "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            .to_owned()
    } else if method == "POST" {
        format!(
            "<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        )
    } else if head.contains_key("x-amz-copy-source") {
        format!("<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>")
    } else {
        String::new()
    };
    let mut headers = format!("etag: {etag}\r\n");
    if let Some(crc) = head.get("x-amz-checksum-crc32c") {
        headers += &format!("x-amz-checksum-crc32c: {crc}\r\n");
    }
    Answer { headers, told, ..Answer::from((200, 0, "")) }
}

/// Everything that a mount asks of an object, once.
async fn use_all(store: &S3Store) {
    let (key, target) = (Key::from("d/a b"), Key::from("t"));
    let etag = ETag::new("0123456789ABCDEF0123456789ABCDEF");
    let known = store.capabilities();
    let if_can = |can: bool, precondition: Precondition| match can {
        true => precondition,
        false => Precondition::None,
    };
    let options = WriteOptions::default();
    store.list(&ListRequest { prefix: Key::from("d/"), ..Default::default() }).await.unwrap();
    store.head(&key).await.unwrap();
    let absent = if_can(known.conditional_writes, Precondition::Absent);
    store.put(&key, Summed::of("hello"), &options, &absent).await.unwrap();
    let upload = store.create_upload(&key, &options).await.unwrap().upload_id;
    let part = PartBody::Whole(Summed::of("hello"));
    let sent = store.upload_part(&key, &upload, 1, part).await.unwrap();
    let crc = Some(Summed::of("hello").sum.crc);
    let parts = [StoredPart { number: 1, etag: sent, len: 5, crc }];
    let matches = if_can(known.conditional_writes, Precondition::Matches(etag.clone()));
    store.complete_upload(&key, &upload, &parts, &matches).await.unwrap();
    let copy = |precondition| CopyRequest {
        source: key.clone(),
        source_etag: Some(etag.clone()),
        target: target.clone(),
        replace: None,
        keeps_tags: true,
        storage: Storage::default(),
        precondition,
    };
    store.copy(&copy(if_can(known.conditional_copies, Precondition::Absent))).await.unwrap();
    let matches = if_can(known.conditional_copies, Precondition::Matches(etag.clone()));
    store.copy(&copy(matches)).await.unwrap();
    store.delete(&key, Some(&etag)).await.unwrap();
}

/// All requests to a provider's host, a line each.
async fn requests_to(host: &str) -> Vec<String> {
    let (noted, mut lines) = mpsc::unbounded_channel();
    let (server, _) = server(move |head| {
        noted.send(line(head)).unwrap();
        answer(head, "\"0123456789ABCDEF0123456789ABCDEF\"")
    })
    .await;
    use_all(&store_at(host, &server).await).await;
    std::iter::from_fn(|| lines.try_recv().ok()).collect()
}

/// What all take that verify Content-MD5 and have no conditions but those of a copy's source. `@` is the bucket.
const COMMON: [&str; 9] = [
    "GET @/?list-type=2&encoding-type=url&prefix=d%2F",
    "HEAD @/d/a%20b",
    "PUT @/d/a%20b content-md5=XUFAKrxLKna5cZ2REBfFkg==",
    "POST @/d/a%20b?uploads=",
    "PUT @/d/a%20b?partNumber=1&uploadId=u content-md5=XUFAKrxLKna5cZ2REBfFkg==",
    "POST @/d/a%20b?uploadId=u content-type=application/xml",
    "PUT @/t x-amz-copy-source=/b/d/a%20b x-amz-copy-source-if-match=E x-amz-metadata-directive=COPY",
    "PUT @/t x-amz-copy-source=/b/d/a%20b x-amz-copy-source-if-match=E x-amz-metadata-directive=COPY",
    "DELETE @/d/a%20b",
];

/// Conditions of writes, and those of copies under names of its own; none of a DELETE.
const OF_R2: [&str; 9] = [
    COMMON[0],
    COMMON[1],
    "PUT @/d/a%20b content-md5=XUFAKrxLKna5cZ2REBfFkg== if-none-match=*",
    COMMON[3],
    COMMON[4],
    "POST @/d/a%20b?uploadId=u content-type=application/xml if-match=E",
    "PUT @/t cf-copy-destination-if-none-match=* x-amz-copy-source=/b/d/a%20b \
     x-amz-copy-source-if-match=E x-amz-metadata-directive=COPY",
    "PUT @/t cf-copy-destination-if-match=E x-amz-copy-source=/b/d/a%20b \
     x-amz-copy-source-if-match=E x-amz-metadata-directive=COPY",
    COMMON[8],
];

/// CRC-32C of all that is sent, and conditions of everything.
const OF_AMAZON: [&str; 9] = [
    COMMON[0],
    "HEAD @/d/a%20b x-amz-checksum-mode=ENABLED",
    "PUT @/d/a%20b if-none-match=* x-amz-checksum-crc32c=mnG7TA==",
    "POST @/d/a%20b?uploads= x-amz-checksum-algorithm=CRC32C x-amz-checksum-type=FULL_OBJECT",
    "PUT @/d/a%20b?partNumber=1&uploadId=u x-amz-checksum-crc32c=mnG7TA==",
    "POST @/d/a%20b?uploadId=u content-type=application/xml if-match=E \
     x-amz-checksum-crc32c=mnG7TA== x-amz-checksum-type=FULL_OBJECT",
    "PUT @/t if-none-match=* x-amz-copy-source=/b/d/a%20b x-amz-copy-source-if-match=E \
     x-amz-metadata-directive=COPY",
    "PUT @/t if-match=E x-amz-copy-source=/b/d/a%20b x-amz-copy-source-if-match=E \
     x-amz-metadata-directive=COPY",
    "DELETE @/d/a%20b if-match=E",
];

#[tokio::test]
async fn each_provider_is_sent_what_it_knows() {
    for (host, bucket, region, expected) in [
        ("oss-cn-beijing.aliyuncs.com", "b.s3.oss-cn-beijing.aliyuncs.com", "cn-beijing", COMMON),
        (
            "s3.oss-cn-beijing-internal.aliyuncs.com",
            "b.s3.oss-cn-beijing-internal.aliyuncs.com",
            "cn-beijing",
            COMMON,
        ),
        ("tos-cn-beijing.volces.com", "b.tos-s3-cn-beijing.volces.com", "cn-beijing", COMMON),
        (
            "s3.us-west-004.backblazeb2.com",
            "s3.us-west-004.backblazeb2.com/b",
            "us-west-004",
            COMMON,
        ),
        ("storage.googleapis.com", "storage.googleapis.com/b", "auto", COMMON),
        ("a.r2.cloudflarestorage.com", "a.r2.cloudflarestorage.com/b", "auto", OF_R2),
        ("s3.eu-west-1.amazonaws.com", "b.s3.eu-west-1.amazonaws.com", "eu-west-1", OF_AMAZON),
        (
            "s3-fips.dualstack.us-east-2.amazonaws.com",
            "b.s3-fips.dualstack.us-east-2.amazonaws.com",
            "us-east-2",
            OF_AMAZON,
        ),
    ] {
        let signed = format!("{region} ");
        let sent = requests_to(host).await;
        let sent = sent.iter().map(|line| line.strip_prefix(&signed).unwrap_or(line));
        let expected = expected.map(|line| line.replace('@', bucket));
        assert_eq!(sent.collect::<Vec<_>>(), expected, "{host}");
    }
}

/// ETags in upper case, and the CRC-64 of the whole object, which comes with each answer about it.
#[tokio::test]
async fn what_oss_and_tos_tell_of_an_object_is_believed() {
    const ETAG: &str = "\"5D41402ABC4B2A76B9719D911017C592\"";
    for (host, header) in [
        ("oss-cn-beijing.aliyuncs.com", "x-oss-hash-crc64ecma"),
        ("tos-cn-beijing.volces.com", "x-tos-hash-crc64ecma"),
    ] {
        let (server, _) = server(move |head| {
            let answer = answer(head, ETAG);
            let headers = format!("{}{header}: 13847106402132085211\r\n", answer.headers);
            Answer { headers, ..answer }
        })
        .await;
        let store = store_at(host, &server).await;
        let key = Key::from("k");
        // The MD5 of what was sent, in small letters.
        let etag = ETag::new("5d41402abc4b2a76b9719d911017c592");
        let options = WriteOptions::default();
        let put = store.put(&key, Summed::of("hello"), &options, &NONE).await;
        assert_eq!(put.unwrap(), etag);
        let head = store.head(&key).await.unwrap();
        assert_eq!(head.etag, etag);
        assert_eq!(head.sum, Some(ObjectSum::Crc64Ecma(13847106402132085211)));
        assert_eq!(store.known_sum(&key, &head.etag), head.sum);
        // Then one that is other bytes' is noticed: what the store has is not what was sent.
        let other = store.put(&key, Summed::of("other"), &options, &NONE).await;
        assert_eq!(other.unwrap_err().kind, ErrorKind::Corrupt);
    }
}
