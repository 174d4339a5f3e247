use super::*;

#[test]
fn locks_are_taken_in_the_order_of_their_ranks() {
    let table = Mutex::<_, rank::Table>::new(1);
    let (inode, files) = (Mutex::<_, rank::Inode>::new(2), RwLock::<_, rank::Files>::new(3));
    for _ in 0..2 {
        let table = table.lock();
        assert_eq!(*table + *inode.lock() + *files.read(), 6);
    }
    drop(files.write());
    drop(inode.lock());
    drop(table.lock());
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "Table")]
fn the_other_order_panics() {
    let (table, inode) = (Mutex::<_, rank::Table>::new(()), Mutex::<_, rank::Inode>::new(()));
    let _inode = inode.lock();
    let _table = table.lock();
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "Files")]
fn two_of_a_rank_panic() {
    let (one, other) = (RwLock::<_, rank::Files>::new(()), RwLock::<_, rank::Files>::new(()));
    let _one = one.read();
    let _other = other.read();
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "waits for the disk")]
fn no_file_is_written_under_a_lock_that_others_look_under() {
    let inode = Mutex::<_, rank::Inode>::new(());
    let _inode = inode.lock();
    waits_for_the_disk();
}

#[test]
fn files_are_written_under_locks_of_writers() {
    let (records, inode) =
        (Mutex::<_, rank::DraftRecords>::new(()), Mutex::<_, rank::Inode>::new(()));
    drop(inode.lock());
    let _records = records.lock();
    waits_for_the_disk();
}

#[test]
fn a_lock_that_is_only_tried_may_be_of_any_rank() {
    let (one, other) = (Mutex::<_, rank::Inode>::new(()), Mutex::<_, rank::Inode>::new(()));
    let held = one.lock();
    let tried = other.try_lock();
    assert!(tried.is_some() && one.try_lock().is_none());
    drop(tried);
    drop(held);
    let table = Mutex::<_, rank::Table>::new(());
    drop(table.lock());
}

#[test]
fn a_wait_for_a_condition_lets_go_meanwhile() {
    let (ready, changed) = (Mutex::<_, rank::Test>::new(false), Condvar::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            *ready.lock() = true;
            changed.notify_all();
        });
        let mut guard = ready.lock();
        while !*guard {
            changed.wait(&mut guard);
        }
    });
    let mut guard = ready.lock();
    assert!(changed.wait_for(&mut guard, Duration::from_millis(1)).timed_out());
    assert!(changed.wait_until(&mut guard, Instant::now()).timed_out());
}
