//! Passthrough: files that the kernel reads from the local disk itself.
//!
//! The kernel wants every open of an inode that has a backing file to name that same backing file. An
//! open that must not read it (a writer, or a newer version) names it and asks for direct I/O, which
//! goes before passthrough.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, FileHandle, FopenFlags, Generation, ReplyCreate, ReplyOpen};

use super::attr::file_attr;
use crate::lock::{Mutex, rank};
use crate::store::ETag;
use crate::vfs::{FileAttributes, Opened, Transport};

/// The backing files in use.
#[derive(Default)]
pub(super) struct Backings {
    enabled: AtomicBool,
    by_ino: Mutex<HashMap<u64, Backing>, rank::Backing>,
}

struct Backing {
    id: BackingId,
    version: ETag,
    handles: HashSet<u64>,
}

impl Backings {
    pub fn enable(&self) {
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Answers an open.
    pub fn reply(&self, reply: ReplyOpen, ino: u64, opened: Opened) {
        let fh = FileHandle(opened.fh);
        let mut by_ino = self.by_ino.lock();
        if let Some(backing) = by_ino.get_mut(&ino) {
            backing.handles.insert(opened.fh);
            let same = matches!(&opened.transport, Transport::Passthrough { version, .. }
                if *version == backing.version);
            let flags = if same { FopenFlags::empty() } else { FopenFlags::FOPEN_DIRECT_IO };
            return reply.opened_passthrough(fh, flags, &backing.id);
        }
        if let Transport::Passthrough { file, version } = &opened.transport
            && self.enabled.load(Ordering::Relaxed)
        {
            match reply.open_backing(file) {
                Ok(id) => {
                    let handles = HashSet::from([opened.fh]);
                    let backing = Backing { id, version: version.clone(), handles };
                    reply.opened_passthrough(fh, FopenFlags::empty(), &backing.id);
                    by_ino.insert(ino, backing);
                    return;
                }
                Err(error) => {
                    // Not privileged, or the cache is on a file system that cannot serve so.
                    log::info!("the kernel cannot read cache files itself: {error}");
                    self.enabled.store(false, Ordering::Relaxed);
                }
            }
        }
        let flags = match opened.transport {
            Transport::Paged { keep: true } => FopenFlags::FOPEN_KEEP_CACHE,
            Transport::Paged { keep: false } => FopenFlags::empty(),
            Transport::Direct | Transport::DirectWhileCold | Transport::Passthrough { .. } => {
                FopenFlags::FOPEN_DIRECT_IO
            }
        };
        reply.opened(fh, flags);
    }

    /// Answers a create: a new file, but where another program was first.
    pub fn reply_created(&self, reply: ReplyCreate, attributes: &FileAttributes, opened: &Opened) {
        let (ttl, attr) = (attributes.valid_for, file_attr(attributes));
        let fh = FileHandle(opened.fh);
        let flags = match opened.transport {
            Transport::Paged { .. } => FopenFlags::empty(),
            Transport::Direct | Transport::DirectWhileCold | Transport::Passthrough { .. } => {
                FopenFlags::FOPEN_DIRECT_IO
            }
        };
        let mut by_ino = self.by_ino.lock();
        let Some(backing) = by_ino.get_mut(&attributes.ino) else {
            drop(by_ino);
            return reply.created(&ttl, &attr, Generation(0), fh, flags);
        };
        backing.handles.insert(opened.fh);
        let flags = FopenFlags::FOPEN_DIRECT_IO;
        reply.created_passthrough(&ttl, &attr, Generation(0), fh, flags, &backing.id);
    }

    /// A handle is gone; with its last one goes the backing file.
    pub fn release(&self, ino: u64, fh: u64) {
        let mut by_ino = self.by_ino.lock();
        if let Some(backing) = by_ino.get_mut(&ino) {
            backing.handles.remove(&fh);
            if backing.handles.is_empty() {
                by_ino.remove(&ino);
            }
        }
    }
}
