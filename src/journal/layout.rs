//! What lies where in a cache folder: see [`super`].

use std::path::{Path, PathBuf};

pub fn journal(folder: &Path) -> PathBuf {
    folder.join("journal")
}

/// The folder of the drafts' staging files.
pub fn staging(folder: &Path) -> PathBuf {
    folder.join("staging")
}
