//! All uploads that a bucket has and that are neither completed nor aborted, by whichever client: looked at, and ended at a
//! user's word. And which of them are of this machine.
//!
//! Consistency: what a journal of this machine has is asked for when the uploads have been listed. A mount records that
//! it asks for an upload before it does, so that none of its own is in the list and unknown to its journal.

use std::path::{Path, PathBuf};

use anyhow::Context;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::runtime::Runtime;

use super::folders::folders;
use super::reach::{Keep, reach, unusable};
use crate::control::messages::{BucketUpload, KnownUploads, StoredParts, UploadName};
use crate::journal::{Identity, Journal, JournalError, State};
use crate::settings::{StoreOptions, TransferOptions};
use crate::store::{
    ErrorKind, Key, Result, SharedStore, Store, StoreError, TransferSettings, stack,
};

/// Uploads that are asked about, or ended, side by side.
const AT_ONCE: usize = 16;

pub(super) async fn begun(store: &dyn Store, prefix: &Key) -> Result<Vec<BucketUpload>> {
    if !store.capabilities().lists_uploads {
        let message = "the store does not list uploads: its own rules for those that are abandoned see to them";
        return Err(StoreError::new(ErrorKind::Unsupported, "ListMultipartUploads", message));
    }
    let listed = store.list_uploads(prefix).await?;
    let now = store.clock().signing();
    let age = |begun| now.duration_since(begun).unwrap_or_default().as_secs();
    let uploads = listed.into_iter().map(|upload| BucketUpload {
        name: UploadName { key: upload.key, upload_id: upload.upload_id },
        age_seconds: upload.initiated.map(age),
    });
    Ok(uploads.collect())
}

pub(super) async fn parts(
    store: &dyn Store,
    uploads: &[UploadName],
) -> Result<Vec<Option<StoredParts>>> {
    let asked = uploads.iter().cloned().map(|upload| async move {
        match store.list_parts(&upload.key, &upload.upload_id).await {
            Ok(parts) => Ok(Some(StoredParts {
                parts: parts.len() as u64,
                bytes: parts.iter().map(|part| part.len).sum(),
            })),
            Err(error) if error.kind == ErrorKind::NoSuchUpload => Ok(None),
            Err(error) => Err(error.of_key(Some(&upload.key))),
        }
    });
    stream::iter(asked).buffered(AT_ONCE).try_collect().await
}

pub(super) async fn end(store: &dyn Store, uploads: &[UploadName]) -> Result<()> {
    stream::iter(uploads.iter().cloned().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |upload| async move {
            let ended = store.abort_upload(&upload.key, &upload.upload_id).await;
            ended.map_err(|error| error.of_key(Some(&upload.key)))
        })
        .await
}

/// The uploads in the journal of a cache folder.
pub(super) fn known(bucket: &str, folder: &Path, state: &State) -> KnownUploads {
    let uploads = state.drafts.values().filter_map(|draft| draft.upload.as_ref());
    let uploads =
        uploads.map(|upload| UploadName { key: upload.key.clone(), upload_id: upload.id.clone() });
    KnownUploads {
        bucket: bucket.to_owned(),
        folder: folder.display().to_string(),
        uploads: uploads.collect(),
        asked: state.unconfirmed_creates.values().map(|create| create.key.clone()).collect(),
    }
}

/// What the journals of a cache directory know of a bucket's uploads, and the folders whose journals only their mounts can
/// tell of.
///
/// # Errors
/// A journal cannot be read.
pub fn known_at_rest(
    cache_dir: &Path,
    bucket: &str,
) -> anyhow::Result<(Vec<KnownUploads>, Vec<PathBuf>)> {
    let (mut found, mut mounted) = (Vec::new(), Vec::new());
    let all = folders(cache_dir)?;
    for folder in all.into_iter().filter(|folder| Identity::may_be_of(folder, bucket)) {
        match Journal::inspect(&folder) {
            Ok((identity, state, _)) => found.push(known(&identity.bucket, &folder, &state)),
            Err(JournalError::Locked { .. }) => mounted.push(folder),
            Err(error) => return Err(error).with_context(|| folder.display().to_string()),
        }
    }
    Ok((found, mounted))
}

/// The uploads of a bucket, by a client of one's own.
pub struct BucketUploads {
    runtime: Runtime,
    store: SharedStore,
    prefix: Key,
    #[cfg_attr(not(feature = "embedded"), allow(dead_code, reason = "it has nothing to stop"))]
    keep: Keep,
}

impl BucketUploads {
    /// # Errors
    /// The bucket cannot be reached. The line names the cure.
    pub fn reach(options: &StoreOptions, bucket: &str, prefix: Key) -> anyhow::Result<Self> {
        let runtime = Runtime::new().context("the runtime cannot be started")?;
        let transfer = TransferOptions::default();
        let reached = runtime.block_on(async {
            let reached = reach(options, bucket, &transfer).await?;
            reached.client.probe(&prefix).await.map_err(|error| unusable(&error))?;
            anyhow::Ok(reached)
        })?;
        let settings =
            TransferSettings { timeout: transfer.timeout, ..TransferSettings::default() };
        let store = {
            // It has tasks of its own.
            let _inside = runtime.enter();
            stack(reached.client, &settings).store
        };
        Ok(BucketUploads { runtime, store, prefix, keep: reached.keep })
    }

    pub fn begun(&self) -> anyhow::Result<Vec<BucketUpload>> {
        let listed = self.runtime.block_on(begun(&*self.store, &self.prefix));
        listed.map_err(|error| unusable(&error))
    }

    /// What the store has of each; `None` of what has ended.
    pub fn parts(&self, uploads: &[UploadName]) -> anyhow::Result<Vec<Option<StoredParts>>> {
        self.runtime.block_on(parts(&*self.store, uploads)).map_err(|error| unusable(&error))
    }

    pub fn end(&self, uploads: &[UploadName]) -> anyhow::Result<()> {
        self.runtime.block_on(end(&*self.store, uploads)).map_err(|error| unusable(&error))
    }
}

impl Drop for BucketUploads {
    fn drop(&mut self) {
        #[cfg(feature = "embedded")]
        if let Some(server) = self.keep.embedded.take() {
            self.runtime.block_on(server.stop());
        }
    }
}
