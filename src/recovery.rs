//! What a crash leaves behind, and what the next mount does about it: step after step, in one order.
//!
//! | step | the journal has | then |
//! |---|---|---|
//! | before the first request | | |
//! | `SettleFileRenames` | a rename or a removal of a file | the store is asked whether it was done |
//! | `FinishDirectoryRenames` | a rename of a directory | it is finished |
//! | `SettleAttributes` | attributes that were to be saved | they belong to one version: the store is asked which is there |
//! | `SweepStaging` | a staging file of a draft that has ended, or that it says nothing of | it is deleted, or set aside |
//! | `RestoreFiles` | a file closed under write-back | it is in the tree again, is compared with its checksums, and its upload goes on |
//! | | a file synced, not closed | likewise under write-back; else it waits for `uploads resume`, or for its writer to come back |
//! | `RestoreAttributes` | attributes that were to be saved | they are what stat says, and are saved |
//! | while requests are served | | |
//! | `RestoreLeftOut` | what the store would not tell before | the first steps, once more |
//! | `DeleteTemporaryObjects` | a copy kept for readers of an unlinked file | it is deleted |
//! | `EndExpired` | an upload with parts | it waits for its writer to come back, until --resume-expiry |
//! | | a draft with nothing in the store or on the disk | it is forgotten |
//! | `ForgetKnownObjects` | known objects: what they consist of | they are forgotten after --resume-expiry |
//! | `EndUnconfirmedCreates` | an unconfirmed create | what it may have begun is looked for, and aborted |
//!
//! Two components take up what is theirs when they are opened: the cache its ranges, `outbox::Deletions` what is to be
//! deleted. The order matters: names are settled before what waits is brought back under them, and what may wait for the
//! store comes when requests are served.

use std::sync::Arc;
use std::time::Duration;

use crate::vfs::{Result, Vfs};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    SettleFileRenames,
    FinishDirectoryRenames,
    SettleAttributes,
    SweepStaging,
    RestoreFiles,
    RestoreAttributes,
    RestoreLeftOut,
    DeleteTemporaryObjects,
    EndExpired,
    ForgetKnownObjects,
    EndUnconfirmedCreates,
}

const BEFORE_REQUESTS: [Step; 6] = [
    // What waits is brought back under its new name, and before a program can write where it is copied to.
    Step::SettleFileRenames,
    Step::FinishDirectoryRenames,
    Step::SettleAttributes,
    Step::SweepStaging,
    Step::RestoreFiles,
    Step::RestoreAttributes,
];

const MEANWHILE: [Step; 5] = [
    Step::RestoreLeftOut,
    Step::DeleteTemporaryObjects,
    Step::EndExpired,
    Step::ForgetKnownObjects,
    Step::EndUnconfirmedCreates,
];

/// Puts right what must be before a program can see it. Returns how many files are back in the tree.
///
/// # Errors
/// Those of the local disk. What the store refuses is left to the steps that follow, or to the next mount.
pub(crate) async fn before_requests(vfs: &Arc<Vfs>) -> Result<usize> {
    let mut restored = 0;
    for step in BEFORE_REQUESTS {
        restored += take(vfs, step, Duration::MAX).await?;
    }
    Ok(restored)
}

/// Finishes in the store what can wait until requests are served. What fails keeps none of the others from being done.
pub(crate) async fn meanwhile(vfs: &Arc<Vfs>, resume_expiry: Duration) {
    if vfs.is_read_only() {
        return;
    }
    for step in MEANWHILE {
        if let Err(error) = take(vfs, step, resume_expiry).await {
            log::warn!("what a crash left is not all put right yet ({step:?}): {error}");
        }
    }
}

async fn take(vfs: &Arc<Vfs>, step: Step, resume_expiry: Duration) -> Result<usize> {
    match step {
        Step::SettleFileRenames => {
            if let Err(error) = vfs.settle_file_renames().await {
                log::warn!("an interrupted rename of a file is not settled yet: {error}");
            }
        }
        Step::FinishDirectoryRenames => {
            // If the store refuses, the mount is there all the same, and the next one tries again.
            if let Err(error) = vfs.finish_interrupted_renames().await {
                log::warn!("an interrupted rename of a directory is not finished yet: {error}");
            }
        }
        Step::SettleAttributes => vfs.settle_attributes().await?,
        Step::SweepStaging => vfs.sweep_staging()?,
        Step::RestoreFiles => return vfs.restore_promised_files(),
        Step::RestoreAttributes => vfs.restore_attributes()?,
        Step::RestoreLeftOut => vfs.restore_what_was_left_out().await?,
        Step::DeleteTemporaryObjects => vfs.delete_temporary_objects().await?,
        Step::EndExpired => vfs.end_expired(resume_expiry).await,
        Step::ForgetKnownObjects => vfs.forget_old_known_objects(resume_expiry),
        Step::EndUnconfirmedCreates => vfs.end_unconfirmed_creates(resume_expiry).await,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Record, codec};

    /// What deals with what a record has left.
    enum Duty {
        Steps(&'static [Step]),
        /// The component takes it up when it is opened.
        Opening,
        /// There is nothing to do.
        Nothing,
    }

    /// No wildcard: a new record needs its place here, and the step that deals with it.
    fn duty(record: &Record) -> Duty {
        use Step::*;
        match record {
            Record::IdsUsed { .. } | Record::Opened => Duty::Nothing,
            // A file: brought back as it was sealed, or waiting for its writer and, in the end, given up.
            Record::DraftBegun { .. }
            | Record::DraftMoved { .. }
            | Record::DraftFollowed { .. }
            | Record::DraftSealed { .. }
            | Record::DraftContent { .. }
            | Record::DraftCarries { .. }
            | Record::DraftMarked { .. }
            | Record::DraftDamaged { .. }
            | Record::DraftRebased { .. }
            | Record::DraftFailed { .. }
            | Record::Staged { .. }
            | Record::StagedDropped { .. } => {
                Duty::Steps(&[RestoreFiles, RestoreLeftOut, EndExpired])
            }
            Record::UploadBegun { .. }
            | Record::UploadLost { .. }
            | Record::UploadAdopted { .. }
            | Record::PartStored { .. }
            | Record::PartSummed { .. }
            | Record::PartDropped { .. }
            | Record::DraftCompleting { .. }
            | Record::DraftMadeTemporary { .. }
            | Record::DraftUnlinked { .. } => Duty::Steps(&[EndExpired]),
            Record::DraftEnded { .. } => Duty::Steps(&[SweepStaging]),
            Record::TemporaryBegun { .. } | Record::TemporaryEnded { .. } => {
                Duty::Steps(&[DeleteTemporaryObjects])
            }
            Record::ObjectBegun { .. }
            | Record::ObjectSummed { .. }
            | Record::RangeResident { .. }
            | Record::RangeSummed { .. }
            | Record::RangeEvicted { .. }
            | Record::ObjectVerified { .. }
            | Record::ObjectEnded { .. } => Duty::Opening,
            Record::DirectoryRenameBegun { .. } | Record::DirectoryRenameEnded { .. } => {
                Duty::Steps(&[FinishDirectoryRenames])
            }
            Record::RenameCopied { .. } => {
                Duty::Steps(&[SettleFileRenames, FinishDirectoryRenames])
            }
            Record::FileRenameBegun { .. } | Record::FileRenameEnded { .. } => {
                Duty::Steps(&[SettleFileRenames, RestoreLeftOut])
            }
            Record::AttributesChanged { .. } | Record::AttributesSaved { .. } => {
                Duty::Steps(&[SettleAttributes, RestoreAttributes])
            }
            Record::DeletionBegun { .. }
            | Record::MarkedDeletionBegun { .. }
            | Record::DeletionEnded { .. } => Duty::Opening,
            Record::CreateRequested { .. } | Record::CreateAnswered { .. } => {
                Duty::Steps(&[EndUnconfirmedCreates])
            }
            Record::ContentKnown { .. }
            | Record::ContentSummed { .. }
            | Record::ContentMoved { .. }
            | Record::ContentForgotten { .. } => Duty::Steps(&[ForgetKnownObjects]),
        }
    }

    /// One of each that there is, with nothing in it: its number, and as many zeros as its fields take.
    fn one_of_each() -> Vec<Record> {
        let empty = |variant: u32| {
            let bodies =
                (0..400).map(|zeros| [&variant.to_le_bytes()[..], &vec![0; zeros]].concat());
            bodies.filter_map(|body| codec::decode::<Record>(&body)).next()
        };
        (0..).map_while(empty).collect()
    }

    #[test]
    fn every_record_has_its_place_in_the_order() {
        let records = one_of_each();
        let docs = include_str!("../docs/journal.md");
        let rows = docs.lines().filter(|line| {
            let number = line.strip_prefix("| ").and_then(|line| line.split_once(" | "));
            number.is_some_and(|(number, rest)| {
                number.parse::<usize>().is_ok() && rest.contains(" | ")
            })
        });
        let names: Vec<&str> = rows
            .filter_map(|row| row.split(" | ").nth(1))
            .filter(|name| name.starts_with(char::is_uppercase))
            .collect();
        assert_eq!(names.len(), records.len(), "docs/journal.md names each: {names:?}");
        let mut asked = Vec::new();
        for (record, name) in records.iter().zip(names) {
            assert!(format!("{record:?}").starts_with(name), "{name}: {record:?}");
            match duty(record) {
                Duty::Steps(steps) => {
                    assert!(!steps.is_empty(), "{name}");
                    asked.extend_from_slice(steps);
                }
                Duty::Opening | Duty::Nothing => {}
            }
        }
        for step in BEFORE_REQUESTS.into_iter().chain(MEANWHILE) {
            assert!(asked.contains(&step), "{step:?}: no record asks for it");
        }
        let taken: Vec<Step> = BEFORE_REQUESTS.into_iter().chain(MEANWHILE).collect();
        assert!(asked.iter().all(|step| taken.contains(step)), "a step that is never taken");
        assert!(taken.iter().enumerate().all(|(at, step)| !taken[..at].contains(step)));
    }
}
