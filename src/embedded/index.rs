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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use s3s::{S3Error, S3Result, s3_error};

use super::blobs::{Blobs, Hold};
use super::context::context;
use super::history::{Objects, Version};
use super::records::{Attributes, Begun, Marker, Object, Record, Records, Versioning};
use crate::clock;
use crate::lock::{RwLock, WriteGuard, rank};
use crate::private;

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
    /// `None`: it has kept none.
    pub versioning: Option<Versioning>,
    /// By upload id.
    pub uploads: BTreeMap<String, Upload>,
}

impl Bucket {
    /// The id of what is put now.
    fn new_version(&self) -> Option<String> {
        (self.versioning == Some(Versioning::Enabled)).then(new_id)
    }
}

/// Ids sort by the time at which they were made, and none comes twice, also after a restart.
pub fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:020x}{:08x}", since.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// What clients call the version of an object that was put when the bucket kept none.
const NULL: &str = "null";

pub fn id_of(version: Option<&str>) -> String {
    version.unwrap_or(NULL).to_owned()
}

fn of_id(id: &str) -> Option<&str> {
    Some(id).filter(|id| *id != NULL)
}

/// An object that was looked for.
pub struct Found {
    pub object: Arc<Object>,
    /// On its bytes.
    pub hold: Hold,
    /// The id of its version, where the bucket keeps them.
    pub version: Option<String>,
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

type Writing<'a> = WriteGuard<'a, State>;

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

    /// The current object, and a hold on its bytes.
    pub fn object(&self, bucket: &str, key: &str) -> S3Result<(Arc<Object>, Hold)> {
        let found = self.version(bucket, key, None)?;
        Ok((found.object, found.hold))
    }

    /// The object, in the version of this id, where one is given.
    pub fn version(&self, bucket: &str, key: &str, id: Option<&str>) -> S3Result<Found> {
        // The hold is taken under the lock: behind it, the object could be replaced first.
        self.bucket(bucket, |bucket| {
            let object = match id {
                None => {
                    bucket.objects.current.get(key).ok_or_else(|| s3_error!(NoSuchKey))?.clone()
                }
                Some(id) => match bucket.objects.version(key, of_id(id)) {
                    Some(Version::Object(object)) => object,
                    Some(Version::Marker(_)) => return Err(s3_error!(MethodNotAllowed)),
                    None => return Err(s3_error!(NoSuchVersion)),
                },
            };
            let hold = self.blobs.hold(&object.pieces);
            let version = bucket.versioning.map(|_| id_of(object.version.as_deref()));
            Ok(Found { object, hold, version })
        })?
    }

    /// Returns the id of the version, where the bucket keeps them.
    pub fn put(
        &self,
        bucket: &str,
        key: &str,
        mut object: Object,
        condition: &Condition,
    ) -> S3Result<Option<String>> {
        let state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        condition.check(found.objects.current.get(key))?;
        object.version = found.new_version();
        let version = found.versioning.map(|_| id_of(object.version.as_deref()));
        let record = Record::Put { bucket: bucket.to_owned(), key: key.to_owned(), object };
        self.replace(state, record)?;
        Ok(version)
    }

    /// Gives the version that the object has other attributes.
    pub fn amend(&self, bucket: &str, key: &str, object: Object) -> S3Result<()> {
        let state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        match found.objects.current.get(key) {
            Some(there) if there.version == object.version && there.etag == object.etag => {
                let record = Record::Put { bucket: bucket.to_owned(), key: key.to_owned(), object };
                self.replace(state, record)
            }
            _ => Err(s3_error!(PreconditionFailed)),
        }
    }

    /// Makes one change; files go when the lock is free again.
    fn replace(&self, mut state: Writing<'_>, record: Record) -> S3Result<()> {
        let replaced = self.commit(&mut state, vec![record])?;
        drop(state);
        drop(replaced);
        Ok(())
    }

    /// Deletes what is there of these keys. Returns the id of each one's delete marker, where the bucket keeps versions.
    pub fn delete(
        &self,
        bucket: &str,
        keys: &[String],
        condition: &Condition,
    ) -> S3Result<Vec<Option<String>>> {
        let mut state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        for key in keys {
            condition.check(found.objects.current.get(key))?;
        }
        let marker = || Marker { version: found.new_version(), modified: now() };
        let markers: Vec<Option<Marker>> =
            keys.iter().map(|_| found.versioning.map(|_| marker())).collect();
        let told = |marker: &Option<Marker>| {
            marker.as_ref().map(|marker| id_of(marker.version.as_deref()))
        };
        let told = markers.iter().map(told).collect();
        let records = keys
            .iter()
            .zip(markers)
            .filter(|(key, marker)| marker.is_some() || found.objects.current.contains_key(*key))
            .map(|(key, marker)| Record::Delete {
                bucket: bucket.to_owned(),
                key: key.clone(),
                marker,
            })
            .collect();
        let removed = self.commit(&mut state, records)?;
        drop(state);
        drop(removed);
        Ok(told)
    }

    /// Deletes one version for good. Whether it was a delete marker.
    pub fn delete_version(&self, bucket: &str, key: &str, id: &str) -> S3Result<bool> {
        let state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        let version = of_id(id).map(str::to_owned);
        // What is not there is deleted, as Amazon's store has it.
        let Some(meant) = found.objects.version(key, version.as_deref()) else { return Ok(false) };
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.replace(state, Record::DeleteVersion { bucket, key, version })?;
        Ok(meant.object().is_none())
    }

    pub fn set_versioning(&self, bucket: &str, to: Versioning) -> S3Result<()> {
        let mut state = self.state.write();
        if !state.buckets.contains_key(bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        let record = Record::Versioning { bucket: bucket.to_owned(), state: to };
        self.commit(&mut state, vec![record]).map(drop)
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

    /// Completes an upload with the object that `assemble` makes of it, under the same lock. Returns its ETag, and the id of
    /// its version as [`Index::put`] does.
    pub fn complete(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        condition: &Condition,
        assemble: impl FnOnce(&Upload) -> S3Result<Object>,
    ) -> S3Result<(String, Option<String>)> {
        let state = self.state.write();
        let found = state.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        let mut object = assemble(upload_of(found, key, id)?)?;
        condition.check(found.objects.current.get(key))?;
        object.version = found.new_version();
        let version = found.versioning.map(|_| id_of(object.version.as_deref()));
        let etag = object.etag.clone();
        let record = Record::Complete { bucket: bucket.to_owned(), id: id.to_owned(), object };
        self.replace(state, record)?;
        Ok((etag, version))
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
        Record::Delete { bucket, key, marker } => {
            let bucket = buckets.get_mut(&bucket);
            let removed = bucket.and_then(|found| found.objects.delete(&key, marker));
            removed.iter().for_each(|object| change.remove(object));
        }
        Record::DeleteVersion { bucket, key, version } => {
            let bucket = buckets.get_mut(&bucket);
            let gone =
                bucket.and_then(|found| found.objects.delete_version(&key, version.as_deref()));
            gone.iter().filter_map(Version::object).for_each(|object| change.remove(object));
        }
        Record::Versioning { bucket, state } => {
            if let Some(bucket) = buckets.get_mut(&bucket) {
                bucket.versioning = Some(state);
            }
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
    let replaced = bucket.objects.put(key, Arc::new(object));
    replaced.iter().for_each(|object| change.remove(object));
}

fn all_objects(bucket: &Bucket) -> impl Iterator<Item = &Arc<Object>> {
    let parts = bucket.uploads.values().flat_map(|upload| upload.parts.values());
    bucket.objects.all().chain(parts)
}

fn live_records(buckets: &BTreeMap<String, Bucket>) -> u64 {
    let of = |bucket: &Bucket| {
        let parts = bucket.uploads.values().map(|upload| 1 + upload.parts.len());
        2 + parts.sum::<usize>() + bucket.objects.in_order().count()
    };
    buckets.values().map(of).sum::<usize>() as u64
}

/// The fewest records that give this state.
fn snapshot(buckets: &BTreeMap<String, Bucket>) -> impl Iterator<Item = Record> {
    buckets.iter().flat_map(|(name, bucket)| {
        let create = Record::CreateBucket { bucket: name.clone(), created: bucket.created };
        let versioning = bucket.versioning.map(|state| {
            let bucket = name.clone();
            Record::Versioning { bucket, state }
        });
        let puts = bucket.objects.in_order().map(|(key, version)| {
            let (bucket, key) = (name.clone(), key.to_owned());
            match version {
                Version::Object(object) => {
                    Record::Put { bucket, key, object: Arc::unwrap_or_clone(object) }
                }
                Version::Marker(marker) => Record::Delete { bucket, key, marker: Some(marker) },
            }
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
        std::iter::once(create).chain(versioning).chain(puts).chain(uploads)
    })
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
