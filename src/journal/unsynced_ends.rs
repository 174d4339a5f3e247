//! Ends that are not on the disk yet. If the machine stops now, its disk tells something older of these keys
//! than the process knew: a file as it was synced that is complete in the store by now, a rename that is over.
//! Put right by that, the store would lose what has been written to it since; so no caller changes the store
//! under such a key before the end is on the disk (see `outbox::barrier`).
//!
//! Pure: no I/O, no clock.

use std::collections::HashMap;

use super::record::{DraftId, Record};
use super::state::State;
use crate::store::Key;

/// The keys, each with the count at which it was added last.
#[derive(Default)]
pub(super) struct UnsyncedEnds {
    count: u64,
    keys: HashMap<Key, u64>,
}

impl UnsyncedEnds {
    pub fn add(&mut self, keys: Vec<Key>) {
        for key in keys {
            self.count += 1;
            self.keys.insert(key, self.count);
        }
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How far it had come: what was added until now is what a sync that begins now brings to the disk.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn synced(&mut self, count: u64) {
        self.keys.retain(|_, added| *added > count);
    }
}

impl State {
    /// The keys of which the state without this record would do something to the store that it does not do
    /// with it.
    pub(super) fn ended_by(&self, record: &Record) -> Vec<Key> {
        match record {
            Record::DraftEnded { draft }
            | Record::DraftUnlinked { draft }
            | Record::DraftFollowed { draft, .. } => self.promised(*draft),
            Record::UploadAdopted { from, .. } => self.promised(*from),
            Record::DraftMoved { draft, replaced, .. } => {
                let mut keys = self.promised(*draft);
                keys.extend(replaced.iter().flat_map(|replaced| self.promised(*replaced)));
                keys
            }
            Record::DeletionBegun { unlinked: Some(draft), .. }
            | Record::MarkedDeletionBegun { unlinked: Some(draft), .. } => self.promised(*draft),
            Record::FileRenameBegun { renaming, .. } => {
                renaming.unlinked.iter().flat_map(|draft| self.promised(*draft)).collect()
            }
            // Without it the file that is replaced would be brought back, over the copy.
            Record::RenameCopied { rename, .. } => {
                let renaming = self.file_renames.get(rename);
                let replaces = renaming.filter(|renaming| renaming.unlinked.is_some());
                replaces.map(|renaming| renaming.from.clone()).into_iter().collect()
            }
            Record::FileRenameEnded { rename, .. } => {
                let renaming = self.file_renames.get(rename);
                let keys = renaming.map(|r| [Some(r.from.clone()), r.to.clone()]);
                keys.into_iter().flatten().flatten().collect()
            }
            Record::DeletionEnded { key } => vec![key.clone()],
            _ => Vec::new(),
        }
    }

    /// Where a draft is brought back after a crash, if it is.
    fn promised(&self, draft: DraftId) -> Vec<Key> {
        let found = self.drafts.get(&draft).filter(|draft| draft.sealed().is_some());
        found.map(|draft| draft.key.clone()).into_iter().collect()
    }
}
