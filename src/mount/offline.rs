//! What a cache folder remembers of its bucket, for a mount that asks no store (`--offline`): the names that were
//! seen, with the attributes that they were seen with last, the objects with bytes on the disk, and the files
//! that wait to be uploaded.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::SystemTime;

use anyhow::bail;
use bytes::Bytes;

use crate::journal::{Draft, Identity, Journal, State, layout};
use crate::namespace::attribute_cache::{AttributeCache, LastSeen};
use crate::namespace::attributes::Attributes;
use crate::namespace::names::{self, Picture, Seen};
use crate::settings::MountSettings;
use crate::store::offline::{Kept, OfflineStore};
use crate::store::{Carried, ETag, Key, ObjectHead};

/// Refuses to begin a cache folder: without a network there is nothing to put into it.
pub(super) fn check_folder(folder: &Path, settings: &MountSettings) -> anyhow::Result<()> {
    if crate::disk::is_file(layout::journal(folder)) {
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

/// Blocks while it reads what names there were.
pub(super) fn store(
    identity: &Identity,
    journal: &Journal,
    attribute_cache: &AttributeCache,
) -> OfflineStore {
    let resident = journal.read(|state| resident(state, attribute_cache));
    // What has bytes here was seen, though it may be long ago. Names that were heard of since say more.
    let mut picture: Picture = resident
        .iter()
        .map(|(key, version)| {
            (key.clone(), Seen::File { etag: None, len: version.len, modified: 0 })
        })
        .collect();
    names::replay(journal.folder(), identity, &mut picture);
    let mut objects: BTreeMap<Key, Kept> = picture
        .into_iter()
        .map(|(key, seen)| {
            let kept = kept(&key, seen, resident.get(&key), attribute_cache);
            (key, kept)
        })
        .collect();
    journal.read(|state| {
        // Unlinked, though the store may not know yet.
        for key in state.deletions.keys() {
            objects.remove(key);
        }
    });
    // For the sake of the directories that they are in; the files themselves are restored from the journal.
    journal.read(|state| {
        for draft in state.drafts.values() {
            if let Some(waiting) = waiting(draft) {
                objects.entry(draft.key.clone()).or_insert(waiting);
            }
        }
    });
    OfflineStore::new(objects)
}

/// A version of an object that has bytes on the disk.
struct Version {
    etag: ETag,
    len: u64,
}

fn resident(state: &State, attribute_cache: &AttributeCache) -> HashMap<Key, Version> {
    let mut versions = HashMap::new();
    // In the order in which they were first read: of two versions of a key the later one counts, unless one is
    // known to be the last.
    for object in state.objects.values() {
        if attribute_cache.last_seen(&object.key, &object.etag) != LastSeen::Another {
            let version = Version { etag: object.etag.clone(), len: object.len };
            versions.insert(object.key.clone(), version);
        }
    }
    versions
}

fn kept(
    key: &Key,
    seen: Seen,
    resident: Option<&Version>,
    attribute_cache: &AttributeCache,
) -> Kept {
    let (etag, len, modified) = match seen {
        Seen::Directory => {
            let head = head(ETag::new(""), 0, SystemTime::UNIX_EPOCH);
            let attributes = attribute_cache.last_seen_directory(key);
            return with_attributes(head, attributes);
        }
        Seen::File { etag: Some(etag), len, modified } => (etag, len, modified),
        // Which version it is, is not known by its name, but by what is here of it.
        Seen::File { etag: None, len, modified } => match resident {
            Some(version) => (version.etag.clone(), version.len, modified),
            None => (ETag::new(""), len, modified),
        },
    };
    let (attributes, modified) = match attribute_cache.last_seen(key, &etag) {
        LastSeen::This { attributes, modified } => (Some(attributes), modified),
        LastSeen::Unknown | LastSeen::Another => (None, Seen::modified(modified)),
    };
    with_attributes(head(etag, len, modified), attributes)
}

fn with_attributes(mut head: ObjectHead, attributes: Option<Attributes>) -> Kept {
    let Some(attributes) = attributes else { return Kept { head, body: None } };
    if let Ok(options) = attributes.to_write_options() {
        head.metadata = options.metadata;
        head.content_type = options.content_type;
        head.carried = options.carried.unwrap_or_default();
    }
    Kept { head, body: attributes.extra().target.clone().map(Bytes::from) }
}

fn waiting(draft: &Draft) -> Option<Kept> {
    let sealed = draft.sealed().filter(|_| draft.life.is_closed())?;
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
        carried: Carried::default(),
        version_id: None,
        sum: None,
        archived: None,
    }
}
