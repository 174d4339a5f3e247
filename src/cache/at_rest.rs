//! The disk tier of a folder that nothing is mounted with: checked or emptied without a store.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::DiskTier;
use super::stats::{ClearReport, Counters, VerifyReport};
use crate::disk;
use crate::journal::{Journal, Record};

/// Checks every range on disk; bad ones are dropped. Blocks.
pub fn verify(dir: &Path, journal: &Arc<Journal>) -> io::Result<VerifyReport> {
    tier(dir, journal)?.verify_all()
}

/// Removes everything that was fetched. Blocks.
pub fn clear(dir: &Path, journal: &Arc<Journal>) -> io::Result<ClearReport> {
    let tier = tier(dir, journal)?;
    let objects: Vec<_> = journal.read(|state| {
        state.objects.iter().map(|(id, object)| (*id, object.resident.bytes())).collect()
    });
    let mut report = ClearReport::default();
    for (object, bytes) in objects {
        journal.append(Record::ObjectEnded { object })?;
        match disk::remove_file(tier.path(object)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        report.objects += 1;
        report.bytes += bytes;
    }
    Ok(report)
}

fn tier(dir: &Path, journal: &Arc<Journal>) -> io::Result<DiskTier> {
    DiskTier::open(dir, u64::MAX, journal.clone(), Arc::new(Counters::default()))
}
