//! Names once seen, kept across remounts in a file beside the journal, for mounts that ask no store
//! (`--offline`). Nothing else reads it: a mount with a store believes the store.
//!
//! The file says what [`super::listings`] heard, in the order in which it was heard: pages, single names, moves.
//! What was said just so before is not written again, so that a directory that is listed again and again costs
//! its first listing. A file beyond [`FILE_BYTES_MAX`] becomes `names.old`, in the place of the one before: what
//! was seen longest ago is forgotten first.
//!
//! Consistency: a picture of the past, never used to answer for the present. An answer that was under way while
//! a name changed may be written behind the change; the next page puts it right. Retries: none; after an error
//! nothing more is written. Cancellation: nothing waits. Crash: what was written is there, and a torn tail is cut.
//! Slow file: what is said gets its place in the file under the lock and is written after it, by one caller for all; the
//! others are answered meanwhile.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::directory::Known;
use super::segment::{Listed, Placed, from_nanos, to_nanos};
use crate::disk;
use crate::journal::log::Log;
use crate::journal::{Identity, JournalError};
use crate::lock::{Mutex, rank};
use crate::random::Hashing;
use crate::store::{ETag, Key, ListedObject};

/// The files in a mount's cache folder.
const FILE_NAME: &str = "names";
const OLD_FILE_NAME: &str = "names.old";
/// Some 300,000 names, read in a tenth of a second.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Pages and names of which it is known that they were said: some 50 bytes each.
const SAID_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// What the file is made of. Positions are those of [`super::segment`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Record {
    /// All that is in the directory in `(from, to]`.
    Page { dir: Key, from: Vec<u8>, to: Option<Vec<u8>>, entries: Vec<(Vec<u8>, Seen)> },
    /// What a name is; `None`: nothing.
    Name { dir: Key, name: Vec<u8>, seen: Option<Seen> },
    /// A directory has another prefix.
    Moved { from: Key, to: Key },
}

/// What has a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Seen {
    Directory,
    /// `modified` in nanoseconds since 1970. Without an ETag: which version it is was not seen.
    File {
        etag: Option<ETag>,
        len: u64,
        modified: i64,
    },
}

impl Seen {
    pub fn of(object: &ListedObject) -> Seen {
        let modified = to_nanos(object.last_modified);
        Seen::File { etag: Some(object.etag.clone()), len: object.len, modified }
    }

    pub fn modified(nanos: i64) -> SystemTime {
        from_nanos(nanos)
    }
}

/// Writes down what is heard of names.
pub struct Names {
    folder: PathBuf,
    identity: Vec<u8>,
    hasher: Hashing,
    file_bytes_max: u64,
    heard: Mutex<Heard, rank::Names>,
    /// Held while another file is begun. It is not waited for.
    beginning: Mutex<(), rank::NamesBegun>,
}

struct Heard {
    /// None after an error.
    log: Option<Arc<Log<Record>>>,
    /// By what was spoken of, a digest of what was said of it last.
    said: LruCache<u64, u64>,
    /// Pages written, which may have said otherwise of any name.
    pages: u64,
}

impl Names {
    /// In a mount's cache folder, which must be locked by the caller. Another version's file is begun anew: it is
    /// worth no refusal. Blocks.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(folder: &Path, identity: &Identity) -> Result<Names, JournalError> {
        let (path, identity) = (folder.join(FILE_NAME), identity.to_bytes());
        let mut opened = Log::open(&path, &identity, |_: Record| {});
        if let Err(JournalError::OtherVersion { .. }) = opened {
            let failed = |source| JournalError::Io { action: "remove", path: path.clone(), source };
            disk::remove_file(&path).map_err(failed)?;
            opened = Log::open(&path, &identity, |_: Record| {});
        }
        let (log, _) = opened?;
        let log = Some(Arc::new(log));
        let heard = Heard { log, said: LruCache::new(SAID_MAX), pages: 0 };
        let hasher = Hashing::new();
        Ok(Names {
            folder: folder.to_owned(),
            identity,
            hasher,
            file_bytes_max: FILE_BYTES_MAX,
            heard: Mutex::new(heard),
            beginning: Mutex::new(()),
        })
    }

    pub(super) fn page(&self, dir: &Key, from: &[u8], to: Option<&[u8]>, placed: &[Placed]) {
        let seen = |placed: &Placed| match &placed.listed {
            Listed::File(object) => Seen::of(object),
            Listed::Directory(_) => Seen::Directory,
        };
        let entries: Vec<_> =
            placed.iter().map(|placed| (placed.position.clone(), seen(placed))).collect();
        let about = self.hasher.hash_one((dir, from));
        let what = self.hasher.hash_one((to, &entries));
        let (dir, from, to) = (dir.clone(), from.to_vec(), to.map(<[u8]>::to_vec));
        self.note(|heard| {
            if heard.said.put(about, what) == Some(what) {
                return None;
            }
            heard.pages += 1;
            Some(Record::Page { dir, from, to, entries })
        });
    }

    pub(super) fn name(&self, dir: &Key, name: &[u8], known: &Known) {
        let seen = match known {
            Known::Unknown => return,
            Known::Absent => None,
            Known::Directory(_) => Some(Seen::Directory),
            Known::File(object) => Some(Seen::of(object)),
        };
        let about = self.hasher.hash_one((dir, name, "name"));
        self.note(|heard| {
            let what = self.hasher.hash_one((&seen, heard.pages));
            let is_new = heard.said.put(about, what) != Some(what);
            is_new.then(|| Record::Name { dir: dir.clone(), name: name.to_vec(), seen })
        });
    }

    pub(super) fn moved(&self, from: &Key, to: &Key) {
        self.note(|heard| {
            // Whatever was said of either is no longer so.
            heard.said.clear();
            Some(Record::Moved { from: from.clone(), to: to.clone() })
        });
    }

    /// Notes what `say` has to say, if anything. It gets its place in the file under the lock, and is written without.
    fn note(&self, say: impl FnOnce(&mut Heard) -> Option<Record>) {
        let (log, placed) = {
            let mut heard = self.heard.lock();
            let Some(record) = say(&mut heard) else { return };
            let Some(log) = heard.log.clone() else { return };
            let placed = log.enqueue(&[record]);
            (log, placed)
        };
        let written = placed.and_then(|_| log.write_unless_busy()).and_then(|()| {
            if log.bytes() > self.file_bytes_max { self.begin_another(&log) } else { Ok(()) }
        });
        if let Err(error) = written
            && self.heard.lock().log.take_if(|used| Arc::ptr_eq(used, &log)).is_some()
        {
            log::warn!("names are not remembered for --offline any more: {error}");
        }
    }

    /// Begins another file in the place of `full`.
    fn begin_another(&self, full: &Arc<Log<Record>>) -> std::io::Result<()> {
        let Some(_beginning) = self.beginning.try_lock() else { return Ok(()) };
        if !self.heard.lock().log.as_ref().is_some_and(|used| Arc::ptr_eq(used, full)) {
            return Ok(());
        }
        let path = self.folder.join(FILE_NAME);
        disk::rename(&path, self.folder.join(OLD_FILE_NAME))?;
        let (log, _) =
            Log::open(&path, &self.identity, |_: Record| {}).map_err(std::io::Error::other)?;
        {
            let mut heard = self.heard.lock();
            heard.said.clear();
            heard.log = Some(Arc::new(log));
        }
        // What was noted meanwhile is in the old file, which is read before the new one.
        full.write_unless_busy()
    }
}

/// What is in a bucket, as far as it was seen: by key, directories by their prefix.
pub type Picture = BTreeMap<Key, Seen>;

/// Goes over `picture`, which holds what is known otherwise, with all that was heard of names. A file that cannot
/// be read has nothing to say. Blocks.
pub fn replay(folder: &Path, identity: &Identity, picture: &mut Picture) {
    for name in [OLD_FILE_NAME, FILE_NAME] {
        let path = folder.join(name);
        if !disk::is_file(&path) {
            continue;
        }
        let read = Log::open(&path, &identity.to_bytes(), |record| apply(picture, record));
        if let Err(error) = read {
            log::warn!("names that were seen are not shown: {error}");
        }
    }
}

fn apply(picture: &mut Picture, record: Record) {
    match record {
        Record::Page { dir, from, to, entries } => {
            let gone: Vec<Key> = shown_between(picture, &dir, &from, to.as_deref())
                .filter(|(_, position)| {
                    entries.binary_search_by(|(entry, _)| entry.as_slice().cmp(position)).is_err()
                })
                .map(|(key, _)| key.clone())
                .collect();
            gone.iter().for_each(|key| _ = picture.remove(key));
            picture.extend(entries.into_iter().map(|(position, seen)| (dir.join(&position), seen)));
        }
        Record::Name { dir, name, seen } => {
            let (file, directory) = (dir.join(&name), dir.join(&name).join(b"/"));
            if seen != Some(Seen::Directory) {
                take_below(picture, &directory);
            }
            match seen {
                Some(Seen::Directory) => _ = picture.insert(directory, Seen::Directory),
                Some(seen) => _ = picture.insert(file, seen),
                None => _ = picture.remove(&file),
            }
        }
        Record::Moved { from, to } => {
            take_below(picture, &to);
            for (key, seen) in take_below(picture, &from) {
                let below = &key.as_bytes()[from.as_bytes().len()..];
                // A copy may have another ETag.
                let seen = match seen {
                    Seen::File { len, modified, .. } => Seen::File { etag: None, len, modified },
                    Seen::Directory => Seen::Directory,
                };
                picture.insert(to.join(below), seen);
            }
        }
    }
}

/// The keys at or below the positions in `(from, to]` of a directory, each with its position.
fn shown_between<'a>(
    picture: &'a Picture,
    dir: &'a Key,
    from: &'a [u8],
    to: Option<&'a [u8]>,
) -> impl Iterator<Item = (&'a Key, &'a [u8])> {
    let start = if from.is_empty() { Included(dir.clone()) } else { Excluded(dir.join(from)) };
    picture
        .range((start, Unbounded))
        .map_while(|(key, _)| Some((key, key.as_bytes().strip_prefix(dir.as_bytes())?)))
        .map(|(key, below)| {
            let end = below.iter().position(|byte| *byte == b'/').map_or(below.len(), |at| at + 1);
            (key, &below[..end])
        })
        .take_while(move |(_, position)| to.is_none_or(|to| *position <= to))
        .filter(move |(_, position)| *position > from)
}

/// Takes out a directory and everything below it.
fn take_below(picture: &mut Picture, prefix: &Key) -> Vec<(Key, Seen)> {
    let keys: Vec<Key> = picture
        .range(prefix..)
        .map(|(key, _)| key.clone())
        .take_while(|key| key.as_bytes().starts_with(prefix.as_bytes()))
        .collect();
    keys.into_iter().filter_map(|key| picture.remove_entry(&key)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::namespace::segment::Marker;

    fn object(key: &str) -> ListedObject {
        ListedObject {
            key: Key::from(key),
            etag: ETag::new("e"),
            len: 1,
            last_modified: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
            storage_class: None,
        }
    }

    fn placed(positions: &[&str]) -> Vec<Placed> {
        let listed = |position: &str| match position.ends_with('/') {
            true => Listed::Directory(Marker::Unknown),
            false => Listed::File(object(position)),
        };
        let placed = |position: &&str| Placed {
            position: position.as_bytes().to_vec(),
            listed: listed(position),
        };
        positions.iter().map(placed).collect()
    }

    struct Bench {
        folder: tempfile::TempDir,
        identity: Identity,
        names: Names,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let identity =
                Identity { endpoint: "e".into(), bucket: "b".into(), prefix: Key::default() };
            let names = Names::open(folder.path(), &identity).unwrap();
            Bench { folder, identity, names }
        }

        fn page(&self, dir: &str, from: &str, to: Option<&str>, positions: &[&str]) {
            let to = to.map(str::as_bytes);
            self.names.page(&Key::from(dir), from.as_bytes(), to, &placed(positions));
        }

        fn picture(&self) -> String {
            let mut picture = Picture::new();
            replay(self.folder.path(), &self.identity, &mut picture);
            picture.keys().map(Key::to_string).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn the_picture_is_what_was_heard_last() {
        let bench = Bench::new();
        let root = Key::default();
        bench.page("", "", Some("d/"), &["a", "b", "d/"]);
        bench.page("", "d/", None, &["e", "f/"]);
        bench.page("d/", "", None, &["x", "y/"]);
        bench.page("d/y/", "", None, &["z"]);
        assert_eq!(bench.picture(), "a b d/ d/x d/y/ d/y/z e f/");
        // A page that lacks a name, with all below it; what is beyond the page stays.
        bench.page("", "", Some("d/"), &["a", "d/"]);
        bench.page("d/", "", None, &["x"]);
        assert_eq!(bench.picture(), "a d/ d/x e f/");
        bench.names.name(&root, b"new", &Known::File(object("new")));
        bench.names.name(&root, b"e", &Known::Absent);
        bench.names.name(&root, b"f", &Known::File(object("f")));
        assert_eq!(bench.picture(), "a d/ d/x f new");
        bench.names.moved(&Key::from("d/"), &Key::from("g/"));
        assert_eq!(bench.picture(), "a f g/ g/x new");
        bench.names.name(&root, b"g", &Known::Absent);
        assert_eq!(bench.picture(), "a f new");
    }

    #[test]
    fn lookups_are_answered_while_the_file_is_slow() {
        use std::sync::mpsc::channel;

        let bench = Bench::new();
        let names = &bench.names;
        let name =
            |name: &str| names.name(&Key::default(), name.as_bytes(), &Known::File(object(name)));
        name("a");
        let log = names.heard.lock().log.clone().unwrap();
        let ((slow, is_slow), (answered, answer), (end, ended)) = (channel(), channel(), channel());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                log.while_busy(|| {
                    slow.send(()).unwrap();
                    ended.recv().unwrap();
                });
            });
            is_slow.recv().unwrap();
            scope.spawn(move || {
                ["a", "b", "c"].into_iter().for_each(name);
                names.moved(&Key::from("x/"), &Key::from("y/"));
                answered.send(()).unwrap();
            });
            let answered = answer.recv_timeout(Duration::from_secs(10));
            end.send(()).unwrap();
            answered.unwrap();
        });
        name("d");
        assert_eq!(bench.picture(), "a b c d");
    }

    #[test]
    fn what_was_said_before_is_not_written_again() {
        let bench = Bench::new();
        let bytes = || std::fs::metadata(bench.folder.path().join(FILE_NAME)).unwrap().len();
        bench.page("", "", None, &["a", "b"]);
        bench.names.name(&Key::default(), b"a", &Known::File(object("a")));
        let before = bytes();
        for _ in 0..10 {
            bench.page("", "", None, &["a", "b"]);
            bench.names.name(&Key::default(), b"a", &Known::File(object("a")));
        }
        assert_eq!(bytes(), before);
        bench.page("", "", None, &["b"]);
        bench.names.name(&Key::default(), b"a", &Known::File(object("a")));
        assert!(bytes() > before);
        assert_eq!(bench.picture(), "a b");
    }

    #[test]
    fn what_was_seen_longest_ago_is_forgotten_first() {
        let mut bench = Bench::new();
        bench.names.file_bytes_max = 100_000;
        let names: Vec<String> = (0..10).map(|n| format!("{n:04}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // Three files' worth.
        for dir in 0..800 {
            bench.page(&format!("{dir:04}/"), "", None, &names);
        }
        let bytes: u64 = [FILE_NAME, OLD_FILE_NAME]
            .iter()
            .map(|name| std::fs::metadata(bench.folder.path().join(name)).unwrap().len())
            .sum();
        assert!(bytes < 205_000, "{bytes} bytes");
        let mut picture = Picture::new();
        replay(bench.folder.path(), &bench.identity, &mut picture);
        assert!(picture.contains_key(&Key::from(format!("0799/{}", names[9]).as_str())));
        assert!(!picture.contains_key(&Key::from(format!("0000/{}", names[0]).as_str())));
    }
}
