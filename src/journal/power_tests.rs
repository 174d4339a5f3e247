//! The file on a disk that loses what was not synced, at every moment.

use super::*;
use crate::blocking;
use crate::disk::model::Model;

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

/// Opens the file, compares, works until the disk fails, cuts the power; several times.
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
        disk.cut_power(&mut random);
    }
}

#[tokio::test]
async fn what_was_synced_is_there_whenever_the_power_goes() {
    let _inline = blocking::inline::install();
    for seed in 0..500 {
        run(seed).await;
    }
}
