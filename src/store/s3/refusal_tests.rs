//! Requests that are refused for their credentials, their time or their region, against a server that knows all three.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::exchange::Route;
use super::identity::{Cache, Failure, Source};
use super::provider::{Provider, Variant};
use super::{S3Settings, S3Store, StaticCredentials, cure, sign};
use crate::clock;
use crate::store::{ErrorKind, Key, PartBody, Store as _, UploadId};

/// Headers of a request by their names, and `:method`.
type Head = BTreeMap<String, String>;

#[derive(Default)]
struct Answer {
    status: u16,
    /// How many seconds the server's clock is ahead.
    ahead: u64,
    code: &'static str,
    /// More headers, each with its end of line.
    headers: String,
    /// What else the error says, as XML.
    told: String,
}

/// Status, seconds that the server's clock is ahead, error code.
impl From<(u16, u64, &'static str)> for Answer {
    fn from((status, ahead, code): (u16, u64, &'static str)) -> Answer {
        Answer { status, ahead, code, ..Answer::default() }
    }
}

/// A store that answers each request by what `answer` makes of its head.
async fn server<A: Into<Answer> + 'static>(
    answer: impl Fn(&Head) -> A + Send + Sync + 'static,
) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (answer, requests) = (Arc::new(answer), Arc::new(AtomicU32::new(0)));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, counted) = (answer.clone(), counted.clone());
            tokio::spawn(async move {
                converse(stream, &|head: &Head| answer(head).into(), &counted).await;
            });
        }
    });
    (endpoint, requests)
}

async fn converse(stream: TcpStream, answer: &impl Fn(&Head) -> Answer, requests: &AtomicU32) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Head::new();
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        head.insert(":method".into(), line.split(' ').next().unwrap().to_owned());
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim().split_once(':') else { break };
            head.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let len = head.get("content-length").map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await.unwrap();
        requests.fetch_add(1, Ordering::SeqCst);
        let Answer { status, ahead, code, headers, told } = answer(&head);
        let date = httpdate::fmt_http_date(clock::wall() + Duration::from_secs(ahead));
        let is_head = head[":method"] == "HEAD";
        let body = if code.is_empty() {
            String::new()
        } else {
            format!("<Error><Code>{code}</Code>{told}</Error>")
        };
        let told = format!(
            "HTTP/1.1 {status} X\r\ndate: {date}\r\netag: \"e\"\r\nlast-modified: {date}\r\n\
             {headers}content-length: {}\r\n\r\n{}",
            body.len(),
            if is_head { "" } else { &body }
        );
        if stream.get_mut().write_all(told.as_bytes()).await.is_err() {
            return;
        }
    }
}

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

/// Whatever a host is called, it is this machine.
struct AllHere;

impl Resolve for AllHere {
    fn resolve(&self, _: Name) -> Resolving {
        let here: Addrs = Box::new(std::iter::once((Ipv4Addr::LOCALHOST, 0).into()));
        Box::pin(async move { Ok(here) })
    }
}

/// The store of a provider's own host, which is `server`, a stand-in.
async fn store_at(host: &str, server: &str) -> S3Store {
    let port = server.rsplit(':').next().unwrap();
    let mut settings = S3Settings::new("b");
    settings.endpoint_url = Some(format!("http://{host}:{port}"));
    settings.credentials = Some(StaticCredentials {
        access_key: "k".to_owned(),
        secret_key: "s".to_owned(),
        session_token: None,
    });
    let mut store = S3Store::connect(settings).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().redirect(Policy::none());
    store.client = client.dns_resolver(Arc::new(AllHere)).build().unwrap();
    store
}

/// The region that a request is signed for.
fn region_of(head: &Head) -> String {
    head["authorization"].split('/').nth(2).unwrap().to_owned()
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
