//! Stand-ins of providers, for tests: a server that answers what a test makes up, and a client to which all hosts are it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{S3Settings, S3Store, StaticCredentials};
use crate::clock;

/// Headers of a request by their names, `:method` and `:target`.
pub type Head = BTreeMap<String, String>;

#[derive(Default)]
pub struct Answer {
    pub status: u16,
    /// How many seconds the server's clock is ahead.
    pub ahead: u64,
    /// Of an error, if it is not empty.
    pub code: &'static str,
    /// More headers, each with its end of line. An ETag of their own is in the place of the usual one.
    pub headers: String,
    /// What else the error says, as XML; the whole body where there is none.
    pub told: String,
}

/// Status, seconds that the server's clock is ahead, error code.
impl From<(u16, u64, &'static str)> for Answer {
    fn from((status, ahead, code): (u16, u64, &'static str)) -> Answer {
        Answer { status, ahead, code, ..Answer::default() }
    }
}

/// A store that answers each request by what `answer` makes of its head.
pub async fn server<A: Into<Answer> + 'static>(
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
        for (name, word) in [":method", ":target"].into_iter().zip(line.split(' ')) {
            head.insert(name.to_owned(), word.to_owned());
        }
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
        let body = match code.is_empty() {
            true => told,
            false => format!("<Error><Code>{code}</Code>{told}</Error>"),
        };
        let etag = if headers.contains("etag:") { "" } else { "etag: \"e\"\r\n" };
        let told = format!(
            "HTTP/1.1 {status} X\r\ndate: {date}\r\n{etag}last-modified: {date}\r\n\
             {headers}content-length: {}\r\n\r\n{}",
            body.len(),
            if is_head { "" } else { &body }
        );
        if stream.get_mut().write_all(told.as_bytes()).await.is_err() {
            return;
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
pub async fn store_at(host: &str, server: &str) -> S3Store {
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
pub fn region_of(head: &Head) -> String {
    head["authorization"].split('/').nth(2).unwrap().to_owned()
}
