//! The file system: one method for each operation, with no kernel in sight.
//!
//! This is the façade: a method here says what its call does, and passes it to the part that does it.
//!
//! | | |
//! |---|---|
//! | `tree/` | inodes by number and by name, look-ups, open directories, operation locks |
//! | `handles/` | open files, and how the kernel moves their bytes |
//! | `versions/` | what an inode holds: the object in the store, the draft that is to be the next |
//! | `ops/` | the operations on files, one file a subject |
//! | `background/` | sends closed files, saves changed attributes |
//! | `objects` | tells what becomes of objects to all that remember something of them |
//! | `recover/` | what a crash left, one method a step of `recovery` |
//! | `report` | what the file system tells of itself |
//!
//! `assemble` puts them together. Each uses those below it: `ops` all of them, `background` the versions, they the open
//! files, those the tree.
//!
//! Consistency: close-to-open. What this mount changes is seen at once by this mount; what others
//! change, within --metadata-ttl. An open file shows what is written to it here, by whichever handle, and
//! keeps the version that was opened where it is replaced elsewhere: that is another file, with an inode of its own.
//! In an outage what only looks may be told what was known before it (`Freshness`); what changes something is not.
//! Retries: the store's. Cancellation: operations run to their end though the program was killed.
//! Crash: see `writer` and `recover`.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Depth, Piece, Verdict};
use crate::namespace::attributes::Kind;
use crate::store::undelete::Undeleted;
use crate::store::{Key, ListedVersion, looking};
use crate::writer::{DraftProgress, Parked};

mod assemble;
mod background;
pub mod error;
mod faults;
mod handles;
mod objects;
mod ops;
mod parts;
mod recover;
mod report;
mod request;
mod settings;
mod tree;
mod versions;

pub use crate::writer::Seek;
pub use assemble::Vfs;
pub use error::{Result, VfsError};
pub use handles::{KernelCache, OpenMode, Opened, Transport};
pub use ops::read::ReadBytes;
pub use ops::setattr::Changes;
pub use ops::xattr::SetXattr;
pub use parts::Parts;
pub use report::Seen;
pub use request::{Caller, FileAttributes};
pub use settings::VfsSettings;
pub use tree::Entry;

use ops::{
    close, directory, file, history, ranges, read, rename, setattr, symlink, unlink, verify, xattr,
};

/// Names and attributes.
impl Vfs {
    pub fn settings(&self) -> &VfsSettings {
        &self.settings
    }

    /// The kernel holds a reference to what is returned. `None`: there is no such name.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<FileAttributes>> {
        looking(self.tree.lookup(parent, name)).await
    }

    /// How long the kernel may believe that there is no such name.
    pub fn absent_for(&self) -> Duration {
        if self.serves_stale() { Duration::ZERO } else { self.settings.believed_for() }
    }

    /// Whether there is an outage in which names and attributes are told beyond their TTL.
    pub fn serves_stale(&self) -> bool {
        self.parts.catalog.freshness().is_stale()
    }

    /// The kernel drops `count` references.
    pub fn forget(&self, ino: u64, count: u64) {
        self.tree.inodes.forget(ino, count);
    }

    /// stat(2).
    pub async fn getattr(&self, ino: u64) -> Result<FileAttributes> {
        looking(self.tree.getattr(ino)).await
    }

    /// truncate(2), chmod(2), chown(2), utimensat(2).
    pub async fn setattr(
        &self,
        ino: u64,
        fh: Option<u64>,
        changes: Changes,
    ) -> Result<FileAttributes> {
        setattr::setattr(self, ino, fh, changes).await
    }

    /// getxattr(2): `user.*`, and `user.ratchetfs.*`, which tells what this mount knows of a file.
    pub async fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        looking(xattr::getxattr(self, ino, name)).await
    }

    /// listxattr(2): names, each ended by a NUL.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<u8>> {
        xattr::listxattr(self, ino)
    }

    /// setxattr(2). ENOSPC beyond the store's 2 KiB of metadata.
    pub async fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        xattr::setxattr(self, ino, name, value, how).await
    }

    /// removexattr(2).
    pub async fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        xattr::removexattr(self, ino, name).await
    }

    /// symlink(2).
    pub async fn symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        target: &[u8],
    ) -> Result<FileAttributes> {
        symlink::symlink(self, caller, parent, name, target).await
    }

    /// mknod(2) of a pipe or a socket.
    pub async fn make_pipe_or_socket(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        kind: Kind,
        permissions: u32,
    ) -> Result<FileAttributes> {
        symlink::make_pipe_or_socket(self, caller, parent, name, kind, permissions).await
    }

    /// readlink(2).
    pub async fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        looking(symlink::readlink(self, ino)).await
    }

    /// rename(2) with renameat2's flags.
    pub async fn rename(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
    ) -> Result<()> {
        rename::rename(self, parent, name, new_parent, new_name, flags).await
    }

    /// unlink(2). The content of an open file lives until its last close.
    pub async fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        unlink::unlink(self, parent, name).await
    }
}

/// Directories.
impl Vfs {
    /// mkdir(2): a marker, so that the directory outlives the mount while it is empty.
    pub async fn mkdir(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        permissions: u32,
    ) -> Result<FileAttributes> {
        directory::mkdir(self, caller, parent, name, permissions).await
    }

    /// rmdir(2).
    pub async fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        directory::rmdir(self, parent, name).await
    }

    /// opendir(3).
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        self.directories.opendir(ino)
    }

    /// Yields the entries behind `offset` until `emit` says that it is full, or the end.
    pub async fn readdir(
        &self,
        fh: u64,
        offset: u64,
        emit: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        looking(self.directories.readdir(fh, offset, emit)).await
    }

    /// As [`Vfs::readdir`], with attributes; the kernel holds a reference to each entry that was emitted,
    /// but for the dots.
    pub async fn readdir_plus(
        &self,
        fh: u64,
        offset: u64,
        emit: impl FnMut(Entry<'_>, &FileAttributes) -> bool,
    ) -> Result<()> {
        looking(self.directories.readdir_plus(fh, offset, emit)).await
    }

    /// closedir(3).
    pub fn releasedir(&self, fh: u64) {
        self.directories.releasedir(fh);
    }

    /// fsync(2) of a directory.
    pub async fn fsyncdir(&self, ino: u64) -> Result<()> {
        close::fsyncdir(self, ino).await
    }
}

/// Open files.
impl Vfs {
    /// open(2). Where the inode has lost its name since the kernel heard of it, what has the name now is opened.
    pub async fn open(&self, caller: Caller, ino: u64, mode: OpenMode) -> Result<Opened> {
        let open = file::open(self, caller, ino, mode);
        if mode.write { open.await } else { looking(open).await }
    }

    /// open(2) with O_CREAT: creates a file and opens it. Nothing is sent until there is something to send.
    pub async fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        permissions: u32,
        mode: OpenMode,
    ) -> Result<(FileAttributes, Opened)> {
        file::create(self, caller, parent, name, permissions, mode).await
    }

    /// read(2), where no waiting is needed: `None` otherwise.
    pub fn read_now(&self, fh: u64, offset: u64, len: u32) -> Option<Piece> {
        read::read_now(self, fh, offset, len)
    }

    /// read(2): fewer bytes than asked only at the end of the file. The caller has the log know of an error.
    pub async fn read(&self, fh: u64, offset: u64, len: u32) -> Result<ReadBytes> {
        looking(read::read(self, fh, offset, len)).await
    }

    /// write(2), as far as no waiting is needed: returns the bytes taken. `page`: the kernel writes a page back.
    pub fn write_now(&self, fh: u64, offset: u64, bytes: &[u8], page: bool) -> Result<usize> {
        file::write_now(self, fh, offset, bytes, page)
    }

    /// Copies what [`Vfs::write_now`] did not take, to be written by [`Vfs::write`].
    pub fn park(&self, bytes: &[u8]) -> Parked {
        self.parts.writers.park(bytes)
    }

    /// write(2): all of it, waiting for room where there is none.
    pub async fn write(&self, fh: u64, offset: u64, bytes: &Parked, page: bool) -> Result<()> {
        file::write(self, fh, offset, bytes, page).await
    }

    /// The kernel asks for it with a write by a process without privileges.
    pub fn drop_set_id_of(&self, fh: u64) -> Result<()> {
        self.versions.drop_set_id(&self.files.handles.file(fh)?.inode)
    }

    /// fallocate(2).
    pub async fn fallocate(&self, fh: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        ranges::fallocate(self, fh, offset, len, mode).await
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    pub async fn seek(&self, fh: u64, offset: i64, what: Seek) -> Result<i64> {
        ranges::seek(self, fh, offset, what).await
    }

    /// copy_file_range(2) inside the store: returns the bytes that were copied.
    pub async fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64> {
        ranges::copy_file_range(self, from, to, len).await
    }

    /// close(2): the object is complete in the store when this returns, or safe on the disk
    /// (write-back), or this is an error.
    pub async fn flush(&self, fh: u64, pid: u32) -> Result<()> {
        close::flush(self, fh, pid).await
    }

    /// fsync(2).
    pub async fn fsync(&self, fh: u64) -> Result<()> {
        close::fsync(self, fh).await
    }

    /// The last use of a handle is over. The kernel does not wait for the answer.
    pub async fn release(&self, fh: u64) {
        close::release(self, fh).await;
    }

    /// How the kernel is told what it has to forget. Without it, it is not.
    pub fn tell_kernel_by(&self, kernel: Arc<dyn KernelCache>) {
        self.files.tell_kernel_by(kernel);
    }
}

/// What commands ask.
impl Vfs {
    /// How far the file at `path`, below the mount point, is proven by checksums: reads and compares.
    pub async fn verify(&self, path: &[u8], depth: Depth) -> Result<Verdict> {
        verify::verify(self, path, depth).await
    }

    /// The key of the file at `path`, below the mount point, and all versions that the bucket has of it, the newest first.
    pub async fn versions(&self, path: &[u8]) -> Result<(Key, Vec<ListedVersion>)> {
        history::versions(self, path).await
    }

    /// Brings back the file at `path`, below the mount point, that was deleted.
    pub async fn undelete(&self, path: &[u8]) -> Result<(Key, Undeleted)> {
        history::undelete(self, path).await
    }
}

/// Closed files that wait for the store.
impl Vfs {
    /// Waits until every closed file is in the store, or will not get there, and every unlinked one gone. `progress`
    /// is told how many are left.
    pub async fn drain(&self, progress: impl FnMut(usize)) {
        self.saver.save_all_pending().await;
        self.write_back.drain(progress).await;
    }

    /// `uploads resume`: tries the waiting files again, all or those of the given keys.
    pub fn resume_uploads(&self, keys: &[Key]) -> usize {
        self.write_back.resume_uploads(keys)
    }

    /// `uploads abort KEY`: drops a file that was closed and is not in the store. `None` where there is no such file.
    ///
    /// # Errors
    /// EBUSY where it is open for writing, or a request for it does not end.
    pub async fn drop_closed(&self, key: &Key) -> Result<Option<DraftProgress>> {
        self.write_back.drop_closed(key).await
    }
}
