//! The file system: one method for each operation, with no kernel in sight.
//!
//! `inode` is the tree as the kernel knows it, `handle` the open files; the operations are in `lookup`,
//! `file`, `directory`, `change` (attributes), `remove`, `rename`, `relocate` and `symlink`; `write_back` finishes
//! files that were closed before they were uploaded, `recover` what a crash left.
//!
//! Consistency: close-to-open. What this mount changes is seen at once by this mount; what others
//! change, within --metadata-ttl. Who has a file open sees what is written to it here, by whichever handle, and
//! keeps the version that was opened where it is replaced elsewhere: that is another file, with an inode of its own.
//! Retries: the store's. Cancellation: operations run to their end though the program was killed.
//! Crash: see `writer` and `recover`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use crate::cache::Cache;
use crate::clock::{self, Instant};
use crate::journal::Journal;
use crate::namespace::attributes::{Attributes, Defaults, Kind};
use crate::namespace::{Catalog, Stored};
use crate::outbox::Deletions;
use crate::progress::TurnGuard;
use crate::range::ByteRange;
use crate::seam;
use crate::store::{CompactTag, Key, ListedObject, SharedStore, impatient};
use crate::supervise::supervise;
use crate::upload::Uploads;
use crate::writer::{Published, Writers};

mod carried;
mod change;
mod close;
mod directory;
pub mod error;
mod file;
mod handle;
mod holders;
mod inode;
mod interrupted;
mod kernel;
mod lookup;
mod mirror;
mod objects;
mod ranges;
mod read;
mod recover;
mod relocate;
mod remove;
mod rename;
mod report;
mod small_readers;
mod subtrees;
mod symlink;
mod table;
mod write_back;
mod xattr;

pub use crate::writer::Seek;
pub use change::Changes;
pub use directory::Entry;
pub use error::{Result, VfsError};
pub use file::{Opened, Transport};
pub use handle::OpenMode;
pub use inode::ROOT_INO;
pub use mirror::KernelCache;
pub use report::Seen;
pub use xattr::SetXattr;

use handle::Handles;
use inode::Inode;
use objects::Objects;
use small_readers::SmallReaders;
use subtrees::{Entered, Subtrees};
use table::InodeTable;
use write_back::WriteBack;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// What stat(2) says.
#[derive(Clone, Debug)]
pub struct FileAttributes {
    pub ino: u64,
    /// The number by which the kernel knows the file, where that is not `ino`: for no time then, so that it asks what
    /// `ino` is.
    pub node: u64,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub len: u64,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    pub links: u32,
    /// How long the kernel may believe it without asking again.
    pub valid_for: Duration,
}

#[derive(Clone, Debug)]
pub struct VfsSettings {
    pub read_only: bool,
    pub write_back: bool,
    /// The kernel may read cache files itself.
    pub passthrough: bool,
    pub metadata_ttl: Duration,
    pub defaults: Defaults,
    pub mount_point: std::path::PathBuf,
    /// How long one request may take, retries included.
    pub timeout: Duration,
    /// Bytes of file content that may be in memory.
    pub memory: u64,
    /// Bytes of closed files that may wait for their upload; one file is never too long.
    pub waiting_bytes: u64,
    /// Requests that one operation sends side by side.
    pub concurrency: usize,
    /// New files get the content type that their names tell.
    pub content_type: bool,
}

/// What the file system is made of.
pub struct Parts {
    pub store: SharedStore,
    pub journal: Arc<Journal>,
    pub cache: Arc<Cache>,
    pub uploads: Arc<Uploads>,
    pub writers: Arc<Writers>,
    pub catalog: Arc<Catalog>,
    pub deletions: Arc<Deletions>,
}

pub struct Vfs {
    store: SharedStore,
    journal: Arc<Journal>,
    cache: Arc<Cache>,
    uploads: Arc<Uploads>,
    writers: Arc<Writers>,
    catalog: Arc<Catalog>,
    objects: Objects,
    deletions: Arc<Deletions>,
    inodes: InodeTable,
    subtrees: Subtrees,
    handles: Handles,
    small_readers: SmallReaders,
    kernel: OnceLock<Arc<dyn KernelCache>>,
    write_back: WriteBack,
    changes: change::Pending,
    faults: report::Faults,
    settings: VfsSettings,
    runtime: tokio::runtime::Handle,
}

/// Held by whoever changes an inode: nobody else does, and it keeps its place.
struct Operation<'a> {
    _turn: TurnGuard<'a>,
    _entered: Entered<'a>,
}

impl Vfs {
    /// Puts the file system together and starts its background tasks.
    pub fn start(
        parts: Parts,
        root: Key,
        settings: VfsSettings,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Vfs> {
        let root_attributes = Attributes::implicit_directory(clock::wall(), &settings.defaults);
        let (catalog, cache) = (parts.catalog.clone(), parts.cache.clone());
        let objects = Objects::new(catalog, cache, parts.uploads.clone(), parts.journal.clone());
        let vfs = Arc::new(Vfs {
            inodes: InodeTable::new(root, root_attributes),
            subtrees: Subtrees::new(),
            store: parts.store,
            journal: parts.journal,
            cache: parts.cache,
            uploads: parts.uploads,
            writers: parts.writers,
            catalog: parts.catalog,
            objects,
            deletions: parts.deletions,
            handles: Handles::default(),
            small_readers: SmallReaders::default(),
            kernel: OnceLock::new(),
            write_back: WriteBack::new(settings.waiting_bytes),
            changes: change::Pending::new(),
            faults: report::Faults::default(),
            settings,
            runtime: runtime.clone(),
        });
        let weak = Arc::downgrade(&vfs);
        supervise(&runtime, "write-back", move || write_back::run(weak.clone()));
        let weak = Arc::downgrade(&vfs);
        supervise(&runtime, "attributes", move || impatient(change::save_pending(weak.clone())));
        vfs
    }

    pub fn settings(&self) -> &VfsSettings {
        &self.settings
    }

    /// Writes the file of remembered attributes anew where it is mostly of what is forgotten.
    pub async fn compact_attributes(&self) -> std::io::Result<()> {
        self.catalog.compact_attributes().await
    }

    fn now(&self) -> SystemTime {
        clock::wall()
    }

    fn refuse_if_read_only(&self) -> Result<()> {
        if self.settings.read_only { Err(VfsError::plain(libc::EROFS)) } else { Ok(()) }
    }

    /// Until when an answer of the store is believed.
    fn fresh_until(&self) -> Instant {
        self.believed_until(Instant::now())
    }

    /// Until when an answer is believed that was asked for at `at`.
    fn believed_until(&self, at: Instant) -> Instant {
        at + self.settings.metadata_ttl.min(FOR_EVER)
    }

    /// By when a read must have its bytes: as long as one request may take, retries included.
    fn deadline(&self) -> Instant {
        Instant::now() + self.settings.timeout
    }

    /// The operation lock of one inode.
    async fn operation_on<'a>(&'a self, inode: &'a Inode) -> Operation<'a> {
        let entered = self.subtrees.enter(&self.inodes, [inode.ino, inode.ino]).await;
        let operation = Operation { _turn: inode.turn().lock().await, _entered: entered };
        seam::pass_at("operation-lock", || self.inodes.file_key(inode.ino).to_string()).await;
        operation
    }

    /// Passes an error on, noted for `status` and the log if something is wrong outside.
    fn fault(&self, error: impl Into<VfsError>) -> VfsError {
        let error = error.into();
        if !error.is_fault() {
            return error;
        }
        self.faults.note(&error);
        error.noted()
    }

    /// The same, of what was done with a file.
    fn fault_of(&self, inode: &Inode, error: impl Into<VfsError>) -> VfsError {
        let error = error.into();
        self.fault(error.of_key(&self.inodes.file_key(inode.ino)))
    }

    /// The directory's key and the name of an inode.
    fn place(&self, ino: u64) -> (Key, Vec<u8>) {
        match self.inodes.place(ino) {
            Some((parent, name)) => (self.inodes.directory_key(parent), name),
            None => (Key::default(), Vec::new()),
        }
    }

    /// What stat(2) says of an inode now.
    fn attributes_of(&self, inode: &Inode) -> FileAttributes {
        let state = inode.state();
        let len = match (&state.used().draft, &state.attributes.extra().target) {
            (Some(draft), _) => draft.len(),
            (None, Some(target)) => target.len() as u64,
            (None, None) => state.len,
        };
        let links = match state.attributes.kind {
            _ if state.unlinked => 0,
            // A directory's subdirectories are not counted: that would take a listing.
            Kind::Directory => 2,
            _ => 1,
        };
        let valid_for = if state.is_local() || state.unlinked || inode.ino == ROOT_INO {
            self.settings.metadata_ttl.min(FOR_EVER)
        } else {
            state.valid_until.saturating_duration_since(Instant::now())
        };
        FileAttributes {
            ino: inode.ino,
            node: inode.ino,
            kind: state.attributes.kind,
            mode: state.attributes.mode,
            uid: state.attributes.uid,
            gid: state.attributes.gid,
            len,
            atime: state.used().atime.unwrap_or(state.attributes.mtime),
            mtime: state.attributes.mtime,
            ctime: state.ctime,
            links,
            valid_for,
        }
    }

    /// The name exists here before it does in the bucket, or with content that the bucket has not.
    fn note_local_file(&self, inode: &Inode) {
        let (dir, name) = self.place(inode.ino);
        let key = self.inodes.file_key(inode.ino);
        let object = {
            let state = inode.state();
            ListedObject {
                key,
                etag: state.etag().unwrap_or_else(|| crate::store::ETag::new("")),
                len: state.used().draft.as_ref().map_or(state.len, |draft| draft.len()),
                last_modified: state.attributes.mtime,
                storage_class: None,
            }
        };
        self.catalog.local(&dir, &name, object);
    }

    /// The draft has become an object: the inode, the listing and the attribute cache follow.
    fn adopt_published(&self, inode: &Inode, published: &Published) {
        let written = self.attributes_from_options(published);
        let replaced = {
            let mut state = inode.state();
            state.attributes.complete(&written);
            let replaced = state.etag.replace(CompactTag::new(&published.etag));
            state.read_anew();
            state.used_mut().stored = Some(self.now());
            state.len = published.len;
            state.shadows = false;
            state.valid_until = self.fresh_until();
            if written != state.attributes {
                self.settle_written(&mut state, &written);
            } else {
                state.unsaved = false;
            }
            replaced
        };
        let Published { key, etag, len, .. } = published;
        let object = Stored { key, etag, len: *len, class: None };
        self.objects.published(object, &written, replaced.map(|old| old.etag()).as_ref());
        let unsaved = inode.state().unsaved;
        if !unsaved {
            self.objects.attributes_settled(&published.key);
        } else if let Err(error) = self.attributes_changed(inode) {
            // They are saved all the same, unless the process is killed in the moment before.
            log::warn!("{}: {error}", published.key);
        }
    }

    fn attributes_from_options(&self, published: &Published) -> Attributes {
        let head = crate::store::ObjectHead {
            etag: published.etag.clone(),
            len: published.len,
            last_modified: self.catalog.just_written(),
            metadata: published.options.metadata.clone(),
            content_type: published.options.content_type.clone(),
            carried: published.options.carried.clone().unwrap_or_default(),
            version_id: None,
        };
        Attributes::from_head(&head, false, &self.settings.defaults)
    }

    /// An upload keeps the metadata that it was begun with. If only the time of the last write differs,
    /// that is what the file's time is, here too, so that every machine sees the same; what the program
    /// set by its own word is saved by a copy.
    fn settle_written(&self, state: &mut inode::InodeState, written: &Attributes) {
        let mut same_but_time = state.attributes.clone();
        same_but_time.mtime = written.mtime;
        if same_but_time == *written && !state.times_set {
            state.attributes.mtime = written.mtime;
        } else {
            state.unsaved = true;
        }
    }

    fn whole(len: u64) -> ByteRange {
        ByteRange::new(0, len)
    }
}

/// "For ever" as a time that can be added to now: a hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl FileAttributes {
    /// How a name that does not exist is told to the kernel: as number 0.
    pub fn absent(valid_for: Duration) -> FileAttributes {
        FileAttributes {
            ino: 0,
            node: 0,
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            len: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            links: 0,
            valid_for,
        }
    }
}
