//! Versions that are read in the place of what their keys have now.

use crate::lock::rank;
use crate::store::recent::{Name, Recent, name_of};
use crate::store::{ETag, Key, VersionId};

/// The version that is read of a key and an ETag, where that was said.
#[derive(Default)]
pub struct Pins(Recent<VersionId, rank::PinnedVersions>);

impl Pins {
    pub fn pin(&self, key: &Key, etag: &ETag, version: &VersionId) {
        self.0.note(pinned(key, etag), version.clone());
    }

    /// What a request about this key and ETag asks for: a version, or what the key has now.
    pub fn query(&self, key: &Key, etag: &ETag) -> Vec<(&'static str, Vec<u8>)> {
        let version = self.0.get(&pinned(key, etag));
        version.iter().map(versioned).collect()
    }

    /// Such a request asks for what the key has now, again.
    pub fn forget(&self, key: &Key, etag: &ETag) {
        self.0.forget(&pinned(key, etag));
    }
}

/// The field of a query that names a version.
pub fn versioned(version: &VersionId) -> (&'static str, Vec<u8>) {
    ("versionId", version.as_str().as_bytes().to_vec())
}

fn pinned(key: &Key, etag: &ETag) -> Name {
    name_of(&[key.as_bytes(), etag.as_str().as_bytes()])
}
