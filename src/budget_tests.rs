//! The invariants of the budget, each by a test that decides, and all of them under load.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::clock;

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn permit_of<T>(poll: Poll<T>) -> T {
    match poll {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("still waits"),
    }
}

#[tokio::test]
async fn what_is_dropped_comes_back() {
    let budget = Budget::new(100);
    let permit = budget.reserve(60).await;
    assert_eq!((permit.bytes(), budget.used()), (60, 60));
    assert!(budget.try_reserve(41).is_none());
    drop(permit);
    assert_eq!(budget.used(), 0);
    assert_eq!(budget.try_reserve(100).unwrap().bytes(), 100);
}

#[tokio::test]
async fn more_than_there_is_means_all_there_is() {
    let budget = Budget::new(100);
    assert_eq!(budget.reserve(1000).await.bytes(), 100);
    assert!(budget.try_reserve(101).is_none());
    assert!(budget.try_reserve(u64::MAX).is_none());
}

#[tokio::test]
async fn waiters_are_served_in_order_and_are_not_passed() {
    let budget = Budget::new(100);
    let all = budget.reserve(100).await;
    let mut large = pin!(budget.reserve(80));
    let mut small = pin!(budget.reserve(10));
    assert!(poll_once(large.as_mut()).is_pending());
    assert!(poll_once(small.as_mut()).is_pending());
    assert_eq!(budget.waiters(), 2);

    let mut all = all;
    drop(all.split(50)); // 50 are free: the small one would fit, but it came later
    assert!(poll_once(small.as_mut()).is_pending());
    assert!(budget.try_reserve(1).is_none(), "no caller overtakes the line");
    drop(all);
    let large = permit_of(poll_once(large.as_mut()));
    let small = permit_of(poll_once(small.as_mut()));
    assert_eq!((large.bytes(), small.bytes(), budget.used()), (80, 10, 90));
    assert_eq!(budget.waiters(), 0);
}

#[tokio::test]
async fn a_waiter_that_gives_up_passes_its_turn_on() {
    let budget = Budget::new(100);
    let held = budget.reserve(50).await;
    let mut first = Box::pin(budget.reserve(80));
    let mut second = pin!(budget.reserve(50));
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    drop(first);
    let second = permit_of(poll_once(second.as_mut()));
    assert_eq!(budget.used(), 100);
    drop((held, second));
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_grant_to_one_that_gave_up_unseen_is_given_back() {
    let budget = Budget::new(100);
    let all = budget.reserve(100).await;
    let mut first = Box::pin(budget.reserve(100));
    let mut second = pin!(budget.reserve(100));
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    drop(all); // grants to `first`, which never looks
    assert_eq!((budget.used(), budget.waiters()), (100, 1));
    drop(first);
    assert_eq!(permit_of(poll_once(second.as_mut())).bytes(), 100);
}

#[tokio::test]
async fn a_grant_that_is_split_keeps_the_sum() {
    let budget = Budget::new(100);
    let mut grant = budget.reserve(60).await;
    let part = grant.split(20).keep();
    assert_eq!((grant.bytes(), part.bytes(), budget.used()), (40, 20, 60));
    drop(part);
    assert_eq!((grant.bytes(), budget.used()), (40, 40));
    assert_eq!(grant.split(1000).bytes(), 40);
    assert_eq!(budget.used(), 0, "the split part was dropped, and the rest is empty");
}

#[tokio::test]
async fn an_overdraft_counts_and_comes_back() {
    let budget = Budget::new(100);
    let all = budget.reserve(100).await;
    let over = budget.overdraw(30);
    assert_eq!(budget.used(), 130);
    drop(all);
    assert!(budget.try_reserve(71).is_none());
    assert!(budget.try_reserve(70).is_some());
    drop(over);
    assert_eq!(budget.used(), 0);
}

/// What is held in hand must not be `Send`: a task that waits would hold it meanwhile. Two implementations would
/// apply if it were, and this would not compile.
const _: fn() = || {
    trait NotSend<A> {
        fn is_not() {}
    }
    struct Both;
    impl<T: ?Sized> NotSend<()> for T {}
    impl<T: ?Sized + Send> NotSend<Both> for T {}
    let _ = <Grant as NotSend<_>>::is_not;
};

/// Clean memory in units, each with its permit.
#[derive(Default)]
struct CleanMemory {
    held: Mutex<Vec<Permit>, rank::MemoryTier>,
}

impl Reclaim for CleanMemory {
    fn reclaim(&self, bytes: u64) -> u64 {
        let mut dropped = Vec::new();
        let mut held = self.held.lock();
        let mut given = 0;
        while given < bytes
            && let Some(permit) = held.pop()
        {
            given += permit.bytes();
            dropped.push(permit);
        }
        drop(held);
        given
    }
}

fn with_clean_memory(total: u64, units: u64) -> (Arc<Budget>, Arc<CleanMemory>) {
    let budget = Budget::new(total);
    let clean = Arc::new(CleanMemory::default());
    for _ in 0..units {
        clean.held.lock().push(budget.try_reserve(10).unwrap().keep());
    }
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&clean) as Weak<dyn Reclaim>;
    budget.add_reclaimer(weak);
    (budget, clean)
}

#[tokio::test]
async fn clean_memory_makes_room_and_only_as_much_as_is_short() {
    let (budget, clean) = with_clean_memory(100, 10);
    let permit = budget.try_reserve(25).unwrap();
    assert_eq!(clean.held.lock().len(), 7);
    assert_eq!(budget.used(), 95);
    let more = budget.reserve(75).await;
    assert_eq!(clean.held.lock().len(), 0);
    drop((permit, more));
}

#[tokio::test]
async fn memory_that_becomes_clean_later_is_found_by_waiters() {
    let (budget, clean) = with_clean_memory(100, 0);
    let busy = budget.try_reserve(100).unwrap();
    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { budget.reserve(40).await.bytes() }
    });
    budget.pressure().await; // it waits, and was refused
    clean.held.lock().push(busy.keep()); // no word to the budget
    assert_eq!(waiting.await.unwrap(), 40);
}

#[tokio::test]
async fn pressure_speaks_only_when_clean_memory_is_not_enough() {
    let (budget, clean) = with_clean_memory(100, 5);
    let _easy = budget.reserve(80).await; // by reclaiming
    let mut pressure = pin!(budget.pressure());
    assert!(poll_once(pressure.as_mut()).is_pending());
    let mut hard = Box::pin(budget.reserve(60));
    assert!(poll_once(hard.as_mut()).is_pending());
    assert!(clean.held.lock().is_empty());
    assert!(poll_once(pressure.as_mut()).is_ready());
    drop(hard);
    let mut again = pin!(budget.pressure());
    assert!(poll_once(again.as_mut()).is_pending(), "it waits again");
}

/// A reclaimer that claims what it never gave must not keep the budget busy for ever.
struct Liar;

impl Reclaim for Liar {
    fn reclaim(&self, bytes: u64) -> u64 {
        bytes
    }
}

#[tokio::test]
async fn a_reclaimer_that_gives_nothing_after_all_is_pressure() {
    let budget = Budget::new(100);
    let liar: Arc<dyn Reclaim> = Arc::new(Liar);
    budget.add_reclaimer(Arc::downgrade(&liar));
    let _all = budget.reserve(100).await;
    let mut waiting = pin!(budget.reserve(1));
    assert!(poll_once(waiting.as_mut()).is_pending());
    assert!(poll_once(pin!(budget.pressure())).is_ready());
}

#[test]
fn under_load_the_total_holds_and_no_wakeup_is_lost() {
    const TOTAL: u64 = 1000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let budget = Budget::new(TOTAL);
    let held = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..64u64)
            .map(|task| {
                let (budget, held) = (budget.clone(), held.clone());
                tokio::spawn(async move {
                    // A different fixed sequence for each task.
                    let mut dice = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(task + 1);
                    let mut served = 0u64;
                    for _ in 0..400 {
                        dice ^= dice << 13;
                        dice ^= dice >> 7;
                        dice ^= dice << 17;
                        let bytes = dice % 700 + 1;
                        if dice & 0x700 == 0 {
                            // Give up after one look, granted or not.
                            let mut waiting = Box::pin(budget.reserve(bytes));
                            let polled = std::future::poll_fn(|context| {
                                Poll::Ready(waiting.as_mut().poll(context).is_ready())
                            });
                            polled.await;
                            continue;
                        }
                        let permit = budget.reserve(bytes).await.keep();
                        let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        assert!(now <= TOTAL, "{now} bytes are held");
                        tokio::task::yield_now().await;
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        drop(permit);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let all = async {
            for task in tasks {
                assert!(task.await.unwrap() > 0);
            }
        };
        clock::timeout(Duration::from_secs(60), all).await.unwrap();
    });
    assert_eq!((budget.used(), budget.waiters()), (0, 0));
}
