//! What a crash left, put right by the next mount before the first request; but for what takes long: what is
//! staged is compared with its checksums while requests are served, and a request for a file waits for that one.
//! The order is `recovery`'s.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::assemble::Vfs;
use super::interrupted;
use super::ops::{rename_log, unlink};
use crate::clock;
use crate::disk;
use crate::journal::{ChangedAttributes, Draft as DraftState, DraftId, Record, Sealed};
use crate::namespace::attributes::{Attributes, Kind, Told};
use crate::namespace::name;
use crate::staging::StagingFile;
use crate::store::{Carried, ETag, Key, MARK, Metadata, ObjectHead};
use crate::vfs::error::{Result, VfsError};
use crate::vfs::tree::{Inode, ROOT_INO, new_state};
use crate::vfs::versions::is_gone;
use crate::writer::{Base, Draft};

/// A file that is back in the tree, and not compared with its checksums yet.
struct Restored {
    inode: Arc<Inode>,
    draft: Arc<Draft>,
    /// What was synced under the same name before it, which is worth nothing if it is as it was written.
    before: Vec<DraftId>,
}

impl Vfs {
    /// Asks the store whether renames and removals of files were done.
    pub(crate) async fn settle_file_renames(&self) -> Result<()> {
        interrupted::settle_file_renames(self).await
    }

    /// Finishes directory renames that a crash interrupted.
    pub(crate) async fn finish_interrupted_renames(&self) -> Result<()> {
        interrupted::finish_interrupted_renames(self).await
    }

    /// Once more, for what the store would not tell when the mount was made.
    pub(crate) async fn restore_what_was_left_out(self: &Arc<Self>) -> Result<()> {
        if !interrupted::perhaps_replaced(self).is_empty() {
            interrupted::settle_file_renames(self).await?;
            self.restore_promised_files()?;
        }
        Ok(())
    }

    /// Brings back what must be there before the first request is served: what was closed, and under write-back
    /// what was synced. Asks nothing of the store.
    pub(crate) fn restore_promised_files(self: &Arc<Self>) -> Result<usize> {
        let left_out = interrupted::perhaps_replaced(self);
        let found = self.parts.uploads.interrupted.find(|id, draft| {
            let is_promised =
                draft.life.is_closed() || (draft.sealed().is_some() && self.settings.write_back);
            (is_promised && !left_out.contains(&id)).then(|| (id, draft.clone()))
        });
        let mut promised: BTreeMap<Key, Vec<(DraftId, DraftState)>> = BTreeMap::new();
        for (id, draft) in found {
            promised.entry(draft.key.clone()).or_default().push((id, draft));
        }
        // What is back already keeps what was synced before it from coming back, until it is checked.
        self.parts.writers.live().iter().filter(|draft| draft.is_dirty()).for_each(|draft| {
            promised.remove(&draft.key());
        });
        let mut restored = Vec::new();
        for mut drafts in promised.into_values() {
            drafts.sort_by_key(|(id, _)| *id);
            let Some((id, draft)) = drafts.pop() else { continue };
            match self.restore(id, &draft) {
                Ok(file) => {
                    let before = drafts.into_iter().map(|(id, _)| id).collect();
                    restored.push(Restored { before, ..file });
                }
                Err(error) => self.cannot_be_brought_back(id, &draft.key, &error.to_string())?,
            }
        }
        let count = restored.len();
        self.check_in_background(restored);
        Ok(count)
    }

    fn cannot_be_brought_back(&self, id: DraftId, key: &Key, cause: &str) -> Result<()> {
        log::error!("{key}: cannot be brought back: {cause}");
        Ok(self.parts.journal.append(Record::DraftFailed { draft: id, cause: cause.to_owned() })?)
    }

    /// Sees to it that files that are back in the tree are compared with their checksums, oldest first, and sent.
    fn check_in_background(self: &Arc<Self>, mut restored: Vec<Restored>) {
        restored.sort_by_key(|file| file.draft.id());
        if !self.settings.read_only {
            restored.iter().for_each(|file| {
                self.write_back.waiting.hold(file.inode.ino, file.draft.len());
            });
        }
        let vfs = Arc::downgrade(self);
        self.runtime.spawn(async move {
            for file in restored {
                let Some(vfs) = vfs.upgrade() else { return };
                if let Err(error) = vfs.check_restored(&file).await {
                    log::error!("{}: {error}", file.draft.key());
                }
            }
        });
    }

    /// What is as it was written is sent. What is not leaves the tree, and is kept: `uploads resume` tries again.
    async fn check_restored(self: &Arc<Self>, file: &Restored) -> Result<()> {
        let Restored { inode, draft, before } = file;
        let Err(error) = draft.verified().await else {
            // Synced under the same name before it, by programs that did not come to its end.
            for before in before {
                self.parts.journal.append(Record::DraftUnlinked { draft: *before })?;
            }
            if !self.settings.read_only {
                self.write_back.waiting.push(inode.ino, draft.len());
            }
            return Ok(());
        };
        self.write_back.waiting.let_go(inode.ino);
        let _operation = self.tree.operation_on(inode).await;
        let stands = inode.draft().is_some_and(|standing| Arc::ptr_eq(&standing, draft));
        if !stands {
            return Ok(());
        }
        // Its writers hear of it with each call, and with the close.
        if inode.state().used().open.writers == 0 {
            self.versions.forget_draft(inode, true);
            self.tree.inodes.settle(inode.ino);
        }
        self.cannot_be_brought_back(draft.id(), &draft.key(), &error.to_string())
    }

    /// Attributes that were about to be saved belong to one version. Where the store has another one by now, it has
    /// been written since, with attributes of its own; or it is the copy that saves them, which was made in the
    /// moment of the crash: what was written of the file meanwhile modifies that one.
    pub(crate) async fn settle_attributes(&self) -> Result<()> {
        if self.settings.read_only {
            return Ok(());
        }
        let changed: Vec<(Key, ETag, ChangedAttributes)> = self.parts.journal.read(|state| {
            let of_files = state.attributes.iter().filter_map(|(key, changed)| {
                Some((key.clone(), changed.etag.clone()?, changed.clone()))
            });
            of_files.collect()
        });
        let heads = futures_util::stream::iter(changed).map(|(key, etag, changed)| async move {
            let head = self.parts.store.head(&key).await;
            (key, etag, changed, head)
        });
        let mut heads = heads.buffer_unordered(self.settings.concurrency);
        while let Some((key, etag, changed, head)) = heads.next().await {
            let head = match head {
                Ok(head) if head.etag == etag => continue,
                Ok(head) => Some(head),
                Err(error) if is_gone(&error) => None,
                // They are believed until the store tells.
                Err(_) => return Ok(()),
            };
            let saved = head.filter(|head| {
                let unmarked = |metadata: &Metadata| {
                    let own = metadata.clone().into_iter().filter(|(name, _)| name != MARK);
                    own.collect::<Metadata>()
                };
                head.len == changed.len && unmarked(&head.metadata) == unmarked(&changed.metadata)
            });
            let followed = saved
                .into_iter()
                .flat_map(|copy| rename_log::followed(self, (&key, &etag), (&key, &copy.etag)));
            let mut records: Vec<Record> = followed.collect();
            records.push(Record::AttributesSaved { key });
            self.parts.journal.append_all(&records)?;
        }
        Ok(())
    }

    /// Attributes that the store did not get before the crash are what stat says, and are saved now.
    pub(crate) fn restore_attributes(&self) -> Result<()> {
        let changed: Vec<(Key, ChangedAttributes)> = self.parts.journal.read(|state| {
            state.attributes.iter().map(|(key, changed)| (key.clone(), changed.clone())).collect()
        });
        for (key, changed) in changed {
            let is_directory = key.as_bytes().ends_with(b"/");
            let name_of = Key::new(key.as_bytes().strip_suffix(b"/").unwrap_or(key.as_bytes()));
            let Ok((parent, name)) = self.directories_to(&name_of) else {
                self.objects.attributes_settled(&key);
                continue;
            };
            let head = ObjectHead {
                etag: changed.etag.clone().unwrap_or_else(|| crate::store::ETag::new("")),
                len: changed.len,
                last_modified: clock::wall(),
                metadata: changed.metadata,
                content_type: None,
                carried: Carried::default(),
                version_id: None,
            };
            let mut attributes =
                Attributes::from_head(&head, is_directory, &self.settings.defaults);
            attributes.told = Told::Metadata;
            let inode = self.tree.inodes.child_or_insert(parent, &name, || {
                new_state(attributes.clone(), changed.len, changed.etag.as_ref())
            });
            let mut state = inode.state();
            if state.used().draft.is_none() {
                state.attributes = attributes;
                state.unsaved = true;
                if !self.settings.read_only {
                    self.versions.unsaved.note(inode.ino);
                }
            }
        }
        Ok(())
    }

    /// Puts a file that was safe on the disk back into the tree.
    fn restore(self: &Arc<Self>, id: DraftId, state: &DraftState) -> Result<Restored> {
        let sealed = state.sealed().ok_or_else(|| VfsError::plain(libc::ENOENT))?;
        let (parent, name) = self.directories_to(&state.key)?;
        let base = state.base.as_ref().map(|base| Base {
            key: state.key.clone(),
            etag: base.etag.clone(),
            len: base.len,
            object: self.parts.cache.object(&state.key, &base.etag, base.len),
        });
        let attributes = self.attributes_of_sealed(state, sealed);
        let draft = Draft::restore(&self.parts.writers, id, state, base)?;
        let etag = state.base.as_ref().map(|base| &base.etag);
        let mut inode_state = new_state(attributes, sealed.len, etag);
        inode_state.shadows = state.base.is_none();
        inode_state.used_mut().draft = Some(draft.clone());
        let inode = self.tree.inodes.insert(parent, &name, inode_state);
        self.tree.note_local_file(&inode);
        Ok(Restored { inode, draft, before: Vec::new() })
    }

    fn attributes_of_sealed(&self, state: &DraftState, sealed: &Sealed) -> Attributes {
        let head = ObjectHead {
            etag: crate::store::ETag::new(""),
            len: sealed.len,
            last_modified: state.begun,
            metadata: sealed.metadata.clone(),
            content_type: sealed.content_type.clone(),
            carried: sealed.carried.clone().unwrap_or_default(),
            version_id: None,
        };
        let mut attributes = Attributes::from_head(&head, false, &self.settings.defaults);
        if sealed.carried.is_none() {
            attributes.told = Told::Metadata;
        }
        attributes
    }

    /// The inodes of the directories above a key, made where they are not known; and the key's name.
    fn directories_to(&self, key: &Key) -> Result<(u64, Vec<u8>)> {
        let root = self.tree.directory_key(ROOT_INO);
        let below = key.as_bytes().strip_prefix(root.as_bytes()).unwrap_or_default();
        let mut segments: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
        let name = segments.pop().unwrap_or_default().to_vec();
        name::check_name(&name)?;
        let mut parent = ROOT_INO;
        for segment in segments {
            name::check_name(segment)?;
            let dir = self.tree.directory_key(parent);
            let defaults = &self.settings.defaults;
            let inode = self.tree.inodes.child_or_insert(parent, segment, || {
                new_state(Attributes::implicit_directory(clock::wall(), defaults), 0, None)
            });
            debug_assert_eq!(inode.kind(), Kind::Directory);
            let directory = name::directory_key(&dir, segment)?;
            self.parts.catalog.directory_implied(&directory);
            parent = inode.ino;
        }
        Ok((parent, name))
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.settings.read_only
    }

    /// Staging files of drafts that have ended go; those that the journal says nothing of are set aside.
    pub(crate) fn sweep_staging(&self) -> Result<()> {
        Ok(self.parts.journal.sweep_staging()?)
    }

    /// Deletes the temporary objects that are left.
    pub(crate) async fn delete_temporary_objects(&self) -> Result<()> {
        let left: Vec<Key> =
            self.parts.journal.read(|state| state.temporary_objects.iter().cloned().collect());
        for key in left {
            unlink::delete_temporary_object(self, &key).await?;
        }
        Ok(())
    }

    /// Known objects are not remembered for ever.
    pub(crate) fn forget_old_known_objects(&self, resume_expiry: Duration) {
        self.parts.uploads.known_objects.forget_older_than(resume_expiry);
    }

    /// Ends what unconfirmed creates have left in the store, for as long as there is a mount.
    pub(crate) async fn end_unconfirmed_creates(&self, resume_expiry: Duration) {
        self.parts.uploads.creates.end_unconfirmed(resume_expiry).await;
    }

    /// Ends interrupted uploads that were not taken up again, and drafts that hold nothing.
    pub(crate) async fn end_expired(&self, resume_expiry: Duration) {
        for upload in self.parts.uploads.interrupted.list() {
            let age = clock::age(upload.begun);
            // What was synced is a promise, though it be an empty file.
            let holds_nothing =
                upload.parts == 0 && upload.staged_bytes == 0 && upload.synced_len.is_none();
            let closed_and_failed = upload.cause.is_some() && upload.synced_len.is_some();
            if closed_and_failed || !(age > resume_expiry || holds_nothing) {
                continue;
            }
            match self.parts.uploads.interrupted.abort(upload.draft).await {
                Ok(()) => self.remove_staging(upload.draft),
                Err(error) => log::warn!("{}: not ended yet: {error}", upload.key),
            }
        }
    }

    /// The interrupted uploads.
    pub fn interrupted_uploads(&self) -> Vec<crate::upload::InterruptedUpload> {
        self.parts.uploads.interrupted.list()
    }

    /// `uploads abort`: ends the interrupted uploads of the given keys, or all.
    pub async fn abort_uploads(&self, keys: &[Key]) -> Result<usize> {
        let mut aborted = 0;
        for upload in self.parts.uploads.interrupted.list() {
            if keys.is_empty() || keys.contains(&upload.key) {
                self.parts.uploads.interrupted.abort(upload.draft).await?;
                self.remove_staging(upload.draft);
                aborted += 1;
            }
        }
        Ok(aborted)
    }

    /// `uploads resume`, for files that were synced and never closed: what was synced is published, unless
    /// the file is being written again.
    pub fn resume_synced(self: &Arc<Self>, keys: &[Key]) -> Result<usize> {
        let synced = self.parts.uploads.interrupted.find(|id, draft| {
            let is_wanted = keys.is_empty() || keys.contains(&draft.key);
            (draft.sealed().is_some() && is_wanted).then(|| (id, draft.clone()))
        });
        let mut resumed = Vec::new();
        let live: HashSet<Key> = self
            .parts
            .writers
            .live()
            .iter()
            .filter(|draft| draft.is_dirty())
            .map(|d| d.key())
            .collect();
        for (id, draft) in synced {
            if live.contains(&draft.key) {
                continue;
            }
            resumed.push(self.restore(id, &draft)?);
        }
        let count = resumed.len();
        self.check_in_background(resumed);
        Ok(count)
    }

    fn remove_staging(&self, draft: DraftId) {
        let path = StagingFile::path_of(&self.parts.writers.settings.staging_folder, draft);
        if let Err(error) = disk::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("{}: {error}", path.display());
        }
    }
}
