//! Uploads and caches of a cache directory that nothing is mounted with.
//!
//! Consistency: a cache folder is only changed under its lock, which a mount holds.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::control::interrupted;
use super::folders::folders;
use super::reach::{identity, reach, s3_settings, unusable};
use crate::cache;
use crate::control::messages::{CacheState, CacheVerdict, Response, Upload};
use crate::disk;
use crate::journal::{Identity, Journal, JournalError, State, layout};
use crate::settings::{StoreOptions, TransferOptions};
use crate::store::turns::Turns;
use crate::store::{Key, s3};
use crate::upload::Interrupted;

/// What to do with interrupted uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadAction {
    List,
    Resume,
    Abort,
}

/// What to do with a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAction {
    Info,
    Verify,
    Clear,
}

/// The interrupted uploads in a cache directory that nothing is mounted with: those named by key or
/// id, all where `names` is empty. Returns those that the action meant.
pub fn uploads_at_rest(
    cache_dir: &Path,
    store: &StoreOptions,
    action: UploadAction,
    names: &[String],
) -> anyhow::Result<Vec<Upload>> {
    if action == UploadAction::Resume {
        bail!("mount the bucket: its interrupted uploads go on by themselves");
    }
    let mut meant = Vec::new();
    for folder in folders(cache_dir)? {
        let (found, _) = inspect(&folder)?;
        let wanted: Vec<Upload> = uploads_in(&found.0, &found.1)
            .into_iter()
            .filter(|upload| names.is_empty() || names.iter().any(|name| upload.is_named(name)))
            .collect();
        if !wanted.is_empty() {
            meant.push((folder, found.0, wanted));
        }
    }
    let is_known = |name: &&String| {
        meant.iter().flat_map(|(_, _, uploads)| uploads).any(|upload| upload.is_named(name))
    };
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        bail!("no interrupted upload is named {unknown}; see ratchetfs uploads list");
    }
    if action == UploadAction::Abort {
        if !names.is_empty() && meant.len() > 1 {
            let found = meant.iter().flat_map(|(_, _, uploads)| uploads);
            let found = found.map(|upload| format!("s3://{}/{}", upload.bucket, upload.key));
            bail!(
                "uploads of several buckets have these names; say which is meant, such as {}",
                found.collect::<Vec<_>>().join(" or ")
            );
        }
        for (folder, belongs, wanted) in &meant {
            abort(folder, belongs, store, wanted)?;
        }
    }
    Ok(meant.into_iter().flat_map(|(_, _, uploads)| uploads).collect())
}

fn uploads_in(identity: &Identity, state: &State) -> Vec<Upload> {
    let mut uploads: Vec<_> =
        state.drafts.iter().map(|(id, draft)| crate::upload::describe(*id, draft)).collect();
    uploads.sort_by_key(|upload| upload.begun);
    uploads.iter().map(|upload| interrupted(&identity.bucket, upload)).collect()
}

/// Ends uploads in the store they belong to, which must be reachable.
fn abort(
    folder: &Path,
    belongs: &Identity,
    options: &StoreOptions,
    wanted: &[Upload],
) -> anyhow::Result<()> {
    let options = options_for(belongs, options);
    if identity(&options, &belongs.bucket, &belongs.prefix).endpoint != belongs.endpoint {
        bail!(
            "these uploads belong to {}: name it with --endpoint-url or --region",
            belongs.endpoint
        );
    }
    let (journal, _) = Journal::open(folder, belongs)?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(async {
        let reached = reach(&options, &belongs.bucket, &TransferOptions::default()).await?;
        reached.client.probe(&belongs.prefix).await.map_err(|error| unusable(&error))?;
        let store = Turns::over(std::sync::Arc::new(reached.client));
        let interrupted = Interrupted::new(store, journal.clone());
        for upload in wanted {
            let draft = upload.id.parse().context("an upload's id is a number")?;
            interrupted.abort(draft).await?;
            let staged = crate::staging::StagingFile::path_of(&layout::staging(folder), draft);
            match disk::remove_file(&staged) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(staged.display().to_string());
                }
                _ => {}
            }
        }
        journal.sync().await?;
        anyhow::Ok(())
    })
}

/// An embedded store names itself: where it is need not be said again.
fn options_for(belongs: &Identity, options: &StoreOptions) -> StoreOptions {
    let mut options = options.clone();
    if let Some(dir) = belongs.endpoint.strip_prefix("embedded:")
        && options.endpoint_url.is_none()
    {
        options.embedded.get_or_insert_with(|| PathBuf::from(dir));
    }
    options
}

/// The same for the caches in a cache directory: one answer a bucket, as its mount would give.
pub fn cache_at_rest(cache_dir: &Path, action: CacheAction) -> anyhow::Result<Vec<Response>> {
    let mut answers = Vec::new();
    for folder in folders(cache_dir)? {
        answers.push(match action {
            CacheAction::Info => {
                let (found, bytes) = inspect(&folder)?;
                Response::Cache(cache_state(&folder, &found.1, bytes))
            }
            CacheAction::Verify => Response::Verified(verify(&folder)?),
            CacheAction::Clear => Response::Cleared(clear(&folder)?),
        });
    }
    Ok(answers)
}

fn cache_state(folder: &Path, state: &State, disk_bytes_max: u64) -> CacheState {
    CacheState {
        dir: folder.display().to_string(),
        disk_bytes: state.objects.values().map(|object| object.resident.bytes()).sum(),
        disk_bytes_max,
        staged_bytes: state.drafts.values().map(|draft| draft.staged_bytes()).sum(),
        objects: state.objects.len() as u64,
        ..CacheState::default()
    }
}

fn verify(folder: &Path) -> anyhow::Result<CacheVerdict> {
    let report = cache::at_rest::verify(folder, &open_journal(folder)?)?;
    Ok(CacheVerdict { checked_bytes: report.bytes, damaged_bytes: report.bad_bytes })
}

fn clear(folder: &Path) -> anyhow::Result<u64> {
    Ok(cache::at_rest::clear(folder, &open_journal(folder)?)?.bytes)
}

fn open_journal(folder: &Path) -> anyhow::Result<std::sync::Arc<Journal>> {
    let (found, _) = inspect(folder)?;
    Ok(Journal::open(folder, &found.0)?.0)
}

fn inspect(folder: &Path) -> anyhow::Result<((Identity, State), u64)> {
    match Journal::inspect(folder) {
        Ok((identity, state, _)) => Ok(((identity, state), 0)),
        Err(error @ JournalError::Locked { .. }) => {
            bail!("{error}: name the mount point instead of the cache directory")
        }
        Err(error) => Err(error).with_context(|| folder.display().to_string()),
    }
}

/// Whether the bucket answers, with these options and the credentials found. The error names the cure.
pub fn probe(options: &StoreOptions, bucket: &str, prefix: &Key) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(async {
        let reached = reach(options, bucket, &TransferOptions::default()).await?;
        reached.client.probe(prefix).await.map_err(|error| unusable(&error))?;
        Ok(())
    })
}

/// Asks for credentials as a mount does. In a few words, which source gives them.
pub fn identify(options: &StoreOptions) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    let settings = s3_settings(options, "", &TransferOptions::default());
    runtime.block_on(s3::identify(&settings)).map_err(|error| unusable(&error))
}
