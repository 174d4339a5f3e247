//! Assembles a mount out of its parts.

use std::path::Path;

use anyhow::bail;

use crate::control::messages::{Response, Upload};
use crate::settings::{MountSettings, StoreOptions};
use crate::store::Key;

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

/// Mounts, serves and unmounts. `ready` is told once, when the mount answers or cannot come to be.
pub fn run(
    _settings: MountSettings,
    _ready: impl FnOnce(Result<(), String>) + Send + 'static,
) -> anyhow::Result<()> {
    bail!("mounting is not assembled yet")
}

/// The interrupted uploads in a cache directory that nothing is mounted with: those named by key or
/// id, all where `names` is empty. Returns those that the action meant.
pub fn uploads_at_rest(
    _cache_dir: &Path,
    _store: &StoreOptions,
    _action: UploadAction,
    _names: &[String],
) -> anyhow::Result<Vec<Upload>> {
    bail!("uploads without a mount are not assembled yet")
}

/// The same for the caches in a cache directory: one answer a bucket, as its mount would give.
pub fn cache_at_rest(_cache_dir: &Path, _action: CacheAction) -> anyhow::Result<Vec<Response>> {
    bail!("caches without a mount are not assembled yet")
}

/// Whether the bucket answers, with these options and the credentials found. The error names the cure.
pub fn probe(_store: &StoreOptions, _bucket: &str, _prefix: &Key) -> anyhow::Result<()> {
    bail!("probing is not assembled yet")
}
