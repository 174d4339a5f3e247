//! `ratchetfs verify`: of the files of a mount, and of objects that no mount is needed for.

use std::time::Duration;

use super::reach::{unusable, with_store};
use crate::cache::{Depth, Place, Verdict, audit};
use crate::control::messages::{FileDamage, FileVerdict, VerifyDepth};
use crate::settings::StoreOptions;
use crate::store::{ErrorKind, Key, ListRequest, SharedStore, StoreError};

pub(super) fn depth(asked: VerifyDepth) -> Depth {
    match asked {
        VerifyDepth::Cached => Depth::Cached,
        VerifyDepth::AsNeeded => Depth::AsNeeded,
        VerifyDepth::Full => Depth::Full,
    }
}

pub(super) fn told(verdict: Verdict) -> FileVerdict {
    let damaged = verdict.damaged.into_iter().map(|damage| FileDamage {
        place: match damage.place {
            Place::Cache => "cache".to_owned(),
            Place::Store => "store".to_owned(),
        },
        start: damage.start,
        end: damage.end,
        expected: damage.expected,
        found: damage.found,
    });
    FileVerdict {
        len: verdict.len,
        proven_bytes: verdict.proven,
        read_from_disk: verdict.read_from_disk,
        read_from_store: verdict.read_from_store,
        proven_by: verdict.by,
        unproven: verdict.unproven,
        damaged: damaged.collect(),
    }
}

/// Reads the object of this key, or, where `all_below`, all whose keys begin with it, and tells of each as soon as it is
/// read.
///
/// # Errors
/// The bucket cannot be reached, there is no such object, or `tell` fails.
pub fn verify_in_store(
    options: &StoreOptions,
    bucket: &str,
    key: &Key,
    all_below: bool,
    mut tell: impl FnMut(&Key, FileVerdict) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    with_store(options, bucket, async |store, deadline| {
        if !all_below {
            let verdict = of_one(&store, key, deadline).await.map_err(|error| unusable(&error))?;
            return tell(key, told(verdict));
        }
        let mut request = ListRequest { prefix: key.clone(), ..ListRequest::default() };
        loop {
            let page = store.list(&request).await.map_err(|error| unusable(&error))?;
            for object in &page.objects {
                let verdict = match of_one(&store, &object.key, deadline).await {
                    Ok(verdict) => verdict,
                    // Deleted since it was listed.
                    Err(error) if error.kind == ErrorKind::NotFound => continue,
                    Err(error) => Verdict::unknown(object.len, error.to_string()),
                };
                tell(&object.key, told(verdict))?;
            }
            if page.continuation.is_none() {
                return Ok(());
            }
            request.continuation = page.continuation;
        }
    })
}

async fn of_one(store: &SharedStore, key: &Key, deadline: Duration) -> Result<Verdict, StoreError> {
    let head = store.head(key).await?;
    audit::of_stored(store.as_ref(), key, &head, deadline).await
}
