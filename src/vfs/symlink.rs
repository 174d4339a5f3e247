//! Symbolic links: objects whose mode says so and whose body is the target, as s3fs keeps them.

use super::error::{Result, VfsError};
use super::inode::new_state;
use super::{Caller, FileAttributes, Vfs};
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::name;
use crate::store::{ListedObject, Precondition};

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
        let key = name::file_key(&self.inodes.directory_key(parent), name)?;
        if self.find_child(parent, name).await?.is_some() {
            return Err(VfsError::plain(libc::EEXIST));
        }
        let group = self.group_for_new(parent, caller);
        let mut attributes = Attributes::new(Kind::Symlink, 0o777, caller.uid, group, self.now());
        let options = attributes.to_write_options()?;
        let body = bytes::Bytes::copy_from_slice(target);
        let etag = self
            .store
            .put(&key, body, &options, &Precondition::None)
            .await
            .map_err(|error| self.fault(error))?;
        attributes.target = Some(target.to_vec());
        let len = target.len() as u64;
        self.memory.put(&key, &etag, None, &attributes);
        self.listings.note_put(ListedObject {
            key,
            etag: etag.clone(),
            len,
            last_modified: self.now(),
            storage_class: None,
        });
        let mut state = new_state(attributes, len, Some(etag));
        state.valid_until = self.fresh_until();
        let inode = self.inodes.insert(parent, name, state);
        self.touch_directory(parent);
        self.inodes.looked_up(inode.ino);
        Ok(self.attributes_of(&inode))
    }

    /// readlink(2).
    pub async fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inodes.get(ino)?;
        if inode.kind() != Kind::Symlink {
            return Err(VfsError::plain(libc::EINVAL));
        }
        if let Some(target) = &inode.state().attributes.target {
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
        inode.state().attributes.target = Some(target.clone());
        Ok(target)
    }
}
