//! The attributes of files: as they are remembered, or by a HEAD, and by more HEADs ahead of a caller that walks.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

use lru::LruCache;
use tokio::sync::Semaphore;

use crate::blocking;
use crate::clock::Instant;
use crate::lock::{Mutex, rank};
use crate::namespace::attribute_cache::AttributeCache;
use crate::namespace::attributes::{Attributes, Defaults};
use crate::namespace::clock::is_fresh;
use crate::namespace::listings::{Begun, Known, Listings};
use crate::namespace::name;
use crate::namespace::numbers::NumberOrder;
use crate::namespace::resolve::listed;
use crate::namespace::segment::{Listed, Marker, Placed};
use crate::store::breaker::is_looking;
use crate::store::{
    ErrorKind, Key, ListedObject, ObjectHead, Result, SharedStore, looking, present,
};
use crate::without::Heuristic;

use super::single_flight::{Answer, SingleFlight};
use super::walk::{Course, Descent, IDLE, LEFT, Run, Walk};

/// How far ahead at most, in times the HEADs under way: they are answered out of order and waited for in
/// order, and those behind the slowest must not stand idle.
const WINDOW_TIMES: usize = 4;
/// Directories that are walked at a time.
const WALKS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
/// HEADs that are remembered to have been answered lately, some 150 bytes each: a few windows' worth, in which
/// callers that walk side by side find theirs.
const CONFIRMED_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4_095);
/// Directories whose attributes are remembered for the TTL, some 300 bytes each.
const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// How attributes are come by.
#[derive(Clone, Debug)]
pub struct PrefetchOptions {
    pub defaults: Defaults,
    /// The mtime of directories without a marker: one for all, so that they look the same from everywhere.
    pub implicit_mtime: SystemTime,
    /// --fast-attributes.
    pub fast: bool,
    /// HEADs ahead at a time, over all directories.
    pub concurrency: usize,
}

pub struct Prefetch {
    pub(super) store: SharedStore,
    pub(super) listings: Arc<Listings>,
    pub(super) attributes: Arc<AttributeCache>,
    pub(super) options: PrefetchOptions,
    pub(super) permits: Semaphore,
    /// HEADs. Its lock is taken last of all here.
    pub(super) heads: Arc<SingleFlight<ObjectHead>>,
    /// First pages of directories, likewise.
    pub(super) pages: Arc<SingleFlight<()>>,
    /// By directory. Taken first.
    pub(super) walks: Mutex<LruCache<Key, Walk>, rank::Walks>,
    /// By the directory whose directories are looked into. Taken next.
    pub(super) descents: Mutex<LruCache<Key, Descent>, rank::Descents>,
    /// By prefix: when the marker was asked for, its attributes, and which it is; a marker's ETag says nothing, all
    /// empty objects have the same.
    pub(super) directories:
        Mutex<LruCache<Key, (Instant, Attributes, Marker)>, rank::DirectoriesPrefetched>,
    /// When the HEADs were begun that found what the listing says.
    pub(super) confirmed: Mutex<LruCache<Key, Instant>, rank::Confirmed>,
}

impl Prefetch {
    pub fn new(
        store: SharedStore,
        listings: Arc<Listings>,
        attributes: Arc<AttributeCache>,
        options: PrefetchOptions,
    ) -> Arc<Prefetch> {
        let permits = Semaphore::new(options.concurrency.max(1));
        Arc::new(Prefetch {
            store,
            listings,
            attributes,
            options,
            permits,
            heads: SingleFlight::new(),
            pages: SingleFlight::new(),
            descents: Mutex::new(LruCache::new(WALKS_MAX)),
            walks: Mutex::new(LruCache::new(WALKS_MAX)),
            directories: Mutex::new(LruCache::new(DIRECTORIES_MAX)),
            confirmed: Mutex::new(LruCache::new(CONFIRMED_MAX)),
        })
    }

    /// `--fast-attributes`: what a listing shows is all that is asked for.
    pub fn believes_listings(&self) -> bool {
        self.options.fast
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
                let confirmed = self.confirmed_at(&object.key);
                Ok((
                    object.clone(),
                    attributes,
                    confirmed.map_or(at, |confirmed| confirmed.max(at)),
                ))
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
    /// As [`Prefetch::attributes_of`].
    pub async fn confirm(
        self: &Arc<Self>,
        parent: u64,
        object: &ListedObject,
    ) -> Result<Option<(ListedObject, Attributes, Instant)>> {
        if self.options.fast {
            return Ok(None);
        }
        let remembered = self.attributes.get(object);
        let confirmed = remembered.is_some().then(|| self.confirmed_at(&object.key)).flatten();
        if remembered.is_some() && confirmed.is_none() {
            return Ok(None);
        }
        self.look_ahead(parent, &object.key, remembered.is_some());
        if let (Some(attributes), Some(at)) = (remembered, confirmed) {
            return Ok(Some((object.clone(), attributes, at)));
        }
        self.ask(object).await.map(Some)
    }

    /// The same, by a HEAD: where no page is to be had.
    ///
    /// # Errors
    /// As [`Prefetch::attributes_of`].
    pub async fn confirm_alone(
        self: &Arc<Self>,
        object: &ListedObject,
    ) -> Result<(ListedObject, Attributes, Instant)> {
        self.ask(object).await
    }

    /// Whether a caller that asked for several entries of this directory, one after the other, is expected to
    /// ask for the one at this position.
    pub fn is_walked(&self, dir: &Key, position: &[u8]) -> bool {
        self.walks.lock().peek(dir).is_some_and(|walk| walk.is_walked(position))
    }

    /// Forgets walks that have stopped.
    pub fn forget_walks(&self) {
        let now = self.listings.clock().now();
        let mut walks = self.walks.lock();
        while walks.peek_lru().is_some_and(|(_, walk)| walk.is_idle(now, LEFT)) {
            walks.pop_lru();
        }
        self.forget_descents(now);
    }

    fn confirmed_at(&self, key: &Key) -> Option<Instant> {
        let at = self.confirmed.lock().get(key).copied()?;
        let believed_for = self.listings.freshness().believed_for();
        is_fresh(at, self.listings.clock().now(), believed_for).then_some(at)
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

    /// One HEAD for all that ask for the same; and when it was begun.
    pub(super) async fn ask(
        self: &Arc<Self>,
        object: &ListedObject,
    ) -> Result<(ListedObject, Attributes, Instant)> {
        let key = &object.key;
        let (begun, answer) = self.head(key);
        let head = present(self.waited_for(key, answer).await)?;
        if let Some(known) = self.written_since(key, begun) {
            return Ok(known);
        }
        if let Some(head) = &head
            && head.etag == object.etag
        {
            self.confirmed.lock().put(key.clone(), begun.1);
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
    pub(super) fn head(&self, key: &Key) -> (Begun, Answer<ObjectHead>) {
        let (store, asked) = (self.store.clone(), key.clone());
        self.heads.join(key, self.listings.begin(), async move { store.head(&asked).await })
    }

    /// The answer to a HEAD that may be another caller's, one that only looks: work that waits for an outage to end is not told
    /// what that one was.
    pub(super) async fn waited_for(
        &self,
        key: &Key,
        answer: Answer<ObjectHead>,
    ) -> Result<ObjectHead> {
        match answer.await {
            Err(error) if error.kind == ErrorKind::Offline && !is_looking() => {
                self.store.head(key).await
            }
            answer => answer,
        }
    }

    /// Follows a caller that asked for the entry of this key. Starts nothing for an entry that is known,
    /// but goes on with what was started.
    pub(super) fn look_ahead(self: &Arc<Self>, parent: u64, key: &Key, known: bool) {
        if !Heuristic::Prefetch.is_on() {
            return;
        }
        let Some((dir, _)) = name::split(key) else { return };
        let position = &key.as_bytes()[dir.as_bytes().len()..];
        let now = self.listings.clock().now();
        let mut walks = self.walks.lock();
        if let Some(run) = walks.get_mut(&dir).and_then(|walk| walk.reach(position, now)) {
            return self.fill(&dir, run, now);
        }
        // Of several callers side by side one may come late for what was asked for ahead of it.
        if known || self.heads.is_under_way(key) {
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

    /// Has the listing put into the order of numbers, for a caller that is at this position.
    fn put_in_order(self: &Arc<Self>, parent: u64, dir: Key, position: Vec<u8>) {
        let prefetch = self.clone();
        // A million names take a quarter of a second.
        blocking::run(move || {
            let order = NumberOrder::new(parent, prefetch.listings.held(&dir));
            let course = Course::by_number(order, &position);
            let now = prefetch.listings.clock().now();
            if let Some(walk) = prefetch.walks.lock().peek_mut(&dir) {
                walk.add(Run::new(course, &position, now, prefetch.window_max(), true));
            }
        });
    }

    pub(super) fn window_max(&self) -> usize {
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
        let (prefetch, touched) = (self.clone(), run.touched.clone());
        run.heads.spawn(looking(async move {
            let Ok(_permit) = prefetch.permits.acquire().await else { return };
            let idle = prefetch.listings.clock().now().saturating_duration_since(*touched.lock());
            // The caller may have come by while this waited for its turn.
            if idle > IDLE || prefetch.is_remembered(&key, &listed) {
                return;
            }
            let answer = match listed {
                Listed::File(object) => prefetch.ask(&object).await.map(|_| ()),
                Listed::Directory(marker) => prefetch.ask_directory(&key, marker).await.map(|_| ()),
            };
            // The error is for the caller that asks for this entry, which asks the store again.
            if let Err(error) = answer {
                log::debug!("attributes of {key} ahead of time: {error}");
            }
        }));
    }

    fn is_remembered(&self, key: &Key, listed: &Listed) -> bool {
        match listed {
            Listed::File(object) => self.attributes.knows(object),
            Listed::Directory(_) => self.remembered_directory(key).is_some(),
        }
    }
}
