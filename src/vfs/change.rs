//! Changes of attributes: truncate, chmod, chown, utimens, and saving them.
//!
//! What changes on a file that is being written goes with it. What changes on an object that stands
//! costs a copy of the object onto itself; several changes in a row cost one, because the copy is made
//! a moment later, or by a rename that comes first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::error::{Result, VfsError};
use super::inode::Inode;
use super::{FileAttributes, Vfs};
use crate::clock::{self, Instant};
use crate::journal::Record;
use crate::lock::{Mutex, rank};
use crate::namespace::Stored;
use crate::namespace::attributes::Kind;
use crate::progress::Pulse;
use crate::seam;
use crate::store::{CopyRequest, Key, Precondition, Storage, WriteOptions};
use crate::supervise;

use super::handle::OpenMode;

/// What setattr changes; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    pub len: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SystemTime>,
    pub mtime: Option<SystemTime>,
    /// By a program that may not keep set-id bits on a file whose content it changes.
    pub unprivileged: bool,
}

impl Changes {
    fn touches_attributes(&self) -> bool {
        self.mode.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || self.atime.is_some()
            || self.mtime.is_some()
    }
}

/// What a copy inside the store carries.
pub(super) struct CopyWith {
    replace: Option<WriteOptions>,
    storage: Storage,
}

impl CopyWith {
    /// What its source carries. `storage` is how that is kept, as far as it is known: it does not go along by itself.
    pub fn the_same(storage: Storage) -> CopyWith {
        CopyWith { replace: None, storage }
    }

    /// The storage class that the copy gets by its source's.
    pub fn class(&self) -> Option<&String> {
        let carried = self.replace.as_ref().and_then(|options| options.carried.as_ref());
        carried.map_or(&self.storage, |carried| &carried.storage).class.as_ref()
    }

    pub fn these(options: WriteOptions) -> CopyWith {
        CopyWith { replace: Some(options), storage: Storage::default() }
    }
}

/// How long a change of attributes waits for others to go with it: `cp -p`, `rsync` and `tar` make
/// theirs within milliseconds.
const GATHER: Duration = Duration::from_millis(300);

/// Inodes whose attributes the store does not have yet.
pub(super) struct Pending {
    /// Since when.
    inodes: Mutex<HashMap<u64, Instant>, rank::Unsaved>,
    noted: Notify,
    /// One round of saving at a time: who unmounts waits for the one under way.
    saving: tokio::sync::Mutex<()>,
}

impl Pending {
    pub fn new() -> Pending {
        Pending {
            inodes: Mutex::new(HashMap::new()),
            noted: Notify::new(),
            saving: tokio::sync::Mutex::new(()),
        }
    }

    pub fn note(&self, ino: u64) {
        {
            let mut inodes = self.inodes.lock();
            // Told under the lock, so that who is behind in it is not earlier by the clock.
            inodes.entry(ino).or_insert_with(Instant::now);
        }
        self.noted.notify_one();
    }

    /// Those that were noted by `until`. Who was noted after it has left a word with `noted`.
    fn take(&self, until: Instant) -> Vec<u64> {
        let due = |_: &u64, since: &mut Instant| *since <= until;
        self.inodes.lock().extract_if(due).map(|(ino, _)| ino).collect()
    }
}

/// How long after a store that did not answer is asked again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Saves changed attributes a moment after they changed, for as long as there is a file system.
pub(super) async fn save_pending(vfs: Weak<Vfs>) {
    let mut pause = RETRY_FIRST;
    loop {
        let noted = {
            let Some(vfs) = vfs.upgrade() else { return };
            vfs.clone().pending_noted().await
        };
        if !noted {
            return;
        }
        seam::pass_now("attributes");
        // What comes later may be renamed in a moment, and waits for the next round.
        let until = Instant::now();
        clock::sleep(GATHER).await;
        let Some(vfs) = vfs.upgrade() else { return };
        if vfs.save_pending_of(until).await {
            pause = RETRY_FIRST;
            continue;
        }
        drop(vfs);
        clock::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

impl Vfs {
    async fn pending_noted(self: Arc<Self>) -> bool {
        // Wakes now and then, so that a file system that is gone is noticed.
        let noted = self.changes.noted.notified();
        let _ = clock::timeout(Duration::from_secs(1), noted).await;
        true
    }

    /// Saves all that has changed.
    pub(super) async fn save_all_pending(self: &Arc<Self>) {
        self.save_pending_of(Instant::now()).await;
    }

    /// Saves what was noted by `until`, side by side. A failure is logged and noted; the change stays in memory.
    /// Where the store did not answer it is noted as to be saved again, and `false` returned.
    async fn save_pending_of(self: &Arc<Self>, until: Instant) -> bool {
        use futures_util::stream::StreamExt;
        let answered = AtomicBool::new(true);
        let _round = self.changes.saving.lock().await;
        let inodes = self.changes.take(until);
        futures_util::stream::iter(inodes)
            .for_each_concurrent(self.settings.concurrency, |ino| {
                let answered = &answered;
                let save = async move {
                    let Ok(inode) = self.inodes.get(ino) else { return };
                    let _operation = self.operation_on(&inode).await;
                    if let Err(error) = self.save_attributes(&inode).await {
                        let key = self.inodes.file_key(ino);
                        log::warn!("{key}: mode, owner or times are not saved: {error}");
                        if error.unanswered {
                            self.changes.note(ino);
                            answered.store(false, Ordering::Relaxed);
                        }
                    }
                };
                // One of which the saving dies keeps no other from it. It is saved by the next change, or the next mount.
                async move {
                    supervise::attempt("attributes", Pulse::new().of(save)).await;
                }
            })
            .await;
        answered.into_inner()
    }

    /// setattr: truncate, chmod, chown, utimens.
    pub async fn setattr(
        self: &Arc<Self>,
        ino: u64,
        fh: Option<u64>,
        changes: Changes,
    ) -> Result<FileAttributes> {
        self.refuse_if_read_only()?;
        let inode = self.inodes.get(ino)?;
        let _operation = self.operation_on(&inode).await;
        self.revalidate_for_change(&inode).await?;
        if let Some(len) = changes.len {
            if changes.unprivileged {
                self.drop_set_id(&inode)?;
            }
            self.truncate(&inode, fh, len).await?;
        }
        if changes.touches_attributes() {
            self.change_attributes(&inode, changes)?;
        }
        Ok(self.attributes_of(&inode))
    }

    async fn truncate(&self, inode: &Arc<Inode>, fh: Option<u64>, len: u64) -> Result<()> {
        match inode.kind() {
            Kind::Directory => return Err(VfsError::plain(libc::EISDIR)),
            Kind::Symlink | Kind::Fifo | Kind::Socket => {
                return Err(VfsError::plain(libc::EINVAL));
            }
            Kind::File => {}
        }
        let mode = OpenMode {
            read: false,
            write: true,
            truncate: len == 0,
            append: false,
            direct: false,
            exclusive: false,
        };
        self.know_all_to_begin(inode).await?;
        let was_draft = inode.draft().is_some();
        self.prepare_mirror(inode).await?;
        let draft = self.draft_for(inode, mode)?;
        self.set_len(inode, &draft, len).await?;
        if len == 0 {
            draft.mark_dirty();
            self.begins_anew(inode);
        }
        let written_by_nobody = fh.is_none() && inode.state().used().writers == 0;
        if written_by_nobody {
            // truncate(2): nobody will close it.
            let closed = self.close_draft(inode).await;
            let mut state = inode.state();
            // What was safe here before stays so.
            if !draft.is_dirty() || (closed.is_err() && !was_draft) {
                state.used_mut().draft = None;
            }
            drop(state);
            closed?;
        }
        Ok(())
    }

    fn change_attributes(&self, inode: &Arc<Inode>, changes: Changes) -> Result<()> {
        let mut state = inode.state();
        let before = state.attributes.clone();
        let atime = changes.atime.or(state.used().atime);
        let attributes = &mut state.attributes;
        if let Some(mode) = changes.mode {
            attributes.mode = mode & 0o7777;
        } else if (changes.uid.is_some() || changes.gid.is_some())
            && attributes.kind != Kind::Directory
        {
            // The kernel leaves this to us (FUSE_HANDLE_KILLPRIV_V2): whoever owns it now has not set them.
            attributes.mode = without_set_id(attributes.mode);
        }
        if let Some(uid) = changes.uid {
            attributes.uid = uid;
        }
        if let Some(gid) = changes.gid {
            attributes.gid = gid;
        }
        if let Some(mtime) = changes.mtime {
            attributes.mtime = mtime;
        }
        let options = match attributes.to_write_options() {
            Ok(options) => options,
            Err(no_space) => {
                state.attributes = before;
                return Err(no_space.into());
            }
        };
        state.ctime = self.now();
        state.touched &= changes.mtime.is_none();
        // A time of access that was never set is the mtime's, and does not follow it to where it is set.
        if let Some(atime) = atime.or(changes.mtime.map(|_| before.mtime)) {
            state.used_mut().atime = Some(atime);
        }
        if let Some(draft) = &state.used().draft
            && draft.is_dirty()
        {
            draft.change_options(options).map_err(|error| self.fault(error))?;
            state.times_set |= changes.mtime.is_some();
            return Ok(());
        }
        if state.attributes == before {
            return Ok(());
        }
        drop(state);
        self.attributes_changed(inode)
    }

    /// The attributes differ from what the store has: they are journaled, and saved soon.
    pub(super) fn attributes_changed(&self, inode: &Inode) -> Result<()> {
        {
            let mut state = inode.state();
            state.unsaved = !state.unlinked;
            if state.unlinked {
                return Ok(());
            }
        }
        self.journal_attributes(inode)?;
        self.changes.note(inode.ino);
        Ok(())
    }

    /// Takes the set-id bits from a file that is changed by somebody without privileges.
    pub(super) fn drop_set_id(&self, inode: &Inode) -> Result<()> {
        let mut state = inode.state();
        let mode = without_set_id(state.attributes.mode);
        if mode == state.attributes.mode {
            return Ok(());
        }
        state.attributes.mode = mode;
        if let (Some(draft), Ok(options)) =
            (&state.used().draft, state.attributes.to_write_options())
            && draft.is_dirty()
        {
            draft.change_options(options).map_err(|error| self.fault(error))?;
            return Ok(());
        }
        drop(state);
        self.attributes_changed(inode)
    }

    fn journal_attributes(&self, inode: &Inode) -> Result<()> {
        let (attributes, etag, len) = {
            let state = inode.state();
            (state.attributes.clone(), state.etag(), state.len)
        };
        let (key, etag) = match attributes.kind {
            Kind::Directory => (self.inodes.directory_key(inode.ino), None),
            _ => (self.inodes.file_key(inode.ino), etag),
        };
        let metadata = attributes.to_write_options()?.metadata;
        self.journal.append(Record::AttributesChanged { key, etag, len, metadata })?;
        Ok(())
    }

    /// fsync of what is not being written, or of a directory: its attributes are saved now.
    pub(super) async fn sync_attributes(&self, inode: &Arc<Inode>) -> Result<()> {
        if !inode.state().unsaved {
            return Ok(());
        }
        let _operation = self.operation_on(inode).await;
        self.save_attributes(inode).await
    }

    /// Brings an inode's changed attributes to the store. Holds the inode's turn.
    pub(super) async fn save_attributes(&self, inode: &Arc<Inode>) -> Result<()> {
        let has_name = self.inodes.place(inode.ino).is_some();
        {
            let mut state = inode.state();
            state.unsaved &= has_name && !state.unlinked;
            // A dirty draft takes them along.
            let is_written = state.used().draft.as_ref().is_some_and(|draft| draft.is_dirty());
            if !state.unsaved || is_written {
                return Ok(());
            }
        }
        self.know_all(inode).await.map_err(|error| self.fault(error))?;
        let (attributes, etag, len) = {
            let state = inode.state();
            (state.attributes.clone(), state.etag(), state.len)
        };
        if attributes.kind == Kind::Directory {
            return self.save_directory(inode, &attributes).await;
        }
        let Some(etag) = etag else { return Ok(()) };
        let key = self.inodes.file_key(inode.ino);
        let options = attributes.to_write_options()?;
        let moving = self.objects.moving(&key);
        let with = CopyWith::these(options);
        let new_etag = match self.copy_object(&key, &etag, len, &key, with).await {
            Ok(etag) => etag,
            Err(error) if matches!(error.errno, libc::ESTALE | libc::ENOENT) => {
                // The version that they belong to is gone: who replaced it has the last word.
                let mut state = inode.state();
                state.unsaved = false;
                state.valid_until = Instant::now();
                drop(state);
                self.objects.attributes_settled(&key);
                return Err(error);
            }
            Err(error) => return Err(self.fault(error)),
        };
        let copy = Stored { key: &key, etag: &new_etag, len, class: None };
        self.objects.attributes_saved(&etag, copy, &attributes);
        drop(moving);
        if let Some(followed) = self.follow_copy(inode, &key, new_etag, len) {
            self.journal.append(followed)?;
        }
        let mut state = inode.state();
        if state.attributes == attributes {
            state.unsaved = false;
        }
        let again = state.unsaved;
        drop(state);
        if again {
            // They belong to the new version now.
            self.attributes_changed(inode)?;
        } else {
            self.objects.attributes_settled(&key);
        }
        self.inodes.settle(inode.ino);
        Ok(())
    }

    async fn save_directory(
        &self,
        inode: &Arc<Inode>,
        attributes: &crate::namespace::attributes::Attributes,
    ) -> Result<()> {
        let key: Key = self.inodes.directory_key(inode.ino);
        if !key.as_bytes().is_empty() {
            self.put_marker(&key, attributes, Precondition::None).await?;
            self.catalog.directory_put(&key, attributes);
        }
        {
            let mut state = inode.state();
            state.marker = true;
            state.unsaved = state.attributes != *attributes;
        }
        if !inode.state().unsaved {
            self.objects.attributes_settled(&key);
        }
        self.inodes.settle(inode.ino);
        Ok(())
    }

    /// A server-side copy, of any size.
    pub(super) async fn copy_object(
        &self,
        from: &Key,
        etag: &crate::store::ETag,
        len: u64,
        to: &Key,
        with: CopyWith,
    ) -> Result<crate::store::ETag> {
        let CopyWith { replace, storage } = with;
        if len <= crate::writer::COPY_BYTES_MAX {
            let request = CopyRequest {
                source: from.clone(),
                source_etag: Some(etag.clone()),
                target: to.clone(),
                // A copy onto itself is refused when it is repeated, and is known by this.
                replace: replace.map(WriteOptions::marked),
                keeps_tags: true,
                storage,
                precondition: Precondition::None,
            };
            return Ok(self.store.copy(&request).await?);
        }
        self.copy_by_parts(from, etag, len, to, replace).await
    }
}

/// A mode without its set-user-id bit, and without its set-group-id bit where that is one (without
/// permission to execute for the group it means locking).
fn without_set_id(mode: u32) -> u32 {
    let group = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    mode & !(libc::S_ISUID | group)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has just changed may be renamed in a moment, in the same copy.
    #[test]
    fn a_round_leaves_what_was_noted_after_it_began() {
        let pending = Pending::new();
        pending.note(1);
        let begun = Instant::now();
        while Instant::now() == begun {}
        pending.note(2);
        pending.note(1);
        assert_eq!(pending.take(begun), [1], "noted again, it waits no longer");
        assert_eq!((pending.take(begun), pending.inodes.lock().len()), (Vec::new(), 1));
        assert_eq!(pending.take(Instant::now()), [2]);
    }
}
