//! What a key has had: all its versions, and bringing back what was deleted.

use super::error::{ErrorKind, Result, StoreError, present};
use super::version::{ListedVersion, VersionsRequest, newest_first};
use super::{Key, Store};

/// More versions of one key are not told of: some hundred bytes each.
const VERSIONS_MAX: usize = 100_000;

/// What became of an undelete.
#[derive(Clone, Debug, PartialEq)]
pub enum Undeleted {
    /// This version is what the key has again.
    Back(ListedVersion),
    /// There is an object, and no delete marker before it.
    Stands(ListedVersion),
    /// No version of it is left.
    Gone,
}

/// All versions of one key, the newest first. None where there was never such an object, or none is left.
///
/// # Errors
/// The store's; `TooLarge` where there are too many.
pub async fn versions_of(store: &dyn Store, key: &Key) -> Result<Vec<ListedVersion>> {
    let mut request = VersionsRequest { prefix: key.clone(), ..VersionsRequest::default() };
    let mut versions: Vec<ListedVersion> = Vec::new();
    loop {
        let page = store.list_versions(&request).await?;
        versions.extend(page.versions.into_iter().filter(|version| version.key == *key));
        if versions.len() > VERSIONS_MAX {
            let message = format!("{key} has more than {VERSIONS_MAX} versions");
            return Err(StoreError::new(ErrorKind::TooLarge, "ListObjectVersions", message));
        }
        // The key itself comes before all that begins with it.
        match page.next.filter(|next| next.key == *key) {
            Some(next) => request.markers = Some(next),
            None => break,
        }
    }
    let mut ordered: Vec<&ListedVersion> = versions.iter().collect();
    newest_first(&mut ordered);
    Ok(ordered.into_iter().cloned().collect())
}

/// Deletes the delete markers in front of the newest version that is left, and looks whether that is there then.
///
/// # Errors
/// The store's; `PreconditionFailed` where another object has taken the key meanwhile.
pub async fn undelete(store: &dyn Store, key: &Key) -> Result<Undeleted> {
    let versions = versions_of(store, key).await?;
    let Some(hidden_by) = versions.iter().position(|version| version.object.is_some()) else {
        return Ok(Undeleted::Gone);
    };
    let newest = versions[hidden_by].clone();
    if hidden_by == 0 {
        return Ok(Undeleted::Stands(newest));
    }
    // The oldest first, so that the object is there with the last of them.
    for marker in versions[..hidden_by].iter().rev() {
        store.delete_version(key, &marker.id).await?;
    }
    let head = present(store.head(key).await)?;
    let is_back =
        head.as_ref().map(|head| &head.etag) == newest.object.as_ref().map(|object| &object.etag);
    if is_back {
        return Ok(Undeleted::Back(newest));
    }
    let message = match head {
        Some(_) => format!("another object has taken the key {key} meanwhile"),
        None => format!("{key} is still not there, though its delete marker is gone"),
    };
    Err(StoreError::new(ErrorKind::PreconditionFailed, "HeadObject", message))
}
