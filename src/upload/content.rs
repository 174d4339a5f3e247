//! The same content written again: its parts are copied inside the store from an object that we completed
//! before, and never sent. `rsync` that is killed between the close and the rename leaves such an object under
//! a name that it will not use again; a `cp` made twice overwrites one.
//!
//! Consistency: what an object consists of is told by the fingerprints of the parts that it was completed from.
//! It is looked at before the first copy, and each copy is made on condition of its ETag: whatever else stands
//! there by now is not copied, but forgotten. A copy of ours onto itself or to another name (attributes that
//! are saved, a rename) takes what is known along; who wants to copy waits meanwhile.
//! Retries: the store's own. Whatever fails here costs sending the part, never the file.
//! Crash: the journal keeps it. Losing a record costs only sending again.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Seal, Upload, UploadError, Uploads};
use crate::clock;
use crate::journal::{ContentPart, Fingerprint, Record};
use crate::lock::{Mutex, rank};
use crate::range::ByteRange;
use crate::store::{ETag, ErrorKind, Key, StoredPart};

/// So many objects are remembered, the latest ones.
const OBJECTS_MAX: usize = 1000;
/// Of so many parts in all: each takes 48 bytes of memory, and 41 of the journal.
const PARTS_MAX: usize = 32_768;
/// Objects that are tried for one part.
const TRIES: usize = 3;

/// Objects whose remembered content is about to have another ETag or name.
#[derive(Default)]
pub(super) struct Moves {
    keys: Mutex<HashSet<Key>, rank::KnownObjects>,
    ended: Notify,
}

/// An object is being copied by us, and this copy will take its place.
pub struct Moving<'a> {
    uploads: &'a Uploads,
    key: &'a Key,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.uploads.moves.keys.lock().remove(self.key);
        self.uploads.moves.ended.notify_waiters();
    }
}

/// Where some content is.
struct Source {
    key: Key,
    etag: ETag,
    /// Length of the object, in bytes.
    len: u64,
    range: ByteRange,
}

impl Uploads {
    /// What is known of the object `key` will be told of its copy ([`Uploads::content_moved`]) before this is
    /// dropped, or stays as it is.
    pub fn content_moves<'a>(&'a self, key: &'a Key) -> Moving<'a> {
        self.moves.keys.lock().insert(key.clone());
        Moving { uploads: self, key }
    }

    /// A copy of this version, which is `to`, takes its place.
    pub fn content_moved(&self, key: &Key, etag: &ETag, to: &Key, to_etag: &ETag) {
        if self.knows_content(key, etag) {
            let (key, to, etag) = (key.clone(), to.clone(), to_etag.clone());
            self.note(&[Record::ContentMoved { key, to, etag }]);
        }
    }

    /// The object is gone.
    pub fn forget_content(&self, key: &Key) {
        if self.journal.read(|state| state.contents.contains_key(key)) {
            self.note(&[Record::ContentForgotten { key: key.clone() }]);
        }
    }

    /// Nobody has come back for what was completed so long ago.
    pub fn forget_old_contents(&self, age: Duration) {
        let now = clock::wall();
        let old: Vec<Record> = self.journal.read(|state| {
            let is_old = |time| now.duration_since(time).is_ok_and(|passed| passed > age);
            let old = state.contents.iter().filter(|(_, content)| is_old(content.time));
            old.map(|(key, _)| Record::ContentForgotten { key: key.clone() }).collect()
        });
        self.note(&old);
    }

    fn remember_content(&self, key: &Key, etag: &ETag, parts: Vec<ContentPart>) {
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
        let (key, etag, time) = (key.clone(), etag.clone(), clock::wall());
        records.push(Record::ContentKnown { key, etag, time, parts });
        self.note(&records);
    }

    fn note(&self, records: &[Record]) {
        if let Err(error) = self.journal.append_all(records) {
            // Costs only sending what could have been copied.
            log::warn!("the journal cannot be written: {error}");
        }
    }

    fn knows_content(&self, key: &Key, etag: &ETag) -> bool {
        self.journal.read(|state| state.contents.get(key).is_some_and(|known| known.etag == *etag))
    }

    /// A linear search, 32,768 fingerprints at most: some 50 µs, beside hashing and sending a part.
    fn content_like(&self, wanted: &Fingerprint) -> Option<Source> {
        self.journal.read(|state| {
            state.contents.iter().find_map(|(key, content)| {
                let range = content.place_of(wanted)?;
                let (key, etag) = (key.clone(), content.etag.clone());
                Some(Source { key, etag, len: content.len(), range })
            })
        })
    }

    /// Waits while the object is being copied by us.
    async fn moves_ended(&self, key: &Key) {
        loop {
            let ended = self.moves.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.moves.keys.lock().contains(key) {
                return;
            }
            ended.await;
        }
    }
}

impl Upload {
    /// The upload has become this object.
    pub(super) fn remember(&self, parts: &[StoredPart], etag: &ETag) {
        let parts = {
            let open = self.open.lock();
            let content_of = |part: &StoredPart| {
                let known = open.known.get(&part.number).filter(|known| known.part == *part);
                ContentPart {
                    len: part.len,
                    fingerprint: known.and_then(|known| known.fingerprint),
                }
            };
            parts.iter().map(content_of).collect()
        };
        self.uploads.remember_content(&self.key, etag, parts);
    }

    /// Copies part `number` from an object that we have completed and that has the same bytes in it.
    pub(super) async fn copy_from_content(
        &self,
        number: u32,
        fingerprint: &Fingerprint,
        seal: Seal,
    ) -> Result<Option<StoredPart>, UploadError> {
        if !self.uploads.store.capabilities().copies_parts {
            return Ok(None);
        }
        for _ in 0..TRIES {
            let Some(source) = self.uploads.content_like(fingerprint) else { return Ok(None) };
            self.uploads.moves_ended(&source.key).await;
            if !self.uploads.knows_content(&source.key, &source.etag) {
                continue;
            }
            let copied = match self.is_there(&source).await {
                Ok(()) => {
                    let (key, etag, range) = (&source.key, &source.etag, source.range);
                    self.copy_part_as(number, key, etag, range, *fingerprint, seal).await
                }
                Err(error) => Err(error),
            };
            match copied {
                Ok(part) => return Ok(Some(part)),
                Err(UploadError::Store(error)) if is_another_version(error.kind) => {
                    self.is_gone(&source).await;
                }
                Err(UploadError::Store(error)) => {
                    log::info!("part {number} of {} is sent, not copied: {error}", self.key);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether the object is still what is remembered; asked once for all parts that come from it.
    async fn is_there(&self, source: &Source) -> Result<(), UploadError> {
        let mut seen = self.seen.lock().await;
        if seen.as_ref().is_some_and(|(key, etag)| *key == source.key && *etag == source.etag) {
            return Ok(());
        }
        let head = self.uploads.store.head(&source.key).await?;
        if head.etag != source.etag || head.len != source.len {
            let message = "another version by now";
            let replaced =
                crate::store::StoreError::new(ErrorKind::PreconditionFailed, "HeadObject", message);
            return Err(replaced.into());
        }
        *seen = Some((source.key.clone(), source.etag.clone()));
        Ok(())
    }

    /// Another version stands there, or none: unless it is a copy of ours, which is tried next.
    async fn is_gone(&self, source: &Source) {
        self.uploads.moves_ended(&source.key).await;
        if self.uploads.knows_content(&source.key, &source.etag) {
            self.uploads.forget_content(&source.key);
        }
    }
}

fn is_another_version(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::PreconditionFailed)
}
