//! What this mount does to objects of the bucket, told to all that remember something of objects: names and attributes
//! (the catalog), bytes (the cache), contents that may be copied from (the uploads), and the journal, where attributes
//! wait to be saved.
//!
//! Each event is one call here, made when the store has acknowledged it, and nothing else tells the five of it
//! (`tests/architecture.rs` looks). Inodes are the operations' own affair.

use std::sync::Arc;

use super::parts::Parts;
use crate::cache::Cache;
use crate::journal::{Journal, Record};
use crate::namespace::{Attributes, Catalog, Stored};
use crate::store::{ETag, Key, ListedObject};
use crate::upload::{Moving, Uploads};

pub struct Objects {
    catalog: Arc<Catalog>,
    cache: Arc<Cache>,
    uploads: Arc<Uploads>,
    journal: Arc<Journal>,
}

/// One version of an object.
pub type Version<'a> = (&'a Key, &'a ETag);

impl Objects {
    pub fn new(parts: &Parts) -> Objects {
        let Parts { catalog, cache, uploads, journal, .. } = parts.clone();
        Objects { catalog, cache, uploads, journal }
    }

    /// An object was written, where `replaced` stood, if anything.
    pub fn published(&self, object: Stored<'_>, attributes: &Attributes, replaced: Option<&ETag>) {
        if let Some(old) = replaced.filter(|old| *old != object.etag) {
            self.cache.forget_version(object.key, old);
        }
        self.catalog.put(object, attributes);
    }

    /// A copy of this object is about to take its place: what is copied from it meanwhile waits until the guard is
    /// dropped, after the copy was told of or has failed.
    pub fn moving<'a>(&'a self, key: &'a Key) -> Moving<'a> {
        self.uploads.known_objects.object_moves(key)
    }

    /// An object was copied onto itself, with other attributes.
    pub fn attributes_saved(&self, old: &ETag, object: Stored<'_>, attributes: &Attributes) {
        self.bytes_moved((object.key, old), (object.key, object.etag));
        self.catalog.put(object, attributes);
    }

    /// Of an object there is a copy under another key.
    pub fn copied(&self, object: Stored<'_>, attributes: &Attributes) {
        self.attributes_settled(object.key);
        self.catalog.put(object, attributes);
    }

    /// An object has another key: it was copied and deleted.
    pub fn moved(&self, from: Version<'_>, to: Stored<'_>, attributes: &Attributes) {
        self.bytes_moved(from, (to.key, to.etag));
        self.attributes_settled(from.0);
        self.attributes_settled(to.key);
        self.catalog.moved(from.0, to, attributes);
    }

    /// Of an object below a directory that is being renamed there is a copy. Its name follows with the directory
    /// ([`Objects::directory_moved`]).
    pub fn moved_below(&self, object: &ListedObject, target: &Key, copy: &ETag) {
        self.bytes_moved((&object.key, &object.etag), (target, copy));
        self.catalog.moved_below(object, target, copy);
    }

    /// What is cached and known of a version is so of its copy.
    fn bytes_moved(&self, from: Version<'_>, to: Version<'_>) {
        self.read_from(from, to);
        self.uploads.known_objects.object_moved(from.0, from.1, to.0, to.1);
    }

    /// Readers of a version read its copy from now on, with what is cached of it. The version may stay.
    pub fn read_from(&self, from: Version<'_>, copy: Version<'_>) {
        self.cache.rename_key(from.0, from.1, copy.0, copy.1);
    }

    /// An object was deleted, or what was only here has lost its name.
    pub fn deleted(&self, key: &Key) {
        self.uploads.known_objects.object_gone(key);
        self.attributes_settled(key);
        self.catalog.deleted(key);
    }

    /// No program has this version open any more, and it has no name.
    pub fn unused(&self, key: &Key, etag: &ETag) {
        self.cache.forget_version(key, etag);
    }

    /// All objects below one prefix are below another now.
    pub fn directory_moved(&self, from: &Key, to: &Key, attributes: &Attributes) {
        self.catalog.directory_moved(from, to, attributes);
    }

    /// The marker of a directory is gone, and nothing was in it.
    pub fn directory_deleted(&self, prefix: &Key) {
        self.attributes_settled(prefix);
        self.catalog.directory_deleted(prefix);
    }

    /// The store has the attributes, or what they belonged to is gone.
    pub fn attributes_settled(&self, key: &Key) {
        let known = self.journal.read(|state| state.attributes.contains_key(key));
        let record = Record::AttributesSaved { key: key.clone() };
        if known && let Err(error) = self.journal.append(record) {
            // The next mount finds them saved, or their object gone.
            log::warn!("the journal cannot be written: {error}");
        }
    }
}
