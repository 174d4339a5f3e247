//! Requests that are refused for their credentials, their time or their region, against a server that knows all three.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use bytes::Bytes;

use super::exchange::Route;
use super::identity::{Cache, Failure, Source};
use super::provider::{Provider, Variant};
use super::stand_in::{Answer, Head, region_of, server, store_at};
use super::{S3Settings, S3Store, cure, sign};
use crate::clock;
use crate::store::{ErrorKind, Key, PartBody, Store as _, UploadId};

/// Gives tokens `t1`, `t2` and so on up to the last, which it gives from then on.
struct Tokens {
    last: u32,
    asked: AtomicU32,
}

#[async_trait]
impl Source for Arc<Tokens> {
    async fn ask(&self) -> Result<Credentials, Failure> {
        let number = (self.asked.fetch_add(1, Ordering::SeqCst) + 1).min(self.last);
        Ok(Credentials::new("k", "s", Some(format!("t{number}")), None, "test"))
    }
}

async fn store(endpoint: &str, last: u32) -> (S3Store, Arc<Tokens>) {
    let mut settings = S3Settings::new("b");
    settings.endpoint_url = Some(endpoint.to_owned());
    settings.region = Some("us-east-1".to_owned());
    let mut store = S3Store::connect(settings).await.unwrap();
    let tokens = Arc::new(Tokens { last, asked: AtomicU32::new(0) });
    let cache = Cache::new(tokens.clone(), store.clock.clone());
    let route = store.route.load_full();
    let signer = sign::Signer::new(Some(cache.clone()), &route.region, store.clock.clone());
    let (target, region) = (route.target.clone(), route.region.clone());
    let variant = Variant::default();
    store.route.store(Arc::new(Route { target, signer, region, variant, may_move: true }));
    store.credentials = Some(cache);
    (store, tokens)
}

async fn part(store: &S3Store, number: u32) -> crate::store::Result<()> {
    let body = PartBody::Whole(Bytes::from_static(b"part").into());
    let (key, upload) = (Key::from("k"), UploadId("u".to_owned()));
    store.upload_part(&key, &upload, number, body).await.map(|_| ())
}

#[tokio::test]
async fn credentials_that_expire_in_mid_upload_are_renewed() {
    let parts = AtomicU32::new(0);
    let (endpoint, requests) = server(move |head| {
        let is_old = head["x-amz-security-token"] == "t1";
        if is_old && parts.fetch_add(1, Ordering::SeqCst) >= 2 {
            (400, 0, "ExpiredToken")
        } else {
            (200, 0, "")
        }
    })
    .await;
    let (store, tokens) = store(&endpoint, u32::MAX).await;
    for number in 1..=2 {
        part(&store, number).await.unwrap();
    }
    let all = futures_util::future::join_all((3..=10).map(|number| part(&store, number))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(tokens.asked.load(Ordering::SeqCst), 2, "renewed once for all that were refused");
    assert_eq!(requests.load(Ordering::SeqCst), 2 + 8 + 8);
    // The answer to a HEAD has no code.
    let (endpoint, _) = server(|head| match head["x-amz-security-token"].as_str() {
        "t1" => (400, 0, "none is sent"),
        _ => (200, 0, ""),
    })
    .await;
    let (store, _) = self::store(&endpoint, u32::MAX).await;
    store.head(&Key::from("k")).await.unwrap();
}

#[tokio::test]
async fn what_the_source_cannot_renew_is_refused_after_one_look() {
    let (endpoint, requests) = server(|_| (400, 0, "ExpiredToken")).await;
    let (store, tokens) = store(&endpoint, 1).await;
    let error = part(&store, 1).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Denied, Some("ExpiredToken")));
    assert_eq!((requests.load(Ordering::SeqCst), tokens.asked.load(Ordering::SeqCst)), (1, 2));
    // A source that has others each time is asked once for each request.
    let (store, tokens) = self::store(&endpoint, u32::MAX).await;
    part(&store, 1).await.unwrap_err();
    assert_eq!((requests.load(Ordering::SeqCst), tokens.asked.load(Ordering::SeqCst)), (3, 2));
}

#[tokio::test]
async fn what_is_denied_for_another_reason_is_sent_once() {
    for (status, code) in [(403, "AccessDenied"), (403, ""), (400, "InvalidArgument"), (400, "")] {
        let (endpoint, requests) = server(move |_| (status, 0, code)).await;
        let (store, tokens) = store(&endpoint, u32::MAX).await;
        part(&store, 1).await.unwrap_err();
        assert_eq!((requests.load(Ordering::SeqCst), tokens.asked.load(Ordering::SeqCst)), (1, 1));
    }
}

/// When a request was signed, in seconds since 1970.
fn signed_at(head: &Head) -> u64 {
    let digits = &head["x-amz-date"];
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &digits[..4],
        &digits[4..6],
        &digits[6..8],
        &digits[9..11],
        &digits[11..13],
        &digits[13..15]
    );
    let time = humantime::parse_rfc3339(&text).unwrap();
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn now() -> u64 {
    clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_clock_that_is_off_is_corrected_by_one_resend() {
    const AHEAD: u64 = 7200;
    let (endpoint, requests) = server(|head| {
        let is_skewed = signed_at(head).abs_diff(now() + AHEAD) > 900;
        if is_skewed { (403, AHEAD, "RequestTimeTooSkewed") } else { (200, AHEAD, "") }
    })
    .await;
    for is_head in [false, true] {
        let (store, _) = store(&endpoint, 1).await;
        let before = requests.load(Ordering::SeqCst);
        if is_head {
            store.head(&Key::from("k")).await.unwrap();
        } else {
            part(&store, 1).await.unwrap();
        }
        assert_eq!(requests.load(Ordering::SeqCst), before + 2);
        // By then the store's time is known.
        part(&store, 2).await.unwrap();
        assert_eq!(requests.load(Ordering::SeqCst), before + 3);
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_meanwhile_is_corrected_too() {
    // The store goes on as it did; this machine's clock fell behind by two hours.
    let (endpoint, requests) = server(|head| {
        let is_skewed = signed_at(head).abs_diff(now() + 7200) > 900;
        if is_skewed { (403, 7200, "RequestTimeTooSkewed") } else { (200, 7200, "") }
    })
    .await;
    let (store, _) = store(&endpoint, 1).await;
    store.clock.note(clock::wall(), clock::wall());
    part(&store, 1).await.unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_store_that_calls_the_right_time_wrong_is_asked_once() {
    let (endpoint, requests) = server(|_| (403, 0, "RequestTimeTooSkewed")).await;
    let (store, _) = store(&endpoint, 1).await;
    let error = part(&store, 1).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    // One that calls every time wrong, twice.
    let (endpoint, requests) = server(|_| (403, 7200, "RequestTimeTooSkewed")).await;
    let (store, _) = self::store(&endpoint, 1).await;
    part(&store, 1).await.unwrap_err();
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

/// A store whose first requests go to `endpoint`, and which takes AWS's own endpoint of the region that it is told.
async fn store_of_aws(endpoint: &str) -> S3Store {
    let (mut store, _) = store(endpoint, 1).await;
    store.settings.endpoint_url = None;
    store.provider = Provider::Aws;
    store
}

#[tokio::test]
async fn a_store_that_lies_of_its_region_names_no_other_host() {
    for region in ["x.evil.example/", "evil.example#", "evil.example:80/", "u@evil.example", "-"] {
        for (status, in_body) in [(301, false), (301, true), (400, false), (400, true)] {
            let (endpoint, requests) = server(move |_| {
                let headers = format!("x-amz-bucket-region: {region}\r\n");
                let answer = Answer::from((status, 0, "AuthorizationHeaderMalformed"));
                match in_body {
                    true => Answer { told: format!("<Region>{region}</Region>"), ..answer },
                    false => Answer { headers, ..answer },
                }
            })
            .await;
            let store = store_of_aws(&endpoint).await;
            part(&store, 1).await.unwrap_err();
            assert_eq!(store.origin(), endpoint, "{region}");
            assert_eq!(requests.load(Ordering::SeqCst), 1);
        }
    }
}

#[tokio::test]
async fn a_bucket_in_another_region_is_followed_there_once() {
    // As Amazon and Alibaba tell of it: by a header, in the body, by the host alone.
    for (host, other, told) in [
        ("s3.us-east-1.amazonaws.com", "s3.eu-west-1.amazonaws.com", 0),
        ("s3.us-east-1.amazonaws.com", "s3.eu-west-1.amazonaws.com", 1),
        ("s3.us-east-1.amazonaws.com", "s3.eu-west-1.amazonaws.com", 2),
        ("oss-us-east-1.aliyuncs.com", "s3.oss-eu-west-1.aliyuncs.com", 3),
    ] {
        let there = format!("b.{other}:");
        let (server, requests) = server(move |head| {
            if head["host"].starts_with(&there) && region_of(head) == "eu-west-1" {
                return Answer::from((200, 0, ""));
            }
            match told {
                0 => Answer {
                    headers: "x-amz-bucket-region: eu-west-1\r\n".to_owned(),
                    ..Answer::from((301, 0, "PermanentRedirect"))
                },
                1 => Answer {
                    told: "<Region>eu-west-1</Region>".to_owned(),
                    ..Answer::from((400, 0, "AuthorizationHeaderMalformed"))
                },
                2 => Answer {
                    headers: "location: https://b.s3.eu-west-1.amazonaws.com/k\r\n".to_owned(),
                    ..Answer::from((307, 0, "TemporaryRedirect"))
                },
                _ => Answer {
                    told: "<Endpoint>oss-eu-west-1.aliyuncs.com</Endpoint>".to_owned(),
                    ..Answer::from((403, 0, "AccessDenied"))
                },
            }
        })
        .await;
        let store = store_at(host, &server).await;
        part(&store, 1).await.unwrap();
        assert_eq!(requests.load(Ordering::SeqCst), 2, "{host} {told}");
        part(&store, 2).await.unwrap();
        assert_eq!(requests.load(Ordering::SeqCst), 3, "it is remembered: {host} {told}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_sent_from_region_to_region_is_asked_twice() {
    let (server, requests) = server(|head| Answer {
        headers: format!("x-amz-bucket-region: {}-a\r\n", region_of(head)),
        ..Answer::from((301, 0, "PermanentRedirect"))
    })
    .await;
    let store = store_at("s3.us-east-1.amazonaws.com", &server).await;
    let error = part(&store, 1).await.unwrap_err();
    assert!(cure(&error).contains("--region"), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
    part(&store, 1).await.unwrap_err();
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_redirect_to_another_host_is_named_and_not_followed() {
    let (elsewhere, strays) = server(|_| (200, 0, "")).await;
    for host in ["s3.us-east-1.amazonaws.com", "s3.oss-cn-beijing.aliyuncs.com", "localhost"] {
        for status in [301, 302, 307, 308] {
            let location = format!("location: {elsewhere}/b/k?x=1\r\n");
            let (server, requests) = server(move |_| Answer {
                headers: location.clone(),
                ..Answer::from((status, 0, "TemporaryRedirect"))
            })
            .await;
            let store = store_at(host, &server).await;
            let error = part(&store, 1).await.unwrap_err();
            assert!(error.to_string().contains(&elsewhere), "{error}");
            assert!(cure(&error).contains("--endpoint-url"), "{error}");
            assert_eq!(requests.load(Ordering::SeqCst), 1);
        }
    }
    assert_eq!(strays.load(Ordering::SeqCst), 0);
}
