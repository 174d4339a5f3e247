//! The way to the store: TLS, certificates, proxies, addresses, connections.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use ratchetfs::embedded::{Faults, Options, Server};
use ratchetfs::internals::{Key, Precondition, Provider, S3Settings, S3Store, Store, WriteOptions};

use support::bucket::Bucket;
use support::hostile::Hostile;
use support::mount::Mount;
use support::raw::Client;
use support::tls::{Authority, ConnectProxy, NAME};
use support::{ACCESS_KEY, BUCKET, Embedded, SECRET_KEY, text};

/// The far store: at a name that no resolver knows, which is how it names its bucket too.
const FAR_BUCKET: &str = "store";
const FAR: [&str; 4] = ["--endpoint-url", "https://test", "--addressing", "virtual"];

/// A store of this process behind TLS and a proxy, and the runtime that serves them.
struct Far {
    authority: Authority,
    proxy: ConnectProxy,
    store: Embedded,
    runtime: tokio::runtime::Runtime,
}

impl Far {
    fn new(asks_clients: bool) -> Far {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let authority = Authority::new();
        let (proxy, store) = runtime.block_on(async {
            let store = Embedded::start().await;
            let made = Client::new(&store.endpoint()).put(&format!("/{NAME}"), &[], "").await;
            assert_eq!(made.status, 200, "{}", made.text());
            let address = store.endpoint().trim_start_matches("http://").parse().unwrap();
            let tls = authority.serve(address, asks_clients).await;
            (ConnectProxy::start(tls).await, store)
        });
        Far { authority, proxy, store, runtime }
    }

    /// Of the store at its name; not mounted yet.
    fn mount(&self, options: &[&str]) -> Mount {
        let ca = self.authority.file("ca.pem");
        let options = [&["--ca-bundle", ca.as_str(), "--addressing", "virtual"], options].concat();
        Mount::new("https://test", &format!("s3://{FAR_BUCKET}"), &options)
    }

    fn proxy_url(&self) -> String {
        format!("http://{}", self.proxy.address)
    }

    /// What `doctor` says of the bucket; it reaches for it as a mount does.
    fn doctor(&self, environment: &[(&str, &str)], options: &[&str]) -> String {
        let mount = self.mount(&[]);
        let ca = self.authority.file("ca.pem");
        let mut command = doctor(&mount, FAR_BUCKET, environment);
        command.args(FAR).args(["--ca-bundle", &ca]);
        text(&command.args(options).output().unwrap().stdout)
    }
}

fn doctor(mount: &Mount, bucket: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = mount.program();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.envs(environment.iter().copied());
    let cache = mount.cache_dir();
    command.args(["doctor", &format!("s3://{bucket}"), "--cache-dir"]).arg(cache);
    command
}

const ANSWERS: &str = " answers\n";

#[test]
fn a_store_behind_a_proxy_and_its_own_authority_is_mounted() {
    let far = Far::new(false);
    let mut mount = far.mount(&[]);
    mount.set_env("HTTPS_PROXY", &far.proxy_url());
    mount.set_env("NO_PROXY", "");
    mount.mount();
    std::fs::write(mount.at("file"), "through a tunnel").unwrap();
    let bucket = Bucket::new(&far.store.endpoint(), NAME, &far.runtime);
    assert_eq!(bucket.object("file").unwrap(), b"through a tunnel");
    mount.unmount();
    let asked = far.proxy.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|line| line == "CONNECT store.test:443 HTTP/1.1"), "{asked:?}");
}

#[test]
fn the_environment_says_what_goes_through_a_proxy() {
    let far = Far::new(false);
    let proxy = far.proxy_url();
    let told = far.doctor(&[("https_proxy", &proxy)], &[]);
    assert!(told.contains(ANSWERS), "{told}");
    let so_far = far.proxy.asked().len();
    // No resolver knows the name.
    for variables in [
        &[("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", "other.test,.store.test,store.test")][..],
        &[("HTTP_PROXY", &proxy)],
    ] {
        let told = far.doctor(variables, &[]);
        assert!(told.contains("does not resolve"), "{variables:?}: {told}");
    }
    assert_eq!(far.proxy.asked().len(), so_far);
    // Its password is no secret that is told.
    let closed = "http://user:hunter2@127.0.0.1:1";
    let told = far.doctor(&[("HTTPS_PROXY", closed)], &[]);
    assert!(told.contains("refused") && !told.contains("hunter2"), "{told}");
}

#[test]
fn plain_http_goes_through_its_proxy_but_not_to_this_machine() {
    let proxy = Hostile::start(|head| {
        let is_meant = head.starts_with("GET http://store.test/test-bucket/?list-type=2");
        let listing = b"<ListBucketResult></ListBucketResult>".to_vec();
        if is_meant { (200, String::new(), listing) } else { (403, String::new(), Vec::new()) }
    });
    let mount = Mount::new("", "", &[]);
    let mut command = doctor(&mount, BUCKET, &[("http_proxy", &proxy.endpoint())]);
    let told = command.args(["--endpoint-url", "http://store.test"]).output().unwrap();
    assert!(text(&told.stdout).contains(ANSWERS), "{}", text(&told.stdout));
    let so_far = proxy.requests();
    assert!(so_far > 0);
    let here =
        Hostile::start(|_| (200, String::new(), b"<ListBucketResult></ListBucketResult>".to_vec()));
    let mut command = doctor(&mount, BUCKET, &[("http_proxy", &proxy.endpoint())]);
    let told = command.args(["--endpoint-url", &here.endpoint()]).output().unwrap();
    assert!(text(&told.stdout).contains(ANSWERS), "{}", text(&told.stdout));
    assert_eq!(proxy.requests(), so_far);
}

#[test]
fn a_store_that_asks_for_a_certificate_is_shown_one() {
    let far = Far::new(true);
    let proxy = far.proxy_url();
    let environment = [("HTTPS_PROXY", proxy.as_str())];
    let told = far.doctor(&environment, &[]);
    assert!(!told.contains(ANSWERS) && told.contains("give it with --client-cert"), "{told}");
    let (certificate, key) = (far.authority.file("client.pem"), far.authority.file("client.key"));
    let told = far.doctor(&environment, &["--client-cert", &certificate, "--client-key", &key]);
    assert!(told.contains(ANSWERS), "{told}");
    // Of an authority that the store does not know.
    let other = Authority::new();
    let (certificate, key) = (other.file("client.pem"), other.file("client.key"));
    let told = far.doctor(&environment, &["--client-cert", &certificate, "--client-key", &key]);
    assert!(!told.contains(ANSWERS), "{told}");
}

#[test]
fn a_store_whose_authority_is_unknown_is_not_believed() {
    let far = Far::new(false);
    let mount = far.mount(&[]);
    let mut command = doctor(&mount, FAR_BUCKET, &[("HTTPS_PROXY", &far.proxy_url())]);
    let output = command.args(FAR).output().unwrap();
    let told = text(&output.stdout);
    assert!(!told.contains(ANSWERS) && told.contains("--ca-bundle"), "{told}");
}

fn settings(endpoint: &str) -> S3Settings {
    let mut settings = S3Settings::new(BUCKET);
    settings.endpoint_url = Some(endpoint.to_owned());
    settings.provider = Provider::Other;
    settings.region = Some("us-east-1".to_owned());
    settings.credentials = Some(support::credentials());
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_address_is_an_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let started = Server::start(Options {
        dir: dir.path().to_owned(),
        listen: "[::1]:0".parse().unwrap(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        buckets: vec![BUCKET.to_owned()],
        faults: Arc::new(Faults::default()),
    });
    // A machine may be without IPv6.
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let server = started.await.unwrap();
    assert!(server.endpoint().starts_with("http://[::1]:"), "{}", server.endpoint());
    let store = S3Store::connect(settings(&server.endpoint())).await.unwrap();
    assert!(!store.is_in_the_clear());
    let (key, options) = (Key::from("a key"), WriteOptions::default());
    let put = store.put(&key, Bytes::from_static(b"x").into(), &options, &Precondition::None);
    let etag = put.await.unwrap();
    assert_eq!(store.head(&key).await.unwrap().etag, etag);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again() {
    let server = Hostile::start(|_| {
        let headers = "etag: \"x\"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
        (200, format!("{headers}content-length: 1\r\n"), Vec::new())
    });
    let store = Arc::new(S3Store::connect(settings(&server.endpoint())).await.unwrap());
    let key = Key::from("k");
    for _ in 0..40 {
        store.head(&key).await.unwrap();
    }
    assert_eq!(server.requests(), 40);
    // One is opened besides where the next request is quicker than the pool.
    assert!(server.connections() <= 4, "{} connections", server.connections());
    let tasks = (0..8).map(|_| {
        let (store, key) = (store.clone(), key.clone());
        tokio::spawn(async move {
            for _ in 0..20 {
                store.head(&key).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(server.requests(), 200);
    // One that is being opened while another becomes free is kept too.
    assert!(server.connections() <= 16, "{} connections", server.connections());
}
