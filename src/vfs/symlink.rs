//! Symbolic links, pipes and sockets: objects whose mode says so, as s3fs keeps them; a link's body is its
//! target.

use super::error::{Result, VfsError};
use super::inode::new_state;
use super::{Caller, FileAttributes, Vfs};
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::{Stored, name};
use crate::store::{ErrorKind, Precondition, StoreError};

/// PATH_MAX: no link can be followed that is longer.
const TARGET_BYTES_MAX: usize = 4096;

impl Vfs {
    /// symlink(2).
    pub async fn symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        target: &[u8],
    ) -> Result<FileAttributes> {
        self.refuse_if_read_only()?;
        if target.len() >= TARGET_BYTES_MAX {
            return Err(VfsError::plain(libc::ENAMETOOLONG));
        }
        let group = self.group_for_new(parent, caller);
        let mut attributes = Attributes::new(Kind::Symlink, 0o777, caller.uid, group, self.now());
        attributes.change_extra(|extra| extra.target = Some(target.to_vec()));
        self.make_node(parent, name, attributes, target).await
    }

    /// mknod(2) of a pipe or a socket: the kernel serves them, the bucket keeps their names, as s3fs does.
    pub async fn make_pipe_or_socket(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        kind: Kind,
        permissions: u32,
    ) -> Result<FileAttributes> {
        self.refuse_if_read_only()?;
        let group = self.group_for_new(parent, caller);
        let attributes = Attributes::new(kind, permissions, caller.uid, group, self.now());
        self.make_node(parent, name, attributes, b"").await
    }

    /// A small object that is stored at once, and must be new.
    async fn make_node(
        &self,
        parent: u64,
        name: &[u8],
        attributes: Attributes,
        body: &[u8],
    ) -> Result<FileAttributes> {
        let _entered = self.subtrees.enter(&self.inodes, [parent, parent]).await;
        let key = name::file_key(&self.inodes.directory_key(parent), name)?;
        if self.find_child(parent, name).await?.is_some() {
            return Err(VfsError::plain(libc::EEXIST));
        }
        let options = attributes.to_write_options()?.marked();
        let etag = self
            .store
            .put(&key, bytes::Bytes::copy_from_slice(body), &options, &self.if_new())
            .await
            .map_err(|error| self.exists_or_fault(error))?;
        let len = body.len() as u64;
        let object = Stored { key: &key, etag: &etag, len, class: None };
        self.objects.published(object, &attributes, None);
        let mut state = new_state(attributes, len, Some(&etag));
        state.valid_until = self.fresh_until();
        let inode = self.inodes.insert_held(parent, name, state);
        self.touch_directory(parent);
        Ok(self.attributes_of(&inode))
    }

    /// Under what condition a name is made, so that of two machines one is first.
    pub(super) fn if_new(&self) -> Precondition {
        match self.store.capabilities().conditional_writes {
            true => Precondition::Absent,
            false => Precondition::None,
        }
    }

    /// What a refused creation means: another machine was first.
    pub(super) fn exists_or_fault(&self, error: StoreError) -> VfsError {
        match error.kind {
            ErrorKind::PreconditionFailed => VfsError::plain(libc::EEXIST),
            _ => self.fault(error),
        }
    }

    /// readlink(2).
    pub async fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inodes.get(ino)?;
        if inode.kind() != Kind::Symlink {
            return Err(VfsError::plain(libc::EINVAL));
        }
        if let Some(target) = &inode.state().attributes.extra().target {
            return Ok(target.clone());
        }
        let (etag, len) =
            self.stored_version(&inode).ok_or_else(|| VfsError::plain(libc::ENOENT))?;
        if len as usize >= TARGET_BYTES_MAX {
            return Err(VfsError::plain(libc::ENAMETOOLONG));
        }
        let key = self.inodes.file_key(ino);
        let object = self.cache.object(&key, &etag, len);
        let target = object
            .read(Self::whole(len), self.deadline())
            .await
            .map_err(|error| self.fault(error))?
            .as_ref()
            .to_vec();
        inode.state().attributes.change_extra(|extra| extra.target = Some(target.clone()));
        Ok(target)
    }
}
