//! The mark on what this program writes: a random name for one write, kept by the store with the object as user
//! metadata. An object with the mark of a write is that write, whatever became of its answer; one of another client
//! is not, though it has the same bytes and the same metadata.
//!
//! A copy inside the store keeps the mark of its source, unless its metadata is replaced: so a mark says which
//! write an object's metadata comes from, under the key that was written, and nothing of other keys.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Metadata, ObjectHead, WriteOptions};
use crate::random;

/// `x-amz-meta-ratchetfs-mark`, as user metadata is named here.
pub const MARK: &str = "ratchetfs-mark";

/// S3's limit on user metadata: the bytes of all names and values together.
pub const METADATA_BYTES_MAX: usize = 2048;

/// A name for one write that no other write has: 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mark(String);

impl Mark {
    /// One that never was.
    pub fn fresh() -> Mark {
        let drawn = u128::from_le_bytes(random::unpredictable());
        Mark(format!("{drawn:032x}"))
    }

    /// The one in an object's metadata.
    pub fn of(metadata: &Metadata) -> Option<Mark> {
        metadata.get(MARK).map(|text| Mark(text.clone()))
    }

    /// Adds it to metadata, in place of any other. Where there is no room for it the object goes without: then
    /// a lost answer to its write is an error.
    pub fn put_into(&self, metadata: &mut Metadata) {
        metadata.remove(MARK);
        let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes + MARK.len() + self.0.len() <= METADATA_BYTES_MAX {
            metadata.insert(MARK.to_owned(), self.0.clone());
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl WriteOptions {
    /// With the mark of a write of its own.
    pub fn marked(mut self) -> WriteOptions {
        Mark::fresh().put_into(&mut self.metadata);
        self
    }

    pub fn mark(&self) -> Option<Mark> {
        Mark::of(&self.metadata)
    }
}

impl ObjectHead {
    /// The object's mark. On stores that keep no metadata of directories' markers it is a parameter of the content
    /// type.
    pub fn mark(&self) -> Option<Mark> {
        let parameter = || {
            let parameters = self.content_type.as_deref()?.split(';').skip(1);
            let mut named = parameters.filter_map(|pair| pair.trim().split_once('='));
            named.find(|(name, _)| *name == MARK).map(|(_, text)| Mark(text.to_owned()))
        };
        Mark::of(&self.metadata).or_else(parameter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn marks_do_not_repeat_and_give_way_to_what_needs_the_room() {
        let marks: HashSet<Mark> = (0..1000).map(|_| Mark::fresh()).collect();
        assert_eq!(marks.len(), 1000);
        let options = WriteOptions::default().marked();
        assert_ne!(options.mark(), options.clone().marked().mark(), "another write");
        let full = |bytes: usize| Metadata::from([("n".to_owned(), "v".repeat(bytes - 1))]);
        let needs = MARK.len() + 32;
        for (bytes, fits) in [(METADATA_BYTES_MAX - needs, true), (METADATA_BYTES_MAX, false)] {
            let metadata = full(bytes);
            let marked = WriteOptions { metadata: metadata.clone(), ..Default::default() }.marked();
            assert_eq!(marked.mark().is_some(), fits, "{bytes}");
            assert_eq!(marked.metadata.get("n"), metadata.get("n"));
        }
    }
}
