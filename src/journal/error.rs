//! Why a journal cannot be opened, in words that name the cure.

use std::io;
use std::path::{Path, PathBuf};

use super::identity::Identity;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process serves this folder.
    #[error("cache folder {} is in use by {}; unmount that first, or give this mount another --cache-dir",
        folder.display(), holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Locked { folder: PathBuf, holder: Option<u32> },

    /// The journal is intact and belongs to another mount.
    #[error("{} belongs to {found}; give this mount another --cache-dir", path.display())]
    OtherBucket { path: PathBuf, found: String },

    /// The journal is intact and written in a format that this program does not know.
    #[error("{} has format version {version}, this program knows version {}; use the program that wrote it, or another --cache-dir",
        path.display(), super::frame::VERSION)]
    OtherVersion { path: PathBuf, version: u32 },

    /// Without its header, a journal cannot be read without knowing what it is of.
    #[error("{} is damaged at its beginning; mounting the bucket repairs it", path.display())]
    Damaged { path: PathBuf },

    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl JournalError {
    /// Wraps an error of doing `action` to `path`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> JournalError {
        move |source| JournalError::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn other_bucket(path: &Path, identity: &[u8]) -> JournalError {
        let found = match Identity::from_bytes(identity) {
            Some(identity) => identity.to_string(),
            None => String::from_utf8_lossy(identity).into_owned(),
        };
        JournalError::OtherBucket { path: path.to_owned(), found }
    }
}
