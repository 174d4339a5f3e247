//! Known objects: those that this machine has completed and whose parts' fingerprints it remembers. The same content
//! written again is copied from them inside the store. `rsync` that is killed between the close and the rename leaves
//! such an object under a name that it will not use again; a `cp` made twice overwrites one.
//!
//! Consistency: what an object consists of is told by the fingerprints of the parts that it was completed from.
//! It is looked at before the first copy, and each copy is made on condition of its ETag: another version that stands
//! there by now is not copied, and the known one is forgotten. A copy of ours onto itself or to another name (attributes
//! that are saved, a rename) takes what is known along; uploads that want to copy wait meanwhile.
//! Retries: the store's own. What fails here costs sending the part, never the file.
//! Crash: the journal keeps it. Losing a record costs only sending again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::source::Source;
use crate::checked::Stretch;
use crate::clock;
use crate::journal::content::Content;
use crate::journal::{ContentPart, Fingerprint, Journal, Record};
use crate::lock::{Mutex, rank};
use crate::store::{ETag, Key};

/// So many objects are remembered, the latest ones.
const OBJECTS_MAX: usize = 1000;
/// Of so many parts in all: each takes 56 bytes of memory, and 46 of the journal.
const PARTS_MAX: usize = 32_768;

pub struct KnownObjects {
    journal: Arc<Journal>,
    /// Those that are about to have another ETag or name.
    moving: Mutex<HashSet<Key>, rank::KnownObjects>,
    moved: Notify,
}

/// An object is being copied by this mount, and the copy will take its place.
pub struct Moving<'a> {
    objects: &'a KnownObjects,
    key: &'a Key,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.objects.moving.lock().remove(self.key);
        self.objects.moved.notify_waiters();
    }
}

impl KnownObjects {
    pub(in crate::upload) fn new(journal: Arc<Journal>) -> Arc<KnownObjects> {
        Arc::new(KnownObjects { journal, moving: Mutex::default(), moved: Notify::new() })
    }

    /// What is known of the object `key` will be told of its copy ([`Self::object_moved`]) before this is
    /// dropped, or stays as it is.
    pub fn object_moves<'a>(&'a self, key: &'a Key) -> Moving<'a> {
        self.moving.lock().insert(key.clone());
        Moving { objects: self, key }
    }

    /// A copy of this version, which is `to`, takes its place.
    pub fn object_moved(&self, key: &Key, etag: &ETag, to: &Key, to_etag: &ETag) {
        if self.knows(key, etag) {
            let (key, to, etag) = (key.clone(), to.clone(), to_etag.clone());
            self.note(&[Record::ContentMoved { key, to, etag }]);
        }
    }

    /// The object is gone.
    pub fn object_gone(&self, key: &Key) {
        if self.journal.read(|state| state.contents.contains_key(key)) {
            self.note(&[Record::ContentForgotten { key: key.clone() }]);
        }
    }

    /// Forgets what was completed so long ago that its content will hardly be written again.
    pub fn forget_older_than(&self, age: Duration) {
        let now = clock::wall();
        let old: Vec<Record> = self.journal.read(|state| {
            let is_old = |time| now.duration_since(time).is_ok_and(|passed| passed > age);
            let old = state.contents.iter().filter(|(_, content)| is_old(content.time));
            old.map(|(key, _)| Record::ContentForgotten { key: key.clone() }).collect()
        });
        self.note(&old);
    }

    /// Remembers an object that was completed, and forgets the oldest where there are too many.
    pub(in crate::upload) fn remember(&self, key: &Key, etag: &ETag, parts: Vec<ContentPart>) {
        let mut records: Vec<Record> = self.journal.read(|state| {
            let others = state.contents.iter().filter(|(other, _)| *other != key);
            let mut objects = 1 + others.clone().count();
            let mut total = parts.len() + others.clone().map(|(_, c)| c.parts.len()).sum::<usize>();
            if objects <= OBJECTS_MAX && total <= PARTS_MAX {
                return Vec::new();
            }
            let mut others: Vec<_> = others.collect();
            others.sort_by_key(|(_, content)| content.time);
            let too_many = others.into_iter().take_while(|(_, content)| {
                let too_many = objects > OBJECTS_MAX || total > PARTS_MAX;
                objects -= 1;
                total -= content.parts.len();
                too_many
            });
            too_many.map(|(key, _)| Record::ContentForgotten { key: key.clone() }).collect()
        });
        let content = Content { etag: etag.clone(), time: clock::wall(), parts };
        records.extend(content.records(key));
        self.note(&records);
    }

    /// The parts of an object that this machine has completed, in order, as far as their sums are known.
    #[expect(dead_code, reason = "for the cache to compare with")]
    pub fn stretches(&self, key: &Key, etag: &ETag) -> Vec<Stretch> {
        self.journal.read(|state| {
            let known = state.contents.get(key).filter(|known| known.etag == *etag);
            known.map(Content::stretches).unwrap_or_default()
        })
    }

    fn note(&self, records: &[Record]) {
        if let Err(error) = self.journal.append_all(records) {
            // Costs only sending what could have been copied.
            log::warn!("the journal cannot be written: {error}");
        }
    }

    fn knows(&self, key: &Key, etag: &ETag) -> bool {
        self.journal.read(|state| state.contents.get(key).is_some_and(|known| known.etag == *etag))
    }

    /// Where the bytes with this fingerprint are, and the length of the object. Waits while that is about to move.
    pub(super) async fn find(&self, wanted: &Fingerprint) -> Option<(Source, u64)> {
        loop {
            let (source, len) = self.place_of(wanted)?;
            self.settled(&source.key).await;
            if self.knows(&source.key, &source.etag) {
                return Some((source, len));
            }
        }
    }

    /// A linear search, 32,768 fingerprints at most: some 50 µs, beside hashing and sending a part.
    fn place_of(&self, wanted: &Fingerprint) -> Option<(Source, u64)> {
        self.journal.read(|state| {
            state.contents.iter().find_map(|(key, content)| {
                let range = content.place_of(wanted)?;
                let (key, etag) = (key.clone(), content.etag.clone());
                Some((Source { key, etag, range }, content.len()))
            })
        })
    }

    /// Another version stands there, or none: unless it is a copy of ours, which is found next.
    pub(super) async fn forget_replaced(&self, source: &Source) {
        self.settled(&source.key).await;
        if self.knows(&source.key, &source.etag) {
            self.object_gone(&source.key);
        }
    }

    /// Waits while the object is being copied by this mount.
    async fn settled(&self, key: &Key) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if !self.moving.lock().contains(key) {
                return;
            }
            moved.await;
        }
    }
}
