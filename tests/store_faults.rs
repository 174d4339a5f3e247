//! The client with its wrappers against a store that misbehaves: what is lost on the wire is fetched or
//! sent again, once, and nothing wrong is ever believed.

// A test that cannot go on says so by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use ratchetfs::embedded::{Fault, Operation, Rule};
use ratchetfs::internals::ByteRange;
use ratchetfs::internals::Meter;
use ratchetfs::internals::{
    CopyRequest, ETag, ErrorKind, Key, Mark, Precondition, Result, SharedStore, StoredPart,
    TransferSettings, UploadId, WriteOptions, build,
};
use ratchetfs::internals::{Provider, S3Settings, S3Store};

use crate::support;

const LEN: usize = 3 << 20;
/// What one connection's buffers may hold of a body when it is cut.
const SLACK: u64 = 64 << 10;

struct Subject {
    server: support::Embedded,
    store: SharedStore,
    meter: Arc<Meter>,
    key: Key,
    body: Bytes,
    etag: ETag,
}

/// A store with one object of [`LEN`] bytes under `k`; silence longer than a second is a stall.
async fn subject() -> Subject {
    let server = support::Embedded::start().await;
    let mut settings = S3Settings::new(support::BUCKET);
    settings.endpoint_url = Some(server.endpoint());
    settings.provider = Provider::Embedded;
    settings.connections.request_timeout = Duration::from_secs(1);
    settings.credentials = Some(support::credentials());
    let client = S3Store::connect(settings).await.unwrap();
    let (store, meter) = build(client, &TransferSettings::default());
    let key = Key::from("k");
    let body: Bytes = (0..LEN).map(|at| (at / 3 % 251) as u8).collect::<Vec<_>>().into();
    let options = WriteOptions::default();
    let etag = store.put(&key, body.clone().into(), &options, &Precondition::None).await.unwrap();
    Subject { server, store, meter, key, body, etag }
}

impl Subject {
    fn set(&self, rules: Vec<Rule>) {
        self.server.faults.set(rules);
    }

    async fn read(&self) -> Result<Vec<u8>> {
        let range = ByteRange::new(0, LEN as u64);
        let body = self.store.get(&self.key, range, &self.etag).await?;
        let chunks: Vec<Bytes> = body.bytes.try_collect().await?;
        Ok(chunks.concat())
    }

    async fn upload(&self, key: &Key) -> (UploadId, Vec<StoredPart>) {
        let id = self.store.create_upload(key, &WriteOptions::default()).await.unwrap().upload_id;
        let mut parts = Vec::new();
        for (number, len) in [(1, 5 << 20), (2, 1000)] {
            let body = Bytes::from(vec![number as u8; len]);
            let etag = self.store.upload_part(key, &id, number, body.into()).await.unwrap();
            parts.push(StoredPart { number, etag, len: len as u64, crc: None });
        }
        (id, parts)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_goes_on_from_the_byte_reached() {
    for fault in [Fault::ResetBodyAfter(1 << 20), Fault::TruncateBodyAfter(1 << 20)] {
        let subject = subject().await;
        subject.set(vec![Rule::new(fault.clone()).on(Operation::GetObject).times(2)]);
        assert!(subject.read().await.unwrap() == subject.body, "{fault:?}");
        let snapshot = subject.meter.snapshot();
        assert_eq!(snapshot.requests["GetObject"], 3, "{fault:?}");
        // Counted where the program takes the bytes: none came twice.
        assert_eq!(snapshot.bytes_down, LEN as u64, "{fault:?}");
        assert!(snapshot.retries == 2 && snapshot.last_error.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_that_pass_are_tried_again() {
    let faults = [
        Fault::internal_error(),
        Fault::slow_down(),
        Fault::Status(502, "BadGateway"),
        Fault::Stall,
        Fault::LoseAnswer,
        Fault::WrongContentRange,
    ];
    for fault in faults {
        let subject = subject().await;
        let rule = Rule::new(fault.clone()).on(Operation::GetObject).times(1);
        subject.set(vec![rule]);
        assert!(subject.read().await.unwrap() == subject.body, "{fault:?}");
        assert_eq!(subject.meter.snapshot().retries, 1, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_not_tried_again() {
    let subject = subject().await;
    subject.set(vec![Rule::new(Fault::denied())]);
    assert_eq!(subject.store.head(&subject.key).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(subject.read().await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(subject.meter.snapshot().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_moves_slowly_is_not_cut() {
    let subject = subject().await;
    // About two seconds for the whole: longer than the allowed silence, but never silent.
    subject.set(vec![Rule::new(Fault::Bandwidth(3 << 19)).on(Operation::GetObject)]);
    let begun = Instant::now();
    assert!(subject.read().await.unwrap() == subject.body);
    assert!(begun.elapsed() > Duration::from_millis(1200), "{:?}", begun.elapsed());
    assert_eq!(subject.meter.snapshot().retries, 0);

    subject.set(vec![Rule::new(Fault::Bandwidth(3 << 19)).on(Operation::UploadPart)]);
    subject.upload(&Key::from("slow")).await;
    assert_eq!(subject.meter.snapshot().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_inside_a_200_are_errors() {
    for code in ["InternalError", "SlowDown"] {
        let subject = subject().await;
        let fault = Fault::ErrorInsideOk(code);
        let rule = |operation| Rule::new(fault.clone()).on(operation).times(1);
        subject.set(vec![
            rule(Operation::CopyObject),
            rule(Operation::UploadPartCopy),
            rule(Operation::CompleteMultipartUpload),
        ]);
        let request = CopyRequest {
            source: subject.key.clone(),
            source_etag: Some(subject.etag.clone()),
            target: Key::from("copy"),
            replace: None,
            keeps_tags: true,
            storage: Default::default(),
            precondition: Precondition::None,
        };
        subject.store.copy(&request).await.unwrap();
        let len = subject.store.head(&Key::from("copy")).await.unwrap().len;
        assert_eq!(len, LEN as u64);

        let key = Key::from("uploaded");
        let (id, mut parts) = subject.upload(&key).await;
        let range = ByteRange::new(0, LEN as u64);
        let source = (&subject.key, &subject.etag);
        parts.remove(1);
        let store = &subject.store;
        let etag = store.upload_part_copy(&key, &id, 3, source.0, source.1, range).await.unwrap();
        parts.push(StoredPart { number: 3, etag, len: range.len(), crc: None });
        store.complete_upload(&key, &id, &parts, &Precondition::None).await.unwrap();
        let len = store.head(&key).await.unwrap().len;
        assert_eq!(len, (5 << 20) + LEN as u64);
        assert_eq!(subject.meter.snapshot().retries, 3);
    }
}

/// Whether the object is that upload only its mark can tell, which the writer that began the upload knows
/// (`tests/ours.rs`, `tests/write_back.rs`).
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_complete_is_left_to_its_upload() {
    for precondition in [Precondition::None, Precondition::Absent] {
        let subject = subject().await;
        let key = Key::from("lost");
        let (id, parts) = subject.upload(&key).await;
        let rule = Rule::new(Fault::LoseAnswer).on(Operation::CompleteMultipartUpload).times(1);
        subject.set(vec![rule]);
        let completed = subject.store.complete_upload(&key, &id, &parts, &precondition).await;
        let kind = completed.unwrap_err().kind;
        let expected = [ErrorKind::NoSuchUpload, ErrorKind::PreconditionFailed];
        assert!(expected.contains(&kind), "{kind:?}");
        let head = subject.store.head(&key).await.unwrap();
        assert_eq!(head.len, (5 << 20) + 1000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_an_exclusive_create_is_settled_by_mark() {
    let subject = subject().await;
    let lose_one = || vec![Rule::new(Fault::LoseAnswer).on(Operation::PutObject).times(1)];
    let mut options = WriteOptions::default();
    let body = Bytes::from_static(b"ours");
    subject.set(lose_one());
    let key = Key::from("without a mark");
    let put = subject.store.put(&key, body.clone().into(), &options, &Precondition::Absent).await;
    assert_eq!(put.unwrap_err().kind, ErrorKind::PreconditionFailed, "equal bytes prove nothing");
    subject.set(lose_one());
    let key = Key::from("exclusive");
    Mark::fresh().put_into(&mut options.metadata);
    subject.store.put(&key, body.clone().into(), &options, &Precondition::Absent).await.unwrap();
    let again = subject.store.put(&key, body.into(), &options, &Precondition::Absent).await;
    assert_eq!(again.unwrap_err().kind, ErrorKind::PreconditionFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_bodies_leave_no_more_on_the_wire_than_their_buffers() {
    let subject = subject().await;
    let before = subject.server.counters().bytes_out_of(Operation::GetObject);
    let rule = Rule::new(Fault::TruncateBodyAfter(1 << 20)).on(Operation::GetObject).times(2);
    subject.set(vec![rule]);
    subject.read().await.unwrap();
    let sent = subject.server.counters().bytes_out_of(Operation::GetObject) - before;
    assert!(sent <= LEN as u64 + 3 * SLACK, "{sent} bytes were sent for {LEN}");
}
