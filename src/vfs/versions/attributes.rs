//! Attributes that have changed: journaled at once, brought to the store later by a copy of the object onto itself.

use std::sync::Arc;

use super::contents::Versions;
use super::copy::CopyWith;
use crate::clock::Instant;
use crate::journal::Record;
use crate::namespace::Stored;
use crate::namespace::attributes::{Attributes, Kind};
use crate::seam;
use crate::store::{Key, Precondition};
use crate::vfs::error::Result;
use crate::vfs::tree::Inode;
use crate::writer::Draft;

impl Versions {
    /// The attributes differ from what the store has: they are journaled, and saved soon.
    pub fn attributes_changed(&self, inode: &Inode) -> Result<()> {
        {
            let mut state = inode.state();
            state.unsaved = !state.unlinked;
            if state.unlinked {
                return Ok(());
            }
        }
        self.journal_attributes(inode)?;
        self.unsaved.note(inode.ino);
        Ok(())
    }

    /// Takes the set-id bits from a file that is changed by a program without privileges.
    pub fn drop_set_id(&self, inode: &Inode) -> Result<()> {
        let mut state = inode.state();
        let mode = without_set_id(state.attributes.mode);
        if mode == state.attributes.mode {
            return Ok(());
        }
        state.attributes.mode = mode;
        let written = state.draft_that_takes_attributes();
        drop(state);
        match written {
            Some(draft) => self.tell_draft(inode, &draft),
            None => self.attributes_changed(inode),
        }
    }

    /// What is being written goes with the inode's attributes as they are now: the draft and, where it is closed and
    /// safe here, the journal are told. That is a write, and not done under the inode's state. Of two changes at once the
    /// one that is told last may be the older: each looks again when it has told, so the last record is the newest.
    pub fn tell_draft(&self, inode: &Inode, draft: &Draft) -> Result<()> {
        let mut told = inode.state().attributes.clone();
        loop {
            let changed = draft.change_options(told.to_write_options()?);
            changed.map_err(|error| self.tree.fault_of(inode, error))?;
            let now = inode.state().attributes.clone();
            if now == told {
                return Ok(());
            }
            told = now;
        }
    }

    fn journal_attributes(&self, inode: &Inode) -> Result<()> {
        // Of two changes at once the later record has both.
        let _turn = self.recording.lock();
        let (attributes, etag, len) = {
            let state = inode.state();
            (state.attributes.clone(), state.etag(), state.len)
        };
        let (key, etag) = match attributes.kind {
            Kind::Directory => (self.tree.directory_key(inode.ino), None),
            _ => (self.tree.file_key(inode.ino), etag),
        };
        let metadata = attributes.to_write_options()?.metadata;
        Ok(self.journal.append(Record::AttributesChanged { key, etag, len, metadata })?)
    }

    /// The store has the attributes that an inode had, or what they belonged to is gone: the journal is told, unless they
    /// have changed since. A write takes the set-id bits of a file whatever is being done with that.
    pub fn settle_attributes(&self, inode: &Inode, key: &Key) -> Result<()> {
        {
            let _turn = self.recording.lock();
            // Looked at in this turn: a change is noted before its own.
            if !inode.state().unsaved {
                self.objects.attributes_settled(key);
                return Ok(());
            }
        }
        // They belong to the version that there is now.
        self.attributes_changed(inode)
    }

    /// fsync of what is not being written, or of a directory: its attributes are saved now.
    pub async fn sync_attributes(&self, inode: &Arc<Inode>) -> Result<()> {
        if !inode.state().unsaved {
            return Ok(());
        }
        let _operation = self.tree.operation_on(inode).await;
        self.save_attributes(inode).await
    }

    /// Brings an inode's changed attributes to the store. The caller holds the operation lock.
    pub async fn save_attributes(&self, inode: &Arc<Inode>) -> Result<()> {
        let has_name = self.tree.inodes.place(inode.ino).is_some();
        {
            let mut state = inode.state();
            state.unsaved &= has_name && !state.unlinked;
            // A dirty draft takes them along.
            let is_written = state.used().draft.as_ref().is_some_and(|draft| draft.is_dirty());
            if !state.unsaved || is_written {
                return Ok(());
            }
        }
        self.know_all(inode).await.map_err(|error| self.faults.pass(error))?;
        let (attributes, etag, len) = {
            let state = inode.state();
            (state.attributes.clone(), state.etag(), state.len)
        };
        if attributes.kind == Kind::Directory {
            return self.save_directory(inode, &attributes).await;
        }
        let Some(etag) = etag else { return Ok(()) };
        let key = self.tree.file_key(inode.ino);
        let options = attributes.to_write_options()?;
        let moving = self.objects.moving(&key);
        let with = CopyWith::these(options);
        let new_etag = match self.copy_object(&key, &etag, len, &key, with).await {
            Ok(etag) => etag,
            Err(error) if matches!(error.errno, libc::ESTALE | libc::ENOENT) => {
                // The version that they belong to is gone: the version that replaced it counts.
                let mut state = inode.state();
                state.unsaved = false;
                state.valid_until = Instant::now();
                drop(state);
                self.settle_attributes(inode, &key)?;
                return Err(error);
            }
            Err(error) => return Err(self.faults.pass(error)),
        };
        let copy = Stored { key: &key, etag: &new_etag, len, class: None };
        self.objects.attributes_saved(&etag, copy, &attributes);
        drop(moving);
        if let Some(followed) = self.follow_copy(inode, &key, new_etag, len) {
            self.journal.append(followed)?;
        }
        {
            let mut state = inode.state();
            state.unsaved &= state.attributes != attributes;
        }
        seam::pass_at("attributes-saved", || key.to_string()).await;
        self.settle_attributes(inode, &key)?;
        self.tree.inodes.settle(inode.ino);
        Ok(())
    }

    async fn save_directory(&self, inode: &Arc<Inode>, attributes: &Attributes) -> Result<()> {
        let key: Key = self.tree.directory_key(inode.ino);
        if !key.as_bytes().is_empty() {
            self.put_marker(&key, attributes, Precondition::None).await?;
            self.tree.catalog.directory_put(&key, attributes);
        }
        {
            let mut state = inode.state();
            state.marker = true;
            state.unsaved = state.attributes != *attributes;
        }
        self.settle_attributes(inode, &key)?;
        self.tree.inodes.settle(inode.ino);
        Ok(())
    }
}

/// A mode without its set-user-id bit, and without its set-group-id bit where that is one (without
/// permission to execute for the group it means locking).
pub fn without_set_id(mode: u32) -> u32 {
    let group = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    mode & !(libc::S_ISUID | group)
}
