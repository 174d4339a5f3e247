//! Removes cache files that no record names: what a crash between a file and its record left behind.
//! The disk worker does this when it has nothing else to do, one folder at a time, so that a mount waits
//! for none of it.

use std::collections::HashSet;
use std::io;

use super::disk::DiskTier;
use crate::disk;
use crate::journal::ObjectId;

/// Cache files are spread over this many folders.
const FOLDERS: u32 = 256;

/// Invariant: files with an id from `first_new` on belong to this mount and are left alone.
pub(super) struct Sweep {
    folder: u32,
    first_new: ObjectId,
}

impl Sweep {
    pub(super) fn new(tier: &DiskTier) -> Self {
        Sweep { folder: 0, first_new: tier.journal.next_object_id() }
    }

    /// Sweeps the next folder. False where all are done.
    pub(super) fn step(&mut self, tier: &DiskTier) -> bool {
        if self.folder == FOLDERS {
            return false;
        }
        let folder = tier.dir().join(format!("{:02x}", self.folder));
        self.folder += 1;
        let outcome = disk::names_in(&folder).and_then(|names| {
            let orphans = names
                .into_iter()
                .filter_map(|name| name.into_string().ok())
                .filter_map(|name| ObjectId::from_str_radix(&name, 16).ok())
                .filter(|id| *id < self.first_new)
                .collect::<HashSet<_>>();
            self.remove_unnamed(tier, orphans)
        });
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("cache: cannot sweep {}: {error}", folder.display());
            }
            _ => {}
        }
        true
    }

    fn remove_unnamed(&self, tier: &DiskTier, mut ids: HashSet<ObjectId>) -> io::Result<()> {
        tier.journal.read(|state| ids.retain(|id| !state.objects.contains_key(id)));
        ids.into_iter().try_for_each(|id| disk::remove_file(tier.path(id)))
    }
}
