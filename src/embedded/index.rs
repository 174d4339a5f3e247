//! What exists in the embedded store: buckets, objects, multipart uploads. All of it is in memory, and
//! every change is a line in the file of records first.
//!
//! ```text
//! DIR/lock      held while a server runs on DIR
//! DIR/index     the changes (see `records`)
//! DIR/data/     the bytes (see `blobs`)
//! ```
//!
//! Consistency: conditions are checked and the change is made under one lock.
//! Crash: at a start the records are replayed, then blobs that nothing names are removed.
//!
//! Lock order: the state, then the references of the blobs. Neither is held across an await.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use s3s::{S3Error, S3Result, s3_error};

use super::blobs::{Blobs, Hold};
use super::context::context;
use super::records::{Attributes, Begun, Object, Record, Records};
use crate::clock;
use crate::lock::{RwLock, rank};
use crate::private;

/// Objects in the order of their keys: bytewise, as UTF-8 sorts.
pub type Objects = BTreeMap<String, Arc<Object>>;

/// An upload that is neither completed nor aborted.
#[derive(Debug)]
pub struct Upload {
    pub begun: Begun,
    pub parts: BTreeMap<u32, Arc<Object>>,
}

#[derive(Default)]
pub struct Bucket {
    /// Seconds since 1970.
    pub created: i64,
    pub objects: Objects,
    /// By upload id.
    pub uploads: BTreeMap<String, Upload>,
}

/// What must hold for an object to be put or deleted.
#[derive(Clone, Debug, Default)]
pub enum Condition {
    #[default]
    None,
    /// No object has the key.
    Absent,
    /// An object has the key.
    Present,
    /// The object has this ETag.
    Matches(String),
}

impl Condition {
    fn check(&self, found: Option<&Arc<Object>>) -> S3Result<()> {
        match (self, found) {
            (Condition::None, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => {
                Ok(())
            }
            (Condition::Matches(etag), Some(object)) if *etag == object.etag => Ok(()),
            (Condition::Matches(_) | Condition::Present, None) => Err(s3_error!(NoSuchKey)),
            (Condition::Absent | Condition::Matches(_), Some(_)) => {
                Err(s3_error!(PreconditionFailed))
            }
        }
    }
}

struct State {
    buckets: BTreeMap<String, Bucket>,
    records: Records,
}

/// The index of one directory.
pub struct Index {
    state: RwLock<State, rank::EmbeddedIndex>,
    pub blobs: Arc<Blobs>,
    /// Locked while this lives.
    _lock: File,
}

/// Blobs that a change refers to, and no longer refers to.
#[derive(Default)]
struct Change {
    added: Vec<u64>,
    removed: Vec<u64>,
}

impl Change {
    fn add(&mut self, object: &Object) {
        self.added.extend(object.pieces.iter().map(|piece| piece.blob));
    }

    fn remove(&mut self, object: &Object) {
        self.removed.extend(object.pieces.iter().map(|piece| piece.blob));
    }
}

impl Index {
    /// Opens `dir`, made if missing.
    pub fn open(dir: &Path) -> io::Result<Index> {
        private::create_dir_all(dir)
            .map_err(|error| context(error, &format!("cannot make {}", dir.display())))?;
        let lock_path = dir.join("lock");
        let mut options = private::file_options();
        let lock = options
            .write(true)
            .create(true)
            .open(&lock_path)
            .and_then(|lock| private::tighten(&lock).map(|()| lock))
            .map_err(|error| context(error, &format!("cannot write {}", lock_path.display())))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is in use by another embedded store", dir.display()),
            ),
            fs::TryLockError::Error(error) => context(error, &lock_path.display().to_string()),
        })?;
        private::folder(&dir.join("data"))?;
        let blobs = Arc::new(Blobs::open(&dir.join("data"))?);
        let mut buckets = BTreeMap::new();
        let mut records = Records::open(&dir.join("index"), |record| {
            apply(&mut buckets, record);
        })?;
        let live = live_records(&buckets);
        if records.count() > 2 * live + 1000 {
            records.rewrite(snapshot(&buckets))?;
        }
        for object in buckets.values().flat_map(all_objects) {
            blobs.retain(object.pieces.iter().map(|piece| piece.blob));
        }
        let swept = blobs.sweep()?;
        if swept > 0 {
            log::info!("{}: removed {swept} unfinished files", dir.display());
        }
        Ok(Index { state: RwLock::new(State { buckets, records }), blobs, _lock: lock })
    }

    /// Writes the changes down, then makes them. The hold keeps what they replaced, so that files are
    /// removed by the caller, outside the lock.
    fn commit(&self, state: &mut State, records: Vec<Record>) -> S3Result<Hold> {
        state.records.append(&records).map_err(S3Error::internal_error)?;
        let mut removed = Vec::new();
        for record in records {
            let change = apply(&mut state.buckets, record);
            self.blobs.retain(change.added);
            removed.extend(change.removed);
        }
        Ok(self.blobs.take_over(removed))
    }

    pub fn create_bucket(&self, bucket: &str) -> S3Result<()> {
        let mut state = self.state.write();
        if state.buckets.contains_key(bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        let record = Record::CreateBucket { bucket: bucket.to_owned(), created: now() };
        self.commit(&mut state, vec![record]).map(drop)
    }

    pub fn delete_bucket(&self, name: &str) -> S3Result<()> {
        let mut state = self.state.write();
        let bucket = state.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket))?;
        if !bucket.objects.is_empty() || !bucket.uploads.is_empty() {
            return Err(s3_error!(BucketNotEmpty));
        }
        self.commit(&mut state, vec![Record::DeleteBucket { bucket: name.to_owned() }]).map(drop)
    }

    /// Names and times of creation (seconds since 1970).
    pub fn buckets(&self) -> Vec<(String, i64)> {
        let state = self.state.read();
        state.buckets.iter().map(|(name, bucket)| (name.clone(), bucket.created)).collect()
    }

    /// Looks at one bucket. `look` is called under the lock: it must be quick.
    pub fn bucket<T>(&self, name: &str, look: impl FnOnce(&Bucket) -> T) -> S3Result<T> {
        let state = self.state.read();
        state.buckets.get(name).map(look).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    /// An object, and a hold on its bytes.
    pub fn object(&self, bucket: &str, key: &str) -> S3Result<(Arc<Object>, Hold)> {
        // The hold is taken under the lock: behind it, the object could be replaced first.
        self.bucket(bucket, |bucket| {
            let object = bucket.objects.get(key)?;
            Some((Arc::clone(object), self.blobs.hold(&object.pieces)))
        })?
        .ok_or_else(|| s3_error!(NoSuchKey))
    }

    pub fn put(
        &self,
        bucket: &str,
        key: &str,
        object: Object,
        condition: &Condition,
    ) -> S3Result<()> {
        let mut state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        condition.check(found.objects.get(key))?;
        let record = Record::Put { bucket: bucket.to_owned(), key: key.to_owned(), object };
        let replaced = self.commit(&mut state, vec![record])?;
        drop(state);
        drop(replaced);
        Ok(())
    }

    /// Deletes what is there of these keys.
    pub fn delete(&self, bucket: &str, keys: &[String], condition: &Condition) -> S3Result<()> {
        let mut state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        for key in keys {
            condition.check(found.objects.get(key))?;
        }
        let records = keys
            .iter()
            .filter(|key| found.objects.contains_key(*key))
            .map(|key| Record::Delete { bucket: bucket.to_owned(), key: key.clone() })
            .collect();
        let removed = self.commit(&mut state, records)?;
        drop(state);
        drop(removed);
        Ok(())
    }

    /// Begins an upload under a given, unused id.
    pub fn begin(&self, bucket: &str, key: &str, id: &str, attributes: Attributes) -> S3Result<()> {
        let mut state = self.state.write();
        if !state.buckets.contains_key(bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        let upload = Begun { key: key.to_owned(), initiated: now(), attributes };
        let record = Record::Begin { bucket: bucket.to_owned(), id: id.to_owned(), upload };
        self.commit(&mut state, vec![record]).map(drop)
    }

    /// Looks at one upload, under the lock.
    pub fn upload<T>(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        look: impl FnOnce(&Upload) -> T,
    ) -> S3Result<T> {
        self.bucket(bucket, |bucket| upload_of(bucket, key, id).map(look))?
    }

    pub fn put_part(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        number: u32,
        part: Object,
    ) -> S3Result<()> {
        let mut state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        upload_of(found, key, id)?;
        let (bucket, id) = (bucket.to_owned(), id.to_owned());
        let replaced = self.commit(&mut state, vec![Record::Part { bucket, id, number, part }])?;
        drop(state);
        drop(replaced);
        Ok(())
    }

    /// Completes an upload with the object that `assemble` makes of it, under the same lock.
    pub fn complete(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        condition: &Condition,
        assemble: impl FnOnce(&Upload) -> S3Result<Object>,
    ) -> S3Result<String> {
        let mut state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        let object = assemble(upload_of(found, key, id)?)?;
        condition.check(found.objects.get(key))?;
        let etag = object.etag.clone();
        let record = Record::Complete { bucket: bucket.to_owned(), id: id.to_owned(), object };
        let replaced = self.commit(&mut state, vec![record])?;
        drop(state);
        drop(replaced);
        Ok(etag)
    }

    pub fn abort(&self, bucket: &str, key: &str, id: &str) -> S3Result<()> {
        let mut state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        upload_of(found, key, id)?;
        let record = Record::Abort { bucket: bucket.to_owned(), id: id.to_owned() };
        let removed = self.commit(&mut state, vec![record])?;
        drop(state);
        drop(removed);
        Ok(())
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn upload_of<'a>(bucket: &'a Bucket, key: &str, id: &str) -> S3Result<&'a Upload> {
    let upload = bucket.uploads.get(id).filter(|upload| upload.begun.key == key);
    upload.ok_or_else(|| s3_error!(NoSuchUpload))
}

/// Makes one change. Records of what is not there (never written by this module) change nothing.
fn apply(buckets: &mut BTreeMap<String, Bucket>, record: Record) -> Change {
    let mut change = Change::default();
    match record {
        Record::Format { .. } => {}
        Record::CreateBucket { bucket, created } => {
            buckets.entry(bucket).or_default().created = created;
        }
        Record::DeleteBucket { bucket } => {
            buckets.remove(&bucket);
        }
        Record::Put { bucket, key, object } => {
            if let Some(bucket) = buckets.get_mut(&bucket) {
                insert(bucket, key, object, &mut change);
            }
        }
        Record::Delete { bucket, key } => {
            let removed = buckets.get_mut(&bucket).and_then(|found| found.objects.remove(&key));
            removed.iter().for_each(|object| change.remove(object));
        }
        Record::Begin { bucket, id, upload } => {
            if let Some(bucket) = buckets.get_mut(&bucket) {
                let upload = Upload { begun: upload, parts: BTreeMap::new() };
                bucket.uploads.insert(id, upload);
            }
        }
        Record::Part { bucket, id, number, part } => {
            let upload = buckets.get_mut(&bucket).and_then(|found| found.uploads.get_mut(&id));
            if let Some(upload) = upload {
                change.add(&part);
                let replaced = upload.parts.insert(number, Arc::new(part));
                replaced.iter().for_each(|part| change.remove(part));
            }
        }
        Record::Complete { bucket, id, object } => {
            if let Some(bucket) = buckets.get_mut(&bucket)
                && let Some(upload) = bucket.uploads.remove(&id)
            {
                upload.parts.values().for_each(|part| change.remove(part));
                insert(bucket, upload.begun.key, object, &mut change);
            }
        }
        Record::Abort { bucket, id } => {
            let upload = buckets.get_mut(&bucket).and_then(|found| found.uploads.remove(&id));
            let parts = upload.iter().flat_map(|upload| upload.parts.values());
            parts.for_each(|part| change.remove(part));
        }
    }
    change
}

fn insert(bucket: &mut Bucket, key: String, object: Object, change: &mut Change) {
    change.add(&object);
    let replaced = bucket.objects.insert(key, Arc::new(object));
    replaced.iter().for_each(|object| change.remove(object));
}

fn all_objects(bucket: &Bucket) -> impl Iterator<Item = &Arc<Object>> {
    let parts = bucket.uploads.values().flat_map(|upload| upload.parts.values());
    bucket.objects.values().chain(parts)
}

fn live_records(buckets: &BTreeMap<String, Bucket>) -> u64 {
    let of = |bucket: &Bucket| 1 + bucket.uploads.len() + all_objects(bucket).count();
    buckets.values().map(of).sum::<usize>() as u64
}

/// The fewest records that give this state.
fn snapshot(buckets: &BTreeMap<String, Bucket>) -> impl Iterator<Item = Record> {
    buckets.iter().flat_map(|(name, bucket)| {
        let create = Record::CreateBucket { bucket: name.clone(), created: bucket.created };
        let puts = bucket.objects.iter().map(|(key, object)| Record::Put {
            bucket: name.clone(),
            key: key.clone(),
            object: Object::clone(object),
        });
        let uploads = bucket.uploads.iter().flat_map(|(id, upload)| {
            let begin = Record::Begin {
                bucket: name.clone(),
                id: id.clone(),
                upload: upload.begun.clone(),
            };
            let parts = upload.parts.iter().map(|(number, part)| Record::Part {
                bucket: name.clone(),
                id: id.clone(),
                number: *number,
                part: Object::clone(part),
            });
            std::iter::once(begin).chain(parts)
        });
        std::iter::once(create).chain(puts).chain(uploads)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(etag: &str) -> Object {
        Object {
            etag: etag.to_owned(),
            len: 0,
            modified: 0,
            pieces: Vec::new(),
            attributes: Attributes::default(),
            crc: None,
        }
    }

    #[test]
    fn a_directory_is_served_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Index::open(dir.path()).unwrap();
        let second = Index::open(dir.path()).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
        drop(first);
        Index::open(dir.path()).unwrap();
    }

    #[test]
    fn of_many_conditional_puts_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        index.create_bucket("b").unwrap();
        let race = |condition: &Condition| {
            let wins = std::thread::scope(|scope| {
                let puts: Vec<_> = (0..8)
                    .map(|n| {
                        let index = &index;
                        scope.spawn(move || {
                            index.put("b", "k", object(&n.to_string()), condition).is_ok()
                        })
                    })
                    .collect();
                puts.into_iter().map(|put| put.join().unwrap()).collect::<Vec<_>>()
            });
            wins.into_iter().filter(|won| *won).count()
        };
        assert_eq!(race(&Condition::Absent), 1);
        index.put("b", "k", object("start"), &Condition::None).unwrap();
        assert_eq!(race(&Condition::Matches("start".to_owned())), 1);
    }

    #[test]
    fn outdated_records_are_dropped_at_a_start_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        index.create_bucket("b").unwrap();
        for n in 0..1500 {
            index.put("b", "k", object(&n.to_string()), &Condition::None).unwrap();
        }
        index.begin("b", "u", "7", Attributes::default()).unwrap();
        index.put_part("b", "u", "7", 3, object("part")).unwrap();
        drop(index);
        let before = fs::metadata(dir.path().join("index")).unwrap().len();
        let index = Index::open(dir.path()).unwrap();
        assert!(fs::metadata(dir.path().join("index")).unwrap().len() < before / 100);
        assert_eq!(index.object("b", "k").unwrap().0.etag, "1499");
        drop(index);
        let index = Index::open(dir.path()).unwrap();
        let numbers =
            index.upload("b", "u", "7", |u| u.parts.keys().copied().collect::<Vec<_>>()).unwrap();
        assert_eq!(numbers, [3]);
    }
}
