//! What a journal belongs to: one bucket at one endpoint, seen from one prefix.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use crate::store::Key;

/// The mount that a cache folder serves. No part of it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Where the bucket is, without credentials: a URL, or whatever else names the store for good.
    pub endpoint: String,
    pub bucket: String,
    /// Empty, or with a `/` at its end.
    pub prefix: Key,
}

impl Identity {
    /// The form in the journal's header: endpoint, NUL, bucket, NUL, prefix.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.endpoint.clone().into_bytes();
        bytes.push(0);
        bytes.extend_from_slice(self.bucket.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.prefix.as_bytes());
        bytes
    }

    /// `None` where `bytes` have another form.
    pub fn from_bytes(bytes: &[u8]) -> Option<Identity> {
        let mut fields = bytes.splitn(3, |byte| *byte == 0);
        let endpoint = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let bucket = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let prefix = Key::new(fields.next()?);
        Some(Identity { endpoint, bucket, prefix })
    }

    /// The folder of this mount in the cache directory: the bucket's name for the eye, and a digest of the
    /// whole identity that keeps apart what has the same name elsewhere.
    pub fn folder(&self, cache_dir: &Path) -> PathBuf {
        let mut name = beginning(&self.bucket);
        for byte in &blake3::hash(&self.to_bytes()).as_bytes()[..DIGEST_BYTES] {
            // Writing to a String does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        cache_dir.join(OsString::from(name))
    }

    /// Whether a folder of a cache directory can be that of a mount of this bucket, by its name.
    pub fn may_be_of(folder: &Path, bucket: &str) -> bool {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix(&beginning(bucket)).is_some_and(|digest| digest.len() == 2 * DIGEST_BYTES)
    }
}

/// Of the digest in a folder's name.
const DIGEST_BYTES: usize = 6;

/// What the names of the folders of a bucket begin with.
fn beginning(bucket: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let mut name: String =
        bucket.chars().take(64).map(|c| if plain(c) { c } else { '_' }).collect();
    name.push('-');
    // A bucket's name does not begin with a dot, but nothing here depends on that.
    if name.starts_with('.') {
        name.replace_range(..1, "_");
    }
    name
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{} at {}", self.bucket, self.prefix, self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(endpoint: &str, bucket: &str, prefix: &str) -> Identity {
        Identity { endpoint: endpoint.into(), bucket: bucket.into(), prefix: prefix.into() }
    }

    #[test]
    fn an_identity_comes_back_from_its_bytes() {
        let identity = identity("https://example.com", "b", "p/\0q\n/");
        assert_eq!(Identity::from_bytes(&identity.to_bytes()), Some(identity));
        assert_eq!(Identity::from_bytes(b"only\0two"), None);
    }

    #[test]
    fn every_identity_has_its_own_folder() {
        let cache = Path::new("/c");
        let one = identity("https://a", "bucket", "").folder(cache);
        assert!(one.to_string_lossy().starts_with("/c/bucket-"));
        assert_ne!(one, identity("https://b", "bucket", "").folder(cache));
        assert_ne!(one, identity("https://a", "bucket", "p/").folder(cache));
    }

    #[test]
    fn no_bucket_name_leaves_the_cache_directory() {
        let folder = identity("https://a", "../../etc", "").folder(Path::new("/c"));
        assert_eq!(folder.parent(), Some(Path::new("/c")));
        assert!(!folder.to_string_lossy().contains("/."));
    }
}
