//! What a cache folder remembers of its bucket, for a mount that asks nobody (`--offline`): the objects with
//! bytes on the disk, with the attributes that were seen last, and the files that wait to be uploaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use anyhow::bail;
use bytes::Bytes;

use crate::journal::{Draft, Journal, Object, State};
use crate::namespace::memory::{AttributeMemory, LastSeen};
use crate::settings::MountSettings;
use crate::store::offline::{Kept, OfflineStore};
use crate::store::{ETag, Key, ObjectHead};

/// Refuses to begin a cache folder: without a network there is nothing to put into it.
pub(super) fn check_folder(folder: &Path, settings: &MountSettings) -> anyhow::Result<()> {
    if folder.join("journal").is_file() {
        return Ok(());
    }
    bail!(
        "{} holds nothing of s3://{}/{}, so there is nothing to show offline: mount it once without \
         --offline, or give the --endpoint-url, --region, prefix and --cache-dir that it was mounted with",
        settings.cache.dir.display(),
        settings.bucket,
        settings.prefix
    )
}

pub(super) fn store(journal: &Journal, memory: &AttributeMemory) -> OfflineStore {
    OfflineStore::new(journal.read(|state| remembered(state, memory)))
}

fn remembered(state: &State, memory: &AttributeMemory) -> BTreeMap<Key, Kept> {
    let mut objects = BTreeMap::new();
    // In the order in which they were first read: of two versions of a key the later one counts.
    for object in state.objects.values() {
        match memory.last_seen(&object.key, &object.etag) {
            // What is on the disk has been replaced since, as this machine has seen.
            LastSeen::Another => {}
            LastSeen::Unknown => {
                objects.insert(object.key.clone(), kept(object, SystemTime::UNIX_EPOCH));
            }
            LastSeen::This { attributes, modified } => {
                let mut kept = kept(object, modified);
                if let Ok(options) = attributes.to_write_options() {
                    kept.head.metadata = options.metadata;
                    kept.head.content_type = options.content_type;
                }
                kept.body = attributes.target.map(Bytes::from);
                objects.insert(object.key.clone(), kept);
            }
        }
    }
    // For the sake of the directories that they are in; the files themselves are restored from the journal.
    for draft in state.drafts.values() {
        if let Some(waiting) = waiting(draft) {
            objects.entry(draft.key.clone()).or_insert(waiting);
        }
    }
    objects
}

fn kept(object: &Object, last_modified: SystemTime) -> Kept {
    Kept { head: head(object.etag.clone(), object.len, last_modified), body: None }
}

fn waiting(draft: &Draft) -> Option<Kept> {
    let sealed = draft.sealed.as_ref().filter(|sealed| sealed.closed)?;
    let mut head = head(ETag::new(""), sealed.len, sealed.time);
    head.metadata.clone_from(&sealed.metadata);
    head.content_type.clone_from(&sealed.content_type);
    Some(Kept { head, body: None })
}

fn head(etag: ETag, len: u64, last_modified: SystemTime) -> ObjectHead {
    ObjectHead {
        etag,
        len,
        last_modified,
        metadata: Default::default(),
        content_type: None,
        storage_class: None,
        version_id: None,
    }
}
