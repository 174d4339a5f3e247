//! The journal as its users see it.

use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::frame::DropReason;
use super::*;
use crate::clock::Instant;
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::store::{ETag, Key, UploadId};

fn identity(bucket: &str) -> Identity {
    Identity { endpoint: "https://host".into(), bucket: bucket.into(), prefix: Key::default() }
}

fn open(folder: &Path) -> (Arc<Journal>, ReplayReport) {
    Journal::open(folder, &identity("bucket")).unwrap()
}

fn begun(draft: DraftId) -> Record {
    Record::DraftBegun {
        draft,
        key: Key::from("file"),
        plan: PartPlan::new(8 << 20, false),
        base: None,
        options: 3,
        time: UNIX_EPOCH + Duration::from_secs(1),
    }
}

fn stored(draft: DraftId, number: u32) -> Record {
    Record::PartStored {
        draft,
        number,
        len: 8 << 20,
        etag: ETag::new(&format!("{number:032x}")),
        fingerprint: Some(Fingerprint([number as u8; 32])),
        unsealed: false,
    }
}

fn upload(draft: DraftId, parts: u32) -> Vec<Record> {
    let mut records = vec![
        begun(draft),
        Record::UploadBegun {
            draft,
            upload_id: UploadId("id".into()),
            metadata: Default::default(),
            content_type: None,
        },
    ];
    records.extend((1..=parts).map(|number| stored(draft, number)));
    records
}

#[test]
fn what_was_recorded_is_known_after_a_kill() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cache/bucket");
    let (journal, report) = open(&path);
    assert_eq!(report, ReplayReport::default());
    let draft = journal.next_draft_id();
    journal.append_all(&upload(draft, 3)).unwrap();
    journal.append(Record::PartDropped { draft, number: 2 }).unwrap();
    let before = journal.read(State::clone);
    assert_eq!(before.drafts[&draft].stored_parts().len(), 2);
    drop(journal); // nothing is written at the end of life, so a kill is no different

    let (journal, report) = open(&path);
    assert_eq!((report.records, report.reason), (6, None));
    assert_eq!(journal.read(State::clone), before);
    assert_eq!(journal.ignored_records(), 0);
    assert_eq!(journal.next_draft_id(), draft + 1);
}

#[test]
fn a_second_mount_is_refused_and_names_the_first() {
    let folder = TempDir::new().unwrap();
    let (journal, _) = open(folder.path());
    let before = std::fs::read(folder.path().join("journal")).unwrap();
    let refused = Journal::open(folder.path(), &identity("bucket")).err().unwrap();
    let JournalError::Locked { holder, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*holder, Some(std::process::id()));
    assert!(refused.to_string().contains("--cache-dir"), "{refused}");
    assert!(matches!(Journal::inspect(folder.path()), Err(JournalError::Locked { .. })));
    assert_eq!(std::fs::read(folder.path().join("journal")).unwrap(), before);
    drop(journal);
    open(folder.path());
}

#[test]
fn another_bucket_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    drop(open(folder.path()));
    let refused = Journal::open(folder.path(), &identity("other")).err().unwrap();
    assert!(refused.to_string().contains("s3://bucket/"), "{refused}");
}

#[test]
fn a_look_from_outside_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let (journal, _) = open(folder.path());
    journal.append_all(&upload(0, 2)).unwrap();
    let state = journal.read(State::clone);
    drop(journal);
    let path = folder.path().join("journal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"torn");
    std::fs::write(&path, &bytes).unwrap();

    let (found, seen, report) = Journal::inspect(folder.path()).unwrap();
    assert_eq!(found, identity("bucket"));
    assert_eq!(seen, state);
    assert_eq!((report.dropped_bytes, report.reason), (4, Some(DropReason::TornTail)));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_look_at_what_is_no_cache_folder_is_an_error() {
    let folder = TempDir::new().unwrap();
    assert!(matches!(Journal::inspect(folder.path()), Err(JournalError::Io { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A journal as the version before has written it: a file of its records, with `damage` done to it.
fn older(folder: &Path, records: &[Record], damage: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = frame::header_of_version(&identity("bucket").to_bytes(), 5);
    let (header, chain) = (bytes.len(), frame::chain_start(&bytes));
    records.iter().for_each(|record| frame::push_frame(&mut bytes, record).unwrap());
    frame::link(&mut bytes[header..], chain);
    damage(&mut bytes);
    drop(open(folder));
    std::fs::write(folder.join("journal"), &bytes).unwrap();
    bytes
}

#[test]
fn a_journal_of_the_version_before_is_taken_up() {
    type Damage = fn(&mut Vec<u8>);
    let torn: Damage = |bytes| bytes.extend(b"torn");
    let without_header: Damage = |bytes| bytes[9] ^= 1;
    for (reason, damage) in [
        (None, (|_| {}) as Damage),
        (Some(DropReason::TornTail), torn),
        (Some(DropReason::DamagedHeader), without_header),
    ] {
        let folder = TempDir::new().unwrap();
        let bytes = older(folder.path(), &upload(3, 2), damage);
        if reason != Some(DropReason::DamagedHeader) {
            let (_, seen, _) = Journal::inspect(folder.path()).unwrap();
            assert_eq!(seen.drafts[&3].parts.len(), 2);
            assert_eq!(std::fs::read(folder.path().join("journal")).unwrap(), bytes);
        }
        let (journal, report) = open(folder.path());
        assert_eq!((report.records, report.reason), (4, reason));
        journal.append(stored(3, 9)).unwrap();
        let state = journal.read(State::clone);
        assert_eq!(state.drafts[&3].parts.len(), 3);
        drop(journal);
        let header = frame::header(&identity("bucket").to_bytes());
        assert!(std::fs::read(folder.path().join("journal")).unwrap().starts_with(&header));
        let (journal, report) = open(folder.path());
        assert_eq!((report.dropped_bytes, journal.read(State::clone)), (0, state));
    }
}

#[tokio::test]
async fn an_old_journal_that_cannot_be_rewritten_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let bytes = older(folder.path(), &upload(3, 2), |_| {});
    let in_the_way = folder.path().join("journal.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let (journal, _) = open(folder.path());
    assert!(journal.has_failed() && journal.append(stored(3, 9)).is_err());
    assert_eq!(std::fs::read(folder.path().join("journal")).unwrap(), bytes);
    std::fs::remove_dir(&in_the_way).unwrap();
    assert!(journal.checkpoint_if_large().await.unwrap());
    journal.append(stored(3, 9)).unwrap();
    let state = journal.read(State::clone);
    drop(journal);
    assert_eq!(open(folder.path()).0.read(State::clone), state);
}

#[tokio::test]
async fn a_checkpoint_shrinks_the_file_and_keeps_the_state() {
    let folder = TempDir::new().unwrap();
    let (journal, _) = open(folder.path());
    journal.append_all(&upload(1, 1)).unwrap();
    assert!(!journal.checkpoint_if_large().await.unwrap(), "a small file is left alone");
    // The same part over and over: the file grows, the state does not.
    let again: Vec<Record> = (0..1000).map(|_| stored(1, 1)).collect();
    while journal.bytes() < CHECKPOINT_BYTES_MIN {
        journal.append_all(&again).unwrap();
    }
    let before = journal.read(State::clone);
    assert!(journal.checkpoint_if_large().await.unwrap());
    assert!(journal.bytes() < 1000, "{} bytes", journal.bytes());
    assert_eq!(journal.read(State::clone), before);
    journal.append(stored(1, 2)).unwrap();
    journal.sync().await.unwrap();
    let after = journal.read(State::clone);
    drop(journal);
    assert_eq!(open(folder.path()).0.read(State::clone), after);
}

fn sealed(draft: DraftId) -> Record {
    Record::DraftSealed {
        draft,
        len: 1,
        base_len: 0,
        closed: true,
        metadata: Default::default(),
        content_type: None,
        time: UNIX_EPOCH,
    }
}

/// A caller that writes a key anew asks for the ends of what was there. Whatever a loss of power takes of the journal
/// after that, it does not bring back what has ended; and a caller that writes another key waits for nothing.
#[tokio::test]
async fn what_has_ended_stays_ended_for_what_takes_its_place() {
    let file = Key::from("file");
    let renaming = FileRename {
        from: Key::from("other"),
        etag: ETag::new("e"),
        len: 1,
        to: Some(file.clone()),
        replaced: None,
        unlinked: Some(1),
    };
    let rename = 7;
    let ends: [Vec<Record>; 7] = [
        vec![Record::DraftEnded { draft: 1 }],
        vec![Record::DraftUnlinked { draft: 1 }],
        vec![Record::DraftMoved { draft: 1, key: Key::from("moved"), replaced: None }],
        vec![Record::DraftFollowed { draft: 1, key: Key::from("moved"), base: None }],
        vec![begun(2), Record::UploadAdopted { draft: 2, from: 1 }],
        vec![Record::DeletionBegun { key: file.clone(), etag: ETag::new("e"), unlinked: Some(1) }],
        vec![
            Record::FileRenameBegun { rename, renaming },
            Record::FileRenameEnded { rename, done: true },
        ],
    ];
    for end in ends {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("journal");
        let (journal, _) = open(folder.path());
        journal.append_all(&[begun(1), sealed(1)]).unwrap();
        journal.sync().await.unwrap();
        assert_eq!(journal.unsynced_bytes(), 0);
        journal.append_all(&end).unwrap();
        journal.sync_ends_of([&Key::from("elsewhere")]).await.unwrap();
        assert!(journal.unsynced_bytes() > 0, "{end:?}: it was not asked for");
        journal.sync_ends_of([&file]).await.unwrap();
        assert_eq!(journal.unsynced_bytes(), 0, "{end:?}");
        // What takes its place, and what a loss of power may leave of that.
        journal.append_all(&upload(3, 2)).unwrap();
        let (bytes, unsynced) = (journal.bytes(), journal.unsynced_bytes());
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for cut in bytes - unsynced..=bytes {
            std::fs::write(&path, &whole[..cut as usize]).unwrap();
            let (_, state, _) = Journal::inspect(folder.path()).unwrap();
            let mut drafts = state.drafts.values();
            let brought_back = drafts.any(|draft| draft.sealed().is_some() && draft.key == file);
            assert!(!brought_back, "{end:?}, cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_large_file_that_is_all_live_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let (journal, _) = open(folder.path());
    let mut draft = 0;
    while journal.bytes() < CHECKPOINT_BYTES_MIN {
        journal.append_all(&upload(draft, 10_000)).unwrap();
        draft += 1;
    }
    let bytes = journal.bytes();
    assert!(!journal.checkpoint_if_large().await.unwrap());
    assert_eq!(journal.bytes(), bytes);
}

#[test]
fn records_appended_during_checkpoints_are_not_lost() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let folder = TempDir::new().unwrap();
    let (journal, _) = open(folder.path());
    runtime.block_on(async {
        journal.append_all(&upload(1, 0)).unwrap();
        let appending: Vec<_> = (0..4u32)
            .map(|task| {
                let journal = journal.clone();
                tokio::spawn(async move {
                    for number in 0..200 {
                        journal.append(stored(1, 1 + task * 200 + number)).unwrap();
                        if number % 50 == 0 {
                            journal.sync().await.unwrap();
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for _ in 0..10 {
            journal.checkpoint().await.unwrap();
        }
        for task in appending {
            task.await.unwrap();
        }
    });
    drop(journal);
    let (journal, report) = open(folder.path());
    assert_eq!(report.reason, None);
    assert_eq!(journal.read(|state| state.drafts[&1].parts.len()), 800);
}

#[test]
fn readers_of_the_state_do_not_wait_for_the_file() {
    let folder = TempDir::new().unwrap();
    let (journal, _) = open(folder.path());
    journal.append_all(&upload(1, 3)).unwrap();
    // As while a write(2) takes long: the lock of those that append is held. Taking it here would hang.
    let (_, snapshot) = journal.log.copied(|| {
        assert_eq!(journal.read(|state| state.drafts[&1].parts.len()), 3);
        assert!(journal.bytes() > 0 && journal.unsynced_bytes() > 0 && journal.has_room());
        assert!(!journal.has_failed());
        journal.snapshot()
    });
    assert_eq!(snapshot, journal.snapshot());
}

/// How long it takes, but for waits for a processor, of which others may have made use.
fn time_of(work: impl FnOnce()) -> Duration {
    let waited = || {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(told.split_whitespace().nth(1).unwrap().parse().unwrap())
    };
    let (waited_before, started) = (waited(), Instant::now());
    work();
    started.elapsed().saturating_sub(waited() - waited_before)
}

/// Prints how long the longest append and the longest look took beside a checkpoint of so many parts; see
/// docs/journal.md. (That none waits for a checkpoint is held by the tests of the log.)
#[test]
fn a_checkpoint_delays_no_append_and_no_look() {
    let count: u32 =
        std::env::var("JOURNAL_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = TempDir::new().unwrap();
    let (journal, _) = open(folder.path());
    let drafts = u64::from(count.div_ceil(10_000));
    for draft in 0..drafts {
        journal.append_all(&upload(draft, 10_000)).unwrap();
    }
    let (mut appends, mut longest) = (0, [Duration::ZERO; 2]);
    let checkpoint = {
        let journal = journal.clone();
        runtime.spawn(async move {
            let started = Instant::now();
            journal.checkpoint().await.unwrap();
            started.elapsed()
        })
    };
    while !checkpoint.is_finished() {
        let appended = time_of(|| {
            journal.append(stored(appends % drafts, 1 + (appends % 10_000) as u32)).unwrap();
        });
        let looked = time_of(|| journal.read(|state| assert!(state.drafts.len() as u64 == drafts)));
        longest = [longest[0].max(appended), longest[1].max(looked)];
        appends += 1;
    }
    let took = runtime.block_on(checkpoint).unwrap();
    println!(
        "{count} parts: a checkpoint of {took:?}, beside it {appends} appends, the longest of {:?}; the longest look {:?}",
        longest[0], longest[1]
    );
    let state = journal.snapshot();
    drop(journal);
    assert_eq!(open(folder.path()).0.snapshot(), state);
}

/// Processor time of this thread, in nanoseconds: others may be busy too.
fn worked() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    told.split_whitespace().next().unwrap().parse().unwrap()
}

/// As a database in a large file does it: small writes all over it, each synced, and looked at from outside; then many
/// in a row.
#[test]
fn small_staged_writes_cost_no_more_than_their_number() {
    const PAGE: u64 = 4096;
    let work = |writes: u64| {
        let (draft, before) = (1, worked());
        let mut state = State::default();
        upload(draft, 10_000).iter().for_each(|record| _ = state.apply(record));
        for write in 0..writes {
            let range = ByteRange::at(write * 7919 % writes * PAGE, PAGE);
            state.apply(&Record::Staged { draft, range, crc: 1, at: write * PAGE });
            assert!(state.drafts[&draft].staged_bytes() <= (writes + 1) * PAGE);
            if write < writes / 2 {
                state.apply(&sealed(draft));
            }
        }
        assert_eq!(state.drafts[&draft].staged_bytes(), writes * PAGE);
        worked() - before
    };
    let (few, many) = (work(5_000), work(50_000));
    // Quadratic, it would be a hundred times as much.
    assert!(many < few * 40, "{few} and {many} ns");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let refused = Journal::open(&file.join("cache"), &identity("bucket")).err().unwrap();
    assert!(refused.to_string().contains("cannot create"), "{refused}");
}

/// Prints what opening a journal of so many parts and as many ranges costs; see docs/journal.md.
#[test]
fn replay_is_linear_and_bounded() {
    let count: u32 =
        std::env::var("JOURNAL_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000);
    let folder = TempDir::new().unwrap();
    let (journal, _) = open(folder.path());
    for draft in 0..u64::from(count / 10_000) {
        journal.append_all(&upload(draft, 10_000)).unwrap();
    }
    let object = 1;
    let (etag, len) = (ETag::new(&"0".repeat(32)), u64::MAX);
    journal.append(Record::ObjectBegun { object, key: "k".into(), etag, len }).unwrap();
    let resident: Vec<Record> = (0..u64::from(count))
        .map(|at| Record::RangeResident { object, range: ByteRange::at(at << 20, 1 << 20), crc: 7 })
        .collect();
    for records in resident.chunks(1000) {
        journal.append_all(records).unwrap();
    }
    let bytes = journal.bytes();
    drop((journal, resident));

    let resident_before = resident_bytes();
    let started = Instant::now();
    let (journal, report) = open(folder.path());
    let elapsed = started.elapsed();
    let resident = resident_bytes().saturating_sub(resident_before);
    println!(
        "{} records in {bytes} bytes replayed in {elapsed:?}, {resident} bytes resident",
        report.records
    );
    assert_eq!(journal.read(|state| state.objects[&object].resident.count()), count as usize);
    assert!(elapsed < Duration::from_secs(60));
}

/// Memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_staging_file_goes_only_when_its_draft_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let staging = dir.path().join("staging");
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(&staging)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    std::fs::create_dir(&staging).unwrap();
    let file =
        |draft: DraftId| std::fs::write(staging.join(format!("{draft:016x}")), b"x").unwrap();
    let begin = |journal: &Journal| {
        let draft = journal.next_draft_id();
        journal.append(begun(draft)).unwrap();
        file(draft);
        draft
    };
    let (journal, _) = open(dir.path());
    let (ended, living) = (begin(&journal), begin(&journal));
    journal.append(Record::DraftEnded { draft: ended }).unwrap();
    let known_bytes = journal.bytes();
    let lost = begin(&journal);
    std::fs::write(staging.join(format!("{living:016x}.new")), b"x").unwrap();
    drop(journal);
    // The end of the journal is lost, and with it the beginning of the last draft.
    let path = dir.path().join("journal");
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(known_bytes).unwrap();
    let (journal, _) = open(dir.path());
    journal.sweep_staging().unwrap();
    assert_eq!(names(), [format!("{living:016x}")]);
    let aside = || {
        let found = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        found
            .filter(|path| path.to_string_lossy().contains("staging.orphaned-"))
            .collect::<Vec<_>>()
    };
    assert_eq!(aside().len(), 1);
    assert!(aside()[0].join(format!("{lost:016x}")).exists());
    // Without any journal: all of it.
    drop(journal);
    std::fs::remove_file(dir.path().join("journal")).unwrap();
    let (journal, _) = open(dir.path());
    journal.sweep_staging().unwrap();
    assert!(names().is_empty() && aside().len() == 2);
}
