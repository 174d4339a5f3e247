//! The versions that the disk tier knows. Those that were not asked for since the mount sleep: of them there is
//! a digest and an id, 40 bytes each, and the journal has the rest. A mount over a million cached files has no
//! work with those that it does not use.
//!
//! Lock order: the journal's lock is taken below the lock that this stands under.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::residency::{DiskObject, space};
use crate::journal::{Journal, Object, ObjectId};
use crate::random::Hashing;
use crate::store::{ETag, Key};

/// Invariants: a version is awake or asleep, not both; the journal's record of a sleeping one changes under no
/// other name than this one.
pub(super) struct Versions {
    journal: Arc<Journal>,
    awake: HashMap<(Key, ETag), Arc<DiskObject>>,
    /// By digest.
    asleep: HashMap<u64, ObjectId>,
    /// The sleeping, the oldest first, and some that are awake by now.
    by_age: VecDeque<(ObjectId, u64)>,
    hasher: Hashing,
    /// What the ranges of all of them take of the disk, in bytes.
    used_bytes: Arc<AtomicU64>,
}

/// What the journal knew at the mount.
pub(super) struct Found {
    pub versions: Versions,
    /// What all ranges take of the disk, in bytes.
    pub used_bytes: Arc<AtomicU64>,
    /// Objects whose version another one has too: a crash came while a file changed hands.
    pub doubles: Vec<Arc<DiskObject>>,
}

impl Versions {
    /// Takes over what the journal remembers; looks at no file.
    pub fn find(journal: &Arc<Journal>) -> Found {
        let mut versions = Versions {
            journal: journal.clone(),
            awake: HashMap::new(),
            asleep: HashMap::new(),
            by_age: VecDeque::new(),
            hasher: Hashing::new(),
            used_bytes: Arc::default(),
        };
        let (mut bytes, mut doubles) = (0, Vec::new());
        journal.read(|state| {
            versions.asleep.reserve(state.objects.len());
            versions.by_age.reserve(state.objects.len());
            for (id, object) in &state.objects {
                bytes += object.resident.iter().map(|(range, _)| space(range)).sum::<u64>();
                let digest = versions.hasher.hash_one((&object.key, &object.etag));
                versions.by_age.push_back((*id, digest));
                let Some(before) = versions.asleep.insert(digest, *id) else { continue };
                let Some(other) = state.objects.get(&before) else { continue };
                let other_awake = versions.wakened(before, other);
                if (&other.key, &other.etag) == (&object.key, &object.etag) {
                    doubles.push(other_awake);
                } else {
                    // Two versions with one digest: one of them is up early.
                    let version = (other.key.clone(), other.etag.clone());
                    versions.awake.insert(version, other_awake);
                }
            }
        });
        versions.used_bytes.store(bytes, Ordering::Relaxed);
        Found { used_bytes: versions.used_bytes.clone(), versions, doubles }
    }

    pub fn get(&mut self, version: &(Key, ETag)) -> Option<&Arc<DiskObject>> {
        self.wake(version);
        self.awake.get(version)
    }

    /// Returns what was there.
    pub fn insert(
        &mut self,
        version: (Key, ETag),
        object: Arc<DiskObject>,
    ) -> Option<Arc<DiskObject>> {
        self.wake(&version);
        if self.awake.len() == self.awake.capacity() {
            // Before the table grows: versions that were opened once, without bytes on disk, go.
            self.awake.retain(|_, object| Arc::strong_count(object) > 1 || object.is_on_disk());
        }
        self.awake.insert(version, object)
    }

    pub fn remove(&mut self, version: &(Key, ETag)) -> Option<Arc<DiskObject>> {
        self.wake(version);
        self.awake.remove(version)
    }

    /// Those that are awake.
    pub fn awake(&self) -> impl Iterator<Item = &Arc<DiskObject>> {
        self.awake.values()
    }

    /// All of them, none asleep any more.
    pub fn wake_all(&mut self) -> Vec<Arc<DiskObject>> {
        while self.wake_oldest().is_some() {}
        self.awake.values().cloned().collect()
    }

    /// Wakes the oldest of those that were not used since the mount.
    pub fn wake_oldest(&mut self) -> Option<Arc<DiskObject>> {
        loop {
            let (id, digest) = self.by_age.pop_front()?;
            if self.asleep.get(&digest) == Some(&id)
                && let Some(object) = self.wake_by(digest, |_| true)
            {
                return Some(object);
            }
        }
    }

    /// Versions with bytes on disk.
    pub fn count(&self) -> u64 {
        let awake = self.awake.values().filter(|object| object.is_on_disk()).count();
        (awake + self.asleep.len()) as u64
    }

    fn wakened(&self, id: ObjectId, object: &Object) -> Arc<DiskObject> {
        Arc::new(DiskObject::from_journal(id, object, self.used_bytes.clone()))
    }

    fn wake(&mut self, version: &(Key, ETag)) {
        if !self.asleep.is_empty() {
            let digest = self.hasher.hash_one((&version.0, &version.1));
            self.wake_by(digest, |object| object.key == version.0 && object.etag == version.1);
        }
    }

    fn wake_by(
        &mut self,
        digest: u64,
        is_meant: impl Fn(&Object) -> bool,
    ) -> Option<Arc<DiskObject>> {
        let id = *self.asleep.get(&digest)?;
        let found = self.journal.read(|state| {
            let object = state.objects.get(&id).filter(|object| is_meant(object))?;
            let version = (object.key.clone(), object.etag.clone());
            Some((version, self.wakened(id, object)))
        });
        let (version, object) = found?;
        self.asleep.remove(&digest);
        self.awake.insert(version, object.clone());
        Some(object)
    }
}
