//! A draft becomes an object, or nothing.

use std::sync::Arc;

use super::contents::Versions;
use crate::clock::{self, Instant};
use crate::namespace::Stored;
use crate::namespace::attributes::Attributes;
use crate::progress::any_other;
use crate::store::{CompactTag, ObjectHead};
use crate::vfs::error::Result;
use crate::vfs::tree::{Inode, InodeState};
use crate::writer::{Draft, Published};

impl Versions {
    /// Makes the draft an object, and the inode its picture. The caller holds the operation lock.
    pub async fn publish(&self, inode: &Arc<Inode>, draft: &Arc<Draft>) -> Result<()> {
        self.know_all_to_write(inode).await.map_err(|error| self.tree.fault_of(inode, error))?;
        let published = any_other(draft.publish()).await;
        let published = published.map_err(|error| self.tree.fault_of(inode, error))?;
        if let Some(published) = published {
            self.adopt_published(inode, &published);
        }
        Ok(())
    }

    /// The draft may have become an object before it was closed: so that it could be read back or cut, or before
    /// a patch that failed. The inode is told, if it still has its name. The caller holds the operation lock.
    pub fn adopt_on_the_way(&self, inode: &Inode, draft: &Draft) {
        let is_named = !inode.state().unlinked;
        if let Some(published) = draft.take_published().filter(|_| is_named) {
            self.adopt_published(inode, &published);
        }
    }

    /// The draft has become an object: the inode, the listing and the attribute cache follow.
    pub fn adopt_published(&self, inode: &Inode, published: &Published) {
        let written = self.attributes_from_options(published);
        let replaced = {
            let mut state = inode.state();
            state.attributes.complete(&written);
            let replaced = state.etag.replace(CompactTag::new(&published.etag));
            state.read_anew();
            state.used_mut().stored = Some(clock::wall());
            state.len = published.len;
            state.shadows = false;
            state.valid_until = self.settings.fresh_until();
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
        if let Err(error) = self.settle_attributes(inode, &published.key) {
            // They are saved all the same, unless the process is killed in the moment before.
            log::warn!("{}: {error}", published.key);
        }
    }

    fn attributes_from_options(&self, published: &Published) -> Attributes {
        let head = ObjectHead {
            etag: published.etag.clone(),
            len: published.len,
            last_modified: self.tree.catalog.just_written(),
            metadata: published.options.metadata.clone(),
            content_type: published.options.content_type.clone(),
            carried: published.options.carried.clone().unwrap_or_default(),
            version_id: None,
            sum: None,
            archived: None,
        };
        Attributes::from_head(&head, false, &self.settings.defaults)
    }

    /// An upload keeps the metadata that it was begun with. If only the time of the last write differs,
    /// that is what the file's time is, here too, so that every machine sees the same; what the program
    /// set by its own word is saved by a copy.
    fn settle_written(&self, state: &mut InodeState, written: &Attributes) {
        let mut same_but_time = state.attributes.clone();
        same_but_time.mtime = written.mtime;
        if same_but_time == *written && !state.times_set {
            state.attributes.mtime = written.mtime;
        } else {
            state.unsaved = true;
        }
    }

    /// The inode has lost its name: nothing of it is published or saved any more. The caller holds the operation lock,
    /// without which nothing is published, so the journal may be told after the inode. A draft that is begun meanwhile
    /// finds the inode unlinked (see [`Versions::draft_for`]).
    pub fn detach(&self, inode: &Inode) -> Result<()> {
        let draft = {
            let mut state = inode.state();
            state.unlinked = true;
            state.ctime = clock::wall();
            state.unsaved = false;
            state.used().draft.clone()
        };
        Ok(draft.map_or(Ok(()), |draft| draft.forbid_publishing())?)
    }

    /// What was published before it was to be needs no draft, unless it is open to be written.
    pub fn let_go_of_published(&self, inode: &Inode) {
        let mut state = inode.state();
        let is_clean = state.used().draft.as_ref().is_some_and(|draft| !draft.is_dirty());
        if is_clean && state.used().open.writers == 0 {
            state.used_mut().draft = None;
        }
    }

    /// The inode's draft is gone; `failed`: before it was in the store, whose word counts again.
    pub fn forget_draft(&self, inode: &Arc<Inode>, failed: bool) {
        let never_stored = {
            let mut state = inode.state();
            state.used_mut().draft = None;
            if failed {
                state.valid_until = Instant::now();
            }
            failed && state.etag.is_none() && !state.shadows
        };
        let (dir, name) = self.tree.place(inode.ino);
        if failed {
            self.tree.catalog.withdraw_local(&dir, &name);
            self.files.kernel_forgets_all_soon(inode);
        }
        if never_stored && let Some((parent, name)) = self.tree.inodes.place(inode.ino) {
            self.tree.inodes.unname(parent, &name);
            self.files.kernel_forgets_name_soon(parent, name);
        }
    }
}
