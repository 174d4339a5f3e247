use std::sync::atomic::{AtomicBool, AtomicU32};

use super::*;
use crate::clock::{self, Instant};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A store that answers probes, or does not, and counts them.
#[derive(Default)]
struct Asked {
    is_up: AtomicBool,
    probes: AtomicU32,
}

impl Asked {
    async fn probe(&self) -> Result<()> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        clock::sleep(Duration::from_millis(10)).await;
        if self.is_up.load(Ordering::SeqCst) { Ok(()) } else { fault(ErrorKind::Transient) }
    }

    fn probes(&self) -> u32 {
        self.probes.load(Ordering::SeqCst)
    }
}

fn fault(kind: ErrorKind) -> Result<()> {
    Err(StoreError::new(kind, "X", ""))
}

fn patience(time: Duration) -> Patience {
    Patience {
        until: Instant::now() + time,
        outage_max: time,
        probes_max: u64::MAX,
        is_none: false,
    }
}

async fn admit(breaker: &Breaker, asked: &Asked, patience: Patience) -> Result<Leave> {
    breaker.admit("X", true, patience, || asked.probe()).await
}

/// A breaker that an outage has just opened.
async fn open() -> (Breaker, Asked) {
    let (breaker, asked) = (Breaker::new(TIMEOUT, OnOutage::Wait), Asked::default());
    for _ in 0..FAILURES_MAX {
        let leave = admit(&breaker, &asked, patience(TIMEOUT)).await.unwrap();
        assert!(!breaker.outage().is_on());
        tokio::time::advance(FAILURES_TIME_MIN).await;
        leave.settle(&fault(ErrorKind::Transient));
    }
    assert!(breaker.outage().is_on());
    (breaker, asked)
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_out_by_all_and_asked_about_by_one() {
    let (breaker, asked) = open().await;
    let begun = Instant::now();
    let waiting = futures_util::future::join_all(
        (0..100).map(|_| admit(&breaker, &asked, patience(TIMEOUT))),
    );
    let ends = async {
        clock::sleep(Duration::from_secs(45)).await;
        asked.is_up.store(true, Ordering::SeqCst);
    };
    let (leaves, ()) = tokio::join!(waiting, ends);
    assert!(leaves.iter().all(Result::is_ok));
    assert!(begun.elapsed() < Duration::from_secs(45) + PAUSE_MAX, "{:?}", begun.elapsed());
    assert!(asked.probes() < 12, "{} probes", asked.probes());
    assert!(!breaker.outage().is_on());
}

#[tokio::test(start_paused = true)]
async fn patience_ends_once_and_not_for_each_that_comes_later() {
    let (breaker, asked) = open().await;
    let begun = Instant::now();
    let ten = Duration::from_secs(10);
    for _ in 0..5 {
        assert_eq!(
            admit(&breaker, &asked, patience(ten)).await.err().unwrap().kind,
            ErrorKind::Offline
        );
        assert!(begun.elapsed() <= ten, "{:?}", begun.elapsed());
    }
    // One of the requests that come later finds that the store is back.
    asked.is_up.store(true, Ordering::SeqCst);
    tokio::time::advance(PAUSE_MAX).await;
    let later = [admit(&breaker, &asked, patience(ten)), admit(&breaker, &asked, patience(ten))];
    assert!(futures_util::future::join_all(later).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_bound_on_attempts_bounds_the_probes_that_are_waited_for() {
    let (breaker, asked) = open().await;
    let two = Patience { probes_max: 2, ..patience(TIMEOUT) };
    assert!(admit(&breaker, &asked, two).await.is_err());
    assert_eq!(asked.probes(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_an_answer_for_long_opens_it() {
    let asked = Asked::default();
    // By giving up, or by being given up.
    for is_given_up in [false, true] {
        let breaker = Breaker::new(TIMEOUT, OnOutage::Wait);
        let leave = admit(&breaker, &asked, patience(TIMEOUT)).await.unwrap();
        tokio::time::advance(SILENCE_MAX).await;
        if is_given_up {
            drop(leave);
        } else {
            leave.settle(&fault(ErrorKind::Timeout));
        }
        assert!(breaker.outage().is_on());
        // Bytes of a body that is still coming are an answer, too.
        breaker.hear();
        assert!(!breaker.outage().is_on());
    }
    // Another attempt was answered meanwhile.
    let breaker = Breaker::new(TIMEOUT, OnOutage::Wait);
    let leave = admit(&breaker, &asked, patience(TIMEOUT)).await.unwrap();
    tokio::time::advance(SILENCE_MAX).await;
    admit(&breaker, &asked, patience(TIMEOUT)).await.unwrap().settle(&Ok(()));
    drop(leave);
    assert!(!breaker.outage().is_on());
}

#[tokio::test(start_paused = true)]
async fn failures_of_one_moment_and_refusals_do_not_open_it() {
    let (breaker, asked) = (Breaker::new(TIMEOUT, OnOutage::Wait), Asked::default());
    for _ in 0..10 {
        let leave = admit(&breaker, &asked, patience(TIMEOUT)).await.unwrap();
        leave.settle(&fault(ErrorKind::Transient));
    }
    for _ in 0..10 {
        let leave = admit(&breaker, &asked, patience(TIMEOUT)).await.unwrap();
        tokio::time::advance(FAILURES_TIME_MIN).await;
        leave.settle(&fault(ErrorKind::Denied));
    }
    assert!(!breaker.outage().is_on());
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_goes_away_is_anothers() {
    let (breaker, asked) = open().await;
    asked.is_up.store(true, Ordering::SeqCst);
    let first =
        clock::timeout(Duration::from_millis(5), admit(&breaker, &asked, patience(TIMEOUT)));
    let second = admit(&breaker, &asked, patience(TIMEOUT));
    let (first, second) = futures_util::future::join(first, second).await;
    assert!(first.is_err() && second.is_ok());
    assert_eq!(asked.probes(), 2);
}

/// As `stack` does it.
async fn probe_for_ever(breaker: &Breaker, asked: &Asked) {
    loop {
        breaker.outage().begins().await;
        breaker.probe_if_due(|| asked.probe()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_wait_is_told_at_once_and_a_task_probes() {
    let (breaker, asked) = (Breaker::new(TIMEOUT, OnOutage::Fail), Asked::default());
    admit(&breaker, &asked, patience(TIMEOUT)).await.unwrap();
    breaker.shared.failed(Instant::now(), true);
    let now = Patience { is_none: true, ..patience(TIMEOUT) };
    let looked_at = async {
        for _ in 0..20 {
            let begun = Instant::now();
            let told = admit(&breaker, &asked, now).await;
            assert_eq!(told.err().unwrap().kind, ErrorKind::Offline);
            assert_eq!(begun.elapsed(), Duration::ZERO);
            clock::sleep(Duration::from_secs(1)).await;
        }
        assert!((5..=9).contains(&asked.probes()), "{} probes", asked.probes());
        asked.is_up.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        while breaker.outage().is_on() {
            clock::sleep(Duration::from_millis(10)).await;
        }
        assert!(begun.elapsed() <= OWN_PAUSE_MAX, "{:?}", begun.elapsed());
        assert!(admit(&breaker, &asked, now).await.is_ok());
    };
    tokio::select! {
        () = probe_for_ever(&breaker, &asked) => unreachable!(),
        () = looked_at => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_lost_when_the_store_is_not_there() {
    let (breaker, asked) = (Breaker::new(TIMEOUT, OnOutage::Fail), Asked::default());
    // A store that is slow with this one, and there.
    asked.is_up.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let slow = breaker.lost(begun, || asked.probe());
    assert!(clock::timeout(SILENCE_MAX * 4, slow).await.is_err());
    assert!(!breaker.outage().is_on() && asked.probes() >= 3, "{} probes", asked.probes());
    // One of many asks, and all are told.
    asked.is_up.store(false, Ordering::SeqCst);
    let (begun, before) = (Instant::now(), asked.probes());
    let all = (0..100).map(|_| breaker.lost(begun, || asked.probe()));
    futures_util::future::join_all(all).await;
    assert!(begun.elapsed() <= SILENCE_MAX + PROBE_MAX, "{:?}", begun.elapsed());
    assert_eq!(asked.probes(), before + 1);
    assert!(breaker.outage().lasts().is_some());
}

#[tokio::test(start_paused = true)]
async fn looks_do_not_wait_for_what_others_wait_for() {
    let (breaker, _) = open().await;
    let outage = breaker.outage();
    let bytes = || async {
        clock::sleep(Duration::from_secs(60)).await;
        Ok(7)
    };
    let begun = Instant::now();
    let told = looking(outage.unless_on("GetObject", bytes())).await;
    assert_eq!((told.unwrap_err().kind, begun.elapsed()), (ErrorKind::Offline, Duration::ZERO));
    assert_eq!(outage.unless_on("GetObject", bytes()).await.ok(), Some(7));
}
