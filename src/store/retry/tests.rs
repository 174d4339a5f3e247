use bytes::Bytes;
use futures_util::TryStreamExt as _;

use std::time::Duration;

use super::attempts::{CORRUPT_MAX, IMPATIENT_TIMEOUT, LAST_ATTEMPT};
use super::*;
use crate::clock::{self, FOR_EVER, Instant};
use crate::store::limit::{Limited, Limits, Rates};
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Storage, StoredPart};

fn retry(store: &MemoryStore) -> (Retry<MemoryStore>, Arc<Meter>) {
    let meter = Arc::new(Meter::default());
    (Retry::new(store.clone(), RetryPolicy::default(), meter.clone(), Arc::default()), meter)
}

fn content(len: usize) -> Bytes {
    (0..len).map(|at| (at * 7 % 251) as u8).collect::<Vec<_>>().into()
}

async fn read(body: Body) -> Result<Vec<u8>> {
    let chunks: Vec<Bytes> = body.bytes.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test(start_paused = true)]
async fn only_faults_that_may_pass_are_tried_again() {
    use ErrorKind::*;
    let kinds = [
        NotFound,
        NoSuchBucket,
        NoSuchUpload,
        PreconditionFailed,
        InvalidRange,
        Denied,
        Unsupported,
        Invalid,
        TooLarge,
        NoSpace,
        Throttled,
        Transient,
        Timeout,
        Corrupt,
        Damaged,
        Offline,
    ];
    for kind in kinds {
        let store = MemoryStore::new();
        let (retry, meter) = retry(&store);
        store.fail_next(2, kind);
        let outcome = retry.delete(&Key::from("k"), None).await;
        if kind.is_retryable() {
            outcome.unwrap();
            assert_eq!((store.total(), meter.snapshot().retries), (3, 2), "{kind:?}");
        } else {
            assert_eq!(outcome.unwrap_err().kind, kind);
            assert_eq!((store.total(), meter.snapshot().retries), (1, 0), "{kind:?}");
        }
    }
}

/// Fails for so long, then works.
async fn outage(store: &MemoryStore, kind: ErrorKind, lasts: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < lasts {
        store.lift_all();
        store.fail_next(1000, kind);
        clock::sleep(Duration::from_millis(100)).await;
    }
    store.lift_all();
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_45_seconds_is_waited_out() {
    for kind in [ErrorKind::Transient, ErrorKind::Timeout, ErrorKind::Throttled] {
        let store = MemoryStore::new();
        let (retry, _) = retry(&store);
        let key = Key::from("k");
        store.insert(&key, content(100), "e");
        let body = retry.get(&key, ByteRange::new(0, 100), &ETag::new("e")).await.unwrap();
        let outcomes = async {
            clock::sleep(Duration::from_millis(50)).await;
            let (etag, other) = (ETag::new("e"), Key::from("other"));
            let options = WriteOptions::default();
            tokio::join!(
                retry.head(&key),
                retry.put(&key, content(1).into(), &options, &Precondition::None),
                retry.get(&key, ByteRange::new(0, 100), &etag),
                retry.delete(&other, None),
                read(body),
            )
        };
        let begun = Instant::now();
        let ((), outcomes) = tokio::join!(outage(&store, kind, Duration::from_secs(45)), outcomes);
        let (head, put, _, deleted, bytes) = outcomes;
        assert!(head.is_ok() && put.is_ok() && deleted.is_ok() && bytes.is_ok(), "{kind:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{kind:?}: {:?}", begun.elapsed());
        assert!(store.total() < 100, "{kind:?}: {} requests", store.total());
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_an_hour_is_waited_out() {
    let store = MemoryStore::new();
    let retry =
        Retry::new(store.clone(), RetryPolicy::within(FOR_EVER), Arc::default(), Arc::default());
    let (head, other) = (Key::from("k"), Key::from("other"));
    store.insert(&head, content(1), "e");
    let asked = async { tokio::join!(retry.head(&head), retry.delete(&other, None)) };
    let hour = Duration::from_secs(3600);
    let ((), (head, deleted)) = tokio::join!(outage(&store, ErrorKind::Transient, hour), asked);
    assert!(head.is_ok() && deleted.is_ok(), "{head:?} {deleted:?}");
}

#[tokio::test(start_paused = true)]
async fn attempts_and_time_are_bounded() {
    let store = MemoryStore::new();
    let (retry, meter) = retry(&store);
    store.fail_next(100_000, ErrorKind::Throttled);
    let (begun, key) = (Instant::now(), Key::from("k"));
    retry.head(&key).await.unwrap_err();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(50) && took <= Duration::from_secs(60), "{took:?}");
    let begun = Instant::now();
    retry.delete(&key, None).await.unwrap_err();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(290) && took <= Duration::from_secs(300), "{took:?}");

    let policy = RetryPolicy { attempts_max: Some(3), ..RetryPolicy::default() };
    let bounded = Retry::new(store.clone(), policy, meter, Arc::default());
    let sent = store.total();
    bounded.delete(&key, None).await.unwrap_err();
    assert_eq!(store.total(), sent + 3);

    store.lift_all();
    store.fail_next(100, ErrorKind::Corrupt);
    let sent = store.total();
    assert_eq!(retry.delete(&key, None).await.unwrap_err().kind, ErrorKind::Corrupt);
    assert_eq!(store.total(), sent + CORRUPT_MAX as usize);
}

#[tokio::test(start_paused = true)]
async fn what_one_request_is_told_holds_for_all() {
    let store = MemoryStore::new();
    let limits = Limits::new(16, Rates::default());
    let (limited, calm) = (Limited::new(store.clone(), limits.clone()), limits.calm());
    let retry = Retry::new(limited, RetryPolicy::default(), Arc::default(), calm);
    let (told, other) = (Key::from("told"), Key::from("other"));
    let ten = Duration::from_secs(10);
    store.on("DeleteObject").of("told").then(Fault::Busy(ten));
    let begun = Instant::now();
    let later = async {
        clock::sleep(Duration::from_secs(1)).await;
        retry.delete(&other, None).await.map(|()| begun.elapsed())
    };
    let (told, later) = tokio::join!(retry.delete(&told, None), later);
    told.unwrap();
    let later = later.unwrap();
    assert!(later >= ten && later <= ten.mul_f64(1.1), "{later:?}");
    assert_eq!(store.total(), 3);
    // Work whose own time is over before that is sent in its last moment, and is no error before.
    store.on("DeleteObject").of("told").then(Fault::Busy(Duration::from_secs(60)));
    let begun = Instant::now();
    impatient(retry.delete(&Key::from("told"), None)).await.unwrap();
    assert!(begun.elapsed() <= IMPATIENT_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_retries_is_spread_and_makes_no_error() {
    let store = MemoryStore::new();
    let (retry, meter) = retry(&store);
    // Half a minute of a store that fails at all of what five hundred ask for.
    let lasts = Duration::from_secs(30);
    let keys: Vec<Key> = (0..500).map(|n| Key::from(format!("k{n}").as_str())).collect();
    let asked = futures_util::future::join_all(keys.iter().map(|key| retry.delete(key, None)));
    let begun = Instant::now();
    let ((), outcomes) = tokio::join!(outage(&store, ErrorKind::Throttled, lasts), asked);
    let took = begun.elapsed();
    println!("{} requests, {} of them again, in {took:?}", store.total(), meter.snapshot().retries);
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(store.total() < 500 * 3, "{} requests", store.total());
    assert!(took < lasts * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn work_that_is_done_again_later_is_given_up_soon() {
    let store = MemoryStore::new();
    let (retry, _) = retry(&store);
    let key = Key::from("k");
    store.fail_next(100_000, ErrorKind::Throttled);
    let begun = Instant::now();
    impatient(retry.delete(&key, None)).await.unwrap_err();
    assert!(begun.elapsed() <= IMPATIENT_TIMEOUT, "{:?}", begun.elapsed());
    store.lift_all();
    store.fail_next(100_000, ErrorKind::Transient);
    impatient(retry.delete(&key, None)).await.unwrap_err();
    let begun = Instant::now();
    for _ in 0..10 {
        impatient(retry.delete(&key, None)).await.unwrap_err();
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn waits_double_up_to_their_ceiling_and_obey_the_store() {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
        let minute = Duration::from_secs(60);
        let attempts = || Attempts::new(RetryPolicy::default(), minute);
        let mut doubling = attempts();
        let err = StoreError::new(ErrorKind::Transient, "X", "m");
        let waits: Vec<u128> =
            (0..9).map(|_| doubling.wait_after(&err, 1.0).unwrap().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
        let asked = |seconds| StoreError {
            retry_after: Some(Duration::from_secs(seconds)),
            ..StoreError::new(ErrorKind::Throttled, "X", "m")
        };
        let wait = attempts().wait_after(&asked(30), 0.0);
        assert_eq!(wait, Some(Duration::from_secs(30)));
        // There is one attempt more, at the last moment.
        let wait = attempts().wait_after(&asked(90), 0.0).unwrap();
        assert_eq!(wait.as_secs_f64().round(), (minute - LAST_ATTEMPT).as_secs_f64());
    });
}

#[tokio::test(start_paused = true)]
async fn a_broken_body_goes_on_from_the_byte_reached() {
    let store = MemoryStore::new();
    let (retry, meter) = retry(&store);
    let key = Key::from("k");
    let bytes = content(1000);
    store.insert(&key, bytes.clone(), "e");
    store.script([
        Fault::Short(300, ErrorKind::Transient),
        Fault::Refused(ErrorKind::Timeout),
        Fault::Short(0, ErrorKind::Transient),
        Fault::Short(400, ErrorKind::Corrupt),
    ]);
    let body = retry.get(&key, ByteRange::new(100, 1000), &ETag::new("e")).await.unwrap();
    assert_eq!(read(body).await.unwrap(), bytes[100..]);
    assert_eq!(store.bytes_down(), 900, "no byte came twice");
    assert_eq!(meter.snapshot().retries, 4);
}

#[tokio::test(start_paused = true)]
async fn progress_starts_the_count_of_attempts_afresh() {
    let store = MemoryStore::new();
    let policy = RetryPolicy { attempts_max: Some(8), ..RetryPolicy::default() };
    let retry = Retry::new(store.clone(), policy, Arc::default(), Arc::default());
    let key = Key::from("k");
    let bytes = content(100);
    store.insert(&key, bytes.clone(), "e");
    store.script((0..50).map(|_| Fault::Short(1, ErrorKind::Transient)));
    let body = retry.get(&key, ByteRange::new(0, 100), &ETag::new("e")).await.unwrap();
    assert_eq!(read(body).await.unwrap(), bytes);

    store.script((0..50).map(|_| Fault::Short(0, ErrorKind::Transient)));
    let body = retry.get(&key, ByteRange::new(0, 100), &ETag::new("e")).await.unwrap();
    assert_eq!(read(body).await.unwrap_err().kind, ErrorKind::Transient);
}

#[tokio::test(start_paused = true)]
async fn an_object_replaced_in_mid_body_is_never_mixed() {
    let store = MemoryStore::new();
    let (retry, _) = retry(&store);
    let key = Key::from("k");
    store.insert(&key, content(100), "e");
    store.script([Fault::Short(10, ErrorKind::Transient)]);
    let body = retry.get(&key, ByteRange::new(0, 100), &ETag::new("e")).await.unwrap();
    store.insert(&key, content(100), "other");
    assert_eq!(read(body).await.unwrap_err().kind, ErrorKind::PreconditionFailed);
}

/// A caller that knows the upload's mark finds out what became of it.
#[tokio::test(start_paused = true)]
async fn the_refusal_of_a_repeated_completion_is_passed_on() {
    let store = MemoryStore::new();
    let (retry, _) = retry(&store);
    let key = Key::from("k");
    let id = retry.create_upload(&key, &WriteOptions::default()).await.unwrap().upload_id;
    let etag = retry.upload_part(&key, &id, 1, content(10).into()).await.unwrap();
    let parts = [StoredPart { number: 1, etag, len: 10, crc: None }];
    store.script([Fault::Lost(ErrorKind::Timeout)]);
    let outcome = retry.complete_upload(&key, &id, &parts, &Precondition::None).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::NoSuchUpload);
    assert!(retry.head(&key).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_conditional_put_whose_answer_was_lost_succeeds() {
    let store = MemoryStore::new();
    let (retry, _) = retry(&store);
    let key = Key::from("k");
    let options = WriteOptions::default().marked();
    store.script([Fault::Lost(ErrorKind::Transient)]);
    let etag = retry.put(&key, content(5).into(), &options, &Precondition::Absent).await.unwrap();
    assert_eq!(etag, retry.head(&key).await.unwrap().etag);

    // Another client's object stays, and the loser is told, though content and metadata are the same but for the
    // mark.
    store.script([Fault::Refused(ErrorKind::Transient)]);
    let options = WriteOptions::default().marked();
    let outcome = retry.put(&key, content(5).into(), &options, &Precondition::Absent).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::PreconditionFailed);
    // Without a lost answer before it, the refusal stands and no HEAD is spent on it.
    let sent = store.total();
    let outcome = retry.put(&key, content(5).into(), &options, &Precondition::Absent).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::PreconditionFailed);
    assert_eq!(store.total(), sent + 1);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_of_one_version_whose_answer_was_lost_succeeds() {
    let (key, etag) = (Key::from("k"), ETag::new("e"));
    let store = MemoryStore::new();
    let (retry, _) = retry(&store);
    store.insert(&key, content(1), "e");
    store.on("DeleteObject").then(Fault::Lost(ErrorKind::Timeout));
    retry.delete(&key, Some(&etag)).await.unwrap();
    assert_eq!((store.count("DeleteObject"), store.count("HeadObject")), (2, 1));
    // There is nothing to delete: as without a condition.
    retry.delete(&key, Some(&etag)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_version_that_another_client_has_written_is_not_deleted() {
    let (key, etag) = (Key::from("k"), ETag::new("e"));
    let store = MemoryStore::new();
    let (retry, _) = retry(&store);
    store.insert(&key, content(1), "new");
    for lost in [false, true] {
        if lost {
            store.on("DeleteObject").then(Fault::Refused(ErrorKind::Timeout));
        }
        let refused = retry.delete(&key, Some(&etag)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::PreconditionFailed);
        assert_eq!(retry.head(&key).await.unwrap().etag, ETag::new("new"));
    }
    // It is not known which one is there: the fault that can pass is told.
    store.on("HeadObject").then(Fault::Refused(ErrorKind::Denied));
    let unknown = retry.delete(&key, Some(&etag)).await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::Denied);
}

#[tokio::test(start_paused = true)]
async fn a_copy_onto_a_free_name_whose_answer_was_lost_succeeds() {
    let store = MemoryStore::new();
    let (retry, _) = retry(&store);
    store.insert(&Key::from("from"), content(1), "e");
    let copy = async |to: &str| {
        let request = CopyRequest {
            source: Key::from("from"),
            source_etag: Some(ETag::new("e")),
            target: Key::from(to),
            replace: Some(WriteOptions::default().marked()),
            keeps_tags: true,
            storage: Storage::default(),
            precondition: Precondition::Absent,
        };
        retry.copy(&request).await
    };
    store.on("CopyObject").then(Fault::Lost(ErrorKind::Timeout));
    copy("to").await.unwrap();
    let taken = copy("to").await.unwrap_err();
    assert_eq!(taken.kind, ErrorKind::PreconditionFailed, "it is another copy's");
}
