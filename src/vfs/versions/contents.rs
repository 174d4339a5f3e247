//! What an inode holds now: the draft that is written, the object that is read.

use std::sync::Arc;
use std::time::Duration;

use super::unsaved::Unsaved;
use crate::cache::{Cache, CachedObject};
use crate::clock;
use crate::journal::{Journal, Record};
use crate::lock::{Mutex, rank};
use crate::progress::in_line;
use crate::reader::Reader;
use crate::store::{CompactTag, ETag, Key, SharedStore};
use crate::vfs::error::Result;
use crate::vfs::faults::Faults;
use crate::vfs::handles::{OpenFiles, OpenMode};
use crate::vfs::objects::Objects;
use crate::vfs::parts::Parts;
use crate::vfs::settings::VfsSettings;
use crate::vfs::tree::{Inode, Tree};
use crate::writer::{Base, Draft, Writers};

/// What the store gets later than this after a change is remembered to have come late, or its time there would be
/// taken for that of another change.
const LATE: Duration = Duration::from_secs(1);

/// The versions of files: the object in the store, the draft that is to replace it, and the ways from one to the next.
pub struct Versions {
    pub(super) store: SharedStore,
    pub(super) journal: Arc<Journal>,
    pub(super) cache: Arc<Cache>,
    pub(super) writers: Arc<Writers>,
    pub(super) tree: Arc<Tree>,
    pub(super) files: Arc<OpenFiles>,
    pub(super) objects: Arc<Objects>,
    /// Whose attributes are to be saved.
    pub unsaved: Unsaved,
    /// The turn to record something of changed attributes: what the record says is still so when it is written.
    pub(super) recording: Mutex<(), rank::AttributeRecords>,
    pub(super) settings: Arc<VfsSettings>,
    pub(super) faults: Arc<Faults>,
}

impl Versions {
    pub fn new(
        parts: &Parts,
        tree: Arc<Tree>,
        files: Arc<OpenFiles>,
        objects: Arc<Objects>,
    ) -> Versions {
        let Parts { store, journal, cache, writers, .. } = parts.clone();
        let (settings, faults) = (tree.settings.clone(), tree.faults.clone());
        Versions {
            store,
            journal,
            cache,
            writers,
            tree,
            files,
            objects,
            unsaved: Unsaved::new(),
            recording: Mutex::default(),
            settings,
            faults,
        }
    }

    /// The draft that writers of this inode share, begun on what is in the store.
    pub fn draft_for(&self, inode: &Arc<Inode>, mode: OpenMode) -> Result<Arc<Draft>> {
        let key = self.tree.file_key(inode.ino);
        let mut state = inode.state();
        if let Some(draft) = &state.used().draft {
            return Ok(draft.clone());
        }
        // Its own key is another file's, or none's, where a copy of it is kept.
        let kept_copy = state.used().kept_copy.as_deref().cloned();
        let version = kept_copy.or_else(|| Some((key.clone(), state.etag()?)));
        let base = version.filter(|_| !mode.truncate).map(|(key, etag)| {
            let object = self.cache.object(&key, &etag, state.len);
            Base { key, etag, len: state.len, object }
        });
        let options = state.attributes.to_write_options()?;
        let draft = Draft::new(&self.writers, key, base, options);
        state.used_mut().draft = Some(draft.clone());
        let unlinked = state.unlinked;
        drop(state);
        if unlinked {
            draft.forbid_publishing()?;
        }
        Ok(draft)
    }

    /// Sets the length of what is being written, for all its handles. The caller holds the operation lock, and shows
    /// the cut afterwards ([`OpenFiles::show_elsewhere`]).
    pub async fn set_len(&self, inode: &Inode, draft: &Arc<Draft>, len: u64) -> Result<()> {
        in_line(draft.truncate(len)).await.map_err(|error| self.tree.fault_of(inode, error))?;
        self.adopt_on_the_way(inode, draft);
        self.modified(inode);
        let mirror = inode.state().used().mirror.clone();
        Ok(mirror.map_or(Ok(()), |mirror| mirror.set_len(len))?)
    }

    /// The content has changed: so has mtime, and set-id bits are gone.
    pub fn modified(&self, inode: &Inode) {
        let mut state = inode.state();
        state.attributes.mtime = clock::wall();
        state.ctime = state.attributes.mtime;
        if let (Some(draft), Ok(options)) =
            (&state.used().draft, state.attributes.to_write_options())
        {
            draft.set_options(options);
        }
    }

    /// The reader that all handles share: the kernel asks for a page once, on whichever handle needed it first, so
    /// that each handle by itself sees only fragments of what is read. Made where there is none, and kept if the
    /// inode is open.
    pub fn reader(&self, inode: &Inode) -> Option<Arc<Reader>> {
        loop {
            let key = self.tree.object_key(inode);
            let (version, len) = {
                let state = inode.state();
                if let Some(reader) = &state.used().reader {
                    return Some(reader.clone());
                }
                let version = match &state.used().kept_copy {
                    // Its own key is another file's by now, or none's.
                    Some(kept) => (**kept).clone(),
                    None => (key, state.etag()?),
                };
                (version, state.len)
            };
            let made = Arc::new(Reader::new(self.cache.object(&version.0, &version.1, len)));
            let mut state = inode.state();
            let is_current = match &state.used().kept_copy {
                Some(kept) => **kept == version,
                None => state.etag() == Some(version.1),
            };
            if is_current {
                if state.used().open.all > 0 {
                    return Some(state.used_mut().reader.get_or_insert(made).clone());
                }
                return Some(made);
            }
        }
    }

    /// What the store has of a file.
    pub fn stored_object(&self, inode: &Inode) -> Option<Arc<CachedObject>> {
        let key = self.tree.object_key(inode);
        let (version, len) = {
            let state = inode.state();
            let kept = state.used().kept_copy.as_deref().cloned();
            let version = kept.or_else(|| Some((key, state.etag()?)))?;
            (version, state.len)
        };
        Some(self.cache.object(&version.0, &version.1, len))
    }

    /// The version of a file that the store is known to have.
    pub fn stored_version(&self, inode: &Inode) -> Option<(ETag, u64)> {
        let state = inode.state();
        Some((state.etag()?, state.len))
    }

    /// The same bytes are another object now: open readers and the draft go on with that one. Returns what the
    /// journal has to be told of the draft.
    pub fn follow_copy(
        &self,
        inode: &Arc<Inode>,
        key: &Key,
        etag: ETag,
        len: u64,
    ) -> Option<Record> {
        let old = inode.state().etag();
        self.follow_object(inode, key, &etag, len);
        let copied = |version: &ETag| {
            if old.as_ref() == Some(version) { etag.clone() } else { version.clone() }
        };
        inode.draft()?.follow(key, copied)
    }

    /// The same, but for the draft.
    pub fn follow_object(&self, inode: &Arc<Inode>, key: &Key, etag: &ETag, len: u64) {
        let object = self.cache.object(key, etag, len);
        let mut state = inode.state();
        let old = state.etag.replace(CompactTag::new(etag));
        if old.is_some() && state.used().paged == old {
            // The kernel's pages are those bytes, whatever their ETag.
            state.used_mut().paged = Some(CompactTag::new(etag));
        }
        state.read_from(object);
        let now = clock::wall();
        if now.duration_since(state.ctime).is_ok_and(|age| age > LATE) {
            state.used_mut().stored = Some(now);
        }
    }
}
