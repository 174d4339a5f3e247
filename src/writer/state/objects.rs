//! Objects in the store that a draft comes from, may have become, and has become.

use std::sync::Arc;

use crate::cache::CachedObject;
use crate::store::{ETag, Key, Mark, WriteOptions};

/// The object that a draft modifies.
#[derive(Clone)]
pub struct Base {
    pub key: Key,
    pub etag: ETag,
    pub len: u64,
    pub object: Arc<CachedObject>,
}

/// The object that a draft became.
#[derive(Clone, Debug)]
pub struct Published {
    pub key: Key,
    pub etag: ETag,
    pub len: u64,
    /// What the object was written with; a multipart upload keeps what it was begun with.
    pub options: WriteOptions,
}

/// A PUT that may have taken effect.
#[derive(Clone)]
pub(in crate::writer) struct Put {
    pub mark: Mark,
    /// The count of writes when it was sent, and what it was sent with; not known of one that an earlier
    /// process sent before it sealed the file again.
    pub content: Option<(u64, WriteOptions)>,
    /// What it brought is not what was sent.
    pub is_damaged: bool,
}

impl Put {
    /// Whether it was of the file with so many writes.
    pub fn is_of(&self, writes: u64) -> bool {
        !self.is_damaged && self.content.as_ref().is_some_and(|(of, _)| *of == writes)
    }
}
