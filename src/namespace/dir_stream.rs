//! One scan of one directory: names page by page from the listing, in bounded memory, with offsets that
//! a program can come back to.
//!
//! Order. Listings are in the order of keys, in which `a-` comes between the object `a` and the prefix
//! `a/`. A name is yielded at its place as `name/`, so an object is held back until a prefix of its
//! name can no longer come; a name that is both is yielded once, as the directory. What is held back at
//! a time are prefixes of each other, so it is short.
//!
//! Offsets. Entry number n (from 1) has offset n. For each page the place where it began and four bytes
//! of hash an entry are kept, so that an offset of a page that is gone can be found again by listing
//! the page again, even when names were added or removed meanwhile: names that were there keep their
//! offsets, new ones are left out. (What had been held back for such a page takes a HEAD.) Memory: one page, the one being fetched ahead, 4 bytes an entry
//! yielded and some 200 a page: 4.2 MB after 1,000,000 entries.
//!
//! Consistency: what this mount changed is corrected by [`Listings`]; what others change may or may not
//! be seen, as POSIX allows for names added or removed during a scan. A stretch that a fresh page of
//! another scan knows is not asked for again, except after a rewind, which asks anew.
//! Retries: the store's; after an error the same call can be made again.
//! Cancellation: a dropped call loses its answer, not the place. Crash: nothing is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::listings::{Known, Listings};
use super::name;
use super::page::{Raw, request};
use super::resolve::{any_key, listed};
use super::segment::{Listed, Marker};
use crate::clock::Instant;
use crate::store::{Continuation, ErrorKind, Key, Result, SharedStore, looking, present};

/// One name of a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct DirEntry {
    /// Give it to [`DirStream::seek`] to go on behind this entry.
    pub offset: u64,
    pub name: Vec<u8>,
    pub listed: Listed,
    /// When the store was asked for it.
    pub at: Instant,
}

/// A scan of a directory. One for each open handle; calls are one at a time.
pub struct DirStream {
    store: SharedStore,
    listings: Arc<Listings>,
    dir: Key,
    scan: u64,
    /// Every page so far, in order; the last may not have been listed yet.
    places: Vec<Place>,
    /// The page at hand and its index in `places`.
    page: Option<(usize, Page)>,
    /// Next entry of `page`.
    cursor: usize,
    /// The offset of the entry that was yielded last.
    offset: u64,
    ahead: Option<Ahead>,
    /// Keys that cannot be names, in the pages so far.
    hidden: u64,
    /// Every page so far came from the store, none from what was known.
    all_listed: bool,
    /// Every page so far began behind the end of the one before.
    ordered: bool,
    known_pages: bool,
    /// The number of the oldest page that was known before the scan: what was made since then it must show.
    oldest_known: u64,
}

/// Where a page begins.
struct Place {
    /// The last position of the page before.
    from: Vec<u8>,
    /// The offset of the last entry of the pages before.
    offset: u64,
    held: Vec<Entry>,
    /// Once it was listed.
    listed: Option<ListedPlace>,
}

struct ListedPlace {
    to: Option<Vec<u8>>,
    begun: u64,
    /// Of each entry that was yielded, in order.
    hashes: Box<[u32]>,
}

struct Page {
    entries: Vec<Entry>,
    /// The number that the oldest of the entries is of.
    begun: u64,
}

#[derive(Clone)]
struct Entry {
    /// Within the page's scan, from the place's offset.
    offset: u64,
    name: Vec<u8>,
    listed: Listed,
    /// The number of the page that had it, and when that was asked for.
    begun: u64,
    at: Instant,
}

/// A request for the page behind position `from`.
struct Ahead {
    from: Vec<u8>,
    answer: AbortOnDropHandle<Result<Raw>>,
}

impl DirStream {
    /// Nothing is asked before the first [`DirStream::next`].
    pub fn open(store: SharedStore, listings: Arc<Listings>, dir: Key) -> DirStream {
        let scan = listings.scan_begun(&dir);
        DirStream {
            store,
            listings,
            dir,
            scan,
            places: vec![Place::first()],
            page: None,
            cursor: 0,
            offset: 0,
            ahead: None,
            hidden: 0,
            all_listed: true,
            ordered: true,
            known_pages: true,
            oldest_known: u64::MAX,
        }
    }

    /// The directory's prefix.
    pub fn dir(&self) -> &Key {
        &self.dir
    }

    /// The offset of the entry that was yielded last; 0 at the start.
    #[cfg(test)]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes to the first entry, and asks the store anew if any was yielded.
    pub fn rewind(&mut self) {
        if self.offset == 0 {
            return;
        }
        let (store, listings) = (self.store.clone(), self.listings.clone());
        *self = DirStream::open(store, listings, self.dir.clone());
        self.known_pages = false;
    }

    /// Goes to just behind the entry of this offset; to the first one for 0.
    pub fn seek(&mut self, offset: u64) {
        if offset == self.offset {
            return;
        }
        self.offset = offset;
        if let Some((index, page)) = &self.page
            && self.place_of(offset) == *index
        {
            self.cursor = page.entries.partition_point(|entry| entry.offset <= offset);
        } else {
            self.page = None;
        }
    }

    /// The next entry; `None` at the end of the directory.
    pub async fn next(&mut self) -> Result<Option<DirEntry>> {
        loop {
            if !self.ready() {
                self.load().await?;
            }
            let Some((index, page)) = &self.page else { continue };
            let next = index + 1;
            let Some(entry) = page.entries.get(self.cursor) else {
                if self.places.len() == next {
                    return Ok(None);
                }
                self.turn_to(next).await?;
                continue;
            };
            self.cursor += 1;
            self.offset = entry.offset;
            let (listed, at) = match self.listings.newer(&self.dir, &entry.name, entry.begun) {
                Some((Known::Absent, _)) => continue,
                Some((Known::File(object), at)) => (Listed::File(object), at),
                Some((Known::Directory(marker), at)) => (Listed::Directory(marker), at),
                Some((Known::Unknown, _)) | None => (entry.listed.clone(), entry.at),
            };
            let (offset, name) = (entry.offset, entry.name.clone());
            return Ok(Some(DirEntry { offset, name, listed, at }));
        }
    }

    /// Whether the page at hand is there and may be believed.
    fn ready(&self) -> bool {
        let Some((_, page)) = &self.page else { return false };
        !self.listings.must_relist(&self.dir, page.begun)
    }

    /// The place whose page has the entry behind `offset`, or the entry itself where it is the last.
    fn place_of(&self, offset: u64) -> usize {
        self.places.partition_point(|place| place.offset <= offset).saturating_sub(1)
    }

    /// Gets the page of the current offset.
    async fn load(&mut self) -> Result<()> {
        self.turn_to(self.place_of(self.offset)).await
    }

    /// Makes the page of this place the one at hand, behind the current offset.
    async fn turn_to(&mut self, index: usize) -> Result<()> {
        let page = match &self.places[index].listed {
            None => self.list(index).await?,
            Some(_) => self.list_again(index).await?,
        };
        self.cursor = page.entries.partition_point(|entry| entry.offset <= self.offset);
        // What is held back for a page not listed yet is as old as the page that it was on.
        let unlisted = self.places.last().filter(|place| place.listed.is_none());
        let held = unlisted.map_or(&[][..], |place| &place.held);
        let needed = oldest(held).map_or(page.begun, |begun| begun.min(page.begun));
        let needed = needed.min(self.oldest_known);
        self.listings.scan_advanced(&self.dir, self.scan, needed);
        self.page = Some((index, page));
        Ok(())
    }

    /// What was held back for this place, as it is now.
    async fn held_now(&self, index: usize) -> Result<Vec<Entry>> {
        let mut held = Vec::new();
        for entry in &self.places[index].held {
            let (begun, at) = self.listings.begin();
            let key = self.dir.join(&entry.name);
            if let Some(head) = present(self.store.head(&key).await)? {
                let listed = Listed::File(listed(&key, &head));
                held.push(Entry { begun, at, listed, ..entry.clone() });
            }
        }
        Ok(held)
    }

    /// Lists a page for the first time.
    async fn list(&mut self, index: usize) -> Result<Page> {
        let raw = self.fetch(index).await?;
        if !raw.from_store {
            self.oldest_known = self.oldest_known.min(raw.begun);
        }
        let from = self.places[index].from.clone();
        let held = &self.places[index].held;
        let held = match oldest(held) {
            Some(begun) if self.listings.must_relist(&self.dir, begun) => {
                self.held_now(index).await?
            }
            _ => held.clone(),
        };
        let (mut entries, held) = self.merge(&from, &raw, held).await?;
        // Nothing waits from here on, so that a dropped call counts nothing twice.
        self.all_listed &= raw.from_store;
        self.hidden += raw.hidden;
        if raw.from_store {
            self.confirm(index, &raw);
        }
        let mut offset = self.places[index].offset;
        for entry in &mut entries {
            offset += 1;
            entry.offset = offset;
        }
        let hashes = entries.iter().map(|entry| hash(&entry.name)).collect();
        self.places[index].listed =
            Some(ListedPlace { to: raw.to.clone(), begun: raw.begun, hashes });
        match raw.to {
            Some(to) => {
                self.ask_ahead(&to, raw.continuation);
                self.places.push(Place { from: to, offset, held, listed: None });
            }
            None if self.all_listed => self.listings.hidden().set(&self.dir, self.hidden),
            None => {}
        }
        let begun = oldest(&entries).map_or(raw.begun, |begun| begun.min(raw.begun));
        Ok(Page { entries, begun })
    }

    /// Confirms the page before this one, and this one where it is the last.
    fn confirm(&mut self, index: usize, raw: &Raw) {
        let from = &self.places[index].from;
        if !is_behind(raw, from) {
            if self.ordered {
                log::warn!(
                    "the store lists {} out of order; its pages are not relied on",
                    self.dir
                );
            }
            self.ordered = false;
            self.listings.note_disorder();
        }
        if !self.ordered {
            return;
        }
        if let Some(before) = index.checked_sub(1) {
            let place = &self.places[before];
            if let Some(listed) = &place.listed {
                self.listings.confirm_segment(&self.dir, &place.from, listed.begun);
            }
        }
        if raw.to.is_none() {
            self.listings.confirm_segment(&self.dir, from, raw.begun);
        }
    }

    /// Lists a page again: what was there then and is there now, at the offsets of then.
    async fn list_again(&mut self, index: usize) -> Result<Page> {
        // What was held back then may be gone since, and nothing here would know.
        let mut held = self.held_now(index).await?;
        let place = &self.places[index];
        let mut from = place.from.clone();
        let mut offset = place.offset;
        let Some(listed) = &place.listed else { return self.list(index).await };
        let (end, hashes) = (listed.to.clone(), listed.hashes.to_vec());
        let mut found: Vec<Entry> = Vec::new();
        // Requests only get younger.
        let (begun, _) = self.listings.begin();
        let begun = oldest(&held).map_or(begun, |held| held.min(begun));
        loop {
            let mut raw = request(&self.store, &self.listings, &self.dir, &from, None).await?;
            if let Some(end) = &end
                && raw.to.as_ref().is_none_or(|to| to > end)
            {
                // The page ended there then, so what is behind belongs to the next.
                raw.placed.retain(|placed| placed.position <= *end);
                raw.to = Some(end.clone());
            }
            let (entries, still_held) = self.merge(&from, &raw, held).await?;
            found.extend(entries);
            held = still_held;
            match raw.to {
                Some(to) if end.as_ref().is_none_or(|end| to < *end) => from = to,
                _ => break,
            }
        }
        let mut found: VecDeque<Entry> = found.into();
        let mut entries = Vec::with_capacity(hashes.len());
        for wanted in &hashes {
            offset += 1;
            // Skips what is new; where the name is gone, nothing is skipped for it.
            if let Some(at) = found.iter().position(|entry| hash(&entry.name) == *wanted) {
                found.drain(..at);
                if let Some(mut entry) = found.pop_front() {
                    entry.offset = offset;
                    entries.push(entry);
                }
            }
        }
        Ok(Page { entries, begun })
    }

    /// The entries of a page in the order of `name/`, with what this mount created, and the objects to
    /// hold back for the next.
    async fn merge(
        &self,
        from: &[u8],
        raw: &Raw,
        held: Vec<Entry>,
    ) -> Result<(Vec<Entry>, Vec<Entry>)> {
        let mut entries = held;
        for placed in &raw.placed {
            let position = &placed.position;
            let bare = position.strip_suffix(b"/").unwrap_or(position);
            let mut entry = Entry {
                offset: 0,
                name: bare.to_vec(),
                listed: placed.listed.clone(),
                begun: raw.begun,
                at: raw.at,
            };
            if let (Listed::File(_), Some(stem)) = (&placed.listed, name::folder_marker(bare)) {
                self.listings.note_folder_marker();
                if self.is_shown_otherwise(raw, stem).await? {
                    continue;
                }
                entry.name = stem.to_vec();
                entry.listed = Listed::Directory(Marker::Folder);
            }
            entries.push(entry);
        }
        let (to, before) = (raw.to.as_deref(), self.oldest_known);
        for (name, listed) in self.listings.created(&self.dir, from, to, raw.begun, before) {
            entries.push(Entry { offset: 0, name, listed, begun: raw.begun, at: raw.at });
        }
        // Directories first, so that of several entries of a name the directory stays.
        let place = |entry: &Entry| {
            let order = u8::from(!matches!(entry.listed, Listed::Directory(_)));
            ([entry.name.as_slice(), b"/"].concat(), order)
        };
        entries.sort_by_cached_key(place);
        entries.dedup_by(|later, first| later.name == first.name);
        let held = match &raw.to {
            None => Vec::new(),
            Some(to) => {
                let is_held = |entry: &Entry| {
                    matches!(entry.listed, Listed::File(_))
                        && [entry.name.as_slice(), b"/"].concat() > *to
                };
                let held = entries.iter().filter(|entry| is_held(entry)).cloned().collect();
                entries.retain(|entry| !is_held(entry));
                held
            }
        };
        Ok((entries, held))
    }

    /// Whether the scan yields `stem` for another key than Hadoop's marker.
    async fn is_shown_otherwise(&self, raw: &Raw, stem: &[u8]) -> Result<bool> {
        let slashed = [stem, b"/"].concat();
        let here = |position: &[u8]| {
            raw.placed.binary_search_by(|placed| placed.position.as_slice().cmp(position)).is_ok()
        };
        if here(stem) || here(&slashed) {
            return Ok(true);
        }
        let first = raw.placed.first().map(|placed| placed.position.as_slice());
        if raw.from_store && first.is_some_and(|first| first < stem) {
            return Ok(false);
        }
        // It would have been on a page before, which is gone: such markers are rare enough to ask.
        let key = self.dir.join(stem);
        let object = async { present(self.store.head(&key).await) };
        let below = self.dir.join(&slashed);
        let below = any_key(self.store.as_ref(), &below);
        let (object, below) = futures_util::future::try_join(object, below).await?;
        Ok(object.is_some() || below)
    }

    /// The page of a place: known, asked for ahead, or asked for now.
    async fn fetch(&mut self, index: usize) -> Result<Raw> {
        let from = self.places[index].from.clone();
        if (self.known_pages || self.listings.freshness().is_suspended())
            && self.ahead.is_none()
            && let Some((placed, to, begun, at)) = self.listings.page(&self.dir, &from)
        {
            let (continuation, hidden, ordered, from_store) = (None, 0, true, false);
            let marker = None;
            let raw =
                Raw { placed, to, continuation, begun, at, hidden, ordered, from_store, marker };
            return Ok(raw);
        }
        if let Some(mut ahead) = self.ahead.take().filter(|ahead| ahead.from == from) {
            // Dropped in mid-wait, the answer is lost and the place is asked for again.
            match (&mut ahead.answer).await {
                Ok(Ok(raw)) => return Ok(raw),
                // An expired continuation token, for instance: the position itself never expires.
                Ok(Err(error)) if error.kind != ErrorKind::Invalid => return Err(error),
                Ok(Err(_)) => {}
                Err(join) => log::error!("listing {} ahead: {join}", self.dir),
            }
        }
        request_shown(&self.store, &self.listings, &self.dir, &from, None, self.ordered).await
    }

    /// Asks for the page behind `from` before it is needed.
    fn ask_ahead(&mut self, from: &[u8], continuation: Option<Continuation>) {
        let Some(token) = continuation else {
            self.ahead = None;
            return;
        };
        let (store, listings) = (self.store.clone(), self.listings.clone());
        let (dir, position, ordered) = (self.dir.clone(), from.to_vec(), self.ordered);
        let asking = async move {
            request_shown(&store, &listings, &dir, &position, Some(token), ordered).await
        };
        let answer = tokio::spawn(looking(asking));
        self.ahead = Some(Ahead { from: from.to_vec(), answer: AbortOnDropHandle::new(answer) });
    }
}

impl Drop for DirStream {
    fn drop(&mut self) {
        self.listings.scan_ended(&self.dir, self.scan);
    }
}

impl Place {
    fn first() -> Place {
        Place { from: Vec::new(), offset: 0, held: Vec::new(), listed: None }
    }
}

/// A page from the store, handed to the shared listings as soon as it is there, so that what looks ahead sees
/// beyond the page at hand; unless the scan is `ordered` no more. What is not in it is not known to be absent
/// before it is confirmed.
async fn request_shown(
    store: &SharedStore,
    listings: &Listings,
    dir: &Key,
    from: &[u8],
    continuation: Option<Continuation>,
    ordered: bool,
) -> Result<Raw> {
    let raw = request(store, listings, dir, from, continuation).await?;
    if ordered && is_behind(&raw, from) {
        listings.insert_segment(dir, from, raw.segment(from));
    }
    Ok(raw)
}

/// Whether the page is where it should be: behind the position that it was asked for.
fn is_behind(raw: &Raw, from: &[u8]) -> bool {
    from.is_empty() || raw.placed.first().is_none_or(|first| first.position.as_slice() > from)
}

fn oldest(entries: &[Entry]) -> Option<u64> {
    entries.iter().map(|entry| entry.begun).min()
}

/// 32 bits of FNV-1a: enough to tell the names of one page apart.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests;
