//! What an object carries beside its bytes, known as a whole before it is replaced: a write gives all of it anew, and
//! what it does not give is lost.
//!
//! Objects that were asked for by a HEAD or written here are known as a whole; those that a listing has shown, or
//! that the cache folder remembers, are not, and cost a HEAD before the first write.

use std::sync::Arc;

use super::contents::Versions;
use super::copy::is_gone;
use crate::namespace::attributes::{Attributes, Kind, Told};
use crate::namespace::content_type;
use crate::store::{Carried, Key, Storage, StoreError, Tags};
use crate::vfs::error::Result;
use crate::vfs::tree::Inode;
use crate::writer::Draft;

impl Versions {
    /// Asks for what is not known of an inode's object, before it is copied onto itself or to another name. Its tags
    /// go along by themselves. The caller holds the operation lock.
    pub async fn know_all(&self, inode: &Arc<Inode>) -> Result<(), StoreError> {
        if inode.state().attributes.told == Told::All {
            return Ok(());
        }
        let key = self.key_of_object(inode);
        let all = match self.store.head(&key).await {
            Ok(head) => {
                let marker = inode.kind() == Kind::Directory;
                Attributes::from_head(&head, marker, &self.settings.defaults)
            }
            // There is nothing that could be lost.
            Err(error) if is_gone(&error) => {
                let mut all = inode.state().attributes.clone();
                all.told = Told::All;
                all
            }
            Err(error) => return Err(error),
        };
        let mut state = inode.state();
        state.attributes.complete(&all);
        tell_draft(&state.attributes, state.used().draft.as_deref());
        Ok(())
    }

    /// Likewise before its bytes are written anew, which takes the tags themselves.
    pub async fn know_all_to_write(&self, inode: &Arc<Inode>) -> Result<(), StoreError> {
        self.know_all(inode).await?;
        let counted = |carried: &Carried| matches!(carried.tags, Tags::Counted(_));
        let is_counted = inode.state().attributes.extra().carried.as_deref().is_some_and(counted);
        if !is_counted {
            return Ok(());
        }
        let tags = match self.store.tags(&self.key_of_object(inode)).await {
            Ok(tags) => tags,
            Err(error) if is_gone(&error) => Tags::None,
            Err(error) => return Err(error),
        };
        let mut state = inode.state();
        state.attributes.change_extra(|extra| {
            let carried = extra.carried.as_deref().cloned().unwrap_or_default();
            extra.carry(Carried { tags, ..carried });
        });
        tell_draft(&state.attributes, state.used().draft.as_deref());
        Ok(())
    }

    /// As [`Versions::know_all_to_write`], where a write begins: under write-back an outage is worked through, and what is
    /// not known is asked for before the file is sent.
    pub async fn know_all_to_begin(&self, inode: &Arc<Inode>) -> Result<()> {
        let known = self.know_all_to_write(inode).await.map_err(|error| self.faults.pass(error));
        match known {
            Err(error) if error.unanswered && self.settings.write_back => Ok(()),
            known => known,
        }
    }

    /// How the store keeps a file's object, as far as it is known without a request.
    pub fn storage_of(&self, inode: &Inode) -> Storage {
        let told = {
            let state = inode.state();
            (state.attributes.told == Told::All).then(|| state.attributes.extra().storage())
        };
        told.unwrap_or_else(|| {
            let (dir, name) = self.tree.place(inode.ino);
            let class = self.tree.catalog.storage_class(&dir, &name);
            Storage { class, ..Storage::default() }
        })
    }

    /// The content type that a file gets with a new name: as the name tells, unless another tool has given it one.
    pub fn type_by_name(&self, inode: &Inode, new_name: &[u8]) -> Option<&'static str> {
        let (_, name) = self.tree.place(inode.ino);
        let state = inode.state();
        let attributes = &state.attributes;
        let is_known = attributes.kind == Kind::File && attributes.told == Told::All;
        let known = attributes.extra().content_type.as_deref();
        let wanted = content_type::renamed(known, &name, new_name);
        wanted.filter(|_| is_known && self.settings.content_type)
    }

    /// The file's content is begun anew: it need not be encoded as the one before was. All else is the file's, and
    /// stays.
    pub fn begins_anew(&self, inode: &Inode) {
        let mut state = inode.state();
        let encoded = |carried: &Carried| carried.headers.contains_key("content-encoding");
        if state.attributes.extra().carried.as_deref().is_some_and(encoded) {
            state.attributes.change_extra(|extra| {
                let mut carried = extra.carried.as_deref().cloned().unwrap_or_default();
                carried.headers.remove("content-encoding");
                extra.carry(carried);
            });
            tell_draft(&state.attributes, state.used().draft.as_deref());
        }
    }

    fn key_of_object(&self, inode: &Inode) -> Key {
        match inode.kind() {
            Kind::Directory => self.tree.directory_key(inode.ino),
            _ => self.tree.file_key(inode.ino),
        }
    }
}

fn tell_draft(attributes: &Attributes, draft: Option<&Draft>) {
    // They fitted before: their metadata is the same.
    if let (Some(draft), Ok(options)) = (draft, attributes.to_write_options()) {
        draft.set_options(options);
    }
}
