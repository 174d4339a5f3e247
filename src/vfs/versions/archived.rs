//! Objects in an archive: their bytes cannot be had until they are restored. Only a HEAD tells whether that was done:
//! neither ETag nor time of an object change by it, so nothing that is remembered does.

use std::sync::Arc;

use futures_util::stream::{self, TryStreamExt};

use super::contents::Versions;
use super::copy::is_gone;
use crate::store::{ErrorKind, Key, ListRequest, ListedObject, Storage, StoreError};
use crate::vfs::error::Result;
use crate::vfs::tree::Inode;

/// Refuses what needs the bytes of a file, where they are in an archive and not here. A HEAD, for those alone whose storage
/// class may be one.
pub async fn refuse_archived(versions: &Versions, inode: &Arc<Inode>) -> Result<()> {
    if !versions.storage_of(inode).is_archive() {
        return Ok(());
    }
    match versions.reader(inode) {
        Some(reader) if !reader.object().resident_on_disk() => {
            refuse_object(versions, &versions.tree.file_key(inode.ino)).await
        }
        _ => Ok(()),
    }
}

/// The same of all objects below a prefix, none of which is to be copied without the others.
pub async fn refuse_archived_below(versions: &Versions, prefix: &Key) -> Result<()> {
    let mut request = ListRequest { prefix: prefix.clone(), ..ListRequest::default() };
    loop {
        let page = versions.store.list(&request).await;
        let page = page.map_err(|error| versions.faults.pass(error))?;
        stream::iter(page.objects.into_iter().filter(may_be_archived).map(Ok))
            .try_for_each_concurrent(versions.settings.concurrency, |object| async move {
                refuse_object(versions, &object.key).await
            })
            .await?;
        request.continuation = page.continuation;
        if request.continuation.is_none() {
            return Ok(());
        }
    }
}

async fn refuse_object(versions: &Versions, key: &Key) -> Result<()> {
    let archived = match versions.store.head(key).await {
        Ok(head) => head.archived,
        Err(error) if is_gone(&error) => None,
        Err(error) => return Err(versions.faults.pass(error)),
    };
    let Some(how) = archived else { return Ok(()) };
    Err(versions.faults.pass(StoreError::new(ErrorKind::Archived, "HeadObject", how)))
}

fn may_be_archived(object: &ListedObject) -> bool {
    Storage { class: object.storage_class.clone(), ..Storage::default() }.is_archive()
}
