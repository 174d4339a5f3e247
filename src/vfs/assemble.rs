//! The file system, put together out of its components.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::background::{AttributeSaver, WriteBack, misled, saver, write_back};
use super::faults::Faults;
use super::handles::OpenFiles;
use super::objects::Objects;
use super::parts::Parts;
use super::settings::VfsSettings;
use super::tree::{Directories, Tree};
use super::versions::Versions;
use crate::store::{Key, impatient};
use crate::supervise::supervise;

/// The file system: its methods are the operations (`vfs/mod.rs`), which use these components.
pub struct Vfs {
    /// The components below the file system.
    pub(super) parts: Parts,
    /// Names, inodes, operation locks.
    pub(super) tree: Arc<Tree>,
    pub(super) directories: Directories,
    /// Open files, and what the kernel has of them.
    pub(super) files: Arc<OpenFiles>,
    /// What inodes hold: drafts and objects.
    pub(super) versions: Arc<Versions>,
    /// Tells what becomes of objects.
    pub(super) objects: Arc<Objects>,
    /// Sends closed files.
    pub(super) write_back: Arc<WriteBack>,
    /// Saves changed attributes.
    pub(super) saver: Arc<AttributeSaver>,
    pub(super) faults: Arc<Faults>,
    pub(super) settings: Arc<VfsSettings>,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Vfs {
    /// Puts the file system together and starts its background tasks.
    pub fn start(
        parts: Parts,
        root: Key,
        settings: VfsSettings,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Vfs> {
        let (settings, faults) = (Arc::new(settings), Arc::new(Faults::default()));
        let tree =
            Arc::new(Tree::new(root, parts.catalog.clone(), settings.clone(), faults.clone()));
        let directories = Directories::new(tree.clone(), parts.uploads.clone(), runtime.clone());
        let files = Arc::new(OpenFiles::new(tree.clone(), settings.clone(), runtime.clone()));
        let objects = Arc::new(Objects::new(&parts));
        let versions =
            Arc::new(Versions::new(&parts, tree.clone(), files.clone(), objects.clone()));
        let write_back = Arc::new(WriteBack::new(
            &parts,
            versions.clone(),
            tree.clone(),
            faults.clone(),
            settings.waiting_bytes,
            runtime.clone(),
        ));
        let saver = AttributeSaver::new(tree.clone(), versions.clone(), settings.concurrency);
        let saver = Arc::new(saver);
        let weak = Arc::downgrade(&write_back);
        supervise(&runtime, "write-back", move || write_back::run(weak.clone()));
        if let Some(told) = parts.cache.misled_readers() {
            let (told, weak) = (Arc::new(Mutex::new(told)), Arc::downgrade(&files));
            supervise(&runtime, "misled", move || misled::run(told.clone(), weak.clone()));
        }
        let weak = Arc::downgrade(&saver);
        supervise(&runtime, "attributes", move || impatient(saver::run(weak.clone())));
        Arc::new(Vfs {
            parts,
            tree,
            directories,
            files,
            versions,
            objects,
            write_back,
            saver,
            faults,
            settings,
            runtime,
        })
    }
}
