//! The file under everything that can happen to it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;

const IDENTITY: &[u8] = b"bucket";

type Opened = Result<(Log<String>, Vec<String>, ReplayReport), JournalError>;

fn open_as(path: &Path, identity: &[u8]) -> Opened {
    let mut records = Vec::new();
    let (log, report) = Log::open(path, identity, |record| records.push(record))?;
    Ok((log, records, report))
}

fn open(path: &Path) -> (Log<String>, Vec<String>, ReplayReport) {
    open_as(path, IDENTITY).unwrap()
}

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("record {number}")).collect()
}

/// A folder with a journal of five records, and its bytes.
fn sample() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal");
    let (log, records, report) = open(&path);
    assert!(records.is_empty());
    assert_eq!(report, ReplayReport::default());
    log.append(&texts(0..2)).unwrap();
    log.append(&texts(2..5)).unwrap();
    drop(log);
    let bytes = std::fs::read(&path).unwrap();
    (folder, path, bytes)
}

fn file_names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_appended_is_there_after_a_reopening() {
    let (_folder, path, bytes) = sample();
    let (log, records, report) = open(&path);
    assert_eq!(records, texts(0..5));
    assert_eq!(report, ReplayReport { records: 5, dropped_bytes: 0, reason: None });
    assert_eq!(log.bytes(), bytes.len() as u64);
}

/// A pipe is opened at once to read and write, and to be read from it would be waited for, for ever.
#[test]
fn what_took_the_place_of_a_log_is_an_error_not_a_wait() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let (told, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let opened = open_as(&path, IDENTITY).map(|_| ()).map_err(|error| error.to_string());
        let read = read_only(&path, |_: String| ()).map(|_| ()).map_err(|error| error.to_string());
        told.send((opened, read)).unwrap();
    });
    let (opened, read) = wait.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert!(opened.is_err() && read.is_err(), "{opened:?}, {read:?}");
}

/// Opens the damaged file, checks that what comes is a prefix of what was written, that the report accounts
/// for every byte, and that the journal goes on from there. Returns how many records were kept.
fn survives(path: &Path, damaged: &[u8], what: &str) -> usize {
    std::fs::write(path, damaged).unwrap();
    let (log, records, report) = open(path);
    let kept = records.len();
    assert_eq!(records, texts(0..kept), "{what}");
    assert_eq!(report.records, kept as u64, "{what}");
    if report.dropped_bytes > 0 {
        assert!(report.reason.is_some(), "{what}: dropped without a reason");
    }
    log.append(&["after".to_owned()]).unwrap();
    drop(log);
    let (_log, records, report) = open(path);
    assert_eq!(records.len(), kept + 1, "{what}");
    assert_eq!(records[kept], "after", "{what}");
    assert_eq!((report.dropped_bytes, report.reason), (0, None), "{what}: not repaired");
    kept
}

#[test]
fn truncation_at_any_byte_keeps_the_whole_records_before_it() {
    let (_folder, path, bytes) = sample();
    let header = frame::header(IDENTITY).len();
    let frame_len = (bytes.len() - header) / 5;
    for len in 0..bytes.len() {
        let kept = survives(&path, &bytes[..len], &format!("cut to {len}"));
        assert_eq!(kept, len.saturating_sub(header) / frame_len, "cut to {len}");
    }
}

#[test]
fn a_flip_of_any_bit_never_yields_a_wrong_record() {
    let (_folder, path, bytes) = sample();
    let header = frame::header(IDENTITY).len();
    let frame_len = (bytes.len() - header) / 5;
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let kept = survives(&path, &damaged, &format!("bit {bit} flipped"));
        // In the header a flip costs nothing: the frames vouch for themselves.
        let expected = (bit / 8).checked_sub(header).map_or(5, |offset| offset / frame_len);
        assert_eq!(kept, expected, "bit {bit} flipped");
    }
}

#[test]
fn garbage_and_zeros_behind_the_records_are_cut_off() {
    let (_folder, path, bytes) = sample();
    for tail in [vec![0; 5000], vec![0xFF; 5000], bytes.clone(), vec![1, 0, 0, 0]] {
        let mut damaged = bytes.clone();
        damaged.extend_from_slice(&tail);
        assert_eq!(survives(&path, &damaged, "longer"), 5);
    }
}

#[test]
fn an_empty_file_is_a_new_journal_and_is_reported() {
    let (folder, path, _) = sample();
    assert_eq!(survives(&path, b"", "empty"), 0);
    std::fs::write(&path, b"").unwrap();
    let (_log, _, report) = open(&path);
    assert_eq!(report.reason, Some(DropReason::DamagedHeader));
    assert_eq!(file_names(&folder), ["journal"]);
}

#[test]
fn a_file_that_is_no_journal_is_set_aside_not_overwritten() {
    let (folder, path, _) = sample();
    std::fs::write(&path, b"my diary, and not a journal of this program").unwrap();
    let (_log, records, report) = open(&path);
    assert!(records.is_empty());
    assert_eq!((report.dropped_bytes, report.reason), (43, Some(DropReason::DamagedHeader)));
    assert_eq!(file_names(&folder), ["journal", "journal.damaged"]);
    assert!(std::fs::read(folder.path().join("journal.damaged")).unwrap().starts_with(b"my diary"));
}

#[test]
fn another_bucket_is_refused_and_nothing_is_touched() {
    let (_folder, path, bytes) = sample();
    let refused = open_as(&path, b"https://host\0other\0p/").err().unwrap();
    assert!(matches!(refused, JournalError::OtherBucket { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_future_version_is_refused_and_nothing_is_touched() {
    let (_folder, path, bytes) = sample();
    let mut future = frame::header_of_version(IDENTITY, frame::VERSION + 1);
    future.extend_from_slice(&bytes[future.len()..]);
    std::fs::write(&path, &future).unwrap();
    let refused = open_as(&path, IDENTITY).err().unwrap();
    assert!(
        matches!(refused, JournalError::OtherVersion { version, .. } if version == frame::VERSION + 1),
        "{refused}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), future);
}

#[test]
fn an_unreadable_file_is_an_error_not_an_empty_journal() {
    let folder = TempDir::new().unwrap();
    let refused = open_as(folder.path(), IDENTITY).err().unwrap();
    assert!(matches!(refused, JournalError::Io { .. }), "{refused}");
}

/// Puts a device that is always full in the place of the file.
fn fill_the_disk(log: &Log<String>) -> Arc<File> {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    std::mem::replace(&mut log.writer.lock().file.file, Arc::new(full))
}

#[tokio::test]
async fn the_first_error_latches_until_a_rewrite_repairs_it() {
    let (_folder, path, _) = sample();
    let (log, _, _) = open(&path);
    let good = fill_the_disk(&log);
    let error = log.append(&texts(5..6)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));

    log.writer.lock().file.file = good; // the disk has room again, but what the file holds is unknown
    assert!(log.is_latched());
    assert_eq!(log.append(&texts(5..6)).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(open(&path).1, texts(0..5));

    let (turn, syncing) = log.turns_now().unwrap();
    log.begin_rewrite(&turn, log.copied(|| ()).0, texts(0..5).into_iter()).unwrap();
    log.finish_rewrite(&turn, &syncing).unwrap();
    drop((turn, syncing));
    log.append(&texts(5..6)).unwrap();
    log.sync().await.unwrap();
    assert_eq!(open(&path).1, texts(0..6));
}

#[test]
fn a_record_too_long_is_refused_without_harm() {
    let (_folder, path, _) = sample();
    let (log, _, _) = open(&path);
    let error = log.append(&["x".repeat(2 << 20)]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    log.append(&texts(5..6)).unwrap();
    assert_eq!(open(&path).1, texts(0..6));
}

#[tokio::test]
async fn appends_during_a_rewrite_are_in_both_files() {
    let (folder, path, _) = sample();
    let (log, _, _) = open(&path);
    let (turn, syncing) = log.turns_now().unwrap();
    log.begin_rewrite(&turn, log.copied(|| ()).0, texts(0..5).into_iter()).unwrap();
    log.append(&texts(5..7)).unwrap();
    // Killed here: the old file has everything, the new one is not looked at.
    assert_eq!(open(&path).1, texts(0..7));
    assert_eq!(file_names(&folder), ["journal", "journal.new"]);

    log.finish_rewrite(&turn, &syncing).unwrap();
    drop((turn, syncing));
    log.append(&texts(7..8)).unwrap();
    assert_eq!(file_names(&folder), ["journal"]);
    assert_eq!(open(&path).1, texts(0..8));
}

/// Were a lock that appends want held while records are written, this would hang.
#[test]
fn appends_go_on_while_a_rewrite_writes_its_records() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (_folder, path, _) = sample();
    let log = Arc::new(open(&path).0);
    let rewriting = log.clone();
    let rewrite = move || {
        let (log, handle) = (rewriting, tokio::runtime::Handle::current());
        let (turn, syncing) = log.turns_now().unwrap();
        drop(syncing);
        let (place, records) = log.copied(|| texts(0..5));
        let mut number = 5;
        let records = records.into_iter().inspect(|_| {
            // More than is left for the moment in which appends wait, and more than is copied at once.
            for _ in 0..10 {
                log.append(&[format!("record {number}"), "x".repeat(50_000)]).unwrap();
                number += 1;
            }
            handle.block_on(log.sync()).unwrap();
        });
        log.begin_rewrite(&turn, place, records).unwrap();
        log.append(&["last".to_owned()]).unwrap();
        let syncing = handle.block_on(log.sync_turn());
        log.finish_rewrite(&turn, &syncing).unwrap();
    };
    runtime.block_on(async { tokio::task::spawn_blocking(rewrite).await.unwrap() });
    assert_eq!(log.unsynced_bytes(), 0);
    log.append(&["behind".to_owned()]).unwrap();
    drop(log);
    let (log, records, report) = open(&path);
    assert_eq!(report.reason, None);
    assert_eq!(log.bytes(), std::fs::metadata(&path).unwrap().len());
    let mut expected = texts(0..5);
    expected.extend(texts(5..55).into_iter().flat_map(|text| [text, "x".repeat(50_000)]));
    expected.extend(["last".to_owned(), "behind".to_owned()]);
    assert_eq!(records, expected);
}

#[tokio::test]
async fn a_rewrite_dropped_between_its_halves_is_begun_anew() {
    let (_folder, path, _) = sample();
    let (log, _, _) = open(&path);
    let (turn, syncing) = log.turns_now().unwrap();
    for number in 5..8 {
        log.begin_rewrite(&turn, log.copied(|| ()).0, texts(0..number).into_iter()).unwrap();
        log.append(&texts(number..number + 1)).unwrap();
    }
    log.finish_rewrite(&turn, &syncing).unwrap();
    assert_eq!(open(&path).1, texts(0..8));
}

/// The last stretch of a rewrite is copied while appends wait, and may be what makes a step of its file full.
#[test]
fn appends_do_not_wait_for_a_sync_of_a_rewrite() {
    let (_folder, path, _) = sample();
    let (log, _, _) = open(&path);
    let (turn, syncing) = log.turns_now().unwrap();
    let place = log.copied(|| ()).0;
    log.append(&["since".repeat(13_000)]).unwrap();
    let before = std::iter::repeat_n("8".repeat(1 << 16), 127);
    // A debug build panics where a file is synced under a lock that appends take.
    log.begin_rewrite(&turn, place, before).unwrap();
    assert!(log.writer.lock().next.as_ref().unwrap().bytes > 8 << 20);
    log.finish_rewrite(&turn, &syncing).unwrap();
    assert_eq!(open(&path).1.len(), 128);
}

/// So many appends that wait while another is written.
fn waiting(log: &Log<String>, count: usize) {
    while log.tail.lock().waiting.len() < count {
        std::thread::yield_now();
    }
}

#[test]
fn appends_at_once_are_written_together_in_order() {
    let (_folder, path, _) = sample();
    let (log, _, _) = open(&path);
    let seen = Mutex::<_, rank::Test>::new(Vec::new());
    std::thread::scope(|scope| {
        let writing = log.writer.lock();
        for number in 5..25 {
            let (log, seen) = (&log, &seen);
            scope.spawn(move || {
                let written = |written: &[String]| seen.lock().extend_from_slice(written);
                log.append_then(&texts(number..number + 1), written).unwrap();
            });
        }
        waiting(&log, 20);
        // A question does not wait for the file to be written.
        assert!(log.has_room() && !log.is_latched() && log.bytes() > 0);
        assert_eq!((log.unsynced_bytes(), seen.lock().len()), (0, 0));
        drop(writing);
    });
    let records = open(&path).1;
    assert_eq!(records[5..], seen.lock()[..]);
    assert_eq!((records.len(), log.tail.lock().appended), (25, 20));
}

#[test]
fn an_error_is_told_to_all_whose_records_it_took() {
    let (_folder, path, bytes) = sample();
    let (log, _, _) = open(&path);
    let good = fill_the_disk(&log);
    std::thread::scope(|scope| {
        let writing = log.writer.lock();
        let appends: Vec<_> = (5..10)
            .map(|number| {
                let (log, nothing) = (&log, |_: &[String]| panic!("it was not written"));
                scope.spawn(move || log.append_then(&texts(number..number + 1), nothing))
            })
            .collect();
        waiting(&log, 5);
        drop(writing);
        for append in appends {
            let error = append.join().unwrap().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        }
    });
    drop(good);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_crash_at_any_byte_of_a_rewrite_keeps_the_old_file() {
    let (folder, path, _) = sample();
    let (log, _, _) = open(&path);
    let (turn, _) = log.turns_now().unwrap();
    log.begin_rewrite(&turn, log.copied(|| ()).0, texts(3..5).into_iter()).unwrap();
    drop((log, turn));
    let new_path = folder.path().join("journal.new");
    let new = std::fs::read(&new_path).unwrap();
    for len in 0..=new.len() {
        std::fs::write(&new_path, &new[..len]).unwrap();
        let (log, records, report) = open(&path);
        assert_eq!(records, texts(0..5), "new file of {len} bytes");
        assert_eq!(report.reason, None);
        // The leftover is no obstacle to the next rewrite.
        let (turn, syncing) = log.turns_now().unwrap();
        log.begin_rewrite(&turn, log.copied(|| ()).0, texts(0..5).into_iter()).unwrap();
        log.finish_rewrite(&turn, &syncing).unwrap();
        assert_eq!(open(&path).1, texts(0..5));
    }
}

#[tokio::test]
async fn a_rewrite_that_fails_leaves_the_log_as_it_was() {
    let (folder, path, _) = sample();
    let (log, _, _) = open(&path);
    std::fs::create_dir(folder.path().join("journal.new")).unwrap();
    let (turn, syncing) = log.turns_now().unwrap();
    let place = log.copied(|| ()).0;
    assert!(log.begin_rewrite(&turn, place, texts(0..5).into_iter()).is_err());
    assert!(log.finish_rewrite(&turn, &syncing).is_err());
    drop((turn, syncing));
    log.append(&texts(5..6)).unwrap();
    log.sync().await.unwrap();
    assert_eq!(open(&path).1, texts(0..6));
}

#[test]
fn syncs_at_once_share_one_fdatasync() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (_folder, path, _) = sample();
    let log = Arc::new(open(&path).0);
    runtime.block_on(async {
        // While another task has the turn, all others append and queue up behind it.
        let turn = log.sync_turn().await;
        let finished = Arc::new(AtomicUsize::new(0));
        let waiting: Vec<_> = (5..25)
            .map(|number| {
                log.append(&texts(number..number + 1)).unwrap();
                let (log, finished) = (log.clone(), finished.clone());
                tokio::spawn(async move {
                    log.sync().await.unwrap();
                    finished.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(finished.load(Ordering::SeqCst), 0);
        drop(turn);
        for task in waiting {
            task.await.unwrap();
        }
        let tail = log.tail.lock();
        assert_eq!((tail.synced, tail.appended), (20, 20));
        assert_eq!(tail.syncs, 1);
    });
}

#[tokio::test]
async fn a_sync_that_is_dropped_leaves_the_turn_to_the_next() {
    let (_folder, path, _) = sample();
    let (log, _, _) = open(&path);
    for number in 5..9 {
        log.append(&texts(number..number + 1)).unwrap();
        let mut sync = Box::pin(log.sync());
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(sync.as_mut().poll(context).is_ready())
        });
        polled.await;
        drop(sync);
    }
    log.sync().await.unwrap();
    let tail = log.tail.lock();
    assert_eq!(tail.synced, tail.appended);
}
