//! Attributes once seen, by key and version, kept across remounts in a file of their own beside the
//! journal. What was written here or seen once costs no request again.
//!
//! A version is an ETag *and* a time of modification in whole seconds (HEAD tells no more): a change of
//! metadata alone, by a copy of an object onto itself, keeps the ETag. Of an object written by this mount
//! the time is not known until a listing or a HEAD shows it; but it is not later than the store's clock was when the
//! answer came ([`StoreClock`]), and one that is later is another client's change. Of a change within that same second
//! nothing tells. So such a version is *unsettled*, as is one that a HEAD has seen in the second of its making: good enough
//! to be shown, and asked for once more before anything of it is written back
//! ([`AttributeCache::may_have_changed`]).
//!
//! Keys and ETags are kept as 64 bits of BLAKE3 each, so two versions are mistaken for each other with a
//! chance of 2^-128 a pair.
//!
//! Memory: 32 bytes an entry in a map that is two thirds full; owners and modes are shared
//! among entries, and xattrs and foreign metadata cost extra where there are some. The bound holds by
//! generations: when the younger half of the entries is full, the older is dropped and the younger
//! becomes the older; an entry that is used goes to the younger.
//!
//! Consistency: losing an entry costs a HEAD. Retries: none; after an error of writing the log stays
//! shut and the cache lives on without it, until a rewrite works. No file is touched under the lock of what is remembered:
//! a record gets its place in the file under it, and is written after it, by one caller for all ([`Log::write_unless_busy`]): the
//! others are answered though the file is slow. Cancellation: see [`crate::journal`].
//! Crash: what was put before is there again, but for what the machine had not written.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, Extra, Kind, Told};
use super::segment::{from_nanos, to_nanos};
use crate::blocking;
use crate::cow::CowMap;
use crate::journal::log::Log;
use crate::journal::{Identity, JournalError, ReplayReport};
use crate::lock::{Mutex, rank};
use crate::store::{ETag, Key, ListedObject, Metadata, StoreClock};

/// A second in which another client may still write, with what the store's clock is not known by.
const UNSETTLED: Duration = Duration::from_secs(3);
/// A log below this is not worth a rewrite.
const REWRITE_BYTES_MIN: u64 = 8 << 20;
/// Bytes of one entry in the log, about.
const RECORD_BYTES: u64 = 80;
/// A log is rewritten when it is this many times what its entries need.
const REWRITE_RATIO: u64 = 4;
/// The file in a mount's cache folder.
pub const FILE_NAME: &str = "attributes";

/// What the log is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Record {
    Remembered { key: u64, version: Version, plain: Plain, own: Option<Own> },
    Forgotten { key: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    etag: u64,
    /// Seconds since 1970, by the store's clock: when it was modified, or, as long as it is unsettled, the latest that
    /// this can have been.
    seconds: u32,
    unsettled: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plain {
    st_mode: u32,
    uid: u32,
    gid: u32,
    /// Nanoseconds since 1970.
    mtime: i64,
    content_type: Option<String>,
}

/// What few objects have.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Own {
    target: Option<Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    foreign: Metadata,
}

/// What many objects have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Profile {
    kind: Kind,
    told: Told,
    mode: u32,
    uid: u32,
    gid: u32,
    /// A content type, and what else it carries but metadata of its own.
    extra: Option<Arc<Extra>>,
}

#[derive(Clone, Debug)]
struct Entry {
    etag: u64,
    mtime: i64,
    seconds: u32,
    /// Index into the profiles, and the flags below.
    profile: u32,
}

/// The version is unsettled.
const IS_UNSETTLED: u32 = 1 << 31;
const HAS_EXTRA: u32 = 1 << 30;
const PROFILE_MASK: u32 = HAS_EXTRA - 1;

/// Keys are hashes: any order is as good.
#[derive(Clone, Default)]
struct Generation {
    entries: CowMap<u64, Entry>,
    /// Of those whose extra is their own.
    extras: CowMap<u64, Arc<Extra>>,
    profiles: Vec<Arc<Profile>>,
    profile_of: HashMap<Arc<Profile>, u32>,
}

#[derive(Clone, Default)]
struct State {
    young: Generation,
    old: Generation,
}

/// The version of a key that was seen last.
#[derive(Clone, Debug, PartialEq)]
pub enum LastSeen {
    Unknown,
    /// The one that was asked about. `modified` is when, to the second, by the store's clock, or a little later.
    This {
        attributes: Attributes,
        modified: SystemTime,
    },
    Another,
}

/// Whether a record has its place in the file, where there is one.
type Recorded = Option<io::Result<()>>;

pub struct AttributeCache {
    /// Of one generation.
    entries_max: usize,
    state: Mutex<State, rank::AttributeCache>,
    log: Option<Log<Record>>,
    failed: AtomicBool,
    clock: OnceLock<Arc<StoreClock>>,
}

impl AttributeCache {
    /// Without a file. `entries_max` bounds the count of objects.
    pub fn in_memory(entries_max: usize) -> Arc<AttributeCache> {
        Arc::new(AttributeCache::with(entries_max, State::default(), None))
    }

    /// With the file in a mount's cache folder, which must be locked by the caller. Blocks.
    ///
    /// # Errors
    /// Another mount's file, a future version's, or one that cannot be read or written.
    pub fn open(
        folder: &Path,
        identity: &Identity,
        entries_max: usize,
    ) -> Result<(Arc<AttributeCache>, ReplayReport), JournalError> {
        let mut state = State::default();
        let half = (entries_max / 2).max(1);
        let path = folder.join(FILE_NAME);
        let (log, report) =
            Log::open(&path, &identity.to_bytes(), |record| state.apply(record, half))?;
        Ok((Arc::new(AttributeCache::with(entries_max, state, Some(log))), report))
    }

    fn with(entries_max: usize, state: State, log: Option<Log<Record>>) -> AttributeCache {
        let (entries_max, state) = ((entries_max / 2).max(1), Mutex::new(state));
        AttributeCache {
            entries_max,
            state,
            log,
            failed: AtomicBool::new(false),
            clock: OnceLock::new(),
        }
    }

    /// The attributes of this version, if they are remembered.
    pub fn get(&self, object: &ListedObject) -> Option<Attributes> {
        let mut state = self.state.lock();
        let (key, seconds, version) = state.found(object)?;
        let attributes = state.attributes(key)?;
        if seconds == version.seconds {
            state.touch(key, self.entries_max);
            return Some(attributes);
        }
        // The first sight of what was written here: from now on its time is known.
        let record = self.remember(&mut state, key, Version { seconds, ..version }, &attributes);
        drop(state);
        self.write(record);
        Some(attributes)
    }

    /// Whether [`Self::get`] would find them. Writes nothing: it may be asked under a lock.
    pub fn knows(&self, object: &ListedObject) -> bool {
        self.state.lock().found(object).is_some()
    }

    /// Whether another client may have changed the metadata of this version, so that nothing here would show it: of one
    /// that was written here, or seen in the second of its making, longer than `ttl` ago.
    pub fn may_have_changed(&self, key: &Key, etag: &ETag, ttl: Duration) -> bool {
        let Some(version) = self.state.lock().version(hash(key.as_bytes())) else { return false };
        let made = UNIX_EPOCH + Duration::from_secs(u64::from(version.seconds));
        let age = self.clock().latest().duration_since(made).unwrap_or_default();
        version.unsettled && version.etag == etag_hash(etag) && age > UNSETTLED.max(ttl)
    }

    /// The clock of the store that tells the times.
    pub fn goes_by(&self, clock: Arc<StoreClock>) {
        // It has one store.
        let _ = self.clock.set(clock);
    }

    /// By the store's clock: what was just written was made then, or a little before.
    pub fn just_written(&self) -> SystemTime {
        self.clock().shown()
    }

    fn clock(&self) -> &StoreClock {
        self.clock.get_or_init(Arc::default)
    }

    /// What was seen last of the key, beside this version of it. Changes nothing.
    pub fn last_seen(&self, key: &Key, etag: &ETag) -> LastSeen {
        let key = hash(key.as_bytes());
        let state = self.state.lock();
        let Some(version) = state.version(key) else { return LastSeen::Unknown };
        if version.etag != etag_hash(etag) {
            return LastSeen::Another;
        }
        match state.attributes(key) {
            Some(attributes) => {
                let modified = UNIX_EPOCH + Duration::from_secs(u64::from(version.seconds));
                LastSeen::This { attributes, modified }
            }
            None => LastSeen::Unknown,
        }
    }

    /// Remembers a version. `modified` as a HEAD has just told it; `None` for what this mount has just written. Returns the attributes, which share what they can with others.
    pub fn put(
        &self,
        key: &Key,
        etag: &ETag,
        modified: Option<SystemTime>,
        attributes: &Attributes,
    ) -> Attributes {
        let made = modified.unwrap_or_else(|| self.just_written());
        let age = self.clock().latest().duration_since(made).unwrap_or_default();
        let unsettled = modified.is_none() || age < UNSETTLED;
        let Some(seconds) = seconds_of(made) else {
            return attributes.clone();
        };
        if from_nanos(to_nanos(attributes.mtime)) != attributes.mtime {
            // Centuries away; what cannot be remembered exactly is not.
            self.forget(key);
            return attributes.clone();
        }
        let version = Version { etag: etag_hash(etag), seconds, unsettled };
        let key = hash(key.as_bytes());
        let mut state = self.state.lock();
        let record = self.remember(&mut state, key, version, attributes);
        let shared = state.attributes(key);
        drop(state);
        self.write(record);
        shared.unwrap_or_else(|| attributes.clone())
    }

    /// Remembers the attributes of a directory as of no version, for mounts that ask no store (`--offline`).
    pub fn put_directory(&self, prefix: &Key, attributes: &Attributes) {
        match self.last_seen_directory(prefix) {
            Some(known) if known == *attributes => {}
            _ => _ = self.put(prefix, &ETag::new(""), Some(UNIX_EPOCH), attributes),
        }
    }

    /// The attributes of a directory as they were seen last.
    pub fn last_seen_directory(&self, prefix: &Key) -> Option<Attributes> {
        self.state.lock().attributes(hash(prefix.as_bytes()))
    }

    /// Forgets every version of the key.
    pub fn forget(&self, key: &Key) {
        let key = hash(key.as_bytes());
        let mut state = self.state.lock();
        if state.version(key).is_some() {
            state.forget(key);
            let record = self.record(|| Record::Forgotten { key });
            drop(state);
            self.write(record);
        }
    }

    /// Entries at hand.
    pub(super) fn len(&self) -> usize {
        let state = self.state.lock();
        state.young.entries.len() + state.old.entries.len()
    }

    /// Writes the log anew where it is mostly of what is forgotten or replaced, or failed. To be called
    /// now and then.
    ///
    /// # Errors
    /// Those of writing; the log goes on as before.
    pub async fn compact_if_large(self: &Arc<Self>) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let live = self.len() as u64 * RECORD_BYTES;
        if !log.is_latched() && log.bytes() < REWRITE_BYTES_MIN.max(live * REWRITE_RATIO) {
            return Ok(());
        }
        self.compact().await
    }

    async fn compact(self: &Arc<Self>) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        // It is never synced but here.
        let turns = (log.rewrite_turn().await, log.sync_turn().await);
        let cache = self.clone();
        let rewrite = move || {
            let Some(log) = &cache.log else { return Ok(()) };
            // What has its place in the file and is not written yet is in both: the later one counts.
            let (place, state) = log.copied(|| cache.state.lock().clone());
            let rewritten = log.begin_rewrite(&turns.0, place, state.records());
            let rewritten = rewritten.and_then(|()| log.finish_rewrite(&turns.0, &turns.1));
            // What came meanwhile was left to this thread, also where it did not succeed.
            let written = log.write_unless_busy();
            rewritten.and(written)
        };
        blocking::run(rewrite).await.map_err(io::Error::other)??;
        self.failed.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What comes of it is to be given to [`Self::write`], without the lock of `state`.
    fn remember(
        &self,
        state: &mut State,
        key: u64,
        version: Version,
        attributes: &Attributes,
    ) -> Recorded {
        state.remember(key, version, attributes, self.entries_max);
        self.record(|| Record::remembered(key, version, attributes))
    }

    /// Gives a record its place in the file: under the lock of `state`, so that both have the same order.
    fn record(&self, record: impl FnOnce() -> Record) -> Recorded {
        self.log.as_ref().map(|log| log.enqueue(&[record()]).map(drop))
    }

    fn write(&self, recorded: Recorded) {
        let (Some(log), Some(recorded)) = (&self.log, recorded) else { return };
        let written = recorded.and_then(|()| log.write_unless_busy());
        if let Err(error) = written
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            log::warn!("attributes are not remembered on disk for now: {error}");
        }
    }
}

impl Record {
    fn remembered(key: u64, version: Version, attributes: &Attributes) -> Record {
        let Extra { target, xattrs, foreign, content_type, .. } = attributes.extra().clone();
        let plain = Plain {
            st_mode: attributes.st_mode(),
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: to_nanos(attributes.mtime),
            content_type,
        };
        let foreign = foreign.into_iter().collect();
        let own = (!attributes.extra().is_common()).then_some(Own { target, xattrs, foreign });
        Record::Remembered { key, version, plain, own }
    }
}

/// `None` for a kind that does not exist.
fn recorded(plain: Plain, own: Option<Own>) -> Option<Attributes> {
    let Plain { st_mode, uid, gid, mtime, content_type } = plain;
    let kind = Kind::from_type_bits(st_mode)?;
    let mut attributes = Attributes::new(kind, st_mode, uid, gid, from_nanos(mtime));
    attributes.change_extra(|extra| {
        *extra = Extra { content_type, ..Extra::default() };
        if let Some(Own { target, xattrs, foreign }) = own {
            let foreign = foreign.into_iter().collect();
            *extra = Extra { target, xattrs, foreign, ..std::mem::take(extra) };
        }
    });
    // The file has no room for the rest of what an object carries.
    attributes.told = Told::Metadata;
    Some(attributes)
}

impl State {
    fn apply(&mut self, record: Record, entries_max: usize) {
        match record {
            Record::Forgotten { key } => self.forget(key),
            Record::Remembered { key, version, plain, own } => match recorded(plain, own) {
                Some(attributes) => self.remember(key, version, &attributes, entries_max),
                None => self.forget(key),
            },
        }
    }

    fn forget(&mut self, key: u64) {
        self.young.remove(key);
        self.old.remove(key);
    }

    fn remember(&mut self, key: u64, version: Version, attributes: &Attributes, max: usize) {
        self.forget(key);
        if self.young.entries.len() >= max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, version, attributes);
    }

    /// Makes an entry young.
    fn touch(&mut self, key: u64, entries_max: usize) {
        if !self.young.entries.contains_key(&key)
            && let Some(version) = self.version(key)
            && let Some(attributes) = self.attributes(key)
        {
            self.remember(key, version, &attributes, entries_max);
        }
    }

    fn holder(&self, key: u64) -> Option<(&Generation, &Entry)> {
        [&self.young, &self.old]
            .into_iter()
            .find_map(|generation| Some((generation, generation.entries.get(&key)?)))
    }

    fn version(&self, key: u64) -> Option<Version> {
        self.holder(key).map(|(_, entry)| entry.version())
    }

    /// Under which number this version is remembered, its time in seconds, and what is known of it.
    fn found(&self, object: &ListedObject) -> Option<(u64, u32, Version)> {
        let (key, etag) = (hash(object.key.as_bytes()), etag_hash(&object.etag));
        let seconds = seconds_of(object.last_modified)?;
        let version = self.version(key).filter(|version| version.etag == etag)?;
        let is_it = match version.unsettled {
            true => seconds <= version.seconds,
            false => seconds == version.seconds,
        };
        is_it.then_some((key, seconds, version))
    }

    fn attributes(&self, key: u64) -> Option<Attributes> {
        let (generation, entry) = self.holder(key)?;
        Some(generation.attributes(key, entry))
    }

    /// The older first, so that a replay has them in the same generations.
    fn records(&self) -> impl Iterator<Item = Record> + '_ {
        [&self.old, &self.young].into_iter().flat_map(|generation| {
            generation.entries.iter().map(|(key, entry)| {
                let attributes = generation.attributes(*key, entry);
                Record::remembered(*key, entry.version(), &attributes)
            })
        })
    }
}

impl Generation {
    fn insert(&mut self, key: u64, version: Version, attributes: &Attributes) {
        let Attributes { kind, told, mode, uid, gid, mtime, ref extra } = *attributes;
        let (common, own) = match extra {
            Some(extra) if !extra.is_common() => (None, Some(extra.clone())),
            common => (common.clone(), None),
        };
        let mut profile = self.intern(Profile { kind, told, mode, uid, gid, extra: common });
        if version.unsettled {
            profile |= IS_UNSETTLED;
        }
        if let Some(extra) = own {
            profile |= HAS_EXTRA;
            self.extras.insert(key, extra);
        }
        let (Version { etag, seconds, .. }, mtime) = (version, to_nanos(mtime));
        self.entries.insert(key, Entry { etag, mtime, seconds, profile });
    }

    fn remove(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key)
            && entry.profile & HAS_EXTRA != 0
        {
            self.extras.remove(&key);
        }
    }

    /// Profiles are dropped with their generation, which has no more of them than entries were put.
    fn intern(&mut self, profile: Profile) -> u32 {
        if let Some(index) = self.profile_of.get(&profile) {
            return *index;
        }
        let index = self.profiles.len() as u32 & PROFILE_MASK;
        let profile = Arc::new(profile);
        self.profiles.push(profile.clone());
        self.profile_of.insert(profile, index);
        index
    }

    fn attributes(&self, key: u64, entry: &Entry) -> Attributes {
        let profile = &self.profiles[(entry.profile & PROFILE_MASK) as usize];
        let Profile { kind, told, mode, uid, gid, ref extra } = **profile;
        let own = (entry.profile & HAS_EXTRA != 0).then(|| self.extras.get(&key)).flatten();
        let extra = own.or(extra.as_ref()).cloned();
        Attributes { kind, told, mode, uid, gid, mtime: from_nanos(entry.mtime), extra }
    }
}

impl Entry {
    fn version(&self) -> Version {
        let unsettled = self.profile & IS_UNSETTLED != 0;
        Version { etag: self.etag, seconds: self.seconds, unsettled }
    }
}

/// Whole seconds since 1970; `None` before, and from 2106 on.
fn seconds_of(time: SystemTime) -> Option<u32> {
    u32::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

fn hash(bytes: &[u8]) -> u64 {
    let digest = blake3::hash(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// ETags that differ in case only are equal.
fn etag_hash(etag: &ETag) -> u64 {
    hash(etag.as_str().to_ascii_lowercase().as_bytes())
}

#[cfg(test)]
mod tests;
