//! What an object is called, and what tells its versions apart.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An object's key, without a leading slash: the bytes as the store has them. S3 keys are UTF-8 by
/// specification, but some servers keep any bytes, so nothing here assumes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Key(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text; bytes that are not UTF-8 are replaced.
    pub fn as_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// This key with `suffix` behind it.
    pub fn join(&self, suffix: &[u8]) -> Key {
        let mut bytes = self.0.clone();
        bytes.extend_from_slice(suffix);
        Key(bytes)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key::new(text.as_bytes())
    }
}

/// An entity tag, opaque but for its case, which providers change at will: two that differ only in
/// case are equal. Kept without its quotes, but for a weak one, which is kept whole: `W/"tag"`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ETag(pub(super) String);

/// What a weak tag begins with.
const WEAK: &str = "W/\"";

impl ETag {
    /// From a header or XML value, with or without quotes.
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        match text.strip_prefix(WEAK) {
            Some(tag) => ETag(format!("{WEAK}{}\"", tag.trim_end_matches('"'))),
            None => ETag(text.trim_matches('"').to_owned()),
        }
    }

    /// As it is kept.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it is sent in If-Match and in CompleteMultipartUpload.
    pub fn quoted(&self) -> String {
        if self.is_weak() { self.0.clone() } else { format!("\"{}\"", self.0) }
    }

    /// Whether no condition on it can hold: If-Match compares strongly, and a weak tag then equals none.
    pub fn is_weak(&self) -> bool {
        self.0.starts_with(WEAK)
    }
}

impl PartialEq for ETag {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ETag {}

impl std::hash::Hash for ETag {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
