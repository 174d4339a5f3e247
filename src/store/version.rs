//! Versions of objects, in a bucket that keeps them, and the listings of them.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::key::{ETag, Key};

/// What the store calls one version of an object, or one delete marker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VersionId(String);

/// An object that was written while the bucket kept no versions.
const NULL: &str = "null";

impl VersionId {
    /// As a store tells it; an empty one is that of a bucket that keeps no versions.
    pub fn new(text: &str) -> VersionId {
        VersionId(if text.is_empty() { NULL } else { text }.to_owned())
    }

    /// Of a name that may be `NAME@VERSION`: both, where the end may be an id that a store made. Theirs are of 16 digits (GCS)
    /// up to some hundred letters, digits and `._+=-`.
    pub fn of_name(name: &[u8]) -> Option<(&[u8], VersionId)> {
        let at = name.iter().rposition(|byte| *byte == b'@')?;
        let (name, id) = (&name[..at], std::str::from_utf8(&name[at + 1..]).ok()?);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._+=-".contains(&byte);
        let is_made_up =
            id.len() >= 16 && id.bytes().all(fits) && id.bytes().any(|byte| byte.is_ascii_digit());
        (!name.is_empty() && (is_made_up || id == NULL)).then(|| (name, VersionId(id.to_owned())))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One version of an object, or a delete marker.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedVersion {
    pub key: Key,
    pub id: VersionId,
    /// Whether it is what the key has now.
    pub is_latest: bool,
    pub last_modified: SystemTime,
    /// `None`: a delete marker. Since then there is no object.
    pub object: Option<VersionObject>,
}

/// What a version holds.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionObject {
    pub etag: ETag,
    pub len: u64,
    pub storage_class: Option<String>,
}

/// Where a listing of versions goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionMarkers {
    /// Behind this key;
    pub key: Key,
    /// or behind this version of it.
    pub version: Option<VersionId>,
}

#[derive(Clone, Debug, Default)]
pub struct VersionsRequest {
    pub prefix: Key,
    /// As in [`super::ListRequest`].
    pub by_directory: bool,
    pub markers: Option<VersionMarkers>,
    /// At most this many entries; the store's own limit (1,000) where `None`.
    pub max_keys: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub struct VersionsPage {
    /// Of each key the newest first; markers and objects may be told apart from each other.
    pub versions: Vec<ListedVersion>,
    /// Each ends in `/`. What is below may be deleted.
    pub common_prefixes: Vec<Key>,
    /// `None` on the last page.
    pub next: Option<VersionMarkers>,
}

/// Puts the versions of one key in order, the newest first. Those of the same time stay as they were told.
pub fn newest_first(versions: &mut [&ListedVersion]) {
    versions.sort_by_key(|version| std::cmp::Reverse((version.is_latest, version.last_modified)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_store_may_have_made_is_taken_for_a_version() {
        let parted = |name: &str| {
            let (name, id) = VersionId::of_name(name.as_bytes())?;
            Some((String::from_utf8(name.to_vec()).unwrap(), id.to_string()))
        };
        for (id, is_one) in [
            ("3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrH", true),
            ("1700000000000001", true),
            ("4fe6d7b8-92c1-4e65-9d0f-5f3b8ae7a1c2", true),
            ("CAEQNRiBgIDMj4KJ_RYiIGNmY2JlOTg=", true),
            ("null", true),
            ("example.com", false),
            ("a-name-without-digits", false),
            ("170000000000000", false),
            ("1700000000000001 x", false),
            ("NULL", false),
            ("", false),
        ] {
            let expected = is_one.then(|| ("a@b".to_owned(), id.to_owned()));
            assert_eq!(parted(&format!("a@b@{id}")), expected, "{id}");
        }
        assert_eq!(parted("@1700000000000001"), None);
        assert_eq!(parted("1700000000000001"), None);
    }
}
