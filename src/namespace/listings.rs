//! What is known of directories without asking: fresh listings, and what this mount changed itself.
//! Shared by all requests; no I/O.
//!
//! Consistency. A **fact** is what this mount knows of one name: a change that it made, or an answer
//! that it got. A **segment** is a listed page. Each carries the count of facts at the time it is
//! true of: a fact its own number, a page the count when its request was *sent*. Since a store is strongly
//! consistent, a page shows every change that had ended before its request; so of a fact and a page the
//! one with the higher number is right, and a page that was under way while a file was deleted here
//! cannot bring it back, nor hide one that was created. A **local** fact (a file that is not in the
//! bucket yet) holds until it is withdrawn, whatever pages say.
//!
//! A directory that is renamed takes names along of which there is no fact each: all that is known below its old and
//! its new prefix is forgotten ([`Listings::forget_below`]), and no answer is kept that was under way then.
//!
//! Freshness. Both are believed for the metadata TTL, counted from when the request was sent.
//!
//! Memory. Segments go first, those of the directory longest unused before others; facts go when they
//! are expired or when a newer page says the same, and never while a scan is under way that began
//! before them. If a scan stands still while many thousands of changes pass, facts are given up all the
//! same, and the scan is told to list its page again ([`Listings::must_relist`]).

use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lru::LruCache;

use super::clock::{Clock, Freshness, is_fresh};
pub use super::directory::{Begun, Known};
use super::directory::{Directory, Fact, slashed, weight};
use super::name::{self, HiddenKeys};
use super::names::Names;
use super::segment::{Held, Listed, Marker, Placed, Segment};
use crate::clock::Instant;
use crate::lock::{Mutex, rank};
use crate::store::{Key, ListedObject};

/// Facts of one directory beyond which the oldest are given up although a scan may need them.
const FACTS_PER_DIRECTORY_MAX: usize = 100_000;
const DIRECTORY_BYTES: usize = size_of::<Directory>() + 128;

/// For each fact that was looked through for some to drop, so many bytes may come before they are looked through
/// again: most of them may have to stay.
const BYTES_A_LOOK: usize = 16;

struct State {
    directories: LruCache<Key, Directory>,
    /// Bytes of all segments and facts, estimated.
    weight: usize,
    /// Below so many bytes nothing is looked for that could be dropped.
    look_at: usize,
    /// The count of facts so far.
    facts: u64,
    /// That count when names last had another prefix: what was asked before tells perhaps of what was there then.
    moved: u64,
    scans: u64,
    folder_markers_seen: bool,
    disorder_seen: bool,
}

pub struct Listings {
    clock: Arc<dyn Clock>,
    freshness: Freshness,
    weight_max: usize,
    hidden: HiddenKeys,
    state: Mutex<State, rank::Listings>,
    /// Written down for `--offline`, where the mount asks for that. Never under the lock of `state`.
    names: OnceLock<Names>,
}

impl Listings {
    /// `fresh` begins with --metadata-ttl; `Duration::MAX` is for ever. `bytes_max` bounds the memory.
    pub fn new(fresh: impl Into<Freshness>, bytes_max: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        let state = State {
            directories: LruCache::unbounded(),
            weight: 0,
            look_at: 0,
            facts: 0,
            moved: 0,
            scans: 0,
            folder_markers_seen: false,
            disorder_seen: false,
        };
        let (hidden, state) = (HiddenKeys::default(), Mutex::new(state));
        let (freshness, names) = (fresh.into(), OnceLock::new());
        Arc::new(Listings { clock, freshness, weight_max: bytes_max, hidden, state, names })
    }

    /// From now on what is heard of names is written down. For the first caller.
    pub fn write_down(&self, names: Names) {
        // A second one would write the same.
        let _ = self.names.set(names);
    }

    /// The directory's objects have another prefix, each with all below it.
    pub fn note_moved(&self, from: &Key, to: &Key) {
        if let Some(names) = self.names.get() {
            names.moved(from, to);
        }
    }

    /// Keys that cannot be names, in the directories as last scanned.
    pub fn hidden(&self) -> &HiddenKeys {
        &self.hidden
    }

    pub fn ttl(&self) -> Duration {
        self.freshness.ttl()
    }

    /// How long what is known is believed, beyond the TTL too.
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Whether `dir_$folder$` markers have been seen, and are worth asking for.
    pub fn folder_markers_seen(&self) -> bool {
        self.state.lock().folder_markers_seen
    }

    pub(super) fn note_folder_marker(&self) {
        self.state.lock().folder_markers_seen = true;
    }

    /// Whether the store has never been seen to list out of order.
    pub fn lists_in_order(&self) -> bool {
        !self.state.lock().disorder_seen
    }

    pub(super) fn note_disorder(&self) {
        self.state.lock().disorder_seen = true;
    }

    /// What is known of `name` in `dir`, no older than the TTL.
    pub fn lookup(&self, dir: &Key, name: &[u8]) -> Known {
        self.lookup_at(dir, name).0
    }

    /// The same, and when the store was asked for it.
    pub fn lookup_at(&self, dir: &Key, name: &[u8]) -> (Known, Instant) {
        self.lookup_within(dir, name, self.freshness.believed_for())
    }

    /// What was known of `name` in `dir` last, however long ago.
    pub fn remembered(&self, dir: &Key, name: &[u8]) -> Known {
        self.lookup_within(dir, name, Duration::MAX).0
    }

    fn lookup_within(&self, dir: &Key, name: &[u8], ttl: Duration) -> (Known, Instant) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let Some(directory) = state.directories.get(dir) else { return (Known::Unknown, now) };
        let fresh = |at: Instant| is_fresh(at, now, ttl);
        let fact = directory.facts.get(&slashed(name)).filter(|fact| fact.local || fresh(fact.at));
        let listed = directory.listed(dir, name, fresh);
        match (fact, listed) {
            (Some(fact), Some((_, begun))) if fact.local || (fact.number, fact.at) > begun => {
                (fact.known.clone(), if fact.local { now } else { fact.at })
            }
            (_, Some((known, (_, at)))) => (known, at),
            (Some(fact), None) => (fact.known.clone(), if fact.local { now } else { fact.at }),
            (None, None) => (Known::Unknown, now),
        }
    }

    /// The object that `name` was when it was last listed, however long ago that was; `None` where this mount
    /// has learned otherwise since.
    pub fn outdated(&self, dir: &Key, name: &[u8]) -> Option<ListedObject> {
        let state = self.state.lock();
        let directory = state.directories.peek(dir)?;
        let (Known::File(object), begun) = directory.listed(dir, name, |_| true)? else {
            return None;
        };
        let fact = directory.facts.get(&slashed(name));
        let newer = fact.is_some_and(|fact| fact.local || (fact.number, fact.at) > begun);
        (!newer).then_some(object)
    }

    /// An object was written by this mount and is complete in the bucket. A key that ends in `/` is a
    /// directory's marker.
    pub fn note_put(&self, object: ListedObject) {
        let Some((dir, name)) = name::split(&object.key) else { return };
        let name = name.to_vec();
        if object.key.as_bytes().ends_with(b"/") {
            self.note(&dir, &name, Known::Directory(Marker::Slash), false);
        } else {
            self.note(&dir, &name, Known::File(object), false);
        }
    }

    /// An object was deleted by this mount. For a key that ends in `/`: the directory is gone, with all
    /// that was known of it.
    pub fn note_deleted(&self, key: &Key) {
        let Some((dir, name)) = name::split(key) else { return };
        if key.as_bytes().ends_with(b"/") {
            self.forget_dir(key);
        } else if let Known::Directory(Marker::Slash | Marker::None | Marker::Unknown) =
            self.lookup(&dir, name)
        {
            // The object was hidden behind a directory of its name, which is still there.
            return;
        }
        self.note(&dir, name, Known::Absent, false);
    }

    /// The directory with this prefix exists.
    pub fn note_directory(&self, prefix: &Key, marker: Marker) {
        if let Some((dir, name)) = name::split(prefix) {
            self.note(&dir, name, Known::Directory(marker), false);
        }
    }

    /// A name exists on this mount and not yet in the bucket (or no longer, for `Known::Absent`), until
    /// [`Listings::note_put`], [`Listings::note_deleted`] or [`Listings::withdraw_local`].
    pub fn note_local(&self, dir: &Key, name: &[u8], known: Known) {
        self.note(dir, name, known, true);
    }

    /// A directory was made on this mount, is not yet in the bucket, and has nothing in it.
    pub fn note_new_directory(&self, prefix: &Key) {
        if let Some((dir, name)) = name::split(prefix) {
            self.note_local(&dir, name, Known::Directory(Marker::Slash));
        }
        self.note_empty(prefix, self.begin());
    }

    /// Nothing was in this directory at `begun`: it did not exist then, say.
    pub fn note_empty(&self, prefix: &Key, begun: Begun) {
        let (begun, at) = begun;
        self.insert_segment(prefix, &[], Segment::new(&[], None, begun, at));
        self.confirm_segment(prefix, &[], begun);
    }

    /// Whether the name exists is the bucket's to say again.
    pub fn withdraw_local(&self, dir: &Key, name: &[u8]) {
        let mut state = self.state.lock();
        let Some(directory) = state.directories.peek_mut(dir) else { return };
        let position = slashed(name);
        if directory.facts.get(&position).is_some_and(|fact| fact.local) {
            let freed =
                directory.facts.remove(&position).map_or(0, |fact| weight(&position, &fact));
            state.weight = state.weight.saturating_sub(freed);
            state.look_at = state.look_at.saturating_sub(freed);
        }
    }

    /// Nothing is known of this directory's entries any more, but for local facts.
    pub fn forget_dir(&self, prefix: &Key) {
        let mut state = self.state.lock();
        let State { directories, weight, .. } = &mut *state;
        if let Some(directory) = directories.peek_mut(prefix) {
            *weight = weight.saturating_sub(directory.forget());
        }
    }

    /// The same of this directory and of all below it, as what is there now has come or gone with a directory above.
    pub fn forget_below(&self, prefix: &Key) {
        let mut state = self.state.lock();
        state.facts += 1;
        state.moved = state.facts;
        let State { directories, weight, .. } = &mut *state;
        for (dir, directory) in directories.iter_mut() {
            if dir.as_bytes().starts_with(prefix.as_bytes()) {
                *weight = weight.saturating_sub(directory.forget());
            }
        }
    }

    /// Whether an answer that was asked for at `begun` may tell of names that have another prefix by now.
    pub(super) fn is_of_before_a_move(&self, begun: Begun) -> bool {
        begun.0 < self.state.lock().moved
    }

    /// Whether the directory with this prefix exists, and with what in it, is the store's to say again: of what was
    /// listed above it nothing is believed either.
    pub fn forget_directory(&self, prefix: &Key) {
        self.forget_below(prefix);
        if let Some((dir, name)) = name::split(prefix) {
            self.forget_dir(&dir);
            self.note(&dir, name, Known::Unknown, false);
        }
    }

    /// The count that an answer of the store is to be noted with: taken before its request is sent.
    pub fn begin(&self) -> Begun {
        (self.state.lock().facts, self.clock.now())
    }

    /// The store answered what `name` is, to a request sent at `begun` (see [`Listings::begin`]).
    /// Ignored where this mount has changed the name since.
    pub fn observe(&self, dir: &Key, name: &[u8], begun: Begun, known: Known) {
        let mut state = self.state.lock();
        let directory = state.directories.peek(dir);
        let newer = |fact: &Fact| fact.local || fact.number > begun.0;
        if begun.0 < state.moved {
            return;
        }
        if directory.and_then(|dir| dir.facts.get(&slashed(name))).is_some_and(newer) {
            return;
        }
        // The answer is true of the time when it was asked for, so it keeps that number.
        let fact = Fact { number: begun.0, at: begun.1, known: known.clone(), local: false };
        self.insert(&mut state, dir, name, fact);
        drop(state);
        if let Some(names) = self.names.get() {
            names.name(dir, name, &known);
        }
    }

    fn note(&self, dir: &Key, name: &[u8], known: Known, local: bool) {
        if let Some(names) = self.names.get().filter(|_| !local) {
            names.name(dir, name, &known);
        }
        let at = self.clock.now();
        let mut state = self.state.lock();
        state.facts += 1;
        let fact = Fact { number: state.facts, at, known, local };
        self.insert(&mut state, dir, name, fact);
    }

    fn insert(&self, state: &mut State, dir: &Key, name: &[u8], fact: Fact) {
        let position = slashed(name);
        let directory = entry(&mut state.directories, dir, &mut state.weight);
        let added = weight(&position, &fact);
        let is_local = fact.local;
        let replaced = directory.facts.insert(position.clone(), fact);
        let freed = replaced.as_ref().map_or(0, |old| weight(&position, old));
        if replaced.is_some_and(|old| old.local && !is_local) {
            // What had to stay may go.
            state.look_at = state.look_at.saturating_sub(freed);
        }
        let many = directory.facts.len() > directory.facts_max.max(FACTS_PER_DIRECTORY_MAX);
        state.weight = (state.weight + added).saturating_sub(freed);
        if many {
            self.give_up_facts(state, dir);
        }
        self.shrink(state);
    }

    /// Drops the older half of a directory's facts, and the pages that they correct.
    fn give_up_facts(&self, state: &mut State, dir: &Key) {
        let Some(directory) = state.directories.peek_mut(dir) else { return };
        let before = directory.weight();
        let mut numbers: Vec<u64> = directory.facts.values().map(|fact| fact.number).collect();
        let middle = numbers.len() / 2;
        let (_, lost, _) = numbers.select_nth_unstable(middle);
        let lost = *lost;
        directory.facts.retain(|_, fact| fact.local || fact.number > lost);
        directory.segments.retain(|_, segment| segment.begun >= lost);
        directory.facts_lost = directory.facts_lost.max(lost);
        directory.facts_max = directory.facts.len() * 2;
        state.weight = state.weight.saturating_sub(before - directory.weight());
    }

    /// Brings the memory below its bound, as far as scans under way and local facts allow.
    fn shrink(&self, state: &mut State) {
        if state.weight <= self.weight_max.max(state.look_at) {
            return;
        }
        let State { directories, weight, look_at, .. } = state;
        let (mut looked_through, mut emptied) = (0, Vec::new());
        for (dir, directory) in directories.iter_mut().rev() {
            if *weight <= self.weight_max {
                break;
            }
            while *weight > self.weight_max && !directory.segments.is_empty() {
                *weight = weight.saturating_sub(directory.drop_segment());
            }
            if *weight > self.weight_max {
                looked_through += 1 + directory.facts.len();
                *weight = weight.saturating_sub(directory.drop_facts());
            }
            if directory.is_empty() {
                *weight = weight.saturating_sub(DIRECTORY_BYTES + dir.as_bytes().len());
                emptied.push(dir.clone());
            }
        }
        *look_at = *weight + looked_through * BYTES_A_LOOK;
        emptied.iter().for_each(|dir| _ = directories.pop(dir));
    }

    /// The entries that a listing, fresh or not, has behind a position, at most `count`; or the directories among
    /// them alone.
    pub fn following(
        &self,
        dir: &Key,
        position: &[u8],
        count: usize,
        directories: bool,
    ) -> Vec<Placed> {
        let is_meant =
            |placed: &Placed| !directories || matches!(placed.listed, Listed::Directory(_));
        let state = self.state.lock();
        let Some(directory) = state.directories.peek(dir) else { return Vec::new() };
        let mut entries = Vec::with_capacity(count);
        let mut position = position.to_vec();
        while let Some(segment) = directory.segment_behind(&position) {
            let left = count - entries.len();
            entries.extend(segment.behind(dir, &position).filter(is_meant).take(left));
            match &segment.to {
                Some(to) if entries.len() < count => position.clone_from(to),
                _ => break,
            }
        }
        entries
    }
}

/// What a walk in another order needs.
impl Listings {
    /// All that is listed of a directory, fresh or not.
    pub(super) fn held(&self, dir: &Key) -> Vec<Held> {
        let state = self.state.lock();
        let Some(directory) = state.directories.peek(dir) else { return Vec::new() };
        directory.segments.iter().map(|(from, segment)| segment.held(from)).collect()
    }

    /// Where its pages begin.
    pub(super) fn page_starts(&self, dir: &Key) -> Vec<Vec<u8>> {
        let state = self.state.lock();
        let Some(directory) = state.directories.peek(dir) else { return Vec::new() };
        directory.segments.keys().cloned().collect()
    }

    /// Whether it had so few entries when it was last listed.
    pub(super) fn is_small(&self, dir: &Key, entries_max: usize) -> bool {
        let state = self.state.lock();
        let Some(directory) = state.directories.peek(dir) else { return false };
        let first = directory.segments.get(&[][..]);
        first.is_some_and(|page| page.to.is_none() && page.held(&[]).count() <= entries_max)
    }

    /// Whether its first page is known.
    pub(super) fn has_page(&self, dir: &Key) -> bool {
        self.page(dir, &[]).is_some()
    }

    /// What its first page, no older than the TTL, says of its own marker.
    pub(super) fn own_marker(&self, dir: &Key) -> Option<Option<Box<ListedObject>>> {
        let (now, state) = (self.clock.now(), self.state.lock());
        let page = state.directories.peek(dir)?.segments.get(&[][..])?;
        (page.confirmed && is_fresh(page.at, now, self.freshness.believed_for()))
            .then(|| page.marker.clone())?
    }

    /// When its first page was asked for.
    pub(super) fn listed_at(&self, dir: &Key) -> Option<Instant> {
        Some(self.state.lock().directories.peek(dir)?.segments.get(&[][..])?.at)
    }

    /// How many pages are known of it.
    pub(super) fn page_count(&self, dir: &Key) -> usize {
        self.state.lock().directories.peek(dir).map_or(0, |directory| directory.segments.len())
    }
}

/// What a scan needs.
impl Listings {
    pub(super) fn scan_begun(&self, dir: &Key) -> u64 {
        let mut state = self.state.lock();
        state.scans += 1;
        let (scan, begun) = (state.scans, state.facts);
        let State { directories, weight, .. } = &mut *state;
        entry(directories, dir, weight).scans.insert(scan, begun);
        scan
    }

    /// The scan needs no fact up to number `begun` any more.
    pub(super) fn scan_advanced(&self, dir: &Key, scan: u64, begun: u64) {
        if let Some(directory) = self.state.lock().directories.peek_mut(dir) {
            directory.scans.insert(scan, begun);
        }
    }

    pub(super) fn scan_ended(&self, dir: &Key, scan: u64) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let Some(directory) = state.directories.peek_mut(dir) else { return };
        directory.scans.remove(&scan);
        let before = directory.weight();
        let (ttl, may_be_stale) = (self.freshness.ttl(), self.freshness.may_be_suspended());
        directory.prune(dir, |at| is_fresh(at, now, ttl), may_be_stale);
        let freed = before - directory.weight();
        state.weight = state.weight.saturating_sub(freed);
        self.shrink(&mut state);
    }

    /// Whether facts were given up that a page of this number would have to be corrected by.
    pub(super) fn must_relist(&self, dir: &Key, begun: u64) -> bool {
        self.state.lock().directories.peek(dir).is_some_and(|dir| dir.facts_lost > begun)
    }

    /// A page behind position `from` has come. It is not kept where it may be of what had this prefix before.
    pub(super) fn insert_segment(&self, dir: &Key, from: &[u8], segment: Segment) {
        // Nor written down.
        if segment.begun < self.state.lock().moved {
            return;
        }
        if let Some(names) = self.names.get() {
            let placed: Vec<Placed> = segment.behind(dir, from).collect();
            names.page(dir, from, segment.to.as_deref(), &placed);
        }
        let mut state = self.state.lock();
        if segment.begun < state.moved {
            return;
        }
        let State { directories, weight, .. } = &mut *state;
        let directory = entry(directories, dir, weight);
        let before = directory.segments_weight();
        directory.insert_segment(from, segment);
        *weight = (*weight + directory.segments_weight()).saturating_sub(before);
        self.shrink(&mut state);
    }

    /// The page behind `from` is followed by one in order, or is the last: what is not in it does not
    /// exist.
    pub(super) fn confirm_segment(&self, dir: &Key, from: &[u8], begun: u64) {
        let mut state = self.state.lock();
        let Some(directory) = state.directories.peek_mut(dir) else { return };
        if let Some(segment) = directory.segments.get_mut(from).filter(|seg| seg.begun == begun) {
            segment.confirmed = true;
        }
    }

    /// The fresh page behind position `from`, and its `to`, `begun` and `at`.
    #[allow(clippy::type_complexity)] // One caller, which takes it apart at once.
    pub(super) fn page(
        &self,
        dir: &Key,
        from: &[u8],
    ) -> Option<(Vec<Placed>, Option<Vec<u8>>, u64, Instant)> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let segment = state.directories.get(dir)?.segments.get(from)?;
        if !segment.confirmed || !is_fresh(segment.at, now, self.freshness.believed_for()) {
            return None;
        }
        Some((segment.behind(dir, from).collect(), segment.to.clone(), segment.begun, segment.at))
    }

    /// What this mount knows of `name` that a page of number `begun` does not, and since when.
    pub(super) fn newer(&self, dir: &Key, name: &[u8], begun: u64) -> Option<(Known, Instant)> {
        let state = self.state.lock();
        let fact = state.directories.peek(dir)?.facts.get(&slashed(name))?;
        (fact.local || fact.number > begun).then(|| (fact.known.clone(), fact.at))
    }

    /// The names in `(from, to]`, in the order of `name/`, that this mount knows to exist and a page of
    /// number `begun` may not; nor a page before it, of number `before`, that an object of the name would
    /// be on.
    pub(super) fn created(
        &self,
        dir: &Key,
        from: &[u8],
        to: Option<&[u8]>,
        begun: u64,
        before: u64,
    ) -> Vec<(Vec<u8>, Listed)> {
        let state = self.state.lock();
        let Some(directory) = state.directories.peek(dir) else { return Vec::new() };
        if to.is_some_and(|to| to <= from) {
            return Vec::new();
        }
        let range = (Excluded(from), to.map_or(Unbounded, Included));
        let facts = directory.facts.range::<[u8], _>(range);
        let facts = facts.filter(|(position, fact)| {
            let on_page_before = &position[..position.len() - 1] <= from;
            let shown_to = if on_page_before { before.min(begun) } else { begun };
            fact.local || fact.number > shown_to
        });
        facts
            .filter_map(|(position, fact)| {
                let listed = match &fact.known {
                    Known::File(object) => Listed::File(object.clone()),
                    Known::Directory(marker) => Listed::Directory(*marker),
                    Known::Absent | Known::Unknown => return None,
                };
                Some((position[..position.len() - 1].to_vec(), listed))
            })
            .collect()
    }
}

fn entry<'a>(
    directories: &'a mut LruCache<Key, Directory>,
    dir: &Key,
    weight: &mut usize,
) -> &'a mut Directory {
    if !directories.contains(dir) {
        *weight += DIRECTORY_BYTES + dir.as_bytes().len();
    }
    directories.get_or_insert_mut(dir.clone(), Directory::default)
}

#[cfg(test)]
mod tests;
