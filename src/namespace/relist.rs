//! When names of one directory are asked for one after the other and nothing is known of them (a tree that
//! is copied in, a listing that expired under a slow reader), one page of the listing answers for the next
//! thousand names, at the price of a request for one.
//!
//! Whether it pays is seen, not assumed: after each page, the names that it answered for are counted.
//! Where they were few (names asked at random in a huge directory, one file looked at now and then), twice
//! as many misses as before must come until the next page is listed.
//!
//! Consistency: a page is as true as any other listing. Retries: the store's. Cancellation: a dropped call
//! loses its page. Crash: nothing is kept.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use lru::LruCache;

use super::listings::{Known, Listings};
use super::numbers::{Rising, number_of};
use super::page;
use crate::clock::Instant;
use crate::lock::{Mutex, rank};
use crate::store::{ErrorKind, Key, Result, SharedStore};
use crate::without::Heuristic;

/// Misses in a directory before the first page of it is listed.
const MISSES_FIRST: u32 = 2;
/// A directory that had so few entries when it was last listed is listed at the first miss: a page of so many is
/// cheaper than the three requests that tell what one name is.
const SMALL_MAX: usize = 100;
/// Misses that lie further apart have nothing to do with each other.
const TOGETHER: Duration = Duration::from_secs(10);
/// Names that a page must have answered for, on average, to be worth it.
const HITS_MIN: u32 = 4;
/// Misses before the next page where pages have not been worth it, at most.
const NEEDED_MAX: u32 = 256;
/// Misses in a row whose numbers rise, as those of one caller in six at random do.
const RISES_SEEN: u32 = 3;
/// So many before all pages are listed, or a quarter of the pages if that is more.
const RISES_MIN: u32 = 8;
/// Pages that are listed side by side.
const PAGES_AT_ONCE: usize = 8;
/// Directories that are watched, some 200 bytes each.
const WATCHED_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

/// How a directory is asked about.
struct Watch {
    last: Instant,
    misses: u32,
    needed: u32,
    /// Since the last page.
    hits: u32,
    /// Pages listed since the last miss.
    listed: u32,
    /// The numbers of the names that were missed.
    rising: Rising,
    /// More names than fit on a page: pages begin at the name that is missed.
    large: bool,
    /// Held while a page is under way, so that callers that miss together list once.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What to list.
enum Way {
    /// The first page, which is the only one of most directories.
    First,
    /// The page that the name is on.
    Here,
    All,
}

pub struct Relist {
    store: SharedStore,
    listings: Arc<Listings>,
    watched: Mutex<LruCache<Key, Watch>, rank::Relisted>,
}

impl Relist {
    pub fn new(store: SharedStore, listings: Arc<Listings>) -> Relist {
        Relist { store, listings, watched: Mutex::new(LruCache::new(WATCHED_MAX)) }
    }

    /// What was listed knew a name.
    pub fn hit(&self, dir: &Key) {
        if let Some(watch) = self.watched.lock().peek_mut(dir) {
            watch.hits = watch.hits.saturating_add(1);
        }
    }

    /// Nothing is known of `name`, in the directory of number `parent`: lists, if that is likely to pay. The
    /// listing may know it then.
    pub async fn missed(&self, parent: u64, dir: &Key, name: &[u8]) -> Result<()> {
        // What is never believed answers for nothing.
        if self.listings.ttl().is_zero() || !Heuristic::PageForMisses.is_on() {
            return Ok(());
        }
        let (way, turn) = self.note(dir, number_of(parent, name));
        if way.is_none() && turn.try_lock().is_ok() {
            return Ok(());
        }
        // Also a caller that would not list: the page that is under way may have the name.
        let _turn = turn.lock().await;
        let Some(way) = way else { return Ok(()) };
        if self.listings.lookup(dir, name) != Known::Unknown {
            return Ok(());
        }
        match way {
            Way::All => self.list_all(dir).await?,
            Way::First => self.list(dir, &[]).await?,
            Way::Here => {}
        }
        if self.listings.lookup(dir, name) != Known::Unknown {
            return Ok(());
        }
        if let Some(watch) = self.watched.lock().peek_mut(dir) {
            watch.large = true;
        }
        self.list(dir, &before(name)).await
    }

    /// Counts a miss; what to list now, if anything.
    fn note(&self, dir: &Key, number: u64) -> (Option<Way>, Arc<tokio::sync::Mutex<()>>) {
        let now = self.listings.clock().now();
        let pages = self.listings.page_count(dir) as u32;
        let small = self.listings.is_small(dir, SMALL_MAX);
        let mut watched = self.watched.lock();
        let watch = watched.get_or_insert_mut(dir.clone(), || Watch::new(now));
        let way = watch.miss(now, number, pages);
        let way = if small { Some(Way::First) } else { way };
        (way, watch.turn.clone())
    }

    /// Lists all pages that are known of.
    async fn list_all(&self, dir: &Key) -> Result<()> {
        let starts = self.listings.page_starts(dir);
        let pages = starts.into_iter().map(|from| async move { self.list(dir, &from).await });
        stream::iter(pages).buffer_unordered(PAGES_AT_ONCE).try_collect().await
    }

    async fn list(&self, dir: &Key, from: &[u8]) -> Result<()> {
        match page::keep_page(&self.store, &self.listings, dir, from).await {
            // A store that cannot begin in mid-directory: names are asked for one by one.
            Err(error) if error.kind == ErrorKind::Invalid => Ok(()),
            other => other,
        }
    }
}

impl Watch {
    fn new(now: Instant) -> Watch {
        Watch {
            last: now,
            misses: 0,
            needed: MISSES_FIRST,
            hits: 0,
            listed: 0,
            rising: Rising::default(),
            large: false,
            turn: Arc::default(),
        }
    }

    fn miss(&mut self, now: Instant, number: u64, pages: u32) -> Option<Way> {
        if now.saturating_duration_since(self.last) > TOGETHER {
            *self = Watch::new(now);
        }
        self.last = now;
        self.rising.note(number);
        if self.listed > 0 {
            let worth = self.hits >= HITS_MIN * self.listed;
            self.needed = if worth { 1 } else { (self.needed * 2).clamp(2, NEEDED_MAX) };
            (self.listed, self.misses) = (0, 0);
        }
        self.misses += 1;
        // The next name may be on any page then.
        let anywhere = pages > 1 && self.rising.count >= RISES_SEEN;
        if self.misses < self.needed || (anywhere && self.rising.count < RISES_MIN.max(pages / 4)) {
            return None;
        }
        (self.listed, self.hits) = (if anywhere { pages } else { 1 }, 0);
        Some(match self.large {
            _ if anywhere => Way::All,
            true => Way::Here,
            false => Way::First,
        })
    }
}

/// A position before `name` with hardly a name in between: what all of them begin with, and the character
/// before its last.
fn before(name: &[u8]) -> Vec<u8> {
    let Some((last, stem)) = name.split_last() else { return Vec::new() };
    let mut position = stem.to_vec();
    if last.is_ascii_graphic() && *last > b'!' {
        position.push(last - 1);
        position.extend_from_slice("\u{10ffff}".as_bytes());
        if position.len() <= super::name::NAME_BYTES_MAX {
            return position;
        }
        return stem.to_vec();
    }
    // The rest of a character of several bytes is none.
    while std::str::from_utf8(&position).is_err_and(|error| error.error_len().is_none()) {
        position.pop();
    }
    position
}

#[cfg(test)]
mod tests;
