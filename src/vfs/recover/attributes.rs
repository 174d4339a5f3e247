//! Attributes that were changed and not saved before a crash.

use futures_util::StreamExt;

use super::files::directories_to;
use crate::clock;
use crate::journal::{ChangedAttributes, Record};
use crate::namespace::attributes::{Attributes, Told};
use crate::store::{Carried, ETag, Key, MARK, Metadata, ObjectHead};
use crate::vfs::assemble::Vfs;
use crate::vfs::error::Result;
use crate::vfs::ops::rename_log;
use crate::vfs::tree::new_state;
use crate::vfs::versions::is_gone;

/// Attributes that were about to be saved belong to one version. Where the store has another one by now, it has
/// been written since, with attributes of its own; or it is the copy that saves them, which was made in the
/// moment of the crash: what was written of the file meanwhile modifies that one.
pub async fn settle(vfs: &Vfs) -> Result<()> {
    if vfs.settings.read_only {
        return Ok(());
    }
    let changed: Vec<(Key, ETag, ChangedAttributes)> = vfs.parts.journal.read(|state| {
        let of_files = state.attributes.iter().filter_map(|(key, changed)| {
            Some((key.clone(), changed.etag.clone()?, changed.clone()))
        });
        of_files.collect()
    });
    let heads = futures_util::stream::iter(changed).map(|(key, etag, changed)| async move {
        let head = vfs.parts.store.head(&key).await;
        (key, etag, changed, head)
    });
    let mut heads = heads.buffer_unordered(vfs.settings.concurrency);
    while let Some((key, etag, changed, head)) = heads.next().await {
        let head = match head {
            Ok(head) if head.etag == etag => continue,
            Ok(head) => Some(head),
            Err(error) if is_gone(&error) => None,
            // They are believed until the store tells.
            Err(_) => return Ok(()),
        };
        let saved = head.filter(|head| {
            let unmarked = |metadata: &Metadata| {
                let own = metadata.clone().into_iter().filter(|(name, _)| name != MARK);
                own.collect::<Metadata>()
            };
            head.len == changed.len && unmarked(&head.metadata) == unmarked(&changed.metadata)
        });
        let followed = saved
            .into_iter()
            .flat_map(|copy| rename_log::followed(vfs, (&key, &etag), (&key, &copy.etag)));
        let mut records: Vec<Record> = followed.collect();
        records.push(Record::AttributesSaved { key });
        vfs.parts.journal.append_all(&records)?;
    }
    Ok(())
}

/// Attributes that the store did not get before the crash are what stat says, and are saved now.
pub fn restore(vfs: &Vfs) -> Result<()> {
    let changed: Vec<(Key, ChangedAttributes)> = vfs.parts.journal.read(|state| {
        state.attributes.iter().map(|(key, changed)| (key.clone(), changed.clone())).collect()
    });
    for (key, changed) in changed {
        let is_directory = key.as_bytes().ends_with(b"/");
        let name_of = Key::new(key.as_bytes().strip_suffix(b"/").unwrap_or(key.as_bytes()));
        let Ok((parent, name)) = directories_to(vfs, &name_of) else {
            vfs.objects.attributes_settled(&key);
            continue;
        };
        let head = ObjectHead {
            etag: changed.etag.clone().unwrap_or_else(|| ETag::new("")),
            len: changed.len,
            last_modified: clock::wall(),
            metadata: changed.metadata,
            content_type: None,
            carried: Carried::default(),
            version_id: None,
            sum: None,
            archived: None,
        };
        let mut attributes = Attributes::from_head(&head, is_directory, &vfs.settings.defaults);
        attributes.told = Told::Metadata;
        let inode = vfs.tree.inodes.child_or_insert(parent, &name, || {
            new_state(attributes.clone(), changed.len, changed.etag.as_ref())
        });
        let mut state = inode.state();
        if state.used().draft.is_none() {
            state.attributes = attributes;
            state.unsaved = true;
            if !vfs.settings.read_only {
                vfs.versions.unsaved.note(inode.ino);
            }
        }
    }
    Ok(())
}
