//! One page of a directory, asked of the store and put in order.
//!
//! Consistency: a page shows every change that had ended before its request. Retries: the store's.
//! Cancellation: dropping the future drops its request. Crash: nothing is kept.

use super::listings::Listings;
use super::name::{self, Below};
use super::segment::{Listed, Marker, Placed, Segment};
use crate::clock::Instant;
use crate::store::{
    Continuation, ErrorKind, Key, ListPage, ListRequest, ListedObject, Result, SharedStore,
    StoreError,
};

/// A page as it was listed.
pub struct Raw {
    pub placed: Vec<Placed>,
    pub to: Option<Vec<u8>>,
    pub continuation: Option<Continuation>,
    pub begun: u64,
    pub at: Instant,
    pub hidden: u64,
    /// Its names came in the order of keys, behind where it was to begin.
    pub ordered: bool,
    pub from_store: bool,
    /// The directory's own marker, where it was on the page.
    pub marker: Option<ListedObject>,
}

impl Raw {
    /// As it is kept, where it was asked for from the position `from`.
    pub fn segment(&self, from: &[u8]) -> Segment {
        let mut segment = Segment::new(&self.placed, self.to.clone(), self.begun, self.at);
        segment.marker = from.is_empty().then(|| self.marker.clone().map(Box::new));
        segment
    }
}

/// Asks for the page behind `from` and keeps it, if it can be relied on.
pub async fn keep_page(
    store: &SharedStore,
    listings: &Listings,
    dir: &Key,
    from: &[u8],
) -> Result<()> {
    let raw = request(store, listings, dir, from, None).await?;
    if raw.ordered && listings.lists_in_order() {
        listings.insert_segment(dir, from, raw.segment(from));
        listings.confirm_segment(dir, from, raw.begun);
    }
    Ok(())
}

/// What is behind position `from`, by one LIST; by another where that had nothing but the directory's own
/// marker.
pub async fn request(
    store: &SharedStore,
    listings: &Listings,
    dir: &Key,
    from: &[u8],
    mut continuation: Option<Continuation>,
) -> Result<Raw> {
    let (begun, at) = listings.begin();
    let start_after = (!from.is_empty()).then(|| start_after(dir, from));
    loop {
        let continued = continuation.is_some();
        let request = ListRequest {
            prefix: dir.clone(),
            by_directory: true,
            start_after: start_after.clone().filter(|_| !continued),
            continuation,
            max_keys: None,
        };
        let mut page = store.list(&request).await?;
        let own = page.objects.iter().position(|object| object.key == *dir);
        let marker = own.filter(|_| !dir.as_bytes().is_empty()).map(|at| page.objects.remove(at));
        continuation = page.continuation.clone();
        let ordered = is_ordered(&page) && (continued || begins_behind(&page, dir, from));
        let (mut placed, hidden, last) = place(dir, page);
        if !continued {
            // A store may fold keys behind `from` into the very prefix that `from` is.
            placed.retain(|entry| entry.position.as_slice() > from);
        }
        let to = match (&continuation, last) {
            (None, _) => None,
            (Some(_), Some(last)) if !last.is_empty() && (continued || last.as_slice() > from) => {
                Some(last)
            }
            (Some(token), _) if request.continuation.as_ref() == Some(token) => {
                let message = "the listing does not go on";
                return Err(StoreError::new(ErrorKind::Corrupt, "ListObjectsV2", message));
            }
            (Some(_), _) => continue,
        };
        let from_store = true;
        return Ok(Raw {
            placed,
            to,
            continuation,
            begun,
            at,
            hidden,
            ordered,
            from_store,
            marker,
        });
    }
}

fn is_ordered(page: &ListPage) -> bool {
    page.objects.is_sorted_by(|a, b| a.key < b.key) && page.common_prefixes.is_sorted()
}

fn begins_behind(page: &ListPage, dir: &Key, from: &[u8]) -> bool {
    let start = dir.join(from);
    page.objects.first().is_none_or(|object| object.key > start)
}

/// The key behind which the position after `from` begins. A prefix is passed by with everything below
/// it: U+10FFFF is behind all characters.
fn start_after(dir: &Key, from: &[u8]) -> Key {
    let key = dir.join(from);
    let past = key.join("\u{10ffff}".as_bytes());
    let folded = from.ends_with(b"/") && past.as_bytes().len() <= name::KEY_BYTES_MAX;
    if folded { past } else { key }
}

/// A page's names in order of position, the count of keys that cannot be names, and the last position
/// of all, hidden or not.
fn place(dir: &Key, page: ListPage) -> (Vec<Placed>, u64, Option<Vec<u8>>) {
    let mut hidden = 0;
    let mut placed = Vec::with_capacity(page.objects.len() + page.common_prefixes.len());
    let mut last: Option<Vec<u8>> = None;
    let directories = page.common_prefixes.into_iter().map(|key| (key, None));
    let objects = page.objects.into_iter().map(|object| (object.key.clone(), Some(object)));
    for (key, object) in directories.chain(objects) {
        let below = name::below(dir, &key);
        if let Some(position) = key.as_bytes().strip_prefix(dir.as_bytes())
            && last.as_deref().is_none_or(|last| last < position)
        {
            last = Some(position.to_vec());
        }
        match (below, object) {
            (Below::Itself, _) => {}
            (Below::File(name), Some(object)) => {
                placed.push(Placed { position: name.to_vec(), listed: Listed::File(object) });
            }
            (Below::Directory(name), None) => {
                let position = [name, b"/"].concat();
                placed.push(Placed { position, listed: Listed::Directory(Marker::Unknown) });
            }
            // An object that ends in `/` is folded into its prefix by the store; a prefix always does.
            (Below::File(_) | Below::Directory(_) | Below::Hidden, _) => hidden += 1,
        }
    }
    placed.sort_by(|a, b| a.position.cmp(&b.position));
    (placed, hidden, last)
}
