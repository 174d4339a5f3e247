//! A cold lookup in one round trip: what a name is that no listing knows.
//!
//! Four questions go out at once, since any of them may be the one that counts: HEAD `name` (a file),
//! LIST `name/` of one key (a directory, whether it has a marker or not), HEAD `name/` (its marker's
//! attributes), and, only in a bucket where such markers have been seen, HEAD `name_$folder$`. A
//! listing of the prefix `name` could answer most of this alone, but `name-1`, `name.txt` and their
//! like sort before `name/` and may crowd it off the page, which would take a second round trip.
//!
//! Consistency: the answers are of moments a round trip apart at most. Retries: the store's.
//! Cancellation: dropping the future drops its requests. Crash: nothing is kept.

use crate::store::{Key, ListRequest, ObjectHead, Result, Store, present};

use super::listings::{Known, Listings};
use super::name::{self, NameError};
use super::segment::Marker;
use crate::store::ListedObject;

/// What a name is in the bucket.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    File(ObjectHead),
    /// The marker's head, where there is a marker.
    Directory {
        marker: Marker,
        head: Option<ObjectHead>,
    },
    Absent,
}

/// Why a name could not be resolved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// Asks the store what `name` in `dir` is, and notes the answer.
pub async fn resolve(
    store: &dyn Store,
    listings: &Listings,
    dir: &Key,
    name: &[u8],
) -> Result<Resolved, ResolveError> {
    let file_key = name::file_key(dir, name)?;
    let begun = listings.begin();
    // The longest keys leave no room for a `/`, so such a name cannot be a directory.
    let resolved = match name::directory_key(dir, name) {
        Ok(prefix) => {
            let folders = listings.folder_markers_seen();
            resolve_either(store, &file_key, &prefix, folders).await?
        }
        Err(_) => match present(store.head(&file_key).await)? {
            Some(head) => Resolved::File(head),
            None => Resolved::Absent,
        },
    };
    listings.observe(dir, name, begun, known(&file_key, &resolved));
    Ok(resolved)
}

async fn resolve_either(
    store: &dyn Store,
    file_key: &Key,
    prefix: &Key,
    folders: bool,
) -> Result<Resolved> {
    let folder_key = Marker::Folder.key(prefix).filter(|_| folders);
    let folder = async {
        match &folder_key {
            Some(key) => present(store.head(key).await),
            None => Ok(None),
        }
    };
    let (file, marker, any, folder) = futures_util::future::try_join4(
        async { present(store.head(file_key).await) },
        async { present(store.head(prefix).await) },
        any_key(store, prefix),
        folder,
    )
    .await?;
    let is_alone = marker.as_ref().is_some_and(ObjectHead::is_folder_alone);
    // Where there are only versions of what was in it, a folder is kept for those, which no listing shows.
    let is_folder = is_alone && (any || shows(store, prefix).await?);
    if let Some(head) = marker.filter(|_| !is_alone) {
        return Ok(Resolved::Directory { marker: Marker::Slash, head: Some(head) });
    }
    Ok(match (any || is_folder, file, folder) {
        (_, Some(head), _) if is_plain_marker(&head) => {
            Resolved::Directory { marker: Marker::Plain, head: Some(head) }
        }
        (true, _, Some(head)) => Resolved::Directory { marker: Marker::Folder, head: Some(head) },
        (true, _, None) => Resolved::Directory { marker: Marker::None, head: None },
        (false, Some(head), _) => Resolved::File(head),
        (false, None, Some(head)) => {
            Resolved::Directory { marker: Marker::Folder, head: Some(head) }
        }
        (false, None, None) => Resolved::Absent,
    })
}

/// Whether the object is a directory by its own word, as old s3fs writes them.
fn is_plain_marker(head: &ObjectHead) -> bool {
    use super::attributes::{Attributes, Defaults, Kind};
    let defaults = Defaults { uid: 0, gid: 0, file_mode: 0, dir_mode: 0 };
    Attributes::from_head(head, false, &defaults).kind == Kind::Directory
}

/// Whether any key begins with `prefix`.
pub async fn any_key(store: &dyn Store, prefix: &Key) -> Result<bool> {
    let request =
        ListRequest { prefix: prefix.clone(), max_keys: Some(1), ..ListRequest::default() };
    let page = store.list(&request).await?;
    Ok(!page.objects.is_empty() || !page.common_prefixes.is_empty())
}

/// Whether a listing of a directory shows at least its folder.
async fn shows(store: &dyn Store, prefix: &Key) -> Result<bool> {
    let request = ListRequest {
        prefix: prefix.clone(),
        by_directory: true,
        max_keys: Some(1),
        ..ListRequest::default()
    };
    let page = store.list(&request).await?;
    Ok(page.keys().next().is_some())
}

fn known(key: &Key, resolved: &Resolved) -> Known {
    match resolved {
        Resolved::File(head) => Known::File(listed(key, head)),
        Resolved::Directory { marker, .. } => Known::Directory(*marker),
        Resolved::Absent => Known::Absent,
    }
}

/// A HEAD's answer as a listing would show it.
pub fn listed(key: &Key, head: &ObjectHead) -> ListedObject {
    ListedObject {
        key: key.clone(),
        etag: head.etag.clone(),
        len: head.len,
        last_modified: head.last_modified,
        storage_class: head.carried.storage.class.clone(),
    }
}
