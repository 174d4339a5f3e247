//! The file on a disk that loses what was not synced, at every moment.

use super::*;
use crate::blocking;
use crate::checked::Sum;
use crate::disk::model::Model;
use crate::journal::{Identity, Journal, Record};
use crate::staging::StagingFile;
use crate::store::{ETag, Key};

/// What a run knows of the file.
#[derive(Default)]
struct Told {
    /// In the order of the file; the last of them may not have come into it.
    appended: Vec<u64>,
    /// How many of them are promised to survive.
    synced: usize,
}

/// Appends, syncs and rewrites until the disk takes nothing more.
async fn work(log: &Log<u64>, told: &mut Told, random: &mut fastrand::Rng) -> io::Result<()> {
    loop {
        match random.u8(..6) {
            0 => {
                let turn = log.rewrite_turn().await;
                let (place, records) = log.copied(|| told.appended.clone());
                log.begin_rewrite(&turn, place, records.into_iter())?;
                append(log, told, random)?;
                log.finish_rewrite(&turn, &log.sync_turn().await)?;
                told.synced = told.appended.len();
            }
            1 | 2 => {
                log.sync().await?;
                told.synced = told.appended.len();
            }
            _ => append(log, told, random)?,
        }
    }
}

fn append(log: &Log<u64>, told: &mut Told, random: &mut fastrand::Rng) -> io::Result<()> {
    let from = told.appended.len();
    told.appended.extend((0..random.u64(1..4)).map(|_| random.u64(..)));
    log.append(&told.appended[from..])
}

/// Opens the file, compares, works until the disk fails, cuts the power or kills the process; several times.
async fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = PathBuf::from(format!("/model-of-a-log-{seed}"));
    let (disk, path) = (Model::new(&folder), folder.join("journal"));
    let mut told = Told::default();
    for life in 0..5 {
        disk.fail_after(random.u64(..60));
        let mut found = Vec::new();
        if let Ok((log, _)) = Log::open(&path, b"bucket", |record| found.push(record)) {
            let place = format!("seed {seed}, life {life}");
            assert!(found.len() >= told.synced, "{place}: {} of {}", found.len(), told.synced);
            assert!(told.appended.starts_with(&found), "{place}: other records");
            told = Told { synced: found.len(), appended: found };
            work(&log, &mut told, &mut random).await.unwrap_err();
        }
        if random.bool() {
            disk.cut_power(&mut random);
        }
    }
}

#[tokio::test]
async fn what_was_synced_is_there_whenever_the_power_goes() {
    let _inline = blocking::inline::install();
    for seed in 0..500 {
        run(seed).await;
    }
}

/// The folders that they are in are new, and their names have to survive as well.
#[tokio::test]
async fn a_new_cache_folder_keeps_what_was_synced_without_power() {
    let identity = Identity {
        endpoint: "https://host".into(),
        bucket: "bucket".into(),
        prefix: Key::default(),
    };
    for seed in 0..50 {
        let root = PathBuf::from(format!("/model-of-a-cache-{seed}"));
        let (disk, folder) = (Model::new(&root), root.join("cache").join("bucket"));
        let (journal, _) = Journal::open(&folder, &identity).unwrap();
        assert!(Journal::open(&folder, &identity).is_err(), "locked");
        let (object, key, etag) = (journal.next_object_id(), "key".into(), ETag::new("e"));
        let staging = StagingFile::new(&folder.join("staging"), 7);
        let stretches = staging.append(b"written", &[Sum::of(b"written")]).unwrap();
        staging.sync().unwrap();
        journal.append(Record::ObjectBegun { object, key, etag, len: 1 }).unwrap();
        journal.sync().await.unwrap();
        drop((journal, staging));
        disk.cut_power(&mut fastrand::Rng::with_seed(seed));
        let (journal, _) = Journal::open(&folder, &identity).unwrap();
        assert_eq!(journal.read(|state| state.objects.len()), 1, "seed {seed}");
        let staging = StagingFile::restore(&folder.join("staging"), 7, stretches).unwrap();
        let mut bytes = [0; 7];
        staging.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"written");
    }
}
