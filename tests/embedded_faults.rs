//! The fault layer: each fault does what its contract says, on the wire and in the store.

#![allow(clippy::unwrap_used)]

use crate::support;

use std::time::{Duration, Instant};

use http::Method;
use ratchetfs::embedded::{Fault, Operation, Rule};
use support::raw::Client;
use support::{BUCKET, Embedded};

fn key(name: &str) -> String {
    format!("/{BUCKET}/{name}")
}

/// A store with `k` of 1 MiB of sevens, and these rules.
async fn store(rules: Vec<Rule>) -> (Embedded, Client) {
    let store = Embedded::start().await;
    let client = Client::new(&store.endpoint());
    client.put(&key("k"), &[], vec![7; 1 << 20]).await;
    store.faults.set(rules);
    (store, client)
}

#[tokio::test]
async fn a_status_is_answered_and_nothing_is_done() {
    let rule = Rule::new(Fault::slow_down()).on(Operation::PutObject).times(1);
    let (store, client) = store(vec![rule]).await;
    let refused = client.put(&key("new"), &[], vec![1; 3 << 20]).await;
    assert_eq!((refused.status, refused.element("Code").as_str()), (503, "SlowDown"));
    assert_eq!(client.get(&key("new"), &[]).await.status, 404);
    assert_eq!(client.put(&key("new"), &[], "x").await.status, 200);
    assert_eq!(store.faults.fired(), [1]);
}

#[tokio::test]
async fn an_answer_is_lost_and_the_work_is_done() {
    let rule = Rule::new(Fault::LoseAnswer).on(Operation::PutObject).times(1);
    let (_store, client) = store(vec![rule]).await;
    assert!(client.send(Method::PUT, &key("new"), &[], "done").await.is_err());
    assert_eq!(client.get(&key("new"), &[]).await.text(), "done");
}

#[tokio::test]
async fn a_body_is_reset_after_at_most_so_many_bytes() {
    let (_store, client) =
        store(vec![Rule::new(Fault::ResetBodyAfter(100_000)).on(Operation::GetObject)]).await;
    let cut = client.get(&key("k"), &[]).await;
    assert_eq!((cut.status, cut.header("content-length").as_str()), (200, "1048576"));
    assert!(!cut.whole);
    assert!(cut.body.len() <= 100_000, "{}", cut.body.len());
}

#[tokio::test]
async fn a_body_is_cut_after_exactly_so_many_bytes() {
    for at in [0, 1, 100_000] {
        let (_store, client) =
            store(vec![Rule::new(Fault::TruncateBodyAfter(at)).on(Operation::GetObject)]).await;
        let cut = client.get(&key("k"), &[]).await;
        assert!(!cut.whole);
        assert_eq!(cut.body.len() as u64, at);
    }
}

#[tokio::test]
async fn a_body_goes_silent_after_exactly_so_many_bytes() {
    let rule = Rule::new(Fault::StallBodyAfter(100_000)).on(Operation::GetObject);
    let (store, client) = store(vec![rule]).await;
    let sent = || store.counters().bytes_out_of(Operation::GetObject);
    let stalled = async {
        client.get(&key("k"), &[]).await;
    };
    tokio::select! {
        () = stalled => panic!("it has come to an end"),
        () = async {
            while sent() < 100_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        } => {}
    }
    assert_eq!(sent(), 100_000);
}

#[tokio::test]
async fn one_byte_is_wrong() {
    let (_store, client) =
        store(vec![Rule::new(Fault::CorruptByte(70_000)).on(Operation::GetObject)]).await;
    let got = client.get(&key("k"), &[]).await;
    assert!(got.whole);
    let wrong: Vec<_> = got.body.iter().enumerate().filter(|(_, byte)| **byte != 7).collect();
    assert_eq!(wrong, [(70_000, &!7)]);
}

#[tokio::test]
async fn the_content_range_is_one_byte_off() {
    let (_store, client) = store(vec![Rule::new(Fault::WrongContentRange)]).await;
    let got = client.get(&key("k"), &[("range", "bytes=5-9")]).await;
    assert_eq!(got.header("content-range"), "bytes 6-10/1048576");
    assert_eq!(got.body.len(), 5);
}

#[tokio::test]
async fn an_error_comes_inside_a_200_and_nothing_is_done() {
    let rule = Rule::new(Fault::ErrorInsideOk("InternalError"))
        .on(Operation::CompleteMultipartUpload)
        .on(Operation::CopyObject);
    let (store, client) = store(vec![rule]).await;
    let id = client.begin(&key("up")).await;
    let etag = client.part(&key("up"), &id, 1, "x").await;
    let failed = client.complete(&key("up"), &id, &[], &[(1, &etag)]).await;
    assert_eq!((failed.status, failed.element("Code").as_str()), (200, "InternalError"));
    assert_eq!(client.get(&key("up"), &[]).await.status, 404);
    let source = format!("{BUCKET}/k");
    let copy = client.put(&key("copy"), &[("x-amz-copy-source", &source)], "").await;
    assert_eq!((copy.status, copy.element("Code").as_str()), (200, "InternalError"));
    store.faults.clear();
    assert_eq!(client.get(&key("copy"), &[]).await.status, 404);
    assert_eq!(client.complete(&key("up"), &id, &[], &[(1, &etag)]).await.status, 200);
}

#[tokio::test]
async fn latency_and_bandwidth_add_up() {
    let (_store, client) = store(vec![
        Rule::new(Fault::Latency(Duration::from_millis(200))).key_contains("k"),
        Rule::new(Fault::Bandwidth(4 << 20)),
    ])
    .await;
    let begun = Instant::now();
    assert_eq!(client.get(&key("k"), &[]).await.body.len(), 1 << 20);
    // 200 ms, and 1 MiB at 4 MiB/s but for the last piece.
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(client.put(&key("other"), &[], vec![1; 1 << 20]).await.status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stalled_request_is_never_answered_and_never_done() {
    let rule = Rule::new(Fault::Stall).on(Operation::PutObject).times(1);
    let (_store, client) = store(vec![rule]).await;
    let put = key("new");
    let stalled = client.send(Method::PUT, &put, &[], "x");
    assert!(tokio::time::timeout(Duration::from_millis(300), stalled).await.is_err());
    assert_eq!(client.get(&key("new"), &[]).await.status, 404);
}

#[tokio::test]
async fn an_outage_resets_everything_until_it_ends() {
    let rule = Rule::new(Fault::Stall).on(Operation::GetObject).times(1);
    let (store, client) = store(vec![rule]).await;
    let under_way = tokio::spawn({
        let client = Client::new(&store.endpoint());
        async move { client.send(Method::GET, &key("k"), &[], "").await.is_err() }
    });
    while store.faults.fired() != [1] {
        tokio::task::yield_now().await;
    }
    store.faults.set_outage(true);
    assert!(under_way.await.unwrap());
    assert!(client.send(Method::GET, &key("k"), &[], "").await.is_err());
    store.faults.clear();
    assert_eq!(client.get(&key("k"), &[]).await.status, 200);
}
