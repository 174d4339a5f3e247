//! The folders of a cache directory: one for each bucket, endpoint and prefix that was mounted with it.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::disk;
use crate::journal::layout;
use crate::private::{self, Flaw};

/// The folders of a cache directory that have a journal.
pub(super) fn folders(cache_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cache_dir = match private::existing_directory(cache_dir) {
        Ok(dir) => dir,
        Err(Flaw::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(flaw) => bail!("cache directory {}: {flaw}", cache_dir.display()),
    };
    let mut folders = Vec::new();
    for name in disk::names_in(&cache_dir)? {
        let path = cache_dir.join(name);
        if disk::is_file(layout::journal(&path)) {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
