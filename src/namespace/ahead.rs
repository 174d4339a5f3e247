//! The attributes of what a listing showed, by HEAD where they are not remembered, in parallel ahead of
//! a caller that walks the listing.
//!
//! The first question about an entry that nothing is known of starts HEADs for the entries behind it: in the
//! order of the listing, or in that of inode numbers for a caller who was seen to go by it ([`walk`]).
//! As long as the caller follows, the window doubles up to [`WINDOW_TIMES`] the concurrency, or to what he asks
//! for in half of the TTL, so that N entries take the time of N / concurrency round trips. HEADs for a caller
//! who goes elsewhere are dropped in time; one who stays away for [`IDLE`] finds that those not yet sent
//! never were.
//!
//! Who goes through directories, looking into one after the other, is looked ahead of by [`descent`].
//!
//! HEADs outlive the listing that they follow: what one has just found is known to be there, however old the
//! page that named it ([`Ahead::confirm`]), so a walk that takes longer than the TTL lists nothing twice.
//!
//! Consistency: attributes and length are of one version: where the HEAD finds another than the listing,
//! the newer is returned and noted. With `fast`, a listing is trusted alone and no HEAD is sent.
//! Retries: the store's. Cancellation: a HEAD is dropped when nobody waits for it, neither a caller nor
//! a window. Crash: see [`super::attribute_cache`].

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::attribute_cache::AttributeCache;
use super::attributes::{Attributes, Defaults};
use super::clock::is_fresh;
use super::listings::{Begun, Known, Listings};
use super::name;
use super::numbers::NumberOrder;
use super::resolve::{listed, present};
use super::segment::{Listed, Marker, Placed};
use crate::store::{Key, ListedObject, ObjectHead, Result, SharedStore};

mod descent;
mod directory;
mod flights;
mod walk;

use descent::Descent;
use flights::{Flight, Flights};
use walk::{Course, Run, Walk};

/// How far ahead at most, in times the HEADs under way: they are answered out of order and waited for in
/// order, and those behind the slowest must not stand idle.
const WINDOW_TIMES: usize = 4;
/// A caller that asks for nothing in this time follows no more.
const IDLE: Duration = Duration::from_secs(2);
/// One that stays away so long is forgotten.
const LEFT: Duration = Duration::from_secs(30);
/// Directories that are walked at a time.
const WALKS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
/// HEADs that are remembered to have been answered lately, some 150 bytes each: a few windows' worth, in which
/// those who walk side by side find theirs.
const LANDED_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4_095);
/// Directories whose attributes are remembered for the TTL, some 300 bytes each.
const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// How attributes are come by.
#[derive(Clone, Debug)]
pub struct AheadOptions {
    pub defaults: Defaults,
    /// The mtime of directories without a marker: one for all, so that they look the same from everywhere.
    pub implicit_mtime: SystemTime,
    /// --fast-attributes.
    pub fast: bool,
    /// HEADs ahead at a time, over all directories.
    pub concurrency: usize,
}

pub struct Ahead {
    store: SharedStore,
    listings: Arc<Listings>,
    attributes: Arc<AttributeCache>,
    options: AheadOptions,
    permits: Semaphore,
    /// Its lock is taken last of all here.
    flights: Arc<Flights<ObjectHead>>,
    /// First pages of directories, likewise.
    pages: Arc<Flights<()>>,
    /// By directory. Taken first.
    walks: Mutex<LruCache<Key, Walk>>,
    /// By the directory whose directories are looked into. Taken next.
    descents: Mutex<LruCache<Key, Descent>>,
    /// By prefix: when the marker was asked for, its attributes, and which it is; a marker's ETag says nothing, all
    /// empty objects have the same.
    directories: Mutex<LruCache<Key, (Instant, Attributes, Marker)>>,
    /// When the HEADs were begun that found what the listing says.
    landed: Mutex<LruCache<Key, Instant>>,
}

impl Ahead {
    pub fn new(
        store: SharedStore,
        listings: Arc<Listings>,
        attributes: Arc<AttributeCache>,
        options: AheadOptions,
    ) -> Arc<Ahead> {
        let permits = Semaphore::new(options.concurrency.max(1));
        Arc::new(Ahead {
            store,
            listings,
            attributes,
            options,
            permits,
            flights: Flights::new(),
            pages: Flights::new(),
            descents: Mutex::new(LruCache::new(WALKS_MAX)),
            walks: Mutex::new(LruCache::new(WALKS_MAX)),
            directories: Mutex::new(LruCache::new(DIRECTORIES_MAX)),
            landed: Mutex::new(LruCache::new(LANDED_MAX)),
        })
    }

    pub fn defaults(&self) -> &Defaults {
        &self.options.defaults
    }

    /// The attributes of an object that a listing asked for at `at` has shown, with what the object is now (the
    /// one given, unless it was replaced since), and when the store was last asked for it. `parent` is the number of
    /// its directory, here and below.
    ///
    /// # Errors
    /// `NotFound` where it was deleted since; others as HEAD's.
    pub async fn attributes_of(
        self: &Arc<Self>,
        parent: u64,
        object: &ListedObject,
        at: Instant,
    ) -> Result<(ListedObject, Attributes, Instant)> {
        let remembered = self.attributes.get(object);
        if self.options.fast {
            let from_listing = || Attributes::from_listing(object, &self.options.defaults);
            return Ok((object.clone(), remembered.unwrap_or_else(from_listing), at));
        }
        self.look_ahead(parent, &object.key, remembered.is_some());
        match remembered {
            Some(attributes) => {
                let landed = self.landed_at(&object.key);
                Ok((object.clone(), attributes, landed.map_or(at, |landed| landed.max(at))))
            }
            None => {
                self.looked_inside(&object.key);
                self.ask(object).await
            }
        }
    }

    /// The same of an object that a listing showed longer ago than it is believed, and when the store was
    /// asked. `None` where attributes are at hand and only whether the object is still there is asked: a page
    /// answers that for a thousand.
    ///
    /// # Errors
    /// As [`Ahead::attributes_of`].
    pub async fn confirm(
        self: &Arc<Self>,
        parent: u64,
        object: &ListedObject,
    ) -> Result<Option<(ListedObject, Attributes, Instant)>> {
        if self.options.fast {
            return Ok(None);
        }
        let remembered = self.attributes.get(object);
        let landed = remembered.is_some().then(|| self.landed_at(&object.key)).flatten();
        if remembered.is_some() && landed.is_none() {
            return Ok(None);
        }
        self.look_ahead(parent, &object.key, remembered.is_some());
        if let (Some(attributes), Some(at)) = (remembered, landed) {
            return Ok(Some((object.clone(), attributes, at)));
        }
        self.ask(object).await.map(Some)
    }

    /// The same, by a HEAD: where no page is to be had.
    ///
    /// # Errors
    /// As [`Ahead::attributes_of`].
    pub async fn confirm_alone(
        self: &Arc<Self>,
        object: &ListedObject,
    ) -> Result<(ListedObject, Attributes, Instant)> {
        self.ask(object).await
    }

    /// Whether a caller who asked for several entries of this directory, one after the other, is expected to
    /// ask for the one at this position.
    pub fn is_walked(&self, dir: &Key, position: &[u8]) -> bool {
        self.walks.lock().peek(dir).is_some_and(|walk| walk.is_walked(position))
    }

    /// Forgets walks that nobody goes on with.
    pub fn forget_walks(&self) {
        let now = self.listings.clock().now();
        let mut walks = self.walks.lock();
        while walks.peek_lru().is_some_and(|(_, walk)| walk.is_idle(now, LEFT)) {
            walks.pop_lru();
        }
        self.forget_descents(now);
    }

    fn landed_at(&self, key: &Key) -> Option<Instant> {
        let at = self.landed.lock().get(key).copied()?;
        is_fresh(at, self.listings.clock().now(), self.listings.ttl()).then_some(at)
    }

    /// The attributes of an object that a listing showed, where they are known without a request.
    pub fn known(&self, object: &ListedObject) -> Option<Attributes> {
        let remembered = self.attributes.get(object);
        let listed = || Attributes::from_listing(object, &self.options.defaults);
        remembered.or_else(|| self.options.fast.then(listed))
    }

    /// Attributes as a head tells them, remembered for the next time.
    pub fn note_head(&self, key: &Key, head: &ObjectHead) -> Attributes {
        let attributes = Attributes::from_head(head, false, &self.options.defaults);
        self.attributes.put(key, &head.etag, Some(head.last_modified), &attributes)
    }

    /// One HEAD, whoever else asks for the same; and when it was begun.
    async fn ask(
        self: &Arc<Self>,
        object: &ListedObject,
    ) -> Result<(ListedObject, Attributes, Instant)> {
        let key = &object.key;
        let (begun, flight) = self.head(key);
        let head = present(flight.await)?;
        if let Some(known) = self.written_since(key, begun) {
            return Ok(known);
        }
        if let Some(head) = &head
            && head.etag == object.etag
        {
            self.landed.lock().put(key.clone(), begun.1);
            return Ok((object.clone(), self.note_head(key, head), begun.1));
        }
        let known = match &head {
            Some(head) => Known::File(listed(key, head)),
            None => Known::Absent,
        };
        if let Some((dir, name)) = name::split(key) {
            self.listings.observe(&dir, name, begun, known);
        }
        match head {
            Some(head) => Ok((listed(key, &head), self.note_head(key, &head), begun.1)),
            None => Err(crate::store::StoreError::new(
                crate::store::ErrorKind::NotFound,
                "HeadObject",
                "deleted since it was listed",
            )),
        }
    }

    /// What this mount has written under the key since a HEAD of it began: the HEAD may tell of what was before,
    /// and of an object whose attributes alone were changed nothing in its answer would say so.
    fn written_since(
        &self,
        key: &Key,
        begun: Begun,
    ) -> Option<(ListedObject, Attributes, Instant)> {
        let (dir, name) = name::split(key)?;
        let (Known::File(object), at) = self.listings.newer(&dir, name, begun.0)? else {
            return None;
        };
        let attributes = self.attributes.get(&object)?;
        Some((object, attributes, at))
    }

    /// The HEAD of this key that is under way or begins now, and when it was begun.
    fn head(&self, key: &Key) -> (Begun, Flight<ObjectHead>) {
        let (store, asked) = (self.store.clone(), key.clone());
        self.flights.board(key, self.listings.begin(), async move { store.head(&asked).await })
    }

    /// Follows a caller that asked for the entry of this key. Starts nothing for an entry that is known,
    /// but goes on with what was started.
    fn look_ahead(self: &Arc<Self>, parent: u64, key: &Key, known: bool) {
        let Some((dir, _)) = name::split(key) else { return };
        let position = &key.as_bytes()[dir.as_bytes().len()..];
        let now = self.listings.clock().now();
        let mut walks = self.walks.lock();
        if let Some(run) = walks.get_mut(&dir).and_then(|walk| walk.reach(position, now)) {
            return self.fill(&dir, run, now);
        }
        // Of several callers side by side one may come late for what was asked for ahead of him.
        if known || self.flights.is_under_way(key) {
            return;
        }
        let walk = walks.get_or_insert_mut(dir.clone(), || Walk::new(now, false));
        let small = self.listings.page_count(&dir) <= 1;
        let (run, ordered) = walk.stray(parent, position, now, self.window_max(), small);
        self.fill(&dir, run, now);
        drop(walks);
        if ordered {
            self.put_in_order(parent, dir, position.to_vec());
        }
    }

    /// Has the listing put into the order of numbers, for a caller who is at this position.
    fn put_in_order(self: &Arc<Self>, parent: u64, dir: Key, position: Vec<u8>) {
        let ahead = self.clone();
        // A million names take a quarter of a second.
        tokio::task::spawn_blocking(move || {
            let order = NumberOrder::new(parent, ahead.listings.held(&dir));
            let course = Course::by_number(order, &position);
            let now = ahead.listings.clock().now();
            if let Some(walk) = ahead.walks.lock().peek_mut(&dir) {
                walk.add(Run::new(course, &position, now, ahead.window_max(), true));
            }
        });
    }

    fn window_max(&self) -> usize {
        self.options.concurrency * WINDOW_TIMES
    }

    /// Asks for as much ahead of a run as its window has room for.
    fn fill(self: &Arc<Self>, dir: &Key, run: &mut Run, now: Instant) {
        let wanted = run.wanted(now, self.listings.ttl());
        if wanted == 0 {
            return;
        }
        let is_known = |placed: &Placed, begun| {
            let bare = placed.position.strip_suffix(b"/").unwrap_or(&placed.position);
            self.is_remembered(&dir.join(&placed.position), &placed.listed)
                || self.listings.newer(dir, bare, begun).is_some()
        };
        let (entries, looks) = run.more(&self.listings, dir, wanted, is_known);
        for placed in entries.into_iter().filter(|_| looks) {
            self.start(run, dir.join(&placed.position), placed.listed);
        }
    }

    /// Starts one HEAD of a run, unless the entry is known.
    fn start(self: &Arc<Self>, run: &mut Run, key: Key, listed: Listed) {
        let by_page = matches!(listed, Listed::Directory(_)) && self.is_entered_next(&key);
        if by_page || self.is_remembered(&key, &listed) {
            return;
        }
        let (ahead, touched) = (self.clone(), run.touched.clone());
        run.heads.spawn(async move {
            let Ok(_permit) = ahead.permits.acquire().await else { return };
            let idle = ahead.listings.clock().now().saturating_duration_since(*touched.lock());
            // The caller may have come by while this waited for its turn.
            if idle > IDLE || ahead.is_remembered(&key, &listed) {
                return;
            }
            let answer = match listed {
                Listed::File(object) => ahead.ask(&object).await.map(|_| ()),
                Listed::Directory(marker) => ahead.ask_directory(&key, marker).await.map(|_| ()),
            };
            // The error is for the caller who asks for this entry, which asks the store again.
            if let Err(error) = answer {
                log::debug!("attributes of {key} ahead of time: {error}");
            }
        });
    }

    fn is_remembered(&self, key: &Key, listed: &Listed) -> bool {
        match listed {
            Listed::File(object) => self.attributes.get(object).is_some(),
            Listed::Directory(_) => self.remembered_directory(key).is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
