//! `ratchetfs versions` and `ratchetfs undelete`, of objects that no mount is needed for.

use super::reach::{unusable, with_store};
use crate::control::messages::{KeyVersions, UndeletedKey};
use crate::settings::StoreOptions;
use crate::store::Key;
use crate::store::undelete::{undelete, versions_of};

/// All versions of an object.
///
/// # Errors
/// The bucket cannot be reached.
pub fn versions_in_store(
    options: &StoreOptions,
    bucket: &str,
    key: &Key,
) -> anyhow::Result<KeyVersions> {
    with_store(options, bucket, async |store, _| {
        let versions = versions_of(store.as_ref(), key).await.map_err(|error| unusable(&error))?;
        Ok(KeyVersions::new(bucket, key, &versions))
    })
}

/// Brings back an object that was deleted.
///
/// # Errors
/// The bucket cannot be reached, or refuses.
pub fn undelete_in_store(
    options: &StoreOptions,
    bucket: &str,
    key: &Key,
) -> anyhow::Result<UndeletedKey> {
    with_store(options, bucket, async |store, _| {
        let outcome = undelete(store.as_ref(), key).await.map_err(|error| unusable(&error))?;
        Ok(UndeletedKey::new(bucket, key, &outcome))
    })
}
