//! Answers to readdir, filled entry by entry by a task. Another may take the reply away meanwhile, and say an errno.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{Errno, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::answer::{Refuse, node_attr};
use super::attr::{file_type, shown};
use crate::lock::{Mutex, rank};
use crate::vfs::{Entry, FileAttributes, Vfs};

/// A reply in the making.
pub(super) struct Filling<R>(Arc<Mutex<Filled<R>, rank::Filled>>);

struct Filled<R> {
    /// `None` once it was sent.
    reply: Option<R>,
    /// Those of which the kernel counts a reference if it gets the reply.
    nodes: Vec<u64>,
    vfs: Arc<Vfs>,
}

impl<R> Filling<R> {
    pub fn new(reply: R, vfs: Arc<Vfs>) -> Filling<R> {
        Filling(Arc::new(Mutex::new(Filled { reply: Some(reply), nodes: Vec::new(), vfs })))
    }

    /// For the task that fills it.
    pub fn share(&self) -> Filling<R> {
        Filling(self.0.clone())
    }
}

impl Filling<ReplyDirectory> {
    /// Whether it is full.
    pub fn add(&self, entry: &Entry<'_>) -> bool {
        let mut filled = self.0.lock();
        let Some(reply) = &mut filled.reply else { return true };
        let name = shown(entry.name);
        let kind = file_type(entry.kind);
        reply.add(INodeNo(entry.ino), entry.offset, kind, OsStr::from_bytes(&name))
    }

    pub fn ok(self) {
        if let Some(reply) = self.0.lock().reply.take() {
            reply.ok();
        }
    }
}

impl Filling<ReplyDirectoryPlus> {
    /// Whether it is full.
    pub fn add(&self, entry: &Entry<'_>, attributes: &FileAttributes) -> bool {
        let mut filled = self.0.lock();
        let Some(reply) = &mut filled.reply else { return true };
        let (ttl, attr) = node_attr(attributes);
        let name = shown(entry.name);
        let name = OsStr::from_bytes(&name);
        let is_full = reply.add(attr.ino, entry.offset, name, &ttl, &attr, Generation(0));
        if !is_full && !matches!(entry.name, b"." | b"..") {
            filled.nodes.push(attributes.node);
        }
        is_full
    }

    pub fn ok(self) {
        if let Some(reply) = self.0.lock().reply.take() {
            reply.ok();
        }
    }
}

impl<R> Filling<R> {
    /// Takes the reply from the task that fills it. The kernel hears of no entry.
    fn take(&self) -> Option<R> {
        let mut filled = self.0.lock();
        let reply = filled.reply.take();
        let nodes = std::mem::take(&mut filled.nodes);
        nodes.into_iter().for_each(|node| filled.vfs.forget(node, 1));
        reply
    }
}

impl Refuse for Filling<ReplyDirectory> {
    fn refuse(self, errno: Errno) {
        self.take().into_iter().for_each(|reply| reply.error(errno));
    }
}

impl Refuse for Filling<ReplyDirectoryPlus> {
    fn refuse(self, errno: Errno) {
        self.take().into_iter().for_each(|reply| reply.error(errno));
    }
}
