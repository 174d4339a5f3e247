//! One listed page in little memory: what a run of positions of a directory holds.
//!
//! A **position** is a key without the directory's prefix: `name` for an object, `name/` for a common
//! prefix. Listings are in bytewise order of positions, which is why `a-` comes between `a` and `a/`.

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::name::FOLDER_SUFFIX;
use crate::clock::Instant;
use crate::store::{CompactTag, ETag, Key, ListedObject};

/// How a directory says in the bucket that it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A listing shows only that there are keys `dir/…`.
    Unknown,
    /// It is implicit: there are keys below it and no marker.
    None,
    /// The object `dir/`.
    Slash,
    /// The object `dir_$folder$`.
    Folder,
    /// The object `dir` itself, of a directory's type (old s3fs).
    Plain,
}

impl Marker {
    /// The key of the marker of the directory with this prefix, where there is one.
    pub fn key(self, prefix: &Key) -> Option<Key> {
        let stem = prefix.as_bytes().strip_suffix(b"/").unwrap_or(prefix.as_bytes());
        match self {
            Marker::Unknown | Marker::None => None,
            Marker::Slash => Some(prefix.clone()),
            Marker::Folder if stem.ends_with(FOLDER_SUFFIX) => None,
            Marker::Folder => Some(Key::new([stem, FOLDER_SUFFIX].concat())),
            Marker::Plain => Some(Key::new(stem)),
        }
    }
}

/// What a name is, as listings tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Listed {
    File(ListedObject),
    Directory(Marker),
}

/// One entry of a page, at its position.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    pub position: Vec<u8>,
    pub listed: Listed,
}

/// A page of a listing: exactly what the store held in `(from, to]` when it was asked.
///
/// Invariants:
/// 1. the rows are sorted by position, and each position is within `(from, to]` of when it was listed;
/// 2. unless `confirmed`, other entries may exist in between (only seen with a store that lists out of
///    order), so it proves that a name exists, and never that it does not.
pub struct Segment {
    /// The last position; `None` where the listing ended.
    pub to: Option<Vec<u8>>,
    /// The count of local changes when the request was sent.
    pub begun: u64,
    /// When the request was sent.
    pub at: Instant,
    pub confirmed: bool,
    /// Of the first page: the directory's own marker, if it was there; `None` where that is not told.
    pub marker: Option<Option<Box<ListedObject>>>,
    rows: Arc<Rows>,
}

/// The entries of a page, shared with the walks of it in another order.
struct Rows {
    /// Positions and ETags, one behind the other.
    text: Box<[u8]>,
    entries: Box<[Compact]>,
    classes: Box<[String]>,
}

/// What a page holds, whatever becomes of the page.
pub struct Held {
    /// As the page's.
    pub begun: u64,
    rows: Arc<Rows>,
    within: Range<usize>,
}

/// 24 bytes beside its position and ETag. A directory has no ETag.
struct Compact {
    start: u32,
    position_bytes: u16,
    etag_bytes: u8,
    /// From 1 into `classes`; 0 is none.
    class: u8,
    len: u64,
    /// Nanoseconds since 1970.
    modified: i64,
}

/// In place of an ETag's length: there is none.
const DIRECTORY: u8 = u8::MAX;
/// Likewise: it is kept as the 16 bytes of the sum that it writes ([`CompactTag::lower_sum`]).
const SUM: u8 = u8::MAX - 1;
const SUM_BYTES: usize = 16;

impl Segment {
    pub fn new(placed: &[Placed], to: Option<Vec<u8>>, begun: u64, at: Instant) -> Segment {
        let mut text = Vec::new();
        let mut classes: Vec<String> = Vec::new();
        let mut entries = Vec::with_capacity(placed.len());
        for entry in placed {
            let start = text.len() as u32;
            text.extend_from_slice(&entry.position);
            let mut compact = Compact {
                start,
                position_bytes: entry.position.len() as u16,
                etag_bytes: DIRECTORY,
                class: 0,
                len: 0,
                modified: 0,
            };
            if let Listed::File(object) = &entry.listed {
                if let Some(sum) = CompactTag::new(&object.etag).lower_sum() {
                    text.extend_from_slice(sum);
                    compact.etag_bytes = SUM;
                } else {
                    // No store has longer ones; a cut one fails its first If-Match and is asked for again.
                    let etag = object.etag.as_str().as_bytes();
                    let etag = &etag[..etag.len().min(usize::from(SUM) - 1)];
                    text.extend_from_slice(etag);
                    compact.etag_bytes = etag.len() as u8;
                }
                compact.len = object.len;
                compact.modified = to_nanos(object.last_modified);
                compact.class = class_index(&mut classes, object.storage_class.as_deref());
            }
            entries.push(compact);
        }
        let (text, entries) = (text.into_boxed_slice(), entries.into_boxed_slice());
        let rows = Arc::new(Rows { text, entries, classes: classes.into_boxed_slice() });
        Segment { to, begun, at, confirmed: false, marker: None, rows }
    }

    pub fn begun(&self) -> (u64, Instant) {
        (self.begun, self.at)
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        let Rows { text, entries, .. } = &*self.rows;
        let to = self.to.as_ref().map_or(0, Vec::len);
        size_of::<Segment>() + to + text.len() + entries.len() * size_of::<Compact>()
    }

    /// What is at exactly this position.
    pub fn get(&self, dir: &Key, position: &[u8]) -> Option<Listed> {
        let rows = &self.rows;
        let index =
            rows.entries.binary_search_by(|entry| rows.position(entry).cmp(position)).ok()?;
        Some(rows.listed(dir, &rows.entries[index]))
    }

    /// The entries behind `position`, in order.
    pub fn behind<'a>(
        &'a self,
        dir: &'a Key,
        position: &[u8],
    ) -> impl Iterator<Item = Placed> + 'a {
        self.rows.entries[self.within(position)].iter().map(|entry| self.rows.placed(dir, entry))
    }

    /// The same, to be kept.
    pub fn held(&self, from: &[u8]) -> Held {
        Held { begun: self.begun, rows: self.rows.clone(), within: self.within(from) }
    }

    fn within(&self, from: &[u8]) -> Range<usize> {
        let behind = |position: &[u8]| {
            self.rows.entries.partition_point(|entry| self.rows.position(entry) <= position)
        };
        let end = self.to.as_deref().map_or(self.rows.entries.len(), behind);
        behind(from).min(end)..end
    }
}

impl Held {
    pub fn count(&self) -> usize {
        self.within.len()
    }

    /// The position of the entry of this index.
    pub fn position(&self, index: usize) -> &[u8] {
        self.rows.position(&self.rows.entries[self.within.start + index])
    }

    pub fn placed(&self, dir: &Key, index: usize) -> Placed {
        self.rows.placed(dir, &self.rows.entries[self.within.start + index])
    }
}

impl Rows {
    fn position(&self, entry: &Compact) -> &[u8] {
        let start = entry.start as usize;
        &self.text[start..start + usize::from(entry.position_bytes)]
    }

    fn placed(&self, dir: &Key, entry: &Compact) -> Placed {
        Placed { position: self.position(entry).to_vec(), listed: self.listed(dir, entry) }
    }

    fn listed(&self, dir: &Key, entry: &Compact) -> Listed {
        if entry.etag_bytes == DIRECTORY {
            return Listed::Directory(Marker::Unknown);
        }
        let start = entry.start as usize + usize::from(entry.position_bytes);
        let etag = if entry.etag_bytes == SUM {
            let mut sum = [0; SUM_BYTES];
            sum.copy_from_slice(&self.text[start..start + SUM_BYTES]);
            CompactTag::of_lower_sum(sum).etag()
        } else {
            let etag = &self.text[start..start + usize::from(entry.etag_bytes)];
            ETag::new(&String::from_utf8_lossy(etag))
        };
        let class = usize::from(entry.class).checked_sub(1);
        Listed::File(ListedObject {
            key: dir.join(self.position(entry)),
            etag,
            len: entry.len,
            last_modified: from_nanos(entry.modified),
            storage_class: class.and_then(|index| self.classes.get(index).cloned()),
        })
    }
}

/// From 1; 0 is none, and stands as well for what is beyond the 254 classes that a page can name.
fn class_index(classes: &mut Vec<String>, class: Option<&str>) -> u8 {
    let Some(class) = class else { return 0 };
    let known = classes.iter().position(|known| known == class);
    let index = known.unwrap_or_else(|| {
        if classes.len() < 254 {
            classes.push(class.to_owned());
        }
        classes.len() - 1
    });
    if classes[index] == class { index as u8 + 1 } else { 0 }
}

/// Nanoseconds since 1970, negative before; saturates 292 years away.
pub fn to_nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

pub fn from_nanos(nanos: i64) -> SystemTime {
    let distance = std::time::Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_comes_back_as_it_was_listed() {
        let long = "x".repeat(253);
        let etags = [
            "0123456789abcdef0123456789abcdef",
            "0123456789ABCDEF0123456789ABCDEF",
            "0123456789abcdef0123456789abcdef-17",
            "",
            &long,
        ];
        let dir = Key::from("d/");
        let placed: Vec<Placed> = etags
            .iter()
            .enumerate()
            .map(|(number, etag)| {
                let position = number.to_string().into_bytes();
                let object = ListedObject {
                    key: dir.join(&position),
                    etag: ETag::new(etag),
                    len: number as u64,
                    last_modified: UNIX_EPOCH,
                    storage_class: (number % 2 == 1).then(|| "GLACIER".to_owned()),
                };
                Placed { position, listed: Listed::File(object) }
            })
            .collect();
        let segment = Segment::new(&placed, None, 0, Instant::now());
        let kept: Vec<Placed> = segment.behind(&dir, b"").collect();
        assert_eq!(kept, placed);
        for (entry, etag) in kept.iter().zip(etags) {
            let Listed::File(object) = &entry.listed else { panic!("a file") };
            assert_eq!(object.etag.as_str(), etag, "letter by letter");
        }
    }
}
