//! The names of the bucket and what they are: the one door to this folder. It is asked what a name is, what a directory
//! has in it and which attributes go with that; and it is told what this mount has done.
//!
//! How a name is found. A listing that is fresh, or a change made here, knows it: then only attributes may be missing,
//! which the attribute cache has, or a HEAD tells ([`super::prefetch`]). A listing that has expired names it: its
//! HEAD confirms it, or a page of the listing, which answers for a thousand ([`super::relist`]). Otherwise the store
//! is asked what it is ([`super::resolve`]).
//!
//! Consistency: see [`super::listings`]. Retries: the store's. Cancellation: a dropped call loses its answer. Crash:
//! see [`super::attribute_cache`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::attribute_cache::AttributeCache;
use super::attributes::{Attributes, Kind, Told};
use super::clock::{Freshness, SystemClock};
use super::dir_stream::DirStream;
use super::directory::Begun;
use super::listings::{Known, Listings};
use super::name;
use super::names::Names;
use super::prefetch::{Prefetch, PrefetchOptions};
use super::relist::Relist;
use super::resolve::{ResolveError, Resolved, listed, resolve};
use super::segment::{Listed, Marker};
use crate::clock::Instant;
use crate::journal::{Identity, JournalError};
use crate::store::{
    ETag, ErrorKind, Key, ListedObject, SharedStore, StoreError, VersionId, present,
};

#[derive(Clone, Debug)]
pub struct CatalogSettings {
    /// How long what is known is believed; `Duration::MAX` is for ever.
    pub freshness: Freshness,
    /// Memory for listings, in bytes.
    pub bytes_max: usize,
    pub attributes: PrefetchOptions,
}

/// The directory in which a name is looked for: its prefix, and its inode number.
#[derive(Clone, Copy)]
pub struct Within<'a> {
    pub dir: &'a Key,
    pub number: u64,
}

/// What a name is; `at` is when the store was asked for that.
#[derive(Clone, Debug)]
pub enum Found {
    File { object: ListedObject, attributes: Attributes, at: Instant },
    Directory { marker: Marker, attributes: Attributes, at: Instant },
    Absent,
}

/// An object that this mount has just written.
#[derive(Clone, Debug)]
pub struct Stored<'a> {
    pub key: &'a Key,
    pub etag: &'a ETag,
    /// In bytes.
    pub len: u64,
    pub class: Option<String>,
}

pub struct Catalog {
    store: SharedStore,
    listings: Arc<Listings>,
    attributes: Arc<AttributeCache>,
    prefetch: Arc<Prefetch>,
    relist: Relist,
    /// The number of the directory whose entries were asked for last.
    looked_into: AtomicU64,
}

impl Catalog {
    pub fn new(
        store: SharedStore,
        cached: Arc<AttributeCache>,
        settings: CatalogSettings,
    ) -> Catalog {
        let CatalogSettings { freshness, bytes_max, attributes } = settings;
        let listings = Listings::new(freshness, bytes_max, Arc::new(SystemClock));
        let prefetch = Prefetch::new(store.clone(), listings.clone(), cached.clone(), attributes);
        let relist = Relist::new(store.clone(), listings.clone());
        Catalog {
            store,
            listings,
            attributes: cached,
            prefetch,
            relist,
            looked_into: AtomicU64::new(0),
        }
    }

    /// From now on what is heard of names is written down in a mount's cache folder, for `--offline`. Blocks.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn write_down(&self, folder: &Path, identity: &Identity) -> Result<(), JournalError> {
        self.listings.write_down(Names::open(folder, identity)?);
        Ok(())
    }

    /// Keys that cannot be names, in the directories as last scanned.
    pub fn hidden_names(&self) -> u64 {
        self.listings.hidden().total()
    }

    /// How long what is known is believed.
    pub fn freshness(&self) -> &Freshness {
        self.listings.freshness()
    }

    /// Whether these attributes are known, and not only guessed from a listing.
    pub fn is_known(&self, attributes: &Attributes) -> bool {
        attributes.told != Told::Listing || self.prefetch.believes_listings()
    }

    /// When the directory with this prefix was last listed from its beginning.
    pub fn listed_at(&self, dir: &Key) -> Option<Instant> {
        self.listings.listed_at(dir)
    }

    /// Forgets walks that have stopped.
    pub fn forget_walks(&self) {
        self.prefetch.forget_walks();
    }

    /// Writes the file of remembered attributes anew where it is mostly of what is forgotten.
    ///
    /// # Errors
    /// Those of writing; the file stays as it was.
    pub async fn compact_attributes(&self) -> std::io::Result<()> {
        self.attributes.compact_if_large().await
    }
}

/// What a name is.
impl Catalog {
    /// # Errors
    /// A name that has no key; the store's.
    pub async fn find(&self, within: Within<'_>, name: &[u8]) -> Result<Found, ResolveError> {
        let (mut known, mut at) = self.listings.lookup_at(within.dir, name);
        if known != Known::Unknown {
            self.relist.hit(within.dir);
        } else if let Some(found) = self.find_outdated(within, name).await? {
            return Ok(found);
        } else {
            (known, at) = self.listings.lookup_at(within.dir, name);
        }
        let found = match known {
            Known::File(object) => self.file(within, &object, at).await,
            Known::Directory(marker) => self.directory(within, name, marker, at).await,
            Known::Absent => return Ok(Found::Absent),
            Known::Unknown => return self.ask(within.dir, name).await,
        };
        match found {
            // Deleted since it was listed.
            Err(ResolveError::Store(error)) if error.kind == ErrorKind::NotFound => {
                self.ask(within.dir, name).await
            }
            found => found,
        }
    }

    /// The file that an expired listing names, if it is still there. That is asked by a HEAD of its own where
    /// nothing else can spare it that, else by a page, which answers for many; where none is worth it, by a HEAD all
    /// the same. On `None` a page or this mount may know more of the name.
    async fn find_outdated(
        &self,
        within: Within<'_>,
        name: &[u8],
    ) -> Result<Option<Found>, ResolveError> {
        let Within { dir, number } = within;
        let outdated = self.listings.outdated(dir, name);
        let confirmed = match &outdated {
            Some(object) => self.prefetch.confirm(number, object).await,
            None => Ok(None),
        };
        let confirmed = match confirmed {
            Ok(None) => {
                self.relist.missed(number, dir, name).await?;
                match outdated.filter(|_| self.listings.lookup(dir, name) == Known::Unknown) {
                    Some(object) => self.prefetch.confirm_alone(&object).await.map(Some),
                    None => Ok(None),
                }
            }
            other => other,
        };
        // Gone is noted so.
        let confirmed = present(confirmed)?.flatten();
        Ok(confirmed.map(|(object, attributes, at)| Found::File { object, attributes, at }))
    }

    async fn file(
        &self,
        within: Within<'_>,
        object: &ListedObject,
        at: Instant,
    ) -> Result<Found, ResolveError> {
        let (object, attributes, at) =
            self.prefetch.attributes_of(within.number, object, at).await?;
        Ok(Found::File { object, attributes, at })
    }

    async fn directory(
        &self,
        within: Within<'_>,
        name: &[u8],
        listed: Marker,
        at: Instant,
    ) -> Result<Found, ResolveError> {
        let prefix = name::directory_key(within.dir, name)?;
        let attributes = self.prefetch.directory_attributes(within.number, &prefix, listed).await?;
        Ok(Found::Directory { marker: self.marker_of(&prefix, listed), attributes, at })
    }

    /// The marker of a directory, of which a listing tells `listed`.
    fn marker_of(&self, prefix: &Key, listed: Marker) -> Marker {
        if listed == Marker::Unknown { self.prefetch.marker_of(prefix) } else { listed }
    }

    /// Asks the store what the name is.
    async fn ask(&self, dir: &Key, name: &[u8]) -> Result<Found, ResolveError> {
        let at = Instant::now();
        match resolve(self.store.as_ref(), &self.listings, dir, name).await? {
            Resolved::Absent => Ok(Found::Absent),
            Resolved::File(head) => {
                let key = name::file_key(dir, name)?;
                let (object, attributes) =
                    (listed(&key, &head), self.prefetch.note_head(&key, &head));
                Ok(Found::File { object, attributes, at })
            }
            Resolved::Directory { marker, head } => {
                let prefix = name::directory_key(dir, name)?;
                let attributes = self.prefetch.told_by_marker(head.as_ref());
                self.prefetch.note_directory(&prefix, attributes.clone(), marker);
                Ok(Found::Directory { marker, attributes, at })
            }
        }
    }

    /// Asks the store for the object of a file, whatever is known of it: a file, or absent.
    ///
    /// # Errors
    /// As [`Catalog::find`].
    pub async fn ask_file(&self, dir: &Key, name: &[u8]) -> Result<Found, ResolveError> {
        let key = name::file_key(dir, name)?;
        let (begun, at) = (self.listings.begin(), Instant::now());
        let head = present(self.store.head(&key).await)?;
        let Some(head) = head else {
            self.listings.observe(dir, name, begun, Known::Absent);
            return Ok(Found::Absent);
        };
        let object = listed(&key, &head);
        self.listings.observe(dir, name, begun, Known::File(object.clone()));
        let attributes = self.prefetch.note_head(&key, &head);
        Ok(Found::File { object, attributes, at })
    }

    /// A version of a file's object that is still in the store, which is read from now on where its ETag is meant
    /// ([`crate::store::Store::pin`]). Nothing of it is remembered here: attributes are by ETag, which another version may share.
    ///
    /// # Errors
    /// Those of the store that pass.
    pub async fn find_version(
        &self,
        key: &Key,
        version: &VersionId,
    ) -> Result<Option<(ListedObject, Attributes)>, StoreError> {
        let head = match self.store.head_version(key, version).await {
            Ok(head) => head,
            // Without the right to read versions, or on a store that has none, there are none to be seen.
            Err(error) if error.kind.is_refusal() => return Ok(None),
            Err(error) => return Err(error),
        };
        self.store.pin(key, &head.etag, version);
        let attributes = Attributes::from_head(&head, false, self.prefetch.defaults());
        Ok(Some((listed(key, &head), attributes)))
    }

    /// Whether there was no such name when it was last asked for, however long ago.
    pub fn was_absent(&self, dir: &Key, name: &[u8]) -> bool {
        self.listings.remembered(dir, name) == Known::Absent
    }

    /// When it was last known that there is no such name; `None` where that is not known.
    pub fn absent_since(&self, dir: &Key, name: &[u8]) -> Option<Begun> {
        let (number, _) = self.listings.begin();
        let (known, at) = self.listings.lookup_at(dir, name);
        (known == Known::Absent).then_some((number, at))
    }

    /// The storage class of a file's object, as a listing told it last.
    pub fn storage_class(&self, dir: &Key, name: &[u8]) -> Option<String> {
        let listed = match self.listings.lookup(dir, name) {
            Known::File(listed) => Some(listed),
            _ => self.listings.outdated(dir, name),
        };
        listed.and_then(|listed| listed.storage_class)
    }

    /// By the store's clock: what was just written was made then, or a little before.
    pub fn just_written(&self) -> SystemTime {
        self.attributes.just_written()
    }

    /// Whether another client may have changed the metadata of this version, so that nothing here would show it; see
    /// [`AttributeCache::may_have_changed`].
    pub fn may_have_changed(&self, key: &Key, etag: &ETag, ttl: Duration) -> bool {
        self.attributes.may_have_changed(key, etag, ttl)
    }

    /// The objects that may say that the directory with this prefix is there.
    pub fn markers(&self, prefix: &Key) -> Vec<Key> {
        let folder = self.listings.folder_markers_seen().then_some(Marker::Folder);
        let markers = [Some(Marker::Slash), folder].into_iter().flatten();
        markers.filter_map(|marker| marker.key(prefix)).collect()
    }
}

/// What a directory has in it.
impl Catalog {
    /// A scan of the directory with this prefix. Nothing is asked yet.
    pub fn scan(&self, dir: Key) -> DirStream {
        DirStream::open(self.store.clone(), self.listings.clone(), dir)
    }

    /// A caller asks for names in the directory of this number; whether it asked in another one before.
    pub fn looks_elsewhere(&self, number: u64) -> bool {
        self.looked_into.swap(number, Ordering::Relaxed) != number
    }

    /// A caller looks into the directory with this prefix, which is in the one of number `parent`.
    pub fn looks_into(&self, parent: u64, prefix: &Key) {
        self.prefetch.entered(parent, prefix);
    }

    /// Whether a caller asks for the entries of the directory one after the other, and is at this one.
    pub fn is_walked(&self, dir: &Key, name: &[u8], listed: &Listed) -> bool {
        match listed {
            Listed::File(_) => self.prefetch.is_walked(dir, name),
            Listed::Directory(_) => self.prefetch.is_walked(dir, &[name, b"/"].concat()),
        }
    }

    /// An entry that a listing asked for at `at` has shown, as [`Catalog::find`] would find it.
    ///
    /// # Errors
    /// `NotFound` where it is gone; the store's.
    pub async fn entry(
        &self,
        within: Within<'_>,
        name: &[u8],
        listed: &Listed,
        at: Instant,
    ) -> Result<Found, ResolveError> {
        match listed {
            Listed::File(object) => self.file(within, object, at).await,
            Listed::Directory(marker) => self.directory(within, name, *marker, at).await,
        }
    }

    /// The same, where its attributes are known without a request.
    pub fn known_entry(
        &self,
        dir: &Key,
        name: &[u8],
        listed: &Listed,
        at: Instant,
    ) -> Option<Found> {
        match listed {
            Listed::File(object) => {
                let attributes = self.prefetch.known(object)?;
                Some(Found::File { object: object.clone(), attributes, at })
            }
            Listed::Directory(listed) => {
                let prefix = name::directory_key(dir, name).ok()?;
                let attributes = self.prefetch.known_directory(&prefix)?;
                Some(Found::Directory { marker: self.marker_of(&prefix, *listed), attributes, at })
            }
        }
    }

    /// The attributes that the listing alone lets guess.
    pub fn guess(&self, listed: &Listed) -> Attributes {
        match listed {
            Listed::File(object) => Attributes::from_listing(object, self.prefetch.defaults()),
            Listed::Directory(_) => self.prefetch.implicit(),
        }
    }

    /// What kind of file an object is, as far as that is known.
    pub fn kind_of(&self, object: &ListedObject) -> Kind {
        self.prefetch.known(object).map_or(Kind::File, |attributes| attributes.kind)
    }
}

/// What this mount has done.
impl Catalog {
    /// An object was written, and is complete in the bucket.
    pub fn put(&self, object: Stored<'_>, attributes: &Attributes) {
        let Stored { key, etag, len, class } = object;
        self.attributes.put(key, etag, None, attributes);
        self.listings.note_put(ListedObject {
            key: key.clone(),
            etag: etag.clone(),
            len,
            last_modified: self.attributes.just_written(),
            storage_class: class,
        });
    }

    /// An object has another key.
    pub fn moved(&self, from: &Key, to: Stored<'_>, attributes: &Attributes) {
        self.put(to, attributes);
        self.deleted(from);
    }

    pub fn deleted(&self, key: &Key) {
        self.attributes.forget(key);
        self.listings.note_deleted(key);
    }

    /// Of an object below a directory that is being renamed there is a copy, which the attributes go with. The names
    /// follow with the directory.
    pub fn moved_below(&self, object: &ListedObject, target: &Key, copy: &ETag) {
        if let Some(attributes) = self.attributes.get(object) {
            self.attributes.put(target, copy, None, &attributes);
            self.attributes.forget(&object.key);
        }
    }

    /// A name exists here before it does in the bucket, or with other content, until it is put, deleted or withdrawn.
    pub fn local(&self, dir: &Key, name: &[u8], object: ListedObject) {
        self.listings.note_local(dir, name, Known::File(object));
    }

    /// Whether the name exists is the bucket's to say again.
    pub fn withdraw_local(&self, dir: &Key, name: &[u8]) {
        self.listings.withdraw_local(dir, name);
    }

    /// The marker of a directory was written.
    pub fn directory_put(&self, prefix: &Key, attributes: &Attributes) {
        self.listings.note_directory(prefix, Marker::Slash);
        self.prefetch.note_directory(prefix, attributes.clone(), Marker::Slash);
    }

    /// A directory was made. `absent_since`: when it was last known not to exist, and so to have nothing in it.
    pub fn directory_made(
        &self,
        prefix: &Key,
        attributes: &Attributes,
        absent_since: Option<Begun>,
    ) {
        self.directory_put(prefix, attributes);
        if let Some(begun) = absent_since {
            self.listings.note_empty(prefix, begun);
        }
    }

    /// A directory was made here, is not in the bucket yet, and has nothing in it.
    pub fn local_directory(&self, prefix: &Key) {
        self.listings.note_new_directory(prefix);
    }

    /// There must be a directory with this prefix, for the sake of what is in it here.
    pub fn directory_implied(&self, prefix: &Key) {
        self.listings.note_directory(prefix, Marker::Unknown);
    }

    pub fn directory_deleted(&self, prefix: &Key) {
        self.listings.note_deleted(prefix);
        self.prefetch.forget_directory(prefix);
    }

    /// A directory's objects have another prefix, each with all below it.
    pub fn directory_moved(&self, from: &Key, to: &Key, attributes: &Attributes) {
        self.listings.note_moved(from, to);
        self.directory_left(from);
        self.listings.note_deleted(from);
        self.listings.forget_below(to);
        self.listings.note_directory(to, Marker::Unknown);
        let marker = self.prefetch.marker_of(from);
        self.prefetch.forget_below(from);
        self.prefetch.forget_below(to);
        self.prefetch.note_directory(to, attributes.clone(), marker);
    }

    /// Of what was below this prefix, and perhaps was asked about until now, nothing is there any more.
    pub fn directory_left(&self, from: &Key) {
        self.listings.forget_below(from);
    }

    /// Something was begun with this directory that did not come to its end: only the bucket can say what is there.
    pub fn forget_directory(&self, prefix: &Key) {
        self.listings.forget_directory(prefix);
    }
}
